//! The gates of a gated recurrent unit, elementwise: `h' = (1 - z) h + z c` with `z = s(a)`, `c = tanh(b)`.
//!
//! One pass in place of five. `dz = g (c - h)`, `da = dz z (1 - z)`, `db = g z (1 - c^2)`, `dh = g (1 - z)`.

#![forbid(unsafe_code)]

use crate::autograd::tape::record;
use crate::autograd::{CHUNK, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::loops;
use crate::real::Real;
use crate::threads;
use std::sync::Arc;

impl<T: Real> Tensor<T> {
    /// `sigmoid(self) * other`, in one pass: the reset gate applied to a state of the same shape.
    pub fn gate(&self, other: &Self) -> Result<Self> {
        if self.shape() != other.shape() {
            return Err(Error::Shape(format!("gate: shapes {} and {}", self.shape(), other.shape())));
        }
        let (a, h) = (self.values(), other.values());
        let mut out = Buffer::stale(a.len());
        chunks([&a, &h], [&mut out], |[a, h], [out]| loops::gate(a, h, out));
        Ok(record("gate", Arc::new(out), self.shape(), [self, other], move |grad, wanted| {
            let to_gate = wanted[0].then(|| {
                let mut grad = grad.clone();
                chunks([&a, &h], [&mut grad], |[a, h], [grad]| loops::gate_to_gate(a, h, grad));
                grad
            });
            let to_state = wanted[1].then(|| {
                let mut grad = grad;
                chunks([&a], [&mut grad], |[a], [grad]| loops::gate_to_state(a, grad));
                grad
            });
            [to_gate, to_state]
        }))
    }

    /// `(1 - z) state + z tanh(candidate)` with `z = sigmoid(self)`; all of one shape.
    pub fn gru_blend(&self, candidate: &Self, state: &Self) -> Result<Self> {
        if self.shape() != candidate.shape() || self.shape() != state.shape() {
            let shapes = format!("{}, {} and {}", self.shape(), candidate.shape(), state.shape());
            return Err(Error::Shape(format!("gru_blend: shapes {shapes}")));
        }
        let (a, b, h) = (self.values(), candidate.values(), state.values());
        let mut out = Buffer::stale(a.len());
        chunks([&a, &b, &h], [&mut out], |[a, b, h], [out]| loops::blend(a, b, h, out));
        let parents = [self, candidate, state];
        Ok(record("gru_blend", Arc::new(out), self.shape(), parents, move |mut grad, wanted| {
            let (mut to_a, mut to_b) = (Buffer::stale(grad.len()), Buffer::stale(grad.len()));
            chunks([&a, &b, &h], [&mut to_a, &mut to_b, &mut grad], |[a, b, h], [to_a, to_b, grad]| {
                loops::blend_adjoint(a, b, h, to_a, to_b, grad);
            });
            [wanted[0].then_some(to_a), wanted[1].then_some(to_b), wanted[2].then_some(grad)]
        }))
    }
}

/// `f(inputs, outputs)` by chunks of equally long slices.
fn chunks<T: Real, const INS: usize, const OUTS: usize>(
    inputs: [&[T]; INS],
    outputs: [&mut [T]; OUTS],
    f: impl Fn([&[T]; INS], [&mut [T]; OUTS]) + Sync,
) {
    let mut rest = outputs.map(|values| values.chunks_mut(CHUNK));
    let count = inputs[0].len().div_ceil(CHUNK);
    let mut pieces: Vec<_> =
        (0..count).map(|_| rest.each_mut().map(|chunks| chunks.next().unwrap_or_default())).collect();
    threads::for_each_chunk(&mut pieces, 1, |chunk, piece| {
        let piece = piece[0].each_mut().map(|values| &mut **values);
        let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(inputs[0].len());
        f(inputs.map(|values| &values[range.clone()]), piece);
    });
}

#[cfg(test)]
mod tests {
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients() {
        let inputs = [random(&[4, 5], 0), random(&[4, 5], 1), random(&[4, 5], 2)];
        gradcheck(&inputs, |x| x[0].gru_blend(&x[1], &x[2])).unwrap();
        gradcheck(&inputs[..2], |x| x[0].gate(&x[1])).unwrap();
    }

    #[test]
    fn matches_the_composed_form() {
        let (a, b, h) = (random(&[4, 5], 0), random(&[4, 5], 1), random(&[4, 5], 2));
        let z = a.sigmoid().unwrap();
        let change = b.tanh().unwrap().sub(&h).unwrap();
        let expected = h.add(&z.mul(&change).unwrap()).unwrap().to_vec();
        let got = a.gru_blend(&b, &h).unwrap().to_vec();
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-14));
    }
}
