//! A transformer layer over graphs (Vaswani et al. 2017; Dwivedi & Bresson 2021; Kreuzer et al. 2021): every node attends
//! over all nodes of its graph, and knows its own place by the Laplacian's eigenvectors.
//!
//! `h = x + W_pe p`, `u = norm1(h + dropout(attention(h)))`, `out = norm2(u + dropout(W_2 dropout(act(W_1 u))))`.

#![forbid(unsafe_code)]

use super::membership::Membership;
use super::{Activation, LayerNorm, Linear, Module, MultiheadAttention, visit_inside};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;

/// What follows attention in a transformer layer: sums with what came before, normalization, and two maps of single rows.
#[derive(Clone, Debug)]
pub struct FeedForward<T: Real> {
    /// `dim -> inner`.
    pub linear1: Linear<T>,
    /// `inner -> dim`.
    pub linear2: Linear<T>,
    /// After attention.
    pub norm1: LayerNorm<T>,
    /// After the maps.
    pub norm2: LayerNorm<T>,
    /// Between the maps.
    pub activation: Activation,
}

impl<T: Real> FeedForward<T> {
    /// As PyTorch draws linear maps.
    pub fn new(dim: usize, inner: usize, seed: u64) -> Result<Self> {
        Ok(Self {
            linear1: Linear::new(dim, inner, true, seed)?,
            linear2: Linear::new(inner, dim, true, seed.wrapping_add(2))?,
            norm1: LayerNorm::new(dim, 1e-5)?,
            norm2: LayerNorm::new(dim, 1e-5)?,
            activation: Activation::Relu,
        })
    }

    /// From the rows and what attention makes of them; `dropout` is a rate and a seed.
    pub fn forward(
        &self,
        h: &Tensor<T>,
        attended: &Tensor<T>,
        dropout: Option<(f64, u64)>,
    ) -> Result<Tensor<T>> {
        let drop = |x: Tensor<T>, number: u64| match dropout {
            Some((rate, seed)) => x.dropout(rate, seed.wrapping_add(number)),
            None => Ok(x),
        };
        let u = self.norm1.forward(&h.add(&drop(attended.clone(), 0)?)?)?;
        let inner = drop(self.activation.apply(&self.linear1.forward(&u)?)?, 1)?;
        self.norm2.forward(&u.add(&drop(self.linear2.forward(&inner)?, 2)?)?)
    }
}

impl<T: Real> Module<T> for FeedForward<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("linear1", &self.linear1, visit);
        visit_inside("linear2", &self.linear2, visit);
        visit_inside("norm1", &self.norm1, visit);
        visit_inside("norm2", &self.norm2, visit);
    }
}

/// Full attention within each graph.
#[derive(Clone, Debug)]
pub struct GraphTransformerLayer<T: Real> {
    /// The map of positional encodings, `pe -> dim`.
    pub lin_pe: Option<Linear<T>>,
    /// Attention.
    pub self_attn: MultiheadAttention<T>,
    /// The rest.
    pub feed_forward: FeedForward<T>,
}

impl<T: Real> GraphTransformerLayer<T> {
    /// `pe_dim` of 0 goes without positional encodings.
    pub fn new(dim: usize, heads: usize, inner: usize, pe_dim: usize, seed: u64) -> Result<Self> {
        let lin_pe =
            (pe_dim > 0).then(|| Linear::new(pe_dim, dim, true, seed.wrapping_add(6))).transpose()?;
        let self_attn = MultiheadAttention::new(dim, heads, seed)?;
        Ok(Self { lin_pe, self_attn, feed_forward: FeedForward::new(dim, inner, seed.wrapping_add(2))? })
    }

