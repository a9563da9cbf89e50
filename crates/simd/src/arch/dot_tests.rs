//! The dot products of narrow numbers, compared with their scalar definition, on every token that this CPU has.
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
on_each_bf16!(pairs_stand_where_they_were_read);

mod checks {
    use super::*;

    fn lanes<D: Bf16Dot>() -> usize {
        <D::Isa as Isa>::LANES
    }

    fn numbers<D: Bf16Dot>(token: D, v: D::Pairs) -> Vec<bf16> {
        let mut out = vec![bf16::NAN; 2 * lanes::<D>()];
        // SAFETY: the vector has 2 · LANES elements.
        unsafe { token.store_pairs(v, out.as_mut_ptr()) };
        out
    }

    fn dots<D: Bf16Dot>(token: D, acc: &[f32], a: &[bf16], b: &[bf16]) -> Vec<f32> {
        let (isa, n) = (token.isa(), lanes::<D>());
        assert_eq!([acc.len(), a.len(), b.len()], [n, 2 * n, 2 * n]);
        let mut out = vec![f32::NAN; n];
        token.vectorize(|| {
            // SAFETY: both slices have 2 · LANES elements, as asserted above.
            let (a, b) = unsafe { (token.load_pairs(a.as_ptr()), token.load_pairs(b.as_ptr())) };
            isa.store(token.dot(isa.load(acc), a, b), &mut out);
        });
        out
    }

    pub fn pairs_are_multiplied_and_added<D: Bf16Dot>(token: D) {
        let mut random = Random(1);
        for _ in 0..2000 {
            let acc: Vec<f32> = (0..lanes::<D>()).map(|_| random.number()).collect();
            let a: Vec<bf16> = (0..2 * lanes::<D>()).map(|_| random.narrow()).collect();
            let b: Vec<bf16> = (0..2 * lanes::<D>()).map(|_| random.narrow()).collect();
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
            let a: Vec<bf16> = (0..2 * lanes::<D>()).map(at).collect();
            let b: Vec<bf16> = (0..2 * lanes::<D>()).map(|i| at(i * 3 + 1)).collect();
            let acc: Vec<f32> = (0..lanes::<D>()).map(|i| i as f32 - 3.0).collect();
            let want: Vec<f32> = (0..lanes::<D>())
                .map(|i| acc[i] + (product(a[2 * i], b[2 * i]) + product(a[2 * i + 1], b[2 * i + 1])) as f32)
                .collect();
            assert_eq!(dots(token, &acc, &a, &b), want, "{token:?}");
        }
    }

    pub fn subnormal_numbers_count_little<D: Bf16Dot>(token: D) {
        let tiny = bf16::from_bits(0x0001);
        let (a, b) = (vec![tiny; 2 * lanes::<D>()], vec![bf16::ONE; 2 * lanes::<D>()]);
        let got = dots(token, &vec![0.0; lanes::<D>()], &a, &b);
        assert!(got.iter().all(|x| x.abs() <= 2f32.powi(-125)), "{token:?}: {got:?}");
        let got = dots(token, &vec![1.0; lanes::<D>()], &a, &b);
        assert!(got.iter().all(|x| *x == 1.0), "{token:?}: {got:?}");
    }

