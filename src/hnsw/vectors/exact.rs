//! Rows as they were given: four bytes a value.
//!
//! They lie in memory padded with zeros to whole cache lines, so that every kernel call runs without a tail. Cosine
//! needs one number per row besides: the inverse norm.

use super::table::{Moves, Table};
use super::{check, inverse_norm, norm2, rows_with};
use crate::hnsw::metric::Metric;
use crate::hnsw::score::{NEAR, cosine_distance, cosine_score};
use crate::lines::Lines;
use crate::simd::{Kernels, kernels};
use ndarray::ArrayView2;
use std::sync::OnceLock;

/// Values per cache line.
const LINE: usize = 16;

/// Scores below this are of directions so near that their product says too little.
const NEAR_SCORE: f32 = (NEAR - 1.0) as f32;

/// The unit roundoff of `f32`.
const ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;

/// The table of rows.
#[derive(Clone, Debug)]
pub(super) struct Exact {
    metric: Metric,
    dim: usize,
    table: Table<f32>,
    /// Inverse norms under cosine, else empty.
    scale: Lines<f32>,
    /// Slots that were free when a file was opened, rising; of no use once rows change.
    free: Vec<u32>,
    /// A bound of all norms under ip, once it was asked for.
    longest: OnceLock<f64>,
    kernels: &'static Kernels,
}

impl Exact {
    pub fn new(dim: usize, metric: Metric) -> Self {
        let table = Table::new(dim.next_multiple_of(LINE));
        Self {
            metric,
            dim,
            table,
            scale: Lines::new(),
            free: Vec::new(),
            longest: OnceLock::new(),
            kernels: kernels(),
        }
    }

    /// Rows of a file, and their inverse norms, where it has them. [`verify`](Self::verify) checks what the table does not
    /// check on first touch.
    pub fn with(self, table: Table<f32>, scale: Option<Lines<f32>>, free: Vec<u32>) -> Self {
        let mut exact = Self { table, free, ..self };
        match scale {
            Some(scale) => exact.scale = scale,
            None => exact.measure(0..exact.len() as u32),
        }
        exact
    }

    /// Whether there is an inverse norm for each row.
    pub fn is_scaled(&self) -> bool {
        self.metric == Metric::Cosine
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn table(&self) -> &Table<f32> {
        &self.table
    }

    /// Inverse norms.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Rows that fit in the memory held.
    pub fn room(&self) -> usize {
        let scales = if self.metric == Metric::Cosine { self.scale.room() } else { usize::MAX };
        scales.min(self.table.room())
    }

    pub fn row(&self, slot: u32) -> &[f32] {
        &self.padded(slot)[..self.dim]
    }

    /// A row with zeros behind it.
    #[inline]
    pub fn padded(&self, slot: u32) -> &[f32] {
        self.table.row(slot, &|slot, row| self.check(slot, row))
    }

    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.scale.bytes()
    }

    /// Writes rows at `slots`, of which those beyond the last follow on it.
    pub fn store(&mut self, slots: &[u32], vectors: ArrayView2<'_, f32>) {
        self.table.grow(rows_with(self.len(), slots));
        for (&slot, row) in slots.iter().zip(vectors.rows()) {
            let padded = self.table.row_mut(slot).iter_mut();
            padded.zip(row).for_each(|(value, &given)| *value = given);
        }
        if let Some(&longest) = self.longest.get() {
            let norms = slots.iter().map(|&slot| norm2(self.table.row_mut(slot)).sqrt());
            self.longest = OnceLock::from(norms.fold(longest, f64::max));
        }
        self.measure(slots.iter().copied());
    }

    /// Makes room for `rows` rows in all, and no more.
    pub fn reserve(&mut self, rows: usize) {
        self.table.reserve(rows);
        if self.is_scaled() {
            self.scale.reserve(rows);
        }
    }

    /// Wipes the row at `slot`.
    pub fn clear(&mut self, slot: u32) {
        self.table.row_mut(slot).fill(0.0);
        self.measure([slot]);
    }

    /// Moves the rows, and drops those that are not kept.
    pub fn arrange(&mut self, moves: &mut Moves) {
        self.table.arrange(moves);
        if self.is_scaled() {
            moves.make(&mut self.scale, 1);
        }
    }

    pub fn truncate(&mut self, rows: usize) {
        self.table.truncate(rows);
        self.scale.truncate(rows);
    }

    /// Verifies all rows.
    pub fn verify(&self) -> Result<(), String> {
        self.table.verify(&|slot, row| self.check(slot, row))
    }

    /// Brings rows that lie in a file, verified, into memory.
    pub fn own(&mut self) {
        self.table.lines();
        self.free = Vec::new();
    }

    /// Refuses what [`store`](Self::store) and [`clear`](Self::clear) could not have made.
    fn check(&self, slot: u32, row: &[f32]) -> Result<(), String> {
        let (values, padding) = row.split_at(self.dim);
        let is_zero = |part: &[f32]| part.iter().all(|value| value.to_bits() == 0);
        if self.free.binary_search(&slot).is_ok() {
            if !is_zero(values) {
                return Err(format!("slot {slot} is free, but holds a vector"));
            }
        } else {
            let view = ArrayView2::from_shape((1, self.dim), values).expect("one row");
            check("vectors", self.dim, self.metric, view).map_err(|error| format!("row {slot}: {error}"))?;
        }
        if !is_zero(padding) {
            return Err(format!("the padding of row {slot} is not zero"));
        }
        if self.is_scaled() && self.scale[slot as usize].to_bits() != scale_of(values).to_bits() {
            return Err(format!("the inverse norm of row {slot} is not that of its values"));
        }
        Ok(())
    }

