//! GAT's attention over edges (Velickovic et al. 2018).
//!
//! With `l` the leaky rectifier an edge scores `s = l(t)`, `t = a_u + b_v + e_vu`, one number per head; `alpha = softmax_u(s)`,
//! `out_v = sum_u alpha x_u`. Adjoint, with `g` the gradient of `out`:
//!
//! `D_v = sum_u alpha <g_v, x_u> = <g_v, out_v>`, so `dt = alpha (<g_v, x_u> - D_v) l'` is known edge by edge, and
//! `dx_u = sum_v alpha g_v`, `da_u = sum_v dt`, `db_v = sum_u dt = <g_v, Q_v> - D_v R_v` with `Q_v = sum_u alpha l' x_u` and
//! `R_v = sum_u alpha l'`, which the forward pass saves. So one pass over the edges, by their sources, gives all
//! gradients; the weights are made again on the way (Dao et al. 2022) and never held.
//!
//! Where an edge has no term of its own and the others lie within [`terms::SPREAD`], exponentials of scores are products of
//! factors per node (see `loops::factored`), and no edge costs an exponential.
//!
//! The weight of a node's single edge is 1 whatever its score, so there `dt` is exactly 0: the differences above would leave
//! what was rounded, of which an optimizer such as Adam makes full steps.

#![forbid(unsafe_code)]

mod terms;

use super::edge_attention::{BAND, Heads, arrange};
use super::linear::column_sums;
use crate::aggregate::per_row;
use crate::autograd::tape::{record_many, tracked};
use crate::autograd::{Shape, Tensor, Values};
use crate::buffer::Buffer;
use crate::error::Result;
use crate::graph::Graph;
use crate::loops::{self, LeavingEdges, LeavingFactors};
use crate::memory;
use crate::real::Real;
use crate::simd::{HeadPlan, Rows, SecondSums};
use crate::threads;
use std::sync::Arc;
use terms::Terms;

/// The rows that are mixed, and what else the adjoint looks at.
struct Attention<T: Real> {
    terms: Terms<T>,
    x: Values<T>,
    bias: Option<Values<T>>,
    split: Heads,
    plan: HeadPlan,
}

