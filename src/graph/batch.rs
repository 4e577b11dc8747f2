//! Many graphs as one, side by side: the block-diagonal graph of a batch.

#![forbid(unsafe_code)]

use super::{Graph, build};
use crate::error::{Error, Result};
use crate::memory;

impl Graph {
    /// The graphs side by side, no edge between them, and for each node the number of its graph. Nodes and edges as
    /// given keep their order, graph after graph; an unweighted graph beside a weighted one counts with weights 1.
    ///
    /// ```
    /// use ruvector_gnn::graph::Graph;
    /// let pair = Graph::from_edges(&[0, 1], &[1, 0], 2, 2, None)?;
    /// let (graph, batch) = Graph::batch(&[pair.clone(), pair])?;
    /// assert_eq!((graph.indices(), &batch[..]), (&[1, 0, 3, 2][..], &[0, 0, 1, 1][..]));
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn batch(graphs: &[Self]) -> Result<(Self, Vec<u32>)> {
        if graphs.is_empty() {
            return Err(Error::Shape("batch: at least one graph is needed, got none".into()));
        }
        graphs.iter().try_for_each(|graph| graph.require_square("batch"))?;
        let (nodes, edges) =
            graphs.iter().fold((0, 0), |(n, e), graph| (n + graph.num_nodes(), e + graph.num_edges()));
        build::check_counts(nodes, nodes, edges)?;
        let mut indptr = memory::with_capacity(nodes + 1);
        let (mut indices, mut order) = (memory::with_capacity(edges), memory::with_capacity(edges));
        let (mut weights, mut batch) = (memory::with_capacity(edges), memory::with_capacity(nodes));
        indptr.push(0);
        for (number, graph) in graphs.iter().enumerate() {
            let (node, edge) = (batch.len() as u32, indices.len());
            indptr.extend(graph.indptr()[1..].iter().map(|&end| edge + end));
            indices.extend(graph.indices().iter().map(|&source| node + source));
            let given = |at: usize| graph.edge_order().map_or(at, |order| order[at] as usize);
            order.extend((0..graph.num_edges()).map(|at| (edge + given(at)) as u32));
            weights
                .extend((0..graph.num_edges()).map(|at| graph.weights().map_or(1.0, |weights| weights[at])));
            batch.resize(batch.len() + graph.num_nodes(), number as u32);
        }
        let ordered = graphs.iter().all(|graph| graph.edge_order().is_none());
        let rows = build::Rows { indptr, indices, order: Some(order).filter(|_| !ordered) };
        let weighted = graphs.iter().any(|graph| graph.weights().is_some());
        Ok((Self::assemble(rows, nodes, Some(weights).filter(|_| weighted), None), batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_stand_side_by_side() {
        let first = Graph::from_edges(&[1, 0, 0], &[0, 1, 0], 2, 2, None).unwrap();
        let empty = Graph::from_edges(&[], &[], 1, 1, None).unwrap();
        let last = Graph::from_edges(&[0], &[2], 3, 3, Some(&[5.0])).unwrap();
        let (graph, batch) = Graph::batch(&[first, empty, last]).unwrap();
        assert_eq!(batch, [0, 0, 1, 2, 2, 2]);
        assert_eq!((graph.indptr(), graph.indices()), (&[0, 2, 3, 3, 4, 4, 4][..], &[0, 1, 0, 5][..]));
        assert_eq!(graph.weights().unwrap(), [1.0, 1.0, 1.0, 5.0]);
        assert_eq!(graph.edge_order().unwrap(), [2, 1, 0, 3]);
    }

    #[test]
    fn no_graph_and_uneven_graphs_are_refused() {
        assert!(matches!(Graph::batch(&[]), Err(Error::Shape(_))));
        assert!(Graph::batch(&[Graph::from_edges(&[0], &[2], 1, 3, None).unwrap()]).is_err());
    }
}
