//! Layer normalization (Ba et al. 2016) over the last axis.
//!
//! `y = (x - mean) / sqrt(var + eps) * weight + bias`. With `n = (x - mean) s`, `s = 1/sqrt(var + eps)` and
//! `h = g * weight`: `dx = s (h - mean(h) - n mean(h n))`, `dweight = sum g n`, `dbias = sum g`.

#![forbid(unsafe_code)]

use super::broadcast::{sum, tree};
use super::softmax::{each_row, row_piece};
use crate::autograd::Tensor;
use crate::autograd::tape::record;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::real::Real;
use crate::simd::vectorized;
use crate::threads;
use std::sync::Arc;

/// Mean and `1 / sqrt(var + eps)` of a row.
#[inline(always)]
fn moments<T: Real>(row: &[T], eps: T) -> (T, T) {
    let count = T::of(row.len() as f64);
    let mean = sum(row) / count;
    let mut squares = [T::ZERO; 8];
    for eight in row.chunks(8) {
        squares.iter_mut().zip(eight).for_each(|(square, &x)| *square += (x - mean) * (x - mean));
    }
    (mean, T::ONE / (sum(&squares) / count + eps).sqrt())
}

/// Normalizes one row in place.
#[inline(always)]
pub(crate) fn normalize_row<T: Real>(row: &mut [T], weight: &[T], bias: &[T], eps: T) {
    let (mean, scale) = moments(row, eps);
    for ((x, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * scale * w + b;
    }
}

impl<T: Real> Tensor<T> {
    /// Normalizes the last axis; `weight` and `bias` have its length.
    pub fn layer_norm(&self, weight: &Self, bias: &Self, eps: T) -> Result<Self> {
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
            vectorized(|| normalize_row(out, &w, &b, eps));
        });
        let parents = [self, weight, bias];
        Ok(record("layer_norm", Arc::new(out), self.shape(), parents, move |mut grad, wanted| {
            let [weight, bias] = parameter_grads(&x, &grad, columns, eps, wanted[1] || wanted[2]);
            if wanted[0] {
                input_grad(&x, &w, &mut grad, eps);
            }
            [wanted[0].then_some(grad), weight.filter(|_| wanted[1]), bias.filter(|_| wanted[2])]
        }))
    }
}

/// Turns the gradient of the result into that of `x`, in place.
fn input_grad<T: Real>(x: &[T], w: &[T], grad: &mut [T], eps: T) {
    let columns = w.len();
    let share = T::ONE / T::of(columns as f64);
    each_row(grad, columns, |row, grad| {
        let x = &x[row * columns..][..columns];
        let (mean, scale) = moments(x, eps);
        grad.iter_mut().zip(w).for_each(|(g, &w)| *g *= w);
        let center = sum(grad) * share;
        let mut products = [T::ZERO; 8];
        for (grad, x) in grad.chunks(8).zip(x.chunks(8)) {
            products.iter_mut().zip(grad.iter().zip(x)).for_each(|(p, (&g, &x))| *p += g * (x - mean));
        }
        let slope = sum(&products) * scale * share;
        grad.iter_mut().zip(x).for_each(|(g, &x)| *g = scale * (*g - center - (x - mean) * scale * slope));
    });
}

/// The gradients of weight and bias, summed by fixed bands of rows.
fn parameter_grads<T: Real>(
    x: &[T],
    grad: &[T],
    columns: usize,
    eps: T,
    wanted: bool,
) -> [Option<Buffer<T>>; 2] {
    if !wanted {
        return [None, None];
    }
    let (_, piece) = row_piece(columns);
    let sums = tree(threads::map(x.len().div_ceil(piece), |band| {
        let range = band * piece..((band + 1) * piece).min(x.len());
        let mut sums = vec![T::ZERO; 2 * columns];
        let (weight, bias) = sums.split_at_mut(columns);
        for (x, grad) in x[range.clone()].chunks_exact(columns).zip(grad[range].chunks_exact(columns)) {
            let (mean, scale) = moments(x, eps);
            for i in 0..columns {
                weight[i] += grad[i] * (x[i] - mean) * scale;
                bias[i] += grad[i];
            }
        }
        sums
    }));
    if sums.is_empty() {
        return [0, 1].map(|_| Some(Buffer::zeros(columns)));
    }
    [Some(sums[..columns].to_vec().into()), Some(sums[columns..].to_vec().into())]
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
}
