//! Scoring in `f64` what a search ends with: the order and the distances of results.

use super::codes::Codes;
use super::exact::Exact;
use super::norm2;
use crate::hnsw::metric::Metric;
use crate::hnsw::score::{Candidate, cosine_score, is_near};
use crate::lines::Lines;
use crate::memory;
use crate::simd::{Kernels, kernels};

/// How many rows ahead are asked for.
const AHEAD: usize = 3;

/// A query to be compared in `f64` with the rows as given or, where these are not kept, with what their codes stand for.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct FinalScorer<'a> {
    metric: Metric,
    rows: FinalRows<'a>,
    query: &'a [f32],
    /// The inverse norm of the query.
    inverse: f64,
    kernels: &'static Kernels,
}

#[derive(Clone, Copy)]
enum FinalRows<'a> {
    Exact(&'a Exact),
    Codes(&'a Codes),
}

impl<'a> FinalScorer<'a> {
    pub(super) fn exact(metric: Metric, rows: &'a Exact, query: &'a [f32]) -> Self {
        Self::new(metric, FinalRows::Exact(rows), query)
    }

    pub(super) fn decoded(metric: Metric, rows: &'a Codes, query: &'a [f32]) -> Self {
        Self::new(metric, FinalRows::Codes(rows), query)
    }

    fn new(metric: Metric, rows: FinalRows<'a>, query: &'a [f32]) -> Self {
        Self { metric, rows, query, inverse: 1.0 / norm2(query).sqrt(), kernels: kernels() }
    }

    /// The row at a slot; `room` is for its copy.
    #[inline]
    pub fn row<'b>(&'b self, slot: u32, room: &'b mut Lines<f32>) -> &'b [f32] {
        match self.rows {
            FinalRows::Exact(rows) => rows.row(slot),
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
        let Self { metric, query, inverse, kernels, .. } = *self;
        match metric {
            Metric::L2 => (kernels.squared_l2_f64)(query, row),
            Metric::Ip => -(kernels.dot_f64)(query, row),
            Metric::Cosine => {
                let norm2 = norm2(row);
                if norm2 == 0.0 {
                    return 0.0;
                }
                let scale = 1.0 / norm2.sqrt();
                let cosine = (kernels.dot_f64)(query, row) * inverse * scale;
                if is_near(cosine) {
                    cosine_score(0.5 * (kernels.scaled_squared_l2_f64)(query, inverse, row, scale))
                } else {
                    -cosine
                }
            }
        }
    }

    /// The rows at these slots with their scores.
    pub fn candidates(&self, slots: impl Iterator<Item = u32> + Clone, out: &mut Vec<Candidate>) {
        let mut room = Lines::new();
        let prefetch = |slot: u32| {
            if let FinalRows::Exact(rows) = self.rows {
                (self.kernels.prefetch_row)(rows.table().values(), slot, rows.table().stride());
            }
        };
        let mut ahead = slots.clone();
        ahead.by_ref().take(AHEAD).for_each(prefetch);
        for slot in slots {
            if let Some(slot) = ahead.next() {
                prefetch(slot);
            }
            memory::push(out, Candidate { score: self.score(self.row(slot, &mut room)), slot });
        }
    }
}
