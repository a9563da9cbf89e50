//! Every rung computes the same logits, and a way that computes others is found.

use std::time::Duration;

use smallmind_graph::interpret::Interpreter;
use smallmind_model::{LOGITS, Purpose, architecture};

use super::engine::{limits, one_text, scalars};
use super::*;

fn prepared() -> Prepared {
    Prepared::new(Workload::tiny().unwrap(), 7).unwrap()
}

/// The greatest difference from the references, as a part of their greatest number.
fn distance(forward: &mut dyn Forward, tokens: &[u32], references: &[(usize, Vec<f32>)]) -> f32 {
    let mut worst = 0.0_f32;
    for (len, want) in references {
        let got = forward.logits(&tokens[..*len]).unwrap();
        assert_eq!(got.len(), want.len());
        let size = want.iter().fold(0.0_f32, |size, x| size.max(x.abs()));
        got.iter().zip(want).for_each(|(a, b)| worst = worst.max((a - b).abs() / size));
    }
    worst
}

#[test]
fn the_references_are_those_of_the_models_own_graph_in_f64() {
    let prepared = prepared();
    let graph = architecture::graph(prepared.model.config(), Purpose::Logits).unwrap();
    let mut interpreter = Interpreter::new(&graph, prepared.model.weights()).unwrap();
    let lengths: Vec<usize> = prepared.references.iter().map(|(len, _)| *len).collect();
    assert_eq!(lengths, [1, 7, 15, 16]);
    for (len, got) in &prepared.references {
        let batch = one_text(&limits(*len), &prepared.tokens[..*len], Outputs::Last);
        interpreter.run(&graph, &batch, &scalars());
        let want = interpreter.result(&graph, LOGITS).unwrap().to_f32();
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5 * 4.0), "{len} tokens");
    }
}

#[test]
fn each_rung_has_the_engines_logits() {
    let prepared = prepared();
    let rungs = rungs(2, IsaKind::best());
    assert_eq!((rungs[0].name.as_str(), rungs[rungs.len() - 1].name.as_str()), ("naive", "+ key-value cache"));
    let (all, without) = all_but_one(IsaKind::best());
    for rung in rungs.into_iter().chain([all]).chain(without) {
        let mut forward = rung.open(&prepared).unwrap();
        let distance = distance(&mut *forward, &prepared.tokens, &prepared.references);
        assert!(distance < 1e-5, "{}: {distance}", rung.name);
        assert_eq!(check(&mut *forward, &prepared.tokens, &prepared.references).unwrap(), Ok(()), "{}", rung.name);
    }
}

/// A way that is right except for one logit after texts of one length.
struct Spoiled {
    right: Box<dyn Forward>,
    len: usize,
    by: f32,
    logits: Vec<f32>,
}

impl Forward for Spoiled {
    fn logits(&mut self, tokens: &[u32]) -> Result<&[f32], BenchError> {
        self.logits = self.right.logits(tokens)?.to_vec();
        if tokens.len() == self.len {
            self.logits[3] += self.by;
        }
        Ok(&self.logits)
    }
}

#[test]
fn a_wrong_logit_is_found_at_every_length() {
    let prepared = prepared();
    for (len, want) in &prepared.references {
        let size = want.iter().fold(0.0_f32, |size, x| size.max(x.abs()));
        for by in [2.0 * TOLERANCE * size, -2.0 * TOLERANCE * size, f32::NAN] {
            let right = rungs(1, IsaKind::best())[0].open(&prepared).unwrap();
            let mut spoiled = Spoiled { right, len: *len, by, logits: vec![] };
            let found = check(&mut spoiled, &prepared.tokens, &prepared.references).unwrap();
            let text = found.expect_err("found");
            assert!(text.contains(&format!("logit 3 after {len} tokens")), "{text}");
        }
    }
}

#[test]
fn a_way_without_dropout_is_wrong_in_training_mode() {
    let prepared = prepared();
    let references = prepared.training_reference().unwrap();
    let planned = |dropout| Rung {
        name: String::new(),
        note: "",
        threads: 1,
        isa: IsaKind::best(),
        way: Way::Planned { fused: true, weights: WeightLayout::Rows, outputs: Outputs::All, dropout },
    };
    let found =
        |dropout| check(&mut *planned(dropout).open(&prepared).unwrap(), &prepared.tokens, &references).unwrap();
    assert_eq!(found(DROPOUT), Ok(()));
    assert!(found(0.0).is_err() && found(0.2).is_err());
}

#[test]
fn a_measurement_has_all_rows() {
    let bench = SeedBench {
        workload: Workload::tiny().unwrap(),
        seed: 1,
        isa: IsaKind::best(),
        threads: 2,
        runs: 1,
        sampling: Sampling { runs: 1, sample: Duration::from_micros(50) },
        allocated: || 0,
        version: "0".into(),
    };
    let mut rows = vec![];
    let errors = bench
        .run(|row| {
            rows.push(row.clone());
            Ok::<_, BenchError>(())
        })
        .unwrap();
    assert_eq!(errors, [""; 0]);
    let of = |part| rows.iter().filter(|row| row.part == part).collect::<Vec<_>>();
    let ladder = of(SeedPart::Ladder);
    assert_eq!((of(SeedPart::Kernel).len(), of(SeedPart::Without).len(), of(SeedPart::Workload).len()), (7, 6, 4));
    assert_eq!(ladder.len(), 11 + IsaKind::available().len());
    assert!(rows.iter().all(|row| row.now > Some(0.0)), "{rows:#?}");
    assert_eq!((ladder[0].factor, ladder[0].over_naive, ladder[0].tokens), (None, None, Some(2)));
    let product: f64 = ladder.iter().filter_map(|row| row.factor).product();
    assert!((product / ladder[ladder.len() - 1].over_naive.unwrap() - 1.0).abs() < 1e-9);
}
