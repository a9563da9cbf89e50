//! The settings of training: sections of keys.
//!
//! Not here: where settings come from, and which one wins; see [`Overlay`](crate::Overlay).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use smallmind_checkpoint::did_you_mean;
use smallmind_graph::Precision;
use smallmind_graph::op::{AdamWSpec, Gelu};
use smallmind_model::tokenizer::{END_OF_TEXT, MAX_TOKENS};
use smallmind_model::{Biases, ConfigError, Family, Head, Mlp, ModelConfig, NormKind, Positions, preset};
use smallmind_simd::IsaKind;

use crate::data::{Division, Documents};
use crate::keys::{self, KEYS, MOST_SEQUENCES};
use crate::{BatchShape, Optimizer, TrainError, Windows};

/// The model's shape. Absent settings come from the preset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelSection {
    /// Name of the preset whose shape the other settings change.
    pub preset: Option<String>,
    /// The model with which training begins, as the user named it: its shape, its weights and its tokenizer. Settings
    /// of a shape are refused beside it, except `context` and `dropout`.
    pub init_from: Option<String>,
    /// Family of architectures: `gpt2`, `llama` or `qwen2`.
    pub family: Option<String>,
    /// Number of blocks.
    pub layers: Option<usize>,
    /// Number of query heads.
    pub heads: Option<usize>,
    /// Number of key and value heads. If it is absent and `heads` is given: as many as query heads.
    pub kv_heads: Option<usize>,
    /// Width of the residual stream.
    pub d_model: Option<usize>,
    /// Width of the feed-forward. If it is absent and `d_model` is given: `d_model` times the preset's ratio of both.
    pub d_ff: Option<usize>,
    /// The most tokens of a sequence; training sequences have this many. With `init_from`, training sequences alone:
    /// the model keeps its own context, which is at least as long.
    pub context: Option<usize>,
    /// Dropout probability of embeddings, attention weights and residual additions, in `[0, 1)`.
    pub dropout: Option<f32>,
    /// Whether linear layers and norms have biases; has no effect on models without LayerNorm.
    pub biases: Option<bool>,
    /// Whether the output head shares the embedding table.
    pub tied: Option<bool>,
    /// GELU: `exact` or `tanh`; has no effect on gated feed-forwards.
    pub gelu: Option<String>,
    /// Base θ of rotary positions; has no effect on learned positions.
    pub rope_theta: Option<f64>,
}

impl ModelSection {
    /// `config` with the features that the settings name. Settings for features that the model doesn't have are
    /// ignored.
    fn with_features(&self, mut config: ModelConfig) -> Result<ModelConfig, TrainError> {
        if let Some(name) = self.family.as_deref() {
            let unknown = || value_error("model.family", name, &format!("{} are there", Family::names()));
            config = Family::from_name(name).ok_or_else(unknown)?.applied_to(config);
        }
        if let (Some(present), NormKind::LayerNorm { bias }) = (self.biases, &mut config.norm) {
            *bias = present;
            config.biases = if present { Biases::ALL } else { Biases::NONE };
        }
        let gelu = match self.gelu.as_deref() {
            None => None,
            Some("exact") => Some(Gelu::Exact),
            Some("tanh") => Some(Gelu::Tanh),
            Some(other) => return Err(value_error("model.gelu", other, "exact and tanh are there")),
        };
        if let (Some(gelu), Mlp::Gelu(kind)) = (gelu, &mut config.mlp) {
            *kind = gelu;
        }
        if let Some(theta) = self.rope_theta {
            match &mut config.positions {
                Positions::Learned => {}
                Positions::Rope(rope) => rope.theta = theta,
                Positions::RopeByLayer(layers) => layers.iter_mut().flatten().for_each(|rope| rope.theta = theta),
            }
        }
        Ok(config)
    }
}

