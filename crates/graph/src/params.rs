//! Parameters: their names and shapes, and the place of each in one flat buffer.

use std::ops::Range;

use crate::GraphError;

/// Names a parameter of a [`Params`] table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub(crate) u32);

impl ParamId {
    /// Its index in the table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The initial values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Independent normal values.
    Normal {
        /// Their standard deviation; the mean is 0.
        std: f32,
    },
    /// The same value everywhere.
    Constant(f32),
}

/// Whether AdamW applies weight decay to a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Matrices.
    Yes,
    /// Scales, shifts and biases.
    No,
}

/// A parameter: a matrix `[rows, cols]`; a vector is `[1, n]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// Unique within a model, like `blocks.3.attn.qkv.weight`.
    pub name: String,
    /// Output features, or table entries.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Its initial values.
    pub init: Init,
    /// Whether weight decay applies.
    pub decay: Decay,
}

impl ParamSpec {
    /// Elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The parameters of a model in order of declaration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    specs: Vec<ParamSpec>,
}

impl Params {
    /// The number of parameters.
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    /// The parameter of that id.
    pub fn get(&self, id: ParamId) -> Option<&ParamSpec> {
        self.specs.get(id.index())
    }

    /// Each parameter with its id.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &ParamSpec)> {
        self.specs.iter().enumerate().map(|(i, s)| (ParamId(i as u32), s))
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.iter().find(|(_, s)| s.name == name).map(|(id, _)| id)
    }

    /// Elements in all parameters together.
    pub fn elements(&self) -> usize {
        self.specs.iter().map(ParamSpec::len).sum()
    }

    /// Adds a parameter, or finds it again if the same one was declared before.
    pub(crate) fn declare(&mut self, spec: ParamSpec) -> Result<ParamId, GraphError> {
        if let Some(id) = self.find(&spec.name) {
            return match self.get(id) {
                Some(old) if *old == spec => Ok(id),
                _ => Err(GraphError::ParamConflict { name: spec.name }),
            };
        }
        if spec.rows.checked_mul(spec.cols).is_none_or(|n| n == 0 || n > isize::MAX as usize / 16) {
            return Err(GraphError::ParamSize { name: spec.name, rows: spec.rows, cols: spec.cols });
        }
        self.specs.push(spec);
        Ok(ParamId((self.specs.len() - 1) as u32))
    }

    /// The place of each parameter in a flat buffer.
    pub fn layout(&self) -> FlatLayout {
        let mut offsets = Vec::with_capacity(self.specs.len());
        let mut len = 0;
        for spec in &self.specs {
            offsets.push(len);
            len += spec.len().next_multiple_of(ALIGN);
        }
        FlatLayout { offsets, len }
    }

    /// The ranges of the flat buffer in which decay is the same, as long as possible.
    pub(crate) fn decay_runs(&self) -> Vec<(Range<usize>, Decay)> {
        let layout = self.layout();
        let mut runs: Vec<(Range<usize>, Decay)> = Vec::new();
        for (id, spec) in self.iter() {
            let range = layout.padded(id);
            match runs.last_mut() {
                Some((run, decay)) if *decay == spec.decay => run.end = range.end,
                _ => runs.push((range, spec.decay)),
            }
        }
        runs
    }
}

/// Elements to which each parameter is aligned: 64 bytes.
pub(crate) const ALIGN: usize = 16;

/// The places of parameters in a flat buffer: each at a multiple of 64 bytes, with zeros in the gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatLayout {
    offsets: Vec<usize>,
    len: usize,
}

impl FlatLayout {
    /// Elements of the buffer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first element of a parameter.
    pub fn offset(&self, id: ParamId) -> usize {
        self.offsets[id.index()]
    }

    /// The elements of a parameter and of the gap after it.
    fn padded(&self, id: ParamId) -> Range<usize> {
        self.offset(id)..self.offsets.get(id.index() + 1).copied().unwrap_or(self.len)
    }
}
