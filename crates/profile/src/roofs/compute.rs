//! Peak arithmetic in registers, with enough independent chains of operations to hide their latency.

use std::hint::black_box;

use smallmind_graph::{GraphError, Pool};
#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Bf16Dot, Int8Dot, WithInt8};
use smallmind_simd::{Isa, IsaKind, WithIsa, math};

use super::{Effort, best, seconds_together};

/// Number of independent chains: two units with a latency of four or five cycles need up to ten.
const CHAINS: usize = 12;
/// Operations of a chain in one iteration.
const STEPS: usize = 2000;

/// 1e9 operations per second. An iteration does `operations` operations on each thread.
fn rate(pool: &mut Pool, effort: Effort, operations: usize, work: impl Fn() + Sync) -> f64 {
    let all = (operations * pool.threads()) as f64;
    let seconds = best(effort, |iterations| {
        seconds_together(pool, |_, _| {
            for _ in 0..iterations {
                work();
            }
        })
    });
    all / seconds / 1e9
}

struct MultiplyAdd;

impl WithIsa for MultiplyAdd {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        isa.vectorize(
            #[inline(always)]
            || {
                let (a, b) = (isa.splat(black_box(0.999)), isa.splat(black_box(0.001)));
                let mut sums = [isa.splat(1.0); CHAINS];
                for _ in 0..STEPS {
                    for sum in &mut sums {
                        *sum = isa.mul_add(*sum, a, b);
                    }
                }
                let mut total = isa.zero();
                for sum in sums {
                    total = isa.add(total, sum);
                }
                black_box(isa.sum(total));
            },
        );
    }
}

/// Number of independent chains of exponentials: each takes a dozen instructions, so that a few keep all units busy.
const EXPONENTIALS: usize = 8;

struct Exponential;

impl WithIsa for Exponential {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        isa.vectorize(
            #[inline(always)]
            || {
                // The values converge to the fixed point of 2⁻ˣ, so that no step is faster than others.
                let sign = isa.splat(black_box(-1.0));
                let mut values = [isa.splat(1.0); EXPONENTIALS];
                for _ in 0..STEPS {
                    for value in &mut values {
                        *value = math::exp2(isa, isa.mul(*value, sign));
                    }
                }
                let mut total = isa.zero();
                for value in values {
                    total = isa.add(total, value);
                }
                black_box(isa.sum(total));
            },
        );
    }
}

struct Lanes;

impl WithIsa for Lanes {
    type Output = usize;

    fn call<I: Isa>(self, _: I) -> usize {
        I::LANES
    }
}

/// GFLOP/s of `f32` multiply-adds: two operations per lane.
pub(super) fn f32_gflops(pool: &mut Pool, isa: IsaKind, effort: Effort) -> Result<f64, GraphError> {
    let lanes = isa.with(Lanes)?;
    Ok(rate(pool, effort, 2 * CHAINS * STEPS * lanes, || {
        // It can't fail: the line above has used the same instruction set.
        let _ = isa.with(MultiplyAdd);
    }))
}

/// 1e9 exponentials of `f32` per second: one per lane.
pub(super) fn exp_gops(pool: &mut Pool, isa: IsaKind, effort: Effort) -> Result<f64, GraphError> {
    let lanes = isa.with(Lanes)?;
    Ok(rate(pool, effort, EXPONENTIALS * STEPS * lanes, || {
        let _ = isa.with(Exponential);
    }))
}

/// A chain of dot products of `bf16` pairs: four operations per lane.
#[cfg(target_arch = "x86_64")]
fn dot_pairs<D: Bf16Dot>(token: D) {
    token.vectorize(
        #[inline(always)]
        || {
            // The factors 2⁻⁶⁰ and 1 keep the sums small but not subnormal.
            let (a, b) = (token.splat_pair(black_box(0x2180_2180)), token.splat_pair(black_box(0x3f80_3f80)));
            let mut sums = [token.isa().zero(); CHAINS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = token.dot(*sum, a, b);
                }
            }
            let isa = token.isa();
            let mut total = isa.zero();
            for sum in sums {
                total = isa.add(total, sum);
            }
            black_box(isa.sum(total));
        },
    );
}

/// Chains of dot products of four bytes, eight operations per lane, with the narrowest sums.
#[cfg(target_arch = "x86_64")]
struct DotQuads;

#[cfg(target_arch = "x86_64")]
impl<I: Isa> WithInt8<I> for DotQuads {
    type Output = ();

    fn call<D: Int8Dot<Isa = I>>(self, token: D) {
        token.vectorize(
            #[inline(always)]
            || {
                let isa = token.isa();
                let start = isa.splat_i32(0);
                let a = [token.splat_quad(black_box(0x0102_0304)), token.splat_quad(black_box(0x0403_0201))];
                let quads = [0xff01_02fe; CHAINS / 2];
                let mut sums = [[token.few(start); 2]; CHAINS / 2];
                for _ in 0..STEPS {
                    // The quads come from memory, as in a product, or products that do not change would be computed
                    // once.
                    for (sums, quad) in sums.iter_mut().zip(black_box(&quads)) {
                        let b = token.splat_quad(*quad);
                        for (sum, &a) in sums.iter_mut().zip(&a) {
                            *sum = token.dot_few(*sum, a, b);
                        }
                    }
                }
                let mut total = start;
                for sum in sums.as_flattened() {
                    total = isa.add_i32(total, token.sum_few(*sum, start));
                }
                black_box(isa.sum(isa.to_f32(total)));
            },
        );
    }
}

#[cfg(target_arch = "x86_64")]
impl WithIsa for DotQuads {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        isa.with_int8(self);
    }
}

/// GFLOP/s of `bf16` dot products; none if the CPU, or `isa`, has no such instruction.
#[cfg(target_arch = "x86_64")]
pub(super) fn bf16_gflops(pool: &mut Pool, isa: IsaKind, effort: Effort) -> Option<f64> {
    let token = smallmind_simd::Avx512Bf16::detect().filter(|_| isa == IsaKind::Avx512)?;
    let operations = 4 * CHAINS * STEPS * <smallmind_simd::Avx512 as Isa>::LANES;
    Some(rate(pool, effort, operations, || dot_pairs(token)))
}

/// 1e9 operations of dot products of bytes per second; none without vectors.
#[cfg(target_arch = "x86_64")]
pub(super) fn int8_gops(pool: &mut Pool, isa: IsaKind, effort: Effort) -> Option<f64> {
    let lanes = isa.with(Lanes).ok().filter(|_| isa != IsaKind::Scalar)?;
    Some(rate(pool, effort, 8 * CHAINS * STEPS * lanes, || {
        // It can't fail: the line above has used the same instruction set.
        let _ = isa.with(DotQuads);
    }))
}

/// No such dot product is known for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn bf16_gflops(_: &mut Pool, _: IsaKind, _: Effort) -> Option<f64> {
    None
}

/// No such dot product is known for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn int8_gops(_: &mut Pool, _: IsaKind, _: Effort) -> Option<f64> {
    None
}