/// The text, its tokenizer, and how windows are taken from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSection {
    /// `characters`, `bpe`, the path of a `tokenizer.json`, or `model` for that of `model.init_from`.
    pub tokenizer: String,
    /// Number of tokens of a trained tokenizer, from 257 to 393,216; has no effect on `characters`.
    pub vocab_size: usize,
    /// Share of the text, at its end, that is kept for validation, in `(0, 1)`.
    pub validation: f64,
    /// Where the windows of training begin: `uniform` or `documents`.
    #[serde(default)]
    pub windows: Windows,
    /// What a document is: `separated` or `files`.
    #[serde(default)]
    pub documents: Documents,
    /// Text between documents; empty for none. If it is absent: [`END_OF_TEXT`] for vocabularies with a token that ends
    /// documents, none for others.
    #[serde(default)]
    pub separator: Option<String>,
}

impl DataSection {
    /// How text is divided. `has_end` says whether the vocabulary has a token that ends documents.
    #[must_use]
    pub fn division(&self, has_end: bool) -> Division<'_> {
        let separator = match self.separator.as_deref() {
            None => has_end.then_some(END_OF_TEXT),
            named => named.filter(|separator| !separator.is_empty()),
        };
        Division { documents: self.documents, separator: separator.filter(|_| self.documents == Documents::Separated) }
    }
}

/// How the learning rate changes during training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Warm-up, then `lr`.
    Constant,
    /// Warm-up, then half a cosine from `lr` down to `min_lr`.
    Cosine,
    /// Warm-up, then `lr`, then linearly down to `min_lr` over the last fifth of the steps.
    Wsd,
}

/// Steps and the optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSection {
    /// Updates of the whole run, at least 1.
    pub steps: u64,
    /// Sequences in a micro-batch, at least 1.
    pub batch: usize,
    /// Tokens in a step: a multiple of batch × context, which is the number of micro-batches. 0 for one micro-batch.
    pub total_tokens: usize,
    /// Highest learning rate, at least 0.
    pub lr: f64,
    /// Learning rate at the end of the decay, from 0 to `lr`.
    pub min_lr: f64,
    /// Steps over which the rate rises linearly to `lr`.
    pub warmup: u64,
    /// How the rate changes after the warm-up.
    pub schedule: ScheduleKind,
    /// Step at which the rate reaches `min_lr`; 0 for the last step.
    pub decay_steps: u64,
    /// AdamW's β₁, in `[0, 1)`.
    pub beta1: f64,
    /// AdamW's β₂, in `[0, 1)`.
    pub beta2: f64,
    /// AdamW's ε, above 0.
    pub eps: f64,
    /// AdamW's weight decay of matrices, at least 0; biases and norms don't decay.
    pub weight_decay: f64,
    /// Gradients are clipped to this global norm; 0 for no clipping.
    pub clip: f64,
    /// The format in which training multiplies the factors of products. Weights, gradients, moments, norms, softmax and
    /// losses are in `f32` either way, and evaluations multiply in `f32`. The settings of runs of earlier versions lack
    /// it: they are in `f32`.
    #[serde(with = "crate::keys::precision", default)]
    pub precision: Precision,
    /// Seed of initial weights, batches, dropout and samples. Stored as text above 2^63 - 1, where TOML has no
    /// integers.
    #[serde(with = "crate::keys::seed")]
    pub seed: u64,
}

/// Estimates of the losses during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalSection {
    /// Steps between estimates; 0 for one at the end.
    pub interval: u64,
    /// Random batches of each split for an estimate, which is their mean; at least 1.
    pub batches: usize,
}

/// Texts that the model generates during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleSection {
    /// Steps between samples; 0 for none.
    pub interval: u64,
    /// The most tokens of a sample, without its prompt.
    pub tokens: usize,
    /// The text with which samples begin.
    pub prompt: String,
    /// Temperature of the sampler, at least 0.
    pub temperature: f32,
}

