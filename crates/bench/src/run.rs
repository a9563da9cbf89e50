//! A whole measurement: roofs, then every case.

use smallmind_graph::Pool;
use smallmind_profile::{Roofs, roofs::Effort};
use smallmind_simd::IsaKind;

use crate::against::Baseline;
use crate::case::Case;
use crate::cases::Cases;
use crate::error::BenchError;
use crate::rival::{Contender, Rival};
use crate::row::{Row, Who, median, roof_rows};
use crate::sample::{Player, Sampling, Stage};
use crate::work::{self, Target, Work};

/// The name of this library among contenders.
pub const OWN: &str = "smallmind";

/// Which ways to compute a case are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// As the engine computes it.
    Chosen,
    /// The kernels between which the engine chooses, each called by itself; cases without a choice are skipped.
    All,
}

/// A measurement to be made.
#[derive(Debug)]
pub struct Bench {
    /// The instruction set.
    pub isa: IsaKind,
    /// The numbers of threads, one after the other.
    pub threads: Vec<usize>,
    /// The cases.
    pub cases: Cases,
    /// The filters of the cases. Roofs become rows where all of these allow the word `roof`.
    pub filters: Vec<String>,
    /// How many samples are taken, and how long they are.
    pub sampling: Sampling,
    /// How much time the roofs take.
    pub effort: Effort,
    /// Whether the engine or its candidates are timed.
    pub routes: Routes,
    /// An earlier record to compare with.
    pub baseline: Option<Baseline>,
    /// This library's version.
    pub version: String,
}

/// Findings of a measurement, beside its rows.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Wrong results and failed rivals, a sentence each.
    pub errors: Vec<String>,
    /// Times of this library over those of the earlier record, with the rows' names.
    pub ratios: Vec<(String, f64)>,
    /// Times of the engine's choice over those of its best candidate, with the cases' names.
    pub lags: Vec<(String, f64)>,
    /// Cases that were not measured.
    pub left_out: Vec<String>,
}

impl Outcome {
    /// The rows that are slower than in the earlier record by more than `percent`.
    pub fn regressions(&self, percent: f64) -> Vec<&(String, f64)> {
        self.ratios.iter().filter(|(_, ratio)| *ratio > 1.0 + percent / 100.0).collect()
    }

    /// The cases whose choice is slower than the best candidate by more than `percent`.
    pub fn wrong_choices(&self, percent: f64) -> Vec<&(String, f64)> {
        self.lags.iter().filter(|(_, lag)| *lag > 1.0 + percent / 100.0).collect()
    }
}

/// The samples of one contender.
struct Entry {
    row: Row,
    samples: Vec<f64>,
}

impl Bench {
    /// Measures, and hands on each row as soon as it is there.
    ///
    /// Wrong results and rivals that fail don't end it: they are rows with an error.
    ///
    /// # Errors
    /// Threads or memory that can't be had, or an error of `on_row`.
    pub fn run<E: From<BenchError>>(
        &self,
        rivals: &mut [Rival],
        mut on_row: impl FnMut(&Row) -> Result<(), E>,
    ) -> Result<Outcome, E> {
        let mut outcome = Outcome { left_out: self.cases.left_out.clone(), ..Outcome::default() };
        for &threads in &self.threads {
            let mut pool = Pool::new(threads).map_err(BenchError::from)?;
            let roofs = Roofs::measure(&mut pool, self.isa, self.effort).map_err(BenchError::from)?;
            if self.wants_roofs() {
                for mut row in roof_rows(&roofs, &self.version) {
                    row.ratio = self.baseline.as_ref().and_then(|baseline| baseline.ratio(&row));
                    on_row(&row)?;
                }
            }
            for case in &self.cases.cases {
                let on = Target { isa: self.isa, threads };
                let prepared = match self.routes {
                    Routes::Chosen => work::prepare(case, on),
                    Routes::All => work::candidates(case, on),
                };
                let Some(mut work) = prepared.map_err(BenchError::from)? else {
                    if self.routes == Routes::Chosen {
                        outcome.left_out.push(format!("{case}: {} has no such kernel", self.isa));
                    }
                    continue;
                };
                for row in self.case(case, &mut *work, &mut pool, &roofs, rivals, &mut outcome)? {
                    on_row(&row)?;
                }
            }
        }
        Ok(outcome)
    }

    fn wants_roofs(&self) -> bool {
        self.routes == Routes::Chosen && self.filters.iter().all(|f| f.split(',').any(|word| word.trim() == "roof"))
    }

