//! Sums in `f64` over vectors of `f32`, side by side, which the compiler turns into vectors.
//!
//! The products are exact, and the order of the sums is the same everywhere, so every set gives the same bits.

/// Adds `term(a_i, b_i)` up.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    assert_eq!(a.len(), b.len(), "sums in f64: a has {} values, b has {}", a.len(), b.len());
    let mut sums = [0.0; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += term(f64::from(a), f64::from(b));
        }
    }
    for ((sum, &a), &b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += term(f64::from(a), f64::from(b));
    }
    total(sums)
}

/// The sum of eight numbers, halves first.
#[inline(always)]
fn total(sums: [f64; 8]) -> f64 {
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// See [`Kernels::norm2`](super::Kernels::norm2). Files hold norms, so its sums stay in this order.
///
/// # Safety
/// The processor has the instruction set that this is compiled into.
#[inline(always)]
pub(super) unsafe fn norm2(a: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let (parts, rest) = a.as_chunks::<8>();
    for part in parts {
        for (sum, &value) in sums.iter_mut().zip(part) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += f64::from(value) * f64::from(value);
    }
    sums.iter().sum()
}

/// See [`Kernels::dot_f64`](super::Kernels::dot_f64).
///
/// # Safety
/// The processor has the instruction set that this is compiled into.
#[inline(always)]
pub(super) unsafe fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |a, b| a * b)
}

/// See [`Kernels::squared_l2_f64`](super::Kernels::squared_l2_f64).
///
/// # Safety
/// The processor has the instruction set that this is compiled into.
#[inline(always)]
pub(super) unsafe fn squared_l2_f64(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |a, b| (a - b) * (a - b))
}

/// See [`Kernels::scaled_squared_l2_f64`](super::Kernels::scaled_squared_l2_f64).
///
/// # Safety
/// The processor has the instruction set that this is compiled into.
#[inline(always)]
pub(super) unsafe fn scaled_squared_l2_f64(a: &[f32], a_scale: f64, b: &[f32], b_scale: f64) -> f64 {
    sum(a, b, |a, b| (a * a_scale - b * b_scale) * (a * a_scale - b * b_scale))
}
