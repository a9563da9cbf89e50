//! Hostile files whose bytes are in order, as GGUF models and importance matrices: each is refused by name, quickly and
//! in little memory.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use smallmind_checkpoint::{GgmlType, GgufArray, GgufData, GgufStrings, GgufValue, GgufWriter};
use smallmind_model::chat::ChatTemplates;
use smallmind_model::export::{ExportOptions, GgufExport, ImportanceMatrix, WeightMix};
use smallmind_model::tokenizer::Tokenizer;
use smallmind_model::{ErrorClass, LoadOptions, Model, ModelError, ModelFiles, PackedModel};
use smallmind_simd::IsaKind;

use super::peak_bytes;

/// The time that a hostile file may take.
const LONGEST: Duration = Duration::from_secs(1);
/// The memory that a hostile file may take besides its size.
const SPARE: u64 = 64 << 20;

/// A GGUF file in parts, each of which a case may get wrong.
pub struct Parts {
    keys: Vec<(String, GgufValue)>,
    tensors: Vec<Tensor>,
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    ggml_type: GgmlType,
    bytes: Vec<u8>,
}

const F16: u32 = 1;
const Q8_0: u32 = 8;
const I8: u32 = 24;
const BF16: u32 = 30;

fn ggml_type(number: u32) -> GgmlType {
    GgmlType::from_number(number).unwrap()
}

fn strings(list: &[&str]) -> GgufValue {
    GgufValue::Array(GgufArray::Strings(GgufStrings::from_iter(list)))
}

fn text(text: &str) -> GgufValue {
    GgufValue::String(text.into())
}

/// A LLaMA of two layers with a vocabulary of SentencePiece's kind.
pub fn llama() -> Parts {
    let mut parts = Parts { keys: vec![], tensors: vec![] };
    parts.set("general.architecture", text("llama"));
    for (key, value) in [
        ("context_length", 16),
        ("embedding_length", 8),
        ("block_count", 2),
        ("feed_forward_length", 12),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("rope.dimension_count", 4),
    ] {
        parts.size(key, value);
    }
    parts.factor("attention.layer_norm_rms_epsilon", 1e-5);
    parts.factor("rope.freq_base", 1e4);
    for (key, value) in [
        ("model", text("llama")),
        ("tokens", strings(&["<unk>", "<s>", "</s>", "▁", "a", "b", "<0x0A>"])),
        ("scores", GgufValue::Array(GgufArray::F32(vec![0.0; 7]))),
        ("token_type", GgufValue::Array(GgufArray::I32(vec![2, 3, 3, 1, 1, 1, 6]))),
        ("bos_token_id", GgufValue::U32(1)),
        ("eos_token_id", GgufValue::U32(2)),
    ] {
        parts.set(&format!("tokenizer.ggml.{key}"), value);
    }
    parts.add("token_embd.weight", &[7, 8]);
    for layer in 0..2 {
        for (name, shape) in [
            ("attn_norm", &[8][..]),
            ("attn_q", &[8, 8]),
            ("attn_k", &[4, 8]),
            ("attn_v", &[4, 8]),
            ("attn_output", &[8, 8]),
            ("ffn_norm", &[8]),
            ("ffn_gate", &[12, 8]),
            ("ffn_up", &[12, 8]),
            ("ffn_down", &[8, 12]),
        ] {
            parts.add(&format!("blk.{layer}.{name}.weight"), shape);
        }
    }
    parts.add("output_norm.weight", &[8]);
    parts
}

/// An importance matrix of two tensors.
pub fn imatrix() -> Parts {
    let mut parts = Parts { keys: vec![], tensors: vec![] };
    parts.set("general.type", text("imatrix"));
    for name in ["blk.0.attn_q.weight", "blk.0.ffn_down.weight"] {
        parts.add(&format!("{name}.in_sum2"), &[1, 8]);
        parts.add(&format!("{name}.counts"), &[1, 1]);
    }
    parts
}

