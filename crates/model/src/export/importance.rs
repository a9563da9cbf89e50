//! Importance matrices: how much the columns of weights matter, measured on a text.
//!
//! The importance of a column is the mean square of the activation that it is multiplied with: with it as the weight of
//! squared errors, quantization keeps the outputs of a layer close, not its weights. Files are GGUF with llama.cpp's
//! keys and names (`tools/imatrix`): `NAME.in_sum2` holds the sums of squares `[matrices, columns]`, `NAME.counts` how
//! many activations they are of `[matrices, 1]`. A tensor has one matrix, or one for each expert.

use std::collections::BTreeMap;
use std::path::Path;

use smallmind_checkpoint::{GgufArray, GgufData, GgufFile, GgufStrings, GgufValue, GgufWriter, TensorSource};

use super::PlannedTensor;
use crate::{ConfigError, ModelError};

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const TYPE: &str = "general.type";
const IMATRIX: &str = "imatrix";

/// Sums of squared activations of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Squares {
    /// `[matrices, columns]`
    pub(super) sums: Vec<f32>,
    /// How many activations the sums are of, `[matrices]`.
    pub(super) counts: Vec<f32>,
}

impl Squares {
    fn columns(&self) -> usize {
        self.sums.len() / self.counts.len().max(1)
    }

    /// Mean squares. Where there was no activation, no column matters more than another.
    fn means(&self) -> Vec<f32> {
        let of_matrix = |(sums, count): (&[f32], &f32)| -> Vec<f32> {
            sums.iter().map(|sum| if *count > 0.0 { sum / count } else { 1.0 }).collect()
        };
        self.sums.chunks_exact(self.columns().max(1)).zip(&self.counts).flat_map(of_matrix).collect()
    }
}

/// The importance of the columns of a tensor's rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowImportance<'m> {
    /// `[matrices, columns]`
    means: &'m [f32],
    columns: usize,
    /// Rows of a matrix.
    rows: usize,
}

impl<'m> RowImportance<'m> {
    /// That of the columns of a row of the tensor; `None` where no activation was ever different from 0.
    pub(super) fn of_row(self, row: usize) -> Option<&'m [f32]> {
        let means = self.means.chunks_exact(self.columns.max(1)).nth(row / self.rows.max(1))?;
        means.iter().any(|mean| *mean > 0.0).then_some(means)
    }
}

/// How much the columns of a model's weights matter, by the names of tensors in GGUF files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    squares: BTreeMap<String, Squares>,
    /// Mean squares, for quantization.
    means: BTreeMap<String, Vec<f32>>,
}

impl ImportanceMatrix {
    /// From the squares of tensors.
    pub(super) fn new(squares: BTreeMap<String, Squares>) -> Self {
        let means = squares.iter().map(|(name, squares)| (name.clone(), squares.means())).collect();
        Self { squares, means }
    }

    /// Reads a GGUF file of the type `imatrix`.
    ///
    /// # Errors
    /// A file of another type; sums without counts, negative or not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let file = GgufFile::open(path)?;
        let refuse = |key: &str, got: String, why: &str| {
            ModelError::from(ConfigError::invalid(key, got, why).in_file(file.path()))
        };
        let kind: &str = file.metadata().required(TYPE)?;
        if kind != IMATRIX {
            return Err(refuse(TYPE, kind.to_owned(), "an importance matrix has the type `imatrix`"));
        }
        let mut squares = BTreeMap::new();
        for tensor in file.tensors() {
            let Some(name) = tensor.name.strip_suffix(SUMS) else { continue };
            let counts = format!("{name}{COUNTS}");
            let matrices = file.tensor(&counts)?.elements();
            let elements: usize = tensor.shape.iter().product();
            // Dimensions of 1 may be left out.
            if tensor.shape.last().and_then(|columns| columns.checked_mul(matrices)) != Some(elements) {
                let why = format!("it has a row for each of the {matrices} elements of `{counts}`");
                return Err(refuse(&tensor.name, format!("{:?}", tensor.shape), &why));
            }
            let (mut sums, mut of_matrices) = (vec![0.0; elements], vec![0.0; matrices]);
            file.read_finite_f32(&tensor.name, &mut sums)?;
            file.read_finite_f32(&counts, &mut of_matrices)?;
            for (name, values) in [(&tensor.name, &sums), (&counts, &of_matrices)] {
                if let Some(value) = values.iter().find(|value| **value < 0.0) {
                    return Err(refuse(name, value.to_string(), "sums of squares and counts are not negative"));
                }
            }
            squares.insert(name.to_owned(), Squares { sums, counts: of_matrices });
        }
        if squares.is_empty() {
            return Err(refuse(TYPE, kind.to_owned(), "the file has no sums of squares"));
        }
        Ok(Self::new(squares))
    }

    /// Writes a GGUF file of the type `imatrix`, of a text that was read in `chunks` of so many tokens.
    ///
    /// # Errors
    /// Those of [`GgufWriter::write_to`].
    pub fn write(
        &self,
        data: &[String],
        (chunks, tokens): (usize, usize),
        out: &mut dyn std::io::Write,
    ) -> Result<(), ModelError> {
        let mut writer = GgufWriter::new();
        let number = |n: usize| GgufValue::U32(u32::try_from(n).unwrap_or(u32::MAX));
        writer.set(TYPE, GgufValue::String(IMATRIX.into()))?;
        writer.set("imatrix.datasets", GgufValue::Array(GgufArray::Strings(GgufStrings::from_iter(data))))?;
        writer.set("imatrix.chunk_count", number(chunks))?;
        writer.set("imatrix.chunk_size", number(tokens))?;
        for (name, squares) in &self.squares {
            let matrices = squares.counts.len();
            writer.add(&format!("{name}{SUMS}"), &[matrices, squares.columns()], GgufData::F32(&squares.sums))?;
            writer.add(&format!("{name}{COUNTS}"), &[matrices, 1], GgufData::F32(&squares.counts))?;
        }
        writer.write_to(out).map_err(ModelError::Write)
    }

    /// The importance of the columns of a tensor.
    pub(super) fn of(&self, tensor: &PlannedTensor) -> Option<RowImportance<'_>> {
        let [ref outer @ .., rows, columns] = tensor.shape[..] else { return None };
        let means = self.means.get(&tensor.name)?;
        debug_assert_eq!(means.len(), outer.iter().product::<usize>() * columns, "{}", tensor.name);
        Some(RowImportance { means, columns, rows })
    }

    /// Checks that the matrix is that of a model with these tensors: it has one of them, and no other number of columns
    /// or experts.
    pub(super) fn check(&self, tensors: &[PlannedTensor]) -> Result<(), ModelError> {
        if !tensors.iter().any(|tensor| self.means.contains_key(&tensor.name)) {
            return Err(ModelError::ForeignImportance);
        }
        for tensor in tensors {
            let Some(squares) = self.squares.get(&tensor.name) else { continue };
            let got = (squares.counts.len(), squares.columns());
            let (matrices, columns) = match tensor.shape[..] {
                [ref outer @ .., _, columns] => (outer.iter().product(), columns),
                _ => (1, tensor.shape.iter().product()),
            };
            if got != (matrices, columns) {
                let (tensor, expected) = (tensor.name.clone(), (matrices, columns));
                return Err(ModelError::Importance { tensor, got, expected });
            }
        }
        Ok(())
    }
}
