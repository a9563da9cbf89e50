//! Writing a model as a GGUF file, in the formats that a user asks for.

mod calibrate;
mod importance;
mod mix;
mod tensors;

use std::collections::BTreeSet;
use std::io::{self, Write};

use smallmind_checkpoint::{Dtype, GgmlType, GgufData, GgufFile, GgufStrings, GgufValue, GgufWriter, TensorFormat};
use smallmind_kernels::Format;

use crate::chat::ChatTemplates;
use crate::config::gguf;
use crate::error::OverrideFault;
use crate::tensor_names::FileKind;
use crate::tokenizer::Tokenizer;
use crate::{ConfigError, Family, GenerationConfig, LoadOptions, ModelConfig, ModelError, ModelFiles};

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
    /// The format that was asked for.
    pub wanted: Format,
    /// How it is written: `wanted`, or where rows are not whole blocks of it, [`Format::for_rows_of`].
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
    /// Those of [`Model::from_files`](crate::Model::from_files) but for the weights; [`ConfigError::NotStorable`] for a
    /// model that GGUF can't express; an override that fits no tensor; an importance matrix of another model.
    pub fn new(files: &'a ModelFiles, load: LoadOptions, options: ExportOptions<'a>) -> Result<Self, ModelError> {
        let (config, generation) = crate::load::checked_configs(files, load)?;
        config.check()?;
        let family = files.family(&config)?;
        // The metadata of a GGUF file are copied.
        if let ModelFiles::Folder(_) = files {
            gguf::check(&config, family)?;
        }
        let origins = tensors::origins(files, &config, family);
        let model = MixModel::new(&config, family, options.importance.is_some());
        let planned =
            origins.iter().map(|origin| plan(origin, files, &options, model)).collect::<Result<Vec<_>, _>>()?;
        check_overrides(&options, &planned)?;
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

    /// Writes the file to `out`. A folder's `tokenizer` and chat `templates` are written into it; a GGUF file keeps its
    /// own. `name` is that of the model. `progress` gets the number of elements written. Returns what
    /// [`Tokenizer::write_gguf`] returns.
    ///
    /// # Errors
    /// [`ModelError::Vocabulary`]; files that can't be read; weights that are not finite, or that a format can't hold; a
    /// tokenizer that GGUF can't express, or more than three tokens that end a text and are not known by their texts;
    /// those of `out`.
    pub fn write(
        &self,
        name: &str,
        tokenizer: Option<&Tokenizer>,
        templates: &ChatTemplates,
        out: &mut dyn Write,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<String>, ModelError> {
        self.check_vocabulary(tokenizer)?;
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
            ModelFiles::Folder(_) => self.set_metadata(name, tokenizer, templates, &mut writer)?,
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

    /// Checks that the model has an entry for every token of a folder's `tokenizer`, or of a GGUF file's own.
    ///
    /// # Errors
    /// [`ModelError::Vocabulary`].
    pub fn check_vocabulary(&self, tokenizer: Option<&Tokenizer>) -> Result<(), ModelError> {
        let of_tokenizer = match self.files {
            ModelFiles::Folder(_) => tokenizer.map(Tokenizer::vocab_size),
            ModelFiles::Gguf(file) => {
                file.metadata().value::<&GgufStrings>("tokenizer.ggml.tokens")?.map(GgufStrings::len)
            }
        };
        match (of_tokenizer, self.config.vocab_size) {
            (Some(tokenizer), model) if tokenizer > model => Err(ModelError::Vocabulary { tokenizer, model }),
            _ => Ok(()),
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
        templates: &ChatTemplates,
        writer: &mut GgufWriter<'_>,
    ) -> Result<Option<String>, ModelError> {
        // The architecture comes first, as in other files.
        gguf::write(&self.config, self.family, writer)?;
        writer.set("general.type", GgufValue::String("model".into()))?;
        let not_applied = match tokenizer {
            Some(tokenizer) => tokenizer.write_gguf(name, self.config.vocab_size, writer)?,
            None => {
                writer.set("general.name", GgufValue::String(name.into()))?;
                // llama.cpp's name for a file without one.
                writer.set("tokenizer.ggml.model", GgufValue::String("none".into()))?;
                None
            }
        };
        // The tokens that the tokenizer puts around a text come first: `add_bos_token` and `add_eos_token` name them.
        let begins = tokenizer.and_then(|tokenizer| tokenizer.prompt_prefix().first().copied()).or(self.config.bos);
        let ends = END_KEYS.into_iter().zip(ends(&self.config, self.family, tokenizer)?);
        for (key, id) in begins.map(|id| ("bos", id)).into_iter().chain(ends) {
            writer.set(&format!("tokenizer.ggml.{key}_token_id"), GgufValue::U32(id))?;
        }
        templates.write_gguf(writer)?;
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

impl WeightMix {
    /// The mix of plain numbers that holds the weights of a model of `config`, which was read from `files`, as they are:
    /// F16 or BF16 if all weights that products read have that format, else F32. Tensors that a GGUF file holds in F32
    /// in any mix, such as norms and routers of experts, don't count.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`].
    pub fn of_files(files: &ModelFiles, config: &ModelConfig) -> Result<Self, ModelError> {
        let counts = |name: &str, shape: &[usize]| takes_overrides(name, shape);
        let in_gguf = files.names_in(config, FileKind::Gguf)?.slots();
        let params: BTreeSet<&str> =
            in_gguf.iter().filter(|slot| counts(&slot.name, &slot.shape)).map(|slot| slot.param.as_str()).collect();
        let (names, weights) = (files.names(config)?, files.weights());
        let slots = names.slots();
        let of_products = slots.iter().filter(|slot| params.contains(slot.param.as_str()));
        let mut formats =
            of_products.filter_map(|slot| weights.find(names.stored(&slot.name, weights))).map(|tensor| tensor.format);
        let first = formats.next();
        let is_same = first.is_some_and(|first| formats.all(|format| format == first));
        Ok(match first {
            Some(TensorFormat::Plain(Dtype::F16)) if is_same => Self::F16,
            Some(TensorFormat::Plain(Dtype::Bf16)) if is_same => Self::BF16,
            _ => Self::F32,
        })
    }
}

/// The keys of tokens that end a text.
const END_KEYS: [&str; 3] = ["eos", "eot", "eom"];

/// The tokens that end a text, one for each key.
fn ends(config: &ModelConfig, family: Family, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>, ConfigError> {
    let after_text = tokenizer.and_then(|tokenizer| tokenizer.suffix().first().copied());
    let mut rest = config.eos.iter().copied().filter(|id| after_text != Some(*id));
    let Some(first) = after_text.or_else(|| rest.next()) else { return Ok(vec![]) };
    // Readers know these by their texts, so they may lack a key.
    let of_texts: Vec<u32> = tokenizer.into_iter().flat_map(Tokenizer::ends).collect();
    let (known, needed): (Vec<u32>, Vec<u32>) = rest.partition(|id| of_texts.contains(id));
    let mut ends = [vec![first], needed].concat();
    if ends.len() > END_KEYS.len() {
        let (got, takes) = (format!("{ends:?}"), "at most three tokens in a GGUF file".to_owned());
        return Err(ConfigError::NotStorable { key: "eos", got, model_type: family.architecture(), takes });
    }
    ends.extend(known);
    ends.truncate(END_KEYS.len());
    Ok(ends)
}

impl ExportOptions<'_> {
    /// The override that counts for a tensor.
    fn override_of(&self, name: &str) -> Option<&(String, Format)> {
        self.overrides.iter().rev().find(|(part, _)| name.contains(part))
    }
}

/// Whether a tensor can have another format than F32: not a vector, nor what no product reads in blocks.
fn takes_overrides(name: &str, shape: &[usize]) -> bool {
    let any = MixModel::new(&ModelConfig::default(), Family::Llama, false);
    WeightMix::F16.format_of(name, shape, any) != Format::F32
}

/// Refuses overrides that change no tensor.
fn check_overrides(options: &ExportOptions<'_>, planned: &[PlannedTensor]) -> Result<(), ModelError> {
    for wanted in &options.overrides {
        let fitting: Vec<_> = planned.iter().filter(|tensor| tensor.name.contains(&wanted.0)).collect();
        let counts = |tensor: &&&PlannedTensor| options.override_of(&tensor.name) == Some(wanted);
        let fault = match fitting.iter().find(|tensor| takes_overrides(&tensor.name, &tensor.shape)) {
            None => match fitting.first() {
                None => OverrideFault::NoTensor,
                Some(first) => OverrideFault::StaysF32 { tensor: first.name.clone() },
            },
            Some(_) if !fitting.iter().any(|tensor| counts(&tensor)) => OverrideFault::Overridden,
            Some(_) => continue,
        };
        return Err(ModelError::Override { part: wanted.0.clone(), fault });
    }
    Ok(())
}

fn plan(
    origin: &Origin,
    files: &ModelFiles,
    options: &ExportOptions<'_>,
    model: MixModel,
) -> Result<PlannedTensor, ModelError> {
    let (name, shape) = (origin.name(), &origin.shape()[..]);
    let cols = shape.last().copied().unwrap_or(1);
    let wanted = match options.override_of(name) {
        Some((_, format)) if takes_overrides(name, shape) => *format,
        _ => options.mix.wanted_of(name, shape, model),
    };
    let to = wanted.for_rows_of(cols);
    let rows: usize = shape.split_last().map_or(1, |(_, outer)| outer.iter().product());
    let bytes = to.row_bytes(cols).and_then(|row| row.checked_mul(rows)).map_or(u64::MAX, |bytes| bytes as u64);
    let from = origin.stored_in(files);
    Ok(PlannedTensor { name: name.to_owned(), shape: shape.to_vec(), from, wanted, to, bytes })
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use smallmind_checkpoint::parse_gguf_header;

    use super::*;
    use crate::Model;
    use crate::tokenizer::BpeTraining;

    /// A tokenizer of the letters a to h, which puts `a` before a text and `b` after it if told so.
    fn letters(around: bool) -> Tokenizer {
        let tokenizer = Tokenizer::characters("abcdefgh").unwrap();
        let mut file: Value = serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
        if around {
            let special = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
            let known = |text: &str, id: u32| json!({"id": text, "ids": [id], "tokens": [text]});
            file["post_processor"] = json!({
                "type": "TemplateProcessing",
                "single": [special("a"), {"Sequence": {"id": "A", "type_id": 0}}, special("b")],
                "pair": [],
                "special_tokens": {"a": known("a", 0), "b": known("b", 1)},
            });
        }
        Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap()
    }

    fn keys_of(eos: &[u32], tokenizer: &Tokenizer) -> Result<[Option<u32>; 4], ModelError> {
        let config = ModelConfig {
            vocab_size: tokenizer.vocab_size(),
            context: 16,
            d_model: 8,
            layers: 1,
            heads: 2,
            kv_heads: 2,
            head_dim: 4,
            d_ff: 8,
            bos: Some(7),
            eos: eos.to_vec(),
            ..ModelConfig::default()
        };
        let dir = tempfile::tempdir().unwrap();
        Model::random(config, 1).unwrap().save(dir.path()).unwrap();
        let files = ModelFiles::open(dir.path()).unwrap();
        let options = ExportOptions { mix: WeightMix::F32, overrides: vec![], importance: None, threads: 1 };
        let mut bytes = Vec::new();
        GgufExport::new(&files, LoadOptions::default(), options)?.write(
            "m",
            Some(tokenizer),
            &ChatTemplates::new(),
            &mut bytes,
            &|_| {},
        )?;
        let metadata = parse_gguf_header("m.gguf".as_ref(), &bytes).unwrap().metadata;
        let id = |name| metadata.value(&format!("tokenizer.ggml.{name}_token_id")).unwrap();
        Ok(["bos", "eos", "eot", "eom"].map(id))
    }

    /// `add_bos_token` and `add_eos_token` are about the tokenizer's tokens, whatever the model's are.
    #[test]
    fn tokens_around_a_text_stay_those_of_the_tokenizer() {
        assert_eq!(keys_of(&[5, 6], &letters(false)).unwrap(), [Some(7), Some(5), Some(6), None]);
        assert_eq!(keys_of(&[5, 6], &letters(true)).unwrap(), [Some(0), Some(1), Some(5), Some(6)]);
        assert_eq!(keys_of(&[5, 1], &letters(true)).unwrap(), [Some(0), Some(1), Some(5), None]);
    }

    #[test]
    fn more_than_three_ends_need_known_texts() {
        let tokenizer = letters(false);
        let refused = keys_of(&[2, 3, 4, 5], &tokenizer).unwrap_err();
        assert!(matches!(refused, ModelError::Config(ConfigError::NotStorable { key: "eos", .. })), "{refused}");
        // Its first token is `<|endoftext|>`.
        let tokenizer = Tokenizer::train_bpe(["a hen"; 3], &BpeTraining::default()).unwrap();
        assert_eq!(keys_of(&[2, 0, 4, 5], &tokenizer).unwrap(), [Some(7), Some(2), Some(4), Some(5)]);
        // Where a key is free, it names a token of a known text too: of a GGUF file's keys none is lost.
        assert_eq!(keys_of(&[2, 0, 4], &tokenizer).unwrap(), [Some(7), Some(2), Some(4), Some(0)]);
        assert_eq!(keys_of(&[2, 0], &tokenizer).unwrap(), [Some(7), Some(2), Some(0), None]);
    }
}
