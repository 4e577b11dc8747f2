//! `softmax`, `log_softmax` and `logsumexp` along the last axis (others are moved there and back).
//!
//! All subtract the largest value first, so nothing overflows. A row of `-inf` alone has the softmax 0.

#![forbid(unsafe_code)]

use super::broadcast::sum;
use crate::autograd::tape::record;
use crate::autograd::{CHUNK, Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::{Real, larger};
use crate::threads;
use std::sync::Arc;

/// Whole rows per piece of work, and their length in values.
pub(in crate::autograd) fn row_piece(columns: usize) -> (usize, usize) {
    let rows = (CHUNK / columns.max(1)).max(1);
    (rows, rows * columns)
}

/// Writes `e^(x - max)` and returns the maximum and the sum.
pub(crate) fn exponentials<T: Real>(row: &[T], out: &mut [T]) -> (T, T) {
    let max = row.iter().copied().fold(T::of(f64::NEG_INFINITY), larger);
    if max == T::of(f64::NEG_INFINITY) {
        out.fill(T::ZERO);
        return (max, T::ZERO);
    }
    out.iter_mut().zip(row).for_each(|(out, &value)| *out = (value - max).exp());
    (max, sum(out))
}

impl<T: Real> Tensor<T> {
    /// Runs `f` with `axis` moved to the end.
    fn along(&self, op: &str, axis: isize, f: impl Fn(&Self) -> Result<Self>) -> Result<Self> {
        let (index, last) = (self.shape().axis(op, axis)?, self.dims().len() - 1);
        if index == last {
            return f(self);
        }
        f(&self.swap_axes(index as isize, -1)?)?.swap_axes(index as isize, -1)
    }

    /// `e^x_i / sum_j e^x_j` along `axis`; adjoint `y (g - <g, y>)`.
    pub fn softmax(&self, axis: isize) -> Result<Self> {
        self.along("softmax", axis, |x| {
            let (columns, values) = (x.shape().columns(), x.values());
            let mut out = Buffer::stale(values.len());
            each_row(&mut out, columns, |row, out| {
                let (_, total) = exponentials(&values[row * columns..][..columns], out);
                let scale = if total > T::ZERO { T::ONE / total } else { T::ZERO };
                out.iter_mut().for_each(|value| *value *= scale);
            });
            let out = Arc::new(out);
            let y = Arc::clone(&out);
            Ok(record("softmax", out, x.shape(), [x], move |mut grad, _| {
                each_row(&mut grad, columns, |row, grad| {
                    let y = &y[row * columns..][..columns];
                    let inner = T::dot(grad, y);
                    grad.iter_mut().zip(y).for_each(|(g, &y)| *g = y * (*g - inner));
                });
                [Some(grad)]
            }))
        })
    }

    /// `x_i - ln sum_j e^x_j` along `axis`; adjoint `g - e^y sum(g)`.
    pub fn log_softmax(&self, axis: isize) -> Result<Self> {
        self.along("log_softmax", axis, |x| {
            let (columns, values) = (x.shape().columns(), x.values());
            let mut out = Buffer::stale(values.len());
            each_row(&mut out, columns, |row, out| {
                let values = &values[row * columns..][..columns];
                let (max, total) = exponentials(values, out);
                let shift = max + total.ln();
                out.iter_mut().zip(values).for_each(|(out, &value)| *out = value - shift);
            });
            let out = Arc::new(out);
            let y = Arc::clone(&out);
            Ok(record("log_softmax", out, x.shape(), [x], move |mut grad, _| {
                each_row(&mut grad, columns, |row, grad| {
                    let total = sum(grad);
                    let y = &y[row * columns..][..columns];
                    grad.iter_mut().zip(y).for_each(|(g, &y)| *g -= y.exp() * total);
                });
                [Some(grad)]
            }))
        })
    }

    /// `ln sum_j e^x_j` along `axis`, which stays with length 1 when `keep`; adjoint `g softmax(x)`.
    pub fn logsumexp(&self, axis: isize, keep: bool) -> Result<Self> {
        let index = self.shape().axis("logsumexp", axis)?;
        if self.dims()[index] == 0 {
            return Err(Error::Shape(format!("logsumexp: axis {axis} of shape {} is empty", self.shape())));
        }
        let shape = self.shape().reduced(index, keep);
        let moved = self.swap_axes(index as isize, -1)?;
        let (rows, columns) = (moved.shape().rows(), moved.shape().columns());
        let mut softmax = moved.values().as_ref().clone();
        let mut out = memory::vec![T::ZERO; rows];
        let values = moved.values();
        // The maxima and sums per row come back in order; the exponentials stay for the adjoint.
        let (band, piece) = row_piece(columns);
        let mut sums = memory::vec![(T::ZERO, T::ZERO); rows];
        threads::for_each_chunk(&mut sums, band, |chunk, sums| {
            let mut scratch = memory::vec![T::ZERO; columns];
            for (row, place) in sums.iter_mut().enumerate() {
                *place = exponentials(&values[chunk * piece + row * columns..][..columns], &mut scratch);
            }
        });
        out.iter_mut().zip(&sums).for_each(|(out, &(max, total))| *out = max + total.ln());
        each_row(&mut softmax, columns, |row, values| {
            let (max, total) = sums[row];
            values.iter_mut().for_each(|value| *value = (*value - max).exp() / total);
        });
        let reduced = Shape::new(&[rows])?;
        let result = record("logsumexp", Arc::new(Buffer::from(out)), reduced, [&moved], move |grad, _| {
            let mut spread = softmax.clone();
            each_row(&mut spread, columns, |row, values| values.iter_mut().for_each(|v| *v *= grad[row]));
            [Some(spread)]
        });
        // Moving the axis last keeps the others in order only up to the swap.
        match (self.dims().len(), index) {
            (3, 0) => {
                let (middle, last) = (self.dims()[1], self.dims()[2]);
                result.reshape(&[last, middle])?.transpose()?.reshape(&shape)
            }
            _ => result.reshape(&shape),
        }
    }
}

/// `f(row, values of the row)` for all rows, in parallel by fixed pieces.
pub(in crate::autograd) fn each_row<T: Real>(
    values: &mut [T],
    columns: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    if columns == 0 {
        return;
    }
    let (rows, piece) = row_piece(columns);
    threads::for_each_chunk(values, piece, |chunk, values| {
        values.chunks_exact_mut(columns).enumerate().for_each(|(row, values)| f(chunk * rows + row, values));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_along_every_axis() {
        for dims in [vec![5], vec![3, 4], vec![2, 3, 4]] {
            let x = [random(&dims, 0)];
            for axis in 0..dims.len() as isize {
                gradcheck(&x, |x| x[0].softmax(axis)).unwrap();
                gradcheck(&x, |x| x[0].log_softmax(axis)).unwrap();
                gradcheck(&x, |x| x[0].logsumexp(axis, false)).unwrap();
                gradcheck(&x, |x| x[0].logsumexp(axis, true)).unwrap();
            }
        }
    }

    #[test]
    fn logsumexp_matches_the_formula_along_every_axis() {
        let x = random(&[2, 3, 4], 0);
        for axis in 0..3 {
            let expected = x.exp().unwrap().sum_axis(axis, false).unwrap().log().unwrap();
            let got = x.logsumexp(axis, false).unwrap();
            assert_eq!(got.dims(), expected.dims());
            assert!(got.values().iter().zip(expected.values().iter()).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }

    #[test]
    fn large_values_and_empty_rows() {
        let x = Tensor::new(vec![1000.0f32, 1000.0, -1000.0, f32::NEG_INFINITY], &[2, 2]).unwrap();
        assert_eq!(x.softmax(-1).unwrap().to_vec(), [0.5, 0.5, 1.0, 0.0]);
        let masked = Tensor::new(vec![f32::NEG_INFINITY; 2], &[1, 2]).unwrap();
        assert_eq!(masked.softmax(-1).unwrap().to_vec(), [0.0, 0.0]);
        assert_eq!(Tensor::<f32>::zeros(&[0, 3]).unwrap().softmax(-1).unwrap().dims(), [0, 3]);
    }
}
