//! Which files of a repository make up the model that a name means.

use std::collections::BTreeMap;

use crate::error::SelectionFault;
use crate::name::{Choice, is_gguf};

/// Weights in one file.
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
/// The index of weights in several files.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// The model's shape.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// Files besides the weights that belong to a model in the layout of Hugging Face.
const COMPANIONS: [&str; 14] = [
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
];
/// Formats that are taken if a name says none, the first one first.
const DEFAULT_FORMATS: [&str; 2] = ["Q4_K_M", "Q8_0"];
/// Beginnings of names of GGUF files that hold no language model.
const OTHER_GGUFS: [&str; 2] = ["mmproj", "imatrix"];

/// The files of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// A folder of safetensors. If `weights` is [`INDEX_FILE`], the files that the index names belong to it too.
    Folder { companions: Vec<String>, weights: String },
    /// A GGUF file, or its parts in order.
    Gguf(Vec<String>),
}

/// A GGUF file, or the parts of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gguf {
    /// The names that are there, in their order.
    pub parts: Vec<String>,
    /// The format in its name.
    pub format: Option<String>,
    /// The number of parts that its name states.
    expected: usize,
}

impl Gguf {
    /// The name of the first part that is missing.
    pub fn missing(&self) -> Option<String> {
        (1..=self.expected).map(|number| self.part(number)).find(|part| self.parts.binary_search(part).is_err())
    }

    fn part(&self, number: usize) -> String {
        match split_of(&self.parts[0]) {
            Some(split) => format!("{}-{number:05}-of-{:05}{}", split.stem, split.count, split.extension),
            None => self.parts[0].clone(),
        }
    }
}

/// Selects the model that `choice` means among the files of a repository.
pub(crate) fn select(names: &[String], choice: Option<&Choice>) -> Result<Selection, SelectionFault> {
    let ggufs = ggufs(names);
    let selected = match choice {
        Some(Choice::File(file)) => ggufs.iter().filter(|gguf| gguf.parts.contains(file)).collect(),
        Some(Choice::Format(format)) => of_format(&ggufs, format),
        None if names.iter().any(|name| is_weights(name)) => return folder(names),
        None => default_of(&ggufs),
    };
    match (selected.as_slice(), choice) {
        ([gguf], _) => match gguf.missing() {
            Some(part) => Err(SelectionFault::MissingPart(part)),
            None => Ok(Selection::Gguf(gguf.parts.clone())),
        },
        ([], Some(choice)) => Err(SelectionFault::NoSuch(choice.to_string(), first_parts(ggufs.iter()))),
        ([], None) if ggufs.is_empty() => Err(SelectionFault::NoWeights(names.to_vec())),
        ([], None) => Err(SelectionFault::Several(first_parts(ggufs.iter()))),
        (several, _) => Err(SelectionFault::Several(first_parts(several.iter().copied()))),
    }
}

fn first_parts<'a>(ggufs: impl Iterator<Item = &'a Gguf>) -> Vec<String> {
    ggufs.map(|gguf| gguf.parts[0].clone()).collect()
}

/// Whether a file in the repository's own folder holds weights as safetensors, or their index.
fn is_weights(name: &str) -> bool {
    name == INDEX_FILE || name.ends_with(".safetensors") && !name.contains('/')
}

fn folder(names: &[String]) -> Result<Selection, SelectionFault> {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    // Other tools take the single file if there are both.
    let Some(weights) = [WEIGHTS_FILE, INDEX_FILE].into_iter().find(|name| has(name)) else {
        return Err(SelectionFault::OtherWeights(names.iter().filter(|name| is_weights(name)).cloned().collect()));
    };
    if !has(CONFIG_FILE) {
        return Err(SelectionFault::MissingPart(CONFIG_FILE.to_owned()));
    }
    let companions = COMPANIONS.into_iter().filter(|name| has(name)).map(str::to_owned).collect();
    Ok(Selection::Folder { companions, weights: weights.to_owned() })
}

fn of_format<'a>(ggufs: &'a [Gguf], format: &str) -> Vec<&'a Gguf> {
    ggufs.iter().filter(|gguf| has_format(&gguf.parts[0], format)).collect()
}

fn default_of(ggufs: &[Gguf]) -> Vec<&Gguf> {
    let preferred = DEFAULT_FORMATS.into_iter().map(|format| of_format(ggufs, format));
    match preferred.into_iter().find(|found| !found.is_empty()) {
        Some(found) => found,
        None if ggufs.len() == 1 => vec![&ggufs[0]],
        None => vec![],
    }
}

