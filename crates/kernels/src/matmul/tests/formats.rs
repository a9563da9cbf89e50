//! Weights in formats other than `f32`: what is stored, and products with them.

use super::*;
use crate::Format;
use crate::embedding::embedding_packed;
use crate::reference::formats::{quantized, stored};

const NARROW: [Format; 3] = [Format::F16, Format::Bf16, Format::Q8_0];
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
    for (format, n, k) in
        NARROW.iter().flat_map(|f| [(*f, 1, 64), (*f, I::LANES, 32), (*f, 2 * I::LANES + 3, 96), (*f, 3, 0)])
    {
        let weight = Buffer::new(&mut Noise(n as u64), n, k, f32::NAN);
        let words = packed(isa, format, weight.mat());
        let expected: Vec<f64> = (0..n).flat_map(|j| stored(format, weight.mat().row(j))).collect();
        let mut found = vec![f32::NAN; n * k];
        let ids: Vec<u32> = (0..n as u32).collect();
        let table = PackedWeight::new(isa, format, &words, n, k);
        embedding_packed(table, &ids, MatMut::new(&mut found, n, k));
        let same = |(x, y): (&f32, &f64)| f64::from(*x) == f64::from(*y as f32);
        assert!(found.iter().zip(&expected).all(same), "{} {format} [{n}, {k}]", I::KIND);
        // A parameter takes the bytes of its format, plus the rows that pad the last strip.
        let block = format.block();
        assert_eq!(words.len() * 4, n.next_multiple_of(I::LANES) * k / block.elements * block.bytes);
    }
    assert_eq!(packed_len(isa, Format::Q8_0, 8, 48), None);
}

/// The products of `problem`, window by window, with B in `format`.
fn run_halves<I: Isa>(isa: I, problem: &Problem, format: Format, windows: &[(Range<usize>, Range<usize>)]) -> Buffer {
    let mut c = Buffer { data: problem.c.data.clone(), ..problem.c };
    let (n, k) = (problem.b.rows, problem.b.cols);
    let words = packed(isa, format, problem.b.mat());
    let end = 3 + gemm_scratch_len(isa, c.rows, c.cols, k);
    let mut scratch = vec![f32::NAN; end];
    scratch.resize(end + 64, SENTINEL);
    let a = Operand { mat: problem.a.mat(), layout: problem.layouts[0] };
    for (rows, columns) in windows {
        let b = PackedWeight::new(isa, format, &words, n, k).cols_range(columns.clone());
        let window = c.mat_mut().rows_range(rows.clone()).cols_range(columns.clone());
        let epilogue = problem.epilogue(rows.clone(), columns.clone());
        gemm(isa, part(a, rows.clone(), 0..k), b, window, epilogue, &mut scratch[3..end]);
    }
    assert!(scratch[end..].iter().all(|&x| x == SENTINEL), "wrote past the scratch");
    c
}

