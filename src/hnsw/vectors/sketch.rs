//! Codes by which one `add` of many rows links them, kept no longer than that.
//!
//! Linking a row reads thousands of others, and waits for memory; codes of one byte a value are a quarter of the bytes.
//!
//! A value `x_d` becomes `c_d = round((x_d - middle_d) / step)`, from -63 to 63, with one step for all dimensions, so that
//! the widest range is covered: all rows are at hand. The distance of two rows is that of their codes, `step^2 |a - b|^2`,
//! half of it under cosine, where codes are of rows of length 1. What rows are linked by under the inner product comes from
//! it and the squared norms of what the codes stand for, which are of rows as
//! [`norm_adjustment`](super::norm_adjustment) enters them. Differences fit in a byte, and their squares add up in whole numbers: a distance is the same from
//! both sides, and copies of a row are as far from others as the row is.
//!
//! Codes do not tell rows apart that lie closer together than the step. What a walk ends with is therefore scored, in part,
//! with the rows as they were given. Where the distances are off by too large a share of what they spread over, the row is
//! linked by the rows themselves; where that happens to most rows the codes are given up.

use super::probe::Probe;
use super::table::Table;
use super::{Rows, Vectors, given_into};
use crate::elementary::ROUND;
use crate::hnsw::metric::Metric;
use crate::hnsw::score::{cosine_distance, cosine_scores};
use crate::lines::Lines;
use crate::memory;
use crate::simd::{Kernels, kernels};
use crate::threads;
use ndarray::ArrayView2;

/// Rows of fewer values are as quick to read as their codes.
const DIM: usize = 64;

/// The largest mean error of a walk's distances, as a share of what they spread over.
const BLUR: f32 = 1.0 / 16.0;

/// Walks after which it shows whether most are good.
const WALKS: usize = 64;

/// The greatest code.
const CODE: f32 = 63.0;

/// Values per row whose squared differences are certain to come to less than 2^31.
const MOST: usize = (1 << 31) / (126 * 126);

/// Rows are padded to whole cache lines.
const PADDED: usize = 64;

/// Rows that a thread takes at once.
const BLOCK: usize = 256;

/// Codes of all rows, and how the walks on them went.
#[derive(Debug)]
pub(in crate::hnsw) struct Sketch {
    metric: Metric,
    middle: Vec<f32>,
    step: f32,
    codes: Table<i8>,
    /// For the inner product, half the squared norms of what the codes stand for; else empty.
    terms: Lines<f32>,
    /// How much of these a score takes from the row that is linked, and from the one that it is linked to.
    own_share: f32,
    share: f32,
    /// Slots that are linked by the rows themselves.
    blurred: Vec<bool>,
    walks: usize,
    blurred_walks: usize,
    kernels: &'static Kernels,
}

impl Sketch {
    /// Without rows, for values between these.
    fn new(metric: Metric, [least, greatest]: [Vec<f32>; 2]) -> Self {
        let bounds = || least.iter().zip(&greatest);
        let middle: Vec<f32> = bounds().map(|(least, greatest)| 0.5 * least + 0.5 * greatest).collect();
        let reach = bounds().zip(&middle).map(|((low, high), middle)| (high - middle).max(middle - low));
        Self {
            metric,
            step: reach.fold(0.0, f32::max) / CODE,
            codes: Table::new(middle.len().next_multiple_of(PADDED)),
            middle,
            terms: Lines::new(),
            own_share: 1.0,
            share: 1.0,
            blurred: Vec::new(),
            walks: 0,
            blurred_walks: 0,
            kernels: kernels(),
        }
    }

    /// Whether the scores by which a walk came to rows were near enough to the exact ones, given in the same order.
    pub fn is_sharp(&self, walked: impl Iterator<Item = f32>, exact: &[f32]) -> bool {
        // Scores of cosine are not even in the distance.
        let even = |score: f32| match self.metric {
            Metric::Cosine => cosine_distance(f64::from(score)) as f32,
            Metric::L2 | Metric::Ip => score,
        };
        let (mut least, mut greatest, mut off) = (f32::INFINITY, f32::NEG_INFINITY, 0.0);
        for (walked, &exact) in walked.zip(exact) {
            let (walked, exact) = (even(walked), even(exact));
            (least, greatest) = (least.min(exact), greatest.max(exact));
            off += (walked - exact).abs();
        }
        off <= BLUR * (greatest - least) * exact.len() as f32
    }

