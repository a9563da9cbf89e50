//! The values of parameters that are only read.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use smallmind_kernels::matmul::{pack_rows, pack_weight, pack_weight_as, pack_weight_scratch_len, packed_len};
use smallmind_kernels::{Format, Mat};
use smallmind_simd::{Isa, WithIsa};

use crate::params::ALIGN;
use crate::{Buffer, FlatLayout, GraphError, Order, ParamId, ParamSpec, Params, Segment, Storage};

/// The values of a graph's parameters as a [`Storage`] lays them out. A [`crate::Plan`] that is made for the storage
/// runs on them.
#[derive(Debug)]
pub struct ParamStore {
    params: Params,
    storage: Arc<Storage>,
    /// All segments of all parameters, in order, each at a multiple of 64 bytes.
    memory: Buffer,
    /// Where each segment lies in `memory`, by its number in the storage.
    places: Vec<Range<usize>>,
    /// How many threads [`ParamStore::set_blocks`] takes at most.
    threads: usize,
}

/// From this many bytes on, blocks are packed by several threads: fewer take less time than threads to start.
const SHARED_BYTES: usize = 1 << 20;

impl ParamStore {
    /// Stores `values`, which are laid out flat as `params` are. If all formats are F32, the buffer is kept and its
    /// parameters are packed in place. Otherwise each parameter is converted into new memory, and `values` is freed.
    ///
    /// # Errors
    /// Values of another size, or that a format can't hold; a storage for other parameters; too little memory.
    pub fn new(params: &Params, storage: Arc<Storage>, values: Buffer) -> Result<Self, GraphError> {
        if !storage.is_f32() {
            return Self::of_rows(params, storage, &values);
        }
        check_len(&params.layout(), values.len())?;
        storage.check_fits(params)?;
        let mut store = Self { params: params.clone(), places: places(&storage), memory: values, storage, threads: 1 };
        store.write_all(|_, _| Ok::<(), GraphError>(()))?;
        Ok(store)
    }

    /// Stores a copy of `rows`, which are laid out flat as `params` are.
    ///
    /// # Errors
    /// As [`ParamStore::new`].
    pub fn of_rows(params: &Params, storage: Arc<Storage>, rows: &[f32]) -> Result<Self, GraphError> {
        let layout = params.layout();
        check_len(&layout, rows.len())?;
        Self::read(params, storage, |id, to| {
            to.copy_from_slice(&rows[layout.offset(id)..][..to.len()]);
            Ok(())
        })
    }

