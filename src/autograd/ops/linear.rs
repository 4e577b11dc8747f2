//! `y = x W^T + b` in one pass: `dx = g W`, `dW = g^T x`, `db = sum of the rows of g`.

#![forbid(unsafe_code)]

use crate::autograd::ops::matmul::product;
use crate::autograd::tape::record_many;
use crate::autograd::{CHUNK, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::linalg::{MatRef, matmul_into};
use crate::real::Real;
use crate::threads;

use super::broadcast::tree;

/// The sum of the rows of a matrix, by bands fixed by its shape.
pub(in crate::autograd) fn column_sums<T: Real>(values: &[T], columns: usize) -> Buffer<T> {
    if values.is_empty() {
        return Buffer::zeros(columns);
    }
    let (rows, band) = (values.len() / columns, (CHUNK / columns).max(1));
    tree(threads::map(rows.div_ceil(band), |piece| {
        let mut sums = vec![T::ZERO; columns];
        let band = &values[piece * band * columns..][..band.min(rows - piece * band) * columns];
        for row in band.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += value);
        }
        sums
    }))
    .into()
}

impl<T: Real> Tensor<T> {
    /// `self weight^T + bias`: `self (.., in)`, `weight (out, in)`, `bias (out)`; the result is `(.., out)`.
    pub fn linear(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        let (outs, ins) = weight.shape().matrix("linear", "weight")?;
        if self.dims().is_empty() || self.shape().columns() != ins {
            let shapes =
                format!("linear: x of shape {} with weight of shape {}", self.shape(), weight.shape());
            return Err(Error::Shape(shapes));
        }
        if let Some(bias) = bias.filter(|bias| *bias.dims() != [outs]) {
            let shapes =
                format!("linear: bias of shape {} with weight of shape {}", bias.shape(), weight.shape());
            return Err(Error::Shape(shapes));
        }
        let rows = self.shape().rows();
        let (x, w) = (self.values(), weight.values());
        let mut out = Buffer::stale(rows * outs);
        if let Some(bias) = bias.filter(|_| !out.is_empty()) {
            let bias = bias.values();
            threads::for_each_chunk(&mut out, (CHUNK / outs).max(1) * outs, |_, out| {
                out.chunks_exact_mut(outs).for_each(|row| row.copy_from_slice(&bias));
            });
        }
        matmul_into(MatRef::new(&x, rows, ins), MatRef::new(&w, outs, ins).t(), &mut out, bias.is_some());
        let parents = [self, weight].into_iter().chain(bias).cloned().collect();
        let shape = self.shape().with_columns(outs);
        Ok(record_many("linear", out, shape, parents, move |grad, wanted| {
            let g = MatRef::new(&grad, rows, outs);
            let mut grads = vec![
                wanted[0].then(|| product(g, MatRef::new(&w, outs, ins), false)),
                wanted[1].then(|| product(g.t(), MatRef::new(&x, rows, ins), false)),
            ];
            if let Some(&wanted) = wanted.get(2) {
                grads.push(wanted.then(|| column_sums(&grad, outs)));
            }
            grads
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_with_and_without_bias() {
        let inputs = [random(&[4, 3], 0), random(&[5, 3], 1), random(&[5], 2)];
        gradcheck(&inputs, |x| x[0].linear(&x[1], Some(&x[2]))).unwrap();
        gradcheck(&inputs[..2], |x| x[0].linear(&x[1], None)).unwrap();
        let stack = [random(&[2, 4, 3], 3), random(&[5, 3], 1), random(&[5], 2)];
        gradcheck(&stack, |x| x[0].linear(&x[1], Some(&x[2]))).unwrap();
    }

    #[test]
    fn wrong_shapes_are_named() {
        let Err(Error::Shape(message)) = random(&[4, 3], 0).linear(&random(&[5, 4], 1), None) else {
            panic!()
        };
        assert_eq!(message, "linear: x of shape (4, 3) with weight of shape (5, 4)");
    }
}
