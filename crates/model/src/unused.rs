//! Tensors in files that a configuration does not use.

use std::collections::BTreeSet;

use smallmind_checkpoint::TensorSource;

use crate::tensor_names::TensorNames;
use crate::{Head, ModelConfig, ModelError, ModelFiles};

/// The names of the tensors that a model of `config` does not use, ordered by file and name. They belong to a model
/// that computes something else.
///
/// Tensors that change nothing are not listed: buffers that the configuration determines (rotary `inv_freq`, causal
/// masks); a tied output head that equals the token embeddings (one that differs is used, see
/// [`ModelFiles::configs`]); biases of zeros in a model without biases.
///
/// # Errors
/// Files that can't be read; [`ConfigError::NotStorable`](crate::ConfigError::NotStorable).
pub fn unused_tensors(config: &ModelConfig, files: &ModelFiles) -> Result<Vec<String>, ModelError> {
    let (names, file) = (files.names(config)?, files.weights());
    let slots = names.slots();
    let used: BTreeSet<&str> = slots.iter().map(|slot| names.stored(&slot.name, file)).collect();
    let mut unused = Vec::new();
    for name in files.tensor_names() {
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
fn is_zero_bias(names: &TensorNames<'_>, name: &str, file: &dyn TensorSource) -> Result<bool, ModelError> {
    let zeros = names.zeros();
    let info = file.tensor(name)?;
    let Some(zero) = zeros.iter().find(|zero| names.bare(&zero.name) == names.bare(name)) else { return Ok(false) };
    if info.shape != [zero.len] || !info.format.is_float() {
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
pub(crate) fn has_second_head(config: &ModelConfig, file: &dyn TensorSource) -> Result<bool, ModelError> {
    let names = TensorNames::in_file(config, file)?;
    let has_head = config.head == Head::Tied && file.contains(names.output_head());
    Ok(has_head && !is_tied_head(&names, config, names.output_head(), file)?)
}

/// Whether it is an output head that equals the token embeddings of a tied model.
fn is_tied_head(
    names: &TensorNames<'_>,
    config: &ModelConfig,
    name: &str,
    file: &dyn TensorSource,
) -> Result<bool, ModelError> {
    if config.head != Head::Tied || name != names.output_head() {
        return Ok(false);
    }
    let embedding = names.stored(names.embedding(), file);
    let (head, table) = (file.tensor(name)?, file.tensor(embedding)?);
    Ok(head.shape == table.shape
        && head.format == table.format
        && file.read_bytes(name)? == file.read_bytes(embedding)?)
}
