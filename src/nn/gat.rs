//! Graph attention (Velickovic et al. 2018), as PyG's `GATConv`.
//!
//! With `h = W x`, per head `alpha_ij = softmax_j(leaky_relu(att_dst h_i + att_src h_j + att_edge W_e e_ij))` and
//! `out_i = sum_j alpha_ij h_j`; heads are joined or averaged, and a bias is added. Edge weights are not looked at.

#![forbid(unsafe_code)]

use super::attention_edges::{AttentionEdges, join_heads};
use super::head_gates::take_heads;
use super::init::{self, Init};
use super::{HeadGates, Linear, Module, target_rows, visit_inside};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::graph::Graph;
use crate::memory;
use crate::number;
use crate::real::Real;

/// Graph attention.
#[derive(Clone, Debug)]
pub struct GatLayer<T: Real> {
    /// Without bias; `lin.weight (heads * out, in)`.
    pub lin: Linear<T>,
    /// `(1, heads, out)`.
    pub att_src: Tensor<T>,
    /// `(1, heads, out)`.
    pub att_dst: Tensor<T>,
    /// `(heads * out)`, or `(out)` for averaged heads.
    pub bias: Option<Tensor<T>>,
    /// The map of edge features, without bias, and `att_edge (1, heads, out)`.
    pub edge: Option<(Linear<T>, Tensor<T>)>,
    /// Whether heads are joined rather than averaged.
    pub concat_heads: bool,
    /// The slope of the leaky rectifier.
    pub slope: f64,
    /// Whether self loops are replaced by one per node.
    pub add_self_loops: bool,
    /// A factor for each head's result (Michel et al. 2019).
    pub head_gates: Option<HeadGates<T>>,
}

