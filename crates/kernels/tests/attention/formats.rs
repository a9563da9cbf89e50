//! Pages of a key-value cache in every format: attention over them has the bits of attention over pages in `F32` that
//! hold the rounded keys and values.

use smallmind_kernels::attention::{CacheFormat, KEY_BLOCK, PAGE, Scoring};
use smallmind_kernels::reference::formats::cached;
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::cached::{Case, Inputs, WINDOWS, attend, pages};
use super::{Noise, Window};

/// The formats that round.
const ROUNDED: [CacheFormat; 3] = [CacheFormat::F16, CacheFormat::Q8_0, CacheFormat::Q4_0];

/// Keys or values as a cache in `format` holds them.
fn rounded(format: CacheFormat, window: &Window) -> Window {
    let mut rounded = Window::nan(window.rows, window.cols);
    for row in 0..window.rows {
        let values = cached(format, window.mat().row(row)).into_iter().map(|x| x as f32);
        rounded.mat_mut().row_mut(row).iter_mut().zip(values).for_each(|(to, x)| *to = x);
    }
    rounded
}

fn with_rounded(format: CacheFormat, inputs: &Inputs) -> Inputs {
    let mut q = Window::nan(inputs.q.rows, inputs.q.cols);
    (0..q.rows).for_each(|row| q.mat_mut().row_mut(row).copy_from_slice(inputs.q.mat().row(row)));
    Inputs { q, k: rounded(format, &inputs.k), v: rounded(format, &inputs.v) }
}

/// Asserts that attention over pages in each format has the bits of its twin in `F32`; returns the outputs.
fn check<I: Isa>(isa: I, case: Case, inputs: &Inputs) -> [Window; 3] {
    ROUNDED.map(|format| {
        let want = attend(isa, &case, &with_rounded(format, inputs), 0..case.tokens, 0..case.group);
        let case = Case { format, ..case };
        let got = attend(isa, &case, inputs, 0..case.tokens, 0..case.group);
        for token in 0..case.tokens {
            for (i, (got, want)) in got.mat().row(token).iter().zip(want.mat().row(token)).enumerate() {
                let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(same, "{isa:?} {case:?}: {got} for {want}, column {i} of token {token}");
            }
        }
        got
    })
}

struct TwinsInF32;

impl WithIsa for TwinsInF32 {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        let mut noise = Noise(77);
        let mut cases = vec![];
        // Few rows and many, pages and blocks begun and full; heads of whole and of begun blocks and vectors.
        for (i, past) in [0, 1, PAGE - 1, PAGE, 2 * PAGE + 5, KEY_BLOCK - 2, KEY_BLOCK + 70].into_iter().enumerate() {
            for (j, head_dim) in
                [1, 7, 16, 24, 31, 32, 33, 48, 64, 72, 80, 96, 128, 150, 256, 300].into_iter().enumerate()
            {
                for (k, tokens) in [1, 2, 12].into_iter().enumerate() {
                    let case = Case::new((i + j + k) % 9 + 1, past, tokens, head_dim);
                    cases.push(match (i + 2 * j + k) % 4 {
                        0 => case.with(Some(WINDOWS[(i + j + k) % WINDOWS.len()]), Some(1.5)),
                        1 => case.with(Some(1 + noise.below(200)), None),
                        _ => case,
                    });
                }
            }
        }
        cases.extend(
            (0..400).map(|_| Case::new(1 + noise.below(9), noise.below(300), 1 + noise.below(6), 1 + noise.below(140))),
        );
        for case in cases {
            let inputs = case.inputs();
            check(isa, case, &inputs);
        }
    }
}

#[test]
fn every_format_has_the_bits_of_its_twin_in_f32() {
    for kind in IsaKind::available() {
        kind.with(TwinsInF32).unwrap();
    }
}

struct Appended;

impl WithIsa for Appended {
    type Output = Vec<Vec<u32>>;

