//! The degrees by which graph convolutions normalize, of whole graphs and of blocks drawn from them.

#![forbid(unsafe_code)]

use super::Graph;
use crate::error::{Error, Result};
use crate::memory;
use std::sync::Arc;

/// What [`Graph::gcn_normalize`] reads of each node, with or without self loops.
#[derive(Clone, Debug)]
pub struct Degrees {
    /// Per source, the sum of its row's weights in the whole graph.
    pub sums: Vec<f64>,
    /// Per row, the weight of its loop in the whole graph: the last one given, else 1.
    pub loops: Vec<f32>,
    /// Per row, how many edges of the whole graph each drawn edge stands for; loops are left out where they are added.
    pub shares: Vec<f32>,
}

impl Degrees {
    /// Fails unless there is a value per source and row.
    pub(super) fn check(&self, graph: &Graph) -> Result<()> {
        let lengths = [self.sums.len(), self.loops.len(), self.shares.len()];
        let expected = [graph.num_sources(), graph.num_nodes(), graph.num_nodes()];
        if lengths == expected {
            return Ok(());
        }
        Err(Error::Shape(format!("degrees: {lengths:?} values, expected {expected:?}")))
    }
}

/// The graph that a block was drawn from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// The graph, the nodes of which the first are the block's sources, and whether drawn edges stand for others.
    Drawn { graph: Graph, nodes: Arc<Vec<u32>>, expand: bool },
    /// A block that was put together from parts knows its degrees already.
    Kept { nodes: Arc<Vec<u32>> },
}

impl Graph {
    /// Whether row `target` and column `source` are one node: a block may list a node twice.
    pub(super) fn is_loop(&self, target: u32, source: u32) -> bool {
        match &self.0.origin {
            None => target == source,
            Some(Origin::Drawn { nodes, .. } | Origin::Kept { nodes }) => {
                nodes[target as usize] == nodes[source as usize]
            }
        }
    }

    /// The degrees of this graph, or of the one that it was drawn from. Computed once.
    pub(super) fn degrees_with(&self, self_loops: bool) -> Result<&Degrees> {
        let cache = &self.0.degrees[usize::from(self_loops)];
        if let Some(degrees) = cache.get() {
            return Ok(degrees);
        }
        let degrees = match &self.0.origin {
            Some(Origin::Drawn { graph, nodes, expand }) => {
                self.drawn_degrees(graph, nodes, *expand, self_loops)?
            }
            _ => self.own_degrees(self_loops)?,
        };
        Ok(cache.get_or_init(|| degrees))
    }

    fn own_degrees(&self, self_loops: bool) -> Result<Degrees> {
        self.require_square("gcn_normalize")?;
        let nodes = self.num_nodes();
        let mut degrees = Degrees {
            sums: memory::vec![0.0; nodes],
            loops: memory::vec![1.0; nodes],
            shares: memory::vec![1.0; nodes],
        };
        for node in 0..nodes {
            let (mut sum, mut own) = (0.0, 1.0);
            for edge in self.edges(node) {
                let weight = self.weights().map_or(1.0, |weights| weights[edge]);
                if self_loops && self.is_loop(node as u32, self.indices()[edge]) {
                    own = weight;
                } else {
                    sum += f64::from(weight);
                }
            }
            degrees.sums[node] = if self_loops { sum + f64::from(own) } else { sum };
            degrees.loops[node] = own;
        }
        Ok(degrees)
    }

