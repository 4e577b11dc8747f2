//! The tensor: a shared handle of values, shape, gradient and the operation that made it.

#![forbid(unsafe_code)]

use super::shape::Shape;
use super::tape::{self, Op};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::Real;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Values that several holders share; whoever writes them while others hold them writes a copy.
pub type Values<T> = Arc<Buffer<T>>;

/// A value on the gradient tape: 0 to 3 dimensions, row-major. Clones are handles of the same tensor.
///
/// ```
/// use ruvector_gnn::autograd::Tensor;
/// let x = Tensor::parameter(vec![1.0f32, 2.0, 3.0], &[3])?;
/// x.mul(&x)?.sum()?.backward()?;
/// assert_eq!(x.grad().unwrap().to_vec(), [2.0, 4.0, 6.0]);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
pub struct Tensor<T: Real>(Arc<Node<T>>);

struct Node<T: Real> {
    /// Rises with creation: a node's number is larger than those of all it was made from.
    id: u64,
    shape: Shape,
    values: RwLock<Data<T>>,
    requires_grad: AtomicBool,
    grad: Mutex<Option<Values<T>>>,
    op: Mutex<History<T>>,
}

/// A transpose is not carried out until somebody asks for its values: products read the source instead.
#[derive(Clone)]
enum Data<T: Real> {
    Own(Values<T>),
    Transposed(Values<T>),
}

/// How a tensor came to be.
enum History<T: Real> {
    /// Made from data, or outside the tape.
    Leaf,
    Op(Arc<Op<T>>),
    /// Its operation was released by an earlier backward pass.
    Released(&'static str),
}

/// What the reverse pass finds at a node.
pub(super) enum Origin<T: Real> {
    Leaf,
    Op(Arc<Op<T>>),
    Released(&'static str),
}

impl<T: Real> Clone for Tensor<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A gradient with the one that it was added to.
pub(super) struct GradSum<T: Real> {
    sum: Values<T>,
    before: Option<Values<T>>,
}

fn locked<S>(mutex: &Mutex<S>) -> MutexGuard<'_, S> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The values to write: the shared ones where nobody else holds them, else a copy.
fn own<T: Real>(values: &mut Values<T>) -> &mut [T] {
    let buffer: &mut Buffer<T> = Arc::make_mut(values);
    buffer
}

impl<T: Real> Tensor<T> {
    /// A constant with these values in row-major order; their number must fit the shape.
    pub fn new(values: impl Into<Buffer<T>>, dims: &[usize]) -> Result<Self> {
        let (values, shape) = (values.into(), Shape::new(dims)?);
        if values.len() != shape.count() {
            return Err(Error::Shape(format!("tensor: {} values for shape {shape}", values.len())));
        }
        Ok(Self::leaf(values, shape, false))
    }

    /// As [`Tensor::new`], collecting a gradient.
    pub fn parameter(values: impl Into<Buffer<T>>, dims: &[usize]) -> Result<Self> {
        let tensor = Self::new(values, dims)?;
        tensor.set_requires_grad(true)?;
        Ok(tensor)
    }

    /// A constant number.
    pub fn scalar(value: T) -> Self {
        Self::leaf(Buffer::from(vec![value]), Shape::SCALAR, false)
    }

    /// A constant of zeros.
    pub fn zeros(dims: &[usize]) -> Result<Self> {
        let shape = Shape::new(dims)?;
        Ok(Self::leaf(Buffer::zeros(shape.count()), shape, false))
    }

    fn leaf(values: Buffer<T>, shape: Shape, requires_grad: bool) -> Self {
        Self::node(Data::Own(Arc::new(values)), shape, requires_grad, History::Leaf)
    }

    fn node(values: Data<T>, shape: Shape, requires_grad: bool, history: History<T>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Arc::new(Node {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            shape,
            values: RwLock::new(values),
            requires_grad: AtomicBool::new(requires_grad),
            grad: Mutex::new(None),
            op: Mutex::new(history),
        }))
    }

