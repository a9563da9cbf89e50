//! Speculation by look-up: `--lookup`, `--lookup-file`, `--lookup-draft`, and what came of it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use smallmind::model::tokenizer::{SpecialTokens, Tokenizer};
use smallmind::model::{Lookup, LookupCounts};

use super::failure::bad_file;
use super::input::{self, STDIN};
use super::units;

/// Options of look-up.
#[derive(Clone, Debug, Args)]
pub struct LookupArg {
    /// Draft tokens that followed the same words earlier in the text, and check several in one run of the model: the
    /// same text, sooner where it repeats what it has read
    #[arg(long)]
    lookup: bool,
    /// Draft from this text file too; may be given several times. Turns --lookup on
    #[arg(long, value_name = "FILE", value_parser = file)]
    lookup_file: Vec<PathBuf>,
    /// Draft so many tokens each time, 1 to 15, whether it pays or not [default: as many as pay]. Turns --lookup on
    #[arg(long, value_name = "N", value_parser = units::within::<u8>(1..=15))]
    lookup_draft: Option<u8>,
}

/// A file that is no standard input, which has the prompt or the conversation.
fn file(name: &str) -> Result<PathBuf, String> {
    match name {
        STDIN => Err("it must be a file, not standard input".to_owned()),
        "" => Err("it must be the name of a file".to_owned()),
        _ => Ok(name.into()),
    }
}

impl LookupArg {
    /// The texts of the files; `None` without look-up.
    ///
    /// # Errors
    /// A file that can't be read, is not UTF-8, too large or empty.
    pub fn read(&self) -> anyhow::Result<Option<Vec<String>>> {
        if !self.lookup && self.lookup_file.is_empty() && self.lookup_draft.is_none() {
            return Ok(None);
        }
        let read = |path: &PathBuf| match input::read(path)? {
            text if text.is_empty() => Err(bad_file(format!("{}: there is no text to look up in", path.display()))),
            text => Ok(text),
        };
        self.lookup_file.iter().map(read).collect::<anyhow::Result<_>>().map(Some)
    }

    /// Where drafts come from; `texts` is what [`LookupArg::read`] has read.
    ///
    /// # Errors
    /// A text that the tokenizer has no tokens for.
    pub fn with_texts(&self, texts: Option<Vec<String>>, tokenizer: &Tokenizer) -> anyhow::Result<Option<Lookup>> {
        let Some(texts) = texts else { return Ok(None) };
        let mut tokens = vec![];
        for (path, text) in self.lookup_file.iter().zip(texts) {
            let ids = tokenizer.encode(&text, SpecialTokens::Parse).map_err(|error| {
                bad_file(format!("{}: the text can't be turned into tokens: {error}", path.display()))
            })?;
            tokens.extend(ids);
        }
        let lookup = if tokens.is_empty() { Lookup::in_text() } else { Lookup::in_corpus(tokens) };
        Ok(Some(match self.lookup_draft {
            Some(tokens) => lookup.always(usize::from(tokens)),
            None => lookup,
        }))
    }

    /// The files that are read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.lookup_file.iter().map(PathBuf::as_path)
    }
}

/// Tokens for each run of the model, one that ends the text counted.
fn tokens_per_run(counts: &LookupCounts) -> f64 {
    (counts.runs + counts.accepted) as f64 / counts.runs.max(1) as f64
}

/// What came of the drafts of a text, in words.
pub fn sentence(counts: &LookupCounts) -> String {
    format!(
        "look-up: {} of {} drafted tokens accepted ({:.0} %), {:.2} tokens a run",
        counts.accepted,
        counts.drafted,
        100.0 * counts.accepted_share(),
        tokens_per_run(counts),
    )
}

/// The same for programs.
pub fn document(counts: &LookupCounts) -> Value {
    json!({
        "runs": counts.runs,
        "drafted": counts.drafted,
        "accepted": counts.accepted,
        "accepted_share": counts.accepted_share(),
        "tokens_per_run": tokens_per_run(counts),
    })
}
