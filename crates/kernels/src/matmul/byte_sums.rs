//! How the byte products of a sub-block are added up.

use smallmind_simd::{Int8Dot, Isa};

/// The sums of a token of dot products.
type I32<D> = <<D as Int8Dot>::Isa as Isa>::I32;

/// A way to add up the products of a sub-block.
pub(super) trait Adder<D: Int8Dot> {
    /// The sum while products are added.
    type Sum: Copy;
    /// What [`weights`](Self::weights) takes from the bytes of weights.
    const SHIFT: i32;
    /// Bytes of weights as [`add`](Self::add) takes them.
    fn weights(dot: D, w: D::Bytes) -> D::Bytes;
    /// The sum of no products, to be added to `start`.
    fn begin(dot: D, start: I32<D>) -> Self::Sum;
    /// Adds the products of a pair of quads.
    fn add(dot: D, sum: Self::Sum, w: [D::Bytes; 2], x: [D::Bytes; 2]) -> Self::Sum;
    /// `start`, which the sum began with, and the products.
    fn end(dot: D, sum: Self::Sum, start: I32<D>) -> I32<D>;
}

/// In 16 bits, for bytes so small that the sum of a sub-block fits.
pub(super) struct In16Bits;
/// In 32 bits, for bytes below 64 or for all bytes.
pub(super) struct In32Bits<const BELOW_64: bool>;

impl<D: Int8Dot> Adder<D> for In16Bits {
    type Sum = D::Few;
    const SHIFT: i32 = 0;

    #[inline(always)]
    fn weights(_dot: D, w: D::Bytes) -> D::Bytes {
        w
    }

    #[inline(always)]
    fn begin(dot: D, start: I32<D>) -> D::Few {
        dot.few(start)
    }

    #[inline(always)]
    fn add(dot: D, sum: D::Few, w: [D::Bytes; 2], x: [D::Bytes; 2]) -> D::Few {
        dot.dot_few(dot.dot_few(sum, w[0], x[0]), w[1], x[1])
    }

    #[inline(always)]
    fn end(dot: D, sum: D::Few, start: I32<D>) -> I32<D> {
        dot.sum_few(sum, start)
    }
}

impl<D: Int8Dot, const BELOW_64: bool> Adder<D> for In32Bits<BELOW_64> {
    type Sum = I32<D>;
    const SHIFT: i32 = if BELOW_64 { 0 } else { D::SHIFT };

    #[inline(always)]
    fn weights(dot: D, w: D::Bytes) -> D::Bytes {
        if BELOW_64 { w } else { dot.shifted(w) }
    }

    #[inline(always)]
    fn begin(_dot: D, start: Self::Sum) -> Self::Sum {
        start
    }

    #[inline(always)]
    fn add(dot: D, sum: Self::Sum, w: [D::Bytes; 2], x: [D::Bytes; 2]) -> Self::Sum {
        if BELOW_64 {
            dot.dot_pair_below_64(sum, w, x)
        } else {
            dot.dot_shifted(dot.dot_shifted(sum, w[0], x[0]), w[1], x[1])
        }
    }

    #[inline(always)]
    fn end(_dot: D, sum: Self::Sum, _start: Self::Sum) -> Self::Sum {
        sum
    }
}
