//! E(n)-equivariant message passing (Satorras et al. 2021): features do not change and coordinates follow when all
//! coordinates are rotated, mirrored or moved.
//!
//! ```text
//! m_ij = edge_mlp(h_i, h_j, |x_i - x_j|^2, e_ij)
//! x'_i = x_i + mean_j (x_i - x_j) coord_mlp(m_ij)
//! h'_i = node_mlp(h_i, sum_j m_ij)
//! ```
//!
//! The first map of `edge_mlp` is taken apart: the products with `h` are made once per node, not per edge.

#![forbid(unsafe_code)]

use super::{Activation, Linear, Module, Sequential, Step, init, target_rows, visit_inside};
use crate::autograd::{Reduce, Tensor};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;

/// E(n)-equivariant message passing.
#[derive(Clone, Debug)]
pub struct EgnnLayer<T: Real> {
    /// The first map of messages, `(hidden, 2 in + 1 + edge_dim)`.
    pub edge_first: Linear<T>,
    /// The second, `(hidden, hidden)`.
    pub edge_second: Linear<T>,
    /// Messages to a factor of coordinate differences.
    pub coord_mlp: Sequential<T>,
    /// Features and messages to features.
    pub node_mlp: Sequential<T>,
}

impl<T: Real> EgnnLayer<T> {
    /// As PyTorch draws linear maps; the last map of coordinates begins small, as in the authors' code.
    pub fn new(ins: usize, outs: usize, hidden: usize, edge_dim: usize, seed: u64) -> Result<Self> {
        let seed = |number: u64| seed.wrapping_add(number);
        let small = init::draw::<T>(init::Init::GlorotUniform, &[1, hidden], (hidden, 1), seed(6))?;
        small.update(|weights| weights.iter_mut().for_each(|weight| *weight *= T::of(1e-3)))?;
        let coord_mlp = Sequential(vec![
            Step::Linear(Linear::new(hidden, hidden, true, seed(4))?),
            Step::Activation(Activation::Silu),
            Step::Linear(Linear { weight: small, bias: None }),
        ]);
        Ok(Self {
            edge_first: Linear::new(2 * ins + 1 + edge_dim, hidden, true, seed(0))?,
            edge_second: Linear::new(hidden, hidden, true, seed(2))?,
            coord_mlp,
            node_mlp: Sequential::mlp(&[ins + hidden, hidden, outs], Activation::Silu, seed(8))?,
        })
    }

    /// `h (num_sources, in)` and coordinates `(num_sources, n)` to `(N, out)` and `(N, n)`; `edge_attr (E, edge_dim)` in the order of the edges
    /// as given.
    pub fn forward(
        &self,
        h: &Tensor<T>,
        graph: &Graph,
        coordinates: &Tensor<T>,
        edge_attr: Option<&Tensor<T>>,
    ) -> Result<(Tensor<T>, Tensor<T>)> {
        let own_features = target_rows("EGNNLayer", h, graph)?;
        if coordinates.dims().len() != 2 || coordinates.dims()[0] != graph.num_sources() {
            let (shape, sources) = (coordinates.shape(), graph.num_sources());
            return Err(Error::Shape(format!("EGNNLayer: pos of shape {shape} for {sources} rows of h")));
        }
        let position = target_rows("EGNNLayer", coordinates, graph)?;
        let ends = [&graph.targets()[..], graph.indices()];
        let [own, other] = ends.map(|nodes| coordinates.index_select(nodes));
        let differences = own?.sub(&other?)?;
        let messages = self.messages(h, graph, ends, &differences, edge_attr)?;
        let moves = differences.mul(&self.coord_mlp.forward(&messages)?)?;
        let moved = position.add(&moves.aggregate_edges(graph, Reduce::Mean)?)?;
        let joined = Tensor::concat(&[own_features, messages.aggregate_edges(graph, Reduce::Sum)?], 1)?;
        Ok((self.node_mlp.forward(&joined)?, moved))
    }

