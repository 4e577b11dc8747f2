//! Graph attention with dynamic scores (Brody et al. 2022), as PyG's `GATv2Conv`.
//!
//! With `l = W_l x + b_l` of the source and `r = W_r x + b_r` of the node itself, per head
//! `alpha_ij = softmax_j(att leaky_relu(r_i + l_j + W_e e_ij))` and `out_i = sum_j alpha_ij l_j`; heads are joined or
//! averaged, and a bias is added. Edge weights are not looked at.

#![forbid(unsafe_code)]

use super::attention_edges::{AttentionEdges, join_heads};
use super::head_gates::take_heads;
use super::init::{self, Init};
use super::{HeadGates, Linear, Module, target_rows, visit_inside};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::graph::Graph;
use crate::number;
use crate::real::Real;

/// Graph attention with dynamic scores.
#[derive(Clone, Debug)]
pub struct GatV2Layer<T: Real> {
    /// The map of the sources; `weight (heads * out, in)`.
    pub lin_l: Linear<T>,
    /// The map of the nodes that attend.
    pub lin_r: Linear<T>,
    /// `(1, heads, out)`.
    pub att: Tensor<T>,
    /// `(heads * out)`, or `(out)` for averaged heads.
    pub bias: Option<Tensor<T>>,
    /// The map of edge features, without bias.
    pub lin_edge: Option<Linear<T>>,
    /// Whether heads are joined rather than averaged.
    pub concat_heads: bool,
    /// The slope of the leaky rectifier.
    pub slope: f64,
    /// Whether self loops are replaced by one per node.
    pub add_self_loops: bool,
    /// A factor for each head's result (Michel et al. 2019).
    pub head_gates: Option<HeadGates<T>>,
}

impl<T: Real> GatV2Layer<T> {
    /// Glorot weights, biases of the maps uniform in `±1 / sqrt(in)`, zero bias of the result.
    pub fn new(ins: usize, outs: usize, heads: usize, edge_dim: Option<usize>, seed: u64) -> Result<Self> {
        let columns = heads * outs;
        let draw =
            |init, dims: &[usize], fans, number| init::draw(init, dims, fans, seed.wrapping_add(number));
        let map = |number| -> Result<Linear<T>> {
            let weight = draw(Init::GlorotUniform, &[columns, ins], (ins, columns), number)?;
            Ok(Linear { weight, bias: Some(draw(Init::FanIn, &[columns], (ins, columns), number + 1)?) })
        };
        let edge = |dim| draw(Init::GlorotUniform, &[columns, dim], (dim, columns), 5);
        let weight = edge_dim.map(edge).transpose()?;
        Ok(Self {
            lin_l: map(0)?,
            lin_r: map(2)?,
            att: draw(Init::GlorotUniform, &[1, heads, outs], (heads, outs), 4)?,
            bias: Some(init::constant(0.0, &[columns])?),
            lin_edge: weight.map(|weight| Linear { weight, bias: None }),
            concat_heads: true,
            slope: 0.2,
            add_self_loops: true,
            head_gates: None,
        })
    }

    /// The layer with some of the heads that it has, by their places, rising: all that it then computes. The result keeps
    /// its width, and is what gates of 0 for the others would give.
    pub fn select_heads(&self, heads: &[u32]) -> Result<Self> {
        let taken = |parameter: &Tensor<T>, axis| take_heads(parameter, axis, 1, self.heads(), heads);
        let map = |map: &Linear<T>| -> Result<Linear<T>> {
            let bias = map.bias.as_ref().map(|bias| taken(bias, 0)).transpose()?;
            Ok(Linear { weight: taken(&map.weight, 0)?, bias })
        };
        let all = HeadGates::new(self.heads())?;
        let gates = self.head_gates.as_ref().unwrap_or(&all);
        Ok(Self {
            lin_l: map(&self.lin_l)?,
            lin_r: map(&self.lin_r)?,
            att: taken(&self.att, 1)?,
            lin_edge: self.lin_edge.as_ref().map(map).transpose()?,
            head_gates: Some(gates.select(heads)?),
            ..self.clone()
        })
    }

    /// As [`GatLayer::forward`](super::GatLayer::forward).
    pub fn forward(
        &self,
        x: &Tensor<T>,
        graph: &Graph,
        edge_attr: Option<&Tensor<T>>,
        dropout: Option<(f64, u64)>,
    ) -> Result<Tensor<T>> {
        if dropout.is_some() {
            return Ok(self.forward_with_attention(x, graph, edge_attr, dropout)?.0);
        }
        let Prepared { edges, left, right, edge } = self.prepare(x, graph, edge_attr)?;
        let (terms, bias) = ([&left, &right], self.bias.as_ref());
        let plain = self.concat_heads && self.head_gates.is_none();
        let inside = bias.filter(|_| plain);
        let out = left.dynamic_attention(
            terms,
            edge.as_ref(),
            (&self.att, self.heads()),
            &edges.graph,
            self.slope()?,
            inside,
        )?;
        if plain { Ok(out) } else { self.join(out) }
    }

    /// As [`GatLayer::forward_with_attention`](super::GatLayer::forward_with_attention).
    pub fn forward_with_attention(
        &self,
        x: &Tensor<T>,
        graph: &Graph,
        edge_attr: Option<&Tensor<T>>,
        dropout: Option<(f64, u64)>,
    ) -> Result<(Tensor<T>, Graph, Tensor<T>)> {
        let Prepared { edges, left, right, edge } = self.prepare(x, graph, edge_attr)?;
        let weight = (&self.att, self.heads());
        let alpha =
            Tensor::dynamic_weights([&left, &right], edge.as_ref(), weight, &edges.graph, self.slope()?)?;
        let kept = match dropout {
            Some((rate, seed)) => alpha.dropout(rate, seed)?,
            None => alpha.clone(),
        };
        let out = left.aggregate_heads(&edges.graph, &kept)?;
        Ok((self.join(out)?, edges.graph, alpha))
    }

