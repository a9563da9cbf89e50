//! `inspect --speed`: how fast the model can be at most here, by what the machine was just measured to do.

use serde_json::{Value, json};
use smallmind::graph::Plan;
use smallmind::model::{SessionOptions, batches_of};
use smallmind::profile::Forecast;
use smallmind::profile::report::{RoofLevel, RoofTable};
use smallmind::simd::IsaKind;

use super::units;

/// Tokens of the prompt, if the context has as many.
const PROMPT: usize = 512;

/// The plans of a session with one sequence, and how many tokens that has at most.
pub struct Plans {
    pub decode: Plan,
    pub prefill: Plan,
    pub context: usize,
}

/// What was measured, and what follows from it.
pub struct Speed {
    roofs: RoofTable,
    threads: usize,
    isa: IsaKind,
    /// One token after so many, at the beginning of a text and at the end of the context.
    decode: [(usize, Forecast); 2],
    /// A prompt of so many tokens.
    prompt: (usize, Forecast),
    /// Bytes of the weights, which choose the bandwidth.
    weights: f64,
}

impl Speed {
    /// Measures the machine.
    pub fn measure(plans: &Plans, threads: usize, isa: IsaKind) -> anyhow::Result<Self> {
        let roofs = RoofTable::measure(threads, isa)?;
        let decode = [0, plans.context - 1].map(|past| {
            let batches = batches_of(1, past, 1);
            (past, Forecast::new(&plans.decode, &batches, &roofs))
        });
        let tokens = plans.context.min(PROMPT);
        let prompt = (tokens, Forecast::new(&plans.prefill, &batches_of(tokens, 0, SessionOptions::CHUNK), &roofs));
        let weights = plans.decode.storage().map_or(0, |storage| storage.bytes()) as f64;
        Ok(Self { roofs, threads, isa, decode, prompt, weights })
    }

    /// The bandwidth of reading the weights, in GB/s.
    fn bandwidth(&self) -> f64 {
        self.roofs.gbps(self.weights, |level: &RoofLevel| level.read)
    }

    pub fn json(&self) -> Value {
        let of = |tokens: (&str, usize), forecast: &Forecast| {
            let work = &forecast.traffic;
            json!({
                tokens.0: tokens.1,
                "tokens_per_second_at_most": forecast.tokens_per_second(),
                "weight_bytes_per_token": work.weights,
                "cache_bytes_per_token": work.kv_read + work.kv_write,
                "flops_per_token": work.flops,
            })
        };
        json!({
            "measured": {
                "threads": self.threads, "isa": self.isa.name(), "weights_gbps": self.bandwidth(),
                "roofs": self.roofs,
            },
            "decode": self.decode.iter().map(|(past, forecast)| of(("past", *past), forecast)).collect::<Vec<_>>(),
            "prompt": of(("tokens", self.prompt.0), &self.prompt.1),
        })
    }

    /// Rows for people: names and values.
    pub fn rows(&self) -> [(&'static str, String); 3] {
        let [first, last] = &self.decode;
        let bytes = self.roofs.int8_gops.map(|gops| format!(", {gops:.0} GOP/s of bytes")).unwrap_or_default();
        let measured = format!(
            "measured now, {} and {}: {:.1} GB/s for {} of weights, {:.0} GFLOP/s of f32{bytes}",
            self.isa,
            units::plural(self.threads, "thread"),
            self.bandwidth(),
            units::bytes(self.weights as u64),
            self.roofs.f32_gflops,
        );
        let work = |forecast: &Forecast| {
            let (weights, flops) = (forecast.traffic.weights as u64, forecast.traffic.flops as u64);
            format!("{} of weights and {} operations a token", units::bytes(weights), units::count(flops))
        };
        let rate = |forecast: &Forecast| units::rate(forecast.tokens_per_second());
        let decode = format!(
            "at most {} tokens/s, {} after {} tokens: {}",
            rate(&first.1),
            rate(&last.1),
            last.0,
            work(&first.1)
        );
        let (tokens, forecast) = &self.prompt;
        let prompt = format!("at most {} tokens/s for {tokens} tokens: {}", rate(forecast), work(forecast));
        [("roofs", measured), ("decode", decode), ("prompt", prompt)]
    }
}
