//! The codes of quantized rows, whichever way they are quantized.

use super::binary::Binary;
use super::half::Half;
use super::scalar::Scalar;
use super::table::{Moves, Table};
use super::{Probe, Source, sections};
use crate::error::Result;
use crate::hnsw::params::{Params, Storage};
use crate::lines::Lines;
use crate::storage::{Reader, Writer};

/// Rows in fewer bytes than they were given in.
#[derive(Clone, Debug)]
pub(super) enum Codes {
    Half(Half),
    Scalar(Scalar),
    Binary(Binary),
}

/// Where a probe's copy of its vector lies.
#[derive(Debug, Default)]
pub(super) struct CodeRoom {
    pub(super) values: Lines<f32>,
    pub(super) codes: Lines<i8>,
    bits: Lines<u64>,
}

impl Codes {
    /// `None` for rows that are kept as they are.
    pub fn new(dim: usize, params: &Params) -> Option<Self> {
        match params.storage {
            Storage::F32 => None,
            Storage::F16 => Some(Codes::Half(Half::new(dim, params.metric))),
            Storage::I8 => Some(Codes::Scalar(Scalar::new(dim, params.metric))),
            Storage::Binary => Some(Codes::Binary(Binary::new(dim))),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Codes::Half(codes) => codes.len(),
            Codes::Scalar(codes) => codes.len(),
            Codes::Binary(codes) => codes.len(),
        }
    }

    /// Whether `new` rows from `source`, which make `rows` in all, can be coded in the memory held, and without coding
    /// others anew.
    pub fn fits(&self, rows: usize, new: usize, source: Source<'_>, keeps_rows: bool) -> bool {
        match self {
            Codes::Half(codes) => rows <= codes.room(),
            Codes::Scalar(codes) => rows <= codes.room() && codes.holds(new, source),
            Codes::Binary(codes) => rows <= codes.room() && codes.keeps_means(rows, keeps_rows),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Codes::Half(codes) => codes.bytes(),
            Codes::Scalar(codes) => codes.bytes(),
            Codes::Binary(codes) => codes.bytes(),
        }
    }

    /// Codes rows at `slots`, of which those beyond the last follow on it, from `source`, by place in `slots`. `old` gives
    /// all rows, by slot, where they are kept. Returns what there was if other rows had to be coded anew.
    pub fn store(&mut self, slots: &[u32], source: Source<'_>, old: Option<Source<'_>>) -> Option<Self> {
        match self {
            Codes::Half(codes) => {
                codes.store(slots, source);
                None
            }
            Codes::Scalar(codes) => codes.store(slots, source, old).map(Codes::Scalar),
            Codes::Binary(codes) => codes.store(slots, source, old).map(Codes::Binary),
        }
    }

    /// Makes room for `rows` rows in all, and no more.
    pub fn reserve(&mut self, rows: usize) {
        match self {
            Codes::Half(codes) => codes.reserve(rows),
            Codes::Scalar(codes) => codes.reserve(rows),
            Codes::Binary(codes) => codes.reserve(rows),
        }
    }

    /// Wipes the codes of a row.
    pub fn clear(&mut self, slot: u32) {
        match self {
            Codes::Half(codes) => codes.clear(slot),
            Codes::Scalar(codes) => codes.clear(slot),
            Codes::Binary(codes) => codes.clear(slot),
        }
    }

    /// Moves the rows, and drops those that are not kept.
    pub fn arrange(&mut self, moves: &mut Moves) {
        match self {
            Codes::Half(codes) => codes.arrange(moves),
            Codes::Scalar(codes) => codes.arrange(moves),
            Codes::Binary(codes) => codes.arrange(moves),
        }
    }

    pub fn truncate(&mut self, rows: usize) {
        match self {
            Codes::Half(codes) => codes.truncate(rows),
            Codes::Scalar(codes) => codes.truncate(rows),
            Codes::Binary(codes) => codes.truncate(rows),
        }
    }

    /// The row that a code stands for.
    pub fn decode_into(&self, slot: u32, row: &mut [f32]) {
        match self {
            Codes::Half(codes) => codes.decode_into(slot, row),
            Codes::Scalar(codes) => codes.decode_into(slot, row),
            Codes::Binary(codes) => codes.decode_into(slot, row),
        }
    }

    /// A vector, times `scale`, as a probe; `room` holds its copy.
    pub fn probe<'a>(&'a self, values: &[f32], scale: f32, room: &'a mut CodeRoom) -> Probe<'a> {
        match self {
            Codes::Half(codes) => Probe::Half(codes.probe(values, scale, &mut room.values)),
            Codes::Scalar(codes) => Probe::Scalar(codes.probe(values, scale, room)),
            Codes::Binary(codes) => Probe::Binary(codes.probe(values, scale, &mut room.bits)),
        }
    }

