//! The row-wise operations of the forward pass.

use smallmind_kernels::activation::{Gelu, geglu, gelu, swiglu};
use smallmind_kernels::dropout::{Dropout, dropout};
use smallmind_kernels::elementwise::{add, gather_rows, scale};
use smallmind_kernels::embedding::{embedding, embedding_packed};
use smallmind_kernels::norm::{LayerNorm, Residual, RmsNorm, layer_norm, rms_norm};
use smallmind_kernels::qk_norm::{self, qk_norm};
use smallmind_kernels::rope::{Direction, Rope, rope};
use smallmind_kernels::soft_cap::soft_cap;
use smallmind_simd::Isa;

use crate::access::{Read, Sharing};
use crate::frame::Worker;
use crate::graph::Node;
use crate::lower::linear::packed_weight;
use crate::lower::{Lowering, OWN_ROWS};
use crate::op::{DropoutSpec, Index, Norm, QkNorm, RopeSpec};
use crate::{Batch, ParamId};

/// The integers of a batch that index a table.
pub(super) fn ids(batch: &Batch, index: Index) -> &[u32] {
    match index {
        Index::Tokens => batch.tokens(),
        Index::Positions => batch.positions(),
    }
}

/// The scales of queries and keys that a step reads.
#[derive(Clone, Copy)]
pub(super) struct QkScales {
    q: Read,
    k: Read,
    norm: QkNorm,
}

impl QkScales {
    pub(super) fn of<'w>(&self, w: &'w Worker<'_>) -> qk_norm::QkWeights<'w> {
        let QkNorm { q_groups, k_groups, .. } = self.norm;
        qk_norm::QkWeights { q: w.all(self.q).row(0), k: w.all(self.k).row(0), q_groups, k_groups }
    }
}

