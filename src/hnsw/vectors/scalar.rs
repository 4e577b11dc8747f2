//! Scalar quantization: one signed byte a value, with a range per dimension.
//!
//! A value `x_d` becomes the code `c_d = round((x_d - middle_d) / step_d)`, from -127 to 127, and decodes to
//! `middle_d + step_d c_d`: no value is off by more than half a step. A query becomes codes as well: its products with the
//! steps are rounded to bytes with one unit, so that `<q, x>` is a sum of products of bytes, which is exact and the same
//! with every instruction set. Where a few products are so large that bytes would hardly tell the others apart, each gets
//! a second byte for what the first leaves.
//!
//! A walk finds as much with one byte as with two while rounding the query moves a distance by about as little as
//! rounding the rows did. Codes come to some 30 on average, as ranges are several standard deviations wide; so must those
//! of the query, if not much less.
//!
//! **Ranges** go from the least to the greatest value of the first call. When a later value lies outside, the range of
//! its dimension grows to hold it and by a quarter more, and all rows are coded anew: from the exact vectors where
//! they are kept, else from what the old codes decode to. As ranges grow geometrically this happens a few times, and
//! the errors of repeated coding add up to a few half steps at most.

use super::table::{Moves, Table};
use super::{Source, rows_with};
use crate::elementary::ROUND;
use crate::hnsw::metric::Metric;
use crate::lines::Lines;
use crate::simd::{Kernels, LOW, kernels};

/// Rows are padded to half a cache line: none touches more lines than it must.
const PADDED: usize = 32;

/// The greatest code.
const CODE: f32 = 127.0;

/// What all codes of a query may come to, so that the sum of their products with a row's fits in 31 bits.
const CODES: f32 = (1 << 24) as f32 - (1 << 20) as f32;

/// A query needs second bytes where its first ones come to less than this on average, large ones
/// [counted](crate::simd::Split::counted) as less.
const FINE: usize = 12;

/// Rows that second bytes are compared with at a time.
const SOME: usize = 32;

/// By how much a range grows beyond what it must hold.
const MARGIN: f32 = 0.25;

/// The greatest magnitude of a bound of a range. A stored value is below `6.6e18`, as squared norms have a bound, and margins
/// add at most two thirds of that. Ranges far beyond would overflow when they grow.
const REACH: f32 = 2e19;

/// The codes, and what they mean.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    metric: Metric,
    dim: usize,
    middle: Vec<f32>,
    step: Vec<f32>,
    /// What codes are about: `middle` under l2, whose distances do not change by moving it to 0; else 0.
    centre: Vec<f32>,
    codes: Table<i8>,
    /// `|x - middle|^2` under l2 and `1 / |x|` under cosine, of decoded rows; else empty.
    terms: Lines<f32>,
    kernels: &'static Kernels,
}

impl Scalar {
    pub fn new(dim: usize, metric: Metric) -> Self {
        Self {
            metric,
            dim,
            middle: vec![0.0; dim],
            step: vec![0.0; dim],
            centre: vec![0.0; dim],
            codes: Table::new(dim.next_multiple_of(PADDED)),
            terms: Lines::new(),
            kernels: kernels(),
        }
    }

    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Rows that fit in the memory held.
    pub fn room(&self) -> usize {
        let terms = if self.metric == Metric::Ip { usize::MAX } else { self.terms.room() };
        terms.min(self.codes.room())
    }

    /// Whether the ranges hold `rows` rows as they are.
    pub fn holds(&self, rows: usize, source: Source<'_>) -> bool {
        let [least, greatest] = self.bounds(rows, source);
        self.len() > 0 && self.covers(&least, &greatest)
    }

