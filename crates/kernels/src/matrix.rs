//! Row-strided matrices that borrow their elements.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// A borrowed matrix `[rows, cols]`, rows `stride` elements apart, columns adjacent.
pub struct Mat<'a, T = f32> {
    ptr: *const T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a [T]>,
}

/// A mutably borrowed matrix `[rows, cols]`, rows `stride` elements apart, columns adjacent.
///
/// It borrows exactly its `rows × cols` elements, not the gaps between rows: two matrices with disjoint columns of the
/// same rows may exist at the same time.
pub struct MatMut<'a, T = f32> {
    ptr: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a Mat is a shared borrow of its elements, as `&[T]` is, which is Send for T: Sync.
unsafe impl<T: Sync> Send for Mat<'_, T> {}
// SAFETY: a Mat is a shared borrow of its elements, as `&[T]` is, which is Sync for T: Sync.
unsafe impl<T: Sync> Sync for Mat<'_, T> {}
// SAFETY: a MatMut is an exclusive borrow of its elements, as `&mut [T]` is, which is Send for T: Send.
unsafe impl<T: Send> Send for MatMut<'_, T> {}
// SAFETY: a shared MatMut gives shared access only, as a shared `&mut [T]` does, which is Sync for T: Sync.
unsafe impl<T: Sync> Sync for MatMut<'_, T> {}

// A derived `Clone` or `Copy` would require that the elements are `Clone` or `Copy`.
impl<T> Clone for Mat<'_, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Mat<'_, T> {}

/// Asserts that a matrix fits into `len` elements and that its rows don't overlap.
fn check_extent(len: usize, rows: usize, cols: usize, stride: usize) {
    assert!(cols <= stride || rows <= 1, "a row of {cols} elements overlaps the next, {stride} elements on");
    let need = if rows == 0 { 0 } else { (rows - 1) * stride + cols };
    assert!(len >= need, "a [{rows}, {cols}] matrix with row stride {stride} needs {need} elements, got {len}");
}

fn check_range(range: &Range<usize>, len: usize, what: &str) {
    assert!(range.start <= range.end && range.end <= len, "{what} {range:?} of a matrix with {len}");
}

impl<'a, T> Mat<'a, T> {
    /// The matrix `[rows, cols]` at the front of `data`, dense.
    ///
    /// # Panics
    /// If `data` is too short.
    #[inline(always)]
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::with_stride(data, rows, cols, cols)
    }

    /// The matrix `[rows, cols]` at the front of `data`, rows `stride` elements apart.
    ///
    /// # Panics
    /// If `data` is too short or rows overlap.
    #[inline(always)]
    pub fn with_stride(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        check_extent(data.len(), rows, cols, stride);
        Self { ptr: data.as_ptr(), rows, cols, stride, borrow: PhantomData }
    }

    /// The matrix at `ptr`.
    ///
    /// # Safety
    /// For `'a`, the elements `ptr[r * stride + c]` with `r < rows`, `c < cols` must be valid for reads, and no element
    /// that is read through this matrix or a window of it may be written.
    #[inline(always)]
    pub unsafe fn from_raw(ptr: *const T, rows: usize, cols: usize, stride: usize) -> Self {
        Self { ptr, rows, cols, stride, borrow: PhantomData }
    }

    /// Number of rows.
    #[inline(always)]
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[inline(always)]
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Elements from one row to the next.
    #[inline(always)]
    pub fn stride(self) -> usize {
        self.stride
    }

    /// The first element.
    #[inline(always)]
    pub fn as_ptr(self) -> *const T {
        self.ptr
    }

    /// Row `r`, `[cols]`.
    ///
    /// # Panics
    /// If `r` is not a row.
    #[inline(always)]
    pub fn row(self, r: usize) -> &'a [T] {
        assert!(r < self.rows, "row {r} of a matrix with {}", self.rows);
        // SAFETY: r is a row, whose elements are readable for 'a: the constructors have checked it, or `from_raw`
        // demanded it.
        unsafe { std::slice::from_raw_parts(self.ptr.add(r * self.stride), self.cols) }
    }

    /// The rows of `range`.
    ///
    /// # Panics
    /// If `range` leaves the matrix.
    #[inline(always)]
    pub fn rows_range(self, range: Range<usize>) -> Mat<'a, T> {
        check_range(&range, self.rows, "rows");
        // SAFETY: if the range isn't empty, its first row is one of the matrix, whose rows are all in one allocation.
        Self { ptr: unsafe { offset(self.ptr, &range, self.stride) }, rows: range.len(), ..self }
    }

    /// The columns of `range`, in every row.
    ///
    /// # Panics
    /// If `range` leaves the matrix.
    #[inline(always)]
    pub fn cols_range(self, range: Range<usize>) -> Mat<'a, T> {
        check_range(&range, self.cols, "columns");
        // SAFETY: the offset ends within the first row; without rows it is 0.
        Self { ptr: unsafe { offset(self.ptr, &range, usize::from(self.rows > 0)) }, cols: range.len(), ..self }
    }
}

