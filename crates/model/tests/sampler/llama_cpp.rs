//! Candidates and probabilities against llama.cpp's samplers, which `benchmarks/sampling/llama_cpp.py` has run.

use std::collections::BTreeMap;

use smallmind_model::sampler::{LLAMA_CPP_ORDER, Sampler, SamplerConfig, SamplerScratch};

/// The cases of `llama_cpp.json`, or of the file that the variable `SMALLMIND_SAMPLING_CASES` names.
fn cases() -> serde_json::Value {
    let text = match std::env::var_os("SMALLMIND_SAMPLING_CASES") {
        Some(path) => std::fs::read_to_string(path).unwrap(),
        None => include_str!("llama_cpp.json").to_owned(),
    };
    serde_json::from_str(&text).unwrap()
}

#[test]
fn candidates_and_probabilities_are_those_of_llama_cpp() {
    let cases = cases();
    // By kind: cases, cases with other candidates, and the largest difference of a probability in the rest.
    let mut kinds: BTreeMap<&str, (usize, usize, f64)> = BTreeMap::new();
    for case in cases.as_array().unwrap() {
        let mut config: SamplerConfig = serde_json::from_value(case["config"].clone()).unwrap();
        config.order = LLAMA_CPP_ORDER.to_vec();
        let history: Vec<u32> = serde_json::from_value(case["history"].clone()).unwrap();
        let logits: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
        let expected: Vec<(u32, f64)> = serde_json::from_value(case["expected"].clone()).unwrap();
        let mut scratch = SamplerScratch::new(logits.len()).unwrap();
        let mut sampler = Sampler::new(config).unwrap();
        sampler.observe(&history);
        let mut found: Vec<(u32, f64)> = sampler.distribution(&logits, &mut scratch).unwrap().collect();
        found.sort_by_key(|(token, _)| *token);
        let (count, others, worst) = kinds.entry(case["kind"].as_str().unwrap()).or_default();
        *count += 1;
        if !found.iter().map(|(token, _)| token).eq(expected.iter().map(|(token, _)| token)) {
            *others += 1;
            eprintln!("other candidates: {case}\nfound {found:?}");
            continue;
        }
        for ((_, found), (_, expected)) in found.iter().zip(&expected) {
            *worst = worst.max((found - expected).abs());
        }
    }
    for (kind, (count, others, worst)) in &kinds {
        println!("{kind}: {count} cases, {others} with other candidates, probabilities within {worst:.1e}");
    }
    assert!(kinds.len() >= 18);
    for (kind, (_, others, worst)) in &kinds {
        assert!(*others == 0 && *worst < 2e-6, "{kind}: {others} with other candidates, {worst:e}");
    }
}
