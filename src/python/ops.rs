//! Functions of several tensors, of tensors over graphs, and the switches of the tape.

use crate::autograd::{self, Reduce, Tensor};
use crate::error::Result;
use crate::python::array;
use crate::python::call::detached;
use crate::python::error::Raise;
use crate::python::graph::PyGraph;
use crate::python::tensor::{PyTensor, tensor_of};
use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;

/// The aggregations by name.
pub fn reduce_of(name: &str) -> PyResult<Reduce> {
    Ok(name.parse().map_err(Raise)?)
}

fn tensors_of(values: Vec<Bound<'_, PyAny>>) -> PyResult<Vec<Tensor<f32>>> {
    values.iter().map(|value| tensor_of("tensors", value, false)).collect()
}

#[pyfunction]
#[pyo3(signature = (tensors, axis = 0))]
fn concat(py: Python<'_>, tensors: Vec<Bound<'_, PyAny>>, axis: isize) -> PyResult<PyTensor> {
    let tensors = tensors_of(tensors)?;
    detached(py, || Tensor::concat(&tensors, axis)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (tensors, axis = 0))]
fn stack(py: Python<'_>, tensors: Vec<Bound<'_, PyAny>>, axis: isize) -> PyResult<PyTensor> {
    let tensors = tensors_of(tensors)?;
    detached(py, || Tensor::stack(&tensors, axis)).map(PyTensor)
}

#[pyfunction(name = "where")]
fn choose(
    py: Python<'_>,
    mask: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
) -> PyResult<PyTensor> {
    let mask = array::boolean("mask", mask)?;
    let (flags, dims) = (mask.as_slice()?.to_vec(), mask.shape().to_vec());
    let (x, y) = (tensor_of("x", x, false)?, tensor_of("y", y, false)?);
    detached(py, || Tensor::choose(&flags, &dims, &x, &y)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (x, graph, reduce = "sum", weights = None))]
fn aggregate(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: &PyGraph,
    reduce: &str,
    weights: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyTensor> {
    let (x, reduce) = (tensor_of("x", x, true)?, reduce_of(reduce)?);
    let weights = weights.map(|weights| tensor_of("weights", weights, true)).transpose()?;
    detached(py, || match weights {
        None => x.aggregate(&graph.0, reduce),
        Some(weights) => x.aggregate_weighted(&graph.0, &weights, reduce),
    })
    .map(PyTensor)
}

#[pyfunction]
fn edge_softmax(py: Python<'_>, scores: &Bound<'_, PyAny>, graph: &PyGraph) -> PyResult<PyTensor> {
    let scores = tensor_of("scores", scores, true)?;
    detached(py, || scores.edge_softmax(&graph.0)).map(PyTensor)
}

fn by_segment(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    segments: &Bound<'_, PyAny>,
    count: usize,
    reduce: Reduce,
) -> PyResult<PyTensor> {
    let (x, segments) = (tensor_of("x", x, true)?, array::nodes("segments", segments)?);
    detached(py, || autograd::segment_reduce(&x, &segments, count, reduce)).map(PyTensor)
}

#[pyfunction]
fn segment_sum(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    segments: &Bound<'_, PyAny>,
    num_segments: usize,
) -> PyResult<PyTensor> {
    by_segment(py, x, segments, num_segments, Reduce::Sum)
}

#[pyfunction]
fn segment_mean(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    segments: &Bound<'_, PyAny>,
    num_segments: usize,
) -> PyResult<PyTensor> {
    by_segment(py, x, segments, num_segments, Reduce::Mean)
}

#[pyfunction]
fn segment_max(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    segments: &Bound<'_, PyAny>,
    num_segments: usize,
) -> PyResult<PyTensor> {
    by_segment(py, x, segments, num_segments, Reduce::Max)
}

/// One row per edge in row order to one row per node.
#[pyfunction]
fn aggregate_edges(
    py: Python<'_>,
    messages: &Bound<'_, PyAny>,
    graph: &PyGraph,
    reduce: &str,
) -> PyResult<PyTensor> {
    let (messages, reduce) = (tensor_of("messages", messages, true)?, reduce_of(reduce)?);
    detached(py, || messages.aggregate_edges(&graph.0, reduce)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (loss, tensors, retain_graph = false))]
fn grad(
    py: Python<'_>,
    loss: &PyTensor,
    tensors: Vec<PyRef<'_, PyTensor>>,
    retain_graph: bool,
) -> PyResult<Vec<Option<PyTensor>>> {
    let tensors: Vec<Tensor<f32>> = tensors.iter().map(|tensor| tensor.0.clone()).collect();
    detached(py, || -> Result<_> {
        let grads = autograd::gradients(&loss.0, &tensors, retain_graph)?;
        let named = grads.into_iter().zip(&tensors);
        named
            .map(|(grad, of)| grad.map(|grad| Tensor::new(grad, of.dims()).map(PyTensor)).transpose())
            .collect()
    })
}

#[pyfunction]
fn set_recording(on: bool) -> bool {
    autograd::set_recording(on)
}

#[pyfunction]
fn is_recording() -> bool {
    autograd::is_recording()
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyTensor>()?;
    module.add_function(wrap_pyfunction!(concat, module)?)?;
    module.add_function(wrap_pyfunction!(stack, module)?)?;
    module.add_function(wrap_pyfunction!(choose, module)?)?;
    module.add_function(wrap_pyfunction!(aggregate, module)?)?;
    module.add_function(wrap_pyfunction!(edge_softmax, module)?)?;
    module.add_function(wrap_pyfunction!(segment_sum, module)?)?;
    module.add_function(wrap_pyfunction!(segment_mean, module)?)?;
    module.add_function(wrap_pyfunction!(segment_max, module)?)?;
    module.add_function(wrap_pyfunction!(aggregate_edges, module)?)?;
    module.add_function(wrap_pyfunction!(grad, module)?)?;
    module.add_function(wrap_pyfunction!(set_recording, module)?)?;
    module.add_function(wrap_pyfunction!(is_recording, module)?)
}
