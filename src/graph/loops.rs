//! One self loop per node in place of those that were there, as attention layers want it.

#![forbid(unsafe_code)]

use super::{Graph, build};
use crate::error::Result;
use crate::memory;

/// Where the edges of a graph come from whose self loops were replaced.
#[derive(Debug)]
pub struct LoopedEdges {
    /// The edges that were kept, by their positions among the edges as given, in row order.
    pub kept: Vec<u32>,
    /// Per kept edge, its row.
    pub targets: Vec<u32>,
    /// Per edge of the new graph in row order, its position among the kept edges followed by the loops by node.
    pub order: Vec<u32>,
}

impl Graph {
    /// The graph without the edges from a node to itself, and with one such edge per node; without weights. In a
    /// rectangular graph node `i` is also the source `i`, as in sampled blocks. Computed once.
    ///
    /// As `remove_self_loops` followed by `add_self_loops` of `torch_geometric.utils`.
    pub fn replace_self_loops(&self) -> Result<&Self> {
        if let Some(looped) = self.0.looped.get() {
            return Ok(looped);
        }
        self.require_targets_among_sources("self loops")?;
        let (nodes, sources) = (self.num_nodes(), self.num_sources());
        let mut indptr = memory::with_capacity(nodes + 1);
        let mut indices = memory::with_capacity(self.num_edges() + nodes);
        indptr.push(0);
        for node in 0..nodes {
            let (own, neighbors) = (node as u32, self.neighbors(node));
            let before = neighbors.iter().position(|&other| other > own).unwrap_or(neighbors.len());
            indices.extend(neighbors[..before].iter().filter(|&&other| !self.is_loop(own, other)));
            indices.push(own);
            indices.extend(neighbors[before..].iter().filter(|&&other| !self.is_loop(own, other)));
            indptr.push(indices.len());
        }
        build::check_counts(nodes, sources, indices.len())?;
        let rows = build::Rows { indptr, indices, order: None };
        let looped = Self::assemble(rows, sources, None, self.0.node_ids.clone());
        Ok(self.0.looped.get_or_init(|| looped))
    }

    /// Where the edges of [`replace_self_loops`](Self::replace_self_loops) come from: for what goes with edges.
    pub fn looped_edges(&self) -> Result<LoopedEdges> {
        let looped = self.replace_self_loops()?;
        let (mut kept, mut targets) = (Vec::new(), Vec::new());
        for (edge, (row, &source)) in self.targets().into_iter().zip(self.indices()).enumerate() {
            if !self.is_loop(row, source) {
                memory::push(&mut kept, self.edge_order().map_or(edge as u32, |order| order[edge]));
                memory::push(&mut targets, row);
            }
        }
        let mut others = 0..kept.len() as u32;
        let from = |(row, &source): (u32, &u32)| {
            let loops = kept.len() as u32 + row;
            if row == source { loops } else { others.next().unwrap_or(loops) }
        };
        let order = memory::collect(looped.targets().into_iter().zip(looped.indices()).map(from));
        Ok(LoopedEdges { kept, targets, order })
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
        assert_eq!(looped.indices(), [0, 1, 2, 2, 1, 0, 2]);
        assert_eq!(looped.degrees(), [4, 1, 2]);
        assert!(looped.weights().is_none());
        let edges = graph.looped_edges().unwrap();
        for (edge, &at) in edges.order.iter().enumerate() {
            let (row, from) = (looped.targets()[edge], looped.indices()[edge]);
            match edges.kept.get(at as usize) {
                Some(&given) => {
                    assert_eq!((targets[given as usize], sources[given as usize]), (row, from));
                    assert_eq!(edges.targets[at as usize], row);
                }
                None => assert_eq!((at as usize - edges.kept.len(), row), (row as usize, from)),
            }
        }
    }

    #[test]
    fn a_block_loops_from_its_own_sources_and_an_empty_graph_has_none() {
        let block = Graph::from_edges(&[0, 1], &[2, 1], 2, 3, None).unwrap();
        assert_eq!(block.replace_self_loops().unwrap().indices(), [0, 2, 1]);
        let empty = Graph::from_edges(&[], &[], 0, 0, None).unwrap();
        assert_eq!(empty.replace_self_loops().unwrap().num_edges(), 0);
        assert!(Graph::from_edges(&[], &[], 3, 2, None).unwrap().replace_self_loops().is_err());
    }
}
