//! The learner that improves search from past queries and their clicks.
//!
//! [`fit`](fit::fit) turns a log into a ranking: two models trained on the tape ([`train`], [`model`]), a memory of
//! past queries ([`memory`]), and a guard ([`guard`]) that lets in only what held-back queries say helps.
//! [`SearchLearner`] serves it through an index.

#![forbid(unsafe_code)]

pub mod clicks;
mod file;
pub mod fit;
mod groups;
pub mod guard;
pub mod log;
pub mod memory;
pub mod model;
mod serve;
pub mod space;
mod stage;
mod state;
pub mod train;

#[cfg(test)]
mod tests;

pub use fit::Report;
pub use guard::Estimate;
pub use log::{Click, Log};
pub use serve::{Explanation, Ranked, Weights};

use crate::aggregate;
use crate::error::{Error, Result, require_finite};
use crate::graph::Graph;
use crate::hnsw::{Filter, HnswIndex, Metric};
use crate::metrics::{self, Relevance};
use crate::monitor::Monitor;
use fit::Task;
use guard::Graded;
use ndarray::ArrayView2;
use space::{Geometry, Space};
use state::{Origin, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How much of the whole, in parts of [`stage::WHOLE`], is done when training ends.
const TRAINED: usize = 950;

/// Ranking quality over queries: means of the figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// nDCG of the first 10.
    pub ndcg_10: f64,
    /// Reciprocal rank within the first 10.
    pub mrr_10: f64,
    /// Share of the relevant rows among the first 10.
    pub recall_10: f64,
    /// Share of the relevant rows among the first 100.
    pub recall_100: f64,
    /// Queries with something relevant.
    pub queries: usize,
}

/// Which ranking to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The learned one.
    Learned,
    /// The index's own.
    Plain,
}

/// Learns from past queries to rank the rows of one index; untrained it ranks exactly as the index does.
#[derive(Clone, Debug)]
pub struct SearchLearner {
    seed: u64,
    state: Option<Arc<State>>,
    /// What served before the last fit: `None` if there was none, `Some(None)` if it was untrained.
    previous: Option<Option<Arc<State>>>,
}

impl SearchLearner {
    /// An untrained learner; every random choice of a later fit comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, state: None, previous: None }
    }

    /// Learns from a log of queries `(n, dim)` and clicks `(query, row, grade)`, from nothing: an earlier fit is
    /// kept for [`rollback`](Self::rollback) only. Clicks on rows that the index no longer holds are left out.
    /// If the monitor stops the work nothing has changed.
    pub fn fit(
        &mut self,
        index: &HnswIndex,
        queries: ArrayView2<'_, f32>,
        clicks: &[(u32, i64, f32)],
        monitor: &mut dyn Monitor,
    ) -> Result<Report> {
        let learned = Snapshot::of(index)?.learn(queries, clicks, None, self.seed, monitor)?;
        Ok(self.install(learned))
    }

    /// Serves what was learned apart from the learner, and returns its report.
    pub fn install(&mut self, learned: Learned) -> Report {
        let report = learned.0.report.clone();
        self.previous = Some(self.state.replace(learned.0));
        report
    }

    /// Puts back what served before the last fit.
    pub fn rollback(&mut self) -> Result<()> {
        let previous = self.previous.take();
        self.state = previous.ok_or_else(|| Error::Config("rollback: there is no earlier model".into()))?;
        Ok(())
    }

    /// The best `k` rows of each query; missing places hold row -1 and score `-inf`.
    ///
    /// A promoted model ranks by its own score, otherwise the index by `1 - distance` (under l2 `-distance`). Rows added
    /// after training are ranked as never clicked, removed ones are not.
    pub fn search(
        &self,
        index: &HnswIndex,
        queries: ArrayView2<'_, f32>,
        k: usize,
        filter: Option<Filter<'_>>,
        order: Order,
    ) -> Result<Ranked> {
        match &self.state {
            Some(state) if order == Order::Learned => {
                check(index.dim(), geometry(index), queries)?;
                if k == 0 {
                    return Err(Error::Config("k must be at least 1, got 0".into()));
                }
                state.same_kind(index)?;
                state.search(index, queries, k, filter)
            }
            _ => serve::plain(index, queries, k, filter),
        }
    }

    /// Mean ranking quality over queries with something relevant, as `(query, row, grade)`.
    pub fn evaluate(
        &self,
        index: &HnswIndex,
        queries: ArrayView2<'_, f32>,
        relevant: &[(u32, i64, f32)],
        order: Order,
    ) -> Result<Quality> {
        let mut grades = crate::memory::vec![Vec::new(); queries.nrows()];
        for &(query, row, grade) in relevant {
            let count = grades.len();
            let place: &mut Vec<(i64, f64)> = grades
                .get_mut(query as usize)
                .ok_or_else(|| Error::Row(format!("relevant: query {query} of {count} queries")))?;
            if !(grade > 0.0 && grade.is_finite()) {
                return Err(Error::Shape(format!(
                    "relevant: grades must be finite and above 0, got {grade}"
                )));
            }
            if !index.contains(row) {
                return Err(Error::Row(format!("relevant: row {row} of query {query} is not in the index")));
            }
            place.push((row, f64::from(grade)));
        }
        let found = self.search(index, queries, 100, None, order)?;
        let mut quality = Quality::default();
        for (grades, rows) in
            grades.into_iter().zip(found.rows.rows()).filter(|(grades, _)| !grades.is_empty())
        {
            let (wanted, rows) = (Relevance::new(grades), rows.to_vec());
            quality.ndcg_10 += metrics::ndcg(&rows, &wanted, 10).unwrap_or(0.0);
            quality.mrr_10 += metrics::mrr(&rows, &wanted, 10).unwrap_or(0.0);
            quality.recall_10 += metrics::recall(&rows, &wanted, 10).unwrap_or(0.0);
            quality.recall_100 += metrics::recall(&rows, &wanted, 100).unwrap_or(0.0);
            quality.queries += 1;
        }
        if quality.queries == 0 {
            return Err(Error::Config("evaluate: no query has a relevant row".into()));
        }
        let count = quality.queries as f64;
        for figure in
            [&mut quality.ndcg_10, &mut quality.mrr_10, &mut quality.recall_10, &mut quality.recall_100]
        {
            *figure /= count;
        }
        Ok(quality)
    }

    /// What held-back queries said of the last fit.
    pub fn report(&self) -> Option<&Report> {
        self.state.as_ref().map(|state| &state.report)
    }

    /// Whether a learned ranking serves.
    pub fn is_promoted(&self) -> bool {
        self.report().is_some_and(|report| report.promoted)
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Why a row stands where it stands for one query `(1, dim)`. Needs a fit.
    pub fn explain(&self, index: &HnswIndex, query: ArrayView2<'_, f32>, row: i64) -> Result<Explanation> {
        check(index.dim(), geometry(index), query)?;
        if query.nrows() != 1 {
            return Err(Error::Shape(format!("explain: one query is expected, got {}", query.nrows())));
        }
        let state =
            self.state.as_ref().ok_or_else(|| Error::Config("explain: nothing was learned yet".into()))?;
        state.same_kind(index)?;
        state.explain(index, query, row)
    }
}

