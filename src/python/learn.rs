//! `_core.Learner`: the learner behind a lock that is only waited for without the GIL and held for no callback.

use crate::error::{Error, Result};
use crate::learn::{Order, Quality, Report, SearchLearner, Snapshot, Weights};
use crate::memory;
use crate::python::array::{self, Int};
use crate::python::call::{detached, guarded, monitored};
use crate::python::error::Raise;
use crate::python::index::{Chosen, PyIndex, matrix, positive, refuse_integer_mask};
use numpy::{IntoPyArray, PyArray2, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

/// Learns from past queries to rank the rows of one index.
#[pyclass(name = "Learner", module = "ruvector_gnn._core", frozen)]
pub struct PyLearner {
    learner: RwLock<SearchLearner>,
    index: Py<PyIndex>,
}

type Ranked<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>);

impl PyLearner {
    fn read<T: Send>(
        &self,
        py: Python<'_>,
        task: impl FnOnce(&SearchLearner, &crate::hnsw::HnswIndex) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.index
            .get()
            .read(py, |index| task(&self.learner.read().unwrap_or_else(PoisonError::into_inner), index))
    }

    /// As [`read`](Self::read), between the calls that change the index.
    fn settled<T: Send>(
        &self,
        py: Python<'_>,
        task: impl FnOnce(&SearchLearner, &crate::hnsw::HnswIndex) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.index
            .get()
            .settled(py, |index| task(&self.learner.read().unwrap_or_else(PoisonError::into_inner), index))
    }

    fn write<T: Send>(
        &self,
        py: Python<'_>,
        task: impl FnOnce(&mut SearchLearner) -> Result<T> + Send,
    ) -> PyResult<T> {
        detached(py, || task(&mut self.learner.write().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[pymethods]
impl PyLearner {
    #[new]
    fn create(index: Py<PyIndex>, seed: Int) -> PyResult<Self> {
        Ok(Self { learner: RwLock::new(SearchLearner::new(seed.seed("seed")?)), index })
    }

    /// Trains on a snapshot of the index, then serves what was learned.
    #[pyo3(signature = (queries, clicks, callback=None, judged=None))]
    fn fit(
        &self,
        py: Python<'_>,
        queries: &Bound<'_, PyAny>,
        clicks: Clicks<'_>,
        callback: Option<Py<PyAny>>,
        judged: Option<Clicks<'_>>,
    ) -> PyResult<()> {
        let queries = array::float32("queries", queries)?;
        let view = matrix("queries", &queries).map_err(Raise)?;
        let clicks = guarded(|| Ok(clicks.checked().map_err(Raise)?))?;
        let judged = judged.map(|judged| guarded(|| Ok(judged.checked().map_err(Raise)?))).transpose()?;
        let judged = judged.as_deref();
        let (snapshot, seed) =
            self.settled(py, |learner, index| Ok((Snapshot::of(index)?, learner.seed())))?;
        let learned =
            monitored(py, callback, |monitor| snapshot.learn(view, &clicks, judged, seed, monitor))?;
        self.write(py, |learner| {
            learner.install(learned);
            Ok(())
        })
    }

    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: Int,
        filter: Option<&Bound<'py, PyAny>>,
        learned: bool,
    ) -> PyResult<Ranked<'py>> {
        let queries = array::float32("queries", queries)?;
        let view = matrix("queries", &queries).map_err(Raise)?;
        let filter = filter.map(Chosen::extract).transpose()?;
        let filter = filter.as_ref().map(Chosen::view).transpose().map_err(Raise)?;
        let ranked = self.read(py, |learner, index| {
            refuse_integer_mask(filter, index.num_rows())?;
            learner.search(index, view, positive("k", k.clamped())?, filter, order(learned))
        })?;
        Ok((ranked.rows.into_pyarray(py), ranked.scores.into_pyarray(py)))
    }

    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        relevant: Clicks<'py>,
        learned: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let queries = array::float32("queries", queries)?;
        let view = matrix("queries", &queries).map_err(Raise)?;
        let relevant = guarded(|| Ok(relevant.checked().map_err(Raise)?))?;
        let Quality { ndcg_10, mrr_10, recall_10, recall_100, queries } =
            self.read(py, |learner, index| learner.evaluate(index, view, &relevant, order(learned)))?;
        let figures = PyDict::new(py);
        figures.set_item("ndcg@10", ndcg_10)?;
        figures.set_item("mrr@10", mrr_10)?;
        figures.set_item("recall@10", recall_10)?;
        figures.set_item("recall@100", recall_100)?;
        figures.set_item("queries", queries)?;
        Ok(figures)
    }

    fn report<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let report = self.read(py, |learner, _| Ok(learner.report().cloned()))?;
        report.map(|report| to_dict(py, &report)).transpose()
    }

