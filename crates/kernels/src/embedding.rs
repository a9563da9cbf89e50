//! Lookup of rows of a table, and the gradient of the table.

use smallmind_simd::Isa;

use crate::compiled::compiled;
use crate::elementwise::{accumulate_row, copy_row};
use crate::matmul::PackedWeight;
use crate::{Mat, MatMut};

/// `out[r] = table[ids[r]]` with `table` `[vocab, d_model]` and `out` `[tokens, d_model]`.
///
/// # Panics
/// If the shapes disagree or an id is not below `vocab`. Callers check ids from outside first.
pub fn embedding<I: Isa>(isa: I, table: Mat, ids: &[u32], out: MatMut) {
    fn body<I: Isa>(isa: I, table: Mat, ids: &[u32], mut out: MatMut) {
        assert_eq!((ids.len(), table.cols()), (out.rows(), out.cols()), "the shape of the embedded tokens");
        isa.vectorize(
            #[inline(always)]
            || {
                for (r, &id) in ids.iter().enumerate() {
                    copy_row(isa, table.row(id as usize), out.row_mut(r));
                }
            },
        );
    }
    compiled!(isa: I, body(table: Mat, ids: &[u32], out: MatMut));
}

/// [`embedding`] with a packed weight as table.
///
/// # Panics
/// As [`embedding`].
pub fn embedding_packed(table: PackedWeight, ids: &[u32], mut out: MatMut) {
    assert_eq!((ids.len(), table.rows()), (out.rows(), out.cols()), "the shape of the embedded tokens");
    for (r, &id) in ids.iter().enumerate() {
        table.copy_column(id as usize, out.row_mut(r));
    }
}

/// `dtable[ids[r]] += dy[r]` for `r = 0, 1, …`, with `dy` `[tokens, d_model]` and `dtable` `[vocab, d_model]`.
///
/// `dy` and `dtable` may be windows of columns: rows are added in their order, so the result does not depend on the
/// window.
///
/// # Panics
/// If the shapes disagree or an id is not below `vocab`.
pub fn embedding_backward<I: Isa>(isa: I, dy: Mat, ids: &[u32], dtable: MatMut) {
    fn body<I: Isa>(isa: I, dy: Mat, ids: &[u32], mut dtable: MatMut) {
        assert_eq!(
            (ids.len(), dtable.cols()),
            (dy.rows(), dy.cols()),
            "the shape of the gradient of the embedded tokens"
        );
        isa.vectorize(
            #[inline(always)]
            || {
                for (r, &id) in ids.iter().enumerate() {
                    accumulate_row(isa, dy.row(r), dtable.row_mut(id as usize));
                }
            },
        );
    }
    compiled!(isa: I, body(dy: Mat, ids: &[u32], dtable: MatMut));
}
