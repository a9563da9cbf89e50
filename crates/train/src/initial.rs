//! Training that begins with a model: what a run takes over from it, and which settings it leaves open.
//!
//! The run keeps nothing but the name of the model. Shape, weights and tokenizer are in its own files from the first
//! checkpoint on, so it is resumed without the model.

use std::path::Path;

use serde_json::Value;
use smallmind_checkpoint::{GENERATION_FILE, write_file_atomic};
use smallmind_model::chat::{ChatTemplates, TOKENIZER_CONFIG_FILE};
use smallmind_model::tokenizer::Tokenizer;
use smallmind_model::{ConfigError, DropoutConfig, Family, Model, ModelConfig, ModelError};
use toml::Table;

use crate::config::{DataSection, OF_MODEL, TrainSection, VOCAB_SIZE, value_error};
use crate::overlay::{last_text, named_as_set};
use crate::{Overlay, TrainConfig, TrainError};

/// The setting that names the model.
pub(crate) const INIT_FROM: &str = "model.init_from";

/// The most tokens of a training sequence if no setting says how many. Models of today take more than the gradients of
/// a step leave room for.
const LONGEST: usize = 1024;

/// A model with which training begins.
#[derive(Debug)]
pub struct Initial {
    /// Shape and weights.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat templates, if it has any.
    pub templates: ChatTemplates,
}

impl Initial {
    /// Writes what the run keeps besides the model and the tokenizer: the chat template, and settings of sampling.
    pub(crate) fn write_companions(&self, run: &Path) -> Result<(), TrainError> {
        let write = |name: &str, value: &Value| {
            write_file_atomic(run.join(name), |out| out.write_all(format!("{value:#}\n").as_bytes()))
        };
        if !self.templates.is_empty() {
            write(TOKENIZER_CONFIG_FILE, &self.templates.tokenizer_config(&self.tokenizer))?;
        }
        if let Some(generation) = self.model.generation().to_json(self.model.config()) {
            write(GENERATION_FILE, &generation)?;
        }
        Ok(())
    }
}

impl TrainConfig {
    /// The model that `model.init_from` names in the last of the overlays that set it.
    ///
    /// # Errors
    /// An unknown key, or a value that is no text.
    pub fn initial_model(overlays: &[Overlay]) -> Result<Option<&str>, TrainError> {
        Ok(last_text(INIT_FROM, overlays)?.map(|(name, _)| name))
    }

    /// [`TrainConfig::with_overlays`] for a training that begins with a model of `config`, which an overlay names as
    /// `model.init_from`. If no overlay sets `model.context`, training sequences are as long as the model allows, at
    /// most 1024 tokens.
    ///
    /// # Errors
    /// As [`TrainConfig::with_overlays`]; settings of a shape; a context beyond the model's; a mixture of experts, and
    /// other models that can't be trained or written.
    pub fn with_initial(preset: Option<&str>, config: &ModelConfig, overlays: &[Overlay]) -> Result<Self, TrainError> {
        let context = i64::try_from(config.context.min(LONGEST)).unwrap_or(i64::MAX);
        let section = Table::from_iter([("context".to_owned(), toml::Value::Integer(context))]);
        let table = Table::from_iter([("model".to_owned(), toml::Value::Table(section))]);
        let usual = Overlay { origin: "the model".to_owned(), table, micro_batches: None };
        let all: Vec<Overlay> = [usual].into_iter().chain(overlays.iter().cloned()).collect();
        let settings = Self::with_overlays(preset, &all)?;
        settings.check_initial_model(config).map_err(|error| named_as_set(error, overlays))?;
        Ok(settings)
    }

    /// The settings with which a training begins that continues a model, before overlays: rates and batches for weights
    /// that have been trained.
    pub(crate) fn of_initial() -> Result<Self, TrainError> {
        let usual = Self::of_preset(None)?;
        Ok(Self {
            data: DataSection { tokenizer: OF_MODEL.to_owned(), ..usual.data },
            train: TrainSection { batch: 4, lr: 5e-5, min_lr: 5e-6, ..usual.train },
            ..usual
        })
    }

