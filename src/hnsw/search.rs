//! The nearest rows of a query: approximately, by walking the graph; exactly, by a scan; or among some rows.
//!
//! A filter that lets few rows through is a scan of those rows; else a walk looks for allowed rows (`filtered`). Queries whose
//! walks gave up, or found fewer rows than there are, are scanned together in the end.

use super::HnswIndex;
use super::filter::{Allowed, Filter};
use super::links::NONE;
use super::queue::{Queue, distance_of, slot_of};
use super::traverse::{Core, Lists};
use super::vectors::{Probe, Room};
use super::visited::{Batch, Scratch};
use crate::error::{Error, Result, catch};
use crate::memory;
use crate::threads;
use ndarray::{Array2, ArrayView2, Axis};

/// Rows that a scan scores at a time: they stay in the cache while several queries are compared with them.
pub(super) const TILE: usize = 256;

/// Hits that a task writes.
const HITS: usize = 1 << 16;

/// Queries that share a tile.
pub(super) const SHARED: usize = 16;

/// No hit.
const NO_KEY: u64 = u64::MAX;

/// What a search found: for each query `k` rows, nearest first. Missing places hold row -1 and distance `+inf`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hits {
    /// Row numbers, `(queries, k)`.
    pub rows: Array2<i64>,
    /// Distances in the index's metric, `(queries, k)`.
    pub distances: Array2<f32>,
}

impl HnswIndex {
    /// The `k` rows nearest to each query, as far as a walk with `ef` candidates finds them (by default the index's
    /// `ef_search`; at least `k`). Queries run in parallel; a single one stays on the caller's thread. Few rows that pass a
    /// filter are scanned; among more, the walk goes from allowed row to allowed row (after ACORN-1, Patel et al. 2024).
    ///
    /// A wrong dimension, values that are not finite and zero queries under cosine are refused with
    /// [`Error::Shape`], `k = 0` and `ef = 0` with [`Error::Config`], damage in a mapped file with [`Error::Format`].
    pub fn search(
        &self,
        queries: ArrayView2<'_, f32>,
        k: usize,
        ef: Option<usize>,
        filter: Option<Filter<'_>>,
    ) -> Result<Hits> {
        catch(|| {
            let ef = ef.unwrap_or(self.params.ef_search);
            if ef == 0 {
                return Err(Error::Config("ef must be at least 1, got 0".into()));
            }
            self.core.vectors.check("queries", queries)?;
            let allowed = filter.map(|filter| self.resolve(filter)).transpose()?;
            let ef = ef.max(k);
            if let Some(allowed) = &allowed
                && allowed.slots.len() as f32 <= self.core.scan_limit(ef, self.core.share(allowed))
            {
                return self.hits(self.scan_all(queries, k, &allowed.slots)?, k);
            }
            let mut found = room(queries.nrows(), k)?;
            let queries = queries.as_standard_layout();
            // A few hundred tasks at most, so that handing them out costs nothing beside a search.
            let per_task = queries.nrows().div_ceil(256).max(1);
            threads::for_each_chunk(&mut found, per_task * k, |task, found| {
                found.fill(NO_KEY);
                self.pool.with(|scratch| {
                    for (i, found) in found.chunks_mut(k).enumerate() {
                        threads::checkpoint();
                        let query = queries.row(task * per_task + i);
                        let query = query.as_slice().expect("standard layout");
                        self.core.search_one(query, found, ef, allowed.as_ref(), scratch);
                    }
                });
            });
            let left = memory::collect((0..queries.nrows()).filter(|query| found[query * k] == NO_KEY));
            if !left.is_empty() {
                let slots = allowed
                    .map_or_else(|| memory::collect(self.core.rows.by_slot()), |allowed| allowed.slots);
                let scanned = self.scan_all(queries.select(Axis(0), &left).view(), k, &slots)?;
                for (query, scanned) in left.into_iter().zip(scanned.chunks(k)) {
                    found[query * k..][..k].copy_from_slice(scanned);
                }
            }
            self.hits(found, k)
        })
    }

    /// The `k` rows nearest to each query, by comparing it with all of them: the ground truth, with the distances
    /// that [`search`](Self::search) gives, to the bit.
    pub fn exact_search(
        &self,
        queries: ArrayView2<'_, f32>,
        k: usize,
        filter: Option<Filter<'_>>,
    ) -> Result<Hits> {
        catch(|| {
            self.core.vectors.check("queries", queries)?;
            let allowed = filter.map(|filter| self.resolve(filter)).transpose()?;
            let slots =
                allowed.map_or_else(|| memory::collect(self.core.rows.by_slot()), |allowed| allowed.slots);
            self.hits(self.scan_all(queries, k, &slots)?, k)
        })
    }

