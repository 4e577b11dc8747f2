//! The distance by which rows are linked under the inner product.
//!
//! The inner product is no metric: linked by it, short rows, and rows on the side where there are few, are in no list but
//! their parents', and rows of a popular direction hold nothing but each other. The order of the products of a query with
//! all rows stays the same when the rows are moved, and when their dimensions are stretched with the query's shrunk. So rows are
//! linked in a space where they are centred and where dimensions of large spread count for less,
//!
//! ```text
//! y = (x - mean) / spread^POWER
//! ```
//!
//! (`spread` being the standard deviation), by the squared distance less a share of the length of the row that is linked to,
//!
//! ```text
//! score(i -> j) = |y_i - y_j|^2 / 2 - share |y_j|^2 / 2
//! ```
//!
//! With a share of 1 that is the inner product, which makes hubs of long rows (Morozov & Babenko 2018, "Non-metric
//! similarity graphs for maximum inner product search"); with 0 it is the distance (after Tan et al. 2021, "Norm adjusted
//! proximity graph for fast inner product retrieval"). The more lengths differ, the more answers are long rows, and the larger
//! is the share. Rows of equal length are linked by the inner product itself, which
//! then orders them as the distance does. [Outliers](super::outliers) count neither for the space nor for the share.
//!
//! Rows far longer than these are near nothing, and are the answers of half of all queries: every search looks at them.

use super::outliers::outliers;
use super::probe::{AdjustedProbe, Probe, Products, Room};
use super::{ROWS_PER_CHECKPOINT, Rows, Vectors, given_into, norm2};
use crate::lines::Lines;
use crate::memory;
use crate::simd::kernels;
use crate::threads;
use ndarray::ArrayView2;

/// How much of the spread of a dimension is taken out.
const POWER: f64 = 0.7;

/// The share of rows of equal length, and what it rises by with the standard deviation of lengths over their mean.
const SHARE: (f64, f64) = (0.4, 0.75);

/// The largest share: beyond, few rows but the longest are linked to.
const LARGEST_SHARE: f64 = 0.85;

/// Lengths whose standard deviation is below this share of their mean are equal.
const EQUAL: f64 = 0.01;

/// Spreads below this share of the largest count as much.
const LEAST_SPREAD: f64 = 1e-3;

/// A row is far if its squared length is more than so many times that of the longest row but outliers.
const FAR: f32 = 2.0;

/// Far rows that a search looks at, at most: the longest.
const MOST_FAR: usize = 256;

/// Rows that a thread takes at once.
const BLOCK: usize = 1024;

/// The space that rows are linked in, and their lengths there.
#[derive(Clone, Debug, Default)]
pub(in crate::hnsw) struct NormAdjustment {
    /// The number of rows that it was taken from.
    rows: [u64; 1],
    /// `None` where these were equally long.
    space: Option<Space>,
    /// `|y|^2 / 2` of each row; empty where they were equally long, and while rows lie in a file.
    terms: Lines<f32>,
    /// Slots of far rows.
    far: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::hnsw) struct Space {
    pub mean: Vec<f32>,
    /// What a dimension is multiplied by.
    pub weight: Vec<f32>,
    /// How much of the length of a row speaks for linking to it, and what `|y|^2 / 2` of far rows is above.
    pub limits: [f32; 2],
}

impl NormAdjustment {
    /// Whether it should be taken anew when there are `rows` rows.
    pub fn is_due(&self, rows: usize) -> bool {
        rows as u64 >= (2 * self.rows[0]).max(1)
    }

