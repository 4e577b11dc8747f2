//! Dropout (Srivastava et al. 2014), scaled in training.
//!
//! Whether a value is dropped depends on the seed and the value's place alone (a counter-based hash), so the mask
//! is the same on any number of threads and is made again, not stored, in the reverse pass.

#![forbid(unsafe_code)]

use crate::autograd::tape::record;
use crate::autograd::{CHUNK, Tensor};
use crate::error::{Error, Result};
use crate::real::Real;
use crate::threads;
use std::sync::Arc;

/// Uniform bits for place `at` (SplitMix64, Steele et al. 2014).
fn bits(seed: u64, at: u64) -> u64 {
    let mut z = seed.wrapping_add((at.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Zeroes the dropped places and scales the others.
fn apply<T: Real>(values: &mut [T], rate: f64, seed: u64) {
    let threshold = (rate * (1u64 << 53) as f64) as u64;
    let scale = T::of(1.0 / (1.0 - rate));
    threads::for_each_chunk(values, CHUNK, |chunk, part| {
        for (offset, value) in part.iter_mut().enumerate() {
            let dropped = bits(seed, (chunk * CHUNK + offset) as u64) >> 11 < threshold;
            *value = if dropped { T::ZERO } else { *value * scale };
        }
    });
}

impl<T: Real> Tensor<T> {
    /// Drops each value with probability `rate` and divides the others by `1 - rate`; `0 <= rate < 1`.
    pub fn dropout(&self, rate: f64, seed: u64) -> Result<Self> {
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::Config(format!("dropout: rate must be in [0, 1), got {rate}")));
        }
        if rate == 0.0 {
            return Ok(self.clone());
        }
        let mut out = self.values().as_ref().clone();
        apply(&mut out, rate, seed);
        Ok(record("dropout", Arc::new(out), self.shape(), [self], move |mut grad, _| {
            apply(&mut grad, rate, seed);
            [Some(grad)]
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
