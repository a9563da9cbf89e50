//! A model at work: its plans, its cache, its workers.

use std::sync::Arc;

use smallmind_graph::{Batch, Bindings, Buffer, Executor, Limits, NoProbe, Plan, PlanOptions, Pool, Probe, Scalars};

use crate::architecture::LOGITS;
use crate::{ModelConfig, ModelError, PackedModel};

/// How a session is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Worker threads.
    pub threads: usize,
    /// Sequences held at once.
    pub slots: usize,
    /// Tokens that each may have, at most the model's.
    pub context: usize,
    /// Tokens of a prompt that are worked on at once.
    pub chunk: usize,
}

impl SessionOptions {
    /// Tokens of a prompt that are worked on at once, unless somebody says otherwise: enough rows for the matrix products to be bound by
    /// arithmetic, few enough for the values of a chunk to stay in the cache. Fitted to prompts of 128 to 1024 tokens on a Zen 4.
    pub const CHUNK: usize = 128;

    /// One sequence of up to `context` tokens.
    pub fn single(context: usize, threads: usize) -> Self {
        Self { threads, slots: 1, context, chunk: Self::CHUNK }
    }
}

impl ModelConfig {
    /// Whether there can be room for `asked` tokens of a sequence.
    ///
    /// # Errors
    /// [`ModelError::Context`] for none, or for more than the model's.
    pub fn check_context(&self, asked: usize) -> Result<(), ModelError> {
        let max = self.context;
        if (1..=max).contains(&asked) { Ok(()) } else { Err(ModelError::Context { asked, max }) }
    }
}

/// A model with a key-value cache for some sequences, each in a slot.
///
/// It keeps two plans over the same weights: one for chunks of prompts, one for single tokens of all slots. Once it is made, appending
/// and decoding allocate nothing.
pub struct Session {
    model: Arc<PackedModel>,
    options: SessionOptions,
    pool: Pool,
    prefill: Executor,
    decode: Executor,
    cache: Buffer,
    batch: Batch,
    lens: Vec<usize>,
    latest: Latest,
}

/// Which plan ran last, and so has the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Latest {
    Prefill,
    Decode,
}

