//! `smallmind new --preset NAME --out DIR`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use smallmind::checkpoint::{CONFIG_FILE, GENERATION_FILE, INDEX_FILE, TOKENIZER_FILE, WEIGHTS_FILE};
use smallmind::model::chat::{MORE_TEMPLATES, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE};
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{Model, ModelError, preset};
use smallmind::train::is_run;

use super::failure::{Outcome, usage};
use super::output_files::{OutputFolder, Overwrite};
use super::reads::Reads;
use super::settings::Settings;
use super::{interrupt, models, note, output, units};

/// The default seed of random weights.
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
    /// A tokenizer.json to copy into the folder
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
}

/// The presets, one per line.
pub fn presets() -> String {
    let line = |p: &preset::Preset| format!("\n  {:<14} {}", p.name, p.about);
    format!("Presets:{}", preset::PRESETS.iter().map(line).collect::<String>())
}

impl New {
    /// Refuses files of another model that would be read together with the new one.
    fn refuse_leftovers(&self) -> Outcome {
        let others = [GENERATION_FILE, TOKENIZER_CONFIG_FILE, TEMPLATE_FILE, MORE_TEMPLATES];
        let Some(other) = others.into_iter().find(|name| self.out.join(name).exists()) else { return Ok(()) };
        let out = self.out.display();
        Err(usage(format!("{out}: there is a {other} of another model; choose another folder")))
    }

    pub(super) fn run(self, settings: &Settings) -> Outcome {
        interrupt::end_on_signal(interrupt::Makes::Files)?;
        models::refuse_gguf(&self.out)?;
        let config = preset::find(&self.preset)?.config();
        if is_run(&self.out) {
            let out = self.out.display();
            return Err(usage(format!("{out}: this is the folder of a training; choose another folder for the model")));
        }
        if self.out.join(INDEX_FILE).exists() {
            let out = self.out.display();
            return Err(usage(format!("{out}: there is a model of several files already; choose another folder")));
        }
        self.refuse_leftovers()?;
        let mut names = vec![WEIGHTS_FILE, CONFIG_FILE];
        names.extend(self.tokenizer.is_some().then_some(TOKENIZER_FILE));
        let mut files = OutputFolder::check(&self.out, &names, self.overwrite, &Reads::nothing().and(&self.tokenizer))?;
        let tokenizer = self.tokenizer.as_deref().map(models::read_tokenizer).transpose()?;
        let there = self.out.join(TOKENIZER_FILE);
        let kept = (tokenizer.is_none() && there.exists()).then(|| models::read_tokenizer(&there)).transpose()?;
        if let Some(tokenizer) =
            tokenizer.as_ref().or(kept.as_ref()).map(Tokenizer::vocab_size).filter(|n| *n > config.vocab_size)
        {
            return Err(ModelError::Vocabulary { tokenizer, model: config.vocab_size }.into());
        }
        let seed = settings.seed.unwrap_or(SEED);
        let model = Model::random(config, seed)?;
        model.with_writer(|weights| Ok(files.write(WEIGHTS_FILE, |out| weights.write_to(out))))??;
        if let Some(tokenizer) = &tokenizer {
            let json = tokenizer.to_json()?;
            files.write(TOKENIZER_FILE, |out| out.write_all(json.as_bytes()))?;
        } else if kept.is_some() {
            note!("note: the folder's {TOKENIZER_FILE} is kept; --tokenizer FILE replaces it");
        } else {
            note!("note: the folder has no {TOKENIZER_FILE}; --tokenizer FILE adds one");
        }
        let config = model.config_bytes()?;
        files.write(CONFIG_FILE, |out| out.write_all(&config))?;
        files.publish()?;
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
