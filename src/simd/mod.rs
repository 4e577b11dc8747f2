//! Vector kernels, chosen once at run time.
//!
//! Each kernel is one generic body over `lanes::Lanes` (see `kernels.rs`); thin wrappers compile it for scalar,
//! AVX2+FMA, AVX-512 and NEON, and [`kernels`] returns the table of the best set that this processor has, or of
//! the one that `RUVECTOR_ISA=scalar|avx2|avx512|neon` names; an empty value counts as unset. Sums run in a fixed
//! order per set, so results are the same on any number of threads, and differ between sets only by rounding.

mod codes;
mod doubles;
mod extremes;
mod factored;
mod float64;
mod heads;
mod kernels;
mod keys;
mod lanes;
mod sums;

pub use codes::{LOW, Split};
pub use factored::{Factors, SecondSums};
pub use heads::HeadPlan;
pub(crate) use kernels::rows_ahead;

use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::sync::OnceLock;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Portable Rust.
    Scalar,
    /// x86-64 with AVX2, FMA, F16C and POPCNT: 8 lanes.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL: 16 lanes.
    Avx512,
    /// AArch64: 4 lanes.
    Neon,
}

impl Isa {
    /// All sets, whether this machine has them or not.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon];

    /// The name that `RUVECTOR_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }
}

/// Rows of a table, and those that will be asked for after them: they are fetched ahead, so that many short lists
/// of scattered rows run at memory bandwidth as one long list would.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The rows.
    pub now: &'a [u32],
    /// What will follow; any number, none if unknown.
    pub next: &'a [u32],
}

impl<'a> Rows<'a> {
    /// `all[range]`, with what follows it.
    pub fn of(all: &'a [u32], range: std::ops::Range<usize>) -> Self {
        Self { now: &all[range.clone()], next: &all[range.end..] }
    }

    /// Row `j`, counted on beyond the last into what follows.
    #[inline(always)]
    pub fn ahead(&self, j: usize) -> Option<u32> {
        match self.now.get(j) {
            Some(&row) => Some(row),
            None => self.next.get(j - self.now.len()).copied(),
        }
    }
}

impl<'a> From<&'a [u32]> for Rows<'a> {
    fn from(now: &'a [u32]) -> Self {
        Self { now, next: &[] }
    }
}

/// One query against many rows of a row-major table.
pub type RowsKernel = fn(query: &[f32], table: &[f32], rows: &[u32], out: &mut [f32]);

/// Two sums in `f64` for each of four vectors.
pub type FourSums = fn(a: &[f32], b: [&[f32]; 4]) -> ([f64; 4], [f64; 4]);

