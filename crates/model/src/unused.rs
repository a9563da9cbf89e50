//! Tensors in files that a configuration does not use.

use std::collections::BTreeSet;

use smallmind_checkpoint::TensorSource;

use crate::tensor_names::TensorNames;
use crate::{Head, ModelConfig, ModelError, ModelFiles};

/// The names of the tensors that a model of `config`, which was read from `files`, does not use, ordered by file and
/// name. They belong to a model that computes something else.
///
/// Tensors that change nothing are not listed: buffers that the configuration determines (rotary `inv_freq`, causal
/// masks); an output head where `config` has a tied one, since [`ModelFiles::configs`] has found it to equal the token
/// embeddings; biases of zeros in a model without biases.
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
        if !(file.contains(name) && (is_tied_head(&names, config, name) || is_zero_bias(&names, name, file)?)) {
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
    let head = names.output_head();
    if config.head != Head::Tied || !file.contains(head) {
        return Ok(false);
    }
    Ok(!is_equal(head, names.stored(names.embedding(), file), file)?)
}

/// Whether a tensor would be the output head of a tied model.
fn is_tied_head(names: &TensorNames<'_>, config: &ModelConfig, name: &str) -> bool {
    config.head == Head::Tied && name == names.output_head()
}

/// Bytes of a tensor that are compared at once.
const PIECE: usize = 1 << 20;

/// Whether two tensors have the same shape, format and bytes.
fn is_equal(one: &str, other: &str, file: &dyn TensorSource) -> Result<bool, ModelError> {
    let (first, second) = (file.tensor(one)?, file.tensor(other)?);
    if first.shape != second.shape || first.format != second.format {
        return Ok(false);
    }
    let mut bytes = [vec![0; PIECE.min(first.bytes as usize)], vec![0; PIECE.min(first.bytes as usize)]];
    for at in (0..first.bytes).step_by(PIECE) {
        let len = (first.bytes - at).min(PIECE as u64) as usize;
        for (name, bytes) in [one, other].into_iter().zip(&mut bytes) {
            file.read_at(name, at, &mut bytes[..len])?;
        }
        if bytes[0][..len] != bytes[1][..len] {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use smallmind_checkpoint::{TensorData, TensorWriter, WeightFiles, write_file_atomic};

    use super::*;

    #[test]
    fn tensors_are_compared_to_their_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let len = PIECE / 4 + 3;
        let tensors = [0, len - 1, len].map(|change| {
            let mut values = vec![1.0f32; len];
            if let Some(value) = values.get_mut(change) {
                *value = 2.0;
            }
            values
        });
        let mut writer = TensorWriter::new();
        for (name, values) in ["first", "last", "none"].into_iter().zip(&tensors) {
            writer.add(name, &[len], TensorData::F32(values)).unwrap();
        }
        writer.add("again", &[len], TensorData::F32(&tensors[2])).unwrap();
        writer.add("shape", &[1, len], TensorData::F32(&tensors[2])).unwrap();
        write_file_atomic(&path, |out| writer.write_to(out)).unwrap();
        let file = WeightFiles::open_file(&path).unwrap();
        for (name, equal) in [("first", false), ("last", false), ("none", true), ("again", true), ("shape", false)] {
            assert_eq!(is_equal("none", name, &file).unwrap(), equal, "{name}");
        }
    }
}
