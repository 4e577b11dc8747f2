//! Binary cross entropy on logits: `loss = max(x, 0) - x t + ln(1 + e^-|x|)` per value, exact where the plain
//! formula overflows or cancels; adjoints `g (sigmoid(x) - t)` and `-g x`.

#![forbid(unsafe_code)]

use super::{Reduction, same_shape};
use crate::autograd::{CHUNK, Tensor, custom};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::real::{Real, larger};
use crate::threads;
use std::sync::Arc;

/// The cross entropy between `sigmoid(logits)` and `targets` in `[0, 1]`, of one shape. `weights`, which broadcast to
/// that shape, multiply the single losses; the mean is over their number, not the weights' sum, as PyTorch's.
///
/// ```
/// use ruvector_gnn::{autograd::Tensor, losses::{Reduction, bce_with_logits}};
/// let (x, t) = (Tensor::new(vec![0.0f32, 1e4], &[2])?, Tensor::new(vec![1.0, 1.0], &[2])?);
/// let loss = bce_with_logits(&x, &t, None, Reduction::Sum)?.item()?;
/// assert!((loss - std::f32::consts::LN_2).abs() < 1e-6);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
pub fn bce_with_logits<T: Real>(
    logits: &Tensor<T>,
    targets: &Tensor<T>,
    weights: Option<&Tensor<T>>,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    same_shape("bce_with_logits", ("logits", logits), ("targets", targets))?;
    let unit = |value: &T| *value >= T::ZERO && *value <= T::ONE;
    if let Some(value) = targets.values().iter().find(|value| !unit(value)) {
        return Err(Error::Config(format!("bce_with_logits: targets must be in [0, 1], got {value}")));
    }
    let losses = entropies(logits, targets);
    let Some(weights) = weights else { return reduction.apply(&losses) };
    let weighted = losses.mul(weights)?;
    same_shape("bce_with_logits", ("logits", logits), ("weighted losses", &weighted))?;
    reduction.apply(&weighted)
}

fn entropies<T: Real>(logits: &Tensor<T>, targets: &Tensor<T>) -> Tensor<T> {
    let (x, t) = (logits.values(), targets.values());
    let loss = |x: T, t: T| larger(x, T::ZERO) - x * t + (-x.abs()).exp().ln_1p();
    let out = paired(&x, &t, loss);
    custom("bce_with_logits", Arc::new(out), logits.shape(), [logits, targets], move |grad, wanted| {
        let slope = |x: T, t: T| T::ONE / (T::ONE + (-x).exp()) - t;
        let scaled = |mut slopes: Buffer<T>| {
            threads::for_each_chunk(&mut slopes, CHUNK, |chunk, part| {
                part.iter_mut().zip(&grad[chunk * CHUNK..]).for_each(|(slope, &grad)| *slope *= grad);
            });
            slopes
        };
        [
            wanted[0].then(|| scaled(paired(&x, &t, slope))),
            wanted[1].then(|| scaled(paired(&x, &t, |x, _| -x))),
        ]
    })
}

/// `f` of each pair of values.
fn paired<T: Real>(x: &[T], t: &[T], f: impl Fn(T, T) -> T + Sync) -> Buffer<T> {
    let mut out = Buffer::stale(x.len());
    threads::for_each_chunk(&mut out, CHUNK, |chunk, out| {
        let pairs = x[chunk * CHUNK..].iter().zip(&t[chunk * CHUNK..]);
        out.iter_mut().zip(pairs).for_each(|(out, (&x, &t))| *out = f(x, t));
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_to_logits_targets_and_weights() {
        let targets = random(&[3, 4], 1).sigmoid().unwrap().to_vec();
        let inputs = [random(&[3, 4], 0), Tensor::parameter(targets, &[3, 4]).unwrap(), random(&[3, 1], 2)];
        for reduction in Reduction::ALL {
            gradcheck(&inputs[..2], |x| bce_with_logits(&x[0], &x[1], None, reduction)).unwrap();
            gradcheck(&inputs, |x| bce_with_logits(&x[0], &x[1], Some(&x[2]), reduction)).unwrap();
        }
    }

    #[test]
    fn large_logits_neither_overflow_nor_cancel() {
        let x = Tensor::parameter(vec![20.0f32, -20.0, 1e4, -1e4], &[4]).unwrap();
        let t = Tensor::new(vec![1.0, 0.0, 0.0, 0.0], &[4]).unwrap();
        let losses = bce_with_logits(&x, &t, None, Reduction::None).unwrap();
        let small = (-20f32).exp().ln_1p();
        let expected = [small, small, 1e4, 0.0];
        assert!(losses.to_vec().iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-6 * b));
        losses.sum().unwrap().backward().unwrap();
        assert!(x.grad().unwrap().iter().all(|slope| slope.is_finite()));
    }

    #[test]
    fn what_is_no_probability_or_does_not_fit_is_refused() {
        let x = random(&[2], 0);
        let with = |t: Vec<f64>, w: Option<&Tensor<f64>>| {
            bce_with_logits(&x, &Tensor::new(t.clone(), &[t.len()]).unwrap(), w, Reduction::Mean)
        };
        assert!(matches!(with(vec![0.5, 1.5], None), Err(Error::Config(_))));
        assert!(matches!(with(vec![f64::NAN, 0.0], None), Err(Error::Config(_))));
        assert!(matches!(with(vec![0.5], None), Err(Error::Shape(_))));
        assert!(matches!(with(vec![0.5, 0.5], Some(&random(&[3, 2], 1))), Err(Error::Shape(_))));
    }
}
