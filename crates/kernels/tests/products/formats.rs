//! Weights in formats other than `f32`: what is stored, and products with them.

use smallmind_kernels::embedding::embedding_packed;
use smallmind_kernels::reference;
use smallmind_kernels::reference::formats::{quantized, stored};

use super::*;

/// Formats with codes and scales.
fn blocks() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| format.kind() == FormatKind::Blocks)
}

/// Bytes of whole blocks: scales of zero, of a subnormal number with either sign, of 1.06; codes at both ends.
const EXTREMES: [u8; 5] = [0x00, 0x01, 0x80, 0x3c, 0xff];

/// `n` rows of `k` elements in arbitrary blocks whose values are finite, as bytes. One in eight has all bytes the same.
fn arbitrary(noise: &mut Noise, format: Format, n: usize, k: usize) -> Vec<u8> {
    let block = format.block();
    let mut values = vec![0.0; block.elements];
    let mut bytes = vec![0; n * format.row_bytes(k).unwrap()];
    for bytes in bytes.chunks_exact_mut(block.bytes) {
        let is_moderate = |values: &[f32]| values.iter().all(|x| x.abs() < 1e6);
        while {
            match noise.below(8) {
                0 => bytes.fill(EXTREMES[noise.below(EXTREMES.len())]),
                _ => bytes.fill_with(|| noise.next() as u8),
            }
            format.unpack(bytes, &mut values);
            !is_moderate(&values)
        } {}
    }
    bytes
}

const HALVES: [Format; 2] = [Format::F16, Format::Bf16];

/// The weight `[n, k]` packed in `format`, in memory that begins anywhere.
fn packed<I: Isa>(isa: I, format: Format, weight: Mat) -> Vec<f32> {
    let len = packed_len(isa, format, weight.rows(), weight.cols()).unwrap();
    let mut words = vec![f32::NAN; len];
    pack_weight_as(isa, format, weight, &mut words);
    words
}

on_every_isa!(rows_come_back_as_they_are_stored, rows_come_back);
fn rows_come_back<I: Isa>(isa: I) {
    for format in Format::ALL.into_iter().filter(|format| *format != Format::F32) {
        let block = format.block();
        for (n, blocks) in [(1, 2), (I::LANES, 1), (2 * I::LANES + 3, 3), (3, 0)] {
            let k = if block.elements == 1 { 32 * blocks } else { block.elements * blocks };
            let weight = Buffer::new(&mut Noise(n as u64), n, k, f32::NAN);
            let words = packed(isa, format, weight.mat());
            let expected: Vec<f64> = (0..n).flat_map(|j| stored(format, weight.mat().row(j))).collect();
            let found = rows_of(isa, format, &words, n, k);
            // In formats with minima `f32` rounds a product and a sum.
            let close = |(x, y): (&f32, &f64)| (f64::from(*x) - *y).abs() <= 4e-7 * y.abs().max(1.0);
            assert!(found.iter().zip(&expected).all(close), "{} {format} [{n}, {k}]", I::KIND);
            // A parameter takes the bytes of its format, plus the rows that pad the last strip.
            let block = format.packed_block();
            assert_eq!(words.len() * 4, n.next_multiple_of(I::LANES) * k / block.elements * block.bytes);
        }
    }
    assert_eq!(packed_len(isa, Format::Q8_0, 8, 48), None);
    assert_eq!(packed_len(isa, Format::Q4K, 8, 128), None);
}

/// The rows of a packed weight, looked up one by one.
fn rows_of<I: Isa>(isa: I, format: Format, words: &[f32], n: usize, k: usize) -> Vec<f32> {
    let mut found = vec![f32::NAN; n * k];
    let ids: Vec<u32> = (0..n as u32).collect();
    embedding_packed(PackedWeight::new(isa, format, words, n, k), &ids, MatMut::new(&mut found, n, k));
    found
}

