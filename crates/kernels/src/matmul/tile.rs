//! The micro-kernels: one tile of the output, its sums held in registers.
//!
//! ```text
//! sums[R][V] = 0                                  R × V registers
//! for p in 0..k                                   (1: four steps at a time)
//!   b[V] = vectors of row p of B                  (2: from a panel, in place, or from strips)
//!   for r in 0..R
//!     a = word A[r, p] in every lane              (3: along rows or along columns)
//!     for v in 0..V:  sums[r][v] += a · b[v]
//! C[R, V vectors] = epilogue(sums)                (4: by whole vectors, or at the edge by way of memory)
//!
//!                 v = 0      v = 1                one tile, R = 4, V = 2
//!              ┌──────────┬──────────┐
//!     A[0, p]  │ ████████ │ ████████ │            each cell is a vector of sums,
//!     A[1, p]  │ ████████ │ ████████ │            that is LANES columns of C
//!     A[2, p]  │ ████████ │ ████████ │
//!     A[3, p]  │ ████████ │ ████████ │
//!              └──────────┴──────────┘
//!                B[p, 0..LANES], B[p, LANES..2·LANES]
//! ```
//!
//! There is one body, generic over the arithmetic, `R`, `V`, the [`Walk`] through A and the [`Source`] of B.
//!
//! 1. Before the first step the tile's lines of C are prefetched; with every four steps, lines of strips that a later
//!    tile reads ([`Tile::prefetch`]).
//! 2. A [`Source`] knows where the vectors of a step are, and whether they are packed or widened while they are read.
//! 3. A [`Walk`] knows where the words of a step are, so that A is read in either layout, packed or not.
//! 4. A tile at the right edge of C, or one with a residual in addition to another addend, stores its sums and finishes
//!    them vector by vector.
//!
//! Blocks for the caches are in `nest`, shares of workers in `partition`.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::{null, null_mut};

use smallmind_simd::{CacheLevel, Isa, prefetch};

use super::arithmetic::{Arithmetic, HalfFloat, Sums};
use super::operand::{Epilogue, Update};
use crate::MatMut;

/// The most elements of a tile on any instruction set.
const MAX_TILE: usize = 512;

/// Words in a cache line.
pub(super) const LINE: usize = 16;

/// Steps in depth that the loop over k takes at a time.
pub(super) const UNROLL: usize = 4;

/// The arguments of a micro-kernel:
/// `C[r, j] = [addend[r, j] +] scale · Σ_p A[r, p] · B[p, j] [+ bias[j]] [+ residual[r, j]]`.
///
/// A null pointer means that the term is absent. Strides are in elements.
pub(super) struct Tile<E> {
    /// Depth of the sum, in words.
    pub k: usize,
    /// The word `A[0, 0]`; the kernel's [`Walk`] decides where the others are.
    pub a: *const E,
    /// Stride of A from row to row (walk along rows) or from step to step (walk along columns).
    pub a_stride: usize,
    /// Vector `v` of step `p` of B is at `p * b_stride + v * b_vector`; all its lanes are readable.
    pub b: *const E,
    /// Stride of B from step to step.
    pub b_stride: usize,
    /// Stride of B from vector to vector.
    pub b_vector: usize,
    /// Where prefetching begins, in the first strip. It may be any address; only kernels that read strips of `f32`
    /// prefetch.
    pub prefetch: *const E,
    /// Lines of each strip to prefetch with every [`UNROLL`] steps.
    pub prefetch_lines: usize,
    /// Where a packing kernel writes the vectors of B, one after another.
    pub packed: *mut E,
    /// The output.
    pub c: *mut f32,
    /// Stride of the output from row to row.
    pub c_stride: usize,
    /// Columns to write: fewer than the kernel's width at the right edge.
    pub cols: usize,
    /// Factor of the sum.
    pub scale: f32,
    /// First addend; may be the output itself.
    pub addend: *const f32,
    /// Stride of the addend from row to row.
    pub addend_stride: usize,
    /// Added to each row.
    pub bias: *const f32,
    /// Added after all else.
    pub residual: *const f32,
    /// Stride of the residual from row to row.
    pub residual_stride: usize,
}

// A derived `Clone` or `Copy` would require that the elements are `Clone` or `Copy`.
impl<E> Clone for Tile<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Tile<E> {}

impl<E> Tile<E> {
    /// A tile at the top left of `c`, as wide as `c`, of depth `k` in words; without A and B.
    pub fn of_output(c: &MatMut, epilogue: &Epilogue, k: usize) -> Self {
        let residual = epilogue.residual.map_or((null(), 0), |r| (r.as_ptr(), r.stride()));
        let start = c.as_mat().as_ptr();
        // A residual without an earlier output takes the addend's place, which is fused with the scale.
        let (addend, residual) = match epilogue.update {
            Update::Overwrite => (residual, (null(), 0)),
            Update::Accumulate => ((start, c.stride()), residual),
        };
        Self {
            k,
            a: null(),
            a_stride: 0,
            b: null(),
            b_stride: 0,
            b_vector: 0,
            prefetch: null(),
            prefetch_lines: 0,
            packed: null_mut(),
            c: start.cast_mut(),
            c_stride: c.stride(),
            cols: c.cols(),
            scale: epilogue.scale,
            addend: addend.0,
            addend_stride: addend.1,
            bias: epilogue.bias.map_or(null(), <[f32]>::as_ptr),
            residual: residual.0,
            residual_stride: residual.1,
        }
    }