    /// Stores what `read` writes into the rows of each parameter, one after the other. Besides the store there is
    /// memory for the largest parameter in `f32`, and none if all are F32.
    ///
    /// # Errors
    /// Those of `read`; values that a format can't hold; a storage for other parameters; too little memory.
    pub fn read<E: From<GraphError>>(
        params: &Params,
        storage: Arc<Storage>,
        read: impl FnMut(ParamId, &mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut store = Self::zeroed(params, storage)?;
        store.write_all(read)?;
        Ok(store)
    }

    /// Stores zeros, to be replaced by [`ParamStore::set_blocks`].
    ///
    /// # Errors
    /// A storage for other parameters; too little memory.
    pub fn zeroed(params: &Params, storage: Arc<Storage>) -> Result<Self, GraphError> {
        storage.check_fits(params)?;
        let places = places(&storage);
        let memory = Buffer::zeroed(places.last().map_or(0, |last| last.end.next_multiple_of(ALIGN)))?;
        Ok(Self { params: params.clone(), places, memory, storage, threads: 1 })
    }

    /// The same store, of which [`ParamStore::set_blocks`] packs many rows on up to `threads` threads. It starts and
    /// ends them at every call. By default there is one, that of the caller.
    #[must_use]
    pub fn on_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Replaces `rows` of a parameter by those in `bytes`, which hold them one after the other in `format`, as GGML
    /// lays them out. Rows in segments of this format are moved without a change of a code or scale; others are
    /// unpacked, and packed in the format of their segment. Rows may come in any order, and any number at a time.
    ///
    /// # Errors
    /// Rows that the parameter lacks, that are not whole blocks, or that are not as long as `bytes`: then nothing has
    /// changed. A value that the format of its segment can't hold: then some of the rows may have been replaced.
    pub fn set_blocks(
        &mut self,
        id: ParamId,
        rows: Range<usize>,
        format: Format,
        bytes: &[u8],
    ) -> Result<(), GraphError> {
        let refuse = |param: String, problem: String| {
            let (rows, bytes) = (rows.clone(), bytes.len());
            Err(GraphError::Blocks { param, rows, format, bytes, problem })
        };
        let Some(spec) = self.params.get(id) else {
            return refuse(format!("{id:?}"), "there is no such parameter".to_owned());
        };
        let refuse = |problem: String| refuse(spec.name.clone(), problem);
        if rows.start > rows.end || rows.end > spec.rows {
            return refuse(format!("the parameter has {} rows", spec.rows));
        }
        let Some(row) = format.row_bytes(spec.cols) else {
            return refuse(format!(
                "rows of {} elements are not whole blocks of {}",
                spec.cols,
                format.block().elements
            ));
        };
        if row.checked_mul(rows.len()) != Some(bytes.len()) {
            return refuse(format!("{} rows of {} elements have {row} bytes each", rows.len(), spec.cols));
        }
        let isa = self.storage.isa();
        isa.with(SetBlocks { store: self, id, rows, format, bytes })?
    }

    /// Replaces all values by those of `rows`, laid out flat as the parameters are.
    ///
    /// # Errors
    /// Values of another size, or that a format can't hold; then nothing has changed. Too little memory for scratch.
    pub fn set(&mut self, rows: &[f32]) -> Result<(), GraphError> {
        let layout = self.params.layout();
        check_len(&layout, rows.len())?;
        for (id, spec) in self.params.iter() {
            check_range(&self.storage, id, spec, &rows[layout.offset(id)..][..spec.len()])?;
        }
        self.write_all(|id, to| {
            to.copy_from_slice(&rows[layout.offset(id)..][..to.len()]);
            Ok(())
        })
    }

    /// How the parameters lie.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// The memory of the segment with this number, in its own format and order.
    #[inline(always)]
    pub(crate) fn segment(&self, number: usize) -> &[f32] {
        &self.memory[self.places[number].clone()]
    }

    fn write_all<E: From<GraphError>>(
        &mut self,
        read: impl FnMut(ParamId, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let isa = self.storage.isa();
        isa.with(WriteAll { store: self, read }).map_err(GraphError::from)?
    }
}

fn check_len(layout: &FlatLayout, got: usize) -> Result<(), GraphError> {
    let need = layout.len();
    if got == need { Ok(()) } else { Err(GraphError::ParamsLen { need, got }) }
}

/// Where each segment lies. If all are F32, that is where [`FlatLayout`] has them.
fn places(storage: &Storage) -> Vec<Range<usize>> {
    let mut end = 0;
    let place = |segment: &crate::Segment| {
        let start = usize::next_multiple_of(end, ALIGN);
        end = start + segment.bytes / 4;
        start..end
    };
    storage.segments().map(place).collect()
}

/// Checks that the formats of a parameter can hold the values of its `rows`.
fn check_range(storage: &Storage, id: ParamId, spec: &ParamSpec, rows: &[f32]) -> Result<(), GraphError> {
    for segment in &storage.get(id).segments {
        let first = segment.rows.start * spec.cols;
        check_values(spec, segment.format, first, &rows[first..segment.rows.end * spec.cols])?;
    }
    Ok(())
}

/// Checks that a format can hold `values`, elements of a parameter from number `first` on.
fn check_values(spec: &ParamSpec, format: Format, first: usize, values: &[f32]) -> Result<(), GraphError> {
    let beyond = |x: &f32| x.is_nan() || x.abs() > format.largest();
    match values.iter().position(beyond).filter(|_| format != Format::F32) {
        Some(at) => Err(GraphError::Range { param: spec.name.clone(), at: first + at, value: values[at], format }),
        None => Ok(()),
    }
}

/// Writes all parameters of a store from the rows that `read` gives.
struct WriteAll<'a, R> {
    store: &'a mut ParamStore,
    read: R,
}

impl<E: From<GraphError>, R: FnMut(ParamId, &mut [f32]) -> Result<(), E>> WithIsa for WriteAll<'_, R> {
    type Output = Result<(), E>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { store: ParamStore { params, storage, memory, places, .. }, mut read } = self;
        let deepest = params.iter().map(|(_, spec)| spec.cols).max().unwrap_or(0);
        let mut scratch = Buffer::zeroed(pack_weight_scratch_len(isa, deepest))?;
        let converted = params.iter().filter(|(id, _)| !storage.get(*id).is_f32());
        let mut rows = Buffer::zeroed(converted.map(|(_, spec)| spec.len()).max().unwrap_or(0))?;
        for (id, spec) in params.iter() {
            let (layout, places) = (storage.get(id), &places[storage.numbers(id)]);
            if layout.is_f32() {
                // Its segments follow each other without gaps.
                let (Some(first), Some(last)) = (places.first(), places.last()) else { continue };
                read(id, &mut memory[first.start..last.end])?;
            } else {
                let rows = &mut rows[..spec.len()];
                read(id, rows)?;
                check_range(storage, id, spec, rows)?;
            }
            for (segment, place) in layout.segments.iter().zip(places) {
                let memory = &mut memory[place.clone()];
                let rows = || &rows[segment.rows.start * spec.cols..segment.rows.end * spec.cols];
                if segment.format != Format::F32 {
                    let rows = Mat::new(rows(), segment.rows.len(), spec.cols);
                    pack_weight_as(isa, segment.format, rows, memory);
                    continue;
                }
                if !layout.is_f32() {
                    memory.copy_from_slice(rows());
                }
                if segment.order == Order::Packed {
                    pack_weight(isa, memory, segment.rows.len(), spec.cols, &mut scratch);
                }
            }
        }
        Ok(())
    }
}

/// Replaces rows of a parameter by blocks, whose number is right.
struct SetBlocks<'a> {
    store: &'a mut ParamStore,
    id: ParamId,
    rows: Range<usize>,
    format: Format,
    bytes: &'a [u8],
}