on_every_isa!(blocks_are_moved_without_a_change, moved);
fn moved<I: Isa>(isa: I) {
    let mut noise = Noise(5);
    for format in Format::ALL {
        let k = 2 * format.block().elements.max(16);
        for n in [1, I::LANES - 1, I::LANES, 2 * I::LANES + 5] {
            let bytes = arbitrary(&mut noise, format, n, k);
            let mut words = vec![0.0; packed_len(isa, format, n, k).unwrap()];
            // Rows come in pieces, the last piece first.
            let (row, mut end) = (format.row_bytes(k).unwrap(), n);
            while end > 0 {
                let first = end - (1 + noise.below(I::LANES + 3)).min(end);
                pack_rows(isa, format, [n, k], &mut words, first, &bytes[first * row..end * row]);
                end = first;
            }
            let mut want = vec![f32::NAN; n * k];
            format.unpack(&bytes, &mut want);
            let found = rows_of(isa, format, &words, n, k);
            let same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits();
            assert!(found.iter().zip(&want).all(same), "{} {format} [{n}, {k}]", I::KIND);
            if format == Format::F32 {
                continue;
            }
            // Packing rows of `f32` is quantizing them and then moving the blocks.
            let weight = Buffer::new(&mut noise, n, k, f32::NAN);
            let mut bytes = vec![0; n * row];
            for (j, bytes) in bytes.chunks_exact_mut(row).enumerate() {
                format.pack(weight.mat().row(j), None, bytes);
            }
            let mut words = vec![0.0; packed_len(isa, format, n, k).unwrap()];
            pack_rows(isa, format, [n, k], &mut words, 0, &bytes);
            let quantized = packed(isa, format, weight.mat());
            let same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits();
            assert!(words.iter().zip(&quantized).all(same), "{} {format} [{n}, {k}] from f32", I::KIND);
        }
    }
}

/// The products of `problem`, window by window, with B in `format`; `multiply` takes `len` elements of scratch.
fn run_halves<I: Isa>(
    isa: I,
    problem: &Problem,
    format: Format,
    windows: &[(Range<usize>, Range<usize>)],
    len: usize,
    multiply: impl Fn(Operand, PackedWeight, MatMut, Epilogue, &mut [f32]),
) -> Buffer {
    let mut c = Buffer { data: problem.c.data.clone(), ..problem.c };
    let (n, k) = (problem.b.rows, problem.b.cols);
    let words = packed(isa, format, problem.b.mat());
    let end = 3 + len;
    let mut scratch = vec![f32::NAN; end];
    scratch.resize(end + 64, SENTINEL);
    let a = Operand { mat: problem.a.mat(), layout: problem.layouts[0] };
    for (rows, columns) in windows {
        let b = PackedWeight::new(isa, format, &words, n, k).cols_range(columns.clone());
        let b = b.beyond_caches((n + k).is_multiple_of(2));
        let window = c.mat_mut().rows_range(rows.clone()).cols_range(columns.clone());
        let epilogue = problem.epilogue(rows.clone(), columns.clone());
        multiply(part(a, rows.clone(), 0..k), b, window, epilogue, &mut scratch[3..end]);
    }
    assert!(scratch[end..].iter().all(|&x| x == SENTINEL), "wrote past the scratch");
    c
}

/// Products of `bf16` with the factors of a problem, rounded.
struct Rounded<'a>(&'a Problem);

impl<I: Isa> WithBf16<I> for Rounded<'_> {
    type Output = Buffer;

    fn call<D: Bf16Dot<Isa = I>>(self, dot: D) -> Buffer {
        let [a, b] =
            [&self.0.a, &self.0.b].map(|factor| factor.data.iter().copied().map(bf16::from_f32).collect::<Vec<_>>());
        run_narrow(dot, self.0, [&a, &b], &[self.0.whole()], gemm_bf16)
    }
}

/// Products with stored weights have the same bits as products of `f32` with the rounded weights; or, in `bf16` where
/// the CPU has dot products for it and rows are whole pairs, those of products of `bf16`.
fn check_halves<I: Isa>(isa: I, problem: &mut Problem, windows: &[(Range<usize>, Range<usize>)], what: &str) {
    let (m, n, k) = (problem.c.rows, problem.c.cols, problem.b.cols);
    for format in HALVES {
        let len = gemm_scratch_len(isa, m, n, k);
        let got = run_halves(isa, problem, format, windows, len, |a, w, c, epilogue, scratch| {
            gemm(isa, a, w, c, epilogue, scratch);
        });
        let rows: Vec<f32> =
            (0..problem.b.rows).flat_map(|j| stored(format, problem.b.mat().row(j))).map(|x| x as f32).collect();
        let mut next = rows.into_iter();
        problem.b.fill(|| next.next().unwrap());
        let has_pairs = format == Format::Bf16 && k.is_multiple_of(2);
        let in_pairs = if has_pairs { isa.with_bf16(Rounded(problem)).ok() } else { None };
        let expected = in_pairs.unwrap_or_else(|| problem.run(isa, &[problem.whole()]));
        assert!(same_bits(&got, &expected), "{} {format} {what}", I::KIND);
    }
}

