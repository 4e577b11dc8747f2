//! How well a graph's edges can be told from inner products of its nodes' embeddings (Kipf & Welling 2016).
//!
//! `p_ij = sigmoid(<z_i, z_j>)`, judged by binary cross entropy: over all pairs of nodes ([`adjacency_reconstruction`]),
//! or over the edges and drawn pairs that are no edges ([`sparse_adjacency`]).

#![forbid(unsafe_code)]

use super::link_prediction::{Pairs, Score, link_prediction};
use super::{Reduction, bce_with_logits};
use crate::autograd::{Shape, Tensor, custom};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::memory;
use crate::number;
use crate::real::Real;
use crate::{rng, threads};
use std::sync::Arc;

/// Binary cross entropy between `sigmoid(<z_i, z_j>)` and the graph's edges over the pairs `i < j`, `(N (N - 1) / 2)`
/// without reduction: row by row of the upper triangle. A pair is an edge if the graph has one in either direction; loops and
/// weights are ignored. Edges count `positive_weight` times (Kipf & Welling take the number of other pairs per edge). Time and
/// memory grow with `N^2`.
pub fn adjacency_reconstruction<T: Real>(
    embeddings: &Tensor<T>,
    graph: &Graph,
    positive_weight: f64,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    let (nodes, _) = embeddings.shape().matrix("adjacency_reconstruction", "embeddings")?;
    graph.require_square("adjacency_reconstruction")?;
    if graph.num_nodes() != nodes || nodes < 2 {
        let shapes = format!("embeddings of shape {} for {} nodes", embeddings.shape(), graph.num_nodes());
        return Err(Error::Shape(format!("adjacency_reconstruction: two nodes are needed, got {shapes}")));
    }
    number::positive("positive_weight", positive_weight)?;
    let pairs = nodes.saturating_mul(nodes - 1) / 2;
    // Of the pairs (i, j) with j > i, those of smaller i come first.
    let first = |row: usize| row * (2 * nodes - row - 1) / 2;
    let mut edges = memory::vec![T::ZERO; pairs];
    for (row, &column) in graph.targets().into_iter().zip(graph.indices()) {
        let (low, high) = (row.min(column) as usize, row.max(column) as usize);
        if low < high {
            edges[first(low) + high - low - 1] = T::ONE;
        }
    }
    let weights =
        Tensor::new(Buffer::copy_of(&edges), &[pairs])?.affine(T::of(positive_weight - 1.0), T::ONE)?;
    let edges = Tensor::new(edges, &[pairs])?;
    let scores = upper_triangle(&embeddings.matmul(&embeddings.transpose()?)?)?;
    let weights = (positive_weight != 1.0).then_some(&weights);
    bce_with_logits(&scores, &edges, weights, reduction)
}

/// The values above the diagonal of a square matrix, row by row.
fn upper_triangle<T: Real>(matrix: &Tensor<T>) -> Result<Tensor<T>> {
    let (nodes, values) = (matrix.dims()[0], matrix.values());
    let above = move |row: usize| row * nodes + row + 1..(row + 1) * nodes;
    let kept: Vec<T> = memory::collect((0..nodes).flat_map(|row| values[above(row)].iter().copied()));
    let shape = Shape::new(&[kept.len()])?;
    Ok(custom("upper_triangle", Arc::new(Buffer::from(kept)), shape, [matrix], move |grad, _| {
        let (mut out, mut rest) = (Buffer::zeros(nodes * nodes), &grad[..]);
        for row in 0..nodes {
            let (own, others) = rest.split_at(nodes - row - 1);
            out[above(row)].copy_from_slice(own);
            rest = others;
        }
        [Some(out)]
    }))
}

/// Binary cross entropy of `edges` against `num_negatives` pairs per edge drawn by [`negative_edges`]; without reduction
/// the losses of the edges come first.
pub fn sparse_adjacency<T: Real>(
    embeddings: &Tensor<T>,
    edges: Pairs<'_>,
    num_negatives: usize,
    seed: u64,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    let (nodes, _) = embeddings.shape().matrix("sparse_adjacency", "embeddings")?;
    let (sources, targets) = negative_edges(edges, nodes, num_negatives, seed)?;
    if sources.is_empty() {
        let message =
            format!("sparse_adjacency: every pair of the {nodes} nodes is an edge, none is left to draw");
        return Err(Error::Config(message));
    }
    let negative = Pairs { sources: &sources, targets: &targets };
    link_prediction(embeddings, edges, negative, Score::Dot, reduction)
}

