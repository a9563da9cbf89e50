//! The keys of mixtures of experts.

use serde_json::{Map, Value, json};

use super::{ConfigError, ExpertsConfig, Family, Fields, ModelConfig};

/// The names of fields in [`ModelConfig::check`], as far as they are other ones than LLaMA's.
pub(super) const NAMES: &[(&str, &str)] = &[("experts per token", "num_experts_per_tok")];
/// Those of a family whose files may have either key of the number of experts.
pub(super) const COUNT: &[(&str, &str)] = &[("experts", "num_experts")];
/// Those of the others.
pub(super) const LOCAL_COUNT: &[(&str, &str)] = &[("experts", "num_local_experts")];
/// Those of a family whose experts have a width of their own.
pub(super) const WIDTH: &[(&str, &str)] = &[("d_ff", "moe_intermediate_size")];

/// The width of the MLP, or of each expert.
pub(super) fn width(f: &Fields<'_>, family: Family) -> Result<usize, ConfigError> {
    match family {
        Family::Qwen3Moe => f.or("moe_intermediate_size", Fields::as_size, 768),
        _ => f.size("intermediate_size"),
    }
}

/// The experts of a family that has them. The defaults are those of transformers.
pub(super) fn read(f: &Fields<'_>, family: Family) -> Result<Option<ExpertsConfig>, ConfigError> {
    let (count, per_token) = match family {
        Family::Qwen3Moe => (128, 8),
        Family::Olmoe => (64, 8),
        Family::GraniteMoe | Family::Mixtral => (8, 2),
        _ => return Ok(None),
    };
    let given = |key| f.optional(key, Fields::as_size);
    let local = given("num_local_experts")?;
    let named = if family.states_sum() { given("num_experts")? } else { None };
    if let (Some(local), Some(named)) = (local, named)
        && local != named
    {
        return Err(ConfigError::invalid("num_local_experts", local, format!("num_experts is {named}")));
    }
    Ok(Some(ExpertsConfig {
        count: named.or(local).unwrap_or(count),
        per_token: given("num_experts_per_tok")?.unwrap_or(per_token),
        sums_to_one: !family.states_sum() || f.flag("norm_topk_prob", false)?,
    }))
}

/// The keys of a model with experts.
pub(super) fn write(c: &ModelConfig, family: Family) -> Map<String, Value> {
    let Some(ExpertsConfig { count, per_token, sums_to_one }) = c.experts else { return Map::new() };
    let mut keys = json!({"num_experts_per_tok": per_token});
    keys[if family.states_sum() { "num_experts" } else { "num_local_experts" }] = json!(count);
    if family.states_sum() {
        keys["norm_topk_prob"] = json!(sums_to_one);
    }
    if family == Family::Qwen3Moe {
        keys["moe_intermediate_size"] = json!(c.d_ff);
    }
    keys.as_object().cloned().unwrap_or_default()
}
