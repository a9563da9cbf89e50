//! Errors. All of them come before a run; a run that has begun can't fail.

use smallmind_simd::IsaKind;

use crate::{Precision, Shape};

/// A graph that can't be built, differentiated, planned or run.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// An operation's inputs break its shape rule.
    #[error("{op} at `{path}`: {why}; its inputs are {}", shapes(.inputs))]
    Shape {
        /// The operation.
        op: &'static str,
        /// Where in the model.
        path: String,
        /// What it was given.
        inputs: Vec<Shape>,
        /// The rule.
        why: String,
    },
    /// An operation without outputs is used for its value.
    #[error("{op} has no output")]
    NoOutput {
        /// The operation.
        op: &'static str,
    },
    /// Two different parameters have one name.
    #[error("parameter `{name}` is declared twice with different shapes")]
    ParamConflict {
        /// The name.
        name: String,
    },
    /// A parameter without elements, or of impossible size.
    #[error("parameter `{name}` can't have the shape [{rows}, {cols}]")]
    ParamSize {
        /// The name.
        name: String,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// No rule says how to differentiate an operation.
    #[error("{op} at `{path}` has no gradient")]
    NotDifferentiable {
        /// The operation.
        op: &'static str,
        /// Where in the model.
        path: String,
    },
    /// A gradient of a result that the graph lacks, or that is not a loss.
    #[error("the graph has no loss called `{name}`")]
    NoLoss {
        /// The name asked for.
        name: String,
    },
    /// Products that this CPU can't compute.
    #[error("this CPU has no products of {} with the instruction set {isa}", precision.name())]
    Precision {
        /// What was asked for.
        precision: Precision,
        /// The instruction set.
        isa: IsaKind,
    },
    /// Weights, or a plan, that don't fit into memory.
    #[error("{} are needed at once, more than can be allocated", amount(.bytes))]
    OutOfMemory {
        /// How much was asked for; `usize::MAX` if it is more than can be addressed.
        bytes: usize,
    },
    /// A batch beyond what the plan was made for.
    #[error("a batch with {what} = {got} exceeds the plan's {limit}")]
    Limit {
        /// Which number.
        what: &'static str,
        /// What the batch has.
        got: usize,
        /// What the plan allows.
        limit: usize,
    },
    /// A pool of another size than the plan's.
    #[error("the plan was made for {} and runs on a pool of {}", threads(*.plan), threads(*.pool))]
    Threads {
        /// Of the plan.
        plan: usize,
        /// Of the pool.
        pool: usize,
    },
    /// A graph whose layers can't share a key-value cache.
    #[error("the graph can't be planned: {0}")]
    Cache(String),
    /// An executor without plans.
    #[error("an executor needs at least one plan")]
    NoPlan,
    /// A batch that contradicts itself.
    #[error("bad batch: {0}")]
    Batch(String),
    /// More or fewer values than the parameters have.
    #[error("the parameters have {need} values, gaps between them included, and {got} were given")]
    ParamsLen {
        /// What they have.
        need: usize,
        /// What was given.
        got: usize,
    },
    /// Parameters in another layout than is needed.
    #[error("{} parameters {need}, {} parameters {got}", .doing.needs(), .doing.has())]
    Storage {
        /// What was being done.
        doing: StorageUse,
        /// The layout that is needed.
        need: String,
        /// The layout that is there.
        got: String,
    },
    /// Formats that the rows of a parameter can't have.
    #[error("the rows of `{param}` can't be stored as {formats}: {problem}")]
    Formats {
        /// The parameter.
        param: String,
        /// Numbers of rows, each with a format.
        formats: String,
        /// Why not.
        problem: String,
    },
    /// A value that a format can't hold.
    #[error(
        "`{param}`: element {at} is {value}, which {format} can't hold: its largest magnitude is {}",
        format.largest()
    )]
    Range {
        /// The parameter.
        param: String,
        /// Its element.
        at: usize,
        /// The value.
        value: f32,
        /// The format that was asked for.
        format: smallmind_kernels::Format,
    },
    /// Bytes that can't be rows of a parameter.
    #[error("rows {}..{} of `{param}` can't be set from {bytes} bytes in {format}: {problem}", rows.start, rows.end)]
    Blocks {
        /// The parameter.
        param: String,
        /// The rows to be set.
        rows: std::ops::Range<usize>,
        /// The format of the bytes.
        format: smallmind_kernels::Format,
        /// How many bytes there are.
        bytes: usize,
        /// Why not.
        problem: String,
    },
    /// Memory that the plan touches was not given to the run, or is of another size.
    #[error("the plan needs {what} of {need} elements, the run was given {got}")]
    Binding {
        /// Which memory.
        what: &'static str,
        /// What the plan needs.
        need: usize,
        /// What it was given.
        got: usize,
    },
    /// A key-value cache of other sizes, or in another format, than the plan's.
    #[error("the plan needs a key-value cache of {need}, the run was given {got}")]
    CacheShape {
        /// What the plan needs.
        need: String,
        /// What it was given.
        got: String,
    },
    /// The instruction set can't be used here.
    #[error(transparent)]
    Isa(#[from] smallmind_simd::IsaError),
    /// A worker thread can't be started.
    #[error("can't start worker thread {index}: {source}")]
    Thread {
        /// Which.
        index: usize,
        /// Why.
        source: std::io::Error,
    },
}

/// What is done with a [`crate::Storage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageUse {
    /// A graph is planned for parameters in the layout of the storage.
    Plan,
    /// Values are stored in its layout.
    Store,
    /// A plan is run on parameters.
    Run,
}

impl StorageUse {
    fn needs(self) -> &'static str {
        match self {
            Self::Plan => "the graph to be planned reads",
            Self::Store => "the storage is for",
            Self::Run => "the plan reads",
        }
    }

    fn has(self) -> &'static str {
        match self {
            Self::Plan => "the storage holds",
            Self::Store => "the values to be stored are",
            Self::Run => "the run was given",
        }
    }
}

fn amount(bytes: &usize) -> String {
    if *bytes == usize::MAX {
        "more bytes of memory than can be addressed".to_owned()
    } else {
        format!("{bytes} bytes of memory")
    }
}

fn threads(n: usize) -> String {
    if n == 1 { "1 thread".to_owned() } else { format!("{n} threads") }
}

fn shapes(shapes: &[Shape]) -> String {
    if shapes.is_empty() {
        "none".to_owned()
    } else {
        shapes.iter().map(Shape::to_string).collect::<Vec<_>>().join(", ")
    }
}
