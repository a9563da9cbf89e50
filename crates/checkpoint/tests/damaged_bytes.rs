//! Files cut at every byte, with every bit flipped, of random bytes, and cut while they are open: errors, never a
//! panic.

mod common;
#[path = "gguf/damaged.rs"]
mod gguf;

use std::path::Path;

use common::{SMALL, Scratch, safetensors};
use proptest::prelude::*;
use smallmind_checkpoint::{
    CheckpointError, HeaderFault, TensorFault, TensorFile, WeightFiles, parse_header, parse_json,
};

/// Opens a file and, where that succeeds, reads all that it says it holds.
fn open_and_read(path: &Path) -> Result<usize, CheckpointError> {
    let file = TensorFile::open(path)?;
    let mut bytes = 0;
    for info in file.tensors() {
        assert_eq!(info.elements() * info.dtype.size(), info.bytes as usize);
        bytes += file.read_bytes(&info.name)?.len();
        if info.dtype.is_float() {
            file.read_f32(&info.name, &mut vec![f32::NAN; info.elements()])?;
        }
    }
    Ok(bytes)
}

#[test]
fn every_prefix_is_refused() {
    let scratch = Scratch::new();
    let whole = safetensors(SMALL, 32);
    for len in 0..whole.len() {
        let error = open_and_read(&scratch.file("cut.safetensors", &whole[..len])).expect_err("a prefix");
        let header_end = 8 + SMALL.len();
        let right = match &error {
            CheckpointError::Header { fault: HeaderFault::TooShort { .. }, .. } => len < 8,
            CheckpointError::Header { fault: HeaderFault::BeyondFile { .. }, .. } => (8..header_end).contains(&len),
            CheckpointError::Tensor { fault: TensorFault::BeyondFile { .. }, .. } => len >= header_end,
            _ => false,
        };
        assert!(right, "{len}: {error:?}");
    }
    assert_eq!(open_and_read(&scratch.file("whole.safetensors", &whole)).unwrap(), 32);
}

#[test]
fn every_flipped_bit_of_the_header_gives_an_error_or_a_valid_file() {
    let scratch = Scratch::new();
    let whole = safetensors(SMALL, 32);
    let (mut refused, mut valid) = (0, 0);
    for bit in 0..8 * (8 + SMALL.len()) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match open_and_read(&scratch.file("flipped.safetensors", &flipped)) {
            // A flip inside a name or a text leaves another file that is whole.
            Ok(bytes) => {
                assert_eq!(bytes, 32, "bit {bit}");
                valid += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > valid && valid > 0, "{refused} refused, {valid} valid");
}

#[test]
fn a_file_cut_short_while_it_is_open_is_an_error() {
    let scratch = Scratch::new();
    let header = r#"{"a":{"dtype":"F32","shape":[50000],"data_offsets":[0,200000]},"h":{"dtype":"F16","shape":[50000],"data_offsets":[200000,300000]}}"#;
    let path = scratch.file("model.safetensors", safetensors(header, 300_000));
    let weights = WeightFiles::open_file(&path).unwrap();
    let mut out = vec![0.0; 50_000];
    weights.read_f32("h", &mut out).unwrap();

    let cut = |len: usize| {
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len((8 + header.len() + len) as u64).unwrap();
    };
    cut(299_999);
    weights.read_f32("a", &mut out).unwrap();
    let short = |error: CheckpointError, tensor: &str| {
        assert!(matches!(error, CheckpointError::Tensor { fault: TensorFault::CutShort { .. }, .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("tensor {tensor:?}: the file was cut short")), "{error}");
    };
    short(weights.read_f32("h", &mut out).unwrap_err(), "h");
    short(weights.read_bytes("h").unwrap_err(), "h");
    cut(0);
    short(weights.read_finite_f32("a", &mut out).unwrap_err(), "a");
}

#[test]
fn a_file_without_permission_is_an_error() {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new();
        let path = scratch.file("model.safetensors", safetensors(SMALL, 32));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        // The superuser may read it all the same.
        if let Err(error) = TensorFile::open(&path) {
            assert!(error.to_string().contains("check who owns it"), "{error}");
        }
    }
}

/// JSON out of the parts that headers are made of, mostly wrong.
fn header_like() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"dtype\":\"F32\"",
            "\"shape\":[1]",
            "\"data_offsets\":[0,4]",
            "\"__metadata__\":{",
            "\"t\":{",
            "\"\"",
            "\"k\":\"v\"",
            "-1",
            "1e9",
            "null",
            "\\",
            "\"",
            " ",
            "18446744073709551615",
            "\u{0}",
            "ü",
        ])
        .prop_map(str::to_owned),
        any::<u64>().prop_map(|number| number.to_string()),
    ];
    prop::collection::vec(token, 0..24).prop_map(|tokens| format!("{{{}", tokens.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), data in any::<u64>()) {
        let _ = parse_header(Path::new("x"), &bytes, data);
        let _ = parse_json(Path::new("x"), &bytes);
    }

    #[test]
    fn any_tokens_are_no_panic(text in header_like(), data in prop_oneof![0u64..64, any::<u64>()]) {
        if let Ok(header) = parse_header(Path::new("x"), text.as_bytes(), data) {
            let sum: u64 = header.tensors.iter().map(|info| info.bytes).sum();
            prop_assert_eq!(sum, data);
        }
        let _ = parse_json(Path::new("x"), text.as_bytes());
    }

    /// Layouts that are right or off by one somewhere: accepted exactly when the tensors lie end to end.
    #[test]
    fn any_layout_is_checked(
        tensors in prop::collection::vec((0u64..5, off_by_one(), off_by_one()), 0..4),
        behind in off_by_one(),
    ) {
        let (mut list, mut covered, mut position, mut right) = (Vec::new(), Vec::new(), 1u64, true);
        for (i, &(len, off_begin, off_end)) in tensors.iter().enumerate() {
            // Counted from 1, so that one less is not below zero; the first byte is a tensor of its own.
            let (begin, end) = (position.wrapping_add_signed(off_begin), (position + len).wrapping_add_signed(off_end));
            list.push(format!(r#""{i}":{{"dtype":"I8","shape":[{len},1],"data_offsets":[{begin},{end}]}}"#));
            // An empty tensor that sits at another border of the layout is as good as one at its own.
            right &= end >= begin && end - begin == len;
            covered.push((begin, end));
            position += len;
        }
        list.push(r#""first":{"dtype":"BOOL","shape":[],"data_offsets":[0,1]}"#.to_owned());
        let data = position.wrapping_add_signed(behind);
        covered.push((0, 1));
        covered.sort_unstable();
        right &= covered.windows(2).all(|pair| pair[0].1 == pair[1].0) && covered.last().unwrap().1 == data;
        let result = parse_header(Path::new("x"), format!("{{{}}}", list.join(",")).as_bytes(), data);
        prop_assert_eq!(result.is_ok(), right, "{:?} in {} bytes: {:?}", covered, data, result);
    }
}

fn off_by_one() -> impl Strategy<Value = i64> {
    prop_oneof![12 => Just(0i64), 1 => Just(-1), 1 => Just(1)]
}
