//! Functions of one value: `neg exp log sqrt abs pow relu leaky_relu elu gelu sigmoid silu tanh asinh softplus clip`.
//!
//! Each saves the one buffer, input or output, that its slope is cheapest from.

#![forbid(unsafe_code)]

use crate::autograd::tape::record;
use crate::autograd::{CHUNK, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::real::{Real, larger};
use crate::threads;
use std::sync::Arc;

/// `f` of each value, in place.
pub(in crate::autograd) fn in_place<T: Real>(values: &mut [T], f: impl Fn(T) -> T + Sync) {
    threads::for_each_chunk(values, CHUNK, |_, part| {
        part.iter_mut().for_each(|value| *value = f(*value));
    });
}

/// `f(value, other)` of each pair, in place of the first.
pub(in crate::autograd) fn zip_in_place<T: Real>(
    values: &mut [T],
    other: &[T],
    f: impl Fn(T, T) -> T + Sync,
) {
    threads::for_each_chunk(values, CHUNK, |chunk, part| {
        let other = &other[chunk * CHUNK..][..part.len()];
        part.iter_mut().zip(other).for_each(|(value, &other)| *value = f(*value, other));
    });
}

/// `f` of each value.
fn mapped<T: Real>(values: &[T], f: impl Fn(T) -> T + Sync) -> Buffer<T> {
    let mut out = Buffer::stale(values.len());
    threads::for_each_chunk(&mut out, CHUNK, |chunk, out| {
        let values = &values[chunk * CHUNK..][..out.len()];
        out.iter_mut().zip(values).for_each(|(out, &value)| *out = f(value));
    });
    out
}

impl<T: Real> Tensor<T> {
    /// Applies `f`; the slope is a function of the input.
    fn by_input(
        &self,
        name: &'static str,
        f: impl Fn(T) -> T + Sync,
        slope: impl Fn(T) -> T + Send + Sync + 'static,
    ) -> Result<Self> {
        let x = self.values();
        let out = mapped(&x, f);
        Ok(record(name, Arc::new(out), self.shape(), [self], move |mut grad, _| {
            zip_in_place(&mut grad, &x, |g, x| g * slope(x));
            [Some(grad)]
        }))
    }

    /// Applies `f`; the slope is a function of the output.
    fn by_output(
        &self,
        name: &'static str,
        f: impl Fn(T) -> T + Sync,
        slope: impl Fn(T) -> T + Send + Sync + 'static,
    ) -> Result<Self> {
        let y = Arc::new(mapped(&self.values(), f));
        Ok(record(name, Arc::clone(&y), self.shape(), [self], move |mut grad, _| {
            zip_in_place(&mut grad, &y, |g, y| g * slope(y));
            [Some(grad)]
        }))
    }

    /// `scale * self + shift`.
    pub fn affine(&self, scale: T, shift: T) -> Result<Self> {
        let out = mapped(&self.values(), |x| scale * x + shift);
        Ok(record("affine", Arc::new(out), self.shape(), [self], move |mut grad, _| {
            if scale != T::ONE {
                in_place(&mut grad, |g| g * scale);
            }
            [Some(grad)]
        }))
    }

    /// `-x`.
    pub fn neg(&self) -> Result<Self> {
        self.affine(-T::ONE, T::ZERO)
    }

    /// `e^x`, slope `y`.
    pub fn exp(&self) -> Result<Self> {
        self.by_output("exp", T::exp, |y| y)
    }

    /// `ln x`, slope `1 / x`.
    pub fn log(&self) -> Result<Self> {
        self.by_input("log", T::ln, |x| T::ONE / x)
    }

    /// `sqrt(x)`, slope `1 / (2 y)`.
    pub fn sqrt(&self) -> Result<Self> {
        self.by_output("sqrt", T::sqrt, |y| T::of(0.5) / y)
    }

    /// `|x|`, slope `sign(x)`, 0 at 0.
    pub fn abs(&self) -> Result<Self> {
        self.by_input("abs", T::abs, |x| if x == T::ZERO { x } else { x / x.abs() })
    }

    /// `x^p`, slope `p x^(p-1)`.
    pub fn pow(&self, exponent: T) -> Result<Self> {
        if exponent == T::of(2.0) {
            return self.by_input("pow", |x| x * x, |x| x + x);
        }
        let slope =
            move |x: T| if exponent == T::ZERO { T::ZERO } else { exponent * x.powf(exponent - T::ONE) };
        self.by_input("pow", |x| x.powf(exponent), slope)
    }

    /// `max(x, 0)`, slope 0 at 0.
    pub fn relu(&self) -> Result<Self> {
        // NaN stays NaN: it is not below zero.
        let f = |x: T| if x < T::ZERO { T::ZERO } else { x };
        self.by_output("relu", f, |y| if y > T::ZERO { T::ONE } else { T::ZERO })
    }

    /// `x` where positive, else `slope * x`.
    pub fn leaky_relu(&self, slope: T) -> Result<Self> {
        self.by_input(
            "leaky_relu",
            |x| if x > T::ZERO { x } else { slope * x },
            move |x| if x > T::ZERO { T::ONE } else { slope },
        )
    }

    /// `x` where positive, else `alpha (e^x - 1)`.
    pub fn elu(&self, alpha: T) -> Result<Self> {
        self.by_input(
            "elu",
            |x| if x > T::ZERO { x } else { alpha * x.exp_m1() },
            move |x| if x > T::ZERO { T::ONE } else { alpha * x.exp() },
        )
    }

    /// `x Phi(x)`, with the exact normal distribution function (Hendrycks & Gimpel 2016); slope `Phi(x) + x phi(x)`.
    pub fn gelu(&self) -> Result<Self> {
        let cumulative = |x: T| T::of(0.5) * (T::ONE + (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf());
        let density = |x: T| T::of(0.398_942_280_401_432_7) * (T::of(-0.5) * x * x).exp();
        self.by_input("gelu", move |x| x * cumulative(x), move |x| cumulative(x) + x * density(x))
    }

    /// `1 / (1 + e^-x)`, slope `y (1 - y)`.
    pub fn sigmoid(&self) -> Result<Self> {
        self.by_output("sigmoid", sigmoid, |y| y * (T::ONE - y))
    }

    /// `x sigmoid(x)` (Elfwing et al. 2018), slope `s + x s (1 - s)` with `s = sigmoid(x)`.
    pub fn silu(&self) -> Result<Self> {
        let slope = |x: T| {
            let s = sigmoid(x);
            s + x * s * (T::ONE - s)
        };
        self.by_input("silu", |x| x * sigmoid(x), slope)
    }

    /// The hyperbolic tangent, slope `1 - y^2`.
    pub fn tanh(&self) -> Result<Self> {
        self.by_output("tanh", T::tanh, |y| T::ONE - y * y)
    }

    /// The inverse hyperbolic sine, slope `1 / sqrt(1 + x^2)`; small values keep their digits.
    pub fn asinh(&self) -> Result<Self> {
        let root = |x: T| (T::ONE + x * x).sqrt();
        let f = move |x: T| {
            let size = x.abs();
            let y = (size + size * size / (T::ONE + root(size))).ln_1p();
            if x < T::ZERO { -y } else { y }
        };
        self.by_input("asinh", f, move |x| T::ONE / root(x))
    }

    /// `ln(1 + e^x)`, without overflow; slope `sigmoid(x)`.
    pub fn softplus(&self) -> Result<Self> {
        self.by_input("softplus", |x| larger(x, T::ZERO) + (-x.abs()).exp().ln_1p(), sigmoid)
    }

    /// `x` held within `[low, high]`; slope 1 inside and at the bounds, else 0.
    pub fn clip(&self, low: T, high: T) -> Result<Self> {
        if low.is_finite() && high.is_finite() && low > high {
            return Err(Error::Config(format!("clip: low {low} is above high {high}")));
        }
        self.by_input(
            "clip",
            |x| {
                if x < low {
                    low
                } else if x > high {
                    high
                } else {
                    x
                }
            },
            move |x| if x < low || x > high { T::ZERO } else { T::ONE },
        )
    }
}

/// `1 / (1 + e^-x)`: large `|x|` overflows to infinity and so to the right limit.
pub(in crate::autograd) fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    type Function = fn(&Tensor<f64>) -> Result<Tensor<f64>>;

    #[test]
    fn gradients() {
        let functions: [Function; 14] = [
            |x| x.neg(),
            |x| x.affine(2.0, 3.0),
            |x| x.exp(),
            |x| x.abs(),
            |x| x.pow(2.0),
            |x| x.pow(3.0),
            |x| x.relu(),
            |x| x.leaky_relu(0.2),
            |x| x.elu(0.7),
            |x| x.gelu(),
            |x| x.sigmoid(),
            |x| x.silu(),
            |x| x.asinh(),
            |x| x.tanh()?.clip(-0.5, 0.5),
        ];
        for function in functions {
            gradcheck(&[random(&[4, 5], 0)], |x| function(&x[0])).unwrap();
        }
        gradcheck(&[random(&[4, 5], 0)], |x| x[0].softplus()).unwrap();
        let positive = random(&[4, 5], 1).abs().unwrap().affine(1.0, 0.3).unwrap().to_vec();
        let positive = [Tensor::parameter(positive, &[4, 5]).unwrap()];
        for function in [|x| Tensor::log(x), |x| Tensor::sqrt(x), |x| Tensor::pow(x, -1.5)] as [Function; 3] {
            gradcheck(&positive, |x| function(&x[0])).unwrap();
        }
    }

    #[test]
    fn extremes_stay_finite_and_nan_is_not_hidden() {
        let x = Tensor::new(vec![-1e4f32, -100.0, 0.0, 100.0, 1e4], &[5]).unwrap();
        for y in [x.sigmoid(), x.silu(), x.tanh(), x.softplus(), x.gelu(), x.elu(1.0)] {
            assert!(y.unwrap().values().iter().all(|value| value.is_finite()));
        }
        assert_eq!(x.softplus().unwrap().to_vec()[4], 1e4);
        let nan = Tensor::new(vec![f32::NAN], &[1]).unwrap();
        assert!(nan.relu().unwrap().values()[0].is_nan() && nan.clip(0.0, 1.0).unwrap().values()[0].is_nan());
    }

    #[test]
    fn known_values() {
        let x = Tensor::new(vec![-1.0f64, 0.0, 2.0], &[3]).unwrap();
        let close = |got: Result<Tensor<f64>>, expected: [f64; 3]| {
            let got = got.unwrap().to_vec();
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{got:?} {expected:?}");
        };
        close(x.gelu(), [-0.158_655_253_9, 0.0, 1.954_499_736_1]);
        close(x.silu(), [-0.268_941_421_4, 0.0, 1.761_594_155_9]);
        close(x.asinh(), [-0.881_373_587_0, 0.0, 1.443_635_475_2]);
        assert_eq!(Tensor::scalar(1e-6f32).asinh().unwrap().item().unwrap(), 1e-6);
        close(x.softplus(), [0.313_261_687_5, std::f64::consts::LN_2, 2.126_928_011_0]);
        close(x.elu(1.0), [-0.632_120_558_8, 0.0, 2.0]);
    }
}
