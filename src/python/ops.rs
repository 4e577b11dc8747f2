//! Functions of several tensors, of tensors over graphs, and the switches of the tape.

use crate::autograd::{self, Reduce, Tensor};
use crate::error::Result;
use crate::python::argument::{GraphArgument, Text};
use crate::python::array::{self, Int};
use crate::python::call::interruptible;
use crate::python::error::Raise;
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

/// Join tensors along `axis`; the other axes must agree (`ShapeError`).
///
/// >>> rg.concat([[[1.0, 2.0]], [[3.0, 4.0]]], axis=1).numpy()
/// array([[1., 2., 3., 4.]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (tensors, axis = Int::new(0)), text_signature = "(tensors, axis=0)")]
fn concat(py: Python<'_>, tensors: Vec<Bound<'_, PyAny>>, axis: Int) -> PyResult<PyTensor> {
    let tensors = tensors_of(tensors)?;
    interruptible(py, || Tensor::concat(&tensors, axis.place())).map(PyTensor)
}

/// Join tensors of one shape along a new axis.
///
/// >>> rg.stack([[1.0, 2.0], [3.0, 4.0]], axis=1).numpy()
/// array([[1., 3.],
///        [2., 4.]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (tensors, axis = Int::new(0)), text_signature = "(tensors, axis=0)")]
fn stack(py: Python<'_>, tensors: Vec<Bound<'_, PyAny>>, axis: Int) -> PyResult<PyTensor> {
    let tensors = tensors_of(tensors)?;
    interruptible(py, || Tensor::stack(&tensors, axis.place())).map(PyTensor)
}

/// Take `x` where the boolean `mask` is set, else `y`; all three broadcast as in NumPy.
///
/// >>> rg.where([True, False], [1.0, 2.0], 0.0).numpy()
/// array([1., 0.], dtype=float32)
#[pyfunction(name = "where")]
fn choose(
    py: Python<'_>,
    mask: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
) -> PyResult<PyTensor> {
    let mask = array::boolean("mask", mask)?;
    let (flags, dims) = (array::copy_of(&mask)?, mask.shape().to_vec());
    let (x, y) = (tensor_of("x", x, false)?, tensor_of("y", y, false)?);
    interruptible(py, || Tensor::choose(&flags, &dims, &x, &y)).map(PyTensor)
}

