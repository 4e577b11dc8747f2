//! Binary quantization: one bit a value, which says whether it lies above the mean of its dimension.
//!
//! Rows are compared by the number of bits in which they differ (Hamming distance), which ranks them roughly: a search
//! should keep more candidates than with other storage, and all of them are scored again. A bit decodes to the mean of
//! the values on its side.
//!
//! **Means** are those of the first call, without [outliers](super::outliers). Where exact vectors are kept they are taken anew, and all rows coded anew, as
//! often as the number of rows passes a power of two; codes alone say nothing that other means could be taken from.

use super::outliers::outliers;
use super::table::{Moves, Table};
use super::{Source, rows_with};
use crate::lines::Lines;
use crate::simd::{Kernels, kernels};

/// The bits, and what they mean.
#[derive(Clone, Debug)]
pub(super) struct Binary {
    dim: usize,
    /// Means of all values, of those not above it, and of those above it.
    levels: [Vec<f32>; 3],
    /// Words of 64 bits.
    bits: Table<u64>,
    kernels: &'static Kernels,
}

impl Binary {
    pub fn new(dim: usize) -> Self {
        let levels = std::array::from_fn(|_| vec![0.0; dim]);
        Self { dim, levels, bits: Table::new(dim.div_ceil(64)), kernels: kernels() }
    }

    pub fn len(&self) -> usize {
        self.bits.len()
    }

    /// Rows that fit in the memory held.
    pub fn room(&self) -> usize {
        self.bits.room()
    }

    /// Whether the means stay as they are when there are `rows` rows.
    pub fn keeps_means(&self, rows: usize, keeps_rows: bool) -> bool {
        self.len() > 0 && !(keeps_rows && rows.ilog2() > self.len().ilog2())
    }

    pub fn bytes(&self) -> usize {
        self.bits.bytes() + 12 * self.dim
    }

    pub fn table(&self) -> &Table<u64> {
        &self.bits
    }

    /// Means of all values, of those not above it, and of those above it.
    pub fn levels(&self) -> [&[f32]; 3] {
        self.levels.each_ref().map(Vec::as_slice)
    }

