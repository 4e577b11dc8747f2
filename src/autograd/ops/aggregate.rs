//! Aggregation over a graph on the tape: sum, mean, maximum and softmax over neighbours, weighted or not, and the same
//! over segments and over rows of edges.

#![forbid(unsafe_code)]

use super::linear::column_sums;
use crate::aggregate::{self, Base};
use crate::autograd::tape::{Slot, record, record_adding, tracked};
use crate::autograd::{Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;
use std::str::FromStr;
use std::sync::Arc;

/// What becomes of a node's neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// `sum_j w_ij x_j`.
    Sum,
    /// The sum divided by the number of neighbours, as `torch.sparse.mm(reduce="mean")`; 0 without neighbours.
    Mean,
    /// `max_j w_ij x_j`, column by column; equal largest messages share the gradient evenly, as PyTorch's
    /// `scatter_reduce("amax")`; 0 without neighbours.
    Max,
    /// `sum_j a_ij m_ij` with `m_ij = w_ij x_j` and `a_ij = softmax_j(m_ij)`, column by column (Li et al. 2020,
    /// temperature 1), as PyG's `SoftmaxAggregation`; 0 without neighbours.
    Softmax,
}

impl Reduce {
    /// Whether sums over neighbours commute with linear maps.
    pub fn is_linear(self) -> bool {
        matches!(self, Self::Sum | Self::Mean)
    }

    /// `segment_sum` and the like, for errors.
    fn segment_name(self) -> &'static str {
        match self {
            Self::Sum => "segment_sum",
            Self::Mean => "segment_mean",
            Self::Max => "segment_max",
            Self::Softmax => "segment_softmax",
        }
    }
}

impl FromStr for Reduce {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "sum" => Self::Sum,
            "mean" => Self::Mean,
            "max" => Self::Max,
            "softmax" => Self::Softmax,
            _ => {
                let names = "sum, mean, max or softmax";
                return Err(Error::Config(format!("reduce must be {names}, got {name:?}")));
            }
        })
    }
}

impl<T: Real> Tensor<T> {
    /// Aggregates `self (num_sources, d)` over the neighbours of each node: `(num_nodes, d)`. Weighted by the
    /// graph's own weights, if it has any.
    pub fn aggregate(&self, graph: &Graph, reduce: Reduce) -> Result<Self> {
        self.aggregate_by(graph, reduce, true)
    }

    /// As [`aggregate`](Self::aggregate), without looking at the graph's weights.
    pub fn aggregate_unweighted(&self, graph: &Graph, reduce: Reduce) -> Result<Self> {
        self.aggregate_by(graph, reduce, false)
    }

    fn aggregate_by(&self, graph: &Graph, reduce: Reduce, weighted: bool) -> Result<Self> {
        let columns = self.neighbor_columns(graph)?;
        if !reduce.is_linear() {
            let weights = graph.weights().filter(|_| weighted).map(T::weights);
            let weights = weights.map(|weights| Tensor::new(weights.into_owned(), &[graph.num_edges()]));
            return self.aggregate_messages(graph, weights.transpose()?.as_ref(), reduce, columns);
        }
        let shape = Shape::new(&[graph.num_nodes(), columns])?;
        let out = gathered(graph, &self.values(), columns, (reduce, weighted), Base::Zero);
        let graph = graph.clone();
        Ok(record_adding("aggregate", out, shape, vec![self.clone()], move |mut grad, slots| {
            if reduce == Reduce::Mean {
                aggregate::divide_by_degree(&graph, columns, &mut grad);
            }
            scatter(&graph, &grad, columns, weighted, &mut slots[0]);
        }))
    }

