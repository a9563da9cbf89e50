//! Packed weights: where their elements are stored, and that products with them have the same bits as with weights in
//! rows.

use smallmind_kernels::embedding::{embedding, embedding_packed};

use super::*;

/// The product of `problem`, whose B is transposed, window by window, with B packed.
fn run_packed<I: Isa>(isa: I, problem: &Problem, windows: &[(Range<usize>, Range<usize>)]) -> Buffer {
    let (b, mut c) = (&problem.b, Buffer { data: problem.c.data.clone(), ..problem.c });
    let (n, k) = (b.rows, b.cols);
    let mut weight: Vec<f32> = (0..n).flat_map(|j| b.mat().row(j)).copied().collect();
    pack_weight(isa, &mut weight, n, k, &mut vec![f32::NAN; pack_weight_scratch_len(isa, k)]);
    let end = 3 + gemm_scratch_len(isa, c.rows, c.cols, k);
    let mut scratch = vec![f32::NAN; end];
    scratch.resize(end + 64, SENTINEL);
    let a = Operand { mat: problem.a.mat(), layout: problem.layouts[0] };
    for (rows, columns) in windows {
        let b = PackedWeight::new(isa, Format::F32, &weight, n, k).cols_range(columns.clone());
        let b = b.beyond_caches((n + k).is_multiple_of(2));
        let a = part(a, rows.clone(), 0..k);
        let window = c.mat_mut().rows_range(rows.clone()).cols_range(columns.clone());
        let epilogue = problem.epilogue(rows.clone(), columns.clone());
        gemm(isa, a, b, window, epilogue, &mut scratch[3..end]);
    }
    assert!(scratch[end..].iter().all(|&x| x == SENTINEL), "wrote past the scratch");
    c
}

fn assert_same<I: Isa>(problem: &Problem, windows: &[(Range<usize>, Range<usize>)], isa: I, what: &str) {
    let expected = problem.run(isa, &[problem.whole()]);
    let got = run_packed(isa, problem, windows);
    assert!(same_bits(&got, &expected), "{} {what}: other bits than in rows", I::KIND);
}

on_every_isa!(products_of_packed_weights_have_the_bits_of_those_in_rows, random_packed);
fn random_packed<I: Isa>(isa: I) {
    for seed in 0..10_000 {
        let mut noise = Noise(seed);
        let most = [8, 16, 40, 80][noise.below(4)];
        let [m, n, k] = [0; 3].map(|_| noise.below(most));
        let (layout, epilogue) = (LAYOUTS[noise.below(4)][0], noise.below(16));
        let problem = problem(&mut noise, [m, n, k], [layout, Layout::Transposed], epilogue);
        assert_same(&problem, &[problem.whole()], isa, &format!("seed {seed}"));
    }
}

on_every_isa!(blocks_and_windows_leave_the_bits_of_packed_weights_alone, packed_windows);
fn packed_windows<I: Isa>(isa: I) {
    let GemmSizes { tile_rows: rows, tile_cols: width, depth, block, .. } = gemm_sizes(isa);
    for (i, m) in [1, 2, rows, rows + 1, 5 * rows + 3, block / depth + 9].into_iter().enumerate() {
        // Few panels, and so many that a scattered A is packed; one block of the depth and several.
        for (n, k) in [(width + 3, depth), (2 * width - 1, 2 * depth + 7), (9 * width + I::LANES, 1500)] {
            let mut noise = Noise(i as u64);
            let epilogue = noise.below(16);
            let problem = problem(&mut noise, [m, n, k], [Layout::Normal, Layout::Transposed], epilogue);
            let (row, column) = (m / 2, I::LANES * (n / I::LANES / 2));
            let quarters = [(0..row, 0..column), (0..row, column..n), (row..m, 0..column), (row..m, column..n)];
            assert_same(&problem, &[problem.whole()], isa, &format!("{m}x{n}x{k}"));
            assert_same(&problem, &quarters, isa, &format!("{m}x{n}x{k} in windows"));
        }
    }
}

on_every_isa!(strips_stand_where_their_rows_stood, strips);
fn strips<I: Isa>(isa: I) {
    for (n, k) in [(0, 3), (1, 5), (I::LANES, 0), (I::LANES, 1), (3 * I::LANES + 2, 37)] {
        let rows: Vec<f32> = (0..n * k).map(|i| i as f32).collect();
        let mut packed = rows.clone();
        pack_weight(isa, &mut packed, n, k, &mut vec![0.0; pack_weight_scratch_len(isa, k)]);
        for (j, p) in (0..n).flat_map(|j| (0..k).map(move |p| (j, p))) {
            let (strip, column) = (j / I::LANES, j % I::LANES);
            let in_strip = strip < n / I::LANES;
            let at = if in_strip { strip * I::LANES * k + p * I::LANES + column } else { j * k + p };
            assert_eq!(packed[at], rows[j * k + p], "{} [{n}, {k}]: row {j}, column {p}", I::KIND);
        }
    }
}

on_every_isa!(rows_of_a_packed_table_are_those_of_the_table, lookups);
fn lookups<I: Isa>(isa: I) {
    for (n, k) in
        [1, I::LANES - 1, I::LANES, I::LANES + 1, 3 * I::LANES + 2].map(|n| [0, 1, 37].map(|k| (n, k))).concat()
    {
        let rows: Vec<f32> = (0..n * k).map(|i| i as f32).collect();
        let mut packed = rows.clone();
        pack_weight(isa, &mut packed, n, k, &mut vec![0.0; pack_weight_scratch_len(isa, k)]);
        let ids: Vec<u32> = (0..n as u32).rev().collect();
        let mut found = [vec![f32::NAN; n * k], vec![f32::NAN; n * k]];
        let [plain, of_packed] = &mut found;
        embedding(isa, Mat::new(&rows, n, k), &ids, MatMut::new(plain, n, k));
        embedding_packed(PackedWeight::new(isa, Format::F32, &packed, n, k), &ids, MatMut::new(of_packed, n, k));
        assert_eq!(found[0], found[1], "{} [{n}, {k}]", I::KIND);
    }
}

#[test]
#[should_panic(expected = "column 16 of 16")]
fn a_packed_table_has_no_row_beyond_its_last() {
    let table = PackedWeight::new(smallmind_simd::Scalar::new(), Format::F32, &[0.0; 64], 16, 4);
    embedding_packed(table, &[16], MatMut::new(&mut [0.0; 4], 1, 4));
}

#[test]
#[should_panic(expected = "cut a strip")]
fn windows_cut_no_strip() {
    let data = [0.0; 64];
    let _ = PackedWeight::new(smallmind_simd::Scalar::new(), Format::F32, &data, 16, 4).cols_range(3..16);
}
