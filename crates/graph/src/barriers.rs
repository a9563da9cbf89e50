//! Where workers must meet.
//!
//! Workers run the steps of a plan in order, each at its own pace. Two steps may overlap in time unless there is a
//! barrier between them:
//!
//! ```text
//! step       0: norm   1: linear by rows   |   2: attention        |   3: linear by rows
//! accesses   x → y     y → qkv             |   qkv → out           |   out → z
//! sharing    own rows  own rows            |   unpartitioned       |   own rows
//!
//! worker 0   [  norm  ][    linear    ].....[    attention    ]......[     linear     ]
//! worker 1   [   norm   ][    linear    ]...[      attention      ]..[    linear    ]
//!                                      barrier               barrier
//! ```
//!
//! A worker's own rows of `qkv` follow from its own rows of `y`, which it wrote itself: no barrier. Attention reads the
//! rows of others: a barrier.
//!
//! ```text
//! since = {}                                        accesses of the steps since the last barrier
//! for step in steps:
//!     if some a in step.accesses conflicts with some b in since:
//!         put a barrier before step; since = {}
//!     since += step.accesses
//!
//! a conflicts with b:  they touch a common element, one of them writes it,
//!                      and it isn't sure that the same worker does both
//! ```
//!
//! The same worker does both if both are worker 0's, or both partition the same view in the same rows
//! ([`Access::conflicts`]). One pass is enough: every step before a barrier ends before any step after it begins.

use crate::access::Access;
use crate::step::Step;

/// Marks the steps before which all workers must meet.
pub(crate) fn insert(steps: &mut [Step]) {
    let mut since: Vec<Access> = Vec::new();
    for step in steps {
        step.barrier = step.accesses.iter().any(|a| since.iter().any(|b| a.conflicts(b)));
        if step.barrier {
            since.clear();
        }
        since.extend_from_slice(&step.accesses);
    }
}
