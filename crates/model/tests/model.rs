//! Models as folders: what is saved is loaded again, bit for bit, and what does not fit is refused by name.

#[path = "model/corpus.rs"]
mod corpus;
#[path = "model/damaged.rs"]
mod damaged;
#[path = "model/files.rs"]
mod files;
#[path = "model/formats.rs"]
mod formats;
#[path = "model/hostile.rs"]
mod hostile;
#[path = "model/seeds.rs"]
mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use smallmind_checkpoint::{CONFIG_FILE, CheckpointError, TensorData, TensorFile, TensorWriter, WEIGHTS_FILE};
use smallmind_graph::op::Gelu;
use smallmind_kernels::Format;
use smallmind_model::{
    Biases, ConfigError, Head, LoadOptions, Mlp, Model, ModelConfig, ModelError, ModelFiles, NormKind, NormPlacement,
    PackedModel, Positions, QkNorm, Residual, RopeConfig, Session, SessionOptions,
};
use smallmind_simd::IsaKind;

fn gpt2() -> ModelConfig {
    ModelConfig {
        vocab_size: 31,
        context: 12,
        d_model: 16,
        layers: 2,
        heads: 4,
        kv_heads: 4,
        head_dim: 4,
        d_ff: 40,
        positions: Positions::Learned,
        norm: NormKind::LayerNorm { bias: true },
        mlp: Mlp::Gelu(Gelu::Tanh),
        biases: Biases::ALL,
        head: Head::Tied,
        ..ModelConfig::default()
    }
}

/// A GPT-2 without biases.
fn bare_gpt2() -> ModelConfig {
    ModelConfig { norm: NormKind::LayerNorm { bias: false }, biases: Biases::NONE, ..gpt2() }
}

fn llama() -> ModelConfig {
    ModelConfig {
        vocab_size: 31,
        context: 12,
        d_model: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        d_ff: 40,
        ..ModelConfig::default()
    }
}

fn qwen2() -> ModelConfig {
    ModelConfig { biases: Biases::QKV, ..llama() }
}

fn rotated(dim: usize) -> Positions {
    Positions::Rope(RopeConfig { dim: Some(dim), ..RopeConfig::default() })
}

/// Norms of heads, and of whole rows with the other norms behind attention and MLP.
fn qk_norms() -> [ModelConfig; 2] {
    let rows = ModelConfig { qk_norm: Some(QkNorm::Rows), norm_placement: NormPlacement::After, ..llama() };
    [ModelConfig { qk_norm: Some(QkNorm::Heads), ..llama() }, rows]
}

/// Fused tensors: Phi-3's one below the other, GPT-NeoX's head by head; and StableLM's norms.
fn parts_of_heads() -> [ModelConfig; 3] {
    let residual = Residual::Parallel { shared_norm: false };
    let neox = ModelConfig { positions: rotated(2), residual, head: Head::Untied, ..gpt2() };
    let norm = NormKind::LayerNorm { bias: true };
    let residual = Residual::Parallel { shared_norm: true };
    let stablelm = ModelConfig { positions: rotated(2), norm, residual, head_dim: 4, ..llama() };
    [ModelConfig { positions: rotated(4), ..llama() }, neox, stablelm]
}

/// A gated GELU, a scaled embedding, and norms that files hold less 1.
fn gemma() -> ModelConfig {
    ModelConfig { mlp: Mlp::GeGlu(Gelu::Tanh), embedding_scale: Some(4.0), head: Head::Tied, ..llama() }
}

/// One of each kind, and the smallest there are.
fn shapes() -> Vec<ModelConfig> {
    let one = |config: ModelConfig| ModelConfig {
        vocab_size: 1,
        context: 1,
        d_model: 1,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: if config.positions == Positions::Learned { 1 } else { 2 },
        d_ff: 1,
        ..config
    };
    let bare = ModelConfig { head: Head::Untied, ..bare_gpt2() };
    let qwen = ModelConfig { head: Head::Tied, ..qwen2() };
    let mut all = vec![gpt2(), bare.clone(), llama(), qwen.clone(), one(gpt2()), one(bare), one(llama()), one(qwen)];
    all.extend(qk_norms());
    all.extend(qk_norms().map(one));
    all.extend(parts_of_heads());
    all.push(gemma());
    all
}

/// A model in which no two weights are alike, biases and norms included.
fn distinct(config: ModelConfig) -> Model {
    let mut model = Model::random(config, 5).unwrap();
    let layout = model.layout().clone();
    let ranges: Vec<_> = model.params().iter().map(|(id, spec)| (layout.offset(id), spec.len())).collect();
    let mut next = 0.0;
    for (start, len) in ranges {
        for weight in &mut model.weights_mut()[start..start + len] {
            next += 1.0 / 1024.0;
            *weight = next;
        }
    }
    model
}

