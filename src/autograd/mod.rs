//! Reverse-mode gradients over arrays of 0 to 3 dimensions.
//!
//! A [`Tensor`] holds values and remembers how it was made; [`Tensor::backward`] walks that record back
//! (`tape.rs`). Each operation is one file of [`ops`](self) with its formula, its adjoint and its check against
//! central finite differences in `f64` ([`gradcheck`]). Everything runs over chunks fixed by shape, so the bits do
//! not depend on the number of threads.

pub mod gradcheck;
mod ops;
mod shape;
mod tape;
mod tensor;

pub use ops::{Index, Reduce, Segments, Sequences, segment_reduce};
pub(crate) use ops::{border, exponentials};
pub use shape::Shape;
pub use tape::{NoGrad, gradients, is_recording, no_grad, set_recording};
pub(crate) use tape::{record as custom, tracked};
pub use tensor::{Tensor, Values};

/// Values per piece of elementwise work: enough to be worth a task, few enough to stay in the L2 cache.
pub(crate) const CHUNK: usize = 16 << 10;
