//! Kernels of attention, whose rows are seen by several heads.
//!
//! In `head_dots` and `head_sums` the columns of a row are divided among the heads; in `row_dots` and `row_sums` every
//! head sees the whole row. Per edge, heads stand side by side: `weights[j * heads + h]`.

use super::Rows;
use super::kernels::{dot_raw, prefetch_row, require_rows, rows_ahead};
use super::lanes::{Lanes, MOST_LANES};

/// Registers of the output that `head_sums` holds over all rows.
const TILE: usize = 4;

/// Heads that the whole-row kernels handle at once.
const GROUP: usize = 4;

/// `out_jh = <query_h, table[rows_j]_h>`: `query` and rows hold `heads` parts of equal width.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn head_dots<L: Lanes>(
    query: &[f32],
    table: &[f32],
    rows: Rows<'_>,
    heads: usize,
    out: &mut [f32],
) {
    let columns = query.len();
    assert!(heads > 0 && columns.is_multiple_of(heads), "{heads} heads, {columns} columns");
    assert_eq!(out.len(), rows.now.len() * heads, "{} rows of {heads} heads", rows.now.len());
    require_rows(table, rows.now, columns);
    let width = columns / heads;
    let ahead = rows_ahead(columns);
    for (j, (&row, out)) in rows.now.iter().zip(out.chunks_exact_mut(heads)).enumerate() {
        if let Some(row) = rows.ahead(j + ahead) {
            prefetch_row::<L>(table, row, columns);
        }
        for (head, out) in out.iter_mut().enumerate() {
            // SAFETY: row and query hold `heads * width` values, the row as asserted.
            *out = unsafe {
                let (a, b) = (query.as_ptr().add(head * width), table.as_ptr().add(row as usize * columns));
                dot_raw::<L>(a, b.add(head * width), width)
            };
        }
    }
}

/// `out_h = sum_j weights_jh table[rows_j]_h`, the columns of `out` and of the rows divided among `heads`.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn head_sums<L: Lanes>(
    table: &[f32],
    rows: Rows<'_>,
    weights: &[f32],
    heads: usize,
    out: &mut [f32],
) {
    let columns = out.len();
    assert!(heads > 0 && columns.is_multiple_of(heads), "{heads} heads, {columns} columns");
    require_rows(table, rows.now, columns);
    assert_eq!(weights.len(), rows.now.len() * heads, "{} rows of {heads} heads", rows.now.len());
    let sums = HeadSums { table, rows, weights, heads, columns };
    let mut at = 0;
    // SAFETY: rows and weights were checked above, and `at` plus the tile stays within the columns.
    unsafe {
        while at + TILE * L::N <= columns {
            sums.tile::<L, TILE>(at, L::N, out);
            at += TILE * L::N;
        }
        while at < columns {
            let len = L::N.min(columns - at);
            sums.tile::<L, 1>(at, len, out);
            at += len;
        }
    }
}

struct HeadSums<'a> {
    table: &'a [f32],
    rows: Rows<'a>,
    weights: &'a [f32],
    heads: usize,
    columns: usize,
}