    /// The greatest magnitude that can be coded.
    pub fn most(&self) -> f32 {
        match self {
            Codes::Half(codes) => codes.most(),
            Codes::Scalar(_) | Codes::Binary(_) => f32::MAX,
        }
    }

    /// How many candidates hold the `k` nearest, as good as always, if a walk has found them.
    pub fn depth(&self, k: usize) -> usize {
        match self {
            Codes::Half(_) | Codes::Scalar(_) => k.saturating_mul(2).max(k.saturating_add(10)),
            Codes::Binary(_) => usize::MAX,
        }
    }

    /// Adds the sections to a file.
    pub fn write<'a>(&'a self, writer: Writer<'a>) -> Writer<'a> {
        match self {
            Codes::Half(codes) => {
                let writer = writer.blocks("codes", codes.table().values());
                if codes.has_terms() { writer.values("terms", codes.terms()) } else { writer }
            }
            Codes::Binary(codes) => {
                let [mean, below, above] = codes.levels();
                let writer = writer.values("means", mean).values("below", below).values("above", above);
                writer.blocks("codes", codes.table().values())
            }
            Codes::Scalar(codes) => {
                let [middle, step] = codes.ranges();
                let writer = writer.values("middles", middle).values("steps", step);
                let writer = writer.blocks("codes", codes.table().values());
                let writer = match codes.stretches() {
                    Some((stretch, outliers)) => {
                        writer.values("stretches", stretch).values("outliers", outliers)
                    }
                    None => writer,
                };
                if codes.has_terms() { writer.values("terms", codes.terms()) } else { writer }
            }
        }
    }

    /// Takes what tells rows apart into a checksum.
    pub fn digest(&self, hasher: &mut crc32fast::Hasher) {
        match self {
            Codes::Half(codes) => hasher.update(bytemuck::cast_slice(codes.table().values())),
            Codes::Binary(codes) => {
                codes.levels().iter().for_each(|part| hasher.update(bytemuck::cast_slice(part)));
                hasher.update(bytemuck::cast_slice(codes.table().values()));
            }
            Codes::Scalar(codes) => {
                codes.ranges().iter().for_each(|part| hasher.update(bytemuck::cast_slice(part)));
                hasher.update(bytemuck::cast_slice(codes.table().values()));
                if let Some((stretch, _)) = codes.stretches() {
                    hasher.update(bytemuck::cast_slice(stretch));
                }
            }
        }
    }

    /// Codes of the kind of these for `rows` rows, from a file, where they may `stay` if it is mapped.
    pub fn read(self, reader: &Reader, rows: usize, stay: bool) -> Result<Self> {
        let codes = match self {
            Codes::Half(empty) => {
                let terms = sections::terms(reader, "terms", if empty.has_terms() { rows } else { 0 })?;
                let table = Table::open(empty.table().stride(), reader, "codes", rows, stay)?;
                Ok(Codes::Half(empty.with(table, terms)))
            }
            Codes::Binary(empty) => {
                let levels = [reader.values("means")?, reader.values("below")?, reader.values("above")?];
                let table = Table::open(empty.table().stride(), reader, "codes", rows, stay)?;
                empty.with(levels, table).map(Codes::Binary)
            }
            Codes::Scalar(empty) => {
                let terms = sections::terms(reader, "terms", if empty.has_terms() { rows } else { 0 })?;
                // Before version 4 those of cosine were inverse norms.
                let terms = terms.filter(|_| reader.version() >= 4);
                let ranges = [reader.values("middles")?, reader.values("steps")?];
                let table = Table::open(empty.table().stride(), reader, "codes", rows, stay)?;
                let stretch = match sections::terms(reader, "stretches", rows)? {
                    None => None,
                    Some(stretch) => {
                        let outliers: Vec<u64> = reader.values("outliers")?;
                        let [outliers] = outliers[..] else {
                            return Err(reader.damaged("the number of outliers is none"));
                        };
                        Some((stretch, outliers))
                    }
                };
                empty.with(ranges, table, stretch, terms).map(Codes::Scalar)
            }
        };
        codes.map_err(|how| reader.damaged(how))
    }

    /// Verifies all rows.
    pub fn verify(&self) -> Result<(), String> {
        match self {
            Codes::Half(codes) => codes.verify(),
            Codes::Scalar(codes) => codes.verify(),
            Codes::Binary(codes) => codes.verify(),
        }
    }

    /// Refuses to go on where damage was found in a file.
    pub fn require_sound(&self) -> Result<()> {
        match self {
            Codes::Half(codes) => codes.table().require_sound(),
            Codes::Scalar(codes) => codes.table().require_sound(),
            Codes::Binary(codes) => codes.table().require_sound(),
        }
    }

    /// Brings rows that lie in a file, verified, into memory.
    pub fn own(&mut self) {
        match self {
            Codes::Half(codes) => codes.own(),
            Codes::Scalar(codes) => codes.own(),
            Codes::Binary(codes) => codes.own(),
        }
    }
}