    fn drawn_degrees(&self, whole: &Self, nodes: &[u32], expand: bool, self_loops: bool) -> Result<Degrees> {
        let of_whole = whole.degrees_with(self_loops)?;
        let count = |graph: &Self, row: u32| {
            let counted = |&&source: &&u32| !(self_loops && graph.is_loop(row, source));
            graph.neighbors(row as usize).iter().filter(counted).count()
        };
        let share = |(row, &node): (usize, &u32)| match count(self, row as u32) {
            drawn if expand && drawn > 0 => count(whole, node) as f32 / drawn as f32,
            _ => 1.0,
        };
        let (sources, rows) = (&nodes[..self.num_sources()], &nodes[..self.num_nodes()]);
        Ok(Degrees {
            sums: memory::collect(sources.iter().map(|&node| of_whole.sums[node as usize])),
            loops: memory::collect(rows.iter().map(|&node| of_whole.loops[node as usize])),
            shares: memory::collect(rows.iter().enumerate().map(share)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Block;
    use crate::rng;

    /// With loops, duplicates and isolated nodes.
    fn graph(weighted: bool) -> Graph {
        let mut draws = rng::stream(3, "degrees-test", 0);
        let mut node = || draws.below(20) as u32;
        let (targets, sources): (Vec<u32>, Vec<u32>) = (0..90).map(|_| (node(), node())).unzip();
        let weights: Vec<f32> = (0..90).map(|edge| 0.5 + edge as f32).collect();
        Graph::from_edges(&targets, &sources, 22, 22, weighted.then_some(&weights)).unwrap()
    }

    /// The normalized weights as a dense matrix over the whole graph's nodes, by rows of `block`.
    fn dense(graph: &Graph, sources: &[u32]) -> Vec<Vec<f64>> {
        let row = |row: usize| {
            let mut values = vec![0.0; 22];
            for edge in graph.edges(row) {
                values[sources[graph.indices()[edge] as usize] as usize] +=
                    f64::from(graph.weights().unwrap()[edge]);
            }
            values
        };
        (0..graph.num_nodes()).map(row).collect()
    }

    #[test]
    fn a_block_normalizes_as_its_whole_graph_does() {
        let all: Vec<u32> = (0..22).collect();
        for (weighted, self_loops) in [(false, false), (false, true), (true, false), (true, true)] {
            let graph = graph(weighted);
            let whole = dense(&graph.gcn_normalize(self_loops).unwrap(), &all);
            let close = |rows: Vec<Vec<f64>>, block: &Block, tolerance: f64| {
                rows.iter().zip(block.target_nodes()).all(|(row, &node)| {
                    row.iter().zip(&whole[node as usize]).all(|(a, b)| (a - b).abs() < tolerance)
                })
            };
            // A node that is given twice, and all nodes: a square block.
            for nodes in [&[4, 21, 4, 0, 13][..], &all] {
                let block = graph.sample(nodes, &[None], 0).unwrap().remove(0);
                let kept = block.degrees().unwrap();
                let (sources, edges) = (block.source_nodes().to_vec(), block.edge_ids());
                let plain = block.graph().with_weights(block.graph().weights().map(<[f32]>::to_vec)).unwrap();
                let again = Block::from_parts(plain, sources, edges, 22, kept).unwrap();
                for block in [block, again] {
                    let normalized = block.graph().gcn_normalize(self_loops).unwrap();
                    assert!(close(dense(&normalized, block.source_nodes()), &block, 1e-6));
                }
            }
            // Of samples the mean over seeds.
            for fanout in [true, false] {
                let mut means = vec![vec![0.0; 22]; 2];
                let rounds = 4000;
                for seed in 0..rounds {
                    let blocks = match fanout {
                        true => graph.sample(&[4, 7], &[Some(3)], seed),
                        false => graph.layer_sample(&[4, 7], &[4], seed),
                    };
                    let block = blocks.unwrap().remove(0);
                    let rows = dense(&block.graph().gcn_normalize(self_loops).unwrap(), block.source_nodes());
                    for (mean, row) in means.iter_mut().zip(rows) {
                        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / rounds as f64);
                    }
                }
                let block = graph.sample(&[4, 7], &[Some(3)], 0).unwrap().remove(0);
                assert!(close(means, &block, 0.02), "{weighted} {self_loops} {fanout}");
            }
        }
    }

    #[test]
    fn a_rectangle_of_its_own_and_wrong_degrees_are_refused() {
        let rectangle = Graph::from_edges(&[0], &[3], 2, 4, None).unwrap();
        assert!(matches!(rectangle.gcn_normalize(true), Err(Error::Shape(_))));
        let block = graph(true).sample(&[1, 2], &[None], 0).unwrap().remove(0);
        let mut degrees = block.degrees().unwrap();
        degrees.as_mut().unwrap()[0].sums.pop();
        let (sources, edges) = (block.source_nodes().to_vec(), block.edge_ids());
        let put = Block::from_parts(block.graph().clone(), sources, edges, 22, degrees);
        assert!(matches!(put, Err(Error::Shape(_))));
        assert!(graph(true).subgraph(&[1, 2]).unwrap().degrees().unwrap().is_none());
    }
}