    /// The least and greatest value of each dimension.
    fn bounds(&self, rows: usize, source: Source<'_>) -> [Vec<f32>; 2] {
        let mut row = vec![0.0; self.dim];
        let (mut least, mut greatest) = (vec![f32::INFINITY; self.dim], vec![f32::NEG_INFINITY; self.dim]);
        for place in 0..rows {
            source(place, &mut row);
            for ((&value, least), greatest) in row.iter().zip(&mut least).zip(&mut greatest) {
                (*least, *greatest) = (least.min(value), greatest.max(value));
            }
        }
        [least, greatest]
    }

    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.terms.bytes() + 12 * self.dim
    }

    pub fn table(&self) -> &Table<i8> {
        &self.codes
    }

    /// What a distance takes of each row besides its codes.
    pub fn terms(&self) -> &[f32] {
        &self.terms
    }

    /// Whether there is a term for each row.
    pub fn has_terms(&self) -> bool {
        self.metric != Metric::Ip
    }

    /// Middles, and steps.
    pub fn ranges(&self) -> [&[f32]; 2] {
        [&self.middle, &self.step]
    }

    /// Codes rows at `slots`, of which those beyond the last follow on it, from `source`, by place in `slots`; `old` gives
    /// all rows, by slot, where exact vectors are kept. Returns what there was before if others had to be coded anew.
    pub fn store(&mut self, slots: &[u32], source: Source<'_>, old: Option<Source<'_>>) -> Option<Self> {
        let (start, new) = (self.len(), slots.len());
        let mut row = vec![0.0; self.dim];
        let [mut least, mut greatest] = self.bounds(new, source);
        let before = (start > 0 && new > 0 && !self.covers(&least, &greatest)).then(|| self.clone());
        if start == 0 && new > 0 {
            self.set_ranges(&least, &greatest);
        } else if let Some(before) = &before {
            self.widen(&mut least, &mut greatest);
            self.set_ranges(&least, &greatest);
            for slot in 0..start {
                match old {
                    Some(old) => old(slot, &mut row),
                    None => before.decode_into(slot as u32, &mut row),
                }
                self.encode(slot, &row);
            }
        }
        self.codes.grow(rows_with(start, slots));
        for (place, &slot) in slots.iter().enumerate() {
            source(place, &mut row);
            self.encode(slot as usize, &row);
        }
        if before.is_some() {
            self.measure(0..self.len() as u32);
        } else {
            self.measure(slots.iter().copied());
        }
        before
    }

    /// Makes room for `rows` rows in all, and no more.
    pub fn reserve(&mut self, rows: usize) {
        self.codes.reserve(rows);
        if self.has_terms() {
            self.terms.reserve(rows);
        }
    }

    /// Wipes the codes of a row.
    pub fn clear(&mut self, slot: u32) {
        self.codes.row_mut(slot).fill(0);
        self.measure([slot]);
    }

    /// Moves the rows, and drops those that are not kept.
    pub fn arrange(&mut self, moves: &mut Moves) {
        self.codes.arrange(moves);
        if self.has_terms() {
            moves.make(&mut self.terms, 1);
        }
    }

    /// Whether no code of these values would lie outside its range.
    fn covers(&self, least: &[f32], greatest: &[f32]) -> bool {
        let bounds = least.iter().zip(greatest).zip(self.middle.iter().zip(&self.step));
        bounds.into_iter().all(|((&least, &greatest), (&middle, &step))| {
            middle - CODE * step <= least && greatest <= middle + CODE * step
        })
    }

    /// Joins bounds of new values with the ranges there are, with a margin where these don't reach.
    fn widen(&self, least: &mut [f32], greatest: &mut [f32]) {
        for (d, (least, greatest)) in least.iter_mut().zip(greatest).enumerate() {
            let (low, high) = (self.middle[d] - CODE * self.step[d], self.middle[d] + CODE * self.step[d]);
            let margin = MARGIN * (greatest.max(high) - least.min(low));
            *least = if *least < low { *least - margin } else { low };
            *greatest = if *greatest > high { *greatest + margin } else { high };
        }
    }

    fn set_ranges(&mut self, least: &[f32], greatest: &[f32]) {
        for (d, (&least, &greatest)) in least.iter().zip(greatest).enumerate() {
            let middle = 0.5 * least + 0.5 * greatest;
            let reach = (greatest - middle).max(middle - least);
            // Rounding must not put the bounds outside.
            (self.middle[d], self.step[d]) = (middle, reach / CODE * (1.0 + 4.0 * f32::EPSILON));
        }
        self.set_centre();
    }

    fn set_centre(&mut self) {
        if self.metric == Metric::L2 {
            self.centre.copy_from_slice(&self.middle);
        }
    }

    fn encode(&mut self, slot: usize, row: &[f32]) {
        let codes = self.codes.row_mut(slot as u32);
        for (code, ((&value, &middle), &step)) in
            codes.iter_mut().zip(row.iter().zip(&self.middle).zip(&self.step))
        {
            let units = if step > 0.0 { ((value - middle) / step).clamp(-CODE, CODE) } else { 0.0 };
            *code = (units + ROUND).to_bits() as i8;
        }
    }

    /// The terms of the rows at `slots`.
    fn measure(&mut self, slots: impl IntoIterator<Item = u32>) {
        if self.has_terms() {
            self.terms.grow(self.len(), 0.0);
            for slot in slots {
                let row = &self.codes.values()[slot as usize * self.codes.stride()..];
                self.terms[slot as usize] = self.term(row);
            }
        }
    }

    /// The term of a row, which begins with its codes.
    fn term(&self, row: &[i8]) -> f32 {
        let ranges = self.middle.iter().zip(&self.centre).zip(&self.step);
        let values = row.iter().zip(ranges);
        let values = values.map(|(&code, ((middle, centre), step))| middle - centre + step * f32::from(code));
        let norm2 = values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        match self.metric {
            Metric::Cosine if norm2 == 0.0 => 0.0,
            Metric::Cosine => (1.0 / norm2.sqrt()) as f32,
            Metric::L2 | Metric::Ip => norm2 as f32,
        }
    }

    /// Ranges, rows of a file and their terms, where it has them, for dimensions and metric as here.
    /// [`verify`](Self::verify) checks what the table does not check on first touch.
    pub fn with(
        self,
        [middle, step]: [Vec<f32>; 2],
        codes: Table<i8>,
        terms: Option<Lines<f32>>,
    ) -> Result<Self, String> {
        let is_range = |(&middle, &step): (&f32, &f32)| step >= 0.0 && middle.abs() + CODE * step <= REACH;
        if [middle.len(), step.len()] != [self.dim; 2] || !middle.iter().zip(&step).all(is_range) {
            return Err("the ranges of codes are no ranges".into());
        }
        let mut scalar = Self { middle, step, codes, ..self };
        scalar.set_centre();
        match terms {
            Some(terms) => scalar.terms = terms,
            None => scalar.measure(0..scalar.len() as u32),
        }
        Ok(scalar)
    }

    /// Verifies all rows.
    pub fn verify(&self) -> Result<(), String> {
        self.codes.verify(&|slot, row| self.check(slot, row))
    }

    /// Brings rows that lie in a file, verified, into memory.
    pub fn own(&mut self) {
        self.codes.lines();
    }

    /// Refuses what no row is coded to.
    fn check(&self, slot: u32, row: &[i8]) -> Result<(), String> {
        let is_padded = row[self.dim..].iter().all(|&code| code == 0);
        let has_term = || self.terms[slot as usize].to_bits() == self.term(row).to_bits();
        if is_padded && !row.contains(&i8::MIN) && (!self.has_terms() || has_term()) {
            Ok(())
        } else {
            Err(format!("row {slot} has codes that nothing is coded to"))
        }
    }

    pub fn truncate(&mut self, rows: usize) {
        self.codes.truncate(rows);
        self.terms.truncate(rows);
        if rows == 0 {
            for range in [&mut self.middle, &mut self.step, &mut self.centre] {
                range.fill(0.0);
            }
        }
    }

    /// The row that a slot's codes stand for.
    pub fn decode_into(&self, slot: u32, row: &mut [f32]) {
        let codes = self.codes.row(slot, &|slot, row| self.check(slot, row));
        for (value, ((&code, &middle), &step)) in
            row.iter_mut().zip(codes.iter().zip(&self.middle).zip(&self.step))
        {
            *value = middle + step * f32::from(code);
        }
    }

    /// A vector, times `scale`, which is 1 under l2, as a probe; `room` holds its codes.
    pub fn probe<'a>(&'a self, values: &[f32], scale: f32, room: &'a mut Lines<i8>) -> ScalarProbe<'a> {
        let (stride, kernels) = (self.codes.stride(), self.kernels);
        room.grow(2 * stride, 0);
        let (high, low) = room[..2 * stride].split_at_mut(stride);
        let most = (CODES / self.dim as f32).floor().clamp(1.0, CODE);
        let (codes, rest) = (&mut high[..self.dim], &mut low[..self.dim]);
        let split = (kernels.split_codes)(values, &self.centre, &self.step, most, codes, rest);
        let base = match self.metric {
            Metric::L2 => (kernels.squared_l2)(values, &self.middle),
            Metric::Ip | Metric::Cosine => scale * (kernels.dot)(values, &self.middle),
        };
        let is_fine = split.counted as usize >= FINE * self.dim;
        let rest = if is_fine { None } else { Some(&*low) };
        ScalarProbe { rows: self, codes: high, rest, base, unit: scale * split.unit }
    }
}

