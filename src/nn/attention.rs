//! Multi-head attention over neighbours, with the parameters of `torch.nn.MultiheadAttention`.

#![forbid(unsafe_code)]

use super::init::{self, Init};
use super::{Linear, Module, visit_inside};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;

/// Each node attends over its neighbours, in several heads.
#[derive(Clone, Debug)]
pub struct MultiheadAttention<T: Real> {
    /// Maps to queries, keys and values, one under the other: `(3 dim, dim)`.
    pub in_proj_weight: Tensor<T>,
    /// `(3 dim)`.
    pub in_proj_bias: Tensor<T>,
    /// The map of the joined heads.
    pub out_proj: Linear<T>,
    /// Number of heads.
    pub heads: usize,
}

impl<T: Real> MultiheadAttention<T> {
    /// Drawn as PyTorch does: Glorot uniform, zero biases; the last map's weight uniform in `±1 / sqrt(dim)`.
    pub fn new(dim: usize, heads: usize, seed: u64) -> Result<Self> {
        if heads == 0 || !dim.is_multiple_of(heads) {
            return Err(Error::Config(format!("num_heads must divide the dimension {dim}, got {heads}")));
        }
        let out = Linear::new(dim, dim, false, seed.wrapping_add(1))?;
        Ok(Self {
            in_proj_weight: init::draw(Init::GlorotUniform, &[3 * dim, dim], (dim, 3 * dim), seed)?,
            in_proj_bias: init::constant(0.0, &[3 * dim])?,
            out_proj: Linear { bias: Some(init::constant(0.0, &[dim])?), ..out },
            heads,
        })
    }

    /// `x (N, dim) -> (N, dim)`; a node without neighbours gives the bias of the last map.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        graph.require_square("MultiheadAttention")?;
        let dim = self.in_proj_weight.shape().columns();
        let part = |number: usize| {
            let range = number * dim..(number + 1) * dim;
            x.linear(&self.in_proj_weight.slice(0, range.clone())?, Some(&self.in_proj_bias.slice(0, range)?))
        };
        self.out_proj.forward(&part(0)?.neighbor_attention(&part(1)?, &part(2)?, graph, self.heads)?)
    }
}

impl<T: Real> Module<T> for MultiheadAttention<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit("in_proj_weight", &self.in_proj_weight);
        visit("in_proj_bias", &self.in_proj_bias);
        visit_inside("out_proj", &self.out_proj, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients() {
        let graph = Graph::from_edges(&[0, 0, 1, 2], &[1, 2, 1, 0], 3, 3, None).unwrap();
        let layer = MultiheadAttention::<f64>::new(4, 2, 1).unwrap();
        // The keys' part of the bias has the gradient 0: the softmax does not see it.
        let inputs = [random(&[3, 4], 0), layer.in_proj_weight.clone(), layer.in_proj_bias.clone()];
        gradcheck(&inputs, |x| layer.forward(&x[0], &graph)).unwrap();
        assert!(MultiheadAttention::<f64>::new(4, 3, 1).is_err());
    }
}
