//! Limits on what a GGUF file may hold. They bound the memory and the time that an untrusted file can cost.

/// The most bytes of metadata and tensor descriptions. The largest vocabularies take some tens of MB.
pub const MAX_GGUF_HEADER_BYTES: u64 = 256 << 20;
/// The most metadata entries.
pub const MAX_GGUF_KEYS: u64 = 65_536;
/// The longest metadata key, in bytes, as the format's specification says.
pub const MAX_GGUF_KEY_BYTES: u64 = 65_535;
/// The longest tensor name, in bytes: llama.cpp keeps 64 with the zero behind it.
pub const MAX_GGUF_NAME_BYTES: u64 = 63;
/// The most dimensions of a tensor, as ggml has them.
pub const MAX_GGUF_RANK: u32 = 4;
/// The most levels of arrays in arrays.
pub const MAX_GGUF_ARRAY_DEPTH: usize = 4;
/// The most arrays that stand inside other arrays, in one file.
pub const MAX_GGUF_NESTED_ARRAYS: u64 = 65_536;
/// The largest alignment of tensor data, in bytes: a large page.
pub const MAX_GGUF_ALIGNMENT: u32 = 2 << 20;
/// The alignment of a file that doesn't say one.
pub const DEFAULT_GGUF_ALIGNMENT: u32 = 32;
