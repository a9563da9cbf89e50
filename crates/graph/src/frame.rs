//! The buffers of a run, and the only ways in which a step reaches them.
//!
//! Several workers use one buffer at once. This is sound because of three rules:
//!
//! 1. A step reaches only what it declared ([`Access`]): its handles ([`Read`], [`Write`]) are indices into its own
//!    list of accesses. The accesses of one step don't overlap where one of them writes (`Step::new` checks it).
//! 2. Within a step, workers take windows that don't overlap: their own rows, their own columns, their own scratch
//!    memory. A step that divides its windows in another way calls [`Worker::window_mut`], which is unsafe.
//! 3. Between two steps whose accesses conflict all workers meet (`barriers.rs`).
//!
//! Builds with debug assertions check the second and the third rule for every window that is taken (`watch.rs`).
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ops::Range;
use std::ptr::NonNull;

use smallmind_kernels::{Mat, MatMut, Part};

use crate::access::{Access, Read, Sharing, Space, View, Write};
use crate::watch::{Touch, Watch};
use crate::{Batch, ParamStore, Scalars};

/// A buffer: its start, its number of elements, and whether it may be written.
#[derive(Clone, Copy)]
struct Region {
    ptr: *mut f32,
    len: usize,
    writable: bool,
}

impl Region {
    const NONE: Region = Region { ptr: NonNull::dangling().as_ptr(), len: 0, writable: false };

    fn shared(memory: &[f32]) -> Self {
        Self { ptr: memory.as_ptr().cast_mut(), len: memory.len(), writable: false }
    }

    fn exclusive(memory: &mut [f32]) -> Self {
        Self { ptr: memory.as_mut_ptr(), len: memory.len(), writable: true }
    }
}

/// Number of spaces that are one buffer each: all but [`Space::Stored`].
const SPACES: usize = 6;

/// The index of a space in [`Frame::regions`]; none for a segment of a store.
#[inline(always)]
fn index(space: Space) -> Option<usize> {
    Some(match space {
        Space::Arena => 0,
        Space::FlatParams => 1,
        Space::Grads => 2,
        Space::Moment1 => 3,
        Space::Moment2 => 4,
        Space::Cache => 5,
        Space::Stored(_) => return None,
    })
}

/// The buffers and inputs of one run.
pub(crate) struct Frame<'a> {
    regions: [Region; SPACES],
    /// The parameters, unless they are in one flat buffer.
    store: Option<&'a ParamStore>,
    batch: &'a Batch,
    scalars: &'a Scalars,
    /// Scratch memory, divided equally among the workers.
    scratch: Region,
    workers: usize,
    watch: &'a Watch,
}

// SAFETY: the pointers stand for borrows that the frame holds for 'a, shared or exclusive. Workers reach them only
// through `Worker`, by the rules at the head of this file.
unsafe impl Sync for Frame<'_> {}

impl<'a> Frame<'a> {
    /// A frame over an arena whose elements from `values_len` on are the scratch memory of `workers` workers.
    pub(crate) fn new(
        arena: &'a mut [f32],
        values_len: usize,
        workers: usize,
        (batch, scalars): (&'a Batch, &'a Scalars),
        watch: &'a Watch,
    ) -> Self {
        let (values, scratch) = arena.split_at_mut(values_len);
        let mut regions = [Region::NONE; SPACES];
        regions[0] = Region::exclusive(values);
        Self { regions, store: None, batch, scalars, scratch: Region::exclusive(scratch), workers, watch }
    }

    /// Lets steps read `memory` as `space`.
    pub(crate) fn bind(&mut self, space: Space, memory: &'a [f32]) {
        if let Some(i) = index(space) {
            self.regions[i] = Region::shared(memory);
        }
    }

    /// Lets steps read and write `memory` as `space`.
    pub(crate) fn bind_mut(&mut self, space: Space, memory: &'a mut [f32]) {
        if let Some(i) = index(space) {
            self.regions[i] = Region::exclusive(memory);
        }
    }

