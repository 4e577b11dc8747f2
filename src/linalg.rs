//! Dense products: the only caller of the `gemm` crate.
//!
//! `gemm` reaches the AVX-512 rate of the processor on stable Rust (`cargo bench --bench kernels`). Work is split
//! by shape alone and each piece runs on one thread, so a product has the same bits on any number of threads:
//! many rows are cut into chunks of rows; few rows with a long inner dimension into chunks of the inner
//! dimension, whose partial results are added in order; wide outputs of few rows into blocks of columns.

#![allow(unsafe_code)]

use crate::memory;
use crate::real::Real;
use crate::threads;
use std::borrow::Cow;
use std::ops::Range;

/// A matrix over a slice: element `(i, j)` is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> MatRef<'a, T> {
    /// A row-major matrix; `data` holds `rows * columns` values.
    ///
    /// # Panics
    /// If `data` has another length.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "a {rows} x {columns} matrix over {} values", data.len());
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The transpose, without moving anything.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The `count` columns from `start` on.
    ///
    /// # Panics
    /// If the matrix ends before.
    #[must_use]
    pub fn columns_of(self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.columns, "columns {start}..{} of {}", start + count, self.columns);
        // A matrix without rows may hold no values to begin at.
        let first = (start * self.column_stride).min(self.data.len());
        Self { data: &self.data[first..], columns: count, ..self }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

impl<'a, T: Element> MatRef<'a, T> {
    /// The values row by row, copied unless they lie so already. A right factor that meets many blocks of rows is
    /// arranged once; `gemm` would do it for each.
    pub fn row_major(self) -> Cow<'a, [T]> {
        if self.column_stride == 1 && self.row_stride == self.columns {
            return Cow::Borrowed(&self.data[..self.rows * self.columns]);
        }
        let mut values = memory::with_capacity(self.rows * self.columns);
        for row in 0..self.rows {
            values.extend(
                (0..self.columns).map(|at| self.data[row * self.row_stride + at * self.column_stride]),
            );
        }
        Cow::Owned(values)
    }
}

/// `f32` and `f64`: what products, tensors and layers are generic over.
pub trait Element: Copy + bytemuck::Zeroable + Send + Sync + 'static + gemm_element::Sealed {}
impl Element for f32 {}
impl Element for f64 {}

mod gemm_element {
    pub trait Sealed: Sized {
        const ZERO: Self;
        const ONE: Self;
        fn add_assign(&mut self, other: Self);
    }
    impl Sealed for f32 {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        fn add_assign(&mut self, other: Self) {
            *self += other;
        }
    }
    impl Sealed for f64 {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        fn add_assign(&mut self, other: Self) {
            *self += other;
        }
    }
}

/// Products below this many multiply-adds run on the caller's thread.
const SMALL: usize = 1 << 18;

/// Blocks that an output is cut into, at most: enough to share among threads evenly, few enough that packing the
/// other operand once a block stays cheap.
const BLOCKS: usize = 16;

/// Fewest rows or columns of a block, a multiple of the micro-kernel's register tile.
const BLOCK: usize = 48;

/// Most rows or columns of a block: a block of the output and the operand's panel stay in the L2 cache.
const LARGEST_BLOCK: usize = 512;

/// Shortest piece of a split inner dimension.
const INNER: usize = 768;

/// `out = a b` (or `out += a b` when `accumulate`), `out` row-major `a.rows() x b.columns()`.
///
/// # Panics
/// If the inner dimensions or the length of `out` disagree.
pub fn matmul_into<T: Element>(a: MatRef<'_, T>, b: MatRef<'_, T>, out: &mut [T], accumulate: bool) {
    assert_eq!(a.columns, b.rows, "matmul: {}x{} by {}x{}", a.rows, a.columns, b.rows, b.columns);
    assert_eq!(out.len(), a.rows * b.columns, "matmul: wrong room for {}x{}", a.rows, b.columns);
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if out.is_empty() {
        return;
    }
    if m.saturating_mul(n).saturating_mul(k) < SMALL {
        product(a, b, out, accumulate);
    } else if k >= 2 * INNER && k > 2 * m.max(n) {
        split_inner(a, b, out, accumulate);
    } else if m >= n {
        let rows = block(m);
        let values = b.row_major();
        let b = MatRef::new(&values, k, n);
        threads::for_each_chunk(out, rows * n, |chunk, out| {
            product(rows_of(a, chunk * rows, out.len() / n), b, out, accumulate);
        });
    } else {
        split_columns(a, b, out, accumulate);
    }
}

