//! Adding rows: in parallel, and to the same bit on any number of threads.
//!
//! The rows of a call are inserted in a seeded permutation, so that sorted input builds as good a graph as shuffled
//! input, in batches that stay a small share of the index (after ParlayANN, Dobson et al. 2024). For each batch:
//!
//! 1. every row searches the graph, which stands still meanwhile, and is compared with every other row of the
//!    batch; from these candidates it chooses its neighbours, level by level (in parallel over rows);
//! 2. each row takes a parent and writes its own lists (in order);
//! 3. the links back are sorted by the row that they start from, and each such row appends them to its list or,
//!    where that overflows, chooses anew (in parallel over rows), and the lists are written (in order).
//!
//! No step depends on which thread did what, and no lock is held. Calls of more than [`SEGMENT`] rows are cut into
//! segments that are inserted one after the other; an interrupted call keeps the segments that were finished and
//! takes back, through the [`Journal`], the one that was not.

use super::HnswIndex;
use super::Params;
use super::journal::Journal;
use super::links::{Links, NONE};
use super::queue::{MAX_SLOTS, distance_of, key, slot_of};
use super::rows::MAX_ROWS;
use super::traverse::Core;
use super::vectors::Room;
use super::visited::{Batch, Scratch};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::rng::stream;
use crate::threads;
use ndarray::{ArrayView2, Axis};
use std::ops::Range;

/// Rows that are inserted as one permutation, and that an interruption takes back at most.
pub(super) const SEGMENT: usize = 1 << 17;

/// A batch is at most this share of the index, ...
const SHARE: usize = 24;

/// ... and at most this many rows: all pairs within a batch are compared, and its rows should stay in the cache.
const BATCH: usize = 256;

/// No level above this one; 2^32 rows at `m = 2` are not expected to reach it.
pub(super) const TOP_LEVEL: usize = 40;

/// Nearest candidates among which a row looks for a parent.
const PARENTS: usize = 32;

/// What a row found out in step 1.
struct Plan {
    slot: u32,
    /// The chosen neighbours, as keys, per level.
    neighbours: Vec<Vec<u64>>,
    /// The nearest rows of level 0, as keys.
    nearest: Vec<u64>,
}

/// A link that is to be added: from `target` to the slot of `source`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link {
    level: u8,
    target: u32,
    source: u64,
}

impl Link {
    pub fn new(level: usize, target: u32, source: u64) -> Self {
        Self { level: level as u8, target, source }
    }

    /// The link to `slot` from one of its neighbours, given as key.
    pub fn back(level: usize, slot: u32, neighbour: u64) -> Self {
        Self::new(level, slot_of(neighbour), key(distance_of(neighbour), slot))
    }
}

/// How many rows go into one batch, or out of the graph together, where `linked` rows are.
pub(super) fn batch_len(linked: usize) -> usize {
    (linked / SHARE).clamp(1, BATCH)
}

impl HnswIndex {
    /// Adds rows and returns their numbers.
    ///
    /// Vectors of a wrong dimension, with values that are not finite, or zero under cosine are refused with
    /// [`Error::Shape`], and nothing is added. `monitor` is told how many rows of the call have been inserted; when
    /// it stops the work, the error says how many rows the index holds.
    pub fn add(&mut self, vectors: ArrayView2<'_, f32>, monitor: &mut dyn Monitor) -> Result<Range<u64>> {
        self.core.vectors.check_new("vectors", vectors)?;
        let (start, rows) = (self.num_rows(), vectors.nrows());
        for (most, what, wanted) in
            [(MAX_SLOTS, "holds", self.len() + rows), (MAX_ROWS, "hands out", start + rows)]
        {
            if wanted > most {
                return Err(Error::Config(format!("an index {what} at most {most} rows, got {wanted}")));
            }
        }
        self.core.vectors.own()?;
        if rows > SEGMENT {
            self.core.reserve(rows);
        }
        for (i, segment) in vectors.axis_chunks_iter(Axis(0), SEGMENT).enumerate() {
            let mut done = |inserted| monitor.step(i * SEGMENT + inserted, rows, &[]);
            if let Err(stop) = self.insert_segment(segment, &mut done) {
                let (held, kept) = (self.len(), i * SEGMENT);
                return Err(match stop {
                    Error::Interrupted(_) => Error::Interrupted(format!(
                        "add was interrupted: the index holds {held} rows, the first {kept} of these {rows} among them"
                    )),
                    other => other,
                });
            }
        }
        Ok(start as u64..(start + rows) as u64)
    }

