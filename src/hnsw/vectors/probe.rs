//! A vector to be compared with stored rows, however these are stored.

use super::binary::BinaryProbe;
use super::codes::CodeRoom;
use super::decoded::DecodedProbe;
use super::exact::ExactProbe;
use super::half::HalfProbe;
use super::scalar::ScalarProbe;
use super::sketch::SketchProbe;
use crate::lines::Lines;

/// A vector to be scored, and what it is scored against.
#[derive(Clone, Copy)]
pub(in crate::hnsw) enum Probe<'a> {
    /// Rows as they were given.
    Exact(ExactProbe<'a>),
    /// What codes stand for.
    Decoded(DecodedProbe<'a>),
    /// Codes of two bytes a value.
    Half(HalfProbe<'a>),
    /// Codes of one byte a value.
    Scalar(ScalarProbe<'a>),
    /// Codes of one bit a value; distances count bits.
    Binary(BinaryProbe<'a>),
    /// Codes of one byte a value, as one `add` of many rows makes them.
    Sketch(SketchProbe<'a>),
}

impl Probe<'_> {
    /// The distances to each of `slots`.
    #[inline]
    pub fn score(self, slots: &[u32], out: &mut [f32]) {
        match self {
            Probe::Exact(probe) => probe.score(slots, out),
            Probe::Decoded(probe) => probe.score(slots, out),
            Probe::Half(probe) => probe.score(slots, out),
            Probe::Scalar(probe) => probe.score(slots, out),
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

/// A vector as the walk compares it, and as what the walk found is scored again.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct Probes<'a> {
    /// Against codes, where there are any.
    pub walk: Probe<'a>,
    /// `None` if the walk's distances are final.
    pub again: Option<Probe<'a>>,
}

impl<'a> Probes<'a> {
    /// The probe that gives final distances.
    pub fn last(&self) -> Probe<'a> {
        self.again.unwrap_or(self.walk)
    }
}

/// Where a probe's copy of its vector lies.
#[derive(Debug, Default)]
pub(in crate::hnsw) struct Room {
    pub(super) values: Lines<f32>,
    pub(super) code: CodeRoom,
}
