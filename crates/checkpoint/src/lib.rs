//! Files of named tensors, read strictly and written so that a crash can't lose them.
//!
//! A model file comes from elsewhere and may be damaged or hostile; a checkpoint is written by a process that may be
//! killed at any moment. This crate is for both. It knows names, types, shapes and bytes, not what a model does with
//! them.
//!
//! # A tour
//!
//! **Publish checkpoints.** [`Rolling`] keeps the newest few. Each is a folder that is built under a temporary name,
//! synced and renamed, with a manifest of sizes and checksums. [`TensorWriter`] borrows the weights and streams them
//! out.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use smallmind_checkpoint::{CONFIG_FILE, Rolling, TensorData, TensorWriter, WEIGHTS_FILE};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let wte = vec![0.5f32; 6 * 4];
//! let norm = vec![1.0f32; 4];
//! let rolling = Rolling::new(dir.path().join("checkpoints"), "step-", NonZeroUsize::new(2).unwrap());
//! for step in [100, 200, 300] {
//!     let mut weights = TensorWriter::new();
//!     weights.add("transformer.wte.weight", &[6, 4], TensorData::F32(&wte))?;
//!     weights.add("transformer.ln_f.weight", &[4], TensorData::Bf16(&norm))?;
//!     let published = rolling.publish(step, |folder| {
//!         folder.write(CONFIG_FILE, |out| out.write_all(br#"{"model_type": "gpt2"}"#))?;
//!         folder.write(WEIGHTS_FILE, |out| weights.write_to(out))
//!     })?;
//!     assert!(published.not_removed.is_none());
//! }
//! assert_eq!(rolling.steps()?, [200, 300]);
//! # Ok(()) }
//! ```
//!
//! **Resume.** A damaged checkpoint is recognised, and the one before it is taken.
//!
//! ```
//! # use std::num::NonZeroUsize;
//! # use smallmind_checkpoint::{CONFIG_FILE, ModelFolder, Rolling, TensorData, TensorWriter, WEIGHTS_FILE};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let wte = vec![0.5f32; 6 * 4];
//! # let rolling = Rolling::new(dir.path().join("checkpoints"), "step-", NonZeroUsize::new(2).unwrap());
//! # for step in [200, 300] {
//! #     let mut weights = TensorWriter::new();
//! #     weights.add("transformer.wte.weight", &[6, 4], TensorData::F32(&wte))?;
//! #     let published = rolling.publish(step, |folder| {
//! #         folder.write(CONFIG_FILE, |out| out.write_all(br#"{"model_type": "gpt2"}"#))?;
//! #         folder.write(WEIGHTS_FILE, |out| weights.write_to(out))
//! #     })?;
//! #     assert!(published.not_removed.is_none());
//! # }
//! rolling.clean()?; // what a killed process may have left
//! std::fs::write(rolling.path_of(300).join(WEIGHTS_FILE), b"oops")?;
//!
//! let latest = rolling.latest_valid()?;
//! for (path, error) in &latest.damaged {
//!     eprintln!("skipping {}: {error}", path.display());
//! }
//! let checkpoint = latest.checkpoint.expect("step 200 is whole");
//! assert_eq!(checkpoint.step, 200);
//!
//! // The folder is laid out as Hugging Face lays out a model, so it opens like any other model.
//! let model = ModelFolder::open(&checkpoint.path)?;
//! assert_eq!(model.config()["model_type"], "gpt2");
//! let mut read = vec![0.0; 6 * 4];
//! model.weights().read_finite_f32("transformer.wte.weight", &mut read)?;
//! assert_eq!(read, wte);
//!
//! // A name that is not there comes back with the nearest one that is.
//! let error = model.weights().read_f32("wte.weight", &mut read).unwrap_err();
//! assert!(error.to_string().contains("did you mean \"transformer.wte.weight\"?"));
//! # Ok(()) }
//! ```
//!
//! **Other files.** [`GgufFile`] reads GGUF, [`GgufWriter`] writes it. [`TensorSource`] is what [`WeightFiles`] and
//! [`GgufFile`] have in common.
//!
//! # What it holds to
//!
//! * No content of a file can make it panic, take longer than a second, or take more memory than the file's size plus
//!   64 MiB. A refusal is a [`CheckpointError`] that says in which file, where, why, and what to do.
//! * Nothing is memory-mapped: reads are positioned, so a file that is truncated while it is read gives an error, not a
//!   signal. There is no `unsafe` here.
//! * At every moment of a publication the complete earlier content or the complete new one is under its name. Tests
//!   make each system call fail in turn to show it.

#![forbid(unsafe_code)]

mod atomic;
mod convert;
mod dtype;
mod error;
mod file;
mod file_system;
mod folder;
mod gguf;
mod header;
mod json;
mod layout;
mod manifest;
mod message;
mod positioned;
mod rolling;
mod suggest;
mod tensor_source;
mod text;
mod weight_files;
mod write;

pub use atomic::{
    AtomicFolder, Earlier, PendingFile, clean_stale, clean_stale_files_of, write_file_atomic, write_file_atomic_on,
};
pub use dtype::Dtype;
pub use error::{CheckpointError, DamageFault, HeaderFault, IndexFault, JsonFault, TensorFault, WriteFault};
pub use file::{TensorFile, TensorInfo};
pub use file_system::{Disk, FileSystem, SystemFile, is_same_file};
pub use folder::{CONFIG_FILE, GENERATION_FILE, INDEX_FILE, ModelFolder, TOKENIZER_FILE, WEIGHTS_FILE, read_config};
pub use gguf::{
    DEFAULT_GGUF_ALIGNMENT, FromGguf, GgmlType, GgufArray, GgufData, GgufFault, GgufFile, GgufHeader, GgufMetadata,
    GgufPlace, GgufStrings, GgufTensor, GgufValue, GgufValueType, GgufWriter, MAX_GGUF_ALIGNMENT, MAX_GGUF_ARRAY_DEPTH,
    MAX_GGUF_HEADER_BYTES, MAX_GGUF_KEY_BYTES, MAX_GGUF_KEYS, MAX_GGUF_NAME_BYTES, MAX_GGUF_NESTED_ARRAYS,
    MAX_GGUF_RANK, parse_gguf_header,
};
pub use header::{
    Header, MAX_HEADER_BYTES, MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_STRING_BYTES, MAX_TENSORS, parse_header,
};
pub use json::{MAX_JSON_BYTES, parse_json, read_json};
pub use manifest::{FileRecord, MANIFEST_FILE, Manifest, verify_folder};
pub use rolling::{Latest, Published, Rolling, ValidCheckpoint};
pub use suggest::did_you_mean;
pub use tensor_source::{StoredTensor, TensorFormat, TensorSource};
pub use text::{json_problem, without_byte_order_mark};
pub use weight_files::{MAX_SHARDS, WeightFiles};
pub use write::{TensorData, TensorWriter};
