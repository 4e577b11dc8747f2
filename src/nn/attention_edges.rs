//! What graph attention layers do with edges: self loops, features in the order of the edges as given, and heads.

#![forbid(unsafe_code)]

use super::HeadGates;
use crate::autograd::{Reduce, Tensor, segment_reduce};
use crate::error::{Error, Result};
use crate::graph::{Graph, LoopedEdges};
use crate::real::Real;

/// The edges that a layer attends over.
pub(super) struct AttentionEdges {
    /// Of the edges in row order.
    pub(super) graph: Graph,
    given: Graph,
    loops: bool,
}

impl AttentionEdges {
    pub(super) fn of(graph: &Graph, loops: bool) -> Result<Self> {
        let attended = if loops { graph.replace_self_loops()?.clone() } else { graph.clone() };
        Ok(Self { graph: attended, given: graph.clone(), loops })
    }

    /// The features, if the layer takes any and they fit the edges as given.
    pub(super) fn features<'a, T: Real>(
        &self,
        layer: &str,
        edge_attr: Option<&'a Tensor<T>>,
        taken: bool,
    ) -> Result<Option<&'a Tensor<T>>> {
        match (edge_attr, taken) {
            (None, false) => Ok(None),
            (Some(_), false) => {
                Err(Error::Config(format!("{layer}: edge_attr given, but the layer has no edge_dim")))
            }
            (None, true) => {
                Err(Error::Config(format!("{layer}: the layer has edge_dim, but edge_attr is missing")))
            }
            (Some(features), true) => {
                let edges = self.given.num_edges();
                if features.dims().len() != 2 || features.dims()[0] != edges {
                    let message = format!("edge_attr of shape {} for {edges} edges", features.shape());
                    return Err(Error::Shape(format!("{layer}: {message}")));
                }
                Ok(Some(features))
            }
        }
    }

    /// Rows per edge as given, in the order of the attended edges; a loop gets the mean of its node's others.
    pub(super) fn arrange<T: Real>(&self, rows: &Tensor<T>) -> Result<Tensor<T>> {
        if !self.loops {
            return match self.given.edge_order() {
                Some(order) => rows.index_select(order),
                None => Ok(rows.clone()),
            };
        }
        let LoopedEdges { kept, targets, order } = self.given.looped_edges()?;
        let kept = rows.index_select(&kept)?;
        let means = segment_reduce(&kept, &targets, self.given.num_nodes(), Reduce::Mean)?;
        Tensor::concat(&[kept, means], 0)?.index_select(&order)
    }
}

/// Heads side by side, or their mean, times their gates, plus the bias.
pub(super) fn join_heads<T: Real>(
    out: Tensor<T>,
    heads: usize,
    concat: bool,
    gates: Option<&HeadGates<T>>,
    bias: Option<&Tensor<T>>,
) -> Result<Tensor<T>> {
    let out = if let Some(gates) = gates {
        gates.join(&out, concat)?
    } else if concat || heads == 1 {
        out
    } else {
        let (rows, columns) = (out.dims()[0], out.dims()[1] / heads);
        out.reshape(&[rows, heads, columns])?.mean_axis(1, false)?
    };
    bias.map_or(Ok(out.clone()), |bias| out.add(bias))
}
