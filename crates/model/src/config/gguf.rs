//! The metadata of GGUF files: which keys say which features of a model.
//!
//! The keys are those of llama.cpp (`docs/gguf.md` of ggml, `gguf-py/gguf/constants.py` of llama.cpp). Each begins with
//! the name of the architecture, here left out. Some features have no key: an architecture implies them, or the tensors
//! of the file show them.

mod experts;
mod gemma;
mod rope;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use smallmind_checkpoint::{
    CheckpointError, FromGguf, GgufFault, GgufFile, GgufMetadata, GgufValue, GgufWriter, TensorSource,
};
use smallmind_graph::op::{Gelu, RopeScaling};

use super::windows::WindowKeys;
use super::{AttentionWindows, Biases, ConfigError, Family, Head, Mlp, ModelConfig, NormKind, Residual, UnknownKeys};
use crate::sampler::{SamplerConfig, SamplerError};
use crate::{GenerationConfig, ModelError};

pub(crate) use rope::{LONG_FACTORS, ROPE_FACTORS, ROPE_TENSORS, SHORT_FACTORS, divisors};

/// The key of the architecture's name.
pub(crate) const ARCHITECTURE: &str = "general.architecture";

/// Keys that change nothing here, and why.
const NO_MATTER: &[(&str, &str)] = &[
    ("rope.scaling.finetuned", "where the file comes from"),
    ("rope.scaling.original_context_length", "nothing is scaled"),
    ("tensor_data_layout", "the architecture says it"),
    ("attention.key_length_swa", "it repeats attention.key_length"),
    ("attention.value_length_swa", "it repeats attention.value_length"),
];

impl Family {
    /// The name of the architecture in GGUF files.
    pub(crate) fn architecture(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama | Family::Mistral | Family::Mixtral => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Olmo2 => "olmo2",
            Family::GptNeoX => "gptneox",
            Family::StableLm => "stablelm",
            Family::Granite => "granite",
            Family::GraniteMoe => "granitemoe",
            Family::Qwen3Moe => "qwen3moe",
            Family::Olmoe => "olmoe",
            Family::SmolLm3 => "smollm3",
            Family::Phi3 => "phi3",
            Family::Gemma => "gemma",
            Family::Gemma2 => "gemma2",
            Family::Gemma3 => "gemma3",
        }
    }

    /// Whether files hold queries and keys in the order of interleaved rotary positions: the two features of a pair
    /// adjacent, not half a head apart.
    pub(crate) fn is_interleaved(self) -> bool {
        use Family::{Granite, GraniteMoe, Llama, Mistral, Mixtral, SmolLm3};
        matches!(self, Llama | Mistral | Mixtral | Granite | GraniteMoe | SmolLm3)
    }

    fn of_architecture(name: &str) -> Option<Self> {
        Family::ALL.into_iter().find(|family| family.architecture() == name)
    }
}

/// Fields of a configuration, and the keys that say them.
const NAMES: &[(&str, &str)] = &[
    ("context", "context_length"),
    ("d_model", "embedding_length"),
    ("layers", "block_count"),
    ("heads", "attention.head_count"),
    ("kv_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("d_ff", "feed_forward_length"),
    ("experts", "expert_count"),
    ("experts per token", "expert_used_count"),
    ("attention_windows", "attention.sliding_window"),
    ("attention_scale", "attention.scale"),
    ("attention_softcap", "attn_logit_softcapping"),
    ("logit_softcap", "final_logit_softcapping"),
    ("residual_scale", "residual_scale"),
    ("embedding_scale", "embedding_scale"),
    ("logit_divisor", "logit_scale"),
    ("rope_dim", "rope.dimension_count"),
    ("rope_theta", "rope.freq_base"),
    ("rope_scaling.factor", "rope.scaling.factor"),
    ("rope_scaling.attention_factor", "rope.scaling.attn_factor"),
    ("rope_scaling.beta_fast", "rope.scaling.yarn_beta_fast"),
    ("rope_scaling.beta_slow", "rope.scaling.yarn_beta_slow"),
    ("rope_scaling.original_max_position_embeddings", "rope.scaling.original_context_length"),
];

/// The keys of an architecture, which remembers those that were read.
struct Keys<'f> {
    file: &'f GgufFile,
    family: Family,
    read: RefCell<BTreeSet<String>>,
}

