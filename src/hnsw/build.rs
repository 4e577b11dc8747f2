//! Adding rows: in parallel, and to the same bit on any number of threads.
//!
//! The rows of a call are inserted in a seeded permutation, so that sorted input builds as good a graph as shuffled
//! input, in batches that stay a small share of the index (after ParlayANN, Dobson et al. 2024). For each batch:
//!
//! 1. every row searches the graph, which stands still meanwhile, and is compared with every other row of the batch; from
//!    these candidates it [chooses](super::select) its neighbours, level by level (in parallel over rows);
//! 2. each row takes a parent and drafts its own lists (in order);
//! 3. the links back are sorted by the row that they start from, and each such row appends them to its list or,
//!    where that overflows, chooses anew (in parallel over rows);
//! 4. all that was drafted is written, and the rows count as held.
//!
//! After the last batch, rows that few others hold are [sought](super::seek). Where many rows are added, they are compared by
//! a [sketch](super::vectors::Sketch) of all vectors, and what became of the rows of full lists is [noted](super::notes).
//!
//! No step depends on which thread did what. Only what is written changes what a search sees, so that others may search
//! beside the first three ([`Access`]). Calls of more than [`SEGMENT`] rows are cut into segments that are inserted one
//! after the other; an interrupted call keeps the segments that were finished and takes back, through the
//! [`Journal`](super::journal::Journal), the one that was not.

use super::HnswIndex;
use super::Params;
use super::access::Access;
use super::draft::{Changes, Draft};
use super::links::NONE;
use super::notes::Notes;
use super::queue::{MAX_SLOTS, distance_of, key, slot_of};
use super::rows::MAX_ROWS;
use super::seek::seek;
use super::select::{Before, Fate, Ruler};
use super::traverse::{Core, Lists};
use super::vectors::{Room, Sketch, Vectors};
use super::visited::{Pool, Scratch};
use crate::error::{Error, Result, catch};
use crate::memory;
use crate::monitor::Monitor;
use crate::rng::stream;
use crate::threads;
use ndarray::{ArrayView2, Axis};
use std::mem::take;
use std::ops::Range;

/// Rows that are inserted as one permutation, and that an interruption takes back at most.
pub(super) const SEGMENT: usize = 1 << 17;

/// A batch is at most this share of the index, ...
const SHARE: usize = 12;

/// ... and at most this many rows: all pairs within a batch are compared, and its rows should stay in the cache.
const BATCH: usize = 256;

/// No level above this one; 2^32 rows at `m = 2` are not expected to reach it.
pub(super) const TOP_LEVEL: usize = 40;

/// Nearest candidates among which a row looks for a parent.
const PARENTS: usize = 32;

/// Rows at most by which a walk on a sketch is tested.
const TESTED: usize = 16;

/// What a row found out in step 1.
struct Choice {
    slot: u32,
    /// The chosen neighbours, as keys, per level.
    neighbours: Vec<Vec<u64>>,
    /// The nearest rows of level 0, as keys.
    nearest: Vec<u64>,
    /// Whether the sketch told rows of level 0 apart, if there is one.
    is_sharp: bool,
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
    pub fn back(vectors: &Vectors, level: usize, slot: u32, neighbour: u64) -> Self {
        let target = slot_of(neighbour);
        Self::new(level, target, key(vectors.turned(distance_of(neighbour), slot, target), slot))
    }
}

/// How many rows go into one batch, or out of the graph together, where `linked` rows are.
pub(super) fn batch_len(linked: usize) -> usize {
    (linked / SHARE).clamp(1, BATCH)
}

impl HnswIndex {
    /// Adds rows and returns their numbers. A call that adds many beside those held takes, until it ends, a byte for each
    /// value of all rows and `4 m + 8` bytes a row.
    ///
    /// Vectors of a wrong dimension, with values that are not finite, or zero under cosine are refused with
    /// [`Error::Shape`], and nothing is added. `monitor` is told how many rows of the call have been inserted; when
    /// it stops the work, the error says how many rows the index holds.
    pub fn add(&mut self, vectors: ArrayView2<'_, f32>, monitor: &mut dyn Monitor) -> Result<Range<u64>> {
        add(self, vectors, monitor)
    }

    /// The number that the first of `rows` new rows will have.
    fn require_room(&self, rows: usize) -> Result<usize> {
        let start = self.num_rows();
        for (most, what, wanted) in
            [(MAX_SLOTS, "holds", self.len() + rows), (MAX_ROWS, "hands out", start + rows)]
        {
            if wanted > most {
                return Err(Error::Config(format!("an index {what} at most {most} rows, got {wanted}")));
            }
        }
        Ok(start)
    }

