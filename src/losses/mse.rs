//! Squared error: `loss = (x - t)^2` per value.

#![forbid(unsafe_code)]

use super::{Reduction, same_shape};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::real::Real;

/// The squared difference of two tensors of one shape; gradients flow to both.
///
/// ```
/// use ruvector_gnn::{autograd::Tensor, losses::{Reduction, mse}};
/// let (x, t) = (Tensor::new(vec![1.0f32, 2.0], &[2])?, Tensor::new(vec![0.0, 4.0], &[2])?);
/// assert_eq!(mse(&x, &t, Reduction::Mean)?.item()?, 2.5);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
pub fn mse<T: Real>(x: &Tensor<T>, target: &Tensor<T>, reduction: Reduction) -> Result<Tensor<T>> {
    same_shape("mse", ("x", x), ("target", target))?;
    reduction.apply(&x.sub(target)?.pow(T::of(2.0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::error::Error;

    #[test]
    fn gradients_and_shapes() {
        let pair = [random(&[3, 4], 0), random(&[3, 4], 1)];
        for reduction in Reduction::ALL {
            gradcheck(&pair, |x| mse(&x[0], &x[1], reduction)).unwrap();
        }
        let Err(Error::Shape(message)) = mse(&pair[0], &random(&[4], 1), Reduction::Mean) else { panic!() };
        assert_eq!(message, "mse: x of shape (3, 4) with target of shape (4,)");
    }
}
