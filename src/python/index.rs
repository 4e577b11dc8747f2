//! `HNSWIndex`: the index behind locks that are only ever waited for without the GIL.

use crate::error::{Error, Result};
use crate::hnsw::{Filter, Hits, HnswIndex, LoadOptions, Params, SharedIndex, Stats};
use crate::memory;
use crate::python::array::{self, Int};
use crate::python::call::{detached, interruptible, monitored};
use crate::python::error::Raise;
use crate::python::graph::PyGraph;
use ndarray::{ArrayView2, ArrayViewD, Ix1, Ix2};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArrayDyn};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList};
use std::cell::RefCell;
use std::path::PathBuf;

/// Approximate nearest-neighbour index: a Hierarchical Navigable Small World graph.
///
/// Malkov & Yashunin (2018), "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable
/// Small World graphs". Building is parallel, and its graph is the same to the bit on any number of threads.
/// Searches may run in several threads at once, and while another thread adds, removes or updates: they see its rows come
/// and go in batches of up to 256, and wait only while one is written. Calls that change the index wait for each other;
/// `save`, `stats`, `graph` and pickling wait for them, to see none of them half done.
///
/// Parameters
/// ----------
/// dim : int
///     Values per vector.
/// metric : "cosine", "l2" or "ip"
///     `1 - <q,x> / (|q||x|)`, the squared Euclidean distance `|q - x|^2`, or `1 - <q,x>`. The smaller, the nearer.
/// m : int
///     Links per row on the upper levels; level 0 holds `2 m`. From 2 to 256.
/// ef_construction : int
///     Candidates that a new row chooses its links from.
/// ef_search : int
///     Candidates that a search keeps, unless its `ef` says otherwise: more find more and take longer.
/// storage : "f32", "f16", "i8" or "binary"
///     How vectors are stored: as given; in half precision, whose values go up to 65504; as one byte a value, on a range
///     per dimension; or as one bit a value, which tells on which side of its dimension's mean it lies. A search walks the
///     graph on what is stored. "i8" is the fastest; "binary" needs a larger `ef`.
/// rescore : bool
///     Whether quantized storage keeps the exact vectors too, and scores the last candidates again with them. Without, an
///     index takes less memory, and distances and `vectors()` are those of the decoded codes. "f32" has no need to.
/// seed : int
///     What levels and insertion order are drawn from.
///
/// Raises `ConfigError` for a parameter outside its domain.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import ruvector_gnn as rg
/// >>> vectors = np.eye(4, dtype=np.float32)
/// >>> index = rg.HNSWIndex(4, metric="l2")
/// >>> index.add(vectors)
/// array([0, 1, 2, 3])
/// >>> rows, distances = index.search([0.9, 0.1, 0, 0], k=2)
/// >>> rows
/// array([[0, 1]])
/// >>> len(index), 3 in index, index
/// (4, True, HNSWIndex(4 rows, dim=4, metric='l2', m=16, storage='f32'))
#[pyclass(name = "HNSWIndex", module = "ruvector_gnn", frozen)]
pub struct PyIndex {
    index: SharedIndex,
}

impl PyIndex {
    fn new(index: HnswIndex) -> Self {
        Self { index: SharedIndex::new(index) }
    }

    /// Reads the index as it is at one instant, with the GIL released. Ctrl-C ends it.
    pub(super) fn read<T: Send>(
        &self,
        py: Python<'_>,
        task: impl FnOnce(&HnswIndex) -> Result<T> + Send,
    ) -> PyResult<T> {
        let _reading = self.reading().map_err(Raise)?;
        interruptible(py, || self.index.read(task))
    }

    /// Reads the index between the calls that change it, with the GIL released.
    pub(super) fn settled<T: Send>(
        &self,
        py: Python<'_>,
        task: impl FnOnce(&HnswIndex) -> Result<T> + Send,
    ) -> PyResult<T> {
        detached(py, || self.outside()?.settled(task)?)
    }

