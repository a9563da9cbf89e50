//! Every gradient rule against central differences, both in `f64` on the naive interpreter.

mod common;

use std::collections::BTreeSet;

use common::batches;
use common::build::{Built, Layer, matrix, norm, qk_norm, vector};
use common::memory::random_params;
use common::model::{Family, Head, Model, NormKind, QkGroups, Scaling};
use common::rng::Rng;
use smallmind_graph::interpret::Interpreter;
use smallmind_graph::op::{Direction, DropoutSpec, Gelu, Heads, Index, Norm, RopeSpec};
use smallmind_graph::{Batch, Graph, GraphBuilder, GraphError, Limits, Op, Scalars, ValueId, fuse, grad};
use smallmind_kernels::loss::IGNORE;

const VOCAB: usize = 7;
const WIDTH: usize = 6;
const CONTEXT: usize = 8;

/// The step of the differences: with four points their error falls with its fourth power, and rounding adds some 1e-12.
const STEP: f64 = 1e-4;
/// What a gradient may be off, of itself and of the largest one.
const RELATIVE: f64 = 1e-7;
const OF_ALL: f64 = 1e-9;
/// What the differences of a constant loss may be off.
const ROUNDING: f64 = 1e-11;

/// Three sequences, one of a single token, with ignored targets at a start, within, and at an end.
fn batch() -> Batch {
    let mut batch = Batch::default();
    batch.push_with_targets(&[3, 1, 1, 6], &[IGNORE, 1, 5, 0]);
    batch.push_with_targets(&[2], &[4]);
    batch.push_with_targets(&[0, 3, 5], &[6, IGNORE, IGNORE]);
    batch
}

fn scalars() -> Scalars {
    Scalars { loss_scale: 0.25, dropout_seed: 11, dropout_step: 2, ..Scalars::default() }
}

/// Embedded tokens, `[tokens, WIDTH]`.
fn embedded(b: &mut GraphBuilder) -> Built<ValueId> {
    let table = matrix(b, "wte", VOCAB, WIDTH, 1.0)?;
    b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])
}

/// Tokens, then `middle` between two linear layers, then the loss: a parameter stands before and behind what is tested.
fn around(middle: impl FnOnce(&mut GraphBuilder, ValueId) -> Built<ValueId>) -> Graph {
    around_width(WIDTH, middle)
}

fn around_width(width: usize, middle: impl FnOnce(&mut GraphBuilder, ValueId) -> Built<ValueId>) -> Graph {
    around_with_cap(width, None, middle)
}

fn around_with_cap(
    width: usize,
    cap: Option<f32>,
    middle: impl FnOnce(&mut GraphBuilder, ValueId) -> Built<ValueId>,
) -> Graph {
    let build = || {
        let mut b = GraphBuilder::new();
        let x = embedded(&mut b)?;
        let x = Layer::new("before", x, width).apply(&mut b)?;
        let x = b.scope("middle", |b| middle(b, x))?;
        let cols = b.graph().shape(x).cols;
        let weight = matrix(&mut b, "head", VOCAB, cols, 0.5)?;
        let loss = b.value_of(Op::LinearCrossEntropy { weight, cap }, &[x])?;
        b.result("loss", loss);
        Ok::<Graph, GraphError>(b.finish())
    };
    build().unwrap()
}

fn attention(heads: usize, kv_heads: usize, dropout: Option<f32>) -> Graph {
    scored(Heads::new(heads, kv_heads, 3), dropout)
}

/// Attention of four query heads and two key heads.
fn scored_by(window: Option<usize>, cap: Option<f32>, dropout: Option<f32>) -> Graph {
    scored(Heads { window, cap, ..Heads::new(4, 2, 3) }, dropout)
}

fn scored(heads: Heads, dropout: Option<f32>) -> Graph {
    around_width(heads.qkv_cols(), |b, x| {
        let dropout = dropout.map(|probability| DropoutSpec { probability, salt: b.salt() });
        b.value_of(Op::Attention { heads, dropout }, &[x])
    })
}

