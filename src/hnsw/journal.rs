//! What an unfinished call changed in the rows that were there before it, to take it back.

use super::draft::Changes;
use super::links::Links;
use super::traverse::{Core, Lists};
use super::vectors::Stored;

/// Where the call's rows go, and the old lists and parents of others, kept when they are first changed.
#[derive(Debug)]
pub(super) struct Journal {
    /// The number of the call's first row.
    first: u64,
    /// Slots of the new rows, rising: free ones, then new ones.
    slots: Vec<u32>,
    /// Number of slots before the call.
    held: usize,
    stored: Stored,
    undo: Changes,
}

impl Journal {
    /// For rows that are to go to `slots`.
    pub fn new(core: &Core, slots: Vec<u32>) -> Self {
        Self {
            first: core.rows.handed_out() as u64,
            slots,
            held: core.rows.slots(),
            stored: core.vectors.as_they_are(),
            undo: Changes::none(&core.links),
        }
    }

    /// The slots of the new rows.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// The number of the first new row.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The row that goes to one of the slots.
    pub fn row(&self, slot: u32) -> u64 {
        self.first + self.slots.binary_search(&slot).expect("a slot of this call") as u64
    }

    /// To be called with what undoes the storing of the call's vectors.
    pub fn stored(&mut self, stored: Stored) {
        self.stored = stored;
    }

    /// To be called before changes are made.
    pub fn record(&mut self, links: &Links, changes: &Changes) {
        let is_old = |slot: u32| (slot as usize) < self.held && self.slots.binary_search(&slot).is_err();
        for ((level, slot), _) in changes.lists.iter().filter(|((_, slot), _)| is_old(*slot)) {
            if self.undo.lists.get(level, slot).is_none() {
                self.undo.lists.insert(level, slot, links.list(level, slot).iter().copied());
            }
        }
        for &slot in changes.parents.keys().filter(|slot| is_old(**slot)) {
            self.undo.parents.entry(slot).or_insert_with(|| links.parent(slot));
        }
    }

    /// Puts everything back as it was.
    pub fn take_back(self, core: &mut Core) {
        core.links.write(&self.undo);
        core.links.vacate(&self.slots);
        core.links.truncate(self.held);
        core.links.take_dropped();
        let recycled = self.slots.iter().filter(|&&slot| (slot as usize) < self.held);
        core.vectors.take_back(self.stored);
        recycled.for_each(|&slot| core.vectors.clear(slot));
        core.rows.take_back(&self.slots, self.held);
    }
}
