//! Multi-head attention over neighbours (Vaswani et al. 2017, on a graph).
//!
//! Per node `v`, neighbour `u` and head: `s_vu = q_v k_u / sqrt(d)`, `alpha = softmax_u(s)`, `out_v = sum_u alpha v_u`.
//! With `ds` the gradients of the scores: `dq_v = sum_u ds k_u / sqrt(d)`; over the transpose `dk_u = sum_v ds q_v /
//! sqrt(d)` and `dv_u = sum_v alpha g_v`.

#![forbid(unsafe_code)]

use super::edge_attention::Heads;
use crate::autograd::tape::{record, tracked};
use crate::autograd::{Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::loops;
use crate::real::Real;
use crate::simd::Rows;
use std::ops::Range;
use std::sync::Arc;

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
        let split = Heads::new(heads, columns)?;
        let scale = T::of((split.width() as f64).sqrt().recip());
        let (q, k, v) = (self.values(), keys.values(), values.values());
        let weigh = |row: usize, edges: Range<usize>, out: &mut [T]| {
            T::head_dots(split.row(&q, row), &k, Rows::of(graph.indices(), edges), heads, out);
            out.iter_mut().for_each(|score| *score *= scale);
            loops::softmax(out, heads);
        };
        let parents = [self, keys, values];
        let shape = Shape::new(&[graph.num_nodes(), columns])?;
        if !tracked(&parents) {
            let out = split.attend(graph, &v, None, weigh);
            return Ok(record("attention", Arc::new(out), shape, parents, |_, _| [None, None, None]));
        }
        let alpha = split.weights(graph, weigh);
        let out = split.sums(graph, None, &alpha, &v);
        let graph = graph.clone();
        Ok(record("attention", Arc::new(out), shape, parents, move |grad, wanted| {
            let back = graph.transposed();
            let order = Some(&back.order[..]);
            let mut ds = Buffer::default();
            if wanted[0] || wanted[1] {
                ds = split.weights(&graph, |row, edges, ds| {
                    let alpha = &alpha[edges.start * heads..edges.end * heads];
                    T::head_dots(split.row(&grad, row), &v, Rows::of(graph.indices(), edges), heads, ds);
                    loops::softmax_adjoint(ds, alpha, heads);
                    ds.iter_mut().for_each(|ds| *ds *= scale);
                });
            }
            [
                wanted[0].then(|| split.sums(&graph, None, &ds, &k)),
                wanted[1].then(|| split.sums(&back.graph, order, &ds, &q)),
                wanted[2].then(|| split.sums(&back.graph, order, &alpha, &grad)),
            ]
        }))
    }
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
