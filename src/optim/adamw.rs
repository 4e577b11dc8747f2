//! AdamW (Loshchilov & Hutter 2019), as `torch.optim.AdamW`.
//!
//! `p -= lr wd p`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
//! `p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)`, in one pass over the four arrays.

#![forbid(unsafe_code)]

use super::{Group, PIECE};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::real::Real;
use crate::threads;

/// Settings with PyTorch's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
    /// Decay of the weights, decoupled from the gradient.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2 }
    }
}

/// The first and second moment of one parameter, and how often it was updated.
#[derive(Clone, Debug, Default)]
struct Moments<T> {
    first: Vec<T>,
    second: Vec<T>,
    steps: u64,
}

/// AdamW over groups of parameters.
///
/// ```
/// use ruvector_gnn::{autograd::Tensor, optim::{AdamW, AdamWOptions}};
/// let x = Tensor::parameter(vec![1.0f32, -2.0], &[2])?;
/// let mut optimizer = AdamW::new(vec![x.clone()], AdamWOptions { lr: 0.1, ..Default::default() })?;
/// for _ in 0..100 {
///     optimizer.zero_grad();
///     x.mul(&x)?.sum()?.backward()?;
///     optimizer.step()?;
/// }
/// assert!(x.to_vec().iter().all(|value| value.abs() < 0.05));
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Debug)]
pub struct AdamW<T: Real> {
    groups: Vec<Group<T>>,
    betas: (f64, f64),
    eps: f64,
    moments: Vec<Vec<Moments<T>>>,
}

impl<T: Real> AdamW<T> {
    /// Over one group of parameters.
    pub fn new(parameters: Vec<Tensor<T>>, options: AdamWOptions) -> Result<Self> {
        let (lr, weight_decay) = (options.lr, options.weight_decay);
        Self::with_groups(vec![Group { parameters, lr, weight_decay }], options)
    }

    /// Over groups with their own learning rate and decay; those of `options` are not used.
    pub fn with_groups(groups: Vec<Group<T>>, options: AdamWOptions) -> Result<Self> {
        let refuse =
            |name: &str, value: f64| Err(Error::Config(format!("AdamW: {name} must not be {value}")));
        for (name, beta) in [("beta1", options.betas.0), ("beta2", options.betas.1)] {
            if !(0.0..1.0).contains(&beta) {
                return refuse(name, beta);
            }
        }
        let amounts =
            groups.iter().flat_map(|group| [("lr", group.lr), ("weight_decay", group.weight_decay)]);
        for (name, value) in amounts.chain([("eps", options.eps)]) {
            if !value.is_finite() || value < 0.0 {
                return refuse(name, value);
            }
        }
        let fresh = |group: &Group<T>| group.parameters.iter().map(|_| Moments::default()).collect();
        let moments = groups.iter().map(fresh).collect();
        Ok(Self { groups, betas: options.betas, eps: options.eps, moments })
    }

    /// The groups, whose learning rates and decays may be changed between steps.
    pub fn groups_mut(&mut self) -> &mut [Group<T>] {
        &mut self.groups
    }

    /// All parameters.
    pub fn parameters(&self) -> Vec<Tensor<T>> {
        self.groups.iter().flat_map(|group| group.parameters.clone()).collect()
    }

    /// Forgets all gradients.
    pub fn zero_grad(&self) {
        self.groups.iter().flat_map(|group| &group.parameters).for_each(Tensor::zero_grad);
    }

    /// Updates every parameter that has a gradient.
    pub fn step(&mut self) -> Result<()> {
        for (group, moments) in self.groups.iter().zip(&mut self.moments) {
            for (parameter, moments) in group.parameters.iter().zip(moments) {
                let Some(grad) = parameter.grad() else { continue };
                moments.first.resize(grad.len(), T::ZERO);
                moments.second.resize(grad.len(), T::ZERO);
                moments.steps += 1;
                let rule = Rule::new(group, self.betas, self.eps, moments.steps);
                parameter.update(|values| rule.apply(values, moments, &grad))?;
            }
        }
        Ok(())
    }
}