/// A query in codes.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct ScalarProbe<'a> {
    rows: &'a Scalar,
    codes: &'a [i8],
    /// What these leave, in 254ths.
    rest: Option<&'a [i8]>,
    /// `|q - middle|^2` under l2, else `<q, middle>`.
    base: f32,
    /// What a product of two codes counts.
    unit: f32,
}

impl ScalarProbe<'_> {
    #[inline]
    pub fn score(self, slots: &[u32], out: &mut [f32]) {
        let Self { rows, base, unit, .. } = self;
        let table = rows.codes.at(slots, &|slot, row| rows.check(slot, row));
        (rows.kernels.code_dots)(self.codes, table, slots, out);
        if let Some(rest) = self.rest {
            self.add_rest(rest, table, slots, out);
        }
        let terms = &rows.terms[..];
        match rows.metric {
            Metric::L2 => {
                for (value, &slot) in out.iter_mut().zip(slots) {
                    *value = (base + terms[slot as usize] - 2.0 * unit * *value).max(0.0);
                }
            }
            Metric::Ip => out.iter_mut().for_each(|value| *value = 1.0 - (base + unit * *value)),
            Metric::Cosine => {
                for (value, &slot) in out.iter_mut().zip(slots) {
                    *value = super::cosine_distance(base + unit * *value, 1.0, terms[slot as usize]);
                }
            }
        }
    }

    /// Adds the products with second bytes.
    fn add_rest(self, rest: &[i8], table: &[i8], slots: &[u32], out: &mut [f32]) {
        for (slots, out) in slots.chunks(SOME).zip(out.chunks_mut(SOME)) {
            let more = &mut [0.0; SOME][..slots.len()];
            (self.rows.kernels.code_dots)(rest, table, slots, more);
            out.iter_mut().zip(more).for_each(|(value, more)| *value += *more / LOW);
        }
    }
}
