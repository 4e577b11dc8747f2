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
use crate::memory;
use crate::real::Real;
use crate::simd::{HeadPlan, Rows, prefetch};
use crate::threads;
use std::ops::Range;
use std::sync::Arc;

/// Rows per task.
pub(super) const BAND: usize = 64;

/// Edges whose values are asked for ahead of their turn.
const AHEAD: usize = 32;

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
        let plan = HeadPlan::new(heads, self.columns);
        threads::for_each_chunk(&mut out, BAND * self.columns, |band, out| {
            let (first, last) = (band * BAND, nodes.min((band + 1) * BAND));
            let edges = graph.edges(first).start..graph.edges(last - 1).end;
            let mut arranged = Vec::new();
            let weights = match order {
                None => &weights[edges.start * heads..edges.end * heads],
                Some(order) => {
                    arrange(&order[edges.clone()], weights, heads, &mut arranged);
                    &arranged
                }
            };
            for (row, out) in out.chunks_exact_mut(self.columns).enumerate() {
                let own = graph.edges(first + row);
                let rows = Rows::of(graph.indices(), own.clone());
                let own = (own.start - edges.start) * heads..(own.end - edges.start) * heads;
                T::head_sums(x, rows, &weights[own], &plan, out);
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

    /// The attention weights, one per edge and head, that `weigh(row, edges, out)` writes.
    pub(super) fn weights<T: Real>(
        self,
        graph: &Graph,
        weigh: impl Fn(usize, Range<usize>, &mut [T]) + Sync,
    ) -> Buffer<T> {
        let mut alpha = Buffer::stale(graph.num_edges() * self.heads);
        per_row(graph, self.heads, &mut alpha, weigh);
        alpha
    }

    /// Weights and sums of each node in turn, and `bias` added, for when no gradient is wanted.
    pub(super) fn attend<T: Real>(
        self,
        graph: &Graph,
        x: &[T],
        bias: Option<&[T]>,
        weigh: impl Fn(usize, Range<usize>, &mut [T]) + Sync,
    ) -> Buffer<T> {
        let mut out = Buffer::stale(graph.num_nodes() * self.columns);
        let plan = HeadPlan::new(self.heads, self.columns);
        threads::for_each_chunk(&mut out, BAND * self.columns, |band, out| {
            let mut alpha = Vec::new();
            for (row, out) in out.chunks_exact_mut(self.columns).enumerate() {
                let edges = graph.edges(band * BAND + row);
                memory::resize(&mut alpha, edges.len() * self.heads, T::ZERO);
                weigh(band * BAND + row, edges.clone(), &mut alpha);
                T::head_sums(x, Rows::of(graph.indices(), edges), &alpha, &plan, out);
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

/// The rows of `values` that `order` names, `width` values each. They are fetched together, ahead of use: many loads are
/// under way at once, where those between a node's arithmetic would wait.
pub(super) fn arrange<T: Real>(order: &[u32], values: &[T], width: usize, out: &mut Vec<T>) {
    memory::resize(out, order.len() * width, T::ZERO);
    match width {
        1 => arrange_fixed::<T, 1>(order, values, out),
        2 => arrange_fixed::<T, 2>(order, values, out),
        4 => arrange_fixed::<T, 4>(order, values, out),
        8 => arrange_fixed::<T, 8>(order, values, out),
        _ => {
            for (out, &edge) in out.chunks_exact_mut(width).zip(order) {
                out.copy_from_slice(&values[edge as usize * width..][..width]);
            }
        }
    }
}

/// As [`arrange`]: a few values are copied in registers, where a call would take longer than the copy.
fn arrange_fixed<T: Real, const WIDTH: usize>(order: &[u32], values: &[T], out: &mut [T]) {
    let (rows, out) = (values.as_chunks::<WIDTH>().0, out.as_chunks_mut::<WIDTH>().0);
    for (at, (out, &edge)) in out.iter_mut().zip(order).enumerate() {
        if let Some(&later) = order.get(at + AHEAD) {
            prefetch(values, later as usize * WIDTH);
        }
        *out = rows[edge as usize];
    }
}

impl<T: Real> Tensor<T> {
    /// How the columns of rows to mix are divided, if rows and bias fit.
    pub(super) fn require_attended(&self, graph: &Graph, heads: usize, bias: Option<&Self>) -> Result<Heads> {
        let columns = self.shape().columns();
        if *self.dims() != [graph.num_sources(), columns] {
            let sources = graph.num_sources();
            let message = format!("rows of shape {} over a graph of {sources} sources", self.shape());
            return Err(Error::Shape(format!("attention: {message}")));
        }
        if let Some(bias) = bias.filter(|bias| *bias.dims() != [columns]) {
            let message = format!("a bias of shape {} for {columns} columns", bias.shape());
            return Err(Error::Shape(format!("attention: {message}")));
        }
        Heads::new(heads, columns)
    }

    /// The untracked mix of rows by the weights that `weigh(row, edges, out)` writes.
    pub(super) fn attended(
        &self,
        graph: &Graph,
        heads: usize,
        bias: Option<&Self>,
        weigh: impl Fn(usize, Range<usize>, &mut [T]) + Sync,
    ) -> Result<Self> {
        let split = self.require_attended(graph, heads, bias)?;
        let bias = bias.map(Self::values);
        let bias = bias.as_ref().map(|bias| &bias[..]);
        let out = split.attend(graph, &self.values(), bias, weigh);
        Tensor::new(out, &[graph.num_nodes(), split.columns])
    }

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
        for heads in [1, 2, 3, 4, 6, 8] {
            let inputs = [random(&[4, 24], 0), random(&[5, heads], 1)];
            gradcheck(&inputs, |x| x[0].aggregate_heads(&graph, &x[1])).unwrap();
        }
        assert!(random(&[4, 24], 0).aggregate_heads(&graph, &random(&[5, 5], 1)).is_err());
        assert!(random(&[4, 24], 0).aggregate_heads(&graph, &random(&[4, 2], 1)).is_err());
    }
}
