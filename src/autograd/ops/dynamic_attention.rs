//! GATv2's attention over edges (Brody et al. 2022).
//!
//! With `l` the leaky rectifier an edge scores `s = sum_c w_c l(p_u + q_v + e_vu)_c`, from a whole row per node. Adjoints
//! with `ds` the gradient of a score: `d(p_u + q_v + e)_c = ds w_c l'_c`, `dw_c = sum ds l_c`. Rows of edges are made again
//! for the backward pass, never held.

#![forbid(unsafe_code)]

use super::broadcast::tree;
use super::edge_attention::{BAND, Heads, arrange};
use crate::aggregate::per_row;
use crate::autograd::tape::{record_many, tracked};
use crate::autograd::{Shape, Tensor, Values};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::loops::{self, EdgeTerms};
use crate::memory;
use crate::real::Real;
use crate::simd::Rows;
use crate::threads;
use std::ops::Range;
use std::sync::Arc;

/// Where the terms of an edge's score come from: of its source, its target and, if there is one, of itself in row
/// order, `width` values each.
struct Terms<T: Real> {
    source: Values<T>,
    target: Values<T>,
    edge: Option<Values<T>>,
    graph: Graph,
    width: usize,
    slope: T,
}

impl<T: Real> Terms<T> {
    fn new(
        [source, target]: [&Tensor<T>; 2],
        edge: Option<&Tensor<T>>,
        graph: &Graph,
        slope: T,
    ) -> Result<Self> {
        let width = source.shape().columns();
        let rows = [graph.num_sources(), graph.num_nodes(), graph.num_edges()];
        let inputs = [Some(source), Some(target), edge];
        for (input, rows) in inputs.into_iter().zip(rows) {
            if let Some(input) = input.filter(|input| *input.dims() != [rows, width]) {
                let expected = format!("expected ({rows}, {width})");
                return Err(Error::Shape(format!(
                    "attention: a term of shape {}, {expected}",
                    input.shape()
                )));
            }
        }
        let (source, target) = (source.values(), target.values());
        Ok(Self { source, target, edge: edge.map(Tensor::values), graph: graph.clone(), width, slope })
    }

    /// The terms of a node's edges.
    fn of(&self, row: usize, edges: Range<usize>) -> EdgeTerms<'_, T> {
        let width = self.width;
        EdgeTerms {
            source: &self.source,
            stride: width,
            target: &self.target[row * width..(row + 1) * width],
            own: self.edge.as_ref().map(|values| &values[edges.start * width..edges.end * width]),
            rows: Rows::of(self.graph.indices(), edges),
            slope: self.slope,
        }
    }
}

/// GATv2's scores: terms are whole rows, weighed by `weight`.
struct Dynamic<T: Real> {
    terms: Terms<T>,
    weight: Values<T>,
    split: Heads,
}

impl<T: Real> Dynamic<T> {
    fn new(
        terms: [&Tensor<T>; 2],
        edge: Option<&Tensor<T>>,
        (weight, heads): (&Tensor<T>, usize),
        graph: &Graph,
        slope: T,
    ) -> Result<Self> {
        let terms = Terms::new(terms, edge, graph, slope)?;
        let split = Heads::new(heads, terms.width)?;
        if weight.count() != terms.width {
            let message = format!("a weight of shape {} for {} columns", weight.shape(), terms.width);
            return Err(Error::Shape(format!("attention: {message}")));
        }
        Ok(Self { terms, weight: weight.values(), split })
    }

    /// The attention weights of a node's edges.
    fn weights(&self, row: usize, edges: Range<usize>, out: &mut [T]) {
        let mut room = memory::vec![T::ZERO; self.terms.width];
        let terms = self.terms.of(row, edges);
        loops::weighed_leaky(terms, &self.weight, self.split.width(), &mut room, out);
        loops::softmax(out, self.split.heads);
    }

