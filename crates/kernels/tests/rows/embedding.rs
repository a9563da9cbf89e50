//! The embedding and its gradient.

use std::ops::Range;

use smallmind_kernels::embedding::{embedding, embedding_backward};
use smallmind_kernels::reference::elementwise::add;
use smallmind_kernels::reference::embedding as naive;
use smallmind_simd::{Isa, Scalar};

use crate::support::{Buffer, Case, EPSILON, Rng, for_shapes, on_every_isa};

struct Lookup {
    table: Buffer,
    ids: Vec<u32>,
    out: Buffer,
}

impl Case for Lookup {
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer> {
        let mut out = self.out.clone();
        for rows in windows {
            embedding(isa, self.table.mat(), &self.ids[rows.clone()], out.mat_mut().rows_range(rows.clone()));
        }
        vec![out]
    }
}

#[test]
fn rows_are_looked_up() {
    for_shapes(10, |rng, rows, cols| {
        let vocab = 1 + rng.below(30);
        let case = Lookup {
            table: Buffer::random(rng, vocab, cols),
            ids: rng.ids(rows, vocab),
            out: Buffer::empty(rng, rows, cols),
        };
        let want = naive::embedding(&case.table.matrix(), &case.ids);
        on_every_isa(rng, &case, rows, |out| out[0].assert_close(&want, "embedding", |_, _| 0.0));
    });
}

struct Backward {
    dy: Buffer,
    ids: Vec<u32>,
    dtable: Buffer,
}

impl Case for Backward {
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer> {
        let mut dtable = self.dtable.clone();
        for cols in windows {
            let dy = self.dy.mat().cols_range(cols.clone());
            embedding_backward(isa, dy, &self.ids, dtable.mat_mut().cols_range(cols.clone()));
        }
        vec![dtable]
    }
}

#[test]
fn gradients_are_added_to_their_rows() {
    for_shapes(11, |rng, rows, cols| {
        let vocab = 1 + rng.below(8);
        let case = Backward {
            dy: Buffer::random(rng, rows, cols),
            ids: rng.ids(rows, vocab),
            dtable: Buffer::random(rng, vocab, cols),
        };
        let want = add(&case.dtable.matrix(), &naive::embedding_backward(&case.dy.matrix(), &case.ids, vocab));
        let terms = naive::embedding_backward(&case.dy.matrix().map(f64::abs), &case.ids, vocab);
        let magnitude = add(&case.dtable.matrix().map(f64::abs), &terms);
        on_every_isa(rng, &case, cols, |out| {
            out[0].assert_close(&want, "dtable", |r, c| rows as f64 * EPSILON * magnitude.at(r, c));
        });
    });
}

#[test]
#[should_panic(expected = "row 5 of a matrix with 5")]
fn an_id_beyond_the_table_panics() {
    let mut rng = Rng::new(12);
    let (table, mut out) = (Buffer::random(&mut rng, 5, 4), Buffer::empty(&mut rng, 1, 4));
    embedding(Scalar::new(), table.mat(), &[5], out.mat_mut());
}
