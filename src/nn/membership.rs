//! Which graph of a batch each node belongs to, for layers in which a node sees all of its graph.

#![forbid(unsafe_code)]

use crate::autograd::{Segments, Tensor};
use crate::error::{Error, Result};
use crate::memory;
use crate::real::Real;
use std::ops::Range;

/// The nodes of each graph of a batch.
pub(super) struct Membership {
    /// Where graphs begin and the last ends, once nodes stand graph by graph.
    ends: Vec<usize>,
    /// Per place, the node that stands there, and per node its place; unless they stand graph by graph already.
    order: Option<(Vec<u32>, Vec<u32>)>,
}

impl Membership {
    /// Of `nodes` nodes, by the number of each one's graph; without, of one graph.
    pub(super) fn new(layer: &str, batch: Option<&[u32]>, nodes: usize) -> Result<Self> {
        let Some(batch) = batch else { return Ok(Self { ends: vec![0, nodes], order: None }) };
        if batch.len() != nodes {
            return Err(Error::Shape(format!("{layer}: {} batch numbers for {nodes} nodes", batch.len())));
        }
        // Graphs without nodes need no place: only which nodes are together matters.
        let mut order: Vec<u32> = memory::collect(0..nodes as u32);
        order.sort_unstable_by_key(|&node| (batch[node as usize], node));
        let starts = |&at: &usize| at == 0 || batch[order[at] as usize] != batch[order[at - 1] as usize];
        let mut ends: Vec<usize> = memory::collect((0..nodes).filter(starts));
        memory::push(&mut ends, nodes);
        if batch.is_sorted() {
            return Ok(Self { ends, order: None });
        }
        let mut places = memory::vec![0; nodes];
        order.iter().enumerate().for_each(|(place, &node)| places[node as usize] = place as u32);
        Ok(Self { ends, order: Some((order, places)) })
    }

    /// Number of graphs that have nodes.
    pub(super) fn graphs(&self) -> usize {
        self.ends.len() - 1
    }

    /// Per node, which of these graphs is its own.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let mut numbers = memory::vec![0; self.ends[self.graphs()]];
        for graph in 0..self.graphs() {
            for place in self.places(graph) {
                let node = self.order.as_ref().map_or(place, |(order, _)| order[place] as usize);
                numbers[node] = graph as u32;
            }
        }
        numbers
    }

    fn places(&self, graph: usize) -> Range<usize> {
        self.ends[graph]..self.ends[graph + 1]
    }

    /// Every node over all nodes of its graph.
    pub(super) fn within(&self) -> Result<Segments> {
        Segments::new(memory::copy_of(&self.ends), memory::copy_of(&self.ends))
    }

    /// `count` rows per graph over all nodes of the graph.
    pub(super) fn gathering(&self, count: usize) -> Result<Segments> {
        let rows = memory::collect((0..=self.graphs()).map(|graph| graph * count));
        Segments::new(rows, memory::copy_of(&self.ends))
    }

    /// Rows of nodes, graph by graph.
    pub(super) fn arrange<T: Real>(&self, rows: &Tensor<T>) -> Result<Tensor<T>> {
        self.order.as_ref().map_or(Ok(rows.clone()), |(order, _)| rows.index_select(order))
    }

    /// Rows graph by graph, in the order of the nodes again.
    pub(super) fn restore<T: Real>(&self, rows: &Tensor<T>) -> Result<Tensor<T>> {
        self.order.as_ref().map_or(Ok(rows.clone()), |(_, places)| rows.index_select(places))
    }
}