    /// `dw_c = sum over the edges of ds l_c`, by bands of rows.
    fn weight_gradient(&self, ds: &[T]) -> Buffer<T> {
        let (graph, heads) = (&self.terms.graph, self.split.heads);
        let nodes = graph.num_nodes();
        let sums = tree(threads::map(nodes.div_ceil(BAND), |band| {
            let mut sums = memory::vec![T::ZERO; self.terms.width];
            let mut room = sums.clone();
            for row in band * BAND..((band + 1) * BAND).min(nodes) {
                let edges = graph.edges(row);
                let ds = &ds[edges.start * heads..edges.end * heads];
                let terms = self.terms.of(row, edges);
                loops::weighed_leaky_to_weight(terms, ds, self.split.width(), &mut room, &mut sums);
            }
            sums
        }));
        if sums.is_empty() { Buffer::zeros(self.terms.width) } else { sums.into() }
    }

    /// The gradient of the targets' terms.
    fn target_gradient(&self, ds: &[T]) -> Buffer<T> {
        let (graph, heads, columns) = (&self.terms.graph, self.split.heads, self.terms.width);
        let mut out = Buffer::zeros(graph.num_nodes() * columns);
        threads::for_each_chunk(&mut out, BAND * columns, |band, out| {
            let mut room = memory::vec![T::ZERO; columns];
            for (node, out) in out.chunks_exact_mut(columns).enumerate() {
                let edges = graph.edges(band * BAND + node);
                let ds = &ds[edges.start * heads..edges.end * heads];
                let terms = self.terms.of(band * BAND + node, edges);
                loops::weighed_leaky_to_terms(terms, &self.weight, ds, self.split.width(), &mut room, out);
            }
        });
        out
    }

    /// The gradient of the sources' terms: over the transpose source and target change places.
    fn source_gradient(&self, ds: &[T]) -> Buffer<T> {
        let (graph, heads, columns) = (&self.terms.graph, self.split.heads, self.terms.width);
        let back = graph.transposed();
        let mut out = Buffer::zeros(graph.num_sources() * columns);
        threads::for_each_chunk(&mut out, BAND * columns, |band, out| {
            let mut room = memory::vec![T::ZERO; columns];
            let (mut leaving, mut own) = (Vec::new(), Vec::new());
            for (node, out) in out.chunks_exact_mut(columns).enumerate() {
                let source = band * BAND + node;
                let edges = back.graph.edges(source);
                arrange(&back.order[edges.clone()], ds, heads, &mut leaving);
                if let Some(values) = &self.terms.edge {
                    arrange(&back.order[edges.clone()], values, columns, &mut own);
                }
                let terms = EdgeTerms {
                    source: &self.terms.target,
                    stride: columns,
                    target: self.split.row(&self.terms.source, source),
                    own: self.terms.edge.as_ref().map(|_| &own[..]),
                    rows: Rows::of(back.graph.indices(), edges),
                    slope: self.terms.slope,
                };
                let width = self.split.width();
                loops::weighed_leaky_to_terms(terms, &self.weight, &leaving, width, &mut room, out);
            }
        });
        out
    }

    /// The gradient of the edges' own terms, in row order.
    fn edge_gradient(&self, ds: &[T]) -> Buffer<T> {
        let (graph, heads, columns) = (&self.terms.graph, self.split.heads, self.terms.width);
        let mut out = Buffer::stale(graph.num_edges() * columns);
        per_row(graph, columns, &mut out, |row, edges, out| {
            let ds = &ds[edges.start * heads..edges.end * heads];
            let terms = self.terms.of(row, edges);
            loops::weighed_leaky_to_edges(terms, &self.weight, ds, self.split.width(), out);
        });
        out
    }
}