    /// Lets steps read the parameters in `store`.
    pub(crate) fn bind_store(&mut self, store: &'a ParamStore) {
        self.store = Some(store);
    }

    /// The words of a segment in the store.
    #[inline(always)]
    fn stored_memory(&self, view: &View) -> &'a [f32] {
        match (view.space, self.store) {
            (Space::Stored(number), Some(store)) => store.segment(number as usize),
            _ => panic!("{view:?} is not a segment of a store"),
        }
    }

    /// The buffer in which a view is.
    #[inline(always)]
    fn region(&self, view: &View) -> Region {
        match index(view.space) {
            Some(i) => self.regions[i],
            None => Region::shared(self.stored_memory(view)),
        }
    }
}

/// One worker in one step: its part of the work, and the memory that the step declared.
pub(crate) struct Worker<'f> {
    frame: &'f Frame<'f>,
    accesses: &'f [Access],
    part: Part,
    /// The index of the step in its plan.
    step: usize,
    /// The number of barriers before the step.
    barriers: usize,
    /// Bit `i` is set once access `i` was taken for writing, bit [`SCRATCH`] once the scratch memory was.
    taken: Cell<u64>,
}

/// Panics, since an access can't be granted. A function of its own, with `len` by value, so that the callers can keep
/// the values that they check in registers.
#[cold]
#[inline(never)]
fn refuse(access: &Access, len: usize, is_inside: bool) -> ! {
    match is_inside {
        true => panic!("{:?} is read-only in this run", access.view),
        false => panic!("{:?} leaves its buffer of {len} elements", access.view),
    }
}

/// The bit of [`Worker::taken`] that stands for scratch memory.
const SCRATCH: u32 = 63;
/// How many accesses a step can have at most.
pub(crate) const MAX_ACCESSES: usize = SCRATCH as usize;

impl<'f> Worker<'f> {
    /// The worker that does `part` of a step with these accesses. `step` is its index in the plan, `barriers` the
    /// number of barriers before it.
    ///
    /// # Safety
    /// No two of the accesses overlap if one of them writes. While this worker lives, every other worker of the frame
    /// has another part, and is in this step or in one whose accesses don't conflict with these.
    #[inline(always)]
    pub(crate) unsafe fn new(
        frame: &'f Frame<'f>,
        accesses: &'f [Access],
        part: Part,
        [step, barriers]: [usize; 2],
    ) -> Self {
        Self { frame, accesses, part, step, barriers, taken: Cell::new(0) }
    }

    /// Its part of the work.
    #[inline(always)]
    pub(crate) fn part(&self) -> Part {
        self.part
    }

