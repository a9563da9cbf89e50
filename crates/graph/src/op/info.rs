//! The facts of an operation except how it is computed: name, parameters, effects, shape rule, cost.

use std::ops::RangeInclusive;

use smallmind_kernels::attention::CacheFormat;
use smallmind_kernels::optimizer::SUM_BLOCK;

use crate::op::{DropoutSpec, Heads, Norm, QkNorm};
use crate::{Batch, GraphError, ParamId, ParamSpec, Params, Rows, Shape, Span};

/// The mutable memory besides values that an operation touches. An operation that writes any of it is never dead code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Reads or writes gradients.
    pub gradients: bool,
    /// Writes parameters and optimizer moments.
    pub parameters: bool,
    /// Reads or writes the key-value cache.
    pub cache: bool,
}

impl Effects {
    pub(super) const GRADIENTS: Self = Self { gradients: true, parameters: false, cache: false };
    pub(super) const CACHE: Self = Self { gradients: false, parameters: false, cache: true };

    /// The effects of both.
    pub(crate) fn union(self, other: Self) -> Self {
        Self {
            gradients: self.gradients || other.gradients,
            parameters: self.parameters || other.parameters,
            cache: self.cache || other.cache,
        }
    }
}

type ShapeRule = Box<dyn Fn(&Shapes<'_>) -> Result<Vec<Shape>, GraphError>>;
type CostRule = Box<dyn Fn(&Operands<'_>) -> Cost>;

/// The facts of one operation. Each operation states them once, in `op/forward.rs`, `op/gradient.rs` or `op/update.rs`.
pub struct Info {
    /// The name in dumps and profiles.
    pub name: &'static str,
    /// The parameters that the operation reads or whose gradients it writes.
    pub params: Vec<ParamId>,
    /// The memory besides values that it touches.
    pub effects: Effects,
    /// If it can take one more input, which it adds to its first output as it stores it: the number of its other
    /// inputs.
    pub(crate) takes_addend: Option<usize>,
    /// The dropout that the operation applies.
    pub(crate) dropout: Option<DropoutSpec>,
    shapes: ShapeRule,
    cost: CostRule,
}

impl Info {
    /// An operation with this shape rule, without parameters, effects and cost.
    pub(super) fn new(
        name: &'static str,
        shapes: impl Fn(&Shapes<'_>) -> Result<Vec<Shape>, GraphError> + 'static,
    ) -> Self {
        Self {
            name,
            params: vec![],
            effects: Effects::default(),
            takes_addend: None,
            dropout: None,
            shapes: Box::new(shapes),
            cost: Box::new(|o| o.pass_over(0.0)),
        }
    }

    pub(super) fn params(self, params: impl IntoIterator<Item = ParamId>) -> Self {
        Self { params: params.into_iter().collect(), ..self }
    }

    pub(super) fn effects(self, effects: Effects) -> Self {
        Self { effects, ..self }
    }

    pub(super) fn takes_addend(self, inputs: usize) -> Self {
        Self { takes_addend: Some(inputs), ..self }
    }

    pub(super) fn dropout(self, dropout: Option<DropoutSpec>) -> Self {
        Self { dropout, ..self }
    }

    pub(super) fn cost(self, cost: impl Fn(&Operands<'_>) -> Cost + 'static) -> Self {
        Self { cost: Box::new(cost), ..self }
    }

    /// The shape rule: the shapes of the outputs.
    ///
    /// # Errors
    /// Inputs of the wrong number or shape, or parameters that don't fit them.
    pub(crate) fn outputs(&self, path: &str, inputs: &[Shape], params: &Params) -> Result<Vec<Shape>, GraphError> {
        (self.shapes)(&Shapes { op: self.name, path, inputs, params })
    }

    /// The work on operands of these sizes.
    pub(crate) fn cost_of(&self, operands: &Operands<'_>) -> Cost {
        (self.cost)(operands)
    }
}

/// What a shape rule sees: the shapes of the inputs and the parameters.
pub(super) struct Shapes<'a> {
    op: &'static str,
    path: &'a str,
    inputs: &'a [Shape],
    params: &'a Params,
}

impl Shapes<'_> {
    pub(super) fn len(&self) -> usize {
        self.inputs.len()
    }

    pub(super) fn shape(&self, input: usize) -> Shape {
        self.inputs[input]
    }

    pub(super) fn param(&self, id: ParamId) -> Result<&ParamSpec, GraphError> {
        self.params.get(id).ok_or_else(|| self.error(format!("parameter {id:?} does not exist")))
    }

    fn error(&self, why: String) -> GraphError {
        GraphError::Shape { op: self.op, path: self.path.to_owned(), inputs: self.inputs.to_vec(), why }
    }

    pub(super) fn require(&self, holds: bool, rule: &str) -> Result<(), GraphError> {
        if holds { Ok(()) } else { Err(self.error(rule.to_owned())) }
    }

    pub(super) fn arity(&self, allowed: RangeInclusive<usize>) -> Result<(), GraphError> {
        let (lo, hi) = (allowed.start(), allowed.end());
        let takes = if lo == hi { format!("takes {lo} inputs") } else { format!("takes {lo} to {hi} inputs") };
        self.require(allowed.contains(&self.inputs.len()), &takes)
    }

    pub(super) fn expect(&self, input: usize, shape: Shape) -> Result<(), GraphError> {
        self.require(self.inputs[input] == shape, &format!("input {input} must be {shape}"))
    }

    pub(super) fn expect_tokens(&self, input: usize) -> Result<(), GraphError> {
        self.require(self.inputs[input].rows == Rows::Tokens, &format!("input {input} must have a row for each token"))
    }

    pub(super) fn same(&self, a: usize, b: usize) -> Result<(), GraphError> {
        self.expect(b, self.inputs[a])
    }

    /// The rule of one input and one output of the same shape.
    pub(super) fn like_input(&self) -> Result<Vec<Shape>, GraphError> {
        self.arity(1..=1)?;
        Ok(vec![self.shape(0)])
    }

    pub(super) fn norm_params(&self, norm: Norm, cols: usize) -> Result<(), GraphError> {
        self.require(self.param(norm.weight())?.len() == cols, "a norm's scale is as long as a row")?;
        if let Some(bias) = norm.bias() {
            self.require(self.param(bias)?.len() == cols, "a norm's shift is as long as a row")?;
        }
        Ok(())
    }

    /// The shape of the statistics of a norm of queries and keys in rows of the shape `x`.
    pub(super) fn qk_stats(&self, norm: QkNorm, x: Shape) -> Result<Shape, GraphError> {
        let cols = norm.cols(self.param(norm.q)?.len(), self.param(norm.k)?.len());
        self.require(cols <= x.cols, "the groups of queries and keys fit in a row")?;
        Ok(Shape { cols: norm.q_groups + norm.k_groups, ..x })
    }

    pub(super) fn qkv(&self, input: usize, heads: Heads) -> Result<(), GraphError> {
        let divides = heads.kv_heads > 0 && heads.heads > 0 && heads.heads.is_multiple_of(heads.kv_heads);
        self.require(divides && heads.head_dim > 0, "key heads divide query heads")?;
        self.require(heads.scale.is_finite(), "scores are multiplied by a finite number")?;
        let has_cap = heads.cap.is_none_or(|cap| cap > 0.0 && cap.is_finite());
        self.require(has_cap, "a cap of scores is finite and above 0")?;
        self.require(heads.window != Some(0), "a sliding window has at least one key")?;
        self.expect(input, Shape::tokens(heads.qkv_cols()))
    }

    pub(super) fn probability(&self, dropout: Option<DropoutSpec>) -> Result<(), GraphError> {
        let valid = dropout.is_none_or(|d| (0.0..1.0).contains(&d.probability));
        self.require(valid, "a dropout probability lies in [0, 1)")
    }

    pub(super) fn square_blocks(&self) -> usize {
        self.params.layout().len().div_ceil(SUM_BLOCK)
    }
}

/// Bytes that an operation moves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bytes {
    /// Bytes read.
    pub read: f64,
    /// Bytes written.
    pub written: f64,
}

impl Bytes {
    /// Read and written together.
    pub fn all(self) -> f64 {
        self.read + self.written
    }

    /// `read` and `written` elements of `f32`.
    pub(super) fn of_elements(read: f64, written: f64) -> Self {
        Self { read: read * F32, written: written * F32 }
    }
}

impl std::ops::AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.written += other.written;
    }
}

