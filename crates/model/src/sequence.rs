//! One text that grows token by token.

use std::time::Duration;

use crate::lookup::{Drafter, Lookup, LookupCounts, Offer, Pace};
use crate::sampler::{Sampler, SamplerConfig, SamplerScratch};
use crate::stream::{StopStrings, TextStream};
use crate::tokenizer::Tokenizer;
use crate::{Job, Logits, ModelError, SequenceId};

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
    drafter: Option<Drafter>,
    /// How many tokens of the draft the session has read and the text has not got.
    rejected: usize,
    counts: LookupCounts,
    /// Whether the step that goes on has yet to choose a token.
    is_due: bool,
}

impl Sequence {
    /// A text that follows `prompt`, which the session's sequence `id` has not read yet.
    pub(crate) fn new(
        id: SequenceId,
        prompt: &[u32],
        options: &GenerateOptions,
        lookup: Option<&Lookup>,
    ) -> Result<Self, ModelError> {
        let mut sampler = Sampler::new(options.sampler.clone())?;
        sampler.observe(prompt);
        let room = prompt.len() + options.max_tokens.min(RESERVED_TOKENS);
        let mut history = Vec::with_capacity(room);
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
            drafter: lookup.map(|lookup| Drafter::new(lookup.clone(), room)),
            rejected: 0,
            counts: LookupCounts::default(),
            is_due: false,
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

    /// The session's runs for the text, and what came of drafts.
    pub fn lookup(&self) -> LookupCounts {
        self.counts
    }

    /// Why the text has ended; none while it goes on.
    pub fn finish(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }

    /// The tokens that the session must read before the next one can be chosen.
    pub(crate) fn pending(&self) -> &[u32] {
        &self.history[self.history.len() - self.pending..]
    }

    /// A step begins.
    pub(crate) fn begin_step(&mut self) {
        self.is_due = self.finish.is_none();
    }

    /// Whether the step has yet to choose a token.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due
    }

    /// What it could draft if the step goes on after one token, at most `most` tokens.
    pub(crate) fn offer(&mut self, most: usize) -> Option<Offer> {
        let most = most.min(self.left_to_read());
        let drafter = self.drafter.as_mut().filter(|_| self.is_due)?;
        drafter.offer(&self.history, most)
    }

    /// Drafts at most `count` tokens, all below `vocab`, if the step goes on.
    pub(crate) fn draft(&mut self, count: usize, vocab: usize) {
        let count = count.min(self.left_to_read());
        if let Some(drafter) = self.drafter.as_mut().filter(|_| self.is_due) {
            drafter.draft(&self.history, count, vocab);
        }
    }

    /// How many tokens beyond the pending one can be of use: the last token of a text is not read.
    fn left_to_read(&self) -> usize {
        self.max_tokens.saturating_sub(self.generated_tokens() + 1)
    }

    /// Gives the draft up. Returns whether there was one.
    pub(crate) fn drop_draft(&mut self) -> bool {
        let had_draft = !self.drafted().is_empty();
        self.drafter.iter_mut().for_each(Drafter::drop_draft);
        had_draft
    }

    /// The latest token and the draft after it; empty without a draft.
    fn drafted(&self) -> &[u32] {
        self.drafter.as_ref().map_or(&[], Drafter::run)
    }

    /// What the session has to run for the next token, and for those of the draft.
    pub(crate) fn job(&self) -> Job<'_> {
        match self.drafted() {
            [] => Job::last(self.id, self.pending()),
            tokens => Job { sequence: self.id, tokens, logits: Logits::All },
        }
    }

    /// The session has read all tokens, and the draft.
    pub(crate) fn was_read(&mut self) {
        self.pending = 0;
        self.is_due = false;
        self.rejected = self.drafted().len().saturating_sub(1);
        self.counts.runs += 1;
        self.counts.drafted += self.rejected;
    }

    /// Whether the latest token is the next of the draft, of which `accepted` tokens are in the text: then the session
    /// has read it.
    pub(crate) fn accepts(&mut self, accepted: usize) -> bool {
        let is_next = self.finish.is_none() && self.drafted().get(accepted + 1) == self.history.last();
        if is_next && self.rejected > 0 {
            self.pending = 0;
            self.rejected -= 1;
            self.counts.accepted += 1;
        }
        is_next
    }

    /// How many tokens at the end the session must take back. The draft is used up.
    pub(crate) fn take_rejected(&mut self) -> usize {
        self.drop_draft();
        std::mem::take(&mut self.rejected)
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
        self.drafter.iter_mut().for_each(Drafter::restart);
        std::mem::replace(&mut self.history, tokens)
    }

    /// Ends the text before it is complete.
    pub(crate) fn break_off(&mut self) {
        self.finish = Some(Finish::Interrupted);
    }

    /// Chooses the next token from the logits of what follows, unless the text has as many as were asked for.
    pub(crate) fn choose(
        &mut self,
        logits: &[f32],
        vocabulary: &mut Vocabulary<'_>,
        pace: &mut Pace,
    ) -> Result<(), ModelError> {
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
        if let Some(drafter) = &mut self.drafter {
            drafter.was_chosen(&self.history, pace);
        }
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
    /// The session's runs, and what came of drafts.
    pub lookup: LookupCounts,
    /// From the prompt to its logits.
    pub prefill: Duration,
    /// From there to the end.
    pub decode: Duration,
}
