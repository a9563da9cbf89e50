//! The block formats against goldens of the Python package `gguf`, against their `f64` twins and against themselves.

mod against_ggml;
mod packing;
mod rows;
mod unpacking;

use smallmind_kernels::{Block, Format};

/// Formats that store numbers by codes and scales.
const QUANTIZED: [Format; 13] = [
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q2K,
    Format::Q3K,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
    Format::Iq4Nl,
    Format::Iq4Xs,
    Format::Mxfp4,
];

/// A file of `benchmarks/goldens/make_block_goldens.py`.
macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../goldens/", $name, ".bin")).as_slice()
    };
}
use golden;

fn packed(format: Format, row: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0xa5; format.row_bytes(row.len()).unwrap()];
    format.pack(row, importance, &mut bytes);
    bytes
}

fn unpacked(format: Format, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / format.block().bytes * format.block().elements];
    format.unpack(bytes, &mut out);
    out
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn formats_have_names_numbers_and_sizes() {
    for format in Format::ALL {
        assert_eq!(Format::from_name(format.name()), Some(format));
        assert_eq!(Format::from_ggml_type(format.ggml_type()), Some(format));
        let Block { elements, bytes } = format.block();
        assert_eq!(format.row_bytes(3 * elements), Some(3 * bytes));
        assert_eq!(format.row_bytes(elements + 1).is_none(), elements > 1);
    }
    assert_eq!(Format::from_name("Q4_K"), None);
    assert_eq!(Format::from_ggml_type(4), None);
    assert_eq!(Format::F32.row_bytes(usize::MAX), None);
    let bits = |format: Format| 8.0 * format.block().bytes as f64 / format.block().elements as f64;
    let sizes = QUANTIZED.map(bits);
    assert_eq!(sizes, [8.5, 4.5, 5.0, 5.5, 6.0, 2.625, 3.4375, 4.5, 5.5, 6.5625, 4.5, 4.25, 4.25]);
}

#[test]
#[should_panic(expected = "64 elements of q4_k in 36 bytes")]
fn a_row_that_is_not_whole_blocks_is_a_mistake() {
    Format::Q4K.pack(&[0.0; 64], None, &mut [0; 36]);
}
