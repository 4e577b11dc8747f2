//! Losses, the optimizer, ranking metrics and weight files.

use crate::error::{Error, Result};
use crate::losses::{self, Reduction, Targets};
use crate::metrics::{self, Relevance};
use crate::optim::{self, AdamW, AdamWOptions, Group};
use crate::python::array;
use crate::python::call::detached;
use crate::python::error::Raise;
use crate::python::tensor::{PyTensor, tensor_of, to_numpy};
use crate::weights::{self, Named};
use numpy::{PyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

fn reduction_of(name: &str) -> PyResult<Reduction> {
    match name {
        "mean" => Ok(Reduction::Mean),
        "sum" => Ok(Reduction::Sum),
        "none" => Ok(Reduction::None),
        _ => {
            let message = format!("reduction must be \"mean\", \"sum\" or \"none\", got {name:?}");
            Err(Raise(Error::Config(message)).into())
        }
    }
}

/// Classes from a list of integers, sets from a list of lists, weights from a matrix of floats.
fn targets_of(targets: &Bound<'_, PyAny>) -> PyResult<Targets<f32>> {
    let first = targets.try_iter()?.next().transpose()?;
    let is_array = targets.hasattr("dtype")? || targets.is_instance_of::<PyTensor>();
    if !is_array && first.is_some_and(|first| first.try_iter().is_ok()) {
        let (mut indptr, mut classes) = (vec![0], Vec::new());
        for row in targets.try_iter()? {
            classes.extend(array::nodes("targets", &row?)?);
            indptr.push(classes.len());
        }
        return Ok(Targets::Sets { indptr, classes });
    }
    let array = targets.py().import("numpy")?.call_method1("asarray", (targets,))?;
    if array.getattr("ndim")?.extract::<usize>()? == 2 {
        return Ok(Targets::Soft(array::float32("targets", &array)?.as_slice()?.to_vec()));
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
    detached(py, || losses::cross_entropy(&scores, targets, reduction)).map(PyTensor)
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
    detached(py, || losses::info_nce(&anchors, &positives, negatives.as_ref(), temperature, reduction))
        .map(PyTensor)
}

/// AdamW over groups of parameters.
#[pyclass(name = "AdamW", module = "ruvector_gnn._core", frozen)]
struct PyAdamW(Mutex<AdamW<f32>>);

impl PyAdamW {
    fn lock(&self) -> MutexGuard<'_, AdamW<f32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyAdamW {
    /// `groups`: (parameters, lr, weight_decay) each.
    #[new]
    fn new(groups: Vec<(Vec<PyRef<'_, PyTensor>>, f64, f64)>, betas: (f64, f64), eps: f64) -> PyResult<Self> {
        let groups = groups.into_iter().map(|(parameters, lr, weight_decay)| Group {
            parameters: parameters.iter().map(|parameter| parameter.0.clone()).collect(),
            lr,
            weight_decay,
        });
        let options = AdamWOptions { betas, eps, ..Default::default() };
        Ok(Self(Mutex::new(AdamW::with_groups(groups.collect(), options).map_err(Raise)?)))
    }

    /// Updates with these (lr, weight_decay) per group.
    fn step(&self, py: Python<'_>, settings: Vec<(f64, f64)>) -> PyResult<()> {
        detached(py, || {
            let mut optimizer = self.lock();
            for (group, (lr, weight_decay)) in optimizer.groups_mut().iter_mut().zip(settings) {
                (group.lr, group.weight_decay) = (lr, weight_decay);
            }
            optimizer.step()
        })
    }
}

#[pyfunction]
fn clip_grad_norm(py: Python<'_>, parameters: Vec<PyRef<'_, PyTensor>>, max_norm: f64) -> PyResult<f64> {
    let parameters: Vec<_> = parameters.iter().map(|parameter| parameter.0.clone()).collect();
    detached(py, || optim::clip_grad_norm(&parameters, max_norm))
}

/// One value per query, `None` where nothing is relevant.
#[pyfunction]
fn ranking_metric(
    py: Python<'_>,
    name: &str,
    ranked: &Bound<'_, PyAny>,
    relevant: Vec<Vec<(i64, f64)>>,
    k: i64,
) -> PyResult<Vec<Option<f64>>> {
    let rows = array::int64("ranked", ranked)?;
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
    let (ranked, columns) = (rows.as_slice()?.to_vec(), shape[1]);
    detached(py, || {
        let queries = relevant.into_iter().enumerate().map(|(query, grades)| {
            metric(&ranked[query * columns..][..columns], &Relevance::new(grades), k as usize)
        });
        Ok(queries.collect())
    })
}

#[pyfunction]
fn save_tensors(py: Python<'_>, path: PathBuf, arrays: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<()> {
    let named = arrays.into_iter().map(|(name, value)| {
        let array = array::float32(&name, &value)?;
        Ok(Named { name, dims: array.shape().to_vec(), values: array.as_slice()?.to_vec() })
    });
    let named = named.collect::<PyResult<Vec<_>>>()?;
    detached(py, || weights::save(&path, &named))
}

#[pyfunction]
fn load_tensors<'py>(py: Python<'py>, path: PathBuf) -> PyResult<Vec<(String, Bound<'py, PyArrayDyn<f32>>)>> {
    let named: Vec<Named> = detached(py, || -> Result<_> { weights::load(&path) })?;
    named.into_iter().map(|array| Ok((array.name, to_numpy(py, &array.values, &array.dims)?))).collect()
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyAdamW>()?;
    module.add_function(wrap_pyfunction!(cross_entropy, module)?)?;
    module.add_function(wrap_pyfunction!(info_nce, module)?)?;
    module.add_function(wrap_pyfunction!(clip_grad_norm, module)?)?;
    module.add_function(wrap_pyfunction!(ranking_metric, module)?)?;
    module.add_function(wrap_pyfunction!(save_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(load_tensors, module)?)
}
