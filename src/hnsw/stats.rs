//! What there is: levels, degrees, rows out of reach, bytes; and the links as a graph.

use super::HnswIndex;
use super::links::NONE;
use super::traverse::{Core, Lists};
use crate::error::{Error, Result, catch};
use crate::graph::Graph;
use crate::memory;

/// Figures of one level.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelStats {
    /// Rows that this level has.
    pub rows: usize,
    /// Links from them.
    pub links: usize,
    /// The longest list.
    pub max_degree: usize,
}

/// Figures of an index.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// Rows held.
    pub rows: usize,
    /// Slots of removed rows, which rows added later take.
    pub free: usize,
    /// Level by level, from 0.
    pub levels: Vec<LevelStats>,
    /// Rows that level-0 links do not lead to from the entry point. Always 0: see the parents of the links.
    pub unreachable: usize,
    /// Memory of vectors, links and bookkeeping.
    pub bytes: usize,
    /// Distances that walks of the graph computed since the index was made or loaded, to insert rows and to search.
    pub evaluations: u64,
}

impl HnswIndex {
    /// Number of levels; 0 when empty.
    pub fn levels(&self) -> usize {
        match self.core.links.entry() {
            NONE => 0,
            entry => self.core.links.level(entry) + 1,
        }
    }

    /// The links of one level as a graph, whose node ids are row numbers, rising. A level that the index does not have is
    /// refused with [`Error::Config`]; level 0 of an empty index is an empty graph.
    pub fn graph(&self, level: usize) -> Result<Graph> {
        catch(|| {
            if level > 0 && level >= self.levels() {
                return Err(Error::Config(format!(
                    "level must be below levels = {}, got {level}",
                    self.levels()
                )));
            }
            let Core { rows, links, .. } = &self.core;
            let slots = memory::collect(rows.by_row().filter(|&slot| links.level(slot) >= level));
            let mut node_of = memory::vec![NONE; links.slots()];
            slots.iter().enumerate().for_each(|(node, &slot)| node_of[slot as usize] = node as u32);
            let degrees = slots.iter().map(|&slot| links.list(level, slot).len());
            let mut indices = memory::with_capacity(degrees.sum());
            let mut indptr = memory::with_capacity(slots.len() + 1);
            indptr.push(0);
            for &slot in &slots {
                let start = indices.len();
                indices.extend(links.list(level, slot).iter().map(|&other| node_of[other as usize]));
                indices[start..].sort_unstable();
                indptr.push(indices.len());
            }
            let node_ids = memory::collect(slots.iter().map(|&slot| rows.row(slot)));
            Graph::from_csr(indptr, indices, slots.len(), None)?.with_node_ids(node_ids)
        })
    }

    /// Counts rows, links, rows out of reach and bytes.
    pub fn stats(&self) -> Stats {
        let Core { rows, links, vectors } = &self.core;
        let level = |level: usize| {
            let on_level = rows.by_slot().filter(|&slot| links.level(slot) >= level);
            let mut stats = LevelStats { rows: 0, links: 0, max_degree: 0 };
            for degree in on_level.map(|slot| links.list(level, slot).len()) {
                stats.rows += 1;
                stats.links += degree;
                stats.max_degree = stats.max_degree.max(degree);
            }
            stats
        };
        Stats {
            rows: rows.len(),
            free: rows.free(),
            levels: (0..self.levels()).map(level).collect(),
            unreachable: rows.len() - self.reachable(),
            bytes: rows.bytes() + vectors.bytes() + links.bytes(),
            evaluations: self.pool.scored_in_all(),
        }
    }

    fn reachable(&self) -> usize {
        let links = &self.core.links;
        if links.entry() == NONE {
            return 0;
        }
        let mut met = memory::vec![false; links.slots()];
        met[links.entry() as usize] = true;
        let mut ahead = vec![links.entry()];
        let mut count = 0;
        while let Some(slot) = ahead.pop() {
            count += 1;
            for &other in links.list(0, slot) {
                if !std::mem::replace(&mut met[other as usize], true) {
                    memory::push(&mut ahead, other);
                }
            }
        }
        count
    }
}
