//! GGUF files cut at every byte, with every bit of the header flipped, of random bytes, and cut while they are open:
//! errors, never a panic, and no tensor from a wrong place.

use std::path::Path;

use proptest::prelude::*;
use smallmind_checkpoint::{CheckpointError, GgufFault, GgufFile, TensorSource, parse_gguf_header};

use crate::common::Scratch;
use crate::common::gguf::{Raw, small, tensor};

/// Where the data of [`small`] begins before the end of the file, and the bytes that pad its last tensor.
const DATA: usize = 128;
const LAST_PADDING: usize = 10;

/// Opens a file and, where that succeeds, reads all that it says it holds: position and bytes of each tensor.
fn open_and_read(path: &Path) -> Result<Vec<(u64, Vec<u8>)>, CheckpointError> {
    let file = GgufFile::open(path)?;
    let mut tensors = Vec::new();
    for tensor in file.tensors() {
        let bytes = file.read_bytes(&tensor.name)?;
        assert_eq!(bytes.len() as u64, tensor.bytes);
        tensors.push((tensor.offset, bytes));
        let stored = file.tensor(&tensor.name)?;
        if tensor.ggml_type.dtype().is_some_and(|dtype| dtype.is_float()) {
            file.read_f32(&tensor.name, &mut vec![f32::NAN; stored.elements()])?;
        }
    }
    Ok(tensors)
}

#[test]
fn every_prefix_is_refused() {
    let scratch = Scratch::new();
    let whole = small();
    for len in 0..whole.len() - LAST_PADDING {
        let error = open_and_read(&scratch.file("cut.gguf", &whole[..len])).expect_err("a prefix");
        let CheckpointError::Gguf { offset, fault, .. } = &error else { panic!("{len}: {error:?}") };
        let right = match fault {
            GgufFault::BeyondFile { .. } | GgufFault::CountBeyondFile { .. } => *offset <= len as u64,
            GgufFault::DataBeyondFile { .. } => true,
            _ => false,
        };
        assert!(right, "{len}: {error}");
    }
    // The zeros that pad the last tensor may be missing.
    for len in whole.len() - LAST_PADDING..=whole.len() {
        assert_eq!(open_and_read(&scratch.file("whole.gguf", &whole[..len])).unwrap().len(), 2);
    }
}

#[test]
fn every_flipped_bit_of_the_header_gives_an_error_or_tensors_in_their_places() {
    let scratch = Scratch::new();
    let whole = small();
    let start = whole.len() - DATA;
    let (mut refused, mut valid) = (0, 0);
    for bit in 0..8 * start {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match open_and_read(&scratch.file("flipped.gguf", &flipped)) {
            // A flip in a name, a text or a number leaves another file that is whole. One in a shape or a type may make
            // a tensor longer or shorter by no more than its padding; none lies elsewhere.
            Ok(tensors) => {
                assert_eq!(tensors.len(), 2, "bit {bit}");
                for ((offset, bytes), expected) in tensors.iter().zip([start, start + 64]) {
                    assert_eq!(*offset as usize, expected, "bit {bit}");
                    assert!((33..=64).contains(&bytes.len()), "bit {bit}");
                    assert_eq!(bytes, &whole[expected..][..bytes.len()], "bit {bit}");
                }
                valid += 1;
            }
            Err(CheckpointError::Gguf { offset, .. }) => {
                assert!(offset <= whole.len() as u64, "bit {bit}");
                refused += 1;
            }
            Err(error) => panic!("bit {bit}: {error:?}"),
        }
    }
    assert!(refused > valid && valid > 0, "{refused} refused, {valid} valid");
}

#[test]
fn a_file_cut_short_while_it_is_open_is_an_error() {
    let scratch = Scratch::new();
    let tensors = [tensor("a", &[50_000], 0, 0), tensor("h", &[50_000], 1, 200_000)];
    let content = Raw::new(&[], &tensors, 300_000).build();
    let path = scratch.file("model.gguf", &content);
    let file = GgufFile::open(&path).unwrap();
    let mut out = vec![0.0; 50_000];
    file.read_f32("h", &mut out).unwrap();

    let cut = |len: usize| std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len as u64).unwrap();
    cut(content.len() - 1);
    file.read_f32("a", &mut out).unwrap();
    let short = |error: CheckpointError, tensor: &str| {
        assert!(matches!(error, CheckpointError::Gguf { fault: GgufFault::CutShort { .. }, .. }), "{error:?}");
        let said = format!("tensor {tensor:?}, field `data`: the file was cut short");
        assert!(error.to_string().contains(&said), "{error}");
    };
    short(file.read_f32("h", &mut out).unwrap_err(), "h");
    short(file.read_bytes("h").unwrap_err(), "h");
    cut(0);
    short(file.read_finite_f32("a", &mut out).unwrap_err(), "a");
}

/// Bytes of a right file with pieces of it changed, doubled, left out and put elsewhere.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let whole = small();
    let len = whole.len();
    let number = prop_oneof![
        any::<u64>(),
        0u64..64,
        Just(u64::MAX),
        Just(1 << 63),
        Just(1 << 32),
        (0u32..64).prop_map(|shift| u64::MAX >> shift)
    ];
    let change = prop_oneof![
        (0..len, any::<u8>()).prop_map(|(at, byte)| (at, vec![byte])),
        (0..len, number.clone()).prop_map(|(at, number)| (at, number.to_le_bytes().to_vec())),
        (0..len, number).prop_map(|(at, number)| (at, (number as u32).to_le_bytes().to_vec())),
        (0..len, 0..len, 1usize..40).prop_map({
            let whole = whole.clone();
            move |(to, from, n)| (to, whole[from..(from + n).min(len)].to_vec())
        }),
    ];
    (prop::collection::vec(change, 1..5), any::<bool>(), 0..len).prop_map(move |(changes, insert, cut)| {
        let mut file = whole.clone();
        for (at, bytes) in changes {
            let at = at.min(file.len());
            let end = if insert { at } else { (at + bytes.len()).min(file.len()) };
            file.splice(at..end, bytes);
        }
        if cut % 7 == 0 {
            file.truncate(cut);
        }
        file
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mangled_bytes_are_no_panic(file in mangled()) {
        match parse_gguf_header(Path::new("x"), &file) {
            Ok(header) => {
                let mut data: Vec<_> = header.tensors.iter().map(|t| (t.offset, t.offset + t.bytes)).collect();
                data.sort_unstable();
                prop_assert!(data.windows(2).all(|pair| pair[0].1 <= pair[1].0));
                prop_assert!(data.iter().all(|&(_, end)| end <= file.len() as u64));
            }
            Err(error) => {
                let CheckpointError::Gguf { offset, .. } = error else { panic!("{error:?}") };
                prop_assert!(offset <= file.len() as u64, "{}", error);
            }
        }
    }

    #[test]
    fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 2u32..4) {
        let _ = parse_gguf_header(Path::new("x"), &bytes);
        let file = [&b"GGUF"[..], &version.to_le_bytes(), &bytes].concat();
        let _ = parse_gguf_header(Path::new("x"), &file);
    }
}
