//! Changes to links, planned while searches read them.
//!
//! A draft reads as the links will with its changes made; the links stay as they are until these are
//! [written](Links::write), all at once. So searches run beside all the work of choosing, and wait for copying alone.

use super::links::{Links, NONE, apart};
use super::traverse::Lists;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// By slot, or by level and slot.
pub(super) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

/// Spreads keys by a multiplication, as FxHash: slots are no adversary's choice.
#[derive(Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.write_u32(word as u32);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Lists by level and slot, all in one piece of memory.
#[derive(Debug, Default)]
pub(super) struct ListMap {
    /// Where a list begins and ends.
    at: Map<(usize, u32), (usize, usize)>,
    slots: Vec<u32>,
}

impl ListMap {
    pub fn get(&self, level: usize, slot: u32) -> Option<&[u32]> {
        self.at.get(&(level, slot)).map(|&(start, end)| &self.slots[start..end])
    }

    /// Replaces a list, or adds it.
    pub fn insert(&mut self, level: usize, slot: u32, list: impl IntoIterator<Item = u32>) {
        let start = self.slots.len();
        self.slots.extend(list);
        self.at.insert((level, slot), (start, self.slots.len()));
    }

    fn clear(&mut self) {
        self.at.clear();
        self.slots.clear();
    }

    pub fn iter(&self) -> impl Iterator<Item = ((usize, u32), &[u32])> {
        self.at.iter().map(|(&at, &(start, end))| (at, &self.slots[start..end]))
    }
}

/// What a draft changed.
#[derive(Debug)]
pub(super) struct Changes {
    /// New lists.
    pub lists: ListMap,
    pub parents: Map<u32, u32>,
    pub entry: u32,
}

impl Changes {
    /// No changes to `links`.
    pub fn none(links: &Links) -> Self {
        Self { lists: ListMap::default(), parents: Map::default(), entry: links.entry() }
    }

    /// What takes `changes` back once they are made: the lists and parents that `links` have now.
    pub fn undoing(changes: &Changes, links: &Links) -> Self {
        let mut undo = Self::none(links);
        for ((level, slot), _) in changes.lists.iter() {
            undo.lists.insert(level, slot, links.list(level, slot).iter().copied());
        }
        undo.parents.extend(changes.parents.keys().map(|&slot| (slot, links.parent(slot))));
        undo
    }
}

/// Links with changes that are not made yet.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    links: &'a Links,
    changes: Changes,
    /// Where it changed, how many children a slot has.
    children: Map<u32, u16>,
}

impl<'a> Draft<'a> {
    /// `links` as they are.
    pub fn new(links: &'a Links) -> Self {
        Self { links, changes: Changes::none(links), children: Map::default() }
    }

    /// As [`new`](Self::new), in the memory of changes that are of no use any more.
    pub fn new_in(links: &'a Links, mut spent: Changes) -> Self {
        spent.lists.clear();
        spent.parents.clear();
        spent.entry = links.entry();
        Self { links, changes: spent, children: Map::default() }
    }

    pub fn into_changes(self) -> Changes {
        self.changes
    }

    /// How many links a row may have.
    pub fn width(&self, level: usize) -> usize {
        self.links.width(level)
    }

    pub fn parent(&self, slot: u32) -> u32 {
        self.changes.parents.get(&slot).copied().unwrap_or_else(|| self.links.parent(slot))
    }

    pub fn children(&self, slot: u32) -> usize {
        self.children.get(&slot).map_or_else(|| self.links.children(slot), |&count| count.into())
    }

    /// Whether parents lead from `slot` to the entry point.
    pub fn in_tree(&self, slot: u32) -> bool {
        let mut above = slot;
        while self.parent(above) != NONE {
            above = self.parent(above);
        }
        above == self.entry()
    }

    /// The lists that are changed.
    pub fn changed(&self) -> &ListMap {
        &self.changes.lists
    }

    /// By how much the number of lists of level 0 that hold a slot changes, where it does.
    pub fn incoming(&self) -> Map<u32, isize> {
        let mut more: Map<u32, isize> = Map::default();
        for ((_, slot), new) in self.changes.lists.iter().filter(|((level, _), _)| *level == 0) {
            let (lost, gained) = apart(self.links.list(0, slot), new);
            lost.iter().for_each(|&lost| *more.entry(lost).or_default() -= 1);
            gained.iter().for_each(|&gained| *more.entry(gained).or_default() += 1);
        }
        more
    }

    /// Replaces the neighbours of `slot`.
    pub fn set(&mut self, level: usize, slot: u32, list: impl IntoIterator<Item = u32>) {
        self.changes.lists.insert(level, slot, list);
    }

    /// Makes `parent` the parent of `slot`; its list must hold `slot` in the end.
    pub fn set_parent(&mut self, slot: u32, parent: u32) {
        let old = self.parent(slot);
        self.changes.parents.insert(slot, parent);
        for (slot, change) in [(old, -1), (parent, 1)] {
            if slot != NONE {
                let count = self.children.entry(slot).or_insert_with(|| self.links.children(slot) as u16);
                *count = count.wrapping_add_signed(change);
            }
        }
    }

    /// Makes `slot` the entry point and the root of the tree: every parent link on the path from it to the old
    /// root is turned round. Along the path each row gains the child that it loses, so no list overflows.
    pub fn set_entry(&mut self, slot: u32) {
        let (mut child, mut parent) = (slot, self.parent(slot));
        self.set_parent(slot, NONE);
        while parent != NONE {
            let next = self.parent(parent);
            self.set_parent(parent, child);
            self.protect(child, parent);
            (child, parent) = (parent, next);
        }
        self.changes.entry = slot;
    }

    /// Sees to it that the list of `parent` holds `slot`, in place of a link that is no one's parent link.
    fn protect(&mut self, parent: u32, slot: u32) {
        let mut list = self.list(0, parent).to_vec();
        if list.contains(&slot) {
            return;
        }
        if list.len() == self.width(0) {
            let spare = list.iter().rposition(|&other| self.parent(other) != parent);
            list.remove(spare.expect("a row has fewer children than links"));
        }
        list.push(slot);
        self.set(0, parent, list);
    }

    /// Empties the lists of `slots` and takes their parents away; other lists may still hold them.
    pub fn isolate(&mut self, slots: &[u32]) {
        for &slot in slots {
            (0..=self.level(slot)).for_each(|level| self.set(level, slot, []));
            self.set_parent(slot, NONE);
            if self.entry() == slot {
                self.changes.entry = NONE;
            }
        }
    }
}

impl Lists for Draft<'_> {
    fn entry(&self) -> u32 {
        self.changes.entry
    }

    fn slots(&self) -> usize {
        self.links.slots()
    }

    fn level(&self, slot: u32) -> usize {
        self.links.level(slot)
    }

    fn padded(&self, level: usize, slot: u32) -> &[u32] {
        self.changes.lists.get(level, slot).unwrap_or_else(|| self.links.padded(level, slot))
    }

    fn prefetch(&self, level: usize, slot: u32) {
        self.links.prefetch(level, slot);
    }
}
