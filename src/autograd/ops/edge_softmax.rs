//! Softmax over the edges of each node.
//!
//! Per node and column `y_e = e^s_e / sum_e' e^s_e'`; adjoint `y (g - sum_e g_e y_e)`.

#![forbid(unsafe_code)]

use crate::aggregate::per_row;
use crate::autograd::Tensor;
use crate::autograd::tape::record;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::{Real, larger};
use crate::simd::vectorized;
use std::sync::Arc;

/// Softmax of one node's scores, `heads` columns, in place.
pub(crate) fn softmax_rows<T: Real>(scores: &mut [T], heads: usize) {
    debug_assert!(scores.len().is_multiple_of(heads));
    vectorized(|| match heads {
        1 => softmax_of::<T, 1>(scores),
        2 => softmax_of::<T, 2>(scores),
        4 => softmax_of::<T, 4>(scores),
        8 => softmax_of::<T, 8>(scores),
        16 => softmax_of::<T, 16>(scores),
        _ => (0..heads).for_each(|head| softmax_column(scores, head, heads)),
    });
}

/// All heads side by side.
#[inline(always)]
fn softmax_of<T: Real, const HEADS: usize>(scores: &mut [T]) {
    let mut max = [T::of(f64::NEG_INFINITY); HEADS];
    let (rows, _) = scores.as_chunks_mut::<HEADS>();
    for row in rows.iter() {
        (0..HEADS).for_each(|head| max[head] = larger(max[head], row[head]));
    }
    for row in rows.iter_mut() {
        (0..HEADS).for_each(|head| row[head] = row[head] - max[head]);
    }
    scores.iter_mut().for_each(|score| *score = score.exp());
    let mut scale = [T::ZERO; HEADS];
    let (rows, _) = scores.as_chunks_mut::<HEADS>();
    for row in rows.iter() {
        (0..HEADS).for_each(|head| scale[head] += row[head]);
    }
    scale.iter_mut().for_each(|total| *total = T::ONE / *total);
    for row in rows.iter_mut() {
        (0..HEADS).for_each(|head| row[head] *= scale[head]);
    }
}

fn softmax_column<T: Real>(scores: &mut [T], head: usize, heads: usize) {
    let column = || (head..scores.len()).step_by(heads);
    let max = column().map(|at| scores[at]).fold(T::of(f64::NEG_INFINITY), larger);
    let mut total = T::ZERO;
    for at in column() {
        scores[at] = (scores[at] - max).exp();
        total += scores[at];
    }
    let scale = T::ONE / total;
    (head..scores.len()).step_by(heads).for_each(|at| scores[at] *= scale);
}

/// Turns one node's gradients into those of its scores.
pub(super) fn adjoint_rows<T: Real>(grad: &mut [T], y: &[T], heads: usize) {
    debug_assert_eq!(grad.len(), y.len());
    vectorized(|| match heads {
        1 => adjoint_of::<T, 1>(grad, y),
        2 => adjoint_of::<T, 2>(grad, y),
        4 => adjoint_of::<T, 4>(grad, y),
        8 => adjoint_of::<T, 8>(grad, y),
        16 => adjoint_of::<T, 16>(grad, y),
        _ => (0..heads).for_each(|head| adjoint_column(grad, y, head, heads)),
    });
}

#[inline(always)]
fn adjoint_of<T: Real, const HEADS: usize>(grad: &mut [T], y: &[T]) {
    let ((grads, _), (ys, _)) = (grad.as_chunks_mut::<HEADS>(), y.as_chunks::<HEADS>());
    let mut inner = [T::ZERO; HEADS];
    for (grad, y) in grads.iter().zip(ys) {
        (0..HEADS).for_each(|head| inner[head] += grad[head] * y[head]);
    }
    for (grad, y) in grads.iter_mut().zip(ys) {
        (0..HEADS).for_each(|head| grad[head] = y[head] * (grad[head] - inner[head]));
    }
}

fn adjoint_column<T: Real>(grad: &mut [T], y: &[T], head: usize, heads: usize) {
    let mut inner = T::ZERO;
    (head..y.len()).step_by(heads).for_each(|at| inner += grad[at] * y[at]);
    (head..y.len()).step_by(heads).for_each(|at| grad[at] = y[at] * (grad[at] - inner));
}

impl<T: Real> Tensor<T> {
    /// `self (num_edges)` or `(num_edges, heads)` in row order: the softmax over each node's edges, per head.
    pub fn edge_softmax(&self, graph: &Graph) -> Result<Self> {
        let heads = match *self.dims() {
            [edges] if edges == graph.num_edges() => 1,
            [edges, heads] if edges == graph.num_edges() => heads,
            _ => {
                let message = format!("scores of shape {} for {} edges", self.shape(), graph.num_edges());
                return Err(Error::Shape(format!("edge_softmax: {message}")));
            }
        };
        let mut out = self.values().as_ref().clone();
        per_edge_rows(graph, &mut out, heads, |_, scores| softmax_rows(scores, heads));
        let y = Arc::new(out);
        let graph = graph.clone();
        Ok(record("edge_softmax", Arc::clone(&y), self.shape(), [self], move |mut grad, _| {
            per_edge_rows(&graph, &mut grad, heads, |start, grad| {
                adjoint_rows(grad, &y[start..][..grad.len()], heads);
            });
            [Some(grad)]
        }))
    }
}

/// `f(first value, values of the node's edges)` for every node, over `heads` values per edge.
fn per_edge_rows<T: Real>(graph: &Graph, values: &mut [T], heads: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if heads > 0 {
        per_row(graph, heads, values, |_, edges, values| f(edges.start * heads, values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_and_sums_of_one_per_node() {
        let graph = Graph::from_edges(&[0, 0, 0, 2, 2], &[1, 2, 2, 0, 1], 3, 3, None).unwrap();
        gradcheck(&[random(&[5], 0)], |x| x[0].edge_softmax(&graph)).unwrap();
        for heads in [2, 3, 4, 5, 8, 16] {
            gradcheck(&[random(&[5, heads], 0)], |x| x[0].edge_softmax(&graph)).unwrap();
        }
        let y = random(&[5, 2], 0).edge_softmax(&graph).unwrap().to_vec();
        for head in 0..2 {
            assert!(((0..3).map(|edge| y[edge * 2 + head]).sum::<f64>() - 1.0).abs() < 1e-12);
            assert!(((3..5).map(|edge| y[edge * 2 + head]).sum::<f64>() - 1.0).abs() < 1e-12);
        }
        assert!(random(&[4], 0).edge_softmax(&graph).is_err());
    }
}
