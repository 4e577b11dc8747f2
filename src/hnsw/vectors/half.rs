//! Half precision: two bytes a value, as IEEE 754 has them.
//!
//! A value keeps 11 significant bits, and must not exceed 65504. Queries stay in `f32`.

use super::{Source, cosine_distance, inverse_norm, keep, rows_with};
use crate::hnsw::metric::Metric;
use crate::lines::Lines;
use crate::simd::{Kernels, kernels, prefetch};
use half::f16;

/// Rows are padded to half a cache line: none touches more lines than it must.
const PADDED: usize = 16;

/// The table of rows.
#[derive(Clone, Debug)]
pub(super) struct Half {
    metric: Metric,
    dim: usize,
    stride: usize,
    table: Lines<f16>,
    /// Inverse norms of decoded rows under cosine, else empty.
    terms: Lines<f32>,
    kernels: &'static Kernels,
}

impl Half {
    pub fn new(dim: usize, metric: Metric) -> Self {
        let stride = dim.next_multiple_of(PADDED);
        Self { metric, dim, stride, table: Lines::new(), terms: Lines::new(), kernels: kernels() }
    }

    pub fn len(&self) -> usize {
        self.table.len() / self.stride
    }

    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.terms.bytes()
    }

    /// The greatest magnitude of a value; those of unit vectors are never too great.
    pub fn most(&self) -> f32 {
        if self.metric == Metric::Cosine { f32::MAX } else { f16::MAX.to_f32() }
    }

    /// All rows with their padding.
    pub fn padded(&self) -> &[f16] {
        &self.table
    }

    /// Rounds rows at `slots`, of which those beyond the last follow on it, from `source`, by place in `slots`.
    pub fn store(&mut self, slots: &[u32], source: Source<'_>) {
        self.table.grow(rows_with(self.len(), slots) * self.stride, f16::ZERO);
        let mut row = vec![0.0; self.dim];
        for (i, &slot) in slots.iter().enumerate() {
            source(i, &mut row);
            let rounded = self.table[slot as usize * self.stride..].iter_mut();
            rounded.zip(&row).for_each(|(to, &from)| *to = f16::from_f32(from));
        }
        self.measure(slots.iter().copied());
    }

    /// Wipes a row.
    pub fn clear(&mut self, slot: u32) {
        self.table[slot as usize * self.stride..][..self.dim].fill(f16::ZERO);
        self.measure([slot]);
    }

    /// Keeps the rows at the slots `kept`, which rise, and moves them together.
    pub fn compact(&mut self, kept: &[u32]) {
        keep(&mut self.table, self.stride, kept);
        if self.metric == Metric::Cosine {
            keep(&mut self.terms, 1, kept);
        }
    }

    /// Inverse norms of the rows at `slots`.
    fn measure(&mut self, slots: impl IntoIterator<Item = u32>) {
        if self.metric == Metric::Cosine {
            let mut row = vec![0.0; self.dim];
            self.terms.grow(self.len(), 0.0);
            for slot in slots {
                self.decode_into(slot, &mut row);
                self.terms[slot as usize] =
                    if row.iter().all(|&value| value == 0.0) { 0.0 } else { inverse_norm(&row) };
            }
        }
    }

    /// Rows as a file holds them, for dimensions and metric as here.
    pub fn with(&self, table: Lines<f16>) -> Result<Self, String> {
        if !table.len().is_multiple_of(self.stride) {
            return Err("the last row of codes is cut short".into());
        }
        for (i, row) in table.chunks(self.stride).enumerate() {
            if !row.iter().all(|value| value.is_finite())
                || row[self.dim..].iter().any(|pad| pad.to_bits() != 0)
            {
                return Err(format!("row {i} has codes that nothing is coded to"));
            }
        }
        let mut half = Self { table, ..Self::new(self.dim, self.metric) };
        half.measure(0..half.len() as u32);
        Ok(half)
    }

    pub fn truncate(&mut self, rows: usize) {
        self.table.truncate(rows * self.stride);
        self.terms.truncate(rows);
    }

    /// The row in single precision.
    pub fn decode_into(&self, slot: u32, row: &mut [f32]) {
        let rounded = &self.table[slot as usize * self.stride..];
        row.iter_mut().zip(rounded).for_each(|(to, from)| *to = from.to_f32());
    }

    /// A vector, times `scale`, as a probe; `room` holds its padded copy.
    pub fn probe<'a>(&'a self, values: &[f32], scale: f32, room: &'a mut Lines<f32>) -> HalfProbe<'a> {
        room.grow(self.stride, 0.0);
        room.iter_mut().zip(values).for_each(|(to, &from)| *to = from * scale);
        HalfProbe { rows: self, values: &room[..self.stride] }
    }
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
        if rows.metric == Metric::L2 {
            return (rows.kernels.half_squared_l2_rows)(self.values, &rows.table, slots, out);
        }
        (rows.kernels.half_dot_rows)(self.values, &rows.table, slots, out);
        if rows.metric == Metric::Ip {
            return out.iter_mut().for_each(|value| *value = 1.0 - *value);
        }
        for (value, &slot) in out.iter_mut().zip(slots) {
            *value = cosine_distance(*value, 1.0, rows.terms[slot as usize]);
        }
    }

    #[inline]
    pub fn prefetch(self, slot: u32) {
        prefetch(&self.rows.table, slot as usize * self.rows.stride);
        prefetch(&self.rows.terms, slot as usize);
    }
}
