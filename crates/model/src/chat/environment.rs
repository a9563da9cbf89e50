//! The Jinja of transformers: its filters, tests, functions and settings, and Python's way to write values.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value, syntax::SyntaxConfig,
};

use super::methods::{self, check_length, problem};
use super::python::{self, JsonStyle};
use super::{CivilTime, Json, kept};

/// How deep macros may call each other.
const RECURSION: usize = 64;
/// The widest indentation of the filter `indent`.
const MAX_WIDTH: usize = 1000;

/// What `raise_exception` was called with; the source of an [`Error`].
#[derive(Debug)]
pub(super) struct Raised(pub String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment without templates.
pub(super) fn environment(fuel: u64) -> Environment<'static> {
    let mut env = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_recursion_limit(RECURSION);
    env.set_fuel(Some(fuel));
    env.set_formatter(write_value);
    env.set_unknown_method_callback(methods::call);
    env.add_function("raise_exception", raise_exception);
    add_filters(&mut env);
    env.add_test("sequence", |value: &Value| {
        // Whatever has a length and can be indexed, as undefined values can.
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
    });
    env.add_test("iterable", |value: &Value| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
    });
    env.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    env
}

/// Defines `strftime_now`, which fails without a time.
pub(super) fn strftime_now(now: Option<CivilTime>) -> Value {
    Value::from_function(move |format: &str| match now {
        Some(now) => Ok(now.format(format)),
        None => Err(problem("strftime_now: no date was given")),
    })
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let text = python::text(message)?;
    Err(problem("raise_exception").with_source(Raised(text)))
}

/// What `{{ value }}` writes.
fn write_value(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::text(value)?),
    };
    written.map_err(|_| Error::new(ErrorKind::WriteFailure, "the text is too long"))
}

/// Filters that differ from the engine's.
fn add_filters(env: &mut Environment<'static>) {
    env.add_filter("tojson", |value: &Value, positional: Rest<Value>, named: Kwargs| {
        JsonStyle::from_args(&positional, &named)?.write(value)
    });
    env.add_filter(kept::FILTER, kept::kept);
    env.add_filter("string", |value: &Value| python::text(value));
    env.add_filter("trim", |value: &Value, set: Option<&str>| {
        python::text(value).map(|text| methods::stripped(&text, set, true, true).to_owned())
    });
    env.add_filter("upper", |value: &Value| python::text(value).map(|text| text.to_uppercase()));
    env.add_filter("lower", |value: &Value| python::text(value).map(|text| text.to_lowercase()));
    env.add_filter("capitalize", |value: &Value| python::text(value).map(|text| methods::capitalized(&text)));
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("replace", |value: &Value, old: &str, new: &Value, count: Option<i64>| {
        methods::replaced(&python::text(value)?, old, &python::text(new)?, count.unwrap_or(-1))
    });
    env.add_filter("join", join);
    env.add_filter("indent", indent);
    env.add_filter("items", |value: &Value| match value.kind() {
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        ValueKind::Map => methods::of_dict(value, "items", &[]),
        kind => Err(problem(format!("items takes a mapping, not a value of type {kind}"))),
    });
    // `chain` and `zip` are no part of Jinja; `format` can make a text of any length in one step.
    for name in ["chain", "zip", "format"] {
        env.remove_filter(name);
    }
}

fn length(state: &mut State<'_, '_>, value: &Value) -> Result<usize, Error> {
    match value.len() {
        Some(len) => Ok(len),
        None if value.is_undefined() => Ok(0),
        None if value.kind() == ValueKind::Iterable => {
            let mut count = 0;
            for _ in value.try_iter()? {
                state.consume_fuel(1)?;
                count += 1;
            }
            Ok(count)
        }
        None => Err(problem(format!("a value of type {} has no length", value.kind()))),
    }
}

fn join(state: &mut State<'_, '_>, value: &Value, separator: Option<&Value>, named: Kwargs) -> Result<String, Error> {
    let attribute: Option<Value> = named.get("attribute")?;
    let given: Option<Value> = named.get("d")?;
    named.assert_all_used()?;
    let separator = separator.or(given.as_ref()).map(python::text).transpose()?.unwrap_or_default();
    let texts = value.try_iter()?.map(|item| {
        state.consume_fuel(1)?;
        match &attribute {
            Some(key) => python::text(&item.get_item(key)?),
            None => python::text(&item),
        }
    });
    methods::joined(texts, &separator)
}

/// `indent(width=4, first=false, blank=false)`; the width may be a text.
fn indent(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, name: &str| match positional.get(at) {
        Some(given) => Ok(Some(given.clone())),
        None => named.get::<Option<Value>>(name),
    };
    let (width, first, blank) = (argument(0, "width")?, argument(1, "first")?, argument(2, "blank")?);
    named.assert_all_used()?;
    let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let (first, blank) = (is_set(first), is_set(blank));
    let indentation = match &width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let width = width.as_usize().filter(|width| *width <= MAX_WIDTH);
                " ".repeat(width.ok_or_else(|| problem(format!("indent takes a width up to {MAX_WIDTH}")))?)
            }
        },
    };
    let text = python::text(value)?;
    let lines = text.matches('\n').count() + 1;
    check_length(lines.checked_mul(indentation.len()).and_then(|added| added.checked_add(text.len())))?;
    let mut out = String::new();
    for (i, line) in text.split('\n').enumerate() {
        out.push_str(if i == 0 { "" } else { "\n" });
        if (i > 0 || first) && (blank || !line.is_empty() || i == 0) {
            out.push_str(&indentation);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// An object of the input. With a dot its methods come before keys of the same names, as in Python, where a schema with
/// the key `items` still has the method `items()`. In brackets there are keys only; Python looks for methods there, too,
/// after the keys.
#[derive(Debug)]
struct Dict(Value);

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get_item(key).ok().filter(|value| !value.is_undefined())
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        if !methods::DICT.contains(&key) {
            return self.get_value(&Value::from(key));
        }
        let (dict, method) = (self.0.clone(), key.to_owned());
        Some(Value::from_function(move |args: Rest<Value>| methods::of_dict(&dict, &method, &args)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.0.try_iter().map_or(Enumerator::Empty, |keys| Enumerator::Values(keys.collect()))
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        methods::of_dict(&self.0, method, args)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&python::text(&self.0).map_err(|_| fmt::Error)?)
    }
}

/// The value as templates see it.
pub(super) fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Int(value) => Value::from(*value),
        Json::Large(value) => Value::from(*value),
        Json::Float(value) => Value::from(*value),
        Json::Text(text) => Value::from(text.as_str()),
        Json::List(items) => items.iter().map(value_of).collect(),
        Json::Object(members) => {
            let members = members.iter().map(|(key, value)| (Value::from(key.as_str()), value_of(value)));
            Value::from_object(Dict(Value::from_pairs(members)))
        }
    }
}
