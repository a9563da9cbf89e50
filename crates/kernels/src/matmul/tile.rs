//! The micro-kernels: one tile of the output, its sums held in registers.
//!
//! One generic body for each arithmetic, number of rows, width in vectors and way of walking through A. Not here: anything about caches or
//! layouts.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use smallmind_simd::Isa;

use super::arch::{prefetch, prefetch_early};
use super::arithmetic::{Arithmetic, F32, Single};
use super::half_strips::Half;

/// The most elements that a tile of any instruction set has.
const MAX_TILE: usize = 512;

/// Elements in a cache line.
pub(super) const LINE: usize = 16;

/// Steps in depth that the loop over k takes at a time.
pub(super) const UNROLL: usize = 4;

/// One call of a micro-kernel: `C[r, j] = [addend[r, j] +] scale · Σ_p A[r, p] · B[p, j] [+ bias[j]] [+ residual[r, j]]`.
///
/// Null pointers stand for what is absent. Strides are in elements.
pub(super) struct Tile<E> {
    /// Depth of the sum, in words.
    pub k: usize,
    /// The word `A[r, p]`, at `r * a_stride` and `p` words on, or at `p * a_stride` and `r` words on, by the kernel's [`Walk`].
    pub a: *const E,
    /// From row to row, or from step to step.
    pub a_stride: usize,
    /// The vector `v` of step `p` of B, at `p * b_stride + v * b_vector`, all of it readable.
    pub b: *const E,
    /// From step to step.
    pub b_stride: usize,
    /// From vector to vector.
    pub b_vector: usize,
    /// Where in the first strip lies what a kernel that reads strips asks for meanwhile, any address.
    pub ahead: *const E,
    /// How many lines of each strip it asks for with every [`UNROLL`] steps.
    pub ahead_lines: usize,
    /// Where a packing kernel writes the vectors of B, one behind another.
    pub packed: *mut E,
    /// The output.
    pub c: *mut f32,
    /// From row to row of the output.
    pub c_stride: usize,
    /// Columns to write; fewer than the kernel's width at the right edge.
    pub cols: usize,
    /// Multiplies the sum.
    pub scale: f32,
    /// Added; may be the output itself.
    pub addend: *const f32,
    /// From row to row of the addend.
    pub addend_stride: usize,
    /// Added to each row.
    pub bias: *const f32,
    /// Added after all else.
    pub residual: *const f32,
    /// From row to row of the residual.
    pub residual_stride: usize,
}

// Not derived, which would ask it of the elements too.
impl<E> Clone for Tile<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Tile<E> {}

impl<E> Tile<E> {
    /// The tile at these rows of the panel that this one is the top of.
    pub fn at_rows(self, rows: &Range<usize>, a: *const E, a_stride: usize) -> Self {
        let below = |start: *const f32, stride: usize| {
            if start.is_null() { start } else { start.wrapping_add(rows.start * stride) }
        };
        Self {
            a,
            a_stride,
            c: self.c.wrapping_add(rows.start * self.c_stride),
            addend: below(self.addend, self.addend_stride),
            residual: below(self.residual, self.residual_stride),
            ..self
        }
    }
}

/// A micro-kernel.
///
/// # Safety
/// The pointers of the tile must be valid for what its fields say: A and B for reads over the kernel's rows and vectors and the tile's
/// depth; the addend and the residual for reads, C for writes, over the kernel's rows and the tile's `cols` columns, the bias over
/// those columns; `packed`, in a packing kernel, for writes over the depth times the kernel's vectors. `cols` is at least 1 and at most the
/// kernel's width.
pub(super) type KernelFn<P> = unsafe fn(P, &Tile<<P as Arithmetic>::Element>);

/// How a micro-kernel finds the elements of A.
pub(super) trait Walk<P: Arithmetic>: Copy {
    /// A walk that starts at `a`.
    fn start(a: *const P::Element, stride: usize) -> Self;
    /// The word of row `r` at the present step.
    fn row(self, r: usize) -> *const P::Element;
    /// The walk one step further.
    fn step(self) -> Self;
}

/// A row of A is contiguous.
///
/// Rows are reached from every fourth one by indices that the addressing modes of x86 have. The compiler is kept from seeing how these
/// pointers and indices hang together: it would compute a pointer for each row, and has no registers for them.
#[derive(Clone, Copy)]
pub(super) struct AlongRows<E> {
    /// Rows 0 and 4.
    groups: [*const E; 2],
    /// From row to row.
    one: usize,
    /// Three times that.
    three: usize,
}

