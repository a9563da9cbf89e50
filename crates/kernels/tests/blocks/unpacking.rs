//! Bytes to numbers.

use smallmind_kernels::reference::blocks::unpacked as twin;

use super::*;

/// Blocks and their values by `gguf`.
fn goldens() -> Vec<(Format, Vec<u8>, Vec<f32>)> {
    let files = [
        (Format::F16, golden!("unpack-f16")),
        (Format::Bf16, golden!("unpack-bf16")),
        (Format::Q8_0, golden!("unpack-q8_0")),
        (Format::Q4_0, golden!("unpack-q4_0")),
        (Format::Q4_1, golden!("unpack-q4_1")),
        (Format::Q5_0, golden!("unpack-q5_0")),
        (Format::Q5_1, golden!("unpack-q5_1")),
        (Format::Q2K, golden!("unpack-q2_k")),
        (Format::Q3K, golden!("unpack-q3_k")),
        (Format::Q4K, golden!("unpack-q4_k")),
        (Format::Q5K, golden!("unpack-q5_k")),
        (Format::Q6K, golden!("unpack-q6_k")),
        (Format::Iq4Nl, golden!("unpack-iq4_nl")),
        (Format::Iq4Xs, golden!("unpack-iq4_xs")),
        (Format::Mxfp4, golden!("unpack-mxfp4")),
    ];
    let read = |(format, file): (Format, &[u8])| {
        let Block { elements, bytes } = format.block();
        let (blocks, values) = file.split_at(file.len() / (bytes + 4 * elements) * bytes);
        (format, blocks.to_vec(), floats(values))
    };
    files.into_iter().map(read).collect()
}

#[test]
fn random_bytes_have_the_bits_of_gguf() {
    for (format, bytes, want) in goldens() {
        assert!(want.len() >= 900, "{format}");
        let got = unpacked(format, &bytes);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{format}, element {i}: {got} instead of {want}");
        }
        assert_eq!(got.len(), want.len());
    }
}

#[test]
fn random_bytes_are_near_the_twin() {
    for (format, bytes, _) in goldens() {
        let got = unpacked(format, &bytes);
        let want = twin(format, &bytes);
        // Products and sums of magnitudes up to the block's greatest product are rounded at most four times; a minimum
        // may cancel them.
        let block = format.block().elements.max(8);
        for (start, (got, want)) in got.chunks(block).zip(want.chunks(block)).enumerate() {
            let most = want.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let bound = most * 4.0 * f64::from(f32::EPSILON);
                let i = start * block + i;
                assert!((f64::from(*got) - want).abs() <= bound, "{format}, element {i}: {got} instead of {want}");
            }
        }
    }
}

#[test]
fn scales_that_are_not_finite_do_not_panic() {
    for format in Format::ALL {
        let bytes = vec![0xff; 2 * format.block().bytes];
        assert_eq!(unpacked(format, &bytes).len(), 2 * format.block().elements);
    }
}
