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
//! A rotation's transpose is its inverse: the backward rotates the gradient by the negative angle. Where only the first
//! `dim` features of a head are rotated, `dim` stands for `head_dim` above and the other features are copied.

mod scaling;

use smallmind_simd::Isa;

use crate::compiled::compiled;
use crate::{Mat, MatMut, elementwise::copy_row, row_ops};

pub use scaling::{Llama3Scaling, LongRopeScaling, RopeScaling, YarnScaling};

/// The frequencies `[dim / 2]` of the rotated pairs of features, in radians per token, of a table of so many positions.
///
/// # Panics
/// If LongRoPE has another number of factors.
pub fn frequencies(dim: usize, theta: f64, scaling: Option<&RopeScaling>, positions: usize) -> Vec<f64> {
    let plain = (0..dim / 2).map(|i| theta.powf(-((2 * i) as f64) / dim as f64));
    let mut frequencies: Vec<f64> = plain.collect();
    if let Some(scaling) = scaling {
        scaling.apply(&mut frequencies, theta, positions);
    }
    frequencies
}

/// Cosines and sines of the angles of every position, computed in `f64` and rounded once.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    head_dim: usize,
    half: usize,
    positions: usize,
    /// `[positions, half]`
    cos: Vec<f32>,
    /// `[positions, half]`
    sin: Vec<f32>,
}

impl RopeTable {
    /// The table of the positions `0..max_positions` for heads of `head_dim` features, all of which are rotated.
    /// Frequencies fall from 1 towards `1 / theta`.
    ///
    /// # Panics
    /// If `head_dim` is odd.
    pub fn new(head_dim: usize, theta: f64, scaling: Option<&RopeScaling>, max_positions: usize) -> Self {
        Self::partial(head_dim, head_dim, theta, scaling, max_positions)
    }

    /// [`RopeTable::new`] for heads of which the first `dim` features are rotated.
    ///
    /// # Panics
    /// If `dim` is odd or above `head_dim`.
    pub fn partial(
        head_dim: usize,
        dim: usize,
        theta: f64,
        scaling: Option<&RopeScaling>,
        max_positions: usize,
    ) -> Self {
        assert!(dim.is_multiple_of(2), "rope rotates pairs of features, not {dim} of them");
        assert!(dim <= head_dim, "{dim} rotated features of {head_dim} in a head");
        let half = dim / 2;
        let frequencies = frequencies(dim, theta, scaling, max_positions);
        let factor = scaling.map_or(1.0, RopeScaling::attention_factor);
        let mut table = Self { head_dim, half, positions: max_positions, cos: Vec::new(), sin: Vec::new() };
        table.cos.reserve_exact(max_positions * half);
        table.sin.reserve_exact(max_positions * half);
        for position in 0..max_positions {
            for frequency in &frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                table.cos.push((cos * factor) as f32);
                table.sin.push((sin * factor) as f32);
            }
        }
        table
    }

    /// Features of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Features of a head that are rotated, from the first on.
    pub fn dim(&self) -> usize {
        2 * self.half
    }

    /// Number of positions in the table.
    pub fn max_positions(&self) -> usize {
        self.positions
    }

    /// The cosines of `position`, `[dim / 2]`, times the scaling's attention factor.
    ///
    /// # Panics
    /// If the table ends before `position`.
    #[inline(always)]
    pub fn cos(&self, position: usize) -> &[f32] {
        assert!(position < self.positions, "position {position} of a rope table with {}", self.positions);
        &self.cos[position * self.half..][..self.half]
    }

    /// The sines of `position`, `[dim / 2]`, times the scaling's attention factor.
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
    fn body<I: Isa>(isa: I, args: Rope) {
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
    compiled!(isa: I, body(args: Rope));
}

/// Rotates one head: `x` and `out` `[head_dim]`, `cos` and `sin` `[dim / 2]`.
#[inline(always)]
fn rotate_head<I: Isa>(isa: I, x: &[f32], cos: &[f32], sin: &[f32], direction: Direction, out: &mut [f32]) {
    let (x, copied) = x.split_at(2 * cos.len());
    let (out, rest) = out.split_at_mut(2 * cos.len());
    if !copied.is_empty() {
        copy_row(isa, copied, rest);
    }
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
