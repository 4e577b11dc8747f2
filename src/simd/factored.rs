//! The sum over neighbours whose weights are made on the way, each from two factors per node: one pass over the rows.

use super::Rows;
use super::heads::{HeadPlan, Span, load_some, store_all};
use super::kernels::{LINE, prefetch_row, require_rows, rows_ahead};
use super::lanes::Lanes;

/// Registers of the output that are held over all rows.
const TILE: usize = 4;

/// The edges that enter one node weigh, up to a scale, `w_jh = max(s_jh t_h, s'_jh t'_h)`, and
/// `w'_jh = w_jh` where the first product is the larger, else `slope w_jh`.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a, T> {
    /// Per row of the table `s` of every head, then `s'`.
    pub sources: &'a [T],
    /// Per head `t`, then `t'`.
    pub target: &'a [T],
    /// What the lesser part is worth in the second sum.
    pub slope: T,
}

/// Where the sums by the second weights go.
#[derive(Debug)]
pub struct SecondSums<'a, T> {
    /// `sum_j w'_jh row_jh`.
    pub rows: &'a mut [T],
    /// `sum_j w'_jh`.
    pub weights: &'a mut [T],
}

/// `out_h = scale_h sum_j w_jh table[rows_j]_h`, columns divided as the plan says, with `scale_h = 1 / sum_j w_jh`, by
/// which the second sums are multiplied too. All are 0 where there are no rows.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn factored_sums<L: Lanes>(
    table: &[f32],
    rows: Rows<'_>,
    factors: Factors<'_, f32>,
    plan: &HeadPlan,
    scale: &mut [f32],
    out: &mut [f32],
    second: Option<SecondSums<'_, f32>>,
) {
    let (columns, heads) = (plan.columns, plan.heads);
    assert!(plan.lanes == L::N && out.len() == columns, "a plan of other kernels or columns");
    assert!(
        scale.len() == heads && factors.target.len() == 2 * heads,
        "not one value for each of {heads} heads"
    );
    require_rows(table, rows.now, columns);
    require_rows(factors.sources, rows.now, 2 * heads);
    let (nothing, no_weights) = (&mut [][..], &mut [][..]);
    let SecondSums { rows: out_second, weights } =
        second.unwrap_or(SecondSums { rows: nothing, weights: no_weights });
    let both = !out_second.is_empty();
    assert!(!both || (out_second.len() == columns && weights.len() == heads), "second sums of another size");
    if rows.now.is_empty() {
        [scale, out, out_second, weights].into_iter().for_each(|sums| sums.fill(0.0));
        return;
    }
    let sums = FactoredSums { table, rows, factors, plan };
    // SAFETY: rows and factors were checked above.
    unsafe {
        if both {
            sums.all::<L, true>(scale, out, out_second, weights);
        } else {
            sums.all::<L, false>(scale, out, out_second, weights);
        }
    }
}

struct FactoredSums<'a> {
    table: &'a [f32],
    rows: Rows<'a>,
    factors: Factors<'a, f32>,
    plan: &'a HeadPlan,
}

