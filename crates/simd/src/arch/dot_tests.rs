//! The dot products of narrow numbers against their definition on one number, on every token that this CPU has.
#![allow(unsafe_code)]

use half::bf16;

use crate::{Bf16Dot, Int8Dot, Isa, Scalar};

/// A sequence of random words (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x >> 32) as u32
    }

    /// A number of magnitude 2^-40 to 2^40: far from overflow and from subnormal products.
    fn number(&mut self) -> f32 {
        let exponent = 127 - 40 + self.next() % 80;
        f32::from_bits(self.next() & 0x807f_ffff | exponent << 23)
    }

    fn narrow(&mut self) -> bf16 {
        bf16::from_bits((self.number().to_bits() >> 16) as u16)
    }
}

/// Runs a test on every token of `Bf16Dot`.
macro_rules! on_each_bf16 {
    ($test:ident) => {
        #[test]
        fn $test() {
            checks::$test(Scalar::new());
            #[cfg(target_arch = "x86_64")]
            if let Some(token) = crate::Avx512Bf16::detect() {
                checks::$test(token);
            }
        }
    };
}

on_each_bf16!(pairs_are_multiplied_and_added);
on_each_bf16!(whole_numbers_are_exact);
on_each_bf16!(subnormal_numbers_count_little);
on_each_bf16!(loads_and_stores_keep_to_their_length);
on_each_bf16!(narrowing_rounds_to_even);

mod checks {
    use super::*;

    fn lanes<D: Bf16Dot>(token: D, v: D::F32) -> Vec<f32> {
        let mut out = vec![f32::NAN; D::LANES];
        // SAFETY: the vector has LANES elements.
        unsafe { token.store_ptr(v, out.as_mut_ptr()) };
        out
    }

    fn numbers<D: Bf16Dot>(token: D, v: D::Pairs) -> Vec<bf16> {
        let mut out = vec![bf16::NAN; 2 * D::LANES];
        // SAFETY: the vector has 2 · LANES elements.
        unsafe { token.store_pairs(v, out.as_mut_ptr()) };
        out
    }

    fn dots<D: Bf16Dot>(token: D, acc: &[f32], a: &[bf16], b: &[bf16]) -> Vec<f32> {
        assert_eq!([acc.len(), a.len(), b.len()], [D::LANES, 2 * D::LANES, 2 * D::LANES]);
        // SAFETY: the lengths were checked.
        let v = token.vectorize(|| unsafe {
            token.dot(token.load_ptr(acc.as_ptr()), token.load_pairs(a.as_ptr()), token.load_pairs(b.as_ptr()))
        });
        lanes(token, v)
    }

    pub fn pairs_are_multiplied_and_added<D: Bf16Dot>(token: D) {
        let mut random = Random(1);
        for _ in 0..2000 {
            let acc: Vec<f32> = (0..D::LANES).map(|_| random.number()).collect();
            let a: Vec<bf16> = (0..2 * D::LANES).map(|_| random.narrow()).collect();
            let b: Vec<bf16> = (0..2 * D::LANES).map(|_| random.narrow()).collect();
            for (i, got) in dots(token, &acc, &a, &b).into_iter().enumerate() {
                let terms = [f64::from(acc[i]), product(a[2 * i], b[2 * i]), product(a[2 * i + 1], b[2 * i + 1])];
                let bound = 2f64.powi(-22) * terms.iter().map(|t| t.abs()).sum::<f64>();
                let error = (f64::from(got) - terms.iter().sum::<f64>()).abs();
                assert!(error <= bound, "{token:?}: {terms:?} gave {got}");
            }
        }
    }

    fn product(a: bf16, b: bf16) -> f64 {
        f64::from(a.to_f32()) * f64::from(b.to_f32())
    }

    pub fn whole_numbers_are_exact<D: Bf16Dot>(token: D) {
        for shift in 0..200 {
            let at = |i: usize| bf16::from_f32(((i * 37 + shift) % 201) as f32 - 100.0);
            let a: Vec<bf16> = (0..2 * D::LANES).map(at).collect();
            let b: Vec<bf16> = (0..2 * D::LANES).map(|i| at(i * 3 + 1)).collect();
            let acc: Vec<f32> = (0..D::LANES).map(|i| i as f32 - 3.0).collect();
            let want: Vec<f32> = (0..D::LANES)
                .map(|i| acc[i] + (product(a[2 * i], b[2 * i]) + product(a[2 * i + 1], b[2 * i + 1])) as f32)
                .collect();
            assert_eq!(dots(token, &acc, &a, &b), want, "{token:?}");
        }
    }

