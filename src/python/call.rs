//! Every long call goes through [`detached`]: it releases the GIL, converts errors, and lets Ctrl-C and callbacks
//! stop the work.

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::python::error::Raise;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Runs `work` with the GIL released.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    Ok(py.detach(work).map_err(Raise)?)
}

/// Runs `work` with the GIL released; its monitor polls for signals and calls `callback(done, total, metrics)`.
///
/// What the callback or a signal handler raises stops the work and is raised here, after the work has left its
/// data consistent; a note on the exception says what the core reported.
pub fn monitored<T: Send>(
    py: Python<'_>,
    callback: Option<Py<PyAny>>,
    work: impl FnOnce(&mut dyn Monitor) -> Result<T> + Send,
) -> PyResult<T> {
    let mut watch = Watch { callback, raised: None };
    let result = py.detach(|| work(&mut watch));
    match (result, watch.raised) {
        (Ok(value), _) => Ok(value),
        (Err(Error::Interrupted(report)), Some(raised)) => {
            let note = raised.value(py).call_method1("add_note", (report,));
            // Python 3.10 has no notes; the exception itself still tells.
            drop(note);
            Err(raised)
        }
        (Err(error), _) => Err(Raise(error).into()),
    }
}

struct Watch {
    callback: Option<Py<PyAny>>,
    raised: Option<PyErr>,
}

impl Monitor for Watch {
    fn step(&mut self, done: usize, total: usize, metrics: &[(&str, f64)]) -> Result<()> {
        let outcome = Python::attach(|py| {
            py.check_signals()?;
            if let Some(callback) = &self.callback {
                let figures = PyDict::new(py);
                for (name, value) in metrics {
                    figures.set_item(name, value)?;
                }
                callback.call1(py, (done, total, figures))?;
            }
            Ok(())
        });
        outcome.map_err(|raised| {
            self.raised = Some(raised);
            Error::Interrupted(format!("stopped after {done} of {total}"))
        })
    }
}
