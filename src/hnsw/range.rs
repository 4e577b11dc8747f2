//! All rows within a radius of a query.
//!
//! A walk is trusted with what lies well inside its candidates: their number is doubled until at most half of them lie
//! within the radius. Where that would score as many rows as there are, a scan takes its place, as it does on demand.

use super::HnswIndex;
use super::queue::{distance_of, key, slot_of};
use super::search::{SHARED, TILE};
use super::traverse::{Core, Lists};
use super::vectors::{Probe, Room};
use super::visited::{Batch, Scratch};
use crate::error::{Error, Result, catch};
use crate::memory;
use crate::threads;
use ndarray::ArrayView2;

/// Rows that a walk scores for each of its candidates.
const SCORED_PER_ROW: usize = 20;

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
            let found: Vec<Vec<u64>> = if exact || self.is_empty() {
                let groups = threads::map(queries.nrows().div_ceil(SHARED), |group| {
                    let mine = group * SHARED..queries.nrows().min((group + 1) * SHARED);
                    let mut rooms: Vec<_> = mine.clone().map(|_| Room::default()).collect();
                    let probes: Vec<Probe<'_>> = mine
                        .zip(&mut rooms)
                        .map(|(i, room)| self.core.vectors.query(query(i), room).last())
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
            for keys in found {
                hits.rows.extend(keys.iter().map(|&key| self.core.rows.row(slot_of(key))));
                hits.distances.extend(keys.iter().map(|&key| distance_of(key)));
                hits.indptr.push(hits.rows.len());
            }
            Ok(hits)
        })
    }
}

fn within(key: u64, radius: f64) -> bool {
    f64::from(distance_of(key)) <= radius
}

impl Core {
    /// By walks with `ef` candidates and more.
    fn walk_range(&self, query: &[f32], radius: f64, mut ef: usize, scratch: &mut Scratch) -> Vec<u64> {
        let rows = self.rows.len();
        let mut room = std::mem::take(&mut scratch.room);
        let probes = self.vectors.query(query, &mut room);
        let found = loop {
            if ef.saturating_mul(SCORED_PER_ROW) >= rows {
                break self.scan_range(&[probes.last()], radius).pop().expect("one probe");
            }
            let start = self.links.descend(probes.walk, 0, &mut scratch.batch);
            self.links.search_level(probes.walk, 0, start, ef, scratch);
            if let Some(again) = probes.again {
                self.score_again(again, ef, &mut scratch.queue, &mut scratch.batch);
            }
            let keys = scratch.queue.keys();
            let inside = keys.partition_point(|&key| within(key, radius));
            if inside <= keys.len() / 2 {
                // Whether a candidate was expanded is none of a hit's business.
                break memory::collect(keys[..inside].iter().map(|&at| key(distance_of(at), slot_of(at))));
            }
            ef = ef.saturating_mul(2);
        };
        scratch.room = room;
        found
    }

    /// By comparing each probe with all rows.
    fn scan_range(&self, probes: &[Probe<'_>], radius: f64) -> Vec<Vec<u64>> {
        let slots = memory::collect(self.rows.by_slot());
        let mut found = vec![Vec::new(); probes.len()];
        let mut batch = Batch::default();
        for tile in slots.chunks(TILE) {
            threads::checkpoint();
            batch.slots.clear();
            batch.slots.extend_from_slice(tile);
            for (probe, found) in probes.iter().zip(&mut found) {
                batch.score(|slots, out| probe.score(slots, out));
                let keys = batch.scored().map(|(slot, distance)| key(distance, slot));
                keys.filter(|&key| within(key, radius)).for_each(|key| memory::push(found, key));
            }
        }
        found.iter_mut().for_each(|keys| keys.sort_unstable());
        found
    }
}
