//! `smallmind models [FOLDER…]`: the models on this machine.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use smallmind::checkpoint::{CONFIG_FILE, GgufFile, read_config};
use smallmind::hub::{Found, Kind, Listing, list_caches, list_folder};
use smallmind::model::export::WeightMix;
use smallmind::model::{ModelConfig, ModelFiles, UnknownKeys};

use super::failure::{Outcome, bad_file, usage};
use super::hints::program;
use super::settings::Settings;
use super::{hub, note, output, units};

/// The most characters of an architecture that are shown.
const SHOWN: usize = 24;

/// Options of `models`.
#[derive(Debug, Args)]
pub struct Models {
    /// Folders to look into as well, with the folders in them
    #[arg(value_name = "FOLDER")]
    folders: Vec<PathBuf>,
}

impl Models {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let caches = hub::caches()?;
        let mut listing = list_caches(&caches)?;
        let mut without = vec![];
        for folder in &self.folders {
            let name = folder.display();
            if folder.is_file() {
                let program = program();
                return Err(usage(format!("{name}: this is a file; name a folder, or show it with {program} inspect")));
            }
            if !folder.is_dir() {
                return Err(bad_file(format!("{name}: there is no such folder")));
            }
            let found = list_folder(folder)?.models;
            if found.is_empty() {
                without.push(name.to_string());
            }
            listing.models.extend(found);
        }
        let models: Vec<Row<'_>> = listing.models.iter().map(Row::of).collect();
        if settings.is_json() {
            return output::document(document(&models, &listing));
        }
        output::print(&table(&models, &listing))?;
        if models.is_empty() {
            let caches = [&caches.hugging_face, &caches.llama_cpp].map(|folder| folder.display().to_string());
            let searched = [&caches[..], &without].concat().join(", ");
            note!("no models in {searched}; `smallmind pull hf:OWNER/NAME` downloads one");
        } else if !without.is_empty() {
            note!("no models in {}", without.join(", "));
        }
        Ok(())
    }
}

/// A model that was found, with what its files say.
struct Row<'f> {
    found: &'f Found,
    kind: &'static str,
    /// The format of a GGUF file.
    format: Option<String>,
    /// The family, as `inspect` calls it; of a model that is not supported, its own word.
    family: Option<String>,
    /// Why it is no model, if it isn't one.
    problem: Option<String>,
}

impl<'f> Row<'f> {
    fn of(found: &'f Found) -> Self {
        match &found.kind {
            Kind::Safetensors => {
                let family =
                    read_config(found.path.join(CONFIG_FILE)).ok().and_then(|config| family_of_folder(&config));
                Self { found, kind: "safetensors", format: None, family, problem: None }
            }
            Kind::Gguf(format) => {
                let row = Self { found, kind: "gguf", format: format.clone(), family: None, problem: None };
                match GgufFile::open(&found.path) {
                    Ok(file) => row.with(file),
                    Err(_) if found.missing.is_some() => row,
                    Err(_) => Self { format: None, problem: Some("not a whole GGUF file".to_owned()), ..row },
                }
            }
        }
    }

    fn with(self, file: GgufFile) -> Self {
        let text = |key: &str| file.metadata().value::<&str>(key).ok().flatten().map(short);
        let number = file.metadata().value::<u32>("general.file_type").ok().flatten();
        let format =
            number.and_then(WeightMix::from_file_type).map(|mix| mix.name().to_owned()).or(self.format.clone());
        let problem = match text("general.type") {
            Some(kind) if kind == "imatrix" => Some("an importance matrix, no model".to_owned()),
            Some(kind) if kind != "model" => Some(format!("a file of the type {kind}, no model")),
            _ => None,
        };
        let own = text("general.architecture");
        let config = ModelFiles::Gguf(file).configs(UnknownKeys::Allow).ok();
        let family = config.and_then(|(config, _)| config.model_type().ok().map(str::to_owned)).or(own);
        Self { format: format.filter(|_| problem.is_none()), family, problem, ..self }
    }
}

fn family_of_folder(config: &Value) -> Option<String> {
    let parsed = ModelConfig::from_json_with(config, UnknownKeys::Allow).ok();
    let family = parsed.and_then(|config| config.model_type().ok());
    family.map(str::to_owned).or_else(|| config.get("model_type")?.as_str().map(short))
}

/// A word from a file, without control characters and not too long.
fn short(text: &str) -> String {
    text.escape_debug().take(SHOWN).collect()
}

fn document(models: &[Row<'_>], listing: &Listing) -> Value {
    let model = |row: &Row<'_>| {
        json!({
            "model": row.found.name,
            "path": row.found.path.display().to_string(),
            "kind": row.kind,
            "format": row.format,
            "bytes": row.found.bytes,
            "architecture": row.family,
            "missing": row.found.missing,
            "problem": row.problem,
        })
    };
    let models: Vec<Value> = models.iter().map(model).collect();
    let unfinished = listing.unfinished.iter().map(|part| json!({ "model": part.name, "bytes": part.bytes }));
    json!({ "models": models, "unfinished": unfinished.collect::<Vec<_>>() })
}

fn table(models: &[Row<'_>], listing: &Listing) -> String {
    let width = models.iter().map(|row| row.found.name.chars().count()).max().unwrap_or(0);
    let line = |row: &Row<'_>| {
        let stored = [row.kind, row.format.as_deref().unwrap_or_default()].join(" ");
        let what = row.problem.as_deref().or(row.family.as_deref()).unwrap_or("unknown");
        let missing = row.found.missing.as_ref();
        let missing = missing.map(|file| format!("  incomplete: {} is missing", file.escape_debug()));
        let (name, bytes) = (&row.found.name, units::bytes(row.found.bytes));
        format!("{name:<width$}  {stored:<12}  {bytes:>9}  {what}{}\n", missing.unwrap_or_default())
    };
    let unfinished = listing
        .unfinished
        .iter()
        .map(|part| format!("{}: an unfinished download, {} so far\n", part.name, units::bytes(part.bytes)));
    models.iter().map(line).chain(unfinished).collect()
}
