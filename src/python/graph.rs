//! `Graph`: neighbours in compressed rows. What rests on SciPy or NetworkX is in `ruvector_gnn.graphs`.

use crate::error::{Error, require_finite};
use crate::graph::{Graph, WalkOptions};
use crate::memory;
use crate::monitor::Silent;
use crate::python::array::{self, Int, int64_array};
use crate::python::block::{PyBlock, block_of, blocks_of};
use crate::python::call::{guarded, interruptible};
use crate::python::error::Raise;
use numpy::{PyArray1, PyArray2, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// A directed graph in compressed rows: row i lists the nodes j that node i aggregates from, rising, with optional
/// edge weights.
///
/// Duplicate edges and self loops are kept. `edge_order` leads from rows back to the edges as given. Rows and columns may
/// count different nodes (`num_sources`). Graphs don't change; what is derived from them again and again is kept with
/// them.
///
/// >>> import ruvector_gnn as rg
/// >>> graph = rg.Graph.from_edge_index([[1, 2, 0], [0, 0, 2]])  # sources, targets
/// >>> graph
/// Graph(num_nodes=3, num_edges=3)
/// >>> graph.neighbors(0), graph.degrees
/// (array([1, 2]), array([2, 0, 1]))
#[pyclass(name = "Graph", module = "ruvector_gnn", subclass, frozen)]
pub struct PyGraph(pub Graph);

fn weights_of(weights: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<f32>>> {
    let Some(weights) = weights.filter(|weights| !weights.is_none()) else { return Ok(None) };
    let weights = array::float32("weights", weights)?;
    require_finite("weights", weights.as_slice()?).map_err(Raise)?;
    array::copy_of(&weights).map(Some)
}

fn indptr_of(value: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let indptr = array::int64("indptr", value)?;
    let negative = || Raise(Error::Shape("indptr must not be negative".into()));
    let values = indptr.as_slice()?.iter();
    array::collected(values.map(|&start| usize::try_from(start).map_err(|_| negative().into())))
}

/// A method of `ruvector_gnn.graphs`.
fn in_python<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("ruvector_gnn.graphs")?.getattr(name)
}

/// Numbers of neighbours per layer; all of them for `None` and -1.
fn fanouts_of(fanouts: Vec<Option<Int>>) -> PyResult<Vec<Option<usize>>> {
    let count = |fanout: Int| match fanout.clamped() {
        -1 => Ok(None),
        0.. => fanout.count("fanouts").map(Some),
        negative => {
            let given = format!("numbers of neighbours from 0 up, or -1 for all, got {negative}");
            Err(Raise(Error::Config(format!("fanouts must be {given}"))).into())
        }
    };
    let count = |fanout: Option<Int>| fanout.map_or(Ok(None), count);
    fanouts.into_iter().map(count).collect()
}

/// A subgraph and its nodes' weights in a loss.
type WalkBatch<'py> = (Py<PyBlock>, Bound<'py, PyArray1<f32>>);

/// The graph that `Graph.__reduce__` took apart.
#[pyfunction]
#[pyo3(signature = (indptr, indices, num_sources, weights, edge_order, node_ids))]
pub fn _graph_from_parts(
    indptr: &Bound<'_, PyAny>,
    indices: &Bound<'_, PyAny>,
    num_sources: Int,
    weights: Option<&Bound<'_, PyAny>>,
    edge_order: Option<&Bound<'_, PyAny>>,
    node_ids: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyGraph> {
    let (indptr, indices) = (indptr_of(indptr)?, array::nodes("indices", indices)?);
    let (weights, num_sources) = (weights_of(weights)?, num_sources.count("num_sources")?);
    let order = edge_order.map(|order| array::nodes("edge_order", order)).transpose()?;
    let ids = node_ids.map(|ids| array::copy_of(&array::int64("node_ids", ids)?));
    let ids = ids.transpose()?;
    guarded(|| {
        let graph = Graph::from_parts(indptr, indices, num_sources, weights, order, ids);
        Ok(PyGraph(graph.map_err(Raise)?))
    })
}

/// `(2, E)` in row order: sources above, targets below.
pub fn edge_index<'py>(py: Python<'py>, graph: &Graph) -> PyResult<Bound<'py, PyArray2<i64>>> {
    let targets = guarded(|| Ok(graph.targets()))?;
    int64_array(py, graph.indices().iter().copied().chain(targets))?.reshape([2, graph.num_edges()])
}

