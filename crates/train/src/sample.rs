//! Texts that a model in training writes on the way.

use std::ops::ControlFlow;
use std::sync::Arc;

use smallmind_model::sampler::SamplerConfig;
use smallmind_model::tokenizer::{SpecialTokens, Tokenizer};
use smallmind_model::{GenerateOptions, Generator, Model, Session, SessionOptions};
use smallmind_simd::IsaKind;

use crate::data::Dataset;
use crate::{Prepared, TrainConfig, TrainError};

/// Writes samples. It has a model of its own, made once, so that a sample does not let the memory of a training grow.
pub(crate) struct Samples {
    generator: Generator,
    /// Tokens to begin with.
    prompt: Vec<u32>,
    /// The text of the prompt.
    beginning: String,
    options: GenerateOptions,
    seed: u64,
}

impl Samples {
    /// Samples as `config` asks for them, of models shaped like `model`; `None` if it asks for none.
    ///
    /// # Errors
    /// A prompt that has no tokens for its characters or does not fit into the context: better said now than after hundreds of steps.
    pub(crate) fn new(
        config: &TrainConfig,
        model: &Model,
        prepared: &Prepared,
        threads: usize,
        isa: IsaKind,
    ) -> Result<Option<Self>, TrainError> {
        if config.sample.interval == 0 {
            return Ok(None);
        }
        let beginning = config.sample.prompt.clone();
        let Prepared { tokenizer, train, validation } = prepared;
        let mut prompt = encode(&beginning, tokenizer, model.config().context)?;
        if prompt.is_empty() && !begins_texts(tokenizer, train)? {
            // The first token of the validation text does as well as any.
            prompt = vec![0];
            validation.copy(0, &mut prompt)?;
        }
        let options = SessionOptions::single(model.config().context, threads);
        let session = Session::new(Arc::new(model.try_clone()?.pack(isa)?), options)?;
        let sampler = SamplerConfig { temperature: config.sample.temperature, ..SamplerConfig::default() };
        Ok(Some(Self {
            generator: Generator::new(session, tokenizer.clone())?,
            prompt,
            beginning,
            options: GenerateOptions { max_tokens: config.sample.tokens, sampler, stops: vec![] },
            seed: config.train.seed,
        }))
    }

    /// What a model with these weights writes after `step` steps, the prompt included.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub(crate) fn text(&mut self, weights: &[f32], step: u64) -> Result<String, TrainError> {
        self.generator.session_mut().set_weights(weights)?;
        self.options.sampler.seed = self.seed ^ step;
        let mut text = self.beginning.clone();
        self.generator.generate(&self.prompt, &self.options, |piece| {
            text.push_str(piece);
            ControlFlow::Continue(())
        })?;
        Ok(text)
    }
}

/// Whether a model that is trained on `train` learns how texts begin: whether that holds the token which begins texts. One undivided text
/// holds none.
pub(crate) fn begins_texts(tokenizer: &Tokenizer, train: &Dataset) -> Result<bool, TrainError> {
    Ok(match tokenizer.bos().or(tokenizer.eos()) {
        Some(token) => train.contains(token)?,
        None => false,
    })
}

/// The tokens of a prompt.
fn encode(prompt: &str, tokenizer: &Tokenizer, context: usize) -> Result<Vec<u32>, TrainError> {
    let bad = |why: String| TrainError::Value {
        key: "sample.prompt".to_owned(),
        origin: format!("sample.prompt = {prompt:?}"),
        why,
    };
    let ids = tokenizer.encode(prompt, SpecialTokens::AsText).map_err(|e| bad(e.to_string()))?;
    if ids.len() > context {
        return Err(bad(format!("its {} tokens don't fit into the context of {context}", ids.len())));
    }
    Ok(ids)
}
