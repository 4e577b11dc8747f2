//! Codes for the walks of one `add` of many rows, kept no longer than that.
//!
//! The walk to a new row's neighbours reads thousands of rows, and waits for memory; on codes of one byte a value it reads a
//! quarter of the bytes. What it ends with is scored again with the rows as they were given. Codes do not tell rows apart
//! that lie closer together than their steps: where the walk's distances are off by too large a share of what they spread
//! over, it is repeated on the rows themselves, and where that happens to most rows the codes are given up.

use super::probe::{Probe, Room};
use super::scalar::Scalar;
use super::{Rows, Vectors};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Rows of fewer values are as quick to read as their codes.
const DIM: usize = 64;

/// Rows that are coded for one that is added, at most: coding them takes as long as a few hundred distances.
const CODED: usize = 16;

/// The largest mean error of a walk's distances, as a share of what they spread over.
const BLUR: f32 = 1.0 / 16.0;

/// Walks after which it shows whether most are good.
const WALKS: usize = 64;

/// Codes of all rows, and how the walks on them went.
#[derive(Debug)]
pub(in crate::hnsw) struct Sketch {
    codes: Scalar,
    walks: AtomicUsize,
    blurred: AtomicUsize,
}

impl Sketch {
    pub fn is_empty(&self) -> bool {
        self.codes.len() == 0
    }

    /// Whether the distances with which a walk ended were near enough to the exact ones, given in the same order.
    pub fn was_sharp(&self, walked: impl Iterator<Item = f32>, exact: &[f32]) -> bool {
        let (mut least, mut greatest, mut off) = (f32::INFINITY, f32::NEG_INFINITY, 0.0);
        for (walked, &exact) in walked.zip(exact) {
            (least, greatest) = (least.min(exact), greatest.max(exact));
            off += (walked - exact).abs();
        }
        let sharp = off <= BLUR * (greatest - least) * exact.len() as f32;
        self.walks.fetch_add(1, Relaxed);
        self.blurred.fetch_add(usize::from(!sharp), Relaxed);
        sharp
    }

    /// Whether most walks were not.
    pub fn is_blurred(&self) -> bool {
        let (walks, blurred) = (self.walks.load(Relaxed), self.blurred.load(Relaxed));
        walks >= WALKS && 2 * blurred > walks
    }
}

impl Vectors {
    /// A sketch without rows, if walks on one are worth coding the `held` rows for the `new` ones.
    pub fn new_sketch(&self, held: usize, new: usize) -> Option<Sketch> {
        let keeps_rows = matches!(self.rows, Rows::Exact(_) | Rows::Both(..));
        (keeps_rows && self.dim >= DIM && held / CODED <= new).then(|| Sketch {
            codes: Scalar::new(self.dim, self.metric),
            walks: AtomicUsize::new(0),
            blurred: AtomicUsize::new(0),
        })
    }

    /// Adds stored rows to a sketch.
    pub fn sketch_rows(&self, sketch: &mut Sketch, slots: &[u32]) {
        if let Rows::Exact(exact) | Rows::Both(_, exact) = &self.rows {
            let source = |i: usize, row: &mut [f32]| exact.unit_into(slots[i], row);
            let old = |slot: usize, row: &mut [f32]| exact.unit_into(slot as u32, row);
            sketch.codes.store(slots, &source, Some(&old));
        }
    }

    /// A stored row as a probe of a sketch.
    pub fn sketched<'a>(&self, sketch: &'a Sketch, slot: u32, room: &'a mut Room) -> Option<Probe<'a>> {
        let (Rows::Exact(exact) | Rows::Both(_, exact)) = &self.rows else { return None };
        let Room { values, code } = room;
        values.grow(self.dim, 0.0);
        exact.unit_into(slot, &mut values[..self.dim]);
        Some(Probe::Scalar(sketch.codes.probe(&values[..self.dim], 1.0, code.words())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hnsw::metric::Metric;
    use crate::hnsw::params::{Params, Storage};

    fn vectors(dim: usize, storage: Storage, rescore: bool) -> Vectors {
        Vectors::new(dim, &Params { metric: Metric::L2, storage, rescore, ..Params::default() })
    }

    #[test]
    fn a_sketch_is_for_many_long_rows_that_are_kept() {
        let exact = vectors(DIM, Storage::F32, true);
        assert!(exact.new_sketch(1600, 100).is_some() && exact.new_sketch(1700, 100).is_none());
        assert!(vectors(DIM - 1, Storage::F32, true).new_sketch(0, 100).is_none());
        assert!(vectors(DIM, Storage::I8, true).new_sketch(0, 100).is_some());
        assert!(vectors(DIM, Storage::I8, false).new_sketch(0, 100).is_none());
    }

    #[test]
    fn walks_whose_distances_are_far_off_are_blurred() {
        let sketch = vectors(DIM, Storage::F32, true).new_sketch(0, 100).unwrap();
        let exact = [1.0, 2.0, 3.0, 5.0];
        let off = |by: f32| exact.iter().map(move |distance| distance + by);
        // A sixteenth of what 1 to 5 spread over is a quarter.
        assert!(sketch.was_sharp(off(0.25), &exact) && !sketch.was_sharp(off(-0.26), &exact));
        assert!(!sketch.was_sharp([f32::NAN; 4].into_iter(), &exact));
        assert!(sketch.was_sharp([2.0; 4].into_iter(), &[2.0; 4]));
        for _ in 4..WALKS {
            assert!(!sketch.is_blurred());
            sketch.was_sharp(off(9.0), &exact);
        }
        assert!(sketch.is_blurred());
    }
}
