//! Tensors in files that a configuration does not use.

use std::collections::BTreeSet;

use smallmind_checkpoint::WeightFiles;

use crate::tensor_names::TensorNames;
use crate::{Head, ModelConfig, ModelError};

/// The names of the tensors that a model of `config` does not use, ordered by file and name. They belong to a model
/// that computes something else.
///
/// Tensors that change nothing are not listed: buffers that the configuration determines (rotary `inv_freq`, causal
/// masks); a tied output head that equals the token embeddings (one that differs is used, see
/// [`ModelConfig::from_folder`]); biases of zeros in a model without biases.
///
/// # Errors
/// Files that can't be read; [`ConfigError::NotStorable`](crate::ConfigError::NotStorable).
pub fn unused_tensors(config: &ModelConfig, file: &WeightFiles) -> Result<Vec<String>, ModelError> {
    let names = TensorNames::in_file(config, file)?;
    let slots = names.slots();
    let used: BTreeSet<&str> = slots.iter().map(|slot| names.stored(&slot.name, file)).collect();
    let mut unused = Vec::new();
    // All tensors of the shards, including those that the index leaves out, since other programs read them.
    for info in file.shards().iter().flat_map(smallmind_checkpoint::TensorFile::tensors) {
        let name = info.name.as_str();
        if used.contains(name) || names.is_buffer(name) {
            continue;
        }
        if !(file.contains(name) && (is_zero_bias(&names, name, file)? || is_tied_head(&names, config, name, file)?)) {
            unused.push(name.to_owned());
        }
    }
    Ok(unused)
}

/// Whether the tensor is a bias of zeros, which GPT-2 files without biases have for other tools.
fn is_zero_bias(names: &TensorNames<'_>, name: &str, file: &WeightFiles) -> Result<bool, ModelError> {
    let zeros = names.zeros();
    let info = file.info(name)?;
    let Some(zero) = zeros.iter().find(|zero| names.bare(&zero.name) == names.bare(name)) else { return Ok(false) };
    if info.shape != [zero.len] || !info.dtype.is_float() {
        return Ok(false);
    }
    let mut values = vec![0.0; zero.len];
    file.read_f32(name, &mut values)?;
    Ok(values.iter().all(|value| *value == 0.0))
}

/// Whether the file has an output head that differs from the token embeddings, although the configuration ties them. It
/// is used then, as in transformers 5.
///
/// # Errors
/// Files that can't be read; [`ConfigError::NotStorable`](crate::ConfigError::NotStorable).
pub(crate) fn has_second_head(config: &ModelConfig, file: &WeightFiles) -> Result<bool, ModelError> {
    let names = TensorNames::in_file(config, file)?;
    let has_head = config.head == Head::Tied && file.contains(names.output_head());
    Ok(has_head && !is_tied_head(&names, config, names.output_head(), file)?)
}

/// Whether it is an output head that equals the token embeddings of a tied model.
fn is_tied_head(
    names: &TensorNames<'_>,
    config: &ModelConfig,
    name: &str,
    file: &WeightFiles,
) -> Result<bool, ModelError> {
    if config.head != Head::Tied || name != names.output_head() {
        return Ok(false);
    }
    let embedding = names.stored(names.embedding(), file);
    let (head, table) = (file.info(name)?, file.info(embedding)?);
    Ok(head.shape == table.shape
        && head.dtype == table.dtype
        && file.read_bytes(name)? == file.read_bytes(embedding)?)
}
