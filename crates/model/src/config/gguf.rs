//! The metadata of GGUF files: which keys say which features of a model.
//!
//! The keys are those of llama.cpp (`docs/gguf.md` of ggml, `gguf-py/gguf/constants.py` of llama.cpp). Each begins with
//! the name of the architecture, here left out. Some features have no key: an architecture implies them, or the tensors
//! of the file show them.

mod experts;
mod gemma;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use smallmind_checkpoint::{
    CheckpointError, FromGguf, GgufFault, GgufFile, GgufMetadata, GgufValue, GgufWriter, TensorSource,
};
use smallmind_graph::op::{Gelu, Llama3Scaling, LongRopeScaling, RopeScaling, YarnScaling};
use smallmind_kernels::rope::frequencies;

use super::windows::WindowKeys;
use super::{
    AttentionWindows, Biases, ConfigError, Family, Head, Mlp, ModelConfig, NormKind, Positions, Residual, RopeConfig,
    UnknownKeys,
};
use crate::{GenerationConfig, ModelError};

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

/// The divisors of frequencies that Llama 3 files hold as a tensor.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Those of LongRoPE.
pub(crate) const LONG_FACTORS: &str = "rope_factors_long.weight";
/// Those of LongRoPE within the original context.
pub(crate) const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// The tensors that belong to the configuration.
pub(crate) const ROPE_TENSORS: [&str; 3] = [ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS];

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
        ConfigError::invalid(&self.key(key), got, why).in_file(self.file.path()).into()
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
    let invalid = |key: &str, got: &str, why: String| ConfigError::invalid(key, got, why).in_file(file.path());
    if let Some(kind) = metadata.value::<&str>("general.type")?.filter(|kind| *kind != "model") {
        return Err(invalid("general.type", kind, "a file of the type `model` is needed".to_owned()).into());
    }
    let family = Family::of_architecture(name);
    let refused = || invalid(ARCHITECTURE, name, format!("supported are {}", architectures()));
    let family = family.ok_or_else(refused)?;
    Ok(experts::family(&Keys { file, family, read: RefCell::default() })?)
}

fn read_all(file: &GgufFile) -> Result<(Keys<'_>, ModelConfig, GenerationConfig), ModelError> {
    let family = family(file)?;
    let keys = Keys { file, family, read: RefCell::default() };
    let config = read_config(&keys)?;
    let generation = read_generation(&keys, config.vocab_size)?;
    let config = ModelConfig { bos: generation.bos, eos: generation.eos.clone(), ..config };
    config.check().map_err(|error| error.in_file(file.path()))?;
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
        None => return Err(ConfigError::heads_must_divide(heads, d_model).in_file(keys.file.path()).into()),
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
        positions: positions(keys, [layers, context, head_dim])?,
        // 1 is another factor than none.
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

fn positions(keys: &Keys<'_>, [layers, context, head_dim]: [usize; 3]) -> Result<Positions, ModelError> {
    if keys.family == Family::Gpt2 {
        return Ok(Positions::Learned);
    }
    let dim = keys.or("rope.dimension_count", head_dim)?;
    let theta = f64::from(keys.or("rope.freq_base", 10_000.0f32)?);
    let dim_of = (dim != head_dim).then_some(dim);
    if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
        let why = format!("an even number of a head's {head_dim} features is rotated");
        return Err(keys.invalid("rope.dimension_count", dim, why));
    }
    if keys.family.is_interleaved() && dim != head_dim {
        let why = format!("all {head_dim} features of a head must be rotated in this architecture");
        return Err(keys.invalid("rope.dimension_count", dim, why));
    }
    let rope = RopeConfig { theta, dim: dim_of, scaling: scaling(keys, context, dim, theta)? };
    if keys.family != Family::SmolLm3 {
        return Ok(Positions::Rope(rope));
    }
    super::check::layers(layers).map_err(|error| error.in_file(keys.file.path()))?;
    // llama.cpp rotates in all layers but every fourth; no key says it.
    let of_layer = |layer: usize| (!(layer + 1).is_multiple_of(NO_ROPE_EVERY)).then(|| rope.clone());
    Ok(Positions::RopeByLayer((0..layers).map(of_layer).collect()))
}

