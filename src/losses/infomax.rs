//! Deep Graph Infomax (Velickovic et al. 2019), on the discriminator's scores.
//!
//! `loss = -1/(P + N) (sum_i ln sigmoid(p_i) + sum_j ln(1 - sigmoid(n_j)))`: the binary cross entropy that tells
//! nodes of the graph from nodes of its corruption.

#![forbid(unsafe_code)]

use super::{Reduction, told_apart};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::real::Real;

/// `positive (P,)` and `negative (N,)` are logits; without reduction the losses of the positives come first.
pub fn deep_graph_infomax<T: Real>(
    positive: &Tensor<T>,
    negative: &Tensor<T>,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    for (name, scores) in [("positive", positive), ("negative", negative)] {
        if scores.dims().len() != 1 || scores.count() == 0 {
            let shape = scores.shape();
            let message = format!("deep_graph_infomax: {name} must have shape (N,) with N > 0, got {shape}");
            return Err(Error::Shape(message));
        }
    }
    told_apart(positive, negative, reduction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_and_the_formula() {
        let pair = [random(&[4], 0), random(&[3], 1)];
        for reduction in Reduction::ALL {
            gradcheck(&pair, |x| deep_graph_infomax(&x[0], &x[1], reduction)).unwrap();
        }
        let sigmoid = |x: &f64| 1.0 / (1.0 + (-x).exp());
        let positive: f64 = pair[0].values().iter().map(|x| sigmoid(x).ln()).sum();
        let negative: f64 = pair[1].values().iter().map(|x| (1.0 - sigmoid(x)).ln()).sum();
        let got = deep_graph_infomax(&pair[0], &pair[1], Reduction::Mean).unwrap().item().unwrap();
        assert!((got + (positive + negative) / 7.0).abs() < 1e-12);
        assert!(deep_graph_infomax(&pair[0], &random(&[0], 1), Reduction::Mean).is_err());
        assert!(deep_graph_infomax(&random(&[2, 2], 0), &pair[1], Reduction::Mean).is_err());
    }
}
