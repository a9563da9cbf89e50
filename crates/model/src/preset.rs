//! Shapes by name.

use smallmind_graph::op::{Gelu, RopeScaling};

use crate::{Biases, DropoutConfig, Head, Mlp, ModelConfig, ModelError, NormKind, Positions, RopeConfig};

/// A named shape, and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    config: fn() -> ModelConfig,
}

impl Preset {
    /// The shape. Presets for training leave the vocabulary to the tokenizer: what stands here is for random weights.
    pub fn config(&self) -> ModelConfig {
        (self.config)()
    }
}

/// All presets.
pub const PRESETS: &[Preset] = &[
    Preset { name: "quickstart", about: "a storyteller that trains in about a minute", config: quickstart },
    Preset { name: "nanogpt-cpu", about: "nanoGPT's character Shakespeare for a laptop", config: nanogpt_cpu },
    Preset { name: "nanogpt-gpu", about: "nanoGPT's character Shakespeare for a GPU", config: nanogpt_gpu },
    Preset { name: "seed-deep", about: "the workload of the first SmallMind profile", config: seed_deep },
    Preset { name: "gpt2-124m", about: "GPT-2, 124 M parameters", config: gpt2_124m },
    Preset { name: "stories-15m", about: "llama2.c's TinyStories, 15 M parameters", config: stories_15m },
    Preset { name: "smollm2-135m", about: "SmolLM2, 135 M parameters", config: smollm2_135m },
    Preset { name: "qwen2.5-0.5b", about: "Qwen2.5, 0.5 B parameters", config: qwen25_05b },
    Preset { name: "llama-3.2-1b", about: "Llama 3.2, 1.2 B parameters", config: llama32_1b },
];

/// The preset of that name.
///
/// # Errors
/// [`ModelError::Preset`] with the nearest name.
pub fn find(name: &str) -> Result<&'static Preset, ModelError> {
    PRESETS.iter().find(|p| p.name == name).ok_or_else(|| {
        let names = PRESETS.iter().map(|p| p.name);
        ModelError::Preset {
            name: name.to_owned(),
            suggestion: smallmind_checkpoint::did_you_mean(name, names.clone()).map(str::to_owned),
            known: names.collect::<Vec<_>>().join(", "),
        }
    })
}

/// A GPT-2 of the given sizes; `d_ff` is four times the width.
fn gpt(vocab_size: usize, context: usize, d_model: usize, layers: usize, heads: usize) -> ModelConfig {
    ModelConfig {
        d_ff: 4 * d_model,
        positions: Positions::Learned,
        norm: NormKind::LayerNorm { bias: true },
        mlp: Mlp::Gelu(Gelu::Tanh),
        biases: Biases::ALL,
        head: Head::Tied,
        ..sizes(vocab_size, context, d_model, layers, heads)
    }
}

/// nanoGPT's GPT-2: GELU as it is defined, and no biases.
fn nanogpt(vocab_size: usize, context: usize, d_model: usize, layers: usize, heads: usize) -> ModelConfig {
    ModelConfig {
        norm: NormKind::LayerNorm { bias: false },
        mlp: Mlp::Gelu(Gelu::Exact),
        biases: Biases::NONE,
        ..gpt(vocab_size, context, d_model, layers, heads)
    }
}

/// A LLaMA of the given sizes with a tied head and as many key heads as query heads.
fn llama(vocab_size: usize, context: usize, d_model: usize, layers: usize, heads: usize, d_ff: usize) -> ModelConfig {
    ModelConfig { d_ff, head: Head::Tied, ..sizes(vocab_size, context, d_model, layers, heads) }
}

/// The default features with as many key heads as query heads.
fn sizes(vocab_size: usize, context: usize, d_model: usize, layers: usize, heads: usize) -> ModelConfig {
    let head_dim = d_model / heads;
    ModelConfig { vocab_size, context, d_model, layers, heads, kv_heads: heads, head_dim, ..ModelConfig::default() }
}

/// Rotary positions with another base.
fn rope(theta: f64) -> Positions {
    Positions::Rope(RopeConfig { theta, scaling: None })
}

fn quickstart() -> ModelConfig {
    // Near 1 / √d_model: a small model learns the sooner, and above all to copy names, when its embeddings differ from the beginning.
    ModelConfig { init_std: 0.08, ..llama(2048, 256, 128, 4, 4, 256) }
}

fn nanogpt_cpu() -> ModelConfig {
    nanogpt(65, 64, 128, 4, 4)
}

fn nanogpt_gpu() -> ModelConfig {
    let dropout = DropoutConfig { embedding: 0.2, attention: 0.2, residual: 0.2 };
    ModelConfig { dropout, ..nanogpt(65, 256, 384, 6, 6) }
}

fn seed_deep() -> ModelConfig {
    ModelConfig { head: Head::Untied, mlp: Mlp::Gelu(Gelu::Exact), ..gpt(512, 128, 256, 4, 8) }
}

fn gpt2_124m() -> ModelConfig {
    let end = Some(50_256);
    ModelConfig { bos: end, eos: end.into_iter().collect(), ..gpt(50_257, 1024, 768, 12, 12) }
}

fn stories_15m() -> ModelConfig {
    ModelConfig { bos: Some(1), eos: vec![2], ..llama(32_000, 256, 288, 6, 6, 768) }
}

fn smollm2_135m() -> ModelConfig {
    ModelConfig {
        kv_heads: 3,
        positions: rope(100_000.0),
        bos: Some(0),
        eos: vec![0],
        ..llama(49_152, 8192, 576, 30, 9, 1536)
    }
}

fn qwen25_05b() -> ModelConfig {
    ModelConfig {
        biases: Biases::QKV,
        kv_heads: 2,
        norm_eps: 1e-6,
        positions: rope(1_000_000.0),
        bos: Some(151_643),
        eos: vec![151_643],
        ..llama(151_936, 32_768, 896, 24, 14, 4864)
    }
}

fn llama32_1b() -> ModelConfig {
    let scaling =
        RopeScaling { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position: 8192 };
    ModelConfig {
        kv_heads: 8,
        positions: Positions::Rope(RopeConfig { theta: 500_000.0, scaling: Some(scaling) }),
        bos: Some(128_000),
        eos: vec![128_001],
        ..llama(128_256, 131_072, 2048, 16, 32, 8192)
    }
}
