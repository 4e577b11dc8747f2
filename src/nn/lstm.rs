//! Long short-term memory (Hochreiter & Schmidhuber 1997), one layer, as `torch.nn.LSTM` with the batch first.
//!
//! `[i f g o] = x_t W_ih^T + b_ih + h W_hh^T + b_hh`, `c' = s(f) c + s(i) tanh(g)`, `h' = s(o) tanh(c')`.

#![forbid(unsafe_code)]

use super::Module;
use super::init::{self, Init};
use crate::autograd::{Sequences, Tensor};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;
use std::sync::Arc;

/// A layer of long short-term memory.
///
/// ```
/// use ruvector_gnn::autograd::Tensor;
/// use ruvector_gnn::nn::Lstm;
/// let run = Lstm::<f32>::new(3, 4, 0)?.forward(&Tensor::zeros(&[2, 5, 3])?, None)?;
/// assert_eq!((run.states.dims(), run.h.dims()), (&[2, 5, 4][..], &[2, 4][..]));
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lstm<T: Real> {
    /// `(4 hidden, in)`, gates in the order input, forget, candidate, output.
    pub weight_ih: Tensor<T>,
    /// `(4 hidden, hidden)`.
    pub weight_hh: Tensor<T>,
    /// `(4 hidden)`.
    pub bias_ih: Tensor<T>,
    /// `(4 hidden)`.
    pub bias_hh: Tensor<T>,
}

/// What a run over sequences gives.
#[derive(Clone, Debug)]
pub struct LstmRun<T: Real> {
    /// `h` at every step: `(batch, length, hidden)`.
    pub states: Tensor<T>,
    /// `h` at the end: `(batch, hidden)`.
    pub h: Tensor<T>,
    /// `c` at the end: `(batch, hidden)`.
    pub c: Tensor<T>,
}

impl<T: Real> Lstm<T> {
    /// Drawn as PyTorch does: all uniform in `±1 / sqrt(hidden)`.
    pub fn new(ins: usize, hidden: usize, seed: u64) -> Result<Self> {
        let draw = |dims: &[usize], number: u64| {
            init::draw(Init::FanIn, dims, (hidden, hidden), seed.wrapping_add(number))
        };
        Ok(Self {
            weight_ih: draw(&[4 * hidden, ins], 0)?,
            weight_hh: draw(&[4 * hidden, hidden], 1)?,
            bias_ih: draw(&[4 * hidden], 2)?,
            bias_hh: draw(&[4 * hidden], 3)?,
        })
    }

    /// Runs over `x (batch, length, in)`, from the states `(h, c)`, each `(batch, hidden)`, or from zeros.
    pub fn forward(&self, x: &Tensor<T>, state: Option<(&Tensor<T>, &Tensor<T>)>) -> Result<LstmRun<T>> {
        let &[batch, length, ins] = x.dims() else {
            return Err(Error::Shape(format!("lstm: x must have 3 dimensions, got shape {}", x.shape())));
        };
        if length == 0 {
            return Err(Error::Shape(format!("lstm: x of shape {} holds no step", x.shape())));
        }
        let hidden = self.weight_hh.shape().columns();
        let zeros = Tensor::zeros(&[batch, hidden])?;
        let (h, c) = state.unwrap_or((&zeros, &zeros));
        let inputs = x.reshape(&[batch * length, ins])?.linear(&self.weight_ih, None)?;
        let sequences = Arc::new(Sequences::dense(batch, length));
        let run = inputs.lstm(&self.weight_hh, &self.bias()?, [h, c], &sequences)?;
        let [h, c] = [0, 1].map(|part| run.slice(0, part..part + 1));
        let (h, c) = (h?.reshape(&[length, batch, hidden])?, c?.reshape(&[length, batch, hidden])?);
        let last = |all: &Tensor<T>| all.slice(0, length - 1..length)?.reshape(&[batch, hidden]);
        Ok(LstmRun { states: h.swap_axes(0, 1)?, h: last(&h)?, c: last(&c)? })
    }

    /// For each node the last `h` of a run over its neighbours' rows of `x (num_sources, in)`, in row order:
    /// `(num_nodes, hidden)`. With `padded` every run goes on over zeros to the length of the graph's longest row, as
    /// PyG's `LSTMAggregation`; without, a node without neighbours gives 0.
    pub fn over_neighbors(&self, x: &Tensor<T>, graph: &Graph, padded: bool) -> Result<Tensor<T>> {
        let (rows, _) = x.shape().matrix("lstm", "x")?;
        if rows != graph.num_sources() {
            let shapes = format!("x of shape {} over a graph of {} nodes", x.shape(), graph.num_sources());
            return Err(Error::Shape(format!("lstm: {shapes}")));
        }
        let sequences = Arc::new(Sequences::neighbors(graph, padded));
        x.linear(&self.weight_ih, None)?.lstm_last(&self.weight_hh, &self.bias()?, &sequences)
    }

    fn bias(&self) -> Result<Tensor<T>> {
        self.bias_ih.add(&self.bias_hh)
    }
}

impl<T: Real> Module<T> for Lstm<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit("weight_ih_l0", &self.weight_ih);
        visit("weight_hh_l0", &self.weight_hh);
        visit("bias_ih_l0", &self.bias_ih);
        visit("bias_hh_l0", &self.bias_hh);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_of_every_result() {
        let layer = Lstm::<f64>::new(3, 2, 4).unwrap();
        let mut inputs = layer.parameters();
        inputs.extend([random(&[2, 4, 3], 0), random(&[2, 2], 1), random(&[2, 2], 2)]);
        gradcheck(&inputs, |x| {
            let run = layer.forward(&x[4], Some((&x[5], &x[6])))?;
            Tensor::concat(&[run.states.reshape(&[8, 2])?, run.h, run.c], 0)
        })
        .unwrap();
    }

    #[test]
    fn gradients_over_neighbours() {
        let graph = Graph::from_edges(&[0, 0, 1, 3], &[1, 2, 0, 3], 4, 4, None).unwrap();
        let layer = Lstm::<f64>::new(3, 2, 4).unwrap();
        let inputs = [layer.parameters(), vec![random(&[4, 3], 0)]].concat();
        gradcheck(&inputs, |x| layer.over_neighbors(&x[4], &graph, true)).unwrap();
        assert!(layer.over_neighbors(&random(&[3, 3], 0), &graph, true).is_err());
        assert!(layer.forward(&random(&[2, 0, 3], 0), None).is_err());
    }
}
