//! Malformed GGUF files: each is refused with the right fault and a message that says where and why.

use std::time::{Duration, Instant};

use smallmind_checkpoint::{CheckpointError, GgufFault, GgufFile, MAX_GGUF_ALIGNMENT, TensorFile};

use crate::common::gguf::{Raw, array, entry, small, tensor, text};
use crate::common::{Scratch, on_processor};

/// Opens a file that has to be refused, within the second that a hostile file may take.
fn refused(content: &[u8]) -> CheckpointError {
    let scratch = Scratch::new();
    let path = scratch.file("model.gguf", content);
    let start = Instant::now();
    let error = GgufFile::open(&path).expect_err("has to be refused");
    assert!(start.elapsed() < on_processor(Duration::from_secs(1)), "{:?} for {error}", start.elapsed());
    let CheckpointError::Gguf { offset, .. } = error else { panic!("{error:?}") };
    assert!(offset <= content.len() as u64, "{error}");
    assert!(error.to_string().starts_with(&format!("{}: GGUF, byte {offset}, ", path.display())), "{error}");
    assert!(error.is_bad_file());
    error
}

macro_rules! cases {
    ($($name:literal: $content:expr => $fault:pat, $text:literal;)*) => {{
        let mut count = 0;
        $(
            count += 1;
            let content: Vec<u8> = Vec::from($content);
            let error = refused(&content);
            let right = matches!(&error, CheckpointError::Gguf { fault: $fault, .. });
            assert!(right, "{}: {error:?}", $name);
            assert!(error.to_string().contains($text), "{}: {error}", $name);
        )*
        count
    }};
}

/// A file of one metadata entry.
fn one_entry(entry: Vec<u8>) -> Vec<u8> {
    Raw::new(&[entry], &[], 0).build()
}

/// A file of one value under the key `k`.
fn value(value_type: u32, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    one_entry(entry("k", value_type, bytes))
}

/// A file of one tensor and so many bytes of data.
fn one_tensor(tensor: Vec<u8>, data: usize) -> Vec<u8> {
    Raw::new(&[], &[tensor], data).build()
}

/// A file whose only tensor `t` has these dimensions, the fastest first, and 128 bytes of data.
fn shaped(dimensions: &[u64], number: u32) -> Vec<u8> {
    one_tensor(tensor("t", dimensions, number, 0), 128)
}

/// A file whose only tensor begins and whose other numbers are right.
fn of_type(number: u32) -> Vec<u8> {
    shaped(&[256], number)
}

/// A file of tensors of `i8`, each `(offset, length)`.
fn placed(tensors: &[(u64, u64)], data: usize) -> Vec<u8> {
    let describe = |(i, &(offset, len)): (usize, &(u64, u64))| tensor([b'a' + i as u8], &[len], 24, offset);
    Raw::new(&[], &tensors.iter().enumerate().map(describe).collect::<Vec<_>>(), data).build()
}

