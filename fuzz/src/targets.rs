//! What each fuzz target does with an input: what a user does with such a file, as far as it can be read.
//!
//! A function must not panic, take more than a second, or take more memory than its input and 64 MiB. The ordinary tests
//! of `smallmind-model` include this file and walk the corpus through it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use smallmind_checkpoint::{CONFIG_FILE, GgufFile, ModelFolder, TensorSource, WEIGHTS_FILE, parse_json};
use smallmind_model::chat::{ChatInput, ChatTemplate, ChatTemplates, CivilTime, Json};
use smallmind_model::export::ImportanceMatrix;
use smallmind_model::tokenizer::{SpecialText, SpecialTokens, Tokenizer};
use smallmind_model::{
    GenerationConfig, LoadOptions, Model, ModelConfig, ModelFiles, PackedModel, Session, SessionOptions, UnknownKeys,
    UnusedTensors, architecture,
};
use smallmind_simd::IsaKind;

/// A target's function. The folder is empty or holds the files of an earlier input of the same target.
pub type Target = fn(&[u8], &Path);

/// All targets by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("tokenizer", tokenizer),
    ("config", config),
    ("template", template),
    ("imatrix", imatrix),
];

/// A GGUF file: its tensors, its tokenizer, its chat template, and the model.
pub fn gguf(input: &[u8], folder: &Path) {
    let path = folder.join("model.gguf");
    write(&path, input);
    let Ok(file) = GgufFile::open(&path) else { return };
    read_tensors(&file, file.tensors().map(|tensor| tensor.name.as_str()));
    if let Ok(tokenizer) = Tokenizer::from_gguf(file.metadata()) {
        encode_and_decode(&tokenizer);
    }
    let files = ModelFiles::Gguf(file);
    if let Ok(template) = ChatTemplates::of_files(&files).and_then(|templates| templates.choose(None, false)) {
        render(&template);
    }
    load(&files);
}

/// A `config.json`, a zero byte, and the `model.safetensors` beside it. Without a zero byte all of it is the weights.
pub fn safetensors(input: &[u8], folder: &Path) {
    let (config, weights) = match input.iter().position(|byte| *byte == 0) {
        Some(at) if input[..at].starts_with(b"{") => (&input[..at], &input[at + 1..]),
        _ => (&b"{\"model_type\":\"gpt2\"}"[..], input),
    };
    write(&folder.join(WEIGHTS_FILE), weights);
    write(&folder.join(CONFIG_FILE), config);
    let Ok(folder) = ModelFolder::open(folder) else { return };
    read_tensors(folder.weights(), folder.weights().tensors().map(|tensor| tensor.name.as_str()));
    load(&ModelFiles::Folder(folder));
}

/// A `tokenizer.json`: text to ids and back.
pub fn tokenizer(input: &[u8], _: &Path) {
    if let Ok(tokenizer) = Tokenizer::from_bytes(input) {
        encode_and_decode(&tokenizer);
        let _ = tokenizer.to_json();
    }
}

/// A `config.json`: the configuration, what it says about generating text, and the parameters of its model.
pub fn config(input: &[u8], _: &Path) {
    let Ok(value) = parse_json(Path::new(CONFIG_FILE), input) else { return };
    let _ = ModelConfig::unknown_keys(&value);
    let _ = ModelConfig::from_json(&value);
    let Ok(config) = ModelConfig::from_json_with(&value, UnknownKeys::Allow) else { return };
    let _ = GenerationConfig::from_json(&value, config.vocab_size);
    if config.check().is_ok() {
        let _ = architecture::params(&config);
        let _ = config.to_json();
    }
}

/// A chat template: the prompts of a conversation without functions and with one.
pub fn template(input: &[u8], _: &Path) {
    let Ok(source) = str::from_utf8(input) else { return };
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, token)| (name.into(), token.into()));
    if let Ok(template) = ChatTemplate::new("the input", source, tokens.into()) {
        render(&template);
    }
}

