//! Features of all nodes in an array that a mini-batch reads only the rows it needs of: in memory, or a mapped file.
//!
//! The first layer of a mini-batch needs far more source rows than it has targets. Summing them straight from the table
//! saves the copy of the sources, most of a batch's memory traffic; each sum is written beside the node's own row, so that
//! both maps are one product, as in the paper: `W [agg_j x_j | x_i] + b`.

#![forbid(unsafe_code)]

use super::SageLayer;
use crate::autograd::{Reduce, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Block;
use crate::memory;
use crate::real::Real;
use crate::simd::Rows;
use crate::threads;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows per task.
const BAND: usize = 64;

/// A row of features per node.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a, T> {
    values: &'a [T],
    rows: usize,
    columns: usize,
}

impl<'a, T: Real> Table<'a, T> {
    /// Over `rows * columns` values, row by row; they are not looked at.
    pub fn new(values: &'a [T], rows: usize, columns: usize) -> Result<Self> {
        if rows.checked_mul(columns) != Some(values.len()) {
            return Err(Error::Shape(format!("x: {} values for shape ({rows}, {columns})", values.len())));
        }
        Ok(Self { values, rows, columns })
    }

    /// The rows of `nodes`, in that order; what they hold must be finite.
    ///
    /// ```
    /// use ruvector_gnn::nn::Table;
    /// let table = Table::new(&[1.0f32, 2.0, 3.0, 4.0, f32::NAN, 6.0], 3, 2)?;
    /// assert_eq!(table.gather(&[1, 0])?.to_vec(), [3.0, 4.0, 1.0, 2.0]);
    /// assert!(table.gather(&[2]).is_err());
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn gather(&self, nodes: &[u32]) -> Result<Tensor<T>> {
        if let Some(&node) = nodes.iter().find(|&&node| node as usize >= self.rows) {
            return Err(Error::Row(format!("x: row {node} of {}", self.rows)));
        }
        self.computed((nodes.len(), self.columns), nodes, |first, out| {
            for (out, &node) in out.chunks_exact_mut(self.columns).zip(&nodes[first..]) {
                out.copy_from_slice(self.row(node));
            }
        })
    }

    /// `[sum_j x_j | x_i]`, or with the mean, for the targets of a block, whose graph's table this must be: `(num_nodes, 2 d)`.
    fn neighbors_and_own(&self, block: &Block, mean: bool) -> Result<Tensor<T>> {
        let (graph, sources) = (block.graph(), block.source_nodes());
        self.computed((graph.num_nodes(), 2 * self.columns), sources, |first, out| {
            let rows = first..first + out.len() / (2 * self.columns).max(1);
            let start = graph.indptr()[rows.start];
            let neighbors = &graph.indices()[start..graph.indptr()[rows.end]];
            let nodes: Vec<u32> =
                memory::collect(neighbors.iter().map(|&neighbor| sources[neighbor as usize]));
            for (row, out) in rows.zip(out.chunks_exact_mut(2 * self.columns)) {
                let (sum, own) = out.split_at_mut(self.columns);
                own.copy_from_slice(self.row(sources[row]));
                let edges = graph.edges(row);
                let (edges, degree) = (edges.start - start..edges.end - start, edges.len());
                T::gather_sum(self.values, Rows::of(&nodes, edges), sum);
                if mean && degree > 1 {
                    let scale = T::ONE / T::of(degree as f64);
                    sum.iter_mut().for_each(|value| *value *= scale);
                }
            }
        })
    }

    /// A matrix whose rows `fill(first, rows)` computes from those of `nodes`, band by band.
    fn computed(
        &self,
        (rows, columns): (usize, usize),
        nodes: &[u32],
        fill: impl Fn(usize, &mut [T]) + Sync,
    ) -> Result<Tensor<T>> {
        let mut out = Buffer::stale(rows * columns);
        let suspect = AtomicBool::new(false);
        threads::for_each_chunk(&mut out, BAND * columns.max(1), |band, out| {
            fill(band * BAND, out);
            if !T::dot(out, out).is_finite() {
                suspect.store(true, Ordering::Relaxed);
            }
        });
        // Squares and sums of finite values may be infinite too, which is no fault of the table's.
        if suspect.into_inner() {
            self.require_finite(nodes)?;
        }
        Tensor::new(out, &[rows, columns])
    }

