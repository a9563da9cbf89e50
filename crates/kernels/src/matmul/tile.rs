//! The micro-kernels: one tile of the output, its sums held in registers.
//!
//! One generic body, instantiated for each instruction set, each number of rows, each width in vectors and both ways of walking
//! through A. The instances are listed once, in tables that the loop nest calls through, so that crates which use [`super::gemm`] don't
//! compile them again. Not here: anything about caches or layouts.
#![allow(unsafe_code)]

use std::any::Any;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512};
use smallmind_simd::{Isa, IsaKind, Scalar};

use super::arch::{prefetch, prefetch_early};
use super::gemv::{self, GEMV_MAX_ROWS, GemvFn};
use super::pack::{self, CopyFn, TransposeFn};

/// The most elements that a tile of any instruction set has.
const MAX_TILE: usize = 512;

/// Elements in a cache line.
const LINE: usize = 16;

/// Steps in depth that the loop over k takes at a time.
const UNROLL: usize = 4;

/// One call of a micro-kernel: `C[r, j] = [addend[r, j] +] scale · Σ_p A[r, p] · B[p, j] [+ bias[j]] [+ residual[r, j]]`.
///
/// Null pointers stand for what is absent. Strides are in elements.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Depth of the sum.
    pub k: usize,
    /// `A[r, p]`, at `r * a_stride + p` or at `r + p * a_stride` by the kernel's [`Walk`].
    pub a: *const f32,
    /// From row to row, or from step to step.
    pub a_stride: usize,
    /// `B[p, j]` at `p * b_stride + j`, whole vectors readable.
    pub b: *const f32,
    /// From step to step.
    pub b_stride: usize,
    /// Where a packing kernel writes the vectors of B, one behind another.
    pub packed: *mut f32,
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

impl Tile {
    /// The tile at these rows of the panel that this one is the top of.
    pub fn at_rows(self, rows: &Range<usize>, a: *const f32, a_stride: usize) -> Self {
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
pub(super) type KernelFn<I> = unsafe fn(I, &Tile);

/// The micro-kernels of an instruction set, and what must be known to feed them.
pub(super) struct Kernels<I: 'static> {
    /// Vectors in a full panel of B.
    pub vectors: usize,
    /// Vectors in a full panel of A.
    pub a_vectors: usize,
    /// Most steps in depth between two visits of an element of C.
    pub max_depth: usize,
    /// Most elements of a block of A that all panels of B pass by: fitted to a second-level cache of 1 MiB, of which it may fill two thirds
    /// beside a panel of B and the passing tiles of C.
    pub max_block: usize,
    /// `[rows - 1][vectors - 1]`, A in normal layout.
    pub along_rows: &'static [[KernelFn<I>; 3]],
    /// `[rows - 1][vectors - 1]`, A transposed or packed.
    pub along_columns: &'static [[KernelFn<I>; 3]],
    /// `[vectors - 1]`, for the most rows, A in normal layout; they pack B as they read it.
    pub along_rows_packing: &'static [KernelFn<I>; 3],
    /// `[vectors - 1]`, for the most rows, A transposed or packed; they pack B as they read it.
    pub along_columns_packing: &'static [KernelFn<I>; 3],
    /// `[rows of x - 1]`.
    pub gemv: [GemvFn<I>; GEMV_MAX_ROWS],
    /// Packs a panel of B from an operand in normal layout.
    pub copy: CopyFn<I>,
    /// Packs all panels of A from a transposed operand.
    pub copy_a: CopyFn<I>,
    /// Packs a panel of B from a transposed operand, or one of A from an operand in normal layout.
    pub transpose: TransposeFn<I>,
}

impl<I: Isa> Kernels<I> {
    /// Most rows of a tile.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.along_rows.len()
    }

    /// Columns of a full panel of B.
    #[inline(always)]
    pub fn width(&self) -> usize {
        self.vectors * I::LANES
    }

    /// Rows of a full panel of A: some tiles' one below another.
    #[inline(always)]
    pub fn a_panel(&self) -> usize {
        self.a_vectors * I::LANES
    }
}

/// How a micro-kernel finds the elements of A.
trait Walk: Copy {
    /// A walk that starts at `a`.
    fn start(a: *const f32, stride: usize) -> Self;
    /// The element of row `r` at the present step.
    fn row(self, r: usize) -> *const f32;
    /// The walk one step further.
    fn step(self) -> Self;
}

/// A row of A is contiguous.
///
/// Rows are reached from every fourth one by indices that the addressing modes of x86 have. The compiler is kept from seeing how these
/// pointers and indices hang together: it would compute a pointer for each row, and has no registers for them.
#[derive(Clone, Copy)]
struct AlongRows {
    /// Rows 0 and 4.
    groups: [*const f32; 2],
    /// From row to row.
    one: usize,
    /// Three times that.
    three: usize,
}

/// A column of A is contiguous.
#[derive(Clone, Copy)]
struct AlongColumns {
    /// Row 0.
    a: *const f32,
    /// From step to step.
    stride: usize,
}

