//! Ranking metrics and weight files.

use crate::autograd::Tensor;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::memory;
use crate::metrics::{self, Relevance};
use crate::python::array::{self, Int};
use crate::python::call::{detached, guarded};
use crate::python::error::Raise;
use crate::python::tensor::{PyTensor, to_numpy};
use crate::weights::{self, Named};
use numpy::{PyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::path::PathBuf;

/// One value per query, `None` where nothing is relevant.
#[pyfunction]
fn ranking_metric(
    py: Python<'_>,
    name: &str,
    ranked: &Bound<'_, PyAny>,
    relevant: &Bound<'_, PyAny>,
    k: Int,
) -> PyResult<Vec<Option<f64>>> {
    let rows = array::int64("ranked", ranked)?;
    let relevant = array::collected(relevant.try_iter()?.map(|grades| grades?.extract()))?;
    let (relevant, k): (Vec<Vec<(i64, f64)>>, i64) = (relevant, k.clamped());
    let shape = rows.shape().to_vec();
    if shape.len() != 2 || shape[0] != relevant.len() {
        let message = format!("ranked has shape {shape:?}, relevant has {} queries", relevant.len());
        return Err(Raise(Error::Shape(message)).into());
    }
    if k < 1 {
        return Err(Raise(Error::Config(format!("k must be at least 1, got {k}"))).into());
    }
    let metric = match name {
        "ndcg" => metrics::ndcg,
        "mrr" => metrics::mrr,
        _ => metrics::recall,
    };
    let (ranked, columns) = (array::copy_of(&rows)?, shape[1]);
    detached(py, || {
        let queries = relevant.into_iter().enumerate().map(|(query, grades)| {
            metric(&ranked[query * columns..][..columns], &Relevance::new(grades), k as usize)
        });
        Ok(memory::collect(queries))
    })
}

#[pyfunction]
fn save_tensors(py: Python<'_>, path: PathBuf, arrays: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<()> {
    let named = arrays.into_iter().map(|(name, value)| {
        let array = array::float32(&name, &value)?;
        let values = array.as_slice()?;
        let values = guarded(|| Ok(Buffer::copy_of(values)))?;
        Ok(Named { name, dims: array.shape().to_vec(), values })
    });
    let named = named.collect::<PyResult<Vec<_>>>()?;
    detached(py, || weights::save(&path, &named))
}

#[pyfunction]
fn load_tensors<'py>(py: Python<'py>, path: PathBuf) -> PyResult<Vec<(String, Bound<'py, PyArrayDyn<f32>>)>> {
    let named: Vec<Named> = detached(py, || -> Result<_> { weights::load(&path) })?;
    named.into_iter().map(|array| Ok((array.name, to_numpy(py, &array.values, &array.dims)?))).collect()
}

/// Name, shape and values, of one dimension and still in the mapped file, of every array.
#[pyfunction]
fn map_tensors(py: Python<'_>, path: PathBuf) -> PyResult<Vec<(String, Bound<'_, PyTuple>, PyTensor)>> {
    let named = detached(py, || weights::map(&path))?;
    let entries = named.into_iter().map(|Named { name, dims, values }| {
        let count = values.len();
        let values = Tensor::new(values, &[count]).map_err(Raise)?;
        Ok((name, PyTuple::new(py, dims)?, PyTensor(values)))
    });
    entries.collect()
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(ranking_metric, module)?)?;
    module.add_function(wrap_pyfunction!(save_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(load_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(map_tensors, module)?)
}
