//! What is written as GGUF is read back equal; what can't be stored is refused; files that the Python package `gguf`
//! wrote are read, and what is written equals its bytes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use smallmind_checkpoint::{
    CheckpointError, Dtype, GgmlType, GgufArray, GgufData, GgufFile, GgufStrings, GgufValue, GgufWriter, StoredTensor,
    TensorData, TensorFault, TensorFormat, TensorSource, TensorWriter, WeightFiles, WriteFault, parse_gguf_header,
    write_file_atomic,
};

use crate::common::Scratch;

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_]{0,12}", prop::collection::vec(any::<char>(), 0..8).prop_map(String::from_iter)]
}

fn any_array() -> impl Strategy<Value = GgufArray> {
    fn numbers<T: Arbitrary>() -> impl Strategy<Value = Vec<T>> {
        prop::collection::vec(any::<T>(), 0..20)
    }
    let leaf = prop_oneof![
        numbers().prop_map(GgufArray::U8),
        numbers().prop_map(GgufArray::I8),
        numbers().prop_map(GgufArray::U16),
        numbers().prop_map(GgufArray::I16),
        numbers().prop_map(GgufArray::U32),
        numbers().prop_map(GgufArray::I32),
        numbers().prop_map(GgufArray::F32),
        numbers().prop_map(GgufArray::Bool),
        prop::collection::vec(any_text(), 0..20).prop_map(|texts| GgufArray::Strings(texts.iter().collect())),
        numbers().prop_map(GgufArray::U64),
        numbers().prop_map(GgufArray::I64),
        numbers().prop_map(GgufArray::F64),
    ];
    // Three levels around a leaf, so at most four.
    leaf.prop_recursive(3, 40, 5, |inner| prop::collection::vec(inner, 0..5).prop_map(GgufArray::Arrays))
}

fn any_value() -> impl Strategy<Value = GgufValue> {
    prop_oneof![
        1 => any::<u8>().prop_map(GgufValue::U8),
        1 => any::<i8>().prop_map(GgufValue::I8),
        1 => any::<u16>().prop_map(GgufValue::U16),
        1 => any::<i16>().prop_map(GgufValue::I16),
        1 => any::<u32>().prop_map(GgufValue::U32),
        1 => any::<i32>().prop_map(GgufValue::I32),
        1 => any::<f32>().prop_map(GgufValue::F32),
        1 => any::<bool>().prop_map(GgufValue::Bool),
        1 => any_text().prop_map(GgufValue::String),
        6 => any_array().prop_map(GgufValue::Array),
        1 => any::<u64>().prop_map(GgufValue::U64),
        1 => any::<i64>().prop_map(GgufValue::I64),
        1 => any::<f64>().prop_map(GgufValue::F64),
    ]
}

/// Type, shape (the slowest dimension first), bytes.
fn any_tensor() -> impl Strategy<Value = (GgmlType, Vec<usize>, Vec<u8>)> {
    let types: Vec<GgmlType> = GgmlType::all().collect();
    (prop::sample::select(types), prop::collection::vec(1usize..4, 0..4), 1usize..4, any::<bool>(), any::<u8>())
        .prop_map(|(ggml_type, mut shape, blocks, scalar, seed)| {
            if !(scalar && shape.is_empty() && ggml_type.block_elements() == 1) {
                shape.truncate(3);
                shape.push(blocks * ggml_type.block_elements());
            }
            let elements: usize = shape.iter().product();
            let bytes = ggml_type.bytes_of(elements as u64).unwrap() as usize;
            (ggml_type, shape, (0..bytes).map(|at| seed.wrapping_mul(31).wrapping_add(at as u8)).collect())
        })
}

