//! Which row stands at which slot.
//!
//! Row numbers rise and are never reused. Slots are: the smallest free ones first, so that what is held stays together
//! and the same calls give the same slots whether or not the index was saved and loaded in between.

use super::links::NONE;
use crate::lines::{lengthen, make_room};
use crate::memory;
use std::collections::BTreeSet;

/// Row numbers there are: [`NONE`] is none.
pub(super) const MAX_ROWS: usize = NONE as usize;

#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// The row at each slot; [`NONE`] where there is none.
    row_of: Vec<u32>,
    /// The slot of each row ever handed out; [`NONE`] where the row was removed, or has not been placed yet.
    slot_of: Vec<u32>,
    free: BTreeSet<u32>,
    held: usize,
    /// Whether slots may be in another order than rows.
    arranged: bool,
}

impl Rows {
    /// Number of rows held.
    pub fn len(&self) -> usize {
        self.held
    }

    /// Number of rows ever handed out.
    pub fn handed_out(&self) -> usize {
        self.slot_of.len()
    }

    /// Whether slots and rows are the same numbers: no row was ever removed, nor the slots arranged.
    pub fn is_plain(&self) -> bool {
        !self.arranged && self.len() == self.handed_out()
    }

    /// Whether every number handed out has been placed.
    pub fn is_settled(&self) -> bool {
        self.held + self.free.len() == self.slots()
    }

    /// Number of slots, free ones included.
    pub fn slots(&self) -> usize {
        self.row_of.len()
    }

    /// Number of free slots.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Where a row stands, if it is held.
    pub fn slot(&self, row: i64) -> Option<u32> {
        let slot = usize::try_from(row).ok().and_then(|row| self.slot_of.get(row));
        slot.copied().filter(|&slot| slot != NONE)
    }

    /// The row at a slot that is not free.
    pub fn row(&self, slot: u32) -> i64 {
        debug_assert!(!self.is_free(slot));
        self.row_of[slot as usize].into()
    }

    pub fn is_free(&self, slot: u32) -> bool {
        self.row_of[slot as usize] == NONE
    }

    /// The slots that rows stand at, in their own order: that of memory.
    pub fn by_slot(&self) -> impl Iterator<Item = u32> {
        (0..self.slots() as u32).filter(|&slot| !self.is_free(slot))
    }

    /// The slots that rows stand at, in the order of row numbers.
    pub fn by_row(&self) -> impl Iterator<Item = u32> {
        self.slots_of_rows().iter().copied().filter(|&slot| slot != NONE)
    }

    /// The slot of each row ever handed out, [`NONE`] for those removed: what a file holds.
    pub fn slots_of_rows(&self) -> &[u32] {
        &self.slot_of
    }

    /// The slots of the next `count` rows, rising: free ones, then new ones.
    pub fn next_slots(&self, count: usize) -> Vec<u32> {
        let new = self.slots() as u32..;
        memory::collect(self.free.iter().copied().chain(new).take(count))
    }

    /// Hands out the next `count` row numbers to nothing: they are as those of rows that were removed.
    pub fn skip(&mut self, count: usize) {
        let rows = self.handed_out() + count;
        lengthen(&mut self.slot_of, rows, NONE);
    }

    /// Hands out the next row numbers, to go to `slots`, which are the [next](Self::next_slots).
    pub fn hand_out(&mut self, slots: &[u32]) {
        let recycled = slots.iter().take_while(|&slot| self.free.remove(slot)).count();
        let end = self.slots() + slots.len() - recycled;
        lengthen(&mut self.row_of, end, NONE);
        let numbers = self.handed_out() + slots.len();
        lengthen(&mut self.slot_of, numbers, NONE);
    }

    /// Puts a row, whose number was handed out, at its slot: from now on it is held.
    pub fn place(&mut self, slot: u32, row: u64) {
        self.row_of[slot as usize] = row as u32;
        self.slot_of[row as usize] = slot;
        self.held += 1;
    }

    /// Undoes the last calls of [`hand_out`](Self::hand_out), which gave `slots` where there had been `held` in all.
    pub fn take_back(&mut self, slots: &[u32], held: usize) {
        self.held -= slots.iter().filter(|&&slot| !self.is_free(slot)).count();
        self.slot_of.truncate(self.slot_of.len() - slots.len());
        self.row_of.truncate(held);
        for &slot in slots.iter().take_while(|&&slot| (slot as usize) < held) {
            self.row_of[slot as usize] = NONE;
            self.free.insert(slot);
        }
    }

    /// Removes the row at a slot, which becomes free.
    pub fn remove(&mut self, slot: u32) {
        let row = std::mem::replace(&mut self.row_of[slot as usize], NONE);
        self.slot_of[row as usize] = NONE;
        self.free.insert(slot);
        self.held -= 1;
    }

    /// Removes all rows, and the slots with them.
    pub fn clear(&mut self) {
        self.row_of.clear();
        self.slot_of.fill(NONE);
        self.free.clear();
        self.held = 0;
    }

    /// Makes room for `slots` slots and `rows` row numbers in all, and no more.
    pub fn reserve(&mut self, slots: usize, rows: usize) {
        let more = slots.saturating_sub(self.row_of.len());
        memory::reserve_exact(&mut self.row_of, more).unwrap_or_else(|refused| refused.throw());
        let more = rows.saturating_sub(self.slot_of.len());
        memory::reserve_exact(&mut self.slot_of, more).unwrap_or_else(|refused| refused.throw());
    }

    /// Makes room for rows that go to `slots`, the [next](Self::next_slots), as they are handed out in pieces.
    pub fn make_room(&mut self, slots: &[u32]) {
        make_room(&mut self.row_of, slots.last().map_or(0, |&last| last as usize + 1));
        let numbers = self.handed_out() + slots.len();
        make_room(&mut self.slot_of, numbers);
    }

