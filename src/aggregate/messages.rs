//! The largest and the softmax-weighted message of each node's neighbours, column by column, and their adjoints.
//!
//! The message of an edge is `m_ij = w_ij x_j`. Both aggregations have a slope `dout_i / dm_ij` that follows from the
//! message and two rows kept per node, so nothing is held per edge, and one pair of adjoints serves both.

#![forbid(unsafe_code)]

use super::{BAND, per_row};
use crate::graph::Graph;
use crate::loops;
use crate::memory;
use crate::real::{Real, larger, largest};
use crate::simd::Rows;
use crate::threads;

/// `out_i = max_j w_ij x_j`, 0 without neighbours; weights in row order, 1 when `None`.
///
/// # Panics
/// If lengths disagree.
pub fn max<T: Real>(graph: &Graph, weights: Option<&[T]>, x: &[T], columns: usize, out: &mut [T]) {
    each_node(graph, columns, out, |node, out| {
        let Some(weights) = weights else {
            return T::gather_max(x, Rows::of(graph.indices(), graph.edges(node)), out);
        };
        let edges = graph.edges(node);
        out.fill(if edges.is_empty() { T::ZERO } else { T::of(f64::NEG_INFINITY) });
        for edge in edges {
            let x = &x[graph.indices()[edge] as usize * columns..][..columns];
            out.iter_mut().zip(x).for_each(|(best, &x)| *best = largest(*best, weights[edge] * x));
        }
    });
}

/// Divides each gradient of [`max`]'s result `best` by the number of messages that reach the maximum.
pub fn share_among_largest<T: Real>(
    graph: &Graph,
    weights: Option<&[T]>,
    x: &[T],
    best: &[T],
    columns: usize,
    grad: &mut [T],
) {
    if columns == 0 {
        return;
    }
    threads::for_each_chunk(grad, BAND * columns, |band, grad| {
        let mut ties = memory::vec![T::ZERO; columns];
        for (row, grad) in grad.chunks_exact_mut(columns).enumerate() {
            let node = band * BAND + row;
            let best = &best[node * columns..][..columns];
            match weights {
                None => {
                    let rows = Rows::of(graph.indices(), graph.edges(node));
                    T::gather_where_equal(x, None, rows, best, &mut ties);
                }
                Some(weights) => count_largest(graph, weights, x, node, best, &mut ties),
            }
            grad.iter_mut().zip(&ties).for_each(|(g, &ties)| *g = *g / larger(ties, T::ONE));
        }
    });
}

/// Per column, how many weighted messages of `node` equal `best`.
fn count_largest<T: Real>(graph: &Graph, weights: &[T], x: &[T], node: usize, best: &[T], ties: &mut [T]) {
    ties.fill(T::ZERO);
    for edge in graph.edges(node) {
        let x = &x[graph.indices()[edge] as usize * best.len()..];
        for ((ties, &x), &best) in ties.iter_mut().zip(x).zip(best) {
            *ties += if weights[edge] * x == best { T::ONE } else { T::ZERO };
        }
    }
}

/// The gradient of `x` in an unweighted [`max`] with result `best`: the shares of the nodes that it is the largest of.
pub fn max_adjoint<T: Real>(graph: &Graph, x: &[T], best: &[T], shares: &[T], columns: usize, out: &mut [T]) {
    let back = &graph.transposed().graph;
    each_node(back, columns, out, |source, out| {
        let own = &x[source * columns..][..columns];
        let rows = Rows::of(back.indices(), back.edges(source));
        T::gather_where_equal(best, Some(shares), rows, own, out);
    });
}

/// `out_i = sum_j a_ij m_ij` with `a_ij = e^m_ij / sum_k e^m_ik` (Li et al. 2020, temperature 1), 0 without neighbours;
/// `logs` gets `ln sum_k e^m_ik`.
///
/// # Panics
/// If lengths disagree.
pub fn softmax<T: Real>(
    graph: &Graph,
    weights: Option<&[T]>,
    x: &[T],
    columns: usize,
    out: &mut [T],
    logs: &mut [T],
) {
    max(graph, weights, x, columns, logs);
    if columns == 0 {
        return;
    }
    let mut bands: Vec<(&mut [T], &mut [T])> =
        memory::collect(out.chunks_mut(BAND * columns).zip(logs.chunks_mut(BAND * columns)));
    threads::for_each_chunk(&mut bands, 1, |band, bands| {
        let mut total = memory::vec![T::ZERO; columns];
        for (out, logs) in bands {
            let rows = out.chunks_exact_mut(columns).zip(logs.chunks_exact_mut(columns));
            for (row, (out, logs)) in rows.enumerate() {
                out.fill(T::ZERO);
                total.fill(T::ZERO);
                for edge in graph.edges(band * BAND + row) {
                    let x = &x[graph.indices()[edge] as usize * columns..][..columns];
                    let weight = weights.map_or(T::ONE, |weights| weights[edge]);
                    loops::add_message(weight, x, logs, out, &mut total);
                }
                for ((out, log), &total) in out.iter_mut().zip(logs).zip(&total) {
                    if total > T::ZERO {
                        *out = *out / total;
                        *log += total.ln();
                    }
                }
            }
        }
    });
}

/// The gradient of `x` where `dout_i / dm_ij = slope(m_ij, first_i, second_i)`, each a row of `columns` values per node.
pub fn adjoint<T: Real>(
    graph: &Graph,
    weights: Option<&[T]>,
    (x, grad): (&[T], &[T]),
    kept: [&[T]; 2],
    columns: usize,
    slope: impl Fn(T, T, T) -> T + Sync,
    out: &mut [T],
) {
    let back = graph.transposed();
    each_node(&back.graph, columns, out, |source, out| {
        out.fill(T::ZERO);
        let x = &x[source * columns..][..columns];
        for edge in back.graph.edges(source) {
            let start = back.graph.indices()[edge] as usize * columns;
            let weight = weights.map_or(T::ONE, |weights| weights[back.order[edge] as usize]);
            let [grad, first, second] = [grad, kept[0], kept[1]].map(|values| &values[start..][..columns]);
            loops::add_slopes(weight, [x, grad, first, second], &slope, out);
        }
    });
}

/// As [`adjoint`], of the weights: `out_ij = sum over the columns of x_j g_i slope`.
pub fn weights_adjoint<T: Real>(
    graph: &Graph,
    weights: &[T],
    (x, grad): (&[T], &[T]),
    kept: [&[T]; 2],
    columns: usize,
    slope: impl Fn(T, T, T) -> T + Sync,
    out: &mut [T],
) {
    per_row(graph, 1, out, |node, edges, out| {
        for (edge, out) in edges.zip(out) {
            let x = &x[graph.indices()[edge] as usize * columns..][..columns];
            let places = node * columns..(node + 1) * columns;
            *out = T::ZERO;
            for (&x, at) in x.iter().zip(places) {
                *out += x * grad[at] * slope(weights[edge] * x, kept[0][at], kept[1][at]);
            }
        }
    });
}

/// `f(node, its row)` for all rows of `columns` values, in fixed bands.
fn each_node<T: Real>(graph: &Graph, columns: usize, rows: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    assert_eq!(rows.len(), graph.num_nodes() * columns, "aggregate: {} nodes", graph.num_nodes());
    if columns == 0 {
        return;
    }
    threads::for_each_chunk(rows, BAND * columns, |band, rows| {
        rows.chunks_exact_mut(columns).enumerate().for_each(|(row, values)| f(band * BAND + row, values));
    });
}
