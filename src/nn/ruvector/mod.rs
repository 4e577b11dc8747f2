//! The layer of the `ruvector` package, over a whole graph at once.
//!
//! For node `v` with neighbours `u` and edge weights `e`: `m = W_msg h`; `a = MultiHead(m_v, m_u, m_u)`;
//! `g = sum_u (e_uv / sum e) m_u`; `t = W_agg (a + g)`; `h' = GRU(t, m_v)`; `out = LayerNorm(Dropout(h'))`. A node
//! without neighbours gives `LayerNorm(m_v)`. Keys and values are made once per node, not per edge.

#![forbid(unsafe_code)]

mod blocks;
mod json;

use super::head_gates::{gated_map, take_heads};
use super::{GruCell, LayerNorm, Linear, Module, target_rows, visit_inside};
use crate::autograd::{Reduce, Tensor, tracked};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::memory;
use crate::real::Real;

/// Multi-head attention of each node over its neighbours (Vaswani et al. 2017).
#[derive(Clone, Debug)]
pub struct NeighborAttention<T: Real> {
    /// Queries.
    pub q: Linear<T>,
    /// Keys.
    pub k: Linear<T>,
    /// Values.
    pub v: Linear<T>,
    /// The map of the joined heads.
    pub out: Linear<T>,
    /// Number of heads.
    pub heads: usize,
    /// `(heads)`: a factor for each head's result (Michel et al. 2019).
    pub head_gates: Option<Tensor<T>>,
}

impl<T: Real> NeighborAttention<T> {
    /// Normal weights, zero biases.
    pub fn new(dim: usize, heads: usize, seed: u64) -> Result<Self> {
        if heads == 0 || !dim.is_multiple_of(heads) {
            return Err(Error::Config(format!("num_heads must divide the dimension {dim}, got {heads}")));
        }
        let map = |number: u64| Linear::normal(dim, dim, seed.wrapping_add(number));
        Ok(Self { q: map(0)?, k: map(1)?, v: map(2)?, out: map(3)?, heads, head_gates: None })
    }

    /// With some of its heads, rising, which are all that it then computes. Taking out heads whose gate is 0 changes no
    /// output.
    pub fn select_heads(&self, heads: &[u32]) -> Result<Self> {
        let taken = |parameter: &Tensor<T>, axis| take_heads(parameter, axis, 1, self.heads, heads);
        let map = |map: &Linear<T>| -> Result<Linear<T>> {
            let bias = map.bias.as_ref().map(|bias| taken(bias, 0)).transpose()?;
            Ok(Linear { weight: taken(&map.weight, 0)?, bias })
        };
        Ok(Self {
            q: map(&self.q)?,
            k: map(&self.k)?,
            v: map(&self.v)?,
            out: Linear { weight: taken(&self.out.weight, 1)?, bias: self.out.bias.clone() },
            heads: heads.len(),
            head_gates: self.head_gates.as_ref().map(|gates| taken(gates, 0)).transpose()?,
        })
    }

    /// The map of the joined heads, each head's columns times its gate.
    fn gated_out(&self) -> Result<Linear<T>> {
        let weight = gated_map(&self.out.weight, self.head_gates.as_ref(), self.heads)?;
        Ok(Linear { weight, bias: self.out.bias.clone() })
    }

    /// Each row of `x (N, dim)` attends over its neighbours' rows among `sources (num_sources, dim)`.
    pub fn forward(&self, x: &Tensor<T>, sources: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        // A bias of the keys adds the same to all of a node's scores: the softmax does not see it.
        let keys = sources.linear(&self.k.weight, None)?;
        let values = self.v.forward(sources)?;
        let heads = self.q.forward(x)?.neighbor_attention(&keys, &values, graph, self.heads)?;
        self.gated_out()?.forward(&heads)
    }
}

impl<T: Real> Module<T> for NeighborAttention<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        for (name, map) in [("q", &self.q), ("k", &self.k), ("v", &self.v), ("out", &self.out)] {
            visit_inside(name, map, visit);
        }
        if let Some(gates) = &self.head_gates {
            visit("head_gates", gates);
        }
    }
}

/// The layer of the `ruvector` package.
#[derive(Clone, Debug)]
pub struct RuvectorLayer<T: Real> {
    /// Messages, `in -> hidden`.
    pub w_msg: Linear<T>,
    /// What attention and mean bring together, `hidden -> hidden`.
    pub w_agg: Linear<T>,
    /// Attention over neighbours.
    pub attention: NeighborAttention<T>,
    /// The update of a node's state.
    pub w_update: GruCell<T>,
    /// The last step.
    pub norm: LayerNorm<T>,
}

impl<T: Real> RuvectorLayer<T> {
    /// Normal weights with standard deviation `sqrt(2 / (in + out))`, zero biases.
    pub fn new(ins: usize, hidden: usize, heads: usize, seed: u64) -> Result<Self> {
        Ok(Self {
            w_msg: Linear::normal(ins, hidden, seed)?,
            w_agg: Linear::normal(hidden, hidden, seed.wrapping_add(1))?,
            attention: NeighborAttention::new(hidden, heads, seed.wrapping_add(2))?,
            w_update: GruCell::new(hidden, hidden, seed.wrapping_add(6))?,
            norm: LayerNorm::new(hidden, 1e-5)?,
        })
    }

