//! Losses: numerically stable, each forward and adjoint in one pass where that saves memory traffic.

mod cross_entropy;
mod info_nce;

pub use cross_entropy::{Targets, cross_entropy};
pub use info_nce::info_nce;

use crate::autograd::Tensor;
use crate::error::Result;
use crate::real::Real;

/// What becomes of the losses of the single examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// They are returned as they are.
    None,
}

impl Reduction {
    pub(crate) fn apply<T: Real>(self, losses: &Tensor<T>) -> Result<Tensor<T>> {
        match self {
            Self::Mean => losses.mean(),
            Self::Sum => losses.sum(),
            Self::None => Ok(losses.clone()),
        }
    }
}
