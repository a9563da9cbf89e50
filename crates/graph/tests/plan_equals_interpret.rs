//! The optimised plan does what the naive interpreter does.

mod common;

use common::batches;
use common::close::{Bound, Tensors, assert_close, bits};
use common::memory::{Memory, Runner, interpreted_grads};
use common::model::{Family, Head, Model};
use common::rng::Rng;
use smallmind_graph::interpret::Interpreter;
use smallmind_graph::{Batch, Graph, Limits, Scalars, fuse, grad};
use smallmind_simd::IsaKind;

/// Of `f32` training against the interpreter's `f64`: losses, hidden values and accumulated gradients.
const TRAINING: Bound = Bound { relative: 2e-4, of_all: 2e-5 };

struct Training {
    graph: Graph,
    limits: Limits,
    batches: Vec<Batch>,
    scalars: Vec<Scalars>,
}

impl Training {
    fn random(model: &Model, tokens: usize, rng: &mut Rng) -> Self {
        let graph = grad(&model.graph(Head::Loss).unwrap(), "loss").unwrap();
        let limits = Limits { tokens, outputs: 0, spans: rng.range(1..=6), context: model.context, slots: 0 };
        let batches: Vec<Batch> = (0..2).map(|_| batches::training(rng, model.vocab, &limits)).collect();
        let loss_scale = 1.0 / batches::counted(&batches).max(1) as f32;
        let scalars = (0..2).map(|i| Scalars { loss_scale, dropout_seed: rng.word(), dropout_step: i, ..Scalars::default() });
        Self { graph, limits, scalars: scalars.collect(), batches }
    }

    fn interpret(&self, graph: &Graph, params: &[f32]) -> (Tensors<f64>, Tensors<f64>) {
        let mut interpreter = Interpreter::new(graph, params).unwrap();
        let mut values = vec![];
        for (i, (batch, scalars)) in self.batches.iter().zip(&self.scalars).enumerate() {
            interpreter.run(graph, batch, scalars);
            for name in ["loss", "hidden"] {
                values.push((format!("{name} {i}"), interpreter.result(graph, name).unwrap().data.clone()));
            }
        }
        (values, interpreted_grads(graph, &interpreter))
    }

    fn execute(&self, graph: &Graph, threads: usize, isa: IsaKind, memory: &mut Memory) -> Tensors<f32> {
        let mut runner = Runner::new(graph.clone(), self.limits, threads, isa);
        let mut values = vec![];
        for (i, (batch, scalars)) in self.batches.iter().zip(&self.scalars).enumerate() {
            runner.run(batch, scalars, memory);
            for name in ["loss", "hidden"] {
                values.push((format!("{name} {i}"), runner.result(name)));
            }
        }
        values
    }
}

#[test]
fn training() {
    for case in 0..1500 {
        let family = [Family::Gpt2, Family::Llama, Family::Odd][case % 3];
        let model = Model::random(family, case as u64);
        let rng = &mut Rng::new(1000 + case as u64);
        let tokens = rng.pick(&[1, 5, 17, 40, 140]);
        let training = Training::random(&model, tokens, rng);
        let start = Memory::new(training.graph.params(), case as u64);
        let (values, grads) = training.interpret(&training.graph, &start.params);
        let mut memory = start.clone();
        let got = training.execute(&training.graph, 1, IsaKind::best(), &mut memory);
        let what = format!("case {case}, {model:?}");
        for (kind, got, want) in [("v", got, &values), ("g", memory.named_grads(training.graph.params()), &grads)] {
            let all = want.iter().flat_map(|w| &w.1).fold(0.0f64, |m, x| m.max(x.abs()));
            let mut worst = (0.0f64, 0.0f64, String::new());
            for ((n, g), (_, w)) in got.iter().zip(want) {
                let l = w.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                let off = g.iter().zip(w).fold(0.0f64, |m, (g, w)| { let d = (f64::from(*g) - w).abs(); if d.is_nan() { f64::INFINITY } else { m.max(d) } });
                let r = (off - 2e-5 * all).max(0.0) / (l + 1e-30);
                if r >= worst.0 { worst = (r, off / all.max(1e-30), n.clone()); }
            }
            println!("CAL {kind} {:e} {:e} {} d={} {what}", worst.0, worst.1, worst.2, model.d);
        }
        let _ = (bits(&[]), fuse(&training.graph));
    }
}