    /// The tile `rows.start` rows below this one, which is at the top, with its own A.
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

/// A micro-kernel of some number of rows and vectors.
///
/// # Safety
/// The pointers of the tile must be valid for what its fields say: A and B for reads over the kernel's rows and vectors
/// and the tile's depth; the addend and the residual for reads, C for writes, over the kernel's rows and the tile's
/// `cols` columns, the bias over those columns; `packed`, in a packing kernel, for writes over the depth times the
/// kernel's vectors. `cols` must be at least 1 and at most the kernel's width.
pub(super) type KernelFn<P> = unsafe fn(P, &Tile<<P as Arithmetic>::Element>);

/// Where a micro-kernel reads A: the addresses of the words of a step.
pub(super) trait Walk<P: Arithmetic>: Copy {
    /// The walk at step 0, from [`Tile::a`] and [`Tile::a_stride`].
    fn start(a: *const P::Element, stride: usize) -> Self;
    /// Address of the word of row `r` at this step.
    fn row(self, r: usize) -> *const P::Element;
    /// The walk at the next step.
    fn step(self) -> Self;
}

/// The words of a row of A are adjacent.
///
/// A row's address is that of row 0 or 4 plus 0, 1, 2 or 3 strides, which x86 addresses without further instructions.
/// `black_box` hides from the compiler that these values depend on one another: it would compute a pointer for each
/// row, more than there are registers.
#[derive(Clone, Copy)]
pub(super) struct AlongRows<E> {
    /// Addresses of rows 0 and 4.
    groups: [*const E; 2],
    /// Stride from row to row.
    one: usize,
    /// Three strides.
    three: usize,
}

/// The words of a column of A are adjacent.
#[derive(Clone, Copy)]
pub(super) struct AlongColumns<E> {
    /// Address of row 0.
    a: *const E,
    /// Stride from step to step.
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

/// Where a micro-kernel reads B: the offsets of the vectors of a step.
pub(super) trait Source<P: Arithmetic>: Copy {
    /// Whether the kernel writes what it reads to [`Tile::packed`].
    const PACKS: bool;
    /// Whether the kernel prefetches what [`Tile::prefetch`] points to.
    const PREFETCHES: bool;
    /// Bytes of a vector, as the source stores it.
    const VECTOR_BYTES: usize = P::Isa::LANES * size_of::<f32>();
    /// The source of vectors that are [`Tile::b_vector`] elements apart.
    fn start(apart: usize) -> Self;
    /// Elements from the first vector of a step to vector `v`.
    fn vector(self, v: usize) -> usize;
    /// The vector at `at`.
    ///
    /// # Safety
    /// `at` must be valid for reads of a vector of words as the source stores them.
    #[inline(always)]
    unsafe fn load(p: P, at: *const P::Element) -> P::Words {
        // SAFETY: the caller keeps a vector of words readable.
        unsafe { p.load(at) }
    }
}

/// The vectors of a step are adjacent; with `PACKS` the kernel writes them to a panel.
#[derive(Clone, Copy)]
pub(super) struct Adjacent<const PACKS: bool>;

/// Each vector of a step is in another strip. These are the offsets of the strips.
///
/// `black_box` hides from the compiler that they depend on one another, as in [`AlongRows`].
#[derive(Clone, Copy)]
pub(super) struct InStrips([usize; MAX_STRIPS]);

/// The most strips that a kernel reads side by side.
const MAX_STRIPS: usize = 4;

/// The offsets of strips that are `apart` elements apart.
#[inline(always)]
fn offsets(apart: usize) -> [usize; MAX_STRIPS] {
    [0, apart, black_box(2 * apart), 3 * apart]
}

impl<P: Arithmetic, const PACKS: bool> Source<P> for Adjacent<PACKS> {
    const PACKS: bool = PACKS;
    const PREFETCHES: bool = false;

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
    const PREFETCHES: bool = true;

    #[inline(always)]
    fn start(apart: usize) -> Self {
        Self(offsets(apart))
    }

    #[inline(always)]
    fn vector(self, v: usize) -> usize {
        self.0[v]
    }
}

/// As [`InStrips`], in strips of 16-bit floats, which become words as they are loaded.
#[derive(Clone, Copy)]
pub(super) struct InHalfStrips<H>([usize; MAX_STRIPS], PhantomData<H>);

impl<P: Arithmetic, H: HalfFloat> Source<P> for InHalfStrips<H> {
    const PACKS: bool = false;
    const PREFETCHES: bool = false;
    const VECTOR_BYTES: usize = P::Isa::LANES * P::STEP * size_of::<u16>();

