//! Forward passes of layers, given their parameters, and how parameters begin.

use crate::autograd::{Reduce, Tensor};
use crate::error::{Error, Result};
use crate::nn::init::{self, Init};
use crate::nn::{
    self, Activation, GcnLayer, GraphConv, GruCell, LayerNorm, Linear, Lstm, Module, MultiheadAttention,
    NeighborAttention, RuvectorLayer, SageLayer, SageLstm, Table,
};
use crate::number;
use crate::python::argument::{GraphArgument, Number};
use crate::python::array::{self, Int};
use crate::python::block::PyBlock;
use crate::python::call::interruptible;
use crate::python::error::Raise;
use crate::python::features::{Features, features_of};
use crate::python::ops::reduce_of;
use crate::python::tensor::{PyTensor, input_of, tensor_of};
use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;

pub(super) type Handle<'py> = PyRef<'py, PyTensor>;

pub(super) fn linear_of(weight: &PyTensor, bias: Option<&PyTensor>) -> Linear<f32> {
    Linear { weight: weight.0.clone(), bias: bias.map(|bias| bias.0.clone()) }
}

/// Draws a parameter.
#[pyfunction]
#[pyo3(signature = (kind, dims, ins, outs, seed))]
fn init_parameter(
    py: Python<'_>,
    kind: &str,
    dims: Vec<Int>,
    ins: Int,
    outs: Int,
    seed: Int,
) -> PyResult<PyTensor> {
    let init = match kind {
        "glorot_uniform" => Init::GlorotUniform,
        "glorot_normal" => Init::GlorotNormal,
        "fan_in" => Init::FanIn,
        _ => return Err(Raise(Error::Config(format!("unknown initialisation {kind:?}"))).into()),
    };
    let dims = dims.into_iter().map(|dim| dim.count("a number of channels")).collect::<PyResult<Vec<_>>>()?;
    let (fans, seed) = ((ins.count("in_channels")?, outs.count("out_channels")?), seed.seed("seed")?);
    interruptible(py, || init::draw(init, &dims, fans, seed)).map(PyTensor)
}

/// The number, if a setting of that name may have it: from 1e-25 to 1e25.
#[pyfunction]
fn positive_number(name: &str, value: Number) -> PyResult<f64> {
    Ok(number::positive(name, value.named(name)?).map_err(Raise)?)
}

/// The number, if a setting of that name may have it: from -1e25 to 1e25.
#[pyfunction]
fn finite_number(name: &str, value: Number) -> PyResult<f64> {
    Ok(number::finite(name, value.named(name)?).map_err(Raise)?)
}

/// A constant tensor of an array-like; `name` is the argument's name.
#[pyfunction]
fn constant(name: &str, value: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
    tensor_of(name, value, true).map(PyTensor)
}

/// A parameter of `size` values, all of them `value`.
#[pyfunction]
fn filled(py: Python<'_>, value: f64, size: Int) -> PyResult<PyTensor> {
    let size = size.count("a number of channels")?;
    interruptible(py, || init::constant(value, &[size])).map(PyTensor)
}

/// Restarts the sequence of seeds that layers and dropout take when they are given none.
///
/// All threads of the process take from one sequence. Where several draw at once, which one gets which seed depends on
/// timing: give each layer its `seed` there.
#[pyfunction]
fn manual_seed(seed: Int) -> PyResult<()> {
    init::manual_seed(seed.seed("seed")?);
    Ok(())
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
    interruptible(py, || layer.forward(&x)).map(PyTensor)
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
    interruptible(py, || layer.forward(&x)).map(PyTensor)
}

#[pyfunction]
fn activate(py: Python<'_>, x: &Bound<'_, PyAny>, name: &str) -> PyResult<PyTensor> {
    let (x, activation) = (input_of("x", x)?, name.parse::<Activation>().map_err(Raise)?);
    interruptible(py, || activation.apply(&x)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (x, graph, weight, bias, add_self_loops, activation))]
fn gcn(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: GraphArgument,
    weight: &PyTensor,
    bias: Option<Handle<'_>>,
    add_self_loops: bool,
    activation: Option<&str>,
) -> PyResult<PyTensor> {
    let x = input_of("x", x)?;
    let activation = activation.map(str::parse).transpose().map_err(Raise)?;
    let bias = bias.map(|bias| bias.0.clone());
    let layer = GcnLayer { lin: linear_of(weight, None), bias, add_self_loops, activation };
    interruptible(py, || layer.forward(&x, &graph.0)).map(PyTensor)
}

/// Parameters in the order of `named_parameters`: three maps' and, for an LSTM, its four; `padded` speaks of that.
#[pyfunction]
fn sage(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: GraphArgument,
    parameters: Vec<Handle<'_>>,
    aggregator: &str,
    normalize: bool,
    padded: bool,
) -> PyResult<PyTensor> {
    let (x, layer) = (input_of("x", x)?, sage_of(&parameters, aggregator, normalize, padded)?);
    interruptible(py, || layer.forward(&x, &graph.0)).map(PyTensor)
}

