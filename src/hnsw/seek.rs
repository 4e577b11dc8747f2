//! Rows that walks no longer meet.
//!
//! New rows push others out of lists. A row that few others hold any more may be passed by every walk, although it can be
//! reached. So these are sought after each `add` and each batch of an `update`: one that a search would miss moves, in the
//! tree of parents, below the nearest row with which that search ends. No list drops a child.

use super::HnswIndex;
use super::access::Access;
use super::build::Link;
use super::draft::{Changes, Draft};
use super::links::NONE;
use super::queue::{distance_of, key, slot_of};
use super::traverse::{Core, Lists};
use super::visited::Scratch;
use crate::threads;

/// Seeks new rows, given as slots, and those that were dropped from lists for them.
pub(super) fn seek(index: &mut impl Access, mut slots: Vec<u32>) {
    slots.extend(index.commit(|index| index.core.links.take_dropped()));
    let changes = index.plan(|index| index.plan_seek(slots));
    index.commit(|index| {
        index.core.links.write(&changes);
        index.core.links.take_dropped();
    });
}

impl HnswIndex {
    /// Links for those of `slots` that fewer than `m` rows hold and that a search with the index's own `ef` does not find.
    fn plan_seek(&self, mut slots: Vec<u32>) -> Changes {
        let Self { core, params, pool } = self;
        let links = &core.links;
        let few = |slot: u32| links.incoming(slot).is_some_and(|count| count < params.m);
        slots.retain(|&slot| links.parent(slot) != NONE && few(slot));
        slots.sort_unstable();
        slots.dedup();
        let ef = params.ef_search.min(params.ef_construction);
        let ends = threads::map(slots.len(), |i| pool.with(|scratch| core.missed(slots[i], ef, scratch)));
        let mut draft = Draft::new(links);
        let mut back = Vec::new();
        for (slot, end) in slots.into_iter().zip(ends).filter_map(|(slot, end)| Some((slot, end?))) {
            // Out of the tree, so that no row below it becomes its parent.
            draft.set_parent(slot, NONE);
            let parent = core.choose_parent(slot, &end, &draft, |other| draft.in_tree(other));
            let parent = parent.expect("a tree has more places for children than rows");
            draft.set_parent(slot, slot_of(parent));
            back.push(Link::back(&core.vectors, 0, slot, parent));
        }
        core.add_links(back, &mut draft, pool, None);
        draft.into_changes()
    }
}

impl Core {
    /// Where a search for the vector of `slot` ends, if it misses the row although it is near enough to be found. A row
    /// that the search meets stays among its candidates, being the nearest, so that it ends there.
    fn missed(&self, slot: u32, ef: usize, scratch: &mut Scratch) -> Option<Vec<u64>> {
        let mut room = std::mem::take(&mut scratch.room);
        let probe = self.vectors.probe(slot, &mut room);
        let start = self.links.descend(probe, 0, &mut scratch.batch);
        self.links.search_until(
            |visited| visited.contains(slot),
            probe,
            0,
            &[self.links.entry(), start],
            ef,
            scratch,
        );
        scratch.room = room;
        let (end, own) = (scratch.queue.keys(), key(self.vectors.pair(slot, slot), slot));
        let is_near = end.last().is_some_and(|&last| distance_of(own) < distance_of(last));
        (is_near && !scratch.visited.contains(slot)).then(|| end.to_vec())
    }
}
