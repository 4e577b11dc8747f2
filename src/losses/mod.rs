//! Losses: numerically stable, each forward and adjoint in one pass where that saves memory traffic.

mod adjacency;
mod bce;
mod cross_entropy;
mod features;
mod geometry;
mod info_nce;
mod infomax;
mod link_prediction;
mod mse;
mod neighborhood;
mod pairs;
mod regularization;
mod smoothness;

pub use adjacency::{adjacency_reconstruction, negative_edges, sparse_adjacency};
pub use bce::bce_with_logits;
pub use cross_entropy::{ClassOptions, Targets, cross_entropy, weighted_cross_entropy};
pub use features::{FeatureKind, feature_reconstruction};
pub use geometry::{angle_preservation, curvature, distance_preservation};
pub use info_nce::info_nce;
pub use infomax::deep_graph_infomax;
pub use link_prediction::{Pairs, Score, link_prediction};
pub use mse::mse;
pub use neighborhood::{Negatives, multi_hop_contrastive, neighborhood_contrastive};
pub use pairs::{contrastive, local_contrastive, triplet};
pub use regularization::{embedding_norm, orthogonality, project_to_sphere, sparsity};
pub use smoothness::laplacian;

use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::memory;
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
    /// All of them.
    pub const ALL: [Reduction; 3] = [Reduction::Mean, Reduction::Sum, Reduction::None];

    pub(crate) fn apply<T: Real>(self, losses: &Tensor<T>) -> Result<Tensor<T>> {
        match self {
            Self::Mean => losses.mean(),
            Self::Sum => losses.sum(),
            Self::None => Ok(losses.clone()),
        }
    }
}

/// Fails unless two tensors have one shape; `op` and their names are named.
fn same_shape<T: Real>(
    op: &str,
    (left, x): (&str, &Tensor<T>),
    (right, y): (&str, &Tensor<T>),
) -> Result<()> {
    if x.shape() == y.shape() {
        return Ok(());
    }
    Err(Error::Shape(format!("{op}: {left} of shape {} with {right} of shape {}", x.shape(), y.shape())))
}

/// Binary cross entropy of logits whose target is 1 against those whose target is 0, in this order.
fn told_apart<T: Real>(
    positive: &Tensor<T>,
    negative: &Tensor<T>,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    let (ones, zeros) = (positive.count(), negative.count());
    let logits = Tensor::concat(&[positive.clone(), negative.clone()], 0)?;
    let both = std::iter::repeat_n(T::ONE, ones).chain(std::iter::repeat_n(T::ZERO, zeros));
    let targets: Vec<T> = memory::collect(both);
    bce_with_logits(&logits, &Tensor::new(targets, &[ones + zeros])?, None, reduction)
}