    fn explain<'py>(
        &self,
        py: Python<'py>,
        query: &Bound<'py, PyAny>,
        row: Int,
    ) -> PyResult<Bound<'py, PyDict>> {
        let query = array::float32("query", query)?;
        let view = matrix("query", &query).map_err(Raise)?;
        let parts = self.read(py, |learner, index| learner.explain(index, view, row.clamped()))?;
        let dict = PyDict::new(py);
        dict.set_item("score", parts.score)?;
        dict.set_item("plain", parts.plain)?;
        dict.set_item("adapter", parts.adapter)?;
        dict.set_item("edges", parts.edges)?;
        dict.set_item("centroid", parts.centroid)?;
        dict.set_item("neighbors", parts.neighbors)?;
        dict.set_item("votes", parts.votes)?;
        dict.set_item("voters", PyList::new(py, parts.voters)?)?;
        dict.set_item("clicks", parts.clicks)?;
        dict.set_item("bonus", parts.bonus)?;
        let weights = PyDict::new(py);
        let Weights { plain, adapter, edges, centroid, neighbors, votes } = parts.weights;
        let named = [
            ("plain", plain),
            ("adapter", adapter),
            ("edges", edges),
            ("centroid", centroid),
            ("neighbors", neighbors),
            ("votes", votes),
        ];
        for (name, weight) in named {
            weights.set_item(name, weight)?;
        }
        dict.set_item("weights", weights)?;
        Ok(dict)
    }

    fn rollback(&self, py: Python<'_>) -> PyResult<()> {
        self.write(py, SearchLearner::rollback)
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.settled(py, |learner, index| learner.save(path, index))
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf, index: Py<PyIndex>) -> PyResult<Self> {
        let learner = index.get().settled(py, |index| SearchLearner::load(path, index))?;
        Ok(Self { learner: RwLock::new(learner), index })
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.settled(py, |learner, index| learner.to_bytes(index))?;
        PyBytes::new_with(py, bytes.len(), |place| {
            place.copy_from_slice(&bytes);
            Ok(())
        })
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, bytes: &Bound<'_, PyBytes>, index: Py<PyIndex>) -> PyResult<Self> {
        let bytes = guarded(|| Ok(memory::copy_of(bytes.as_bytes())))?;
        let learner = index.get().settled(py, |index| SearchLearner::from_bytes(bytes, index))?;
        Ok(Self { learner: RwLock::new(learner), index })
    }
}

/// `(queries, rows, grades)`, three arrays of the same length.
#[derive(FromPyObject)]
struct Clicks<'py>(PyReadonlyArray1<'py, i64>, PyReadonlyArray1<'py, i64>, PyReadonlyArray1<'py, f32>);

impl Clicks<'_> {
    fn checked(&self) -> Result<Vec<(u32, i64, f32)>> {
        let (queries, rows, grades) = (self.0.as_array(), self.1.as_array(), self.2.as_array());
        if queries.len() != rows.len() || rows.len() != grades.len() {
            return Err(Error::Shape("relevant: queries, rows and grades differ in length".into()));
        }
        let number = |query: i64| {
            u32::try_from(query).map_err(|_| Error::Row(format!("relevant: query {query} is out of range")))
        };
        let mut clicks = memory::with_capacity(queries.len());
        for (&query, (&row, &grade)) in queries.iter().zip(rows.iter().zip(grades)) {
            clicks.push((number(query)?, row, grade));
        }
        Ok(clicks)
    }
}

fn order(learned: bool) -> Order {
    if learned { Order::Learned } else { Order::Plain }
}

fn to_dict<'py>(py: Python<'py>, report: &Report) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("promoted", report.promoted)?;
    dict.set_item("chosen", &report.chosen)?;
    dict.set_item("queries", report.queries)?;
    dict.set_item("held_back", report.held_back)?;
    dict.set_item("steps", report.steps)?;
    dict.set_item("before", report.plain)?;
    dict.set_item("after", report.learned)?;
    dict.set_item("gain", report.gain.mean)?;
    dict.set_item("standard_error", report.gain.error)?;
    let width = 1.96 * report.gain.error;
    dict.set_item("interval", (report.gain.mean - width, report.gain.mean + width))?;
    dict.set_item("candidates", report.tried)?;
    dict.set_item("refused", &report.refused)?;
    dict.set_item("agreement", report.agreement)?;
    let (familiar, queries) = report.familiar;
    dict.set_item("familiar_queries", queries)?;
    dict.set_item("familiar_gain", familiar.mean)?;
    let width = 1.96 * familiar.error;
    dict.set_item("familiar_interval", (familiar.mean - width, familiar.mean + width))?;
    dict.set_item("before_never_clicked", report.plain_cold)?;
    dict.set_item("after_never_clicked", report.learned_cold)?;
    let families = PyDict::new(py);
    for (name, mean, gain) in &report.families {
        let row = PyDict::new(py);
        row.set_item("ndcg@10", mean)?;
        row.set_item("gain", gain.mean)?;
        row.set_item("standard_error", gain.error)?;
        families.set_item(name, row)?;
    }
    dict.set_item("tried", families)?;
    Ok(dict)
}
