//! Names of tensors in files, and the parameters that they hold.

mod experts;
mod gguf;
mod gpt2;
mod gpt_neox;
mod llama;

use std::ops::Range;

use smallmind_checkpoint::TensorSource;

use experts::ExpertNames;
use llama::Projections;

use crate::config::ROPE_TENSORS;
use crate::{ConfigError, Family, Head, ModelConfig};

/// Order of a tensor in a file relative to the parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orientation {
    /// `[out, in]`, like the parameter.
    Same,
    /// `[in, out]`.
    Transposed,
    /// Like the parameter, each element less 1: norms that multiply by 1 + w.
    MinusOne,
    /// The rows of each head together: its query, key and value. The parameter has all queries, then all keys, then all
    /// values.
    Heads {
        /// How many heads.
        heads: usize,
    },
    /// The gates of all experts, or all ups: one half of each expert's rows of the parameter, the first or the second.
    Half {
        /// How many experts.
        experts: usize,
        /// Which half: 0 or 1.
        half: usize,
    },
    /// In each head the two features of a rotary pair adjacent, as llama.cpp rotates them. The parameter has the first
    /// features of all pairs, then the second ones.
    Interleaved {
        /// How many heads the tensor has.
        heads: usize,
    },
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

    /// Puts the tensor's elements, as they lie in a file, in the order of the parameter.
    pub(crate) fn to_param(&self, in_file: &[f32], param: &mut [f32]) {
        match self.orientation {
            Orientation::Same => param.copy_from_slice(in_file),
            Orientation::MinusOne => param.iter_mut().zip(in_file).for_each(|(scale, w)| *scale = 1.0 + w),
            Orientation::Transposed => transpose(in_file, self.shape[0], 1, param),
            Orientation::Heads { heads } => transpose(in_file, heads, in_file.len() / (3 * heads), param),
            Orientation::Half { experts, half } => {
                let len = in_file.len() / experts;
                let halves = param.chunks_exact_mut(len).skip(half).step_by(2);
                in_file.chunks_exact(len).zip(halves).for_each(|(from, to)| to.copy_from_slice(from));
            }
            Orientation::Interleaved { heads } => {
                let (len, half) = (in_file.len() / heads, self.shape[0] / heads / 2);
                let head_pairs = in_file.chunks_exact(len).zip(param.chunks_exact_mut(len));
                head_pairs.for_each(|(from, to)| transpose(from, half, len / (2 * half), to));
            }
        }
    }

    /// The opposite of [`TensorSlot::to_param`].
    pub(crate) fn to_file(&self, param: &[f32], in_file: &mut [f32]) {
        match self.orientation {
            Orientation::Same => in_file.copy_from_slice(param),
            Orientation::MinusOne => in_file.iter_mut().zip(param).for_each(|(w, scale)| *w = scale - 1.0),
            Orientation::Transposed => transpose(param, self.shape[1], 1, in_file),
            Orientation::Heads { heads } => transpose(param, 3, param.len() / (3 * heads), in_file),
            Orientation::Half { experts, half } => {
                let len = in_file.len() / experts;
                let halves = param.chunks_exact(len).skip(half).step_by(2);
                in_file.chunks_exact_mut(len).zip(halves).for_each(|(to, from)| to.copy_from_slice(from));
            }
            Orientation::Interleaved { heads } => {
                let (len, half) = (param.len() / heads, self.shape[0] / heads / 2);
                let head_pairs = param.chunks_exact(len).zip(in_file.chunks_exact_mut(len));
                head_pairs.for_each(|(from, to)| transpose(from, 2, len / (2 * half), to));
            }
        }
    }

    /// How many elements the tensor has in the file.
    pub(crate) fn len_in_file(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements of the parameter, which has `cols` columns, that the tensor holds.
    pub(crate) fn elements(&self, cols: usize) -> Range<usize> {
        // `part` counts elements of a vector, and rows of a matrix, even if that has a single row.
        let per_row = if self.shape.len() == 1 { 1 } else { cols };
        self.part.start * per_row..self.part.end * per_row
    }
}

/// `to` `[cols, rows]` = `from` `[rows, cols]` transposed, where each element of both is a block of `block` numbers.
fn transpose(from: &[f32], rows: usize, block: usize, to: &mut [f32]) {
    let cols = from.len() / (rows * block).max(1);
    for (i, element) in from.chunks_exact(block.max(1)).enumerate() {
        let (r, c) = (i / cols, i % cols);
        to[(c * rows + r) * block..][..block].copy_from_slice(element);
    }
}

/// How files of Hugging Face name the experts of a family.
fn expert_names(family: Family) -> Option<ExpertNames> {
    match family {
        Family::Qwen3Moe | Family::Olmoe => Some(ExpertNames::Projections),
        Family::Mixtral => Some(ExpertNames::Numbered),
        Family::GraniteMoe => Some(ExpertNames::Linear),
        _ => None,
    }
}

/// Tensors of zeros that other tools require in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZeroTensor {
    pub(crate) name: String,
    pub(crate) len: usize,
}

/// The kind of a model's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// Safetensors, with the names of Hugging Face.
    HuggingFace,
    /// GGUF.
    Gguf,
}

/// The names of a model's tensors in files of its family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorNames<'c> {
    config: &'c ModelConfig,
    family: Family,
    kind: FileKind,
}

impl<'c> TensorNames<'c> {
    /// The names for a model of `config` in files of Hugging Face.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`] if no family's files can express the model.
    pub(crate) fn of(config: &'c ModelConfig) -> Result<Self, ConfigError> {
        Ok(Self::of_family(config, Family::of(config)?, FileKind::HuggingFace))
    }

