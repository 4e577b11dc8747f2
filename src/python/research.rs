//! Forward passes of the research layers, given their parameters.

use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::nn::{
    self, Activation, EgnnLayer, FeedForward, GraphTransformerLayer, LayerNorm, Linear, MixtureOfExperts,
    MultiheadAttention, PoincareLayer, Sequential, SparseAttentionLayer, Step,
};
use crate::python::argument::{GraphArgument, Number};
use crate::python::array::{self, Int};
use crate::python::call::{guarded, interruptible};
use crate::python::error::Raise;
use crate::python::nn::{Handle, attention_of, linear_of, maps, wrong_count};
use crate::python::tensor::{PyTensor, input_of, tensor_of};
use pyo3::prelude::*;

/// Parameters as for `multihead_attention`, and the number of heads.
type Attention<'py> = (Vec<Handle<'py>>, usize);

/// Weight and bias of linear1, linear2, norm1 and norm2; the activation, and epsilon of each norm.
type Rest<'py> = (Vec<Handle<'py>>, &'py str, (f64, f64));

fn attention((parameters, heads): &Attention<'_>) -> PyResult<MultiheadAttention<f32>> {
    attention_of(parameters, *heads)
}

fn feed_forward((parameters, activation, (eps1, eps2)): &Rest<'_>) -> PyResult<FeedForward<f32>> {
    let [linear1, linear2, norm1, norm2] = maps(parameters)?;
    let norm = |map: Linear<f32>, eps| match map.bias {
        Some(bias) => LayerNorm { weight: map.weight, bias, eps },
        None => unreachable!("maps gives biases"),
    };
    let activation = activation.parse::<Activation>().map_err(Raise)?;
    Ok(FeedForward { linear1, linear2, norm1: norm(norm1, *eps1), norm2: norm(norm2, *eps2), activation })
}

fn numbers(batch: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<u32>>> {
    batch.map(|batch| array::nodes("batch", batch)).transpose()
}

/// `encoding`: weight and bias of the map of positional encodings, and these.
#[pyfunction]
#[pyo3(signature = (x, graph, self_attn, rest, batch, encoding, dropout))]
fn graph_transformer<'py>(
    x: &Bound<'py, PyAny>,
    graph: GraphArgument,
    self_attn: Attention<'py>,
    rest: Rest<'py>,
    batch: Option<&Bound<'py, PyAny>>,
    encoding: Option<(Handle<'py>, Option<Handle<'py>>, Bound<'py, PyAny>)>,
    dropout: Option<(f64, u64)>,
) -> PyResult<PyTensor> {
    let (py, x, batch) = (x.py(), input_of("x", x)?, numbers(batch)?);
    let (lin_pe, pe) = match encoding {
        Some((weight, bias, pe)) => {
            (Some(linear_of(&weight, bias.as_deref())), Some(tensor_of("pe", &pe, true)?))
        }
        None => (None, None),
    };
    let layer = GraphTransformerLayer {
        lin_pe,
        self_attn: attention(&self_attn)?,
        feed_forward: feed_forward(&rest)?,
    };
    interruptible(py, || layer.forward(&x, &graph.0, batch.as_deref(), pe.as_ref(), dropout)).map(PyTensor)
}

/// The tokens, their attention and that of the nodes, and the rest.
type SparseAttention<'py> = (Bound<'py, PyTensor>, [Attention<'py>; 2], Rest<'py>);

/// What the layer gives or, without a graph, what its tokens are once they have seen all nodes.
#[pyfunction]
#[pyo3(signature = (x, graph, layer, batch, token_states, dropout))]
fn sparse_attention<'py>(
    x: &Bound<'py, PyAny>,
    graph: Option<GraphArgument>,
    layer: SparseAttention<'py>,
    batch: Option<&Bound<'py, PyAny>>,
    token_states: Option<&Bound<'py, PyAny>>,
    dropout: Option<(f64, u64)>,
) -> PyResult<PyTensor> {
    let (py, x, batch) = (x.py(), input_of("x", x)?, numbers(batch)?);
    let states = token_states.map(|states| input_of("token_states", states)).transpose()?;
    let (tokens, attentions, rest) = layer;
    let layer = SparseAttentionLayer {
        tokens: tokens.get().0.clone(),
        gather: attention(&attentions[0])?,
        self_attn: attention(&attentions[1])?,
        feed_forward: feed_forward(&rest)?,
    };
    let batch = batch.as_deref();
    interruptible(py, || match &graph {
        Some(graph) => layer.forward(&x, &graph.0, batch, states.as_ref(), dropout),
        None => layer.token_states(&x, batch),
    })
    .map(PyTensor)
}

/// One of the maps of the Poincaré ball: exp, log or project.
#[pyfunction]
fn poincare_map(py: Python<'_>, kind: &str, x: &Bound<'_, PyAny>, curvature: Number) -> PyResult<PyTensor> {
    let (x, curvature) = (input_of("x", x)?, curvature.named("curvature")?);
    let map = match kind {
        "exp" => Tensor::poincare_exp,
        "log" => Tensor::poincare_log,
        "project" => Tensor::poincare_project,
        _ => return Err(Raise(Error::Config(format!("unknown map {kind:?}"))).into()),
    };
    interruptible(py, || map(&x, curvature)).map(PyTensor)
}

#[pyfunction]
fn mobius_add(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
    curvature: Number,
) -> PyResult<PyTensor> {
    let (x, y, curvature) = (input_of("x", x)?, input_of("y", y)?, curvature.named("curvature")?);
    interruptible(py, || nn::mobius_add(&x, &y, curvature)).map(PyTensor)
}

