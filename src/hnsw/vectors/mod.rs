//! The stored vectors and how a probe is scored against them: the seam where codecs fit in.
//!
//! ```text
//! exact      rows as they were given
//! codes      rows quantized in one of these ways:
//!   half     two bytes a value
//!   scalar   one byte a value
//!   binary   one bit a value
//! decoded    scoring against what codes stand for, where the rows are not kept
//! sections   how a file holds all of this
//! ```
//!
//! A quantized index walks its graph on codes, which take half of the memory traffic or less, and scores the last
//! candidates again: with the rows as they were given, which it keeps if it is to `rescore`, else with what their codes
//! stand for. So a search and a scan give the same distances to the bit under every storage. Codecs see rows as the
//! metric does: under cosine, of length 1.
//!
//! **The inner product is not a metric**: a vector need not be its own nearest neighbour. Lifting the rows to where
//! it is one (Bachrach et al. 2014) makes every query an outlier: over vectors of uneven norms, recall fell from
//! above 0.95 to 0.60. The graph is built by the plain inner product instead (ip-NSW, Morozov & Babenko 2018), in
//! which rows of large norm, the likely answers, become hubs, and the tree of parents keeps the others within reach.

mod binary;
mod codes;
mod decoded;
mod exact;
mod half;
mod scalar;
mod sections;

#[cfg(test)]
mod tests;

use super::metric::Metric;
use super::params::Params;
use crate::error::{Error, Result};
use crate::lines::Lines;
use binary::BinaryProbe;
use codes::{CodeRoom, Codes};
use decoded::DecodedProbe;
use exact::{Exact, ExactProbe};
use half::HalfProbe;
use ndarray::ArrayView2;
use scalar::ScalarProbe;
use std::borrow::Cow;

/// Squared norms beyond these lose all digits, or overflow, in `f32` arithmetic.
const NORM2_MAX: f64 = f32::MAX as f64 / 8.0;
const NORM2_MIN: f64 = 1e-30;

/// Whether a slot is free.
type IsFree<'a> = &'a dyn Fn(u32) -> bool;

/// Writes a row, by its place or slot, as the metric sees it.
type Source<'a> = &'a dyn Fn(usize, &mut [f32]);

