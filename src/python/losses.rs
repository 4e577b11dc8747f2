//! Losses.

use crate::error::Error;
use crate::losses::{self, ClassOptions, FeatureKind, Pairs, Reduction, Score, Targets};
use crate::memory;
use crate::python::argument::{GraphArgument, Number, Text};
use crate::python::array::{self, Int};
use crate::python::call::{guarded, interruptible};
use crate::python::error::Raise;
use crate::python::tensor::{PyTensor, tensor_of};
use numpy::{PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

/// The value that an argument names, or an error that lists the names there are.
fn named<V: Copy>(argument: &str, name: Text, values: &[(&str, V)]) -> PyResult<V> {
    let name = name.named(argument)?;
    let found = values.iter().find(|(other, _)| *other == name);
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    let refused = || Raise(Error::Config(format!("{argument} must be one of {names:?}, got {name:?}")));
    Ok(found.ok_or_else(refused)?.1)
}

/// The reduction of this name.
pub fn reduction_of(name: Text) -> PyResult<Reduction> {
    let all = [("mean", Reduction::Mean), ("sum", Reduction::Sum), ("none", Reduction::None)];
    named("reduction", name, &all)
}

/// Both ends of edges `(2, E)`.
pub fn ends(name: &str, edges: &Bound<'_, PyAny>) -> PyResult<(Vec<u32>, Vec<u32>)> {
    let shape = array::int64(name, edges)?.shape().to_vec();
    if shape.len() != 2 || shape[0] != 2 {
        return Err(Raise(Error::Shape(format!("{name} must have shape (2, E), got {shape:?}"))).into());
    }
    let mut sources = array::nodes(name, edges)?;
    let targets = guarded(|| Ok(memory::copy_of(&sources[shape[1]..])))?;
    sources.truncate(shape[1]);
    Ok((sources, targets))
}

/// Edges as pairs of nodes.
pub fn pairs((sources, targets): &(Vec<u32>, Vec<u32>)) -> Pairs<'_> {
    Pairs { sources, targets }
}

/// Class numbers, 0 for those ignored; what else is negative is out of range for any number of classes.
fn classes(targets: &Bound<'_, PyAny>, ignored: Option<i64>) -> PyResult<Vec<u32>> {
    let array = array::int64("targets", targets)?;
    let class = |&class: &i64| {
        if Some(class) == ignored {
            return Ok(0);
        }
        let refused = || Raise(Error::Row(format!("targets must hold classes from 0 up, got {class}")));
        u32::try_from(class).map_err(|_| refused().into())
    };
    array::collected(array.as_slice()?.iter().map(class))
}

/// Classes from a list of integers, sets from a list of lists, weights from a matrix of floats; with marks of the rows that are
/// ignored, if any can be.
fn targets_of(
    targets: &Bound<'_, PyAny>,
    ignored: Option<i64>,
) -> PyResult<(Targets<f32>, Option<Vec<bool>>)> {
    let only_classes = || match ignored {
        None => Ok(()),
        Some(_) => Err(PyErr::from(Raise(Error::Config(
            "ignore_index is for targets that are class numbers".into(),
        )))),
    };
    let is_array = targets.hasattr("dtype")? || targets.is_instance_of::<PyTensor>();
    let first = if is_array { None } else { targets.try_iter().ok().and_then(|mut items| items.next()) };
    if first.transpose()?.is_some_and(|first| first.try_iter().is_ok()) {
        let (mut indptr, mut all) = (vec![0], Vec::new());
        for row in targets.try_iter()? {
            let row = classes(&row?, None)?;
            guarded(|| {
                row.into_iter().for_each(|class| memory::push(&mut all, class));
                memory::push(&mut indptr, all.len());
                Ok(())
            })?;
        }
        only_classes()?;
        return Ok((Targets::Sets { indptr, classes: all }, None));
    }
    let array = array::as_array("targets", targets)?;
    if array.getattr("ndim")?.extract::<usize>()? == 2 {
        only_classes()?;
        return Ok((Targets::Soft(array::copy_of(&array::float32("targets", &array)?)?), None));
    }
    let Some(index) = ignored else { return Ok((Targets::Classes(classes(&array, None)?), None)) };
    let given = array::int64("targets", &array)?;
    let marks = given.as_slice()?.iter().map(|&class| Ok(class == index));
    Ok((Targets::Classes(classes(&array, ignored)?), Some(array::collected(marks)?)))
}

