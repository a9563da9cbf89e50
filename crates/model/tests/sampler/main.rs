//! Sampling against plain definitions of each filter, unusual logits, and saved states.

mod edges;
mod llama_cpp;
mod twins;

use std::ops::{Deref, DerefMut};

use proptest::prelude::*;
use smallmind_model::sampler::{Sampler, SamplerConfig, SamplerError, SamplerScratch, SamplerState};

const NEG: f32 = f32::NEG_INFINITY;
const INF: f32 = f32::INFINITY;

/// A sampler with memory of its own.
struct Own(Sampler, SamplerScratch);

impl Own {
    fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplerError> {
        self.0.sample(logits, &mut self.1)
    }
}

impl Deref for Own {
    type Target = Sampler;

    fn deref(&self) -> &Sampler {
        &self.0
    }
}

impl DerefMut for Own {
    fn deref_mut(&mut self) -> &mut Sampler {
        &mut self.0
    }
}

fn sampler(config: SamplerConfig, vocabulary: usize) -> Own {
    Own(Sampler::new(config).unwrap(), SamplerScratch::new(vocabulary).unwrap())
}

/// The probabilities that the settings leave, in f64 and by full sorting; no repetition penalty.
fn probabilities(config: &SamplerConfig, logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(NEG, f32::max);
    let weight = |logit: f32| f64::from((logit - max) / config.temperature).exp();
    let mut ranked: Vec<(usize, f64)> = logits.iter().map(|&logit| weight(logit)).enumerate().collect();
    ranked.sort_by(|a, b| logits[b.0].partial_cmp(&logits[a.0]).unwrap().then(a.0.cmp(&b.0)));
    if config.top_k > 0 {
        ranked.truncate(config.top_k);
    }
    let total: f64 = ranked.iter().map(|entry| entry.1).sum();
    let mut sum = 0.0;
    let needed = ranked.iter().take_while(|entry| {
        let needed = sum < f64::from(config.top_p) * total;
        sum += entry.1;
        needed
    });
    let needed = needed.count();
    if config.top_p < 1.0 {
        ranked.truncate(needed.max(1));
    }
    ranked.retain(|entry| entry.1 >= f64::from(config.min_p));
    let total: f64 = ranked.iter().map(|entry| entry.1).sum();
    let mut result = vec![0.0; logits.len()];
    for (id, weight) in ranked {
        result[id] = weight / total;
    }
    result
}

/// How often each token is drawn.
fn frequencies(config: &SamplerConfig, logits: &[f32], draws: usize) -> Vec<f64> {
    let mut sampler = sampler(config.clone(), logits.len());
    let mut counts = vec![0u32; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits).unwrap() as usize] += 1;
    }
    counts.into_iter().map(|count| f64::from(count) / draws as f64).collect()
}