/// Products with stored weights have the same bits as products in `f32` with the rounded weights.
fn check_halves<I: Isa>(isa: I, problem: &mut Problem, windows: &[(Range<usize>, Range<usize>)], what: &str) {
    for format in HALVES {
        let got = run_halves(isa, problem, format, windows);
        let rows: Vec<f32> =
            (0..problem.b.rows).flat_map(|j| stored(format, problem.b.mat().row(j))).map(|x| x as f32).collect();
        let mut next = rows.into_iter();
        problem.b.fill(|| next.next().unwrap());
        let expected = problem.run(isa, &[problem.whole()]);
        assert!(same_bits(&got, &expected), "{} {format} {what}", I::KIND);
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
    let (rows, width, depth) = (kernels::<I>().rows(), kernels::<I>().width(), kernels::<I>().max_depth);
    for (i, m) in [1, 4, rows + 1, 5 * rows + 3, kernels::<I>().max_block / depth + 9].into_iter().enumerate() {
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

/// The products of `problem`, window by window, with B in blocks of bytes, computed by `multiply`.
fn run_q8_by<I: Isa>(
    isa: I,
    problem: &Problem,
    windows: &[(Range<usize>, Range<usize>)],
    multiply: impl Fn(q8::Product),
) -> Buffer {
    let mut c = Buffer { data: problem.c.data.clone(), ..problem.c };
    let (m, n, k) = (c.rows, problem.b.rows, problem.b.cols);
    let words = packed(isa, Format::Q8_0, problem.b.mat());
    let mut x = vec![f32::NAN; m * quantized_words(k)];
    quantize_rows(isa, problem.a.mat(), MatMut::new(&mut x, m, quantized_words(k)));
    let x = Mat::new(&x, m, quantized_words(k));
    for (rows, columns) in windows {
        let w = PackedWeight::new(isa, Format::Q8_0, &words, n, k).cols_range(columns.clone());
        let c = c.mat_mut().rows_range(rows.clone()).cols_range(columns.clone());
        let epilogue = problem.epilogue(rows.clone(), columns.clone());
        multiply(q8::Product { x: x.rows_range(rows.clone()), w, c, epilogue });
    }
    c
}

fn run_q8<I: Isa>(isa: I, problem: &Problem, windows: &[(Range<usize>, Range<usize>)]) -> Buffer {
    run_q8_by(isa, problem, windows, |p| gemm(isa, Operand::normal(p.x), p.w, p.c, p.epilogue, &mut []))
}

/// Sums of bytes are exact, and blocks are added by multiply-adds that round once, in rising order: the bits are the
/// same on every instruction set with such multiply-adds. The scalar token rounds them twice.
#[cfg(target_arch = "x86_64")]
#[test]
fn products_of_blocks_have_the_same_bits_on_avx2_and_avx512() {
    use smallmind_simd::{Avx2, Avx512, Avx512Vnni, Int8Dot, WithInt8};

    fn by_token<D: Int8Dot>(dot: D, problem: &Problem) -> Buffer {
        run_q8_by(dot.isa(), problem, &[problem.whole()], |product| product.call(dot))
    }

    let (Some(avx2), avx512, vnni) = (Avx2::detect(), Avx512::detect(), Avx512Vnni::detect()) else { return };
    for seed in 0..200 {
        let mut noise = Noise(seed);
        let (m, n, k) = (1 + noise.below(10), 1 + noise.below(100), 32 * noise.below(8));
        let epilogue = noise.below(16);
        let problem = problem(&mut noise, [m, n, k], [Layout::Normal, Layout::Transposed], epilogue);
        let expected = run_q8(avx2, &problem, &[problem.whole()]);
        let found = [
            avx512.map(|isa| ("AVX-512", run_q8(isa, &problem, &[problem.whole()]))),
            avx512.map(|dot| ("AVX-512 without VNNI", by_token(dot, &problem))),
            vnni.map(|dot| ("AVX-512 with VNNI", by_token(dot, &problem))),
        ];
        for (name, found) in found.into_iter().flatten() {
            assert!(same_bits(&found, &expected), "{name}, seed {seed}: {m}x{n}x{k}");
        }
    }
}

on_every_isa!(products_of_blocks_of_bytes, random_q8);
fn random_q8<I: Isa>(isa: I) {
    for seed in 0..500 {
        let mut noise = Noise(seed);
        let (m, n, k) = (noise.below(11), noise.below(5 * I::LANES), 32 * noise.below(8));
        let epilogue = noise.below(16);
        let mut problem = problem(&mut noise, [m, n, k], [Layout::Normal, Layout::Transposed], epilogue);
        let whole = run_q8(isa, &problem, &[problem.whole()]);
        let (row, column) = (m / 2, I::LANES * (n / I::LANES / 2));
        let quarters = [(0..row, 0..column), (0..row, column..n), (row..m, 0..column), (row..m, column..n)];
        let parts = run_q8(isa, &problem, &quarters);
        assert!(same_bits(&whole, &parts), "{} seed {seed}: windows", I::KIND);
        // The reference multiplies both factors as they are stored.
        let of = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let a: Vec<f32> = (0..m).flat_map(|i| of(quantized(problem.a.mat().row(i)))).collect();
        let b: Vec<f32> = (0..n).flat_map(|j| of(stored(Format::Q8_0, problem.b.mat().row(j)))).collect();
        let (mut a, mut b) = (a.into_iter(), b.into_iter());
        problem.a.fill(|| a.next().unwrap());
        problem.b.fill(|| b.next().unwrap());
        problem.check(&whole, k, &format!("{} seed {seed} {m}x{n}x{k}", I::KIND));
    }
}

on_every_isa!(what_is_not_finite_stays_so, not_finite);
fn not_finite<I: Isa>(isa: I) {
    let weight: Vec<f32> = (0..64 * 40).map(|i| (i % 13) as f32 - 6.0).collect();
    let words = packed(isa, Format::Q8_0, Mat::new(&weight, 40, 64));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 31, 32, 63] {
            let mut x = [0.25; 2 * 64];
            x[at] = bad;
            let mut bytes = vec![0.0; 2 * quantized_words(64)];
            quantize_rows(isa, Mat::new(&x, 2, 64), MatMut::new(&mut bytes, 2, quantized_words(64)));
            let mut y = [0.0; 2 * 40];
            let w = PackedWeight::new(isa, Format::Q8_0, &words, 40, 64);
            let x = Operand::normal(Mat::new(&bytes, 2, quantized_words(64)));
            gemm(isa, x, w, MatMut::new(&mut y, 2, 40), Epilogue::default(), &mut []);
            assert!(
                y[..40].iter().all(|y| y.is_nan()) && y[40..].iter().all(|y| y.is_finite()),
                "{bad} at {at}: {y:?}"
            );
        }
    }
    // Numbers so small that their scale has no inverse count as zero.
    let (mut bytes, mut y) = (vec![0.0; quantized_words(64)], [f32::NAN; 40]);
    quantize_rows(isa, Mat::new(&[1e-44; 64], 1, 64), MatMut::new(&mut bytes, 1, quantized_words(64)));
    let w = PackedWeight::new(isa, Format::Q8_0, &words, 40, 64);
    let x = Operand::normal(Mat::new(&bytes, 1, quantized_words(64)));
    gemm(isa, x, w, MatMut::new(&mut y, 1, 40), Epilogue::default(), &mut []);
    assert!(y.iter().all(|y| *y == 0.0), "{y:?}");
}

#[test]
fn a_block_is_quantized_as_ggml_does() {
    // Elements are rounded half away from zero, the greatest magnitude becomes 127, and the scale is in f16.
    let mut block = [0.0_f32; 32];
    block[..6].copy_from_slice(&[127.0, -127.0, 0.5, -0.5, 1.5, 2.49]);
    let (scale, values) = quantize_weight(&block);
    assert_eq!(scale.to_f32(), 1.0);
    assert_eq!(values[..6], [127, -127, 1, -1, 2, 2]);
    let (scale, values) = quantize_weight(&[0.0; 32]);
    assert_eq!((scale.to_f32(), values), (0.0, [0; 32]));
}

/// Many rows with a scattered A, which is packed: the last block of rows has few.
#[test]
fn few_rows_behind_many_are_multiplied_as_many() {
    fn check<I: Isa>(isa: I) {
        let (n, k) = (8 * kernels::<I>().width(), 1024);
        let rows =
            kernels::<I>().max_block / kernels::<I>().max_depth / kernels::<I>().a_panel() * kernels::<I>().a_panel();
        // Blocks are nearly equal, in whole panels. The number of rows is such that few are left for the last block.
        for m in (rows + 1..rows * 40).filter(|m| last_block::<I>(*m, k) <= 4).take(1) {
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
fn last_block<I: Isa>(m: usize, k: usize) -> usize {
    let (kernels, depth) = (kernels::<I>(), k.div_ceil(k.div_ceil(kernels::<I>().max_depth)).next_multiple_of(16));
    let most = kernels.max_block / depth / kernels.a_panel() * kernels.a_panel();
    let count = m.div_ceil(most);
    let piece = m.div_ceil(count).next_multiple_of(kernels.a_panel());
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
