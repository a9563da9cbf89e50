//! Numbers to bytes.

use super::rows::*;
use super::*;

/// Root of the relative squared error of a packed row.
fn relative_error(row: &[f32], unpacked: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = row.iter().zip(unpacked).map(|(x, y)| square(f64::from(*x) - f64::from(*y))).sum();
    let size: f64 = row.iter().map(|x| square(f64::from(*x))).sum();
    if size == 0.0 { error } else { (error / size).sqrt() }
}

#[test]
fn rows_have_the_bytes_of_gguf() {
    let files = [
        (Format::F16, golden!("pack-f16")),
        (Format::Bf16, golden!("pack-bf16")),
        (Format::Q8_0, golden!("pack-q8_0")),
        (Format::Q4_0, golden!("pack-q4_0")),
        (Format::Q4_1, golden!("pack-q4_1")),
        (Format::Q5_0, golden!("pack-q5_0")),
        (Format::Q5_1, golden!("pack-q5_1")),
        (Format::Mxfp4, golden!("pack-mxfp4")),
    ];
    let rows = floats(golden!("rows"));
    for (format, want) in files {
        assert_eq!(want.len(), format.row_bytes(rows.len()).unwrap(), "{format}");
        for (r, (row, want)) in rows.chunks(256).zip(want.chunks(format.row_bytes(256).unwrap())).enumerate() {
            let got = packed(format, row, None);
            let size = format.block().bytes;
            for (b, (got, want)) in got.chunks(size).zip(want.chunks(size)).enumerate() {
                assert_eq!(got, want, "{format}, row {r}, block {b}");
            }
        }
    }
}