    /// Inserts rows, all or none.
    fn insert_segment(
        &mut self,
        vectors: ArrayView2<'_, f32>,
        done: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let (linked, first, params) = (self.len(), self.num_rows(), &self.params);
        let mut journal = Journal::start(&mut self.core, vectors, |row| draw_level(params, row));
        let mut order = journal.slots().to_vec();
        stream(self.params.seed, "insertion order", first as u64).shuffle(&mut order);
        let mut inserted = 0;
        while inserted < order.len() {
            let len = batch_len(linked + inserted).min(order.len() - inserted);
            let batch = &order[inserted..inserted + len];
            self.insert_batch(batch, |links, level, slot| journal.record(links, level, slot));
            inserted += len;
            if let Err(stop) = done(inserted) {
                journal.take_back(&mut self.core);
                return Err(stop);
            }
        }
        Ok(())
    }

    /// Links the rows of a batch, which are stored and have levels. `changed` is told of the list of a level, and with
    /// level 0 of the parent, before they change.
    pub(super) fn insert_batch(&mut self, batch: &[u32], mut changed: impl FnMut(&Links, usize, u32)) {
        let (core, params, pool) = (&self.core, &self.params, &self.pool);
        let plans = threads::map(batch.len(), |i| {
            pool.with(|scratch| core.plan(batch[i], batch, params.m, params.ef_construction, scratch))
        });
        let links = self.core.link_forward(&plans);
        self.core.add_links(links, &mut changed);
        let links = &mut self.core.links;
        let highest =
            batch.iter().copied().reduce(|a, b| if links.level(b) > links.level(a) { b } else { a });
        let highest = highest.expect("a batch has rows");
        if links.entry() == NONE || links.level(highest) > links.level(links.entry()) {
            links.set_entry(highest, |links, slot| changed(links, 0, slot));
        }
    }
}

/// `floor(-ln(U) / ln(m))` with `U` uniform in `(0, 1]`.
fn draw_level(params: &Params, row: u64) -> u8 {
    let uniform = 1.0 - stream(params.seed, "levels", row).uniform();
    let level = -uniform.ln() / (params.m as f64).ln();
    level.min(TOP_LEVEL as f64) as u8
}

impl Core {
    /// Makes room for `rows` more rows at once, rather than for one segment after the other.
    fn reserve(&mut self, rows: usize) {
        let slots = self.rows.slots() + rows.saturating_sub(self.rows.free());
        self.vectors.reserve(slots);
        self.links.reserve(slots);
        self.rows.reserve(slots, self.rows.handed_out() + rows);
    }

    /// Step 1 for one row.
    fn plan(&self, slot: u32, batch: &[u32], m: usize, ef: usize, scratch: &mut Scratch) -> Plan {
        let (own, entry) = (self.links.level(slot), self.links.entry());
        let mut room = std::mem::take(&mut scratch.room);
        let probe = self.vectors.probe(slot, &mut room);
        let mut plan = Plan { slot, neighbours: vec![Vec::new(); own + 1], nearest: Vec::new() };
        let top = if entry == NONE { 0 } else { self.links.level(entry) };
        let mut start = (entry != NONE).then(|| self.descend(probe, own.min(top), &mut scratch.batch));
        for level in (0..=own).rev() {
            scratch.queue.reset(ef);
            if let Some(from) = start.filter(|_| level <= top) {
                self.search_level(probe, level, from, ef, scratch);
                start = scratch.queue.keys().first().map(|&key| slot_of(key));
            }
            let Scratch { queue, batch: peers, .. } = &mut *scratch;
            peers.slots.clear();
            let others =
                batch.iter().copied().filter(|&other| other != slot && self.links.level(other) >= level);
            peers.slots.extend(others);
            peers.score(|slots, out| probe.score(slots, out));
            peers.scored().for_each(|(slot, distance)| _ = queue.insert(key(distance, slot)));
            let chosen = self.select(queue.keys(), m, m, |_| false);
            plan.neighbours[level] = chosen;
            plan.nearest.clear();
            plan.nearest.extend(queue.keys().iter().take(PARENTS));
        }
        scratch.room = room;
        plan
    }

