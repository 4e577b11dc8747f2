//! Choosing by a mask: `where` and `masked_fill`.

#![forbid(unsafe_code)]

use crate::autograd::Tensor;
use crate::autograd::tape::record;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::real::Real;
use std::sync::Arc;

impl<T: Real> Tensor<T> {
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
        let (mask, counts) = (mask.to_vec(), [x.len(), y.len()]);
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

    /// `value` where the mask is set.
    pub fn masked_fill(&self, mask: &[bool], value: T) -> Result<Self> {
        if mask.len() != self.count() {
            let message = format!("masked_fill: {} mask values with shape {}", mask.len(), self.shape());
            return Err(Error::Shape(message));
        }
        let mut out = self.values().as_ref().clone();
        let fill = |values: &mut [T], value: T| {
            values.iter_mut().zip(mask).filter(|(_, mask)| **mask).for_each(|(place, _)| *place = value);
        };
        fill(&mut out, value);
        let mask = mask.to_vec();
        Ok(record("masked_fill", Arc::new(out), self.shape(), [self], move |mut grad, _| {
            grad.iter_mut().zip(&mask).filter(|(_, mask)| **mask).for_each(|(g, _)| *g = T::ZERO);
            [Some(grad)]
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients() {
        let mask = [true, false, false, true, true, false];
        let (x, y, one) = (random(&[2, 3], 0), random(&[2, 3], 1), random(&[], 2));
        gradcheck(&[x.clone(), y.clone()], |x| x[0].select(&mask, &x[1])).unwrap();
        gradcheck(&[x.clone(), one.clone()], |x| x[0].select(&mask, &x[1])).unwrap();
        gradcheck(&[one, y], |x| x[0].select(&mask, &x[1])).unwrap();
        gradcheck(&[x], |x| x[0].masked_fill(&mask, -3.0)).unwrap();
    }

    #[test]
    fn a_mask_of_another_length_is_refused() {
        let x = random(&[2, 3], 0);
        assert!(x.select(&[true; 5], &x).is_err() && x.masked_fill(&[true; 7], 0.0).is_err());
    }
}
