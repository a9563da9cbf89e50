//! Dropout and its masks.

use smallmind_kernels::dropout::{Dropout, DropoutKey, dropout, philox4x32, scaled_mask, scaled_mask_row};
use smallmind_kernels::reference::dropout as reference;
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::support::{Buffer, Rng, shapes};

const KEY: DropoutKey = DropoutKey { seed: 0x0123_4567_89ab_cdef, step: 12, salt: 3 };

struct Run<'a>(Dropout<'a>);

impl WithIsa for Run<'_> {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        dropout(isa, self.0);
    }
}

/// The window at the front of a matrix `width` columns wide.
fn at_the_front<'a>(p: f32, width: usize, x: Mat<'a>, out: MatMut<'a>) -> Dropout<'a> {
    Dropout { key: KEY, p, width, first_row: 0, first_col: 0, x, out }
}

struct MaskRow<'a> {
    p: f32,
    first: u64,
    out: &'a mut [f32],
}

impl WithIsa for MaskRow<'_> {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        isa.vectorize(
            #[inline(always)]
            || scaled_mask_row(isa, KEY, self.p, self.first, self.out),
        );
    }
}

#[test]
fn philox_gives_the_published_answers() {
    // The known-answer tests that the authors of the generator distribute with Random123.
    let answers = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, words) in answers {
        assert_eq!(philox4x32(counter, key), words);
    }
}

#[test]
fn windows_match_the_twin_and_each_other() {
    let mut rng = Rng::new(21);
    for [rows, cols] in shapes(&mut rng) {
        let p = [0.0, 0.1, 0.5, 0.9, 1.0][rng.below(5)];
        let x = Buffer::of_values(&mut rng, rows, cols);
        let exact = reference::dropout(KEY, p, &x.matrix());
        let allowed = exact.map(|y| 1e-7 * y.abs());
        for &kind in IsaKind::available() {
            let mut out = Buffer::empty(&mut rng, rows, cols);
            kind.with(Run(at_the_front(p, cols, x.mat(), out.mat_mut()))).unwrap();
            out.assert_near(&exact, &allowed, &format!("dropout on {kind}"));
            out.assert_gaps_untouched();

            let (row, col) = (rng.below(rows + 1), rng.below(cols + 1));
            let mut cut = Buffer::empty(&mut rng, rows, cols);
            let (top, bottom) = cut.mat_mut().split_at_row(row);
            for (first_row, rows, half) in [(0, 0..row, top), (row, row..rows, bottom)] {
                let x = x.mat().rows_range(rows);
                let (left, right) = half.split_at_col(col);
                for (first_col, range, out) in [(0, 0..col, left), (col, col..cols, right)] {
                    let window = at_the_front(p, cols, x.cols_range(range), out);
                    kind.with(Run(Dropout { first_row, first_col, ..window })).unwrap();
                }
            }
            cut.assert_same(&out, &format!("dropout on {kind}, cut at row {row}, column {col}"));
        }
    }
}

#[test]
fn rows_of_the_mask_match_its_elements() {
    let mut rng = Rng::new(22);
    let firsts = [0, 1, 63, 64, (1 << 34) - 70, (1 << 34) - 64, u32::MAX as u64, (1 << 60) + 5];
    for first in firsts.into_iter().chain((0..200).map(|i| i * 37)) {
        let p = 0.01 + 0.98 * rng.unit().abs();
        let expected: Vec<f32> = (0..150).map(|i| scaled_mask(KEY, p, first + i)).collect();
        for kind in IsaKind::available() {
            let len = rng.below(151);
            let mut out = [f32::NAN; 150];
            kind.with(MaskRow { p, first, out: &mut out[..len] }).unwrap();
            assert_eq!(out[..len], expected[..len], "from {first} on {kind}");
            assert!(out[len..].iter().all(|x| x.is_nan()));
        }
    }
}

#[test]
fn elements_are_dropped_independently_with_probability_p() {
    const N: usize = 400_000;
    for p in [0.05f32, 0.1, 0.5, 0.9] {
        let mut mask = vec![f32::NAN; N];
        IsaKind::best().with(MaskRow { p, first: 1 << 20, out: &mut mask }).unwrap();
        let scale = 1.0 / (1.0 - p);
        assert!(mask.iter().all(|&m| m == 0.0 || m == scale));
        // Counts of independent events of probability q stay within 5 standard deviations.
        let check = |what: &str, count: usize, n: usize, q: f64| {
            let (mean, deviation) = (n as f64 * q, (n as f64 * q * (1.0 - q)).sqrt());
            assert!((count as f64 - mean).abs() < 5.0 * deviation, "{what}: {count} of {n}, expected {mean} (p = {p})");
        };
        let dropped = |i: usize| mask[i] == 0.0;
        let q = f64::from(p);
        check("dropped", (0..N).filter(|&i| dropped(i)).count(), N, q);
        // Neighbours, and the distances at which the layout of a group repeats. Disjoint pairs, so that they are
        // independent.
        for distance in [1, 2, 16, 32, 48, 64, 768] {
            let pairs = (0..N / 2).map(|i| i / distance * 2 * distance + i % distance).filter(|i| i + distance < N);
            let both: Vec<bool> = pairs.map(|i| dropped(i) && dropped(i + distance)).collect();
            check(&format!("pairs {distance} apart"), both.iter().filter(|&&b| b).count(), both.len(), q * q);
        }
    }
}

#[test]
fn every_part_of_the_key_changes_the_mask() {
    const N: u64 = 20_000;
    let keys = [
        DropoutKey { seed: KEY.seed ^ 1, ..KEY },
        DropoutKey { seed: KEY.seed ^ (1 << 63), ..KEY },
        DropoutKey { step: KEY.step + 1, ..KEY },
        DropoutKey { salt: KEY.salt + 1, ..KEY },
        DropoutKey { step: KEY.salt, salt: KEY.step, ..KEY },
    ];
    for key in keys {
        let agreed = (0..N).filter(|&i| scaled_mask(KEY, 0.5, i) == scaled_mask(key, 0.5, i)).count();
        assert!((agreed as f64 - 10_000.0).abs() < 5.0 * 71.0, "{key:?}: {agreed} of {N} elements agree");
    }
}

#[test]
fn certain_and_impossible() {
    for i in 0..1000 {
        assert_eq!(scaled_mask(KEY, 0.0, i), 1.0);
        assert_eq!(scaled_mask(KEY, 1.0, i), 0.0);
    }
}

#[test]
#[should_panic(expected = "probability NaN")]
fn a_probability_that_is_none_is_refused() {
    scaled_mask(KEY, f32::NAN, 0);
}
