//! Steps of training, timed one by one: how fast they are, and how near they come to what the machine can do.

use std::time::{Instant, SystemTime};

use serde::Serialize;
use smallmind_graph::{Batch, NoProbe, Precision};
use smallmind_model::Model;
use smallmind_profile::Forecast;
use smallmind_profile::report::RoofTable;
use smallmind_simd::IsaKind;
use smallmind_train::{BatchShape, DropoutDraw, Learner, Optimizer};

use crate::error::BenchError;
use crate::facts::{nanoseconds, peak_memory, utc};
use crate::row::{SCHEMA_VERSION, median};
use crate::table::Tabled;

/// How a model's training is measured. The learning rate stays the same in all steps.
#[derive(Clone, Debug)]
pub struct TrainingBench {
    /// The model's name for the record.
    pub name: String,
    /// Sequences of a step, and tokens of each.
    pub shape: BatchShape,
    /// Steps before the timed ones.
    pub warmup: usize,
    /// Timed steps.
    pub steps: usize,
    /// Constants of the optimizer.
    pub optimizer: Optimizer,
    /// The format in which the factors of products are multiplied.
    pub precision: Precision,
    /// The learning rate.
    pub learning_rate: f64,
    /// Seed of dropout.
    pub seed: u64,
    /// Worker threads.
    pub threads: usize,
    /// The instruction set.
    pub isa: IsaKind,
    /// Name of the CPU.
    pub cpu: String,
    /// Version of this program.
    pub version: String,
}

/// Timed steps of training. Fields of `bench inference` are called as there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingRow {
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
    /// Its family.
    pub model_type: String,
    /// Parameters.
    pub model_n_params: u64,
    /// Worker threads.
    pub n_threads: usize,
    /// The format in which the factors of products are multiplied.
    pub precision: &'static str,
    /// Sequences of a step.
    pub n_sequences: usize,
    /// Tokens of each.
    pub n_context: usize,
    /// Steps before the timed ones.
    pub n_warmup: usize,
    /// Timed steps.
    pub n_steps: usize,
    /// The learning rate.
    pub learning_rate: f64,
    /// AdamW's decay rate of the mean of gradients.
    pub beta1: f64,
    /// AdamW's decay rate of the mean of squared gradients.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// Weight decay of matrices.
    pub weight_decay: f64,
    /// Gradients are clipped to this norm; none for no clipping.
    pub clip: Option<f64>,
    /// When the steps began, in UTC.
    pub test_time: String,
    /// Nanoseconds of a step, the median.
    pub median_ns: u64,
    /// Nanoseconds of the fastest step.
    pub min_ns: u64,
    /// Tokens a second, by the median.
    pub median_ts: f64,
    /// The least time of a step by all measured roofs, divided by the median.
    pub ceiling_fraction: f64,
    /// The most memory that the process has used so far, in bytes; unknown on other systems than Linux.
    pub peak_rss_bytes: Option<u64>,
    /// The loss of the first step, those before the timed ones included, in nats a token.
    pub first_loss: f64,
    /// The loss of the last step.
    pub last_loss: f64,
    /// Nanoseconds of each timed step.
    pub samples_ns: Vec<u64>,
    /// The loss of each step, those before the timed ones included.
    pub losses: Vec<f64>,
}

