//! The memory: what the most similar past queries were clicked for.
//!
//! A document's votes for query `q` are `m(q, d) = sum_p w_pd exp((cos(q, p) - 1) / tau)` over the `k` past queries
//! `p` nearest to `q`, with `w_pd` the weight of p's click on d. A past query identical to `q` votes with weight 1.

#![forbid(unsafe_code)]

use super::log::Log;
use super::space::normalize;
use crate::linalg::{MatRef, matmul_into};
use crate::memory;
use crate::threads;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// How many past queries vote at most.
pub const MOST: usize = 60;

/// Which past queries vote, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Voters {
    /// `k`, how many: at most [`MOST`].
    pub neighbors: usize,
    /// `tau`, the difference in cosine over which a vote fades to a third.
    pub width: f32,
}

/// Queries per product of a batch.
const BLOCK: usize = 128;

/// Bytes that the small things of a block of queries take at most.
const MARGIN: usize = 16 << 20;

/// Past queries at length 1, with their clicks.
#[derive(Debug)]
pub struct Memory {
    log: Log,
    units: Vec<f32>,
}

impl Memory {
    /// The memory of a log whose queries lie in the learner's space.
    pub fn of(log: Log) -> Self {
        let mut units = memory::copy_of(log.queries());
        units.chunks_exact_mut(log.dim()).for_each(normalize);
        Self { log, units }
    }

    /// The past queries.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The past queries at length 1, row by row.
    pub fn units(&self) -> &[f32] {
        &self.units
    }

    /// The votes of the first of these past queries, nearest first, by document.
    pub fn votes(&self, nearest: &[(f32, u32)], voters: Voters) -> BTreeMap<u32, f32> {
        let mut votes = BTreeMap::new();
        for &(cosine, number) in nearest.iter().take(voters.neighbors) {
            let vote = ((cosine - 1.0) / voters.width).exp();
            for (doc, weight) in self.log.weights(number as usize) {
                *votes.entry(doc).or_insert(0.0) += vote * weight;
            }
        }
        votes
    }

    /// The [`MOST`] nearest past queries of each query of the learner's space; query `i` does not ask past query `without(i)`.
    pub fn nearest_of(
        &self,
        queries: &[f32],
        without: impl Fn(usize) -> Option<u32> + Sync,
    ) -> Vec<Vec<(f32, u32)>> {
        let dim = self.log.dim();
        let mut units = memory::copy_of(queries);
        units.chunks_exact_mut(dim).for_each(normalize);
        let mut nearest = memory::with_capacity(units.len() / dim);
        for (block, units) in units.chunks(BLOCK * dim).enumerate() {
            require_margin();
            let (rows, columns) = (units.len() / dim, self.log.len());
            let mut cosines = memory::vec![0.0; rows * columns];
            let past = MatRef::new(&self.units, columns, dim).t();
            matmul_into(MatRef::new(units, rows, dim), past, &mut cosines, false);
            nearest.extend(threads::map(rows, |row| {
                best(&cosines[row * columns..][..columns], MOST, without(block * BLOCK + row))
            }));
        }
        nearest
    }
}

/// Checks that some memory is left for many small things, which can't be refused any.
pub(super) fn require_margin() {
    memory::require(MARGIN).unwrap_or_else(|error| error.throw());
}

/// The `k` largest values with their positions, best first; equal ones by position.
pub(super) fn best(values: &[f32], k: usize, without: Option<u32>) -> Vec<(f32, u32)> {
    let order = |a: &(f32, u32), b: &(f32, u32)| -> Ordering { b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)) };
    let mut kept: Vec<(f32, u32)> = memory::with_capacity(4 * k.min(values.len()) + 1);
    let mut bar = f32::NEG_INFINITY;
    for (at, &value) in values.iter().enumerate() {
        if value < bar || without == Some(at as u32) {
            continue;
        }
        kept.push((value, at as u32));
        // Thinned out now and then, so that a pass over n values costs about n comparisons.
        if kept.len() > 4 * k {
            kept.select_nth_unstable_by(k, order);
            kept.truncate(k);
            bar = kept.iter().map(|item| item.0).fold(f32::INFINITY, f32::min);
        }
    }
    kept.sort_unstable_by(order);
    kept.truncate(k);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_is_the_head_of_a_full_sort() {
        let mut rng = crate::rng::stream(4, "memory-test", 0);
        let values: Vec<f32> = (0..999).map(|_| rng.below(300) as f32).collect();
        let mut all: Vec<(f32, u32)> = values.iter().copied().zip(0..).filter(|item| item.1 != 7).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for k in [1, 10, 998, 2000] {
            assert_eq!(best(&values, k, Some(7)), all[..k.min(998)]);
        }
    }

    #[test]
    fn a_known_query_votes_for_its_clicks_unless_left_out() {
        let log = Log::new(&[3.0, 0.0, 0.0, 2.0], 2, vec![(0, 4, 2.0), (0, 6, 1.0), (1, 5, 1.0)]).unwrap();
        let memory = Memory::of(log);
        let wide = Voters { neighbors: 2, width: 0.1 };
        let votes = |without, voters| memory.votes(&memory.nearest_of(&[9.0, 0.0], |_| without)[0], voters);
        let far = (-1.0f32 / wide.width).exp();
        assert_eq!(votes(None, wide), BTreeMap::from([(4, 1.0), (5, far), (6, 0.5)]));
        assert_eq!(votes(Some(0), wide), BTreeMap::from([(5, far)]));
        assert_eq!(votes(None, Voters { neighbors: 1, ..wide }), BTreeMap::from([(4, 1.0), (6, 0.5)]));
    }
}