    /// `x (N, dim) -> (N, dim)`; `batch` holds the number of each node's graph, `pe (N, pe_dim)` positional encodings;
    /// `dropout` is a rate and a seed.
    pub fn forward(
        &self,
        x: &Tensor<T>,
        graph: &Graph,
        batch: Option<&[u32]>,
        pe: Option<&Tensor<T>>,
        dropout: Option<(f64, u64)>,
    ) -> Result<Tensor<T>> {
        const LAYER: &str = "GraphTransformerLayer";
        require_rows(LAYER, x, graph)?;
        let dim = self.self_attn.in_proj_weight.shape().columns();
        if x.dims()[1] != dim {
            return Err(Error::Shape(format!("{LAYER}: x has {} columns, expected {dim}", x.dims()[1])));
        }
        if let Some(pe) = pe.filter(|pe| pe.dims().len() != 2 || pe.dims()[0] != graph.num_nodes()) {
            let (shape, nodes) = (pe.shape(), graph.num_nodes());
            return Err(Error::Shape(format!("{LAYER}: pe of shape {shape} over a graph of {nodes} nodes")));
        }
        let nodes = Membership::new(LAYER, batch, graph.num_nodes())?;
        let h = match (&self.lin_pe, pe) {
            (None, None) => x.clone(),
            (Some(map), Some(pe)) => x.add(&map.forward(pe)?)?,
            (None, Some(_)) => {
                return Err(Error::Config(format!("{LAYER}: pe given, but the layer has no pe_dim")));
            }
            (Some(_), None) => {
                return Err(Error::Config(format!("{LAYER}: the layer has pe_dim, but pe is missing")));
            }
        };
        let rows = nodes.arrange(&h)?;
        let attended = nodes.restore(&self.self_attn.forward_within(&rows, &rows, &nodes.within()?)?)?;
        self.feed_forward.forward(&h, &attended, dropout)
    }
}

impl<T: Real> Module<T> for GraphTransformerLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("self_attn", &self.self_attn, visit);
        self.feed_forward.visit(visit);
        if let Some(map) = &self.lin_pe {
            visit_inside("lin_pe", map, visit);
        }
    }
}

/// A row per node of a square graph.
pub(super) fn require_rows<T: Real>(layer: &str, x: &Tensor<T>, graph: &Graph) -> Result<()> {
    graph.require_square(layer)?;
    if x.dims().len() != 2 || x.dims()[0] != graph.num_nodes() {
        let nodes = graph.num_nodes();
        return Err(Error::Shape(format!("{layer}: x of shape {} over a graph of {nodes} nodes", x.shape())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    fn graph() -> Graph {
        Graph::from_edges(&[0, 1, 2], &[1, 0, 3], 5, 5, None).unwrap()
    }

    #[test]
    fn gradients_of_input_encodings_and_weights() {
        let layer = GraphTransformerLayer::<f64>::new(4, 2, 6, 3, 1).unwrap();
        let mut inputs = vec![random(&[5, 4], 0), random(&[5, 3], 1)];
        inputs.extend(layer.parameters());
        let batch = [1, 0, 1, 0, 1];
        gradcheck(&inputs, |x| layer.forward(&x[0], &graph(), Some(&batch), Some(&x[1]), Some((0.2, 3))))
            .unwrap();
    }

    #[test]
    fn graphs_of_a_batch_do_not_see_each_other() {
        let layer = GraphTransformerLayer::<f64>::new(4, 2, 6, 0, 1).unwrap();
        let x = random(&[5, 4], 0);
        let alone = |nodes: &[u32]| {
            let part = Graph::from_edges(&[], &[], nodes.len(), nodes.len(), None).unwrap();
            layer.forward(&x.index_select(nodes).unwrap(), &part, None, None, None).unwrap()
        };
        let both = layer.forward(&x, &graph(), Some(&[7, 2, 7, 2, 7]), None, None).unwrap();
        assert_eq!(both.index_select(&[0, 2, 4]).unwrap().to_vec(), alone(&[0, 2, 4]).to_vec());
        assert_eq!(both.index_select(&[1, 3]).unwrap().to_vec(), alone(&[1, 3]).to_vec());
        assert!(layer.forward(&x, &graph(), Some(&[0; 4]), None, None).is_err());
        assert!(layer.forward(&x, &graph(), None, Some(&x), None).is_err());
    }
}