    /// Links for the rows of a batch, which are stored and have levels.
    pub(super) fn plan_insert(
        &self,
        batch: &[u32],
        mut notes: Option<&mut Notes>,
        spent: Changes,
    ) -> Changes {
        let sketch = notes.as_deref().and_then(|notes| notes.sketch.as_ref());
        let Self { core, params, pool } = self;
        let choices = threads::map(batch.len(), |i| {
            pool.with(|scratch| {
                core.choose(batch[i], batch, (params.m, params.ef_construction), sketch, scratch)
            })
        });
        if let Some(sketch) = notes.as_mut().and_then(|notes| notes.sketch.as_mut()) {
            choices.iter().for_each(|choice| sketch.walked(choice.slot, choice.is_sharp));
        }
        let mut draft = Draft::new_in(&core.links, spent);
        let links = core.link_forward(&choices, &mut draft);
        core.add_links(links, &mut draft, pool, notes);
        let higher = |a: u32, b: u32| if draft.level(b) > draft.level(a) { b } else { a };
        let highest = batch.iter().copied().reduce(higher).expect("a batch has rows");
        if draft.entry() == NONE || draft.level(highest) > draft.level(draft.entry()) {
            draft.set_entry(highest);
        }
        draft.into_changes()
    }
}

/// See [`HnswIndex::add`].
pub(super) fn add(
    index: &mut impl Access,
    vectors: ArrayView2<'_, f32>,
    monitor: &mut dyn Monitor,
) -> Result<Range<u64>> {
    catch(|| {
        let rows = vectors.nrows();
        let start = index.plan(|index| {
            index.core.vectors.check_new("vectors", vectors)?;
            index.require_room(rows)
        })?;
        index.own()?;
        let held = index.plan(HnswIndex::len);
        let replaced = index.adjust(vectors);
        let ended = catch(|| {
            if rows > SEGMENT {
                index.reserve(rows);
            }
            let mut notes = index.plan(|index| Notes::for_rows(index, vectors));
            for (i, segment) in vectors.axis_chunks_iter(Axis(0), SEGMENT).enumerate() {
                let mut done = |inserted| monitor.step(i * SEGMENT + inserted, rows, &[]);
                if let Err(stop) = catch(|| insert_segment(index, segment, &mut notes, &mut done)) {
                    let (held, kept) = (index.plan(HnswIndex::len), i * SEGMENT);
                    let report =
                        format!("the index holds {held} rows, the first {kept} of these {rows} among them");
                    return Err(match stop {
                        Error::Interrupted(_) => Error::Interrupted(format!("add was interrupted: {report}")),
                        Error::Memory(what) => Error::Memory(format!("add: {what}; {report}")),
                        other => other,
                    });
                }
            }
            Ok(())
        });
        if ended.is_err() && index.plan(HnswIndex::len) == held {
            // Nothing was added.
            if let Some(before) = replaced {
                drop(index.commit(|index| index.core.vectors.adjust(before)));
            }
        }
        ended?;
        Ok(start as u64..(start + rows) as u64)
    })
}

/// Inserts rows, all or none.
pub(super) fn insert_segment(
    index: &mut impl Access,
    vectors: ArrayView2<'_, f32>,
    notes: &mut Option<Notes>,
    done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let (linked, seed) = index.plan(|index| (index.len(), index.params.seed));
    let mut journal = index.take_in(vectors);
    let ended = catch(|| {
        if let Some(sketch) = notes.as_mut().and_then(|notes| notes.sketch.as_mut()) {
            index.plan(|index| index.core.vectors.sketch_rows(sketch, journal.slots()));
        }
        let mut order = memory::copy_of(journal.slots());
        stream(seed, "insertion order", journal.first()).shuffle(&mut order);
        let mut inserted = 0;
        let mut changes = index.plan(|index| Changes::none(&index.core.links));
        while inserted < order.len() {
            let len = batch_len(linked + inserted).min(order.len() - inserted);
            let batch = &order[inserted..inserted + len];
            changes = index.plan(|index| {
                let changes = index.plan_insert(batch, notes.as_mut(), changes);
                journal.record(&index.core.links, &changes);
                changes
            });
            index.commit(|index| {
                index.core.links.write(&changes);
                batch.iter().for_each(|&slot| index.core.rows.place(slot, journal.row(slot)));
            });
            inserted += len;
            if let Some(notes) = notes {
                notes.give_up_blurred();
            }
            done(inserted)?;
        }
        seek(index, order);
        Ok(())
    });
    ended.inspect_err(|_| index.commit(|index| journal.take_back(&mut index.core)))
}

/// `floor(-ln(U) / ln(m))` with `U` uniform in `(0, 1]`.
pub(super) fn draw_level(params: &Params, row: u64) -> u8 {
    let uniform = 1.0 - stream(params.seed, "levels", row).uniform();
    let level = -uniform.ln() / (params.m as f64).ln();
    level.min(TOP_LEVEL as f64) as u8
}