    pub fn subnormal_numbers_count_little<D: Bf16Dot>(token: D) {
        let tiny = bf16::from_bits(0x0001);
        let (a, b) = (vec![tiny; 2 * D::LANES], vec![bf16::ONE; 2 * D::LANES]);
        let got = dots(token, &vec![0.0; D::LANES], &a, &b);
        assert!(got.iter().all(|x| x.abs() <= 2f32.powi(-125)), "{token:?}: {got:?}");
        let got = dots(token, &vec![1.0; D::LANES], &a, &b);
        assert!(got.iter().all(|x| *x == 1.0), "{token:?}: {got:?}");
    }

    pub fn loads_and_stores_keep_to_their_length<D: Bf16Dot>(token: D) {
        let (n, wide) = (D::LANES, 2 * D::LANES);
        let floats: Vec<f32> = (0..n).map(|i| i as f32 + 1.0).collect();
        let narrow: Vec<bf16> = (0..wide).map(|i| bf16::from_f32(i as f32 + 1.0)).collect();
        for len in 0..=wide + 3 {
            // Copies of just the elements that may be touched, so that a checker of memory sees a read beyond them.
            let (short, kept) = (narrow[..len.min(wide)].to_vec(), len.min(n));
            // SAFETY: the buffers hold `min(len, …)` elements to read, and whole vectors to write.
            let (pairs, loaded, stored, narrowed, first) = unsafe {
                let pairs = token.load_pairs_first(short.as_ptr(), len);
                let loaded = token.load_first(floats[..kept].as_ptr(), len);
                let (mut stored, mut first) = (vec![-1.0; n], vec![bf16::NEG_ONE; wide]);
                let mut narrowed = vec![bf16::NEG_ONE; n];
                token.store_first(token.load_ptr(floats.as_ptr()), stored.as_mut_ptr(), len);
                token.store_narrow_first(token.load_ptr(floats.as_ptr()), narrowed.as_mut_ptr(), len);
                token.store_pairs_first(token.load_pairs(narrow.as_ptr()), first.as_mut_ptr(), len);
                (pairs, loaded, stored, narrowed, first)
            };
            let (got, loaded) = (numbers(token, pairs), lanes(token, loaded));
            for i in 0..wide {
                assert_eq!(got[i], if i < len { narrow[i] } else { bf16::ZERO }, "{token:?}, {len}");
                assert_eq!(first[i], if i < len { narrow[i] } else { bf16::NEG_ONE }, "{token:?}, {len}");
            }
            for i in 0..n {
                assert_eq!(loaded[i], if i < len { floats[i] } else { 0.0 }, "{token:?}, {len}");
                assert_eq!(stored[i], if i < len { floats[i] } else { -1.0 }, "{token:?}, {len}");
                let want = if i < len { bf16::from_f32(floats[i]) } else { bf16::NEG_ONE };
                assert_eq!(narrowed[i], want, "{token:?}, {len}");
            }
        }
        let pair = [bf16::from_f32(3.0), bf16::from_f32(-4.0)];
        // SAFETY: `pair` has two elements, and each half of `narrow` has LANES.
        let (splat, zipped) =
            unsafe { (token.splat_pair_ptr(pair.as_ptr()), token.load_zip(narrow.as_ptr(), narrow.as_ptr().add(n))) };
        assert_eq!(numbers(token, splat), pair.repeat(n));
        let bits = u32::from(pair[1].to_bits()) << 16 | u32::from(pair[0].to_bits());
        assert_eq!(numbers(token, token.splat_pair(bits)), pair.repeat(n));
        let want: Vec<bf16> = (0..n).flat_map(|i| [narrow[i], narrow[n + i]]).collect();
        assert_eq!(numbers(token, zipped), want);
        assert_eq!(lanes(token, token.zero()), vec![0.0; n]);
        assert_eq!(<D::Isa as Isa>::LANES, n);
    }

