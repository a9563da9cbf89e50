//! The gradients of the row-wise operations.

use smallmind_kernels::activation::{Gelu, gelu_backward, swiglu_backward};
use smallmind_kernels::elementwise::column_sum;
use smallmind_kernels::embedding::embedding_backward;
use smallmind_kernels::norm::{NormBackward, PARTIAL_ROWS, layer_norm_backward, rms_norm_backward};
use smallmind_simd::Isa;

use crate::ParamId;
use crate::arena::View;
use crate::graph::Node;
use crate::lower::{Lowering, forward};
use crate::op::{Index, Norm};

impl<I: Isa> Lowering<'_, I> {
    pub(super) fn embedding_grad(&mut self, node: &Node, table: ParamId, index: Index) {
        let (isa, dy, table) = (self.isa, self.view(node.inputs[0]), self.grad(table));
        self.columnwise(&[dy], dy.cols, &[table], move |frame, cols| {
            let entries = frame.rows(&table);
            let dtable = frame.mat_mut(&table, 0..entries, cols.clone());
            embedding_backward(isa, frame.mat(&dy).cols_range(cols), forward::ids(frame.batch, index), dtable);
        });
    }

    /// The gradient of the input, by rows, with partial sums of the gradients of scale and shift; then the sums of these, by
    /// columns.
    pub(super) fn norm_grad(&mut self, node: &Node, norm: Norm) {
        let Some(partials) = self.placed.temporaries[self.at.index()] else {
            unreachable!("the planner gives every norm's gradient its partial sums")
        };
        self.norm_grad_rows(node, norm, partials);
        let (isa, rows, d) = (self.isa, self.view(node.inputs[0]), self.view(node.inputs[0]).cols);
        let grads: Vec<View> = norm.params().map(|id| self.vector(self.grad(id))).collect();
        let targets = grads.clone();
        self.columnwise(&[partials], d, &grads, move |frame, cols| {
            let blocks = frame.rows(&rows).div_ceil(PARTIAL_ROWS);
            let partials = frame.mat(&partials).rows_range(0..blocks);
            for (i, grad) in targets.iter().enumerate() {
                let terms = partials.cols_range(i * d + cols.start..i * d + cols.end);
                column_sum(isa, terms, frame.slice_mut(grad, cols.clone()));
            }
        });
    }

    fn norm_grad_rows(&mut self, node: &Node, norm: Norm, partials: View) {
        let isa = self.isa;
        let (inputs, outputs) = self.views(node);
        let [dy, x, stats] = [inputs[0], inputs[1], inputs[2]];
        let (add, dx) = (inputs.get(3).copied(), outputs[0]);
        let weight = self.vector(self.param(norm.weight()));
        self.rowwise_by(PARTIAL_ROWS, &inputs, &[weight], &[dx], &[partials], move |frame, rows| {
            let read = |v| frame.mat(v).rows_range(rows.clone());
            let blocks = rows.start.div_ceil(PARTIAL_ROWS)..rows.end.div_ceil(PARTIAL_ROWS);
            let args = NormBackward {
                dy: read(&dy),
                x: read(&x),
                weight: frame.slice(&weight),
                stats: read(&stats),
                add: add.as_ref().map(read),
                dx: frame.mat_mut(&dx, rows.clone(), 0..dx.cols),
                partials: frame.mat_mut(&partials, blocks, 0..partials.cols),
            };
            match norm {
                Norm::Layer { .. } => layer_norm_backward(isa, args),
                Norm::Rms { .. } => rms_norm_backward(isa, args),
            }
        });
    }

    pub(super) fn gelu_grad(&mut self, node: &Node, kind: Gelu) {
        let (isa, x, dy, dx) =
            (self.isa, self.view(node.inputs[0]), self.view(node.inputs[1]), self.view(node.outputs[0]));
        self.rowwise(&[x, dy], &[], &[dx], move |frame, rows| {
            let read = |v| frame.mat(v).rows_range(rows.clone());
            gelu_backward(isa, kind, read(&x), read(&dy), frame.mat_mut(&dx, rows.clone(), 0..dx.cols));
        });
    }

    pub(super) fn swiglu_grad(&mut self, node: &Node) {
        let (isa, x, dy, dx) =
            (self.isa, self.view(node.inputs[0]), self.view(node.inputs[1]), self.view(node.outputs[0]));
        self.rowwise(&[x, dy], &[], &[dx], move |frame, rows| {
            let read = |v| frame.mat(v).rows_range(rows.clone());
            swiglu_backward(isa, read(&x), read(&dy), frame.mat_mut(&dx, rows.clone(), 0..dx.cols));
        });
    }
}