impl FactoredSums<'_> {
    /// # Safety
    /// - The processor has the instruction set of `L`, for whose lanes the plan was made.
    /// - Rows lie within the table and the sources, and sizes are as [`factored_sums`] asserts.
    #[inline(always)]
    unsafe fn all<L: Lanes, const BOTH: bool>(
        &self,
        scale: &mut [f32],
        out: &mut [f32],
        second: &mut [f32],
        weights: &mut [f32],
    ) {
        let &HeadPlan { heads, columns, .. } = self.plan;
        // SAFETY: the caller's contract; heads and columns are taken a register, or a tile of them, at a time.
        unsafe {
            if heads > L::N {
                for first in (0..heads).step_by(L::N) {
                    let count = L::N.min(heads - first);
                    let (mut total, mut total_second) = (L::splat(0.0), L::splat(0.0));
                    for &row in self.rows.now {
                        let (weight, other) = self.weights::<L, BOTH>(row, first, count);
                        (total, total_second) = (total.add(weight), total_second.add(other));
                    }
                    let weights = if BOTH { &mut weights[first..][..count] } else { &mut *weights };
                    set_scale(total, total_second, &mut scale[first..][..count], weights);
                }
            }
            let mut at = 0;
            while at < columns {
                let width = if at + TILE * L::N <= columns { TILE } else { 1 };
                let len = (width * L::N).min(columns - at);
                let out = &mut out[at..][..len];
                let second = if BOTH { &mut second[at..][..len] } else { &mut *second };
                match (width == TILE, 2 * heads <= L::N) {
                    (true, true) => self.tile::<L, TILE, BOTH, true>(at, scale, weights, out, second),
                    (true, false) => self.tile::<L, TILE, BOTH, false>(at, scale, weights, out, second),
                    (false, true) => self.tile::<L, 1, BOTH, true>(at, scale, weights, out, second),
                    (false, false) => self.tile::<L, 1, BOTH, false>(at, scale, weights, out, second),
                }
                at += len;
            }
        }
    }

    /// Both weights of `count` heads from `first` on.
    ///
    /// # Safety
    /// As for [`all`](Self::all), and `row` is one of the rows; `first + count <= heads`, `0 < count <= N`.
    #[inline(always)]
    unsafe fn weights<L: Lanes, const BOTH: bool>(&self, row: u32, first: usize, count: usize) -> (L, L) {
        let heads = self.plan.heads;
        // SAFETY: sources and target hold two rows of `heads` factors, the sources for every row.
        unsafe {
            let source = self.factors.sources.as_ptr().add(row as usize * 2 * heads + first);
            let target = self.factors.target.as_ptr().add(first);
            let product = |at| {
                let (source, target) =
                    (load_some::<L>(source.add(at), count), load_some(target.add(at), count));
                L::splat(0.0).add_product(source, target)
            };
            self.larger::<L, BOTH>(product(0), product(heads))
        }
    }

    /// As [`weights`](Self::weights) of all heads, with both rows of factors in one register: a load of the second alone may
    /// reach into a line that nobody fetched.
    ///
    /// # Safety
    /// As for [`all`](Self::all), and `row` is one of the rows; `2 heads <= N`.
    #[inline(always)]
    unsafe fn joined_weights<L: Lanes, const BOTH: bool>(&self, row: u32, target: L) -> (L, L) {
        let width = 2 * self.plan.heads;
        // SAFETY: the sources hold two rows of `heads` factors for every row.
        unsafe {
            let source = load_some::<L>(self.factors.sources.as_ptr().add(row as usize * width), width);
            let both = L::splat(0.0).add_product(source, target);
            self.larger::<L, BOTH>(both, both.pick(&self.plan.counterparts))
        }
    }

    /// The larger of both products, and what it counts in the second sum.
    ///
    /// # Safety
    /// The processor has the instruction set of `L`.
    #[inline(always)]
    unsafe fn larger<L: Lanes, const BOTH: bool>(&self, one: L, other: L) -> (L, L) {
        // SAFETY: the caller's contract.
        unsafe {
            let weight = one.max(other);
            if BOTH {
                let less = L::splat(self.factors.slope - 1.0);
                (weight, weight.add_product(less, weight.where_equal(weight, other)))
            } else {
                (weight, L::splat(0.0))
            }
        }
    }

    /// The columns from `at` on that `out` has room for, at most `WIDTH` registers, held over all rows. Where one register
    /// holds the weights of all heads, the first tile finds the scale, else it is known; `JOINED` if it holds both factors.
    ///
    /// # Safety
    /// As for [`all`](Self::all); `at` is a multiple of `N`, `out` holds `WIDTH * N` values or, if `WIDTH` is 1, fewer, and
    /// `JOINED` says whether `2 heads <= N`.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const WIDTH: usize, const BOTH: bool, const JOINED: bool>(
        &self,
        at: usize,
        scale: &mut [f32],
        weights: &mut [f32],
        out: &mut [f32],
        second: &mut [f32],
    ) {
        let &HeadPlan { heads, columns, ref spans, .. } = self.plan;
        let spans: &[Span; WIDTH] = spans[at / L::N..][..WIDTH].try_into().expect("WIDTH spans");
        let (few, len) = (JOINED || heads <= L::N, L::N.min(out.len()));
        // SAFETY: the processor has the set, and the target holds two factors a head.
        let (zero, target) = unsafe {
            let target = self.factors.target.as_ptr();
            (L::splat(0.0), if JOINED { load_some(target, 2 * heads) } else { L::splat(0.0) })
        };
        let (mut sums, mut second_sums) = ([zero; WIDTH], [zero; WIDTH]);
        let (mut total, mut total_second) = (zero, zero);
        let ahead = rows_ahead(columns + 2 * heads);
        // SAFETY: the caller's contract; a span ends within the heads.
        unsafe {
            for (j, &row) in self.rows.now.iter().enumerate() {
                if let Some(row) = self.rows.ahead(j + ahead) {
                    let columns = self.table.as_ptr().wrapping_add(row as usize * columns + at);
                    (0..WIDTH * L::N).step_by(LINE).for_each(|line| L::prefetch(columns.wrapping_add(line)));
                    if at == 0 {
                        prefetch_row::<L>(self.factors.sources, row, 2 * heads);
                    }
                }
                let mut both = (zero, zero);
                if few {
                    both = if JOINED {
                        self.joined_weights::<L, BOTH>(row, target)
                    } else {
                        self.weights::<L, BOTH>(row, 0, heads)
                    };
                    (total, total_second) = (total.add(both.0), total_second.add(both.1));
                }
                let values = self.table.as_ptr().add(row as usize * columns + at);
                for (register, span) in spans.iter().enumerate() {
                    if !few {
                        both = self.weights::<L, BOTH>(row, span.first, span.count);
                    }
                    let part = load_some::<L>(values.add(register * L::N), len);
                    sums[register] = sums[register].add_product(both.0.pick(&span.picks), part);
                    if BOTH {
                        second_sums[register] =
                            second_sums[register].add_product(both.1.pick(&span.picks), part);
                    }
                }
            }
            if few && at == 0 {
                set_scale(total, total_second, scale, weights);
            }
            for (register, span) in spans.iter().enumerate() {
                let scale = load_some::<L>(scale.as_ptr().add(span.first), span.count).pick(&span.picks);
                let place = register * L::N..register * L::N + len;
                store_all(zero.add_product(scale, sums[register]), &mut out[place.clone()]);
                if BOTH {
                    store_all(zero.add_product(scale, second_sums[register]), &mut second[place]);
                }
            }
        }
    }
}

/// `scale = 1 / total`, and `weights`, unless empty, the second total times that.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
unsafe fn set_scale<L: Lanes>(total: L, second: L, scale: &mut [f32], weights: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe { store_all(total, scale) };
    scale.iter_mut().for_each(|scale| *scale = 1.0 / *scale);
    if !weights.is_empty() {
        // SAFETY: as above.
        unsafe { store_all(second, weights) };
        weights.iter_mut().zip(scale).for_each(|(weight, scale)| *weight *= *scale);
    }
}
