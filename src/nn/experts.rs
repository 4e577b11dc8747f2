//! A mixture of experts on a graph (Shazeer et al. 2017; Wang et al. 2023): each node chooses a few of several graph
//! convolutions by its own features.
//!
//! With `z = D^-1/2 (A + I) D^-1/2 x`: `g_i = softmax of the top_k largest entries of W_gate x_i`, 0 elsewhere, and
//! `out_i = sum_e g_ie (W_e z_i + b_e)`. The sums over neighbours are made once for all experts, and an expert's map only for
//! the nodes that chose it.

#![forbid(unsafe_code)]

use super::init::{self, Init};
use super::{Linear, Module, target_rows, visit_inside};
use crate::autograd::{Reduce, Tensor};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::memory;
use crate::real::Real;

/// A mixture of graph convolutions.
#[derive(Clone, Debug)]
pub struct MixtureOfExperts<T: Real> {
    /// Without bias; `gate.weight (experts, in)`.
    pub gate: Linear<T>,
    /// `experts.{e}.weight (out, in)`, `experts.{e}.bias (out)`.
    pub experts: Vec<Linear<T>>,
    /// How many experts a node chooses.
    pub top_k: usize,
}

impl<T: Real> MixtureOfExperts<T> {
    /// Glorot weights, zero biases.
    pub fn new(ins: usize, outs: usize, experts: usize, top_k: usize, seed: u64) -> Result<Self> {
        require_choice(top_k, experts)?;
        let map = |outs, number: usize| -> Result<Linear<T>> {
            let weight =
                init::draw(Init::GlorotUniform, &[outs, ins], (ins, outs), seed.wrapping_add(number as u64))?;
            Ok(Linear { weight, bias: None })
        };
        let expert =
            |number| Ok(Linear { bias: Some(init::constant(0.0, &[outs])?), ..map(outs, number + 1)? });
        let experts: Vec<_> = (0..experts).map(expert).collect::<Result<_>>()?;
        Ok(Self { gate: map(experts.len(), 0)?, experts, top_k })
    }

    /// `x (num_sources, in)` to `(N, out)`, and the gates `(N, experts)`; those of a node sum to 1. Of equal scores the first counts as
    /// the larger.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<(Tensor<T>, Tensor<T>)> {
        require_choice(self.top_k, self.experts.len())?;
        let scores = self.gate.forward(&target_rows("MixtureOfExpertsLayer", x, graph)?)?;
        let chosen = self.choose(&scores);
        let gates =
            scores.masked_fill(&memory::collect(chosen.iter().map(|&on| !on)), scores.dims(), least())?;
        let gates = gates.softmax(-1)?;
        let rows = x.aggregate(&graph.gcn_normalize(true)?, Reduce::Sum)?;
        Ok((self.mix(&rows, &gates, &chosen)?, gates))
    }

    /// Per node and expert, whether it is among the largest.
    fn choose(&self, scores: &Tensor<T>) -> Vec<bool> {
        let (experts, scores) = (self.experts.len(), scores.values());
        let mut chosen = memory::vec![false; scores.len()];
        let mut order: Vec<usize> = Vec::new();
        for (scores, chosen) in scores.chunks_exact(experts).zip(chosen.chunks_exact_mut(experts)) {
            order.clear();
            order.extend(0..experts);
            order.sort_by(|&a, &b| scores[b].wide().total_cmp(&scores[a].wide()));
            order[..self.top_k].iter().for_each(|&expert| chosen[expert] = true);
        }
        chosen
    }

    /// `sum_e g_ie expert_e(z_i)` over the chosen experts, rising.
    fn mix(&self, rows: &Tensor<T>, gates: &Tensor<T>, chosen: &[bool]) -> Result<Tensor<T>> {
        let (experts, outs) = (self.experts.len(), self.experts[0].weight.dims()[0]);
        let nodes = rows.dims()[0];
        let (mut parts, mut cells) = (Vec::new(), Vec::new());
        // Where each node's results stand among all, which follow one another expert by expert.
        let (mut places, mut met) = (memory::vec![0u32; nodes * self.top_k], memory::vec![0usize; nodes]);
        for (number, expert) in self.experts.iter().enumerate() {
            let own: Vec<u32> =
                memory::collect((0..nodes as u32).filter(|&node| chosen[node as usize * experts + number]));
            for &node in &own {
                let node = node as usize;
                places[node * self.top_k + met[node]] = cells.len() as u32;
                met[node] += 1;
                memory::push(&mut cells, (node * experts + number) as u32);
            }
            parts.push(expert.forward(&rows.index_select(&own)?)?);
        }
        let factors = gates.reshape(&[nodes * experts, 1])?.index_select(&cells)?;
        let results = Tensor::concat(&parts, 0)?.mul(&factors)?.index_select(&places)?;
        results.reshape(&[nodes, self.top_k, outs])?.sum_axis(1, false)
    }
}

