//! Which rows a search may return.

use super::HnswIndex;
use crate::error::{Error, Result};
use crate::memory;
use std::borrow::Cow;

/// The rows that a search may return.
#[derive(Clone, Copy, Debug)]
pub enum Filter<'a> {
    /// One mark per row number, [`HnswIndex::num_rows`] of them; those of removed rows do not count.
    Mask(&'a [bool]),
    /// Row numbers, in any order.
    Rows(&'a [i64]),
}

/// A filter as the search uses it.
#[derive(Debug)]
pub(super) struct Allowed<'a> {
    /// Distinct slots, rising.
    pub slots: Vec<u32>,
    /// One mark per slot.
    pub marks: Cow<'a, [bool]>,
}

impl HnswIndex {
    /// Refuses a mask of another length ([`Error::Shape`]) and rows not held ([`Error::Row`]). Marks of removed rows do not
    /// count.
    pub(super) fn resolve<'a>(&self, filter: Filter<'a>) -> Result<Allowed<'a>> {
        match filter {
            Filter::Mask(marks) if marks.len() == self.num_rows() => {
                let rows = &self.core.rows;
                let slots = memory::collect(rows.by_slot().filter(|&slot| marks[rows.row(slot) as usize]));
                if rows.is_plain() {
                    return Ok(Allowed { slots, marks: Cow::Borrowed(marks) });
                }
                Ok(self.allowed(slots))
            }
            Filter::Mask(marks) => {
                let (given, expected) = (marks.len(), self.num_rows());
                Err(Error::Shape(format!("filter must have num_rows = {expected} marks, got {given}")))
            }
            Filter::Rows(rows) => {
                let mut slots = memory::try_with_capacity(rows.len())?;
                for &row in rows {
                    slots.push(self.require_slot("filter", row)?);
                }
                slots.sort_unstable();
                slots.dedup();
                Ok(self.allowed(slots))
            }
        }
    }

    fn allowed<'a>(&self, slots: Vec<u32>) -> Allowed<'a> {
        let mut marks = memory::vec![false; self.core.rows.slots()];
        slots.iter().for_each(|&slot| marks[slot as usize] = true);
        Allowed { slots, marks: Cow::Owned(marks) }
    }
}
