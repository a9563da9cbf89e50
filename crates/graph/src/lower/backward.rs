//! The gradients of the row-wise operations.

use smallmind_kernels::activation::{Gelu, geglu_backward, gelu_backward, swiglu_backward};
use smallmind_kernels::elementwise::column_sum;
use smallmind_kernels::embedding::embedding_backward;
use smallmind_kernels::norm::{NormBackward, PARTIAL_ROWS, layer_norm_backward, rms_norm_backward};
use smallmind_kernels::qk_norm::{QkNormBackward, qk_norm_backward};
use smallmind_simd::Isa;

use crate::ParamId;
use crate::access::{Extent, Sharing, View};
use crate::graph::Node;
use crate::lower::{Lowering, OWN_COLS, OWN_ROWS, forward};
use crate::op::{Index, Norm, QkNorm};
use crate::step::Workers;

impl<I: Isa> Lowering<'_, I> {
    pub(super) fn embedding_grad(&mut self, node: &Node, table: ParamId, index: Index) {
        let isa = self.isa;
        let dy = self.read(self.view(node.inputs[0]), OWN_COLS);
        let table = self.write(self.grad(table), OWN_COLS);
        self.push(Workers::All, 0, move |w| {
            embedding_backward(isa, w.own(dy), forward::ids(w.batch(), index), w.own_mut(table));
        });
    }

    pub(super) fn bias_grad(&mut self, node: &Node, bias: ParamId) {
        let isa = self.isa;
        let dy = self.read(self.view(node.inputs[0]), OWN_COLS);
        let bias = self.write(self.vector(self.grad(bias)), OWN_COLS);
        self.push(Workers::All, 0, move |w| column_sum(isa, w.own(dy), w.own_mut(bias).row_mut(0)));
    }

    /// Two steps: the gradient of the input and partial sums of the gradients of scale and shift, by rows; then the
    /// sums of these, by columns.
    pub(super) fn norm_grad(&mut self, node: &Node, norm: Norm) {
        let Some(partials) = self.placed.temporaries[self.at.index()] else {
            unreachable!("the planner gives every norm's gradient its partial sums")
        };
        let x = self.view(node.inputs[1]);
        let partials = View { extent: Extent::Blocks { of: x.rows, size: PARTIAL_ROWS }, ..partials };
        self.norm_grad_rows(node, norm, partials);
        let (isa, d) = (self.isa, x.cols);
        let partials = self.read(partials, Sharing::Unpartitioned);
        let grads: Vec<_> = norm.params().map(|id| self.write(self.vector(self.grad(id)), OWN_COLS)).collect();
        self.push(Workers::All, 0, move |w| {
            let partials = w.all(partials);
            for (i, grad) in grads.iter().enumerate() {
                let cols = w.own_cols(*grad);
                let terms = partials.cols_range(i * d + cols.start..i * d + cols.end);
                column_sum(isa, terms, w.own_mut(*grad).row_mut(0));
            }
        });
    }

    fn norm_grad_rows(&mut self, node: &Node, norm: Norm, partials: View) {
        let isa = self.isa;
        let own = Sharing::OwnRows { granule: PARTIAL_ROWS };
        let inputs: Vec<_> = node.inputs.iter().map(|v| self.read(self.view(*v), own)).collect();
        let [dy, x, stats] = [inputs[0], inputs[1], inputs[2]];
        let add = inputs.get(3).copied();
        let weight = self.read(self.vector(self.param(norm.weight())), Sharing::Unpartitioned);
        let dx = self.write(self.view(node.outputs[0]), own);
        // A worker's own blocks are those of its own rows: both are divided at multiples of `PARTIAL_ROWS` rows.
        let partials = self.write(partials, Sharing::OwnRows { granule: 1 });
        self.push_rows(move |w| {
            let args = NormBackward {
                dy: w.own(dy),
                x: w.own(x),
                weight: w.all(weight).row(0),
                stats: w.own(stats),
                add: add.map(|add| w.own(add)),
                dx: w.own_mut(dx),
                partials: w.own_mut(partials),
            };
            match norm {
                Norm::Layer { .. } => layer_norm_backward(isa, args),
                Norm::Rms { .. } => rms_norm_backward(isa, args),
            }
        });
    }

    /// As [`Lowering::norm_grad`]: the partial sums have the columns of each group, which the second step adds up.
    pub(super) fn qk_norm_grad(&mut self, node: &Node, norm: QkNorm) {
        let Some(partials) = self.placed.temporaries[self.at.index()] else {
            unreachable!("the planner gives the gradient of every norm of queries and keys its partial sums")
        };
        let of = self.view(node.inputs[1]).rows;
        let partials = View { extent: Extent::Blocks { of, size: PARTIAL_ROWS }, ..partials };
        self.qk_norm_grad_rows(node, norm, partials);
        let isa = self.isa;
        let partials = self.read(partials, Sharing::Unpartitioned);
        let [q, k] = [norm.q, norm.k].map(|id| self.vector(self.grad(id)));
        let keys = norm.q_groups * q.cols;
        let weights = [(q, 0, norm.q_groups), (k, keys, norm.k_groups)]
            .map(|(grad, first, groups)| (self.write(grad, OWN_COLS), grad.cols, first, groups));
        self.push(Workers::All, 0, move |w| {
            let partials = w.all(partials);
            for (grad, width, first, groups) in weights {
                let cols = w.own_cols(grad);
                let mut grad = w.own_mut(grad);
                for start in (0..groups).map(|group| first + group * width) {
                    let terms = partials.cols_range(start + cols.start..start + cols.end);
                    column_sum(isa, terms, grad.row_mut(0));
                }
            }
        });
    }

    fn qk_norm_grad_rows(&mut self, node: &Node, norm: QkNorm, partials: View) {
        let isa = self.isa;
        let own = Sharing::OwnRows { granule: PARTIAL_ROWS };
        let [dy, x, stats] = [0, 1, 2].map(|i| self.read(self.view(node.inputs[i]), own));
        let weights = self.qk_weights(norm);
        let dx = self.write(self.view(node.outputs[0]), own);
        let partials = self.write(partials, Sharing::OwnRows { granule: 1 });
        self.push_rows(move |w| {
            let (dy, x, stats, weights) = (w.own(dy), w.own(x), w.own(stats), weights.of(w));
            let (dx, partials) = (w.own_mut(dx), w.own_mut(partials));
            qk_norm_backward(isa, QkNormBackward { dy, x, weights, stats, dx, partials });
        });
    }

    pub(super) fn gelu_grad(&mut self, node: &Node, kind: Gelu) {
        let isa = self.isa;
        let [x, dy] = [0, 1].map(|i| self.read(self.view(node.inputs[i]), OWN_ROWS));
        let dx = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| gelu_backward(isa, kind, w.own(x), w.own(dy), w.own_mut(dx)));
    }

    pub(super) fn swiglu_grad(&mut self, node: &Node) {
        let isa = self.isa;
        let [x, dy] = [0, 1].map(|i| self.read(self.view(node.inputs[i]), OWN_ROWS));
        let dx = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| swiglu_backward(isa, w.own(x), w.own(dy), w.own_mut(dx)));
    }

    pub(super) fn geglu_grad(&mut self, node: &Node, kind: Gelu) {
        let isa = self.isa;
        let [x, dy] = [0, 1].map(|i| self.read(self.view(node.inputs[i]), OWN_ROWS));
        let dx = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push_rows(move |w| geglu_backward(isa, kind, w.own(x), w.own(dy), w.own_mut(dx)));
    }
}