    /// Taken from `rows` rows, of which `read` writes the one at a place; without terms.
    pub fn of(dim: usize, rows: usize, read: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let outliers = outliers(rows, dim, &read);
        let typical = |place: usize| outliers.as_ref().is_none_or(|marks| !marks[place]);
        let count = (0..rows).filter(|&place| typical(place)).count().max(1) as f64;
        // The standard deviation of lengths over their mean.
        let variation = |[length, squared]: [f64; 2]| {
            (squared / count - (length / count).powi(2)).max(0.0).sqrt()
                / (length / count).max(f64::MIN_POSITIVE)
        };
        let blocks = per_block(rows, typical, [dim, dim + 2], |place, sums, row| {
            read(place, row);
            let squared = norm2(row);
            sums[dim] += squared.sqrt();
            sums[dim + 1] += squared;
            sums.iter_mut().zip(&*row).for_each(|(sum, &value)| *sum += f64::from(value));
        });
        let sums = sum(&blocks, dim + 2);
        let equal = Self { rows: [rows as u64], ..Self::default() };
        if variation([sums[dim], sums[dim + 1]]) <= EQUAL {
            return equal;
        }
        let mean: Vec<f32> = sums[..dim].iter().map(|sum| (sum / count) as f32).collect();
        let blocks = per_block(rows, typical, [dim, dim], |place, sums, row| {
            read(place, row);
            let pairs = sums.iter_mut().zip(row.iter().zip(&mean));
            pairs.for_each(|(sum, (&value, &mean))| *sum += (f64::from(value) - f64::from(mean)).powi(2));
        });
        let squares = sum(&blocks, dim);
        let spreads = || squares.iter().map(|square| (square / count).sqrt());
        let largest = spreads().fold(f64::MIN_POSITIVE, f64::max);
        let relative = |spread: f64| (spread / largest).max(LEAST_SPREAD);
        let weight = spreads().map(|spread| relative(spread).powf(-POWER) as f32).collect();
        let mut adjustment = Self { space: Some(Space { mean, weight, limits: [0.0; 2] }), ..equal };
        let blocks = per_block(rows, typical, [dim, 3], |place, sums, row| {
            read(place, row);
            let squared = f64::from(2.0 * adjustment.term(row));
            sums[0] += squared.sqrt();
            sums[1] += squared;
            sums[2] = sums[2].max(squared);
        });
        let longest = blocks.iter().map(|block| block[2]).fold(0.0, f64::max);
        let lengths = sum(&blocks, 2);
        let share = SHARE.0 + SHARE.1 * variation([lengths[0], lengths[1]]);
        if let Some(space) = &mut adjustment.space {
            space.limits = [share.min(LARGEST_SHARE) as f32, FAR * (0.5 * longest) as f32];
        }
        adjustment
    }

    /// What a file holds; without terms.
    pub fn with(rows: u64, space: Option<Space>, far: Vec<u32>) -> Self {
        Self { rows: [rows], space, terms: Lines::new(), far }
    }

    /// What a file should hold: the number of rows that it was taken from, the space, and the slots of far rows.
    pub fn parts(&self) -> (&[u64], Option<&Space>, &[u32]) {
        (&self.rows, self.space.as_ref(), &self.far)
    }

    /// Whether scores are others than inner products, and depend on whose side they are seen from.
    pub fn is_directed(&self) -> bool {
        self.space.is_some()
    }

    /// `|y|^2 / 2` of each row.
    pub fn terms(&self) -> &Lines<f32> {
        &self.terms
    }

    pub fn terms_mut(&mut self) -> &mut Lines<f32> {
        &mut self.terms
    }

    /// Slots of rows that every search looks at.
    pub fn far(&self) -> &[u32] {
        &self.far
    }

    /// Finds the far rows among those that were measured.
    pub fn find_far(&mut self) {
        let Some(space) = &self.space else { return };
        let mut far: Vec<u32> = (0..)
            .zip(&*self.terms)
            .filter(|(_, term)| **term > space.limits[1])
            .map(|(slot, _)| slot)
            .collect();
        let terms = &self.terms;
        far.sort_unstable_by(|&a, &b| terms[b as usize].total_cmp(&terms[a as usize]).then(a.cmp(&b)));
        far.truncate(MOST_FAR);
        self.far = far;
    }

    /// Whether a row of this measure is far.
    pub fn is_far(&self, term: f32) -> bool {
        self.space.as_ref().is_some_and(|space| term > space.limits[1])
    }

    /// How much of the length of a row speaks for linking to it.
    pub fn share(&self) -> f32 {
        self.space.as_ref().map_or(1.0, |space| space.limits[0])
    }

