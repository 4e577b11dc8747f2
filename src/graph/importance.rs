//! Layer-wise importance sampling (FastGCN, Chen et al. 2018; LADIES, Zou et al. 2019): per layer, one set of nodes
//! that all targets share.
//!
//! A neighbour's chance is proportional to the squared norm of its column over the rows of the targets, as in LADIES,
//! and is cut at 1. Nodes are drawn without replacement by systematic sampling in random order, and an edge to node
//! `j`, drawn with chance `p_j`, weighs `w_ij / p_j` (Horvitz & Thompson 1952): the weighted sum of what was drawn has
//! the sum over all neighbours as its mean.

#![forbid(unsafe_code)]

use super::block::Drawn;
use super::build::{self, Rows};
use super::sample::Reached;
use super::{Block, Graph};
use crate::error::{Error, Result};
use crate::memory;
use crate::rng::{self, Rng};
use crate::threads;
use std::sync::Arc;

impl Graph {
    /// Blocks as those of [`sample`](Self::sample), of which the one that is `k` hops from `nodes` aggregates from
    /// `sizes[k]` nodes, or from all neighbours where there are no more.
    ///
    /// The weights estimate sums by the graph's weights; for means, normalize the graph's rows first.
    ///
    /// ```
    /// use ruvector_gnn::graph::Graph;
    /// let graph = Graph::from_edges(&[0, 0, 1, 1], &[2, 3, 2, 3], 4, 4, None)?;
    /// let blocks = graph.layer_sample(&[0, 1], &[1], 0)?;
    /// assert_eq!(blocks[0].graph().num_sources(), 3); // the targets and one node for both
    /// assert_eq!(blocks[0].graph().weights(), Some(&[2.0, 2.0][..])); // drawn with chance 1/2
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn layer_sample(&self, nodes: &[u32], sizes: &[usize], seed: u64) -> Result<Vec<Block>> {
        self.require_square("layer_sample")?;
        if sizes.is_empty() || sizes.contains(&0) {
            let message = format!("sizes must be numbers of nodes from 1 up, one per layer, got {sizes:?}");
            return Err(Error::Config(message));
        }
        build::check_nodes("nodes", nodes, self.num_nodes())?;
        let mut reached = Reached::new(nodes, self.0.places.take(self.num_nodes()));
        let mut drawn = memory::with_capacity(sizes.len());
        for (hop, &size) in sizes.iter().enumerate() {
            let draws = rng::stream(seed, "layer-sampling", hop as u64);
            let (rows, edges, weights) = self.draw_shared(&reached.nodes, size, draws)?;
            let rows = reached.number(rows);
            drawn.push((rows, reached.nodes.len(), edges, weights));
        }
        let (nodes, places) = reached.leave();
        self.0.places.give(places);
        let nodes = Arc::new(nodes);
        let blocks = drawn.into_iter().rev().map(|(rows, num_sources, edges, weights)| {
            Block::assemble(
                self,
                rows,
                num_sources,
                Arc::clone(&nodes),
                (edges, Some(weights)),
                Drawn::ByWeights,
            )
        });
        Ok(blocks.collect())
    }

    /// The edges of the targets to at most `size` nodes: rows of nodes, positions of the edges, their weights.
    fn draw_shared(
        &self,
        targets: &[u32],
        size: usize,
        mut draws: Rng,
    ) -> Result<(Rows, Vec<u32>, Vec<f32>)> {
        let (all, positions) = self.draw(targets, usize::MAX, 0)?;
        let mut columns = Reached::new(&[], self.0.places.take(self.num_nodes()));
        let all = columns.number(all);
        let (nodes, places) = columns.leave();
        self.0.places.give(places);
        let weight = |edge: u32| self.weights().map_or(1.0, |weights| f64::from(weights[edge as usize]));
        let mut importance = memory::vec![0.0; nodes.len()];
        for (&column, &edge) in all.indices.iter().zip(&positions) {
            importance[column as usize] += weight(edge).powi(2);
        }
        let chances = chances(&importance, size);
        let taken = systematic(&chances, &mut draws);
        let mut rows = Rows { indptr: vec![0], indices: Vec::new(), order: None };
        let (mut edges, mut weights) = (Vec::new(), Vec::new());
        for row in all.indptr.windows(2) {
            threads::checkpoint();
            let row = row[0]..row[1];
            for (&column, &edge) in all.indices[row.clone()].iter().zip(&positions[row]) {
                let column = column as usize;
                if taken[column] {
                    memory::push(&mut rows.indices, nodes[column]);
                    memory::push(&mut edges, edge);
                    memory::push(&mut weights, (weight(edge) / chances[column]) as f32);
                }
            }
            memory::push(&mut rows.indptr, edges.len());
        }
        Ok((rows, edges, weights))
    }
}

/// `min(1, c importance)`, with the `c` for which they add up to `size`; all 1 where fewer matter.
fn chances(importance: &[f64], size: usize) -> Vec<f64> {
    let mut falling: Vec<f64> = memory::collect(importance.iter().copied().filter(|&value| value > 0.0));
    if falling.len() <= size {
        return memory::collect(importance.iter().map(|&value| f64::from(u8::from(value > 0.0))));
    }
    falling.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut rest: f64 = falling.iter().rev().sum();
    let mut scale = size as f64 / rest;
    for (certain, &largest) in falling.iter().enumerate().take(size) {
        scale = (size - certain) as f64 / rest;
        if scale * largest <= 1.0 {
            break;
        }
        rest -= largest;
    }
    memory::collect(importance.iter().map(|&value| (scale * value).min(1.0)))
}

/// Which items a systematic sample in random order takes: item `i` with chance `chances[i]`.
fn systematic(chances: &[f64], draws: &mut Rng) -> Vec<bool> {
    let mut taken: Vec<bool> = memory::collect(chances.iter().map(|&chance| chance >= 1.0));
    let mut order: Vec<usize> = memory::collect((0..chances.len()).filter(|&item| !taken[item]));
    draws.shuffle(&mut order);
    let (mut sum, mut mark) = (0.0, draws.uniform());
    for item in order {
        sum += chances[item];
        if sum > mark {
            taken[item] = true;
            mark += 1.0;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_add_up_to_the_size_and_stay_below_one() {
        let importance = [100.0, 1.0, 3.0, 0.0, 2.0, 50.0];
        for size in 1..5 {
            let chances = chances(&importance, size);
            assert!((chances.iter().sum::<f64>() - size as f64).abs() < 1e-12, "{size}: {chances:?}");
            assert!(chances.iter().all(|&chance| (0.0..=1.0).contains(&chance)));
            assert!((chances[4] - 2.0 * chances[1]).abs() < 1e-12, "below 1, in proportion");
        }
        assert_eq!(chances(&importance, 5), [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn systematic_samples_have_their_size_and_chances() {
        let chances = [0.5, 1.0, 0.9, 0.1, 0.5, 0.0];
        let mut counts = [0.0; 6];
        for index in 0..20_000 {
            let taken = systematic(&chances, &mut rng::stream(3, "systematic-test", index));
            assert_eq!(taken.iter().filter(|&&taken| taken).count(), 3);
            counts.iter_mut().zip(taken).for_each(|(count, taken)| *count += f64::from(u8::from(taken)));
        }
        for (count, chance) in counts.iter().zip(chances) {
            // Five standard deviations.
            assert!((count / 20_000.0 - chance).abs() < 0.018, "{counts:?}");
        }
    }
}
