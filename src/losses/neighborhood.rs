//! InfoNCE on a graph: what is near in the graph is a positive (after GraphCL-like objectives; van den Oord et al. 2018).
//!
//! With cosines `s`, positives `P_i` and candidates `C_i = P_i + negatives of i`,
//! `l_i = ln sum_{c in C_i} e^(s_ic / t) - mean_{p in P_i} s_ip / t`; several hops add up, `sum_h w_h l_i^(h)`, where the positives of
//! hop `h` are the nodes at just that distance.

#![forbid(unsafe_code)]

use super::link_prediction::pair_scores;
use super::{Pairs, Reduction, Score};
use crate::autograd::{Reduce, Tensor, segment_reduce};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::memory;
use crate::number;
use crate::real::Real;
use crate::threads;

/// Negatives of each node: row `i` has `nodes[indptr[i]..indptr[i + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct Negatives<'a> {
    /// Where each node's negatives begin, and their number.
    pub indptr: &'a [usize],
    /// The negatives of all nodes.
    pub nodes: &'a [u32],
}

/// The loss of `embeddings (N, d)` where the neighbours in `graph` are the positives. Nodes without any have no loss: it is 0
/// without reduction, and the mean is over the others, 0 if there are none.
pub fn neighborhood_contrastive<T: Real>(
    embeddings: &Tensor<T>,
    graph: &Graph,
    negatives: Negatives<'_>,
    temperature: f64,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    multi_hop_contrastive(embeddings, graph, &[1.0], negatives, temperature, reduction)
}

/// The same for several hops: `hop_weights[h - 1]` weighs the nodes at distance `h`.
pub fn multi_hop_contrastive<T: Real>(
    embeddings: &Tensor<T>,
    graph: &Graph,
    hop_weights: &[f64],
    negatives: Negatives<'_>,
    temperature: f64,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    const OP: &str = "multi_hop_contrastive";
    number::positive("temperature", temperature)?;
    let (nodes, _) = embeddings.shape().matrix(OP, "embeddings")?;
    graph.require_square(OP)?;
    if graph.num_nodes() != nodes {
        let message = format!("{OP}: embeddings has {nodes} rows for a graph of {} nodes", graph.num_nodes());
        return Err(Error::Shape(message));
    }
    if hop_weights.is_empty() {
        return Err(Error::Config("hop_weights must have a weight for each hop, got none".into()));
    }
    hop_weights.iter().try_for_each(|&weight| number::non_negative("hop_weights", weight).map(drop))?;
    check(negatives, nodes)?;
    let levels = threads::map(nodes, |node| levels(graph, node as u32, hop_weights.len()));
    let mut total: Option<Tensor<T>> = None;
    for (hop, &weight) in hop_weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        let positives = |node: usize| &levels[node][hop][..];
        let Some(losses) = of_hop(embeddings, positives, negatives, temperature)? else { continue };
        let losses = losses.affine(T::of(weight), T::ZERO)?;
        total = Some(match total {
            Some(total) => total.add(&losses)?,
            None => losses,
        });
    }
    let losses = match total {
        Some(losses) => losses,
        // A loss of nothing, with a gradient of 0.
        None => embeddings.sum_axis(-1, false)?.affine(T::ZERO, T::ZERO)?,
    };
    let taught = levels.iter().filter(|levels| {
        levels.iter().zip(hop_weights).any(|(level, &weight)| weight > 0.0 && !level.is_empty())
    });
    let count = taught.count().max(1);
    match reduction {
        Reduction::Mean => losses.sum()?.affine(T::of(1.0 / count as f64), T::ZERO),
        other => other.apply(&losses),
    }
}

fn check(negatives: Negatives<'_>, nodes: usize) -> Result<()> {
    let Negatives { indptr, nodes: named } = negatives;
    let rising = indptr.is_sorted() && indptr.first() == Some(&0) && indptr.last() == Some(&named.len());
    if indptr.len() != nodes + 1 || !rising {
        return Err(Error::Shape(format!(
            "non_neighbors must have {nodes} rows, got {}",
            indptr.len().max(1) - 1
        )));
    }
    match named.iter().find(|&&node| node as usize >= nodes) {
        Some(node) => Err(Error::Row(format!("non_neighbors names node {node} of {nodes}"))),
        None => Ok(()),
    }
}

/// The nodes at distance 1, 2, .. of a node, each list ascending.
fn levels(graph: &Graph, node: u32, hops: usize) -> Vec<Vec<u32>> {
    threads::checkpoint();
    let (mut seen, mut frontier) = (vec![node], vec![node]);
    let mut levels = Vec::with_capacity(hops);
    for _ in 0..hops {
        let reached = frontier.iter().flat_map(|&node| graph.neighbors(node as usize)).copied();
        let mut next: Vec<u32> = memory::collect(reached.filter(|node| seen.binary_search(node).is_err()));
        next.sort_unstable();
        next.dedup();
        seen.extend_from_slice(&next);
        seen.sort_unstable();
        frontier = memory::copy_of(&next);
        levels.push(next);
    }
    levels
}

