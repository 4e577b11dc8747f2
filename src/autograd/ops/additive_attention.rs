//! GAT's attention over edges (Velickovic et al. 2018).
//!
//! With `l` the leaky rectifier an edge scores `s = l(t)`, `t = a_u + b_v + e_vu`, one number per head; `alpha = softmax_u(s)`,
//! `out_v = sum_u alpha x_u`. Adjoint, with `g` the gradient of `out`:
//!
//! `D_v = sum_u alpha <g_v, x_u> = <g_v, out_v>`, so `dt = alpha (<g_v, x_u> - D_v) l'` is known edge by edge, and
//! `dx_u = sum_v alpha g_v`, `da_u = sum_v dt`, `db_v = sum_u dt = <g_v, Q_v> - D_v R_v` with `Q_v = sum_u alpha l' x_u` and
//! `R_v = sum_u alpha l'`, which the forward pass saves. So one pass over the edges, by their sources, gives all
//! gradients; the weights are made again on the way (Dao et al. 2022) and never held.

#![forbid(unsafe_code)]

use super::edge_attention::{BAND, Heads, arrange};
use super::linear::column_sums;
use crate::aggregate::per_row;
use crate::autograd::tape::{record_many, tracked};
use crate::autograd::{Shape, Tensor, Values};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::loops::{self, EdgeTerms, LeavingEdges};
use crate::real::Real;
use crate::simd::{HeadPlan, Rows};
use crate::threads;
use std::ops::Range;
use std::sync::Arc;

/// Where an edge's terms come from.
struct Terms<T: Real> {
    /// Per node its term as a source, then its term as a target, `heads` values each.
    nodes: Values<T>,
    /// Per edge in row order, `heads` values.
    edges: Option<Values<T>>,
    graph: Graph,
    heads: usize,
    slope: T,
}

impl<T: Real> Terms<T> {
    fn new(terms: &Tensor<T>, edge: Option<&Tensor<T>>, graph: &Graph, slope: T) -> Result<Self> {
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
        let edges = edge.map(Tensor::values);
        Ok(Self { nodes: terms.values(), edges, graph: graph.clone(), heads, slope })
    }

