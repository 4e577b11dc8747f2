//! `y = x W^T + b` in one pass: `dx = g W`, `dW = g^T x`, `db = sum of the rows of g`.
//!
//! Many rows are taken in bands that stay in the cache while bias and products are made of them, forward and back: each
//! array crosses memory once, and the gradient of an input that several maps share is added to where it lies.

#![forbid(unsafe_code)]

use crate::autograd::ops::matmul::product;
use crate::autograd::tape::{Slot, record_adding};
use crate::autograd::{CHUNK, Shape, Tensor, Values};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::linalg::{MatRef, matmul_here, matmul_into};
use crate::memory;
use crate::real::Real;
use crate::threads;

use super::broadcast::tree;

/// Rows per task where there are many: a block of the result stays in the L2 cache.
const BAND: usize = 512;

/// Rows from which on sharing them out alone keeps all threads busy.
const MANY: usize = 16 * BAND;

/// Pieces of many rows, at most, whose gradients to weights are summed apart.
pub(super) const PIECES: usize = 48;

/// Weights of up to so many values have their gradient summed in the cache, beside a band.
const SMALL: usize = 1 << 16;

/// The sum of the rows of a matrix, by bands fixed by its shape.
pub(in crate::autograd) fn column_sums<T: Real>(values: &[T], columns: usize) -> Buffer<T> {
    if values.is_empty() {
        return Buffer::zeros(columns);
    }
    let (rows, band) = (values.len() / columns, (CHUNK / columns).max(1));
    tree(threads::map(rows.div_ceil(band), |piece| {
        let mut sums = memory::vec![T::ZERO; columns];
        let band = &values[piece * band * columns..][..band.min(rows - piece * band) * columns];
        add_rows(&mut sums, band);
        sums
    }))
    .into()
}

/// Adds to the sums of columns those of some more rows.
pub(super) fn add_rows<T: Real>(sums: &mut [T], rows: &[T]) {
    for row in rows.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += value);
    }
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
        let mut out = Buffer::stale(Shape::new(&[rows, outs])?.count());
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
        let banded =
            rows >= MANY && maps.iter().all(|map| map.ins * outs <= SMALL && map.ins > 0) && outs > 0;
        Ok(record_adding("linear", out, shape, parents, move |grad, slots| {
            let (pairs, biases) = slots.split_at_mut(2 * maps.len());
            let (pairs, _) = pairs.as_chunks_mut();
            let wants_bias = biases.iter().any(Slot::wanted);
            let to_bias = if banded {
                adjoint_by_bands(&maps, &grad, pairs, wants_bias)
            } else {
                adjoint_by_products(&maps, MatRef::new(&grad, rows, outs), pairs);
                wants_bias.then(|| column_sums(&grad, outs))
            };
            for slot in biases.iter_mut().filter(|slot| slot.wanted()) {
                to_bias.iter().for_each(|sums| slot.add(sums.clone()));
            }
        }))
    }
}

/// Adds the gradients of inputs and weights, a product each.
fn adjoint_by_products<T: Real>(maps: &[Map<T>], g: MatRef<'_, T>, pairs: &mut [[Slot<T>; 2]]) {
    let add = |slot: &mut Slot<T>, a: MatRef<'_, T>, b: MatRef<'_, T>| match slot.sum() {
        Some(sum) => matmul_into(a, b, sum, true),
        sum => *sum = Some(product(a, b, false)),
    };
    for (map, [to_x, to_weight]) in maps.iter().zip(pairs) {
        if to_x.wanted() {
            add(to_x, g, map.weight());
        }
        if to_weight.wanted() {
            add(to_weight, g.t(), map.x());
        }
    }
}

/// As [`adjoint_by_products`], all of them of a band of rows at a time; returns the gradient of the bias, if that is wanted.
fn adjoint_by_bands<T: Real>(
    maps: &[Map<T>],
    grad: &[T],
    pairs: &mut [[Slot<T>; 2]],
    wants_bias: bool,
) -> Option<Buffer<T>> {
    let (rows, outs) = (maps[0].rows, maps[0].outs);
    let size = rows.div_ceil(PIECES).next_multiple_of(BAND);
    let starts = (0..rows).step_by(size);
    let mut pieces: Vec<Piece<'_, T>> = starts
        .map(|first| Piece {
            grad: &grad[first * outs..rows.min(first + size) * outs],
            parts: Vec::new(),
            to_bias: wants_bias.then(|| memory::vec![T::ZERO; outs]),
        })
        .collect();
    let mut weights = memory::with_capacity(maps.len());
    for (map, [to_x, to_weight]) in maps.iter().zip(pairs) {
        let begun = to_x.sum().is_some();
        let mut rest = None;
        if to_x.wanted() {
            let sum = to_x.sum().get_or_insert_with(|| Buffer::stale(rows * map.ins));
            rest = Some(sum.chunks_mut(size * map.ins));
        }
        for (piece, x) in pieces.iter_mut().zip(map.x.chunks(size * map.ins)) {
            piece.parts.push(Part {
                x,
                map,
                to_x: rest.as_mut().and_then(Iterator::next),
                begun,
                to_weight: to_weight.wanted().then(|| memory::vec![T::ZERO; map.ins * outs]),
            });
        }
        weights.push(to_weight);
    }
    threads::for_each_chunk(&mut pieces, 1, |_, piece| piece.iter_mut().for_each(|piece| piece.run(outs)));
    for (number, slot) in weights.into_iter().enumerate().filter(|(_, slot)| slot.wanted()) {
        let sums = pieces.iter_mut().filter_map(|piece| piece.parts[number].to_weight.take());
        slot.add(tree(memory::collect(sums)).into());
    }
    wants_bias.then(|| tree(pieces.into_iter().filter_map(|piece| piece.to_bias).collect()).into())
}