impl<'f> Keys<'f> {
    fn metadata(&self) -> &'f GgufMetadata {
        self.file.metadata()
    }

    /// The whole key.
    fn key(&self, key: &str) -> String {
        let key = format!("{}.{key}", self.family.architecture());
        self.read.borrow_mut().insert(key.clone());
        key
    }

    fn optional<T: FromGguf<'f>>(&self, key: &str) -> Result<Option<T>, CheckpointError> {
        self.metadata().value(&self.key(key))
    }

    fn required<T: FromGguf<'f>>(&self, key: &str) -> Result<T, CheckpointError> {
        self.metadata().required(&self.key(key))
    }

    fn or<T: FromGguf<'f>>(&self, key: &str, default: T) -> Result<T, CheckpointError> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// A size, which files may state for each layer by itself: it must be the same in all.
    fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let whole = self.key(key);
        if !matches!(self.metadata().get(&whole), Some(GgufValue::Array(_))) {
            return Ok(self.metadata().value(&whole)?);
        }
        let all: Vec<usize> = self.metadata().required(&whole)?;
        match all.first() {
            Some(first) if all.iter().all(|size| size == first) => Ok(Some(*first)),
            _ => Err(self.invalid(key, format!("{all:?}"), "the same number in all layers is supported")),
        }
    }

    /// As [`size`](Self::size), of a key that must be there.
    fn required_size(&self, key: &str) -> Result<usize, ModelError> {
        match self.size(key)? {
            Some(size) => Ok(size),
            // The error of a missing key.
            None => Ok(self.required(key)?),
        }
    }

    fn factor(&self, key: &str) -> Result<Option<f32>, CheckpointError> {
        // Some files state 0 where there is none.
        Ok(self.optional::<f32>(key)?.filter(|factor| *factor != 0.0))
    }

    fn invalid(&self, key: &str, got: impl fmt::Display, why: impl Into<String>) -> ModelError {
        invalid(self.file, &self.key(key), got, why)
    }

    /// The error of a field of the configuration as one of the key that says it.
    fn in_terms_of(&self, error: ConfigError) -> ModelError {
        let ConfigError::Invalid { key: field, got, why, .. } = error else {
            return error.in_file(self.file.path()).into();
        };
        let key = match field.as_str() {
            "norm_eps" => Some(norm_eps(self.family)),
            field => NAMES.iter().find(|(name, _)| *name == field).map(|(_, key)| *key),
        };
        match key {
            Some(key) => self.invalid(key, got, why),
            None => ConfigError::invalid(&field, got, why).in_file(self.file.path()).into(),
        }
    }

    /// Refuses a value of a key other than the one that is supported.
    fn only<T: FromGguf<'f> + PartialEq + fmt::Display>(&self, key: &str, supported: T) -> Result<(), ModelError> {
        match self.optional::<T>(key)? {
            Some(value) if value != supported => {
                Err(self.invalid(key, value, format!("only {supported} is supported")))
            }
            _ => Ok(()),
        }
    }

    /// The keys of the architecture that nobody has asked for.
    fn unknown(&self) -> Vec<String> {
        let prefix = format!("{}.", self.family.architecture());
        let read = self.read.borrow();
        let all = self.metadata().iter().map(|(key, _)| key).filter(|key| !read.contains(*key));
        let of_architecture = all.filter_map(|key| Some((key, key.strip_prefix(&prefix)?)));
        let unknown = of_architecture.filter(|(_, rest)| !NO_MATTER.iter().any(|(key, _)| key == rest));
        unknown.map(|(key, _)| key.to_owned()).collect()
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.contains(tensor)
    }

    fn has_bias(&self, layers: &[&str]) -> bool {
        layers.iter().any(|layer| self.has(&format!("blk.0.{layer}.bias")))
    }
}

