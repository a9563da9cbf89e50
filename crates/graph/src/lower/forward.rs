//! The row-wise operations of the forward pass.

use smallmind_kernels::activation::{Gelu, gelu, swiglu};
use smallmind_kernels::dropout::{Dropout, dropout};
use smallmind_kernels::elementwise::{add, gather_rows};
use smallmind_kernels::embedding::{embedding, embedding_packed};
use smallmind_kernels::norm::{LayerNorm, Residual, RmsNorm, layer_norm, rms_norm};
use smallmind_kernels::rope::{Direction, Rope, rope};
use smallmind_simd::Isa;

use crate::graph::Node;
use crate::lower::Lowering;
use crate::lower::linear::packed_weight;
use crate::op::{DropoutSpec, Index, Norm, RopeSpec};
use crate::{Batch, ParamId};

/// The integers of a batch that index a table.
pub(super) fn ids(batch: &Batch, index: Index) -> &[u32] {
    match index {
        Index::Tokens => batch.tokens(),
        Index::Positions => batch.positions(),
    }
}

impl<I: Isa> Lowering<'_, I> {
    pub(super) fn embedding(&mut self, node: &Node, table: ParamId, index: Index) {
        let (isa, packed) = (self.isa, self.packed(table));
        let (table, y) = (self.param(table), self.view(node.outputs[0]));
        self.rowwise(&[], &[table], &[y], move |frame, rows| {
            let out = frame.mat_mut(&y, rows.clone(), 0..y.cols);
            let ids = &ids(frame.batch, index)[rows];
            match packed {
                Some(format) => embedding_packed(packed_weight(isa, frame, &table, format), ids, out),
                None => embedding(isa, frame.mat(&table), ids, out),
            }
        });
    }

    pub(super) fn add(&mut self, node: &Node) {
        let (isa, [a, b], y) =
            (self.isa, [self.view(node.inputs[0]), self.view(node.inputs[1])], self.view(node.outputs[0]));
        self.rowwise(&[a, b], &[], &[y], move |frame, rows| {
            let window = |v| frame.mat(v).rows_range(rows.clone());
            add(isa, window(&a), window(&b), frame.mat_mut(&y, rows.clone(), 0..y.cols));
        });
    }

    pub(super) fn dropout(&mut self, node: &Node, spec: DropoutSpec) {
        let (isa, x, y) = (self.isa, self.view(node.inputs[0]), self.view(node.outputs[0]));
        self.rowwise(&[x], &[], &[y], move |frame, rows| {
            let call = Dropout {
                key: spec.key(frame.scalars),
                p: spec.probability,
                width: y.cols,
                first_row: rows.start,
                first_col: 0,
                x: frame.mat(&x).rows_range(rows.clone()),
                out: frame.mat_mut(&y, rows, 0..y.cols),
            };
            dropout(isa, call);
        });
    }

    /// `Norm` and `AddNorm`: the second writes the sum too.
    pub(super) fn norm(&mut self, node: &Node, norm: Norm) {
        let isa = self.isa;
        let (inputs, outputs) = self.views(node);
        let (x, residual) = (inputs[0], inputs.get(1).copied());
        let (sum, y, stats) = match outputs[..] {
            [y, stats] => (None, y, stats),
            [sum, y, stats] => (Some(sum), y, stats),
            _ => unreachable!("the shape rule gives a norm two outputs or three"),
        };
        let shared: Vec<_> = norm.params().map(|id| self.vector(self.param(id))).collect();
        let (weight, bias) = (shared[0], shared.get(1).copied());
        self.rowwise(&inputs, &shared, &outputs, move |frame, rows| {
            let read = |v| frame.mat(v).rows_range(rows.clone());
            let write = |v: &crate::arena::View| frame.mat_mut(v, rows.clone(), 0..v.cols);
            let residual = match (&residual, &sum) {
                (Some(r), Some(sum)) => Some(Residual { add: read(r), sum: write(sum) }),
                (Some(_), None) | (None, Some(_)) | (None, None) => None,
            };
            let (x, out, stats) = (read(&x), write(&y), Some(write(&stats)));
            let weight = frame.slice(&weight);
            match norm {
                Norm::Layer { eps, .. } => {
                    let bias = bias.as_ref().map(|b| frame.slice(b));
                    layer_norm(isa, LayerNorm { x, residual, weight, bias, eps, out, stats });
                }
                Norm::Rms { eps, .. } => rms_norm(isa, RmsNorm { x, residual, weight, eps, out, stats }),
            }
        });
    }

    pub(super) fn rope(&mut self, node: &Node, spec: RopeSpec, heads: usize, direction: Direction) {
        let (isa, table) = (self.isa, self.rope_table(spec));
        let (x, y) = (self.view(node.inputs[0]), self.view(node.outputs[0]));
        self.rowwise(&[x], &[], &[y], move |frame, rows| {
            let positions = &frame.batch.positions()[rows.clone()];
            let window = frame.mat(&x).rows_range(rows.clone());
            let out = frame.mat_mut(&y, rows, 0..y.cols);
            rope(isa, Rope { x: window, positions, table: &table, heads, direction, out });
        });
    }

    pub(super) fn gelu(&mut self, node: &Node, kind: Gelu) {
        let (isa, x, y) = (self.isa, self.view(node.inputs[0]), self.view(node.outputs[0]));
        self.rowwise(&[x], &[], &[y], move |frame, rows| {
            gelu(isa, kind, frame.mat(&x).rows_range(rows.clone()), frame.mat_mut(&y, rows, 0..y.cols));
        });
    }

    pub(super) fn swiglu(&mut self, node: &Node) {
        let (isa, x, y) = (self.isa, self.view(node.inputs[0]), self.view(node.outputs[0]));
        self.rowwise(&[x], &[], &[y], move |frame, rows| {
            swiglu(isa, frame.mat(&x).rows_range(rows.clone()), frame.mat_mut(&y, rows, 0..y.cols));
        });
    }

    pub(super) fn select_rows(&mut self, node: &Node) {
        let (isa, x, y) = (self.isa, self.view(node.inputs[0]), self.view(node.outputs[0]));
        self.rowwise(&[], &[x], &[y], move |frame, rows| {
            let wanted = &frame.batch.outputs()[rows.clone()];
            gather_rows(isa, frame.mat(&x), wanted, frame.mat_mut(&y, rows, 0..y.cols));
        });
    }
}
