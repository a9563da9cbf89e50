//! The gradients of the row-wise operations.

use smallmind_kernels::activation::{Gelu, gelu_backward, swiglu_backward};
use smallmind_kernels::embedding::embedding_backward;
use smallmind_kernels::norm::{
    LayerNormBackward, NormParamBackward, RmsNormBackward, RmsNormParamBackward, layer_norm_backward,
    layer_norm_param_backward, rms_norm_backward, rms_norm_param_backward,
};
use smallmind_simd::Isa;

use crate::ParamId;
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

    pub(super) fn norm_grad(&mut self, node: &Node, norm: Norm) {
        let isa = self.isa;
        let (inputs, outputs) = self.views(node);
        let [dy, x, stats] = [inputs[0], inputs[1], inputs[2]];
        let (add, dx) = (inputs.get(3).copied(), outputs[0]);
        let weight = self.vector(self.param(norm.weight()));
        self.rowwise(&inputs, &[weight], &[dx], move |frame, rows| {
            let read = |v| frame.mat(v).rows_range(rows.clone());
            let (dy, x, stats, add) = (read(&dy), read(&x), read(&stats), add.as_ref().map(read));
            let dx = frame.mat_mut(&dx, rows.clone(), 0..dx.cols);
            let weight = frame.slice(&weight);
            match norm {
                Norm::Layer { .. } => layer_norm_backward(isa, LayerNormBackward { dy, x, weight, stats, add, dx }),
                Norm::Rms { .. } => rms_norm_backward(isa, RmsNormBackward { dy, x, weight, stats, add, dx }),
            }
        });
    }

    pub(super) fn norm_param_grad(&mut self, node: &Node, norm: Norm) {
        let isa = self.isa;
        let [dy, x, stats] = [0, 1, 2].map(|i| self.view(node.inputs[i]));
        let weight = self.vector(self.grad(norm.weight()));
        let bias = norm.bias().map(|b| self.vector(self.grad(b)));
        let grads: Vec<_> = std::iter::once(weight).chain(bias).collect();
        self.columnwise(&[dy, x, stats], dy.cols, &grads, move |frame, cols| {
            let (dy, x) = (frame.mat(&dy).cols_range(cols.clone()), frame.mat(&x).cols_range(cols.clone()));
            let stats = frame.mat(&stats);
            let dweight = frame.slice_mut(&weight, cols.clone());
            match norm {
                Norm::Layer { .. } => {
                    let dbias = bias.as_ref().map(|b| frame.slice_mut(b, cols));
                    layer_norm_param_backward(isa, NormParamBackward { dy, x, stats, dweight, dbias });
                }
                Norm::Rms { .. } => rms_norm_param_backward(isa, RmsNormParamBackward { dy, x, stats, dweight }),
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