impl Parts {
    fn set(&mut self, key: &str, value: GgufValue) {
        self.remove(key);
        self.keys.push((key.to_owned(), value));
    }

    fn remove(&mut self, key: &str) {
        self.keys.retain(|(of, _)| of != key);
    }

    /// Sets a key of the architecture to a whole number.
    fn size(&mut self, key: &str, value: u32) {
        self.set(&format!("llama.{key}"), GgufValue::U32(value));
    }

    /// Sets a key of the architecture to a number with a point.
    fn factor(&mut self, key: &str, value: f32) {
        self.set(&format!("llama.{key}"), GgufValue::F32(value));
    }

    /// Adds a tensor of `f32` in ascending order.
    fn add(&mut self, name: &str, shape: &[usize]) {
        let bytes = (0..shape.iter().product::<usize>()).flat_map(|i| (i as f32 / 64.0).to_le_bytes()).collect();
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), ggml_type: ggml_type(0), bytes });
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// Sets an element of a tensor of `f32`.
    fn element(&mut self, name: &str, at: usize, value: f32) {
        self.tensor(name).bytes[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Stores a tensor as bytes of another type.
    fn stored(&mut self, name: &str, number: u32, bytes: Vec<u8>) {
        let tensor = self.tensor(name);
        (tensor.ggml_type, tensor.bytes) = (ggml_type(number), bytes);
    }

    fn shape(&mut self, name: &str, shape: &[usize]) {
        let at = self.tensors.iter().position(|tensor| tensor.name == name).unwrap();
        self.tensors.remove(at);
        self.add(name, shape);
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.keys {
            writer.set(key, value.clone()).unwrap();
        }
        for Tensor { name, shape, ggml_type, bytes } in &self.tensors {
            writer.add(name, shape, GgufData::Stored(*ggml_type, bytes)).unwrap();
        }
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes).unwrap();
        bytes
    }
}

/// What the message about a file says, and what is wrong with the file.
type Case = (&'static str, fn(&mut Parts));

/// Checks that each file is refused as a bad one, in the words of its case, in the time and memory that a hostile file
/// may take. `open` answers message and class of the error.
fn refused(base: fn() -> Parts, open: fn(&Path) -> (String, ErrorClass), cases: &[Case]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let before = peak_bytes();
    for (number, (said, change)) in cases.iter().enumerate() {
        let mut parts = base();
        change(&mut parts);
        fs::write(&path, parts.bytes()).unwrap();
        let start = Instant::now();
        let (message, class) = open(&path);
        assert!(start.elapsed() < LONGEST, "case {number}: {:?} for {message}", start.elapsed());
        assert!(message.contains(said), "case {number}: {message:?} does not say {said:?}");
        assert_eq!(class, ErrorClass::BadFile, "case {number}: {message}");
        assert!(message.len() < 900, "case {number}: {} bytes of message", message.len());
    }
    // Other tests run at the same time, but they are small.
    let grown = peak_bytes().saturating_sub(before);
    assert!(grown < SPARE, "{grown} bytes");
}

/// Opens a model and its tokenizer, which fit each other.
fn open(path: &Path) -> Result<Model, ModelError> {
    let files = ModelFiles::open(path)?;
    let model = Model::from_files(&files, LoadOptions::default())?;
    let tokenizer = Tokenizer::from_file(path)?.vocab_size();
    let vocabulary = model.config().vocab_size;
    if tokenizer > vocabulary {
        return Err(ModelError::Vocabulary { tokenizer, model: vocabulary });
    }
    Ok(model)
}

fn model_error(path: &Path) -> (String, ErrorClass) {
    let error = open(path).expect_err("has to be refused");
    // A model whose weights keep their formats is read in another way, with the same checks.
    if !matches!(error, ModelError::Tokenizer(_) | ModelError::Vocabulary { .. }) {
        let files = ModelFiles::open(path).unwrap();
        let packed = PackedModel::from_files(&files, LoadOptions::default(), IsaKind::best(), None);
        assert_eq!(packed.expect_err("has to be refused").to_string(), error.to_string());
    }
    (error.to_string(), error.class())
}

#[test]
fn the_good_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, llama().bytes()).unwrap();
    let model = open(&path).unwrap();
    assert_eq!((model.config().layers, model.config().vocab_size, model.config().kv_heads), (2, 7, 1));
    fs::write(&path, imatrix().bytes()).unwrap();
    ImportanceMatrix::open(&path).unwrap();
}

