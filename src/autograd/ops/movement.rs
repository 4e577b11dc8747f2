//! Rearranging without arithmetic: reshape, transpose, permute.

#![forbid(unsafe_code)]

use crate::autograd::tape::{record, record_transposed};
use crate::autograd::{Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::real::Real;
use crate::threads;
use std::sync::Arc;

/// Side of the square blocks in which matrices are transposed: two of them fit the L1 cache.
const BLOCK: usize = 32;

/// The transpose of a row-major `rows x columns` matrix.
pub(in crate::autograd) fn transposed<T: Real>(values: &[T], rows: usize, columns: usize) -> Buffer<T> {
    let mut out = Buffer::stale(values.len());
    if values.is_empty() {
        return out;
    }
    threads::for_each_chunk(&mut out, BLOCK * rows, |band, out| {
        let first = band * BLOCK;
        for start in (0..rows).step_by(BLOCK) {
            for (offset, out) in out.chunks_exact_mut(rows).enumerate() {
                for (row, out) in out[start..rows.min(start + BLOCK)].iter_mut().enumerate() {
                    *out = values[(start + row) * columns + first + offset];
                }
            }
        }
    });
    out
}

/// Axes of `(a, b, c)` values in the order `axes`.
fn permuted<T: Real>(values: &[T], dims: [usize; 3], axes: [usize; 3]) -> Buffer<T> {
    let strides = [dims[1] * dims[2], dims[2], 1];
    let [_, middle, last] = axes.map(|axis| dims[axis]);
    let mut out = Buffer::stale(values.len());
    if values.is_empty() {
        return out;
    }
    threads::for_each_chunk(&mut out, middle * last, |outer, out| {
        for (row, out) in out.chunks_exact_mut(last).enumerate() {
            let start = outer * strides[axes[0]] + row * strides[axes[1]];
            for (column, out) in out.iter_mut().enumerate() {
                *out = values[start + column * strides[axes[2]]];
            }
        }
    });
    out
}

/// Blocks of `(b, c, d)` values, each as `(c, b, d)`.
fn exchanged<T: Real>(values: &[T], [b, c, d]: [usize; 3]) -> Buffer<T> {
    let mut out = Buffer::stale(values.len());
    if values.is_empty() {
        return out;
    }
    threads::for_each_chunk(&mut out, b * c * d, |block, out| {
        let block = &values[block * b * c * d..][..b * c * d];
        for (place, out) in out.chunks_exact_mut(d).enumerate() {
            out.copy_from_slice(&block[(place % b * c + place / b) * d..][..d]);
        }
    });
    out
}

impl<T: Real> Tensor<T> {
    /// The same values in another shape of the same size; nothing is copied.
    pub fn reshape(&self, dims: &[usize]) -> Result<Self> {
        let shape = Shape::new(dims)?;
        if shape.count() != self.count() {
            return Err(Error::Shape(format!("reshape: shape {} to {shape}", self.shape())));
        }
        Ok(record("reshape", self.values(), shape, [self], |grad, _| [Some(grad)]))
    }

    /// As [`reshape`](Self::reshape); one length may be -1, and follows from the others.
    pub fn reshape_to(&self, lengths: &[isize]) -> Result<Self> {
        let refuse = || Err(Error::Shape(format!("reshape: shape {} to {lengths:?}", self.shape())));
        let known = lengths.iter().filter(|&&length| length != -1).try_fold(1usize, |product, &length| {
            usize::try_from(length).ok().and_then(|length| product.checked_mul(length))
        });
        let Some(known) = known else { return refuse() };
        let open = lengths.iter().filter(|&&length| length == -1).count();
        if open > 1 || open == 1 && (known == 0 || !self.count().is_multiple_of(known)) {
            return refuse();
        }
        let length = |&length: &isize| usize::try_from(length).unwrap_or_else(|_| self.count() / known);
        self.reshape(&lengths.iter().map(length).collect::<Vec<_>>())
    }

    /// The transpose of a matrix, carried out only when its values are read outside of a product.
    pub fn transpose(&self) -> Result<Self> {
        let (rows, columns) = self.shape().matrix("transpose", "the tensor")?;
        if let Some(source) = self.untransposed() {
            return Ok(source);
        }
        let shape = Shape::new(&[columns, rows])?;
        Ok(record_transposed(self, shape, move |grad| transposed(&grad, columns, rows)))
    }

    /// The axes of a 3-dimensional tensor in another order, each named once.
    pub fn permute(&self, axes: [usize; 3]) -> Result<Self> {
        let &[a, b, c] = self.dims() else {
            return Err(Error::Shape(format!(
                "permute: 3 dimensions are needed, got shape {}",
                self.shape()
            )));
        };
        let mut inverse = [3; 3];
        for (to, &from) in axes.iter().enumerate() {
            match inverse.get_mut(from) {
                Some(place) if *place == 3 => *place = to,
                _ => return Err(Error::Shape(format!("permute: {axes:?} is not an order of three axes"))),
            }
        }
        let dims = [a, b, c];
        let moved = axes.map(|axis| dims[axis]);
        let out = permuted(&self.values(), dims, axes);
        Ok(record("permute", Arc::new(out), Shape::new(&moved)?, [self], move |grad, _| {
            [Some(permuted(&grad, moved, inverse))]
        }))
    }

    /// `(B, L, heads d)` to `(B heads, L, d)`: the heads of every row side by side become stacks of their own.
    pub fn split_heads(&self, heads: usize) -> Result<Self> {
        match *self.dims() {
            [batch, length, columns] if heads > 0 && columns.is_multiple_of(heads) => self
                .exchange([batch, length, heads, columns / heads], &[batch * heads, length, columns / heads]),
            _ => {
                Err(Error::Shape(format!("split_heads: {heads} heads of a tensor of shape {}", self.shape())))
            }
        }
    }

    /// `(B heads, L, d)` to `(B, L, heads d)`: the inverse of [`split_heads`](Self::split_heads).
    pub fn join_heads(&self, heads: usize) -> Result<Self> {
        match *self.dims() {
            [stacks, length, width] if heads > 0 && stacks.is_multiple_of(heads) => self
                .exchange([stacks / heads, heads, length, width], &[stacks / heads, length, heads * width]),
            _ => {
                Err(Error::Shape(format!("join_heads: {heads} heads of a tensor of shape {}", self.shape())))
            }
        }
    }

    /// Exchanges the middle two of four axes; the result has shape `dims`.
    fn exchange(&self, [a, b, c, d]: [usize; 4], dims: &[usize]) -> Result<Self> {
        let out = exchanged(&self.values(), [b, c, d]);
        Ok(record("exchange", Arc::new(out), Shape::new(dims)?, [self], move |grad, _| {
            debug_assert_eq!(grad.len(), a * b * c * d);
            [Some(exchanged(&grad, [c, b, d]))]
        }))
    }

    /// Exchanges two axes.
    pub fn swap_axes(&self, first: isize, second: isize) -> Result<Self> {
        let (i, j) = (self.shape().axis("transpose", first)?, self.shape().axis("transpose", second)?);
        match (i == j, self.dims().len()) {
            (true, _) => Ok(self.clone()),
            (_, 2) => self.transpose(),
            _ => {
                let mut axes = [0, 1, 2];
                axes.swap(i, j);
                self.permute(axes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Error;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients() {
        gradcheck(&[random(&[3, 4], 0)], |x| x[0].reshape(&[2, 6])?.pow(2.0)).unwrap();
        gradcheck(&[random(&[3, 4], 0)], |x| x[0].transpose()?.pow(2.0)).unwrap();
        for axes in [[0, 2, 1], [2, 0, 1], [1, 2, 0], [2, 1, 0]] {
            gradcheck(&[random(&[2, 3, 4], 0)], |x| x[0].permute(axes)?.pow(2.0)).unwrap();
        }
    }

    #[test]
    fn heads_split_and_join() {
        let x = random(&[2, 3, 4], 0);
        gradcheck(std::slice::from_ref(&x), |x| x[0].split_heads(2)?.pow(2.0)).unwrap();
        gradcheck(std::slice::from_ref(&x), |x| x[0].join_heads(2)?.pow(2.0)).unwrap();
        let split = x.split_heads(2).unwrap();
        let (values, own) = (x.values(), split.values());
        // Batch 1, head 1, row 2, column 0.
        assert_eq!((split.dims(), own[(3 * 3 + 2) * 2]), (&[4, 3, 2][..], values[(3 + 2) * 4 + 2]));
        assert_eq!(split.join_heads(2).unwrap().to_vec(), x.to_vec());
        assert!(x.split_heads(3).is_err() && random(&[3, 4], 0).join_heads(1).is_err());
    }

    #[test]
    fn a_transpose_matches_index_arithmetic_and_twice_is_the_source() {
        let x = random(&[70, 45], 0);
        let t = x.transpose().unwrap();
        let (values, moved) = (x.values(), t.values());
        assert!((0..70 * 45).all(|at| moved[at % 45 * 70 + at / 45] == values[at]));
        assert!(x.transpose().unwrap().transpose().unwrap().same(&x));
    }

    #[test]
    fn bad_shapes_and_orders_are_refused() {
        let x = random(&[2, 3, 4], 0);
        assert!(x.reshape(&[5]).is_err() && x.transpose().is_err());
        assert_eq!(x.reshape_to(&[4, -1]).unwrap().dims(), [4, 6]);
        for lengths in [&[-1, -1][..], &[-1, 5], &[0, -1], &[-2, -12], &[isize::MAX, isize::MAX]] {
            assert!(matches!(x.reshape_to(lengths), Err(Error::Shape(_))), "{lengths:?}");
        }
        assert!(x.permute([0, 0, 1]).is_err() && x.permute([0, 1, 3]).is_err());
    }
}
