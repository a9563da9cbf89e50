//! `smallmind new --preset NAME --out DIR`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use smallmind::checkpoint::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE};
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{Model, ModelError, preset};

use super::failure::{Outcome, usage};
use super::settings::Settings;
use super::{models, note, output, units};

/// The seed of random weights, unless somebody says otherwise.
const SEED: u64 = 1337;

/// Options of `new`.
#[derive(Debug, Args)]
#[command(after_help = presets())]
pub struct New {
    /// The shape
    #[arg(long, value_name = "NAME")]
    preset: String,
    /// The folder to write
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// A tokenizer.json to put beside the weights
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

/// The presets, a line each.
pub fn presets() -> String {
    let line = |p: &preset::Preset| format!("\n  {:<14} {}", p.name, p.about);
    format!("Presets:{}", preset::PRESETS.iter().map(line).collect::<String>())
}

impl New {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        models::refuse_gguf(&self.out)?;
        let config = preset::find(&self.preset)?.config();
        for file in [CONFIG_FILE, WEIGHTS_FILE] {
            if self.out.join(file).exists() {
                let out = self.out.display();
                return Err(usage(format!("{out}: there is a {file} already; choose another folder")));
            }
        }
        let tokenizer = self.tokenizer.as_ref().map(Tokenizer::from_file).transpose()?;
        if let Some(tokenizer) = tokenizer.as_ref().map(Tokenizer::vocab_size).filter(|n| *n > config.vocab_size) {
            return Err(ModelError::Vocabulary { tokenizer, model: config.vocab_size }.into());
        }
        let seed = settings.seed.unwrap_or(SEED);
        let model = Model::random(config, seed)?;
        std::fs::create_dir_all(&self.out).with_context(|| format!("{}: can't make the folder", self.out.display()))?;
        model.save(&self.out)?;
        if let Some(tokenizer) = &tokenizer {
            tokenizer.save(self.out.join(TOKENIZER_FILE))?;
        } else {
            note!("note: the folder has no tokenizer.json; --tokenizer FILE adds one");
        }
        let parameters = model.params().elements();
        if settings.is_json() {
            let preset = &self.preset;
            return output::document(
                json!({ "model": self.out, "preset": preset, "parameters": parameters, "seed": seed }),
            );
        }
        let parameters = units::count(parameters as u64);
        output::line(&format!("{}: {} with {parameters} random parameters", self.out.display(), self.preset))
    }
}
