//! One step of the gated recurrent unit of Chung et al. (2014), for many rows.
//!
//! `z = s(a)` with `a = x Wz^T + h Uz^T + bz`, `r` likewise, `c = tanh(b)` with `b = x Wh^T + (r h) Uh^T + bh`, and
//! `h' = (1 - z) h + z c`. Bands of rows stay in the cache all the way from the inputs to the result, and back; the sums
//! ahead of sigmoid and tanh are kept. With `g` the gradient of `h'`: `da = g (c - h) z (1 - z)`, `db = g z (1 - c^2)`; with
//! `e = db Uh`, that of `r h`: `da_r = e h r (1 - r)` and `dh = g (1 - z) + e r + da Uz + da_r Ur`.

#![forbid(unsafe_code)]

use super::broadcast::tree;
use super::linear::{PIECES, add_rows, fill_rows, total};
use crate::autograd::tape::{Slot, record_adding};
use crate::autograd::{Tensor, Values};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::linalg::{MatRef, matmul_here};
use crate::loops;
use crate::memory;
use crate::real::Real;
use crate::threads;
use std::sync::Arc;

/// Rows per task: all that is between inputs and result stays in the second-level cache.
const BAND: usize = 256;

/// The step's inputs, and its weights as products of gradients read them: those of update and reset gate as one.
struct Step<T: Real> {
    x: Values<T>,
    h: Values<T>,
    ins: usize,
    dim: usize,
    /// `(2 dim, ins)` and `(2 dim, dim)`.
    gates: [Vec<T>; 2],
    /// `(dim, ins)` and `(dim, dim)`.
    candidate: [Values<T>; 2],
}

impl<T: Real> Tensor<T> {
    /// The next state of `state (rows, dim)` with the input `self (rows, ins)`: `(rows, dim)`. Weights of update gate, reset
    /// gate and candidate, `of_input (dim, ins)` and `of_state (dim, dim)` each; `biases` are any number of `(dim)` each.
    pub fn gru_step(
        &self,
        state: &Self,
        of_input: [&Self; 3],
        of_state: [&Self; 3],
        biases: [&[&Self]; 3],
    ) -> Result<Self> {
        let ((rows, ins), (same, dim)) =
            (self.shape().matrix("gru", "x")?, state.shape().matrix("gru", "the state")?);
        let fits = rows == same
            && of_input.iter().all(|weight| *weight.dims() == [dim, ins])
            && of_state.iter().all(|weight| *weight.dims() == [dim, dim])
            && biases.iter().all(|biases| biases.iter().all(|bias| *bias.dims() == [dim]));
        if !fits {
            let dims = |tensors: [&Self; 3]| tensors.map(|tensor| tensor.shape().to_string()).join(", ");
            return Err(Error::Shape(format!(
                "gru: x of shape {} and a state of shape {} with weights {} and {}, and a bias for each value of the state",
                self.shape(),
                state.shape(),
                dims(of_input),
                dims(of_state)
            )));
        }
        let both = |weights: [&Self; 3]| -> Vec<T> {
            memory::collect(weights[0].values().iter().chain(weights[1].values().iter()).copied())
        };
        let step = Step {
            x: self.values(),
            h: state.values(),
            ins,
            dim,
            gates: [both(of_input), both(of_state)],
            candidate: [of_input[2].values(), of_state[2].values()],
        };
        let none = || memory::vec![T::ZERO; dim];
        let bias = biases.map(|biases| total(biases).unwrap_or_else(none)).concat();
        let [out, gates, candidate] = step.forward(&bias);
        let ends = biases.map(<[_]>::len);
        let of_bias: Vec<usize> = (0..3).flat_map(|map| std::iter::repeat_n(map, ends[map])).collect();
        let maps = of_input.into_iter().chain(of_state);
        let parents = [self, state].into_iter().chain(maps).chain(biases.into_iter().flatten().copied());
        Ok(record_adding(
            "gru",
            Arc::new(out),
            state.shape(),
            parents.cloned().collect(),
            move |grad, slots| {
                step.adjoint([&gates, &candidate], &of_bias, grad, slots);
            },
        ))
    }
}

