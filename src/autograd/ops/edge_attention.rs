//! What all attention over edges shares: scores become weights by a softmax over each node's edges, and weights mix
//! the neighbours' rows, whose columns are divided among the heads.
//!
//! Per node `v`, neighbour `u` and head: `alpha = softmax_u(s_vu)`, `out_v = sum_u alpha x_u`. Adjoint with `g` the
//! gradient of the result: `dalpha = <g_v, x_u>`, `ds = alpha (dalpha - sum alpha dalpha)`, `dx_u = sum_v alpha g_v`.
//! Only one number per edge and head is held, never a row per edge, and without a tape only those of one node.

#![forbid(unsafe_code)]

use crate::aggregate::per_row;
use crate::autograd::tape::record;
use crate::autograd::{Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::loops;
use crate::real::Real;
use crate::simd::Rows;
use crate::threads;
use std::ops::Range;
use std::sync::Arc;

/// Rows per task.
pub(super) const BAND: usize = 64;

/// How a row of `columns` values is divided.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) heads: usize,
    pub(super) columns: usize,
}

impl Heads {
    /// Fails unless `heads` divide `columns`.
    pub(super) fn new(heads: usize, columns: usize) -> Result<Self> {
        if heads == 0 || columns == 0 || !columns.is_multiple_of(heads) {
            return Err(Error::Config(format!("attention: {heads} heads do not divide {columns} columns")));
        }
        Ok(Self { heads, columns })
    }

    pub(super) fn width(self) -> usize {
        self.columns / self.heads
    }

    pub(super) fn row<T>(self, values: &[T], row: usize) -> &[T] {
        &values[row * self.columns..][..self.columns]
    }

    /// `out_i = sum over the edges of row i of weight x_j` per head; weights in the order of `graph`'s edges, or where
    /// `order` says.
    pub(super) fn sums<T: Real>(
        self,
        graph: &Graph,
        order: Option<&[u32]>,
        weights: &[T],
        x: &[T],
    ) -> Buffer<T> {
        let (heads, nodes) = (self.heads, graph.num_nodes());
        let mut out = Buffer::stale(nodes * self.columns);
        threads::for_each_chunk(&mut out, BAND * self.columns, |band, out| {
            let (first, last) = (band * BAND, nodes.min((band + 1) * BAND));
            let edges = graph.edges(first).start..graph.edges(last - 1).end;
            // Weights that stand elsewhere are fetched for the whole band at once: many loads are under way together.
            let mut arranged = Vec::new();
            let weights = match order {
                None => &weights[edges.start * heads..edges.end * heads],
                Some(order) => {
                    arranged.reserve(edges.len() * heads);
                    for &edge in &order[edges.clone()] {
                        arranged.extend_from_slice(&weights[edge as usize * heads..][..heads]);
                    }
                    &arranged
                }
            };
            for (row, out) in out.chunks_exact_mut(self.columns).enumerate() {
                let own = graph.edges(first + row);
                let rows = Rows::of(graph.indices(), own.clone());
                let own = (own.start - edges.start) * heads..(own.end - edges.start) * heads;
                T::head_sums(x, rows, &weights[own], heads, out);
            }
        });
        out
    }

    /// `out_e = <g_i, x_j>` per head, for each edge in row order.
    pub(super) fn dots<T: Real>(self, graph: &Graph, grad: &[T], x: &[T]) -> Buffer<T> {
        let mut out = Buffer::stale(graph.num_edges() * self.heads);
        per_row(graph, self.heads, &mut out, |row, edges, out| {
            T::head_dots(self.row(grad, row), x, Rows::of(graph.indices(), edges), self.heads, out);
        });
        out
    }

    /// The attention weights, one per edge and head: the softmax of what `score(row, edges, out)` writes.
    pub(super) fn weights<T: Real>(
        self,
        graph: &Graph,
        score: impl Fn(usize, Range<usize>, &mut [T]) + Sync,
    ) -> Buffer<T> {
        let mut alpha = Buffer::stale(graph.num_edges() * self.heads);
        per_row(graph, self.heads, &mut alpha, |row, edges, alpha| {
            score(row, edges, alpha);
            loops::softmax(alpha, self.heads);
        });
        alpha
    }