impl Session {
    /// Plans the model for `options` and allocates all that it will need.
    ///
    /// # Errors
    /// A context beyond the model's, or too little memory.
    pub fn new(model: Arc<PackedModel>, options: SessionOptions) -> Result<Self, ModelError> {
        let SessionOptions { threads, slots, context, .. } = options;
        model.config().check_context(context)?;
        let slots = slots.max(1);
        let chunk = options.chunk.clamp(1, context);
        let prefill = Limits { tokens: chunk, outputs: 1, spans: 1, context, slots };
        let decode = Limits { tokens: slots, outputs: slots, spans: slots, context, slots };
        let prefill = Plan::new(model.graph().clone(), PlanOptions::stored(prefill, threads, model.storage().clone()))?;
        let decode = Plan::new(model.graph().clone(), PlanOptions::stored(decode, threads, model.storage().clone()))?;
        let cache = match decode.cache() {
            Some(shape) => shape.allocate()?,
            None => Buffer::zeroed(0)?,
        };
        let largest = Limits { tokens: chunk.max(slots), ..*decode.limits() };
        Ok(Self {
            batch: Batch::with_capacity(&largest),
            pool: Pool::new(threads)?,
            prefill: Executor::new(prefill)?,
            decode: Executor::new(decode)?,
            cache,
            lens: vec![0; slots],
            latest: Latest::Decode,
            options: SessionOptions { slots, chunk, ..options },
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<PackedModel> {
        &self.model
    }

    /// Gives the model other weights, laid out as [`crate::Model::weights`], and forgets all tokens. Others who hold the model keep it
    /// as it was.
    ///
    /// # Errors
    /// More or fewer weights than the model has; too little memory for a copy of it, where others hold it too.
    pub fn set_weights(&mut self, weights: &[f32]) -> Result<(), ModelError> {
        match Arc::get_mut(&mut self.model) {
            Some(model) => model.set_weights(weights)?,
            None => self.model = Arc::new(self.model.with_weights(weights)?),
        }
        self.lens.fill(0);
        Ok(())
    }

    /// How it is laid out.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// The plan for chunks of prompts and the plan for single tokens.
    pub fn plans(&self) -> (&Plan, &Plan) {
        (self.prefill.plan(), self.decode.plan())
    }

    /// Bytes of cache, and of both arenas.
    pub fn working_bytes(&self) -> (usize, usize) {
        (self.cache.len() * 4, self.prefill.plan().arena_bytes() + self.decode.plan().arena_bytes())
    }

    /// How many tokens the sequence in `slot` has.
    pub fn len(&self, slot: usize) -> usize {
        self.lens.get(slot).copied().unwrap_or(0)
    }

    /// Whether the sequence in `slot` has no token.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// Forgets the tokens of `slot` from `len` on.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        if let Some(have) = self.lens.get_mut(slot) {
            *have = len.min(*have);
        }
    }

    /// Appends tokens to the sequence in `slot`; the logits `[vocab]` of what follows the last of them.
    ///
    /// # Errors
    /// No token; more than fit; ids beyond the vocabulary; logits that are not finite. After an error nothing is appended, and
    /// [`Session::logits`] are of no use.
    pub fn append(&mut self, slot: usize, tokens: &[u32]) -> Result<&[f32], ModelError> {
        if let [one] = tokens {
            return self.decode(&[(slot, *one)]);
        }
        self.append_probed(slot, tokens, &NoProbe)
    }

    /// [`Session::append`] with a probe on every run of the plan for chunks of prompts, which a single token goes through as well.
    ///
    /// # Errors
    /// As [`Session::append`].
    pub fn append_probed<P: Probe>(&mut self, slot: usize, tokens: &[u32], probe: &P) -> Result<&[f32], ModelError> {
        let past = self.len(slot);
        let context = self.options.context;
        if past + tokens.len() > context {
            return Err(ModelError::TooLong { tokens: past + tokens.len(), context, max: self.model.config().context });
        }
        let chunks = tokens.chunks(self.options.chunk);
        let last = chunks.len().checked_sub(1).ok_or(ModelError::EmptyPrompt)?;
        let mut end = past;
        for (i, chunk) in chunks.enumerate() {
            self.batch.clear();
            self.batch.push(chunk, end, slot);
            if i == last {
                self.batch.want_last();
            }
            let bindings = Bindings { cache: Some(&mut self.cache), ..Bindings::stored(self.model.weights()) };
            self.prefill.run(&mut self.pool, &self.batch, &Scalars::default(), bindings, probe)?;
            end += chunk.len();
        }
        self.latest = Latest::Prefill;
        self.check_logits(|_| slot, |_| end)?;
        // What the cache holds beyond the length of a sequence is nobody's: only here do the tokens become the sequence's.
        self.lens[slot] = end;
        Ok(self.logits())
    }

    /// Appends one token to each of several sequences, given as (slot, token); the logits `[sequences, vocab]`, row by row.
    ///
    /// # Errors
    /// A sequence that is full or named twice; ids beyond the vocabulary; logits that are not finite. After an error nothing is appended
    /// to any of the sequences.
    pub fn decode(&mut self, tokens: &[(usize, u32)]) -> Result<&[f32], ModelError> {
        self.decode_probed(tokens, &NoProbe)
    }

    /// [`Session::decode`] with a probe on the run.
    ///
    /// # Errors
    /// As [`Session::decode`].
    pub fn decode_probed<P: Probe>(&mut self, tokens: &[(usize, u32)], probe: &P) -> Result<&[f32], ModelError> {
        self.batch.clear();
        for (slot, token) in tokens {
            let past = self.len(*slot);
            if past >= self.options.context {
                let (context, max) = (self.options.context, self.model.config().context);
                return Err(ModelError::TooLong { tokens: past + 1, context, max });
            }
            self.batch.push(std::slice::from_ref(token), past, *slot);
            self.batch.want_last();
        }
        let bindings = Bindings { cache: Some(&mut self.cache), ..Bindings::stored(self.model.weights()) };
        self.decode.run(&mut self.pool, &self.batch, &Scalars::default(), bindings, probe)?;
        self.latest = Latest::Decode;
        let slot = |row: usize| tokens.get(row).map_or(0, |(slot, _)| *slot);
        self.check_logits(slot, |row| self.len(slot(row)) + 1)?;
        tokens.iter().for_each(|(slot, _)| self.lens[*slot] += 1);
        Ok(self.logits())
    }

    /// The logits of the latest [`Session::append`] or [`Session::decode`], row after row; empty before the first.
    pub fn logits(&self) -> &[f32] {
        let executor = match self.latest {
            Latest::Prefill => &self.prefill,
            Latest::Decode => &self.decode,
        };
        executor.result_slice(LOGITS).unwrap_or_default()
    }

    /// Refuses logits that are not finite; `slot` and `tokens` tell the sequence of a row and how many tokens it has with the new ones.
    fn check_logits(&self, slot: impl Fn(usize) -> usize, tokens: impl Fn(usize) -> usize) -> Result<(), ModelError> {
        let logits = self.logits();
        // Without a way out of the loop it works on many at once.
        let bad = logits.iter().fold(false, |bad, x| bad | !x.is_finite());
        if !bad {
            return Ok(());
        }
        let first = logits.iter().position(|x| !x.is_finite()).unwrap_or(0);
        let row = first / self.model.config().vocab_size.max(1);
        Err(ModelError::NonFinite { slot: slot(row), position: tokens(row) })
    }
}
