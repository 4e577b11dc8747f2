//! Search as a function with gradients: soft choices of neighbours, level by level.
//!
//! [`differentiable_search`] turns cosine similarities into weights and keeps the largest. [`hierarchical_forward`] walks
//! down the levels of an index with it: at each level the state moves halfway to the weighted sum of what it chose, and
//! the level's layer updates it from the chosen rows.

#![forbid(unsafe_code)]

use crate::autograd::{Shape, Tensor, custom};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::memory;
use crate::number;
use crate::real::Real;
use crate::threads;
use std::cmp::Ordering;
use std::sync::Arc;

/// What a soft choice kept for each query, best first.
#[derive(Clone, Debug)]
pub struct Choice<T: Real> {
    /// Rows of the candidates, `B` times as many as there are columns in `weights`.
    pub indices: Vec<u32>,
    /// `(B, min(k, n))`.
    pub weights: Tensor<T>,
}

/// A layer as [`hierarchical_forward`] calls it: `layer(x, graph)`.
pub type LevelLayer<'a, T> = dyn Fn(&Tensor<T>, &Graph) -> Result<Tensor<T>> + 'a;

/// `w_j = e^(cos(q, c_j) / t) / sum over all candidates`, of which the `k` largest are kept, ties by lower row (fewer where
/// there are fewer candidates). `queries (B, d)`, `candidates (n, d)`; gradients flow to both. The weights kept need not
/// sum to 1, and at temperature 1 they differ little: cosines span only 2.
///
/// ```
/// use ruvector_gnn::{autograd::Tensor, search::differentiable_search};
/// let query = Tensor::new(vec![1.0f32, 0.0], &[1, 2])?;
/// let candidates = Tensor::new(vec![0.0, 1.0, 2.0, 0.0], &[2, 2])?;
/// let choice = differentiable_search(&query, &candidates, 1, 0.1)?;
/// assert_eq!(choice.indices, [1]);
/// assert!(choice.weights.item()? > 0.999);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
pub fn differentiable_search<T: Real>(
    queries: &Tensor<T>,
    candidates: &Tensor<T>,
    k: usize,
    temperature: f64,
) -> Result<Choice<T>> {
    let (_, dim) = queries.shape().matrix("differentiable_search", "query")?;
    let (count, columns) = candidates.shape().matrix("differentiable_search", "candidates")?;
    if columns != dim || count == 0 {
        let shapes = format!("query {} and candidates {}", queries.shape(), candidates.shape());
        return Err(Error::Shape(format!(
            "differentiable_search: {shapes} do not fit, or nothing to choose from"
        )));
    }
    if k == 0 {
        return Err(Error::Config("k must be at least 1, got 0".into()));
    }
    number::positive("temperature", temperature)?;
    let cosines = queries.normalize()?.matmul(&candidates.normalize()?.transpose()?)?;
    largest(&cosines.affine(T::of(1.0 / temperature), T::ZERO)?.softmax(-1)?, k.min(count))
}

/// The `k` largest values of each row, with their columns; the gradient goes to where they stood.
fn largest<T: Real>(weights: &Tensor<T>, k: usize) -> Result<Choice<T>> {
    let (rows, columns) = weights.shape().matrix("differentiable_search", "weights")?;
    let values = weights.values();
    let chosen = threads::map(rows, |row| {
        let values = &values[row * columns..][..columns];
        let before = |&a: &u32, &b: &u32| {
            let order = values[b as usize].partial_cmp(&values[a as usize]);
            order.unwrap_or(Ordering::Equal).then(a.cmp(&b))
        };
        let mut order: Vec<u32> = memory::collect(0..columns as u32);
        if k < columns {
            order.select_nth_unstable_by(k, before);
            order.truncate(k);
        }
        order.sort_unstable_by(before);
        order
    });
    let indices: Vec<u32> = memory::collect(chosen.iter().flatten().copied());
    let places: Vec<usize> =
        memory::collect(indices.iter().enumerate().map(|(at, &column)| at / k * columns + column as usize));
    let kept: Vec<T> = memory::collect(places.iter().map(|&place| values[place]));
    let shape = Shape::new(&[rows, k])?;
    let weights = custom("top_k", Arc::new(Buffer::from(kept)), shape, [weights], move |grad, _| {
        let mut out = Buffer::zeros(rows * columns);
        places.iter().zip(grad.iter()).for_each(|(&place, &grad)| out[place] = grad);
        [Some(out)]
    });
    Ok(Choice { indices, weights })
}