    /// The terms of a node's edges.
    fn of(&self, row: usize, edges: Range<usize>) -> EdgeTerms<'_, T> {
        let heads = self.heads;
        EdgeTerms {
            source: &self.nodes,
            stride: 2 * heads,
            target: &self.nodes[(2 * row + 1) * heads..][..heads],
            own: self.edges.as_ref().map(|values| &values[edges.start * heads..edges.end * heads]),
            rows: Rows::of(self.graph.indices(), edges),
            slope: self.slope,
        }
    }

    /// The gradient of the nodes' terms from those of each edge's sum, in row order.
    fn sum_by_node(&self, d: &[T]) -> Buffer<T> {
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

/// The rows that are mixed, and what else the adjoint looks at.
struct Attention<T: Real> {
    terms: Terms<T>,
    x: Values<T>,
    bias: Option<Values<T>>,
    split: Heads,
    plan: HeadPlan,
}

/// What the forward pass leaves for the backward one, per node: `Q`, and per head the largest score, the scale of the
/// weights, and `R`.
struct Saved<T: Real>(Buffer<T>);

impl<T: Real> Attention<T> {
    fn saved_columns(&self) -> usize {
        self.split.columns + 3 * self.split.heads
    }

    fn forward(&self) -> (Buffer<T>, Saved<T>) {
        let Heads { heads, columns } = self.split;
        let (nodes, width) = (self.terms.graph.num_nodes(), self.saved_columns());
        let (mut out, mut saved) = (Buffer::stale(nodes * columns), Buffer::stale(nodes * width));
        let both = ((&mut out[..], BAND * columns), (&mut saved[..], BAND * width));
        threads::for_each_chunk_of_both(both.0, both.1, |band, out, saved| {
            let mut alpha = Vec::new();
            let rows = out.chunks_exact_mut(columns).zip(saved.chunks_exact_mut(width));
            for (row, (out, saved)) in rows.enumerate() {
                let edges = self.terms.graph.edges(band * BAND + row);
                let (terms, rows) = (self.terms.of(band * BAND + row, edges.clone()), edges.len());
                alpha.resize(rows * heads, T::ZERO);
                loops::leaky(terms, &mut alpha);
                let (q, scalars) = saved.split_at_mut(columns);
                let (scales, r) = scalars.split_at_mut(2 * heads);
                loops::softmax_kept(&mut alpha, heads, scales);
                T::head_sums(&self.x, terms.rows, &alpha, &self.plan, out);
                if let Some(bias) = &self.bias {
                    T::axpy(T::ONE, bias, out);
                }
                loops::leaky_adjoint(terms, &mut alpha);
                T::head_sums(&self.x, terms.rows, &alpha, &self.plan, q);
                r.fill(T::ZERO);
                for alpha in alpha.chunks_exact(heads) {
                    r.iter_mut().zip(alpha).for_each(|(sum, &alpha)| *sum += alpha);
                }
            }
        });
        (out, Saved(saved))
    }

    /// What the edges ask of the node they enter, per head its term, the largest score, the scale of the weights and `D`;
    /// and `db` as the second half of the rows of `to_terms`.
    fn nodes(&self, out: &[T], saved: &Saved<T>, grad: &[T], to_terms: &mut [T]) -> Buffer<T> {
        let Heads { heads, columns } = self.split;
        let (count, width) = (self.terms.graph.num_nodes(), self.saved_columns());
        let mut nodes = Buffer::stale(count * 4 * heads);
        let (attending, only_sources) = to_terms.split_at_mut(count * 2 * heads);
        only_sources.fill(T::ZERO);
        let both = ((&mut nodes[..], BAND * 4 * heads), (attending, BAND * 2 * heads));
        threads::for_each_chunk_of_both(both.0, both.1, |band, nodes, to_terms| {
            let mut mixed = vec![T::ZERO; columns];
            let rows = nodes.chunks_exact_mut(4 * heads).zip(to_terms.chunks_exact_mut(2 * heads));
            for (row, (node, to_terms)) in rows.enumerate() {
                let row = band * BAND + row;
                let grad = self.split.row(grad, row);
                let (q, scalars) = saved.0[row * width..][..width].split_at(columns);
                let (scales, r) = scalars.split_at(2 * heads);
                node[..heads].copy_from_slice(&self.terms.nodes[(2 * row + 1) * heads..][..heads]);
                node[heads..3 * heads].copy_from_slice(scales);
                mixed.copy_from_slice(self.split.row(out, row));
                if let Some(bias) = &self.bias {
                    T::axpy(-T::ONE, bias, &mut mixed);
                }
                let (d, to_target) = (&mut node[3 * heads..], &mut to_terms[heads..]);
                T::head_dots(grad, &mixed, [0][..].into(), heads, d);
                T::head_dots(grad, q, [0][..].into(), heads, to_target);
                to_target.iter_mut().zip(d.iter().zip(r)).for_each(|(out, (&d, &r))| *out -= d * r);
            }
        });
        nodes
    }

    /// The gradients of the rows and of the nodes' terms.
    fn adjoint(&self, out: &[T], saved: &Saved<T>, grad: &[T]) -> (Buffer<T>, Buffer<T>) {
        let Heads { heads, columns } = self.split;
        let back = self.terms.graph.transposed();
        let mut to_x = Buffer::stale(self.x.len());
        let mut to_terms = Buffer::stale(self.terms.nodes.len());
        // Apart from the pass over the edges, whose gathers want the cache for themselves.
        let nodes = self.nodes(out, saved, grad, &mut to_terms);
        let both = ((&mut to_x[..], BAND * columns), (&mut to_terms[..], BAND * 2 * heads));
        threads::for_each_chunk_of_both(both.0, both.1, |band, to_x, to_terms| {
            let (mut alpha, mut d, mut own) = (Vec::new(), Vec::new(), Vec::new());
            let rows = to_x.chunks_exact_mut(columns).zip(to_terms.chunks_exact_mut(2 * heads));
            for (row, (to_x, to_terms)) in rows.enumerate() {
                let source = band * BAND + row;
                let edges = back.graph.edges(source);
                if let Some(values) = &self.terms.edges {
                    arrange(&back.order[edges.clone()], values, heads, &mut own);
                }
                let leaving = LeavingEdges {
                    source: &self.terms.nodes[source * 2 * heads..][..heads],
                    nodes: &nodes,
                    own: self.terms.edges.as_ref().map(|_| &own[..]),
                    rows: Rows::of(back.graph.indices(), edges.clone()),
                    slope: self.terms.slope,
                };
                alpha.resize(edges.len() * heads, T::ZERO);
                d.resize(edges.len() * heads, T::ZERO);
                loops::weights_again(leaving, &mut alpha);
                T::head_dots(self.split.row(&self.x, source), grad, leaving.rows, heads, &mut d);
                loops::weights_again_adjoint(leaving, &alpha, &mut d, &mut to_terms[..heads]);
                T::head_sums(grad, leaving.rows, &alpha, &self.plan, to_x);
            }
        });
        (to_x, to_terms)
    }

    /// The gradient of the edges' own terms, in row order.
    fn edge_adjoint(&self, grad: &[T]) -> Buffer<T> {
        let (graph, heads) = (&self.terms.graph, self.split.heads);
        let mut out = Buffer::stale(graph.num_edges() * heads);
        per_row(graph, heads, &mut out, |row, edges, d| {
            let terms = self.terms.of(row, edges);
            let mut alpha = vec![T::ZERO; d.len()];
            loops::leaky(terms, &mut alpha);
            loops::softmax(&mut alpha, heads);
            T::head_dots(self.split.row(grad, row), &self.x, terms.rows, heads, d);
            loops::softmax_adjoint(d, &alpha, heads);
            loops::leaky_adjoint(terms, d);
        });
        out
    }
}

impl<T: Real> Tensor<T> {
    /// GAT's attention weights `(num_edges, heads)` in row order: the softmax over each node's edges of
    /// `leaky_relu(a_u + b_v + e_vu)`; `terms (num_sources, 2 heads)` holds `a` and `b` side by side, and the first nodes are
    /// those that attend; `edge (num_edges, heads)` is in row order.
    pub fn additive_weights(terms: &Self, edge: Option<&Self>, graph: &Graph, slope: T) -> Result<Self> {
        let held = Terms::new(terms, edge, graph, slope)?;
        let heads = held.heads;
        let split = Heads::new(heads, heads)?;
        let alpha = Arc::new(split.weights(graph, |row, edges, out| loops::leaky(held.of(row, edges), out)));
        let shape = Shape::new(&[graph.num_edges(), heads])?;
        let parents = [terms].into_iter().chain(edge).cloned().collect();
        let y = Arc::clone(&alpha);
        Ok(record_many("attention", alpha, shape, parents, move |mut grad, wanted| {
            per_row(&held.graph, heads, &mut grad, |row, edges, grad| {
                let y = &y[edges.start * heads..][..grad.len()];
                loops::softmax_adjoint(grad, y, heads);
                loops::leaky_adjoint(held.of(row, edges), grad);
            });
            let mut grads = vec![wanted[0].then(|| held.sum_by_node(&grad))];
            grads.extend(wanted.get(1).map(|&wanted| wanted.then_some(grad)));
            grads
        }))
    }

    /// GAT's attention: the rows of `self (num_sources, heads * width)` mixed by [`additive_weights`] of the same
    /// arguments, plus `bias (heads * width)`: `(num_nodes, heads * width)`. The weights of one node at a time are held.
    ///
    /// [`additive_weights`]: Self::additive_weights
    pub fn additive_attention(
        &self,
        terms: &Self,
        edge: Option<&Self>,
        graph: &Graph,
        slope: T,
        bias: Option<&Self>,
    ) -> Result<Self> {
        let inputs: Vec<&Self> = [self, terms].into_iter().chain(edge).chain(bias).collect();
        let held = Terms::new(terms, edge, graph, slope)?;
        if !tracked(&inputs) {
            return self
                .attended(graph, held.heads, bias, |row, edges, out| loops::leaky(held.of(row, edges), out));
        }
        let split = self.require_attended(graph, held.heads, bias)?;
        let plan = HeadPlan::new(split.heads, split.columns);
        let has_edges = edge.is_some();
        let held = Attention { terms: held, x: self.values(), bias: bias.map(Self::values), split, plan };
        let (out, saved) = held.forward();
        let (out, shape) = (Arc::new(out), Shape::new(&[graph.num_nodes(), split.columns])?);
        let y = Arc::clone(&out);
        let parents = inputs.into_iter().cloned().collect();
        Ok(record_many("attention", out, shape, parents, move |grad, wanted| {
            let (mut to_x, mut to_terms) = (None, None);
            if wanted[0] || wanted[1] {
                let (x, terms) = held.adjoint(&y, &saved, &grad);
                (to_x, to_terms) = (Some(x), Some(terms));
            }
            let mut grads = vec![to_x, to_terms];
            grads.extend(has_edges.then(|| wanted[2].then(|| held.edge_adjoint(&grad))));
            grads.extend(held.bias.as_ref().map(|_| Some(column_sums(&grad, split.columns))));
            grads
        }))
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
    fn gradients_with_and_without_edge_terms_and_bias() {
        let graph = graph();
        for heads in [1, 2, 3, 8] {
            let columns = 2 * heads;
            let inputs = [random(&[4, columns], 0), random(&[4, 2 * heads], 1), random(&[columns], 2)];
            gradcheck(&inputs, |x| x[0].additive_attention(&x[1], None, &graph, 0.2, Some(&x[2]))).unwrap();
            gradcheck(&inputs[..2], |x| x[0].additive_attention(&x[1], None, &graph, -0.5, None)).unwrap();
            let inputs = [&inputs[..], &[random(&[5, heads], 3)]].concat();
            gradcheck(&inputs, |x| x[0].additive_attention(&x[1], Some(&x[3]), &graph, 0.2, Some(&x[2])))
                .unwrap();
            let terms = [inputs[1].clone(), inputs[3].clone()];
            gradcheck(&terms, |x| Tensor::additive_weights(&x[0], Some(&x[1]), &graph, 0.2)).unwrap();
        }
    }

    #[test]
    fn with_and_without_a_tape_agree() {
        let (graph, x, terms, bias) = (graph(), random(&[4, 8], 0), random(&[4, 8], 1), random(&[8], 5));
        let attended = || x.additive_attention(&terms, None, &graph, 0.2, Some(&bias)).unwrap().to_vec();
        let recorded = attended();
        assert_eq!(recorded[8..16], bias.to_vec(), "node 1 has no neighbours");
        let weights = Tensor::additive_weights(&terms, None, &graph, 0.2).unwrap();
        let apart = x.aggregate_heads(&graph, &weights).unwrap().add(&bias).unwrap().to_vec();
        assert_eq!(recorded, apart);
        let _guard = no_grad();
        assert_eq!(attended(), recorded);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let (graph, x, terms) = (graph(), random(&[4, 6], 0), random(&[4, 4], 1));
        let refused = |x: &Tensor<f64>, terms: &Tensor<f64>, edge: Option<&Tensor<f64>>| {
            assert!(matches!(x.additive_attention(terms, edge, &graph, 0.2, None), Err(Error::Shape(_))));
        };
        refused(&x, &random(&[3, 4], 1), None);
        refused(&x, &terms, Some(&random(&[4, 2], 1)));
        refused(&random(&[3, 6], 1), &terms, None);
        assert!(random(&[4, 5], 0).additive_attention(&terms, None, &graph, 0.2, None).is_err());
    }
}
