//! Rows of a store's parameters, which several threads can set at once.

use std::ops::Range;

use smallmind_kernels::Format;
use smallmind_kernels::matmul::{pack_rows, packed_len};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::store::check_values;
use crate::{GraphError, Order, ParamId, ParamSpec, Segment, Storage};

/// Rows of a parameter of a [`crate::ParamStore`], to be set from the bytes of a file.
#[derive(Debug)]
pub struct RowsMut<'s> {
    isa: IsaKind,
    id: ParamId,
    spec: &'s ParamSpec,
    rows: Range<usize>,
    parts: Vec<Part<'s>>,
}

/// Those of the rows that lie in one segment.
#[derive(Debug)]
struct Part<'s> {
    segment: &'s Segment,
    /// Rows of the parameter. They begin with a strip, if the segment is packed.
    rows: Range<usize>,
    memory: &'s mut [f32],
}

impl<'s> RowsMut<'s> {
    /// `rows` of a parameter whose segments lie in `places`; takes their memory.
    pub(crate) fn new(
        storage: &'s Storage,
        id: ParamId,
        spec: &'s ParamSpec,
        rows: Range<usize>,
        places: &[Range<usize>],
        rest: &mut Rest<'s>,
    ) -> Self {
        let isa = storage.isa();
        let mut parts = vec![];
        for (segment, place) in storage.get(id).segments.iter().zip(places) {
            let (start, end) = (rows.start.max(segment.rows.start), rows.end.min(segment.rows.end));
            if start < end {
                let words = |row| isa.with(Words { segment, rows: row - segment.rows.start, cols: spec.cols });
                let [from, to] = [start, end].map(|row| place.start + words(row).unwrap_or(0));
                parts.push(Part { segment, rows: start..end, memory: rest.take(from..to) });
            }
        }
        Self { isa, id, spec, rows, parts }
    }

    /// The parameter.
    pub fn id(&self) -> ParamId {
        self.id
    }

    /// What the parameter is.
    pub fn spec(&self) -> &'s ParamSpec {
        self.spec
    }

    /// Which of the parameter's rows can be set.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Replaces `rows` of the parameter by those in `bytes`, which hold them one after the other in `format`, as GGML
    /// lays them out. Rows in segments of this format are moved without a change of a code or scale; others are
    /// unpacked, and packed in the format of their segment. Rows may come in any order, and any number at a time.
    ///
    /// # Errors
    /// Rows that are not among [`RowsMut::rows`], that are not whole blocks, or that are not as long as `bytes`: then
    /// nothing has changed. A value that the format of its segment can't hold: then some of the rows may have been
    /// replaced.
    pub fn set(&mut self, rows: Range<usize>, format: Format, bytes: &[u8]) -> Result<(), GraphError> {
        let spec = self.spec;
        let refuse = |problem: String| {
            let (param, rows, bytes) = (spec.name.clone(), rows.clone(), bytes.len());
            Err(GraphError::Blocks { param, rows, format, bytes, problem })
        };
        if rows.start > rows.end || rows.start < self.rows.start || rows.end > self.rows.end {
            return refuse(format!("only rows {:?} can be set", self.rows));
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
        for part in &mut self.parts {
            let (start, end) = (rows.start.max(part.rows.start), rows.end.min(part.rows.end));
            if start < end {
                let bytes = &bytes[(start - rows.start) * row..(end - rows.start) * row];
                let first = start - part.rows.start;
                self.isa.with(Set { part, spec, first, format, bytes })??;
            }
        }
        Ok(())
    }
}

/// Words before a number of rows of a segment, which end with a strip or with the segment.
struct Words<'a> {
    segment: &'a Segment,
    rows: usize,
    cols: usize,
}

impl WithIsa for Words<'_> {
    type Output = usize;

    fn call<I: Isa>(self, isa: I) -> usize {
        let Self { segment, rows, cols } = self;
        match segment.order {
            Order::Rows => rows * cols,
            Order::Packed => packed_len(isa, segment.format, rows, cols).unwrap_or(segment.bytes / 4),
        }
    }
}

/// Replaces rows of a part, from `first` on, by those in `bytes`.
struct Set<'a, 's> {
    part: &'a mut Part<'s>,
    spec: &'a ParamSpec,
    first: usize,
    format: Format,
    bytes: &'a [u8],
}

impl WithIsa for Set<'_, '_> {
    type Output = Result<(), GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { part: Part { segment, rows, memory }, spec, first, format, bytes } = self;
        let (shape, to) = ([rows.len(), spec.cols], segment.format);
        let (Some(from_row), Some(to_row)) = (format.row_bytes(spec.cols), to.row_bytes(spec.cols)) else {
            unreachable!("rows of {} elements are whole blocks of {format} and of {to}", spec.cols)
        };
        if segment.order == Order::Rows {
            let count = bytes.len() / from_row.max(1);
            format.unpack(bytes, &mut memory[first * spec.cols..(first + count) * spec.cols]);
            return Ok(());
        }
        if to == format {
            pack_rows(isa, format, shape, memory, first, bytes);
            return Ok(());
        }
        let (mut values, mut packed) = (vec![0.0; spec.cols], vec![0; to_row]);
        for (row, bytes) in (first..).zip(bytes.chunks_exact(from_row.max(1))) {
            format.unpack(bytes, &mut values);
            check_values(spec, to, (rows.start + row) * spec.cols, &values)?;
            to.pack(&values, None, &mut packed);
            pack_rows(isa, to, shape, memory, row, &packed);
        }
        Ok(())
    }
}

/// Memory of which parts are taken from front to back.
pub(crate) struct Rest<'s> {
    pub memory: &'s mut [f32],
    /// Where `memory` starts in the whole.
    pub start: usize,
}

impl<'s> Rest<'s> {
    /// Takes a range of the whole, behind those that were taken before.
    fn take(&mut self, range: Range<usize>) -> &'s mut [f32] {
        let memory = std::mem::take(&mut self.memory);
        let (taken, rest) = memory[range.start - self.start..].split_at_mut(range.len());
        *self = Self { memory: rest, start: range.end };
        taken
    }
}
