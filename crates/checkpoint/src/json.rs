//! JSON files of a model folder, read with bounds.
//!
//! A key that occurs twice in an object is refused: readers differ in which value they take, so two tools could see
//! different models in one file. A file may be at most [`MAX_JSON_BYTES`] long, and its values may take at most a fixed
//! budget of memory, because `[[],[],…` takes about fifty times its own size as a tree.

use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{CheckpointError, JsonFault};
use crate::header::without_place;
use crate::text::without_byte_order_mark;

/// The longest JSON file accepted, in bytes.
pub const MAX_JSON_BYTES: u64 = 16 << 20;

/// Bytes of memory that the tree may take, text included, by the estimates below.
const BUDGET: usize = 40 << 20;
/// Memory of an object: a node of the ordered map that holds its keys.
const OBJECT: usize = 704;
/// Memory of a key and its value beyond the first few, with the map's spare memory.
const MEMBER: usize = 112;
/// Memory of an array: its first allocation.
const ARRAY: usize = 128;
/// Memory of an element, with the spare memory of a growing array.
const ELEMENT: usize = 64;

/// Reads a JSON file of at most [`MAX_JSON_BYTES`], in which no object has a key twice.
pub fn read_json(path: impl AsRef<Path>) -> Result<Value, CheckpointError> {
    let path = path.as_ref();
    let at_start = |fault| CheckpointError::Json { path: path.to_path_buf(), line: 1, column: 1, fault };
    let kind = fs::metadata(path).map_err(CheckpointError::io(path, "open"))?;
    if !kind.is_file() {
        return Err(CheckpointError::Missing { path: path.to_path_buf(), what: "not a file; a JSON file is expected" });
    }
    if kind.len() > MAX_JSON_BYTES {
        return Err(at_start(JsonFault::TooLarge { len: kind.len() }));
    }
    let file = File::open(path).map_err(CheckpointError::io(path, "open"))?;
    let mut text = Vec::with_capacity(kind.len() as usize + 1);
    // The limit is applied again: the file may have grown since its size was read.
    file.take(MAX_JSON_BYTES + 1).read_to_end(&mut text).map_err(CheckpointError::io(path, "read"))?;
    if text.len() as u64 > MAX_JSON_BYTES {
        return Err(at_start(JsonFault::TooLarge { len: text.len() as u64 }));
    }
    parse_json(path, &text)
}

/// Parses JSON text in which no object has a key twice; a byte-order mark before it is skipped. `path` only names it in
/// errors.
pub fn parse_json(path: &Path, bytes: &[u8]) -> Result<Value, CheckpointError> {
    let text = without_byte_order_mark(bytes);
    if let Err(error) = std::str::from_utf8(text) {
        let offset = error.valid_up_to();
        let line = 1 + text[..offset].iter().filter(|&&byte| byte == b'\n').count();
        let column = 1 + text[..offset].iter().rev().take_while(|&&byte| byte != b'\n').count();
        let fault = JsonFault::NotUtf8 { offset: offset + bytes.len() - text.len() };
        return Err(CheckpointError::Json { path: path.to_path_buf(), line, column, fault });
    }
    let state = RefCell::new(State { left: BUDGET, fault: None });
    let mut parser = serde_json::Deserializer::from_slice(text);
    let parsed = ValueSeed { state: &state }.deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    parsed.map_err(|error| {
        let fault = state.into_inner().fault.unwrap_or_else(|| JsonFault::Syntax(without_place(&error)));
        // The parser reports line 0 if there is no position: the text is empty.
        let (line, column) = (error.line().max(1), error.column().max(1));
        CheckpointError::Json { path: path.to_path_buf(), line, column, fault }
    })
}

struct State {
    /// What is left of [`BUDGET`].
    left: usize,
    fault: Option<JsonFault>,
}

#[derive(Clone, Copy)]
struct ValueSeed<'s> {
    state: &'s RefCell<State>,
}

impl ValueSeed<'_> {
    fn stop<E: de::Error>(self, fault: JsonFault) -> E {
        let error = E::custom(&fault);
        self.state.borrow_mut().fault = Some(fault);
        error
    }

    /// Takes `bytes` from the budget.
    fn charge<E: de::Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.state.borrow().left.checked_sub(bytes);
        match left {
            Some(left) => {
                self.state.borrow_mut().left = left;
                Ok(())
            }
            None => Err(self.stop(JsonFault::TooManyValues)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.charge(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.charge(ARRAY)?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            self.charge(ELEMENT)?;
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.charge(OBJECT)?;
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.charge(MEMBER + key.len())?;
            if members.contains_key(&key) {
                return Err(self.stop(JsonFault::DuplicateKey(key)));
            }
            let value = map.next_value_seed(self)?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}