/// A vector to be scored, and what it is scored against.
#[derive(Clone, Copy)]
pub(super) enum Probe<'a> {
    /// Rows as they were given.
    Exact(ExactProbe<'a>),
    /// What codes stand for.
    Decoded(DecodedProbe<'a>),
    /// Codes of two bytes a value.
    Half(HalfProbe<'a>),
    /// Codes of one byte a value.
    Scalar(ScalarProbe<'a>),
    /// Codes of one bit a value; distances count bits.
    Binary(BinaryProbe<'a>),
}

impl Probe<'_> {
    /// The distances to each of `slots`.
    #[inline]
    pub fn score(self, slots: &[u32], out: &mut [f32]) {
        match self {
            Probe::Exact(probe) => probe.score(slots, out),
            Probe::Decoded(probe) => probe.score(slots, out),
            Probe::Half(probe) => probe.score(slots, out),
            Probe::Scalar(probe) => probe.score(slots, out),
            Probe::Binary(probe) => probe.score(slots, out),
        }
    }

    /// As [`score`](Self::score), to the bit, of one row.
    #[inline]
    pub fn distance(self, slot: u32) -> f32 {
        if let Probe::Exact(probe) = self {
            return probe.distance(slot);
        }
        let mut distance = [0.0];
        self.score(&[slot], &mut distance);
        distance[0]
    }

    /// Asks for the first lines of rows, which a kernel will read in a moment.
    #[inline]
    pub fn prefetch(self, slots: &[u32]) {
        match self {
            Probe::Exact(probe) => slots.iter().for_each(|&slot| probe.prefetch(slot)),
            Probe::Decoded(_) => {}
            Probe::Half(probe) => slots.iter().for_each(|&slot| probe.prefetch(slot)),
            Probe::Scalar(probe) => slots.iter().for_each(|&slot| probe.prefetch(slot)),
            Probe::Binary(probe) => slots.iter().for_each(|&slot| probe.prefetch(slot)),
        }
    }
}

/// A vector as the walk compares it, and as what the walk found is scored again.
#[derive(Clone, Copy)]
pub(super) struct Probes<'a> {
    /// Against codes, where there are any.
    pub walk: Probe<'a>,
    /// `None` if the walk's distances are final.
    pub again: Option<Probe<'a>>,
}

impl<'a> Probes<'a> {
    /// The probe that gives final distances.
    pub fn last(&self) -> Probe<'a> {
        self.again.unwrap_or(self.walk)
    }
}

/// Where a probe's copy of its vector lies.
#[derive(Debug, Default)]
pub(super) struct Room {
    values: Lines<f32>,
    code: CodeRoom,
}

/// The stored rows.
#[derive(Clone, Debug)]
pub(super) struct Vectors {
    pub metric: Metric,
    dim: usize,
    rows: Rows,
}

#[derive(Clone, Debug)]
enum Rows {
    /// As they were given.
    Exact(Exact),
    /// Codes to walk on, and the rows as given to score with again.
    Both(Codes, Exact),
    /// Codes alone, with the norms of the rows under cosine.
    Codes(Codes, Lines<f32>),
}

/// What [`Vectors::take_back`] needs to undo a [`Vectors::store`].
#[derive(Debug)]
pub(super) struct Stored {
    rows: usize,
    /// The codes of the rows before, if these were coded anew.
    before: Option<Codes>,
}

impl Vectors {
    pub fn new(dim: usize, params: &Params) -> Self {
        let (metric, exact) = (params.metric, Exact::new(dim, params.metric));
        let rows = match Codes::new(dim, params) {
            None => Rows::Exact(exact),
            Some(codes) if params.rescore => Rows::Both(codes, exact),
            Some(codes) => Rows::Codes(codes, Lines::new()),
        };
        Self { metric, dim, rows }
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => exact.len(),
            Rows::Codes(codes, _) => codes.len(),
        }
    }

    /// The row as it was given or, where only its code is kept, as that decodes.
    pub fn row(&self, slot: u32) -> Cow<'_, [f32]> {
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => Cow::Borrowed(exact.row(slot)),
            Rows::Codes(codes, norms) => {
                let mut row = vec![0.0; self.dim];
                codes.decode_into(slot, &mut row);
                let norm = norms.get(slot as usize).copied().unwrap_or(1.0);
                row.iter_mut().for_each(|value| *value *= norm);
                Cow::Owned(row)
            }
        }
    }

    pub fn bytes(&self) -> usize {
        match &self.rows {
            Rows::Exact(exact) => exact.bytes(),
            Rows::Both(codes, exact) => codes.bytes() + exact.bytes(),
            Rows::Codes(codes, norms) => codes.bytes() + norms.bytes(),
        }
    }

    /// Refuses what can't be stored or searched for: see [`check`].
    pub fn check(&self, name: &str, vectors: ArrayView2<'_, f32>) -> Result<()> {
        check(name, self.dim, self.metric, vectors)
    }

    /// Refuses, besides, values that the codes have no room for.
    pub fn check_new(&self, name: &str, vectors: ArrayView2<'_, f32>) -> Result<()> {
        self.check(name, vectors)?;
        let most = match &self.rows {
            Rows::Exact(_) => f32::MAX,
            Rows::Both(codes, _) | Rows::Codes(codes, _) => codes.most(),
        };
        match vectors.indexed_iter().find(|(_, value)| value.abs() > most) {
            None => Ok(()),
            Some(((row, column), value)) => Err(Error::Shape(format!(
                "{name}: row {row}, column {column} is {value}, but this storage holds values up to {most}"
            ))),
        }
    }

    /// Writes rows that [`check_new`](Self::check_new) has passed at `slots`, of which those beyond the last follow on it.
    pub fn store(&mut self, slots: &[u32], vectors: ArrayView2<'_, f32>) -> Stored {
        let rows = self.len();
        let before = match &mut self.rows {
            Rows::Exact(exact) => {
                exact.store(slots, vectors);
                None
            }
            Rows::Both(codes, exact) => {
                exact.store(slots, vectors);
                let source = |i: usize, row: &mut [f32]| exact.unit_into(slots[i], row);
                let old = |slot: usize, row: &mut [f32]| exact.unit_into(slot as u32, row);
                codes.store(slots, &source, Some(&old))
            }
            Rows::Codes(codes, norms) => {
                let unit = self.metric == Metric::Cosine;
                let source = |i: usize, row: &mut [f32]| {
                    row.iter_mut().zip(vectors.row(i)).for_each(|(to, &from)| *to = from);
                    let scale = if unit { inverse_norm(row) } else { 1.0 };
                    row.iter_mut().for_each(|value| *value *= scale);
                };
                if unit {
                    norms.grow(rows_with(rows, slots), 0.0);
                    let given = slots.iter().zip(vectors.rows());
                    given.for_each(|(&slot, row)| norms[slot as usize] = norm2(&row.to_vec()).sqrt() as f32);
                }
                codes.store(slots, &source, None)
            }
        };
        Stored { rows, before }
    }

    /// Wipes the row at `slot`.
    pub fn clear(&mut self, slot: u32) {
        if let Rows::Exact(exact) | Rows::Both(_, exact) = &mut self.rows {
            exact.clear(slot);
        }
        if let Rows::Codes(codes, _) | Rows::Both(codes, _) = &mut self.rows {
            codes.clear(slot);
        }
        if let Rows::Codes(_, norms) = &mut self.rows
            && let Some(norm) = norms.get_mut(slot as usize)
        {
            *norm = 0.0;
        }
    }

    /// Keeps the rows at the slots `kept`, which rise, and moves them together.
    pub fn compact(&mut self, kept: &[u32]) {
        if let Rows::Exact(exact) | Rows::Both(_, exact) = &mut self.rows {
            exact.compact(kept);
        }
        if let Rows::Codes(codes, _) | Rows::Both(codes, _) = &mut self.rows {
            codes.compact(kept);
        }
        if let Rows::Codes(_, norms) = &mut self.rows
            && !norms.is_empty()
        {
            keep(norms, 1, kept);
        }
    }

    pub fn truncate(&mut self, rows: usize) {
        if let Rows::Exact(exact) | Rows::Both(_, exact) = &mut self.rows {
            exact.truncate(rows);
        }
        if let Rows::Codes(codes, _) | Rows::Both(codes, _) = &mut self.rows {
            codes.truncate(rows);
        }
        if let Rows::Codes(_, norms) = &mut self.rows {
            norms.truncate(rows);
        }
    }

    /// After rows were stored beyond the last or at free slots, which the caller clears, makes everything what it was before.
    pub fn take_back(&mut self, stored: Stored) {
        self.truncate(stored.rows);
        if let (Rows::Codes(codes, _) | Rows::Both(codes, _), Some(before)) = (&mut self.rows, stored.before)
        {
            *codes = before;
        }
    }

    /// The distance between two stored rows.
    pub fn pair(&self, a: u32, b: u32) -> f32 {
        self.probe(a, &mut Room::default()).distance(b)
    }

    /// A stored row as the probe that the graph is built by: the row as it was given, if that is kept.
    #[inline]
    pub fn probe<'a>(&'a self, slot: u32, room: &'a mut Room) -> Probe<'a> {
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => Probe::Exact(exact.probe(slot)),
            Rows::Codes(codes, _) => {
                let Room { values, code } = room;
                values.grow(self.dim, 0.0);
                codes.decode_into(slot, &mut values[..self.dim]);
                codes.probe(&values[..self.dim], 1.0, code)
            }
        }
    }

    /// A query as probes; `room` holds its copies.
    pub fn query<'a>(&'a self, query: &'a [f32], room: &'a mut Room) -> Probes<'a> {
        let scale = if self.metric == Metric::Cosine { inverse_norm(query) } else { 1.0 };
        let Room { values, code } = room;
        match &self.rows {
            Rows::Exact(exact) => {
                Probes { walk: Probe::Exact(exact.query(query, scale, values)), again: None }
            }
            Rows::Both(codes, exact) => {
                let again = Probe::Exact(exact.query(query, scale, values));
                Probes { walk: codes.probe(query, scale, code), again: Some(again) }
            }
            Rows::Codes(codes, _) => {
                let again = Probe::Decoded(DecodedProbe::new(codes, self.metric, query, scale));
                Probes { walk: codes.probe(query, scale, code), again: Some(again) }
            }
        }
    }

    /// How many candidates of a walk, nearest first, are scored again for the `k` nearest.
    pub fn depth(&self, k: usize) -> usize {
        match &self.rows {
            Rows::Exact(_) => 0,
            Rows::Both(codes, _) | Rows::Codes(codes, _) => codes.depth(k),
        }
    }
}

