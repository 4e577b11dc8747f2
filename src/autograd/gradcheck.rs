//! Gradients against central finite differences, in `f64`.

#![forbid(unsafe_code)]

use super::Tensor;
use crate::error::{Error, Result};
use crate::rng;

/// Half the distance between the two points of a difference.
const STEP: f64 = 1e-6;

/// Relative tolerance: rounding in the differences is about `1e-16 / STEP`.
const TOLERANCE: f64 = 2e-7;

/// A test leaf of normal draws that collects a gradient.
pub fn random(dims: &[usize], index: u64) -> Tensor<f64> {
    let mut draws = rng::stream(11, "gradcheck", index);
    let values: Vec<f64> = (0..dims.iter().product()).map(|_| draws.normal()).collect();
    Tensor::parameter(values, dims).unwrap_or_else(|error| panic!("{error}"))
}

/// Checks the gradients of `function` with respect to every input, at the inputs' values: the adjoint of a
/// random weighting of the result against central differences. An error says which value disagrees.
pub fn gradcheck(
    inputs: &[Tensor<f64>],
    function: impl Fn(&[Tensor<f64>]) -> Result<Tensor<f64>>,
) -> Result<()> {
    let result = function(inputs)?;
    let mut draws = rng::stream(12, "gradcheck", 0);
    let weights: Vec<f64> = (0..result.count()).map(|_| draws.normal()).collect();
    inputs.iter().for_each(Tensor::zero_grad);
    result.backward_from(Some(weights.clone().into()), false)?;
    let weighted = || -> Result<f64> {
        Ok(function(inputs)?.values().iter().zip(&weights).map(|(value, weight)| value * weight).sum())
    };
    for (number, input) in inputs.iter().enumerate() {
        let Some(grad) = input.grad() else {
            return Err(Error::Config(format!("gradcheck: input {number} got no gradient")));
        };
        for at in 0..input.count() {
            let value = input.values()[at];
            let shifted = |shift: f64| {
                input.update(|values| values[at] = value + shift)?;
                weighted()
            };
            let numeric = (shifted(STEP)? - shifted(-STEP)?) / (2.0 * STEP);
            input.update(|values| values[at] = value)?;
            let error = (grad[at] - numeric).abs();
            if error > TOLERANCE * numeric.abs().max(1.0) || error.is_nan() {
                return Err(Error::Config(format!(
                    "gradcheck: input {number}, value {at}: adjoint {}, difference {numeric}",
                    grad[at]
                )));
            }
        }
    }
    Ok(())
}
