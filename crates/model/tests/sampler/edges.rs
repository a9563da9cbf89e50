//! Unusual logits and settings in each processor.

use smallmind_model::sampler::{
    Dry, DynamicTemperature, LLAMA_CPP_ORDER, LogitBias, Mirostat, Processor, Sampler, SamplerConfig, SamplerError,
    SamplerScratch, Xtc,
};

use crate::{INF, NEG, frequencies, sampler};

/// Settings that each turn one processor on, in llama.cpp's order.
fn processors() -> Vec<SamplerConfig> {
    let base = SamplerConfig { order: LLAMA_CPP_ORDER.to_vec(), ..SamplerConfig::default() };
    let always = Xtc { probability: 1.0, threshold: 0.0 };
    vec![
        SamplerConfig { frequency_penalty: 1000.0, presence_penalty: 1000.0, ..base.clone() },
        SamplerConfig { frequency_penalty: -1000.0, ..base.clone() },
        SamplerConfig {
            dry: Dry { multiplier: f32::MAX, base: f32::MAX, allowed_length: 0, ..Dry::default() },
            ..base.clone()
        },
        SamplerConfig { top_n_sigma: 1e-30, ..base.clone() },
        SamplerConfig { top_n_sigma: f32::MAX, ..base.clone() },
        SamplerConfig { typical_p: 1e-6, ..base.clone() },
        SamplerConfig { typical_p: 0.999, ..base.clone() },
        SamplerConfig { xtc: Xtc { threshold: 0.3, ..always.clone() }, ..base.clone() },
        SamplerConfig { xtc: always, ..base.clone() },
        SamplerConfig {
            temperature: 0.5,
            dynamic_temperature: DynamicTemperature { range: f32::MAX, exponent: 0.0 },
            ..base.clone()
        },
        SamplerConfig {
            temperature: 0.0,
            dynamic_temperature: DynamicTemperature { range: 1.0, exponent: f32::MAX },
            ..base.clone()
        },
        SamplerConfig { mirostat: Some(Mirostat { tau: 0.0, eta: 100.0 }), ..base.clone() },
        SamplerConfig { mirostat: Some(Mirostat { tau: 100.0, eta: 100.0 }), ..base.clone() },
        SamplerConfig { logit_bias: vec![LogitBias { token: 0, bias: f32::MIN }], ..base.clone() },
        SamplerConfig { min_keep: usize::MAX, typical_p: 0.1, min_p: 1.0, top_p: 0.1, ..base },
    ]
}

#[test]
fn each_processor_has_answers_for_unusual_logits() {
    let all: [&[f32]; 9] = [
        &[-7.0],
        &[INF],
        &[NEG, -1e30, NEG],
        &[f32::MIN, f32::MAX, 0.0],
        &[INF, 3.0, INF, NEG],
        &[NEG, INF, f32::MAX],
        &[2.0; 5],
        &[0.0, -0.0, f32::MIN_POSITIVE],
        &[f32::MAX; 70],
    ];
    for config in processors() {
        for logits in all {
            let mut scratch = SamplerScratch::new(logits.len()).unwrap();
            let mut sampler = Sampler::new(config.clone()).unwrap();
            sampler.observe(&[0, 1, 0, 1, 0, 99]);
            for _ in 0..20 {
                let left: Vec<(u32, f64)> = sampler.distribution(logits, &mut scratch).unwrap().collect();
                let sum: f64 = left.iter().map(|entry| entry.1).sum();
                assert!((sum - 1.0).abs() < 1e-6, "{config:?} {logits:?}: {left:?}");
                let token = sampler.sample(logits, &mut scratch).unwrap();
                let p = left.iter().find(|entry| entry.0 == token).map_or(0.0, |entry| entry.1);
                assert!(p > 0.0 && logits[token as usize] > NEG, "{config:?} {logits:?}: {token}");
            }
            let nothing = vec![NEG; logits.len()];
            let error = sampler.sample(&nothing, &mut scratch).unwrap_err();
            assert_eq!(error, SamplerError::NothingLeft { vocabulary: logits.len() });
        }
    }
}