/// A column of A is contiguous.
#[derive(Clone, Copy)]
pub(super) struct AlongColumns<E> {
    /// Row 0.
    a: *const E,
    /// From step to step.
    stride: usize,
}

impl<P: Arithmetic> Walk<P> for AlongRows<P::Element> {
    #[inline(always)]
    fn start(a: *const P::Element, stride: usize) -> Self {
        let groups = [a, black_box(a.wrapping_add(4 * stride))];
        Self { groups, one: stride, three: black_box(3 * stride) }
    }

    #[inline(always)]
    fn row(self, r: usize) -> *const P::Element {
        let group = self.groups[r / 4];
        match r % 4 {
            0 => group,
            1 => group.wrapping_add(self.one),
            2 => group.wrapping_add(2 * self.one),
            _ => group.wrapping_add(self.three),
        }
    }

    #[inline(always)]
    fn step(self) -> Self {
        let [a, b] = self.groups;
        Self { groups: [a.wrapping_add(P::STEP), b.wrapping_add(P::STEP)], ..self }
    }
}

impl<P: Arithmetic> Walk<P> for AlongColumns<P::Element> {
    #[inline(always)]
    fn start(a: *const P::Element, stride: usize) -> Self {
        Self { a, stride }
    }

    #[inline(always)]
    fn row(self, r: usize) -> *const P::Element {
        self.a.wrapping_add(r * P::STEP)
    }

    #[inline(always)]
    fn step(self) -> Self {
        Self { a: self.a.wrapping_add(self.stride), ..self }
    }
}

/// How a micro-kernel finds the vectors of B.
pub(super) trait Source<P: Arithmetic>: Copy {
    /// Whether it packs what it reads.
    const PACKS: bool;
    /// Whether it asks for what comes later, as the tile says.
    const STREAMS: bool;
    /// Vectors that are that many elements apart.
    fn start(apart: usize) -> Self;
    /// Elements from the first vector of a step to vector `v`.
    fn vector(self, v: usize) -> usize;
    /// The vector at `at`.
    ///
    /// # Safety
    /// It must be readable there.
    #[inline(always)]
    unsafe fn load(p: P, at: *const P::Element) -> P::Words {
        // SAFETY: the caller's guarantee.
        unsafe { p.load(at) }
    }
}

/// The vectors of a step are adjacent; with `PACKS` they become a panel of their own.
#[derive(Clone, Copy)]
pub(super) struct Adjacent<const PACKS: bool>;

/// They lie in strips.
///
/// As with [`AlongRows`] the compiler must not see how the offsets hang together.
#[derive(Clone, Copy)]
pub(super) struct InStrips([usize; 3]);

impl<P: Arithmetic, const PACKS: bool> Source<P> for Adjacent<PACKS> {
    const PACKS: bool = PACKS;
    const STREAMS: bool = false;

    #[inline(always)]
    fn start(_: usize) -> Self {
        Self
    }

    #[inline(always)]
    fn vector(self, v: usize) -> usize {
        v * P::Isa::LANES * P::STEP
    }
}

impl<P: Arithmetic> Source<P> for InStrips {
    const PACKS: bool = false;
    const STREAMS: bool = true;

    #[inline(always)]
    fn start(apart: usize) -> Self {
        Self([0, apart, black_box(2 * apart)])
    }

    #[inline(always)]
    fn vector(self, v: usize) -> usize {
        self.0[v]
    }
}

/// They lie in strips of 16-bit elements, which are widened. Offsets count words of two elements.
#[derive(Clone, Copy)]
pub(super) struct InHalfStrips<H>([usize; 3], PhantomData<H>);

impl<I: Isa, H: Half> Source<Single<I>> for InHalfStrips<H> {
    const PACKS: bool = false;
    const STREAMS: bool = false;

    #[inline(always)]
    fn start(apart: usize) -> Self {
        Self([0, apart, black_box(2 * apart)], PhantomData)
    }

    #[inline(always)]
    fn vector(self, v: usize) -> usize {
        self.0[v]
    }

    #[inline(always)]
    unsafe fn load(p: Single<I>, at: *const f32) -> I::F32 {
        // SAFETY: the caller's guarantee.
        unsafe { H::load(p.0, at.cast()) }
    }
}

/// The micro-kernel of `R` rows and `V` vectors.
///
/// # Safety
/// As [`KernelFn`].
pub(super) unsafe fn kernel<P, W, S, const R: usize, const V: usize>(p: P, tile: &Tile<P::Element>)
where
    P: Arithmetic,
    W: Walk<P>,
    S: Source<P>,
{
    p.vectorize(
        #[inline(always)]
        || {
            // SAFETY: the caller's guarantee, handed on.
            unsafe {
                let sums = multiply::<P, W, S, R, V>(p, tile);
                write(p.isa(), tile, &sums);
            }
        },
    );
}

