//! Walking where only some rows may be returned.
//!
//! Where a good share of the rows around the query is allowed, a walk scores all rows that it meets and keeps the allowed
//! ones; it goes on until no row on its frontier is nearer than the last of these. Elsewhere it goes among allowed rows only
//! (after ACORN-1, Patel et al. 2024): a step looks at the neighbours of a row, and through those that are not allowed at
//! theirs, until a list's worth of allowed rows is collected. Only these are scored, so a walk costs about as much as one
//! without a filter whose index holds the allowed rows alone. Where hardly a row is allowed two links around, the rows between
//! are scored too, to find the way.
//!
//! A query that lies apart from the allowed rows has its answers scattered along their border, so it gets more candidates.
//! Wherever a scan of the allowed rows is expected to cost no more, or a walk has lost a good part of that cost on other rows,
//! it gives way to the scan.

use super::filter::Allowed;
use super::links::{Links, NONE};
use super::queue::{key, slot_of};
use super::traverse::{Core, Lists};
use super::vectors::Probe;
use super::visited::{Batch, Scratch, Visited};
use std::cmp::Reverse;

/// A scan scores so many rows in the time that a walk among all rows takes for each.
const SCANNED_PER_ROW: f32 = 128.0;

/// The share of allowed rows around a query from which on a walk goes among all rows.
const DENSE: f32 = 0.25;

/// How many times the candidates a query gets at most that lies apart.
const APART: f32 = 4.0;

/// Allowed rows that a step collects before it leaves further lists alone.
const ENOUGH: usize = 32;

/// Fewer found in a step are too few to find the way by.
const SPARSE: usize = 3;

/// Reading a list costs as much as scoring so many rows.
const LIST: usize = 4;

/// How many allowed rows a scan scores in the time that a walk among allowed rows takes for each of its candidates. That
/// is spent on links more than on vectors, so that many short rows are scored meanwhile, or few long ones.
fn scanned_per_candidate(dim: usize) -> f32 {
    64.0 + 50_000.0 / (dim as f32 + 64.0)
}

impl Core {
    /// The number of allowed rows up to which a scan of them costs no more than a walk for `ef` candidates where they are
    /// such a share of all.
    pub fn scan_limit(&self, ef: usize, share: f32) -> f32 {
        let dense = SCANNED_PER_ROW / share;
        ef as f32 * if share < DENSE { scanned_per_candidate(self.vectors.dim()) } else { dense }
    }

    /// As [`search_level`](Lists::search_level) on level 0, of the allowed rows; `false` if a scan is the better way.
    pub fn search_allowed(
        &self,
        probe: Probe<'_>,
        start: u32,
        ef: usize,
        allowed: &Allowed<'_>,
        scratch: &mut Scratch,
    ) -> bool {
        let overall = self.share(allowed);
        let share = self.share_around(start, allowed);
        let ef = (ef as f32 * (overall / share).clamp(1.0, APART)) as usize;
        allowed.slots.len() as f32 > self.scan_limit(ef, share)
            && self.walk_allowed(probe, start, ef, allowed, share >= DENSE, scratch)
    }

    /// The share of allowed rows among all.
    pub fn share(&self, allowed: &Allowed<'_>) -> f32 {
        allowed.slots.len() as f32 / self.rows.len() as f32
    }

    /// The share of allowed rows among the neighbours of a row, and theirs.
    fn share_around(&self, slot: u32, allowed: &Allowed<'_>) -> f32 {
        neighbours(&self.links, slot).for_each(|near| self.links.prefetch(0, near));
        let (mut all, mut inside) = (0u32, 0u32);
        let mut look = |slot: u32| {
            all += 1;
            inside += u32::from(allowed.marks[slot as usize]);
        };
        look(slot);
        for near in neighbours(&self.links, slot) {
            look(near);
            neighbours(&self.links, near).for_each(&mut look);
        }
        inside as f32 / all as f32
    }

    fn walk_allowed(
        &self,
        probe: Probe<'_>,
        start: u32,
        ef: usize,
        allowed: &Allowed<'_>,
        is_dense: bool,
        scratch: &mut Scratch,
    ) -> bool {
        let Scratch { visited, queue, batch, frontier, bridges, .. } = scratch;
        visited.reset(self.links.slots());
        queue.reset(ef);
        frontier.clear();
        batch.slots.clear();
        let far = self.vectors.far().iter().copied().filter(|&slot| allowed.marks[slot as usize]);
        let starts = [self.links.entry(), start].into_iter().chain(far);
        batch.slots.extend(starts.filter(|&slot| visited.insert(slot)));
        let mut left = allowed.slots.len() / 4;
        loop {
            batch.score(|slots, out| probe.score(slots, out));
            for (slot, distance) in batch.scored() {
                let key = key(distance, slot);
                if key < queue.bound() {
                    frontier.push(Reverse(key));
                    if allowed.marks[slot as usize] {
                        queue.insert(key);
                    }
                }
            }
            let Some(Reverse(next)) = frontier.pop().filter(|&Reverse(next)| next < queue.bound()) else {
                return true;
            };
            let lost = if is_dense {
                batch.collect(self.links.padded(0, slot_of(next)), visited);
                if let Some(&Reverse(then)) = frontier.peek() {
                    self.links.prefetch(0, slot_of(then));
                }
                batch.slots.iter().filter(|&&slot| !allowed.marks[slot as usize]).count()
            } else {
                self.collect_allowed(slot_of(next), allowed, visited, batch, bridges)
            };
            if lost > left {
                return false;
            }
            left -= lost;
        }
    }

    /// Collects allowed rows within two links of a row, and returns the cost of what it had to take besides.
    fn collect_allowed(
        &self,
        slot: u32,
        allowed: &Allowed<'_>,
        visited: &mut Visited,
        batch: &mut Batch,
        bridges: &mut Vec<u32>,
    ) -> usize {
        bridges.clear();
        batch.slots.clear();
        for slot in neighbours(&self.links, slot) {
            if !allowed.marks[slot as usize] {
                if !visited.contains(slot) {
                    self.links.prefetch(0, slot);
                    bridges.push(slot);
                }
            } else if visited.insert(slot) {
                batch.slots.push(slot);
            }
        }
        let mut read = 0;
        while read < bridges.len() && batch.slots.len() < ENOUGH {
            visited.insert(bridges[read]);
            let found = neighbours(&self.links, bridges[read]);
            batch.slots.extend(found.filter(|&slot| allowed.marks[slot as usize] && visited.insert(slot)));
            read += 1;
        }
        if batch.slots.len() >= SPARSE {
            return 0;
        }
        batch.slots.extend_from_slice(&bridges[..read]);
        read * (LIST + 1)
    }
}

/// The neighbours of a row on level 0.
fn neighbours(links: &Links, slot: u32) -> impl Iterator<Item = u32> + Clone {
    links.padded(0, slot).iter().copied().take_while(|&slot| slot != NONE)
}
