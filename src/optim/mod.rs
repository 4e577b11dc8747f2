//! Optimizers: PyTorch's update rules, over groups of parameters with their own settings.
//!
//! Each rule is one pass over a parameter, its gradient and what the optimizer remembers of it, in pieces fixed by the
//! parameter's size: the bits do not depend on the number of threads.

mod adam;
mod adamw;
mod clip;
mod sgd;

pub use adam::{Adam, AdamOptions};
pub use adamw::{AdamW, AdamWOptions};
pub use clip::clip_grad_norm;
pub use sgd::{Sgd, SgdOptions};

use crate::autograd::Tensor;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::number;
use crate::real::Real;
use crate::threads;

/// Parameters that share settings.
#[derive(Clone, Debug)]
pub struct Group<T: Real> {
    /// The leaves to update.
    pub parameters: Vec<Tensor<T>>,
    /// Learning rate; may be changed between steps.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// What an optimizer remembers of one parameter: how often it was updated, and one array per name of
/// [`Optimizer::memory`], each as long as the parameter. A parameter that was never updated has no arrays.
#[derive(Clone, Debug, Default)]
pub struct State<T: Real> {
    /// Updates so far.
    pub steps: u64,
    /// Running averages and the like.
    pub arrays: Vec<Buffer<T>>,
}

/// Something that updates parameters from their gradients.
pub trait Optimizer<T: Real>: Send {
    /// The groups.
    fn groups(&self) -> &[Group<T>];

    /// The groups, whose learning rates and decays may be changed between steps.
    fn groups_mut(&mut self) -> &mut [Group<T>];

    /// The names of the arrays of a [`State`], as PyTorch's.
    fn memory(&self) -> &'static [&'static str];

    /// What is remembered of each parameter, in the order of the groups.
    fn states(&self) -> &[State<T>];

    /// The same, to overwrite.
    fn states_mut(&mut self) -> &mut [State<T>];

    /// Updates every parameter that has a gradient.
    fn step(&mut self) -> Result<()>;

    /// All parameters.
    fn parameters(&self) -> Vec<Tensor<T>> {
        self.groups().iter().flat_map(|group| group.parameters.clone()).collect()
    }

    /// Forgets all gradients.
    fn zero_grad(&self) {
        self.groups().iter().flat_map(|group| &group.parameters).for_each(Tensor::zero_grad);
    }

    /// Overwrites what is remembered; nothing changes unless all of it fits.
    fn load_states(&mut self, states: Vec<State<T>>) -> Result<()> {
        let parameters = self.parameters();
        if states.len() != parameters.len() {
            let counts = format!("{} states for {} parameters", states.len(), parameters.len());
            return Err(Error::Shape(format!("state_dict: {counts}")));
        }
        let names = self.memory();
        for (number, (state, parameter)) in states.iter().zip(&parameters).enumerate() {
            let whole = state.arrays.len() == names.len() || (state.steps == 0 && state.arrays.is_empty());
            if !whole || state.arrays.iter().any(|array| array.len() != parameter.count()) {
                let lengths: Vec<usize> = state.arrays.iter().map(|array| array.len()).collect();
                return Err(Error::Shape(format!(
                    "state_dict: parameter {number} of shape {} needs {names:?}, got arrays of {lengths:?} values",
                    parameter.shape()
                )));
            }
        }
        self.states_mut().iter_mut().zip(states).for_each(|(place, state)| *place = state);
        Ok(())
    }
}

/// Values per task of an update.
const PIECE: usize = 16 << 10;

/// Fails unless every group's settings are numbers from 0 up.
fn require_rates<T: Real>(groups: &[Group<T>]) -> Result<()> {
    groups.iter().try_for_each(|group| {
        number::non_negative("lr", group.lr)?;
        number::non_negative("weight_decay", group.weight_decay).map(drop)
    })
}

/// A state for each parameter that was never updated.
fn fresh<T: Real>(groups: &[Group<T>]) -> Vec<State<T>> {
    groups.iter().flat_map(|group| &group.parameters).map(|_| State::default()).collect()
}

/// `update(group, parameter, its state, its gradient)` for every parameter that has one, after counting the step and
/// giving a parameter's first update its arrays of zeros. All memory is taken first: a refusal changes nothing.
fn each_gradient<T: Real>(
    groups: &[Group<T>],
    states: &mut [State<T>],
    arrays: usize,
    mut update: impl FnMut(&Group<T>, &Tensor<T>, &mut State<T>, &[T]) -> Result<()>,
) -> Result<()> {
    let parameters = groups.iter().flat_map(|group| group.parameters.iter().map(move |p| (group, p)));
    let mut planned = Vec::new();
    for ((group, parameter), state) in parameters.zip(states) {
        let Some(grad) = parameter.grad() else { continue };
        // Shared values are copied by this write.
        parameter.update(|_| ())?;
        let fresh = state.arrays.is_empty().then(|| (0..arrays).map(|_| Buffer::zeros(grad.len())).collect());
        planned.push((group, parameter, state, grad, fresh));
    }
    threads::map(2, |_| ()); // starts the workers
    // Nothing is refused from here on.
    for (group, parameter, state, grad, fresh) in planned {
        state.arrays = fresh.unwrap_or_else(|| std::mem::take(&mut state.arrays));
        state.steps += 1;
        update(group, parameter, state, &grad)?;
    }
    Ok(())
}
