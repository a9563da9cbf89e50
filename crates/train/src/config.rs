//! What a training is told: sections of keys, in layers.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smallmind_graph::op::{AdamWSpec, Gelu};
use smallmind_model::{Biases, ConfigError, Family, Head, ModelConfig, preset};
use toml::{Table, Value};

use crate::{BatchShape, Optimizer, TrainError, Windows};

/// The model's shape. What is absent comes from the preset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelSection {
    /// The shape to begin with.
    pub preset: Option<String>,
    /// `gpt2`, `llama` or `qwen2`.
    pub family: Option<String>,
    /// Blocks.
    pub layers: Option<usize>,
    /// Query heads.
    pub heads: Option<usize>,
    /// Key and value heads; as many as query heads where a number of those is given and this one isn't.
    pub kv_heads: Option<usize>,
    /// Features of the residual stream.
    pub d_model: Option<usize>,
    /// Features inside the feed-forward; in the preset's proportion where only the width is given.
    pub d_ff: Option<usize>,
    /// The longest sequence, and the length of training sequences.
    pub context: Option<usize>,
    /// Probability of dropping: embeddings, attention weights, residual additions.
    pub dropout: Option<f32>,
    /// Whether a GPT-2 has biases.
    pub biases: Option<bool>,
    /// Whether the output head is the embedding table.
    pub tied: Option<bool>,
    /// `exact` or `tanh`.
    pub gelu: Option<String>,
    /// The base of rotary positions.
    pub rope_theta: Option<f64>,
}

/// The data and what it is cut into.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSection {
    /// `characters`, `bpe`, or the path of a `tokenizer.json`.
    pub tokenizer: String,
    /// Tokens of a tokenizer that is trained.
    pub vocab_size: usize,
    /// The last part of the text that is kept for validation.
    pub validation: f64,
    /// `uniform`, or `documents`: where the windows of a training begin.
    #[serde(default)]
    pub windows: Windows,
}

/// The course of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Warm-up, then always the same.
    Constant,
    /// Warm-up, then half a cosine down to `min_lr`.
    Cosine,
    /// Warm-up, stable, then straight down to `min_lr` over the last fifth.
    Wsd,
}

/// Steps and the optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSection {
    /// Updates in all.
    pub steps: u64,
    /// Sequences in a micro-batch.
    pub batch: usize,
    /// Tokens in a step; a multiple of batch × context, gathered over as many micro-batches. 0: one micro-batch.
    pub total_tokens: usize,
    /// The highest learning rate.
    pub lr: f64,
    /// The lowest.
    pub min_lr: f64,
    /// Steps from 0 up to `lr`.
    pub warmup: u64,
    /// The course after them.
    pub schedule: ScheduleKind,
    /// The step at which `min_lr` is reached; 0: the last.
    pub decay_steps: u64,
    /// AdamW's β₁.
    pub beta1: f64,
    /// AdamW's β₂.
    pub beta2: f64,
    /// AdamW's ε.
    pub eps: f64,
    /// Decay of matrices.
    pub weight_decay: f64,
    /// The greatest global norm of gradients; 0: no clipping.
    pub clip: f64,
    /// Of initial weights, batches, dropout and samples.
    pub seed: u64,
}

/// Estimates of the loss on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalSection {
    /// Steps between them; 0: only at the end.
    pub interval: u64,
    /// Random batches of each part that an estimate is the mean of.
    pub batches: usize,
}

/// Texts written on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleSection {
    /// Steps between them; 0: none.
    pub interval: u64,
    /// Their length.
    pub tokens: usize,
    /// What they begin with.
    pub prompt: String,
    /// Of the sampling.
    pub temperature: f32,
}

/// Checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointSection {
    /// Steps between them; 0: only at the end.
    pub interval: u64,
    /// How many of the latest are kept.
    pub keep: usize,
}

/// Lines of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogSection {
    /// Steps between them.
    pub interval: u64,
}

/// Everything that a training is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// The model's shape.
    pub model: ModelSection,
    /// The data.
    pub data: DataSection,
    /// Steps and the optimizer.
    pub train: TrainSection,
    /// Estimates of the loss.
    pub eval: EvalSection,
    /// Texts on the way.
    pub sample: SampleSection,
    /// Checkpoints.
    pub checkpoint: CheckpointSection,
    /// Lines of the log.
    pub log: LogSection,
}

