//! The kernel bodies, generic over [`Lanes`], and their wrappers per instruction set.
//!
//! Reductions keep four accumulators to hide the latency of the fused multiply-add; tails are loaded under a mask.
//! The row kernels prefetch [`AHEAD`] rows ahead; the gathers keep a tile of the output in registers while they
//! run over all rows.

use super::Rows;
use super::lanes::Lanes;

/// How many rows ahead the row kernels of searches prefetch.
const AHEAD: usize = 3;

/// How many cache lines ahead the kernels over neighbours prefetch: a quarter of the smallest first-level cache, enough to
/// keep the memory busy through the arithmetic between two nodes.
const LINES_AHEAD: usize = 128;

/// How many rows of `columns` values ahead.
#[inline(always)]
pub(crate) fn rows_ahead(columns: usize) -> usize {
    (LINES_AHEAD / columns.div_ceil(LINE).max(1)).clamp(2, 64)
}

/// Values per cache line.
pub(super) const LINE: usize = 16;

/// Registers that hold the output tile of a gather.
const TILE: usize = 8;

/// # Safety
/// - The processor has the instruction set of `L`.
/// - `a` and `b` are valid for `len` values.
#[inline(always)]
pub(super) unsafe fn dot_raw<L: Lanes>(a: *const f32, b: *const f32, len: usize) -> f32 {
    // SAFETY: every offset below is less than `len`.
    unsafe {
        let mut sums = [L::splat(0.0); 4];
        let mut at = 0;
        while at + 4 * L::N <= len {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let offset = at + lane * L::N;
                *sum = sum.add_product(L::load(a.add(offset)), L::load(b.add(offset)));
            }
            at += 4 * L::N;
        }
        while at + L::N <= len {
            sums[0] = sums[0].add_product(L::load(a.add(at)), L::load(b.add(at)));
            at += L::N;
        }
        if at < len {
            let (x, y) = (L::load_partial(a.add(at), len - at), L::load_partial(b.add(at), len - at));
            sums[1] = sums[1].add_product(x, y);
        }
        sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
    }
}

/// # Safety
/// As [`dot_raw`].
#[inline(always)]
unsafe fn squared_l2_raw<L: Lanes>(a: *const f32, b: *const f32, len: usize) -> f32 {
    // SAFETY: every offset below is less than `len`.
    unsafe {
        let mut sums = [L::splat(0.0); 4];
        let mut at = 0;
        while at + 4 * L::N <= len {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let offset = at + lane * L::N;
                let difference = L::load(a.add(offset)).sub(L::load(b.add(offset)));
                *sum = sum.add_product(difference, difference);
            }
            at += 4 * L::N;
        }
        while at + L::N <= len {
            let difference = L::load(a.add(at)).sub(L::load(b.add(at)));
            sums[0] = sums[0].add_product(difference, difference);
            at += L::N;
        }
        if at < len {
            let (x, y) = (L::load_partial(a.add(at), len - at), L::load_partial(b.add(at), len - at));
            let difference = x.sub(y);
            sums[1] = sums[1].add_product(difference, difference);
        }
        sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
    }
}

/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
unsafe fn axpy<L: Lanes>(alpha: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "axpy: x has {} values, y has {}", x.len(), y.len());
    let len = x.len();
    // SAFETY: every offset below is less than `len`, the length of both slices.
    unsafe {
        let (x, y, alpha) = (x.as_ptr(), y.as_mut_ptr(), L::splat(alpha));
        let mut at = 0;
        while at + L::N <= len {
            L::load(y.add(at)).add_product(alpha, L::load(x.add(at))).store(y.add(at));
            at += L::N;
        }
        if at < len {
            let rest = len - at;
            let sum = L::load_partial(y.add(at), rest).add_product(alpha, L::load_partial(x.add(at), rest));
            sum.store_partial(y.add(at), rest);
        }
    }
}

