//! Scores: what rows are ranked by, the lowest first.
//!
//! A distance that is `1 - x` has lost the digits of a small `x`, and one that comes from a product has none where two
//! vectors are nearly parallel. Rows are ranked by scores, which order them as their distances do and keep these digits:
//!
//! | metric | score |
//! |---|---|
//! | l2 | the distance |
//! | ip | `-<q, x>` |
//! | cosine | `-cos`, and `-NEAR / d` where the distance `d = 1 - cos`, taken from `|q/|q| - x/|x||^2 / 2`, is below [`NEAR`] |
//!
//! A walk takes them in `f32`. What it ends with is scored again in `f64` ([`FinalScorer`](super::vectors::FinalScorer)),
//! so that results are in the order of `f64`, and distances are as near as `f32` has them.

use super::metric::Metric;

/// The cosine distance below which it is taken from a difference.
pub(super) const NEAR: f64 = 1.0 / 128.0;

/// Whether two directions are so near that their product says too little of their distance.
#[inline]
pub(super) fn is_near(cosine: f64) -> bool {
    cosine > 1.0 - NEAR
}

/// The score of a cosine distance.
#[inline]
pub(super) fn cosine_score(distance: f64) -> f64 {
    if distance < NEAR { -NEAR / distance } else { distance - 1.0 }
}

/// Turns cosine distances into their scores.
pub(super) fn cosine_scores(distances: &mut [f32]) {
    let near = NEAR as f32;
    if distances.iter().fold(false, |has_near, &distance| has_near | (distance < near)) {
        distances.iter_mut().for_each(|value| *value = cosine_score(f64::from(*value)) as f32);
    } else {
        distances.iter_mut().for_each(|value| *value -= 1.0);
    }
}

/// The cosine distance of a score.
#[inline]
pub(super) fn cosine_distance(score: f64) -> f64 {
    if score <= -1.0 { -NEAR / score } else { 1.0 + score }
}

impl Metric {
    /// The distance that stands for a score.
    #[inline]
    pub(super) fn distance(self, score: f64) -> f64 {
        match self {
            Metric::L2 => score,
            Metric::Ip => 1.0 + score,
            Metric::Cosine => cosine_distance(score),
        }
    }

    /// Cosine, inner product, or the negative squared distance: the higher, the nearer.
    #[inline]
    pub(super) fn similarity(self, score: f64) -> f64 {
        match self {
            Metric::L2 | Metric::Ip => -score,
            Metric::Cosine if score <= -1.0 => 1.0 - cosine_distance(score),
            Metric::Cosine => -score,
        }
    }
}

/// A row that a search ends with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub score: f64,
    pub slot: u32,
}

impl Candidate {
    /// By score, then by slot.
    pub fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(self.slot.cmp(&other.slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cosine_scores_order_as_distances_and_come_back(a in 0f64..2.0, b in 0f64..2.0, shift in 0i32..60) {
            let (a, b) = (a * 0.5f64.powi(shift), b * 0.5f64.powi(shift));
            prop_assert_eq!(a < b, cosine_score(a) < cosine_score(b) || (a < b && a >= NEAR && b - a < 1e-15));
            let relative_to = if a < NEAR { a } else { 1.0 };
            prop_assert!((cosine_distance(cosine_score(a)) - a).abs() <= 4e-16 * relative_to);
        }
    }

    #[test]
    fn the_same_direction_is_nearest() {
        assert_eq!((cosine_score(0.0), cosine_distance(f64::NEG_INFINITY)), (f64::NEG_INFINITY, 0.0));
        assert_eq!(Metric::Cosine.similarity(f64::NEG_INFINITY), 1.0);
        assert_eq!([Metric::Ip, Metric::L2].map(|metric| metric.distance(-1e-12)), [1.0 - 1e-12, -1e-12]);
        assert_eq!(Metric::Ip.similarity(-1e-12), 1e-12);
    }
}
