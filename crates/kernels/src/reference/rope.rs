//! Rotary position embedding: the twin of [`crate::rope`].

use super::Matrix;
use crate::rope::{Direction, RopeTable};

/// `x` `[rows, width]` with its first `heads` heads rotated by the angles of their row's position, or by the negative
/// angles for [`Direction::Backward`]; all other features are copied.
pub fn rope(x: &Matrix, positions: &[u32], table: &RopeTable, heads: usize, direction: Direction) -> Matrix {
    assert_eq!(x.rows, positions.len(), "one position for each row");
    let (head_dim, half) = (table.head_dim(), table.dim() / 2);
    let mut out = x.clone();
    for (r, &position) in positions.iter().enumerate() {
        for head in 0..heads {
            for i in 0..half {
                let (first, second) = (head * head_dim + i, head * head_dim + half + i);
                let cos = f64::from(table.cos(position as usize)[i]);
                let sin = match direction {
                    Direction::Forward => f64::from(table.sin(position as usize)[i]),
                    Direction::Backward => -f64::from(table.sin(position as usize)[i]),
                };
                *out.at_mut(r, first) = x.at(r, first) * cos - x.at(r, second) * sin;
                *out.at_mut(r, second) = x.at(r, second) * cos + x.at(r, first) * sin;
            }
        }
    }
    out
}
