//! Numbers that are not finite are found, and no others, whatever the bytes.

use proptest::prelude::*;

use smallmind_kernels::{Format, FormatKind};

/// The first number that is not finite among all.
fn unpacked(format: Format, bytes: &[u8]) -> Option<(usize, f32)> {
    let block = format.block();
    let mut values = vec![0.0; bytes.len() / block.bytes * block.elements];
    format.unpack(bytes, &mut values);
    let at = values.iter().position(|x| !x.is_finite())?;
    Some((at, values[at]))
}

fn same(format: Format, bytes: &[u8]) -> bool {
    // The bits of a NaN may differ.
    let [found, expected] =
        [format.first_non_finite(bytes), unpacked(format, bytes)].map(|found| found.map(|(at, x)| (at, x.to_string())));
    assert_eq!(found, expected, "{format}: {bytes:?}");
    found.is_some()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(seed in prop::collection::vec(any::<u8>(), 3 * 256), format in prop::sample::select(&Format::ALL[..])) {
        let size = format.block().bytes;
        same(format, &seed[..seed.len() / size * size]);
    }
}

#[test]
fn every_byte_of_a_block_with_a_large_exponent() {
    for format in Format::ALL.into_iter().filter(|format| format.kind() == FormatKind::Blocks) {
        let size = format.block().bytes;
        let mut found = 0;
        for at in 0..2 * size {
            for byte in [0x7b, 0x7c, 0x7f, 0xfc, 0xfd, 0xfe, 0xff] {
                let mut bytes = vec![0x77; 3 * size];
                bytes[size + at] = byte;
                found += usize::from(same(format, &bytes));
            }
        }
        assert!(found > 0, "{format}");
        assert!(!same(format, &vec![0x77; 3 * size]) && !same(format, &[]), "{format}");
    }
}
