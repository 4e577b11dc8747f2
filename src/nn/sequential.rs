//! Maps and activations one after the other, as `torch.nn.Sequential`.

#![forbid(unsafe_code)]

use super::{Activation, Linear, Module, visit_inside};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::real::Real;

/// A step of a [`Sequential`].
#[derive(Clone, Debug)]
pub enum Step<T: Real> {
    /// A linear map.
    Linear(Linear<T>),
    /// A function of one value.
    Activation(Activation),
}

/// Steps that run in order; a step's parameters are named after its place.
#[derive(Clone, Debug)]
pub struct Sequential<T: Real>(pub Vec<Step<T>>);

impl<T: Real> Sequential<T> {
    /// Linear maps `dims[0] -> dims[1] -> ..` with an activation between.
    pub fn mlp(dims: &[usize], activation: Activation, seed: u64) -> Result<Self> {
        let mut steps = Vec::new();
        for (number, pair) in dims.windows(2).enumerate() {
            if number > 0 {
                steps.push(Step::Activation(activation));
            }
            let seed = seed.wrapping_add(2 * number as u64);
            steps.push(Step::Linear(Linear::new(pair[0], pair[1], true, seed)?));
        }
        Ok(Self(steps))
    }

    /// `x (.., in) -> (.., out)`.
    pub fn forward(&self, x: &Tensor<T>) -> Result<Tensor<T>> {
        self.0.iter().try_fold(x.clone(), |x, step| match step {
            Step::Linear(map) => map.forward(&x),
            Step::Activation(activation) => activation.apply(&x),
        })
    }
}

impl<T: Real> Module<T> for Sequential<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        for (place, step) in self.0.iter().enumerate() {
            if let Step::Linear(map) = step {
                visit_inside(&place.to_string(), map, visit);
            }
        }
    }
}
