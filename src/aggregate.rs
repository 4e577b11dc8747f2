//! Sums over neighbours, the work that every layer rests on, and their adjoints.
//!
//! With `out_i = sum_j w_ij x_j`, the gradient of `x` is the same sum over the transpose, which the graph keeps, and
//! that of an edge's weight is `<g_i, x_j>`. Rows are shared out in fixed bands and summed in the order of their
//! edges, so the bits do not depend on the number of threads.

#![forbid(unsafe_code)]

pub mod messages;

use crate::buffer::Buffer;
use crate::graph::Graph;
use crate::memory;
use crate::real::Real;
use crate::simd::Rows;
use crate::threads;

/// Rows per task: small, because degrees differ.
const BAND: usize = 128;

/// What the sums of [`onto`] are added to.
#[derive(Clone, Copy, Debug)]
pub enum Base<'a, T> {
    /// Nothing.
    Zero,
    /// The same row for every node: a bias.
    Row(&'a [T]),
    /// A row per node.
    Rows(&'a [T]),
    /// What `out` holds.
    Out,
}

/// `out_i = sum_j w_ij x_j`: `x` holds `columns` values per source, `out` per node; weights are in row order, and 1
/// when `None` (the graph's own are not looked at).
///
/// # Panics
/// If lengths disagree.
pub fn sum<T: Real>(graph: &Graph, weights: Option<&[T]>, x: &[T], columns: usize, out: &mut [T]) {
    onto(graph, weights, x, columns, (false, Base::Zero), out);
}

/// As [`sum`], divided by the number of the node's edges if `mean`, and added to `base`: each row is finished while it
/// is in the cache.
///
/// # Panics
/// If lengths disagree.
pub fn onto<T: Real>(
    graph: &Graph,
    weights: Option<&[T]>,
    x: &[T],
    columns: usize,
    (mean, base): (bool, Base<'_, T>),
    out: &mut [T],
) {
    assert_eq!(x.len(), graph.num_sources() * columns, "aggregate: {} sources", graph.num_sources());
    assert_eq!(out.len(), graph.num_nodes() * columns, "aggregate: {} nodes", graph.num_nodes());
    assert!(weights.is_none_or(|weights| weights.len() == graph.num_edges()), "aggregate: weights");
    if columns == 0 {
        return;
    }
    threads::for_each_chunk(out, BAND * columns, |band, out| {
        let mut held = if let Base::Out = base { memory::vec![T::ZERO; columns] } else { Vec::new() };
        for (row, out) in out.chunks_exact_mut(columns).enumerate() {
            let node = band * BAND + row;
            let edges = graph.edges(node);
            let (neighbors, degree) = (Rows::of(graph.indices(), edges.clone()), edges.len());
            if let Base::Out = base {
                held.copy_from_slice(out);
            }
            match weights {
                None => T::gather_sum(x, neighbors, out),
                Some(weights) => T::gather_weighted_sum(x, neighbors, &weights[edges], out),
            }
            let scale = if mean && degree > 1 { T::ONE / T::of(degree as f64) } else { T::ONE };
            match base {
                Base::Zero if scale == T::ONE => {}
                Base::Zero => out.iter_mut().for_each(|value| *value *= scale),
                Base::Row(base) => finish(out, scale, base),
                Base::Rows(base) => finish(out, scale, &base[node * columns..][..columns]),
                Base::Out => finish(out, scale, &held),
            }
        }
    });
}

/// `out = scale out + base`.
fn finish<T: Real>(out: &mut [T], scale: T, base: &[T]) {
    out.iter_mut().zip(base).for_each(|(out, &base)| *out = *out * scale + base);
}

/// Divides each node's row by its number of edges; rows of nodes without edges are left alone.
pub fn divide_by_degree<T: Real>(graph: &Graph, columns: usize, rows: &mut [T]) {
    by_degree(graph, columns, rows, |_, values, scale| values.iter_mut().for_each(|value| *value *= scale));
}

/// As [`divide_by_degree`], elsewhere.
pub fn divided_by_degree<T: Real>(graph: &Graph, columns: usize, rows: &[T]) -> Buffer<T> {
    let mut out = Buffer::stale(rows.len());
    by_degree(graph, columns, &mut out, |node, out, scale| {
        let row = &rows[node * columns..][..columns];
        out.iter_mut().zip(row).for_each(|(out, &value)| *out = value * scale);
    });
    out
}

/// `f(node, its row, 1 / its number of edges)`, 1 for a node without edges.
fn by_degree<T: Real>(graph: &Graph, columns: usize, rows: &mut [T], f: impl Fn(usize, &mut [T], T) + Sync) {
    if columns == 0 {
        return;
    }
    threads::for_each_chunk(rows, BAND * columns, |band, rows| {
        for (row, values) in rows.chunks_exact_mut(columns).enumerate() {
            let node = band * BAND + row;
            f(node, values, T::ONE / T::of(graph.edges(node).len().max(1) as f64));
        }
    });
}

/// The gradient of `x` in [`sum`], from the gradient `grad` of its result.
pub fn sum_adjoint<T: Real>(graph: &Graph, weights: Option<&[T]>, grad: &[T], columns: usize, out: &mut [T]) {
    let transposed = graph.transposed();
    let weights: Option<Vec<T>> =
        weights.map(|weights| memory::collect(transposed.order.iter().map(|&edge| weights[edge as usize])));
    sum(&transposed.graph, weights.as_deref(), grad, columns, out);
}

/// The gradient of the weights in [`sum`]: `out_ij = <g_i, x_j>` per edge in row order.
pub fn weights_adjoint<T: Real>(graph: &Graph, x: &[T], grad: &[T], columns: usize, out: &mut [T]) {
    per_row(graph, 1, out, |row, edges, out| {
        let grad = &grad[row * columns..][..columns];
        T::head_dots(grad, x, Rows::of(graph.indices(), edges), 1, out);
    });
}

/// `f(row, edges, values of the edges)` for every row, over `width` values per edge in row order.
pub(crate) fn per_row<V: Send>(
    graph: &Graph,
    width: usize,
    values: &mut [V],
    f: impl Fn(usize, std::ops::Range<usize>, &mut [V]) + Sync,
) {
    assert_eq!(values.len(), graph.num_edges() * width, "aggregate: {} edges", graph.num_edges());
    let (mut bands, mut rest) = (Vec::new(), values);
    for first in (0..graph.num_nodes()).step_by(BAND) {
        let last = (first + BAND).min(graph.num_nodes());
        let edges = graph.indptr()[last] - graph.indptr()[first];
        let (band, behind) = rest.split_at_mut(edges * width);
        memory::push(&mut bands, (first..last, band));
        rest = behind;
    }
    threads::for_each_chunk(&mut bands, 1, |_, band| {
        for (rows, values) in band {
            let start = graph.indptr()[rows.start];
            for row in rows.clone() {
                let edges = graph.edges(row);
                f(
                    row,
                    edges.clone(),
                    &mut values[(edges.start - start) * width..(edges.end - start) * width],
                );
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use proptest::prelude::*;

    fn random(len: usize, seed: u64, index: u64) -> Vec<f64> {
        let mut draws = rng::stream(seed, "aggregate-test", index);
        (0..len).map(|_| draws.normal()).collect()
    }

    fn graph(nodes: usize, sources: usize, edges: usize, seed: u64) -> Graph {
        let mut draws = rng::stream(seed, "aggregate-test", 9);
        let targets: Vec<u32> = (0..edges).map(|_| draws.below(nodes as u64) as u32).collect();
        let from: Vec<u32> = (0..edges).map(|_| draws.below(sources as u64) as u32).collect();
        Graph::from_edges(&targets, &from, nodes, sources, None).unwrap()
    }

    proptest! {
        #[test]
        fn sums_and_adjoints_match_the_edge_by_edge_definition(
            nodes in 1usize..300, sources in 1usize..20, edges in 0usize..400, columns in 0usize..20, seed in 0u64..99,
        ) {
            let graph = graph(nodes, sources, edges, seed);
            let (x, g, w) =
                (random(sources * columns, seed, 0), random(nodes * columns, seed, 1), random(edges, seed, 2));
            let (mut out, mut back, mut weights) =
                (vec![0.0; nodes * columns], vec![0.0; sources * columns], vec![0.0; edges]);
            for (edge, (&i, &j)) in graph.targets().iter().zip(graph.indices()).enumerate() {
                for c in 0..columns {
                    let (i, j) = (i as usize * columns + c, j as usize * columns + c);
                    out[i] += w[edge] * x[j];
                    back[j] += w[edge] * g[i];
                    weights[edge] += g[i] * x[j];
                }
            }
            let close = |got: &[f64], expected: &[f64]| got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
            let mut got = vec![f64::NAN; nodes * columns];
            sum(&graph, Some(&w), &x, columns, &mut got);
            prop_assert!(close(&got, &out));
            let mut got = vec![f64::NAN; sources * columns];
            sum_adjoint(&graph, Some(&w), &g, columns, &mut got);
            prop_assert!(close(&got, &back));
            let mut got = vec![f64::NAN; edges];
            weights_adjoint(&graph, &x, &g, columns, &mut got);
            prop_assert!(close(&got, &weights));
        }
    }
}
