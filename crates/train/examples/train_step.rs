//! Times one training step of a preset, as `benchmarks/pytorch/train_step.py` does for PyTorch, and prints the same
//! kind of line.
//!
//! `cargo run --release -p smallmind-train --example train_step -- nanogpt-cpu 12 64 2` (preset, sequences, context,
//! threads)

use std::time::Instant;

use smallmind_graph::op::AdamWSpec;
use smallmind_graph::{Batch, NoProbe, available_threads};
use smallmind_model::{Model, preset};
use smallmind_simd::IsaKind;
use smallmind_train::{BatchShape, DropoutDraw, Learner, Optimizer};

const WARM_UP: usize = 10;
const STEPS: usize = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "nanogpt-cpu".into());
    let mut number = |default: usize| args.next().map_or(Ok(default), |text| text.parse::<usize>());
    let (sequences, context, threads) = (number(12)?, number(64)?, number(available_threads())?);

    let isa = IsaKind::best();
    let model = Model::random(preset::find(&name)?.config(), 1337)?;
    let vocab = model.config().vocab_size;
    let adamw = AdamWSpec { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
    let optimizer = Optimizer { adamw, max_norm: 1.0 };
    let shape = BatchShape { sequences, context };
    let mut learner = Learner::new(model, shape, optimizer, threads, isa)?;

    let mut batch = Batch::default();
    for sequence in 0..sequences {
        let tokens: Vec<u32> = (0..=context).map(|i| ((i * 7 + sequence * 13) % vocab) as u32).collect();
        batch.push_with_targets(&tokens[..context], &tokens[1..]);
    }
    let mut times = Vec::with_capacity(STEPS);
    for step in 0..WARM_UP + STEPS {
        let started = Instant::now();
        learner.accumulate(&batch, shape.tokens(), DropoutDraw { seed: 1337, step: step as u32 }, &NoProbe)?;
        learner.update(1e-3, &NoProbe)?;
        if step >= WARM_UP {
            times.push(started.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    let median = times[STEPS / 2];
    println!(
        r#"{{"preset": "{name}", "threads": {threads}, "isa": "{isa}", "step_ms_median": {:.3}, "step_ms_min": {:.3}, "tokens_per_second": {:.1}}}"#,
        median * 1e3,
        times[0] * 1e3,
        shape.tokens() as f64 / median
    );
    Ok(())
}
