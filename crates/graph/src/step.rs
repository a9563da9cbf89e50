//! The steps of a plan.

use crate::access::{Access, Sharing};
use crate::frame::{MAX_ACCESSES, Worker};
use crate::graph::NodeId;

/// Which workers run a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// Worker 0: too little work to share.
    First,
    /// All workers, each its part.
    All,
}

/// What one worker does.
type Work = Box<dyn Fn(&Worker<'_>) + Send + Sync>;

/// A piece of work between two possible barriers. Everything is resolved but the batch's number of rows.
pub struct Step {
    pub(crate) node: NodeId,
    pub(crate) workers: Workers,
    pub(crate) barrier: bool,
    pub(crate) accesses: Vec<Access>,
    pub(crate) run: Work,
}

impl Step {
    /// A step without a barrier before it. What worker 0 does alone is not partitioned.
    ///
    /// # Panics
    /// On defects of the lowering: two accesses overlap and one of them writes; all workers share a step that declares
    /// an access of worker 0; there are too many accesses.
    pub(crate) fn new(
        node: NodeId,
        workers: Workers,
        mut accesses: Vec<Access>,
        run: impl Fn(&Worker<'_>) + Send + Sync + 'static,
    ) -> Self {
        if workers == Workers::First {
            accesses.iter_mut().for_each(|access| access.sharing = Sharing::First);
        }
        let is_shared = workers == Workers::First || accesses.iter().all(|access| access.sharing != Sharing::First);
        assert!(is_shared, "a step of all workers declares an access of worker 0 alone");
        assert!(accesses.len() <= MAX_ACCESSES, "a step of {} accesses", accesses.len());
        for (i, access) in accesses.iter().enumerate() {
            let other = accesses[..i].iter().find(|other| access.collides_with(other));
            assert!(other.is_none(), "a step writes what it has declared twice: {access:?}, {other:?}");
        }
        Self { node, workers, barrier: false, accesses, run: Box::new(run) }
    }

    /// The node that this step computes, or a part of which it computes.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Which workers run it.
    pub fn workers(&self) -> Workers {
        self.workers
    }

    /// Whether all workers meet before it.
    pub fn has_barrier(&self) -> bool {
        self.barrier
    }
}
