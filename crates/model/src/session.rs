//! A model at work: its plans, its cache, its workers, its sequences.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallmind_graph::{
    Batch, Bindings, Cache, CacheShape, Executor, GraphError, Limits, NoProbe, PAGE_TOKENS, Plan, PlanOptions, Pool,
    Probe, Scalars,
};

use smallmind_kernels::attention::CacheFormat;

use crate::architecture::LOGITS;
use crate::pages::Pages;
use crate::{ModelConfig, ModelError, PackedModel};

/// The most tokens of each plan of a session except the largest. How workers share a product follows from a plan's
/// limits, so few tokens need a plan for few.
const RUNGS: [usize; 4] = [1, 4, 16, 64];

/// The most rows of logits of a run of the largest plan, or one for each sequence if there can be more sequences. Jobs
/// that ask for more are divided into several runs.
const OUTPUTS: usize = 16;

/// The sizes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Worker threads.
    pub threads: usize,
    /// Sequences that can be open at once.
    pub sequences: usize,
    /// The most tokens of a sequence, at most the model's context.
    pub context: usize,
    /// The most tokens that a run of a plan works on at once.
    pub chunk: usize,
    /// Pages of [`smallmind_graph::PAGE_TOKENS`] tokens that the key-value cache has; by default as many as all
    /// sequences can fill.
    pub pages: Option<usize>,
    /// How the key-value cache stores keys and values. [`SessionOptions::single`] has `F32`, so that logits are those of
    /// whole sequences; the command line's default is `Q8_0`.
    pub cache_format: CacheFormat,
}

impl SessionOptions {
    /// The default of [`SessionOptions::chunk`]: enough rows for the matrix products to be bound by arithmetic, few
    /// enough for the values of a chunk to stay in the cache. Fitted to prompts of 128 to 1024 tokens on a Zen 4.
    pub const CHUNK: usize = 128;

    /// One sequence of up to `context` tokens, with a cache in `f32`.
    pub fn single(context: usize, threads: usize) -> Self {
        Self { threads, sequences: 1, context, chunk: Self::CHUNK, pages: None, cache_format: CacheFormat::F32 }
    }

    /// The limits of a session's largest plan, or of its plan for `tokens` tokens if these are fewer.
    pub fn limits(&self, tokens: usize) -> Limits {
        let sequences = self.sequences.max(1);
        let each = CacheShape::pages_for(self.context);
        let chunk = self.chunk.clamp(1, self.context.max(1)).max(sequences).min(tokens);
        Limits {
            tokens: chunk,
            outputs: sequences.max(OUTPUTS).min(chunk),
            spans: sequences.min(chunk),
            context: self.context,
            pages: self.pages.unwrap_or_else(|| sequences.saturating_mul(each)).max(1),
        }
    }
}

impl ModelConfig {
    /// Checks `asked` as the context of a session: the most tokens of a sequence.
    ///
    /// # Errors
    /// [`ModelError::Context`] for 0 tokens, or for more than the model's context.
    pub fn check_context(&self, asked: usize) -> Result<(), ModelError> {
        let max = self.context;
        if (1..=max).contains(&asked) { Ok(()) } else { Err(ModelError::Context { asked, max }) }
    }
}

/// A sequence of a session, from [`Session::open`] or [`Session::fork`] until [`Session::close`]. Its copies name the
/// same sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId {
    index: usize,
    /// Differs from the number of every other sequence of the process.
    number: u64,
}

/// The number of the next sequence of any session.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// Which logits a job asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logits {
    /// None: the tokens are only appended.
    None,
    /// What follows the last token.
    #[default]
    Last,
    /// What follows each token.
    All,
}

/// Tokens to append to a sequence in a run.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// The logits wanted.
    pub logits: Logits,
}

impl<'a> Job<'a> {
    /// Tokens to append, and the logits of what follows the last.
    pub fn last(sequence: SequenceId, tokens: &'a [u32]) -> Self {
        Self { sequence, tokens, logits: Logits::Last }
    }

    /// How many rows of logits the job asks for.
    fn rows(&self) -> usize {
        match self.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => self.tokens.len(),
        }
    }
}

