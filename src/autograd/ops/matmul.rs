//! Matrix products: `C = A B`, `dA = dC B^T`, `dB = A^T dC`.
//!
//! A transposed operand is read in place, and its gradient is made in the layout of its source, so `a @ b.T` moves
//! nothing: with `B = S^T`, `dS = dC^T A`.

#![forbid(unsafe_code)]

use crate::autograd::tape::record;
use crate::autograd::{Shape, Tensor, Values};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::linalg::{MatRef, matmul_into};
use crate::real::Real;
use std::sync::Arc;

/// A matrix operand as it lies in memory.
struct Operand<T: Real> {
    source: Tensor<T>,
    values: Values<T>,
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<T: Real> Operand<T> {
    fn of(tensor: &Tensor<T>) -> Self {
        let (rows, columns) = (tensor.dims()[0], tensor.dims()[1]);
        let (values, transposed) = tensor.matrix_values();
        let operand = |source| Self { source, values, rows, columns, transposed };
        match tensor.untransposed() {
            _ if !transposed => operand(tensor.clone()),
            Some(source) => operand(source),
            None if !tensor.requires_grad() => operand(tensor.clone()),
            // Its record is gone, so its gradient is wanted in its own layout.
            None => Self { values: tensor.values(), transposed: false, ..operand(tensor.clone()) },
        }
    }

    fn matrix(&self) -> MatRef<'_, T> {
        if self.transposed {
            MatRef::new(&self.values, self.columns, self.rows).t()
        } else {
            MatRef::new(&self.values, self.rows, self.columns)
        }
    }
}

/// `a b`, written as its transpose `b^T a^T` when the result is wanted in a transposed operand's layout.
pub(in crate::autograd) fn product<T: Real>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    transposed: bool,
) -> Buffer<T> {
    let (a, b) = if transposed { (b.t(), a.t()) } else { (a, b) };
    let mut out = Buffer::stale(a.rows() * b.columns());
    matmul_into(a, b, &mut out, false);
    out
}

impl<T: Real> Tensor<T> {
    /// `self @ other`, as NumPy: matrices; a vector on either side; stacks of matrices, or a stack times one matrix.
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        let (a, b) = (self.dims(), other.dims());
        let refuse = || {
            let shapes = format!("matmul: shapes {} and {} do not multiply", self.shape(), other.shape());
            Err(Error::Shape(shapes))
        };
        match (a, b) {
            (&[_, k], &[l, _]) if k == l => self.matmul_2d(other),
            (&[k], &[l, n]) if k == l => self.reshape(&[1, k])?.matmul_2d(other)?.reshape(&[n]),
            (&[m, k], &[l]) if k == l => self.matmul_2d(&other.reshape(&[l, 1])?)?.reshape(&[m]),
            (&[k], &[l]) if k == l => {
                self.reshape(&[1, k])?.matmul_2d(&other.reshape(&[l, 1])?)?.reshape(&[])
            }
            (&[s, m, k], &[l, n]) if k == l => {
                self.reshape(&[s * m, k])?.matmul_2d(other)?.reshape(&[s, m, n])
            }
            (&[s, _, k], &[t, l, _]) if k == l && s == t => self.matmul_stack(other),
            _ => refuse(),
        }
    }

    fn matmul_2d(&self, other: &Self) -> Result<Self> {
        let (a, b) = (Operand::of(self), Operand::of(other));
        let shape = Shape::new(&[a.rows, b.columns])?;
        let out = product(a.matrix(), b.matrix(), false);
        let (left, right) = (a.source.clone(), b.source.clone());
        Ok(record("matmul", Arc::new(out), shape, [&left, &right], move |grad, wanted| {
            let grad = MatRef::new(&grad, a.rows, b.columns);
            [
                wanted[0].then(|| product(grad, b.matrix().t(), a.transposed)),
                wanted[1].then(|| product(a.matrix().t(), grad, b.transposed)),
            ]
        }))
    }

    /// One product per layer of two stacks.
    fn matmul_stack(&self, other: &Self) -> Result<Self> {
        let (&[layers, m, k], &[_, _, n]) = (self.dims(), other.dims()) else {
            return Err(Error::Shape("matmul: stacks have 3 dimensions".into()));
        };
        let shape = Shape::new(&[layers, m, n])?;
        let (a, b) = (self.values(), other.values());
        let mut out = Buffer::stale(shape.count());
        let of = |values: &Values<T>, layer: usize, rows: usize, columns: usize| -> std::ops::Range<usize> {
            debug_assert_eq!(values.len(), layers * rows * columns);
            layer * rows * columns..(layer + 1) * rows * columns
        };
        for layer in 0..layers {
            let left = MatRef::new(&a[of(&a, layer, m, k)], m, k);
            let right = MatRef::new(&b[of(&b, layer, k, n)], k, n);
            matmul_into(left, right, &mut out[layer * m * n..][..m * n], false);
        }
        Ok(record("matmul", Arc::new(out), shape, [self, other], move |grad, wanted| {
            let grad = |layer: usize| MatRef::new(&grad[layer * m * n..][..m * n], m, n);
            let left = |layer: usize| MatRef::new(&a[layer * m * k..][..m * k], m, k);
            let right = |layer: usize| MatRef::new(&b[layer * k * n..][..k * n], k, n);
            [
                wanted[0].then(|| {
                    stack(layers, m * k, |layer, out| {
                        matmul_into(grad(layer), right(layer).t(), out, false);
                    })
                }),
                wanted[1].then(|| {
                    stack(layers, k * n, |layer, out| {
                        matmul_into(left(layer).t(), grad(layer), out, false);
                    })
                }),
            ]
        }))
    }
}

