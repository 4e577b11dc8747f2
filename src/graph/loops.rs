//! One self loop per node in place of those that were there, as attention layers want it.

#![forbid(unsafe_code)]

use super::Graph;
use crate::error::{Error, Result};

/// A graph whose self loops were replaced, and where its edges come from.
#[derive(Debug)]
pub struct Looped {
    /// Without weights; every node `i` aggregates from the source `i` once.
    pub graph: Graph,
    /// The edges that were kept, by their positions among the edges as given, in row order.
    pub kept: Vec<u32>,
    /// Per kept edge, its row.
    pub targets: Vec<u32>,
    /// Per edge of [`graph`](Self::graph) in row order, its position among the kept edges followed by the loops by node.
    pub order: Vec<u32>,
}

impl Graph {
    /// Drops all edges from a node to itself and adds one per node. In a rectangular graph node `i` is also the source
    /// `i`, as in sampled blocks. Computed once.
    ///
    /// As `remove_self_loops` followed by `add_self_loops` of `torch_geometric.utils`.
    pub fn replace_self_loops(&self) -> Result<&Looped> {
        if let Some(looped) = self.0.looped.get() {
            return Ok(looped);
        }
        let (nodes, sources) = (self.num_nodes(), self.num_sources());
        if nodes > sources {
            return Err(Error::Shape(format!(
                "self loops: each of the {nodes} nodes must be a source, but there are {sources} sources"
            )));
        }
        let rows = self.targets();
        let other = |edge: &u32| rows[*edge as usize] != self.indices()[*edge as usize];
        let kept: Vec<u32> = (0..self.num_edges() as u32).filter(other).collect();
        let targets: Vec<u32> = kept.iter().map(|&edge| rows[edge as usize]).collect();
        let of = |edges: &[u32], values: &[u32]| edges.iter().map(|&edge| values[edge as usize]).collect();
        let mut from: Vec<u32> = of(&kept, self.indices());
        let mut to = targets.clone();
        from.extend(0..nodes as u32);
        to.extend(0..nodes as u32);
        let graph = self.named(Self::from_edges(&to, &from, nodes, sources, None)?);
        let order = match graph.edge_order() {
            Some(order) => order.to_vec(),
            None => (0..graph.num_edges() as u32).collect(),
        };
        let kept = self.edge_order().map_or(kept.clone(), |order| of(&kept, order));
        Ok(self.0.looped.get_or_init(|| Looped { graph, kept, targets, order }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_knows_where_it_comes_from() {
        // As given: 0<-2, 1<-1, 0<-1, 2<-0, 0<-0, 0<-2.
        let (targets, sources) = ([0, 1, 0, 2, 0, 0], [2, 1, 1, 0, 0, 2]);
        let graph = Graph::from_edges(&targets, &sources, 3, 3, Some(&[1.0; 6])).unwrap();
        let looped = graph.replace_self_loops().unwrap();
        assert_eq!(looped.graph.indices(), [0, 1, 2, 2, 1, 0, 2]);
        assert_eq!(looped.graph.degrees(), [4, 1, 2]);
        assert!(looped.graph.weights().is_none());
        for (edge, &at) in looped.order.iter().enumerate() {
            let (row, from) = (looped.graph.targets()[edge], looped.graph.indices()[edge]);
            match looped.kept.get(at as usize) {
                Some(&given) => {
                    assert_eq!((targets[given as usize], sources[given as usize]), (row, from));
                    assert_eq!(looped.targets[at as usize], row);
                }
                None => assert_eq!((at as usize - looped.kept.len(), row), (row as usize, from)),
            }
        }
    }

    #[test]
    fn a_block_loops_from_its_own_sources_and_an_empty_graph_has_none() {
        let block = Graph::from_edges(&[0, 1], &[2, 1], 2, 3, None).unwrap();
        assert_eq!(block.replace_self_loops().unwrap().graph.indices(), [0, 2, 1]);
        let empty = Graph::from_edges(&[], &[], 0, 0, None).unwrap();
        assert_eq!(empty.replace_self_loops().unwrap().graph.num_edges(), 0);
        assert!(Graph::from_edges(&[], &[], 3, 2, None).unwrap().replace_self_loops().is_err());
    }
}
