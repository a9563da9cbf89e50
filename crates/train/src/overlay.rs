//! Settings in overlays, each of which overrides the ones before: files, the environment, the command line.

use std::path::Path;

use smallmind_checkpoint::{did_you_mean, without_byte_order_mark};
use smallmind_model::ModelError;
use toml::{Table, Value};

use crate::config::{DataSection, ScheduleKind};
use crate::initial::INIT_FROM;
use crate::keys::{self, KEYS, SECTIONS, split};
use crate::{TrainConfig, TrainError};

/// Keys that may change when a run is resumed; a section stands for all its keys. Steps don't depend on them, except
/// that the schedule ends with the number of steps if `train.decay_steps` is 0.
const RESUMABLE: &[&str] = &["train.steps", "eval.", "sample.", "checkpoint.", "log."];

/// The key whose value is computed from [`Overlay::micro_batches`].
const TOTAL_TOKENS: &str = "train.total_tokens";

/// Some settings and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    /// The origin in errors, such as the path of a file or the text that the user typed. If it has no `=`, errors add
    /// the value.
    pub origin: String,
    /// Keys and values, by section.
    pub table: Table,
    /// Micro-batches in a step: `train.total_tokens` becomes this number times the final batch × context.
    pub micro_batches: Option<usize>,
}