/// A score that no softmax sees, and that differences can be taken of.
fn least<T: Real>() -> T {
    T::of(-1e30)
}

fn require_choice(top_k: usize, experts: usize) -> Result<()> {
    if top_k == 0 || top_k > experts {
        return Err(Error::Config(format!("top_k must be from 1 to the {experts} experts, got {top_k}")));
    }
    Ok(())
}

impl<T: Real> Module<T> for MixtureOfExperts<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("gate", &self.gate, visit);
        for (number, expert) in self.experts.iter().enumerate() {
            visit_inside(&format!("experts.{number}"), expert, visit);
        }
    }
}

/// How unevenly the experts are used, to be added to a loss with a small factor: the squared coefficient of variation of
/// their gates' sums (Shazeer et al. 2017, equation 7), 0 where all are used alike. `gates (N, experts)`.
pub fn load_balance<T: Real>(gates: &Tensor<T>) -> Result<Tensor<T>> {
    if gates.dims().len() != 2 {
        return Err(Error::Shape(format!("load_balance: gates of shape {}", gates.shape())));
    }
    let sums = gates.sum_axis(0, false)?;
    let mean = sums.mean()?;
    let spread = sums.sub(&mean)?;
    // Of an empty graph all sums are 0.
    spread.mul(&spread)?.mean()?.div(&mean.mul(&mean)?.affine(T::ONE, T::of(1e-20))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::nn::GcnLayer;

    fn graph() -> Graph {
        Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 2, 3], 5, 5, Some(&[1.0, 2.0, 0.5, 3.0])).unwrap()
    }

    #[test]
    fn gradients_of_input_and_weights() {
        for top_k in [1, 2, 3] {
            let layer = MixtureOfExperts::<f64>::new(3, 2, 3, top_k, 1).unwrap();
            let mut inputs = vec![random(&[5, 3], 0)];
            inputs.extend(layer.parameters());
            gradcheck(&inputs, |x| {
                let (out, gates) = layer.forward(&x[0], &graph())?;
                out.add(&load_balance(&gates)?)
            })
            .unwrap();
        }
    }

    #[test]
    fn is_the_weighted_sum_of_the_chosen_convolutions() {
        let layer = MixtureOfExperts::<f64>::new(3, 2, 4, 2, 1).unwrap();
        let x = random(&[5, 3], 0);
        let (out, gates) = layer.forward(&x, &graph()).unwrap();
        let mut expected = vec![0.0; 10];
        for (number, expert) in layer.experts.iter().enumerate() {
            let lin = Linear { weight: expert.weight.clone(), bias: None };
            let gcn = GcnLayer { lin, bias: expert.bias.clone(), add_self_loops: true, activation: None };
            let rows = gcn.forward(&x, &graph()).unwrap().to_vec();
            (0..10).for_each(|at| expected[at] += gates.values()[at / 2 * 4 + number] * rows[at]);
        }
        assert!(out.to_vec().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
        for gates in gates.to_vec().chunks(4) {
            assert_eq!(gates.iter().filter(|&&gate| gate > 0.0).count(), 2);
            assert!((gates.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        assert!(MixtureOfExperts::<f64>::new(3, 2, 4, 5, 1).is_err());
        assert!(MixtureOfExperts::<f64>::new(3, 2, 4, 0, 1).is_err());
    }

    #[test]
    fn balance_is_zero_for_even_use_and_the_experts_less_one_for_a_single_one() {
        let balance =
            |gates: Vec<f64>| load_balance(&Tensor::new(gates, &[2, 4]).unwrap()).unwrap().item().unwrap();
        assert!(balance(vec![0.25; 8]).abs() < 1e-12);
        assert!((balance(vec![1., 0., 0., 0., 1., 0., 0., 0.]) - 3.0).abs() < 1e-9);
    }
}
