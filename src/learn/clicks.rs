//! The click edges: for each document, the past queries that were clicked through to it.
//!
//! Messages along these edges are sums, so a document keeps `S_d = sum_q w_qd q` and `n_d = sum_q w_qd` over its
//! clicking queries, with `w` the click's grade over the highest of its query, and a batch is left out by subtraction.

#![forbid(unsafe_code)]

use super::log::Log;
use super::space::Space;
use crate::error::Error;
use crate::memory;
use std::collections::HashMap;

/// Below this a document counts as never clicked: what is left when all its clicks are taken out again.
const NONE: f32 = 1e-4;

/// Sums and counts of the clicked documents, in ascending order of document.
#[derive(Debug, Default, PartialEq)]
pub struct Clicks {
    dim: usize,
    docs: Vec<u32>,
    sums: Vec<f32>,
    counts: Vec<f32>,
    place: HashMap<u32, u32>,
}

impl Clicks {
    /// The edges of a log whose queries lie in the learner's space.
    pub fn of(log: &Log) -> Self {
        let mut docs = memory::copy_of(log.docs());
        docs.sort_unstable();
        docs.dedup();
        let (count, dim) = (docs.len(), log.dim());
        let mut clicks =
            Self::from_parts(dim, docs, memory::vec![0.0; count * dim], memory::vec![0.0; count]);
        for number in 0..log.len() {
            for (doc, weight) in log.weights(number) {
                let at = clicks.place[&doc] as usize;
                add(&mut clicks.sums[at * dim..][..dim], log.query(number), weight);
                clicks.counts[at] += weight;
            }
        }
        clicks
    }

    /// From what [`docs`](Self::docs), [`sums`](Self::sums) and [`counts`](Self::counts) gave.
    pub fn from_parts(dim: usize, docs: Vec<u32>, sums: Vec<f32>, counts: Vec<f32>) -> Self {
        debug_assert!(sums.len() == docs.len() * dim && counts.len() == docs.len());
        let mut place = HashMap::new();
        if place.try_reserve(docs.len()).is_err() {
            Error::Memory(format!("a table of {} clicked rows can't be had", docs.len())).throw();
        }
        place.extend(docs.iter().zip(0..).map(|(&doc, at)| (doc, at)));
        Self { dim, docs, sums, counts, place }
    }

    /// Number of clicked documents.
    pub fn len(&self) -> usize {
        self.docs.len()
    }

    /// Whether nothing was clicked.
    pub fn is_empty(&self) -> bool {
        self.docs.is_empty()
    }

    /// The clicked documents, ascending.
    pub fn docs(&self) -> &[u32] {
        &self.docs
    }

    /// `S`, one row for each clicked document.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// `n`, one value for each clicked document.
    pub fn counts(&self) -> &[f32] {
        &self.counts
    }

    /// Where a document stands among the clicked ones.
    pub fn place(&self, doc: u32) -> Option<usize> {
        self.place.get(&doc).map(|&at| at as usize)
    }

    /// How far untrained click edges of a gate draw the document at `place`: the factor of `S` in `x + S / (n + 1) * gate`,
    /// with which a document moves towards the queries that it was clicked for (Rocchio 1971).
    pub fn pull(&self, place: usize, gate: f32) -> f32 {
        gate / (self.counts[place] + 1.0)
    }

    /// The clicked documents `settle(x + pull S)`, in order: the click edges without training. `docs` is the whole table.
    pub fn pulled(&self, space: &Space, docs: &[f32], gate: f32) -> Vec<f32> {
        let mut rows = memory::with_capacity(self.sums.len());
        for (place, &doc) in self.docs.iter().enumerate() {
            rows.extend_from_slice(&docs[doc as usize * self.dim..][..self.dim]);
            let row = &mut rows[place * self.dim..];
            add(row, &self.sums[place * self.dim..][..self.dim], self.pull(place, gate));
        }
        space.settle(&mut rows);
        rows
    }

    /// Takes the clicks of some queries of `log` out of `sums` and `counts`, and returns the places that they
    /// touched, ascending. Both tables hold the rows that `row_of` names for places; `None` is left alone.
    pub fn leave_out(
        &self,
        log: &Log,
        numbers: &[usize],
        row_of: impl Fn(usize) -> Option<usize>,
        sums: &mut [f32],
        counts: &mut [f32],
    ) -> Vec<usize> {
        let mut touched = Vec::new();
        for &number in numbers {
            for (doc, weight) in log.weights(number) {
                let Some(row) = self.place(doc).and_then(&row_of) else { continue };
                add(&mut sums[row * self.dim..][..self.dim], log.query(number), -weight);
                counts[row] -= weight;
                memory::push(&mut touched, row);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for &row in &touched {
            if counts[row] < NONE {
                clear(self.dim, row, sums, counts);
            }
        }
        touched
    }
}

/// Makes a document one that nobody clicked.
pub(super) fn clear(dim: usize, row: usize, sums: &mut [f32], counts: &mut [f32]) {
    sums[row * dim..][..dim].fill(0.0);
    counts[row] = 0.0;
}

fn add(sum: &mut [f32], query: &[f32], weight: f32) {
    (crate::simd::kernels().axpy)(weight, query, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_left_out_leaves_the_others() {
        let queries = [1.0, 0.0, 0.0, 1.0, 2.0, 2.0];
        let log = Log::new(&queries, 2, vec![(0, 5, 1.0), (1, 5, 1.0), (1, 9, 1.0), (2, 9, 1.0)]).unwrap();
        let clicks = Clicks::of(&log);
        assert_eq!((clicks.docs(), clicks.counts()), (&[5, 9][..], &[2.0, 2.0][..]));
        assert_eq!(clicks.sums(), [1.0, 1.0, 2.0, 3.0]);
        let (mut sums, mut counts) = (clicks.sums().to_vec(), clicks.counts().to_vec());
        let touched = clicks.leave_out(&log, &[0, 1], Some, &mut sums, &mut counts);
        assert_eq!((touched, counts), (vec![0, 1], vec![0.0, 1.0]));
        assert_eq!(sums, [0.0, 0.0, 2.0, 2.0]);
    }
}
