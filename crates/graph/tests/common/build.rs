//! The graphs of random models.

use smallmind_graph::op::{Direction, DropoutSpec, Gelu, Heads, Index, Norm, QkNorm, RopeSpec};
use smallmind_graph::{Decay, Graph, GraphBuilder, GraphError, Init, Op, ParamId, ParamSpec, ValueId};

use super::model::{Activation, AttentionPart, DROPOUT, Head, MlpPart, Model, NormKind, Part, QkGroups};

pub type Built<T> = Result<T, GraphError>;

impl Model {
    /// The graph of the model for a purpose. Dropouts exist only in training. Parameters are the same for every
    /// purpose.
    pub fn graph(&self, head: Head) -> Result<Graph, GraphError> {
        let mut b = GraphBuilder::new();
        Build { model: self, head, layers: 0 }.whole(&mut b)?;
        Ok(b.finish())
    }
}

struct Build<'m> {
    model: &'m Model,
    head: Head,
    /// Attention layers so far.
    layers: usize,
}

impl Build<'_> {
    fn whole(&mut self, b: &mut GraphBuilder) -> Built<()> {
        let Model { vocab, d, context, .. } = *self.model;
        // A tied head's logits should not saturate the softmax: gradients of a certain prediction are rounding noise.
        let std = if self.model.tied { 1.0 / (d as f32).sqrt() } else { 1.0 };
        let table = matrix(b, "wte", vocab, d, std)?;
        let mut x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])?;
        if self.model.positions {
            let positions = matrix(b, "wpe", context, d, 0.5)?;
            let p = b.value_of(Op::Embedding { table: positions, index: Index::Positions }, &[])?;
            x = b.value_of(Op::Add, &[x, p])?;
        }
        x = self.dropout(b, self.model.embedding_dropout, x)?;
        let mut before = x;
        for (i, part) in self.model.parts.iter().enumerate() {
            let new = b.scope(format!("parts.{i}"), |b| self.part(b, part, x, before))?;
            (before, x) = (x, new);
        }
        if let Some(kind) = self.model.final_norm {
            x = b.scope("final", |b| norm(b, kind, x))?;
        }
        let weight = if self.model.tied { table } else { matrix(b, "head", vocab, d, 1.0 / (d as f32).sqrt())? };
        match self.head {
            Head::Loss => {
                b.result("hidden", x);
                let loss = b.value_of(Op::LinearCrossEntropy { weight, cap: self.model.cap }, &[x])?;
                b.result("loss", loss);
            }
            Head::Logits | Head::Cached => {
                let rows = b.value_of(Op::SelectRows, &[x])?;
                let mut logits = b.value_of(Op::Linear { weight, bias: None }, &[rows])?;
                if let Some(cap) = self.model.cap {
                    logits = b.value_of(Op::SoftCap { cap }, &[logits])?;
                }
                b.result("logits", logits);
            }
        }
        Ok(())
    }

    fn part(&mut self, b: &mut GraphBuilder, part: &Part, x: ValueId, before: ValueId) -> Built<ValueId> {
        let d = self.model.d;
        match *part {
            Part::Attention(ref a) => self.attention(b, a, x),
            Part::Mlp(ref m) => self.mlp(b, m, x),
            Part::Parallel(kind) => {
                let y = norm(b, kind, x)?;
                let left = Layer::new("left", y, d).bias(true).apply(b)?;
                let right = Layer::new("right", y, d).residual(y).apply(b)?;
                let middle = b.value_of(Op::Gelu(Gelu::Tanh), &[y])?;
                let mut sum = x;
                for branch in [left, right, middle] {
                    sum = b.value_of(Op::Add, &[branch, sum])?;
                }
                Ok(sum)
            }
            Part::Twice => b.value_of(Op::Add, &[x, x]),
            Part::Half => b.value_of(Op::Scale { factor: 0.5 }, &[x]),
            Part::Earlier => b.value_of(Op::Add, &[before, x]),
            Part::PostNorm(kind) => {
                let y = norm(b, kind, x)?;
                b.value_of(Op::Add, &[y, x])
            }
            Part::Dropout => self.dropout(b, true, x),
            Part::Detour(width) => {
                let y = Layer::new("in", x, width).bias(true).apply(b)?;
                Layer::new("out", y, d).apply(b)
            }
        }
    }

    fn attention(&mut self, b: &mut GraphBuilder, a: &AttentionPart, x: ValueId) -> Built<ValueId> {
        let Model { d, head_dim, .. } = *self.model;
        // Every second layer has more heads than the one before, and larger scores.
        let odd = self.layers % 2;
        let kv_heads = self.model.kv_heads + odd;
        let heads = Heads::new(kv_heads * a.group, kv_heads, head_dim);
        let heads = Heads { scale: heads.scale * (1.0 + odd as f32), cap: a.cap, window: a.window, ..heads };
        let y = optional_norm(b, a.norm, x)?;
        let mut qkv = Layer::new("qkv", y, heads.qkv_cols()).bias(a.bias).apply(b)?;
        if let Some(groups) = a.qk_norm {
            qkv = qk_norm(b, groups, heads, qkv)?;
        }
        if let Some(scaling) = a.rope {
            let dim = if a.partial && head_dim >= 4 { head_dim / 4 * 2 } else { head_dim };
            let rope = RopeSpec { head_dim, dim, theta: 1000.0, scaling: scaling.get() };
            let op = Op::Rope { rope, heads: heads.heads + kv_heads, direction: Direction::Forward };
            qkv = b.value_of(op, &[qkv])?;
        }
        let layer = self.layers;
        self.layers += 1;
        let out = match self.head {
            Head::Cached => {
                b.apply(Op::CacheAppend { layer, heads }, &[qkv])?;
                b.value_of(Op::CachedAttention { layer, heads }, &[qkv])?
            }
            Head::Loss | Head::Logits => {
                let dropout = (a.weights_dropout && self.head == Head::Loss)
                    .then(|| DropoutSpec { probability: DROPOUT, salt: b.salt() });
                b.value_of(Op::Attention { heads, dropout }, &[qkv])?
            }
        };
        let out = Layer::new("proj", out, d).bias(a.bias).apply(b)?;
        let out = self.dropout(b, a.output_dropout, out)?;
        b.value_of(Op::Add, &[x, out])
    }

    fn mlp(&self, b: &mut GraphBuilder, m: &MlpPart, x: ValueId) -> Built<ValueId> {
        let y = optional_norm(b, m.norm, x)?;
        let y = match m.activation {
            Activation::None => Layer::new("up", y, m.hidden).bias(m.bias).apply(b)?,
            Activation::Gelu(kind) => {
                let up = Layer::new("up", y, m.hidden).bias(m.bias).apply(b)?;
                b.value_of(Op::Gelu(kind), &[up])?
            }
            Activation::GeGlu(kind) => {
                let both = Layer::new("gate_up", y, 2 * m.hidden).bias(m.bias).apply(b)?;
                b.value_of(Op::GeGlu(kind), &[both])?
            }
            Activation::SwiGlu => {
                let both = Layer::new("gate_up", y, 2 * m.hidden).bias(m.bias).apply(b)?;
                b.value_of(Op::SwiGlu, &[both])?
            }
        };
        let down = Layer::new("down", y, self.model.d).bias(m.bias);
        if m.residual_in_linear {
            let down = down.residual(x).apply(b)?;
            return self.dropout(b, m.dropout, down);
        }
        let down = down.apply(b)?;
        let down = self.dropout(b, m.dropout, down)?;
        b.value_of(Op::Add, &[down, x])
    }

    fn dropout(&self, b: &mut GraphBuilder, wanted: bool, x: ValueId) -> Built<ValueId> {
        if !wanted || self.head != Head::Loss {
            return Ok(x);
        }
        let spec = DropoutSpec { probability: DROPOUT, salt: b.salt() };
        b.value_of(Op::Dropout(spec), &[x])
    }
}

