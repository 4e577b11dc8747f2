//! Scoring in `f64` what a search ends with: the order and the distances of results.

use super::codes::Codes;
use super::exact::{Exact, ExactProbe};
use super::norm2;
use crate::hnsw::metric::Metric;
use crate::hnsw::score::{Candidate, cosine_score, is_near};
use crate::lines::Lines;
use crate::memory;
use crate::simd::{Kernels, kernels};

/// A query to be compared in `f64` with the rows as given or, where these are not kept, with what their codes stand for.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct FinalScorer<'a> {
    metric: Metric,
    rows: FinalRows<'a>,
    /// With zeros behind it where rows are as given.
    query: &'a [f32],
    /// The inverse norm of the query under cosine.
    inverse: f64,
    kernels: &'static Kernels,
}

#[derive(Clone, Copy)]
enum FinalRows<'a> {
    Exact(&'a Exact),
    Codes(&'a Codes),
}

impl<'a> FinalScorer<'a> {
    /// `inverse` is the inverse norm of the query under cosine.
    pub(super) fn exact(metric: Metric, query: ExactProbe<'a>, inverse: f64) -> Self {
        Self { metric, rows: FinalRows::Exact(query.rows), query: query.values, inverse, kernels: kernels() }
    }

    /// `inverse` is the inverse norm of the query under cosine.
    pub(super) fn decoded(metric: Metric, rows: &'a Codes, query: &'a [f32], inverse: f64) -> Self {
        Self { metric, rows: FinalRows::Codes(rows), query, inverse, kernels: kernels() }
    }

    /// The row at a slot, as long as the query; `room` is for its copy.
    #[inline]
    pub fn row<'b>(&'b self, slot: u32, room: &'b mut Lines<f32>) -> &'b [f32] {
        match self.rows {
            FinalRows::Exact(rows) => rows.padded(slot),
            FinalRows::Codes(codes) => {
                room.grow(self.query.len(), 0.0);
                codes.decode_into(slot, &mut room[..self.query.len()]);
                &room[..self.query.len()]
            }
        }
    }

    /// The score of a row.
    #[inline]
    pub fn score(&self, row: &[f32]) -> f64 {
        let Self { metric, query, kernels, .. } = *self;
        match metric {
            Metric::L2 => (kernels.squared_l2_f64)(query, row),
            Metric::Ip => -(kernels.dot_f64)(query, row),
            Metric::Cosine => self.cosine_score(row, (kernels.dot_f64)(query, row), norm2(row)),
        }
    }

    /// The score under cosine of a row whose product with the query and whose squared norm are known.
    #[inline]
    fn cosine_score(&self, row: &[f32], dot: f64, norm2: f64) -> f64 {
        if norm2 == 0.0 {
            return 0.0;
        }
        let scale = 1.0 / norm2.sqrt();
        let cosine = dot * self.inverse * scale;
        if is_near(cosine) {
            let squared = (self.kernels.scaled_squared_l2_f64)(self.query, self.inverse, row, scale);
            cosine_score(0.5 * squared)
        } else {
            -cosine
        }
    }

    /// The scores of four rows.
    #[inline]
    fn four_scores(&self, rows: [&[f32]; 4]) -> [f64; 4] {
        let Self { metric, query, kernels, .. } = *self;
        match metric {
            Metric::L2 => (kernels.four_squared_l2_f64)(query, rows),
            Metric::Ip => (kernels.four_dots_f64)(query, rows).map(|dot| -dot),
            Metric::Cosine => {
                let (dots, norms) = (kernels.four_dots_and_norms_f64)(query, rows);
                std::array::from_fn(|i| self.cosine_score(rows[i], dots[i], norms[i]))
            }
        }
    }

    /// The rows at these slots with their scores.
    pub fn candidates(&self, slots: &[u32], out: &mut Vec<Candidate>) {
        let mut push = |slot, score| memory::push(out, Candidate { score, slot });
        let rest = match self.rows {
            FinalRows::Codes(_) => slots,
            FinalRows::Exact(rows) => {
                let (values, stride) = (rows.table().values(), rows.table().stride());
                let prefetch = |slot: &u32| (self.kernels.prefetch_row)(values, *slot, stride);
                let (fours, rest) = slots.as_chunks::<4>();
                slots.iter().take(4).for_each(prefetch);
                for (i, four) in fours.iter().enumerate() {
                    slots[4 * (i + 1)..].iter().take(4).for_each(prefetch);
                    let scores = self.four_scores(four.map(|slot| rows.padded(slot)));
                    four.iter().zip(scores).for_each(|(&slot, score)| push(slot, score));
                }
                rest
            }
        };
        let mut room = Lines::new();
        rest.iter().for_each(|&slot| push(slot, self.score(self.row(slot, &mut room))));
    }
}