/// Every layer of so many has no rotary positions in a SmolLM3 of a GGUF file.
const NO_ROPE_EVERY: usize = 4;

fn scaling(keys: &Keys<'_>, context: usize, dim: usize, theta: f64) -> Result<Option<RopeScaling>, ModelError> {
    let kind = keys.optional::<&str>("rope.scaling.type")?;
    // The second is the older name.
    let factor = keys.optional::<f32>("rope.scaling.factor")?.or(keys.optional::<f32>("rope.scale_linear")?);
    let factor = factor.map(f64::from).filter(|factor| *factor != 0.0 && *factor != 1.0);
    let attention = f64::from(keys.or("rope.scaling.attn_factor", 1.0f32)?);
    let original = keys.or("rope.scaling.original_context_length", context)?;
    if keys.has(LONG_FACTORS) || keys.has(SHORT_FACTORS) {
        let [short, long] = [factors(keys, SHORT_FACTORS, dim)?, factors(keys, LONG_FACTORS, dim)?];
        let long = LongRopeScaling { short, long, attention_factor: attention, original_max_position: original };
        return Ok(Some(RopeScaling::LongRope(Arc::new(long))));
    }
    let refuse = |why: &str| Err(keys.invalid("rope.scaling.type", kind.unwrap_or("linear"), why));
    let scaling = match (kind, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => None,
        (None | Some("linear"), Some(factor)) => Some(RopeScaling::Linear { factor }),
        (Some("yarn"), Some(factor)) => Some(RopeScaling::Yarn(yarn(keys, factor, attention, original)?)),
        (Some("yarn"), None) => None,
        (Some("longrope"), _) => return refuse("the file has no tensors with the factors of the frequencies"),
        (Some(_), _) => return refuse("none, linear, yarn and longrope are supported"),
    };
    if !keys.has(ROPE_FACTORS) {
        return Ok(scaling);
    }
    if scaling.is_some() {
        return refuse("beside the tensor rope_freqs.weight only none is supported");
    }
    Ok(Some(of_factors(factors(keys, ROPE_FACTORS, dim)?, context, theta)))
}

fn yarn(keys: &Keys<'_>, factor: f64, attention: f64, original: usize) -> Result<YarnScaling, ModelError> {
    keys.only("rope.scaling.yarn_ext_factor", 1.0f32)?;
    keys.only("rope.scaling.yarn_log_multiplier", 0.0f32)?;
    Ok(YarnScaling {
        factor,
        attention_factor: attention * YarnScaling::usual_attention_factor(factor),
        beta_fast: f64::from(keys.or("rope.scaling.yarn_beta_fast", 32.0f32)?),
        beta_slow: f64::from(keys.or("rope.scaling.yarn_beta_slow", 1.0f32)?),
        original_max_position: original,
        truncate: true,
    })
}

/// The divisors of the frequencies `[dim / 2]` in a tensor.
fn factors(keys: &Keys<'_>, tensor: &str, dim: usize) -> Result<Vec<f64>, ModelError> {
    let found = keys.file.tensor(tensor)?;
    if found.elements() != dim / 2 {
        return Err(ModelError::TensorShape {
            path: keys.file.path().to_owned(),
            name: tensor.to_owned(),
            got: found.shape.to_vec(),
            expected: vec![dim / 2],
        });
    }
    let mut factors = vec![0.0; dim / 2];
    keys.file.read_finite_f32(tensor, &mut factors)?;
    Ok(factors.into_iter().map(f64::from).collect())
}

/// The scaling of given divisors: Llama 3's, if it has a setting with which they agree, so that other files can express
/// the model; else the divisors themselves.
fn of_factors(factors: Vec<f64>, context: usize, theta: f64) -> RopeScaling {
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let agrees = |scaling: &RopeScaling| {
        let expected = divisors(scaling, 2 * factors.len(), theta, context);
        factors.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-5 * b)
    };
    let with_original = |log: u32| {
        let original_max_position = 1 << log;
        let (low_freq_factor, high_freq_factor) = (1.0, 4.0);
        RopeScaling::Llama3(Llama3Scaling { factor, low_freq_factor, high_freq_factor, original_max_position })
    };
    // The published models have 2^13.
    let known = (5..24).map(with_original).find(agrees);
    known.unwrap_or_else(|| {
        let short = factors.clone();
        let whole = LongRopeScaling { short, long: factors, attention_factor: 1.0, original_max_position: context };
        RopeScaling::LongRope(Arc::new(whole))
    })
}

