//! The naive backwards against central differences of the naive forwards.

use smallmind_kernels::loss::IGNORE;
use smallmind_kernels::reference::elementwise::column_sum;
use smallmind_kernels::reference::{Matrix, embedding, loss, norm, rope};
use smallmind_kernels::rope::{Direction, RopeTable};

use crate::support::Rng;

/// `Σ weights · values`: a scalar whose gradient by `values` is `weights`.
fn weigh(weights: &Matrix, values: &Matrix) -> f64 {
    assert_eq!((weights.rows, weights.cols), (values.rows, values.cols));
    weights.data.iter().zip(&values.data).map(|(w, v)| w * v).sum()
}

/// Compares `gradient` with the slope of `f` at `at`, element by element.
fn assert_gradient(what: &str, at: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    assert_eq!(at.len(), gradient.len(), "{what}: length");
    let step = 1e-5;
    for i in 0..at.len() {
        let moved = |by: f64| {
            let mut moved = at.to_vec();
            moved[i] += by;
            f(&moved)
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        let bound = 1e-8 * (1.0 + slope.abs());
        assert!((gradient[i] - slope).abs() <= bound, "{what} [{i}]: {}, slope {slope}", gradient[i]);
    }
}

const SHAPES: [(usize, usize); 5] = [(1, 1), (1, 2), (3, 5), (4, 9), (2, 16)];

#[test]
fn layer_norm() {
    let mut rng = Rng::new(50);
    for (rows, cols) in SHAPES {
        let (x, dy) = (rng.matrix(rows, cols), rng.matrix(rows, cols));
        let (weight, bias) = (rng.matrix(1, cols).data, rng.matrix(1, cols).data);
        let eps = 1e-2;
        let (dx, dweight, dbias) = norm::layer_norm_backward(&dy, &x, &weight, eps);
        let y = |x: &[f64], weight: &[f64], bias: &[f64]| {
            let x = Matrix::new(rows, cols, x.to_vec());
            weigh(&dy, &norm::layer_norm(&x, weight, Some(bias), eps).0)
        };
        assert_gradient("dx", &x.data, &dx.data, |x| y(x, &weight, &bias));
        assert_gradient("dweight", &weight, &dweight, |weight| y(&x.data, weight, &bias));
        assert_gradient("dbias", &bias, &dbias, |bias| y(&x.data, &weight, bias));
        assert_eq!(dbias, column_sum(&dy));
    }
}

#[test]
fn rms_norm() {
    let mut rng = Rng::new(51);
    for (rows, cols) in SHAPES {
        let (x, dy, weight) = (rng.matrix(rows, cols), rng.matrix(rows, cols), rng.matrix(1, cols).data);
        let eps = 1e-2;
        let (dx, dweight) = norm::rms_norm_backward(&dy, &x, &weight, eps);
        let y = |x: &[f64], weight: &[f64]| {
            weigh(&dy, &norm::rms_norm(&Matrix::new(rows, cols, x.to_vec()), weight, eps).0)
        };
        assert_gradient("dx", &x.data, &dx.data, |x| y(x, &weight));
        assert_gradient("dweight", &weight, &dweight, |weight| y(&x.data, weight));
    }
}

#[test]
fn qk_norm() {
    let mut rng = Rng::new(55);
    for (groups, widths) in [([2, 1], [3, 3]), ([1, 1], [5, 2]), ([0, 2], [1, 4])] {
        let (rows, cols) = (3, groups[0] * widths[0] + groups[1] * widths[1] + 2);
        let (x, dy) = (rng.matrix(rows, cols), rng.matrix(rows, cols));
        let [q, k] = widths.map(|width| rng.matrix(1, width).data);
        let eps = 1e-2;
        let (dx, dq, dk) = norm::qk_norm_backward(&dy, &x, &q, &k, groups, eps);
        let y = |x: &[f64], q: &[f64], k: &[f64]| {
            weigh(&dy, &norm::qk_norm(&Matrix::new(rows, cols, x.to_vec()), q, k, groups, eps).0)
        };
        assert_gradient("dx", &x.data, &dx.data, |x| y(x, &q, &k));
        assert_gradient("dq", &q, &dq, |q| y(&x.data, q, &k));
        assert_gradient("dk", &k, &dk, |k| y(&x.data, &q, k));
    }
}

#[test]
fn rope_of_some_columns() {
    let mut rng = Rng::new(52);
    let table = RopeTable::new(6, 100.0, None, 9);
    let partial = RopeTable::partial(6, 4, 100.0, None, 9);
    for (heads, table) in [(0, &table), (1, &table), (2, &table), (2, &partial)] {
        let (x, dy) = (rng.matrix(4, 14), rng.matrix(4, 14));
        let positions = [0, 8, 3, 3];
        let dx = rope::rope(&dy, &positions, table, heads, Direction::Backward);
        assert_gradient("dx", &x.data, &dx.data, |x| {
            let x = Matrix::new(4, 14, x.to_vec());
            weigh(&dy, &rope::rope(&x, &positions, table, heads, Direction::Forward))
        });
    }
}

#[test]
fn cross_entropy() {
    let mut rng = Rng::new(53);
    for (rows, vocab) in SHAPES {
        let logits = rng.matrix(rows, vocab).map(|x| 3.0 * x);
        let mut targets = rng.ids(rows, vocab);
        if rows > 1 {
            targets[1] = IGNORE;
        }
        let scale = 0.3;
        let gradient = loss::cross_entropy_backward(&logits, &targets, scale);
        assert_gradient("dlogits", &logits.data, &gradient.data, |logits| {
            let logits = Matrix::new(rows, vocab, logits.to_vec());
            scale * loss::cross_entropy(&logits, &targets).iter().sum::<f64>()
        });
    }
}

#[test]
fn embedding_table() {
    let mut rng = Rng::new(54);
    let (table, dy, ids) = (rng.matrix(4, 3), rng.matrix(6, 3), [2, 0, 2, 3, 2, 0]);
    let dtable = embedding::embedding_backward(&dy, &ids, 4);
    assert_gradient("dtable", &table.data, &dtable.data, |table| {
        weigh(&dy, &embedding::embedding(&Matrix::new(4, 3, table.to_vec()), &ids))
    });
}
