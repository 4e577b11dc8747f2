//! `+ - * /` with NumPy broadcasting, and the same with a number on one side.

#![forbid(unsafe_code)]

use super::broadcast::Plan;
use crate::autograd::Tensor;
use crate::autograd::tape::record;
use crate::error::Result;
use crate::real::Real;
use std::sync::Arc;

impl<T: Real> Tensor<T> {
    /// `self + other`.
    pub fn add(&self, other: &Self) -> Result<Self> {
        self.linear_pair("add", other, |x, y| x + y, T::ONE)
    }

    /// `self - other`.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        self.linear_pair("sub", other, |x, y| x - y, -T::ONE)
    }

    /// `x + sign y`: the gradient is passed on to `x`, and to `y` times `sign`.
    fn linear_pair(
        &self,
        name: &'static str,
        other: &Self,
        f: impl Fn(T, T) -> T + Sync,
        sign: T,
    ) -> Result<Self> {
        let plan = Plan::new(name, self.shape(), other.shape())?;
        let out = plan.zip(&self.values(), &other.values(), f);
        let counts = (self.count(), other.count());
        Ok(record(name, Arc::new(out), plan.shape, [self, other], move |grad, wanted| {
            let right = wanted[1].then(|| {
                let mut right = plan.fold_grad(&plan.right, counts.1, grad.clone());
                if sign != T::ONE {
                    super::unary::in_place(&mut right, |value| -value);
                }
                right
            });
            [wanted[0].then(|| plan.fold_grad(&plan.left, counts.0, grad)), right]
        }))
    }

    /// `self * other`: `dx = y g`, `dy = x g`.
    pub fn mul(&self, other: &Self) -> Result<Self> {
        let pair = (|g: T, _: T, y: T| g * y, |g: T, x: T, _: T| g * x);
        self.pair("mul", other, |x, y| x * y, pair.0, pair.1)
    }

    /// `self / other`: `dx = g / y`, `dy = -x g / y^2`.
    pub fn div(&self, other: &Self) -> Result<Self> {
        let pair = (|g: T, _: T, y: T| g / y, |g: T, x: T, y: T| -(g * x) / (y * y));
        self.pair("div", other, |x, y| x / y, pair.0, pair.1)
    }

    /// The larger of each pair; where they are equal the gradient is halved, as PyTorch does.
    pub fn maximum(&self, other: &Self) -> Result<Self> {
        let share = |g: T, mine: T, theirs: T| {
            if mine > theirs {
                g
            } else if mine == theirs {
                g * T::of(0.5)
            } else {
                T::ZERO
            }
        };
        let pair = (move |g: T, x: T, y: T| share(g, x, y), move |g: T, x: T, y: T| share(g, y, x));
        self.pair("maximum", other, |x, y| if y > x || y.is_nan() { y } else { x }, pair.0, pair.1)
    }

    fn pair(
        &self,
        name: &'static str,
        other: &Self,
        f: impl Fn(T, T) -> T + Sync,
        left: impl Fn(T, T, T) -> T + Send + Sync + 'static,
        right: impl Fn(T, T, T) -> T + Send + Sync + 'static,
    ) -> Result<Self> {
        let plan = Plan::new(name, self.shape(), other.shape())?;
        let (x, y) = (self.values(), other.values());
        let out = plan.zip(&x, &y, f);
        Ok(record(name, Arc::new(out), plan.shape, [self, other], move |grad, wanted| {
            let operands = (&x[..], &y[..]);
            [
                wanted[0].then(|| plan.pull(&plan.left, x.len(), &grad, operands, &left)),
                wanted[1].then(|| plan.pull(&plan.right, y.len(), &grad, operands, &right)),
            ]
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::Error;
    use crate::autograd::gradcheck::{gradcheck, random};
    use proptest::prelude::*;

    /// Every way in which shapes of up to three axes can meet.
    const SHAPES: [(&[usize], &[usize]); 14] = [
        (&[], &[]),
        (&[3], &[3]),
        (&[3], &[]),
        (&[2, 3], &[3]),
        (&[2, 3], &[2, 1]),
        (&[2, 1], &[1, 3]),
        (&[2, 3], &[]),
        (&[4, 2, 3], &[3]),
        (&[4, 2, 3], &[2, 1]),
        (&[4, 2, 3], &[4, 1, 1]),
        (&[4, 1, 3], &[2, 1]),
        (&[4, 1, 3], &[4, 2, 3]),
        (&[1, 2, 3], &[4, 2, 3]),
        (&[4, 1, 1], &[1, 2, 3]),
    ];

    #[test]
    fn gradients_for_every_way_of_broadcasting() {
        for (a, b) in SHAPES.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
            let inputs = [random(a, 0), random(b, 1)];
            gradcheck(&inputs, |x| x[0].add(&x[1])).unwrap();
            gradcheck(&inputs, |x| x[0].sub(&x[1])).unwrap();
            gradcheck(&inputs, |x| x[0].mul(&x[1])).unwrap();
            gradcheck(&inputs, |x| x[0].maximum(&x[1])).unwrap();
            inputs[1].update(|v| v.iter_mut().for_each(|v| *v += 3.0 * v.signum())).unwrap();
            gradcheck(&inputs, |x| x[0].div(&x[1])).unwrap();
        }
    }

    #[test]
    fn sums_over_many_chunks_reach_a_bias_a_column_and_a_number() {
        let (rows, columns) = (1000, 70);
        let x = random(&[rows, columns], 0);
        for dims in [vec![columns], vec![rows, 1], vec![]] {
            let y = random(&dims, 1);
            x.mul(&y).unwrap().sum().unwrap().backward().unwrap();
            let mut expected = vec![0.0; y.count()];
            for (at, value) in x.values().iter().enumerate() {
                expected[if dims.len() == 1 { at % columns } else { at / columns % y.count() }] += value;
            }
            for (got, expected) in y.grad().unwrap().iter().zip(expected) {
                assert!((got - expected).abs() < 1e-9, "{dims:?}: {got} {expected}");
            }
        }
    }

    #[test]
    fn shapes_that_do_not_meet_are_named() {
        let (x, y) = (random(&[2, 3], 0), random(&[4], 0));
        let Err(Error::Shape(message)) = x.add(&y) else { panic!("accepted") };
        assert_eq!(message, "add: shapes (2, 3) and (4,) do not broadcast");
    }

    #[test]
    fn empty_operands_give_empty_results_and_zero_gradients() {
        let (x, y) = (random(&[0, 3], 0), random(&[3], 1));
        x.mul(&y).unwrap().sum().unwrap().backward().unwrap();
        assert_eq!(y.grad().unwrap().to_vec(), [0.0; 3]);
    }

    proptest! {
        #[test]
        fn any_broadcast_matches_index_arithmetic(dims in prop::collection::vec(1usize..6, 0..4), mask in 0u8..64, skip in 0usize..4) {
            let operand = |mask: u8| -> Vec<usize> {
                dims.iter().enumerate().map(|(i, &d)| if mask >> i & 1 == 1 { 1 } else { d }).collect()
            };
            let (a, b) = (operand(mask & 7), operand(mask >> 3));
            let b = b[skip.min(b.len())..].to_vec();
            let (x, y) = (random(&a, 0), random(&b, 1));
            let z = x.sub(&y).unwrap();
            let shape = z.dims().to_vec();
            let at = |flat: usize, operand: &[usize]| {
                let (mut rest, mut offset, mut stride) = (flat, 0, 1);
                for back in 1..=shape.len() {
                    let digit = rest % shape[shape.len() - back];
                    rest /= shape[shape.len() - back];
                    if back <= operand.len() && operand[operand.len() - back] > 1 {
                        offset += digit * stride;
                    }
                    if back <= operand.len() {
                        stride *= operand[operand.len() - back];
                    }
                }
                offset
            };
            for (flat, value) in z.values().iter().enumerate() {
                prop_assert_eq!(*value, x.values()[at(flat, &a)] - y.values()[at(flat, &b)]);
            }
        }
    }
}
