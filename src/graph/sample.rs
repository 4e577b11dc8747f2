//! Neighbour sampling (Hamilton et al. 2017): per layer, at most a given number of each node's neighbours.
//!
//! What is drawn for a node depends on the seed, the hop and the node alone, so a batch may be cut over any number
//! of threads. Places in a row are drawn by Floyd's method (Bentley & Floyd 1987) into a set of bits and read off
//! rising: a block's rows keep the order of the graph's, and with everything taken a layer adds up the same numbers
//! in the same order as on the whole graph.

#![forbid(unsafe_code)]

use super::block::Drawn;
use super::build::{self, Rows};
use super::{Block, Graph};
use crate::error::{Error, Result};
use crate::memory;
use crate::rng::{self, SplitMix};
use crate::threads;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows per task.
const BAND: usize = 512;

impl Graph {
    /// Blocks for computing `nodes` with one layer per fanout, in the order in which the layers are applied: the
    /// sources of a block are the targets of the one before it, and the last one's targets are `nodes`.
    ///
    /// `fanouts[0]` neighbours are drawn of each of `nodes`, `fanouts[1]` of each node reached so far, and so on; all
    /// of them where a node has no more, or for `None`. Draws are uniform over a node's edges, without replacement,
    /// whatever their weights, which the blocks keep. A node that is given twice is a target twice, with the same
    /// neighbours.
    ///
    /// ```
    /// use ruvector_gnn::graph::Graph;
    /// let graph = Graph::from_edges(&[0, 0, 0, 1, 2], &[1, 2, 3, 0, 1], 4, 4, None)?;
    /// let blocks = graph.sample(&[0], &[Some(2), None], 0)?;
    /// assert_eq!((blocks[1].graph().num_nodes(), blocks[1].graph().num_edges()), (1, 2));
    /// assert_eq!(blocks[0].target_nodes(), blocks[1].source_nodes());
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn sample(&self, nodes: &[u32], fanouts: &[Option<usize>], seed: u64) -> Result<Vec<Block>> {
        self.require_square("sample")?;
        if fanouts.is_empty() {
            return Err(Error::Config("fanouts must name a number of neighbours per layer, got none".into()));
        }
        build::check_nodes("nodes", nodes, self.num_nodes())?;
        let mut reached = Reached::new(nodes, self.0.places.take(self.num_nodes()));
        let mut drawn = memory::with_capacity(fanouts.len());
        for (hop, fanout) in fanouts.iter().enumerate() {
            let key = rng::stream(seed, "neighbor-sampling", hop as u64).next_u64();
            let (rows, edges) = self.draw(&reached.nodes, fanout.unwrap_or(usize::MAX), key)?;
            let (rows, weights) = (reached.number(rows), self.weights_at(&edges));
            drawn.push((rows, reached.nodes.len(), edges, weights));
        }
        let (nodes, places) = reached.leave();
        self.0.places.give(places);
        let nodes = Arc::new(nodes);
        let blocks = drawn.into_iter().rev().map(|(rows, num_sources, edges, weights)| {
            Block::assemble(self, rows, num_sources, Arc::clone(&nodes), (edges, weights), Drawn::Uniformly)
        });
        Ok(blocks.collect())
    }

    /// At most `fanout` edges of each target: rows of nodes of this graph, and the positions of the edges.
    pub(super) fn draw(&self, targets: &[u32], fanout: usize, key: u64) -> Result<(Rows, Vec<u32>)> {
        // Looked up apart from the drawing, so that the processor can wait for many of them at once.
        let rows: Vec<Range<usize>> = memory::collect(targets.iter().map(|&node| self.edges(node as usize)));
        let (mut indptr, mut total) = (memory::with_capacity(targets.len() + 1), 0);
        indptr.push(0);
        for row in &rows {
            total += row.len().min(fanout);
            indptr.push(total);
        }
        build::check_counts(targets.len(), self.num_nodes(), total)?;
        let (mut edges, mut indices) = (memory::vec![0; total], memory::vec![0; total]);
        let mut bands = memory::with_capacity(targets.len().div_ceil(BAND));
        let (mut edges_left, mut indices_left) = (&mut edges[..], &mut indices[..]);
        for first in (0..targets.len()).step_by(BAND) {
            let last = (first + BAND).min(targets.len());
            let (edges, behind) = edges_left.split_at_mut(indptr[last] - indptr[first]);
            let (indices, after) = indices_left.split_at_mut(edges.len());
            (edges_left, indices_left) = (behind, after);
            bands.push((targets[first..last].iter().zip(&rows[first..last]), edges, indices));
        }
        threads::for_each_chunk(&mut bands, 1, |_, band| {
            for (rows, edges, indices) in band {
                self.draw_band(rows.clone(), (fanout, key), edges, indices);
            }
        });
        Ok((Rows { indptr, indices, order: None }, edges))
    }

