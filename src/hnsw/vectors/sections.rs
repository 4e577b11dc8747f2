//! How a file holds the stored rows: a section for the rows as given, where they are kept, and sections for their
//! codes.

use super::exact::Exact;
use super::{IsFree, Rows, Vectors};
use crate::error::Result;
use crate::hnsw::metric::Metric;
use crate::hnsw::params::Params;
use crate::lines::Lines;
use crate::storage::{Reader, Writer};

impl Vectors {
    /// Adds the sections to a file.
    pub fn write<'a>(&'a self, writer: Writer<'a>) -> Writer<'a> {
        match &self.rows {
            Rows::Exact(exact) => writer.blocks("vectors", exact.padded()),
            Rows::Both(codes, exact) => codes.write(writer).blocks("vectors", exact.padded()),
            Rows::Codes(codes, norms) => codes.write(writer).values("norms", norms),
        }
    }

    /// Takes all that tells rows apart into a checksum.
    pub fn digest(&self, hasher: &mut crc32fast::Hasher) {
        match &self.rows {
            Rows::Exact(exact) | Rows::Both(_, exact) => hasher.update(bytemuck::cast_slice(exact.padded())),
            Rows::Codes(codes, norms) => {
                codes.digest(hasher);
                hasher.update(bytemuck::cast_slice(norms));
            }
        }
    }

    /// Reads what [`write`](Self::write) wrote; refuses what [`store`](Self::store) and [`clear`](Self::clear) could not have
    /// made.
    pub fn read(
        reader: &Reader,
        dim: usize,
        params: &Params,
        rows: usize,
        is_free: IsFree<'_>,
    ) -> Result<Self> {
        let mut vectors = Self::new(dim, params);
        match &mut vectors.rows {
            Rows::Exact(exact) => *exact = read_exact(reader, dim, params.metric, is_free)?,
            Rows::Both(codes, exact) => {
                *codes = codes.read(reader)?;
                *exact = read_exact(reader, dim, params.metric, is_free)?;
                require(reader, "codes", codes.len(), rows)?;
            }
            Rows::Codes(codes, norms) => {
                *codes = codes.read(reader)?;
                let cosine = params.metric == Metric::Cosine;
                *norms = Lines::zeros(reader.count::<f32>("norms")?);
                reader.values_into("norms", norms)?;
                require(reader, "norms", norms.len(), if cosine { rows } else { 0 })?;
                let is_norm = |(slot, &norm): (u32, &f32)| {
                    if is_free(slot) { norm.to_bits() == 0 } else { norm.is_finite() && norm > 0.0 }
                };
                if !(0..).zip(norms.iter()).all(is_norm) {
                    return Err(reader.damaged("a norm is no length"));
                }
            }
        }
        require(reader, "vectors", vectors.len(), rows)?;
        Ok(vectors)
    }
}

fn read_exact(reader: &Reader, dim: usize, metric: Metric, is_free: IsFree<'_>) -> Result<Exact> {
    let mut table = Lines::zeros(reader.count::<f32>("vectors")?);
    reader.values_into("vectors", &mut table)?;
    Exact::from_padded(dim, metric, table, is_free).map_err(|how| reader.damaged(how))
}

fn require(reader: &Reader, what: &str, count: usize, rows: usize) -> Result<()> {
    if count == rows { Ok(()) } else { Err(reader.damaged(format!("{count} {what} for {rows} slots"))) }
}
