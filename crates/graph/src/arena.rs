//! Aligned memory, and the views through which the steps of a plan reach it.
//!
//! This is the one place where several workers get at one buffer. What makes it sound is the plan: a step declares what it reads
//! and writes and how workers share it ([`Access`]), its windows follow that declaration, and the planner puts a barrier between any two steps whose
//! accesses could touch the same element from different workers (`plan/barriers.rs`).
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

use smallmind_kernels::{Mat, MatMut};

use crate::{Batch, GraphError, ParamStore, Rows, Scalars};

/// Bytes to which buffers are aligned: a cache line, and the widest vector.
const ALIGN: usize = 64;

/// A heap buffer of `f32`, aligned to 64 bytes, zero at first.
#[derive(Debug)]
pub struct Buffer {
    ptr: NonNull<f32>,
    len: usize,
}

// SAFETY: a Buffer owns its elements as a Vec does.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn layout(len: usize) -> Result<Layout, GraphError> {
        let error = || GraphError::OutOfMemory { bytes: len.saturating_mul(4) };
        let bytes = len.max(1).checked_mul(4).ok_or_else(error)?;
        Layout::from_size_align(bytes, ALIGN).map_err(|_| error())
    }

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// [`GraphError::OutOfMemory`] if the allocator refuses.
    pub fn zeroed(len: usize) -> Result<Self, GraphError> {
        let layout = Self::layout(len)?;
        // SAFETY: the layout has at least four bytes.
        let ptr = unsafe { alloc_zeroed(layout) };
        match NonNull::new(ptr.cast::<f32>()) {
            Some(ptr) => Ok(Self { ptr, len }),
            None => Err(GraphError::OutOfMemory { bytes: layout.size() }),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.len) {
            // SAFETY: `zeroed` allocated the pointer with this very layout.
            unsafe { dealloc(self.ptr.as_ptr().cast(), layout) };
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `zeroed` allocated and initialised `len` elements, which live as long as self.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and &mut self makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

/// The memories that a plan can touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    /// Values and scratch, owned by the executor.
    Arena,
    /// Parameters, all flat.
    Params,
    /// The parameter of this number, as it is stored.
    Stored(u32),
    /// Their gradients, laid out alike.
    Grads,
    /// AdamW's mean of gradients.
    Moment1,
    /// AdamW's mean of squared gradients.
    Moment2,
    /// The key-value cache.
    Cache,
}

impl Space {
    /// How many spaces have one memory.
    const COUNT: usize = 6;

    /// The number of a space that has one memory.
    #[inline(always)]
    fn index(self) -> Option<usize> {
        Some(match self {
            Self::Arena => 0,
            Self::Params => 1,
            Self::Grads => 2,
            Self::Moment1 => 3,
            Self::Moment2 => 4,
            Self::Cache => 5,
            Self::Stored(_) => return None,
        })
    }
}

/// Where a dense matrix lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) space: Space,
    /// Its first element within the space.
    pub(crate) offset: usize,
    pub(crate) rows: Rows,
    pub(crate) cols: usize,
}

/// How the workers of a step share what it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Worker `i` touches only its part of the rows `first..first + max`, cut at multiples of `granule`.
    OwnRows { first: usize, max: usize, granule: usize },
    /// Worker 0 does everything.
    First,
    /// Any worker may read any element; a written element belongs to one worker, but not by rows.
    Mixed,
}

/// What a step does with a stretch of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) view: View,
    /// Elements of the view at the plan's limits.
    pub(crate) len: usize,
    pub(crate) sharing: Sharing,
    pub(crate) writes: bool,
}

impl Access {
    fn range(&self) -> Range<usize> {
        self.view.offset..self.view.offset + self.len
    }

    /// Whether the two, by different workers, could touch the same element while one of them writes it.
    pub(crate) fn conflicts(&self, other: &Access) -> bool {
        let (a, b) = (self.range(), other.range());
        let overlap = self.view.space == other.view.space && a.start < b.end && b.start < a.end;
        let by_one_worker = match (self.sharing, other.sharing) {
            (Sharing::First, Sharing::First) => true,
            (Sharing::OwnRows { .. }, Sharing::OwnRows { .. }) => {
                self.sharing == other.sharing && self.view == other.view
            }
            (Sharing::Mixed, _) | (_, Sharing::Mixed) | (Sharing::First, _) | (_, Sharing::First) => false,
        };
        overlap && (self.writes || other.writes) && !by_one_worker
    }
}