fn rope(dim: usize, scaling: Scaling) -> Graph {
    let rope = RopeSpec { head_dim: 4, dim, theta: 50.0, scaling: scaling.get() };
    // Two heads turned, two columns copied.
    around_width(10, |b, x| b.value_of(Op::Rope { rope, heads: 2, direction: Direction::Forward }, &[x]))
}

fn tied() -> Graph {
    let build = || {
        let mut b = GraphBuilder::new();
        let x = embedded(&mut b)?;
        let x = norm(&mut b, NormKind::Rms, x)?;
        let weight = matrix(&mut b, "wte", VOCAB, WIDTH, 1.0)?;
        let loss = b.value_of(Op::LinearCrossEntropy { weight, cap: None }, &[x])?;
        b.result("loss", loss);
        Ok::<Graph, GraphError>(b.finish())
    };
    build().unwrap()
}

/// The list: a name and a graph for each rule and each of its variants.
fn cases() -> Vec<(&'static str, Graph)> {
    let normed = |groups| {
        let heads = Heads::new(2, 1, 3);
        around_width(heads.qkv_cols(), |b, x| qk_norm(b, groups, heads, x))
    };
    vec![
        ("embedding by tokens", around(|_, x| Ok(x))),
        (
            "embedding by positions",
            around(|b, x| {
                let table = matrix(b, "wpe", CONTEXT, WIDTH, 1.0)?;
                let p = b.value_of(Op::Embedding { table, index: Index::Positions }, &[])?;
                b.value_of(Op::Add, &[x, p])
            }),
        ),
        ("add of a value to itself", around(|b, x| b.value_of(Op::Add, &[x, x]))),
        (
            "a value with three readers",
            around(|b, x| {
                let left = b.value_of(Op::Gelu(Gelu::Tanh), &[x])?;
                let right = Layer::new("right", x, WIDTH).apply(b)?;
                let sum = b.value_of(Op::Add, &[left, right])?;
                b.value_of(Op::Add, &[x, sum])
            }),
        ),
        (
            "one weight in two layers",
            around(|b, x| {
                let y = Layer::new("shared", x, WIDTH).bias(true).apply(b)?;
                let y = b.value_of(Op::Gelu(Gelu::Tanh), &[y])?;
                Layer::new("shared", y, WIDTH).bias(true).apply(b)
            }),
        ),
        (
            "dropout",
            around(|b, x| {
                let salt = b.salt();
                b.value_of(Op::Dropout(DropoutSpec { probability: 0.4, salt }), &[x])
            }),
        ),
        ("layer norm", around(|b, x| norm(b, NormKind::Layer { bias: true }, x))),
        ("layer norm without bias", around(|b, x| norm(b, NormKind::Layer { bias: false }, x))),
        ("rms norm", around(|b, x| norm(b, NormKind::Rms, x))),
        ("linear", around(|b, x| Layer::new("layer", x, 5).apply(b))),
        ("linear with bias", around(|b, x| Layer::new("layer", x, 5).bias(true).apply(b))),
        ("linear with residual", around(|b, x| Layer::new("layer", x, WIDTH).residual(x).apply(b))),
        ("linear with both", around(|b, x| Layer::new("layer", x, WIDTH).bias(true).residual(x).apply(b))),
        ("norm of each head", normed(QkGroups::Heads)),
        ("norm of all queries and of all keys", normed(QkGroups::Rows)),
        ("scale", around(|b, x| b.value_of(Op::Scale { factor: -1.5 }, &[x]))),
        ("rope", rope(4, Scaling::None)),
        ("rope of half of each head", rope(2, Scaling::None)),
        ("rope, scaled", rope(4, Scaling::Llama3)),
        ("rope, scaled with an attention factor", rope(4, Scaling::Yarn)),
        ("gelu", around(|b, x| b.value_of(Op::Gelu(Gelu::Exact), &[x]))),
        ("gelu by tanh", around(|b, x| b.value_of(Op::Gelu(Gelu::Tanh), &[x]))),
        ("swiglu", around(|b, x| b.value_of(Op::SwiGlu, &[x]))),
        ("geglu", around(|b, x| b.value_of(Op::GeGlu(Gelu::Exact), &[x]))),
        ("geglu by tanh", around(|b, x| b.value_of(Op::GeGlu(Gelu::Tanh), &[x]))),
        ("attention", attention(2, 2, None)),
        ("attention, grouped", attention(4, 2, None)),
        ("attention, one key head", attention(3, 1, None)),
        ("attention with dropout", attention(2, 2, Some(0.4))),
        ("attention, grouped, with dropout", attention(4, 2, Some(0.4))),
        ("attention in a window", scored_by(Some(2), None, None)),
        ("attention in a window of one key", scored_by(Some(1), None, Some(0.4))),
        ("attention of capped scores", scored_by(None, Some(0.8), None)),
        ("attention of capped scores in a window, with dropout", scored_by(Some(3), Some(0.8), Some(0.4))),
        ("tied head", tied()),
        ("capped logits", around_with_cap(WIDTH, Some(1.5), |_, x| Ok(x))),
    ]
}

