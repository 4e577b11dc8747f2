//! Self loops and the symmetric normalization of graph convolutions.

#![forbid(unsafe_code)]

use super::{Graph, build};
use crate::error::{Error, Result};
use crate::memory;

impl Graph {
    /// Adds an edge of weight 1 from each node to itself where there is none. The new graph's edge order counts
    /// the edges of this one in row order, then the added ones by node. In a rectangular graph node `i` is also the
    /// source `i`, as in blocks.
    pub fn add_self_loops(&self) -> Result<Self> {
        self.require_targets_among_sources("add_self_loops")?;
        let lonely =
            |&node: &u32| !self.neighbors(node as usize).iter().any(|&other| self.is_loop(node, other));
        let missing = memory::collect((0..self.num_nodes() as u32).filter(lonely));
        let extended = |values: &[u32]| memory::collect(values.iter().chain(&missing).copied());
        let (targets, sources) = (extended(&self.targets()), extended(self.indices()));
        let ones = missing.iter().map(|_| 1.0);
        let weights = self.weights().map(|weights| memory::collect(weights.iter().copied().chain(ones)));
        let graph =
            Self::from_edges(&targets, &sources, self.num_nodes(), self.num_sources(), weights.as_deref())?;
        Ok(self.named(graph))
    }

    /// Weights `w_ij / sqrt(d_i d_j)` with `d_i = sum_j w_ij`, after each node got one loop to itself when
    /// `self_loops`: the one it has (the last given, if it has several), else one of weight 1. Computed once.
    ///
    /// A sampled [`Block`](super::Block) takes degrees and loops from the graph that it was drawn from. Where only some
    /// of a node's edges were drawn, each stands for as many as make up all: sums over neighbours are those of the
    /// whole graph in the mean over seeds, and equal to them with all neighbours.
    ///
    /// Kipf & Welling (2017); self loops as `torch_geometric.utils.add_remaining_self_loops`.
    pub fn gcn_normalize(&self, self_loops: bool) -> Result<Self> {
        let cache = &self.0.normalized[usize::from(self_loops)];
        if let Some(graph) = cache.get() {
            return Ok(graph.clone());
        }
        let degrees = self.degrees_with(self_loops)?;
        let factors = inverse_roots(&degrees.sums)?;
        let own = |row: usize| (f64::from(degrees.loops[row]) * factors[row] * factors[row]) as f32;
        let scaled = |row: usize, edge: usize| {
            let factor =
                factors[row] * factors[self.indices()[edge] as usize] * f64::from(degrees.shares[row]);
            (self.weights().map_or(1.0, |weights| f64::from(weights[edge])) * factor) as f32
        };
        let graph = if self_loops {
            self.with_loops(own, scaled)?
        } else {
            let rows = (0..self.num_nodes()).flat_map(|row| self.edges(row).map(move |edge| (row, edge)));
            self.with_weights(Some(memory::collect(rows.map(|(row, edge)| scaled(row, edge)))))?
        };
        Ok(cache.get_or_init(|| graph).clone())
    }

    /// Weights divided by their row's sum, so that each row sums to 1; uniform where the sum is not positive.
    /// Computed once.
    pub fn row_normalize(&self) -> Result<Self> {
        let cache = &self.0.normalized[2];
        if let Some(graph) = cache.get() {
            return Ok(graph.clone());
        }
        let mut weights = self.weights().map_or_else(|| memory::vec![1.0; self.num_edges()], memory::copy_of);
        for node in 0..self.num_nodes() {
            let row = &mut weights[self.edges(node)];
            let (sum, count) = (row.iter().map(|&weight| f64::from(weight)).sum::<f64>(), row.len() as f32);
            let share = |weight: f32| if sum > 0.0 { (f64::from(weight) / sum) as f32 } else { 1.0 / count };
            row.iter_mut().for_each(|weight| *weight = share(*weight));
        }
        let graph = self.with_weights(Some(weights))?;
        Ok(cache.get_or_init(|| graph).clone())
    }

    /// Rows with one loop each, of weight `own(row)`, beside the other edges, of weight `other(row, edge)`.
    fn with_loops(&self, own: impl Fn(usize) -> f32, other: impl Fn(usize, usize) -> f32) -> Result<Self> {
        let (nodes, most) = (self.num_nodes(), self.num_edges() + self.num_nodes());
        let mut rows = build::Rows {
            indptr: memory::with_capacity(nodes + 1),
            indices: memory::with_capacity(most),
            order: None,
        };
        let mut weights = memory::with_capacity(most);
        rows.indptr.push(0);
        for row in 0..nodes {
            let node = row as u32;
            let mut missing = true;
            for edge in self.edges(row) {
                let source = self.indices()[edge];
                if self.is_loop(node, source) {
                    continue;
                }
                if missing && source > node {
                    rows.indices.push(node);
                    weights.push(own(row));
                    missing = false;
                }
                rows.indices.push(source);
                weights.push(other(row, edge));
            }
            if missing {
                rows.indices.push(node);
                weights.push(own(row));
            }
            rows.indptr.push(rows.indices.len());
        }
        build::check_counts(nodes, self.num_sources(), rows.indices.len())?;
        Ok(Self::assemble(rows, self.num_sources(), Some(weights), self.0.node_ids.clone()))
    }

    pub(super) fn named(&self, graph: Self) -> Self {
        match &self.0.node_ids {
            Some(ids) => graph.changed(|inner| inner.node_ids = Some(ids.clone())),
            None => graph,
        }
    }
}

/// `1 / sqrt(d)` of each degree, 0 where it is 0.
fn inverse_roots(degrees: &[f64]) -> Result<Vec<f64>> {
    if let Some(node) = degrees.iter().position(|&degree| degree < 0.0) {
        let sum = degrees[node];
        return Err(Error::Config(format!("gcn_normalize: node {node} has a negative weight sum, {sum}")));
    }
    Ok(memory::collect(degrees.iter().map(|&degree| if degree > 0.0 { degree.sqrt().recip() } else { 0.0 })))
}