/// The GGUF models among the files of a repository, parts put together, in the order of names. Hidden files are those
/// that a program is still writing.
pub(crate) fn ggufs(names: &[String]) -> Vec<Gguf> {
    let mut groups: BTreeMap<(String, usize), Vec<String>> = BTreeMap::new();
    for name in names.iter().filter(|name| is_gguf(name) && !is_other(name) && !file_name(name).starts_with('.')) {
        let key = split_of(name).map_or((name.clone(), 0), |split| (split.stem.to_owned(), split.count));
        groups.entry(key).or_default().push(name.clone());
    }
    let group = |((_, count), mut parts): ((String, usize), Vec<String>)| {
        parts.sort();
        Gguf { format: format_of(&parts[0]), expected: count.max(1), parts }
    };
    groups.into_iter().map(group).collect()
}

fn is_other(name: &str) -> bool {
    let file = file_name(name);
    OTHER_GGUFS.iter().any(|other| file.get(..other.len()).is_some_and(|start| start.eq_ignore_ascii_case(other)))
}

fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The name of a part of a GGUF model: `STEM-00001-of-00003.gguf`.
struct Split<'a> {
    stem: &'a str,
    count: usize,
    extension: &'a str,
}

/// The most parts of a GGUF model: its number has five digits.
const MAX_PARTS: usize = 99_999;

fn split_of(name: &str) -> Option<Split<'_>> {
    const NUMBERS: usize = "-00001-of-00003".len();
    let (base, extension) = name.split_at_checked(name.len().checked_sub(".gguf".len())?)?;
    let (stem, numbers) = base.split_at_checked(base.len().checked_sub(NUMBERS)?)?;
    let (number, count) = numbers.strip_prefix('-')?.split_once("-of-")?;
    let parse = |text: &str| text.parse().ok().filter(|n| (1..=MAX_PARTS).contains(n) && text.len() == 5);
    let (number, count): (usize, usize) = (parse(number)?, parse(count)?);
    (number <= count).then_some(Split { stem, count, extension })
}

