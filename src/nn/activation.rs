//! Activations by name.

#![forbid(unsafe_code)]

use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::real::Real;
use std::str::FromStr;

/// A function of one value that layers apply to their result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x` or `0.01 x`.
    LeakyRelu,
    /// `x` or `e^x - 1`.
    Elu,
    /// `x Phi(x)`.
    Gelu,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x sigmoid(x)`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// Applies it.
    pub fn apply<T: Real>(self, x: &Tensor<T>) -> Result<Tensor<T>> {
        match self {
            Self::Relu => x.relu(),
            Self::LeakyRelu => x.leaky_relu(T::of(0.01)),
            Self::Elu => x.elu(T::ONE),
            Self::Gelu => x.gelu(),
            Self::Sigmoid => x.sigmoid(),
            Self::Silu => x.silu(),
            Self::Tanh => x.tanh(),
        }
    }
}

impl FromStr for Activation {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "relu" => Self::Relu,
            "leaky_relu" => Self::LeakyRelu,
            "elu" => Self::Elu,
            "gelu" => Self::Gelu,
            "sigmoid" => Self::Sigmoid,
            "silu" => Self::Silu,
            "tanh" => Self::Tanh,
            _ => {
                let names = "relu, leaky_relu, elu, gelu, sigmoid, silu or tanh";
                return Err(Error::Config(format!("activation must be {names}, got {name:?}")));
            }
        })
    }
}
