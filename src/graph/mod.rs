//! Graphs in compressed rows: row `i` lists the nodes `j` that node `i` aggregates from, sorted by `j`.
//!
//! A [`Graph`] is immutable and cheap to clone. What layers derive from it again and again, its transpose and its
//! GCN normalization, is computed once and kept with it. Rows and columns may count different nodes (a click graph
//! from queries to documents, a sampled block); most constructors make square ones.

#![forbid(unsafe_code)]

mod batch;
mod block;
mod build;
mod degrees;
mod hops;
mod importance;
mod loops;
mod normalize;
mod receptive;
mod sample;
mod walks;

pub use block::Block;
pub use degrees::Degrees;
pub use receptive::ReceptiveField;
pub use walks::WalkOptions;

use crate::error::{Error, Result};
use crate::memory;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

pub use loops::LoopedEdges;

/// A directed graph in compressed rows, with optional edge weights.
///
/// ```
/// use ruvector_gnn::graph::Graph;
/// let graph = Graph::from_edges(&[0, 2, 0], &[1, 0, 2], 3, 3, None)?; // node 0 aggregates from 1 and 2
/// assert_eq!(graph.neighbors(0), [1, 2]);
/// assert_eq!(graph.degrees(), [2, 0, 1]);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Graph(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: usize,
    indptr: Vec<usize>,
    indices: Vec<u32>,
    weights: Option<Vec<f32>>,
    /// Position among the edges as given, per edge; `None` when they were given in order.
    edge_order: Option<Vec<u32>>,
    node_ids: Option<Arc<Vec<i64>>>,
    origin: Option<degrees::Origin>,
    degrees: [OnceLock<Degrees>; 2],
    transpose: OnceLock<Transposed>,
    normalized: [OnceLock<Graph>; 3],
    looped: OnceLock<Graph>,
    places: sample::Places,
}

/// The transpose of a graph and, per edge of it, the position of that edge in the graph.
#[derive(Debug)]
pub struct Transposed {
    /// Row `j` lists the nodes `i` that aggregate from `j`.
    pub graph: Graph,
    /// Per edge of [`graph`](Self::graph), its position in the graph that was transposed.
    pub order: Vec<u32>,
}

impl Inner {
    fn new(
        rows: build::Rows,
        sources: usize,
        weights: Option<Vec<f32>>,
        node_ids: Option<Arc<Vec<i64>>>,
        origin: Option<degrees::Origin>,
    ) -> Self {
        debug_assert!(weights.as_ref().is_none_or(|weights| weights.len() == rows.indices.len()));
        Self {
            sources,
            indptr: rows.indptr,
            indices: rows.indices,
            weights,
            edge_order: rows.order,
            node_ids,
            origin,
            degrees: [const { OnceLock::new() }; 2],
            transpose: OnceLock::new(),
            normalized: [const { OnceLock::new() }; 3],
            looped: OnceLock::new(),
            places: sample::Places::default(),
        }
    }
}

impl Graph {
    fn assemble(
        rows: build::Rows,
        sources: usize,
        weights: Option<Vec<f32>>,
        node_ids: Option<Arc<Vec<i64>>>,
    ) -> Self {
        Self(Arc::new(Inner::new(rows, sources, weights, node_ids, None)))
    }

    /// From edges: node `targets[e]` aggregates from node `sources[e]`, with weight `weights[e]`.
    pub fn from_edges(
        targets: &[u32],
        sources: &[u32],
        num_nodes: usize,
        num_sources: usize,
        weights: Option<&[f32]>,
    ) -> Result<Self> {
        build::check_counts(num_nodes, num_sources, targets.len())?;
        if targets.len() != sources.len() {
            let counts = format!("{} targets but {} sources", targets.len(), sources.len());
            return Err(Error::Shape(format!("edges: {counts}")));
        }
        build::check_weights(weights, targets.len())?;
        build::check_nodes("targets", targets, num_nodes)?;
        build::check_nodes("sources", sources, num_sources)?;
        let rows = build::sorted_rows(targets, sources, num_nodes, num_sources);
        let weights = weights.map(|weights| rows.arrange(weights));
        Ok(Self::assemble(rows, num_sources, weights, None))
    }

