//! Kernels over codes of quantized rows.

use super::lanes::{Lanes, MOST_LANES};
use super::prefetch;
use super::words::{Query, Terms};
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

/// Rows that [`code_sums`] takes at once, so that the sums of one are made while others are read.
const AT_ONCE: usize = 4;

/// `out_j = sum_i term(query_i, table[rows_j]_i)`, where that fits in 32 bits.
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn code_sums<Q: Query, S: Terms<Q>>(
    query: &[Q],
    table: &[i8],
    rows: &[u32],
    out: &mut [f32],
) {
    let batch = Ahead::new(table, rows, query.len(), out.len());
    let whole = query.len() - query.len() % S::N;
    // SAFETY: rows hold as many values as `query`, of which `whole` are in whole steps.
    unsafe {
        let total = |row: &[i8], sum: S| {
            let rest = query[whole..].iter().zip(&row[whole..]);
            rest.fold(sum.sum(), |sum, (&value, &code)| sum.wrapping_add(value.term(code))) as f32
        };
        let mut j = 0;
        let mut groups = out.chunks_exact_mut(AT_ONCE);
        for values in &mut groups {
            let rows: [&[i8]; AT_ONCE] = std::array::from_fn(|k| batch.row(j + k));
            let mut sums = [S::zero(); AT_ONCE];
            for at in (0..whole).step_by(S::N) {
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = sum.add_terms(query.as_ptr().add(at), row.as_ptr().add(at));
                }
            }
            for ((value, row), sum) in values.iter_mut().zip(rows).zip(sums) {
                *value = total(row, sum);
            }
            j += AT_ONCE;
        }
        for value in groups.into_remainder() {
            let row = batch.row(j);
            let mut sums = [S::zero(); 2];
            for at in (0..whole).step_by(S::N) {
                let sum = &mut sums[at / S::N % 2];
                *sum = sum.add_terms(query.as_ptr().add(at), row.as_ptr().add(at));
            }
            *value = total(row, sums[0].add(sums[1]));
            j += 1;
        }
    }
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
