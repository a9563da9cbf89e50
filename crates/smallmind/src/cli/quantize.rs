//! `smallmind quantize -m M --format Q4_K_M --out FILE.gguf`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use smallmind::kernels::Format;
use smallmind::model::export::{ExportOptions, GgufExport, ImportanceMatrix, PlannedTensor, WeightMix};

use super::failure::Outcome;
use super::gguf_output::{self, Beside, mix_parser};
use super::models::{self, ModelArg};
use super::output_files::{OutputFile, Overwrite};
use super::settings::{Settings, of_model};
use super::{output, units};

/// Options of `quantize`.
#[derive(Debug, Args)]
pub struct Quantize {
    #[command(flatten)]
    model: ModelArg,
    /// The formats of the weights: M and L give more bits than S to the tensors that need them most
    #[arg(long, value_name = "FORMAT", value_parser = mix_parser(), ignore_case = true)]
    format: WeightMix,
    /// The GGUF file to write
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Which columns of the weights matter: a file that imatrix wrote
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// The format of tensors whose name contains a text, as ffn_down=q6_k; may be given several times
    #[arg(long, value_name = "PART=FORMAT", value_parser = tensor_format)]
    tensor: Vec<(String, Format)>,
    /// Quantize weights that are quantized already; the errors of both add up
    #[arg(long)]
    allow_requantize: bool,
    /// Show the format and the size of each tensor, and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    overwrite: Overwrite,
}

fn tensor_format(text: &str) -> Result<(String, Format), String> {
    let names = || Format::ALL.map(Format::name).join(", ");
    let (part, format) = text.split_once('=').ok_or("it must be PART=FORMAT, such as ffn_down=q6_k")?;
    if part.is_empty() {
        return Err("the part of a name is empty".to_owned());
    }
    let format = Format::from_name(&format.to_lowercase());
    format.map(|format| (part.to_owned(), format)).ok_or_else(|| format!("the formats are {}", names()))
}

impl Quantize {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let path = &self.model.model;
        // Before anything is read, which may take a while.
        let out = match &self.out {
            Some(out) if !self.dry_run => Some(OutputFile::check(out, self.overwrite)?),
            _ => None,
        };
        let files = models::open_files(path).map_err(|error| of_model(path, error))?;
        if let Some(out) = self.out.as_deref().filter(|_| !self.dry_run) {
            gguf_output::check_other(out, &files, self.imatrix.as_deref())?;
        }
        let importance = self.imatrix.as_deref().map(ImportanceMatrix::open).transpose()?;
        let options = ExportOptions {
            mix: self.format,
            overrides: self.tensor.clone(),
            importance: importance.as_ref(),
            threads: settings.threads(),
        };
        let export = GgufExport::new(&files, self.model.allowed.load_options(), options).map_err(models::with_flag)?;
        if !self.allow_requantize && !self.dry_run {
            let advice = "quantize the model that this file was made of, or add --allow-requantize";
            gguf_output::check_requantized(&export, advice)?;
        }
        let Some(out) = out else { return show(self.format, export.tensors(), settings) };
        let beside = Beside::of(path, &files)?;
        gguf_output::write(&export, &beside, out)?;
        let written = self.out.as_deref().map(|out| out.display().to_string()).unwrap_or_default();
        if settings.is_json() {
            return output::document(document(self.format, export.tensors(), Some(&written)));
        }
        output::line(&format!("{written}: {}", gguf_output::summary(self.format, export.tensors())))
    }
}

fn document(mix: WeightMix, tensors: &[PlannedTensor], written: Option<&str>) -> Value {
    let tensor = |tensor: &PlannedTensor| {
        json!({
            "name": tensor.name, "shape": tensor.shape, "format": tensor.to.name(), "bytes": tensor.bytes,
            "from": tensor.from.map(|format| format.to_string()),
        })
    };
    json!({
        "file": written,
        "format": mix.name(),
        "bytes": gguf_output::bytes(tensors),
        "bits_per_weight": gguf_output::bits(tensors),
        "tensors": tensors.iter().map(tensor).collect::<Vec<_>>(),
    })
}

/// Shows what would be written.
fn show(mix: WeightMix, tensors: &[PlannedTensor], settings: &Settings) -> Outcome {
    if settings.is_json() {
        return output::document(document(mix, tensors, None));
    }
    let width = tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
    for tensor in tensors {
        let (shape, format) = (format!("{:?}", tensor.shape), tensor.to.name());
        output::line(&format!("{:<width$}  {shape:<16} {format:<7} {}", tensor.name, units::bytes(tensor.bytes)))?;
    }
    output::line(&gguf_output::summary(mix, tensors))
}