    /// The rows of a case: this library's, then those of the rivals that compute it.
    fn case(
        &self,
        case: &Case,
        work: &mut dyn Work,
        pool: &mut Pool,
        roofs: &Roofs,
        rivals: &mut [Rival],
        outcome: &mut Outcome,
    ) -> Result<Vec<Row>, BenchError> {
        let threads = pool.threads();
        let mut routes = work.routes();
        if self.routes == Routes::Chosen {
            routes.truncate(1);
        }
        let stage = &mut Stage { work, pool };
        let mut entries = Vec::with_capacity(routes.len());
        for (route, name) in routes.iter().enumerate() {
            let mut row = Row::new(case, threads, &self.own(name));
            row.chosen = (self.routes == Routes::All).then_some(route == 0);
            stage.work.reset();
            stage.work.run(stage.pool, route, 1).map_err(BenchError::from)?;
            row.error = stage.work.check().err().map(|wrong| format!("wrong result: {wrong}"));
            entries.push(Entry { row, samples: vec![] });
        }
        self.compete(case, stage, &mut entries, rivals)?;
        for entry in &mut entries {
            entry.row.enter(&entry.samples, case, roofs);
            entry.row.ratio = self.baseline.as_ref().and_then(|baseline| baseline.ratio(&entry.row));
        }
        Ok(self.conclude(case, entries, outcome))
    }

    fn own(&self, route: &str) -> Who {
        let contender = match self.routes {
            Routes::Chosen => OWN.to_owned(),
            Routes::All => format!("{OWN}/{route}"),
        };
        Who { contender, version: self.version.clone(), isa: self.isa.name().to_owned() }
    }

    /// Takes the samples. A process has one case prepared at a time, so its contenders take part one after the other,
    /// each in turn with this library's routes.
    fn compete(
        &self,
        case: &Case,
        stage: &mut Stage<'_>,
        entries: &mut Vec<Entry>,
        rivals: &mut [Rival],
    ) -> Result<(), BenchError> {
        let threads = stage.pool.threads();
        let own: Vec<usize> = (0..entries.len()).filter(|i| entries[*i].row.error.is_none()).collect();
        let contenders: Vec<Vec<Contender>> = rivals.iter().map(|rival| rival.contenders(case)).collect();
        let rounds = contenders.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for round in 0..rounds {
            let mut players: Vec<Player<'_>> = own.iter().map(|route| Player::Own(*route)).collect();
            let mut rows = vec![];
            for (rival, contenders) in rivals.iter_mut().zip(&contenders) {
                let Some(contender) = contenders.get(round) else { continue };
                let (contender, version) = (contender.clone(), rival.version(contender));
                let who = Who { contender: contender.name.clone(), version, isa: "-".into() };
                let mut row = Row::new(case, threads, &who);
                match rival.prepare(&contender.name, case, threads) {
                    Ok(false) => continue,
                    Ok(true) => players.push(Player::Rival(rival)),
                    Err(error) => row.error = Some(error.to_string()),
                }
                rows.push(row);
            }
            let samples = stage.samples(&mut players, self.sampling);
            for player in players {
                if let Player::Rival(rival) = player {
                    // A rival that can't let go fails at its next case.
                    let _ = rival.release();
                }
            }
            let mut samples = samples.into_iter();
            let mut ours = None;
            for (i, taken) in own.iter().zip(samples.by_ref()) {
                let taken = taken?;
                ours = ours.or_else(|| median(&taken));
                entries[*i].samples.extend(taken);
            }
            for mut row in rows {
                let taken = if row.error.is_some() { Some(Ok(vec![])) } else { samples.next() };
                let taken = match taken {
                    Some(Ok(taken)) => taken,
                    Some(Err(error)) => {
                        row.error = Some(error.to_string());
                        vec![]
                    }
                    None => vec![],
                };
                row.vs_smallmind = median(&taken).zip(ours).map(|(theirs, ours)| theirs / ours);
                entries.push(Entry { row, samples: taken });
            }
        }
        Ok(())
    }

