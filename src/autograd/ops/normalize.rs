//! Euclidean norms of rows, rows scaled to norm 1, and cosine similarity.

#![forbid(unsafe_code)]

use super::softmax::{each_row, row_piece};
use crate::autograd::Tensor;
use crate::autograd::tape::record;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::{Real, larger};
use crate::threads;
use std::sync::Arc;

/// Rows shorter than this are divided by it instead of by their norm, as `torch.nn.functional.normalize`.
const SMALLEST: f64 = 1e-12;

/// The Euclidean norm of each row.
fn norms<T: Real>(values: &[T], columns: usize, rows: usize) -> Vec<T> {
    let mut norms = memory::vec![T::ZERO; rows];
    let (band, piece) = row_piece(columns);
    threads::for_each_chunk(&mut norms, band, |chunk, norms| {
        for (row, norm) in norms.iter_mut().enumerate() {
            let row = &values[chunk * piece + row * columns..][..columns];
            *norm = T::dot(row, row).sqrt();
        }
    });
    norms
}

impl<T: Real> Tensor<T> {
    /// The Euclidean norm along the last axis; adjoint `g x / norm`, 0 where the norm is 0.
    pub fn norm(&self, keep: bool) -> Result<Self> {
        let last = self.shape().axis("norm", -1)?;
        let (columns, x) = (self.shape().columns(), self.values());
        let norms = Arc::new(Buffer::from(norms(&x, columns, self.shape().rows())));
        let shape = self.shape().reduced(last, keep);
        Ok(record("norm", Arc::clone(&norms), shape, [self], move |grad, _| {
            let mut out = Buffer::stale(x.len());
            each_row(&mut out, columns, |row, out| {
                let scale = if norms[row] > T::ZERO { grad[row] / norms[row] } else { T::ZERO };
                out.iter_mut().zip(&x[row * columns..]).for_each(|(out, &x)| *out = x * scale);
            });
            [Some(out)]
        }))
    }

    /// Each row divided by its Euclidean norm (a zero row stays zero); adjoint `(g - y <g, y>) / norm`.
    pub fn normalize(&self) -> Result<Self> {
        self.shape().axis("normalize", -1)?;
        let (columns, rows, x) = (self.shape().columns(), self.shape().rows(), self.values());
        let mut norms = norms(&x, columns, rows);
        norms.iter_mut().for_each(|norm| *norm = larger(*norm, T::of(SMALLEST)));
        let mut out = Buffer::stale(x.len());
        each_row(&mut out, columns, |row, out| {
            let scale = T::ONE / norms[row];
            out.iter_mut().zip(&x[row * columns..]).for_each(|(out, &x)| *out = x * scale);
        });
        let y = Arc::new(out);
        Ok(record("normalize", Arc::clone(&y), self.shape(), [self], move |mut grad, _| {
            each_row(&mut grad, columns, |row, grad| {
                let (y, scale) = (&y[row * columns..][..columns], T::ONE / norms[row]);
                // Below the smallest norm the row is divided by a constant.
                let inner = if norms[row] > T::of(SMALLEST) { T::dot(grad, y) } else { T::ZERO };
                grad.iter_mut().zip(y).for_each(|(g, &y)| *g = (*g - y * inner) * scale);
            });
            [Some(grad)]
        }))
    }

    /// The cosine of the angle between the rows of two tensors of the same shape; 0 where a row is zero.
    pub fn cosine_similarity(&self, other: &Self) -> Result<Self> {
        if self.shape() != other.shape() || self.dims().is_empty() {
            let shapes = format!("cosine_similarity: shapes {} and {}", self.shape(), other.shape());
            return Err(Error::Shape(shapes));
        }
        self.normalize()?.mul(&other.normalize()?)?.sum_axis(-1, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients() {
        for dims in [vec![4], vec![3, 4], vec![2, 3, 4]] {
            let x = [random(&dims, 0), random(&dims, 1)];
            gradcheck(&x[..1], |x| x[0].norm(false)).unwrap();
            gradcheck(&x[..1], |x| x[0].norm(true)).unwrap();
            gradcheck(&x[..1], |x| x[0].normalize()).unwrap();
            gradcheck(&x, |x| x[0].cosine_similarity(&x[1])).unwrap();
        }
    }

    #[test]
    fn zero_rows_give_zero_and_finite_gradients() {
        let x = Tensor::<f32>::zeros(&[2, 3]).unwrap();
        x.set_requires_grad(true).unwrap();
        let y = x.normalize().unwrap();
        assert_eq!(y.to_vec(), [0.0; 6]);
        y.sum().unwrap().add(&x.norm(false).unwrap().sum().unwrap()).unwrap().backward().unwrap();
        assert!(x.grad().unwrap().iter().all(|value| value.is_finite()));
    }
}