/// When checkpoints are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointSection {
    /// Steps between checkpoints; 0 for one at the end.
    pub interval: u64,
    /// Number of the latest checkpoints that are kept, at least 1.
    pub keep: usize,
}

/// When steps are logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogSection {
    /// Steps between lines of the log, at least 1.
    pub interval: u64,
}

/// All settings of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// The model's shape.
    pub model: ModelSection,
    /// The text and its tokenizer.
    pub data: DataSection,
    /// Steps and the optimizer.
    pub train: TrainSection,
    /// Estimates of the losses.
    pub eval: EvalSection,
    /// Samples of text.
    pub sample: SampleSection,
    /// Checkpoints.
    pub checkpoint: CheckpointSection,
    /// Lines of the log.
    pub log: LogSection,
}

impl TrainConfig {
    /// The settings with which a preset is trained.
    pub(crate) fn of_preset(name: Option<&str>) -> Result<Self, TrainError> {
        let base = Self {
            model: ModelSection { preset: name.map(str::to_owned), ..ModelSection::default() },
            data: DataSection {
                tokenizer: "bpe".into(),
                vocab_size: VOCAB_SIZE,
                validation: 0.1,
                windows: Windows::Uniform,
                documents: Documents::Separated,
                separator: None,
            },
            train: TrainSection {
                steps: 2000,
                batch: 12,
                total_tokens: 0,
                lr: 1e-3,
                min_lr: 1e-4,
                warmup: 100,
                schedule: ScheduleKind::Cosine,
                decay_steps: 0,
                beta1: 0.9,
                beta2: 0.99,
                eps: 1e-8,
                weight_decay: 0.1,
                clip: 1.0,
                precision: Precision::F32,
                seed: 1337,
            },
            eval: EvalSection { interval: 250, batches: 20 },
            sample: SampleSection { interval: 500, tokens: 100, prompt: String::new(), temperature: 0.8 },
            checkpoint: CheckpointSection { interval: 250, keep: 2 },
            log: LogSection { interval: 10 },
        };
        let training = name.map_or(Ok(&[][..]), |name| preset::find(name).map(|preset| preset.training))?;
        training.iter().try_fold(base, |config, (key, text)| config.with_text(key, text, "preset"))
    }

    /// The model's shape for a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    /// Numbers that aren't a valid model; `model.init_from`, since the shape is then in the files of that model.
    pub fn model_config(&self, vocab_size: usize) -> Result<ModelConfig, TrainError> {
        let m = &self.model;
        if let Some(model) = &m.init_from {
            return Err(value_error("model.init_from", model, "the settings alone don't say the shape of the model"));
        }
        let base = preset::find(m.preset.as_deref().unwrap_or(USUAL_SHAPE))?.config();
        let heads = m.heads.unwrap_or(base.heads);
        let d_model = m.d_model.unwrap_or(base.d_model);
        if heads == 0 || !d_model.is_multiple_of(heads) {
            let why = format!("the {heads} heads must divide the width {d_model} evenly");
            return Err(value_error("model.heads", &heads.to_string(), &why));
        }
        let same_heads = m.heads.is_none();
        let mut dropout = base.dropout;
        if let Some(p) = m.dropout {
            (dropout.embedding, dropout.attention, dropout.residual) = (p, p, p);
        }
        let config = ModelConfig {
            vocab_size,
            context: m.context.unwrap_or(base.context),
            d_model,
            layers: m.layers.unwrap_or(base.layers),
            heads,
            kv_heads: m.kv_heads.unwrap_or(if same_heads { base.kv_heads } else { heads }),
            head_dim: d_model / heads,
            d_ff: m.d_ff.unwrap_or(base.d_ff.saturating_mul(d_model) / base.d_model),
            head: m.tied.map_or(base.head, |tied| if tied { Head::Tied } else { Head::Untied }),
            dropout,
            bos: None,
            eos: vec![],
            ..base
        };
        let config = m.with_features(config)?;
        config.check().map_err(model_setting)?;
        // A trained model is written to files, so a `model_type` must be able to express it.
        config.model_type().map_err(model_setting)?;
        Ok(config)
    }

