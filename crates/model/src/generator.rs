//! Texts from a model, piece by piece.

use std::ops::ControlFlow;
use std::slice;
use std::sync::Arc;
use std::time::Instant;

use smallmind_graph::PAGE_TOKENS;

use crate::lookup::{Lookup, MOST_TOKENS, Offer, Pace};
use crate::sampler::SamplerScratch;
use crate::sequence::{Finish, GenerateOptions, Generation, Sequence, Vocabulary};
use crate::tokenizer::Tokenizer;
use crate::{Job, Logits, ModelError, Session, begin_token};

/// Gets the number of a text and what is certain of it, or why it can't go on.
type OnText<'a> = &'a mut dyn FnMut(usize, Result<&str, ModelError>) -> ControlFlow<()>;

/// Makes texts with one session: one after the other, or several at once.
///
/// A text may become longer than the context: when it is full, the generator goes on with the latest half of it, read
/// anew.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
///
/// use smallmind_model::sampler::SamplerConfig;
/// use smallmind_model::tokenizer::Tokenizer;
/// use smallmind_model::{GenerateOptions, Generator, Model, ModelConfig, Session, SessionOptions, preset};
/// use smallmind_simd::IsaKind;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ModelConfig { vocab_size: 4, context: 32, layers: 2, ..preset::find("nanogpt-cpu")?.config() };
/// let model = Arc::new(Model::random(config, 1337)?.pack(IsaKind::best())?);
/// let options = SessionOptions { sequences: 2, ..SessionOptions::single(32, 2) };
/// let mut generator = Generator::new(Session::new(model, options)?, Arc::new(Tokenizer::characters("abcd")?))?;
///
/// // Two texts side by side: each step runs the model once, for one token of each.
/// let options = GenerateOptions { max_tokens: 6, sampler: SamplerConfig::greedy(), stops: vec![] };
/// let mut sequences = [generator.begin(&[0, 1], &options)?, generator.begin(&[2], &options)?];
/// let mut texts = [String::new(), String::new()];
/// while sequences.iter().any(|sequence| sequence.finish().is_none()) {
///     generator.step(&mut sequences, |which, piece| {
///         texts[which] += piece.expect("finite logits");
///         ControlFlow::Continue(())
///     })?;
/// }
/// sequences.into_iter().for_each(|sequence| generator.end(sequence));
///
/// // Each is the text that it would be alone.
/// let mut alone = String::new();
/// generator.generate(&[2], &options, |piece| {
///     alone += piece;
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(texts[1], alone);
/// # Ok(()) }
/// ```
pub struct Generator {
    session: Session,
    tokenizer: Arc<Tokenizer>,
    /// The tokens that end a text.
    ends: Vec<u32>,
    scratch: SamplerScratch,
    /// Memory for the jobs of a step.
    jobs: Vec<Job<'static>>,
    lookup: Option<Lookup>,
    pace: Pace,
    /// Memory for what the texts of a step could draft.
    offers: Vec<Offer>,
}

impl Generator {
    /// A generator over `session`.
    ///
    /// # Errors
    /// A tokenizer with more tokens than the model has entries for.
    pub fn new(session: Session, tokenizer: Arc<Tokenizer>) -> Result<Self, ModelError> {
        let config = session.model().config();
        let model = config.vocab_size;
        if tokenizer.vocab_size() > model {
            return Err(ModelError::Vocabulary { tokenizer: tokenizer.vocab_size(), model });
        }
        let ends = config.eos.iter().copied().chain(tokenizer.ends()).collect();
        Ok(Self {
            scratch: SamplerScratch::new(model)?,
            session,
            tokenizer,
            ends,
            jobs: vec![],
            lookup: None,
            pace: Pace::default(),
            offers: vec![],
        })
    }

    /// Has texts that begin from now on look up what may come, so that a run can give several tokens: see [`Lookup`].
    /// The texts stay the same. How much is drafted follows from what it has brought and from the time that runs take,
    /// so that a text takes hardly longer where nothing is found.
    pub fn set_lookup(&mut self, lookup: Option<Lookup>) {
        if lookup.is_some() {
            self.session.reserve_rows(self.most_drafted());
            self.offers.reserve_exact(MOST_TOKENS);
        }
        self.lookup = lookup;
    }