impl Core {
    /// Step 1 for one row.
    fn choose(
        &self,
        slot: u32,
        batch: &[u32],
        (m, ef): (usize, usize),
        sketch: Option<&Sketch>,
        scratch: &mut Scratch,
    ) -> Choice {
        let (own, entry) = (self.links.level(slot), self.links.entry());
        let rows = Ruler::Rows(&self.vectors);
        let first = sketch.map_or(rows, Ruler::Sketch);
        let mut choice =
            Choice { slot, neighbours: vec![Vec::new(); own + 1], nearest: Vec::new(), is_sharp: true };
        let top = if entry == NONE { 0 } else { self.links.level(entry) };
        let mut room = take(&mut scratch.room);
        let mut start = (entry != NONE)
            .then(|| self.links.descend(first.probe(slot, &mut room), own.min(top), &mut scratch.batch));
        for level in (0..=own).rev() {
            let mut ruler = first;
            let mut probe = ruler.probe(slot, &mut room);
            scratch.queue.reset(ef);
            if let Some(from) = start.filter(|_| level <= top) {
                self.links.search_level(probe, level, from, ef, scratch);
                if let Some(sketch) = sketch
                    && !self.is_sharp(sketch, slot, scratch)
                {
                    choice.is_sharp &= level > 0;
                    ruler = rows;
                    probe = ruler.probe(slot, &mut room);
                    self.links.search_level(probe, level, from, ef, scratch);
                }
                start = scratch.queue.keys().first().map(|&key| slot_of(key));
            }
            let Scratch { queue, batch: peers, selection, .. } = &mut *scratch;
            peers.slots.clear();
            let others =
                batch.iter().copied().filter(|&other| other != slot && self.links.level(other) >= level);
            peers.slots.extend(others);
            peers.score(|slots, out| probe.score(slots, out));
            queue.insert_all(peers.keys());
            selection.choose(ruler, queue.keys(), m);
            choice.neighbours[level] = selection.keys.clone();
            choice.nearest.clear();
            choice.nearest.extend(queue.keys().iter().take(PARENTS));
        }
        scratch.room = room;
        choice
    }

    /// Whether a walk on a sketch came to rows by distances near to those of the rows as given; some are compared.
    fn is_sharp(&self, sketch: &Sketch, slot: u32, scratch: &mut Scratch) -> bool {
        let Scratch { queue, batch, .. } = scratch;
        let keys = queue.keys();
        let tested = || keys.iter().step_by(keys.len().div_ceil(TESTED).max(1));
        batch.slots.clear();
        batch.slots.extend(tested().map(|&key| slot_of(key)));
        batch.score(|slots, out| self.vectors.probe(slot, &mut Room::default()).score(slots, out));
        sketch.is_sharp(tested().map(|&key| distance_of(key)), &batch.distances)
    }

    /// Step 2: parents and own lists. Returns the links back.
    fn link_forward(&self, choices: &[Choice], draft: &mut Draft<'_>) -> Vec<Link> {
        let mut links = Vec::new();
        for choice in choices {
            for (level, neighbours) in choice.neighbours.iter().enumerate() {
                draft.set(level, choice.slot, neighbours.iter().map(|&key| slot_of(key)));
                links.extend(
                    neighbours
                        .iter()
                        .map(|&neighbour| Link::back(&self.vectors, level, choice.slot, neighbour)),
                );
            }
            // A row without parent is the entry point, or of this batch and not linked yet.
            let in_tree = |slot: u32| slot == draft.entry() || draft.parent(slot) != NONE;
            if let Some(parent) = self.choose_parent(choice.slot, &choice.nearest, draft, in_tree) {
                draft.set_parent(choice.slot, slot_of(parent));
                if !choice.neighbours[0].iter().any(|&key| slot_of(key) == slot_of(parent)) {
                    links.push(Link::back(&self.vectors, 0, choice.slot, parent));
                }
            }
        }
        links
    }

    /// The nearest row of the tree that has room for a child: among the nearest candidates, else somewhere below
    /// the nearest of them, else anywhere. A tree has fewer links than rows, so there is always one.
    pub fn choose_parent(
        &self,
        slot: u32,
        nearest: &[u64],
        draft: &Draft<'_>,
        in_tree: impl Fn(u32) -> bool,
    ) -> Option<u64> {
        let entry = draft.entry();
        if entry == NONE {
            return None;
        }
        let room = |slot: u32| draft.children(slot) < draft.width(1);
        let mut tree = nearest.iter().copied().filter(|&key| in_tree(slot_of(key)));
        if let Some(parent) = tree.clone().find(|&key| room(slot_of(key))) {
            return Some(parent);
        }
        let mut below = tree.next().map_or(entry, slot_of);
        while !room(below) {
            // Which child does not matter, but always the same one would make the tree a chain.
            let children = || draft.list(0, below).iter().filter(|&&child| draft.parent(child) == below);
            let turn = slot as usize % children().count().max(1);
            below = match children().nth(turn) {
                Some(&child) => child,
                // Its children are all of this batch, and not in its list yet.
                None => (0..draft.slots() as u32).find(|&slot| in_tree(slot) && room(slot))?,
            };
        }
        Some(key(self.vectors.pair(slot, below), below))
    }

