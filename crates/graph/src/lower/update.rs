//! The optimizer's update.

use smallmind_kernels::Part;
use smallmind_kernels::optimizer::{SUM_BLOCK, adamw, sum_of_squares};
use smallmind_simd::Isa;

use crate::Rows;
use crate::arena::{Access, Frame, Sharing, Space, View};
use crate::graph::Node;
use crate::lower::Lowering;
use crate::op::AdamWSpec;
use crate::plan::Workers;
use crate::update::clip_factor;

/// Elements of the optimizer's step that go to one worker together.
pub const UPDATE_GRANULE: usize = 1024;

impl<I: Isa> Lowering<'_, I> {
    /// All parameters, or their gradients or moments, as one row.
    fn flat(&self, space: Space) -> View {
        View { space, offset: 0, rows: Rows::Fixed(1), cols: self.layout.len() }
    }

    pub(super) fn grad_squares(&mut self, node: &Node) {
        let (isa, partials, grads) = (self.isa, self.view(node.outputs[0]), self.flat(Space::Grads));
        let accesses = vec![self.access(grads, Sharing::Mixed, false), self.access(partials, Sharing::Mixed, true)];
        let run = move |frame: &Frame<'_>, part: Part| {
            let grads = frame.slice(&grads);
            let blocks = part.range(frame.rows(&partials), 1);
            let sums = frame.slice_mut(&partials, blocks.clone());
            for (block, sum) in blocks.zip(sums) {
                let end = ((block + 1) * SUM_BLOCK).min(grads.len());
                *sum = sum_of_squares(isa, &grads[block * SUM_BLOCK..end]) as f32;
            }
        };
        self.push(Workers::All, accesses, 0, Box::new(run));
    }

    /// The norm from the partial sums, added in order, and the factor that clips it.
    pub(super) fn clip_factor(&mut self, node: &Node, max_norm: f64) {
        let (partials, out) = (self.view(node.inputs[0]), self.view(node.outputs[0]));
        let accesses = vec![self.access(partials, Sharing::First, false), self.access(out, Sharing::First, true)];
        let run = move |frame: &Frame<'_>, _: Part| {
            let norm = frame.slice(&partials).iter().map(|s| f64::from(*s)).sum::<f64>().sqrt();
            let factor = clip_factor(norm, max_norm);
            frame.slice_mut(&out, 0..2).copy_from_slice(&[norm as f32, factor as f32]);
        };
        self.push(Workers::First, accesses, 0, Box::new(run));
    }

    pub(super) fn adamw(&mut self, node: &Node, spec: AdamWSpec) {
        let isa = self.isa;
        let clip = self.view(node.inputs[0]);
        let runs = self.graph.params.decay_runs();
        let [params, grads, m, v] =
            [Space::Params, Space::Grads, Space::Moment1, Space::Moment2].map(|space| self.flat(space));
        let mut accesses: Vec<Access> =
            [params, grads, m, v].iter().map(|view| self.access(*view, Sharing::Mixed, true)).collect();
        accesses.push(self.access(clip, Sharing::Mixed, false));
        let run = move |frame: &Frame<'_>, part: Part| {
            let &[norm, factor] = frame.slice(&clip) else { unreachable!("the shape rule gives the clip two numbers") };
            if !norm.is_finite() {
                return;
            }
            for (range, decay) in &runs {
                let own = part.range(range.len(), UPDATE_GRANULE);
                let own = range.start + own.start..range.start + own.end;
                let config = spec.step(frame.scalars, *decay, f64::from(factor));
                let [param, grad, m, v] = [&params, &grads, &m, &v].map(|view| frame.slice_mut(view, own.clone()));
                adamw(isa, &config, param, grad, m, v);
            }
        };
        self.push(Workers::All, accesses, 0, Box::new(run));
    }
}