#[test]
fn what_is_saved_is_loaded() {
    for config in shapes() {
        let dir = tempfile::tempdir().unwrap();
        let model = distinct(config);
        model.save(dir.path()).unwrap();
        let loaded = Model::load(dir.path()).unwrap();
        assert_eq!(loaded.config(), model.config());
        assert!(loaded.weights() == model.weights(), "{:?}", model.config());
        // The tensors by their names are those of the file.
        let file = TensorFile::open(dir.path().join(WEIGHTS_FILE)).unwrap();
        for (name, shape, expected) in model.named_tensors(model.weights()).unwrap() {
            assert_eq!(file.info(&name).unwrap().shape, shape, "{name}");
            let mut data = vec![f32::NAN; expected.len()];
            file.read_f32(&name, &mut data).unwrap();
            // Gemma's files hold the scales of norms less 1.
            if model.config().model_type().unwrap().starts_with("gemma") && name.ends_with("norm.weight") {
                data.iter_mut().for_each(|w| *w += 1.0);
            }
            assert!(data == expected, "{name}");
        }
        assert!(model.try_clone().unwrap().weights() == model.weights());
    }
}

/// A model that is packed as it is read gives the logits of one that is packed afterwards, in every format.
#[test]
fn what_is_read_packed_is_what_is_packed() {
    for config in shapes() {
        let dir = folder(config.clone());
        distinct(config.clone()).save(dir.path()).unwrap();
        let open = ModelFiles::open(dir.path()).unwrap();
        for format in Format::ALL {
            let isa = IsaKind::best();
            let read = PackedModel::from_files(&open, LoadOptions::default(), isa, Some(format)).unwrap();
            let packed = Model::load(dir.path()).unwrap().pack_as(isa, format).unwrap();
            assert_eq!((read.config(), read.storage()), (packed.config(), packed.storage()));
            let logits = |model: PackedModel| {
                let tokens: Vec<u32> = (0..config.vocab_size as u32).take(config.context).collect();
                let mut session = Session::new(Arc::new(model), SessionOptions::single(config.context, 1)).unwrap();
                let sequence = session.open().unwrap();
                session.append(sequence, &tokens).unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            assert_eq!(logits(read), logits(packed), "{format}, {config:?}");
        }
    }
}

#[test]
fn what_a_format_can_not_hold_is_named_when_it_is_read() {
    let dir = folder(llama());
    rewrite(dir.path(), |tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.0 == "model.layers.1.self_attn.k_proj.weight").unwrap();
        tensor.2[3] = 1e6;
    });
    let open = ModelFiles::open(dir.path()).unwrap();
    let error = PackedModel::from_files(&open, LoadOptions::default(), IsaKind::best(), Some(Format::F16)).unwrap_err();
    // Behind the 24 rows of queries.
    let at = 24 * 16 + 3;
    let want = format!("`blocks.1.attn.qkv.weight`: element {at} is 1000000, which f16 can't hold");
    assert!(error.to_string().starts_with(&want), "{error}");
}

#[test]
fn a_gpt2_without_biases_has_zeros_for_other_tools() {
    let dir = tempfile::tempdir().unwrap();
    distinct(bare_gpt2()).save(dir.path()).unwrap();
    let file = TensorFile::open(dir.path().join(WEIGHTS_FILE)).unwrap();
    let biases: Vec<_> = file.tensors().filter(|t| t.name.ends_with(".bias")).collect();
    assert_eq!(biases.len(), 13);
    for bias in biases {
        let mut data = vec![f32::NAN; bias.elements()];
        file.read_f32(&bias.name, &mut data).unwrap();
        assert!(data.iter().all(|x| *x == 0.0), "{}", bias.name);
    }
}

#[test]
fn features_have_their_parameters_and_no_others() {
    for flags in 0..32 {
        let on = |bit: usize| flags >> bit & 1 == 1;
        let biases = Biases { qkv: on(0), attn_out: on(1), mlp: on(2) };
        let norm = NormKind::LayerNorm { bias: on(3) };
        let (mlp, up) = if on(4) { (Mlp::SwiGlu, "mlp.gate_up") } else { (Mlp::Gelu(Gelu::Exact), "mlp.up") };
        let positions = if on(4) { Positions::Learned } else { llama().positions };
        let config = ModelConfig { layers: 1, biases, norm, mlp, positions, ..llama() };
        let model = Model::random(config, 1).unwrap();
        let mut expected =
            vec![("embed.tokens".to_owned(), false), ("norm".to_owned(), on(3)), ("head".to_owned(), false)];
        expected.extend(on(4).then(|| ("embed.positions".to_owned(), false)));
        for (part, bias) in [
            ("attn.norm", on(3)),
            ("attn.qkv", on(0)),
            ("attn.out", on(1)),
            ("mlp.norm", on(3)),
            (up, on(2)),
            ("mlp.down", on(2)),
        ] {
            expected.push((format!("blocks.0.{part}"), bias));
        }
        let expected: BTreeSet<String> = expected
            .into_iter()
            .flat_map(|(part, bias)| [Some(format!("{part}.weight")), bias.then(|| format!("{part}.bias"))])
            .flatten()
            .collect();
        let found: BTreeSet<String> = model.params().iter().map(|(_, spec)| spec.name.clone()).collect();
        assert_eq!(found, expected, "{:?}", model.config());
    }
}

