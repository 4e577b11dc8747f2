//! Message passing in hyperbolic space (Nickel & Kiela 2017; Ganea et al. 2018; Chami et al. 2019; Shimizu et al. 2021): in
//! the Poincaré ball of curvature `-c`, whose volume grows with the radius as a tree does with its depth.
//!
//! ```text
//! p_i = exp(W log(x_i)) (+) exp(b)                                        maps at the origin, Möbius addition
//! m_i = sum_j w_ij l_j p_j / sum_j w_ij (l_j - 1),   l_j = 2 / (1 - c |p_j|^2)   over neighbours and i itself
//! y_i = m_i / (1 + sqrt(1 - c |m_i|^2))                                   their gyromidpoint
//! out_i = exp(act(log(y_i)))
//! ```
//!
//! The gyromidpoint (Ungar 2008) commutes with every isometry of the ball, and it is a weighted sum over the graph, of a
//! point's columns and one more: never a row per edge.

#![forbid(unsafe_code)]

use super::init::{self, Init};
use super::{Activation, Linear, Module, target_rows, visit_inside};
use crate::autograd::{Reduce, Tensor};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;

/// `|x|^2` of each row, `(.., 1)`.
fn squares<T: Real>(x: &Tensor<T>) -> Result<Tensor<T>> {
    x.mul(x)?.sum_axis(-1, true)
}

/// Möbius addition of points of the ball, `(.., d)`, by broadcasting (Ganea et al. 2018, equation 2):
/// `x (+) y = ((1 + 2c<x, y> + c|y|^2) x + (1 - c|x|^2) y) / (1 + 2c<x, y> + c^2 |x|^2 |y|^2)`. Points outside count as the
/// nearest inside.
///
/// ```
/// use ruvector_gnn::{autograd::Tensor, nn::mobius_add};
/// let (x, y) = (Tensor::new(vec![0.5f64, 0.0], &[1, 2])?, Tensor::new(vec![-0.5, 0.0], &[1, 2])?);
/// assert_eq!(mobius_add(&x, &y, 1.0)?.to_vec(), [0.0, 0.0]);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
pub fn mobius_add<T: Real>(x: &Tensor<T>, y: &Tensor<T>, curvature: f64) -> Result<Tensor<T>> {
    let c = T::of(curvature);
    let (x, y) = (&x.poincare_project(curvature)?, &y.poincare_project(curvature)?);
    let (xx, yy) = (squares(x)?, squares(y)?);
    let near = x.mul(y)?.sum_axis(-1, true)?.affine(c + c, T::ONE)?;
    let left = near.add(&yy.affine(c, T::ZERO)?)?.mul(x)?;
    let right = xx.affine(-c, T::ONE)?.mul(y)?;
    // Factor by factor: c^2 alone may be beyond the range of f32.
    let below = near.add(&xx.affine(c, T::ZERO)?.mul(&yy.affine(c, T::ZERO)?)?)?;
    left.add(&right)?.div(&below)?.poincare_project(curvature)
}

/// The distance of points of the ball, `(.., d)` to `(..)`:
/// `2 / sqrt(c) asinh(sqrt(c) |x - y| / sqrt((1 - c|x|^2)(1 - c|y|^2)))` (Nickel & Kiela 2017), gradient 0 where they are equal.
pub fn poincare_distance<T: Real>(x: &Tensor<T>, y: &Tensor<T>, curvature: f64) -> Result<Tensor<T>> {
    let (c, root) = (T::of(curvature), curvature.sqrt());
    let (x, y) = (x.poincare_project(curvature)?, y.poincare_project(curvature)?);
    let inside = |x: &Tensor<T>| x.mul(x)?.sum_axis(-1, false)?.affine(-c, T::ONE);
    let z =
        x.sub(&y)?.norm(false)?.affine(T::of(root), T::ZERO)?.div(&inside(&x)?.mul(&inside(&y)?)?.sqrt()?)?;
    z.asinh()?.affine(T::of(2.0 / root), T::ZERO)
}

/// Per node of a graph, the gyromidpoint of the points `(num_sources, d)` that it aggregates from, by the graph's weights;
/// the origin for a node without neighbours. Points outside count as the nearest inside; weights must not be negative.
pub fn poincare_midpoint<T: Real>(points: &Tensor<T>, graph: &Graph, curvature: f64) -> Result<Tensor<T>> {
    if graph.weights().is_some_and(|weights| weights.iter().any(|&weight| weight < 0.0)) {
        return Err(Error::Config("poincare_midpoint: weights must not be negative".into()));
    }
    let (c, columns) = (T::of(curvature), points.shape().columns());
    let points = &points.poincare_project(curvature)?;
    let one = Tensor::new(vec![T::ONE], &[1, 1])?;
    let factors = one.affine(T::of(2.0), T::ZERO)?.div(&squares(points)?.affine(-c, T::ONE)?)?;
    let terms =
        Tensor::concat(&[points.mul(&factors)?, factors.sub(&one)?], 1)?.aggregate(graph, Reduce::Sum)?;
    // Of a point, the factor less 1 is at least 1: smaller totals are those of no or vanishing weights.
    let total = terms.slice(1, columns..columns + 1)?.clip(T::of(1e-30), T::of(f64::INFINITY))?;
    let sum = terms.slice(1, 0..columns)?.div(&total)?;
    let least = T::of((1.0 - crate::autograd::border::<T>()).powi(2) / 4.0);
    let root = squares(&sum)?.affine(-c, T::ONE)?.clip(least, T::ONE)?.sqrt()?;
    sum.div(&root.affine(T::ONE, T::ONE)?)?.poincare_project(curvature)
}

