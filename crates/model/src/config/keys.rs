//! The keys of `config.json`: which are read, which don't matter, and which are supported only with certain values.
//!
//! A key that is not in the table is refused by name, since it may change what the model computes. A value of `null`
//! means that the key is not set. `benchmarks/config_keys.py` reads this table and checks every line against what
//! transformers computes.

use serde_json::{Map, Value};

use super::error::kind;
use super::{ConfigError, Family};

/// What a key of `config.json` means for a family of models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyRule {
    /// It is read, and its value is checked when it is read.
    Read,
    /// It does not change what the model computes, for this reason.
    NoMatter(&'static str),
    /// It changes what the model computes, and only these values are supported.
    Only(&'static [Supported]),
    /// It is another name for this key and must have the same value.
    Same(&'static str),
}

/// A value that [`KeyRule::Only`] supports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Supported {
    /// `null`.
    Null,
    /// `true` or `false`.
    Is(bool),
    /// A number.
    Number(f64),
    /// An object or an array without members.
    Empty,
}

impl Supported {
    /// Whether `value` is this one.
    pub(crate) fn is(self, value: &Value) -> bool {
        match self {
            Null => value.is_null(),
            Is(flag) => value.as_bool() == Some(flag),
            Number(number) => value.as_f64() == Some(number),
            Empty => value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty),
        }
    }
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
struct Line {
    key: &'static str,
    families: &'static [Family],
    rule: KeyRule,
}

const fn line(key: &'static str, families: &'static [Family], rule: KeyRule) -> Line {
    Line { key, families, rule }
}

use KeyRule::{NoMatter, Only, Read, Same};
use Supported::{Empty, Is, Null, Number};

use Family::{
    Gemma, Gemma2, Gemma3, Gpt2, GptNeoX, Granite, GraniteMoe, Llama, Mistral, Mixtral, Olmo2, Olmoe, Phi3, Qwen2,
    Qwen3, Qwen3Moe, SmolLm3, StableLm,
};

const ALL: &[Family] = &Family::ALL;
const GEMMA: &[Family] = &[Gemma, Gemma2, Gemma3];
const GEMMA2: &[Family] = &[Gemma2];
const GEMMA3: &[Family] = &[Gemma3];
const GEMMA2_AND_3: &[Family] = &[Gemma2, Gemma3];
const EXPERTS: &[Family] = &[Qwen3Moe, Olmoe, GraniteMoe, Mixtral];
const MIXTRAL: &[Family] = &[Mixtral];
const OLMOE: &[Family] = &[Olmoe];
const QWEN3_MOE: &[Family] = &[Qwen3Moe];
/// The families whose files state whether the weights of a token's experts sum to 1.
const SUM_OF_EXPERTS: &[Family] = &[Qwen3Moe, Olmoe];
/// The families whose `intermediate_size` is the width of all MLPs or experts.
const ONE_WIDTH: &[Family] = &[
    Llama, Qwen2, Qwen3, Olmo2, GptNeoX, StableLm, Granite, SmolLm3, Phi3, Gemma, Gemma2, Gemma3, Mistral, Olmoe,
    GraniteMoe, Mixtral,
];
const SWITCHED_OFF: &[Family] = &[SmolLm3, Qwen3Moe];
const GPT2: &[Family] = &[Gpt2];
const GPT_NEOX: &[Family] = &[GptNeoX];
const GRANITE: &[Family] = &[Granite, GraniteMoe];
const PHI3: &[Family] = &[Phi3];
const QWEN2: &[Family] = &[Qwen2];
const SMOLLM3: &[Family] = &[SmolLm3];
const STABLELM: &[Family] = &[StableLm];
/// The families with rotary positions.
const ROTARY: &[Family] = &[
    Llama, Qwen2, Qwen3, Olmo2, GptNeoX, StableLm, Granite, SmolLm3, Phi3, Gemma, Gemma2, Gemma3, Mistral, Qwen3Moe,
    Olmoe, GraniteMoe, Mixtral,
];
/// Those of them whose `rope_parameters` hold for all layers.
const ONE_ROPE: &[Family] = &[
    Llama, Qwen2, Qwen3, Olmo2, GptNeoX, StableLm, Granite, SmolLm3, Phi3, Gemma, Gemma2, Mistral, Qwen3Moe, Olmoe,
    GraniteMoe, Mixtral,
];
/// Those of them that name the base `rope_theta`.
const ROPE_THETA: &[Family] = &[
    Llama, Qwen2, Qwen3, Olmo2, StableLm, Granite, SmolLm3, Phi3, Gemma, Gemma2, Gemma3, Mistral, Qwen3Moe, Olmoe,
    GraniteMoe, Mixtral,
];
/// Families that rotate whole heads, and families that may rotate a part of each.
const WHOLE_HEADS: &[Family] = &[
    Llama, Qwen2, Qwen3, Olmo2, Granite, SmolLm3, Gemma, Gemma2, Gemma3, Mistral, Qwen3Moe, Olmoe, GraniteMoe, Mixtral,
];
const PARTS_OF_HEADS: &[Family] = &[GptNeoX, StableLm, Phi3];
/// The families whose heads may have another width than their share of the residual stream.
const HEAD_DIM: &[Family] = &[
    Llama, Qwen2, Qwen3, Olmo2, Granite, SmolLm3, Phi3, Gemma, Gemma2, Gemma3, Mistral, Qwen3Moe, GraniteMoe, Mixtral,
];
/// The families with fewer key heads than query heads.
const GROUPED: &[Family] = ROPE_THETA;
const RMS_NORM: &[Family] = &[
    Llama, Qwen2, Qwen3, Olmo2, Granite, SmolLm3, Phi3, Gemma, Gemma2, Gemma3, Mistral, Qwen3Moe, Olmoe, GraniteMoe,
    Mixtral,
];
const LAYER_NORM: &[Family] = &[GptNeoX, StableLm];
const ATTENTION_BIAS: &[Family] =
    &[Llama, Qwen3, Olmo2, GptNeoX, Granite, SmolLm3, Gemma, Gemma2, Gemma3, Qwen3Moe, Olmoe, GraniteMoe];
const NO_ATTENTION_BIAS: &[Family] = &[Qwen2, Phi3];
const MLP_BIAS: &[Family] = &[Llama, Granite, SmolLm3];
const NO_MLP_BIAS: &[Family] = &[Qwen2, Phi3];
/// The families whose files name the attention of each layer.
const LAYER_TYPES: &[Family] = &[Llama, Qwen2, Qwen3, SmolLm3, Gemma2, Gemma3];
/// The families whose `sliding_window` counts only beside `use_sliding_window`, and others that may say that it is off.
const SWITCHED_WINDOW: &[Family] = &[Qwen2, Qwen3];
const UNUSED_WINDOW: &[Family] = &[Llama, SmolLm3, Qwen3Moe];
/// The families whose `sliding_window` counts by itself.
const WINDOW: &[Family] = &[Mistral, Phi3, Gemma2, Gemma3, Mixtral];
const NO_WINDOW: &[Family] = &[Llama];
const LLAMA_AND_QWEN2: &[Family] = &[Llama, Qwen2];
const TENSOR_PARALLEL: &[Family] = &[Llama, Qwen2, SmolLm3];
/// All but the families whose published files name classes of Python that transformers has itself.
const NATIVE: &[Family] = &[
    Gpt2, Llama, Qwen2, Qwen3, Olmo2, GptNeoX, StableLm, Granite, SmolLm3, Gemma, Gemma2, Gemma3, Mistral, Qwen3Moe,
    Olmoe, GraniteMoe, Mixtral,
];

const CLASSES: &str = "for classifiers";
const ENCODERS: &str = "for models with an encoder";
const FORM: &str = "the form in which another program returns results";
const GENERATION: &str = "for generation, where generation_config.json is read instead, as transformers 5 does";
const ORIGIN: &str = "where the file comes from";
const SPEED: &str = "how another program computes the same";
const TRAINING: &str = "for training, which models with experts do not have here";
const TEXT: &str = "a token that the tokenizer knows, or padding, which does not occur here";

/// The top level of `config.json`.
#[rustfmt::skip]
const KEYS: &[Line] = &[
    // All families.
    line("model_type", ALL, Read),
    line("vocab_size", ALL, Read),
    line("tie_word_embeddings", ALL, Read),
    line("initializer_range", ALL, Read),
    line("bos_token_id", ALL, Read),
    line("eos_token_id", ALL, Read),
    line("embd_pdrop", ALL, Read),
    line("resid_pdrop", ALL, Read),
    // GPT-2.
    line("n_positions", GPT2, Read),
    line("n_embd", GPT2, Read),
    line("n_layer", GPT2, Read),
    line("n_head", GPT2, Read),
    line("n_inner", GPT2, Read),
    line("activation_function", GPT2, Read),
    line("layer_norm_epsilon", GPT2, Read),
    line("bias", GPT2, Read),
    line("attn_pdrop", GPT2, Read),
    line("hidden_size", GPT2, Same("n_embd")),
    line("num_hidden_layers", GPT2, Same("n_layer")),
    line("num_attention_heads", GPT2, Same("n_head")),
    line("max_position_embeddings", GPT2, Same("n_positions")),
    line("scale_attn_weights", GPT2, Only(&[Is(true)])),
    line("scale_attn_by_inverse_layer_idx", GPT2, Only(&[Is(false)])),
    line("reorder_and_upcast_attn", GPT2, NoMatter(SPEED)),
    line("n_ctx", GPT2, NoMatter("n_positions is the length that counts")),
    line("n_special", GPT2, NoMatter("vocab_size counts these tokens too")),
    line("predict_special_tokens", GPT2, NoMatter("vocab_size counts these tokens too")),
    line("summary_type", GPT2, NoMatter(CLASSES)),
    line("summary_use_proj", GPT2, NoMatter(CLASSES)),
    line("summary_activation", GPT2, NoMatter(CLASSES)),
    line("summary_proj_to_labels", GPT2, NoMatter(CLASSES)),
    line("summary_first_dropout", GPT2, NoMatter(CLASSES)),
    line("summary_last_dropout", GPT2, NoMatter(CLASSES)),
    // Families with rotary positions.
    line("max_position_embeddings", ROTARY, Read),
    line("hidden_size", ROTARY, Read),
    line("num_hidden_layers", ROTARY, Read),
    line("num_attention_heads", ROTARY, Read),
    line("num_key_value_heads", GROUPED, Read),
    line("head_dim", HEAD_DIM, Read),
    line("intermediate_size", ONE_WIDTH, Read),
    line("intermediate_size", QWEN3_MOE, NoMatter("all layers have experts, and moe_intermediate_size is their width")),
    line("hidden_act", ROTARY, Read),
    line("rms_norm_eps", RMS_NORM, Read),
    line("layer_norm_eps", LAYER_NORM, Read),
    line("rope_theta", ROPE_THETA, Read),
    line("rope_theta", GPT_NEOX, Same("rotary_emb_base")),
    line("rope_scaling", ROTARY, Read),
    line("rope_parameters", ROTARY, Read),
    line("attention_dropout", ROTARY, Read),
    line("layer_types", LAYER_TYPES, Read),
    line("attention_bias", ATTENTION_BIAS, Read),
    line("attention_bias", NO_ATTENTION_BIAS, Only(&[Is(false)])),
    line("mlp_bias", MLP_BIAS, Read),
    line("mlp_bias", NO_MLP_BIAS, Only(&[Is(false)])),
    line("partial_rotary_factor", WHOLE_HEADS, Only(&[Number(1.0), Null])),
    line("partial_rotary_factor", STABLELM, Read),
    line("partial_rotary_factor", PHI3, Read),
    line("partial_rotary_factor", GPT_NEOX, Same("rotary_pct")),
    line("rope_interleaved", WHOLE_HEADS, Only(&[Is(false)])),
    line("rope_traditional", LLAMA_AND_QWEN2, Only(&[Is(false)])),
    line("use_mrope", QWEN2, Only(&[Is(false)])),
    line("use_sliding_window", SWITCHED_WINDOW, Read),
    line("use_sliding_window", UNUSED_WINDOW, Only(&[Is(false)])),
    line("sliding_window", SWITCHED_WINDOW, Read),
    line("sliding_window", SWITCHED_OFF, NoMatter("use_sliding_window is false")),
    line("sliding_window", NO_WINDOW, Only(&[Null])),
    line("sliding_window", WINDOW, Read),
    line("max_window_layers", SWITCHED_WINDOW, Read),
    line("max_window_layers", UNUSED_WINDOW, NoMatter("use_sliding_window is false")),
    line("pretraining_tp", TENSOR_PARALLEL, NoMatter(SPEED)),
    line("max_sequence_length", LLAMA_AND_QWEN2, NoMatter("max_position_embeddings is the length that counts")),
    line("is_llama_config", LLAMA_AND_QWEN2, NoMatter(ORIGIN)),
    // GPT-NeoX.
    line("rotary_pct", GPT_NEOX, Read),
    line("rotary_emb_base", GPT_NEOX, Read),
    line("use_parallel_residual", GPT_NEOX, Read),
    line("hidden_dropout", GPT_NEOX, Read),
    // StableLM 2.
    line("use_parallel_residual", STABLELM, Read),
    line("use_qkv_bias", STABLELM, Read),
    line("qk_layernorm", STABLELM, Only(&[Is(false)])),
    line("hidden_dropout", STABLELM, Only(&[Number(0.0)])),
    // Granite.
    line("attention_multiplier", GRANITE, Read),
    line("residual_multiplier", GRANITE, Read),
    line("embedding_multiplier", GRANITE, Read),
    line("logits_scaling", GRANITE, Read),
    // Gemma.
    line("hidden_activation", GEMMA, Read),
    line("use_bidirectional_attention", GEMMA, Only(&[Is(false), Null])),
    // Gemma 2 and 3.
    line("query_pre_attn_scalar", GEMMA2_AND_3, Read),
    line("final_logit_softcapping", GEMMA2_AND_3, Read),
    line("attn_logit_softcapping", GEMMA2, Read),
    line("attn_logit_softcapping", GEMMA3, Only(&[Null])),
    line("sliding_window_size", GEMMA2, Same("sliding_window")),
    line("sliding_window_pattern", GEMMA3, Read),
    line("_sliding_window_pattern", GEMMA3, NoMatter("layer_types says it")),
    line("rope_local_base_freq", GEMMA3, Read),
    line("cache_implementation", GEMMA2_AND_3, NoMatter(SPEED)),
    // Mixtures of experts.
    line("num_local_experts", EXPERTS, Read),
    line("num_experts", SUM_OF_EXPERTS, Read),
    line("num_experts_per_tok", EXPERTS, Read),
    line("norm_topk_prob", SUM_OF_EXPERTS, Read),
    line("moe_intermediate_size", QWEN3_MOE, Read),
    line("decoder_sparse_step", QWEN3_MOE, Only(&[Number(1.0)])),
    line("mlp_only_layers", QWEN3_MOE, Only(&[Empty, Null])),
    line("clip_qkv", OLMOE, Only(&[Null])),
    line("output_router_logits", EXPERTS, Only(&[Is(false)])),
    line("router_aux_loss_coef", EXPERTS, NoMatter(TRAINING)),
    line("router_jitter_noise", MIXTRAL, NoMatter(TRAINING)),
    // SmolLM3.
    line("no_rope_layers", SMOLLM3, Read),
    line("no_rope_layer_interval", SMOLLM3, Read),
    // Phi-3 and Phi-4-mini.
    line("original_max_position_embeddings", PHI3, Read),
    line("lm_head_bias", PHI3, Only(&[Is(false)])),
    line("full_attn_mod", PHI3, Only(&[Number(1.0)])),
    line("interpolate_factor", PHI3, Only(&[Number(1.0)])),
    line("auto_map", PHI3, NoMatter("transformers has these classes itself")),
    // Keys that make another model.
    line("is_causal", ALL, Only(&[Is(true)])),
    line("quantization_config", ALL, Only(&[Null])),
    line("is_encoder_decoder", ALL, Only(&[Is(false)])),
    line("add_cross_attention", ALL, Only(&[Is(false)])),
    line("cross_attention_hidden_size", ALL, Only(&[Null])),
    line("pruned_heads", ALL, Only(&[Empty, Null])),
    line("per_layer_config", ALL, Only(&[Empty, Null])),
    line("auto_map", NATIVE, Only(&[Empty, Null])),
    // Keys that change nothing.
    line("is_decoder", ALL, NoMatter(ENCODERS)),
    line("tie_encoder_decoder", ALL, NoMatter(ENCODERS)),
    line("decoder_start_token_id", ALL, NoMatter(ENCODERS)),
    line("architectures", ALL, NoMatter("model_type says it, and the weights are checked")),
    line("transformers_version", ALL, NoMatter(ORIGIN)),
    line("_name_or_path", ALL, NoMatter(ORIGIN)),
    line("name_or_path", ALL, NoMatter(ORIGIN)),
    line("_commit_hash", ALL, NoMatter(ORIGIN)),
    line("finetuning_task", ALL, NoMatter(ORIGIN)),
    line("unsloth_version", ALL, NoMatter(ORIGIN)),
    line("unsloth_fixed", ALL, NoMatter(ORIGIN)),
    line("transformers.js_config", ALL, NoMatter(SPEED)),
    line("torch_dtype", ALL, NoMatter("the files say how weights are stored; arithmetic is in f32")),
    line("dtype", ALL, NoMatter("the files say how weights are stored; arithmetic is in f32")),
    line("use_bfloat16", ALL, NoMatter("arithmetic is in f32")),
    line("use_cache", ALL, NoMatter(SPEED)),
    line("torchscript", ALL, NoMatter(SPEED)),
    line("chunk_size_feed_forward", ALL, NoMatter(SPEED)),
    line("gradient_checkpointing", ALL, NoMatter(SPEED)),
    line("attn_implementation", ALL, NoMatter(SPEED)),
    line("_attn_implementation", ALL, NoMatter(SPEED)),
    line("_attn_implementation_autoset", ALL, NoMatter(SPEED)),
    line("return_dict", ALL, NoMatter(FORM)),
    line("output_hidden_states", ALL, NoMatter(FORM)),
    line("output_attentions", ALL, NoMatter(FORM)),
    line("output_past", ALL, NoMatter(FORM)),
    line("output_scores", ALL, NoMatter(FORM)),
    line("return_dict_in_generate", ALL, NoMatter(FORM)),
    line("tf_legacy_loss", ALL, NoMatter(FORM)),
    line("id2label", ALL, NoMatter(CLASSES)),
    line("label2id", ALL, NoMatter(CLASSES)),
    line("num_labels", ALL, NoMatter(CLASSES)),
    line("_num_labels", ALL, NoMatter(CLASSES)),
    line("problem_type", ALL, NoMatter(CLASSES)),
    line("classifier_dropout", ALL, NoMatter(CLASSES)),
    line("task_specific_params", ALL, NoMatter("for the tasks that it names, and not the model itself")),
    line("prefix", ALL, NoMatter("for the tasks of a pipeline, and not the model itself")),
    line("tokenizer_class", ALL, NoMatter("tokenizer.json says it")),
    line("pad_token_id", ALL, NoMatter(TEXT)),
    line("unk_token_id", ALL, NoMatter(TEXT)),
    line("sep_token_id", ALL, NoMatter(TEXT)),
    line("cls_token_id", ALL, NoMatter(TEXT)),
    line("mask_token_id", ALL, NoMatter(TEXT)),
    // Keys of generation, which transformers 4 writes to this file.
    line("max_length", ALL, NoMatter(GENERATION)),
    line("min_length", ALL, NoMatter(GENERATION)),
    line("do_sample", ALL, NoMatter(GENERATION)),
    line("early_stopping", ALL, NoMatter(GENERATION)),
    line("num_beams", ALL, NoMatter(GENERATION)),
    line("num_beam_groups", ALL, NoMatter(GENERATION)),
    line("diversity_penalty", ALL, NoMatter(GENERATION)),
    line("temperature", ALL, NoMatter(GENERATION)),
    line("top_k", ALL, NoMatter(GENERATION)),
    line("top_p", ALL, NoMatter(GENERATION)),
    line("typical_p", ALL, NoMatter(GENERATION)),
    line("repetition_penalty", ALL, NoMatter(GENERATION)),
    line("length_penalty", ALL, NoMatter(GENERATION)),
    line("no_repeat_ngram_size", ALL, NoMatter(GENERATION)),
    line("encoder_no_repeat_ngram_size", ALL, NoMatter(GENERATION)),
    line("bad_words_ids", ALL, NoMatter(GENERATION)),
    line("num_return_sequences", ALL, NoMatter(GENERATION)),
    line("forced_bos_token_id", ALL, NoMatter(GENERATION)),
    line("forced_eos_token_id", ALL, NoMatter(GENERATION)),
    line("remove_invalid_values", ALL, NoMatter(GENERATION)),
    line("exponential_decay_length_penalty", ALL, NoMatter(GENERATION)),
    line("suppress_tokens", ALL, NoMatter(GENERATION)),
    line("begin_suppress_tokens", ALL, NoMatter(GENERATION)),
];

/// The members of `rope_scaling` and `rope_parameters`; `rope.rs` says which of them a kind of scaling has.
#[rustfmt::skip]
const ROPE_KEYS: &[Line] = &[
    line("rope_type", ROTARY, Read),
    line("type", ROTARY, Read),
    line("rope_theta", ROTARY, Read),
    line("factor", ROTARY, Read),
    line("low_freq_factor", ROTARY, Read),
    line("high_freq_factor", ROTARY, Read),
    line("original_max_position_embeddings", ROTARY, Read),
    line("beta_fast", ROTARY, Read),
    line("beta_slow", ROTARY, Read),
    line("truncate", ROTARY, Read),
    line("attention_factor", ROTARY, Read),
    line("short_factor", ROTARY, Read),
    line("long_factor", ROTARY, Read),
    line("partial_rotary_factor", WHOLE_HEADS, Only(&[Number(1.0), Null])),
    line("partial_rotary_factor", PARTS_OF_HEADS, Read),
];

/// The members of `rope_parameters` where each kind of layers has a rotation of its own.
#[rustfmt::skip]
const LAYER_KINDS: &[Line] = &[
    line("full_attention", GEMMA3, Read),
    line("sliding_attention", GEMMA3, Read),
];

/// An object in `config.json`, the families that have it, and the table of its members.
type Nested = (&'static [&'static str], &'static [Family], &'static [Line]);

