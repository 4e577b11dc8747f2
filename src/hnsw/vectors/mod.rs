//! The stored vectors and how a probe is scored against them: the seam where codecs fit in.
//!
//! ```text
//! exact      rows as they were given
//! codes      rows quantized in one of these ways:
//!   half     two bytes a value
//!   scalar   one byte a value
//!   binary   one bit a value
//! norm_adjustment  the distance by which rows are linked under the inner product
//! outliers   rows that ranges and means do not follow
//! probe      a vector to be compared, with whichever of these
//! final_scores  scoring in `f64` what a search ends with
//! sketch     codes by which one `add` of many rows links them
//! table      where rows lie: in memory, or in a mapped file whose blocks are verified on first touch
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
//! above 0.95 to 0.60. Rows are linked by a distance that favours long rows instead: see [`norm_adjustment`].

mod binary;
mod codes;
mod exact;
mod final_scores;
mod half;
mod norm_adjustment;
mod outliers;
mod probe;
mod scalar;
mod sections;
mod sketch;
mod table;

#[cfg(test)]
mod tests;

use super::metric::Metric;
use super::params::{Params, Storage};
use crate::error::{Error, Result};
use crate::lines::Lines;
use crate::simd::kernels;
use crate::storage::Mapped;
use crate::threads;
use codes::Codes;
use exact::Exact;
pub(super) use exact::ExactProbe;
pub(super) use final_scores::FinalScorer;
use ndarray::ArrayView2;
pub(super) use norm_adjustment::NormAdjustment;
pub(super) use probe::{Probe, Probes, Room, ScanProbe};
pub(super) use sections::Reading;
pub(super) use sketch::Sketch;
use std::borrow::Cow;
use std::sync::Arc;
pub(super) use table::Moves;

/// Rows that are checked between two looks at whether the call is to stop.
const ROWS_PER_CHECKPOINT: usize = 1024;

/// Squared norms beyond these lose all digits, or overflow, in `f32` arithmetic.
const NORM2_MAX: f64 = f32::MAX as f64 / 8.0;
const NORM2_MIN: f64 = 1e-30;

/// Writes a row, by its place or slot, as the metric sees it.
type Source<'a> = &'a dyn Fn(usize, &mut [f32]);

/// The stored rows.
#[derive(Clone, Debug)]
pub(super) struct Vectors {
    pub metric: Metric,
    dim: usize,
    rows: Rows,
    /// What rows are linked by under the inner product, where it is not that of their bits.
    adjustment: Option<NormAdjustment>,
    /// The file that rows lie in, and its checksum.
    file: Option<(Arc<Mapped>, u32)>,
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
        let adjusts = metric == Metric::Ip && (params.rescore || params.storage != Storage::Binary);
        Self { metric, dim, rows, adjustment: adjusts.then(NormAdjustment::default), file: None }
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

    /// The file that rows lie in, and its checksum.
    pub fn file(&self) -> Option<(&Arc<Mapped>, u32)> {
        self.file.as_ref().map(|(file, checksum)| (file, *checksum))
    }

