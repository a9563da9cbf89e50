//! Shape rules: what does not fit together is an error where the graph is built, with the place and the reason.

mod common;

use common::build::{matrix, vector};
use smallmind_graph::op::{Direction, DropoutSpec, Heads, Index, Norm, QkNorm, RopeSpec};
use smallmind_graph::{Decay, GraphBuilder, GraphError, Init, Op, ParamId, ParamSpec, Params, ValueId, update_graph};

const WIDTH: usize = 6;

/// A builder with one value `[tokens, 6]`, a vector of five elements and a matrix `[6, 5]`.
struct Given {
    b: GraphBuilder,
    x: ValueId,
    vector: ParamId,
    matrix: ParamId,
}

impl Given {
    fn new() -> Self {
        let mut b = GraphBuilder::new();
        let table = matrix(&mut b, "wte", 10, WIDTH, 1.0).unwrap();
        let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
        let vector = vector(&mut b, "vector", 5, 0.0).unwrap();
        let matrix = matrix(&mut b, "matrix", 6, 5, 1.0).unwrap();
        Self { b, x, vector, matrix }
    }

    #[track_caller]
    fn refuse(&mut self, op: Op, inputs: &[ValueId], reason: &str) {
        let name = op.name();
        let nodes = self.b.graph().nodes().len();
        let error = self.b.scope("here", |b| b.apply(op, inputs)).expect_err("the rule is broken");
        match &error {
            GraphError::Shape { op, path, inputs: shapes, why } => {
                assert_eq!((*op, path.as_str(), shapes.len()), (name, "here", inputs.len()));
                assert!(why.contains(reason), "{error}: not {reason}");
            }
            other => panic!("{other} is not about shapes"),
        }
        assert_eq!(self.b.graph().nodes().len(), nodes, "a refused node is not added");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut given = Given::new();
    let (x, vector, matrix) = (given.x, given.vector, given.matrix);
    let narrow = given.b.value_of(Op::SwiGlu, &[x]).unwrap();
    let heads = Heads::new;
    let rope = |head_dim, heads| Op::Rope { rope: RopeSpec::new(head_dim, 1e4), heads, direction: Direction::Forward };
    let dropout = |probability| DropoutSpec { probability, salt: 1 };

    given.refuse(Op::Embedding { table: matrix, index: Index::Tokens }, &[x], "takes 0 inputs");
    given.refuse(Op::Add, &[x], "takes 2 inputs");
    given.refuse(Op::Add, &[x, narrow], "input 1 must be [tokens, 6]");
    given.refuse(Op::Norm(Norm::Rms { weight: vector, eps: 1e-5 }), &[x], "as long as a row");
    given.refuse(Op::Linear { weight: matrix, bias: None }, &[x], "as many columns as its weight");
    given.refuse(Op::LinearCrossEntropy { weight: matrix, cap: None }, &[x], "input 0 must be [tokens, 5]");
    given.refuse(Op::SwiGlu, &[narrow], "gate and up are equally wide");
    given.refuse(rope(3, 1), &[x], "an even number of features");
    given.refuse(rope(0, 1), &[x], "an even number of features");
    given.refuse(rope(4, 2), &[x], "the rotated heads fit");
    let wide = Op::Rope { rope: RopeSpec { dim: 6, ..RopeSpec::new(4, 1e4) }, heads: 1, direction: Direction::Forward };
    given.refuse(wide, &[x], "the rotated features are those of a head");
    let groups = QkNorm { q: vector, k: vector, q_groups: 1, k_groups: 2, eps: 1e-5 };
    given.refuse(Op::QkNorm(groups), &[x], "the groups of queries and keys fit in a row");
    given.refuse(Op::Scale { factor: 2.0 }, &[x, x], "takes 1 inputs");
    for (bad, why) in [
        (heads(3, 2, 1), "key heads divide query heads"),
        (heads(1, 0, 6), "key heads divide query heads"),
        (heads(0, 1, 3), "key heads divide query heads"),
        (heads(1, 1, 0), "key heads divide query heads"),
        (heads(1, 1, 3), "input 0 must be [tokens, 9]"),
        (Heads { scale: f32::INFINITY, ..heads(1, 1, 2) }, "multiplied by a finite number"),
        (Heads { scale: f32::NAN, ..heads(1, 1, 2) }, "multiplied by a finite number"),
        (Heads { cap: Some(0.0), ..heads(1, 1, 2) }, "a cap of scores is finite and above 0"),
        (Heads { cap: Some(f32::INFINITY), ..heads(1, 1, 2) }, "a cap of scores is finite and above 0"),
        (Heads { cap: Some(f32::NAN), ..heads(1, 1, 2) }, "a cap of scores is finite and above 0"),
        (Heads { window: Some(0), ..heads(1, 1, 2) }, "a sliding window has at least one key"),
    ] {
        given.refuse(Op::Attention { heads: bad, dropout: None }, &[x], why);
        given.refuse(Op::CacheAppend { layer: 0, heads: bad }, &[x], why);
        given.refuse(Op::CachedAttention { layer: 0, heads: bad }, &[x], why);
    }
    for probability in [1.0, -0.1, f32::NAN] {
        given.refuse(Op::Dropout(dropout(probability)), &[x], "lies in [0, 1)");
        let op = Op::Attention { heads: heads(1, 1, 2), dropout: Some(dropout(probability)) };
        given.refuse(op, &[x], "lies in [0, 1)");
    }
    let rows = given.b.value_of(Op::SelectRows, &[x]).unwrap();
    given.refuse(Op::SelectRows, &[rows], "a row for each token");
    given.refuse(Op::Add, &[x, rows], "input 1 must be [tokens, 6]");
}

#[test]
fn an_operation_without_output_has_no_value() {
    let mut given = Given::new();
    let heads = Heads::new(1, 1, 2);
    let error = given.b.value_of(Op::CacheAppend { layer: 0, heads }, &[given.x]);
    assert!(matches!(error, Err(GraphError::NoOutput { op: "cache_append" })));
}

#[test]
fn parameters_have_one_shape_and_a_possible_size() {
    let mut b = GraphBuilder::new();
    let spec = |rows, cols| ParamSpec { name: String::new(), rows, cols, init: Init::Constant(0.0), decay: Decay::No };
    let first = b.scope("block", |b| b.param("w", spec(2, 3))).unwrap();
    assert_eq!(b.param("block.w", spec(2, 3)).unwrap(), first, "the same name is the same parameter");
    assert!(matches!(b.param("block.w", spec(3, 2)), Err(GraphError::ParamConflict { name }) if name == "block.w"));
    for (rows, cols) in [(0, 3), (3, 0), (usize::MAX, 2), (1 << 32, 1 << 32)] {
        assert!(matches!(b.param("huge", spec(rows, cols)), Err(GraphError::ParamSize { .. })), "[{rows}, {cols}]");
    }
    assert_eq!(b.graph().params().len(), 1);
}

#[test]
fn an_update_needs_a_norm_to_clip_to() {
    let spec = smallmind_graph::op::AdamWSpec { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
    for max_norm in [-1.0, f64::NAN] {
        let error = update_graph(Params::default(), spec, max_norm);
        assert!(matches!(error, Err(GraphError::Shape { op: "clip_factor", .. })), "{max_norm}");
    }
    for max_norm in [0.0, 1.0, f64::INFINITY] {
        assert!(update_graph(Params::default(), spec, max_norm).is_ok(), "{max_norm}");
    }
}