    /// Codes rows at `slots`, of which those beyond the last follow on it, from `source`, by place in `slots`; `old` gives
    /// all rows, by slot, where exact vectors are kept. Returns what there was before if others had to be coded anew.
    pub fn store(&mut self, slots: &[u32], source: Source<'_>, old: Option<Source<'_>>) -> Option<Self> {
        let (start, end) = (self.len(), rows_with(self.len(), slots));
        if slots.is_empty() {
            return None;
        }
        // Slots are taken beyond the last only when none is free, so all of them hold rows then.
        let again = old.filter(|_| start > 0 && !self.keeps_means(end, true));
        let before = again.map(|_| self.clone());
        match again {
            Some(old) => self.learn(end, old),
            None if start == 0 => self.learn(slots.len(), source),
            None => {}
        }
        self.bits.grow(end);
        let mut row = vec![0.0; self.dim];
        let mut code = |read: Source<'_>, place: usize, slot: usize| {
            read(place, &mut row);
            pack(&row, 1.0, &self.levels[0], self.bits.row_mut(slot as u32));
        };
        match again {
            Some(old) => (0..end).for_each(|slot| code(old, slot, slot)),
            None => slots.iter().enumerate().for_each(|(place, &slot)| code(source, place, slot as usize)),
        }
        before
    }

    /// Makes room for `rows` rows in all, and no more.
    pub fn reserve(&mut self, rows: usize) {
        self.bits.reserve(rows);
    }

    /// Wipes the bits of a row.
    pub fn clear(&mut self, slot: u32) {
        self.bits.row_mut(slot).fill(0);
    }

    /// Moves the rows, and drops those that are not kept.
    pub fn arrange(&mut self, moves: &mut Moves) {
        self.bits.arrange(moves);
    }

    /// Takes the means of `rows` rows.
    fn learn(&mut self, rows: usize, read: Source<'_>) {
        let mut row = vec![0.0; self.dim];
        let mut total = vec![0.0f64; self.dim];
        let outliers = outliers(rows, self.dim, read);
        let typical = || (0..rows).filter(|&slot| outliers.as_ref().is_none_or(|marks| !marks[slot]));
        let count = typical().count();
        for slot in typical() {
            read(slot, &mut row);
            total.iter_mut().zip(&row).for_each(|(total, &value)| *total += f64::from(value));
        }
        let mean: Vec<f32> = total.iter().map(|total| (total / count as f64) as f32).collect();
        let mut sides = vec![[(0.0f64, 0u32); 2]; self.dim];
        for slot in typical() {
            read(slot, &mut row);
            for ((side, &value), &mean) in sides.iter_mut().zip(&row).zip(&mean) {
                let (total, count) = &mut side[usize::from(value > mean)];
                *total += f64::from(value);
                *count += 1;
            }
        }
        let level = |side: usize| -> Vec<f32> {
            let means = sides.iter().zip(&mean).map(|(sides, &mean)| {
                let (total, count) = sides[side];
                if count == 0 { mean } else { (total / f64::from(count)) as f32 }
            });
            means.collect()
        };
        self.levels = [mean.clone(), level(0), level(1)];
    }

    /// Levels and rows of a file, for dimensions as here. [`verify`](Self::verify) checks what the table does not check on
    /// first touch.
    pub fn with(self, levels: [Vec<f32>; 3], bits: Table<u64>) -> Result<Self, String> {
        if levels.iter().any(|level| level.len() != self.dim || level.iter().any(|value| !value.is_finite()))
        {
            return Err("the levels of bits are no numbers".into());
        }
        Ok(Self { levels, bits, ..self })
    }

    /// Verifies all rows.
    pub fn verify(&self) -> Result<(), String> {
        self.bits.verify(&|slot, row| self.check(slot, row))
    }

    /// Brings rows that lie in a file, verified, into memory.
    pub fn own(&mut self) {
        self.bits.lines();
    }

    /// Refuses bits beyond the last dimension.
    fn check(&self, slot: u32, row: &[u64]) -> Result<(), String> {
        let unused = match self.dim % 64 {
            0 => 0,
            used => u64::MAX << used,
        };
        if row[row.len() - 1] & unused == 0 {
            Ok(())
        } else {
            Err(format!("the padding of row {slot} of bits is not zero"))
        }
    }

    pub fn truncate(&mut self, rows: usize) {
        self.bits.truncate(rows);
        if rows == 0 {
            self.levels.iter_mut().for_each(|level| level.fill(0.0));
        }
    }

    /// The row that a slot's bits stand for.
    pub fn decode_into(&self, slot: u32, row: &mut [f32]) {
        let words = self.bits.row(slot, &|slot, row| self.check(slot, row));
        for (d, value) in row.iter_mut().enumerate() {
            let bit = words[d / 64] >> (d % 64) & 1;
            *value = self.levels[1 + bit as usize][d];
        }
    }

    /// A vector, times `scale`, as a probe; `room` holds its bits.
    pub fn probe<'a>(&'a self, values: &[f32], scale: f32, room: &'a mut Lines<u64>) -> BinaryProbe<'a> {
        let stride = self.bits.stride();
        room.grow(stride, 0);
        pack(values, scale, &self.levels[0], &mut room[..stride]);
        BinaryProbe { rows: self, bits: &room[..stride] }
    }
}

/// The bits of a vector, times `scale`.
fn pack(values: &[f32], scale: f32, means: &[f32], words: &mut [u64]) {
    for (word, (values, means)) in words.iter_mut().zip(values.chunks(64).zip(means.chunks(64))) {
        let bits = values.iter().zip(means).enumerate();
        *word = bits.fold(0, |word, (i, (&value, &mean))| word | u64::from(value * scale > mean) << i);
    }
}

/// A vector's bits.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct BinaryProbe<'a> {
    rows: &'a Binary,
    bits: &'a [u64],
}

impl BinaryProbe<'_> {
    #[inline]
    pub fn score(self, slots: &[u32], out: &mut [f32]) {
        let rows = self.rows;
        let table = rows.bits.at(slots, &|slot, row| rows.check(slot, row));
        (rows.kernels.hamming_rows)(self.bits, table, slots, out);
    }
}
