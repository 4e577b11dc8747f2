//! A learned ranking, ready to serve: the chosen candidate with what it needs, keyed by the index's row numbers.

#![forbid(unsafe_code)]

use super::clicks::Clicks;
use super::fit::{Fitted, Models, Report};
use super::guard::Candidate;
use super::log::Log;
use super::memory::{Memory, best};
use super::space::{Geometry, Space};
use crate::error::Result;
use crate::hnsw::{HnswIndex, Metric, Params, Storage};
use crate::memory;
use crate::monitor::Monitor;
use crate::simd;
use crate::threads;
use ndarray::ArrayView2;

/// Up to this many vectors a scan is as fast as a walk.
const SCAN: usize = 512;

/// Candidates that walks over clicked documents and past queries keep.
const EFFORT: usize = 20;

/// Links per row of their index: half the usual, since what one walk misses another part of the ranking finds.
const LINKS: usize = 8;

/// Vectors to search: scanned while they are few, an index beyond.
#[derive(Debug)]
pub(super) enum Table {
    Few(Vec<f32>),
    Many(Box<HnswIndex>),
}

impl Table {
    /// Of rows of the learner's space.
    pub fn new(
        geometry: Geometry,
        rows: Vec<f32>,
        dim: usize,
        seed: u64,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        if rows.len() / dim <= SCAN {
            return Ok(Self::Few(rows));
        }
        let metric = match geometry {
            Geometry::Cosine => Metric::Cosine,
            Geometry::L2 => Metric::L2,
            Geometry::Ip => Metric::Ip,
        };
        let params = Params { metric, m: LINKS, ef_construction: 100, seed, ..Params::default() };
        let mut index = HnswIndex::new(dim, params)?;
        index.add(view(&rows, dim), monitor)?;
        Ok(Self::Many(Box::new(index)))
    }

    /// The nearest `k` positions, best first.
    pub fn nearest(&self, space: &Space, query: &[f32], k: usize) -> Result<Vec<u32>> {
        match self {
            Self::Few(rows) => {
                let scores: Vec<f32> =
                    memory::collect(rows.chunks_exact(query.len()).map(|row| space.score(query, row)));
                Ok(memory::collect(best(&scores, k, None).into_iter().map(|(_, at)| at)))
            }
            Self::Many(index) => {
                let hits = index.search(view(query, query.len()), k, Some(EFFORT.max(k)), None)?;
                Ok(memory::collect(hits.rows.iter().filter(|&&row| row >= 0).map(|&row| row as u32)))
            }
        }
    }
}

pub(super) fn view(rows: &[f32], dim: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows.len() / dim, dim), rows).expect("whole rows")
}

/// What serves; documents are row numbers of the index.
#[derive(Debug)]
pub(super) struct State {
    pub space: Space,
    pub candidate: Candidate,
    pub models: Option<Models>,
    /// The click edges, by row.
    pub clicks: Clicks,
    /// `g c_d W` for each clicked row.
    pub messages: Vec<f32>,
    /// The clicked rows with their messages, if the candidate asks for them.
    pub clicked: Option<Table>,
    pub memory: Memory,
    /// The past queries, if the candidate asks for them.
    pub past: Option<Table>,
    /// The rows that the index held and the means of their neighbours, if the candidate asks for them.
    pub neighbors: Neighbors,
    pub report: Report,
    pub origin: Origin,
}

/// The mean of each row's neighbours in the index, as it was at the time of training.
#[derive(Debug, Default)]
pub(super) struct Neighbors {
    /// Ascending.
    pub rows: Vec<u32>,
    pub means: Vec<f32>,
}

impl Neighbors {
    /// The mean of the neighbours of `row`; `None` for one that was added later.
    pub fn mean(&self, row: u32, dim: usize) -> Option<&[f32]> {
        self.rows.binary_search(&row).ok().map(|at| &self.means[at * dim..][..dim])
    }
}

/// The rows of an index that a learner knows, by what it may be loaded beside.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// A digest of the vector of each row number handed out; [`NONE`] for rows that were not held.
    pub digests: Vec<u32>,
}

/// No vector: another digest takes the place of this one.
const NONE: u32 = 0;

/// Rows that one task reads.
const ROWS: usize = 4096;

impl Origin {
    /// All rows of an index as it stands.
    pub fn of(index: &HnswIndex) -> Result<Self> {
        Ok(Self { digests: digests(index, index.num_rows())? })
    }

    /// The same rows, as an index holds them by now.
    pub fn renewed(&self, index: &HnswIndex) -> Result<Self> {
        Ok(Self { digests: digests(index, self.digests.len().min(index.num_rows()))? })
    }

