//! The workload of the first SmallMind's profile, as fast as it was then and as it is now, and what each improvement is
//! worth.
//!
//! The first SmallMind, a C# engine, published a profile of the model `seed-deep` on four cores: for each of 50 tokens
//! it ran the whole text through the model again. [`SeedBench`] does three things:
//!
//! * **The ladder.** It computes the same tokens in plain loops, then switches on one improvement (a *remedy*) after
//!   another, up to the engine with its key-value cache.
//! * **Without.** It leaves out one remedy of the plain way at a time.
//! * **Kernels.** It times a few cases of [`crate::Bench`], to compare with that profile's figures.
//!
//! First the logits of each way are compared with the engine's: a way with wrong logits gets no time.
//!
//! The slow ways are in [`plain`] and [`loops`]; the engine has no switch for them.

mod engine;
mod format;
mod kernel;
mod kernels;
mod ladder;
mod loops;
mod names;
mod plain;
mod row;
mod tensors;
#[cfg(test)]
mod tests;
mod workload;

use smallmind_simd::IsaKind;

pub use format::{SEED_CSV_HEADER, SeedWriter};
pub use row::{SeedPart, SeedRow};
pub use workload::Workload;

use crate::row::median;
use crate::{BenchError, Sampling};
use engine::{Outputs, WeightLayout};
use ladder::{Rung, Timed, Way, all_but_one, check, rungs, time};
use workload::{DROPOUT, Prepared};

/// The most that a logit may differ from the engine's, as a fraction of the greatest logit.
pub const TOLERANCE: f32 = 1e-4;

/// Tokens per second of the first SmallMind's first version.
const FIRST_VERSION: f64 = 6.4;
/// Tokens per second of its last version.
const LAST_VERSION: f64 = 19.7;
/// Bytes that its last version allocated for a token.
const THEN_BYTES: f64 = 51.5e6;
/// Tokens per second that its authors aimed at.
const HOPED: f64 = 75.0;
/// Megabytes allocated for a token that its authors aimed at.
const HOPED_MB: f64 = 3.0;
/// Tokens per second that this engine should reach without a cache, over the whole text for each token.
const FULL_TARGET: f64 = 500.0;
/// Tokens per second that this engine should reach with its cache.
const CACHED_TARGET: f64 = 5000.0;

/// A way to compute logits.
trait Forward {
    /// The logits `[vocab]` of what follows the last of `tokens`, which are at least one.
    ///
    /// A way with a cache takes a text that is longer than the one before for its continuation.
    fn logits(&mut self, tokens: &[u32]) -> Result<&[f32], BenchError>;
}

/// The index of the greatest logit.
fn greatest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best
}

/// A measurement to be made.
#[derive(Clone, Debug)]
pub struct SeedBench {
    /// What is generated.
    pub workload: Workload,
    /// Seed of the weights and the prompt.
    pub seed: u64,
    /// The widest instruction set of the ladder.
    pub isa: IsaKind,
    /// Workers of the engine at its best.
    pub threads: usize,
    /// The least number of times that the text is generated; fast ways generate it more often.
    pub runs: usize,
    /// How kernels are timed.
    pub sampling: Sampling,
    /// Returns the bytes that this process has allocated so far.
    pub allocated: fn() -> u64,
    /// This library's version.
    pub version: String,
}

impl SeedBench {
    /// Measures everything, and passes each row to `on_row` as soon as it is measured. Returns a sentence for each row
    /// with an error.
    ///
    /// # Errors
    /// The system refuses threads or memory, or `on_row` fails.
    pub fn run<E: From<BenchError>>(
        &self,
        mut on_row: impl FnMut(&SeedRow) -> Result<(), E>,
    ) -> Result<Vec<String>, E> {
        let mut errors = kernels::measure(self, &mut on_row)?;
        let prepared = Prepared::new(self.workload.clone(), self.seed)?;
        let mut rows: Vec<(Rung, SeedRow)> = Vec::new();
        for rung in rungs(self.threads, self.isa) {
            let mut row = self.measure(&prepared, &rung, &prepared.references, false)?;
            let over = |earlier: Option<f64>| row.now.zip(earlier).map(|(now, earlier)| now / earlier);
            // A wrong rung has no rate: the next rung is compared with the last that has one.
            let before = over(rows.iter().rev().find_map(|(_, row)| row.now));
            let naive = over(rows.first().and_then(|(_, row)| row.now));
            (row.factor, row.over_naive) = (before, naive);
            on_row(&row)?;
            rows.push((rung, row));
        }
        errors.extend(rows.iter().filter_map(|(_, row)| complaint(row)));
        for row in self.without(&prepared)? {
            on_row(&row)?;
            errors.extend(complaint(&row));
        }
        for row in self.then_and_now(&prepared, &rows)? {
            on_row(&row)?;
            // Errors of rows that repeat a rung of the ladder have been reported with the ladder.
            errors.extend(complaint(&row).filter(|text| !errors.contains(text)));
        }
        Ok(errors)
    }