#[pyfunction]
#[pyo3(signature = (scores, targets, reduction, weight, ignore_index, label_smoothing))]
fn cross_entropy(
    py: Python<'_>,
    scores: &Bound<'_, PyAny>,
    targets: &Bound<'_, PyAny>,
    reduction: Text,
    weight: Option<&Bound<'_, PyAny>>,
    ignore_index: Option<Int>,
    label_smoothing: Number,
) -> PyResult<PyTensor> {
    let scores = tensor_of("scores", scores, false)?;
    let (targets, ignored) = targets_of(targets, ignore_index.map(Int::clamped))?;
    let (reduction, label_smoothing) = (reduction_of(reduction)?, label_smoothing.named("label_smoothing")?);
    let weight = weight.map(|weight| array::values("weight", weight)).transpose()?;
    if weight.is_none() && ignored.is_none() && label_smoothing == 0.0 {
        return interruptible(py, || losses::cross_entropy(&scores, targets, reduction)).map(PyTensor);
    }
    let options = ClassOptions { weight: weight.as_deref(), ignored: ignored.as_deref(), label_smoothing };
    interruptible(py, || losses::weighted_cross_entropy(&scores, &targets, options, reduction)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (anchors, positives, negatives, temperature, reduction))]
fn info_nce(
    py: Python<'_>,
    anchors: &Bound<'_, PyAny>,
    positives: &Bound<'_, PyAny>,
    negatives: Option<&Bound<'_, PyAny>>,
    temperature: Number,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (anchors, positives) =
        (tensor_of("anchors", anchors, true)?, tensor_of("positives", positives, true)?);
    let negatives = negatives.map(|negatives| tensor_of("negatives", negatives, true)).transpose()?;
    let (temperature, reduction) = (temperature.named("temperature")?, reduction_of(reduction)?);
    interruptible(py, || losses::info_nce(&anchors, &positives, negatives.as_ref(), temperature, reduction))
        .map(PyTensor)
}

#[pyfunction]
fn mse(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    target: &Bound<'_, PyAny>,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (x, target) = (tensor_of("x", x, true)?, tensor_of("target", target, true)?);
    let reduction = reduction_of(reduction)?;
    interruptible(py, || losses::mse(&x, &target, reduction)).map(PyTensor)
}

#[pyfunction]
#[pyo3(signature = (logits, targets, weights, reduction))]
fn bce_with_logits(
    py: Python<'_>,
    logits: &Bound<'_, PyAny>,
    targets: &Bound<'_, PyAny>,
    weights: Option<&Bound<'_, PyAny>>,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (logits, targets) = (tensor_of("logits", logits, true)?, tensor_of("targets", targets, true)?);
    let weights = weights.map(|weights| tensor_of("weights", weights, true)).transpose()?;
    let reduction = reduction_of(reduction)?;
    interruptible(py, || losses::bce_with_logits(&logits, &targets, weights.as_ref(), reduction))
        .map(PyTensor)
}

#[pyfunction]
fn deep_graph_infomax(
    py: Python<'_>,
    positive: &Bound<'_, PyAny>,
    negative: &Bound<'_, PyAny>,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (positive, negative) =
        (tensor_of("positive", positive, true)?, tensor_of("negative", negative, true)?);
    let reduction = reduction_of(reduction)?;
    interruptible(py, || losses::deep_graph_infomax(&positive, &negative, reduction)).map(PyTensor)
}

#[pyfunction]
fn link_prediction(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    pos_edges: &Bound<'_, PyAny>,
    neg_edges: &Bound<'_, PyAny>,
    score: Text,
    reduction: Text,
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
fn feature_reconstruction(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    x_hat: &Bound<'_, PyAny>,
    kind: Text,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (x, x_hat) = (tensor_of("x", x, true)?, tensor_of("x_hat", x_hat, true)?);
    let kinds =
        [("mse", FeatureKind::Numbers), ("bce", FeatureKind::Binary), ("ce", FeatureKind::Distribution)];
    let (kind, reduction) = (named("kind", kind, &kinds)?, reduction_of(reduction)?);
    interruptible(py, || losses::feature_reconstruction(&x, &x_hat, kind, reduction)).map(PyTensor)
}

#[pyfunction]
fn adjacency_reconstruction(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    graph: GraphArgument,
    positive_weight: Number,
    reduction: Text,
) -> PyResult<PyTensor> {
    let embeddings = tensor_of("embeddings", embeddings, true)?;
    let (positive_weight, reduction) = (positive_weight.named("positive_weight")?, reduction_of(reduction)?);
    interruptible(py, || losses::adjacency_reconstruction(&embeddings, &graph.0, positive_weight, reduction))
        .map(PyTensor)
}

#[pyfunction]
fn sparse_adjacency(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    edges: &Bound<'_, PyAny>,
    num_negatives: Int,
    seed: Int,
    reduction: Text,
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
