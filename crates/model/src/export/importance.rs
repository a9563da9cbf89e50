//! Importance matrices: how much the columns of weights matter, measured on a text.
//!
//! The importance of a column is the mean square of the activation that it is multiplied with: with it as the weight of
//! squared errors, quantization keeps the outputs of a layer close, not its weights. Files are GGUF with llama.cpp's
//! keys and names (`tools/imatrix`): `NAME.in_sum2` holds the sums of squares `[matrices, columns]`, `NAME.counts` how
//! many activations they are of `[matrices, 1]`.

use std::collections::BTreeMap;
use std::path::Path;

use smallmind_checkpoint::{GgufArray, GgufData, GgufFile, GgufStrings, GgufValue, GgufWriter, TensorSource};

use super::PlannedTensor;
use crate::{ConfigError, ModelError};

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const TYPE: &str = "general.type";
const IMATRIX: &str = "imatrix";

/// Sums of squared activations of one weight.
#[derive(Clone, Debug, PartialEq)]
struct Squares {
    /// `[columns]`
    sums: Vec<f32>,
    count: f32,
}

/// How much the columns of a model's weights matter, by the names of tensors in GGUF files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    squares: BTreeMap<String, Squares>,
    /// Mean squares, for quantization.
    means: BTreeMap<String, Vec<f32>>,
}

impl ImportanceMatrix {
    /// From sums of squares `[columns]` of `count` activations for each tensor.
    pub(crate) fn of_sums(sums: impl IntoIterator<Item = (String, Vec<f32>)>, count: usize) -> Self {
        let squares = |(name, sums)| (name, Squares { sums, count: count as f32 });
        Self::of_squares(sums.into_iter().map(squares).collect())
    }

    fn of_squares(squares: BTreeMap<String, Squares>) -> Self {
        let mean = |squares: &Squares| squares.sums.iter().map(|sum| sum / squares.count.max(1.0)).collect();
        let means = squares.iter().map(|(name, squares)| (name.clone(), mean(squares))).collect();
        Self { squares, means }
    }

    /// Reads a GGUF file of the type `imatrix`.
    ///
    /// # Errors
    /// A file of another type; sums without counts, of several experts, negative or not finite.
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
            let columns = tensor.shape.last().copied().unwrap_or(1);
            if matrices != 1 || tensor.shape.iter().product::<usize>() != columns {
                let why = "sums of one matrix are supported, not those of several experts";
                return Err(refuse(&tensor.name, format!("{:?}", tensor.shape), why));
            }
            let (mut sums, mut count) = (vec![0.0; columns], [0.0]);
            file.read_finite_f32(&tensor.name, &mut sums)?;
            file.read_finite_f32(&counts, &mut count)?;
            if let Some(sum) = sums.iter().find(|sum| **sum < 0.0) {
                return Err(refuse(&tensor.name, sum.to_string(), "a sum of squares is not negative"));
            }
            squares.insert(name.to_owned(), Squares { sums, count: count[0] });
        }
        if squares.is_empty() {
            return Err(refuse(TYPE, kind.to_owned(), "the file has no sums of squares"));
        }
        Ok(Self::of_squares(squares))
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
        let counts: Vec<[f32; 1]> = self.squares.values().map(|squares| [squares.count]).collect();
        for ((name, squares), count) in self.squares.iter().zip(&counts) {
            writer.add(&format!("{name}{SUMS}"), &[1, squares.sums.len()], GgufData::F32(&squares.sums))?;
            writer.add(&format!("{name}{COUNTS}"), &[1, 1], GgufData::F32(count))?;
        }
        writer.write_to(out).map_err(ModelError::Write)
    }

    /// The importance of the columns of a tensor.
    pub(super) fn of(&self, tensor: &str) -> Option<&[f32]> {
        // Where no activation was ever different from 0, no column matters more than another.
        self.means.get(tensor).map(Vec::as_slice).filter(|means| means.iter().any(|mean| *mean > 0.0))
    }

    /// Checks that the matrix is that of a model with these tensors: it has one of them, and no other number of columns.
    pub(super) fn check(&self, tensors: &[PlannedTensor]) -> Result<(), ModelError> {
        if !tensors.iter().any(|tensor| self.means.contains_key(&tensor.name)) {
            return Err(ModelError::ForeignImportance);
        }
        for tensor in tensors {
            let (Some(means), Some(cols)) = (self.means.get(&tensor.name), tensor.shape.last()) else { continue };
            if means.len() != *cols {
                let (tensor, columns, expected) = (tensor.name.clone(), means.len(), *cols);
                return Err(ModelError::Importance { tensor, columns, expected });
            }
        }
        Ok(())
    }
}
