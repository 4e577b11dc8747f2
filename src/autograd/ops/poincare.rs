//! Maps of rows along their own direction, for the Poincaré ball of curvature `-c` (Ganea et al. 2018), radius `1 / sqrt(c)`:
//!
//! ```text
//! exp      tanh(sqrt(c) |v|) v / (sqrt(c) |v|)        tangent vectors at the origin to points
//! log      artanh(sqrt(c) |y|) y / (sqrt(c) |y|)      and back
//! project  y, or the nearest point that is far enough inside
//! ```
//!
//! All are `y = s(u) x` with `u = sqrt(c) |x|`; the adjoint is `s g + c (s'(u) / u) <x, g> x`. Points keep a distance to the
//! border at which an `f32` (or `f64`) still tells them from it.

#![forbid(unsafe_code)]

use super::softmax::each_row;
use crate::autograd::Tensor;
use crate::autograd::tape::record;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::number;
use crate::real::Real;
use std::sync::Arc;

/// Below this `u` a series stands for differences of nearly equal numbers: its next term is below `1e-11`.
const SMALL: f64 = 0.02;

#[derive(Clone, Copy, PartialEq)]
enum Map {
    Exp,
    Log,
    Project,
}

/// The largest `sqrt(c) |y|` of a point.
pub(crate) fn border<T: Real>() -> f64 {
    // Rounding to one part in 2^24 (2^53) must leave most digits of 1 - u^2.
    if size_of::<T>() == 4 { 1.0 - 4e-3 } else { 1.0 - 1e-5 }
}

fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.wide() * b.wide()).sum()
}

impl Map {
    /// `s(u)` and `s'(u) / u`.
    fn factors(self, u: f64, border: f64) -> (f64, f64) {
        let constant = |length: f64| (length / u, -length / (u * u * u));
        let v = u * u;
        match self {
            Self::Exp if u.tanh() > border => constant(border),
            Self::Exp if u < SMALL => {
                (1.0 - v / 3.0 + v * v * 2.0 / 15.0, -2.0 / 3.0 + v * 8.0 / 15.0 - v * v * 34.0 / 105.0)
            }
            Self::Exp => {
                let t = u.tanh();
                (t / u, (u * (1.0 - t * t) - t) / (u * v))
            }
            Self::Log if u > border => constant(border.atanh()),
            Self::Log if u < SMALL => {
                (1.0 + v / 3.0 + v * v / 5.0, 2.0 / 3.0 + v * 4.0 / 5.0 + v * v * 6.0 / 7.0)
            }
            Self::Log => (u.atanh() / u, (u / (1.0 - v) - u.atanh()) / (u * v)),
            Self::Project if u > border => constant(border),
            Self::Project => (1.0, 0.0),
        }
    }
}

impl<T: Real> Tensor<T> {
    /// The exponential map at the origin: tangent vectors `(.., d)` to points of the ball.
    pub fn poincare_exp(&self, curvature: f64) -> Result<Self> {
        self.radial("poincare_exp", Map::Exp, curvature)
    }

    /// The logarithm at the origin: points `(.., d)` of the ball to tangent vectors. Points on its border or outside are
    /// refused.
    pub fn poincare_log(&self, curvature: f64) -> Result<Self> {
        self.radial("poincare_log", Map::Log, curvature)
    }

    /// Points `(.., d)`, those at the border or outside moved inside along their direction.
    pub fn poincare_project(&self, curvature: f64) -> Result<Self> {
        self.radial("poincare_project", Map::Project, curvature)
    }

    fn radial(&self, name: &'static str, map: Map, curvature: f64) -> Result<Self> {
        self.shape().axis(name, -1)?;
        number::positive("curvature", curvature)?;
        let (columns, x, border) = (self.shape().columns(), self.values(), border::<T>());
        // In f64, so that no finite row of f32 is infinitely long.
        let length = move |row: &[T]| (curvature * dot(row, row)).sqrt();
        let outside = |row: &[T]| map == Map::Log && length(row) >= 1.0;
        if let Some(row) = x.chunks_exact(columns.max(1)).position(outside) {
            let radius = curvature.sqrt().recip();
            let norm = length(&x[row * columns..][..columns]) * radius;
            let message =
                format!("{name}: row {row} has norm {norm}, outside of the ball of radius {radius}");
            return Err(Error::Shape(message));
        }
        let mut out = Buffer::stale(x.len());
        each_row(&mut out, columns, |row, out| {
            let x = &x[row * columns..][..columns];
            let scale = map.factors(length(x), border).0;
            out.iter_mut().zip(x).for_each(|(out, &x)| *out = T::of(scale * x.wide()));
        });
        Ok(record(name, Arc::new(out), self.shape(), [self], move |mut grad, _| {
            each_row(&mut grad, columns, |row, grad| {
                let x = &x[row * columns..][..columns];
                let (scale, slope) = map.factors(length(x), border);
                let along = curvature * slope * dot(x, grad);
                grad.iter_mut().zip(x).for_each(|(g, &x)| *g = T::of(scale * g.wide() + along * x.wide()));
            });
            [Some(grad)]
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    fn rows(lengths: &[f64]) -> Tensor<f64> {
        let units = random(&[lengths.len(), 3], 0).normalize().unwrap().to_vec();
        let values: Vec<f64> = units.iter().enumerate().map(|(at, unit)| unit * lengths[at / 3]).collect();
        Tensor::parameter(values, &[lengths.len(), 3]).unwrap()
    }

    #[test]
    fn gradients_near_the_origin_between_and_beyond_the_border() {
        let tangents = rows(&[0.0, 1e-7, 0.009, 0.011, 0.3, 2.0, 9.0]);
        gradcheck(std::slice::from_ref(&tangents), |x| x[0].poincare_exp(4.0)).unwrap();
        gradcheck(&[rows(&[0.0, 1e-7, 0.009, 0.011, 0.3, 0.45])], |x| x[0].poincare_log(4.0)).unwrap();
        gradcheck(&[rows(&[0.0, 0.3, 0.7, 2.0])], |x| x[0].poincare_project(4.0)).unwrap();
    }

    #[test]
    fn there_and_back_and_never_outside() {
        let tangents = rows(&[0.0, 0.003, 0.019, 0.021, 0.5, 2.0]);
        let back = tangents.poincare_exp(0.7).unwrap().poincare_log(0.7).unwrap().to_vec();
        assert!(tangents.to_vec().iter().zip(back).all(|(a, b)| (a - b).abs() < 1e-12));
        let narrow: Vec<f32> = rows(&[1e-20, 5.0, 1e30]).to_vec().iter().map(|&x| x as f32).collect();
        let points = Tensor::new(narrow, &[3, 3]).unwrap().poincare_exp(2.0).unwrap();
        let norms = points.norm(false).unwrap().to_vec();
        assert!(norms[0] < 1e-9 && norms[1..].iter().all(|norm| (0.7..0.5f32.sqrt()).contains(norm)));
        assert!(points.poincare_log(2.0).unwrap().values().iter().all(|x| x.is_finite()));
        assert!(
            matches!(rows(&[0.1, 0.5]).poincare_log(4.0), Err(Error::Shape(message)) if message.contains("row 1"))
        );
        assert!(matches!(tangents.poincare_exp(0.0), Err(Error::Config(_))));
    }
}