/// Asks for all cache lines of a row, which need not exist.
#[inline(always)]
pub(super) fn prefetch_row<L: Lanes>(table: &[f32], row: u32, columns: usize) {
    let start = table.as_ptr().wrapping_add(row as usize * columns);
    for line in 0..columns.div_ceil(LINE) {
        // SAFETY: a prefetch does not need a valid address.
        unsafe { L::prefetch(start.wrapping_add(line * LINE)) };
    }
}

/// Fails unless every row lies within the table.
#[inline(always)]
pub(super) fn require_rows(table: &[f32], rows: &[u32], columns: usize) {
    for &row in rows {
        assert!((row as usize + 1) * columns <= table.len(), "row {row} is outside the table");
    }
}

/// A binary row kernel: `one` of [`dot_raw`] and [`squared_l2_raw`], over many rows.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
unsafe fn over_rows<L: Lanes, const L2: bool>(query: &[f32], table: &[f32], rows: &[u32], out: &mut [f32]) {
    assert_eq!(rows.len(), out.len(), "{} rows but room for {} results", rows.len(), out.len());
    let dim = query.len();
    let row_start = |row: u32| {
        let start = row as usize * dim;
        assert!(start + dim <= table.len(), "row {row} is outside the table");
        // SAFETY: in bounds by the assertion.
        unsafe { table.as_ptr().add(start) }
    };
    rows.iter().take(AHEAD).for_each(|&row| prefetch_row::<L>(table, row, dim));
    for (j, (&row, value)) in rows.iter().zip(out).enumerate() {
        if let Some(&ahead) = rows.get(j + AHEAD) {
            prefetch_row::<L>(table, ahead, dim);
        }
        let row = row_start(row);
        // SAFETY: `query` and the row both hold `dim` values.
        *value = unsafe {
            if L2 {
                squared_l2_raw::<L>(query.as_ptr(), row, dim)
            } else {
                dot_raw::<L>(query.as_ptr(), row, dim)
            }
        };
    }
}

/// `out = sum_j w_j table[rows_j]`, with all weights 1 when `weights` is `None`.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
unsafe fn gather<L: Lanes>(table: &[f32], rows: Rows<'_>, weights: Option<&[f32]>, out: &mut [f32]) {
    let dim = out.len();
    if let Some(weights) = weights {
        assert_eq!(weights.len(), rows.now.len(), "{} rows but {} weights", rows.now.len(), weights.len());
    }
    require_rows(table, rows.now, dim);
    let mut at = 0;
    // SAFETY: each tile lies within the row (`at + width <= dim`), and each row within the table, as asserted.
    unsafe {
        while at + TILE * L::N <= dim {
            gather_tile::<L, TILE>(table.as_ptr(), dim, rows, weights, at, out.as_mut_ptr());
            at += TILE * L::N;
        }
        while at + 4 * L::N <= dim {
            gather_tile::<L, 4>(table.as_ptr(), dim, rows, weights, at, out.as_mut_ptr());
            at += 4 * L::N;
        }
        while at + L::N <= dim {
            gather_tile::<L, 1>(table.as_ptr(), dim, rows, weights, at, out.as_mut_ptr());
            at += L::N;
        }
        if at < dim {
            let rest = dim - at;
            let mut sum = L::splat(0.0);
            let ahead = rows_ahead(dim);
            for (j, &row) in rows.now.iter().enumerate() {
                if let Some(row) = rows.ahead(j + ahead) {
                    L::prefetch(table.as_ptr().wrapping_add(row as usize * dim + at));
                }
                let weight = L::splat(weights.map_or(1.0, |w| w[j]));
                sum = sum
                    .add_product(weight, L::load_partial(table.as_ptr().add(row as usize * dim + at), rest));
            }
            sum.store_partial(out.as_mut_ptr().add(at), rest);
        }
    }
}