    /// Moves the rows at the slots `kept`, all that are not free, to the slots from 0 on, in this order.
    pub fn arrange(&mut self, kept: &[u32]) {
        self.row_of = memory::collect(kept.iter().map(|&slot| self.row_of[slot as usize]));
        for (slot, &row) in (0..).zip(&self.row_of) {
            self.slot_of[row as usize] = slot;
        }
        self.slot_of.shrink_to_fit();
        self.free.clear();
        self.arranged |= !kept.is_sorted();
    }

    /// Takes what a file holds; refuses what [`place`](Self::place) and [`remove`](Self::remove) could not have
    /// made.
    pub fn from_slots_of_rows(slot_of: Vec<u32>, slots: usize) -> Result<Self, String> {
        if slot_of.len() > MAX_ROWS {
            return Err(format!("{} row numbers are more than there are", slot_of.len()));
        }
        let mut row_of = memory::vec![NONE; slots];
        for (row, &slot) in (0u32..).zip(&slot_of).filter(|(_, slot)| **slot != NONE) {
            match row_of.get_mut(slot as usize) {
                Some(place) if *place == NONE => *place = row,
                Some(place) => return Err(format!("rows {place} and {row} stand at the same slot {slot}")),
                None => return Err(format!("row {row} stands at slot {slot} of {slots}")),
            }
        }
        let free = (0u32..).zip(&row_of).filter(|(_, row)| **row == NONE).map(|(slot, _)| slot);
        let free: BTreeSet<u32> = free.collect();
        let arranged = !(0u32..).zip(&slot_of).all(|(row, &slot)| row == slot);
        let rows = Self { held: slots - free.len(), free, row_of, slot_of, arranged };
        if rows.len() == rows.handed_out() && rows.free() > 0 {
            return Err("no row was removed, but slots are free".into());
        }
        Ok(rows)
    }

    pub fn bytes(&self) -> usize {
        (self.row_of.capacity() + self.slot_of.capacity() + self.free.len()) * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(rows: &mut Rows, count: usize) -> Vec<u32> {
        let (first, slots) = (rows.handed_out() as u64, rows.next_slots(count));
        rows.hand_out(&slots);
        slots.iter().zip(first..).for_each(|(&slot, row)| rows.place(slot, row));
        slots
    }

    fn rows_by_slot(rows: &Rows) -> Vec<i64> {
        rows.by_slot().map(|slot| rows.row(slot)).collect()
    }

    #[test]
    fn numbers_rise_while_slots_come_back() {
        let mut rows = Rows::default();
        assert_eq!(add(&mut rows, 5), [0, 1, 2, 3, 4]);
        assert!(rows.is_plain());
        [3, 1].into_iter().for_each(|slot| rows.remove(slot));
        assert_eq!(
            (rows.len(), rows.free(), rows.slot(3), rows.slot(-1), rows.slot(5)),
            (3, 2, None, None, None)
        );
        assert_eq!(add(&mut rows, 4), [1, 3, 5, 6]);
        assert_eq!((rows.handed_out(), rows.slot(5), rows.slot(8)), (9, Some(1), Some(6)));
        assert_eq!(rows_by_slot(&rows), [0, 5, 2, 6, 4, 7, 8]);
        assert_eq!(rows.by_row().collect::<Vec<_>>(), [0, 2, 4, 1, 3, 5, 6]);
        rows.take_back(&[1, 3, 5, 6], 5);
        rows.hand_out(&[1, 3, 5]);
        rows.place(3, 6);
        assert_eq!(
            (rows.len(), rows.handed_out(), rows.free(), rows.slot(5), rows.slot(6)),
            (4, 8, 0, None, Some(3))
        );
        rows.take_back(&[1, 3, 5], 5);
        assert_eq!((rows.handed_out(), rows_by_slot(&rows)), (5, vec![0, 2, 4]));
        assert_eq!(add(&mut rows, 1), [1]);
        rows.arrange(&[0, 1, 2, 4]);
        assert_eq!((rows_by_slot(&rows), rows.slot(5), rows.free()), (vec![0, 5, 2, 4], Some(1), 0));
        rows.arrange(&[3, 0, 1, 2]);
        assert_eq!((rows_by_slot(&rows), rows.slot(4)), (vec![4, 0, 5, 2], Some(0)));
        rows.clear();
        assert_eq!((rows.len(), rows.slots(), add(&mut rows, 1), rows.row(0)), (0, 0, vec![0], 6));
        rows.skip(2);
        assert_eq!((rows.len(), rows.handed_out(), rows.slot(8), add(&mut rows, 1)), (1, 9, None, vec![1]));
        assert_eq!((rows_by_slot(&rows), rows.is_plain()), (vec![6, 9], false));
    }

    #[test]
    fn impossible_maps_are_refused() {
        let read = |slots: &[u32], count| Rows::from_slots_of_rows(slots.to_vec(), count);
        assert_eq!(rows_by_slot(&read(&[2, NONE, 0], 4).unwrap()), [2, 0]);
        assert_eq!(add(&mut read(&[2, NONE, 0], 4).unwrap(), 3), [1, 3, 4]);
        assert!(read(&[0, 1], 2).unwrap().is_plain() && !read(&[1, 0], 2).unwrap().is_plain());
        for (slots, count) in
            [(&[1, NONE, 1][..], 2), (&[4, NONE], 4), (&[1, 1], 2), (&[0, 1], 3), (&[0, 2], 3)]
        {
            assert!(read(slots, count).is_err(), "{slots:?}");
        }
    }
}
