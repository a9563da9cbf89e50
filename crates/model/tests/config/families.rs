//! What only the files of some families can state.

use std::sync::Arc;

use serde_json::json;
use smallmind_graph::op::{Gelu, Llama3Scaling, LongRopeScaling, RopeScaling, YarnScaling};
use smallmind_model::{
    AttentionWindows, Biases, ExpertsConfig, Family, Mlp, ModelConfig, NormPlacement, Positions, Residual, RopeConfig,
    preset,
};

use super::{key, read_again};

/// Every kind of scaling, of heads whose features are all rotated.
pub fn scalings(head_dim: usize, context: usize) -> [RopeScaling; 5] {
    let factors = |step: f64| (0..head_dim / 2).map(|i| 1.0 + step * i as f64).collect();
    [
        RopeScaling::Linear { factor: 2.5 },
        RopeScaling::Dynamic { factor: 3.0, original_max_position: context },
        RopeScaling::Llama3(Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.5,
            high_freq_factor: 3.25,
            original_max_position: 777,
        }),
        RopeScaling::Yarn(YarnScaling {
            factor: 4.0,
            attention_factor: 1.25,
            beta_fast: 30.0,
            beta_slow: 1.5,
            original_max_position: 555,
            truncate: false,
        }),
        RopeScaling::LongRope(Arc::new(LongRopeScaling {
            short: factors(0.1),
            long: factors(1.5),
            attention_factor: 1.125,
            original_max_position: 333,
        })),
    ]
}

/// A model with what only files of `family` can state.
fn typical(family: Family) -> ModelConfig {
    let base = ModelConfig { context: 64, layers: 3, ..preset::find("llama-3.2-1b").unwrap().config() };
    let config = family.applied_to(ModelConfig { kv_heads: base.heads, ..base });
    let whole = RopeConfig { theta: 1e6, ..RopeConfig::default() };
    match family {
        Family::Qwen3Moe | Family::Olmoe => {
            let experts = ExpertsConfig { count: 16, per_token: 3, sums_to_one: family == Family::Qwen3Moe };
            ModelConfig { experts: Some(experts), ..config }
        }
        Family::Granite | Family::GraniteMoe => ModelConfig {
            attention_scale: Some(0.3),
            residual_scale: Some(0.22),
            embedding_scale: Some(12.0),
            logit_divisor: Some(8.0),
            ..config
        },
        Family::SmolLm3 => {
            let positions = Positions::RopeByLayer(vec![Some(whole.clone()), None, Some(whole)]);
            ModelConfig { positions, ..config }
        }
        Family::Gemma2 => ModelConfig {
            attention_scale: Some(224f64.sqrt().recip() as f32),
            attention_softcap: Some(50.0),
            logit_softcap: Some(30.0),
            attention_windows: AttentionWindows::of_layers(16, &[true, false, true]),
            ..config
        },
        Family::Gemma3 => {
            let local = RopeConfig { theta: 1e4, ..RopeConfig::default() };
            let global = RopeConfig { scaling: Some(RopeScaling::Linear { factor: 8.0 }), ..whole };
            ModelConfig {
                attention_scale: Some(168f64.sqrt().recip() as f32),
                attention_windows: AttentionWindows::of_layers(16, &[true, false, true]),
                positions: Positions::RopeByLayer(vec![Some(local.clone()), Some(global), Some(local)]),
                ..config
            }
        }
        Family::Phi3 => {
            let (original_max_position, attention_factor) = (16, 1.5);
            let (short, long) = (vec![1.0; 24], vec![2.0; 24]);
            let long = LongRopeScaling { short, long, attention_factor, original_max_position };
            let scaling = Some(RopeScaling::LongRope(Arc::new(long)));
            ModelConfig { positions: Positions::Rope(RopeConfig { dim: Some(48), scaling, ..whole }), ..config }
        }
        Family::GptNeoX | Family::StableLm => {
            ModelConfig { positions: Positions::Rope(RopeConfig { dim: Some(16), ..whole }), ..config }
        }
        _ => config,
    }
}

