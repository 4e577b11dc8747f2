//! Array-likes -> contiguous NumPy arrays of the type that the core wants, copied only when they must be.

use crate::buffer::Shared;
use crate::error::Error;
use crate::memory;
use crate::python::call::guarded;
use crate::python::error::Raise;
use crate::python::tensor::PyTensor;
use numpy::{
    Element, PyArray1, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use std::sync::Arc;

/// `value` as a C-contiguous `float32` array of any dimension; `name` is the argument's name in errors.
///
/// Takes lists, NumPy arrays of any real type, layout and byte order, `np.memmap`, and what has `__array__` or
/// `__dlpack__`. Complex numbers, strings and objects raise `ShapeError`. Values beyond the range of `float32`
/// become infinite, which the core refuses as such.
pub fn float32<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArrayDyn<'py, f32>> {
    converted(name, value, "float32", "biuf", "real numbers")
}

/// `value` as a C-contiguous `int64` array of any dimension; floats, booleans and values beyond `int64` are refused.
pub fn int64<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArrayDyn<'py, i64>> {
    let array = as_array(name, value)?;
    let dtype = array.dtype();
    if dtype.kind() == b'u' && dtype.itemsize() == size_of::<u64>() && array.len() > 0 {
        let largest: u64 = array.call_method0("max")?.extract()?;
        if i64::try_from(largest).is_err() {
            let message = format!("{name} must be at most {}, got {largest}", i64::MAX);
            return Err(Raise(Error::Row(message)).into());
        }
    }
    converted(name, &array, "int64", "iu", "integers")
}

/// Whether `value` is, or converts to, a boolean array.
pub fn is_boolean(name: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(as_array(name, value)?.dtype().kind() == b'b')
}

/// `value` as a C-contiguous `bool` array.
pub fn boolean<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArrayDyn<'py, bool>> {
    converted(name, value, "bool", "b", "booleans")
}

fn converted<'py, T: Element>(
    name: &str,
    value: &Bound<'py, PyAny>,
    dtype: &str,
    kinds: &str,
    expected: &str,
) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    let array = as_array(name, value)?;
    let kind = array.dtype().kind();
    // An empty list has no type of its own: NumPy calls it float64.
    if array.len() > 0 && !kinds.as_bytes().contains(&kind) {
        let given = array.dtype().str()?.to_string();
        return Err(
            Raise(Error::Shape(format!("{name} must be an array of {expected}, got dtype {given}"))).into()
        );
    }
    let numpy = value.py().import("numpy")?;
    let options = PyDict::new(value.py());
    options.set_item("dtype", dtype)?;
    // Overflow to infinity is the core's to refuse, as a ShapeError, not NumPy's to warn of.
    let over = PyDict::new(value.py());
    over.set_item("over", "ignore")?;
    let quiet = numpy.call_method("errstate", (), Some(&over))?;
    quiet.call_method0("__enter__")?;
    let contiguous = numpy.call_method("ascontiguousarray", (&array,), Some(&options));
    quiet.call_method1("__exit__", (value.py().None(), value.py().None(), value.py().None()))?;
    let contiguous = contiguous?.call_method1("reshape", (array.getattr("shape")?,))?;
    contiguous.extract()
}

/// An array whose values are read where they lie; it is kept alive meanwhile.
struct Held {
    _array: Py<PyAny>,
    start: *const f32,
    len: usize,
}

