//! `y = x W^T + b`, as `torch.nn.Linear`.

#![forbid(unsafe_code)]

use super::Module;
use super::init::{self, Init};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::real::Real;

/// A linear map.
#[derive(Clone, Debug)]
pub struct Linear<T: Real> {
    /// `(out, in)`.
    pub weight: Tensor<T>,
    /// `(out)`.
    pub bias: Option<Tensor<T>>,
}

impl<T: Real> Linear<T> {
    /// Drawn as PyTorch does: weight and bias uniform in `±1 / sqrt(in)`.
    pub fn new(ins: usize, outs: usize, bias: bool, seed: u64) -> Result<Self> {
        let weight = init::draw(Init::FanIn, &[outs, ins], (ins, outs), seed)?;
        let bias = bias.then(|| init::draw(Init::FanIn, &[outs], (ins, outs), seed.wrapping_add(1)));
        Ok(Self { weight, bias: bias.transpose()? })
    }

    /// Normal weights with standard deviation `sqrt(2 / (in + out))`, zero bias.
    pub fn normal(ins: usize, outs: usize, seed: u64) -> Result<Self> {
        let weight = init::draw(Init::GlorotNormal, &[outs, ins], (ins, outs), seed)?;
        Ok(Self { weight, bias: Some(init::constant(0.0, &[outs])?) })
    }

    /// `x (.., in) -> (.., out)`.
    pub fn forward(&self, x: &Tensor<T>) -> Result<Tensor<T>> {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

impl<T: Real> Module<T> for Linear<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit("weight", &self.weight);
        if let Some(bias) = &self.bias {
            visit("bias", bias);
        }
    }
}
