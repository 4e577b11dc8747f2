//! The stored vectors and how a probe is scored against them: the seam that other codecs will fit into.
//!
//! Rows lie in memory as they were given, padded with zeros to whole cache lines, so that `vectors()` returns them
//! bit for bit and every kernel call runs without a tail. Cosine needs one number per row besides: the inverse norm.
//!
//! **The inner product is not a metric**: a vector need not be its own nearest neighbour. Lifting the rows to where
//! it is one (Bachrach et al. 2014) makes every query an outlier: over vectors of uneven norms, recall fell from
//! above 0.95 to 0.60. The graph is built by the plain inner product instead (ip-NSW, Morozov & Babenko 2018), in
//! which rows of large norm, the likely answers, become hubs, and the tree of parents keeps the others within reach.

use super::metric::Metric;
use crate::error::{Error, Result};
use crate::lines::Lines;
use crate::simd::{Kernels, kernels, prefetch};
use ndarray::{ArrayView1, ArrayView2};

/// Values per cache line.
const LINE: usize = 16;

/// Squared norms beyond these lose all digits, or overflow, in `f32` arithmetic.
const NORM2_MAX: f64 = f32::MAX as f64 / 8.0;
const NORM2_MIN: f64 = 1e-30;

/// A vector to be scored: the values, padded as rows are, and the metric's number for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<'a> {
    values: &'a [f32],
    /// The inverse norm under cosine.
    scale: f32,
}

/// The table of stored rows.
#[derive(Clone, Debug)]
pub(super) struct Vectors {
    pub metric: Metric,
    dim: usize,
    stride: usize,
    table: Lines<f32>,
    /// Inverse norms under cosine, else empty.
    scale: Lines<f32>,
    kernels: &'static Kernels,
}

impl Vectors {
    pub fn new(dim: usize, metric: Metric) -> Self {
        let stride = dim.next_multiple_of(LINE);
        let (table, scale) = (Lines::new(), Lines::new());
        Self { metric, dim, stride, table, scale, kernels: kernels() }
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn len(&self) -> usize {
        self.table.len() / self.stride
    }

    /// The row as it was given.
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

    /// Refuses what can't be stored or searched for: a wrong dimension, values that are not finite or whose
    /// square is not, and zero vectors under cosine.
    pub fn check(&self, name: &str, vectors: ArrayView2<'_, f32>) -> Result<()> {
        if vectors.ncols() != self.dim {
            let (rows, columns) = vectors.dim();
            let expected = format!("{name} must have shape (n, {})", self.dim);
            return Err(Error::Shape(format!("{expected}, got ({rows}, {columns})")));
        }
        for (i, row) in vectors.rows().into_iter().enumerate() {
            if let Some(column) = row.iter().position(|value| !value.is_finite()) {
                let text = format!("{name} must be finite: row {i}, column {column} is {}", row[column]);
                return Err(Error::Shape(text));
            }
            let norm2 = row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
            if norm2 > NORM2_MAX {
                let text =
                    format!("{name}: row {i} is too long, its squared norm {norm2:.1e} overflows float32");
                return Err(Error::Shape(text));
            }
            if self.metric == Metric::Cosine && norm2 < NORM2_MIN {
                let what = if norm2 == 0.0 { "is zero" } else { "is too short to normalise" };
                let text = format!("{name}: row {i} {what}; cosine needs a direction");
                return Err(Error::Shape(text));
            }
        }
        Ok(())
    }

    /// Appends rows that [`check`](Self::check) has passed.
    pub fn append(&mut self, vectors: ArrayView2<'_, f32>) {
        let start = self.len();
        self.table.grow((start + vectors.nrows()) * self.stride, 0.0);
        let room = self.table[start * self.stride..].chunks_exact_mut(self.stride);
        for (padded, row) in room.zip(vectors.rows()) {
            padded.iter_mut().zip(row).for_each(|(value, &given)| *value = given);
        }
        self.measure(start);
    }

    /// Writes a row that [`check`](Self::check) has passed over what stands at `slot`.
    pub fn set(&mut self, slot: u32, row: ArrayView1<'_, f32>) {
        let at = slot as usize * self.stride;
        self.table[at..at + self.dim].iter_mut().zip(row).for_each(|(value, &given)| *value = given);
        if self.metric == Metric::Cosine {
            self.scale[slot as usize] = inverse_norm(self.row(slot));
        }
    }

    /// Wipes the row at `slot`.
    pub fn clear(&mut self, slot: u32) {
        let at = slot as usize * self.stride;
        self.table[at..at + self.dim].fill(0.0);
        if self.metric == Metric::Cosine {
            self.scale[slot as usize] = 0.0;
        }
    }

    /// Keeps the rows at the slots `kept`, which rise, and moves them together.
    pub fn compact(&mut self, kept: &[u32]) {
        for (new, &old) in kept.iter().enumerate() {
            let at = old as usize * self.stride;
            self.table.copy_within(at..at + self.stride, new * self.stride);
            if self.metric == Metric::Cosine {
                self.scale[new] = self.scale[old as usize];
            }
        }
        self.truncate(kept.len());
        self.table.shrink();
        self.scale.shrink();
    }

    /// Rows as a file holds them, padding included; refuses what [`append`](Self::append) and [`clear`](Self::clear)
    /// could not have made.
    pub fn from_padded(
        dim: usize,
        metric: Metric,
        table: Lines<f32>,
        is_free: impl Fn(u32) -> bool,
    ) -> Result<Self, String> {
        let mut vectors = Self::new(dim, metric);
        let stride = vectors.stride;
        for (i, row) in table.chunks(stride).enumerate() {
            if is_free(i as u32) {
                if row.len() < stride || row.iter().any(|&value| value.to_bits() != 0) {
                    return Err(format!("slot {i} is free, but holds a vector"));
                }
                continue;
            }
            let view = ArrayView2::from_shape((1, dim), &row[..dim.min(row.len())]);
            let view = view.map_err(|_| format!("row {i} is cut short"))?;
            vectors.check("vectors", view).map_err(|error| format!("row {i}: {error}"))?;
            if row[dim..].iter().any(|&value| value.to_bits() != 0) {
                return Err(format!("the padding of row {i} is not zero"));
            }
        }
        vectors.table = table;
        vectors.measure(0);
        Ok(vectors)
    }

    pub fn truncate(&mut self, rows: usize) {
        self.table.truncate(rows * self.stride);
        self.scale.truncate(rows);
    }

    /// Inverse norms of the rows from `start` on; 0 for those wiped.
    fn measure(&mut self, start: usize) {
        if self.metric == Metric::Cosine {
            self.scale.grow(self.len(), 0.0);
            for slot in start..self.len() {
                self.scale[slot] = inverse_norm(self.row(slot as u32));
            }
        }
    }

    /// A stored row as a probe.
    #[inline]
    pub fn probe(&self, slot: u32) -> Probe<'_> {
        let values = &self.table[slot as usize * self.stride..][..self.stride];
        Probe { values, scale: self.scale.get(slot as usize).copied().unwrap_or(0.0) }
    }