/// The error for the value of a key; of what follows from others if the file has no such key.
fn invalid(file: &GgufFile, key: &str, got: impl fmt::Display, why: impl Into<String>) -> ModelError {
    /// A value from a file may be long.
    const MAX_SHOWN: usize = 40;
    if file.metadata().get(key).is_none() {
        return ConfigError::invalid(key, got, why).in_file(file.path()).into();
    }
    let got = got.to_string().chars().take(MAX_SHOWN).collect();
    file.metadata().fault(key, GgufFault::Invalid { got, why: why.into() }).into()
}

/// Reads the configuration of a GGUF file, and what it says about generating text.
///
/// # Errors
/// An architecture that isn't supported; keys that are missing, of another type, unknown or with a value that isn't
/// supported.
pub(crate) fn read(file: &GgufFile, unknown: UnknownKeys) -> Result<(ModelConfig, GenerationConfig), ModelError> {
    let (keys, config, generation) = read_all(file)?;
    let not_known = keys.unknown();
    if unknown == UnknownKeys::Refuse && !not_known.is_empty() {
        return Err(ConfigError::Unknown { path: Some(file.path().to_owned()), keys: not_known }.into());
    }
    Ok((config, generation))
}

/// The keys of the file's architecture that are not known.
///
/// # Errors
/// As [`read`].
pub(crate) fn unknown_keys(file: &GgufFile) -> Result<Vec<String>, ModelError> {
    Ok(read_all(file)?.0.unknown())
}

/// The family of a file's architecture.
///
/// # Errors
/// A file without one, or with one that isn't supported; a file of another type than a model.
pub(crate) fn family(file: &GgufFile) -> Result<Family, ModelError> {
    let metadata = file.metadata();
    let name: &str = metadata.required(ARCHITECTURE)?;
    if let Some(kind) = metadata.value::<&str>("general.type")?.filter(|kind| *kind != "model") {
        return Err(invalid(file, "general.type", kind, "a file of the type `model` is needed"));
    }
    if let Some(kind) = metadata.value::<&str>("adapter.type")? {
        return Err(invalid(file, "adapter.type", kind, "this is a change to a model, not a model"));
    }
    let family = Family::of_architecture(name);
    let refused = || invalid(file, ARCHITECTURE, name, format!("supported are {}", architectures()));
    let family = family.ok_or_else(refused)?;
    Ok(experts::family(&Keys { file, family, read: RefCell::default() })?)
}

fn read_all(file: &GgufFile) -> Result<(Keys<'_>, ModelConfig, GenerationConfig), ModelError> {
    let family = family(file)?;
    let keys = Keys { file, family, read: RefCell::default() };
    let config = read_config(&keys)?;
    let generation = read_generation(&keys, config.vocab_size)?;
    let config = ModelConfig { bos: generation.bos, eos: generation.eos.clone(), ..config };
    config.check().map_err(|error| keys.in_terms_of(error))?;
    Ok((keys, config, generation))
}

