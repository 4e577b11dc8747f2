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

/// How the columns of a row are divided among heads, register by register; made once for many calls.
#[derive(Clone, Debug)]
pub struct HeadPlan {
    /// Number of heads.
    pub heads: usize,
    pub(super) columns: usize,
    pub(super) lanes: usize,
    pub(super) spans: Vec<Span>,
    /// Each lane's counterpart, `heads` lanes on.
    pub(super) counterparts: [u32; MOST_LANES],
}

/// The heads of one register's columns.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Where their weights begin.
    pub(super) first: usize,
    /// How many weights to load from there.
    pub(super) count: usize,
    /// Whether all lanes belong to the first.
    one: bool,
    /// Each lane's among the loaded.
    pub(super) picks: [u32; MOST_LANES],
}

impl HeadPlan {
    /// For the kernels in use.
    ///
    /// # Panics
    /// If the heads do not divide the columns.
    pub fn new(heads: usize, columns: usize) -> Self {
        Self::with_lanes(super::kernels().lanes, heads, columns)
    }

    /// For registers of so many lanes.
    pub(super) fn with_lanes(lanes: usize, heads: usize, columns: usize) -> Self {
        assert!(heads > 0 && columns.is_multiple_of(heads), "{heads} heads, {columns} columns");
        let width = columns / heads;
        let span = |start: usize| {
            let head_of = |column: usize| column.min(columns - 1) / width;
            let (own, last) = (head_of(start), head_of(start + lanes - 1));
            // Weights that fit one register are loaded once for all.
            let first = if heads <= lanes { 0 } else { own };
            let count = if heads <= lanes { heads } else { last + 1 - first };
            let lane_of = |lane: usize| if lane < lanes { (head_of(start + lane) - first) as u32 } else { 0 };
            Span { first, count, one: own == last, picks: std::array::from_fn(lane_of) }
        };
        let counterpart = |lane: usize| ((lane + heads) % lanes) as u32;
        Self {
            heads,
            columns,
            lanes,
            spans: (0..columns).step_by(lanes).map(span).collect(),
            counterparts: std::array::from_fn(counterpart),
        }
    }
}

/// The sums of every `WIDTH` adjacent lanes of the first `WIDTH` registers.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
unsafe fn fold<L: Lanes, const WIDTH: usize>(mut parts: [L; MOST_LANES]) -> L {
    let mut count = WIDTH;
    while count > 1 {
        for at in 0..count / 2 {
            // SAFETY: the caller's contract.
            parts[at] = unsafe { parts[2 * at].add_pairs(parts[2 * at + 1]) };
        }
        count /= 2;
    }
    parts[0]
}

/// # Safety
/// - The processor has the instruction set of `L`; `0 < len <= N`.
/// - `from` is valid for `len` values.
#[inline(always)]
pub(super) unsafe fn load_some<L: Lanes>(from: *const f32, len: usize) -> L {
    // SAFETY: the caller's contract.
    unsafe { if len < L::N { L::load_partial(from, len) } else { L::load(from) } }
}

/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn store_all<L: Lanes>(values: L, out: &mut [f32]) {
    // SAFETY: `out` holds as many values as are stored.
    unsafe {
        if out.len() < L::N {
            values.store_partial(out.as_mut_ptr(), out.len());
        } else {
            values.store(out.as_mut_ptr());
        }
    }
}

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
    // SAFETY: rows lie within the table, as asserted; where a register spans heads or a head registers, they are whole.
    unsafe {
        match (columns.is_multiple_of(L::N), width) {
            (true, 2) => folded_dots::<L, 2>(query, table, rows, heads, out),
            (true, 4) => folded_dots::<L, 4>(query, table, rows, heads, out),
            (true, 8) if L::N >= 8 => folded_dots::<L, 8>(query, table, rows, heads, out),
            (true, _) if width.is_multiple_of(L::N) => match L::N {
                16 => folded_dots::<L, 16>(query, table, rows, heads, out),
                8 => folded_dots::<L, 8>(query, table, rows, heads, out),
                _ => folded_dots::<L, 4>(query, table, rows, heads, out),
            },
            _ => single_dots::<L>(query, table, rows, heads, out),
        }
    }
}

