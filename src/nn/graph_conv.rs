//! The graph convolution of Morris et al. (2019), as PyG's `GraphConv`.
//!
//! `out_i = W_rel agg_j(w_ij x_j) + b + W_root x_i`. The neighbours' map runs before a sum or mean where it makes rows
//! shorter.

#![forbid(unsafe_code)]

use super::{Linear, Module, target_rows, visit_inside};
use crate::autograd::{Reduce, Tensor};
use crate::error::Result;
use crate::graph::Graph;
use crate::real::Real;

/// A weighted graph convolution with a map of its own for the node itself.
///
/// ```
/// use ruvector_gnn::autograd::Tensor;
/// use ruvector_gnn::graph::Graph;
/// use ruvector_gnn::nn::GraphConv;
/// let graph = Graph::from_edges(&[0, 1], &[1, 0], 2, 2, Some(&[0.5, 2.0]))?;
/// let layer = GraphConv::<f32>::new(3, 2, true, 0)?;
/// assert_eq!(layer.forward(&Tensor::zeros(&[2, 3])?, &graph)?.dims(), [2, 2]);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GraphConv<T: Real> {
    /// The map of the neighbours, with bias unless the layer has none.
    pub lin_rel: Linear<T>,
    /// The map of the node itself, without.
    pub lin_root: Linear<T>,
    /// The aggregation of weighted neighbours.
    pub reduce: Reduce,
}

impl<T: Real> GraphConv<T> {
    /// Drawn as PyG does: uniform in `±1 / sqrt(in)`.
    pub fn new(ins: usize, outs: usize, bias: bool, seed: u64) -> Result<Self> {
        let lin_root = Linear::new(ins, outs, false, seed.wrapping_add(2))?;
        Ok(Self { lin_rel: Linear::new(ins, outs, bias, seed)?, lin_root, reduce: Reduce::Sum })
    }

    /// `x (num_sources, in) -> (N, out)`.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        let targets = target_rows("GraphConv", x, graph)?;
        let square = graph.num_sources() == graph.num_nodes();
        let (outs, ins) = self.lin_rel.weight.shape().matrix("GraphConv", "lin_rel.weight")?;
        let (rel, root, bias) = (&self.lin_rel.weight, &self.lin_root.weight, self.lin_rel.bias.as_ref());
        if square && outs <= ins && self.reduce.is_linear() {
            let own = targets.linear(root, bias)?;
            x.linear(rel, None)?.aggregate_onto(graph, self.reduce, true, own)
        } else {
            let neighbors = x.aggregate(graph, self.reduce)?;
            Tensor::linear_sum(&[(&neighbors, rel), (&targets, root)], bias.as_slice())
        }
    }
}

impl<T: Real> Module<T> for GraphConv<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("lin_rel", &self.lin_rel, visit);
        visit_inside("lin_root", &self.lin_root, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_whichever_comes_first() {
        let weights = [1.0, -2.0, 0.5, 3.0];
        let graph = Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 2, 3], 4, 4, Some(&weights)).unwrap();
        for (ins, outs, reduce) in [(5, 2, Reduce::Sum), (2, 5, Reduce::Mean), (5, 2, Reduce::Max)] {
            let layer = GraphConv { reduce, ..GraphConv::<f64>::new(ins, outs, true, 1).unwrap() };
            let inputs = [layer.parameters(), vec![random(&[4, ins], 0)]].concat();
            gradcheck(&inputs, |x| layer.forward(&x[3], &graph)).unwrap();
        }
    }
}
