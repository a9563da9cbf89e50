//! [`TransposeFn`](super::pack::TransposeFn) in registers, which the vector language can't express: one file for each
//! instruction set, with the same items in the same order.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use smallmind_simd::{Avx2, Avx512, Isa};

    use super::super::pack::{self, TransposeFn, WordRows};
    use super::{avx2, avx512};
    use crate::Mat;

    /// Compares with portable code and with the definition, at every depth and number of rows that a panel may have.
    fn check<I: Isa>(isa: I, in_registers: TransposeFn<I>) {
        const UNTOUCHED: f32 = -7.5e20;
        let spare = 3;
        for depth in 0..40 {
            for rows in 1..=3 * I::LANES {
                let source: Vec<f32> = (0..rows * (depth + spare)).map(|i| i as f32 + 0.5).collect();
                let source = Mat::with_stride(&source, rows, depth, depth + spare);
                let width = rows.next_multiple_of(I::LANES);
                let panels = [in_registers, pack::transpose].map(|transpose| {
                    let mut panel = vec![UNTOUCHED; depth * width + 1];
                    // SAFETY: the panel holds depth * width elements, and width is a multiple of the lanes.
                    unsafe { transpose(isa, WordRows::of(source), panel.as_mut_ptr(), width) };
                    panel
                });
                let places = (0..depth * width).map(|i| (i / width, i % width));
                let expected = places.map(|(p, j)| if j < rows { source.row(j)[p] } else { 0.0 });
                let expected: Vec<f32> = expected.chain([UNTOUCHED]).collect();
                assert_eq!(panels, [expected.clone(), expected], "{} [{rows}, {depth}]", I::KIND);
            }
        }
    }

    #[test]
    fn transposing_in_registers_copies_what_portable_code_copies() {
        if let Some(isa) = Avx2::detect() {
            check(isa, avx2::transpose);
        }
        if let Some(isa) = Avx512::detect() {
            check(isa, avx512::transpose);
        }
    }
}