impl<I: Isa> Lowering<'_, I> {
    pub(super) fn embedding(&mut self, node: &Node, table: ParamId, index: Index) {
        let (isa, packed) = (self.isa, self.packed(table));
        let table = self.read(self.param(table), Sharing::Unpartitioned);
        let y = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| {
            let ids = &ids(w.batch(), index)[w.own_rows(y)];
            match packed {
                Some(format) => embedding_packed(packed_weight(isa, w, table, format), ids, w.own_mut(y)),
                None => embedding(isa, w.all(table), ids, w.own_mut(y)),
            }
        });
    }

    pub(super) fn add(&mut self, node: &Node) {
        let isa = self.isa;
        let [a, b] = [0, 1].map(|i| self.read(self.view(node.inputs[i]), OWN_ROWS));
        let y = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| add(isa, w.own(a), w.own(b), w.own_mut(y)));
    }

    pub(super) fn scale(&mut self, node: &Node, factor: f32) {
        let isa = self.isa;
        let x = self.read(self.view(node.inputs[0]), OWN_ROWS);
        let y = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| scale(isa, w.own(x), factor, w.own_mut(y)));
    }

    pub(super) fn dropout(&mut self, node: &Node, spec: DropoutSpec) {
        let (isa, y) = (self.isa, self.view(node.outputs[0]));
        let width = y.cols;
        let x = self.read(self.view(node.inputs[0]), OWN_ROWS);
        let y = self.write(y, OWN_ROWS);
        self.push_rows(move |w| {
            let call = Dropout {
                key: spec.key(w.scalars()),
                p: spec.probability,
                width,
                first_row: w.own_rows(y).start,
                first_col: 0,
                x: w.own(x),
                out: w.own_mut(y),
            };
            dropout(isa, call);
        });
    }

    /// `Norm` and `AddNorm`; `AddNorm` writes the sum too.
    pub(super) fn norm(&mut self, node: &Node, norm: Norm) {
        let isa = self.isa;
        let inputs: Vec<_> = node.inputs.iter().map(|v| self.read(self.view(*v), OWN_ROWS)).collect();
        let (x, addend) = (inputs[0], inputs.get(1).copied());
        let params: Vec<_> = norm.params().map(|id| self.vector(self.param(id))).collect();
        let params: Vec<_> = params.into_iter().map(|v| self.read(v, Sharing::Unpartitioned)).collect();
        let (weight, bias) = (params[0], params.get(1).copied());
        let outputs: Vec<_> = node.outputs.iter().map(|v| self.write(self.view(*v), OWN_ROWS)).collect();
        let (sum, y, stats) = match outputs[..] {
            [y, stats] => (None, y, stats),
            [sum, y, stats] => (Some(sum), y, stats),
            _ => unreachable!("the shape rule gives a norm two outputs or three"),
        };
        self.push_rows(move |w| {
            let residual = addend.zip(sum).map(|(add, sum)| Residual { add: w.own(add), sum: w.own_mut(sum) });
            let (x, out, stats) = (w.own(x), w.own_mut(y), Some(w.own_mut(stats)));
            let weight = w.all(weight).row(0);
            match norm {
                Norm::Layer { eps, .. } => {
                    let bias = bias.map(|b| w.all(b).row(0));
                    layer_norm(isa, LayerNorm { x, residual, weight, bias, eps, out, stats });
                }
                Norm::Rms { eps, .. } => rms_norm(isa, RmsNorm { x, residual, weight, eps, out, stats }),
            }
        });
    }

    pub(super) fn qk_norm(&mut self, node: &Node, norm: QkNorm) {
        let isa = self.isa;
        let x = self.read(self.view(node.inputs[0]), OWN_ROWS);
        let weights = self.qk_weights(norm);
        let [y, stats] = [0, 1].map(|i| self.write(self.view(node.outputs[i]), OWN_ROWS));
        self.push_rows(move |w| {
            let (x, out, stats) = (w.own(x), w.own_mut(y), w.own_mut(stats));
            qk_norm(isa, qk_norm::QkNorm { x, weights: weights.of(w), eps: norm.eps, out, stats });
        });
    }

    /// Declares that the next step reads the scales of queries and keys.
    pub(super) fn qk_weights(&mut self, norm: QkNorm) -> QkScales {
        let [q, k] = [norm.q, norm.k].map(|id| self.read(self.vector(self.param(id)), Sharing::Unpartitioned));
        QkScales { q, k, norm }
    }

    pub(super) fn rope(&mut self, node: &Node, spec: &RopeSpec, heads: usize, direction: Direction) {
        let (isa, table) = (self.isa, self.rope_table(spec));
        let x = self.read(self.view(node.inputs[0]), OWN_ROWS);
        let y = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| {
            let positions = &w.batch().positions()[w.own_rows(y)];
            rope(isa, Rope { x: w.own(x), positions, table: &table, heads, direction, out: w.own_mut(y) });
        });
    }

    pub(super) fn gelu(&mut self, node: &Node, kind: Gelu) {
        let isa = self.isa;
        let x = self.read(self.view(node.inputs[0]), OWN_ROWS);
        let y = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| gelu(isa, kind, w.own(x), w.own_mut(y)));
    }

    pub(super) fn swiglu(&mut self, node: &Node) {
        let isa = self.isa;
        let x = self.read(self.view(node.inputs[0]), OWN_ROWS);
        let y = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| swiglu(isa, w.own(x), w.own_mut(y)));
    }

    pub(super) fn geglu(&mut self, node: &Node, kind: Gelu) {
        let isa = self.isa;
        let x = self.read(self.view(node.inputs[0]), OWN_ROWS);
        let y = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| geglu(isa, kind, w.own(x), w.own_mut(y)));
    }

    pub(super) fn soft_cap(&mut self, node: &Node, cap: f32) {
        let isa = self.isa;
        let x = self.read(self.view(node.inputs[0]), OWN_ROWS);
        let y = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| soft_cap(isa, cap, w.own(x), w.own_mut(y)));
    }

    pub(super) fn select_rows(&mut self, node: &Node) {
        let isa = self.isa;
        let x = self.read(self.view(node.inputs[0]), Sharing::Unpartitioned);
        let y = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| gather_rows(isa, w.all(x), &w.batch().outputs()[w.own_rows(y)], w.own_mut(y)));
    }
}
