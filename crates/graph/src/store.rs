//! The values of parameters that are only read.

use std::ops::Range;
use std::sync::Arc;

use smallmind_kernels::matmul::{pack_weight, pack_weight_as, pack_weight_scratch_len};
use smallmind_kernels::{Format, Mat};
use smallmind_simd::{Isa, WithIsa};

use crate::params::ALIGN;
use crate::store_rows::{Rest, RowsMut};
use crate::{Buffer, FlatLayout, GraphError, Order, ParamId, ParamSpec, Params, Storage};

/// The most bytes of a store that a third-level cache is supposed to hold from run to run.
const CACHED_BYTES: usize = 32 << 20;

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
}

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
        let mut store = Self { params: params.clone(), places: places(&storage), memory: values, storage };
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

    /// Stores zeros, to be replaced by [`RowsMut::set`].
    ///
    /// # Errors
    /// A storage for other parameters; too little memory.
    pub fn zeroed(params: &Params, storage: Arc<Storage>) -> Result<Self, GraphError> {
        storage.check_fits(params)?;
        let places = places(&storage);
        let memory = Buffer::untouched(places.last().map_or(0, |last| last.end.next_multiple_of(ALIGN)))?;
        Ok(Self { params: params.clone(), places, memory, storage })
    }

    /// All rows of all parameters, in order, to be set by one thread or by several. `starts` gives the rows of a
    /// parameter, in rising order, before which it is divided; it stays whole where these rows share packed memory.
    pub fn divide(&mut self, starts: impl Fn(ParamId) -> Vec<usize>) -> Vec<RowsMut<'_>> {
        let Self { params, storage, memory, places } = self;
        let mut rest = Rest { memory, start: 0 };
        let mut divided = vec![];
        for (id, spec) in params.iter() {
            let (layout, places) = (storage.get(id), &places[storage.numbers(id)]);
            let mut starts = starts(id);
            starts.retain(|start| layout.can_begin_at(*start));
            starts.push(spec.rows);
            let mut first = 0;
            for end in starts {
                divided.push(RowsMut::new(storage, id, spec, first..end, places, &mut rest));
                first = end;
            }
        }
        divided
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

    /// Whether it is too large for a third-level cache, so that each run reads it from memory.
    #[inline(always)]
    pub(crate) fn is_beyond_caches(&self) -> bool {
        self.memory.len() * size_of::<f32>() > CACHED_BYTES
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
pub(crate) fn check_values(spec: &ParamSpec, format: Format, first: usize, values: &[f32]) -> Result<(), GraphError> {
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
