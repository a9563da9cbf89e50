//! Samples of reading and generating.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use smallmind_kernels::attention::CacheFormat;
use smallmind_model::{Job, PackedModel, SequenceId, Session, SessionOptions, batches_of, random_tokens};
use smallmind_profile::Forecast;
use smallmind_profile::report::{RoofLevel, RoofTable};

use super::row::{BatchedRow, FirstToken, InferenceRow, Work};
use super::test::InferenceTest;
use crate::error::BenchError;
use crate::row::median;

/// Tokens of the prompt whose first token is timed, or the model's context if that is shorter.
pub const FIRST_PROMPT: usize = 16;

/// A model and how it is measured.
#[derive(Clone, Debug)]
pub struct InferenceBench {
    /// The model.
    pub model: Arc<PackedModel>,
    /// Its name for the record.
    pub name: String,
    /// How long it took to read its files and pack the weights.
    pub load: Duration,
    /// Worker threads.
    pub threads: usize,
    /// The most tokens that one run of a plan reads.
    pub batch: usize,
    /// How the key-value cache stores keys and values.
    pub cache_format: CacheFormat,
    /// Samples of each test.
    pub runs: usize,
    /// Seed of the random tokens.
    pub seed: u64,
    /// Name of the CPU.
    pub cpu: String,
    /// Version of this program.
    pub version: String,
}

/// Some sequences at once, as llama-batched-bench measures them: all prompts are read, then a token is generated for
/// each sequence in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchedTest {
    /// Tokens of each prompt.
    pub prompt: usize,
    /// Tokens that are generated for each sequence.
    pub generated: usize,
    /// Sequences.
    pub sequences: usize,
}

impl InferenceBench {
    /// Measures what the machine can do with these threads.
    ///
    /// # Errors
    /// Those of [`RoofTable::measure`].
    pub fn roofs(&self) -> Result<RoofTable, BenchError> {
        Ok(RoofTable::measure(self.threads, self.model.isa())?)
    }

    /// The time to the first token of a prompt of [`FIRST_PROMPT`] tokens, cold and warm.
    ///
    /// # Errors
    /// Too little memory; logits that are not finite.
    pub fn first_token(&self) -> Result<FirstToken, BenchError> {
        let context = FIRST_PROMPT.min(self.model.config().context);
        let prompt = self.tokens(context);
        let start = Instant::now();
        let (mut session, sequence) = self.session(context)?;
        likeliest(session.append(sequence, &prompt)?);
        let cold = self.load + start.elapsed();
        let samples = self.samples(|| {
            session.truncate(sequence, 0);
            let start = Instant::now();
            likeliest(session.append(sequence, &prompt)?);
            Ok(start.elapsed().as_secs_f64())
        })?;
        Ok(FirstToken { cold: cold.as_secs_f64(), warm: median(&samples).unwrap_or_default() })
    }

    /// Measures a test. The logits of generated tokens are computed, and the next token is a random one: its time does
    /// not depend on the token.
    ///
    /// # Errors
    /// More tokens than the model's context; too little memory; logits that are not finite.
    pub fn run(&self, test: InferenceTest, first: FirstToken, roofs: &RoofTable) -> Result<InferenceRow, BenchError> {
        let when = SystemTime::now();
        self.model.config().check_context(test.context())?;
        let (mut session, sequence) = self.session(test.context())?;
        let text = self.tokens(test.context());
        if test.depth > 0 {
            session.append(sequence, &text[..test.depth])?;
        }
        let prompt = test.depth..test.depth + test.prompt;
        let mut sample = |generated: usize| {
            session.truncate(sequence, test.depth);
            let start = Instant::now();
            if !prompt.is_empty() {
                session.append(sequence, &text[prompt.clone()])?;
            }
            for token in &text[prompt.end..prompt.end + generated] {
                session.append(sequence, std::slice::from_ref(token))?;
            }
            Ok::<_, BenchError>(start.elapsed().as_secs_f64())
        };
        // Pages of the cache are touched, and workers are awake.
        sample(test.generated.min(1))?;
        let samples = self.samples(|| sample(test.generated))?;
        let work = self.work(&session, test, roofs);
        Ok(InferenceRow::new(self, test, when, &samples, work, first))
    }