/// The objects with a table of their own.
const NESTED: &[Nested] = &[
    (&["rope_scaling"], ROTARY, ROPE_KEYS),
    (&["rope_parameters"], ONE_ROPE, ROPE_KEYS),
    (&["rope_parameters"], GEMMA3, LAYER_KINDS),
    (&["rope_parameters", "full_attention"], GEMMA3, ROPE_KEYS),
    (&["rope_parameters", "sliding_attention"], GEMMA3, ROPE_KEYS),
];

/// What each known key of `config.json` means for a family, by its path in the file: `rope_scaling.factor`.
///
/// ```
/// use smallmind_model::{Family, KeyRule, config_keys};
///
/// let rule = |name: &str| config_keys(Family::Llama).find(|(key, _)| key == name).map(|(_, rule)| rule);
/// assert_eq!(rule("rope_scaling.factor"), Some(KeyRule::Read));
/// assert!(matches!(rule("use_cache"), Some(KeyRule::NoMatter(_))));
/// assert_eq!(rule("n_embd"), None);
/// ```
pub fn config_keys(family: Family) -> impl Iterator<Item = (String, KeyRule)> {
    let of_family = NESTED.iter().filter(move |(_, families, _)| families.contains(&family));
    let nested = of_family.flat_map(|(path, _, table)| {
        let path = path.join(".");
        table.iter().map(move |line| (format!("{path}.{}", line.key), line))
    });
    let all = KEYS.iter().map(|line| (line.key.to_owned(), line)).chain(nested);
    all.filter(move |(_, line)| line.families.contains(&family)).map(|(path, line)| (path, line.rule))
}