/// The work of one operation on one batch. Each operand's bytes are counted once: this is the least traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; an exponential or a root counts as one.
    pub flops: f64,
    /// Exponentials of softmaxes and sigmoids.
    pub exponentials: f64,
    /// Inputs and outputs, and tables that are neither parameters nor cache.
    pub values: Bytes,
    /// Parameters, their gradients and moments.
    pub weights: Bytes,
    /// The key-value cache.
    pub cache: Bytes,
}

impl Cost {
    /// All bytes, read and written.
    pub fn bytes(&self) -> Bytes {
        let mut all = self.values;
        all += self.weights;
        all += self.cache;
        all
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.flops += other.flops;
        self.exponentials += other.exponentials;
        self.values += other.values;
        self.weights += other.weights;
        self.cache += other.cache;
    }
}

/// Bytes of an element of a value.
const F32: f64 = 4.0;

/// The sizes of an operation's operands on one batch, for a cost rule.
pub(crate) struct Operands<'a> {
    /// Rows and columns of each input.
    pub(crate) inputs: Vec<[usize; 2]>,
    /// Rows and columns of each output.
    pub(crate) outputs: Vec<[usize; 2]>,
    pub(crate) params: &'a Params,
    /// Bytes of the operation's own parameters as they are stored.
    pub(crate) param_bytes: f64,
    pub(crate) cache_format: CacheFormat,
    pub(crate) batch: &'a Batch,
}

