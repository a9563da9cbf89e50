//! How parameters lie in memory where they are only read: each in a format of its own, in rows or packed for the
//! kernels.
//!
//! What is trained (weights, gradients, moments) lies in one flat buffer of `f32` instead, as [`crate::FlatLayout`]
//! says.

use std::fmt;
use std::ops::Range;

use smallmind_kernels::Format;
use smallmind_kernels::matmul::{COL_GRANULE, packed_len};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::error::StorageUse;
use crate::op::{Index, Op};
use crate::params::ALIGN;
use crate::{Graph, GraphError, ParamId, ParamSpec, Params};

/// The order in which elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Row by row.
    Rows,
    /// Packed in panels, as the products of the storage's instruction set read them.
    Packed,
}

/// Consecutive rows of a parameter that lie alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The rows.
    pub rows: Range<usize>,
    /// The format of their elements.
    pub format: Format,
    /// The order of their elements.
    pub order: Order,
    /// Bytes that they take, a multiple of 4.
    pub bytes: usize,
}

/// How one parameter lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamLayout {
    /// Its rows and columns.
    pub shape: [usize; 2],
    /// Its rows from first to last, at least one segment. All segments are in rows, or all are packed.
    pub segments: Vec<Segment>,
}

impl ParamLayout {
    /// Bytes that it takes, a multiple of 4.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether it is packed.
    pub fn is_packed(&self) -> bool {
        self.segments.iter().all(|segment| segment.order == Order::Packed)
    }

    /// Whether all of it is `f32`.
    pub fn is_f32(&self) -> bool {
        self.segments.iter().all(|segment| segment.format == Format::F32)
    }

    /// Whether packed memory, or memory in rows, that is no other row's begins with row `row`.
    pub(crate) fn can_begin_at(&self, row: usize) -> bool {
        let Some(segment) = self.segments.iter().find(|segment| segment.rows.contains(&row)) else { return false };
        row > 0 && (segment.order == Order::Rows || (row - segment.rows.start).is_multiple_of(COL_GRANULE))
    }

    /// The formats of its segments, each once.
    pub fn formats(&self) -> Vec<Format> {
        let has = |format: &Format| self.segments.iter().any(|segment| segment.format == *format);
        Format::ALL.into_iter().filter(has).collect()
    }
}

/// How each parameter of a graph lies in a [`crate::ParamStore`]. A [`crate::Plan`] that is made for it reads them so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    isa: IsaKind,
    params: Vec<ParamLayout>,
    /// The number of each parameter's first segment, and at the end the number of all segments.
    first_segments: Vec<usize>,
}

impl Storage {
    /// How the parameters of `graph` lie for products on `isa`, all weights in one format: see [`Storage::by_rows`].
    ///
    /// # Errors
    /// An instruction set that this CPU lacks; a parameter beyond memory.
    pub fn of(graph: &Graph, isa: IsaKind, weights: Format) -> Result<Self, GraphError> {
        Self::by_rows(graph, isa, |spec| vec![(spec.rows, weights)])
    }

    /// How the parameters of `graph` lie for products on `isa`. For each weight, `formats` gives a number of rows and
    /// their format, then the next number, and so on to the last row.
    ///
    /// * A weight that only linear layers, losses and embeddings of tokens read is packed in these formats.
    /// * The weights of a mixture of experts are packed each by itself; in F32 they lie in rows if an expert's are not
    ///   a multiple of 64 bytes.
    /// * A table that only embeddings of tokens read is packed too, unless its format is F32.
    /// * Packed rows that are not whole blocks of their format are in another: see [`Format::for_rows_of`].
    /// * All others (norms, biases, position embeddings) lie in rows of `f32`.
    ///
    /// # Errors
    /// An instruction set that this CPU lacks; a parameter beyond memory; numbers of rows that don't add up to the
    /// weight's, or of which one but the last is not a multiple of 16 ([`COL_GRANULE`]); several formats for a weight
    /// that an embedding, a loss or experts read.
    pub fn by_rows(
        graph: &Graph,
        isa: IsaKind,
        formats: impl Fn(&ParamSpec) -> Vec<(usize, Format)>,
    ) -> Result<Self, GraphError> {
        isa.with(Choose { graph, isa, formats })?
    }