impl TrainingBench {
    /// Trains `model` on `tokens`. Step `s` of `B` sequences of `T` tokens reads windows `B·s` to `B·s + B − 1`; window
    /// `w` begins at token `w·T`, and the text begins again where it ends. A step that is timed does what training
    /// does: it gathers the batch, runs forward and backward, clips and updates.
    ///
    /// # Errors
    /// A context beyond the model's, tokens beyond its vocabulary, no tokens, a precision that the CPU lacks,
    /// or too little memory.
    pub fn run(&self, model: Model, tokens: &[u32], roofs: &RoofTable) -> Result<TrainingRow, BenchError> {
        let (when, config) = (SystemTime::now(), model.config());
        let (family, params) = (config.model_type().unwrap_or("model"), model.params().elements());
        let mut learner = Learner::new(model, self.shape, self.optimizer, self.precision, self.threads, self.isa)?;
        let mut windows = Sequential::new(tokens, self.shape)?;
        let mut batch = Batch::with_capacity(&self.shape.limits());
        let (mut losses, mut samples) = (vec![], vec![]);
        for step in 0..self.warmup + self.steps {
            let start = Instant::now();
            windows.fill(step, &mut batch);
            let dropout = DropoutDraw { seed: self.seed, step: step as u32 };
            let loss = learner.accumulate(&batch, self.shape.tokens(), dropout, &NoProbe)?;
            learner.update(self.learning_rate, &NoProbe)?;
            if step >= self.warmup {
                samples.push(start.elapsed().as_secs_f64());
            }
            losses.push(loss / self.shape.tokens() as f64);
        }
        let of_update = Forecast::new(learner.update_plan(), &[Batch::default()], roofs).seconds;
        let of_token = Forecast::new(learner.gradient_plan(), std::slice::from_ref(&batch), roofs).seconds;
        let ceiling = of_update + self.shape.tokens() as f64 * of_token;
        let seconds = median(&samples).unwrap_or_default().max(f64::MIN_POSITIVE);
        let (adamw, max_norm) = (self.optimizer.adamw, self.optimizer.max_norm);
        Ok(TrainingRow {
            schema_version: SCHEMA_VERSION,
            build_number: self.version.clone(),
            cpu_info: self.cpu.clone(),
            backends: self.isa.name().to_owned(),
            model_filename: self.name.clone(),
            model_type: family.to_owned(),
            model_n_params: params as u64,
            n_threads: self.threads,
            precision: self.precision.name(),
            n_sequences: self.shape.sequences,
            n_context: self.shape.context,
            n_warmup: self.warmup,
            n_steps: self.steps,
            learning_rate: self.learning_rate,
            beta1: adamw.beta1,
            beta2: adamw.beta2,
            eps: adamw.eps,
            weight_decay: adamw.weight_decay,
            clip: max_norm.is_finite().then_some(max_norm),
            test_time: utc(when),
            median_ns: nanoseconds(seconds),
            min_ns: nanoseconds(samples.iter().copied().fold(f64::INFINITY, f64::min)),
            median_ts: self.shape.tokens() as f64 / seconds,
            ceiling_fraction: ceiling / seconds,
            peak_rss_bytes: peak_memory(),
            first_loss: losses.first().copied().unwrap_or_default(),
            last_loss: losses.last().copied().unwrap_or_default(),
            samples_ns: samples.iter().map(|&seconds| nanoseconds(seconds)).collect(),
            losses,
        })
    }
}

/// Windows one after the other, from the beginning again where the tokens end.
struct Sequential<'a> {
    tokens: &'a [u32],
    shape: BatchShape,
    /// Tokens of a window and the one after it.
    window: Vec<u32>,
}

impl<'a> Sequential<'a> {
    fn new(tokens: &'a [u32], shape: BatchShape) -> Result<Self, BenchError> {
        if tokens.is_empty() {
            return Err(BenchError::NoTokens);
        }
        Ok(Self { tokens, shape, window: Vec::with_capacity(shape.context + 1) })
    }

    fn fill(&mut self, step: usize, batch: &mut Batch) {
        let BatchShape { sequences, context } = self.shape;
        batch.clear();
        for sequence in 0..sequences {
            let start = (step * sequences + sequence) * context;
            let at = (start..=start + context).map(|i| self.tokens[i % self.tokens.len()]);
            self.window.clear();
            self.window.extend(at);
            batch.push_with_targets(&self.window[..context], &self.window[1..]);
        }
    }
}

impl Tabled for TrainingRow {
    const TABLE: &'static str = "smallmind_train_bench";
    const COLUMNS: &'static [(&'static str, usize)] = &[
        ("model", 16),
        ("params", 9),
        ("backend", 8),
        ("threads", 7),
        ("precision", 9),
        ("step", 9),
        ("ms", 9),
        ("t/s", 9),
        ("of ceiling", 10),
        ("peak MiB", 8),
        ("first loss", 10),
        ("last loss", 9),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.model_filename.clone(),
            format!("{:.2} M", self.model_n_params as f64 / 1e6),
            self.backends.clone(),
            self.n_threads.to_string(),
            self.precision.to_owned(),
            format!("{}x{}", self.n_sequences, self.n_context),
            format!("{:.2}", 1e-6 * self.median_ns as f64),
            format!("{:.1}", self.median_ts),
            format!("{:.0} %", 100.0 * self.ceiling_fraction),
            self.peak_rss_bytes.map_or("?".into(), |bytes| format!("{:.0}", bytes as f64 / f64::from(1 << 20))),
            format!("{:.4}", self.first_loss),
            format!("{:.4}", self.last_loss),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_each_other_and_begin_again() {
        let tokens = [0, 1, 2, 3, 4, 5, 6];
        let mut windows = Sequential::new(&tokens, BatchShape { sequences: 2, context: 3 }).unwrap();
        let mut batch = Batch::default();
        windows.fill(0, &mut batch);
        assert_eq!((batch.tokens(), batch.targets()), (&[0, 1, 2, 3, 4, 5][..], &[1, 2, 3, 4, 5, 6][..]));
        windows.fill(1, &mut batch);
        assert_eq!((batch.tokens(), batch.targets()), (&[6, 0, 1, 2, 3, 4][..], &[0, 1, 2, 3, 4, 5][..]));
        assert!(matches!(Sequential::new(&[], windows.shape), Err(BenchError::NoTokens)));
    }
}