#[pymethods]
impl PyGraph {
    /// From compressed rows: row i holds the neighbours `indices[indptr[i]:indptr[i + 1]]`, in any order.
    ///
    /// `num_sources` columns, as many as rows unless given. Raises `ShapeError` if lengths don't fit, `RowError` for a
    /// neighbour out of range.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_csr([0, 2, 2], [1, 0]).neighbors(0)
    /// array([0, 1])
    #[staticmethod]
    #[pyo3(signature = (indptr, indices, weights = None, num_sources = None))]
    fn from_csr(
        py: Python<'_>,
        indptr: &Bound<'_, PyAny>,
        indices: &Bound<'_, PyAny>,
        weights: Option<&Bound<'_, PyAny>>,
        num_sources: Option<Int>,
    ) -> PyResult<Self> {
        let (indptr, indices) = (indptr_of(indptr)?, array::nodes("indices", indices)?);
        let sources = num_sources.map(|count| count.count("num_sources")).transpose()?;
        let sources = sources.unwrap_or(indptr.len().saturating_sub(1));
        let weights = weights_of(weights)?;
        interruptible(py, || Graph::from_csr(indptr, indices, sources, weights)).map(Self)
    }

    /// From a list of neighbours per node.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_adjacency([[1, 2], [0], []]).degrees
    /// array([2, 1, 0])
    #[staticmethod]
    fn from_adjacency(py: Python<'_>, lists: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (mut indptr, mut indices) = (vec![0], Vec::new());
        for list in lists.try_iter()? {
            let neighbors = array::nodes("lists", &list?)?;
            guarded(|| {
                neighbors.into_iter().for_each(|node| memory::push(&mut indices, node));
                memory::push(&mut indptr, indices.len());
                Ok(())
            })?;
        }
        let count = indptr.len() - 1;
        interruptible(py, || Graph::from_csr(indptr, indices, count, None)).map(Self)
    }

    /// From sources `edge_index[0]` and targets `edge_index[1]`, as PyTorch Geometric: node `edge_index[1, e]` aggregates
    /// from node `edge_index[0, e]`. There are `num_nodes` nodes, or as many as the largest number says.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_edge_index([[1, 2], [0, 0]], num_nodes=4).neighbors(0)
    /// array([1, 2])
    #[staticmethod]
    #[pyo3(signature = (edge_index, num_nodes = None, weights = None))]
    fn from_edge_index(
        py: Python<'_>,
        edge_index: &Bound<'_, PyAny>,
        num_nodes: Option<Int>,
        weights: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let array = array::int64("edge_index", edge_index)?;
        if array.shape().len() != 2 || array.shape()[0] != 2 {
            let shape = format!("edge_index must have shape (2, E), got {:?}", array.shape());
            return Err(Raise(Error::Shape(shape)).into());
        }
        let nodes = array::nodes("edge_index", edge_index)?;
        let (sources, targets) = nodes.split_at(nodes.len() / 2);
        let count = num_nodes.map(|count| count.count("num_nodes")).transpose()?;
        let count = count.unwrap_or_else(|| nodes.iter().max().map_or(0, |&node| node as usize + 1));
        let weights = weights_of(weights)?;
        interruptible(py, || Graph::from_edges(targets, sources, count, count, weights.as_deref())).map(Self)
    }

    /// From a sparse matrix as it stands: `matrix @ x` is the sum aggregation. Stored values are the weights, zeros too; a
    /// boolean matrix gives none.
    ///
    /// >>> import ruvector_gnn as rg, scipy.sparse
    /// >>> rg.Graph.from_scipy(scipy.sparse.csr_matrix([[0, 2.5], [0, 0]])).weights
    /// array([2.5], dtype=float32)
    #[staticmethod]
    fn from_scipy(matrix: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = matrix.py();
        let rows = matrix.call_method0("tocsr")?;
        let (_, sources): (Int, Int) = rows.getattr("shape")?.extract()?;
        let (indptr, indices) = (rows.getattr("indptr")?, rows.getattr("indices")?);
        let data = rows.getattr("data")?;
        // A boolean matrix says only where the edges are.
        let kind: String = data.getattr("dtype")?.getattr("kind")?.extract()?;
        let weights = (kind != "b").then_some(&data);
        Self::from_csr(py, &indptr, &indices, weights, Some(sources))
    }