#[test]
fn errors_on_normal_rows_are_in_their_bands() {
    let mut failed = Vec::new();
    for format in Format::ALL {
        for (seed, scale) in [1e-2, 1.0, 1e2].into_iter().enumerate() {
            let row = row(Kind::Normal, 4096, scale, seed as u64);
            let error = relative_error(&row, &unpacked(format, &packed(format, &row, None)));
            let most = f64::from(format.normal_error());
            if !(0.9 * most..=most).contains(&error) {
                failed.push(format!("{format}, deviation {scale}: {error:.3e} instead of {most:.3e}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn errors_of_elements_are_bounded() {
    // The greatest error as a share of the block's greatest magnitude, for the formats whose codes are rounded without
    // a search; a minimum doubles what the codes span.
    let bounds = [
        (Format::Q8_0, 1.0 / 254.0 + 1.0 / 2048.0),
        (Format::Q4_0, 1.0 / 8.0 + 1.0 / 2048.0),
        (Format::Q5_0, 1.0 / 16.0 + 1.0 / 2048.0),
        (Format::Q4_1, 2.0 / 30.0 + 3.0 / 2048.0),
        (Format::Q5_1, 2.0 / 62.0 + 3.0 / 2048.0),
        (Format::Mxfp4, 0.25),
    ];
    for (format, bound) in bounds {
        for kind in KINDS {
            let row = row(kind, 8192, 0.3, 3);
            let values = unpacked(format, &packed(format, &row, None));
            for (x, y) in row.chunks(32).zip(values.chunks(32)) {
                let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let error = x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(error <= bound * most, "{format}, {kind:?}: {error} of {most}");
            }
        }
    }
}

#[test]
fn other_rows_have_errors_of_the_same_size() {
    for format in QUANTIZED {
        for (kind, factor) in [(Kind::Uniform, 1.0), (Kind::HeavyTailed, 1.6), (Kind::Constant, 1.0)] {
            let row = row(kind, 4096, 0.05, 5);
            let error = relative_error(&row, &unpacked(format, &packed(format, &row, None)));
            let most = factor * f64::from(format.normal_error());
            // A constant may lie anywhere between two values of MXFP4.
            let most = if format == Format::Mxfp4 { 0.25 } else { most };
            assert!(error <= most, "{format}, {kind:?}: {error:.3e} instead of {most:.3e}");
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for format in Format::ALL {
        for importance in [None, Some(&[1.0; 256][..]), Some(&[0.0; 256][..])] {
            for y in unpacked(format, &packed(format, &[0.0; 256], importance)) {
                assert_eq!(y, 0.0, "{format}");
            }
        }
    }
}

#[test]
fn an_outlier_is_kept() {
    for format in QUANTIZED {
        for outlier in [1000.0_f32, -1000.0] {
            let mut row = [0.0; 256];
            row[100] = outlier;
            let values = unpacked(format, &packed(format, &row, None));
            let bound = if format == Format::Mxfp4 { 0.25 } else { 1e-3 };
            assert!((values[100] / outlier - 1.0).abs() <= bound, "{format}: {} of {outlier}", values[100]);
            // No value of IQ4 is zero; the least one is a 127th of the greatest.
            let others =
                values.iter().enumerate().filter(|(i, _)| *i != 100).fold(0.0_f32, |most, (_, y)| most.max(y.abs()));
            assert!(others <= outlier.abs() / 100.0, "{format}: {others}");
        }
    }
}

#[test]
fn subnormal_rows_become_nearly_zero() {
    for format in Format::ALL {
        let row: Vec<f32> = row(Kind::Normal, 256, 1e-40, 9);
        for importance in [None, Some(&[1.0; 256][..])] {
            for (x, y) in row.iter().zip(unpacked(format, &packed(format, &row, importance))) {
                assert!((x - y).abs() <= 1e-38, "{format}: {x:e} became {y:e}");
            }
        }
    }
}

#[test]
fn rows_below_the_least_scale_are_no_worse_than_zeros() {
    // The least magnitude of an `f16` is 6·10⁻⁸.
    for format in QUANTIZED {
        for scale in [1e-5, 1e-6, 1e-7, 1e-8] {
            let row = row(Kind::Normal, 256, scale, 9);
            let error = relative_error(&row, &unpacked(format, &packed(format, &row, Some(&[1.0; 256]))));
            // The weights are not equal, so the plain error may be a little greater.
            assert!(error <= 1.05, "{format}, {scale:e}: {error}");
        }
    }
}

#[test]
fn the_largest_magnitudes_are_stored() {
    for format in Format::ALL {
        let most = format.largest();
        let alternating: Vec<f32> = (0..256).map(|i| [most, -most, most / 2.0, 0.0][i % 4]).collect();
        for row in [vec![most; 256], vec![-most; 256], alternating] {
            for importance in [None, Some(&[1.0; 256][..])] {
                for (x, y) in row.iter().zip(unpacked(format, &packed(format, &row, importance))) {
                    assert!(y.is_finite() && (x / most - y / most).abs() <= 0.36, "{format}: {x:e} became {y:e}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_spoils_its_own_block_only() {
    for format in Format::ALL {
        let Block { elements, bytes } = format.block();
        let good = row(Kind::Normal, 2 * elements.max(32), 1.0, 1);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -f32::MAX] {
            for spoiled in [vec![bad; elements], [vec![bad], vec![0.5; elements - 1]].concat()] {
                let mut row = good.clone();
                row[..elements].copy_from_slice(&spoiled);
                assert_eq!(packed(format, &row, None)[bytes..], packed(format, &good, None)[bytes..], "{format}");
                // With importance and without: no panic.
                packed(format, &row, Some(&vec![1.0; row.len()]));
                packed(format, &good, Some(&vec![bad; row.len()]));
            }
        }
    }
}

#[test]
fn importance_moves_the_error_to_where_it_counts_less() {
    let row = row(Kind::Normal, 4096, 0.02, 8);
    let importance: Vec<f32> = (0..row.len()).map(|i| if i % 8 == 0 { 100.0 } else { 1.0 }).collect();
    let searched = QUANTIZED.into_iter().filter(|format| !matches!(format, Format::Q8_0 | Format::Mxfp4));
    for format in searched {
        let error = |importance: Option<&[f32]>| {
            let values = unpacked(format, &packed(format, &row, importance));
            let every_eighth = |x: &[f32]| x.iter().copied().step_by(8).collect::<Vec<f32>>();
            relative_error(&every_eighth(&row), &every_eighth(&values))
        };
        let (without, with) = (error(None), error(Some(&importance)));
        assert!(with < 0.95 * without, "{format}: {with:.3e} instead of {without:.3e}");
    }
}