    /// A query as a probe; `room` holds its padded copy.
    pub fn query<'a>(&self, query: &[f32], room: &'a mut Lines<f32>) -> Probe<'a> {
        room.grow(self.stride, 0.0);
        room[..self.dim].copy_from_slice(query);
        let scale = if self.metric == Metric::Cosine { inverse_norm(query) } else { 0.0 };
        Probe { values: &room[..self.stride], scale }
    }

    /// The distances from a probe to each of `slots`.
    #[inline]
    pub fn score(&self, probe: Probe<'_>, slots: &[u32], out: &mut [f32]) {
        match self.metric {
            Metric::L2 => (self.kernels.squared_l2_rows)(probe.values, &self.table, slots, out),
            Metric::Ip => {
                (self.kernels.dot_rows)(probe.values, &self.table, slots, out);
                out.iter_mut().for_each(|value| *value = 1.0 - *value);
            }
            Metric::Cosine => {
                (self.kernels.dot_rows)(probe.values, &self.table, slots, out);
                let scale = &self.scale[..];
                for (value, &slot) in out.iter_mut().zip(slots) {
                    *value = cosine_distance(*value, probe.scale, scale[slot as usize]);
                }
            }
        }
    }

    /// As [`score`](Self::score), between two stored rows: symmetric, and equal to it, to the bit.
    #[inline]
    pub fn pair(&self, a: u32, b: u32) -> f32 {
        let (a, b) = (self.probe(a), self.probe(b));
        match self.metric {
            Metric::L2 => (self.kernels.squared_l2)(a.values, b.values),
            Metric::Ip => 1.0 - (self.kernels.dot)(a.values, b.values),
            Metric::Cosine => cosine_distance((self.kernels.dot)(a.values, b.values), a.scale, b.scale),
        }
    }

    /// Asks for the first line of a row, which a kernel will read in a moment.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        prefetch(&self.table, slot as usize * self.stride);
    }
}

/// Rounding may carry a parallel vector just below zero.
#[inline]
fn cosine_distance(dot: f32, a: f32, b: f32) -> f32 {
    (1.0 - dot * (a * b)).max(0.0)
}

fn inverse_norm(row: &[f32]) -> f32 {
    let norm2 = row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
    if norm2 > 0.0 { (1.0 / norm2.sqrt()) as f32 } else { 0.0 }
}