    /// Tokens of a training sequence.
    ///
    /// # Errors
    /// Numbers that aren't a valid model.
    pub fn context(&self) -> Result<usize, TrainError> {
        match (&self.model.init_from, self.model.context) {
            (Some(_), Some(context)) => Ok(context),
            (Some(model), None) => Err(value_error(
                "model.init_from",
                model,
                "model.context must say how many tokens a window of the text has",
            )),
            (None, _) => Ok(self.model_config(1)?.context),
        }
    }

    /// Sequences and tokens of a micro-batch.
    ///
    /// # Errors
    /// As [`TrainConfig::context`].
    pub fn batch_shape(&self) -> Result<BatchShape, TrainError> {
        Ok(BatchShape { sequences: self.train.batch, context: self.context()? })
    }

    /// Micro-batches in a step.
    ///
    /// # Errors
    /// As [`TrainConfig::context`].
    pub fn micro_batches(&self) -> Result<usize, TrainError> {
        let tokens = self.batch_shape()?.tokens();
        Ok(if self.train.total_tokens == 0 { 1 } else { self.train.total_tokens / tokens })
    }

    /// Checks that this CPU can train so with the instruction set.
    ///
    /// # Errors
    /// `train.precision` is `bf16`, and the CPU has no dot products of `bf16`.
    pub fn check_cpu(&self, isa: IsaKind) -> Result<(), TrainError> {
        check_precision(self.train.precision, isa)
    }

    /// The optimizer's constants.
    pub fn optimizer(&self) -> Optimizer {
        let t = &self.train;
        let adamw = AdamWSpec { beta1: t.beta1, beta2: t.beta2, eps: t.eps, weight_decay: t.weight_decay };
        Optimizer { adamw, max_norm: if t.clip > 0.0 { t.clip } else { f64::INFINITY } }
    }

    /// The path of the `tokenizer.json` to read; `None` if the tokenizer is made from the text or is the model's.
    pub fn tokenizer_file(&self) -> Option<PathBuf> {
        let path = self.data.tokenizer.as_str();
        (!TOKENIZERS.contains(&path) && path != OF_MODEL).then(|| PathBuf::from(path))
    }