fn sage_of(
    parameters: &[Handle<'_>],
    aggregator: &str,
    normalize: bool,
    padded: bool,
) -> PyResult<SageLayer<f32>> {
    let [left, bias, right, unit @ ..] = parameters else { return Err(wrong_count(parameters, 3)) };
    let lstm = match aggregator {
        "lstm" => Some(SageLstm { lstm: lstm_of(unit)?, padded }),
        _ => None,
    };
    let reduce = if lstm.is_some() { Reduce::Sum } else { reduce_of(aggregator)? };
    let (lin_l, lin_r) = (linear_of(left, Some(bias)), linear_of(right, None));
    Ok(SageLayer { lin_l, lin_r, reduce, lstm, normalize })
}

#[pyfunction]
#[pyo3(signature = (x, graph, rel, bias, root, aggregator))]
fn graph_conv(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: GraphArgument,
    rel: &PyTensor,
    bias: Option<Handle<'_>>,
    root: &PyTensor,
    aggregator: &str,
) -> PyResult<PyTensor> {
    let (x, reduce) = (input_of("x", x)?, reduce_of(aggregator)?);
    let (lin_rel, lin_root) = (linear_of(rel, bias.as_deref()), linear_of(root, None));
    interruptible(py, || GraphConv { lin_rel, lin_root, reduce }.forward(&x, &graph.0)).map(PyTensor)
}

/// What the map of a `GINLayer` is given.
#[pyfunction]
fn gin_sum(py: Python<'_>, x: &Bound<'_, PyAny>, graph: GraphArgument, eps: &PyTensor) -> PyResult<PyTensor> {
    let x = input_of("x", x)?;
    interruptible(py, || nn::gin_sum(&x, &graph.0, &eps.0)).map(PyTensor)
}

pub(super) fn wrong_count(parameters: &[Handle<'_>], expected: usize) -> PyErr {
    Raise(Error::Config(format!("{} parameters given, expected {expected}", parameters.len()))).into()
}

fn lstm_of(parameters: &[Handle<'_>]) -> PyResult<Lstm<f32>> {
    let [weight_ih, weight_hh, bias_ih, bias_hh] = parameters else { return Err(wrong_count(parameters, 4)) };
    let [weight_ih, weight_hh, bias_ih, bias_hh] =
        [weight_ih, weight_hh, bias_ih, bias_hh].map(|handle| handle.0.clone());
    Ok(Lstm { weight_ih, weight_hh, bias_ih, bias_hh })
}

/// All states, and the last `h` and `c`; `state` holds the first ones.
#[pyfunction]
#[pyo3(signature = (x, parameters, state = None))]
fn lstm(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    parameters: Vec<Handle<'_>>,
    state: Option<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
) -> PyResult<(PyTensor, PyTensor, PyTensor)> {
    let (x, layer) = (input_of("x", x)?, lstm_of(&parameters)?);
    let state = state.map(|(h, c)| PyResult::Ok((input_of("h", &h)?, input_of("c", &c)?))).transpose()?;
    let run = interruptible(py, || layer.forward(&x, state.as_ref().map(|(h, c)| (h, c))))?;
    Ok((PyTensor(run.states), PyTensor(run.h), PyTensor(run.c)))
}

/// From the parameters in the order of `named_parameters`, the gates last where there are any.
pub(super) fn attention_of(parameters: &[Handle<'_>], heads: usize) -> PyResult<MultiheadAttention<f32>> {
    let [in_proj_weight, in_proj_bias, weight, bias, gates @ ..] = parameters else {
        return Err(wrong_count(parameters, 4));
    };
    Ok(MultiheadAttention {
        in_proj_weight: in_proj_weight.0.clone(),
        in_proj_bias: in_proj_bias.0.clone(),
        out_proj: linear_of(weight, Some(bias)),
        heads,
        head_gates: gates.first().map(|gates| gates.0.clone()),
    })
}

/// As `sage` over a block, with the features of all nodes: an array is read where it is needed, in place if it holds
/// contiguous float32.
#[pyfunction]
fn sage_table(
    x: &Bound<'_, PyAny>,
    block: &Bound<'_, PyBlock>,
    parameters: Vec<Handle<'_>>,
    aggregator: &str,
    normalize: bool,
    padded: bool,
) -> PyResult<PyTensor> {
    let (py, layer) = (x.py(), sage_of(&parameters, aggregator, normalize, padded)?);
    let block = &block.get().0;
    match features_of(x, block.num_graph_nodes())? {
        Features::Table(array) => {
            let (values, shape) = (array.as_slice()?, array.shape());
            interruptible(py, || layer.forward_table(&Table::new(values, shape[0], shape[1])?, block))
        }
        features => {
            let rows = features.gather(py, block.source_nodes())?;
            interruptible(py, || layer.forward(&rows, block.graph()))
        }
    }
    .map(PyTensor)
}

#[pyfunction]
fn multihead_attention(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: GraphArgument,
    parameters: Vec<Handle<'_>>,
    heads: Int,
) -> PyResult<PyTensor> {
    let (x, layer) = (input_of("query", x)?, attention_of(&parameters, heads.count("num_heads")?)?);
    interruptible(py, || layer.forward(&x, &graph.0)).map(PyTensor)
}

/// Attention over whole sequences `(B, L, dim)`: the result, and the weights `(B heads, L, S)`.
#[pyfunction]
fn dense_attention(
    py: Python<'_>,
    query: &Bound<'_, PyAny>,
    key: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
    parameters: Vec<Handle<'_>>,
    heads: Int,
) -> PyResult<(PyTensor, PyTensor)> {
    let query = input_of("query", query)?;
    let (key, value) = (input_of("key", key)?, input_of("value", value)?);
    let layer = attention_of(&parameters, heads.count("num_heads")?)?;
    let (out, weights) = interruptible(py, || layer.attend(&query, &key, &value))?;
    Ok((PyTensor(out), PyTensor(weights)))
}

#[pyfunction]
fn attention_pool(
    py: Python<'_>,
    scores: &PyTensor,
    x: &PyTensor,
    batch: &Bound<'_, PyAny>,
    size: Int,
) -> PyResult<PyTensor> {
    let (batch, size) = (array::nodes("batch", batch)?, size.count("size")?);
    interruptible(py, || nn::attention_pool(&scores.0, &x.0, &batch, size)).map(PyTensor)
}

/// Maps from weight and bias in turn.
pub(super) fn maps<const N: usize>(parameters: &[Handle<'_>]) -> PyResult<[Linear<f32>; N]> {
    if parameters.len() != 2 * N {
        return Err(wrong_count(parameters, 2 * N));
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
    interruptible(py, || cell.forward(&x, &h)).map(PyTensor)
}

/// Parameters in the order of `named_parameters`, without the gates.
#[pyfunction]
#[pyo3(signature = (x, graph, parameters, heads, eps, dropout, gates = None))]
fn ruvector(
    x: &Bound<'_, PyAny>,
    graph: GraphArgument,
    parameters: Vec<Handle<'_>>,
    heads: usize,
    eps: f64,
    dropout: Option<(f64, u64)>,
    gates: Option<Handle<'_>>,
) -> PyResult<PyTensor> {
    let (py, x) = (x.py(), input_of("x", x)?);
    let head_gates = gates.map(|gates| gates.0.clone());
    let [w_msg, w_agg, q, k, v, out, w_z, u_z, w_r, u_r, w_h, u_h, last] = maps(&parameters)?;
    let Some(norm_bias) = last.bias else { unreachable!("maps gives biases") };
    let layer = RuvectorLayer {
        w_msg,
        w_agg,
        attention: NeighborAttention { q, k, v, out, heads, head_gates },
        w_update: gru_of([w_z, u_z, w_r, u_r, w_h, u_h]),
        norm: LayerNorm { weight: last.weight, bias: norm_bias, eps },
    };
    interruptible(py, || layer.forward(&x, &graph.0, dropout)).map(PyTensor)
}

type Loaded = (Vec<(String, PyTensor)>, usize, f64, f64);

/// Named parameters, heads, dropout rate and epsilon of the layer that the text describes.
#[pyfunction]
fn ruvector_from_json(py: Python<'_>, text: &str) -> PyResult<Loaded> {
    interruptible(py, || -> Result<_> {
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
    module.add_function(wrap_pyfunction!(filled, module)?)?;
    module.add_function(wrap_pyfunction!(constant, module)?)?;
    module.add_function(wrap_pyfunction!(positive_number, module)?)?;
    module.add_function(wrap_pyfunction!(finite_number, module)?)?;
    module.add_function(wrap_pyfunction!(manual_seed, module)?)?;
    module.add_function(wrap_pyfunction!(next_seed, module)?)?;
    module.add_function(wrap_pyfunction!(linear, module)?)?;
    module.add_function(wrap_pyfunction!(layer_norm, module)?)?;
    module.add_function(wrap_pyfunction!(activate, module)?)?;
    module.add_function(wrap_pyfunction!(gcn, module)?)?;
    module.add_function(wrap_pyfunction!(sage, module)?)?;
    module.add_function(wrap_pyfunction!(graph_conv, module)?)?;
    module.add_function(wrap_pyfunction!(gin_sum, module)?)?;
    module.add_function(wrap_pyfunction!(lstm, module)?)?;
    module.add_function(wrap_pyfunction!(sage_table, module)?)?;
    module.add_function(wrap_pyfunction!(multihead_attention, module)?)?;
    module.add_function(wrap_pyfunction!(dense_attention, module)?)?;
    module.add_function(wrap_pyfunction!(attention_pool, module)?)?;
    module.add_function(wrap_pyfunction!(gru, module)?)?;
    module.add_function(wrap_pyfunction!(ruvector, module)?)?;
    module.add_function(wrap_pyfunction!(ruvector_from_json, module)?)
}
