//! `smallmind imatrix -m M --data FILE --out FILE.gguf`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use smallmind::model::ModelError;
use smallmind::model::export::Calibration;
use smallmind::model::tokenizer::SpecialTokens;

use super::failure::{Outcome, usage};
use super::models::{ModelArg, WeightsArg, open_files};
use super::output_files::{OutputFile, Overwrite};
use super::progress::Bar;
use super::settings::{Settings, of_model};
use super::{input, output, units};

/// Options of `imatrix`.
#[derive(Debug, Args)]
pub struct Imatrix {
    #[command(flatten)]
    model: ModelArg,
    /// Text of the kind that the model will read and write, - for standard input
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The file to write, for quantize --imatrix
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens that are read together [default: 512, or the model's context]
    #[arg(long, value_name = "N", value_parser = units::whole)]
    context: Option<usize>,
    /// How many such pieces of the text are read [default: all]
    #[arg(long, value_name = "N", value_parser = units::whole)]
    chunks: Option<usize>,
    #[command(flatten)]
    weights: WeightsArg,
    #[command(flatten)]
    overwrite: Overwrite,
}

/// Tokens that are read together by default, as in llama.cpp.
const CONTEXT: usize = 512;

impl Imatrix {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let out = OutputFile::check(&self.out, self.overwrite)?;
        let files = open_files(&self.model.model).map_err(|error| of_model(&self.model.model, error))?;
        let (model, tokenizer) = self.model.open_packed(settings.isa()?, self.weights.weights)?;
        let text = input::read(&self.data)?;
        let tokens = tokenizer.encode(&text, SpecialTokens::AsText).map_err(ModelError::from)?;
        let context = self.context.unwrap_or(CONTEXT.min(model.config().context));
        let prefix = tokenizer.prompt_prefix();
        let of_text = context.saturating_sub(prefix.len());
        if of_text == 0 {
            return Err(usage(format!("--context {context}: there is no room for text")));
        }
        let pieces: Vec<&[u32]> = tokens.chunks(of_text).take(self.chunks.unwrap_or(usize::MAX)).collect();
        if pieces.is_empty() {
            return Err(usage(format!("{}: the text has no tokens", self.data.display())));
        }
        let mut calibration = Calibration::new(&model, context, settings.threads())?;
        let bar = Bar::new(pieces.len() as u64, "{bar:24} {percent:>3}%  {pos}/{len} pieces  {eta} left");
        for (i, piece) in pieces.iter().enumerate() {
            calibration.add(&[prefix, piece].concat())?;
            bar.set_position(i as u64 + 1);
        }
        bar.finish_and_clear();
        let matrix = calibration.matrix(&files)?;
        let data = [self.data.display().to_string()];
        out.write(|out| matrix.write(&data, (pieces.len(), context), out).map_err(std::io::Error::other))?;
        let read: usize = pieces.iter().map(|piece| piece.len()).sum();
        if settings.is_json() {
            return output::document(json!({ "file": self.out, "chunks": pieces.len(), "tokens": read }));
        }
        let (file, tokens) = (self.out.display(), units::grouped(read as u64));
        output::line(&format!("{file}: importance by {tokens} tokens in {} pieces", pieces.len()))
    }
}