    fn row(&self, node: u32) -> &'a [T] {
        &self.values[node as usize * self.columns..][..self.columns]
    }

    fn require_finite(&self, nodes: &[u32]) -> Result<()> {
        for &node in nodes {
            if let Some(at) = self.row(node).iter().position(|value| !value.is_finite()) {
                let value = self.row(node)[at];
                return Err(Error::Shape(format!(
                    "x must be finite: row {node} holds {value} in column {at}"
                )));
            }
        }
        Ok(())
    }
}

impl<T: Real> SageLayer<T> {
    /// As [`forward`](Self::forward) over a block, with the features of all nodes of the graph that it is a part of.
    pub fn forward_table(&self, table: &Table<'_, T>, block: &Block) -> Result<Tensor<T>> {
        if table.rows != block.num_graph_nodes() {
            let (rows, nodes) = (table.rows, block.num_graph_nodes());
            return Err(Error::Shape(format!("SAGELayer: x has {rows} rows for a graph of {nodes} nodes")));
        }
        let (_, ins) = self.lin_l.weight.shape().matrix("SAGELayer", "lin_l.weight")?;
        if table.columns != ins {
            return Err(Error::Shape(format!("SAGELayer: x has {} columns, expected {ins}", table.columns)));
        }
        if self.lstm.is_some() || !self.reduce.is_linear() {
            return self.forward(&table.gather(block.source_nodes())?, block.graph());
        }
        let both = table.neighbors_and_own(block, self.reduce == Reduce::Mean)?;
        let weight = Tensor::concat(&[self.lin_l.weight.clone(), self.lin_r.weight.clone()], 1)?;
        let out = both.linear(&weight, self.lin_l.bias.as_ref())?;
        if self.normalize { out.normalize() } else { Ok(out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::rng::stream;

    #[test]
    fn a_table_gives_what_its_gathered_rows_give() {
        let mut draws = stream(0, "table-test", 0);
        let mut node = || draws.below(50) as u32;
        let (targets, sources): (Vec<u32>, Vec<u32>) = (0..400).map(|_| (node(), node())).unzip();
        let graph = Graph::from_edges(&targets, &sources, 50, 50, None).unwrap();
        let mut x: Vec<f64> = (0..50 * 3).map(|_| draws.normal()).collect();
        let block = graph.sample(&[3, 9, 3, 49], &[Some(4)], 1).unwrap().remove(0);
        let layer = SageLayer::new(3, 2, true, 0).unwrap();
        let table = Table::new(&x, 50, 3).unwrap();
        let rows = table.gather(block.source_nodes()).unwrap();
        let expected = layer.forward(&rows, block.graph()).unwrap().to_vec();
        let rows = layer.forward_table(&table, &block).unwrap().to_vec();
        assert!(rows.iter().zip(expected).all(|(row, expected)| (row - expected).abs() < 1e-12));
        assert!(matches!(
            layer.forward_table(&Table::new(&x[3..], 49, 3).unwrap(), &block),
            Err(Error::Shape(_))
        ));
        let unread = (0..50).find(|node| !block.source_nodes().contains(node)).unwrap();
        x[unread as usize * 3] = f64::NAN;
        assert!(
            layer.forward_table(&Table::new(&x, 50, 3).unwrap(), &block).is_ok(),
            "not a row of the batch"
        );
        x[block.source_nodes()[5] as usize * 3 + 1] = f64::INFINITY;
        let refused = layer.forward_table(&Table::new(&x, 50, 3).unwrap(), &block);
        assert!(matches!(refused, Err(Error::Shape(message)) if message.contains("column 1")));
    }
}