    /// The result of an operation; `op` is `None` where no gradient is wanted.
    pub(super) fn result(values: Values<T>, shape: Shape, op: Option<Op<T>>) -> Self {
        debug_assert_eq!(values.len(), shape.count());
        let (tracked, history) = Self::history(op);
        Self::node(Data::Own(values), shape, tracked, history)
    }

    /// The transpose of a matrix of `source` values, not yet carried out.
    pub(super) fn transposed_result(source: Values<T>, shape: Shape, op: Option<Op<T>>) -> Self {
        let (tracked, history) = Self::history(op);
        Self::node(Data::Transposed(source), shape, tracked, history)
    }

    fn history(op: Option<Op<T>>) -> (bool, History<T>) {
        op.map_or((false, History::Leaf), |op| (true, History::Op(Arc::new(op))))
    }

    /// The shape, with its text form.
    pub fn shape(&self) -> Shape {
        self.0.shape
    }

    /// The lengths of the axes.
    pub fn dims(&self) -> &[usize] {
        &self.0.shape
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        self.0.shape.count()
    }

    /// The values, shared. Later [`update`](Self::update)s do not show in them.
    pub fn values(&self) -> Values<T> {
        let data = self.0.values.read().unwrap_or_else(PoisonError::into_inner).clone();
        match data {
            Data::Own(values) => values,
            Data::Transposed(source) => {
                let mut place = self.0.values.write().unwrap_or_else(PoisonError::into_inner);
                if let Data::Own(values) = &*place {
                    return Arc::clone(values);
                }
                let [rows, columns] = [self.dims()[0], self.dims()[1]];
                let values = Arc::new(super::ops::transposed(&source, columns, rows));
                *place = Data::Own(Arc::clone(&values));
                values
            }
        }
    }

    /// The values, to keep: `Err` with the shared ones where somebody else holds them too, or the tensor.
    pub(super) fn into_values(self) -> std::result::Result<Buffer<T>, Values<T>> {
        let values = self.values();
        drop(self);
        Arc::try_unwrap(values)
    }

    /// The values a product reads: those of the source, and whether they are this matrix's transpose.
    pub(super) fn matrix_values(&self) -> (Values<T>, bool) {
        match &*self.0.values.read().unwrap_or_else(PoisonError::into_inner) {
            Data::Own(values) => (Arc::clone(values), false),
            Data::Transposed(source) => (Arc::clone(source), true),
        }
    }

    /// A copy of the values.
    pub fn to_vec(&self) -> Vec<T> {
        memory::copy_of(&self.values())
    }

    /// The value of a tensor that holds exactly one.
    pub fn item(&self) -> Result<T> {
        match **self.values() {
            [value] => Ok(value),
            _ => Err(Error::Shape(format!(
                "item: a tensor of shape {} holds more than one value",
                self.shape()
            ))),
        }
    }

    /// Changes the values of a leaf: in place, unless the tape or somebody else still holds them.
    pub fn update<R>(&self, change: impl FnOnce(&mut [T]) -> R) -> Result<R> {
        if !self.is_leaf() {
            return Err(Error::Config("update: only tensors made from data can be changed in place".into()));
        }
        let mut data = self.0.values.write().unwrap_or_else(PoisonError::into_inner);
        match &mut *data {
            Data::Own(values) => Ok(change(own(values))),
            Data::Transposed(_) => Err(Error::Config("update: a transposed view can't be changed".into())),
        }
    }

    /// Lets a leaf hold these values, shared: whoever writes them while others hold them writes a copy.
    ///
    /// The memory of the replaced values goes back to the system, with the buffers that wait for reuse: mapped weights can
    /// be larger than what is left of it.
    pub fn share(&self, values: Values<T>) -> Result<()> {
        if !self.is_leaf() {
            return Err(Error::Config("share: only tensors made from data can take other values".into()));
        }
        if values.len() != self.count() {
            return Err(Error::Shape(format!("share: {} values for shape {}", values.len(), self.shape())));
        }
        *self.0.values.write().unwrap_or_else(PoisonError::into_inner) = Data::Own(values);
        T::pool().clear();
        Ok(())
    }

