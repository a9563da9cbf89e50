//! Bounds on the values that namespaces keep.
//!
//! The engine writes, compares and drops a value by functions that call themselves for each level of it, and without
//! regard to parts that it holds several times. Only a namespace can keep a value from one step of a loop to the next.
//! So it keeps no namespace, which could hold itself, and nothing that is deep or has many parts.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// The name of the filter, which [`tags`](super::tags) puts into templates.
pub(super) const FILTER: &str = "smallmind_kept";
/// The most levels of a value. Messages and tools have less than ten.
const MAX_DEPTH: usize = 64;
/// The most parts of a value, at all levels. The messages of a long conversation have some ten thousand.
const MAX_PARTS: usize = 1 << 17;

/// The value, if a namespace may keep it.
pub(super) fn kept(value: Value) -> Result<Value, Error> {
    check(&value, MAX_DEPTH, &mut 0)?;
    Ok(value)
}

fn check(value: &Value, depth: usize, parts: &mut usize) -> Result<(), Error> {
    let refused = |what: String| Err(Error::new(ErrorKind::InvalidOperation, format!("a namespace can't keep {what}")));
    // The engine's type is private.
    if value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace")) {
        return refused("a namespace".to_owned());
    }
    let is_map = match value.kind() {
        ValueKind::Map => true,
        ValueKind::Seq | ValueKind::Iterable => false,
        _ => return Ok(()),
    };
    if depth == 0 {
        return refused(format!("values nested more than {MAX_DEPTH} deep"));
    }
    for item in value.try_iter()? {
        *parts += 1;
        if *parts > MAX_PARTS {
            return refused(format!("more than {MAX_PARTS} values"));
        }
        if is_map {
            check(&value.get_item(&item)?, depth - 1, parts)?;
        }
        check(&item, depth - 1, parts)?;
    }
    Ok(())
}
