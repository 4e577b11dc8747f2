//! Adam (Kingma & Ba 2015), as `torch.optim.Adam`.
//!
//! `g += wd p`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
//! `p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)`, in one pass over the four arrays. With `amsgrad` (Reddi et
//! al. 2018) the largest `v` so far takes its place in the denominator.

#![forbid(unsafe_code)]

use super::{Group, Optimizer, PIECE, State, each_gradient, fresh, require_rates};
use crate::autograd::Tensor;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::number;
use crate::real::{Real, larger};
use crate::{loops, threads};

/// Settings with PyTorch's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamOptions {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
    /// Factor of the weights that is added to the gradient.
    pub weight_decay: f64,
    /// Divides by the largest second moment so far.
    pub amsgrad: bool,
}

impl Default for AdamOptions {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, amsgrad: false }
    }
}

/// Adam over groups of parameters.
///
/// ```
/// use ruvector_gnn::{autograd::Tensor, optim::{Adam, AdamOptions, Optimizer}};
/// let x = Tensor::parameter(vec![1.0f32, -2.0], &[2])?;
/// let mut optimizer = Adam::new(vec![x.clone()], AdamOptions { lr: 0.1, ..Default::default() })?;
/// for _ in 0..100 {
///     optimizer.zero_grad();
///     x.mul(&x)?.sum()?.backward()?;
///     optimizer.step()?;
/// }
/// assert!(x.to_vec().iter().all(|value| value.abs() < 0.05));
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Debug)]
pub struct Adam<T: Real> {
    groups: Vec<Group<T>>,
    states: Vec<State<T>>,
    options: AdamOptions,
    /// Whether the decay acts on the weights themselves, as AdamW's.
    decoupled: bool,
}

impl<T: Real> Adam<T> {
    /// Over one group of parameters.
    pub fn new(parameters: Vec<Tensor<T>>, options: AdamOptions) -> Result<Self> {
        let (lr, weight_decay) = (options.lr, options.weight_decay);
        Self::with_groups(vec![Group { parameters, lr, weight_decay }], options)
    }

    /// Over groups with their own learning rate and decay; those of `options` are not used.
    pub fn with_groups(groups: Vec<Group<T>>, options: AdamOptions) -> Result<Self> {
        Self::checked(groups, options, false)
    }

    pub(super) fn checked(groups: Vec<Group<T>>, options: AdamOptions, decoupled: bool) -> Result<Self> {
        number::fraction("beta1", options.betas.0)?;
        number::fraction("beta2", options.betas.1)?;
        number::positive("eps", options.eps)?;
        require_rates(&groups)?;
        Ok(Self { states: fresh(&groups), groups, options, decoupled })
    }
}

impl<T: Real> Optimizer<T> for Adam<T> {
    fn groups(&self) -> &[Group<T>] {
        &self.groups
    }

    fn groups_mut(&mut self) -> &mut [Group<T>] {
        &mut self.groups
    }

    fn memory(&self) -> &'static [&'static str] {
        const ALL: [&str; 3] = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];
        if self.options.amsgrad { &ALL } else { &ALL[..2] }
    }

    fn states(&self) -> &[State<T>] {
        &self.states
    }

    fn states_mut(&mut self) -> &mut [State<T>] {
        &mut self.states
    }

    fn step(&mut self) -> Result<()> {
        require_rates(&self.groups)?;
        let arrays = self.memory().len();
        let (options, decoupled) = (self.options, self.decoupled);
        each_gradient(&self.groups, &mut self.states, arrays, |group, parameter, state, grad| {
            let rule = Rule::new(group, options, decoupled, state.steps);
            parameter.update(|values| rule.apply(values, &mut state.arrays, grad))
        })
    }
}

/// The numbers of one update.
struct Rule<T> {
    /// Factor of the weights, and of the weights in the gradient.
    keep: T,
    decay: T,
    keep_second: T,
    /// `1 - b` of both, made in `f64`: a `b` near 1 leaves nothing of it in `f32`.
    enter: (T, T),
    step: T,
    correction: T,
    eps: T,
}

impl<T: Real> Rule<T> {
    fn new(group: &Group<T>, options: AdamOptions, decoupled: bool, steps: u64) -> Self {
        let unbiased = |beta: f64| 1.0 - beta.powi(i32::try_from(steps).unwrap_or(i32::MAX));
        let (keep, decay) =
            if decoupled { (1.0 - group.lr * group.weight_decay, 0.0) } else { (1.0, group.weight_decay) };
        Self {
            keep: T::of(keep),
            decay: T::of(decay),
            keep_second: T::of(options.betas.1),
            enter: (T::of(1.0 - options.betas.0), T::of(1.0 - options.betas.1)),
            step: T::of(group.lr / unbiased(options.betas.0)),
            correction: T::of(1.0 / unbiased(options.betas.1).sqrt()),
            eps: T::of(options.eps),
        }
    }

    fn apply(&self, values: &mut [T], arrays: &mut [Buffer<T>], grad: &[T]) {
        let [first, second, largest @ ..] = arrays else { unreachable!("Adam remembers two moments") };
        let mut largest = largest.first_mut().map(|largest| largest.chunks_mut(PIECE));
        let pieces = values.chunks_mut(PIECE).zip(first.chunks_mut(PIECE)).zip(second.chunks_mut(PIECE));
        let pieces = pieces.zip(grad.chunks(PIECE)).map(|(((values, first), second), grad)| {
            let largest = largest.as_mut().and_then(Iterator::next);
            Some(Piece { rule: self, values, first, second, largest, grad })
        });
        let mut pieces: Vec<_> = pieces.collect();
        threads::for_each_chunk(&mut pieces, 1, |_, pieces| {
            pieces.iter_mut().filter_map(Option::take).for_each(loops::run);
        });
    }