/// The block length for a dimension of `len`, by its length alone.
fn block(len: usize) -> usize {
    len.div_ceil(BLOCKS).next_multiple_of(BLOCK).min(LARGEST_BLOCK)
}

/// Blocks of columns are computed apart and copied into place: the copy is `1/k` of the arithmetic.
fn split_columns<T: Element>(a: MatRef<'_, T>, b: MatRef<'_, T>, out: &mut [T], accumulate: bool) {
    let (m, n) = (a.rows, b.columns);
    let width = block(n);
    let blocks = threads::map(n.div_ceil(width), |piece| {
        let start = piece * width;
        let columns = rows_of(b.t(), start, width.min(n - start)).t();
        let mut part = memory::vec![T::ZERO; m * columns.columns];
        product(a, columns, &mut part, false);
        part
    });
    for (row, out) in out.chunks_exact_mut(n).enumerate() {
        for (part, out) in blocks.iter().zip(out.chunks_mut(width)) {
            let values = &part[row * out.len()..][..out.len()];
            if accumulate {
                out.iter_mut().zip(values).for_each(|(sum, &value)| sum.add_assign(value));
            } else {
                out.copy_from_slice(values);
            }
        }
    }
}

/// Few outputs, long sums: partial products over pieces of the inner dimension, added in order.
fn split_inner<T: Element>(a: MatRef<'_, T>, b: MatRef<'_, T>, out: &mut [T], accumulate: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let inner = k.div_ceil(BLOCKS).max(INNER);
    let pieces = threads::map(k.div_ceil(inner), |piece| {
        let start = piece * inner;
        let len = inner.min(k - start);
        let mut partial = memory::vec![T::ZERO; m * n];
        product(rows_of(a.t(), start, len).t(), rows_of(b, start, len), &mut partial, false);
        partial
    });
    if !accumulate {
        out.fill(T::ZERO);
    }
    for piece in pieces {
        out.iter_mut().zip(piece).for_each(|(sum, value)| sum.add_assign(value));
    }
}

fn rows_of<T>(matrix: MatRef<'_, T>, start: usize, rows: usize) -> MatRef<'_, T> {
    debug_assert!(start + rows <= matrix.rows);
    MatRef { data: &matrix.data[start * matrix.row_stride..], rows, ..matrix }
}

/// As [`matmul_into`], on the caller's thread alone: for tasks that are a thread's own.
///
/// # Panics
/// If the inner dimensions or the length of `out` disagree.
pub fn matmul_here<T: Element>(a: MatRef<'_, T>, b: MatRef<'_, T>, out: &mut [T], accumulate: bool) {
    assert_eq!(a.columns, b.rows, "matmul: {}x{} by {}x{}", a.rows, a.columns, b.rows, b.columns);
    assert_eq!(out.len(), a.rows * b.columns, "matmul: wrong room for {}x{}", a.rows, b.columns);
    if !out.is_empty() {
        product(a, b, out, accumulate);
    }
}

/// As [`matmul_here`], into the `b.columns()` columns from `start` on of a row-major matrix that has `columns`.
///
/// # Panics
/// If dimensions disagree, or the inner one is 0.
pub fn matmul_into_columns<T: Element>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    out: &mut [T],
    columns: usize,
    start: usize,
) {
    assert!(
        a.columns == b.rows && a.columns > 0,
        "matmul: {}x{} by {}x{}",
        a.rows,
        a.columns,
        b.rows,
        b.columns
    );
    assert!(start + b.columns <= columns && out.len() == a.rows * columns, "matmul: no such columns");
    if !out.is_empty() && b.columns > 0 {
        strided(a, b, &mut out[start..], columns, false);
    }
}

