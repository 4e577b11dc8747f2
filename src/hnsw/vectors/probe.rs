//! A vector to be compared with stored rows, however these are stored.

use super::binary::BinaryProbe;
use super::codes::CodeRoom;
use super::exact::ExactProbe;
use super::final_scores::FinalScorer;
use super::half::HalfProbe;
use super::scalar::ScalarProbe;
use super::sketch::SketchProbe;
use crate::lines::Lines;

/// A vector to be scored, and what it is scored against.
#[derive(Clone, Copy)]
pub(in crate::hnsw) enum Probe<'a> {
    /// Rows as they were given.
    Exact(ExactProbe<'a>),
    /// Codes of two bytes a value.
    Half(HalfProbe<'a>),
    /// Codes of one byte a value.
    Scalar(ScalarProbe<'a>),
    /// Rows that are linked under the inner product.
    Adjusted(AdjustedProbe<'a>),
    /// Codes of one bit a value; distances count bits.
    Binary(BinaryProbe<'a>),
    /// Codes of one byte a value, as one `add` of many rows makes them.
    Sketch(SketchProbe<'a>),
}

impl Probe<'_> {
    /// The [scores](crate::hnsw::score) of each of `slots`.
    #[inline]
    pub fn score(self, slots: &[u32], out: &mut [f32]) {
        match self {
            Probe::Exact(probe) => probe.score(slots, out),
            Probe::Half(probe) => probe.score(slots, out),
            Probe::Scalar(probe) => probe.score(slots, out),
            Probe::Adjusted(probe) => probe.score(slots, out),
            Probe::Binary(probe) => probe.score(slots, out),
            Probe::Sketch(probe) => probe.score(slots, out),
        }
    }

    /// As [`score`](Self::score), to the bit, of one row.
    #[inline]
    pub fn distance(self, slot: u32) -> f32 {
        if let Probe::Exact(probe) = self {
            return probe.distance(slot);
        }
        let mut distance = [0.0];
        self.score(&[slot], &mut distance);
        distance[0]
    }
}

/// A stored row, compared as [`norm_adjustment`](super::norm_adjustment) says.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct AdjustedProbe<'a> {
    /// Gives `-<p, x_j>`.
    pub(super) products: Products<'a>,
    /// `|y_i|^2 / 2 + <p, mean>`.
    pub(super) own: f32,
    /// `|y_j|^2 / 2` of each row.
    pub(super) terms: &'a [f32],
    /// How much of these a score adds.
    pub(super) rest: f32,
}

/// What products are taken with.
#[derive(Clone, Copy)]
pub(super) enum Products<'a> {
    Exact(ExactProbe<'a>),
    Half(HalfProbe<'a>),
    Scalar(ScalarProbe<'a>),
}

impl AdjustedProbe<'_> {
    #[inline]
    fn score(self, slots: &[u32], out: &mut [f32]) {
        match self.products {
            Products::Exact(probe) => probe.score(slots, out),
            Products::Half(probe) => probe.score(slots, out),
            Products::Scalar(probe) => probe.score(slots, out),
        }
        for (value, &slot) in out.iter_mut().zip(slots) {
            *value += self.own + self.rest * self.terms[slot as usize];
        }
    }
}

/// A query as the walk compares it, and as what the walk ends with is scored again.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct Probes<'a> {
    /// Against codes, where there are any.
    pub walk: Probe<'a>,
    /// Against the rows as given, where they are kept beside the codes.
    pub again: Option<ExactProbe<'a>>,
    /// Gives the scores that results are ranked by.
    pub last: FinalScorer<'a>,
}

impl<'a> Probes<'a> {
    /// The query against rows as they were given, where these are kept and compared as they are.
    pub fn rows(&self) -> Option<ExactProbe<'a>> {
        match self.walk {
            Probe::Exact(probe) => Some(probe),
            _ => self.again,
        }
    }
}

/// A query that is compared with all rows: in `f32` first, where these are kept as they were given.
pub(in crate::hnsw) struct ScanProbe<'a> {
    pub rough: Option<ExactProbe<'a>>,
    pub last: FinalScorer<'a>,
}

/// Where a probe's copy of its vector lies.
#[derive(Debug, Default)]
pub(in crate::hnsw) struct Room {
    pub(super) values: Lines<f32>,
    pub(super) code: CodeRoom,
    pub(super) turned: Lines<f32>,
}
