//! Rows of equal length, in memory or in a mapped file.
//!
//! In memory everything was verified when it came there. In a file a block is verified when a row in it is first
//! touched: its checksum, then, by the codec, the rows that start in it. A row is read only after all blocks that it
//! lies in, so what was checked of it stands. Rows found damaged are remembered by the file's
//! [`Blocks`], and whoever read them asks for that before a result leaves the index.

use crate::error::Result;
use crate::lines::Lines;
use crate::memory;
use crate::storage::{Blocks, Reader};
use bytemuck::Pod;
use std::ops::Range;
use std::sync::Arc;

/// Refuses a row, by its slot, that no codec could have written.
pub(super) type Check<'a, T> = &'a dyn Fn(u32, &[T]) -> Result<(), String>;

/// The rows of a codec, with their padding.
#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    /// Values per row.
    stride: usize,
    place: Place<T>,
}

#[derive(Clone, Debug)]
enum Place<T> {
    Memory(Lines<T>),
    File(Arc<Blocks<T>>),
}

impl<T: Pod> Table<T> {
    /// No rows.
    pub fn new(stride: usize) -> Self {
        Self { stride, place: Place::Memory(Lines::new()) }
    }

    /// The `rows` rows of a section, read or, if the file is mapped and they are to `stay`, where they lie. Their bytes are
    /// verified or will be on first touch; no row that was read is checked yet.
    pub fn open(stride: usize, reader: &Reader, name: &str, rows: usize, stay: bool) -> Result<Self> {
        let count = reader.count::<T>(name)?;
        if !count.is_multiple_of(stride) {
            return Err(reader.damaged(format!("the last row of {name} is cut short")));
        }
        if count / stride != rows {
            return Err(reader.damaged(format!("{} {name} for {rows} slots", count / stride)));
        }
        if let Some(blocks) = reader.blocks(name)?.filter(|_| stay) {
            return Ok(Self { stride, place: Place::File(Arc::new(blocks)) });
        }
        let mut lines = Lines::zeros(count);
        reader.values_into(name, &mut lines)?;
        Ok(Self { stride, place: Place::Memory(lines) })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values().len() / self.stride
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes of memory held; what lies in a file does not count.
    pub fn bytes(&self) -> usize {
        match &self.place {
            Place::Memory(lines) => lines.bytes(),
            Place::File(_) => 0,
        }
    }

    /// Rows that fit in the memory held; in a file, none.
    pub fn room(&self) -> usize {
        match &self.place {
            Place::Memory(lines) => lines.room() / self.stride,
            Place::File(_) => 0,
        }
    }

    /// All values, of which those in a file need not be verified.
    #[inline]
    pub fn values(&self) -> &[T] {
        match &self.place {
            Place::Memory(lines) => lines,
            Place::File(blocks) => blocks.values(),
        }
    }

    /// All values, of which the rows at `slots` are verified.
    #[inline(always)]
    pub fn at(&self, slots: &[u32], check: Check<'_, T>) -> &[T] {
        match &self.place {
            Place::Memory(lines) => lines,
            Place::File(blocks) => {
                for &slot in slots {
                    blocks.touch(self.row_range(slot), &|values| self.check_range(values, check));
                }
                blocks.values()
            }
        }
    }

    /// A row with its padding, verified.
    #[inline]
    pub fn row(&self, slot: u32, check: Check<'_, T>) -> &[T] {
        &self.at(&[slot], check)[self.row_range(slot)]
    }

    /// A row, to be changed.
    pub fn row_mut(&mut self, slot: u32) -> &mut [T] {
        let place = self.row_range(slot);
        &mut self.lines()[place]
    }

    /// Verifies all rows: those in memory, whose checksums were right when they were read, by `check` alone.
    pub fn verify(&self, check: Check<'_, T>) -> Result<(), String> {
        match &self.place {
            Place::Memory(lines) => self.check_range(0..lines.len(), check),
            Place::File(blocks) => {
                blocks.touch_all(&|values| self.check_range(values, check));
                Ok(())
            }
        }
    }

    /// Refuses to go on where damage was found in the file.
    pub fn require_sound(&self) -> Result<()> {
        match &self.place {
            Place::Memory(_) => Ok(()),
            Place::File(blocks) => blocks.require_sound(),
        }
    }

    /// Lengthens the table to `rows` rows, the new ones zero.
    pub fn grow(&mut self, rows: usize) {
        let len = rows * self.stride;
        self.lines().grow(len, T::zeroed());
    }

    /// Makes room for `rows` rows in all, and no more.
    pub fn reserve(&mut self, rows: usize) {
        let len = rows * self.stride;
        self.lines().reserve(len);
    }

    pub fn truncate(&mut self, rows: usize) {
        let len = rows * self.stride;
        self.lines().truncate(len);
    }

    /// Moves the rows, and drops those that are not kept.
    pub fn arrange(&mut self, moves: &mut Moves) {
        let stride = self.stride;
        moves.make(self.lines(), stride);
    }

    /// The rows in memory, to be changed; those in a file, which is never written, are copied first.
    pub fn lines(&mut self) -> &mut Lines<T> {
        if let Place::File(blocks) = &self.place {
            let mut lines = Lines::zeros(blocks.values().len());
            lines.copy_from_slice(blocks.values());
            self.place = Place::Memory(lines);
        }
        match &mut self.place {
            Place::Memory(lines) => lines,
            Place::File(_) => unreachable!("the rows were copied"),
        }
    }

    fn row_range(&self, slot: u32) -> Range<usize> {
        let start = slot as usize * self.stride;
        start..start + self.stride
    }

    /// Checks the rows that start among `values`.
    fn check_range(&self, values: Range<usize>, check: Check<'_, T>) -> Result<(), String> {
        let slots = values.start.div_ceil(self.stride)..values.end.div_ceil(self.stride);
        let rows = self.values()[slots.start * self.stride..].chunks_exact(self.stride);
        slots.zip(rows).try_for_each(|(slot, row)| check(slot as u32, row))
    }
}

/// Where the rows of all tables of an index move.
#[derive(Debug)]
pub(in crate::hnsw) struct Moves {
    /// Which row comes to each place: those kept, then those that go. A permutation.
    order: Vec<u32>,
    kept: usize,
    done: Vec<bool>,
}

impl Moves {
    /// The rows at the places `kept` move to the first places, in this order, out of `rows`.
    pub fn new(kept: &[u32], rows: usize) -> Self {
        let (mut order, mut done) = (memory::with_capacity(rows), memory::vec![false; rows]);
        order.extend_from_slice(kept);
        kept.iter().for_each(|&slot| done[slot as usize] = true);
        order.extend((0..rows as u32).filter(|&slot| !done[slot as usize]));
        Self { order, kept: kept.len(), done }
    }

    /// Moves the rows of one table, `stride` values each, and drops those that are not kept.
    pub fn make<T: Pod>(&mut self, table: &mut Lines<T>, stride: usize) {
        let Self { order, kept, done } = self;
        done.fill(false);
        // Each cycle of the permutation needs room for one row.
        let mut first = vec![T::zeroed(); stride];
        for start in 0..order.len() {
            if done[start] {
                continue;
            }
            first.copy_from_slice(&table[start * stride..][..stride]);
            let mut at = start;
            loop {
                done[at] = true;
                let from = order[at] as usize;
                if from == start {
                    break;
                }
                table.copy_within(from * stride..(from + 1) * stride, at * stride);
                at = from;
            }
            table[at * stride..][..stride].copy_from_slice(&first);
        }
        table.truncate(*kept * stride);
        table.shrink();
    }
}
