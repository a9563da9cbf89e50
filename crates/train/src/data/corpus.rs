//! Text files as documents, and their division into training and validation text.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use smallmind_checkpoint::json_problem;

use super::error::DataError;
use super::text::{check_stdin, read_marked};

/// What a document in text files is. Each line of a `.jsonl` file is a document in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Documents {
    /// The text between two separators. Files are joined end to end, so a document may continue in the next file.
    #[default]
    Separated,
    /// A file. Separators in it are plain text.
    Files,
}

/// How text is divided into documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Division<'a> {
    /// What a document is.
    pub documents: Documents,
    /// The text between documents, which belongs to none of them; `None` if the text is not divided.
    pub separator: Option<&'a str>,
}

/// The text of files as documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    text: String,
    /// The documents in order; none is empty.
    documents: Vec<Document>,
    /// Names of the files that begin with a byte-order mark.
    marks: Vec<String>,
}

/// A document, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Document {
    /// Bytes of the text.
    range: Range<usize>,
    /// Whether it ends a document: false for undivided text, and for the first part of a document that is divided
    /// between the splits.
    ends: bool,
}

/// The documents of a split. Each says whether the token that ends documents follows it, which it doesn't after the
/// first part of a divided document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentTexts<'a> {
    text: &'a str,
    documents: Vec<Document>,
}

impl Corpus {
    /// Reads text files, and `.jsonl` files. Each line of the latter is a document: a string, or an object with a field
    /// `text`. A byte-order mark at the beginning of a file is left out.
    ///
    /// # Errors
    /// No file; a file that is missing, empty or not UTF-8; a line that isn't a document.
    pub fn read<P: AsRef<Path>>(paths: &[P], division: Division<'_>) -> Result<Self, DataError> {
        if paths.is_empty() {
            return Err(DataError::NoFiles);
        }
        check_stdin(paths)?;
        let mut corpus = Self::default();
        // Where the text that is not divided yet begins.
        let mut open = 0;
        for path in paths {
            let path = path.as_ref();
            let lines = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
            if lines || division.documents == Documents::Files {
                corpus.divide(open, division.separator);
            }
            let (text, marked) = read_marked(path)?;
            if marked {
                corpus.marks.push(path.display().to_string());
            }
            if lines {
                corpus.push_lines(path, &text)?;
            } else if corpus.text.is_empty() {
                // A single file, the usual case, is not copied.
                corpus.text = text;
            } else {
                corpus.text.push_str(&text);
            }
            if !lines && division.documents == Documents::Files {
                corpus.push(open..corpus.text.len(), true);
            }
            if lines || division.documents == Documents::Files {
                open = corpus.text.len();
            }
        }
        corpus.divide(open, division.separator);
        if corpus.documents.len() > 1 {
            // Text without a separator is a document if there are other documents.
            corpus.documents.iter_mut().for_each(|document| document.ends = true);
        }
        Ok(corpus)
    }

    /// The corpus of a text in memory.
    #[must_use]
    pub fn of_text(text: String, separator: Option<&str>) -> Self {
        let mut corpus = Self { text, ..Self::default() };
        corpus.divide(0, separator);
        corpus
    }

    /// The corpus of documents in memory.
    pub fn of_documents<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Self {
        let mut corpus = Self::default();
        for text in texts {
            let start = corpus.text.len();
            corpus.text.push_str(text.as_ref());
            corpus.push(start..corpus.text.len(), true);
        }
        corpus
    }

    /// The documents of a `.jsonl` file.
    fn push_lines(&mut self, path: &Path, lines: &str) -> Result<(), DataError> {
        for (index, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let why = |why: String| DataError::Line { path: path.into(), line: index + 1, why };
            let text = text_of_line(line).map_err(why)?;
            let start = self.text.len();
            self.text.push_str(&text);
            self.push(start..self.text.len(), true);
        }
        Ok(())
    }

    /// Divides the text from byte `from` on at each separator. Text without one is a document without an end.
    fn divide(&mut self, from: usize, separator: Option<&str>) {
        let text = std::mem::take(&mut self.text);
        let mut start = from;
        let mut divided = false;
        for (at, found) in separator.into_iter().flat_map(|separator| text[from..].match_indices(separator)) {
            divided = true;
            self.push(start..from + at, true);
            start = from + at + found.len();
        }
        self.push(start..text.len(), divided);
        self.text = text;
    }

    /// Appends a document, unless it is empty.
    fn push(&mut self, range: Range<usize>, ends: bool) {
        if !range.is_empty() {
            self.documents.push(Document { range, ends });
        }
    }

    /// Whether there is no document.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Whether there is a document with an end.
    #[must_use]
    pub fn is_divided(&self) -> bool {
        self.documents.iter().any(|document| document.ends)
    }

    /// Names of the files that begin with a byte-order mark, which is left out of the text.
    #[must_use]
    pub fn marks(&self) -> &[String] {
        &self.marks
    }