impl HeadSums<'_> {
    /// Columns `at .. at + WIDTH * N`, held in registers over all rows; only `len` columns of the last register.
    ///
    /// # Safety
    /// - The processor has the instruction set of `L`.
    /// - Rows lie within the table, `weights` holds `heads` values for each; `at + (WIDTH - 1) * N + len <= columns`, `0 < len <= N`.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const WIDTH: usize>(&self, at: usize, len: usize, out: &mut [f32]) {
        let width = self.columns / self.heads;
        // The first head of each register, the number of heads in it, and each lane's among them.
        let mut spans = [(0, 0, [0u32; MOST_LANES]); WIDTH];
        for (register, span) in spans.iter_mut().enumerate() {
            let start = at + register * L::N;
            // Counted rather than divided: this runs once per node.
            let (first, mut column) = (start / width, start % width);
            let (mut head, mut lanes) = (first, [0; MOST_LANES]);
            for lane in &mut lanes[..L::N] {
                if column == width {
                    (column, head) = (0, (head + 1).min(self.heads - 1));
                }
                *lane = (head - first) as u32;
                column += 1;
            }
            *span = (first, head + 1 - first, lanes);
        }
        // SAFETY: the caller's contract; a span ends within the weights of its row.
        unsafe {
            let mut sums = [L::splat(0.0); WIDTH];
            let ahead = rows_ahead(self.columns);
            for (j, &row) in self.rows.now.iter().enumerate() {
                // The first tile fetches whole rows for those after it.
                if at == 0
                    && let Some(row) = self.rows.ahead(j + ahead)
                {
                    prefetch_row::<L>(self.table, row, self.columns);
                }
                let values = self.table.as_ptr().add(row as usize * self.columns + at);
                let weights = self.weights.as_ptr().add(j * self.heads);
                for (register, (sum, &(first, count, picks))) in sums.iter_mut().zip(&spans).enumerate() {
                    let from = values.add(register * L::N);
                    let part = if len < L::N { L::load_partial(from, len) } else { L::load(from) };
                    let weight = if count == 1 {
                        L::splat(*weights.add(first))
                    } else {
                        L::pick(weights.add(first), count, &picks)
                    };
                    *sum = sum.add_product(weight, part);
                }
            }
            for (register, sum) in sums.into_iter().enumerate() {
                let to = out.as_mut_ptr().add(at + register * L::N);
                if len < L::N { sum.store_partial(to, len) } else { sum.store(to) }
            }
        }
    }
}

/// `out_jh = <queries_h, table[rows_j]>`: `queries` holds `heads` rows.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn row_dots<L: Lanes>(
    queries: &[f32],
    table: &[f32],
    rows: Rows<'_>,
    heads: usize,
    out: &mut [f32],
) {
    assert!(heads > 0 && queries.len().is_multiple_of(heads), "{heads} heads, {} values", queries.len());
    assert_eq!(out.len(), rows.now.len() * heads, "{} rows of {heads} heads", rows.now.len());
    let columns = queries.len() / heads;
    require_rows(table, rows.now, columns);
    let ahead = rows_ahead(columns);
    for (j, (&row, out)) in rows.now.iter().zip(out.chunks_exact_mut(heads)).enumerate() {
        if let Some(row) = rows.ahead(j + ahead) {
            prefetch_row::<L>(table, row, columns);
        }
        // SAFETY: the row lies within the table as asserted, the group's queries within theirs.
        unsafe {
            let row = table.as_ptr().add(row as usize * columns);
            let mut queries = queries.as_ptr();
            for out in out.chunks_mut(GROUP) {
                match out.len() {
                    4 => dots_of::<L, 4>(queries, row, columns, out),
                    3 => dots_of::<L, 3>(queries, row, columns, out),
                    2 => dots_of::<L, 2>(queries, row, columns, out),
                    _ => dots_of::<L, 1>(queries, row, columns, out),
                }
                queries = queries.wrapping_add(out.len() * columns);
            }
        }
    }
}

