//! Greedy tokens and logits of a model, for `benchmarks/llama_cpp/compare.py`.
//!
//! `greedy MODEL [FORMAT]` reads a JSON line `{"prompt": [ids], "tokens": n}` for each text from standard input, and
//! writes a line `{"tokens": [ids], "gaps": [x], "logits": [x]}`: the greedy tokens, for each the gap between the
//! largest logit and the next, and all logits after the prompt.

use std::io::{BufRead, Write};
use std::sync::Arc;

use serde_json::{Value, json};
use smallmind_kernels::Format;
use smallmind_model::{LoadOptions, ModelFiles, PackedModel, Session, SessionOptions};
use smallmind_simd::IsaKind;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().ok_or("usage: greedy MODEL [FORMAT]")?;
    let weights = arguments.get(1).and_then(|name| Format::from_name(name));
    let files = ModelFiles::open(path)?;
    let model = PackedModel::from_files(&files, LoadOptions::default(), IsaKind::best(), weights)?;
    let context = model.config().context;
    let mut session = Session::new(Arc::new(model), SessionOptions::single(context, 1))?;
    for line in std::io::stdin().lock().lines() {
        let line: Value = serde_json::from_str(&line?)?;
        let prompt: Vec<u32> = serde_json::from_value(line["prompt"].clone())?;
        let count = usize::try_from(line["tokens"].as_u64().unwrap_or(0))?;
        let sequence = session.open()?;
        let mut logits = session.append(sequence, &prompt)?.to_vec();
        let after_prompt = logits.clone();
        let (mut tokens, mut gaps) = (Vec::new(), Vec::new());
        while tokens.len() < count && session.len(sequence) < context {
            let (token, gap) = largest(&logits);
            tokens.push(token);
            gaps.push(gap);
            logits = session.append(sequence, &[token])?.to_vec();
        }
        session.close(sequence);
        writeln!(std::io::stdout(), "{}", json!({"tokens": tokens, "gaps": gaps, "logits": after_prompt}))?;
    }
    Ok(())
}

/// The index of the largest logit, the first of equals, and how far the next is below it.
fn largest(logits: &[f32]) -> (u32, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    let mut second = f32::NEG_INFINITY;
    for (i, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            (second, best) = (best.1, (i, logit));
        } else if logit > second {
            second = logit;
        }
    }
    (best.0, best.1 - second)
}
