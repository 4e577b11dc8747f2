//! The Laplacian's quadratic form: joined nodes should have embeddings that are alike (Belkin & Niyogi 2003).
//!
//! `w_ij |h_i - h_j|^2` for each edge; normalized by degrees, `w_ij |h_i / sqrt(d_i) - h_j / sqrt(d_j)|^2`. Over both directions of
//! all edges the sum is `2 tr(H' L H)` with `L = D - W`, or `I - D^(-1/2) W D^(-1/2)`.

#![forbid(unsafe_code)]

use super::Reduction;
use super::pairs::squared_distances;
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::memory;
use crate::real::Real;

/// The loss of each edge of `graph`, which needs as many nodes as `embeddings (N, d)` has rows; `d_i` is the sum of the weights of the
/// edges of node `i`'s row. Without edges it is 0.
pub fn laplacian<T: Real>(
    embeddings: &Tensor<T>,
    graph: &Graph,
    normalized: bool,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    let (nodes, _) = embeddings.shape().matrix("laplacian", "embeddings")?;
    graph.require_square("laplacian")?;
    if graph.num_nodes() != nodes {
        let counts = format!("embeddings has {nodes} rows for a graph of {} nodes", graph.num_nodes());
        return Err(Error::Shape(format!("laplacian: {counts}")));
    }
    let edges = graph.num_edges();
    if edges == 0 && reduction == Reduction::Mean {
        // The mean of no edges, with a gradient of 0.
        return embeddings.sum()?.affine(T::ZERO, T::ZERO);
    }
    let weight = |edge: usize| graph.weights().map_or(1.0, |weights| f64::from(weights[edge]));
    let rows = if normalized {
        let mut scales = memory::with_capacity(nodes);
        for node in 0..nodes {
            let degree: f64 = graph.edges(node).map(weight).sum();
            if degree < 0.0 || graph.edges(node).any(|edge| weight(edge) < 0.0) {
                let message = "laplacian: weights must not be negative where degrees normalize them";
                return Err(Error::Config(message.into()));
            }
            scales.push(if degree > 0.0 { T::of(1.0 / degree.sqrt()) } else { T::ZERO });
        }
        embeddings.mul(&Tensor::new(scales, &[nodes, 1])?)?
    } else {
        embeddings.clone()
    };
    let (targets, sources) = (rows.index_select(&graph.targets())?, rows.index_select(graph.indices())?);
    let losses = squared_distances(&targets, &sources)?;
    let losses = match graph.weights() {
        None => losses,
        Some(weights) => {
            let weights: Vec<T> = memory::collect(weights.iter().map(|&weight| T::of(f64::from(weight))));
            losses.mul(&Tensor::new(weights, &[edges])?)?
        }
    };
    reduction.apply(&losses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    fn graph(weights: Option<&[f32]>) -> Graph {
        Graph::from_edges(&[0, 1, 1, 2], &[1, 0, 2, 1], 4, 4, weights).unwrap()
    }

    #[test]
    fn gradients_weighted_and_normalized() {
        let x = [random(&[4, 3], 0)];
        for weights in [None, Some(&[2.0, 2.0, 0.5, 0.5][..])] {
            for reduction in Reduction::ALL {
                for normalized in [false, true] {
                    gradcheck(&x, |x| laplacian(&x[0], &graph(weights), normalized, reduction)).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_sum_over_both_directions_is_twice_the_quadratic_form() {
        let h = [1.0f64, -2.0, 0.5, 7.0];
        let x = Tensor::new(h.to_vec(), &[4, 1]).unwrap();
        let sum = |normalized| {
            laplacian(&x, &graph(Some(&[2.0, 2.0, 0.5, 0.5])), normalized, Reduction::Sum)
                .unwrap()
                .item()
                .unwrap()
        };
        let (d, w): ([f64; 3], _) = ([2.0, 2.5, 0.5], [(0, 1, 2.0), (1, 2, 0.5)]);
        let plain: f64 = w.iter().map(|&(i, j, w): &(usize, usize, f64)| w * (h[i] - h[j]).powi(2)).sum();
        let scaled: f64 =
            w.iter().map(|&(i, j, w)| w * (h[i] / d[i].sqrt() - h[j] / d[j].sqrt()).powi(2)).sum();
        assert!((sum(false) - 2.0 * plain).abs() < 1e-12 && (sum(true) - 2.0 * scaled).abs() < 1e-12);
    }

    #[test]
    fn no_edges_are_no_loss_and_what_does_not_fit_is_refused() {
        let none = Graph::from_edges(&[], &[], 4, 4, None).unwrap();
        let x = random(&[4, 3], 0);
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let loss = laplacian(&x, &none, true, reduction).unwrap();
            assert_eq!(loss.item().unwrap(), 0.0);
            loss.backward().unwrap();
        }
        assert!(laplacian(&random(&[3, 3], 0), &none, false, Reduction::Mean).is_err());
        assert!(laplacian(&x, &graph(Some(&[-1.0, 1.0, 1.0, 1.0])), true, Reduction::Mean).is_err());
    }
}