#[test]
fn kinds_of_files_and_sizes() {
    let cases: &[Case] = &[
        ("metadata key \"general.architecture\": the key is missing", |p| p.remove("general.architecture")),
        (", metadata key \"general.architecture\": the value is mamba: supported are", |p| {
            p.set("general.architecture", text("mamba"));
        }),
        ("\"general.architecture\": the value is of type u32", |p| p.set("general.architecture", GgufValue::U32(1))),
        ("\"general.type\": the value is adapter: a file of the type `model`", |p| {
            p.set("general.type", text("adapter"));
        }),
        ("\"llama.block_count\": the key is missing", |p| p.remove("llama.block_count")),
        ("\"llama.block_count\": the value is 0: it must lie between 1", |p| p.size("block_count", 0)),
        ("\"llama.block_count\": the value is 1025: it must lie between 1 and 1024", |p| p.size("block_count", 1025)),
        ("\"llama.block_count\": the value is 4294967295", |p| p.size("block_count", u32::MAX)),
        ("\"llama.block_count\": the value is 18446744073709551615", |p| {
            p.set("llama.block_count", GgufValue::U64(u64::MAX));
        }),
        ("\"llama.block_count\": the value -1 does not fit", |p| p.set("llama.block_count", GgufValue::I32(-1))),
        ("\"llama.block_count\": the value is of type f32", |p| p.factor("block_count", 2.0)),
        ("\"blk.2.attn_norm.weight\"", |p| p.size("block_count", 3)),
        ("`blk.1.attn_norm.weight`", |p| p.size("block_count", 1)),
        ("\"llama.embedding_length\": the key is missing", |p| p.remove("llama.embedding_length")),
        ("\"llama.embedding_length\": the value is 0", |p| {
            p.size("embedding_length", 0);
            p.size("attention.key_length", 4);
        }),
        ("\"llama.embedding_length\": the value is 16777217: it must lie between 1 and 16777216", |p| {
            p.size("embedding_length", (1 << 24) + 1);
            p.size("attention.key_length", 4);
        }),
        ("\"llama.embedding_length\": the value is 16777216: with it the model has", |p| {
            p.size("embedding_length", 1 << 24);
            p.size("feed_forward_length", 1 << 24);
            p.size("attention.key_length", 4);
        }),
        ("`token_embd.weight` has the shape [7, 8], but the configuration asks for [7, 16]", |p| {
            p.size("embedding_length", 16);
            p.size("attention.key_length", 4);
        }),
        ("\"llama.context_length\": the value is 0", |p| p.size("context_length", 0)),
        ("\"llama.context_length\": the value is 4294967295", |p| p.size("context_length", u32::MAX)),
        ("\"llama.context_length\": the key is missing", |p| p.remove("llama.context_length")),
        ("\"llama.feed_forward_length\": the value is 0", |p| p.size("feed_forward_length", 0)),
        ("`blk.0.ffn_gate.weight` has the shape [12, 8]", |p| p.size("feed_forward_length", 13)),
        ("\"llama.feed_forward_length\": the value is [12, 13]: the same number in all layers", |p| {
            p.set("llama.feed_forward_length", GgufValue::Array(GgufArray::U32(vec![12, 13])));
        }),
        ("\"llama.feed_forward_length\": the value is []: the same number in all layers", |p| {
            p.set("llama.feed_forward_length", GgufValue::Array(GgufArray::U32(vec![])));
        }),
        ("\"llama.vocab_size\": the value is 8: only 7 is supported", |p| p.size("vocab_size", 8)),
        ("the key `llama.mystery` is not known", |p| p.size("mystery", 8)),
    ];
    refused(llama, model_error, cases);
}