    /// The most tokens of a run with a draft.
    fn most_drafted(&self) -> usize {
        self.session.plan(usize::MAX).limits().outputs.min(MOST_TOKENS)
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
    /// As [`Generator::begin`] and [`Generator::step`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        self.generate_while(prompt, options, || ControlFlow::Continue(()), on_text)
    }

    /// [`Generator::generate`] that asks `go_on` whether to break the text off: after each chunk of the prompt, and after
    /// each run of the session, most of which make no text certain.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn generate_while(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut go_on: impl FnMut() -> ControlFlow<()>,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let mut sequence = self.begin(prompt, options)?;
        let outcome = self.finish(&mut sequence, &mut go_on, on_text);
        self.end(sequence);
        outcome
    }

    /// Steps a text to its end.
    fn finish(
        &mut self,
        sequence: &mut Sequence,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let started = Instant::now();
        let (mut prefill, mut error) = (None, None);
        let finish = loop {
            let mut asked = self.read_chunks(sequence, go_on)?;
            if asked.is_continue() {
                let read = || _ = prefill.get_or_insert_with(|| started.elapsed());
                self.step_noting(slice::from_mut(sequence), read, |_, piece| match piece {
                    Ok(piece) => on_text(piece),
                    Err(failure) => {
                        error = Some(failure);
                        ControlFlow::Break(())
                    }
                })?;
                if let Some(finish) = sequence.finish() {
                    break finish.clone();
                }
                asked = go_on();
            }
            if asked.is_break() {
                sequence.break_off();
                if !sequence.rest().is_empty() {
                    let _ = on_text(sequence.piece());
                }
                break Finish::Interrupted;
            }
        };
        if let Some(error) = error {
            return Err(error);
        }
        let prefill = prefill.unwrap_or_else(|| started.elapsed());
        Ok(Generation {
            prompt_tokens: sequence.prompt_tokens(),
            tokens: sequence.generated_tokens(),
            context_shifts: sequence.context_shifts(),
            finish,
            lookup: sequence.lookup(),
            prefill,
            decode: started.elapsed() - prefill,
        })
    }

    /// Begins a text that follows `prompt`, in a new sequence of the session. An empty prompt stands for the token that
    /// begins a text.
    ///
    /// # Errors
    /// Settings out of range; an empty prompt where no token begins a text; [`ModelError::Sequences`].
    pub fn begin(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<Sequence, ModelError> {
        let begin = begin_token(self.session.model().config(), &self.tokenizer);
        let prompt = if prompt.is_empty() { begin.as_slice() } else { prompt };
        if prompt.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        let id = self.session.open()?;
        self.pace.begin();
        let sequence = Sequence::new(id, prompt, options, self.lookup.as_ref());
        if sequence.is_err() {
            self.session.close(id);
        }
        sequence
    }

    /// Begins a text in the place of `earlier`. What both begin with need not be read again. An empty prompt stands for
    /// the token that begins a text.
    ///
    /// # Errors
    /// As [`Generator::begin`]; the earlier text has then ended.
    pub fn begin_after(
        &mut self,
        earlier: Sequence,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Sequence, ModelError> {
        let begin = begin_token(self.session.model().config(), &self.tokenizer);
        let prompt = if prompt.is_empty() { begin.as_slice() } else { prompt };
        let sequence = match prompt {
            [] => Err(ModelError::EmptyPrompt),
            _ => Sequence::new(earlier.id(), prompt, options, self.lookup.as_ref()),
        };
        let Ok(mut sequence) = sequence else {
            self.end(earlier);
            return sequence;
        };
        self.pace.begin();
        self.keep_common(earlier.tokens(), self.read_of(&earlier), &mut sequence);
        Ok(sequence)
    }

    /// Replaces the prompt of a text that goes on. What was generated stays; of both texts, the beginning that they have
    /// in common need not be read again.
    pub fn replace_prompt(&mut self, sequence: &mut Sequence, prompt: &[u32]) {
        let read = self.read_of(sequence);
        let earlier = sequence.replace_prompt(prompt);
        self.keep_common(&earlier, read, sequence);
    }

    /// How many tokens of a text, from its beginning, the session holds. None after the generator has gone on with the
    /// latest half of it.
    fn read_of(&self, sequence: &Sequence) -> usize {
        let read = sequence.tokens().len() - sequence.pending().len();
        if self.session.len(sequence.id()) == read { read } else { 0 }
    }

    /// Takes all tokens of `earlier`, of which the session has read some, back but those that `sequence` begins with.
    fn keep_common(&mut self, earlier: &[u32], read: usize, sequence: &mut Sequence) {
        let tokens = sequence.tokens();
        let common = earlier[..read].iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last token is always read, for the logits of what follows.
        let common = common.min(tokens.len().saturating_sub(1));
        let rest = tokens.len() - common;
        self.session.truncate(sequence.id(), common);
        sequence.read_anew(rest);
    }

    /// Has the session read a chunk of a text, all but the text's last token. Does nothing where only that is left.
    ///
    /// # Errors
    /// As [`Session::run`]; then nothing has changed.
    pub fn read_some(&mut self, sequence: &mut Sequence) -> Result<(), ModelError> {
        let count = sequence.pending().len().saturating_sub(1).min(self.session.options().chunk);
        if count > 0 {
            let tokens = &sequence.pending()[..count];
            self.session.run(&[Job { sequence: sequence.id(), tokens, logits: Logits::None }])?;
            let left = sequence.pending().len() - count;
            sequence.read_anew(left);
        }
        Ok(())
    }

    /// Reads a text in chunks until at most one is left. A text that does not fit is left to the run that refuses it.
    fn read_chunks(
        &mut self,
        sequence: &mut Sequence,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ModelError> {
        self.make_room(sequence);
        let options = *self.session.options();
        let fits = self.session.len(sequence.id()) + sequence.pending().len() <= options.context;
        while fits && sequence.pending().len() > options.chunk {
            self.read_some(sequence)?;
            if go_on().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Adds a token that ends texts.
    pub fn add_end(&mut self, token: u32) {
        if !self.ends.contains(&token) {
            self.ends.push(token);
        }
    }

    /// Gives the tokens of a text in the session up.
    pub fn end(&mut self, sequence: Sequence) {
        self.session.close(sequence.id());
    }

    /// One run of the session for all `sequences` that go on, and one more token for each; with [`Generator::set_lookup`]
    /// also those that were drafted, as far as the model chooses them. `on_text` gets the number of the sequence and the
    /// text that is certain by now, if there is any, after each token; it can break that text off. A text whose next token
    /// can't be chosen gives its error instead, and has ended; the others go on.
    ///
    /// # Errors
    /// As [`Session::run`], among them a prompt that is longer than the context: then no text has changed.
    pub fn step(
        &mut self,
        sequences: &mut [Sequence],
        on_text: impl FnMut(usize, Result<&str, ModelError>) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        self.step_noting(sequences, || (), on_text)
    }

    /// [`Generator::step`] that calls `on_read` when the session has run.
    fn step_noting(
        &mut self,
        sequences: &mut [Sequence],
        mut on_read: impl FnMut(),
        mut on_text: impl FnMut(usize, Result<&str, ModelError>) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        sequences.iter_mut().for_each(Sequence::begin_step);
        sequences.iter_mut().filter(|sequence| sequence.is_due()).for_each(|due| self.make_room(due));
        let drafting = self.draft(sequences);
        // A text whose draft can't be run is run again without it.
        loop {
            self.run_due(sequences, drafting, &mut on_read, &mut on_text)?;
            if !sequences.iter().any(Sequence::is_due) {
                return Ok(());
            }
        }
    }

    /// Has the texts draft as much as pays. Returns whether all of them go on after one token, so that the time of their
    /// run tells what drafts cost.
    fn draft(&mut self, sequences: &mut [Sequence]) -> bool {
        let due = || sequences.iter().filter(|sequence| sequence.is_due());
        let texts = due().count();
        let is_ready = texts <= MOST_TOKENS && due().all(|sequence| sequence.pending().len() == 1);
        let Some(lookup) = self.lookup.as_ref().filter(|_| is_ready) else { return false };
        let (session, context, most) = (&self.session, self.most_tokens(), self.most_drafted());
        let room = |sequence: &Sequence| context.saturating_sub(session.len(sequence.id()) + 1);
        self.offers.clear();
        self.offers.extend(sequences.iter_mut().filter_map(|sequence| sequence.offer(room(sequence))));
        let count = lookup.draft_len(&self.pace, texts, &self.offers, most);
        if count > 0 {
            let vocab = session.model().config().vocab_size;
            sequences.iter_mut().for_each(|sequence| sequence.draft(count.min(room(sequence)), vocab));
        }
        true
    }

    /// One run of the session for all texts that are due, and tokens for those that can be run.
    fn run_due(
        &mut self,
        sequences: &mut [Sequence],
        drafting: bool,
        on_read: &mut dyn FnMut(),
        on_text: OnText<'_>,
    ) -> Result<(), ModelError> {
        let mut jobs = emptied(std::mem::take(&mut self.jobs));
        jobs.extend(sequences.iter().filter(|sequence| sequence.is_due()).map(Sequence::job));
        let (texts, tokens) = (jobs.len(), jobs.iter().map(|job| job.tokens.len()).sum());
        let started = drafting.then(Instant::now);
        let outcome = self.session.run(&jobs);
        let time = started.map(|started| started.elapsed());
        self.jobs = emptied(jobs);
        let logits = match outcome {
            // Without drafts the pages may suffice.
            Err(ModelError::CacheFull { .. }) if drop_drafts(sequences) => return Ok(()),
            outcome => outcome?,
        };
        on_read();
        let (tokenizer, ends, scratch) = (&*self.tokenizer, &self.ends[..], &mut self.scratch);
        let mut vocabulary = Vocabulary { tokenizer, ends, scratch };
        let due = sequences.iter_mut().enumerate().filter(|(_, sequence)| sequence.is_due());
        let mut chosen = 0;
        for (job, (which, sequence)) in due.enumerate() {
            let rows = match logits.job(job) {
                // The row may be of a token that the text does not get.
                Err(ModelError::NonFinite { .. }) if sequence.drop_draft() => continue,
                rows => rows,
            };
            let mut on_piece = |piece: Result<&str, ModelError>| on_text(which, piece);
            chosen += take_tokens(sequence, rows, &mut vocabulary, &mut self.pace, &mut on_piece);
        }
        for sequence in sequences {
            let rejected = sequence.take_rejected();
            if rejected > 0 {
                self.session.truncate(sequence.id(), self.session.len(sequence.id()) - rejected);
            }
        }
        if let Some(time) = time {
            self.pace.ran(texts, tokens, chosen, time.as_secs_f64());
        }
        Ok(())
    }

    /// The most tokens of a sequence in the session.
    fn most_tokens(&self) -> usize {
        let pages = self.session.options().pages.unwrap_or(usize::MAX);
        self.session.options().context.min(pages.saturating_mul(PAGE_TOKENS))
    }

    /// With a full context, has the session read the latest half of the text anew.
    fn make_room(&mut self, sequence: &mut Sequence) {
        let context = self.most_tokens();
        if sequence.generated_tokens() > 0 && self.session.len(sequence.id()) >= context {
            self.session.truncate(sequence.id(), 0);
            sequence.shift_context((context / 2).max(1));
        }
    }
}

/// Gives all drafts up. Returns whether there was one.
fn drop_drafts(sequences: &mut [Sequence]) -> bool {
    sequences.iter_mut().map(Sequence::drop_draft).filter(|had_draft| *had_draft).count() > 0
}

/// Chooses the tokens of a text from the rows of its job: one, and one more for each of the draft that was chosen too.
/// Returns how many rows that took.
fn take_tokens(
    sequence: &mut Sequence,
    rows: Result<&[f32], ModelError>,
    vocabulary: &mut Vocabulary<'_>,
    pace: &mut Pace,
    on_text: &mut dyn FnMut(Result<&str, ModelError>) -> ControlFlow<()>,
) -> usize {
    sequence.was_read();
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            sequence.break_off();
            let _ = on_text(Err(error));
            return 1;
        }
    };
    let mut taken = 0;
    for row in rows.chunks_exact(vocabulary.scratch.vocabulary()) {
        taken += 1;
        if let Err(error) = sequence.choose(row, vocabulary, pace) {
            sequence.break_off();
            let _ = on_text(Err(error));
        } else if !sequence.piece().is_empty() && on_text(Ok(sequence.piece())).is_break() {
            sequence.break_off();
        } else if sequence.finish().is_some() && !sequence.rest().is_empty() {
            // The text is complete: whether the caller wants more does not matter any more.
            let _ = on_text(Ok(sequence.piece()));
        }
        if !sequence.accepts(taken - 1) {
            break;
        }
    }
    taken
}

/// The memory of a list of jobs, for jobs that borrow from elsewhere.
fn emptied<'b>(mut jobs: Vec<Job<'_>>) -> Vec<Job<'b>> {
    jobs.clear();
    jobs.into_iter().map(|_| unreachable!("the list is empty")).collect()
}
