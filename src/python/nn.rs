//! Forward passes of layers, given their parameters, and how parameters begin.

use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::nn::init::{self, Init};
use crate::nn::{
    Activation, GcnLayer, GruCell, LayerNorm, Linear, Module, MultiheadAttention, NeighborAttention,
    RuvectorLayer, SageLayer,
};
use crate::python::call::detached;
use crate::python::error::Raise;
use crate::python::graph::PyGraph;
use crate::python::ops::reduce_of;
use crate::python::tensor::{PyTensor, input_of};
use pyo3::prelude::*;

type Handle<'py> = PyRef<'py, PyTensor>;

fn linear_of(weight: &PyTensor, bias: Option<&PyTensor>) -> Linear<f32> {
    Linear { weight: weight.0.clone(), bias: bias.map(|bias| bias.0.clone()) }
}

/// Draws a parameter.
#[pyfunction]
#[pyo3(signature = (kind, dims, ins, outs, seed))]
fn init_parameter(kind: &str, dims: Vec<usize>, ins: usize, outs: usize, seed: u64) -> PyResult<PyTensor> {
    let init = match kind {
        "glorot_uniform" => Init::GlorotUniform,
        "glorot_normal" => Init::GlorotNormal,
        "fan_in" => Init::FanIn,
        _ => return Err(Raise(Error::Config(format!("unknown initialisation {kind:?}"))).into()),
    };
    Ok(PyTensor(init::draw(init, &dims, (ins, outs), seed).map_err(Raise)?))
}

/// Restarts the sequence of seeds that layers and dropout take when they are given none.
#[pyfunction]
fn manual_seed(seed: u64) {
    init::manual_seed(seed);
}

#[pyfunction]
fn next_seed() -> u64 {
    init::next_seed()
}

#[pyfunction]
#[pyo3(signature = (x, weight, bias = None))]
fn linear(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    weight: &PyTensor,
    bias: Option<Handle<'_>>,
) -> PyResult<PyTensor> {
    let (x, layer) = (input_of("x", x)?, linear_of(weight, bias.as_deref()));
    detached(py, || layer.forward(&x)).map(PyTensor)
}

#[pyfunction]
fn layer_norm(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    weight: &PyTensor,
    bias: &PyTensor,
    eps: f64,
) -> PyResult<PyTensor> {
    let x = input_of("x", x)?;
    let layer = LayerNorm { weight: weight.0.clone(), bias: bias.0.clone(), eps };
    detached(py, || layer.forward(&x)).map(PyTensor)
}

#[pyfunction]
fn activate(py: Python<'_>, x: &Bound<'_, PyAny>, name: &str) -> PyResult<PyTensor> {
    let (x, activation) = (input_of("x", x)?, name.parse::<Activation>().map_err(Raise)?);
    detached(py, || activation.apply(&x)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (x, graph, weight, bias, add_self_loops, activation))]
fn gcn(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: &PyGraph,
    weight: &PyTensor,
    bias: Option<Handle<'_>>,
    add_self_loops: bool,
    activation: Option<&str>,
) -> PyResult<PyTensor> {
    let x = input_of("x", x)?;
    let activation = activation.map(str::parse).transpose().map_err(Raise)?;
    let bias = bias.map(|bias| bias.0.clone());
    let layer = GcnLayer { lin: linear_of(weight, None), bias, add_self_loops, activation };
    detached(py, || layer.forward(&x, &graph.0)).map(PyTensor)
}

