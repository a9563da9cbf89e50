//! Regular expressions of pre-tokenizers.
//!
//! A `tokenizer.json` has them for Oniguruma, the engine of the Python package. Our engine is another, in which parts
//! of the same syntax mean other things: `$` is the end of the text and not of a line, `[[:alpha:]]` is ASCII, `\w` has
//! other characters, `(?i:ss)` leaves `ß` out. So an expression is parsed, and each part is rewritten in a form that
//! has the same meaning in our engine. A part without such a form is refused by name.
//!
//! ```text
//! expression = sequence { "|" sequence }        sequence = { atom [ repeat ] }
//! atom       = "(" group | "[" class | "\" escape | "." | "^" | "$" | character
//! ```
//!
//! Look-around and back-references are refused too: they need a backtracking matcher, whose time has no good bound. The
//! one exception is the `(?!\S)` of nearly every pre-tokenizer, which looks one character ahead.

use super::error::TokenizerError;
use super::properties::{HEX, WORD, property};

/// The longest piece of an expression that a message quotes, in characters.
const QUOTED: usize = 12;
/// How deep groups and classes may be nested; real ones stay below 5.
const MAX_DEPTH: usize = 32;

/// Writes Oniguruma's `pattern` in the syntax of our engine; `field` is its path in the file.
///
/// # Errors
/// [`TokenizerError::Unsupported`] names the part that can't be written.
pub(super) fn translate(field: &str, pattern: &str) -> Result<String, TokenizerError> {
    let mut reader =
        Reader { rest: pattern, out: String::with_capacity(pattern.len() + 16), depth: 0, ignore_case: false };
    let end = reader.expression();
    let refused = match end {
        Ok(()) if reader.rest.is_empty() => return Ok(reader.out),
        Ok(()) => Refused { at: reader.rest, supported: "parentheses in pairs" },
        Err(refused) => refused,
    };
    let found: String = refused.at.chars().take(QUOTED).collect();
    let found = if found.is_empty() { "its end".to_owned() } else { format!("{found:?}") };
    Err(TokenizerError::unsupported(field, format!("{found} in a regular expression"), refused.supported))
}

/// The error for a part that can't be written.
#[derive(Debug)]
struct Refused<'p> {
    at: &'p str,
    supported: &'static str,
}

type Read<'p, T> = Result<T, Refused<'p>>;

/// Kind of an atom, which decides whether it may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Atom {
    /// Text of at least one character.
    Text,
    /// A letter that matches both its cases.
    Letter(char),
    /// A group, which may be empty.
    Group,
    /// A position between characters.
    Place,
}

struct Reader<'p> {
    rest: &'p str,
    out: String,
    depth: usize,
    /// Inside of `(?i:…)`.
    ignore_case: bool,
}

