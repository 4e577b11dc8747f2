//! The nearest rows of a query: approximately, by walking the graph; exactly, by a scan; or among some rows.
//!
//! A filter that lets few rows through is a scan of those rows; else a walk looks for allowed rows (`filtered`). Queries whose
//! walks gave up, or found fewer rows than there are, are scanned together in the end.
//!
//! Walks and scans compare in `f32` or by codes. What they end with is scored again in `f64`. A scan scores all rows
//! again that rounding may have kept from the nearest, so its order is that of `f64`.

use super::HnswIndex;
use super::filter::{Allowed, Filter};
use super::links::NONE;
use super::metric::Metric;
use super::queue::{Queue, distance_of, key, slot_of};
use super::score::Candidate;
use super::traverse::{Core, Lists};
use super::vectors::{ExactProbe, FinalScorer, Probes, Room, ScanProbe};
use super::visited::{Batch, Scratch};
use crate::error::{Error, Result, catch};
use crate::lines::Lines;
use crate::memory;
use crate::threads;
use ndarray::{Array2, ArrayView2, Axis};

/// Rows that a scan scores at a time: they stay in the cache while several queries are compared with them.
pub(super) const TILE: usize = 256;

/// Hits that a task writes.
const HITS: usize = 1 << 16;

/// Queries that share a tile.
pub(super) const SHARED: usize = 16;

/// Rows beyond the `k` nearest, and an eighth of `k`, that a scan keeps to score again.
const BEYOND_SCAN: usize = 6;

/// Candidates beyond the `k` nearest that are scored again after a walk, at first.
const BEYOND_WALK: usize = 1;

/// No hit.
const MISSING: Candidate = Candidate { score: f64::INFINITY, slot: NONE };

/// What a search found: for each query `k` rows, nearest first. Missing places hold row -1 and distance `+inf`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hits {
    /// Row numbers, `(queries, k)`.
    pub rows: Array2<i64>,
    /// Distances in the index's metric, `(queries, k)`.
    pub distances: Array2<f32>,
}