    /// The index, unless this thread is in a call that reads it: a signal handler would wait for that call for ever.
    fn outside(&self) -> Result<&SharedIndex> {
        if READ_HERE.with_borrow(|read| read.contains(&self.address())) {
            return Err(Error::Config(
                "a signal handler can't use the index that a call reads which it interrupts".into(),
            ));
        }
        Ok(&self.index)
    }

    /// Notes that this thread reads the index, until the guard is dropped.
    fn reading(&self) -> Result<Reading> {
        self.outside()?;
        READ_HERE.with_borrow_mut(|read| read.push(self.address()));
        Ok(Reading)
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(&self.index).addr()
    }
}

thread_local! {
    /// The indexes that this thread reads, by address.
    static READ_HERE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// A call that reads an index.
struct Reading;

impl Drop for Reading {
    fn drop(&mut self) {
        READ_HERE.with_borrow_mut(Vec::pop);
    }
}

#[pymethods]
impl PyIndex {
    #[new]
    #[pyo3(
        signature = (dim, metric="cosine", m=Int::new(16), ef_construction=Int::new(200), ef_search=Int::new(64),
            storage="f32", rescore=true, seed=Int::new(0)),
        text_signature = "(dim, metric='cosine', m=16, ef_construction=200, ef_search=64, storage='f32', rescore=True, seed=0)"
    )]
    #[expect(clippy::too_many_arguments, reason = "the names of the contract")]
    fn create(
        dim: Int,
        metric: &str,
        m: Int,
        ef_construction: Int,
        ef_search: Int,
        storage: &str,
        rescore: bool,
        seed: Int,
    ) -> PyResult<Self> {
        let seed = seed.seed("seed")?;
        let create = || {
            let params = Params {
                metric: metric.parse()?,
                m: positive("m", m.clamped())?,
                ef_construction: positive("ef_construction", ef_construction.clamped())?,
                ef_search: positive("ef_search", ef_search.clamped())?,
                storage: storage.parse()?,
                rescore,
                seed,
            };
            HnswIndex::new(positive("dim", dim.clamped())?, params)
        };
        Ok(Self::new(create().map_err(Raise)?))
    }

    /// Add vectors of shape `(n, dim)`, or one of shape `(dim,)`, and return their row numbers, int64 `(n,)`.
    ///
    /// Rows rise and are never reused. `progress=True` shows a bar; `callback(step, metrics)` is called between batches
    /// with the number of vectors inserted, may search the index but not change it, and may raise to stop. A call that is stopped, by that or by Ctrl-C, keeps a
    /// prefix of its vectors (whole segments of 131,072; a smaller call is taken back) and says how many rows there are.
    ///
    /// Searches in other threads find its vectors batch by batch; all of them when it has returned.
    ///
    /// Raises `ShapeError` for vectors of another dimension, with NaN or infinity, or zero under cosine; nothing is
    /// added then.
    #[pyo3(signature = (vectors, progress=false, callback=None))]
    fn add<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
        progress: bool,
        callback: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let vectors = array::float32("vectors", vectors)?;
        let view = matrix("vectors", &vectors).map_err(Raise)?;
        let watch =
            py.import("ruvector_gnn._progress")?.call_method1("watch", (progress, callback, "add"))?;
        let watch = (!watch.is_none()).then(|| watch.unbind());
        let rows = monitored(py, watch, |monitor| {
            // Before the rows are in: what is refused afterwards could not be reported.
            let mut numbers = memory::try_with_capacity(view.nrows())?;
            let rows = self.outside()?.add(view, monitor)?;
            numbers.extend(rows.start as i64..rows.end as i64);
            Ok(numbers)
        })?;
        Ok(rows.into_pyarray(py))
    }

    /// Remove rows: no search that starts afterwards finds them, their numbers are never reused, and their vectors are
    /// wiped from memory. The links around them are chosen anew, so that the others are found as before.
    ///
    /// The memory is taken by rows added later; `compact` gives it back. A call that is stopped by Ctrl-C has removed the
    /// first of `rows`, and says how many.
    ///
    /// Raises `RowError` for rows that are not held or are given twice; nothing is removed then.
    ///
    /// Examples
    /// --------
    /// >>> import ruvector_gnn as rg
    /// >>> index = rg.HNSWIndex(1, metric="l2")
    /// >>> _ = index.add([[0], [3], [1]])
    /// >>> index.remove([0])
    /// >>> index.add([[5]]), index.rows(), index.num_rows, 0 in index
    /// (array([3]), array([1, 2, 3]), 4, False)
    /// >>> index.search([0], k=2).rows
    /// array([[2, 1]])
    fn remove(&self, py: Python<'_>, rows: &Bound<'_, PyAny>) -> PyResult<()> {
        let rows = array::int64("rows", rows)?;
        let rows = list("rows", &rows).map_err(Raise)?;
        monitored(py, None, |monitor| self.outside()?.remove(rows, monitor))
    }

    /// Hand out the next `count` row numbers to nothing, as if those rows had been added and removed: so rows get the
    /// numbers that they have elsewhere.
    ///
    /// Raises `ConfigError` for a count below 0 or beyond the numbers that there are.
    ///
    /// Examples
    /// --------
    /// >>> import ruvector_gnn as rg
    /// >>> index = rg.HNSWIndex(1, metric="l2")
    /// >>> index.skip_rows(7)
    /// >>> index.add([[0], [3]]), len(index), index.num_rows
    /// (array([7, 8]), 2, 9)
    fn skip_rows(&self, py: Python<'_>, count: Int) -> PyResult<()> {
        let count = count.clamped();
        detached(py, || {
            let refused = |_| Error::Config(format!("count must be at least 0, got {count}"));
            self.outside()?.skip_rows(usize::try_from(count).map_err(refused)?)
        })
    }

    /// Replace the vectors of `rows` by `vectors (n, dim)`; the rows keep their numbers and are linked anew.
    ///
    /// A search in another thread may miss a row while it is linked anew. A call that is stopped by Ctrl-C has replaced the
    /// first of them, and says how many.
    ///
    /// Raises `RowError` as `remove` does, and `ShapeError` as `add` does or for another number of vectors than of rows;
    /// nothing is changed then.
    ///
    /// Examples
    /// --------
    /// >>> import ruvector_gnn as rg
    /// >>> index = rg.HNSWIndex(1, metric="l2")
    /// >>> _ = index.add([[0], [3], [1]])
    /// >>> index.update([1], [[-1]])
    /// >>> index.search([-2], k=3)
    /// Hits(rows=array([[1, 0, 2]]), distances=array([[1., 4., 9.]], dtype=float32))
    fn update(&self, py: Python<'_>, rows: &Bound<'_, PyAny>, vectors: &Bound<'_, PyAny>) -> PyResult<()> {
        let (rows, vectors) = (array::int64("rows", rows)?, array::float32("vectors", vectors)?);
        let rows = list("rows", &rows).map_err(Raise)?;
        let view = matrix("vectors", &vectors).map_err(Raise)?;
        monitored(py, None, |monitor| self.outside()?.update(rows, view, monitor))
    }

    /// Give back the memory that removed rows left. Rows keep their numbers, and searches find the same.
    ///
    /// Rows added later would take that memory, so only an index that shrinks for good needs this. Links are held twice
    /// meanwhile, and searches wait; it moves memory and computes nothing, so that it ends in a moment, and Ctrl-C takes
    /// effect after it.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> import ruvector_gnn as rg
    /// >>> index = rg.HNSWIndex(8)
    /// >>> index.remove(index.add(np.random.default_rng(0).normal(size=(500, 8)))[100:])
    /// >>> before = index.stats()
    /// >>> index.compact()
    /// >>> before["free"], index.stats()["free"], before["bytes"] > 3 * index.stats()["bytes"]
    /// (400, 0, True)
    fn compact(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.outside()?.compact())
    }

    /// Order the rows in memory as walks meet them, so that rows near each other lie near each other: searches find the
    /// same, and are faster where rows are short. Rows keep their numbers; among equal distances their order may change.
    ///
    /// Worth its moment once an index is built. Rows added later follow at the end. Memory that removed rows left is given
    /// back, links are held twice, searches wait and Ctrl-C takes effect afterwards, as in `compact`. Rows are ordered by a
    /// breadth-first walk along the links (Cuthill & McKee 1969; for this use Coleman et al. 2022, "Graph reordering for
    /// cache-efficient near neighbor search").
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> import ruvector_gnn as rg
    /// >>> vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    /// >>> index = rg.HNSWIndex(8)
    /// >>> rows = index.add(vectors)
    /// >>> before = index.search(vectors[:20], k=5)
    /// >>> index.optimize()
    /// >>> bool((index.search(vectors[:20], k=5).rows == before.rows).all())
    /// True
    /// >>> bool((index.vectors(rows) == vectors).all())
    /// True
    fn optimize(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.outside()?.optimize())
    }

    /// Return the `k` rows nearest to each query as `Hits(rows, distances)`, both of shape `(queries, k)`.
    ///
    /// Queries have shape `(n, dim)` or `(dim,)`, which counts as one. `ef` is the number of candidates kept, at least `k`; by
    /// default `max(ef_search, k)`, and half as many again under "ip" where vectors differ in length. Hits are in the order
    /// of float64, rows of equal distance in the order of their places in memory. `filter` names the rows that may be returned: a boolean mask of length `num_rows` or
    /// an array of row numbers; where they are few, they are scanned exactly. Where there are fewer than `k`, missing
    /// places hold row -1 and distance +inf.
    ///
    /// Raises `ShapeError` as `add` does, for a mask of another length, and for a mask of integers 0 and 1, which would be
    /// read as rows; `ConfigError` for `k` or `ef` below 1, and `RowError` for unknown rows.
    ///
    /// Examples
    /// --------
    /// >>> import ruvector_gnn as rg
    /// >>> index = rg.HNSWIndex(2, metric="ip")
    /// >>> _ = index.add([[1, 0], [0, 1], [2, 2]])
    /// >>> index.search([[1, 0]], k=2, filter=[0, 1]).rows
    /// array([[0, 1]])
    #[pyo3(signature = (queries, k=Int::new(10), ef=None, filter=None), text_signature = "($self, queries, k=10, ef=None, filter=None)")]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: Int,
        ef: Option<Int>,
        filter: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let queries = array::float32("queries", queries)?;
        let view = matrix("queries", &queries).map_err(Raise)?;
        let filter = filter.map(Chosen::extract).transpose()?;
        let filter = filter.as_ref().map(Chosen::view).transpose().map_err(Raise)?;
        let hits = self.read(py, |index| {
            refuse_integer_mask(filter, index.num_rows())?;
            let ef = ef.map(|ef| positive("ef", ef.clamped())).transpose()?;
            index.search(view, positive("k", k.clamped())?, ef, filter)
        })?;
        to_hits(py, hits)
    }

    /// Return what `search` would if it missed nothing, by comparing each query with every row.
    ///
    /// The order is that of float64, and distances are those of `search` to the bit. Arguments and errors are the same.
    ///
    /// Examples
    /// --------
    /// >>> import ruvector_gnn as rg
    /// >>> index = rg.HNSWIndex(1, metric="l2")
    /// >>> _ = index.add([[0], [3], [1]])
    /// >>> index.exact_search([1], k=3)
    /// Hits(rows=array([[2, 0, 1]]), distances=array([[0., 1., 4.]], dtype=float32))
    #[pyo3(signature = (queries, k=Int::new(10), filter=None), text_signature = "($self, queries, k=10, filter=None)")]
    fn exact_search<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: Int,
        filter: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let queries = array::float32("queries", queries)?;
        let view = matrix("queries", &queries).map_err(Raise)?;
        let filter = filter.map(Chosen::extract).transpose()?;
        let filter = filter.as_ref().map(Chosen::view).transpose().map_err(Raise)?;
        let hits = self.read(py, |index| {
            refuse_integer_mask(filter, index.num_rows())?;
            index.exact_search(view, positive("k", k.clamped())?, filter)
        })?;
        to_hits(py, hits)
    }

    /// Return all rows within `radius` of each query as `RangeHits(indptr, rows, distances)`: query `i` has the places
    /// `indptr[i]` to `indptr[i + 1]`, nearest first.
    ///
    /// `radius` is in the unit of the distances that `search` returns, and inclusive. Walks find nearly all such rows, with
    /// ever more candidates until the radius lies well inside them; `exact=True` compares with every row.
    ///
    /// Raises `ShapeError` as `search` does, `ConfigError` for a radius that is NaN.
    ///
    /// Examples
    /// --------
    /// >>> import ruvector_gnn as rg
    /// >>> index = rg.HNSWIndex(1, metric="l2")
    /// >>> _ = index.add([[0], [3], [1]])
    /// >>> index.range_search([[0], [9]], radius=1)
    /// RangeHits(indptr=array([0, 2, 2]), rows=array([0, 2]), distances=array([0., 1.], dtype=float32))
    #[pyo3(signature = (queries, radius, exact=false))]
    fn range_search<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        radius: f64,
        exact: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let queries = array::float32("queries", queries)?;
        let view = matrix("queries", &queries).map_err(Raise)?;
        let (hits, indptr) = self.read(py, |index| {
            let hits = index.range_search(view, radius, exact)?;
            let indptr = memory::collect(hits.indptr.iter().map(|&at| at as i64));
            Ok((hits, indptr))
        })?;
        let parts = (indptr.into_pyarray(py), hits.rows.into_pyarray(py), hits.distances.into_pyarray(py));
        static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        hits_class(py, &CLASS, "RangeHits")?.call1(parts)
    }

    /// Return the vectors of `rows`, or of all rows in the order of `rows()`, float32 `(n, dim)`: bit for bit as added or,
    /// where quantized storage does not `rescore`, as their codes decode.
    ///
    /// Raises `RowError` for unknown rows.
    ///
    /// Examples
    /// --------
    /// >>> import ruvector_gnn as rg
    /// >>> index = rg.HNSWIndex(2)
    /// >>> _ = index.add([[1, 0], [0, 1]])
    /// >>> index.vectors([1])
    /// array([[0., 1.]], dtype=float32)
    #[pyo3(signature = (rows=None))]
    fn vectors<'py>(
        &self,
        py: Python<'py>,
        rows: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = rows.map(|rows| array::int64("rows", rows)).transpose()?;
        let rows = rows.as_ref().map(|rows| list("rows", rows)).transpose().map_err(Raise)?;
        Ok(self.read(py, |index| index.vectors(rows))?.into_pyarray(py))
    }

    /// Return the row numbers held, rising, int64 `(n,)`: the order of `vectors()` and of the nodes of `graph(level)`.
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let rows = self.read(py, |index| Ok(memory::collect(index.rows().map(|row| row as i64))))?;
        Ok(rows.into_pyarray(py))
    }

    /// Return figures: "rows"; "free", the slots that removed rows left; "levels", with "rows", "links", "mean_degree" and
    /// "max_degree" for each; "unreachable", the rows that level-0 links do not lead to from the entry point (always 0);
    /// "bytes" of memory, to which what stays in a mapped file does not count, and "bytes_per_vector"; "evaluations", the
    /// distances that walks of the graph computed since the index was made or loaded, to insert rows and to search.
    ///
    /// Examples
    /// --------
    /// >>> import ruvector_gnn as rg
    /// >>> index = rg.HNSWIndex(2)
    /// >>> _ = index.add([[1, 0], [0, 1]])
    /// >>> stats = index.stats()
    /// >>> stats["rows"], stats["unreachable"], stats["levels"][0]["links"]
    /// (2, 0, 2)
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.settled(py, |index| Ok(index.stats()))?;
        to_dict(py, &stats)
    }

    /// The links of one level as a `Graph`, whose `node_ids` are row numbers.
    ///
    /// Its nodes follow `rows()` on level 0. Raises `ConfigError` for a level that the index does not have.
    #[pyo3(signature = (level = Int::new(0)), text_signature = "($self, level=0)")]
    fn graph(&self, py: Python<'_>, level: Int) -> PyResult<PyGraph> {
        let level = level.count("level")?;
        self.settled(py, |index| index.graph(level)).map(PyGraph)
    }

    /// Write the index to one file, in the place of what is there: a crash leaves the old file or the new one, whole.
    ///
    /// The new file keeps the mode, the owner and the group of the one it replaces; a symbolic link stays, and the file it
    /// leads to is replaced.
    ///
    /// Raises `OSError` where the system refuses, and if `path` is a directory, a pipe, a socket or a device.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.settled(py, |index| index.save(path))
    }

    /// Read an index from a file that `save` wrote, verifying everything in it; or, with `mmap=True`, search the file where
    /// it lies.
    ///
    /// A mapped index takes memory for its links alone, and with `rescore` for its codes: vectors are read from the file
    /// as searches touch them, in blocks of 64 KiB whose checksums are verified the first time. Where a block is damaged,
    /// that search and all later ones raise `FormatError`. `verify="full"` verifies all of them now. The first change
    /// (`add`, `remove`, `update`, `compact`, `optimize`) brings the vectors into memory; the file is never written. It may
    /// be replaced meanwhile, as `save` does, by this index or another process; a file that is shortened in place kills
    /// its readers. Pickling keeps the path and refuses another file in its place.
    ///
    /// Raises `FormatError` for a file that is damaged, cut short, of another kind or of a later version, and for a pipe, a
    /// socket or a device; `ConfigError` for another `verify`, and for `mmap=True` in a build without the feature `mmap`;
    /// `OSError`.
    ///
    /// Examples
    /// --------
    /// >>> import os, tempfile
    /// >>> import ruvector_gnn as rg
    /// >>> index = rg.HNSWIndex(2)
    /// >>> _ = index.add([[1, 0], [0, 1]])
    /// >>> with tempfile.TemporaryDirectory() as folder:
    /// ...     path = os.path.join(folder, "index.rvx")
    /// ...     index.save(path)
    /// ...     copy = rg.HNSWIndex.load(path)
    /// ...     mapped = rg.HNSWIndex.load(path, mmap=True)
    /// ...     found = mapped.search([1, 0], k=1)
    /// >>> copy.fingerprint == index.fingerprint, found.rows
    /// (True, array([[0]]))
    #[staticmethod]
    #[pyo3(signature = (path, mmap=false, verify=None))]
    fn load(py: Python<'_>, path: PathBuf, mmap: bool, verify: Option<&str>) -> PyResult<Self> {
        let verify = match verify {
            None => false,
            Some("full") => true,
            Some(other) => {
                let text = format!("verify must be None or 'full', got '{other}'");
                return Err(Raise(Error::Config(text)).into());
            }
        };
        Ok(Self::new(detached(py, || HnswIndex::load(path, LoadOptions { mmap, verify }))?))
    }

    /// The highest row number ever handed out, plus one: the length of a boolean filter.
    #[getter]
    fn num_rows(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |index| Ok(index.num_rows()))
    }

    /// Number of levels; 0 when empty.
    #[getter]
    fn levels(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |index| Ok(index.levels()))
    }

    /// A number that differs between indexes of other parameters, vectors or rows.
    #[getter]
    fn fingerprint(&self, py: Python<'_>) -> PyResult<u64> {
        self.settled(py, HnswIndex::fingerprint)
    }

    /// Values per vector.
    #[getter]
    fn dim(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |index| Ok(index.dim()))
    }

    /// "cosine", "l2" or "ip".
    #[getter]
    fn metric(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.read(py, |index| Ok(index.params().metric.name()))
    }

    /// Links per row on the upper levels.
    #[getter]
    fn m(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |index| Ok(index.params().m))
    }

    /// Candidates that a new row chooses its links from.
    #[getter]
    fn ef_construction(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |index| Ok(index.params().ef_construction))
    }

    /// Candidates that a search keeps by default.
    #[getter]
    fn ef_search(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |index| Ok(index.params().ef_search))
    }

    /// How vectors are stored.
    #[getter]
    fn storage(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.read(py, |index| Ok(index.params().storage.name()))
    }

    /// Whether quantized candidates are scored again with the exact vectors.
    #[getter]
    fn rescore(&self, py: Python<'_>) -> PyResult<bool> {
        self.read(py, |index| Ok(index.params().rescore))
    }

    /// What levels and insertion order are drawn from.
    #[getter]
    fn seed(&self, py: Python<'_>) -> PyResult<u64> {
        self.read(py, |index| Ok(index.params().seed))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |index| Ok(index.len()))
    }

    fn __contains__(&self, py: Python<'_>, row: Int) -> PyResult<bool> {
        let row = row.clamped();
        self.read(py, |index| Ok(index.contains(row)))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        self.read(py, |index| {
            let (params, rows) = (index.params(), index.len());
            let (metric, m, storage) = (params.metric.name(), params.m, params.storage.name());
            Ok(format!(
                "HNSWIndex({rows} rows, dim={}, metric='{metric}', m={m}, storage='{storage}')",
                index.dim()
            ))
        })
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let state = self.settled(py, |index| {
            Ok(match index.mapped() {
                Some((path, checksum)) => Ok((path.to_owned(), checksum)),
                None => Err(index.to_bytes()),
            })
        })?;
        let core = py.import("ruvector_gnn._core")?;
        match state {
            Ok(mapped) => Ok((core.getattr("_index_from_map")?, mapped.into_bound_py_any(py)?)),
            Err(bytes) => {
                let bytes = PyBytes::new_with(py, bytes.len(), |room| {
                    room.copy_from_slice(&bytes);
                    Ok(())
                })?;
                let bytes = (bytes,).into_bound_py_any(py)?;
                Ok((core.getattr("_index_from_bytes")?, bytes))
            }
        }
    }
}

