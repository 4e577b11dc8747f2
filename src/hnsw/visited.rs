//! What a search needs besides the index: marks of visited rows, the candidates, buffers. Pooled, so that a search
//! allocates nothing but its result.

use super::links::NONE;
use super::queue::{Queue, key};
use super::score::Candidate;
use super::select::Selection;
use super::vectors::Room;
use crate::memory;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};

/// Marks rows as visited. A mark is the number of the search that made it, so that a new search starts clean
/// without touching the marks; they are wiped once in 255 searches.
#[derive(Debug, Default)]
pub(super) struct Visited {
    marks: Vec<u8>,
    epoch: u8,
}

impl Visited {
    /// Starts a search over `slots` slots.
    pub fn reset(&mut self, slots: usize) {
        if self.epoch == u8::MAX {
            self.marks.fill(0);
            self.epoch = 0;
        }
        self.epoch += 1;
        if self.marks.len() < slots {
            memory::resize(&mut self.marks, slots, 0);
        }
    }

    /// Whether a slot is marked.
    #[inline]
    pub fn contains(&self, slot: u32) -> bool {
        self.marks[slot as usize] == self.epoch
    }

    /// Marks a slot; `true` if it had no mark.
    #[inline]
    pub fn insert(&mut self, slot: u32) -> bool {
        let mark = &mut self.marks[slot as usize];
        std::mem::replace(mark, self.epoch) != self.epoch
    }
}

/// Everything that one search writes to.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub visited: Visited,
    pub queue: Queue,
    /// Neighbours of one row that are to be scored, and their distances.
    pub batch: Batch,
    /// Rows met and not yet expanded, for walks whose candidates are not what they keep.
    pub frontier: BinaryHeap<Reverse<u64>>,
    /// Neighbours of one row that may not be returned.
    pub bridges: Vec<u32>,
    /// The vector that is compared.
    pub room: Room,
    pub selection: Selection,
    /// What the search ends with.
    pub finals: Vec<Candidate>,
}

/// Slots to be scored together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub slots: Vec<u32>,
    pub distances: Vec<f32>,
    /// Slots scored so far.
    pub scored_in_all: u64,
}

impl Batch {
    /// Takes from a list, which [`NONE`] ends early, the slots not yet visited. Whether a slot was visited is
    /// nearly a coin toss, so it decides how far the write position moves rather than where the program goes.
    #[inline(always)]
    pub fn collect(&mut self, list: &[u32], visited: &mut Visited) {
        self.slots.resize(list.len(), 0);
        // As slices, lest the lengths of all are read anew after every mark.
        let (slots, marks, epoch) = (&mut self.slots[..], &mut visited.marks[..], visited.epoch);
        let mut len = 0;
        for &slot in list {
            if slot == NONE {
                break;
            }
            slots[len] = slot;
            len += usize::from(std::mem::replace(&mut marks[slot as usize], epoch) != epoch);
        }
        self.slots.truncate(len);
    }

    /// Scores all slots at once.
    #[inline]
    pub fn score(&mut self, score: impl FnOnce(&[u32], &mut [f32])) {
        self.distances.resize(self.slots.len(), 0.0);
        self.scored_in_all += self.slots.len() as u64;
        score(&self.slots, &mut self.distances);
    }

    /// The keys of the slots.
    #[inline]
    pub fn keys(&self) -> impl ExactSizeIterator<Item = u64> {
        self.scored().map(|(slot, distance)| key(distance, slot))
    }

    /// Slots with their distances.
    #[inline]
    pub fn scored(&self) -> impl ExactSizeIterator<Item = (u32, f32)> {
        self.slots.iter().copied().zip(self.distances.iter().copied())
    }
}

/// Scratch space for as many searches as ever ran at once.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Scratch>>);

impl Pool {
    /// Runs `task` with scratch space of its own.
    pub fn with<R>(&self, task: impl FnOnce(&mut Scratch) -> R) -> R {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = free.unwrap_or_default();
        let result = task(&mut scratch);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        result
    }

    /// Slots scored so far by all that have returned their scratch space.
    pub fn scored_in_all(&self) -> u64 {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.iter().map(|scratch| scratch.batch.scored_in_all).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_last_for_one_search_across_the_wrap_of_the_epoch() {
        let mut visited = Visited::default();
        for search in 0..1000u32 {
            visited.reset(40);
            assert!(visited.insert(search % 40) && !visited.insert(search % 40));
            assert!(visited.insert((search + 1) % 40));
        }
    }
}
