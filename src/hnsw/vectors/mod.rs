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
use probe::{AdjustedProbe, Products};
pub(super) use probe::{Probe, Probes, Room};
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

    /// The adjustment by which rows are linked, where it depends on the side that a pair is seen from.
    fn directed(&self) -> Option<&NormAdjustment> {
        self.adjustment.as_ref().filter(|adjustment| adjustment.is_directed())
    }

    /// The adjustment for the rows held at these slots and `new` ones that join them, if it should be taken anew.
    pub fn adjustment_for(&self, held: &[u32], new: ArrayView2<'_, f32>) -> Option<NormAdjustment> {
        let rows = held.len() + new.nrows();
        self.adjustment.as_ref().filter(|adjustment| adjustment.is_due(rows) && new.nrows() > 0)?;
        let read = |place: usize, row: &mut [f32]| match held.get(place) {
            Some(&slot) => self.row_into(slot, row),
            None => given_into(new, place - held.len(), false, row),
        };
        let mut adjustment = NormAdjustment::of(self.dim, rows, read);
        self.terms_into(&mut adjustment);
        Some(adjustment)
    }

    /// Links rows by another adjustment from now on, and returns the one before.
    pub fn adjust(&mut self, adjustment: NormAdjustment) -> Option<NormAdjustment> {
        self.adjustment.replace(adjustment)
    }

    /// The row that walks compare: as it was given, or what its codes stand for.
    fn row_into(&self, slot: u32, row: &mut [f32]) {
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => row.copy_from_slice(exact.row(slot)),
            Rows::Codes(codes, _) => codes.decode_into(slot, row),
        }
    }

    /// Measures all rows for an adjustment.
    fn terms_into(&self, adjustment: &mut NormAdjustment) {
        let rows = if adjustment.is_directed() { self.len() } else { 0 };
        let measured = &*adjustment;
        let blocks = threads::map(rows.div_ceil(ROWS_PER_CHECKPOINT), |block| {
            let mut row = vec![0.0; self.dim];
            let slots = block * ROWS_PER_CHECKPOINT..rows.min((block + 1) * ROWS_PER_CHECKPOINT);
            let terms = slots.map(|slot| {
                self.row_into(slot as u32, &mut row);
                measured.term(&mut row)
            });
            terms.collect::<Vec<f32>>()
        });
        let mut terms = Lines::zeros(rows);
        terms.iter_mut().zip(blocks.iter().flatten()).for_each(|(to, &term)| *to = term);
        *adjustment.terms_mut() = terms;
        adjustment.find_far();
    }

    /// Measures all rows, where they must be and were not.
    fn fill_terms(&mut self) {
        if let Some(mut adjustment) = self.adjustment.take_if(|adjustment| adjustment.is_directed()) {
            self.terms_into(&mut adjustment);
            self.adjustment = Some(adjustment);
        }
    }

    /// Measures rows that were stored.
    fn add_terms(&mut self, slots: &[u32]) {
        let rows = self.len();
        if let Some(mut adjustment) = self.adjustment.take_if(|adjustment| adjustment.is_directed()) {
            adjustment.terms_mut().grow(rows, 0.0);
            let mut row = vec![0.0; self.dim];
            let mut has_far = false;
            for &slot in slots {
                self.row_into(slot, &mut row);
                let term = adjustment.term(&mut row);
                has_far |= adjustment.is_far(term) || adjustment.far().contains(&slot);
                adjustment.terms_mut()[slot as usize] = term;
            }
            if has_far {
                adjustment.find_far();
            }
            self.adjustment = Some(adjustment);
        }
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

    /// Slots of rows that every search looks at.
    pub fn far(&self) -> &[u32] {
        self.directed().map_or(&[], NormAdjustment::far)
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

    /// Whether the score of a pair depends on the side that it is seen from by more than rounding.
    pub fn is_directed(&self) -> bool {
        self.directed().is_some()
    }

    /// The score of row `from` as seen from row `to`, where it is `score` the other way round.
    pub fn turned(&self, score: f32, from: u32, to: u32) -> f32 {
        let Some(adjustment) = self.directed() else { return score };
        let term = |slot: u32| adjustment.terms()[slot as usize];
        score + adjustment.share() * (term(to) - term(from))
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

    fn adjusted_probe<'a>(
        &'a self,
        adjustment: &'a NormAdjustment,
        slot: u32,
        room: &'a mut Room,
    ) -> Probe<'a> {
        let Room { values, code, turned } = room;
        turned.grow(self.dim, 0.0);
        let turned = &mut turned[..self.dim];
        self.row_into(slot, turned);
        let own = adjustment.turn(turned);
        let products = match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => Products::Exact(exact.query(turned, 1.0, values)),
            Rows::Codes(codes, _) => match codes.probe(turned, 1.0, code) {
                Probe::Half(probe) => Products::Half(probe),
                Probe::Scalar(probe) => Products::Scalar(probe),
                other => return other,
            },
        };
        let rest = 1.0 - adjustment.share();
        Probe::Adjusted(AdjustedProbe { products, own, terms: adjustment.terms(), rest })
    }

    /// A query as probes; `room` holds its copies.
    pub fn query<'a>(&'a self, query: &'a [f32], room: &'a mut Room) -> Probes<'a> {
        let scale = if self.metric == Metric::Cosine { inverse_norm(query) } else { 1.0 };
        let Room { values, code, .. } = room;
        let (walk, again) = match &self.rows {
            Rows::Exact(exact) => (Probe::Exact(exact.query(query, scale, values)), None),
            Rows::Both(codes, exact) => {
                (codes.probe(query, scale, code), Some(exact.query(query, scale, values)))
            }
            Rows::Codes(codes, _) => (codes.probe(query, scale, code), None),
        };
        Probes { walk, again, last: self.final_scorer(query) }
    }

    /// A query to be compared with what a search ends with.
    pub fn final_scorer<'a>(&'a self, query: &'a [f32]) -> FinalScorer<'a> {
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => FinalScorer::exact(self.metric, exact, query),
            Rows::Codes(codes, _) => FinalScorer::decoded(self.metric, codes, query),
        }
    }

    /// A query to be compared with all rows in `f32`, where these are kept; `room` holds its copy.
    pub fn scan_probe<'a>(&'a self, query: &[f32], room: &'a mut Room) -> Option<ExactProbe<'a>> {
        let scale = if self.metric == Metric::Cosine { inverse_norm(query) } else { 1.0 };
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => Some(exact.query(query, scale, &mut room.values)),
            Rows::Codes(..) => None,
        }
    }

    /// How many candidates of a walk on codes, nearest first, are scored again for the `k` nearest.
    pub fn depth(&self, k: usize) -> usize {
        match &self.rows {
            Rows::Exact(_) => usize::MAX,
            Rows::Both(codes, _) | Rows::Codes(codes, _) => codes.depth(k),
        }
    }

    /// Candidates that a walk should keep where others need `ef`: half as many again under the inner product of rows of
    /// unequal length, whose answers lie apart.
    pub fn candidates(&self, ef: usize) -> usize {
        if self.is_directed() { ef.saturating_add(ef / 2) } else { ef }
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
