//! The gates of a gated recurrent unit, elementwise: `h' = (1 - z) h + z c` with `z = s(a)`, `c = tanh(b)`.
//!
//! One pass in place of five. `dz = g (c - h)`, `da = dz z (1 - z)`, `db = g z (1 - c^2)`, `dh = g (1 - z)`.

#![forbid(unsafe_code)]

use super::unary::{sigmoid, zip_in_place};
use crate::autograd::tape::record;
use crate::autograd::{CHUNK, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::real::Real;
use crate::simd::vectorized;
use crate::threads;
use std::sync::Arc;

impl<T: Real> Tensor<T> {
    /// `sigmoid(self) * other`, in one pass: the reset gate applied to a state of the same shape.
    pub fn gate(&self, other: &Self) -> Result<Self> {
        if self.shape() != other.shape() {
            return Err(Error::Shape(format!("gate: shapes {} and {}", self.shape(), other.shape())));
        }
        let (a, h) = (self.values(), other.values());
        let mut out = a.as_ref().clone();
        zip_in_place(&mut out, &h, |a, h| sigmoid(a) * h);
        Ok(record("gate", Arc::new(out), self.shape(), [self, other], move |grad, wanted| {
            let pull = |f: fn(T, T) -> T, by: &[T]| {
                let mut out = grad.clone();
                zip_in_place(&mut out, by, f);
                out
            };
            let to_gate = wanted[0].then(|| {
                let mut out = pull(|g, h| g * h, &h);
                zip_in_place(&mut out, &a, |g, a| {
                    let r = sigmoid(a);
                    g * r * (T::ONE - r)
                });
                out
            });
            [to_gate, wanted[1].then(|| pull(|g, a| g * sigmoid(a), &a))]
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
        zip4(&mut out, [&a, &b, &h], |_, a, b, h| h + sigmoid(a) * (b.tanh() - h));
        let parents = [self, candidate, state];
        Ok(record("gru_blend", Arc::new(out), self.shape(), parents, move |grad, wanted| {
            let pull = |f: fn(T, T, T, T) -> T| {
                let mut out = grad.clone();
                zip4(&mut out, [&a, &b, &h], f);
                out
            };
            [
                wanted[0].then(|| {
                    pull(|g, a, b, h| {
                        let z = sigmoid(a);
                        g * (b.tanh() - h) * z * (T::ONE - z)
                    })
                }),
                wanted[1].then(|| {
                    pull(|g, a, b, _| {
                        let c = b.tanh();
                        g * sigmoid(a) * (T::ONE - c * c)
                    })
                }),
                wanted[2].then(|| pull(|g, a, _, _| g * (T::ONE - sigmoid(a)))),
            ]
        }))
    }
}

/// `f(out, x, y, z)` per place, in place.
fn zip4<T: Real>(out: &mut [T], [x, y, z]: [&[T]; 3], f: impl Fn(T, T, T, T) -> T + Sync) {
    threads::for_each_chunk(out, CHUNK, |chunk, out| {
        let part = |values: &'_ [T]| chunk * CHUNK..(chunk * CHUNK + out.len()).min(values.len());
        let (x, y, z) = (&x[part(x)], &y[part(y)], &z[part(z)]);
        vectorized(|| {
            for (((out, &x), &y), &z) in out.iter_mut().zip(x).zip(y).zip(z) {
                *out = f(*out, x, y, z);
            }
        });
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