    /// Measures some sequences at once.
    ///
    /// # Errors
    /// As [`InferenceBench::run`].
    pub fn run_batched(&self, test: BatchedTest) -> Result<BatchedRow, BenchError> {
        let context = test.prompt.saturating_add(test.generated);
        self.model.config().check_context(context)?;
        let options = SessionOptions { sequences: test.sequences, ..self.options(context) };
        let mut session = Session::new(self.model.clone(), options)?;
        let sequences = (0..test.sequences).map(|_| session.open()).collect::<Result<Vec<_>, _>>()?;
        let text = self.tokens(context);
        let (prompt, generated) = text.split_at(test.prompt);
        let (mut prompts, mut tokens) = (Vec::new(), Vec::new());
        // The first sample warms up.
        for index in 0..=self.runs {
            sequences.iter().for_each(|&sequence| session.truncate(sequence, 0));
            let start = Instant::now();
            if !prompt.is_empty() {
                append_to_all(&mut session, &sequences, prompt)?;
            }
            let read = start.elapsed();
            for token in generated {
                append_to_all(&mut session, &sequences, std::slice::from_ref(token))?;
            }
            if index > 0 {
                prompts.push(read.as_secs_f64());
                tokens.push((start.elapsed() - read).as_secs_f64());
            }
        }
        let seconds = [prompts, tokens].map(|samples| median(&samples).unwrap_or_default());
        Ok(BatchedRow::new(self, test, seconds))
    }

    fn options(&self, context: usize) -> SessionOptions {
        let (chunk, cache_format) = (self.batch, self.cache_format);
        SessionOptions { chunk, cache_format, ..SessionOptions::single(context, self.threads) }
    }

    fn session(&self, context: usize) -> Result<(Session, SequenceId), BenchError> {
        let mut session = Session::new(self.model.clone(), self.options(context))?;
        let sequence = session.open()?;
        Ok((session, sequence))
    }

    fn tokens(&self, count: usize) -> Vec<u32> {
        random_tokens(count, self.model.config().vocab_size, self.seed)
    }

    fn samples(&self, mut sample: impl FnMut() -> Result<f64, BenchError>) -> Result<Vec<f64>, BenchError> {
        (0..self.runs).map(|_| sample()).collect()
    }

    /// What a test moves and computes, and how fast it can be at most.
    fn work(&self, session: &Session, test: InferenceTest, roofs: &RoofTable) -> Work {
        let (end, chunk) = (test.depth + test.prompt, session.options().chunk);
        let mut batches = batches_of(test.prompt, test.depth, chunk);
        batches.extend((end..end + test.generated).flat_map(|past| batches_of(1, past, 1)));
        let (mut bytes, mut seconds) = (0.0, 0.0);
        for batch in &batches {
            let of_token = Forecast::new(session.plan(batch.len()), std::slice::from_ref(batch), roofs);
            let tokens = batch.len() as f64;
            bytes += tokens * (of_token.traffic.weights + of_token.traffic.kv_read + of_token.traffic.kv_write);
            seconds += tokens * of_token.seconds;
        }
        let weights = self.model.storage().bytes() as f64;
        Work { bytes, seconds, read_gbps: roofs.gbps(weights, |level: &RoofLevel| level.read) }
    }
}

fn append_to_all(session: &mut Session, sequences: &[SequenceId], tokens: &[u32]) -> Result<(), BenchError> {
    let jobs: Vec<_> = sequences.iter().map(|&sequence| Job::last(sequence, tokens)).collect();
    let logits = session.run(&jobs)?;
    (0..jobs.len()).try_for_each(|job| logits.job(job).map(drop))?;
    Ok(())
}

/// The token with the largest logit, as the greedy sampler chooses it.
fn likeliest(logits: &[f32]) -> usize {
    let largest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    std::hint::black_box(largest.map_or(0, |(token, _)| token))
}

#[cfg(test)]
mod tests {
    use smallmind_model::{Model, ModelConfig, ModelError, preset};
    use smallmind_simd::IsaKind;

    use super::*;

    fn bench() -> InferenceBench {
        let config = ModelConfig { layers: 1, context: 80, ..preset::find("nanogpt-cpu").unwrap().config() };
        InferenceBench {
            model: Arc::new(Model::random(config, 1).unwrap().pack(IsaKind::best()).unwrap()),
            name: "tiny".into(),
            load: Duration::from_secs(100),
            threads: 2,
            batch: 16,
            cache_format: CacheFormat::F32,
            runs: 3,
            seed: 1,
            cpu: "a CPU".into(),
            version: "0".into(),
        }
    }