/// Checks the values of all known keys that are not read elsewhere; returns the unknown keys.
pub(super) fn check(map: &Map<String, Value>, family: Family) -> Result<Vec<String>, ConfigError> {
    let mut unknown = check_object(map, family, KEYS, "")?;
    for (path, _, table) in NESTED.iter().filter(|(_, families, _)| families.contains(&family)) {
        let inner = path.iter().try_fold(map, |object, key| object.get(*key)?.as_object());
        if let Some(inner) = inner {
            unknown.extend(check_object(inner, family, table, &format!("{}.", path.join(".")))?);
        }
    }
    Ok(unknown)
}

fn check_object(
    map: &Map<String, Value>,
    family: Family,
    table: &[Line],
    prefix: &str,
) -> Result<Vec<String>, ConfigError> {
    let mut unknown = Vec::new();
    for (key, value) in map {
        let path = || format!("{prefix}{key}");
        match find(table, key, family) {
            None if value.is_null() => {}
            None => unknown.push(path()),
            Some(Read | NoMatter(_)) => {}
            Some(Only(supported)) => supported_value(&path(), value, supported)?,
            Some(Same(other)) if map.get(other) == Some(value) => {}
            Some(Same(other)) => {
                let why = format!("it is another name for {other} and must have the same value");
                return Err(ConfigError::invalid(&path(), kind(value), why));
            }
        }
    }
    Ok(unknown)
}

