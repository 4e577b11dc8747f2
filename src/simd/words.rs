//! A register of sums over codes of one byte, per instruction set: of their products with 16-bit words, or of the squares of
//! their differences from other codes.

/// What a query is compared with codes by.
pub(super) trait Query: Copy {
    /// What one value of a query and one code add to a sum.
    fn term(self, code: i8) -> i32;
}

/// Words: their products with codes.
impl Query for i16 {
    #[inline(always)]
    fn term(self, code: i8) -> i32 {
        i32::from(self) * i32::from(code)
    }
}

/// Codes: their squared differences, from codes from -63 to 63.
impl Query for i8 {
    #[inline(always)]
    fn term(self, code: i8) -> i32 {
        (i32::from(self) - i32::from(code)).pow(2)
    }
}

/// Sums modulo 2^32: exact where the whole sum fits, whatever its parts do.
///
/// # Safety
/// All functions require that the processor has the instruction set of the implementing type.
pub(super) unsafe trait Sums: Copy {
    unsafe fn zero() -> Self;
    unsafe fn add(self, other: Self) -> Self;
    /// The sum of all lanes.
    unsafe fn sum(self) -> i32;
}

/// Sums of terms of queries in `Q`.
///
/// # Safety
/// As for [`Sums`]. Pointers must be valid for `N` values; no alignment is required.
pub(super) unsafe trait Terms<Q: Query>: Sums {
    /// Terms per step.
    const N: usize;
    /// Adds `N` [terms](Query::term), which fall into any lane.
    unsafe fn add_terms(self, query: *const Q, codes: *const i8) -> Self;
}

/// Eight lanes in portable Rust.
#[derive(Clone, Copy)]
pub(super) struct Scalar([i32; 8]);

// SAFETY: plain Rust on any processor.
unsafe impl Sums for Scalar {
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; 8])
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

// SAFETY: as above; pointer use is bounded by `N`.
unsafe impl<Q: Query> Terms<Q> for Scalar {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn add_terms(self, query: *const Q, codes: *const i8) -> Self {
        // SAFETY: the caller vouches for `N` values at both.
        let (query, codes) =
            unsafe { (query.cast::<[Q; 8]>().read_unaligned(), codes.cast::<[i8; 8]>().read_unaligned()) };
        Self(std::array::from_fn(|i| self.0[i].wrapping_add(query[i].term(codes[i]))))
    }
}

