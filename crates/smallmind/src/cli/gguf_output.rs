//! Writing a model as a GGUF file: what `convert` and `quantize` share.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use smallmind::kernels::Format;
use smallmind::model::chat::ChatTemplates;
use smallmind::model::export::{GgufExport, PlannedTensor, WeightMix};
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{ModelError, ModelFiles};

use super::failure::{Outcome, usage};
use super::output_files::OutputFile;
use super::progress::Bar;
use super::settings::of_model;
use super::{models, note, units};

/// Accepts the name of a mix.
pub fn mix_parser() -> impl TypedValueParser<Value = WeightMix> {
    let names = PossibleValuesParser::new(WeightMix::ALL.map(WeightMix::name));
    names.try_map(|name| WeightMix::from_name(&name).ok_or("there is no such format"))
}

/// Refuses to quantize what is quantized already.
pub fn check_requantized(export: &GgufExport<'_>, advice: &str) -> Outcome {
    let Some(tensor) = export.requantized() else { return Ok(()) };
    let (name, format) = (&tensor.name, tensor.from.map(|format| format.to_string()).unwrap_or_default());
    Err(usage(format!("{name} is quantized already ({format}), and the errors of both would add up; {advice}")))
}

/// Notes which tensors are in other formats because their rows are not whole blocks of the format that was asked for.
pub fn note_other_formats(tensors: &[PlannedTensor]) {
    let others: Vec<&PlannedTensor> = tensors.iter().filter(|tensor| tensor.to != tensor.wanted).collect();
    let cols: BTreeSet<usize> = others.iter().filter_map(|tensor| tensor.shape.last().copied()).collect();
    let cols = cols.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ");
    let is_wanted = |format: &Format| others.iter().any(|tensor| tensor.wanted == *format);
    let wanted = Format::ALL.into_iter().filter(is_wanted);
    let wanted =
        wanted.map(|format| format!("{format} (of {})", format.block().elements)).collect::<Vec<_>>().join(", ");
    let taken = Format::ALL.into_iter().filter_map(|format| {
        let count = others.iter().filter(|tensor| tensor.to == format).count();
        (count > 0).then(|| format!("{format} ({count})"))
    });
    let taken = taken.collect::<Vec<_>>().join(", ");
    if !others.is_empty() {
        let (tensors, have) = (units::plural(others.len(), "tensor"), if others.len() == 1 { "has" } else { "have" });
        note!(
            "note: {tensors} {have} rows of {cols} elements, which are not whole blocks of {wanted}; taken \
             instead: {taken}"
        );
    }
}

/// What stands in a GGUF file besides weights and configuration.
pub struct Beside {
    /// The name of the model.
    pub name: String,
    pub tokenizer: Option<Tokenizer>,
    pub templates: ChatTemplates,
}

impl Beside {
    /// Reads tokenizer and chat templates of a folder for `export`; a GGUF file keeps its own. Checks that the model has
    /// an entry for each token.
    pub fn of(path: &Path, files: &ModelFiles, export: &GgufExport<'_>) -> anyhow::Result<Self> {
        let name = super::profile::name_of(path);
        if let ModelFiles::Gguf(_) = files {
            export.check_vocabulary(None).map_err(|error| of_model(path, error.into()))?;
            return Ok(Self { name, tokenizer: None, templates: ChatTemplates::new() });
        }
        let tokenizer = tokenizer_if_any(path, files)?;
        export.check_vocabulary(tokenizer.as_ref()).map_err(|error| of_model(path, error.into()))?;
        Ok(Self { name, tokenizer, templates: ChatTemplates::of_files(files)? })
    }
}

/// The tokenizer of a model at `path`; says so if there is none.
pub fn tokenizer_if_any(path: &Path, files: &ModelFiles) -> anyhow::Result<Option<Tokenizer>> {
    match models::tokenizer_in(path, files) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(error)
            if matches!(error.downcast_ref(), Some(ModelError::NoTokenizer(_) | ModelError::NoTokenizerInGguf(_))) =>
        {
            note!("note: {} has no tokenizer: other programs need one to read text", path.display());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Writes a planned file, with a bar.
pub fn write(export: &GgufExport<'_>, beside: &Beside, output: OutputFile) -> Outcome {
    let elements = export.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
    let bar = Bar::new(elements, "{bar:24} {percent:>3}%  {eta} left");
    let progress = |done: u64| bar.set_position(done);
    let mut failed = None;
    let written = output.write(|out: &mut dyn Write| {
        match export.write(&beside.name, beside.tokenizer.as_ref(), &beside.templates, out, &progress) {
            Ok(differs) => {
                if let Some(differs) = differs {
                    note!("note: about the tokenizer in the file: {differs}");
                }
                Ok(())
            }
            Err(ModelError::Write(error)) => Err(error),
            Err(error) => {
                failed = Some(error);
                Err(io::Error::other("the model can't be written"))
            }
        }
    });
    bar.finish_and_clear();
    match failed {
        Some(error) => Err(error.into()),
        None => written,
    }
}

/// Bytes of all tensors.
pub fn bytes(tensors: &[PlannedTensor]) -> u64 {
    tensors.iter().map(|tensor| tensor.bytes).sum()
}

/// Bits of each weight, on average.
pub fn bits(tensors: &[PlannedTensor]) -> f64 {
    let elements: u64 = tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
    8.0 * bytes(tensors) as f64 / elements.max(1) as f64
}

/// How many tensors, and bytes, each format has.
pub fn by_format(tensors: &[PlannedTensor]) -> Vec<(Format, usize, u64)> {
    let of = |format: Format| {
        let all = tensors.iter().filter(move |tensor| tensor.to == format);
        (format, all.clone().count(), all.map(|tensor| tensor.bytes).sum())
    };
    Format::ALL.into_iter().map(of).filter(|(_, count, _)| *count > 0).collect()
}

/// Such as `Q4_K_M: 4.85 bits a weight, 91.7 MB (q4_k 165 tensors, q6_k 16, f32 61)`.
pub fn summary(mix: WeightMix, tensors: &[PlannedTensor]) -> String {
    let formats = by_format(tensors).into_iter().map(|(format, count, _)| format!("{format} {count}"));
    let formats = formats.collect::<Vec<_>>().join(", ");
    format!("{mix}: {:.2} bits a weight, {}; tensors: {formats}", bits(tensors), units::bytes(bytes(tensors)))
}