/// Some rows of the adjoint: a task.
struct Piece<'a, T: Real> {
    grad: &'a [T],
    parts: Vec<Part<'a, T>>,
    to_bias: Option<Vec<T>>,
}

/// One product's share of a piece.
struct Part<'a, T: Real> {
    map: &'a Map<T>,
    x: &'a [T],
    to_x: Option<&'a mut [T]>,
    /// Whether `to_x` holds a sum that is added to.
    begun: bool,
    to_weight: Option<Vec<T>>,
}

impl<T: Real> Piece<'_, T> {
    fn run(&mut self, outs: usize) {
        for (band, grad) in self.grad.chunks(BAND * outs).enumerate() {
            let (first, rows) = (band * BAND, grad.len() / outs);
            let g = MatRef::new(grad, rows, outs);
            for part in &mut self.parts {
                let ins = part.map.ins;
                let of_band = first * ins..(first + rows) * ins;
                if let Some(to_x) = &mut part.to_x {
                    matmul_here(g, part.map.weight(), &mut to_x[of_band.clone()], part.begun);
                }
                if let Some(to_weight) = &mut part.to_weight {
                    matmul_here(g.t(), MatRef::new(&part.x[of_band], rows, ins), to_weight, true);
                }
            }
            if let Some(sums) = &mut self.to_bias {
                add_rows(sums, grad);
            }
        }
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
pub(super) fn total<T: Real>(biases: &[&Tensor<T>]) -> Option<Vec<T>> {
    let (first, others) = biases.split_first()?;
    let mut row = first.to_vec();
    for bias in others {
        row.iter_mut().zip(bias.values().iter()).for_each(|(sum, &value)| *sum += value);
    }
    Some(row)
}

/// Writes the bias into every row.
pub(super) fn fill_rows<T: Real>(out: &mut [T], bias: Option<&[T]>) {
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
    fn gradients_of_what_maps_share() {
        let inputs = [random(&[4, 3], 0), random(&[5, 3], 1), random(&[5, 3], 2), random(&[5], 3)];
        gradcheck(&inputs, |x| {
            let twice = Tensor::linear_sum(&[(&x[0], &x[1]), (&x[0], &x[2])], &[&x[3], &x[3]])?;
            x[0].linear(&x[1], Some(&x[3]))?.mul(&twice)
        })
        .unwrap();
    }

    #[test]
    fn many_rows_match_products() {
        let rows = MANY + BAND + 5;
        let inputs = [
            random(&[rows, 3], 0),
            random(&[4, 3], 1),
            random(&[rows, 2], 2),
            random(&[4, 2], 3),
            random(&[4], 4),
        ];
        let run = |f: &dyn Fn() -> Result<Tensor<f64>>| {
            // The first input's gradient has begun when the maps are walked back through.
            let out = f().unwrap().mul(&inputs[0].sum_axis(1, true).unwrap()).unwrap();
            out.mul(&out).unwrap().sum().unwrap().backward().unwrap();
            let grads: Vec<f64> = inputs.iter().flat_map(|input| input.grad().unwrap().to_vec()).collect();
            inputs.iter().for_each(Tensor::zero_grad);
            [out.to_vec(), grads].concat()
        };
        let banded =
            run(&|| Tensor::linear_sum(&[(&inputs[0], &inputs[1]), (&inputs[2], &inputs[3])], &[&inputs[4]]));
        let plain = run(&|| {
            let product = |x: usize| inputs[x].matmul(&inputs[x + 1].transpose()?);
            product(0)?.add(&product(2)?)?.add(&inputs[4])
        });
        assert!(banded.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-9 * b.abs().max(1.0)));
    }

    #[test]
    fn wrong_shapes_are_named() {
        let Err(Error::Shape(message)) = random(&[4, 3], 0).linear(&random(&[5, 4], 1), None) else {
            panic!()
        };
        assert_eq!(message, "linear: x of shape (4, 3) with weight of shape (5, 4)");
    }
}