/// What `pickle` calls.
#[pyfunction]
pub fn _index_from_bytes(py: Python<'_>, bytes: &[u8]) -> PyResult<PyIndex> {
    Ok(PyIndex::new(detached(py, || HnswIndex::from_bytes(memory::copy_of(bytes)))?))
}

/// What `pickle` calls for a mapped index.
#[pyfunction]
pub fn _index_from_map(py: Python<'_>, path: PathBuf, checksum: u32) -> PyResult<PyIndex> {
    Ok(PyIndex::new(detached(py, || HnswIndex::remap(path, checksum))?))
}

/// A filter as Python gave it.
pub(super) enum Chosen<'py> {
    Mask(PyReadonlyArrayDyn<'py, bool>),
    Rows(PyReadonlyArrayDyn<'py, i64>),
}

impl<'py> Chosen<'py> {
    pub(super) fn extract(filter: &Bound<'py, PyAny>) -> PyResult<Self> {
        if array::is_boolean("filter", filter)? {
            return Ok(Self::Mask(array::boolean("filter", filter)?));
        }
        Ok(Self::Rows(array::int64("filter", filter)?))
    }

    pub(super) fn view(&self) -> Result<Filter<'_>> {
        match self {
            Chosen::Mask(marks) => Ok(Filter::Mask(list("filter", marks)?)),
            Chosen::Rows(rows) => Ok(Filter::Rows(list("filter", rows)?)),
        }
    }
}

