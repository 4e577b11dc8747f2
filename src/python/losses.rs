//! Losses.

use crate::error::Error;
use crate::losses::{self, FeatureKind, Pairs, Reduction, Score, Targets};
use crate::memory;
use crate::python::array::{self, Int};
use crate::python::call::{guarded, interruptible};
use crate::python::error::Raise;
use crate::python::graph::PyGraph;
use crate::python::tensor::{PyTensor, tensor_of};
use numpy::{PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

/// The value that an argument names, or an error that lists the names there are.
fn named<V: Copy>(argument: &str, name: &str, values: &[(&str, V)]) -> PyResult<V> {
    let found = values.iter().find(|(other, _)| *other == name);
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    let refused = || Raise(Error::Config(format!("{argument} must be one of {names:?}, got {name:?}")));
    Ok(found.ok_or_else(refused)?.1)
}

fn reduction_of(name: &str) -> PyResult<Reduction> {
    let all = [("mean", Reduction::Mean), ("sum", Reduction::Sum), ("none", Reduction::None)];
    named("reduction", name, &all)
}

/// Both ends of edges `(2, E)`.
fn ends(name: &str, edges: &Bound<'_, PyAny>) -> PyResult<(Vec<u32>, Vec<u32>)> {
    let shape = array::int64(name, edges)?.shape().to_vec();
    if shape.len() != 2 || shape[0] != 2 {
        return Err(Raise(Error::Shape(format!("{name} must have shape (2, E), got {shape:?}"))).into());
    }
    let mut sources = array::nodes(name, edges)?;
    let targets = guarded(|| Ok(memory::copy_of(&sources[shape[1]..])))?;
    sources.truncate(shape[1]);
    Ok((sources, targets))
}

fn pairs((sources, targets): &(Vec<u32>, Vec<u32>)) -> Pairs<'_> {
    Pairs { sources, targets }
}

/// Classes from a list of integers, sets from a list of lists, weights from a matrix of floats.
fn targets_of(targets: &Bound<'_, PyAny>) -> PyResult<Targets<f32>> {
    let first = targets.try_iter()?.next().transpose()?;
    let is_array = targets.hasattr("dtype")? || targets.is_instance_of::<PyTensor>();
    if !is_array && first.is_some_and(|first| first.try_iter().is_ok()) {
        let (mut indptr, mut classes) = (vec![0], Vec::new());
        for row in targets.try_iter()? {
            let row = array::nodes("targets", &row?)?;
            guarded(|| {
                row.into_iter().for_each(|class| memory::push(&mut classes, class));
                memory::push(&mut indptr, classes.len());
                Ok(())
            })?;
        }
        return Ok(Targets::Sets { indptr, classes });
    }
    let array = targets.py().import("numpy")?.call_method1("asarray", (targets,))?;
    if array.getattr("ndim")?.extract::<usize>()? == 2 {
        return Ok(Targets::Soft(array::copy_of(&array::float32("targets", &array)?)?));
    }
    Ok(Targets::Classes(array::nodes("targets", &array)?))
}

#[pyfunction]
#[pyo3(signature = (scores, targets, reduction = "mean"))]
fn cross_entropy(
    py: Python<'_>,
    scores: &Bound<'_, PyAny>,
    targets: &Bound<'_, PyAny>,
    reduction: &str,
) -> PyResult<PyTensor> {
    let (scores, targets) = (tensor_of("scores", scores, false)?, targets_of(targets)?);
    let reduction = reduction_of(reduction)?;
    interruptible(py, || losses::cross_entropy(&scores, targets, reduction)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (anchors, positives, negatives = None, temperature = 0.07, reduction = "mean"))]
fn info_nce(
    py: Python<'_>,
    anchors: &Bound<'_, PyAny>,
    positives: &Bound<'_, PyAny>,
    negatives: Option<&Bound<'_, PyAny>>,
    temperature: f64,
    reduction: &str,
) -> PyResult<PyTensor> {
    let (anchors, positives) =
        (tensor_of("anchors", anchors, true)?, tensor_of("positives", positives, true)?);
    let negatives = negatives.map(|negatives| tensor_of("negatives", negatives, true)).transpose()?;
    let reduction = reduction_of(reduction)?;
    interruptible(py, || losses::info_nce(&anchors, &positives, negatives.as_ref(), temperature, reduction))
        .map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (x, target, reduction = "mean"))]
fn mse(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    target: &Bound<'_, PyAny>,
    reduction: &str,
) -> PyResult<PyTensor> {
    let (x, target) = (tensor_of("x", x, true)?, tensor_of("target", target, true)?);
    let reduction = reduction_of(reduction)?;
    interruptible(py, || losses::mse(&x, &target, reduction)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (logits, targets, weights = None, reduction = "mean"))]