/// Every key, with nanoGPT's name for it where it has one.
const KEYS: &[(&str, &str)] = &[
    ("model.preset", ""),
    ("model.family", ""),
    ("model.layers", "n_layer"),
    ("model.heads", "n_head"),
    ("model.kv_heads", ""),
    ("model.d_model", "n_embd"),
    ("model.d_ff", ""),
    ("model.context", "block_size"),
    ("model.dropout", "dropout"),
    ("model.biases", "bias"),
    ("model.tied", ""),
    ("model.gelu", ""),
    ("model.rope_theta", ""),
    ("data.tokenizer", ""),
    ("data.vocab_size", ""),
    ("data.validation", ""),
    ("data.windows", ""),
    ("train.steps", "max_iters"),
    ("train.batch", "batch_size"),
    ("train.total_tokens", ""),
    ("train.lr", "learning_rate"),
    ("train.min_lr", "min_lr"),
    ("train.warmup", "warmup_iters"),
    ("train.schedule", ""),
    ("train.decay_steps", "lr_decay_iters"),
    ("train.beta1", "beta1"),
    ("train.beta2", "beta2"),
    ("train.eps", ""),
    ("train.weight_decay", "weight_decay"),
    ("train.clip", "grad_clip"),
    ("train.seed", "seed"),
    ("eval.interval", "eval_interval"),
    ("eval.batches", "eval_iters"),
    ("sample.interval", ""),
    ("sample.tokens", ""),
    ("sample.prompt", ""),
    ("sample.temperature", ""),
    ("checkpoint.interval", ""),
    ("checkpoint.keep", ""),
    ("log.interval", "log_interval"),
];

/// What keys begin with.
const SECTIONS: &[&str] = &["model", "data", "train", "eval", "sample", "checkpoint", "log"];

/// nanoGPT's names that mean nothing here and may stand in a command line that is copied.
const IGNORED: &[&str] =
    &["device", "compile", "dtype", "wandb_log", "always_save_checkpoint", "init_from", "eval_only"];

/// The keys that may change when a training goes on. The number of steps moves the end of the schedule, and so the learning rates to come, unless
/// `train.decay_steps` fixes it; the others change nothing that a step computes.
const RESUMABLE: &[&str] = &["train.steps", "eval.", "sample.", "checkpoint.", "log."];

/// Some keys and their values, and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Such as `--config run.toml` or `--train.lr=1e-3`.
    pub origin: String,
    /// By section.
    pub table: Table,
}

impl Layer {
    /// A TOML file.
    ///
    /// # Errors
    /// A file that can't be read or isn't TOML.
    pub fn file(path: &Path) -> Result<Self, TrainError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| TrainError::Read { path: path.to_owned(), source })?;
        let table = text.parse().map_err(|e: toml::de::Error| TrainError::Toml {
            path: path.to_owned(),
            why: e.to_string().trim_end().to_owned(),
        })?;
        Ok(Self { origin: path.display().to_string(), table })
    }

    /// `section.key=value`, or `name=value` with a name of nanoGPT's. A layer without keys where the name means nothing here.
    ///
    /// # Errors
    /// No `=`, or a name that does not exist.
    pub fn assignment(text: &str) -> Result<Self, TrainError> {
        let origin = format!("--{text}");
        let Some((name, value)) = text.split_once('=') else {
            return Err(TrainError::Assignment { text: origin });
        };
        if IGNORED.contains(&name) {
            return Ok(Self { origin, table: Table::new() });
        }
        if name == "gradient_accumulation_steps" {
            // Only known together with batch and context: `TrainConfig::layered` turns it into tokens.
            return Ok(Self { origin, table: nested("train", "accumulation", parse_value(value)) });
        }
        let known = KEYS.iter().find(|(key, alias)| *key == name || (!alias.is_empty() && *alias == name));
        let Some((key, _)) = known else { return Err(unknown(name, &origin)) };
        let (section, name) = split(key);
        Ok(Self { table: nested(section, name, value_of(key, value)), origin })
    }

    /// Whether `name` is a key or one of nanoGPT's names.
    pub fn is_known(name: &str) -> bool {
        let named = |(key, alias): &(&str, &str)| *key == name || (!alias.is_empty() && *alias == name);
        KEYS.iter().any(named) || IGNORED.contains(&name) || name == "gradient_accumulation_steps"
    }

    /// One layer for each variable `SMALLMIND_SECTION_KEY`.
    pub fn environment() -> Vec<Layer> {
        let of_key = |(key, _): &(&str, &str)| {
            let variable = format!("SMALLMIND_{}", key.replace('.', "_").to_uppercase());
            let value = std::env::var(&variable).ok()?;
            let (section, name) = split(key);
            Some(Layer { origin: variable, table: nested(section, name, value_of(key, &value)) })
        };
        KEYS.iter().filter_map(of_key).collect()
    }

    /// Each key with its value.
    fn entries(&self) -> Result<Vec<(String, &Value)>, TrainError> {
        let mut entries = Vec::new();
        for (section, value) in &self.table {
            let Value::Table(keys) = value else { return Err(unknown_key(section, &self.origin)) };
            if !SECTIONS.contains(&section.as_str()) {
                return Err(unknown_key(section, &self.origin));
            }
            for (key, value) in keys {
                let name = format!("{section}.{key}");
                if !KEYS.iter().any(|(k, _)| *k == name) && name != "train.accumulation" {
                    return Err(unknown_key(&name, &self.origin));
                }
                entries.push((name, value));
            }
        }
        Ok(entries)
    }
}

