//! The loss of a model over a whole text.

use std::ops::Range;

use smallmind_graph::{Batch, ParamMemory, PlanOptions};
use smallmind_kernels::attention::CacheFormat;
use smallmind_kernels::loss::IGNORE;
use smallmind_model::tokenizer::Tokenizer;
use smallmind_model::{ModelError, PackedModel};

use crate::data::{Corpus, Dataset, Window};
use crate::text_windows::{TextWindows, before};
use crate::{BatchShape, Evaluator, TrainError};

/// How well a model predicts a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean loss over all targets, in nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Loss in bits per byte of text, comparable across tokenizers; `None` if the bytes of the text are not known.
    pub bits_per_byte: Option<f64>,
    /// Number of targets: all tokens of the text, or all but the first if the tokenizer puts none before it.
    pub tokens: usize,
    /// Mean losses by position; empty unless [`evaluate_text`] computed them.
    pub by_position: Vec<PositionLoss>,
}

/// The mean loss over the targets with some number of tokens before them in their window.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionLoss {
    /// How many tokens precede the target, those of the tokenizer's prefix counted.
    pub positions: Range<usize>,
    /// Mean loss, in nats.
    pub loss: f64,
    /// Number of targets.
    pub tokens: usize,
}

/// Tokens of a batch.
const BATCH_TOKENS: usize = 2048;

/// The mean loss of `model` over the documents of `corpus`, in consecutive windows as long as the model's context, or
/// as `settings.max_context` if that is less. `progress` gets the number of targets done and of all targets.
///
/// The tokens are the same as in training: the token that ends a document is a target. Every window begins with the
/// tokens that the tokenizer puts before a prompt; these aren't targets.
///
/// # Errors
/// A tokenizer with more tokens than the model; characters that the tokenizer lacks; fewer than two tokens, including
/// those that the tokenizer puts before the text.
pub fn evaluate_text(
    model: &PackedModel,
    tokenizer: &Tokenizer,
    corpus: &Corpus,
    settings: EvaluateSettings,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation, TrainError> {
    let vocab = model.config().vocab_size;
    let text = TextWindows::new(corpus, tokenizer, vocab)?;
    let (prefix, bytes) = (&text.prefix[..], text.bytes);
    let data = Dataset::from_tokens(&text.ids, u32::try_from(vocab).unwrap_or(u32::MAX), bytes)?;
    let context = settings.max_context.max(prefix.len() + 1).min(model.config().context);
    let of_text = text.of_text(context);
    let shape = BatchShape { sequences: (BATCH_TOKENS / context).max(1), context: prefix.len() + of_text };
    let options = PlanOptions::stored(shape.limits(), settings.threads, model.storage().clone());
    let mut evaluator = Evaluator::new(model.config(), options)?;
    let weights = || ParamMemory::Stored(model.weights());
    let windows = text.windows(of_text)?;
    let set = WholeSet { data: &data, windows: &windows, prefix, shape };
    let mut positions = Positions::default();
    let mut run = |batch: &Batch| {
        let sum = evaluator.run(weights(), batch)?;
        positions.add(batch, evaluator.losses());
        Ok(sum)
    };
    let evaluation = set.losses(&mut run, progress)?;
    let evaluation = Evaluation { by_position: positions.means(), ..evaluation };
    if prefix.is_empty() {
        return Ok(evaluation);
    }
    let bits = evaluation.loss / std::f64::consts::LN_2 * evaluation.tokens as f64 / bytes as f64;
    Ok(Evaluation { bits_per_byte: (bytes > 0).then_some(bits), ..evaluation })
}

/// Settings of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluateSettings {
    /// Number of worker threads.
    pub threads: usize,
    /// The most tokens of a window, at most the model's context.
    pub max_context: usize,
    /// How the key-value cache of the model stores keys and values where it reads in pieces, as in
    /// [`divergence`](crate::divergence). An evaluation of whole windows has no cache.
    pub cache_format: CacheFormat,
}

/// A data set and the windows in which it is evaluated.
pub(crate) struct WholeSet<'a> {
    pub data: &'a Dataset,
    pub windows: &'a [Window],
    /// Tokens before each window, which aren't targets. The data begins with the last of them.
    pub prefix: &'a [u32],
    pub shape: BatchShape,
}

impl WholeSet<'_> {
    /// The mean loss over the windows. `sum` computes the sum of the losses of a batch.
    pub fn losses(
        &self,
        sum: &mut dyn FnMut(&Batch) -> Result<f64, ModelError>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Evaluation, TrainError> {
        let (mut x, mut y) = (vec![0; self.shape.context], vec![0; self.shape.context]);
        let mut batch = Batch::default();
        let tokens: usize = self.windows.iter().map(|window| window.len).sum();
        let (mut total, mut done) = (0.0, 0);
        for (i, window) in self.windows.iter().enumerate() {
            let before = before(self.prefix, window);
            let len = before.len() + window.len;
            let (x, y) = (&mut x[..len], &mut y[..len]);
            x[..before.len()].copy_from_slice(before);
            y[..before.len()].fill(IGNORE);
            window.fill(self.data, &mut x[before.len()..], &mut y[before.len()..])?;
            batch.push_with_targets(x, y);
            done += window.len;
            let next = self.windows.get(i + 1).map(|next| self.prefix.len() + next.len);
            if next.is_none_or(|next| batch.len() + next > self.shape.tokens()) {
                total += sum(&batch)?;
                batch.clear();
                progress(done, tokens);
            }
        }
        let loss = total / tokens as f64;
        let bits_per_byte = self.data.bits_per_byte(loss);
        Ok(Evaluation { loss, perplexity: loss.exp(), bits_per_byte, tokens, by_position: vec![] })
    }
}

/// Losses by position: of targets with 1 token before them, with 2 or 3, with 4 to 7, and so on.
#[derive(Debug, Default)]
struct Positions(Vec<(f64, usize)>);

impl Positions {
    fn add(&mut self, batch: &Batch, losses: &[f32]) {
        for span in batch.spans() {
            for (i, row) in span.rows().enumerate() {
                let has_target = batch.targets().get(row).is_some_and(|target| *target != IGNORE);
                let (Some(loss), true) = (losses.get(row), has_target) else { continue };
                let group = (i + 1).ilog2() as usize;
                if self.0.len() <= group {
                    self.0.resize(group + 1, (0.0, 0));
                }
                self.0[group].0 += f64::from(*loss);
                self.0[group].1 += 1;
            }
        }
    }

    fn means(self) -> Vec<PositionLoss> {
        let mean = |(group, (sum, tokens)): (usize, (f64, usize))| {
            let positions = 1 << group..2 << group;
            (tokens > 0).then(|| PositionLoss { positions, loss: sum / tokens as f64, tokens })
        };
        self.0.into_iter().enumerate().filter_map(mean).collect()
    }
}
