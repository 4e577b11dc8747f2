//! Graph convolution (Kipf & Welling 2017), as PyG's `GCNConv`.
//!
//! `out = act(D^-1/2 (A + I) D^-1/2 x W^T + b)`. The map runs first where it makes rows shorter, else after the
//! sums: products and sums commute, and sums are what costs.

#![forbid(unsafe_code)]

use super::init::{self, Init};
use super::{Activation, Linear, Module, target_rows, visit_inside};
use crate::autograd::{Reduce, Tensor};
use crate::error::Result;
use crate::graph::Graph;
use crate::real::Real;

/// A graph convolution.
#[derive(Clone, Debug)]
pub struct GcnLayer<T: Real> {
    /// Without bias; `lin.weight (out, in)`.
    pub lin: Linear<T>,
    /// `(out)`.
    pub bias: Option<Tensor<T>>,
    /// Whether nodes without a loop get one of weight 1.
    pub add_self_loops: bool,
    /// Applied to the result.
    pub activation: Option<Activation>,
}

impl<T: Real> GcnLayer<T> {
    /// Glorot weights, zero bias.
    pub fn new(ins: usize, outs: usize, bias: bool, seed: u64) -> Result<Self> {
        let weight = init::draw(Init::GlorotUniform, &[outs, ins], (ins, outs), seed)?;
        let bias = bias.then(|| init::constant(0.0, &[outs])).transpose()?;
        Ok(Self { lin: Linear { weight, bias: None }, bias, add_self_loops: true, activation: None })
    }

    /// `x (num_sources, in) -> (N, out)`; over a sampled block by the degrees of its whole graph, see
    /// [`Graph::gcn_normalize`].
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        target_rows("GCNLayer", x, graph)?;
        let graph = graph.gcn_normalize(self.add_self_loops)?;
        // A block has many more sources than rows: summing first leaves fewer rows to map.
        let square = graph.num_sources() == graph.num_nodes();
        let (outs, ins) = self.lin.weight.shape().matrix("GCNLayer", "lin.weight")?;
        let out = if square && outs <= ins {
            let rows = self.lin.forward(x)?;
            match &self.bias {
                Some(bias) => rows.aggregate_onto(&graph, Reduce::Sum, true, bias.clone())?,
                None => rows.aggregate(&graph, Reduce::Sum)?,
            }
        } else {
            x.aggregate(&graph, Reduce::Sum)?.linear(&self.lin.weight, self.bias.as_ref())?
        };
        self.activation.map_or(Ok(out.clone()), |activation| activation.apply(&out))
    }
}

impl<T: Real> Module<T> for GcnLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("lin", &self.lin, visit);
        if let Some(bias) = &self.bias {
            visit("bias", bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_whichever_comes_first() {
        let graph =
            Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 2, 3], 4, 4, Some(&[1.0, 2.0, 0.5, 3.0])).unwrap();
        for (ins, outs) in [(5, 2), (2, 5)] {
            let inputs = [random(&[4, ins], 0), random(&[outs, ins], 1), random(&[outs], 2)];
            gradcheck(&inputs, |x| {
                GcnLayer {
                    lin: Linear { weight: x[1].clone(), bias: None },
                    bias: Some(x[2].clone()),
                    add_self_loops: true,
                    activation: Some(Activation::Tanh),
                }
                .forward(&x[0], &graph)
            })
            .unwrap();
        }
    }
}
