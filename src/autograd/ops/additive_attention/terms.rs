//! The terms that edges' scores are sums of, and what is made of them.

#![forbid(unsafe_code)]

use crate::autograd::ops::edge_attention::BAND;
use crate::autograd::{Tensor, Values};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::loops::{self, EdgeTerms};
use crate::real::{Real, larger};
use crate::simd::{Factors, Rows};
use crate::threads;
use std::ops::Range;

/// How far a head's terms of sources may lie apart for factors: a node's largest is then at least `e^-40`, so that
/// products of weights and values stay above the smallest number.
pub(super) const SPREAD: f64 = 40.0;

/// Numbers that fit on the stack for each of the usual numbers of heads.
const FEW: usize = 48;

/// The factors of all sources' terms.
pub(super) struct SourceFactors<T: Real> {
    /// The largest term of each head.
    bound: Vec<T>,
    /// Per source, two of every head.
    pub(super) values: Buffer<T>,
}

impl<T: Real> SourceFactors<T> {
    /// `nodes` holds two terms per head and source, of which the first count; none if they lie too far apart.
    pub(super) fn of(nodes: &[T], heads: usize, slope: T) -> Option<Self> {
        const ROWS: usize = 2048;
        let width = 2 * heads;
        let extents = threads::map(nodes.len().div_ceil(ROWS * width), |chunk| {
            let mut extent = vec![T::ZERO; width];
            let end = nodes.len().min((chunk + 1) * ROWS * width);
            loops::extent(&nodes[chunk * ROWS * width..end], &mut extent);
            extent
        });
        let most = |at: usize, sign: T| extents.iter().map(|extent| sign * extent[at]).reduce(larger);
        let mut bound = Vec::with_capacity(heads);
        for head in 0..heads {
            let (largest, negated_least) = (most(head, T::ONE)?, most(heads + head, -T::ONE)?);
            let within = largest + negated_least <= T::of(SPREAD);
            within.then(|| bound.push(largest))?;
        }
        let mut values = Buffer::stale(nodes.len());
        threads::for_each_chunk(&mut values, BAND * width, |band, out| {
            for (out, terms) in
                out.chunks_exact_mut(width).zip(nodes[band * BAND * width..].chunks_exact(width))
            {
                loops::source_factors(&terms[..heads], &bound, slope, out);
            }
        });
        Some(Self { bound, values })
    }
}

/// Where an edge's terms come from.
pub(super) struct Terms<T: Real> {
    /// Per node its term as a source, then its term as a target, `heads` values each.
    pub(super) nodes: Values<T>,
    /// Per edge in row order, `heads` values.
    pub(super) edges: Option<Values<T>>,
    pub(super) factors: Option<SourceFactors<T>>,
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
        let factors = if factored { SourceFactors::of(&nodes, heads, slope) } else { None };
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
        let terms = self.of(row, edges);
        match &self.factors {
            None => {
                loops::leaky(terms, alpha);
                loops::softmax(alpha, self.heads);
            }
            Some(sources) => self.with_target(sources, row, |factors, scale| {
                loops::factored_weights(terms.rows, factors, alpha, scale);
            }),
        }
    }

    /// Runs `task` with the factors of a node's edges, and room for a number per head.
    pub(super) fn with_target(
        &self,
        sources: &SourceFactors<T>,
        row: usize,
        task: impl FnOnce(Factors<'_, T>, &mut [T]),
    ) {
        let (mut few, mut many) = ([T::ZERO; FEW], Vec::new());
        let room = if 3 * self.heads <= FEW {
            &mut few[..3 * self.heads]
        } else {
            many.resize(3 * self.heads, T::ZERO);
            &mut many[..]
        };
        let (target, scale) = room.split_at_mut(2 * self.heads);
        loops::target_factors(self.target(row), &sources.bound, self.slope, target);
        task(Factors { sources: &sources.values, target, slope: self.slope }, scale);
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