/// Refuses integers that look like a boolean mask: a 0 or 1 for each row number. Distinct ones are rows.
pub(super) fn refuse_integer_mask(filter: Option<Filter<'_>>, num_rows: usize) -> Result<()> {
    let Some(Filter::Rows(rows)) = filter else { return Ok(()) };
    let repeats = rows.len() > 2 || matches!(rows, [first, second] if first == second);
    if repeats && rows.len() == num_rows && rows.iter().all(|row| matches!(row, 0 | 1)) {
        let message = "filter must be a boolean mask or row numbers, got an integer 0 or 1 for each row; \
                       a mask is filter=mask.astype(bool)";
        return Err(Error::Shape(message.into()));
    }
    Ok(())
}

pub(super) fn positive(name: &str, value: i64) -> Result<usize> {
    let refused = || Error::Config(format!("{name} must be at least 1, got {value}"));
    usize::try_from(value).ok().filter(|&value| value > 0).ok_or_else(refused)
}

/// A matrix; a vector counts as one row.
pub(super) fn matrix<'a>(name: &str, array: &'a PyReadonlyArrayDyn<'_, f32>) -> Result<ArrayView2<'a, f32>> {
    let view: ArrayViewD<'a, f32> = array.as_array();
    let shape = view.shape().to_vec();
    let refused = || Error::Shape(format!("{name} must have 1 or 2 dimensions, got shape {shape:?}"));
    match view.ndim() {
        1 => view
            .into_dimensionality::<Ix1>()
            .map(|row| row.insert_axis(ndarray::Axis(0)))
            .map_err(|_| refused()),
        _ => view.into_dimensionality::<Ix2>().map_err(|_| refused()),
    }
}