/// Aggregate `x (num_sources, d)` over the neighbours of each node: `(num_nodes, d)`, 0 without neighbours.
///
/// The message of an edge is `m_ij = w_ij x_j`, with the graph's weights, or `weights (E,)` in row order (which get a
/// gradient), or 1. `reduce` is their "sum", "mean" (by the number of edges), "max" (equal largest ones share the
/// gradient evenly) or "softmax": `sum_j a_ij m_ij` with `a = softmax_j(m_ij)`, column by column (Li et al. 2020).
/// Raises `ShapeError` where the rows of `x` or the weights do not fit, `ConfigError` for another `reduce`.
///
/// >>> graph = rg.Graph.from_adjacency([[1, 2], [0], []])
/// >>> rg.aggregate([[1.0], [2.0], [5.0]], graph, reduce="max").numpy()
/// array([[5.],
///        [1.],
///        [0.]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (x, graph, reduce = Text::from("sum"), weights = None), text_signature = "(x, graph, reduce=\"sum\", weights=None)")]
fn aggregate(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    graph: GraphArgument,
    reduce: Text,
    weights: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyTensor> {
    let (x, reduce) = (tensor_of("x", x, true)?, reduce_of(&reduce.named("reduce")?)?);
    let weights = weights.map(|weights| tensor_of("weights", weights, true)).transpose()?;
    interruptible(py, || match weights {
        None => x.aggregate(&graph.0, reduce),
        Some(weights) => x.aggregate_weighted(&graph.0, &weights, reduce),
    })
    .map(PyTensor)
}

/// Softmax over the edges of each node: `scores (E,)` or `(E, heads)` in row order, the same shape back.
///
/// `y_e = e^s_e / sum of e^s over the edges of the node`; each node's weights sum to 1.
///
/// >>> graph = rg.Graph.from_adjacency([[1, 2], [0], []])
/// >>> rg.edge_softmax([3.0, 3.0, 7.0], graph).numpy()
/// array([0.5, 0.5, 1. ], dtype=float32)
#[pyfunction]
fn edge_softmax(py: Python<'_>, scores: &Bound<'_, PyAny>, graph: GraphArgument) -> PyResult<PyTensor> {
    let scores = tensor_of("scores", scores, true)?;
    interruptible(py, || scores.edge_softmax(&graph.0)).map(PyTensor)
}

fn by_segment(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    segments: &Bound<'_, PyAny>,
    count: Int,
    reduce: Reduce,
) -> PyResult<PyTensor> {
    let (x, segments) = (tensor_of("x", x, true)?, array::nodes("segments", segments)?);
    let count = count.count("num_segments")?;
    interruptible(py, || autograd::segment_reduce(&x, &segments, count, reduce)).map(PyTensor)
}

/// Sum the rows of `x (N, d)` by segment: row `e` goes to row `segments[e]` of `(num_segments, d)`.
///
/// Raises `RowError` for a segment out of range, `ShapeError` where the counts differ.
///
/// >>> rg.segment_sum([[1.0], [2.0], [5.0]], [1, 0, 1], 2).numpy()
/// array([[2.],
///        [6.]], dtype=float32)
#[pyfunction]
fn segment_sum(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    segments: &Bound<'_, PyAny>,
    num_segments: Int,
) -> PyResult<PyTensor> {
    by_segment(py, x, segments, num_segments, Reduce::Sum)
}

/// Average the rows of `x (N, d)` by segment, as `segment_sum`; an empty segment gives 0.
///
/// >>> rg.segment_mean([[1.0], [2.0], [5.0]], [1, 0, 1], 3).numpy()
/// array([[2.],
///        [3.],
///        [0.]], dtype=float32)
#[pyfunction]
fn segment_mean(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    segments: &Bound<'_, PyAny>,
    num_segments: Int,
) -> PyResult<PyTensor> {
    by_segment(py, x, segments, num_segments, Reduce::Mean)
}

/// Take the largest value of each column by segment, as `segment_sum`; an empty segment gives 0.
///
/// Equal largest values share the gradient evenly, as PyTorch's `scatter_reduce("amax")`.
///
/// >>> rg.segment_max([[1.0], [2.0], [-5.0]], [1, 1, 0], 2).numpy()
/// array([[-5.],
///        [ 2.]], dtype=float32)
#[pyfunction]
fn segment_max(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    segments: &Bound<'_, PyAny>,
    num_segments: Int,
) -> PyResult<PyTensor> {
    by_segment(py, x, segments, num_segments, Reduce::Max)
}

/// One row per edge in row order to one row per node.
#[pyfunction]
fn aggregate_edges(
    py: Python<'_>,
    messages: &Bound<'_, PyAny>,
    graph: GraphArgument,
    reduce: Text,
) -> PyResult<PyTensor> {
    let (messages, reduce) = (tensor_of("messages", messages, true)?, reduce_of(&reduce.named("reduce")?)?);
    interruptible(py, || messages.aggregate_edges(&graph.0, reduce)).map(PyTensor)
}

/// Give the gradients of the single number `loss` with respect to `tensors`, leaving their `grad` alone.
///
/// `None` stands where the loss does not depend on a tensor.
///
/// >>> x = rg.tensor([1.0, 2.0], requires_grad=True)
/// >>> rg.grad((x * x).sum(), [x])[0].numpy()
/// array([2., 4.], dtype=float32)
#[pyfunction]
#[pyo3(signature = (loss, tensors, retain_graph = false))]
fn grad(
    py: Python<'_>,
    loss: &PyTensor,
    tensors: Vec<PyRef<'_, PyTensor>>,
    retain_graph: bool,
) -> PyResult<Vec<Option<PyTensor>>> {
    let tensors: Vec<Tensor<f32>> = tensors.iter().map(|tensor| tensor.0.clone()).collect();
    interruptible(py, || -> Result<_> {
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