impl Overlay {
    /// A TOML file.
    ///
    /// # Errors
    /// A file that can't be read or isn't TOML.
    pub fn file(path: &Path) -> Result<Self, TrainError> {
        let unreadable = |source| TrainError::Read { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(unreadable)?;
        let text = std::str::from_utf8(without_byte_order_mark(&bytes))
            .map_err(|error| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
        let table = text
            .parse()
            .map_err(|e: toml::de::Error| TrainError::Toml { path: path.to_owned(), why: in_plain_words(&e) })?;
        Ok(Self { origin: path.display().to_string(), table, micro_batches: None })
    }

    /// `section.key=value`.
    ///
    /// # Errors
    /// No `=`, or a key that does not exist.
    pub fn assignment(text: &str) -> Result<Self, TrainError> {
        match text.split_once('=') {
            Some((key, value)) => Self::of_text(key, value, text),
            None => Err(TrainError::Assignment { text: text.to_owned() }),
        }
    }

    /// One key with the value of `text`.
    ///
    /// # Errors
    /// A key that does not exist.
    pub fn of_text(key: &str, text: &str, origin: impl Into<String>) -> Result<Self, TrainError> {
        let origin = origin.into();
        let Some(key) = keys::find(key) else { return Err(unknown_key(key, &origin)) };
        let (section, name) = split(key.name);
        let inner = Table::from_iter([(name.to_owned(), key.takes.read(text))]);
        let table = Table::from_iter([(section.to_owned(), Value::Table(inner))]);
        Ok(Self { origin, table, micro_batches: None })
    }

    /// The number of micro-batches in a step.
    pub fn of_micro_batches(count: usize, origin: impl Into<String>) -> Self {
        Self { origin: origin.into(), table: Table::new(), micro_batches: Some(count) }
    }

    /// Whether it sets this key.
    pub fn sets(&self, key: &str) -> bool {
        let (section, name) = split(key);
        self.table.get(section).and_then(Value::as_table).is_some_and(|keys| keys.contains_key(name))
            || (key == TOTAL_TOKENS && self.micro_batches.is_some())
    }

    /// All keys with their values.
    fn entries(&self) -> Result<Vec<(String, &Value)>, TrainError> {
        let mut entries = Vec::new();
        for (section, value) in &self.table {
            let Value::Table(keys) = value else { return Err(unknown_key(section, &self.origin)) };
            if !SECTIONS.contains(&section.as_str()) {
                return Err(unknown_key(section, &self.origin));
            }
            for (key, value) in keys {
                let name = format!("{section}.{key}");
                if keys::find(&name).is_none() {
                    return Err(unknown_key(&name, &self.origin));
                }
                entries.push((name, value));
            }
        }
        Ok(entries)
    }
}

/// The parser's message without names of Rust's types.
fn in_plain_words(error: &toml::de::Error) -> String {
    let (text, message) = (error.to_string(), error.message());
    let too_large = ["u64", "i128", "u128", "integer number overflowed"].iter().any(|word| message.contains(word));
    let plain =
        format!("a whole number lies between -2^63 and 2^63 - 1; a greater seed is text: seed = \"{}\"", u64::MAX);
    let text = if too_large { text.replace(message, &plain) } else { text };
    text.trim_end().to_owned()
}

/// The error for a name that isn't a key, with the nearest section or key.
fn unknown_key(name: &str, origin: &str) -> TrainError {
    let section = did_you_mean(name, SECTIONS.iter().copied());
    let suggestion = section.or_else(|| did_you_mean(name, KEYS.iter().map(|key| key.name)));
    TrainError::UnknownKey {
        name: name.to_owned(),
        origin: origin.to_owned(),
        suggestion: suggestion.map(str::to_owned),
    }
}

impl TrainConfig {
    /// The settings of a preset, or the defaults, overridden by `overlays` in order. `train.min_lr` may be computed
    /// from `train.lr`: see [`TrainConfig::implied_min_lr`].
    ///
    /// # Errors
    /// An unknown preset or key, a value of the wrong type, or settings that don't make a valid run. The error names
    /// the overlay.
    pub fn with_overlays(preset: Option<&str>, overlays: &[Overlay]) -> Result<Self, TrainError> {
        let mut merged = Merged::new(preset, overlays)?;
        merged.config.train.min_lr = merged.implied_min_lr(overlays).unwrap_or(merged.config.train.min_lr);
        let mut config = merged.config;
        let named = |error: TrainError| named_as_set(error, overlays);
        if let Some(count) = merged.micro_batches {
            config.check_batch().map_err(named)?;
            let tokens = config.batch_shape().map_err(named)?.tokens();
            config.train.total_tokens = count.saturating_mul(tokens);
        }
        config.check().map_err(named)?;
        config.check_tokenizer().map_err(named)?;
        Ok(config)
    }

    /// A tenth of `train.lr` (nanoGPT's convention) if [`TrainConfig::with_overlays`] uses that as `train.min_lr`, else
    /// `None`. It does so if an overlay sets `train.lr` below the preset's `train.min_lr` and none sets `train.min_lr`.
    ///
    /// # Errors
    /// As [`TrainConfig::with_overlays`].
    pub fn implied_min_lr(preset: Option<&str>, overlays: &[Overlay]) -> Result<Option<f64>, TrainError> {
        Ok(Merged::new(preset, overlays)?.implied_min_lr(overlays))
    }

    /// The same settings with one key changed to the value that `text` stands for.
    pub(crate) fn with_text(&self, key: &str, text: &str, origin: &str) -> Result<Self, TrainError> {
        let Some(known) = keys::find(key) else { return Err(unknown_key(key, origin)) };
        self.with(key, &known.takes.read(text), origin)
    }

    /// The same settings with one key changed. It goes through TOML, so that values from files and from text mean the
    /// same.
    fn with(&self, key: &str, value: &Value, origin: &str) -> Result<Self, TrainError> {
        let bad = |why: String| TrainError::Value { key: key.to_owned(), origin: origin.to_owned(), why };
        let Some(known) = keys::find(key) else { return Err(unknown_key(key, origin)) };
        let value = known.takes.check(value).map_err(|why| bad(with_value(why, origin, key, value)))?;
        let mut table = self.to_table()?;
        let (section, name) = split(key);
        if let Some(Value::Table(section)) = table.get_mut(section) {
            section.insert(name.to_owned(), value);
        }
        table.try_into().map_err(|e: toml::de::Error| bad(e.message().to_owned()))
    }

    /// The section `data` of the default settings, overridden by `overlays`. Other settings are not checked.
    pub(crate) fn data_of(overlays: &[Overlay]) -> Result<DataSection, TrainError> {
        Ok(Merged::new(None, overlays)?.config.data)
    }

    /// The names of all keys.
    pub fn keys() -> Vec<&'static str> {
        KEYS.iter().map(|key| key.name).collect()
    }

    /// The settings that differ in `other`, such as `train.steps = 40 instead of 20`.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let table = |config: &Self| Table::try_from(config).unwrap_or_default();
        let (ours, theirs) = (table(self), table(other));
        let value = |table: &Table, key: &str| {
            let (section, name) = split(key);
            table.get(section).and_then(|keys| keys.get(name)).map_or_else(|| "nothing".to_owned(), Value::to_string)
        };
        let differs = |key: &&str| value(&ours, key) != value(&theirs, key);
        let told = |key: &str| format!("{key} = {} instead of {}", value(&theirs, key), value(&ours, key));
        KEYS.iter().map(|key| key.name).filter(differs).map(told).collect()
    }

    /// These settings of a resumed run, overridden by `overlays`.
    ///
    /// # Errors
    /// [`TrainError::NotResumable`] for a change of a key on which steps depend.
    pub fn resumed(&self, overlays: &[Overlay]) -> Result<Self, TrainError> {
        let mut config = self.clone();
        for overlay in overlays {
            let fixed = |key: String| Err(TrainError::NotResumable { key, origin: overlay.origin.clone() });
            for (key, value) in overlay.entries()? {
                let changed = config.with(&key, value, &overlay.origin)?;
                let may_change = RESUMABLE.iter().any(|r| key == *r || (r.ends_with('.') && key.starts_with(r)));
                if changed != config && !may_change {
                    return fixed(key);
                }
                config = changed;
            }
            if let Some(count) = overlay.micro_batches
                && count != config.micro_batches()?
            {
                return fixed(TOTAL_TOKENS.to_owned());
            }
        }
        config.check()?;
        Ok(config)
    }
}

