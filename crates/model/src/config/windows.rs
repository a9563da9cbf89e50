//! Sliding windows of attention: which layers have one, and the keys of `config.json` that say so.

use serde_json::{Map, Value, json};

use super::check::{MAX_DIMENSION, MAX_LAYERS};
use super::error::kind;
use super::{ConfigError, Family, Fields, ModelConfig};

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

/// How the files of a family state windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowKeys {
    /// Not at all.
    None,
    /// All layers have the window `sliding_window`. Its default is 4096 in the second case.
    All { has_default: bool },
    /// `use_sliding_window` switches `sliding_window` on, `layer_types` or `max_window_layers` says for which layers.
    Switched,
    /// All layers but each of so many have the window `sliding_window`, 4096 by default; `layer_types` may name others.
    AllBut { every: usize },
}

impl WindowKeys {
    /// Whether files can state `windows` in a model with this context.
    pub(super) fn state(self, windows: &AttentionWindows, context: usize) -> bool {
        match windows {
            AttentionWindows::None => true,
            AttentionWindows::All(window) => match self {
                Self::None => false,
                Self::All { .. } => *window < context,
                Self::Switched | Self::AllBut { .. } => true,
            },
            AttentionWindows::Pattern { .. } => matches!(self, Self::Switched | Self::AllBut { .. }),
        }
    }

    /// What [`WindowKeys::state`] accepts, in words.
    pub(super) fn stated(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::All { .. } => "None, or All of less than the context",
            Self::Switched | Self::AllBut { .. } => "any",
        }
    }
}

/// Reads the windows of a file with so many layers, as transformers does.
pub(super) fn read(
    f: &Fields<'_>,
    family: Family,
    layers: usize,
    context: usize,
) -> Result<AttentionWindows, ConfigError> {
    let types = layer_types(f, layers)?;
    let (window, first_local) = match family.windows() {
        WindowKeys::None => (None, 0),
        // A window of at least the whole context is none.
        WindowKeys::All { has_default } => (window(f, has_default)?.filter(|window| *window < context), 0),
        WindowKeys::Switched => switched(f)?,
        WindowKeys::AllBut { every } => return all_but(f, types, pattern(f, family, every)?, layers),
    };
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

/// The window that a file states; where the key is absent, 4096 if that is its default.
fn window(f: &Fields<'_>, has_default: bool) -> Result<Option<usize>, ConfigError> {
    const KEY: &str = "sliding_window";
    let default = (has_default && !f.map.contains_key(KEY)).then_some(4096);
    Ok(f.optional(KEY, Fields::as_size)?.or(default))
}

/// The window, if there is one, and the first layer that has it where `layer_types` doesn't say it. The defaults are
/// those of transformers.
fn switched(f: &Fields<'_>) -> Result<(Option<usize>, usize), ConfigError> {
    let window = window(f, true)?;
    let first_local = f.or("max_window_layers", Fields::as_size, 28)?;
    let is_used = f.flag("use_sliding_window", false)?;
    Ok((window.filter(|_| is_used), first_local))
}

/// The windows of all layers but each of `every`, where `types` doesn't say otherwise.
fn all_but(
    f: &Fields<'_>,
    types: Option<Vec<bool>>,
    every: usize,
    layers: usize,
) -> Result<AttentionWindows, ConfigError> {
    // A file with more layers is refused later.
    let usual = || (1..=layers.min(MAX_LAYERS)).map(|layer| !layer.is_multiple_of(every)).collect();
    let local: Vec<bool> = types.unwrap_or_else(usual);
    match window(f, true)? {
        Some(window) => Ok(AttentionWindows::of_layers(window, &local)),
        None if local.contains(&true) => {
            let why = format!("there are layers of {LOCAL}, which need one");
            Err(ConfigError::invalid("sliding_window", f.shown("sliding_window"), why))
        }
        None => Ok(AttentionWindows::None),
    }
}

/// Each of how many layers has no window.
fn pattern(f: &Fields<'_>, family: Family, default: usize) -> Result<usize, ConfigError> {
    const KEY: &str = "sliding_window_pattern";
    let every = if family == Family::Gemma3 { f.or(KEY, Fields::as_size, default)? } else { default };
    if every == 0 { Err(ConfigError::invalid(KEY, every, "it must be positive")) } else { Ok(every) }
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

/// The keys of windows; none where the family has none, or a switch that is off.
pub(super) fn write(c: &ModelConfig, family: Family) -> Map<String, Value> {
    let windows = &c.attention_windows;
    let window = match windows {
        AttentionWindows::None => None,
        AttentionWindows::All(window) | AttentionWindows::Pattern { window, .. } => Some(*window),
    };
    let is_local = |layer: usize| windows.of(layer).is_some();
    let types = || (0..c.layers).map(|layer| if is_local(layer) { LOCAL } else { GLOBAL[0] }).collect::<Vec<_>>();
    let keys = match (family.windows(), window) {
        (WindowKeys::None, _) | (WindowKeys::Switched, None) => json!({}),
        (WindowKeys::All { .. }, window) => json!({"sliding_window": window}),
        (WindowKeys::AllBut { .. }, window) => json!({"sliding_window": window, "layer_types": types()}),
        (WindowKeys::Switched, Some(window)) => {
            // For programs that don't read the list: the layers from which on all have the window.
            let last_global = (0..c.layers).rev().find(|layer| !is_local(*layer));
            json!({
                "use_sliding_window": true,
                "sliding_window": window,
                "max_window_layers": last_global.map_or(0, |layer| layer + 1),
                "layer_types": types(),
            })
        }
    };
    keys.as_object().cloned().unwrap_or_default()
}
