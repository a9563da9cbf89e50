//! Errors of configurations.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use crate::ErrorClass;

/// A configuration that isn't a valid model, or that no file can express.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A field is missing.
    #[error("{}`{key}` is missing", file(.path))]
    Missing {
        /// The file, if there is one.
        path: Option<PathBuf>,
        /// The field.
        key: String,
    },
    /// A field has the wrong type.
    #[error("{}`{key}` must be {expected}, not {got}", file(.path))]
    Type {
        /// The file, if there is one.
        path: Option<PathBuf>,
        /// The field.
        key: String,
        /// The type that it must have.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// A field has an impossible or unsupported value.
    #[error("{}`{key}` = {got}: {why}", file(.path))]
    Invalid {
        /// The file, if there is one.
        path: Option<PathBuf>,
        /// The field.
        key: String,
        /// The value.
        got: String,
        /// What is wrong with the value, and which values are possible.
        why: String,
    },
    /// Keys that are not known.
    #[error(
        "{}{} not known and may change what the model computes; take {} out of the file, or allow unknown keys",
        file(.path), listed(.keys), if .keys.len() == 1 { "it" } else { "them" }
    )]
    Unknown {
        /// The file, if there is one.
        path: Option<PathBuf>,
        /// Paths of the keys in the file; at least one.
        keys: Vec<String>,
    },
    /// A model that runs here, but that no `model_type` of `config.json` can express.
    #[error(
        "`{key}` = {got}: config.json can't express such a model; {model_type}, the nearest model_type, takes {takes}"
    )]
    NotStorable {
        /// The field of [`ModelConfig`](crate::ModelConfig).
        key: &'static str,
        /// The value.
        got: String,
        /// The `model_type` that can express most of the model.
        model_type: &'static str,
        /// The values that it can express for the field.
        takes: String,
    },
}

/// The beginning of a sentence with the first few keys.
fn listed(keys: &[String]) -> String {
    const SHOWN: usize = 5;
    let short = |key: &String| format!("`{}`", key.chars().take(MAX_SHOWN).collect::<String>());
    let shown = keys.iter().take(SHOWN).map(short).collect::<Vec<_>>().join(", ");
    match keys.len() {
        1 => format!("the key {shown} is"),
        n if n > SHOWN => format!("{n} keys ({shown}, …) are"),
        _ => format!("the keys {shown} are"),
    }
}

fn file(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default()
}

impl ConfigError {
    pub(crate) fn invalid(key: &str, got: impl fmt::Display, why: impl Into<String>) -> Self {
        // A value from a file may be long.
        let got = got.to_string().chars().take(MAX_SHOWN).collect();
        Self::Invalid { path: None, key: key.to_owned(), got, why: why.into() }
    }

    /// The error for a width that isn't a multiple of the number of heads.
    pub(crate) fn heads_must_divide(heads: usize, d_model: usize) -> Self {
        Self::invalid("heads", heads, format!("the heads must divide the width {d_model} evenly"))
    }

    /// The kind of the error: a bad file, or a bad request.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { path, .. }
            | Self::Type { path, .. }
            | Self::Invalid { path, .. }
            | Self::Unknown { path, .. } => {
                if path.is_some() {
                    ErrorClass::BadFile
                } else {
                    ErrorClass::Usage
                }
            }
            // The model was made in memory.
            Self::NotStorable { .. } => ErrorClass::Usage,
        }
    }

    /// The same error with the name of the file.
    pub fn in_file(mut self, file: impl Into<PathBuf>) -> Self {
        match &mut self {
            Self::Missing { path, .. }
            | Self::Type { path, .. }
            | Self::Invalid { path, .. }
            | Self::Unknown { path, .. } => *path = Some(file.into()),
            // The model is in memory.
            Self::NotStorable { .. } => {}
        }
        self
    }
}

/// A JSON value as a message shows it.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("\"{}\"", s.chars().take(MAX_SHOWN).collect::<String>()),
        Value::Array(a) => format!("an array of {}", a.len()),
        Value::Object(_) => "an object".into(),
    }
}

/// Characters of a value that a message repeats.
const MAX_SHOWN: usize = 40;
