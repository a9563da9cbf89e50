//! What is written is read back bit for bit, here and by the format's own library; what can't be stored is refused.

mod common;
#[path = "gguf/round_trip.rs"]
mod gguf;

use std::collections::BTreeMap;

use common::Scratch;
use proptest::prelude::*;
use smallmind_checkpoint::{
    CheckpointError, Dtype, MAX_NAME_BYTES, TensorData, TensorFault, TensorFile, TensorWriter, WeightFiles, WriteFault,
    write_file_atomic,
};

/// Values of a tensor, owned.
#[derive(Debug, Clone)]
enum Owned {
    Float(Dtype, Vec<f32>),
    U8(Vec<u8>),
    I64(Vec<i64>),
}

impl Owned {
    fn data(&self) -> TensorData<'_> {
        match self {
            Self::Float(Dtype::F16, values) => TensorData::F16(values),
            Self::Float(Dtype::Bf16, values) => TensorData::Bf16(values),
            Self::Float(_, values) => TensorData::F32(values),
            Self::U8(values) => TensorData::U8(values),
            Self::I64(values) => TensorData::I64(values),
        }
    }

    /// The elements as they have to stand in the file, one by one.
    fn stored(&self) -> Vec<u8> {
        match self {
            Self::Float(Dtype::F16, values) => {
                values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
            }
            Self::Float(Dtype::Bf16, values) => {
                values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect()
            }
            Self::Float(_, values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::U8(values) => values.clone(),
            Self::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(0), Just(1), 2usize..6, 15usize..18], 0..4)
}

