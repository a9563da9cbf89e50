//! Values as Python writes them: `str`, `repr` and `json.dumps`. Templates are written for that.

use std::fmt::Write;

use minijinja::value::{Kwargs, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::methods::check_length;

/// The most blanks of an indentation.
const MAX_INDENT: usize = 64;
/// How deep values are written out.
const MAX_DEPTH: usize = 128;

/// Whether Python's `str.strip` removes the character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `str(value)`; an undefined value is empty.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None if value.is_undefined() => Ok(String::new()),
        None => {
            let mut out = String::new();
            repr(value, &mut out, 0)?;
            Ok(out)
        }
    }
}

/// `repr(value)`.
fn repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    check_size(depth, out)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(value, out, ["nan", "inf", "-inf"]),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let is_tuple = value.downcast_object_ref::<Tuple>().is_some();
            out.push(if is_tuple { '(' } else { '[' });
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(&item, out, depth + 1)?;
            }
            if is_tuple && value.len() == Some(1) {
                out.push(',');
            }
            out.push(if is_tuple { ')' } else { ']' });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// Refuses what is nested too deep or too long; each element of a value writes something.
fn check_size(depth: usize, out: &str) -> Result<(), Error> {
    check_length(Some(out.len()))?;
    if depth < MAX_DEPTH {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidOperation, format!("a value is nested more than {MAX_DEPTH} deep")))
}

/// A number; `special` names what is no finite one.
fn number(value: &Value, out: &mut String, special: [&str; 3]) {
    let float = f64::try_from(value.clone()).ok().filter(|_| !value.is_integer());
    match float {
        None => {
            let _ = write!(out, "{value}");
        }
        Some(x) if x.is_nan() => out.push_str(special[0]),
        Some(x) if x.is_infinite() => out.push_str(special[if x > 0.0 { 1 } else { 2 }]),
        Some(x) => float_repr(x, out),
    }
}

/// The shortest digits that are read as `x`, with an exponent below 10⁻⁴ and from 10¹⁶ on.
fn float_repr(x: f64, out: &mut String) {
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x == 0.0 || (-4..16).contains(&exponent) {
        let plain = format!("{x}");
        out.push_str(&plain);
        out.push_str(if plain.contains('.') { "" } else { ".0" });
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{digits}e{sign}{:02}", exponent.abs());
    }
}

/// A string in quotes, as Python shows it.
fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if c == mark => out.extend(['\\', c]),
            _ if is_printable(c) => out.push(c),
            _ => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(mark);
}

/// Whether Python shows the character as it is: no control or format character, no blank but the space, nothing for
/// private use.
fn is_printable(c: char) -> bool {
    let hidden = matches!(
        c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0001}'..='\u{e007f}' | '\u{f0000}'..
    );
    c == ' ' || !(c.is_control() || c.is_whitespace() || hidden)
}

/// How `json.dumps` writes.
#[derive(Debug)]
pub(super) struct JsonStyle {
    ensure_ascii: bool,
    /// Blanks, or what else stands for each level; `None` for one line.
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl JsonStyle {
    /// The arguments of the filter `tojson` as transformers declares it: `ensure_ascii`, `indent`, `separators` and
    /// `sort_keys`.
    pub(super) fn from_args(positional: &[Value], named: &Kwargs) -> Result<Self, Error> {
        let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
            let value = match positional.get(at) {
                Some(value) => Some(value.clone()),
                None => named.get::<Option<Value>>(name)?,
            };
            Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
        };
        let ensure_ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
        let indent = argument(1, "indent")?.map(|value| indentation(&value)).transpose()?;
        let separators = argument(2, "separators")?;
        let sort_keys = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
        named.assert_all_used()?;
        let separator = |at: usize, default: &str| -> Result<String, Error> {
            match &separators {
                Some(pair) => match pair.get_item_by_index(at)? {
                    separator if separator.is_undefined() => {
                        Err(Error::new(ErrorKind::InvalidOperation, "separators must be two texts"))
                    }
                    separator => text(&separator),
                },
                None => Ok(default.to_owned()),
            }
        };
        let item = separator(0, if indent.is_some() { "," } else { ", " })?;
        Ok(Self { ensure_ascii, item, key: separator(1, ": ")?, indent, sort_keys })
    }

    /// `json.dumps(value)`.
    pub(super) fn write(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.value(value, &mut out, 0)?;
        Ok(out)
    }

    fn value(&self, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        check_size(depth, out)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => number(value, out, ["NaN", "Infinity", "-Infinity"]),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                self.nested(items, ['[', ']'], out, depth, |item, out| self.value(&item, out, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.nested(keys.into_iter(), ['{', '}'], out, depth, |key, out| {
                    self.string(&json_key(&key)?, out);
                    out.push_str(&self.key);
                    self.value(&value.get_item(&key)?, out, depth + 1)
                })?;
            }
            kind => {
                let problem = format!("a value of type {kind} can't be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        }
        Ok(())
    }

    /// Elements or members between brackets.
    fn nested(
        &self,
        items: impl Iterator<Item = Value>,
        [open, close]: [char; 2],
        out: &mut String,
        depth: usize,
        mut write: impl FnMut(Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        let mut any = false;
        for item in items {
            out.push_str(if any { &self.item } else { "" });
            self.line(out, depth + 1);
            write(item, out)?;
            any = true;
        }
        if any {
            self.line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    /// Begins a line, if there are lines.
    fn line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                _ if c < ' ' || self.ensure_ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                _ => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Blanks for a number, else the text itself.
fn indentation(value: &Value) -> Result<String, Error> {
    let blanks = match value.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(value.as_usize().unwrap_or(0).min(MAX_INDENT + 1)),
    };
    if blanks.len() <= MAX_INDENT {
        return Ok(blanks);
    }
    Err(Error::new(ErrorKind::InvalidOperation, format!("an indentation of more than {MAX_INDENT} blanks")))
}

/// The key of an object: Python writes numbers, booleans and `None` as strings.
fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::String | ValueKind::Number => text(key),
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("a key of type {kind} can't be written as JSON"))),
    }
}
