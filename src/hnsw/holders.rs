//! Who links to a slot. Lists lead one way only; a table of the links back would double the memory.
//!
//! Most of the lists that hold a slot are near it: a walk along links from the slot meets them within a few hops, and
//! ends when it has met as many as there are, where that is counted. What a walk does not find, a scan of the table does.
//! Both find all, so that nothing depends on which of them was used.

use super::links::{Links, NONE};
use super::traverse::Core;
use super::visited::{Pool, Visited};
use crate::threads;

/// Lists that a walk reads before a scan takes its place; and a scan of so many lists per slot is as fast as walks.
const REACH: usize = 1024;

/// Slots that one task scans.
const BAND: usize = 4096;

/// Lists ahead that a walk asks for.
const AHEAD: usize = 4;

impl Core {
    /// The lists that hold one of `gone`, which rises, as level and slot, rising; without those of `gone` itself.
    pub fn holders(&self, gone: &[u32], pool: &Pool) -> Vec<(usize, u32)> {
        let mut holders = self.near_holders(gone, pool).unwrap_or_else(|| self.links.scan(gone, 0));
        holders.retain(|(_, slot)| gone.binary_search(slot).is_err());
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    fn near_holders(&self, gone: &[u32], pool: &Pool) -> Option<Vec<(usize, u32)>> {
        if gone.len() * REACH >= self.links.slots() {
            return None;
        }
        let links = &self.links;
        let walks =
            threads::map(gone.len(), |i| pool.with(|scratch| links.walk(gone[i], &mut scratch.visited)));
        let near = walks.into_iter().collect::<Option<Vec<_>>>()?;
        // Upper levels are few: not worth counting.
        let has_upper = gone.iter().any(|&slot| links.level(slot) > 0);
        let upper = if has_upper { links.scan(gone, 1) } else { Vec::new() };
        Some(near.into_iter().flatten().map(|slot| (0, slot)).chain(upper).collect())
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
        let mut marks = vec![false; self.slots()];
        gone.iter().for_each(|&slot| marks[slot as usize] = true);
        let bands = threads::map(self.slots().div_ceil(BAND), |band| {
            let slots = band * BAND..self.slots().min((band + 1) * BAND);
            let lists = slots
                .flat_map(|slot| (level..=self.level(slot as u32)).map(move |level| (level, slot as u32)));
            let holds = |&(level, slot): &(usize, u32)| {
                self.list(level, slot).iter().any(|&other| marks[other as usize])
            };
            lists.filter(holds).collect::<Vec<_>>()
        });
        bands.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::HnswIndex;
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
        assert!(core.near_holders(&[0], pool).is_none(), "nothing is counted yet");
        core.links.count_incoming();
        let mut walked = 0;
        for slot in 0..3_000 {
            let mut found = core.links.scan(&[slot], 0);
            found.sort_unstable();
            assert!(!found.is_empty() || slot == core.links.entry());
            walked += usize::from(core.near_holders(&[slot], pool).is_some());
            assert_eq!(core.holders(&[slot], pool), found);
        }
        assert!(walked > 2_900, "{walked}");
    }
}
