//! The geometry that embeddings should keep of what they embed: distances and angles of pairs, and straight walks.

#![forbid(unsafe_code)]

use super::link_prediction::pair_scores;
use super::{Pairs, Reduction, Score};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::Real;

/// `(|h_i - h_j| - |x_i - x_j|)^2` for pairs of rows of `embeddings (N, d)` and of `x (N, f)`, as in stress of multidimensional scaling
/// (Kruskal 1964).
pub fn distance_preservation<T: Real>(
    embeddings: &Tensor<T>,
    x: &Tensor<T>,
    pairs: Pairs<'_>,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    check("distance_preservation", embeddings, x, pairs)?;
    let distances = |rows: &Tensor<T>| {
        rows.index_select(pairs.sources)?.sub(&rows.index_select(pairs.targets)?)?.norm(false)
    };
    squared(&distances(embeddings)?, &distances(x)?, reduction)
}

/// `(cos(h_i, h_j) - cos(x_i, x_j))^2` for such pairs; the cosine of a zero row is 0.
pub fn angle_preservation<T: Real>(
    embeddings: &Tensor<T>,
    x: &Tensor<T>,
    pairs: Pairs<'_>,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    check("angle_preservation", embeddings, x, pairs)?;
    let cosines = |rows: &Tensor<T>| pair_scores(rows, pairs, Score::Cosine);
    squared(&cosines(embeddings)?, &cosines(x)?, reduction)
}

fn check<T: Real>(op: &str, embeddings: &Tensor<T>, x: &Tensor<T>, pairs: Pairs<'_>) -> Result<()> {
    let (rows, _) = embeddings.shape().matrix(op, "embeddings")?;
    let (others, _) = x.shape().matrix(op, "x")?;
    if rows != others {
        return Err(Error::Shape(format!("{op}: embeddings has {rows} rows, x has {others}")));
    }
    pairs.check(op, "pairs", rows)
}

fn squared<T: Real>(left: &Tensor<T>, right: &Tensor<T>, reduction: Reduction) -> Result<Tensor<T>> {
    let off = left.sub(right)?;
    reduction.apply(&off.mul(&off)?)
}

/// `1 - cos(h_j - h_i, h_k - h_j)` for each three nodes `i, j, k` in a row of a walk: 0 where the walk goes straight on (Pei et al. 2020,
/// "Curvature Regularization to Prevent Distortion in Graph Embedding"). Where two of them have equal embeddings it is 1.
///
/// `steps` holds the three nodes of each turn.
pub fn curvature<T: Real>(
    embeddings: &Tensor<T>,
    steps: &[[u32; 3]],
    reduction: Reduction,
) -> Result<Tensor<T>> {
    let (nodes, _) = embeddings.shape().matrix("curvature", "embeddings")?;
    if steps.is_empty() {
        return Err(Error::Shape("curvature: walks must have three nodes in a row".into()));
    }
    if let Some(node) = steps.iter().flatten().find(|&&node| node as usize >= nodes) {
        return Err(Error::Row(format!("curvature: walks names node {node}, embeddings has {nodes} rows")));
    }
    let at = |place: usize| {
        let nodes: Vec<u32> = memory::collect(steps.iter().map(|step| step[place]));
        embeddings.index_select(&nodes)
    };
    let (first, middle, last) = (at(0)?, at(1)?, at(2)?);
    let (into, out) = (middle.sub(&first)?.normalize()?, last.sub(&middle)?.normalize()?);
    reduction.apply(&into.mul(&out)?.sum_axis(-1, false)?.affine(-T::ONE, T::ONE)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    const PAIRS: Pairs<'static> = Pairs { sources: &[0, 1, 2], targets: &[1, 3, 0] };

    #[test]
    fn gradients_to_embeddings_and_features() {
        let inputs = [random(&[4, 3], 0), random(&[4, 5], 1)];
        for reduction in Reduction::ALL {
            gradcheck(&inputs, |x| distance_preservation(&x[0], &x[1], PAIRS, reduction)).unwrap();
            gradcheck(&inputs, |x| angle_preservation(&x[0], &x[1], PAIRS, reduction)).unwrap();
            gradcheck(&inputs[..1], |x| curvature(&x[0], &[[0, 1, 2], [3, 1, 0]], reduction)).unwrap();
        }
    }

    #[test]
    fn what_is_kept_costs_nothing() {
        let x = random(&[4, 3], 0);
        let moved = x.affine(1.0, 3.0).unwrap();
        assert!(distance_preservation(&moved, &x, PAIRS, Reduction::Sum).unwrap().item().unwrap() < 1e-24);
        let longer = x.affine(4.0, 0.0).unwrap();
        assert!(angle_preservation(&longer, &x, PAIRS, Reduction::Sum).unwrap().item().unwrap() < 1e-24);
        let line = Tensor::new(vec![0.0, 0.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0], &[4, 2]).unwrap();
        let turns: Tensor<f64> =
            curvature(&line, &[[0, 1, 2], [0, 1, 0], [1, 2, 3]], Reduction::None).unwrap();
        let expected = [0.0, 2.0, 1.0];
        assert!(turns.to_vec().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn equal_rows_have_a_finite_gradient_and_what_does_not_fit_is_refused() {
        let same = Tensor::parameter(vec![1.0f64; 8], &[4, 2]).unwrap();
        let loss = distance_preservation(&same, &random(&[4, 2], 0), PAIRS, Reduction::Mean).unwrap();
        loss.backward().unwrap();
        assert!(same.grad().unwrap().iter().all(|value| value.is_finite()));
        let refused =
            |x: &[usize], pairs| distance_preservation(&same, &random(x, 0), pairs, Reduction::Mean).is_err();
        assert!(refused(&[3, 2], PAIRS) && refused(&[4, 2], Pairs { sources: &[0], targets: &[4] }));
        assert!(curvature(&same, &[], Reduction::Mean).is_err());
        assert!(curvature(&same, &[[0, 1, 4]], Reduction::Mean).is_err());
    }
}
