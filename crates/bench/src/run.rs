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
use crate::sample::{EngineSide, Player, Sampling};
use crate::work::{self, Target, Work};

/// The name of this library as a contender.
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
    /// The numbers of threads; all cases are measured on the first, then on the next.
    pub threads: Vec<usize>,
    /// The cases.
    pub cases: Cases,
    /// The filters of the cases. There are rows for the roofs only if every filter names the word `roof`.
    pub filters: Vec<String>,
    /// How many samples are taken, and how long they are.
    pub sampling: Sampling,
    /// How much time the roofs take.
    pub effort: Effort,
    /// Which ways to compute a case are timed.
    pub routes: Routes,
    /// An earlier record to compare with.
    pub baseline: Option<Baseline>,
    /// This library's version.
    pub version: String,
}

/// Findings of a measurement, besides its rows.
#[derive(Debug, Default)]
pub struct Findings {
    /// Wrong results and failed rivals, a sentence each.
    pub errors: Vec<String>,
    /// For each row its name and the time of this library divided by that of the earlier record.
    pub ratios: Vec<(String, f64)>,
    /// For each case its name and the time of the engine's choice divided by that of the best candidate.
    pub choice_ratios: Vec<(String, f64)>,
    /// Cases that were not measured.
    pub left_out: Vec<String>,
}

impl Findings {
    /// The rows that are slower than in the earlier record by more than `percent`.
    pub fn regressions(&self, percent: f64) -> Vec<&(String, f64)> {
        self.ratios.iter().filter(|(_, ratio)| *ratio > 1.0 + percent / 100.0).collect()
    }

    /// The cases whose choice is slower than the best candidate by more than `percent`.
    pub fn wrong_choices(&self, percent: f64) -> Vec<&(String, f64)> {
        self.choice_ratios.iter().filter(|(_, lag)| *lag > 1.0 + percent / 100.0).collect()
    }
}

/// The samples of one contender.
struct Entry {
    row: Row,
    samples: Vec<f64>,
}

