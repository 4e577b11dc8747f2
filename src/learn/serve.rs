//! Serving a learned ranking through the index.
//!
//! The score of a document splits into products that indexes can search: never-clicked documents have
//! `a <q1, x> + (1 - a) <q2, x> = <a q1 + (1 - a) q2, x>`, one search of the plain index with a changed query; clicked
//! ones are searched among their changed vectors `h`; the memory adds what it votes for. The union is
//! scored exactly, with the vectors that the index holds now, so that updated rows are ranked by what they are.

#![forbid(unsafe_code)]

use super::guard::Candidate;
use super::memory::require_margin;
use super::space::Geometry;
use super::state::{State, view};
use crate::error::{Error, Result};
use crate::hnsw::{Filter, HnswIndex, Metric};
use crate::memory;
use crate::simd;
use crate::threads;
use ndarray::{Array2, ArrayView2};
use std::collections::{BTreeMap, BTreeSet};

/// Candidates per search: this many times `k`, and at least so many.
const WIDER: usize = 2;
const AT_LEAST: usize = 24;

/// Queries between two checks that memory is left for the small things of each.
const CHECKED: usize = 64;

/// What a learned search found: rows from best to worst and their scores, `(queries, k)`. Missing places hold row -1
/// and score `-inf`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Row numbers.
    pub rows: Array2<i64>,
    /// The higher, the better.
    pub scores: Array2<f32>,
}

/// The parts of one row's score for one query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// Under the plain metric.
    pub plain: f32,
    /// Under the query adapter.
    pub adapter: Option<f32>,
    /// Under the adapter with click edges.
    pub edges: Option<f32>,
    /// Under the untrained click edges.
    pub centroid: Option<f32>,
    /// Under the plain metric, of the mean of its neighbours in the index.
    pub neighbors: Option<f32>,
    /// The votes of similar past queries.
    pub votes: f32,
    /// The past queries that voted for it: number in the log, cosine, vote.
    pub voters: Vec<(u32, f32, f32)>,
    /// How many clicks it has (weighed by grade).
    pub clicks: f32,
    /// What a never-clicked row gets on top.
    pub bonus: f32,
    /// What it is ranked by: the sum of the parts by their weights, and `bonus`.
    pub score: f32,
    /// The weights of the parts that the ranking was chosen with.
    pub weights: Weights,
}

/// How much each part of an [`Explanation`] counts; 0 for what does not take part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weights {
    /// Of `plain`.
    pub plain: f32,
    /// Of `adapter`.
    pub adapter: f32,
    /// Of `edges`.
    pub edges: f32,
    /// Of `centroid`.
    pub centroid: f32,
    /// Of `neighbors`.
    pub neighbors: f32,
    /// Of `votes`.
    pub votes: f32,
}

impl Weights {
    fn of(candidate: Candidate) -> Self {
        let rest = 1.0 - candidate.centroid;
        let (plain, edge) = match candidate.edge {
            None => (rest, None),
            Some(share) => (0.0, Some(share)),
        };
        Self {
            plain,
            adapter: edge.map_or(0.0, |share| rest * (1.0 - share)),
            edges: edge.map_or(0.0, |share| rest * share),
            centroid: candidate.centroid,
            neighbors: candidate.smooth,
            votes: candidate.memory,
        }
    }
}

/// The plain order, as scores: cosine, inner product, or the negative squared distance.
pub(super) fn plain(
    index: &HnswIndex,
    queries: ArrayView2<'_, f32>,
    k: usize,
    filter: Option<Filter<'_>>,
) -> Result<Ranked> {
    let (rows, scores) = index.search_similar(queries, k, filter)?;
    Ok(Ranked { rows, scores })
}

/// The queries of one call as each part of the ranking sees them.
fn filled<T: Clone>(value: T, rows: usize, columns: usize) -> Result<Array2<T>> {
    let values = memory::vec![value; rows.saturating_mul(columns)];
    Array2::from_shape_vec((rows, columns), values).map_err(|how| Error::Shape(how.to_string()))
}

struct Views {
    own: Vec<f32>,
    adapter: Vec<f32>,
    edge: Vec<f32>,
}

