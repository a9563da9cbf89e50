//! Lines of the records.

use std::time::SystemTime;

use serde::Serialize;

use super::run::{BatchedTest, InferenceBench};
use super::test::InferenceTest;
use crate::facts::{mean_and_deviation, nanoseconds, peak_memory, utc};
use crate::row::{SCHEMA_VERSION, median};
use crate::table::Tabled;

/// Seconds to the first token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FirstToken {
    /// Files read, weights packed, session made, prompt read.
    pub cold: f64,
    /// In a session that has run before: the prompt read. The median.
    pub warm: f64,
}

/// The work of a test and its limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Bytes of weights and cache.
    pub bytes: f64,
    /// Seconds, at least, by the measured roofs.
    pub seconds: f64,
    /// The measured bandwidth of reading as many bytes as the weights have, in GB/s.
    pub read_gbps: f64,
}

/// A test of one sequence. Fields that llama-bench has too are called as there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InferenceRow {
    /// Version of this layout.
    pub schema_version: u32,
    /// Version of SmallMind.
    pub build_number: String,
    /// Name of the CPU.
    pub cpu_info: String,
    /// The instruction set.
    pub backends: String,
    /// The model as it was named.
    pub model_filename: String,
    /// The family of the model, and the format of most bytes of its weights.
    pub model_type: String,
    /// Bytes of the weights in memory.
    pub model_size: u64,
    /// Parameters.
    pub model_n_params: u64,
    /// The most tokens that are read at once.
    pub n_batch: usize,
    /// Worker threads.
    pub n_threads: usize,
    /// The format of keys in the cache.
    pub type_k: &'static str,
    /// The format of values in the cache.
    pub type_v: &'static str,
    /// Tokens read as a prompt.
    pub n_prompt: usize,
    /// Tokens generated.
    pub n_gen: usize,
    /// Tokens of the sequence before.
    pub n_depth: usize,
    /// When the test began, in UTC.
    pub test_time: String,
    /// Nanoseconds of a sample, the mean.
    pub avg_ns: u64,
    /// Standard deviation of the nanoseconds.
    pub stddev_ns: u64,
    /// Tokens a second, the mean.
    pub avg_ts: f64,
    /// Standard deviation of the tokens a second.
    pub stddev_ts: f64,
    /// Tokens a second, the median.
    pub median_ts: f64,
    /// Bytes of weights and cache that are read and written for a token, on average.
    pub bytes_per_token: f64,
    /// These bytes a second, divided by the measured bandwidth of reading as many bytes as the weights have.
    pub bandwidth_fraction: f64,
    /// The least time of the test by all measured roofs, divided by the median.
    pub ceiling_fraction: f64,
    /// The most memory that the process has used so far, in bytes; unknown on other systems than Linux.
    pub peak_rss_bytes: Option<u64>,
    /// Nanoseconds to the first token: files read, weights packed, session made, prompt of 16 tokens read.
    pub first_token_cold_ns: u64,
    /// The same in a session that has run before, the median.
    pub first_token_warm_ns: u64,
    /// Nanoseconds of each sample.
    pub samples_ns: Vec<u64>,
    /// Tokens a second of each sample.
    pub samples_ts: Vec<f64>,
}

/// Some sequences at once. Fields are called as in llama-batched-bench.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchedRow {
    /// Version of this layout.
    pub schema_version: u32,
    /// The model as it was named.
    pub model_filename: String,
    /// The family of the model, and the format of most bytes of its weights.
    pub model_type: String,
    /// The instruction set.
    pub backends: String,
    /// The most tokens that are read at once.
    pub n_batch: usize,
    /// Worker threads.
    pub n_threads: usize,
    /// The format of keys in the cache.
    pub type_k: &'static str,
    /// The format of values in the cache.
    pub type_v: &'static str,
    /// Samples; the times are their medians.
    pub runs: usize,
    /// Tokens of each prompt.
    pub pp: usize,
    /// Tokens generated for each sequence.
    pub tg: usize,
    /// Sequences.
    pub pl: usize,
    /// Tokens in the cache at the end.
    pub n_kv: usize,
    /// Seconds to read all prompts.
    pub t_pp: f64,
    /// Tokens of prompts a second.
    pub speed_pp: f64,
    /// Seconds to generate.
    pub t_tg: f64,
    /// Tokens generated a second, those of all sequences.
    pub speed_tg: f64,
    /// Seconds of both.
    pub t: f64,
    /// Tokens of both a second.
    pub speed: f64,
}