on_every_dot!(stored_bf16_has_the_bits_of_products_of_bf16, stored_pairs);
fn stored_pairs<D: Bf16Dot>(dot: D) {
    let (isa, lanes) = (dot.isa(), D::Isa::LANES);
    let GemmSizes { tile_rows: rows, tile_cols: width, depth, .. } = gemm_bf16_sizes(dot);
    for seed in 0..2_000 {
        let mut noise = Noise(seed);
        let most = [8, 16, 40, 80][noise.below(4)];
        // Now and then more rows than are rounded at a time, and more than one piece of the depth.
        let (m, n, k) = match seed % 200 {
            0 => (170 * 1024 / depth, width + 5, 2 * depth + 6),
            1 => (rows, 3 * width, depth + 2),
            _ => (noise.below(most), noise.below(most), 2 * noise.below(most / 2)),
        };
        let (layout, epilogue) = (LAYOUTS[noise.below(4)][0], noise.below(16));
        let problem = problem(&mut noise, [m, n, k], [layout, Layout::Transposed], epilogue);
        let (row, column) = (noise.below(m + 1), n / lanes / 2 * lanes);
        let windows = [(0..row, 0..column), (0..row, column..n), (row..m, 0..n)];
        let len = gemm_packed_bf16_scratch_len(dot, m, n, k);
        let got = run_halves(isa, &problem, Format::Bf16, &windows, len, |a, w, c, epilogue, scratch| {
            gemm_packed_bf16(dot, a, w, c, epilogue, scratch);
        });
        let expected = Rounded(&problem).call(dot);
        assert!(same_bits(&got, &expected), "{dot:?} seed {seed}: {m}x{n}x{k}");
    }
}

on_every_isa!(products_of_halves_have_the_bits_of_the_rounded_weights, random_halves);
fn random_halves<I: Isa>(isa: I) {
    for seed in 0..2_000 {
        let mut noise = Noise(seed);
        let most = [8, 16, 40, 80][noise.below(4)];
        let [m, n, k] = [0; 3].map(|_| noise.below(most));
        let (layout, epilogue) = (LAYOUTS[noise.below(4)][0], noise.below(16));
        let mut problem = problem(&mut noise, [m, n, k], [layout, Layout::Transposed], epilogue);
        let whole = [problem.whole()];
        check_halves(isa, &mut problem, &whole, &format!("seed {seed}"));
    }
}

on_every_isa!(blocks_and_windows_leave_the_bits_of_halves_alone, windows_of_halves);
fn windows_of_halves<I: Isa>(isa: I) {
    let GemmSizes { tile_rows: rows, tile_cols: width, depth, block, .. } = gemm_sizes(isa);
    for (i, m) in [1, 4, rows + 1, 5 * rows + 3, block / depth + 9].into_iter().enumerate() {
        for (n, k) in [(width + 3, depth), (2 * width - 1, 2 * depth + 7), (9 * width + I::LANES, 1500)] {
            let mut noise = Noise(i as u64);
            let epilogue = noise.below(16);
            let mut problem = problem(&mut noise, [m, n, k], [Layout::Normal, Layout::Transposed], epilogue);
            let (row, column) = (m / 2, I::LANES * (n / I::LANES / 2));
            let quarters = [(0..row, 0..column), (0..row, column..n), (row..m, 0..column), (row..m, column..n)];
            check_halves(isa, &mut problem, &quarters, &format!("{m}x{n}x{k} in windows"));
        }
    }
}

/// A problem whose B, `[n, k]`, is packed in a format of blocks.
struct InBlocks {
    problem: Problem,
    format: Format,
    /// The rows of B, as GGML lays them out.
    bytes: Vec<u8>,
}

