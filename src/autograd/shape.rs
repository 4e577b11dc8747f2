//! Shapes of 0 to 3 dimensions.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use std::fmt;
use std::ops::Deref;

/// The lengths of a tensor's axes; dereferences to a slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    dims: [usize; 3],
    ndim: usize,
}

impl Shape {
    /// The shape of a single number.
    pub const SCALAR: Shape = Shape { dims: [1; 3], ndim: 0 };

    /// A shape of at most three axes whose number of values fits in memory.
    pub fn new(dims: &[usize]) -> Result<Self> {
        let mut shape = Self { ndim: dims.len(), ..Self::SCALAR };
        let Some(room) = shape.dims.get_mut(..dims.len()) else {
            return Err(Error::Shape(format!(
                "tensors have at most 3 dimensions, got {}: {dims:?}",
                dims.len()
            )));
        };
        room.copy_from_slice(dims);
        match dims.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim)) {
            Some(len) if len <= isize::MAX as usize / 8 => Ok(shape),
            _ => Err(Error::Shape(format!("a tensor of shape {dims:?} does not fit in memory"))),
        }
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        self.iter().product()
    }

    /// Length of the last axis (1 for a single number).
    pub fn columns(&self) -> usize {
        self.last().copied().unwrap_or(1)
    }

    /// Number of slices along the last axis: all axes but the last, multiplied.
    pub fn rows(&self) -> usize {
        self.split_last().map_or(1, |(_, leading)| leading.iter().product())
    }

    /// The same shape with `length` as its last axis.
    pub(crate) fn with_columns(mut self, length: usize) -> Self {
        debug_assert!(self.ndim > 0);
        self.dims[self.ndim - 1] = length;
        self
    }

    /// The shape without axis `axis`, or with length 1 there.
    pub(crate) fn reduced(self, axis: usize, keep: bool) -> Self {
        let mut dims = self.to_vec();
        if keep {
            dims[axis] = 1;
        } else {
            dims.remove(axis);
        }
        Self::new(&dims).unwrap_or(Self::SCALAR)
    }

    /// A possibly negative axis as an index into the shape, or an error that names `op`.
    pub fn axis(&self, op: &str, axis: isize) -> Result<usize> {
        let ndim = self.ndim as isize;
        let index = if axis < 0 { axis.saturating_add(ndim) } else { axis };
        if (0..ndim).contains(&index) {
            Ok(index as usize)
        } else {
            Err(Error::Shape(format!("{op}: axis {axis} of a tensor of shape {self}")))
        }
    }

    /// Around `axis`: the number of values before it, along it, and behind it.
    pub(crate) fn around(&self, axis: usize) -> (usize, usize, usize) {
        (self[..axis].iter().product(), self[axis], self[axis + 1..].iter().product())
    }

    /// `(rows, columns)` of a matrix, or an error that names `op` and `name`.
    pub fn matrix(&self, op: &str, name: &str) -> Result<(usize, usize)> {
        match **self {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(Error::Shape(format!("{op}: {name} must have 2 dimensions, got shape {self}"))),
        }
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.ndim]
    }
}

impl fmt::Display for Shape {
    /// As Python writes a tuple.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match **self {
            [] => write!(f, "()"),
            [a] => write!(f, "({a},)"),
            [a, b] => write!(f, "({a}, {b})"),
            [a, b, c] => write!(f, "({a}, {b}, {c})"),
            _ => unreachable!("at most three axes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_bounded_and_print_as_tuples() {
        assert!(Shape::new(&[1, 2, 3, 4]).is_err());
        assert!(Shape::new(&[usize::MAX, 2]).is_err());
        let shapes = [vec![], vec![3], vec![3, 4], vec![3, 4, 5]];
        let texts = ["()", "(3,)", "(3, 4)", "(3, 4, 5)"];
        for (dims, text) in shapes.iter().zip(texts) {
            let shape = Shape::new(dims).unwrap();
            assert_eq!((shape.to_string().as_str(), shape.count()), (text, dims.iter().product()));
        }
    }

    #[test]
    fn axes_count_from_either_end() {
        let shape = Shape::new(&[2, 3, 4]).unwrap();
        assert_eq!((shape.axis("sum", -1).unwrap(), shape.axis("sum", 1).unwrap()), (2, 1));
        assert!(shape.axis("sum", 3).is_err() && shape.axis("sum", -4).is_err());
        assert_eq!(shape.around(1), (2, 3, 4));
        assert_eq!(*shape.reduced(1, false), [2, 4]);
    }
}