    /// The keys of the `k` nearest of `slots` for each query.
    fn scan_all(&self, queries: ArrayView2<'_, f32>, k: usize, slots: &[u32]) -> Result<Vec<u64>> {
        let mut found = room(queries.nrows(), k)?;
        let queries = queries.as_standard_layout();
        threads::for_each_chunk(&mut found, SHARED * k, |task, found| {
            found.fill(NO_KEY);
            let mut rooms: Vec<_> = found.chunks(k).map(|_| Room::default()).collect();
            let probes: Vec<Probe<'_>> = (rooms.iter_mut().enumerate())
                .map(|(i, room)| {
                    let query = queries.row(task * SHARED + i);
                    self.core.vectors.query(query.to_slice().expect("standard layout"), room).last()
                })
                .collect();
            self.core.scan(&probes, slots, k, found);
        });
        Ok(found)
    }

    fn hits(&self, found: Vec<u64>, k: usize) -> Result<Hits> {
        self.core.vectors.require_sound()?;
        let shape = (found.len() / k, k);
        let (mut rows, mut distances) = (memory::vec![0; found.len()], memory::vec![0.0; found.len()]);
        threads::for_each_chunk_of_both(
            (&mut rows, HITS),
            (&mut distances, HITS),
            |chunk, rows, distances| {
                for ((row, distance), &key) in rows.iter_mut().zip(distances).zip(&found[chunk * HITS..]) {
                    (*row, *distance) = match key {
                        NO_KEY => (-1, f32::INFINITY),
                        key => (self.core.rows.row(slot_of(key)), distance_of(key)),
                    };
                }
            },
        );
        Ok(Hits {
            rows: Array2::from_shape_vec(shape, rows).expect("k hits a query"),
            distances: Array2::from_shape_vec(shape, distances).expect("k hits a query"),
        })
    }
}

impl Core {
    /// Searches for one query; `found` has room for `k` keys, and stays as it is if the walk did not find them.
    fn search_one(
        &self,
        query: &[f32],
        found: &mut [u64],
        ef: usize,
        allowed: Option<&Allowed<'_>>,
        scratch: &mut Scratch,
    ) {
        let rows = self.rows.len();
        let candidates = allowed.map_or(rows, |allowed| allowed.slots.len());
        if candidates == 0 {
            return;
        }
        let mut room = std::mem::take(&mut scratch.room);
        let probes = self.vectors.query(query, &mut room);
        let ef = ef.min(rows);
        // A row that is alone has no links while it is updated.
        let walked = self.links.entry() != NONE && {
            let start = self.links.descend(probes.walk, 0, &mut scratch.batch);
            match allowed {
                None => {
                    self.links.search_level(probes.walk, 0, start, ef, scratch);
                    true
                }
                Some(allowed) => self.search_allowed(probes.walk, start, ef, allowed, scratch),
            }
        };
        if walked && let Some(again) = probes.again {
            let depth = self.vectors.depth(found.len());
            self.score_again(again, depth, &mut scratch.queue, &mut scratch.batch);
        }
        let (keys, wanted) = (scratch.queue.keys(), found.len().min(candidates));
        if walked && keys.len() >= wanted {
            found[..wanted].copy_from_slice(&keys[..wanted]);
        }
        scratch.room = room;
    }

    /// The `k` nearest of `slots` for each probe, into `found`.
    fn scan(&self, probes: &[Probe<'_>], slots: &[u32], k: usize, found: &mut [u64]) {
        let mut queues: Vec<Queue> = probes.iter().map(|_| Queue::default()).collect();
        queues.iter_mut().for_each(|queue| queue.reset(k.min(slots.len())));
        let mut batch = Batch::default();
        for tile in slots.chunks(TILE) {
            threads::checkpoint();
            batch.slots.clear();
            batch.slots.extend_from_slice(tile);
            for (probe, queue) in probes.iter().zip(&mut queues) {
                batch.score(|slots, out| probe.score(slots, out));
                queue.insert_all(batch.keys());
            }
        }
        for (queue, found) in queues.iter().zip(found.chunks_mut(k)) {
            found[..queue.keys().len()].copy_from_slice(queue.keys());
        }
    }
}

/// Zeros, in place of the keys of `queries` times `k` hits.
fn room(queries: usize, k: usize) -> Result<Vec<u64>> {
    if k == 0 {
        return Err(Error::Config("k must be at least 1, got 0".into()));
    }
    let too_many = || {
        Error::Config(format!("k = {k}: so many hits for {queries} queries are more than any machine holds"))
    };
    let len = queries.checked_mul(k).ok_or_else(too_many)?;
    Ok(memory::vec![0; len])
}