    #[test]
    fn rows_count_the_tokens_that_are_timed() {
        let bench = bench();
        let (roofs, first) = (bench.roofs().unwrap(), bench.first_token().unwrap());
        assert!(first.cold > 100.0 && first.warm > 0.0 && first.warm < 100.0, "{first:?}");
        for (prompt, generated, depth, name) in
            [(40, 0, 0, "pp40"), (0, 3, 70, "tg3 @ d70"), (20, 5, 9, "pp20+tg5 @ d9"), (0, 1, 0, "tg1")]
        {
            let row = bench.run(InferenceTest { prompt, generated, depth }, first, &roofs).unwrap();
            assert_eq!(row.test().to_string(), name);
            assert_eq!((row.samples_ns.len(), row.n_batch, &row.model_type[..]), (3, 16, "gpt2 f32"));
            let seconds: Vec<f64> = row.samples_ns.iter().map(|&ns| 1e-9 * ns as f64).collect();
            let rate = (prompt + generated) as f64 / median(&seconds).unwrap();
            assert!((row.median_ts / rate - 1.0).abs() < 1e-3, "{row:?}");
            let spread = row.samples_ts.iter().copied().fold([f64::MAX, 0.0], |[a, b], x| [x.min(a), x.max(b)]);
            assert!(spread[0] <= row.avg_ts && row.avg_ts <= spread[1], "{row:?}");
            assert!(row.bandwidth_fraction > 0.0 && row.ceiling_fraction > 0.0, "{row:?}");
        }
    }

    /// A generated token reads all weights and the cache behind it; the tokens of a chunk share the weights.
    #[test]
    fn bytes_are_those_of_weights_and_cache() {
        let (roofs, first) = (bench().roofs().unwrap(), FirstToken { cold: 0.0, warm: 0.0 });
        // Bytes of 32 elements, which are whole blocks of a head.
        for (cache_format, of_block) in
            [(CacheFormat::F32, 128), (CacheFormat::F16, 64), (CacheFormat::Q8_0, 34), (CacheFormat::Q4_0, 18)]
        {
            let bench = InferenceBench { cache_format, ..bench() };
            let bytes = |prompt, generated, depth| {
                let row = bench.run(InferenceTest { prompt, generated, depth }, first, &roofs).unwrap();
                assert_eq!((row.type_k, row.type_v), (cache_format.name(), cache_format.name()));
                row.bytes_per_token
            };
            let config = bench.model.config();
            let weights = bench.model.storage().bytes() as f64;
            // A key and a value of a token.
            let of_token = (2 * of_block * config.kv_heads * config.head_dim / 32 * config.layers) as f64;
            let [near, far] = [bytes(0, 1, 0), bytes(0, 1, 64)];
            assert_eq!(far - near, 64.0 * of_token, "{cache_format}");
            assert!(near > 0.5 * weights && near < 1.1 * weights, "{near} of {weights}");
            assert!(bytes(64, 0, 0) < near / 10.0 + 64.0 * of_token, "chunks of 16 tokens");
        }
    }

    #[test]
    fn sequences_at_once_are_timed_together() {
        let row = bench().run_batched(BatchedTest { prompt: 20, generated: 4, sequences: 3 }).unwrap();
        assert_eq!((row.pp, row.tg, row.pl, row.n_kv, row.runs), (20, 4, 3, 72, 3));
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        assert!(near(row.speed_pp * row.t_pp, 60.0) && near(row.speed_tg * row.t_tg, 12.0), "{row:?}");
        assert!(near(row.speed * row.t, 72.0) && near(row.t, row.t_pp + row.t_tg), "{row:?}");
        let only = bench().run_batched(BatchedTest { prompt: 0, generated: 2, sequences: 2 }).unwrap();
        assert!(only.speed_pp == 0.0 && only.speed_tg > 0.0, "{only:?}");
    }

    #[test]
    fn more_tokens_than_the_context_are_refused() {
        let bench = bench();
        let roofs = bench.roofs().unwrap();
        let first = FirstToken { cold: 0.0, warm: 0.0 };
        let error = bench.run(InferenceTest { prompt: 41, generated: 0, depth: 40 }, first, &roofs).unwrap_err();
        assert!(matches!(error, BenchError::Model(ModelError::Context { asked: 81, max: 80 })), "{error}");
        let error = bench.run_batched(BatchedTest { prompt: 40, generated: usize::MAX, sequences: 1 }).unwrap_err();
        assert!(matches!(error, BenchError::Model(ModelError::Context { .. })), "{error}");
    }
}
