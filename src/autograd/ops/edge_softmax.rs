//! Softmax over the edges of each node.
//!
//! Per node and column `y_e = e^s_e / sum_e' e^s_e'`; adjoint `y (g - sum_e g_e y_e)`.

#![forbid(unsafe_code)]

use crate::aggregate::per_row;
use crate::autograd::Tensor;
use crate::autograd::tape::record;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::loops;
use crate::real::Real;
use std::sync::Arc;

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
        per_edge_rows(graph, &mut out, heads, |_, scores| loops::softmax(scores, heads));
        let y = Arc::new(out);
        let graph = graph.clone();
        Ok(record("edge_softmax", Arc::clone(&y), self.shape(), [self], move |mut grad, _| {
            per_edge_rows(&graph, &mut grad, heads, |start, grad| {
                loops::softmax_adjoint(grad, &y[start..][..grad.len()], heads);
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
