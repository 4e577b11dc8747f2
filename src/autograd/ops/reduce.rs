//! Sums, means and extremes, over everything or along an axis.

#![forbid(unsafe_code)]

use super::broadcast::{sum, tree};
use crate::autograd::tape::record;
use crate::autograd::{CHUNK, Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::Real;
use crate::threads;
use std::sync::Arc;

/// The sum of many values, by fixed pieces.
pub(in crate::autograd) fn total<T: Real>(values: &[T]) -> T {
    let parts = threads::map(values.len().div_ceil(CHUNK), |piece| {
        vec![sum(&values[piece * CHUNK..][..CHUNK.min(values.len() - piece * CHUNK)])]
    });
    tree(parts).pop().unwrap_or(T::ZERO)
}

/// Pieces of whole slices of `len` values each, about a chunk together.
fn slices_per_piece(len: usize) -> usize {
    (CHUNK / len.max(1)).max(1)
}

/// Sums over the middle of `(outer, len, inner)`.
fn sum_axis<T: Real>(values: &[T], (outer, len, inner): (usize, usize, usize)) -> Buffer<T> {
    let mut out = Buffer::zeros(outer * inner);
    if values.is_empty() {
        return out;
    }
    if inner == 1 {
        let rows = slices_per_piece(len);
        threads::for_each_chunk(&mut out, rows, |piece, out| {
            let values = &values[piece * rows * len..];
            out.iter_mut().zip(values.chunks_exact(len)).for_each(|(out, row)| *out = sum(row));
        });
        return out;
    }
    if outer == 1 {
        let band = slices_per_piece(inner);
        return tree(threads::map(len.div_ceil(band), |piece| {
            let band = &values[piece * band * inner..][..band.min(len - piece * band) * inner];
            let mut sums = memory::vec![T::ZERO; inner];
            band.chunks_exact(inner).for_each(|row| add(&mut sums, row));
            sums
        }))
        .into();
    }
    threads::for_each_chunk(&mut out, inner, |slice, out| {
        values[slice * len * inner..][..len * inner].chunks_exact(inner).for_each(|row| add(out, row));
    });
    out
}

fn add<T: Real>(sums: &mut [T], row: &[T]) {
    sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += value);
}

/// Repeats `(outer, inner)` values along a middle axis of `len`, times `scale`.
fn spread<T: Real>(grad: &[T], (outer, len, inner): (usize, usize, usize), scale: T) -> Buffer<T> {
    let mut out = Buffer::stale(outer * len * inner);
    if out.is_empty() {
        return out;
    }
    let slices = slices_per_piece(len * inner);
    threads::for_each_chunk(&mut out, slices * len * inner, |piece, out| {
        for (slice, out) in out.chunks_exact_mut(len * inner).enumerate() {
            let grad = &grad[(piece * slices + slice) * inner..][..inner];
            for row in out.chunks_exact_mut(inner) {
                row.iter_mut().zip(grad).for_each(|(out, &grad)| *out = grad * scale);
            }
        }
    });
    out
}

impl<T: Real> Tensor<T> {
    /// The sum of all values.
    pub fn sum(&self) -> Result<Self> {
        let count = self.count();
        let out = Buffer::from(vec![total(&self.values())]);
        Ok(record("sum", Arc::new(out), Shape::SCALAR, [self], move |grad, _| {
            [Some(Buffer::filled(count, grad[0]))]
        }))
    }

    /// The mean of all values, of which there must be some.
    pub fn mean(&self) -> Result<Self> {
        if self.count() == 0 {
            return Err(Error::Shape(format!("mean: a tensor of shape {} has no values", self.shape())));
        }
        self.sum()?.affine(T::ONE / T::of(self.count() as f64), T::ZERO)
    }

    /// Sums along `axis`, which stays with length 1 when `keep`.
    pub fn sum_axis(&self, axis: isize, keep: bool) -> Result<Self> {
        self.scaled_sum("sum", axis, keep, |_| T::ONE)
    }

    /// Means along `axis`, which must not be empty.
    pub fn mean_axis(&self, axis: isize, keep: bool) -> Result<Self> {
        let index = self.shape().axis("mean", axis)?;
        if self.dims()[index] == 0 {
            return Err(Error::Shape(format!("mean: axis {axis} of shape {} is empty", self.shape())));
        }
        self.scaled_sum("mean", axis, keep, |len| T::ONE / T::of(len as f64))
    }