    /// The batch of the run.
    #[inline(always)]
    pub(crate) fn batch(&self) -> &'f Batch {
        self.frame.batch
    }

    /// The scalar inputs of the run.
    #[inline(always)]
    pub(crate) fn scalars(&self) -> &'f Scalars {
        self.frame.scalars
    }

    /// The rows of a view that this run uses.
    #[inline(always)]
    fn rows(&self, view: &View) -> Range<usize> {
        view.rows_in(self.frame.batch.len(), self.frame.batch.outputs().len())
    }

    /// This worker's part of `range`.
    #[inline(always)]
    fn own_range(&self, range: Range<usize>, granule: usize) -> Range<usize> {
        if self.part.count == 1 {
            return range;
        }
        let own = self.part.range(range.len(), granule);
        range.start + own.start..range.start + own.end
    }

    /// This worker's rows and columns of an access; `rows` are the rows that this run uses.
    #[inline(always)]
    fn own_window(&self, access: &Access, rows: Range<usize>) -> (Range<usize>, Range<usize>) {
        let cols = 0..access.view.cols;
        match access.sharing {
            Sharing::OwnRows { granule } => (self.own_range(rows, granule), cols),
            Sharing::OwnCols { granule } => (rows, self.own_range(cols, granule)),
            Sharing::First => (rows, cols),
            Sharing::Unpartitioned => panic!("no part of {access:?} is a worker's own"),
        }
    }

    /// The start of a view, and how many elements of its buffer follow. Panics if the `rows` that this run uses leave
    /// the buffer, or if a write may not write to the buffer.
    #[inline(always)]
    fn start(&self, access: &Access, rows: &Range<usize>) -> (*mut f32, usize) {
        let view = &access.view;
        let Region { ptr, len, writable } = self.frame.region(view);
        let is_inside = view.offset + rows.end * view.cols <= len;
        debug_assert!(view.offset + rows.end * view.cols <= access.elements.end, "{access:?} reaches too far");
        if !is_inside || (access.writes && !writable) {
            refuse(access, len, is_inside);
        }
        // SAFETY: the check above.
        (unsafe { ptr.add(view.offset) }, len - view.offset)
    }

    /// Where a window begins. Builds with debug assertions note the window in [`Watch`].
    #[inline(always)]
    fn window(&self, access: &Access, start: (*mut f32, usize), rows: &Range<usize>, cols: &Range<usize>) -> *mut f32 {
        if cfg!(debug_assertions) && self.frame.workers > 1 {
            let (worker, step) = (self.part.index, self.step);
            let (rows, cols, view, writes) = (rows.clone(), cols.clone(), access.view, access.writes);
            self.frame.watch.note(self.barriers, Touch { worker, step, view, rows, cols, writes });
        }
        let at = rows.start * access.view.cols + cols.start;
        // SAFETY: the offset is clamped to the end of the buffer; a window that starts there is empty.
        unsafe { start.0.add(at.min(start.1)) }
    }

    /// This worker's own window: where it starts, and how many rows and columns it has.
    #[inline(always)]
    fn own_part(&self, access: &Access) -> (*mut f32, usize, usize) {
        let have = self.rows(&access.view);
        let start = self.start(access, &have);
        let (rows, cols) = self.own_window(access, have);
        (self.window(access, start, &rows, &cols), rows.len(), cols.len())
    }

    #[inline(always)]
    fn read_access(&self, read: Read) -> &'f Access {
        let access = &self.accesses[read.0];
        assert!(!access.writes, "{access:?} is declared as a write");
        access
    }

    #[inline(always)]
    fn write_access(&self, write: Write) -> &'f Access {
        let access = &self.accesses[write.0];
        assert!(access.writes, "{access:?} is declared as a read");
        access
    }

    /// A matrix that every worker reads, all rows of this run.
    ///
    /// # Panics
    /// If the step declared the access as partitioned.
    #[inline(always)]
    pub(crate) fn all(&self, read: Read) -> Mat<'_> {
        let access = self.read_access(read);
        assert!(!access.is_partitioned(), "{access:?} is partitioned among the workers");
        let (rows, cols) = (self.rows(&access.view), 0..access.view.cols);
        let ptr = self.window(access, self.start(access, &rows), &rows, &cols);
        // SAFETY: `start` checked the bounds. Nothing writes these elements while the step runs: this step's writes
        // don't overlap its reads, and steps that write them are kept away by barriers.
        unsafe { Mat::from_raw(ptr, rows.len(), cols.len(), access.view.cols) }
    }

    /// This worker's own rows, or columns, of a matrix.
    ///
    /// # Panics
    /// If the step declared the access as unpartitioned.
    #[inline(always)]
    pub(crate) fn own(&self, read: Read) -> Mat<'_> {
        let access = self.read_access(read);
        let (ptr, rows, cols) = self.own_part(access);
        // SAFETY: `start` checked the bounds. Nothing writes these elements while the step runs: this step's writes
        // don't overlap its reads, and steps that write them are kept away by barriers, or write this worker's own rows
        // only.
        unsafe { Mat::from_raw(ptr, rows, cols, access.view.cols) }
    }

    /// This worker's own rows, or columns, of a matrix, to write. It can be taken once.
    ///
    /// # Panics
    /// If the step declared the access as unpartitioned; if it was taken before.
    #[inline(always)]
    pub(crate) fn own_mut(&self, write: Write) -> MatMut<'_> {
        let access = self.write_access(write);
        self.take(write.0 as u32);
        let (ptr, rows, cols) = self.own_part(access);
        // SAFETY: `start` checked the bounds. The window is this worker's own and was taken once, so nothing else in
        // this step reaches its elements: accesses of one step don't overlap where one writes. Other steps are kept
        // away by the barriers.
        unsafe { MatMut::from_raw(ptr, rows, cols, access.view.cols) }
    }

    /// Any window of a matrix, to write.
    ///
    /// # Safety
    /// While this window lives, no other window of this worker may share an element with it; nor may a window that
    /// another worker takes before the next barrier.
    ///
    /// # Panics
    /// If the window leaves the rows of this run; if the step declared the access as partitioned.
    #[inline(always)]
    pub(crate) unsafe fn window_mut(&self, write: Write, rows: Range<usize>, cols: Range<usize>) -> MatMut<'_> {
        let access = self.write_access(write);
        assert!(!access.is_partitioned(), "{access:?} is partitioned among the workers");
        let (view, have) = (&access.view, self.rows(&access.view));
        assert!(
            have.start <= rows.start && rows.start <= rows.end && rows.end <= have.end,
            "rows {rows:?} of {view:?}, of which this run has {have:?}"
        );
        assert!(cols.start <= cols.end && cols.end <= view.cols, "columns {cols:?} of {view:?}");
        let ptr = self.window(access, self.start(access, &have), &rows, &cols);
        // SAFETY: the window is inside the view, and the view inside its buffer; the caller guarantees that nothing
        // else reaches the window's elements.
        unsafe { MatMut::from_raw(ptr, rows.len(), cols.len(), view.cols) }
    }

    /// The rows of an access that are this worker's own.
    #[inline(always)]
    pub(crate) fn own_rows(&self, access: impl Into<usize>) -> Range<usize> {
        let access = &self.accesses[access.into()];
        self.own_window(access, self.rows(&access.view)).0
    }

    /// The columns of an access that are this worker's own.
    #[inline(always)]
    pub(crate) fn own_cols(&self, access: impl Into<usize>) -> Range<usize> {
        let access = &self.accesses[access.into()];
        self.own_window(access, self.rows(&access.view)).1
    }

    /// The stored words of a segment, in its own format and order, and its numbers of rows and columns.
    #[inline(always)]
    pub(crate) fn stored(&self, read: Read) -> (&'f [f32], [usize; 2]) {
        let view = &self.accesses[read.0].view;
        (self.frame.stored_memory(view), [self.rows(view).len(), view.cols])
    }

    /// Whether the store is too large for caches.
    #[inline(always)]
    pub(crate) fn stored_beyond_caches(&self) -> bool {
        self.frame.store.is_some_and(ParamStore::is_beyond_caches)
    }

    /// The stored words of the segment that comes so many after a declared one, and the columns of its rows.
    #[inline(always)]
    pub(crate) fn stored_after(&self, read: Read, segments: usize) -> (&'f [f32], usize) {
        let View { space, cols, .. } = self.accesses[read.0].view;
        match (space, self.frame.store) {
            (Space::Stored(first), Some(store)) => (store.segment(first as usize + segments), cols),
            _ => panic!("{space:?} is not a segment of a store"),
        }
    }

    /// This worker's scratch memory. It can be taken once.
    ///
    /// # Panics
    /// If it was taken before.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "it is taken once, and each worker has its own")]
    pub(crate) fn scratch(&self) -> &mut [f32] {
        self.take(SCRATCH);
        let Region { ptr, len, .. } = self.frame.scratch;
        let each = len / self.frame.workers;
        assert!(self.part.index < self.frame.workers);
        // SAFETY: the scratch memories of different workers are disjoint, no view reaches them, and this worker has not
        // taken its own in this step.
        unsafe { std::slice::from_raw_parts_mut(ptr.add(self.part.index * each), each) }
    }

    /// Marks an access, or the scratch memory, as taken for writing.
    #[inline(always)]
    fn take(&self, bit: u32) {
        let (taken, bit) = (self.taken.get(), 1 << bit);
        assert!(taken & bit == 0, "a worker took a write, or its scratch memory, twice in one step");
        self.taken.set(taken | bit);
    }
}