/// An importance matrix, which is read and written.
pub fn imatrix(input: &[u8], folder: &Path) {
    let path = folder.join("imatrix.gguf");
    write(&path, input);
    if let Ok(matrix) = ImportanceMatrix::open(&path) {
        matrix.write(&["text".to_owned()], (1, 512), &mut Vec::new()).expect("what was read can be written");
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("the folder of the fuzzer can be written");
}

/// Reads the bytes of every tensor, and its numbers where it is of floats.
fn read_tensors<'t>(source: &dyn TensorSource, names: impl Iterator<Item = &'t str>) {
    for name in names {
        let tensor = source.tensor(name).expect("a listed tensor can be found");
        let mut bytes = vec![0; usize::try_from(tensor.bytes).expect("no longer than the file")];
        source.read_at(name, 0, &mut bytes).expect("its bytes are in the file");
        let elements = tensor.elements();
        if elements <= bytes.len() {
            let _ = source.read_finite_f32(name, &mut vec![0.0; elements]);
        }
    }
}

/// Loads the model in both ways, refusing what is unknown and allowing it, and runs some tokens.
fn load(files: &ModelFiles) {
    let allow = LoadOptions { unknown_keys: UnknownKeys::Allow, unused_tensors: UnusedTensors::Allow };
    let _ = files.unknown_keys();
    let _ = Model::from_files(files, LoadOptions::default());
    if let Ok(model) = PackedModel::from_files(files, allow, IsaKind::best(), None) {
        let context = model.config().context.min(8);
        let largest = model.config().vocab_size as u32 - 1;
        if let Ok(mut session) = Session::new(Arc::new(model), SessionOptions::single(context, 1)) {
            let sequence = session.open().expect("the first sequence");
            let _ = session
                .append(sequence, &[0, largest, largest / 2, 1.min(largest)][..context.min(4)])
                .map(<[f32]>::len);
        }
    }
}

/// Texts of several scripts, with special tokens, blanks and control characters.
const TEXTS: [&str; 4] = [
    "",
    "Hello, world! It's 12,345.67 \u{2581}of <s>[INST]\n\n\tthem</s><|endoftext|>",
    "  Grüße naïve \u{0301}\u{0}\u{200d}\u{fffd} 中文字 مرحبا ไทย 👩‍👩‍👧 \r\n ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
];

fn encode_and_decode(tokenizer: &Tokenizer) {
    for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
        for text in TEXTS {
            let Ok(ids) = tokenizer.encode(text, special) else { continue };
            let ids = tokenizer.completed(&ids);
            let _ = tokenizer.decode(&ids, SpecialText::Skip);
            let _ = tokenizer.decode(&ids, SpecialText::Show);
        }
    }
    let last = u32::try_from(tokenizer.vocab_size()).expect("ids are u32");
    for id in (0..=last.min(64)).chain([last.saturating_sub(1), u32::MAX]) {
        let _ = tokenizer.decode(&[id], SpecialText::Show);
        let _ = tokenizer.token_bytes(id);
    }
}

fn render(template: &ChatTemplate) {
    let tools = [Json::parse(r#"{"type":"function","function":{"name":"f","parameters":{"a":[1,2.5,null]}}}"#)
        .expect("it is JSON")];
    let messages = [
        Json::message("system", "Be brief."),
        Json::message("user", "Hello <s> {{ 1 }}!\n"),
        Json::message("assistant", "<think>\nHm.\n</think>\n\nHi."),
        Json::message("user", "And \"you\"?"),
    ];
    let variables = [("enable_thinking".to_owned(), Json::Bool(true))];
    for tools in [None, Some(&tools[..])] {
        let input = ChatInput {
            messages: &messages,
            tools,
            add_generation_prompt: true,
            variables: &variables,
            now: Some(CivilTime::from_unix(1_700_000_000, 0)),
            ..ChatInput::default()
        };
        let _ = template.render(&input);
    }
}