impl<T: Real> Step<T> {
    fn rows(&self) -> usize {
        self.h.len() / self.dim.max(1)
    }

    /// Input and state of `rows` rows from `first` on.
    fn band(&self, first: usize, rows: usize) -> [MatRef<'_, T>; 2] {
        [(&self.x, self.ins), (&self.h, self.dim)].map(|(values, columns)| {
            MatRef::new(&values[first * columns..(first + rows) * columns], rows, columns)
        })
    }

    /// The next states, and the sums ahead of the sigmoids, `(rows, 2 dim)`, and of the tanh, `(rows, dim)`.
    fn forward(&self, bias: &[T]) -> [Buffer<T>; 3] {
        let (dim, rows) = (self.dim, self.rows());
        let mut all = [dim, 2 * dim, dim].map(|columns| Buffer::stale(rows * columns));
        if dim == 0 {
            return all;
        }
        let arranged = |weight: &[T], outs: usize| {
            MatRef::new(weight, outs, weight.len() / outs).t().row_major().into_owned()
        };
        let to_gates = self.gates.each_ref().map(|weight| arranged(weight, 2 * dim));
        let to_candidate = self.candidate.each_ref().map(|weight| arranged(weight, dim));
        let (of_gates, of_candidate) = bias.split_at(2 * dim);
        let [out, gates, candidate] = &mut all;
        let parts = out
            .chunks_mut(BAND * dim)
            .zip(gates.chunks_mut(2 * BAND * dim))
            .zip(candidate.chunks_mut(BAND * dim));
        let mut bands: Vec<_> =
            memory::collect(parts.map(|((out, gates), candidate)| (out, gates, candidate)));
        threads::for_each_chunk(&mut bands, 1, |band, parts| {
            for (out, gates, candidate) in parts {
                let count = out.len() / dim;
                let [x, h] = self.band(band * BAND, count);
                let weight = |values, ins, outs| MatRef::new(values, ins, outs);
                fill_rows(gates, Some(of_gates));
                matmul_here(x, weight(&to_gates[0], self.ins, 2 * dim), gates, true);
                matmul_here(h, weight(&to_gates[1], dim, 2 * dim), gates, true);
                fill_rows(candidate, Some(of_candidate));
                matmul_here(x, weight(&to_candidate[0], self.ins, dim), candidate, true);
                let h = &self.h[band * BAND * dim..][..out.len()];
                // The result's room takes the reset state first.
                for ((reset, gates), h) in
                    out.chunks_exact_mut(dim).zip(gates.chunks_exact(2 * dim)).zip(h.chunks_exact(dim))
                {
                    loops::gate(&gates[dim..], h, reset);
                }
                matmul_here(
                    MatRef::new(out, count, dim),
                    weight(&to_candidate[1], dim, dim),
                    candidate,
                    true,
                );
                let rows = out.chunks_exact_mut(dim).zip(gates.chunks_exact(2 * dim));
                for ((out, gates), (b, h)) in rows.zip(candidate.chunks_exact(dim).zip(h.chunks_exact(dim))) {
                    loops::blend(&gates[..dim], b, h, out);
                }
            }
        });
        all
    }

