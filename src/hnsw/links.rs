//! Who links to whom: fixed-width lists of slots, padded with [`NONE`].
//!
//! Level 0 is one table of `2 m` slots a row, so that a step of the search knows where the next list lies before
//! it has read anything. The few rows of higher levels have their lists of `m` slots in a second table.
//!
//! **Reachability.** Each row but the entry point has a *parent*: a row whose level-0 list holds it and may not
//! drop it. Parents form a tree rooted at the entry point, so every row can be reached from there whatever else
//! pruning drops. A row has at most `m` children when it takes a new one, which leaves half its list to nearness;
//! when the entry point moves, the tree is turned over along the path from the new root to the old one
//! ([`set_entry`](super::draft::Draft::set_entry)).
//!
//! A slot is *free* until it is [taken](Links::take) and once it was [vacated](Links::vacate): it has no links and
//! no parent, and nothing links to it.

use super::draft::{Changes, Map};
use super::traverse::Lists;
use crate::lines::{Lines, lengthen};
use crate::memory;
use crate::simd::prefetch;
use std::collections::BTreeMap;

/// Slots per cache line.
const LINE: usize = 16;

/// Lists that are asked for ahead of being replaced.
const AHEAD: usize = 8;

/// No slot: fills the rest of a list, and stands for no parent and no entry point.
pub(super) const NONE: u32 = u32::MAX;

/// More lists than are counted.
const UNCOUNTED: u16 = u16::MAX;

#[derive(Debug)]
pub(super) struct Links {
    m: usize,
    level0: Lines<u32>,
    upper: Lines<u32>,
    /// Where the list of level 1 of a row that has one starts in `upper`; those of higher levels follow.
    upper_at: Map<u32, u32>,
    /// Places in `upper` that vacated rows left, by how many lists lie there.
    spare: BTreeMap<u8, Vec<u32>>,
    levels: Vec<u8>,
    parents: Vec<u32>,
    children: Vec<u16>,
    /// How many lists of level 0 hold each slot. A count that reached [`UNCOUNTED`] stays there.
    incoming: Vec<u16>,
    /// Slots that a list dropped and that fewer than `m` others hold, since they were last [taken](Links::take_dropped).
    dropped: Vec<u32>,
    entry: u32,
}

impl Clone for Links {
    fn clone(&self) -> Self {
        Self {
            m: self.m,
            level0: self.level0.clone(),
            upper: self.upper.clone(),
            upper_at: self.upper_at.clone(),
            spare: self.spare.clone(),
            levels: memory::copy_of(&self.levels),
            parents: memory::copy_of(&self.parents),
            children: memory::copy_of(&self.children),
            incoming: memory::copy_of(&self.incoming),
            dropped: memory::copy_of(&self.dropped),
            entry: self.entry,
        }
    }
}

