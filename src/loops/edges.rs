//! Scores of additive attention over edges, from the terms of sources, targets and edges, and their adjoints.

use super::{LANES, lone, sum};
use crate::real::Real;
use crate::simd::{Rows, prefetch, rows_ahead};

/// As [`by_heads`], by the width of a head.
macro_rules! by_width {
    ($width:expr, $f:ident($($argument:expr),*)) => {
        match $width {
            8 => $f::<T, 8>($($argument),*, 8),
            16 => $f::<T, 16>($($argument),*, 16),
            32 => $f::<T, 32>($($argument),*, 32),
            64 => $f::<T, 64>($($argument),*, 64),
            width => $f::<T, 0>($($argument),*, width),
        }
    };
}

/// The terms of the edges of one node: `source[rows_j] + target (+ own_j)`, `width` values each.
#[derive(Clone, Copy)]
pub struct EdgeTerms<'a, T> {
    /// Rows of sources, which begin with their terms.
    pub source: &'a [T],
    /// From one such row to the next.
    pub stride: usize,
    /// The sources of the edges.
    pub rows: Rows<'a>,
    /// The row of the node.
    pub target: &'a [T],
    /// A row per edge.
    pub own: Option<&'a [T]>,
    /// Of the leaky rectifier `l`.
    pub slope: T,
}

impl<T: Real> EdgeTerms<'_, T> {
    /// `f(term, at)` for the `width` terms of edge `j`.
    #[inline(always)]
    fn each(&self, j: usize, width: usize, mut f: impl FnMut(T, usize)) {
        let source = &self.source[self.rows.now[j] as usize * self.stride..][..width];
        let target = &self.target[..width];
        match self.own {
            None => {
                for at in 0..width {
                    f(source[at] + target[at], at);
                }
            }
            Some(own) => {
                let own = &own[j * width..][..width];
                for at in 0..width {
                    f(source[at] + target[at] + own[at], at);
                }
            }
        }
    }

    /// Asks for a row some edges ahead.
    #[inline(always)]
    fn prefetch(&self, j: usize, width: usize) {
        if let Some(row) = self.rows.ahead(j + rows_ahead(width)) {
            for at in (0..width).step_by(LANES) {
                prefetch(self.source, row as usize * self.stride + at);
            }
        }
    }
}

/// The edges that leave one source, whose weights are made again for the backward pass.
#[derive(Clone, Copy)]
pub struct LeavingEdges<'a, T> {
    /// The term of the source, a value per head.
    pub source: &'a [T],
    /// Per node and head its term, its largest score, the scale of its weights and `sum alpha dalpha` or [`lone`], four rows
    /// of `heads`.
    pub nodes: &'a [T],
    /// The nodes that the edges enter.
    pub rows: Rows<'a>,
    /// The terms of the edges themselves.
    pub own: Option<&'a [T]>,
    /// Of the leaky rectifier.
    pub slope: T,
}

