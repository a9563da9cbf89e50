//! Tiny trainings that the tests of this crate share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use smallmind_simd::IsaKind;
use smallmind_train::stories::{Split, write_corpus};
use smallmind_train::{
    Event, Existing, Moments, Overlay, RunDir, Source, Summary, TrainConfig, TrainError, Trainer, prepare,
};

/// Settings of a model that takes microseconds a step. Every step is logged.
const TINY: &[&str] = &[
    "data.tokenizer=characters",
    "data.validation=0.2",
    "model.layers=1",
    "model.heads=2",
    "model.d_model=16",
    "model.context=8",
    "train.batch=2",
    "train.warmup=5",
    "train.steps=20",
    "eval.interval=0",
    "eval.batches=2",
    "sample.interval=0",
    "checkpoint.interval=0",
    "log.interval=1",
];

/// Assignments as overlays.
pub fn overlays<S: AsRef<str>>(assignments: &[S]) -> Vec<Overlay> {
    assignments.iter().map(|text| Overlay::assignment(text.as_ref()).unwrap()).collect()
}

/// The tiny settings with some changed.
pub fn tiny(changed: &[&str]) -> TrainConfig {
    let all: Vec<&str> = TINY.iter().chain(changed).copied().collect();
    TrainConfig::with_overlays(Some("nanogpt-cpu"), &overlays(&all)).unwrap()
}

/// A text file of about three kilobytes beside the run.
pub fn text_file(dir: &Path) -> PathBuf {
    let path = dir.join("text.txt");
    if !path.exists() {
        fs::write(&path, write_corpus(7, 3000, Split::Train)).unwrap();
    }
    path
}

/// A new run in `dir/name` on the text of `dir`.
pub fn begin(dir: &Path, name: &str, config: &TrainConfig, threads: usize) -> Result<Trainer, TrainError> {
    begin_with(dir, name, config, (threads, IsaKind::best()))
}

/// [`begin`] with an instruction set.
pub fn begin_with(
    dir: &Path,
    name: &str,
    config: &TrainConfig,
    (threads, isa): (usize, IsaKind),
) -> Result<Trainer, TrainError> {
    let run = RunDir::claim(&dir.join(name), Existing::Refuse)?;
    let prepared = prepare(&run.staging(), config, Source::Files(&[text_file(dir)]), &mut |_| {})?;
    Trainer::create(run, config.clone(), prepared, threads, isa)
}

/// Goes on with the run in `run` as it is.
pub fn resume(run: &Path, threads: usize) -> Trainer {
    Trainer::resume(run, &[], threads, IsaKind::best()).unwrap()
}

/// Runs to the end.
pub fn finish(trainer: &mut Trainer) -> (Summary, Vec<Event>) {
    let mut events = Vec::new();
    let summary = trainer.run(&AtomicBool::new(false), &mut |event| events.push(event.clone())).unwrap();
    (summary, events)
}

/// Runs until `step` is done, then asks it to stop.
pub fn stop_after(trainer: &mut Trainer, step: u64) -> (Summary, Vec<Event>) {
    let stop = AtomicBool::new(false);
    let mut events = Vec::new();
    let summary = trainer.run(&stop, &mut |event| {
        if matches!(event, Event::Step(s) if s.step == step) {
            stop.store(true, Ordering::Relaxed);
        }
        events.push(event.clone());
    });
    (summary.unwrap(), events)
}

/// The bits of weights and both moments.
pub fn state(trainer: &Trainer) -> [Vec<u32>; 3] {
    let Moments { first, second } = trainer.learner().moments();
    [trainer.learner().model().weights(), first, second].map(|values| values.iter().map(|x| x.to_bits()).collect())
}

/// What a training told of its losses: (step, bits of the loss and of the norm), and (step, bits of both estimates).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Of the steps.
    pub steps: Vec<(u64, u64, u32)>,
    /// Of the estimates.
    pub estimates: Vec<(u64, u64, u64)>,
}

/// The losses among events.
pub fn losses(events: &[Event]) -> Losses {
    let mut losses = Losses::default();
    for event in events {
        match event {
            Event::Step(s) => losses.steps.push((s.step, s.loss.to_bits(), s.grad_norm.to_bits())),
            Event::Eval(e) => losses.estimates.push((e.step, e.train_loss.to_bits(), e.val_loss.to_bits())),
            _ => {}
        }
    }
    losses
}

/// The messages of warnings.
pub fn warnings(events: &[Event]) -> Vec<String> {
    let message = |event: &Event| match event {
        Event::Warning { message } => Some(message.clone()),
        _ => None,
    };
    events.iter().filter_map(message).collect()
}

/// The step of the checkpoint that a training went on from.
pub fn resumed_from(events: &[Event]) -> Option<u64> {
    events.iter().find_map(|event| match event {
        Event::Started(started) => Some(started.resumed_from),
        _ => None,
    })?
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The folder of a checkpoint.
pub fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step-{step:08}"))
}