    /// Takes down how the walk for a row went.
    pub fn walked(&mut self, slot: u32, was_sharp: bool) {
        self.walks += 1;
        self.blurred_walks += usize::from(!was_sharp);
        self.blurred[slot as usize] = !was_sharp;
    }

    /// Whether a row is to be linked by the rows themselves.
    pub fn is_blurred_at(&self, slot: u32) -> bool {
        self.blurred[slot as usize]
    }

    /// Whether most walks were not near enough.
    pub fn is_blurred(&self) -> bool {
        self.walks >= WALKS && 2 * self.blurred_walks > self.walks
    }

    fn encode(&self, row: &[f32], codes: &mut [i8]) {
        let inverse = if self.step > 0.0 { 1.0 / self.step } else { 0.0 };
        for (code, (&value, &middle)) in codes.iter_mut().zip(row.iter().zip(&self.middle)) {
            let units = ((value - middle) * inverse).clamp(-CODE, CODE);
            *code = (units + ROUND).to_bits() as i8;
        }
    }

    /// Half the squared norm of what codes stand for.
    fn term(&self, codes: &[i8]) -> f32 {
        let values =
            self.middle.iter().zip(codes).map(|(&middle, &code)| middle + self.step * f32::from(code));
        0.5 * values.map(|value| f64::from(value).powi(2)).sum::<f64>() as f32
    }

    /// Whether the score of a pair depends on the side that it is seen from.
    pub fn is_directed(&self) -> bool {
        self.own_share != self.share
    }

    /// A row as a probe.
    #[inline]
    pub fn probe(&self, slot: u32) -> Probe<'_> {
        let stride = self.codes.stride();
        let code = &self.codes.values()[slot as usize * stride..][..stride];
        Probe::Sketch(SketchProbe {
            rows: self,
            code,
            term: self.own_share * self.terms.get(slot as usize).copied().unwrap_or(0.0),
        })
    }
}

/// A row that is compared with others.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct SketchProbe<'a> {
    rows: &'a Sketch,
    code: &'a [i8],
    term: f32,
}

impl SketchProbe<'_> {
    #[inline]
    pub fn score(self, slots: &[u32], out: &mut [f32]) {
        let Self { rows, code, term } = self;
        (rows.kernels.code_squared_l2_rows)(code, rows.codes.values(), slots, out);
        let unit = rows.step * rows.step;
        match rows.metric {
            Metric::L2 => out.iter_mut().for_each(|value| *value *= unit),
            Metric::Cosine => {
                out.iter_mut().for_each(|value| *value *= 0.5 * unit);
                cosine_scores(out);
            }
            Metric::Ip => {
                for (value, &slot) in out.iter_mut().zip(slots) {
                    *value = 0.5 * unit * *value - (term + rows.share * rows.terms[slot as usize]);
                }
            }
        }
    }
}

impl Vectors {
    /// A sketch of the rows at the slots `held`, to which the `new` ones can be [added](Self::sketch_rows) once they are
    /// stored; `None` where it would not help.
    pub fn new_sketch(&self, held: &[u32], new: ArrayView2<'_, f32>) -> Option<Sketch> {
        let (Rows::Exact(exact) | Rows::Both(_, exact)) = &self.rows else { return None };
        if !(DIM..=MOST).contains(&self.dim) {
            return None;
        }
        let unit = self.metric == Metric::Cosine;
        let rows = held.len() + new.nrows();
        let blocks = threads::map(rows.div_ceil(BLOCK), |block| {
            let mut row = vec![0.0; self.dim];
            let mut bounds = no_bounds(self.dim);
            for place in block * BLOCK..rows.min((block + 1) * BLOCK) {
                match held.get(place) {
                    Some(&slot) => exact.unit_into(slot, &mut row),
                    None => given_into(new, place - held.len(), unit, &mut row),
                }
                self.enter(&mut row);
                widen(&mut bounds, [&row, &row]);
            }
            bounds
        });
        let mut bounds = no_bounds(self.dim);
        blocks.iter().for_each(|[least, greatest]| widen(&mut bounds, [least, greatest]));
        let mut sketch = Sketch::new(self.metric, bounds);
        if let Some(adjustment) = self.directed() {
            (sketch.own_share, sketch.share) = (0.0, adjustment.share());
        }
        sketch.codes.reserve(self.len().max(rows));
        self.sketch_rows(&mut sketch, held);
        Some(sketch)
    }

