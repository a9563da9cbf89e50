//! The optimizer's update.

use smallmind_kernels::optimizer::{SUM_BLOCK, adamw, sum_of_squares};
use smallmind_simd::Isa;

use crate::Rows;
use crate::access::{Sharing, Space, View};
use crate::graph::Node;
use crate::lower::Lowering;
use crate::op::AdamWSpec;
use crate::step::Workers;
use crate::update::clip_factor;

/// The optimizer's step is partitioned at multiples of this number of elements.
pub const UPDATE_GRANULE: usize = 1024;

impl<I: Isa> Lowering<'_, I> {
    /// All parameters, or their gradients or moments, as one row.
    fn flat(&self, space: Space) -> View {
        View::new(space, 0, Rows::Fixed(1), self.layout.len())
    }

    pub(super) fn grad_squares(&mut self, node: &Node) {
        let isa = self.isa;
        let grads = self.read(self.flat(Space::Grads), Sharing::Unpartitioned);
        let partials = self.write(self.view(node.outputs[0]), Sharing::OwnRows { granule: 1 });
        self.push(Workers::All, 0, move |w| {
            let (grads, mut sums) = (w.all(grads).row(0), w.own_mut(partials));
            for (row, block) in w.own_rows(partials).enumerate() {
                let end = ((block + 1) * SUM_BLOCK).min(grads.len());
                sums.row_mut(row)[0] = sum_of_squares(isa, &grads[block * SUM_BLOCK..end]) as f32;
            }
        });
    }

    /// The norm from the partial sums, added in order, and the factor that clips it.
    pub(super) fn clip_factor(&mut self, node: &Node, max_norm: f64) {
        let partials = self.read(self.view(node.inputs[0]), Sharing::First);
        let out = self.write(self.view(node.outputs[0]), Sharing::First);
        self.push(Workers::First, 0, move |w| {
            let partials = w.all(partials);
            let norm = (0..partials.rows()).map(|i| f64::from(partials.row(i)[0])).sum::<f64>().sqrt();
            let factor = clip_factor(norm, max_norm);
            w.own_mut(out).row_mut(0).copy_from_slice(&[norm as f32, factor as f32]);
        });
    }

    pub(super) fn adamw(&mut self, node: &Node, spec: AdamWSpec) {
        let isa = self.isa;
        let runs = self.graph.params.decay_runs();
        let own = Sharing::OwnCols { granule: UPDATE_GRANULE };
        let memories = [Space::FlatParams, Space::Grads, Space::Moment1, Space::Moment2]
            .map(|space| self.write(self.flat(space), own));
        let clip = self.read(self.view(node.inputs[0]), Sharing::Unpartitioned);
        self.push(Workers::All, 0, move |w| {
            let &[norm, factor] = w.all(clip).row(0) else { unreachable!("the shape rule gives the clip two numbers") };
            if !norm.is_finite() {
                return;
            }
            let own = w.own_cols(memories[0]);
            let [mut param, mut grad, mut m, mut v] = memories.map(|memory| w.own_mut(memory));
            for (run, decay) in &runs {
                let (start, end) = (run.start.max(own.start), run.end.min(own.end));
                if start >= end {
                    continue;
                }
                let config = spec.step(w.scalars(), *decay, f64::from(factor));
                let [param, grad, m, v] = [&mut param, &mut grad, &mut m, &mut v]
                    .map(|memory| &mut memory.row_mut(0)[start - own.start..end - own.start]);
                adamw(isa, &config, param, grad, m, v);
            }
        });
    }
}
