//! The extension module `ruvector_gnn._core`: extract, detach, call, convert. No logic lives here.

#![deny(unsafe_code)]

mod argument;
mod array;
mod attention;
mod block;
mod call;
mod embedding_losses;
mod error;
mod features;
mod fork;
mod graph;
mod index;
mod learn;
mod losses;
mod nn;
mod ops;
mod optim;
mod research;
mod schedules;
mod search;
mod subscript;
mod tensor;
mod training;

use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: crate::memory::Reserve = crate::memory::Reserve::new();

/// The bound on threads: `set_num_threads`, else `RUVECTOR_NUM_THREADS`, else the machine's parallelism.
#[pyfunction]
fn num_threads() -> usize {
    crate::threads::num_threads()
}

/// Return `value` as a NumPy array of whatever type it has; `name` is the argument's name in errors.
///
/// Raises `ShapeError` for masked entries and for what is no array, `ConfigError` for a tensor that requires gradients.
#[pyfunction]
fn as_array<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let array = array::as_array(name, value)?;
    // Without a subclass of `ndarray`, whose operators may differ.
    value.py().import("numpy")?.call_method1("asarray", (array,))
}

/// Return `value` as an `int64` array; as `as_array`, and `RowError` for integers beyond `int64`.
#[pyfunction]
fn int64_array<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    Ok(array::int64(name, value)?.as_any().clone())
}

/// Bound the threads of all later work in this process.
///
/// Results do not depend on it. Raises `ConfigError` if `n` is not from 1 to 1024. Threads start with the first call
/// that uses them, which raises `OSError` where the system refuses them; `set_num_threads(1)` needs none.
#[pyfunction]
fn set_num_threads(n: array::Int) -> PyResult<()> {
    Ok(crate::threads::set_num_threads(usize::try_from(n.clamped()).unwrap_or(0)).map_err(error::Raise)?)
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    crate::simd::check_environment().map_err(error::Raise)?;
    crate::threads::check_environment().map_err(error::Raise)?;
    ALLOCATOR.fill();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(as_array, module)?)?;
    module.add_function(wrap_pyfunction!(int64_array, module)?)?;
    module.add_function(wrap_pyfunction!(set_num_threads, module)?)?;
    module.add_class::<index::PyIndex>()?;
    module.add_class::<learn::PyLearner>()?;
    module.add_function(wrap_pyfunction!(index::_index_from_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(index::_index_from_map, module)?)?;
    module.add_class::<graph::PyGraph>()?;
    module.add_class::<block::PyBlock>()?;
    module.add_function(wrap_pyfunction!(graph::_graph_from_parts, module)?)?;
    module.add_function(wrap_pyfunction!(block::_block_from_parts, module)?)?;
    fork::register(module)?;
    ops::register(module)?;
    nn::register(module)?;
    losses::register(module)?;
    embedding_losses::register(module)?;
    optim::register(module)?;
    research::register(module)?;
    schedules::register(module)?;
    search::register(module)?;
    attention::register(module)?;
    training::register(module)?;
    // The stub is the list of names.
    module.delattr("__all__")?;
    Ok(())
}
