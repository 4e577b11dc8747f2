//! Choosing and joining: `index_select`, `slice`, `concat`, `stack`.

#![forbid(unsafe_code)]

use crate::autograd::tape::{record, record_many};
use crate::autograd::{CHUNK, Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::memory;
use crate::real::Real;
use crate::{aggregate, threads};
use std::ops::Range;
use std::sync::Arc;

impl<T: Real> Tensor<T> {
    /// The slices `rows` of the first axis, in that order; adjoint: the gradients of each slice's copies, summed
    /// in order.
    pub fn index_select(&self, rows: &[u32]) -> Result<Self> {
        let Some((&count, rest)) = self.dims().split_first() else {
            return Err(Error::Shape("index_select: a single number has no rows".into()));
        };
        if let Some(&row) = rows.iter().find(|&&row| row as usize >= count) {
            return Err(Error::Row(format!("index_select: row {row} of a tensor of shape {}", self.shape())));
        }
        let (columns, x) = (rest.iter().product::<usize>(), self.values());
        let dims: Vec<usize> = std::iter::once(rows.len()).chain(rest.iter().copied()).collect();
        let shape = Shape::new(&dims)?;
        let mut out = Buffer::stale(shape.count());
        let band = (CHUNK / columns.max(1)).max(1);
        if columns > 0 {
            threads::for_each_chunk(&mut out, band * columns, |piece, out| {
                for (out, &row) in out.chunks_exact_mut(columns).zip(&rows[piece * band..]) {
                    out.copy_from_slice(&x[row as usize * columns..][..columns]);
                }
            });
        }
        // Row r of the source sums the copies that were taken of it: an aggregation over a graph of its own.
        let rows = if crate::autograd::tape::tracked(&[self]) { memory::copy_of(rows) } else { Vec::new() };
        Ok(record("index_select", Arc::new(out), shape, [self], move |grad, _| {
            let copies = Graph::grouping(&rows, count);
            let mut out = Buffer::stale(count * columns);
            aggregate::sum(&copies, None, &grad, columns, &mut out);
            [Some(out)]
        }))
    }

    /// The part `range` of `axis`.
    pub fn slice(&self, axis: isize, range: Range<usize>) -> Result<Self> {
        let axis = self.shape().axis("slice", axis)?;
        let (outer, len, inner) = self.shape().around(axis);
        if range.start > range.end || range.end > len {
            let message = format!("slice: {range:?} of axis {axis} of shape {}", self.shape());
            return Err(Error::Row(message));
        }
        let mut dims = self.dims().to_vec();
        dims[axis] = range.len();
        let (x, width) = (self.values(), range.len() * inner);
        let mut out = Buffer::stale(outer * width);
        let first = range.start * inner;
        for block in 0..outer {
            out[block * width..][..width].copy_from_slice(&x[block * len * inner + first..][..width]);
        }
        Ok(record("slice", Arc::new(out), Shape::new(&dims)?, [self], move |grad, _| {
            let mut out = Buffer::zeros(outer * len * inner);
            for block in 0..outer {
                let place = &mut out[block * len * inner + first..][..width];
                place.copy_from_slice(&grad[block * width..][..width]);
            }
            [Some(out)]
        }))
    }

    /// Tensors joined along `axis`; the other axes must agree.
    pub fn concat(tensors: &[Self], axis: isize) -> Result<Self> {
        let Some(first) = tensors.first() else {
            return Err(Error::Shape("concat: no tensors given".into()));
        };
        let axis = first.shape().axis("concat", axis)?;
        for other in tensors {
            let same = other.dims().len() == first.dims().len()
                && (0..first.dims().len()).all(|i| i == axis || other.dims()[i] == first.dims()[i]);
            if !same {
                let message =
                    format!("concat: shapes {} and {} on axis {axis}", first.shape(), other.shape());
                return Err(Error::Shape(message));
            }
        }
        let (outer, _, inner) = first.shape().around(axis);
        let widths: Vec<usize> = tensors.iter().map(|tensor| tensor.dims()[axis] * inner).collect();
        let mut dims = first.dims().to_vec();
        dims[axis] = tensors.iter().fold(0, |sum: usize, tensor| sum.saturating_add(tensor.dims()[axis]));
        let shape = Shape::new(&dims)?;
        let width: usize = widths.iter().sum();
        let mut out = Buffer::stale(shape.count());
        let mut at = 0;
        for (tensor, &own) in tensors.iter().zip(&widths) {
            let x = tensor.values();
            for block in 0..outer {
                out[block * width + at..][..own].copy_from_slice(&x[block * own..][..own]);
            }
            at += own;
        }
        Ok(record_many("concat", out, shape, tensors.to_vec(), move |grad, wanted| {
            let mut at = 0;
            let part = |(&own, &wanted): (&usize, &bool)| {
                let start = at;
                at += own;
                wanted.then(|| {
                    let mut part = Buffer::stale(outer * own);
                    for block in 0..outer {
                        part[block * own..][..own].copy_from_slice(&grad[block * width + start..][..own]);
                    }
                    part
                })
            };
            widths.iter().zip(wanted).map(part).collect()
        }))
    }

    /// Tensors of one shape joined along a new axis.
    pub fn stack(tensors: &[Self], axis: isize) -> Result<Self> {
        let Some(first) = tensors.first() else {
            return Err(Error::Shape("stack: no tensors given".into()));
        };
        let ndim = first.dims().len() as isize;
        let at = if axis < 0 { axis.saturating_add(ndim + 1) } else { axis };
        if !(0..=ndim).contains(&at) {
            return Err(Error::Shape(format!("stack: axis {axis} for tensors of shape {}", first.shape())));
        }
        let mut dims = first.dims().to_vec();
        dims.insert(at as usize, 1);
        if let Some(other) = tensors.iter().find(|tensor| tensor.shape() != first.shape()) {
            return Err(Error::Shape(format!("stack: shapes {} and {}", first.shape(), other.shape())));
        }
        let raised = tensors.iter().map(|tensor| tensor.reshape(&dims)).collect::<Result<Vec<_>>>()?;
        Self::concat(&raised, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients() {
        let x = [random(&[4, 3], 0)];
        gradcheck(&x, |x| x[0].index_select(&[2, 0, 2, 2, 3])).unwrap();
        gradcheck(&[random(&[4], 0)], |x| x[0].index_select(&[1, 1])).unwrap();
        gradcheck(&[random(&[3, 2, 2], 0)], |x| x[0].index_select(&[1, 0, 1])).unwrap();
        gradcheck(&x, |x| x[0].slice(0, 1..3)).unwrap();
        gradcheck(&x, |x| x[0].slice(-1, 1..2)).unwrap();
        let pair = [random(&[2, 3], 1), random(&[2, 4], 2)];
        gradcheck(&pair, |x| Tensor::concat(x, 1)).unwrap();
        let three = [random(&[2, 3], 1), random(&[2, 3], 2), random(&[2, 3], 3)];
        gradcheck(&three, |x| Tensor::concat(x, 0)).unwrap();
        for axis in -3..3 {
            gradcheck(&three, |x| Tensor::stack(x, axis)).unwrap();
        }
    }

    #[test]
    fn wrong_rows_ranges_and_shapes_are_refused() {
        let x = random(&[4, 3], 0);
        assert!(matches!(x.index_select(&[4]), Err(Error::Row(_))));
        assert!(x.slice(0, 3..5).is_err() && x.slice(2, 0..1).is_err());
        assert!(Tensor::concat(&[x.clone(), random(&[4, 4], 1)], 0).is_err());
        assert!(Tensor::<f64>::concat(&[], 0).is_err() && Tensor::stack(&[x, random(&[3], 1)], 0).is_err());
    }
}
