//! Malformed safetensors files, and in `gguf` malformed GGUF files: each is refused with the right variant and a message
//! that says where and why.

mod common;
#[path = "gguf/malformed.rs"]
mod gguf;

use std::time::{Duration, Instant};

use common::{SMALL, Scratch, on_processor, safetensors};
use smallmind_checkpoint::{CheckpointError, HeaderFault, TensorFault, TensorFile};

/// Opens a file that has to be refused, within the second that a hostile file may take.
fn refused(content: &[u8]) -> CheckpointError {
    let scratch = Scratch::new();
    let path = scratch.file("model.safetensors", content);
    let start = Instant::now();
    let error = TensorFile::open(&path).expect_err("has to be refused");
    assert!(start.elapsed() < on_processor(Duration::from_secs(1)), "{:?} for {error}", start.elapsed());
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    assert!(error.is_bad_file());
    error
}

macro_rules! cases {
    ($($name:literal: $content:expr => $variant:ident($fault:pat), $text:literal;)*) => {{
        let mut count = 0;
        $(
            count += 1;
            let error = refused($content.as_ref());
            let right = matches!(&error, CheckpointError::$variant { fault: $fault, .. });
            assert!(right, "{}: {error:?}", $name);
            assert!(error.to_string().contains($text), "{}: {error}", $name);
        )*
        count
    }};
}

