//! GraphSAGE (Hamilton et al. 2017) with mean or sum aggregation, as PyG's `SAGEConv`.
//!
//! `out_i = W_l mean_j x_j + b + W_r x_i`, optionally scaled to norm 1. The neighbours' map runs before the mean
//! where it makes rows shorter. Edge weights are not looked at, as in PyG.

#![forbid(unsafe_code)]

use super::{Linear, Module, visit_inside};
use crate::autograd::{Reduce, Tensor};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;

/// A GraphSAGE layer.
#[derive(Clone, Debug)]
pub struct SageLayer<T: Real> {
    /// The map of the neighbours, with bias.
    pub lin_l: Linear<T>,
    /// The map of the node itself, without.
    pub lin_r: Linear<T>,
    /// Mean or sum.
    pub reduce: Reduce,
    /// Whether rows of the result are scaled to norm 1.
    pub normalize: bool,
}

impl<T: Real> SageLayer<T> {
    /// Drawn as PyG does: uniform in `±1 / sqrt(in)`.
    pub fn new(ins: usize, outs: usize, normalize: bool, seed: u64) -> Result<Self> {
        let lin_r = Linear::new(ins, outs, false, seed.wrapping_add(2))?;
        Ok(Self { lin_l: Linear::new(ins, outs, true, seed)?, lin_r, reduce: Reduce::Mean, normalize })
    }

    /// `x (N, in) -> (N, out)`. Over the rows of a [`Block`](crate::graph::Block), `x` holds the values of the
    /// sources, and the result those of the targets.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        let square = graph.num_sources() == graph.num_nodes();
        let own = &own_rows(x, graph)?;
        let (outs, ins) = self.lin_l.weight.shape().matrix("SAGELayer", "lin_l.weight")?;
        let (left, right, bias) = (&self.lin_l.weight, &self.lin_r.weight, self.lin_l.bias.as_ref());
        let out = if square && outs <= ins {
            let own = own.linear(right, bias)?;
            x.linear(left, None)?.aggregate_onto(graph, self.reduce, false, &own)?
        } else {
            let sums = x.aggregate_unweighted(graph, self.reduce)?;
            Tensor::linear_sum(&[(&sums, left), (own, right)], bias.as_slice())?
        };
        if self.normalize { out.normalize() } else { Ok(out) }
    }
}

/// The rows of the targets, which come first among those of the sources.
fn own_rows<T: Real>(x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
    let (nodes, sources) = (graph.num_nodes(), graph.num_sources());
    if sources < nodes {
        let counts = format!("{sources} sources for {nodes} nodes");
        return Err(Error::Shape(format!("SAGELayer: every node must be among the sources, got {counts}")));
    }
    if sources == nodes || x.dims().first() != Some(&sources) { Ok(x.clone()) } else { x.slice(0, 0..nodes) }
}

impl<T: Real> Module<T> for SageLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("lin_l", &self.lin_l, visit);
        visit_inside("lin_r", &self.lin_r, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_over_a_block() {
        let graph = Graph::from_edges(&[0, 1, 1, 0], &[1, 0, 4, 3], 2, 5, None).unwrap();
        for (ins, outs) in [(4, 2), (2, 4)] {
            let inputs = [random(&[5, ins], 0), random(&[outs, ins], 1), random(&[outs, ins], 2)];
            gradcheck(&inputs, |x| {
                let lin_l = Linear { weight: x[1].clone(), bias: None };
                let lin_r = Linear { weight: x[2].clone(), bias: None };
                SageLayer { lin_l, lin_r, reduce: Reduce::Mean, normalize: false }.forward(&x[0], &graph)
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
                SageLayer { lin_l, lin_r, reduce: Reduce::Mean, normalize }.forward(&x[0], &graph)
            })
            .unwrap();
        }
    }
}
