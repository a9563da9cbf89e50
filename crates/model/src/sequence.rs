//! One text that grows token by token.

use std::time::Duration;

use crate::sampler::{Sampler, SamplerConfig, SamplerScratch};
use crate::stream::{StopStrings, TextStream};
use crate::tokenizer::Tokenizer;
use crate::{ModelError, SequenceId};

/// Tokens of a text for which room is made before it begins. More is made as they come.
const RESERVED_TOKENS: usize = 1 << 20;

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// The most tokens.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampler: SamplerConfig,
    /// Strings that end the text and do not appear in it.
    pub stops: Vec<String>,
}

/// Why a text ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It has as many tokens as were asked for.
    Length,
    /// The model ended it.
    EndOfText,
    /// A stop string came.
    Stop(String),
    /// It was broken off: by the caller, or by an error that the caller got.
    Interrupted,
}

/// What turns logits into tokens and text, the same for all texts of a model.
pub(crate) struct Vocabulary<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    /// The tokens that end a text.
    pub(crate) ends: &'a [u32],
    pub(crate) scratch: &'a mut SamplerScratch,
}

/// A text that a [`crate::Generator`] makes: its tokens, how the next is chosen, and how far it has come.
#[derive(Debug)]
pub struct Sequence {
    id: SequenceId,
    sampler: Sampler,
    stream: TextStream,
    /// The prompt and all tokens since.
    history: Vec<u32>,
    prompt_tokens: usize,
    max_tokens: usize,
    /// How many of the latest tokens the session has not read.
    pending: usize,
    context_shifts: usize,
    finish: Option<Finish>,
}

impl Sequence {
    /// A text that follows `prompt`, which the session's sequence `id` has not read yet.
    pub(crate) fn new(id: SequenceId, prompt: &[u32], options: &GenerateOptions) -> Result<Self, ModelError> {
        let mut sampler = Sampler::new(options.sampler.clone())?;
        sampler.observe(prompt);
        let mut history = Vec::with_capacity(prompt.len() + options.max_tokens.min(RESERVED_TOKENS));
        history.extend_from_slice(prompt);
        Ok(Self {
            id,
            sampler,
            stream: TextStream::new(StopStrings::new(options.stops.iter().cloned())?),
            history,
            prompt_tokens: prompt.len(),
            max_tokens: options.max_tokens,
            pending: prompt.len(),
            context_shifts: 0,
            finish: None,
        })
    }

    /// The session's sequence that holds its tokens.
    pub fn id(&self) -> SequenceId {
        self.id
    }

    /// The prompt and the tokens generated since, an end-of-text token not counted.
    pub fn tokens(&self) -> &[u32] {
        &self.history
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Tokens generated, an end-of-text token not counted.
    pub fn generated_tokens(&self) -> usize {
        self.history.len() - self.prompt_tokens
    }

    /// How often the context was full, so that the text went on from its latest part alone.
    pub fn context_shifts(&self) -> usize {
        self.context_shifts
    }

    /// Why the text has ended; none while it goes on.
    pub fn finish(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }

    /// The tokens that the session must read before the next one can be chosen.
    pub(crate) fn pending(&self) -> &[u32] {
        &self.history[self.history.len() - self.pending..]
    }

    /// The session has read all tokens.
    pub(crate) fn was_read(&mut self) {
        self.pending = 0;
    }

    /// The session has to read the latest `count` tokens.
    pub(crate) fn read_anew(&mut self, count: usize) {
        self.pending = count.min(self.history.len());
    }

    /// The text goes on from its latest `count` tokens alone.
    pub(crate) fn shift_context(&mut self, count: usize) {
        self.context_shifts += 1;
        self.read_anew(count);
    }

    /// Replaces the prompt and keeps what was generated; all tokens that there were before.
    pub(crate) fn replace_prompt(&mut self, prompt: &[u32]) -> Vec<u32> {
        let tokens = [prompt, &self.history[self.prompt_tokens..]].concat();
        self.prompt_tokens = prompt.len();
        std::mem::replace(&mut self.history, tokens)
    }

    /// Ends the text before it is complete.
    pub(crate) fn break_off(&mut self) {
        self.finish = Some(Finish::Interrupted);
    }

    /// Chooses the next token from the logits of what follows, unless the text has as many as were asked for.
    pub(crate) fn choose(&mut self, logits: &[f32], vocabulary: &mut Vocabulary<'_>) -> Result<(), ModelError> {
        if self.generated_tokens() >= self.max_tokens {
            self.finish = Some(Finish::Length);
            return Ok(());
        }
        let token = self.sampler.sample(logits, vocabulary.scratch)?;
        if vocabulary.ends.contains(&token) {
            self.stream.push(&[]);
            self.finish = Some(Finish::EndOfText);
            return Ok(());
        }
        self.history.push(token);
        self.pending += 1;
        self.stream.push(vocabulary.tokenizer.token_bytes(token).unwrap_or_default());
        if let Some(stop) = self.stream.stopped() {
            self.finish = Some(Finish::Stop(stop.to_owned()));
        } else if self.generated_tokens() >= self.max_tokens {
            self.finish = Some(Finish::Length);
        }
        Ok(())
    }

    /// The text that the latest token has made certain; often empty.
    pub(crate) fn piece(&self) -> &str {
        self.stream.piece()
    }

    /// The text that was held back, once the text has ended.
    pub(crate) fn rest(&mut self) -> &str {
        self.stream.finish()
    }
}

/// What was generated and how fast.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, an end-of-text token not counted.
    pub tokens: usize,
    /// How often the context was full, so that the text went on from its latest part alone.
    pub context_shifts: usize,
    /// Why it ended.
    pub finish: Finish,
    /// From the prompt to its logits.
    pub prefill: Duration,
    /// From there to the end.
    pub decode: Duration,
}
