//! Arithmetic in registers: as many independent chains of multiply-adds as hide their latency.

use std::hint::black_box;

use smallmind_graph::{GraphError, Pool};
#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Bf16Dot, Int8Dot};
use smallmind_simd::{Isa, IsaKind, WithIsa, math};

use super::{Effort, best, seconds_together};

/// Independent chains: two units of four or five cycles of latency each, and some to spare.
const CHAINS: usize = 12;
/// Links of a chain in one iteration.
const STEPS: usize = 2000;

/// Operations a second in units of 1e9, where an iteration on one thread is `operations`.
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

/// Independent values in the making: each takes a dozen instructions, so that a few keep all units busy.
const EXPONENTIALS: usize = 8;

struct Exponential;

impl WithIsa for Exponential {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        isa.vectorize(
            #[inline(always)]
            || {
                // From 1 the values fall to the fixed point of 2⁻ˣ.
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

/// Two operations for each multiply-add of a lane.
pub(super) fn f32_gflops(pool: &mut Pool, isa: IsaKind, effort: Effort) -> Result<f64, GraphError> {
    let lanes = isa.with(Lanes)?;
    Ok(rate(pool, effort, 2 * CHAINS * STEPS * lanes, || {
        // The line above has shown that the set is there.
        let _ = isa.with(MultiplyAdd);
    }))
}

/// One for each lane.
pub(super) fn exp_gops(pool: &mut Pool, isa: IsaKind, effort: Effort) -> Result<f64, GraphError> {
    let lanes = isa.with(Lanes)?;
    Ok(rate(pool, effort, EXPONENTIALS * STEPS * lanes, || {
        let _ = isa.with(Exponential);
    }))
}

/// Four operations for each lane: a pair of products, each added.
#[cfg(target_arch = "x86_64")]
fn dot_pairs<D: Bf16Dot>(token: D) {
    token.vectorize(
        #[inline(always)]
        || {
            // 2⁻⁶⁰ and 1: the sums stay small and none of them is subnormal.
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

/// Eight operations for each lane: four products, each added.
#[cfg(target_arch = "x86_64")]
fn dot_quads<D: Int8Dot>(token: D) {
    token.vectorize(
        #[inline(always)]
        || {
            let (a, b) = (token.splat_quad(black_box(0x0102_0304)), token.splat_quad(black_box(0xff01_02fe)));
            let mut sums = [token.isa().splat_i32(0); CHAINS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = token.dot(*sum, a, b);
                }
            }
            let isa = token.isa();
            let mut total = isa.splat_i32(0);
            for sum in sums {
                total = isa.add_i32(total, sum);
            }
            black_box(isa.sum(isa.to_f32(total)));
        },
    );
}

/// `None` where the CPU, or the instruction set asked for, has no such dot product.
#[cfg(target_arch = "x86_64")]
pub(super) fn bf16_gflops(pool: &mut Pool, isa: IsaKind, effort: Effort) -> Option<f64> {
    let token = smallmind_simd::Avx512Bf16::detect().filter(|_| isa == IsaKind::Avx512)?;
    let operations = 4 * CHAINS * STEPS * <smallmind_simd::Avx512 as Isa>::LANES;
    Some(rate(pool, effort, operations, || dot_pairs(token)))
}

/// `None` where the CPU, or the instruction set asked for, has no such dot product.
#[cfg(target_arch = "x86_64")]
pub(super) fn int8_gops(pool: &mut Pool, isa: IsaKind, effort: Effort) -> Option<f64> {
    let token = smallmind_simd::Avx512Vnni::detect().filter(|_| isa == IsaKind::Avx512)?;
    let operations = 8 * CHAINS * STEPS * <smallmind_simd::Avx512 as Isa>::LANES;
    Some(rate(pool, effort, operations, || dot_quads(token)))
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
