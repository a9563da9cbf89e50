//! One file for each instruction set, with the same items in the same order; next to each the files of its dot products
//! of narrow numbers.
//!
//! `avx512` and `avx512_vnni` use each other: VNNI needs all that AVX-512 needs, and
//! [`Isa::with_int8`](crate::Isa::with_int8) of AVX-512 detects VNNI.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_bytes;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_bytes;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_vnni;
#[cfg(test)]
mod dot_tests;
pub(crate) mod prefetch;
pub(crate) mod scalar;
mod scalar_dot;
pub(crate) mod ticks;

// Unsafe code relies on these bounds: see [`Isa`](crate::Isa).
const _: () = {
    use crate::{Isa, MAX_LANES};
    const fn is_valid<I: Isa>() -> bool {
        I::LANES <= MAX_LANES && I::LANES.is_power_of_two()
    }
    assert!(is_valid::<crate::Scalar>());
    #[cfg(target_arch = "x86_64")]
    assert!(is_valid::<crate::Avx2>() && is_valid::<crate::Avx512>());
};

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use crate::{Isa, IsaKind, WithIsa};

    /// Moves vectors through pointers at every offset, aligned or not.
    struct Pointers;

    impl WithIsa for Pointers {
        type Output = ();
        fn call<I: Isa>(self, isa: I) {
            let src: Vec<f32> = (0..3 * I::LANES).map(|i| i as f32).collect();
            for offset in 0..I::LANES {
                let mut dst = vec![-1.0; src.len()];
                // SAFETY: offset + LANES is at most the length of both vectors.
                unsafe { isa.store_ptr(isa.load_ptr(src.as_ptr().add(offset)), dst.as_mut_ptr().add(offset)) };
                for (i, &d) in dst.iter().enumerate() {
                    let inside = (offset..offset + I::LANES).contains(&i);
                    assert_eq!(d, if inside { src[i] } else { -1.0 }, "{} at {offset}", I::KIND);
                }
            }
        }
    }

    #[test]
    fn pointers_move_one_vector() {
        for kind in IsaKind::available() {
            kind.with(Pointers).unwrap();
        }
    }
}
