//! Additive attention over edges (Velickovic et al. 2018; Brody et al. 2022).
//!
//! With `l` the leaky rectifier: GAT scores an edge `s = l(a_u + b_v + e_vu)` from one number per node and head; GATv2
//! `s = sum_c w_c l(p_u + q_v + e_vu)_c` from a whole row per node. Adjoints with `ds` the gradient of a score:
//! `d(a_u + b_v + e) = ds l'`, and `d(p_u + q_v + e)_c = ds w_c l'_c`, `dw_c = sum ds l_c`. Rows of edges are made again
//! for the backward pass, never held.

#![forbid(unsafe_code)]

use super::broadcast::tree;
use super::edge_attention::{BAND, Heads, sum_by_source, sum_by_target};
use crate::aggregate::per_row;
use crate::autograd::tape::{record_many, tracked};
use crate::autograd::{Shape, Tensor, Values};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::loops::{self, EdgeTerms};
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
            target: &self.target[row * width..(row + 1) * width],
            own: self.edge.as_ref().map(|values| &values[edges.start * width..edges.end * width]),
            rows: Rows::of(self.graph.indices(), edges),
            slope: self.slope,
        }
    }
}

/// The gradients of the terms of source, target and edge from those of each edge's sum, `width` values in row order.
fn spread<T: Real>(graph: &Graph, sums: Buffer<T>, width: usize, wanted: &[bool]) -> Vec<Option<Buffer<T>>> {
    let mut grads = vec![
        wanted[0].then(|| sum_by_source(graph, &sums, width)),
        wanted[1].then(|| sum_by_target(graph, &sums, width)),
    ];
    grads.extend(wanted.get(2).map(|&wanted| wanted.then_some(sums)));
    grads
}

impl<T: Real> Tensor<T> {
    /// GAT's attention weights `(num_edges, heads)` in row order: the softmax over each node's edges of
    /// `leaky_relu(source_u + target_v + edge_vu)`; `source (num_sources, heads)`, `target (num_nodes, heads)`, `edge
    /// (num_edges, heads)` in row order.
    pub fn additive_weights(terms: [&Self; 2], edge: Option<&Self>, graph: &Graph, slope: T) -> Result<Self> {
        let held = Terms::new(terms, edge, graph, slope)?;
        let split = Heads::new(held.width, held.width)?;
        let alpha = Arc::new(split.weights(graph, |row, edges, out| loops::leaky(held.of(row, edges), out)));
        let shape = Shape::new(&[graph.num_edges(), held.width])?;
        let parents = terms.into_iter().chain(edge).cloned().collect();
        let y = Arc::clone(&alpha);
        Ok(record_many("attention", alpha, shape, parents, move |mut grad, wanted| {
            per_row(&held.graph, held.width, &mut grad, |row, edges, grad| {
                let y = &y[edges.start * held.width..][..grad.len()];
                loops::softmax_adjoint(grad, y, held.width);
                loops::leaky_adjoint(held.of(row, edges), grad);
            });
            spread(&held.graph, grad, held.width, wanted)
        }))
    }

    /// GAT's attention: the rows of `self (num_sources, heads * width)` mixed by [`additive_weights`] of the same
    /// arguments, plus `bias (heads * width)`: `(num_nodes, heads * width)`. Without a tape the weights of one node at a
    /// time are held.
    ///
    /// [`additive_weights`]: Self::additive_weights
    pub fn additive_attention(
        &self,
        terms: [&Self; 2],
        edge: Option<&Self>,
        graph: &Graph,
        slope: T,
        bias: Option<&Self>,
    ) -> Result<Self> {
        let inputs: Vec<&Self> = [self].into_iter().chain(terms).chain(edge).chain(bias).collect();
        if tracked(&inputs) {
            let out = self.aggregate_heads(graph, &Self::additive_weights(terms, edge, graph, slope)?)?;
            return bias.map_or(Ok(out.clone()), |bias| out.add(bias));
        }
        let held = Terms::new(terms, edge, graph, slope)?;
        self.attended(graph, held.width, bias, |row, edges, out| loops::leaky(held.of(row, edges), out))
    }