/// The products of `H` queries with one row.
///
/// # Safety
/// - The processor has the instruction set of `L`.
/// - `queries` is valid for `H * columns` values, `row` for `columns`; `out` holds `H`.
#[inline(always)]
unsafe fn dots_of<L: Lanes, const H: usize>(
    queries: *const f32,
    row: *const f32,
    columns: usize,
    out: &mut [f32],
) {
    debug_assert_eq!(out.len(), H);
    // SAFETY: every offset is less than `columns`, or `H * columns` for the queries.
    unsafe {
        let mut sums = [L::splat(0.0); H];
        let mut at = 0;
        while at + L::N <= columns {
            let part = L::load(row.add(at));
            for (head, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add_product(part, L::load(queries.add(head * columns + at)));
            }
            at += L::N;
        }
        if at < columns {
            let part = L::load_partial(row.add(at), columns - at);
            for (head, sum) in sums.iter_mut().enumerate() {
                let query = L::load_partial(queries.add(head * columns + at), columns - at);
                *sum = sum.add_product(part, query);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum.sum();
        }
    }
}

/// `out_h = sum_j weights_jh table[rows_j]`: `out` holds `heads` rows.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn row_sums<L: Lanes>(
    table: &[f32],
    rows: &[u32],
    weights: &[f32],
    heads: usize,
    out: &mut [f32],
) {
    assert!(heads > 0 && out.len().is_multiple_of(heads), "{heads} heads, {} values", out.len());
    assert_eq!(weights.len(), rows.len() * heads, "{} rows of {heads} heads", rows.len());
    let columns = out.len() / heads;
    require_rows(table, rows, columns);
    let mut head = 0;
    while head < heads {
        let count = GROUP.min(heads - head);
        let sums = RowSums { table, rows, weights, heads, first: head, columns };
        let out = &mut out[head * columns..];
        let mut at = 0;
        // SAFETY: rows were checked above; `out` begins with the group's rows.
        unsafe {
            while at < columns {
                let wide = at + TILE * L::N <= columns;
                match (count, wide) {
                    (4, true) => sums.tile::<L, 4, TILE>(at, out),
                    (3, true) => sums.tile::<L, 3, TILE>(at, out),
                    (2, true) => sums.tile::<L, 2, TILE>(at, out),
                    (_, true) => sums.tile::<L, 1, TILE>(at, out),
                    (4, false) => sums.tile::<L, 4, 1>(at, out),
                    (3, false) => sums.tile::<L, 3, 1>(at, out),
                    (2, false) => sums.tile::<L, 2, 1>(at, out),
                    (_, false) => sums.tile::<L, 1, 1>(at, out),
                }
                at += if wide { TILE * L::N } else { L::N };
            }
        }
        head += count;
    }
}

struct RowSums<'a> {
    table: &'a [f32],
    rows: &'a [u32],
    weights: &'a [f32],
    heads: usize,
    /// The first head of the group.
    first: usize,
    columns: usize,
}

impl RowSums<'_> {
    /// Columns `at .. at + WIDTH * N` of `H` heads, held in registers over all rows; a single register may reach beyond
    /// the last column.
    ///
    /// # Safety
    /// - The processor has the instruction set of `L`.
    /// - Rows lie within the table; `weights` holds `heads` values per row and `first + H <= heads`; `out` holds `H` rows.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const H: usize, const WIDTH: usize>(&self, at: usize, out: &mut [f32]) {
        let len = L::N.min(self.columns - at);
        debug_assert!(WIDTH == 1 || at + WIDTH * L::N <= self.columns);
        // SAFETY: the caller's contract.
        unsafe {
            let mut sums = [[L::splat(0.0); WIDTH]; H];
            for (j, &row) in self.rows.iter().enumerate() {
                let values = self.table.as_ptr().add(row as usize * self.columns + at);
                let weights = self.weights.as_ptr().add(j * self.heads + self.first);
                let mut part = [L::splat(0.0); WIDTH];
                for (register, part) in part.iter_mut().enumerate() {
                    let from = values.add(register * L::N);
                    *part = if WIDTH == 1 && len < L::N { L::load_partial(from, len) } else { L::load(from) };
                }
                for (head, sums) in sums.iter_mut().enumerate() {
                    let weight = L::splat(*weights.add(head));
                    for (sum, part) in sums.iter_mut().zip(part) {
                        *sum = sum.add_product(weight, part);
                    }
                }
            }
            for (head, sums) in sums.into_iter().enumerate() {
                for (register, sum) in sums.into_iter().enumerate() {
                    let to = out.as_mut_ptr().add(head * self.columns + at + register * L::N);
                    if WIDTH == 1 && len < L::N { sum.store_partial(to, len) } else { sum.store(to) }
                }
            }
        }
    }
}