    /// `m_ij`, one row per edge in row order.
    fn messages(
        &self,
        h: &Tensor<T>,
        graph: &Graph,
        [targets, sources]: [&[u32]; 2],
        differences: &Tensor<T>,
        edge_attr: Option<&Tensor<T>>,
    ) -> Result<Tensor<T>> {
        let (ins, columns) = (h.dims()[1], self.edge_first.weight.shape().columns());
        let edge_dim = columns.checked_sub(2 * ins + 1).ok_or_else(|| {
            Error::Shape(format!(
                "EGNNLayer: h has {ins} columns, expected {}",
                columns.saturating_sub(1) / 2
            ))
        })?;
        let part = |from: usize, to: usize| self.edge_first.weight.slice(1, from..to);
        let own = h.linear(&part(0, ins)?, self.edge_first.bias.as_ref())?.index_select(targets)?;
        let other = h.linear(&part(ins, 2 * ins)?, None)?.index_select(sources)?;
        let squares = differences.mul(differences)?.sum_axis(1, true)?;
        let mut first = own.add(&other)?.add(&squares.linear(&part(2 * ins, 2 * ins + 1)?, None)?)?;
        match edge_attr {
            None if edge_dim == 0 => {}
            Some(features) if *features.dims() == [graph.num_edges(), edge_dim] && edge_dim > 0 => {
                let terms = features.linear(&part(2 * ins + 1, columns)?, None)?;
                let terms =
                    graph.edge_order().map_or(Ok(terms.clone()), |order| terms.index_select(order))?;
                first = first.add(&terms)?;
            }
            given => {
                let given = given.map_or("none".into(), |features| format!("shape {}", features.shape()));
                let edges = graph.num_edges();
                return Err(Error::Shape(format!(
                    "EGNNLayer: h has {ins} columns, which leaves {edge_dim} for edge_attr of {edges} edges, got {given}"
                )));
            }
        }
        self.edge_second.forward(&first.silu()?)?.silu()
    }
}

impl<T: Real> Module<T> for EgnnLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("edge_mlp.0", &self.edge_first, visit);
        visit_inside("edge_mlp.2", &self.edge_second, visit);
        visit_inside("coord_mlp", &self.coord_mlp, visit);
        visit_inside("node_mlp", &self.node_mlp, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    fn graph() -> Graph {
        Graph::from_edges(&[3, 0, 1, 1, 0], &[2, 1, 0, 2, 1], 5, 5, None).unwrap()
    }

    #[test]
    fn gradients_of_features_coordinates_and_weights() {
        let layer = EgnnLayer::<f64>::new(2, 3, 4, 2, 1).unwrap();
        let mut inputs = vec![random(&[5, 2], 0), random(&[5, 3], 1), random(&[5, 2], 2)];
        inputs.extend(layer.parameters());
        gradcheck(&inputs, |x| {
            let (h, moved) = layer.forward(&x[0], &graph(), &x[1], Some(&x[2]))?;
            Tensor::concat(&[h, moved.affine(100.0, 0.0)?], 1)
        })
        .unwrap();
    }

    #[test]
    fn features_stay_and_coordinates_follow_a_motion() {
        let layer = EgnnLayer::<f64>::new(2, 3, 4, 0, 1).unwrap();
        let Step::Linear(last) = &layer.coord_mlp.0[2] else { panic!() };
        last.weight.update(|weights| weights.iter_mut().for_each(|weight| *weight *= 1000.0)).unwrap();
        let (h, x) = (random(&[5, 2], 0), random(&[5, 2], 1));
        // Mirrored, turned and moved.
        let (turn, by) = (Tensor::new(vec![0.6, 0.8, 0.8, -0.6], &[2, 2]).unwrap(), random(&[1, 2], 2));
        let motion = |x: &Tensor<f64>| x.matmul(&turn).unwrap().add(&by).unwrap();
        let (features, moved) = layer.forward(&h, &graph(), &x, None).unwrap();
        let (others, followed) = layer.forward(&h, &graph(), &motion(&x), None).unwrap();
        let close = |a: &Tensor<f64>, b: &Tensor<f64>| {
            a.to_vec().iter().zip(b.to_vec()).all(|(a, b)| (a - b).abs() < 1e-12)
        };
        assert!(close(&features, &others) && close(&motion(&moved), &followed));
        assert!(!close(&moved, &x));
        assert_eq!(moved.to_vec()[8..], x.to_vec()[8..], "a node without neighbours stays");
    }

    #[test]
    fn shapes_must_fit() {
        let layer = EgnnLayer::<f64>::new(2, 3, 4, 1, 1).unwrap();
        let (h, x, e) = (random(&[5, 2], 0), random(&[5, 3], 1), random(&[5, 1], 2));
        assert!(layer.forward(&h, &graph(), &x, Some(&e)).is_ok());
        for (h, x, e) in [
            (&h, &x, None),
            (&h, &h.slice(0, 0..4).unwrap(), Some(&e)),
            (&x, &x, Some(&e)),
            (&h, &x, Some(&h)),
        ] {
            assert!(matches!(layer.forward(h, &graph(), x, e), Err(Error::Shape(_))));
        }
    }
}