impl State {
    /// The best `k` rows of each query under the learned ranking.
    pub fn search(
        &self,
        index: &HnswIndex,
        queries: ArrayView2<'_, f32>,
        k: usize,
        filter: Option<Filter<'_>>,
    ) -> Result<Ranked> {
        if self.candidate == Candidate::PLAIN {
            return plain(index, queries, k, filter);
        }
        let count = queries.nrows();
        let views = self.views(queries);
        let wide = WIDER.saturating_mul(k).max(AT_LEAST).min(index.len().max(1));
        let changed = self.mixed(&views);
        // A query that training turned to nothing is asked as it came.
        let asked = if usable(index, &changed) { view(&changed, self.space.dim()) } else { queries };
        // The learned parts find most of what the plain walk would: it may end sooner.
        let effort = (index.params().ef_search / 2).max(wide);
        let hits = index.search(asked, wide.max(k), Some(effort.max(1)), filter)?;
        let allowed = Allowed::new(filter);
        let found = threads::map(count, |i| -> Result<Vec<(f32, i64)>> {
            if i % CHECKED == 0 {
                require_margin();
            }
            let dim = self.space.dim();
            let one = views.one(i, dim);
            let votes = self.memory.votes(&self.neighbors(one.own)?, self.candidate.voters);
            let mut rows: Vec<i64> =
                memory::collect(hits.rows.row(i).iter().copied().filter(|&row| row >= 0));
            let mut add = |row: u32| {
                let row = i64::from(row);
                if allowed.has(row) && index.contains(row) {
                    rows.push(row);
                }
            };
            if let Some(clicked) = &self.clicked {
                let asked = if self.messages.is_empty() { one.own } else { one.edge };
                let places = clicked.nearest(&self.space, asked, wide)?;
                places.into_iter().for_each(|at| add(self.clicks.docs()[at as usize]));
            }
            let mut strongest: Vec<(f32, u32)> =
                memory::collect(votes.iter().map(|(&row, &vote)| (vote, row)));
            strongest.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            strongest.iter().take(wide).for_each(|&(_, row)| add(row));
            rows.sort_unstable();
            rows.dedup();
            let (mut doc, mut scored) = (memory::with_capacity(dim), memory::with_capacity(rows.len()));
            for row in rows {
                self.space.enter_into(&index.vector(row)?, &mut doc);
                scored.push((self.score(&one, row, &doc, &votes).score, row));
            }
            scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            scored.truncate(k);
            Ok(scored)
        });
        let mut out = Ranked { rows: filled(-1, count, k)?, scores: filled(f32::NEG_INFINITY, count, k)? };
        for (i, found) in found.into_iter().enumerate() {
            for (j, (score, row)) in found?.into_iter().enumerate() {
                (out.rows[(i, j)], out.scores[(i, j)]) = (row, score);
            }
        }
        Ok(out)
    }

    /// Why `row` stands where it stands for one query.
    pub fn explain(&self, index: &HnswIndex, query: ArrayView2<'_, f32>, row: i64) -> Result<Explanation> {
        let mut doc = Vec::new();
        self.space.enter_into(&index.vector(row)?, &mut doc);
        let views = self.views(query);
        let one = views.one(0, self.space.dim());
        let neighbors = self.neighbors(one.own)?;
        let mut parts = self.score(&one, row, &doc, &self.memory.votes(&neighbors, self.candidate.voters));
        parts.weights = Weights::of(self.candidate);
        for neighbor in neighbors {
            if let Some(&vote) = self.memory.votes(&[neighbor], self.candidate.voters).get(&(row as u32)) {
                parts.voters.push((neighbor.1, neighbor.0, vote));
            }
        }
        Ok(parts)
    }

    fn views(&self, queries: ArrayView2<'_, f32>) -> Views {
        let own = self.space.enter(&memory::collect(queries.iter().copied()));
        let Some(models) = &self.models else {
            return Views { adapter: memory::copy_of(&own), edge: memory::copy_of(&own), own };
        };
        let needs = |share: bool, model: &super::model::Model| {
            if share { model.queries(&self.space, &own) } else { memory::copy_of(&own) }
        };
        let share = self.candidate.edge.unwrap_or(0.0);
        Views { adapter: needs(share < 1.0, &models.adapter), edge: needs(share > 0.0, &models.edge), own }
    }

    /// `a q1 + (1 - a) q2`, as the index takes queries.
    fn mixed(&self, views: &Views) -> Vec<f32> {
        let share = self.candidate.edge.unwrap_or(0.0);
        let pairs = views.edge.iter().zip(&views.adapter);
        let mixed: Vec<f32> =
            memory::collect(pairs.map(|(edge, adapter)| share * edge + (1.0 - share) * adapter));
        self.space.leave(&mixed)
    }

