//! What Gemma 2 and Gemma 3 state in keys of their own: the factor of scores, and the rotation of layers with a window.

use serde_json::{Map, Value, json};
use smallmind_graph::op::Heads;

use super::check::MAX_DIMENSION;
use super::json::short;
use super::rope::{self, RopeKeys};
use super::{AttentionWindows, ConfigError, Family, Fields, ModelConfig, Positions, RopeConfig};

/// The names of fields in [`ModelConfig::check`], as far as they are other ones than LLaMA's.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("attention_scale", "query_pre_attn_scalar"),
    ("attention_softcap", "attn_logit_softcapping"),
    ("logit_softcap", "final_logit_softcapping"),
];

/// The base of the frequencies in layers with a window, where a file doesn't say it.
pub(super) const LOCAL_THETA: f64 = 10_000.0;

/// The features that keys of these families state, put into `config`.
pub(super) fn with_own_keys(f: &Fields<'_>, family: Family, config: ModelConfig) -> Result<ModelConfig, ConfigError> {
    let has_caps = family == Family::Gemma2;
    let cap = |key, default: f64| {
        let default = has_caps.then_some(default);
        let given = f.optional(key, Fields::as_number)?;
        Ok::<_, ConfigError>(given.or(if f.is_null(key) { None } else { default }).map(|cap| cap as f32))
    };
    Ok(ModelConfig {
        attention_scale: scale(f.or("query_pre_attn_scalar", Fields::as_size, 256)?, config.head_dim),
        attention_softcap: if has_caps { cap("attn_logit_softcapping", 50.0)? } else { None },
        logit_softcap: cap("final_logit_softcapping", 30.0)?,
        ..config
    })
}

/// The factor of scores for the number `n` in a file: 1/√n, `None` where that is the usual factor.
pub(super) fn scale(n: usize, head_dim: usize) -> Option<f32> {
    (n != head_dim).then(|| (n as f64).sqrt().recip() as f32)
}

/// The number that a file states for the factor of scores, if there is one.
pub(super) fn scalar(c: &ModelConfig) -> Option<usize> {
    let usual = Heads::new(c.heads, c.kv_heads, c.head_dim).scale;
    let Some(factor) = c.attention_scale.filter(|factor| *factor != usual) else { return Some(c.head_dim) };
    // Beyond the range of sizes the nearest size has another factor, so there is no such number.
    let n = f64::from(factor).powi(-2).round().clamp(1.0, MAX_DIMENSION as f64) as usize;
    (scale(n, c.head_dim) == Some(factor)).then_some(n)
}

/// Reads the rotary positions of a Gemma 3: one rotation for layers with a window, and one for the others, which may be
/// scaled. Older files hold the bases beside `rope_scaling`, newer ones an object for each kind of layer.
pub(super) fn positions(
    f: &Fields<'_>,
    keys: &RopeKeys,
    layers: usize,
    windows: &AttentionWindows,
) -> Result<Positions, ConfigError> {
    let object = |key| Ok::<_, ConfigError>(f.object(key)?.filter(|object| !object.is_empty()));
    let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
    if scaling.is_some() && parameters.is_some() {
        let why = "beside rope_parameters it is not supported";
        return Err(ConfigError::invalid("rope_scaling", f.shown("rope_scaling"), why));
    }
    let of_kind = |key| Ok::<_, ConfigError>(parameters.as_ref().map(|p| p.object(key)).transpose()?.flatten());
    let (global, local) = (of_kind("full_attention")?.or(scaling), of_kind("sliding_attention")?);
    let theta = f.number(keys.theta, keys.default_theta)?;
    let global = rope::of_object(global.as_ref(), theta, 1.0, keys)?;
    let local_theta = f.number("rope_local_base_freq", LOCAL_THETA)?;
    let rotation = rope::of_object(local.as_ref(), local_theta, 1.0, keys)?;
    if let Some(local) = local.filter(|_| rotation.scaling.is_some()) {
        let why = "layers with a window have the kind \"default\" only";
        return Err(ConfigError::invalid(&local.path("rope_type"), local.shown("rope_type"), why));
    }
    super::check::layers(layers)?;
    Ok(by_layer(global, rotation, layers, windows))
}

/// The rotation `local` in layers with a window, and `global` in the others.
pub(super) fn by_layer(global: RopeConfig, local: RopeConfig, layers: usize, windows: &AttentionWindows) -> Positions {
    let is_local = |layer: usize| windows.of(layer).is_some();
    let has = |kind: bool| (0..layers).any(|layer| is_local(layer) == kind);
    match (has(true) && global != local, has(false)) {
        (false, _) => Positions::Rope(global),
        (true, false) => Positions::Rope(local),
        (true, true) => {
            let of = |layer| Some(if is_local(layer) { local.clone() } else { global.clone() });
            Positions::RopeByLayer((0..layers).map(of).collect())
        }
    }
}

/// The rotation of the layers without a window, and that of the layers with one. `None` if a layer is not rotated, or
/// if two layers of one kind differ. If there are no layers of one kind, both are the rotation of the other kind.
pub(super) fn rotations(c: &ModelConfig) -> Option<(&RopeConfig, &RopeConfig)> {
    let of_kind = |local: bool| {
        let mut all = (0..c.layers).filter(move |layer| c.attention_windows.of(*layer).is_some() == local);
        let first = all.next().map(|layer| c.positions.rope_of(layer));
        all.all(|layer| Some(c.positions.rope_of(layer)) == first).then_some(first)
    };
    match (of_kind(false)?, of_kind(true)?) {
        (Some(global), local) => Some((global?, local.unwrap_or(global)?)),
        (None, local) => Some((local??, local??)),
    }
}

/// The rotation of layers without a window; if they have none or several, that of the first layer that has one.
pub(super) fn global(c: &ModelConfig) -> Option<&RopeConfig> {
    let first = || (0..c.layers).find_map(|layer| c.positions.rope_of(layer));
    rotations(c).map(|(global, _)| global).or_else(first)
}

/// The keys that only these families have.
pub(super) fn write(c: &ModelConfig, family: Family) -> Map<String, Value> {
    let mut keys = json!({
        "hidden_activation": super::json::activation_name(c.mlp),
        "query_pre_attn_scalar": scalar(c),
        "final_logit_softcapping": c.logit_softcap.map(short),
    });
    if family == Family::Gemma2 {
        keys["attn_logit_softcapping"] = json!(c.attention_softcap.map(short));
    } else if let Some((_, local)) = rotations(c) {
        keys["rope_local_base_freq"] = json!(local.theta);
    }
    keys.as_object().cloned().unwrap_or_default()
}
