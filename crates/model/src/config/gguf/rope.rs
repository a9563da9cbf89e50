//! The rotary positions in the metadata of GGUF files, and the tensors that belong to them.

use std::sync::Arc;

use smallmind_checkpoint::{CheckpointError, GgufValue, TensorSource};
use smallmind_graph::op::{Llama3Scaling, LongRopeScaling, RopeScaling, YarnScaling};
use smallmind_kernels::rope::frequencies;

use super::{Keys, Set};
use crate::ModelError;
use crate::config::{Family, ModelConfig, Positions, RopeConfig};

/// The divisors of frequencies that Llama 3 files hold as a tensor.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Those of LongRoPE.
pub(crate) const LONG_FACTORS: &str = "rope_factors_long.weight";
/// Those of LongRoPE within the original context.
pub(crate) const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// The tensors that belong to the configuration.
pub(crate) const ROPE_TENSORS: [&str; 3] = [ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS];

pub(super) fn positions(keys: &Keys<'_>, [layers, context, head_dim]: [usize; 3]) -> Result<Positions, ModelError> {
    if keys.family == Family::Gpt2 {
        return Ok(Positions::Learned);
    }
    let given = keys.optional("rope.dimension_count")?;
    let (dim, key) = given.map_or((head_dim, "attention.key_length"), |dim| (dim, "rope.dimension_count"));
    let theta = f64::from(keys.or("rope.freq_base", 10_000.0f32)?);
    let dim_of = (dim != head_dim).then_some(dim);
    if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
        let why = format!("an even number of a head's {head_dim} features is rotated");
        return Err(keys.invalid(key, dim, why));
    }
    if keys.family.is_interleaved() && dim != head_dim {
        let why = format!("all {head_dim} features of a head must be rotated in this architecture");
        return Err(keys.invalid("rope.dimension_count", dim, why));
    }
    let rope = RopeConfig { theta, dim: dim_of, scaling: scaling(keys, context, dim, theta)? };
    if keys.family != Family::SmolLm3 {
        return Ok(Positions::Rope(rope));
    }
    crate::config::check::layers(layers).map_err(|error| keys.in_terms_of(error))?;
    // llama.cpp rotates in all layers but every fourth; no key says it.
    let of_layer = |layer: usize| (!(layer + 1).is_multiple_of(NO_ROPE_EVERY)).then(|| rope.clone());
    Ok(Positions::RopeByLayer((0..layers).map(of_layer).collect()))
}

/// Every layer of so many has no rotary positions in a SmolLM3 of a GGUF file.
pub(super) const NO_ROPE_EVERY: usize = 4;

pub(super) fn scaling(
    keys: &Keys<'_>,
    context: usize,
    dim: usize,
    theta: f64,
) -> Result<Option<RopeScaling>, ModelError> {
    let kind = keys.optional::<&str>("rope.scaling.type")?;
    // The second is the older name.
    let factor = keys.optional::<f32>("rope.scaling.factor")?.or(keys.optional::<f32>("rope.scale_linear")?);
    let factor = factor.map(f64::from).filter(|factor| *factor != 0.0 && *factor != 1.0);
    let attention = f64::from(keys.or("rope.scaling.attn_factor", 1.0f32)?);
    let original = keys.or("rope.scaling.original_context_length", context)?;
    if keys.has(LONG_FACTORS) || keys.has(SHORT_FACTORS) {
        if let Some(factor) = factor {
            return Err(keys.invalid(
                "rope.scaling.factor",
                factor,
                "beside the factors of longrope only 1 is supported",
            ));
        }
        if keys.has(ROPE_FACTORS) {
            let why = format!("beside the tensor {ROPE_FACTORS} the factors of longrope are not supported");
            return Err(keys.invalid("rope.scaling.type", kind.unwrap_or("none"), why));
        }
        if !matches!(kind, None | Some("none" | "linear" | "longrope")) {
            let why = "beside the factors of longrope only longrope is supported";
            return Err(keys.invalid("rope.scaling.type", kind.unwrap_or("none"), why));
        }
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
    if attention != 1.0 && !matches!(scaling, Some(RopeScaling::Yarn(_))) {
        let why = "a factor of attention is supported beside yarn and longrope only";
        return Err(keys.invalid("rope.scaling.attn_factor", attention, why));
    }
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

pub(super) fn write(c: &ModelConfig, rope: &RopeConfig, set: &mut Set<'_>) -> Result<(), CheckpointError> {
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

#[cfg(test)]
mod tests {
    use smallmind_checkpoint::{GgufData, GgufFile, GgufWriter};

    use super::*;
    use crate::UnknownKeys;
    use crate::config::gguf;

    /// The configuration of a Phi-3 with the factors of longrope, where keys and a tensor are added.
    fn long_rope(more: &[(&str, GgufValue)], tensor: Option<&str>) -> Result<ModelConfig, String> {
        let scaling = LongRopeScaling {
            short: vec![1.0, 1.5, 2.0],
            long: vec![2.0, 3.0, 4.0],
            attention_factor: 1.25,
            original_max_position: 16,
        };
        let rope = RopeConfig { scaling: Some(RopeScaling::LongRope(Arc::new(scaling))), ..RopeConfig::default() };
        let config = ModelConfig {
            vocab_size: 3,
            context: 64,
            d_model: 12,
            layers: 1,
            heads: 2,
            kv_heads: 2,
            head_dim: 6,
            d_ff: 8,
            positions: Positions::Rope(rope),
            ..ModelConfig::default()
        };
        let mut writer = GgufWriter::new();
        gguf::write(&config, Family::Phi3, &mut writer).unwrap();
        for (key, value) in more {
            writer.set(&format!("phi3.{key}"), value.clone()).unwrap();
        }
        let table = [0.0; 36];
        writer.add("token_embd.weight", &[3, 12], GgufData::F32(&table)).unwrap();
        let factors = [([2.0, 3.0, 4.0], LONG_FACTORS), ([1.0, 1.5, 2.0], SHORT_FACTORS), ([1.0; 3], "other")];
        for (values, name) in &factors {
            let name = if *name == "other" { tensor } else { Some(*name) };
            name.map(|name| writer.add(name, &[3], GgufData::F32(values)).map(drop)).transpose().unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        writer.write_file(&path).unwrap();
        let read = gguf::read(&GgufFile::open(&path).unwrap(), UnknownKeys::Refuse);
        let read = ModelConfig { head: config.head, ..read.map_err(|error| error.to_string())?.0 };
        assert_eq!(read, config);
        Ok(read)
    }

    /// llama.cpp would stretch positions by the factor too, and prefers the other tensor.
    #[test]
    fn what_stands_beside_the_factors_of_longrope_is_refused() {
        long_rope(&[], None).unwrap();
        long_rope(&[("rope.scaling.factor", GgufValue::F32(1.0))], None).unwrap();
        let kind = |name: &str| ("rope.scaling.type", GgufValue::String(name.into()));
        long_rope(&[kind("none")], None).unwrap();
        for (keys, tensor, named) in [
            (vec![("rope.scaling.factor", GgufValue::F32(4.0))], None, "phi3.rope.scaling.factor"),
            (vec![kind("yarn")], None, "phi3.rope.scaling.type"),
            (vec![], Some(ROPE_FACTORS), ROPE_FACTORS),
        ] {
            let error = long_rope(&keys, tensor).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
