//! Where workers must meet.

use crate::arena::Access;
use crate::plan::Step;

/// Marks the steps before which all workers must meet: those of which some access conflicts with one since the last barrier.
pub(super) fn insert(steps: &mut [Step]) {
    let mut since: Vec<Access> = Vec::new();
    for step in steps {
        step.barrier = step.accesses.iter().any(|a| since.iter().any(|b| a.conflicts(b)));
        if step.barrier {
            since.clear();
        }
        since.extend_from_slice(&step.accesses);
    }
}
