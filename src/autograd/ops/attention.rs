//! Multi-head attention over neighbours (Vaswani et al. 2017, on a graph).
//!
//! Per node `v`, neighbour `u` and head: `s_vu = q_v k_u / sqrt(d)`, `alpha = softmax_u(s)`, `out_v = sum_u alpha v_u`.
//! Adjoint with `g` the gradient of the result: `dalpha = g_v v_u`, `ds = alpha (dalpha - sum alpha dalpha)`,
//! `dq_v = sum_u ds k_u / sqrt(d)`; over the transpose `dk_u = sum_v ds q_v / sqrt(d)` and `dv_u = sum_v alpha g_v`.
//! Only one number per edge and head is held, never a row per edge.

#![forbid(unsafe_code)]

use super::edge_softmax::{adjoint_rows, softmax_rows};
use crate::aggregate::per_row;
use crate::autograd::tape::{record, tracked};
use crate::autograd::{Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;
use crate::threads;
use std::sync::Arc;

/// Rows per task.
const BAND: usize = 64;

/// How a row of `columns` values is divided.
#[derive(Clone, Copy)]
struct Heads {
    heads: usize,
    columns: usize,
}

impl Heads {
    fn width(self) -> usize {
        self.columns / self.heads
    }

    fn scale<T: Real>(self) -> T {
        T::of((self.width() as f64).sqrt().recip())
    }

    fn row<T>(self, values: &[T], row: usize) -> &[T] {
        &values[row * self.columns..][..self.columns]
    }

    /// `out_h = <a_h, b_h>` per head.
    #[inline]
    fn dots<T: Real>(self, a: &[T], b: &[T], scale: T, out: &mut [T]) {
        let width = self.width();
        for ((a, b), out) in a.chunks_exact(width).zip(b.chunks_exact(width)).zip(out) {
            let mut lanes = [T::ZERO; 4];
            let (fours_a, rest_a) = a.as_chunks::<4>();
            let (fours_b, rest_b) = b.as_chunks::<4>();
            for (a, b) in fours_a.iter().zip(fours_b) {
                (0..4).for_each(|lane| lanes[lane] += a[lane] * b[lane]);
            }
            rest_a.iter().zip(rest_b).for_each(|(&a, &b)| lanes[0] += a * b);
            *out = ((lanes[0] + lanes[2]) + (lanes[1] + lanes[3])) * scale;
        }
    }

    /// `out_h += weight_h x_h` per head.
    #[inline]
    fn add<T: Real>(self, weights: &[T], x: &[T], out: &mut [T]) {
        let width = self.width();
        for ((out, x), &weight) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(weights) {
            out.iter_mut().zip(x).for_each(|(out, &x)| *out += weight * x);
        }
    }

    /// `out_i = sum over the edges of row i of weight x_j` per head, weights in the order of `graph`'s edges, or where
    /// `order` says; times `scale`.
    fn gather<T: Real>(
        self,
        graph: &Graph,
        order: Option<&[u32]>,
        weights: &[T],
        x: &[T],
        scale: T,
    ) -> Buffer<T> {
        let mut out = Buffer::stale(graph.num_nodes() * self.columns);
        threads::for_each_chunk(&mut out, BAND * self.columns, |band, out| {
            for (row, out) in out.chunks_exact_mut(self.columns).enumerate() {
                out.fill(T::ZERO);
                for edge in graph.edges(band * BAND + row) {
                    let at = order.map_or(edge, |order| order[edge] as usize) * self.heads;
                    let x = self.row(x, graph.indices()[edge] as usize);
                    self.add(&weights[at..at + self.heads], x, out);
                }
                if scale != T::ONE {
                    out.iter_mut().for_each(|value| *value *= scale);
                }
            }
        });
        out
    }
}

impl<T: Real> Tensor<T> {
    /// Attention of the queries `self (num_nodes, d)` over `keys` and `values (num_sources, d)` of each node's
    /// neighbours, in `heads` equal parts of `d`: `(num_nodes, d)`, zero for a node without neighbours.
    pub fn neighbor_attention(
        &self,
        keys: &Self,
        values: &Self,
        graph: &Graph,
        heads: usize,
    ) -> Result<Self> {
        let columns = self.shape().columns();
        let sources = [graph.num_sources(), columns];
        if *self.dims() != [graph.num_nodes(), columns]
            || *keys.dims() != sources
            || *values.dims() != sources
        {
            return Err(Error::Shape(format!(
                "attention: queries {}, keys {} and values {} over a graph of {} nodes",
                self.shape(),
                keys.shape(),
                values.shape(),
                graph.num_nodes()
            )));
        }
        if heads == 0 || columns == 0 || !columns.is_multiple_of(heads) {
            return Err(Error::Config(format!("attention: {heads} heads do not divide {columns} columns")));
        }
        let split = Heads { heads, columns };
        let (q, k, v) = (self.values(), keys.values(), values.values());
        let mut out = Buffer::stale(q.len());
        let parents = [self, keys, values];
        let alpha = if tracked(&parents) {
            let alpha = weights(split, graph, &q, &k);
            out = split.gather(graph, None, &alpha, &v, T::ONE);
            alpha
        } else {
            attend(split, graph, [&q, &k, &v], &mut out);
            Buffer::default()
        };
        let shape = Shape::new(&[graph.num_nodes(), columns])?;
        let graph = graph.clone();
        Ok(record("attention", Arc::new(out), shape, parents, move |grad, wanted| {
            let ds = score_gradients(split, &graph, &alpha, &v, &grad);
            let (scale, back) = (split.scale(), graph.transposed());
            let order = Some(&back.order[..]);
            [
                wanted[0].then(|| split.gather(&graph, None, &ds, &k, scale)),
                wanted[1].then(|| split.gather(&back.graph, order, &ds, &q, scale)),
                wanted[2].then(|| split.gather(&back.graph, order, &alpha, &grad, T::ONE)),
            ]
        }))
    }
}

/// The attention weights, one per edge and head.
fn weights<T: Real>(split: Heads, graph: &Graph, q: &[T], k: &[T]) -> Buffer<T> {
    let mut alpha = Buffer::stale(graph.num_edges() * split.heads);
    per_row(graph, split.heads, &mut alpha, |row, edges, alpha| {
        let query = split.row(q, row);
        for (edge, scores) in edges.zip(alpha.chunks_exact_mut(split.heads)) {
            split.dots(query, split.row(k, graph.indices()[edge] as usize), split.scale(), scores);
        }
        softmax_rows(alpha, split.heads);
    });
    alpha
}

/// Without a tape: scores live only as long as their node's turn.
fn attend<T: Real>(split: Heads, graph: &Graph, [q, k, v]: [&[T]; 3], out: &mut [T]) {
    threads::for_each_chunk(out, BAND * split.columns, |band, out| {
        let mut scores = Vec::new();
        for (row, out) in out.chunks_exact_mut(split.columns).enumerate() {
            let (node, neighbors) = (band * BAND + row, graph.neighbors(band * BAND + row));
            scores.resize(neighbors.len() * split.heads, T::ZERO);
            for (&u, scores) in neighbors.iter().zip(scores.chunks_exact_mut(split.heads)) {
                split.dots(split.row(q, node), split.row(k, u as usize), split.scale(), scores);
            }
            softmax_rows(&mut scores, split.heads);
            out.fill(T::ZERO);
            for (&u, weights) in neighbors.iter().zip(scores.chunks_exact(split.heads)) {
                split.add(weights, split.row(v, u as usize), out);
            }
        }
    });
}

/// The gradients of the scores, before their scaling.
fn score_gradients<T: Real>(split: Heads, graph: &Graph, alpha: &[T], v: &[T], grad: &[T]) -> Buffer<T> {
    let mut ds = Buffer::stale(alpha.len());
    per_row(graph, split.heads, &mut ds, |row, edges, ds| {
        let (grad, start) = (split.row(grad, row), edges.start * split.heads);
        for (edge, ds) in edges.zip(ds.chunks_exact_mut(split.heads)) {
            split.dots(grad, split.row(v, graph.indices()[edge] as usize), T::ONE, ds);
        }
        adjoint_rows(ds, &alpha[start..][..ds.len()], split.heads);
    });
    ds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::autograd::no_grad;

    #[test]
    fn gradients_to_queries_keys_and_values() {
        let graph = Graph::from_edges(&[0, 0, 0, 2, 2], &[1, 3, 3, 0, 1], 3, 4, None).unwrap();
        let inputs = [random(&[3, 6], 0), random(&[4, 6], 1), random(&[4, 6], 2)];
        for heads in [1, 2, 6] {
            gradcheck(&inputs, |x| x[0].neighbor_attention(&x[1], &x[2], &graph, heads)).unwrap();
        }
    }

    #[test]
    fn both_ways_agree_and_heads_must_divide() {
        let graph = Graph::from_edges(&[0, 0, 2], &[1, 2, 0], 3, 3, None).unwrap();
        let x = [random(&[3, 6], 0), random(&[3, 6], 1), random(&[3, 6], 2)];
        let recorded = x[0].neighbor_attention(&x[1], &x[2], &graph, 2).unwrap().to_vec();
        assert_eq!(recorded[6..12], [0.0; 6], "node 1 has no neighbours");
        assert!(x[0].neighbor_attention(&x[1], &x[2], &graph, 4).is_err());
        let _guard = no_grad();
        assert_eq!(x[0].neighbor_attention(&x[1], &x[2], &graph, 2).unwrap().to_vec(), recorded);
    }
}
