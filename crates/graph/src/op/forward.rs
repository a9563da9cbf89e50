//! The facts of the operations of a forward pass.

use crate::op::info::{Bytes, Cost, Effects, Info, Operands, Shapes};
use crate::op::{Direction, DropoutSpec, Experts, Heads, Norm, QkNorm, RopeSpec};
use crate::{GraphError, ParamId, Rows, Shape};

pub(super) fn embedding(table: ParamId) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(0..=0)?;
        Ok(vec![Shape::tokens(s.param(table)?.cols)])
    };
    Info::new("embedding", shapes).params([table]).cost(move |o| {
        // Bytes of the rows that are looked up, in the format of the table.
        let read = o.output_elements() * o.param_bytes / o.param_elements(table).max(1.0);
        Cost { weights: Bytes { read, written: 0.0 }, ..o.pass_over(0.0) }
    })
}

pub(super) fn add() -> Info {
    let shapes = |s: &Shapes<'_>| {
        s.arity(2..=2)?;
        s.same(0, 1)?;
        Ok(vec![s.shape(0)])
    };
    Info::new("add", shapes).cost(|o| o.pass_over(o.output_elements()))
}

pub(super) fn scale() -> Info {
    Info::new("scale", |s| s.like_input()).cost(|o| o.pass_over(o.output_elements()))
}

pub(super) fn dropout(spec: DropoutSpec) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        let outputs = s.like_input()?;
        s.probability(Some(spec))?;
        Ok(outputs)
    };
    Info::new("dropout", shapes).dropout(Some(spec)).cost(|o| o.pass_over(2.0 * o.output_elements()))
}

pub(super) fn norm(norm: Norm) -> Info {
    let name = match norm {
        Norm::Layer { .. } => "layer_norm",
        Norm::Rms { .. } => "rms_norm",
    };
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        let x = s.shape(0);
        s.norm_params(norm, x.cols)?;
        Ok(vec![x, Shape { cols: norm.stats_cols(), ..x }])
    };
    let cost = |o: &Operands<'_>| Cost { weights: o.param_passes(1.0, 0.0), ..o.pass_over(7.0 * o.first_elements()) };
    Info::new(name, shapes).params(norm.params()).cost(cost)
}

pub(super) fn add_norm(norm: Norm) -> Info {
    let name = match norm {
        Norm::Layer { .. } => "add_layer_norm",
        Norm::Rms { .. } => "add_rms_norm",
    };
    let shapes = move |s: &Shapes<'_>| {
        s.arity(2..=2)?;
        s.same(0, 1)?;
        let x = s.shape(0);
        s.norm_params(norm, x.cols)?;
        Ok(vec![x, x, Shape { cols: norm.stats_cols(), ..x }])
    };
    let cost = |o: &Operands<'_>| Cost { weights: o.param_passes(1.0, 0.0), ..o.pass_over(8.0 * o.first_elements()) };
    Info::new(name, shapes).params(norm.params()).cost(cost)
}

pub(super) fn qk_norm(norm: QkNorm) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        Ok(vec![s.shape(0), s.qk_stats(norm, s.shape(0))?])
    };
    let cost = |o: &Operands<'_>| Cost { weights: o.param_passes(1.0, 0.0), ..o.pass_over(7.0 * o.first_elements()) };
    Info::new("qk_norm", shapes).params([norm.q, norm.k]).cost(cost)
}

pub(super) fn linear(weight: ParamId, bias: Option<ParamId>) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=2)?;
        let (x, w) = (s.shape(0), s.param(weight)?);
        s.require(x.cols == w.cols, "a linear layer's input has as many columns as its weight")?;
        if let Some(bias) = bias {
            s.require(s.param(bias)?.len() == w.rows, "a bias is as long as its weight has rows")?;
        }
        let y = Shape { cols: w.rows, ..x };
        if s.len() == 2 {
            s.expect(1, y)?;
        }
        Ok(vec![y])
    };
    let cost = move |o: &Operands<'_>| Cost {
        weights: o.param_passes(1.0, 0.0),
        ..o.pass_over(2.0 * o.rows() * o.param_elements(weight) + o.output_elements())
    };
    Info::new("linear", shapes).params(std::iter::once(weight).chain(bias)).takes_addend(1).cost(cost)
}

pub(super) fn rope(rope: &RopeSpec, heads: usize, direction: Direction) -> Info {
    let (head_dim, dim) = (rope.head_dim, rope.dim);
    let name = match direction {
        Direction::Forward => "rope",
        Direction::Backward => "rope_grad",
    };
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.expect_tokens(0)?;
        s.require(dim.is_multiple_of(2) && dim > 0, "rope rotates an even number of features")?;
        s.require(dim <= head_dim, "the rotated features are those of a head")?;
        s.require(heads * head_dim <= s.shape(0).cols, "the rotated heads fit in a row")?;
        Ok(vec![s.shape(0)])
    };
    Info::new(name, shapes).cost(move |o| {
        let rotated = o.rows() * (heads * dim) as f64;
        let mut cost = o.pass_over(3.0 * rotated);
        // A row of the table of angles for each token.
        cost.values += Bytes::of_elements(o.rows() * dim as f64, 0.0);
        cost
    })
}

pub(super) fn gelu() -> Info {
    // A polynomial in pieces, without exponentials.
    Info::new("gelu", |s| s.like_input()).cost(|o| o.pass_over(12.0 * o.output_elements()))
}