    /// The aggregate added to `base`, a row `(d)` or `(num_nodes, d)`, in one pass; `weighted` says whether the graph's
    /// weights are looked at. Without a tape the result takes the place of a base that nobody else holds.
    pub fn aggregate_onto(&self, graph: &Graph, reduce: Reduce, weighted: bool, base: Self) -> Result<Self> {
        let columns = self.neighbor_columns(graph)?;
        let row = match *base.dims() {
            [length] if length == columns => true,
            [nodes, length] if (nodes, length) == (graph.num_nodes(), columns) => false,
            _ => {
                let shapes = format!(
                    "base of shape {} with {} nodes of {columns} values",
                    base.shape(),
                    graph.num_nodes()
                );
                return Err(Error::Shape(format!("aggregate: {shapes}")));
            }
        };
        if !reduce.is_linear() {
            return self.aggregate_by(graph, reduce, weighted)?.add(&base);
        }
        let shape = Shape::new(&[graph.num_nodes(), columns])?;
        let tracked = tracked(&[self, &base]);
        let kept = tracked.then(|| base.clone());
        let values = match base.into_values() {
            Ok(mut out) if !row && !tracked => {
                gather_into(graph, &self.values(), columns, (reduce, weighted), Base::Out, &mut out);
                return Tensor::new(out, &shape);
            }
            Ok(values) => Arc::new(values),
            Err(values) => values,
        };
        let under = if row { Base::Row(&values) } else { Base::Rows(&values) };
        let out = gathered(graph, &self.values(), columns, (reduce, weighted), under);
        let Some(base) = kept else { return Tensor::new(out, &shape) };
        let graph = graph.clone();
        Ok(record_adding("aggregate", out, shape, vec![self.clone(), base], move |grad, slots| {
            if slots[0].wanted() {
                let divided =
                    (reduce == Reduce::Mean).then(|| aggregate::divided_by_degree(&graph, columns, &grad));
                scatter(&graph, divided.as_ref().unwrap_or(&grad), columns, weighted, &mut slots[0]);
            }
            if slots[1].wanted() {
                slots[1].add(if row { column_sums(&grad, columns) } else { grad });
            }
        }))
    }

    /// As [`aggregate`](Self::aggregate), with one weight per edge in row order, in place of the graph's own;
    /// gradients flow to the weights too: `dw_ij = <g_i, x_j>` for a sum.
    pub fn aggregate_weighted(&self, graph: &Graph, weights: &Self, reduce: Reduce) -> Result<Self> {
        let columns = self.neighbor_columns(graph)?;
        if *weights.dims() != [graph.num_edges()] {
            let message = format!("weights of shape {} for {} edges", weights.shape(), graph.num_edges());
            return Err(Error::Shape(format!("aggregate: {message}")));
        }
        if !reduce.is_linear() {
            return self.aggregate_messages(graph, Some(weights), reduce, columns);
        }
        let (x, w) = (self.values(), weights.values());
        let shape = Shape::new(&[graph.num_nodes(), columns])?;
        let mut out = Buffer::stale(shape.count());
        aggregate::sum(graph, Some(&w), &x, columns, &mut out);
        if reduce == Reduce::Mean {
            aggregate::divide_by_degree(graph, columns, &mut out);
        }
        let graph = graph.clone();
        Ok(record("aggregate", Arc::new(out), shape, [self, weights], move |mut grad, wanted| {
            if reduce == Reduce::Mean {
                aggregate::divide_by_degree(&graph, columns, &mut grad);
            }
            let to_x = wanted[0].then(|| {
                let mut out = Buffer::stale(graph.num_sources() * columns);
                aggregate::sum_adjoint(&graph, Some(&w), &grad, columns, &mut out);
                out
            });
            let to_weights = wanted[1].then(|| {
                let mut out = Buffer::stale(graph.num_edges());
                aggregate::weights_adjoint(&graph, &x, &grad, columns, &mut out);
                out
            });
            [to_x, to_weights]
        }))
    }

    /// Aggregates one row per edge, `self (num_edges, d)` in row order, to one per node: `(num_nodes, d)`.
    pub fn aggregate_edges(&self, graph: &Graph, reduce: Reduce) -> Result<Self> {
        match *self.dims() {
            [edges, _] if edges == graph.num_edges() => self.aggregate(&graph.by_edge(), reduce),
            _ => Err(Error::Shape(format!(
                "aggregate: messages of shape {} for {} edges",
                self.shape(),
                graph.num_edges()
            ))),
        }
    }

