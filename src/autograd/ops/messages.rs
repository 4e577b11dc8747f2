//! The maximum and the softmax of each node's messages `m_ij = w_ij x_j`, on the tape.
//!
//! Adjoint with `g` the gradient of the result `y`: `dm_ij = g_i s(m_ij)`, where `s` is 1 at the maximum and 0 elsewhere
//! (`g` shared evenly among equal ones), or `a_ij (1 + m_ij - y_i)` for the softmax.

#![forbid(unsafe_code)]

use super::Reduce;
use crate::aggregate::messages;
use crate::autograd::tape::record_many;
use crate::autograd::{Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::Result;
use crate::graph::Graph;
use crate::real::Real;
use std::sync::Arc;

/// `s(m)`, given the two rows that are kept: the result, and the logarithm of the softmax's denominator.
fn slope<T: Real>(reduce: Reduce, m: T, y: T, log: T) -> T {
    match reduce {
        Reduce::Max if m == y => T::ONE,
        Reduce::Max => T::ZERO,
        _ => (m - log).exp() * (T::ONE + m - y),
    }
}

impl<T: Real> Tensor<T> {
    /// By [`Reduce::Max`] or [`Reduce::Softmax`]; `weights`, where given, get a gradient too.
    pub(super) fn aggregate_messages(
        &self,
        graph: &Graph,
        weights: Option<&Self>,
        reduce: Reduce,
        columns: usize,
    ) -> Result<Self> {
        let (x, w) = (self.values(), weights.map(Tensor::values));
        let shape = Shape::new(&[graph.num_nodes(), columns])?;
        let mut out = Buffer::stale(shape.count());
        let mut logs = Buffer::default();
        let plain = w.as_ref().map(|w| &w[..]);
        if reduce == Reduce::Max {
            messages::max(graph, plain, &x, columns, &mut out);
        } else {
            logs = Buffer::stale(out.len());
            messages::softmax(graph, plain, &x, columns, &mut out, &mut logs);
        }
        let out = Arc::new(out);
        let (graph, y) = (graph.clone(), Arc::clone(&out));
        let parents = std::iter::once(self).chain(weights).cloned().collect();
        Ok(record_many("aggregate", out, shape, parents, move |mut grad, wanted| {
            let w = w.as_ref().map(|w| &w[..]);
            let mut kept = [&y[..], &logs[..]];
            if reduce == Reduce::Max {
                messages::share_among_largest(&graph, w, &x, &y, columns, &mut grad);
                kept[1] = &y;
            }
            let (inputs, slope) = ((&x[..], &grad[..]), |m, y, log| slope(reduce, m, y, log));
            let to_x = wanted[0].then(|| {
                let mut out = Buffer::stale(x.len());
                if reduce == Reduce::Max && w.is_none() {
                    messages::max_adjoint(&graph, &x, &y, &grad, columns, &mut out);
                } else {
                    messages::adjoint(&graph, w, inputs, kept, columns, slope, &mut out);
                }
                out
            });
            let to_weights = w.map(|w| {
                wanted[1].then(|| {
                    let mut out = Buffer::stale(w.len());
                    messages::weights_adjoint(&graph, w, inputs, kept, columns, slope, &mut out);
                    out
                })
            });
            std::iter::once(to_x).chain(to_weights).collect()
        }))
    }
}
