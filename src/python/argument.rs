//! Arguments whose type is checked late, where their name is known: a wrong one raises `ConfigError` that names it.

use crate::error::Error;
use crate::graph::Graph;
use crate::python::error::Raise;
use crate::python::graph::PyGraph;
use crate::python::tensor::PyTensor;
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

/// How much of an argument an error shows.
const SHOWN: usize = 60;

/// A Python number.
pub struct Number(Result<f64, String>);

impl FromPyObject<'_, '_> for Number {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if value.cast::<PyTensor>().is_ok_and(|tensor| tensor.get().0.requires_grad()) {
            return Ok(Self(Err("a Tensor that collects a gradient, which would be lost".into())));
        }
        Ok(Self(match value.extract::<f64>() {
            Ok(number) => Ok(number),
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => Ok(f64::INFINITY),
            Err(_) => Err(shown(&value)),
        }))
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self(Ok(value))
    }
}

impl Number {
    /// The number; `name` is the argument's name.
    pub fn named(self, name: &str) -> PyResult<f64> {
        self.0.map_err(|given| wrong(name, "a number", &given))
    }
}

/// A Python string.
pub struct Text(Result<String, String>);

impl FromPyObject<'_, '_> for Text {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        Ok(Self(value.extract::<String>().map_err(|_| shown(&value))))
    }
}

impl From<&str> for Text {
    fn from(value: &str) -> Self {
        Self(Ok(value.into()))
    }
}

impl Text {
    /// The string; `name` is the argument's name.
    pub fn named(self, name: &str) -> PyResult<String> {
        self.0.map_err(|given| wrong(name, "a string", &given))
    }
}

/// The argument `graph`.
pub struct GraphArgument(pub Graph);

impl FromPyObject<'_, '_> for GraphArgument {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match value.cast::<PyGraph>() {
            Ok(graph) => Ok(Self(graph.get().0.clone())),
            Err(_) => {
                let hint = "Graph.from_edge_index(edge_index, num_nodes) makes one";
                Err(wrong("graph", "a Graph", &format!("{}; {hint}", kind(&value))))
            }
        }
    }
}

fn wrong(name: &str, expected: &str, given: &str) -> PyErr {
    Raise(Error::Config(format!("{name} must be {expected}, got {given}"))).into()
}

fn kind(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "an object".into(), |name| name.to_string())
}

/// A short form of a value.
fn shown(value: &Bound<'_, PyAny>) -> String {
    match value.repr() {
        Ok(text) if text.to_string().chars().count() <= SHOWN => text.to_string(),
        _ => kind(value),
    }
}
