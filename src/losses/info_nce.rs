//! InfoNCE (van den Oord et al. 2018) on cosine similarities.
//!
//! `loss_i = -mean_p ln(e^(s_ip / t) / (sum_p' e^(s_ip' / t) + sum_n e^(s_in / t)))`: the cross entropy of the softmax over
//! all candidates of anchor `i`, uniform over its positives.

#![forbid(unsafe_code)]

use super::{Reduction, Targets, cross_entropy};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::memory;
use crate::number;
use crate::real::Real;

/// `anchors (B, d)`; `positives (B, d)` or `(B, P, d)`; `negatives (B, K, d)`, shared `(K, d)`, or `None`: then the
/// positives of the other anchors are the negatives.
pub fn info_nce<T: Real>(
    anchors: &Tensor<T>,
    positives: &Tensor<T>,
    negatives: Option<&Tensor<T>>,
    temperature: f64,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    number::positive("temperature", temperature)?;
    let (batch, dim) = anchors.shape().matrix("info_nce", "anchors")?;
    let count = match *positives.dims() {
        [rows, columns] if (rows, columns) == (batch, dim) => 1,
        [rows, count, columns] if (rows, columns) == (batch, dim) && count > 0 => count,
        _ => {
            let shapes =
                format!("anchors of shape {} and positives of {}", anchors.shape(), positives.shape());
            return Err(Error::Shape(format!("info_nce: {shapes}")));
        }
    };
    if batch == 0 {
        return Err(Error::Shape("info_nce: at least one anchor is needed".into()));
    }
    let (anchors, positives) = (anchors.normalize()?, positives.normalize()?);
    let (scores, step) = match negatives {
        None => {
            let all = positives.reshape(&[batch * count, dim])?;
            (anchors.matmul(&all.transpose()?)?, count)
        }
        Some(negatives) => {
            let own = per_anchor(&anchors, &positives.reshape(&[batch, count, dim])?)?;
            let others = scores_of(&anchors, &negatives.normalize()?)?;
            (Tensor::concat(&[own, others], 1)?, 0)
        }
    };
    // Row i's positives are its first candidates, or those that the whole batch lists as anchor i's.
    let classes = (0..batch).flat_map(|row| (row * step..row * step + count).map(|class| class as u32));
    let indptr = memory::collect((0..=batch).map(|row| row * count));
    let targets = Targets::Sets { indptr, classes: memory::collect(classes) };
    cross_entropy(&scores.affine(T::of(1.0 / temperature), T::ZERO)?, targets, reduction)
}

/// The products of each anchor with its own rows: `(B, d) x (B, K, d) -> (B, K)`.
fn per_anchor<T: Real>(anchors: &Tensor<T>, rows: &Tensor<T>) -> Result<Tensor<T>> {
    let (batch, dim) = anchors.shape().matrix("info_nce", "anchors")?;
    rows.mul(&anchors.reshape(&[batch, 1, dim])?)?.sum_axis(-1, false)
}

fn scores_of<T: Real>(anchors: &Tensor<T>, negatives: &Tensor<T>) -> Result<Tensor<T>> {
    let (batch, dim) = anchors.shape().matrix("info_nce", "anchors")?;
    match *negatives.dims() {
        [_, columns] if columns == dim => anchors.matmul(&negatives.transpose()?),
        [rows, _, columns] if (rows, columns) == (batch, dim) => per_anchor(anchors, negatives),
        _ => {
            let shapes =
                format!("anchors of shape {} and negatives of {}", anchors.shape(), negatives.shape());
            Err(Error::Shape(format!("info_nce: {shapes}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_in_every_form() {
        let anchors = random(&[3, 4], 0);
        for positives in [random(&[3, 4], 1), random(&[3, 2, 4], 1)] {
            let pair = [anchors.clone(), positives.clone()];
            gradcheck(&pair, |x| info_nce(&x[0], &x[1], None, 0.5, Reduction::Mean)).unwrap();
            for negatives in [random(&[5, 4], 2), random(&[3, 5, 4], 2)] {
                let inputs = [anchors.clone(), positives.clone(), negatives];
                gradcheck(&inputs, |x| info_nce(&x[0], &x[1], Some(&x[2]), 0.5, Reduction::None)).unwrap();
            }
        }
    }

    #[test]
    fn matches_the_formula() {
        let (a, p, n) = (random(&[1, 4], 0), random(&[1, 4], 1), random(&[2, 4], 2));
        let cosine = |x: &[f64], y: &[f64]| {
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            dot(x, y) / (dot(x, x) * dot(y, y)).sqrt()
        };
        let e = |row: &[f64]| (cosine(&a.values(), row) / 0.07).exp();
        let (own, others) = (e(&p.values()), e(&n.values()[..4]) + e(&n.values()[4..]));
        let expected = -(own / (own + others)).ln();
        let got = info_nce(&a, &p, Some(&n), 0.07, Reduction::Mean).unwrap().item().unwrap();
        assert!((got - expected).abs() < 1e-10);
    }

    #[test]
    fn shapes_and_temperatures_are_checked() {
        let a = random(&[3, 4], 0);
        let refused = |p: &[usize], n: &[usize], t| {
            info_nce(&a, &random(p, 1), Some(&random(n, 2)), t, Reduction::Mean).is_err()
        };
        assert!(
            refused(&[2, 4], &[5, 4], 1.0)
                && refused(&[3, 4], &[5, 3], 1.0)
                && refused(&[3, 4], &[2, 5, 4], 1.0)
        );
        assert!(refused(&[3, 4], &[5, 4], 0.0) && refused(&[3, 0, 4], &[5, 4], 1.0));
    }
}
