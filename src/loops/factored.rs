//! Additive attention without an exponential per edge.
//!
//! With a slope `s` in `[0, 1]` the leaky rectifier is `l(t) = max(t, s t)`, and `exp` grows, so for `t = a_u + b_v`, with
//! `A` an upper bound of all `a` and `c_v = l(A + b_v)`,
//!
//! `exp(l(t) - c_v) = max(e^(a_u - A) e^(A + b_v - c_v), e^(s (a_u - A)) e^(s (A + b_v) - c_v))`:
//!
//! two factors per node, two products per edge. No factor is above 1, and one of a node's two is 1.

use super::{LANES, lone, sums_by_head};
use crate::memory;
use crate::real::{Real, larger};
use crate::simd::{Factors, HeadPlan, Rows, SecondSums, prefetch, rows_ahead};

/// The edges that leave one source, for the backward pass.
#[derive(Clone, Copy)]
pub struct LeavingFactors<'a, T> {
    /// The factors of the source.
    pub source: &'a [T],
    /// Per node and head both factors, times the scale of its weights, and `sum alpha dalpha` or [`lone`]: three rows of
    /// `heads`.
    pub nodes: &'a [T],
    /// The nodes that the edges enter.
    pub rows: Rows<'a>,
    /// Of the leaky rectifier.
    pub slope: T,
}

/// The largest and the smallest `a` of each head among `terms`, rows that begin with them and are twice as wide.
pub fn extent<T: Real>(terms: &[T], out: &mut [T]) {
    by_heads!(out.len() / 2, extent_of(terms, out));
}

/// The factors of sources, `e^(a - A)`, then `e^(s (a - A))`; rows of `terms` hold `a`, then `b`.
pub fn source_factors<T: Real>(terms: &[T], bound: &[T], slope: T, out: &mut [T]) {
    by_heads!(bound.len(), source_factors_of(terms, bound, slope, out));
}

/// The factors of nodes that attend, `e^(A + b - c)`, then `e^(s (A + b) - c)`; rows of `terms` hold `a`, then `b`.
pub fn target_factors<T: Real>(terms: &[T], bound: &[T], slope: T, out: &mut [T]) {
    by_heads!(bound.len(), target_factors_of(terms, bound, slope, out));
}

/// The attention weights of one node, and per head the scale that they were given, 0 without rows.
pub fn factored_weights<T: Real>(rows: Rows<'_>, factors: Factors<'_, T>, alpha: &mut [T], scale: &mut [T]) {
    by_heads!(scale.len(), factored_weights_of(rows, factors, alpha, scale));
}

/// [`Real::factored_sums`] in two passes, for types without kernels: the weights, then the sums.
pub fn factored_sums_apart<T: Real>(
    table: &[T],
    rows: Rows<'_>,
    factors: Factors<'_, T>,
    plan: &HeadPlan,
    scale: &mut [T],
    out: &mut [T],
    second: Option<SecondSums<'_, T>>,
) {
    let mut alpha = memory::vec![T::ZERO; rows.now.len() * plan.heads];
    factored_weights(rows, factors, &mut alpha, scale);
    T::head_sums(table, rows, &alpha, plan, out);
    if let Some(second) = second {
        by_heads!(scale.len(), second_weights_of(rows, factors, &mut alpha));
        T::head_sums(table, rows, &alpha, plan, second.rows);
        sums_by_head(&alpha, second.weights);
    }
}

/// Makes the weights again and turns their gradients into those of the terms, `d_jh = alpha_jh (d_jh - sum_h) l'(t_jh)`;
/// `out_h = sum_j d_jh`.
pub fn leaving_adjoint<T: Real>(edges: LeavingFactors<'_, T>, alpha: &mut [T], d: &mut [T], out: &mut [T]) {
    by_heads!(edges.source.len() / 2, leaving_adjoint_of(edges, alpha, d, out));
}

/// Asks for a row of `width` values some edges ahead.
#[inline(always)]
fn prefetch_row<T: Real>(table: &[T], rows: Rows<'_>, j: usize, width: usize) {
    if let Some(row) = rows.ahead(j + rows_ahead(width)) {
        for at in (0..width).step_by(LANES) {
            prefetch(table, row as usize * width + at);
        }
    }
}

/// `rows[..][at] = f(at, rows[..][at])` for all heads: a register of results is stored after all that it is made of was
/// read, which the compiler could not prove where rows are read through others.
#[inline(always)]
fn by_lanes<T: Real, const HEADS: usize, const ROWS: usize>(
    rows: [&mut [T]; ROWS],
    f: impl Fn(usize, [T; ROWS]) -> [T; ROWS],
) {
    let heads = if HEADS == 0 { rows[0].len() } else { HEADS };
    let rows = rows.map(|row| &mut row[..heads]);
    let mut made = [[T::ZERO; LANES]; ROWS];
    for start in (0..heads).step_by(LANES) {
        let count = if HEADS == 0 { (heads - start).min(LANES) } else { HEADS };
        for lane in 0..count {
            let values = f(start + lane, std::array::from_fn(|row| rows[row][start + lane]));
            for row in 0..ROWS {
                made[row][lane] = values[row];
            }
        }
        for row in 0..ROWS {
            rows[row][start..start + count].copy_from_slice(&made[row][..count]);
        }
    }
}