    /// Step 3: adds links to the lists of their targets.
    pub fn add_links(
        &self,
        mut links: Vec<Link>,
        draft: &mut Draft<'_>,
        pool: &Pool,
        mut notes: Option<&mut Notes>,
    ) {
        links.sort_unstable();
        links.dedup();
        let groups: Vec<&[Link]> =
            links.chunk_by(|a, b| (a.level, a.target) == (b.level, b.target)).collect();
        let width = draft.width(0);
        let (mut lists, mut fates) = notes.as_mut().map(|notes| take(&mut notes.room)).unwrap_or_default();
        lists.clear();
        memory::resize(&mut lists, groups.len() * width, NONE);
        fates.clear();
        memory::resize(&mut fates, groups.len() * width, Fate::default());
        let (standing, known) = (&*draft, notes.as_deref());
        threads::for_each_chunk_of_both((&mut lists, width), (&mut fates, width), |i, list, fates| {
            pool.with(|scratch| self.relink(groups[i], standing, known, scratch, (list, fates)));
        });
        for (group, (list, fates)) in
            groups.iter().zip(lists.chunks_exact(width).zip(fates.chunks_exact(width)))
        {
            let list = &list[..list.iter().position(|&slot| slot == NONE).unwrap_or(width)];
            draft.set(group[0].level.into(), group[0].target, list.iter().copied());
            if let Some(notes) = notes.as_mut().filter(|_| group[0].level == 0) {
                notes.choices.note(group[0].target, list, fates);
            }
        }
        if let Some(notes) = notes {
            notes.room = (lists, fates);
        }
    }

    /// Step 3 for one row: its list with the new links, and what became of them if it was chosen anew.
    fn relink(
        &self,
        new: &[Link],
        draft: &Draft<'_>,
        notes: Option<&Notes>,
        scratch: &mut Scratch,
        (list, fates): (&mut [u32], &mut [Fate]),
    ) {
        let Scratch { batch, selection, room, .. } = scratch;
        let (level, target) = (usize::from(new[0].level), new[0].target);
        let (old, width) = (draft.list(level, target), draft.width(level));
        let candidates = &mut selection.candidates;
        candidates.clear();
        let is_new = |link: &&Link| !old.contains(&slot_of(link.source));
        candidates.extend(new.iter().filter(is_new).map(|link| (link.source, Before::Unseen)));
        // Between codes alone, a distance depends on whose side it is seen from: a pair may come with both.
        candidates.sort_unstable_by_key(|&(key, _)| (slot_of(key), key));
        candidates.dedup_by_key(|&mut (key, _)| slot_of(key));
        candidates.sort_unstable_by_key(|&(key, _)| key);
        if old.len() + candidates.len() <= width {
            let all = old.iter().copied().chain(candidates.iter().map(|&(key, _)| slot_of(key)));
            list.iter_mut().zip(all).for_each(|(to, slot)| *to = slot);
            return;
        }
        let is_sharp = |sketch: &&Sketch| {
            !sketch.is_blurred_at(target)
                && candidates.iter().all(|&(key, _)| !sketch.is_blurred_at(slot_of(key)))
        };
        let sketch = notes.and_then(|notes| notes.sketch.as_ref());
        let ruler = sketch.filter(is_sharp).map_or(Ruler::Rows(&self.vectors), Ruler::Sketch);
        batch.slots.clear();
        batch.slots.extend_from_slice(old);
        batch.score(|slots, out| ruler.probe(target, room).score(slots, out));
        match notes.filter(|_| level == 0) {
            Some(notes) => candidates.extend(batch.keys().zip(notes.choices.of(target, old))),
            None => candidates.extend(batch.keys().map(|key| (key, Before::Unseen))),
        }
        candidates.sort_unstable_by_key(|&(key, _)| key);
        let may_not_go = level == 0 && draft.children(target) > 0;
        selection.choose_again(ruler, width, |slot| may_not_go && draft.parent(slot) == target);
        list.iter_mut().zip(&selection.keys).for_each(|(to, &key)| *to = slot_of(key));
        fates.iter_mut().zip(&selection.fates).for_each(|(to, &fate)| *to = fate);
    }
}
