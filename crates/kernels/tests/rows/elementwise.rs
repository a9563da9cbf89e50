//! Sums, copies, multiples, gathered rows.

use std::ops::Range;

use smallmind_kernels::elementwise::{add, column_sum, copy, gather_rows, scale};
use smallmind_kernels::reference::Matrix;
use smallmind_kernels::reference::elementwise as naive;
use smallmind_simd::{Isa, Scalar};

use crate::support::{Buffer, Case, EPSILON, Rng, for_shapes, on_every_isa};

const FACTOR: f32 = 1.37;

struct RowWise {
    a: Buffer,
    b: Buffer,
    rows: Vec<u32>,
    out: Buffer,
    gathered: Buffer,
}

impl Case for RowWise {
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer> {
        let (mut sum, mut same, mut gathered) = (self.out.clone(), self.out.clone(), self.gathered.clone());
        let mut scaled = self.out.clone();
        for rows in windows {
            let (a, b) = (self.a.mat().rows_range(rows.clone()), self.b.mat().rows_range(rows.clone()));
            add(isa, a, b, sum.mat_mut().rows_range(rows.clone()));
            copy(isa, a, same.mat_mut().rows_range(rows.clone()));
            scale(isa, a, FACTOR, scaled.mat_mut().rows_range(rows.clone()));
            let gathered = gathered.mat_mut().rows_range(rows.clone());
            gather_rows(isa, self.a.mat(), &self.rows[rows.clone()], gathered);
        }
        vec![sum, same, gathered, scaled]
    }
}

#[test]
fn sums_and_copies() {
    for_shapes(1, |rng, rows, cols| {
        let case = RowWise {
            a: Buffer::random(rng, rows, cols),
            b: Buffer::random(rng, rows, cols),
            rows: rng.ids(rows, rows.max(1)),
            out: Buffer::empty(rng, rows, cols),
            gathered: Buffer::empty(rng, rows, cols),
        };
        let (a, b) = (case.a.matrix(), case.b.matrix());
        on_every_isa(rng, &case, rows, |out| {
            out[0].assert_close(&naive::add(&a, &b), "sum", |_, _| EPSILON);
            out[1].assert_close(&a, "copy", |_, _| 0.0);
            out[3].assert_close(&naive::scale(&a, f64::from(FACTOR)), "multiple", |_, _| EPSILON * f64::from(FACTOR));
            out[2].assert_close(&naive::gather_rows(&a, &case.rows), "gathered rows", |_, _| 0.0);
        });
    });
}

struct ColumnSum {
    x: Buffer,
    total: Buffer,
}

impl Case for ColumnSum {
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer> {
        let mut total = self.total.clone();
        for cols in windows {
            column_sum(isa, self.x.mat().cols_range(cols.clone()), &mut total.mat_mut().row_mut(0)[cols.clone()]);
        }
        vec![total]
    }
}

#[test]
fn column_sums() {
    for_shapes(2, |rng, rows, cols| {
        let case = ColumnSum { x: Buffer::random(rng, rows, cols), total: Buffer::random(rng, 1, cols) };
        let (x, before) = (case.x.matrix(), case.total.matrix());
        let sum = naive::add(&before, &Matrix::new(1, cols, naive::column_sum(&x)));
        let magnitude = naive::add(&before.map(f64::abs), &Matrix::new(1, cols, naive::column_sum(&x.map(f64::abs))));
        on_every_isa(rng, &case, cols, |out| {
            let steps = (8 + rows / 8) as f64;
            out[0].assert_close(&sum, "column sum", |_, c| steps * EPSILON * magnitude.at(0, c));
        });
    });
}

#[test]
#[should_panic(expected = "row 3 of a matrix with 3")]
fn gathering_a_missing_row_panics() {
    let mut rng = Rng::new(3);
    let (x, mut out) = (Buffer::random(&mut rng, 3, 4), Buffer::empty(&mut rng, 1, 4));
    gather_rows(Scalar::new(), x.mat(), &[3], out.mat_mut());
}
