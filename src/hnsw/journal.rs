//! What an unfinished call changed in the rows that were there before it, to take it back.

use super::links::Links;
use super::traverse::Core;
use std::collections::HashMap;

/// The old lists and parents of rows below `start`, kept when they are first changed.
#[derive(Debug)]
pub(super) struct Journal {
    start: usize,
    entry: u32,
    lists: HashMap<(usize, u32), Vec<u32>>,
    parents: HashMap<u32, u32>,
}

impl Journal {
    /// Starts a journal before rows from `start` on are inserted.
    pub fn new(links: &Links, start: usize) -> Self {
        Self { start, entry: links.entry(), lists: HashMap::new(), parents: HashMap::new() }
    }

    /// To be called before a list changes.
    pub fn record_list(&mut self, links: &Links, level: usize, slot: u32) {
        if (slot as usize) < self.start {
            self.lists.entry((level, slot)).or_insert_with(|| links.list(level, slot).to_vec());
        }
    }

    /// To be called before a row's parent and its list of level 0 change.
    pub fn record_row(&mut self, links: &Links, slot: u32) {
        self.record_list(links, 0, slot);
        if (slot as usize) < self.start {
            self.parents.entry(slot).or_insert_with(|| links.parent(slot));
        }
    }

    /// Puts everything back as it was.
    pub fn take_back(self, core: &mut Core) {
        for ((level, slot), list) in self.lists {
            core.links.set(level, slot, &list);
        }
        core.links.restore(self.parents, self.entry);
        core.links.truncate(self.start);
        core.vectors.truncate(self.start);
    }
}