    /// Checks that `graph` can run on parameters that lie so: they have the shapes of its own, packed ones are read by
    /// linear layers, losses and embeddings of tokens only, and those of several segments by linear layers only.
    ///
    /// # Errors
    /// [`GraphError::Storage`].
    pub(crate) fn check(&self, graph: &Graph, isa: IsaKind) -> Result<(), GraphError> {
        let refuse = |need: String| Err(GraphError::Storage { doing: StorageUse::Plan, need, got: self.to_string() });
        if self.isa != isa {
            return refuse(format!("packed for {}", isa.name()));
        }
        if !self.fits(graph.params()) {
            return refuse("of its own, of other shapes".to_owned());
        }
        for node in graph.nodes() {
            for id in node.op.params() {
                let layout = self.get(id);
                let reads_packed = multiplies(&node.op, id) || looks_up(&node.op);
                if layout.is_packed() && !reads_packed {
                    return refuse(format!("of `{}` in rows", node.path));
                }
                let mut segments = 1;
                if let Op::Experts(experts) = node.op
                    && layout.is_packed()
                {
                    segments = experts.routing.experts;
                }
                if layout.segments.len() != segments && !matches!(node.op, Op::Linear { .. }) {
                    return refuse(format!("of `{}` in one format", node.path));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn check_fits(&self, params: &Params) -> Result<(), GraphError> {
        if self.fits(params) {
            return Ok(());
        }
        let (doing, got) = (StorageUse::Store, "of another graph".to_owned());
        Err(GraphError::Storage { doing, need: self.to_string(), got })
    }

    /// Whether parameters have the shapes of those that it was made for.
    fn fits(&self, params: &Params) -> bool {
        params.iter().map(|(_, spec)| [spec.rows, spec.cols]).eq(self.params.iter().map(|layout| layout.shape))
    }

    /// The instruction set.
    pub fn isa(&self) -> IsaKind {
        self.isa
    }

    /// How a parameter lies.
    pub fn get(&self, id: ParamId) -> &ParamLayout {
        &self.params[id.index()]
    }

    /// The segments of all parameters, in order.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.params.iter().flat_map(|layout| &layout.segments)
    }

    /// The numbers of a parameter's segments among [`Storage::segments`].
    pub(crate) fn numbers(&self, id: ParamId) -> Range<usize> {
        self.first_segments[id.index()]..self.first_segments[id.index() + 1]
    }

    /// Whether all parameters are `f32`.
    pub fn is_f32(&self) -> bool {
        self.params.iter().all(ParamLayout::is_f32)
    }

    /// Bytes of all parameters.
    pub fn bytes(&self) -> usize {
        self.segments().map(|segment| segment.bytes).sum()
    }

    /// Bytes of the parameters in each format that occurs.
    pub fn bytes_by_format(&self) -> Vec<(Format, usize)> {
        let of = |format| self.segments().filter(|segment| segment.format == format).map(|segment| segment.bytes).sum();
        Format::ALL.into_iter().map(|format| (format, of(format))).filter(|(_, bytes)| *bytes > 0).collect()
    }
}

impl fmt::Display for Storage {
    /// Such as `121 packed for avx512, 61 in rows; 140544 bytes in f32, 269119488 bytes in bf16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packed = self.params.iter().filter(|layout| layout.is_packed()).count();
        write!(f, "{packed} packed for {}, {} in rows", self.isa.name(), self.params.len() - packed)?;
        let mut separator = "; ";
        for (format, bytes) in self.bytes_by_format() {
            write!(f, "{separator}{bytes} bytes in {format}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Whether an operation multiplies rows by the parameter, and reads nothing else of it.
fn multiplies(op: &Op, id: ParamId) -> bool {
    let is_product = matches!(*op, Op::Linear { weight, .. } | Op::LinearCrossEntropy { weight, .. } if weight == id);
    is_product || matches!(op, Op::Experts(_))
}

/// Whether an operation looks up the rows of tokens.
fn looks_up(op: &Op) -> bool {
    matches!(op, Op::Embedding { index: Index::Tokens, .. })
}

struct Choose<'a, F> {
    graph: &'a Graph,
    isa: IsaKind,
    formats: F,
}

/// What operations do with a parameter.
#[derive(Clone, Copy, Default)]
struct Uses {
    is_multiplied: bool,
    is_looked_up: bool,
    /// Read by an operation other than a linear layer.
    is_read_whole: bool,
    /// How many experts its rows are divided among, for a mixture of experts.
    experts: Option<usize>,
    /// Read in another way than by a product or a lookup of tokens.
    is_read_otherwise: bool,
}

fn uses(graph: &Graph) -> Vec<Uses> {
    let mut uses = vec![Uses::default(); graph.params().len()];
    for node in graph.nodes() {
        for id in node.op.params() {
            let (multiplies, looks_up) = (multiplies(&node.op, id), looks_up(&node.op));
            let of_param = &mut uses[id.index()];
            of_param.is_multiplied |= multiplies;
            of_param.is_looked_up |= looks_up;
            of_param.is_read_whole |= !matches!(node.op, Op::Linear { .. });
            if let Op::Experts(experts) = node.op {
                of_param.experts = Some(experts.routing.experts);
            }
            of_param.is_read_otherwise |= !multiplies && !looks_up;
        }
    }
    uses
}

impl<F: Fn(&ParamSpec) -> Vec<(usize, Format)>> WithIsa for Choose<'_, F> {
    type Output = Result<Storage, GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let params = self.graph.params().iter().zip(uses(self.graph));
        let layout = |((_, spec), uses): ((ParamId, &ParamSpec), Uses)| {
            let formats = if uses.is_multiplied || uses.is_looked_up { (self.formats)(spec) } else { vec![] };
            let is_packed = uses.is_multiplied || formats.iter().any(|(_, format)| *format != Format::F32);
            let shape = [spec.rows, spec.cols];
            let in_rows = |experts: usize| in_rows_of_experts(spec, experts, &formats);
            if uses.is_read_otherwise || !is_packed || uses.experts.is_some_and(in_rows) {
                let (rows, bytes) = (0..spec.rows, spec.len() * 4);
                let segments = vec![Segment { rows, format: Format::F32, order: Order::Rows, bytes }];
                return Ok(ParamLayout { shape, segments });
            }
            check_rows(spec, &formats, uses.is_read_whole)?;
            let formats = match (uses.experts, &formats[..]) {
                (Some(experts), [(rows, format)]) => vec![(rows / experts, *format); experts],
                _ => formats,
            };
            Ok(ParamLayout { shape, segments: packed_segments(isa, spec, &formats)? })
        };
        let params: Vec<ParamLayout> = params.map(layout).collect::<Result<_, GraphError>>()?;
        let mut first_segments = vec![0];
        first_segments.extend(params.iter().scan(0, |count, layout| {
            *count += layout.segments.len();
            Some(*count)
        }));
        Ok(Storage { isa: self.isa, params, first_segments })
    }
}

/// Whether the weights of experts lie in rows of `f32`: packed segments of `f32` follow each other without gaps, and so
/// must be whole units of alignment.
fn in_rows_of_experts(spec: &ParamSpec, experts: usize, formats: &[(usize, Format)]) -> bool {
    let is_f32 = formats.iter().all(|(_, format)| *format == Format::F32);
    is_f32 && experts > 1 && !(spec.len() / experts).is_multiple_of(ALIGN)
}

/// Checks that a weight can have segments of these numbers of rows.
fn check_rows(spec: &ParamSpec, formats: &[(usize, Format)], is_read_whole: bool) -> Result<(), GraphError> {
    let sum = formats.iter().try_fold(0usize, |sum, (rows, _)| sum.checked_add(*rows));
    let but_last = &formats[..formats.len().saturating_sub(1)];
    let problem = if sum != Some(spec.rows) || formats.iter().any(|(rows, _)| *rows == 0) {
        format!("the parameter has {} rows", spec.rows)
    } else if but_last.iter().any(|(rows, _)| !rows.is_multiple_of(COL_GRANULE)) {
        format!("each but the last must be for a multiple of {COL_GRANULE} rows")
    } else if is_read_whole && !but_last.is_empty() {
        "an embedding, a loss or experts read the parameter, which takes one format".to_owned()
    } else {
        return Ok(());
    };
    let list: Vec<String> = formats.iter().map(|(rows, format)| format!("{rows} in {format}")).collect();
    Err(GraphError::Formats { param: spec.name.clone(), formats: list.join(", "), problem })
}

/// The segments of a weight with these numbers of rows and formats.
fn packed_segments<I: Isa>(isa: I, spec: &ParamSpec, formats: &[(usize, Format)]) -> Result<Vec<Segment>, GraphError> {
    let mut end = 0;
    let segment = |(rows, format): &(usize, Format)| {
        let rows = end..end + rows;
        end = rows.end;
        let format = format.for_rows_of(spec.cols);
        let too_large = GraphError::OutOfMemory { bytes: usize::MAX };
        let words = packed_len(isa, format, rows.len(), spec.cols).ok_or(too_large)?;
        Ok(Segment { rows, format, order: Order::Packed, bytes: words * 4 })
    };
    formats.iter().map(segment).collect()
}
