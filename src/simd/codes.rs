//! Kernels over codes of quantized rows.

use super::lanes::{Lanes, MOST_LANES};
use super::prefetch;
use super::sums::Sums;
use crate::elementary::ROUND;
use half::f16;

/// How many cache lines of codes are asked for ahead.
const LINES_AHEAD: usize = 24;

/// Bytes per cache line.
const LINE: usize = 64;

/// The rows of a batch, asked for ahead of their use.
struct Ahead<'a, T> {
    table: &'a [T],
    rows: &'a [u32],
    columns: usize,
    lines: usize,
    ahead: usize,
}

impl<'a, T> Ahead<'a, T> {
    /// Asks for the first rows; there must be room for a result of each.
    #[inline(always)]
    fn new(table: &'a [T], rows: &'a [u32], columns: usize, room: usize) -> Self {
        assert_eq!(rows.len(), room, "{} rows but room for {room} results", rows.len());
        let lines = (columns * size_of::<T>()).div_ceil(LINE);
        let ahead = (LINES_AHEAD / lines.max(1)).clamp(2, 16);
        let batch = Self { table, rows, columns, lines, ahead };
        (0..ahead).for_each(|j| batch.ask(j));
        batch
    }

    #[inline(always)]
    fn ask(&self, j: usize) {
        if let Some(&row) = self.rows.get(j) {
            let start = row as usize * self.columns;
            (0..self.lines).for_each(|line| prefetch(self.table, start + line * LINE / size_of::<T>()));
        }
    }

    /// Row `j`, which lies within the table.
    #[inline(always)]
    fn row(&self, j: usize) -> &'a [T] {
        self.ask(j + self.ahead);
        let row = self.rows[j];
        let found = self.table.get(row as usize * self.columns..(row as usize + 1) * self.columns);
        found.unwrap_or_else(|| panic!("row {row} is outside the table"))
    }
}

/// Rows that [`code_rows`] takes at once, so that the sums of one are made while others are read.
const AT_ONCE: usize = 4;

/// The sums over each of a few rows: of their products with the query, or of their squared differences from it if `L2`.
///
/// # Safety
/// - The processor has the instruction set of `S`.
/// - The rows hold as many codes as `query`.
#[inline(always)]
unsafe fn code_raw<S: Sums, const L2: bool, const ROWS: usize>(
    query: &[i8],
    rows: [&[i8]; ROWS],
) -> [i32; ROWS] {
    // SAFETY: every offset below is less than `query.len()`.
    unsafe {
        let mut sums = [S::zero(); ROWS];
        let add = |sum: S, query, codes| {
            if L2 { sum.add_squares(query, codes) } else { sum.add_products(query, codes) }
        };
        let mut at = 0;
        while at + S::N <= query.len() {
            let some = S::load(query.as_ptr().add(at));
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = add(*sum, some, S::load(row.as_ptr().add(at)));
            }
            at += S::N;
        }
        let rest = query.len() - at;
        if rest > 0 {
            let some = S::load_partial(query.as_ptr().add(at), rest);
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = add(*sum, some, S::load_partial(row.as_ptr().add(at), rest));
            }
        }
        sums.map(|sum| sum.sum())
    }
}

/// [`code_raw`] over many rows.
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn code_rows<S: Sums, const L2: bool>(
    query: &[i8],
    table: &[i8],
    rows: &[u32],
    out: &mut [f32],
) {
    let batch = Ahead::new(table, rows, query.len(), out.len());
    let mut j = 0;
    let mut groups = out.chunks_exact_mut(AT_ONCE);
    for values in &mut groups {
        let mut rows: [&[i8]; AT_ONCE] = [&[]; AT_ONCE];
        for row in &mut rows {
            *row = batch.row(j);
            j += 1;
        }
        // SAFETY: rows hold as many codes as `query`.
        let sums = unsafe { code_raw::<S, L2, AT_ONCE>(query, rows) };
        values.iter_mut().zip(sums).for_each(|(value, sum)| *value = sum as f32);
    }
    for value in groups.into_remainder() {
        // SAFETY: as above.
        let [sum] = unsafe { code_raw::<S, L2, 1>(query, [batch.row(j)]) };
        *value = sum as f32;
        j += 1;
    }
}

/// What codes of [`split_codes`](super::Kernels::split_codes) stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// What 1 of the higher codes counts.
    pub unit: f32,
    /// The sum of what these come to, each at most 32.
    pub counted: u32,
}

