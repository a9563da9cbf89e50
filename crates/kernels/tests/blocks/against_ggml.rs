//! Errors of packed rows beside those of GGML (`benchmarks/goldens/compare_with_ggml.py`).

use std::collections::HashMap;
use std::path::Path;

use super::*;

/// Weights of squared errors: a format's own ones, or those that follow from an importance matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weights {
    Own,
    Importance,
}

/// The importance of the elements of a row: a function that the script has too.
fn importance(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 % 101) as f64 / 50.0 + 0.02) as f32).collect()
}

fn mean_square(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / x.len() as f64
}

/// The weights of GGML's searches, for a row.
fn weights(format: Format, row: &[f32], kind: Weights) -> Vec<f64> {
    let block = match format {
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => row.len(),
        _ => format.block().elements,
    };
    let double =
        if format.block().elements == 256 && format != Format::Q2K || format == Format::Iq4Nl { 2.0 } else { 1.0 };
    let importance = importance(row.len());
    let weight = |i: usize| {
        let x = f64::from(row[i]);
        let around = |len: usize| mean_square(&row[i / len * len..][..len]);
        match (kind, format) {
            (Weights::Importance, Format::Q6K) => f64::from(importance[i]),
            (Weights::Importance, _) => f64::from(importance[i]) * (double * around(block) + x * x).sqrt(),
            (Weights::Own, Format::Q2K) => x.abs(),
            (Weights::Own, Format::Q4K | Format::Q5K) => around(32).sqrt() + x.abs(),
            (Weights::Own, _) => x * x,
        }
    };
    (0..row.len()).map(weight).collect()
}

/// Weighted and plain squared error of a row's blocks.
fn errors(format: Format, row: &[f32], kind: Weights, bytes: &[u8]) -> [f64; 2] {
    let weights = weights(format, row, kind);
    let mut sums = [0.0; 2];
    for ((x, y), w) in row.iter().zip(unpacked(format, bytes)).zip(weights) {
        let square = (f64::from(*x) - f64::from(y)).powi(2);
        sums[0] += w * square;
        sums[1] += square;
    }
    sums
}

fn packed_by(kind: Weights, format: Format, row: &[f32]) -> Vec<u8> {
    packed(format, row, (kind == Weights::Importance).then(|| importance(row.len())).as_deref())
}

#[test]
fn searched_scales_cost_no_more_than_those_of_ggml() {
    /// The most that the geometric mean of all rows may be, as a share of GGML's error: what it is, and 1 % more.
    const MEANS: [(&str, &str, f64); 18] = [
        ("iq4_nl", "importance", 0.743),
        ("iq4_nl", "own", 0.636),
        ("iq4_xs", "importance", 0.305),
        ("iq4_xs", "own", 0.626),
        ("q2_k", "importance", 0.753),
        ("q2_k", "own", 0.860),
        ("q3_k", "importance", 0.732),
        ("q3_k", "own", 0.548),
        ("q4_0", "importance", 0.979),
        ("q4_1", "importance", 0.878),
        ("q4_k", "importance", 0.549),
        ("q4_k", "own", 0.578),
        ("q5_0", "importance", 0.819),
        ("q5_1", "importance", 0.835),
        ("q5_k", "importance", 0.466),
        ("q5_k", "own", 0.540),
        ("q6_k", "importance", 0.443),
        ("q6_k", "own", 0.434),
    ];
    /// The most that a single block may cost more: both searches end in some local minimum.
    const ROW: f64 = 1.04;
    let rows = floats(golden!("rows"));
    let lines = include_str!("../goldens/ggml-errors.txt");
    let mut failed = Vec::new();
    let mut ratios = HashMap::<(&str, &str), Vec<f64>>::new();
    for line in lines.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let format = Format::from_name(fields[0]).unwrap();
        let kind = if fields[1] == "own" { Weights::Own } else { Weights::Importance };
        let row = &rows[256 * fields[2].parse::<usize>().unwrap()..][..256];
        let want: f64 = fields[3].parse().unwrap();
        let [error, _] = errors(format, row, kind, &packed_by(kind, format, row));
        // What is left of a row of equal elements is the rounding of scales to `f16`.
        let rounding = weights(format, row, kind).iter().zip(row).map(|(w, x)| w * f64::from(*x).powi(2)).sum::<f64>();
        let rounding = rounding * 2.0_f64.powi(-22);
        if error > ROW * want.max(rounding) {
            failed.push(format!("{line}: {error:.3e}"));
        }
        if want > rounding {
            ratios.entry((fields[0], fields[1])).or_default().push(error / want);
        }
    }
    for ((format, kind), ratios) in ratios {
        let mean = (ratios.iter().map(|ratio| ratio.max(1e-3).ln()).sum::<f64>() / ratios.len() as f64).exp();
        let &(_, _, most) = MEANS.iter().find(|of| (of.0, of.1) == (format, kind)).expect("every format has a bound");
        if mean > most || ratios.len() < 12 {
            failed.push(format!("{format}, {kind}: {mean:.4} of GGML's error in {} rows", ratios.len()));
        }
    }
    assert_eq!(lines.lines().count(), 16 * (2 * 7 + 4));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
#[ignore = "prints a table; SMALLMIND_GGML_BLOCKS is the folder of GGML's blocks"]
fn errors_beside_ggml() {
    const COLS: usize = 1024;
    let folder = std::env::var("SMALLMIND_GGML_BLOCKS").expect("SMALLMIND_GGML_BLOCKS is set");
    let read = |name: String| std::fs::read(Path::new(&folder).join(name)).ok();
    println!("{:<8} {:<9} {:<10} ours/GGML: weighted plain; rows where ours is more", "format", "rows", "weights");
    for format in QUANTIZED {
        for distribution in ["normal", "uniform", "heavy", "positive", "constant", "small"] {
            let rows = floats(&read(format!("{distribution}.rows")).expect("rows of the script"));
            for (kind, name) in [(Weights::Own, "own"), (Weights::Importance, "importance")] {
                let Some(theirs) = read(format!("{distribution}.{format}.{name}")) else { continue };
                let (mut ours_sum, mut theirs_sum, mut more) = ([0.0; 2], [0.0; 2], 0);
                let mut same = 0;
                for (row, theirs) in rows.chunks(COLS).zip(theirs.chunks(format.row_bytes(COLS).unwrap())) {
                    let blocks = packed_by(kind, format, row);
                    same += usize::from(blocks == theirs);
                    let (ours, theirs) = (errors(format, row, kind, &blocks), errors(format, row, kind, theirs));
                    more += usize::from(ours[0] > theirs[0]);
                    for i in 0..2 {
                        ours_sum[i] += ours[i];
                        theirs_sum[i] += theirs[i];
                    }
                }
                let [weighted, plain] = [0, 1].map(|i| ours_sum[i] / theirs_sum[i]);
                println!(
                    "{format:<8} {distribution:<9} {name:<10} {weighted:.4} {plain:.4}  {more} more, {same} the same"
                );
            }
        }
    }
}
