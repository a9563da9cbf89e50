//! Methods of Python's strings, dictionaries and lists that templates call.
//!
//! What changes a value in place (`append`, `update`, …) is absent: transformers forbids it too.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::python::is_space;

/// The most bytes of a text that a method or filter makes.
const MAX_TEXT: usize = 16 << 20;

/// The methods of a dictionary.
pub(super) const DICT: [&str; 5] = ["copy", "get", "items", "keys", "values"];

/// Calls a method that the engine does not have.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    // What methods visit costs fuel as it does in the engine's filters.
    let visited = [value].into_iter().chain(args).filter_map(Value::len).map(|len| len as u64);
    state.consume_fuel(visited.fold(0, u64::saturating_add) / 64)?;
    match value.kind() {
        ValueKind::String => of_text(value.as_str().unwrap_or_default(), method, args),
        ValueKind::Map => of_dict(value, method, args),
        ValueKind::Seq | ValueKind::Iterable => of_list(value, method, args),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// An error about an argument.
pub(super) fn problem(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

/// Refuses a text that would be too long.
pub(super) fn check_length(bytes: Option<usize>) -> Result<usize, Error> {
    bytes.filter(|bytes| *bytes <= MAX_TEXT).ok_or_else(|| problem(format!("a text of more than {MAX_TEXT} bytes")))
}

/// The method `method` of a dictionary; none if it has no such method.
pub(super) fn of_dict(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let keys = || value.try_iter();
    match method {
        "keys" => from_args(args).and_then(|()| Ok(keys()?.collect())),
        "values" => {
            let () = from_args(args)?;
            keys()?.map(|key| value.get_item(&key)).collect::<Result<Vec<_>, _>>().map(Value::from)
        }
        "items" => {
            let () = from_args(args)?;
            let pair = |key: Value| Ok(Value::from(Tuple::from(vec![key.clone(), value.get_item(&key)?])));
            keys()?.map(pair).collect::<Result<Vec<_>, Error>>().map(Value::from)
        }
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(key).ok().filter(|found| !found.is_undefined());
            Ok(found.unwrap_or_else(|| default.unwrap_or_else(|| Value::from(()))))
        }
        "copy" => from_args(args).map(|()| value.clone()),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn of_list(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "count" => {
            let (wanted,): (&Value,) = from_args(args)?;
            Ok(Value::from(value.try_iter()?.filter(|item| item == wanted).count()))
        }
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *wanted);
            at.map(Value::from).ok_or_else(|| problem("the value is not in the list"))
        }
        "copy" => from_args(args).map(|()| value.clone()),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn of_text(s: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(answer) = question(s, method) {
        return from_args(args).map(|()| Value::from(answer));
    }
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(args)?;
            let (left, right) = (method != "rstrip", method != "lstrip");
            Ok(Value::from(stripped(s, set, left, right)))
        }
        "upper" => from_args(args).map(|()| Value::from(s.to_uppercase())),
        "lower" | "casefold" => from_args(args).map(|()| Value::from(s.to_lowercase())),
        "capitalize" => from_args(args).map(|()| Value::from(capitalized(s))),
        "title" => from_args(args).map(|()| Value::from(titled(s))),
        "startswith" => affix(args, |affix| s.starts_with(affix)),
        "endswith" => affix(args, |affix| s.ends_with(affix)),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(s.strip_prefix(prefix).unwrap_or(s)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(s.strip_suffix(suffix).unwrap_or(s)))
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            replaced(s, old, new, count.unwrap_or(-1)).map(Value::from)
        }
        "split" | "rsplit" => {
            let (separator, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.map_or_else(|| named.get::<Option<Value>>("sep"), |given| Ok(Some(given)))?;
            let most = most.map_or_else(|| named.get::<Option<i64>>("maxsplit"), |given| Ok(Some(given)))?;
            named.assert_all_used()?;
            let separator = separator.filter(|separator| !separator.is_none());
            let separator = match &separator {
                Some(given) => Some(given.as_str().ok_or_else(|| problem("a separator must be a text"))?),
                None => None,
            };
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            split(s, separator, most, method == "rsplit").map(|parts| parts.into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let found = if method == "partition" { s.split_once(separator) } else { s.rsplit_once(separator) };
            let parts = match (found, method) {
                (Some((before, after)), _) => [before, separator, after],
                (None, "partition") => [s, "", ""],
                (None, _) => ["", "", s],
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            Ok(lines(s, keep.unwrap_or(false)).into_iter().map(Value::from).collect())
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (wanted,): (&str,) = from_args(args)?;
            let at = if method.starts_with('r') { s.rfind(wanted) } else { s.find(wanted) };
            match at {
                Some(at) => Ok(Value::from(s[..at].chars().count())),
                None if method.ends_with("find") => Ok(Value::from(-1)),
                None => Err(problem("the text is not found")),
            }
        }
        "count" => {
            let (wanted,): (&str,) = from_args(args)?;
            Ok(Value::from(if wanted.is_empty() { s.chars().count() + 1 } else { s.matches(wanted).count() }))
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let items = items.try_iter()?;
            let texts = items
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| problem("join takes a list of texts only")));
            joined(texts, s).map(Value::from)
        }
        "ljust" | "rjust" | "center" | "zfill" => padded(s, method, args),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// The answer of a method such as `isdigit`; none for a method of another name.
fn question(s: &str, method: &str) -> Option<bool> {
    let all = |test: fn(char) -> bool| !s.is_empty() && s.chars().all(test);
    let cased = |wanted: fn(char) -> bool, other: fn(char) -> bool| s.chars().any(wanted) && !s.chars().any(other);
    Some(match method {
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(is_space),
        "isascii" => s.is_ascii(),
        "islower" => cased(char::is_lowercase, char::is_uppercase),
        "isupper" => cased(char::is_uppercase, char::is_lowercase),
        _ => return None,
    })
}

/// `startswith` and `endswith` take a text or several.
fn affix(args: &[Value], test: impl Fn(&str) -> bool) -> Result<Value, Error> {
    let (affix,): (&Value,) = from_args(args)?;
    if let Some(affix) = affix.as_str() {
        return Ok(Value::from(test(affix)));
    }
    if !matches!(affix.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Err(problem("startswith and endswith take a text or several"));
    }
    Ok(Value::from(affix.try_iter()?.any(|affix| affix.as_str().is_some_and(&test))))
}

/// `strip`: without blanks, or the characters of `set`, at its ends.
pub(super) fn stripped<'s>(s: &'s str, set: Option<&str>, left: bool, right: bool) -> &'s str {
    let drop = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
    let s = if left { s.trim_start_matches(drop) } else { s };
    if right { s.trim_end_matches(drop) } else { s }
}