/// [`head_dots`] of any width, head by head.
///
/// # Safety
/// The processor has the instruction set of `L`; sizes as `head_dots` asserts.
#[inline(always)]
unsafe fn single_dots<L: Lanes>(query: &[f32], table: &[f32], rows: Rows<'_>, heads: usize, out: &mut [f32]) {
    let (columns, width) = (query.len(), query.len() / heads);
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

/// [`head_dots`] whose rows are whole registers, each of whole heads of `WIDTH` lanes, or each a part of one head, and then
/// `WIDTH` is `N`: `N` results at a time, folded from `WIDTH` registers of products.
///
/// # Safety
/// The processor has the instruction set of `L`; sizes as `head_dots` asserts, and as said above.
#[inline(always)]
unsafe fn folded_dots<L: Lanes, const WIDTH: usize>(
    query: &[f32],
    table: &[f32],
    rows: Rows<'_>,
    heads: usize,
    out: &mut [f32],
) {
    let dots = FoldedDots { query, table, rows, depth: query.len() / heads / WIDTH };
    // SAFETY: the caller's contract; a row makes `heads * WIDTH / N` registers.
    unsafe {
        match (heads * WIDTH / L::N, dots.depth) {
            (1, 1) => dots.whole_rows::<L, WIDTH, 1, 1>(out),
            (2, 1) if WIDTH >= 2 => dots.whole_rows::<L, WIDTH, 2, 1>(out),
            (4, 1) if WIDTH >= 4 => dots.whole_rows::<L, WIDTH, 4, 1>(out),
            (8, 1) if WIDTH >= 8 => dots.whole_rows::<L, WIDTH, 8, 1>(out),
            (1, _) => dots.whole_rows::<L, WIDTH, 1, 0>(out),
            (2, _) if WIDTH >= 2 => dots.whole_rows::<L, WIDTH, 2, 0>(out),
            (4, _) if WIDTH >= 4 => dots.whole_rows::<L, WIDTH, 4, 0>(out),
            _ => dots.any_rows::<L, WIDTH>(out),
        }
    }
}

struct FoldedDots<'a> {
    query: &'a [f32],
    table: &'a [f32],
    rows: Rows<'a>,
    /// Registers that are summed before the fold.
    depth: usize,
}

impl FoldedDots<'_> {
    /// The products of columns `at .. at + depth * N` of row `j`.
    ///
    /// # Safety
    /// The processor has the instruction set of `L`; row `j` lies within the table and has these columns.
    #[inline(always)]
    unsafe fn part<L: Lanes>(&self, j: usize, at: usize, depth: usize) -> L {
        // SAFETY: the caller's contract.
        unsafe {
            let row = *self.rows.now.get_unchecked(j) as usize * self.query.len();
            let (a, b) = (self.query.as_ptr().add(at), self.table.as_ptr().add(row + at));
            let mut sum = L::splat(0.0);
            for register in 0..depth {
                let at = register * L::N;
                sum = sum.add_product(L::load(a.add(at)), L::load(b.add(at)));
            }
            sum
        }
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(&self, j: usize) {
        let columns = self.query.len();
        if let Some(row) = self.rows.ahead(j + rows_ahead(columns)) {
            prefetch_row::<L>(self.table, row, columns);
        }
    }

    /// Rows of `PARTS` parts, which divide `WIDTH`, of `DEPTH` registers, or of `depth` if that is 0: no choice is left to
    /// the loop. The last fold may see its last row again.
    ///
    /// # Safety
    /// As [`folded_dots`].
    #[inline(always)]
    unsafe fn whole_rows<L: Lanes, const WIDTH: usize, const PARTS: usize, const DEPTH: usize>(
        &self,
        out: &mut [f32],
    ) {
        let depth = if DEPTH == 0 { self.depth } else { DEPTH };
        let (step, last) = (WIDTH / PARTS, self.rows.now.len().saturating_sub(1));
        for (first, out) in (0..).step_by(step).zip(out.chunks_mut(L::N)) {
            // SAFETY: there is an `out` only where there is a row, and rows lie within the table.
            unsafe {
                let mut parts = [L::splat(0.0); MOST_LANES];
                for (row, parts) in parts[..WIDTH].chunks_exact_mut(PARTS).enumerate() {
                    self.prefetch::<L>(first + row);
                    for (part, products) in parts.iter_mut().enumerate() {
                        *products = self.part::<L>((first + row).min(last), part * L::N * depth, depth);
                    }
                }
                store_all(fold::<L, WIDTH>(parts), out);
            }
        }
    }

    /// Rows of any number of registers.
    ///
    /// # Safety
    /// As [`folded_dots`].
    #[inline(always)]
    unsafe fn any_rows<L: Lanes, const WIDTH: usize>(&self, out: &mut [f32]) {
        let (mut j, mut at) = (0, 0);
        for out in out.chunks_mut(L::N) {
            // SAFETY: `j` and `at` run over whole rows, which lie within the table.
            unsafe {
                let mut parts = [L::splat(0.0); MOST_LANES];
                for (number, part) in parts.iter_mut().take(WIDTH).enumerate() {
                    if number * L::N < out.len() * WIDTH {
                        if at == 0 {
                            self.prefetch::<L>(j);
                        }
                        *part = self.part::<L>(j, at, self.depth);
                        at += L::N * self.depth;
                        if at == self.query.len() {
                            (j, at) = (j + 1, 0);
                        }
                    }
                }
                store_all(fold::<L, WIDTH>(parts), out);
            }
        }
    }
}

