//! How a file holds the stored rows: a section for the rows as given, where they are kept, and sections for their
//! codes.

use super::exact::Exact;
use super::norm_adjustment::{NormAdjustment, Space};
use super::table::Table;
use super::{Rows, Vectors};
use crate::error::Result;
use crate::hnsw::metric::Metric;
use crate::hnsw::params::Params;
use crate::lines::Lines;
use crate::storage::{Reader, Writer};

/// What rows are read from, and how.
pub(in crate::hnsw) struct Reading<'a> {
    pub reader: &'a Reader,
    pub dim: usize,
    pub params: &'a Params,
    /// Number of slots.
    pub slots: usize,
    /// Those that are free, rising.
    pub free: Vec<u32>,
    /// Whether everything is verified now, also what stays in a mapped file.
    pub verify: bool,
}

impl Vectors {
    /// Adds the sections to a file.
    pub fn write<'a>(&'a self, writer: Writer<'a>) -> Writer<'a> {
        let writer = match &self.rows {
            Rows::Exact(exact) => exact.write(writer),
            Rows::Both(codes, exact) => exact.write(codes.write(writer)),
            Rows::Codes(codes, norms) => codes.write(writer).values("norms", norms),
        };
        let Some((rows, space, far)) = self.adjustment.as_ref().map(NormAdjustment::parts) else {
            return writer;
        };
        let writer = writer.values("adjusted_rows", rows);
        match space {
            Some(Space { mean, weight, limits }) => writer
                .values("adjustment_means", mean)
                .values("adjustment_weights", weight)
                .values("adjustment_limits", limits)
                .values("far_slots", far),
            None => writer,
        }
    }

    /// Takes all that tells rows apart into a checksum.
    pub fn digest(&self, hasher: &mut crc32fast::Hasher) {
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => {
                hasher.update(bytemuck::cast_slice(exact.table().values()));
            }
            Rows::Codes(codes, norms) => {
                codes.digest(hasher);
                hasher.update(bytemuck::cast_slice(norms));
            }
        }
    }

    /// Reads what [`write`](Self::write) wrote; refuses, now or when it is touched, what [`store`](Self::store) and
    /// [`clear`](Self::clear) could not have made.
    ///
    /// In a mapped file stays what a walk need not read: the rows as given where there are codes to walk on, else all rows.
    pub fn read(reading: Reading<'_>) -> Result<Self> {
        let Reading { reader, dim, params, slots, free, verify } = reading;
        let Self { metric, rows, adjustment, .. } = Self::new(dim, params);
        let adjustment = adjustment.map(|empty| empty.read(reader, dim, slots)).transpose()?;
        let rows = match rows {
            Rows::Exact(empty) => Rows::Exact(empty.read(reader, slots, free)?),
            Rows::Both(empty, exact) => {
                let codes = empty.read(reader, slots, false)?;
                codes.verify().map_err(|how| reader.damaged(how))?;
                Rows::Both(codes, exact.read(reader, slots, free)?)
            }
            Rows::Codes(empty, _) => {
                let cosine = params.metric == Metric::Cosine;
                let norms = terms(reader, "norms", if cosine { slots } else { 0 })?;
                let norms = norms.ok_or_else(|| reader.damaged("section \"norms\" is missing"))?;
                let is_norm = |(slot, &norm): (u32, &f32)| match free.binary_search(&slot) {
                    Ok(_) => norm.to_bits() == 0,
                    Err(_) => norm.is_finite() && norm > 0.0,
                };
                if !(0..).zip(norms.iter()).all(is_norm) {
                    return Err(reader.damaged("a norm is no length"));
                }
                Rows::Codes(empty.read(reader, slots, true)?, norms)
            }
        };
        let file = reader.mapped().map(|file| (file.clone(), reader.checksum()));
        let mut vectors = Self { metric, dim, rows, adjustment, file };
        if verify || vectors.file.is_none() {
            vectors.check_rows().map_err(|how| reader.damaged(how))?;
        }
        vectors.require_sound()?;
        if vectors.file.is_none() {
            vectors.fill_terms();
        }
        Ok(vectors)
    }

    /// Verifies the rows that searches end with: damage found in a mapped file is left for
    /// [`require_sound`](Self::require_sound).
    pub(super) fn check_rows(&self) -> Result<(), String> {
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => exact.verify(),
            Rows::Codes(codes, _) => codes.verify(),
        }
    }
}

impl NormAdjustment {
    /// What a file holds; those of before version 4 have none.
    fn read(self, reader: &Reader, dim: usize, slots: usize) -> Result<Self> {
        if !reader.has("adjusted_rows") {
            return Ok(self);
        }
        let rows: Vec<u64> = reader.values("adjusted_rows")?;
        let [rows] = rows[..] else { return Err(reader.damaged("the number of adjusted rows is none")) };
        if !reader.has("adjustment_means") {
            return Ok(Self::with(rows, None, Vec::new()));
        }
        let (mean, weight): (Vec<f32>, Vec<f32>) =
            (reader.values("adjustment_means")?, reader.values("adjustment_weights")?);
        let limits: Vec<f32> = reader.values("adjustment_limits")?;
        let [share, longest] = limits[..] else {
            return Err(reader.damaged("the limits of adjusted lengths are none"));
        };
        let far: Vec<u32> = reader.values("far_slots")?;
        let is_weight = |&weight: &f32| weight.is_finite() && weight > 0.0;
        let are_sound = mean.iter().all(|mean| mean.is_finite())
            && weight.iter().all(is_weight)
            && (0.0..1.0).contains(&share)
            && longest >= 0.0
            && far.iter().all(|&slot| (slot as usize) < slots);
        if [mean.len(), weight.len()] != [dim; 2] || !are_sound {
            return Err(reader.damaged("the adjustment of rows is none"));
        }
        Ok(Self::with(rows, Some(Space { mean, weight, limits: [share, longest] }), far))
    }
}

impl Exact {
    fn write<'a>(&'a self, writer: Writer<'a>) -> Writer<'a> {
        let writer = writer.blocks("vectors", self.table().values());
        if self.is_scaled() { writer.values("scales", self.scale()) } else { writer }
    }

    fn read(self, reader: &Reader, slots: usize, free: Vec<u32>) -> Result<Self> {
        let scale = terms(reader, "scales", if self.is_scaled() { slots } else { 0 })?;
        let table = Table::open(self.table().stride(), reader, "vectors", slots, true)?;
        Ok(self.with(table, scale, free))
    }
}

/// A section of one number for each of `rows` rows; `None` if the file has none.
pub(super) fn terms(reader: &Reader, name: &str, rows: usize) -> Result<Option<Lines<f32>>> {
    if !reader.has(name) {
        return Ok(None);
    }
    let mut terms = Lines::zeros(reader.count::<f32>(name)?);
    if terms.len() != rows {
        return Err(reader.damaged(format!("{} {name} for {rows} slots", terms.len())));
    }
    reader.values_into(name, &mut terms)?;
    Ok(Some(terms))
}
