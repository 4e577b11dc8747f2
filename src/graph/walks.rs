//! Subgraphs of random walks (GraphSAINT, Zeng et al. 2020), with the coefficients that undo their bias.

#![forbid(unsafe_code)]

use super::block::Drawn;
use super::sample::Reached;
use super::{Block, Graph};
use crate::error::{Error, Result};
use crate::memory;
use crate::monitor::Monitor;
use crate::rng::{self, SplitMix};
use crate::threads;
use std::sync::Arc;

/// Subgraphs that are drawn between two looks at the monitor.
const TURN: usize = 16;

/// Steps of a walk, or walks, between two checks whether the call is to stop.
const CHECKED: usize = 4096;

/// What [`Graph::random_walk_subgraphs`] draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkOptions {
    /// Walks per subgraph; each starts at a node drawn uniformly, with replacement.
    pub roots: usize,
    /// Steps of a walk; it ends early at a node without neighbours.
    pub walk_length: usize,
    /// Subgraphs.
    pub num_batches: usize,
    /// Whether edges are weighted against the chance that they are drawn.
    pub normalize: bool,
}

impl Graph {
    /// Subgraphs between the nodes of random walks along the rows, and per node of each its weight in a loss.
    ///
    /// With `C_v` and `C_e` the number of subgraphs that hold node `v` and edge `e`, the weight of a node among `N` is
    /// `num_batches / (N C_v)`: a sum over a subgraph's nodes by these weights has the mean over all nodes that any
    /// subgraph holds, times their share, as its average over the subgraphs. With `normalize`, the weight of an edge
    /// to target `v` is multiplied by `C_v / C_e`: averaged over the subgraphs that hold `v`, its sum over neighbours
    /// is that of the whole graph, over the edges that any subgraph holds. `monitor` is told how many subgraphs are drawn.
    ///
    /// ```
    /// use ruvector_gnn::graph::{Graph, WalkOptions};
    /// use ruvector_gnn::monitor::Silent;
    /// let ring = Graph::from_edges(&[0, 1, 2], &[1, 2, 0], 3, 3, None)?;
    /// let options = WalkOptions { roots: 1, walk_length: 1, num_batches: 4, normalize: true };
    /// for (part, weights) in ring.random_walk_subgraphs(&options, 0, &mut Silent)? {
    ///     assert_eq!((part.source_nodes().len(), weights.len()), (2, 2));
    /// }
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn random_walk_subgraphs(
        &self,
        options: &WalkOptions,
        seed: u64,
        monitor: &mut dyn Monitor,
    ) -> Result<Vec<(Block, Vec<f32>)>> {
        self.require_square("random_walk_subgraphs")?;
        let WalkOptions { roots, walk_length, num_batches, .. } = *options;
        for (name, value, least) in
            [("roots", roots, 1), ("walk_length", walk_length, 0), ("num_batches", num_batches, 1)]
        {
            if value < least || u32::try_from(value).is_err() {
                let most = u32::MAX;
                return Err(Error::Config(format!("{name} must be from {least} to {most}, got {value}")));
            }
        }
        let mut batches = Vec::new();
        while batches.len() < options.num_batches {
            let first = batches.len();
            monitor.step(first, options.num_batches, &[])?;
            let turn = threads::map(TURN.min(options.num_batches - first), |batch| {
                let key = rng::stream(seed, "random-walks", (first + batch) as u64).next_u64();
                self.walked(options, key)
            });
            turn.into_iter().for_each(|block| memory::push(&mut batches, block));
        }
        let (mut of_node, mut of_edge) =
            (memory::vec![0u32; self.num_nodes()], memory::vec![0u32; self.num_edges()]);
        for batch in &batches {
            batch.target_nodes().iter().for_each(|&node| of_node[node as usize] += 1);
            batch.positions().iter().for_each(|&edge| of_edge[edge as usize] += 1);
        }
        let total = options.num_batches as f64 / self.num_nodes().max(1) as f64;
        let weighted = threads::map(batches.len(), |batch| {
            let batch = &batches[batch];
            let share = |&node: &u32| (total / f64::from(of_node[node as usize])) as f32;
            let shares = memory::collect(batch.target_nodes().iter().map(share));
            let block = if options.normalize { batch.reweighted(&of_node, &of_edge)? } else { batch.clone() };
            Ok((block, shares))
        });
        weighted.into_iter().collect()
    }

    /// The part of the graph that the walks of one batch visit.
    fn walked(&self, options: &WalkOptions, key: u64) -> Block {
        let mut reached = Reached::new(&[], self.0.places.take(self.num_nodes()));
        let roots = if self.num_nodes() == 0 { 0 } else { options.roots };
        for root in 0..roots {
            let mut draws = SplitMix::new(key, root as u64);
            let mut node = draws.below(self.num_nodes() as u32);
            reached.visit(node);
            if root % CHECKED == CHECKED - 1 {
                threads::checkpoint();
            }
            for step in 0..options.walk_length {
                if step % CHECKED == CHECKED - 1 {
                    threads::checkpoint();
                }
                let neighbors = self.neighbors(node as usize);
                if neighbors.is_empty() {
                    break;
                }
                node = neighbors[draws.below(neighbors.len() as u32) as usize];
                reached.visit(node);
            }
        }
        let (rows, edges) = self.between(&reached);
        let (nodes, places) = reached.leave();
        self.0.places.give(places);
        let weights = self.weights_at(&edges);
        Block::assemble(self, rows, nodes.len(), Arc::new(nodes), (edges, weights), Drawn::Whole)
    }
}

impl Block {
    /// With each edge's weight multiplied by `of_node / of_edge`, for its target and itself.
    fn reweighted(&self, of_node: &[u32], of_edge: &[u32]) -> Result<Self> {
        let targets = self.graph().targets();
        let mut weights =
            self.graph().weights().map_or_else(|| memory::vec![1.0; targets.len()], memory::copy_of);
        for ((weight, target), &edge) in weights.iter_mut().zip(targets).zip(self.positions()) {
            let node = self.target_nodes()[target as usize];
            let factor = f64::from(of_node[node as usize]) / f64::from(of_edge[edge as usize]);
            *weight = (f64::from(*weight) * factor) as f32;
        }
        self.with_weights(weights)
    }
}
