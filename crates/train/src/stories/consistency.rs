//! Inconsistencies of a story: names, kinds and pronouns that change.
//!
//! The check reads only the text, so it works for a model's stories as well as for the corpus. It reports only what is
//! certainly wrong, and does not judge the plot.

use std::fmt;

use super::cast::{self, Gender};

/// Something that contradicts the story before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inconsistency {
    /// A name that was not introduced, or a third name.
    Name(String),
    /// A kind of animal or toy that is neither the hero's nor the friend's.
    Kind(String),
    /// A pronoun that isn't the hero's, since all others are called by name.
    Pronoun(String),
    /// A second elder (Mom, Dad, Grandma …).
    Elder(String),
    /// A second colour.
    Color(String),
}

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(word) => write!(f, "{word} was never introduced"),
            Self::Kind(word) => write!(f, "nobody is a {word}"),
            Self::Pronoun(word) => write!(f, "\"{word}\" is not the hero"),
            Self::Elder(word) => write!(f, "{word} takes the place of another"),
            Self::Color(word) => write!(f, "{word} is another colour"),
        }
    }
}

/// Pairs of words whose colour doesn't belong to the story's thing.
const OWN_COLOR: &[(&str, &str)] = &[
    ("red", "barn"),
    ("red", "and"),
    ("white", "kitten"),
    ("tiny", "white"),
    ("was", "white"),
    ("green", "leaf"),
    ("something", "green"),
];

/// The inconsistencies of `story`, in the order of the text.
///
/// ```
/// use smallmind_train::stories::{self, Inconsistency};
///
/// assert_eq!(stories::inconsistencies("Once there was a kind girl named Lily. She loved to sing."), []);
/// let inconsistencies = stories::inconsistencies("Once there was a kind girl named Lily. He met Tom.");
/// assert_eq!(inconsistencies, [Inconsistency::Pronoun("He".into()), Inconsistency::Name("Tom".into())]);
/// ```
#[must_use]
pub fn inconsistencies(story: &str) -> Vec<Inconsistency> {
    let mut reader = Reader::default();
    let words: Vec<(usize, &str)> = words(story);
    for at in 0..words.len() {
        reader.read(story, &words, at);
    }
    reader.inconsistencies
}

/// What the check remembers of a text.
#[derive(Default)]
struct Reader<'a> {
    /// Names and their kinds.
    names: Vec<(&'a str, Option<&'static str>)>,
    kinds: Vec<&'static str>,
    /// The gender of the hero, who is named first.
    gender: Option<Gender>,
    elder: Option<&'static str>,
    color: Option<&'a str>,
    /// The end of the last kind that was read, in bytes: "wooden duck" is not "duck".
    read_to: usize,
    inconsistencies: Vec<Inconsistency>,
}

