//! Neighbourhoods: nodes within some hops, distances, and the part of a graph between given nodes.
//!
//! Hops follow rows: one hop leads from a node to the nodes that it aggregates from, so the nodes within `k` hops are
//! all that `k` layers see.

#![forbid(unsafe_code)]

use super::block::Drawn;
use super::build::{self, Rows};
use super::sample::Reached;
use super::{Block, Graph};
use crate::error::{Error, Result};
use crate::memory;
use crate::monitor::Monitor;
use crate::threads;
use std::sync::Arc;

/// Sources whose distances are found between two looks at the monitor.
const TURN: usize = 16;

impl Graph {
    /// The nodes within `k` hops of `nodes`, these among them, rising.
    ///
    /// ```
    /// use ruvector_gnn::graph::Graph;
    /// let path = Graph::from_edges(&[0, 1, 2], &[1, 2, 3], 4, 4, None)?;
    /// assert_eq!(path.k_hop(&[1], 1)?, [1, 2]);
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn k_hop(&self, nodes: &[u32], k: usize) -> Result<Vec<u32>> {
        self.require_square("k_hop")?;
        build::check_nodes("nodes", nodes, self.num_nodes())?;
        let mut found = memory::vec![false; self.num_nodes()];
        let mut frontier: Vec<u32> = memory::copy_of(nodes);
        frontier.retain(|&node| !std::mem::replace(&mut found[node as usize], true));
        for _ in 0..k {
            if frontier.is_empty() {
                break;
            }
            let mut next = Vec::new();
            for &node in &frontier {
                threads::checkpoint();
                for &neighbor in self.neighbors(node as usize) {
                    if !std::mem::replace(&mut found[neighbor as usize], true) {
                        memory::push(&mut next, neighbor);
                    }
                }
            }
            frontier = next;
        }
        Ok(memory::collect((0..self.num_nodes() as u32).filter(|&node| found[node as usize])))
    }

    /// The number of hops from each of `sources` to every node, one row of [`num_nodes`](Self::num_nodes) values per
    /// source: -1 for nodes that can't be reached within `max_hops`. `monitor` is told how many sources are done.
    ///
    /// ```
    /// use ruvector_gnn::{graph::Graph, monitor::Silent};
    /// let path = Graph::from_edges(&[0, 1, 2], &[1, 2, 3], 4, 4, None)?;
    /// assert_eq!(path.distances(&[1], None, &mut Silent)?, [-1, 0, 1, 2]);
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn distances(
        &self,
        sources: &[u32],
        max_hops: Option<usize>,
        monitor: &mut dyn Monitor,
    ) -> Result<Vec<i64>> {
        self.require_square("distances")?;
        build::check_nodes("source", sources, self.num_nodes())?;
        let (nodes, total) = (self.num_nodes().max(1), sources.len());
        let mut hops = memory::vec![-1; sources.len().saturating_mul(self.num_nodes())];
        for (turn, (sources, hops)) in sources.chunks(TURN).zip(hops.chunks_mut(TURN * nodes)).enumerate() {
            monitor.step(turn * TURN, total, &[])?;
            threads::for_each_chunk(hops, nodes, |source, hops| {
                self.spread(sources[source], max_hops.unwrap_or(usize::MAX), hops);
            });
        }
        Ok(hops)
    }

    /// Breadth first from one node.
    fn spread(&self, source: u32, max_hops: usize, hops: &mut [i64]) {
        let (mut frontier, mut distance) = (vec![source], 0);
        hops[source as usize] = 0;
        while !frontier.is_empty() && (distance as usize) < max_hops {
            distance += 1;
            let mut next = Vec::new();
            for &neighbor in frontier.iter().flat_map(|&node| self.neighbors(node as usize)) {
                if hops[neighbor as usize] < 0 {
                    hops[neighbor as usize] = distance;
                    memory::push(&mut next, neighbor);
                }
            }
            frontier = next;
        }
    }

    /// The edges between `nodes`, which are renumbered in the order given and must differ. Weights and names are
    /// kept; rows are sorted by the new numbers, duplicates by the order as given.
    ///
    /// ```
    /// use ruvector_gnn::graph::Graph;
    /// let path = Graph::from_edges(&[0, 1, 2], &[1, 2, 3], 4, 4, None)?;
    /// let part = path.subgraph(&[2, 1])?;
    /// assert_eq!(part.graph().neighbors(1), [0]); // 1 aggregates from 2
    /// assert_eq!(part.edge_ids(), [1]);
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn subgraph(&self, nodes: &[u32]) -> Result<Block> {
        self.require_square("subgraph")?;
        build::check_nodes("nodes", nodes, self.num_nodes())?;
        let reached = Reached::new(nodes, self.0.places.take(self.num_nodes()));
        let twice = nodes.iter().enumerate().find(|&(at, &node)| reached.place(node) != Some(at as u32));
        let part = match twice {
            Some((_, node)) => {
                Err(Error::Config(format!("subgraph: nodes must differ, node {node} is given twice")))
            }
            None => Ok(self.between(&reached)),
        };
        let (nodes, places) = reached.leave();
        self.0.places.give(places);
        let (rows, edges) = part?;
        let weights = self.weights_at(&edges);
        Ok(Block::assemble(self, rows, nodes.len(), Arc::new(nodes), (edges, weights), Drawn::Whole))
    }

    /// The edges between nodes that were reached: rows of their places, and the positions of the edges.
    pub(super) fn between(&self, reached: &Reached) -> (Rows, Vec<u32>) {
        let (mut indptr, mut indices, mut edges) = (vec![0], Vec::new(), Vec::new());
        let mut row = Vec::new();
        for &node in &reached.nodes {
            threads::checkpoint();
            row.clear();
            for edge in self.edges(node as usize) {
                if let Some(place) = reached.place(self.indices()[edge]) {
                    memory::push(&mut row, (place, edge as u32));
                }
            }
            row.sort_unstable();
            for &(place, edge) in &row {
                memory::push(&mut indices, place);
                memory::push(&mut edges, edge);
            }
            memory::push(&mut indptr, indices.len());
        }
        (Rows { indptr, indices, order: None }, edges)
    }
}
