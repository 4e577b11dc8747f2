//! Layers of one's own: what an edge sends, how a node's messages become one row, and what the node makes of it
//! (Gilmer et al. 2017; PyG's `MessagePassing`).
//!
//! `out_i = update(aggregate_j message(x_i, x_j, e_ij), x_i)`.

#![forbid(unsafe_code)]

use super::target_rows;
use crate::autograd::{Reduce, Tensor};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::memory;
use crate::real::Real;

/// The edges of a graph in row order, with what their ends hold.
#[derive(Debug)]
pub struct Edges<'a, T: Real> {
    x: &'a Tensor<T>,
    graph: &'a Graph,
    attributes: Option<&'a Tensor<T>>,
}

impl<T: Real> Edges<'_, T> {
    /// Per edge, the row of the node that aggregates: `(E, d)`.
    pub fn x_i(&self) -> Result<Tensor<T>> {
        self.x.index_select(&self.graph.targets())
    }

    /// Per edge, the row of the neighbour: `(E, d)`.
    pub fn x_j(&self) -> Result<Tensor<T>> {
        self.x.index_select(self.graph.indices())
    }

    /// Per edge, its weight: `(E, 1)`, 1 in a graph without weights.
    pub fn weights(&self) -> Result<Tensor<T>> {
        let count = self.graph.num_edges();
        match self.graph.weights() {
            Some(weights) => Tensor::new(T::weights(weights).into_owned(), &[count, 1]),
            None => Tensor::new(memory::vec![T::ONE; count], &[count, 1]),
        }
    }

    /// Per edge in row order, its attributes, where they were given.
    pub fn attributes(&self) -> Option<&Tensor<T>> {
        self.attributes
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        self.graph
    }
}

/// A layer that passes messages along edges.
///
/// ```
/// use ruvector_gnn::autograd::Tensor;
/// use ruvector_gnn::graph::Graph;
/// use ruvector_gnn::nn::{Edges, MessagePassing};
///
/// /// The sum of the differences to all neighbours.
/// struct Laplacian;
/// impl MessagePassing<f32> for Laplacian {
///     fn message(&self, edges: &Edges<'_, f32>) -> ruvector_gnn::Result<Tensor<f32>> {
///         edges.x_i()?.sub(&edges.x_j()?)
///     }
/// }
/// let graph = Graph::from_edges(&[0, 0, 1], &[1, 2, 0], 3, 3, None)?;
/// let x = Tensor::new(vec![1.0, 2.0, 5.0], &[3, 1])?;
/// assert_eq!(Laplacian.propagate(&x, &graph, None)?.to_vec(), [-5.0, 1.0, 0.0]);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
pub trait MessagePassing<T: Real> {
    /// One row per edge, in row order.
    fn message(&self, edges: &Edges<'_, T>) -> Result<Tensor<T>>;

    /// How a node's messages become one row, unless [`aggregate`](Self::aggregate) says otherwise.
    fn reduce(&self) -> Reduce {
        Reduce::Sum
    }

    /// `(E, d)` messages in row order -> `(N, d)`.
    fn aggregate(&self, messages: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        messages.aggregate_edges(graph, self.reduce())
    }

    /// The new rows, from what was aggregated and from the old ones.
    fn update(&self, aggregated: &Tensor<T>, _x: &Tensor<T>) -> Result<Tensor<T>> {
        Ok(aggregated.clone())
    }

    /// Runs the three over `x (num_sources, d)` and a graph, with `update` given the rows of its nodes; `attributes (E, ..)` are in row order.
    fn propagate(&self, x: &Tensor<T>, graph: &Graph, attributes: Option<&Tensor<T>>) -> Result<Tensor<T>> {
        let (own, edges) = (target_rows("propagate", x, graph)?, graph.num_edges());
        if let Some(given) = attributes.filter(|given| given.dims().first() != Some(&edges)) {
            let shapes = format!("attributes of shape {} for {edges} edges", given.shape());
            return Err(Error::Shape(format!("propagate: {shapes}")));
        }
        let messages = self.message(&Edges { x, graph, attributes })?;
        self.update(&self.aggregate(&messages, graph)?, &own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::nn::{GcnLayer, Module};

    /// A graph convolution over a normalized graph, written anew.
    struct Convolution(GcnLayer<f64>);

    impl MessagePassing<f64> for Convolution {
        fn message(&self, edges: &Edges<'_, f64>) -> Result<Tensor<f64>> {
            edges.weights()?.mul(&edges.x_j()?)
        }

        fn update(&self, aggregated: &Tensor<f64>, _x: &Tensor<f64>) -> Result<Tensor<f64>> {
            aggregated.linear(&self.0.lin.weight, self.0.bias.as_ref())
        }
    }

    /// Attention by the scalar product of both ends and the edge's attributes.
    struct Attention;

    impl MessagePassing<f64> for Attention {
        fn message(&self, edges: &Edges<'_, f64>) -> Result<Tensor<f64>> {
            let attributes = edges.attributes().ok_or(Error::Config("attributes are needed".into()))?;
            let scores = edges.x_i()?.mul(&edges.x_j()?)?.add(attributes)?.sum_axis(1, true)?;
            scores.edge_softmax(edges.graph())?.mul(&edges.x_j()?)
        }
    }

    fn graph() -> Graph {
        Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 2, 3], 4, 4, Some(&[1.0, 2.0, 0.5, 3.0])).unwrap()
    }

    #[test]
    fn a_graph_convolution_written_anew_is_the_layer() {
        let layer = GcnLayer::<f64>::new(3, 2, true, 1).unwrap();
        let (x, normalized) = (random(&[4, 3], 0), graph().gcn_normalize(true).unwrap());
        let expected = layer.forward(&x, &graph()).unwrap().to_vec();
        let anew = Convolution(layer.clone());
        let got = anew.propagate(&x, &normalized, None).unwrap().to_vec();
        assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-14));
        let inputs = [layer.parameters(), vec![x]].concat();
        gradcheck(&inputs, |x| anew.propagate(&x[2], &normalized, None)).unwrap();
    }

    #[test]
    fn gradients_to_attributes_and_wrong_shapes() {
        let (x, attributes) = (random(&[4, 3], 0), random(&[4, 3], 1));
        gradcheck(&[x.clone(), attributes], |x| Attention.propagate(&x[0], &graph(), Some(&x[1]))).unwrap();
        assert!(Attention.propagate(&x, &graph(), Some(&random(&[3, 3], 0))).is_err());
        assert!(Attention.propagate(&random(&[3, 3], 0), &graph(), None).is_err());
    }
}
