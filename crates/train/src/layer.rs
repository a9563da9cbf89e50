//! Settings in layers: a file, the environment, the command line, each over the one before.

use std::path::Path;

use smallmind_checkpoint::without_byte_order_mark;
use toml::{Table, Value};

use crate::{TrainConfig, TrainError};

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
    ("data.documents", ""),
    ("data.separator", ""),
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
        let unreadable = |source| TrainError::Read { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(unreadable)?;
        let text = std::str::from_utf8(without_byte_order_mark(&bytes))
            .map_err(|error| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
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
}

/// nanoGPT's number of micro-batches in a step.
fn micro_batches(value: &Value, origin: &str) -> Result<usize, TrainError> {
    let count = value.as_integer().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    count.ok_or_else(|| not_a("gradient_accumulation_steps", origin, "a whole number, at least 1"))
}

fn not_a(key: &str, origin: &str, what: &str) -> TrainError {
    TrainError::Value { key: key.to_owned(), origin: origin.to_owned(), why: format!("it must be {what}") }
}

/// Keys that hold text, whatever it looks like.
const TEXTS: &[&str] = &[
    "model.preset",
    "model.family",
    "model.gelu",
    "data.tokenizer",
    "data.windows",
    "data.documents",
    "data.separator",
    "train.schedule",
    "sample.prompt",
];

/// Optional keys that are floats, which a preset may leave absent.
const FLOATS: &[&str] = &["model.dropout", "model.rope_theta"];