#[test]
fn heads_positions_and_factors() {
    let cases: &[Case] = &[
        ("\"llama.attention.head_count\": the value is 0: the heads must divide the width 8", |p| {
            p.size("attention.head_count", 0);
        }),
        ("\"llama.attention.head_count\": the value is 0: it must lie between 1", |p| {
            p.size("attention.head_count", 0);
            p.size("attention.key_length", 4);
        }),
        ("\"llama.attention.head_count\": the value is 3: the heads must divide", |p| {
            p.size("attention.head_count", 3)
        }),
        ("\"llama.attention.head_count\": the key is missing", |p| p.remove("llama.attention.head_count")),
        ("\"llama.attention.head_count_kv\": the value is 0", |p| p.size("attention.head_count_kv", 0)),
        ("\"llama.attention.head_count_kv\": the value is 3: it must divide the number of query heads, 2", |p| {
            p.size("attention.head_count_kv", 3);
        }),
        ("\"llama.attention.head_count_kv\": the value is [1, 2]: the same number in all layers", |p| {
            p.set("llama.attention.head_count_kv", GgufValue::Array(GgufArray::U32(vec![1, 2])));
        }),
        ("\"llama.attention.head_count_kv\": the value is 4294967295", |p| p.size("attention.head_count_kv", u32::MAX)),
        ("\"llama.attention.key_length\": the value is 0", |p| {
            p.size("attention.key_length", 0);
            p.remove("llama.rope.dimension_count");
        }),
        ("\"llama.attention.key_length\": the value is 5: an even number", |p| {
            p.size("attention.key_length", 5);
            p.remove("llama.rope.dimension_count");
        }),
        ("`llama.attention.key_length` = 1: an even number", |p| {
            p.size("attention.head_count", 8);
            p.remove("llama.rope.dimension_count");
        }),
        ("\"llama.attention.value_length\": the value is 8: only 4 is supported", |p| {
            p.size("attention.value_length", 8);
        }),
        ("\"llama.rope.dimension_count\": the value is 0", |p| p.size("rope.dimension_count", 0)),
        ("\"llama.rope.dimension_count\": the value is 3", |p| p.size("rope.dimension_count", 3)),
        ("\"llama.rope.dimension_count\": the value is 2: all 4 features", |p| p.size("rope.dimension_count", 2)),
        ("\"llama.rope.dimension_count\": the value is 6: an even number of a head's 4", |p| {
            p.size("rope.dimension_count", 6);
        }),
        ("\"llama.rope.freq_base\": the value is 0: it must be finite and positive", |p| {
            p.factor("rope.freq_base", 0.0)
        }),
        ("\"llama.rope.freq_base\": the value is NaN", |p| p.factor("rope.freq_base", f32::NAN)),
        ("\"llama.rope.freq_base\": the value is -10000", |p| p.factor("rope.freq_base", -1e4)),
        ("\"llama.rope.freq_base\": the value is inf", |p| p.factor("rope.freq_base", f32::INFINITY)),
        ("\"llama.rope.scaling.type\": the value is spiral: none, linear", |p| {
            p.set("llama.rope.scaling.type", text("spiral"));
        }),
        ("\"llama.rope.scaling.type\": the value is longrope: the file has no tensors", |p| {
            p.set("llama.rope.scaling.type", text("longrope"));
        }),
        ("\"llama.rope.scaling.factor\": the value is NaN", |p| p.factor("rope.scaling.factor", f32::NAN)),
        ("\"llama.rope.scaling.factor\": the value is -8", |p| p.factor("rope.scaling.factor", -8.0)),
        ("\"llama.rope.scaling.attn_factor\": the value is NaN", |p| {
            p.factor("rope.scaling.factor", 2.0);
            p.factor("rope.scaling.attn_factor", f32::NAN);
        }),
        ("\"llama.rope.scaling.yarn_beta_fast\": the value is 0", |p| {
            p.set("llama.rope.scaling.type", text("yarn"));
            p.factor("rope.scaling.factor", 2.0);
            p.factor("rope.scaling.yarn_beta_fast", 0.0);
        }),
        ("\"llama.rope.scaling.original_context_length\": the value is 0", |p| {
            p.set("llama.rope.scaling.type", text("yarn"));
            p.factor("rope.scaling.factor", 2.0);
            p.size("rope.scaling.original_context_length", 0);
        }),
        ("\"llama.attention.layer_norm_rms_epsilon\": the value is NaN", |p| {
            p.factor("attention.layer_norm_rms_epsilon", f32::NAN);
        }),
        ("\"llama.attention.layer_norm_rms_epsilon\": the value is 0", |p| {
            p.factor("attention.layer_norm_rms_epsilon", 0.0);
        }),
        ("\"llama.attention.layer_norm_rms_epsilon\": the value is 1", |p| {
            p.factor("attention.layer_norm_rms_epsilon", 1.0);
        }),
        ("\"llama.attention.layer_norm_rms_epsilon\": the value is of type string", |p| {
            p.set("llama.attention.layer_norm_rms_epsilon", text("1e-5"));
        }),
        ("\"llama.attention.layer_norm_rms_epsilon\": the key is missing", |p| {
            p.remove("llama.attention.layer_norm_rms_epsilon");
        }),
        ("\"llama.attention.scale\": the value is NaN", |p| p.factor("attention.scale", f32::NAN)),
        ("\"llama.final_logit_softcapping\": the value is -30", |p| p.factor("final_logit_softcapping", -30.0)),
        ("\"llama.logit_scale\": the value is inf", |p| p.factor("logit_scale", f32::INFINITY)),
        ("\"llama.attention.causal\": the value is false", |p| {
            p.set("llama.attention.causal", GgufValue::Bool(false));
        }),
        ("\"llama.expert_used_count\": the key is missing", |p| p.size("expert_count", 2)),
        ("\"llama.expert_used_count\": the value is 3: there are 2 experts", |p| {
            p.size("expert_count", 2);
            p.size("expert_used_count", 3);
        }),
        ("\"llama.expert_count\": the value is 4294967295", |p| {
            p.size("expert_count", u32::MAX);
            p.size("expert_used_count", 1);
        }),
    ];
    refused(llama, model_error, cases);
}

