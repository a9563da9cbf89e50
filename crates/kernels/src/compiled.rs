//! Kernels are compiled in this crate, once for each instruction set.
//!
//! A function that is generic over the instruction set is compiled again in every crate that calls it. So a kernel calls
//! a function of each instruction set that isn't generic and is never inlined. (No `static` may hold such functions: it
//! would be compiled for every test of this crate, whatever the test calls.)

use std::any::Any;

use smallmind_simd::Isa;

/// Calls `$body(isa, $arg, …)`, compiled in this crate.
///
/// `$body` is generic over the instruction set alone, whose token it takes first.
macro_rules! compiled {
    ($isa:ident: $I:ident, $body:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {{
        #[inline(never)]
        fn scalar(isa: smallmind_simd::Scalar, $($arg: $type),*) $(-> $result)? {
            $body(isa, $($arg),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[inline(never)]
        fn avx2(isa: smallmind_simd::Avx2, $($arg: $type),*) $(-> $result)? {
            $body(isa, $($arg),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[inline(never)]
        fn avx512(isa: smallmind_simd::Avx512, $($arg: $type),*) $(-> $result)? {
            $body(isa, $($arg),*)
        }
        use smallmind_simd::IsaKind;
        match $I::KIND {
            IsaKind::Scalar => scalar($crate::compiled::token($isa), $($arg),*),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => avx2($crate::compiled::token($isa), $($arg),*),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => avx512($crate::compiled::token($isa), $($arg),*),
            #[cfg(not(target_arch = "x86_64"))]
            IsaKind::Avx2 | IsaKind::Avx512 => scalar($crate::compiled::token($isa), $($arg),*),
        }
    }};
}
pub(crate) use compiled;

/// The token of the instruction set whose kind `I` has.
#[inline(always)]
pub(crate) fn token<I: Isa, Same: Isa>(isa: I) -> Same {
    let isa: &dyn Any = &isa;
    *isa.downcast_ref().expect("each instruction set has one token")
}

/// The table of the instruction set `$isa`, one of those that the three functions return.
macro_rules! table_of {
    ($isa:ty, $scalar:ident, $avx2:ident, $avx512:ident) => {{
        use smallmind_simd::IsaKind;
        let table: &'static dyn std::any::Any = match <$isa as smallmind_simd::Isa>::KIND {
            IsaKind::Scalar => $scalar(),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => $avx2(),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => $avx512(),
            #[cfg(not(target_arch = "x86_64"))]
            IsaKind::Avx2 | IsaKind::Avx512 => $scalar(),
        };
        table.downcast_ref().expect("each instruction set has one token")
    }};
}
pub(crate) use table_of;