/// Refuses what can't be stored or searched for: a wrong dimension, values that are not finite or whose
/// square is not, and zero vectors under cosine.
fn check(name: &str, dim: usize, metric: Metric, vectors: ArrayView2<'_, f32>) -> Result<()> {
    if vectors.ncols() != dim {
        let (rows, columns) = vectors.dim();
        let expected = format!("{name} must have shape (n, {dim})");
        return Err(Error::Shape(format!("{expected}, got ({rows}, {columns})")));
    }
    for (i, row) in vectors.rows().into_iter().enumerate() {
        let norm2 = row.as_slice().map_or_else(|| norm2(&row.to_vec()), norm2);
        // In `f64` no square of a finite value overflows.
        if let Some(column) =
            (!norm2.is_finite()).then(|| row.iter().position(|value| !value.is_finite())).flatten()
        {
            let text = format!("{name} must be finite: row {i}, column {column} is {}", row[column]);
            return Err(Error::Shape(text));
        }
        if norm2 > NORM2_MAX {
            let text = format!("{name}: row {i} is too long, its squared norm {norm2:.1e} overflows float32");
            return Err(Error::Shape(text));
        }
        if metric == Metric::Cosine && norm2 < NORM2_MIN {
            let what = if norm2 == 0.0 { "is zero" } else { "is too short to normalise" };
            let text = format!("{name}: row {i} {what}; cosine needs a direction");
            return Err(Error::Shape(text));
        }
    }
    Ok(())
}

/// How many rows there are when `rows` are joined by those at `slots`.
fn rows_with(rows: usize, slots: &[u32]) -> usize {
    slots.iter().map(|&slot| slot as usize + 1).max().unwrap_or(0).max(rows)
}

/// Keeps the rows, `stride` values each, at the places `kept`, which rise.
fn keep<T: bytemuck::Pod>(table: &mut Lines<T>, stride: usize, kept: &[u32]) {
    for (new, &old) in kept.iter().enumerate() {
        let at = old as usize * stride;
        table.copy_within(at..at + stride, new * stride);
    }
    table.truncate(kept.len() * stride);
    table.shrink();
}

/// Rounding may carry a parallel vector just below zero.
#[inline]
fn cosine_distance(dot: f32, a: f32, b: f32) -> f32 {
    (1.0 - dot * (a * b)).max(0.0)
}

fn inverse_norm(row: &[f32]) -> f32 {
    (1.0 / norm2(row).sqrt()) as f32
}

/// `|row|^2`, as eight sums side by side.
fn norm2(row: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    for part in row.chunks(8) {
        for (sum, &value) in sums.iter_mut().zip(part) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    sums.iter().sum()
}