impl Operands<'_> {
    /// Elements of all inputs.
    pub(super) fn input_elements(&self) -> f64 {
        self.inputs.iter().map(|[rows, cols]| (rows * cols) as f64).sum()
    }

    /// Elements of all outputs.
    pub(super) fn output_elements(&self) -> f64 {
        self.outputs.iter().map(|[rows, cols]| (rows * cols) as f64).sum()
    }

    /// Elements of the first input.
    pub(super) fn first_elements(&self) -> f64 {
        self.inputs.first().map_or(0.0, |[rows, cols]| (rows * cols) as f64)
    }

    /// Rows of the first input.
    pub(super) fn rows(&self) -> f64 {
        self.inputs.first().map_or(0.0, |[rows, _]| *rows as f64)
    }

    /// Columns of the first input.
    pub(super) fn columns(&self) -> f64 {
        self.inputs.first().map_or(0.0, |[_, cols]| *cols as f64)
    }

    /// Elements of a parameter.
    pub(super) fn param_elements(&self, id: ParamId) -> f64 {
        self.params.get(id).map_or(0.0, |p| p.len() as f64)
    }

    /// Elements of the logits: a row for each row of the first input; `head` is the output head.
    pub(super) fn logits(&self, head: ParamId) -> f64 {
        self.rows() * self.params.get(head).map_or(0.0, |p| p.rows as f64)
    }

    /// Pairs of a query and a key that it sees, over all spans and query heads.
    pub(super) fn pairs(&self, heads: Heads) -> f64 {
        let of_span = |span: &Span| {
            // The queries before whose position the window reaches beyond the first key.
            let whole = heads.window.map_or(span.len, |window| window.saturating_sub(span.past).min(span.len));
            let (n, past) = (whole as f64, span.past as f64);
            let cut = (span.len - whole) as f64 * heads.window.unwrap_or(0) as f64;
            n * past + n * (n + 1.0) / 2.0 + cut
        };
        self.batch.spans().iter().map(of_span).sum::<f64>() * heads.heads as f64
    }

    /// Keys that some query of each span sees, over all spans.
    pub(super) fn seen_keys(&self, heads: Heads) -> usize {
        let of_span = |span: &Span| span.past + span.len - heads.scoring().first_key(span.past);
        self.batch.spans().iter().filter(|span| span.len > 0).map(of_span).sum()
    }

    /// Bytes of the keys and values of a token in the cache.
    pub(super) fn cache_token_bytes(&self, heads: Heads) -> f64 {
        (heads.kv_heads * self.cache_format.token_bytes(heads.head_dim)) as f64
    }

    /// Bytes that are moved if all parameters are read `reads` times and written `writes` times.
    pub(super) fn param_passes(&self, reads: f64, writes: f64) -> Bytes {
        Bytes { read: reads * self.param_bytes, written: writes * self.param_bytes }
    }

    /// The cost of `flops` operations, with all inputs read and all outputs written.
    pub(super) fn pass_over(&self, flops: f64) -> Cost {
        let values = Bytes::of_elements(self.input_elements(), self.output_elements());
        Cost { flops, values, ..Cost::default() }
    }

    /// As [`Operands::pass_over`], with an exponential for each pair of a query and a key, one more if scores are capped,
    /// and `products` products of a pair's features.
    pub(super) fn attention(&self, heads: Heads, products: f64) -> Cost {
        let pairs = self.pairs(heads);
        let (of_cap, exponentials) = if heads.cap.is_some() { (6.0, 2.0) } else { (0.0, 1.0) };
        let flops = pairs * (products * 2.0 * heads.head_dim as f64 + 4.0 + of_cap);
        Cost { exponentials: exponentials * pairs, ..self.pass_over(flops) }
    }
}