    /// Refuses to go on where damage was found in the file that rows lie in: what was read of them may be wrong.
    #[inline]
    pub fn require_sound(&self) -> Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => exact.table().require_sound(),
            Rows::Codes(codes, _) => codes.require_sound(),
        }
    }

    /// Verifies what was not verified yet.
    pub fn verify(&self) -> Result<()> {
        if self.file.is_some() {
            self.check_rows().map_err(Error::Format)?;
        }
        self.require_sound()
    }

    /// Brings the rows that lie in a file, verified, into memory, where they may be changed.
    pub fn own(&mut self) -> Result<()> {
        if self.file.is_some() {
            self.verify()?;
            if let Rows::Exact(exact) | Rows::Both(_, exact) = &mut self.rows {
                exact.own();
            }
            if let Rows::Codes(codes, _) = &mut self.rows {
                codes.own();
            }
            self.file = None;
            self.fill_terms();
        }
        Ok(())
    }

    /// Memory; what lies in a file does not count.
    pub fn bytes(&self) -> usize {
        let rows = match &self.rows {
            Rows::Exact(exact) => exact.bytes(),
            Rows::Both(codes, exact) => codes.bytes() + exact.bytes(),
            Rows::Codes(codes, norms) => codes.bytes() + norms.bytes(),
        };
        rows + self.adjustment.as_ref().map_or(0, |adjustment| adjustment.terms().bytes())
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

    /// What [`take_back`](Self::take_back) needs to come back to the rows as they are.
    pub fn as_they_are(&self) -> Stored {
        Stored { rows: self.len(), before: None }
    }

    /// Whether rows that [`check_new`](Self::check_new) has passed can be stored at `slots`, all at once or part by part,
    /// in the memory held, and without coding other rows anew.
    pub fn fits(&self, slots: &[u32], vectors: ArrayView2<'_, f32>) -> bool {
        let end = rows_with(self.len(), slots);
        if let Rows::Exact(exact) | Rows::Both(_, exact) = &self.rows
            && end > exact.room()
        {
            return false;
        }
        if self.directed().is_some_and(|adjustment| end > adjustment.terms().room()) {
            return false;
        }
        let (codes, keeps_rows) = match &self.rows {
            Rows::Exact(_) => return true,
            Rows::Both(codes, _) => (codes, true),
            Rows::Codes(codes, _) => (codes, false),
        };
        let norms_fit = match &self.rows {
            Rows::Codes(_, norms) if self.metric == Metric::Cosine => end <= norms.room(),
            _ => true,
        };
        let unit = self.metric == Metric::Cosine;
        norms_fit && codes.fits(end, slots.len(), &|i, row| given_into(vectors, i, unit, row), keeps_rows)
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
                let source = |i: usize, row: &mut [f32]| given_into(vectors, i, unit, row);
                if unit {
                    norms.grow(rows_with(rows, slots), 0.0);
                    let given = slots.iter().zip(vectors.rows());
                    given.for_each(|(&slot, row)| norms[slot as usize] = norm2(&row.to_vec()).sqrt() as f32);
                }
                codes.store(slots, &source, None)
            }
        };
        self.add_terms(slots);
        Stored { rows, before }
    }

    /// Makes room for `rows` rows in all, and no more.
    pub fn reserve(&mut self, rows: usize) {
        if let Rows::Exact(exact) | Rows::Both(_, exact) = &mut self.rows {
            exact.reserve(rows);
        }
        if let Rows::Codes(codes, _) | Rows::Both(codes, _) = &mut self.rows {
            codes.reserve(rows);
        }
        if let (Rows::Codes(_, norms), Metric::Cosine) = (&mut self.rows, self.metric) {
            norms.reserve(rows);
        }
        if let Some(adjustment) = self.adjustment.as_mut().filter(|adjustment| adjustment.is_directed()) {
            adjustment.terms_mut().reserve(rows);
        }
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
        if let Some(adjustment) = &mut self.adjustment
            && let Some(term) = adjustment.terms_mut().get_mut(slot as usize)
            && std::mem::take(term) > 0.0
            && adjustment.far().contains(&slot)
        {
            adjustment.find_far();
        }
    }

    /// Moves the rows, and drops those that are not kept.
    pub fn arrange(&mut self, moves: &mut Moves) {
        if let Rows::Exact(exact) | Rows::Both(_, exact) = &mut self.rows {
            exact.arrange(moves);
        }
        if let Rows::Codes(codes, _) | Rows::Both(codes, _) = &mut self.rows {
            codes.arrange(moves);
        }
        if let Rows::Codes(_, norms) = &mut self.rows
            && !norms.is_empty()
        {
            moves.make(norms, 1);
        }
        if let Some(adjustment) = self.adjustment.as_mut().filter(|adjustment| adjustment.is_directed()) {
            moves.make(adjustment.terms_mut(), 1);
            adjustment.find_far();
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
        if let Some(adjustment) = &mut self.adjustment {
            adjustment.terms_mut().truncate(rows);
            adjustment.find_far();
            if rows == 0 {
                *adjustment = NormAdjustment::default();
            }
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

    /// The score of row `b` as row `a` is linked to it.
    pub fn pair(&self, a: u32, b: u32) -> f32 {
        self.probe(a, &mut Room::default()).distance(b)
    }

    /// A stored row as the probe that the graph is built by: the row as it was given, if that is kept.
    #[inline]
    pub fn probe<'a>(&'a self, slot: u32, room: &'a mut Room) -> Probe<'a> {
        if let Some(adjustment) = self.directed() {
            return self.adjusted_probe(adjustment, slot, room);
        }
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => Probe::Exact(exact.probe(slot)),
            Rows::Codes(codes, _) => {
                let Room { values, code, .. } = room;
                values.grow(self.dim, 0.0);
                codes.decode_into(slot, &mut values[..self.dim]);
                codes.probe(&values[..self.dim], 1.0, code)
            }
        }
    }

    /// The inverse norm of a query under cosine, else 1.
    fn inverse_norm(&self, query: &[f32]) -> f64 {
        if self.metric == Metric::Cosine { 1.0 / norm2(query).sqrt() } else { 1.0 }
    }

    /// A query as probes; `room` holds its copies.
    pub fn query<'a>(&'a self, query: &'a [f32], room: &'a mut Room) -> Probes<'a> {
        let inverse = self.inverse_norm(query);
        let scale = inverse as f32;
        let Room { values, code, .. } = room;
        match &self.rows {
            Rows::Exact(exact) => {
                let probe = exact.query(query, scale, values);
                let last = FinalScorer::exact(self.metric, probe, inverse);
                Probes { walk: Probe::Exact(probe), again: None, last }
            }
            Rows::Both(codes, exact) => {
                let probe = exact.query(query, scale, values);
                let last = FinalScorer::exact(self.metric, probe, inverse);
                Probes { walk: codes.probe(query, scale, code), again: Some(probe), last }
            }
            Rows::Codes(codes, _) => {
                let last = FinalScorer::decoded(self.metric, codes, query, inverse);
                Probes { walk: codes.probe(query, scale, code), again: None, last }
            }
        }
    }

    /// A query to be compared with all rows: in `f32` first, where these are kept as they were given; `room` holds its copy.
    pub fn scan_probe<'a>(&'a self, query: &'a [f32], room: &'a mut Room) -> ScanProbe<'a> {
        let inverse = self.inverse_norm(query);
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => {
                let rough = exact.query(query, inverse as f32, &mut room.values);
                ScanProbe { rough: Some(rough), last: FinalScorer::exact(self.metric, rough, inverse) }
            }
            Rows::Codes(codes, _) => {
                ScanProbe { rough: None, last: FinalScorer::decoded(self.metric, codes, query, inverse) }
            }
        }
    }

    /// How many candidates of a walk on codes, nearest first, are scored again for the `k` nearest.
    pub fn depth(&self, k: usize) -> usize {
        match &self.rows {
            Rows::Exact(_) => usize::MAX,
            Rows::Both(codes, _) | Rows::Codes(codes, _) => codes.depth(k),
        }
    }

    /// Whether rows are kept as they were given, so that their scores in `f32` are off by rounding alone.
    pub fn keeps_rows(&self) -> bool {
        !matches!(self.rows, Rows::Codes(..))
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
        if i % ROWS_PER_CHECKPOINT == ROWS_PER_CHECKPOINT - 1 {
            threads::checkpoint();
        }
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

/// Writes the `i`th of the vectors given: as it is, or of length 1.
fn given_into(vectors: ArrayView2<'_, f32>, i: usize, unit: bool, row: &mut [f32]) {
    row.iter_mut().zip(vectors.row(i)).for_each(|(to, &from)| *to = from);
    let scale = if unit { inverse_norm(row) } else { 1.0 };
    row.iter_mut().for_each(|value| *value *= scale);
}

/// How many rows there are when `rows` are joined by those at `slots`.
fn rows_with(rows: usize, slots: &[u32]) -> usize {
    slots.iter().map(|&slot| slot as usize + 1).max().unwrap_or(0).max(rows)
}

fn inverse_norm(row: &[f32]) -> f32 {
    (1.0 / norm2(row).sqrt()) as f32
}

/// `|row|^2`.
fn norm2(row: &[f32]) -> f64 {
    (kernels().norm2)(row)
}
