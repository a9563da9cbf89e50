//! What is generated: the model, the prompt, and the right logits.

use std::sync::Arc;

use smallmind_graph::interpret::Interpreter;
use smallmind_graph::{Init, fuse};
use smallmind_model::{LOGITS, Model, ModelConfig, preset};
use smallmind_simd::IsaKind;

use super::engine::{Outputs, Planned, WeightLayout, limits, logits_graph, one_text, scalars};
use super::{Forward, greatest};
use crate::BenchError;
use crate::work::noise;

/// Probability of dropping in training mode.
pub(super) const DROPOUT: f32 = 0.1;

/// A text to be generated.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What it is called.
    pub name: &'static str,
    /// The model.
    pub config: ModelConfig,
    /// Random tokens to begin with.
    pub prompt: usize,
    /// Tokens to generate.
    pub generated: usize,
}

impl Workload {
    /// The workload of the first SmallMind's profile.
    ///
    /// # Errors
    /// None while the preset `seed-deep` exists.
    pub fn seed_deep() -> Result<Self, BenchError> {
        let config = spread(preset::find("seed-deep")?.config());
        Ok(Self { name: "seed-deep", config, prompt: 32, generated: 50 })
    }

    /// A small workload of the same kind, for tests.
    ///
    /// # Errors
    /// As [`Workload::seed_deep`].
    pub fn tiny() -> Result<Self, BenchError> {
        let full = Self::seed_deep()?.config;
        let (d, heads) = (32, 4);
        let config = ModelConfig {
            vocab_size: 61,
            context: 24,
            d_model: d,
            d_ff: 4 * d,
            layers: 2,
            heads,
            kv_heads: heads,
            head_dim: d / heads,
            ..full
        };
        Ok(Self { name: "tiny", config: spread(config), prompt: 7, generated: 10 })
    }

    /// Whether the first SmallMind's figures are about it.
    pub(super) fn is_published(&self) -> bool {
        self.name == "seed-deep"
    }
}

/// Weights of about 1 / √d_model, so that attention distinguishes tokens and a wrong mask changes the logits.
fn spread(config: ModelConfig) -> ModelConfig {
    ModelConfig { init_std: 1.0 / (config.d_model as f32).sqrt(), ..config }
}

/// A workload with its text and the right logits.
pub(super) struct Prepared {
    pub(super) workload: Workload,
    pub(super) model: Arc<Model>,
    /// The prompt and all generated tokens except the last, which no forward pass reads.
    pub(super) tokens: Vec<u32>,
    /// Lengths of beginnings of the text, with the engine's logits of what follows.
    pub(super) references: Vec<(usize, Vec<f32>)>,
}

impl Prepared {
    /// Makes the model and the text from `seed`. The engine generates the text with its best instructions, on one
    /// thread, by taking the likeliest token.
    pub(super) fn new(workload: Workload, seed: u64) -> Result<Self, BenchError> {
        let mut model = Model::random(workload.config.clone(), seed)?;
        // Biases of 0 and gains of 1 would hide a way that forgets them.
        let constants: Vec<_> = model
            .params()
            .iter()
            .filter(|(_, spec)| matches!(spec.init, Init::Constant(_)))
            .map(|(id, spec)| (model.layout().offset(id), spec.len()))
            .collect();
        for (start, len) in constants {
            let values = model.weights_mut()[start..start + len].iter_mut().enumerate();
            values.for_each(|(i, x)| *x += 0.2 * noise(seed, start + i));
        }
        let model = Arc::new(model);
        let vocab = workload.config.vocab_size;
        let (prompt, len) = (workload.prompt, workload.prompt + workload.generated - 1);
        let random = |i| ((noise(seed ^ 0xbee, i) + 0.5) * vocab as f32) as u32;
        let mut tokens: Vec<u32> = (0..prompt).map(|i| random(i).min(vocab as u32 - 1)).collect();
        let graph = fuse(&logits_graph(&model, 0.0)?);
        let mut engine = Planned::new(&model, WeightLayout::Rows, graph, len, (1, IsaKind::best()), Outputs::Last)?;
        let mut references = vec![(1, engine.logits(&tokens[..1])?.to_vec())];
        // The last two lengths differ by one, so that a cache is checked with a single token too.
        loop {
            let logits = engine.logits(&tokens)?;
            if tokens.len() == prompt || tokens.len() + 1 >= len {
                references.push((tokens.len(), logits.to_vec()));
            }
            if tokens.len() == len {
                break;
            }
            tokens.push(greatest(logits) as u32);
        }
        Ok(Self { workload, model, tokens, references })
    }

    /// The lengths of the text at which tokens are generated: of each `stride` adjacent ones only the middle.
    pub(super) fn lengths(&self, stride: usize) -> impl Iterator<Item = usize> {
        let prompt = self.workload.prompt;
        (stride / 2..self.workload.generated).step_by(stride).map(move |i| prompt + i)
    }

    /// The logits of the prompt in training mode, by the interpreter in `f64`.
    pub(super) fn training_reference(&self) -> Result<Vec<(usize, Vec<f32>)>, BenchError> {
        let graph = logits_graph(&self.model, DROPOUT)?;
        let len = self.workload.prompt;
        let batch = one_text(&limits(len), &self.tokens[..len], Outputs::Last);
        let mut interpreter = Interpreter::new(&graph, self.model.weights())?;
        interpreter.run(&graph, &batch, &scalars());
        Ok(vec![(len, interpreter.result(&graph, LOGITS).map(|m| m.to_f32()).unwrap_or_default())])
    }
}
