//! Writing a model as a GGUF file, in the formats that a user asks for.

mod calibrate;
mod importance;
mod mix;
mod tensors;

use std::io::{self, Write};

use smallmind_checkpoint::{GgmlType, GgufData, GgufFile, GgufValue, GgufWriter, TensorFormat};
use smallmind_kernels::Format;

use crate::config::gguf;
use crate::tokenizer::Tokenizer;
use crate::{Family, GenerationConfig, Head, LoadOptions, ModelConfig, ModelError, ModelFiles};

pub use calibrate::Calibration;
pub use importance::ImportanceMatrix;
pub use mix::WeightMix;

use mix::MixModel;
use tensors::{Origin, Tensors};

/// How a GGUF file is written.
#[derive(Clone, Debug)]
pub struct ExportOptions<'a> {
    /// The formats of the weights.
    pub mix: WeightMix,
    /// Formats of tensors whose name contains a text, before those of the mix; the last that fits counts.
    pub overrides: Vec<(String, Format)>,
    /// Which columns of weights matter.
    pub importance: Option<&'a ImportanceMatrix>,
    /// Number of threads that quantize.
    pub threads: usize,
}

/// A tensor of the file that is written.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, the slowest first.
    pub shape: Vec<usize>,
    /// How the source stores it; `None` for one that the source doesn't have.
    pub from: Option<TensorFormat>,
    /// How it is written.
    pub to: Format,
    /// Its bytes in the file.
    pub bytes: u64,
}

/// A GGUF file that can be written: which tensors it has and in which formats.
#[derive(Debug)]
pub struct GgufExport<'a> {
    files: &'a ModelFiles,
    config: ModelConfig,
    generation: GenerationConfig,
    family: Family,
    options: ExportOptions<'a>,
    planned: Vec<PlannedTensor>,
    origins: Vec<Origin>,
}

impl<'a> GgufExport<'a> {
    /// Plans the file for the model in `files`. Its tensors are checked, and not read.
    ///
    /// # Errors
    /// Those of [`Model::from_files`](crate::Model::from_files) but for the weights;
    /// [`ConfigError::NotStorable`](crate::ConfigError::NotStorable) for a model that GGUF can't express; an override
    /// that fits no tensor; an importance matrix of another model.
    pub fn new(files: &'a ModelFiles, load: LoadOptions, options: ExportOptions<'a>) -> Result<Self, ModelError> {
        let (config, generation) = crate::load::checked_configs(files, load)?;
        config.check()?;
        let family = match files {
            ModelFiles::Folder(_) => Family::of(&config)?,
            ModelFiles::Gguf(file) => gguf::family(file)?,
        };
        gguf::check(&config, family)?;
        let origins = tensors::origins(files, &config, family);
        let model = MixModel {
            layers: config.layers,
            group: config.heads / config.kv_heads,
            is_tied: config.head == Head::Tied,
            experts: config.experts.map_or(0, |experts| experts.count),
            has_importance: options.importance.is_some(),
        };
        let planned =
            origins.iter().map(|origin| plan(origin, files, &options, model)).collect::<Result<Vec<_>, _>>()?;
        for (part, _) in &options.overrides {
            if !planned.iter().any(|tensor| tensor.name.contains(part)) {
                return Err(ModelError::Override { part: part.clone() });
            }
        }
        if let Some(importance) = options.importance {
            importance.check(&planned)?;
        }
        Ok(Self { files, config, generation, family, options, planned, origins })
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.planned
    }

    /// The configuration of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The first tensor that is quantized in the source already, and would be quantized again.
    pub fn requantized(&self) -> Option<&PlannedTensor> {
        let is_block = |format: Option<TensorFormat>| matches!(format, Some(TensorFormat::Blocks(_)));
        self.planned.iter().find(|tensor| is_block(tensor.from) && tensor.from != Some(stored(tensor.to)))
    }