/// Values bit for bit, NaN included.
fn same(a: &GgufValue, b: &GgufValue) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(
        metadata in prop::collection::btree_map("[a-z.]{1,10}", any_value(), 0..12),
        tensors in prop::collection::btree_map("[a-z.0-9]{1,20}", any_tensor(), 0..8),
        alignment in prop::sample::select(vec![None, Some(8u32), Some(32), Some(64), Some(4096)]),
        order in any::<bool>(),
    ) {
        let mut writer = GgufWriter::new();
        let mut expected: Vec<(String, GgufValue)> = metadata.into_iter().collect();
        expected.extend(alignment.map(|alignment| ("general.alignment".to_owned(), GgufValue::U32(alignment))));
        if order {
            expected.reverse();
        }
        for (key, value) in &expected {
            writer.set(key, value.clone()).unwrap();
        }
        for (name, (ggml_type, shape, bytes)) in &tensors {
            writer.add(name, shape, GgufData::Stored(*ggml_type, bytes)).unwrap();
        }
        let scratch = Scratch::new();
        let path = scratch.path().join("model.gguf");
        writer.write_file(&path).unwrap();

        let file = GgufFile::open(&path).unwrap();
        prop_assert_eq!(file.version(), 3);
        prop_assert_eq!(file.metadata().len(), expected.len());
        for ((key, value), (expected_key, expected)) in file.metadata().iter().zip(&expected) {
            prop_assert_eq!(key, expected_key);
            prop_assert!(same(value, expected), "{}: {:?} is not {:?}", key, value, expected);
            prop_assert!(same(file.metadata().get(key).unwrap(), expected));
        }
        prop_assert!(file.tensors().map(|tensor| &tensor.name).eq(tensors.keys()));
        for (name, (ggml_type, shape, bytes)) in &tensors {
            let tensor = file.tensor(name).unwrap();
            prop_assert_eq!((tensor.format, tensor.shape), (TensorFormat::from(*ggml_type), &shape[..]));
            prop_assert_eq!(&file.read_bytes(name).unwrap(), bytes);
            let mut part = vec![0; bytes.len() / 2];
            file.read_at(name, (bytes.len() - part.len()) as u64, &mut part).unwrap();
            prop_assert_eq!(&part[..], &bytes[bytes.len() - part.len()..]);
        }
        // Written again from what was read: the same bytes.
        let read: BTreeMap<_, _> = tensors.keys().map(|name| (name, file.read_bytes(name).unwrap())).collect();
        let mut again = GgufWriter::new();
        for (key, value) in file.metadata().iter() {
            again.set(key, value.clone()).unwrap();
        }
        for tensor in file.tensors() {
            again.add(&tensor.name, &tensor.shape, GgufData::Stored(tensor.ggml_type, &read[&tensor.name])).unwrap();
        }
        let mut bytes = Vec::new();
        again.write_to(&mut bytes).unwrap();
        prop_assert!(bytes == std::fs::read(&path).unwrap());
    }
}

/// The same tensors in a safetensors file and a GGUF file.
fn both_kinds(scratch: &Scratch, values: &[f32]) -> [Box<dyn TensorSource>; 2] {
    let (safetensors, gguf) = (scratch.path().join("m.safetensors"), scratch.path().join("m.gguf"));
    let mut tensors = TensorWriter::new();
    tensors.add("bf16", &[3, 4], TensorData::Bf16(values)).unwrap();
    tensors.add("f16", &[3, 4], TensorData::F16(values)).unwrap();
    tensors.add("f32", &[3, 4], TensorData::F32(values)).unwrap();
    write_file_atomic(&safetensors, |out| tensors.write_to(out)).unwrap();
    let mut writer = GgufWriter::new();
    writer.add("bf16", &[3, 4], GgufData::Bf16(values)).unwrap();
    writer.add("f16", &[3, 4], GgufData::F16(values)).unwrap();
    writer.add("f32", &[3, 4], GgufData::F32(values)).unwrap();
    writer.write_file(&gguf).unwrap();
    [Box::new(WeightFiles::open_file(safetensors).unwrap()), Box::new(GgufFile::open(gguf).unwrap())]
}

