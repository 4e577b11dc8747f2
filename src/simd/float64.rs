//! Sums in `f64` over vectors of `f32`.
//!
//! The products are exact, and the order of the sums is the same everywhere, so every set gives the same bits.

use super::doubles::Doubles;

/// What is added up, eight values at a time. Plain functions: a closure would not be compiled into the instruction set.
trait Terms<D: Doubles, const N: usize> {
    /// # Safety
    /// The processor has the instruction set of `D`.
    unsafe fn add(&mut self, a: D, b: [D; N]);
}

/// Adds the terms of `a` and each `b` up. Zeros, which change no sum, fill the last eight.
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
unsafe fn add_up<D: Doubles, T: Terms<D, N>, const N: usize>(terms: &mut T, a: &[f32], b: [&[f32]; N]) {
    for b in b {
        assert_eq!(a.len(), b.len(), "sums in f64: a has {} values, b has {}", a.len(), b.len());
    }
    let whole = a.len() / 8 * 8;
    // SAFETY: the caller's contract; all have as many values as `a`, so eight follow on every `at`.
    unsafe {
        let mut at = 0;
        while at < whole {
            let mut parts = [D::splat(0.0); N];
            for (part, b) in parts.iter_mut().zip(&b) {
                *part = D::widen(&*b.as_ptr().add(at).cast());
            }
            terms.add(D::widen(&*a.as_ptr().add(at).cast()), parts);
            at += 8;
        }
        if whole < a.len() {
            let mut parts = [D::splat(0.0); N];
            for (part, b) in parts.iter_mut().zip(&b) {
                *part = D::widen(&filled(&b[whole..]));
            }
            terms.add(D::widen(&filled(&a[whole..])), parts);
        }
    }
}

/// Fewer than eight values and zeros.
#[inline(always)]
fn filled(rest: &[f32]) -> [f32; 8] {
    let mut part = [0.0; 8];
    part[..rest.len()].copy_from_slice(rest);
    part
}

/// `a_i b_i`.
struct Products<D, const N: usize>([D; N]);

impl<D: Doubles, const N: usize> Terms<D, N> for Products<D, N> {
    #[inline(always)]
    unsafe fn add(&mut self, a: D, b: [D; N]) {
        for (sum, b) in self.0.iter_mut().zip(b) {
            // SAFETY: the caller's contract.
            *sum = unsafe { sum.add(a.mul(b)) };
        }
    }
}

/// `(a_i - b_i)^2`.
struct Squares<D, const N: usize>([D; N]);

impl<D: Doubles, const N: usize> Terms<D, N> for Squares<D, N> {
    #[inline(always)]
    unsafe fn add(&mut self, a: D, b: [D; N]) {
        for (sum, b) in self.0.iter_mut().zip(b) {
            // SAFETY: the caller's contract.
            *sum = unsafe {
                let difference = a.sub(b);
                sum.add(difference.mul(difference))
            };
        }
    }
}

/// `a_i b_i`, and `b_i^2`.
struct ProductsAndNorms<D, const N: usize> {
    products: Products<D, N>,
    norms: [D; N],
}

impl<D: Doubles, const N: usize> Terms<D, N> for ProductsAndNorms<D, N> {
    #[inline(always)]
    unsafe fn add(&mut self, a: D, b: [D; N]) {
        // SAFETY: the caller's contract.
        unsafe { self.products.add(a, b) };
        for (norm, b) in self.norms.iter_mut().zip(b) {
            // SAFETY: the caller's contract.
            *norm = unsafe { norm.add(b.mul(b)) };
        }
    }
}

/// `(scale_0 a_i - scale_1 b_i)^2`.
struct ScaledSquares<D> {
    scales: [D; 2],
    sum: D,
}

impl<D: Doubles> Terms<D, 1> for ScaledSquares<D> {
    #[inline(always)]
    unsafe fn add(&mut self, a: D, [b]: [D; 1]) {
        // SAFETY: the caller's contract.
        self.sum = unsafe {
            let difference = a.mul(self.scales[0]).sub(b.mul(self.scales[1]));
            self.sum.add(difference.mul(difference))
        };
    }
}

/// The sum of eight numbers, halves first.
#[inline(always)]
fn total(sums: [f64; 8]) -> f64 {
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The sums of eight numbers each.
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
unsafe fn totals<D: Doubles, const N: usize>(sums: [D; N]) -> [f64; N] {
    let mut totals = [0.0; N];
    for (total_of, sums) in totals.iter_mut().zip(sums) {
        // SAFETY: the caller's contract.
        *total_of = total(unsafe { sums.to_array() });
    }
    totals
}

/// The sum of eight squares. Files hold norms, so this order stays.
#[inline(always)]
fn total_of_squares(sums: [f64; 8]) -> f64 {
    sums.iter().sum()
}

/// See [`Kernels::norm2`](super::Kernels::norm2).
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn norm2<D: Doubles>(a: &[f32]) -> f64 {
    // SAFETY: the caller's contract.
    unsafe {
        let mut products = Products([D::splat(0.0)]);
        add_up(&mut products, a, [a]);
        total_of_squares(products.0[0].to_array())
    }
}

/// `sum_i a_i b_i` for each `b`.
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn dots<D: Doubles, const N: usize>(a: &[f32], b: [&[f32]; N]) -> [f64; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut products = Products([D::splat(0.0); N]);
        add_up(&mut products, a, b);
        totals(products.0)
    }
}

/// `sum_i (a_i - b_i)^2` for each `b`.
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn squares<D: Doubles, const N: usize>(a: &[f32], b: [&[f32]; N]) -> [f64; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut squares = Squares([D::splat(0.0); N]);
        add_up(&mut squares, a, b);
        totals(squares.0)
    }
}

/// See [`Kernels::dot_f64`](super::Kernels::dot_f64).
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn dot<D: Doubles>(a: &[f32], b: &[f32]) -> f64 {
    // SAFETY: the caller's contract.
    let [dot] = unsafe { dots::<D, 1>(a, [b]) };
    dot
}

/// See [`Kernels::squared_l2_f64`](super::Kernels::squared_l2_f64).
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn squared_l2<D: Doubles>(a: &[f32], b: &[f32]) -> f64 {
    // SAFETY: the caller's contract.
    let [squared] = unsafe { squares::<D, 1>(a, [b]) };
    squared
}

/// See [`Kernels::four_dots_and_norms_f64`](super::Kernels::four_dots_and_norms_f64).
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn dots_and_norms<D: Doubles, const N: usize>(
    a: &[f32],
    b: [&[f32]; N],
) -> ([f64; N], [f64; N]) {
    // SAFETY: the caller's contract.
    unsafe {
        let zeros = [D::splat(0.0); N];
        let mut both = ProductsAndNorms { products: Products(zeros), norms: zeros };
        add_up(&mut both, a, b);
        let mut norms = [0.0; N];
        for (norm, squares) in norms.iter_mut().zip(both.norms) {
            *norm = total_of_squares(squares.to_array());
        }
        (totals(both.products.0), norms)
    }
}

/// See [`Kernels::scaled_squared_l2_f64`](super::Kernels::scaled_squared_l2_f64).
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn scaled_squared_l2<D: Doubles>(a: &[f32], a_scale: f64, b: &[f32], b_scale: f64) -> f64 {
    // SAFETY: the caller's contract.
    unsafe {
        let scales = [D::splat(a_scale), D::splat(b_scale)];
        let mut squares = ScaledSquares { scales, sum: D::splat(0.0) };
        add_up(&mut squares, a, [b]);
        total(squares.sum.to_array())
    }
}