/// The shape rule of a gated activation.
fn gated(s: &Shapes<'_>) -> Result<Vec<Shape>, GraphError> {
    s.arity(1..=1)?;
    let x = s.shape(0);
    s.require(x.cols.is_multiple_of(2), "gate and up are equally wide")?;
    Ok(vec![Shape { cols: x.cols / 2, ..x }])
}

pub(super) fn geglu() -> Info {
    Info::new("geglu", gated).cost(|o| o.pass_over(13.0 * o.output_elements()))
}

pub(super) fn swiglu() -> Info {
    Info::new("swiglu", gated)
        .cost(|o| Cost { exponentials: o.output_elements(), ..o.pass_over(5.0 * o.output_elements()) })
}

pub(super) fn experts(op: Experts) -> Info {
    let Experts { gate_up, down, routing, keeps_active } = op;
    let shapes = move |s: &Shapes<'_>| {
        s.arity(2..=2)?;
        s.expect_tokens(0)?;
        let (x, experts) = (s.shape(0), routing.experts);
        s.require((1..=experts).contains(&routing.per_token), "a token uses at least one expert and at most all")?;
        s.expect(1, Shape::tokens(experts))?;
        let [gate_up, down] = [s.param(gate_up)?, s.param(down)?];
        let fits = gate_up.cols == x.cols && experts.checked_mul(2 * down.cols) == Some(gate_up.rows);
        s.require(fits, "each expert has a gate and an up of the input's columns")?;
        s.require(experts.checked_mul(x.cols) == Some(down.rows), "each expert has a down to the input's columns")?;
        let active = keeps_active.then(|| Shape::tokens(routing.per_token * down.cols));
        Ok([x].into_iter().chain(active).collect())
    };
    Info::new("experts", shapes).params([gate_up, down]).cost(move |o| {
        let (experts, chosen) = (routing.experts as f64, routing.per_token as f64);
        let used = o.rows() * chosen;
        let weights = (o.param_elements(gate_up) + o.param_elements(down)) / experts;
        let hidden = o.param_elements(down) / experts / o.columns().max(1.0);
        // Experts that some token uses, if all choices are equally likely.
        let read = 1.0 - (1.0 - chosen / experts).powf(o.rows());
        Cost {
            exponentials: used * hidden + o.rows() * experts,
            weights: o.param_passes(read, 0.0),
            ..o.pass_over(used * (2.0 * weights + 5.0 * hidden + 2.0 * o.columns()))
        }
    })
}

pub(super) fn attention(heads: Heads, dropout: Option<DropoutSpec>) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.qkv(0, heads)?;
        s.probability(dropout)?;
        Ok(vec![Shape::tokens(heads.q_cols()), Shape::tokens(heads.heads)])
    };
    Info::new("attention", shapes).dropout(dropout).cost(move |o| o.attention(heads, 2.0))
}

pub(super) fn cache_append(heads: Heads) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.qkv(0, heads)?;
        Ok(vec![])
    };
    Info::new("cache_append", shapes).effects(Effects::CACHE).cost(move |o| {
        let kv = o.rows() * (2 * heads.kv_cols()) as f64;
        let cache = Bytes { read: 0.0, written: o.rows() * o.cache_token_bytes(heads) };
        Cost { values: Bytes::of_elements(kv, 0.0), cache, ..Cost::default() }
    })
}

pub(super) fn cached_attention(heads: Heads) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.qkv(0, heads)?;
        Ok(vec![Shape::tokens(heads.q_cols())])
    };
    Info::new("cached_attention", shapes).effects(Effects::CACHE).cost(move |o| {
        let queries = o.output_elements();
        Cost {
            values: Bytes::of_elements(queries, queries),
            cache: Bytes { read: o.seen_keys(heads) as f64 * o.cache_token_bytes(heads), written: 0.0 },
            ..o.attention(heads, 2.0)
        }
    })
}

pub(super) fn select_rows() -> Info {
    let shapes = |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.expect_tokens(0)?;
        Ok(vec![Shape { rows: Rows::Outputs, cols: s.shape(0).cols }])
    };
    Info::new("select_rows", shapes).cost(|o| {
        let rows = o.output_elements();
        Cost { values: Bytes::of_elements(rows, rows), ..Cost::default() }
    })
}

pub(super) fn soft_cap() -> Info {
    let cost = |o: &Operands<'_>| Cost { exponentials: o.output_elements(), ..o.pass_over(8.0 * o.output_elements()) };
    Info::new("soft_cap", |s| s.like_input()).cost(cost)
}

pub(super) fn linear_cross_entropy(weight: ParamId, cap: Option<f32>) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.expect(0, Shape::tokens(s.param(weight)?.cols))?;
        Ok(vec![Shape::tokens(1)])
    };
    Info::new("linear_cross_entropy", shapes).params([weight]).cost(move |o| {
        // A cap is a tanh.
        let capped = if cap.is_some() { 1.0 } else { 0.0 };
        let flops = 2.0 * o.rows() * o.param_elements(weight) + (4.0 + 8.0 * capped) * o.logits(weight);
        Cost {
            exponentials: (1.0 + capped) * o.logits(weight),
            weights: o.param_passes(1.0, 0.0),
            ..o.pass_over(flops)
        }
    })
}