    /// `x (num_sources, in) -> (N, hidden)`; `dropout` is a rate and a seed.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph, dropout: Option<(f64, u64)>) -> Result<Tensor<T>> {
        target_rows("RuvectorLayer", x, graph)?;
        let messages = self.w_msg.forward(x)?;
        let parameters = self.parameters();
        let inputs: Vec<&Tensor<T>> = parameters.iter().chain([&messages]).collect();
        if dropout.is_none() && self.attention.heads <= blocks::HEADS && !tracked(&inputs) {
            return blocks::forward(self, &messages, graph);
        }
        let own = target_rows("RuvectorLayer", &messages, graph)?;
        let attended = self.attention.forward(&own, &messages, graph)?;
        let both = match graph.weights() {
            None => messages.aggregate_onto(graph, Reduce::Mean, false, attended)?,
            Some(_) => messages.aggregate_onto(&graph.row_normalize()?, Reduce::Sum, true, attended)?,
        };
        let input = self.w_agg.forward(&both)?;
        let state = self.w_update.forward(&input, &own)?;
        let state = match dropout {
            Some((rate, seed)) => state.dropout(rate, seed)?,
            None => state,
        };
        self.norm.forward(&keep_isolated(&state, &own, graph)?)
    }
}

/// The state, but the message of nodes that have no neighbours.
fn keep_isolated<T: Real>(state: &Tensor<T>, messages: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
    let isolated = |node: usize| graph.edges(node).is_empty();
    if !(0..graph.num_nodes()).any(isolated) {
        return Ok(state.clone());
    }
    let columns = state.shape().columns();
    let mask: Vec<bool> = memory::collect((0..state.count()).map(|at| !isolated(at / columns)));
    state.select(&mask, messages)
}

impl<T: Real> Module<T> for RuvectorLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("w_msg", &self.w_msg, visit);
        visit_inside("w_agg", &self.w_agg, visit);
        visit_inside("attention", &self.attention, visit);
        visit_inside("w_update", &self.w_update, visit);
        visit_inside("norm", &self.norm, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_of_input_and_weights() {
        let weights = [1.0, 2.0, 0.5, 3.0];
        let graph = Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 2, 3], 4, 4, Some(&weights)).unwrap();
        let layer = RuvectorLayer::<f64>::new(3, 4, 2, 5).unwrap();
        let named = layer.named_parameters();
        // The keys' bias has no effect and no gradient.
        let mut inputs: Vec<_> =
            named.iter().filter(|(name, _)| name != "attention.k.bias").map(|(_, p)| p.clone()).collect();
        assert_eq!((named.len(), inputs.len()), (26, 25));
        inputs.push(random(&[4, 3], 0));
        gradcheck(&inputs, |x| layer.forward(&x[25], &graph, Some((0.2, 7)))).unwrap();
        let gates = Tensor::parameter(vec![0.5, -2.0], &[2]).unwrap();
        let mut gated = layer.clone();
        gated.attention.head_gates = Some(gates.clone());
        gradcheck(&[gates], |_| gated.forward(&inputs[25], &graph, None)).unwrap();
    }

    #[test]
    fn with_and_without_a_tape_agree() {
        let (targets, sources) = ([0, 1, 1, 3, 3, 3, 5], [1, 0, 2, 3, 4, 0, 1]);
        for weights in [None, Some(&[1.0, 2.0, 0.5, 3.0, 0.1, 1.5, 4.0][..])] {
            let graph = Graph::from_edges(&targets, &sources, 6, 6, weights).unwrap();
            for heads in [1, 2, 3, 6] {
                let layer = RuvectorLayer::<f64>::new(3, 6, heads, 5).unwrap();
                for (number, parameter) in layer.parameters().iter().enumerate() {
                    let draws = random(parameter.dims(), 20 + number as u64).to_vec();
                    parameter.update(|values| values.copy_from_slice(&draws)).unwrap();
                }
                let x = random(&[6, 3], 0);
                let recorded = layer.forward(&x, &graph, None).unwrap().to_vec();
                let _guard = crate::autograd::no_grad();
                let got = layer.forward(&x, &graph, None).unwrap().to_vec();
                assert!(got.iter().zip(&recorded).all(|(a, b)| (a - b).abs() < 1e-12), "{heads} heads");
            }
        }
    }

    #[test]
    fn taking_out_heads_of_gate_zero_changes_nothing() {
        let graph = Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 2, 3], 4, 4, None).unwrap();
        let mut layer = RuvectorLayer::<f64>::new(3, 6, 3, 5).unwrap();
        layer.attention.head_gates = Some(Tensor::parameter(vec![0.5, 0.0, -2.0], &[3]).unwrap());
        let pruned =
            RuvectorLayer { attention: layer.attention.select_heads(&[0, 2]).unwrap(), ..layer.clone() };
        let x = random(&[4, 3], 0);
        let run = |layer: &RuvectorLayer<f64>| layer.forward(&x, &graph, None).unwrap().to_vec();
        let recorded = [run(&layer), run(&pruned)];
        let _guard = crate::autograd::no_grad();
        for other in [run(&layer), run(&pruned), recorded[1].clone()] {
            assert!(recorded[0].iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }

    #[test]
    fn a_node_without_neighbours_gives_its_normalized_message() {
        let graph = Graph::from_edges(&[0], &[1], 2, 2, None).unwrap();
        let layer = RuvectorLayer::<f64>::new(3, 4, 2, 5).unwrap();
        let x = random(&[2, 3], 0);
        let expected = layer.norm.forward(&layer.w_msg.forward(&x).unwrap()).unwrap().to_vec();
        assert_eq!(layer.forward(&x, &graph, Some((0.5, 1))).unwrap().to_vec()[4..], expected[4..]);
    }
}
