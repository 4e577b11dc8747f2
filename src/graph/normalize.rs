//! Self loops and the symmetric normalization of graph convolutions.

#![forbid(unsafe_code)]

use super::{Graph, build};
use crate::error::{Error, Result};
use crate::memory;

impl Graph {
    /// Adds an edge of weight 1 from each node to itself where there is none. The new graph's edge order counts
    /// the edges of this one in row order, then the added ones by node.
    pub fn add_self_loops(&self) -> Result<Self> {
        self.require_square("add_self_loops")?;
        let lonely = |&node: &u32| !self.neighbors(node as usize).contains(&node);
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
    /// Kipf & Welling (2017); self loops as `torch_geometric.utils.add_remaining_self_loops`.
    pub fn gcn_normalize(&self, self_loops: bool) -> Result<Self> {
        let cache = &self.0.normalized[usize::from(self_loops)];
        if let Some(graph) = cache.get() {
            return Ok(graph.clone());
        }
        self.require_square("gcn_normalize")?;
        let graph = if self_loops { self.single_self_loops()? } else { self.clone() };
        let graph = self.named(graph.scaled()?);
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
            let (sum, count) = (row.iter().sum::<f32>(), row.len() as f32);
            row.iter_mut().for_each(|weight| *weight = if sum > 0.0 { *weight / sum } else { 1.0 / count });
        }
        let graph = self.with_weights(Some(weights))?;
        Ok(cache.get_or_init(|| graph).clone())
    }

    pub(super) fn named(&self, graph: Self) -> Self {
        match &self.0.node_ids {
            Some(ids) => graph.changed(|inner| inner.node_ids = Some(ids.clone())),
            None => graph,
        }
    }

    /// Exactly one loop per node.
    fn single_self_loops(&self) -> Result<Self> {
        let nodes = self.num_nodes();
        let mut loops = memory::vec![1.0f32; nodes];
        let most = self.num_edges() + nodes;
        let (mut targets, mut sources) = (memory::with_capacity(most), memory::with_capacity(most));
        let mut weights = memory::with_capacity(most);
        for (edge, (&target, &source)) in self.targets().iter().zip(self.indices()).enumerate() {
            let weight = self.weights().map_or(1.0, |weights| weights[edge]);
            if target == source {
                loops[target as usize] = weight;
            } else {
                targets.push(target);
                sources.push(source);
                weights.push(weight);
            }
        }
        targets.extend(0..nodes as u32);
        sources.extend(0..nodes as u32);
        weights.extend(loops);
        Self::from_edges(&targets, &sources, nodes, nodes, Some(&weights))
    }

    fn scaled(&self) -> Result<Self> {
        let edges = self.num_edges();
        let mut weights = self.weights().map_or_else(|| memory::vec![1.0; edges], memory::copy_of);
        let mut factors = memory::with_capacity(self.num_nodes());
        for node in 0..self.num_nodes() {
            let degree: f64 = weights[self.edges(node)].iter().map(|&weight| f64::from(weight)).sum();
            if degree < 0.0 {
                let message = format!("gcn_normalize: node {node} has a negative weight sum, {degree}");
                return Err(Error::Config(message));
            }
            factors.push(if degree > 0.0 { degree.sqrt().recip() } else { 0.0 });
        }
        for (edge, row) in build::row_numbers(self.indptr()).into_iter().enumerate() {
            let factor = factors[row as usize] * factors[self.indices()[edge] as usize];
            weights[edge] = (f64::from(weights[edge]) * factor) as f32;
        }
        self.with_weights(Some(weights))
    }
}