    /// All documents.
    #[must_use]
    pub fn documents(&self) -> DocumentTexts<'_> {
        DocumentTexts { text: &self.text, documents: self.documents.clone() }
    }

    /// Splits the corpus: about the first `share` of the characters for training, the rest for validation. It splits
    /// after the document whose end is nearest to that share. A single document is split inside of the text, as in
    /// nanoGPT's `prepare.py`.
    #[must_use]
    pub fn split(&self, share: f64) -> (DocumentTexts<'_>, DocumentTexts<'_>) {
        let (train, validation) = match self.boundary(share) {
            Some(boundary) => {
                let (train, validation) = self.documents.split_at(boundary);
                (train.to_vec(), validation.to_vec())
            }
            // If there are several documents, each has an end; so this is the only one.
            None => self.documents.first().map(|only| self.split_document(only, share)).unwrap_or_default(),
        };
        let part = |documents| DocumentTexts { text: &self.text, documents };
        (part(train), part(validation))
    }

    /// Splits a document after `share` of its characters. A part without text has no documents.
    fn split_document(&self, document: &Document, share: f64) -> (Vec<Document>, Vec<Document>) {
        let Range { start, end } = document.range;
        let text = &self.text[start..end];
        let train = (text.chars().count() as f64 * share) as usize;
        let cut = start + text.char_indices().nth(train).map_or(text.len(), |(at, _)| at);
        let part = |range: Range<usize>| {
            let ends = document.ends && range.end == end;
            if range.is_empty() { vec![] } else { vec![Document { range, ends }] }
        };
        (part(start..cut), part(cut..end))
    }

    /// The index of the first document for validation.
    fn boundary(&self, share: f64) -> Option<usize> {
        let characters = |document: &Document| self.text[document.range.clone()].chars().count();
        let sizes: Vec<usize> = self.documents.iter().map(characters).collect();
        let target = sizes.iter().sum::<usize>() as f64 * share;
        let mut done = 0;
        let ends = self.documents.iter().zip(&sizes).enumerate().filter_map(|(index, (document, size))| {
            done += size;
            let inside = index + 1 < sizes.len();
            (document.ends && inside).then_some((index + 1, (done as f64 - target).abs()))
        });
        ends.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
    }
}

impl<'a> DocumentTexts<'a> {
    /// Each document's text, and whether the document ends with it.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, bool)> + Clone {
        let text = self.text;
        self.documents.iter().map(move |document| (&text[document.range.clone()], document.ends))
    }

    /// Bytes of all documents.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.documents.iter().map(|document| document.range.len()).sum()
    }
}

/// The document in a line of JSON, or what is wrong with the line.
fn text_of_line(line: &str) -> Result<String, String> {
    let mut texts = if line.trim_start().starts_with('{') {
        serde_json::from_str::<Texts>(line).map_err(|error| not_json(&error))?.0
    } else {
        match serde_json::from_str(line).map_err(|error| not_json(&error))? {
            text @ Value::String(_) => vec![text],
            _ => return Err("neither an object nor a string".into()),
        }
    };
    match (texts.pop(), texts.is_empty()) {
        (_, false) => Err("the field `text` is there twice".into()),
        (Some(Value::String(text)), _) => Ok(text),
        (Some(_), _) => Err("the field `text` is no string".into()),
        (None, _) => Err("the field `text` is missing".into()),
    }
}

/// The values of all fields `text` of an object.
struct Texts(Vec<Value>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "text" {
                        texts.push(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The parser's message without its line number: the text has one line.
fn not_json(error: &serde_json::Error) -> String {
    let text = json_problem(error);
    format!("not JSON: {} at column {}", text.split(" at line ").next().unwrap_or(&text), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(text: &str) -> Corpus {
        Corpus::of_text(text.to_owned(), Some("|"))
    }

    fn texts<'a>(documents: &DocumentTexts<'a>) -> Vec<(&'a str, bool)> {
        documents.iter().collect()
    }

    #[test]
    fn text_is_divided_at_separators_and_nothing_else() {
        assert_eq!(texts(&corpus("a b|c||d").documents()), [("a b", true), ("c", true), ("d", true)]);
        assert_eq!(texts(&corpus("|a|").documents()), [("a", true)]);
        assert_eq!(texts(&corpus("a b").documents()), [("a b", false)]);
        assert_eq!(texts(&corpus("").documents()), []);
        assert!(!corpus("a").is_divided() && corpus("a|").is_divided());
        assert_eq!(texts(&Corpus::of_text("a|b".into(), None).documents()), [("a|b", false)]);
    }

    #[test]
    fn validation_begins_at_the_end_of_a_document_nearest_to_its_share() {
        for (text, share, first) in [
            ("aaaa|bbbb|cc", 0.9, 2),
            ("aaaa|bbbb|cc", 0.5, 1),
            ("aa|bbbbbbbb", 0.9, 1),
            ("aaaaaaaa|b", 0.1, 1),
            ("ééééé|bbbb|c", 0.5, 1),
        ] {
            let corpus = corpus(text);
            let (train, validation) = corpus.split(share);
            assert_eq!(texts(&train).len(), first, "{text} {share}");
            assert_eq!([texts(&train), texts(&validation)].concat(), texts(&corpus.documents()));
        }
    }

    #[test]
    fn text_without_an_end_inside_is_cut_at_its_share() {
        let undivided = Corpus::of_text("0123456789".into(), None);
        let (train, validation) = undivided.split(0.9);
        assert_eq!((texts(&train), texts(&validation)), (vec![("012345678", false)], vec![("9", false)]));
        let one = corpus("0123456789|");
        let (train, validation) = one.split(0.5);
        assert_eq!((texts(&train), texts(&validation)), (vec![("01234", false)], vec![("56789", true)]));
        assert_eq!(texts(&one.split(1.0).0), texts(&one.documents()));
        assert!(texts(&one.split(1.0).1).is_empty());
        let nothing = corpus("");
        let (train, validation) = nothing.split(0.5);
        assert!(texts(&train).is_empty() && texts(&validation).is_empty());
    }
}