#[pyfunction]
fn sage(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: &PyGraph,
    parameters: [Handle<'_>; 3],
    aggregator: &str,
    normalize: bool,
) -> PyResult<PyTensor> {
    let (x, reduce) = (input_of("x", x)?, reduce_of(aggregator)?);
    let [left, bias, right] = &parameters;
    let (lin_l, lin_r) = (linear_of(left, Some(bias)), linear_of(right, None));
    detached(py, || SageLayer { lin_l, lin_r, reduce, normalize }.forward(&x, &graph.0)).map(PyTensor)
}

#[pyfunction]
fn multihead_attention(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: &PyGraph,
    parameters: [Handle<'_>; 4],
    heads: usize,
) -> PyResult<PyTensor> {
    let x = input_of("x", x)?;
    let [in_proj_weight, in_proj_bias, weight, bias] = parameters.each_ref().map(|handle| handle.0.clone());
    let out_proj = Linear { weight, bias: Some(bias) };
    let layer = MultiheadAttention { in_proj_weight, in_proj_bias, out_proj, heads };
    detached(py, || layer.forward(&x, &graph.0)).map(PyTensor)
}

/// Maps from weight and bias in turn.
fn maps<const N: usize>(parameters: &[Handle<'_>]) -> PyResult<[Linear<f32>; N]> {
    if parameters.len() != 2 * N {
        let message = format!("{} parameters given, expected {}", parameters.len(), 2 * N);
        return Err(Raise(Error::Config(message)).into());
    }
    Ok(std::array::from_fn(|i| linear_of(&parameters[2 * i], Some(&parameters[2 * i + 1]))))
}

fn gru_of([w_z, u_z, w_r, u_r, w_h, u_h]: [Linear<f32>; 6]) -> GruCell<f32> {
    GruCell { w_z, u_z, w_r, u_r, w_h, u_h }
}

#[pyfunction]
fn gru(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    h: &Bound<'_, PyAny>,
    parameters: Vec<Handle<'_>>,
) -> PyResult<PyTensor> {
    let (x, h) = (input_of("x", x)?, input_of("h", h)?);
    let cell = gru_of(maps(&parameters)?);
    detached(py, || cell.forward(&x, &h)).map(PyTensor)
}

/// Parameters in the order of `named_parameters`.
#[pyfunction]
#[pyo3(signature = (x, graph, parameters, heads, eps, dropout))]
fn ruvector(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: &PyGraph,
    parameters: Vec<Handle<'_>>,
    heads: usize,
    eps: f64,
    dropout: Option<(f64, u64)>,
) -> PyResult<PyTensor> {
    let x = input_of("x", x)?;
    let [w_msg, w_agg, q, k, v, out, w_z, u_z, w_r, u_r, w_h, u_h, last] = maps(&parameters)?;
    let Some(norm_bias) = last.bias else { unreachable!("maps gives biases") };
    let layer = RuvectorLayer {
        w_msg,
        w_agg,
        attention: NeighborAttention { q, k, v, out, heads },
        w_update: gru_of([w_z, u_z, w_r, u_r, w_h, u_h]),
        norm: LayerNorm { weight: last.weight, bias: norm_bias, eps },
    };
    detached(py, || layer.forward(&x, &graph.0, dropout)).map(PyTensor)
}

type Loaded = (Vec<(String, PyTensor)>, usize, f64, f64);

/// Named parameters, heads, dropout rate and epsilon of the layer that the text describes.
#[pyfunction]
fn ruvector_from_json(py: Python<'_>, text: &str) -> PyResult<Loaded> {
    detached(py, || -> Result<_> {
        let (layer, dropout) = RuvectorLayer::<f32>::from_ruvector_json(text)?;
        let named = layer
            .named_parameters()
            .into_iter()
            .map(|(name, tensor): (String, Tensor<f32>)| (name, PyTensor(tensor)));
        Ok((named.collect(), layer.attention.heads, dropout, layer.norm.eps))
    })
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(init_parameter, module)?)?;
    module.add_function(wrap_pyfunction!(manual_seed, module)?)?;
    module.add_function(wrap_pyfunction!(next_seed, module)?)?;
    module.add_function(wrap_pyfunction!(linear, module)?)?;
    module.add_function(wrap_pyfunction!(layer_norm, module)?)?;
    module.add_function(wrap_pyfunction!(activate, module)?)?;
    module.add_function(wrap_pyfunction!(gcn, module)?)?;
    module.add_function(wrap_pyfunction!(sage, module)?)?;
    module.add_function(wrap_pyfunction!(multihead_attention, module)?)?;
    module.add_function(wrap_pyfunction!(gru, module)?)?;
    module.add_function(wrap_pyfunction!(ruvector, module)?)?;
    module.add_function(wrap_pyfunction!(ruvector_from_json, module)?)
}