    /// From all heads' results, without the bias.
    fn join(&self, out: Tensor<T>) -> Result<Tensor<T>> {
        join_heads(out, self.heads(), self.concat_heads, self.head_gates.as_ref(), self.bias.as_ref())
    }

    fn slope(&self) -> Result<T> {
        Ok(T::of(number::finite("leaky_relu_slope", self.slope)?))
    }

    fn heads(&self) -> usize {
        self.att.dims()[1]
    }

    fn prepare(&self, x: &Tensor<T>, graph: &Graph, edge_attr: Option<&Tensor<T>>) -> Result<Prepared<T>> {
        let targets = target_rows("GATv2Layer", x, graph)?;
        let edges = AttentionEdges::of(graph, self.add_self_loops)?;
        let (left, right) = (self.lin_l.forward(x)?, self.lin_r.forward(&targets)?);
        let features = edges.features("GATv2Layer", edge_attr, self.lin_edge.is_some())?;
        let edge = match (features, &self.lin_edge) {
            (Some(features), Some(map)) => Some(edges.arrange(&map.forward(features)?)?),
            _ => None,
        };
        Ok(Prepared { edges, left, right, edge })
    }
}

/// The edges, the rows of sources and nodes, and the terms of the edges themselves.
struct Prepared<T: Real> {
    edges: AttentionEdges,
    left: Tensor<T>,
    right: Tensor<T>,
    edge: Option<Tensor<T>>,
}

impl<T: Real> Module<T> for GatV2Layer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit("att", &self.att);
        visit_inside("lin_l", &self.lin_l, visit);
        visit_inside("lin_r", &self.lin_r, visit);
        if let Some(bias) = &self.bias {
            visit("bias", bias);
        }
        if let Some(map) = &self.lin_edge {
            visit_inside("lin_edge", map, visit);
        }
        if let Some(gates) = &self.head_gates {
            visit("head_gates", &gates.values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_of_input_weights_and_edge_features() {
        let graph = Graph::from_edges(&[0, 1, 1, 3, 3], &[1, 0, 2, 3, 0], 4, 4, None).unwrap();
        for (concat_heads, bias) in [(true, 6), (false, 3)] {
            let inputs = [
                random(&[4, 5], 0),
                random(&[6, 5], 1),
                random(&[6], 2),
                random(&[6, 5], 3),
                random(&[6], 4),
                random(&[1, 2, 3], 5),
                random(&[bias], 6),
                random(&[6, 2], 7),
                random(&[5, 2], 8),
            ];
            for (dropout, edge) in [(None, true), (Some((0.3, 5)), true), (None, false)] {
                gradcheck(&inputs[..if edge { 9 } else { 7 }], |x| {
                    let map = |i: usize| Linear { weight: x[i].clone(), bias: Some(x[i + 1].clone()) };
                    let layer = GatV2Layer {
                        lin_l: map(1),
                        lin_r: map(3),
                        att: x[5].clone(),
                        bias: Some(x[6].clone()),
                        lin_edge: edge.then(|| Linear { weight: x[7].clone(), bias: None }),
                        concat_heads,
                        slope: 0.2,
                        add_self_loops: true,
                        head_gates: None,
                    };
                    layer.forward(&x[0], &graph, x.get(8), dropout)
                })
                .unwrap();
            }
        }
    }

    #[test]
    fn taking_out_heads_of_gate_zero_changes_nothing() {
        let graph = Graph::from_edges(&[0, 1, 1, 3, 3], &[1, 0, 2, 3, 0], 4, 4, None).unwrap();
        let (x, features) = (random(&[4, 5], 0), random(&[5, 2], 1));
        for concat_heads in [true, false] {
            let plain = GatV2Layer { concat_heads, ..GatV2Layer::<f64>::new(5, 3, 4, Some(2), 1).unwrap() };
            let bias = Some(random(&[if concat_heads { 12 } else { 3 }], 2));
            let layer = GatV2Layer { head_gates: Some(HeadGates::new(4).unwrap()), bias, ..plain };
            let run = |layer: &GatV2Layer<f64>, dropout| {
                layer.forward(&x, &graph, Some(&features), dropout).unwrap().to_vec()
            };
            let open = run(&layer, None);
            let ungated = GatV2Layer { head_gates: None, ..layer.clone() };
            assert!(open.iter().zip(run(&ungated, None)).all(|(a, b)| (a - b).abs() < 1e-14));
            layer
                .head_gates
                .as_ref()
                .unwrap()
                .values
                .update(|gates| gates.copy_from_slice(&[0.0, 2.0, 0.0, -1.0]))
                .unwrap();
            let fewer = layer.select_heads(&[1, 2, 3]).unwrap();
            let pruned = fewer.select_heads(&[0, 2]).unwrap();
            let gates = pruned.head_gates.as_ref().unwrap();
            assert_eq!((&gates.kept[..], gates.total, pruned.heads()), (&[1, 3][..], 4, 2));
            for dropout in [None, Some((1e-9, 3))] {
                let (all, some) = (run(&layer, dropout), run(&pruned, dropout));
                assert!(all.len() == some.len() && all.iter().zip(&some).all(|(a, b)| (a - b).abs() < 1e-8));
            }
            gradcheck(&pruned.parameters(), |_| pruned.forward(&x, &graph, Some(&features), None)).unwrap();
        }
    }
}
