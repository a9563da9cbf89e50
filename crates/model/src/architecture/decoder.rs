//! The trunk of every model: blocks of attention and MLP on a residual stream, each with a norm before it, and the last
//! norm.
//!
//! ```text
//! x = scale · tokens (+ positions)
//! for each block:
//!     x = x + scale · norm?(out(attention(rope?(qk_norm?(qkv(norm?(x)))))))
//!     x = x + scale · norm?(down(activation(up(norm?(x)))))       or, in parallel, of the same x; or the sum of experts
//! norm(x)
//! ```
//!
//! [`ModelConfig`] says which norm, biases, positions, gate and activation. Ids of parameters and salts of dropouts
//! follow the order of the code here: another order gives other random weights and other masks.

use smallmind_graph::op::{self, Direction, DropoutSpec, Heads, Index, Norm, RopeSpec, Routing};
use smallmind_graph::{Decay, GraphBuilder, GraphError, Init, Op, ParamId, ParamSpec, ValueId};

use super::Purpose;
use crate::{ExpertsConfig, Mlp, ModelConfig, NormKind, Positions, QkNorm, Residual};

type Built<T> = Result<T, GraphError>;

/// The result of [`Decoder::trunk`].
pub(super) struct Trunk {
    /// The hidden states after the last norm, `[tokens, d_model]`.
    pub(super) hidden: ValueId,
    /// The table of token embeddings.
    pub(super) embedding: ParamId,
}

/// Builds graphs of a model for a purpose.
#[derive(Clone, Copy)]
pub(super) struct Decoder<'c> {
    pub(super) config: &'c ModelConfig,
    pub(super) purpose: Purpose,
}

