//! Weights in files that are not all f32: mixtures of experts, and what a file with several formats is written as.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use smallmind_checkpoint::{Dtype, TensorData, TensorWriter, WEIGHTS_FILE};
use smallmind_kernels::Format;
use smallmind_model::chat::ChatTemplates;
use smallmind_model::export::{ExportOptions, GgufExport, WeightMix};
use smallmind_model::{
    ExpertsConfig, LoadOptions, Model, ModelConfig, ModelError, ModelFiles, OverrideFault, PackedModel, Session,
    SessionOptions, UnknownKeys,
};
use smallmind_simd::IsaKind;

use super::llama;

/// A Mixtral.
fn experts(d_ff: usize) -> ModelConfig {
    ModelConfig { experts: Some(ExpertsConfig { count: 5, per_token: 2, sums_to_one: true }), d_ff, ..llama() }
}

/// Random weights that F16 and BF16 hold exactly.
fn short(config: ModelConfig) -> Model {
    let mut model = Model::random(config, 3).unwrap();
    model.weights_mut().iter_mut().for_each(|weight| *weight = (*weight * 256.0).round() / 256.0);
    model
}

/// The model in a folder, each tensor in the format that `dtype` gives.
fn folder(model: &Model, dtype: impl Fn(&str) -> Dtype) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let tensors = model.named_tensors(model.weights()).unwrap();
    let mut writer = TensorWriter::new();
    for (name, shape, values) in &tensors {
        let data = match dtype(name) {
            Dtype::F16 => TensorData::F16(values),
            Dtype::Bf16 => TensorData::Bf16(values),
            _ => TensorData::F32(values),
        };
        writer.add(name, shape, data).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    fs::write(dir.path().join(WEIGHTS_FILE), bytes).unwrap();
    dir
}

fn options(mix: WeightMix, overrides: &[(&str, Format)]) -> ExportOptions<'static> {
    let overrides = overrides.iter().map(|(part, format)| ((*part).to_owned(), *format)).collect();
    ExportOptions { mix, overrides, importance: None, threads: 1 }
}

/// The bits of the logits after several tokens at once and after single ones.
fn logits(model: PackedModel) -> Vec<u32> {
    let mut session = Session::new(Arc::new(model), SessionOptions::single(12, 2)).unwrap();
    let sequence = session.open().unwrap();
    let texts: [&[u32]; 3] = [&[3, 1, 4, 1, 5, 9], &[2], &[6]];
    texts.iter().flat_map(|tokens| session.append(sequence, tokens).unwrap().to_vec()).map(f32::to_bits).collect()
}

fn packed(path: &Path) -> PackedModel {
    let files = ModelFiles::open(path).unwrap();
    PackedModel::from_files(&files, LoadOptions::default(), IsaKind::best(), None).unwrap()
}

#[test]
fn experts_in_half_precision_are_those_of_flat_rows() {
    // Whole strips of the gates and ups of an expert, and not.
    for d_ff in [32, 16, 12, 40] {
        let model = short(experts(d_ff));
        for (mix, format) in [(WeightMix::F16, Format::F16), (WeightMix::BF16, Format::Bf16)] {
            let dir = folder(&model, |_| Dtype::F32);
            let path = dir.path().join("model.gguf");
            let files = ModelFiles::open(dir.path()).unwrap();
            let export = GgufExport::new(&files, LoadOptions::default(), options(mix, &[])).unwrap();
            export.write("m", None, &ChatTemplates::new(), &mut fs::File::create(&path).unwrap(), &|_| {}).unwrap();
            let of_file = packed(&path);
            let id = model.params().find("blocks.0.mlp.experts.gate_up.weight").unwrap();
            assert_eq!(of_file.storage().get(id).formats(), [format], "{d_ff}");
            let flat = Model::load(&path).unwrap();
            assert_eq!(flat.weights(), model.weights(), "{mix}, {d_ff}");
            // Products of f16 are those of its numbers in f32; those of bf16 may round activations.
            let expected = if format == Format::F16 { Format::F32 } else { format };
            let expected = logits(flat.pack_as(IsaKind::best(), expected).unwrap());
            assert_eq!(logits(of_file), expected, "{mix}, {d_ff}");
        }
    }
}

#[test]
fn experts_of_several_formats_are_read() {
    let model = short(experts(16));
    let expected = logits(model.try_clone().unwrap().pack(IsaKind::best()).unwrap());
    let of_gates = |name: &str| if name.contains(".w1.") { Dtype::F16 } else { Dtype::F32 };
    let of_expert = |name: &str| if name.contains("experts.2.") { Dtype::Bf16 } else { Dtype::F16 };
    for dir in [folder(&model, of_gates), folder(&model, of_expert)] {
        assert_eq!(logits(packed(dir.path())), expected);
    }
}

/// Norms and routers are always F32 in a GGUF file, so they say nothing about the format of the others.
#[test]
fn products_decide_what_a_model_is_written_as() {
    let of_norms = |half: Dtype| {
        move |name: &str| if name.ends_with("norm.weight") || name.contains(".gate.") { Dtype::F32 } else { half }
    };
    let mix = |dir: &tempfile::TempDir| {
        let files = ModelFiles::open(dir.path()).unwrap();
        let (config, _) = files.configs(UnknownKeys::Refuse).unwrap();
        WeightMix::of_files(&files, &config).unwrap()
    };
    let model = short(experts(16));
    assert_eq!(mix(&folder(&model, of_norms(Dtype::F16))), WeightMix::F16);
    assert_eq!(mix(&folder(&model, of_norms(Dtype::Bf16))), WeightMix::BF16);
    assert_eq!(mix(&folder(&model, |_| Dtype::F16)), WeightMix::F16);
    assert_eq!(mix(&folder(&model, |_| Dtype::F32)), WeightMix::F32);
    let one = |name: &str| if name.contains("experts.2.w1") { Dtype::F32 } else { Dtype::F16 };
    assert_eq!(mix(&folder(&model, one)), WeightMix::F32);
}

#[test]
fn a_format_that_changes_no_tensor_is_refused() {
    let dir = folder(&short(llama()), |_| Dtype::F32);
    let files = ModelFiles::open(dir.path()).unwrap();
    let fault = |overrides: &[(&str, Format)]| match GgufExport::new(
        &files,
        LoadOptions::default(),
        options(WeightMix::Q8_0, overrides),
    ) {
        Err(ModelError::Override { part, fault }) => Some((part, fault)),
        other => {
            other.unwrap();
            None
        }
    };
    let (half, brain) = (Format::F16, Format::Bf16);
    assert_eq!(fault(&[("ffn_down", half), ("blk.1", brain)]), None);
    assert_eq!(fault(&[("nothing", half)]), Some(("nothing".to_owned(), OverrideFault::NoTensor)));
    let tensor = "blk.0.ffn_norm.weight".to_owned();
    assert_eq!(fault(&[("ffn_norm", half)]), Some(("ffn_norm".to_owned(), OverrideFault::StaysF32 { tensor })));
    let covered = fault(&[("ffn_down", half), ("ffn", brain)]);
    assert_eq!(covered, Some(("ffn_down".to_owned(), OverrideFault::Overridden)));
}