    /// The untracked mix of rows by the softmax of scores.
    fn attended(
        &self,
        graph: &Graph,
        heads: usize,
        bias: Option<&Self>,
        score: impl Fn(usize, Range<usize>, &mut [T]) + Sync,
    ) -> Result<Self> {
        let columns = self.shape().columns();
        if *self.dims() != [graph.num_sources(), columns] {
            let sources = graph.num_sources();
            let message = format!("rows of shape {} over a graph of {sources} sources", self.shape());
            return Err(Error::Shape(format!("attention: {message}")));
        }
        if let Some(bias) = bias.filter(|bias| *bias.dims() != [columns]) {
            let message = format!("a bias of shape {} for {columns} columns", bias.shape());
            return Err(Error::Shape(format!("attention: {message}")));
        }
        let bias = bias.map(Self::values);
        let bias = bias.as_ref().map(|bias| &bias[..]);
        let out = Heads::new(heads, columns)?.attend(graph, &self.values(), bias, score);
        Tensor::new(out, &[graph.num_nodes(), columns])
    }

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
        let alpha = Arc::new(held.split.weights(graph, |row, edges, out| held.scores(row, edges, out)));
        let shape = Shape::new(&[graph.num_edges(), heads])?;
        let parents = terms.into_iter().chain(edge).chain([weight]).cloned().collect();
        let y = Arc::clone(&alpha);
        Ok(record_many("attention", alpha, shape, parents, move |mut grad, wanted| {
            held.split.score_gradients(&held.terms.graph, &y, &mut grad);
            let (last, inputs) = wanted.split_last().expect("the weight is the last input");
            let to_weight = last.then(|| held.weight_gradient(&grad));
            let mut grads = held.term_gradients(&grad, inputs);
            grads.push(to_weight);
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
        self.attended(graph, heads, bias, |row, edges, out| held.scores(row, edges, out))
    }
}

/// Calls its second argument with row and number of each edge of a node.
type EdgesOf<'a> = dyn Fn(usize, &mut dyn FnMut(usize, usize)) + Sync + 'a;

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

    fn scores(&self, row: usize, edges: Range<usize>, scores: &mut [T]) {
        let mut room = vec![T::ZERO; self.terms.width];
        let terms = self.terms.of(row, edges);
        loops::weighed_leaky(terms, &self.weight, self.split.heads, &mut room, scores);
    }

    /// `dw_c = sum over the edges of ds l_c`, by bands of rows.
    fn weight_gradient(&self, ds: &[T]) -> Buffer<T> {
        let (graph, heads) = (&self.terms.graph, self.split.heads);
        let nodes = graph.num_nodes();
        let sums = tree(threads::map(nodes.div_ceil(BAND), |band| {
            let mut sums = vec![T::ZERO; self.terms.width];
            let mut room = sums.clone();
            for row in band * BAND..((band + 1) * BAND).min(nodes) {
                let edges = graph.edges(row);
                let ds = &ds[edges.start * heads..edges.end * heads];
                loops::weighed_leaky_to_weight(self.terms.of(row, edges), ds, heads, &mut room, &mut sums);
            }
            sums
        }));
        if sums.is_empty() { Buffer::zeros(self.terms.width) } else { sums.into() }
    }

    /// Adds the gradient of the terms of an edge of `row` to `out`.
    fn add_gradient(&self, row: usize, edge: usize, ds: &[T], room: &mut [T], out: &mut [T]) {
        let (terms, heads) = (self.terms.of(row, edge..edge + 1), self.split.heads);
        loops::weighed_leaky_to_terms(terms, 0, &self.weight, &ds[edge * heads..][..heads], room, out);
    }

    /// The gradients of the terms of source, target and edge.
    fn term_gradients(&self, ds: &[T], wanted: &[bool]) -> Vec<Option<Buffer<T>>> {
        let (graph, columns) = (&self.terms.graph, self.terms.width);
        // Rows of `out`, each the sum of the gradients of some edges, given with their rows.
        let summed = |nodes: usize, edges: &EdgesOf<'_>| {
            let mut out = Buffer::zeros(nodes * columns);
            threads::for_each_chunk(&mut out, BAND * columns, |band, out| {
                let mut room = vec![T::ZERO; columns];
                for (node, out) in out.chunks_exact_mut(columns).enumerate() {
                    edges(band * BAND + node, &mut |row, edge| {
                        self.add_gradient(row, edge, ds, &mut room, out)
                    });
                }
            });
            out
        };
        let to_source = wanted[0].then(|| {
            let back = graph.transposed();
            summed(graph.num_sources(), &|source, add| {
                for at in back.graph.edges(source) {
                    add(back.graph.indices()[at] as usize, back.order[at] as usize);
                }
            })
        });
        let to_target = wanted[1]
            .then(|| summed(graph.num_nodes(), &|row, add| graph.edges(row).for_each(|edge| add(row, edge))));
        let mut grads = vec![to_source, to_target];
        grads.extend(wanted.get(2).map(|&wanted| {
            wanted.then(|| {
                let mut out = Buffer::zeros(graph.num_edges() * columns);
                per_row(graph, columns, &mut out, |row, edges, out| {
                    let mut room = vec![T::ZERO; columns];
                    for (edge, out) in edges.zip(out.chunks_exact_mut(columns)) {
                        self.add_gradient(row, edge, ds, &mut room, out);
                    }
                });
                out
            })
        }));
        grads
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
    fn gradients_of_both_forms_with_and_without_edge_terms() {
        let graph = graph();
        for heads in [1, 2, 3] {
            let columns = 2 * heads;
            let x = random(&[4, columns], 0);
            let few = [random(&[4, heads], 1), random(&[3, heads], 2), random(&[5, heads], 3)];
            let inputs = [&[x.clone()][..], &few].concat();
            gradcheck(&inputs, |x| x[0].additive_attention([&x[1], &x[2]], Some(&x[3]), &graph, 0.2, None))
                .unwrap();
            gradcheck(&inputs[..3], |x| x[0].additive_attention([&x[1], &x[2]], None, &graph, 0.2, None))
                .unwrap();
            let weight = random(&[1, heads, 2], 4);
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
        let graph = graph();
        let (x, a, b) = (random(&[4, 8], 0), random(&[4, 4], 1), random(&[3, 4], 2));
        let (target, weight, bias) = (random(&[3, 8], 3), random(&[8], 4), random(&[8], 5));
        let both = || {
            let additive = x.additive_attention([&a, &b], None, &graph, 0.2, Some(&bias)).unwrap();
            let dynamic =
                x.dynamic_attention([&x, &target], None, (&weight, 4), &graph, 0.2, Some(&bias)).unwrap();
            [additive.to_vec(), dynamic.to_vec()]
        };
        let recorded = both();
        assert_eq!(recorded[0][8..16], bias.to_vec(), "node 1 has no neighbours");
        let _guard = no_grad();
        assert_eq!(both(), recorded);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let (graph, x) = (graph(), random(&[4, 6], 0));
        let (a, b) = (random(&[4, 2], 1), random(&[3, 2], 2));
        assert!(x.additive_attention([&a, &a], None, &graph, 0.2, None).is_err());
        assert!(x.additive_attention([&a, &b], Some(&random(&[4, 2], 1)), &graph, 0.2, None).is_err());
        let wide = random(&[3, 6], 1);
        assert!(x.dynamic_attention([&x, &wide], None, (&random(&[5], 1), 2), &graph, 0.2, None).is_err());
        assert!(x.dynamic_attention([&x, &wide], None, (&random(&[6], 1), 4), &graph, 0.2, None).is_err());
    }
}