    /// Writes the file to `out`. A folder's `tokenizer` and chat `template` are written into it; a GGUF file keeps its
    /// own. `progress` gets the number of elements written. Returns what llama.cpp does not apply of the tokenizer, in
    /// words, if there is such a thing.
    ///
    /// # Errors
    /// Files that can't be read; weights that are not finite, or that a format can't hold; a tokenizer that GGUF can't
    /// express; those of `out`.
    pub fn write(
        &self,
        name: &str,
        tokenizer: Option<&Tokenizer>,
        template: Option<&str>,
        out: &mut dyn Write,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<String>, ModelError> {
        let tensors = Tensors::new(self.files, &self.config, &self.options, progress)?;
        let writes: Vec<_> = self
            .planned
            .iter()
            .zip(&self.origins)
            .map(|(planned, origin)| {
                let tensors = &tensors;
                move |out: &mut dyn Write| tensors.write(planned, origin, out)
            })
            .collect();
        let mut writer = GgufWriter::new();
        let not_applied = match self.files {
            ModelFiles::Gguf(file) => {
                self.copy_metadata(file, &mut writer)?;
                None
            }
            ModelFiles::Folder(_) => self.set_metadata(name, tokenizer, template, &mut writer)?,
        };
        writer.set("general.file_type", GgufValue::U32(self.options.mix.file_type()))?;
        if self.planned.iter().any(|tensor| matches!(stored(tensor.to), TensorFormat::Blocks(_))) {
            // The second version of the layouts; the first is no longer read by any program.
            writer.set("general.quantization_version", GgufValue::U32(2))?;
        }
        for (tensor, write) in self.planned.iter().zip(&writes) {
            writer.add(&tensor.name, &tensor.shape, GgufData::Streamed(ggml_type(tensor.to), write))?;
        }
        match writer.write_to(out) {
            Ok(()) => Ok(not_applied),
            Err(error) => Err(model_error(error)),
        }
    }

    /// The metadata of a GGUF file, but for what describes its formats and parts.
    fn copy_metadata(&self, file: &GgufFile, writer: &mut GgufWriter<'_>) -> Result<(), ModelError> {
        for (key, value) in file.metadata().iter() {
            if !key.starts_with("split.") && key != "general.quantization_version" {
                writer.set(key, value.clone())?;
            }
        }
        Ok(())
    }

    fn set_metadata(
        &self,
        name: &str,
        tokenizer: Option<&Tokenizer>,
        template: Option<&str>,
        writer: &mut GgufWriter<'_>,
    ) -> Result<Option<String>, ModelError> {
        // The architecture comes first, as in other files.
        gguf::write(&self.config, self.family, writer)?;
        writer.set("general.type", GgufValue::String("model".into()))?;
        writer.set("general.name", GgufValue::String(name.into()))?;
        let not_applied = match tokenizer {
            Some(tokenizer) => tokenizer.write_gguf(self.config.vocab_size, writer)?,
            None => {
                // llama.cpp's name for a file without one.
                writer.set("tokenizer.ggml.model", GgufValue::String("none".into()))?;
                None
            }
        };
        // There is a key for each of three tokens that end a text; `gguf::check` refuses more.
        let ends = ["eos", "eot", "eom"].into_iter().zip(self.config.eos.iter().copied());
        for (key, id) in self.config.bos.map(|id| ("bos", id)).into_iter().chain(ends) {
            writer.set(&format!("tokenizer.ggml.{key}_token_id"), GgufValue::U32(id))?;
        }
        if let Some(template) = template {
            writer.set("tokenizer.chat_template", GgufValue::String(template.into()))?;
        }
        let g = &self.generation;
        let settings =
            [("temp", g.temperature), ("top_p", g.top_p), ("min_p", g.min_p), ("penalty_repeat", g.repetition_penalty)];
        for (key, value) in settings {
            if let Some(value) = value {
                writer.set(&format!("general.sampling.{key}"), GgufValue::F32(value))?;
            }
        }
        if let Some(k) = g.top_k {
            writer.set("general.sampling.top_k", GgufValue::I32(i32::try_from(k).unwrap_or(i32::MAX)))?;
        }
        Ok(not_applied)
    }
}

fn plan(
    origin: &Origin,
    files: &ModelFiles,
    options: &ExportOptions<'_>,
    model: MixModel,
) -> Result<PlannedTensor, ModelError> {
    let (name, shape) = (origin.name(), &origin.shape()[..]);
    let by_mix = options.mix.format_of(name, shape, model);
    let of_override = options.overrides.iter().rev().find(|(part, _)| name.contains(part)).map(|(_, format)| *format);
    let cols = shape.last().copied().unwrap_or(1);
    let to = match of_override {
        // Vectors stay as they are: no product reads them in blocks.
        Some(format) if by_mix != Format::F32 || options.mix == WeightMix::F32 && shape.len() > 1 => {
            format.for_rows_of(cols)
        }
        _ => by_mix,
    };
    let rows: usize = shape.split_last().map_or(1, |(_, outer)| outer.iter().product());
    let bytes = to.row_bytes(cols).and_then(|row| row.checked_mul(rows)).map_or(u64::MAX, |bytes| bytes as u64);
    let from = origin.stored_in(files);
    Ok(PlannedTensor { name: name.to_owned(), shape: shape.to_vec(), from, to, bytes })
}

/// The type of a format in GGUF files.
fn ggml_type(format: Format) -> GgmlType {
    GgmlType::from_number(format.ggml_type()).unwrap_or(GgmlType::F32)
}

fn stored(format: Format) -> TensorFormat {
    ggml_type(format).into()
}

/// The error that a callback of the writer has put into an error of I/O, or that error.
fn model_error(error: io::Error) -> ModelError {
    match error.downcast::<ModelError>() {
        Ok(error) => error,
        Err(error) => ModelError::Write(error),
    }
}