/// What an export does with a file: its tensors are converted, or copied where the format stays.
fn export_error(path: &Path) -> (String, ErrorClass) {
    let files = ModelFiles::open(path).unwrap();
    let options = ExportOptions { mix: WeightMix::F32, overrides: vec![], importance: None, threads: 1 };
    let export = GgufExport::new(&files, LoadOptions::default(), options).unwrap();
    let written = export.write("model", None, &ChatTemplates::new(), &mut std::io::sink(), &|_| {});
    let error = written.expect_err("has to be refused");
    (error.to_string(), error.class())
}

#[test]
fn numbers_that_are_not_finite_are_not_exported() {
    let cases: &[Case] = &[
        ("tensor \"output_norm.weight\": element 3 is NaN", |p| p.element("output_norm.weight", 3, f32::NAN)),
        ("tensor \"blk.1.attn_norm.weight\": element 0 is inf", |p| {
            p.element("blk.1.attn_norm.weight", 0, f32::INFINITY);
        }),
        ("tensor \"blk.0.attn_v.weight\": element 0 is inf", |p| {
            p.stored("blk.0.attn_v.weight", BF16, [0x80, 0x7f].repeat(32));
        }),
    ];
    refused(llama, export_error, cases);
}

#[test]
fn tensors_that_make_no_model() {
    let cases: &[Case] = &[
        ("\"token_embd.weight\"", |p| drop(p.tensors.remove(0))),
        ("\"output_norm.weight\"", |p| drop(p.tensors.pop())),
        // A table of one row.
        ("\"tokenizer.ggml.eos_token_id\": the value 2 does not fit the vocabulary", |p| {
            p.shape("token_embd.weight", &[8]);
        }),
        ("\"tokenizer.ggml.eos_token_id\": the value 2 does not fit the vocabulary", |p| {
            p.shape("token_embd.weight", &[]);
        }),
        ("`token_embd.weight` has the shape [7, 2, 4]", |p| p.shape("token_embd.weight", &[7, 2, 4])),
        ("`blk.1.attn_q.weight` has the shape [8, 4]", |p| p.shape("blk.1.attn_q.weight", &[8, 4])),
        ("`blk.1.attn_k.weight` has the shape [8, 8]", |p| p.shape("blk.1.attn_k.weight", &[8, 8])),
        ("`blk.0.attn_norm.weight` has the shape [1, 8]", |p| p.shape("blk.0.attn_norm.weight", &[1, 8])),
        ("`blk.2.attn_q.weight`", |p| p.add("blk.2.attn_q.weight", &[8, 8])),
        ("`blk.0.attn_sinks`", |p| p.add("blk.0.attn_sinks", &[8])),
        ("`rope_freqs.weight` has the shape [3]", |p| p.add("rope_freqs.weight", &[3])),
        ("rope_factors_long.weight", |p| p.add("rope_factors_short.weight", &[2])),
        ("tensor \"rope_freqs.weight\"", |p| {
            p.add("rope_freqs.weight", &[2]);
            p.element("rope_freqs.weight", 1, f32::NAN);
        }),
        ("tensor \"token_embd.weight\": element 9 is NaN", |p| p.element("token_embd.weight", 9, f32::NAN)),
        ("tensor \"blk.1.ffn_down.weight\": element 95 is inf", |p| {
            p.element("blk.1.ffn_down.weight", 95, f32::INFINITY);
        }),
        ("tensor \"blk.0.attn_q.weight\": element 1 is -inf", |p| {
            p.element("blk.0.attn_q.weight", 1, f32::NEG_INFINITY);
        }),
        ("tensor \"blk.0.attn_v.weight\": element 0 is NaN", |p| {
            p.stored("blk.0.attn_v.weight", F16, [0x00, 0x7e].repeat(32));
        }),
        ("tensor \"blk.0.attn_v.weight\": element 0 is inf", |p| {
            p.stored("blk.0.attn_v.weight", BF16, [0x80, 0x7f].repeat(32));
        }),
        // Bytes where numbers are needed.
        ("tensor \"blk.0.attn_v.weight\"", |p| p.stored("blk.0.attn_v.weight", I8, vec![1; 32])),
        // Blocks whose scale is no number.
        ("tensor \"output.weight\": element 0 is NaN", |p| {
            p.size("embedding_length", 32);
            p.size("attention.key_length", 4);
            for tensor in &mut p.tensors {
                let values = tensor.shape.iter().product::<usize>();
                let widened = |size: &mut usize| {
                    if *size == 8 {
                        *size = 32
                    }
                };
                tensor.shape.last_mut().into_iter().for_each(widened);
                if tensor.name.ends_with("attn_output.weight") || tensor.name.ends_with("ffn_down.weight") {
                    tensor.shape[0] = 32;
                    *tensor.shape.last_mut().unwrap() = if tensor.name.contains("ffn") { 12 } else { 8 };
                }
                let more = tensor.shape.iter().product::<usize>() / values;
                tensor.bytes = tensor.bytes.repeat(more);
            }
            p.add("output.weight", &[7, 32]);
            p.stored("output.weight", Q8_0, [&[0x00, 0x7e][..], &[1; 32]].concat().repeat(7));
        }),
    ];
    refused(llama, model_error, cases);
}

