//! A mixture of experts: what the interpreter does, and the same bits for any threads, batch and limits.

use smallmind_graph::interpret::Interpreter;
use smallmind_graph::op::{Experts, Index, Routing};
use smallmind_graph::{Batch, Graph, GraphBuilder, GraphError, Limits, Op, Scalars, Storage, cost, grad};
use smallmind_kernels::Format;
use smallmind_kernels::attention::CacheFormat;
use smallmind_simd::IsaKind;

use super::common::batches;
use super::common::build::matrix;
use super::common::close::{Bound, assert_close};
use super::common::memory::{Memory, Runner};
use super::common::rng::Rng;
use super::{VALUES, as_stored, bound_of, same_bits};

const VOCAB: usize = 50;

/// The logits of a token's experts come from a table, so that no rounding changes its experts.
fn mixture(d: usize, d_ff: usize, routing: Routing, keeps_active: bool) -> Graph {
    let mut b = GraphBuilder::new();
    let table = matrix(&mut b, "wte", VOCAB, d, 1.0).unwrap();
    let router = matrix(&mut b, "router", VOCAB, routing.experts, 1.0).unwrap();
    let [x, logits] =
        [table, router].map(|table| b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap());
    let gate_up = matrix(&mut b, "gate_up", routing.experts * 2 * d_ff, d, 1.0 / (d as f32).sqrt()).unwrap();
    let down = matrix(&mut b, "down", routing.experts * d, d_ff, 1.0 / (d_ff as f32).sqrt()).unwrap();
    let experts = Op::Experts(Experts { gate_up, down, routing, keeps_active });
    let outputs = b.apply(experts, &[x, logits]).unwrap();
    let y = b.value_of(Op::Add, &[x, outputs[0]]).unwrap();
    b.result("y", y);
    outputs.get(1).into_iter().for_each(|active| b.result("active", *active));
    b.finish()
}

/// Widths, experts, experts of a token: strips and blocks that are whole and that aren't, as many experts as rows, one.
const SHAPES: [(usize, usize, usize, usize); 5] =
    [(32, 32, 4, 2), (16, 8, 5, 5), (7, 5, 3, 1), (96, 64, 16, 4), (5, 3, 1, 1)];

fn routing((_, _, experts, per_token): (usize, usize, usize, usize)) -> Routing {
    Routing { experts, per_token, sums_to_one: experts.is_multiple_of(2) }
}

fn limits(tokens: usize) -> Limits {
    Limits { tokens, outputs: 0, spans: 2, context: 130, pages: 0 }
}

fn batch(ids: &[u32]) -> Batch {
    let mut batch = Batch::default();
    batch.push(ids, 0);
    batch
}

#[test]
fn experts_do_what_the_interpreter_does() {
    // Those of each kind; rows of these widths are no whole blocks of 256.
    let formats = [Format::F32, Format::F16, Format::Bf16, Format::Q8_0, Format::Q4_1, Format::Mxfp4];
    for shape in SHAPES {
        for &isa in IsaKind::available() {
            for format in [None].into_iter().chain(formats.map(Some)) {
                one_does_what_the_interpreter_does(shape, isa, format);
            }
        }
    }
}

fn one_does_what_the_interpreter_does(shape: (usize, usize, usize, usize), isa: IsaKind, format: Option<Format>) {
    // Rows in bytes are off by half a step of 1/127.
    const BYTES: Bound = Bound { relative: 0.05, of_all: 0.05 };
    let bound = format.map_or(VALUES, |format| bound_of(format, isa, BYTES));
    let graph = mixture(shape.0, shape.1, routing(shape), false);
    let start = Memory::new(graph.params(), 3);
    let params = match format {
        Some(format) => as_stored(&graph, &Storage::of(&graph, isa, format).unwrap(), &start.params),
        None => start.params.clone(),
    };
    let run = |threads, most: usize, ids: &[u32]| {
        let mut runner = match format {
            Some(format) => Runner::stored(graph.clone(), limits(most), threads, isa, format),
            None => Runner::new(graph.clone(), limits(most), threads, isa),
        };
        let mut memory = start.clone().for_plan(runner.plan());
        runner.run(&batch(ids), &Scalars::default(), &mut memory);
        vec![("y".to_owned(), runner.result("y"))]
    };
    for tokens in [0, 1, 3, 130] {
        let what = format!("{shape:?}, {tokens} tokens, {format:?}, {isa}");
        let ids = batches::tokens(&mut Rng::new(tokens as u64), tokens, VOCAB);
        let mut interpreter = Interpreter::new(&graph, &params).unwrap();
        interpreter.run(&graph, &batch(&ids), &Scalars::default());
        let want = vec![("y".to_owned(), interpreter.result(&graph, "y").unwrap().data.clone())];
        let found = run(1, 130, &ids);
        assert_close(&what, &found, &want, bound);
        same_bits(&found, &run(2, 130, &ids), &what);
        same_bits(&found, &run(3, tokens.max(1), &ids), &what);
        // A token by itself.
        if let Some(last) = ids.last() {
            let row = found[0].1[(tokens - 1) * shape.0..].to_vec();
            same_bits(&vec![("y".to_owned(), row)], &run(1, 1, &[*last]), &what);
        }
    }
}