impl<'p> Reader<'p> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut rest = self.rest.chars();
        let next = rest.next();
        self.rest = rest.as_str();
        next
    }

    /// Passes over `text` if it comes next.
    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Reads up to a closing parenthesis or the end.
    fn expression(&mut self) -> Read<'p, ()> {
        let at = self.rest;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Refused { at, supported: "groups and classes nested at most 32 deep" });
        }
        let mut before = None;
        while let Some(character) = self.peek().filter(|character| *character != ')') {
            if character == '|' {
                self.next();
                self.out.push('|');
                before = None;
                continue;
            }
            let at = self.rest;
            let atom = self.atom()?;
            if let (Some(Atom::Letter(first)), Atom::Letter(second)) = (before, atom)
                && FOLDED_PAIRS.contains(&[first, second])
            {
                let supported = "no ss, st, ff, fi or fl inside of (?i:...), which single characters stand for too";
                return Err(Refused { at, supported });
            }
            let repeated = self.repeat(atom, at)?;
            before = (!repeated).then_some(atom);
        }
        self.depth -= 1;
        Ok(())
    }

    fn atom(&mut self) -> Read<'p, Atom> {
        let at = self.rest;
        let supported = match self.next() {
            Some('(') => return self.group(at),
            Some('[') => {
                self.class(at)?;
                return Ok(Atom::Text);
            }
            Some('\\') => return self.escape(at),
            Some('.') => {
                self.out.push_str("[^\\n]");
                return Ok(Atom::Text);
            }
            Some('^') => {
                // Not after a line feed that ends the text.
                self.out.push_str("(?:\\A|(?m:^)(?!\\z))");
                return Ok(Atom::Place);
            }
            Some('$') => {
                self.out.push_str("(?m:$)");
                return Ok(Atom::Place);
            }
            Some('*' | '+' | '?' | '{') => "something to repeat before *, +, ? and {, and \\{ for the character",
            Some(character) => return self.literal(character, at),
            None => "more",
        };
        Err(Refused { at, supported })
    }

    /// A character that stands for itself.
    fn literal(&mut self, character: char, at: &'p str) -> Read<'p, Atom> {
        if !self.ignore_case {
            push_character(&mut self.out, character);
            return Ok(Atom::Text);
        }
        if !character.is_ascii() {
            return Err(Refused { at, supported: "ASCII inside of (?i:...)" });
        }
        if !character.is_ascii_alphabetic() {
            push_character(&mut self.out, character);
            return Ok(Atom::Text);
        }
        self.out.push('[');
        push_cases(&mut self.out, character);
        self.out.push(']');
        Ok(Atom::Letter(character.to_ascii_lowercase()))
    }

    fn group(&mut self, at: &'p str) -> Read<'p, Atom> {
        const SUPPORTED: &str = "groups (...), (?:...), (?>...), (?i:...) and the look-ahead (?!\\S)";
        if self.ignore_case {
            return Err(Refused { at, supported: "no groups inside of (?i:...)" });
        }
        if self.take("?!\\S)") {
            self.out.push_str("(?!\\S)");
            return Ok(Atom::Place);
        }
        let ignore_case = self.take("?i:");
        if self.take("?>") {
            self.out.push_str("(?>");
        } else if ignore_case || self.take("?:") || !self.rest.starts_with(['?', '*']) {
            self.out.push_str("(?:");
        } else {
            return Err(Refused { at, supported: SUPPORTED });
        }
        self.ignore_case = ignore_case;
        self.expression()?;
        self.ignore_case = false;
        if !self.take(")") {
            return Err(Refused { at, supported: "parentheses in pairs" });
        }
        self.out.push(')');
        Ok(Atom::Group)
    }

    /// Reads a repeat after the atom that began at `at`; returns whether there is one.
    fn repeat(&mut self, atom: Atom, at: &'p str) -> Read<'p, bool> {
        let is_optional = self.peek() == Some('?');
        let fixed = match self.peek() {
            Some(sign @ ('*' | '+' | '?')) => {
                self.next();
                self.out.push(sign);
                false
            }
            Some('{') => self.bounds(at)?,
            _ => return Ok(false),
        };
        let counted = self.out.ends_with('}');
        match self.peek() {
            // In Oniguruma, {2}? is at most one {2}, and {1,2}+ is a repeat of a repeat.
            Some('?') if !fixed => self.out.push('?'),
            Some('+') if !counted => self.out.push('+'),
            Some('?' | '+' | '*' | '{') => return Err(Refused { at, supported: "one repeat at a time" }),
            _ => return check_repeated(atom, is_optional, at),
        }
        self.next();
        if self.rest.starts_with(['*', '+', '?', '{']) {
            return Err(Refused { at, supported: "one repeat at a time" });
        }
        check_repeated(atom, is_optional, at)
    }

    /// `{n}`, `{n,}`, `{,m}` or `{n,m}`; returns whether it is the first of these.
    fn bounds(&mut self, at: &'p str) -> Read<'p, bool> {
        let refused = Refused {
            at,
            supported: "the repeats {n}, {n,}, {,m} and {n,m} of at most 1000, and \\{ for the character",
        };
        let Some((bounds, rest)) = self.rest[1..].split_once('}') else { return Err(refused) };
        let number =
            |text: &str| text.parse::<u32>().ok().filter(|n| *n <= 1000 && text.bytes().all(|b| b.is_ascii_digit()));
        let written = match bounds.split_once(',') {
            None => number(bounds).map(|n| format!("{{{n}}}")),
            Some((least, "")) => number(least).map(|n| format!("{{{n},}}")),
            Some(("", most)) => number(most).map(|m| format!("{{0,{m}}}")),
            Some((least, most)) => number(least)
                .zip(number(most))
                .filter(|(least, most)| least <= most)
                .map(|(least, most)| format!("{{{least},{most}}}")),
        };
        self.out.push_str(&written.ok_or(refused)?);
        self.rest = rest;
        Ok(!bounds.contains(','))
    }

    /// Reads what follows a backslash, outside of a class.
    fn escape(&mut self, at: &'p str) -> Read<'p, Atom> {
        if self.take("A") {
            self.out.push_str("\\A");
            return Ok(Atom::Place);
        }
        if self.take("z") {
            self.out.push_str("\\z");
            return Ok(Atom::Place);
        }
        if let Some(set) = self.set(at)? {
            if self.ignore_case {
                return Err(Refused { at, supported: "no sets of characters inside of (?i:...)" });
            }
            // Outside of a class, Oniguruma counts the superscripts and fractions of Latin-1 as parts of words.
            let latin = if set.items == WORD { "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}" } else { "" };
            let not = if set.negated { "^" } else { "" };
            self.out.push_str(&format!("[{not}{}{latin}]", set.items));
            return Ok(Atom::Text);
        }
        let character = self.escaped_character(at)?;
        self.literal(character, at)
    }

    /// A set of characters after a backslash: `\s`, `\d`, `\w`, `\h`, their opposites, and `\p{…}`.
    fn set(&mut self, at: &'p str) -> Read<'p, Option<Set>> {
        let Some(letter) = self.peek() else { return Ok(None) };
        let items = match letter.to_ascii_lowercase() {
            's' => "\\s",
            'd' => "\\p{Nd}",
            'w' => WORD,
            'h' => HEX,
            'p' => {
                self.next();
                let supported = "\\p{...} with a general category or a script of Unicode, such as \\p{L} or \\p{Han}";
                let closed = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
                let Some((name, rest)) = closed else { return Err(Refused { at, supported }) };
                self.rest = rest;
                let (not, name) = name.strip_prefix('^').map_or((false, name), |name| (true, name));
                let items = property(name).ok_or(Refused { at, supported })?;
                return Ok(Some(Set { items, negated: not != (letter == 'P') }));
            }
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(Set { items: items.to_owned(), negated: letter.is_ascii_uppercase() }))
    }

    /// A character after a backslash.
    fn escaped_character(&mut self, at: &'p str) -> Read<'p, char> {
        let refused = || Refused {
            at,
            supported: "the escapes \\s \\d \\w \\h \\p \\A \\z \\n \\r \\t \\f \\v \\a \\e \\x \\u and those of punctuation",
        };
        let character = self.next().ok_or_else(refused)?;
        Ok(match character {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'a' => '\u{7}',
            'e' => '\u{1b}',
            'x' if self.take("{") => {
                let (digits, rest) = self.rest.split_once('}').ok_or_else(refused)?;
                self.rest = rest;
                hexadecimal(digits).ok_or_else(refused)?
            }
            // From 80 on these are bytes of UTF-8, not characters.
            'x' => self.digits(2).and_then(hexadecimal).filter(char::is_ascii).ok_or_else(refused)?,
            'u' => self.digits(4).and_then(hexadecimal).ok_or_else(refused)?,
            c if c.is_ascii_alphanumeric() => return Err(refused()),
            c => c,
        })
    }

    /// The next `count` characters.
    fn digits(&mut self, count: usize) -> Option<&'p str> {
        let digits = self.rest.get(..count)?;
        self.rest = &self.rest[count..];
        Some(digits)
    }

    /// Reads a class after its opening bracket.
    fn class(&mut self, at: &'p str) -> Read<'p, ()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Refused { at, supported: "groups and classes nested at most 32 deep" });
        }
        self.out.push('[');
        if self.take("^") {
            self.out.push('^');
        }
        let mut is_empty = true;
        loop {
            let at_item = self.rest;
            if self.take("]") && !is_empty {
                break;
            }
            let supported = match at_item.chars().next() {
                None => "brackets in pairs",
                Some(']') => "classes that are not empty, and \\] for the character",
                Some('&') if self.take("&&") => {
                    if is_empty || self.rest.starts_with([']', '&']) {
                        return Err(Refused { at: at_item, supported: "classes on both sides of &&" });
                    }
                    self.out.push_str("&&");
                    is_empty = true;
                    continue;
                }
                Some('-') if !is_empty && !self.rest.starts_with("-]") => "\\- for a minus sign inside of a class",
                Some(_) => {
                    self.class_item(at_item)?;
                    is_empty = false;
                    continue;
                }
            };
            return Err(Refused { at: at_item, supported });
        }
        self.out.push(']');
        self.depth -= 1;
        Ok(())
    }

    /// A character, a range, a set or a class inside of a class.
    fn class_item(&mut self, at: &'p str) -> Read<'p, ()> {
        if self.take("[:") {
            return self.posix(at);
        }
        if self.take("[") {
            return self.class(at);
        }
        if self.take("\\") {
            if let Some(set) = self.set(at)? {
                if self.ignore_case {
                    return Err(Refused { at, supported: "no sets of characters inside of (?i:...)" });
                }
                set.push_to(&mut self.out);
                return self.no_range(at);
            }
            let first = self.escaped_character(at)?;
            return self.range(first, at);
        }
        match self.next() {
            Some(first) => self.range(first, at),
            None => Err(Refused { at, supported: "brackets in pairs" }),
        }
    }

    /// A character of a class, or the range that it begins.
    fn range(&mut self, first: char, at: &'p str) -> Read<'p, ()> {
        if !self.rest.starts_with('-') || self.rest.starts_with("-]") {
            if !self.ignore_case {
                push_character(&mut self.out, first);
            } else if first.is_ascii() {
                push_cases(&mut self.out, first);
            } else {
                return Err(Refused { at, supported: "ASCII inside of (?i:...)" });
            }
            return Ok(());
        }
        self.take("-");
        let last = if self.take("\\") {
            self.escaped_character(at)?
        } else {
            match self.next() {
                Some(last) if !matches!(last, '[' | '-') => last,
                _ => return Err(Refused { at, supported: "\\- for a minus sign inside of a class" }),
            }
        };
        if self.ignore_case || first > last || first == '-' {
            return Err(Refused { at, supported: "ranges of rising characters, and none inside of (?i:...)" });
        }
        push_character(&mut self.out, first);
        self.out.push('-');
        push_character(&mut self.out, last);
        self.no_range(at)
    }

    /// Refuses a minus sign that is neither part of a range nor the last of its class.
    fn no_range(&self, at: &'p str) -> Read<'p, ()> {
        if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
            return Err(Refused { at, supported: "\\- for a minus sign inside of a class" });
        }
        Ok(())
    }

    /// Reads a POSIX class after `[:`.
    fn posix(&mut self, at: &'p str) -> Read<'p, ()> {
        let supported = "[:alpha:] [:digit:] [:alnum:] [:upper:] [:lower:] [:space:] [:punct:] [:blank:] [:cntrl:] [:xdigit:] [:word:] [:ascii:]";
        let refused = || Refused { at, supported };
        if self.ignore_case {
            return Err(Refused { at, supported: "no sets of characters inside of (?i:...)" });
        }
        let (name, rest) = self.rest.split_once(":]").ok_or_else(refused)?;
        self.rest = rest;
        let (negated, name) = name.strip_prefix('^').map_or((false, name), |name| (true, name));
        let items = match name {
            "alpha" => "\\p{Alphabetic}",
            "digit" => "\\p{Nd}",
            "alnum" => "\\p{Alphabetic}\\p{Nd}",
            "upper" => "\\p{Uppercase}",
            "lower" => "\\p{Lowercase}",
            "space" => "\\s",
            "punct" => "\\p{P}\\p{S}",
            "blank" => "\\p{Zs}\\t",
            "cntrl" => "\\p{Cc}",
            "xdigit" => HEX,
            "word" => WORD,
            "ascii" => "\\x{0}-\\x{7F}",
            _ => return Err(refused()),
        };
        Set { items: items.to_owned(), negated }.push_to(&mut self.out);
        self.no_range(at)
    }
}

/// Whether the atom that began at `at` may be repeated.
fn check_repeated(atom: Atom, is_optional: bool, at: &str) -> Read<'_, bool> {
    let supported = match atom {
        Atom::Place => "no repeats of ^, $, \\A, \\z and (?!\\S)",
        Atom::Letter(_) if !is_optional => "no repeats of letters inside of (?i:...) but ?",
        _ => return Ok(true),
    };
    Err(Refused { at, supported })
}

/// A set of characters, as the members of a class.
struct Set {
    /// The members, as they are written between brackets.
    items: String,
    negated: bool,
}

impl Set {
    /// Writes the set inside of a class.
    fn push_to(&self, out: &mut String) {
        if self.negated {
            out.push_str("[^");
            out.push_str(&self.items);
            out.push(']');
        } else {
            out.push_str(&self.items);
        }
    }
}

/// Pairs of letters to which a single character of Unicode folds (CaseFolding.txt, status F).
const FOLDED_PAIRS: [[char; 2]; 5] = [['s', 's'], ['s', 't'], ['f', 'f'], ['f', 'i'], ['f', 'l']];

/// An ASCII character in both cases, and what else folds to it (CaseFolding.txt, status C).
fn push_cases(out: &mut String, character: char) {
    push_character(out, character.to_ascii_lowercase());
    if character.is_ascii_alphabetic() {
        out.push(character.to_ascii_uppercase());
    }
    match character.to_ascii_lowercase() {
        's' => out.push('\u{17f}'),
        'k' => out.push('\u{212a}'),
        _ => {}
    }
}

/// A character, written so that it means itself anywhere.
fn push_character(out: &mut String, character: char) {
    if character.is_ascii_alphanumeric() || !character.is_ascii() {
        out.push(character);
    } else {
        out.push_str(&format!("\\x{{{:X}}}", u32::from(character)));
    }
}

fn hexadecimal(digits: &str) -> Option<char> {
    let valid = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    valid.then(|| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)).flatten()
}