/// What a scaling divides the frequencies `[dim / 2]` by, in a table of `positions`.
pub(crate) fn divisors(scaling: &RopeScaling, dim: usize, theta: f64, positions: usize) -> Vec<f64> {
    let (plain, scaled) = (frequencies(dim, theta, None, 1), frequencies(dim, theta, Some(scaling), positions));
    plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect()
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
    let sampling = |key: &str| metadata.value::<f32>(&format!("general.sampling.{key}"));
    let known = ["temp", "top_p", "min_p", "penalty_repeat", "top_k"];
    let others = metadata.iter().filter_map(|(key, _)| key.strip_prefix("general.sampling."));
    let not_obeyed = others.filter(|key| !known.contains(key)).map(|key| format!("general.sampling.{key}")).collect();
    Ok(GenerationConfig {
        bos: token("bos")?,
        eos,
        temperature: sampling("temp")?,
        top_k: metadata.value::<usize>("general.sampling.top_k")?,
        top_p: sampling("top_p")?,
        min_p: sampling("min_p")?,
        repetition_penalty: sampling("penalty_repeat")?,
        not_obeyed,
        ..GenerationConfig::default()
    })
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
        write_rope(c, rope, &mut set)?;
    }
    Ok(())
}

/// The GELU of a family in files that don't say it.
fn usual_gelu(family: Family) -> Gelu {
    if family == Family::Gpt2 { Gelu::Tanh } else { Gelu::Exact }
}

/// Sets a key of the architecture.
type Set<'w> = dyn FnMut(&str, GgufValue) -> Result<(), CheckpointError> + 'w;

fn write_rope(c: &ModelConfig, rope: &RopeConfig, set: &mut Set<'_>) -> Result<(), CheckpointError> {
    set("rope.dimension_count", GgufValue::U32(rope.dim.unwrap_or(c.head_dim) as u32))?;
    set("rope.freq_base", GgufValue::F32(rope.theta as f32))?;
    let float = |x: f64| GgufValue::F32(x as f32);
    match &rope.scaling {
        // Llama 3's is in the tensor `rope_freqs.weight`; `check` refuses Dynamic.
        None | Some(RopeScaling::Llama3(_) | RopeScaling::Dynamic { .. }) => {}
        Some(RopeScaling::Linear { factor }) => {
            set("rope.scaling.type", GgufValue::String("linear".into()))?;
            set("rope.scaling.factor", float(*factor))?;
        }
        Some(RopeScaling::Yarn(yarn)) => {
            set("rope.scaling.type", GgufValue::String("yarn".into()))?;
            set("rope.scaling.factor", float(yarn.factor))?;
            set("rope.scaling.original_context_length", GgufValue::U32(yarn.original_max_position as u32))?;
            let attention = yarn.attention_factor / YarnScaling::usual_attention_factor(yarn.factor);
            if (attention - 1.0).abs() > 1e-9 {
                set("rope.scaling.attn_factor", float(attention))?;
            }
            if (yarn.beta_fast, yarn.beta_slow) != (32.0, 1.0) {
                set("rope.scaling.yarn_beta_fast", float(yarn.beta_fast))?;
                set("rope.scaling.yarn_beta_slow", float(yarn.beta_slow))?;
            }
        }
        Some(RopeScaling::LongRope(long)) => {
            set("rope.scaling.type", GgufValue::String("longrope".into()))?;
            set("rope.scaling.original_context_length", GgufValue::U32(long.original_max_position as u32))?;
            set("rope.scaling.attn_factor", float(long.attention_factor))?;
        }
    }
    Ok(())
}

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
    if c.eos.len() > 3 {
        return refuse("eos", format!("{:?}", c.eos), "at most three tokens");
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
        let is_usual = |layer: usize| c.positions.rope_of(layer).is_none() == (layer + 1).is_multiple_of(NO_ROPE_EVERY);
        if !(0..c.layers).all(is_usual) {
            return refuse("positions", "rope in other layers".to_owned(), "rope in all layers but every fourth");
        }
    }
    Ok(())
}