    fn score(&self, query: &One<'_>, row: i64, doc: &[f32], votes: &BTreeMap<u32, f32>) -> Explanation {
        let place = u32::try_from(row).ok().and_then(|row| self.clicks.place(row));
        let mut parts = Explanation {
            plain: self.space.score(query.own, doc),
            votes: u32::try_from(row).ok().and_then(|row| votes.get(&row)).copied().unwrap_or(0.0),
            clicks: place.map_or(0.0, |at| self.clicks.counts()[at]),
            bonus: if place.is_none() { self.candidate.cold } else { 0.0 },
            ..Explanation::default()
        };
        let base = match self.candidate.edge {
            None => parts.plain,
            Some(share) => {
                let adapter = self.space.score(query.adapter, doc);
                let edges = if share > 0.0 { self.edge_score(query.edge, place, doc) } else { adapter };
                (parts.adapter, parts.edges) = (Some(adapter), (share > 0.0).then_some(edges));
                share * edges + (1.0 - share) * adapter
            }
        };
        let Candidate { centroid, memory, smooth, .. } = self.candidate;
        parts.score = base;
        if centroid > 0.0 {
            let pulled = place.map_or(parts.plain, |at| {
                let sum = &self.clicks.sums()[at * doc.len()..][..doc.len()];
                self.moved_score(query.own, doc, sum, self.clicks.pull(at, self.candidate.pull))
            });
            parts.centroid = Some(pulled);
            parts.score = (1.0 - centroid) * base + centroid * pulled;
        }
        parts.score += memory * parts.votes + parts.bonus;
        if smooth != 0.0 {
            let mean = u32::try_from(row).ok().and_then(|row| self.neighbors.mean(row, doc.len()));
            // A row added later stands for its neighbours.
            let score = mean.map_or(parts.plain, |mean| self.space.score(query.own, mean));
            parts.neighbors = Some(score);
            parts.score += smooth * score;
        }
        parts
    }

    fn edge_score(&self, query: &[f32], place: Option<usize>, doc: &[f32]) -> f32 {
        let Some(at) = place else { return self.space.score(query, doc) };
        let message = &self.messages[at * doc.len()..][..doc.len()];
        self.moved_score(query, doc, message, 1.0)
    }

    /// The score of `settle(doc + factor shift)`, without building it.
    fn moved_score(&self, query: &[f32], doc: &[f32], shift: &[f32], factor: f32) -> f32 {
        let dot = simd::kernels().dot;
        let (product, square) = (dot(query, doc) + factor * dot(query, shift), || {
            dot(doc, doc) + 2.0 * factor * dot(doc, shift) + factor * factor * dot(shift, shift)
        });
        match self.space.geometry {
            Geometry::Cosine => product / square().max(f32::MIN_POSITIVE).sqrt(),
            Geometry::L2 => product - 0.5 * square(),
            Geometry::Ip => product,
        }
    }
}

/// One query of [`Views`].
struct One<'a> {
    own: &'a [f32],
    adapter: &'a [f32],
    edge: &'a [f32],
}

impl Views {
    fn one(&self, i: usize, dim: usize) -> One<'_> {
        let of = |rows: &'_ Vec<f32>| -> std::ops::Range<usize> { i * dim..(i * dim + dim).min(rows.len()) };
        One {
            own: &self.own[of(&self.own)],
            adapter: &self.adapter[of(&self.adapter)],
            edge: &self.edge[of(&self.edge)],
        }
    }
}

/// Whether the index will take these queries.
fn usable(index: &HnswIndex, queries: &[f32]) -> bool {
    let zero = |query: &[f32]| (simd::kernels().dot)(query, query) < 1e-20;
    queries.iter().all(|value| value.is_finite())
        && (index.params().metric != Metric::Cosine || !queries.chunks_exact(index.dim()).any(zero))
}

/// A filter, asked row by row.
enum Allowed<'a> {
    All,
    Marks(&'a [bool]),
    Rows(BTreeSet<i64>),
}

impl<'a> Allowed<'a> {
    fn new(filter: Option<Filter<'a>>) -> Self {
        match filter {
            None => Self::All,
            Some(Filter::Mask(marks)) => Self::Marks(marks),
            Some(Filter::Rows(rows)) => Self::Rows(rows.iter().copied().collect()),
        }
    }

    fn has(&self, row: i64) -> bool {
        match self {
            Self::All => true,
            Self::Marks(marks) => {
                usize::try_from(row).ok().and_then(|row| marks.get(row)).copied().unwrap_or(false)
            }
            Self::Rows(rows) => rows.contains(&row),
        }
    }
}
