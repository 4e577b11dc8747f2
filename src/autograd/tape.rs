//! The reverse pass.
//!
//! Tensors are numbered as they are made, so visiting them by falling number meets every tensor after all that
//! were made from it: its gradient is complete then. Each visit runs the operation's adjoint, which turns the
//! gradient of the result into those of the inputs, and lets go of the operation with all that it saved.

#![forbid(unsafe_code)]

use super::CHUNK;
use super::shape::Shape;
use super::tensor::{Origin, Tensor, Values};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::Real;
use crate::threads;
use std::cell::Cell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

/// Turns the gradient of the result into the gradients of the inputs, which it adds to their slots.
type Adjoint<T> = dyn Fn(Buffer<T>, &mut [Slot<T>]) + Send + Sync;

/// What an operation's input gets: the sum of the gradients that reached it so far, from all operations.
pub(super) struct Slot<T: Real> {
    wanted: bool,
    sum: Option<Buffer<T>>,
}

impl<T: Real> Slot<T> {
    /// Whether the input wants a gradient.
    pub(super) fn wanted(&self) -> bool {
        self.wanted
    }

    /// The sum, for operations that can add to it as they go; none before the first gradient.
    pub(super) fn sum(&mut self) -> &mut Option<Buffer<T>> {
        &mut self.sum
    }

    /// Adds a gradient.
    pub(super) fn add(&mut self, grad: Buffer<T>) {
        match &mut self.sum {
            Some(sum) => add_into(sum, &grad),
            None => self.sum = Some(grad),
        }
    }
}

/// An operation on the tape.
pub(super) struct Op<T: Real> {
    pub(super) name: &'static str,
    pub(super) parents: Vec<Tensor<T>>,
    adjoint: Box<Adjoint<T>>,
}

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

/// While it lives, operations of this thread are not recorded.
#[derive(Debug)]
pub struct NoGrad {
    before: bool,
    // The state belongs to the thread that paused.
    _here: std::marker::PhantomData<*const ()>,
}

/// Pauses the tape of this thread until the guard is dropped.
#[must_use]
pub fn no_grad() -> NoGrad {
    NoGrad { before: set_recording(false), _here: std::marker::PhantomData }
}

impl Drop for NoGrad {
    fn drop(&mut self) {
        set_recording(self.before);
    }
}

/// Switches the tape of this thread on or off; returns how it was.
pub fn set_recording(on: bool) -> bool {
    RECORDING.replace(on)
}

/// Whether operations of this thread are recorded.
pub fn is_recording() -> bool {
    RECORDING.get()
}

/// The operation to record, if any parent wants a gradient and the tape is on.
fn recorded<T: Real>(
    name: &'static str,
    parents: Vec<Tensor<T>>,
    adjoint: impl Fn(Buffer<T>, &mut [Slot<T>]) + Send + Sync + 'static,
) -> Option<Op<T>> {
    (is_recording() && parents.iter().any(Tensor::requires_grad)).then(|| Op {
        name,
        parents,
        adjoint: Box::new(adjoint),
    })
}

/// Whether an operation on these inputs would be recorded: what its adjoint needs is worth saving.
pub(crate) fn tracked<T: Real>(parents: &[&Tensor<T>]) -> bool {
    is_recording() && parents.iter().any(|parent| parent.requires_grad())
}

/// The result of operation `name` on `parents`. The adjoint gets the result's gradient and, per parent, whether
/// it wants one; it returns one gradient per parent. It must not hold tensors, only [`Values`].
pub(crate) fn record<T: Real, const N: usize>(
    name: &'static str,
    values: impl Into<Values<T>>,
    shape: Shape,
    parents: [&Tensor<T>; N],
    adjoint: impl Fn(Buffer<T>, [bool; N]) -> [Option<Buffer<T>>; N] + Send + Sync + 'static,
) -> Tensor<T> {
    let op = recorded(name, parents.map(Clone::clone).into(), move |grad, slots| {
        let wanted = std::array::from_fn(|i| slots[i].wanted);
        add_to(slots, adjoint(grad, wanted));
    });
    Tensor::result(values.into(), shape, op)
}