    /// A row, as it is in the space.
    pub fn enter(&self, row: &mut [f32]) {
        if let Some(Space { mean, weight, .. }) = &self.space {
            let ranges = mean.iter().zip(weight);
            row.iter_mut().zip(ranges).for_each(|(value, (mean, weight))| *value = (*value - mean) * weight);
        }
    }

    /// Turns row `i` into `p`, the vector whose products with rows as given are `<y_i, y_j> + <p, mean>`. Returns
    /// `|y_i|^2 / 2 + <p, mean>`.
    pub fn turn(&self, row: &mut [f32]) -> f32 {
        let Some(Space { mean, weight, .. }) = &self.space else { return 0.0 };
        self.enter(row);
        let half = 0.5 * norm2(row);
        row.iter_mut().zip(weight).for_each(|(value, weight)| *value *= weight);
        (half + (kernels().dot_f64)(row, mean)) as f32
    }

    /// `|y|^2 / 2` of a row, which is changed.
    pub fn term(&self, row: &mut [f32]) -> f32 {
        self.enter(row);
        (0.5 * norm2(row)) as f32
    }
}

/// `width` numbers for each block of rows, to which `add` adds those rows that count; it is given room for a row of `dim`
/// values.
fn per_block(
    rows: usize,
    counts: impl Fn(usize) -> bool + Sync,
    [dim, width]: [usize; 2],
    add: impl Fn(usize, &mut [f64], &mut [f32]) + Sync,
) -> Vec<Vec<f64>> {
    threads::map(rows.div_ceil(BLOCK), |block| {
        let (mut numbers, mut row) = (memory::vec![0.0; width], memory::vec![0.0; dim]);
        for place in (block * BLOCK..rows.min((block + 1) * BLOCK)).filter(|&place| counts(place)) {
            add(place, &mut numbers, &mut row);
        }
        numbers
    })
}

/// The sums of the first `width` numbers of all blocks.
fn sum(blocks: &[Vec<f64>], width: usize) -> Vec<f64> {
    let mut total = memory::vec![0.0; width];
    blocks
        .iter()
        .for_each(|numbers| total.iter_mut().zip(numbers).for_each(|(total, number)| *total += number));
    total
}

impl Vectors {
    /// The adjustment by which rows are linked, where it depends on the side that a pair is seen from.
    pub(super) fn directed(&self) -> Option<&NormAdjustment> {
        self.adjustment.as_ref().filter(|adjustment| adjustment.is_directed())
    }

    /// Whether the adjustment should be taken from all rows when there are `rows` of them.
    pub fn needs_adjustment(&self, rows: usize) -> bool {
        self.adjustment.as_ref().is_some_and(|adjustment| adjustment.is_due(rows))
    }

    /// The adjustment for the rows held at these slots and `new` ones that join them.
    pub fn adjustment_for(&self, held: &[u32], new: ArrayView2<'_, f32>) -> NormAdjustment {
        let rows = held.len() + new.nrows();
        let read = |place: usize, row: &mut [f32]| match held.get(place) {
            Some(&slot) => self.row_into(slot, row),
            None => given_into(new, place - held.len(), false, row),
        };
        let mut adjustment = NormAdjustment::of(self.dim, rows, read);
        self.terms_into(&mut adjustment);
        adjustment
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
    pub(super) fn fill_terms(&mut self) {
        if let Some(mut adjustment) = self.adjustment.take_if(|adjustment| adjustment.is_directed()) {
            self.terms_into(&mut adjustment);
            self.adjustment = Some(adjustment);
        }
    }

    /// Measures rows that were stored.
    pub(super) fn add_terms(&mut self, slots: &[u32]) {
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

    /// Slots of rows that every search looks at.
    pub fn far(&self) -> &[u32] {
        self.directed().map_or(&[], NormAdjustment::far)
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

    pub(super) fn adjusted_probe<'a>(
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

    /// Candidates that a walk should keep where others need `ef`: half as many again under the inner product of rows of
    /// unequal length, whose answers lie apart.
    pub fn candidates(&self, ef: usize) -> usize {
        if self.is_directed() { ef.saturating_add(ef / 2) } else { ef }
    }
}
