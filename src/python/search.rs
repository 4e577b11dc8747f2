//! Differentiable search, and the part of a graph that a block of nodes depends on.

use crate::error::{Error, Result};
use crate::memory;
use crate::python::argument::{GraphArgument, Number};
use crate::python::array::{self, Int, int64_array};
use crate::python::call::interruptible;
use crate::python::graph::PyGraph;
use crate::python::index::positive;
use crate::python::tensor::{PyTensor, tensor_of};
use crate::rng;
use crate::search::{self, Choice};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;

/// The rows chosen for `queries (B, d)`, `(B, k)`, and their weights.
#[pyfunction]
fn differentiable_search<'py>(
    py: Python<'py>,
    queries: &Bound<'py, PyAny>,
    candidates: &Bound<'py, PyAny>,
    k: Int,
    temperature: Number,
) -> PyResult<(Bound<'py, PyArray2<i64>>, PyTensor)> {
    let (queries, candidates) =
        (tensor_of("query", queries, true)?, tensor_of("candidates", candidates, true)?);
    let temperature = temperature.named("temperature")?;
    let Choice { indices, weights } = interruptible(py, || {
        search::differentiable_search(&queries, &candidates, positive("k", k.clamped())?, temperature)
    })?;
    let shape = [weights.dims()[0], weights.dims()[1]];
    Ok((int64_array(py, indices)?.reshape(shape)?, PyTensor(weights)))
}

/// What the layer of one level is called with.
#[pyfunction]
fn gather_level(
    py: Python<'_>,
    states: &Bound<'_, PyAny>,
    candidates: &Bound<'_, PyAny>,
    k: Int,
    temperature: Number,
) -> PyResult<(PyTensor, PyGraph)> {
    let (states, candidates) =
        (tensor_of("query", states, true)?, tensor_of("level_embeddings", candidates, true)?);
    let temperature = temperature.named("temperature")?;
    let star = interruptible(py, || {
        search::gather_level(&states, &candidates, positive("k", k.clamped())?, temperature)
    })?;
    Ok((PyTensor(star.x), PyGraph(star.graph)))
}

type Field<'py> = (Bound<'py, PyArray1<i64>>, PyGraph, Bound<'py, PyArray1<i64>>);

/// The nodes, graph and places of a receptive field.
#[pyfunction]
fn receptive_field<'py>(
    py: Python<'py>,
    graph: GraphArgument,
    nodes: &Bound<'py, PyAny>,
    hops: Int,
) -> PyResult<Field<'py>> {
    let (nodes, hops) = (array::nodes("nodes", nodes)?, hops.count("hops")?);
    let field = interruptible(py, || graph.0.receptive_field(&nodes, hops))?;
    Ok((int64_array(py, field.nodes)?, PyGraph(field.graph), int64_array(py, field.places)?))
}

/// The numbers below `count` in an order drawn from `seed`.
#[pyfunction]
fn permutation(py: Python<'_>, count: Int, seed: Int) -> PyResult<Bound<'_, PyArray1<i64>>> {
    let (count, seed) = (count.count("count")?, seed.seed("seed")?);
    let order = interruptible(py, || -> Result<Vec<u32>> {
        let last = u32::try_from(count)
            .map_err(|_| Error::Config(format!("permutation: at most {} rows, got {count}", u32::MAX)))?;
        let mut order: Vec<u32> = memory::collect(0..last);
        rng::stream(seed, "permutation", 0).shuffle(&mut order);
        Ok(order)
    })?;
    int64_array(py, order)
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(differentiable_search, module)?)?;
    module.add_function(wrap_pyfunction!(gather_level, module)?)?;
    module.add_function(wrap_pyfunction!(receptive_field, module)?)?;
    module.add_function(wrap_pyfunction!(permutation, module)?)
}