/// A header with the one tensor `t`.
fn one(tensor: &str, data: usize) -> Vec<u8> {
    safetensors(format!(r#"{{"t":{tensor}}}"#), data)
}

/// A header with one tensor of bytes that has this shape and these offsets.
fn placed(shape: &str, offsets: &str, data: usize) -> Vec<u8> {
    one(&format!(r#"{{"dtype":"U8","shape":{shape},"data_offsets":{offsets}}}"#), data)
}

/// A header with bytes tensors `a`, `b`, … at these offsets.
fn several(offsets: &[(u64, u64)], data: usize) -> Vec<u8> {
    let tensors: Vec<String> = offsets
        .iter()
        .enumerate()
        .map(|(i, (begin, end))| {
            let (name, len) = ((b'a' + i as u8) as char, end - begin);
            format!(r#""{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{begin},{end}]}}"#)
        })
        .collect();
    safetensors(format!("{{{}}}", tensors.join(",")), data)
}

const GOOD: &str = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;

#[test]
fn the_length_before_the_header() {
    let with_length = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    let count = cases! {
        "empty file": b"" => Header(HeaderFault::TooShort { len: 0, .. }), "the file has 0 bytes";
        "seven bytes": b"\x02\0\0\0\0\0\0" => Header(HeaderFault::TooShort { len: 7, .. }), "8 bytes of header length";
        "eight bytes": 2u64.to_le_bytes() => Header(HeaderFault::BeyondFile { declared: 2, available: 0, .. }), "only 0 follow";
        "one byte too long": with_length(3) => Header(HeaderFault::BeyondFile { declared: 3, .. }), "claims 3 bytes, only 2";
        "2^63": with_length(1 << 63) => Header(HeaderFault::BeyondFile { .. }), "claims 9223372036854775808";
        "2^64 - 1": with_length(u64::MAX) => Header(HeaderFault::BeyondFile { .. }), "claims 18446744073709551615";
        "wraps with 8": with_length(u64::MAX - 7) => Header(HeaderFault::BeyondFile { .. }), "cut short";
        "length 0": safetensors("", 4) => Header(HeaderFault::Json(_)), "it is empty";
        "big endian": [&2u64.to_be_bytes()[..], b"{}"].concat() => Header(HeaderFault::BeyondFile { .. }), "only 2 follow";
        "GGUF": b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0" => Header(HeaderFault::BeyondFile { looks_like: Some(_), .. }), "a GGUF file";
        "zip": b"PK\x03\x04\x14\0\x08\x08\0\0" => Header(HeaderFault::BeyondFile { looks_like: Some(_), .. }), "PyTorch";
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\n" => Header(HeaderFault::BeyondFile { .. }), "git lfs pull";
        "web page": b"<!DOCTYPE html><html></html>" => Header(HeaderFault::BeyondFile { .. }), "a web page";
        "bare JSON": SMALL => Header(HeaderFault::BeyondFile { .. }), "JSON without the length";
    };
    assert_eq!(count, 14);
}

#[test]
fn a_header_that_is_not_the_formats_json() {
    let deep = format!(r#"{{"t":{}"#, "[".repeat(100_000));
    let count = cases! {
        "leading space": safetensors(" {}", 0) => Header(HeaderFault::NoBrace { found: 0x20 }), "byte 8: the header starts with byte 0x20";
        "array": safetensors("[]", 0) => Header(HeaderFault::NoBrace { found: b'[' }), "0x5b";
        "zeros": safetensors([0; 16], 0) => Header(HeaderFault::NoBrace { found: 0 }), "0x00";
        "BOM": safetensors("\u{feff}{}", 0) => Header(HeaderFault::NoBrace { .. }), "0xef";
        "brace only": safetensors("{", 0) => Header(HeaderFault::Json(_)), "EOF";
        "text behind": safetensors("{} x", 0) => Header(HeaderFault::Json(_)), "trailing";
        "second object": safetensors("{}{}", 0) => Header(HeaderFault::Json(_)), "trailing";
        "NUL padding": safetensors("{}\0\0", 0) => Header(HeaderFault::Json(_)), "trailing";
        "cut short": safetensors(&SMALL[..60], 32) => Header(HeaderFault::Json(_)), "EOF";
        "trailing comma": safetensors(format!(r#"{{"t":{GOOD},}}"#), 0) => Header(HeaderFault::Json(_)), "trailing comma";
        "single quotes": safetensors("{'t':1}", 0) => Header(HeaderFault::Json(_)), "key must be a string";
        "not UTF-8": safetensors(b"{\"\xff\":0}", 0) => Header(HeaderFault::NotUtf8), "byte 10: the header is not UTF-8";
        "lone surrogate": safetensors(format!(r#"{{"\ud800":{GOOD}}}"#), 0) => Header(HeaderFault::Json(_)), "hex escape";
        "control character": safetensors(format!("{{\"a\n\":{GOOD}}}"), 0) => Header(HeaderFault::Json(_)), "control character";
        "deep nesting": safetensors(deep, 0) => Header(HeaderFault::Json(_)), "expected an object with dtype";
        "tensor is null": one("null", 0) => Header(HeaderFault::Json(_)), "invalid type: null";
        "tensor is a list": one("[]", 0) => Header(HeaderFault::Json(_)), "invalid type: sequence";
        "tensor is text": one(r#""F32""#, 0) => Header(HeaderFault::Json(_)), "invalid type: string";
        "metadata is text": safetensors(r#"{"__metadata__":"pt"}"#, 0) => Header(HeaderFault::Json(_)), "an object of texts";
        "metadata number": safetensors(r#"{"__metadata__":{"n":1}}"#, 0) => Header(HeaderFault::Json(_)), "expected a string";
        "metadata nested": safetensors(r#"{"__metadata__":{"n":{}}}"#, 0) => Header(HeaderFault::Json(_)), "expected a string";
    };
    assert_eq!(count, 21);
}

#[test]
fn names_and_fields() {
    let named = |name: &str| safetensors(format!(r#"{{"{name}":{GOOD}}}"#), 0);
    let count = cases! {
        "empty name": named("") => Header(HeaderFault::EmptyName), "empty name";
        "long name": named(&"n".repeat(257)) => Header(HeaderFault::LongName(_)), "longer than 256 bytes";
        "long by escapes": named(&r"\u00fc".repeat(129)) => Header(HeaderFault::LongName(_)), "longer than 256 bytes";
        "name twice": safetensors(format!(r#"{{"t":{GOOD},"t":{GOOD}}}"#), 0)
            => Header(HeaderFault::DuplicateTensor(_)), "tensor \"t\" stands in the header twice";
        "twice by escape": safetensors(format!(r#"{{"t":{GOOD},"\u0074":{GOOD}}}"#), 0)
            => Header(HeaderFault::DuplicateTensor(_)), "\"t\" stands";
        "metadata key twice": safetensors(r#"{"__metadata__":{"k":"1","k":"1"}}"#, 0)
            => Header(HeaderFault::DuplicateMetadata(_)), "metadata key \"k\"";
        "metadata twice": safetensors(r#"{"__metadata__":{},"__metadata__":{}}"#, 0)
            => Header(HeaderFault::DuplicateMetadata(_)), "__metadata__";
        "dtype twice": one(r#"{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}"#, 0)
            => Header(HeaderFault::DuplicateField { field: "dtype", .. }), "field `dtype` stands twice";
        "shape twice": one(r#"{"dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0]}"#, 0)
            => Header(HeaderFault::DuplicateField { field: "shape", .. }), "field `shape` stands twice";
        "offsets twice": one(r#"{"data_offsets":[0,0],"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#, 0)
            => Header(HeaderFault::DuplicateField { field: "data_offsets", .. }), "`data_offsets` stands twice";
        "unknown field": one(r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}"#, 0)
            => Header(HeaderFault::UnknownField { .. }), "unknown field \"x\"";
        "no fields": one("{}", 0) => Header(HeaderFault::MissingField { field: "dtype", .. }), "field `dtype` is missing";
        "no shape": one(r#"{"dtype":"U8","data_offsets":[0,0]}"#, 0)
            => Header(HeaderFault::MissingField { field: "shape", .. }), "field `shape` is missing";
        "no offsets": one(r#"{"dtype":"U8","shape":[0]}"#, 0)
            => Header(HeaderFault::MissingField { field: "data_offsets", .. }), "field `data_offsets` is missing";
        "unknown dtype": one(r#"{"dtype":"F4","shape":[0],"data_offsets":[0,0]}"#, 0)
            => Header(HeaderFault::UnknownDtype { .. }), "unknown dtype \"F4\"; known are BOOL, U8";
        "lower-case dtype": one(r#"{"dtype":"f32","shape":[0],"data_offsets":[0,0]}"#, 0)
            => Header(HeaderFault::UnknownDtype { .. }), "tensor \"t\": unknown dtype \"f32\"";
        "dtype is a number": one(r#"{"dtype":8,"shape":[0],"data_offsets":[0,0]}"#, 0) => Header(HeaderFault::Json(_)), "expected a string";
    };
    assert_eq!(count, 17);
}

#[test]
fn numbers() {
    let count = cases! {
        "negative dimension": placed("[-1]", "[0,1]", 1) => Header(HeaderFault::BadNumber { field: "shape", .. }), "holds -1";
        "negative offset": placed("[1]", "[-1,0]", 1) => Header(HeaderFault::BadNumber { field: "data_offsets", .. }), "`data_offsets` holds -1";
        "fraction": placed("[1.5]", "[0,1]", 1) => Header(HeaderFault::BadNumber { .. }), "holds 1.5";
        "whole as a float": placed("[1.0]", "[0,1]", 1) => Header(HeaderFault::BadNumber { .. }), "tensor \"t\": field `shape`";
        "beyond 64 bits": placed("[18446744073709551616]", "[0,1]", 1) => Header(HeaderFault::BadNumber { .. }), "18446744073709552000";
        "exponent": placed("[1e400]", "[0,1]", 1) => Header(HeaderFault::Json(_)), "number out of range";
        "leading zero": placed("[01]", "[0,1]", 1) => Header(HeaderFault::Json(_)), "invalid number";
        "NaN": placed("[NaN]", "[0,1]", 1) => Header(HeaderFault::Json(_)), "expected value";
        "text": placed(r#"["1"]"#, "[0,1]", 1) => Header(HeaderFault::Json(_)), "expected an integer in shape";
        "null": placed("[null]", "[0,1]", 1) => Header(HeaderFault::Json(_)), "expected an integer in shape";
        "nested shape": placed("[[1]]", "[0,1]", 1) => Header(HeaderFault::Json(_)), "expected an integer in shape";
        "shape is a number": placed("1", "[0,1]", 1) => Header(HeaderFault::Json(_)), "expected an array of integers as shape";
        "17 dimensions": placed(&format!("{:?}", [1; 17]), "[0,1]", 1)
            => Header(HeaderFault::TooManyDimensions(_)), "more than 16 dimensions";
        "no offsets in the list": placed("[1]", "[]", 1) => Header(HeaderFault::NotAPair(_)), "exactly two numbers";
        "one offset": placed("[1]", "[1]", 1) => Header(HeaderFault::NotAPair(_)), "exactly two numbers";
        "three offsets": placed("[1]", "[0,1,1]", 1) => Header(HeaderFault::NotAPair(_)), "exactly two numbers";
    };
    assert_eq!(count, 16);
}

#[test]
fn places_and_sizes() {
    let max = u64::MAX;
    let count = cases! {
        "reversed": placed("[1]", "[1,0]", 1) => Tensor(TensorFault::Reversed { begin: 1, end: 0 }), "from 1 to 0";
        "reversed, zero-sized": placed("[0]", "[1,0]", 1) => Tensor(TensorFault::Reversed { .. }), "run backwards";
        "one byte short": placed("[4]", "[0,3]", 3) => Tensor(TensorFault::SizeMismatch { expected: 4, found: 3, .. }), "takes 4 bytes, data_offsets give 3";
        "one byte over": placed("[4]", "[0,5]", 5) => Tensor(TensorFault::SizeMismatch { .. }), "tensor \"t\": shape [4] of U8";
        "wrong width": one(r#"{"dtype":"F64","shape":[2],"data_offsets":[0,8]}"#, 8) => Tensor(TensorFault::SizeMismatch { expected: 16, .. }), "F64 takes 16";
        "scalar without data": placed("[]", "[0,0]", 0) => Tensor(TensorFault::SizeMismatch { expected: 1, .. }), "shape [] of U8";
        "zero-sized with data": placed("[0]", "[0,4]", 4) => Tensor(TensorFault::SizeMismatch { expected: 0, .. }), "takes 0 bytes";
        "beyond the file": placed("[4]", "[0,4]", 3) => Tensor(TensorFault::BeyondFile { end: 4, available: 3 }), "ends at byte 4 of 3";
        "far beyond": placed("[9223372036854775807]", "[0,9223372036854775807]", 8) => Tensor(TensorFault::BeyondFile { .. }), "cut short";
        "offset 2^64 - 1": placed("[0]", &format!("[{max},{max}]"), 0) => Tensor(TensorFault::BeyondFile { .. }), "18446744073709551615";
        "no data at all": safetensors(SMALL, 0) => Tensor(TensorFault::BeyondFile { .. }), "tensor \"a\": its data ends at byte 24 of 0";
        "product overflows": placed("[4294967296,4294967296]", "[0,0]", 0) => Tensor(TensorFault::Overflow { .. }), "overflows";
        "bytes overflow": one(r#"{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}"#, 0) => Tensor(TensorFault::Overflow { .. }), "4611686018427387904";
        "overflow behind a zero": placed(&format!("[0,{max},{max}]"), "[0,0]", 0) => Tensor(TensorFault::Overflow { .. }), "[0, 18446744073709551615,";
        "overflow before a zero": placed(&format!("[{max},2,0]"), "[0,0]", 0) => Tensor(TensorFault::Overflow { .. }), "overflows";
        "hole at the start": several(&[(4, 8)], 8) => Tensor(TensorFault::Hole { begin: 4, previous_end: 0 }), "begins at byte 4";
        "hole between": several(&[(0, 4), (5, 8)], 8) => Tensor(TensorFault::Hole { begin: 5, previous_end: 4 }), "tensor \"b\"";
        "hole before nothing": several(&[(0, 4), (5, 5)], 5) => Tensor(TensorFault::Hole { .. }), "belong to none";
        "overlap by one": several(&[(0, 4), (3, 8)], 8) => Tensor(TensorFault::Overlap { begin: 3, previous_end: 4 }), "overlap";
        "same bytes twice": several(&[(0, 4), (0, 4)], 4) => Tensor(TensorFault::Overlap { .. }), "tensor \"b\"";
        "inside another": several(&[(0, 8), (2, 4)], 8) => Tensor(TensorFault::Overlap { .. }), "ends at 8";
        "zero-sized inside": several(&[(0, 8), (4, 4)], 8) => Tensor(TensorFault::Overlap { begin: 4, .. }), "overlap";
        "trailing byte": several(&[(0, 4)], 5) => Header(HeaderFault::TrailingBytes { count: 1 }), "1 bytes follow the last tensor";
        "bytes and no tensor": safetensors("{}", 9) => Header(HeaderFault::TrailingBytes { count: 9 }), "byte 10: 9 bytes follow";
    };
    assert_eq!(count, 24);
}

#[test]
fn more_than_any_model_has() {
    let tensors = |n: usize| {
        let list: Vec<String> = (0..n).map(|i| format!(r#""{i}":{GOOD}"#)).collect();
        safetensors(format!("{{{}}}", list.join(",")), 0)
    };
    let metadata = |count: usize, len: usize| {
        let text = "m".repeat(len);
        let list: Vec<String> = (0..count).map(|i| format!(r#""{i}":"{text}""#)).collect();
        safetensors(format!(r#"{{"__metadata__":{{{}}}}}"#, list.join(",")), 0)
    };
    let long = |escape: &str| safetensors(format!(r#"{{"{}":{GOOD}}}"#, escape.repeat(5_000_000)), 0);
    let count = cases! {
        "65,537 tensors": tensors(65_537) => Header(HeaderFault::TooManyTensors), "more than 65536 tensors";
        "100,000 tensors": tensors(100_000) => Header(HeaderFault::TooManyTensors), "not to be trusted";
        "9 MB of metadata": metadata(3, 3 << 20) => Header(HeaderFault::LongMetadata), "8388608 bytes";
        "65,537 keys": metadata(65_537, 1) => Header(HeaderFault::LongMetadata), "65536 keys";
        "5 MB of name": long("n") => Header(HeaderFault::LongString), "byte 9: a string of more than 4194304 bytes";
        "escapes": long(r"\n") => Header(HeaderFault::LongString), "4194304 bytes";
        "quotes escaped": long("\\\"") => Header(HeaderFault::LongString), "4194304 bytes";
        "backslash at the end": safetensors([b"{\"".as_slice(), &[b'\\'; 5_000_001]].concat(), 0) => Header(HeaderFault::LongString), "4194304";
    };
    assert_eq!(count, 8);
    let scratch = Scratch::new();
    let most = TensorFile::open(scratch.file("most", tensors(65_536))).unwrap();
    assert_eq!(most.tensors().len(), 65_536);
}

#[test]
fn a_header_over_the_limit_is_refused_before_it_is_read() {
    let scratch = Scratch::new();
    let path = scratch.file("long.safetensors", 100_000_001u64.to_le_bytes());
    // Sparse: the declared bytes exist, and reading them would take their time and memory.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100_000_009).unwrap();
    let error = TensorFile::open(&path).unwrap_err();
    let CheckpointError::Header { fault: HeaderFault::TooLong { declared: 100_000_001 }, .. } = error else {
        panic!("{error:?}")
    };
    assert!(error.to_string().contains("at most 100000000 are accepted"), "{error}");
}

#[test]
fn what_is_no_file() {
    let scratch = Scratch::new();
    let error = TensorFile::open(scratch.path()).unwrap_err();
    assert!(matches!(error, CheckpointError::Missing { .. }) && error.to_string().contains("not a file"), "{error}");
    let error = TensorFile::open(scratch.path().join("absent")).unwrap_err();
    assert!(matches!(error, CheckpointError::Io { .. }) && error.to_string().contains("check the path"), "{error}");
    assert!(!error.is_bad_file());
    #[cfg(unix)]
    {
        let error = TensorFile::open("/dev/zero").unwrap_err();
        assert!(matches!(error, CheckpointError::Missing { .. }), "{error}");
    }
}

#[test]
fn what_is_unusual_and_valid() {
    let scratch = Scratch::new();
    let valid: [(&str, Vec<u8>, usize); 8] = [
        ("no tensors", safetensors("{}", 0), 0),
        ("padded", safetensors(format!("{SMALL}     \n\t "), 32), 2),
        ("metadata only", safetensors(r#"{"__metadata__":{}}"#, 0), 0),
        ("scalar", placed("[]", "[0,1]", 1), 1),
        ("16 dimensions", placed(&format!("{:?}", [1; 16]), "[0,1]", 1), 1),
        ("zero-sized at a border", several(&[(0, 4), (4, 4), (4, 8), (8, 8)], 8), 4),
        ("out of order", several(&[(4, 8), (0, 4)], 8), 2),
        ("a name like a field", safetensors(format!(r#"{{"dtype":{GOOD},"shape":{GOOD}}}"#), 0), 2),
    ];
    for (name, content, tensors) in valid {
        let file = TensorFile::open(scratch.file("valid.safetensors", content));
        assert_eq!(file.expect(name).tensors().len(), tensors, "{name}");
    }
}