    /// Whether gradients flow to this tensor.
    pub fn requires_grad(&self) -> bool {
        self.0.requires_grad.load(Ordering::Relaxed)
    }

    /// Starts or stops collecting a gradient for a leaf.
    pub fn set_requires_grad(&self, on: bool) -> Result<()> {
        if !self.is_leaf() {
            return Err(Error::Config("requires_grad: only tensors made from data can change it".into()));
        }
        self.0.requires_grad.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// Made from data rather than by an operation.
    pub fn is_leaf(&self) -> bool {
        matches!(*locked(&self.0.op), History::Leaf)
    }

    /// The gradient collected so far.
    pub fn grad(&self) -> Option<Values<T>> {
        locked(&self.0.grad).clone()
    }

    /// Replaces the gradient; its length must fit.
    pub fn set_grad(&self, grad: Option<Buffer<T>>) -> Result<()> {
        if let Some(grad) = grad.as_ref().filter(|grad| grad.len() != self.count()) {
            return Err(Error::Shape(format!("grad: {} values for shape {}", grad.len(), self.shape())));
        }
        *locked(&self.0.grad) = grad.map(Arc::new);
        Ok(())
    }

    /// Forgets the gradient.
    pub fn zero_grad(&self) {
        *locked(&self.0.grad) = None;
    }

    /// Adds the gradient collected so far to `more`, for [`put_grad`](Self::put_grad).
    pub(super) fn plus_grad(&self, mut more: Buffer<T>) -> GradSum<T> {
        let before = self.grad();
        if let Some(before) = &before {
            tape::add_into(&mut more, before);
        }
        GradSum { sum: Arc::new(more), before }
    }

    /// Replaces the gradient by a sum, without allocating.
    pub(super) fn put_grad(&self, GradSum { mut sum, before }: GradSum<T>) {
        let mut grad = locked(&self.0.grad);
        let unchanged = match (&*grad, &before) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (now, before) => now.is_none() && before.is_none(),
        };
        if !unchanged {
            // Another thread added to the gradient, or cleared it.
            let value = |values: &Option<Values<T>>, at: usize| values.as_ref().map_or(T::ZERO, |v| v[at]);
            own(&mut sum)
                .iter_mut()
                .enumerate()
                .for_each(|(at, sum)| *sum += value(&grad, at) - value(&before, at));
        }
        *grad = Some(sum);
    }

    /// Makes the gradient this tensor's own, so that changing it allocates nothing.
    pub(crate) fn own_grad(&self) {
        if let Some(grad) = &mut *locked(&self.0.grad) {
            own(grad);
        }
    }

    /// Multiplies the gradient, if there is one.
    pub fn scale_grad(&self, factor: f64) {
        if let Some(grad) = &mut *locked(&self.0.grad) {
            crate::threads::for_each_chunk(own(grad), super::CHUNK, |_, part| {
                // In f64: a factor that brings huge gradients down may be too small for f32.
                part.iter_mut().for_each(|value| *value = T::of(value.wide() * factor));
            });
        }
    }

    /// The same values as a constant, cut from the tape.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self::node(Data::Own(self.values()), self.shape(), false, History::Leaf)
    }

    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    /// Whether two handles are of the same tensor.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// How this tensor was made; takes the operation away from it unless `retain`.
    pub(super) fn origin(&self, retain: bool) -> Origin<T> {
        let mut history = locked(&self.0.op);
        match &*history {
            History::Leaf => Origin::Leaf,
            History::Released(name) => Origin::Released(name),
            History::Op(op) => {
                let op = Arc::clone(op);
                if !retain {
                    *history = History::Released(op.name);
                }
                Origin::Op(op)
            }
        }
    }