impl<'a, T: Real> LeavingEdges<'a, T> {
    /// What is known of the node that edge `j` enters, and `f(term, at)` for the terms of the edge.
    #[inline(always)]
    fn each(&self, j: usize, heads: usize, mut f: impl FnMut(&'a [T], T, usize)) {
        let node = &self.nodes[self.rows.now[j] as usize * 4 * heads..][..4 * heads];
        let source = &self.source[..heads];
        match self.own {
            None => {
                for at in 0..heads {
                    f(node, source[at] + node[at], at);
                }
            }
            Some(own) => {
                let own = &own[j * heads..][..heads];
                for at in 0..heads {
                    f(node, source[at] + node[at] + own[at], at);
                }
            }
        }
    }
}

/// `alpha_jh = exp(l(term_jh) - largest_h) scale_h`: the weights of the edges.
pub fn weights_again<T: Real>(edges: LeavingEdges<'_, T>, alpha: &mut [T]) {
    by_heads!(edges.source.len(), weights_again_of(edges, alpha));
}

/// Turns the gradients of the weights into those of the terms, `d_jh = alpha_jh (d_jh - sum_h) l'(term_jh)`, and `out_h =
/// sum_j d_jh`.
pub fn weights_again_adjoint<T: Real>(edges: LeavingEdges<'_, T>, alpha: &[T], d: &mut [T], out: &mut [T]) {
    by_heads!(edges.source.len(), weights_again_adjoint_of(edges, alpha, d, out));
}

/// `scores_j = l(terms_j)`, a score per column.
pub fn leaky<T: Real>(terms: EdgeTerms<'_, T>, scores: &mut [T]) {
    by_heads!(terms.target.len(), leaky_of(terms, scores));
}

/// `grad_j *= l'(terms_j)`.
pub fn leaky_adjoint<T: Real>(terms: EdgeTerms<'_, T>, grad: &mut [T]) {
    by_heads!(terms.target.len(), leaky_adjoint_of(terms, grad));
}

/// `scores_jh = sum_c weight_hc l(terms_j)_hc`, the columns divided among the heads; `room` holds a row.
pub fn weighed_leaky<T: Real>(
    terms: EdgeTerms<'_, T>,
    weight: &[T],
    width: usize,
    room: &mut [T],
    scores: &mut [T],
) {
    by_width!(width, weighed_leaky_of(terms, weight, room, scores));
}

/// `out_hc += sum_j ds_jh l(terms_j)_hc`: the gradient of the weight.
pub fn weighed_leaky_to_weight<T: Real>(
    terms: EdgeTerms<'_, T>,
    ds: &[T],
    width: usize,
    room: &mut [T],
    out: &mut [T],
) {
    by_width!(width, weighed_leaky_to_weight_of(terms, ds, room, out));
}

/// `out_hc += sum_j ds_jh weight_hc l'(terms_j)_hc`: the gradient of the term that the edges share.
pub fn weighed_leaky_to_terms<T: Real>(
    terms: EdgeTerms<'_, T>,
    weight: &[T],
    ds: &[T],
    width: usize,
    room: &mut [T],
    out: &mut [T],
) {
    by_width!(width, weighed_leaky_to_terms_of(terms, weight, ds, room, out));
}

/// `out_hc += ds_h x_hc`.
#[inline(always)]
fn add_by_head<T: Real>(ds: &[T], x: &[T], out: &mut [T], width: usize) {
    for ((out, x), &ds) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(ds) {
        for at in 0..width {
            out[at] += ds * x[at];
        }
    }
}

#[inline(always)]
fn rectified<T: Real>(x: T, slope: T) -> T {
    if x > T::ZERO { x } else { x * slope }
}

#[inline(always)]
fn slope_at<T: Real>(x: T, slope: T) -> T {
    if x > T::ZERO { T::ONE } else { slope }
}

vectorized! {
    fn leaky_of[T: Real, const HEADS: usize][T, HEADS](terms: EdgeTerms<'_, T>, scores: &mut [T], heads: usize) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        for (j, row) in scores.chunks_exact_mut(heads).enumerate() {
            terms.prefetch(j, heads);
            terms.each(j, heads, |term, at| row[at] = rectified(term, terms.slope));
        }
    }