/// Adds the gradients that are wanted.
fn add_to<T: Real>(slots: &mut [Slot<T>], grads: impl IntoIterator<Item = Option<Buffer<T>>>) {
    for (slot, grad) in slots.iter_mut().zip(grads).filter(|(slot, _)| slot.wanted) {
        if let Some(grad) = grad {
            slot.add(grad);
        }
    }
}

/// As [`record`], for any number of inputs.
pub(super) fn record_many<T: Real>(
    name: &'static str,
    values: impl Into<Values<T>>,
    shape: Shape,
    parents: Vec<Tensor<T>>,
    adjoint: impl Fn(Buffer<T>, &[bool]) -> Vec<Option<Buffer<T>>> + Send + Sync + 'static,
) -> Tensor<T> {
    record_adding(name, values, shape, parents, move |grad, slots| {
        let wanted: Vec<bool> = slots.iter().map(Slot::wanted).collect();
        add_to(slots, adjoint(grad, &wanted));
    })
}

/// As [`record_many`], for an adjoint that adds its gradients itself, where they are wanted.
pub(super) fn record_adding<T: Real>(
    name: &'static str,
    values: impl Into<Values<T>>,
    shape: Shape,
    parents: Vec<Tensor<T>>,
    adjoint: impl Fn(Buffer<T>, &mut [Slot<T>]) + Send + Sync + 'static,
) -> Tensor<T> {
    Tensor::result(values.into(), shape, recorded(name, parents, adjoint))
}

/// As [`record`], for the transpose of `source`, which is not carried out yet.
pub(super) fn record_transposed<T: Real>(
    source: &Tensor<T>,
    shape: Shape,
    adjoint: impl Fn(Buffer<T>) -> Buffer<T> + Send + Sync + 'static,
) -> Tensor<T> {
    let op =
        recorded("transpose", vec![source.clone()], move |grad, slots| add_to(slots, [Some(adjoint(grad))]));
    Tensor::transposed_result(source.values(), shape, op)
}

/// `sum += more`, by fixed chunks.
pub(super) fn add_into<T: Real>(sum: &mut [T], more: &[T]) {
    threads::for_each_chunk(sum, CHUNK, |chunk, part| {
        let more = &more[chunk * CHUNK..][..part.len()];
        part.iter_mut().zip(more).for_each(|(sum, &value)| *sum += value);
    });
}

/// The tensors whose gradients are on their way, by number.
struct Pending<T: Real>(BTreeMap<u64, (Tensor<T>, Buffer<T>)>);

impl<T: Real> Pending<T> {
    /// The slot of an operation's input, which takes the sum with it until it is [put back](Self::put).
    fn take(&mut self, tensor: &Tensor<T>) -> Slot<T> {
        Slot { wanted: tensor.requires_grad(), sum: self.0.remove(&tensor.id()).map(|(_, sum)| sum) }
    }

    fn put(&mut self, tensor: &Tensor<T>, slot: Slot<T>) {
        let Some(sum) = slot.sum else { return };
        debug_assert_eq!(sum.len(), tensor.count());
        // An input that an operation has twice took its sum to the first of its slots.
        match self.0.entry(tensor.id()) {
            Entry::Occupied(mut before) => add_into(&mut before.get_mut().1, &sum),
            Entry::Vacant(place) => drop(place.insert((tensor.clone(), sum))),
        }
    }
}