/// The losses `(N,)` of one hop; `None` if no node has a positive.
fn of_hop<'a, T: Real>(
    embeddings: &Tensor<T>,
    positives: impl Fn(usize) -> &'a [u32],
    negatives: Negatives<'_>,
    temperature: f64,
) -> Result<Option<Tensor<T>>> {
    let nodes = embeddings.dims()[0];
    let (mut anchors, mut candidates, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for node in 0..nodes {
        let own = positives(node);
        if own.is_empty() {
            continue;
        }
        let others = &negatives.nodes[negatives.indptr[node]..negatives.indptr[node + 1]];
        for (number, &candidate) in own.iter().chain(others).enumerate() {
            memory::push(&mut anchors, node as u32);
            memory::push(&mut candidates, candidate);
            let share = if number < own.len() { T::of(1.0 / own.len() as f64) } else { T::ZERO };
            memory::push(&mut shares, share);
        }
    }
    if anchors.is_empty() {
        return Ok(None);
    }
    let pairs = Pairs { sources: &anchors, targets: &candidates };
    let scores = pair_scores(embeddings, pairs, Score::Cosine)?.affine(T::of(1.0 / temperature), T::ZERO)?;
    // Constants taken off before the exponential, and added to the logarithm: the greatest of each anchor.
    let mut greatest = memory::vec![T::of(f64::NEG_INFINITY); nodes];
    for (&anchor, &score) in anchors.iter().zip(scores.values().iter()) {
        let most = &mut greatest[anchor as usize];
        *most = crate::real::larger(*most, score);
    }
    let count = anchors.len();
    let off = Tensor::new(memory::collect::<T>(anchors.iter().map(|&at| greatest[at as usize])), &[count])?;
    let shifted = scores.sub(&off)?;
    let sums = segment_reduce(&shifted.exp()?.reshape(&[count, 1])?, &anchors, nodes, Reduce::Sum)?;
    let chosen = shifted.mul(&Tensor::new(shares, &[count])?)?.reshape(&[count, 1])?;
    let chosen = segment_reduce(&chosen, &anchors, nodes, Reduce::Sum)?;
    // An anchor without positives has an empty sum: 1 in its place gives it a loss of 0.
    let empty: Vec<T> = memory::collect(
        greatest.iter().map(|&most| if most == T::of(f64::NEG_INFINITY) { T::ONE } else { T::ZERO }),
    );
    let logs = sums.add(&Tensor::new(empty, &[nodes, 1])?)?.log()?;
    Ok(Some(logs.sub(&chosen)?.reshape(&[nodes])?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::losses::info_nce;

    /// 0 - 1 - 2 - 3, and 4 alone.
    fn path() -> Graph {
        Graph::from_edges(&[0, 1, 1, 2, 2, 3], &[1, 0, 2, 1, 3, 2], 5, 5, None).unwrap()
    }

    const NEGATIVES: Negatives<'static> =
        Negatives { indptr: &[0, 2, 3, 3, 4, 6], nodes: &[3, 4, 4, 0, 1, 2] };

    #[test]
    fn gradients_at_every_hop() {
        let x = [random(&[5, 3], 0)];
        for reduction in Reduction::ALL {
            for weights in [&[1.0][..], &[1.0, 0.5], &[0.0, 2.0, 0.25]] {
                gradcheck(&x, |x| multi_hop_contrastive(&x[0], &path(), weights, NEGATIVES, 0.5, reduction))
                    .unwrap();
            }
        }
    }

    #[test]
    fn one_node_is_info_nce_with_its_neighbours() {
        let x = random(&[5, 3], 0);
        let losses = neighborhood_contrastive(&x, &path(), NEGATIVES, 0.2, Reduction::None).unwrap().to_vec();
        let row = |nodes: &[u32]| x.index_select(nodes).unwrap();
        let expected = info_nce(
            &row(&[1]),
            &row(&[0, 2]).reshape(&[1, 2, 3]).unwrap(),
            Some(&row(&[4])),
            0.2,
            Reduction::Mean,
        );
        assert!((losses[1] - expected.unwrap().item().unwrap()).abs() < 1e-12);
        assert_eq!(losses[4], 0.0, "it has no neighbour");
        let mean = neighborhood_contrastive(&x, &path(), NEGATIVES, 0.2, Reduction::Mean).unwrap();
        assert!((mean.item().unwrap() - losses.iter().sum::<f64>() / 4.0).abs() < 1e-12);
    }

    #[test]
    fn hops_are_distances() {
        assert_eq!(levels(&path(), 0, 4), [vec![1], vec![2], vec![3], vec![]]);
        assert_eq!(levels(&path(), 1, 2), [vec![0, 2], vec![3]]);
    }

    #[test]
    fn a_low_temperature_and_no_edges_stay_finite() {
        let x =
            Tensor::parameter(vec![1.0f32, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0], &[5, 2]).unwrap();
        let loss = neighborhood_contrastive(&x, &path(), NEGATIVES, 0.01, Reduction::Sum).unwrap();
        loss.backward().unwrap();
        assert!(loss.item().unwrap() > 100.0 && loss.item().unwrap().is_finite());
        assert!(x.grad().unwrap().iter().all(|value| value.is_finite()));
        let none = Graph::from_edges(&[], &[], 5, 5, None).unwrap();
        let loss = neighborhood_contrastive(&x, &none, NEGATIVES, 0.1, Reduction::Mean).unwrap();
        assert_eq!(loss.item().unwrap(), 0.0);
        loss.backward().unwrap();
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let x = random(&[5, 3], 0);
        let refused = |x: &Tensor<f64>, weights: &[f64], negatives, t| {
            multi_hop_contrastive(x, &path(), weights, negatives, t, Reduction::Mean).is_err()
        };
        assert!(refused(&random(&[4, 3], 0), &[1.0], NEGATIVES, 1.0));
        assert!(refused(&x, &[], NEGATIVES, 1.0) && refused(&x, &[-1.0], NEGATIVES, 1.0));
        assert!(refused(&x, &[1.0], NEGATIVES, 0.0));
        assert!(refused(&x, &[1.0], Negatives { indptr: &[0, 1], nodes: &[1] }, 1.0));
        assert!(refused(&x, &[1.0], Negatives { indptr: &[0, 1, 1, 1, 1, 1], nodes: &[9] }, 1.0));
    }
}