    /// Collects errors, ratios and lags from the rows.
    fn conclude(&self, case: &Case, entries: Vec<Entry>, outcome: &mut Outcome) -> Vec<Row> {
        let rows: Vec<Row> = entries.into_iter().map(|entry| entry.row).collect();
        for row in &rows {
            let name = || format!("{case}, {} threads, {}", row.threads, row.contender);
            if let Some(error) = &row.error {
                outcome.errors.push(format!("{}: {error}", name()));
            }
            if let Some(ratio) = row.ratio.filter(|_| row.contender.starts_with(OWN)) {
                outcome.ratios.push((name(), ratio));
            }
        }
        let candidates = || rows.iter().filter(|row| row.chosen.is_some());
        let best = candidates().filter_map(|row| row.median_us).min_by(f64::total_cmp);
        let chosen = candidates().find(|row| row.chosen == Some(true));
        if let (Some(best), Some(chosen)) = (best, chosen)
            && let Some(median) = chosen.median_us
        {
            outcome.lags.push((format!("{case}, {} threads: {}", chosen.threads, chosen.contender), median / best));
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use smallmind_graph::GraphError;
    use smallmind_kernels::Format;

    use super::*;
    use crate::case::{Problem, Product};
    use crate::work::{Found, Output, Wrong, candidates, prepare};

    fn bench(routes: Routes) -> Bench {
        Bench {
            isa: IsaKind::best(),
            threads: vec![1],
            cases: Cases::default(),
            filters: vec!["matmul".into()],
            sampling: Sampling { runs: 3, sample: Duration::from_micros(50) },
            effort: Effort::QUICK,
            routes,
            baseline: None,
            version: "0".into(),
        }
    }

    fn case(product: Product) -> Case {
        Case { problem: Problem::Matmul(product), format: Format::F32, tags: vec![] }
    }

    /// A kernel that leaves its work undone by one of its routes.
    struct Planted {
        right: Box<dyn Work>,
        wrong_route: usize,
    }

    impl Work for Planted {
        fn routes(&self) -> Vec<&'static str> {
            self.right.routes()
        }

        fn reset(&mut self) {
            self.right.reset();
        }

        fn run(&mut self, pool: &mut Pool, route: usize, iterations: usize) -> Result<f64, GraphError> {
            if route == self.wrong_route { Ok(1e-3) } else { self.right.run(pool, route, iterations) }
        }

        fn outputs(&self) -> Vec<Output<'_>> {
            self.right.outputs()
        }

        fn compare(&self, found: &Found<'_>) -> Result<(), Wrong> {
            self.right.compare(found)
        }
    }

    const ON: Target = Target { isa: IsaKind::Scalar, threads: 1 };

    fn rows(bench: &Bench, case: &Case, work: &mut dyn Work) -> (Vec<Row>, Outcome) {
        let (mut pool, mut outcome) = (Pool::new(1).unwrap(), Outcome::default());
        let roofs = crate::row::tests::roofs();
        let rows = bench.case(case, work, &mut pool, &roofs, &mut [], &mut outcome).unwrap();
        (rows, outcome)
    }

    #[test]
    fn a_wrong_kernel_has_an_error_and_no_time() {
        let case = case(Product::nn(8, 8, 8));
        let mut work = Planted { right: prepare(&case, ON).unwrap().unwrap(), wrong_route: 0 };
        let (rows, outcome) = rows(&bench(Routes::Chosen), &case, &mut work);
        assert_eq!((rows.len(), rows[0].median_us, rows[0].runs), (1, None, 0));
        assert!(rows[0].error.as_ref().unwrap().contains("wrong result: C[0, 0]"), "{rows:?}");
        assert!(outcome.errors[0].contains("nn 8x8x8"), "{outcome:?}");
    }

    #[test]
    fn a_right_kernel_has_a_time() {
        let case = case(Product::nn(8, 8, 8));
        let mut work = prepare(&case, ON).unwrap().unwrap();
        let (rows, outcome) = rows(&bench(Routes::Chosen), &case, &mut *work);
        assert!(rows[0].median_us >= rows[0].min_us && rows[0].min_us > Some(0.0) && outcome.errors.is_empty());
        assert_eq!((rows[0].contender.as_str(), rows[0].runs, rows[0].chosen), ("smallmind", 3, None));
    }

    #[test]
    fn candidates_are_side_by_side_and_the_choice_is_marked() {
        let case = case(Product::nt(2, 64, 64));
        let mut work = Planted { right: candidates(&case, ON).unwrap().unwrap(), wrong_route: 1 };
        let (rows, outcome) = rows(&bench(Routes::All), &case, &mut work);
        assert_eq!(rows.iter().map(|row| row.chosen).collect::<Vec<_>>(), [Some(true), Some(false)]);
        assert!(rows[0].error.is_none() && rows[1].error.is_some(), "{rows:?}");
        // A wrong candidate is no reason to lag.
        assert_eq!((outcome.lags.len(), outcome.lags[0].1), (1, 1.0));
    }

    #[test]
    fn a_lag_or_a_regression_is_told_by_its_size() {
        let slow = |ratio| vec![("x".to_owned(), ratio)];
        let outcome = Outcome { ratios: slow(1.2), lags: slow(1.05), ..Outcome::default() };
        assert_eq!((outcome.regressions(10.0).len(), outcome.regressions(25.0).len()), (1, 0));
        assert_eq!((outcome.wrong_choices(10.0).len(), outcome.wrong_choices(1.0).len()), (0, 1));
    }
}
