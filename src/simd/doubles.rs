//! Eight lanes of `f64`, per instruction set: the vocabulary of the sums in [`float64`](super::float64).

/// Eight `f64` values, in one SIMD register or several.
///
/// # Safety
/// All functions require that the processor has the instruction set of the implementing type.
pub(super) unsafe trait Doubles: Copy {
    unsafe fn splat(value: f64) -> Self;
    /// Eight values, widened.
    unsafe fn widen(values: &[f32; 8]) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn to_array(self) -> [f64; 8];
}

/// Portable Rust.
#[derive(Clone, Copy)]
pub(super) struct Scalar([f64; 8]);

// SAFETY: plain Rust on any processor.
unsafe impl Doubles for Scalar {
    #[inline(always)]
    unsafe fn splat(value: f64) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn widen(values: &[f32; 8]) -> Self {
        Self(values.map(f64::from))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }
    #[inline(always)]
    unsafe fn to_array(self) -> [f64; 8] {
        self.0
    }
}

#[cfg(all(feature = "simd", target_arch = "x86_64"))]
pub(super) mod x86 {
    use super::Doubles;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2([__m256d; 2]);

    // SAFETY: AVX2 by the trait's contract; pointers are of arrays of eight.
    unsafe impl Doubles for Avx2 {
        #[inline(always)]
        unsafe fn splat(value: f64) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { [_mm256_set1_pd(value); 2] })
        }
        #[inline(always)]
        unsafe fn widen(values: &[f32; 8]) -> Self {
            let from = values.as_ptr();
            // SAFETY: the trait's contract; both halves lie in the array.
            Self(unsafe { [_mm256_cvtps_pd(_mm_loadu_ps(from)), _mm256_cvtps_pd(_mm_loadu_ps(from.add(4)))] })
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            let ([a, b], [c, d]) = (self.0, other.0);
            // SAFETY: the trait's contract.
            Self(unsafe { [_mm256_add_pd(a, c), _mm256_add_pd(b, d)] })
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            let ([a, b], [c, d]) = (self.0, other.0);
            // SAFETY: the trait's contract.
            Self(unsafe { [_mm256_sub_pd(a, c), _mm256_sub_pd(b, d)] })
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            let ([a, b], [c, d]) = (self.0, other.0);
            // SAFETY: the trait's contract.
            Self(unsafe { [_mm256_mul_pd(a, c), _mm256_mul_pd(b, d)] })
        }
        #[inline(always)]
        unsafe fn to_array(self) -> [f64; 8] {
            let mut values = [0.0; 8];
            // SAFETY: the trait's contract; both halves lie in the array.
            unsafe {
                _mm256_storeu_pd(values.as_mut_ptr(), self.0[0]);
                _mm256_storeu_pd(values.as_mut_ptr().add(4), self.0[1]);
            }
            values
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512d);

    // SAFETY: AVX-512F by the trait's contract; pointers are of arrays of eight.
    unsafe impl Doubles for Avx512 {
        #[inline(always)]
        unsafe fn splat(value: f64) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_set1_pd(value) })
        }
        #[inline(always)]
        unsafe fn widen(values: &[f32; 8]) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_cvtps_pd(_mm256_loadu_ps(values.as_ptr())) })
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_add_pd(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_sub_pd(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_mul_pd(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn to_array(self) -> [f64; 8] {
            let mut values = [0.0; 8];
            // SAFETY: the trait's contract.
            unsafe { _mm512_storeu_pd(values.as_mut_ptr(), self.0) };
            values
        }
    }
}

#[cfg(all(feature = "simd", target_arch = "aarch64"))]
pub(super) mod arm {
    use super::Doubles;
    use std::arch::aarch64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Neon([float64x2_t; 4]);

    // SAFETY: NEON is part of the AArch64 base; pointers are of arrays of eight.
    unsafe impl Doubles for Neon {
        #[inline(always)]
        unsafe fn splat(value: f64) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { [vdupq_n_f64(value); 4] })
        }
        #[inline(always)]
        unsafe fn widen(values: &[f32; 8]) -> Self {
            // SAFETY: the trait's contract; both halves lie in the array.
            unsafe {
                let (low, high) = (vld1q_f32(values.as_ptr()), vld1q_f32(values.as_ptr().add(4)));
                let wide = |four| (vcvt_f64_f32(vget_low_f32(four)), vcvt_high_f64_f32(four));
                let ((a, b), (c, d)) = (wide(low), wide(high));
                Self([a, b, c, d])
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(std::array::from_fn(|i| unsafe { vaddq_f64(self.0[i], other.0[i]) }))
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(std::array::from_fn(|i| unsafe { vsubq_f64(self.0[i], other.0[i]) }))
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(std::array::from_fn(|i| unsafe { vmulq_f64(self.0[i], other.0[i]) }))
        }
        #[inline(always)]
        unsafe fn to_array(self) -> [f64; 8] {
            let mut values = [0.0; 8];
            for (pair, to) in self.0.into_iter().zip(values.as_chunks_mut::<2>().0) {
                // SAFETY: the trait's contract; a pair is two values.
                unsafe { vst1q_f64(to.as_mut_ptr(), pair) };
            }
            values
        }
    }
}
