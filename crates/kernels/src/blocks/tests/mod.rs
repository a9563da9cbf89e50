//! The block formats against goldens of the Python package `gguf`, against their `f64` twins and against themselves.

mod against_ggml;
mod packing;
mod rows;
mod unpacking;

use super::*;

/// Formats that store numbers by codes and scales.
const QUANTIZED: [BlockFormat; 13] = [
    BlockFormat::Q8_0,
    BlockFormat::Q4_0,
    BlockFormat::Q4_1,
    BlockFormat::Q5_0,
    BlockFormat::Q5_1,
    BlockFormat::Q2K,
    BlockFormat::Q3K,
    BlockFormat::Q4K,
    BlockFormat::Q5K,
    BlockFormat::Q6K,
    BlockFormat::Iq4Nl,
    BlockFormat::Iq4Xs,
    BlockFormat::Mxfp4,
];

/// A file of `benchmarks/goldens/make_block_goldens.py`.
macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/goldens/", $name, ".bin")).as_slice()
    };
}
use golden;

fn packed(format: BlockFormat, row: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0xa5; format.row_bytes(row.len()).unwrap()];
    format.pack(row, importance, &mut bytes);
    bytes
}

fn unpacked(format: BlockFormat, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / format.block().bytes * format.block().elements];
    format.unpack(bytes, &mut out);
    out
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn formats_have_names_numbers_and_sizes() {
    for format in BlockFormat::ALL {
        assert_eq!(BlockFormat::from_name(format.name()), Some(format));
        assert_eq!(BlockFormat::from_ggml_type(format.ggml_type()), Some(format));
        let Block { elements, bytes } = format.block();
        assert_eq!(format.row_bytes(3 * elements), Some(3 * bytes));
        assert_eq!(format.row_bytes(elements + 1).is_none(), elements > 1);
    }
    assert_eq!(BlockFormat::from_name("Q4_K"), None);
    assert_eq!(BlockFormat::from_ggml_type(4), None);
    assert_eq!(BlockFormat::F32.row_bytes(usize::MAX), None);
    let bits = |format: BlockFormat| 8.0 * format.block().bytes as f64 / format.block().elements as f64;
    let sizes = QUANTIZED.map(bits);
    assert_eq!(sizes, [8.5, 4.5, 5.0, 5.5, 6.0, 2.625, 3.4375, 4.5, 5.5, 6.5625, 4.5, 4.25, 4.25]);
}

#[test]
#[should_panic(expected = "64 elements of q4_k in 36 bytes")]
fn a_row_that_is_not_whole_blocks_is_a_mistake() {
    BlockFormat::Q4K.pack(&[0.0; 64], None, &mut [0; 36]);
}
