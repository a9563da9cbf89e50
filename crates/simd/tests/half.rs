//! Conversions from and to 16-bit floats: every pattern when widening, every tie when rounding.

use half::{bf16, f16};
use smallmind_simd::{Isa, IsaKind, WithIsa};

/// Widens all 65536 patterns of both formats.
struct Widen;

impl WithIsa for Widen {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let f16s: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let bf16s: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        for i in (0..f16s.len()).step_by(I::LANES) {
            let mut got = [0.0f32; 16];
            isa.store(isa.load_f16(&f16s[i..]), &mut got);
            for (got, x) in got[..I::LANES].iter().zip(&f16s[i..]) {
                same_number(*got, widened_f16(x.to_bits()), I::KIND);
            }
            for x in &f16s[i..][..I::LANES] {
                isa.store(isa.splat_f16(*x), &mut got);
                got[..I::LANES].iter().for_each(|got| same_number(*got, widened_f16(x.to_bits()), I::KIND));
            }
            isa.store(isa.load_bf16(&bf16s[i..]), &mut got);
            for (got, x) in got[..I::LANES].iter().zip(&bf16s[i..]) {
                same_number(*got, f32::from_bits(u32::from(x.to_bits()) << 16), I::KIND);
            }
        }
    }
}

/// The value of an IEEE 754 binary16 pattern, by its definition.
fn widened_f16(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let magnitude = match (exponent, bits & 1023) {
        (31, 0) => f32::INFINITY,
        (31, _) => f32::NAN,
        (0, _) => fraction * 2f32.powi(-24),
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

fn same_number(got: f32, expected: f32, kind: IsaKind) {
    let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
    assert!(same, "{got:e} instead of {expected:e} on {kind}");
}

#[test]
fn widening_is_exact() {
    for kind in IsaKind::available() {
        kind.with(Widen).unwrap();
    }
}

/// Rounds to both formats; the answers, as bits.
struct Narrow<'a>(&'a [f32]);

impl WithIsa for Narrow<'_> {
    type Output = (Vec<f16>, Vec<bf16>);
    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let mut f16s = vec![f16::NAN; self.0.len() + 1];
        let mut bf16s = vec![bf16::NAN; self.0.len() + 1];
        for i in (0..self.0.len()).step_by(I::LANES) {
            isa.store_f16(isa.load(&self.0[i..]), &mut f16s[i..]);
            isa.store_bf16(isa.load(&self.0[i..]), &mut bf16s[i..]);
        }
        // One element more than was written to shows that a store stays within its lanes.
        assert!(f16s.pop().unwrap().is_nan() && bf16s.pop().unwrap().is_nan());
        (f16s, bf16s)
    }
}

#[test]
fn ties_go_to_even() {
    // For neighbours a < b of the narrow format: the midpoint, which f32 holds exactly, and the floats beside it.
    let mut xs = Vec::new();
    let mut f16_answers = Vec::new();
    for bits in 0..0x7bff_u16 {
        let (a, b) = (widened_f16(bits), widened_f16(bits + 1));
        let middle = (a + b) / 2.0;
        for (x, answer) in [(middle.next_down(), bits), (middle, bits + (bits & 1)), (middle.next_up(), bits + 1)] {
            xs.extend([x, -x]);
            f16_answers.extend([answer, answer | 0x8000]);
        }
    }
    let f16_len = xs.len();
    let mut bf16_answers = Vec::new();
    for bits in 0..0x7f7f_u16 {
        let middle = f32::from_bits(u32::from(bits) << 16 | 0x8000);
        for (x, answer) in [(middle.next_down(), bits), (middle, bits + (bits & 1)), (middle.next_up(), bits + 1)] {
            xs.extend([x, -x]);
            bf16_answers.extend([answer, answer | 0x8000]);
        }
    }
    let padded = xs.len().next_multiple_of(16);
    xs.resize(padded, 0.0);
    for kind in IsaKind::available() {
        let (f16s, bf16s) = kind.with(Narrow(&xs)).unwrap();
        for ((x, got), answer) in xs.iter().zip(&f16s).zip(&f16_answers) {
            assert_eq!(got.to_bits(), *answer, "{x:e} to f16 on {kind}");
        }
        for ((x, got), answer) in xs[f16_len..].iter().zip(&bf16s[f16_len..]).zip(&bf16_answers) {
            assert_eq!(got.to_bits(), *answer, "{x:e} to bf16 on {kind}");
        }
    }
}

#[test]
fn narrowing_keeps_infinity_and_nan_and_overflows() {
    let nans =
        [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0x7fff_ffff), f32::from_bits(u32::MAX)];
    let large = [f32::INFINITY, f32::MAX, 65520.0, 65519.996, f32::from_bits(0x7f7f_8000), f32::from_bits(0x7f7f_7fff)];
    let mut xs: Vec<f32> = nans.into_iter().chain(large).collect();
    xs.resize(16, 0.0);
    for kind in IsaKind::available() {
        let (f16s, bf16s) = kind.with(Narrow(&xs)).unwrap();
        assert!(f16s[..5].iter().all(|x| x.is_nan()) && bf16s[..5].iter().all(|x| x.is_nan()), "{kind}");
        assert_eq!(f16s[5..11], [f16::INFINITY, f16::INFINITY, f16::INFINITY, f16::MAX, f16::INFINITY, f16::INFINITY]);
        let near = |x: f32| bf16::from_f32(x);
        assert_eq!(
            bf16s[5..11],
            [bf16::INFINITY, bf16::INFINITY, near(65520.0), near(65519.996), bf16::INFINITY, bf16::MAX]
        );
    }
}
