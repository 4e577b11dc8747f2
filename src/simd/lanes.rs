//! A register of `f32` lanes, per instruction set: the vocabulary that kernel bodies are written in.

/// Lanes of the widest register.
pub(super) const MOST_LANES: usize = 16;

/// A SIMD register of `N` `f32` values.
///
/// # Safety
/// All functions require that the processor has the instruction set of the implementing type. Pointers must be
/// valid for `N` values, or for the `len < N` values given to the `_partial` forms; no alignment is required.
pub(super) unsafe trait Lanes: Copy {
    /// Number of lanes.
    const N: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// Loads `len < N` values; the other lanes are zero.
    unsafe fn load_partial(from: *const f32, len: usize) -> Self;
    /// Loads `N` half-precision values, which must be finite.
    unsafe fn load_half(from: *const u16) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn store_partial(self, to: *mut f32, len: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    /// `self + a * b`, fused where the set has it.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The larger of each pair of lanes; NaN on either side wins.
    unsafe fn max(self, other: Self) -> Self;
    /// `self` in the lanes where `a` equals `b`, else 0.
    unsafe fn where_equal(self, a: Self, b: Self) -> Self;
    /// The sum of all lanes.
    unsafe fn sum(self) -> f32;
    /// Sums of adjacent lanes: those of `self`, then those of `other`.
    unsafe fn add_pairs(self, other: Self) -> Self;
    /// Lane by lane that lane of `self` which `picks` names, each less than `N`; picks beyond the first `N` are not looked at.
    unsafe fn pick(self, picks: &[u32; MOST_LANES]) -> Self;
    /// Asks for the cache line at `address`, which need not be valid.
    unsafe fn prefetch(address: *const f32);
}

/// Eight lanes in portable Rust.
#[derive(Clone, Copy)]
pub(super) struct Scalar([f32; 8]);

// SAFETY: plain Rust on any processor; pointer use is bounded by `N` or `len`.
unsafe impl Lanes for Scalar {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for `N` values at `from`.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, len: usize) -> Self {
        let mut lanes = [0.0; 8];
        // SAFETY: the caller vouches for `len` values at `from`, and `len < 8`.
        unsafe { std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), len) };
        Self(lanes)
    }
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        // SAFETY: the caller vouches for `N` values at `from`.
        let bits = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        Self(bits.map(|bits| half::f16::from_bits(bits).to_f32_const()))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for `N` values at `to`.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, len: usize) {
        // SAFETY: the caller vouches for `len` values at `to`, and `len < 8`.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), to, len) };
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
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        let larger = |a: f32, b: f32| if a >= b || a.is_nan() { a } else { b };
        Self(std::array::from_fn(|i| larger(self.0[i], other.0[i])))
    }
    #[inline(always)]
    unsafe fn where_equal(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| if a.0[i] == b.0[i] { self.0[i] } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
    #[inline(always)]
    unsafe fn add_pairs(self, other: Self) -> Self {
        let pair = |of: &[f32; 8], at: usize| of[2 * at] + of[2 * at + 1];
        Self(std::array::from_fn(|i| if i < 4 { pair(&self.0, i) } else { pair(&other.0, i - 4) }))
    }
    #[inline(always)]
    unsafe fn pick(self, picks: &[u32; MOST_LANES]) -> Self {
        Self(std::array::from_fn(|i| self.0[picks[i] as usize]))
    }
    #[inline(always)]
    unsafe fn prefetch(_address: *const f32) {}
}

