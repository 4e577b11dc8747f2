//! Layer normalization (Ba et al. 2016) over the last axis.
//!
//! `y = (x - mean) / sqrt(var + eps) * weight + bias`. With `n = (x - mean) s`, `s = 1/sqrt(var + eps)` and
//! `h = g * weight`: `dx = s (h - mean(h) - n mean(h n))`, `dweight = sum g n`, `dbias = sum g`.

#![forbid(unsafe_code)]

use super::broadcast::tree;
use super::softmax::{each_row, row_piece};
use crate::autograd::Tensor;
use crate::autograd::tape::record;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::loops;
use crate::memory;
use crate::number;
use crate::real::Real;
use crate::threads;
use std::sync::Arc;

impl<T: Real> Tensor<T> {
    /// Normalizes the last axis; `weight` and `bias` have its length, and `eps` is positive.
    pub fn layer_norm(&self, weight: &Self, bias: &Self, eps: f64) -> Result<Self> {
        let eps = T::of(number::positive("eps", eps)?);
        let columns = self.shape().columns();
        if self.dims().is_empty() || *weight.dims() != [columns] || *bias.dims() != [columns] || columns == 0
        {
            return Err(Error::Shape(format!(
                "layer_norm: x of shape {} with weight of shape {} and bias of shape {}",
                self.shape(),
                weight.shape(),
                bias.shape()
            )));
        }
        let (x, w, b) = (self.values(), weight.values(), bias.values());
        let mut out = Buffer::stale(x.len());
        each_row(&mut out, columns, |row, out| {
            out.copy_from_slice(&x[row * columns..][..columns]);
            loops::normalize(out, &w, &b, eps);
        });
        let parents = [self, weight, bias];
        Ok(record("layer_norm", Arc::new(out), self.shape(), parents, move |mut grad, wanted| {
            let [to_weight, to_bias] = adjoint(&x, &w, &mut grad, eps);
            [wanted[0].then_some(grad), wanted[1].then_some(to_weight), wanted[2].then_some(to_bias)]
        }))
    }
}

/// Turns the gradient of the result into that of `x`, in place; the gradients of weight and bias are summed by fixed bands of
/// rows.
fn adjoint<T: Real>(x: &[T], w: &[T], grad: &mut [T], eps: T) -> [Buffer<T>; 2] {
    let columns = w.len();
    if x.is_empty() {
        return [0, 1].map(|_| Buffer::zeros(columns));
    }
    let (_, piece) = row_piece(columns);
    let mut sums = memory::vec![memory::vec![T::ZERO; 2 * columns]; x.len().div_ceil(piece)];
    threads::for_each_chunk_of_both((grad, piece), (&mut sums, 1), |band, grad, sums| {
        let (to_weight, to_bias) = sums[0].split_at_mut(columns);
        let rows = x[band * piece..][..grad.len()].chunks_exact(columns);
        for (x, grad) in rows.zip(grad.chunks_exact_mut(columns)) {
            loops::normalize_adjoint(x, w, eps, grad, to_weight, to_bias);
        }
    });
    let sums = tree(sums);
    [Buffer::copy_of(&sums[..columns]), Buffer::copy_of(&sums[columns..])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients() {
        let parameters = [random(&[5], 1), random(&[5], 2)];
        for dims in [vec![5], vec![4, 5], vec![2, 3, 5]] {
            let inputs = [random(&dims, 0), parameters[0].clone(), parameters[1].clone()];
            gradcheck(&inputs, |x| x[0].layer_norm(&x[1], &x[2], 1e-5)).unwrap();
        }
    }

    #[test]
    fn rows_have_mean_zero_and_variance_one_even_far_from_zero() {
        let x = Tensor::new((0..64).map(|i| 1e4 + i as f32).collect::<Vec<_>>(), &[2, 32]).unwrap();
        let one = Tensor::new(vec![1.0; 32], &[32]).unwrap();
        let y = x.layer_norm(&one, &Tensor::zeros(&[32]).unwrap(), 1e-5).unwrap();
        for row in y.values().chunks(32) {
            let mean = row.iter().sum::<f32>() / 32.0;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 32.0;
            assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
        }
    }

    #[test]
    fn rows_whose_squares_overflow_are_normalized_too() {
        let (weight, bias) = ([1.0, -2.0, 0.5, 1.0], [0.0, 1.0, 0.0, 0.0]);
        for size in [1e18, 1e25, 3e38] {
            let small: Vec<f64> = [0.9, -1.0, 0.3, 1.0].into();
            let run = |scale: f64| {
                let x: Vec<f32> = small.iter().map(|x| (x * scale) as f32).collect();
                let x = Tensor::parameter(x, &[1, 4]).unwrap();
                let [w, b] = [weight, bias].map(|values| Tensor::parameter(values.to_vec(), &[4]).unwrap());
                let y = x.layer_norm(&w, &b, 1e-25).unwrap();
                y.backward_from(Some(vec![1.0, 0.5, -1.0, 2.0].into()), false).unwrap();
                let to_x =
                    x.grad().unwrap().iter().map(|g| (f64::from(*g) * scale) as f32).collect::<Vec<_>>();
                [y.to_vec(), to_x, w.grad().unwrap().to_vec(), b.grad().unwrap().to_vec()].concat()
            };
            let (far, near) = (run(size), run(1.0));
            assert!(far.iter().zip(near).all(|(a, b)| (a - b).abs() < 2e-6), "{size}: {far:?}");
        }
        let flat = Tensor::new(vec![1e30f32; 4], &[1, 4]).unwrap();
        let one = Tensor::new(vec![1.0; 4], &[4]).unwrap();
        assert_eq!(flat.layer_norm(&one, &one, 1e-5).unwrap().to_vec(), [1.0; 4]);
        assert!(flat.layer_norm(&one, &one, 1e-40).is_err());
    }
}
