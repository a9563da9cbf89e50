//! A detector of races between workers, for builds with debug assertions.
//!
//! Workers note each window that they take. A *stretch* is the run of steps between two barriers; within it, two
//! workers may run in any order. So two windows that different workers take in one stretch must not share an element
//! that one of them writes. The order in which workers happen to run does not matter: a race is found whenever both
//! windows are taken.

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::access::View;

/// A window that a worker took.
#[derive(Clone, Debug)]
pub(crate) struct Touch {
    pub(crate) worker: usize,
    /// The index of the step in its plan.
    pub(crate) step: usize,
    pub(crate) view: View,
    pub(crate) rows: Range<usize>,
    pub(crate) cols: Range<usize>,
    pub(crate) writes: bool,
}

fn meet(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

impl fmt::Display for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, step, view, rows, cols, writes } = self;
        let verb = if *writes { "writes" } else { "reads" };
        write!(f, "worker {worker} in step {step}, which {verb} rows {rows:?} and columns {cols:?} of {view:?},")
    }
}

impl Touch {
    /// The elements of the space from the first of the window to the last.
    fn span(&self) -> Range<usize> {
        if self.rows.is_empty() || self.cols.is_empty() {
            return 0..0;
        }
        let at = |row: usize, col: usize| self.view.offset + row * self.view.cols + col;
        at(self.rows.start, self.cols.start)..at(self.rows.end - 1, self.cols.end)
    }

    fn races_with(&self, other: &Touch) -> bool {
        let (a, b) = (&self.view, &other.view);
        if self.worker == other.worker || a.space != b.space || !(self.writes || other.writes) {
            return false;
        }
        if (a.offset, a.cols) == (b.offset, b.cols) {
            return meet(&self.rows, &other.rows) && meet(&self.cols, &other.cols);
        }
        meet(&self.span(), &other.span())
    }
}

/// The number of the current stretch of a run, and the windows taken in it.
#[derive(Debug)]
pub(crate) struct Watch(Mutex<(usize, Vec<Touch>)>);

impl Watch {
    pub(crate) fn new() -> Self {
        // It grows only in a first run, if a stretch takes more windows than this; later runs allocate nothing.
        let capacity = if cfg!(debug_assertions) { 256 } else { 0 };
        Self(Mutex::new((0, Vec::with_capacity(capacity))))
    }

    /// Forgets an earlier run.
    pub(crate) fn reset(&mut self) {
        let (stretch, touches) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        *stretch = 0;
        touches.clear();
    }

    /// Notes a window taken in the stretch with this number.
    ///
    /// # Panics
    /// If another worker took a window in the same stretch that races with this one.
    pub(crate) fn note(&self, stretch: usize, touch: Touch) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (current, touches) = &mut *guard;
        if *current != stretch {
            *current = stretch;
            touches.clear();
        }
        if let Some(other) = touches.iter().find(|other| other.races_with(&touch)) {
            panic!("{other} and {touch} race");
        }
        let key = |t: &Touch| (t.worker, t.writes, t.view, t.rows.clone(), t.cols.clone());
        let same = |t: &Touch| key(t) == key(&touch);
        if !touches.iter().any(same) {
            touches.push(touch);
        }
    }
}
