//! Sums and copies of matrices.

use smallmind_simd::Isa;

use crate::compiled::compiled;
use crate::{Mat, MatMut, row_ops};

/// Rows that are summed first, before their sum is added to the total of a column: a first level of pairwise summation.
/// Hardware prefetchers can follow this many streams.
pub(crate) const ROW_BLOCK: usize = 8;

/// `out = a + b`, all `[rows, cols]`.
///
/// # Panics
/// If the shapes differ.
pub fn add<I: Isa>(isa: I, a: Mat, b: Mat, out: MatMut) {
    fn body<I: Isa>(isa: I, a: Mat, b: Mat, mut out: MatMut) {
        assert_eq!((a.rows(), a.cols()), (out.rows(), out.cols()), "the shape of the first term");
        assert_eq!((b.rows(), b.cols()), (out.rows(), out.cols()), "the shape of the second term");
        isa.vectorize(
            #[inline(always)]
            || {
                for r in 0..out.rows() {
                    add_rows(isa, a.row(r), b.row(r), out.row_mut(r));
                }
            },
        );
    }
    compiled!(isa: I, body(a: Mat, b: Mat, out: MatMut));
}

/// `out = factor · x`, both `[rows, cols]`; rounded once.
///
/// # Panics
/// If the shapes differ.
pub fn scale<I: Isa>(isa: I, x: Mat, factor: f32, out: MatMut) {
    fn body<I: Isa>(isa: I, x: Mat, factor: f32, mut out: MatMut) {
        assert_eq!((x.rows(), x.cols()), (out.rows(), out.cols()), "the shape of what is scaled");
        isa.vectorize(
            #[inline(always)]
            || {
                let factor = isa.splat(factor);
                for r in 0..out.rows() {
                    row_ops::map(
                        isa,
                        [x.row(r)],
                        out.row_mut(r),
                        #[inline(always)]
                        |[x]| isa.mul(x, factor),
                    );
                }
            },
        );
    }
    compiled!(isa: I, body(x: Mat, factor: f32, out: MatMut));
}

/// `out = x`, both `[rows, cols]`.
///
/// # Panics
/// If the shapes differ.
pub fn copy<I: Isa>(isa: I, x: Mat, out: MatMut) {
    fn body<I: Isa>(isa: I, x: Mat, mut out: MatMut) {
        assert_eq!((x.rows(), x.cols()), (out.rows(), out.cols()), "the shape of the source");
        isa.vectorize(
            #[inline(always)]
            || {
                for r in 0..out.rows() {
                    copy_row(isa, x.row(r), out.row_mut(r));
                }
            },
        );
    }
    compiled!(isa: I, body(x: Mat, out: MatMut));
}

/// `out[i] = x[rows[i]]` with `x` `[_, cols]` and `out` `[rows.len(), cols]`: for example the last position of every
/// sequence.
///
/// Its backward is [`embedding_backward`](crate::embedding::embedding_backward) with the same `rows`, added to a matrix
/// of zeros.
///
/// # Panics
/// If the shapes disagree or `x` lacks one of the rows.
pub fn gather_rows<I: Isa>(isa: I, x: Mat, rows: &[u32], out: MatMut) {
    fn body<I: Isa>(isa: I, x: Mat, rows: &[u32], mut out: MatMut) {
        assert_eq!((rows.len(), x.cols()), (out.rows(), out.cols()), "the shape of the gathered rows");
        isa.vectorize(
            #[inline(always)]
            || {
                for (i, &row) in rows.iter().enumerate() {
                    copy_row(isa, x.row(row as usize), out.row_mut(i));
                }
            },
        );
    }
    compiled!(isa: I, body(x: Mat, rows: &[u32], out: MatMut));
}

/// `out += Σ_r x[r]` with `x` `[rows, cols]` and `out` `[cols]`: the gradient of a bias.
///
/// `x` and `out` may be windows of columns. Each column is summed in blocks of eight rows, the blocks in order, so its
/// sum does not depend on the window; its error is at most about `(8 + rows / 8) · ε · Σ_r |x[r]|`.
///
/// # Panics
/// If the columns differ.
pub fn column_sum<I: Isa>(isa: I, x: Mat, out: &mut [f32]) {
    fn body<I: Isa>(isa: I, x: Mat, out: &mut [f32]) {
        assert_eq!(x.cols(), out.len(), "one sum for each column");
        isa.vectorize(
            #[inline(always)]
            || {
                let blocks = x.rows() / ROW_BLOCK;
                for first in (0..blocks).map(|block| block * ROW_BLOCK) {
                    let rows: [&[f32]; ROW_BLOCK] = std::array::from_fn(|i| x.row(first + i));
                    row_ops::update(
                        isa,
                        rows,
                        out,
                        #[inline(always)]
                        |total, v| isa.add(total, sum_block(isa, v)),
                    );
                }
                for r in blocks * ROW_BLOCK..x.rows() {
                    accumulate_row(isa, x.row(r), out);
                }
            },
        );
    }
    compiled!(isa: I, body(x: Mat, out: &mut [f32]));
}

#[inline(always)]
fn sum_block<I: Isa>(isa: I, v: [I::F32; ROW_BLOCK]) -> I::F32 {
    let [a, b, c, d, e, f, g, h] = v;
    let (front, back) = (isa.add(isa.add(a, b), isa.add(c, d)), isa.add(isa.add(e, f), isa.add(g, h)));
    isa.add(front, back)
}

/// `out = a + b`, all of one length.
#[inline(always)]
pub(crate) fn add_rows<I: Isa>(isa: I, a: &[f32], b: &[f32], out: &mut [f32]) {
    row_ops::map(
        isa,
        [a, b],
        out,
        #[inline(always)]
        |[a, b]| isa.add(a, b),
    );
}

/// `out += x`, both of one length.
#[inline(always)]
pub(crate) fn accumulate_row<I: Isa>(isa: I, x: &[f32], out: &mut [f32]) {
    row_ops::update(
        isa,
        [x],
        out,
        #[inline(always)]
        |total, [x]| isa.add(total, x),
    );
}

/// `to = from`, both of one length.
#[inline(always)]
pub(crate) fn copy_row<I: Isa>(isa: I, from: &[f32], to: &mut [f32]) {
    row_ops::map(
        isa,
        [from],
        to,
        #[inline(always)]
        |[v]| v,
    );
}
