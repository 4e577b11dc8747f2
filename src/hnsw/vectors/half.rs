//! Half precision: two bytes a value, as IEEE 754 has them.
//!
//! A value keeps 11 significant bits, and must not exceed 65504. Queries stay in `f32`.

use super::table::{Moves, Table};
use super::{Source, inverse_norm, rows_with};
use crate::hnsw::metric::Metric;
use crate::hnsw::score::cosine_scores;
use crate::lines::Lines;
use crate::simd::{Kernels, kernels};
use half::f16;

/// Rows are padded to half a cache line: none touches more lines than it must.
const PADDED: usize = 16;

/// The table of rows.
#[derive(Clone, Debug)]
pub(super) struct Half {
    metric: Metric,
    dim: usize,
    table: Table<f16>,
    /// Inverse norms of decoded rows under cosine, else empty.
    terms: Lines<f32>,
    kernels: &'static Kernels,
}

impl Half {
    pub fn new(dim: usize, metric: Metric) -> Self {
        let table = Table::new(dim.next_multiple_of(PADDED));
        Self { metric, dim, table, terms: Lines::new(), kernels: kernels() }
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Rows that fit in the memory held.
    pub fn room(&self) -> usize {
        let terms = if self.metric == Metric::Cosine { self.terms.room() } else { usize::MAX };
        terms.min(self.table.room())
    }

    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.terms.bytes()
    }

    /// The greatest magnitude of a value; those of unit vectors are never too great.
    pub fn most(&self) -> f32 {
        if self.metric == Metric::Cosine { f32::MAX } else { f16::MAX.to_f32() }
    }

    pub fn table(&self) -> &Table<f16> {
        &self.table
    }

    /// Inverse norms of decoded rows.
    pub fn terms(&self) -> &[f32] {
        &self.terms
    }

    /// Whether there is a term for each row.
    pub fn has_terms(&self) -> bool {
        self.metric == Metric::Cosine
    }

    /// Rounds rows at `slots`, of which those beyond the last follow on it, from `source`, by place in `slots`.
    pub fn store(&mut self, slots: &[u32], source: Source<'_>) {
        self.table.grow(rows_with(self.len(), slots));
        let mut row = vec![0.0; self.dim];
        for (i, &slot) in slots.iter().enumerate() {
            source(i, &mut row);
            let rounded = self.table.row_mut(slot).iter_mut();
            rounded.zip(&row).for_each(|(to, &from)| *to = f16::from_f32(from));
        }
        self.measure(slots.iter().copied());
    }

    /// Makes room for `rows` rows in all, and no more.
    pub fn reserve(&mut self, rows: usize) {
        self.table.reserve(rows);
        if self.has_terms() {
            self.terms.reserve(rows);
        }
    }

    /// Wipes a row.
    pub fn clear(&mut self, slot: u32) {
        self.table.row_mut(slot).fill(f16::ZERO);
        self.measure([slot]);
    }

    /// Moves the rows, and drops those that are not kept.
    pub fn arrange(&mut self, moves: &mut Moves) {
        self.table.arrange(moves);
        if self.has_terms() {
            moves.make(&mut self.terms, 1);
        }
    }

    /// Inverse norms of the rows at `slots`.
    fn measure(&mut self, slots: impl IntoIterator<Item = u32>) {
        if self.has_terms() {
            self.terms.grow(self.len(), 0.0);
            for slot in slots {
                let row = &self.table.values()[slot as usize * self.table.stride()..][..self.dim];
                self.terms[slot as usize] = term(row);
            }
        }
    }

    /// Rows of a file and their terms, where it has them, for dimensions and metric as here. [`verify`](Self::verify) checks
    /// what the table does not check on first touch.
    pub fn with(self, table: Table<f16>, terms: Option<Lines<f32>>) -> Self {
        let mut half = Self { table, ..self };
        match terms {
            Some(terms) => half.terms = terms,
            None => half.measure(0..half.len() as u32),
        }
        half
    }

    /// Verifies all rows.
    pub fn verify(&self) -> Result<(), String> {
        self.table.verify(&|slot, row| self.check(slot, row))
    }

    /// Brings rows that lie in a file, verified, into memory.
    pub fn own(&mut self) {
        self.table.lines();
    }

    /// Refuses what no row is rounded to.
    fn check(&self, slot: u32, row: &[f16]) -> Result<(), String> {
        let (values, padding) = row.split_at(self.dim);
        let is_padded = padding.iter().all(|pad| pad.to_bits() == 0);
        let has_term = || self.terms[slot as usize].to_bits() == term(values).to_bits();
        if is_padded && values.iter().all(|value| value.is_finite()) && (!self.has_terms() || has_term()) {
            Ok(())
        } else {
            Err(format!("row {slot} has codes that nothing is coded to"))
        }
    }

    pub fn truncate(&mut self, rows: usize) {
        self.table.truncate(rows);
        self.terms.truncate(rows);
    }

    /// The row in single precision.
    pub fn decode_into(&self, slot: u32, row: &mut [f32]) {
        let rounded = self.table.row(slot, &|slot, row| self.check(slot, row));
        row.iter_mut().zip(rounded).for_each(|(to, from)| *to = from.to_f32());
    }

    /// A vector, times `scale`, as a probe; `room` holds its padded copy.
    pub fn probe<'a>(&'a self, values: &[f32], scale: f32, room: &'a mut Lines<f32>) -> HalfProbe<'a> {
        let stride = self.table.stride();
        room.grow(stride, 0.0);
        room.iter_mut().zip(values).for_each(|(to, &from)| *to = from * scale);
        HalfProbe { rows: self, values: &room[..stride] }
    }
}

/// The inverse norm of a row in single precision; 0 of one that was wiped.
fn term(row: &[f16]) -> f32 {
    if row.iter().all(|value| value.to_f32() == 0.0) {
        return 0.0;
    }
    let row: Vec<f32> = row.iter().map(|value| value.to_f32()).collect();
    inverse_norm(&row)
}

/// A padded vector.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct HalfProbe<'a> {
    rows: &'a Half,
    values: &'a [f32],
}

impl HalfProbe<'_> {
    #[inline]
    pub fn score(self, slots: &[u32], out: &mut [f32]) {
        let rows = self.rows;
        let table = rows.table.at(slots, &|slot, row| rows.check(slot, row));
        if rows.metric == Metric::L2 {
            return (rows.kernels.half_squared_l2_rows)(self.values, table, slots, out);
        }
        (rows.kernels.half_dot_rows)(self.values, table, slots, out);
        if rows.metric == Metric::Ip {
            return out.iter_mut().for_each(|value| *value = -*value);
        }
        for (value, &slot) in out.iter_mut().zip(slots) {
            *value = (1.0 - *value * rows.terms[slot as usize]).max(0.0);
        }
        cosine_scores(out);
    }
}
