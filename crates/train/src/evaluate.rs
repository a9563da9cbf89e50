//! The loss of a model over a whole set.

use smallmind_graph::Batch;
use smallmind_model::tokenizer::Tokenizer;
use smallmind_model::{Model, ModelError};
use smallmind_simd::IsaKind;

use crate::data::{Dataset, SequentialWindows, Window};
use crate::{BatchShape, Evaluator, TrainError};

/// How well a model predicts a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean over all targets, in nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Comparable across tokenizers.
    pub bits_per_byte: Option<f64>,
    /// Targets: all tokens but the first.
    pub tokens: usize,
}

/// Tokens that an evaluation works on at once.
const BATCH_TOKENS: usize = 2048;

/// The mean loss of `model` over `text`, in windows of the model's context (at most `max_context`), end to end.
///
/// # Errors
/// A tokenizer of another vocabulary, characters without a token, or a text of less than two tokens.
pub fn evaluate_text(
    model: &Model,
    tokenizer: &Tokenizer,
    text: &str,
    settings: EvaluateSettings,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation, TrainError> {
    let vocab = model.config().vocab_size;
    if tokenizer.vocab_size() > vocab {
        return Err(ModelError::Vocabulary { tokenizer: tokenizer.vocab_size(), model: vocab }.into());
    }
    let ids = tokenizer.encode(text, smallmind_model::tokenizer::SpecialTokens::AsText)?;
    let data = Dataset::from_tokens(&ids, u32::try_from(vocab).unwrap_or(u32::MAX), text.len() as u64)?;
    let context = settings.max_context.min(model.config().context).min(ids.len().saturating_sub(1)).max(1);
    let shape = BatchShape { sequences: (BATCH_TOKENS / context).max(1), context };
    let mut evaluator = Evaluator::new(model.config(), shape, settings.threads, settings.isa)?;
    let windows: Vec<_> = SequentialWindows::new(data.tokens(), context)?.iter().collect();
    whole_set(&data, &windows, shape, &mut |batch| evaluator.run(model.weights(), batch), progress)
}

/// How an evaluation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluateSettings {
    /// Worker threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: IsaKind,
    /// The longest window; the model's context where that is shorter.
    pub max_context: usize,
}

/// The loss over `windows` of `data`; `sum` gives the sum of the losses of a batch.
pub(crate) fn whole_set(
    data: &Dataset,
    windows: &[Window],
    shape: BatchShape,
    sum: &mut dyn FnMut(&Batch) -> Result<f64, ModelError>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation, TrainError> {
    let (mut x, mut y) = (vec![0; shape.context], vec![0; shape.context]);
    let mut batch = Batch::default();
    let tokens: usize = windows.iter().map(|window| window.len).sum();
    let (mut total, mut done) = (0.0, 0);
    for (i, window) in windows.iter().enumerate() {
        let (x, y) = (&mut x[..window.len], &mut y[..window.len]);
        window.fill(data, x, y)?;
        batch.push_with_targets(x, y);
        done += window.len;
        if windows.get(i + 1).is_none_or(|next| batch.len() + next.len > shape.tokens()) {
            total += sum(&batch)?;
            batch.clear();
            progress(done, tokens);
        }
    }
    let loss = total / tokens as f64;
    Ok(Evaluation { loss, perplexity: loss.exp(), bits_per_byte: data.bits_per_byte(loss), tokens })
}