impl Links {
    pub fn new(m: usize) -> Self {
        Self {
            m,
            level0: Lines::new(),
            upper: Lines::new(),
            upper_at: Map::default(),
            spare: BTreeMap::new(),
            levels: Vec::new(),
            parents: Vec::new(),
            children: Vec::new(),
            incoming: Vec::new(),
            dropped: Vec::new(),
            entry: NONE,
        }
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
            (self.upper_at[&slot] as usize + level - 1) * self.m
        }
    }

    /// Replaces the neighbours of `slot`.
    pub fn set(&mut self, level: usize, slot: u32, neighbours: &[u32]) {
        let (start, width) = (self.start(level, slot), self.width(level));
        let table = if level == 0 { &mut self.level0 } else { &mut self.upper };
        let list = &mut table[start..start + width];
        if level == 0 {
            let old = &list[..list.iter().position(|&other| other == NONE).unwrap_or(width)];
            let (lost, gained) = apart(old, neighbours);
            for &lost in lost {
                let count = &mut self.incoming[lost as usize];
                *count -= u16::from(*count != UNCOUNTED);
                if usize::from(*count) < self.m {
                    self.dropped.push(lost);
                }
            }
            for &gained in gained {
                let count = &mut self.incoming[gained as usize];
                *count = count.saturating_add(1);
            }
        }
        list[..neighbours.len()].copy_from_slice(neighbours);
        list[neighbours.len()..].fill(NONE);
    }

    /// Makes all the changes of a draft. Nothing is allocated that may be refused: it also takes changes back.
    pub fn write(&mut self, changes: &Changes) {
        let mut ahead = changes.lists.iter().skip(AHEAD);
        for ((level, slot), list) in changes.lists.iter() {
            if let Some(((level, slot), _)) = ahead.next() {
                self.prefetch(level, slot);
            }
            self.set(level, slot, list);
        }
        for (&slot, &parent) in &changes.parents {
            self.set_parent(slot, parent);
        }
        self.entry = changes.entry;
    }

    /// Slots that lists dropped since this was last called, and that fewer than `m` others held then; some more than once.
    pub fn take_dropped(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.dropped)
    }

    /// How many lists of level 0 hold `slot`, unless they are more than are counted.
    pub fn incoming(&self, slot: u32) -> Option<usize> {
        let count = self.incoming[slot as usize];
        (count != UNCOUNTED).then(|| count.into())
    }

    /// The lists of level 0, slot by slot, as a file holds them.
    pub fn level0(&self) -> &[u32] {
        &self.level0
    }

    /// The lists of the upper levels, slot by slot, as a file holds them: the table in memory may have gaps.
    pub fn upper(&self) -> Vec<u32> {
        let slots = 0..self.slots() as u32;
        let lists = slots.flat_map(|slot| (1..=self.level(slot)).map(move |level| (level, slot)));
        lists.flat_map(|(level, slot)| self.padded(level, slot)).copied().collect()
    }

    /// Whether slots up to `slots` fit in the memory held, with `lists` more lists on upper levels.
    pub fn fits(&self, slots: usize, lists: usize) -> bool {
        let rooms = [
            self.level0.room() / (2 * self.m),
            self.levels.capacity(),
            self.parents.capacity(),
            self.children.capacity(),
            self.incoming.capacity(),
        ];
        rooms.into_iter().all(|room| slots <= room)
            && self.upper.len() + lists * self.m <= self.upper.room()
            && self.upper_at.len() + lists <= self.upper_at.capacity()
    }

    /// Gives free slots levels, and empty lists up to them; the tables are lengthened to hold them.
    pub fn take(&mut self, slots: &[u32], levels: &[u8]) {
        let end = slots.iter().max().map_or(0, |&last| last as usize + 1);
        self.grow(end.max(self.slots()));
        slots.iter().zip(levels).for_each(|(&slot, &level)| self.occupy(slot, level));
    }

    /// Lengthens the tables to `slots` slots, the new ones free.
    fn grow(&mut self, slots: usize) {
        self.level0.grow(slots * 2 * self.m, NONE);
        lengthen(&mut self.levels, slots, 0);
        lengthen(&mut self.parents, slots, NONE);
        lengthen(&mut self.children, slots, 0);
        lengthen(&mut self.incoming, slots, 0);
    }

    /// Makes room for `slots` slots in all, and no more.
    pub fn reserve(&mut self, slots: usize) {
        let more = slots.saturating_sub(self.slots());
        self.level0.reserve(slots * 2 * self.m);
        let all = memory::reserve_exact(&mut self.levels, more)
            .and_then(|()| memory::reserve_exact(&mut self.parents, more))
            .and_then(|()| memory::reserve_exact(&mut self.children, more))
            .and_then(|()| memory::reserve_exact(&mut self.incoming, more));
        all.unwrap_or_else(|refused| refused.throw());
    }

    /// Gives a free slot a level, and empty lists up to it.
    fn occupy(&mut self, slot: u32, level: u8) {
        self.levels[slot as usize] = level;
        if level > 0 {
            let spare = self.spare.get_mut(&level).and_then(Vec::pop);
            let at = spare.unwrap_or_else(|| {
                let end = self.upper.len() / self.m;
                self.upper.grow((end + usize::from(level)) * self.m, NONE);
                end as u32
            });
            self.upper_at.insert(slot, at);
        }
    }

    /// Frees slots, to which no other links any more.
    pub fn vacate(&mut self, slots: &[u32]) {
        // All lists first: those that go may hold each other, and are counted as long as they do.
        for &slot in slots {
            (0..=self.level(slot)).for_each(|level| self.set(level, slot, &[]));
        }
        for &slot in slots {
            self.set_parent(slot, NONE);
            let level = std::mem::take(&mut self.levels[slot as usize]);
            if level > 0 {
                let at = self.upper_at.remove(&slot).expect("rows above level 0 have a place there");
                self.spare.entry(level).or_default().push(at);
            }
            self.incoming[slot as usize] = 0;
        }
    }

    /// Drops the slots from `slots` on, which are free.
    pub fn truncate(&mut self, slots: usize) {
        self.level0.truncate(slots * 2 * self.m);
        self.levels.truncate(slots);
        self.parents.truncate(slots);
        self.children.truncate(slots);
        self.incoming.truncate(slots);
    }

    /// The same links between the slots `kept`, all that are not free, numbered anew in their order.
    pub fn arranged(&self, kept: &[u32]) -> Self {
        let mut new_of = memory::vec![NONE; self.slots()];
        (0..).zip(kept).for_each(|(new, &old)| new_of[old as usize] = new);
        let moved = |old: u32| new_of.get(old as usize).copied().unwrap_or(NONE);
        let mut links = Self::new(self.m);
        links.grow(kept.len());
        links.entry = moved(self.entry);
        for (new, &old) in (0..).zip(kept) {
            links.occupy(new, self.levels[old as usize]);
            links.set_parent(new, moved(self.parent(old)));
            for level in 0..=self.level(old) {
                let list: Vec<u32> = self.list(level, old).iter().map(|&other| moved(other)).collect();
                links.set(level, new, &list);
            }
        }
        links
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

    /// Takes the tables of a file; refuses lists and parents that building could not have made.
    pub fn from_tables(
        m: usize,
        levels: &[u8],
        parents: &[u32],
        [level0, upper]: [Lines<u32>; 2],
        entry: u32,
        is_free: impl Fn(u32) -> bool,
    ) -> Result<Self, String> {
        let slots = levels.len();
        let lists: usize = levels.iter().map(|&level| usize::from(level)).sum();
        if level0.len() != slots * 2 * m || upper.len() != lists * m || parents.len() != slots {
            return Err("the tables of links have the wrong lengths".into());
        }
        let mut links = Self::new(m);
        links.grow(slots);
        (0..).zip(levels).for_each(|(slot, &level)| links.occupy(slot, level));
        (links.level0, links.upper, links.entry) = (level0, upper, entry);
        for slot in 0..slots as u32 {
            for level in 0..=links.level(slot) {
                links.check_list(level, slot, &is_free)?;
            }
        }
        for &slot in links.level0.iter().filter(|&&slot| slot != NONE) {
            let count = &mut links.incoming[slot as usize];
            *count = count.saturating_add(1);
        }
        let highest = (0..slots as u32).filter(|&slot| !is_free(slot)).map(|slot| links.level(slot)).max();
        let is_held = (entry as usize) < slots && !is_free(entry);
        if highest != is_held.then(|| links.level(entry)) || is_held == (entry == NONE) {
            return Err("the entry point is not a row of the highest level".into());
        }
        links.adopt(parents, &is_free)?;
        Ok(links)
    }

    fn check_list(&self, level: usize, slot: u32, is_free: impl Fn(u32) -> bool) -> Result<(), String> {
        let list = self.list(level, slot);
        let rest_is_empty = self.padded(level, slot)[list.len()..].iter().all(|&other| other == NONE);
        let leads_somewhere = |&other: &u32| {
            (other as usize) < self.slots() && self.level(other) >= level && other != slot && !is_free(other)
        };
        let repeats = (1..list.len()).any(|at| list[..at].contains(&list[at]));
        if is_free(slot) && (level > 0 || !list.is_empty()) {
            Err(format!("slot {slot} is free, but has links"))
        } else if rest_is_empty && !repeats && list.iter().all(leads_somewhere) {
            Ok(())
        } else {
            Err(format!("slot {slot} has an impossible link on level {level}"))
        }
    }

    /// Takes parents, which must be a tree of level-0 links below the entry point.
    fn adopt(&mut self, parents: &[u32], is_free: impl Fn(u32) -> bool) -> Result<(), String> {
        let wrong = |slot: u32| format!("slot {slot} has an impossible parent");
        for (slot, &parent) in (0u32..).zip(parents) {
            let alone = slot == self.entry || is_free(slot);
            let linked = || (parent as usize) < self.slots() && self.list(0, parent).contains(&slot);
            if alone != (parent == NONE) || !(alone || linked()) {
                return Err(wrong(slot));
            }
            self.set_parent(slot, parent);
        }
        // One more than a row may take, as `set_entry` leaves it.
        if let Some(slot) = self.children.iter().position(|&children| usize::from(children) > self.m + 1) {
            return Err(format!("slot {slot} has too many children"));
        }
        // Walk up from each row until a row already known to lead to the root; a walk that meets itself does not.
        let mut walked = memory::vec![NONE; self.slots()];
        for slot in 0..self.slots() as u32 {
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
            + (self.children.capacity() + self.incoming.capacity()) * 2
            + self.parents.capacity() * 4
            // A pair and a byte for each place, of which a map counts seven in eight.
            + self.upper_at.capacity() * 8 / 7 * 9
            + self.spare.values().map(|places| places.capacity() * 4).sum::<usize>()
    }
}

impl Lists for Links {
    #[inline]
    fn entry(&self) -> u32 {
        self.entry
    }

    fn slots(&self) -> usize {
        self.levels.len()
    }

    #[inline]
    fn level(&self, slot: u32) -> usize {
        self.levels[slot as usize].into()
    }

    #[inline]
    fn padded(&self, level: usize, slot: u32) -> &[u32] {
        let (start, width) = (self.start(level, slot), self.width(level));
        let table = if level == 0 { &self.level0 } else { &self.upper };
        &table[start..start + width]
    }

    #[inline]
    fn prefetch(&self, level: usize, slot: u32) {
        let (start, width) = (self.start(level, slot), self.width(level));
        let table = if level == 0 { &self.level0 } else { &self.upper };
        for at in (start..start + width).step_by(LINE) {
            prefetch(table, at);
        }
    }
}

/// What follows where two lists part.
pub(super) fn apart<'a>(old: &'a [u32], new: &'a [u32]) -> (&'a [u32], &'a [u32]) {
    let common = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    (&old[common..], &new[common..])
}
