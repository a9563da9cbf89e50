//! Texts that a model generates while it is trained.

use std::ops::ControlFlow;
use std::sync::Arc;

use smallmind_model::sampler::SamplerConfig;
use smallmind_model::tokenizer::{SpecialTokens, Tokenizer};
use smallmind_model::{GenerateOptions, Generator, Model, Session, SessionOptions};
use smallmind_simd::IsaKind;

use crate::data::Dataset;
use crate::{Prepared, TrainConfig, TrainError};

/// Generates samples. Its model and session are allocated once, so that samples don't increase the memory of training.
pub(crate) struct Samples {
    generator: Generator,
    /// Tokens of the prompt.
    prompt: Vec<u32>,
    /// Text of the prompt.
    beginning: String,
    options: GenerateOptions,
    seed: u64,
}

impl Samples {
    /// Samples of models with the shape of `model`, as `config` says; `None` if it asks for none.
    ///
    /// # Errors
    /// A prompt that has characters that the vocabulary lacks, or that is longer than the context. This is found here,
    /// not after many steps.
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
        let context = config.context()?;
        let mut prompt = encode(&beginning, tokenizer, context)?;
        if config.model.init_from.is_some() && !prompt.is_empty() {
            prompt = tokenizer.prompt(&prompt);
        }
        if prompt.is_empty() && !begins_texts(tokenizer, train)? {
            // Any token serves: the first one of the validation text is taken.
            prompt = vec![0];
            validation.copy(0, &mut prompt)?;
        }
        let options = SessionOptions::single(context, threads);
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

    /// The text that a model with these weights generates after `step` steps, with the prompt.
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

/// Whether `train` has the token that begins texts, so that a model learns how texts begin. An undivided text doesn't
/// have it.
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
