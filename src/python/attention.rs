//! Forward passes of the attention layers over edges, given their parameters.

use crate::autograd::Tensor;
use crate::error::Result;
use crate::graph::Graph;
use crate::nn::{GatLayer, GatV2Layer, HeadGates, take_heads as taken};
use crate::python::argument::GraphArgument;
use crate::python::call::{guarded, interruptible};
use crate::python::error::Raise;
use crate::python::graph::edge_index;
use crate::python::nn::{Handle, linear_of, wrong_count};
use crate::python::tensor::{PyTensor, input_of, tensor_of};
use numpy::PyArray2;
use pyo3::prelude::*;

/// What both layers are set to: joined heads, slope, self loops, the rate and seed of dropout, and gates.
type Settings<'py> = (bool, f64, bool, Option<(f64, u64)>, Option<Gates<'py>>);

/// The gates of the heads that are there, which heads these are, and how many there were at first.
type Gates<'py> = (Handle<'py>, Vec<u32>, usize);

fn gates_of(gates: Option<Gates<'_>>) -> PyResult<Option<HeadGates<f32>>> {
    let Some((values, kept, total)) = gates else { return Ok(None) };
    Ok(Some(HeadGates::from_parts(values.0.clone(), kept, total).map_err(Raise)?))
}

/// The result and, if it was asked for, the edges that were attended over and their weights.
type Attended<'py> = (PyTensor, Option<(Bound<'py, PyArray2<i64>>, PyTensor)>);

/// Runs one of the two forward passes.
fn attend(
    py: Python<'_>,
    attention: bool,
    plain: impl FnOnce() -> Result<Tensor<f32>> + Send,
    with_weights: impl FnOnce() -> Result<(Tensor<f32>, Graph, Tensor<f32>)> + Send,
) -> PyResult<Attended<'_>> {
    if !attention {
        return Ok((PyTensor(interruptible(py, plain)?), None));
    }
    let (out, graph, alpha) = interruptible(py, with_weights)?;
    Ok((PyTensor(out), Some((edge_index(py, &graph)?, PyTensor(alpha)))))
}

/// `parameters`: lin.weight, att_src, att_dst, and with edge features lin_edge.weight, att_edge.
#[pyfunction]
#[pyo3(signature = (x, graph, parameters, bias, edge_attr, settings, attention))]
fn gat<'py>(
    x: &Bound<'py, PyAny>,
    graph: GraphArgument,
    parameters: Vec<Handle<'py>>,
    bias: Option<Handle<'py>>,
    edge_attr: Option<&Bound<'py, PyAny>>,
    settings: Settings<'py>,
    attention: bool,
) -> PyResult<Attended<'py>> {
    let (concat_heads, slope, add_self_loops, dropout, gates) = settings;
    let (py, x) = (x.py(), input_of("x", x)?);
    let features = edge_attr.map(|edge_attr| tensor_of("edge_attr", edge_attr, true)).transpose()?;
    if !matches!(parameters.len(), 3 | 5) {
        return Err(wrong_count(&parameters, 3));
    }
    let tensor = |at: usize| parameters[at].0.clone();
    let layer = GatLayer {
        lin: linear_of(&parameters[0], None),
        att_src: tensor(1),
        att_dst: tensor(2),
        bias: bias.map(|bias| bias.0.clone()),
        edge: (parameters.len() == 5).then(|| (linear_of(&parameters[3], None), tensor(4))),
        concat_heads,
        slope,
        add_self_loops,
        head_gates: gates_of(gates)?,
    };
    let (graph, features) = (&graph.0, features.as_ref());
    attend(
        py,
        attention,
        || layer.forward(&x, graph, features, dropout),
        || layer.forward_with_attention(&x, graph, features, dropout),
    )
}

/// `parameters`: att, then weight and bias of lin_l and lin_r, and with edge features lin_edge.weight.
#[pyfunction]
#[pyo3(signature = (x, graph, parameters, bias, edge_attr, settings, attention))]
fn gatv2<'py>(
    x: &Bound<'py, PyAny>,
    graph: GraphArgument,
    parameters: Vec<Handle<'py>>,
    bias: Option<Handle<'py>>,
    edge_attr: Option<&Bound<'py, PyAny>>,
    settings: Settings<'py>,
    attention: bool,
) -> PyResult<Attended<'py>> {
    let (concat_heads, slope, add_self_loops, dropout, gates) = settings;
    let (py, x) = (x.py(), input_of("x", x)?);
    let features = edge_attr.map(|edge_attr| tensor_of("edge_attr", edge_attr, true)).transpose()?;
    if !matches!(parameters.len(), 5 | 6) {
        return Err(wrong_count(&parameters, 5));
    }
    let layer = GatV2Layer {
        lin_l: linear_of(&parameters[1], Some(&parameters[2])),
        lin_r: linear_of(&parameters[3], Some(&parameters[4])),
        att: parameters[0].0.clone(),
        bias: bias.map(|bias| bias.0.clone()),
        lin_edge: parameters.get(5).map(|weight| linear_of(weight, None)),
        concat_heads,
        slope,
        add_self_loops,
        head_gates: gates_of(gates)?,
    };
    let (graph, features) = (&graph.0, features.as_ref());
    attend(
        py,
        attention,
        || layer.forward(&x, graph, features, dropout),
        || layer.forward_with_attention(&x, graph, features, dropout),
    )
}

/// The parameter of a layer with fewer heads.
#[pyfunction]
fn take_heads(
    parameter: &PyTensor,
    axis: usize,
    groups: usize,
    total: usize,
    heads: Vec<u32>,
) -> PyResult<PyTensor> {
    guarded(|| Ok(PyTensor(taken(&parameter.0, axis, groups, total, &heads).map_err(Raise)?)))
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(take_heads, module)?)?;
    module.add_function(wrap_pyfunction!(gat, module)?)?;
    module.add_function(wrap_pyfunction!(gatv2, module)?)
}
