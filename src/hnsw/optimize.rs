//! The order of rows in memory.
//!
//! A walk reads rows that link to each other. Where these lie side by side, they share pages, and in a mapped file the
//! blocks that are read ahead. Slots are therefore numbered as a breadth-first walk meets them (after Cuthill & McKee
//! 1969; Coleman et al. 2022, "Graph reordering for cache-efficient near neighbor search"): rows met one after the other
//! hang on the same few rows. Row numbers stay.

use super::HnswIndex;
use super::links::NONE;
use super::traverse::{Core, Lists};
use super::vectors::Moves;
use crate::error::{Result, catch};
use crate::memory;

impl HnswIndex {
    /// Moves rows together in memory that walks meet together, so that searches are faster where rows are short. They find
    /// what they found before; only rows at equal distances may change places. Rows keep their numbers, and those added
    /// later follow at the end.
    ///
    /// What removed rows left is given back. Links are held twice meanwhile. A mapped index is brought into memory, as by
    /// any change; save it again to map the new order.
    ///
    /// ```
    /// use ndarray::array;
    /// use ruvector_gnn::hnsw::{HnswIndex, Params};
    /// use ruvector_gnn::monitor::Silent;
    ///
    /// let mut index = HnswIndex::new(2, Params::default())?;
    /// index.add(array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]].view(), &mut Silent)?;
    /// index.optimize()?;
    /// assert_eq!(index.vector(1)?.to_vec(), [0.0, 1.0]);
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn optimize(&mut self) -> Result<()> {
        catch(|| {
            self.core.vectors.own()?;
            let order = self.core.breadth_first();
            self.arrange(&order);
            Ok(())
        })
    }

    /// Moves what stands at the slots `kept`, all that are not free, to the slots from 0 on, in this order.
    pub(super) fn arrange(&mut self, kept: &[u32]) {
        // All that may be refused comes first.
        let (links, mut moves) = (self.core.links.arranged(kept), Moves::new(kept, self.core.rows.slots()));
        self.core.rows.arrange(kept);
        self.core.vectors.arrange(&mut moves);
        self.core.links = links;
    }
}

impl Core {
    /// The slots of all rows, as a breadth-first walk along the links of level 0 meets them: all can be reached from the
    /// entry point.
    fn breadth_first(&self) -> Vec<u32> {
        let (links, entry) = (&self.links, self.links.entry());
        let mut met = memory::vec![false; links.slots()];
        let mut order = memory::with_capacity(self.rows.len());
        if entry != NONE {
            met[entry as usize] = true;
            order.push(entry);
        }
        let mut next = 0;
        while let Some(&slot) = order.get(next) {
            next += 1;
            for &other in links.list(0, slot) {
                if !std::mem::replace(&mut met[other as usize], true) {
                    order.push(other);
                }
            }
        }
        order
    }
}