/// The numbers of one update.
struct Rule<T> {
    keep: T,
    betas: (T, T),
    step: T,
    correction: T,
    eps: T,
}

impl<T: Real> Rule<T> {
    fn new(group: &Group<T>, betas: (f64, f64), eps: f64, steps: u64) -> Self {
        let unbiased = |beta: f64| 1.0 - beta.powi(i32::try_from(steps).unwrap_or(i32::MAX));
        Self {
            keep: T::of(1.0 - group.lr * group.weight_decay),
            betas: (T::of(betas.0), T::of(betas.1)),
            step: T::of(group.lr / unbiased(betas.0)),
            correction: T::of(1.0 / unbiased(betas.1).sqrt()),
            eps: T::of(eps),
        }
    }

    fn apply(&self, values: &mut [T], moments: &mut Moments<T>, grad: &[T]) {
        let arrays = values.chunks_mut(PIECE).zip(moments.first.chunks_mut(PIECE));
        let arrays = arrays.zip(moments.second.chunks_mut(PIECE)).zip(grad.chunks(PIECE));
        let mut pieces: Vec<_> = arrays.collect();
        threads::for_each_chunk(&mut pieces, 1, |_, pieces| {
            for (((values, first), second), grad) in pieces {
                self.apply_piece(values, first, second, grad);
            }
        });
    }

    fn apply_piece(&self, values: &mut [T], first: &mut [T], second: &mut [T], grad: &[T]) {
        let (b1, b2) = self.betas;
        let (c1, c2) = (T::ONE - b1, T::ONE - b2);
        for (((p, m), v), &g) in values.iter_mut().zip(first).zip(second).zip(grad) {
            *m += (g - *m) * c1;
            *v = *v * b2 + g * g * c2;
            *p = *p * self.keep - self.step * *m / (v.sqrt() * self.correction + self.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook rule, one value at a time.
    fn reference(p: &mut f64, m: &mut f64, v: &mut f64, g: f64, t: i32, lr: f64, wd: f64) {
        *p -= lr * wd * *p;
        *m = 0.9 * *m + 0.1 * g;
        *v = 0.999 * *v + 0.001 * g * g;
        *p -= lr * (*m / (1.0 - 0.9f64.powi(t))) / ((*v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
    }

    #[test]
    fn groups_follow_the_textbook_rule_with_their_own_rates() {
        let parameters = [1.0, -2.0].map(|value| Tensor::parameter(vec![value], &[1]).unwrap());
        let rates = [(0.1, 0.0), (0.01, 0.3)];
        let groups = parameters.iter().zip(rates).map(|(parameter, (lr, weight_decay))| Group {
            parameters: vec![parameter.clone()],
            lr,
            weight_decay,
        });
        let mut optimizer = AdamW::with_groups(groups.collect(), AdamWOptions::default()).unwrap();
        let mut expected = [(1.0, 0.0, 0.0), (-2.0, 0.0, 0.0)];
        for step in 1..=50 {
            for (parameter, ((p, m, v), (lr, wd))) in parameters.iter().zip(expected.iter_mut().zip(rates)) {
                let grad = (f64::from(step) * 0.7).sin() + *p;
                parameter.set_grad(Some(vec![grad].into())).unwrap();
                reference(p, m, v, grad, step, lr, wd);
            }
            optimizer.step().unwrap();
        }
        for (parameter, (expected, _, _)) in parameters.iter().zip(expected) {
            assert!((parameter.item().unwrap() - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn parameters_without_gradient_are_left_alone_and_bad_settings_refused() {
        let x = Tensor::parameter(vec![1.0f32], &[1]).unwrap();
        AdamW::new(vec![x.clone()], AdamWOptions::default()).unwrap().step().unwrap();
        assert_eq!(x.item().unwrap(), 1.0);
        for options in [
            AdamWOptions { lr: -1.0, ..Default::default() },
            AdamWOptions { betas: (1.0, 0.9), ..Default::default() },
            AdamWOptions { eps: f64::NAN, ..Default::default() },
        ] {
            assert!(AdamW::new(vec![x.clone()], options).is_err());
        }
    }
}