#[cfg(all(feature = "simd", target_arch = "x86_64"))]
pub(super) mod x86 {
    use super::{Lanes, MOST_LANES};
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256);

    /// A mask with the sign bit set in the first `len` of 8 lanes.
    #[inline(always)]
    unsafe fn first(len: usize) -> __m256i {
        static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        debug_assert!(len <= 8);
        // SAFETY: `8 - len + 8 <= 16` values are in MASK.
        unsafe { _mm256_loadu_si256(MASK.as_ptr().add(8 - len).cast()) }
    }

    // SAFETY: AVX2, FMA and F16C by the trait's contract; pointer use is bounded by `N` or, through the mask, by `len`.
    unsafe impl Lanes for Avx2 {
        const N: usize = 8;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn load_partial(from: *const f32, len: usize) -> Self {
            // SAFETY: the trait's contract; masked lanes are not read.
            Self(unsafe { _mm256_maskload_ps(from, first(len)) })
        }
        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the trait's contract.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn store_partial(self, to: *mut f32, len: usize) {
            // SAFETY: the trait's contract; masked lanes are not written.
            unsafe { _mm256_maskstore_ps(to, first(len), self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_sub_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: the trait's contract. Of a pair with NaN the instruction gives the second.
            unsafe {
                let larger = _mm256_max_ps(self.0, other.0);
                Self(_mm256_blendv_ps(larger, self.0, _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0)))
            }
        }
        #[inline(always)]
        unsafe fn where_equal(self, a: Self, b: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_and_ps(self.0, _mm256_cmp_ps::<_CMP_EQ_OQ>(a.0, b.0)) })
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: the trait's contract.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
        #[inline(always)]
        unsafe fn add_pairs(self, other: Self) -> Self {
            // SAFETY: the trait's contract. The instruction adds within halves: the quarters come as a, b, a, b.
            unsafe {
                let quarters = _mm256_castps_pd(_mm256_hadd_ps(self.0, other.0));
                Self(_mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(quarters)))
            }
        }
        #[inline(always)]
        unsafe fn pick(self, picks: &[u32; MOST_LANES]) -> Self {
            // SAFETY: the trait's contract; there are more picks than lanes.
            unsafe { Self(_mm256_permutevar8x32_ps(self.0, _mm256_loadu_si256(picks.as_ptr().cast()))) }
        }
        #[inline(always)]
        unsafe fn prefetch(address: *const f32) {
            // SAFETY: a hint; it never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    // SAFETY: AVX-512F by the trait's contract; pointer use is bounded by `N` or, through the mask, by `len`.
    unsafe impl Lanes for Avx512 {
        const N: usize = 16;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn load_partial(from: *const f32, len: usize) -> Self {
            debug_assert!(len < 16);
            // SAFETY: the trait's contract; masked lanes are not read.
            Self(unsafe { _mm512_maskz_loadu_ps((1 << len) - 1, from) })
        }
        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the trait's contract.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn store_partial(self, to: *mut f32, len: usize) {
            debug_assert!(len < 16);
            // SAFETY: the trait's contract; masked lanes are not written.
            unsafe { _mm512_mask_storeu_ps(to, (1 << len) - 1, self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: the trait's contract. Of a pair with NaN the instruction gives the second.
            unsafe {
                let ordered = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(self.0, self.0);
                Self(_mm512_mask_max_ps(self.0, ordered, self.0, other.0))
            }
        }
        #[inline(always)]
        unsafe fn where_equal(self, a: Self, b: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a.0, b.0), self.0) })
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
        #[inline(always)]
        unsafe fn add_pairs(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
                let first = _mm512_permutex2var_ps(self.0, even, other.0);
                Self(_mm512_add_ps(first, _mm512_permutex2var_ps(self.0, odd, other.0)))
            }
        }
        #[inline(always)]
        unsafe fn pick(self, picks: &[u32; MOST_LANES]) -> Self {
            // SAFETY: the trait's contract; there are as many picks as lanes.
            unsafe { Self(_mm512_permutexvar_ps(_mm512_loadu_si512(picks.as_ptr().cast()), self.0)) }
        }
        #[inline(always)]
        unsafe fn prefetch(address: *const f32) {
            // SAFETY: a hint; it never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
    }
}

#[cfg(all(feature = "simd", target_arch = "aarch64"))]
pub(super) mod arm {
    use super::{Lanes, MOST_LANES};
    use std::arch::aarch64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Neon(float32x4_t);

    // SAFETY: NEON is part of the AArch64 base; pointer use is bounded by `N` or `len`.
    unsafe impl Lanes for Neon {
        const N: usize = 4;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { vdupq_n_f32(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { vld1q_f32(from) })
        }
        #[inline(always)]
        unsafe fn load_partial(from: *const f32, len: usize) -> Self {
            let mut lanes = [0.0f32; 4];
            // SAFETY: the caller vouches for `len < 4` values at `from`.
            unsafe {
                std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), len);
                Self(vld1q_f32(lanes.as_ptr()))
            }
        }
        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> Self {
            // Shifted into place, a half's exponent is 112 too small.
            const UP: f32 = f32::from_bits((112 + 127) << 23);
            // SAFETY: the trait's contract.
            unsafe {
                let bits = vmovl_u16(vld1_u16(from));
                let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
                let shifted = vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7fff)));
                let value = vmulq_n_f32(vreinterpretq_f32_u32(shifted), UP);
                Self(vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(value), sign)))
            }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the trait's contract.
            unsafe { vst1q_f32(to, self.0) }
        }
        #[inline(always)]
        unsafe fn store_partial(self, to: *mut f32, len: usize) {
            let mut lanes = [0.0f32; 4];
            // SAFETY: the caller vouches for `len < 4` values at `to`.
            unsafe {
                vst1q_f32(lanes.as_mut_ptr(), self.0);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, len);
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { vaddq_f32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { vsubq_f32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { vfmaq_f32(self.0, a.0, b.0) })
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: the trait's contract; the instruction lets NaN win.
            Self(unsafe { vmaxq_f32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn where_equal(self, a: Self, b: Self) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let kept = vandq_u32(vreinterpretq_u32_f32(self.0), vceqq_f32(a.0, b.0));
                Self(vreinterpretq_f32_u32(kept))
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: the trait's contract.
            unsafe { vaddvq_f32(self.0) }
        }
        #[inline(always)]
        unsafe fn add_pairs(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { vpaddq_f32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn pick(self, picks: &[u32; MOST_LANES]) -> Self {
            let mut all = [0.0f32; 4];
            // SAFETY: both arrays hold four values.
            unsafe {
                vst1q_f32(all.as_mut_ptr(), self.0);
                let lanes: [f32; 4] = std::array::from_fn(|lane| all[picks[lane] as usize]);
                Self(vld1q_f32(lanes.as_ptr()))
            }
        }
        #[inline(always)]
        unsafe fn prefetch(_address: *const f32) {}
    }
}
