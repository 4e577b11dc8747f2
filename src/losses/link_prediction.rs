//! Link prediction: binary cross entropy between edges that are there and pairs that are not, on the similarity of
//! their ends.
//!
//! `s_uv = <h_u, h_v>`, or its cosine; `loss = -ln sigmoid(s)` for edges, `-ln(1 - sigmoid(s))` for the others.

#![forbid(unsafe_code)]

use super::{Reduction, told_apart};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::real::Real;

/// How alike two embeddings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// The cosine of their angle, 0 for a zero vector.
    Cosine,
    /// Their inner product.
    Dot,
}

/// Pairs of nodes: pair `e` joins `sources[e]` and `targets[e]`.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// One end of each pair.
    pub sources: &'a [u32],
    /// The other end.
    pub targets: &'a [u32],
}

impl Pairs<'_> {
    /// Fails unless there are pairs, all of nodes below `nodes`.
    pub(super) fn check(&self, op: &str, name: &str, nodes: usize) -> Result<()> {
        if self.sources.len() != self.targets.len() || self.sources.is_empty() {
            let counts = format!("{} sources and {} targets", self.sources.len(), self.targets.len());
            return Err(Error::Shape(format!("{op}: {name} must hold edges, got {counts}")));
        }
        match self.sources.iter().chain(self.targets).find(|&&node| node as usize >= nodes) {
            Some(node) => {
                Err(Error::Row(format!("{op}: {name} names node {node}, embeddings has {nodes} rows")))
            }
            None => Ok(()),
        }
    }
}

/// The score of each pair of rows: `(E,)`.
pub(super) fn pair_scores<T: Real>(
    embeddings: &Tensor<T>,
    pairs: Pairs<'_>,
    score: Score,
) -> Result<Tensor<T>> {
    let rows = match score {
        Score::Cosine => embeddings.normalize()?,
        Score::Dot => embeddings.clone(),
    };
    rows.index_select(pairs.sources)?.mul(&rows.index_select(pairs.targets)?)?.sum_axis(-1, false)
}

/// The loss of `embeddings (N, d)`; without reduction the losses of `positive` come first.
pub fn link_prediction<T: Real>(
    embeddings: &Tensor<T>,
    positive: Pairs<'_>,
    negative: Pairs<'_>,
    score: Score,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    let (nodes, _) = embeddings.shape().matrix("link_prediction", "embeddings")?;
    positive.check("link_prediction", "pos_edges", nodes)?;
    negative.check("link_prediction", "neg_edges", nodes)?;
    let scores = |pairs| pair_scores(embeddings, pairs, score);
    told_apart(&scores(positive)?, &scores(negative)?, reduction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    const POSITIVE: Pairs<'static> = Pairs { sources: &[0, 1, 1], targets: &[1, 2, 3] };
    const NEGATIVE: Pairs<'static> = Pairs { sources: &[0, 3], targets: &[2, 3] };

    #[test]
    fn gradients_with_either_score() {
        for score in [Score::Cosine, Score::Dot] {
            for reduction in Reduction::ALL {
                gradcheck(&[random(&[4, 3], 0)], |x| {
                    link_prediction(&x[0], POSITIVE, NEGATIVE, score, reduction)
                })
                .unwrap();
            }
        }
    }

    #[test]
    fn a_pair_by_hand_and_pairs_that_are_refused() {
        let x = Tensor::new(vec![3.0f64, 4.0, 1.0, 0.0], &[2, 2]).unwrap();
        let pair = Pairs { sources: &[0], targets: &[1] };
        let losses = |score| link_prediction(&x, pair, pair, score, Reduction::None).unwrap().to_vec();
        let expected = |s: f64| [(-s).exp().ln_1p(), s.exp().ln_1p()];
        for (score, s) in [(Score::Cosine, 0.6), (Score::Dot, 3.0)] {
            assert!(losses(score).iter().zip(expected(s)).all(|(a, b)| (a - b).abs() < 1e-12));
        }
        let refused = |positive| link_prediction(&x, positive, pair, Score::Dot, Reduction::Mean);
        assert!(matches!(refused(Pairs { sources: &[], targets: &[] }), Err(Error::Shape(_))));
        assert!(matches!(refused(Pairs { sources: &[0], targets: &[2] }), Err(Error::Row(_))));
        assert!(matches!(refused(Pairs { sources: &[0, 1], targets: &[1] }), Err(Error::Shape(_))));
    }
}
