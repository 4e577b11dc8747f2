//! Gradient clipping by the norm over all parameters (Pascanu et al. 2013).

#![forbid(unsafe_code)]

use super::PIECE;
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::linalg::norm;
use crate::real::Real;
use crate::threads;

/// Scales the gradients so that their common Euclidean norm is at most `max_norm`; returns the norm before. As
/// PyTorch, the scale is `max_norm / (norm + 1e-6)` where that is below 1.
pub fn clip_grad_norm<T: Real>(parameters: &[Tensor<T>], max_norm: f64) -> Result<f64> {
    if max_norm.is_nan() || max_norm <= 0.0 {
        return Err(Error::Config(format!("clip_grad_norm: max_norm must be positive, got {max_norm}")));
    }
    let mut square = 0.0;
    for grad in parameters.iter().filter_map(Tensor::grad) {
        let pieces = threads::map(grad.len().div_ceil(PIECE), |piece| {
            let part = &grad[piece * PIECE..grad.len().min((piece + 1) * PIECE)];
            norm(part).powi(2)
        });
        square += pieces.into_iter().sum::<f64>();
    }
    let norm = square.sqrt();
    let scale = max_norm / (norm + 1e-6);
    if scale < 1.0 {
        // What may be refused comes before the first change.
        parameters.iter().for_each(Tensor::own_grad);
        parameters.iter().for_each(|parameter| parameter.scale_grad(scale));
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_only_what_is_too_long() {
        let x = Tensor::parameter(vec![0.0f64; 2], &[2]).unwrap();
        let none = Tensor::parameter(vec![0.0f64; 2], &[2]).unwrap();
        x.set_grad(Some(vec![3.0, 4.0].into())).unwrap();
        let both = [x.clone(), none];
        assert_eq!(clip_grad_norm(&both, 10.0).unwrap(), 5.0);
        assert_eq!(x.grad().unwrap().to_vec(), [3.0, 4.0]);
        assert_eq!(clip_grad_norm(&both, 1.0).unwrap(), 5.0);
        assert!((x.grad().unwrap()[1] - 0.8).abs() < 1e-6);
        assert!(clip_grad_norm(&both, 0.0).is_err());
    }
}