/// The weighted sum of many rows of a row-major table.
pub type WeightedGather = fn(table: &[f32], rows: Rows<'_>, weights: &[f32], out: &mut [f32]);

/// Queries of several heads against many rows of a row-major table.
pub type HeadDots = fn(query: &[f32], table: &[f32], rows: Rows<'_>, heads: usize, out: &mut [f32]);

/// Weighted sums of many rows, each head with weights and columns of its own, as the plan divides them.
pub type HeadSums = fn(table: &[f32], rows: Rows<'_>, weights: &[f32], plan: &HeadPlan, out: &mut [f32]);

/// As [`HeadSums`], with weights of two factors each, scaled to sum up to 1; see [`Factors`].
pub type FactoredSums = fn(
    table: &[f32],
    rows: Rows<'_>,
    factors: Factors<'_, f32>,
    plan: &HeadPlan,
    scale: &mut [f32],
    out: &mut [f32],
    second: Option<SecondSums<'_, f32>>,
);

/// Weighted sums of many rows, each head with weights of its own.
pub type RowSums = fn(table: &[f32], rows: &[u32], weights: &[f32], heads: usize, out: &mut [f32]);

/// The sum of those values of many rows whose keys match.
pub type MatchingGather =
    fn(keys: &[f32], values: Option<&[f32]>, rows: Rows<'_>, key: &[f32], out: &mut [f32]);

/// One row of codes against many.
pub type CodesKernel = fn(query: &[i8], table: &[i8], rows: &[u32], out: &mut [f32]);

/// Codes of a weighted vector: two for each value.
pub type SplitKernel =
    fn(values: &[f32], centre: &[f32], weights: &[f32], most: f32, high: &mut [i8], low: &mut [i8]) -> Split;

/// One query against many rows in half precision.
pub type HalfKernel = fn(query: &[f32], table: &[half::f16], rows: &[u32], out: &mut [f32]);

/// The bits of a query against those of many rows.
pub type BitsKernel = fn(query: &[u64], table: &[u64], rows: &[u32], out: &mut [f32]);

/// The kernels of one instruction set. All slices may have any length, zero included; the functions panic when
/// lengths disagree (callers check shapes first).
#[derive(Debug)]
pub struct Kernels {
    /// The set these are compiled for.
    pub isa: Isa,
    /// Values per register.
    pub lanes: usize,
    /// `sum_i a_i b_i`.
    pub dot: fn(a: &[f32], b: &[f32]) -> f32,
    /// `sum_i (a_i - b_i)^2`.
    pub squared_l2: fn(a: &[f32], b: &[f32]) -> f32,
    /// `y_i += alpha * x_i`.
    pub axpy: fn(alpha: f32, x: &[f32], y: &mut [f32]),
    /// `out_j = dot(query, table[rows_j])`; `table` is row-major with `query.len()` columns. Rows ahead are
    /// prefetched, so a batch of scattered rows runs at memory bandwidth rather than at memory latency.
    pub dot_rows: RowsKernel,
    /// `out_j = squared_l2(query, table[rows_j])`, as `dot_rows`.
    pub squared_l2_rows: RowsKernel,
    /// `out = sum_j table[rows_j]`; `table` is row-major with `out.len()` columns.
    pub gather_sum: fn(table: &[f32], rows: Rows<'_>, out: &mut [f32]),
    /// `out = sum_j weights_j table[rows_j]`, as `gather_sum`.
    pub gather_weighted_sum: WeightedGather,
    /// `out_jh = <query_h, table[rows_j]_h>`, the columns divided among the heads.
    pub head_dots: HeadDots,
    /// `out_h = sum_j weights_jh table[rows_j]_h`, the columns divided as the plan says.
    pub head_sums: HeadSums,
    /// `out_h = sum_j w_jh table[rows_j]_h / sum_j w_jh` with weights `w` of two factors each.
    pub factored_sums: FactoredSums,
    /// `out_jh = <queries_h, table[rows_j]>`, every head seeing the whole row.
    pub row_dots: HeadDots,
    /// `out_h = sum_j weights_jh table[rows_j]`, every head seeing the whole row.
    pub row_sums: RowSums,
    /// `out = max_j table[rows_j]` column by column, 0 without rows; NaN wins.
    pub gather_max: fn(table: &[f32], rows: Rows<'_>, out: &mut [f32]),
    /// `out = sum_j values[rows_j]` where `keys[rows_j]` equals `key`, column by column: how a maximum's gradient
    /// comes back. Without `values` the equal ones are counted.
    pub gather_where_equal: MatchingGather,
    /// `sum_i a_i^2` in `f64`, to the same bits in every set.
    pub norm2: fn(a: &[f32]) -> f64,
    /// `sum_i a_i b_i` in `f64`, to the same bits in every set.
    pub dot_f64: fn(a: &[f32], b: &[f32]) -> f64,
    /// `sum_i (a_i - b_i)^2` in `f64`, to the same bits in every set.
    pub squared_l2_f64: fn(a: &[f32], b: &[f32]) -> f64,
    /// [`dot_f64`](Self::dot_f64) with each of four, to the bit.
    pub four_dots_f64: fn(a: &[f32], b: [&[f32]; 4]) -> [f64; 4],
    /// [`squared_l2_f64`](Self::squared_l2_f64) with each of four, to the bit.
    pub four_squared_l2_f64: fn(a: &[f32], b: [&[f32]; 4]) -> [f64; 4],
    /// [`dot_f64`](Self::dot_f64) with each of four and [`norm2`](Self::norm2) of each, to the bit.
    pub four_dots_and_norms_f64: FourSums,
    /// `sum_i (a_scale a_i - b_scale b_i)^2` in `f64`, to the same bits in every set.
    pub scaled_squared_l2_f64: fn(a: &[f32], a_scale: f64, b: &[f32], b_scale: f64) -> f64,
    /// Asks for a row of a table, which will be read in a moment.
    pub prefetch_row: fn(table: &[f32], row: u32, columns: usize),
    /// `out_j = sum_i query_i table[rows_j]_i` of codes from -127 to 127, exact in 32 bits before it is rounded to `f32`; the
    /// table is row-major with `query.len()` columns.
    pub code_dots: CodesKernel,
    /// `out_j = sum_i (query_i - table[rows_j]_i)^2` of codes from -63 to 63, as `code_dots`.
    pub code_squared_l2_rows: CodesKernel,
    /// Codes of `(values_i - centre_i) * weights_i`: `unit * (high_i + low_i / 254)` is within a 508th of a unit of it, where
    /// the greatest `high_i` is `most`, at most 127. To the same bits in every set.
    pub split_codes: SplitKernel,
    /// `out_j = dot(query, table[rows_j])` of rows in half precision, all finite, as `dot_rows`.
    pub half_dot_rows: HalfKernel,
    /// `out_j = squared_l2(query, table[rows_j])`, as `half_dot_rows`.
    pub half_squared_l2_rows: HalfKernel,
    /// How many bits of `table[rows_j]` differ from the query's.
    pub hamming_rows: BitsKernel,
    /// Inserts `new` keys into rising ones, whose last fall off the end. `keys` begins with one that is less than all the new
    /// ones and stays, and has whole blocks of 8 behind it.
    pub insert_keys: fn(keys: &mut [u64], new: &[u64]),
}

/// The kernels in use in this process.
///
/// # Panics
/// If `RUVECTOR_ISA` names no set or one that this processor lacks; [`check_environment`] reports that as an error.
pub fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| chosen().unwrap_or_else(|error| panic!("{error}")))
}

/// Asks the processor to fetch the cache line of `table[at]`; a hint, which may lie outside the table.
#[inline]
pub fn prefetch<T>(table: &[T], at: usize) {
    let address = table.as_ptr().wrapping_add(at);
    #[cfg(all(feature = "simd", target_arch = "x86_64"))]
    // SAFETY: SSE is in every x86-64 processor, and a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(all(feature = "simd", target_arch = "aarch64"))]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(all(feature = "simd", any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}

/// The kernels of `isa`, if this build and this processor have them.
pub fn kernels_for(isa: Isa) -> Option<&'static Kernels> {
    match isa {
        Isa::Scalar => Some(&kernels::scalar::KERNELS),
        #[cfg(all(feature = "simd", target_arch = "x86_64"))]
        Isa::Avx2 if has_avx2() => Some(&kernels::avx2::KERNELS),
        #[cfg(all(feature = "simd", target_arch = "x86_64"))]
        Isa::Avx512 if has_avx2() && has_avx512() => {
            let later = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vpopcntdq");
            Some(if later { &kernels::avx512_vnni::KERNELS } else { &kernels::avx512::KERNELS })
        }
        #[cfg(all(feature = "simd", target_arch = "aarch64"))]
        Isa::Neon => Some(&kernels::neon::KERNELS),
        _ => None,
    }
}

/// Checks that `RUVECTOR_ISA`, if set and not empty, names a kernel set that this machine can run.
pub fn check_environment() -> Result<()> {
    chosen().map(|_| ())
}

fn chosen() -> Result<&'static Kernels> {
    named(&std::env::var_os("RUVECTOR_ISA").unwrap_or_default())
}

/// Returns the kernels of the set that `name` names, the best ones if it is empty.
fn named(name: &OsStr) -> Result<&'static Kernels> {
    if name.is_empty() {
        let best = [Isa::Avx512, Isa::Avx2, Isa::Neon].into_iter().find_map(kernels_for);
        return Ok(best.unwrap_or(&kernels::scalar::KERNELS));
    }
    let isa = Isa::ALL.into_iter().find(|isa| *isa.name() == *name).ok_or_else(|| {
        Error::Config(format!("RUVECTOR_ISA must be scalar, avx2, avx512 or neon, got {:?}", name.display()))
    })?;
    kernels_for(isa).ok_or_else(|| {
        let here = Isa::ALL.into_iter().filter(|&isa| kernels_for(isa).is_some()).map(Isa::name);
        let here = here.collect::<Vec<_>>().join(", ");
        Error::Config(format!(
            "RUVECTOR_ISA={} is not available on this machine, which has {here}",
            isa.name()
        ))
    })
}

#[cfg(all(feature = "simd", target_arch = "x86_64"))]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("popcnt")
}

#[cfg(all(feature = "simd", target_arch = "x86_64"))]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(test)]
mod tests;
