//! Stochastic gradient descent with momentum, as `torch.optim.SGD`.
//!
//! `g += wd p`; `b = momentum b + (1 - dampening) g`, but `b = g` at first; `p -= lr b`, or with Nesterov's momentum
//! (Sutskever et al. 2013) `p -= lr (g + momentum b)`.

#![forbid(unsafe_code)]

use super::{Group, Optimizer, PIECE, State, each_gradient, fresh, require_rates};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::number;
use crate::real::Real;
use crate::threads;

/// Settings with PyTorch's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdOptions {
    /// Learning rate.
    pub lr: f64,
    /// Share of the last step that is kept.
    pub momentum: f64,
    /// Share of the gradient that does not enter the momentum.
    pub dampening: f64,
    /// Looks ahead by the momentum; needs momentum and no dampening.
    pub nesterov: bool,
    /// Factor of the weights that is added to the gradient.
    pub weight_decay: f64,
}

impl Default for SgdOptions {
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

/// Gradient descent over groups of parameters.
///
/// ```
/// use ruvector_gnn::{autograd::Tensor, optim::{Optimizer, Sgd, SgdOptions}};
/// let x = Tensor::parameter(vec![1.0f32], &[1])?;
/// let mut optimizer = Sgd::new(vec![x.clone()], SgdOptions { lr: 0.25, ..Default::default() })?;
/// x.mul(&x)?.sum()?.backward()?;
/// optimizer.step()?;
/// assert_eq!(x.item()?, 0.5);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Debug)]
pub struct Sgd<T: Real> {
    groups: Vec<Group<T>>,
    states: Vec<State<T>>,
    options: SgdOptions,
}

impl<T: Real> Sgd<T> {
    /// Over one group of parameters.
    pub fn new(parameters: Vec<Tensor<T>>, options: SgdOptions) -> Result<Self> {
        let (lr, weight_decay) = (options.lr, options.weight_decay);
        Self::with_groups(vec![Group { parameters, lr, weight_decay }], options)
    }

    /// Over groups with their own learning rate and decay; those of `options` are not used.
    pub fn with_groups(groups: Vec<Group<T>>, options: SgdOptions) -> Result<Self> {
        number::non_negative("momentum", options.momentum)?;
        number::non_negative("dampening", options.dampening)?;
        require_rates(&groups)?;
        if options.nesterov && (options.momentum == 0.0 || options.dampening != 0.0) {
            let given = format!("momentum {} and dampening {}", options.momentum, options.dampening);
            let message = format!("SGD: nesterov needs momentum above 0 and no dampening, got {given}");
            return Err(Error::Config(message));
        }
        Ok(Self { states: fresh(&groups), groups, options })
    }
}

/// The numbers of one update, `b = keep b + enter g` and `p -= ahead g + follow b`.
struct Rule<T> {
    decay: T,
    keep: T,
    enter: T,
    ahead: T,
    follow: T,
}

impl<T: Real> Rule<T> {
    fn new(group: &Group<T>, options: SgdOptions, first: bool) -> Self {
        let (keep, enter) = if first { (0.0, 1.0) } else { (options.momentum, 1.0 - options.dampening) };
        let (ahead, follow) = if options.nesterov { (1.0, options.momentum) } else { (0.0, 1.0) };
        Self {
            decay: T::of(group.weight_decay),
            keep: T::of(keep),
            enter: T::of(enter),
            ahead: T::of(group.lr * ahead),
            follow: T::of(group.lr * follow),
        }
    }

    fn apply(&self, values: &mut [T], buffer: &mut [T], grad: &[T]) {
        let pieces = values.chunks_mut(PIECE).zip(buffer.chunks_mut(PIECE)).zip(grad.chunks(PIECE));
        let mut pieces: Vec<_> = pieces.collect();
        threads::for_each_chunk(&mut pieces, 1, |_, pieces| {
            for ((values, buffer), grad) in pieces {
                for ((p, b), &g) in values.iter_mut().zip(buffer.iter_mut()).zip(grad.iter()) {
                    let g = g + self.decay * *p;
                    *b = self.keep * *b + self.enter * g;
                    *p -= self.ahead * g + self.follow * *b;
                }
            }
        });
    }

    /// Without momentum the gradient is the direction.
    fn apply_plain(&self, values: &mut [T], grad: &[T]) {
        threads::for_each_chunk(values, PIECE, |piece, values| {
            for (p, &g) in values.iter_mut().zip(&grad[piece * PIECE..]) {
                *p -= self.follow * (g + self.decay * *p);
            }
        });
    }
}

impl<T: Real> Optimizer<T> for Sgd<T> {
    fn groups(&self) -> &[Group<T>] {
        &self.groups
    }

    fn groups_mut(&mut self) -> &mut [Group<T>] {
        &mut self.groups
    }

    fn memory(&self) -> &'static [&'static str] {
        if self.options.momentum > 0.0 { &["momentum_buffer"] } else { &[] }
    }

    fn states(&self) -> &[State<T>] {
        &self.states
    }

    fn states_mut(&mut self) -> &mut [State<T>] {
        &mut self.states
    }

    fn step(&mut self) -> Result<()> {
        require_rates(&self.groups)?;
        let (arrays, options) = (self.memory().len(), self.options);
        each_gradient(&self.groups, &mut self.states, arrays, |group, parameter, state, grad| {
            let rule = Rule::new(group, options, state.steps == 1);
            parameter.update(|values| match state.arrays.first_mut() {
                Some(buffer) => rule.apply(values, buffer, grad),
                None => rule.apply_plain(values, grad),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_textbook_rule() {
        for (momentum, dampening, nesterov) in [(0.0, 0.0, false), (0.9, 0.0, true), (0.9, 0.3, false)] {
            let options = SgdOptions { lr: 0.05, momentum, dampening, nesterov, weight_decay: 0.1 };
            let x = Tensor::parameter(vec![1.5f64], &[1]).unwrap();
            let mut optimizer = Sgd::new(vec![x.clone()], options).unwrap();
            let (mut p, mut buffer) = (1.5, None);
            for step in 0..30 {
                let grad = (f64::from(step) * 0.7).sin();
                x.set_grad(Some(vec![grad].into())).unwrap();
                optimizer.step().unwrap();
                let g = grad + 0.1 * p;
                let b = buffer.map_or(g, |b| momentum * b + (1.0 - dampening) * g);
                buffer = Some(b);
                p -= 0.05 * if nesterov { g + momentum * b } else { b };
            }
            assert!((x.item().unwrap() - p).abs() < 1e-12);
        }
    }

    #[test]
    fn bad_settings_are_refused() {
        let refused = |options| Sgd::<f32>::new(vec![], options).is_err();
        assert!(refused(SgdOptions { nesterov: true, ..Default::default() }));
        assert!(refused(SgdOptions { nesterov: true, momentum: 0.9, dampening: 0.1, ..Default::default() }));
        assert!(refused(SgdOptions { momentum: -0.1, ..Default::default() }));
        assert!(refused(SgdOptions { lr: f64::INFINITY, ..Default::default() }));
    }
}