    /// Weights and sums of each node in turn, and `bias` added, for when no gradient is wanted.
    pub(super) fn attend<T: Real>(
        self,
        graph: &Graph,
        x: &[T],
        bias: Option<&[T]>,
        score: impl Fn(usize, Range<usize>, &mut [T]) + Sync,
    ) -> Buffer<T> {
        let mut out = Buffer::stale(graph.num_nodes() * self.columns);
        threads::for_each_chunk(&mut out, BAND * self.columns, |band, out| {
            let mut alpha = Vec::new();
            for (row, out) in out.chunks_exact_mut(self.columns).enumerate() {
                let edges = graph.edges(band * BAND + row);
                alpha.resize(edges.len() * self.heads, T::ZERO);
                score(band * BAND + row, edges.clone(), &mut alpha);
                loops::softmax(&mut alpha, self.heads);
                T::head_sums(x, Rows::of(graph.indices(), edges), &alpha, self.heads, out);
                if let Some(bias) = bias {
                    T::axpy(T::ONE, bias, out);
                }
            }
        });
        out
    }

    /// Turns the gradients of the weights into those of the scores.
    pub(super) fn score_gradients<T: Real>(self, graph: &Graph, alpha: &[T], grad: &mut [T]) {
        per_row(graph, self.heads, grad, |_, edges, grad| {
            loops::softmax_adjoint(grad, &alpha[edges.start * self.heads..][..grad.len()], self.heads);
        });
    }
}

/// Per source node, the sum over the edges that leave it of values per edge, `width` each in row order.
pub(super) fn sum_by_source<T: Real>(graph: &Graph, values: &[T], width: usize) -> Buffer<T> {
    let back = graph.transposed();
    let mut out = Buffer::stale(graph.num_sources() * width);
    threads::for_each_chunk(&mut out, BAND * width, |band, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            T::gather_sum(values, Rows::of(&back.order, back.graph.edges(band * BAND + row)), out);
        }
    });
    out
}

/// Per node, the sum of the values of its edges, `width` each in row order.
pub(super) fn sum_by_target<T: Real>(graph: &Graph, values: &[T], width: usize) -> Buffer<T> {
    let mut out = Buffer::zeros(graph.num_nodes() * width);
    threads::for_each_chunk(&mut out, BAND * width, |band, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let edges = graph.edges(band * BAND + row);
            for values in values[edges.start * width..edges.end * width].chunks_exact(width) {
                out.iter_mut().zip(values).for_each(|(sum, &value)| *sum += value);
            }
        }
    });
    out
}

impl<T: Real> Tensor<T> {
    /// Mixes the rows of `self (num_sources, heads * width)` by `weights (num_edges, heads)` in row order:
    /// `out_i,h = sum_j w_ij,h x_j,h`, `(num_nodes, heads * width)`.
    pub fn aggregate_heads(&self, graph: &Graph, weights: &Self) -> Result<Self> {
        let &[edges, heads] = weights.dims() else {
            let given = weights.shape();
            return Err(Error::Shape(format!(
                "aggregate: weights of shape {given}, expected (edges, heads)"
            )));
        };
        let columns = self.shape().columns();
        if edges != graph.num_edges() || *self.dims() != [graph.num_sources(), columns] {
            return Err(Error::Shape(format!(
                "aggregate: x {} and weights {} over a graph of {} sources and {} edges",
                self.shape(),
                weights.shape(),
                graph.num_sources(),
                graph.num_edges()
            )));
        }
        let split = Heads::new(heads, columns)?;
        let (x, w) = (self.values(), weights.values());
        let out = split.sums(graph, None, &w, &x);
        let shape = Shape::new(&[graph.num_nodes(), columns])?;
        let graph = graph.clone();
        Ok(record("aggregate", Arc::new(out), shape, [self, weights], move |grad, wanted| {
            let back = graph.transposed();
            [
                wanted[0].then(|| split.sums(&back.graph, Some(&back.order), &w, &grad)),
                wanted[1].then(|| split.dots(&graph, &grad, &x)),
            ]
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_to_rows_and_weights() {
        let graph = Graph::from_edges(&[0, 0, 0, 2, 2], &[1, 3, 3, 0, 1], 3, 4, None).unwrap();
        for heads in [1, 2, 3, 6] {
            let inputs = [random(&[4, 6], 0), random(&[5, heads], 1)];
            gradcheck(&inputs, |x| x[0].aggregate_heads(&graph, &x[1])).unwrap();
        }
        assert!(random(&[4, 6], 0).aggregate_heads(&graph, &random(&[5, 4], 1)).is_err());
        assert!(random(&[4, 6], 0).aggregate_heads(&graph, &random(&[4, 2], 1)).is_err());
    }
}