/// The names of all architectures, as a sentence lists them.
fn architectures() -> String {
    let mut names: Vec<&str> = Family::ALL.into_iter().map(Family::architecture).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn read_config(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
    let family = keys.family;
    keys.only("attention.causal", true)?;
    keys.only("attention.max_alibi_bias", 0.0f32)?;
    keys.only("attention.clamp_kqv", 0.0f32)?;
    if matches!(family, Family::Granite | Family::GraniteMoe) {
        // llama.cpp's switch of the rotation for these.
        keys.only("rope.scaling.finetuned", true)?;
    }
    let layers = keys.required("block_count")?;
    let d_model: usize = keys.required("embedding_length")?;
    let heads = keys.required_size("attention.head_count")?;
    let head_dim = match keys.size("attention.key_length")? {
        Some(dim) => dim,
        None if heads > 0 && d_model.is_multiple_of(heads) => d_model / heads,
        None => return Err(keys.in_terms_of(ConfigError::heads_must_divide(heads, d_model))),
    };
    keys.only("attention.value_length", head_dim)?;
    let context = keys.required("context_length")?;
    let config = ModelConfig {
        vocab_size: vocabulary(keys)?,
        context,
        d_model,
        layers,
        heads,
        kv_heads: keys.size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        d_ff: experts::width(keys)?,
        experts: experts::read(keys)?,
        positions: rope::positions(keys, [layers, context, head_dim])?,
        // Without the key scores are multiplied by 1/√head_dim, so a stated 1 must not be left out; 0 stands for no key.
        attention_scale: keys.optional::<f32>("attention.scale")?.filter(|scale| *scale != 0.0),
        attention_windows: windows(keys, context)?,
        attention_softcap: keys.factor("attn_logit_softcapping")?,
        norm: family.norm(),
        norm_eps: keys.required(norm_eps(family))?,
        norm_placement: family.norm_placement(),
        qk_norm: family.qk_norm(),
        residual: residual(keys)?,
        residual_scale: keys.factor("residual_scale")?,
        embedding_scale: match family {
            _ if family.is_gemma() => Some((d_model as f32).sqrt()),
            _ => keys.factor("embedding_scale")?,
        },
        logit_divisor: keys.factor("logit_scale")?,
        logit_softcap: keys.factor("final_logit_softcapping")?,
        mlp: mlp(keys)?,
        biases: Biases {
            qkv: keys.has_bias(&["attn_qkv", "attn_q"]),
            attn_out: keys.has_bias(&["attn_output"]),
            mlp: keys.has_bias(&["ffn_up", "ffn_down"]),
        },
        head: if keys.has("output.weight") { Head::Untied } else { Head::Tied },
        ..ModelConfig::default()
    };
    if matches!(family, Family::Gemma2 | Family::Gemma3) { gemma::with_own_keys(keys, config) } else { Ok(config) }
}

/// The key of ε.
fn norm_eps(family: Family) -> &'static str {
    match family.norm() {
        NormKind::RmsNorm => "attention.layer_norm_rms_epsilon",
        NormKind::LayerNorm { .. } => "attention.layer_norm_epsilon",
    }
}

/// The tokens of the vocabulary: the rows of the embeddings.
fn vocabulary(keys: &Keys<'_>) -> Result<usize, ModelError> {
    let embeddings = keys.file.tensor("token_embd.weight")?;
    let rows = embeddings.rows();
    keys.only("vocab_size", rows)?;
    Ok(rows)
}

fn mlp(keys: &Keys<'_>) -> Result<Mlp, ModelError> {
    // Not of llama.cpp, whose files have one kind of GELU: GPT-2's tanh form for all.
    let gelu = match keys.optional::<&str>("hidden_activation")? {
        Some("gelu") => Some(Gelu::Exact),
        Some("gelu_new" | "gelu_pytorch_tanh") => Some(Gelu::Tanh),
        Some(other) => return Err(keys.invalid("hidden_activation", other, "gelu and gelu_new are supported")),
        None => None,
    };
    Ok(match keys.family {
        Family::Gpt2 => Mlp::Gelu(gelu.unwrap_or(Gelu::Tanh)),
        // The published models were trained with the exact form.
        Family::GptNeoX => Mlp::Gelu(gelu.unwrap_or(Gelu::Exact)),
        _ if keys.family.is_gemma() => Mlp::GeGlu(Gelu::Tanh),
        _ => Mlp::SwiGlu,
    })
}

fn residual(keys: &Keys<'_>) -> Result<Residual, ModelError> {
    const KEY: &str = "use_parallel_residual";
    Ok(match keys.family {
        Family::GptNeoX if keys.or(KEY, true)? => Residual::Parallel { shared_norm: false },
        // llama.cpp takes the absence of the second norm for it.
        Family::StableLm if keys.or(KEY, false)? || !keys.has("blk.0.ffn_norm.weight") => {
            Residual::Parallel { shared_norm: true }
        }
        _ => Residual::Sequential,
    })
}

fn windows(keys: &Keys<'_>, context: usize) -> Result<AttentionWindows, ModelError> {
    if !matches!(keys.family, Family::Phi3) {
        return Ok(AttentionWindows::None);
    }
    let window = keys.optional::<usize>("attention.sliding_window")?;
    Ok(window.filter(|window| *window > 0 && *window < context).map_or(AttentionWindows::None, AttentionWindows::All))
}

