//! Rotary position embedding (Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021).
//!
//! Feature `i` and feature `i + head_dim / 2` of a head are the two coordinates of a point (the pairing that Hugging
//! Face calls `rotate_half`), which is rotated by the angle `p · f_i` at position `p`, with `f_i = theta^(−2i /
//! head_dim)`:
//!
//! ```text
//! y[i]        = x[i] · cos(p f_i) − x[i + half] · sin(p f_i)
//! y[i + half] = x[i + half] · cos(p f_i) + x[i] · sin(p f_i)
//! ```
//!
//! A rotation's transpose is its inverse: the backward rotates the gradient by the negative angle.

use std::f64::consts::TAU;

use smallmind_simd::Isa;

use crate::{Mat, MatMut, elementwise::copy_row, row_ops};

/// The scaling of low frequencies with which Llama 3.1 and later reach long contexts (`rope_type: "llama3"` in
/// `config.json`).
///
/// With the wavelength `λ = 2π / f` and `L = original_max_position`: a frequency with `λ < L / high_freq_factor` is
/// kept; one with `λ > L / low_freq_factor` is divided by `factor`; in between, `f' = (1 − s) · f / factor + s · f`
/// with `s = (L / λ − low_freq_factor) / (high_freq_factor − low_freq_factor)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeScaling {
    /// Divisor of the lowest frequencies.
    pub factor: f64,
    /// Frequencies with wavelengths above `original_max_position / low_freq_factor` are divided by `factor`.
    pub low_freq_factor: f64,
    /// Frequencies with wavelengths below `original_max_position / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// The context length that the model was first trained with.
    pub original_max_position: usize,
}

impl RopeScaling {
    fn apply(&self, frequency: f64) -> f64 {
        let periods = self.original_max_position as f64 * frequency / TAU;
        if periods > self.high_freq_factor {
            frequency
        } else if periods < self.low_freq_factor {
            frequency / self.factor
        } else {
            let s = (periods - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            (1.0 - s) * frequency / self.factor + s * frequency
        }
    }
}

/// Cosines and sines of the angles of every position, computed in `f64` and rounded once.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    half: usize,
    positions: usize,
    /// `[positions, half]`
    cos: Vec<f32>,
    /// `[positions, half]`
    sin: Vec<f32>,
}

impl RopeTable {
    /// The table of the positions `0..max_positions` for heads of `head_dim` features. Frequencies fall from 1 towards
    /// `1 / theta`.
    ///
    /// # Panics
    /// If `head_dim` is odd.
    pub fn new(head_dim: usize, theta: f64, scaling: Option<RopeScaling>, max_positions: usize) -> Self {
        assert!(head_dim.is_multiple_of(2), "rope rotates pairs of features, a head has {head_dim}");
        let half = head_dim / 2;
        let frequency = |i: usize| {
            let plain = theta.powf(-((2 * i) as f64) / head_dim as f64);
            scaling.map_or(plain, |scaling| scaling.apply(plain))
        };
        let frequencies: Vec<f64> = (0..half).map(frequency).collect();
        let mut table = Self { half, positions: max_positions, cos: Vec::new(), sin: Vec::new() };
        table.cos.reserve_exact(max_positions * half);
        table.sin.reserve_exact(max_positions * half);
        for position in 0..max_positions {
            for frequency in &frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                table.cos.push(cos as f32);
                table.sin.push(sin as f32);
            }
        }
        table
    }

    /// Features of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }

    /// Number of positions in the table.
    pub fn max_positions(&self) -> usize {
        self.positions
    }

    /// The cosines of `position`, `[head_dim / 2]`.
    ///
    /// # Panics
    /// If the table ends before `position`.
    #[inline(always)]
    pub fn cos(&self, position: usize) -> &[f32] {
        assert!(position < self.positions, "position {position} of a rope table with {}", self.positions);
        &self.cos[position * self.half..][..self.half]
    }

    /// The sines of `position`, `[head_dim / 2]`.
    ///
    /// # Panics
    /// If the table ends before `position`.
    #[inline(always)]
    pub fn sin(&self, position: usize) -> &[f32] {
        assert!(position < self.positions, "position {position} of a rope table with {}", self.positions);
        &self.sin[position * self.half..][..self.half]
    }
}

/// The sign of the angle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The angle of the position, for values.
    Forward,
    /// The negative angle, for gradients.
    Backward,
}

/// The arguments of [`rope`].
pub struct Rope<'a> {
    /// Heads, one after another, then columns that are copied: `[rows, width]`, `width ≥ heads · head_dim`.
    pub x: Mat<'a>,
    /// The position of each row, `[rows]`, each below the table's number of positions.
    pub positions: &'a [u32],
    /// The angles.
    pub table: &'a RopeTable,
    /// Number of heads to rotate.
    pub heads: usize,
    /// The sign of the angle.
    pub direction: Direction,
    /// The result, `[rows, width]`.
    pub out: MatMut<'a>,
}

/// Rotates the first `heads` heads of every row by the angles of the row's position and copies the other columns, so
/// that queries, keys and values can be columns of one matrix. The output is divided by rows.
///
/// The error of an element is at most 2 ε times the distance of its point from the origin.
///
/// # Panics
/// If shapes disagree or a position is beyond the table. Callers check positions from outside first.
pub fn rope<I: Isa>(isa: I, args: Rope) {
    let Rope { x, positions, table, heads, direction, mut out } = args;
    let rotated = heads * table.head_dim();
    assert_eq!((x.rows(), x.cols()), (out.rows(), out.cols()), "the shape of the result");
    assert_eq!(positions.len(), x.rows(), "one position for each row");
    assert!(rotated <= x.cols(), "{heads} heads of {} features in rows of {}", table.head_dim(), x.cols());
    isa.vectorize(
        #[inline(always)]
        || {
            for (r, &position) in positions.iter().enumerate() {
                let (x, out) = (x.row(r), out.row_mut(r));
                let (cos, sin) = (table.cos(position as usize), table.sin(position as usize));
                for head in 0..heads {
                    let columns = head * table.head_dim()..(head + 1) * table.head_dim();
                    rotate_head(isa, &x[columns.clone()], cos, sin, direction, &mut out[columns]);
                }
                copy_row(isa, &x[rotated..], &mut out[rotated..]);
            }
        },
    );
}

/// Rotates one head: `x` and `out` `[head_dim]`, `cos` and `sin` `[head_dim / 2]`.
#[inline(always)]
fn rotate_head<I: Isa>(isa: I, x: &[f32], cos: &[f32], sin: &[f32], direction: Direction, out: &mut [f32]) {
    let sign = isa.splat(match direction {
        Direction::Forward => 1.0,
        Direction::Backward => -1.0,
    });
    let (first, second) = x.split_at(cos.len());
    row_ops::map_to(
        isa,
        [first, second, cos, sin],
        out.split_at_mut(cos.len()).into(),
        #[inline(always)]
        |[a, b, cos, sin]| {
            let sin = isa.mul(sin, sign);
            [isa.neg_mul_add(b, sin, isa.mul(a, cos)), isa.mul_add(a, sin, isa.mul(b, cos))]
        },
    );
}
