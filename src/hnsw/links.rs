//! Who links to whom: fixed-width lists of slots, padded with [`NONE`].
//!
//! Level 0 is one table of `2 m` slots a row, so that a step of the search knows where the next list lies before
//! it has read anything. The few rows of higher levels have their lists of `m` slots in a second table.
//!
//! **Reachability.** Each row but the entry point has a *parent*: a row whose level-0 list holds it and may not
//! drop it. Parents form a tree rooted at the entry point, so every row can be reached from there whatever else
//! pruning drops. A row has at most `m` children when it takes a new one, which leaves half its list to nearness;
//! when the entry point moves, the tree is turned over along the path from the new root to the old one
//! ([`set_entry`](Links::set_entry)).

use crate::lines::Lines;
use crate::simd::prefetch;

/// Slots per cache line.
const LINE: usize = 16;

/// No slot: fills the rest of a list, and stands for no parent and no entry point.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(super) struct Links {
    m: usize,
    level0: Lines<u32>,
    upper: Lines<u32>,
    /// Where a row's list of level 1 starts in `upper`; those of higher levels follow.
    upper_at: Vec<u32>,
    levels: Vec<u8>,
    parents: Vec<u32>,
    children: Vec<u16>,
    entry: u32,
}

impl Links {
    pub fn new(m: usize) -> Self {
        Self {
            m,
            level0: Lines::new(),
            upper: Lines::new(),
            upper_at: Vec::new(),
            levels: Vec::new(),
            parents: Vec::new(),
            children: Vec::new(),
            entry: NONE,
        }
    }

    pub fn len(&self) -> usize {
        self.levels.len()
    }

    /// Where searches start; [`NONE`] in an empty index.
    pub fn entry(&self) -> u32 {
        self.entry
    }

    pub fn level(&self, slot: u32) -> usize {
        self.levels[slot as usize].into()
    }

    pub fn levels(&self) -> &[u8] {
        &self.levels
    }

    pub fn parent(&self, slot: u32) -> u32 {
        self.parents[slot as usize]
    }

    pub fn parents(&self) -> &[u32] {
        &self.parents
    }

    pub fn children(&self, slot: u32) -> usize {
        self.children[slot as usize].into()
    }

    /// How many links a row may have.
    pub fn width(&self, level: usize) -> usize {
        if level == 0 { 2 * self.m } else { self.m }
    }

    fn start(&self, level: usize, slot: u32) -> usize {
        debug_assert!(level <= self.level(slot));
        if level == 0 {
            slot as usize * 2 * self.m
        } else {
            (self.upper_at[slot as usize] as usize + level - 1) * self.m
        }
    }

    /// The neighbours of `slot`.
    #[inline]
    pub fn list(&self, level: usize, slot: u32) -> &[u32] {
        let list = self.padded(level, slot);
        &list[..list.iter().position(|&other| other == NONE).unwrap_or(list.len())]
    }

    /// The neighbours of `slot`, then [`NONE`] up to the width of the level.
    #[inline]
    pub fn padded(&self, level: usize, slot: u32) -> &[u32] {
        let (start, width) = (self.start(level, slot), self.width(level));
        let table = if level == 0 { &self.level0 } else { &self.upper };
        &table[start..start + width]
    }

    /// Asks for the list of `slot`, which will be read in a moment.
    #[inline]
    pub fn prefetch(&self, level: usize, slot: u32) {
        let (start, width) = (self.start(level, slot), self.width(level));
        let table = if level == 0 { &self.level0 } else { &self.upper };
        for at in (start..start + width).step_by(LINE) {
            prefetch(table, at);
        }
    }

    /// Replaces the neighbours of `slot`.
    pub fn set(&mut self, level: usize, slot: u32, neighbours: &[u32]) {
        let (start, width) = (self.start(level, slot), self.width(level));
        let table = if level == 0 { &mut self.level0 } else { &mut self.upper };
        let list = &mut table[start..start + width];
        list[..neighbours.len()].copy_from_slice(neighbours);
        list[neighbours.len()..].fill(NONE);
    }

    /// The tables as a file holds them: level 0, the upper levels.
    pub fn tables(&self) -> [&[u32]; 2] {
        [&self.level0, &self.upper]
    }

    /// Adds rows with the given levels and no links.
    pub fn append(&mut self, levels: &[u8]) {
        let rows = self.len() + levels.len();
        self.level0.grow(rows * 2 * self.m, NONE);
        let mut lists = self.upper.len() / self.m;
        for &level in levels {
            self.upper_at.push(lists as u32);
            lists += usize::from(level);
        }
        self.upper.grow(lists * self.m, NONE);
        self.levels.extend_from_slice(levels);
        self.parents.resize(rows, NONE);
        self.children.resize(rows, 0);
    }