    fn scaled_sum(&self, name: &'static str, axis: isize, keep: bool, scale: fn(usize) -> T) -> Result<Self> {
        let axis = self.shape().axis(name, axis)?;
        let around = self.shape().around(axis);
        let scale = scale(around.1);
        let mut out = sum_axis(&self.values(), around);
        if scale != T::ONE {
            super::unary::in_place(&mut out, |value| value * scale);
        }
        Ok(record(name, Arc::new(out), self.shape().reduced(axis, keep), [self], move |grad, _| {
            [Some(spread(&grad, around, scale))]
        }))
    }

    /// The largest values along `axis`; the gradient goes to the first of equal ones.
    pub fn max_axis(&self, axis: isize, keep: bool) -> Result<Self> {
        self.extreme("max", axis, keep, |new, best| new > best)
    }

    /// The smallest values along `axis`; the gradient goes to the first of equal ones.
    pub fn min_axis(&self, axis: isize, keep: bool) -> Result<Self> {
        self.extreme("min", axis, keep, |new, best| new < best)
    }

    /// The largest of all values.
    pub fn max(&self) -> Result<Self> {
        self.reshape(&[self.count()])?.max_axis(0, false)
    }

    /// The smallest of all values.
    pub fn min(&self) -> Result<Self> {
        self.reshape(&[self.count()])?.min_axis(0, false)
    }

    fn extreme(&self, name: &'static str, axis: isize, keep: bool, better: fn(T, T) -> bool) -> Result<Self> {
        let index = self.shape().axis(name, axis)?;
        let (outer, len, inner) = self.shape().around(index);
        if len == 0 {
            return Err(Error::Shape(format!("{name}: axis {axis} of shape {} is empty", self.shape())));
        }
        let values = self.values();
        let mut places: Vec<usize> = memory::vec![0; outer * inner];
        threads::for_each_chunk(&mut places, slices_per_piece(len), |piece, places| {
            for (offset, place) in places.iter_mut().enumerate() {
                let slice = piece * slices_per_piece(len) + offset;
                let first = slice / inner * len * inner + slice % inner;
                // NaN wins, so that it is seen.
                *place = (1..len).map(|step| first + step * inner).fold(first, |best, at| {
                    let (new, old) = (values[at], values[best]);
                    if better(new, old) || (new.is_nan() && !old.is_nan()) { at } else { best }
                });
            }
        });
        let mut out = Buffer::stale(places.len());
        out.iter_mut().zip(&places).for_each(|(out, &place)| *out = values[place]);
        let count = values.len();
        Ok(record(name, Arc::new(out), self.shape().reduced(index, keep), [self], move |grad, _| {
            let mut spread = Buffer::zeros(count);
            places.iter().zip(grad.iter()).for_each(|(&place, &grad)| spread[place] = grad);
            [Some(spread)]
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_along_every_axis_of_every_rank() {
        for dims in [vec![5], vec![3, 4], vec![2, 3, 4]] {
            let x = [random(&dims, 0)];
            gradcheck(&x, |x| x[0].sum()).unwrap();
            gradcheck(&x, |x| x[0].mean()).unwrap();
            gradcheck(&x, |x| x[0].max()).unwrap();
            for axis in -(dims.len() as isize)..dims.len() as isize {
                gradcheck(&x, |x| x[0].sum_axis(axis, true)).unwrap();
                gradcheck(&x, |x| x[0].mean_axis(axis, false)).unwrap();
                gradcheck(&x, |x| x[0].max_axis(axis, false)).unwrap();
                gradcheck(&x, |x| x[0].min_axis(axis, true)).unwrap();
            }
        }
    }

    #[test]
    fn long_axes_match_the_naive_sum() {
        for (dims, axis) in
            [(vec![3000, 33], 0), (vec![3000, 33], 1), (vec![7, 500, 9], 1), (vec![7, 500, 9], 0)]
        {
            let x = random(&dims, 0);
            let (outer, len, inner) = x.shape().around(axis);
            let mut expected = vec![0.0; outer * inner];
            for (at, value) in x.values().iter().enumerate() {
                expected[at / (len * inner) * inner + at % inner] += value;
            }
            let got = x.sum_axis(axis as isize, false).unwrap();
            assert!(got.values().iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-10));
        }
    }

    #[test]
    fn empty_axes_sum_to_zero_and_have_no_mean_or_maximum() {
        let x = Tensor::<f64>::zeros(&[0, 3]).unwrap();
        assert_eq!(x.sum_axis(0, false).unwrap().to_vec(), [0.0; 3]);
        assert!(x.mean().is_err() && x.mean_axis(0, false).is_err() && x.max_axis(0, false).is_err());
    }
}