impl WithIsa for SetBlocks<'_> {
    type Output = Result<(), GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { store: ParamStore { params, storage, memory, places, threads }, id, rows, format, bytes } = self;
        let Some(spec) = params.get(id) else { unreachable!("the caller has found {id:?}") };
        let row_bytes = bytes.len() / rows.len().max(1);
        for (segment, place) in storage.get(id).segments.iter().zip(&places[storage.numbers(id)]) {
            let (start, end) = (rows.start.max(segment.rows.start), rows.end.min(segment.rows.end));
            if start >= end {
                continue;
            }
            let bytes = &bytes[(start - rows.start) * row_bytes..(end - rows.start) * row_bytes];
            let (memory, first) = (&mut memory[place.clone()], start - segment.rows.start);
            if segment.order == Order::Rows {
                format.unpack(bytes, &mut memory[first * spec.cols..(first + end - start) * spec.cols]);
                continue;
            }
            let piece = Piece { spec, segment, format, rows: 0..segment.rows.len(), memory, first, bytes };
            let threads = if bytes.len() < SHARED_BYTES { 1 } else { *threads };
            in_parallel(piece.shared(isa, threads), |piece| piece.write(isa))?;
        }
        Ok(())
    }
}

/// Rows of a packed segment that are replaced, or those of them that lie in some of its strips.
struct Piece<'a> {
    spec: &'a ParamSpec,
    segment: &'a Segment,
    /// The format of `bytes`.
    format: Format,
    /// The rows of the segment whose strips are in `memory`.
    rows: Range<usize>,
    memory: &'a mut [f32],
    /// The first row of the segment that is replaced.
    first: usize,
    bytes: &'a [u8],
}

impl<'a> Piece<'a> {
    /// Cuts the piece into `count` pieces of about equally many strips.
    fn shared<I: Isa>(self, isa: I, count: usize) -> Vec<Self> {
        let (cols, format) = (self.spec.cols, self.segment.format);
        let row_bytes = self.format.row_bytes(cols).unwrap_or(0);
        let strip = packed_len(isa, format, I::LANES, cols).unwrap_or(0);
        if count < 2 || row_bytes == 0 || strip == 0 {
            return vec![self];
        }
        let end = self.first + self.bytes.len() / row_bytes;
        let (from, to) = (self.first / I::LANES, end.div_ceil(I::LANES));
        let mut pieces = vec![];
        let mut memory = &mut self.memory[from * strip..];
        for part in 0..count {
            let bounds = [part, part + 1].map(|part| from + (to - from) * part / count);
            let rows = bounds.map(|strip| (strip * I::LANES).min(self.rows.end));
            let (first, stop) = (self.first.max(rows[0]), end.min(rows[1]));
            let (own, rest) = memory.split_at_mut(((bounds[1] - bounds[0]) * strip).min(memory.len()));
            memory = rest;
            if first < stop {
                let bytes = &self.bytes[(first - self.first) * row_bytes..(stop - self.first) * row_bytes];
                pieces.push(Self { rows: rows[0]..rows[1], memory: own, first, bytes, ..self });
            }
        }
        pieces
    }

    /// Moves the blocks, or unpacks them and packs them again if the segment has another format.
    fn write<I: Isa>(self, isa: I) -> Result<(), GraphError> {
        let Self { spec, segment, format, rows, memory, first, bytes } = self;
        let (shape, to) = ([rows.len(), spec.cols], segment.format);
        if to == format {
            pack_rows(isa, format, shape, memory, first - rows.start, bytes);
            return Ok(());
        }
        let (Some(from_row), Some(to_row)) = (format.row_bytes(spec.cols), to.row_bytes(spec.cols)) else {
            unreachable!("rows of {} elements are whole blocks of {format} and of {to}", spec.cols)
        };
        let (mut values, mut packed) = (vec![0.0; spec.cols], vec![0; to_row]);
        for (row, bytes) in (first..).zip(bytes.chunks_exact(from_row.max(1))) {
            format.unpack(bytes, &mut values);
            check_values(spec, to, (segment.rows.start + row) * spec.cols, &values)?;
            to.pack(&values, None, &mut packed);
            pack_rows(isa, to, shape, memory, row - rows.start, &packed);
        }
        Ok(())
    }
}

/// Runs `work` on each piece, the last one in this thread, the others in threads of their own.
fn in_parallel<T: Send>(
    mut pieces: Vec<T>,
    work: impl Fn(T) -> Result<(), GraphError> + Sync,
) -> Result<(), GraphError> {
    let Some(last) = pieces.pop() else { return Ok(()) };
    let work = &work;
    std::thread::scope(|scope| {
        let start = |(index, piece)| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, move || work(piece));
            thread.map_err(|source| GraphError::Thread { index, source })
        };
        let threads = pieces.into_iter().enumerate().map(start).collect::<Result<Vec<_>, _>>()?;
        let own = work(last);
        let join = |thread: ScopedJoinHandle<_>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        threads.into_iter().map(join).fold(own, Result::and)
    })
}
