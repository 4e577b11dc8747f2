//! Losses on embeddings: pairs, neighbourhoods, smoothness, geometry, and what embeddings are like by themselves.

use crate::error::Error;
use crate::losses::{self, Negatives};
use crate::memory;
use crate::python::argument::{GraphArgument, Number, Text};
use crate::python::array;
use crate::python::call::{guarded, interruptible};
use crate::python::error::Raise;
use crate::python::losses::{ends, pairs, reduction_of};
use crate::python::tensor::{PyTensor, tensor_of};
use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;

#[pyfunction]
fn contrastive(
    py: Python<'_>,
    x1: &Bound<'_, PyAny>,
    x2: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
    margin: Number,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (x1, x2) = (tensor_of("x1", x1, true)?, tensor_of("x2", x2, true)?);
    let y = array::values("y", y)?;
    let (margin, reduction) = (margin.named("margin")?, reduction_of(reduction)?);
    interruptible(py, || losses::contrastive(&x1, &x2, &y, margin, reduction)).map(PyTensor)
}

#[pyfunction]
fn triplet(
    py: Python<'_>,
    anchors: &Bound<'_, PyAny>,
    positives: &Bound<'_, PyAny>,
    negatives: &Bound<'_, PyAny>,
    margin: Number,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (anchors, positives) =
        (tensor_of("anchors", anchors, true)?, tensor_of("positives", positives, true)?);
    let negatives = tensor_of("negatives", negatives, true)?;
    let (margin, reduction) = (margin.named("margin")?, reduction_of(reduction)?);
    interruptible(py, || losses::triplet(&anchors, &positives, &negatives, margin, reduction)).map(PyTensor)
}

#[pyfunction]
fn local_contrastive(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    edge_index: &Bound<'_, PyAny>,
    similar: Option<Vec<bool>>,
    margin: Number,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (embeddings, edges) = (tensor_of("embeddings", embeddings, true)?, ends("edge_index", edge_index)?);
    let (margin, reduction) = (margin.named("margin")?, reduction_of(reduction)?);
    interruptible(py, || {
        losses::local_contrastive(&embeddings, pairs(&edges), similar.as_deref(), margin, reduction)
    })
    .map(PyTensor)
}

/// Rows of node numbers, where -1 marks a missing one, as compressed rows.
fn negatives_of(rows: &Bound<'_, PyAny>) -> PyResult<(Vec<usize>, Vec<u32>)> {
    let array = array::int64("non_neighbors", rows)?;
    if array.shape().len() != 2 {
        let message = format!("non_neighbors must have shape (N, K), got {:?}", array.shape());
        return Err(Raise(Error::Shape(message)).into());
    }
    let (columns, values) = (array.shape()[1], array.as_slice()?);
    let (mut indptr, mut nodes) = (vec![0], Vec::new());
    for row in 0..array.shape()[0] {
        for &node in &values[row * columns..][..columns] {
            if node < -1 || node > i64::from(u32::MAX) {
                let message = format!("non_neighbors: {node} is not a valid number of a node or row");
                return Err(Raise(Error::Row(message)).into());
            }
            if node >= 0 {
                guarded(|| {
                    memory::push(&mut nodes, node as u32);
                    Ok(())
                })?;
            }
        }
        guarded(|| {
            memory::push(&mut indptr, nodes.len());
            Ok(())
        })?;
    }
    Ok((indptr, nodes))
}

#[pyfunction]
fn multi_hop_contrastive(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    graph: GraphArgument,
    hop_weights: Vec<f64>,
    non_neighbors: &Bound<'_, PyAny>,
    temperature: Number,
    reduction: Text,
) -> PyResult<PyTensor> {
    let embeddings = tensor_of("embeddings", embeddings, true)?;
    let (indptr, nodes) = negatives_of(non_neighbors)?;
    let (temperature, reduction) = (temperature.named("temperature")?, reduction_of(reduction)?);
    interruptible(py, || {
        let negatives = Negatives { indptr: &indptr, nodes: &nodes };
        losses::multi_hop_contrastive(&embeddings, &graph.0, &hop_weights, negatives, temperature, reduction)
    })
    .map(PyTensor)
}

#[pyfunction]
fn laplacian(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    graph: GraphArgument,
    normalized: bool,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (embeddings, reduction) = (tensor_of("embeddings", embeddings, true)?, reduction_of(reduction)?);
    interruptible(py, || losses::laplacian(&embeddings, &graph.0, normalized, reduction)).map(PyTensor)
}

