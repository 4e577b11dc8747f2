//! What tensors and layers ask of a number: `f32` in use, `f64` where gradients are checked.

#![forbid(unsafe_code)]

use crate::buffer::Pool;
use crate::elementary;
use crate::linalg::Element;
use crate::loops;
use crate::simd::{self, Factors, HeadPlan, Rows, SecondSums};
use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

/// A real number type with the vector kernels that belong to it.
pub trait Real:
    Element
    + bytemuck::Pod
    + Default
    + PartialOrd
    + Debug
    + Display
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
{
    /// The nearest value of this type.
    fn of(value: f64) -> Self;
    /// This value, widened.
    fn wide(self) -> f64;
    /// `e^x`.
    fn exp(self) -> Self;
    /// `ln(x)`.
    fn ln(self) -> Self;
    /// `ln(1 + x)`.
    fn ln_1p(self) -> Self;
    /// `e^x - 1`.
    fn exp_m1(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The absolute value.
    fn abs(self) -> Self;
    /// `x^y`.
    fn powf(self, exponent: Self) -> Self;
    /// The hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool;
    /// Not a number.
    fn is_nan(self) -> bool;

    /// `sum_i a_i b_i`.
    fn dot(a: &[Self], b: &[Self]) -> Self;
    /// `y_i += alpha * x_i`.
    fn axpy(alpha: Self, x: &[Self], y: &mut [Self]);
    /// `out = sum_j table[rows_j]`.
    fn gather_sum(table: &[Self], rows: Rows<'_>, out: &mut [Self]);
    /// `out = sum_j weights_j table[rows_j]`.
    fn gather_weighted_sum(table: &[Self], rows: Rows<'_>, weights: &[Self], out: &mut [Self]);
    /// `out = max_j table[rows_j]` column by column, 0 without rows; NaN wins.
    fn gather_max(table: &[Self], rows: Rows<'_>, out: &mut [Self]);
    /// `out = sum_j values[rows_j]` where `keys[rows_j]` equals `key`, column by column; counts without `values`.
    fn gather_where_equal(
        keys: &[Self],
        values: Option<&[Self]>,
        rows: Rows<'_>,
        key: &[Self],
        out: &mut [Self],
    );
    /// `out_jh = <query_h, table[rows_j]_h>`, the columns divided among the heads.
    fn head_dots(query: &[Self], table: &[Self], rows: Rows<'_>, heads: usize, out: &mut [Self]);
    /// `out_h = sum_j weights_jh table[rows_j]_h`, the columns divided as the plan says.
    fn head_sums(table: &[Self], rows: Rows<'_>, weights: &[Self], plan: &HeadPlan, out: &mut [Self]);
    /// `out_h = sum_j w_jh table[rows_j]_h / sum_j w_jh`, weights made of `factors`; `scale_h = 1 / sum_j w_jh`.
    fn factored_sums(
        table: &[Self],
        rows: Rows<'_>,
        factors: Factors<'_, Self>,
        plan: &HeadPlan,
        scale: &mut [Self],
        out: &mut [Self],
        second: Option<SecondSums<'_, Self>>,
    );
    /// `out_jh = <queries_h, table[rows_j]>`, every head seeing the whole row.
    fn row_dots(queries: &[Self], table: &[Self], rows: Rows<'_>, heads: usize, out: &mut [Self]);
    /// `out_h = sum_j weights_jh table[rows_j]`, every head seeing the whole row.
    fn row_sums(table: &[Self], rows: &[u32], weights: &[Self], heads: usize, out: &mut [Self]);
    /// `f32` weights (those of a graph) in this type; free for `f32`.
    fn weights(values: &[f32]) -> Cow<'_, [Self]>;
    /// Where large buffers of this type wait for reuse.
    #[doc(hidden)]
    fn pool() -> &'static Pool<Self>;
}

/// The larger of two values (the first when they are equal).
pub fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// The larger of two values, or the one that is NaN.
pub fn largest<T: Real>(a: T, b: T) -> T {
    if a >= b || a.is_nan() { a } else { b }
}

macro_rules! elementary {
    ($kind:ty, $exp:path, $tanh:path, $erf:path) => {
        fn of(value: f64) -> Self {
            value as $kind
        }
        fn wide(self) -> f64 {
            f64::from(self)
        }
        #[inline(always)]
        fn exp(self) -> Self {
            $exp(self)
        }
        fn ln(self) -> Self {
            <$kind>::ln(self)
        }
        fn ln_1p(self) -> Self {
            <$kind>::ln_1p(self)
        }
        fn exp_m1(self) -> Self {
            <$kind>::exp_m1(self)
        }
        fn sqrt(self) -> Self {
            <$kind>::sqrt(self)
        }
        fn abs(self) -> Self {
            <$kind>::abs(self)
        }
        fn powf(self, exponent: Self) -> Self {
            <$kind>::powf(self, exponent)
        }
        #[inline(always)]
        fn tanh(self) -> Self {
            $tanh(self)
        }
        fn erf(self) -> Self {
            $erf(self)
        }
        fn is_finite(self) -> bool {
            <$kind>::is_finite(self)
        }
        fn is_nan(self) -> bool {
            <$kind>::is_nan(self)
        }
        fn pool() -> &'static Pool<Self> {
            static POOL: Pool<$kind> = Pool::new();
            &POOL
        }
    };
}

impl Real for f32 {
    elementary!(f32, elementary::exp, elementary::tanh, libm::erff);

    fn dot(a: &[Self], b: &[Self]) -> Self {
        (simd::kernels().dot)(a, b)
    }
    fn axpy(alpha: Self, x: &[Self], y: &mut [Self]) {
        (simd::kernels().axpy)(alpha, x, y);
    }
    fn gather_sum(table: &[Self], rows: Rows<'_>, out: &mut [Self]) {
        (simd::kernels().gather_sum)(table, rows, out);
    }
    fn gather_weighted_sum(table: &[Self], rows: Rows<'_>, weights: &[Self], out: &mut [Self]) {
        (simd::kernels().gather_weighted_sum)(table, rows, weights, out);
    }
    fn gather_max(table: &[Self], rows: Rows<'_>, out: &mut [Self]) {
        (simd::kernels().gather_max)(table, rows, out);
    }
    fn gather_where_equal(
        keys: &[Self],
        values: Option<&[Self]>,
        rows: Rows<'_>,
        key: &[Self],
        out: &mut [Self],
    ) {
        (simd::kernels().gather_where_equal)(keys, values, rows, key, out);
    }
    fn head_dots(query: &[Self], table: &[Self], rows: Rows<'_>, heads: usize, out: &mut [Self]) {
        (simd::kernels().head_dots)(query, table, rows, heads, out);
    }
    fn head_sums(table: &[Self], rows: Rows<'_>, weights: &[Self], plan: &HeadPlan, out: &mut [Self]) {
        (simd::kernels().head_sums)(table, rows, weights, plan, out);
    }
    fn factored_sums(
        table: &[Self],
        rows: Rows<'_>,
        factors: Factors<'_, Self>,
        plan: &HeadPlan,
        scale: &mut [Self],
        out: &mut [Self],
        second: Option<SecondSums<'_, Self>>,
    ) {
        (simd::kernels().factored_sums)(table, rows, factors, plan, scale, out, second);
    }
    fn row_dots(queries: &[Self], table: &[Self], rows: Rows<'_>, heads: usize, out: &mut [Self]) {
        (simd::kernels().row_dots)(queries, table, rows, heads, out);
    }
    fn row_sums(table: &[Self], rows: &[u32], weights: &[Self], heads: usize, out: &mut [Self]) {
        (simd::kernels().row_sums)(table, rows, weights, heads, out);
    }
    fn weights(values: &[f32]) -> Cow<'_, [Self]> {
        Cow::Borrowed(values)
    }
}

impl Real for f64 {
    elementary!(f64, f64::exp, f64::tanh, libm::erf);

    fn dot(a: &[Self], b: &[Self]) -> Self {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }
    fn axpy(alpha: Self, x: &[Self], y: &mut [Self]) {
        assert_eq!(x.len(), y.len());
        y.iter_mut().zip(x).for_each(|(y, x)| *y += alpha * x);
    }
    fn gather_sum(table: &[Self], rows: Rows<'_>, out: &mut [Self]) {
        out.fill(0.0);
        rows.now.iter().for_each(|&row| Self::axpy(1.0, row_of(table, row, out.len()), out));
    }
    fn gather_weighted_sum(table: &[Self], rows: Rows<'_>, weights: &[Self], out: &mut [Self]) {
        assert_eq!(rows.now.len(), weights.len());
        out.fill(0.0);
        for (&row, &weight) in rows.now.iter().zip(weights) {
            Self::axpy(weight, row_of(table, row, out.len()), out);
        }
    }
    fn gather_max(table: &[Self], rows: Rows<'_>, out: &mut [Self]) {
        out.fill(if rows.now.is_empty() { 0.0 } else { f64::NEG_INFINITY });
        for &row in rows.now {
            let values = row_of(table, row, out.len());
            out.iter_mut().zip(values).for_each(|(best, &value)| *best = largest(*best, value));
        }
    }
    fn gather_where_equal(
        keys: &[Self],
        values: Option<&[Self]>,
        rows: Rows<'_>,
        key: &[Self],
        out: &mut [Self],
    ) {
        out.fill(0.0);
        for start in rows.now.iter().map(|&row| row as usize * key.len()) {
            for (column, (out, &key)) in out.iter_mut().zip(key).enumerate() {
                let at = start + column;
                if keys[at] == key {
                    *out += values.map_or(1.0, |values| values[at]);
                }
            }
        }
    }
    fn head_dots(query: &[Self], table: &[Self], rows: Rows<'_>, heads: usize, out: &mut [Self]) {
        let width = query.len() / heads;
        for (&row, out) in rows.now.iter().zip(out.chunks_exact_mut(heads)) {
            let row = row_of(table, row, query.len());
            for (head, out) in out.iter_mut().enumerate() {
                *out = Self::dot(&query[head * width..][..width], &row[head * width..][..width]);
            }
        }
    }
    fn head_sums(table: &[Self], rows: Rows<'_>, weights: &[Self], plan: &HeadPlan, out: &mut [Self]) {
        let (columns, heads) = (out.len(), plan.heads);
        let width = columns / heads;
        out.fill(0.0);
        for (j, &row) in rows.now.iter().enumerate() {
            let row = row_of(table, row, columns);
            for (head, out) in out.chunks_exact_mut(width).enumerate() {
                Self::axpy(weights[j * heads + head], &row[head * width..][..width], out);
            }
        }
    }
    fn factored_sums(
        table: &[Self],
        rows: Rows<'_>,
        factors: Factors<'_, Self>,
        plan: &HeadPlan,
        scale: &mut [Self],
        out: &mut [Self],
        second: Option<SecondSums<'_, Self>>,
    ) {
        loops::factored_sums_apart(table, rows, factors, plan, scale, out, second);
    }
    fn row_dots(queries: &[Self], table: &[Self], rows: Rows<'_>, heads: usize, out: &mut [Self]) {
        let columns = queries.len() / heads;
        for (&row, out) in rows.now.iter().zip(out.chunks_exact_mut(heads)) {
            let row = row_of(table, row, columns);
            for (out, query) in out.iter_mut().zip(queries.chunks_exact(columns)) {
                *out = Self::dot(query, row);
            }
        }
    }
    fn row_sums(table: &[Self], rows: &[u32], weights: &[Self], heads: usize, out: &mut [Self]) {
        let columns = out.len() / heads;
        out.fill(0.0);
        for (&row, weights) in rows.iter().zip(weights.chunks_exact(heads)) {
            for (&weight, out) in weights.iter().zip(out.chunks_exact_mut(columns)) {
                Self::axpy(weight, row_of(table, row, columns), out);
            }
        }
    }
    fn weights(values: &[f32]) -> Cow<'_, [Self]> {
        Cow::Owned(values.iter().map(|&value| f64::from(value)).collect())
    }
}

fn row_of(table: &[f64], row: u32, columns: usize) -> &[f64] {
    &table[row as usize * columns..][..columns]
}
