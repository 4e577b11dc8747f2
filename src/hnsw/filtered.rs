//! Walking among allowed rows only (after ACORN-1, Patel et al. 2024).
//!
//! A step looks at the neighbours of a row; through those that are not allowed it looks at theirs, until a list's worth
//! of allowed rows is collected. Only these are scored, so a walk costs about as much as one without a filter whose
//! index holds the allowed rows alone. Where hardly a row is allowed two links around, the rows between are scored
//! too, to find the way; when that has cost a good part of what a scan of the allowed rows would, the walk gives up.
//!
//! A query that lies apart from the allowed rows has its answers scattered along their border, so it gets more candidates.

use super::filter::Allowed;
use super::links::{Links, NONE};
use super::queue::{key, slot_of};
use super::traverse::{Core, Lists};
use super::vectors::Probe;
use super::visited::Scratch;
use std::cmp::Reverse;

/// A scan of so many allowed rows costs no more than a walk does for each of its `ef` candidates.
pub(super) const SCAN_PER_CANDIDATE: usize = 256;

/// Allowed rows that a step collects before it leaves further lists alone.
const ENOUGH: usize = 32;

/// Fewer found in a step are too few to find the way by.
const SPARSE: usize = 3;

/// A query lies apart if the share of allowed rows around it is less than one part in so many of their share of all; and so
/// many times the candidates it gets.
const APART: usize = 4;

/// Reading a list costs as much as scoring so many rows.
const LIST: usize = 4;

impl Core {
    /// As [`search_level`](Lists::search_level) on level 0, of the allowed rows; `false` if a scan is the better way.
    pub fn search_allowed(
        &self,
        probe: Probe<'_>,
        start: u32,
        ef: usize,
        allowed: &Allowed<'_>,
        scratch: &mut Scratch,
    ) -> bool {
        let (mut around, mut inside) = (0, 0);
        for slot in neighbours(&self.links, start).chain([start]) {
            around += 1;
            inside += usize::from(allowed.marks[slot as usize]);
        }
        if inside * APART * self.rows.len() >= around * allowed.slots.len() {
            return self.walk_allowed(probe, start, ef, allowed, scratch);
        }
        let ef = ef * APART;
        allowed.slots.len() > SCAN_PER_CANDIDATE.saturating_mul(ef)
            && self.walk_allowed(probe, start, ef, allowed, scratch)
    }

    fn walk_allowed(
        &self,
        probe: Probe<'_>,
        start: u32,
        ef: usize,
        allowed: &Allowed<'_>,
        scratch: &mut Scratch,
    ) -> bool {
        let Scratch { visited, queue, batch, frontier, bridges, .. } = scratch;
        visited.reset(self.links.slots());
        queue.reset(ef);
        frontier.clear();
        batch.slots.clear();
        batch.slots.extend([self.links.entry(), start].into_iter().filter(|&slot| visited.insert(slot)));
        let mut lost = allowed.slots.len() / 4;
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
            bridges.clear();
            batch.slots.clear();
            for slot in neighbours(&self.links, slot_of(next)) {
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
                batch
                    .slots
                    .extend(found.filter(|&slot| allowed.marks[slot as usize] && visited.insert(slot)));
                read += 1;
            }
            if batch.slots.len() < SPARSE {
                batch.slots.extend_from_slice(&bridges[..read]);
                let cost = read * (LIST + 1);
                if cost > lost {
                    return false;
                }
                lost -= cost;
            }
            probe.prefetch(&batch.slots);
        }
    }
}

/// The neighbours of a row on level 0.
fn neighbours(links: &Links, slot: u32) -> impl Iterator<Item = u32> {
    links.padded(0, slot).iter().copied().take_while(|&slot| slot != NONE)
}