    /// Whether an index has handed out these rows, and holds at least half of those that it did not remove with the
    /// vectors that they had. It may hold more.
    pub fn is_in(&self, index: &HnswIndex) -> Result<bool> {
        if self.digests.len() > index.num_rows() {
            return Ok(false);
        }
        let held = digests(index, self.digests.len())?;
        let pairs = || held.iter().zip(&self.digests).filter(|(now, _)| **now != NONE);
        Ok(2 * pairs().filter(|(now, then)| now == then).count() >= pairs().count())
    }
}

/// The digests of an index's first `rows` rows.
fn digests(index: &HnswIndex, rows: usize) -> Result<Vec<u32>> {
    let Params { storage, rescore, .. } = index.params();
    // Codes of a byte are taken anew whenever ranges widen, and what they decode to then differs a little.
    let lasting = *rescore || *storage != Storage::I8;
    let digest = |row: i64| {
        Ok(match index.contains(row) {
            false => NONE,
            true if lasting => crc32fast::hash(bytemuck::cast_slice(&index.vector(row)?)).max(NONE + 1),
            true => NONE + 1,
        })
    };
    let parts = threads::map(rows.div_ceil(ROWS), |part| {
        (part * ROWS..rows.min((part + 1) * ROWS)).map(|row| digest(row as i64)).collect::<Result<Vec<_>>>()
    });
    let mut digests = memory::with_capacity(rows);
    for part in parts {
        digests.extend(part?);
    }
    Ok(digests)
}

/// What a fit was made on: documents in the learner's space, their row numbers, and the log over them.
pub(super) struct Served<'a> {
    pub space: Space,
    pub docs: &'a [f32],
    pub neighbors: Vec<f32>,
    pub rows: &'a [i64],
    pub log: &'a Log,
    pub origin: Origin,
}

impl State {
    /// Of a fit; `seed` draws the levels of the tables.
    pub fn new(fitted: Fitted, served: Served<'_>, seed: u64, monitor: &mut dyn Monitor) -> Result<Self> {
        let Fitted { candidate, models, report } = fitted;
        let Served { space, docs, neighbors, rows, log, origin } = served;
        let dim = space.dim();
        let clicks = Clicks::of(log);
        let mut messages = Vec::new();
        let mut clicked = None;
        if let Some(models) = models.as_ref().filter(|_| candidate.edge.is_some_and(|share| share > 0.0)) {
            messages = models.edge.messages(&clicks);
            let table = models.edge.clicked(&space, docs, &clicks);
            clicked = Some(Table::new(space.geometry, table, dim, seed, monitor)?);
        } else if candidate.centroid > 0.0 {
            let table = clicks.pulled(&space, docs, candidate.pull);
            clicked = Some(Table::new(space.geometry, table, dim, seed, monitor)?);
        }
        let row = |position: u32| rows[position as usize] as u32;
        let clicked_rows = memory::collect(clicks.docs().iter().map(|&position| row(position)));
        let clicks = Clicks::from_parts(
            dim,
            clicked_rows,
            memory::copy_of(clicks.sums()),
            memory::copy_of(clicks.counts()),
        );
        let memory = Memory::of(log.mapped(log.queries(), |position| Some(row(position))));
        let past = if candidate.memory > 0.0 {
            Some(Table::new(Geometry::Cosine, memory::copy_of(memory.units()), dim, seed, monitor)?)
        } else {
            None
        };
        let neighbors = if candidate.smooth == 0.0 {
            Neighbors::default()
        } else {
            Neighbors {
                rows: memory::collect((0..rows.len()).map(|position| row(position as u32))),
                means: neighbors,
            }
        };
        Ok(Self {
            space,
            candidate,
            models,
            clicks,
            messages,
            clicked,
            memory,
            past,
            neighbors,
            report,
            origin,
        })
    }

    /// The past queries nearest to one of the learner's space, with their cosines.
    pub fn neighbors(&self, query: &[f32]) -> Result<Vec<(f32, u32)>> {
        let Some(past) = &self.past else { return Ok(Vec::new()) };
        let mut unit = memory::copy_of(query);
        super::space::normalize(&mut unit);
        let flat = Space { geometry: Geometry::Cosine, center: Vec::new(), scale: 1.0 };
        let found = past.nearest(&flat, &unit, self.candidate.voters.neighbors)?;
        let dim = unit.len();
        let cosine = |at: u32| (simd::kernels().dot)(&unit, &self.memory.units()[at as usize * dim..][..dim]);
        Ok(found.into_iter().map(|at| (cosine(at), at)).collect())
    }
}
