//! What embeddings should be like by themselves: sparse, of one length, with features that do not repeat each other.

#![forbid(unsafe_code)]

use super::Reduction;
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::memory;
use crate::number;
use crate::real::Real;

/// `|h|` per value.
pub fn sparsity<T: Real>(embeddings: &Tensor<T>, reduction: Reduction) -> Result<Tensor<T>> {
    if embeddings.count() == 0 {
        return Err(Error::Shape("sparsity: embeddings must not be empty".into()));
    }
    reduction.apply(&embeddings.abs()?)
}

/// `(|h_i| - target)^2` per row of `embeddings (N, d)`.
pub fn embedding_norm<T: Real>(
    embeddings: &Tensor<T>,
    target: f64,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    number::non_negative("target", target)?;
    let (rows, _) = embeddings.shape().matrix("embedding_norm", "embeddings")?;
    if rows == 0 {
        return Err(Error::Shape("embedding_norm: embeddings must not be empty".into()));
    }
    let off = embeddings.norm(false)?.affine(T::ONE, T::of(-target))?;
    reduction.apply(&off.mul(&off)?)
}

/// The rows of `embeddings (N, d)` at length `radius`; zero rows stay zero.
pub fn project_to_sphere<T: Real>(embeddings: &Tensor<T>, radius: f64) -> Result<Tensor<T>> {
    number::positive("radius", radius)?;
    embeddings.shape().matrix("project_to_sphere", "embeddings")?;
    embeddings.normalize()?.affine(T::of(radius), T::ZERO)
}

/// `(G - I)^2` per value of the Gram matrix `G = H' H` of the features of `embeddings (N, d)`: 0 where the columns are orthonormal.
pub fn orthogonality<T: Real>(embeddings: &Tensor<T>, reduction: Reduction) -> Result<Tensor<T>> {
    let (rows, columns) = embeddings.shape().matrix("orthogonality", "embeddings")?;
    if rows == 0 || columns == 0 {
        return Err(Error::Shape("orthogonality: embeddings must not be empty".into()));
    }
    let identity: Vec<T> = memory::collect(
        (0..columns * columns).map(|at| if at % (columns + 1) == 0 { T::ONE } else { T::ZERO }),
    );
    let off =
        embeddings.transpose()?.matmul(embeddings)?.sub(&Tensor::new(identity, &[columns, columns])?)?;
    reduction.apply(&off.mul(&off)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients() {
        let x = [random(&[5, 3], 0)];
        for reduction in Reduction::ALL {
            gradcheck(&x, |x| sparsity(&x[0], reduction)).unwrap();
            gradcheck(&x, |x| embedding_norm(&x[0], 0.7, reduction)).unwrap();
            gradcheck(&x, |x| orthogonality(&x[0], reduction)).unwrap();
        }
        gradcheck(&x, |x| project_to_sphere(&x[0], 2.5)).unwrap();
    }

    #[test]
    fn each_is_zero_where_its_aim_is_reached() {
        let turned = Tensor::new(vec![0.6f64, -0.8, 0.8, 0.6, 0.0, 0.0], &[3, 2]).unwrap();
        assert!(orthogonality(&turned, Reduction::Sum).unwrap().item().unwrap() < 1e-24);
        let sphere = project_to_sphere(&random(&[4, 3], 1), 2.0).unwrap();
        assert!(embedding_norm(&sphere, 2.0, Reduction::Mean).unwrap().item().unwrap() < 1e-24);
        assert_eq!(
            sparsity(&Tensor::<f64>::zeros(&[2, 2]).unwrap(), Reduction::Sum).unwrap().item().unwrap(),
            0.0
        );
    }

    #[test]
    fn zero_rows_have_no_gradient_and_no_embeddings_are_refused() {
        let x = Tensor::parameter(vec![0.0f64; 6], &[2, 3]).unwrap();
        let loss = embedding_norm(&x, 1.0, Reduction::Sum).unwrap();
        assert_eq!(loss.item().unwrap(), 2.0);
        loss.backward().unwrap();
        assert!(x.grad().unwrap().iter().all(|&value| value == 0.0));
        assert_eq!(project_to_sphere(&x, 1.0).unwrap().to_vec(), [0.0; 6]);
        let none = random(&[0, 3], 0);
        assert!(sparsity(&none, Reduction::Mean).is_err() && orthogonality(&none, Reduction::Mean).is_err());
        assert!(embedding_norm(&none, 1.0, Reduction::Mean).is_err());
        assert!(embedding_norm(&x, -1.0, Reduction::Mean).is_err() && project_to_sphere(&x, 0.0).is_err());
    }
}