fn nested(section: &str, key: &str, value: Value) -> Table {
    let inner = Table::from_iter([(key.to_owned(), value)]);
    Table::from_iter([(section.to_owned(), Value::Table(inner))])
}

fn split(key: &str) -> (&str, &str) {
    key.split_once('.').unwrap_or((key, ""))
}

/// The value of a key written as text: for a key that holds text, that text.
fn value_of(key: &str, text: &str) -> Value {
    if TEXTS.contains(&key) { Value::String(unquoted(text).to_owned()) } else { parse_value(text) }
}

/// Without a pair of quotation marks around it.
fn unquoted(text: &str) -> &str {
    let inner = |mark: char| text.strip_prefix(mark).and_then(|rest| rest.strip_suffix(mark));
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

/// A number or truth value (Python's spelling too) if the text is one, else the text.
fn parse_value(text: &str) -> Value {
    match text {
        "True" => return Value::Boolean(true),
        "False" => return Value::Boolean(false),
        _ => {}
    }
    if let Ok(n) = text.parse::<i64>() {
        Value::Integer(n)
    } else if let Some(x) =
        text.parse::<f64>().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)))
    {
        Value::Float(x)
    } else if let Ok(b) = text.parse::<bool>() {
        Value::Boolean(b)
    } else {
        Value::String(unquoted(text).to_owned())
    }
}

/// A name of a command line, where nanoGPT's count.
fn unknown(name: &str, origin: &str) -> TrainError {
    let names = KEYS.iter().flat_map(|(key, alias)| [*key, *alias]).filter(|n| !n.is_empty());
    unknown_among(name, origin, smallmind_checkpoint::did_you_mean(name, names))
}

/// A key of a file, or a section, where nanoGPT's names don't count; whoever writes one is told the key for it.
fn unknown_key(name: &str, origin: &str) -> TrainError {
    let last = name.rsplit('.').next().unwrap_or(name);
    let renamed = KEYS.iter().find(|(_, alias)| !alias.is_empty() && *alias == last).map(|(key, _)| *key);
    let section = || smallmind_checkpoint::did_you_mean(name, SECTIONS.iter().copied());
    let key = || smallmind_checkpoint::did_you_mean(name, KEYS.iter().map(|(key, _)| *key));
    unknown_among(name, origin, renamed.or_else(section).or_else(key))
}

fn unknown_among(name: &str, origin: &str, suggestion: Option<&str>) -> TrainError {
    TrainError::UnknownKey {
        name: name.to_owned(),
        origin: origin.to_owned(),
        suggestion: suggestion.map(str::to_owned),
    }
}

