//! The kind of work that an operation does.

use serde::{Deserialize, Serialize};
use smallmind_graph::Op;
use smallmind_graph::op::Index;

/// Kind of work of an operation. It decides which roof limits the operation, and which alternatives would change it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Copies rows of a table of tokens. The table may be stored in any format.
    TokenRows,
    /// Multiplies values by a weight. The weight may be stored in any format.
    Product,
    /// Attention, or its gradient.
    Attention,
    /// All else: norms, elementwise operations, gradients, updates. Its arithmetic is `f32`, and balance is the only
    /// alternative that changes it.
    #[default]
    Other,
}

impl Class {
    /// The kind of `op`.
    pub fn of(op: &Op) -> Self {
        if matches!(op, Op::Embedding { index: Index::Tokens, .. }) {
            Self::TokenRows
        } else if matches!(op, Op::Linear { .. } | Op::LinearCrossEntropy { .. }) {
            Self::Product
        } else if matches!(op, Op::Attention { .. } | Op::AttentionGrad { .. } | Op::CachedAttention { .. }) {
            Self::Attention
        } else {
            Self::Other
        }
    }

    /// Whether its weight may be stored in a narrower format than `f32`.
    pub fn has_narrow_weights(self) -> bool {
        matches!(self, Self::TokenRows | Self::Product)
    }
}