    /// Put graphs side by side: the block-diagonal graph and, per node, the number of its graph.
    ///
    /// Nodes, and edges as given, keep their order, graph after graph. An unweighted graph beside a weighted one
    /// counts with weights 1. Raises `ShapeError` without graphs, or where sources and nodes differ.
    ///
    /// >>> graph, batch = rg.Graph.batch([rg.Graph.from_adjacency([[1], [0]]), rg.Graph.from_adjacency([[]])])
    /// >>> graph, batch
    /// (Graph(num_nodes=3, num_edges=2), array([0, 0, 1]))
    #[staticmethod]
    fn batch<'py>(
        py: Python<'py>,
        graphs: Vec<PyRef<'py, Self>>,
    ) -> PyResult<(Self, Bound<'py, PyArray1<i64>>)> {
        let graphs: Vec<Graph> = graphs.iter().map(|graph| graph.0.clone()).collect();
        let (graph, batch) = interruptible(py, || Graph::batch(&graphs))?;
        Ok((Self(graph), int64_array(py, batch)?))
    }

    /// The matrix of weights (1 where there are none) in CSR, of shape `(num_nodes, num_sources)`.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_adjacency([[1], []]).to_scipy().toarray()
    /// array([[0., 1.],
    ///        [0., 0.]], dtype=float32)
    fn to_scipy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let data = match self.0.weights() {
            Some(weights) => array::array(py, weights.iter().copied())?,
            None => array::array(py, std::iter::repeat_n(1.0, self.0.num_edges()))?,
        };
        let options = PyDict::new(py);
        options.set_item("shape", (self.0.num_nodes(), self.0.num_sources()))?;
        let parts = ((data, self.indices(py)?, self.indptr(py)?),);
        py.import("ruvector_gnn._scipy")?.call_method0("import_sparse")?.call_method(
            "csr_matrix",
            parts,
            Some(&options),
        )
    }

    /// Sources and targets of the edges in row order, of shape `(2, num_edges)`.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_adjacency([[1, 2], [], []]).to_edge_index()
    /// array([[1, 2],
    ///        [0, 0]])
    fn to_edge_index<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i64>>> {
        edge_index(py, &self.0)
    }

    /// Number of nodes that aggregate: rows.
    #[getter]
    fn num_nodes(&self) -> usize {
        self.0.num_nodes()
    }

    /// Number of nodes that are aggregated from: columns.
    #[getter]
    fn num_sources(&self) -> usize {
        self.0.num_sources()
    }

    /// Number of edges.
    #[getter]
    fn num_edges(&self) -> usize {
        self.0.num_edges()
    }

    /// Per node, the number of its edges.
    #[getter]
    fn degrees<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        array::array(py, self.0.indptr().windows(2).map(|row| (row[1] - row[0]) as i64))
    }

    /// Where each row begins, and the number of edges.
    #[getter]
    fn indptr<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        array::array(py, self.0.indptr().iter().map(|&start| start as i64))
    }

    /// The neighbours of all rows, one after the other.
    #[getter]
    fn indices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        int64_array(py, self.0.indices().iter().copied())
    }

    /// The edge weights in row order, if there are any.
    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyArray1<f32>>>> {
        self.0.weights().map(|weights| array::array(py, weights.iter().copied())).transpose()
    }

    /// Per edge in row order, its position among the edges as given.
    #[getter]
    fn edge_order<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        match self.0.edge_order() {
            Some(order) => int64_array(py, order.iter().copied()),
            None => array::array(py, 0..self.0.num_edges() as i64),
        }
    }

    /// The names of the nodes, if they have any: an index gives its row numbers.
    #[getter]
    fn node_ids<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyArray1<i64>>>> {
        self.0.node_ids().map(|ids| array::array(py, ids.iter().copied())).transpose()
    }

    /// The nodes that `node` aggregates from, rising. Raises `RowError` if there is no such node.
    fn neighbors<'py>(&self, py: Python<'py>, node: Int) -> PyResult<Bound<'py, PyArray1<i64>>> {
        match usize::try_from(node.clamped()) {
            Ok(node) if node < self.0.num_nodes() => int64_array(py, self.0.neighbors(node).iter().copied()),
            _ => Err(Raise(Error::Row(format!("node {} of {}", node.clamped(), self.0.num_nodes()))).into()),
        }
    }

    /// The graph with every edge reversed; its edge order refers to this graph's edges in row order.
    fn transpose(&self, py: Python<'_>) -> PyResult<Self> {
        interruptible(py, || Ok(self.0.transpose())).map(Self)
    }

    /// Adds an edge of weight 1 from each node to itself where there is none. The edge order counts the edges of this graph
    /// in row order, then the added ones by node. In a block node i is also the source i.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_adjacency([[1], [1]]).add_self_loops().to_edge_index()
    /// array([[0, 1, 1],
    ///        [0, 0, 1]])
    fn add_self_loops(&self, py: Python<'_>) -> PyResult<Self> {
        interruptible(py, || self.0.add_self_loops()).map(Self)
    }

    /// Weights `w_ij / sqrt(d_i d_j)` with `d_i = sum_j w_ij` (Kipf & Welling 2017), after each node got one loop to itself
    /// of weight 1, if it has none.
    ///
    /// A sampled block takes degrees and loops from the graph that it was drawn from. Where only some of a node's edges were
    /// drawn, each stands for as many as make up all: sums over neighbours are those of the whole graph in the mean over
    /// seeds, and equal to them with all neighbours. A subgraph has its own degrees.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_adjacency([[1], [0]]).gcn_normalize().weights
    /// array([0.5, 0.5, 0.5, 0.5], dtype=float32)
    #[pyo3(signature = (add_self_loops = true))]
    fn gcn_normalize(&self, py: Python<'_>, add_self_loops: bool) -> PyResult<Self> {
        interruptible(py, || self.0.gcn_normalize(add_self_loops)).map(Self)
    }

    /// The same graph with names for its nodes, one integer each.
    fn with_node_ids(&self, ids: &Bound<'_, PyAny>) -> PyResult<Self> {
        let ids = array::copy_of(&array::int64("ids", ids)?)?;
        guarded(|| Ok(Self(self.0.with_node_ids(ids).map_err(Raise)?)))
    }

    /// Blocks of sampled neighbours (Hamilton et al. 2017) for computing `nodes` with one layer per fanout, in the order
    /// in which the layers are applied.
    ///
    /// `fanouts[0]` neighbours are drawn of each of `nodes`, `fanouts[1]` of each node reached so far, and so on (the order
    /// of PyTorch Geometric), uniformly over a node's edges without replacement; all of them where a node has no more, or
    /// for -1 or `None`. Blocks keep the weights of their edges and the order of the graph's rows. The sources of a block
    /// are the targets of the one before it; the targets of the last are `nodes`. A node given twice is a target twice,
    /// with the same neighbours. What is drawn for a node depends on `seed`, the hop and the node alone.
    ///
    /// Raises `RowError` for a node out of range, `ConfigError` for a fanout below -1 or none at all.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> graph = rg.Graph.from_adjacency([[1, 2, 3], [0], [1], []])
    /// >>> outer, inner = graph.sample([0], [2, -1], seed=0)
    /// >>> inner.num_edges, inner.target_nodes, len(outer.target_nodes) == inner.num_sources
    /// (2, array([0]), True)
    #[pyo3(signature = (nodes, fanouts, seed = Int::new(0)), text_signature = "($self, nodes, fanouts, seed=0)")]
    fn sample(
        &self,
        py: Python<'_>,
        nodes: &Bound<'_, PyAny>,
        fanouts: Vec<Option<Int>>,
        seed: Int,
    ) -> PyResult<Vec<Py<PyBlock>>> {
        let (nodes, fanouts) = (array::nodes("nodes", nodes)?, fanouts_of(fanouts)?);
        let seed = seed.seed("seed")?;
        blocks_of(py, interruptible(py, || self.0.sample(&nodes, &fanouts, seed))?)
    }

    /// Blocks as those of `sample`, each of which aggregates from one set of nodes that all its targets share: `sizes[k]`
    /// of them `k` hops from `nodes`, or all neighbours where there are no more.
    ///
    /// Layer-wise importance sampling (FastGCN, Chen et al. 2018; LADIES, Zou et al. 2019): node j is drawn, without
    /// replacement, with a chance `p_j` proportional to `sum_i w_ij^2` over the targets i, cut at 1, and its edges weigh
    /// `w_ij / p_j`. `rg.aggregate(x[block.source_nodes], block)` so has the sum over all neighbours as its mean. For
    /// means, normalize the graph's rows first.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> graph = rg.Graph.from_adjacency([[1, 2, 3], [2], [3], []])
    /// >>> (block,) = graph.layer_sample([0, 1, 2], [2], seed=0)
    /// >>> len(set(block.indices.tolist()))
    /// 2
    #[pyo3(signature = (nodes, sizes, seed = Int::new(0)), text_signature = "($self, nodes, sizes, seed=0)")]
    fn layer_sample(
        &self,
        py: Python<'_>,
        nodes: &Bound<'_, PyAny>,
        sizes: Vec<Int>,
        seed: Int,
    ) -> PyResult<Vec<Py<PyBlock>>> {
        let nodes = array::nodes("nodes", nodes)?;
        let sizes = sizes.into_iter().map(|size| size.count("sizes")).collect::<PyResult<Vec<_>>>()?;
        let seed = seed.seed("seed")?;
        blocks_of(py, interruptible(py, || self.0.layer_sample(&nodes, &sizes, seed))?)
    }

    /// Subgraphs between the nodes of random walks (GraphSAINT, Zeng et al. 2020), each with its nodes' weights in a loss.
    ///
    /// Each of `num_batches` subgraphs has `roots` walks, from nodes drawn uniformly, of `walk_length` steps along the
    /// rows. With `C_v` and `C_e` the number of subgraphs that hold node v and edge e, a node among N weighs
    /// `num_batches / (N C_v)`, so that weighted sums over the subgraphs estimate the mean over the graph; with
    /// `normalize`, the weight of an edge to target v is multiplied by `C_v / C_e`, so that sums over neighbours estimate
    /// those of the graph. Both are exact over the nodes and edges that any subgraph holds.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> graph = rg.Graph.from_adjacency([[1], [2], [0]])
    /// >>> [(part, weights)] = graph.random_walk_subgraphs(roots=1, walk_length=2, num_batches=1, seed=0)
    /// >>> sorted(part.source_nodes.tolist()), weights
    /// ([0, 1, 2], array([0.33333334, 0.33333334, 0.33333334], dtype=float32))
    #[pyo3(signature = (roots, walk_length, num_batches, seed = Int::new(0), normalize = true), text_signature = "($self, roots, walk_length, num_batches, seed=0, normalize=True)")]
    fn random_walk_subgraphs<'py>(
        &self,
        py: Python<'py>,
        roots: Int,
        walk_length: Int,
        num_batches: Int,
        seed: Int,
        normalize: bool,
    ) -> PyResult<Vec<WalkBatch<'py>>> {
        let options = WalkOptions {
            roots: roots.count("roots")?,
            walk_length: walk_length.count("walk_length")?,
            num_batches: num_batches.count("num_batches")?,
            normalize,
        };
        let seed = seed.seed("seed")?;
        let batches = interruptible(py, || self.0.random_walk_subgraphs(&options, seed, &mut Silent))?;
        let parts = batches
            .into_iter()
            .map(|(block, weights)| Ok((block_of(py, block)?, PyArray1::from_vec(py, weights))));
        parts.collect()
    }

    /// The nodes within `k` hops of `nodes` along the rows, these among them, rising: all that `k` layers see.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_adjacency([[1], [2], [3], []]).k_hop([1], 1)
    /// array([1, 2])
    fn k_hop<'py>(
        &self,
        py: Python<'py>,
        nodes: &Bound<'_, PyAny>,
        k: Int,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let (nodes, k) = (array::nodes("nodes", nodes)?, k.count("k")?);
        int64_array(py, interruptible(py, || self.0.k_hop(&nodes, k))?)
    }

    /// The edges between `nodes`, which are renumbered in the order given and must differ (`ConfigError`).
    ///
    /// Weights are kept; `node_ids` are the names of the nodes, or their numbers; `edge_ids` the positions of the edges
    /// among those given.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> part = rg.Graph.from_adjacency([[1], [2], [3], []]).subgraph([2, 1])
    /// >>> part.to_edge_index(), part.node_ids, part.edge_ids
    /// (array([[0],
    ///        [1]]), array([2, 1]), array([1]))
    fn subgraph(&self, py: Python<'_>, nodes: &Bound<'_, PyAny>) -> PyResult<Py<PyBlock>> {
        let nodes = array::nodes("nodes", nodes)?;
        block_of(py, interruptible(py, || self.0.subgraph(&nodes))?)
    }

    /// The number of hops along the rows from `source` to every node, of shape `(num_nodes,)`; from several sources
    /// `(len(source), num_nodes)`. -1 for nodes that can't be reached within `max_hops`.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_adjacency([[1], [2], [3], []]).distances(1)
    /// array([-1,  0,  1,  2])
    #[pyo3(signature = (source, max_hops = None))]
    fn distances<'py>(
        &self,
        py: Python<'py>,
        source: &Bound<'_, PyAny>,
        max_hops: Option<Int>,
    ) -> PyResult<Bound<'py, PyArrayDyn<i64>>> {
        let max_hops = max_hops.map(|hops| hops.count("max_hops")).transpose()?;
        let mut shape = array::int64("source", source)?.shape().to_vec();
        let sources = array::nodes("source", source)?;
        let hops = interruptible(py, || self.0.distances(&sources, max_hops, &mut Silent))?;
        shape.push(self.0.num_nodes());
        PyArray1::from_vec(py, hops).reshape(shape)
    }

    /// A graph whose row i lists the `k` nearest of the other vectors, found through an index of them.
    ///
    /// `metric` is "cosine", "l2" or "ip", as `HNSWIndex` has them; neighbours are nearly all the true ones. Fewer than
    /// `k` where there are not as many others.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.knn([[0.0], [1.0], [5.0], [7.0]], k=1, metric="l2").indices
    /// array([1, 0, 3, 2])
    #[staticmethod]
    #[pyo3(signature = (vectors, k, metric = "cosine"))]
    fn knn<'py>(vectors: &Bound<'py, PyAny>, k: Int, metric: &str) -> PyResult<Bound<'py, PyAny>> {
        in_python(vectors.py(), "knn")?.call1((vectors, k.clamped(), metric))
    }

    /// From a NetworkX graph: its edge u -> v puts u in row v, and an undirected one counts in both directions.
    ///
    /// Nodes are numbered in the order of `graph.nodes`; names that are integers other than 0, 1, .. become `node_ids`,
    /// others are not kept. Parallel edges are duplicates. The edge attribute `weight` gives the weights, 1 where an edge
    /// has none; no edge has it, or `weight=None`: no weights.
    ///
    /// >>> import networkx, ruvector_gnn as rg
    /// >>> graph = rg.Graph.from_networkx(networkx.DiGraph([(5, 7), (5, 9)]))
    /// >>> graph.node_ids, graph.neighbors(1)
    /// (array([5, 7, 9]), array([0]))
    #[staticmethod]
    #[pyo3(signature = (graph, weight = Some("weight")), text_signature = "(graph, weight='weight')")]
    fn from_networkx<'py>(graph: &Bound<'py, PyAny>, weight: Option<&str>) -> PyResult<Bound<'py, PyAny>> {
        in_python(graph.py(), "from_networkx")?.call1((graph, weight))
    }

    /// A NetworkX `DiGraph` (`MultiDiGraph` where edges repeat) with an edge j -> i for every j in row i, weights as the
    /// attribute `weight`, and nodes named by `node_ids` where there are distinct ones, else 0, 1, ..
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_adjacency([[1], []]).to_networkx().edges
    /// OutEdgeView([(1, 0)])
    fn to_networkx<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        in_python(slf.py(), "to_networkx")?.call1((slf,))
    }

    /// The Laplacian of the graph made undirected, in SciPy's CSR: `D - A` with `A` the mean of the weights of both
    /// directions and `D` its row sums, or with `normalized` `D^-1/2 (D - A) D^-1/2`, where isolated nodes have rows of
    /// zeros.
    ///
    /// Raises `ShapeError` unless the graph is square, `ConfigError` if normalized and a row sum is negative.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_adjacency([[1], [0]]).laplacian().toarray()
    /// array([[ 1., -1.],
    ///        [-1.,  1.]])
    #[pyo3(signature = (normalized = true))]
    fn laplacian<'py>(slf: &Bound<'py, Self>, normalized: bool) -> PyResult<Bound<'py, PyAny>> {
        in_python(slf.py(), "laplacian")?.call1((slf, normalized))
    }

    /// The `k` lowest eigenvalues of the Laplacian, rising; all of them where there are no more.
    ///
    /// Connected parts are solved apart, small ones densely and large ones by the Lanczos method (SciPy's `eigsh`), so that
    /// the eigenvalue 0 comes once per part. Weights must not be negative (`ConfigError`).
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> (rg.Graph.from_adjacency([[1], [0], []]).laplacian_eigenvalues(3) + 0.0).round(6)
    /// array([0., 0., 2.])
    #[pyo3(signature = (k, normalized = true))]
    fn laplacian_eigenvalues<'py>(
        slf: &Bound<'py, Self>,
        k: Int,
        normalized: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        in_python(slf.py(), "laplacian_eigenvalues")?.call1((slf, k.clamped(), normalized))
    }

    /// Positional encodings of the nodes, `(N, k)` float32: the eigenvectors of the `k` lowest eigenvalues of the normalized
    /// Laplacian after the first (Dwivedi & Bresson 2021).
    ///
    /// Connected parts are solved apart, so that the encodings of a graph do not depend on what it is batched with; columns
    /// that a small part lacks are 0. Vectors have norm 1 in each part and a sign by convention (the entry of the largest
    /// size is positive). Where eigenvalues coincide, as in symmetric graphs, the vectors are any basis of their space.
    /// Weights must not be negative (`ConfigError`).
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> rg.Graph.from_adjacency([[1], [0], []]).laplacian_positional_encoding(2).round(3)
    /// array([[ 0.707,  0.   ],
    ///        [-0.707,  0.   ],
    ///        [ 0.   ,  0.   ]], dtype=float32)
    fn laplacian_positional_encoding<'py>(slf: &Bound<'py, Self>, k: Int) -> PyResult<Bound<'py, PyAny>> {
        in_python(slf.py(), "laplacian_positional_encoding")?.call1((slf, k.clamped()))
    }

    /// The nodes in `k` parts of about equal size with few edges between them (METIS, Karypis & Kumar 1998).
    ///
    /// Edges count in both directions, by their weights where there are any; self loops do not count. The same seed gives
    /// the same parts. With `k` near the number of nodes, some may be empty. Needs the package `pymetis`, which `pip install "ruvector_gnn[partition]"` brings (`ImportError`
    /// without it). Raises `ConfigError` for `k` outside `1..=N`, another method, or negative weights.
    ///
    /// Returns:
    ///     A `Partition`: `assignment`, `sizes`, `edge_cut`, and per part its nodes, halo and block.
    ///
    /// >>> import ruvector_gnn as rg
    /// >>> ring = rg.Graph.from_adjacency([[1, 5], [0, 2], [1, 3], [2, 4], [3, 5], [4, 0]])
    /// >>> halves = ring.partition(2)
    /// >>> halves.sizes.tolist(), halves.edge_cut
    /// ([3, 3], 4)
    #[pyo3(signature = (k, method = "metis", seed = Int::new(0)), text_signature = "($self, k, method='metis', seed=0)")]
    fn partition<'py>(
        slf: &Bound<'py, Self>,
        k: Int,
        method: &str,
        seed: Int,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("ruvector_gnn.partition")?.getattr("partition")?.call1((
            slf,
            k.clamped(),
            method,
            seed.seed("seed")?,
        ))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (graph, name) = (&slf.get().0, slf.get_type().name()?);
        let sources = match graph.num_sources() {
            same if same == graph.num_nodes() => String::new(),
            other => format!(", num_sources={other}"),
        };
        let weighted = if graph.weights().is_some() { ", weighted" } else { "" };
        let (nodes, edges) = (graph.num_nodes(), graph.num_edges());
        Ok(format!("{name}(num_nodes={nodes}{sources}, num_edges={edges}{weighted})"))
    }

    /// For pickle.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, graph) = (slf.py(), slf.get());
        let order = graph.0.edge_order().map(|_| graph.edge_order(py)).transpose()?;
        let (indptr, indices, sources) = (graph.indptr(py)?, graph.indices(py)?, graph.num_sources());
        let parts = (indptr, indices, sources, graph.weights(py)?, order, graph.node_ids(py)?);
        (py.import("ruvector_gnn._core")?.getattr("_graph_from_parts")?, parts).into_pyobject(py)
    }
}