#[cfg(all(feature = "simd", target_arch = "x86_64"))]
pub(super) mod x86 {
    use super::{Sums, Terms};
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256i);

    // SAFETY: AVX2 by the trait's contract.
    unsafe impl Sums for Avx2 {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_setzero_si256() })
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

    // SAFETY: as above; pointer use is bounded by `N`.
    unsafe impl Terms<i16> for Avx2 {
        const N: usize = 16;
        #[inline(always)]
        unsafe fn add_terms(self, query: *const i16, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.cast()));
                let products = _mm256_madd_epi16(_mm256_loadu_si256(query.cast()), codes);
                Self(_mm256_add_epi32(self.0, products))
            }
        }
    }

    // SAFETY: AVX2 by the trait's contract; pointer use is bounded by `N`.
    unsafe impl Terms<i8> for Avx2 {
        const N: usize = 32;
        #[inline(always)]
        unsafe fn add_terms(self, query: *const i8, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let (query, codes) = (_mm256_loadu_si256(query.cast()), _mm256_loadu_si256(codes.cast()));
                let apart = _mm256_abs_epi8(_mm256_sub_epi8(query, codes));
                // Two squares of at most 126 fit in 16 bits.
                let squares = _mm256_madd_epi16(_mm256_maddubs_epi16(apart, apart), _mm256_set1_epi16(1));
                Self(_mm256_add_epi32(self.0, squares))
            }
        }
    }

    /// With `VNNI`, multiplies and adds in one instruction.
    #[derive(Clone, Copy)]
    pub(crate) struct Wide<const VNNI: bool>(__m512i);

    pub(crate) type Avx512 = Wide<false>;
    pub(crate) type Vnni = Wide<true>;

    // SAFETY: AVX-512 F and BW by the trait's contract.
    unsafe impl<const VNNI: bool> Sums for Wide<VNNI> {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_setzero_si512() })
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

    // SAFETY: as above; pointer use is bounded by `N`.
    unsafe impl Terms<i16> for Avx512 {
        const N: usize = 32;
        #[inline(always)]
        unsafe fn add_terms(self, query: *const i16, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.cast()));
                let products = _mm512_madd_epi16(_mm512_loadu_si512(query.cast()), codes);
                Wide(_mm512_add_epi32(self.0, products))
            }
        }
    }

    // SAFETY: AVX-512 F and BW by the trait's contract; pointer use is bounded by `N`.
    unsafe impl Terms<i8> for Avx512 {
        const N: usize = 64;
        #[inline(always)]
        unsafe fn add_terms(self, query: *const i8, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let (query, codes) = (_mm512_loadu_si512(query.cast()), _mm512_loadu_si512(codes.cast()));
                let apart = _mm512_abs_epi8(_mm512_sub_epi8(query, codes));
                let squares = _mm512_madd_epi16(_mm512_maddubs_epi16(apart, apart), _mm512_set1_epi16(1));
                Wide(_mm512_add_epi32(self.0, squares))
            }
        }
    }

    // SAFETY: AVX-512 F, BW and VNNI by the trait's contract; pointer use is bounded by `N`.
    unsafe impl Terms<i16> for Vnni {
        const N: usize = 32;
        #[inline(always)]
        unsafe fn add_terms(self, query: *const i16, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.cast()));
                Wide(_mm512_dpwssd_epi32(self.0, _mm512_loadu_si512(query.cast()), codes))
            }
        }
    }

    // SAFETY: AVX-512 F, BW and VNNI by the trait's contract; pointer use is bounded by `N`.
    unsafe impl Terms<i8> for Vnni {
        const N: usize = 64;
        #[inline(always)]
        unsafe fn add_terms(self, query: *const i8, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let (query, codes) = (_mm512_loadu_si512(query.cast()), _mm512_loadu_si512(codes.cast()));
                let apart = _mm512_abs_epi8(_mm512_sub_epi8(query, codes));
                Wide(_mm512_dpbusd_epi32(self.0, apart, apart))
            }
        }
    }
}

#[cfg(all(feature = "simd", target_arch = "aarch64"))]
pub(super) mod arm {
    use super::{Sums, Terms};
    use std::arch::aarch64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Neon(int32x4_t);

    // SAFETY: NEON is part of the AArch64 base.
    unsafe impl Sums for Neon {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { vdupq_n_s32(0) })
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

    // SAFETY: as above; pointer use is bounded by `N`.
    unsafe impl Terms<i16> for Neon {
        const N: usize = 8;
        #[inline(always)]
        unsafe fn add_terms(self, query: *const i16, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let (query, codes) = (vld1q_s16(query), vmovl_s8(vld1_s8(codes)));
                let low = vmlal_s16(self.0, vget_low_s16(query), vget_low_s16(codes));
                Self(vmlal_high_s16(low, query, codes))
            }
        }
    }

    // SAFETY: NEON is part of the AArch64 base; pointer use is bounded by `N`.
    unsafe impl Terms<i8> for Neon {
        const N: usize = 16;
        #[inline(always)]
        unsafe fn add_terms(self, query: *const i8, codes: *const i8) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let (query, codes) = (vld1q_s8(query), vld1q_s8(codes));
                let apart = vsubq_s8(query, codes);
                let low = vpadalq_s16(self.0, vmull_s8(vget_low_s8(apart), vget_low_s8(apart)));
                Self(vpadalq_s16(low, vmull_high_s8(apart, apart)))
            }
        }
    }
}