    /// Adds the gradients of input, state, weights and biases; `of_bias` says to which of the three sums each bias belongs.
    fn adjoint(&self, kept: [&[T]; 2], of_bias: &[usize], mut grad: Buffer<T>, slots: &mut [Slot<T>]) {
        let (dim, ins, rows) = (self.dim, self.ins, self.rows());
        let (begun, sums) = (slots[0].sum().is_some(), 3 * dim * (ins + dim + 1));
        // Pieces are long enough that their sums take no more room than their rows.
        let size = rows.div_ceil(PIECES).max(2 * dim).next_multiple_of(BAND);
        let mut to_x =
            slots[0].wanted().then(|| slots[0].sum().take().unwrap_or_else(|| Buffer::stale(rows * ins)));
        let mut to_inputs = to_x.as_mut().filter(|_| ins > 0).map(|to_x| to_x.chunks_mut(size * ins));
        let pieces = grad
            .chunks_mut(size * dim)
            .map(|grad| (grad, to_inputs.as_mut().and_then(Iterator::next), memory::vec![T::ZERO; sums]));
        let mut pieces: Vec<_> = memory::collect(pieces);
        threads::for_each_chunk(&mut pieces, 1, |piece, parts| {
            for (grad, to_x, sums) in parts {
                let mut to_x = to_x.as_mut().map(|to_x| to_x.chunks_mut(BAND * ins));
                for (band, grad) in grad.chunks_mut(BAND * dim).enumerate() {
                    let to_x = to_x.as_mut().and_then(Iterator::next).map(|to_x| (to_x, begun));
                    self.band_adjoint(kept, piece * size + band * BAND, grad, to_x, sums);
                }
            }
        });
        let mut sums_of_pieces: Vec<_> = memory::collect(pieces.into_iter().map(|(_, _, sums)| sums));
        if sums_of_pieces.is_empty() {
            sums_of_pieces.push(memory::vec![T::ZERO; sums]);
        }
        let sums = tree(sums_of_pieces);
        *slots[0].sum() = to_x;
        if slots[1].wanted() {
            slots[1].add(grad);
        }
        let (of_input, rest) = sums.split_at(3 * dim * ins);
        let (of_state, biases) = rest.split_at(3 * dim * dim);
        let maps = (0..3).map(|map| &of_input[map * dim * ins..][..dim * ins]);
        let maps = maps.chain((0..3).map(|map| &of_state[map * dim * dim..][..dim * dim]));
        let biases = of_bias.iter().map(|map| &biases[map * dim..][..dim]);
        for (slot, sum) in slots[2..].iter_mut().zip(maps.chain(biases)).filter(|(slot, _)| slot.wanted()) {
            slot.add(Buffer::copy_of(sum));
        }
    }