// SAFETY: the values are only read, and the array object is dropped under the GIL wherever this is dropped.
#[allow(unsafe_code)]
unsafe impl Send for Held {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Held {}

impl AsRef<[f32]> for Held {
    #[allow(unsafe_code)]
    fn as_ref(&self) -> &[f32] {
        // SAFETY: the array owns `len` contiguous values from `start` on and lives as long as this; NumPy does not move
        // or resize the data of an array that is referred to. A caller that writes them during the call reads torn
        // numbers, as with every function of NumPy's that releases the GIL.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

/// The values of a contiguous array, where they lie.
pub fn held(array: PyReadonlyArrayDyn<'_, f32>) -> PyResult<Shared<f32>> {
    let values = array.as_slice()?;
    let (start, len) = (values.as_ptr(), values.len());
    let owner = Py::clone_ref(array.as_any().as_unbound(), array.py());
    Ok(Arc::new(Held { _array: owner, start, len }))
}

/// `value` as an array of whatever type it has.
///
/// # Errors
/// `ShapeError` for masked entries and for what is no array, `ConfigError` for a tensor that requires gradients.
pub fn as_array<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    require_plain(name, value, masked_class(value.py())?.as_ref(), 0)?;
    if let Ok(array) = value.cast::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    let numpy = value.py().import("numpy")?;
    let bridge =
        if value.hasattr("__array__")? || !value.hasattr("__dlpack__")? { "asarray" } else { "from_dlpack" };
    match numpy.call_method1(bridge, (value,)) {
        Ok(array) => Ok(array.cast_into::<PyUntypedArray>()?),
        Err(refusal) => {
            let text = format!("{name} does not convert to an array: {}", refusal.value(value.py()));
            Err(Raise(Error::Shape(text)).into())
        }
    }
}

/// NumPy's class of masked arrays; `None` where nobody can have made one, since its module was not imported.
fn masked_class(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let modules = py.import("sys")?.getattr("modules")?;
    let module = modules.call_method1("get", ("numpy.ma",))?;
    module.getattr_opt("MaskedArray")
}

/// NumPy takes lists to this depth.
const MAX_DEPTH: usize = 64;

/// Refuses what NumPy would strip from `value`, or from the items of a list, without a word: masks and gradients.
fn require_plain(
    name: &str,
    value: &Bound<'_, PyAny>,
    masked: Option<&Bound<'_, PyAny>>,
    depth: usize,
) -> PyResult<()> {
    if let Ok(tensor) = value.cast::<PyTensor>() {
        if tensor.get().0.requires_grad() {
            let message =
                format!("{name} takes constants, got a tensor that requires gradients; pass tensor.detach()");
            return Err(Raise(Error::Config(message)).into());
        }
    } else if let Some(class) = masked
        && value.is_instance(class)?
    {
        let mask = value.getattr("mask")?;
        if mask.call_method0("any")?.is_truthy()? {
            let message =
                format!("{name} must have no masked entries; pass array.filled(value), or leave them out");
            return Err(Raise(Error::Shape(message)).into());
        }
    } else if depth < MAX_DEPTH {
        let inside = |item: Bound<'_, PyAny>| require_plain(name, &item, masked, depth + 1);
        if let Ok(list) = value.cast::<PyList>() {
            return list.iter().try_for_each(inside);
        }
        if let Ok(tuple) = value.cast::<PyTuple>() {
            return tuple.iter().try_for_each(inside);
        }
    }
    Ok(())
}

/// `value` as node, row or class numbers: integers from 0 up that fit 32 bits.
pub fn nodes(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let array = int64(name, value)?;
    let number = |&value: &i64| {
        let out_of_range =
            || Raise(Error::Row(format!("{name}: {value} is not a valid number of a node or row")));
        u32::try_from(value).map_err(|_| out_of_range().into())
    };
    collected(array.as_slice()?.iter().map(number))
}

/// The items of an iterator, or its first error.
pub fn collected<T>(items: impl Iterator<Item = PyResult<T>>) -> PyResult<Vec<T>> {
    guarded(|| {
        let mut values = memory::with_capacity(items.size_hint().0);
        for item in items {
            memory::push(&mut values, item?);
        }
        Ok(values)
    })
}

/// A copy of an array's values.
pub fn copy_of<T: Element + Clone>(array: &PyReadonlyArrayDyn<'_, T>) -> PyResult<Vec<T>> {
    let values = array.as_slice()?;
    guarded(|| Ok(memory::copy_of(values)))
}

/// A copy of the numbers of what NumPy takes as an array, for an argument without gradients.
pub fn values(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    let array = as_array(name, value)?;
    copy_of(&float32(name, &array)?)
}

/// Values as a NumPy array of one dimension.
pub fn array<'py, T: Element>(
    py: Python<'py>,
    values: impl IntoIterator<Item = T>,
) -> PyResult<Bound<'py, PyArray1<T>>> {
    guarded(|| Ok(PyArray1::from_vec(py, memory::collect(values))))
}

/// Integers as an array of `int64`.
pub fn int64_array<'py, I: Into<i64>>(
    py: Python<'py>,
    values: impl IntoIterator<Item = I>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    array(py, values.into_iter().map(Into::into))
}

/// A NumPy copy of `values` in `shape`.
pub fn shaped<'py, T: Element + Copy>(
    py: Python<'py>,
    values: &[T],
    shape: &[usize],
) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    array(py, values.iter().copied())?.reshape(shape)
}

/// A Python integer of any size: what is negative or too large is refused by name, not by PyO3's `OverflowError`.
#[derive(Clone, Copy, Debug)]
pub struct Int(i128);

impl FromPyObject<'_, '_> for Int {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let beyond = match value.extract::<i64>() {
            Ok(number) => return Ok(Self::new(number)),
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
                if value.lt(0)? {
                    i128::MIN
                } else {
                    i128::MAX
                }
            }
            Err(error) => return Err(error),
        };
        Ok(Self(value.extract::<u64>().map_or(beyond, i128::from)))
    }
}

impl Int {
    /// A number of 64 bits.
    pub const fn new(number: i64) -> Self {
        Self(number as i128)
    }

    /// The nearest number of 64 bits.
    pub fn clamped(self) -> i64 {
        self.0.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// A number from 0 up; `name` is the argument's name. What no memory holds becomes `usize::MAX`.
    pub fn count(self, name: &str) -> PyResult<usize> {
        if self.0 < 0 {
            let message = format!("{name} must not be negative, got {}", self.clamped());
            return Err(Raise(Error::Config(message)).into());
        }
        Ok(usize::try_from(self.0).unwrap_or(usize::MAX))
    }

    /// The number of a random stream.
    pub fn seed(self, name: &str) -> PyResult<u64> {
        let message = || Raise(Error::Config(format!("{name} must be from 0 to {}", u64::MAX)));
        u64::try_from(self.0).map_err(|_| message().into())
    }

    /// An axis or a place, negative from the end.
    pub fn place(self) -> isize {
        self.clamped() as isize
    }
}