#[test]
fn every_family_states_its_own_models() {
    for family in Family::ALL {
        let config = typical(family);
        config.check().unwrap();
        // A Mistral without a window has nothing of its own.
        let expected = if family == Family::Mistral { Family::Llama } else { family };
        assert_eq!(config.model_type().unwrap(), expected.name());
        assert_eq!(read_again(&config), config, "{family}");
        assert_eq!(family.applied_to(config.clone()), config, "{family}");
        // It says what it is read as.
        let mut json = config.to_json().unwrap();
        json["model_type"] = json!(family.name());
        if family == Family::Mistral {
            json["sliding_window"] = json!(64);
        }
        assert_eq!(ModelConfig::from_json(&json).unwrap(), config, "{family}");
    }
    let whole = || RopeConfig { theta: 1e6, ..RopeConfig::default() };
    let variants = [
        ModelConfig { residual: Residual::Parallel { shared_norm: true }, ..typical(Family::StableLm) },
        ModelConfig { biases: Biases::QKV, ..typical(Family::StableLm) },
        ModelConfig { residual: Residual::Sequential, ..typical(Family::GptNeoX) },
        ModelConfig { biases: Biases { mlp: true, ..Biases::NONE }, ..typical(Family::GptNeoX) },
        ModelConfig { mlp: Mlp::Gelu(Gelu::Tanh), ..typical(Family::GptNeoX) },
        ModelConfig { biases: Biases { mlp: false, ..Biases::ALL }, ..typical(Family::Qwen3) },
        ModelConfig { biases: Biases::ALL, ..typical(Family::SmolLm3) },
        ModelConfig { biases: Biases::ALL, ..typical(Family::Llama) },
        ModelConfig { biases: Biases { mlp: true, ..Biases::NONE }, ..typical(Family::Llama) },
        ModelConfig {
            experts: Some(ExpertsConfig { count: 3, per_token: 3, sums_to_one: false }),
            ..typical(Family::Qwen3Moe)
        },
        ModelConfig { attention_windows: AttentionWindows::All(9), ..typical(Family::Mixtral) },
        ModelConfig { attention_softcap: None, logit_softcap: None, ..typical(Family::Gemma2) },
        ModelConfig { attention_scale: None, attention_windows: AttentionWindows::None, ..typical(Family::Gemma2) },
        ModelConfig { logit_softcap: Some(20.0), attention_scale: None, ..typical(Family::Gemma3) },
        ModelConfig {
            attention_windows: AttentionWindows::All(5),
            positions: Positions::Rope(whole()),
            ..typical(Family::Gemma3)
        },
        ModelConfig {
            attention_windows: AttentionWindows::None,
            positions: Positions::Rope(RopeConfig { scaling: Some(RopeScaling::Linear { factor: 8.0 }), ..whole() }),
            ..typical(Family::Gemma3)
        },
    ];
    for config in variants {
        assert_eq!(read_again(&config), config);
    }
    // Every number of rotated features is read as it was written.
    for dim in (2..64).step_by(2) {
        let rope = RopeConfig { dim: Some(dim), ..RopeConfig::default() };
        for family in [Family::GptNeoX, Family::StableLm] {
            let config = ModelConfig { positions: Positions::Rope(rope.clone()), ..typical(family) };
            assert_eq!(read_again(&config), config, "{family}");
        }
    }
}

#[test]
fn features_that_make_no_model_are_named() {
    let llama = || typical(Family::Llama);
    let rope = |rope: RopeConfig| ModelConfig { positions: Positions::Rope(rope), ..llama() };
    let plain = RopeConfig::default;
    let scaled = |scaling| rope(RopeConfig { scaling: Some(scaling), ..plain() });
    let long = |n: usize| {
        let (attention_factor, original_max_position) = (1.0, 4);
        let long =
            LongRopeScaling { short: vec![1.0; 32], long: vec![1.0; n], attention_factor, original_max_position };
        scaled(RopeScaling::LongRope(Arc::new(long)))
    };
    let experts = |count, per_token| {
        let experts = Some(ExpertsConfig { count, per_token, sums_to_one: true });
        ModelConfig { experts, ..typical(Family::Mixtral) }
    };
    let parallel = Residual::Parallel { shared_norm: false };
    for (config, named) in [
        (rope(RopeConfig { dim: Some(0), ..plain() }), "rope_dim"),
        (rope(RopeConfig { dim: Some(7), ..plain() }), "rope_dim"),
        (rope(RopeConfig { dim: Some(66), ..plain() }), "rope_dim"),
        (rope(RopeConfig { theta: f64::NAN, ..plain() }), "rope_theta"),
        (scaled(RopeScaling::Linear { factor: 0.0 }), "rope_scaling.factor"),
        (scaled(RopeScaling::Dynamic { factor: 0.5, original_max_position: 4 }), "rope_scaling.factor"),
        (long(31), "rope_scaling.long_factor"),
        (ModelConfig { positions: Positions::RopeByLayer(vec![None; 2]), ..llama() }, "positions"),
        (ModelConfig { residual: parallel, norm_placement: NormPlacement::After, ..llama() }, "norm_placement"),
        (ModelConfig { biases: Biases { mlp: true, ..Biases::NONE }, ..typical(Family::Mixtral) }, "mlp"),
        (experts(0, 1), "experts"),
        (experts(1 << 14, 1), "experts"),
        (experts(4, 0), "experts per token"),
        (experts(4, 5), "experts per token"),
        (ModelConfig { residual_scale: Some(0.0), ..llama() }, "residual_scale"),
        (ModelConfig { embedding_scale: Some(f32::INFINITY), ..llama() }, "embedding_scale"),
        (ModelConfig { logit_divisor: Some(-1.0), ..llama() }, "logit_divisor"),
    ] {
        assert_eq!(key(&config.check().unwrap_err()), named);
    }
    long(32).check().unwrap();
}
