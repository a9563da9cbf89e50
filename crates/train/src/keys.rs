//! All settings: names and allowed values.
//!
//! Not here: limits between settings (`TrainConfig::check`).

use smallmind_checkpoint::did_you_mean;
use toml::Value;

/// A setting.
pub(crate) struct Key {
    /// The name, as `section.key`.
    pub name: &'static str,
    /// The allowed values.
    pub takes: Takes,
}

/// The values that a setting takes.
pub(crate) enum Takes {
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// True or false.
    Switch,
    /// A whole number from the first to the second, both included.
    Whole(u64, u64),
    /// An unsigned integer of 64 bits. TOML's integers end at 2^63 - 1; greater seeds are stored as text.
    Seed,
    /// A number: its range in words, and a test for it.
    Number(&'static str, fn(f64) -> bool),
}

/// The greatest integer that TOML has, 2^63 - 1.
const MOST: u64 = i64::MAX as u64;
/// A number from 1 up. The model's configuration has upper limits for its sizes.
const FROM_ONE: Takes = Takes::Whole(1, MOST);
const FROM_ZERO: Takes = Takes::Whole(0, MOST);
const NOT_NEGATIVE: Takes = Takes::Number("a finite number, not negative", |x| x.is_finite() && x >= 0.0);
const POSITIVE: Takes = Takes::Number("a finite number above 0", |x| x.is_finite() && x > 0.0);
/// A probability below 1.
const BELOW_ONE: Takes = Takes::Number("a number from 0 to below 1", |x| (0.0..1.0).contains(&x));
const SHARE: Takes = Takes::Number("a share of the text, above 0 and below 1", |x| x > 0.0 && x < 1.0);
/// As [`NOT_NEGATIVE`], for values that are stored in 32 bits.
const NOT_NEGATIVE_F32: Takes =
    Takes::Number("a finite number, not negative", |x| (0.0..=f64::from(f32::MAX)).contains(&x));

const fn key(name: &'static str, takes: Takes) -> Key {
    Key { name, takes }
}

/// The families that make a model of other features than all others.
const FAMILIES: &[&str] = &["gpt2", "llama", "qwen2", "qwen3", "olmo2", "gpt_neox", "stablelm"];

/// Every key.
pub(crate) const KEYS: &[Key] = &[
    key("model.preset", Takes::Text),
    key("model.init_from", Takes::Text),
    key("model.family", Takes::Choice(FAMILIES)),
    key("model.layers", FROM_ONE),
    key("model.heads", FROM_ONE),
    key("model.kv_heads", FROM_ONE),
    key("model.d_model", FROM_ONE),
    key("model.d_ff", FROM_ONE),
    key("model.context", FROM_ONE),
    key("model.dropout", BELOW_ONE),
    key("model.biases", Takes::Switch),
    key("model.tied", Takes::Switch),
    key("model.gelu", Takes::Choice(&["exact", "tanh"])),
    key("model.rope_theta", POSITIVE),
    key("data.tokenizer", Takes::Text),
    key("data.vocab_size", FROM_ONE),
    key("data.validation", SHARE),
    key("data.windows", Takes::Choice(&["uniform", "documents"])),
    key("data.documents", Takes::Choice(&["separated", "files"])),
    key("data.separator", Takes::Text),
    key("train.steps", FROM_ONE),
    key("train.batch", Takes::Whole(1, MOST_SEQUENCES)),
    key("train.total_tokens", FROM_ZERO),
    key("train.lr", NOT_NEGATIVE),
    key("train.min_lr", NOT_NEGATIVE),
    key("train.warmup", FROM_ZERO),
    key("train.schedule", Takes::Choice(&["constant", "cosine", "wsd"])),
    key("train.decay_steps", FROM_ZERO),
    key("train.beta1", BELOW_ONE),
    key("train.beta2", BELOW_ONE),
    key("train.eps", POSITIVE),
    key("train.weight_decay", NOT_NEGATIVE),
    key("train.clip", NOT_NEGATIVE),
    key("train.precision", Takes::Choice(&["f32", "bf16"])),
    key("train.seed", Takes::Seed),
    key("eval.interval", FROM_ZERO),
    key("eval.batches", FROM_ONE),
    key("sample.interval", FROM_ZERO),
    key("sample.tokens", FROM_ZERO),
    key("sample.prompt", Takes::Text),
    key("sample.temperature", NOT_NEGATIVE_F32),
    key("checkpoint.interval", FROM_ZERO),
    key("checkpoint.keep", FROM_ONE),
    key("log.interval", FROM_ONE),
];

/// The most sequences in a micro-batch: more than memory could hold, but few enough that the number of their tokens
/// doesn't overflow.
pub(crate) const MOST_SEQUENCES: u64 = 1 << 24;

/// The sections, with which the names of keys begin.
pub(crate) const SECTIONS: &[&str] = &["model", "data", "train", "eval", "sample", "checkpoint", "log"];

/// The key of that name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The section and the rest of a key.
pub(crate) fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

impl Takes {
    /// The value that `text` stands for.
    pub fn read(&self, text: &str) -> Value {
        match self {
            Self::Text | Self::Choice(_) => Value::String(unquoted(text).to_owned()),
            Self::Seed => text.parse().map_or_else(|_| parse_value(text), seed_value),
            Self::Switch | Self::Whole(..) | Self::Number(..) => parse_value(text),
        }
    }

