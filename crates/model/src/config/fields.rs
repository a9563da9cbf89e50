//! Reading the fields of a JSON object, each with its type.

use serde_json::{Map, Value};

use super::error::kind;
use super::{ConfigError, Head};

/// The fields of a JSON object.
pub(crate) struct Fields<'a> {
    pub(super) map: &'a Map<String, Value>,
    /// The key of the object in the file, followed by a dot; empty for the file itself.
    of: &'static str,
}

type Reader<'a, T> = fn(&'a Value) -> Result<T, &'static str>;

impl<'a> Fields<'a> {
    /// The fields of a whole file.
    pub(crate) fn top_level(value: &'a Value) -> Result<Self, ConfigError> {
        match value {
            Value::Object(map) => Ok(Self { map, of: "" }),
            _ => Err(ConfigError::invalid("config", kind(value), "a model's configuration is a JSON object")),
        }
    }

    /// Whether the field is set; `null` counts as absent.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether the field is there and `null`.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The names of the fields that are set.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str())
    }

    /// The path of a field in the file.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.of)
    }

    /// A field's value as a message shows it.
    pub(super) fn shown(&self, key: &str) -> String {
        kind(self.map.get(key).unwrap_or(&Value::Null))
    }

    /// The object under `key`, which is `rope_scaling`, `rope_parameters`, or one for a kind of layers in the latter.
    pub(super) fn object(&self, key: &'static str) -> Result<Option<Fields<'a>>, ConfigError> {
        let of = match key {
            "rope_scaling" => "rope_scaling.",
            "full_attention" => "rope_parameters.full_attention.",
            "sliding_attention" => "rope_parameters.sliding_attention.",
            _ => "rope_parameters.",
        };
        Ok(self.optional(key, Self::as_object)?.map(|map| Fields { map, of }))
    }

    fn read<T>(&self, key: &str, value: &'a Value, read: Reader<'a, T>) -> Result<T, ConfigError> {
        let wrong = |expected| ConfigError::Type { path: None, key: self.path(key), expected, got: kind(value) };
        read(value).map_err(wrong)
    }

    /// A field that may be absent or `null`.
    pub(crate) fn optional<T>(&self, key: &str, read: Reader<'a, T>) -> Result<Option<T>, ConfigError> {
        self.map.get(key).filter(|value| !value.is_null()).map(|value| self.read(key, value, read)).transpose()
    }

    /// A field that may be absent, but not `null`. If it is absent, its value is `default`.
    pub(super) fn or<T>(&self, key: &str, read: Reader<'a, T>, default: T) -> Result<T, ConfigError> {
        self.map.get(key).map_or(Ok(default), |value| self.read(key, value, read))
    }

    fn required<T>(&self, key: &str, read: Reader<'a, T>) -> Result<T, ConfigError> {
        self.optional(key, read)?.ok_or_else(|| ConfigError::Missing { path: None, key: self.path(key) })
    }

    pub(super) fn as_str(value: &'a Value) -> Result<&'a str, &'static str> {
        value.as_str().ok_or("a string")
    }

    pub(crate) fn as_size(value: &'a Value) -> Result<usize, &'static str> {
        value.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or("a whole number, not negative")
    }

    pub(crate) fn as_id(value: &'a Value) -> Result<u32, &'static str> {
        value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("a token id")
    }

    pub(crate) fn as_number(value: &'a Value) -> Result<f64, &'static str> {
        value.as_f64().filter(|x| x.is_finite()).ok_or("a number")
    }

    pub(crate) fn as_flag(value: &'a Value) -> Result<bool, &'static str> {
        value.as_bool().ok_or("true or false")
    }

    fn as_object(value: &'a Value) -> Result<&'a Map<String, Value>, &'static str> {
        value.as_object().ok_or("an object")
    }

    pub(super) fn str(&self, key: &str) -> Result<&'a str, ConfigError> {
        self.required(key, Self::as_str)
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.required(key, Self::as_size)
    }

    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        self.or(key, Self::as_number, default)
    }

    pub(super) fn positive(&self, key: &str) -> Result<f64, ConfigError> {
        let x = self.required(key, Self::as_number)?;
        if x > 0.0 { Ok(x) } else { Err(ConfigError::invalid(&self.path(key), x, "it must be positive")) }
    }

    /// A list of numbers.
    pub(super) fn numbers(&self, key: &str) -> Result<Vec<f64>, ConfigError> {
        self.required(key, |value| {
            let numbers = value.as_array().map(|list| list.iter().map(Self::as_number).collect());
            numbers.unwrap_or(Err("")).map_err(|_| "an array of numbers")
        })
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        self.or(key, Self::as_flag, default)
    }

    pub(super) fn head(&self, tied: bool) -> Result<Head, ConfigError> {
        Ok(if self.flag("tie_word_embeddings", tied)? { Head::Tied } else { Head::Untied })
    }

    /// One id or a list of them.
    pub(crate) fn ids(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        match self.map.get(key) {
            Some(Value::Array(list)) => {
                let id = |v| Self::as_id(v).map_err(|expected| (v, expected));
                list.iter().map(id).collect::<Result<_, _>>().map_err(|(v, expected)| ConfigError::Type {
                    path: None,
                    key: key.to_owned(),
                    expected,
                    got: kind(v),
                })
            }
            _ => Ok(self.optional(key, Self::as_id)?.into_iter().collect()),
        }
    }
}