impl<'a> Reader<'a> {
    fn read(&mut self, story: &'a str, words: &[(usize, &'a str)], at: usize) {
        let (start, word) = words[at];
        if start < self.read_to {
            return;
        }
        let rest = &story[start..];
        let next = words.get(at + 1).map_or("", |w| w.1);
        if let Some(gender) = cast::gender_of_name(word) {
            self.name(story, words, at, gender);
        } else if let Some(elder) = cast::elder_at(rest) {
            if self.elder.is_some_and(|known| known != elder) {
                self.inconsistencies.push(Inconsistency::Elder(elder.to_owned()));
            }
            self.elder = self.elder.or(Some(elder));
        } else if let Some(kind) = cast::kind_at(rest) {
            self.read_to = start + kind.len();
            self.kind(kind, previous(words, at));
        } else if let Some(gender) = pronoun(word) {
            if self.gender.is_some_and(|hero| hero != gender) {
                self.inconsistencies.push(Inconsistency::Pronoun(word.to_owned()));
            }
        } else if cast::COLORS.contains(&word) {
            let own = |&(a, b): &(&str, &str)| (a, b) == (word, next) || (a, b) == (previous(words, at), word);
            if OWN_COLOR.iter().any(own) {
                return;
            }
            if self.color.is_some_and(|known| known != word) {
                self.inconsistencies.push(Inconsistency::Color(word.to_owned()));
            }
            self.color = self.color.or(Some(word));
        }
    }

    fn name(&mut self, story: &'a str, words: &[(usize, &'a str)], at: usize, gender: Gender) {
        let (start, name) = words[at];
        let after = &story[start + name.len()..];
        // "Lily the duck", "a duck called Lily".
        let apposed = after.strip_prefix(" the ").and_then(cast::kind_at);
        let called = match previous(words, at) {
            "named" | "called" => at.checked_sub(2).and_then(|at| kind_ending(story, words[at])),
            _ => None,
        };
        let kind = apposed.or(called);
        if let Some(wrong) = kind.filter(|kind| cast::gender_of_kind(kind).is_some_and(|other| other != gender)) {
            self.inconsistencies.push(Inconsistency::Kind(wrong.to_owned()));
        }
        if let Some((_, known)) = self.names.iter_mut().find(|(known, _)| *known == name) {
            if let (Some(known), Some(kind)) = (*known, kind)
                && known != kind
            {
                self.inconsistencies.push(Inconsistency::Kind(kind.to_owned()));
            }
            *known = known.or(kind);
            return;
        }
        let before: Vec<&str> = words[at.saturating_sub(2)..at].iter().map(|w| w.1).collect();
        let introduced =
            kind.is_some() || before.iter().any(|word| ["named", "called", "friend", "name"].contains(word));
        if self.names.len() >= 2 || (!self.names.is_empty() && !introduced) {
            self.inconsistencies.push(Inconsistency::Name(name.to_owned()));
            return;
        }
        self.gender.get_or_insert(gender);
        self.names.push((name, kind));
    }

    fn kind(&mut self, kind: &'static str, before: &str) {
        if let Some(gender) = cast::gender_of_kind(kind) {
            // Kinds with a gender ("girl", "boy") may occur more than once.
            self.gender.get_or_insert(gender);
            return;
        }
        // A "tiny frog", or the "tiny fish" that a cloud looks like, doesn't belong to the cast.
        if before == "tiny" || self.kinds.contains(&kind) {
            return;
        }
        if self.kinds.len() >= 2 {
            self.inconsistencies.push(Inconsistency::Kind(kind.to_owned()));
        } else {
            self.kinds.push(kind);
        }
    }
}

/// The words of a text and where they begin, in bytes.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let start = text.len() - rest.len() + begin;
        let end = text[start..].find(|c: char| !c.is_ascii_alphabetic()).map_or(text.len(), |len| start + len);
        words.push((start, &text[start..end]));
        rest = &text[end..];
    }
    words
}

fn previous<'a>(words: &[(usize, &'a str)], at: usize) -> &'a str {
    at.checked_sub(1).map_or("", |at| words[at].1)
}

/// The kind that ends with this word; kinds have up to two words.
fn kind_ending(story: &str, (start, word): (usize, &str)) -> Option<&'static str> {
    let end = start + word.len();
    cast::kinds().find(|kind| story[..end].ends_with(kind))
}

fn pronoun(word: &str) -> Option<Gender> {
    match word.to_ascii_lowercase().as_str() {
        "she" | "her" | "hers" | "herself" => Some(Gender::Female),
        "he" | "him" | "his" | "himself" => Some(Gender::Male),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inconsistencies of a story that continues with `text`.
    fn after(text: &str) -> Vec<String> {
        let begin = "Once there was a kind fox named Lily. She had a red ball from Mom.";
        assert_eq!(inconsistencies(begin), []);
        inconsistencies(&format!("{begin} {text}")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_fits_passes() {
        for text in [
            "Then Ben the pig came by. \"Hello,\" said Ben. Ben and Lily played with her red ball.",
            "A new duck called Max came to the pond. The duck was shy.",
            "She met her friend Tom. Mom gave Tom a cup, and the fox was happy.",
            "They walked to the red barn and found a tiny frog and a white kitten.",
            "An old man had lost a ring. A boy found it and gave it back.",
        ] {
            assert_eq!(after(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn what_changes_is_inconsistent() {
        for (text, found) in [
            ("\"Hello,\" said Anna.", "Anna was never introduced"),
            ("Her friend Ben came, and her friend Max.", "Max was never introduced"),
            ("Ben the pig came. He laughed.", "\"He\" is not the hero"),
            ("Ben the pig came. Ben the duck laughed.", "nobody is a duck"),
            ("A pig and a duck came.", "nobody is a duck"),
            ("A girl named Tom came, her friend.", "nobody is a girl"),
            ("Then Grandpa came.", "Grandpa takes the place of another"),
            ("Her blue ball was gone.", "blue is another colour"),
        ] {
            assert!(after(text).iter().any(|one| one == found), "{text}: {:?}", after(text));
        }
    }
}
