//! What stands between the brackets of `tensor[...]`.

use crate::autograd::Index;
use crate::error::Error;
use crate::python::array::{self, Int};
use crate::python::error::Raise;
use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PySlice, PyTuple};

/// The parts of an index: integers, slices, `...`, `None`, and arrays of integers or booleans.
pub fn parts(key: &Bound<'_, PyAny>) -> PyResult<Vec<Index>> {
    match key.cast::<PyTuple>() {
        Ok(tuple) => tuple.iter().map(|part| part_of(&part)).collect(),
        Err(_) => Ok(vec![part_of(key)?]),
    }
}

fn part_of(part: &Bound<'_, PyAny>) -> PyResult<Index> {
    if part.is_none() {
        return Ok(Index::NewAxis);
    }
    if part.is(part.py().Ellipsis()) {
        return Ok(Index::Ellipsis);
    }
    if let Ok(slice) = part.cast::<PySlice>() {
        let bound =
            |name: &str| Ok::<_, PyErr>(slice.getattr(name)?.extract::<Option<Int>>()?.map(Int::place));
        return Ok(Index::Range {
            start: bound("start")?,
            stop: bound("stop")?,
            step: bound("step")?.unwrap_or(1),
        });
    }
    if part.is_instance_of::<PyBool>() {
        return Err(Raise(Error::Config(format!("index: a single boolean, {part}"))).into());
    }
    if let Ok(place) = part.extract::<Int>() {
        return Ok(Index::At(place.place()));
    }
    if array::is_boolean("index", part)? {
        let mask = array::boolean("index", part)?;
        return Ok(Index::Mask { mask: array::copy_of(&mask)?, dims: mask.shape().to_vec() });
    }
    let rows = array::int64("index", part)?;
    Ok(Index::Rows { rows: array::copy_of(&rows)?, dims: rows.shape().to_vec() })
}