    /// The names for a model of `config` in files of a family that can express it.
    pub(crate) fn of_family(config: &'c ModelConfig, family: Family, kind: FileKind) -> Self {
        Self { config, family, kind }
    }

    /// The names of a model of `config` in `file`, which has the names of Hugging Face: those of the family, among
    /// those whose files can state the model, that has the most of its tensors there.
    ///
    /// # Errors
    /// As [`TensorNames::of`].
    pub(crate) fn in_file(config: &'c ModelConfig, file: &dyn TensorSource) -> Result<Self, ConfigError> {
        let first = Self::of(config)?;
        let present = |names: &Self| names.slots().iter().filter(|slot| names.holds(&slot.name, file)).count();
        let (mut best, mut most) = (first, present(&first));
        for family in Family::stating(config).filter(|family| *family != first.family) {
            let names = Self { family, ..first };
            let count = present(&names);
            if count > most {
                (best, most) = (names, count);
            }
        }
        Ok(best)
    }

    /// Whether `file` has the tensor `name`, with or without the optional prefix.
    fn holds(&self, name: &str, file: &dyn TensorSource) -> bool {
        file.contains(self.stored(name, file))
    }

    /// The tensors that hold the parameters, in the order in which they are written.
    pub(crate) fn slots(&self) -> Vec<TensorSlot> {
        let c = self.config;
        let mut slots = match (self.kind, self.family) {
            (FileKind::Gguf, family) => return gguf::slots(c, family),
            (_, Family::Gpt2) => gpt2::slots(c),
            (_, Family::GptNeoX) => gpt_neox::slots(c),
            (_, Family::Phi3) => llama::slots(c, Projections::Fused, None),
            (_, family) => llama::slots(c, Projections::Apart, expert_names(family)),
        };
        if self.family.is_gemma() {
            slots.iter_mut().filter(|slot| slot.param.ends_with("norm.weight")).for_each(|slot| {
                slot.orientation = Orientation::MinusOne;
            });
        }
        if c.head == Head::Untied {
            slots.push(TensorSlot::matrix(self.output_head().into(), "head.weight".into(), c.vocab_size, c.d_model));
        }
        slots
    }

    /// Tensors of zeros to write for other tools, which then read the same model.
    pub(crate) fn zeros(&self) -> Vec<ZeroTensor> {
        match (self.family, self.kind) {
            (Family::Gpt2, FileKind::HuggingFace) => gpt2::zeros(self.config),
            (Family::Gpt2, FileKind::Gguf) => gguf::zeros(self.config),
            _ => vec![],
        }
    }

    /// The name of the tensor of an untied output head.
    pub(crate) fn output_head(&self) -> &'static str {
        match (self.kind, self.family) {
            (FileKind::Gguf, _) => gguf::OUTPUT_HEAD,
            (_, Family::GptNeoX) => "embed_out.weight",
            _ => "lm_head.weight",
        }
    }

    /// The name of the table of token embeddings.
    pub(crate) fn embedding(&self) -> &'static str {
        match (self.kind, self.family) {
            (FileKind::Gguf, _) => gguf::EMBEDDING,
            (_, Family::Gpt2) => "transformer.wte.weight",
            (_, Family::GptNeoX) => "gpt_neox.embed_in.weight",
            _ => "model.embed_tokens.weight",
        }
    }

    /// The optional prefix: published GPT-2 weights don't have it.
    fn optional_prefix(&self) -> &'static str {
        match (self.kind, self.family) {
            (FileKind::Gguf, _) => "",
            (_, Family::Gpt2) => "transformer.",
            (_, Family::GptNeoX) => "gpt_neox.",
            _ => "model.",
        }
    }

    /// A name without the optional prefix.
    pub(crate) fn bare<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.optional_prefix()).unwrap_or(name)
    }

    /// The name of the tensor `name` in `file`, with or without the optional prefix.
    pub(crate) fn stored<'n>(&self, name: &'n str, file: &dyn TensorSource) -> &'n str {
        let bare = self.bare(name);
        if !file.contains(name) && file.contains(bare) { bare } else { name }
    }

    /// Whether the tensor is determined by the configuration: rotary frequencies, causal masks.
    pub(crate) fn is_buffer(&self, name: &str) -> bool {
        if self.kind == FileKind::Gguf {
            return ROPE_TENSORS.contains(&name);
        }
        let (blocks, of_block, of_model): (_, &[_], &[_]) = match self.family {
            Family::Gpt2 => ("h.", &["attn.bias", "attn.masked_bias"], &[]),
            Family::GptNeoX => (
                "layers.",
                &["attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"],
                &["rotary_emb.inv_freq"],
            ),
            _ => ("layers.", &["self_attn.rotary_emb.inv_freq"], &["rotary_emb.inv_freq"]),
        };
        let bare = self.bare(name);
        let Some((layer, rest)) = bare.strip_prefix(blocks).and_then(|rest| rest.split_once('.')) else {
            return of_model.contains(&bare);
        };
        layer.parse::<usize>().is_ok_and(|layer| layer < self.config.layers) && of_block.contains(&rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_interleaved_heads_are_put_apart() {
        // Two heads of four features: in the file the pairs (0, 1) and (2, 3) are adjacent.
        let slot = TensorSlot {
            orientation: Orientation::Interleaved { heads: 2 },
            ..TensorSlot::vector("blk.0.attn_q.bias".into(), "blocks.0.attn.qkv.bias".into(), 8)
        };
        let in_file: Vec<f32> = (0..8u8).map(f32::from).collect();
        let (mut param, mut again) = ([0.0; 8], [0.0; 8]);
        slot.to_param(&in_file, &mut param);
        assert_eq!(param, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        slot.to_file(&param, &mut again);
        assert_eq!(again, in_file[..]);
    }
}