    fn neighbor_columns(&self, graph: &Graph) -> Result<usize> {
        match *self.dims() {
            [rows, columns] if rows == graph.num_sources() => Ok(columns),
            _ => Err(Error::Shape(format!(
                "aggregate: x of shape {} over a graph of {} nodes",
                self.shape(),
                graph.num_sources()
            ))),
        }
    }
}

/// The aggregate of `x` over each node's neighbours, added to `base`.
fn gathered<T: Real>(
    graph: &Graph,
    x: &[T],
    columns: usize,
    (reduce, weighted): (Reduce, bool),
    base: Base<'_, T>,
) -> Buffer<T> {
    let mut out = Buffer::stale(graph.num_nodes() * columns);
    gather_into(graph, x, columns, (reduce, weighted), base, &mut out);
    out
}

fn gather_into<T: Real>(
    graph: &Graph,
    x: &[T],
    columns: usize,
    (reduce, weighted): (Reduce, bool),
    base: Base<'_, T>,
    out: &mut [T],
) {
    let weights = graph.weights().filter(|_| weighted).map(T::weights);
    aggregate::onto(graph, weights.as_deref(), x, columns, (reduce == Reduce::Mean, base), out);
}

/// Adds to the gradient of `x` in [`gathered`] the same over the transpose, of gradients that were divided by degrees for a
/// mean.
fn scatter<T: Real>(graph: &Graph, grad: &[T], columns: usize, weighted: bool, to_x: &mut Slot<T>) {
    let (back, how) = (&graph.transposed().graph, (Reduce::Sum, weighted));
    match to_x.sum() {
        Some(sum) => gather_into(back, grad, columns, how, Base::Out, sum),
        sum => *sum = Some(gathered(back, grad, columns, how, Base::Zero)),
    }
}

