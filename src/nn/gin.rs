//! The graph isomorphism network (Xu et al. 2019), as PyG's `GINConv`.
//!
//! `out_i = nn((1 + eps) x_i + sum_j x_j)`. Edge weights are not looked at, as in PyG.

#![forbid(unsafe_code)]

use super::{Module, Sequential, init, target_rows, visit_inside};
use crate::autograd::{Reduce, Tensor};
use crate::error::Result;
use crate::graph::Graph;
use crate::real::Real;

/// A layer of the graph isomorphism network.
///
/// ```
/// use ruvector_gnn::autograd::Tensor;
/// use ruvector_gnn::graph::Graph;
/// use ruvector_gnn::nn::{Activation, GinLayer, Sequential};
/// let layer = GinLayer::<f32>::new(Sequential::mlp(&[3, 8, 2], Activation::Relu, 0)?, 0.0, false)?;
/// let graph = Graph::from_edges(&[0, 1], &[1, 0], 2, 2, None)?;
/// assert_eq!(layer.forward(&Tensor::zeros(&[2, 3])?, &graph)?.dims(), [2, 2]);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GinLayer<T: Real> {
    /// The map of the sums.
    pub nn: Sequential<T>,
    /// The extra share of the node itself: `(1)`; a constant unless it collects a gradient.
    pub eps: Tensor<T>,
}

impl<T: Real> GinLayer<T> {
    /// Around `nn`; `eps` is trained when `train_eps`.
    pub fn new(nn: Sequential<T>, eps: f64, train_eps: bool) -> Result<Self> {
        let eps = init::constant(eps, &[1])?;
        eps.set_requires_grad(train_eps)?;
        Ok(Self { nn, eps })
    }

    /// `x (num_sources, in) -> (N, out)`.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        self.nn.forward(&gin_sum(x, graph, &self.eps)?)
    }
}

/// `(1 + eps) x_i + sum_j x_j`, for any map behind it; `eps` holds one value.
pub fn gin_sum<T: Real>(x: &Tensor<T>, graph: &Graph, eps: &Tensor<T>) -> Result<Tensor<T>> {
    let own = target_rows("GINLayer", x, graph)?.mul(&eps.reshape(&[])?.affine(T::ONE, T::ONE)?)?;
    x.aggregate_onto(graph, Reduce::Sum, false, own)
}

impl<T: Real> Module<T> for GinLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit("eps", &self.eps);
        visit_inside("nn", &self.nn, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::nn::Activation;

    #[test]
    fn gradients_and_names() {
        let graph = Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 2, 3], 4, 4, None).unwrap();
        let mlp = Sequential::<f64>::mlp(&[3, 5, 2], Activation::Tanh, 1).unwrap();
        let layer = GinLayer::new(mlp, 0.3, true).unwrap();
        let names: Vec<String> = layer.named_parameters().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["eps", "nn.0.weight", "nn.0.bias", "nn.2.weight", "nn.2.bias"]);
        let inputs = [layer.parameters(), vec![random(&[4, 3], 0)]].concat();
        gradcheck(&inputs, |x| layer.forward(&x[5], &graph)).unwrap();
    }
}