/// The tokens that begin and end a text, and settings of sampling.
fn read_generation(keys: &Keys<'_>, vocab_size: usize) -> Result<GenerationConfig, ModelError> {
    let metadata = keys.metadata();
    let token = |name: &str| -> Result<Option<u32>, ModelError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match metadata.value::<u32>(&key)? {
            Some(id) if id as usize >= vocab_size => {
                let fault = GgufFault::OutOfRange { value: id.to_string(), wanted: "the vocabulary", index: None };
                Err(metadata.fault(&key, fault).into())
            }
            id => Ok(id),
        }
    };
    let mut eos: Vec<u32> = Vec::new();
    for name in ["eos", "eot", "eom"] {
        eos.extend(token(name)?.filter(|id| !eos.contains(id)));
    }
    let generation = GenerationConfig { bos: token("bos")?, eos, ..sampling(metadata)? };
    Ok(generation)
}

/// The key of each setting of sampling, and the setting.
const SAMPLING: [(&str, &str); 5] = [
    ("temp", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("penalty_repeat", "repetition_penalty"),
];

/// The settings of sampling.
///
/// # Errors
/// A value of another type, or out of its range.
fn sampling(metadata: &GgufMetadata) -> Result<GenerationConfig, CheckpointError> {
    let whole = |key: &str| format!("general.sampling.{key}");
    let number = |key: &str| metadata.value::<f32>(&whole(key));
    let others = metadata.iter().filter_map(|(key, _)| key.strip_prefix("general.sampling."));
    let not_obeyed = others.filter(|key| !SAMPLING.iter().any(|(known, _)| known == key)).map(whole).collect();
    let generation = GenerationConfig {
        temperature: number("temp")?,
        // As in llama.cpp, numbers below 1 keep all tokens.
        top_k: metadata.value::<i64>(&whole("top_k"))?.map(|k| usize::try_from(k).unwrap_or(0)),
        top_p: number("top_p")?,
        min_p: number("min_p")?,
        repetition_penalty: number("penalty_repeat")?,
        not_obeyed,
        ..GenerationConfig::default()
    };
    match generation.sampler(&SamplerConfig::default()).check() {
        Err(SamplerError::Setting { field, value, allowed }) => {
            let key = SAMPLING.iter().find(|(_, setting)| *setting == field).map_or(field, |(key, _)| key);
            Err(metadata.fault(
                &whole(key),
                GgufFault::Invalid { got: value.to_string(), why: format!("it must be {allowed}") },
            ))
        }
        _ => Ok(generation),
    }
}

/// Sets the keys of a configuration.
///
/// # Errors
/// A key that can't be set. The model must pass [`check`].
pub(crate) fn write(c: &ModelConfig, family: Family, writer: &mut GgufWriter<'_>) -> Result<(), ModelError> {
    let architecture = family.architecture();
    writer.set(ARCHITECTURE, GgufValue::String(architecture.into()))?;
    let mut set = |key: &str, value: GgufValue| -> Result<(), CheckpointError> {
        writer.set(&format!("{architecture}.{key}"), value).map(|_| ())
    };
    // Sizes are below 2^24: see `ModelConfig::check`.
    let size = |n: usize| GgufValue::U32(n as u32);
    set("vocab_size", size(c.vocab_size))?;
    set("context_length", size(c.context))?;
    set("embedding_length", size(c.d_model))?;
    set("block_count", size(c.layers))?;
    set("feed_forward_length", size(c.d_ff))?;
    set("attention.head_count", size(c.heads))?;
    set("attention.head_count_kv", size(c.kv_heads))?;
    set("attention.key_length", size(c.head_dim))?;
    set("attention.value_length", size(c.head_dim))?;
    set(norm_eps(family), GgufValue::F32(c.norm_eps))?;
    if matches!(family, Family::GptNeoX | Family::StableLm) {
        set("use_parallel_residual", GgufValue::Bool(c.residual != Residual::Sequential))?;
    }
    if matches!(c.mlp, Mlp::Gelu(kind) if kind != usual_gelu(family)) {
        let name = if matches!(c.mlp, Mlp::Gelu(Gelu::Exact)) { "gelu" } else { "gelu_new" };
        set("hidden_activation", GgufValue::String(name.into()))?;
    }
    experts::write(c, family, &mut set)?;
    if family.multiplies() {
        set("attention.scale", GgufValue::F32(c.attention_heads().scale))?;
        set("residual_scale", GgufValue::F32(c.residual_scale.unwrap_or(1.0)))?;
        set("embedding_scale", GgufValue::F32(c.embedding_scale.unwrap_or(1.0)))?;
        set("logit_scale", GgufValue::F32(c.logit_divisor.unwrap_or(1.0)))?;
    }
    if let (Family::Phi3, AttentionWindows::All(window)) = (family, &c.attention_windows) {
        set("attention.sliding_window", size(*window))?;
    }
    if matches!(family, Family::Gemma2 | Family::Gemma3) {
        gemma::write(c, family, &mut set)?;
    }
    if let Some(rope) = super::gemma::global(c) {
        rope::write(c, rope, &mut set)?;
    }
    Ok(())
}

/// The GELU of a family in files that don't say it.
fn usual_gelu(family: Family) -> Gelu {
    if family == Family::Gpt2 { Gelu::Tanh } else { Gelu::Exact }
}

/// Sets a key of the architecture.
type Set<'w> = dyn FnMut(&str, GgufValue) -> Result<(), CheckpointError> + 'w;

/// Refuses what a GGUF file of the architecture can't express, although files of the family can.
///
/// # Errors
/// [`ConfigError::NotStorable`].
pub(crate) fn check(c: &ModelConfig, family: Family) -> Result<(), ConfigError> {
    let refuse = |key, got: String, takes: &str| {
        let takes = format!("{takes} in a GGUF file");
        Err(ConfigError::NotStorable { key, got, model_type: family.architecture(), takes })
    };
    experts::check(c, family)?;
    if matches!(family, Family::Gemma2 | Family::Gemma3) {
        return gemma::check(c, family);
    }
    let can_have_windows = family.windows() != WindowKeys::None && family == Family::Phi3;
    if c.attention_windows != AttentionWindows::None && !can_have_windows {
        return refuse("attention_windows", format!("{:?}", c.attention_windows), "None");
    }
    let rope = (0..c.layers).find_map(|layer| c.positions.rope_of(layer));
    match rope.and_then(|rope| rope.scaling.as_ref()) {
        Some(scaling @ RopeScaling::Dynamic { .. }) => {
            return refuse("rope_scaling", format!("{scaling:?}"), "linear, llama3, yarn or longrope");
        }
        Some(RopeScaling::Yarn(yarn)) if !yarn.truncate => {
            return refuse("rope_scaling", format!("{yarn:?}"), "yarn with `truncate`");
        }
        _ => {}
    }
    if family == Family::SmolLm3 {
        let is_usual =
            |layer: usize| c.positions.rope_of(layer).is_none() == (layer + 1).is_multiple_of(rope::NO_ROPE_EVERY);
        if !(0..c.layers).all(is_usual) {
            return refuse("positions", "rope in other layers".to_owned(), "rope in all layers but every fourth");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use smallmind_checkpoint::parse_gguf_header;

    use super::*;

    fn sampling_of(key: &str, value: GgufValue) -> Result<GenerationConfig, String> {
        let mut writer = GgufWriter::new();
        writer.set(&format!("general.sampling.{key}"), value).unwrap();
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes).unwrap();
        sampling(&parse_gguf_header("m.gguf".as_ref(), &bytes).unwrap().metadata).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_of_sampling_are_read_in_their_ranges() {
        assert_eq!(sampling_of("top_k", GgufValue::I32(-1)).unwrap().top_k, Some(0), "all tokens");
        assert_eq!(sampling_of("top_k", GgufValue::I32(40)).unwrap().top_k, Some(40));
        assert_eq!(sampling_of("min_p", GgufValue::F32(0.5)).unwrap().min_p, Some(0.5));
        assert_eq!(sampling_of("mirostat", GgufValue::I32(2)).unwrap().not_obeyed, ["general.sampling.mirostat"]);
        for (key, value) in [
            ("temp", -0.5),
            ("temp", f32::NAN),
            ("top_p", 1.5),
            ("top_p", 0.0),
            ("min_p", -0.1),
            ("penalty_repeat", 0.0),
        ] {
            let error = sampling_of(key, GgufValue::F32(value)).unwrap_err();
            let named = [format!("general.sampling.{key}"), format!("the value is {value}: "), "byte".to_owned()];
            assert!(named.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
