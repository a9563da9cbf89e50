//! A forward pass as it is usually written first: in loops, with a new value for each result, over the whole text for
//! each token. Each remedy can be switched on.
//!
//! Not here: anything that the engine uses.

use std::sync::Arc;

use smallmind_kernels::matmul::Operand;
use smallmind_kernels::norm::LayerNorm;
use smallmind_kernels::{Mat, MatMut};
use smallmind_model::{Model, ModelConfig};
use smallmind_simd::IsaKind;

use super::Forward;
use super::kernel::Kernel;
use super::loops;
use super::names::{Names, Pair};
use super::tensors::{Memory, Tensors};
use crate::BenchError;

/// How scores and weighted sums of attention are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attention {
    /// A dot product for each pair of tokens, future ones included.
    Pairs,
    /// Two matrix products per head.
    Products,
}

/// How scores become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Softmax {
    /// Scale, mask, maximum, exponential, sum and quotient: each is a pass over all pairs of tokens and makes a new
    /// value.
    Unfused,
    /// In place, over the keys that a query sees.
    Causal,
}

/// How norms, activations, sums and a fused softmax are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Number by number.
    Loops,
    /// By the engine's kernels.
    Vectors(IsaKind),
}

/// How matrices are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Products {
    /// By three loops.
    Loops,
    /// By the engine's packed and blocked products.
    Blocked(IsaKind),
}

/// Which of the engine's remedies a plain forward pass has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remedies {
    pub(super) memory: Memory,
    pub(super) attention: Attention,
    pub(super) softmax: Softmax,
    pub(super) rows: Rows,
    pub(super) products: Products,
}

impl Remedies {
    /// No remedy.
    pub(super) const NONE: Self = Self {
        memory: Memory::Fresh,
        attention: Attention::Pairs,
        softmax: Softmax::Unfused,
        rows: Rows::Loops,
        products: Products::Loops,
    };
}

/// A model run in the plain way, on one thread.
pub(super) struct Plain {
    model: Arc<Model>,
    names: Names,
    remedies: Remedies,
    tensors: Tensors,
    scratch: Vec<f32>,
    /// The logits of the latest text, `[tokens, vocab]`.
    logits: Vec<f32>,
}

impl Plain {
    pub(super) fn new(model: Arc<Model>, remedies: Remedies) -> Result<Self, BenchError> {
        let (names, tensors) = (Names::of(&model)?, Tensors::new(remedies.memory));
        Ok(Self { model, names, remedies, tensors, scratch: vec![], logits: vec![] })
    }

    /// The logits `[tokens, vocab]` of the whole text.
    fn run(&mut self, tokens: &[u32]) -> Result<Vec<f32>, BenchError> {
        let model = self.model.clone();
        let blocks = self.names.blocks.len();
        let mut x = self.embed(&model, tokens);
        for i in 0..blocks {
            let block = self.names.blocks[i];
            let y = self.norm(&model, &x, block.attn_norm)?;
            let qkv = self.linear(&model, &y, block.qkv)?;
            self.tensors.give(y);
            let a = self.attention(model.config(), &qkv)?;
            self.tensors.give(qkv);
            let y = self.linear(&model, &a, block.out)?;
            self.tensors.give(a);
            x = self.add(x, y)?;
            let y = self.norm(&model, &x, block.mlp_norm)?;
            let up = self.linear(&model, &y, block.up)?;
            self.tensors.give(y);
            let a = self.gelu(model.config(), up)?;
            let y = self.linear(&model, &a, block.down)?;
            self.tensors.give(a);
            x = self.add(x, y)?;
        }
        let y = self.norm(&model, &x, self.names.norm)?;
        self.tensors.give(x);
        let (d, vocab) = (model.config().d_model, model.config().vocab_size);
        let mut logits = self.tensors.take(tokens.len() * vocab);
        let rows = tokens.len();
        let (a, b) = (Mat::new(&y, rows, d), Mat::new(model.param(self.names.head), vocab, d));
        let c = MatMut::new(&mut logits, rows, vocab);
        self.product(Operand::normal(a), Operand::transposed(b), None, c)?;
        self.tensors.give(y);
        Ok(logits)
    }

    /// The sum of the embeddings of tokens and positions, `[tokens, d_model]`.
    fn embed(&mut self, model: &Model, tokens: &[u32]) -> Vec<f32> {
        let d = model.config().d_model;
        let (table, positions) = (model.param(self.names.tokens), model.param(self.names.positions));
        let mut x = self.tensors.take(tokens.len() * d);
        for (i, token) in tokens.iter().enumerate() {
            for c in 0..d {
                x[i * d + c] = table[*token as usize * d + c] + positions[i * d + c];
            }
        }
        x
    }

    fn norm(&mut self, model: &Model, x: &[f32], pair: Pair) -> Result<Vec<f32>, BenchError> {
        let (d, eps) = (model.config().d_model, model.config().norm_eps);
        let (weight, bias) = (model.param(pair.weight), model.param(pair.bias));
        let mut y = self.tensors.take(x.len());
        let rows = x.len() / d;
        match self.remedies.rows {
            Rows::Loops => loops::layer_norm(x, weight, bias, eps, &mut y),
            Rows::Vectors(isa) => {
                let (x, out) = (Mat::new(x, rows, d), MatMut::new(&mut y, rows, d));
                let norm = LayerNorm { x, residual: None, weight, bias: Some(bias), eps, out, stats: None };
                Kernel::Norm(norm).run(isa)?;
            }
        }
        Ok(y)
    }