    pub fn narrowing_rounds_to_even<D: Bf16Dot>(token: D) {
        // The midpoint of two neighbours, what lies beside it, and the extremes. No subnormal numbers.
        let mut xs: Vec<f32> = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE];
        for bits in (0x0080..0x7f7f_u32).step_by(7) {
            let middle = f32::from_bits(bits << 16 | 0x8000);
            xs.extend([middle.next_down(), middle, -middle, middle.next_up()]);
        }
        xs.resize(xs.len().next_multiple_of(2 * D::LANES), 1.0);
        for chunk in xs.chunks_exact(2 * D::LANES) {
            let (low, high) = chunk.split_at(D::LANES);
            // SAFETY: both halves have LANES elements, and so has `single`.
            let (joined, zipped, single) = unsafe {
                let (a, b) = (token.load_ptr(low.as_ptr()), token.load_ptr(high.as_ptr()));
                let mut single = vec![bf16::NAN; D::LANES];
                token.store_narrow_first(a, single.as_mut_ptr(), D::LANES);
                (token.narrow(a, b), token.narrow_zip(a, b), single)
            };
            let want: Vec<bf16> = chunk.iter().map(|x| bf16::from_f32(*x)).collect();
            assert_eq!(numbers(token, joined), want, "{token:?}");
            assert_eq!(single, want[..D::LANES], "{token:?}");
            let zipped_want: Vec<bf16> = (0..D::LANES).flat_map(|i| [want[i], want[D::LANES + i]]).collect();
            assert_eq!(numbers(token, zipped), zipped_want, "{token:?}");
        }
        let isa = token.isa();
        let nan = numbers(token, token.narrow(isa.splat(f32::NAN), isa.splat(f32::from_bits(0x7f80_0001))));
        assert!(nan.iter().all(|x| x.is_nan()), "{token:?}");
    }
}

#[test]
fn bytes_are_multiplied_and_added() {
    check_bytes(Scalar::new());
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(token) = crate::Avx2::detect() {
            check_bytes(token);
        }
        if let Some(token) = crate::Avx512::detect() {
            check_bytes(token);
        }
        if let Some(token) = crate::Avx512Vnni::detect() {
            check_bytes(token);
        }
    }
}

fn check_bytes<D: Int8Dot>(token: D) {
    let mut random = Random(2);
    let wide = 4 * D::LANES;
    for round in 0..500 {
        let mut bytes = || -> Vec<u8> {
            // Every fourth round holds extremes alone: a saturating instruction shows there.
            let extreme = |word: u32| if word & 1 == 0 { 0x80 } else { 0xff };
            (0..wide).map(|_| random.next()).map(|w| if round % 4 == 0 { extreme(w) } else { w as u8 }).collect()
        };
        let (a, b) = (bytes(), bytes());
        let acc: Vec<i32> = (0..D::LANES).map(|i| if i % 2 == 0 { i32::MAX } else { random.next() as i32 }).collect();
        let len = round % (wide + 3);
        let short = a[..len.min(wide)].to_vec();
        let mut out = [vec![7; D::LANES], vec![7; D::LANES], vec![7; D::LANES]];
        let quad = u32::from_le_bytes([a[0], a[1], a[2], a[3]]);
        token.vectorize(|| {
            // SAFETY: a, b and acc are whole vectors, `short` has min(len, 4 · LANES) bytes, the outputs have LANES elements.
            unsafe {
                let (start, b) = (token.load_ptr(acc.as_ptr()), token.load_bytes(b.as_ptr()));
                let whole = token.dot(start, token.load_bytes(a.as_ptr()), b);
                token.store_first(whole, out[0].as_mut_ptr(), len);
                let partial = token.dot(token.zero(), token.load_bytes_first(short.as_ptr(), len), b);
                token.store_first(partial, out[1].as_mut_ptr(), D::LANES);
                let splat = token.dot(token.dot(start, token.splat_quad(quad), b), token.splat_quad_ptr(a.as_ptr()), b);
                token.store_first(splat, out[2].as_mut_ptr(), D::LANES);
            }
        });
        for i in 0..D::LANES {
            let sum = |f: &dyn Fn(usize) -> u8| -> i32 {
                (0..4).map(|j| i32::from(f(4 * i + j)) * i32::from(b[4 * i + j] as i8)).sum()
            };
            let whole = acc[i].wrapping_add(sum(&|at| a[at]));
            assert_eq!(out[0][i], if i < len { whole } else { 7 }, "{token:?}");
            assert_eq!(out[1][i], sum(&|at| if at < len { a[at] } else { 0 }), "{token:?}");
            let twice = acc[i].wrapping_add(sum(&|at| a[at % 4]).wrapping_mul(2));
            assert_eq!(out[2][i], twice, "{token:?}");
        }
    }
    assert_eq!(<D::Isa as Isa>::LANES, D::LANES);
}
