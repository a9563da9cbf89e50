//! Small models, damaged in every place of their headers: an error of the file or another model, never a panic.

use std::fs;
use std::path::Path;

use smallmind_checkpoint::{CONFIG_FILE, WEIGHTS_FILE, parse_gguf_header};
use smallmind_model::tokenizer::{SpecialTokens, Tokenizer};
use smallmind_model::{
    ErrorClass, LoadOptions, Model, ModelConfig, ModelError, ModelFiles, UnknownKeys, UnusedTensors,
};

use super::{distinct, gpt2, hostile, llama};

/// A folder in memory where the system offers that: thousands of files are written.
pub fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// How many files `accepts` of those with one bit of the first `header` bytes flipped, and of the beginnings.
fn damaged(whole: &[u8], header: usize, mut accepts: impl FnMut(&[u8]) -> bool) -> (usize, usize) {
    let mut file = whole.to_vec();
    let mut flips = 0;
    for bit in 0..8 * header {
        file[bit / 8] ^= 1 << (bit % 8);
        flips += usize::from(accepts(&file));
        file[bit / 8] ^= 1 << (bit % 8);
    }
    (flips, (0..whole.len()).filter(|len| accepts(&whole[..*len])).count())
}

/// Loads a model in the way that refuses what is unknown. Where that fails, the way that allows it doesn't panic either,
/// and the errors are those of a bad file.
fn load(path: &Path) -> Option<Model> {
    let of_the_file = |error: ModelError| assert_eq!(error.class(), ErrorClass::BadFile, "{error}");
    let files = ModelFiles::open(path).map_err(of_the_file).ok()?;
    if let ModelFiles::Gguf(file) = &files
        && let Ok(tokenizer) = Tokenizer::from_gguf(file.metadata())
    {
        let _ = tokenizer.encode("<s>ab a\n日", SpecialTokens::Parse);
    }
    let strict = Model::from_files(&files, LoadOptions::default());
    if strict.is_err() {
        let allow = LoadOptions { unknown_keys: UnknownKeys::Allow, unused_tensors: UnusedTensors::Allow };
        Model::from_files(&files, allow).err().into_iter().for_each(of_the_file);
    }
    strict.map_err(of_the_file).ok()
}

#[test]
fn gguf_models() {
    let folder = in_memory();
    let path = folder.path().join("model.gguf");
    let whole = hostile::llama().bytes();
    let data = parse_gguf_header(&path, &whole).unwrap().tensors.iter().map(|tensor| tensor.offset).min().unwrap();
    let (flips, prefixes) = damaged(&whole, data as usize, |bytes| {
        fs::write(&path, bytes).unwrap();
        load(&path).is_some()
    });
    assert!((100..data as usize).contains(&flips), "{flips} of {} flips were accepted", 8 * data);
    // The last tensor fills its last 32 bytes.
    assert_eq!(prefixes, 0);
}

#[test]
fn safetensors_models() {
    for config in [gpt2(), llama()] {
        let sizes = ModelConfig { vocab_size: 3, context: 4, d_model: 2, layers: 1, d_ff: 2, ..config };
        let config = ModelConfig { heads: 1, kv_heads: 1, head_dim: 2, ..sizes };
        let folder = in_memory();
        let model = distinct(config);
        model.save(folder.path()).unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            (fs::read(&path).unwrap(), path)
        };
        let (weights, path) = file(WEIGHTS_FILE);
        let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        let (flips, prefixes) = damaged(&weights, header, |bytes| {
            fs::write(&path, bytes).unwrap();
            let loaded = load(folder.path());
            // No tensor is read from a wrong place.
            assert!(loaded.as_ref().is_none_or(|loaded| loaded.weights() == model.weights()));
            loaded.is_some()
        });
        assert!(flips < header, "{flips} of {} flips were accepted", 8 * header);
        assert_eq!(prefixes, 0);
        fs::write(&path, &weights).unwrap();

        let (config, path) = file(CONFIG_FILE);
        let (flips, prefixes) = damaged(&config, config.len(), |bytes| {
            fs::write(&path, bytes).unwrap();
            load(folder.path()).is_some()
        });
        assert!((10..4 * config.len()).contains(&flips), "{flips} of {} flips were accepted", 8 * config.len());
        // All but the line feed at the end.
        assert_eq!(prefixes, 1);
    }
}