/// Whether the name of a GGUF file holds a format as a word of its own. Its folders count too: `Q4_K_M/model.gguf`.
fn has_format(name: &str, format: &str) -> bool {
    let (name, format) = (name.to_ascii_uppercase(), format.to_ascii_uppercase());
    name.match_indices(&format).any(|(at, _)| {
        let before = name[..at].chars().next_back();
        let after = name[at + format.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// The format in the name of a GGUF file, in capitals: the last word that looks like one.
pub(crate) fn format_of(name: &str) -> Option<String> {
    let stem = split_of(name).map_or_else(|| name.get(..name.len().saturating_sub(5)), |split| Some(split.stem))?;
    let upper = stem.to_ascii_uppercase();
    let words = upper.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).rev();
    words.filter_map(format_in_word).next().map(str::to_owned)
}

/// The longest end of a word between underscores that looks like a format: `Q4_K_M` of `MODEL_Q4_K_M`.
fn format_in_word(word: &str) -> Option<&str> {
    let starts = std::iter::once(0).chain(word.match_indices('_').map(|(at, _)| at + 1));
    starts.map(|at| &word[at..]).find(|end| is_format(end))
}

fn is_format(word: &str) -> bool {
    if matches!(word, "F32" | "F16" | "BF16" | "MXFP4" | "MXFP4_MOE") {
        return true;
    }
    let digits = ["IQ", "TQ", "Q"].into_iter().find_map(|start| word.strip_prefix(start));
    let Some((bits, rest)) = digits.and_then(|digits| digits.split_once('_')) else { return false };
    bits.len() == 1
        && bits.bytes().all(|c| c.is_ascii_digit())
        && rest.split('_').all(|part| matches!(part, "0" | "1" | "K" | "XXS" | "XS" | "S" | "M" | "L" | "XL" | "NL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn format(text: &str) -> Option<Choice> {
        Some(Choice::Format(text.to_owned()))
    }

    #[test]
    fn formats_are_found_in_names() {
        for (name, format) in [
            ("model-Q4_K_M.gguf", Some("Q4_K_M")),
            ("Model.q8_0.gguf", Some("Q8_0")),
            ("model_IQ4_XS.gguf", Some("IQ4_XS")),
            ("m-UD-Q4_K_XL.gguf", Some("Q4_K_XL")),
            ("Q4_K_M/m-Q4_K_M-00001-of-00003.gguf", Some("Q4_K_M")),
            ("llama-3.2-1b-f16.gguf", Some("F16")),
            ("gpt-oss-MXFP4.gguf", Some("MXFP4")),
            ("BF16/model.gguf", Some("BF16")),
            ("qwen2_5.gguf", None),
            ("model.gguf", None),
            (".gguf", None),
        ] {
            assert_eq!(format_of(name).as_deref(), format, "{name}");
        }
    }

    #[test]
    fn a_format_is_a_word_of_its_own() {
        let all = names(&["m-Q4_K_S.gguf", "m-IQ4_XS.gguf", "m-Q4_K_M.gguf", "m-q4_0.gguf", "mmproj-m-Q4_0.gguf"]);
        let selected = |text| select(&all, format(text).as_ref());
        assert_eq!(selected("q4_k_m"), Ok(Selection::Gguf(names(&["m-Q4_K_M.gguf"]))));
        assert_eq!(selected("Q4_0"), Ok(Selection::Gguf(names(&["m-q4_0.gguf"]))));
        for absent in ["Q4_K", "Q4_XS", "Q4"] {
            assert!(matches!(selected(absent), Err(SelectionFault::NoSuch(..))), "{absent}");
        }
        let twice = names(&["a-Q8_0.gguf", "b-Q8_0.gguf"]);
        assert_eq!(select(&twice, format("Q8_0").as_ref()), Err(SelectionFault::Several(twice.clone())));
        let file = Choice::File("b-Q8_0.gguf".to_owned());
        assert_eq!(select(&twice, Some(&file)), Ok(Selection::Gguf(names(&["b-Q8_0.gguf"]))));
    }

    #[test]
    fn parts_are_one_model() {
        let mut all = names(&["Q4_K_M/m-Q4_K_M-00002-of-00002.gguf", "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf"]);
        let sorted = names(&["Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf"]);
        assert_eq!(select(&all, format("Q4_K_M").as_ref()), Ok(Selection::Gguf(sorted.clone())));
        assert_eq!(select(&all, None), Ok(Selection::Gguf(sorted.clone())));
        all.pop();
        let missing = SelectionFault::MissingPart(sorted[0].clone());
        assert_eq!(select(&all, None), Err(missing));
        // A hostile count takes no memory.
        let huge = names(&["m-00001-of-99999.gguf"]);
        assert!(matches!(select(&huge, None), Err(SelectionFault::MissingPart(_))));
        assert!(split_of("m-00003-of-00002.gguf").is_none() && split_of("m-1-of-2.gguf").is_none());
        assert!(split_of("é-of-00002.gguf").is_none());
    }

    #[test]
    fn without_a_choice_safetensors_come_first_then_the_usual_formats() {
        let mixed = names(&["config.json", "model.safetensors", "m-Q4_K_M.gguf", "README.md", "tokenizer.json"]);
        let companions = names(&["config.json", "tokenizer.json"]);
        let weights = WEIGHTS_FILE.to_owned();
        assert_eq!(select(&mixed, None), Ok(Selection::Folder { companions, weights }));
        let both = names(&["m-Q2_K.gguf", "m-Q8_0.gguf"]);
        assert_eq!(select(&both, None), Ok(Selection::Gguf(names(&["m-Q8_0.gguf"]))));
        let neither = names(&["m-Q2_K.gguf", "m-Q3_K_M.gguf"]);
        assert_eq!(select(&neither, None), Err(SelectionFault::Several(neither.clone())));
        let only = names(&["m-Q2_K.gguf"]);
        assert_eq!(select(&only, None), Ok(Selection::Gguf(only.clone())));
        let torch = names(&["config.json", "pytorch_model.bin"]);
        assert_eq!(select(&torch, None), Err(SelectionFault::NoWeights(torch.clone())));
        let bare = names(&["model.safetensors"]);
        assert_eq!(select(&bare, None), Err(SelectionFault::MissingPart("config.json".to_owned())));
        let hidden = names(&["m-Q2_K.gguf", ".tmp-new-m-Q8_0.gguf"]);
        assert_eq!(select(&hidden, None), Ok(Selection::Gguf(only)));
        let other = names(&["consolidated.safetensors"]);
        assert_eq!(select(&other, None), Err(SelectionFault::OtherWeights(other.clone())));
    }
}