/// `Σ_p A[r, p] · B[p, v]`: for each element one chain of multiply-adds in rising `p`. Meanwhile C comes into the cache.
///
/// # Safety
/// As [`KernelFn`].
#[inline(always)]
unsafe fn multiply<P: Arithmetic, W: Walk<P>, S: Source<P>, const R: usize, const V: usize>(
    p: P,
    tile: &Tile<P::Element>,
) -> [[F32<P>; V]; R] {
    for r in 0..R {
        for j in (0..V * P::Isa::LANES).step_by(LINE) {
            prefetch(tile.c.wrapping_add(r * tile.c_stride + j));
        }
    }
    let (source, mut ahead) = (S::start(tile.b_vector), tile.ahead);
    let mut sums = [[p.isa().zero(); V]; R];
    let mut step = Step { a: W::start(tile.a, tile.a_stride), b: tile.b, packed: tile.packed };
    // SAFETY: the pointers visit A[0..R, 0..k], B[0..k, 0..V vectors] and as much of the packed panel, by the caller's guarantee; they are
    // moved by `wrapping_add` since after the last step they may lie past the end.
    unsafe {
        for _ in 0..tile.k / UNROLL {
            if S::STREAMS {
                for _ in 0..tile.ahead_lines {
                    for v in 0..V {
                        prefetch_early(ahead.wrapping_add(source.vector(v)));
                    }
                    ahead = ahead.wrapping_add(LINE);
                }
            }
            for _ in 0..UNROLL {
                step = step.multiply_add::<S, R, V>(p, tile.b_stride, source, &mut sums);
            }
        }
        for _ in 0..tile.k % UNROLL {
            step = step.multiply_add::<S, R, V>(p, tile.b_stride, source, &mut sums);
        }
    }
    sums
}

/// A step in depth: where the column of A and the row of B begin that it multiplies.
struct Step<P: Arithmetic, W> {
    a: W,
    b: *const P::Element,
    packed: *mut P::Element,
}

impl<P: Arithmetic, W: Walk<P>> Step<P, W> {
    /// Adds a column of A times a row of B to the sums, and gives the next step.
    ///
    /// # Safety
    /// `a.row(r)` for `r < R` and `V` vectors at `b` must be readable; if `S::PACKS`, as many at `packed` writable.
    #[inline(always)]
    unsafe fn multiply_add<S: Source<P>, const R: usize, const V: usize>(
        self,
        p: P,
        b_stride: usize,
        source: S,
        sums: &mut [[F32<P>; V]; R],
    ) -> Self {
        let Self { a, b, packed } = self;
        let mut b_vectors = [p.zero(); V];
        for (v, vector) in b_vectors.iter_mut().enumerate() {
            let from = b.wrapping_add(source.vector(v));
            // SAFETY: the caller's guarantee.
            unsafe {
                *vector = S::load(p, from);
                if S::PACKS {
                    p.store(*vector, packed.add(source.vector(v)));
                    // The same row of the next panel.
                    prefetch_early(from.wrapping_add(V * P::Isa::LANES * P::STEP));
                }
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's guarantee.
            let a = unsafe { p.splat(a.row(r)) };
            for (sum, &b) in sums.iter_mut().zip(&b_vectors) {
                *sum = p.multiply_add(a, b, *sum);
            }
        }
        let packed = if S::PACKS { packed.wrapping_add(V * P::Isa::LANES * P::STEP) } else { packed };
        Self { a: a.step(), b: b.wrapping_add(b_stride), packed }
    }
}

/// Writes a tile through its epilogue.
///
/// # Safety
/// As [`KernelFn`].
#[inline(always)]
pub(super) unsafe fn write<I: Isa, E, const R: usize, const V: usize>(isa: I, tile: &Tile<E>, sums: &[[I::F32; V]; R]) {
    // SAFETY: the caller's guarantee; all columns are written in the first four arms, so whole vectors are in bounds.
    unsafe {
        if tile.cols < V * I::LANES || !tile.residual.is_null() {
            write_edge(isa, tile, sums);
        } else if tile.bias.is_null() {
            if tile.addend.is_null() {
                write_full(
                    isa,
                    tile,
                    sums,
                    #[inline(always)]
                    |sum, scale, _, _| isa.mul(sum, scale),
                );
            } else {
                write_full(
                    isa,
                    tile,
                    sums,
                    #[inline(always)]
                    |sum, scale, r, j| {
                        isa.mul_add(sum, scale, isa.load_ptr(tile.addend.add(r * tile.addend_stride + j)))
                    },
                );
            }
        } else if tile.addend.is_null() {
            write_full(
                isa,
                tile,
                sums,
                #[inline(always)]
                |sum, scale, _, j| isa.add(isa.mul(sum, scale), isa.load_ptr(tile.bias.add(j))),
            );
        } else {
            write_full(
                isa,
                tile,
                sums,
                #[inline(always)]
                |sum, scale, r, j| {
                    let addend = isa.load_ptr(tile.addend.add(r * tile.addend_stride + j));
                    isa.add(isa.mul_add(sum, scale, addend), isa.load_ptr(tile.bias.add(j)))
                },
            );
        }
    }
}

/// Writes whole vectors: `finish(sum, scale, row, column)`.
///
/// # Safety
/// C must be writable over `R` rows of `V` vectors.
#[inline(always)]
unsafe fn write_full<I: Isa, E, const R: usize, const V: usize>(
    isa: I,
    tile: &Tile<E>,
    sums: &[[I::F32; V]; R],
    finish: impl Fn(I::F32, I::F32, usize, usize) -> I::F32,
) {
    let scale = isa.splat(tile.scale);
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            let j = v * I::LANES;
            // SAFETY: the caller's guarantee.
            unsafe { isa.store_ptr(finish(sum, scale, r, j), tile.c.add(r * tile.c_stride + j)) };
        }
    }
}