#[test]
fn vocabularies_and_settings_of_generation() {
    let cases: &[Case] = &[
        // A vocabulary longer than the embedding, and ids that no row belongs to.
        ("the tokenizer has 8 tokens, the model's vocabulary 7", |p| {
            p.set("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "d"]));
            p.set("tokenizer.ggml.scores", GgufValue::Array(GgufArray::F32(vec![0.0; 8])));
            p.set("tokenizer.ggml.token_type", GgufValue::Array(GgufArray::I32(vec![1; 8])));
        }),
        ("\"tokenizer.ggml.eos_token_id\": the value 7 does not fit the vocabulary", |p| {
            p.set("tokenizer.ggml.eos_token_id", GgufValue::U32(7));
        }),
        ("\"tokenizer.ggml.bos_token_id\": the value 4294967295 does not fit the vocabulary", |p| {
            p.set("tokenizer.ggml.bos_token_id", GgufValue::U32(u32::MAX));
        }),
        ("\"tokenizer.ggml.eot_token_id\": the value is of type string", |p| {
            p.set("tokenizer.ggml.eot_token_id", text("2"));
        }),
        // Shorter than a special id, though the embedding has a row for it.
        ("tokenizer.ggml.eos_token_id: the id 2 is not in the vocabulary of 2 tokens", |p| {
            p.set("tokenizer.ggml.tokens", strings(&["<unk>", "<s>"]));
        }),
        ("tokenizer.ggml.tokens: the vocabulary is empty", |p| p.set("tokenizer.ggml.tokens", strings(&[]))),
        ("tokenizer.ggml.scores: 6 scores for 7 tokens", |p| {
            p.set("tokenizer.ggml.scores", GgufValue::Array(GgufArray::F32(vec![0.0; 6])));
        }),
        ("tokenizer.ggml.scores: the score of token 3 is NaN", |p| {
            let scores = (0..7).map(|i| if i == 3 { f32::NAN } else { 0.0 }).collect();
            p.set("tokenizer.ggml.scores", GgufValue::Array(GgufArray::F32(scores)));
        }),
        ("tokenizer.ggml.token_type: 6 types for 7 tokens", |p| {
            p.set("tokenizer.ggml.token_type", GgufValue::Array(GgufArray::I32(vec![1; 6])));
        }),
        ("model.merges[0]", |p| {
            p.set("tokenizer.ggml.model", text("gpt2"));
            p.set("tokenizer.ggml.merges", strings(&["a z"]));
        }),
        ("\"tokenizer.ggml.model\": the key is missing", |p| p.remove("tokenizer.ggml.model")),
        ("\"general.sampling.temp\": the value is NaN: it must be", |p| {
            p.set("general.sampling.temp", GgufValue::F32(f32::NAN));
        }),
        ("\"general.sampling.top_p\": the value is 0: it must be", |p| {
            p.set("general.sampling.top_p", GgufValue::F32(0.0));
        }),
        ("\"general.sampling.penalty_repeat\": the value is -1: it must be", |p| {
            p.set("general.sampling.penalty_repeat", GgufValue::F32(-1.0));
        }),
        ("\"general.sampling.top_k\": the value is of type string", |p| {
            p.set("general.sampling.top_k", text("40"));
        }),
    ];
    refused(llama, model_error, cases);
}

/// Tokens that only look like single bytes are texts.
#[test]
fn tokens_that_look_like_bytes_are_texts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for token in ["<0x-1>", "<0xZZ>", "<0x100>", "<0x>"] {
        let mut parts = llama();
        parts.set("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "</s>", "▁", "a", "b", token]));
        fs::write(&path, parts.bytes()).unwrap();
        open(&path).unwrap();
        assert_eq!(Tokenizer::from_file(&path).unwrap().token_bytes(6), Some(token.as_bytes()));
    }
}

#[test]
fn templates_in_metadata() {
    fn template_error(path: &Path) -> (String, ErrorClass) {
        let files = ModelFiles::open(path).unwrap();
        let error = ChatTemplates::of_files(&files).and_then(|all| all.choose(None, false)).expect_err("it is refused");
        (error.to_string(), error.class())
    }
    let cases: &[Case] = &[
        ("\"tokenizer.chat_template\": the value is of type u32", |p| {
            p.set("tokenizer.chat_template", GgufValue::U32(1));
        }),
        ("\"tokenizer.chat_template.tool_use\": the value is of type array", |p| {
            p.set("tokenizer.chat_template.tool_use", strings(&["x"]));
        }),
        ("tokenizer.chat_template", |p| p.set("tokenizer.chat_template", text("{% for %}"))),
        ("tokenizer.chat_template", |p| p.set("tokenizer.chat_template", text("{{"))),
        ("tokenizer.chat_template", |p| p.set("tokenizer.chat_template", text(&"{% if 1 %}".repeat(50_000)))),
        ("tokenizer.chat_template", |p| {
            p.set("tokenizer.chat_template", text(&format!("{{{{ {}1 }}}}", "(".repeat(50_000))));
        }),
        ("line 1: a block has 50003 bytes of code", |p| {
            p.set("tokenizer.chat_template", text(&format!("{{{{ {}1 }}}}", "-".repeat(50_000))));
        }),
        ("line 1: the template has more than 256 tags `elif`", |p| {
            p.set("tokenizer.chat_template", text(&format!("{{% if 0 %}}{}", "{% elif 0 %}".repeat(50_000))));
        }),
        ("\"tokenizer.ggml.bos_token_id\": the value is of type string", |p| {
            p.set("tokenizer.ggml.bos_token_id", text("1"));
        }),
    ];
    refused(llama, template_error, cases);
}

#[test]
fn importance_matrices() {
    fn imatrix_error(path: &Path) -> (String, ErrorClass) {
        let error = ImportanceMatrix::open(path).expect_err("has to be refused");
        (error.to_string(), error.class())
    }
    const SUMS: &str = "blk.0.attn_q.weight.in_sum2";
    const COUNTS: &str = "blk.0.attn_q.weight.counts";
    let cases: &[Case] = &[
        ("\"general.type\": the key is missing", |p| p.remove("general.type")),
        ("`general.type` = model", |p| p.set("general.type", text("model"))),
        ("\"general.type\": the value is of type u32", |p| p.set("general.type", GgufValue::U32(1))),
        ("the file has no sums of squares", |p| p.tensors.clear()),
        ("the file has no sums of squares", |p| p.tensors.retain(|tensor| tensor.name.ends_with("counts"))),
        (COUNTS, |p| p.tensors.retain(|tensor| tensor.name != COUNTS)),
        (SUMS, |p| p.shape(COUNTS, &[2, 1])),
        (SUMS, |p| p.shape(SUMS, &[2, 8])),
        (SUMS, |p| p.shape(SUMS, &[2, 1, 8])),
        (SUMS, |p| p.element(SUMS, 3, -1.0)),
        (SUMS, |p| p.element(SUMS, 3, f32::NAN)),
        (SUMS, |p| p.element(SUMS, 3, f32::INFINITY)),
        (COUNTS, |p| p.element(COUNTS, 0, f32::NAN)),
        (SUMS, |p| p.stored(SUMS, I8, vec![1; 8])),
        (COUNTS, |p| p.stored(COUNTS, I8, vec![1])),
    ];
    refused(imatrix, imatrix_error, cases);
}
