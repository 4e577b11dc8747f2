//! Blocks: parts of a graph, each what one layer needs of it for a batch of nodes.

#![forbid(unsafe_code)]

use super::degrees::Origin;
use super::{Degrees, Graph, Inner, build};
use crate::error::{Error, Result};
use crate::memory;
use std::sync::{Arc, OnceLock};

/// A part of a graph, from source nodes to target nodes.
///
/// Rows are the targets and columns the sources, numbered by their places in [`source_nodes`](Self::source_nodes);
/// the first sources are the targets, in the same order, so that a layer finds a node's own values. The names of the
/// targets are those of the graph where it has names, else their numbers in it.
///
/// A sampled block remembers its graph, whose degrees [`Graph::gcn_normalize`] reads. A subgraph has its own degrees.
///
/// ```
/// use ruvector_gnn::graph::Graph;
/// let graph = Graph::from_edges(&[0, 2, 2], &[1, 0, 1], 3, 3, None)?;
/// let [block]: [_; 1] = graph.sample(&[2], &[None], 0)?.try_into().unwrap();
/// assert_eq!((block.target_nodes(), block.source_nodes()), (&[2][..], &[2, 0, 1][..]));
/// assert_eq!(block.graph().neighbors(0), [1, 2]);
/// assert_eq!(block.edge_ids(), [1, 2]);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Block {
    graph: Graph,
    /// The sources are the first of these; blocks of one batch share them.
    nodes: Arc<Vec<u32>>,
    /// Positions of the edges in the rows of the graph that this is a part of.
    edges: Arc<Vec<u32>>,
    /// The graph whose edge order leads from `edges` to the edges as given; `None` if they are the same.
    order: Option<Graph>,
    whole: usize,
}

/// How a block's edges were chosen.
#[derive(Clone, Copy)]
pub(super) enum Drawn {
    /// All edges between some nodes: a graph with degrees of its own.
    Whole,
    /// Some of each row, each as likely as the others: they stand for the rest.
    Uniformly,
    /// By chance too, and the weights make up for it.
    ByWeights,
}

impl Block {
    /// Rows of local sources over the first `num_sources` of `nodes`, whose edges stand at `edges` in `graph`.
    pub(super) fn assemble(
        graph: &Graph,
        rows: build::Rows,
        num_sources: usize,
        nodes: Arc<Vec<u32>>,
        (edges, weights): (Vec<u32>, Option<Vec<f32>>),
        drawn: Drawn,
    ) -> Self {
        let targets = &nodes[..rows.indptr.len() - 1];
        let ids = match graph.node_ids() {
            Some(ids) => memory::collect(targets.iter().map(|&node| ids[node as usize])),
            None => memory::collect(targets.iter().map(|&node| i64::from(node))),
        };
        let origin = |expand| Origin::Drawn { graph: graph.clone(), nodes: Arc::clone(&nodes), expand };
        let origin = match drawn {
            Drawn::Whole => None,
            Drawn::Uniformly => Some(origin(true)),
            Drawn::ByWeights => Some(origin(false)),
        };
        let part = Graph(Arc::new(Inner::new(rows, num_sources, weights, Some(Arc::new(ids)), origin)));
        let order = graph.edge_order().map(|_| graph.clone());
        Self { graph: part, nodes, edges: Arc::new(edges), order, whole: graph.num_nodes() }
    }

    /// Puts together what [`graph`](Self::graph), [`source_nodes`](Self::source_nodes), [`edge_ids`](Self::edge_ids),
    /// [`num_graph_nodes`](Self::num_graph_nodes) and [`degrees`](Self::degrees) gave.
    pub fn from_parts(
        graph: Graph,
        sources: Vec<u32>,
        edge_ids: Vec<u32>,
        whole: usize,
        degrees: Option<[Degrees; 2]>,
    ) -> Result<Self> {
        build::check_nodes("source_nodes", &sources, whole)?;
        if sources.len() != graph.num_sources() || graph.num_sources() < graph.num_nodes() {
            let (given, rows) = (sources.len(), graph.num_nodes());
            return Err(Error::Shape(format!(
                "source_nodes: {given} nodes for a block of {rows} targets and {} sources",
                graph.num_sources()
            )));
        }
        if edge_ids.len() != graph.num_edges() {
            let counts = format!("{} ids for {} edges", edge_ids.len(), graph.num_edges());
            return Err(Error::Shape(format!("edge_ids: {counts}")));
        }
        let nodes = Arc::new(sources);
        let graph = match degrees {
            None => graph,
            Some(degrees) => {
                degrees.iter().try_for_each(|degrees| degrees.check(&graph))?;
                graph.changed(|inner| {
                    inner.origin = Some(Origin::Kept { nodes: Arc::clone(&nodes) });
                    inner.degrees = degrees.map(OnceLock::from);
                })
            }
        };
        Ok(Self { graph, nodes, edges: Arc::new(edge_ids), order: None, whole })
    }

    /// What normalization reads of a sampled block, without and with self loops; `None` for a subgraph.
    pub fn degrees(&self) -> Result<Option<[Degrees; 2]>> {
        if self.graph.0.origin.is_none() {
            return Ok(None);
        }
        Ok(Some([self.graph.degrees_with(false)?.clone(), self.graph.degrees_with(true)?.clone()]))
    }

    /// The rows: what layers run over.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The nodes that are aggregated from, as numbers in the graph that this is a part of.
    pub fn source_nodes(&self) -> &[u32] {
        &self.nodes[..self.graph.num_sources()]
    }

    /// The nodes that aggregate: the first sources.
    pub fn target_nodes(&self) -> &[u32] {
        &self.nodes[..self.graph.num_nodes()]
    }

    /// Per edge in row order, its position among the edges of the graph as given.
    pub fn edge_ids(&self) -> Vec<u32> {
        match self.order.as_ref().and_then(Graph::edge_order) {
            Some(order) => memory::collect(self.edges.iter().map(|&edge| order[edge as usize])),
            None => memory::copy_of(&self.edges),
        }
    }

    /// Per edge, its position in the rows of the graph; its id where the block was put together from parts.
    pub(super) fn positions(&self) -> &[u32] {
        &self.edges
    }

    /// The same part with other edge weights, in row order.
    pub(super) fn with_weights(&self, weights: Vec<f32>) -> Result<Self> {
        Ok(Self { graph: self.graph.with_weights(Some(weights))?, ..self.clone() })
    }

    /// How many nodes the graph has that this is a part of.
    pub fn num_graph_nodes(&self) -> usize {
        self.whole
    }
}