impl InBlocks {
    /// A random problem of `m` and `n` below `most` and of few blocks; B's blocks are arbitrary, or those of random
    /// numbers.
    fn random(seed: u64, format: Format, most: [usize; 2]) -> Self {
        let mut noise = Noise(seed);
        let [m, n] = most.map(|most| noise.below(most));
        let block = format.block().elements;
        let k = block * noise.below(256 / block + 3);
        Self::of(noise, seed, format, [m, n, k])
    }

    fn of(mut noise: Noise, seed: u64, format: Format, [m, n, k]: [usize; 3]) -> Self {
        let epilogue = noise.below(16);
        let mut problem = problem(&mut noise, [m, n, k], [Layout::Normal, Layout::Transposed], epilogue);
        let bytes = if seed.is_multiple_of(2) {
            arbitrary(&mut noise, format, n, k)
        } else {
            let mut bytes = vec![0; n * format.row_bytes(k).unwrap()];
            for (j, bytes) in bytes.chunks_exact_mut(format.row_bytes(k).unwrap().max(1)).enumerate() {
                format.pack(problem.b.mat().row(j), None, bytes);
            }
            bytes
        };
        let mut values = reference::blocks::unpacked(format, &bytes).into_iter();
        problem.b.fill(|| values.next().unwrap() as f32);
        Self { problem, format, bytes }
    }

    /// The products, window by window, computed by `multiply` from quantized rows.
    fn run_by<I: Isa>(
        &self,
        isa: I,
        windows: &[(Range<usize>, Range<usize>)],
        multiply: impl Fn(Mat, PackedWeight, MatMut, Epilogue),
    ) -> Buffer {
        let (problem, format) = (&self.problem, self.format);
        let mut c = Buffer { data: problem.c.data.clone(), ..problem.c };
        let (m, n, k) = (c.rows, problem.b.rows, problem.b.cols);
        let mut words = vec![0.0; packed_len(isa, format, n, k).unwrap()];
        pack_rows(isa, format, [n, k], &mut words, 0, &self.bytes);
        let mut x = vec![f32::NAN; m * quantized_words(k)];
        quantize_rows(isa, problem.a.mat(), MatMut::new(&mut x, m, quantized_words(k)));
        let x = Mat::new(&x, m, quantized_words(k));
        for (rows, columns) in windows {
            let w = PackedWeight::new(isa, format, &words, n, k).cols_range(columns.clone());
            let c = c.mat_mut().rows_range(rows.clone()).cols_range(columns.clone());
            let epilogue = problem.epilogue(rows.clone(), columns.clone());
            multiply(x.rows_range(rows.clone()), w, c, epilogue);
        }
        c
    }

    fn run<I: Isa>(&self, isa: I, windows: &[(Range<usize>, Range<usize>)]) -> Buffer {
        self.run_by(isa, windows, |x, w, c, epilogue| gemm(isa, Operand::normal(x), w, c, epilogue, &mut []))
    }

    fn what(&self, seed: u64) -> String {
        let (c, k) = (&self.problem.c, self.problem.b.cols);
        format!("{}, seed {seed}: {}x{}x{k}", self.format, c.rows, c.cols)
    }
}

/// Sums of bytes are exact, and blocks are added by multiply-adds that round once, in rising order: the bits are the
/// same on every instruction set with such multiply-adds. The scalar token rounds them twice.
#[cfg(target_arch = "x86_64")]
#[test]
fn products_of_blocks_have_the_same_bits_on_avx2_and_avx512() {
    use smallmind_simd::{Avx2, Avx512, Avx512Vnni, Int8Dot};

    fn by_token<D: Int8Dot>(dot: D, case: &InBlocks) -> Buffer {
        case.run_by(dot.isa(), &[case.problem.whole()], |x, w, c, epilogue| gemm_int8(dot, x, w, c, epilogue))
    }

    let (Some(avx2), avx512, vnni) = (Avx2::detect(), Avx512::detect(), Avx512Vnni::detect()) else { return };
    for format in blocks() {
        for seed in 0..40 {
            let case = InBlocks::random(seed, format, [if seed % 4 == 0 { 50 } else { 11 }, 101]);
            let whole = [case.problem.whole()];
            let expected = case.run(avx2, &whole);
            let found = [
                avx512.map(|isa| ("AVX-512", case.run(isa, &whole))),
                avx512.map(|dot| ("AVX-512 without VNNI", by_token(dot, &case))),
                vnni.map(|dot| ("AVX-512 with VNNI", by_token(dot, &case))),
            ];
            for (name, found) in found.into_iter().flatten() {
                assert!(same_bits(&found, &expected), "{name}, {}", case.what(seed));
            }
        }
    }
}