    /// The same for some targets and their rows.
    fn draw_band<'a>(
        &self,
        rows: impl Iterator<Item = (&'a u32, &'a Range<usize>)>,
        (fanout, key): (usize, u64),
        edges: &mut [u32],
        indices: &mut [u32],
    ) {
        let (mut at, mut chosen) = (0, Vec::new());
        for (&node, row) in rows {
            let end = at + row.len().min(fanout);
            choose(row.clone(), SplitMix::new(key, u64::from(node)), &mut chosen, &mut edges[at..end]);
            at = end;
        }
        for (index, &edge) in indices.iter_mut().zip(&*edges) {
            *index = self.indices()[edge as usize];
        }
    }

    /// The weights of the edges at these positions, if there are weights.
    pub(super) fn weights_at(&self, edges: &[u32]) -> Option<Vec<f32>> {
        self.weights().map(|weights| memory::collect(edges.iter().map(|&edge| weights[edge as usize])))
    }
}

/// Fills `edges` with positions of `row`, rising: all of them, or as many as there is room for, each set of them
/// equally likely.
fn choose(row: Range<usize>, mut draws: SplitMix, chosen: &mut Vec<u64>, edges: &mut [u32]) {
    if edges.len() == row.len() {
        edges.iter_mut().zip(row).for_each(|(edge, position)| *edge = position as u32);
        return;
    }
    chosen.clear();
    memory::resize(chosen, row.len().div_ceil(64), 0);
    for last in row.len() - edges.len()..row.len() {
        let place = draws.below(last as u32 + 1) as usize;
        let place = if chosen[place / 64] >> (place % 64) & 1 == 1 { last } else { place };
        chosen[place / 64] |= 1 << (place % 64);
    }
    let mut edges = edges.iter_mut();
    for (word, &bits) in chosen.iter().enumerate() {
        let mut bits = bits;
        while bits != 0 {
            let place = word * 64 + bits.trailing_zeros() as usize;
            edges.next().into_iter().for_each(|edge| *edge = (row.start + place) as u32);
            bits &= bits - 1;
        }
    }
}

/// Not reached yet.
const ABSENT: u32 = u32::MAX;

/// The nodes that a batch has reached, in order, and the place of each among them.
pub(super) struct Reached {
    pub(super) nodes: Vec<u32>,
    places: Vec<u32>,
}

impl Reached {
    /// From all [`ABSENT`] places, one per node of the graph.
    pub(super) fn new(nodes: &[u32], mut places: Vec<u32>) -> Self {
        for (place, &node) in nodes.iter().enumerate().rev() {
            places[node as usize] = place as u32;
        }
        Self { nodes: memory::copy_of(nodes), places }
    }

    /// The same rows with places for nodes; nodes met for the first time join the others.
    pub(super) fn number(&mut self, mut rows: Rows) -> Rows {
        // Whether a node is new is nearly a coin toss, so it decides how far `len` moves rather than where the
        // program goes.
        let mut len = self.nodes.len();
        memory::resize(&mut self.nodes, len + rows.indices.len(), 0);
        for index in &mut rows.indices {
            let place = &mut self.places[*index as usize];
            let new = *place == ABSENT;
            self.nodes[len] = *index;
            *place = if new { len as u32 } else { *place };
            *index = *place;
            len += usize::from(new);
        }
        self.nodes.truncate(len);
        rows
    }

    /// The place of a node, which joins the others if it is met for the first time.
    #[inline]
    pub(super) fn visit(&mut self, node: u32) -> u32 {
        let place = &mut self.places[node as usize];
        if *place == ABSENT {
            *place = self.nodes.len() as u32;
            memory::push(&mut self.nodes, node);
        }
        *place
    }

    /// The place of a node, if it was reached.
    pub(super) fn place(&self, node: u32) -> Option<u32> {
        Some(self.places[node as usize]).filter(|&place| place != ABSENT)
    }

    /// The nodes, and the places as they were.
    pub(super) fn leave(mut self) -> (Vec<u32>, Vec<u32>) {
        self.nodes.iter().for_each(|&node| self.places[node as usize] = ABSENT);
        (self.nodes, self.places)
    }
}

/// A place per node, kept between batches: filling one anew would cost more than a batch.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Vec<Vec<u32>>>);