/// One product on this thread.
fn product<T: Element>(a: MatRef<'_, T>, b: MatRef<'_, T>, out: &mut [T], accumulate: bool) {
    if a.columns > 0 {
        strided(a, b, out, b.columns, accumulate);
    } else if !accumulate {
        out.fill(T::ZERO);
    }
}

/// Most multiply-adds of one call of `gemm`, which nothing interrupts: some 10 ms with vector registers.
const UNINTERRUPTED: usize = 1 << 30;

/// Bytes that `gemm` may pack of a left factor at a time.
const PACKED: usize = 8 << 20;

/// Most inner values that `gemm` packs at a time.
const PACKED_INNER: usize = 1024;

/// Packed bytes from which on memory is checked before `gemm` takes it, since it can't be refused any there.
const CHECKED: usize = 2 << 20;

/// Most columns of a piece of a large product.
const WIDE: usize = 2048;

/// One product on this thread, into rows `stride` apart. Large ones are split by their shape, so that each call of
/// `gemm` is short and packs little; sums over pieces of the inner dimension are added in order.
fn strided<T: Element>(a: MatRef<'_, T>, b: MatRef<'_, T>, out: &mut [T], stride: usize, accumulate: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let fit = PACKED / (k.clamp(1, PACKED_INNER) * size_of::<T>());
    let long = m.saturating_mul(n).saturating_mul(k) > UNINTERRUPTED;
    if !long && m <= fit {
        return called(a, b, out, stride, accumulate);
    }
    let (rows, columns) = if long { (even(m, LARGEST_BLOCK), even(n, WIDE)) } else { (even(m, fit), n) };
    let depth = if long { even(k, (UNINTERRUPTED / rows / columns).max(PACKED_INNER)) } else { k };
    for row in (0..m).step_by(rows) {
        let a = rows_of(a, row, rows.min(m - row));
        for column in (0..n).step_by(columns) {
            let b = b.columns_of(column, columns.min(n - column));
            for start in (0..k).step_by(depth) {
                let len = depth.min(k - start);
                let (a, b) = (a.columns_of(start, len), rows_of(b, start, len));
                called(a, b, &mut out[row * stride + column..], stride, accumulate || start > 0);
                threads::checkpoint();
            }
        }
    }
}

/// The length of equal pieces of at most `most` values.
fn even(len: usize, most: usize) -> usize {
    len.div_ceil(len.div_ceil(most.max(1)).max(1)).max(1)
}

/// One call of `gemm`.
fn called<T: Element>(a: MatRef<'_, T>, b: MatRef<'_, T>, out: &mut [T], stride: usize, accumulate: bool) {
    let packed = a.rows * a.columns.min(PACKED_INNER) * size_of::<T>();
    if packed >= CHECKED {
        memory::require(packed).unwrap_or_else(|error| error.throw());
    }
    let last = |matrix: &MatRef<'_, T>| {
        (matrix.rows.max(1) - 1) * matrix.row_stride + (matrix.columns.max(1) - 1) * matrix.column_stride
    };
    assert!(last(&a) < a.data.len() && last(&b) < b.data.len());
    assert!(b.columns <= stride && (a.rows - 1) * stride + b.columns <= out.len());
    let beta = if accumulate { T::ONE } else { T::ZERO };
    // SAFETY: the strides reach no further than `last`, which the assertions hold inside the slices; `out` is
    // exclusive and holds `rows` rows, `stride` apart.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            beta,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Norms of rows whose squares, summed in `f32`, are neither infinite nor less exact.
pub const ORDINARY_NORMS: Range<f64> = 1e-15..1e18;

