//! How a writer gets at the index that it changes: as its owner, or beside readers.
//!
//! Adding, removing and updating are the same steps either way: each is planned from the index as it stands, then
//! committed. Under [`SharedIndex`](super::SharedIndex) others search during plans and wait for commits, so that a
//! commit only moves and copies what is ready, a batch of rows at a time; whole tables are made anew in a plan, and
//! the old ones dropped after the commit that puts them in their place.

use super::HnswIndex;
use super::build::draw_level;
use super::journal::Journal;
use super::links::Links;
use super::traverse::Core;
use super::vectors::{NormAdjustment, Stored, Vectors};
use crate::error::Result;
use crate::memory;
use crate::shared::Writer;
use ndarray::{ArrayView2, Axis};
use std::mem::replace;

/// Rows that are stored in one commit.
const PIECE: usize = 256;

pub(super) trait Access {
    /// Looks at the index, which only this writer changes.
    fn plan<R>(&self, task: impl FnOnce(&HnswIndex) -> R) -> R;

    /// Changes the index, alone.
    fn commit<R>(&mut self, task: impl FnOnce(&mut HnswIndex) -> R) -> R;

    /// Brings rows that lie in a file into memory, where they may be changed.
    fn own(&mut self) -> Result<()> {
        let owned = self.plan(|index| {
            let stands = &index.core.vectors;
            let copied = || {
                let mut copy = stands.clone();
                copy.own().map(|()| copy)
            };
            stands.file().is_some().then(copied).transpose()
        })?;
        if let Some(owned) = owned {
            drop(self.commit(|index| replace(&mut index.core.vectors, owned)));
        }
        Ok(())
    }

    /// Takes what rows are linked by under the inner product anew, if many join. Returns what it was before.
    fn adjust(&mut self, new: ArrayView2<'_, f32>) -> Option<NormAdjustment> {
        let adjustment = self.plan(|index| {
            let Core { rows, vectors, .. } = &index.core;
            let is_needed = new.nrows() > 0 && vectors.needs_adjustment(rows.len() + new.nrows());
            is_needed.then(|| vectors.adjustment_for(&memory::collect(rows.by_slot()), new))
        })?;
        self.commit(|index| index.core.vectors.adjust(adjustment))
    }

    /// Makes room for `rows` more rows at once.
    fn reserve(&mut self, rows: usize) {
        let (slots, numbers, links, vectors) = self.plan(|index| {
            let Core { rows: held, links, vectors } = &index.core;
            let slots = held.slots() + rows.saturating_sub(held.free());
            let (mut links, mut vectors) = (links.clone(), vectors.clone());
            links.reserve(slots);
            vectors.reserve(slots);
            (slots, held.handed_out() + rows, links, vectors)
        });
        drop(self.commit(|index| {
            index.core.rows.reserve(slots, numbers);
            (replace(&mut index.core.links, links), replace(&mut index.core.vectors, vectors))
        }));
    }

    /// Hands out numbers and slots for rows, which it stores with their levels; they are not held before they are linked.
    /// Where memory is refused it unwinds before anything has changed.
    fn take_in(&mut self, vectors: ArrayView2<'_, f32>) -> Journal {
        let (mut journal, levels, longer, remade) = self.plan(|index| {
            let slots = index.core.rows.next_slots(vectors.nrows());
            let journal = Journal::new(&index.core, slots);
            let rows = (journal.first()..).take(vectors.nrows());
            let levels = memory::collect(rows.map(|row| draw_level(&index.params, row)));
            let longer = longer(&index.core.links, journal.slots(), &levels);
            let remade = remade(&index.core.vectors, journal.slots(), vectors);
            (journal, levels, longer, remade)
        });
        self.commit(|index| index.core.rows.make_room(journal.slots()));
        let are_taken = longer.is_some();
        if let Some(longer) = longer {
            drop(self.commit(|index| replace(&mut index.core.links, longer)));
        }
        let are_stored = remade.is_some();
        if let Some((vectors, stored)) = remade {
            drop(self.commit(|index| replace(&mut index.core.vectors, vectors)));
            journal.stored(stored);
        }
        let vectors = vectors.axis_chunks_iter(Axis(0), PIECE);
        for ((slots, levels), vectors) in journal.slots().chunks(PIECE).zip(levels.chunks(PIECE)).zip(vectors)
        {
            self.commit(|index| {
                index.core.rows.hand_out(slots);
                if !are_taken {
                    index.core.links.take(slots, levels);
                }
                if !are_stored {
                    index.core.vectors.store(slots, vectors);
                }
            });
        }
        journal
    }

    /// Writes vectors at slots to which nothing links, up to a batch of them. Returns what undoes it, but for the vectors.
    fn store(&mut self, slots: &[u32], vectors: ArrayView2<'_, f32>) -> Stored {
        match self.plan(|index| remade(&index.core.vectors, slots, vectors)) {
            Some((vectors, stored)) => {
                drop(self.commit(|index| replace(&mut index.core.vectors, vectors)));
                stored
            }
            None => self.commit(|index| index.core.vectors.store(slots, vectors)),
        }
    }
}

/// A copy of the table with vectors stored in it, if they do not fit in as it is.
fn remade(stands: &Vectors, slots: &[u32], vectors: ArrayView2<'_, f32>) -> Option<(Vectors, Stored)> {
    (!stands.fits(slots, vectors)).then(|| {
        let mut copy = stands.clone();
        let stored = copy.store(slots, vectors);
        (copy, stored)
    })
}

/// A copy in which the slots are taken, if they do not fit in the memory held.
fn longer(links: &Links, slots: &[u32], levels: &[u8]) -> Option<Links> {
    let end = slots.last().map_or(0, |&last| last as usize + 1);
    let lists = levels.iter().map(|&level| usize::from(level)).sum();
    (!links.fits(end, lists)).then(|| {
        let mut copy = links.clone();
        copy.take(slots, levels);
        copy
    })
}

impl Access for HnswIndex {
    fn plan<R>(&self, task: impl FnOnce(&HnswIndex) -> R) -> R {
        task(self)
    }

    fn commit<R>(&mut self, task: impl FnOnce(&mut HnswIndex) -> R) -> R {
        task(self)
    }
}

impl Access for Writer<'_, HnswIndex> {
    fn plan<R>(&self, task: impl FnOnce(&HnswIndex) -> R) -> R {
        Writer::plan(self, task)
    }

    fn commit<R>(&mut self, task: impl FnOnce(&mut HnswIndex) -> R) -> R {
        Writer::commit(self, task)
    }
}