impl Decoder<'_> {
    /// The model up to and including the last norm.
    pub(super) fn trunk(&self, b: &mut GraphBuilder) -> Built<Trunk> {
        let (embedding, mut x) = b.scope("embed", |b| self.embed(b))?;
        for layer in 0..self.config.layers {
            x = b.scope(format!("blocks.{layer}"), |b| self.block(b, layer, x))?;
        }
        let hidden = b.scope("norm", |b| self.norm(b, x))?;
        Ok(Trunk { hidden, embedding })
    }

    fn embed(&self, b: &mut GraphBuilder) -> Built<(ParamId, ValueId)> {
        let c = self.config;
        let table = b.param("tokens.weight", matrix(c.vocab_size, c.d_model, c.init_std))?;
        let positions = match c.positions {
            Positions::Learned => Some(b.param("positions.weight", matrix(c.context, c.d_model, c.init_std))?),
            Positions::Rope(_) | Positions::RopeByLayer(_) => None,
        };
        let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])?;
        let mut x = scaled(b, c.embedding_scale, x)?;
        if let Some(positions) = positions {
            let p = b.value_of(Op::Embedding { table: positions, index: Index::Positions }, &[])?;
            x = b.value_of(Op::Add, &[x, p])?;
        }
        Ok((table, self.dropout(b, c.dropout.embedding, x)?))
    }

    fn block(&self, b: &mut GraphBuilder, layer: usize, x: ValueId) -> Built<ValueId> {
        match self.config.residual {
            Residual::Sequential => {
                let x = b.scope("attn", |b| {
                    let y = self.norm_before(b, x)?;
                    let attended = self.attention(b, layer, y)?;
                    b.value_of(Op::Add, &[x, attended])
                })?;
                b.scope("mlp", |b| {
                    let y = self.norm_before(b, x)?;
                    let fed = self.mlp(b, y)?;
                    b.value_of(Op::Add, &[x, fed])
                })
            }
            Residual::Parallel { shared_norm } => {
                let (y, attended) = b.scope("attn", |b| {
                    let y = self.norm_before(b, x)?;
                    Ok::<_, GraphError>((y, self.attention(b, layer, y)?))
                })?;
                b.scope("mlp", |b| {
                    let y = if shared_norm { y } else { self.norm_before(b, x)? };
                    let fed = self.mlp(b, y)?;
                    let sum = b.value_of(Op::Add, &[x, attended])?;
                    b.value_of(Op::Add, &[sum, fed])
                })
            }
        }
    }

    /// The norm of the residual stream that attention or MLP reads, if there is one.
    fn norm_before(&self, b: &mut GraphBuilder, x: ValueId) -> Built<ValueId> {
        if !self.config.norm_placement.is_before() {
            return Ok(x);
        }
        b.scope("norm", |b| self.norm(b, x))
    }

    /// What attention or MLP adds to the residual stream, from what its last linear layer gives.
    fn added(&self, b: &mut GraphBuilder, y: ValueId) -> Built<ValueId> {
        let after = self.config.norm_placement.is_after();
        let y = if after { b.scope("post_norm", |b| self.norm(b, y))? } else { y };
        let y = scaled(b, self.config.residual_scale, y)?;
        self.dropout(b, self.config.dropout.residual, y)
    }

    /// What attention of `y` adds to the residual stream.
    fn attention(&self, b: &mut GraphBuilder, layer: usize, y: ValueId) -> Built<ValueId> {
        let c = self.config;
        let heads = Heads { window: c.attention_windows.of(layer), ..c.attention_heads() };
        let weight = matrix(heads.qkv_cols(), c.d_model, c.init_std);
        let mut qkv = b.scope("qkv", |b| linear(b, y, weight, c.biases.qkv))?;
        if let Some(kind) = c.qk_norm {
            qkv = self.qk_norm(b, kind, heads, qkv)?;
        }
        if let Some(rope) = c.positions.rope_of(layer) {
            let (dim, scaling) = (rope.dim.unwrap_or(c.head_dim), rope.scaling.clone());
            let rope = RopeSpec { head_dim: c.head_dim, dim, theta: rope.theta, scaling };
            let heads = c.heads + c.kv_heads;
            qkv = b.value_of(Op::Rope { rope, heads, direction: Direction::Forward }, &[qkv])?;
        }
        let attended = if self.purpose == Purpose::Generation {
            b.apply(Op::CacheAppend { layer, heads }, &[qkv])?;
            b.value_of(Op::CachedAttention { layer, heads }, &[qkv])?
        } else {
            let dropout = self.dropout_spec(b, c.dropout.attention);
            b.value_of(Op::Attention { heads, dropout }, &[qkv])?
        };
        let weight = matrix(c.d_model, heads.q_cols(), self.residual_std());
        let out = b.scope("out", |b| linear(b, attended, weight, c.biases.attn_out))?;
        self.added(b, out)
    }

    fn qk_norm(&self, b: &mut GraphBuilder, kind: QkNorm, heads: Heads, qkv: ValueId) -> Built<ValueId> {
        let (q_groups, k_groups) = match kind {
            QkNorm::Heads => (heads.heads, heads.kv_heads),
            QkNorm::Rows => (1, 1),
        };
        let q = b.param("q_norm.weight", vector(heads.q_cols() / q_groups, 1.0))?;
        let k = b.param("k_norm.weight", vector(heads.kv_cols() / k_groups, 1.0))?;
        let norm = op::QkNorm { q, k, q_groups, k_groups, eps: self.config.norm_eps };
        b.value_of(Op::QkNorm(norm), &[qkv])
    }

    /// What the MLP of `y` adds to the residual stream.
    fn mlp(&self, b: &mut GraphBuilder, y: ValueId) -> Built<ValueId> {
        let c = self.config;
        if let Some(experts) = c.experts {
            let y = self.experts(b, experts, y)?;
            return self.added(b, y);
        }
        let (name, width, activation) = match c.mlp {
            Mlp::Gelu(kind) => ("up", c.d_ff, Op::Gelu(kind)),
            Mlp::SwiGlu => ("gate_up", 2 * c.d_ff, Op::SwiGlu),
            Mlp::GeGlu(kind) => ("gate_up", 2 * c.d_ff, Op::GeGlu(kind)),
        };
        let up = b.scope(name, |b| linear(b, y, matrix(width, c.d_model, c.init_std), c.biases.mlp))?;
        let a = b.value_of(activation, &[up])?;
        let weight = matrix(c.d_model, c.d_ff, self.residual_std());
        let down = b.scope("down", |b| linear(b, a, weight, c.biases.mlp))?;
        self.added(b, down)
    }

    /// The weighted sum of the outputs of the experts of `y`.
    fn experts(&self, b: &mut GraphBuilder, experts: ExpertsConfig, y: ValueId) -> Built<ValueId> {
        let c = self.config;
        let ExpertsConfig { count, per_token, sums_to_one } = experts;
        let logits = b.scope("router", |b| linear(b, y, matrix(count, c.d_model, c.init_std), false))?;
        b.scope("experts", |b| {
            let gate_up = matrix(count * 2 * c.d_ff, c.d_model, c.init_std);
            let gate_up = b.scope("gate_up", |b| b.param("weight", gate_up))?;
            let down = matrix(count * c.d_model, c.d_ff, self.residual_std());
            let down = b.scope("down", |b| b.param("weight", down))?;
            let routing = Routing { experts: count, per_token, sums_to_one };
            let keeps_active = self.purpose == Purpose::Importance;
            b.value_of(Op::Experts(op::Experts { gate_up, down, routing, keeps_active }), &[y, logits])
        })
    }

    fn norm(&self, b: &mut GraphBuilder, x: ValueId) -> Built<ValueId> {
        let (len, eps) = (self.config.d_model, self.config.norm_eps);
        let weight = b.param("weight", vector(len, 1.0))?;
        let norm = match self.config.norm {
            NormKind::LayerNorm { bias } => Norm::Layer { weight, bias: optional_bias(b, bias, len)?, eps },
            NormKind::RmsNorm => Norm::Rms { weight, eps },
        };
        b.value_of(Op::Norm(norm), &[x])
    }

    /// Dropout of `x`, if the graph is for training with dropout.
    fn dropout(&self, b: &mut GraphBuilder, probability: f32, x: ValueId) -> Built<ValueId> {
        match self.dropout_spec(b, probability) {
            Some(spec) => b.value_of(Op::Dropout(spec), &[x]),
            None => Ok(x),
        }
    }

    fn dropout_spec(&self, b: &mut GraphBuilder, probability: f32) -> Option<DropoutSpec> {
        (self.purpose == Purpose::Training && probability > 0.0).then(|| DropoutSpec { probability, salt: b.salt() })
    }

    /// Standard deviation of matrices whose output is added to the residual stream: the initial one divided by the
    /// square root of the number of such additions (Radford et al., 2019).
    fn residual_std(&self) -> f32 {
        self.config.init_std / (2.0 * self.config.layers as f32).sqrt()
    }
}