#[pyfunction]
fn sparsity(py: Python<'_>, embeddings: &Bound<'_, PyAny>, reduction: Text) -> PyResult<PyTensor> {
    let (embeddings, reduction) = (tensor_of("embeddings", embeddings, true)?, reduction_of(reduction)?);
    interruptible(py, || losses::sparsity(&embeddings, reduction)).map(PyTensor)
}

#[pyfunction]
fn embedding_norm(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    target: Number,
    reduction: Text,
) -> PyResult<PyTensor> {
    let embeddings = tensor_of("embeddings", embeddings, true)?;
    let (target, reduction) = (target.named("target")?, reduction_of(reduction)?);
    interruptible(py, || losses::embedding_norm(&embeddings, target, reduction)).map(PyTensor)
}

#[pyfunction]
fn project_to_sphere(py: Python<'_>, embeddings: &Bound<'_, PyAny>, radius: Number) -> PyResult<PyTensor> {
    let (embeddings, radius) = (tensor_of("embeddings", embeddings, true)?, radius.named("radius")?);
    interruptible(py, || losses::project_to_sphere(&embeddings, radius)).map(PyTensor)
}

#[pyfunction]
fn orthogonality(py: Python<'_>, embeddings: &Bound<'_, PyAny>, reduction: Text) -> PyResult<PyTensor> {
    let (embeddings, reduction) = (tensor_of("embeddings", embeddings, true)?, reduction_of(reduction)?);
    interruptible(py, || losses::orthogonality(&embeddings, reduction)).map(PyTensor)
}

#[pyfunction]
fn geometry_preservation(
    py: Python<'_>,
    kind: &str,
    embeddings: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    edges: &Bound<'_, PyAny>,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (embeddings, x) = (tensor_of("embeddings", embeddings, true)?, tensor_of("x", x, true)?);
    let (edges, reduction) = (ends("pairs", edges)?, reduction_of(reduction)?);
    let loss = match kind {
        "distance" => losses::distance_preservation,
        _ => losses::angle_preservation,
    };
    interruptible(py, || loss(&embeddings, &x, pairs(&edges), reduction)).map(PyTensor)
}

/// `walks (W, L)` of node numbers; -1 ends a walk.
#[pyfunction]
fn curvature(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    walks: &Bound<'_, PyAny>,
    reduction: Text,
) -> PyResult<PyTensor> {
    let (embeddings, array) = (tensor_of("embeddings", embeddings, true)?, array::int64("walks", walks)?);
    if array.shape().len() != 2 {
        let message = format!("walks must have shape (W, L), got {:?}", array.shape());
        return Err(Raise(Error::Shape(message)).into());
    }
    let (columns, reduction) = (array.shape()[1], reduction_of(reduction)?);
    let mut steps = Vec::new();
    for walk in array.as_slice()?.chunks_exact(columns.max(1)) {
        let length = walk.iter().position(|&node| node == -1).unwrap_or(columns);
        for step in walk[..length].windows(3) {
            let mut nodes = [0; 3];
            for (node, &given) in nodes.iter_mut().zip(step) {
                let wrong = || Raise(Error::Row(format!("walks: {given} is not a valid number of a node")));
                *node = u32::try_from(given).map_err(|_| wrong())?;
            }
            guarded(|| {
                memory::push(&mut steps, nodes);
                Ok(())
            })?;
        }
    }
    interruptible(py, || losses::curvature(&embeddings, &steps, reduction)).map(PyTensor)
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(contrastive, module)?)?;
    module.add_function(wrap_pyfunction!(triplet, module)?)?;
    module.add_function(wrap_pyfunction!(local_contrastive, module)?)?;
    module.add_function(wrap_pyfunction!(multi_hop_contrastive, module)?)?;
    module.add_function(wrap_pyfunction!(laplacian, module)?)?;
    module.add_function(wrap_pyfunction!(sparsity, module)?)?;
    module.add_function(wrap_pyfunction!(embedding_norm, module)?)?;
    module.add_function(wrap_pyfunction!(project_to_sphere, module)?)?;
    module.add_function(wrap_pyfunction!(orthogonality, module)?)?;
    module.add_function(wrap_pyfunction!(geometry_preservation, module)?)?;
    module.add_function(wrap_pyfunction!(curvature, module)?)
}
