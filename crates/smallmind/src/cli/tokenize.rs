//! `smallmind tokenize -m M [--decode] [--no-special] [FILE | -]`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use smallmind::model::tokenizer::{SpecialText, SpecialTokens, Tokenizer};

use super::failure::{Outcome, bad_file};
use super::input::{self, STDIN};
use super::settings::{MODEL_VARIABLE, Settings, of_model};
use super::{models, output};

/// Options of `tokenize`.
#[derive(Debug, Args)]
pub struct Tokenize {
    /// A model folder, a GGUF file, hf:OWNER/NAME, or a tokenizer.json
    #[arg(short, long, env = MODEL_VARIABLE, value_name = "FOLDER|FILE")]
    model: PathBuf,
    /// Turn ids (numbers between blanks or commas, or JSON) into text
    #[arg(long)]
    decode: bool,
    /// Neither recognise nor add special tokens; leave them out of decoded text
    #[arg(long)]
    no_special: bool,
    /// The text; - for standard input
    #[arg(default_value = STDIN)]
    file: PathBuf,
}

impl Tokenize {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let tokenizer = models::tokenizer_of(&self.model).map_err(|error| of_model(&self.model, error))?;
        let input = input::read(&self.file)?;
        if self.decode {
            let special = if self.no_special { SpecialText::Skip } else { SpecialText::Show };
            let text = tokenizer.decode(&self.parse_ids(&input)?, special)?;
            return if settings.is_json() { output::document(json!({ "text": text })) } else { output::print(&text) };
        }
        let ids = self.encode(&tokenizer, &input)?;
        if settings.is_json() {
            return output::event(json!({ "ids": ids }));
        }
        let mut line = String::with_capacity(ids.len() * 6);
        for id in ids {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&id.to_string());
        }
        output::line(&line)
    }

    /// The ids as the model would see them, or those of the bare text.
    fn encode(&self, tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Vec<u32>> {
        if self.no_special {
            return Ok(tokenizer.encode(text, SpecialTokens::AsText)?);
        }
        Ok(tokenizer.completed(&tokenizer.encode(text, SpecialTokens::Parse)?))
    }

    /// Ids between blanks and commas; or an array of them in JSON, or what `tokenize --json` prints.
    fn parse_ids(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        let name = if self.file.as_os_str() == STDIN { "standard input".into() } else { self.file.to_string_lossy() };
        let bad = |what: &str, at: usize| bad_file(format!("{name}: {what:.40} in place {at} is no token id"));
        let text = text.trim();
        if !text.starts_with(['[', '{']) {
            let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
            return words.enumerate().map(|(at, word)| word.parse().map_err(|_| bad(word, at))).collect();
        }
        let value: Value =
            serde_json::from_str(text).map_err(|error| bad_file(format!("{name}: not JSON: {error}")))?;
        let list = value.get("ids").unwrap_or(&value).as_array();
        let list = list.ok_or_else(|| bad_file(format!("{name}: neither an array of ids nor an object with `ids`")))?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        list.iter().enumerate().map(|(at, value)| id(value).ok_or_else(|| bad(&value.to_string(), at))).collect()
    }
}
