//! Global attention over the nodes of each graph (Li et al. 2016), as PyG's `AttentionalAggregation`.

#![forbid(unsafe_code)]

use crate::autograd::{Reduce, Tensor};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;

/// `out_g = sum_i a_i x_i` over the rows with `batch[i] = g < size`, with `a = softmax of the scores` of the same graph;
/// `scores (N)` or `(N, 1)`, `x (N, d)`; the result is `(size, d)`, 0 for a graph without nodes.
pub fn attention_pool<T: Real>(
    scores: &Tensor<T>,
    x: &Tensor<T>,
    batch: &[u32],
    size: usize,
) -> Result<Tensor<T>> {
    let (rows, _) = x.shape().matrix("attention_pool", "x")?;
    if rows != batch.len() || scores.count() != rows || scores.dims().first() != Some(&rows) {
        let shapes = format!("scores {}, x {} and {} batch numbers", scores.shape(), x.shape(), batch.len());
        return Err(Error::Shape(format!("attention_pool: {shapes}")));
    }
    if let Some(&graph) = batch.iter().find(|&&graph| graph as usize >= size) {
        return Err(Error::Row(format!("attention_pool: graph {graph} of {size}")));
    }
    let groups = Graph::grouping(batch, size);
    let weights = scores.reshape(&[rows])?.index_select(groups.indices())?.edge_softmax(&groups)?;
    x.aggregate_weighted(&groups, &weights, Reduce::Sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_empty_graphs_and_wrong_shapes() {
        let (scores, x, batch) = (random(&[5, 1], 0), random(&[5, 3], 1), [2, 0, 2, 0, 2]);
        gradcheck(&[scores.clone(), x.clone()], |x| attention_pool(&x[0], &x[1], &batch, 4)).unwrap();
        let out = attention_pool(&scores, &x, &batch, 4).unwrap().to_vec();
        assert_eq!((&out[3..6], &out[9..]), (&[0.0; 3][..], &[0.0; 3][..]));
        assert!(attention_pool(&scores, &x, &batch[..4], 4).is_err());
        assert!(matches!(attention_pool(&scores, &x, &batch, 2), Err(Error::Row(_))));
    }
}