    /// Step 2: parents and own lists. Returns the links back.
    fn link_forward(&mut self, plans: &[Plan]) -> Vec<Link> {
        let mut links = Vec::new();
        for plan in plans {
            for (level, neighbours) in plan.neighbours.iter().enumerate() {
                let slots: Vec<u32> = neighbours.iter().map(|&key| slot_of(key)).collect();
                self.links.set(level, plan.slot, &slots);
                links.extend(neighbours.iter().map(|&neighbour| Link::back(level, plan.slot, neighbour)));
            }
            // A row without parent is the entry point, or of this batch and not linked yet.
            let in_tree = |slot: u32| slot == self.links.entry() || self.links.parent(slot) != NONE;
            if let Some(parent) = self.choose_parent(plan.slot, &plan.nearest, in_tree) {
                self.links.set_parent(plan.slot, slot_of(parent));
                if !plan.neighbours[0].iter().any(|&key| slot_of(key) == slot_of(parent)) {
                    links.push(Link::back(0, plan.slot, parent));
                }
            }
        }
        links
    }

    /// The nearest row of the tree that has room for a child: among the nearest candidates, else somewhere below
    /// the nearest of them, else anywhere. A tree has fewer links than rows, so there is always one.
    pub fn choose_parent(&self, slot: u32, nearest: &[u64], in_tree: impl Fn(u32) -> bool) -> Option<u64> {
        let links = &self.links;
        let entry = links.entry();
        if entry == NONE {
            return None;
        }
        let room = |slot: u32| links.children(slot) < links.width(1);
        let mut tree = nearest.iter().copied().filter(|&key| in_tree(slot_of(key)));
        if let Some(parent) = tree.clone().find(|&key| room(slot_of(key))) {
            return Some(parent);
        }
        let mut below = tree.next().map_or(entry, slot_of);
        while !room(below) {
            // Which child does not matter, but always the same one would make the tree a chain.
            let children = || links.list(0, below).iter().filter(|&&child| links.parent(child) == below);
            let turn = slot as usize % children().count().max(1);
            below = match children().nth(turn) {
                Some(&child) => child,
                // Its children are all of this batch, and not in its list yet.
                None => (0..links.slots() as u32).find(|&slot| in_tree(slot) && room(slot))?,
            };
        }
        Some(key(self.vectors.pair(slot, below), below))
    }

    /// Step 3: adds links to the lists of their targets. `changed` is told of each list before it changes.
    pub fn add_links(&mut self, mut links: Vec<Link>, mut changed: impl FnMut(&Links, usize, u32)) {
        links.sort_unstable();
        links.dedup();
        let groups: Vec<&[Link]> =
            links.chunk_by(|a, b| (a.level, a.target) == (b.level, b.target)).collect();
        let core = &*self;
        let lists = threads::map_init(groups.len(), Batch::default, |batch, i| core.relink(groups[i], batch));
        for (group, list) in groups.iter().zip(&lists) {
            let (level, target) = (usize::from(group[0].level), group[0].target);
            changed(&self.links, level, target);
            self.links.set(level, target, list);
        }
    }

    /// Step 3 for one row: its list with the new links.
    fn relink(&self, new: &[Link], batch: &mut Batch) -> Vec<u32> {
        let (level, target) = (usize::from(new[0].level), new[0].target);
        let (old, width) = (self.links.list(level, target), self.links.width(level));
        let mut new: Vec<u64> =
            new.iter().map(|link| link.source).filter(|&key| !old.contains(&slot_of(key))).collect();
        // Between codes alone, a distance depends on whose side it is seen from: a pair may come with both.
        new.sort_unstable_by_key(|&key| (slot_of(key), key));
        new.dedup_by_key(|&mut key| slot_of(key));
        new.sort_unstable();
        if old.len() + new.len() <= width {
            return old.iter().copied().chain(new.iter().map(|&key| slot_of(key))).collect();
        }
        batch.slots.clear();
        batch.slots.extend_from_slice(old);
        batch.score(|slots, out| self.vectors.probe(target, &mut Room::default()).score(slots, out));
        new.extend(batch.scored().map(|(slot, distance)| key(distance, slot)));
        new.sort_unstable();
        let child = |slot| level == 0 && self.links.parent(slot) == target;
        self.select(&new, width, width, child).into_iter().map(slot_of).collect()
    }
}