    /// Drops the last rows, which nothing may link to any more.
    pub fn truncate(&mut self, rows: usize) {
        let lists = self.upper_at.get(rows).map_or(self.upper.len() / self.m, |&at| at as usize);
        self.upper.truncate(lists * self.m);
        for slot in rows..self.len() {
            self.set_parent(slot as u32, NONE);
        }
        self.level0.truncate(rows * 2 * self.m);
        self.upper_at.truncate(rows);
        self.levels.truncate(rows);
        self.parents.truncate(rows);
        self.children.truncate(rows);
    }

    /// Makes `parent` the parent of `slot`; its list must hold `slot` by the end of the batch.
    pub fn set_parent(&mut self, slot: u32, parent: u32) {
        let old = std::mem::replace(&mut self.parents[slot as usize], parent);
        for (slot, change) in [(old, -1), (parent, 1)] {
            if slot != NONE {
                let children = &mut self.children[slot as usize];
                *children = children.wrapping_add_signed(change);
            }
        }
    }

    /// Makes `slot` the entry point and the root of the tree: every parent link on the path from it to the old
    /// root is turned round. Along the path each row gains the child that it loses, so no list overflows.
    /// `changed` is told of each row before its list or parent changes.
    pub fn set_entry(&mut self, slot: u32, mut changed: impl FnMut(&Self, u32)) {
        let (mut child, mut parent) = (slot, self.parent(slot));
        changed(self, slot);
        self.set_parent(slot, NONE);
        while parent != NONE {
            let next = self.parent(parent);
            changed(self, parent);
            self.set_parent(parent, child);
            self.protect(child, parent);
            (child, parent) = (parent, next);
        }
        self.entry = slot;
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
        self.set(0, parent, &list);
    }

    /// Puts parents and the entry point back as a journal remembers them.
    pub fn restore(&mut self, parents: impl IntoIterator<Item = (u32, u32)>, entry: u32) {
        for (slot, parent) in parents {
            self.set_parent(slot, parent);
        }
        self.entry = entry;
    }

    /// Takes the tables of a file; refuses lists and parents that building could not have made.
    pub fn from_tables(
        m: usize,
        levels: Vec<u8>,
        parents: Vec<u32>,
        [level0, upper]: [Lines<u32>; 2],
        entry: u32,
    ) -> Result<Self, String> {
        let rows = levels.len();
        let lists: usize = levels.iter().map(|&level| usize::from(level)).sum();
        if level0.len() != rows * 2 * m || upper.len() != lists * m || parents.len() != rows {
            return Err("the tables of links have the wrong lengths".into());
        }
        let mut links = Self::new(m);
        links.append(&levels);
        (links.level0, links.upper, links.entry) = (level0, upper, entry);
        for slot in 0..rows as u32 {
            for level in 0..=links.level(slot) {
                links.check_list(level, slot)?;
            }
        }
        if rows > 0
            && (entry as usize >= rows
                || links.level(entry) < usize::from(*levels.iter().max().unwrap_or(&0)))
        {
            return Err("the entry point is not a row of the highest level".into());
        }
        links.adopt(parents)?;
        Ok(links)
    }

    fn check_list(&self, level: usize, slot: u32) -> Result<(), String> {
        let list = self.list(level, slot);
        let rest_is_empty = self.padded(level, slot)[list.len()..].iter().all(|&other| other == NONE);
        let leads_somewhere =
            |&other: &u32| (other as usize) < self.len() && self.level(other) >= level && other != slot;
        if rest_is_empty && list.iter().all(leads_somewhere) {
            Ok(())
        } else {
            Err(format!("row {slot} has an impossible link on level {level}"))
        }
    }

    /// Takes parents, which must be a tree of level-0 links below the entry point.
    fn adopt(&mut self, parents: Vec<u32>) -> Result<(), String> {
        let wrong = |slot: u32| format!("row {slot} has an impossible parent");
        for (slot, &parent) in (0u32..).zip(&parents) {
            let is_root = slot == self.entry;
            let linked = || (parent as usize) < self.len() && self.list(0, parent).contains(&slot);
            if is_root != (parent == NONE) || !(is_root || linked()) {
                return Err(wrong(slot));
            }
            self.set_parent(slot, parent);
        }
        // Walk up from each row until a row already known to lead to the root; a walk that meets itself does not.
        let mut walked = vec![NONE; self.len()];
        for slot in 0..self.len() as u32 {
            let mut above = slot;
            while above != NONE && walked[above as usize] == NONE {
                walked[above as usize] = slot;
                above = self.parent(above);
            }
            if above != NONE && walked[above as usize] == slot && above != slot {
                return Err(wrong(slot));
            }
            if above == slot && walked[slot as usize] == slot && self.parent(slot) != NONE {
                return Err(wrong(slot));
            }
        }
        Ok(())
    }

    pub fn bytes(&self) -> usize {
        self.level0.bytes()
            + self.upper.bytes()
            + self.levels.capacity()
            + self.children.capacity() * 2
            + (self.upper_at.capacity() + self.parents.capacity()) * 4
    }
}