/// Hyperbolic message passing.
#[derive(Clone, Debug)]
pub struct PoincareLayer<T: Real> {
    /// Without bias; `lin.weight (out, in)`.
    pub lin: Linear<T>,
    /// `(out)`, a tangent vector at the origin.
    pub bias: Option<Tensor<T>>,
    /// `c`: the ball's curvature is `-c`, its radius `1 / sqrt(c)`.
    pub curvature: f64,
    /// Whether the input holds points of the ball rather than tangent vectors at its origin.
    pub takes_points: bool,
    /// Applied at the origin's tangent space.
    pub activation: Option<Activation>,
}

impl<T: Real> PoincareLayer<T> {
    /// Glorot weights, zero bias; takes tangent vectors.
    pub fn new(ins: usize, outs: usize, curvature: f64, seed: u64) -> Result<Self> {
        let weight = init::draw(Init::GlorotUniform, &[outs, ins], (ins, outs), seed)?;
        let lin = Linear { weight, bias: None };
        let bias = Some(init::constant(0.0, &[outs])?);
        Ok(Self { lin, bias, curvature, takes_points: false, activation: None })
    }

    /// `x (num_sources, in)` to points `(N, out)`. Nodes without a loop get one of weight 1.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        target_rows("PoincareLayer", x, graph)?;
        let tangents = if self.takes_points { x.poincare_log(self.curvature)? } else { x.clone() };
        let mut points = self.lin.forward(&tangents)?.poincare_exp(self.curvature)?;
        if let Some(bias) = &self.bias {
            points = mobius_add(&points, &bias.poincare_exp(self.curvature)?, self.curvature)?;
        }
        let middle = poincare_midpoint(&points, &graph.add_self_loops()?, self.curvature)?;
        match self.activation {
            Some(activation) => {
                activation.apply(&middle.poincare_log(self.curvature)?)?.poincare_exp(self.curvature)
            }
            None => Ok(middle),
        }
    }
}

impl<T: Real> Module<T> for PoincareLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit_inside("lin", &self.lin, visit);
        if let Some(bias) = &self.bias {
            visit("bias", bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    const C: f64 = 0.8;

    fn points(count: usize, index: u64) -> Tensor<f64> {
        let points = random(&[count, 3], index).poincare_exp(C).unwrap();
        Tensor::parameter(points.to_vec(), &[count, 3]).unwrap()
    }

    fn graph() -> Graph {
        Graph::from_edges(&[0, 0, 1, 3, 3], &[1, 2, 0, 3, 2], 4, 4, Some(&[1.0, 2.0, 0.5, 3.0, 0.0])).unwrap()
    }

    #[test]
    fn gradients() {
        let (x, y) = (points(4, 0), points(4, 1));
        gradcheck(&[x.clone(), y.clone()], |x| mobius_add(&x[0], &x[1], C)).unwrap();
        gradcheck(&[x.clone(), y], |x| poincare_distance(&x[0], &x[1], C)).unwrap();
        gradcheck(std::slice::from_ref(&x), |x| poincare_midpoint(&x[0], &graph(), C)).unwrap();
        for takes_points in [false, true] {
            let layer = PoincareLayer::<f64>::new(3, 2, C, 1).unwrap();
            let layer = PoincareLayer { takes_points, activation: Some(Activation::Tanh), ..layer };
            let inputs = [x.clone(), layer.lin.weight.clone(), layer.bias.clone().unwrap()];
            gradcheck(&inputs, |x| layer.forward(&x[0], &graph())).unwrap();
        }
    }

    #[test]
    fn midpoints_and_distances_commute_with_translations() {
        let (x, y, by) = (points(4, 0), points(4, 1), points(1, 2));
        let moved = |x: &Tensor<f64>| mobius_add(&by, x, C).unwrap();
        let close = |a: Tensor<f64>, b: Tensor<f64>| {
            a.to_vec().iter().zip(b.to_vec()).all(|(a, b)| (a - b).abs() < 1e-9)
        };
        let distance = |x: &Tensor<f64>, y: &Tensor<f64>| poincare_distance(x, y, C).unwrap();
        assert!(close(distance(&moved(&x), &moved(&y)), distance(&x, &y)));
        let connected = graph().add_self_loops().unwrap();
        let middle = |x: &Tensor<f64>| poincare_midpoint(x, &connected, C).unwrap();
        assert!(close(middle(&moved(&x)), moved(&middle(&x))));
        // Of two points, the midpoint is as far from one as from the other, and half as far as they are apart.
        let pair = Graph::from_edges(&[0, 0], &[0, 1], 1, 4, None).unwrap();
        let middle = poincare_midpoint(&x, &pair, C).unwrap();
        let [first, second] = [0, 1].map(|row| x.slice(0, row..row + 1).unwrap());
        let apart = distance(&first, &second).affine(0.5, 0.0).unwrap();
        assert!(close(distance(&middle, &first), apart.clone()) && close(distance(&middle, &second), apart));
    }

    #[test]
    fn distances_to_oneself_and_nodes_without_neighbours() {
        let x = points(4, 0);
        let distance = poincare_distance(&x, &x, C).unwrap();
        distance.sum().unwrap().backward().unwrap();
        assert_eq!(distance.to_vec(), [0.0; 4]);
        assert!(x.grad().unwrap().iter().all(|&grad| grad == 0.0));
        assert_eq!(poincare_midpoint(&x, &graph(), C).unwrap().to_vec()[6..9], [0.0; 3]);
        let negative = Graph::from_edges(&[0], &[1], 2, 2, Some(&[-1.0])).unwrap();
        assert!(poincare_midpoint(&points(2, 0), &negative, C).is_err());
    }
}
