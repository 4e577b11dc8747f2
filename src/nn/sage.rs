//! GraphSAGE (Hamilton et al. 2017) with mean, sum, maximum or LSTM aggregation, as PyG's `SAGEConv`.
//!
//! `out_i = W_l agg_j x_j + b + W_r x_i`, optionally scaled to norm 1. The neighbours' map runs before a mean or sum
//! where it makes rows shorter. Edge weights are not looked at, as in PyG.

#![forbid(unsafe_code)]

use super::{Linear, Lstm, Module, target_rows, visit_inside};
use crate::autograd::{Reduce, Tensor};
use crate::error::Result;
use crate::graph::Graph;
use crate::real::Real;

/// A GraphSAGE layer.
#[derive(Clone, Debug)]
pub struct SageLayer<T: Real> {
    /// The map of the neighbours, with bias.
    pub lin_l: Linear<T>,
    /// The map of the node itself, without.
    pub lin_r: Linear<T>,
    /// The aggregation, unless there is an [`lstm`](Self::lstm).
    pub reduce: Reduce,
    /// Aggregates by its last state over the neighbours in row order.
    pub lstm: Option<SageLstm<T>>,
    /// Whether rows of the result are scaled to norm 1.
    pub normalize: bool,
}

/// The aggregation by long short-term memory.
#[derive(Clone, Debug)]
pub struct SageLstm<T: Real> {
    /// The unit, `in -> in`.
    pub lstm: Lstm<T>,
    /// Whether it goes on over zeros to the length of the graph's longest row, as PyG does.
    pub padded: bool,
}

impl<T: Real> SageLayer<T> {
    /// Drawn as PyG does: uniform in `±1 / sqrt(in)`.
    pub fn new(ins: usize, outs: usize, normalize: bool, seed: u64) -> Result<Self> {
        let lin_r = Linear::new(ins, outs, false, seed.wrapping_add(2))?;
        let lin_l = Linear::new(ins, outs, true, seed)?;
        Ok(Self { lin_l, lin_r, reduce: Reduce::Mean, lstm: None, normalize })
    }

    /// `x (N, in) -> (N, out)`. Over the rows of a [`Block`](crate::graph::Block), `x` holds the values of the
    /// sources, and the result those of the targets.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        let square = graph.num_sources() == graph.num_nodes();
        let own = &target_rows("SAGELayer", x, graph)?;
        let (outs, ins) = self.lin_l.weight.shape().matrix("SAGELayer", "lin_l.weight")?;
        let (left, right, bias) = (&self.lin_l.weight, &self.lin_r.weight, self.lin_l.bias.as_ref());
        let out = if square && outs <= ins && self.lstm.is_none() && self.reduce.is_linear() {
            let own = own.linear(right, bias)?;
            x.linear(left, None)?.aggregate_onto(graph, self.reduce, false, own)?
        } else {
            let neighbors = match &self.lstm {
                Some(SageLstm { lstm, padded }) => lstm.over_neighbors(x, graph, *padded)?,
                None => x.aggregate_unweighted(graph, self.reduce)?,
            };
            Tensor::linear_sum(&[(&neighbors, left), (own, right)], bias.as_slice())?
        };
        if self.normalize { out.normalize() } else { Ok(out) }
    }
}

impl<T: Real> Module<T> for SageLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("lin_l", &self.lin_l, visit);
        visit_inside("lin_r", &self.lin_r, visit);
        if let Some(SageLstm { lstm, .. }) = &self.lstm {
            visit_inside("aggr_module.lstm", lstm, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::error::Error;

    #[test]
    fn gradients_over_a_block() {
        let graph = Graph::from_edges(&[0, 1, 1, 0], &[1, 0, 4, 3], 2, 5, None).unwrap();
        for (ins, outs) in [(4, 2), (2, 4)] {
            let inputs = [random(&[5, ins], 0), random(&[outs, ins], 1), random(&[outs, ins], 2)];
            gradcheck(&inputs, |x| {
                let lin_l = Linear { weight: x[1].clone(), bias: None };
                let lin_r = Linear { weight: x[2].clone(), bias: None };
                SageLayer { lin_l, lin_r, reduce: Reduce::Mean, lstm: None, normalize: false }
                    .forward(&x[0], &graph)
            })
            .unwrap();
        }
        let narrow = Graph::from_edges(&[2], &[1], 3, 2, None).unwrap();
        let layer = SageLayer::<f64>::new(3, 2, false, 0).unwrap();
        assert!(matches!(layer.forward(&random(&[2, 3], 0), &narrow), Err(Error::Shape(_))));
        assert!(matches!(layer.forward(&random(&[4, 3], 0), &graph), Err(Error::Shape(_))));
    }

    #[test]
    fn gradients_whichever_comes_first() {
        let graph = Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 2, 3], 4, 4, None).unwrap();
        for (ins, outs, normalize) in [(5, 2, false), (2, 5, true)] {
            let inputs =
                [random(&[4, ins], 0), random(&[outs, ins], 1), random(&[outs], 2), random(&[outs, ins], 3)];
            gradcheck(&inputs, |x| {
                let lin_l = Linear { weight: x[1].clone(), bias: Some(x[2].clone()) };
                let lin_r = Linear { weight: x[3].clone(), bias: None };
                SageLayer { lin_l, lin_r, reduce: Reduce::Mean, lstm: None, normalize }.forward(&x[0], &graph)
            })
            .unwrap();
        }
    }

    #[test]
    fn gradients_through_the_other_aggregations() {
        let graph = Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 2, 3], 4, 4, None).unwrap();
        let plain = SageLayer::<f64>::new(3, 2, false, 1).unwrap();
        let max = SageLayer { reduce: Reduce::Max, ..plain.clone() };
        let lstm = Some(SageLstm { lstm: Lstm::new(3, 3, 5).unwrap(), padded: true });
        for layer in [max, SageLayer { lstm, ..plain }] {
            let inputs = [layer.parameters(), vec![random(&[4, 3], 0)]].concat();
            gradcheck(&inputs, |x| layer.forward(&x[x.len() - 1], &graph)).unwrap();
        }
    }
}
