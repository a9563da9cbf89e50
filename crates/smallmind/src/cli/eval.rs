//! `smallmind eval -m M --data FILE`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use smallmind::model::tokenizer::Tokenizer;
use smallmind::train::data::{Corpus, Documents};
use smallmind::train::{EvaluateSettings, TrainConfig, data_settings, evaluate_text, is_run, read_corpus};

use super::failure::Outcome;
use super::models::{ModelArg, WeightsArg};
use super::progress::Bar;
use super::settings::Settings;
use super::{note, output, units};

/// Options of `eval`.
#[derive(Debug, Args)]
pub struct Eval {
    #[command(flatten)]
    model: ModelArg,
    /// Text files, - for standard input, divided into documents as for training; each line of a .jsonl file is a
    /// document
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Tokens that a prediction may look back on [default: the model's context]
    #[arg(long, value_name = "N", value_parser = units::within::<u32>(1..))]
    context: Option<u32>,
    /// The text between documents, empty for none [default: as the run was trained, or <|endoftext|>]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    separator: Option<String>,
    #[command(flatten)]
    weights: WeightsArg,
}

impl Eval {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let isa = settings.isa()?;
        let (model, tokenizer) = self.model.open_packed(isa, self.weights.weights)?;
        let corpus = self.corpus(&tokenizer)?;
        let max_context = self.context.map_or(model.config().context, |context| context as usize);
        model.config().check_context(max_context)?;
        let how = EvaluateSettings { threads: settings.threads(), max_context };
        let bar = Bar::new(0, "{bar:24} {percent:>3}%  {pos}/{len} tokens  {eta} left");
        let evaluation = evaluate_text(&model, &tokenizer, &corpus, how, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let evaluation = evaluation?;
        if settings.is_json() {
            return output::document(json!({
                "loss": evaluation.loss,
                "perplexity": evaluation.perplexity,
                "bits_per_byte": evaluation.bits_per_byte,
                "tokens": evaluation.tokens,
                "bytes": corpus.documents().bytes(),
            }));
        }
        output::print(&format!(
            "loss           {:.4}\nperplexity     {:.3}\nbits per byte  {}\ntokens         {}\n",
            evaluation.loss,
            evaluation.perplexity,
            evaluation.bits_per_byte.map_or_else(|| "-".to_owned(), |bits| format!("{bits:.4}")),
            units::grouped(evaluation.tokens as u64),
        ))
    }

    /// The text, divided like the model's own training text if that is known.
    fn corpus(&self, tokenizer: &Tokenizer) -> anyhow::Result<Corpus> {
        let run = &self.model.model;
        let of_run = if is_run(run) { Some(data_settings(run)?) } else { None };
        let mut data = of_run.map_or_else(|| TrainConfig::with_overlays(None, &[]).map(|usual| usual.data), Ok)?;
        if self.separator.is_some() {
            (data.documents, data.separator) = (Documents::Separated, self.separator.clone());
        }
        let corpus = read_corpus(&self.data, &data, tokenizer.eos().is_some())?;
        for file in corpus.marks() {
            note!("note: {file}: a byte-order mark at the beginning is left out");
        }
        Ok(corpus)
    }
}
