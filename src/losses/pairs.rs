//! Losses on distances between pairs of rows: contrastive (Hadsell, Chopra & LeCun 2006) and triplet (Schroff et al. 2015).

#![forbid(unsafe_code)]

use super::{Pairs, Reduction, same_shape};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::memory;
use crate::number;
use crate::real::Real;

/// The squared distances between the rows of two tensors `(B, d)`: `(B,)`.
pub(super) fn squared_distances<T: Real>(x: &Tensor<T>, y: &Tensor<T>) -> Result<Tensor<T>> {
    let difference = x.sub(y)?;
    difference.mul(&difference)?.sum_axis(-1, false)
}

/// `max(0, margin - x)`.
fn below<T: Real>(margin: f64, x: &Tensor<T>) -> Result<Tensor<T>> {
    x.affine(-T::ONE, T::of(margin))?.relu()
}

/// Fails unless two tensors are `(B, d)` with at least one row.
fn same_rows<T: Real>(op: &str, left: (&str, &Tensor<T>), right: (&str, &Tensor<T>)) -> Result<usize> {
    let (rows, _) = left.1.shape().matrix(op, left.0)?;
    same_shape(op, left, right)?;
    if rows == 0 {
        return Err(Error::Shape(format!("{op}: at least one row is needed")));
    }
    Ok(rows)
}

/// `y d^2 + (1 - y) max(0, margin - d^2)` on the squared distances of the rows of `x1` and `x2 (B, d)`; `similar[i]` is `y`.
pub fn contrastive<T: Real>(
    x1: &Tensor<T>,
    x2: &Tensor<T>,
    similar: &[T],
    margin: f64,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    number::non_negative("margin", margin)?;
    let rows = same_rows("contrastive", ("x1", x1), ("x2", x2))?;
    if similar.len() != rows {
        return Err(Error::Shape(format!("contrastive: y must have {rows} values, got {}", similar.len())));
    }
    if let Some(y) = similar.iter().find(|&&y| !(y >= T::ZERO && y <= T::ONE)) {
        return Err(Error::Config(format!("contrastive: y must be from 0 to 1, got {}", y.wide())));
    }
    let distances = squared_distances(x1, x2)?;
    let y = Tensor::new(memory::copy_of(similar), &[rows])?;
    let pulled = distances.mul(&y)?;
    reduction.apply(&pulled.add(&below(margin, &distances)?.mul(&y.affine(-T::ONE, T::ONE)?)?)?)
}

/// `max(0, |a - p|^2 - |a - n|^2 + margin)` for the rows of anchors, positives and negatives `(B, d)`.
pub fn triplet<T: Real>(
    anchors: &Tensor<T>,
    positives: &Tensor<T>,
    negatives: &Tensor<T>,
    margin: f64,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    number::non_negative("margin", margin)?;
    same_rows("triplet", ("anchors", anchors), ("positives", positives))?;
    same_rows("triplet", ("anchors", anchors), ("negatives", negatives))?;
    let (near, far) = (squared_distances(anchors, positives)?, squared_distances(anchors, negatives)?);
    reduction.apply(&near.sub(&far)?.affine(T::ONE, T::of(margin))?.relu()?)
}

/// For pairs of rows of `embeddings (N, d)` at distance `d`: `d^2` for similar ones, `max(0, margin - d)^2` for the others.
/// Without `similar` all are.
pub fn local_contrastive<T: Real>(
    embeddings: &Tensor<T>,
    pairs: Pairs<'_>,
    similar: Option<&[bool]>,
    margin: f64,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    number::non_negative("margin", margin)?;
    let (nodes, _) = embeddings.shape().matrix("local_contrastive", "embeddings")?;
    pairs.check("local_contrastive", "edge_index", nodes)?;
    let count = pairs.sources.len();
    if let Some(similar) = similar
        && similar.len() != count
    {
        let message = format!("local_contrastive: labels must have {count} values, got {}", similar.len());
        return Err(Error::Shape(message));
    }
    let (x, y) = (embeddings.index_select(pairs.sources)?, embeddings.index_select(pairs.targets)?);
    let near = squared_distances(&x, &y)?;
    let Some(similar) = similar else { return reduction.apply(&near) };
    let far = below(margin, &x.sub(&y)?.norm(false)?)?;
    reduction.apply(&Tensor::choose(similar, &[count], &near, &far.mul(&far)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    const PAIRS: Pairs<'static> = Pairs { sources: &[0, 1, 4], targets: &[2, 3, 0] };

    #[test]
    fn gradients() {
        let rows = [random(&[5, 3], 0), random(&[5, 3], 1), random(&[5, 3], 2)];
        for reduction in Reduction::ALL {
            gradcheck(&rows, |x| triplet(&x[0], &x[1], &x[2], 3.0, reduction)).unwrap();
            let y = [1.0, 0.0, 0.25, 0.0, 1.0];
            gradcheck(&rows[..2], |x| contrastive(&x[0], &x[1], &y, 9.0, reduction)).unwrap();
            for similar in [None, Some(&[true, false, false][..])] {
                let loss = |x: &[Tensor<f64>]| local_contrastive(&x[0], PAIRS, similar, 4.0, reduction);
                gradcheck(&rows[..1], loss).unwrap();
            }
        }
    }

    #[test]
    fn equal_rows_have_finite_losses_and_no_gradient() {
        let x = Tensor::parameter(vec![1.0f64; 10], &[5, 2]).unwrap();
        let loss = local_contrastive(&x, PAIRS, Some(&[false; 3]), 0.5, Reduction::Sum).unwrap();
        assert_eq!(loss.item().unwrap(), 0.75);
        loss.backward().unwrap();
        assert!(x.grad().unwrap().iter().all(|&value| value == 0.0));
    }

    #[test]
    fn values_by_hand() {
        let of = |rows: &[f64]| Tensor::new(rows.to_vec(), &[rows.len() / 2, 2]).unwrap();
        let (a, b) = (of(&[0.0, 0.0, 3.0, 4.0]), of(&[1.0, 1.0, 0.0, 0.0]));
        let got = contrastive(&a, &b, &[1.0, 0.0], 30.0, Reduction::None).unwrap();
        assert_eq!(got.to_vec(), [2.0, 5.0]);
        let got = triplet(&a, &b, &of(&[2.0, 0.0, 3.0, 4.0]), 1.0, Reduction::None).unwrap();
        assert_eq!(got.to_vec(), [0.0, 26.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (x, y) = (random(&[3, 2], 0), random(&[2, 2], 1));
        assert!(triplet(&x, &x, &y, 1.0, Reduction::Mean).is_err());
        assert!(triplet(&x, &x, &x, f64::NAN, Reduction::Mean).is_err());
        assert!(contrastive(&x, &x, &[0.0, 1.0], 1.0, Reduction::Mean).is_err());
        assert!(contrastive(&x, &x, &[0.0, 1.0, 2.0], 1.0, Reduction::Mean).is_err());
        assert!(local_contrastive(&x, PAIRS, None, 1.0, Reduction::Mean).is_err());
        assert!(contrastive(&random(&[0, 2], 0), &random(&[0, 2], 0), &[], 1.0, Reduction::Mean).is_err());
    }
}
