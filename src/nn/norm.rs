//! Layer normalization with its parameters, as `torch.nn.LayerNorm`.

#![forbid(unsafe_code)]

use super::{Module, init};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::real::Real;

/// Normalizes rows to mean 0 and variance 1, then scales and shifts.
#[derive(Clone, Debug)]
pub struct LayerNorm<T: Real> {
    /// `(dim)`, ones at first.
    pub weight: Tensor<T>,
    /// `(dim)`, zeros at first.
    pub bias: Tensor<T>,
    /// Added to the variance.
    pub eps: f64,
}

impl<T: Real> LayerNorm<T> {
    /// For rows of `dim` values.
    pub fn new(dim: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: init::constant(1.0, &[dim])?, bias: init::constant(0.0, &[dim])?, eps })
    }

    /// `x (.., dim)`, of the same shape after.
    pub fn forward(&self, x: &Tensor<T>) -> Result<Tensor<T>> {
        x.layer_norm(&self.weight, &self.bias, self.eps)
    }
}

impl<T: Real> Module<T> for LayerNorm<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit("weight", &self.weight);
        visit("bias", &self.bias);
    }
}
