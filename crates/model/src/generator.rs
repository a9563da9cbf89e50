//! Text from a model, piece by piece.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallmind_graph::PAGE_TOKENS;

use crate::sampler::{Sampler, SamplerConfig};
use crate::stream::{StopStrings, TextStream};
use crate::tokenizer::Tokenizer;
use crate::{ModelError, SequenceId, Session};

/// Tokens of a text for which room is made before it begins.
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
    /// The caller broke it off.
    Interrupted,
}

/// What was generated and how fast.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, an end-of-text token not counted.
    pub tokens: usize,
    /// Why it ended.
    pub finish: Finish,
    /// From the prompt to its logits.
    pub prefill: Duration,
    /// From there to the end.
    pub decode: Duration,
}

/// Generates texts with one session, one after the other.
///
/// A text may become longer than the context: when it is full, the generator goes on with the latest half of it, read
/// anew.
pub struct Generator {
    session: Session,
    /// The sequence of the session that the text is.
    sequence: SequenceId,
    tokenizer: Arc<Tokenizer>,
    /// All tokens of the text so far.
    history: Vec<u32>,
}

impl Generator {
    /// A generator over `session`.
    ///
    /// # Errors
    /// A tokenizer with more tokens than the model has entries for; a session that has no room for another sequence.
    pub fn new(mut session: Session, tokenizer: Arc<Tokenizer>) -> Result<Self, ModelError> {
        let model = session.model().config().vocab_size;
        if tokenizer.vocab_size() > model {
            return Err(ModelError::Vocabulary { tokenizer: tokenizer.vocab_size(), model });
        }
        let sequence = session.open()?;
        Ok(Self { session, sequence, tokenizer, history: vec![] })
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to be given other weights.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Generates a text that follows `prompt`, giving each piece of it to `on_text` once it is certain; the pieces
    /// joined are the text. An empty prompt stands for the token that begins a text.
    ///
    /// # Errors
    /// Settings out of range, an empty prompt where no token begins a text, a prompt longer than the context, logits
    /// that are not finite.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let begin = self.begin_token();
        let prompt = if prompt.is_empty() { begin.as_slice() } else { prompt };
        if prompt.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        let mut sampler = Sampler::new(options.sampler.clone(), self.session.model().config().vocab_size)?;
        sampler.observe(prompt);
        let mut stream = TextStream::new(StopStrings::new(options.stops.iter().cloned())?);
        self.history.clear();
        // More is reserved as it comes where somebody asks for a text without end.
        self.history.reserve(prompt.len() + options.max_tokens.min(RESERVED_TOKENS));
        self.history.extend_from_slice(prompt);

        let started = Instant::now();
        self.session.truncate(self.sequence, 0);
        self.session.append(self.sequence, prompt)?;
        let prefill = started.elapsed();
        let finish = self.extend(options.max_tokens, prompt.len(), &mut sampler, &mut stream, &mut on_text)?;
        let rest = stream.finish();
        if !rest.is_empty() && finish != Finish::Interrupted {
            // The text is complete: whether the caller wants more does not matter any more.
            let _ = on_text(rest);
        }
        Ok(Generation {
            prompt_tokens: prompt.len(),
            tokens: self.history.len() - prompt.len(),
            finish,
            prefill,
            decode: started.elapsed() - prefill,
        })
    }

    /// Samples, shows and appends one token after the other until something ends the text.
    fn extend(
        &mut self,
        max_tokens: usize,
        prompt: usize,
        sampler: &mut Sampler,
        stream: &mut TextStream,
        on_text: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Finish, ModelError> {
        loop {
            if self.history.len() - prompt >= max_tokens {
                return Ok(Finish::Length);
            }
            let token = sampler.sample(self.session.logits())?;
            if self.ends(token) {
                return Ok(Finish::EndOfText);
            }
            self.history.push(token);
            let piece = stream.push(self.tokenizer.token_bytes(token).unwrap_or_default());
            if !piece.is_empty() && on_text(piece).is_break() {
                return Ok(Finish::Interrupted);
            }
            if let Some(stop) = stream.stopped() {
                return Ok(Finish::Stop(stop.to_owned()));
            }
            if self.history.len() - prompt >= max_tokens {
                return Ok(Finish::Length);
            }
            self.append(token)?;
        }
    }

    /// Appends the newest token; with a full context, reads the latest half of the text anew.
    fn append(&mut self, token: u32) -> Result<(), ModelError> {
        let pages = self.session.options().pages.unwrap_or(usize::MAX);
        let context = self.session.options().context.min(pages.saturating_mul(PAGE_TOKENS));
        if self.session.len(self.sequence) < context {
            self.session.append(self.sequence, &[token])?;
            return Ok(());
        }
        let keep = (context / 2).max(1);
        self.session.truncate(self.sequence, 0);
        self.session.append(self.sequence, &self.history[self.history.len() - keep..])?;
        Ok(())
    }

    fn ends(&self, token: u32) -> bool {
        self.session.model().config().eos.contains(&token) || self.tokenizer.eos() == Some(token)
    }

    /// The token before a text without a prompt: the one that begins texts, or the one that ends the text before.
    fn begin_token(&self) -> Option<u32> {
        let config = self.session.model().config();
        config.bos.or(self.tokenizer.bos()).or(config.eos.first().copied()).or(self.tokenizer.eos())
    }
}