    /// Checks each setting, and that settings agree with each other.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        self.check_each()?;
        self.check_initial()?;
        self.context()?;
        let t = &self.train;
        let why = format!("it must be at most train.lr = {}", t.lr);
        let falls = t.schedule != ScheduleKind::Constant;
        require(!falls || t.min_lr <= t.lr, "train.min_lr", t.min_lr.to_string(), &why)?;
        let bytes_and_merges = 257..=MAX_TOKENS;
        let vocab = self.data.vocab_size;
        let fits = self.data.tokenizer != "bpe" || bytes_and_merges.contains(&vocab);
        let divides = self.data.separator.as_deref().filter(|separator| !separator.is_empty());
        if let (Some(separator), Documents::Files) = (divides, self.data.documents) {
            return Err(value_error("data.separator", separator, "data.documents=files makes each file a document"));
        }
        require(
            fits,
            "data.vocab_size",
            vocab.to_string(),
            "it must be from 257 (the bytes and the end of a text) to 393216",
        )?;
        let tokens = self.batch_shape()?.tokens();
        let total = t.total_tokens;
        let why =
            format!("it must be a multiple of batch × context = {tokens} tokens, below 2^63, or 0 for one micro-batch");
        let fits = total.is_multiple_of(tokens) && i64::try_from(total).is_ok();
        require(fits, "train.total_tokens", total.to_string(), &why)
    }

    /// Checks each key independently.
    fn check_each(&self) -> Result<(), TrainError> {
        // `total_tokens` may be a product that exceeds TOML's greatest integer.
        let train = TrainSection { total_tokens: 0, ..self.train.clone() };
        let table = Self { train, ..self.clone() }.to_table()?;
        for key in KEYS {
            let (section, name) = keys::split(key.name);
            let value = table.get(section).and_then(|keys| keys.get(name));
            if let Some((value, why)) = value.and_then(|value| Some((value, key.takes.check(value).err()?))) {
                return Err(value_error(key.name, &keys::shown(value), &why));
            }
        }
        Ok(())
    }

    /// The settings as TOML.
    pub(crate) fn to_table(&self) -> Result<toml::Table, TrainError> {
        // Only numbers can fail here.
        toml::Table::try_from(self).map_err(|_| TrainError::Value {
            key: "train".to_owned(),
            origin: "the settings".to_owned(),
            why: "one of its numbers is above 2^63 - 1".to_owned(),
        })
    }

    pub(crate) fn check_batch(&self) -> Result<(), TrainError> {
        let batch = self.train.batch;
        let why = format!("it must be from 1 to {MOST_SEQUENCES} sequences");
        require((1..=MOST_SEQUENCES).contains(&(batch as u64)), "train.batch", batch.to_string(), &why)
    }

    /// Checks that `data.tokenizer` is a kind of vocabulary, a file, or looks like a path. Paths are opened later.
    pub(crate) fn check_tokenizer(&self) -> Result<(), TrainError> {
        let Some(path) = self.tokenizer_file() else { return Ok(()) };
        let word = &self.data.tokenizer;
        if word.contains(['/', '\\', '.']) || path.exists() {
            return Ok(());
        }
        let near = did_you_mean(word, TOKENIZERS).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        let why =
            format!("it must be characters, bpe, or the path of a tokenizer.json, and there is no such file{near}");
        Err(value_error("data.tokenizer", &format!("{word:?}"), &why))
    }
}

/// The value of `data.tokenizer` for the tokenizer of `model.init_from`.
pub(crate) const OF_MODEL: &str = "model";

/// Tokens of a trained tokenizer if no setting says how many.
pub(crate) const VOCAB_SIZE: usize = 4096;

/// The preset whose shape is used if no preset is named.
const USUAL_SHAPE: &str = "nanogpt-cpu";

/// The values of `data.tokenizer` for vocabularies made from the text.
const TOKENIZERS: [&str; 2] = ["characters", "bpe"];

/// Checks that this CPU can multiply so with the instruction set.
pub(crate) fn check_precision(precision: Precision, isa: IsaKind) -> Result<(), TrainError> {
    let why =
        format!("this CPU has no dot products of bf16 with the instruction set {isa}; f32 is the other precision");
    require(precision.is_available(isa), "train.precision", precision.name().to_owned(), &why)
}

fn require(holds: bool, key: &str, got: String, why: &str) -> Result<(), TrainError> {
    if holds { Ok(()) } else { Err(value_error(key, &got, why)) }
}

/// An error of a model's configuration as an error of the corresponding setting.
fn model_setting(error: ConfigError) -> TrainError {
    match error {
        ConfigError::Invalid { key, got, why, .. } => {
            // There is no setting `head_dim`: it is the width divided by the number of heads.
            if key == "head_dim" {
                return value_error(
                    "model.heads",
                    &format!("width / {got}"),
                    &format!("with {got} features a head: {why}"),
                );
            }
            let name = if key.starts_with("dropout") { "dropout" } else { key.as_str() };
            value_error(&format!("model.{name}"), &got, &why)
        }
        ConfigError::NotStorable { key, got, model_type, takes } => {
            let why = format!("no config.json could state the model; a {model_type} takes {takes}");
            value_error(&format!("model.{key}"), &got, &why)
        }
        other => smallmind_model::ModelError::from(other).into(),
    }
}

pub(crate) fn value_error(key: &str, got: &str, why: &str) -> TrainError {
    TrainError::Value { key: key.to_owned(), origin: format!("{key} = {got}"), why: why.to_owned() }
}