impl HnswIndex {
    /// The `k` rows nearest to each query, as far as a walk with `ef` candidates finds them: at least `k`, and
    /// by default `max(ef_search, k)`, half as many again under the inner product of rows of unequal length. Queries run in
    /// parallel; a single one stays on the caller's thread. Few rows that pass a filter are scanned; among more, the walk goes from allowed row to allowed row (after ACORN-1, Patel et al. 2024).
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
        catch(|| self.hits(self.find(queries, k, ef, filter)?, k, Metric::distance))
    }

    /// As [`search`](Self::search), with similarities in the place of distances: cosine, inner product, or the negative
    /// squared distance; `-inf` where a row is missing.
    pub(crate) fn search_similar(
        &self,
        queries: ArrayView2<'_, f32>,
        k: usize,
        filter: Option<Filter<'_>>,
    ) -> Result<(Array2<i64>, Array2<f32>)> {
        catch(|| {
            let hits = self.hits(self.find(queries, k, None, filter)?, k, Metric::similarity)?;
            Ok((hits.rows, hits.distances))
        })
    }

    fn find(
        &self,
        queries: ArrayView2<'_, f32>,
        k: usize,
        ef: Option<usize>,
        filter: Option<Filter<'_>>,
    ) -> Result<Vec<Candidate>> {
        let ef = ef.unwrap_or_else(|| self.core.vectors.candidates(self.params.ef_search.max(k)));
        if ef == 0 {
            return Err(Error::Config("ef must be at least 1, got 0".into()));
        }
        self.core.vectors.check("queries", queries)?;
        let allowed = filter.map(|filter| self.resolve(filter)).transpose()?;
        let ef = ef.max(k);
        if let Some(allowed) = &allowed
            && allowed.slots.len() as f32 <= self.core.scan_limit(ef, self.core.share(allowed))
        {
            return self.scan_all(queries, k, &allowed.slots);
        }
        let mut found = room(queries.nrows(), k)?;
        let queries = queries.as_standard_layout();
        // A few hundred tasks at most, so that handing them out costs nothing beside a search.
        let per_task = queries.nrows().div_ceil(256).max(1);
        threads::for_each_chunk(&mut found, per_task * k, |task, found| {
            self.pool.with(|scratch| {
                for (i, found) in found.chunks_mut(k).enumerate() {
                    threads::checkpoint();
                    let query = queries.row(task * per_task + i);
                    let query = query.as_slice().expect("standard layout");
                    self.core.search_one(query, found, ef, allowed.as_ref(), scratch);
                }
            });
        });
        let left = memory::collect((0..queries.nrows()).filter(|query| found[query * k] == MISSING));
        if !left.is_empty() {
            let slots =
                allowed.map_or_else(|| memory::collect(self.core.rows.by_slot()), |allowed| allowed.slots);
            let scanned = self.scan_all(queries.select(Axis(0), &left).view(), k, &slots)?;
            for (query, scanned) in left.into_iter().zip(scanned.chunks(k)) {
                found[query * k..][..k].copy_from_slice(scanned);
            }
        }
        Ok(found)
    }

    /// The `k` rows nearest to each query, by comparing it with all of them: the ground truth, in the order of
    /// `f64` arithmetic, with the distances that [`search`](Self::search) gives, to the bit.
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
            self.hits(self.scan_all(queries, k, &slots)?, k, Metric::distance)
        })
    }

    /// The `k` nearest of `slots` for each query.
    fn scan_all(&self, queries: ArrayView2<'_, f32>, k: usize, slots: &[u32]) -> Result<Vec<Candidate>> {
        let mut found = room(queries.nrows(), k)?;
        let queries = queries.as_standard_layout();
        threads::for_each_chunk(&mut found, SHARED * k, |task, found| {
            let mut rooms: Vec<_> = found.chunks(k).map(|_| Room::default()).collect();
            let probes: Vec<ScanProbe<'_>> = (rooms.iter_mut().enumerate())
                .map(|(i, room)| {
                    let query = queries.row(task * SHARED + i);
                    self.core.vectors.scan_probe(query.to_slice().expect("standard layout"), room)
                })
                .collect();
            self.core.scan(&probes, slots, k, found);
        });
        Ok(found)
    }

    fn hits(
        &self,
        found: Vec<Candidate>,
        k: usize,
        unit: impl Fn(Metric, f64) -> f64 + Sync,
    ) -> Result<Hits> {
        self.core.vectors.require_sound()?;
        let shape = (found.len() / k, k);
        let (mut rows, mut values) = (memory::vec![0; found.len()], memory::vec![0.0; found.len()]);
        let metric = self.params.metric;
        threads::for_each_chunk_of_both((&mut rows, HITS), (&mut values, HITS), |chunk, rows, values| {
            for ((row, value), hit) in rows.iter_mut().zip(values).zip(&found[chunk * HITS..]) {
                (*row, *value) = match hit.slot {
                    NONE => (-1, unit(Metric::L2, f64::INFINITY) as f32),
                    slot => (self.core.rows.row(slot), unit(metric, hit.score) as f32),
                };
            }
        });
        Ok(Hits {
            rows: Array2::from_shape_vec(shape, rows).expect("k hits a query"),
            distances: Array2::from_shape_vec(shape, values).expect("k hits a query"),
        })
    }
}

