//! Named shapes of models.

use smallmind_graph::op::{Gelu, Llama3Scaling, RopeScaling};

use crate::{Biases, DropoutConfig, Head, Mlp, ModelConfig, ModelError, NormKind, Positions, RopeConfig};

/// A named shape, and the settings with which its training begins.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Settings of training that differ from the defaults: keys such as `train.batch`, and values as a user types them.
    pub training: &'static [(&'static str, &'static str)],
    config: fn() -> ModelConfig,
}

impl Preset {
    const fn new(name: &'static str, about: &'static str, config: fn() -> ModelConfig) -> Self {
        Self { name, about, training: &[], config }
    }

    const fn trained_with(self, training: &'static [(&'static str, &'static str)]) -> Self {
        Self { training, ..self }
    }

    /// The shape. Its size of the vocabulary is for random weights; training takes that size from the tokenizer.
    pub fn config(&self) -> ModelConfig {
        (self.config)()
    }
}

/// All presets.
pub const PRESETS: &[Preset] = &[
    Preset::new("quickstart", "a storyteller that trains in about a minute", quickstart).trained_with(&[
        ("data.vocab_size", "2048"),
        ("train.batch", "4"),
        ("train.lr", "1.5e-3"),
        ("train.min_lr", "5e-5"),
        ("sample.interval", "0"),
    ]),
    Preset::new("nanogpt-cpu", "nanoGPT's character Shakespeare for a laptop", nanogpt_cpu)
        .trained_with(&[("data.tokenizer", "characters")]),
    Preset::new("nanogpt-gpu", "nanoGPT's character Shakespeare for a GPU", nanogpt_gpu).trained_with(&[
        ("data.tokenizer", "characters"),
        ("train.steps", "5000"),
        ("train.batch", "64"),
    ]),
    Preset::new("seed-deep", "the workload of the first SmallMind profile", seed_deep),
    Preset::new("gpt2-124m", "GPT-2, 124 M parameters", gpt2_124m),
    Preset::new("stories-15m", "llama2.c's TinyStories, 15 M parameters", stories_15m),
    Preset::new("stories-18m", "a LLaMA for TinyStories, 18 M parameters", stories_18m),
    Preset::new("smollm2-135m", "SmolLM2, 135 M parameters", smollm2_135m),
    Preset::new("qwen2.5-0.5b", "Qwen2.5, 0.5 B parameters", qwen25_05b),
    Preset::new("llama-3.2-1b", "Llama 3.2, 1.2 B parameters", llama32_1b),
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

/// A GPT-2: the feed-forward is four times as wide as the residual stream.
fn gpt(d_model: usize, layers: usize, heads: usize) -> ModelConfig {
    ModelConfig {
        d_ff: 4 * d_model,
        positions: Positions::Learned,
        norm: NormKind::LayerNorm { bias: true },
        mlp: Mlp::Gelu(Gelu::Tanh),
        biases: Biases::ALL,
        ..llama(d_model, layers, heads)
    }
}

/// nanoGPT's GPT-2: exact GELU and no biases.
fn nanogpt(d_model: usize, layers: usize, heads: usize) -> ModelConfig {
    ModelConfig {
        norm: NormKind::LayerNorm { bias: false },
        mlp: Mlp::Gelu(Gelu::Exact),
        biases: Biases::NONE,
        ..gpt(d_model, layers, heads)
    }
}

/// A LLaMA with a tied head and as many key heads as query heads.
fn llama(d_model: usize, layers: usize, heads: usize) -> ModelConfig {
    let (head_dim, kv_heads) = (d_model / heads, heads);
    ModelConfig { d_model, layers, heads, kv_heads, head_dim, head: Head::Tied, ..ModelConfig::default() }
}

/// Rotary positions with the base `theta`.
fn rope(theta: f64) -> Positions {
    Positions::Rope(RopeConfig { theta, ..RopeConfig::default() })
}

fn quickstart() -> ModelConfig {
    // About 1 / √d_model: a small model learns faster, above all to copy names, if its embeddings are different from
    // the beginning.
    ModelConfig { vocab_size: 2048, context: 256, d_ff: 256, init_std: 0.08, ..llama(128, 4, 4) }
}

fn nanogpt_cpu() -> ModelConfig {
    ModelConfig { vocab_size: 65, context: 64, ..nanogpt(128, 4, 4) }
}

fn nanogpt_gpu() -> ModelConfig {
    let dropout = DropoutConfig { embedding: 0.2, attention: 0.2, residual: 0.2 };
    ModelConfig { vocab_size: 65, context: 256, dropout, ..nanogpt(384, 6, 6) }
}

fn seed_deep() -> ModelConfig {
    let mlp = Mlp::Gelu(Gelu::Exact);
    ModelConfig { vocab_size: 512, context: 128, head: Head::Untied, mlp, ..gpt(256, 4, 8) }
}

fn gpt2_124m() -> ModelConfig {
    ModelConfig { vocab_size: 50_257, context: 1024, bos: Some(50_256), eos: vec![50_256], ..gpt(768, 12, 12) }
}

fn stories_15m() -> ModelConfig {
    ModelConfig { vocab_size: 32_000, context: 256, d_ff: 768, bos: Some(1), eos: vec![2], ..llama(288, 6, 6) }
}

/// CS336's model for TinyStories, with a tied head.
fn stories_18m() -> ModelConfig {
    ModelConfig { vocab_size: 10_000, context: 256, d_ff: 1344, ..llama(512, 4, 16) }
}

fn smollm2_135m() -> ModelConfig {
    ModelConfig {
        vocab_size: 49_152,
        context: 8192,
        kv_heads: 3,
        d_ff: 1536,
        positions: rope(100_000.0),
        bos: Some(0),
        eos: vec![0],
        ..llama(576, 30, 9)
    }
}

fn qwen25_05b() -> ModelConfig {
    ModelConfig {
        vocab_size: 151_936,
        context: 32_768,
        kv_heads: 2,
        d_ff: 4864,
        biases: Biases::QKV,
        norm_eps: 1e-6,
        positions: rope(1_000_000.0),
        bos: Some(151_643),
        eos: vec![151_643],
        ..llama(896, 24, 14)
    }
}

fn llama32_1b() -> ModelConfig {
    let llama3 =
        Llama3Scaling { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position: 8192 };
    let scaling = Some(RopeScaling::Llama3(llama3));
    ModelConfig {
        vocab_size: 128_256,
        context: 131_072,
        kv_heads: 8,
        d_ff: 8192,
        positions: Positions::Rope(RopeConfig { theta: 500_000.0, scaling, ..RopeConfig::default() }),
        bos: Some(128_000),
        eos: vec![128_001],
        ..llama(2048, 16, 32)
    }
}
