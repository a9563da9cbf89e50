//! How far the predictions of a model are from those of another, such as the one that it was quantized from.

use std::sync::Arc;

use smallmind_kernels::attention::CacheFormat;
use smallmind_model::{Job, Logits, ModelError, PackedModel, SequenceId, Session, SessionOptions};

use crate::logits::log_sum_exp;
use crate::text_windows::TextWindows;
use crate::{EvaluateSettings, TrainError};

/// The predictions of a model beside those of a reference, over a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Mean of the Kullback–Leibler divergence `Σ p ln(p / q)`, in nats, of the model's distribution `q` of the next
    /// token from the reference's `p` (Kullback and Leibler, "On Information and Sufficiency", 1951).
    pub mean: f64,
    /// The largest of the lower 99 % of divergences.
    pub percentile_99: f64,
    /// The largest divergence.
    pub max: f64,
    /// The share of tokens for which both hold the same next token to be the likeliest.
    pub same_top: f64,
    /// Mean loss of the model, in nats.
    pub loss: f64,
    /// Mean loss of the reference, in nats.
    pub reference_loss: f64,
    /// How many distributions were compared.
    pub tokens: usize,
}

/// Tokens whose logits are held at once.
const PIECE: usize = 64;

/// Compares the predictions of `model` with those of `reference` over a text, in the windows of
/// [`evaluate_text`](crate::evaluate_text) with the same settings, as far as both models have such a context: the losses
/// are those that it gives, if the cache is in `f32`. That of the reference is always. `progress` gets the number of
/// targets done and of all targets.
///
/// # Errors
/// Models of other vocabularies; a text with more tokens than they have entries for; logits that are not finite.
pub fn divergence(
    model: &Arc<PackedModel>,
    reference: &Arc<PackedModel>,
    text: &TextWindows,
    settings: EvaluateSettings,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Divergence, TrainError> {
    let vocabularies = [model, reference].map(|model| model.config().vocab_size);
    if vocabularies[0] != vocabularies[1] {
        return Err(TrainError::Vocabularies { model: vocabularies[0], reference: vocabularies[1] });
    }
    if text.vocab > vocabularies[0] {
        return Err(ModelError::Vocabulary { tokenizer: text.vocab, model: vocabularies[0] }.into());
    }
    let contexts = [model, reference].map(|model| model.config().context);
    let context = settings.max_context.max(text.prefix.len() + 1).min(contexts[0]).min(contexts[1]);
    let of_text = text.of_text(context);
    let reader = |model, cache_format| {
        let options = SessionOptions::single(text.prefix.len() + of_text, settings.threads);
        Reader::new(model, SessionOptions { cache_format, ..options })
    };
    let (mut model, mut reference) = (reader(model, settings.cache_format)?, reader(reference, CacheFormat::F32)?);
    let mut totals = Totals::default();
    for window in text.windows(of_text)? {
        model.restart();
        reference.restart();
        let (inputs, before) = text.inputs(&window);
        for (piece, first) in inputs.chunks(PIECE).zip((0..).step_by(PIECE)) {
            let (q, p) = (model.read(piece)?, reference.read(piece)?);
            for (row, (q, p)) in (first..).zip(q.chunks(vocabularies[0]).zip(p.chunks(vocabularies[0]))) {
                if row >= before {
                    totals.add(q, p, text.ids[window.start + row - before + 1] as usize);
                }
            }
        }
        progress(totals.divergences.len(), text.ids.len() - 1);
    }
    Ok(totals.divergence())
}

/// A session that reads one window after the other.
struct Reader {
    session: Session,
    sequence: SequenceId,
}

impl Reader {
    fn new(model: &Arc<PackedModel>, options: SessionOptions) -> Result<Self, ModelError> {
        let mut session = Session::new(model.clone(), options)?;
        let sequence = session.open()?;
        Ok(Self { session, sequence })
    }

    fn restart(&mut self) {
        self.session.truncate(self.sequence, 0);
    }

    /// The logits after each token, `[tokens, vocab]`.
    fn read(&mut self, tokens: &[u32]) -> Result<&[f32], ModelError> {
        let job = Job { sequence: self.sequence, tokens, logits: Logits::All };
        self.session.run(&[job])?.job(0)
    }
}

#[derive(Debug, Default)]
struct Totals {
    divergences: Vec<f64>,
    same_top: usize,
    loss: f64,
    reference_loss: f64,
}

impl Totals {
    /// Adds the logits of the model and of the reference for the token `next`.
    fn add(&mut self, q: &[f32], p: &[f32], next: usize) {
        let (q_norm, p_norm) = (log_sum_exp(q), log_sum_exp(p));
        let term = |(q, p): (&f32, &f32)| {
            let (log_q, log_p) = (f64::from(*q) - q_norm, f64::from(*p) - p_norm);
            log_p.exp() * (log_p - log_q)
        };
        // Rounding may leave a little below 0.
        self.divergences.push(q.iter().zip(p).map(term).sum::<f64>().max(0.0));
        self.same_top += usize::from(top(q) == top(p));
        self.loss += q_norm - f64::from(q[next]);
        self.reference_loss += p_norm - f64::from(p[next]);
    }

    fn divergence(mut self) -> Divergence {
        let tokens = self.divergences.len();
        let n = tokens.max(1) as f64;
        self.divergences.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| self.divergences.get(((n * share).ceil() as usize).saturating_sub(1)).copied();
        Divergence {
            mean: self.divergences.iter().sum::<f64>() / n,
            percentile_99: at(0.99).unwrap_or(0.0),
            max: at(1.0).unwrap_or(0.0),
            same_top: self.same_top as f64 / n,
            loss: self.loss / n,
            reference_loss: self.reference_loss / n,
            tokens,
        }
    }
}

/// The first of the largest logits.
fn top(logits: &[f32]) -> usize {
    let larger = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).fold(0, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_are_those_of_the_formula() {
        let mut totals = Totals::default();
        let ln = |x: f32| x.ln();
        // p = (1/2, 1/4, 1/4), q = (1/8, 3/4, 1/8): the other way round the divergence is another.
        totals.add(&[ln(1.0), ln(6.0), ln(1.0)], &[ln(2.0), ln(1.0), ln(1.0)], 1);
        totals.add(&[3.0, 1.0, 0.0], &[3.0, 1.0, 0.0], 0);
        let d = totals.divergence();
        let first = 0.5 * 4f64.ln() - 0.25 * 3f64.ln() + 0.25 * 2f64.ln();
        assert!((d.max - first).abs() < 1e-6 && (d.mean - first / 2.0).abs() < 1e-6, "{d:?}");
        assert_eq!((d.same_top, d.tokens, d.percentile_99), (0.5, 2, d.max));
        let of_second = (1.0 + (-2f64).exp() + (-3f64).exp()).ln();
        assert!((d.loss - ((4f64 / 3.0).ln() + of_second) / 2.0).abs() < 1e-6);
        assert!((d.reference_loss - (4f64.ln() + of_second) / 2.0).abs() < 1e-6);
    }
}