impl TrainConfig {
    /// The settings of a preset, or of none, with `layers` over them in order.
    ///
    /// # Errors
    /// An unknown preset or key, a value of the wrong type, or settings that make no training; the error names the layer.
    pub fn layered(preset: Option<&str>, layers: &[Layer]) -> Result<Self, TrainError> {
        let mut name = preset.map(str::to_owned);
        for layer in layers {
            for (key, value) in layer.entries()? {
                if key == "model.preset" && preset.is_none() {
                    let text = value.as_str().ok_or_else(|| not_a(&key, &layer.origin, "a name"))?;
                    name = Some(text.to_owned());
                }
            }
        }
        let mut config = Self::of_preset(name.as_deref())?;
        let mut accumulation = None;
        for layer in layers {
            for (key, value) in layer.entries()? {
                match key.as_str() {
                    "model.preset" => {}
                    "train.accumulation" => accumulation = Some(micro_batches(value, &layer.origin)?),
                    _ => config = config.with(&key, value, &layer.origin)?,
                }
            }
        }
        if let Some(count) = accumulation {
            config.check_batch()?;
            config.train.total_tokens = count.saturating_mul(config.batch_shape()?.tokens());
        }
        config.check()?;
        Ok(config)
    }

    /// The same settings with one key changed. Goes through TOML, so that types and error messages are those of a file.
    fn with(&self, key: &str, value: &Value, origin: &str) -> Result<Self, TrainError> {
        let bad = |why: String| TrainError::Value { key: key.to_owned(), origin: origin.to_owned(), why };
        let mut table = Table::try_from(self).map_err(|e| bad(e.to_string()))?;
        let (section, name) = split(key);
        if let Some(Value::Table(section)) = table.get_mut(section) {
            let is_float = matches!(section.get(name), Some(Value::Float(_))) || FLOATS.contains(&key);
            let value = match value {
                Value::Integer(n) if is_float => Value::Float(*n as f64),
                other => other.clone(),
            };
            section.insert(name.to_owned(), value);
        }
        table.try_into().map_err(|e: toml::de::Error| bad(e.message().to_owned()))
    }