/// `replace`; all occurrences if `count` is negative.
pub(super) fn replaced(s: &str, old: &str, new: &str, count: i64) -> Result<String, Error> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let found = if old.is_empty() { s.chars().count() + 1 } else { s.matches(old).count() }.min(most);
    check_length(found.checked_mul(new.len()).and_then(|added| added.checked_add(s.len())))?;
    Ok(s.replacen(old, new, most))
}

/// The texts with `separator` between them.
pub(super) fn joined(texts: impl Iterator<Item = Result<String, Error>>, separator: &str) -> Result<String, Error> {
    let mut out = String::new();
    for (i, text) in texts.enumerate() {
        let text = text?;
        check_length(Some(out.len() + separator.len() + text.len()))?;
        out.push_str(if i == 0 { "" } else { separator });
        out.push_str(&text);
    }
    Ok(out)
}

/// `split` and `rsplit`.
fn split<'s>(s: &'s str, separator: Option<&str>, most: usize, from_right: bool) -> Result<Vec<&'s str>, Error> {
    let parts = most.saturating_add(1);
    match (separator, from_right) {
        (Some(""), _) => Err(problem("an empty separator")),
        (Some(separator), false) => Ok(s.splitn(parts, separator).collect()),
        (Some(separator), true) => {
            let mut parts: Vec<_> = s.rsplitn(parts, separator).collect();
            parts.reverse();
            Ok(parts)
        }
        (None, from_right) => Ok(split_at_blanks(s, most, from_right)),
    }
}

/// `split` without a separator: at runs of blanks, of which those at the ends make no parts. The part behind the last
/// split keeps its blanks.
fn split_at_blanks(s: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = stripped(s, None, !from_right, from_right);
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        match cut.filter(|_| parts.len() < most) {
            None => {
                parts.push(rest);
                break;
            }
            Some(at) if from_right => {
                let blank = rest[at..].chars().next().map_or(1, char::len_utf8);
                parts.push(&rest[at + blank..]);
                rest = stripped(&rest[..at], None, false, true);
            }
            Some(at) => {
                parts.push(&rest[..at]);
                rest = stripped(&rest[at..], None, true, false);
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// `splitlines`.
fn lines(s: &str, keep_ends: bool) -> Vec<&str> {
    const ENDS: [char; 9] = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}'];
    let is_end = |c: char| ENDS.contains(&c) || c == '\u{2029}';
    let (mut lines, mut rest) = (Vec::new(), s);
    while !rest.is_empty() {
        let at = rest.find(is_end).unwrap_or(rest.len());
        let end = match &rest[at..] {
            end if end.starts_with("\r\n") => 2,
            end => end.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep_ends { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    lines
}

/// `ljust`, `rjust`, `center` and `zfill`.
fn padded(s: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    let fill = fill.unwrap_or(if method == "zfill" { "0" } else { " " });
    let missing = width.saturating_sub(s.chars().count());
    check_length(missing.checked_mul(fill.len()).and_then(|added| added.checked_add(s.len())))?;
    let before = match method {
        "ljust" => 0,
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let (sign, digits) = match s.strip_prefix(['-', '+']) {
        Some(digits) if method == "zfill" => (&s[..1], digits),
        _ => ("", s),
    };
    Ok(Value::from([sign, &fill.repeat(before), digits, &fill.repeat(missing - before)].concat()))
}

/// `capitalize`.
pub(super) fn capitalized(s: &str) -> String {
    let mut rest = s.chars();
    let first: String = rest.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &rest.as_str().to_lowercase()
}

/// `title`: each run of letters begins with an upper-case one.
fn titled(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut inside = false;
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_alphabetic();
    }
    out
}
