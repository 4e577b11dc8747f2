//! Multi-head attention over neighbours or over whole sequences, with the parameters of `torch.nn.MultiheadAttention`.

#![forbid(unsafe_code)]

use super::head_gates::{gated_map, take_heads};
use super::init::{self, Init};
use super::{Linear, Module, target_rows, visit_inside};
use crate::autograd::{Segments, Tensor};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;

/// Each node attends over its neighbours, in several heads.
#[derive(Clone, Debug)]
pub struct MultiheadAttention<T: Real> {
    /// Maps to queries, keys and values, one under the other: `(3 dim, dim)`, or fewer rows where heads were taken out.
    pub in_proj_weight: Tensor<T>,
    /// One value per row of `in_proj_weight`.
    pub in_proj_bias: Tensor<T>,
    /// The map of the joined heads.
    pub out_proj: Linear<T>,
    /// Number of heads.
    pub heads: usize,
    /// `(heads)`: a factor for each head's result (Michel et al. 2019).
    pub head_gates: Option<Tensor<T>>,
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
            head_gates: None,
        })
    }

    /// The layer with some of its heads, rising, which are all that it then computes. Taking out heads whose gate is 0
    /// changes no output.
    pub fn select_heads(&self, heads: &[u32]) -> Result<Self> {
        let taken =
            |parameter: &Tensor<T>, axis, groups| take_heads(parameter, axis, groups, self.heads, heads);
        Ok(Self {
            in_proj_weight: taken(&self.in_proj_weight, 0, 3)?,
            in_proj_bias: taken(&self.in_proj_bias, 0, 3)?,
            out_proj: Linear {
                weight: taken(&self.out_proj.weight, 1, 1)?,
                bias: self.out_proj.bias.clone(),
            },
            heads: heads.len(),
            head_gates: self.head_gates.as_ref().map(|gates| taken(gates, 0, 1)).transpose()?,
        })
    }

    /// `x (num_sources, dim) -> (N, dim)`; a node without neighbours gives the bias of the last map.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        self.forward_between(&target_rows("MultiheadAttention", x, graph)?, x, graph)
    }

    /// As [`forward`](Self::forward), with rows of their own for the nodes that attend, `x (num_nodes, dim)`, and for their
    /// neighbours, `sources (num_sources, dim)`.
    pub fn forward_between(&self, x: &Tensor<T>, sources: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        let [query, key, value] = [(0, x), (1, sources), (2, sources)].map(|(part, x)| self.project(part, x));
        self.join(&query?.neighbor_attention(&key?, &value?, graph, self.heads)?)
    }

    /// Each row of `x (rows, dim)` attends over all rows of `sources (key rows, dim)` of the same segment.
    pub fn forward_within(
        &self,
        x: &Tensor<T>,
        sources: &Tensor<T>,
        segments: &Segments,
    ) -> Result<Tensor<T>> {
        let [query, key, value] = [(0, x), (1, sources), (2, sources)].map(|(part, x)| self.project(part, x));
        self.join(&query?.segment_attention(&key?, &value?, segments, self.heads)?)
    }

    /// Every row of `query (B, L, dim)` attends over all rows of `key` and `value (B, S, dim)` of the same batch:
    /// `(B, L, dim)`, and the weights per head, `(B heads, L, S)`.
    pub fn attend(
        &self,
        query: &Tensor<T>,
        key: &Tensor<T>,
        value: &Tensor<T>,
    ) -> Result<(Tensor<T>, Tensor<T>)> {
        let dim = self.in_proj_weight.shape().columns();
        let fits = match (query.dims(), key.dims()) {
            (&[a, _, c], &[b, length, d]) => a == b && c == dim && d == dim && length > 0,
            _ => false,
        };
        if !fits || key.shape() != value.shape() {
            return Err(Error::Shape(format!(
                "MultiheadAttention: query {}, key {} and value {} for dimension {dim}",
                query.shape(),
                key.shape(),
                value.shape()
            )));
        }
        let heads = |part: usize, x: &Tensor<T>| self.project(part, x)?.split_heads(self.heads);
        let scale = T::of(((self.inner() / self.heads) as f64).sqrt().recip());
        let scores = heads(0, query)?.affine(scale, T::ZERO)?.matmul(&heads(1, key)?.swap_axes(1, 2)?)?;
        let weights = scores.softmax(-1)?;
        let joined = weights.matmul(&heads(2, value)?)?.join_heads(self.heads)?;
        Ok((self.join(&joined)?, weights))
    }

    /// The width of all heads together.
    fn inner(&self) -> usize {
        self.in_proj_weight.dims()[0] / 3
    }

    /// The last map, over the heads side by side.
    fn join(&self, heads: &Tensor<T>) -> Result<Tensor<T>> {
        let weight = gated_map(&self.out_proj.weight, self.head_gates.as_ref(), self.heads)?;
        heads.linear(&weight, self.out_proj.bias.as_ref())
    }

    /// The queries (part 0), keys (1) or values (2) of the rows of `x`.
    fn project(&self, part: usize, x: &Tensor<T>) -> Result<Tensor<T>> {
        let range = part * self.inner()..(part + 1) * self.inner();
        x.linear(&self.in_proj_weight.slice(0, range.clone())?, Some(&self.in_proj_bias.slice(0, range)?))
    }
}