/// Settings with overlays applied, whose agreement is not checked yet.
struct Merged {
    config: TrainConfig,
    /// Micro-batches in a step, if the last overlay that sets `train.total_tokens` does so with this number.
    micro_batches: Option<usize>,
}

impl Merged {
    fn new(preset: Option<&str>, overlays: &[Overlay]) -> Result<Self, TrainError> {
        let mut config = base(preset, overlays)?;
        let mut micro_batches = None;
        for overlay in overlays {
            for (key, value) in overlay.entries()? {
                if key != "model.preset" {
                    config = config.with(&key, value, &overlay.origin)?;
                }
            }
            if overlay.sets(TOTAL_TOKENS) {
                micro_batches = overlay.micro_batches;
            }
        }
        Ok(Self { config, micro_batches })
    }

    fn implied_min_lr(&self, overlays: &[Overlay]) -> Option<f64> {
        let train = &self.config.train;
        let sets = |key: &str| overlays.iter().any(|overlay| overlay.sets(key));
        let too_high = train.schedule != ScheduleKind::Constant && train.min_lr > train.lr;
        (too_high && sets("train.lr") && !sets("train.min_lr")).then_some(train.lr / 10.0)
    }
}

/// The settings of `preset`, or else of the last preset that an overlay names.
fn base(preset: Option<&str>, overlays: &[Overlay]) -> Result<TrainConfig, TrainError> {
    if preset.is_some() {
        return TrainConfig::of_preset(preset);
    }
    let named = last_text("model.preset", overlays)?;
    let Some((name, origin)) = named else {
        let is_continued = last_text(INIT_FROM, overlays)?.is_some();
        return if is_continued { TrainConfig::of_initial() } else { TrainConfig::of_preset(None) };
    };
    TrainConfig::of_preset(Some(name)).map_err(|error| match error {
        TrainError::Model(error @ ModelError::Preset { .. }) => {
            TrainError::Value { key: "model.preset".to_owned(), origin: origin.to_owned(), why: error.to_string() }
        }
        other => other,
    })
}

/// The text that the last overlay with `key` sets, and the origin of that overlay.
pub(crate) fn last_text<'o>(key: &str, overlays: &'o [Overlay]) -> Result<Option<(&'o str, &'o str)>, TrainError> {
    let mut last = None;
    for overlay in overlays {
        for (name, value) in overlay.entries()? {
            if name == key {
                let text = value.as_str().ok_or_else(|| not_a(&name, &overlay.origin, "a name"))?;
                last = Some((text, overlay.origin.as_str()));
            }
        }
    }
    Ok(last)
}

/// Keys that are checked together with others, and these others.
const CHECKED_TOGETHER: &[(&str, &[&str])] = &[
    ("model.heads", &["model.d_model", "model.family"]),
    ("model.kv_heads", &["model.heads", "model.family"]),
    ("model.d_model", &["model.layers", "model.d_ff", "model.context", "model.family"]),
    ("model.d_ff", &["model.d_model"]),
    ("data.vocab_size", &["data.tokenizer"]),
    ("data.tokenizer", &[INIT_FROM]),
    ("data.separator", &["data.documents"]),
    ("train.min_lr", &["train.lr", "train.schedule"]),
    (TOTAL_TOKENS, &["train.batch", "model.context"]),
];

/// Adds the origin to an error of a check of settings: the last overlay that sets the key, or else the last one that
/// sets a key with which it is checked.
pub(crate) fn named_as_set(error: TrainError, overlays: &[Overlay]) -> TrainError {
    let TrainError::Value { key, origin: setting, why } = error else { return error };
    let others = CHECKED_TOGETHER.iter().find(|(name, _)| *name == key).map_or(&[][..], |(_, others)| others);
    let last = |names: &[&str]| overlays.iter().rfind(|overlay| names.iter().any(|name| overlay.sets(name)));
    match last(&[&key]).or_else(|| last(others)) {
        // An origin with `=` has the value.
        Some(overlay) if overlay.origin.contains('=') => TrainError::Value { key, origin: overlay.origin.clone(), why },
        Some(overlay) => TrainError::Value { key, origin: overlay.origin.clone(), why: format!("{why} ({setting})") },
        None => TrainError::Value { key, origin: setting, why },
    }
}

/// The reason, with the value if the origin doesn't have it.
fn with_value(why: String, origin: &str, key: &str, value: &Value) -> String {
    if origin.contains('=') { why } else { format!("{why} ({key} = {})", keys::shown(value)) }
}

fn not_a(key: &str, origin: &str, what: &str) -> TrainError {
    TrainError::Value { key: key.to_owned(), origin: origin.to_owned(), why: format!("it must be {what}") }
}
