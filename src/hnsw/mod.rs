//! The index: Hierarchical Navigable Small World graphs (Malkov & Yashunin 2018), "Efficient and robust approximate
//! nearest neighbor search using Hierarchical Navigable Small World graphs".
//!
//! Each row links to rows near it, chosen so that they lie in different directions; a search walks these links
//! greedily towards the query. A few rows, fewer on each higher level, have long links of the same kind, by which a
//! search comes into the right region in a logarithmic number of steps.
//!
//! ```text
//! params, metric     what an index is built with
//! rows               which row stands at which slot
//! vectors            the rows, as given and as codes, and how they are scored
//! links              who links to whom; the tree that keeps every row within reach
//! score              what rows are ranked by
//! queue, visited     candidates in order; scratch space, pooled
//! traverse           the walk
//! select, notes      the choice of neighbours; what many choices need to know of each other
//! draft, access      changes to links that are planned; planning and committing, beside readers or not
//! build, journal     adding rows, in parallel and deterministically; taking back an interrupted call
//! holders, repair    who links to a row; taking rows out of the graph and mending it
//! remove, optimize   removing and updating rows, compaction; the order of rows in memory
//! shared             searching while another thread adds and removes
//! search, filter     the nearest rows: approximately, exactly, among some
//! range              all rows within a radius
//! stats, file        what there is; saving and loading
//! ```
//!
//! Rows and slots: users see *rows*, numbers that rise and are never reused; vectors and links stand at *slots*, which
//! are. They are the same numbers until something is removed or the slots are put in another order.

#![forbid(unsafe_code)]

mod access;
mod build;
mod draft;
mod file;
mod filter;
mod filtered;
mod holders;
mod journal;
mod links;
mod metric;
mod notes;
mod optimize;
mod params;
mod queue;
mod range;
mod remove;
mod repair;
mod rows;
mod score;
mod search;
mod seek;
mod select;
mod shared;
mod stats;
mod traverse;
mod vectors;
mod visited;

#[cfg(test)]
mod tests;

pub use file::LoadOptions;
pub use filter::Filter;
pub use metric::Metric;
pub use params::{Params, Storage};
pub use range::RangeHits;
pub use search::Hits;
pub use shared::SharedIndex;
pub use stats::{LevelStats, Stats};

use crate::error::{Error, Result, catch};
use crate::memory;
use links::Links;
use ndarray::Array2;
use rows::Rows;
use std::borrow::Cow;
use traverse::Core;
use vectors::Vectors;
use visited::Pool;

/// A vector index. Searches take `&self` and may run at the same time; [`SharedIndex`] lets them run beside changes too.
///
/// ```
/// use ndarray::array;
/// use ruvector_gnn::hnsw::{HnswIndex, Params};
/// use ruvector_gnn::monitor::Silent;
///
/// let mut index = HnswIndex::new(2, Params::default())?;
/// index.add(array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]].view(), &mut Silent)?;
/// let hits = index.search(array![[1.0, 0.1]].view(), 2, None, None)?;
/// assert_eq!(hits.rows, array![[0, 2]]);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Debug)]
pub struct HnswIndex {
    params: Params,
    core: Core,
    pool: Pool,
}

impl Clone for HnswIndex {
    fn clone(&self) -> Self {
        Self { params: self.params.clone(), core: self.core.clone(), pool: Pool::default() }
    }
}

impl HnswIndex {
    /// An empty index of vectors of `dim` values.
    pub fn new(dim: usize, params: Params) -> Result<Self> {
        if !(1..=1 << 20).contains(&dim) {
            return Err(Error::Config(format!("dim must be from 1 to {}, got {dim}", 1 << 20)));
        }
        params.validate()?;
        crate::simd::check_environment()?;
        let (vectors, links) = (Vectors::new(dim, &params), Links::new(params.m));
        let core = Core { rows: Rows::default(), vectors, links };
        Ok(Self { params, core, pool: Pool::default() })
    }

    /// Values per vector.
    pub fn dim(&self) -> usize {
        self.core.vectors.dim()
    }

    /// What the index was built with.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Number of rows held.
    pub fn len(&self) -> usize {
        self.core.rows.len()
    }

    /// Whether no rows are held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The highest row number ever handed out, plus one: the length of a boolean filter.
    pub fn num_rows(&self) -> usize {
        self.core.rows.handed_out()
    }

    /// Whether `row` is held.
    pub fn contains(&self, row: i64) -> bool {
        self.core.rows.slot(row).is_some()
    }

    /// The rows held, rising: the order of [`vectors`](Self::vectors) and of the nodes of [`graph`](Self::graph).
    pub fn rows(&self) -> impl Iterator<Item = u64> {
        let rows = &self.core.rows;
        rows.by_row().map(|slot| rows.row(slot) as u64)
    }

    /// The vectors of `rows`, or of all rows held: bit for bit as they were added or, where quantized storage does not
    /// `rescore` and so keeps codes alone, as these decode. Unknown rows are refused with [`Error::Row`].
    pub fn vectors(&self, rows: Option<&[i64]>) -> Result<Array2<f32>> {
        catch(|| {
            let slots: Vec<u32> = match rows {
                None => memory::collect(self.core.rows.by_row()),
                Some(rows) => {
                    let mut slots = memory::try_with_capacity(rows.len())?;
                    for &row in rows {
                        slots.push(self.require_slot("rows", row)?);
                    }
                    slots
                }
            };
            let mut values = memory::try_with_capacity(slots.len() * self.dim())?;
            slots.iter().for_each(|&slot| values.extend_from_slice(&self.core.vectors.row(slot)));
            self.core.vectors.require_sound()?;
            Ok(Array2::from_shape_vec((slots.len(), self.dim()), values).expect("one row per slot"))
        })
    }

    /// One row's vector, as [`vectors`](Self::vectors) gives it. An unknown row is refused with [`Error::Row`].
    pub fn vector(&self, row: i64) -> Result<Cow<'_, [f32]>> {
        let vector = self.core.vectors.row(self.require_slot("row", row)?);
        self.core.vectors.require_sound()?;
        Ok(vector)
    }

    /// Where a row stands.
    fn require_slot(&self, name: &str, row: i64) -> Result<u32> {
        self.core.rows.slot(row).ok_or_else(|| {
            let count = self.num_rows();
            Error::Row(if (0..count as i64).contains(&row) {
                format!("{name}: row {row} was removed")
            } else {
                format!("{name}: row {row} is not in the index, which has handed out {count} rows, from 0 on")
            })
        })
    }
}