impl<T: Real> Module<T> for MultiheadAttention<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit("in_proj_weight", &self.in_proj_weight);
        visit("in_proj_bias", &self.in_proj_bias);
        visit_inside("out_proj", &self.out_proj, visit);
        if let Some(gates) = &self.head_gates {
            visit("head_gates", gates);
        }
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

    #[test]
    fn taking_out_heads_of_gate_zero_changes_nothing() {
        let graph = Graph::from_edges(&[0, 0, 1, 2], &[1, 2, 1, 0], 3, 3, None).unwrap();
        let gates = Tensor::parameter(vec![0.5, 0.0, -2.0], &[3]).unwrap();
        let layer =
            MultiheadAttention { head_gates: Some(gates), ..MultiheadAttention::new(6, 3, 1).unwrap() };
        let pruned = layer.select_heads(&[0, 2]).unwrap();
        assert_eq!(
            pruned.named_parameters().iter().map(|(_, p)| p.count()).collect::<Vec<_>>(),
            [72, 12, 24, 6, 2]
        );
        let x = random(&[3, 6], 0);
        let batch = x.reshape(&[1, 3, 6]).unwrap();
        let segments = Segments::new(vec![0, 1, 3], vec![0, 1, 3]).unwrap();
        let both = |layer: &MultiheadAttention<f64>| {
            let within = layer.forward_within(&x, &x, &segments).unwrap().to_vec();
            [layer.forward(&x, &graph).unwrap().to_vec(), within].concat()
        };
        assert!(both(&layer).iter().zip(both(&pruned)).all(|(a, b)| (a - b).abs() < 1e-14));
        let dense =
            |layer: &MultiheadAttention<f64>| layer.attend(&batch, &batch, &batch).unwrap().0.to_vec();
        assert!(dense(&layer).iter().zip(dense(&pruned)).all(|(a, b)| (a - b).abs() < 1e-14));
        let weights = [
            pruned.in_proj_weight.clone(),
            pruned.out_proj.weight.clone(),
            pruned.head_gates.clone().unwrap(),
        ];
        gradcheck(&weights, |_| pruned.forward(&x, &graph)).unwrap();
    }

    #[test]
    fn gradients_over_sequences_which_agree_with_the_complete_graph() {
        let layer = MultiheadAttention::<f64>::new(4, 2, 1).unwrap();
        let inputs = [random(&[2, 3, 4], 0), random(&[2, 5, 4], 1), random(&[2, 5, 4], 2)];
        gradcheck(&inputs, |x| Ok(layer.attend(&x[0], &x[1], &x[2])?.0)).unwrap();
        gradcheck(&inputs[..2], |x| Ok(layer.attend(&x[0], &x[1], &inputs[2])?.1)).unwrap();
        let x = random(&[3, 4], 3);
        let all: Vec<u32> = (0..9).collect();
        let (targets, sources): (Vec<u32>, Vec<u32>) = all.iter().map(|edge| (edge / 3, edge % 3)).unzip();
        let graph = Graph::from_edges(&targets, &sources, 3, 3, None).unwrap();
        let batch = x.reshape(&[1, 3, 4]).unwrap();
        let (dense, sparse) =
            (layer.attend(&batch, &batch, &batch).unwrap().0, layer.forward(&x, &graph).unwrap());
        assert!(dense.values().iter().zip(sparse.values().iter()).all(|(a, b)| (a - b).abs() < 1e-14));
        assert!(layer.attend(&inputs[0], &inputs[1], &inputs[0]).is_err());
    }
}
