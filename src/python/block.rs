//! `Block`: the part of a graph that one layer needs for a batch.

use crate::graph::{Block, Degrees};
use crate::memory;
use crate::python::array::{self, Int, int64_array};
use crate::python::call::guarded;
use crate::python::error::Raise;
use crate::python::graph::PyGraph;
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// A part of a graph, from source nodes to target nodes, which layers take in place of a graph.
///
/// Row i belongs to the node `target_nodes[i]` of the graph, column j to `source_nodes[j]`; the first `num_nodes`
/// sources are the targets, in the same order. `layer(x[block.source_nodes], block)` gives the rows of the targets, and
/// `edge_attr[block.edge_ids]` are the features of its edges. A sampled block holds on to its graph, whose degrees
/// `gcn_normalize` reads; a subgraph has its own degrees.
/// Blocks come from `Graph.sample`, `Graph.layer_sample`, `Graph.subgraph` and `Graph.random_walk_subgraphs`.
///
/// >>> import ruvector_gnn as rg
/// >>> graph = rg.Graph.from_adjacency([[1], [], [0, 1]])
/// >>> (block,) = graph.sample([2], [-1], seed=0)
/// >>> block
/// Block(num_nodes=1, num_sources=3, num_edges=2)
/// >>> block.source_nodes, block.neighbors(0)
/// (array([2, 0, 1]), array([1, 2]))
#[pyclass(name = "Block", module = "ruvector_gnn", extends = PyGraph, frozen)]
pub struct PyBlock(pub Block);

/// A Python object of a block.
pub fn block_of(py: Python<'_>, block: Block) -> PyResult<Py<PyBlock>> {
    let base = PyGraph(block.graph().clone());
    Py::new(py, PyClassInitializer::from(base).add_subclass(PyBlock(block)))
}

/// Python objects of blocks.
pub fn blocks_of(py: Python<'_>, blocks: Vec<Block>) -> PyResult<Vec<Py<PyBlock>>> {
    blocks.into_iter().map(|block| block_of(py, block)).collect()
}

/// The arrays of [`Degrees`].
type KeptDegrees<'py> = (PyReadonlyArray1<'py, f64>, PyReadonlyArray1<'py, f32>, PyReadonlyArray1<'py, f32>);

fn degrees_of((sums, loops, shares): KeptDegrees<'_>) -> PyResult<Degrees> {
    let (sums, loops, shares) = (sums.as_slice()?, loops.as_slice()?, shares.as_slice()?);
    guarded(|| {
        let [loops, shares] = [loops, shares].map(memory::copy_of);
        Ok(Degrees { sums: memory::copy_of(sums), loops, shares })
    })
}

/// The block that `Block.__reduce__` took apart.
#[pyfunction]
#[pyo3(signature = (graph, source_nodes, edge_ids, num_graph_nodes, degrees = None))]
pub fn _block_from_parts(
    py: Python<'_>,
    graph: PyRef<'_, PyGraph>,
    source_nodes: &Bound<'_, PyAny>,
    edge_ids: &Bound<'_, PyAny>,
    num_graph_nodes: Int,
    degrees: Option<[KeptDegrees<'_>; 2]>,
) -> PyResult<Py<PyBlock>> {
    let sources = array::nodes("source_nodes", source_nodes)?;
    let edges = array::nodes("edge_ids", edge_ids)?;
    let whole = num_graph_nodes.count("num_graph_nodes")?;
    let degrees = match degrees {
        Some([plain, looped]) => Some([degrees_of(plain)?, degrees_of(looped)?]),
        None => None,
    };
    block_of(py, Block::from_parts(graph.0.clone(), sources, edges, whole, degrees).map_err(Raise)?)
}

#[pymethods]
impl PyBlock {
    /// The nodes of the graph that are aggregated from, one per column.
    #[getter]
    fn source_nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        int64_array(py, self.0.source_nodes().iter().copied())
    }

    /// The nodes of the graph that aggregate, one per row: the first of `source_nodes`.
    #[getter]
    fn target_nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        int64_array(py, self.0.target_nodes().iter().copied())
    }

    /// Per edge in row order, its position among the edges of the graph as given: `edge_attr[block.edge_ids]` are the
    /// block's own.
    #[getter]
    fn edge_ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        int64_array(py, guarded(|| Ok(self.0.edge_ids()))?)
    }

    /// How many nodes the graph has that this is a part of.
    #[getter]
    fn num_graph_nodes(&self) -> usize {
        self.0.num_graph_nodes()
    }

    /// For pickle.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, block) = (slf.py(), slf.get());
        let graph = Py::new(py, PyGraph(block.0.graph().clone()))?;
        let degrees = match guarded(|| Ok(block.0.degrees().map_err(Raise)?))? {
            Some(both) => {
                let taken = both.map(|Degrees { sums, loops, shares }| {
                    PyResult::Ok((
                        array::array(py, sums)?,
                        array::array(py, loops)?,
                        array::array(py, shares)?,
                    ))
                });
                let [plain, looped] = taken;
                Some((plain?, looped?))
            }
            None => None,
        };
        let (sources, edges) = (block.source_nodes(py)?, block.edge_ids(py)?);
        let parts = (graph, sources, edges, block.num_graph_nodes(), degrees);
        (py.import("ruvector_gnn._core")?.getattr("_block_from_parts")?, parts).into_pyobject(py)
    }
}