    fn leaky_adjoint_of[T: Real, const HEADS: usize][T, HEADS](
        terms: EdgeTerms<'_, T>, grad: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        for (j, row) in grad.chunks_exact_mut(heads).enumerate() {
            terms.prefetch(j, heads);
            terms.each(j, heads, |term, at| row[at] *= slope_at(term, terms.slope));
        }
    }

    fn weights_again_of[T: Real, const HEADS: usize][T, HEADS](
        edges: LeavingEdges<'_, T>, alpha: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        for (j, row) in alpha.chunks_exact_mut(heads).enumerate() {
            if let Some(node) = edges.rows.ahead(j + rows_ahead(4 * heads)) {
                let start = node as usize * 4 * heads;
                for at in (0..4 * heads).step_by(LANES) {
                    prefetch(edges.nodes, start + at);
                }
            }
            edges.each(j, heads, |node, term, at| row[at] = rectified(term, edges.slope) - node[heads + at]);
        }
        for value in alpha.iter_mut() {
            *value = value.exp();
        }
        for (row, &node) in alpha.chunks_exact_mut(heads).zip(edges.rows.now) {
            let scale = &edges.nodes[(node as usize * 4 + 2) * heads..][..heads];
            for at in 0..heads {
                row[at] *= scale[at];
            }
        }
    }

    fn weights_again_adjoint_of[T: Real, const HEADS: usize][T, HEADS](
        edges: LeavingEdges<'_, T>, alpha: &[T], d: &mut [T], out: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let out = &mut out[..heads];
        out.fill(T::ZERO);
        for (j, (d, alpha)) in d.chunks_exact_mut(heads).zip(alpha.chunks_exact(heads)).enumerate() {
            edges.each(j, heads, |node, term, at| {
                let inner = node[3 * heads + at];
                let of_term = alpha[at] * (d[at] - inner) * slope_at(term, edges.slope);
                d[at] = if inner == lone() { T::ZERO } else { of_term };
                out[at] += d[at];
            });
        }
    }

    fn weighed_leaky_of[T: Real, const WIDTH: usize][T, WIDTH](
        terms: EdgeTerms<'_, T>, weight: &[T], room: &mut [T], scores: &mut [T], width: usize
    ) {
        let width = if WIDTH == 0 { width } else { WIDTH };
        let room = &mut room[..weight.len()];
        for (j, scores) in scores.chunks_exact_mut(weight.len() / width).enumerate() {
            terms.prefetch(j, weight.len());
            terms.each(j, weight.len(), |term, at| room[at] = rectified(term, terms.slope) * weight[at]);
            for (score, part) in scores.iter_mut().zip(room.chunks_exact(width)) {
                *score = sum(part);
            }
        }
    }

    fn weighed_leaky_to_weight_of[T: Real, const WIDTH: usize][T, WIDTH](
        terms: EdgeTerms<'_, T>, ds: &[T], room: &mut [T], out: &mut [T], width: usize
    ) {
        let width = if WIDTH == 0 { width } else { WIDTH };
        let room = &mut room[..out.len()];
        for (j, ds) in ds.chunks_exact(out.len() / width).enumerate() {
            terms.prefetch(j, out.len());
            terms.each(j, out.len(), |term, at| room[at] = rectified(term, terms.slope));
            add_by_head(ds, room, out, width);
        }
    }

    fn weighed_leaky_to_terms_of[T: Real, const WIDTH: usize][T, WIDTH](
        terms: EdgeTerms<'_, T>, weight: &[T], ds: &[T], room: &mut [T], out: &mut [T], width: usize
    ) {
        let width = if WIDTH == 0 { width } else { WIDTH };
        let room = &mut room[..weight.len()];
        for (j, ds) in ds.chunks_exact(weight.len() / width).enumerate() {
            terms.prefetch(j, weight.len());
            terms.each(j, weight.len(), |term, at| room[at] = weight[at] * slope_at(term, terms.slope));
            add_by_head(ds, room, out, width);
        }
    }

    /// `out_jhc = ds_jh weight_hc l'(terms_j)_hc`: the gradients of the edges' own terms.
    pub fn weighed_leaky_to_edges[T: Real][T](
        terms: EdgeTerms<'_, T>, weight: &[T], ds: &[T], width: usize, out: &mut [T]
    ) {
        let columns = weight.len();
        let rows = out.chunks_exact_mut(columns).zip(ds.chunks_exact(columns / width));
        for (j, (out, ds)) in rows.enumerate() {
            terms.each(j, columns, |term, at| out[at] = weight[at] * slope_at(term, terms.slope));
            for (out, &ds) in out.chunks_exact_mut(width).zip(ds) {
                out.iter_mut().for_each(|out| *out *= ds);
            }
        }
    }
}
