//! Euclidean norms of rows, rows scaled to norm 1, and cosine similarity.

#![forbid(unsafe_code)]

use super::softmax::{each_row, row_piece};
use crate::autograd::Tensor;
use crate::autograd::tape::record;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::linalg::{self, ORDINARY_NORMS};
use crate::memory;
use crate::real::Real;
use crate::threads;
use std::sync::Arc;

/// The Euclidean norm of each row.
fn norms<T: Real>(values: &[T], columns: usize, rows: usize) -> Vec<f64> {
    let mut norms = memory::vec![0.0; rows];
    let (band, piece) = row_piece(columns);
    threads::for_each_chunk(&mut norms, band, |chunk, norms| {
        for (row, norm) in norms.iter_mut().enumerate() {
            *norm = linalg::norm(&values[chunk * piece + row * columns..][..columns]);
        }
    });
    norms
}

/// Divides a row by its norm; in `f64` where the inverse is beyond the range of `T`, and 0 for a norm of 0.
fn divide<T: Real>(out: &mut [T], norm: f64) {
    if ORDINARY_NORMS.contains(&norm) {
        let scale = T::ONE / T::of(norm);
        out.iter_mut().for_each(|value| *value *= scale);
    } else if norm == 0.0 {
        out.fill(T::ZERO);
    } else {
        out.iter_mut().for_each(|value| *value = T::of(value.wide() / norm));
    }
}

impl<T: Real> Tensor<T> {
    /// The Euclidean norm along the last axis; adjoint `g x / norm`, 0 where the norm is 0.
    pub fn norm(&self, keep: bool) -> Result<Self> {
        let last = self.shape().axis("norm", -1)?;
        let (columns, x) = (self.shape().columns(), self.values());
        let norms = norms(&x, columns, self.shape().rows());
        let out: Vec<T> = memory::collect(norms.iter().map(|&norm| T::of(norm)));
        let shape = self.shape().reduced(last, keep);
        Ok(record("norm", Arc::new(Buffer::from(out)), shape, [self], move |grad, _| {
            let mut out = Buffer::stale(x.len());
            each_row(&mut out, columns, |row, out| {
                out.copy_from_slice(&x[row * columns..][..columns]);
                divide(out, norms[row]);
                out.iter_mut().for_each(|out| *out *= grad[row]);
            });
            [Some(out)]
        }))
    }

    /// Each row divided by its Euclidean norm, however small or large; a zero row stays zero. Adjoint
    /// `(g - y <g, y>) / norm`, 0 for a zero row.
    pub fn normalize(&self) -> Result<Self> {
        self.shape().axis("normalize", -1)?;
        let (columns, rows, x) = (self.shape().columns(), self.shape().rows(), self.values());
        let norms = norms(&x, columns, rows);
        let mut out = Buffer::stale(x.len());
        each_row(&mut out, columns, |row, out| {
            out.copy_from_slice(&x[row * columns..][..columns]);
            divide(out, norms[row]);
        });
        let y = Arc::new(out);
        Ok(record("normalize", Arc::clone(&y), self.shape(), [self], move |mut grad, _| {
            each_row(&mut grad, columns, |row, grad| {
                let y = &y[row * columns..][..columns];
                let inner = T::dot(grad, y);
                grad.iter_mut().zip(y).for_each(|(g, &y)| *g -= y * inner);
                divide(grad, norms[row]);
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
        assert!(x.grad().unwrap().iter().all(|&value| value == 0.0));
    }

    #[test]
    fn rows_of_any_size_have_a_direction_and_a_gradient() {
        let direction = [0.6f64, -0.48, 0.64];
        for size in [1e-44, 1e-38, 1e-25, 1e-16, 1.0, 1e17, 1e25, 3e38] {
            let values: Vec<f32> = direction.iter().map(|&x| (x * size) as f32).collect();
            // What is left of subnormal numbers is what counts.
            let exact: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
            let norm = exact.iter().map(|x| x * x).sum::<f64>().sqrt();
            let x = Tensor::parameter(values, &[1, 3]).unwrap();
            let y = x.normalize().unwrap();
            let close = |a: f32, b: f64| (f64::from(a) - b).abs() <= 3e-7 * b.abs().max(1e-3);
            assert!(y.values().iter().zip(&exact).all(|(&y, x)| close(y, x / norm)), "{size}");
            // A norm may be subnormal itself, with few digits.
            let length = f64::from(x.norm(false).unwrap().item().unwrap());
            assert!((length - norm).abs() <= 3e-7 * norm + f64::from(f32::from_bits(1)), "{size}");
            let other = Tensor::new(vec![1.0f32, 2.0, -1.0], &[1, 3]).unwrap();
            let cosine = x.cosine_similarity(&other).unwrap().item().unwrap();
            let expected = (exact[0] + 2.0 * exact[1] - exact[2]) / (norm * 6f64.sqrt());
            assert!(close(cosine, expected), "{size}: {cosine} {expected}");
            // A gradient whose share in x is an ordinary number.
            let given = size.max(1e-30) as f32;
            y.backward_from(Some(vec![given, 0.0, 0.0].into()), false).unwrap();
            for (at, grad) in x.grad().unwrap().iter().enumerate() {
                let slope = (if at == 0 { 1.0 } else { 0.0 }) - exact[0] * exact[at] / (norm * norm);
                let share = f64::from(given) / norm;
                assert!((f64::from(*grad) - slope * share).abs() < 1e-6 * share, "{size}");
            }
            x.zero_grad();
            x.norm(false).unwrap().backward().unwrap();
            assert!(x.grad().unwrap().iter().zip(&exact).all(|(&g, x)| close(g, x / norm)), "{size}");
        }
    }
}