    /// Adds stored rows, of those that a sketch was made for, to it.
    pub fn sketch_rows(&self, sketch: &mut Sketch, slots: &[u32]) {
        let (Rows::Exact(exact) | Rows::Both(_, exact)) = &self.rows else { return };
        let has_terms = self.metric == Metric::Ip;
        sketch.codes.grow(self.len());
        memory::resize(&mut sketch.blurred, self.len(), false);
        if has_terms {
            sketch.terms.grow(self.len(), 0.0);
        }
        let stride = sketch.codes.stride();
        let standing = &*sketch;
        let blocks = threads::map(slots.len().div_ceil(BLOCK), |block| {
            let slots = &slots[block * BLOCK..slots.len().min((block + 1) * BLOCK)];
            let (mut row, mut codes) = (vec![0.0; self.dim], vec![0; slots.len() * stride]);
            for (&slot, codes) in slots.iter().zip(codes.chunks_exact_mut(stride)) {
                exact.unit_into(slot, &mut row);
                self.enter(&mut row);
                standing.encode(&row, codes);
            }
            let terms: Vec<f32> = if has_terms {
                codes.chunks_exact(stride).map(|codes| standing.term(codes)).collect()
            } else {
                Vec::new()
            };
            (codes, terms)
        });
        for (slots, (codes, terms)) in slots.chunks(BLOCK).zip(blocks) {
            for (&slot, codes) in slots.iter().zip(codes.chunks_exact(stride)) {
                sketch.codes.row_mut(slot).copy_from_slice(codes);
            }
            slots.iter().zip(terms).for_each(|(&slot, term)| sketch.terms[slot as usize] = term);
        }
    }
}

impl Vectors {
    /// A row as it is linked.
    fn enter(&self, row: &mut [f32]) {
        if let Some(adjustment) = self.directed() {
            adjustment.enter(row);
        }
    }
}

/// Bounds of no values.
fn no_bounds(dim: usize) -> [Vec<f32>; 2] {
    [vec![f32::INFINITY; dim], vec![f32::NEG_INFINITY; dim]]
}