/// `loss_scale · Σ losses`, which the gradients are of.
fn loss(interpreter: &mut Interpreter, graph: &Graph, batch: &Batch, scalars: &Scalars) -> f64 {
    interpreter.run(graph, batch, scalars);
    let losses = interpreter.result(graph, "loss").unwrap();
    f64::from(scalars.loss_scale) * losses.data.iter().sum::<f64>()
}

/// The gradients of `graph`'s loss by the rules: one list for each parameter.
fn by_rules(graph: &Graph, params: &[f32], batch: &Batch, scalars: &Scalars) -> Vec<Vec<f64>> {
    let mut interpreter = Interpreter::new(graph, params).unwrap();
    interpreter.run(graph, batch, scalars);
    interpreter.grads.into_iter().map(|g| g.data).collect()
}

/// What is known of a case's gradients beforehand.
#[derive(Clone, Copy, PartialEq)]
enum Gradients {
    /// No parameter's is zero.
    OfAll,
    /// Some may be zero, like those before a LayerNorm of one column.
    MayVanish,
}

/// Compares elements `0, stride, …` of every parameter's gradient.
fn check(name: &str, graph: &Graph, batch: &Batch, gradients: Gradients, stride: usize) {
    let scalars = &scalars();
    let params = random_params(graph.params(), 21);
    let with_gradients = grad(graph, "loss").unwrap();
    let rules = by_rules(&with_gradients, &params, batch, scalars);
    let fused = by_rules(&fuse(&with_gradients), &params, batch, scalars);
    let largest = |g: &[f64]| g.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let all = rules.iter().map(|g| largest(g)).fold(0.0, f64::max);
    assert!(all > 1e-3 || gradients == Gradients::MayVanish, "{name}: some gradient is not zero");

    let mut interpreter = Interpreter::new(graph, &params).unwrap();
    for (id, spec) in graph.params().iter() {
        let (rules, fused) = (&rules[id.index()], &fused[id.index()]);
        let none = largest(rules) == 0.0;
        assert!(!none || gradients == Gradients::MayVanish, "{name}: {} has a gradient", spec.name);
        for i in (0..spec.len()).step_by(stride) {
            let start = interpreter.params[id.index()].data[i];
            let mut at = |x: f64| {
                interpreter.params[id.index()].data[i] = x;
                loss(&mut interpreter, graph, batch, scalars)
            };
            let mut difference = |step: f64| at(start + step) - at(start - step);
            let want = (8.0 * difference(STEP) - difference(2.0 * STEP)) / (12.0 * STEP);
            at(start);
            let allowed = RELATIVE * want.abs() + OF_ALL * all + ROUNDING;
            for (kind, got) in [("rules", rules[i]), ("fused rules", fused[i])] {
                assert!((got - want).abs() <= allowed, "{name}, {kind}: d {}[{i}] is {got}, not {want}", spec.name);
            }
        }
    }
}