/// What an index held at one moment: learning needs no more, so that the index may be used and changed meanwhile.
#[derive(Debug)]
pub struct Snapshot {
    dim: usize,
    geometry: Geometry,
    rows: Vec<i64>,
    num_rows: usize,
    vectors: Vec<f32>,
    links: Graph,
    origin: Origin,
}

/// A ranking that was learned from a [`Snapshot`] and a log.
#[derive(Clone, Debug)]
pub struct Learned(Arc<State>);

impl Snapshot {
    /// Of an index as it stands.
    pub fn of(index: &HnswIndex) -> Result<Self> {
        Ok(Self {
            dim: index.dim(),
            geometry: geometry(index),
            rows: crate::memory::collect(index.rows().map(|row| row as i64)),
            num_rows: index.num_rows(),
            vectors: index.vectors(None)?.into_raw_vec_and_offset().0,
            links: index.graph(0)?,
            origin: Origin::of(index)?,
        })
    }

    /// Learns a ranking; see [`SearchLearner::fit`].
    ///
    /// `judged` holds what to judge by, clicks that do not follow the order that was shown: all queries teach by `clicks`, but
    /// only these decide when training stops and what is promoted; a negative grade takes off what clicks give by chance, and a query
    /// without a positive one does not judge. Queries of a cosine of at least .9999 are one.
    pub fn learn(
        &self,
        queries: ArrayView2<'_, f32>,
        clicks: &[(u32, i64, f32)],
        judged: Option<&[(u32, i64, f32)]>,
        seed: u64,
        monitor: &mut dyn Monitor,
    ) -> Result<Learned> {
        check(self.dim, self.geometry, queries)?;
        let known = self.known(queries.nrows(), clicks, false)?;
        // The log leaves out queries without a click; what they are judged by has to follow.
        let mut numbers: Vec<u32> = crate::memory::collect(known.iter().map(|click| click.0));
        numbers.sort_unstable();
        numbers.dedup();
        let given = queries.as_standard_layout();
        let log = Log::new(given.as_slice().expect("standard layout"), self.dim, known)?;
        if log.is_empty() {
            return Err(Error::Config("fit: relevant names no row that the index holds".into()));
        }
        let space = Space::of(self.geometry, &self.vectors, self.dim);
        let docs = space.enter(&self.vectors);
        let mut neighbors = crate::memory::vec![0.0; docs.len()];
        aggregate::sum(&self.links, None, &docs, self.dim, &mut neighbors);
        aggregate::divide_by_degree(&self.links, self.dim, &mut neighbors);
        let log = log.mapped(&space.enter(log.queries()), Some);
        let (entry_of, entries) = groups::entries(&log);
        let judged = match judged {
            None => None,
            Some(judged) => {
                let judged = self.known(queries.nrows(), judged, true)?;
                Some(by_entry(&numbers, &entry_of, entries, &judged))
            }
        };
        let log = log.merged(&entry_of, entries);
        let mut training = stage::Stage { monitor, start: 0, end: TRAINED };
        let task = Task {
            space: &space,
            docs: &docs,
            neighbors: &neighbors,
            log: &log,
            judged: judged.as_deref(),
            seed,
        };
        let fitted = fit::fit(task, &mut training)?;
        let served = state::Served {
            space,
            docs: &docs,
            neighbors,
            rows: &self.rows,
            log: &log,
            origin: state::Origin { digests: crate::memory::copy_of(&self.origin.digests) },
        };
        let mut stage = stage::Stage { monitor, start: TRAINED, end: stage::WHOLE };
        let state = State::new(fitted, served, seed, &mut stage)?;
        stage.step(1, 1, &[])?;
        Ok(Learned(Arc::new(state)))
    }