    #[inline(always)]
    fn moments(&self, p: T, g: T, m: &mut T, v: &mut T) {
        let g = g + self.decay * p;
        *m += (g - *m) * self.enter.0;
        *v = *v * self.keep_second + g * g * self.enter.1;
    }

    #[inline(always)]
    fn moved(&self, p: T, m: T, v: T) -> T {
        p * self.keep - self.step * m / (v.sqrt() * self.correction + self.eps)
    }
}

/// One task of an update.
struct Piece<'a, T> {
    rule: &'a Rule<T>,
    values: &'a mut [T],
    first: &'a mut [T],
    second: &'a mut [T],
    /// The largest second moment so far, under `amsgrad`.
    largest: Option<&'a mut [T]>,
    grad: &'a [T],
}

impl<T: Real> loops::Task for Piece<'_, T> {
    #[inline(always)]
    fn run(self) {
        let rule = self.rule;
        let moments = self.values.iter_mut().zip(self.first).zip(self.second).zip(self.grad);
        match self.largest {
            None => {
                for (((p, m), v), &g) in moments {
                    rule.moments(*p, g, m, v);
                    *p = rule.moved(*p, *m, *v);
                }
            }
            Some(largest) => {
                for ((((p, m), v), &g), largest) in moments.zip(largest) {
                    rule.moments(*p, g, m, v);
                    *largest = larger(*largest, *v);
                    *p = rule.moved(*p, *m, *largest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook rule of Adam, one value at a time; the last of `m` is the largest second moment.
    fn reference(p: &mut f64, m: &mut [f64; 3], g: f64, t: i32, options: AdamOptions) {
        let (b1, b2) = options.betas;
        let g = g + options.weight_decay * *p;
        m[0] = b1 * m[0] + (1.0 - b1) * g;
        m[1] = b2 * m[1] + (1.0 - b2) * g * g;
        m[2] = m[2].max(m[1]);
        let second = if options.amsgrad { m[2] } else { m[1] };
        let corrected = (second / (1.0 - b2.powi(t))).sqrt();
        *p -= options.lr * (m[0] / (1.0 - b1.powi(t))) / (corrected + options.eps);
    }

    #[test]
    fn follows_the_textbook_rule_with_and_without_amsgrad() {
        for amsgrad in [false, true] {
            let options =
                AdamOptions { lr: 0.1, betas: (0.8, 0.95), weight_decay: 0.2, amsgrad, ..Default::default() };
            let x = Tensor::parameter(vec![1.5f64], &[1]).unwrap();
            let mut optimizer = Adam::new(vec![x.clone()], options).unwrap();
            let (mut p, mut moments) = (1.5, [0.0; 3]);
            for step in 1..=50 {
                let grad = (f64::from(step) * 0.7).sin() * f64::from(60 - step);
                x.set_grad(Some(vec![grad].into())).unwrap();
                reference(&mut p, &mut moments, grad, step, options);
                optimizer.step().unwrap();
            }
            assert!((x.item().unwrap() - p).abs() < 1e-12, "{amsgrad}");
        }
    }

    #[test]
    fn loaded_states_go_on_to_the_bit_and_wrong_ones_change_nothing() {
        let run = |steps: std::ops::Range<u32>, values: Vec<f32>, states: Option<Vec<State<f32>>>| {
            let x = Tensor::parameter(values, &[2]).unwrap();
            let mut optimizer = Adam::new(vec![x.clone()], AdamOptions::default()).unwrap();
            states.into_iter().for_each(|states| optimizer.load_states(states).unwrap());
            for step in steps {
                x.set_grad(Some(vec![(step as f32).cos(), 0.3].into())).unwrap();
                optimizer.step().unwrap();
            }
            (x.to_vec(), optimizer.states().to_vec())
        };
        let (half, states) = run(0..10, vec![1.0, -1.0], None);
        let (loaded, whole) = (run(10..20, half, Some(states)), run(0..20, vec![1.0, -1.0], None));
        assert_eq!((loaded.0, loaded.1[0].steps), (whole.0, whole.1[0].steps));
        let mut optimizer =
            Adam::new(vec![Tensor::parameter(vec![1.0f32], &[1]).unwrap()], AdamOptions::default()).unwrap();
        let wrong = State { steps: 3, arrays: vec![Buffer::zeros(2), Buffer::zeros(2)] };
        assert!(optimizer.load_states(vec![wrong]).is_err() && optimizer.load_states(vec![]).is_err());
        assert!(optimizer.states()[0].arrays.is_empty());
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let count = 3 * PIECE + 17;
        let mut draws = crate::rng::stream(5, "adam-test", 0);
        let grad: Vec<f32> = (0..count).map(|_| draws.normal() as f32).collect();
        let run = |threads: usize| {
            threads::set_num_threads(threads).unwrap();
            let x = Tensor::parameter(vec![0.5f32; count], &[count]).unwrap();
            let mut optimizer = Adam::new(vec![x.clone()], AdamOptions::default()).unwrap();
            for _ in 0..3 {
                x.set_grad(Some(grad.clone().into())).unwrap();
                optimizer.step().unwrap();
            }
            x.to_vec()
        };
        assert!(run(1) == run(2) && run(1) == run(4));
    }
}