    /// The settings that a preset trains with.
    fn of_preset(name: Option<&str>) -> Result<Self, TrainError> {
        let base = Self {
            model: ModelSection { preset: name.map(str::to_owned), ..ModelSection::default() },
            data: DataSection { tokenizer: "bpe".into(), vocab_size: 4096, validation: 0.1, windows: Windows::Uniform },
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
                seed: 1337,
            },
            eval: EvalSection { interval: 250, batches: 20 },
            sample: SampleSection { interval: 500, tokens: 100, prompt: String::new(), temperature: 0.8 },
            checkpoint: CheckpointSection { interval: 250, keep: 2 },
            log: LogSection { interval: 10 },
        };
        let Some(name) = name else { return Ok(base) };
        preset::find(name)?;
        let characters = DataSection { tokenizer: "characters".into(), ..base.data.clone() };
        Ok(match name {
            "nanogpt-cpu" => Self { data: characters, ..base },
            "nanogpt-gpu" => Self {
                data: characters,
                train: TrainSection { steps: 5000, batch: 64, ..base.train.clone() },
                eval: EvalSection { interval: 250, batches: 20 },
                ..base
            },
            "quickstart" => Self {
                data: DataSection { vocab_size: 2048, ..base.data.clone() },
                train: TrainSection { batch: 4, lr: 1.5e-3, min_lr: 5e-5, ..base.train.clone() },
                sample: SampleSection { interval: 0, ..base.sample.clone() },
                ..base
            },
            _ => base,
        })
    }

    /// Every key.
    pub fn keys() -> Vec<&'static str> {
        KEYS.iter().map(|(key, _)| *key).collect()
    }

    /// nanoGPT's names, those that mean nothing here too.
    pub fn aliases() -> Vec<&'static str> {
        let meaningful = KEYS.iter().map(|(_, alias)| *alias).filter(|a| !a.is_empty());
        meaningful.chain(IGNORED.iter().copied()).chain(["gradient_accumulation_steps"]).collect()
    }

    /// The keys of `layers`, applied to a training that goes on.
    ///
    /// # Errors
    /// A key that would change what the steps so far computed.
    pub fn resumed(&self, layers: &[Layer]) -> Result<Self, TrainError> {
        let mut config = self.clone();
        for layer in layers {
            for (key, value) in layer.entries()? {
                if key == "train.accumulation" {
                    if micro_batches(value, &layer.origin)? != config.micro_batches()? {
                        return Err(TrainError::NotResumable { key, origin: layer.origin.clone() });
                    }
                    continue;
                }
                let changed = config.with(&key, value, &layer.origin)?;
                let may_change = RESUMABLE.iter().any(|r| key == *r || (r.ends_with('.') && key.starts_with(r)));
                if changed != config && !may_change {
                    return Err(TrainError::NotResumable { key, origin: layer.origin.clone() });
                }
                config = changed;
            }
        }
        config.check()?;
        Ok(config)
    }

    /// The model's shape for a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    /// Numbers that make no model.
    pub fn model_config(&self, vocab_size: usize) -> Result<ModelConfig, TrainError> {
        let m = &self.model;
        let base = preset::find(m.preset.as_deref().unwrap_or("nanogpt-cpu"))?.config();
        let heads = m.heads.unwrap_or(base.heads);
        let d_model = m.d_model.unwrap_or(base.d_model);
        let family = match m.family.as_deref() {
            None => base.family,
            Some("gpt2") => Family::Gpt2,
            Some("llama") => Family::Llama,
            Some("qwen2") => Family::Qwen2,
            Some(other) => return Err(value_error("model.family", other, "gpt2, llama and qwen2 are there")),
        };
        if heads == 0 || !d_model.is_multiple_of(heads) {
            let why = format!("the {heads} heads must divide the width {d_model} evenly");
            return Err(value_error("model.heads", &heads.to_string(), &why));
        }
        let gelu = match m.gelu.as_deref() {
            None => base.gelu,
            Some("exact") => Gelu::Exact,
            Some("tanh") => Gelu::Tanh,
            Some(other) => return Err(value_error("model.gelu", other, "exact and tanh are there")),
        };
        let same_heads = m.heads.is_none();
        let mut dropout = base.dropout;
        if let Some(p) = m.dropout {
            (dropout.embedding, dropout.attention, dropout.residual) = (p, p, p);
        }
        let mut config = ModelConfig {
            family,
            vocab_size,
            context: m.context.unwrap_or(base.context),
            d_model,
            layers: m.layers.unwrap_or(base.layers),
            heads,
            kv_heads: m.kv_heads.unwrap_or(if same_heads { base.kv_heads } else { heads }),
            head_dim: d_model / heads,
            d_ff: m.d_ff.unwrap_or(base.d_ff.saturating_mul(d_model) / base.d_model),
            head: m.tied.map_or(base.head, |tied| if tied { Head::Tied } else { Head::Untied }),
            biases: m.biases.map_or(base.biases, |b| if b { Biases::Present } else { Biases::Absent }),
            gelu,
            dropout,
            bos: None,
            eos: vec![],
            ..base
        };
        config.rope.theta = m.rope_theta.unwrap_or(config.rope.theta);
        config.check().map_err(model_setting)?;
        Ok(config)
    }

    /// Sequences and tokens of a micro-batch.
    ///
    /// # Errors
    /// As [`TrainConfig::model_config`].
    pub fn batch_shape(&self) -> Result<BatchShape, TrainError> {
        Ok(BatchShape { sequences: self.train.batch, context: self.model_config(1)?.context })
    }

    /// Micro-batches in a step.
    ///
    /// # Errors
    /// As [`TrainConfig::model_config`].
    pub fn micro_batches(&self) -> Result<usize, TrainError> {
        let tokens = self.batch_shape()?.tokens();
        Ok(if self.train.total_tokens == 0 { 1 } else { self.train.total_tokens / tokens })
    }

    /// The optimizer's constants.
    pub fn optimizer(&self) -> Optimizer {
        let t = &self.train;
        let adamw = AdamWSpec { beta1: t.beta1, beta2: t.beta2, eps: t.eps, weight_decay: t.weight_decay };
        Optimizer { adamw, max_norm: if t.clip > 0.0 { t.clip } else { f64::INFINITY } }
    }

    /// The path of a tokenizer that is read, not trained.
    pub fn tokenizer_file(&self) -> Option<PathBuf> {
        match self.data.tokenizer.as_str() {
            "characters" | "bpe" => None,
            path => Some(PathBuf::from(path)),
        }
    }

    /// Checks that the numbers make a training.
    fn check(&self) -> Result<(), TrainError> {
        let t = &self.train;
        self.model_config(1)?;
        self.check_batch()?;
        require(t.steps > 0, "train.steps", t.steps.to_string(), "at least one step")?;
        let finite = |x: f64| x.is_finite() && x >= 0.0;
        for (key, x) in [
            ("train.lr", t.lr),
            ("train.min_lr", t.min_lr),
            ("train.weight_decay", t.weight_decay),
            ("train.clip", t.clip),
        ] {
            require(finite(x), key, x.to_string(), "a finite number, not negative")?;
        }
        for (key, x) in [("train.beta1", t.beta1), ("train.beta2", t.beta2)] {
            require((0.0..1.0).contains(&x), key, x.to_string(), "it lies in [0, 1)")?;
        }
        require(t.eps > 0.0 && t.eps.is_finite(), "train.eps", t.eps.to_string(), "a positive number")?;
        let why = format!("at most train.lr = {}", t.lr);
        let falls = t.schedule != ScheduleKind::Constant;
        require(!falls || t.min_lr <= t.lr, "train.min_lr", t.min_lr.to_string(), &why)?;
        let bytes_and_merges = 257..=1 << 20;
        let vocab = self.data.vocab_size;
        let fits = self.data.tokenizer != "bpe" || bytes_and_merges.contains(&vocab);
        require(fits, "data.vocab_size", vocab.to_string(), "from 257 (the bytes and the end of a text) to 1048576")?;
        let v = self.data.validation;
        require(v > 0.0 && v < 1.0, "data.validation", v.to_string(), "a share of the text between 0 and 1")?;
        require(self.eval.batches > 0, "eval.batches", "0".into(), "at least one batch")?;
        require(self.checkpoint.keep > 0, "checkpoint.keep", "0".into(), "at least one checkpoint")?;
        require(self.log.interval > 0, "log.interval", "0".into(), "at least one step")?;
        let temperature = self.sample.temperature;
        require(
            temperature.is_finite() && temperature >= 0.0,
            "sample.temperature",
            temperature.to_string(),
            "0 or more",
        )?;
        let tokens = self.batch_shape()?.tokens();
        let total = t.total_tokens;
        let why = format!("a multiple of batch × context = {tokens} tokens, or 0 for one micro-batch");
        require(total.is_multiple_of(tokens), "train.total_tokens", total.to_string(), &why)
    }

    fn check_batch(&self) -> Result<(), TrainError> {
        let batch = self.train.batch;
        require((1..=MAX_BATCH).contains(&batch), "train.batch", batch.to_string(), "from 1 to 16777216 sequences")
    }
}

