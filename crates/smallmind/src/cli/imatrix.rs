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
use super::reads::Reads;
use super::settings::{Settings, of_model};
use super::{input, interrupt, note, output, units};

/// Options of `imatrix`.
#[derive(Debug, Args)]
pub struct Imatrix {
    #[command(flatten)]
    model: ModelArg,
    /// Text files of the kind that the model will read and write, - for standard input
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// The file to write, for quantize --imatrix
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens that are read together [default: 512, or the model's context]
    #[arg(long, value_name = "N", value_parser = units::whole)]
    context: Option<usize>,
    /// How many such pieces of the text are read [default: all]
    #[arg(long, value_name = "N", value_parser = units::within::<usize>(1..))]
    chunks: Option<usize>,
    #[command(flatten)]
    weights: WeightsArg,
    #[command(flatten)]
    overwrite: Overwrite,
}

/// Tokens that are read together by default, as in llama.cpp.
const CONTEXT: usize = 512;
/// Of fewer tokens the matrix says little.
const FEW: usize = 512;

impl Imatrix {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        interrupt::end_on_signal(interrupt::Makes::Files)?;
        let files = open_files(&self.model.model).map_err(|error| of_model(&self.model.model, error))?;
        let reads = Reads::nothing().and(&self.data).and_open_model(&self.model.model, &files)?;
        let out = OutputFile::check(&self.out, self.overwrite, &reads)?;
        let corpus = input::documents(&self.data)?;
        let (model, tokenizer) = self.model.open_packed(settings.isa()?, self.weights.weights)?;
        let mut tokens = Vec::new();
        for (text, _) in corpus.documents().iter() {
            tokens.extend(tokenizer.encode(text, SpecialTokens::AsText).map_err(ModelError::from)?);
        }
        let context = self.context.unwrap_or(CONTEXT.min(model.config().context));
        let prefix = tokenizer.prompt_prefix();
        let of_text = context.saturating_sub(prefix.len());
        if of_text == 0 {
            return Err(usage(format!("--context {context}: there is no room for text")));
        }
        let pieces: Vec<&[u32]> = tokens.chunks(of_text).take(self.chunks.unwrap_or(usize::MAX)).collect();
        if pieces.is_empty() {
            return Err(usage("--data: the text has no tokens"));
        }
        let mut calibration = Calibration::new(&model, context, settings.threads())?;
        let bar = Bar::new(pieces.len() as u64, "{bar:24} {percent:>3}%  {pos}/{len} pieces  {eta} left");
        for (i, piece) in pieces.iter().enumerate() {
            calibration.add(&[prefix, piece].concat())?;
            bar.set_position(i as u64 + 1);
        }
        bar.finish_and_clear();
        let matrix = calibration.matrix(&files)?;
        let data: Vec<String> = self.data.iter().map(|file| file.display().to_string()).collect();
        out.write(|out| matrix.write(&data, (pieces.len(), context), out).map_err(std::io::Error::other))?;
        let read: usize = pieces.iter().map(|piece| piece.len()).sum();
        if read < FEW {
            note!("note: importance by fewer than {FEW} tokens says little about a model; read more text");
        }
        if settings.is_json() {
            return output::document(json!({ "file": self.out, "chunks": pieces.len(), "tokens": read }));
        }
        let (file, tokens) = (self.out.display(), units::grouped(read as u64));
        let pieces = units::plural(pieces.len(), "piece");
        output::line(&format!("{file}: importance by {tokens} tokens in {pieces}"))
    }
}
