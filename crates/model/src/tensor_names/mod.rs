//! The names of tensors in files, and where in the parameters each of them belongs.

mod gpt2;
mod llama;

use std::ops::Range;

use smallmind_checkpoint::WeightFiles;

use crate::{ConfigError, Family, Head, ModelConfig};

/// The file's name for an output head of its own.
pub(crate) const OUTPUT_HEAD: &str = "lm_head.weight";

/// How a tensor of a file lies relative to the parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orientation {
    /// `[out, in]`, as the parameter.
    Same,
    /// `[in, out]`.
    Transposed,
}

/// A tensor of a file and the rows of a parameter that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSlot {
    /// Its name in the file.
    pub(crate) name: String,
    /// The parameter's name.
    pub(crate) param: String,
    /// The parameter's rows, or its columns where it is a vector.
    pub(crate) part: Range<usize>,
    /// How it lies.
    pub(crate) orientation: Orientation,
    /// Its shape in the file.
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
}

/// Tensors that a file must have beside those of the parameters to be complete for other tools: all zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZeroTensor {
    pub(crate) name: String,
    pub(crate) len: usize,
}

/// The names that the files of a model's family have for its tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorNames<'c> {
    config: &'c ModelConfig,
    family: Family,
}

impl<'c> TensorNames<'c> {
    /// The names for a model of `config`.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`] where no family's files can hold it.
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

    /// Zero tensors to write so that other tools read the file as SmallMind does.
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

    /// The prefix that files may lack: published GPT-2 weights come without it.
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

    /// The name under which `file` has the tensor `name`: with or without the optional prefix.
    pub(crate) fn stored<'n>(&self, name: &'n str, file: &WeightFiles) -> &'n str {
        let bare = self.bare(name);
        if !file.contains(name) && file.contains(bare) { bare } else { name }
    }

    /// Whether the tensor holds what follows from the configuration: rotary frequencies, causal masks.
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
