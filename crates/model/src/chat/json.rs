//! JSON values whose objects keep the order of their keys, as templates see them.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::ChatError;

/// The longest JSON text that is accepted, in bytes.
pub const MAX_TEXT_BYTES: usize = 16 << 20;

/// A JSON value. Objects keep the order of their keys: templates write them out.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Json {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number above `i64::MAX`.
    Large(u64),
    /// A number that is written with a point or an exponent.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object: keys, each of which stands once, and values.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses a text of at most [`MAX_TEXT_BYTES`], nested at most 128 deep, in which no object has a key twice.
    ///
    /// # Errors
    /// [`ChatError::Json`] with line and column.
    pub fn parse(text: &str) -> Result<Self, ChatError> {
        if text.len() > MAX_TEXT_BYTES {
            let problem = format!("{} bytes; at most {MAX_TEXT_BYTES} are read", text.len());
            return Err(ChatError::Json { problem });
        }
        serde_json::from_str(text).map_err(|error| ChatError::Json { problem: error.to_string() })
    }

    /// The message of a `role` with a text.
    pub fn message(role: &str, content: impl Into<String>) -> Self {
        Self::Object(vec![("role".into(), role.into()), ("content".into(), Self::Text(content.into()))])
    }

    /// The value of a key of an object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Large(value) => serializer.serialize_u64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => items.serialize(serializer),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        Ok(i64::try_from(value).map_or(Json::Large(value), Json::Int))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Int(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(de::Error::custom(format_args!("the key {key:?} stands twice in one object")));
            }
            members.push((key, map.next_value()?));
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_keys_and_the_kind_of_numbers_stay() {
        let text = r#"{"z":1,"a":[1.0,-2,18446744073709551615,true,null,"é"],"m":{}}"#;
        let json = Json::parse(text).unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), text);
        assert_eq!(json.get("z"), Some(&Json::Int(1)));
        assert_eq!(json.get("a").and_then(Json::as_list).map(<[_]>::len), Some(6));
    }

    #[test]
    fn what_is_no_clear_json_is_refused() {
        for (text, word) in [
            (r#"{"a":1,"a":2}"#, "\"a\" stands twice"),
            ("[1,", "line 1"),
            ("", "line 1"),
            (&"[".repeat(200), "recursion limit"),
            (&format!("\"{}\"", "x".repeat(MAX_TEXT_BYTES)), "at most"),
        ] {
            let error = Json::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
