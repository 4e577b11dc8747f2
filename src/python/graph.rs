//! `Graph`: neighbours in compressed rows.

use crate::error::{Error, require_finite};
use crate::graph::Graph;
use crate::python::array;
use crate::python::call::detached;
use crate::python::error::Raise;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Neighbours in compressed rows: row i lists the nodes that node i aggregates from.
#[pyclass(name = "Graph", module = "ruvector_gnn", frozen)]
pub struct PyGraph(pub Graph);

fn weights_of(weights: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<f32>>> {
    let Some(weights) = weights.filter(|weights| !weights.is_none()) else { return Ok(None) };
    let weights = array::float32("weights", weights)?;
    require_finite("weights", weights.as_slice()?).map_err(Raise)?;
    Ok(Some(weights.as_slice()?.to_vec()))
}

fn indptr_of(value: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let indptr = array::int64("indptr", value)?;
    let negative = || Raise(Error::Shape("indptr must not be negative".into()));
    let values = indptr.as_slice()?.iter().map(|&start| usize::try_from(start));
    values.collect::<Result<_, _>>().map_err(|_| negative().into())
}

fn int64<'py>(py: Python<'py>, values: impl IntoIterator<Item = i64>) -> Bound<'py, PyArray1<i64>> {
    PyArray1::from_vec(py, values.into_iter().collect())
}

/// `(2, E)` in row order: sources above, targets below.
pub fn edge_index<'py>(py: Python<'py>, graph: &Graph) -> PyResult<Bound<'py, PyArray2<i64>>> {
    let both = graph.indices().iter().copied().chain(graph.targets()).map(i64::from);
    int64(py, both).reshape([2, graph.num_edges()])
}

#[pymethods]
impl PyGraph {
    #[staticmethod]
    #[pyo3(signature = (indptr, indices, weights = None, num_sources = None))]
    fn from_csr(
        py: Python<'_>,
        indptr: &Bound<'_, PyAny>,
        indices: &Bound<'_, PyAny>,
        weights: Option<&Bound<'_, PyAny>>,
        num_sources: Option<usize>,
    ) -> PyResult<Self> {
        let (indptr, indices) = (indptr_of(indptr)?, array::nodes("indices", indices)?);
        let sources = num_sources.unwrap_or(indptr.len().saturating_sub(1));
        let weights = weights_of(weights)?;
        detached(py, || Graph::from_csr(indptr, indices, sources, weights)).map(Self)
    }

    #[staticmethod]
    fn from_adjacency(py: Python<'_>, lists: Vec<Bound<'_, PyAny>>) -> PyResult<Self> {
        let (mut indptr, mut indices) = (vec![0], Vec::new());
        for list in &lists {
            indices.extend(array::nodes("lists", list)?);
            indptr.push(indices.len());
        }
        let count = lists.len();
        detached(py, || Graph::from_csr(indptr, indices, count, None)).map(Self)
    }

    #[staticmethod]
    #[pyo3(signature = (edge_index, num_nodes = None, weights = None))]
    fn from_edge_index(
        py: Python<'_>,
        edge_index: &Bound<'_, PyAny>,
        num_nodes: Option<usize>,
        weights: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let array = array::int64("edge_index", edge_index)?;
        if array.shape().len() != 2 || array.shape()[0] != 2 {
            let shape = format!("edge_index must have shape (2, E), got {:?}", array.shape());
            return Err(Raise(Error::Shape(shape)).into());
        }
        let nodes = array::nodes("edge_index", edge_index)?;
        let (sources, targets) = nodes.split_at(nodes.len() / 2);
        let count = num_nodes.unwrap_or_else(|| nodes.iter().max().map_or(0, |&node| node as usize + 1));
        let weights = weights_of(weights)?;
        detached(py, || Graph::from_edges(targets, sources, count, count, weights.as_deref())).map(Self)
    }