/// The memories of one run: where they start, how long they are, whether they may be written.
#[derive(Clone, Copy)]
struct Base {
    ptr: *mut f32,
    len: usize,
    writable: bool,
}

impl Base {
    const NONE: Base = Base { ptr: NonNull::dangling().as_ptr(), len: 0, writable: false };
}

/// What the steps of one run see.
pub(crate) struct Frame<'a> {
    bases: [Base; Space::COUNT],
    /// Parameters, where they don't lie flat.
    pub(crate) store: Option<&'a ParamStore>,
    /// The run's tokens.
    pub(crate) batch: &'a Batch,
    /// The run's numbers.
    pub(crate) scalars: &'a Scalars,
    scratch: Range<usize>,
    workers: usize,
}

// SAFETY: the pointers stand for exclusive or shared borrows that outlive the frame; what workers do with them is governed by the plan.
unsafe impl Sync for Frame<'_> {}

impl<'a> Frame<'a> {
    /// A frame over an arena of which `scratch` is divided among `workers`.
    pub(crate) fn new(
        arena: &'a mut [f32],
        scratch: Range<usize>,
        workers: usize,
        batch: &'a Batch,
        scalars: &'a Scalars,
    ) -> Self {
        let mut frame = Self { bases: [Base::NONE; Space::COUNT], store: None, batch, scalars, scratch, workers };
        frame.bind_mut(Space::Arena, arena);
        frame
    }

    /// Lets steps read `memory` as `space`.
    pub(crate) fn bind(&mut self, space: Space, memory: &'a [f32]) {
        if let Some(i) = space.index() {
            self.bases[i] = Base { ptr: memory.as_ptr().cast_mut(), len: memory.len(), writable: false };
        }
    }

    /// Lets steps read and write `memory` as `space`.
    pub(crate) fn bind_mut(&mut self, space: Space, memory: &'a mut [f32]) {
        if let Some(i) = space.index() {
            self.bases[i] = Base { ptr: memory.as_mut_ptr(), len: memory.len(), writable: true };
        }
    }

    /// The rows that a view has in this run.
    #[inline(always)]
    pub(crate) fn rows(&self, view: &View) -> usize {
        view.rows.resolve(self.batch.len(), self.batch.outputs().len())
    }

    /// Checks that a view lies within its space and gives the space.
    #[inline(always)]
    fn base(&self, view: &View, rows: usize) -> Base {
        let base = match view.space.index() {
            Some(i) => self.bases[i],
            None => {
                let memory = self.param_memory(view);
                Base { ptr: memory.as_ptr().cast_mut(), len: memory.len(), writable: false }
            }
        };
        assert!(view.offset + rows * view.cols <= base.len, "{view:?} leaves its memory of {} elements", base.len);
        base
    }