on_every_isa!(products_of_blocks, random_blocks);
fn random_blocks<I: Isa>(isa: I) {
    for format in blocks() {
        for seed in 0..60 {
            // Few rows are multiplied by other kernels than many.
            let most_rows = if seed % 3 == 0 { 50 } else { 11 };
            InBlocks::random(seed, format, [most_rows, 5 * I::LANES]).check(isa, seed);
        }
    }
}

on_every_isa!(
    #[ignore = "takes minutes"]
    ten_thousand_products_of_blocks,
    many_random_blocks
);
fn many_random_blocks<I: Isa>(isa: I) {
    for format in blocks() {
        for seed in 1_000..11_000 {
            let most_rows = if seed % 20 == 0 { 50 } else { 11 };
            InBlocks::random(seed, format, [most_rows, 3 * I::LANES]).check(isa, seed);
        }
    }
}

// More rows than share an unpacked panel, and weights deeper than a panel.
on_every_isa!(products_of_many_rows_with_deep_blocks, deep_blocks);
fn deep_blocks<I: Isa>(isa: I) {
    for (seed, format) in blocks().enumerate() {
        let seed = seed as u64;
        InBlocks::of(Noise(seed), seed, format, [133, 2 * I::LANES + 3, 1536]).check(isa, seed);
    }
}

impl InBlocks {
    /// Compares the product with the reference, and with itself by windows.
    fn check<I: Isa>(mut self, isa: I, seed: u64) {
        let case = &mut self;
        let (m, n, k) = (case.problem.c.rows, case.problem.c.cols, case.problem.b.cols);
        let whole = case.run(isa, &[case.problem.whole()]);
        // Windows of rows and columns, and each row alone, have the bits of the whole.
        let (row, column) = (m / 2, I::LANES * (n / I::LANES / 2));
        let quarters = [(0..row, 0..column), (0..row, column..n), (row..m, 0..column), (row..m, column..n)];
        let rows: Vec<_> = (0..m).map(|row| (row..row + 1, 0..n)).collect();
        for windows in [&quarters[..], &rows[..]] {
            assert!(same_bits(&whole, &case.run(isa, windows)), "{}: windows, {}", I::KIND, case.what(seed));
        }
        // The reference multiplies both factors as they are stored.
        let a: Vec<f64> = (0..m).flat_map(|i| quantized(case.problem.a.mat().row(i))).collect();
        let mut a = a.into_iter();
        case.problem.a.fill(|| a.next().unwrap() as f32);
        case.problem.check(&whole, k, &format!("{} {}", I::KIND, case.what(seed)));
    }
}

on_every_isa!(what_is_not_finite_stays_so, not_finite);
fn not_finite<I: Isa>(isa: I) {
    const K: usize = 256;
    let weight: Vec<f32> = (0..K * 40).map(|i| (i % 13) as f32 - 6.0).collect();
    for format in blocks() {
        let words = packed(isa, format, Mat::new(&weight, 40, K));
        let product = |x: &[f32]| {
            let m = x.len() / K;
            let mut bytes = vec![0.0; m * quantized_words(K)];
            quantize_rows(isa, Mat::new(x, m, K), MatMut::new(&mut bytes, m, quantized_words(K)));
            let mut y = vec![f32::INFINITY; m * 40];
            let w = PackedWeight::new(isa, format, &words, 40, K);
            let x = Operand::normal(Mat::new(&bytes, m, quantized_words(K)));
            gemm(isa, x, w, MatMut::new(&mut y, m, 40), Epilogue::default(), &mut []);
            y
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 15, 16, 31, 32, K - 1] {
                let mut x = [0.25; 2 * K];
                x[at] = bad;
                let y = product(&x);
                let (first, second) = y.split_at(40);
                let is_right = first.iter().all(|y| y.is_nan()) && second.iter().all(|y| y.is_finite());
                assert!(is_right, "{format}: {bad} at {at}: {y:?}");
            }
        }
        // Numbers so small that their scale has no inverse count as zero.
        assert!(product(&[1e-44; K]).iter().all(|y| *y == 0.0), "{format}");
    }
}