#[test]
fn draws_follow_the_probabilities_that_the_filters_leave() {
    let logits: Vec<f32> = (0..300).map(|id| ((id * 7919) % 300) as f32 / 40.0).chain([3.0, 7.4, 7.4, NEG]).collect();
    let base = SamplerConfig { seed: 11, ..SamplerConfig::default() };
    let cases = [
        base.clone(),
        SamplerConfig { temperature: 0.3, ..base.clone() },
        SamplerConfig { temperature: 4.0, ..base.clone() },
        SamplerConfig { top_k: 1, ..base.clone() },
        SamplerConfig { top_k: 5, ..base.clone() },
        SamplerConfig { top_k: 1000, ..base.clone() },
        SamplerConfig { top_p: 0.5, ..base.clone() },
        SamplerConfig { top_p: 0.97, ..base.clone() },
        SamplerConfig { top_p: 1e-6, ..base.clone() },
        SamplerConfig { min_p: 0.2, ..base.clone() },
        SamplerConfig { min_p: 1.0, ..base.clone() },
        SamplerConfig { temperature: 0.8, top_k: 50, top_p: 0.9, min_p: 0.05, ..base.clone() },
    ];
    for config in cases {
        let expected = probabilities(&config, &logits);
        let found = frequencies(&config, &logits, 20_000);
        for (id, (expected, found)) in expected.iter().zip(&found).enumerate() {
            // Five standard deviations of the frequency; what cannot be drawn must not be drawn once.
            let slack = if *expected > 0.0 { 3.0 / 20_000.0 } else { 0.0 };
            let tolerance = 5.0 * (expected * (1.0 - expected) / 20_000.0).sqrt() + slack;
            assert!((expected - found).abs() <= tolerance, "{config:?}: token {id}: {found} instead of {expected}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Exactly the tokens that the definitions leave can be drawn, ties and tails included.
    #[test]
    fn only_and_all_tokens_that_the_filters_leave_are_drawn(
        logits in prop::collection::vec(prop::sample::select(vec![NEG, -3.0, -1.0, 0.0, -0.0, 0.5, 1.0, 1.5f32]), 1..200),
        top_k in 0usize..12,
        top_p in prop::sample::select(vec![0.1f32, 0.5, 0.9, 1.0]),
        min_p in prop::sample::select(vec![0.0f32, 0.3, 1.0]),
        seed in any::<u64>(),
    ) {
        let config = SamplerConfig { top_k, top_p, min_p, seed, ..SamplerConfig::default() };
        let mut sampler = sampler(config.clone(), logits.len());
        if logits.iter().all(|logit| *logit == NEG) {
            prop_assert_eq!(sampler.sample(&logits), Err(SamplerError::NothingLeft { vocabulary: logits.len() }));
        } else {
            let allowed = probabilities(&config, &logits);
            for _ in 0..50 {
                let token = sampler.sample(&logits).unwrap() as usize;
                prop_assert!(allowed[token] > 0.0, "token {token} of {logits:?}");
            }
        }
    }
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_lowest_id() {
    let mut greedy = sampler(SamplerConfig::greedy(), 5);
    assert_eq!(greedy.sample(&[0.0, 3.0, -1.0, 3.0, 2.0]), Ok(1));
    assert_eq!(greedy.sample(&[-0.0, 0.0, -0.0, -1.0, -1.0]), Ok(0));
    assert_eq!(greedy.sample(&[1.0; 5]), Ok(0));
    assert_eq!(greedy.sample(&[NEG, NEG, NEG, f32::MIN, NEG]), Ok(3));
    let before = greedy.state();
    greedy.sample(&[1.0; 5]).unwrap();
    assert_eq!(before, greedy.state(), "greedy choice uses no random number");
}

#[test]
fn ties_at_the_edge_of_top_k_and_top_p_go_to_the_lower_ids() {
    let logits = [1.0, 2.0, 1.0, 1.0, 1.0];
    for config in [
        SamplerConfig { top_k: 3, ..SamplerConfig::default() },
        // e / (e + 4) is about 0.40 and each further token 0.15.
        SamplerConfig { top_p: 0.6, ..SamplerConfig::default() },
    ] {
        let found = frequencies(&config, &logits, 2000);
        assert!(found[0] > 0.0 && found[1] > 0.0 && found[2] > 0.0 && found[3] == 0.0 && found[4] == 0.0, "{found:?}");
    }
}

#[test]
fn unusual_logits_have_defined_answers() {
    for config in [SamplerConfig::greedy(), SamplerConfig { top_k: 2, top_p: 0.9, min_p: 0.1, ..Default::default() }] {
        let mut three = sampler(config.clone(), 3);
        assert_eq!(three.sample(&[NEG; 3]), Err(SamplerError::NothingLeft { vocabulary: 3 }));
        assert_eq!(three.sample(&[1.0, f32::NAN, f32::NAN]), Err(SamplerError::NotANumber { index: 1 }));
        assert_eq!(three.sample(&[INF, f32::NAN, 0.0]), Err(SamplerError::NotANumber { index: 1 }));
        assert_eq!(three.sample(&[1.0]), Err(SamplerError::Length { expected: 3, found: 1 }));
        assert_eq!(three.sample(&[0.0, 5.0, INF]), Ok(2));
        assert_eq!(three.sample(&[NEG, NEG, -1e30]), Ok(2));
        assert_eq!(three.sample(&[NEG, f32::MIN, f32::MAX]), Ok(2));
        assert_eq!(sampler(config.clone(), 1).sample(&[-7.0]), Ok(0));
        assert_eq!(sampler(config.clone(), 1).sample(&[INF]), Ok(0));
        assert_eq!(SamplerScratch::new(0).unwrap_err(), SamplerError::EmptyVocabulary);
    }
    let found = frequencies(&SamplerConfig::default(), &[INF, 3.0, INF, NEG], 4000);
    assert!(found[1] == 0.0 && found[3] == 0.0 && (found[0] - 0.5).abs() < 0.05, "{found:?}");
    let found = frequencies(&SamplerConfig::default(), &[-2.5; 4], 4000);
    assert!(found.iter().all(|share| (share - 0.25).abs() < 0.05), "{found:?}");
    // Temperatures at the edge of what numbers can hold.
    for temperature in [f32::MIN_POSITIVE, 1e-45] {
        let config = SamplerConfig { temperature, ..SamplerConfig::default() };
        assert_eq!(frequencies(&config, &[1.0, 1.0000001, -f32::MAX, f32::MIN], 50), [0.0, 1.0, 0.0, 0.0]);
    }
    let flat =
        frequencies(&SamplerConfig { temperature: f32::MAX, ..Default::default() }, &[0.0, 50.0, -50.0, NEG], 6000);
    assert!(flat[3] == 0.0 && flat[..3].iter().all(|share| (share - 1.0 / 3.0).abs() < 0.04), "{flat:?}");
}

#[test]
fn settings_out_of_range_are_named() {
    let base = SamplerConfig::default();
    let nan = f32::NAN;
    let cases = [
        ("temperature", SamplerConfig { temperature: -0.1, ..base.clone() }),
        ("temperature", SamplerConfig { temperature: nan, ..base.clone() }),
        ("temperature", SamplerConfig { temperature: INF, ..base.clone() }),
        ("top_p", SamplerConfig { top_p: 0.0, ..base.clone() }),
        ("top_p", SamplerConfig { top_p: 1.01, ..base.clone() }),
        ("top_p", SamplerConfig { top_p: nan, ..base.clone() }),
        ("min_p", SamplerConfig { min_p: -0.01, ..base.clone() }),
        ("min_p", SamplerConfig { min_p: 1.5, ..base.clone() }),
        ("min_p", SamplerConfig { min_p: nan, ..base.clone() }),
        ("repetition_penalty", SamplerConfig { repetition_penalty: 0.0, ..base.clone() }),
        ("repetition_penalty", SamplerConfig { repetition_penalty: -1.0, ..base.clone() }),
        ("repetition_penalty", SamplerConfig { repetition_penalty: nan, ..base.clone() }),
        ("repetition_window", SamplerConfig { repetition_window: usize::MAX, ..base.clone() }),
    ];
    for (name, config) in cases {
        let error = Sampler::new(config).unwrap_err();
        assert!(matches!(error, SamplerError::Setting { field, .. } if field == name), "{error}");
        assert!(error.to_string().contains(name) && error.to_string().contains("allowed"), "{error}");
    }
    assert!(serde_json::from_str::<SamplerConfig>(r#"{"temprature": 1}"#).is_err());
    let config: SamplerConfig = serde_json::from_str(r#"{"temperature": 0.5, "top_k": 3}"#).unwrap();
    assert_eq!(config, SamplerConfig { temperature: 0.5, top_k: 3, ..base });
}

#[test]
fn the_penalty_counts_each_token_of_the_window_once() {
    let config = SamplerConfig { repetition_penalty: 2.0, repetition_window: 3, ..SamplerConfig::greedy() };
    let mut greedy = sampler(config, 4);
    // 8 halves to 4, once only, and −1 doubles to −2; tokens of no vocabulary are passed over.
    greedy.observe(&[0, 0, 2]);
    assert_eq!(greedy.sample(&[8.0, 3.9, -1.0, -1.5]), Ok(0));
    let mut greedy = sampler(greedy.config().clone(), 4);
    greedy.observe(&[0, 0, 99]);
    assert_eq!(greedy.sample(&[8.0, 4.1, -1.0, -1.5]), Ok(1));
    let mut greedy = sampler(greedy.config().clone(), 4);
    greedy.observe(&[2, 2, 2]);
    assert_eq!(greedy.sample(&[NEG, NEG, -1.0, -1.5]), Ok(3));
    // What a sampler chose itself counts too, and leaves the window after three more.
    let mut greedy = sampler(greedy.config().clone(), 4);
    let logits = [8.0, 7.0, 6.0, 5.0];
    let chosen: Vec<u32> = (0..6).map(|_| greedy.sample(&logits).unwrap()).collect();
    assert_eq!(chosen, [0, 1, 2, 3, 0, 1]);
}

#[test]
fn a_restored_sampler_goes_on_where_the_saved_one_stood() {
    let config = SamplerConfig { repetition_penalty: 1.3, repetition_window: 5, seed: 3, ..SamplerConfig::default() };
    let logits: Vec<f32> = (0..50).map(|id| (id % 7) as f32 / 3.0).collect();
    for steps in 0..12 {
        let mut one = sampler(config.clone(), 50);
        one.observe(&[1, 2]);
        for _ in 0..steps {
            one.sample(&logits).unwrap();
        }
        let saved = serde_json::to_string(&one.state()).unwrap();
        let mut other = sampler(SamplerConfig { seed: 99, ..config.clone() }, 50);
        other.sample(&logits).unwrap();
        other.restore(&serde_json::from_str::<SamplerState>(&saved).unwrap()).unwrap();
        for _ in 0..20 {
            assert_eq!(one.sample(&logits), other.sample(&logits));
        }
        assert_eq!(one.state(), other.state());
    }
    let damaged: SamplerState = serde_json::from_str(r#"{"rng":[0,0,0,0],"recent":[]}"#).unwrap();
    assert!(matches!(sampler(config, 50).restore(&damaged), Err(SamplerError::State { .. })));
}

#[test]
fn seeds_decide_and_errors_change_nothing() {
    let logits: Vec<f32> = (0..100).map(|id| (id % 9) as f32 / 4.0).collect();
    let run = |seed| {
        let mut sampler = sampler(SamplerConfig { seed, ..SamplerConfig::default() }, 100);
        (0..30).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
    let mut sampler = sampler(SamplerConfig { repetition_penalty: 1.1, ..SamplerConfig::default() }, 100);
    let before = sampler.state();
    sampler.sample(&[f32::NAN; 100]).unwrap_err();
    sampler.sample(&[NEG; 100]).unwrap_err();
    sampler.sample(&[0.0; 3]).unwrap_err();
    assert_eq!(before, sampler.state());
}

/// Samplers with other settings and other windows take turns with one memory.
#[test]
fn samplers_share_their_memory() {
    let base = SamplerConfig { repetition_penalty: 1.7, repetition_window: 5, ..SamplerConfig::default() };
    let configs = [
        base.clone(),
        SamplerConfig { seed: 3, top_p: 0.8, repetition_penalty: 0.6, ..base.clone() },
        SamplerConfig { seed: 4, top_k: 3, min_p: 0.1, repetition_penalty: 1.0, ..base },
    ];
    let mut shared = SamplerScratch::new(40).unwrap();
    let mut sharing = configs.clone().map(|config| Sampler::new(config).unwrap());
    let mut alone = configs.map(|config| sampler(config, 40));
    for round in 0..200 {
        let which = round * 7 % 3;
        let logits: Vec<f32> = (0..40).map(|id| ((id * 31 + round * 17) % 41) as f32 / 12.0).collect();
        let token = alone[which].sample(&logits);
        assert_eq!(sharing[which].sample(&logits, &mut shared), token, "round {round}");
    }
}
