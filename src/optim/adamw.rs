//! AdamW (Loshchilov & Hutter 2019), as `torch.optim.AdamW`: Adam whose decay acts on the weights, not through the
//! gradient.
//!
//! `p -= lr wd p`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
//! `p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)`.

#![forbid(unsafe_code)]

use super::{Adam, AdamOptions, Group, Optimizer, State};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::real::Real;

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
    /// Divides by the largest second moment so far.
    pub amsgrad: bool,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        let AdamOptions { lr, betas, eps, amsgrad, .. } = AdamOptions::default();
        Self { lr, betas, eps, weight_decay: 1e-2, amsgrad }
    }
}

/// AdamW over groups of parameters.
///
/// ```
/// use ruvector_gnn::{autograd::Tensor, optim::{AdamW, AdamWOptions, Optimizer}};
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
pub struct AdamW<T: Real>(Adam<T>);

impl<T: Real> AdamW<T> {
    /// Over one group of parameters.
    pub fn new(parameters: Vec<Tensor<T>>, options: AdamWOptions) -> Result<Self> {
        let (lr, weight_decay) = (options.lr, options.weight_decay);
        Self::with_groups(vec![Group { parameters, lr, weight_decay }], options)
    }

    /// Over groups with their own learning rate and decay; those of `options` are not used.
    pub fn with_groups(groups: Vec<Group<T>>, options: AdamWOptions) -> Result<Self> {
        let AdamWOptions { lr, betas, eps, weight_decay, amsgrad } = options;
        let options = AdamOptions { lr, betas, eps, weight_decay, amsgrad };
        Adam::checked(groups, options, true).map(Self)
    }
}

impl<T: Real> Optimizer<T> for AdamW<T> {
    fn groups(&self) -> &[Group<T>] {
        self.0.groups()
    }

    fn groups_mut(&mut self) -> &mut [Group<T>] {
        self.0.groups_mut()
    }

    fn memory(&self) -> &'static [&'static str] {
        self.0.memory()
    }

    fn states(&self) -> &[State<T>] {
        self.0.states()
    }

    fn states_mut(&mut self) -> &mut [State<T>] {
        self.0.states_mut()
    }

    fn step(&mut self) -> Result<()> {
        self.0.step()
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