/// Aggregates rows of `x (N, d)` by segment: row `e` goes to row `segments[e] < count` of the result; an empty segment
/// gives 0.
pub fn segment_reduce<T: Real>(
    x: &Tensor<T>,
    segments: &[u32],
    count: usize,
    reduce: Reduce,
) -> Result<Tensor<T>> {
    let op = reduce.segment_name();
    let (rows, _) = x.shape().matrix(op, "x")?;
    if rows != segments.len() {
        let message = format!("{op}: x of shape {} with {} segments", x.shape(), segments.len());
        return Err(Error::Shape(message));
    }
    if let Some(&segment) = segments.iter().find(|&&segment| segment as usize >= count) {
        return Err(Error::Row(format!("{op}: segment {segment} of {count}")));
    }
    if count > u32::MAX as usize {
        return Err(Error::Config(format!("{op}: at most {} segments, got {count}", u32::MAX)));
    }
    x.aggregate(&Graph::grouping(segments, count), reduce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    const ALL: [Reduce; 4] = [Reduce::Sum, Reduce::Mean, Reduce::Max, Reduce::Softmax];

    /// Four nodes over five sources: a duplicate edge, and node 3 without neighbours.
    fn graph(weights: Option<&[f32]>) -> Graph {
        Graph::from_edges(&[0, 0, 0, 2, 2, 1], &[4, 1, 1, 0, 3, 2], 4, 5, weights).unwrap()
    }

    #[test]
    fn gradients_of_sum_and_mean_to_values_and_weights() {
        let x = random(&[5, 3], 0);
        for reduce in ALL {
            let plain = graph(None);
            gradcheck(std::slice::from_ref(&x), |x| x[0].aggregate(&plain, reduce)).unwrap();
            let weighted = graph(Some(&[0.5, -1.0, 2.0, 3.0, 0.25, 1.5]));
            gradcheck(std::slice::from_ref(&x), |x| x[0].aggregate(&weighted, reduce)).unwrap();
            gradcheck(std::slice::from_ref(&x), |x| x[0].aggregate_unweighted(&weighted, reduce)).unwrap();
            for base in [random(&[3], 2), random(&[4, 3], 2)] {
                let pair = [x.clone(), base];
                gradcheck(&pair, |x| x[0].aggregate_onto(&weighted, reduce, true, x[1].clone())).unwrap();
            }
            let inputs = [x.clone(), random(&[6], 1)];
            gradcheck(&inputs, |x| x[0].aggregate_weighted(&plain, &x[1], reduce)).unwrap();
        }
        for reduce in ALL {
            gradcheck(std::slice::from_ref(&x), |x| segment_reduce(&x[0], &[2, 0, 2, 1, 2], 4, reduce))
                .unwrap();
            gradcheck(&[random(&[6, 3], 0)], |x| x[0].aggregate_edges(&graph(None), reduce)).unwrap();
        }
    }

    #[test]
    fn equal_largest_messages_share_the_gradient() {
        let x = Tensor::parameter(vec![3.0f64, 3.0, 1.0], &[3, 1]).unwrap();
        let graph = Graph::from_edges(&[0, 0, 0, 1, 1], &[0, 1, 2, 0, 0], 2, 3, None).unwrap();
        x.aggregate(&graph, Reduce::Max).unwrap().backward_from(Some(vec![6.0, 10.0].into()), false).unwrap();
        assert_eq!(x.grad().unwrap().to_vec(), [3.0 + 10.0, 3.0, 0.0]);
    }

    #[test]
    fn softmax_is_the_weighted_mean_of_the_formula_and_does_not_overflow() {
        let x = Tensor::new(vec![1.0f64, 2.0, -1.0, 1000.0, 999.0], &[5, 1]).unwrap();
        let graph = Graph::from_edges(&[0, 0, 0, 1, 1], &[0, 1, 2, 3, 4], 2, 5, None).unwrap();
        let e = [1f64.exp(), 2f64.exp(), (-1f64).exp(), 1.0, (-1f64).exp()];
        let expected = [
            (e[0] + 2.0 * e[1] - e[2]) / (e[0] + e[1] + e[2]),
            (1000.0 * e[3] + 999.0 * e[4]) / (e[3] + e[4]),
        ];
        let got = x.aggregate(&graph, Reduce::Softmax).unwrap().to_vec();
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?} {expected:?}");
    }

    #[test]
    fn a_base_is_written_over_only_where_nobody_holds_it() {
        let (x, base) = (random(&[5, 3], 0), random(&[4, 3], 1));
        let held = base.to_vec();
        for reduce in [Reduce::Sum, Reduce::Mean] {
            let beside = x.aggregate_onto(&graph(None), reduce, true, base.clone()).unwrap().to_vec();
            assert_eq!(base.to_vec(), held);
            let own = Tensor::new(held.clone(), &[4, 3]).unwrap();
            assert_eq!(x.aggregate_onto(&graph(None), reduce, true, own).unwrap().to_vec(), beside);
        }
    }

    #[test]
    fn a_node_without_neighbours_gets_zeros() {
        let x = random(&[5, 3], 0);
        for reduce in ALL {
            assert_eq!(x.aggregate(&graph(None), reduce).unwrap().to_vec()[9..], [0.0; 3]);
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let x = random(&[4, 3], 0);
        assert!(x.aggregate(&graph(None), Reduce::Sum).is_err());
        let (five, base) = (random(&[5, 3], 0), random(&[5, 3], 0));
        assert!(five.aggregate_onto(&graph(None), Reduce::Sum, true, base).is_err());
        let weights = random(&[5], 0);
        assert!(random(&[5, 3], 0).aggregate_weighted(&graph(None), &weights, Reduce::Sum).is_err());
        assert!(segment_reduce(&x, &[0, 1, 2, 9], 4, Reduce::Sum).is_err());
    }
}