#[test]
fn everything_forbidden_is_an_error() {
    let logit_bias = vec![LogitBias::forbid(0), LogitBias::forbid(1)];
    let mut two = sampler(SamplerConfig { logit_bias, ..SamplerConfig::greedy() }, 2);
    assert_eq!(two.sample(&[1.0, INF]), Err(SamplerError::NothingLeft { vocabulary: 2 }));
}

#[test]
fn temperature_zero_takes_what_the_processors_before_it_leave() {
    let logits = [3.0, 2.9, 2.8, 0.0];
    let xtc = Xtc { probability: 1.0, threshold: 0.2 };
    let greedy = SamplerConfig { xtc, top_k: 4, ..SamplerConfig::greedy() };
    // With the temperature first, one token is left, and XTC needs two.
    assert_eq!(frequencies(&greedy, &logits, 50), [1.0, 0.0, 0.0, 0.0]);
    let after = SamplerConfig { order: LLAMA_CPP_ORDER.to_vec(), ..greedy.clone() };
    assert_eq!(frequencies(&after, &logits, 50), [0.0, 0.0, 1.0, 0.0]);
    // Without it in the order, the temperature is 1.
    let without = SamplerConfig { order: vec![Processor::TopK], top_k: 2, ..greedy };
    assert!(frequencies(&without, &logits, 500)[1] > 0.3);
}

#[test]
fn xtc_comes_as_often_as_it_says() {
    let xtc = Xtc { probability: 0.25, threshold: 0.3 };
    let config = SamplerConfig { xtc, ..SamplerConfig::default() };
    // Each has the probability ½; the first is excluded in a quarter of the choices.
    let found = frequencies(&config, &[1.0, 1.0], 20_000);
    assert!((found[0] - 0.375).abs() < 0.02, "{found:?}");
    let never = SamplerConfig { xtc: Xtc { probability: 1.0, threshold: 0.6 }, ..SamplerConfig::default() };
    assert_eq!(frequencies(&never, &[5.0, 0.0], 300), frequencies(&SamplerConfig::default(), &[5.0, 0.0], 300));
}

