//! [`Error`] -> the exception classes of `ruvector_gnn.errors` and the `OSError` family.

use crate::error::Error;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Converts with `?`: `call().map_err(Raise)?`.
pub struct Raise(pub Error);

impl From<Raise> for PyErr {
    fn from(Raise(error): Raise) -> Self {
        Python::attach(|py| raise(py, error))
    }
}

fn raise(py: Python<'_>, error: Error) -> PyErr {
    let name = match &error {
        Error::Shape(_) => "ShapeError",
        Error::Config(_) => "ConfigError",
        Error::NotFound(_) => "NotFoundError",
        Error::Row(_) => "RowError",
        Error::Format(_) => "FormatError",
        Error::Interrupted(_) => return pyo3::exceptions::PyKeyboardInterrupt::new_err(error.to_string()),
        Error::Io { context, source } => return os_error(context, source),
    };
    let class = py.import("ruvector_gnn.errors").and_then(|module| module.getattr(name));
    match class.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
        Ok(class) => PyErr::from_type(class, error.to_string()),
        Err(import_failed) => import_failed,
    }
}

/// `OSError(errno, text)` picks its own subclass (`FileNotFoundError`, ...) from the number.
fn os_error(context: &str, source: &std::io::Error) -> PyErr {
    let text = format!("{context}: {source}");
    match source.raw_os_error() {
        Some(number) => pyo3::exceptions::PyOSError::new_err((number, text)),
        None => pyo3::exceptions::PyOSError::new_err(text),
    }
}