/// A linear layer to be.
pub struct Layer<'a> {
    name: &'a str,
    x: ValueId,
    width: usize,
    bias: bool,
    residual: Option<ValueId>,
}

impl<'a> Layer<'a> {
    /// From `x` to `width` columns, without bias or residual.
    pub fn new(name: &'a str, x: ValueId, width: usize) -> Self {
        Self { name, x, width, bias: false, residual: None }
    }

    pub fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    pub fn residual(self, residual: ValueId) -> Self {
        Self { residual: Some(residual), ..self }
    }

    pub fn apply(self, b: &mut GraphBuilder) -> Built<ValueId> {
        let Layer { name, x, width, residual, .. } = self;
        let cols = b.graph().shape(x).cols;
        let weight = matrix(b, &format!("{name}.weight"), width, cols, 1.0 / (cols as f32).sqrt())?;
        let bias = if self.bias { Some(vector(b, &format!("{name}.bias"), width, 0.0)?) } else { None };
        let inputs: Vec<ValueId> = std::iter::once(x).chain(residual).collect();
        b.value_of(Op::Linear { weight, bias }, &inputs)
    }
}

/// A matrix of normal values.
pub fn matrix(b: &mut GraphBuilder, name: &str, rows: usize, cols: usize, std: f32) -> Built<ParamId> {
    let init = Init::Normal { std };
    b.param(name, ParamSpec { name: String::new(), rows, cols, init, decay: Decay::Yes })
}