    /// Checks that settings leave to the model of `model.init_from` what it says itself.
    pub(crate) fn check_initial(&self) -> Result<(), TrainError> {
        let (m, tokenizer) = (&self.model, self.data.tokenizer.as_str());
        let Some(model) = &m.init_from else {
            let why = "model.init_from names no model that has one; characters, bpe, or the path of a tokenizer.json";
            let fits = tokenizer != OF_MODEL;
            return if fits { Ok(()) } else { Err(value_error("data.tokenizer", tokenizer, why)) };
        };
        let why = |what: &str| format!("training begins with {model}, which has {what} of its own; leave this out");
        let set = |key: &str, value: Option<String>| match value {
            None => Ok(()),
            Some(value) => Err(value_error(key, &value, &why("a shape"))),
        };
        set("model.preset", m.preset.clone())?;
        set("model.family", m.family.clone())?;
        let sizes = [("layers", m.layers), ("heads", m.heads), ("kv_heads", m.kv_heads), ("d_model", m.d_model)];
        for (key, size) in sizes.into_iter().chain([("d_ff", m.d_ff)]) {
            set(&format!("model.{key}"), size.map(|size| size.to_string()))?;
        }
        for (key, switch) in [("biases", m.biases), ("tied", m.tied)] {
            set(&format!("model.{key}"), switch.map(|switch| switch.to_string()))?;
        }
        set("model.gelu", m.gelu.clone())?;
        set("model.rope_theta", m.rope_theta.map(|theta| theta.to_string()))?;
        if tokenizer != OF_MODEL {
            return Err(value_error("data.tokenizer", tokenizer, &why("a tokenizer")));
        }
        let vocab = self.data.vocab_size;
        let is_usual = vocab == VOCAB_SIZE;
        if is_usual { Ok(()) } else { Err(value_error("data.vocab_size", &vocab.to_string(), &why("a tokenizer"))) }
    }

    /// Checks that a model of `config` can be trained with these settings.
    pub(crate) fn check_initial_model(&self, config: &ModelConfig) -> Result<(), TrainError> {
        let Some(named) = self.model.init_from.as_deref() else {
            return Err(value_error(INIT_FROM, "", "it names no model to begin with"));
        };
        let refused = |why: &str| Err(value_error(INIT_FROM, named, why));
        if config.experts.is_some() {
            let families = Family::trained().map(Family::name).collect::<Vec<_>>().join(", ");
            return refused(&format!("mixtures of experts can't be trained; models of these families can: {families}"));
        }
        let (context, longest) = (self.context()?, config.context);
        if context > longest {
            let why = format!("the model takes at most {longest} tokens: its positions end there");
            return Err(value_error("model.context", &context.to_string(), &why));
        }
        // A resumed run reads what this one writes, and must be the same model.
        match config.to_json().and_then(|json| ModelConfig::from_json(&json)) {
            Ok(written) if written == *config => Ok(()),
            Ok(_) => refused("config.json can't state all of the model, so the run could not be resumed"),
            Err(ConfigError::NotStorable { key, got, model_type, takes }) => refused(&format!(
                "no config.json could state the model, which has {key} = {got}; a {model_type} takes {takes}"
            )),
            Err(other) => Err(ModelError::from(other).into()),
        }
    }

    /// `model` with the dropout of the settings, if they say one.
    ///
    /// # Errors
    /// As [`TrainConfig::check_initial_model`]; a tokenizer of more tokens than the model.
    pub(crate) fn continued(&self, mut model: Model, tokenizer: &Tokenizer) -> Result<Model, TrainError> {
        if let Some(p) = self.model.dropout {
            model.set_dropout(DropoutConfig { embedding: p, attention: p, residual: p });
        }
        self.check_initial_model(model.config())?;
        let (of_tokenizer, of_model) = (tokenizer.vocab_size(), model.config().vocab_size);
        if of_tokenizer > of_model {
            return Err(ModelError::Vocabulary { tokenizer: of_tokenizer, model: of_model }.into());
        }
        Ok(model)
    }
}