/// Walks back from `root`, whose gradient is `seed`. `keep` sees every tensor with its complete gradient and says
/// whether the walk goes on through it.
fn walk<T: Real>(
    root: &Tensor<T>,
    seed: Buffer<T>,
    retain: bool,
    mut keep: impl FnMut(&Tensor<T>, &mut Option<Buffer<T>>, bool),
) -> Result<()> {
    let mut pending = Pending(BTreeMap::new());
    pending.put(root, Slot { wanted: true, sum: Some(seed) });
    while let Some((_, (tensor, grad))) = pending.0.pop_last() {
        let mut grad = Some(grad);
        match tensor.origin(retain) {
            Origin::Leaf => keep(&tensor, &mut grad, true),
            Origin::Released(name) => {
                return Err(Error::Config(format!(
                    "backward: the result of {name} was already walked back through; \
                     pass retain_graph to the first backward pass to walk twice"
                )));
            }
            Origin::Op(op) => {
                keep(&tensor, &mut grad, false);
                let Some(grad) = grad else { continue };
                let mut slots: Vec<Slot<T>> = op.parents.iter().map(|parent| pending.take(parent)).collect();
                (op.adjoint)(grad, &mut slots);
                op.parents.iter().zip(slots).for_each(|(parent, slot)| pending.put(parent, slot));
            }
        }
    }
    Ok(())
}

impl<T: Real> Tensor<T> {
    /// Adds the gradients of this single number to the `grad` of every leaf that it depends on, and releases
    /// the operations in between.
    pub fn backward(&self) -> Result<()> {
        self.backward_from(None, false)
    }

    /// As [`backward`](Self::backward), from a given gradient of this tensor (of ones if it holds one value), and
    /// keeping the operations for another pass when `retain_graph`. A pass that ends early has changed no `grad`, but has
    /// released the operations that it had walked back through.
    pub fn backward_from(&self, seed: Option<Buffer<T>>, retain_graph: bool) -> Result<()> {
        let seed = self.seed(seed)?;
        // Kept until the walk has ended, so that one that is interrupted has changed no gradient.
        let mut complete = Vec::new();
        walk(self, seed, retain_graph, |tensor, grad, is_leaf| {
            if is_leaf
                && tensor.requires_grad()
                && let Some(grad) = grad.take()
            {
                complete.push((tensor.clone(), grad));
            }
        })?;
        // What may be refused or interrupted comes before the first `grad` changes.
        let sums: Vec<_> =
            complete.into_iter().map(|(tensor, grad)| (tensor.plus_grad(grad), tensor)).collect();
        sums.into_iter().for_each(|(sum, tensor)| tensor.put_grad(sum));
        Ok(())
    }

    fn seed(&self, seed: Option<Buffer<T>>) -> Result<Buffer<T>> {
        if !self.requires_grad() {
            return Err(Error::Config(
                "backward: this tensor does not depend on one that requires grad".into(),
            ));
        }
        match seed {
            Some(seed) if seed.len() == self.count() => Ok(seed),
            Some(seed) => Err(Error::Shape(format!(
                "backward: a gradient of {} values for a tensor of shape {}",
                seed.len(),
                self.shape()
            ))),
            None if self.count() == 1 => Ok(Buffer::filled(1, T::ONE)),
            None => Err(Error::Shape(format!(
                "backward: a gradient is needed for a tensor of shape {} (only a single number has one by default)",
                self.shape()
            ))),
        }
    }
}

/// The gradients of `loss` with respect to `tensors`, without touching anybody's `grad`: `None` where the
/// loss does not depend on a tensor. The operations are kept when `retain_graph`.
pub fn gradients<T: Real>(
    loss: &Tensor<T>,
    tensors: &[Tensor<T>],
    retain_graph: bool,
) -> Result<Vec<Option<Buffer<T>>>> {
    let seed = loss.seed(None)?;
    let needed = above(loss, tensors);
    let mut found: Vec<Option<Buffer<T>>> = memory::vec![None; tensors.len()];
    walk(loss, seed, retain_graph, |tensor, grad, _| {
        for (place, _) in found.iter_mut().zip(tensors).filter(|(_, wanted)| wanted.same(tensor)) {
            place.clone_from(grad);
        }
        if !needed.contains(&tensor.id()) {
            *grad = None;
        }
    })?;
    Ok(found)
}

