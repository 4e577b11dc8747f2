//! Layers of continuous depth (Chen et al. 2018; Poli et al. 2019): the state of all nodes follows
//! `dh/dt = f(h, graph)` from time 0 to `time`, and the result is where it arrives.

#![forbid(unsafe_code)]

use super::{Activation, GcnLayer, Module, visit_inside};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::number;
use crate::real::Real;

/// Follows `dh/dt = field(h)` over `time` in equal steps by the classical Runge-Kutta method of order 4: with `d = time / steps`,
/// `k1 = f(h)`, `k2 = f(h + d/2 k1)`, `k3 = f(h + d/2 k2)`, `k4 = f(h + d k3)` and `h' = h + d/6 (k1 + 2 k2 + 2 k3 + k4)`.
///
/// Gradients are those of the steps themselves, exact for what was computed (no adjoint equation is solved backwards).
///
/// ```
/// use ruvector_gnn::{autograd::Tensor, nn::rk4};
/// let h = Tensor::new(vec![1.0f64], &[1])?;
/// let later = rk4(&h, 1.0, 8, |h| Ok(h.clone()))?; // dh/dt = h
/// assert!((later.item()? - 1f64.exp()).abs() < 1e-5);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
pub fn rk4<T: Real>(
    h: &Tensor<T>,
    time: f64,
    steps: usize,
    mut field: impl FnMut(&Tensor<T>) -> Result<Tensor<T>>,
) -> Result<Tensor<T>> {
    number::finite("time", time)?;
    if steps == 0 {
        return Err(Error::Config("steps must be at least 1, got 0".into()));
    }
    let (step, shape) = (time / steps as f64, h.shape());
    let mut field = |h: &Tensor<T>| {
        let slope = field(h)?;
        if slope.shape() == shape {
            return Ok(slope);
        }
        Err(Error::Shape(format!("rk4: the field gives shape {} for h of shape {shape}", slope.shape())))
    };
    let mut h = h.clone();
    for _ in 0..steps {
        let after = |part: f64, slope: &Tensor<T>| h.add(&slope.affine(T::of(step * part), T::ZERO)?);
        let k1 = field(&h)?;
        let k2 = field(&after(0.5, &k1)?)?;
        let k3 = field(&after(0.5, &k2)?)?;
        let k4 = field(&after(1.0, &k3)?)?;
        let twice = k2.add(&k3)?.affine(T::of(2.0), T::ZERO)?;
        h = after(1.0 / 6.0, &k1.add(&k4)?.add(&twice)?)?;
    }
    Ok(h)
}

/// Continuous depth with a graph convolution as the field: `dh/dt = tanh(D^-1/2 (A + I) D^-1/2 h W^T + b)`.
///
/// For another field, call [`rk4`].
#[derive(Clone, Debug)]
pub struct NeuralOdeLayer<T: Real> {
    /// `dim -> dim`.
    pub field: GcnLayer<T>,
    /// How long the field is followed.
    pub time: f64,
    /// In how many steps.
    pub steps: usize,
}

impl<T: Real> NeuralOdeLayer<T> {
    /// Glorot weights; time 1 in 4 steps.
    pub fn new(dim: usize, seed: u64) -> Result<Self> {
        let field = GcnLayer { activation: Some(Activation::Tanh), ..GcnLayer::new(dim, dim, true, seed)? };
        Ok(Self { field, time: 1.0, steps: 4 })
    }

    /// `x (N, dim) -> (N, dim)`.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        graph.require_square("NeuralODELayer")?;
        rk4(x, self.time, self.steps, |h| self.field.forward(h, graph))
    }
}

impl<T: Real> Module<T> for NeuralOdeLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("field", &self.field, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    #[test]
    fn gradients_of_input_and_weights() {
        let graph = Graph::from_edges(&[0, 1, 1, 3], &[1, 0, 2, 3], 4, 4, None).unwrap();
        let layer = NeuralOdeLayer { steps: 2, ..NeuralOdeLayer::<f64>::new(3, 1).unwrap() };
        let mut inputs = vec![random(&[4, 3], 0)];
        inputs.extend(layer.parameters());
        gradcheck(&inputs, |x| layer.forward(&x[0], &graph)).unwrap();
    }

    #[test]
    fn the_error_falls_with_the_fourth_power_of_the_step() {
        // A rotation: after a time t, the angle t.
        let turn = Tensor::new(vec![0.0, 1.0, -1.0, 0.0], &[2, 2]).unwrap();
        let start = Tensor::new(vec![1.0, 0.0], &[1, 2]).unwrap();
        let error = |steps| {
            let end = rk4(&start, 2.0, steps, |h: &Tensor<f64>| h.matmul(&turn)).unwrap().to_vec();
            (end[0] - 2f64.cos()).hypot(end[1] - 2f64.sin())
        };
        let ratio = error(8) / error(16);
        assert!((14.0..18.0).contains(&ratio), "{ratio}");
        assert!(rk4(&start, 1.0, 0, |h: &Tensor<f64>| Ok(h.clone())).is_err());
        assert!(matches!(rk4(&start, 1.0, 1, |h: &Tensor<f64>| h.sum()), Err(Error::Shape(_))));
    }
}