/// `ptr + range.start * stride`, or `ptr` if the range is empty: the start of an empty range may be beyond the
/// allocation.
///
/// # Safety
/// Unless the range is empty, the result must be in the allocation of `ptr`.
#[inline(always)]
unsafe fn offset<T>(ptr: *const T, range: &Range<usize>, stride: usize) -> *const T {
    // SAFETY: the range isn't empty in the second case, so that the result lies in the allocation.
    if range.is_empty() { ptr } else { unsafe { ptr.add(range.start * stride) } }
}

impl<'a, T> MatMut<'a, T> {
    /// The matrix `[rows, cols]` at the front of `data`, dense.
    ///
    /// # Panics
    /// If `data` is too short.
    #[inline(always)]
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self::with_stride(data, rows, cols, cols)
    }

    /// The matrix `[rows, cols]` at the front of `data`, rows `stride` elements apart.
    ///
    /// # Panics
    /// If `data` is too short or rows overlap.
    #[inline(always)]
    pub fn with_stride(data: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Self {
        check_extent(data.len(), rows, cols, stride);
        Self { ptr: data.as_mut_ptr(), rows, cols, stride, borrow: PhantomData }
    }

    /// The matrix at `ptr`.
    ///
    /// # Safety
    /// For `'a`, every element `ptr[r * stride + c]` with `r < rows`, `c < cols` must be valid for reads and writes,
    /// and must be reached only through this matrix.
    #[inline(always)]
    pub unsafe fn from_raw(ptr: *mut T, rows: usize, cols: usize, stride: usize) -> Self {
        Self { ptr, rows, cols, stride, borrow: PhantomData }
    }

    /// Number of rows.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[inline(always)]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row to the next.
    #[inline(always)]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The first element.
    #[inline(always)]
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr
    }

    /// The same matrix, read-only.
    #[inline(always)]
    pub fn as_mat(&self) -> Mat<'_, T> {
        Mat { ptr: self.ptr, rows: self.rows, cols: self.cols, stride: self.stride, borrow: PhantomData }
    }

    /// The same matrix, borrowed for a shorter time.
    #[inline(always)]
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { ptr: self.ptr, rows: self.rows, cols: self.cols, stride: self.stride, borrow: PhantomData }
    }

    /// Row `r`, `[cols]`.
    ///
    /// # Panics
    /// If `r` is not a row.
    #[inline(always)]
    pub fn row(&self, r: usize) -> &[T] {
        self.as_mat().row(r)
    }

    /// Row `r`, `[cols]`.
    ///
    /// # Panics
    /// If `r` is not a row.
    #[inline(always)]
    pub fn row_mut(&mut self, r: usize) -> &mut [T] {
        assert!(r < self.rows, "row {r} of a matrix with {}", self.rows);
        // SAFETY: r is a row; the matrix borrows its elements exclusively for 'a, and `&mut self` lends them to one
        // slice at a time.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(r * self.stride), self.cols) }
    }

    /// The rows `r` and `r + 1`, each `[cols]`.
    ///
    /// # Panics
    /// If they are not both rows.
    #[inline(always)]
    pub fn pair_mut(&mut self, r: usize) -> [&mut [T]; 2] {
        check_range(&(r..r + 2), self.rows, "rows");
        // SAFETY: both are rows of the exclusively borrowed matrix, and rows don't overlap.
        let row = |r: usize| unsafe { std::slice::from_raw_parts_mut(self.ptr.add(r * self.stride), self.cols) };
        [row(r), row(r + 1)]
    }

    /// The rows of `range`.
    ///
    /// # Panics
    /// If `range` leaves the matrix.
    #[inline(always)]
    pub fn rows_range(self, range: Range<usize>) -> MatMut<'a, T> {
        check_range(&range, self.rows, "rows");
        // SAFETY: if the range isn't empty, its first row is one of the matrix, whose rows are all in one allocation.
        Self { ptr: unsafe { offset(self.ptr, &range, self.stride) }.cast_mut(), rows: range.len(), ..self }
    }

    /// The columns of `range`, in every row.
    ///
    /// # Panics
    /// If `range` leaves the matrix.
    #[inline(always)]
    pub fn cols_range(self, range: Range<usize>) -> MatMut<'a, T> {
        check_range(&range, self.cols, "columns");
        let step = usize::from(self.rows > 0);
        // SAFETY: the offset ends within the first row; without rows it is 0.
        Self { ptr: unsafe { offset(self.ptr, &range, step) }.cast_mut(), cols: range.len(), ..self }
    }

    /// The first `row` rows and the rest.
    ///
    /// # Panics
    /// If there are fewer rows.
    #[inline(always)]
    pub fn split_at_row(self, row: usize) -> (MatMut<'a, T>, MatMut<'a, T>) {
        let rows = self.rows;
        let twin = MatMut { ptr: self.ptr, ..self };
        (twin.rows_range(0..row), self.rows_range(row..rows))
    }

    /// The first `col` columns and the rest.
    ///
    /// # Panics
    /// If there are fewer columns.
    #[inline(always)]
    pub fn split_at_col(self, col: usize) -> (MatMut<'a, T>, MatMut<'a, T>) {
        let cols = self.cols;
        let twin = MatMut { ptr: self.ptr, ..self };
        (twin.cols_range(0..col), self.cols_range(col..cols))
    }

    /// Sets every element to `value`.
    pub fn fill(&mut self, value: T)
    where
        T: Copy,
    {
        for r in 0..self.rows {
            self.row_mut(r).fill(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_reach_their_elements_only() {
        let data: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let m = Mat::with_stride(&data, 4, 5, 6);
        assert_eq!(m.row(2), &[12.0, 13.0, 14.0, 15.0, 16.0]);
        let w = m.rows_range(1..3).cols_range(2..4);
        assert_eq!((w.rows(), w.cols(), w.stride()), (2, 2, 6));
        assert_eq!(w.row(1), &[14.0, 15.0]);
        assert_eq!(m.rows_range(4..4).rows(), 0);
    }

    #[test]
    fn halves_are_written_side_by_side() {
        let mut data = vec![0.0; 12];
        let (mut a, mut b) = MatMut::new(&mut data, 3, 4).split_at_col(1);
        a.fill(1.0);
        b.fill(2.0);
        assert_eq!(data, [1.0, 2.0, 2.0, 2.0, 1.0, 2.0, 2.0, 2.0, 1.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    #[should_panic(expected = "needs 23 elements")]
    fn too_short_is_refused() {
        Mat::with_stride(&[0.0; 22], 4, 5, 6);
    }
}
