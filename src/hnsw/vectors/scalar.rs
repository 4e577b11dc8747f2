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
//! **Ranges** go from the least to the greatest value of the first call, without [outliers](super::outliers). A row that
//! lies outside has all its steps stretched by a factor of its own, so that it costs no other row anything. When more than
//! a 64th of the rows have come to lie outside, ranges are taken anew from all rows, a quarter wider where they grow, and all
//! rows are coded anew: from the exact vectors where they are kept, else from what the old codes decode to. As ranges grow
//! geometrically this happens a few times, and the errors of repeated coding add up to a few half steps at most.
//!
//! Rows of length 1 are compared by their squared distance, half of which is the cosine distance: its digits are those of
//! small differences, where a product has lost them.

use super::codes::CodeRoom;
use super::outliers::outliers;
use super::table::{Moves, Table};
use super::{Source, rows_with};
use crate::elementary::ROUND;
use crate::hnsw::metric::Metric;
use crate::hnsw::score::cosine_scores;
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

/// Ranges are taken anew when more rows than a share of one in so many have come to lie outside.
const ROWS_PER_OUTSIDER: usize = 64;

/// No step is below this share of the greatest, so that a row can be stretched along every dimension.
const LEAST_STEP: f32 = 1e-4;

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
    /// What codes are about: 0 for inner products, else `middle`, as distances do not change by moving it to 0.
    centre: Vec<f32>,
    codes: Table<i8>,
    /// `|x - middle|^2` of decoded rows; none for inner products.
    terms: Lines<f32>,
    /// What a row's steps are multiplied by; empty while that is 1 for all.
    stretch: Lines<f32>,
    /// Rows that were stretched when the ranges were taken.
    outliers: [u64; 1],
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
            stretch: Lines::new(),
            outliers: [0],
            kernels: kernels(),
        }
    }

    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Rows that fit in the memory held.
    pub fn room(&self) -> usize {
        let terms = if self.has_terms() { self.terms.room() } else { usize::MAX };
        let stretch = if self.stretch.is_empty() { usize::MAX } else { self.stretch.room() };
        terms.min(stretch).min(self.codes.room())
    }

    /// Whether `rows` rows can be coded in the ranges as they are, without a first row that is stretched.
    pub fn holds(&self, rows: usize, source: Source<'_>) -> bool {
        let outside = self.outside(rows, source);
        self.len() > 0 && (outside == 0 || !self.stretch.is_empty()) && self.keeps_ranges(rows, outside)
    }

    /// How many of `rows` rows lie outside the ranges.
    fn outside(&self, rows: usize, source: Source<'_>) -> usize {
        let mut row = vec![0.0; self.dim];
        let lies_outside = |&place: &usize| {
            source(place, &mut row);
            self.stretch_of(&row) > 1.0
        };
        (0..rows).filter(lies_outside).count()
    }

    /// Whether ranges stay as they are when `new` rows come, of which so many lie outside.
    fn keeps_ranges(&self, new: usize, outside: usize) -> bool {
        if outside == 0 || self.step.iter().all(|&step| step == 0.0) {
            return outside == 0;
        }
        let stretched = self.stretch.iter().filter(|&&stretch| stretch > 1.0).count() + outside;
        let more = stretched.saturating_sub(self.outliers[0] as usize);
        more * ROWS_PER_OUTSIDER <= self.len() + new
    }

    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.terms.bytes() + self.stretch.bytes() + 12 * self.dim
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

    /// What each row's steps are multiplied by, and how many were when ranges were taken; `None` if that is 1 for all.
    pub fn stretches(&self) -> Option<(&[f32], &[u64])> {
        self.stretch.iter().any(|&stretch| stretch > 1.0).then_some((&self.stretch, &self.outliers))
    }

    /// Codes rows at `slots`, of which those beyond the last follow on it, from `source`, by place in `slots`; `old` gives
    /// all rows, by slot, where exact vectors are kept. Returns what there was before if others had to be coded anew.
    pub fn store(&mut self, slots: &[u32], source: Source<'_>, old: Option<Source<'_>>) -> Option<Self> {
        let (start, new) = (self.len(), slots.len());
        let outside = if start > 0 { self.outside(new, source) } else { 0 };
        let before = (start > 0 && !self.keeps_ranges(new, outside)).then(|| self.clone());
        if start == 0 && new > 0 {
            self.take_ranges(new, source);
        } else if let Some(before) = &before {
            let read = |slot: usize, row: &mut [f32]| match old {
                Some(old) => old(slot, row),
                None => before.decode_into(slot as u32, row),
            };
            self.take_ranges(start + new, &|place: usize, row: &mut [f32]| match place.checked_sub(start) {
                Some(place) => source(place, row),
                None => read(place, row),
            });
            self.stretch = Lines::new();
            let mut row = vec![0.0; self.dim];
            for slot in 0..start {
                read(slot, &mut row);
                self.encode(slot, &row);
            }
        }
        self.codes.grow(rows_with(start, slots));
        let mut row = vec![0.0; self.dim];
        for (place, &slot) in slots.iter().enumerate() {
            source(place, &mut row);
            self.encode(slot as usize, &row);
        }
        if start == 0 || before.is_some() {
            self.outliers = [self.stretch.iter().filter(|&&stretch| stretch > 1.0).count() as u64];
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
        if !self.stretch.is_empty() {
            self.stretch.reserve(rows);
        }
    }

    /// Wipes the codes of a row.
    pub fn clear(&mut self, slot: u32) {
        self.codes.row_mut(slot).fill(0);
        if let Some(stretch) = self.stretch.get_mut(slot as usize) {
            *stretch = 1.0;
        }
        self.measure([slot]);
    }

    /// Moves the rows, and drops those that are not kept.
    pub fn arrange(&mut self, moves: &mut Moves) {
        self.codes.arrange(moves);
        if self.has_terms() {
            moves.make(&mut self.terms, 1);
        }
        if !self.stretch.is_empty() {
            moves.make(&mut self.stretch, 1);
        }
    }

    /// Takes the ranges of `rows` rows without outliers; wider ones than there were get a margin.
    fn take_ranges(&mut self, rows: usize, source: Source<'_>) {
        let outliers = outliers(rows, self.dim, source);
        let mut row = vec![0.0; self.dim];
        let (mut least, mut greatest) = (vec![f32::INFINITY; self.dim], vec![f32::NEG_INFINITY; self.dim]);
        for place in (0..rows).filter(|&place| outliers.as_ref().is_none_or(|marks| !marks[place])) {
            source(place, &mut row);
            for ((&value, least), greatest) in row.iter().zip(&mut least).zip(&mut greatest) {
                (*least, *greatest) = (least.min(value), greatest.max(value));
            }
        }
        if self.len() > 0 {
            for (d, (least, greatest)) in least.iter_mut().zip(&mut greatest).enumerate() {
                let reach = CODE * self.step[d];
                let (low, high) = (self.middle[d] - reach, self.middle[d] + reach);
                let margin = MARGIN * (*greatest - *least);
                if *least < low {
                    *least -= margin;
                }
                if *greatest > high {
                    *greatest += margin;
                }
            }
        }
        for (d, (&least, &greatest)) in least.iter().zip(&greatest).enumerate() {
            let middle = 0.5 * least + 0.5 * greatest;
            let reach = (greatest - middle).max(middle - least);
            // Rounding must not put the bounds outside.
            (self.middle[d], self.step[d]) = (middle, reach / CODE * (1.0 + 4.0 * f32::EPSILON));
        }
        let floor = LEAST_STEP * self.step.iter().copied().fold(0.0, f32::max);
        self.step.iter_mut().for_each(|step| *step = step.max(floor));
        self.set_centre();
    }

    fn set_centre(&mut self) {
        if self.metric != Metric::Ip {
            self.centre.copy_from_slice(&self.middle);
        }
    }

    /// What the steps of a row are multiplied by, so that its values have codes.
    fn stretch_of(&self, row: &[f32]) -> f32 {
        let ranges = row.iter().zip(self.middle.iter().zip(&self.step));
        let reach = ranges.map(|(&value, (&middle, &step))| {
            let (offset, reach) = ((value - middle).abs(), CODE * step);
            if offset <= reach { 0.0 } else { offset / reach }
        });
        reach.fold(0.0, f32::max).max(1.0)
    }

    fn encode(&mut self, slot: usize, row: &[f32]) {
        let stretch = self.stretch_of(row);
        if stretch > 1.0 || !self.stretch.is_empty() {
            let rows = self.codes.len();
            self.stretch.grow(rows, 1.0);
            self.stretch[slot] = stretch;
        }
        let codes = self.codes.row_mut(slot as u32);
        for (code, ((&value, &middle), &step)) in
            codes.iter_mut().zip(row.iter().zip(&self.middle).zip(&self.step))
        {
            let step = step * stretch;
            let units = if step > 0.0 { ((value - middle) / step).clamp(-CODE, CODE) } else { 0.0 };
            *code = (units + ROUND).to_bits() as i8;
        }
    }

    /// The terms of the rows at `slots`.
    fn measure(&mut self, slots: impl IntoIterator<Item = u32>) {
        if !self.stretch.is_empty() {
            self.stretch.grow(self.codes.len(), 1.0);
        }
        if self.has_terms() {
            self.terms.grow(self.len(), 0.0);
            for slot in slots {
                let row = &self.codes.values()[slot as usize * self.codes.stride()..];
                self.terms[slot as usize] = self.term(slot, row);
            }
        }
    }

    /// What the steps of a row are multiplied by.
    fn stretch(&self, slot: u32) -> f32 {
        self.stretch.get(slot as usize).copied().unwrap_or(1.0)
    }

    /// The term of a row, which begins with its codes.
    fn term(&self, slot: u32, row: &[i8]) -> f32 {
        let stretch = self.stretch(slot);
        let offsets = row.iter().zip(&self.step).map(|(&code, &step)| step * stretch * f32::from(code));
        offsets.map(|offset| f64::from(offset).powi(2)).sum::<f64>() as f32
    }

    /// Ranges, rows of a file, what these are stretched by and their terms, where it has them, for dimensions and metric as
    /// here. [`verify`](Self::verify) checks what the table does not check on first touch.
    pub fn with(
        self,
        [middle, step]: [Vec<f32>; 2],
        codes: Table<i8>,
        stretch: Option<(Lines<f32>, u64)>,
        terms: Option<Lines<f32>>,
    ) -> Result<Self, String> {
        let is_range = |(&middle, &step): (&f32, &f32)| step >= 0.0 && middle.abs() + CODE * step <= REACH;
        if [middle.len(), step.len()] != [self.dim; 2] || !middle.iter().zip(&step).all(is_range) {
            return Err("the ranges of codes are no ranges".into());
        }
        let (stretch, outliers) = stretch.unwrap_or((Lines::new(), 0));
        let widest = CODE * step.iter().copied().fold(0.0, f32::max);
        if !stretch.iter().all(|&stretch| stretch >= 1.0 && (stretch * widest).is_finite()) {
            return Err("a row is stretched by what is no factor".into());
        }
        let mut scalar = Self { middle, step, codes, stretch, outliers: [outliers], ..self };
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
        let has_term = || self.terms[slot as usize].to_bits() == self.term(slot, row).to_bits();
        if is_padded && !row.contains(&i8::MIN) && (!self.has_terms() || has_term()) {
            Ok(())
        } else {
            Err(format!("row {slot} has codes that nothing is coded to"))
        }
    }

    pub fn truncate(&mut self, rows: usize) {
        self.codes.truncate(rows);
        self.terms.truncate(rows);
        self.stretch.truncate(rows);
        if rows == 0 {
            self.outliers = [0];
            for range in [&mut self.middle, &mut self.step, &mut self.centre] {
                range.fill(0.0);
            }
        }
    }

    /// The row that a slot's codes stand for.
    pub fn decode_into(&self, slot: u32, row: &mut [f32]) {
        let codes = self.codes.row(slot, &|slot, row| self.check(slot, row));
        let stretch = self.stretch(slot);
        for (value, ((&code, &middle), &step)) in
            row.iter_mut().zip(codes.iter().zip(&self.middle).zip(&self.step))
        {
            *value = middle + step * stretch * f32::from(code);
        }
    }

    /// A vector, times `scale`, as a probe; `room` holds its copy and its codes.
    pub(super) fn probe<'a>(&'a self, values: &[f32], scale: f32, room: &'a mut CodeRoom) -> ScalarProbe<'a> {
        let CodeRoom { values: scaled, codes: room, .. } = room;
        let (stride, kernels) = (self.codes.stride(), self.kernels);
        scaled.grow(self.dim, 0.0);
        scaled.iter_mut().zip(values).for_each(|(to, &from)| *to = from * scale);
        let values = &scaled[..self.dim];
        room.grow(2 * stride, 0);
        let (high, low) = room[..2 * stride].split_at_mut(stride);
        let most = (CODES / self.dim as f32).floor().clamp(1.0, CODE);
        let (codes, rest) = (&mut high[..self.dim], &mut low[..self.dim]);
        let split = (kernels.split_codes)(values, &self.centre, &self.step, most, codes, rest);
        let base = match self.metric {
            Metric::L2 | Metric::Cosine => (kernels.squared_l2)(values, &self.middle),
            Metric::Ip => (kernels.dot)(values, &self.middle),
        };
        let is_fine = split.counted as usize >= FINE * self.dim;
        let rest = if is_fine { None } else { Some(&*low) };
        ScalarProbe { rows: self, codes: high, rest, base, unit: split.unit }
    }
}

/// A query in codes.
#[derive(Clone, Copy)]
pub(in crate::hnsw) struct ScalarProbe<'a> {
    rows: &'a Scalar,
    codes: &'a [i8],
    /// What these leave, in 254ths.
    rest: Option<&'a [i8]>,
    /// `<q, middle>` for inner products, else `|q - middle|^2`.
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
        if !rows.stretch.is_empty() {
            let stretch = &rows.stretch[..];
            out.iter_mut().zip(slots).for_each(|(value, &slot)| *value *= stretch[slot as usize]);
        }
        let terms = &rows.terms[..];
        match rows.metric {
            Metric::L2 => {
                for (value, &slot) in out.iter_mut().zip(slots) {
                    *value = (base + terms[slot as usize] - 2.0 * unit * *value).max(0.0);
                }
            }
            Metric::Ip => out.iter_mut().for_each(|value| *value = -(base + unit * *value)),
            Metric::Cosine => {
                for (value, &slot) in out.iter_mut().zip(slots) {
                    *value = (0.5 * (base + terms[slot as usize]) - unit * *value).max(0.0);
                }
                cosine_scores(out);
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
