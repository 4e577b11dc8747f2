//! A register of sums over pairs of codes of one byte, per instruction set: of their products, or of the squares of their
//! differences.

/// 32-bit sums, modulo 2^32: exact where the whole sum fits, whatever its parts do.
///
/// # Safety
/// - All functions require that the processor has the instruction set of the implementing type.
/// - Pointers must be valid for `N` or `len` codes; no alignment is required.
pub(super) unsafe trait Sums: Copy {
    /// As many codes as are taken at once.
    type Codes: Copy;
    /// Number of these.
    const N: usize;
    unsafe fn load(from: *const i8) -> Self::Codes;
    /// Loads `len < N` codes; the others are zero.
    unsafe fn load_partial(from: *const i8, len: usize) -> Self::Codes;
    unsafe fn zero() -> Self;
    /// Adds the products of codes from -127 to 127, which fall into any lane.
    unsafe fn add_products(self, a: Self::Codes, b: Self::Codes) -> Self;
    /// Adds the squared differences of codes from -63 to 63, which fall into any lane.
    unsafe fn add_squares(self, a: Self::Codes, b: Self::Codes) -> Self;
    /// The sum of all lanes.
    unsafe fn sum(self) -> i32;
}

/// `len` codes, then zeros.
///
/// # Safety
/// `from` is valid for `len` codes, at most `N`.
#[inline(always)]
unsafe fn padded<const N: usize>(from: *const i8, len: usize) -> [i8; N] {
    let mut codes = [0; N];
    // SAFETY: the caller's contract.
    unsafe { std::ptr::copy_nonoverlapping(from, codes.as_mut_ptr(), len) };
    codes
}

/// Eight lanes in portable Rust.
#[derive(Clone, Copy)]
pub(super) struct Scalar([i32; 8]);

impl Scalar {
    #[inline(always)]
    fn add_terms(self, [a, b]: [[i8; 8]; 2], term: impl Fn(i32, i32) -> i32) -> Self {
        Self(std::array::from_fn(|i| self.0[i].wrapping_add(term(a[i].into(), b[i].into()))))
    }
}

