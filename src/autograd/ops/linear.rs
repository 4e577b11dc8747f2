//! `y = x W^T + b` in one pass: `dx = g W`, `dW = g^T x`, `db = sum of the rows of g`.

#![forbid(unsafe_code)]

use crate::autograd::ops::matmul::product;
use crate::autograd::tape::record_many;
use crate::autograd::{CHUNK, Tensor, Values};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::linalg::{MatRef, matmul_here, matmul_into};
use crate::real::Real;
use crate::threads;

use super::broadcast::tree;

/// Rows per task where there are many: a block of the result stays in the L2 cache.
const BAND: usize = 512;

/// Rows from which on sharing them out alone keeps all threads busy.
const MANY: usize = 16 * BAND;

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
        Self::linear_sum(&[(self, weight)], bias.as_slice())
    }

    /// `sum_p x_p W_p^T + sum of the biases`, in one buffer; all `x` have the same rows, all `W` the same outputs.
    pub fn linear_sum(pairs: &[(&Self, &Self)], biases: &[&Self]) -> Result<Self> {
        let maps = pairs.iter().map(|(x, weight)| Map::of(x, weight)).collect::<Result<Vec<_>>>()?;
        let Some(&(first, weight)) = pairs.first() else {
            return Err(Error::Shape("linear: nothing to multiply".into()));
        };
        let (rows, outs) = (maps[0].rows, maps[0].outs);
        let shape = first.shape().with_columns(outs);
        for (map, (x, other)) in maps.iter().zip(pairs) {
            if map.rows != rows || map.outs != outs {
                return Err(mismatch("x", x, other));
            }
        }
        if let Some(bias) = biases.iter().find(|bias| *bias.dims() != [outs]) {
            return Err(mismatch("bias", bias, weight));
        }
        let mut out = Buffer::stale(rows * outs);
        let bias = total(biases);
        if rows < MANY || outs == 0 {
            fill_rows(&mut out, bias.as_deref());
            for (number, map) in maps.iter().enumerate() {
                matmul_into(map.x(), map.weight().t(), &mut out, number > 0 || bias.is_some());
            }
        } else {
            // Bias and products of some rows while they are in the cache.
            let weights: Vec<_> = maps.iter().map(|map| map.weight().t().row_major()).collect();
            threads::for_each_chunk(&mut out, BAND * outs, |band, out| {
                fill_rows(out, bias.as_deref());
                for (number, (map, weight)) in maps.iter().zip(&weights).enumerate() {
                    let x = map.rows(band * BAND, out.len() / outs);
                    let weight = MatRef::new(weight, map.ins, outs);
                    matmul_here(x, weight, out, number > 0 || bias.is_some());
                }
            });
        }
        let inputs = pairs.iter().flat_map(|&(x, weight)| [x, weight]);
        let parents = inputs.chain(biases.iter().copied()).cloned().collect();
        Ok(record_many("linear", out, shape, parents, move |grad, wanted| {
            let g = MatRef::new(&grad, rows, outs);
            let mut grads: Vec<Option<Buffer<T>>> = Vec::with_capacity(wanted.len());
            for (number, map) in maps.iter().enumerate() {
                grads.push(wanted[2 * number].then(|| product(g, map.weight(), false)));
                grads.push(wanted[2 * number + 1].then(|| product(g.t(), map.x(), false)));
            }
            let biases = &wanted[grads.len()..];
            let sums = biases.contains(&true).then(|| column_sums(&grad, outs));
            grads.extend(biases.iter().map(|&wanted| sums.clone().filter(|_| wanted)));
            grads
        }))
    }
}

/// One product of a sum.
struct Map<T: Real> {
    x: Values<T>,
    weight: Values<T>,
    rows: usize,
    ins: usize,
    outs: usize,
}

impl<T: Real> Map<T> {
    fn of(x: &Tensor<T>, weight: &Tensor<T>) -> Result<Self> {
        let (outs, ins) = weight.shape().matrix("linear", "weight")?;
        if x.dims().is_empty() || x.shape().columns() != ins {
            return Err(mismatch("x", x, weight));
        }
        Ok(Self { x: x.values(), weight: weight.values(), rows: x.shape().rows(), ins, outs })
    }

    fn x(&self) -> MatRef<'_, T> {
        MatRef::new(&self.x, self.rows, self.ins)
    }

    fn rows(&self, first: usize, count: usize) -> MatRef<'_, T> {
        MatRef::new(&self.x[first * self.ins..(first + count) * self.ins], count, self.ins)
    }

    fn weight(&self) -> MatRef<'_, T> {
        MatRef::new(&self.weight, self.outs, self.ins)
    }
}

fn mismatch<T: Real>(name: &str, given: &Tensor<T>, weight: &Tensor<T>) -> Error {
    Error::Shape(format!("linear: {name} of shape {} with weight of shape {}", given.shape(), weight.shape()))
}

/// The sum of the biases, if there are any.
fn total<T: Real>(biases: &[&Tensor<T>]) -> Option<Vec<T>> {
    let (first, others) = biases.split_first()?;
    let mut row = first.to_vec();
    for bias in others {
        row.iter_mut().zip(bias.values().iter()).for_each(|(sum, &value)| *sum += value);
    }
    Some(row)
}

/// Writes the bias into every row.
fn fill_rows<T: Real>(out: &mut [T], bias: Option<&[T]>) {
    if let Some(bias) = bias.filter(|bias| !bias.is_empty()) {
        out.chunks_exact_mut(bias.len()).for_each(|place| place.copy_from_slice(bias));
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
        let two = [random(&[4, 2], 3), random(&[5, 2], 4), random(&[5], 5)];
        let all = [&inputs[..], &two[..]].concat();
        gradcheck(&all, |x| Tensor::linear_sum(&[(&x[0], &x[1]), (&x[3], &x[4])], &[&x[2], &x[5]])).unwrap();
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
