//! Names of tensors in files, and the parameters that they hold.

mod gpt2;
mod llama;

use std::ops::Range;

use smallmind_checkpoint::WeightFiles;

use crate::{ConfigError, Family, Head, ModelConfig};

/// Name of the tensor of an untied output head.
pub(crate) const OUTPUT_HEAD: &str = "lm_head.weight";

/// Order of a tensor in a file relative to the parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orientation {
    /// `[out, in]`, like the parameter.
    Same,
    /// `[in, out]`.
    Transposed,
}

/// A tensor of a file and the rows of a parameter that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSlot {
    /// Name of the tensor in the file.
    pub(crate) name: String,
    /// Name of the parameter.
    pub(crate) param: String,
    /// Rows of the parameter, or elements if it is a vector.
    pub(crate) part: Range<usize>,
    /// Order of the tensor.
    pub(crate) orientation: Orientation,
    /// Shape of the tensor in the file.
    pub(crate) shape: Vec<usize>,
}

impl TensorSlot {
    /// A tensor that is a whole matrix parameter.
    fn matrix(name: String, param: String, rows: usize, cols: usize) -> Self {
        Self { name, param, part: 0..rows, orientation: Orientation::Same, shape: vec![rows, cols] }
    }

    /// A tensor that is a whole vector parameter.
    fn vector(name: String, param: String, len: usize) -> Self {
        Self { name, param, part: 0..len, orientation: Orientation::Same, shape: vec![len] }
    }

    /// The elements of the parameter, which has `cols` columns, that the tensor holds.
    pub(crate) fn elements(&self, cols: usize) -> Range<usize> {
        // `part` counts elements of a vector, and rows of a matrix, even if that has a single row.
        let per_row = if self.shape.len() == 1 { 1 } else { cols };
        self.part.start * per_row..self.part.end * per_row
    }
}

/// Tensors of zeros that other tools require in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZeroTensor {
    pub(crate) name: String,
    pub(crate) len: usize,
}

/// The names of a model's tensors in files of its family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorNames<'c> {
    config: &'c ModelConfig,
    family: Family,
}

impl<'c> TensorNames<'c> {
    /// The names for a model of `config`.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`] if no family's files can express the model.
    pub(crate) fn of(config: &'c ModelConfig) -> Result<Self, ConfigError> {
        Ok(Self { config, family: Family::of(config)? })
    }

    /// The tensors that hold the parameters, in the order in which they are written.
    pub(crate) fn slots(&self) -> Vec<TensorSlot> {
        let c = self.config;
        let mut slots = match self.family {
            Family::Gpt2 => gpt2::slots(c),
            Family::Llama | Family::Qwen2 => llama::slots(c),
        };
        if c.head == Head::Untied {
            slots.push(TensorSlot::matrix(OUTPUT_HEAD.into(), "head.weight".into(), c.vocab_size, c.d_model));
        }
        slots
    }

    /// Tensors of zeros to write for other tools, which then read the same model.
    pub(crate) fn zeros(&self) -> Vec<ZeroTensor> {
        match self.family {
            Family::Gpt2 => gpt2::zeros(self.config),
            Family::Llama | Family::Qwen2 => vec![],
        }
    }

    /// The name of the table of token embeddings.
    pub(crate) fn embedding(&self) -> &'static str {
        match self.family {
            Family::Gpt2 => "transformer.wte.weight",
            Family::Llama | Family::Qwen2 => "model.embed_tokens.weight",
        }
    }

    /// The optional prefix: published GPT-2 weights don't have it.
    fn optional_prefix(&self) -> &'static str {
        match self.family {
            Family::Gpt2 => "transformer.",
            Family::Llama | Family::Qwen2 => "model.",
        }
    }

    /// A name without the optional prefix.
    pub(crate) fn bare<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.optional_prefix()).unwrap_or(name)
    }

    /// The name of the tensor `name` in `file`, with or without the optional prefix.
    pub(crate) fn stored<'n>(&self, name: &'n str, file: &WeightFiles) -> &'n str {
        let bare = self.bare(name);
        if !file.contains(name) && file.contains(bare) { bare } else { name }
    }

    /// Whether the tensor is determined by the configuration: rotary frequencies, causal masks.
    pub(crate) fn is_buffer(&self, name: &str) -> bool {
        let (blocks, of_block, of_model): (_, &[_], &[_]) = match self.family {
            Family::Gpt2 => ("h.", &["attn.bias", "attn.masked_bias"], &[]),
            Family::Llama | Family::Qwen2 => ("layers.", &["self_attn.rotary_emb.inv_freq"], &["rotary_emb.inv_freq"]),
        };
        let bare = self.bare(name);
        let Some((layer, rest)) = bare.strip_prefix(blocks).and_then(|rest| rest.split_once('.')) else {
            return of_model.contains(&bare);
        };
        layer.parse::<usize>().is_ok_and(|layer| layer < self.config.layers) && of_block.contains(&rest)
    }
}