#[test]
fn random_weights_are_what_they_should_be() {
    let config = ModelConfig { d_model: 64, head_dim: 16, d_ff: 256, vocab_size: 500, ..gpt2() };
    let model = Model::random(config.clone(), 1337).unwrap();
    let residual = 0.02 / 2.0; // of two layers: √(2 · 2)
    for (id, spec) in model.params().iter() {
        let values = model.param(id);
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
        let deviation =
            (values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        let expected = match spec.name.as_str() {
            name if name.ends_with("bias") => (0.0, 0.0),
            name if name.contains("norm.") => (1.0, 0.0),
            name if name.ends_with("attn.out.weight") || name.ends_with("mlp.down.weight") => (0.0, residual),
            _ => (0.0, 0.02),
        };
        let n = (values.len() as f64).sqrt();
        assert!((mean - expected.0).abs() <= 5.0 * expected.1 / n, "{}: mean {mean}", spec.name);
        assert!((deviation - expected.1).abs() <= 4.0 * expected.1 / n, "{}: deviation {deviation}", spec.name);
    }
    // The seed decides, and nothing else; parameters differ from each other.
    assert!(model.weights() == Model::random(config.clone(), 1337).unwrap().weights());
    assert!(model.weights() != Model::random(config, 1338).unwrap().weights());
    let first = |name: &str| model.param(model.params().find(name).unwrap())[..64].to_vec();
    assert_ne!(first("blocks.0.attn.qkv.weight"), first("blocks.1.attn.qkv.weight"));
}

/// The folder of a model, to be damaged.
fn folder(config: ModelConfig) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    distinct(config).save(dir.path()).unwrap();
    dir
}

/// The tensors of a folder, written again as `change` leaves them.
fn rewrite(dir: &Path, change: impl Fn(&mut Vec<(String, Vec<usize>, Vec<f32>)>)) {
    let model = Model::load(dir).unwrap();
    let mut tensors = model.named_tensors(model.weights()).unwrap();
    change(&mut tensors);
    let mut writer = TensorWriter::new();
    for (name, shape, data) in &tensors {
        writer.add(name, shape, TensorData::F32(data)).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    fs::write(dir.join(WEIGHTS_FILE), bytes).unwrap();
}

fn edit_config(dir: &Path, key: &str, value: Value) {
    let path = dir.join(CONFIG_FILE);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let shape = |change: &dyn Fn(&Path)| {
        let dir = folder(gpt2());
        change(dir.path());
        match Model::load(dir.path()).unwrap_err() {
            ModelError::TensorShape { name, got, expected, path } => {
                assert!(path.starts_with(dir.path()));
                (name, got, expected)
            }
            other => panic!("{other}"),
        }
    };
    let found = shape(&|dir| edit_config(dir, "n_embd", json!(20)));
    assert_eq!(found, ("transformer.wte.weight".into(), vec![31, 16], vec![31, 20]));
    let found = shape(&|dir| edit_config(dir, "n_positions", json!(13)));
    assert_eq!(found, ("transformer.wpe.weight".into(), vec![12, 16], vec![13, 16]));
    let found = shape(&|dir| edit_config(dir, "n_inner", json!(41)));
    assert_eq!(found, ("transformer.h.0.mlp.c_fc.weight".into(), vec![16, 40], vec![16, 41]));
    // Of as many elements, but turned.
    let found = shape(&|dir| {
        rewrite(dir, |tensors| {
            let tensor = tensors.iter_mut().find(|t| t.0.ends_with("h.1.mlp.c_proj.weight")).unwrap();
            tensor.1.reverse();
        });
    });
    assert_eq!(found, ("transformer.h.1.mlp.c_proj.weight".into(), vec![16, 40], vec![40, 16]));

    let missing = folder(gpt2());
    edit_config(missing.path(), "n_layer", json!(3));
    let error = Model::load(missing.path()).unwrap_err();
    assert!(matches!(error, ModelError::Checkpoint(_)) && error.to_string().contains("transformer.h.2."), "{error}");
    let renamed = folder(llama());
    rewrite(renamed.path(), |tensors| tensors[3].0.insert(0, 'x'));
    let error = Model::load(renamed.path()).unwrap_err();
    assert!(error.to_string().contains("model."), "{error}");
}

#[test]
fn numbers_that_are_none_are_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for config in [gpt2(), llama()] {
            let dir = folder(config);
            rewrite(dir.path(), |tensors| {
                let last = tensors.last_mut().unwrap();
                *last.2.last_mut().unwrap() = bad;
            });
            let error = Model::load(dir.path()).unwrap_err();
            let ModelError::Checkpoint(inner) = &error else { panic!("{error}") };
            assert!(inner.is_bad_file(), "{error}");
            let message = error.to_string();
            assert!(
                message.contains(WEIGHTS_FILE) && message.contains(".weight") || message.contains(".bias"),
                "{message}"
            );
        }
    }
}

