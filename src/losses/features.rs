//! How well features are reconstructed.

#![forbid(unsafe_code)]

use super::{Reduction, bce_with_logits, mse, same_shape};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::real::Real;

/// What kind of features are reconstructed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureKind {
    /// Numbers: squared error per value.
    Numbers,
    /// Probabilities or 0 and 1, from logits: binary cross entropy per value.
    Binary,
    /// A distribution (or counts) per row, from logits: `-sum_j x_j ln softmax(x_hat)_j` per row.
    Distribution,
}

/// The loss of `x_hat` as a reconstruction of `x`, of one shape; gradients flow to both.
pub fn feature_reconstruction<T: Real>(
    x: &Tensor<T>,
    x_hat: &Tensor<T>,
    kind: FeatureKind,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    same_shape("feature_reconstruction", ("x", x), ("x_hat", x_hat))?;
    match kind {
        FeatureKind::Numbers => mse(x_hat, x, reduction),
        FeatureKind::Binary => bce_with_logits(x_hat, x, None, reduction),
        FeatureKind::Distribution => {
            reduction.apply(&x.mul(&x_hat.log_softmax(-1)?)?.sum_axis(-1, false)?.neg()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::losses::{Targets, cross_entropy};

    #[test]
    fn gradients_of_every_kind() {
        let features = random(&[3, 4], 1).sigmoid().unwrap().to_vec();
        let pair = [Tensor::parameter(features.clone(), &[3, 4]).unwrap(), random(&[3, 4], 0)];
        for kind in [FeatureKind::Numbers, FeatureKind::Binary, FeatureKind::Distribution] {
            for reduction in Reduction::ALL {
                gradcheck(&pair, |x| feature_reconstruction(&x[0], &x[1], kind, reduction)).unwrap();
            }
            assert!(feature_reconstruction(&pair[0], &random(&[3, 5], 0), kind, Reduction::Mean).is_err());
        }
        let rows = feature_reconstruction(&pair[0], &pair[1], FeatureKind::Distribution, Reduction::None);
        let same = cross_entropy(&pair[1], Targets::Soft(features), Reduction::None).unwrap().to_vec();
        assert!(rows.unwrap().to_vec().iter().zip(same).all(|(a, b)| (a - b).abs() < 1e-12));
    }
}