impl<T: Real> GatLayer<T> {
    /// Glorot weights, zero bias.
    pub fn new(ins: usize, outs: usize, heads: usize, edge_dim: Option<usize>, seed: u64) -> Result<Self> {
        let columns = heads * outs;
        let draw = |dims: &[usize], fans, number| {
            init::draw(Init::GlorotUniform, dims, fans, seed.wrapping_add(number))
        };
        let att = |number| draw(&[1, heads, outs], (heads, outs), number);
        let edge = match edge_dim {
            Some(dim) => {
                let weight = draw(&[columns, dim], (dim, columns), 3)?;
                Some((Linear { weight, bias: None }, att(4)?))
            }
            None => None,
        };
        Ok(Self {
            lin: Linear { weight: draw(&[columns, ins], (ins, columns), 0)?, bias: None },
            att_src: att(1)?,
            att_dst: att(2)?,
            bias: Some(init::constant(0.0, &[columns])?),
            edge,
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
        let edge = self.edge.as_ref().map(|(map, att)| -> Result<_> {
            Ok((Linear { weight: taken(&map.weight, 0)?, bias: None }, taken(att, 1)?))
        });
        let all = HeadGates::new(self.heads())?;
        let gates = self.head_gates.as_ref().unwrap_or(&all);
        Ok(Self {
            lin: Linear { weight: taken(&self.lin.weight, 0)?, bias: None },
            att_src: taken(&self.att_src, 1)?,
            att_dst: taken(&self.att_dst, 1)?,
            edge: edge.transpose()?,
            head_gates: Some(gates.select(heads)?),
            ..self.clone()
        })
    }

    /// `x (num_sources, in) -> (N, heads * out)`, or `(N, out)` for averaged heads; `edge_attr (E, edge_dim)` in the order
    /// of the edges as given; `dropout` is a rate and a seed, for the attention weights.
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
        let Prepared { edges, rows, terms, edge_terms } = self.prepare(x, graph, edge_attr)?;
        let bias = self.bias.as_ref();
        let plain = self.concat_heads && self.head_gates.is_none();
        let inside = bias.filter(|_| plain);
        let slope = self.slope()?;
        let out = rows.additive_attention(&terms, edge_terms.as_ref(), &edges.graph, slope, inside)?;
        if plain { Ok(out) } else { self.join(out) }
    }

    /// As [`forward`](Self::forward), with the graph that was attended over and the weights `(E', heads)` of its edges in
    /// row order, before dropout.
    pub fn forward_with_attention(
        &self,
        x: &Tensor<T>,
        graph: &Graph,
        edge_attr: Option<&Tensor<T>>,
        dropout: Option<(f64, u64)>,
    ) -> Result<(Tensor<T>, Graph, Tensor<T>)> {
        let Prepared { edges, rows, terms, edge_terms } = self.prepare(x, graph, edge_attr)?;
        let alpha = Tensor::additive_weights(&terms, edge_terms.as_ref(), &edges.graph, self.slope()?)?;
        let kept = match dropout {
            Some((rate, seed)) => alpha.dropout(rate, seed)?,
            None => alpha.clone(),
        };
        let out = rows.aggregate_heads(&edges.graph, &kept)?;
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
        self.att_src.dims()[1]
    }

    fn prepare(&self, x: &Tensor<T>, graph: &Graph, edge_attr: Option<&Tensor<T>>) -> Result<Prepared<T>> {
        target_rows("GATLayer", x, graph)?;
        let edges = AttentionEdges::of(graph, self.add_self_loops)?;
        let rows = self.lin.forward(x)?;
        let att = Tensor::concat(&[per_head(&self.att_src)?, per_head(&self.att_dst)?], 1)?;
        let terms = rows.matmul(&att)?;
        let edge_terms = match (edges.features("GATLayer", edge_attr, self.edge.is_some())?, &self.edge) {
            (Some(features), Some((map, att))) => {
                // att_edge (W_e e) = (att_edge W_e) e, one row per head.
                let folded = per_head(att)?.transpose()?.matmul(&map.weight)?;
                Some(edges.arrange(&features.linear(&folded, None)?)?)
            }
            _ => None,
        };
        Ok(Prepared { edges, rows, terms, edge_terms })
    }
}

struct Prepared<T: Real> {
    edges: AttentionEdges,
    rows: Tensor<T>,
    /// `(num_sources, 2 heads)`: of a node as a source, then as a target.
    terms: Tensor<T>,
    edge_terms: Option<Tensor<T>>,
}

/// `att (1, heads, out)` as the matrix `(heads * out, heads)` that takes all heads' products at once: column `h` holds
/// head `h`'s values in its rows and zeros elsewhere.
fn per_head<T: Real>(att: &Tensor<T>) -> Result<Tensor<T>> {
    let (heads, outs) = (att.dims()[1], att.dims()[2]);
    let own = |at: usize| if at / heads / outs == at % heads { T::ONE } else { T::ZERO };
    let mask: Vec<T> = memory::collect((0..heads * outs * heads).map(own));
    att.reshape(&[heads * outs, 1])?.mul(&Tensor::new(mask, &[heads * outs, heads])?)
}

impl<T: Real> Module<T> for GatLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("lin", &self.lin, visit);
        visit("att_src", &self.att_src);
        visit("att_dst", &self.att_dst);
        if let Some(bias) = &self.bias {
            visit("bias", bias);
        }
        if let Some((map, att)) = &self.edge {
            visit_inside("lin_edge", map, visit);
            visit("att_edge", att);
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

    fn layer(x: &[Tensor<f64>], concat_heads: bool) -> GatLayer<f64> {
        GatLayer {
            lin: Linear { weight: x[1].clone(), bias: None },
            att_src: x[2].clone(),
            att_dst: x[3].clone(),
            bias: Some(x[4].clone()),
            edge: x.get(6).map(|weight| (Linear { weight: weight.clone(), bias: None }, x[5].clone())),
            concat_heads,
            slope: 0.2,
            add_self_loops: true,
            head_gates: None,
        }
    }

    #[test]
    fn gradients_of_input_weights_and_edge_features() {
        let graph = Graph::from_edges(&[0, 1, 1, 3, 3], &[1, 0, 2, 3, 0], 4, 4, None).unwrap();
        for (concat_heads, bias) in [(true, 6), (false, 3)] {
            let mut inputs = vec![random(&[4, 5], 0), random(&[6, 5], 1)];
            inputs.extend([random(&[1, 2, 3], 2), random(&[1, 2, 3], 3), random(&[bias], 4)]);
            gradcheck(&inputs, |x| layer(x, concat_heads).forward(&x[0], &graph, None, None)).unwrap();
            gradcheck(&inputs, |x| layer(x, concat_heads).forward(&x[0], &graph, None, Some((0.3, 5))))
                .unwrap();
            inputs.extend([random(&[1, 2, 3], 5), random(&[6, 2], 6), random(&[5, 2], 7)]);
            gradcheck(&inputs, |x| layer(x, concat_heads).forward(&x[0], &graph, Some(&x[7]), None)).unwrap();
        }
    }

    #[test]
    fn weights_sum_to_one_and_give_the_same_output() {
        let graph = Graph::from_edges(&[0, 0, 2], &[1, 2, 0], 3, 3, None).unwrap();
        let gat = GatLayer::<f64>::new(5, 3, 2, None, 1).unwrap();
        let x = random(&[3, 5], 0);
        let (out, attended, alpha) = gat.forward_with_attention(&x, &graph, None, None).unwrap();
        assert_eq!(out.to_vec(), gat.forward(&x, &graph, None, None).unwrap().to_vec());
        let alpha = alpha.to_vec();
        for node in 0..3 {
            for head in 0..2 {
                let sum: f64 = attended.edges(node).map(|edge| alpha[edge * 2 + head]).sum();
                assert!((sum - 1.0).abs() < 1e-12);
            }
        }
        assert!(gat.forward(&x, &graph, Some(&random(&[3, 2], 1)), None).is_err());
    }

    #[test]
    fn taking_out_heads_of_gate_zero_changes_nothing() {
        let graph = Graph::from_edges(&[0, 1, 1, 3, 3], &[1, 0, 2, 3, 0], 4, 4, None).unwrap();
        let (x, features) = (random(&[4, 5], 0), random(&[5, 2], 1));
        for concat_heads in [true, false] {
            let plain = GatLayer { concat_heads, ..GatLayer::<f64>::new(5, 3, 4, Some(2), 1).unwrap() };
            let bias = Some(random(&[if concat_heads { 12 } else { 3 }], 2));
            let layer = GatLayer { head_gates: Some(HeadGates::new(4).unwrap()), bias, ..plain };
            let run = |layer: &GatLayer<f64>, dropout| {
                layer.forward(&x, &graph, Some(&features), dropout).unwrap().to_vec()
            };
            let open = run(&layer, None);
            let ungated = GatLayer { head_gates: None, ..layer.clone() };
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