#[test]
fn dry_penalises_what_would_continue_a_repetition() {
    let dry = Dry { multiplier: 1.0, base: 2.0, allowed_length: 2, window: 100, breakers: vec![] };
    let logits = |dry: &Dry, text: &[u32]| {
        let config = SamplerConfig { dry: dry.clone(), ..SamplerConfig::default() };
        let mut sampler = sampler(config, 8);
        sampler.observe(text);
        let left: Vec<(u32, f64)> = sampler.0.distribution(&[0.0; 8], &mut sampler.1).unwrap().collect();
        // Token 7 is in no text, so its probability is that of no penalty.
        left.iter().map(|entry| ((left[7].1 / entry.1).ln() * 1e4).round() / 1e4).collect::<Vec<_>>()
    };
    // 1 2 3 stand there twice: 4 would make it four tokens, one more than 3 = allowed_length + 1.
    assert_eq!(logits(&dry, &[1, 2, 3, 4, 1, 2, 3]), [0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0]);
    assert_eq!(logits(&dry, &[2, 3, 4, 1, 2, 3]), [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(logits(&dry, &[3, 4, 1, 2, 3]), [0.0; 8], "one token may be repeated");
    // A breaker ends the repetition, and is not penalised itself.
    let with = |breakers: Vec<Vec<u32>>| Dry { breakers, ..dry.clone() };
    assert_eq!(logits(&with(vec![vec![2]]), &[1, 2, 3, 4, 1, 2, 3]), [0.0; 8]);
    assert_eq!(logits(&with(vec![vec![1, 2]]), &[1, 2, 3, 4, 1, 2, 3]), [0.0; 8]);
    assert_eq!(logits(&with(vec![vec![4]]), &[1, 2, 3, 4, 1, 2, 3]), [0.0; 8]);
    assert_eq!(logits(&with(vec![vec![2, 4]]), &[1, 2, 3, 4, 1, 2, 3])[4], 2.0);
    // The window ends it too.
    assert_eq!(logits(&Dry { window: 5, ..dry.clone() }, &[1, 2, 3, 4, 1, 2, 3]), [0.0; 8]);
}

#[test]
fn settings_of_the_processors_out_of_range_are_named() {
    let base = SamplerConfig::default();
    let dry = Dry::default();
    let miro = |tau, eta| Some(Mirostat { tau, eta });
    let dynamic = |range, exponent| DynamicTemperature { range, exponent };
    let order = |order: &[Processor]| SamplerConfig { order: order.to_vec(), ..SamplerConfig::default() };
    let bias = |bias| vec![LogitBias { token: 1, bias }];
    let nan = f32::NAN;
    let cases = [
        ("typical_p", SamplerConfig { typical_p: 0.0, ..base.clone() }),
        ("typical_p", SamplerConfig { typical_p: nan, ..base.clone() }),
        ("top_n_sigma", SamplerConfig { top_n_sigma: -1.0, ..base.clone() }),
        ("top_n_sigma", SamplerConfig { top_n_sigma: INF, ..base.clone() }),
        ("frequency_penalty", SamplerConfig { frequency_penalty: 1001.0, ..base.clone() }),
        ("frequency_penalty", SamplerConfig { frequency_penalty: nan, ..base.clone() }),
        ("presence_penalty", SamplerConfig { presence_penalty: NEG, ..base.clone() }),
        ("dynamic_temperature.range", SamplerConfig { dynamic_temperature: dynamic(-0.1, 1.0), ..base.clone() }),
        ("dynamic_temperature.exponent", SamplerConfig { dynamic_temperature: dynamic(0.1, nan), ..base.clone() }),
        ("xtc.probability", SamplerConfig { xtc: Xtc { probability: 1.1, threshold: 0.1 }, ..base.clone() }),
        ("xtc.threshold", SamplerConfig { xtc: Xtc { probability: 0.1, threshold: -0.1 }, ..base.clone() }),
        ("dry.multiplier", SamplerConfig { dry: Dry { multiplier: -1.0, ..dry.clone() }, ..base.clone() }),
        ("dry.base", SamplerConfig { dry: Dry { base: 0.99, ..dry.clone() }, ..base.clone() }),
        ("dry.window", SamplerConfig { dry: Dry { window: usize::MAX, ..dry.clone() }, ..base.clone() }),
        ("dry.breakers", SamplerConfig { dry: Dry { breakers: vec![vec![]], ..dry }, ..base.clone() }),
        ("mirostat.tau", SamplerConfig { mirostat: miro(-1.0, 0.1), ..base.clone() }),
        ("mirostat.eta", SamplerConfig { mirostat: miro(5.0, nan), ..base.clone() }),
        ("logit_bias", SamplerConfig { logit_bias: bias(INF), ..base.clone() }),
        ("logit_bias", SamplerConfig { logit_bias: bias(nan), ..base.clone() }),
        ("order", order(&[Processor::TopK, Processor::TopP, Processor::TopK])),
        ("order", order(&[Processor::TopK, Processor::Penalties])),
        ("order", order(&[Processor::Temperature, Processor::Dry])),
    ];
    for (name, config) in cases {
        let error = Sampler::new(config).unwrap_err();
        assert!(matches!(error, SamplerError::Setting { field, .. } if field == name), "{name}: {error}");
    }
    let config: SamplerConfig =
        serde_json::from_str(r#"{"order": ["dry", "typ_p"], "dry": {"multiplier": 0.8}, "mirostat": {}}"#).unwrap();
    assert_eq!((config.dry.base, config.mirostat), (1.75, Some(Mirostat::default())));
    assert!(serde_json::from_str::<SamplerConfig>(r#"{"dry": {"multiplyer": 1}}"#).is_err());
}
