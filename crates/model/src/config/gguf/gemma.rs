//! What Gemma 2 and Gemma 3 have in GGUF files: windows in some layers, soft caps, a factor of scores that the number of
//! layers implies.

use smallmind_checkpoint::{CheckpointError, GgufValue};
use smallmind_graph::op::RopeScaling;

use super::{Keys, Set};
use crate::config::gemma::{self, LOCAL_THETA, by_layer, rotations};
use crate::{AttentionWindows, ConfigError, Family, Head, ModelConfig, ModelError, Positions, RopeConfig};

/// Each of how many layers has no window, where no key says it.
fn usual_period(family: Family) -> usize {
    if family == Family::Gemma2 { 2 } else { 6 }
}

/// The factor of scores that llama.cpp takes: that of the 27B models, which it knows by their number of layers, is
/// 1/√(d_model / heads).
fn scale(family: Family, [layers, d_model, heads, head_dim]: [usize; 4]) -> Option<f32> {
    let is_27b = layers == if family == Family::Gemma2 { 46 } else { 62 };
    if is_27b { gemma::scale(d_model / heads.max(1), head_dim) } else { None }
}

/// The features that these families have besides those of all.
pub(super) fn with_own_keys(keys: &Keys<'_>, config: ModelConfig) -> Result<ModelConfig, ModelError> {
    let (family, c) = (keys.family, &config);
    let cap = |key: &str, default: f32| {
        let default = if family == Family::Gemma2 { default } else { 0.0 };
        Ok::<_, CheckpointError>(Some(keys.or(key, default)?).filter(|cap| *cap != 0.0))
    };
    let windows = windows(keys, c.layers)?;
    let positions = match (&c.positions, family) {
        (Positions::Rope(rope), Family::Gemma3) => positions(keys, rope, c.layers, &windows)?,
        (positions, _) => positions.clone(),
    };
    Ok(ModelConfig {
        positions,
        attention_scale: scale(family, [c.layers, c.d_model, c.heads, c.head_dim]),
        attention_softcap: cap("attn_logit_softcapping", 50.0)?,
        logit_softcap: cap("final_logit_softcapping", 30.0)?,
        attention_windows: windows,
        ..config
    })
}

fn windows(keys: &Keys<'_>, layers: usize) -> Result<AttentionWindows, ModelError> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    super::super::check::layers(layers).map_err(|error| keys.in_terms_of(error))?;
    let given = keys.optional::<usize>("attention.sliding_window")?;
    let window = given.or((keys.family == Family::Gemma2).then_some(4096)).filter(|window| *window > 0);
    let local: Vec<bool> = if matches!(keys.metadata().get(&keys.key(PATTERN)), Some(GgufValue::Array(_))) {
        keys.required(PATTERN)?
    } else {
        let period = keys.or(PATTERN, usual_period(keys.family))?;
        (1..=layers).map(|layer| period == 0 || !layer.is_multiple_of(period)).collect()
    };
    if local.len() != layers {
        let why = format!("the model has {layers} layers");
        return Err(keys.invalid(PATTERN, format!("{} layers", local.len()), why));
    }
    Ok(window.map_or(AttentionWindows::None, |window| AttentionWindows::of_layers(window, &local)))
}

/// The rotation `global` of a Gemma 3 in layers without a window, and that of layers with one.
fn positions(
    keys: &Keys<'_>,
    global: &RopeConfig,
    layers: usize,
    windows: &AttentionWindows,
) -> Result<Positions, ModelError> {
    let theta = f64::from(keys.or("rope.freq_base_swa", LOCAL_THETA as f32)?);
    if !matches!(global.scaling, None | Some(RopeScaling::Linear { .. })) {
        let why = "none and linear are supported with windows in some layers";
        return Err(keys.invalid("rope.scaling.type", "another kind", why));
    }
    let local = RopeConfig { theta, scaling: None, ..global.clone() };
    Ok(by_layer(global.clone(), local, layers, windows))
}

/// Sets the keys that only these families have.
pub(super) fn write(c: &ModelConfig, family: Family, set: &mut Set<'_>) -> Result<(), CheckpointError> {
    if let AttentionWindows::All(window) | AttentionWindows::Pattern { window, .. } = &c.attention_windows {
        // Below 2^24: see `ModelConfig::check`.
        set("attention.sliding_window", GgufValue::U32(*window as u32))?;
    }
    for (key, cap) in [("attn_logit_softcapping", c.attention_softcap), ("final_logit_softcapping", c.logit_softcap)] {
        cap.map_or(Ok(()), |cap| set(key, GgufValue::F32(cap)))?;
    }
    if let (Family::Gemma3, Some((_, local))) = (family, rotations(c)) {
        set("rope.freq_base_swa", GgufValue::F32(local.theta as f32))?;
    }
    Ok(())
}

