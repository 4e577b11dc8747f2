//! Dropout (Srivastava et al. 2014), scaled in training.
//!
//! Whether a value is dropped depends on the seed and the value's place alone (a counter-based hash), so the mask
//! is the same on any number of threads and is made again, not stored, in the reverse pass.

#![forbid(unsafe_code)]

use crate::autograd::tape::record;
use crate::autograd::{CHUNK, Tensor};
use crate::buffer::Buffer;
use crate::error::Result;
use crate::number;
use crate::real::Real;
use crate::{loops, threads};
use std::sync::Arc;

/// Values whose draws are made together.
const RUN: usize = 16;

/// Uniform bits for counter `at` (SplitMix64, Steele et al. 2014).
#[inline(always)]
fn bits(seed: u64, at: u64) -> u64 {
    let mut z = seed.wrapping_add((at.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The values with the dropped places zero and the others scaled.
fn apply<T: Real>(values: &[T], rate: f64, seed: u64) -> Buffer<T> {
    let rule =
        Rule { threshold: (rate * (1u64 << 32) as f64) as u32, scale: T::of(1.0 / (1.0 - rate)), seed };
    let mut out = Buffer::stale(values.len());
    threads::for_each_chunk(&mut out, CHUNK, |chunk, out| {
        let values = &values[chunk * CHUNK..][..out.len()];
        loops::run(Chunk { rule, values, first: chunk * CHUNK, out });
    });
    out
}

/// Values of which the first is at the even place `first`.
struct Chunk<'a, T> {
    rule: Rule<T>,
    values: &'a [T],
    first: usize,
    out: &'a mut [T],
}

impl<T: Real> loops::Task for Chunk<'_, T> {
    #[inline(always)]
    fn run(self) {
        let (runs, rest) = self.out.as_chunks_mut::<RUN>();
        let (given, given_rest) = self.values.as_chunks::<RUN>();
        for (run, (out, values)) in runs.iter_mut().zip(given).enumerate() {
            self.rule.run(values, self.first + run * RUN, out);
        }
        self.rule.run(given_rest, self.first + given.len() * RUN, rest);
    }
}

/// What becomes of a value.
#[derive(Clone, Copy)]
struct Rule<T> {
    threshold: u32,
    scale: T,
    seed: u64,
}

impl<T: Real> Rule<T> {
    /// At most [`RUN`] values. Each place has 32 bits, two share a counter; zeros, of which sparse features have many,
    /// need no draw.
    #[inline(always)]
    fn run(self, values: &[T], first: usize, out: &mut [T]) {
        // On the stack, where the compiler sees that nothing else points.
        let mut kept = [T::ZERO; RUN];
        kept[..values.len()].copy_from_slice(values);
        if kept.iter().fold(true, |zero, &value| zero & (value == T::ZERO)) {
            out.fill(T::ZERO);
            return;
        }
        let mut words = [0u64; RUN / 2];
        for (pair, word) in words.iter_mut().enumerate() {
            *word = bits(self.seed, (first / 2 + pair) as u64);
        }
        let draws: [u32; RUN] = bytemuck::cast(words);
        for (value, draw) in kept.iter_mut().zip(draws) {
            *value = if draw < self.threshold { T::ZERO } else { *value * self.scale };
        }
        out.copy_from_slice(&kept[..out.len()]);
    }
}

impl<T: Real> Tensor<T> {
    /// Drops each value with probability `rate` and divides the others by `1 - rate`; `0 <= rate < 1`.
    pub fn dropout(&self, rate: f64, seed: u64) -> Result<Self> {
        number::fraction("rate", rate)?;
        if rate == 0.0 {
            return Ok(self.clone());
        }
        let out = apply(&self.values(), rate, seed);
        Ok(record("dropout", Arc::new(out), self.shape(), [self], move |grad, _| {
            [Some(apply(&grad, rate, seed))]
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradient_uses_the_same_mask() {
        gradcheck(&[random(&[6, 7], 0)], |x| x[0].dropout(0.4, 5)).unwrap();
    }

    #[test]
    fn drops_the_asked_share_and_keeps_the_mean() {
        let ones = Tensor::new(vec![1.0f64; 200_000], &[200_000]).unwrap();
        let out = ones.dropout(0.3, 1).unwrap().to_vec();
        let dropped = out.iter().filter(|&&value| value == 0.0).count() as f64 / out.len() as f64;
        assert!((dropped - 0.3).abs() < 0.005, "{dropped}");
        assert!((out.iter().sum::<f64>() / out.len() as f64 - 1.0).abs() < 0.01);
        assert_eq!(out, ones.dropout(0.3, 1).unwrap().to_vec());
        assert_ne!(out, ones.dropout(0.3, 2).unwrap().to_vec());
        assert!(ones.dropout(1.0, 0).is_err() && ones.dropout(f64::NAN, 0).is_err());
    }
}