/// Widens bounds to hold others.
fn widen([least, greatest]: &mut [Vec<f32>; 2], [low, high]: [&[f32]; 2]) {
    least.iter_mut().zip(low).for_each(|(least, &low)| *least = least.min(low));
    greatest.iter_mut().zip(high).for_each(|(greatest, &high)| *greatest = greatest.max(high));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hnsw::params::{Params, Storage};
    use crate::hnsw::score::cosine_score;
    use crate::rng::stream;
    use ndarray::{Array2, Axis};

    fn vectors(dim: usize, metric: Metric, storage: Storage, rescore: bool) -> Vectors {
        Vectors::new(dim, &Params { metric, storage, rescore, ..Params::default() })
    }

    fn normal(rows: usize, dim: usize) -> Array2<f32> {
        let mut rng = stream(3, "sketch-test", 0);
        // Dimensions of different widths, off the origin.
        Array2::from_shape_fn((rows, dim), |(_, d)| 0.5 + (1.0 + (d % 3) as f32) * rng.normal() as f32)
    }

    #[test]
    fn a_sketch_is_for_long_rows_that_are_kept() {
        let is_made = |dim, storage, rescore| {
            let stored = vectors(dim, Metric::L2, storage, rescore);
            stored.new_sketch(&[], normal(3, dim).view()).is_some()
        };
        assert!(is_made(DIM, Storage::F32, true) && is_made(DIM, Storage::I8, true));
        assert!(!is_made(DIM - 1, Storage::F32, true) && !is_made(MOST + 1, Storage::F32, true));
        assert!(!is_made(DIM, Storage::I8, false));
    }

    #[test]
    fn distances_are_near_the_exact_ones_and_the_same_from_both_sides() {
        let (rows, dim) = (600, 100);
        let given = normal(rows, dim);
        for metric in Metric::ALL {
            let mut stored = vectors(dim, metric, Storage::F32, true);
            let slots: Vec<u32> = (0..rows as u32).collect();
            let (first, second) = given.view().split_at(Axis(0), 300);
            stored.store(&slots[..300], first);
            let mut sketch = stored.new_sketch(&slots[..300], second).unwrap();
            stored.store(&slots[300..], second);
            stored.sketch_rows(&mut sketch, &slots[300..]);
            let pairs = || (0..200).map(|i| (i, 599 - i));
            let even = |score: f32| metric.distance(f64::from(score)) as f32;
            let exact: Vec<f32> = pairs().map(|(a, b)| even(stored.pair(a, b))).collect();
            let [least, greatest] = [f32::min, f32::max].map(|of| exact.iter().copied().reduce(of).unwrap());
            for ((a, b), exact) in pairs().zip(&exact) {
                let [there, back] = [(a, b), (b, a)].map(|(a, b)| sketch.probe(a).distance(b));
                assert_eq!(there.to_bits(), back.to_bits());
                let there = even(there);
                assert!(
                    (there - exact).abs() <= 0.03 * (greatest - least),
                    "{metric:?}: {there} for {exact}"
                );
            }
            if metric != Metric::Ip {
                assert!(slots.iter().all(|&slot| even(sketch.probe(slot).distance(slot)) == 0.0));
            }
        }
    }

    #[test]
    fn rows_that_are_all_the_same_have_a_sketch() {
        let given = Array2::from_elem((9, DIM), 0.3);
        let slots: Vec<u32> = (0..9).collect();
        for metric in Metric::ALL {
            let mut stored = vectors(DIM, metric, Storage::F32, true);
            let mut sketch = stored.new_sketch(&[], given.view()).unwrap();
            stored.store(&slots, given.view());
            stored.sketch_rows(&mut sketch, &slots);
            let even = |score: f32| metric.distance(f64::from(score));
            let (found, exact) = (even(sketch.probe(0).distance(8)), even(stored.pair(0, 8)));
            assert!((found - exact).abs() < 1e-5, "{metric:?}: {found} for {exact}");
        }
    }

    #[test]
    fn walks_whose_distances_are_far_off_are_blurred() {
        let exact = [1.0, 2.0, 3.0, 5.0];
        let sketch = Sketch::new(Metric::L2, no_bounds(DIM));
        let off = |by: f32| exact.iter().map(move |distance| distance + by);
        // A sixteenth of what 1 to 5 spread over is a quarter.
        assert!(sketch.is_sharp(off(0.25), &exact) && !sketch.is_sharp(off(-0.26), &exact));
        assert!(!sketch.is_sharp([f32::NAN; 4].into_iter(), &exact));
        assert!(sketch.is_sharp([2.0; 4].into_iter(), &[2.0; 4]));
        // Under cosine it is distances that are compared.
        let sketch = Sketch::new(Metric::Cosine, no_bounds(DIM));
        let scores = [1e-6, 2e-6, 3e-6, 5e-6].map(|distance| cosine_score(distance) as f32);
        let off = |by: f64| [1e-6, 2e-6, 3e-6, 5e-6].map(|distance| cosine_score(distance + by) as f32);
        assert!(sketch.is_sharp(off(0.2e-6).into_iter(), &scores));
        assert!(!sketch.is_sharp(off(0.3e-6).into_iter(), &scores));
    }

    #[test]
    fn codes_are_blurred_once_most_walks_were() {
        let mut stored = vectors(DIM, Metric::L2, Storage::F32, true);
        let given = normal(WALKS, DIM);
        let slots: Vec<u32> = (0..WALKS as u32).collect();
        let mut sketch = stored.new_sketch(&[], given.view()).unwrap();
        stored.store(&slots, given.view());
        stored.sketch_rows(&mut sketch, &slots);
        for slot in slots {
            assert!(!sketch.is_blurred());
            sketch.walked(slot, slot % 3 == 0);
            assert_eq!(sketch.is_blurred_at(slot), slot % 3 != 0);
        }
        assert!(sketch.is_blurred());
    }
}
