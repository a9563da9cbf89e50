//! `smallmind convert -m M --out FILE.gguf|FOLDER`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use smallmind::checkpoint::{CONFIG_FILE, GENERATION_FILE, GgufFile, INDEX_FILE, TOKENIZER_FILE, WEIGHTS_FILE};
use smallmind::model::chat::{ChatTemplates, MORE_TEMPLATES, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE};
use smallmind::model::export::{ExportOptions, GgufExport, WeightMix};
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{ModelFiles, is_gguf_name};
use smallmind::train::is_run;

use super::failure::{Outcome, usage};
use super::gguf_output::{self, Beside};
use super::models::{self, ModelArg};
use super::output_files::{OutputFile, OutputFolder, Overwrite};
use super::reads::Reads;
use super::settings::{Settings, of_model};
use super::{interrupt, note, output, units};

/// What follows `general.` in keys that the files of a folder hold, or that say how the file itself is made.
const KEPT: [&str; 6] = ["architecture", "type", "name", "file_type", "quantization_version", "alignment"];
/// What follows `general.sampling.` in keys that generation_config.json holds.
const KEPT_SAMPLING: [&str; 5] = ["temp", "top_k", "top_p", "min_p", "penalty_repeat"];

/// Options of `convert`.
#[derive(Debug, Args)]
pub struct Convert {
    #[command(flatten)]
    model: ModelArg,
    /// The file to write, which ends in .gguf, or the folder, in the layout of Hugging Face
    #[arg(long, value_name = "FILE|FOLDER")]
    out: PathBuf,
    /// The format of the weights in a GGUF file [default: as in the files]; see also quantize
    #[arg(long, value_name = "FORMAT", value_parser = gguf_output::mix_parser(), ignore_case = true)]
    format: Option<WeightMix>,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Convert {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        interrupt::end_on_signal(interrupt::Makes::Files)?;
        if is_gguf_name(&self.out) { self.to_gguf(settings) } else { self.to_folder(settings) }
    }

    fn files(&self) -> anyhow::Result<ModelFiles> {
        models::open_files(&self.model.model).map_err(|error| of_model(&self.model.model, error))
    }

    fn to_gguf(&self, settings: &Settings) -> Outcome {
        let files = self.files()?;
        let reads = Reads::nothing().and_open_model(&self.model.model, &files)?;
        let out = OutputFile::check(&self.out, self.overwrite, &reads)?;
        let mix = match self.format {
            Some(mix) => mix,
            None => {
                let (config, _) = files.configs(self.model.allowed.unknown_keys()).map_err(models::with_flag)?;
                WeightMix::of_files(&files, &config)?
            }
        };
        let options = ExportOptions { mix, overrides: vec![], importance: None, threads: settings.threads() };
        let export = GgufExport::new(&files, self.model.allowed.load_options(), options).map_err(models::with_flag)?;
        gguf_output::note_other_formats(export.tensors());
        gguf_output::check_requantized(&export, "quantize --allow-requantize converts it")?;
        let beside = Beside::of(&self.model.model, &files, &export)?;
        gguf_output::write(&export, &beside, out)?;
        let (written, bytes) = (self.out.display(), gguf_output::bytes(export.tensors()));
        if settings.is_json() {
            return output::document(
                json!({ "file": self.out, "format": mix.name(), "bytes": bytes, "tensors": export.tensors().len() }),
            );
        }
        output::line(&format!("{written}: {}", gguf_output::summary(mix, export.tensors())))
    }

    fn to_folder(&self, settings: &Settings) -> Outcome {
        if self.format.is_some() {
            return Err(usage("--format is for a GGUF file; a folder holds the weights in f32"));
        }
        if is_run(&self.out) {
            let out = self.out.display();
            return Err(usage(format!("{out}: this is the folder of a training; choose another folder for the model")));
        }
        let names = [WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, GENERATION_FILE];
        let files = self.files()?;
        let reads = Reads::nothing().and_open_model(&self.model.model, &files)?;
        let mut folder = OutputFolder::check(&self.out, &names, self.overwrite, &reads)?;
        let mut model = self.model.allowed.load(&files)?;
        let tokenizer = gguf_output::tokenizer_if_any(&self.model.model, &files)?;
        if let Some(tokenizer) = &tokenizer {
            models::check_vocabulary(tokenizer, model.config())
                .map_err(|error| of_model(&self.model.model, error.into()))?;
        }
        if let ModelFiles::Gguf(file) = &files {
            // Readers of folders end a text only at the tokens that the configuration names.
            model.add_ends(tokenizer.iter().flat_map(Tokenizer::ends));
            note_left_out(file);
        }
        let templates = ChatTemplates::of_files(&files)?;
        let generation = model.generation().to_json(model.config());
        let mut others = vec![INDEX_FILE, TEMPLATE_FILE, MORE_TEMPLATES];
        others.extend(tokenizer.is_none().then_some([TOKENIZER_FILE, TOKENIZER_CONFIG_FILE]).into_iter().flatten());
        others.extend(generation.is_none().then_some(GENERATION_FILE));
        if let Some(other) = others.into_iter().find(|name| self.out.join(name).exists()) {
            let out = self.out.display();
            return Err(usage(format!("{out}: there is a {other} of another model; choose another folder")));
        }
        let config = model.config_bytes().map_err(models::with_flag)?;
        model.with_writer(|weights| Ok(folder.write(WEIGHTS_FILE, |out| weights.write_to(out))))??;
        if let Some(tokenizer) = &tokenizer {
            let json = tokenizer.to_json()?;
            folder.write(TOKENIZER_FILE, |out| out.write_all(json.as_bytes()))?;
            write_json(&mut folder, TOKENIZER_CONFIG_FILE, &templates.tokenizer_config(tokenizer))?;
        }
        if let Some(generation) = generation {
            write_json(&mut folder, GENERATION_FILE, &generation)?;
        }
        folder.write(CONFIG_FILE, |out| out.write_all(&config))?;
        folder.publish()?;
        let (out, parameters) = (self.out.display(), model.params().elements());
        if settings.is_json() {
            return output::document(json!({ "folder": self.out, "parameters": parameters }));
        }
        output::line(&format!("{out}: {} parameters in f32", units::count(parameters as u64)))
    }
}

/// Notes the entries about a GGUF file itself for which a folder has no place.
fn note_left_out(file: &GgufFile) {
    let kept =
        |name: &str| KEPT.contains(&name) || name.strip_prefix("sampling.").is_some_and(|s| KEPT_SAMPLING.contains(&s));
    let names = file.metadata().iter().filter_map(|(key, _)| key.strip_prefix("general."));
    let left_out: Vec<String> = names.filter(|name| !kept(name)).map(|name| format!("general.{name}")).collect();
    if !left_out.is_empty() {
        note!("note: a folder has no place for {} of the file", models::few(&left_out));
    }
}

fn write_json(folder: &mut OutputFolder, name: &str, value: &Value) -> Outcome {
    folder.write(name, |out| out.write_all(format!("{value:#}\n").as_bytes()))
}
