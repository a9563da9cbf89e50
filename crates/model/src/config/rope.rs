//! The rotary positions of a `config.json`.

use smallmind_graph::op::RopeScaling;

use super::{ConfigError, Fields, RopeConfig};

/// Reads the rotary positions. Older files hold `rope_theta` and `rope_scaling`, newer ones both in `rope_parameters`.
/// If there are several, the precedence is that of transformers: `rope_scaling` before `rope_parameters`, unless it is
/// empty, and a `rope_theta` inside of the object before one outside.
pub(super) fn read(f: &Fields<'_>) -> Result<RopeConfig, ConfigError> {
    let object = |key| Ok::<_, ConfigError>(f.object(key)?.filter(|object| !object.is_empty()));
    let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
    // The default of transformers.
    let beside = f.number("rope_theta", RopeConfig::default().theta)?;
    let Some(s) = scaling.or(parameters) else { return Ok(RopeConfig { theta: beside, scaling: None }) };
    let theta = s.number("rope_theta", beside)?;
    if s.has("rope_theta") && theta <= 0.0 {
        return Err(ConfigError::invalid(&s.path("rope_theta"), theta, "it must be positive"));
    }
    let others = s.keys().find(|key| !["rope_theta", "partial_rotary_factor"].contains(key));
    let name = match (s.optional("rope_type", Fields::as_str)?, s.optional("type", Fields::as_str)?) {
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) if others.is_none() => "default",
        (None, None) => return Err(ConfigError::Missing { path: None, key: s.path("rope_type") }),
    };
    match name {
        "default" => {
            let none = ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"];
            match none.into_iter().find(|key| s.has(key)) {
                None => Ok(RopeConfig { theta, scaling: None }),
                Some(key) => {
                    let why =
                        "with the rope_type \"default\" it has no meaning; name the kind of scaling that is meant";
                    Err(ConfigError::invalid(&s.path(key), s.shown(key), why))
                }
            }
        }
        "llama3" => Ok(RopeConfig { theta, scaling: Some(llama3(&s)?) }),
        other => Err(ConfigError::invalid(&s.path("rope_type"), other, "default and llama3 are supported")),
    }
}

fn llama3(s: &Fields<'_>) -> Result<RopeScaling, ConfigError> {
    let scaling = RopeScaling {
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