    /// The memory of a parameter in a [`ParamStore`], in its own format and order.
    ///
    /// # Panics
    /// If the view is of no such parameter.
    #[inline(always)]
    pub(crate) fn param_memory(&self, view: &View) -> &'a [f32] {
        match (view.space, self.store) {
            (Space::Stored(param), Some(store)) => store.memory(param as usize),
            _ => panic!("{view:?} is no stored parameter"),
        }
    }

    /// The matrix of a view, to read.
    #[inline(always)]
    pub(crate) fn mat(&self, view: &View) -> Mat<'_> {
        let rows = self.rows(view);
        let base = self.base(view, rows);
        // SAFETY: `base` checked the bounds; the barriers of the plan guarantee that no worker writes these elements meanwhile.
        unsafe { Mat::from_raw(base.ptr.add(view.offset), rows, view.cols, view.cols) }
    }

    /// A window of the matrix of a view, to write. The caller is a step whose declared sharing gives this window to this worker alone.
    #[inline(always)]
    pub(crate) fn mat_mut(&self, view: &View, rows: Range<usize>, cols: Range<usize>) -> MatMut<'_> {
        let have = self.rows(view);
        let base = self.base(view, have);
        assert!(base.writable, "{view:?} is read-only in this run");
        assert!(rows.start <= rows.end && rows.end <= have && cols.start <= cols.end && cols.end <= view.cols);
        let start = view.offset + rows.start * view.cols + cols.start;
        // SAFETY: the window lies within the view, whose bounds `base` checked; by the plan this worker alone reaches it until the
        // next barrier. An empty window is never dereferenced, and its offset is at most the end of the memory.
        unsafe { MatMut::from_raw(base.ptr.add(start.min(base.len)), rows.len(), cols.len(), view.cols) }
    }

    /// Elements `range` of a view seen as a vector, to write; under the same rule as [`Frame::mat_mut`].
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "workers share the frame; the plan keeps their windows apart")]
    pub(crate) fn slice_mut(&self, view: &View, range: Range<usize>) -> &mut [f32] {
        let have = self.rows(view);
        let base = self.base(view, have);
        assert!(base.writable, "{view:?} is read-only in this run");
        assert!(range.start <= range.end && range.end <= have * view.cols);
        // SAFETY: as for mat_mut.
        unsafe { std::slice::from_raw_parts_mut(base.ptr.add(view.offset + range.start), range.len()) }
    }

    /// The elements of a view seen as a vector, to read.
    #[inline(always)]
    pub(crate) fn slice(&self, view: &View) -> &[f32] {
        let have = self.rows(view);
        let base = self.base(view, have);
        // SAFETY: as for mat.
        unsafe { std::slice::from_raw_parts(base.ptr.add(view.offset), have * view.cols) }
    }

    /// The scratch memory of one worker.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "each worker has a stretch of its own")]
    pub(crate) fn scratch(&self, worker: usize) -> &mut [f32] {
        assert!(worker < self.workers);
        let each = self.scratch.len() / self.workers;
        let base = self.bases[0];
        assert!(self.scratch.end <= base.len);
        // SAFETY: the stretches of different workers are disjoint and no value lies in them; a worker runs one step at a time.
        unsafe { std::slice::from_raw_parts_mut(base.ptr.add(self.scratch.start + worker * each), each) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(offset: usize, sharing: Sharing, writes: bool) -> Access {
        let view = View { space: Space::Arena, offset, rows: Rows::Tokens, cols: 4 };
        Access { view, len: 40, sharing, writes }
    }

    #[test]
    fn buffers_are_aligned_and_zero() {
        for len in [0, 1, 1000] {
            let b = Buffer::zeroed(len).unwrap();
            assert_eq!(b.as_ptr() as usize % ALIGN, 0);
            assert_eq!(b.len(), len);
            assert!(b.iter().all(|x| *x == 0.0));
        }
        assert!(matches!(Buffer::zeroed(usize::MAX / 8), Err(GraphError::OutOfMemory { .. })));
    }

    #[test]
    fn conflicts_are_writes_to_shared_elements() {
        let own = Sharing::OwnRows { first: 0, max: 10, granule: 4 };
        let chunk = Sharing::OwnRows { first: 0, max: 5, granule: 4 };
        let coarse = Sharing::OwnRows { first: 0, max: 10, granule: 8 };
        assert!(!access(0, own, true).conflicts(&access(0, own, false)), "own rows after own rows");
        assert!(access(0, own, true).conflicts(&access(8, own, false)), "rows of different views");
        assert!(access(0, own, true).conflicts(&access(0, chunk, false)), "different cuts");
        assert!(access(0, own, true).conflicts(&access(0, coarse, false)), "cuts at other multiples");
        assert!(access(0, own, true).conflicts(&access(0, Sharing::Mixed, false)), "read by all");
        assert!(!access(0, own, true).conflicts(&access(40, Sharing::Mixed, true)), "elsewhere");
        assert!(!access(0, Sharing::Mixed, false).conflicts(&access(0, Sharing::Mixed, false)), "reads only");
        assert!(access(0, Sharing::First, true).conflicts(&access(0, own, false)));
        assert!(!access(0, Sharing::First, true).conflicts(&access(0, Sharing::First, true)));
    }
}