    fn measure(&mut self, slots: impl IntoIterator<Item = u32>) {
        if self.is_scaled() {
            self.scale.grow(self.len(), 0.0);
            for slot in slots {
                let row = &self.table.values()[slot as usize * self.table.stride()..][..self.dim];
                self.scale[slot as usize] = scale_of(row);
            }
        }
    }

    /// The norm of the longest row, or more.
    fn longest(&self) -> f64 {
        *self.longest.get_or_init(|| {
            (0..self.len() as u32).map(|slot| norm2(self.padded(slot))).fold(0.0, f64::max).sqrt()
        })
    }

    /// A stored row as a probe.
    #[inline]
    pub fn probe(&self, slot: u32) -> ExactProbe<'_> {
        let values = self.padded(slot);
        ExactProbe { rows: self, values, scale: self.scale.get(slot as usize).copied().unwrap_or(0.0) }
    }

    /// The row as the metric sees it: under cosine, of length 1.
    pub fn unit_into(&self, slot: u32, row: &mut [f32]) {
        let scale = self.scale.get(slot as usize).copied().unwrap_or(1.0);
        row.iter_mut().zip(self.row(slot)).for_each(|(to, &from)| *to = from * scale);
    }

    /// A query, with its inverse norm under cosine, as a probe; `room` holds its padded copy.
    pub fn query<'a>(&'a self, query: &[f32], scale: f32, room: &'a mut Lines<f32>) -> ExactProbe<'a> {
        let stride = self.table.stride();
        room.grow(stride, 0.0);
        room[..self.dim].copy_from_slice(query);
        ExactProbe { rows: self, values: &room[..stride], scale }
    }
}

/// The inverse norm of a row; 0 of one that was wiped.
fn scale_of(row: &[f32]) -> f32 {
    let scale = inverse_norm(row);
    if scale.is_finite() { scale } else { 0.0 }
}

/// A padded vector and, under cosine, its inverse norm.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct ExactProbe<'a> {
    pub(super) rows: &'a Exact,
    pub(super) values: &'a [f32],
    scale: f32,
}

impl ExactProbe<'_> {
    #[inline]
    pub fn score(self, slots: &[u32], out: &mut [f32]) {
        let rows = self.rows;
        let table = rows.table.at(slots, &|slot, row| rows.check(slot, row));
        match rows.metric {
            Metric::L2 => (rows.kernels.squared_l2_rows)(self.values, table, slots, out),
            Metric::Ip => {
                (rows.kernels.dot_rows)(self.values, table, slots, out);
                out.iter_mut().for_each(|value| *value = -*value);
            }
            Metric::Cosine => {
                (rows.kernels.dot_rows)(self.values, table, slots, out);
                let (scale, mut has_near) = (&rows.scale[..], false);
                for (value, &slot) in out.iter_mut().zip(slots) {
                    *value = -*value * (self.scale * scale[slot as usize]);
                    has_near |= *value < NEAR_SCORE;
                }
                if has_near {
                    self.near_scores(slots, out);
                }
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn near_scores(self, slots: &[u32], out: &mut [f32]) {
        out.iter_mut().zip(slots).for_each(|(value, &slot)| *value = self.near_score(*value, slot));
    }

    /// As [`score`](Self::score), to the bit; between stored rows it is symmetric.
    #[inline]
    pub fn distance(self, slot: u32) -> f32 {
        let (kernels, row) = (self.rows.kernels, self.rows.probe(slot));
        match self.rows.metric {
            Metric::L2 => (kernels.squared_l2)(self.values, row.values),
            Metric::Ip => -(kernels.dot)(self.values, row.values),
            Metric::Cosine => {
                self.near_score(-(kernels.dot)(self.values, row.values) * (self.scale * row.scale), slot)
            }
        }
    }

    /// The score of a row under cosine, where the product gives `score`.
    #[inline]
    fn near_score(self, score: f32, slot: u32) -> f32 {
        if score >= NEAR_SCORE {
            return score;
        }
        let row = self.rows.probe(slot);
        let (own, scale) = (f64::from(self.scale), f64::from(row.scale));
        cosine_score(0.5 * (self.rows.kernels.scaled_squared_l2_f64)(self.values, own, row.values, scale))
            as f32
    }

    /// What the [final](super::FinalScorer) score of a row is at least whose score is at least this: rounding takes no
    /// more (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1).
    pub fn least(&self, score: f32) -> f64 {
        self.least_among(score, || self.rows.longest())
    }

    /// As [`least`](Self::least) among rows of at most a length, which only the inner product asks for.
    pub fn least_among(&self, score: f32, longest: impl FnOnce() -> f64) -> f64 {
        let score = f64::from(score);
        // A kernel keeps 16 sums or more, which it adds up in the end.
        let share = (self.values.len() as f64 / 16.0 + 12.0) * ROUNDOFF;
        let underflow = self.values.len() as f64 * f64::from(f32::MIN_POSITIVE);
        match self.rows.metric {
            Metric::L2 => score / (1.0 + share) - underflow,
            Metric::Ip => score - share * norm2(self.values).sqrt() * longest() - underflow,
            Metric::Cosine => {
                let distance = cosine_distance(score);
                // Near directions are compared in `f64`, with norms that `f32` has rounded; others by their product.
                let least = if score <= -1.0 {
                    0.5 * ((2.0 * distance).sqrt() - 4.0 * ROUNDOFF).max(0.0).powi(2) * (1.0 - 4.0 * ROUNDOFF)
                } else {
                    distance - share
                };
                cosine_score(least.max(0.0))
            }
        }
    }
}
