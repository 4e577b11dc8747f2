//! Who links to a slot. Lists lead one way only; a table of the links back would double the memory.
//!
//! Most neighbours are so of each other: a walk along links from a slot finds all lists that hold it among its
//! neighbours' in three cases of four, and knows it, because their number is counted. The others are held by rows that
//! may be anywhere (old ones, or far from everything), and the table is scanned for them. Both ways find all, so
//! nothing depends on which was taken.

use super::draft::Draft;
use super::links::{Links, NONE};
use super::traverse::{Core, Lists};
use super::visited::{Pool, Visited};
use crate::memory;
use crate::threads;

/// Lists that a walk reads: what it has not found by then, it would not find soon.
const REACH: usize = 128;

/// Slots that are walked from; for more, a scan is sure to be needed.
const WALKS: usize = 4;

/// Slots that one task scans.
const BAND: usize = 4096;

/// Lists ahead that a walk asks for.
const AHEAD: usize = 4;

impl Core {
    /// The lists of a draft that hold one of `gone`, which rises, as level and slot, rising; without those of `gone`
    /// itself.
    pub fn holders(&self, gone: &[u32], draft: &Draft<'_>, pool: &Pool) -> Vec<(usize, u32)> {
        let goes = |slot: &u32| gone.binary_search(slot).is_ok();
        let near = if gone.len() <= WALKS { self.near_holders(gone, pool) } else { None };
        let mut holders = near.unwrap_or_else(|| self.links.scan(gone, 0));
        let changed = draft.changed();
        holders.retain(|at| !goes(&at.1) && changed.get(at.0, at.1).is_none());
        holders.extend(
            changed.iter().filter(|(at, list)| !goes(&at.1) && list.iter().any(goes)).map(|(at, _)| at),
        );
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    fn near_holders(&self, gone: &[u32], pool: &Pool) -> Option<Vec<(usize, u32)>> {
        let links = &self.links;
        let mut holders = Vec::new();
        for &slot in gone {
            let near = pool.with(|scratch| links.walk(slot, &mut scratch.visited))?;
            holders.extend(near.into_iter().map(|slot| (0, slot)));
        }
        // Upper levels are few: not worth counting.
        if gone.iter().any(|&slot| links.level(slot) > 0) {
            holders.extend(links.scan(gone, 1));
        }
        Some(holders)
    }
}

impl Links {
    /// All slots whose lists of level 0 hold `slot`, if a walk along links meets them.
    fn walk(&self, slot: u32, visited: &mut Visited) -> Option<Vec<u32>> {
        let wanted = self.incoming(slot)?;
        visited.reset(self.slots());
        let start = [slot, self.parent(slot)].into_iter().filter(|&at| at != NONE && visited.insert(at));
        let mut met: Vec<u32> = start.collect();
        let (mut found, mut next) = (Vec::with_capacity(wanted), 0);
        while found.len() < wanted {
            let at = *met.get(next).filter(|_| next < REACH)?;
            if let Some(&later) = met.get(next + AHEAD) {
                self.prefetch(0, later);
            }
            next += 1;
            for &other in self.list(0, at) {
                if other == slot {
                    found.push(at);
                } else if visited.insert(other) {
                    met.push(other);
                }
            }
        }
        Some(found)
    }

    /// The lists from `level` up that hold one of `gone`.
    fn scan(&self, gone: &[u32], level: usize) -> Vec<(usize, u32)> {
        let mut marks = Vec::new();
        if gone.len() > 1 {
            marks = memory::vec![false; self.slots()];
            gone.iter().for_each(|&slot| marks[slot as usize] = true);
        }
        let holds = |level: usize, slot: u32| match gone {
            [one] => self.padded(level, slot).contains(one),
            _ => self.list(level, slot).iter().any(|&other| marks[other as usize]),
        };
        let bands = threads::map(self.slots().div_ceil(BAND), |band| {
            let mut found = Vec::new();
            for slot in (band * BAND) as u32..self.slots().min((band + 1) * BAND) as u32 {
                found.extend((level..=self.level(slot)).filter(|&at| holds(at, slot)).map(|at| (at, slot)));
            }
            found
        });
        memory::collect(bands.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::super::HnswIndex;
    use super::{Draft, Lists};
    use crate::monitor::Silent;
    use crate::rng::stream;
    use ndarray::Array2;

    #[test]
    fn walks_and_scans_find_the_same() {
        let mut rng = stream(0, "test", 0);
        let vectors = Array2::from_shape_fn((3_000, 6), |_| rng.normal() as f32);
        let mut index = HnswIndex::new(6, Default::default()).unwrap();
        index.add(vectors.view(), &mut Silent).unwrap();
        let HnswIndex { core, pool, .. } = &mut index;
        let draft = Draft::new(&core.links);
        let mut walked = 0;
        for slot in 0..3_000 {
            let mut found = core.links.scan(&[slot], 0);
            found.sort_unstable();
            assert!(!found.is_empty() || slot == core.links.entry());
            walked += usize::from(core.near_holders(&[slot], pool).is_some());
            assert_eq!(core.holders(&[slot], &draft, pool), found);
        }
        assert!(walked > 1_500, "{walked}");
    }
}
