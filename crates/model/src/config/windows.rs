//! Sliding windows of attention: which layers have one, and the keys of `config.json` that say so.

use serde_json::{Value, json};

use super::error::kind;
use super::{ConfigError, Family, Fields, MAX_DIMENSION, MAX_LAYERS};

/// Which layers attend in a sliding window: there a token sees the keys of the `window` latest positions, its own among
/// them (Beltagy et al., "Longformer", 2020; Jiang et al., "Mistral 7B", 2023).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AttentionWindows {
    /// No layer: each token sees all keys before it.
    #[default]
    None,
    /// All layers have this window, in tokens.
    All(usize),
    /// Layers with a window and layers without one.
    Pattern {
        /// The window, in tokens.
        window: usize,
        /// Whether a layer has the window; the pattern starts again after its end. Not empty.
        local: Vec<bool>,
    },
}

impl AttentionWindows {
    /// The window for the layers that `local` says, in the simplest form.
    pub fn of_layers(window: usize, local: &[bool]) -> Self {
        let repeats = |period: &usize| local.iter().zip(local.iter().skip(*period)).all(|(a, b)| a == b);
        let period = (1..=local.len()).find(repeats).unwrap_or(0);
        match local[..period] {
            [] | [false] => Self::None,
            [true] => Self::All(window),
            _ => Self::Pattern { window, local: local[..period].to_vec() },
        }
    }

    /// The window of a layer, if it has one.
    pub fn of(&self, layer: usize) -> Option<usize> {
        match self {
            Self::None => None,
            Self::All(window) => Some(*window),
            Self::Pattern { window, local } => {
                let is_local = local.get(layer % local.len().max(1));
                is_local.is_some_and(|is_local| *is_local).then_some(*window)
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let invalid = |got: usize, why: String| Err(ConfigError::invalid("attention_windows", got, why));
        let (window, layers) = match self {
            Self::None => return Ok(()),
            Self::All(window) => (*window, 1),
            Self::Pattern { window, local } => (*window, local.len()),
        };
        if window == 0 || window > MAX_DIMENSION {
            return invalid(window, format!("a window must lie between 1 and {MAX_DIMENSION} tokens"));
        }
        if layers == 0 || layers > MAX_LAYERS {
            return invalid(layers, format!("a pattern of windows must have 1 to {MAX_LAYERS} layers"));
        }
        Ok(())
    }
}

/// The name that `config.json` has for a layer with a window, and those for one without; the last is the older name.
const LOCAL: &str = "sliding_attention";
const GLOBAL: [&str; 2] = ["full_attention", "attention"];

/// Reads the windows of a file with so many layers, as transformers does.
pub(super) fn read(f: &Fields<'_>, family: Family, layers: usize) -> Result<AttentionWindows, ConfigError> {
    let types = layer_types(f, layers)?;
    let (window, first_local) = if family == Family::Qwen2 { qwen2(f)? } else { (None, 0) };
    let Some(window) = window else {
        if types.is_some_and(|local| local.contains(&true)) {
            let why = format!("the file sets no window for its layers of {LOCAL}");
            return Err(ConfigError::invalid("layer_types", f.shown("layer_types"), why));
        }
        return Ok(AttentionWindows::None);
    };
    // A file with more layers is refused later.
    let from_first = || (0..layers.min(MAX_LAYERS)).map(|layer| layer >= first_local).collect();
    Ok(AttentionWindows::of_layers(window, &types.unwrap_or_else(from_first)))
}

/// The window, if there is one, and the first layer that has it where `layer_types` doesn't say it. The defaults are
/// those of transformers.
fn qwen2(f: &Fields<'_>) -> Result<(Option<usize>, usize), ConfigError> {
    let key = "sliding_window";
    let window = f.optional(key, Fields::as_size)?.or((!f.map.contains_key(key)).then_some(4095));
    let first_local = f.or("max_window_layers", Fields::as_size, 28)?;
    let is_used = f.flag("use_sliding_window", false)?;
    Ok((window.filter(|_| is_used), first_local))
}

/// Whether each layer has a window, where the file lists the layers.
fn layer_types(f: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
    const KEY: &str = "layer_types";
    let Some(list) = f.optional(KEY, |value| value.as_array().ok_or("an array"))? else { return Ok(None) };
    let is_local = |layer: &Value| match layer.as_str() {
        Some(LOCAL) => Ok(true),
        Some(name) if GLOBAL.contains(&name) => Ok(false),
        _ => {
            let why = format!("layers of {} and of {LOCAL} are supported", GLOBAL[0]);
            Err(ConfigError::invalid(KEY, kind(layer), why))
        }
    };
    if list.len() != layers {
        let why = format!("it must name the attention of each of the {layers} layers");
        return Err(ConfigError::invalid(KEY, f.shown(KEY), why));
    }
    list.iter().map(is_local).collect::<Result<_, _>>().map(Some)
}

/// The keys of windows for a model with so many layers; none where it has no windows.
pub(super) fn write(windows: &AttentionWindows, layers: usize) -> Value {
    let (AttentionWindows::All(window) | AttentionWindows::Pattern { window, .. }) = windows else { return json!({}) };
    let is_local = |layer: usize| windows.of(layer).is_some();
    let types: Vec<&str> = (0..layers).map(|layer| if is_local(layer) { LOCAL } else { GLOBAL[0] }).collect();
    // For programs that don't read the list: the layers from which on all have the window.
    let last_global = (0..layers).rev().find(|layer| !is_local(*layer));
    json!({
        "use_sliding_window": true,
        "sliding_window": window,
        "max_window_layers": last_global.map_or(0, |layer| layer + 1),
        "layer_types": types,
    })
}