// SAFETY: plain Rust on any processor; pointer use is bounded by `N` or `len`.
unsafe impl Sums for Scalar {
    type Codes = [i8; 8];
    const N: usize = 8;
    #[inline(always)]
    unsafe fn load(from: *const i8) -> [i8; 8] {
        // SAFETY: the caller vouches for `N` codes at `from`.
        unsafe { from.cast::<[i8; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const i8, len: usize) -> [i8; 8] {
        // SAFETY: the caller vouches for `len` codes at `from`.
        unsafe { padded(from, len) }
    }
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; 8])
    }
    #[inline(always)]
    unsafe fn add_products(self, a: [i8; 8], b: [i8; 8]) -> Self {
        self.add_terms([a, b], |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn add_squares(self, a: [i8; 8], b: [i8; 8]) -> Self {
        self.add_terms([a, b], |a, b| (a - b).pow(2))
    }
    #[inline(always)]
    unsafe fn sum(self) -> i32 {
        self.0.iter().fold(0, |sum, &lane| sum.wrapping_add(lane))
    }
}

#[cfg(all(feature = "simd", target_arch = "x86_64"))]
pub(super) mod x86 {
    use super::{Sums, padded};
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256i);

    impl Avx2 {
        /// Adds the products of codes without a sign and codes with one, where two of them fit in 16 bits.
        ///
        /// # Safety
        /// As for [`Sums`].
        #[inline(always)]
        unsafe fn add_mixed(self, unsigned: __m256i, signed: __m256i) -> Self {
            // SAFETY: the caller's contract.
            unsafe {
                let pairs = _mm256_maddubs_epi16(unsigned, signed);
                Self(_mm256_add_epi32(self.0, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))))
            }
        }
    }

    // SAFETY: AVX2 by the trait's contract; pointer use is bounded by `N` or `len`.
    unsafe impl Sums for Avx2 {
        type Codes = __m256i;
        const N: usize = 32;
        #[inline(always)]
        unsafe fn load(from: *const i8) -> __m256i {
            // SAFETY: the trait's contract.
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn load_partial(from: *const i8, len: usize) -> __m256i {
            // SAFETY: the trait's contract.
            unsafe { Self::load(padded::<32>(from, len).as_ptr()) }
        }
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_setzero_si256() })
        }
        #[inline(always)]
        unsafe fn add_products(self, a: __m256i, b: __m256i) -> Self {
            // SAFETY: the trait's contract.
            unsafe { self.add_mixed(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a)) }
        }
        #[inline(always)]
        unsafe fn add_squares(self, a: __m256i, b: __m256i) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let apart = _mm256_abs_epi8(_mm256_sub_epi8(a, b));
                self.add_mixed(apart, apart)
            }
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

    /// With `VNNI`, multiplies and adds in one instruction.
    #[derive(Clone, Copy)]
    pub(crate) struct Wide<const VNNI: bool>(__m512i);

    pub(crate) type Avx512 = Wide<false>;
    pub(crate) type Vnni = Wide<true>;

    impl<const VNNI: bool> Wide<VNNI> {
        /// As [`Avx2::add_mixed`].
        ///
        /// # Safety
        /// As for [`Sums`].
        #[inline(always)]
        unsafe fn add_mixed(self, unsigned: __m512i, signed: __m512i) -> Self {
            // SAFETY: the caller's contract.
            unsafe {
                if VNNI {
                    Self(_mm512_dpbusd_epi32(self.0, unsigned, signed))
                } else {
                    let pairs = _mm512_maddubs_epi16(unsigned, signed);
                    Self(_mm512_add_epi32(self.0, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))))
                }
            }
        }
    }

    // SAFETY: AVX-512 F and BW, and VNNI where it says so, by the trait's contract; pointer use is bounded by `N` or `len`.
    unsafe impl<const VNNI: bool> Sums for Wide<VNNI> {
        type Codes = __m512i;
        const N: usize = 64;
        #[inline(always)]
        unsafe fn load(from: *const i8) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn load_partial(from: *const i8, len: usize) -> __m512i {
            // SAFETY: the trait's contract; lanes beyond the mask are not read.
            unsafe { _mm512_maskz_loadu_epi8((1 << len) - 1, from) }
        }
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_setzero_si512() })
        }
        #[inline(always)]
        unsafe fn add_products(self, a: __m512i, b: __m512i) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let signed = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(a), _mm512_setzero_si512(), b);
                self.add_mixed(_mm512_abs_epi8(a), signed)
            }
        }
        #[inline(always)]
        unsafe fn add_squares(self, a: __m512i, b: __m512i) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let apart = _mm512_abs_epi8(_mm512_sub_epi8(a, b));
                self.add_mixed(apart, apart)
            }
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
    use super::{Sums, padded};
    use std::arch::aarch64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Neon(int32x4_t);

    // SAFETY: NEON is part of the AArch64 base; pointer use is bounded by `N` or `len`.
    unsafe impl Sums for Neon {
        type Codes = int8x16_t;
        const N: usize = 16;
        #[inline(always)]
        unsafe fn load(from: *const i8) -> int8x16_t {
            // SAFETY: the trait's contract.
            unsafe { vld1q_s8(from) }
        }
        #[inline(always)]
        unsafe fn load_partial(from: *const i8, len: usize) -> int8x16_t {
            // SAFETY: the trait's contract.
            unsafe { Self::load(padded::<16>(from, len).as_ptr()) }
        }
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { vdupq_n_s32(0) })
        }
        #[inline(always)]
        unsafe fn add_products(self, a: int8x16_t, b: int8x16_t) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let low = vpadalq_s16(self.0, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
                Self(vpadalq_s16(low, vmull_high_s8(a, b)))
            }
        }
        #[inline(always)]
        unsafe fn add_squares(self, a: int8x16_t, b: int8x16_t) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let apart = vsubq_s8(a, b);
                self.add_products(apart, apart)
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> i32 {
            // SAFETY: the trait's contract.
            unsafe { vaddvq_s32(self.0) }
        }
    }
}