/// The logits of a run, job by job.
#[derive(Debug)]
pub struct JobLogits<'a> {
    session: &'a Session,
}

impl<'a> JobLogits<'a> {
    /// The logits that job number `job` of the run asked for, `[rows, vocab]`.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`] if one of them is not finite: the tokens of that job were not appended, those of the
    /// others were.
    ///
    /// # Panics
    /// If the run had no such job.
    pub fn job(&self, job: usize) -> Result<&'a [f32], ModelError> {
        let result = &self.session.results[job];
        match result.first_non_finite {
            None => Ok(&self.session.logits[result.logits.clone()]),
            Some(position) => {
                let (sequence, cache_format) = (result.sequence, self.session.options.cache_format);
                Err(ModelError::NonFinite { sequence, position, cache_format })
            }
        }
    }
}

/// A slot for a sequence, open or free.
#[derive(Debug, Default)]
struct Sequence {
    /// The number of its [`SequenceId`]; 0 if the slot is free.
    number: u64,
    /// Tokens that it has.
    len: usize,
    /// The pages that hold them, in order: as many as `len` tokens need.
    pages: Vec<u32>,
    /// Whether a job of the current run is for this sequence.
    has_job: bool,
}

/// The result of a job.
#[derive(Debug)]
struct JobResult {
    sequence: usize,
    /// Its elements of the session's logits.
    logits: Range<usize>,
    /// The position of the first token whose logits are not finite, counted from 1 in its sequence.
    first_non_finite: Option<usize>,
}

