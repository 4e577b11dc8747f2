//! Forks: the locks of the process are held over one, so that the child does not inherit a lock of a thread that it does
//! not have. None of them is ever held by a thread that waits for the GIL.

use crate::nn::init;
use crate::real::Real;
use crate::threads;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::any::Any;
use std::cell::RefCell;

thread_local! {
    /// The locks, on the thread that forks.
    static HELD: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// Takes the locks.
#[pyfunction]
fn before_fork() {
    HELD.set(Some(Box::new((threads::hold(), init::hold(), f32::pool().hold(), f64::pool().hold()))));
}

/// Releases the locks, in the parent and in the child.
#[pyfunction]
fn after_fork() {
    HELD.set(None);
}

/// Has `os.fork` call the functions. What the package's Python modules register comes later, so it runs outside of the
/// time that the locks are held.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let after = wrap_pyfunction!(after_fork, module)?;
    let hooks = PyDict::new(module.py());
    hooks.set_item("before", wrap_pyfunction!(before_fork, module)?)?;
    hooks.set_item("after_in_parent", &after)?;
    hooks.set_item("after_in_child", &after)?;
    module.py().import("os")?.call_method("register_at_fork", (), Some(&hooks))?;
    Ok(())
}