impl InferenceRow {
    pub(super) fn new(
        bench: &InferenceBench,
        test: InferenceTest,
        when: SystemTime,
        samples: &[f64],
        work: Work,
        first: FirstToken,
    ) -> Self {
        let rate = |seconds: f64| test.tokens() as f64 / seconds.max(f64::MIN_POSITIVE);
        let rates: Vec<f64> = samples.iter().map(|&seconds| rate(seconds)).collect();
        let seconds = median(samples).unwrap_or_default().max(f64::MIN_POSITIVE);
        let ((avg_ns, stddev_ns), (avg_ts, stddev_ts)) = (mean_and_deviation(samples), mean_and_deviation(&rates));
        Self {
            schema_version: SCHEMA_VERSION,
            build_number: bench.version.clone(),
            cpu_info: bench.cpu.clone(),
            backends: bench.model.isa().name().to_owned(),
            model_filename: bench.name.clone(),
            model_type: model_type(bench),
            model_size: bench.model.storage().bytes() as u64,
            model_n_params: bench.model.params().elements() as u64,
            n_batch: bench.batch,
            n_threads: bench.threads,
            type_k: bench.cache_format.name(),
            type_v: bench.cache_format.name(),
            n_prompt: test.prompt,
            n_gen: test.generated,
            n_depth: test.depth,
            test_time: utc(when),
            avg_ns: nanoseconds(avg_ns),
            stddev_ns: nanoseconds(stddev_ns),
            avg_ts,
            stddev_ts,
            median_ts: rate(seconds),
            bytes_per_token: work.bytes / test.tokens().max(1) as f64,
            bandwidth_fraction: work.bytes / seconds / (1e9 * work.read_gbps),
            ceiling_fraction: work.seconds / seconds,
            peak_rss_bytes: peak_memory(),
            first_token_cold_ns: nanoseconds(first.cold),
            first_token_warm_ns: nanoseconds(first.warm),
            samples_ns: samples.iter().map(|&seconds| nanoseconds(seconds)).collect(),
            samples_ts: rates,
        }
    }

    /// What was measured.
    pub fn test(&self) -> InferenceTest {
        InferenceTest { prompt: self.n_prompt, generated: self.n_gen, depth: self.n_depth }
    }
}

impl BatchedRow {
    pub(super) fn new(bench: &InferenceBench, test: BatchedTest, [t_pp, t_tg]: [f64; 2]) -> Self {
        let BatchedTest { prompt, generated, sequences } = test;
        let rate = |tokens: usize, seconds: f64| if tokens == 0 { 0.0 } else { (tokens * sequences) as f64 / seconds };
        Self {
            schema_version: SCHEMA_VERSION,
            model_filename: bench.name.clone(),
            model_type: model_type(bench),
            backends: bench.model.isa().name().to_owned(),
            n_batch: bench.batch,
            n_threads: bench.threads,
            type_k: bench.cache_format.name(),
            type_v: bench.cache_format.name(),
            runs: bench.runs,
            pp: prompt,
            tg: generated,
            pl: sequences,
            n_kv: (prompt + generated) * sequences,
            t_pp,
            speed_pp: rate(prompt, t_pp),
            t_tg,
            speed_tg: rate(generated, t_tg),
            t: t_pp + t_tg,
            speed: rate(prompt + generated, t_pp + t_tg),
        }
    }
}

impl Tabled for InferenceRow {
    const TABLE: &'static str = "smallmind_bench";
    const COLUMNS: &'static [(&'static str, usize)] = &[
        ("file", 24),
        ("model", 14),
        ("size", 10),
        ("params", 8),
        ("backend", 8),
        ("threads", 7),
        ("n_batch", 7),
        ("KV", 5),
        ("test", 16),
        ("t/s", 17),
        ("median t/s", 10),
        ("of bandwidth", 12),
        ("of ceiling", 10),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            file_name(&self.model_filename),
            self.model_type.clone(),
            format!("{:.2} MiB", self.model_size as f64 / f64::from(1 << 20)),
            format!("{:.2} M", self.model_n_params as f64 / 1e6),
            self.backends.clone(),
            self.n_threads.to_string(),
            self.n_batch.to_string(),
            self.type_k.to_owned(),
            self.test().to_string(),
            format!("{:.2} ± {:.2}", self.avg_ts, self.stddev_ts),
            format!("{:.2}", self.median_ts),
            format!("{:.0} %", 100.0 * self.bandwidth_fraction),
            format!("{:.0} %", 100.0 * self.ceiling_fraction),
        ]
    }
}

impl Tabled for BatchedRow {
    const TABLE: &'static str = "smallmind_batched_bench";
    const COLUMNS: &'static [(&'static str, usize)] = &[
        ("file", 24),
        ("threads", 7),
        ("n_batch", 7),
        ("PP", 6),
        ("TG", 6),
        ("B", 4),
        ("N_KV", 6),
        ("T_PP s", 8),
        ("S_PP t/s", 9),
        ("T_TG s", 8),
        ("S_TG t/s", 9),
        ("T s", 8),
        ("S t/s", 9),
        ("KV", 5),
    ];

    fn cells(&self) -> Vec<String> {
        let whole = [self.n_threads, self.n_batch, self.pp, self.tg, self.pl, self.n_kv].map(|n| n.to_string());
        let [t_pp, t_tg, t] = [self.t_pp, self.t_tg, self.t].map(|seconds| format!("{seconds:.3}"));
        let [speed_pp, speed_tg, speed] = [self.speed_pp, self.speed_tg, self.speed].map(|rate| format!("{rate:.2}"));
        let file = file_name(&self.model_filename);
        std::iter::once(file)
            .chain(whole)
            .chain([t_pp, speed_pp, t_tg, speed_tg, t, speed, self.type_k.to_owned()])
            .collect()
    }
}

/// The last part of a model's path, by which tables name it.
fn file_name(model: &str) -> String {
    std::path::Path::new(model).file_name().map_or_else(|| model.into(), |name| name.to_string_lossy().into_owned())
}

fn model_type(bench: &InferenceBench) -> String {
    let family = bench.model.config().model_type().unwrap_or("model");
    let by_format = bench.model.storage().bytes_by_format();
    let most = by_format.iter().max_by_key(|(_, bytes)| *bytes);
    format!("{family} {}", most.map_or("", |(format, _)| format.name()))
}
