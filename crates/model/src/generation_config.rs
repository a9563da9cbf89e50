//! `generation_config.json`: the tokens that end a text, and defaults for sampling.

use serde_json::{Map, Value, json};

use crate::config::{Fields, KeyRule, Supported};
use crate::sampler::{LogitBias, SamplerConfig, SamplerError};
use crate::{ConfigError, ModelConfig};

use KeyRule::{NoMatter, Only, Read};
use Supported::{Empty, Is, Null, Number};

/// The content of a `generation_config.json`. Absent keys are `None` or empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// [`SamplerConfig::temperature`]; 0 if the file has `"do_sample": false`.
    pub temperature: Option<f32>,
    /// [`SamplerConfig::top_k`].
    pub top_k: Option<usize>,
    /// [`SamplerConfig::top_p`].
    pub top_p: Option<f32>,
    /// [`SamplerConfig::min_p`].
    pub min_p: Option<f32>,
    /// [`SamplerConfig::typical_p`].
    pub typical_p: Option<f32>,
    /// Tokens that are never chosen: those of `suppress_tokens`, and of `bad_words_ids` if each of its words is a single
    /// token. Sorted.
    pub suppressed: Vec<u32>,
    /// [`SamplerConfig::repetition_penalty`]. transformers applies it to prompt and text, so the window should cover
    /// both.
    pub repetition_penalty: Option<f32>,
    /// Keys that would change how text is generated, and are not supported.
    pub not_obeyed: Vec<String>,
}

const BAD_WORDS: &str = "bad_words_ids";

const BEAMS: &str = "for beam search";
const ENCODERS: &str = "for models with an encoder";
const FORM: &str = "the form in which another program returns results";
const LENGTH: &str = "whoever generates says how much";
const ORIGIN: &str = "where the file comes from";
const SPEED: &str = "how another program computes the same";

/// The supported keys and values. All others are listed in [`GenerationConfig::not_obeyed`].
#[rustfmt::skip]
const KEYS: &[(&str, KeyRule)] = &[
    ("bos_token_id", Read),
    ("eos_token_id", Read),
    ("do_sample", Read),
    ("temperature", Read),
    ("top_k", Read),
    ("top_p", Read),
    ("min_p", Read),
    ("typical_p", Read),
    ("repetition_penalty", Read),
    ("suppress_tokens", Read),
    ("max_length", NoMatter(LENGTH)),
    ("max_new_tokens", NoMatter(LENGTH)),
    ("max_time", NoMatter(LENGTH)),
    ("min_length", Only(&[Number(0.0)])),
    ("min_new_tokens", Only(&[Number(0.0)])),
    ("stop_strings", Only(&[Empty])),
    ("num_return_sequences", Only(&[Number(1.0)])),
    ("num_beams", Only(&[Number(1.0)])),
    ("num_beam_groups", Only(&[Number(1.0)])),
    ("diversity_penalty", NoMatter(BEAMS)),
    ("length_penalty", NoMatter(BEAMS)),
    ("early_stopping", NoMatter(BEAMS)),
    ("low_memory", NoMatter(SPEED)),
    ("penalty_alpha", Only(&[Number(0.0)])),
    ("dola_layers", Only(&[Empty])),
    ("top_h", Only(&[])),
    ("epsilon_cutoff", Only(&[Number(0.0)])),
    ("eta_cutoff", Only(&[Number(0.0)])),
    ("no_repeat_ngram_size", Only(&[Number(0.0)])),
    ("bad_words_ids", Only(&[Empty])),
    ("force_words_ids", Only(&[Empty])),
    ("constraints", Only(&[Empty])),
    ("begin_suppress_tokens", Only(&[Empty])),
    ("sequence_bias", Only(&[Empty])),
    ("forced_bos_token_id", Only(&[])),
    ("forced_eos_token_id", Only(&[])),
    ("forced_decoder_ids", Only(&[Empty])),
    ("exponential_decay_length_penalty", Only(&[])),
    ("guidance_scale", Only(&[Number(1.0)])),
    ("token_healing", Only(&[Is(false)])),
    ("watermarking_config", Only(&[])),
    ("renormalize_logits", NoMatter("what is left after the filters is always normalised")),
    ("remove_invalid_values", NoMatter("logits that are not finite are an error")),
    ("encoder_repetition_penalty", NoMatter(ENCODERS)),
    ("encoder_no_repeat_ngram_size", NoMatter(ENCODERS)),
    ("decoder_start_token_id", NoMatter(ENCODERS)),
    ("pad_token_id", NoMatter("there is no padding")),
    ("use_cache", NoMatter(SPEED)),
    ("cache_implementation", NoMatter(SPEED)),
    ("cache_config", NoMatter(SPEED)),
    ("max_cache_len", NoMatter(SPEED)),
    ("return_legacy_cache", NoMatter(SPEED)),
    ("compile_config", NoMatter(SPEED)),
    ("disable_compile", NoMatter(SPEED)),
    ("use_mtp", NoMatter(SPEED)),
    ("is_assistant", NoMatter(SPEED)),
    ("num_assistant_tokens", NoMatter(SPEED)),
    ("num_assistant_tokens_schedule", NoMatter(SPEED)),
    ("assistant_confidence_threshold", NoMatter(SPEED)),
    ("assistant_early_exit", NoMatter(SPEED)),
    ("assistant_lookbehind", NoMatter(SPEED)),
    ("target_lookbehind", NoMatter(SPEED)),
    ("prompt_lookup_num_tokens", NoMatter(SPEED)),
    ("max_matching_ngram_size", NoMatter(SPEED)),
    ("output_attentions", NoMatter(FORM)),
    ("output_hidden_states", NoMatter(FORM)),
    ("output_scores", NoMatter(FORM)),
    ("output_logits", NoMatter(FORM)),
    ("return_dict_in_generate", NoMatter(FORM)),
    ("transformers_version", NoMatter(ORIGIN)),
    ("_from_model_config", NoMatter(ORIGIN)),
    ("_commit_hash", NoMatter(ORIGIN)),
    ("trust_remote_code", NoMatter(ORIGIN)),
];