/// For each edge `(u, v)`, `count` pairs `(u, w)` with `w` drawn evenly, with repeats, from the nodes below `nodes` that
/// are not `u` and that no edge joins to `u` in either direction; none for a `u` that is joined to all.
pub fn negative_edges(
    edges: Pairs<'_>,
    nodes: usize,
    count: usize,
    seed: u64,
) -> Result<(Vec<u32>, Vec<u32>)> {
    edges.check("negative_edges", "edges", nodes)?;
    if count == 0 {
        return Err(Error::Config("num_negatives must be at least 1, got 0".into()));
    }
    let own = 0..nodes as u32;
    let with_own = |first: &[u32], second: &[u32]| -> Vec<u32> {
        memory::collect(first.iter().chain(second).copied().chain(own.clone()))
    };
    let joined = Graph::from_edges(
        &with_own(edges.sources, edges.targets),
        &with_own(edges.targets, edges.sources),
        nodes,
        nodes,
        None,
    )?;
    let drawn = threads::map(edges.sources.len(), |edge| {
        let mut excluded = memory::copy_of(joined.neighbors(edges.sources[edge] as usize));
        excluded.dedup();
        let left = (nodes - excluded.len()) as u64;
        let mut draws = rng::stream(seed, "negative edges", edge as u64);
        let draws = (0..if left > 0 { count } else { 0 }).map(|_| draws.below(left) as usize);
        memory::collect(draws.map(|rank| unlisted(&excluded, rank)))
    });
    let sources = memory::collect(
        edges.sources.iter().zip(&drawn).flat_map(|(&u, drawn)| drawn.iter().map(move |_| u)),
    );
    let targets = memory::collect(drawn.iter().flatten().copied());
    Ok((sources, targets))
}

/// The number of the given rank among those that a rising list does not hold.
fn unlisted(list: &[u32], rank: usize) -> u32 {
    let (mut low, mut high) = (0, list.len());
    while low < high {
        let middle = (low + high) / 2;
        // Below list[middle] there are list[middle] - middle unlisted numbers.
        if list[middle] as usize - middle <= rank {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    (rank + low) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use proptest::prelude::*;

    const EDGES: Pairs<'static> = Pairs { sources: &[0, 1, 1], targets: &[1, 2, 3] };

    #[test]
    fn gradients() {
        let graph = Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 0, 3], 4, 4, None).unwrap();
        let x = [random(&[4, 3], 0)];
        for reduction in Reduction::ALL {
            for weight in [1.0, 2.5] {
                gradcheck(&x, |x| adjacency_reconstruction(&x[0], &graph, weight, reduction)).unwrap();
            }
            gradcheck(&x, |x| sparse_adjacency(&x[0], EDGES, 2, 7, reduction)).unwrap();
        }
    }

    #[test]
    fn the_dense_loss_by_hand() {
        // Given twice, in one direction, beside a loop; pairs (0, 1), (0, 2), (1, 2).
        let graph = Graph::from_edges(&[2, 2, 1], &[0, 0, 1], 3, 3, None).unwrap();
        let z = Tensor::new(vec![1.0f64, 2.0, -3.0], &[3, 1]).unwrap();
        let got = adjacency_reconstruction(&z, &graph, 3.0, Reduction::None).unwrap().to_vec();
        let none = |s: f64| s.exp().ln_1p();
        let expected = [none(2.0), 3.0 * none(3.0), none(-6.0)];
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?} {expected:?}");
        assert!(adjacency_reconstruction(&z, &graph, 0.0, Reduction::Mean).is_err());
        assert!(adjacency_reconstruction(&random(&[2, 1], 0), &graph, 1.0, Reduction::Mean).is_err());
        let one = Graph::from_edges(&[], &[], 1, 1, None).unwrap();
        assert!(adjacency_reconstruction(&random(&[1, 1], 0), &one, 1.0, Reduction::Mean).is_err());
    }

    #[test]
    fn a_complete_graph_leaves_nothing_to_draw() {
        let edges = Pairs { sources: &[0], targets: &[1] };
        assert_eq!(negative_edges(edges, 2, 5, 0).unwrap(), (vec![], vec![]));
        assert!(matches!(
            sparse_adjacency(&random(&[2, 3], 0), edges, 5, 0, Reduction::Mean),
            Err(Error::Config(_))
        ));
        assert!(negative_edges(edges, 2, 0, 0).is_err() && negative_edges(edges, 1, 1, 0).is_err());
    }

    proptest! {
        #[test]
        fn negatives_are_never_edges_and_reach_every_other_node(
            nodes in 2usize..12, pairs in prop::collection::vec((0u32..12, 0u32..12), 1..20), seed in 0u64..99,
        ) {
            let (sources, targets): (Vec<u32>, Vec<u32>) =
                pairs.into_iter().map(|(u, v)| (u % nodes as u32, v % nodes as u32)).unzip();
            let edges = Pairs { sources: &sources, targets: &targets };
            let (us, ws) = negative_edges(edges, nodes, 200, seed).unwrap();
            let joined = |u: u32, w: u32| {
                u == w || sources.iter().zip(&targets).any(|(&a, &b)| (a, b) == (u, w) || (a, b) == (w, u))
            };
            prop_assert!(us.iter().zip(&ws).all(|(&u, &w)| (w as usize) < nodes && !joined(u, w)));
            for &u in &sources {
                let open: Vec<u32> = (0..nodes as u32).filter(|&w| !joined(u, w)).collect();
                let drawn = |w: &u32| us.iter().zip(&ws).any(|(a, b)| (a, b) == (&u, w));
                prop_assert!(open.iter().all(drawn), "200 draws miss one of at most 11 nodes");
            }
        }
    }
}
