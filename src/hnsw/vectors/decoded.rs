//! Scoring against what codes stand for, in `f32` arithmetic, where the rows themselves are not kept.

use super::codes::Codes;
use super::cosine_distance;
use crate::hnsw::metric::Metric;
use crate::simd::{Kernels, kernels};

/// A vector to be compared with decoded rows.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct DecodedProbe<'a> {
    codes: &'a Codes,
    metric: Metric,
    values: &'a [f32],
    /// The inverse norm under cosine.
    scale: f32,
    kernels: &'static Kernels,
}

impl<'a> DecodedProbe<'a> {
    pub(super) fn new(codes: &'a Codes, metric: Metric, values: &'a [f32], scale: f32) -> Self {
        Self { codes, metric, values, scale, kernels: kernels() }
    }

    pub fn score(self, slots: &[u32], out: &mut [f32]) {
        let mut row = vec![0.0; self.values.len()];
        for (value, &slot) in out.iter_mut().zip(slots) {
            self.codes.decode_into(slot, &mut row);
            *value = match self.metric {
                Metric::L2 => (self.kernels.squared_l2)(self.values, &row),
                Metric::Ip => 1.0 - (self.kernels.dot)(self.values, &row),
                Metric::Cosine => {
                    let norm = (self.kernels.dot)(&row, &row).sqrt();
                    let inverse = if norm > 0.0 { 1.0 / norm } else { 0.0 };
                    cosine_distance((self.kernels.dot)(self.values, &row), self.scale, inverse)
                }
            };
        }
    }
}