#[test]
fn the_inputs_of_the_downs_are_kept_by_token() {
    for shape in SHAPES {
        let graph = mixture(shape.0, shape.1, routing(shape), true);
        let start = Memory::new(graph.params(), 4);
        let ids = batches::tokens(&mut Rng::new(5), 19, VOCAB);
        let run = |threads| {
            let mut runner = Runner::new(graph.clone(), limits(30), threads, IsaKind::best());
            let mut memory = start.clone().for_plan(runner.plan());
            runner.run(&batch(&ids), &Scalars::default(), &mut memory);
            ["y", "active"].map(|name| (name.to_owned(), runner.result(name))).to_vec()
        };
        let mut interpreter = Interpreter::new(&graph, &start.params).unwrap();
        interpreter.run(&graph, &batch(&ids), &Scalars::default());
        let of = |name: &str| (name.to_owned(), interpreter.result(&graph, name).unwrap().data.clone());
        let what = format!("{shape:?}");
        let found = run(1);
        assert_eq!(found[1].1.len(), 19 * shape.3 * shape.1, "{what}");
        assert_close(&what, &found, &vec![of("y"), of("active")], VALUES);
        same_bits(&found, &run(2), &what);
    }
}

#[test]
fn experts_cost_what_tokens_use() {
    let graph = mixture(32, 16, Routing { experts: 4, per_token: 1, sums_to_one: true }, false);
    let (node, weights) = (&graph.nodes()[2], f64::from(4 * 3 * 16 * 32));
    let one = cost(&graph, node, &batch(&[1]), None, CacheFormat::F32);
    assert_eq!(one.weights.read, weights, "one of four experts, in bytes of f32");
    assert_eq!(one.flops, 2.0 * 3.0 * 512.0 + 5.0 * 16.0 + 2.0 * 32.0);
    let many = cost(&graph, node, &batch(&[1; 100]), None, CacheFormat::F32);
    assert!(many.weights.read > 0.999 * 4.0 * weights && many.weights.read <= 4.0 * weights);
}

#[test]
fn experts_are_not_trained() {
    let routing = Routing { experts: 4, per_token: 2, sums_to_one: true };
    let mut b = GraphBuilder::new();
    let table = matrix(&mut b, "wte", VOCAB, 8, 1.0).unwrap();
    let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
    let router = matrix(&mut b, "router", 4, 8, 1.0).unwrap();
    let [gate_up, down] = [("gate_up", 64), ("down", 32)].map(|(name, rows)| matrix(&mut b, name, rows, 8, 1.0));
    let (gate_up, down) = (gate_up.unwrap(), down.unwrap());
    let logits = b.value_of(Op::Linear { weight: router, bias: None }, &[x]).unwrap();
    let experts = Op::Experts(Experts { gate_up, down, routing, keeps_active: false });
    let y = b.value_of(experts, &[x, logits]).unwrap();
    let loss = b.value_of(Op::LinearCrossEntropy { weight: table, cap: None }, &[y]).unwrap();
    b.result("loss", loss);
    let error = grad(&b.finish(), "loss").unwrap_err();
    assert!(matches!(error, GraphError::NotDifferentiable { op: "experts", .. }), "{error}");
}
