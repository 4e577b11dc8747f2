//! What an unfinished call changed in the rows that were there before it, to take it back.

use super::links::Links;
use super::traverse::Core;
use super::vectors::Stored;
use ndarray::ArrayView2;
use std::collections::HashMap;

/// The slots of the call's rows, and the old lists and parents of others, kept when they are first changed.
#[derive(Debug)]
pub(super) struct Journal {
    /// Slots of the new rows, rising: free ones, then new ones.
    slots: Vec<u32>,
    /// Number of slots before the call.
    held: usize,
    stored: Stored,
    entry: u32,
    lists: HashMap<(usize, u32), (Vec<u32>, u32)>,
}

impl Journal {
    /// Hands out slots for new rows, which it stores with their levels, and remembers what was there before.
    pub fn start(core: &mut Core, vectors: ArrayView2<'_, f32>, level: impl Fn(u64) -> u8) -> Self {
        let (held, first) = (core.rows.slots(), core.rows.handed_out());
        let slots = core.rows.hand_out(vectors.nrows());
        let stored = core.vectors.store(&slots, vectors);
        core.links.grow(core.rows.slots());
        (first as u64..).zip(&slots).for_each(|(row, &slot)| core.links.occupy(slot, level(row)));
        Self { slots, held, stored, entry: core.links.entry(), lists: HashMap::new() }
    }

    /// The slots of the new rows.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// To be called before a list changes, and with level 0 before a parent does.
    pub fn record(&mut self, links: &Links, level: usize, slot: u32) {
        let is_new = slot as usize >= self.held || self.slots.binary_search(&slot).is_ok();
        if !is_new {
            let old = || (links.list(level, slot).to_vec(), links.parent(slot));
            self.lists.entry((level, slot)).or_insert_with(old);
        }
    }

    /// Puts everything back as it was.
    pub fn take_back(self, core: &mut Core) {
        for (&(level, slot), (list, _)) in &self.lists {
            core.links.set(level, slot, list);
        }
        let level0 = self.lists.iter().filter(|((level, _), _)| *level == 0);
        core.links.restore(level0.map(|(&(_, slot), &(_, parent))| (slot, parent)), self.entry);
        core.links.vacate(&self.slots);
        core.links.truncate(self.held);
        let recycled = self.slots.iter().filter(|&&slot| (slot as usize) < self.held);
        core.vectors.take_back(self.stored);
        recycled.for_each(|&slot| core.vectors.clear(slot));
        core.rows.take_back(&self.slots, self.held);
    }
}