impl Walk for AlongRows {
    #[inline(always)]
    fn start(a: *const f32, stride: usize) -> Self {
        let groups = [a, black_box(a.wrapping_add(4 * stride))];
        Self { groups, one: stride, three: black_box(3 * stride) }
    }

    #[inline(always)]
    fn row(self, r: usize) -> *const f32 {
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
        Self { groups: [a.wrapping_add(1), b.wrapping_add(1)], ..self }
    }
}

impl Walk for AlongColumns {
    #[inline(always)]
    fn start(a: *const f32, stride: usize) -> Self {
        Self { a, stride }
    }

    #[inline(always)]
    fn row(self, r: usize) -> *const f32 {
        self.a.wrapping_add(r)
    }

    #[inline(always)]
    fn step(self) -> Self {
        Self { a: self.a.wrapping_add(self.stride), ..self }
    }
}

/// The micro-kernel of `R` rows and `V` vectors; with `PACK` it also packs B.
///
/// # Safety
/// As [`KernelFn`].
unsafe fn kernel<I: Isa, W: Walk, const R: usize, const V: usize, const PACK: bool>(isa: I, tile: &Tile) {
    isa.vectorize(
        #[inline(always)]
        || {
            // SAFETY: the caller's guarantee, handed on.
            unsafe {
                let sums = multiply::<I, W, R, V, PACK>(isa, tile);
                write(isa, tile, &sums);
            }
        },
    );
}

/// `Σ_p A[r, p] · B[p, v]`: for each element one chain of multiply-adds in rising `p`. Meanwhile C comes into the cache.
///
/// # Safety
/// As [`KernelFn`].
#[inline(always)]
unsafe fn multiply<I: Isa, W: Walk, const R: usize, const V: usize, const PACK: bool>(
    isa: I,
    tile: &Tile,
) -> [[I::F32; V]; R] {
    for r in 0..R {
        for j in (0..V * I::LANES).step_by(LINE) {
            prefetch(tile.c.wrapping_add(r * tile.c_stride + j));
        }
    }
    let mut sums = [[isa.zero(); V]; R];
    let mut step = Step { a: W::start(tile.a, tile.a_stride), b: tile.b, packed: tile.packed };
    // SAFETY: the pointers visit A[0..R, 0..k], B[0..k, 0..V vectors] and as much of the packed panel, by the caller's guarantee; they are
    // moved by `wrapping_add` since after the last step they may lie past the end.
    unsafe {
        for _ in 0..tile.k / UNROLL {
            for _ in 0..UNROLL {
                step = step.multiply_add::<I, R, V, PACK>(isa, tile.b_stride, &mut sums);
            }
        }
        for _ in 0..tile.k % UNROLL {
            step = step.multiply_add::<I, R, V, PACK>(isa, tile.b_stride, &mut sums);
        }
    }
    sums
}

/// A step in depth: where the column of A and the row of B begin that it multiplies.
#[derive(Clone, Copy)]
struct Step<W> {
    a: W,
    b: *const f32,
    packed: *mut f32,
}

