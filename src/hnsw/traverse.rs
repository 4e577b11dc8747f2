//! Walking the graph (Malkov & Yashunin 2018, algorithms 2 and 5): the one loop that both building and searching
//! spend their time in.
//!
//! A step takes the nearest candidate not yet expanded, collects those of its neighbours that the search has not
//! met, and scores them in one call of a kernel, which asks for rows ahead. The list of the next candidate is asked for
//! before that call, and after it if a nearer one turned up, so that it is on its way when the next step wants it.

use super::links::{Links, NONE};
use super::queue::{Queue, key, slot_of};
use super::rows::Rows;
use super::vectors::{ExactProbe, Probe, Vectors};
use super::visited::{Batch, Scratch, Visited};

/// The rows, their vectors and their links: what a walk reads.
#[derive(Clone, Debug)]
pub(super) struct Core {
    pub rows: Rows,
    pub vectors: Vectors,
    pub links: Links,
}

/// Links that a walk reads: those of an index, or those that it will have when a change that is planned was made.
pub(super) trait Lists: Sync {
    /// Where walks start; [`NONE`] in an empty index.
    fn entry(&self) -> u32;

    /// Number of slots, free ones included.
    fn slots(&self) -> usize;

    fn level(&self, slot: u32) -> usize;

    /// The neighbours of `slot`; where there are fewer than may be, [`NONE`] may follow.
    fn padded(&self, level: usize, slot: u32) -> &[u32];

    /// Asks for the list of `slot`, which will be read in a moment.
    fn prefetch(&self, level: usize, slot: u32);

    /// The neighbours of `slot`.
    #[inline]
    fn list(&self, level: usize, slot: u32) -> &[u32] {
        let list = self.padded(level, slot);
        &list[..list.iter().position(|&other| other == NONE).unwrap_or(list.len())]
    }

    /// Walks greedily from the entry point down to, but not on, level `to`; returns the row where it ends.
    fn descend(&self, probe: Probe<'_>, to: usize, batch: &mut Batch) -> u32 {
        let entry = self.entry();
        let mut best = key(probe.distance(entry), entry);
        for level in (to + 1..=self.level(entry)).rev() {
            loop {
                let before = best;
                batch.slots.clear();
                batch.slots.extend_from_slice(self.list(level, slot_of(best)));
                batch.score(|slots, out| probe.score(slots, out));
                best = batch.keys().fold(best, u64::min);
                if best == before {
                    break;
                }
            }
        }
        slot_of(best)
    }

    /// Collects in `scratch.queue` the `ef` rows of `level` that are nearest to the probe, as far as links lead
    /// from `start`, and from the entry point, from which all rows can be reached.
    #[inline]
    fn search_level(&self, probe: Probe<'_>, level: usize, start: u32, ef: usize, scratch: &mut Scratch) {
        self.search_until(|_| false, probe, level, &[self.entry(), start], ef, scratch);
    }

    /// As [`search_level`](Self::search_level) from all of `starts`, but ends early once `done` with what it has met.
    #[inline]
    fn search_until(
        &self,
        done: impl Fn(&Visited) -> bool,
        probe: Probe<'_>,
        level: usize,
        starts: &[u32],
        ef: usize,
        scratch: &mut Scratch,
    ) {
        let Scratch { visited, queue, batch, .. } = scratch;
        visited.reset(self.slots());
        queue.reset(ef);
        for &slot in starts {
            if visited.insert(slot) {
                queue.insert(key(probe.distance(slot), slot));
            }
        }
        while !done(visited)
            && let Some(slot) = queue.expand()
        {
            batch.collect(self.padded(level, slot), visited);
            if let Some(next) = queue.peek() {
                self.prefetch(level, next);
            }
            batch.score(|slots, out| probe.score(slots, out));
            if queue.insert_all(batch.keys())
                && let Some(next) = queue.peek()
            {
                self.prefetch(level, next);
            }
        }
    }
}

impl Core {
    /// Scores the first `depth` candidates of a walk on codes by the rows as given, and keeps these alone.
    pub fn score_rows(&self, probe: ExactProbe<'_>, depth: usize, queue: &mut Queue, batch: &mut Batch) {
        let depth = depth.min(queue.keys().len());
        batch.slots.clear();
        batch.slots.extend(queue.keys().iter().take(depth).map(|&key| slot_of(key)));
        batch.score(|slots, out| probe.score(slots, out));
        queue.reset(depth);
        queue.insert_all(batch.keys());
    }

    /// Walks level 0 for a query, from where it came down and from the rows that every search looks at.
    pub fn search_bottom(&self, probe: Probe<'_>, start: u32, ef: usize, scratch: &mut Scratch) {
        let far = self.vectors.far().iter().copied().filter(|&slot| !self.rows.is_free(slot));
        let mut starts = std::mem::take(&mut scratch.bridges);
        starts.clear();
        starts.extend([self.links.entry(), start].into_iter().chain(far));
        self.links.search_until(|_| false, probe, 0, &starts, ef, scratch);
        scratch.bridges = starts;
    }

    /// The rows of a level that a walk to `slot` with `ef` candidates ends with, itself among them where they lead to it,
    /// as keys, nearest first.
    pub fn nearest(
        &self,
        level: usize,
        slot: u32,
        ef: usize,
        lists: &impl Lists,
        scratch: &mut Scratch,
    ) -> Vec<u64> {
        let mut room = std::mem::take(&mut scratch.room);
        let probe = self.vectors.probe(slot, &mut room);
        let start = lists.descend(probe, level, &mut scratch.batch);
        lists.search_level(probe, level, start, ef, scratch);
        scratch.room = room;
        scratch.queue.keys().to_vec()
    }
}
