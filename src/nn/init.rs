//! Initial values of parameters, from explicit seeds.
//!
//! A layer that is given no seed takes the next one of the process's own sequence, which [`manual_seed`] restarts: the
//! same calls after the same `manual_seed` (0 at the start) give the same bits.

#![forbid(unsafe_code)]

use crate::autograd::{Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::Result;
use crate::real::Real;
use crate::rng;
use crate::threads;
use std::sync::{Mutex, PoisonError};

/// The seed of the sequence and how many were drawn.
static SEQUENCE: Mutex<(u64, u64)> = Mutex::new((0, 0));

/// Restarts the sequence of seeds that layers and dropout take when they are given none. It is one for all threads.
pub fn manual_seed(seed: u64) {
    *SEQUENCE.lock().unwrap_or_else(PoisonError::into_inner) = (seed, 0);
}

/// The lock of the sequence, held until the guard is dropped: a forked child must not inherit it from a thread that it
/// does not have.
#[cfg(feature = "python")]
pub(crate) fn hold() -> impl Sized {
    SEQUENCE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next seed of the sequence.
pub fn next_seed() -> u64 {
    let mut sequence = SEQUENCE.lock().unwrap_or_else(PoisonError::into_inner);
    let (seed, count) = *sequence;
    sequence.1 += 1;
    rng::stream(seed, "seeds", count).next_u64()
}

/// Values drawn between two checks whether the call is to stop.
const CHECKED: usize = 1 << 16;

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform in `±sqrt(6 / (in + out))` (Glorot & Bengio 2010), as PyG's `glorot`.
    GlorotUniform,
    /// Normal with standard deviation `sqrt(2 / (in + out))`.
    GlorotNormal,
    /// Uniform in `±1 / sqrt(in)`, as `torch.nn.Linear`.
    FanIn,
}

/// A parameter of shape `dims`, drawn for a map from `ins` to `outs` values.
pub fn draw<T: Real>(
    init: Init,
    dims: &[usize],
    (ins, outs): (usize, usize),
    seed: u64,
) -> Result<Tensor<T>> {
    let mut draws = rng::stream(seed, "init", 0);
    let both = ins.saturating_add(outs).max(1) as f64;
    let uniform = |bound: f64, draws: &mut rng::Rng| bound * (2.0 * draws.uniform() - 1.0);
    let mut drawn = |_| match init {
        Init::GlorotUniform => uniform((6.0 / both).sqrt(), &mut draws),
        Init::GlorotNormal => (2.0 / both).sqrt() * draws.normal(),
        Init::FanIn => uniform((ins.max(1) as f64).sqrt().recip(), &mut draws),
    };
    let mut values = Buffer::stale(Shape::new(dims)?.count());
    for values in values.chunks_mut(CHECKED) {
        threads::checkpoint();
        values.iter_mut().for_each(|value| *value = T::of(drawn(())));
    }
    Tensor::parameter(values, dims)
}

/// A parameter of one value throughout.
pub fn constant<T: Real>(value: f64, dims: &[usize]) -> Result<Tensor<T>> {
    Tensor::parameter(Buffer::filled(Shape::new(dims)?.count(), T::of(value)), dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_stated_spread_and_depend_on_the_seed_alone() {
        for (init, expected) in [
            (Init::GlorotUniform, 2.0 / 300.0),
            (Init::GlorotNormal, 2.0 / 300.0),
            (Init::FanIn, 1.0 / 300.0),
        ] {
            let draw = |seed| draw::<f64>(init, &[200, 100], (100, 200), seed).unwrap().to_vec();
            let values = draw(3);
            let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
            assert!((variance / expected - 1.0).abs() < 0.05, "{init:?}: {variance} {expected}");
            assert_eq!(values, draw(3));
            assert_ne!(values, draw(4));
        }
    }
}
