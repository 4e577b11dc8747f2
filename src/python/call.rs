//! Every call that computes goes through one of three functions. All release the GIL and turn errors, refused memory and
//! panics into Python's exceptions.
//!
//! - [`interruptible`], for what only reads and returns something new: Ctrl-C ends it within a moment;
//! - [`monitored`], for long work that changes something: it reports its steps, between which it may be stopped;
//! - [`detached`], for the rest, which runs to its end.
//!
//! Conversions between Python's objects and Rust's are [`guarded`].

use crate::error::{Error, Result, catch};
use crate::monitor::Monitor;
use crate::python::error::{Raise, internal};
use crate::threads;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work` with the GIL released.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    let result = py.detach(|| settled(work))?;
    Ok(result.map_err(Raise)?)
}

thread_local! {
    /// What a signal handler raised during the interruptible call of this thread.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Runs `work` with the GIL released; Ctrl-C, and whatever a signal handler raises, ends it early and is raised here.
///
/// `work` unwinds then, so it must not leave anything half changed.
pub fn interruptible<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    let result = py.detach(|| settled(|| threads::interruptible(poll_signals, work)))?;
    match RAISED.take() {
        Some(raised) => Err(raised),
        None => Ok(result.map_err(Raise)?),
    }
}

fn poll_signals() -> Result<()> {
    Python::attach(|py| py.check_signals()).map_err(|raised| {
        RAISED.set(Some(raised));
        Error::Interrupted("interrupted by a signal".into())
    })
}

/// Runs `work` with the GIL held: for conversions, whose memory may be refused too.
pub fn guarded<T>(work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    settled(|| Ok(work()))?.map_err(Raise)?
}

/// The result of `work`, with what it unwound with; another panic is a fault of this package, and becomes an exception.
fn settled<T>(work: impl FnOnce() -> Result<T>) -> PyResult<Result<T>> {
    if !super::ALLOCATOR.fill() {
        return Err(PyMemoryError::new_err("there is no memory left, not even for small objects"));
    }
    let result = catch_unwind(AssertUnwindSafe(|| catch(work))).map_err(|panic| internal(&*panic))?;
    super::ALLOCATOR.fill();
    Ok(result)
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
    let result = py.detach(|| settled(|| work(&mut watch)))?;
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
