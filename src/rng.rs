//! Seed -> named, reproducible streams of random numbers.
//!
//! Every random choice in the crate draws from `stream(seed, name, index)`: a ChaCha8 generator whose key is
//! the seed and the name of the purpose, and whose stream number is `index` (a row, a batch, a step). Streams are
//! independent and counter-based, so work split over any number of threads draws the same numbers. Where millions of
//! items need a few draws each, a stream gives a key and each item a [`SplitMix`] of that key.

#![forbid(unsafe_code)]

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A reproducible generator; see [`stream`].
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

/// The generator for purpose `name`, item `index`, under the user's `seed`.
///
/// ```
/// use ruvector_gnn::rng::stream;
/// assert_eq!(stream(7, "levels", 3).next_u64(), stream(7, "levels", 3).next_u64());
/// assert_ne!(stream(7, "levels", 3).next_u64(), stream(7, "levels", 4).next_u64());
/// ```
pub fn stream(seed: u64, name: &str, index: u64) -> Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&fnv1a(name.as_bytes()).to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(index);
    Rng(generator)
}

impl Rng {
    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..bound`, without bias (Lemire 2019). `bound` must be positive.
    pub fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0);
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(bound);
            if wide as u64 >= bound.wrapping_neg() % bound {
                return (wide >> 64) as u64;
            }
        }
    }

    /// A standard normal draw (Box & Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles in place (Fisher & Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// A small generator for a few draws per item, SplitMix64 (Steele, Lea & Flood 2014).
#[derive(Clone, Debug)]
pub struct SplitMix(u64);

impl SplitMix {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The generator of item `index` under a `key` drawn from a [`stream`].
    #[inline]
    pub fn new(key: u64, index: u64) -> Self {
        Self(mixed(key ^ mixed(index.wrapping_add(Self::STEP))))
    }

    /// 64 uniform bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        mixed(self.0)
    }

    /// Uniform in `0..bound`, without bias (Lemire 2019). `bound` must be positive.
    #[inline]
    pub fn below(&mut self, bound: u32) -> u32 {
        debug_assert!(bound > 0);
        loop {
            let wide = (self.next_u64() >> 32) * u64::from(bound);
            let low = wide as u32;
            if low >= bound || low >= bound.wrapping_neg() % bound {
                return (wide >> 32) as u32;
            }
        }
    }
}

/// A bijection of 64 bits in which every input bit flips every output bit half the time (Stafford's variant 13).
#[inline]
fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_name_and_index() {
        let first = |seed, name, index| stream(seed, name, index).next_u64();
        assert_ne!(first(0, "a", 0), first(1, "a", 0));
        assert_ne!(first(0, "a", 0), first(0, "b", 0));
        assert_ne!(first(0, "a", 0), first(0, "a", 1));
    }

    #[test]
    fn moments_of_uniform_and_normal() {
        let mut rng = stream(1, "moments", 0);
        let n = 100_000;
        let uniform = (0..n).map(|_| rng.uniform()).sum::<f64>() / f64::from(n);
        assert!((uniform - 0.5).abs() < 0.005, "{uniform}");
        let draws: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / f64::from(n);
        let variance = draws.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn below_covers_its_range_evenly_and_shuffle_permutes() {
        let mut rng = stream(2, "below", 0);
        let mut counts = [0u32; 7];
        (0..70_000).for_each(|_| counts[rng.below(7) as usize] += 1);
        assert!(counts.iter().all(|c| (9_500..10_500).contains(c)), "{counts:?}");
        let mut items: Vec<u32> = (0..100).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn split_mix_is_even_over_draws_and_over_items() {
        // Chi-squared of 7 classes has mean 6 and standard deviation 3.5.
        let chi = |counts: [u32; 7]| counts.iter().map(|&c| (f64::from(c) - 1e4).powi(2) / 1e4).sum::<f64>();
        let (mut draws, mut items) = ([0; 7], [0; 7]);
        let mut one = SplitMix::new(5, 0);
        for item in 0..70_000 {
            draws[one.below(7) as usize] += 1;
            items[SplitMix::new(5, item).below(7) as usize] += 1;
        }
        assert!(chi(draws) < 30.0 && chi(items) < 30.0, "{draws:?} {items:?}");
    }
}
