//! The gated recurrent unit of Chung et al. (2014).
//!
//! `z = s(Wz x + Uz h)`, `r = s(Wr x + Ur h)`, `c = tanh(Wh x + Uh (r h))`, `h' = (1 - z) h + z c`; every map has
//! a bias.

#![forbid(unsafe_code)]

use super::{Linear, Module, visit_inside};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::real::Real;

/// A gated recurrent unit.
#[derive(Clone, Debug)]
pub struct GruCell<T: Real> {
    /// Update gate, from the input.
    pub w_z: Linear<T>,
    /// Update gate, from the state.
    pub u_z: Linear<T>,
    /// Reset gate, from the input.
    pub w_r: Linear<T>,
    /// Reset gate, from the state.
    pub u_r: Linear<T>,
    /// Candidate, from the input.
    pub w_h: Linear<T>,
    /// Candidate, from the reset state.
    pub u_h: Linear<T>,
}

impl<T: Real> GruCell<T> {
    /// Normal weights, zero biases.
    pub fn new(ins: usize, hidden: usize, seed: u64) -> Result<Self> {
        let map = |ins: usize, number: u64| Linear::normal(ins, hidden, seed.wrapping_add(number));
        Ok(Self {
            w_z: map(ins, 0)?,
            u_z: map(hidden, 1)?,
            w_r: map(ins, 2)?,
            u_r: map(hidden, 3)?,
            w_h: map(ins, 4)?,
            u_h: map(hidden, 5)?,
        })
    }

    /// `x (N, in)`, `h (N, hidden)` -> the next state `(N, hidden)`.
    pub fn forward(&self, x: &Tensor<T>, h: &Tensor<T>) -> Result<Tensor<T>> {
        let pairs = [(&self.w_z, &self.u_z), (&self.w_r, &self.u_r), (&self.w_h, &self.u_h)];
        let biases = pairs.map(|(w, u)| w.bias.iter().chain(&u.bias).collect::<Vec<_>>());
        let (of_input, of_state) = (pairs.map(|(w, _)| &w.weight), pairs.map(|(_, u)| &u.weight));
        x.gru_step(h, of_input, of_state, biases.each_ref().map(Vec::as_slice))
    }
}

impl<T: Real> Module<T> for GruCell<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        let maps = [&self.w_z, &self.u_z, &self.w_r, &self.u_r, &self.w_h, &self.u_h];
        for (name, map) in ["w_z", "u_z", "w_r", "u_r", "w_h", "u_h"].into_iter().zip(maps) {
            visit_inside(name, map, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients() {
        let mut inputs = vec![random(&[3, 2], 0), random(&[3, 4], 1)];
        for number in 0..6 {
            let ins = if number % 2 == 0 { 2 } else { 4 };
            inputs.extend([random(&[4, ins], 2 + number), random(&[4], 10 + number)]);
        }
        gradcheck(&inputs, |x| {
            let map = |i: usize| Linear { weight: x[2 + 2 * i].clone(), bias: Some(x[3 + 2 * i].clone()) };
            let [w_z, u_z, w_r, u_r, w_h, u_h] = [0, 1, 2, 3, 4, 5].map(map);
            GruCell { w_z, u_z, w_r, u_r, w_h, u_h }.forward(&x[0], &x[1])
        })
        .unwrap();
    }
}
