//! One file per family of operations: formula, adjoint and check side by side.

mod additive_attention;
mod aggregate;
mod arithmetic;
mod attention;
mod broadcast;
mod dropout;
mod edge_attention;
mod edge_softmax;
mod gru;
mod layer_norm;
mod linear;
mod masked;
mod matmul;
mod movement;
mod normalize;
mod reduce;
mod select;
mod softmax;
mod unary;

pub use aggregate::{Reduce, segment_sum};
pub(crate) use edge_softmax::softmax_rows;
pub(crate) use layer_norm::normalize_row;
pub(in crate::autograd) use movement::transposed;
pub(crate) use softmax::exponentials;
