//! Rotary position embedding.

use std::f64::consts::PI;
use std::ops::Range;

use smallmind_kernels::reference::Matrix;
use smallmind_kernels::reference::rope as naive;
use smallmind_kernels::rope::{Direction, Llama3Scaling, Rope, RopeScaling, RopeTable, rope};
use smallmind_simd::{Isa, Scalar};

use crate::support::{Buffer, Case, EPSILON, Rng, for_shapes, on_every_isa};

struct Turn {
    x: Buffer,
    positions: Vec<u32>,
    table: RopeTable,
    heads: usize,
    direction: Direction,
    out: Buffer,
}

impl Case for Turn {
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer> {
        let mut out = self.out.clone();
        for rows in windows {
            let args = Rope {
                x: self.x.mat().rows_range(rows.clone()),
                positions: &self.positions[rows.clone()],
                table: &self.table,
                heads: self.heads,
                direction: self.direction,
                out: out.mat_mut().rows_range(rows.clone()),
            };
            rope(isa, args);
        }
        vec![out]
    }
}

#[test]
fn heads_are_turned_and_the_rest_copied() {
    for_shapes(20, |rng, rows, cols| {
        let heads = rng.below(5);
        let head_dim = cols / heads.max(1);
        // All features of a head, or the first of them.
        let half = if rng.flip() { head_dim / 2 } else { rng.below(head_dim / 2 + 1) };
        let max_positions = 1 + rng.below(40);
        let direction = if rng.flip() { Direction::Forward } else { Direction::Backward };
        let case = Turn {
            x: Buffer::random(rng, rows, cols),
            positions: rng.ids(rows, max_positions),
            table: RopeTable::partial(head_dim, 2 * half, 100.0, None, max_positions),
            heads,
            direction,
            out: Buffer::empty(rng, rows, cols),
        };
        let x = case.x.matrix();
        let want = naive::rope(&x, &case.positions, &case.table, heads, direction);
        let bound = |r: usize, c: usize| {
            if c >= heads * head_dim || c % head_dim >= 2 * half {
                return 0.0;
            }
            let partner = if c % head_dim < half { c + half } else { c - half };
            2.0 * EPSILON * x.at(r, c).hypot(x.at(r, partner))
        };
        on_every_isa(rng, &case, rows, |out| out[0].assert_close(&want, "rope", bound));
    });
}

/// Angles by the formulas as Hugging Face writes them, in terms of wavelengths.
fn angle(position: usize, i: usize, head_dim: usize, theta: f64, scaling: Option<Llama3Scaling>) -> f64 {
    let inverse = 1.0 / theta.powf(2.0 * i as f64 / head_dim as f64);
    let Some(s) = scaling else { return position as f64 * inverse };
    let original = s.original_max_position as f64;
    let wavelength = 2.0 * PI / inverse;
    let smooth = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
    let scaled = if wavelength > original / s.low_freq_factor {
        inverse / s.factor
    } else if wavelength < original / s.high_freq_factor {
        inverse
    } else {
        (1.0 - smooth) * inverse / s.factor + smooth * inverse
    };
    position as f64 * scaled
}

#[test]
fn the_table_holds_the_angles() {
    let llama =
        Llama3Scaling { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position: 8192 };
    for (theta, scaling) in [(1e4, None), (5e5, None), (5e5, Some(llama))] {
        let table = RopeTable::new(64, theta, scaling.map(RopeScaling::Llama3).as_ref(), 300);
        assert_eq!((table.head_dim(), table.max_positions()), (64, 300));
        for position in [0, 1, 2, 17, 299] {
            for i in 0..32 {
                let angle = angle(position, i, 64, theta, scaling);
                assert!((f64::from(table.cos(position)[i]) - angle.cos()).abs() < 0.6 * EPSILON);
                assert!((f64::from(table.sin(position)[i]) - angle.sin()).abs() < 0.6 * EPSILON);
            }
        }
    }
    let scaling = RopeScaling::Llama3(llama);
    let (plain, scaled) = (RopeTable::new(64, 5e5, None, 300), RopeTable::new(64, 5e5, Some(&scaling), 300));
    assert_eq!(plain.sin(299)[..12], scaled.sin(299)[..12], "high frequencies stay");
    assert!(plain.sin(299)[24..] != scaled.sin(299)[24..], "low frequencies are stretched");
}

/// The purpose of rope: the dot product of a query and a key depends on their distance only.
#[test]
fn scores_depend_on_the_distance() {
    let mut rng = Rng::new(21);
    let table = RopeTable::new(16, 1e4, None, 100);
    let (q, k) = (rng.matrix(1, 16), rng.matrix(1, 16));
    let turn = |x: &Matrix, position| naive::rope(x, &[position], &table, 1, Direction::Forward);
    let score = |at_q, at_k| -> f64 {
        let (q, k) = (turn(&q, at_q), turn(&k, at_k));
        q.data.iter().zip(&k.data).map(|(q, k)| q * k).sum()
    };
    assert!((score(7, 3) - score(54, 50)).abs() < 1e-5);
    assert!((score(7, 3) - score(7, 5)).abs() > 1e-3);
}

#[test]
fn backward_undoes_forward() {
    let mut rng = Rng::new(22);
    let table = RopeTable::new(10, 1e4, None, 50);
    let x = rng.matrix(4, 33);
    let turned = naive::rope(&x, &[0, 1, 20, 49], &table, 3, Direction::Forward);
    let back = naive::rope(&turned, &[0, 1, 20, 49], &table, 3, Direction::Backward);
    assert!(x.data.iter().zip(&back.data).all(|(x, back)| (x - back).abs() < 1e-6));
    assert!(x.data.iter().zip(&turned.data).any(|(x, turned)| (x - turned).abs() > 0.1));
}

#[test]
#[should_panic(expected = "position 8 of a rope table with 8")]
fn a_position_beyond_the_table_panics() {
    let mut rng = Rng::new(23);
    let (x, mut out) = (Buffer::random(&mut rng, 1, 4), Buffer::empty(&mut rng, 1, 4));
    let table = RopeTable::new(4, 1e4, None, 8);
    let (heads, direction) = (1, Direction::Forward);
    rope(Scalar::new(), Rope { x: x.mat(), positions: &[8], table: &table, heads, direction, out: out.mat_mut() });
}