/// What a level's layer is called with.
#[derive(Clone, Debug)]
pub struct Star<T: Real> {
    /// Row `b < B`: the state of query `b`, moved; then the rows that each query chose.
    pub x: Tensor<T>,
    /// Node `b < B` aggregates from the rows that query `b` chose, with the weights of the choice as edge weights, through
    /// which no gradient flows; the chosen rows have no neighbours.
    pub graph: Graph,
}

/// One level before its layer: the `k` candidates that each state chooses, and the state halfway between itself and their
/// weighted sum, `(s + sum_j w_j c_j) / 2`.
pub fn gather_level<T: Real>(
    states: &Tensor<T>,
    candidates: &Tensor<T>,
    k: usize,
    temperature: f64,
) -> Result<Star<T>> {
    let Choice { indices, weights } = differentiable_search(states, candidates, k, temperature)?;
    let (batch, k) = weights.shape().matrix("hierarchical_forward", "weights")?;
    let chosen = candidates.index_select(&indices)?;
    let dim = chosen.shape().columns();
    let sums = weights.reshape(&[batch, 1, k])?.matmul(&chosen.reshape(&[batch, k, dim])?)?;
    let moved = states.add(&sums.reshape(&[batch, dim])?)?.affine(T::of(0.5), T::ZERO)?;
    let nodes = batch * (k + 1);
    let targets: Vec<u32> = memory::collect((0..batch * k).map(|edge| (edge / k) as u32));
    let sources: Vec<u32> = memory::collect(batch as u32..nodes as u32);
    let weights: Vec<f32> = memory::collect(weights.values().iter().map(|weight| weight.wide() as f32));
    let graph = Graph::from_edges(&targets, &sources, nodes, nodes, Some(&weights))?;
    Ok(Star { x: Tensor::concat(&[moved, chosen], 0)?, graph })
}

