//! Additive attention without an exponential per edge.
//!
//! With a slope `s` in `[0, 1]` the leaky rectifier is `l(t) = max(t, s t)`, and `exp` grows, so for `t = a_u + b_v`, with
//! `A` an upper bound of all `a` and `c_v = l(A + b_v)`,
//!
//! `exp(l(t) - c_v) = max(e^(a_u - A) e^(A + b_v - c_v), e^(s (a_u - A)) e^(s (A + b_v) - c_v))`:
//!
//! two factors per node, two products per edge. No factor is above 1, and one of a node's two is 1.

use super::LANES;
use crate::real::{Real, larger};
use crate::simd::{Rows, prefetch, rows_ahead};

/// The edges that enter one node.
#[derive(Clone, Copy)]
pub struct EdgeFactors<'a, T> {
    /// Per source `e^(a - A)` of every head, then `e^(s (a - A))`.
    pub source: &'a [T],
    /// The sources of the edges.
    pub rows: Rows<'a>,
    /// `A` per head.
    pub bound: &'a [T],
    /// `b` of the node, per head.
    pub target: &'a [T],
    /// Of the leaky rectifier, in `[0, 1]`.
    pub slope: T,
}

/// The edges that leave one source, for the backward pass.
#[derive(Clone, Copy)]
pub struct LeavingFactors<'a, T> {
    /// The factors of the source.
    pub source: &'a [T],
    /// Per node and head both factors, times the scale of its weights, and `sum alpha dalpha`: three rows of `heads`.
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

/// The factors of a source: `out = e^(a - A)`, then `e^(s (a - A))`.
pub fn source_factors<T: Real>(a: &[T], bound: &[T], slope: T, out: &mut [T]) {
    by_heads!(a.len(), source_factors_of(a, bound, slope, out));
}

/// The attention weights of one node; `kept`, unless empty, gets both factors of every head times the scale of its weights.
pub fn factored_weights<T: Real>(edges: EdgeFactors<'_, T>, alpha: &mut [T], kept: &mut [T]) {
    by_heads!(edges.target.len(), factored_weights_of(edges, alpha, kept));
}

/// `grad_j *= l'(t_j)`; `kept` as [`factored_weights`] leaves it.
pub fn factored_adjoint<T: Real>(edges: EdgeFactors<'_, T>, kept: &[T], grad: &mut [T]) {
    by_heads!(edges.target.len(), factored_adjoint_of(edges, kept, grad));
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
        a: &[T], bound: &[T], slope: T, out: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let (a, bound) = (&a[..heads], &bound[..heads]);
        let (first, second) = out.split_at_mut(heads);
        let second = &mut second[..heads];
        for at in 0..heads {
            let below = a[at] - bound[at];
            first[at] = below.exp();
            second[at] = (slope * below).exp();
        }
    }

    fn factored_weights_of[T: Real, const HEADS: usize][T, HEADS](
        edges: EdgeFactors<'_, T>, alpha: &mut [T], kept: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        // In registers where the number of heads is known.
        let (mut few, mut many) = ([T::ZERO; 2 * LANES], vec![T::ZERO; if HEADS == 0 { 2 * heads } else { 0 }]);
        let factors = if HEADS == 0 { &mut many[..] } else { &mut few[..2 * HEADS] };
        let (first, second) = factors.split_at_mut(heads);
        let (bound, target) = (&edges.bound[..heads], &edges.target[..heads]);
        for at in 0..heads {
            let top = bound[at] + target[at];
            let limit = larger(top, edges.slope * top);
            first[at] = (top - limit).exp();
            second[at] = (edges.slope * top - limit).exp();
        }
        for (j, (row, &source)) in alpha.chunks_exact_mut(heads).zip(edges.rows.now).enumerate() {
            prefetch_row(edges.source, edges.rows, j, 2 * heads);
            let source = &edges.source[source as usize * 2 * heads..][..2 * heads];
            by_lanes::<T, HEADS, 1>([row], |at, _| {
                [larger(source[at] * first[at], source[heads + at] * second[at])]
            });
        }
        for head in (0..heads).step_by(LANES) {
            let count = if HEADS == 0 { (heads - head).min(LANES) } else { HEADS };
            let mut scale = [T::ZERO; LANES];
            for row in alpha.chunks_exact(heads) {
                let row = &row[head..][..count];
                for at in 0..count {
                    scale[at] += row[at];
                }
            }
            scale.iter_mut().for_each(|scale| *scale = T::ONE / *scale);
            for row in alpha.chunks_exact_mut(heads) {
                let row = &mut row[head..][..count];
                for at in 0..count {
                    row[at] *= scale[at];
                }
            }
            let (first, second) = (&mut first[head..][..count], &mut second[head..][..count]);
            for at in 0..count {
                first[at] *= scale[at];
                second[at] *= scale[at];
            }
        }
        if !kept.is_empty() {
            kept.copy_from_slice(factors);
        }
    }

    fn factored_adjoint_of[T: Real, const HEADS: usize][T, HEADS](
        edges: EdgeFactors<'_, T>, kept: &[T], grad: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let (first, second) = kept[..2 * heads].split_at(heads);
        for (row, &source) in grad.chunks_exact_mut(heads).zip(edges.rows.now) {
            let source = &edges.source[source as usize * 2 * heads..][..2 * heads];
            by_lanes::<T, HEADS, 1>([row], |at, [grad]| {
                let above = source[at] * first[at] > source[heads + at] * second[at];
                [grad * if above { T::ONE } else { edges.slope }]
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
                let d = alpha * (d - node[2 * heads + at]) * if first > second { T::ONE } else { edges.slope };
                [alpha, d, sum + d]
            });
        }
    }
}
