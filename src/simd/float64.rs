//! Sums in `f64` over vectors of `f32`: eight side by side, which the compiler turns into vectors.
//!
//! The products are exact, and the order of the sums is the same everywhere, so every set gives the same bits.

/// Sums `term(i)` over `0..len`.
#[inline(always)]
fn sum(len: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut sums = [0.0; 8];
    let whole = len / 8 * 8;
    for start in (0..whole).step_by(8) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    for (lane, i) in (whole..len).enumerate() {
        sums[lane] += term(i);
    }
    sums.iter().sum()
}

/// See [`Kernels::norm2`](super::Kernels::norm2).
///
/// # Safety
/// The processor has the instruction set that this is compiled into.
#[inline(always)]
pub(super) unsafe fn norm2(a: &[f32]) -> f64 {
    sum(a.len(), |i| f64::from(a[i]) * f64::from(a[i]))
}

/// See [`Kernels::dot_f64`](super::Kernels::dot_f64).
///
/// # Safety
/// The processor has the instruction set that this is compiled into.
#[inline(always)]
pub(super) unsafe fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "dot_f64: a has {} values, b has {}", a.len(), b.len());
    sum(a.len(), |i| f64::from(a[i]) * f64::from(b[i]))
}

/// See [`Kernels::squared_l2_f64`](super::Kernels::squared_l2_f64).
///
/// # Safety
/// The processor has the instruction set that this is compiled into.
#[inline(always)]
pub(super) unsafe fn squared_l2_f64(a: &[f32], a_scale: f64, b: &[f32], b_scale: f64) -> f64 {
    assert_eq!(a.len(), b.len(), "squared_l2_f64: a has {} values, b has {}", a.len(), b.len());
    sum(a.len(), |i| {
        let difference = f64::from(a[i]) * a_scale - f64::from(b[i]) * b_scale;
        difference * difference
    })
}