    pub fn pairs_stand_where_they_were_read<D: Bf16Dot>(token: D) {
        let n = lanes::<D>();
        let narrow: Vec<bf16> = (0..2 * n).map(|i| bf16::from_f32(i as f32 + 1.0)).collect();
        let pair = [bf16::from_f32(3.0), bf16::from_f32(-4.0)];
        // SAFETY: `narrow` has 2 · LANES elements and each half of it LANES; `pair` has two.
        let (loaded, splat, zipped) = unsafe {
            let (even, odd) = (narrow.as_ptr(), narrow.as_ptr().add(n));
            (token.load_pairs(even), token.splat_pair_ptr(pair.as_ptr()), token.load_zip(even, odd))
        };
        assert_eq!(numbers(token, loaded), narrow);
        assert_eq!(numbers(token, splat), pair.repeat(n));
        let bits = u32::from(pair[1].to_bits()) << 16 | u32::from(pair[0].to_bits());
        assert_eq!(numbers(token, token.splat_pair(bits)), pair.repeat(n));
        let want: Vec<bf16> = (0..n).flat_map(|i| [narrow[i], narrow[n + i]]).collect();
        assert_eq!(numbers(token, zipped), want);
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
    let (isa, lanes) = (token.isa(), <D::Isa as Isa>::LANES);
    for round in 0..500 {
        let mut bytes = || -> Vec<u8> {
            // Every fourth round has only extreme values: these reveal a saturating instruction.
            let extreme = |word: u32| if word & 1 == 0 { 0x80 } else { 0xff };
            (0..4 * lanes).map(|_| random.next()).map(|w| if round % 4 == 0 { extreme(w) } else { w as u8 }).collect()
        };
        let (a, b) = (bytes(), bytes());
        let acc: Vec<i32> = (0..lanes).map(|i| if i % 2 == 0 { i32::MAX } else { random.next() as i32 }).collect();
        let start: Vec<f32> = acc.iter().map(|x| f32::from_bits(*x as u32)).collect();
        let mut out = [vec![f32::NAN; lanes], vec![f32::NAN; lanes]];
        let quad = u32::from_le_bytes([a[0], a[1], a[2], a[3]]);
        token.vectorize(|| {
            let start = isa.bits(isa.load(&start));
            // SAFETY: a and b have 4 · LANES bytes.
            let (bytes, splat, b) = unsafe {
                (token.load_bytes(a.as_ptr()), token.splat_quad_ptr(a.as_ptr()), token.load_bytes(b.as_ptr()))
            };
            let whole = token.dot(start, bytes, b);
            let twice = token.dot(token.dot(start, token.splat_quad(quad), b), splat, b);
            isa.store(isa.from_bits(whole), &mut out[0]);
            isa.store(isa.from_bits(twice), &mut out[1]);
        });
        for i in 0..lanes {
            let sum = |f: &dyn Fn(usize) -> u8| -> i32 {
                (0..4).map(|j| i32::from(f(4 * i + j)) * i32::from(b[4 * i + j] as i8)).sum()
            };
            let [whole, twice] = [&out[0], &out[1]].map(|out| out[i].to_bits() as i32);
            assert_eq!(whole, acc[i].wrapping_add(sum(&|at| a[at])), "{token:?}");
            assert_eq!(twice, acc[i].wrapping_add(sum(&|at| a[at % 4]).wrapping_mul(2)), "{token:?}");
        }
    }
}

/// Calls a test on every token of `Int8Dot`.
macro_rules! on_each_int8 {
    ($test:ident) => {
        #[test]
        fn $test() {
            byte_checks::$test(Scalar::new());
            #[cfg(target_arch = "x86_64")]
            {
                crate::Avx2::detect().into_iter().for_each(byte_checks::$test);
                crate::Avx512::detect().into_iter().for_each(byte_checks::$test);
                crate::Avx512Vnni::detect().into_iter().for_each(byte_checks::$test);
            }
        }
    };
}

on_each_int8!(bytes_are_shifted_joined_and_looked_up);
on_each_int8!(pairs_of_bytes_below_64_are_multiplied_exactly);
on_each_int8!(shifted_bytes_are_multiplied_exactly);
on_each_int8!(few_products_are_added_exactly);

mod byte_checks {
    use super::*;

    /// The bytes of a vector, each multiplied by 1 alone.
    fn bytes<D: Int8Dot>(token: D, v: impl FnOnce() -> D::Bytes) -> Vec<u8> {
        let (isa, lanes) = (token.isa(), <D::Isa as Isa>::LANES);
        let mut out = vec![0; 4 * lanes];
        token.vectorize(|| {
            let v = v();
            for j in 0..4 {
                let mut sums = vec![f32::NAN; lanes];
                let one = token.splat_quad(1 << (8 * j));
                isa.store(isa.from_bits(token.dot(isa.splat_i32(0), v, one)), &mut sums);
                (0..lanes).for_each(|i| out[4 * i + j] = sums[i].to_bits() as u8);
            }
        });
        out
    }

    pub fn bytes_are_shifted_joined_and_looked_up<D: Int8Dot>(token: D) {
        type Definition<'a> = &'a dyn Fn(u8, u8) -> u8;
        let mut random = Random(3);
        let table: [u8; 16] = std::array::from_fn(|i| (i * i + 7) as u8);
        for _ in 0..300 {
            let [a, b]: [Vec<u8>; 2] =
                std::array::from_fn(|_| (0..4 * <D::Isa as Isa>::LANES).map(|_| random.next() as u8).collect());
            // SAFETY: both have 4 · LANES bytes.
            let (x, y) = unsafe { (token.load_bytes(a.as_ptr()), token.load_bytes(b.as_ptr())) };
            let cases: [(&str, Vec<u8>, Definition); 8] = [
                ("shr 0", bytes(token, || token.shr_and::<0, 0x0f>(x)), &|a, _| a & 0x0f),
                ("shr 4", bytes(token, || token.shr_and::<4, 0x0f>(x)), &|a, _| a >> 4),
                ("shr 6", bytes(token, || token.shr_and::<6, 0x01>(x)), &|a, _| (a >> 6) & 1),
                ("shl 0", bytes(token, || token.shl_and::<0, 0x93>(x)), &|a, _| a & 0x93),
                ("shl 4", bytes(token, || token.shl_and::<4, 0xf0>(x)), &|a, _| a << 4),
                ("shl 2", bytes(token, || token.shl_and::<2, 0x30>(x)), &|a, _| (a << 2) & 0x30),
                ("or", bytes(token, || token.or_bytes(x, y)), &|a, b| a | b),
                ("lookup", bytes(token, || token.lookup_bytes(&table, token.shr_and::<0, 0x0f>(x))), &|a, _| {
                    table[usize::from(a & 15)]
                }),
            ];
            for (name, found, definition) in cases {
                let want: Vec<u8> = a.iter().zip(&b).map(|(a, b)| definition(*a, *b)).collect();
                assert_eq!(found, want, "{name} of {token:?}");
            }
        }
    }

