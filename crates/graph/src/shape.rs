//! Shapes of values, and the checks that shape rules are made of.

use std::fmt;
use std::ops::RangeInclusive;

use smallmind_kernels::optimizer::SUM_BLOCK;

use crate::op::{DropoutSpec, Heads, Norm};
use crate::{GraphError, ParamId, ParamSpec, Params};

/// How many rows a value has; context length is never among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One for each token of the batch.
    Tokens,
    /// One for each token whose row the batch asks for.
    Outputs,
    /// A number that does not depend on the batch.
    Fixed(usize),
}

impl Rows {
    /// The number of rows in a batch of `tokens` tokens of which `outputs` are asked for.
    #[inline(always)]
    pub fn resolve(self, tokens: usize, outputs: usize) -> usize {
        match self {
            Rows::Tokens => tokens,
            Rows::Outputs => outputs,
            Rows::Fixed(n) => n,
        }
    }
}

/// The shape of a value: a matrix of `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// How many rows.
    pub rows: Rows,
    /// How many columns.
    pub cols: usize,
}

impl Shape {
    /// `[tokens, cols]`.
    pub fn tokens(cols: usize) -> Self {
        Self { rows: Rows::Tokens, cols }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rows {
            Rows::Tokens => write!(f, "[tokens, {}]", self.cols),
            Rows::Outputs => write!(f, "[outputs, {}]", self.cols),
            Rows::Fixed(n) => write!(f, "[{n}, {}]", self.cols),
        }
    }
}

/// What a shape rule sees: the shapes of the inputs and the parameters.
pub struct ShapeContext<'a> {
    pub(crate) op: &'static str,
    pub(crate) path: &'a str,
    pub(crate) inputs: &'a [Shape],
    pub(crate) params: &'a Params,
}

impl ShapeContext<'_> {
    pub(crate) fn len(&self) -> usize {
        self.inputs.len()
    }

    pub(crate) fn shape(&self, input: usize) -> Shape {
        self.inputs[input]
    }

    pub(crate) fn param(&self, id: ParamId) -> Result<&ParamSpec, GraphError> {
        self.params.get(id).ok_or_else(|| self.error(format!("parameter {id:?} does not exist")))
    }

    pub(crate) fn error(&self, why: String) -> GraphError {
        GraphError::Shape { op: self.op, path: self.path.to_owned(), inputs: self.inputs.to_vec(), why }
    }

    pub(crate) fn require(&self, holds: bool, rule: &str) -> Result<(), GraphError> {
        if holds { Ok(()) } else { Err(self.error(rule.to_owned())) }
    }

    pub(crate) fn arity(&self, allowed: RangeInclusive<usize>) -> Result<(), GraphError> {
        let (lo, hi) = (allowed.start(), allowed.end());
        self.require(allowed.contains(&self.inputs.len()), &format!("takes {lo} to {hi} inputs"))
    }

    pub(crate) fn expect(&self, input: usize, shape: Shape) -> Result<(), GraphError> {
        self.require(self.inputs[input] == shape, &format!("input {input} must be {shape}"))
    }

    pub(crate) fn expect_tokens(&self, input: usize) -> Result<(), GraphError> {
        self.require(self.inputs[input].rows == Rows::Tokens, &format!("input {input} must have a row for each token"))
    }

    pub(crate) fn same(&self, a: usize, b: usize) -> Result<(), GraphError> {
        self.expect(b, self.inputs[a])
    }

    pub(crate) fn norm_params(&self, norm: Norm, cols: usize) -> Result<(), GraphError> {
        self.require(self.param(norm.weight())?.len() == cols, "a norm's scale is as long as a row")?;
        if let Some(bias) = norm.bias() {
            self.require(self.param(bias)?.len() == cols, "a norm's shift is as long as a row")?;
        }
        Ok(())
    }

    pub(crate) fn norm_grad_inputs(&self, norm: Norm) -> Result<(), GraphError> {
        self.same(0, 1)?;
        self.norm_params(norm, self.shape(0).cols)?;
        self.expect(2, Shape { cols: norm.stats_cols(), ..self.shape(0) })
    }

    pub(crate) fn qkv(&self, input: usize, heads: Heads) -> Result<(), GraphError> {
        let divides = heads.kv_heads > 0 && heads.heads > 0 && heads.heads.is_multiple_of(heads.kv_heads);
        self.require(divides && heads.head_dim > 0, "key heads divide query heads")?;
        self.require(heads.scale.is_finite(), "scores are multiplied by a finite number")?;
        self.expect(input, Shape::tokens(heads.qkv_cols()))
    }

    pub(crate) fn probability(&self, dropout: Option<DropoutSpec>) -> Result<(), GraphError> {
        let valid = dropout.is_none_or(|d| (0.0..1.0).contains(&d.probability));
        self.require(valid, "a dropout probability lies in [0, 1)")
    }

    pub(crate) fn square_blocks(&self) -> usize {
        self.params.layout().len().div_ceil(SUM_BLOCK)
    }
}