fn tensor() -> impl Strategy<Value = (Vec<usize>, Owned)> {
    shape().prop_flat_map(|shape| {
        let n: usize = shape.iter().product();
        let any_bits = || prop::collection::vec(any::<u32>().prop_map(f32::from_bits), n);
        let small = |dtype| prop::collection::vec(-60000f32..60000.0, n).prop_map(move |v| Owned::Float(dtype, v));
        let owned = prop_oneof![
            any_bits().prop_map(|v| Owned::Float(Dtype::F32, v)),
            small(Dtype::F16),
            small(Dtype::Bf16),
            prop::collection::vec(any::<u8>(), n).prop_map(Owned::U8),
            prop::collection::vec(any::<i64>(), n).prop_map(Owned::I64),
        ];
        (Just(shape), owned)
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,4}(\\.[0-9]{1,2})?\\.(weight|bias)",
        "[ -~]{1,12}",
        // Quotes, control characters, other alphabets.
        prop::collection::vec(any::<char>(), 1..8).prop_map(|chars| chars.into_iter().collect()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_come_back(
        tensors in prop::collection::btree_map(name(), tensor(), 0..6),
        metadata in prop::collection::btree_map("[ -~äß\"\\\\]{0,9}", ".{0,20}", 0..3),
    ) {
        let scratch = Scratch::new();
        let path = scratch.path().join("model.safetensors");
        let mut writer = TensorWriter::new();
        for (name, (shape, owned)) in &tensors {
            writer.add(name, shape, owned.data()).unwrap();
        }
        for (key, value) in &metadata {
            writer.set_metadata(key, value).unwrap();
        }
        write_file_atomic(&path, |out| writer.write_to(out)).unwrap();

        let file = TensorFile::open(&path).unwrap();
        let mut expected = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        expected.extend(metadata.clone());
        prop_assert_eq!(file.metadata(), &expected);
        prop_assert_eq!(file.tensors().map(|info| &info.name).collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
        let content = std::fs::read(&path).unwrap();
        let other = safetensors::SafeTensors::deserialize(&content).unwrap();
        for (name, (shape, owned)) in &tensors {
            let info = file.info(name).unwrap();
            prop_assert_eq!(&info.shape, shape);
            prop_assert_eq!(info.dtype, owned.data().dtype());
            prop_assert_eq!(info.offset % info.dtype.size() as u64, 0);
            prop_assert_eq!(file.read_bytes(name).unwrap(), owned.stored());
            let view = other.tensor(name).unwrap();
            prop_assert_eq!(view.shape(), shape.as_slice());
            prop_assert_eq!(view.data(), owned.stored());
            prop_assert_eq!(view.dtype().to_string(), info.dtype.name());
            match owned {
                Owned::I64(values) => {
                    let mut out = vec![-1; values.len()];
                    file.read_i64(name, &mut out).unwrap();
                    prop_assert_eq!(&out, values);
                }
                Owned::Float(Dtype::F32, values) => {
                    let mut out = vec![f32::NAN; values.len()];
                    file.read_f32(name, &mut out).unwrap();
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    prop_assert_eq!(bits(&out), bits(values));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn long_tensors_of_every_float_type_are_read_over_chunk_borders() {
    let scratch = Scratch::new();
    for n in [4095, 4096, 4097, 10_001] {
        // Small integers are exact in every type.
        let values: Vec<f32> = (0..n).map(|i| (i % 251) as f32 - 125.0).collect();
        let doubles: Vec<u8> = values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
        let mut writer = TensorWriter::new();
        for (name, data) in
            [("F32", TensorData::F32(&values)), ("F16", TensorData::F16(&values)), ("BF16", TensorData::Bf16(&values))]
        {
            writer.add(name, &[n], data).unwrap();
        }
        let path = scratch.path().join("model.safetensors");
        write_file_atomic(&path, |out| writer.write_to(out)).unwrap();
        let header = format!(r#"{{"F64":{{"dtype":"F64","shape":[{n}],"data_offsets":[0,{}]}}}}"#, 8 * n);
        let mut content = common::safetensors(&header, 0);
        content.extend(doubles);
        let wide = TensorFile::open(scratch.file("wide.safetensors", content)).unwrap();
        let file = TensorFile::open(&path).unwrap();
        for (file, name) in [(&file, "F32"), (&file, "F16"), (&file, "BF16"), (&wide, "F64")] {
            let mut out = vec![f32::NAN; n];
            file.read_finite_f32(name, &mut out).unwrap();
            assert_eq!(out, values, "{name} {n}");
        }
    }
}

#[test]
fn files_of_the_formats_own_library_are_read() {
    use safetensors::tensor::{Dtype as Other, TensorView};
    let scratch = Scratch::new();
    let bytes: Vec<u8> = (0..48).collect();
    let views = [
        ("bool", Other::BOOL, vec![3], &bytes[..3]),
        ("f8", Other::F8_E4M3, vec![2, 2], &bytes[..4]),
        ("u16", Other::U16, vec![4], &bytes[..8]),
        ("f64", Other::F64, vec![2, 3], &bytes[..48]),
        ("empty", Other::F32, vec![0, 7], &bytes[..0]),
        ("scalar", Other::I32, vec![], &bytes[..4]),
    ]
    .map(|(name, dtype, shape, data)| (name, TensorView::new(dtype, shape, data).unwrap()));
    let content = safetensors::serialize(views.clone(), None).unwrap();
    let file = TensorFile::open(scratch.file("other.safetensors", content)).unwrap();
    for (name, view) in views {
        let info = file.info(name).unwrap();
        assert_eq!((info.dtype.name(), info.shape.as_slice()), (view.dtype().to_string().as_str(), view.shape()));
        assert_eq!(file.read_bytes(name).unwrap(), view.data());
    }
    assert!(file.metadata().is_empty());
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let values = [0.0f32; 6];
    let mut writer = TensorWriter::new();
    writer.add("t", &[2, 3], TensorData::F32(&values)).unwrap();
    let mut refuse = |name: &str, shape: &[usize], fault: WriteFault| {
        let error = writer.add(name, shape, TensorData::F32(&values)).unwrap_err();
        let CheckpointError::Unwritable { fault: found, .. } = error else { panic!("{error:?}") };
        assert_eq!(found, fault);
    };
    let mismatch = |shape: &str| WriteFault::SizeMismatch { shape: shape.to_owned(), found: 6 };
    refuse("", &[6], WriteFault::EmptyName);
    refuse("t", &[6], WriteFault::Taken);
    refuse("__metadata__", &[6], WriteFault::Reserved);
    refuse(&"n".repeat(MAX_NAME_BYTES + 1), &[6], WriteFault::LongName);
    refuse("u", &[5], mismatch("[5]"));
    refuse("u", &[], mismatch("[]"));
    refuse("u", &[0], mismatch("[0]"));
    refuse("u", &[0, usize::MAX, 2], mismatch(&format!("[0, {}, 2]", usize::MAX)));
    refuse("u", &[1; 17], WriteFault::OverLimit { what: "dimensions", limit: 16 });
    let error = writer.set_metadata("k", &"v".repeat(1 << 20)).unwrap_err();
    assert!(error.to_string().contains("over the limit of 699050 bytes in one metadata text"), "{error}");

    // The longest accepted, in characters that take six bytes each once escaped, is read back.
    let (name, text) = ("\u{1}".repeat(MAX_NAME_BYTES), "\u{1}".repeat((4 << 20) / 6));
    writer.add(&name, &[6], TensorData::F32(&values)).unwrap();
    writer.set_metadata("long", &text).unwrap();
    let scratch = Scratch::new();
    let path = scratch.path().join("model.safetensors");
    write_file_atomic(&path, |out| writer.write_to(out)).unwrap();
    let file = TensorFile::open(&path).unwrap();
    assert!(file.contains(&name) && file.metadata()["long"] == text);
}

#[test]
fn values_too_large_for_a_narrow_type_fail_the_writing() {
    let fails = |data: TensorData<'_>, n: usize| {
        let mut writer = TensorWriter::new();
        writer.add("w", &[n], data).unwrap();
        writer.write_to(&mut Vec::new()).err().map(|error| error.to_string())
    };
    let mut values = vec![1.0f32; 5000];
    values[4999] = 65519.996;
    assert_eq!(fails(TensorData::F16(&values), 5000), None);
    values[4999] = -65520.0;
    let text = fails(TensorData::F16(&values), 5000).unwrap();
    assert_eq!(text, r#"tensor "w": element 4999 is -65520, too large for F16; store F32"#);
    assert_eq!(fails(TensorData::Bf16(&values), 5000), None);
    assert!(fails(TensorData::Bf16(&[f32::MAX]), 1).unwrap().contains("too large for BF16"));
    assert_eq!(fails(TensorData::Bf16(&[f32::from_bits(0x7f7f_7fff)]), 1), None);
    // What was infinite before is stored as it is.
    assert_eq!(fails(TensorData::F16(&[f32::INFINITY, f32::NAN]), 2), None);
}

#[test]
fn reading_into_the_wrong_place_is_an_error() {
    let scratch = Scratch::new();
    let mut values = vec![1.0f32; 9000];
    values[8191] = f32::NEG_INFINITY;
    let mut writer = TensorWriter::new();
    writer.add("h.0.attn.c_attn.weight", &[90, 100], TensorData::F32(&values)).unwrap();
    writer.add("step", &[1], TensorData::I64(&[7])).unwrap();
    writer.add("rng", &[2], TensorData::U8(&[7, 8])).unwrap();
    let path = scratch.path().join("model.safetensors");
    write_file_atomic(&path, |out| writer.write_to(out)).unwrap();
    let weights = WeightFiles::open_file(&path).unwrap();
    let mut out = vec![0.0; 9000];
    let text = |result: Result<(), CheckpointError>, right: fn(&TensorFault) -> bool| {
        let error = result.unwrap_err();
        let CheckpointError::Tensor { fault, .. } = &error else { panic!("{error:?}") };
        assert!(right(fault), "{error:?}");
        error.to_string()
    };
    let name = "h.0.attn.c_attn.weight";
    let found = text(weights.read_finite_f32(name, &mut out), |f| matches!(f, TensorFault::NotFinite { .. }));
    assert!(found.contains("element 8191 is -inf"), "{found}");
    let found = text(weights.read_f32(name, &mut out[..8999]), |f| matches!(f, TensorFault::WrongLength { .. }));
    assert!(found.contains("shape [90, 100] has 9000 elements, 8999 are wanted"), "{found}");
    let found = text(weights.read_f32("step", &mut out[..1]), |f| matches!(f, TensorFault::WrongDtype { .. }));
    assert!(found.contains("dtype I64 can't be read as f32"), "{found}");
    let found = text(weights.read_i64("rng", &mut [0; 2]), |f| matches!(f, TensorFault::WrongDtype { .. }));
    assert!(found.contains("dtype U8 can't be read as i64"), "{found}");
    let found = text(weights.read_f32("transformer.h.0.attn.c_attn.weight", &mut out), |f| {
        matches!(f, TensorFault::NotFound { .. })
    });
    assert!(found.ends_with(r#"no such tensor among the 3; did you mean "h.0.attn.c_attn.weight"?"#), "{found}");
}

#[test]
fn shards_read_as_one() {
    let scratch = Scratch::new();
    let (a, b) = (vec![1.0f32; 12], vec![2.0f32; 5]);
    for (file, name, values) in [("sub/one.safetensors", "a", &a), ("two.safetensors", "b", &b)] {
        let path = scratch.file(file, "");
        let mut writer = TensorWriter::new();
        writer.add(name, &[values.len()], TensorData::F32(values)).unwrap();
        write_file_atomic(&path, |out| writer.write_to(out)).unwrap();
    }
    let index = r#"{"metadata":{"total_size":68},"weight_map":{"b":"two.safetensors","a":"sub/one.safetensors"}}"#;
    let weights = WeightFiles::open_index(scratch.file("model.safetensors.index.json", index)).unwrap();
    assert_eq!(weights.tensors().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.shards().len(), 2);
    for (name, values) in [("a", a), ("b", b)] {
        let mut out = vec![f32::NAN; values.len()];
        weights.read_finite_f32(name, &mut out).unwrap();
        assert_eq!(out, values);
    }
    let error = weights.read_bytes("aa").unwrap_err();
    assert!(error.to_string().contains("no such tensor among the 2"), "{error}");
}

/// Over sizes around the pieces in which a matrix is turned, and in both refusals.
#[test]
fn a_matrix_is_stored_as_its_transpose() {
    for (rows, cols) in
        [(0, 3), (3, 0), (1, 1), (1, 7), (7, 1), (3, 5), (31, 33), (32, 32), (33, 31), (1024, 2), (2, 1025)]
    {
        let values: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
        let turned: Vec<f32> = (0..cols).flat_map(|c| (0..rows).map(move |r| (r * cols + c) as f32)).collect();
        let bytes = |data| {
            let (mut writer, mut bytes) = (TensorWriter::new(), Vec::new());
            writer.add("x", &[cols, rows], data).unwrap();
            writer.write_to(&mut bytes).unwrap();
            bytes
        };
        let found = bytes(TensorData::F32Transposed { values: &values, rows, block: 1 });
        assert_eq!(found, bytes(TensorData::F32(&turned)), "{rows} x {cols}");
    }
    let values = [0.0; 6];
    for shape in [&[2, 3][..], &[6], &[3, 2, 1]] {
        let data = TensorData::F32Transposed { values: &values, rows: 2, block: 1 };
        let refused = TensorWriter::new().add("x", shape, data).err();
        assert!(refused.is_some(), "{shape:?}");
    }
}

/// With blocks longer than the pieces in which they are written, and of sizes that don't divide the values.
#[test]
fn a_matrix_of_blocks_is_stored_as_its_transpose() {
    for (rows, cols, block) in [(3, 4, 2), (3, 1, 5), (1, 3, 7), (3, 2, 4097)] {
        let values: Vec<f32> = (0..rows * cols * block).map(|i| i as f32).collect();
        let of = |c: usize, r: usize| values[(r * cols + c) * block..][..block].iter().copied();
        let turned: Vec<f32> = (0..cols).flat_map(|c| (0..rows).flat_map(move |r| of(c, r))).collect();
        // As a vector and as a matrix.
        for shape in [&[values.len()][..], &[rows * cols, block]] {
            let bytes = |data| {
                let (mut writer, mut bytes) = (TensorWriter::new(), Vec::new());
                writer.add("x", shape, data).unwrap();
                writer.write_to(&mut bytes).unwrap();
                bytes
            };
            let found = bytes(TensorData::F32Transposed { values: &values, rows, block });
            assert_eq!(found, bytes(TensorData::F32(&turned)), "{rows} x {cols} blocks of {block}");
        }
    }
    let values = [0.0; 12];
    for (rows, block) in [(3, 0), (0, 2), (5, 2), (usize::MAX, 2)] {
        let data = TensorData::F32Transposed { values: &values, rows, block };
        assert!(TensorWriter::new().add("x", &[12], data).is_err(), "{rows} rows of blocks of {block}");
    }
}