#[test]
fn both_kinds_of_files_are_one_source() {
    let scratch = Scratch::new();
    let values: Vec<f32> = (0..12).map(|i| i as f32 * 0.25 - 1.0).collect();
    for source in both_kinds(&scratch, &values) {
        let listed: Vec<_> = source.tensors().map(|tensor| tensor.name.to_owned()).collect();
        let mut sorted = listed.clone();
        sorted.sort();
        assert_eq!(sorted, ["bf16", "f16", "f32"]);
        let dtypes = [("bf16", Dtype::Bf16, 24), ("f16", Dtype::F16, 24), ("f32", Dtype::F32, 48)];
        for (name, dtype, bytes) in dtypes {
            let expected = StoredTensor { name, shape: &[3, 4], format: dtype.into(), bytes };
            assert_eq!(source.tensor(name).unwrap(), expected);
            assert_eq!((expected.rows(), expected.row_elements(), expected.elements()), (3, 4, 12));
            let mut all = [f32::NAN; 12];
            source.read_finite_f32(name, &mut all).unwrap();
            assert_eq!(all[..], values);
            for (first, count) in [(0, 1), (1, 2), (2, 1), (3, 0)] {
                let mut rows = vec![f32::NAN; 4 * count];
                source.read_rows_f32(name, first, &mut rows).unwrap();
                assert_eq!(rows, values[4 * first..][..4 * count], "{name}");
            }
        }
        let fault = |result: Result<(), CheckpointError>| match result {
            Err(CheckpointError::Tensor { fault, .. }) => fault,
            other => panic!("{other:?}"),
        };
        let mut rows = [0.0; 8];
        let outside = fault(source.read_rows_f32("f16", 2, &mut rows));
        assert!(matches!(outside, TensorFault::OutsideTensor { unit: "rows", end: 4, available: 3 }), "{outside:?}");
        let partial = fault(source.read_rows_f32("f16", 0, &mut rows[..6]));
        assert!(matches!(partial, TensorFault::PartialRows { row: 4, wanted: 6 }), "{partial:?}");
        let outside = fault(source.read_at("f32", 41, &mut [0; 8]));
        assert!(matches!(outside, TensorFault::OutsideTensor { unit: "bytes", end: 49, .. }), "{outside:?}");
        assert!(matches!(fault(source.read_at("f32", u64::MAX, &mut [0; 8])), TensorFault::OutsideTensor { .. }));
        assert!(matches!(fault(source.read_f32("f32", &mut rows)), TensorFault::WrongLength { .. }));
        let missing = source.read_bytes("f33").unwrap_err().to_string();
        assert!(missing.contains("no such tensor among the 3; did you mean \"f32\"?"), "{missing}");
        assert!(source.contains("f16") && !source.contains("f33"));
    }
}

#[test]
fn blocks_are_no_rows_of_f32() {
    let scratch = Scratch::new();
    let mut writer = GgufWriter::new();
    writer.add("w", &[2, 32], GgufData::Stored(GgmlType::Q8_0, &[7; 68])).unwrap();
    writer.write_file(scratch.path().join("m.gguf")).unwrap();
    let file = GgufFile::open(scratch.path().join("m.gguf")).unwrap();
    let error = file.read_f32("w", &mut [0.0; 64]).unwrap_err().to_string();
    assert!(error.ends_with("tensor \"w\": dtype q8_0 can't be read as f32"), "{error}");
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    let scratch = Scratch::new();
    let mut writer = GgufWriter::new();
    writer.add("w", &[3], GgufData::F32(&[0.0, f32::NAN, 1.0])).unwrap();
    writer.write_file(scratch.path().join("m.gguf")).unwrap();
    let file = GgufFile::open(scratch.path().join("m.gguf")).unwrap();
    let error = file.read_finite_f32("w", &mut [0.0; 3]).unwrap_err().to_string();
    assert!(error.contains("tensor \"w\": element 1 is NaN"), "{error}");
}

