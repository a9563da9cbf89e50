//! Mixtures of experts in GGUF files.

use smallmind_checkpoint::{CheckpointError, GgufValue};

use super::{Keys, Set};
use crate::{ConfigError, ExpertsConfig, Family, ModelConfig, ModelError};

/// The key of the number of experts.
const COUNT: &str = "expert_count";

/// The family of a file whose architecture is that of `family`: Mixtral is a LLaMA with experts.
pub(super) fn family(keys: &Keys<'_>) -> Result<Family, CheckpointError> {
    let has_experts = keys.or(COUNT, 0usize)? > 0;
    Ok(if keys.family == Family::Llama && has_experts { Family::Mixtral } else { keys.family })
}

/// The experts of a file, if its family has some; refuses those of other families.
pub(super) fn read(keys: &Keys<'_>) -> Result<Option<ExpertsConfig>, ModelError> {
    const USED: &str = "expert_used_count";
    if !keys.family.has_experts() {
        keys.only(COUNT, 0usize)?;
        keys.only(USED, 0usize)?;
        return Ok(None);
    }
    Ok(Some(ExpertsConfig {
        count: keys.required(COUNT)?,
        per_token: keys.required(USED)?,
        sums_to_one: sums_to_one(keys.family),
    }))
}

/// Whether llama.cpp makes the weights of a token's experts sum to 1.
fn sums_to_one(family: Family) -> bool {
    family != Family::Olmoe
}

/// The width of the MLP, or of each expert.
pub(super) fn width(keys: &Keys<'_>) -> Result<usize, ModelError> {
    const DENSE: &str = "feed_forward_length";
    const EXPERT: &str = "expert_feed_forward_length";
    if keys.family != Family::Qwen3Moe {
        let width = keys.required_size(DENSE)?;
        if keys.family.has_experts() {
            keys.only(EXPERT, width)?;
        }
        return Ok(width);
    }
    // That of layers without experts, of which there are none.
    keys.size(DENSE)?;
    keys.required_size(EXPERT)
}

/// Sets the keys of a model with experts.
pub(super) fn write(c: &ModelConfig, family: Family, set: &mut Set<'_>) -> Result<(), CheckpointError> {
    let Some(ExpertsConfig { count, per_token, .. }) = c.experts else { return Ok(()) };
    // Sizes are below 2^24: see `ModelConfig::check`.
    set(COUNT, GgufValue::U32(count as u32))?;
    set("expert_used_count", GgufValue::U32(per_token as u32))?;
    if family == Family::Qwen3Moe {
        set("expert_feed_forward_length", GgufValue::U32(c.d_ff as u32))?;
    }
    Ok(())
}

/// Refuses what llama.cpp computes in another way, or does not load.
pub(super) fn check(c: &ModelConfig, family: Family) -> Result<(), ConfigError> {
    if family == Family::Olmoe && c.kv_heads != c.heads {
        return Err(ConfigError::NotStorable {
            key: "kv_heads",
            got: c.kv_heads.to_string(),
            model_type: family.architecture(),
            takes: format!("as many as query heads ({}) in a GGUF file", c.heads),
        });
    }
    match c.experts {
        Some(experts) if experts.sums_to_one != sums_to_one(family) => Err(ConfigError::NotStorable {
            key: "experts",
            got: format!("{experts:?}"),
            model_type: family.architecture(),
            takes: format!("sums_to_one = {} in a GGUF file", sums_to_one(family)),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use smallmind_checkpoint::{GgufData, GgufWriter};

    use super::*;
    use crate::config::gguf;
    use crate::tensor_names::{FileKind, TensorNames};
    use crate::{Head, LoadOptions, Model, ModelFiles};

    /// A small model of a family, with an output head of its own.
    fn config(family: Family) -> ModelConfig {
        let base = ModelConfig {
            vocab_size: 11,
            context: 32,
            d_model: 16,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 4,
            d_ff: 6,
            experts: Some(ExpertsConfig { count: 3, per_token: 2, sums_to_one: sums_to_one(family) }),
            head: Head::Untied,
            ..ModelConfig::default()
        };
        let config = family.applied_to(base);
        match family {
            Family::Olmoe => ModelConfig { kv_heads: 4, ..config },
            // Files state it.
            Family::GraniteMoe => ModelConfig {
                attention_scale: Some(0.3),
                residual_scale: Some(0.5),
                embedding_scale: Some(12.0),
                logit_divisor: Some(8.0),
                ..config
            },
            _ => config,
        }
    }

    /// What a file of the model's keys and tensors is read as.
    fn read_again(model: &Model, family: Family) -> Model {
        read_with(model, family, None).unwrap()
    }

    /// The same with one more key.
    fn read_with(model: &Model, family: Family, more: Option<(&str, u32)>) -> Result<Model, ModelError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let slots = TensorNames::of_family(model.config(), family, FileKind::Gguf).slots();
        let data: Vec<Cow<'_, [f32]>> = slots.iter().map(|slot| model.in_file(slot)).collect();
        let mut writer = GgufWriter::new();
        gguf::write(model.config(), family, &mut writer).unwrap();
        more.into_iter().for_each(|(key, value)| writer.set(key, GgufValue::U32(value)).map(drop).unwrap());
        for (slot, data) in slots.iter().zip(&data) {
            writer.add(&slot.name, &slot.shape, GgufData::F32(data)).unwrap();
        }
        writer.write_file(&path).unwrap();
        Model::from_files(&ModelFiles::open(&path)?, LoadOptions::default())
    }

    #[test]
    fn mixtures_are_read_as_they_were_written() {
        for family in [Family::Qwen3Moe, Family::Olmoe, Family::GraniteMoe, Family::Mixtral] {
            let model = Model::random(config(family), 3).unwrap();
            let again = read_again(&model, family);
            assert_eq!(again.config(), model.config(), "{family}");
            assert!(again.weights() == model.weights(), "{family}");
        }
        // Without experts it is a LLaMA.
        let model = Model::random(config(Family::Llama), 3).unwrap();
        assert_eq!(read_again(&model, Family::Llama).config(), model.config());
    }

    #[test]
    fn weights_of_experts_that_llama_cpp_computes_otherwise_are_not_written() {
        for family in [Family::Qwen3Moe, Family::Olmoe] {
            let other = config(family).experts.map(|e| ExpertsConfig { sums_to_one: !e.sums_to_one, ..e });
            let error = check(&ModelConfig { experts: other, ..config(family) }, family).unwrap_err();
            assert!(matches!(error, ConfigError::NotStorable { key: "experts", .. }), "{error}");
        }
        let error = check(&ModelConfig { kv_heads: 1, ..config(Family::Olmoe) }, Family::Olmoe).unwrap_err();
        assert!(matches!(error, ConfigError::NotStorable { key: "kv_heads", .. }), "{error}");
    }

    #[test]
    fn the_width_of_experts_is_given_once_or_twice() {
        let model = Model::random(config(Family::Mixtral), 3).unwrap();
        let read = |width| read_with(&model, Family::Mixtral, Some(("llama.expert_feed_forward_length", width)));
        assert_eq!(read(6).unwrap().config(), model.config());
        let error = read(7).unwrap_err().to_string();
        assert!(error.contains("expert_feed_forward_length") && error.contains("only 6"), "{error}");
    }
}
