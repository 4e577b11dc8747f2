//! [`Error`] -> the exception classes of `ruvector_gnn.errors` and the `OSError` family.

use crate::error::Error;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::any::Any;

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
        Error::Memory(_) => return pyo3::exceptions::PyMemoryError::new_err(error.to_string()),
        Error::Interrupted(_) => return pyo3::exceptions::PyKeyboardInterrupt::new_err(error.to_string()),
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory => {
            return pyo3::exceptions::PyMemoryError::new_err(error.to_string());
        }
        Error::Io { context, source } => return os_error(context, source),
    };
    of_class(py, name, error.to_string())
}

fn of_class(py: Python<'_>, name: &str, text: String) -> PyErr {
    let class = py.import("ruvector_gnn.errors").and_then(|module| module.getattr(name));
    match class.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
        Ok(class) => PyErr::from_type(class, text),
        Err(import_failed) => import_failed,
    }
}

/// A panic as `RuvectorError`: it comes from a fault of this package, not from its caller.
pub fn internal(panic: &(dyn Any + Send)) -> PyErr {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    let text = format!("a fault of ruvector_gnn, please report it: {text}");
    Python::attach(|py| of_class(py, "RuvectorError", text))
}

/// `OSError(errno, text)` picks its own subclass (`FileNotFoundError`, ...) from the number.
fn os_error(context: &str, source: &std::io::Error) -> PyErr {
    let text = format!("{context}: {source}");
    match source.raw_os_error() {
        Some(number) => pyo3::exceptions::PyOSError::new_err((number, text)),
        None => pyo3::exceptions::PyOSError::new_err(text),
    }
}