#[test]
fn files_without_the_prefix_are_the_same_model() {
    for config in [gpt2(), llama()] {
        let dir = folder(config);
        let before = Model::load(dir.path()).unwrap();
        rewrite(dir.path(), |tensors| {
            for (name, ..) in tensors {
                for prefix in ["transformer.", "model."] {
                    if let Some(bare) = name.strip_prefix(prefix) {
                        *name = bare.to_owned();
                        break;
                    }
                }
            }
        });
        assert!(Model::load(dir.path()).unwrap().weights() == before.weights());
    }
}

#[test]
fn a_folder_that_is_no_model() {
    let dir = folder(gpt2());
    let copy = |without: &str| {
        let other = tempfile::tempdir().unwrap();
        for file in [CONFIG_FILE, WEIGHTS_FILE] {
            if file != without {
                fs::copy(dir.path().join(file), other.path().join(file)).unwrap();
            }
        }
        other
    };
    for without in [CONFIG_FILE, WEIGHTS_FILE] {
        let error = Model::load(copy(without).path()).unwrap_err();
        assert!(matches!(error, ModelError::Checkpoint(_)) && error.to_string().contains(without), "{error}");
    }
    let broken = copy("");
    fs::write(broken.path().join(CONFIG_FILE), b"{\"model_type\": \"gpt2\",").unwrap();
    let error = Model::load(broken.path()).unwrap_err();
    assert!(matches!(error, ModelError::Checkpoint(CheckpointError::Json { .. })), "{error}");

    let odd = copy("");
    edit_config(odd.path(), "n_head", json!(3));
    let error = Model::load(odd.path()).unwrap_err();
    let ModelError::Config(ConfigError::Invalid { path, key, .. }) = &error else { panic!("{error}") };
    assert_eq!((path.as_deref(), key.as_str()), (Some(odd.path().join(CONFIG_FILE).as_path()), "n_head"));
    assert!(Model::load(dir.path().join("nowhere")).is_err());
    assert!(Model::load(dir.path().join(CONFIG_FILE)).is_err());
}

/// The most memory that this process has had, where the system tells.
fn peak_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line =
        text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    1024 * line.unwrap_or(0)
}

#[test]
fn a_vast_configuration_takes_no_time_and_no_memory() {
    // A small file of weights beside it: nothing is reserved for what the numbers promise.
    let dir = folder(gpt2());
    for (key, value) in [("vocab_size", 1 << 24), ("n_positions", 1 << 24), ("n_layer", 1000)] {
        edit_config(dir.path(), key, json!(value));
    }
    let (started, before) = (std::time::Instant::now(), peak_bytes());
    let error = Model::load(dir.path()).unwrap_err();
    assert!(started.elapsed().as_secs_f64() < 1.0, "{:?}", started.elapsed());
    assert!(error.to_string().contains("transformer.wte.weight"), "{error}");
    // Other tests run at the same time, but they are small.
    let grown = peak_bytes() - before;
    assert!(grown < 64 << 20, "{grown} bytes");
}

#[test]
fn saving_where_there_is_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let error = Model::random(gpt2(), 1).unwrap().save(dir.path().join("missing")).unwrap_err();
    assert!(matches!(&error, ModelError::Checkpoint(e) if !e.is_bad_file()), "{error}");
}

#[test]
fn the_first_parameter_that_is_not_finite() {
    let model = Model::random(gpt2(), 1).unwrap();
    assert_eq!(model.first_non_finite(model.weights()), None);
    for (id, spec) in model.params().iter() {
        for (bad, at) in [(f32::NAN, 0), (f32::INFINITY, spec.len() - 1)] {
            let mut values = model.weights().to_vec();
            values[model.layout().offset(id) + at] = bad;
            assert_eq!(model.first_non_finite(&values), Some(spec.name.as_str()));
        }
    }
}