/// Many rows with a scattered A, which is packed: the last block of rows has few.
#[test]
fn few_rows_behind_many_are_multiplied_as_many() {
    fn check<I: Isa>(isa: I) {
        let GemmSizes { tile_cols, panel_rows, depth, block, .. } = gemm_sizes(isa);
        let (n, k) = (8 * tile_cols, 1024);
        let rows = block / depth / panel_rows * panel_rows;
        // Blocks are nearly equal, in whole panels. The number of rows is such that few are left for the last block.
        for m in (rows + 1..rows * 40).filter(|m| last_block(isa, *m, k) <= 4).take(1) {
            let mut noise = Noise(m as u64);
            let mut problem = problem(&mut noise, [m, n, k], [Layout::Normal, Layout::Transposed], 0);
            problem.a = Buffer::with_stride(&mut noise, m, k, k + 3, f32::NAN);
            let whole = [problem.whole()];
            check_halves(isa, &mut problem, &whole, &format!("{m}x{n}x{k}"));
        }
    }
    struct Check;
    impl WithIsa for Check {
        type Output = ();
        fn call<I: Isa>(self, isa: I) {
            check(isa);
        }
    }
    IsaKind::best().with(Check).unwrap();
}

/// Rows of the last block of `m` rows of A.
fn last_block<I: Isa>(isa: I, m: usize, k: usize) -> usize {
    let GemmSizes { panel_rows, depth, block, .. } = gemm_sizes(isa);
    let most = block / k.div_ceil(k.div_ceil(depth)).next_multiple_of(16) / panel_rows * panel_rows;
    let count = m.div_ceil(most);
    let piece = m.div_ceil(count).next_multiple_of(panel_rows);
    m - (count - 1) * piece
}

/// A weight that was packed for other lanes is refused, not read beyond its end.
#[test]
fn strips_of_another_width_are_refused() {
    struct Multiply;
    impl WithIsa for Multiply {
        type Output = bool;
        fn call<I: Isa>(self, isa: I) -> bool {
            let scalar = smallmind_simd::Scalar::new();
            let words = packed(scalar, Format::Q8_0, Mat::new(&[1.0; 8 * 32], 8, 32));
            let w = PackedWeight::new(scalar, Format::Q8_0, &words, 8, 32);
            let x = vec![0.0; quantized_words(32)];
            let x = Operand::normal(Mat::new(&x, 1, quantized_words(32)));
            let call = std::panic::AssertUnwindSafe(|| {
                let mut y = [0.0; 8];
                gemm(isa, x, w, MatMut::new(&mut y, 1, 8), Epilogue::default(), &mut []);
            });
            I::LANES == 8 || std::panic::catch_unwind(call).is_err()
        }
    }
    assert!(IsaKind::available().iter().all(|isa| isa.with(Multiply).unwrap()));
}

on_every_isa!(rows_are_quantized_as_by_ggml, as_by_ggml);
fn as_by_ggml<I: Isa>(isa: I) {
    const K: usize = 1 << 13;
    let mut noise = Noise(3);
    let x: Vec<f32> = (0..K).map(|i| noise.float() * (1 + i / 32) as f32).collect();
    let mut row = vec![0.0; quantized_words(K)];
    quantize_rows(isa, Mat::new(&x, 1, K), MatMut::new(&mut row, 1, quantized_words(K)));
    let mut blocks = vec![0; Format::Q8_0.row_bytes(K).unwrap()];
    Format::Q8_0.pack(&x, None, &mut blocks);
    let codes: Vec<i8> = row[..K / 4].iter().flat_map(|word| word.to_ne_bytes()).map(|byte| byte as i8).collect();
    let mut differ = 0;
    for (g, block) in blocks.chunks_exact(34).enumerate() {
        let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        assert_eq!(row[K / 4 + g], scale, "{}: the scale of group {g}", I::KIND);
        let of_group = codes[32 * g..].iter().zip(&block[2..]);
        differ += of_group.filter(|(code, byte)| **code != **byte as i8).count();
    }
    // The other program divides in another order: an element that is nearly between two codes may get either.
    assert!(differ <= K / 1000, "{}: {differ} codes", I::KIND);
}
