//! Optimizers: PyTorch's update rules, over groups of parameters with their own settings.

mod adamw;
mod clip;

pub use adamw::{AdamW, AdamWOptions};
pub use clip::clip_grad_norm;

use crate::autograd::Tensor;
use crate::real::Real;

/// Parameters that share settings.
#[derive(Clone, Debug)]
pub struct Group<T: Real> {
    /// The leaves to update.
    pub parameters: Vec<Tensor<T>>,
    /// Learning rate; may be changed between steps.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// Values per task of an update.
const PIECE: usize = 16 << 10;