fn bce_with_logits(
    py: Python<'_>,
    logits: &Bound<'_, PyAny>,
    targets: &Bound<'_, PyAny>,
    weights: Option<&Bound<'_, PyAny>>,
    reduction: &str,
) -> PyResult<PyTensor> {
    let (logits, targets) = (tensor_of("logits", logits, true)?, tensor_of("targets", targets, true)?);
    let weights = weights.map(|weights| tensor_of("weights", weights, true)).transpose()?;
    let reduction = reduction_of(reduction)?;
    interruptible(py, || losses::bce_with_logits(&logits, &targets, weights.as_ref(), reduction))
        .map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (positive, negative, reduction = "mean"))]
fn deep_graph_infomax(
    py: Python<'_>,
    positive: &Bound<'_, PyAny>,
    negative: &Bound<'_, PyAny>,
    reduction: &str,
) -> PyResult<PyTensor> {
    let (positive, negative) =
        (tensor_of("positive", positive, true)?, tensor_of("negative", negative, true)?);
    let reduction = reduction_of(reduction)?;
    interruptible(py, || losses::deep_graph_infomax(&positive, &negative, reduction)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (embeddings, pos_edges, neg_edges, score = "cosine", reduction = "mean"))]
fn link_prediction(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    pos_edges: &Bound<'_, PyAny>,
    neg_edges: &Bound<'_, PyAny>,
    score: &str,
    reduction: &str,
) -> PyResult<PyTensor> {
    let embeddings = tensor_of("embeddings", embeddings, true)?;
    let (positive, negative) = (ends("pos_edges", pos_edges)?, ends("neg_edges", neg_edges)?);
    let score = named("score", score, &[("cosine", Score::Cosine), ("dot", Score::Dot)])?;
    let reduction = reduction_of(reduction)?;
    interruptible(py, || {
        losses::link_prediction(&embeddings, pairs(&positive), pairs(&negative), score, reduction)
    })
    .map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (x, x_hat, kind = "mse", reduction = "mean"))]
fn feature_reconstruction(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    x_hat: &Bound<'_, PyAny>,
    kind: &str,
    reduction: &str,
) -> PyResult<PyTensor> {
    let (x, x_hat) = (tensor_of("x", x, true)?, tensor_of("x_hat", x_hat, true)?);
    let kinds =
        [("mse", FeatureKind::Numbers), ("bce", FeatureKind::Binary), ("ce", FeatureKind::Distribution)];
    let (kind, reduction) = (named("kind", kind, &kinds)?, reduction_of(reduction)?);
    interruptible(py, || losses::feature_reconstruction(&x, &x_hat, kind, reduction)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (embeddings, graph, positive_weight = 1.0, reduction = "mean"))]
fn adjacency_reconstruction(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    graph: &PyGraph,
    positive_weight: f64,
    reduction: &str,
) -> PyResult<PyTensor> {
    let (embeddings, reduction) = (tensor_of("embeddings", embeddings, true)?, reduction_of(reduction)?);
    interruptible(py, || losses::adjacency_reconstruction(&embeddings, &graph.0, positive_weight, reduction))
        .map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (embeddings, edges, num_negatives, seed, reduction = "mean"))]
fn sparse_adjacency(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    edges: &Bound<'_, PyAny>,
    num_negatives: Int,
    seed: Int,
    reduction: &str,
) -> PyResult<PyTensor> {
    let (embeddings, edges) = (tensor_of("embeddings", embeddings, true)?, ends("edges", edges)?);
    let (negatives, seed) = (num_negatives.clamped().try_into().unwrap_or(0), seed.seed("seed")?);
    let reduction = reduction_of(reduction)?;
    interruptible(py, || losses::sparse_adjacency(&embeddings, pairs(&edges), negatives, seed, reduction))
        .map(PyTensor)
}

/// Pairs of nodes that no edge joins, `num_negatives` for each edge: `(2, M)`.
#[pyfunction]
fn negative_edges<'py>(
    py: Python<'py>,
    edges: &Bound<'py, PyAny>,
    num_nodes: Int,
    num_negatives: Int,
    seed: Int,
) -> PyResult<Bound<'py, PyArray2<i64>>> {
    let (edges, count) = (ends("edges", edges)?, num_negatives.clamped().try_into().unwrap_or(0));
    let (num_nodes, seed) = (num_nodes.count("num_nodes")?, seed.seed("seed")?);
    let (sources, targets) =
        interruptible(py, || losses::negative_edges(pairs(&edges), num_nodes, count, seed))?;
    let drawn = sources.len();
    array::int64_array(py, sources.into_iter().chain(targets))?.reshape([2, drawn])
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(cross_entropy, module)?)?;
    module.add_function(wrap_pyfunction!(info_nce, module)?)?;
    module.add_function(wrap_pyfunction!(mse, module)?)?;
    module.add_function(wrap_pyfunction!(bce_with_logits, module)?)?;
    module.add_function(wrap_pyfunction!(deep_graph_infomax, module)?)?;
    module.add_function(wrap_pyfunction!(link_prediction, module)?)?;
    module.add_function(wrap_pyfunction!(feature_reconstruction, module)?)?;
    module.add_function(wrap_pyfunction!(adjacency_reconstruction, module)?)?;
    module.add_function(wrap_pyfunction!(sparse_adjacency, module)?)?;
    module.add_function(wrap_pyfunction!(negative_edges, module)?)
}