/// Columns `at .. at + WIDTH * N` of [`gather`], held in `WIDTH` registers over all rows.
///
/// # Safety
/// - The processor has the instruction set of `L`.
/// - Each row of `rows` lies within the table; `at + WIDTH * N <= dim`; `out` is valid for `dim` values.
#[inline(always)]
unsafe fn gather_tile<L: Lanes, const WIDTH: usize>(
    table: *const f32,
    dim: usize,
    rows: Rows<'_>,
    weights: Option<&[f32]>,
    at: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [L::splat(0.0); WIDTH];
        let ahead = rows_ahead(dim);
        for (j, &row) in rows.now.iter().enumerate() {
            if let Some(row) = rows.ahead(j + ahead) {
                let start = table.wrapping_add(row as usize * dim + at);
                for line in 0..(WIDTH * L::N).div_ceil(LINE) {
                    L::prefetch(start.wrapping_add(line * LINE));
                }
            }
            let values = table.add(row as usize * dim + at);
            match weights {
                None => {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.add(L::load(values.add(lane * L::N)));
                    }
                }
                Some(weights) => {
                    let weight = L::splat(*weights.get_unchecked(j));
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.add_product(weight, L::load(values.add(lane * L::N)));
                    }
                }
            }
        }
        for (lane, sum) in sums.into_iter().enumerate() {
            sum.store(out.add(at + lane * L::N));
        }
    }
}