#[test]
fn what_a_file_can_not_hold_is_refused() {
    let zeros = [0.0f32; 64];
    let long = "n".repeat(64);
    let mut writer = GgufWriter::new();
    let mut refused = |name: &str, shape: &[usize], data: GgufData<'static>, said: &str| {
        let error = writer.add(name, shape, data).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    const Q4: GgufData<'static> = GgufData::Stored(GgmlType::Q4_0, &[0; 18]);
    refused("", &[32], Q4, "the name is empty");
    refused(&long, &[32], Q4, "has 64 bytes, at most 63");
    refused("t", &[1, 1, 1, 1, 32], Q4, "over the limit of 4 dimensions");
    refused("t", &[0, 32], Q4, "dimension 1 is 0");
    refused("t", &[2, 16], Q4, "no whole number of blocks of q4_0");
    refused("t", &[64], Q4, "shape [64] of q4_0 takes 36 bytes, 18 were handed over");
    refused("t", &[1 << 40, 1 << 40], Q4, "overflows");
    writer.add("t", &[8, 8], GgufData::F32(&zeros)).unwrap();
    let error = writer.add("t", &[8, 8], GgufData::F32(&zeros)).unwrap_err();
    assert!(matches!(error, CheckpointError::Unwritable { fault: WriteFault::Taken, .. }), "{error}");
    assert!(writer.add("u", &[8, 4], GgufData::F16(&zeros)).unwrap_err().to_string().contains("takes 64 bytes, 128"));

    let key = |writer: &mut GgufWriter<'_>, key: &str, value| writer.set(key, value).map(drop).unwrap_err().to_string();
    assert!(key(&mut writer, "", GgufValue::U8(0)).contains("the name is empty"));
    assert!(key(&mut writer, &"k".repeat(65_536), GgufValue::U8(0)).contains("at most 65535"));
    assert!(key(&mut writer, "general.alignment", GgufValue::U32(24)).contains("a power of two"));
    assert!(key(&mut writer, "general.alignment", GgufValue::U64(32)).contains("of type u64, u32 is wanted"));
    let deep = (0..4).fold(GgufArray::U8(vec![1]), |inner, _| GgufArray::Arrays(vec![inner]));
    assert!(key(&mut writer, "deep", GgufValue::Array(deep)).contains("deeper than 4 levels"));
    let many = GgufArray::Arrays(vec![GgufArray::U8(Vec::new()); 65_537]);
    assert!(key(&mut writer, "many", GgufValue::Array(many)).contains("65537 nested arrays"));

    writer.set("k", GgufValue::U8(1)).unwrap().set("l", GgufValue::U8(2)).unwrap().set("k", GgufValue::U8(3)).unwrap();
    let mut file = Vec::new();
    writer.write_to(&mut file).unwrap();
    let header = parse_gguf_header(Path::new("m"), &file).unwrap();
    assert!(header.metadata.iter().eq([("k", &GgufValue::U8(3)), ("l", &GgufValue::U8(2))]));
}

#[test]
fn streamed_data_has_the_length_that_was_announced() {
    let written = |bytes: usize| {
        let write = move |out: &mut dyn Write| (0..bytes).try_for_each(|at| out.write_all(&[at as u8]));
        let mut writer = GgufWriter::new();
        writer.add("s", &[2, 32], GgufData::Streamed(GgmlType::Q8_0, &write)).unwrap();
        let mut file = Vec::new();
        writer.write_to(&mut file).map(|()| file).map_err(|error| error.to_string())
    };
    let file = written(68).unwrap();
    let tensor = &parse_gguf_header(Path::new("m"), &file).unwrap().tensors[0];
    assert!(file[tensor.offset as usize..].iter().copied().take(68).eq(0..68));
    assert_eq!(written(67).unwrap_err(), "tensor \"s\": 67 bytes of 68 were made");
    assert_eq!(written(69).unwrap_err(), "the tensor's data takes more than 68 bytes");
    let mut writer = GgufWriter::new();
    writer.add("h", &[1], GgufData::F16(&[1e6])).unwrap();
    assert!(writer.write_to(&mut Vec::new()).unwrap_err().to_string().contains("too large for F16"));
}

/// A file that `benchmarks/gguf/make_gguf.py` made.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The metadata of the golden files, but for what a split adds.
fn golden_metadata() -> Vec<(&'static str, GgufValue)> {
    let texts = |texts: &[&str]| GgufValue::Array(GgufArray::Strings(texts.iter().collect()));
    vec![
        ("general.architecture", GgufValue::String("llama".into())),
        ("u8", GgufValue::U8(200)),
        ("i8", GgufValue::I8(-100)),
        ("u16", GgufValue::U16(60_000)),
        ("i16", GgufValue::I16(-30_000)),
        ("u32", GgufValue::U32(4_000_000_000)),
        ("i32", GgufValue::I32(-2_000_000_000)),
        ("f32", GgufValue::F32(0.1)),
        ("bool", GgufValue::Bool(true)),
        ("string", GgufValue::String("naïve 🙂\n".into())),
        ("u64", GgufValue::U64(u64::MAX)),
        ("i64", GgufValue::I64(i64::MIN)),
        ("f64", GgufValue::F64(0.1)),
        ("array.u8", GgufValue::Array(GgufArray::U8(vec![1, 2, 255]))),
        ("array.i32", GgufValue::Array(GgufArray::I32(vec![-1, 0, 1]))),
        ("array.f32", GgufValue::Array(GgufArray::F32(vec![0.5, -0.25]))),
        ("array.bool", GgufValue::Array(GgufArray::Bool(vec![true, false, true]))),
        ("array.string", texts(&["<s>", "", "▁ä", "\u{0}"])),
        ("array.array", GgufValue::Array(GgufArray::Arrays(vec![GgufArray::I32(vec![1, 2]), GgufArray::I32(vec![3])]))),
    ]
}