    /// The words of pages, whose tokens were appended in runs of any length.
    fn call<I: Isa>(self, isa: I) -> Vec<Vec<u32>> {
        let mut all = vec![];
        for format in ROUNDED {
            for head_dim in [5, 32, 72, 128] {
                let case = Case { format, ..Case::new(1, 2 * PAGE, 9, head_dim) };
                let inputs = case.inputs();
                let of = |step: usize| -> Vec<Vec<u32>> {
                    let bits = |page: &Vec<f32>| page.iter().map(|x| x.to_bits()).collect();
                    pages(isa, &case, &inputs, step).iter().map(bits).collect()
                };
                let at_once = of(usize::MAX / 2);
                for step in [1, 2, 7, PAGE] {
                    assert!(at_once == of(step), "{isa:?} {case:?}: appended by {step}");
                }
                all.extend(at_once);
            }
        }
        all
    }
}

/// No token changes a byte of another, even where two codes share a byte.
#[test]
fn pages_have_the_same_bytes_however_they_are_appended_and_on_every_instruction_set() {
    let of_scalar = IsaKind::Scalar.with(Appended).unwrap();
    for kind in IsaKind::available() {
        assert!(kind.with(Appended).unwrap() == of_scalar, "{kind}");
    }
}

struct Extremes;

impl WithIsa for Extremes {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        let scoring = Scoring::new(1.0);
        for (group, past, head_dim) in [(1, 0, 32), (3, 70, 40), (9, 70, 64)] {
            let case = Case { scoring, ..Case::new(group, past, 1, head_dim) };
            let fill = |x: &dyn Fn(usize, usize) -> f32| {
                let mut inputs = case.inputs();
                for token in 0..case.keys() {
                    for d in 0..head_dim {
                        inputs.k.mat_mut().row_mut(token)[d] = x(token, d);
                        inputs.v.mat_mut().row_mut(token)[d] = x(d, token);
                    }
                }
                inputs
            };
            let is_finite = |out: &Window| out.mat().row(0).iter().all(|x| x.is_finite());
            // The least codes everywhere, zeros of both signs, subnormal numbers, the largest that every format holds.
            let large = 60_000.0;
            let fills: [&dyn Fn(usize, usize) -> f32; 6] = [
                &|_, _| -1.0,
                &|i, j| if (i + j) % 2 == 0 { 0.0 } else { -0.0 },
                &|i, j| f32::from_bits(1 + (i + 7 * j) as u32),
                &|i, j| 6e-8 * (i % 3) as f32 - 3e-8 * (j % 5) as f32,
                &|i, j| if (i + j) % 3 == 0 { large } else { -large },
                &|i, j| if (i, j) == (0, 3) { large } else { 1e-6 },
            ];
            for x in fills {
                assert!(check(isa, case, &fill(x)).iter().all(is_finite), "{isa:?} {case:?}");
            }
            // Numbers that a format can't hold show, as a key and as a value, wherever they stand.
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65_520.0, -1e30, f32::MAX] {
                for (place, d) in [(0, 0), (case.past, head_dim - 1), (case.keys() / 2, 17)] {
                    for of_keys in [true, false] {
                        let mut inputs = case.inputs();
                        let part = if of_keys { &mut inputs.k } else { &mut inputs.v };
                        part.mat_mut().row_mut(place)[d] = bad;
                        for (format, out) in ROUNDED.into_iter().zip(check(isa, case, &inputs)) {
                            let is_held = bad == 65_520.0 && format != CacheFormat::F16;
                            assert_eq!(is_finite(&out), is_held, "{isa:?} {case:?}: {bad} in {format}");
                            let shows = out.mat().row(0).iter().any(|x| x.is_nan());
                            assert_eq!(shows, !is_held, "{isa:?} {case:?}: {bad} in {format}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn extremes_are_held_or_show() {
    for kind in IsaKind::available() {
        kind.with(Extremes).unwrap();
    }
}

#[test]
fn formats_have_names_and_the_bytes_of_their_blocks() {
    for format in CacheFormat::ALL {
        assert_eq!(CacheFormat::from_name(format.name()), Some(format));
        assert_eq!(Some(format.token_bytes(64)), format.format().row_bytes(128));
    }
    assert_eq!(CacheFormat::from_name("q6_k"), None);
    assert_eq!(CacheFormat::ALL.map(|format| format.token_bytes(80)), [640, 320, 2 * 3 * 34, 2 * 3 * 18]);
}
