//! A register of sums over products of 16-bit words and 8-bit codes, per instruction set.

/// Sums of products, modulo 2^32: exact where the whole sum fits, whatever its parts do.
///
/// # Safety
/// All functions require that the processor has the instruction set of the implementing type. Pointers must be valid
/// for `N` values; no alignment is required.
pub(super) unsafe trait Words: Copy {
    /// Products per step.
    const N: usize;
    unsafe fn zero() -> Self;
    /// `self + words * codes`, products falling into any lane.
    unsafe fn add_products(self, words: *const i16, codes: *const i8) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    /// The sum of all lanes.
    unsafe fn sum(self) -> i32;
}

/// Eight lanes in portable Rust.
#[derive(Clone, Copy)]
pub(super) struct Scalar([i32; 8]);

// SAFETY: plain Rust on any processor; pointer use is bounded by `N`.
unsafe impl Words for Scalar {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; 8])
    }
    #[inline(always)]
    unsafe fn add_products(self, words: *const i16, codes: *const i8) -> Self {
        // SAFETY: the caller vouches for `N` values at both.
        let (words, codes) =
            unsafe { (words.cast::<[i16; 8]>().read_unaligned(), codes.cast::<[i8; 8]>().read_unaligned()) };
        Self(std::array::from_fn(|i| self.0[i].wrapping_add(i32::from(words[i]) * i32::from(codes[i]))))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].wrapping_add(other.0[i])))
    }
    #[inline(always)]
    unsafe fn sum(self) -> i32 {
        self.0.iter().fold(0, |sum, &lane| sum.wrapping_add(lane))
    }
}

#[cfg(all(feature = "simd", target_arch = "x86_64"))]
pub(super) mod x86 {
    use super::Words;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256i);

    // SAFETY: AVX2 by the trait's contract; pointer use is bounded by `N`.
    unsafe impl Words for Avx2 {
        const N: usize = 16;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_setzero_si256() })
        }
        #[inline(always)]
        unsafe fn add_products(self, words: *const i16, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.cast()));
                let products = _mm256_madd_epi16(_mm256_loadu_si256(words.cast()), codes);
                Self(_mm256_add_epi32(self.0, products))
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_add_epi32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sum(self) -> i32 {
            // SAFETY: the trait's contract.
            unsafe {
                let four =
                    _mm_add_epi32(_mm256_castsi256_si128(self.0), _mm256_extracti128_si256::<1>(self.0));
                let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
                _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
            }
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512i);

    // SAFETY: AVX-512 F and BW by the trait's contract; pointer use is bounded by `N`.
    unsafe impl Words for Avx512 {
        const N: usize = 32;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_setzero_si512() })
        }
        #[inline(always)]
        unsafe fn add_products(self, words: *const i16, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.cast()));
                let products = _mm512_madd_epi16(_mm512_loadu_si512(words.cast()), codes);
                Self(_mm512_add_epi32(self.0, products))
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_add_epi32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sum(self) -> i32 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_reduce_add_epi32(self.0) }
        }
    }

    /// As [`Avx512`], with multiply and add in one instruction.
    #[derive(Clone, Copy)]
    pub(crate) struct Vnni(__m512i);

    // SAFETY: AVX-512 F, BW and VNNI by the trait's contract; pointer use is bounded by `N`.
    unsafe impl Words for Vnni {
        const N: usize = 32;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_setzero_si512() })
        }
        #[inline(always)]
        unsafe fn add_products(self, words: *const i16, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.cast()));
                Self(_mm512_dpwssd_epi32(self.0, _mm512_loadu_si512(words.cast()), codes))
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_add_epi32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sum(self) -> i32 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_reduce_add_epi32(self.0) }
        }
    }
}

#[cfg(all(feature = "simd", target_arch = "aarch64"))]
pub(super) mod arm {
    use super::Words;
    use std::arch::aarch64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Neon(int32x4_t);

    // SAFETY: NEON is part of the AArch64 base; pointer use is bounded by `N`.
    unsafe impl Words for Neon {
        const N: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { vdupq_n_s32(0) })
        }
        #[inline(always)]
        unsafe fn add_products(self, words: *const i16, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let (words, codes) = (vld1q_s16(words), vmovl_s8(vld1_s8(codes)));
                let low = vmlal_s16(self.0, vget_low_s16(words), vget_low_s16(codes));
                Self(vmlal_high_s16(low, words, codes))
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { vaddq_s32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sum(self) -> i32 {
            // SAFETY: the trait's contract.
            unsafe { vaddvq_s32(self.0) }
        }
    }
}