/// The numbers of the tensors between `loss` and `tensors`: a gradient is wanted of something below them.
fn above<T: Real>(loss: &Tensor<T>, tensors: &[Tensor<T>]) -> HashSet<u64> {
    let mut order = BTreeMap::from([(loss.id(), loss.clone())]);
    let mut seen = BTreeMap::new();
    while let Some((id, tensor)) = order.pop_last() {
        let parents = tensor.parents();
        parents.iter().for_each(|parent| drop(order.insert(parent.id(), parent.clone())));
        seen.insert(id, parents);
    }
    let mut needed = HashSet::new();
    for (id, parents) in seen {
        let reaches = |parent: &Tensor<T>| {
            needed.contains(&parent.id()) || tensors.iter().any(|tensor| tensor.same(parent))
        };
        if parents.iter().any(reaches) {
            needed.insert(id);
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn leaf(values: &[f64]) -> Tensor<f64> {
        Tensor::parameter(values.to_vec(), &[values.len()]).unwrap()
    }

    #[test]
    fn gradients_accumulate_until_cleared_as_in_pytorch() {
        let x = leaf(&[2.0, 3.0]);
        for expected in [[4.0, 6.0], [8.0, 12.0]] {
            x.mul(&x).unwrap().sum().unwrap().backward().unwrap();
            assert_eq!(x.grad().unwrap().to_vec(), expected);
        }
        x.zero_grad();
        assert!(x.grad().is_none());
    }

    #[test]
    fn a_second_pass_needs_retain_graph() {
        let x = leaf(&[2.0]);
        let y = x.mul(&x).unwrap();
        y.backward_from(None, true).unwrap();
        y.backward().unwrap();
        assert_eq!(x.grad().unwrap().to_vec(), [8.0]);
        assert!(matches!(y.backward(), Err(Error::Config(_))));
    }

    #[test]
    fn a_tensor_used_on_several_paths_gets_the_sum() {
        let x = leaf(&[3.0]);
        let y = x.mul(&x).unwrap();
        let z = y.add(&x).unwrap().mul(&y).unwrap(); // (x^2 + x) x^2 = x^4 + x^3
        z.backward().unwrap();
        assert_eq!(x.grad().unwrap().to_vec(), [4.0 * 27.0 + 3.0 * 9.0]);
    }

    #[test]
    fn saved_buffers_are_released_after_backward() {
        let x = leaf(&[1.0; 8]);
        let y = x.exp().unwrap();
        let saved = Arc::downgrade(&y.values());
        let loss = y.sum().unwrap();
        drop(y);
        assert!(saved.upgrade().is_some());
        loss.backward().unwrap();
        assert!(saved.upgrade().is_none(), "the tape still holds what exp saved");
    }

    #[test]
    fn no_grad_records_nothing_and_ends_with_its_guard() {
        let x = leaf(&[1.0]);
        {
            let _guard = no_grad();
            assert!(!x.exp().unwrap().requires_grad());
        }
        assert!(x.exp().unwrap().requires_grad());
        assert!(matches!(x.detach().exp().unwrap().backward(), Err(Error::Config(_))));
    }

    #[test]
    fn gradients_of_chosen_tensors_leave_grad_alone() {
        let (x, y, unused) = (leaf(&[2.0]), leaf(&[5.0]), leaf(&[1.0]));
        let middle = x.mul(&y).unwrap();
        let loss = middle.mul(&middle).unwrap();
        let found = gradients(&loss, &[x.clone(), middle, unused], false).unwrap();
        let found: Vec<Option<f64>> = found.into_iter().map(|grad| grad.map(|grad| grad[0])).collect();
        assert_eq!(found, [Some(2.0 * 10.0 * 5.0), Some(20.0), None]);
        assert!(x.grad().is_none() && y.grad().is_none());
    }

    #[test]
    fn an_update_between_forward_and_backward_does_not_change_the_gradient() {
        let x = leaf(&[3.0]);
        let y = x.mul(&x).unwrap();
        x.update(|values| values[0] = 100.0).unwrap();
        y.backward().unwrap();
        assert_eq!(x.grad().unwrap().to_vec(), [6.0]);
    }
}