/// The values of the golden tensors: `i / 8 − 4` and so on, exact in every type of plain numbers.
fn golden_values(elements: usize) -> Vec<f32> {
    (0..elements).map(|at| (at % 64) as f32 / 8.0 - 4.0).collect()
}

#[test]
fn a_file_of_the_package_gguf_is_read_and_written_byte_for_byte() {
    for (name, alignment) in [("plain.gguf", None), ("aligned.gguf", Some(64u32))] {
        let file = GgufFile::open(golden(name)).unwrap();
        let mut expected = golden_metadata();
        expected.extend(alignment.map(|alignment| ("general.alignment", GgufValue::U32(alignment))));
        assert_eq!(file.metadata().len(), expected.len());
        for (key, value) in &expected {
            assert_eq!(file.metadata().get(key), Some(value), "{key}");
        }
        for (tensor, shape) in
            [("f32", &[3, 5][..]), ("f16", &[2, 2, 4][..]), ("bf16", &[7][..]), ("f64", &[1, 1, 2, 3][..])]
        {
            assert_eq!(file.tensor(tensor).unwrap().shape, shape);
            let elements = file.tensor(tensor).unwrap().elements();
            let mut read = vec![f32::NAN; elements];
            file.read_f32(tensor, &mut read).unwrap();
            assert_eq!(read, golden_values(elements), "{tensor}");
        }
        assert_eq!(file.tensor("i32").unwrap().format, TensorFormat::Plain(Dtype::I32));
        for block in ["q4_0", "q8_0", "iq4_nl", "q6_k", "mxfp4"] {
            let format = TensorFormat::Blocks(GgmlType::from_name(block).unwrap());
            assert_eq!(file.tensor(block).unwrap().format, format);
        }

        let mut writer = GgufWriter::new();
        let data: Vec<_> = file.tensors().map(|tensor| file.read_bytes(&tensor.name).unwrap()).collect();
        for (key, value) in file.metadata().iter() {
            writer.set(key, value.clone()).unwrap();
        }
        for (tensor, bytes) in file.tensors().zip(&data) {
            writer.add(&tensor.name, &tensor.shape, GgufData::Stored(tensor.ggml_type, bytes)).unwrap();
        }
        let mut written = Vec::new();
        writer.write_to(&mut written).unwrap();
        assert!(written == std::fs::read(golden(name)).unwrap(), "{name}");
    }
}

#[test]
fn a_model_that_the_package_gguf_split_is_read_whole() {
    let whole = GgufFile::open(golden("plain.gguf")).unwrap();
    let split = GgufFile::open(golden("split-00001-of-00003.gguf")).unwrap();
    assert_eq!(split.parts().len(), 3);
    assert!(split.tensors().map(|tensor| &tensor.name).eq(whole.tensors().map(|tensor| &tensor.name)));
    for tensor in TensorSource::tensors(&whole) {
        assert_eq!(split.tensor(tensor.name).unwrap(), tensor);
        assert_eq!(split.read_bytes(tensor.name).unwrap(), whole.read_bytes(tensor.name).unwrap());
    }
    let strings = split.metadata().required::<&GgufStrings>("array.string").unwrap();
    assert_eq!(strings.iter().collect::<Vec<_>>(), ["<s>", "", "▁ä", "\u{0}"]);
}

/// Reads the files that `SMALLMIND_GGUF_FILES` lists, separated by colons, for `benchmarks/gguf/read_vocabularies.py`.
#[test]
#[ignore = "run by a script that compares what is printed"]
fn print_what_listed_files_hold() {
    let list = std::env::var("SMALLMIND_GGUF_FILES").unwrap_or_default();
    // The test's name may stand at the beginning of this line.
    println!();
    for path in list.split(':').filter(|path| !path.is_empty()) {
        let file = GgufFile::open(path).unwrap();
        for (key, value) in file.metadata().iter() {
            println!("{key}\t{}\t{}", value.describe(), hash(value));
        }
    }
}

/// FNV-1a over the bytes of a value as they stand in a file: the script computes the same.
fn hash(value: &GgufValue) -> String {
    let mut writer = GgufWriter::new();
    writer.set("k", value.clone()).unwrap();
    let mut file = Vec::new();
    writer.write_to(&mut file).unwrap();
    // Behind the beginning, the key and the type.
    let hash = file[37..]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
