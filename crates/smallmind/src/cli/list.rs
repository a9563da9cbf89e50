//! `smallmind models [FOLDER…]`: the models on this machine.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use smallmind::checkpoint::{CONFIG_FILE, GgufFile, read_config};
use smallmind::hub::{Found, Kind, Listing, list_caches, list_folder};

use super::failure::{Outcome, bad_file};
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
        for folder in &self.folders {
            if !folder.is_dir() {
                return Err(bad_file(format!("{}: there is no such folder", folder.display())));
            }
            listing.models.extend(list_folder(folder)?.models);
        }
        if settings.is_json() {
            return output::document(document(&listing));
        }
        output::print(&table(&listing))?;
        if listing.models.is_empty() {
            let (first, second) = (caches.hugging_face.display(), caches.llama_cpp.display());
            note!("no models in {first} and {second}; `smallmind pull hf:OWNER/NAME` downloads one");
        }
        Ok(())
    }
}

/// What the model calls its architecture, if its files say so.
fn architecture(found: &Found) -> Option<String> {
    let name = match found.kind {
        Kind::Safetensors => read_config(found.path.join(CONFIG_FILE)).ok()?.get("model_type")?.as_str()?.to_owned(),
        Kind::Gguf(_) => of_gguf(&found.path)?,
    };
    Some(name.escape_debug().take(SHOWN).collect())
}

fn of_gguf(path: &Path) -> Option<String> {
    let file = GgufFile::open(path).ok()?;
    file.metadata().value::<&str>("general.architecture").ok()?.map(str::to_owned)
}

fn kind(kind: &Kind) -> (&'static str, Option<&str>) {
    match kind {
        Kind::Safetensors => ("safetensors", None),
        Kind::Gguf(format) => ("gguf", format.as_deref()),
    }
}

fn document(listing: &Listing) -> Value {
    let model = |found: &Found| {
        let (kind, format) = kind(&found.kind);
        json!({
            "model": found.name,
            "path": found.path.display().to_string(),
            "kind": kind,
            "format": format,
            "bytes": found.bytes,
            "architecture": architecture(found),
            "missing": found.missing,
        })
    };
    let models: Vec<Value> = listing.models.iter().map(model).collect();
    let unfinished = listing.unfinished.iter().map(|part| json!({ "model": part.name, "bytes": part.bytes }));
    json!({ "models": models, "unfinished": unfinished.collect::<Vec<_>>() })
}

fn table(listing: &Listing) -> String {
    let width = listing.models.iter().map(|found| found.name.chars().count()).max().unwrap_or(0);
    let row = |found: &Found| {
        let (kind, format) = kind(&found.kind);
        let stored = [kind, format.unwrap_or_default()].join(" ");
        let architecture = architecture(found).unwrap_or_else(|| "unknown".to_owned());
        let missing = found.missing.as_ref().map(|file| format!("  incomplete: {} is missing", file.escape_debug()));
        let (name, bytes) = (&found.name, units::bytes(found.bytes));
        format!("{name:<width$}  {stored:<12}  {bytes:>9}  {architecture}{}\n", missing.unwrap_or_default())
    };
    let unfinished = listing
        .unfinished
        .iter()
        .map(|part| format!("{}: an unfinished download, {} so far\n", part.name, units::bytes(part.bytes)));
    listing.models.iter().map(row).chain(unfinished).collect()
}