    /// From compressed rows: row `i` holds the neighbours `indices[indptr[i]..indptr[i + 1]]`, in any order.
    pub fn from_csr(
        indptr: Vec<usize>,
        indices: Vec<u32>,
        num_sources: usize,
        weights: Option<Vec<f32>>,
    ) -> Result<Self> {
        build::check_indptr(&indptr, indices.len())?;
        build::check_counts(indptr.len() - 1, num_sources, indices.len())?;
        build::check_weights(weights.as_deref(), indices.len())?;
        build::check_nodes("indices", &indices, num_sources)?;
        let ordered = indptr.windows(2).all(|row| indices[row[0]..row[1]].is_sorted());
        if ordered {
            let rows = build::Rows { indptr, indices, order: None };
            return Ok(Self::assemble(rows, num_sources, weights, None));
        }
        let targets = build::row_numbers(&indptr);
        Self::from_edges(&targets, &indices, indptr.len() - 1, num_sources, weights.as_deref())
    }

    /// From all that a graph holds: rows as they stand, and what [`edge_order`](Self::edge_order) and
    /// [`node_ids`](Self::node_ids) gave.
    pub fn from_parts(
        indptr: Vec<usize>,
        indices: Vec<u32>,
        num_sources: usize,
        weights: Option<Vec<f32>>,
        edge_order: Option<Vec<u32>>,
        node_ids: Option<Vec<i64>>,
    ) -> Result<Self> {
        build::check_indptr(&indptr, indices.len())?;
        build::check_counts(indptr.len() - 1, num_sources, indices.len())?;
        build::check_weights(weights.as_deref(), indices.len())?;
        build::check_nodes("indices", &indices, num_sources)?;
        build::check_order(edge_order.as_deref(), indices.len())?;
        let rows = build::Rows { indptr, indices, order: edge_order };
        let graph = Self::assemble(rows, num_sources, weights, None);
        node_ids.map_or_else(|| Ok(graph.clone()), |ids| graph.with_node_ids(ids))
    }

    /// Groups positions: row `r` lists the positions `p` with `groups[p] == r`, which must be below `count`.
    pub(crate) fn grouping(groups: &[u32], count: usize) -> Self {
        let rows = build::grouped(groups, count);
        Self::assemble(rows, groups.len(), None, None)
    }

    /// Row `i` lists the positions of row `i`'s edges: what aggregates one value per edge.
    pub(crate) fn by_edge(&self) -> Self {
        let rows = build::Rows {
            indptr: memory::copy_of(&self.0.indptr),
            indices: memory::collect(0..self.num_edges() as u32),
            order: None,
        };
        Self::assemble(rows, self.num_edges(), None, None)
    }

    /// The same graph with other edge weights, in row order.
    pub fn with_weights(&self, weights: Option<Vec<f32>>) -> Result<Self> {
        build::check_weights(weights.as_deref(), self.num_edges())?;
        Ok(self.changed(|inner| inner.weights = weights))
    }

    /// The same graph with names for its nodes.
    pub fn with_node_ids(&self, ids: Vec<i64>) -> Result<Self> {
        if ids.len() != self.num_nodes() {
            return Err(Error::Shape(format!("node_ids: {} ids for {} nodes", ids.len(), self.num_nodes())));
        }
        Ok(self.changed(|inner| inner.node_ids = Some(Arc::new(ids))))
    }

    /// A copy after `change`. It is a graph of its own: it forgets what a block was drawn from.
    fn changed(&self, change: impl FnOnce(&mut Inner)) -> Self {
        let rows = build::Rows {
            indptr: memory::copy_of(&self.0.indptr),
            indices: memory::copy_of(&self.0.indices),
            order: self.0.edge_order.as_deref().map(memory::copy_of),
        };
        let weights = self.0.weights.as_deref().map(memory::copy_of);
        let mut inner = Inner::new(rows, self.0.sources, weights, self.0.node_ids.clone(), None);
        change(&mut inner);
        Self(Arc::new(inner))
    }