impl Bench {
    /// Measures all cases; calls `on_row` with the rows of each as soon as it is measured.
    ///
    /// Wrong results and rivals that fail don't end the measurement: they give rows with an error.
    ///
    /// # Errors
    /// The system refuses threads or memory, or `on_row` fails.
    pub fn run<E: From<BenchError>>(
        &self,
        rivals: &mut [Rival],
        mut on_row: impl FnMut(&Row) -> Result<(), E>,
    ) -> Result<Findings, E> {
        let mut findings = Findings { left_out: self.cases.left_out.clone(), ..Findings::default() };
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
                        findings.left_out.push(format!("{case}: {} has no such kernel", self.isa));
                    }
                    continue;
                };
                for row in self.measure_case(case, &mut *work, &mut pool, &roofs, rivals, &mut findings)? {
                    on_row(&row)?;
                }
            }
        }
        Ok(findings)
    }

    fn wants_roofs(&self) -> bool {
        self.routes == Routes::Chosen && self.filters.iter().all(|f| f.split(',').any(|word| word.trim() == "roof"))
    }

    /// The rows of a case: this library's, then those of the rivals that compute it.
    fn measure_case(
        &self,
        case: &Case,
        work: &mut dyn Work,
        pool: &mut Pool,
        roofs: &Roofs,
        rivals: &mut [Rival],
        findings: &mut Findings,
    ) -> Result<Vec<Row>, BenchError> {
        let threads = pool.threads();
        let mut routes = work.routes();
        if self.routes == Routes::Chosen {
            routes.truncate(1);
        }
        let engine = &mut EngineSide { work, pool };
        let mut entries = Vec::with_capacity(routes.len());
        for (route, name) in routes.iter().enumerate() {
            let mut row = Row::new(case, threads, &self.own_entrant(name));
            row.chosen = (self.routes == Routes::All).then_some(route == 0);
            engine.work.reset();
            engine.work.run(engine.pool, route, 1).map_err(BenchError::from)?;
            row.error = engine.work.check().err().map(|wrong| format!("wrong result: {wrong}"));
            entries.push(Entry { row, samples: vec![] });
        }
        self.compete(case, engine, &mut entries, rivals)?;
        for entry in &mut entries {
            entry.row.enter(&entry.samples, case, roofs);
            entry.row.ratio = self.baseline.as_ref().and_then(|baseline| baseline.ratio(&entry.row));
        }
        Ok(self.collect_findings(case, entries, findings))
    }

    fn own_entrant(&self, route: &str) -> Who {
        let contender = match self.routes {
            Routes::Chosen => OWN.to_owned(),
            Routes::All => format!("{OWN}/{route}"),
        };
        Who { contender, version: self.version.clone(), isa: self.isa.name().to_owned() }
    }

    /// Takes the samples. A rival's process holds one prepared case, so its contenders compete one after the other,
    /// each sampled alternately with this library's routes.
    fn compete(
        &self,
        case: &Case,
        engine: &mut EngineSide<'_>,
        entries: &mut Vec<Entry>,
        rivals: &mut [Rival],
    ) -> Result<(), BenchError> {
        let threads = engine.pool.threads();
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
            let samples = engine.samples(&mut players, self.sampling);
            for player in players {
                if let Player::Rival(rival) = player {
                    // If the release fails, so does the rival's next case.
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

    /// Adds the errors and ratios of the rows to `findings`.
    fn collect_findings(&self, case: &Case, entries: Vec<Entry>, findings: &mut Findings) -> Vec<Row> {
        let rows: Vec<Row> = entries.into_iter().map(|entry| entry.row).collect();
        for row in &rows {
            let name = || format!("{case}, {} threads, {}", row.threads, row.contender);
            if let Some(error) = &row.error {
                findings.errors.push(format!("{}: {error}", name()));
            }
            if let Some(ratio) = row.ratio.filter(|_| row.contender.starts_with(OWN)) {
                findings.ratios.push((name(), ratio));
            }
        }
        let candidates = || rows.iter().filter(|row| row.chosen.is_some());
        let best = candidates().filter_map(|row| row.median_us).min_by(f64::total_cmp);
        let chosen = candidates().find(|row| row.chosen == Some(true));
        if let (Some(best), Some(chosen)) = (best, chosen)
            && let Some(median) = chosen.median_us
        {
            findings
                .choice_ratios
                .push((format!("{case}, {} threads: {}", chosen.threads, chosen.contender), median / best));
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

    /// A kernel that computes nothing on one of its routes.
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

    fn rows(bench: &Bench, case: &Case, work: &mut dyn Work) -> (Vec<Row>, Findings) {
        let (mut pool, mut findings) = (Pool::new(1).unwrap(), Findings::default());
        let roofs = crate::row::tests::roofs();
        let rows = bench.measure_case(case, work, &mut pool, &roofs, &mut [], &mut findings).unwrap();
        (rows, findings)
    }

    #[test]
    fn a_wrong_kernel_has_an_error_and_no_time() {
        let case = case(Product::nn(8, 8, 8));
        let mut work = Planted { right: prepare(&case, ON).unwrap().unwrap(), wrong_route: 0 };
        let (rows, findings) = rows(&bench(Routes::Chosen), &case, &mut work);
        assert_eq!((rows.len(), rows[0].median_us, rows[0].runs), (1, None, 0));
        assert!(rows[0].error.as_ref().unwrap().contains("wrong result: C[0, 0]"), "{rows:?}");
        assert!(findings.errors[0].contains("nn 8x8x8"), "{findings:?}");
    }

    #[test]
    fn a_right_kernel_has_a_time() {
        let case = case(Product::nn(8, 8, 8));
        let mut work = prepare(&case, ON).unwrap().unwrap();
        let (rows, findings) = rows(&bench(Routes::Chosen), &case, &mut *work);
        assert!(rows[0].median_us >= rows[0].min_us && rows[0].min_us > Some(0.0) && findings.errors.is_empty());
        assert_eq!((rows[0].contender.as_str(), rows[0].runs, rows[0].chosen), ("smallmind", 3, None));
    }

    #[test]
    fn candidates_are_side_by_side_and_the_choice_is_marked() {
        let case = case(Product::nt(2, 64, 64));
        let mut work = Planted { right: candidates(&case, ON).unwrap().unwrap(), wrong_route: 1 };
        let (rows, findings) = rows(&bench(Routes::All), &case, &mut work);
        assert_eq!(rows.iter().map(|row| row.chosen).collect::<Vec<_>>(), [Some(true), Some(false)]);
        assert!(rows[0].error.is_none() && rows[1].error.is_some(), "{rows:?}");
        // A wrong candidate has no time, so the choice can't lag behind it.
        assert_eq!((findings.choice_ratios.len(), findings.choice_ratios[0].1), (1, 1.0));
    }

    #[test]
    fn a_lag_or_a_regression_is_told_by_its_size() {
        let slow = |ratio| vec![("x".to_owned(), ratio)];
        let findings = Findings { ratios: slow(1.2), choice_ratios: slow(1.05), ..Findings::default() };
        assert_eq!((findings.regressions(10.0).len(), findings.regressions(25.0).len()), (1, 0));
        assert_eq!((findings.wrong_choices(10.0).len(), findings.wrong_choices(1.0).len()), (0, 1));
    }
}