impl<T: Real> Tensor<T> {
    /// GATv2's attention weights `(num_edges, heads)` in row order: the softmax over each node's edges of
    /// `sum_c w_c leaky_relu(source_u + target_v + edge_vu)_c`; `source (num_sources, heads * width)`, `target
    /// (num_nodes, heads * width)`, `edge (num_edges, heads * width)` in row order, `w` of `heads * width` values.
    pub fn dynamic_weights(
        terms: [&Self; 2],
        edge: Option<&Self>,
        (weight, heads): (&Self, usize),
        graph: &Graph,
        slope: T,
    ) -> Result<Self> {
        let held = Dynamic::new(terms, edge, (weight, heads), graph, slope)?;
        let alpha = Arc::new(held.split.weights(graph, |row, edges, out| held.weights(row, edges, out)));
        let shape = Shape::new(&[graph.num_edges(), heads])?;
        let parents = terms.into_iter().chain(edge).chain([weight]).cloned().collect();
        let y = Arc::clone(&alpha);
        Ok(record_many("attention", alpha, shape, parents, move |mut grad, wanted| {
            held.split.score_gradients(&held.terms.graph, &y, &mut grad);
            let (last, inputs) = wanted.split_last().expect("the weight is the last input");
            let mut grads = vec![
                inputs[0].then(|| held.source_gradient(&grad)),
                inputs[1].then(|| held.target_gradient(&grad)),
            ];
            grads.extend(inputs.get(2).map(|wanted| wanted.then(|| held.edge_gradient(&grad))));
            grads.push(last.then(|| held.weight_gradient(&grad)));
            grads
        }))
    }

    /// GATv2's attention: the rows of `self (num_sources, heads * width)` mixed by [`dynamic_weights`] of the same
    /// arguments, plus `bias`. Without a tape the weights of one node at a time are held.
    ///
    /// [`dynamic_weights`]: Self::dynamic_weights
    pub fn dynamic_attention(
        &self,
        terms: [&Self; 2],
        edge: Option<&Self>,
        (weight, heads): (&Self, usize),
        graph: &Graph,
        slope: T,
        bias: Option<&Self>,
    ) -> Result<Self> {
        let inputs: Vec<&Self> = [self, weight].into_iter().chain(terms).chain(edge).chain(bias).collect();
        if tracked(&inputs) {
            let weights = Self::dynamic_weights(terms, edge, (weight, heads), graph, slope)?;
            let out = self.aggregate_heads(graph, &weights)?;
            return bias.map_or(Ok(out.clone()), |bias| out.add(bias));
        }
        let held = Dynamic::new(terms, edge, (weight, heads), graph, slope)?;
        self.attended(graph, heads, bias, |row, edges, out| held.weights(row, edges, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::autograd::no_grad;

    fn graph() -> Graph {
        Graph::from_edges(&[0, 0, 0, 2, 2], &[1, 3, 3, 0, 1], 3, 4, None).unwrap()
    }

    #[test]
    fn gradients_with_and_without_edge_terms() {
        let graph = graph();
        for (heads, width) in [(1, 2), (2, 2), (3, 2), (2, 8)] {
            let columns = heads * width;
            let (x, weight) = (random(&[4, columns], 0), random(&[1, heads, width], 4));
            let inputs = [x, random(&[3, columns], 2), weight, random(&[5, columns], 3)];
            gradcheck(&inputs, |x| {
                x[0].dynamic_attention([&x[0], &x[1]], Some(&x[3]), (&x[2], heads), &graph, 0.2, None)
            })
            .unwrap();
            gradcheck(&inputs[..3], |x| {
                x[0].dynamic_attention([&x[0], &x[1]], None, (&x[2], heads), &graph, 0.2, None)
            })
            .unwrap();
        }
    }

    #[test]
    fn with_and_without_a_tape_agree() {
        let (graph, x, target) = (graph(), random(&[4, 8], 0), random(&[3, 8], 3));
        let (weight, bias) = (random(&[8], 4), random(&[8], 5));
        let attended = || {
            let weight = (&weight, 4);
            x.dynamic_attention([&x, &target], None, weight, &graph, 0.2, Some(&bias)).unwrap().to_vec()
        };
        let recorded = attended();
        assert_eq!(recorded[8..16], bias.to_vec(), "node 1 has no neighbours");
        let _guard = no_grad();
        assert_eq!(attended(), recorded);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let (graph, x, wide) = (graph(), random(&[4, 6], 0), random(&[3, 6], 1));
        assert!(x.dynamic_attention([&x, &wide], None, (&random(&[5], 1), 2), &graph, 0.2, None).is_err());
        assert!(x.dynamic_attention([&x, &wide], None, (&random(&[6], 1), 4), &graph, 0.2, None).is_err());
    }
}