impl Core {
    /// Searches for one query; `found` has room for `k` rows, and stays as it is if the walk did not find them.
    fn search_one(
        &self,
        query: &[f32],
        found: &mut [Candidate],
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
                    self.search_bottom(probes.walk, start, ef, scratch);
                    true
                }
                Some(allowed) => self.search_allowed(probes.walk, start, ef, allowed, scratch),
            }
        };
        let wanted = found.len().min(candidates);
        if walked && self.score_again(&probes, found.len(), wanted, scratch) {
            found[..wanted].copy_from_slice(&scratch.finals[..wanted]);
        }
        scratch.room = room;
    }

    /// Scores candidates of a walk for the `k` nearest again, in `f64`; `false` if there are fewer than `wanted`.
    ///
    /// Of codes as many are scored as the storage needs; where that is all of them, by the rows in `f32` first. Where
    /// the order is that of `f32`, as many are scored as may be among the nearest by what rounding takes at most. Under the
    /// inner product that needs the longest row, for which a file would be read whole: there none is taken to be farther
    /// off than those seen.
    fn score_again(&self, probes: &Probes<'_>, k: usize, wanted: usize, scratch: &mut Scratch) -> bool {
        let Scratch { queue, batch, finals, .. } = scratch;
        let depth = self.vectors.depth(k);
        let by_rows = match probes.again {
            Some(again) if depth == usize::MAX => {
                self.score_rows(again, depth, queue, batch);
                true
            }
            again => again.is_none() && self.vectors.keeps_rows(),
        };
        let (keys, rows) = (queue.keys(), probes.rows());
        finals.clear();
        if keys.len() < wanted {
            return false;
        }
        let first = if by_rows { wanted + BEYOND_WALK } else { depth };
        let (mut start, mut end, mut off) = (0, first.min(keys.len()), 0.0);
        loop {
            batch.slots.clear();
            batch.slots.extend(keys[start..end].iter().map(|&key| slot_of(key)));
            probes.last.candidates(&batch.slots, finals);
            for (candidate, &key) in finals[start..].iter().zip(&keys[start..end]) {
                off = f64::max(off, (f64::from(distance_of(key)) - candidate.score).abs());
            }
            // The order of `f32` is nearly always that of `f64`.
            if !finals.is_sorted_by(|a, b| a.order(b).is_lt()) {
                finals.sort_unstable_by(Candidate::order);
            }
            let may_be_nearer = |&key: &u64| {
                let (score, last) = (distance_of(key), finals[wanted - 1].score);
                f64::from(score) - off <= last
                    || rows.is_some_and(|rows| rows.least_among(score, || 0.0) <= last)
            };
            if !by_rows || !keys.get(end).is_some_and(may_be_nearer) {
                return true;
            }
            (start, end) = (end, (2 * end).min(keys.len()));
        }
    }

    /// The `k` nearest of `slots` for each probe, into `found`.
    fn scan(&self, probes: &[ScanProbe<'_>], slots: &[u32], k: usize, found: &mut [Candidate]) {
        let rough: Option<Vec<ExactProbe<'_>>> = probes.iter().map(|probe| probe.rough).collect();
        let nearest = match rough {
            Some(rough) => scan_rows(&rough, probes, slots, k),
            None => scan_decoded(probes, slots, k),
        };
        for (nearest, found) in nearest.iter().zip(found.chunks_mut(k)) {
            found[..nearest.len()].copy_from_slice(nearest);
        }
    }
}

