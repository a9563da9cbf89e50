//! `smallmind eval -m M --data FILE`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use smallmind::train::{EvaluateSettings, data::read_texts, evaluate_text};

use super::failure::Outcome;
use super::models::ModelArg;
use super::progress::Bar;
use super::settings::Settings;
use super::{output, units};

/// Options of `eval`.
#[derive(Debug, Args)]
pub struct Eval {
    #[command(flatten)]
    model: ModelArg,
    /// Text files, joined end to end; - for standard input
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Tokens that a prediction may look back on [default: the model's context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
}

impl Eval {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let isa = settings.isa()?;
        let text = read_texts(&self.data)?;
        let (model, tokenizer) = self.model.open()?;
        let max_context = self.context.map_or(model.config().context, |context| context as usize);
        model.config().check_context(max_context)?;
        let how = EvaluateSettings { threads: settings.threads(), isa, max_context };
        let bar = Bar::new(0, "{bar:24} {percent:>3}%  {pos}/{len} tokens  {eta} left");
        let told = evaluate_text(&model, &tokenizer, &text, how, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let told = told?;
        if settings.is_json() {
            return output::document(json!({
                "loss": told.loss,
                "perplexity": told.perplexity,
                "bits_per_byte": told.bits_per_byte,
                "tokens": told.tokens,
                "bytes": text.len(),
            }));
        }
        output::print(&format!(
            "loss           {:.4}\nperplexity     {:.3}\nbits per byte  {}\ntokens         {}\n",
            told.loss,
            told.perplexity,
            told.bits_per_byte.map_or_else(|| "-".to_owned(), |bits| format!("{bits:.4}")),
            units::grouped(told.tokens as u64),
        ))
    }
}