    /// The inputs of the operation that made this tensor.
    pub(super) fn parents(&self) -> Vec<Self> {
        match &*locked(&self.0.op) {
            History::Op(op) => op.parents.clone(),
            _ => Vec::new(),
        }
    }

    /// The tensor that this one is the recorded transpose of.
    pub(super) fn untransposed(&self) -> Option<Self> {
        match &*locked(&self.0.op) {
            History::Op(op) if op.name == "transpose" => op.parents.first().cloned(),
            _ => None,
        }
    }

    /// The name of the operation that made this tensor, if it is on the tape.
    pub fn op_name(&self) -> Option<&'static str> {
        match &*locked(&self.0.op) {
            History::Leaf => None,
            History::Op(op) => Some(op.name),
            History::Released(name) => Some(name),
        }
    }
}

impl<T: Real> Drop for Node<T> {
    /// Takes a long chain of operations apart step by step, rather than by recursion, which would overflow the stack.
    fn drop(&mut self) {
        let mut waiting = Vec::new();
        let release = |history: &mut Mutex<History<T>>, waiting: &mut Vec<Tensor<T>>| {
            let history = history.get_mut().unwrap_or_else(PoisonError::into_inner);
            if let History::Op(op) = std::mem::replace(history, History::Leaf)
                && let Some(op) = Arc::into_inner(op)
            {
                waiting.extend(op.parents);
            }
        };
        release(&mut self.op, &mut waiting);
        while let Some(tensor) = waiting.pop() {
            if let Some(mut node) = Arc::into_inner(tensor.0) {
                release(&mut node.op, &mut waiting);
            }
        }
    }
}

impl<T: Real> fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values();
        write!(f, "Tensor(shape={}, values={:?}", self.shape(), &values[..values.len().min(8)])?;
        if let Some(name) = self.op_name() {
            write!(f, ", op={name}")?;
        } else if self.requires_grad() {
            write!(f, ", requires_grad")?;
        }
        write!(f, ")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_counts_are_refused() {
        assert!(matches!(Tensor::new(vec![1.0f32; 5], &[2, 3]), Err(Error::Shape(_))));
        assert!(Tensor::new(vec![1.0f32; 2], &[2]).unwrap().item().is_err());
    }

    #[test]
    fn updates_are_in_place_unless_the_values_are_held() {
        let x = Tensor::parameter(vec![1.0f32; 4], &[4]).unwrap();
        let address = x.values().as_ptr();
        x.update(|values| values[0] = 2.0).unwrap();
        assert_eq!(x.values().as_ptr(), address);
        let held = x.values();
        x.update(|values| values[0] = 3.0).unwrap();
        assert_eq!((held[0], x.values()[0]), (2.0, 3.0));
    }

    #[test]
    fn shared_values_part_when_one_side_writes() {
        let (x, y) = (Tensor::zeros(&[2, 1]).unwrap(), Tensor::new(vec![1.0f32, 2.0], &[2]).unwrap());
        x.share(y.values()).unwrap();
        assert_eq!(x.values().as_ptr(), y.values().as_ptr());
        x.update(|values| values[0] = 3.0).unwrap();
        assert_eq!((x.to_vec(), y.to_vec()), (vec![3.0, 2.0], vec![1.0, 2.0]));
        assert!(matches!(Tensor::scalar(0.0f32).share(y.values()), Err(Error::Shape(_))));
        let made = Tensor::parameter(vec![1.0f32, 2.0], &[2]).unwrap().neg().unwrap();
        assert!(matches!(made.share(y.values()), Err(Error::Config(_))));
    }

    #[test]
    fn a_very_long_chain_drops_without_recursion() {
        let mut x = Tensor::parameter(vec![1.0f32], &[1]).unwrap();
        for _ in 0..200_000 {
            x = x.neg().unwrap();
        }
        drop(x);
    }
}