/// Compiles every body for one instruction set: an inner function that has the target features, and a safe
/// outer one, which only [`super::kernels_for`] hands out, after it has seen that the processor has them.
macro_rules! kernel_set {
    ($name:ident, $isa:expr, $lanes:ty, $sums:ty, $doubles:ty $(, $features:literal)?) => {
        pub(super) mod $name {
            use super::super::{Factors, HeadPlan, Isa, Kernels, Rows, SecondSums, Split};
            use super::super::{doubles, lanes, sums};
            use half::f16;

            type L = $lanes;

            pub(in super::super) static KERNELS: Kernels = Kernels {
                isa: $isa,
                lanes: <L as lanes::Lanes>::N,
                dot,
                squared_l2,
                axpy,
                dot_rows,
                squared_l2_rows,
                gather_sum,
                gather_weighted_sum,
                head_dots,
                head_sums,
                factored_sums,
                row_dots,
                row_sums,
                gather_max,
                gather_where_equal,
                norm2,
                dot_f64,
                squared_l2_f64,
                four_dots_f64,
                four_squared_l2_f64,
                four_dots_and_norms_f64,
                scaled_squared_l2_f64,
                prefetch_row,
                code_dots,
                code_squared_l2_rows,
                split_codes,
                half_dot_rows,
                half_squared_l2_rows,
                hamming_rows,
                insert_keys,
            };

            fn dot(a: &[f32], b: &[f32]) -> f32 {
                assert_eq!(a.len(), b.len(), "dot: a has {} values, b has {}", a.len(), b.len());
                $(#[target_feature(enable = $features)])?
                unsafe fn featured(a: &[f32], b: &[f32]) -> f32 {
                    // SAFETY: the set is enabled here and both slices hold `a.len()` values.
                    unsafe { super::dot_raw::<L>(a.as_ptr(), b.as_ptr(), a.len()) }
                }
                // SAFETY: KERNELS is handed out only where the processor has the set.
                unsafe { featured(a, b) }
            }

            fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
                assert_eq!(a.len(), b.len(), "squared_l2: a has {} values, b has {}", a.len(), b.len());
                $(#[target_feature(enable = $features)])?
                unsafe fn featured(a: &[f32], b: &[f32]) -> f32 {
                    // SAFETY: the set is enabled here and both slices hold `a.len()` values.
                    unsafe { super::squared_l2_raw::<L>(a.as_ptr(), b.as_ptr(), a.len()) }
                }
                // SAFETY: KERNELS is handed out only where the processor has the set.
                unsafe { featured(a, b) }
            }

            kernel_set!(@wrap axpy(alpha: f32, x: &[f32], y: &mut [f32]) => super::axpy::<L> $(, $features)?);
            kernel_set!(@wrap dot_rows(query: &[f32], table: &[f32], rows: &[u32], out: &mut [f32])
                => super::over_rows::<L, false> $(, $features)?);
            kernel_set!(@wrap squared_l2_rows(query: &[f32], table: &[f32], rows: &[u32], out: &mut [f32])
                => super::over_rows::<L, true> $(, $features)?);
            kernel_set!(@wrap code_dots(query: &[i8], table: &[i8], rows: &[u32], out: &mut [f32])
                => super::super::codes::code_rows::<$sums, false> $(, $features)?);
            kernel_set!(@wrap code_squared_l2_rows(query: &[i8], table: &[i8], rows: &[u32], out: &mut [f32])
                => super::super::codes::code_rows::<$sums, true> $(, $features)?);
            kernel_set!(@wrap norm2(a: &[f32]) -> f64 => super::super::float64::norm2::<$doubles> $(, $features)?);
            kernel_set!(@wrap dot_f64(a: &[f32], b: &[f32]) -> f64
                => super::super::float64::dot::<$doubles> $(, $features)?);
            kernel_set!(@wrap four_dots_f64(a: &[f32], b: [&[f32]; 4]) -> [f64; 4]
                => super::super::float64::dots::<$doubles, 4> $(, $features)?);
            kernel_set!(@wrap squared_l2_f64(a: &[f32], b: &[f32]) -> f64
                => super::super::float64::squared_l2::<$doubles> $(, $features)?);
            kernel_set!(@wrap four_squared_l2_f64(a: &[f32], b: [&[f32]; 4]) -> [f64; 4]
                => super::super::float64::squares::<$doubles, 4> $(, $features)?);
            kernel_set!(@wrap four_dots_and_norms_f64(a: &[f32], b: [&[f32]; 4]) -> ([f64; 4], [f64; 4])
                => super::super::float64::dots_and_norms::<$doubles, 4> $(, $features)?);
            kernel_set!(@wrap scaled_squared_l2_f64(a: &[f32], a_scale: f64, b: &[f32], b_scale: f64) -> f64
                => super::super::float64::scaled_squared_l2::<$doubles> $(, $features)?);

            fn prefetch_row(table: &[f32], row: u32, columns: usize) {
                super::prefetch_row::<L>(table, row, columns);
            }

            kernel_set!(@wrap split_codes(
                values: &[f32], centre: &[f32], weights: &[f32], most: f32, high: &mut [i8], low: &mut [i8]
            ) -> Split => super::super::codes::split_codes $(, $features)?);
            kernel_set!(@wrap half_dot_rows(query: &[f32], table: &[f16], rows: &[u32], out: &mut [f32])
                => super::super::codes::half_rows::<L, false> $(, $features)?);
            kernel_set!(@wrap half_squared_l2_rows(query: &[f32], table: &[f16], rows: &[u32], out: &mut [f32])
                => super::super::codes::half_rows::<L, true> $(, $features)?);
            kernel_set!(@wrap hamming_rows(query: &[u64], table: &[u64], rows: &[u32], out: &mut [f32])
                => super::super::codes::hamming_rows $(, $features)?);
            kernel_set!(@wrap insert_keys(keys: &mut [u64], new: &[u64])
                => super::super::keys::insert_keys $(, $features)?);
            kernel_set!(@wrap gather_max(table: &[f32], rows: Rows<'_>, out: &mut [f32])
                => super::super::extremes::gather_max::<L> $(, $features)?);
            kernel_set!(@wrap gather_where_equal(
                keys: &[f32], values: Option<&[f32]>, rows: Rows<'_>, key: &[f32], out: &mut [f32]
            ) => super::super::extremes::gather_where_equal::<L> $(, $features)?);

            kernel_set!(@wrap head_dots(query: &[f32], table: &[f32], rows: Rows<'_>, heads: usize, out: &mut [f32])
                => super::super::heads::head_dots::<L> $(, $features)?);
            kernel_set!(@wrap head_sums(
                table: &[f32], rows: Rows<'_>, weights: &[f32], plan: &HeadPlan, out: &mut [f32]
            ) => super::super::heads::head_sums::<L> $(, $features)?);
            kernel_set!(@wrap factored_sums(
                table: &[f32], rows: Rows<'_>, factors: Factors<'_, f32>, plan: &HeadPlan, scale: &mut [f32],
                out: &mut [f32], second: Option<SecondSums<'_, f32>>
            ) => super::super::factored::factored_sums::<L> $(, $features)?);
            kernel_set!(@wrap row_dots(queries: &[f32], table: &[f32], rows: Rows<'_>, heads: usize, out: &mut [f32])
                => super::super::heads::row_dots::<L> $(, $features)?);
            kernel_set!(@wrap row_sums(table: &[f32], rows: &[u32], weights: &[f32], heads: usize, out: &mut [f32])
                => super::super::heads::row_sums::<L> $(, $features)?);

            fn gather_sum(table: &[f32], rows: Rows<'_>, out: &mut [f32]) {
                $(#[target_feature(enable = $features)])?
                unsafe fn featured(table: &[f32], rows: Rows<'_>, out: &mut [f32]) {
                    // SAFETY: the set is enabled here.
                    unsafe { super::gather::<L>(table, rows, None, out) }
                }
                // SAFETY: KERNELS is handed out only where the processor has the set.
                unsafe { featured(table, rows, out) }
            }

            fn gather_weighted_sum(table: &[f32], rows: Rows<'_>, weights: &[f32], out: &mut [f32]) {
                $(#[target_feature(enable = $features)])?
                unsafe fn featured(table: &[f32], rows: Rows<'_>, weights: &[f32], out: &mut [f32]) {
                    // SAFETY: the set is enabled here.
                    unsafe { super::gather::<L>(table, rows, Some(weights), out) }
                }
                // SAFETY: KERNELS is handed out only where the processor has the set.
                unsafe { featured(table, rows, weights, out) }
            }
        }
    };
    (@wrap $kernel:ident($($argument:ident: $kind:ty),*) $(-> $out:ty)? => $body:expr $(, $features:literal)?) => {
        fn $kernel($($argument: $kind),*) $(-> $out)? {
            $(#[target_feature(enable = $features)])?
            unsafe fn featured($($argument: $kind),*) $(-> $out)? {
                // SAFETY: the set is enabled here.
                unsafe { $body($($argument),*) }
            }
            // SAFETY: KERNELS is handed out only where the processor has the set.
            unsafe { featured($($argument),*) }
        }
    };
}

kernel_set!(scalar, Isa::Scalar, lanes::Scalar, sums::Scalar, doubles::Scalar);
#[cfg(all(feature = "simd", target_arch = "x86_64"))]
kernel_set!(avx2, Isa::Avx2, lanes::x86::Avx2, sums::x86::Avx2, doubles::x86::Avx2, "avx2,fma,f16c,popcnt");
#[cfg(all(feature = "simd", target_arch = "x86_64"))]
kernel_set!(
    avx512,
    Isa::Avx512,
    lanes::x86::Avx512,
    sums::x86::Avx512,
    doubles::x86::Avx512,
    "avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512dq,avx512vl"
);
#[cfg(all(feature = "simd", target_arch = "aarch64"))]
kernel_set!(neon, Isa::Neon, lanes::arm::Neon, sums::arm::Neon, doubles::arm::Neon, "neon");

/// AVX-512 with what its later extensions do faster, to the same bits.
#[cfg(all(feature = "simd", target_arch = "x86_64"))]
pub(super) mod avx512_vnni {
    use super::super::{Kernels, sums::x86::Vnni};

    pub(in super::super) static KERNELS: Kernels =
        Kernels { code_dots, code_squared_l2_rows, hamming_rows, ..super::avx512::KERNELS };

    kernel_set!(@wrap code_dots(query: &[i8], table: &[i8], rows: &[u32], out: &mut [f32])
        => super::super::codes::code_rows::<Vnni, false>, "avx512f,avx512bw,avx512vnni");
    kernel_set!(@wrap code_squared_l2_rows(query: &[i8], table: &[i8], rows: &[u32], out: &mut [f32])
        => super::super::codes::code_rows::<Vnni, true>, "avx512f,avx512bw,avx512vnni");
    kernel_set!(@wrap hamming_rows(query: &[u64], table: &[u64], rows: &[u32], out: &mut [f32])
        => super::super::codes::hamming_rows, "avx512f,avx512bw,avx512vl,avx512vpopcntdq");
}