/// What the forward pass leaves for the backward one, per node: `Q`, and per head two numbers by which its weights are made
/// again (the largest score and the scale of the weights, or both factors), and `R`.
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
            let mut room = Vec::new();
            let rows = out.chunks_exact_mut(columns).zip(saved.chunks_exact_mut(width));
            for (row, (out, saved)) in rows.enumerate() {
                let (q, scalars) = saved.split_at_mut(columns);
                let (kept, r) = scalars.split_at_mut(2 * heads);
                self.mix(band * BAND + row, &mut room, out, Some((SecondSums { rows: q, weights: r }, kept)));
            }
        });
        (out, Saved(saved))
    }

    /// [`forward`](Self::forward) that leaves nothing for the backward pass.
    fn forward_alone(&self) -> Buffer<T> {
        let columns = self.split.columns;
        let mut out = Buffer::stale(self.terms.graph.num_nodes() * columns);
        threads::for_each_chunk(&mut out, BAND * columns, |band, out| {
            let mut room = Vec::new();
            for (row, out) in out.chunks_exact_mut(columns).enumerate() {
                self.mix(band * BAND + row, &mut room, out, None);
            }
        });
        out
    }

    /// One node's row, and what it saves: `Q` and `R`, and the numbers by which weights are made again. `room` is for weights or scales.
    fn mix(
        &self,
        row: usize,
        room: &mut Vec<T>,
        out: &mut [T],
        saved: Option<(SecondSums<'_, T>, &mut [T])>,
    ) {
        let (terms, heads) = (&self.terms, self.split.heads);
        let edges = terms.graph.edges(row);
        let rows = Rows::of(terms.graph.indices(), edges.clone());
        let (second, kept) = saved.unzip();
        if let Some(factors) = &terms.factors {
            let factors = factors.entering(row, heads);
            room.resize(heads, T::ZERO);
            T::factored_sums(&self.x, rows, factors, &self.plan, room, out, second);
            let scaled = factors.target.iter().zip(room.iter().cycle());
            kept.into_iter().flatten().zip(scaled).for_each(|(kept, (&t, &scale))| *kept = t * scale);
        } else {
            let terms = terms.of(row, edges);
            memory::resize(room, rows.now.len() * heads, T::ZERO);
            let alpha = &mut room[..];
            loops::leaky(terms, alpha);
            loops::softmax_kept(alpha, heads, kept.unwrap_or_default());
            T::head_sums(&self.x, rows, alpha, &self.plan, out);
            if let Some(SecondSums { rows: q, weights: r }) = second {
                loops::leaky_adjoint(terms, alpha);
                T::head_sums(&self.x, rows.now.into(), alpha, &self.plan, q);
                loops::sums_by_head(alpha, r);
            }
        }
        if let [source] = rows.now {
            out.copy_from_slice(self.split.row(&self.x, *source as usize));
        }
        if let Some(bias) = &self.bias {
            T::axpy(T::ONE, bias, out);
        }
    }

    /// What the edges ask of the node they enter, per head its term if there are no factors, the two saved numbers and `D`; and
    /// `db` as the second half of the rows of `to_terms`.
    fn nodes(&self, out: &[T], saved: &Saved<T>, grad: &[T], to_terms: &mut [T]) -> Buffer<T> {
        let Heads { heads, columns } = self.split;
        let (count, width) = (self.terms.graph.num_nodes(), self.saved_columns());
        let term = if self.terms.factors.is_some() { 0 } else { heads };
        let mut nodes = Buffer::stale(count * (term + 3 * heads));
        let (attending, only_sources) = to_terms.split_at_mut(count * 2 * heads);
        only_sources.fill(T::ZERO);
        let both = ((&mut nodes[..], BAND * (term + 3 * heads)), (attending, BAND * 2 * heads));
        threads::for_each_chunk_of_both(both.0, both.1, |band, nodes, to_terms| {
            let mut mixed = memory::vec![T::ZERO; columns];
            let rows = nodes.chunks_exact_mut(term + 3 * heads).zip(to_terms.chunks_exact_mut(2 * heads));
            for (row, (node, to_terms)) in rows.enumerate() {
                let row = band * BAND + row;
                let grad = self.split.row(grad, row);
                let (q, scalars) = saved.0[row * width..][..width].split_at(columns);
                let (kept, r) = scalars.split_at(2 * heads);
                node[..term].copy_from_slice(&self.terms.target(row)[..term]);
                node[term..][..2 * heads].copy_from_slice(kept);
                mixed.copy_from_slice(self.split.row(out, row));
                if let Some(bias) = &self.bias {
                    T::axpy(-T::ONE, bias, &mut mixed);
                }
                let (d, to_target) = (&mut node[term + 2 * heads..], &mut to_terms[heads..]);
                T::head_dots(grad, &mixed, [0][..].into(), heads, d);
                T::head_dots(grad, q, [0][..].into(), heads, to_target);
                to_target.iter_mut().zip(d.iter().zip(r)).for_each(|(out, (&d, &r))| *out -= d * r);
                if self.terms.graph.edges(row).len() == 1 {
                    d.fill(loops::lone());
                    to_target.fill(T::ZERO);
                }
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
                let rows = Rows::of(back.graph.indices(), edges.clone());
                memory::resize(&mut alpha, edges.len() * heads, T::ZERO);
                memory::resize(&mut d, edges.len() * heads, T::ZERO);
                // The sums below fetch the rows ahead for both.
                T::head_dots(self.split.row(&self.x, source), grad, rows.now.into(), heads, &mut d);
                let (nodes, slope, to_source) = (&nodes[..], self.terms.slope, &mut to_terms[..heads]);
                if let Some(factors) = &self.terms.factors {
                    let source = factors.source(source, heads);
                    let leaving = LeavingFactors { source, nodes, rows, slope };
                    loops::leaving_adjoint(leaving, &mut alpha, &mut d, to_source);
                } else {
                    if let Some(values) = &self.terms.edges {
                        arrange(&back.order[edges], values, heads, &mut own);
                    }
                    let source = &self.terms.nodes[source * 2 * heads..][..heads];
                    let own = self.terms.edges.as_ref().map(|_| &own[..]);
                    let leaving = LeavingEdges { source, nodes, rows, own, slope };
                    loops::weights_again(leaving, &mut alpha);
                    loops::weights_again_adjoint(leaving, &alpha, &mut d, to_source);
                }
                T::head_sums(grad, rows, &alpha, &self.plan, to_x);
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
            let mut alpha = memory::vec![T::ZERO; d.len()];
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
        let alpha = Arc::new(split.weights(graph, |row, edges, out| held.weights(row, edges, out)));
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
        let terms = Terms::new(terms, edge, graph, slope)?;
        let split = self.require_attended(graph, terms.heads, bias)?;
        let plan = HeadPlan::new(split.heads, split.columns);
        let held = Attention { terms, x: self.values(), bias: bias.map(Self::values), split, plan };
        if !tracked(&inputs) {
            return Self::new(held.forward_alone(), &[graph.num_nodes(), split.columns]);
        }
        let has_edges = edge.is_some();
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
    use super::terms::SPREAD;
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::autograd::no_grad;
    use crate::error::Error;

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

    /// Output and gradients with the factors, and without.
    fn both_ways(terms: &Tensor<f32>, heads: usize, slope: f32) -> Vec<[Vec<f32>; 3]> {
        let graph = graph();
        let values = |seed| random(&[4, 2 * heads], seed).to_vec().into_iter().map(|x| x as f32).collect();
        let (x, grad): (Vec<f32>, Vec<f32>) = (values(0), values(9));
        let split = Heads::new(heads, 2 * heads).unwrap();
        [true, false]
            .map(|factored| {
                let mut terms = Terms::new(terms, None, &graph, slope).unwrap();
                assert!(terms.factors.is_some());
                terms.factors = terms.factors.filter(|_| factored);
                let x = Tensor::new(x.clone(), &[4, 2 * heads]).unwrap().values();
                let plan = HeadPlan::new(heads, 2 * heads);
                let held = Attention { terms, x, bias: None, split, plan };
                let (out, saved) = held.forward();
                let (to_x, to_terms) = held.adjoint(&out, &saved, &grad[..3 * 2 * heads]);
                [out.to_vec(), to_x.to_vec(), to_terms.to_vec()]
            })
            .into()
    }

    #[test]
    fn factors_give_what_exponentials_give() {
        for (heads, slope) in [(1, 0.2), (3, 0.0), (8, 0.2), (20, 1.0)] {
            for scale in [1.0, 6.0] {
                let terms = random(&[4, 2 * heads], 1).to_vec().into_iter().map(|x| (scale * x) as f32);
                let terms = Tensor::new(terms.collect::<Vec<_>>(), &[4, 2 * heads]).unwrap();
                let both = both_ways(&terms, heads, slope);
                for (factored, plain) in both[0].iter().zip(&both[1]) {
                    for (a, b) in factored.iter().zip(plain) {
                        assert!((a - b).abs() <= 2e-5 * b.abs().max(1.0), "{heads} {slope} {scale}: {a} {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn terms_too_far_apart_go_without_factors() {
        let graph = graph();
        let factors = |slope: f64, far: f64| {
            let terms = Tensor::new(vec![far, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], &[4, 2]).unwrap();
            Terms::new(&terms, None, &graph, slope).unwrap().factors.is_some()
        };
        assert!(factors(0.2, SPREAD) && factors(0.2, 1.0 - SPREAD) && !factors(0.2, 0.99 - SPREAD));
        assert!(!factors(0.2, f64::INFINITY) && !factors(-0.1, 0.0) && !factors(1.1, 0.0));
        let x = random(&[4, 1], 0);
        let far = Tensor::new(vec![-900.0, 0.0, 0.0, 0.0, -900.0, 0.0, -901.0, 900.0], &[4, 2]).unwrap();
        let out = x.additive_attention(&far, None, &graph, 0.2, None).unwrap();
        assert!(out.to_vec().iter().all(|value| value.is_finite()));
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
