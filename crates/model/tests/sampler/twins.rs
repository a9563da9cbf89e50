//! Each processor, and chains of them, against plain definitions in f64.

use smallmind_model::sampler::{
    Dry, DynamicTemperature, HUGGING_FACE_ORDER, LLAMA_CPP_ORDER, LogitBias, Mirostat, Processor, Sampler,
    SamplerConfig, SamplerScratch, Xtc,
};

use crate::{INF, NEG};

/// Small pseudo-random numbers, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// In `[low, high)`.
    fn between(&mut self, low: f64, high: f64) -> f32 {
        (low + (high - low) * self.below(1 << 30) as f64 / (1u64 << 30) as f64) as f32
    }
}

/// The probabilities of candidates `(token, logit)`.
fn softmax(candidates: &[(usize, f64)]) -> Vec<f64> {
    let max = candidates.iter().map(|entry| entry.1).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = candidates.iter().map(|entry| (entry.1 - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

fn entropy(probabilities: &[f64]) -> f64 {
    probabilities.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum()
}

/// How long a repetition `token` would continue, if it does: tried from the longest down.
fn longest(dry: &Dry, text: &[u32], token: u32) -> Option<usize> {
    let text = &text[text.len().saturating_sub(dry.window)..];
    // The text after the breaker that begins last.
    let begin = (0..text.len()).rev().find_map(|begin| {
        let here = dry.breakers.iter().filter(|breaker| text[begin..].starts_with(breaker));
        here.map(|breaker| begin + breaker.len()).max()
    });
    let since = text.len() - begin.unwrap_or(0);
    let continues = |length: &usize| {
        let end = &text[text.len() - length..];
        // A token continues something, if only a token before it.
        let first = usize::from(*length == 0);
        (first..text.len() - length).any(|at| text[at..].starts_with(end) && text[at + length] == token)
    };
    if since < dry.allowed_length || text.len() <= dry.allowed_length {
        return None;
    }
    (dry.allowed_length..=since.min(text.len() - 1)).rev().find(continues)
}

fn penalties(config: &SamplerConfig, text: &[u32], candidates: &mut [(usize, f64)]) {
    let window = &text[text.len().saturating_sub(config.repetition_window)..];
    for (token, logit) in candidates {
        let count = window.iter().filter(|seen| **seen as usize == *token).count();
        if count > 0 {
            let factor = f64::from(config.repetition_penalty);
            *logit = if *logit > 0.0 { *logit / factor } else { *logit * factor };
            *logit -= count as f64 * f64::from(config.frequency_penalty) + f64::from(config.presence_penalty);
        }
    }
}

/// Keeps the first in the order of `key` that carry the share, at least `least`.
fn head(candidates: &mut Vec<(usize, f64)>, share: f32, least: usize, key: impl Fn(usize, &[f64]) -> f64) {
    let probabilities = softmax(candidates);
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| key(*a, &probabilities).total_cmp(&key(*b, &probabilities)).then(a.cmp(b)));
    let (mut sum, mut kept) = (0.0, vec![]);
    for index in order {
        if sum >= f64::from(share) && kept.len() >= least.max(1) {
            break;
        }
        sum += probabilities[index];
        kept.push(candidates[index]);
    }
    kept.sort_by_key(|entry| entry.0);
    *candidates = kept;
}

fn process(processor: Processor, config: &SamplerConfig, text: &[u32], candidates: &mut Vec<(usize, f64)>) {
    let probabilities = softmax(candidates);
    let top = probabilities.iter().copied().fold(0.0, f64::max);
    let least = config.min_keep;
    match processor {
        Processor::Penalties => penalties(config, text, candidates),
        Processor::Dry if config.dry.multiplier > 0.0 => {
            let dry = &config.dry;
            for (token, logit) in candidates {
                let is_breaker = dry.breakers.contains(&vec![*token as u32]);
                if let Some(length) = longest(dry, text, *token as u32).filter(|_| !is_breaker) {
                    let growth = f64::from(dry.base).powi((length - dry.allowed_length) as i32);
                    *logit -= f64::from(dry.multiplier) * growth;
                }
            }
        }
        Processor::TopNSigma if config.top_n_sigma > 0.0 => {
            let count = candidates.len() as f64;
            let mean = candidates.iter().map(|entry| entry.1).sum::<f64>() / count;
            let variance = candidates.iter().map(|entry| (entry.1 - mean).powi(2)).sum::<f64>() / count;
            let max = candidates.iter().map(|entry| entry.1).fold(f64::NEG_INFINITY, f64::max);
            candidates.retain(|entry| entry.1 >= max - f64::from(config.top_n_sigma) * variance.sqrt());
        }
        Processor::TopK if config.top_k > 0 => head(candidates, 0.0, config.top_k, |index, p| -p[index]),
        Processor::TopP if config.top_p < 1.0 => head(candidates, config.top_p, least, |index, p| -p[index]),
        Processor::TypicalP if config.typical_p < 1.0 => {
            head(candidates, config.typical_p, least, |index, p| (-p[index].ln() - entropy(p)).abs());
        }
        Processor::MinP if config.min_p > 0.0 => {
            let count = probabilities.iter().filter(|p| **p >= f64::from(config.min_p) * top).count();
            head(candidates, 0.0, count.max(least), |index, p| -p[index]);
        }
        // Only 0 and 1 in these tests: then nothing is left to chance.
        Processor::Xtc if config.xtc.probability == 1.0 => {
            let mut tops: Vec<f64> = probabilities.clone();
            tops.retain(|p| *p >= f64::from(config.xtc.threshold));
            let lowest = tops.iter().copied().fold(1.0, f64::min);
            if tops.len() > 1 && candidates.len() - (tops.len() - 1) >= least {
                let mut kept = probabilities.iter().map(|p| *p <= lowest);
                candidates.retain(|_| kept.next().unwrap());
            }
        }
        Processor::Temperature => {
            let (mut temperature, dynamic) = (f64::from(config.temperature), &config.dynamic_temperature);
            let range = f64::from(dynamic.range);
            if range > 0.0 && candidates.len() > 1 {
                let relative = entropy(&probabilities) / (candidates.len() as f64).ln();
                let (low, high) = ((temperature - range).max(0.0), temperature + range);
                temperature = low + (high - low) * relative.powf(f64::from(dynamic.exponent));
            }
            candidates.iter_mut().for_each(|entry| entry.1 /= temperature);
        }
        _ => {}
    }
}

/// The probability of each token by the definitions.
fn twin(config: &SamplerConfig, text: &[u32], logits: &[f32]) -> Vec<f64> {
    let mut candidates: Vec<(usize, f64)> = logits.iter().map(|logit| f64::from(*logit)).enumerate().collect();
    for bias in &config.logit_bias {
        candidates[bias.token as usize].1 += f64::from(bias.bias);
    }
    candidates.retain(|entry| entry.1 > f64::NEG_INFINITY);
    for processor in &config.order {
        let kept = [Processor::Penalties, Processor::Dry, Processor::Temperature].contains(processor);
        if config.mirostat.is_none() || kept {
            process(*processor, config, text, &mut candidates);
        }
    }
    if let Some(mirostat) = &config.mirostat {
        let count = softmax(&candidates).iter().filter(|p| -p.log2() <= 2.0 * f64::from(mirostat.tau)).count();
        head(&mut candidates, 0.0, count, |index, p| -p[index]);
    }
    let mut result = vec![0.0; logits.len()];
    for ((token, _), p) in candidates.iter().zip(softmax(&candidates)) {
        result[*token] = p;
    }
    result
}

/// The probability of each token by the sampler.
fn probabilities(config: &SamplerConfig, text: &[u32], logits: &[f32]) -> Vec<f64> {
    let mut scratch = SamplerScratch::new(logits.len()).unwrap();
    let mut sampler = Sampler::new(config.clone()).unwrap();
    sampler.observe(text);
    let before = sampler.state();
    let mut result = vec![0.0; logits.len()];
    sampler.distribution(logits, &mut scratch).unwrap().for_each(|(token, p)| result[token as usize] = p);
    assert_eq!(sampler.state(), before, "looking changes nothing");
    result
}

#[track_caller]
fn assert_twins(config: &SamplerConfig, text: &[u32], logits: &[f32]) {
    let (found, expected) = (probabilities(config, text, logits), twin(config, text, logits));
    for (token, (found, expected)) in found.iter().zip(&expected).enumerate() {
        // A weight of f32 may be 0 where that of f64 is just above.
        let is_same_side = if *expected > 1e-36 { *found > 0.0 } else { *found == 0.0 || *expected > 0.0 };
        let is_near = (found - expected).abs() < 2e-6;
        assert!(is_same_side && is_near, "{config:?}\n{text:?}\n{logits:?}\ntoken {token}: {found} for {expected}");
    }
}

/// The settings of one processor, at random.
fn settings(processor: Processor, numbers: &mut Numbers, config: &mut SamplerConfig) {
    match processor {
        Processor::Penalties => {
            config.repetition_penalty = numbers.between(0.5, 2.0);
            config.frequency_penalty = numbers.between(-1.0, 1.0);
            config.presence_penalty = numbers.between(-1.0, 1.0);
            config.repetition_window = numbers.below(60) as usize;
        }
        Processor::Dry => {
            let mut breaker = || (0..1 + numbers.below(3)).map(|_| numbers.below(6) as u32).collect();
            let breakers: Vec<Vec<u32>> = vec![breaker(), breaker()];
            config.dry = Dry {
                multiplier: numbers.between(0.1, 2.0),
                base: numbers.between(1.0, 2.5),
                allowed_length: numbers.below(4) as usize,
                window: numbers.below(60) as usize,
                breakers: breakers[..numbers.below(3) as usize].to_vec(),
            };
        }
        Processor::TopNSigma => config.top_n_sigma = numbers.between(0.1, 3.0),
        Processor::TopK => config.top_k = 1 + numbers.below(40) as usize,
        Processor::TypicalP => config.typical_p = numbers.between(0.05, 0.99),
        Processor::TopP => config.top_p = numbers.between(0.05, 0.99),
        Processor::MinP => config.min_p = numbers.between(0.001, 0.9),
        Processor::Xtc => config.xtc = Xtc { probability: 1.0, threshold: numbers.between(0.0, 0.5) },
        Processor::Temperature => {
            config.temperature = numbers.between(0.2, 3.0);
            let range = numbers.between(-1.0, 2.0).max(0.0);
            config.dynamic_temperature = DynamicTemperature { range, exponent: numbers.between(0.0, 3.0) };
        }
    }
}

fn text_and_logits(numbers: &mut Numbers) -> (Vec<u32>, Vec<f32>) {
    let text = (0..numbers.below(70)).map(|_| numbers.below(6) as u32).collect();
    // More than the first part that a truncation ranks, now and then, and never fewer tokens than the text has.
    let most = if numbers.below(4) == 0 { 600 } else { 40 };
    let count = 6 + numbers.below(most);
    (text, (0..count).map(|_| numbers.between(-6.0, 6.0)).collect())
}

#[test]
fn each_processor_is_its_definition() {
    let mut numbers = Numbers(1);
    for processor in LLAMA_CPP_ORDER {
        for _ in 0..300 {
            let mut config = SamplerConfig { min_keep: numbers.below(8) as usize, ..SamplerConfig::default() };
            settings(processor, &mut numbers, &mut config);
            let (text, logits) = text_and_logits(&mut numbers);
            assert_twins(&config, &text, &logits);
        }
    }
}

#[test]
fn chains_are_their_processors_one_after_the_other() {
    let mut numbers = Numbers(2);
    for round in 0..600 {
        let mut config = SamplerConfig::default();
        let mut order = if round % 2 == 0 { HUGGING_FACE_ORDER } else { LLAMA_CPP_ORDER };
        if round % 3 == 0 {
            // Any other order that begins with the penalties.
            (3..=9).for_each(|end| order.swap(end - 1, 2 + numbers.below(end as u64 - 2) as usize));
        }
        config.order = order.to_vec();
        for processor in order {
            if numbers.below(2) == 0 {
                settings(processor, &mut numbers, &mut config);
            }
        }
        let (text, logits) = text_and_logits(&mut numbers);
        assert_twins(&config, &text, &logits);
        // What is not in the order does not run.
        let left_out = config.order.remove(numbers.below(9) as usize);
        let found = probabilities(&config, &text, &logits);
        let mut neutral = SamplerConfig { order: order.to_vec(), ..SamplerConfig::default() };
        let all = config.clone();
        for processor in &config.order {
            match processor {
                Processor::Penalties => {
                    neutral.repetition_penalty = all.repetition_penalty;
                    neutral.frequency_penalty = all.frequency_penalty;
                    neutral.presence_penalty = all.presence_penalty;
                    neutral.repetition_window = all.repetition_window;
                }
                Processor::Dry => neutral.dry = all.dry.clone(),
                Processor::TopNSigma => neutral.top_n_sigma = all.top_n_sigma,
                Processor::TopK => neutral.top_k = all.top_k,
                Processor::TypicalP => neutral.typical_p = all.typical_p,
                Processor::TopP => neutral.top_p = all.top_p,
                Processor::MinP => neutral.min_p = all.min_p,
                Processor::Xtc => neutral.xtc = all.xtc.clone(),
                Processor::Temperature => {
                    neutral.temperature = all.temperature;
                    neutral.dynamic_temperature = all.dynamic_temperature.clone();
                }
            }
        }
        assert_eq!(found, probabilities(&neutral, &text, &logits), "without {left_out:?}");
    }
}

#[test]
fn biases_add_up_and_forbid() {
    let mut numbers = Numbers(3);
    for _ in 0..100 {
        let (text, logits) = text_and_logits(&mut numbers);
        let mut bias = || LogitBias { token: numbers.below(6) as u32, bias: numbers.between(-5.0, 5.0) };
        let logit_bias = vec![bias(), bias(), bias(), LogitBias::forbid(3)];
        assert_twins(&SamplerConfig { logit_bias, ..SamplerConfig::default() }, &text, &logits);
    }
    let bias = |token, bias| LogitBias { token, bias };
    // Forbidden stays forbidden, also at +∞; tokens outside the vocabulary are passed over.
    let logit_bias = vec![bias(0, NEG), bias(0, 1e38), bias(1, f32::MAX), bias(9, 1.0), LogitBias::forbid(3)];
    let config = SamplerConfig { logit_bias, ..SamplerConfig::default() };
    assert_eq!(probabilities(&config, &[], &[50.0, NEG, 1.0, INF]), [0.0, 0.0, 1.0, 0.0]);
    // What a bias makes of JSON and back.
    let json = serde_json::to_string(&config.logit_bias[..3]).unwrap();
    assert!(json.contains(r#"{"token":0,"bias":false}"#), "{json}");
    assert_eq!(serde_json::from_str::<Vec<LogitBias>>(&json).unwrap(), config.logit_bias[..3]);
    assert!(serde_json::from_str::<LogitBias>(r#"{"token":0,"bias":true}"#).is_err());
}

#[test]
fn mirostat_cuts_off_at_its_surprise_and_learns() {
    let mut numbers = Numbers(4);
    for round in 0..300 {
        let mirostat = Some(Mirostat { tau: numbers.between(0.0, 4.0), eta: 0.1 });
        let mut config = SamplerConfig { mirostat, top_k: 2, top_p: 0.1, ..SamplerConfig::default() };
        if round % 2 == 0 {
            settings(Processor::Penalties, &mut numbers, &mut config);
            settings(Processor::Temperature, &mut numbers, &mut config);
        }
        let (text, logits) = text_and_logits(&mut numbers);
        assert_twins(&config, &text, &logits);
    }
    // Over many tokens the mean surprise becomes the target, whatever the logits are.
    for tau in [1.0, 2.5] {
        let config = SamplerConfig { mirostat: Some(Mirostat { tau, eta: 0.1 }), ..SamplerConfig::default() };
        let mut sampler = Sampler::new(config.clone()).unwrap();
        let mut scratch = SamplerScratch::new(200).unwrap();
        let mut surprise = 0.0;
        for _ in 0..4000 {
            let logits: Vec<f32> = (0..200).map(|_| numbers.between(-4.0, 4.0)).collect();
            let before: Vec<(u32, f64)> = sampler.distribution(&logits, &mut scratch).unwrap().collect();
            let token = sampler.sample(&logits, &mut scratch).unwrap();
            surprise -= before.iter().find(|entry| entry.0 == token).unwrap().1.log2();
        }
        let mean = surprise / 4000.0;
        assert!((mean - f64::from(tau)).abs() < 0.05, "{mean} bits for {tau}");
        // A saved state has the surprise too.
        let state = serde_json::from_str(&serde_json::to_string(&sampler.state()).unwrap()).unwrap();
        let mut other = Sampler::new(config).unwrap();
        other.restore(&state).unwrap();
        assert_eq!(other.state(), sampler.state());
    }
}