vectorized! {
    fn extent_of[T: Real, const HEADS: usize][T, HEADS](terms: &[T], out: &mut [T], heads: usize) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let (most, least) = out.split_at_mut(heads);
        let least = &mut least[..heads];
        most.fill(T::of(f64::NEG_INFINITY));
        least.fill(T::of(f64::INFINITY));
        for row in terms.chunks_exact(2 * heads) {
            for at in 0..heads {
                most[at] = larger(most[at], row[at]);
                least[at] = -larger(-least[at], -row[at]);
            }
        }
    }

    fn source_factors_of[T: Real, const HEADS: usize][T, HEADS](
        terms: &[T], bound: &[T], slope: T, out: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let bound = &bound[..heads];
        for (terms, out) in terms.chunks_exact(2 * heads).zip(out.chunks_exact_mut(2 * heads)) {
            let (first, second) = out.split_at_mut(heads);
            for at in 0..heads {
                let below = terms[at] - bound[at];
                first[at] = below.exp();
                second[at] = (slope * below).exp();
            }
        }
    }

    fn target_factors_of[T: Real, const HEADS: usize][T, HEADS](
        terms: &[T], bound: &[T], slope: T, out: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let bound = &bound[..heads];
        for (terms, out) in terms.chunks_exact(2 * heads).zip(out.chunks_exact_mut(2 * heads)) {
            let (first, second) = out.split_at_mut(heads);
            for at in 0..heads {
                let top = bound[at] + terms[heads + at];
                let limit = larger(top, slope * top);
                first[at] = (top - limit).exp();
                second[at] = (slope * top - limit).exp();
            }
        }
    }

    fn factored_weights_of[T: Real, const HEADS: usize][T, HEADS](
        rows: Rows<'_>, factors: Factors<'_, T>, alpha: &mut [T], scale: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let (first, second) = factors.target[..2 * heads].split_at(heads);
        let scale = &mut scale[..heads];
        scale.fill(T::ZERO);
        for (j, (row, &source)) in alpha.chunks_exact_mut(heads).zip(rows.now).enumerate() {
            prefetch_row(factors.sources, rows, j, 2 * heads);
            let source = &factors.sources[source as usize * 2 * heads..][..2 * heads];
            by_lanes::<T, HEADS, 2>([row, scale], |at, [_, sum]| {
                let weight = larger(source[at] * first[at], source[heads + at] * second[at]);
                [weight, sum + weight]
            });
        }
        if rows.now.is_empty() {
            return;
        }
        scale.iter_mut().for_each(|scale| *scale = T::ONE / *scale);
        for row in alpha.chunks_exact_mut(heads) {
            for at in 0..heads {
                row[at] *= scale[at];
            }
        }
    }

    fn second_weights_of[T: Real, const HEADS: usize][T, HEADS](
        rows: Rows<'_>, factors: Factors<'_, T>, alpha: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let (first, second) = factors.target[..2 * heads].split_at(heads);
        for (row, &source) in alpha.chunks_exact_mut(heads).zip(rows.now) {
            let source = &factors.sources[source as usize * 2 * heads..][..2 * heads];
            by_lanes::<T, HEADS, 1>([row], |at, [weight]| {
                let above = source[at] * first[at] > source[heads + at] * second[at];
                [weight * if above { T::ONE } else { factors.slope }]
            });
        }
    }

    fn leaving_adjoint_of[T: Real, const HEADS: usize][T, HEADS](
        edges: LeavingFactors<'_, T>, alpha: &mut [T], d: &mut [T], out: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let source = &edges.source[..2 * heads];
        let out = &mut out[..heads];
        out.fill(T::ZERO);
        let rows = alpha.chunks_exact_mut(heads).zip(d.chunks_exact_mut(heads)).zip(edges.rows.now);
        for (j, ((alpha, d), &node)) in rows.enumerate() {
            prefetch_row(edges.nodes, edges.rows, j, 3 * heads);
            let node = &edges.nodes[node as usize * 3 * heads..][..3 * heads];
            by_lanes::<T, HEADS, 3>([alpha, d, out], |at, [_, d, sum]| {
                let (first, second) = (source[at] * node[at], source[heads + at] * node[heads + at]);
                let alpha = larger(second, first);
                let inner = node[2 * heads + at];
                let d = alpha * (d - inner) * if first > second { T::ONE } else { edges.slope };
                let d = if inner == lone() { T::ZERO } else { d };
                [alpha, d, sum + d]
            });
        }
    }
}