    /// `x·Wᵀ + bias`, `[tokens, out]`.
    fn linear(&mut self, model: &Model, x: &[f32], pair: Pair) -> Result<Vec<f32>, BenchError> {
        let (weight, bias) = (model.param(pair.weight), model.param(pair.bias));
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
        let rows = x.len() / inputs;
        let mut y = self.tensors.take(rows * outputs);
        let (a, b) = (Mat::new(x, rows, inputs), Mat::new(weight, outputs, inputs));
        let c = MatMut::new(&mut y, rows, outputs);
        self.product(Operand::normal(a), Operand::transposed(b), Some(bias), c)?;
        Ok(y)
    }

    fn product(&mut self, a: Operand, b: Operand, bias: Option<&[f32]>, c: MatMut) -> Result<(), BenchError> {
        match self.remedies.products {
            Products::Loops => {
                loops::product(a, b, bias, c);
                Ok(())
            }
            Products::Blocked(isa) => Kernel::Product { a, b, bias, c, scratch: &mut self.scratch }.run(isa),
        }
    }

    fn add(&mut self, x: Vec<f32>, y: Vec<f32>) -> Result<Vec<f32>, BenchError> {
        let mut sum = self.tensors.take(x.len());
        match self.remedies.rows {
            Rows::Loops => loops::add(&x, &y, &mut sum),
            Rows::Vectors(isa) => {
                let n = x.len();
                let (a, b, out) = (Mat::new(&x, 1, n), Mat::new(&y, 1, n), MatMut::new(&mut sum, 1, n));
                Kernel::Add { a, b, out }.run(isa)?;
            }
        }
        self.tensors.give(x);
        self.tensors.give(y);
        Ok(sum)
    }

    fn gelu(&mut self, config: &ModelConfig, x: Vec<f32>) -> Result<Vec<f32>, BenchError> {
        let mut y = self.tensors.take(x.len());
        match self.remedies.rows {
            Rows::Loops => loops::gelu(self.names.gelu, &x, &mut y),
            Rows::Vectors(isa) => {
                let (rows, cols) = (x.len() / config.d_ff, config.d_ff);
                let (x, out) = (Mat::new(&x, rows, cols), MatMut::new(&mut y, rows, cols));
                Kernel::Gelu { kind: self.names.gelu, x, out }.run(isa)?;
            }
        }
        self.tensors.give(x);
        Ok(y)
    }

    /// Attention of `qkv` `[tokens, 3·d_model]`, head by head: `[tokens, d_model]`.
    fn attention(&mut self, config: &ModelConfig, qkv: &[f32]) -> Result<Vec<f32>, BenchError> {
        let (d, width) = (config.d_model, config.head_dim);
        let tokens = qkv.len() / (3 * d);
        let mut out = self.tensors.take(tokens * d);
        for head in 0..config.heads {
            let q = head * width;
            let (k, v) = (d + q, 2 * d + q);
            let mut scores = self.tensors.take(tokens * tokens);
            let all = Mat::new(qkv, tokens, 3 * d);
            let part = |first: usize| all.cols_range(first..first + width);
            match self.remedies.attention {
                Attention::Pairs => loops::pair_scores(part(q), part(k), &mut scores),
                Attention::Products => {
                    let c = MatMut::new(&mut scores, tokens, tokens);
                    self.product(Operand::normal(part(q)), Operand::transposed(part(k)), None, c)?;
                }
            }
            let scores = self.softmax(scores, tokens, 1.0 / (width as f32).sqrt())?;
            let c = MatMut::new(&mut out, tokens, d).cols_range(q..q + width);
            match self.remedies.attention {
                Attention::Pairs => loops::pair_sums(&scores, part(v), c),
                Attention::Products => {
                    let p = Mat::new(&scores, tokens, tokens);
                    self.product(Operand::normal(p), Operand::normal(part(v)), None, c)?;
                }
            }
            self.tensors.give(scores);
        }
        Ok(out)
    }

    /// The probabilities `[tokens, tokens]` of scores.
    fn softmax(&mut self, mut scores: Vec<f32>, tokens: usize, scale: f32) -> Result<Vec<f32>, BenchError> {
        if self.remedies.softmax == Softmax::Unfused {
            return Ok(loops::unfused_softmax(&mut self.tensors, scores, tokens, scale));
        }
        match self.remedies.rows {
            Rows::Loops => loops::causal_softmax(&mut scores, tokens, scale),
            Rows::Vectors(isa) => {
                Kernel::Softmax { scores: MatMut::new(&mut scores, tokens, tokens), scale }.run(isa)?;
            }
        }
        Ok(scores)
    }
}

impl Forward for Plain {
    fn logits(&mut self, tokens: &[u32]) -> Result<&[f32], BenchError> {
        let logits = self.run(tokens)?;
        self.tensors.give(std::mem::replace(&mut self.logits, logits));
        let vocab = self.model.config().vocab_size;
        Ok(&self.logits[(tokens.len() - 1) * vocab..])
    }
}