/// The Euclidean norm, right for all finite `f32` values: where the squares are beyond their range it is made in `f64`.
pub fn norm<T: Real>(values: &[T]) -> f64 {
    let norm = T::dot(values, values).sqrt().wide();
    if ORDINARY_NORMS.contains(&norm) {
        return norm;
    }
    values.iter().map(|value| value.wide() * value.wide()).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
        let mut out = vec![0.0; m * n];
        for i in 0..m {
            for p in 0..k {
                for j in 0..n {
                    out[i * n + j] += a[i * k + p] * b[p * n + j];
                }
            }
        }
        out
    }

    fn transposed(a: &[f64], rows: usize, columns: usize) -> Vec<f64> {
        (0..columns * rows).map(|i| a[(i % rows) * columns + i / rows]).collect()
    }

    fn random(len: usize, index: u64) -> Vec<f64> {
        let mut rng = crate::rng::stream(3, "linalg-test", index);
        (0..len).map(|_| rng.normal()).collect()
    }

    proptest! {
        #[test]
        fn matches_the_triple_loop_in_every_layout(m in 0usize..40, k in 0usize..40, n in 0usize..40, layout in 0u8..8) {
            let (a, b) = (random(m * k, 0), random(k * n, 1));
            let expected = reference(&a, &b, m, k, n);
            let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
            let left = if layout & 1 == 0 { MatRef::new(&a, m, k) } else { MatRef::new(&at, k, m).t() };
            let right = if layout & 2 == 0 { MatRef::new(&b, k, n) } else { MatRef::new(&bt, n, k).t() };
            let accumulate = layout & 4 != 0;
            let mut out = vec![1.0; m * n];
            matmul_into(left, right, &mut out, accumulate);
            let base = if accumulate { 1.0 } else { 0.0 };
            for (got, expected) in out.iter().zip(expected) {
                prop_assert!((got - expected - base).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn values_are_arranged_by_rows_and_borrowed_where_they_are() {
        let values = random(12, 4);
        let matrix = MatRef::new(&values, 3, 4);
        assert!(matches!(matrix.row_major(), Cow::Borrowed(same) if same == values));
        assert_eq!(matrix.t().row_major(), transposed(&values, 3, 4));
        let middle = [1, 2, 5, 6, 9, 10].map(|at| values[at]);
        assert_eq!(matrix.columns_of(1, 2).row_major(), &middle[..]);
        assert!(MatRef::<f64>::new(&[], 0, 4).t().row_major().is_empty());
    }

    #[test]
    fn products_beyond_one_call_are_those_of_their_pieces() {
        for (m, k, n) in [(9000, 1100, 3), (512, 4200, 1000)] {
            let (a, b) = (random(m * k, 5), random(k * n, 6));
            let (left, right) = (MatRef::new(&a, m, k), MatRef::new(&b, k, n));
            let mut out = vec![1.0; m * n];
            strided(left, right, &mut out, n, true);
            for at in (0..m * n).step_by(m * n / 97) {
                let expected: f64 = (0..k).map(|p| a[at / n * k + p] * b[p * n + at % n]).sum();
                assert!((out[at] - expected - 1.0).abs() < 1e-9, "{m}x{k}x{n} at {at}");
            }
        }
        assert_eq!([even(10, 4), even(8, 4), even(3, 4), even(0, 4), even(5, 0)], [4, 4, 3, 1, 1]);
    }

    #[test]
    fn split_shapes_match_float64_bit_for_bit_on_any_number_of_threads() {
        for (m, k, n) in [(1500, 70, 33), (40, 9000, 30), (130, 64, 2000), (1, 5000, 1), (64, 300_000, 2)] {
            let (a, b) = (random(m * k, 2), random(k * n, 3));
            let expected = reference(&a, &b, m, k, n);
            let (a, b): (Vec<f32>, Vec<f32>) =
                (a.iter().map(|&v| v as f32).collect(), b.iter().map(|&v| v as f32).collect());
            let product = |threads| {
                crate::threads::set_num_threads(threads).unwrap();
                let mut out = vec![0.0f32; m * n];
                matmul_into(MatRef::new(&a, m, k), MatRef::new(&b, k, n), &mut out, false);
                out
            };
            let out = product(1);
            assert!(product(2) == out && product(4) == out, "{m}x{k}x{n} depends on the threads");
            for (got, expected) in out.iter().zip(&expected) {
                let bound = 1e-6 * (k as f64).sqrt() * 8.0;
                assert!((f64::from(*got) - expected).abs() < bound, "{m}x{k}x{n}: {got} {expected}");
            }
        }
    }
}
