//! Soft caps.

use std::ops::Range;

use smallmind_kernels::reference::soft_cap as naive;
use smallmind_kernels::soft_cap::{soft_cap, soft_cap_backward, soft_cap_in_place};
use smallmind_simd::Isa;

use crate::support::{Buffer, Case, EPSILON, for_shapes, on_every_isa};

struct Capped {
    cap: f32,
    x: Buffer,
    d: Buffer,
    out: Buffer,
}

impl Case for Capped {
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer> {
        let (mut out, mut same, mut d) = (self.out.clone(), self.x.clone(), self.d.clone());
        for rows in windows {
            soft_cap(isa, self.cap, self.x.mat().rows_range(rows.clone()), out.mat_mut().rows_range(rows.clone()));
            soft_cap_in_place(isa, self.cap, same.mat_mut().rows_range(rows.clone()));
            let y = out.mat().rows_range(rows.clone());
            soft_cap_backward(isa, self.cap, y, d.mat_mut().rows_range(rows.clone()));
        }
        vec![out, same, d]
    }
}

#[test]
fn numbers_are_capped() {
    for_shapes(70, |rng, rows, cols| {
        let spread = [0.1, 10.0, 1000.0][rng.below(3)];
        let case = Capped {
            cap: [0.5, 30.0][rng.below(2)],
            x: Buffer::from_fn(rng, rows, cols, |rng, _, _| spread * rng.signed()),
            d: Buffer::random(rng, rows, cols),
            out: Buffer::empty(rng, rows, cols),
        };
        let cap = f64::from(case.cap);
        let y = naive::soft_cap(cap, &case.x.matrix());
        let dy = case.d.matrix();
        let d = naive::soft_cap_backward(cap, &y, &dy);
        on_every_isa(rng, &case, rows, |out| {
            out[0].assert_close(&y, "capped", |r, c| 6.0 * EPSILON * y.at(r, c).abs());
            out[1].assert_same(&out[0], "capped in place");
            // The slope is 1 less a square near 1: its error is that of the square.
            out[2].assert_close(&d, "gradient", |r, c| 16.0 * EPSILON * dy.at(r, c).abs());
        });
    });
}