fn stack<T: Real>(layers: usize, len: usize, fill: impl Fn(usize, &mut [T])) -> Buffer<T> {
    let mut out = Buffer::stale(layers * len);
    (0..layers).for_each(|layer| fill(layer, &mut out[layer * len..][..len]));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_in_every_layout() {
        let (a, at) = (random(&[3, 4], 0), random(&[4, 3], 1));
        let (b, bt) = (random(&[4, 5], 2), random(&[5, 4], 3));
        gradcheck(&[a.clone(), b.clone()], |x| x[0].matmul(&x[1])).unwrap();
        gradcheck(&[a, bt.clone()], |x| x[0].matmul(&x[1].transpose()?)).unwrap();
        gradcheck(&[at.clone(), b], |x| x[0].transpose()?.matmul(&x[1])).unwrap();
        gradcheck(&[at, bt], |x| x[0].transpose()?.matmul(&x[1].transpose()?)).unwrap();
        gradcheck(&[random(&[4, 4], 4)], |x| x[0].matmul(&x[0].transpose()?)).unwrap();
    }

    #[test]
    fn gradients_of_vectors_and_stacks() {
        for (a, b) in [
            (vec![4], vec![4, 3]),
            (vec![3, 4], vec![4]),
            (vec![4], vec![4]),
            (vec![2, 3, 4], vec![4, 2]),
            (vec![2, 3, 4], vec![2, 4, 5]),
        ] {
            gradcheck(&[random(&a, 0), random(&b, 1)], |x| x[0].matmul(&x[1])).unwrap();
        }
    }

    #[test]
    fn a_transposed_operand_is_not_moved() {
        let (a, b) = (random(&[3, 4], 0), random(&[5, 4], 1));
        let bt = b.transpose().unwrap();
        let product = a.matmul(&bt).unwrap();
        assert!(bt.matrix_values().1, "the product materialised its operand");
        let moved = a.matmul(&Tensor::new(bt.to_vec(), &[4, 5]).unwrap()).unwrap();
        assert!(product.values().iter().zip(moved.values().iter()).all(|(a, b)| (a - b).abs() < 1e-14));
    }

    #[test]
    fn shapes_that_do_not_multiply_are_named() {
        let Err(Error::Shape(message)) = random(&[2, 3], 0).matmul(&random(&[4, 5], 0)) else { panic!() };
        assert_eq!(message, "matmul: shapes (2, 3) and (4, 5) do not multiply");
    }

    #[test]
    fn an_empty_inner_dimension_gives_zeros() {
        let product =
            Tensor::<f64>::zeros(&[2, 0]).unwrap().matmul(&Tensor::zeros(&[0, 3]).unwrap()).unwrap();
        assert_eq!(product.to_vec(), [0.0; 6]);
    }
}