/// A model with a key-value cache for some sequences.
///
/// A caller opens a sequence and appends tokens to it; a run returns the logits of what follows. The cache is divided
/// into pages of [`smallmind_graph::PAGE_TOKENS`] tokens, which sequences with a common beginning share. A run works on
/// tokens of any sequences together. Each sequence gets the same bits as alone, no matter how its tokens are divided
/// into runs, and on any number of threads.
///
/// It keeps plans for few and for many tokens over the same weights and the same arena. Once buffers have grown to the
/// largest run, nothing allocates.
pub struct Session {
    model: Arc<PackedModel>,
    options: SessionOptions,
    pool: Pool,
    executor: Executor,
    /// None for a model without attention.
    cache: Option<Cache>,
    pages: Pages,
    sequences: Vec<Sequence>,
    batch: Batch,
    /// The logits of the last run, job after job.
    logits: Vec<f32>,
    results: Vec<JobResult>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Session {
    /// Plans the model for `options` and allocates the arena and the cache.
    ///
    /// # Errors
    /// A context beyond the model's, or too little memory.
    pub fn new(model: Arc<PackedModel>, options: SessionOptions) -> Result<Self, ModelError> {
        model.config().check_context(options.context)?;
        let limits = options.limits(usize::MAX);
        if u32::try_from(limits.pages).is_err() {
            return Err(GraphError::OutOfMemory { bytes: usize::MAX }.into());
        }
        let Limits { tokens: chunk, spans: sequences, pages, .. } = limits;
        let plan_options = PlanOptions {
            cache_format: options.cache_format,
            ..PlanOptions::stored(limits, options.threads, model.storage().clone())
        };
        let executor = Executor::of_ladder(Plan::ladder(model.graph().clone(), &plan_options, &RUNGS)?)?;
        let cache = executor.plan().cache().cloned().map(Cache::new).transpose()?;
        let each = CacheShape::pages_for(options.context);
        let sequence = || Sequence { pages: Vec::with_capacity(each), ..Sequence::default() };
        Ok(Self {
            pool: Pool::new(options.threads)?,
            executor,
            cache,
            pages: Pages::new(pages),
            sequences: std::iter::repeat_with(sequence).take(sequences).collect(),
            batch: Batch::with_capacity(&limits),
            logits: vec![],
            results: vec![],
            options: SessionOptions { sequences, chunk, pages: Some(pages), ..options },
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<PackedModel> {
        &self.model
    }

    /// Gives the model other weights, laid out as [`crate::Model::weights`], and empties all sequences. Other holders
    /// of the model keep it as it was.
    ///
    /// # Errors
    /// More or fewer weights than the model has; too little memory for a copy of the model, which is made if others
    /// hold it too.
    pub fn set_weights(&mut self, weights: &[f32]) -> Result<(), ModelError> {
        match Arc::get_mut(&mut self.model) {
            Some(model) => model.set_weights(weights)?,
            None => self.model = Arc::new(self.model.with_weights(weights)?),
        }
        (0..self.sequences.len()).for_each(|index| self.shorten(index, 0));
        Ok(())
    }

    /// How it is laid out.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// The plan that runs `tokens` tokens at once.
    pub fn plan(&self, tokens: usize) -> &Plan {
        self.executor.plan_for(tokens)
    }

    /// Bytes of cache, and of the arena.
    pub fn working_bytes(&self) -> (usize, usize) {
        (self.cache.as_ref().map_or(0, |cache| cache.shape().bytes()), self.executor.arena_bytes())
    }

    /// Pages of the cache that hold no tokens.
    pub fn free_pages(&self) -> usize {
        self.pages.free()
    }

    /// A new sequence, without tokens.
    ///
    /// # Errors
    /// [`ModelError::Sequences`] if as many are open as the session can hold.
    pub fn open(&mut self) -> Result<SequenceId, ModelError> {
        let index = self.sequences.iter().position(|sequence| sequence.number == 0);
        let index = index.ok_or(ModelError::Sequences { max: self.sequences.len() })?;
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        self.sequences[index].number = number;
        Ok(SequenceId { index, number })
    }

    /// A new sequence with the tokens of another. Both hold the same pages; a sequence that appends to a page with
    /// other holders gets a copy of the page first.
    ///
    /// # Errors
    /// [`ModelError::ClosedSequence`]; [`ModelError::Sequences`] if as many are open as the session can hold.
    pub fn fork(&mut self, of: SequenceId) -> Result<SequenceId, ModelError> {
        let from = self.index(of)?;
        let new = self.open()?;
        for i in 0..self.sequences[from].pages.len() {
            let page = self.sequences[from].pages[i];
            self.pages.share(page);
            self.sequences[new.index].pages.push(page);
        }
        self.sequences[new.index].len = self.sequences[from].len;
        Ok(new)
    }

    /// Ends a sequence: its pages are freed unless other sequences hold them. Closing it again changes nothing.
    pub fn close(&mut self, sequence: SequenceId) {
        if let Ok(index) = self.index(sequence) {
            self.shorten(index, 0);
            self.sequences[index].number = 0;
        }
    }

    /// How many tokens a sequence has; 0 if it is closed.
    pub fn len(&self, sequence: SequenceId) -> usize {
        self.index(sequence).map_or(0, |index| self.sequences[index].len)
    }

    /// Whether a sequence has no token.
    pub fn is_empty(&self, sequence: SequenceId) -> bool {
        self.len(sequence) == 0
    }

    /// Removes all tokens of a sequence but the first `len`; their pages are freed unless other sequences hold them.
    pub fn truncate(&mut self, sequence: SequenceId, len: usize) {
        if let Ok(index) = self.index(sequence) {
            self.shorten(index, len);
        }
    }

    /// Appends tokens to a sequence and returns the logits `[vocab]` of what follows the last of them.
    ///
    /// # Errors
    /// As [`Session::run`] and [`JobLogits::job`].
    pub fn append(&mut self, sequence: SequenceId, tokens: &[u32]) -> Result<&[f32], ModelError> {
        self.append_probed(sequence, tokens, &NoProbe)
    }

    /// [`Session::append`] with a probe on every run of a plan.
    ///
    /// # Errors
    /// As [`Session::append`].
    pub fn append_probed<P: Probe>(
        &mut self,
        sequence: SequenceId,
        tokens: &[u32],
        probe: &P,
    ) -> Result<&[f32], ModelError> {
        self.run_probed(&[Job::last(sequence, tokens)], probe)?.job(0)
    }

    /// Appends the tokens of all `jobs`, each to its sequence, and returns the logits that they ask for.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] for a job without tokens; [`ModelError::TooLong`]; [`ModelError::ClosedSequence`];
    /// [`ModelError::RepeatedSequence`]; [`ModelError::CacheFull`]; a token id beyond the vocabulary. Then nothing is
    /// appended for any job. Logits that are not finite are an error only of their job: see [`JobLogits::job`].
    pub fn run(&mut self, jobs: &[Job<'_>]) -> Result<JobLogits<'_>, ModelError> {
        self.run_probed(jobs, &NoProbe)
    }

    /// [`Session::run`] with a probe on every run of a plan.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_probed<P: Probe>(&mut self, jobs: &[Job<'_>], probe: &P) -> Result<JobLogits<'_>, ModelError> {
        self.logits.clear();
        self.results.clear();
        self.check(jobs)?;
        self.take_pages(jobs);
        let outcome = self.run_batches(jobs, probe);
        if outcome.is_ok() {
            self.find_non_finite(jobs);
            // Cache entries beyond a sequence's length have no owner: only here does the sequence get the new tokens.
            for (job, result) in jobs.iter().zip(&self.results) {
                if result.first_non_finite.is_none() {
                    self.sequences[job.sequence.index].len += job.tokens.len();
                }
            }
        } else {
            self.logits.clear();
        }
        for job in jobs {
            self.shorten(job.sequence.index, usize::MAX);
        }
        outcome?;
        Ok(JobLogits { session: self })
    }

    /// Takes the memory for the logits of a run that asks for so many rows, so that it allocates none.
    pub(crate) fn reserve_rows(&mut self, rows: usize) {
        self.logits.clear();
        self.logits.reserve_exact(rows * self.model.config().vocab_size);
    }

    /// The logits of the latest [`Session::run`], row after row; empty before the first and if it was refused.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    fn index(&self, sequence: SequenceId) -> Result<usize, ModelError> {
        let SequenceId { index, number } = sequence;
        let is_open = self.sequences.get(index).is_some_and(|sequence| sequence.number == number);
        if is_open { Ok(index) } else { Err(ModelError::ClosedSequence) }
    }

    /// Removes all tokens of a sequence but the first `len`, and releases the pages that it no longer needs.
    fn shorten(&mut self, index: usize, len: usize) {
        let sequence = &mut self.sequences[index];
        sequence.len = sequence.len.min(len);
        let needed = CacheShape::pages_for(sequence.len).min(sequence.pages.len());
        sequence.pages.drain(needed..).for_each(|page| self.pages.release(page));
    }

    /// Checks that all jobs can be done.
    fn check(&mut self, jobs: &[Job<'_>]) -> Result<(), ModelError> {
        self.sequences.iter_mut().for_each(|sequence| sequence.has_job = false);
        let (context, max, entries) =
            (self.options.context, self.model.config().context, self.model.config().vocab_size);
        let mut need = 0;
        for (i, job) in jobs.iter().enumerate() {
            let index = self.index(job.sequence)?;
            if std::mem::replace(&mut self.sequences[index].has_job, true) {
                return Err(ModelError::RepeatedSequence);
            }
            if job.tokens.is_empty() {
                return Err(ModelError::EmptyPrompt);
            }
            let tokens = self.sequences[index].len.saturating_add(job.tokens.len());
            if tokens > context {
                return Err(ModelError::TooLong { tokens, context, max });
            }
            if let Some(id) = job.tokens.iter().find(|id| **id as usize >= entries) {
                let (got, limit) = (*id as usize, entries.saturating_sub(1));
                return Err(GraphError::Limit { what: "token id", got, limit }.into());
            }
            need += CacheShape::pages_for(tokens).saturating_sub(self.sequences[index].pages.len());
            if let Some(page) = self.page_to_copy(index) {
                // Each job that appends to a shared page needs a copy, but the last holder of the page keeps it.
                let is_of = |other: &&Job<'_>| self.page_to_copy(other.sequence.index) == Some(page);
                need += usize::from(self.pages.holders(page) > 1 + jobs[..i].iter().filter(is_of).count());
            }
        }
        let free = self.pages.free();
        if need > free { Err(ModelError::CacheFull { need, free }) } else { Ok(()) }
    }

    /// The page to which the next token of a sequence is appended, if other sequences hold it too.
    fn page_to_copy(&self, index: usize) -> Option<u32> {
        let sequence = &self.sequences[index];
        let last = *sequence.pages.last()?;
        (!sequence.len.is_multiple_of(PAGE_TOKENS) && self.pages.holders(last) > 1).then_some(last)
    }

    /// Gives each job's sequence its own pages for the new tokens; [`Session::check`] has made sure that there are
    /// enough.
    fn take_pages(&mut self, jobs: &[Job<'_>]) {
        for job in jobs {
            let index = job.sequence.index;
            let needed = CacheShape::pages_for(self.sequences[index].len + job.tokens.len());
            let mut shared = self.page_to_copy(index);
            while shared.is_some() || self.sequences[index].pages.len() < needed {
                let Some(page) = self.pages.take() else { unreachable!("the pages were counted") };
                let sequence = &mut self.sequences[index];
                if let Some(shared) = shared.take() {
                    if let Some(cache) = &mut self.cache {
                        cache.copy_page(shared, page);
                    }
                    self.pages.release(shared);
                    sequence.pages.pop();
                }
                sequence.pages.push(page);
            }
        }
    }

    /// Works on the tokens of all jobs, as many at once as the largest plan takes.
    fn run_batches<P: Probe>(&mut self, jobs: &[Job<'_>], probe: &P) -> Result<(), ModelError> {
        let vocab = self.model.config().vocab_size;
        let mut start = 0;
        for job in jobs {
            let logits = start..start + job.rows() * vocab;
            start = logits.end;
            self.results.push(JobResult { sequence: job.sequence.index, logits, first_non_finite: None });
        }
        self.batch.clear();
        for job in jobs {
            let mut done = 0;
            while done < job.tokens.len() {
                done += self.push(job, done);
                if done < job.tokens.len() {
                    self.run_batch(probe)?;
                }
            }
        }
        self.run_batch(probe)
    }

    /// Adds as many of the job's tokens from `done` on as fit into the batch. Returns how many.
    fn push(&mut self, job: &Job<'_>, done: usize) -> usize {
        let limits = self.executor.plan().limits();
        if self.batch.spans().len() == limits.spans {
            return 0;
        }
        let left = job.tokens.len() - done;
        let room = (limits.tokens - self.batch.len()).min(left);
        let outputs = limits.outputs - self.batch.outputs().len();
        let count = match job.logits {
            Logits::All => room.min(outputs),
            // The last token waits for a batch with a free row of logits.
            Logits::Last if outputs == 0 => room.min(left - 1),
            Logits::Last | Logits::None => room,
        };
        if count == 0 {
            return 0;
        }
        let sequence = &self.sequences[job.sequence.index];
        self.batch.push_cached(&job.tokens[done..done + count], sequence.len + done, &sequence.pages);
        match job.logits {
            Logits::All => self.batch.want_span(),
            Logits::Last if count == left => self.batch.want_last(),
            Logits::Last | Logits::None => {}
        }
        count
    }

    /// Runs the batch, keeps its logits and empties it.
    fn run_batch<P: Probe>(&mut self, probe: &P) -> Result<(), ModelError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let bindings = Bindings { cache: self.cache.as_mut(), ..Bindings::stored(self.model.weights()) };
        self.executor.run(&mut self.pool, &self.batch, &Scalars::default(), bindings, probe)?;
        self.logits.extend_from_slice(self.executor.result_slice(LOGITS).unwrap_or_default());
        self.batch.clear();
        Ok(())
    }

    /// Marks the jobs whose logits are not all finite.
    fn find_non_finite(&mut self, jobs: &[Job<'_>]) {
        let vocab = self.model.config().vocab_size.max(1);
        for (job, result) in jobs.iter().zip(&mut self.results) {
            let logits = &self.logits[result.logits.clone()];
            // A loop without an early exit is vectorized.
            if !logits.iter().fold(false, |bad, x| bad | !x.is_finite()) {
                continue;
            }
            let row = logits.iter().position(|x| !x.is_finite()).unwrap_or(0) / vocab;
            let tokens = job.tokens.len() - job.rows() + row + 1;
            result.first_non_finite = Some(self.sequences[result.sequence].len + tokens);
        }
    }
}