    /// Checks a value; returns it as it is stored.
    ///
    /// # Errors
    /// What the value must be, in words.
    pub fn check(&self, value: &Value) -> Result<Value, String> {
        let fits = match (self, value) {
            (Self::Text, Value::String(_)) | (Self::Switch, Value::Boolean(_)) => true,
            (Self::Choice(words), Value::String(word)) => words.contains(&word.as_str()),
            (Self::Whole(from, to), Value::Integer(n)) => u64::try_from(*n).is_ok_and(|n| (*from..=*to).contains(&n)),
            (Self::Seed, Value::Integer(n)) => *n >= 0,
            (Self::Seed, Value::String(text)) => text.parse::<u64>().is_ok(),
            (Self::Number(_, among), Value::Float(x)) => among(*x),
            (Self::Number(_, among), Value::Integer(n)) if among(*n as f64) => return Ok(Value::Float(*n as f64)),
            _ => false,
        };
        if fits { Ok(value.clone()) } else { Err(self.needs(value)) }
    }

    fn needs(&self, value: &Value) -> String {
        match self {
            Self::Text => "it must be text".to_owned(),
            Self::Choice(words) => {
                let near = value.as_str().and_then(|word| did_you_mean(word, words.iter().copied()));
                let near = near.map(|word| format!("; did you mean {word}?")).unwrap_or_default();
                format!("it must be one of {}{near}", words.join(", "))
            }
            Self::Switch => "it must be true or false".to_owned(),
            Self::Whole(from, MOST) => format!("it must be a whole number from {from} to 2^63 - 1"),
            Self::Whole(from, to) => format!("it must be a whole number from {from} to {to}"),
            Self::Seed => format!("it must be a whole number from 0 to {}", u64::MAX),
            Self::Number(which, _) => format!("it must be {which}"),
        }
    }
}

/// A seed as a TOML value.
fn seed_value(seed: u64) -> Value {
    i64::try_from(seed).map_or_else(|_| Value::String(seed.to_string()), Value::Integer)
}

/// `text` without a pair of quotation marks around it.
fn unquoted(text: &str) -> &str {
    let inner = |mark: char| text.strip_prefix(mark).and_then(|rest| rest.strip_suffix(mark));
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

/// A number or a boolean (in Python's spelling too) if the text is one, else the text.
pub(crate) fn parse_value(text: &str) -> Value {
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

/// A value as errors show it: short, and as a user would type it.
pub(crate) fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = match value {
        Value::String(text) => format!("{text:?}"),
        // A value that was stored in 32 bits has more digits in 64 bits than the user typed.
        Value::Float(x) if f64::from(*x as f32) == *x => (*x as f32).to_string(),
        other => other.to_string(),
    };
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

/// Storing a seed: as a number, or as text if TOML has no integer for it.
pub(crate) mod seed {
    use std::fmt;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    /// Writes a seed.
    pub fn serialize<S: Serializer>(seed: &u64, to: S) -> Result<S::Ok, S::Error> {
        if i64::try_from(*seed).is_ok() { to.serialize_u64(*seed) } else { to.serialize_str(&seed.to_string()) }
    }

    /// Reads a seed.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        from.deserialize_any(Seed)
    }

    struct Seed;

    impl Visitor<'_> for Seed {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a whole number from 0 to {}", u64::MAX)
        }

        fn visit_u64<E: Error>(self, seed: u64) -> Result<u64, E> {
            Ok(seed)
        }

        fn visit_i64<E: Error>(self, seed: i64) -> Result<u64, E> {
            u64::try_from(seed).map_err(|_| E::custom(format!("{seed} is negative")))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            text.parse().map_err(|_| E::custom(format!("{text:?} is no whole number from 0 to {}", u64::MAX)))
        }
    }
}

/// Storing a precision: by its name.
pub(crate) mod precision {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use smallmind_graph::Precision;

    /// Writes a precision.
    pub fn serialize<S: Serializer>(precision: &Precision, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(precision.name())
    }

    /// Reads a precision.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Precision, D::Error> {
        let name = String::deserialize(from)?;
        Precision::from_name(&name).ok_or_else(|| D::Error::custom(format!("there is no precision `{name}`")))
    }
}
