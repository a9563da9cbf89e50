//! Tensors of a file that a configuration has no use for.

use std::collections::BTreeSet;

use smallmind_checkpoint::Weights;

use crate::{Family, Head, ModelConfig, ModelError, architecture};

/// The file's name for the output head.
const OUTPUT_HEAD: &str = "lm_head.weight";

/// The name under which a file has a tensor: with or without the architecture's prefix.
pub(crate) fn stored_name<'n>(name: &'n str, prefix: &str, file: &Weights) -> &'n str {
    match name.strip_prefix(prefix) {
        Some(bare) if !file.contains(name) && file.contains(bare) => bare,
        _ => name,
    }
}

/// The names of the tensors that a model of `config` does not use, in the order of the files and their names. A model that is read
/// without them computes something else than the one that they belong to.
///
/// Left out are those that change nothing: buffers that follow from the configuration (rotary `inv_freq`, causal masks), an output head
/// that equals the token embeddings where `tie_word_embeddings` makes them one (one that differs is used, see
/// [`ModelConfig::from_folder`]), and biases that are all zero where the configuration says that there are none.
///
/// # Errors
/// Files that can't be read.
pub fn unused_tensors(config: &ModelConfig, file: &Weights) -> Result<Vec<String>, ModelError> {
    let prefix = architecture::optional_prefix(config);
    let slots = architecture::tensor_slots(config);
    let used: BTreeSet<&str> = slots.iter().map(|slot| stored_name(&slot.name, prefix, file)).collect();
    let mut unused = Vec::new();
    // Of shards all tensors, also those that the index leaves out: other programs read them.
    for info in file.shards().iter().flat_map(smallmind_checkpoint::TensorFile::tensors) {
        let name = info.name.as_str();
        if used.contains(name) || is_buffer(config, name.strip_prefix(prefix).unwrap_or(name)) {
            continue;
        }
        if !(file.contains(name) && (is_zero_bias(config, name, file)? || is_tied_head(config, name, file)?)) {
            unused.push(name.to_owned());
        }
    }
    Ok(unused)
}

/// Whether the tensor, whose name stands here without the prefix, holds what follows from the configuration.
fn is_buffer(config: &ModelConfig, name: &str) -> bool {
    let (blocks, buffers): (&str, &[&str]) = match config.family {
        Family::Gpt2 => ("h.", &["attn.bias", "attn.masked_bias"]),
        Family::Llama | Family::Qwen2 => ("layers.", &["self_attn.rotary_emb.inv_freq"]),
    };
    if config.family != Family::Gpt2 && name == "rotary_emb.inv_freq" {
        return true;
    }
    let Some((layer, rest)) = name.strip_prefix(blocks).and_then(|rest| rest.split_once('.')) else { return false };
    layer.parse::<usize>().is_ok_and(|layer| layer < config.layers) && buffers.contains(&rest)
}

/// Whether it is one of the biases that a GPT-2 without biases is written with, and still zero.
fn is_zero_bias(config: &ModelConfig, name: &str, file: &Weights) -> Result<bool, ModelError> {
    let prefix = architecture::optional_prefix(config);
    let zeros = architecture::zero_tensors(config);
    let info = file.info(name)?;
    let is = |zero: &architecture::ZeroTensor| zero.name == name || zero.name.strip_prefix(prefix) == Some(name);
    let Some(zero) = zeros.iter().find(|zero| is(zero)) else { return Ok(false) };
    if info.shape != [zero.len] || !info.dtype.is_float() {
        return Ok(false);
    }
    let mut values = vec![0.0; zero.len];
    file.read_f32(name, &mut values)?;
    Ok(values.iter().all(|value| *value == 0.0))
}

/// Whether the file has an output head of its own although the configuration ties it to the token embeddings. transformers 5 uses it then.
///
/// # Errors
/// Files that can't be read.
pub(crate) fn has_second_head(config: &ModelConfig, file: &Weights) -> Result<bool, ModelError> {
    let has_head = config.head == Head::Tied && file.contains(OUTPUT_HEAD);
    Ok(has_head && !is_tied_head(config, OUTPUT_HEAD, file)?)
}

/// Whether it is an output head that equals the token embeddings, of which a tied model's is made.
fn is_tied_head(config: &ModelConfig, name: &str, file: &Weights) -> Result<bool, ModelError> {
    if config.head != Head::Tied || name != OUTPUT_HEAD {
        return Ok(false);
    }
    let embedding = stored_name(architecture::embedding_name(config), architecture::optional_prefix(config), file);
    let (head, table) = (file.info(name)?, file.info(embedding)?);
    Ok(head.shape == table.shape
        && head.dtype == table.dtype
        && file.read_bytes(name)? == file.read_bytes(embedding)?)
}