/// More sequences than memory could hold, few enough for the number of their tokens not to overflow.
const MAX_BATCH: usize = 1 << 24;

fn require(holds: bool, key: &str, got: String, why: &str) -> Result<(), TrainError> {
    if holds { Ok(()) } else { Err(value_error(key, &got, why)) }
}

/// nanoGPT's number of micro-batches in a step.
fn micro_batches(value: &Value, origin: &str) -> Result<usize, TrainError> {
    let count = value.as_integer().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    count.ok_or_else(|| not_a("gradient_accumulation_steps", origin, "a whole number, at least 1"))
}

fn not_a(key: &str, origin: &str, what: &str) -> TrainError {
    TrainError::Value { key: key.to_owned(), origin: origin.to_owned(), why: format!("it must be {what}") }
}

/// The model's own complaint, by the name of the setting.
fn model_setting(error: ConfigError) -> TrainError {
    match error {
        ConfigError::Invalid { key, got, why, .. } => {
            let name = if key.starts_with("dropout") { "dropout" } else { key.as_str() };
            value_error(&format!("model.{name}"), &got, &why)
        }
        other => smallmind_model::ModelError::from(other).into(),
    }
}

/// Keys that hold text, whatever it looks like.
const TEXTS: &[&str] = &[
    "model.preset",
    "model.family",
    "model.gelu",
    "data.tokenizer",
    "data.windows",
    "train.schedule",
    "sample.prompt",
];

/// Optional keys that are floats, which a preset may leave absent.
const FLOATS: &[&str] = &["model.dropout", "model.rope_theta"];

fn value_error(key: &str, got: &str, why: &str) -> TrainError {
    TrainError::Value { key: key.to_owned(), origin: format!("{key} = {got}"), why: why.to_owned() }
}