/// A greater code says no more of how finely the others are told apart.
pub const MOST_COUNTED: u32 = 32;

/// Units of lower codes in one of the higher.
pub const LOW: f32 = 254.0;

/// See [`Kernels::split_codes`](super::Kernels::split_codes). Turning the loops into vectors is left to the compiler.
///
/// # Safety
/// The processor has the instruction set that this is compiled into.
#[inline(always)]
pub(super) unsafe fn split_codes(
    values: &[f32],
    centre: &[f32],
    weights: &[f32],
    most: f32,
    high: &mut [i8],
    low: &mut [i8],
) -> Split {
    let len = values.len();
    assert_eq!([centre.len(), weights.len(), high.len(), low.len()], [len; 4], "split_codes: lengths differ");
    // As integers, which unlike floats may be compared in any order, several at a time.
    let mut greatest = 0;
    for i in 0..len {
        greatest = greatest.max(((values[i] - centre[i]) * weights[i]).abs().to_bits());
    }
    let unit = f32::from_bits(greatest) / most;
    let inverse = if unit >= f32::MIN_POSITIVE { 1.0 / unit } else { 0.0 };
    let mut counted = 0;
    for i in 0..len {
        let units = (values[i] - centre[i]) * weights[i] * inverse;
        let near = (units + ROUND) - ROUND;
        high[i] = (units + ROUND).to_bits() as i8;
        low[i] = ((units - near) * LOW + ROUND).to_bits() as i8;
        counted += i32::from(high[i]).unsigned_abs().min(MOST_COUNTED);
    }
    Split { unit, counted }
}

/// `<query, row>`, or `|query - row|^2` if `L2`, of a row in half precision.
///
/// # Safety
/// - The processor has the instruction set of `L`.
/// - `query` and `row` are valid for `len` values.
#[inline(always)]
unsafe fn half_raw<L: Lanes, const L2: bool>(query: *const f32, row: *const u16, len: usize) -> f32 {
    // SAFETY: every offset below is less than `len`.
    unsafe {
        let mut sums = [L::splat(0.0); 4];
        let mut at = 0;
        while at + 4 * L::N <= len {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let offset = at + lane * L::N;
                *sum = add_term::<L, L2>(*sum, L::load(query.add(offset)), L::load_half(row.add(offset)));
            }
            at += 4 * L::N;
        }
        while at + L::N <= len {
            sums[0] = add_term::<L, L2>(sums[0], L::load(query.add(at)), L::load_half(row.add(at)));
            at += L::N;
        }
        if at < len {
            let mut rest = [0; MOST_LANES];
            std::ptr::copy_nonoverlapping(row.add(at), rest.as_mut_ptr(), len - at);
            let query = L::load_partial(query.add(at), len - at);
            sums[1] = add_term::<L, L2>(sums[1], query, L::load_half(rest.as_ptr()));
        }
        sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
    }
}

/// `sum + a b`, or `sum + (a - b)^2` if `L2`, lane by lane.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
unsafe fn add_term<L: Lanes, const L2: bool>(sum: L, a: L, b: L) -> L {
    // SAFETY: the caller's contract.
    unsafe {
        if L2 {
            let difference = a.sub(b);
            sum.add_product(difference, difference)
        } else {
            sum.add_product(a, b)
        }
    }
}

/// [`half_raw`] over many rows.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn half_rows<L: Lanes, const L2: bool>(
    query: &[f32],
    table: &[f16],
    rows: &[u32],
    out: &mut [f32],
) {
    let batch = Ahead::new(table, rows, query.len(), out.len());
    for (j, value) in out.iter_mut().enumerate() {
        // SAFETY: the row holds as many values as `query`.
        *value = unsafe { half_raw::<L, L2>(query.as_ptr(), batch.row(j).as_ptr().cast(), query.len()) };
    }
}

/// The number of bits in which rows differ from the query. Counting bits is left to the compiler, which knows how each
/// instruction set does it best.
///
/// # Safety
/// The processor has the instruction set that this is compiled into.
#[inline(always)]
pub(super) unsafe fn hamming_rows(query: &[u64], table: &[u64], rows: &[u32], out: &mut [f32]) {
    let batch = Ahead::new(table, rows, query.len(), out.len());
    for (j, value) in out.iter_mut().enumerate() {
        let mut count = 0;
        for (a, b) in query.iter().zip(batch.row(j)) {
            count += (a ^ b).count_ones();
        }
        *value = count as f32;
    }
}