fn list<'a, T: numpy::Element>(name: &str, array: &'a PyReadonlyArrayDyn<'_, T>) -> Result<&'a [T]> {
    let view = array.as_array();
    let values = if view.ndim() == 1 { view.to_slice() } else { None };
    values.ok_or_else(|| Error::Shape(format!("{name} must have 1 dimension, got shape {:?}", view.shape())))
}

fn to_hits(py: Python<'_>, hits: Hits) -> PyResult<Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = hits_class(py, &CLASS, "Hits")?;
    class.call1((hits.rows.into_pyarray(py), hits.distances.into_pyarray(py)))
}

/// A class of `ruvector_gnn.hits`, looked up once.
fn hits_class<'a, 'py>(
    py: Python<'py>,
    place: &'a PyOnceLock<Py<PyAny>>,
    name: &str,
) -> PyResult<&'a Bound<'py, PyAny>> {
    let class = place
        .get_or_try_init(py, || PyResult::Ok(py.import("ruvector_gnn.hits")?.getattr(name)?.unbind()))?;
    Ok(class.bind(py))
}

fn to_dict<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let levels = PyList::empty(py);
    for level in &stats.levels {
        let figures = PyDict::new(py);
        figures.set_item("rows", level.rows)?;
        figures.set_item("links", level.links)?;
        figures.set_item("mean_degree", level.links as f64 / level.rows.max(1) as f64)?;
        figures.set_item("max_degree", level.max_degree)?;
        levels.append(figures)?;
    }
    let figures = PyDict::new(py);
    figures.set_item("rows", stats.rows)?;
    figures.set_item("free", stats.free)?;
    figures.set_item("levels", levels)?;
    figures.set_item("unreachable", stats.unreachable)?;
    figures.set_item("bytes", stats.bytes)?;
    figures.set_item("bytes_per_vector", stats.bytes as f64 / stats.rows.max(1) as f64)?;
    figures.set_item("evaluations", stats.evaluations)?;
    Ok(figures)
}