    /// The adjoint for the rows from `first` on: turns their gradient into that of the state and writes that of the input, or
    /// adds it; adds to the sums for weights of the input, of the state, and biases.
    fn band_adjoint(
        &self,
        [gates, candidate]: [&[T]; 2],
        first: usize,
        grad: &mut [T],
        to_x: Option<(&mut [T], bool)>,
        sums: &mut [T],
    ) {
        let (dim, ins, rows) = (self.dim, self.ins, grad.len() / self.dim);
        let [x, h] = self.band(first, rows);
        let own = first * dim..(first + rows) * dim;
        let (gates, candidate, states) =
            (&gates[2 * own.start..2 * own.end], &candidate[own.clone()], &self.h[own]);
        let [mut to_gates, mut to_candidate, mut reset, mut to_reset] =
            [2 * dim, dim, dim, dim].map(|columns| Buffer::stale(rows * columns));
        for (row, to_gates) in to_gates.chunks_exact_mut(2 * dim).enumerate() {
            let own = row * dim..(row + 1) * dim;
            let (a, to_a) = (&gates[2 * own.start..][..dim], &mut to_gates[..dim]);
            let (b, to_b) = (&candidate[own.clone()], &mut to_candidate[own.clone()]);
            loops::blend_adjoint(a, b, &states[own.clone()], to_a, to_b, &mut grad[own]);
        }
        let [w, u] = self.candidate.each_ref();
        matmul_here(MatRef::new(&to_candidate, rows, dim), MatRef::new(u, dim, dim), &mut to_reset, false);
        for (row, to_gates) in to_gates.chunks_exact_mut(2 * dim).enumerate() {
            let own = row * dim..(row + 1) * dim;
            let (a, to_a) = (&gates[2 * own.start + dim..][..dim], &mut to_gates[dim..]);
            let (state, to_reset) = (&states[own.clone()], &to_reset[own.clone()]);
            loops::gate_adjoint(a, state, to_reset, to_a, &mut reset[own.clone()], &mut grad[own]);
        }
        let (to_gates_rows, to_candidate_rows) = (&to_gates[..], &to_candidate[..]);
        let (to_gates, to_candidate) =
            (MatRef::new(&to_gates, rows, 2 * dim), MatRef::new(&to_candidate, rows, dim));
        matmul_here(to_gates, MatRef::new(&self.gates[1], 2 * dim, dim), grad, true);
        if let Some((to_x, begun)) = to_x {
            matmul_here(to_gates, MatRef::new(&self.gates[0], 2 * dim, ins), to_x, begun);
            matmul_here(to_candidate, MatRef::new(w, dim, ins), to_x, true);
        }
        let (of_input, rest) = sums.split_at_mut(3 * dim * ins);
        let (of_state, biases) = rest.split_at_mut(3 * dim * dim);
        for (sums, of_gates, of_candidate) in
            [(of_input, x, x), (of_state, h, MatRef::new(&reset, rows, dim))]
        {
            let (gates, candidate) = sums.split_at_mut(2 * dim * of_gates.columns());
            matmul_here(to_gates.t(), of_gates, gates, true);
            matmul_here(to_candidate.t(), of_candidate, candidate, true);
        }
        let (of_gates, of_candidate) = biases.split_at_mut(2 * dim);
        for (sums, rows) in [(of_gates, to_gates_rows), (of_candidate, to_candidate_rows)] {
            add_rows(sums, rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    /// Weights and biases of a step, after `x` and `h`.
    fn inputs(rows: usize, ins: usize, dim: usize) -> Vec<Tensor<f64>> {
        let shapes = [vec![rows, ins], vec![rows, dim]].into_iter();
        let shapes =
            shapes.chain([ins; 3].map(|ins| vec![dim, ins])).chain([dim; 3].map(|ins| vec![dim, ins]));
        shapes.chain(vec![vec![dim]; 4]).zip(0..).map(|(shape, number)| random(&shape, number)).collect()
    }

    fn step(x: &[Tensor<f64>]) -> Result<Tensor<f64>> {
        let biases: [&[&Tensor<f64>]; 3] = [&[&x[8], &x[9]], &[&x[10]], &[&x[11]]];
        x[0].gru_step(&x[1], [&x[2], &x[3], &x[4]], [&x[5], &x[6], &x[7]], biases)
    }

    #[test]
    fn gradients() {
        gradcheck(&inputs(4, 2, 3), step).unwrap();
        // An input that is the state too, and one whose gradient has begun.
        let mut same = inputs(4, 3, 3);
        same.remove(1);
        gradcheck(&same, |x| step(&[&x[..1], x].concat())?.mul(&x[0])).unwrap();
    }

    #[test]
    fn many_rows_match_the_composed_form() {
        let composed = |x: &[Tensor<f64>]| -> Result<Tensor<f64>> {
            let map = |at: usize, h: &Tensor<f64>, biases: &[&Tensor<f64>]| {
                Tensor::linear_sum(&[(&x[0], &x[at]), (h, &x[at + 3])], biases)
            };
            let (z, r) = (map(2, &x[1], &[&x[8], &x[9]])?.sigmoid()?, map(3, &x[1], &[&x[10]])?.sigmoid()?);
            let c = map(4, &r.mul(&x[1])?, &[&x[11]])?.tanh()?;
            x[1].add(&z.mul(&c.sub(&x[1])?)?)
        };
        for rows in [0, 1, 3 * BAND + 7, PIECES * BAND + 1] {
            let run = |fused: bool| {
                let inputs = inputs(rows, 2, 3);
                let out = if fused { step(&inputs) } else { composed(&inputs) }.unwrap();
                out.mul(&out).unwrap().sum().unwrap().backward().unwrap();
                let grads = inputs.iter().map(|input| input.grad().map_or(Vec::new(), |grad| grad.to_vec()));
                std::iter::once(out.to_vec()).chain(grads).collect::<Vec<_>>()
            };
            for (got, expected) in run(true).iter().zip(run(false)) {
                assert_eq!(got.len(), expected.len(), "{rows} rows");
                assert!(
                    got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9 * b.abs().max(1.0)),
                    "{rows} rows"
                );
            }
        }
    }

    #[test]
    fn wrong_shapes_are_named() {
        let mut x = inputs(4, 2, 3);
        x[4] = random(&[3, 5], 0);
        let Err(Error::Shape(message)) = step(&x) else { panic!("a weight of 5 columns passed") };
        assert!(
            message.starts_with(
                "gru: x of shape (4, 2) and a state of shape (4, 3) with weights (3, 2), (3, 2), (3, 5)"
            ),
            "{message}"
        );
    }
}
