//! The rotary positions of a `config.json`.

use std::sync::Arc;

use serde_json::{Value, json};
use smallmind_graph::op::{Llama3Scaling, LongRopeScaling, RopeScaling, YarnScaling};

use super::{ConfigError, Family, Fields, RopeConfig};

/// What the rotary positions of a model depend on besides their own keys.
pub(super) struct RopeKeys {
    pub(super) family: Family,
    /// The key of the base beside the objects.
    pub(super) theta: &'static str,
    /// The base where no key says one.
    pub(super) default_theta: f64,
    /// The key of the rotated part of a head beside the objects and the part where no key says one; `None` for a family
    /// that rotates whole heads.
    pub(super) partial: Option<(&'static str, f64)>,
    /// Features of a head.
    pub(super) head_dim: usize,
    /// Most tokens of a sequence.
    pub(super) context: usize,
    /// The length of the first training, where a key beside the objects says it.
    pub(super) original: Option<usize>,
}

/// Each kind of scaling and the keys that it has, besides the base and the rotated part.
const KINDS: [(&str, &[&str]); 6] = [
    ("default", &[]),
    ("linear", &["factor"]),
    ("dynamic", &["factor"]),
    ("llama3", &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]),
    ("yarn", &["factor", "attention_factor", "beta_fast", "beta_slow", "original_max_position_embeddings", "truncate"]),
    ("longrope", &["factor", "attention_factor", "short_factor", "long_factor", "original_max_position_embeddings"]),
];

/// The keys that every kind has.
const OF_ALL: [&str; 4] = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];

/// Reads the rotary positions. Older files hold the base and `rope_scaling`, newer ones both in `rope_parameters`. If
/// there are several, the precedence is that of transformers: `rope_scaling` before `rope_parameters`, unless it is
/// empty, and a `rope_theta` in the object before the one beside it.
pub(super) fn read(f: &Fields<'_>, keys: &RopeKeys) -> Result<RopeConfig, ConfigError> {
    let object = |key| Ok::<_, ConfigError>(f.object(key)?.filter(|object| !object.is_empty()));
    let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
    // The defaults are those of transformers too.
    let beside = f.number(keys.theta, keys.default_theta)?;
    let part = match keys.partial {
        Some((key, default)) => f.number(key, default)?,
        None => 1.0,
    };
    of_object(scaling.or(parameters).as_ref(), beside, part, keys)
}

/// The rotation that an object states, if there is one, where the base and the rotated part beside it are `beside` and
/// `part`.
pub(super) fn of_object(
    object: Option<&Fields<'_>>,
    beside: f64,
    part: f64,
    keys: &RopeKeys,
) -> Result<RopeConfig, ConfigError> {
    let Some(s) = object else {
        return Ok(RopeConfig { theta: beside, dim: rotated(part, keys)?, scaling: None });
    };
    let theta = s.number("rope_theta", beside)?;
    if s.has("rope_theta") && theta <= 0.0 {
        return Err(ConfigError::invalid(&s.path("rope_theta"), theta, "it must be positive"));
    }
    let part = if keys.partial.is_some() { s.number("partial_rotary_factor", part)? } else { part };
    Ok(RopeConfig { theta, dim: rotated(part, keys)?, scaling: read_scaling(s, keys)? })
}

/// The rotated features of a head for the part of it that a file says: rounded down, as transformers does.
fn rotated(part: f64, keys: &RopeKeys) -> Result<Option<usize>, ConfigError> {
    let dim = (keys.head_dim as f64 * part) as usize;
    if let Some((key, _)) = keys.partial
        && !(part > 0.0 && dim <= keys.head_dim && dim.is_multiple_of(2) && dim > 0)
    {
        let why = format!("an even number of a head's {} features is rotated, and this part is {dim}", keys.head_dim);
        return Err(ConfigError::invalid(key, part, why));
    }
    Ok((dim != keys.head_dim).then_some(dim))
}

/// The part of a head that is read again as its `dim` rotated features.
pub(super) fn part(rope: &RopeConfig, head_dim: usize) -> f64 {
    let dim = rope.dim.unwrap_or(head_dim);
    let part = dim as f64 / head_dim as f64;
    // Readers round the product down.
    if (head_dim as f64 * part) as usize == dim { part } else { part.next_up() }
}