/// Keeps the `k` nearest.
fn keep_nearest(candidates: &mut Vec<Candidate>, k: usize) {
    if candidates.len() > k {
        candidates.select_nth_unstable_by(k, Candidate::order);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(Candidate::order);
}

/// Scans rows as they were given: in `f32`, then those again that may be among the nearest.
fn scan_rows(
    rough: &[ExactProbe<'_>],
    probes: &[ScanProbe<'_>],
    slots: &[u32],
    k: usize,
) -> Vec<Vec<Candidate>> {
    let mut queues: Vec<Queue> = probes.iter().map(|_| Queue::default()).collect();
    let kept = k.saturating_add(k / 8).saturating_add(BEYOND_SCAN);
    queues.iter_mut().for_each(|queue| queue.reset(kept.min(slots.len())));
    let mut batch = Batch::default();
    for tile in slots.chunks(TILE) {
        threads::checkpoint();
        batch.slots.clear();
        batch.slots.extend_from_slice(tile);
        for (probe, queue) in rough.iter().zip(&mut queues) {
            batch.score(|slots, out| probe.score(slots, out));
            queue.insert_all(batch.keys());
        }
    }
    let nearest = rough.iter().zip(probes).zip(&queues).map(|((rough, probe), queue)| {
        let keys = queue.keys();
        let mut candidates = memory::with_capacity(keys.len());
        batch.slots.clear();
        batch.slots.extend(keys.iter().map(|&key| slot_of(key)));
        probe.last.candidates(&batch.slots, &mut candidates);
        keep_nearest(&mut candidates, k);
        let (Some(&end), Some(&last)) = (keys.last(), candidates.last()) else { return candidates };
        if keys.len() < slots.len() && rough.least(distance_of(end)) <= last.score {
            // Rounding may have kept rows out.
            candidates.clear();
            scan_below(rough, &probe.last, slots, &mut batch, |least| least <= last.score, &mut candidates);
            keep_nearest(&mut candidates, k);
        }
        candidates
    });
    nearest.collect()
}

/// Scores the rows again whose final scores may be wanted: `wanted` is told what they are at least, and is true up to some
/// score.
pub(super) fn scan_below(
    rough: &ExactProbe<'_>,
    last: &FinalScorer<'_>,
    slots: &[u32],
    batch: &mut Batch,
    wanted: impl Fn(f64) -> bool,
    out: &mut Vec<Candidate>,
) {
    // The keys of all scores, in order; the first that is not wanted.
    let ordered = |score: f32| (key(score, 0) >> 32) as u32;
    let score_of = |ordered: u32| distance_of(u64::from(ordered) << 32);
    let (mut low, mut high) = (ordered(f32::NEG_INFINITY), ordered(f32::INFINITY));
    while low < high {
        let middle = low + (high - low) / 2;
        if wanted(rough.least(score_of(middle))) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let mut near = Vec::with_capacity(TILE);
    for tile in slots.chunks(TILE) {
        threads::checkpoint();
        batch.slots.clear();
        batch.slots.extend_from_slice(tile);
        batch.score(|slots, out| rough.score(slots, out));
        near.clear();
        near.extend(batch.scored().filter(|&(_, score)| ordered(score) <= low).map(|(slot, _)| slot));
        last.candidates(&near, out);
    }
}

/// Scans what codes stand for, each row decoded once for all probes.
fn scan_decoded(probes: &[ScanProbe<'_>], slots: &[u32], k: usize) -> Vec<Vec<Candidate>> {
    let Some(first) = probes.first() else { return Vec::new() };
    let mut nearest: Vec<Vec<Candidate>> = probes.iter().map(|_| Vec::new()).collect();
    let (mut room, spare) = (Lines::new(), k.saturating_mul(2).saturating_add(TILE));
    for tile in slots.chunks(TILE) {
        threads::checkpoint();
        for &slot in tile {
            let row = first.last.row(slot, &mut room);
            for (probe, nearest) in probes.iter().zip(&mut nearest) {
                memory::push(nearest, Candidate { score: probe.last.score(row), slot });
            }
        }
        nearest
            .iter_mut()
            .filter(|nearest| nearest.len() > spare)
            .for_each(|nearest| keep_nearest(nearest, k));
    }
    nearest.iter_mut().for_each(|nearest| keep_nearest(nearest, k));
    nearest
}

/// Places for `k` hits of each of `queries`, none of them filled.
fn room(queries: usize, k: usize) -> Result<Vec<Candidate>> {
    if k == 0 {
        return Err(Error::Config("k must be at least 1, got 0".into()));
    }
    let too_many = || {
        Error::Config(format!("k = {k}: so many hits for {queries} queries are more than any machine holds"))
    };
    let len = queries.checked_mul(k).ok_or_else(too_many)?;
    Ok(memory::vec![MISSING; len])
}
