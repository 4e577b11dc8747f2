//! Rows as they were given: four bytes a value.
//!
//! They lie in memory padded with zeros to whole cache lines, so that every kernel call runs without a tail. Cosine
//! needs one number per row besides: the inverse norm.

use super::{IsFree, check, cosine_distance, inverse_norm, keep, rows_with};
use crate::hnsw::metric::Metric;
use crate::lines::Lines;
use crate::simd::{Kernels, kernels, prefetch};
use ndarray::ArrayView2;

/// Values per cache line.
const LINE: usize = 16;

/// The table of rows.
#[derive(Clone, Debug)]
pub(super) struct Exact {
    metric: Metric,
    dim: usize,
    stride: usize,
    table: Lines<f32>,
    /// Inverse norms under cosine, else empty.
    scale: Lines<f32>,
    kernels: &'static Kernels,
}

impl Exact {
    pub fn new(dim: usize, metric: Metric) -> Self {
        let stride = dim.next_multiple_of(LINE);
        Self { metric, dim, stride, table: Lines::new(), scale: Lines::new(), kernels: kernels() }
    }

    pub fn len(&self) -> usize {
        self.table.len() / self.stride
    }

    pub fn row(&self, slot: u32) -> &[f32] {
        &self.table[slot as usize * self.stride..][..self.dim]
    }

    /// All rows with their padding.
    pub fn padded(&self) -> &[f32] {
        &self.table
    }

    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.scale.bytes()
    }

    /// Writes rows at `slots`, of which those beyond the last follow on it.
    pub fn store(&mut self, slots: &[u32], vectors: ArrayView2<'_, f32>) {
        let rows = rows_with(self.len(), slots);
        self.table.grow(rows * self.stride, 0.0);
        if self.metric == Metric::Cosine {
            self.scale.grow(rows, 0.0);
        }
        for (&slot, row) in slots.iter().zip(vectors.rows()) {
            let padded = self.table[slot as usize * self.stride..].iter_mut();
            padded.zip(row).for_each(|(value, &given)| *value = given);
            self.measure(slot);
        }
    }

    /// Wipes the row at `slot`.
    pub fn clear(&mut self, slot: u32) {
        self.table[slot as usize * self.stride..][..self.dim].fill(0.0);
        self.measure(slot);
    }

    /// Keeps the rows at the slots `kept`, which rise, and moves them together.
    pub fn compact(&mut self, kept: &[u32]) {
        keep(&mut self.table, self.stride, kept);
        if self.metric == Metric::Cosine {
            keep(&mut self.scale, 1, kept);
        }
    }

    /// Rows as a file holds them, padding included; refuses what [`store`](Self::store) and [`clear`](Self::clear) could
    /// not have made.
    pub fn from_padded(
        dim: usize,
        metric: Metric,
        table: Lines<f32>,
        is_free: IsFree<'_>,
    ) -> Result<Self, String> {
        let mut exact = Self::new(dim, metric);
        for (i, row) in table.chunks(exact.stride).enumerate() {
            if is_free(i as u32) {
                if row.len() < exact.stride || row.iter().any(|&value| value.to_bits() != 0) {
                    return Err(format!("slot {i} is free, but holds a vector"));
                }
                continue;
            }
            let view = ArrayView2::from_shape((1, dim), &row[..dim.min(row.len())]);
            let view = view.map_err(|_| format!("row {i} is cut short"))?;
            check("vectors", dim, metric, view).map_err(|error| format!("row {i}: {error}"))?;
            if row.len() < exact.stride || row[dim..].iter().any(|&value| value.to_bits() != 0) {
                return Err(format!("the padding of row {i} is not zero"));
            }
        }
        exact.table = table;
        if metric == Metric::Cosine {
            exact.scale.grow(exact.len(), 0.0);
        }
        (0..exact.len() as u32).for_each(|slot| exact.measure(slot));
        Ok(exact)
    }

    pub fn truncate(&mut self, rows: usize) {
        self.table.truncate(rows * self.stride);
        self.scale.truncate(rows);
    }

    /// The inverse norm of a row; 0 of one that was wiped.
    fn measure(&mut self, slot: u32) {
        if self.metric == Metric::Cosine {
            let norm = inverse_norm(self.row(slot));
            self.scale[slot as usize] = if norm.is_finite() { norm } else { 0.0 };
        }
    }

    /// A stored row as a probe.
    #[inline]
    pub fn probe(&self, slot: u32) -> ExactProbe<'_> {
        let values = &self.table[slot as usize * self.stride..][..self.stride];
        ExactProbe { rows: self, values, scale: self.scale.get(slot as usize).copied().unwrap_or(0.0) }
    }

    /// The row as the metric sees it: under cosine, of length 1.
    pub fn unit_into(&self, slot: u32, row: &mut [f32]) {
        let scale = self.scale.get(slot as usize).copied().unwrap_or(1.0);
        row.iter_mut().zip(self.row(slot)).for_each(|(to, &from)| *to = from * scale);
    }

    /// A query, with its inverse norm under cosine, as a probe; `room` holds its padded copy.
    pub fn query<'a>(&'a self, query: &[f32], scale: f32, room: &'a mut Lines<f32>) -> ExactProbe<'a> {
        room.grow(self.stride, 0.0);
        room[..self.dim].copy_from_slice(query);
        ExactProbe { rows: self, values: &room[..self.stride], scale }
    }
}

/// A padded vector and, under cosine, its inverse norm.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct ExactProbe<'a> {
    rows: &'a Exact,
    values: &'a [f32],
    scale: f32,
}

impl ExactProbe<'_> {
    #[inline]
    pub fn score(self, slots: &[u32], out: &mut [f32]) {
        let rows = self.rows;
        match rows.metric {
            Metric::L2 => (rows.kernels.squared_l2_rows)(self.values, &rows.table, slots, out),
            Metric::Ip => {
                (rows.kernels.dot_rows)(self.values, &rows.table, slots, out);
                out.iter_mut().for_each(|value| *value = 1.0 - *value);
            }
            Metric::Cosine => {
                (rows.kernels.dot_rows)(self.values, &rows.table, slots, out);
                let scale = &rows.scale[..];
                for (value, &slot) in out.iter_mut().zip(slots) {
                    *value = cosine_distance(*value, self.scale, scale[slot as usize]);
                }
            }
        }
    }

    /// As [`score`](Self::score) to the bit; between stored rows it is symmetric.
    #[inline]
    pub fn distance(self, slot: u32) -> f32 {
        let (kernels, row) = (self.rows.kernels, self.rows.probe(slot));
        match self.rows.metric {
            Metric::L2 => (kernels.squared_l2)(self.values, row.values),
            Metric::Ip => 1.0 - (kernels.dot)(self.values, row.values),
            Metric::Cosine => cosine_distance((kernels.dot)(self.values, row.values), self.scale, row.scale),
        }
    }

    #[inline]
    pub fn prefetch(self, slot: u32) {
        prefetch(&self.rows.table, slot as usize * self.rows.stride);
    }
}