    /// Clicks with the positions of rows that are held; those on rows that were removed are left out. Grades may be negative only
    /// if they are `signed`.
    fn known(&self, queries: usize, clicks: &[(u32, i64, f32)], signed: bool) -> Result<Vec<Click>> {
        let mut known = crate::memory::with_capacity(clicks.len());
        for &(query, row, grade) in clicks {
            if row < 0 || row >= self.num_rows as i64 || row > i64::from(u32::MAX) {
                let rows = self.num_rows;
                return Err(Error::Row(format!(
                    "relevant: row {row} of query {query}; the index has handed out {rows} rows"
                )));
            }
            if query as usize >= queries {
                return Err(Error::Row(format!("relevant: query {query} of a log of {queries} queries")));
            }
            if !grade.is_finite() || grade <= 0.0 && !signed {
                let bounds = if signed { "" } else { " and above 0" };
                return Err(Error::Shape(format!("relevant: grades must be finite{bounds}, got {grade}")));
            }
            if let Ok(position) = self.rows.binary_search(&row) {
                known.push((query, position as u32, grade));
            }
        }
        Ok(known)
    }
}

/// What each entry is judged by: the mean grades of those of its queries that have any. `numbers` holds the number of each query of
/// the log, rising.
fn by_entry(numbers: &[u32], entry_of: &[u32], entries: usize, judged: &[Click]) -> Vec<Vec<Graded>> {
    let mut grades: Vec<BTreeMap<u32, f32>> = crate::memory::collect((0..entries).map(|_| BTreeMap::new()));
    let mut members: Vec<BTreeSet<u32>> = crate::memory::collect((0..entries).map(|_| BTreeSet::new()));
    for &(query, doc, grade) in judged {
        // A query that teaches nothing does not judge either.
        let Ok(at) = numbers.binary_search(&query) else { continue };
        let entry = entry_of[at] as usize;
        members[entry].insert(query);
        *grades[entry].entry(doc).or_insert(0.0) += grade;
    }
    let means = grades.into_iter().zip(members).map(|(grades, members)| {
        if !grades.values().any(|&grade| grade > 0.0) {
            return Vec::new();
        }
        let share = 1.0 / members.len().max(1) as f32;
        crate::memory::collect(grades.into_iter().map(|(doc, grade)| (doc, grade * share)))
    });
    crate::memory::collect(means)
}

impl State {
    /// Refuses an index of another shape than the one that was learned on.
    fn same_kind(&self, index: &HnswIndex) -> Result<()> {
        if self.space.dim() == index.dim() && self.space.geometry == geometry(index) {
            return Ok(());
        }
        Err(Error::Config(
            "the index has another dimension or metric than the one that was learned on".into(),
        ))
    }
}

fn geometry(index: &HnswIndex) -> Geometry {
    match index.params().metric {
        Metric::Cosine => Geometry::Cosine,
        Metric::L2 => Geometry::L2,
        Metric::Ip => Geometry::Ip,
    }
}

fn check(dim: usize, geometry: Geometry, queries: ArrayView2<'_, f32>) -> Result<()> {
    if queries.ncols() != dim {
        let (rows, columns) = queries.dim();
        return Err(Error::Shape(format!("queries must have shape (n, {dim}), got ({rows}, {columns})")));
    }
    let given = queries.as_standard_layout();
    let values = given.as_slice().expect("standard layout");
    require_finite("queries", values)?;
    let zero = |row: &[f32]| row.iter().all(|&value| value == 0.0);
    if geometry == Geometry::Cosine && values.chunks_exact(dim).any(zero) {
        return Err(Error::Shape("queries: a row is zero; cosine needs a direction".into()));
    }
    Ok(())
}