    #[inline(always)]
    fn start(apart: usize) -> Self {
        Self(offsets(apart), PhantomData)
    }

    #[inline(always)]
    fn vector(self, v: usize) -> usize {
        self.0[v]
    }

    #[inline(always)]
    unsafe fn load(p: P, at: *const P::Element) -> P::Words {
        // SAFETY: the caller keeps a vector readable as the strips store it.
        unsafe { p.load_half::<H>(at.cast()) }
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
            debug_assert!((1..=V * P::Isa::LANES).contains(&tile.cols), "{} columns of {V} vectors", tile.cols);
            // SAFETY: the tile's pointers are valid for a kernel of R rows and V vectors, which is all that both
            // functions demand.
            unsafe {
                let sums = multiply::<P, W, S, R, V>(p, tile);
                write(p.isa(), tile, &sums);
            }
        },
    );
}

/// `Σ_p A[r, p] · B[p, v]`: for each element one chain of multiply-adds in rising `p`. Prefetches C.
///
/// # Safety
/// As [`KernelFn`].
#[inline(always)]
unsafe fn multiply<P: Arithmetic, W: Walk<P>, S: Source<P>, const R: usize, const V: usize>(
    p: P,
    tile: &Tile<P::Element>,
) -> [[Sums<P>; V]; R] {
    for r in 0..R {
        for j in (0..V * P::Isa::LANES).step_by(LINE) {
            prefetch(tile.c.wrapping_add(r * tile.c_stride + j), CacheLevel::First);
        }
    }
    let (source, mut next) = (S::start(tile.b_vector), tile.prefetch);
    let mut sums = [[p.isa().zero(); V]; R];
    let mut step = Step { a: W::start(tile.a, tile.a_stride), b: tile.b, packed: tile.packed };
    // SAFETY: at step p < k the pointers are those of A[0..R, p], of the V vectors of B[p] and of their place in the
    // packed panel, all of which the caller keeps valid. They are moved by `wrapping_add`, since after the last step
    // they may lie past the end.
    unsafe {
        for _ in 0..tile.k / UNROLL {
            if S::PREFETCHES {
                for _ in 0..tile.prefetch_lines {
                    for v in 0..V {
                        prefetch(next.wrapping_add(source.vector(v)), CacheLevel::Second);
                    }
                    next = next.wrapping_add(LINE);
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

/// A step in depth: the addresses of the column of A and the row of B that it multiplies, and of that row's packed
/// copy.
pub(super) struct Step<P: Arithmetic, W> {
    pub a: W,
    pub b: *const P::Element,
    pub packed: *mut P::Element,
}

impl<P: Arithmetic, W: Walk<P>> Step<P, W> {
    /// Adds a column of A times a row of B to the sums; returns the next step.
    ///
    /// # Safety
    /// `a.row(r)` for `r < R` and `V` vectors at `b` must be readable; if `S::PACKS`, as many at `packed` writable.
    #[inline(always)]
    pub unsafe fn multiply_add<S: Source<P>, const R: usize, const V: usize>(
        self,
        p: P,
        b_stride: usize,
        source: S,
        sums: &mut [[Sums<P>; V]; R],
    ) -> Self {
        let Self { a, b, packed } = self;
        let mut b_vectors = [p.zero(); V];
        for (v, vector) in b_vectors.iter_mut().enumerate() {
            let from = b.wrapping_add(source.vector(v));
            // SAFETY: v < V, and the caller keeps V vectors at `b` readable and, if S packs, as many at `packed`
            // writable.
            unsafe {
                *vector = S::load(p, from);
                if S::PACKS {
                    p.store(*vector, packed.add(source.vector(v)));
                    // The same row of the next panel.
                    prefetch(from.wrapping_add(V * P::Isa::LANES * P::STEP), CacheLevel::Second);
                }
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: r < R, whose words the caller keeps readable.
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
    // SAFETY: C, the addend and the bias are valid over R rows and `cols` columns. In the calls of `write_full` these
    // are all columns of the V vectors, so that whole vectors are in bounds.
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
            // SAFETY: row r < R and vector v < V, which the caller keeps writable.
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
    // SAFETY: R rows of V vectors fit into the buffer, as asserted above, and `finish_edge` reads only these; the tile
    // is valid for R rows.
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
                    // SAFETY: j < cols ≤ width, a multiple of the lanes, so a whole vector of sums is readable; the
                    // tile is valid for row r.
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
    // SAFETY: addend, bias and residual are readable over the columns of each row, and j + cols is at most their
    // number. Each slice is dropped before C, which may be the addend, is written.
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
    // SAFETY: C is writable over the columns of row r, and no other slice of it exists any more.
    isa.store_partial(x, unsafe { std::slice::from_raw_parts_mut(tile.c.add(r * tile.c_stride + j), cols) });
}