fn read_scaling(s: &Fields<'_>, keys: &RopeKeys) -> Result<Option<RopeScaling>, ConfigError> {
    let others = s.keys().find(|key| !["rope_theta", "partial_rotary_factor"].contains(key));
    let name = match (s.optional("rope_type", Fields::as_str)?, s.optional("type", Fields::as_str)?) {
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) if others.is_none() => "default",
        (None, None) => return Err(ConfigError::Missing { path: None, key: s.path("rope_type") }),
    };
    // The first Phi-3 called it so.
    let name = if name == "su" && keys.family == Family::Phi3 { "longrope" } else { name };
    let supported = |kind: &str| keys.family != Family::Phi3 || ["default", "longrope"].contains(&kind);
    let Some((kind, own)) = KINDS.into_iter().find(|(kind, _)| *kind == name && supported(kind)) else {
        let all: Vec<&str> = KINDS.into_iter().map(|(kind, _)| kind).filter(|kind| supported(kind)).collect();
        let why = format!("supported are {}", all.join(", "));
        return Err(ConfigError::invalid(&s.path("rope_type"), name, why));
    };
    if let Some(key) = s.keys().find(|key| !OF_ALL.contains(key) && !own.contains(key)) {
        let why = format!("with the rope_type \"{kind}\" it has no meaning; name the kind of scaling that is meant");
        return Err(ConfigError::invalid(&s.path(key), s.shown(key), why));
    }
    Ok(match kind {
        "linear" => Some(RopeScaling::Linear { factor: s.positive("factor")? }),
        "dynamic" => Some(RopeScaling::Dynamic { factor: s.positive("factor")?, original_max_position: keys.context }),
        "llama3" => Some(RopeScaling::Llama3(llama3(s)?)),
        "yarn" => Some(RopeScaling::Yarn(yarn(s, keys)?)),
        "longrope" => Some(RopeScaling::LongRope(Arc::new(long_rope(s, keys)?))),
        _ => None,
    })
}

fn llama3(s: &Fields<'_>) -> Result<Llama3Scaling, ConfigError> {
    let scaling = Llama3Scaling {
        factor: s.positive("factor")?,
        low_freq_factor: s.positive("low_freq_factor")?,
        high_freq_factor: s.positive("high_freq_factor")?,
        original_max_position: s.size("original_max_position_embeddings")?,
    };
    if scaling.high_freq_factor <= scaling.low_freq_factor {
        let got = scaling.high_freq_factor;
        return Err(ConfigError::invalid(&s.path("high_freq_factor"), got, "it must exceed low_freq_factor"));
    }
    if scaling.original_max_position == 0 {
        return Err(ConfigError::invalid(&s.path("original_max_position_embeddings"), 0, "it must be positive"));
    }
    Ok(scaling)
}

/// The length of the first training, which without a key is the whole context.
fn original(s: &Fields<'_>, keys: &RopeKeys) -> Result<usize, ConfigError> {
    let within = s.optional("original_max_position_embeddings", Fields::as_size)?;
    Ok(keys.original.or(within).unwrap_or(keys.context))
}

fn yarn(s: &Fields<'_>, keys: &RopeKeys) -> Result<YarnScaling, ConfigError> {
    let factor = s.positive("factor")?;
    let attention_factor = s.optional("attention_factor", Fields::as_number)?;
    // Transformers takes the default for 0 as for null.
    let turns = |key, default| {
        let given = s.optional(key, Fields::as_number)?.filter(|turns| *turns != 0.0);
        Ok::<_, ConfigError>(given.unwrap_or(default))
    };
    Ok(YarnScaling {
        factor,
        attention_factor: attention_factor.unwrap_or_else(|| YarnScaling::usual_attention_factor(factor)),
        beta_fast: turns("beta_fast", 32.0)?,
        beta_slow: turns("beta_slow", 1.0)?,
        original_max_position: original(s, keys)?,
        truncate: s.flag("truncate", true)?,
    })
}

fn long_rope(s: &Fields<'_>, keys: &RopeKeys) -> Result<LongRopeScaling, ConfigError> {
    let original_max_position = original(s, keys)?;
    let growth = keys.context as f64 / original_max_position.max(1) as f64;
    let factor = s.optional("factor", Fields::as_number)?.unwrap_or(growth);
    let usual = || LongRopeScaling::usual_attention_factor(factor, original_max_position);
    Ok(LongRopeScaling {
        short: s.numbers("short_factor")?,
        long: s.numbers("long_factor")?,
        attention_factor: s.optional("attention_factor", Fields::as_number)?.unwrap_or_else(usual),
        original_max_position,
    })
}

/// The value of `rope_scaling`.
pub(super) fn write(scaling: Option<&RopeScaling>) -> Value {
    match scaling {
        None => Value::Null,
        Some(RopeScaling::Linear { factor }) => json!({"rope_type": "linear", "factor": factor}),
        Some(RopeScaling::Dynamic { factor, .. }) => json!({"rope_type": "dynamic", "factor": factor}),
        Some(RopeScaling::Llama3(s)) => json!({
            "rope_type": "llama3",
            "factor": s.factor,
            "low_freq_factor": s.low_freq_factor,
            "high_freq_factor": s.high_freq_factor,
            "original_max_position_embeddings": s.original_max_position,
        }),
        Some(RopeScaling::Yarn(s)) => json!({
            "rope_type": "yarn",
            "factor": s.factor,
            "attention_factor": s.attention_factor,
            "beta_fast": s.beta_fast,
            "beta_slow": s.beta_slow,
            "original_max_position_embeddings": s.original_max_position,
            "truncate": s.truncate,
        }),
        Some(RopeScaling::LongRope(s)) => json!({
            "rope_type": "longrope",
            "short_factor": s.short,
            "long_factor": s.long,
            "attention_factor": s.attention_factor,
            "original_max_position_embeddings": s.original_max_position,
        }),
    }
}