    #[staticmethod]
    fn from_scipy(matrix: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = matrix.py();
        let rows = matrix.call_method0("tocsr")?;
        let (_, sources): (usize, usize) = rows.getattr("shape")?.extract()?;
        let (indptr, indices) = (rows.getattr("indptr")?, rows.getattr("indices")?);
        let data = rows.getattr("data")?;
        // A boolean matrix says only where the edges are.
        let kind: String = data.getattr("dtype")?.getattr("kind")?.extract()?;
        let weights = (kind != "b").then_some(&data);
        Self::from_csr(py, &indptr, &indices, weights, Some(sources))
    }

    fn to_scipy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let ones = vec![1.0; self.0.num_edges()];
        let data = PyArray1::from_slice(py, self.0.weights().unwrap_or(&ones));
        let options = PyDict::new(py);
        options.set_item("shape", (self.0.num_nodes(), self.0.num_sources()))?;
        let parts = ((data, self.indices(py), self.indptr(py)),);
        py.import("scipy.sparse")?.call_method("csr_matrix", parts, Some(&options))
    }

    fn to_edge_index<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i64>>> {
        edge_index(py, &self.0)
    }

    #[getter]
    fn num_nodes(&self) -> usize {
        self.0.num_nodes()
    }

    #[getter]
    fn num_sources(&self) -> usize {
        self.0.num_sources()
    }

    #[getter]
    fn num_edges(&self) -> usize {
        self.0.num_edges()
    }

    #[getter]
    fn degrees<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        int64(py, self.0.degrees().into_iter().map(|degree| degree as i64))
    }

    #[getter]
    fn indptr<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        int64(py, self.0.indptr().iter().map(|&start| start as i64))
    }

    #[getter]
    fn indices<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        int64(py, self.0.indices().iter().map(|&node| i64::from(node)))
    }

    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyArray1<f32>>> {
        self.0.weights().map(|weights| PyArray1::from_slice(py, weights))
    }

    #[getter]
    fn edge_order<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        match self.0.edge_order() {
            Some(order) => int64(py, order.iter().map(|&edge| i64::from(edge))),
            None => int64(py, 0..self.0.num_edges() as i64),
        }
    }

    #[getter]
    fn node_ids<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyArray1<i64>>> {
        self.0.node_ids().map(|ids| PyArray1::from_slice(py, ids))
    }

    fn neighbors<'py>(&self, py: Python<'py>, node: i64) -> PyResult<Bound<'py, PyArray1<i64>>> {
        match usize::try_from(node) {
            Ok(node) if node < self.0.num_nodes() => {
                Ok(int64(py, self.0.neighbors(node).iter().map(|&neighbor| i64::from(neighbor))))
            }
            _ => Err(Raise(Error::Row(format!("node {node} of {}", self.0.num_nodes()))).into()),
        }
    }

    fn transpose(&self, py: Python<'_>) -> PyResult<Self> {
        detached(py, || Ok(self.0.transpose())).map(Self)
    }

    fn add_self_loops(&self, py: Python<'_>) -> PyResult<Self> {
        detached(py, || self.0.add_self_loops()).map(Self)
    }

    #[pyo3(signature = (add_self_loops = true))]
    fn gcn_normalize(&self, py: Python<'_>, add_self_loops: bool) -> PyResult<Self> {
        detached(py, || self.0.gcn_normalize(add_self_loops)).map(Self)
    }

    fn with_node_ids(&self, ids: &Bound<'_, PyAny>) -> PyResult<Self> {
        let ids = array::int64("ids", ids)?.as_slice()?.to_vec();
        Ok(Self(self.0.with_node_ids(ids).map_err(Raise)?))
    }

    fn __repr__(&self) -> String {
        let graph = &self.0;
        let sources = match graph.num_sources() {
            same if same == graph.num_nodes() => String::new(),
            other => format!(", num_sources={other}"),
        };
        let weighted = if graph.weights().is_some() { ", weighted" } else { "" };
        format!("Graph(num_nodes={}{sources}, num_edges={}{weighted})", graph.num_nodes(), graph.num_edges())
    }

    /// Rebuilds the graph from its rows; the order of the edges as given is not kept.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, graph) = (slf.py(), slf.get());
        let rows = (graph.indptr(py), graph.indices(py), graph.weights(py), graph.num_sources());
        (slf.get_type().getattr("from_csr")?, rows).into_pyobject(py)
    }
}