/// `out_h = sum_j weights_jh table[rows_j]_h`, the columns of `out` and of the rows divided among the plan's heads.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn head_sums<L: Lanes>(
    table: &[f32],
    rows: Rows<'_>,
    weights: &[f32],
    plan: &HeadPlan,
    out: &mut [f32],
) {
    let (columns, heads) = (plan.columns, plan.heads);
    assert!(plan.lanes == L::N && out.len() == columns, "a plan of other kernels or columns");
    require_rows(table, rows.now, columns);
    assert_eq!(weights.len(), rows.now.len() * heads, "{} rows of {heads} heads", rows.now.len());
    let sums = HeadSums { table, rows, weights, plan };
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
    plan: &'a HeadPlan,
}

impl HeadSums<'_> {
    /// Columns `at .. at + WIDTH * N`, held in registers over all rows; only `len` columns of the last register.
    ///
    /// # Safety
    /// - The processor has the instruction set of `L`, for whose lanes the plan was made.
    /// - Rows lie within the table, `weights` holds the heads' values for each; `at + (WIDTH - 1) * N + len <= columns`,
    ///   `0 < len <= N`, and `at` is a multiple of `N`.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const WIDTH: usize>(&self, at: usize, len: usize, out: &mut [f32]) {
        let &HeadPlan { heads, columns, ref spans, .. } = self.plan;
        let spans: &[Span; WIDTH] = spans[at / L::N..][..WIDTH].try_into().expect("WIDTH spans");
        // SAFETY: the caller's contract; a span ends within the weights of its row.
        unsafe {
            let mut sums = [L::splat(0.0); WIDTH];
            let ahead = rows_ahead(columns);
            for (j, &row) in self.rows.now.iter().enumerate() {
                // The first tile fetches whole rows for those after it.
                if at == 0
                    && let Some(row) = self.rows.ahead(j + ahead)
                {
                    prefetch_row::<L>(self.table, row, columns);
                }
                let values = self.table.as_ptr().add(row as usize * columns + at);
                let weights = self.weights.as_ptr().add(j * heads);
                let all = if heads <= L::N { load_some::<L>(weights, heads) } else { L::splat(0.0) };
                for (register, (sum, span)) in sums.iter_mut().zip(spans).enumerate() {
                    let part = load_some::<L>(values.add(register * L::N), len);
                    let weight = if span.one {
                        L::splat(*weights.add(span.first + span.picks[0] as usize))
                    } else if heads <= L::N {
                        all.pick(&span.picks)
                    } else {
                        load_some::<L>(weights.add(span.first), span.count).pick(&span.picks)
                    };
                    *sum = sum.add_product(weight, part);
                }
            }
            for (register, sum) in sums.into_iter().enumerate() {
                store_all(sum, &mut out[at + register * L::N..][..len]);
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
    require_rows(table, rows.now, queries.len() / heads);
    // SAFETY: the rows lie within the table, as asserted.
    unsafe {
        match heads {
            1 => row_dots_of::<L, 1>(queries, table, rows, heads, out),
            2 => row_dots_of::<L, 2>(queries, table, rows, heads, out),
            3 => row_dots_of::<L, 3>(queries, table, rows, heads, out),
            _ => row_dots_of::<L, GROUP>(queries, table, rows, heads, out),
        }
    }
}

/// [`row_dots`] of `H` heads at a time: a register's columns of `H` queries by those of as many rows as one fold takes, whose
/// products stay in registers. The last fold may see its last row again, the last group some heads.
///
/// # Safety
/// The processor has the instruction set of `L`; sizes as `row_dots` asserts, and `H <= heads`, `H <= N`.
#[inline(always)]
unsafe fn row_dots_of<L: Lanes, const H: usize>(
    queries: &[f32],
    table: &[f32],
    rows: Rows<'_>,
    heads: usize,
    out: &mut [f32],
) {
    let columns = queries.len() / heads;
    // Queries of all heads stand in the cache too.
    let ahead = rows_ahead(columns) / 2;
    let step = L::N / H;
    let mut sums = [0.0; MOST_LANES];
    for (first, rows_now) in (0..).step_by(step).zip(rows.now.chunks(step)) {
        for at in first..first + rows_now.len() {
            if let Some(row) = rows.ahead(at + ahead) {
                prefetch_row::<L>(table, row, columns);
            }
        }
        let starts: [*const f32; MOST_LANES] = std::array::from_fn(|at| {
            let row = rows_now[at.min(rows_now.len() - 1)];
            table.as_ptr().wrapping_add(row as usize * columns)
        });
        for head in (0..heads).step_by(H) {
            let head = head.min(heads - H);
            // SAFETY: rows lie within the table, `H` queries from `head` on within theirs; `sums` holds the widest register.
            unsafe {
                let parts = products_of::<L, H>(queries.as_ptr().add(head * columns), starts, columns);
                let folded = match L::N {
                    16 => fold::<L, 16>(parts),
                    8 => fold::<L, 8>(parts),
                    _ => fold::<L, 4>(parts),
                };
                if heads == H {
                    store_all(folded, &mut out[first * H..][..rows_now.len() * H]);
                    continue;
                }
                folded.store(sums.as_mut_ptr());
            }
            for (at, sums) in sums[..rows_now.len() * H].chunks_exact(H).enumerate() {
                out[(first + at) * heads + head..][..H].copy_from_slice(sums);
            }
        }
    }
}

/// The products of `H` queries with each of the first `N / H` rows, side by side, not yet summed over the lanes.
///
/// # Safety
/// - The processor has the instruction set of `L`.
/// - `queries` is valid for `H * columns` values, the rows for `columns`.
#[inline(always)]
unsafe fn products_of<L: Lanes, const H: usize>(
    queries: *const f32,
    rows: [*const f32; MOST_LANES],
    columns: usize,
) -> [L; MOST_LANES] {
    // SAFETY: every offset is less than `columns`, or `H * columns` for the queries.
    unsafe {
        let mut parts = [L::splat(0.0); MOST_LANES];
        let mut at = 0;
        while at + L::N <= columns {
            let of_queries: [L; H] = std::array::from_fn(|head| L::load(queries.add(head * columns + at)));
            for (row, parts) in rows.iter().zip(parts[..L::N / H * H].chunks_exact_mut(H)) {
                let part = L::load(row.add(at));
                for (sum, query) in parts.iter_mut().zip(of_queries) {
                    *sum = sum.add_product(query, part);
                }
            }
            at += L::N;
        }
        if at < columns {
            let len = columns - at;
            for (row, parts) in rows.iter().zip(parts[..L::N / H * H].chunks_exact_mut(H)) {
                let part = L::load_partial(row.add(at), len);
                for (head, sum) in parts.iter_mut().enumerate() {
                    *sum = sum.add_product(L::load_partial(queries.add(head * columns + at), len), part);
                }
            }
        }
        parts
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
