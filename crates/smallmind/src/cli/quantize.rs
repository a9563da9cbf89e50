//! `smallmind quantize -m M --format Q4_K_M --out FILE.gguf`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use smallmind::kernels::Format;
use smallmind::kernels::attention::CacheFormat;
use smallmind::model::export::{ExportOptions, GgufExport, ImportanceMatrix, PlannedTensor, WeightMix};
use smallmind::model::{ModelError, ModelFiles, is_gguf_name};
use smallmind::train::{Divergence, EvaluateSettings, TextWindows, divergence};

use super::failure::{Outcome, usage};
use super::gguf_output::{self, Beside, mix_parser};
use super::models::{self, ModelArg};
use super::output_files::{OutputFile, Overwrite};
use super::progress::Bar;
use super::reads::Reads;
use super::settings::{Settings, of_model};
use super::{eval, interrupt, output, units};

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
    /// Text files, - for standard input: shows how well the model predicts them before and after, and how far apart the
    /// predictions are
    #[arg(long, num_args = 1.., value_name = "FILE", conflicts_with = "dry_run")]
    data: Vec<PathBuf>,
    /// Tokens that a prediction of --data may look back on [default: the model's context]
    #[arg(long, value_name = "N", requires = "data", value_parser = units::within::<u32>(1..))]
    context: Option<u32>,
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
        interrupt::end_on_signal(interrupt::Makes::Files)?;
        if let Some(out) = self.out.as_ref().filter(|out| !is_gguf_name(out)) {
            let name = out.display();
            return Err(usage(format!("{name}: a GGUF file is written, whose name must end in .gguf")));
        }
        let files = models::open_files(path).map_err(|error| of_model(path, error))?;
        let reads = Reads::nothing().and(&self.imatrix).and(&self.data).and_open_model(path, &files)?;
        let check = if self.dry_run { OutputFile::check_name } else { OutputFile::check };
        let out = self.out.as_deref().map(|out| check(out, self.overwrite, &reads)).transpose()?;
        let text = self.text(&files)?;
        let importance = self.imatrix.as_deref().map(ImportanceMatrix::open).transpose()?;
        let options = ExportOptions {
            mix: self.format,
            overrides: self.tensor.clone(),
            importance: importance.as_ref(),
            threads: settings.threads(),
        };
        let export = GgufExport::new(&files, self.model.allowed.load_options(), options)
            .map_err(|error| self.with_matrix(error))?;
        gguf_output::note_other_formats(export.tensors());
        if !self.allow_requantize {
            let advice = "quantize the model that this file was made of, or add --allow-requantize";
            gguf_output::check_requantized(&export, advice)?;
        }
        let Some(out) = out.filter(|_| !self.dry_run) else { return show(self.format, export.tensors(), settings) };
        let beside = Beside::of(path, &files, &export)?;
        gguf_output::write(&export, &beside, out)?;
        let written = self.out.clone().unwrap_or_default();
        let name = written.display().to_string();
        let compared = text.map(|text| self.compare(&written, &text, settings)).transpose();
        let compared = compared.with_context(|| format!("{name} is written; comparing it with its source failed"))?;
        if settings.is_json() {
            let mut document = document(self.format, export.tensors(), Some(&name));
            if let Some(d) = &compared {
                document["comparison"] = json!({
                    "loss": d.loss, "perplexity": d.loss.exp(),
                    "source_loss": d.reference_loss, "source_perplexity": d.reference_loss.exp(),
                    "kl_mean": d.mean, "kl_99": d.percentile_99, "kl_max": d.max, "same_top": d.same_top,
                    "tokens": d.tokens,
                });
            }
            return output::document(document);
        }
        output::line(&format!("{name}: {}", gguf_output::summary(self.format, export.tensors())))?;
        compared.map_or(Ok(()), |d| output::print(&described(&d)))
    }

    /// The error, with the file of an importance matrix that does not fit the model.
    fn with_matrix(&self, error: ModelError) -> anyhow::Error {
        match (&self.imatrix, &error) {
            (Some(file), ModelError::Importance { .. } | ModelError::ForeignImportance) => {
                let told = format!("{}: it was made for another model", file.display());
                anyhow::Error::new(error).context(told)
            }
            _ => models::with_flag(error),
        }
    }

    /// Reads `--data`, the text on which the model is compared with its source, before anything is written.
    fn text(&self, files: &ModelFiles) -> anyhow::Result<Option<TextWindows>> {
        if self.data.is_empty() {
            return Ok(None);
        }
        let path = &self.model.model;
        let tokenizer = models::tokenizer_in(path, files)?;
        let corpus = eval::corpus(&self.data, path, None, &tokenizer)?;
        let (config, _) = files.configs(self.model.allowed.unknown_keys()).map_err(models::with_flag)?;
        if let Some(context) = self.context {
            config.check_context(context as usize)?;
        }
        Ok(Some(TextWindows::new(&corpus, &tokenizer, config.vocab_size)?))
    }

    /// Compares the predictions of the file `written` with those of its source.
    fn compare(&self, written: &Path, text: &TextWindows, settings: &Settings) -> anyhow::Result<Divergence> {
        let open = |path: &Path| {
            let model = ModelArg { model: path.to_owned(), allowed: self.model.allowed };
            Ok::<_, anyhow::Error>(Arc::new(model.open_packed(settings.isa()?, None)?.0))
        };
        let (source, written) = (open(&self.model.model)?, open(written)?);
        let max_context = self.context.map_or(source.config().context, |context| context as usize);
        let how = EvaluateSettings { threads: settings.threads(), max_context, cache_format: CacheFormat::F32 };
        let bar = Bar::new(0, "{bar:24} {percent:>3}%  {pos}/{len} tokens  {eta} left");
        let mut progress = |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let compared = divergence(&written, &source, text, how, &mut progress);
        bar.finish_and_clear();
        Ok(compared?)
    }
}

fn described(d: &Divergence) -> String {
    format!(
        "perplexity     {:.3}, of the source {:.3}\n\
         KL divergence  mean {:.6}, 99 % below {:.6}, largest {:.6}\n\
         same top       {:.2} % of {} tokens\n",
        d.loss.exp(),
        d.reference_loss.exp(),
        d.mean,
        d.percentile_99,
        d.max,
        100.0 * d.same_top,
        units::grouped(d.tokens as u64),
    )
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