    pub fn pairs_of_bytes_below_64_are_multiplied_exactly<D: Int8Dot>(token: D) {
        let (isa, lanes) = (token.isa(), <D::Isa as Isa>::LANES);
        let mut random = Random(4);
        for round in 0..300 {
            // Every fourth round has extremes only, of which a sum of 16 bits is nearest to its limits.
            let mut bytes = |extremes: [u8; 2], most: u8| -> Vec<u8> {
                let byte = |w: u32| if round % 4 == 0 { extremes[w as usize % 2] } else { w as u8 & most };
                (0..4 * lanes).map(|_| byte(random.next())).collect()
            };
            let a: [Vec<u8>; 2] = std::array::from_fn(|_| bytes([63, 63], 63));
            let b: [Vec<u8>; 2] = std::array::from_fn(|_| bytes([0x7f, 0x80], 0xff));
            let mut out = vec![f32::NAN; lanes];
            token.vectorize(|| {
                // SAFETY: all have 4 · LANES bytes.
                let load = |bytes: &[Vec<u8>; 2]| unsafe {
                    [token.load_bytes(bytes[0].as_ptr()), token.load_bytes(bytes[1].as_ptr())]
                };
                isa.store(isa.from_bits(token.dot_pair_below_64(isa.splat_i32(-5), load(&a), load(&b))), &mut out);
            });
            for (i, out) in out.iter().enumerate() {
                let sum: i32 = a.iter().zip(&b).map(|(a, b)| shifted_sum(a, b, 0, i)).sum();
                assert_eq!(out.to_bits() as i32, sum - 5, "{token:?}: round {round}");
            }
        }
    }

    /// `Σ (a − shift) · b` of lane `i`.
    fn shifted_sum(a: &[u8], b: &[u8], shift: i32, i: usize) -> i32 {
        (4 * i..4 * i + 4).map(|at| (i32::from(a[at]) - shift) * i32::from(b[at] as i8)).sum()
    }

    pub fn shifted_bytes_are_multiplied_exactly<D: Int8Dot>(token: D) {
        let (isa, lanes) = (token.isa(), <D::Isa as Isa>::LANES);
        let mut random = Random(5);
        for round in 0..300 {
            // Every fourth round has extremes only.
            let mut bytes = |extremes: [u8; 3]| -> Vec<u8> {
                let byte = |w: u32| if round % 4 == 0 { extremes[w as usize % 3] } else { w as u8 };
                (0..4 * lanes).map(|_| byte(random.next())).collect()
            };
            let (a, b) = (bytes([0, 0xff, 0x80]), bytes([0x7f, 0x81, 0]));
            let b: Vec<u8> = b.into_iter().map(|b| if b == 0x80 { 0x81 } else { b }).collect();
            let mut out = vec![f32::NAN; lanes];
            token.vectorize(|| {
                // SAFETY: both have 4 · LANES bytes.
                let (a, b) = unsafe { (token.load_bytes(a.as_ptr()), token.load_bytes(b.as_ptr())) };
                isa.store(isa.from_bits(token.dot_shifted(isa.splat_i32(-5), token.shifted(a), b)), &mut out);
            });
            for (i, out) in out.iter().enumerate() {
                assert_eq!(out.to_bits() as i32, shifted_sum(&a, &b, D::SHIFT, i) - 5, "{token:?}");
            }
        }
    }

    /// As many products as the contract allows: 8 of bytes up to 16.
    pub fn few_products_are_added_exactly<D: Int8Dot>(token: D) {
        let (isa, lanes) = (token.isa(), <D::Isa as Isa>::LANES);
        let mut random = Random(6);
        for round in 0..300 {
            let mut factors = || -> [Vec<u8>; 2] {
                let mut bytes = |byte: &dyn Fn(u32) -> u8| (0..4 * lanes).map(|_| byte(random.next())).collect();
                match round % 4 {
                    0 => [bytes(&|_| 16), bytes(&|_| 0x7f)],
                    1 => [bytes(&|_| 16), bytes(&|_| 0x81)],
                    _ => [bytes(&|w| (w % 17) as u8), bytes(&|w| if w as u8 == 0x80 { 0 } else { w as u8 })],
                }
            };
            let products: [[Vec<u8>; 2]; 8] = std::array::from_fn(|_| factors());
            let mut out = vec![f32::NAN; lanes];
            token.vectorize(|| {
                let start = isa.splat_i32(-70_000);
                let mut few = token.few(start);
                for [a, b] in &products {
                    // SAFETY: both have 4 · LANES bytes.
                    let (a, b) = unsafe { (token.load_bytes(a.as_ptr()), token.load_bytes(b.as_ptr())) };
                    few = token.dot_few(few, a, b);
                }
                isa.store(isa.from_bits(token.sum_few(few, start)), &mut out);
            });
            for (i, out) in out.iter().enumerate() {
                let sum: i32 = products.iter().map(|[a, b]| shifted_sum(a, b, 0, i)).sum();
                assert_eq!(out.to_bits() as i32, sum - 70_000, "{token:?}");
            }
        }
    }
}