fn le(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn the_beginning() {
    let raw = |change: fn(&mut Raw)| {
        let mut raw = Raw::new(&[entry("k", 0, [1])], &[tensor("t", &[8], 24, 0)], 32);
        change(&mut raw);
        raw.build()
    };
    let count = cases! {
        "empty file": b"" => GgufFault::BeyondFile { needed: 4, left: 0 }, "byte 0, field `magic`: 4 bytes are needed, only 0 are left";
        "three bytes": b"GGU" => GgufFault::BeyondFile { needed: 4, left: 3 }, "cut short";
        "only the magic": b"GGUF" => GgufFault::BeyondFile { needed: 4, left: 0 }, "byte 4, field `version`";
        "no counts": b"GGUF\x03\0\0\0" => GgufFault::BeyondFile { needed: 8, .. }, "field `tensor_count`";
        "half a count": b"GGUF\x03\0\0\0\0\0\0\0" => GgufFault::BeyondFile { needed: 8, left: 4 }, "field `tensor_count`";
        "one count": b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0" => GgufFault::BeyondFile { .. }, "byte 16, field `metadata_kv_count`";
        "zeros": [0; 64] => GgufFault::BadMagic { .. }, "starts with \"\\0\\0\\0\\0\", not with \"GGUF\"";
        "lower case": raw(|raw| raw.magic = *b"gguf") => GgufFault::BadMagic { .. }, "not with \"GGUF\"";
        "magic swapped": raw(|raw| raw.magic = *b"FUGG") => GgufFault::BadMagic { looks_like: Some(_), .. }, "bytes swapped";
        "ggml": b"lmgg\x01\0\0\0" => GgufFault::BadMagic { looks_like: Some(_), .. }, "from before GGUF";
        "ggjt": b"tjgg\x03\0\0\0" => GgufFault::BadMagic { looks_like: Some(_), .. }, "from before GGUF";
        "zip": b"PK\x03\x04\x14\0\x08\x08\0\0" => GgufFault::BadMagic { .. }, "PyTorch";
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\n" => GgufFault::BadMagic { .. }, "git lfs pull";
        "web page": b"<!DOCTYPE html>" => GgufFault::BadMagic { .. }, "a web page";
        "safetensors": b"\x02\0\0\0\0\0\0\0{}" => GgufFault::BadMagic { .. }, "a safetensors file";
        "version 0": raw(|raw| raw.version = 0) => GgufFault::Version(0), "byte 4, field `version`: version 0 is unknown";
        "version 1": raw(|raw| raw.version = 1) => GgufFault::FirstVersion, "versions 2 and 3 are";
        "version 4": raw(|raw| raw.version = 4) => GgufFault::Version(4), "versions 2 and 3 are read";
        "version -1": raw(|raw| raw.version = u32::MAX) => GgufFault::Version(_), "4294967295";
        "big endian": raw(|raw| raw.version = 3 << 24) => GgufFault::BigEndian(3), "big endian (version 3 byte-swapped)";
        "big endian, version 1": raw(|raw| raw.version = 1 << 24) => GgufFault::BigEndian(1), "big endian";
    };
    assert_eq!(count, 21);
}

#[test]
fn numbers_of_entries() {
    let tensors = |count| {
        let mut raw = Raw::new(&[], &[tensor("t", &[8], 24, 0)], 32);
        raw.tensor_count = Some(count);
        raw.build()
    };
    let entries = |count| {
        let mut raw = Raw::new(&[entry("k", 0, [1])], &[], 0);
        raw.entry_count = Some(count);
        raw.build()
    };
    let many = |least: usize, count: u64, at: usize| {
        let mut file = Raw::new(&[], &[], 0).header();
        file[at..at + 8].copy_from_slice(&count.to_le_bytes());
        file.resize(24 + least * count as usize, 0);
        file
    };
    let count = cases! {
        "-1 tensors": tensors(u64::MAX) => GgufFault::CountBeyondFile { count: u64::MAX, .. }, "byte 8, field `tensor_count`: 18446744073709551615 entries";
        "2^63 tensors": tensors(1 << 63) => GgufFault::CountBeyondFile { .. }, "of at least 25 bytes";
        "product wraps": tensors(u64::MAX / 25 + 2) => GgufFault::CountBeyondFile { .. }, "field `tensor_count`";
        "2^32 tensors": tensors(1 << 32) => GgufFault::CountBeyondFile { .. }, "4294967296 entries";
        "more tensors than accepted": many(25, 65_537, 8) => GgufFault::OverLimit { found: 65_537, .. }, "65537 tensors, at most 65536";
        "one tensor too many": tensors(2) => GgufFault::EmptyName, "byte 57, name of tensor 1";
        "one tensor too few": tensors(0) => GgufFault::TrailingBytes { .. }, "belong to none";
        "-1 entries": entries(u64::MAX) => GgufFault::CountBeyondFile { .. }, "byte 16, field `metadata_kv_count`";
        "2^63 entries": entries(1 << 63) => GgufFault::CountBeyondFile { .. }, "of at least 14 bytes";
        "entries wrap": entries(u64::MAX / 14 + 2) => GgufFault::CountBeyondFile { .. }, "metadata_kv_count";
        "more entries than accepted": many(14, 65_537, 16) => GgufFault::OverLimit { .. }, "65537 metadata entries, at most 65536";
        "one entry too many": entries(2) => GgufFault::CountBeyondFile { count: 2, .. }, "only 14 bytes are left";
        "one entry too few": entries(0) => GgufFault::TrailingBytes { count: 6 }, "end of the file";
    };
    assert_eq!(count, 13);
}

#[test]
fn keys() {
    let key = |length: u64, rest: &[u8]| one_entry([&length.to_le_bytes(), rest].concat());
    let twice = Raw::new(&[entry("a", 0, [1]), entry("k", 0, [1]), entry("k", 4, [0; 4])], &[], 0).build();
    let alike = Raw::new(&[entry("k", 0, [1]), entry("k", 0, [1])], &[], 0).build();
    let alignments =
        Raw::new(&[entry("general.alignment", 4, [32, 0, 0, 0]), entry("general.alignment", 4, [64, 0, 0, 0])], &[], 0)
            .build();
    let long = "k".repeat(65_536);
    let count = cases! {
        "length -1": key(u64::MAX, &[0; 64]) => GgufFault::LongName { found: u64::MAX, .. }, "byte 24, name of metadata entry 0";
        "length 2^63": key(1 << 63, &[0; 64]) => GgufFault::LongName { .. }, "at most 65535 are allowed";
        "empty": key(0, &[0; 64]) => GgufFault::EmptyName, "name of metadata entry 0: the name is empty";
        "longer than allowed": one_entry(entry(&long, 0, [1])) => GgufFault::LongName { found: 65_536, .. }, "has 65536 bytes";
        "longer than the file": key(60, &[b'k'; 32]) => GgufFault::BeyondFile { needed: 60, left: 32 }, "name of metadata entry 0";
        "not UTF-8": key(2, b"k\xff\0\0\0\0\x01") => GgufFault::NotUtf8 { valid_up_to: 1 }, "byte 32, name of metadata entry 0: the text is not UTF-8 from its byte 1 on";
        "a surrogate": key(3, b"\xed\xa0\x80\0\0\0\0\x01") => GgufFault::NotUtf8 { .. }, "not UTF-8";
        "overlong": key(2, b"\xc0\x80\0\0\0\0\x01") => GgufFault::NotUtf8 { .. }, "not UTF-8";
        "twice": twice => GgufFault::DuplicateKey { first: 38 }, "byte 52, metadata key \"k\": the key stands in the file twice, first at byte 38";
        "twice with one value": alike => GgufFault::DuplicateKey { first: 24 }, "which one is meant is undefined";
        "two alignments": alignments => GgufFault::DuplicateKey { .. }, "general.alignment";
        "no value": one_entry([&text("kkkkkk")[..]].concat()) => GgufFault::BeyondFile { needed: 4, left: 0 }, "metadata key \"kkkkkk\"";
    };
    assert_eq!(count, 12);
}

#[test]
fn values() {
    let spare = [0u8; 16];
    let count = cases! {
        "type 13": value(13, spare) => GgufFault::UnknownValueType(13), "byte 33, metadata key \"k\": value type 13 does not exist";
        "type -1": value(u32::MAX, spare) => GgufFault::UnknownValueType(u32::MAX), "known are 0 (u8) to 12 (f64)";
        "type 2^31": value(1 << 31, spare) => GgufFault::UnknownValueType(_), "2147483648";
        "u16 cut": value(2, [0; 1]) => GgufFault::BeyondFile { needed: 2, left: 1 }, "metadata key \"k\"";
        "u32 cut": value(4, [0; 3]) => GgufFault::BeyondFile { needed: 4, left: 3 }, "byte 37, metadata key";
        "f32 cut": value(6, [0; 2]) => GgufFault::BeyondFile { .. }, "cut short";
        "u64 cut": value(10, [0; 7]) => GgufFault::BeyondFile { needed: 8, left: 7 }, "cut short";
        "f64 cut": value(12, [0; 4]) => GgufFault::BeyondFile { .. }, "cut short";
        "bool of 2": value(7, [2]) => GgufFault::BadBool(2), "byte 37, metadata key \"k\": a bool holds 2, allowed are 0 and 1";
        "bool of 255": value(7, [255]) => GgufFault::BadBool(255), "a bool holds 255";
        "string of length -1": value(8, le(&[u64::MAX])) => GgufFault::BeyondFile { needed: u64::MAX, left: 0 }, "metadata key \"k\"";
        "string of length 2^63": value(8, le(&[1 << 63, 0])) => GgufFault::BeyondFile { .. }, "9223372036854775808 bytes are needed";
        "string one too long": value(8, [&le(&[4])[..], b"abc"].concat()) => GgufFault::BeyondFile { needed: 4, left: 3 }, "byte 45";
        "string without length": value(8, [0; 6]) => GgufFault::BeyondFile { needed: 8, left: 6 }, "cut short";
        "string of bad UTF-8": value(8, text(b"ab\xffc")) => GgufFault::NotUtf8 { valid_up_to: 2 }, "byte 45, metadata key \"k\": the text is not UTF-8 from its byte 2 on";
        "string of half a letter": value(8, text(b"\xc3")) => GgufFault::NotUtf8 { valid_up_to: 0 }, "not UTF-8";
    };
    assert_eq!(count, 16);
}

#[test]
fn arrays() {
    let spare = [0u8; 64];
    let of = |element: u32, count: u64, rest: &[u8]| value(9, array(element, count, rest));
    let deep = |levels: usize| (0..levels).fold(array(0, 1, [7]), |inner, _| array(9, 1, inner));
    let texts = |texts: &[&[u8]]| of(8, texts.len() as u64, &texts.iter().map(text).collect::<Vec<_>>().concat());
    let many_empty = of(9, 65_537, &array(0, 0, []).repeat(65_537));
    let many_below = of(9, 2, &array(9, 40_000, array(0, 0, []).repeat(40_000)).repeat(2));
    let count = cases! {
        "no length": value(9, 4u32.to_le_bytes()) => GgufFault::BeyondFile { .. }, "metadata key \"k\"";
        "element type 13": of(13, 1, &spare) => GgufFault::UnknownValueType(13), "byte 37, metadata key";
        "element type -1": of(u32::MAX, 0, &spare) => GgufFault::UnknownValueType(_), "does not exist";
        "length -1": of(0, u64::MAX, &spare) => GgufFault::CountBeyondFile { count: u64::MAX, least: 1, .. }, "only 64 bytes are left";
        "length 2^61 of u64": of(10, 1 << 61, &spare) => GgufFault::CountBeyondFile { least: 8, .. }, "byte 41, metadata key \"k\"";
        "length wraps": of(4, (1 << 62) + 1, &spare) => GgufFault::CountBeyondFile { .. }, "entries of at least 4 bytes";
        "one u32 too many": of(4, 17, &spare) => GgufFault::CountBeyondFile { .. }, "17 entries of at least 4 bytes are claimed, only 64";
        "one f64 too many": of(12, 9, &spare) => GgufFault::CountBeyondFile { .. }, "9 entries";
        "one text too many": of(8, 9, &spare) => GgufFault::CountBeyondFile { .. }, "9 entries of at least 8 bytes";
        "2^62 texts": of(8, 1 << 62, &spare) => GgufFault::CountBeyondFile { .. }, "entries of at least 8 bytes";
        "texts longer than the file": of(8, 2, &[&text("ab")[..], &le(&[100])].concat()) => GgufFault::BeyondFile { needed: 100, left: 0 }, "metadata key \"k\"";
        "text of length -1": of(8, 2, &[&text("ab")[..], &le(&[u64::MAX])].concat()) => GgufFault::BeyondFile { .. }, "byte 67";
        "lengths that wrap": of(8, 2, &[&le(&[1 << 63]), &le(&[1 << 63])[..]].concat()) => GgufFault::BeyondFile { .. }, "bytes are needed";
        "a bad text": texts(&[b"ok", b"\xff"]) => GgufFault::NotUtf8 { .. }, "byte 67, metadata key \"k\": the text is not UTF-8";
        "a letter over two texts": texts(&[b"\xc3", b"\xa4"]) => GgufFault::NotUtf8 { .. }, "byte 57";
        "a bad bool": of(7, 3, &[0, 1, 2]) => GgufFault::BadBool(2), "byte 51, metadata key";
        "nested too deep": value(9, deep(4)) => GgufFault::TooDeep, "arrays nested deeper than 4 levels";
        "nested very deep": value(9, deep(10_000)) => GgufFault::TooDeep, "deeper than 4 levels";
        "nested arrays without end": of(9, u64::MAX, &spare) => GgufFault::CountBeyondFile { least: 12, .. }, "at least 12 bytes";
        "too many nested arrays": many_empty => GgufFault::OverLimit { .. }, "65537 nested arrays, at most 65536";
        "too many below": many_below => GgufFault::OverLimit { .. }, "nested arrays";
        "a nested type": of(9, 1, &array(77, 0, [])) => GgufFault::UnknownValueType(77), "value type 77";
        "a nested length": of(9, 1, &array(4, 2, [0; 4])) => GgufFault::CountBeyondFile { .. }, "2 entries of at least 4";
    };
    assert_eq!(count, 23);
}

#[test]
fn alignments() {
    let with = |value_type: u32, bytes: &[u8]| {
        Raw::new(&[entry("general.alignment", value_type, bytes)], &[tensor("t", &[8], 24, 0)], 32).build()
    };
    let of = |alignment: u32| with(4, &alignment.to_le_bytes());
    let count = cases! {
        "0": of(0) => GgufFault::Alignment(0), "metadata key \"general.alignment\": the alignment is 0; it has to be a power of two";
        "13": of(13) => GgufFault::Alignment(13), "the alignment is 13";
        "33": of(33) => GgufFault::Alignment(33), "from 8 to 2097152";
        "1": of(1) => GgufFault::Alignment(1), "the alignment is 1";
        "2^31": of(1 << 31) => GgufFault::Alignment(_), "2147483648";
        "twice the largest": of(2 * MAX_GGUF_ALIGNMENT) => GgufFault::Alignment(_), "4194304";
        "-1": of(u32::MAX) => GgufFault::Alignment(_), "4294967295";
        "u64": with(10, &32u64.to_le_bytes()) => GgufFault::WrongType { .. }, "the value is of type u64, u32 is wanted";
        "i32": with(5, &32u32.to_le_bytes()) => GgufFault::WrongType { .. }, "of type i32, u32 is wanted";
        "a text": with(8, &text("32")) => GgufFault::WrongType { .. }, "byte 49, metadata key \"general.alignment\": the value is of type string";
        "an array": with(9, &array(4, 1, 32u32.to_le_bytes())) => GgufFault::WrongType { .. }, "array";
        "data before it": of(4096) => GgufFault::DataBeyondFile { .. }, "ends at byte 8 of 0";
    };
    assert_eq!(count, 12);
}

#[test]
fn descriptions_of_tensors() {
    let named = |length: u64, rest: &[u8]| one_tensor([&length.to_le_bytes(), rest].concat(), 128);
    let rank = |rank: u32| {
        let mut description = tensor("t", &[8], 24, 0);
        description[9..13].copy_from_slice(&rank.to_le_bytes());
        one_tensor(description, 128)
    };
    let twice =
        Raw::new(&[], &[tensor("t", &[32], 24, 0), tensor("u", &[32], 24, 32), tensor("t", &[32], 24, 64)], 96).build();
    let cut = |bytes: usize| {
        let description = tensor("tensor.name.of.some.length", &[8, 2], 24, 0);
        [
            &Raw::new(&[], std::slice::from_ref(&description), 0).header()[..24],
            &description[..description.len() - bytes],
        ]
        .concat()
    };
    let count = cases! {
        "name of length -1": named(u64::MAX, &[0; 64]) => GgufFault::LongName { .. }, "byte 24, name of tensor 0";
        "no name": named(0, &[0; 64]) => GgufFault::EmptyName, "name of tensor 0: the name is empty";
        "name of 64 bytes": one_tensor(tensor("n".repeat(64), &[8], 24, 0), 128) => GgufFault::LongName { found: 64, limit: 63 }, "has 64 bytes, at most 63";
        "name of 2^20 bytes": one_tensor(tensor("n".repeat(1 << 20), &[8], 24, 0), 128) => GgufFault::LongName { .. }, "1048576 bytes";
        "name not UTF-8": one_tensor(tensor(b"t\xfe", &[8], 24, 0), 128) => GgufFault::NotUtf8 { valid_up_to: 1 }, "name of tensor 0: the text is not UTF-8";
        "name twice": twice => GgufFault::DuplicateTensor { first: 24, .. }, "tensor \"t\", field `name`: two tensors have this name, the first is described at byte 24";
        "5 dimensions": shaped(&[8, 1, 1, 1, 1], 24) => GgufFault::TooManyDimensions(5), "byte 33, tensor \"t\", field `dimensions`: 5 dimensions, at most 4";
        "2^32 - 1 dimensions": rank(u32::MAX) => GgufFault::TooManyDimensions(_), "4294967295 dimensions";
        "a dimension more than there are": rank(4) => GgufFault::UnknownTensorType(_) | GgufFault::Overflow { .. } | GgufFault::ZeroDimension { .. }, "tensor \"t\"";
        "a dimension of 0": shaped(&[8, 0], 24) => GgufFault::ZeroDimension { index: 1 }, "byte 45, tensor \"t\", field `shape`: dimension 1 is 0";
        "all dimensions 0": shaped(&[0, 0, 0, 0], 24) => GgufFault::ZeroDimension { index: 0 }, "has to be 1 or more";
        "0 before an overflow": shaped(&[0, u64::MAX, u64::MAX], 24) => GgufFault::ZeroDimension { .. }, "dimension 0 is 0";
        "a dimension of -1": shaped(&[u64::MAX], 24) => GgufFault::DataBeyondFile { .. }, "18446744073709551615";
        "a dimension of -1 of f32": shaped(&[u64::MAX], 0) => GgufFault::Overflow { .. }, "the size of shape [18446744073709551615] overflows";
        "dimensions wrap to 0": shaped(&[1 << 32, 1 << 32], 24) => GgufFault::Overflow { .. }, "[4294967296, 4294967296] overflows";
        "dimensions wrap to 64": shaped(&[(1 << 32) + 1, (1 << 32) + 63], 24) => GgufFault::Overflow { .. }, "overflows";
        "four dimensions wrap": shaped(&[1 << 16; 4], 24) => GgufFault::Overflow { .. }, "tensor \"t\", field `shape`";
        "bytes wrap": shaped(&[1 << 62, 4], 0) => GgufFault::Overflow { .. }, "no file can hold it";
        "bytes of blocks wrap": shaped(&[1 << 63], 3) => GgufFault::DataBeyondFile { .. }, "cut short";
        "exabytes": shaped(&[1 << 60], 24) => GgufFault::DataBeyondFile { available: 128, .. }, "ends at byte 1152921504606846976 of 128";
        "name cut": cut(50) => GgufFault::CountBeyondFile { .. } | GgufFault::BeyondFile { .. }, "tensor";
        "rank cut": cut(30) => GgufFault::BeyondFile { .. }, "field `dimensions`";
        "shape cut": cut(13) => GgufFault::BeyondFile { needed: 16, left: 15 }, "field `shape`";
        "type cut": cut(10) => GgufFault::BeyondFile { needed: 4, left: 2 }, "field `type`";
        "offset cut": cut(1) => GgufFault::BeyondFile { needed: 8, left: 7 }, "field `offset`";
    };
    assert_eq!(count, 25);
}

#[test]
fn types_of_tensors() {
    let count = cases! {
        "4": of_type(4) => GgufFault::RemovedTensorType { number: 4, .. }, "tensor type 4 (q4_2) was removed from the format; quantize the model again";
        "5": of_type(5) => GgufFault::RemovedTensorType { .. }, "(q4_3)";
        "31": of_type(31) => GgufFault::RemovedTensorType { .. }, "byte 45, tensor \"t\", field `type`: tensor type 31 (q4_0_4_4)";
        "32": of_type(32) => GgufFault::RemovedTensorType { .. }, "(q4_0_4_8)";
        "33": of_type(33) => GgufFault::RemovedTensorType { .. }, "(q4_0_8_8)";
        "36": of_type(36) => GgufFault::RemovedTensorType { .. }, "(iq4_nl_4_4)";
        "38": of_type(38) => GgufFault::RemovedTensorType { .. }, "(iq4_nl_8_8)";
        "43": of_type(43) => GgufFault::UnknownTensorType(43), "tensor type 43 does not exist here; known are 0 (f32) to 42 (q2_0)";
        "-1": of_type(u32::MAX) => GgufFault::UnknownTensorType(u32::MAX), "4294967295";
        "half a block of q4_0": shaped(&[16], 2) => GgufFault::PartialBlock { row: 16, .. }, "a row of 16 elements is no whole number of blocks of q4_0, which hold 32";
        "a block and one": shaped(&[33, 2], 8) => GgufFault::PartialBlock { row: 33, .. }, "blocks of q8_0";
        "whole blocks, but not in a row": shaped(&[128, 2], 12) => GgufFault::PartialBlock { row: 128, .. }, "blocks of q4_k, which hold 256";
        "one element of iq4_xs": shaped(&[1, 256], 23) => GgufFault::PartialBlock { row: 1, .. }, "iq4_xs";
        "a scalar of q6_k": shaped(&[], 14) => GgufFault::PartialBlock { row: 1, .. }, "q6_k";
    };
    assert_eq!(count, 14);
}

#[test]
fn places_of_tensors() {
    let half = 0x7fff_ffff_ffff_ffc0;
    let f32s = |offset, bytes| one_tensor(tensor("t", &[4], 0, offset), bytes);
    let no_tensors = [Raw::new(&[], &[], 0).build(), vec![0; 40]].concat();
    let count = cases! {
        "offset 1": placed(&[(1, 8)], 64) => GgufFault::Misaligned { begin: 1, alignment: 32 }, "byte 49, tensor \"a\", field `offset`: the data begins at 1, which is no multiple";
        "offset 16": placed(&[(0, 16), (16, 16)], 64) => GgufFault::Misaligned { begin: 16, .. }, "tensor \"b\", field `offset`";
        "offset -1": placed(&[(u64::MAX, 8)], 64) => GgufFault::Misaligned { .. }, "18446744073709551615";
        "offset -32": placed(&[(u64::MAX - 31, 8)], 64) => GgufFault::DataBeyondFile { .. }, "of 64";
        "offset and size wrap": placed(&[(u64::MAX - 31, 64)], 64) => GgufFault::DataBeyondFile { end: u64::MAX, .. }, "tensor \"a\"";
        "offset 2^63": placed(&[(1 << 63, 8)], 64) => GgufFault::DataBeyondFile { .. }, "9223372036854775816";
        "offset behind the file": f32s(128, 64) => GgufFault::DataBeyondFile { end: 144, available: 64 }, "ends at byte 144 of 64";
        "data one short": f32s(0, 15) => GgufFault::DataBeyondFile { end: 16, available: 15 }, "copy or download it again";
        "no data": f32s(0, 0) => GgufFault::DataBeyondFile { end: 16, available: 0 }, "cut short";
        "no padding either": Raw::new(&[], &[tensor("t", &[4], 0, 0)], 0).header() => GgufFault::DataBeyondFile { available: 0, .. }, "of 0";
        "the sum wraps": placed(&[(0, half), (half, half)], 64) => GgufFault::DataBeyondFile { .. }, "9223372036854775744 of 64";
        "the second behind the file": placed(&[(0, 32), (32, 64)], 64) => GgufFault::DataBeyondFile { end: 96, .. }, "tensor \"b\"";
        "the same place": placed(&[(0, 32), (0, 32)], 64) => GgufFault::Overlap { begin: 0, previous_end: 32 }, "tensor \"b\", field `offset`: its data begins at byte 0, but the tensor before it";
        "overlap": placed(&[(0, 64), (32, 32)], 64) => GgufFault::Overlap { begin: 32, previous_end: 64 }, "they overlap";
        "one inside another": placed(&[(32, 32), (0, 128)], 128) => GgufFault::Overlap { .. }, "tensor \"a\"";
        "into the padding": placed(&[(0, 33), (32, 32)], 96) => GgufFault::Overlap { begin: 32, previous_end: 64 }, "and its padding end at 64";
        "a hole before the first": placed(&[(32, 32)], 64) => GgufFault::Hole { begin: 32, previous_end: 0 }, "the bytes between belong to none";
        "a hole": placed(&[(0, 32), (96, 32)], 128) => GgufFault::Hole { begin: 96, previous_end: 32 }, "tensor \"b\"";
        "bytes behind the last": placed(&[(0, 32)], 33) => GgufFault::TrailingBytes { count: 1 }, "end of the file: 1 bytes follow the last tensor";
        "bytes behind no tensors": no_tensors => GgufFault::TrailingBytes { .. }, "belong to none";
    };
    assert_eq!(count, 20);
}

#[test]
fn models_in_several_files() {
    let keys = |number: u16, count: u16, tensors: i32| {
        vec![
            entry("split.no", 2, number.to_le_bytes()),
            entry("split.count", 2, count.to_le_bytes()),
            entry("split.tensors.count", 5, tensors.to_le_bytes()),
        ]
    };
    let part = |entries: &[Vec<u8>], name: &str| Raw::new(entries, &[tensor(name, &[8], 24, 0)], 32).build();
    let good = || vec![part(&keys(0, 3, 3), "a"), part(&keys(1, 3, 3), "b"), part(&keys(2, 3, 3), "c")];
    let with = |at: usize, content: Vec<u8>| {
        let mut parts = good();
        parts[at] = content;
        parts
    };
    // Opens the file of that number of a folder with these; an empty one is not there.
    let open = |parts: &[Vec<u8>], at: usize| {
        let scratch = Scratch::new();
        let paths: Vec<_> = parts
            .iter()
            .enumerate()
            .map(|(i, content)| {
                let name = format!("m-{:05}-of-00003.gguf", i + 1);
                if content.is_empty() { scratch.path().join(name) } else { scratch.file(&name, content) }
            })
            .collect();
        GgufFile::open(&paths[at]).map(|file| file.tensors().len()).map_err(|error| error.to_string())
    };
    assert_eq!(open(&good(), 0), Ok(3));

    let mut cases = 0;
    let mut refused = |parts: &[Vec<u8>], at: usize, said: &str| {
        let error = open(parts, at).unwrap_err();
        assert!(error.contains(said), "{error}");
        cases += 1;
    };
    refused(&good(), 1, "metadata key \"split.no\": this is part 2 of 3; open the first, \"m-00001-of-00003.gguf\"");
    refused(&with(1, vec![]), 0, "the model has 3 parts; \"m-00002-of-00003.gguf\" is missing, download it again");
    refused(&with(2, vec![]), 0, "\"m-00003-of-00003.gguf\" is missing");
    refused(&with(0, part(&keys(1, 3, 3), "a")), 0, "has to end with -00002-of-00003.gguf");
    refused(&with(0, part(&keys(0, 4, 3), "a")), 0, "has to end with -00001-of-00004.gguf");
    refused(&with(0, part(&keys(9, 3, 3), "a")), 0, "part 10 of 3");
    refused(&with(0, part(&keys(0, 600, 3), "a")), 0, "600 files, at most 512");
    refused(&with(0, part(&keys(0, 3, -1), "a")), 0, "key \"split.tensors.count\": the value -1 does not fit u64");
    refused(&with(0, part(&keys(0, 3, 1 << 20), "a")), 0, "1048576 tensors, at most 65536");
    refused(&with(0, part(&keys(0, 3, 3)[1..], "a")), 0, "key \"split.no\": the key is missing");
    refused(&with(0, part(&keys(0, 3, 3)[..2], "a")), 0, "key \"split.tensors.count\": the key is missing");
    refused(
        &with(0, part(&[entry("split.count", 8, text("3"))], "a")),
        0,
        "of type string, an integer (u64) is wanted",
    );
    refused(
        &with(1, part(&keys(2, 3, 3), "b")),
        0,
        "00002-of-00003.gguf: GGUF, byte 40, metadata key \"split.no\": the value is 2, by the first part it has to be 1",
    );
    refused(&with(2, part(&keys(2, 4, 3), "c")), 0, "metadata key \"split.count\": the value is 4");
    refused(&with(2, part(&keys(2, 3, 4), "c")), 0, "the files belong to different models");
    refused(
        &with(2, part(&[], "c")),
        0,
        "00003-of-00003.gguf: GGUF, byte 0, metadata key \"split.no\": the key is missing",
    );
    refused(
        &with(2, part(&keys(2, 3, 3), "a")),
        0,
        "two tensors have this name, the first is described at byte 106 of \"m-00001-of-00003.gguf\"",
    );
    refused(&with(2, b"GGUF".to_vec()), 0, "00003-of-00003.gguf: GGUF, byte 4, field `version`");
    // What a part says of the model is what the first part says.
    let named = |number: u16, value: &str| {
        let entries = [keys(number, 3, 3), vec![entry("general.architecture", 8, text(value))]].concat();
        part(&entries, ["a", "b", "c"][usize::from(number)])
    };
    let alike = vec![named(0, "llama"), named(1, "llama"), part(&keys(2, 3, 3), "c")];
    assert_eq!(open(&alike, 0), Ok(3));
    let other = vec![named(0, "llama"), named(1, "qwen2"), part(&keys(2, 3, 3), "c")];
    refused(&other, 0, "key \"general.architecture\": the first part says something else or nothing");
    refused(
        &with(1, named(1, "llama")),
        0,
        "key \"general.architecture\": the first part says something else or nothing",
    );
    // A file that is the only one.
    for count in
        [&[][..], &[entry("split.count", 2, 0u16.to_le_bytes())], &[entry("split.count", 2, 1u16.to_le_bytes())]]
    {
        let only = |entries: &[Vec<u8>]| vec![part(&[count, entries].concat(), "a")];
        let (first, second) = (keys(0, 1, 1), keys(1, 1, 5));
        assert_eq!(open(&only(&[first[0].clone(), first[2].clone()]), 0), Ok(1));
        refused(&only(&second[..1]), 0, "key \"split.no\": the value is 1, in a file that is not one of several");
        refused(&only(&second[2..]), 0, "key \"split.tensors.count\": the value is 5, in a file that is not one of");
    }
    let four: Vec<Vec<u8>> = (0..3).map(|i| part(&keys(i, 3, 4), ["a", "b", "c"][usize::from(i)])).collect();
    refused(&four, 0, "the parts hold 3 tensors, the metadata says 4");
    assert_eq!(cases, 27);
}

#[test]
fn a_gguf_file_is_no_safetensors_file_and_a_folder_is_no_file() {
    let scratch = Scratch::new();
    let error = TensorFile::open(scratch.file("model.gguf", small())).unwrap_err();
    assert!(error.to_string().contains("a GGUF file"), "{error}");
    let error = GgufFile::open(scratch.path()).unwrap_err();
    assert!(error.to_string().ends_with("not a file; name a .gguf file"), "{error}");
    let error = GgufFile::open(scratch.path().join("absent.gguf")).unwrap_err();
    assert!(error.to_string().contains("check the path"), "{error}");
}

#[test]
fn unusual_files_that_are_right_are_read() {
    let scratch = Scratch::new();
    let long = "k".repeat(65_535);
    let files = [
        Raw::new(&[], &[], 0).build(),
        Raw { version: 2, ..Raw::new(&[entry("k", 0, [1])], &[tensor("t", &[8], 24, 0)], 32) }.build(),
        // No dimension: a scalar. No padding behind the last tensor.
        Raw::new(&[], &[tensor("t", &[], 0, 0)], 4).build(),
        // Descriptions in another order than the data.
        placed(&[(32, 8), (0, 32), (64, 1)], 65),
        Raw::new(&[entry(&long, 0, [1])], &[tensor("n".repeat(63), &[1, 1, 1, 1], 24, 0)], 1).build(),
        Raw {
            alignment: 8,
            ..Raw::new(
                &[entry("general.alignment", 4, [8, 0, 0, 0])],
                &[tensor("t", &[4], 24, 0), tensor("u", &[4], 24, 8)],
                12,
            )
        }
        .build(),
        value(9, (0..3).fold(array(0, 1, [7]), |inner, _| array(9, 1, inner))),
        value(9, array(9, 0, [])),
        small(),
    ];
    for (number, content) in files.iter().enumerate() {
        let file = GgufFile::open(scratch.file("right.gguf", content));
        assert!(file.is_ok(), "file {number}: {}", file.unwrap_err());
    }
}