/// Writes any number of columns with any epilogue, by way of memory.
///
/// # Safety
/// As [`KernelFn`].
#[inline(always)]
unsafe fn write_edge<I: Isa, E, const R: usize, const V: usize>(isa: I, tile: &Tile<E>, sums: &[[I::F32; V]; R]) {
    const { assert!(R * V * I::LANES <= MAX_TILE) };
    let mut stored = MaybeUninit::<[f32; MAX_TILE]>::uninit();
    let start = stored.as_mut_ptr().cast::<f32>();
    // SAFETY: the tile fits into the buffer by the assertion above; `finish_edge` reads only what is stored here.
    unsafe {
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                isa.store_ptr(sum, start.add((r * V + v) * I::LANES));
            }
        }
        finish_edge(isa, tile, start, R, V * I::LANES);
    }
}

/// The epilogue over sums in memory, `[rows, width]`.
///
/// # Safety
/// `sums` must be readable over `rows` rows of `width` elements, a multiple of the lanes; else as [`KernelFn`].
#[inline(never)]
unsafe fn finish_edge<I: Isa, E>(isa: I, tile: &Tile<E>, sums: *const f32, rows: usize, width: usize) {
    isa.vectorize(
        #[inline(always)]
        || {
            for r in 0..rows {
                for j in (0..tile.cols).step_by(I::LANES) {
                    // SAFETY: j < cols ≤ width, so a whole vector of sums is readable; the rest is the caller's guarantee.
                    unsafe { finish_vector(isa, tile, isa.load_ptr(sums.add(r * width + j)), r, j) };
                }
            }
        },
    );
}

/// The epilogue over the columns from `j` on, at most a vector of them, of row `r`.
///
/// # Safety
/// As [`KernelFn`], `r` being one of the kernel's rows and `j` below `cols`.
#[inline(always)]
unsafe fn finish_vector<I: Isa, E>(isa: I, tile: &Tile<E>, sum: I::F32, r: usize, j: usize) {
    let cols = (tile.cols - j).min(I::LANES);
    let scale = isa.splat(tile.scale);
    // SAFETY: for each of the three, by the caller's guarantee, these columns of the row are readable; the slice is gone before C, which
    // may be the addend, is written.
    let read =
        |start: *const f32, stride: usize| unsafe { std::slice::from_raw_parts(start.add(r * stride + j), cols) };
    let mut x = if tile.addend.is_null() {
        isa.mul(sum, scale)
    } else {
        isa.mul_add(sum, scale, isa.load_partial(read(tile.addend, tile.addend_stride)))
    };
    if !tile.bias.is_null() {
        x = isa.add(x, isa.load_partial(read(tile.bias, 0)));
    }
    if !tile.residual.is_null() {
        x = isa.add(x, isa.load_partial(read(tile.residual, tile.residual_stride)));
    }
    // SAFETY: by the caller's guarantee these columns of C are writable, and the slices read above are gone.
    isa.store_partial(x, unsafe { std::slice::from_raw_parts_mut(tile.c.add(r * tile.c_stride + j), cols) });
}
