//! The temperature, fixed or dynamic.

use super::candidates::Candidates;
use super::config::{DynamicTemperature, SamplerConfig};

/// Divides the logits by the temperature T; T = 0 keeps the likeliest token only.
///
/// With a range R above 0, T follows the entropy H of the n candidates (kalomaze, "Dynamic Temperature", KoboldCpp and
/// llama.cpp pull request 4972, 2024): `T' = low + (high − low) · (H / ln n) ^ exponent`, `low = max(0, T − R)`,
/// `high = T + R`. A single candidate stays as it is.
pub(super) fn temperature(candidates: &mut Candidates<'_>, config: &SamplerConfig) {
    let temperature = match &config.dynamic_temperature {
        dynamic if dynamic.range > 0.0 && candidates.len() > 1 => {
            follow_entropy(candidates, config.temperature, dynamic)
        }
        _ => config.temperature,
    };
    if temperature > 0.0 {
        candidates.set_temperature(temperature);
    } else {
        candidates.keep_top(1);
    }
}

fn follow_entropy(candidates: &mut Candidates<'_>, usual: f32, dynamic: &DynamicTemperature) -> f32 {
    let (low, high) = ((usual - dynamic.range).max(0.0), (usual + dynamic.range).min(f32::MAX));
    // Rounding may leave the entropy outside its range.
    let relative = (candidates.entropy() / (candidates.len() as f64).ln()).clamp(0.0, 1.0);
    (f64::from(low) + (f64::from(high) - f64::from(low)) * relative.powf(f64::from(dynamic.exponent))) as f32
}