impl GenerationConfig {
    /// Reads a `generation_config.json` of a model with `vocab_size` tokens. `null` means that a key is absent.
    ///
    /// # Errors
    /// A field of the wrong type or out of range.
    pub fn from_json(value: &Value, vocab_size: usize) -> Result<Self, ConfigError> {
        let f = Fields::top_level(value)?;
        let mut read = Self {
            bos: f.optional("bos_token_id", Fields::as_id)?,
            eos: f.ids("eos_token_id")?,
            temperature: f.optional("temperature", Fields::as_number)?.map(|x| x as f32),
            top_k: f.optional("top_k", Fields::as_size)?,
            top_p: f.optional("top_p", Fields::as_number)?.map(|x| x as f32),
            min_p: f.optional("min_p", Fields::as_number)?.map(|x| x as f32),
            typical_p: f.optional("typical_p", Fields::as_number)?.map(|x| x as f32),
            suppressed: f.ids("suppress_tokens")?,
            repetition_penalty: f.optional("repetition_penalty", Fields::as_number)?.map(|x| x as f32),
            not_obeyed: f.keys().filter(|key| !is_obeyed(key, value)).map(str::to_owned).collect(),
        };
        let words = single_tokens(&value[BAD_WORDS]).unwrap_or_default();
        let lists = [
            ("bos_token_id", read.bos.as_slice()),
            ("eos_token_id", &read.eos),
            ("suppress_tokens", &read.suppressed),
            (BAD_WORDS, &words),
        ];
        for (key, ids) in lists {
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
                return Err(ConfigError::invalid(key, id, format!("the vocabulary has {vocab_size} tokens")));
            }
        }
        // As in transformers, a text may end even if a bad word says that it must not.
        read.suppressed.extend(words.iter().filter(|id| !read.eos.contains(id)));
        read.suppressed.sort_unstable();
        read.suppressed.dedup();
        if let Err(SamplerError::Setting { field, value, allowed }) = read.sampler(&SamplerConfig::default()).check() {
            return Err(ConfigError::invalid(field, value, format!("it must be {allowed}")));
        }
        if f.optional("do_sample", Fields::as_flag)? == Some(false) {
            read.temperature = Some(0.0);
        }
        Ok(read)
    }

    /// The content of a `generation_config.json` of a model of `config`: the settings of sampling, and the tokens that
    /// begin and end a text. `None` if there are no settings of sampling.
    pub fn to_json(&self, config: &ModelConfig) -> Option<Value> {
        let mut map = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            value.map(|value| map.insert(key.to_owned(), value));
        };
        set("temperature", self.temperature.filter(|t| *t > 0.0).map(|t| json!(t)));
        set("do_sample", self.temperature.map(|t| json!(t > 0.0)));
        set("top_k", self.top_k.map(|k| json!(k)));
        set("top_p", self.top_p.map(|p| json!(p)));
        set("min_p", self.min_p.map(|p| json!(p)));
        set("typical_p", self.typical_p.map(|p| json!(p)));
        set("repetition_penalty", self.repetition_penalty.map(|p| json!(p)));
        set("suppress_tokens", (!self.suppressed.is_empty()).then(|| json!(self.suppressed)));
        if map.is_empty() {
            return None;
        }
        map.extend(config.bos.map(|id| ("bos_token_id".to_owned(), json!(id))));
        if !config.eos.is_empty() {
            map.insert("eos_token_id".to_owned(), json!(config.eos));
        }
        Some(Value::Object(map))
    }

    /// `usual`, overridden by the settings of the file.
    pub fn sampler(&self, usual: &SamplerConfig) -> SamplerConfig {
        SamplerConfig {
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_k: self.top_k.unwrap_or(usual.top_k),
            top_p: self.top_p.unwrap_or(usual.top_p),
            min_p: self.min_p.unwrap_or(usual.min_p),
            typical_p: self.typical_p.unwrap_or(usual.typical_p),
            logit_bias: [usual.logit_bias.clone(), self.suppressed.iter().copied().map(LogitBias::forbid).collect()]
                .concat(),
            repetition_penalty: self.repetition_penalty.unwrap_or(usual.repetition_penalty),
            ..usual.clone()
        }
    }
}

fn is_obeyed(key: &str, value: &Value) -> bool {
    if key == BAD_WORDS && single_tokens(&value[key]).is_some() {
        return true;
    }
    let rule = KEYS.iter().find(|(name, _)| *name == key).map(|(_, rule)| *rule);
    match rule {
        Some(Read | NoMatter(_) | KeyRule::Same(_)) => true,
        Some(Only(supported)) => [Null].iter().chain(supported).any(|supported| supported.is(&value[key])),
        None => false,
    }
}

/// The tokens of a list of words, each of a single token; none if it is another value.
fn single_tokens(words: &Value) -> Option<Vec<u32>> {
    let token = |word: &Value| match word.as_array()?.as_slice() {
        [token] => Fields::as_id(token).ok(),
        _ => None,
    };
    words.as_array()?.iter().map(token).collect()
}
