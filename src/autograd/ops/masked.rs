//! Choosing by a mask: `where` and `masked_fill`; and the repetition along axes that both rest on.

#![forbid(unsafe_code)]

use super::broadcast::Plan;
use crate::autograd::tape::record;
use crate::autograd::{Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::Real;
use std::sync::Arc;

impl<T: Real> Tensor<T> {
    /// The same values, repeated to a shape that this one broadcasts to; adjoint: the sum over the copies.
    pub fn broadcast_to(&self, dims: &[usize]) -> Result<Self> {
        let (shape, own) = (Shape::new(dims)?, self.shape());
        if own == shape {
            return Ok(self.clone());
        }
        let plan = Plan::new("broadcast_to", own, shape)?;
        if plan.shape != shape {
            return Err(Error::Shape(format!("broadcast_to: shape {own} to {shape}")));
        }
        let (count, target) = (self.count(), Buffer::stale(shape.count()));
        let out = plan.zip(&self.values(), &target, |value, _| value);
        Ok(record("broadcast_to", Arc::new(out), shape, [self], move |grad, _| {
            [Some(plan.fold_grad(&plan.left, count, grad))]
        }))
    }

    /// `x` where the mask of shape `dims` is set, else `y`; all three broadcast as in NumPy.
    pub fn choose(mask: &[bool], dims: &[usize], x: &Self, y: &Self) -> Result<Self> {
        let flags: Vec<T> = memory::collect(mask.iter().map(|&set| if set { T::ONE } else { T::ZERO }));
        let flags = Self::new(flags, dims)?;
        let shape = Plan::new("where", x.shape(), y.shape())?.shape;
        let shape = Plan::new("where", shape, flags.shape())?.shape;
        let flags = flags.broadcast_to(&shape)?.values();
        let mask: Vec<bool> = memory::collect(flags.iter().map(|&flag| flag != T::ZERO));
        x.broadcast_to(&shape)?.select(&mask, &y.broadcast_to(&shape)?)
    }

    /// `self` where the mask is set, else `other`; a tensor of one value stands for all places.
    pub fn select(&self, mask: &[bool], other: &Self) -> Result<Self> {
        let shape = if self.count() == 1 { other.shape() } else { self.shape() };
        let fits = |tensor: &Self| tensor.shape() == shape || tensor.count() == 1;
        if mask.len() != shape.count() || !fits(self) || !fits(other) {
            return Err(Error::Shape(format!(
                "where: {} mask values with shapes {} and {}",
                mask.len(),
                self.shape(),
                other.shape()
            )));
        }
        let (x, y) = (self.values(), other.values());
        let pick = |values: &[T], at: usize| if values.len() == 1 { values[0] } else { values[at] };
        let mut out = Buffer::stale(mask.len());
        out.iter_mut().zip(mask).enumerate().for_each(|(at, (out, &mask))| {
            *out = if mask { pick(&x, at) } else { pick(&y, at) };
        });
        let (mask, counts) = (memory::copy_of(mask), [x.len(), y.len()]);
        Ok(record("where", Arc::new(out), shape, [self, other], move |grad, wanted| {
            [true, false].map(|side| {
                let number = usize::from(!side);
                wanted[number].then(|| {
                    let mut part = grad.clone();
                    part.iter_mut()
                        .zip(&mask)
                        .filter(|(_, mask)| **mask != side)
                        .for_each(|(g, _)| *g = T::ZERO);
                    if counts[number] == 1 { vec![super::reduce::total(&part)].into() } else { part }
                })
            })
        }))
    }

    /// `value` where the mask of shape `dims` is set; it broadcasts to this tensor's shape.
    pub fn masked_fill(&self, mask: &[bool], dims: &[usize], value: T) -> Result<Self> {
        let shapes = || format!("masked_fill: a mask of shape {dims:?} for shape {}", self.shape());
        let filled = Self::choose(mask, dims, &Self::scalar(value), self);
        filled.ok().filter(|filled| filled.shape() == self.shape()).ok_or_else(|| Error::Shape(shapes()))
    }
}

#[cfg(test)]
mod tests {
    use crate::autograd::Tensor;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients() {
        let mask = [true, false, false, true, true, false];
        let (x, y, one) = (random(&[2, 3], 0), random(&[2, 3], 1), random(&[], 2));
        gradcheck(&[x.clone(), y.clone()], |x| x[0].select(&mask, &x[1])).unwrap();
        gradcheck(&[x.clone(), one.clone()], |x| x[0].select(&mask, &x[1])).unwrap();
        gradcheck(&[one, y], |x| x[0].select(&mask, &x[1])).unwrap();
        let (column, row, mask3) = (random(&[4, 1, 1], 3), random(&[3], 4), &mask[..2]);
        gradcheck(&[column, row], |x| Tensor::choose(mask3, &[2, 1], &x[0], &x[1])).unwrap();
        gradcheck(std::slice::from_ref(&x), |x| x[0].masked_fill(&mask[..3], &[3], 1.0)).unwrap();
        gradcheck(&[random(&[2, 1], 5)], |x| x[0].broadcast_to(&[4, 2, 3])).unwrap();
        gradcheck(&[x], |x| x[0].masked_fill(&mask, &[2, 3], -3.0)).unwrap();
    }

    #[test]
    fn a_mask_of_another_length_is_refused() {
        let x = random(&[2, 3], 0);
        assert!(x.select(&[true; 5], &x).is_err() && x.masked_fill(&[true; 6], &[3, 2], 0.0).is_err());
        assert!(x.masked_fill(&[true; 12], &[2, 2, 3], 0.0).is_err(), "the result would be larger");
        assert!(x.broadcast_to(&[3]).is_err() && Tensor::choose(&[true; 4], &[4], &x, &x).is_err());
    }
}