    /// Number of nodes that aggregate: rows.
    pub fn num_nodes(&self) -> usize {
        self.0.indptr.len() - 1
    }

    /// Number of nodes that are aggregated from: columns. Equal to [`num_nodes`](Self::num_nodes) in a square graph.
    pub fn num_sources(&self) -> usize {
        self.0.sources
    }

    /// Number of edges.
    pub fn num_edges(&self) -> usize {
        self.0.indices.len()
    }

    /// Where each row begins, and the number of edges.
    pub fn indptr(&self) -> &[usize] {
        &self.0.indptr
    }

    /// The neighbours of all rows, one after the other.
    pub fn indices(&self) -> &[u32] {
        &self.0.indices
    }

    /// The edge weights in row order.
    pub fn weights(&self) -> Option<&[f32]> {
        self.0.weights.as_deref()
    }

    /// The positions of row `node`'s edges.
    pub fn edges(&self, node: usize) -> Range<usize> {
        self.0.indptr[node]..self.0.indptr[node + 1]
    }

    /// The nodes that `node` aggregates from, rising.
    pub fn neighbors(&self, node: usize) -> &[u32] {
        &self.0.indices[self.edges(node)]
    }

    /// Per node, the number of its edges.
    pub fn degrees(&self) -> Vec<usize> {
        memory::collect(self.0.indptr.windows(2).map(|row| row[1] - row[0]))
    }

    /// Per edge in row order, its position among the edges as given; `None` when they were given in row order.
    pub fn edge_order(&self) -> Option<&[u32]> {
        self.0.edge_order.as_deref()
    }

    /// The names of the nodes, where an index gave them.
    pub fn node_ids(&self) -> Option<&[i64]> {
        self.0.node_ids.as_ref().map(|ids| &ids[..])
    }

    /// Per edge in row order, the row it is in.
    pub fn targets(&self) -> Vec<u32> {
        build::row_numbers(&self.0.indptr)
    }

    /// The transpose with its edge order, computed once.
    pub fn transposed(&self) -> &Transposed {
        self.0.transpose.get_or_init(|| {
            let rows = build::transposed(&self.0.indptr, &self.0.indices, self.0.sources);
            let order = match &rows.order {
                Some(order) => memory::copy_of(order),
                None => memory::collect(0..self.num_edges() as u32),
            };
            let weights = self.weights().map(|weights| rows.arrange(weights));
            Transposed { graph: Self::assemble(rows, self.num_nodes(), weights, None), order }
        })
    }

    /// The graph with every edge reversed; its edge order refers to this graph's edges in row order.
    #[must_use]
    pub fn transpose(&self) -> Self {
        let transposed = self.transposed().graph.clone();
        match &self.0.node_ids {
            Some(ids) if self.num_nodes() == self.num_sources() => {
                transposed.changed(|inner| inner.node_ids = Some(Arc::clone(ids)))
            }
            _ => transposed,
        }
    }

    /// Fails unless row `i` can be the node of column `i`; `op` is named.
    pub fn require_targets_among_sources(&self, op: &str) -> Result<()> {
        if self.num_nodes() <= self.num_sources() {
            return Ok(());
        }
        Err(Error::Shape(format!(
            "{op}: every node must be among the sources, got {} nodes and {} sources",
            self.num_nodes(),
            self.num_sources()
        )))
    }

    /// Fails unless the graph is square; `op` is named.
    pub fn require_square(&self, op: &str) -> Result<()> {
        if self.num_nodes() == self.num_sources() {
            return Ok(());
        }
        Err(Error::Shape(format!(
            "{op}: a graph with as many sources as nodes is needed, got {} nodes and {} sources",
            self.num_nodes(),
            self.num_sources()
        )))
    }
}

#[cfg(test)]
mod tests;