/// Refuses what files of these architectures can't express for llama.cpp, which knows neither other patterns of windows
/// nor other factors of scores.
pub(super) fn check(c: &ModelConfig, family: Family) -> Result<(), ConfigError> {
    let refuse = |key, got: String, takes: &str| {
        let takes = format!("{takes} in a GGUF file");
        Err(ConfigError::NotStorable { key, got, model_type: family.architecture(), takes })
    };
    let period = usual_period(family);
    let has_usual = |layer: usize| c.attention_windows.of(layer).is_some() != (layer + 1).is_multiple_of(period);
    let none = family == Family::Gemma3 && c.attention_windows == AttentionWindows::None;
    if !none && !(0..c.layers).all(has_usual) {
        let takes = format!("a window in all layers but each of {period}");
        return refuse("attention_windows", format!("{:?}", c.attention_windows), &takes);
    }
    let sizes = [c.layers, c.d_model, c.heads, c.head_dim];
    if gemma::scalar(c).and_then(|n| gemma::scale(n, c.head_dim)) != scale(family, sizes) {
        let usual = scale(family, sizes).map_or("1/√head_dim".to_owned(), |scale| scale.to_string());
        return refuse("attention_scale", format!("{:?}", c.attention_scale), &usual);
    }
    if family == Family::Gemma2 {
        for (key, cap) in [("attention_softcap", c.attention_softcap), ("logit_softcap", c.logit_softcap)] {
            if cap.is_none() {
                return refuse(key, "None".to_owned(), "a number");
            }
        }
        if c.head == Head::Untied {
            return refuse("head", "Untied".to_owned(), "Tied");
        }
    }
    if c.biases.qkv || c.biases.attn_out {
        return refuse("biases", format!("{:?}", c.biases), "no bias");
    }
    let rope = rotations(c).and_then(|(global, _)| global.scaling.as_ref());
    if !matches!(rope, None | Some(RopeScaling::Linear { .. })) {
        return refuse("rope_scaling", format!("{rope:?}"), "none or linear");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use smallmind_checkpoint::{GgmlType, GgufData, GgufFile, GgufTensor, GgufWriter, TensorSource};
    use smallmind_graph::op::Gelu;

    use super::*;
    use crate::chat::ChatTemplates;
    use crate::config::gguf;
    use crate::export::{ExportOptions, GgufExport, WeightMix};
    use crate::{LoadOptions, Mlp, Model, ModelFiles, NormPlacement, QkNorm, UnknownKeys};

    fn gemma2(layers: usize) -> ModelConfig {
        ModelConfig {
            vocab_size: 3,
            context: 64,
            d_model: 16,
            layers,
            heads: 4,
            kv_heads: 2,
            head_dim: 6,
            d_ff: 8,
            attention_softcap: Some(40.0),
            logit_softcap: Some(20.0),
            attention_windows: AttentionWindows::of_layers(7, &[true, false].repeat(layers)),
            norm_placement: NormPlacement::BeforeAndAfter,
            embedding_scale: Some(4.0),
            mlp: Mlp::GeGlu(Gelu::Tanh),
            head: Head::Tied,
            ..ModelConfig::default()
        }
    }

    fn gemma3(layers: usize) -> ModelConfig {
        let windows = AttentionWindows::of_layers(7, &[true, true, true, true, true, false].repeat(layers));
        let linear = Some(RopeScaling::Linear { factor: 8.0 });
        let global = RopeConfig { theta: 1e6, dim: None, scaling: linear };
        let local = RopeConfig { theta: 100.0, dim: None, scaling: None };
        ModelConfig {
            positions: by_layer(global, local, layers, &windows),
            attention_windows: windows,
            attention_softcap: None,
            logit_softcap: None,
            qk_norm: Some(QkNorm::Heads),
            ..gemma2(layers)
        }
    }

    /// What is read of the keys that `change` leaves.
    fn read_again(c: &ModelConfig, family: Family, more: &[(&str, GgufValue)]) -> Result<ModelConfig, ModelError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let mut writer = GgufWriter::new();
        gguf::write(c, family, &mut writer)?;
        for (key, value) in more {
            writer.set(&format!("{}.{key}", family.architecture()), value.clone())?;
        }
        let embeddings = vec![0.0; c.vocab_size * c.d_model];
        writer.add("token_embd.weight", &[c.vocab_size, c.d_model], GgufData::F32(&embeddings))?;
        writer.write_file(&path)?;
        Ok(gguf::read(&GgufFile::open(&path)?, UnknownKeys::Refuse)?.0)
    }

    #[test]
    fn keys_are_read_as_they_were_written() {
        // 46 and 62 layers are those of the 27B models, with another factor of scores.
        for (layers, scale) in [(4, None), (46, gemma::scale(4, 6))] {
            let config = ModelConfig { attention_scale: scale, ..gemma2(layers) };
            assert_eq!(read_again(&config, Family::Gemma2, &[]).unwrap(), config);
        }
        for (layers, scale) in [(7, None), (62, gemma::scale(4, 6))] {
            let config = ModelConfig { attention_scale: scale, ..gemma3(layers) };
            assert_eq!(read_again(&config, Family::Gemma3, &[]).unwrap(), config);
        }
        let (positions, attention_windows) = (Positions::Rope(RopeConfig::default()), AttentionWindows::None);
        let global = ModelConfig { positions, attention_windows, ..gemma3(7) };
        assert_eq!(read_again(&global, Family::Gemma3, &[]).unwrap(), global);
        // Another pattern, as newer files state it.
        let pattern = ("attention.sliding_window_pattern", GgufValue::U32(3));
        let every_third = read_again(&gemma3(7), Family::Gemma3, &[pattern]).unwrap();
        assert_eq!(every_third.attention_windows, AttentionWindows::of_layers(7, &[true, true, false].repeat(3)));
    }

    #[test]
    fn what_llama_cpp_does_not_know_is_not_written() {
        let refused = |config: &ModelConfig, family| match check(config, family).unwrap_err() {
            ConfigError::NotStorable { key, .. } => key,
            other => panic!("{other}"),
        };
        let all = AttentionWindows::All(7);
        for (config, family, named) in [
            (ModelConfig { attention_windows: all, ..gemma2(4) }, Family::Gemma2, "attention_windows"),
            (ModelConfig { attention_softcap: None, ..gemma2(4) }, Family::Gemma2, "attention_softcap"),
            (ModelConfig { logit_softcap: None, ..gemma2(4) }, Family::Gemma2, "logit_softcap"),
            (ModelConfig { head: Head::Untied, ..gemma2(4) }, Family::Gemma2, "head"),
            (ModelConfig { attention_scale: Some(0.5), ..gemma2(4) }, Family::Gemma2, "attention_scale"),
            (gemma3(62), Family::Gemma3, "attention_scale"),
            (ModelConfig { biases: crate::Biases::QKV, ..gemma3(7) }, Family::Gemma3, "biases"),
        ] {
            assert_eq!(refused(&config, family), named);
        }
    }
    /// Another pattern than llama.cpp's usual one can't be written anew, and is copied.
    #[test]
    fn a_gguf_file_keeps_its_own_metadata() {
        let dir = tempfile::tempdir().unwrap();
        let write = |files: &ModelFiles, name: &str| {
            let options = ExportOptions { mix: WeightMix::F32, overrides: vec![], importance: None, threads: 1 };
            let export = GgufExport::new(files, LoadOptions::default(), options).unwrap();
            let mut bytes = Vec::new();
            export.write(name, None, &ChatTemplates::new(), &mut bytes, &|_| {}).unwrap();
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        Model::random(gemma3(7), 1).unwrap().save(dir.path()).unwrap();
        let usual = write(&ModelFiles::open(dir.path()).unwrap(), "usual.gguf");
        let usual = GgufFile::open(usual).unwrap();
        let mut writer = GgufWriter::new();
        for (key, value) in usual.metadata().iter() {
            writer.set(key, value.clone()).unwrap();
        }
        writer.set("gemma3.attention.sliding_window_pattern", GgufValue::U32(3)).unwrap();
        let read = |tensor: &GgufTensor| (tensor.name.clone(), tensor.shape.clone(), usual.read_bytes(&tensor.name));
        let tensors: Vec<_> = usual.tensors().map(read).collect();
        for (name, shape, bytes) in &tensors {
            writer.add(name, shape, GgufData::Stored(GgmlType::F32, bytes.as_ref().unwrap())).unwrap();
        }
        let other = dir.path().join("other.gguf");
        writer.write_file(&other).unwrap();
        let other = ModelFiles::open(other).unwrap();
        let (config, _) = other.configs(UnknownKeys::Refuse).unwrap();
        assert!(check(&config, Family::Gemma3).is_err());
        let again = ModelFiles::open(write(&other, "again.gguf")).unwrap();
        assert_eq!(again.configs(UnknownKeys::Refuse).unwrap().0, config);
    }
}
