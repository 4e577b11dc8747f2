//! Taking rows out of the graph so that it stays as good as if they had never been there.
//!
//! Whoever linked to a row that goes could reach, through it, the rows that it linked to. So its place in each such list
//! goes to one of these (as in FreshDiskANN, Singh et al. 2021, with the rule of HNSW), and the new links are given
//! back. Links that remain are left alone: chosen anew again and again, lists would lose their long links. In this
//! order, for slots that go together:
//!
//! 1. if the entry point goes, another row of the highest level takes its place;
//! 2. rows whose parent goes take another, near them and not below them in the tree (in order);
//! 3. every list that holds one that goes is mended (in parallel over lists, against the standing graph);
//! 4. rows whose lists ran short, as at the edge of a cluster that went, or that few others hold, look for neighbours
//!    as new rows do.
//!
//! As in building, no step depends on which thread did what, and all of them only draft what is written in the end.

use super::HnswIndex;
use super::build::Link;
use super::draft::{Changes, Draft};
use super::links::NONE;
use super::params::Params;
use super::queue::{distance_of, key, slot_of};
use super::select::{Ruler, shadows};
use super::traverse::{Core, Lists};
use super::vectors::Room;
use super::visited::{Batch, Scratch};
use crate::threads;

/// In quarters of `m`, the links from and to a row below which it is linked anew. With fewer, more rows no longer find
/// themselves in an index whose rows were replaced again and again; with more, removals take longer, which they do with three
/// already where vectors have no structure (`benches/churn.py`).
const FEW: usize = 3;

impl HnswIndex {
    /// Takes slots out of the graph: afterwards nothing links to them, and they link to nothing.
    pub(super) fn plan_unlink(&self, slots: &[u32]) -> Changes {
        let mut gone = slots.to_vec();
        gone.sort_unstable();
        let Self { core, params, pool } = self;
        let mut draft = Draft::new(&core.links);
        core.move_entry(&gone, &mut draft);
        let holders = core.holders(&gone, &draft, pool);
        let mut links = core.rehome(&gone, &mut draft);
        let standing = &draft;
        let mended = threads::map_init(holders.len(), Batch::default, |batch, i| {
            core.mend(holders[i], &gone, standing, batch)
        });
        for (&(level, slot), new) in holders.iter().zip(&mended) {
            let list = draft.list(level, slot).iter().copied();
            let kept = list.filter(|other| gone.binary_search(other).is_err());
            let list: Vec<u32> = kept.chain(new.iter().map(|&new| slot_of(new))).collect();
            draft.set(level, slot, list);
            links.extend(new.iter().map(|&new| Link::back(&core.vectors, level, slot, new)));
        }
        let held: Vec<u32> = gone.iter().flat_map(|&slot| draft.list(0, slot)).copied().collect();
        draft.isolate(&gone);
        let poor = core.poor(&holders, &held, FEW * params.m / 4, &draft);
        let standing = &draft;
        let fed =
            threads::map(poor.len(), |i| pool.with(|scratch| core.feed(poor[i], params, standing, scratch)));
        links.extend(fed.into_iter().flatten());
        core.add_links(links, &mut draft, pool, None);
        draft.into_changes()
    }
}

impl Core {
    /// Sees to it that the entry point is none of `gone`, if there are other rows.
    fn move_entry(&self, gone: &[u32], draft: &mut Draft<'_>) {
        let goes = |slot: u32| gone.binary_search(&slot).is_ok();
        if draft.entry() == NONE || !goes(draft.entry()) {
            return;
        }
        let left = self.rows.by_slot().filter(|&slot| !goes(slot));
        let highest = left.reduce(|a, b| if draft.level(b) > draft.level(a) { b } else { a });
        if let Some(slot) = highest {
            draft.set_entry(slot);
        }
    }