    /// What each remedy of the plain way is worth if all others are on.
    fn without(&self, prepared: &Prepared) -> Result<Vec<SeedRow>, BenchError> {
        let (all, without) = all_but_one(self.isa);
        let measure = |rung: &Rung| {
            let row = self.measure(prepared, rung, &prepared.references, false)?;
            Ok::<_, BenchError>(SeedRow { part: SeedPart::Without, ..row })
        };
        let mut rows = vec![measure(&all)?];
        for rung in &without {
            let mut row = measure(rung)?;
            row.factor = rows[0].now.zip(row.now).map(|(with, without)| with / without);
            rows.push(row);
        }
        Ok(rows)
    }

    /// Checks a rung, then times it.
    fn measure(
        &self,
        prepared: &Prepared,
        rung: &Rung,
        references: &[(usize, Vec<f32>)],
        decode_only: bool,
    ) -> Result<SeedRow, BenchError> {
        let mut forward = rung.open(prepared)?;
        let mut row = SeedRow::new(SeedPart::Ladder, &rung.name, rung.threads, rung.isa.name(), "tokens/s");
        row.note = rung.note.to_owned();
        if let Err(wrong) = check(&mut *forward, &prepared.tokens, references)? {
            row.error = Some(wrong);
            return Ok(row);
        }
        let timed = Timed { stride: rung.stride(), decode_only, runs: self.runs, allocated: self.allocated };
        let timing = time(&mut *forward, prepared, timed)?;
        let seconds = median(&timing.seconds).unwrap_or(f64::NAN) / timing.tokens as f64;
        row.runs = timing.seconds.len();
        row.tokens = Some(timing.tokens);
        row.now = Some(1.0 / seconds);
        row.ms_per_forward = Some(1e3 * seconds);
        row.bytes_per_token = Some(timing.bytes_per_token);
        if rung.stride() > 1 {
            row.note += &format!("; {} of {} tokens timed", timing.tokens, self.workload.generated);
        }
        Ok(row)
    }

    /// The engine's figures next to those of the first SmallMind.
    fn then_and_now(&self, prepared: &Prepared, rows: &[(Rung, SeedRow)]) -> Result<Vec<SeedRow>, BenchError> {
        let found = |wanted: fn(&Way) -> bool| rows.iter().rev().find(|(rung, _)| wanted(&rung.way));
        let full = found(|way| {
            matches!(way, Way::Planned { fused: true, weights: WeightLayout::Packed, outputs: Outputs::All, .. })
        });
        let cached = found(|way| matches!(way, Way::Cached));
        let named = |row: &SeedRow, name: &str, note: &str| SeedRow {
            part: SeedPart::Workload,
            name: name.to_owned(),
            note: note.to_owned(),
            factor: None,
            over_naive: None,
            ..row.clone()
        };
        let published = self.workload.is_published();
        let mut all = vec![];
        if let Some((_, row)) = full {
            let mut row = named(row, "full forward, no cache", "all logits of the whole text for each token");
            if published {
                row.note += &format!("; then {FIRST_VERSION} at first");
                (row.then, row.then_bytes_per_token) = (Some(LAST_VERSION), Some(THEN_BYTES));
                row.target = Some(FULL_TARGET);
            }
            all.push(row);
        }
        let training = Rung {
            name: "full forward, training mode".into(),
            note: "",
            threads: self.threads,
            isa: self.isa,
            // Training changes its weights with every step.
            way: Way::Planned { fused: true, weights: WeightLayout::Rows, outputs: Outputs::All, dropout: DROPOUT },
        };
        let row = self.measure(prepared, &training, &prepared.training_reference()?, false)?;
        all.push(named(&row, &training.name, &format!("with dropout of {DROPOUT}")));
        if let Some((rung, row)) = cached {
            let mut whole = named(row, "key-value cache", "the prompt's time counts");
            if published {
                whole.note += &format!("; hoped for then: {HOPED} tokens/s, {HOPED_MB} MB a token");
                whole.target = Some(CACHED_TARGET);
            }
            all.push(whole);
            let row = self.measure(prepared, rung, &prepared.references, true)?;
            all.push(named(&row, "key-value cache, after the prompt", "tokens one by one"));
        }
        Ok(all)
    }
}

fn complaint(row: &SeedRow) -> Option<String> {
    let without = if row.part == SeedPart::Without { "without " } else { "" };
    row.error.as_ref().map(|error| format!("{without}{}: {error}", row.name))
}