/// A vector around `value`.
pub fn vector(b: &mut GraphBuilder, name: &str, cols: usize, value: f32) -> Built<ParamId> {
    let init = Init::Constant(value);
    b.param(name, ParamSpec { name: String::new(), rows: 1, cols, init, decay: Decay::No })
}

/// A norm of queries and keys, by heads or of each as a whole.
pub fn qk_norm(b: &mut GraphBuilder, groups: QkGroups, heads: Heads, qkv: ValueId) -> Built<ValueId> {
    let (q_groups, k_groups) = match groups {
        QkGroups::Heads => (heads.heads, heads.kv_heads),
        QkGroups::Rows => (1, 1),
    };
    let q = vector(b, "q_norm.weight", heads.q_cols() / q_groups, 1.0)?;
    let k = vector(b, "k_norm.weight", heads.kv_cols() / k_groups, 1.0)?;
    let eps = if heads.head_dim < 4 { 1e-2 } else { 1e-5 };
    b.value_of(Op::QkNorm(QkNorm { q, k, q_groups, k_groups, eps }), &[qkv])
}

/// A norm of the columns of `x`. Of a few columns the variance may be next to nothing: a larger eps keeps rounding
/// errors from being multiplied by hundreds.
pub fn norm(b: &mut GraphBuilder, kind: NormKind, x: ValueId) -> Built<ValueId> {
    let cols = b.graph().shape(x).cols;
    let weight = vector(b, "norm.weight", cols, 1.0)?;
    let eps = if cols < 4 { 1e-2 } else { 1e-5 };
    let norm = match kind {
        NormKind::Rms => Norm::Rms { weight, eps },
        NormKind::Layer { bias } => {
            let bias = if bias { Some(vector(b, "norm.bias", cols, 0.0)?) } else { None };
            Norm::Layer { weight, bias, eps }
        }
    };
    b.value_of(Op::Norm(norm), &[x])
}

fn optional_norm(b: &mut GraphBuilder, kind: Option<NormKind>, x: ValueId) -> Built<ValueId> {
    kind.map_or(Ok(x), |kind| norm(b, kind, x))
}

/// A vocabulary of which no more than 128 rows of logits are computed at a time.
pub const MANY: usize = 8200;

/// A small model whose loss comes by several chunks of rows when there are more than 128 and `vocab` is [`MANY`].
pub fn chunked(vocab: usize, d: usize) -> Built<Graph> {
    let mut b = GraphBuilder::new();
    let weight = matrix(&mut b, "wte", vocab, d, 0.4)?;
    let x = b.value_of(Op::Embedding { table: weight, index: Index::Tokens }, &[])?;
    let x = Layer::new("mix", x, d).bias(true).residual(x).apply(&mut b)?;
    let x = norm(&mut b, NormKind::Rms, x)?;
    let loss = b.value_of(Op::LinearCrossEntropy { weight, cap: None }, &[x])?;
    b.result("loss", loss);
    Ok(b.finish())
}
