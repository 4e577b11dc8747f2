//! The terms that edges' scores are sums of, and what is made of them.

#![forbid(unsafe_code)]

use crate::autograd::ops::edge_attention::BAND;
use crate::autograd::{Tensor, Values};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::loops::{self, EdgeTerms};
use crate::memory;
use crate::real::{Real, larger};
use crate::simd::{Factors, Rows};
use crate::threads;
use std::ops::Range;

/// How far a head's terms of sources may lie apart for factors: a node's largest is then at least `e^-40`, so that
/// products of weights and values stay above the smallest number.
pub(super) const SPREAD: f64 = 40.0;

/// The factors of all terms, two of every head in each row.
pub(super) struct TermFactors<T: Real> {
    /// Of the sources.
    sources: Buffer<T>,
    /// Of the nodes that attend.
    targets: Buffer<T>,
    slope: T,
}

impl<T: Real> TermFactors<T> {
    /// `terms` holds two per head and source, of which the first `attending` are nodes that attend; none if those of
    /// sources lie too far apart.
    fn of(terms: &[T], heads: usize, attending: usize, slope: T) -> Option<Self> {
        const ROWS: usize = 2048;
        let width = 2 * heads;
        let extents = threads::map(terms.len().div_ceil(ROWS * width), |chunk| {
            let mut extent = memory::vec![T::ZERO; width];
            let end = terms.len().min((chunk + 1) * ROWS * width);
            loops::extent(&terms[chunk * ROWS * width..end], &mut extent);
            extent
        });
        let most = |at: usize, sign: T| extents.iter().map(|extent| sign * extent[at]).reduce(larger);
        let mut bound = memory::with_capacity(heads);
        for head in 0..heads {
            let (largest, negated_least) = (most(head, T::ONE)?, most(heads + head, -T::ONE)?);
            let within = largest + negated_least <= T::of(SPREAD);
            within.then(|| bound.push(largest))?;
        }
        let made = |rows: usize, make: fn(&[T], &[T], T, &mut [T])| {
            let mut factors = Buffer::stale(rows * width);
            threads::for_each_chunk(&mut factors, ROWS * width, |chunk, out| {
                make(&terms[chunk * ROWS * width..][..out.len()], &bound, slope, out);
            });
            factors
        };
        let sources = made(terms.len() / width, loops::source_factors);
        Some(Self { sources, targets: made(attending, loops::target_factors), slope })
    }

    /// Of a source.
    pub(super) fn source(&self, source: usize, heads: usize) -> &[T] {
        &self.sources[source * 2 * heads..][..2 * heads]
    }

    /// Of the edges that enter a node.
    pub(super) fn entering(&self, node: usize, heads: usize) -> Factors<'_, T> {
        let target = &self.targets[node * 2 * heads..][..2 * heads];
        Factors { sources: &self.sources, target, slope: self.slope }
    }
}

/// Where an edge's terms come from.
pub(super) struct Terms<T: Real> {
    /// Per node its term as a source, then its term as a target, `heads` values each.
    pub(super) nodes: Values<T>,
    /// Per edge in row order, `heads` values.
    pub(super) edges: Option<Values<T>>,
    pub(super) factors: Option<TermFactors<T>>,
    pub(super) graph: Graph,
    pub(super) heads: usize,
    pub(super) slope: T,
}

impl<T: Real> Terms<T> {
    pub(super) fn new(terms: &Tensor<T>, edge: Option<&Tensor<T>>, graph: &Graph, slope: T) -> Result<Self> {
        let heads = terms.shape().columns() / 2;
        let (nodes, sources) = (graph.num_nodes(), graph.num_sources());
        if heads == 0 || *terms.dims() != [sources, 2 * heads] || nodes > sources {
            return Err(Error::Shape(format!(
                "attention: terms of shape {} over {nodes} nodes and {sources} sources",
                terms.shape()
            )));
        }
        if let Some(edge) = edge.filter(|edge| *edge.dims() != [graph.num_edges(), heads]) {
            let expected = format!("expected ({}, {heads})", graph.num_edges());
            return Err(Error::Shape(format!("attention: edge terms of shape {}, {expected}", edge.shape())));
        }
        let (nodes, edges) = (terms.values(), edge.map(Tensor::values));
        let factored = edges.is_none() && slope >= T::ZERO && slope <= T::ONE;
        let factors = if factored { TermFactors::of(&nodes, heads, graph.num_nodes(), slope) } else { None };
        Ok(Self { nodes, edges, factors, graph: graph.clone(), heads, slope })
    }

    /// The terms of a node's edges.
    pub(super) fn of(&self, row: usize, edges: Range<usize>) -> EdgeTerms<'_, T> {
        EdgeTerms {
            source: &self.nodes,
            stride: 2 * self.heads,
            target: self.target(row),
            own: self.edges.as_ref().map(|values| &values[edges.start * self.heads..edges.end * self.heads]),
            rows: Rows::of(self.graph.indices(), edges),
            slope: self.slope,
        }
    }

    /// The attention weights of a node's edges.
    pub(super) fn weights(&self, row: usize, edges: Range<usize>, alpha: &mut [T]) {
        if edges.len() == 1 {
            alpha.fill(T::ONE);
            return;
        }
        let terms = self.of(row, edges);
        match &self.factors {
            None => {
                loops::leaky(terms, alpha);
                loops::softmax(alpha, self.heads);
            }
            Some(factors) => {
                let mut scale = memory::vec![T::ZERO; self.heads];
                loops::factored_weights(terms.rows, factors.entering(row, self.heads), alpha, &mut scale);
            }
        }
    }

    /// The node's term as a target.
    pub(super) fn target(&self, row: usize) -> &[T] {
        &self.nodes[(2 * row + 1) * self.heads..][..self.heads]
    }

    /// The gradient of the nodes' terms from those of each edge's sum, in row order.
    pub(super) fn sum_by_node(&self, d: &[T]) -> Buffer<T> {
        let (heads, back) = (self.heads, self.graph.transposed());
        let mut out = Buffer::zeros(self.nodes.len());
        threads::for_each_chunk(&mut out, BAND * 2 * heads, |band, out| {
            for (row, out) in out.chunks_exact_mut(2 * heads).enumerate() {
                let (node, (leaving, entering)) = (band * BAND + row, out.split_at_mut(heads));
                T::gather_sum(d, Rows::of(&back.order, back.graph.edges(node)), leaving);
                if node < self.graph.num_nodes() {
                    let edges = self.graph.edges(node);
                    for d in d[edges.start * heads..edges.end * heads].chunks_exact(heads) {
                        entering.iter_mut().zip(d).for_each(|(sum, &d)| *sum += d);
                    }
                }
            }
        });
        out
    }
}