/// `factor · x`.
pub(super) fn scaled(b: &mut GraphBuilder, factor: Option<f32>, x: ValueId) -> Built<ValueId> {
    match factor {
        Some(factor) => b.value_of(Op::Scale { factor }, &[x]),
        None => Ok(x),
    }
}

/// A linear layer of a weight with `spec.rows` outputs.
fn linear(b: &mut GraphBuilder, x: ValueId, spec: ParamSpec, bias: bool) -> Built<ValueId> {
    let outputs = spec.rows;
    let weight = b.param("weight", spec)?;
    let bias = optional_bias(b, bias, outputs)?;
    b.value_of(Op::Linear { weight, bias }, &[x])
}

fn optional_bias(b: &mut GraphBuilder, present: bool, len: usize) -> Built<Option<ParamId>> {
    present.then(|| b.param("bias", vector(len, 0.0))).transpose()
}

/// A matrix `[rows, cols]` of normal numbers.
pub(super) fn matrix(rows: usize, cols: usize, std: f32) -> ParamSpec {
    ParamSpec { name: String::new(), rows, cols, init: Init::Normal { std }, decay: Decay::Yes }
}

fn vector(len: usize, value: f32) -> ParamSpec {
    ParamSpec { name: String::new(), rows: 1, cols: len, init: Init::Constant(value), decay: Decay::No }
}