/// `queries (B, d)` taken down `levels`, the embeddings `(n, d)` of each, top first: [`gather_level`], then the level's
/// layer, of whose result the states' rows are kept. `(B, out)` with the last layer's `out`; the others must keep the width
/// that the next level has.
pub fn hierarchical_forward<T: Real>(
    queries: &Tensor<T>,
    levels: &[Tensor<T>],
    layers: &[&LevelLayer<'_, T>],
    k: usize,
    temperature: f64,
) -> Result<Tensor<T>> {
    if levels.len() != layers.len() || levels.is_empty() {
        let counts = format!("{} levels and {} layers", levels.len(), layers.len());
        return Err(Error::Config(format!(
            "hierarchical_forward: one layer per level is needed, got {counts}"
        )));
    }
    let (batch, _) = queries.shape().matrix("hierarchical_forward", "query")?;
    levels.iter().zip(layers).try_fold(queries.clone(), |states, (candidates, layer)| {
        let star = gather_level(&states, candidates, k, temperature)?;
        layer(&star.x, &star.graph)?.slice(0, 0..batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::nn::{Linear, Module, RuvectorLayer};
    use proptest::prelude::*;

    #[test]
    fn gradients_to_query_and_candidates() {
        let inputs = [random(&[2, 3], 0), random(&[5, 3], 1)];
        for (k, temperature) in [(1, 1.0), (3, 0.2), (9, 0.5)] {
            gradcheck(&inputs, |x| Ok(differentiable_search(&x[0], &x[1], k, temperature)?.weights)).unwrap();
        }
    }

    #[test]
    fn ties_go_to_the_lower_row_and_what_makes_no_sense_is_refused() {
        let query = Tensor::new(vec![1.0f64, 0.0], &[1, 2]).unwrap();
        let candidates = Tensor::new(vec![0.0, 1.0, 3.0, 0.0, 2.0, 0.0, 0.0, 0.0], &[4, 2]).unwrap();
        let choice = differentiable_search(&query, &candidates, 9, 1.0).unwrap();
        assert_eq!(choice.indices, [1, 2, 0, 3]);
        assert!((choice.weights.to_vec().iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let refused = |k, temperature| differentiable_search(&query, &candidates, k, temperature);
        assert!(matches!(refused(0, 1.0), Err(Error::Config(_))));
        assert!(matches!(refused(1, 0.0), Err(Error::Config(_))));
        let (narrow, none) = (random(&[4, 3], 0), random(&[0, 2], 0));
        assert!(matches!(differentiable_search(&query, &narrow, 1, 1.0), Err(Error::Shape(_))));
        assert!(matches!(differentiable_search(&query, &none, 1, 1.0), Err(Error::Shape(_))));
    }

    proptest! {
        #[test]
        fn weights_and_order_match_the_definition(count in 1usize..40, k in 1usize..50, seed in 0u64..99) {
            let (query, candidates) = (random(&[1, 4], 2 * seed), random(&[count, 4], 2 * seed + 1));
            let choice = differentiable_search(&query, &candidates, k, 0.3).unwrap();
            let cosine = |row: &[f64]| {
                let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                let q = &query.values()[..];
                dot(q, row) / (dot(q, q) * dot(row, row)).sqrt()
            };
            let e: Vec<f64> = candidates.values().chunks(4).map(|row| (cosine(row) / 0.3).exp()).collect();
            let total: f64 = e.iter().sum();
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&a, &b| e[b].total_cmp(&e[a]));
            prop_assert_eq!(choice.indices.len(), k.min(count));
            for ((&row, &weight), &expected) in choice.indices.iter().zip(choice.weights.values().iter()).zip(&order) {
                prop_assert_eq!(row as usize, expected);
                prop_assert!((weight - e[expected] / total).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn gradients_down_two_levels_reach_query_levels_and_layers() {
        // Plain maps: a layer that reads edge weights takes them as constants, which differences would notice.
        let maps = [Linear::<f64>::normal(3, 3, 0).unwrap(), Linear::normal(3, 2, 1).unwrap()];
        let mut inputs = vec![random(&[2, 3], 0), random(&[4, 3], 1), random(&[6, 3], 2)];
        inputs.extend(maps.iter().flat_map(Module::parameters));
        let layers: [&LevelLayer<'_, f64>; 2] = [
            &|x, graph| {
                maps[0].forward(&x.aggregate_unweighted(graph, crate::autograd::Reduce::Mean)?.add(x)?)
            },
            &|x, _| maps[1].forward(x),
        ];
        gradcheck(&inputs, |x| hierarchical_forward(&x[0], &x[1..3], &layers, 2, 0.5)).unwrap();
    }

    #[test]
    fn a_ruvector_layer_sees_node_neighbours_and_edge_weights() {
        let layer = RuvectorLayer::<f64>::new(3, 3, 1, 4).unwrap();
        let (queries, level) = (random(&[2, 3], 0), random(&[7, 3], 1));
        let call: &LevelLayer<'_, f64> = &|x, graph| layer.forward(x, graph, None);
        let both = hierarchical_forward(&queries, std::slice::from_ref(&level), &[call], 3, 0.5).unwrap();
        for query in 0..2 {
            let choice =
                differentiable_search(&queries.slice(0, query..query + 1).unwrap(), &level, 3, 0.5).unwrap();
            let chosen = level.index_select(&choice.indices).unwrap();
            let state = choice.weights.matmul(&chosen).unwrap();
            let state =
                state.add(&queries.slice(0, query..query + 1).unwrap()).unwrap().affine(0.5, 0.0).unwrap();
            let weights: Vec<f32> = choice.weights.to_vec().iter().map(|&w| w as f32).collect();
            let graph = Graph::from_edges(&[0; 3], &[1, 2, 3], 4, 4, Some(&weights)).unwrap();
            let alone = layer.forward(&Tensor::concat(&[state, chosen], 0).unwrap(), &graph, None).unwrap();
            let (got, expected) = (&both.values()[query * 3..][..3], &alone.values()[..3]);
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
        }
        assert!(hierarchical_forward(&queries, &[level], &[], 3, 0.5).is_err());
    }
}
