//! One file per family of operations: formula, adjoint and check side by side.

mod additive_attention;
mod aggregate;
mod arithmetic;
mod attention;
mod broadcast;
mod dropout;
mod dynamic_attention;
mod edge_attention;
mod edge_softmax;
mod gru;
mod index;
mod layer_norm;
mod linear;
mod lstm;
mod masked;
mod matmul;
mod messages;
mod movement;
mod normalize;
mod poincare;
mod reduce;
mod segment_attention;
mod select;
mod softmax;
mod unary;

pub use aggregate::{Reduce, segment_reduce};
pub use index::Index;
pub use lstm::Sequences;
pub(in crate::autograd) use movement::transposed;
pub(crate) use poincare::border;
pub use segment_attention::Segments;
pub(crate) use softmax::exponentials;