    /// Gives new parents to the rows whose parents are `gone`, and returns the links by which they hold them.
    fn rehome(&self, gone: &[u32], draft: &mut Draft<'_>) -> Vec<Link> {
        let goes = |slot: u32| gone.binary_search(&slot).is_ok();
        let children =
            gone.iter().flat_map(|&slot| draft.list(0, slot).iter().map(move |&other| (other, slot)));
        let orphans = children.filter(|&(other, slot)| draft.parent(other) == slot && !goes(other));
        let orphans: Vec<(u32, u32)> = orphans.collect();
        for &slot in gone.iter().chain(orphans.iter().map(|(orphan, _)| orphan)) {
            draft.set_parent(slot, NONE);
        }
        let (mut adoptions, mut batch) = (Vec::with_capacity(orphans.len()), Batch::default());
        for (orphan, lost) in orphans {
            batch.slots.clear();
            let near = draft.list(0, orphan).iter().chain(draft.list(0, lost));
            batch.slots.extend(near.copied().filter(|&other| other != orphan && !goes(other)));
            let mut near = self.keys(orphan, &mut batch);
            near.dedup();
            // Rows that were orphaned are out of the tree until they are adopted, and so is all that is below them.
            let parent = self.choose_parent(orphan, &near, draft, |slot| draft.in_tree(slot));
            let parent = parent.expect("a tree has more places for children than rows");
            draft.set_parent(orphan, slot_of(parent));
            adoptions.push(Link::back(&self.vectors, 0, orphan, parent));
        }
        adoptions
    }

    /// What takes the places of `gone` in a list that holds some of them: neighbours of these, in order of distance,
    /// chosen as ever by what remains in the list and by each other, then what that left out.
    fn mend(
        &self,
        (level, slot): (usize, u32),
        gone: &[u32],
        draft: &Draft<'_>,
        batch: &mut Batch,
    ) -> Vec<u64> {
        let goes = |slot: u32| gone.binary_search(&slot).is_ok();
        let list = draft.list(level, slot);
        batch.slots.clear();
        for &passed in list.iter().filter(|&&other| goes(other)) {
            let beyond = draft.list(level, passed).iter().copied();
            batch
                .slots
                .extend(beyond.filter(|&other| other != slot && !goes(other) && !list.contains(&other)));
        }
        let mut candidates = self.keys(slot, batch);
        candidates.dedup();
        let mut chosen: Vec<u32> = list.iter().copied().filter(|&other| !goes(other)).collect();
        let (mut new, mut left) = (Vec::new(), Vec::new());
        let places = list.len() - chosen.len();
        for key in candidates {
            let near = |&other: &u32| {
                shadows(self.vectors.pair(slot_of(key), other), distance_of(key), || {
                    self.vectors.pair(slot, other)
                })
            };
            if new.len() == places {
                break;
            } else if chosen.iter().any(near) {
                left.push(key);
            } else {
                chosen.push(slot_of(key));
                new.push(key);
            }
        }
        let room = places - new.len();
        new.extend(left.into_iter().take(room));
        new
    }

    /// The lists of `holders` that are shorter than `few`, and the rows of `held` that fewer lists of level 0 hold.
    fn poor(
        &self,
        holders: &[(usize, u32)],
        held: &[u32],
        few: usize,
        draft: &Draft<'_>,
    ) -> Vec<(usize, u32)> {
        let short = |&(level, slot): &(usize, u32)| draft.list(level, slot).len() < few;
        let more = draft.incoming();
        let lonely = |slot: u32| {
            let change = more.get(&slot).copied().unwrap_or(0);
            self.links.incoming(slot).is_some_and(|count| count.saturating_add_signed(change) < few)
        };
        let mut poor: Vec<(usize, u32)> = holders.iter().copied().filter(short).collect();
        // Those that went are lonely too, but have no place in the graph any more.
        let in_graph = |slot: u32| slot == draft.entry() || draft.parent(slot) != NONE;
        poor.extend(held.iter().filter(|&&slot| in_graph(slot) && lonely(slot)).map(|&slot| (0, slot)));
        poor.sort_unstable();
        poor.dedup();
        poor
    }

    /// The keys of a batch as seen from `slot`, nearest first.
    fn keys(&self, slot: u32, batch: &mut Batch) -> Vec<u64> {
        batch.score(|slots, out| self.vectors.probe(slot, &mut Room::default()).score(slots, out));
        let mut keys: Vec<u64> = batch.scored().map(|(slot, distance)| key(distance, slot)).collect();
        keys.sort_unstable();
        keys
    }

    /// Links between a row and neighbours chosen, as for a new row, from the nearest there are; in both directions.
    fn feed(
        &self,
        (level, slot): (usize, u32),
        params: &Params,
        draft: &Draft<'_>,
        scratch: &mut Scratch,
    ) -> Vec<Link> {
        let mut near = self.nearest(level, slot, params.ef_construction, draft, scratch);
        near.retain(|&key| slot_of(key) != slot);
        let selection = &mut scratch.selection;
        selection.choose(Ruler::Rows(&self.vectors), &near, params.m);
        let both =
            |&found: &u64| [Link::new(level, slot, found), Link::back(&self.vectors, level, slot, found)];
        selection.keys.iter().flat_map(both).collect()
    }
}