#[pyfunction]
fn poincare_distance(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
    curvature: Number,
) -> PyResult<PyTensor> {
    let (x, y, curvature) = (input_of("x", x)?, input_of("y", y)?, curvature.named("curvature")?);
    interruptible(py, || nn::poincare_distance(&x, &y, curvature)).map(PyTensor)
}

#[pyfunction]
fn poincare_midpoint(
    py: Python<'_>,
    points: &Bound<'_, PyAny>,
    graph: GraphArgument,
    curvature: Number,
) -> PyResult<PyTensor> {
    let (points, curvature) = (input_of("points", points)?, curvature.named("curvature")?);
    interruptible(py, || nn::poincare_midpoint(&points, &graph.0, curvature)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (x, graph, weight, bias, curvature, takes_points, activation))]
fn poincare(
    x: &Bound<'_, PyAny>,
    graph: GraphArgument,
    weight: &PyTensor,
    bias: Option<Handle<'_>>,
    curvature: Number,
    takes_points: bool,
    activation: Option<&str>,
) -> PyResult<PyTensor> {
    let (py, x) = (x.py(), input_of("x", x)?);
    let activation = activation.map(str::parse).transpose().map_err(Raise)?;
    let (lin, bias) = (linear_of(weight, None), bias.map(|bias| bias.0.clone()));
    let curvature = curvature.named("curvature")?;
    let layer = PoincareLayer { lin, bias, curvature, takes_points, activation };
    interruptible(py, || layer.forward(&x, &graph.0)).map(PyTensor)
}

/// Calls `field(h)` four times per step; what it raises is raised here.
#[pyfunction]
fn rk4(x: &Bound<'_, PyAny>, time: f64, steps: Int, field: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
    let (x, mut raised) = (input_of("x", x)?, None);
    let steps = steps.count("steps")?;
    let field = |h: &Tensor<f32>| -> Result<_> {
        let slope = field.call1((PyTensor(h.clone()),)).and_then(|slope| tensor_of("field", &slope, false));
        slope.map_err(|error| {
            raised = Some(error);
            Error::Interrupted("the field raised an exception".into())
        })
    };
    let end = guarded(|| Ok(nn::rk4(&x, time, steps, field)))?;
    match raised {
        Some(error) => Err(error),
        None => Ok(PyTensor(end.map_err(Raise)?)),
    }
}

/// `parameters`: in the order of `named_parameters`.
#[pyfunction]
#[pyo3(signature = (x, graph, pos, edge_attr, parameters))]
fn egnn(
    x: &Bound<'_, PyAny>,
    graph: GraphArgument,
    pos: &Bound<'_, PyAny>,
    edge_attr: Option<&Bound<'_, PyAny>>,
    parameters: Vec<Handle<'_>>,
) -> PyResult<(PyTensor, PyTensor)> {
    let (py, x, pos) = (x.py(), input_of("x", x)?, input_of("pos", pos)?);
    let features = edge_attr.map(|edge_attr| tensor_of("edge_attr", edge_attr, true)).transpose()?;
    let [first, first_bias, second, second_bias, coord, coord_bias, factor, node @ ..] = &parameters[..]
    else {
        return Err(wrong_count(&parameters, 11));
    };
    let [node_first, node_second] = maps(node)?;
    let silu = || Step::Activation(Activation::Silu);
    let map = |weight, bias| Step::Linear(linear_of(weight, bias));
    let layer = EgnnLayer {
        edge_first: linear_of(first, Some(first_bias)),
        edge_second: linear_of(second, Some(second_bias)),
        coord_mlp: Sequential(vec![map(coord, Some(coord_bias)), silu(), map(factor, None)]),
        node_mlp: Sequential(vec![Step::Linear(node_first), silu(), Step::Linear(node_second)]),
    };
    let (x, pos) = interruptible(py, || layer.forward(&x, &graph.0, &pos, features.as_ref()))?;
    Ok((PyTensor(x), PyTensor(pos)))
}

/// The result and the gates; `experts`: weight and bias of each.
#[pyfunction]
fn mixture_of_experts(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: GraphArgument,
    gate: &PyTensor,
    experts: Vec<(Handle<'_>, Option<Handle<'_>>)>,
    top_k: Int,
) -> PyResult<(PyTensor, PyTensor)> {
    let x = input_of("x", x)?;
    let experts = experts.iter().map(|(weight, bias)| linear_of(weight, bias.as_deref())).collect();
    let layer = MixtureOfExperts { gate: linear_of(gate, None), experts, top_k: top_k.count("top_k")? };
    let (out, gates) = interruptible(py, || layer.forward(&x, &graph.0))?;
    Ok((PyTensor(out), PyTensor(gates)))
}

#[pyfunction]
fn load_balance(py: Python<'_>, gates: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
    let gates = input_of("gates", gates)?;
    interruptible(py, || nn::load_balance(&gates)).map(PyTensor)
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(graph_transformer, module)?)?;
    module.add_function(wrap_pyfunction!(sparse_attention, module)?)?;
    module.add_function(wrap_pyfunction!(poincare_map, module)?)?;
    module.add_function(wrap_pyfunction!(mobius_add, module)?)?;
    module.add_function(wrap_pyfunction!(poincare_distance, module)?)?;
    module.add_function(wrap_pyfunction!(poincare_midpoint, module)?)?;
    module.add_function(wrap_pyfunction!(poincare, module)?)?;
    module.add_function(wrap_pyfunction!(rk4, module)?)?;
    module.add_function(wrap_pyfunction!(egnn, module)?)?;
    module.add_function(wrap_pyfunction!(mixture_of_experts, module)?)?;
    module.add_function(wrap_pyfunction!(load_balance, module)?)
}
