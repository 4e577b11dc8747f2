//! All rows within a radius of a query.
//!
//! A walk is trusted with what lies well inside its candidates: their number is doubled until at most half of them lie
//! within the radius. Where that would score as many rows as there are, a scan takes its place, as it does on demand.

use super::HnswIndex;
use super::queue::{distance_of, slot_of};
use super::score::Candidate;
use super::search::{SHARED, scan_below};
use super::traverse::{Core, Lists};
use super::vectors::{Room, ScanProbe};
use super::visited::{Batch, Scratch};
use crate::error::{Error, Result, catch};
use crate::lines::Lines;
use crate::memory;
use crate::threads;
use ndarray::ArrayView2;

/// Rows that a walk scores for each of its candidates.
const SCORED_PER_ROW: usize = 20;

/// Candidates beyond those within the radius, and an eighth of these, that are scored again.
const BEYOND: usize = 4;

/// Rows that are decoded between two looks at whether the call is to stop.
const ROWS_PER_CHECKPOINT: usize = 256;

/// What a range search found: query `i` has the places `indptr[i] .. indptr[i + 1]`, nearest first.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeHits {
    /// Where each query's hits begin, and the number of all: one more than queries.
    pub indptr: Vec<usize>,
    /// Row numbers.
    pub rows: Vec<i64>,
    /// Distances in the index's metric.
    pub distances: Vec<f32>,
}

impl HnswIndex {
    /// The rows whose distance to a query, in the unit that [`search`](Self::search) returns, is at most `radius`: as far
    /// as walks find them, or all of them when `exact`.
    ///
    /// Queries are refused as by `search`, a radius that is NaN with [`Error::Config`].
    ///
    /// ```
    /// use ndarray::array;
    /// use ruvector_gnn::hnsw::{HnswIndex, Metric, Params};
    /// use ruvector_gnn::monitor::Silent;
    ///
    /// let mut index = HnswIndex::new(1, Params { metric: Metric::L2, ..Params::default() })?;
    /// index.add(array![[0.0], [3.0], [1.0]].view(), &mut Silent)?;
    /// let hits = index.range_search(array![[0.0], [9.0]].view(), 1.0, false)?;
    /// assert_eq!((hits.indptr, hits.rows), (vec![0, 2, 2], vec![0, 2]));
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn range_search(&self, queries: ArrayView2<'_, f32>, radius: f64, exact: bool) -> Result<RangeHits> {
        catch(|| {
            if radius.is_nan() {
                return Err(Error::Config("radius must be a number, got NaN".into()));
            }
            self.core.vectors.check("queries", queries)?;
            let queries = queries.as_standard_layout();
            let query = |i: usize| queries.row(i).to_slice().expect("standard layout");
            let found: Vec<Vec<Candidate>> = if exact || self.is_empty() {
                let groups = threads::map(queries.nrows().div_ceil(SHARED), |group| {
                    let mine = group * SHARED..queries.nrows().min((group + 1) * SHARED);
                    let mut rooms: Vec<_> = mine.clone().map(|_| Room::default()).collect();
                    let probes: Vec<ScanProbe<'_>> = mine
                        .zip(&mut rooms)
                        .map(|(i, room)| self.core.vectors.scan_probe(query(i), room))
                        .collect();
                    self.core.scan_range(&probes, radius)
                });
                memory::collect(groups.into_iter().flatten())
            } else {
                let ef = self.params.ef_search;
                threads::map(queries.nrows(), |i| {
                    self.pool.with(|scratch| self.core.walk_range(query(i), radius, ef, scratch))
                })
            };
            self.core.vectors.require_sound()?;
            let count = found.iter().map(Vec::len).sum();
            let mut hits = RangeHits {
                indptr: memory::try_with_capacity(found.len() + 1)?,
                rows: memory::try_with_capacity(count)?,
                distances: memory::try_with_capacity(count)?,
            };
            hits.indptr.push(0);
            let distance = |hit: &Candidate| self.params.metric.distance(hit.score) as f32;
            for found in found {
                hits.rows.extend(found.iter().map(|hit| self.core.rows.row(hit.slot)));
                hits.distances.extend(found.iter().map(distance));
                hits.indptr.push(hits.rows.len());
            }
            Ok(hits)
        })
    }
}

impl Core {
    /// Whether a row of this score has a distance, as it is returned, of at most `radius`.
    fn is_within(&self, score: f64, radius: f64) -> bool {
        f64::from(self.vectors.metric.distance(score) as f32) <= radius
    }

    /// By walks with `ef` candidates and more.
    fn walk_range(&self, query: &[f32], radius: f64, mut ef: usize, scratch: &mut Scratch) -> Vec<Candidate> {
        let rows = self.rows.len();
        let mut room = std::mem::take(&mut scratch.room);
        let found = loop {
            if ef.saturating_mul(SCORED_PER_ROW) >= rows {
                break self
                    .scan_range(&[self.vectors.scan_probe(query, &mut room)], radius)
                    .pop()
                    .expect("one probe");
            }
            let probes = self.vectors.query(query, &mut room);
            let start = self.links.descend(probes.walk, 0, &mut scratch.batch);
            self.search_bottom(probes.walk, start, ef, scratch);
            let Scratch { queue, batch, finals, .. } = &mut *scratch;
            if let Some(again) = probes.again {
                self.score_rows(again, ef, queue, batch);
            }
            let keys = queue.keys();
            // Codes alone: what they stand for is scored at once.
            let rough = probes.rows().map_or(keys.len(), |rows| {
                let may_be_within = |&key: &u64| rows.least_among(distance_of(key), || 0.0);
                keys.partition_point(|key| self.is_within(may_be_within(key), radius))
            });
            let scored = rough.saturating_add(rough / 8).saturating_add(BEYOND).min(keys.len());
            if rough <= keys.len() / 2 || probes.rows().is_none() {
                finals.clear();
                batch.slots.clear();
                batch.slots.extend(keys[..scored].iter().map(|&key| slot_of(key)));
                probes.last.candidates(&batch.slots, finals);
                finals.sort_unstable_by(Candidate::order);
                let inside = finals.partition_point(|hit| self.is_within(hit.score, radius));
                if inside <= keys.len() / 2 {
                    break memory::collect(finals[..inside].iter().copied());
                }
            }
            ef = ef.saturating_mul(2);
        };
        scratch.room = room;
        found
    }

    /// By comparing each probe with all rows.
    fn scan_range(&self, probes: &[ScanProbe<'_>], radius: f64) -> Vec<Vec<Candidate>> {
        let slots = memory::collect(self.rows.by_slot());
        let (mut batch, mut room) = (Batch::default(), Lines::new());
        let found = probes.iter().map(|ScanProbe { rough, last }| {
            let mut found = Vec::new();
            match rough {
                Some(rough) => {
                    let wanted = |least| self.is_within(least, radius);
                    scan_below(rough, last, &slots, &mut batch, wanted, &mut found);
                }
                None => {
                    for (i, &slot) in slots.iter().enumerate() {
                        if i % ROWS_PER_CHECKPOINT == 0 {
                            threads::checkpoint();
                        }
                        let score = last.score(last.row(slot, &mut room));
                        memory::push(&mut found, Candidate { score, slot });
                    }
                }
            }
            found.retain(|hit| self.is_within(hit.score, radius));
            found.sort_unstable_by(Candidate::order);
            found
        });
        found.collect()
    }
}