impl<W: Walk> Step<W> {
    /// Adds a column of A times a row of B to the sums, and gives the next step.
    ///
    /// # Safety
    /// `a.row(r)` for `r < R` and `V` vectors at `b` must be readable; with `PACK`, as many at `packed` writable.
    #[inline(always)]
    unsafe fn multiply_add<I: Isa, const R: usize, const V: usize, const PACK: bool>(
        self,
        isa: I,
        b_stride: usize,
        sums: &mut [[I::F32; V]; R],
    ) -> Self {
        let Self { a, b, packed } = self;
        let mut b_vectors = [isa.zero(); V];
        for (v, vector) in b_vectors.iter_mut().enumerate() {
            // SAFETY: the caller's guarantee.
            unsafe {
                *vector = isa.load_ptr(b.add(v * I::LANES));
                if PACK {
                    isa.store_ptr(*vector, packed.add(v * I::LANES));
                    // The same row of the next panel.
                    prefetch_early(b.wrapping_add((V + v) * I::LANES));
                }
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's guarantee.
            let a = isa.splat(unsafe { *a.row(r) });
            for (sum, &b) in sums.iter_mut().zip(&b_vectors) {
                *sum = isa.mul_add(a, b, *sum);
            }
        }
        let packed = if PACK { packed.wrapping_add(V * I::LANES) } else { packed };
        Self { a: a.step(), b: b.wrapping_add(b_stride), packed }
    }
}

/// Writes a tile through its epilogue.
///
/// # Safety
/// As [`KernelFn`].
#[inline(always)]
unsafe fn write<I: Isa, const R: usize, const V: usize>(isa: I, tile: &Tile, sums: &[[I::F32; V]; R]) {
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
unsafe fn write_full<I: Isa, const R: usize, const V: usize>(
    isa: I,
    tile: &Tile,
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
unsafe fn write_edge<I: Isa, const R: usize, const V: usize>(isa: I, tile: &Tile, sums: &[[I::F32; V]; R]) {
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
unsafe fn finish_edge<I: Isa>(isa: I, tile: &Tile, sums: *const f32, rows: usize, width: usize) {
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
unsafe fn finish_vector<I: Isa>(isa: I, tile: &Tile, sum: I::F32, r: usize, j: usize) {
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

/// The kernels of `gemv_nt` with 1, 2, … rows of x, and as many rows of w as given.
macro_rules! gemv_instances {
    ($isa:ty, $($m:literal $n:literal),*) => {
        [$(gemv::rows::<$isa, $m, $n>),*]
    };
}

/// The kernels of `$isa` with 1, 2, … rows, each one, two and three vectors wide.
macro_rules! instances {
    ($isa:ty, $walk:ty, $($rows:literal)*) => {
        &[$([
            kernel::<$isa, $walk, $rows, 1, false>,
            kernel::<$isa, $walk, $rows, 2, false>,
            kernel::<$isa, $walk, $rows, 3, false>,
        ]),*]
    };
}

/// The packing kernels of `$isa` with the most rows, one, two and three vectors wide.
macro_rules! packing_instances {
    ($isa:ty, $walk:ty, $rows:literal) => {
        &[
            kernel::<$isa, $walk, $rows, 1, true>,
            kernel::<$isa, $walk, $rows, 2, true>,
            kernel::<$isa, $walk, $rows, 3, true>,
        ]
    };
}

// Eight lanes are two registers of the sixteen of SSE2 or four of NEON's: 12 sums, 2 of B, 1 of A and a product.
static SCALAR: Kernels<Scalar> = Kernels {
    vectors: 1,
    a_vectors: 3,
    max_depth: 256,
    max_block: 160 * 1024,
    along_rows: instances!(Scalar, AlongRows, 1 2 3 4 5 6),
    along_columns: instances!(Scalar, AlongColumns, 1 2 3 4 5 6),
    along_rows_packing: packing_instances!(Scalar, AlongRows, 6),
    along_columns_packing: packing_instances!(Scalar, AlongColumns, 6),
    gemv: gemv_instances!(Scalar, 1 4, 2 2, 3 2, 4 2, 5 1, 6 1, 7 1, 8 1),
    copy: pack::copy::<_, 1>,
    copy_a: pack::copy::<_, 3>,
    transpose: pack::transpose,
};

// Sixteen registers: 12 sums, 2 of B, 1 of A.
#[cfg(target_arch = "x86_64")]
static AVX2: Kernels<Avx2> = Kernels {
    vectors: 2,
    a_vectors: 3,
    max_depth: 384,
    max_block: 160 * 1024,
    along_rows: instances!(Avx2, AlongRows, 1 2 3 4 5 6),
    along_columns: instances!(Avx2, AlongColumns, 1 2 3 4 5 6),
    along_rows_packing: packing_instances!(Avx2, AlongRows, 6),
    along_columns_packing: packing_instances!(Avx2, AlongColumns, 6),
    gemv: gemv_instances!(Avx2, 1 8, 2 4, 3 3, 4 2, 5 2, 6 2, 7 1, 8 1),
    copy: pack::copy::<_, 2>,
    copy_a: pack::copy::<_, 3>,
    transpose: super::arch::avx2::transpose,
};

// Thirty-two registers: 24 sums, 3 of B, 1 of A. A wide tile loads little of A, whose elements must be broadcast.
#[cfg(target_arch = "x86_64")]
static AVX512: Kernels<Avx512> = Kernels {
    vectors: 3,
    a_vectors: 1,
    max_depth: 384,
    max_block: 160 * 1024,
    along_rows: instances!(Avx512, AlongRows, 1 2 3 4 5 6 7 8),
    along_columns: instances!(Avx512, AlongColumns, 1 2 3 4 5 6 7 8),
    along_rows_packing: packing_instances!(Avx512, AlongRows, 8),
    along_columns_packing: packing_instances!(Avx512, AlongColumns, 8),
    gemv: gemv_instances!(Avx512, 1 8, 2 8, 3 6, 4 5, 5 4, 6 4, 7 3, 8 3),
    copy: pack::copy::<_, 3>,
    copy_a: pack::copy::<_, 1>,
    transpose: super::arch::avx512::transpose,
};

/// The kernels of `I`.
///
/// # Panics
/// Never for the instruction sets of `smallmind-simd`.
#[inline(always)]
pub(super) fn kernels<I: Isa>() -> &'static Kernels<I> {
    let table: &'static dyn Any = match I::KIND {
        IsaKind::Scalar => &SCALAR,
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx2 => &AVX2,
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx512 => &AVX512,
        #[cfg(not(target_arch = "x86_64"))]
        IsaKind::Avx2 | IsaKind::Avx512 => &SCALAR,
    };
    table.downcast_ref().expect("each instruction set has one token")
}
