//! `smallmind tokenizer train`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use smallmind::model::tokenizer::{self, BpeTraining};

use super::failure::{Outcome, usage};
use super::output_files::{OutputFile, Overwrite};
use super::reads::Reads;
use super::settings::Settings;
use super::{input, interrupt, output};

/// Options of `tokenizer`.
#[derive(Debug, Args)]
pub struct Tokenizer {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Learn a vocabulary from text files
    Train(Train),
}

/// Options of `tokenizer train`.
#[derive(Debug, Args)]
struct Train {
    /// Text files; - for standard input
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// The kind of vocabulary
    #[arg(long, value_enum, default_value_t = Kind::Bpe)]
    kind: Kind,
    /// Tokens of a byte-level BPE: 256 bytes, the end of a text, and merges [default: 4096]
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    /// The tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Byte-level byte-pair encoding: every text can be expressed
    Bpe,
    /// One token for each character that occurs
    Characters,
}

impl Tokenizer {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let Verb::Train(train) = self.verb;
        interrupt::end_on_signal(interrupt::Makes::Files)?;
        let out = OutputFile::check(&train.out, train.overwrite, &Reads::nothing().and(&train.data))?;
        let tokenizer = train.learn()?;
        let json = tokenizer.to_json()?;
        out.write(|out| out.write_all(json.as_bytes()))?;
        let (kind, tokens) = (tokenizer.kind().to_string(), tokenizer.vocab_size());
        if settings.is_json() {
            return output::document(json!({ "tokenizer": train.out, "kind": kind, "vocab_size": tokens }));
        }
        output::line(&format!("{}: {kind}, {tokens} tokens", train.out.display()))
    }
}

impl Train {
    fn learn(&self) -> anyhow::Result<tokenizer::Tokenizer> {
        match self.kind {
            Kind::Characters if self.vocab_size.is_some() => {
                Err(usage("--vocab-size is for --kind bpe: a vocabulary of characters has as many tokens as the text"))
            }
            Kind::Characters => {
                let texts: String = input::documents(&self.data)?.documents().iter().map(|(text, _)| text).collect();
                Ok(tokenizer::Tokenizer::characters(&texts)?)
            }
            Kind::Bpe => {
                let default = BpeTraining::default();
                let training = BpeTraining { vocab_size: self.vocab_size.unwrap_or(default.vocab_size), ..default };
                let corpus = input::documents(&self.data)?;
                let texts = corpus.documents();
                Ok(tokenizer::Tokenizer::train_bpe(texts.iter().map(|(text, _)| text), &training)?)
            }
        }
    }
}