fn find(table: &[Line], key: &str, family: Family) -> Option<KeyRule> {
    table.iter().find(|line| line.key == key && line.families.contains(&family)).map(|line| line.rule)
}

fn supported_value(key: &str, value: &Value, supported: &[Supported]) -> Result<(), ConfigError> {
    if supported.iter().any(|supported| supported.is(value)) {
        return Ok(());
    }
    if matches!(supported, [Is(_)]) && !value.is_boolean() {
        return Err(ConfigError::Type { path: None, key: key.to_owned(), expected: "true or false", got: kind(value) });
    }
    let names = supported.iter().map(|value| match value {
        Null => "null".to_owned(),
        Is(flag) => flag.to_string(),
        Number(number) => format!("{number:?}"),
        Empty => "an empty one".to_owned(),
    });
    let names = names.collect::<Vec<_>>().join(" or ");
    let why = format!("such a model is not supported; only {names} is");
    Err(ConfigError::invalid(key, kind(value), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_rule_for_a_family() {
        for table in [KEYS, ROPE_KEYS, LAYER_KINDS] {
            for (i, line) in table.iter().enumerate() {
                let twice = |other: &&Line| {
                    other.key == line.key && other.families.iter().any(|family| line.families.contains(family))
                };
                assert!(!table[i + 1..].iter().any(|other| twice(&other)), "{} stands twice", line.key);
            }
        }
    }
}
