//! GGUF files: metadata and tensors of a model in one file or several, read strictly and written atomically.
//!
//! * [`GgufFile`] opens a file for reading, [`parse_gguf_header`] reads a header that is in memory.
//! * [`GgufMetadata`] holds the metadata, [`FromGguf`] converts its values.
//! * [`GgmlType`] is the table of tensor types.
//! * [`GgufWriter`] writes.
//!
//! Not here: what the keys and the tensors mean, and the arithmetic of quantized blocks.

mod cursor;
mod fault;
mod file;
mod ggml_type;
mod header;
mod layout;
mod limits;
mod metadata;
mod split;
mod value;
mod write;

pub use fault::{GgufFault, GgufPlace};
pub use file::GgufFile;
pub use ggml_type::GgmlType;
pub use header::{GgufHeader, GgufTensor, parse_gguf_header};
pub use limits::{
    DEFAULT_GGUF_ALIGNMENT, MAX_GGUF_ALIGNMENT, MAX_GGUF_ARRAY_DEPTH, MAX_GGUF_HEADER_BYTES, MAX_GGUF_KEY_BYTES,
    MAX_GGUF_KEYS, MAX_GGUF_NAME_BYTES, MAX_GGUF_NESTED_ARRAYS, MAX_GGUF_RANK,
};
pub use metadata::{FromGguf, GgufMetadata};
pub use value::{GgufArray, GgufStrings, GgufValue, GgufValueType};
pub use write::{GgufData, GgufWriter};