#[test]
fn every_rule() {
    for (name, graph) in cases() {
        check(name, &graph, &batch(), Gradients::OfAll, 1);
    }
}

/// The rules together, in random stacks.
#[test]
fn random_models() {
    for case in 0..12 {
        let model = Model::random([Family::Gpt2, Family::Llama, Family::Odd][case % 3], 40 + case as u64);
        let graph = model.graph(Head::Loss).unwrap();
        let limits = Limits { tokens: 6, outputs: 0, spans: 3, context: 6, pages: 0 };
        let rng = &mut Rng::new(case as u64 + 7);
        let batch = loop {
            let batch = batches::training(rng, model.vocab, &limits);
            if batches::counted(std::slice::from_ref(&batch)) > 0 {
                break batch;
            }
        };
        check(&format!("{model:?}"), &graph, &batch, Gradients::MayVanish, 37);
    }
}

/// A rule without a case above would not be tested; and an operation that has a rule must not lose it.
#[test]
fn the_list_is_complete() {
    let names = |graph: &Graph| graph.nodes().iter().map(|n| n.op.name()).collect::<Vec<_>>();
    let forward: BTreeSet<&str> = cases().iter().flat_map(|(_, graph)| names(graph)).collect();
    let rules = "add attention dropout embedding geglu gelu layer_norm linear linear_cross_entropy qk_norm rms_norm rope scale swiglu";
    assert_eq!(forward.into_iter().collect::<Vec<_>>().join(" "), rules);

    let gradients = cases().iter().flat_map(|(_, g)| names(&grad(g, "loss").unwrap())).collect::<BTreeSet<_>>();
    for name in [
        "attention_grad",
        "bias_grad",
        "embedding_grad",
        "geglu_grad",
        "gelu_grad",
        "layer_norm_grad",
        "linear_cross_entropy_grad",
        "linear_grad_input",
        "linear_grad_weight",
        "qk_norm_grad",
        "rms_norm_grad",
        "rope_grad",
        "swiglu_grad",
    ] {
        assert!(gradients.contains(name), "no case has a {name}");
    }
}

/// Without a rule there is an error, not a wrong gradient.
#[test]
fn what_has_no_gradient_says_so() {
    let heads = Heads::new(1, 1, 2);
    let cached = around_width(heads.qkv_cols(), |b, x| b.value_of(Op::CachedAttention { layer: 0, heads }, &[x]));
    assert!(matches!(grad(&cached, "loss"), Err(GraphError::NotDifferentiable { op: "cached_attention", .. })));
    assert!(matches!(grad(&cached, "perplexity"), Err(GraphError::NoLoss { name }) if name == "perplexity"));

    let statistics = around(|b, x| {
        let weight = vector(b, "weight", WIDTH, 1.0)?;
        let outputs = b.apply(Op::Norm(Norm::Layer { weight, bias: None, eps: 1e-5 }), &[x])?;
        Layer::new("of_statistics", outputs[1], WIDTH).residual(outputs[0]).apply(b)
    });
    assert!(matches!(grad(&statistics, "loss"), Err(GraphError::NotDifferentiable { op: "layer_norm", .. })));

    let with_gradients = grad(&tied(), "loss").unwrap();
    assert!(matches!(grad(&with_gradients, "loss"), Err(GraphError::NoLoss { .. })), "no second derivatives");
    let fused_first = fuse(&around(|b, x| {
        let sum = b.value_of(Op::Add, &[x, x])?;
        norm(b, NormKind::Rms, sum)
    }));
    assert!(matches!(grad(&fused_first, "loss"), Err(GraphError::NotDifferentiable { op: "add_rms_norm", .. })));
}