impl Places {
    pub(super) fn take(&self, nodes: usize) -> Vec<u32> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        waiting.unwrap_or_else(|| memory::vec![ABSENT; nodes])
    }

    /// All of `places` must be [`ABSENT`] again.
    pub(super) fn give(&self, places: Vec<u32>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::set_num_threads;
    use proptest::prelude::*;

    fn graph(nodes: u32, edges: usize, seed: u64) -> Graph {
        let mut draws = rng::stream(seed, "sample-test", 0);
        let mut node = || draws.below(u64::from(nodes)) as u32;
        let (targets, sources): (Vec<u32>, Vec<u32>) = (0..edges).map(|_| (node(), node())).unzip();
        let weights: Vec<f32> = (0..edges).map(|edge| edge as f32).collect();
        Graph::from_edges(&targets, &sources, nodes as usize, nodes as usize, Some(&weights)).unwrap()
    }

    proptest! {
        #[test]
        fn blocks_hold_distinct_edges_of_the_graph(
            nodes in 1u32..40, edges in 0usize..300, batch in 0usize..9, seed in 0u64..99, fanout in 0usize..6,
        ) {
            let graph = graph(nodes, edges, seed);
            let mut draws = rng::stream(seed, "sample-test", 1);
            let seeds: Vec<u32> = (0..batch).map(|_| draws.below(u64::from(nodes)) as u32).collect();
            let fanouts = [Some(fanout), None, Some(2)];
            let blocks = graph.sample(&seeds, &fanouts, seed).unwrap();
            prop_assert_eq!(blocks[2].target_nodes(), &seeds[..]);
            for (block, fanout) in blocks.iter().rev().zip(fanouts) {
                prop_assert_eq!(block.target_nodes(), &block.source_nodes()[..block.graph().num_nodes()]);
                for (target, &node) in block.target_nodes().iter().enumerate() {
                    let row = graph.edges(node as usize);
                    let drawn = &block.positions()[block.graph().edges(target)];
                    prop_assert_eq!(drawn.len(), row.len().min(fanout.unwrap_or(usize::MAX)));
                    prop_assert!(drawn.is_sorted_by(|a, b| a < b));
                    prop_assert!(drawn.iter().all(|&edge| row.contains(&(edge as usize))));
                    for (&edge, at) in drawn.iter().zip(block.graph().edges(target)) {
                        let source = block.source_nodes()[block.graph().indices()[at] as usize];
                        prop_assert_eq!(source, graph.indices()[edge as usize]);
                        prop_assert_eq!(block.graph().weights().unwrap()[at], graph.weights().unwrap()[edge as usize]);
                    }
                }
            }
            for pair in blocks.windows(2) {
                prop_assert_eq!(pair[0].target_nodes(), pair[1].source_nodes());
            }
            let weights: Vec<u32> = blocks[0].graph().weights().unwrap().iter().map(|&weight| weight as u32).collect();
            prop_assert_eq!(blocks[0].edge_ids(), weights, "weights are the positions as given");
        }
    }

    #[test]
    fn every_neighbor_is_equally_likely_in_short_and_long_rows() {
        for (degree, fanout) in [(7, 3), (130, 20)] {
            let sources: Vec<u32> = (0..degree).collect();
            let graph = Graph::from_edges(&vec![0; degree as usize], &sources, 131, 131, None).unwrap();
            let mut counts = vec![0.0; degree as usize];
            let rounds = 20_000;
            for seed in 0..rounds {
                let blocks = graph.sample(&[0], &[Some(fanout)], seed).unwrap();
                blocks[0].positions().iter().for_each(|&edge| counts[edge as usize] += 1.0);
            }
            let (chance, rounds) = (fanout as f64 / f64::from(degree), rounds as f64);
            let deviation = (rounds * chance * (1.0 - chance)).sqrt();
            assert!(
                counts.iter().all(|count| (count - rounds * chance).abs() < 5.0 * deviation),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_blocks_on_any_number_of_threads() {
        let graph = graph(5_000, 60_000, 1);
        let seeds: Vec<u32> = (0..1500).collect();
        let drawn = |threads: usize| {
            set_num_threads(threads).unwrap();
            let blocks = graph.sample(&seeds, &[Some(5), Some(3)], 8).unwrap();
            blocks.iter().map(|block| (block.source_nodes().to_vec(), block.edge_ids())).collect::<Vec<_>>()
        };
        assert!(drawn(1) == drawn(2) && drawn(1) == drawn(4));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_a_refused_call_leaves_no_trace() {
        let graph = graph(10, 30, 2);
        assert!(matches!(graph.sample(&[10], &[None], 0), Err(Error::Row(_))));
        assert!(matches!(graph.sample(&[1], &[], 0), Err(Error::Config(_))));
        assert!(matches!(graph.subgraph(&[3, 1, 3]), Err(Error::Config(_))));
        assert_eq!(graph.subgraph(&[3, 1]).unwrap().source_nodes(), [3, 1]);
        let rectangle = Graph::from_edges(&[0], &[3], 2, 4, None).unwrap();
        assert!(matches!(rectangle.sample(&[0], &[None], 0), Err(Error::Shape(_))));
    }
}
