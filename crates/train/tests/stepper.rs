//! A stepper's steps are those of the trainer, bit for bit, and its timed checkpoints are checkpoints.

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::{begin, tiny};
use smallmind_graph::{Batch, NoProbe};
use smallmind_model::Model;
use smallmind_simd::IsaKind;
use smallmind_train::data::Dataset;
use smallmind_train::{BatchShape, Event, RunParts, StepSettings, StepSizeError, Stepper, Trainer, Windows};

/// Settings under which the rate is the same at each step.
const STEADY: [&str; 5] =
    ["train.schedule=constant", "train.warmup=0", "train.steps=6", "train.total_tokens=48", "model.dropout=0.1"];

#[test]
fn its_steps_are_the_trainers() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&STEADY);
    let mut trainer = begin(dir.path(), "run", &config, 2).unwrap();
    let mut losses = vec![];
    let mut keep = |event: &Event| {
        if let Event::Step(step) = event {
            losses.push(step.loss);
        }
    };
    trainer.run(&AtomicBool::new(false), &mut keep).unwrap();

    let RunParts { config: told, prepared, model, warnings } = RunParts::open(&dir.path().join("run")).unwrap();
    assert_eq!((&told, model.weights()), (&config, trainer.learner().model().weights()));
    assert!(warnings.is_empty(), "{warnings:?}");
    let begun = Model::random(model.config().clone(), config.train.seed).unwrap();
    let settings = StepSettings::of(&told).unwrap();
    assert_eq!((settings.micro_batches, settings.tokens()), (3, 48));
    let end = prepared.tokenizer.eos();
    let stepper = Stepper::new(begun, settings, (prepared.train, end), 2, IsaKind::best()).unwrap();
    for threads in [1, 2] {
        let mut stepper = stepper.with_threads(threads).unwrap();
        let mut found = vec![];
        for step in 0..told.train.steps {
            let mut sum = 0.0;
            for micro_batch in 0..settings.micro_batches {
                stepper.draw(step, micro_batch).unwrap();
                sum += stepper.accumulate(step, micro_batch, &NoProbe).unwrap();
            }
            stepper.update(told.train.lr, &NoProbe).unwrap();
            found.push(sum / settings.tokens() as f64);
        }
        assert_eq!(found, losses, "{threads} threads");
        assert_eq!(stepper.learner().model().weights(), trainer.learner().model().weights());
    }
}

#[test]
fn a_timed_checkpoint_can_be_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&["train.steps=3"]);
    let run = dir.path().join("run");
    drop(begin(dir.path(), "run", &config, 1).unwrap());
    let prepared = smallmind_train::prepare::open(&run).unwrap();
    let tokenizer = prepared.tokenizer.to_json().unwrap();
    let model = Model::random(config.model_config(prepared.tokenizer.vocab_size()).unwrap(), 1).unwrap();
    let data = (prepared.train, prepared.tokenizer.eos());
    let stepper = Stepper::new(model, StepSettings::of(&config).unwrap(), data, 1, IsaKind::best()).unwrap();
    for step in 0..3 {
        let timed = stepper.time_checkpoint(&run, step, &config, tokenizer.as_bytes()).unwrap();
        assert!(timed.seconds > 0.0 && timed.warning.is_none(), "{timed:?}");
    }
    assert_eq!(std::fs::read_dir(run.join("checkpoints")).unwrap().count(), 1);
    let trainer = Trainer::resume(&run, &[], 1, IsaKind::best()).unwrap();
    assert_eq!(trainer.learner().model().weights(), stepper.learner().model().weights());
}

#[test]
fn a_typical_step_has_the_median_number_of_pairs() {
    let config = tiny(&[]);
    let model = Model::random(config.model_config(10).unwrap(), 1).unwrap();
    let settings = StepSettings { windows: Windows::Documents, ..StepSettings::of(&config).unwrap() };
    // Documents of 1 to 7 tokens, which the token 0 ends.
    let tokens: Vec<u32> = (0..200).flat_map(|i| [[1].repeat(1 + i * i % 7), vec![0]].concat()).collect();
    let data = (Arc::new(Dataset::from_tokens(&tokens, 10, 0).unwrap()), Some(0));
    let mut stepper = Stepper::new(model, settings, data, 1, IsaKind::best()).unwrap();
    let pairs = |batch: &Batch| batch.spans().iter().map(|span| span.len * span.len).sum::<usize>();
    let mut all = vec![];
    for step in 0..9 {
        let mut sum = 0;
        for micro_batch in 0..settings.micro_batches {
            stepper.draw(step, micro_batch).unwrap();
            sum += pairs(stepper.batch());
        }
        all.push(sum);
    }
    all.sort_unstable();
    let batches = stepper.typical_batches(9).unwrap();
    assert_eq!(batches.len(), settings.micro_batches);
    assert_eq!(batches.iter().map(pairs).sum::<usize>(), all[4], "{all:?}");
    assert!(all[0] < all[4], "steps of documents differ: {all:?}");
}

#[test]
fn a_step_is_gathered_over_micro_batches_of_any_shape_that_divides_it() {
    let steps = StepSettings::of(&tiny(&[])).unwrap();
    let over = |sequences, context, total| steps.over(BatchShape { sequences, context }, total);
    let micro_batches = |steps: Result<StepSettings, _>| steps.map(|steps| (steps.micro_batches, steps.tokens()));
    assert_eq!(micro_batches(over(2, 16, 96)), Ok((3, 96)));
    assert_eq!(micro_batches(over(5, 16, 0)), Ok((1, 80)));
    let indivisible = StepSizeError::Indivisible { total: 96, sequences: 5, context: 16 };
    assert_eq!(over(5, 16, 96), Err(indivisible));
    assert_eq!(over(0, 16, 96), Err(StepSizeError::Indivisible { total: 96, sequences: 0, context: 16 }));
    for (sequences, total) in [(usize::MAX, 0), (1, StepSizeError::MOST + 16)] {
        assert_eq!(over(sequences, 16, total), Err(StepSizeError::TooLarge { sequences, context: 16 }));
    }
}
