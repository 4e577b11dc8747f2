//! `Tensor`: arrays with gradients.

use crate::autograd::{Tensor, is_recording};
use crate::buffer::{Buffer, all_finite};
use crate::error::{Error, Result, require_finite};
use crate::number;
use crate::python::argument::Number;
use crate::python::array::{self, Int};
use crate::python::call::{detached, guarded, interruptible};
use crate::python::error::Raise;
use crate::python::subscript;
use numpy::{PyArrayDyn, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// An array of float32 with 0 to 3 dimensions that remembers how it was made.
#[pyclass(name = "Tensor", module = "ruvector_gnn", subclass, frozen)]
pub struct PyTensor(pub Tensor<f32>);

/// A tensor as it is, or an array-like as a constant. `name` is the argument's name.
pub fn tensor_of(name: &str, value: &Bound<'_, PyAny>, finite: bool) -> PyResult<Tensor<f32>> {
    if let Ok(tensor) = value.cast::<PyTensor>() {
        return Ok(tensor.get().0.clone());
    }
    let array = checked(name, value, finite)?;
    let values = array.as_slice()?;
    guarded(|| Ok(Tensor::new(Buffer::copy_of(values), array.shape()).map_err(Raise)?))
}

fn checked<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
    finite: bool,
) -> PyResult<PyReadonlyArrayDyn<'py, f32>> {
    let array = array::float32(name, value)?;
    let values = array.as_slice()?;
    if finite && !guarded(|| Ok(all_finite(values)))? {
        require_finite(name, values).map_err(Raise)?;
    }
    Ok(array)
}

/// The input of a layer: as [`tensor_of`], but an array is read where it lies unless the tape will need it later, when
/// its owner may have changed it.
pub fn input_of(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Tensor<f32>> {
    if value.is_instance_of::<PyTensor>() || is_recording() {
        return tensor_of(name, value, true);
    }
    let array = checked(name, value, true)?;
    let shape = array.shape().to_vec();
    Ok(Tensor::new(Buffer::shared(array::held(array)?), &shape).map_err(Raise)?)
}

/// A number that `f32` holds; `name` is the argument's name.
fn finite(name: &str, value: Number) -> PyResult<f32> {
    Ok(number::finite(name, value.named(name)?).map_err(Raise)? as f32)
}

/// A NumPy copy of `values` in `shape`.
pub fn to_numpy<'py>(
    py: Python<'py>,
    values: &[f32],
    shape: &[usize],
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    array::shaped(py, values, shape)
}

impl PyTensor {
    fn map(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&Tensor<f32>) -> Result<Tensor<f32>> + Send,
    ) -> PyResult<Self> {
        interruptible(py, || f(&self.0)).map(PyTensor)
    }

    /// An operator on two operands; `NotImplemented` for what is no array, so that the other side may try.
    fn pair<'py>(
        &self,
        other: &Bound<'py, PyAny>,
        f: impl FnOnce(&Tensor<f32>, &Tensor<f32>) -> Result<Tensor<f32>> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = other.py();
        if other.is_none() || other.is_instance_of::<pyo3::types::PyString>() {
            return Ok(py.NotImplemented().into_bound(py));
        }
        let other = tensor_of("operand", other, false)?;
        let result = interruptible(py, || f(&self.0, &other))?;
        Ok(Bound::new(py, PyTensor(result))?.into_any())
    }
}

#[pymethods]
impl PyTensor {
    /// `ndarray * Tensor` asks this class, not each element of the array.
    #[classattr]
    fn __array_ufunc__(py: Python<'_>) -> Py<PyAny> {
        py.None()
    }

    #[new]
    #[pyo3(signature = (data, requires_grad = false))]
    fn new(data: &Bound<'_, PyAny>, requires_grad: bool) -> PyResult<Self> {
        let tensor = tensor_of("data", data, true)?;
        if requires_grad != tensor.requires_grad() {
            tensor.set_requires_grad(requires_grad).map_err(Raise)?;
        }
        Ok(Self(tensor))
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.dims())
    }

    #[getter]
    fn ndim(&self) -> usize {
        self.0.dims().len()
    }

    #[getter]
    fn size(&self) -> usize {
        self.0.count()
    }

    #[getter]
    fn requires_grad(&self) -> bool {
        self.0.requires_grad()
    }

    #[setter]
    fn set_requires_grad(&self, on: bool) -> PyResult<()> {
        Ok(self.0.set_requires_grad(on).map_err(Raise)?)
    }

    #[getter]
    fn is_leaf(&self) -> bool {
        self.0.is_leaf()
    }

    #[getter]
    fn grad(&self) -> PyResult<Option<Self>> {
        let Some(grad) = self.0.grad() else { return Ok(None) };
        guarded(|| Ok(Some(Self(Tensor::new(Buffer::copy_of(&grad), self.0.dims()).map_err(Raise)?))))
    }

    #[setter]
    fn set_grad(&self, grad: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let Some(grad) = grad else {
            self.0.zero_grad();
            return Ok(());
        };
        let grad = tensor_of("grad", grad, false)?;
        if grad.shape() != self.0.shape() {
            let shapes = format!("grad of shape {} for a tensor of shape {}", grad.shape(), self.0.shape());
            return Err(Raise(Error::Shape(shapes)).into());
        }
        guarded(|| Ok(self.0.set_grad(Some(Buffer::copy_of(&grad.values()))).map_err(Raise)?))
    }

    fn zero_grad(&self) {
        self.0.zero_grad();
    }

    fn numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let values = guarded(|| Ok(self.0.values()))?;
        to_numpy(py, &values, self.0.dims())
    }

    #[pyo3(signature = (dtype = None, copy = None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _always_copied = copy;
        let array = self.numpy(py)?.into_any();
        dtype.map_or(Ok(array.clone()), |dtype| array.call_method1("astype", (dtype,)))
    }

    fn item(&self) -> PyResult<f32> {
        guarded(|| Ok(self.0.item().map_err(Raise)?))
    }

    fn __float__(&self) -> PyResult<f32> {
        self.item()
    }

    fn __len__(&self) -> PyResult<usize> {
        let message = || Raise(Error::Shape("a tensor of 0 dimensions has no length".into()));
        Ok(self.0.dims().first().copied().ok_or_else(message)?)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let array = self.numpy(py)?.into_any();
        let options = PyDict::new(py);
        options.set_item("separator", ", ")?;
        options.set_item("prefix", "Tensor(")?;
        options.set_item("threshold", 100)?;
        let text = py.import("numpy")?.call_method("array2string", (array,), Some(&options))?;
        let mark = if self.0.requires_grad() { ", requires_grad=True" } else { "" };
        Ok(format!("Tensor({text}{mark})"))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let py = slf.py();
        let tensor = &slf.get().0;
        let state = (slf.get().numpy(py)?, tensor.requires_grad() && tensor.is_leaf());
        (slf.get_type(), state).into_pyobject(py)
    }

    #[pyo3(signature = (gradient = None, retain_graph = false))]
    fn backward(
        &self,
        py: Python<'_>,
        gradient: Option<&Bound<'_, PyAny>>,
        retain_graph: bool,
    ) -> PyResult<()> {
        let seed = gradient.map(|gradient| tensor_of("gradient", gradient, false)).transpose()?;
        interruptible(py, || {
            self.0.backward_from(seed.map(|seed| Buffer::copy_of(&seed.values())), retain_graph)
        })
    }

    fn detach(&self) -> PyResult<Self> {
        guarded(|| Ok(Self(self.0.detach())))
    }

    /// Overwrites the values of a tensor made from data.
    fn copy_(&self, py: Python<'_>, source: &Bound<'_, PyAny>) -> PyResult<()> {
        let source = tensor_of("source", source, true)?;
        if source.shape() != self.0.shape() {
            let shapes = format!("source has shape {}, expected {}", source.shape(), self.0.shape());
            return Err(Raise(Error::Shape(shapes)).into());
        }
        detached(py, || {
            let source = source.values();
            self.0.update(|values| values.copy_from_slice(&source))
        })
    }

    /// Whether no value is NaN or infinite.
    fn _is_finite(&self, py: Python<'_>) -> PyResult<bool> {
        detached(py, || Ok(all_finite(&self.0.values())))
    }

    /// Holds the values of `source`, whose number must fit; whichever is written first gets a copy.
    fn _share(&self, source: &Self) -> PyResult<()> {
        guarded(|| Ok(self.0.share(source.0.values()).map_err(Raise)?))
    }

    /// The part that NumPy's `array[key]` gives: integers, slices, `...`, `None`, and one array of integers or
    /// booleans at the first axis.
    ///
    /// >>> rg.tensor([[1.0, 2.0], [3.0, 4.0]])[-1, ::-1].numpy()
    /// array([4., 3.], dtype=float32)
    fn __getitem__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Self> {
        let parts = subscript::parts(key)?;
        self.map(py, |x| x.index(&parts))
    }

    fn __add__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.pair(other, |x, y| x.add(y))
    }
    fn __radd__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.pair(other, |x, y| y.add(x))
    }
    fn __sub__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.pair(other, |x, y| x.sub(y))
    }
    fn __rsub__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.pair(other, |x, y| y.sub(x))
    }
    fn __mul__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.pair(other, |x, y| x.mul(y))
    }
    fn __rmul__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.pair(other, |x, y| y.mul(x))
    }
    fn __truediv__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.pair(other, |x, y| x.div(y))
    }
    fn __rtruediv__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.pair(other, |x, y| y.div(x))
    }
    fn __matmul__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.pair(other, |x, y| x.matmul(y))
    }
    fn __rmatmul__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.pair(other, |x, y| y.matmul(x))
    }
    fn __pow__(&self, py: Python<'_>, exponent: f32, modulo: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let _never_given = modulo;
        self.map(py, |x| x.pow(exponent))
    }
    /// `base ** self`, as `e^(self ln base)`.
    fn __rpow__(&self, py: Python<'_>, base: f32, modulo: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let _never_given = modulo;
        self.map(py, |x| x.affine(base.ln(), 0.0)?.exp())
    }
    fn __neg__(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::neg)
    }

    fn exp(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::exp)
    }
    fn log(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::log)
    }
    fn sqrt(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::sqrt)
    }
    fn abs(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::abs)
    }
    fn __abs__(&self, py: Python<'_>) -> PyResult<Self> {
        self.abs(py)
    }
    fn relu(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::relu)
    }
    #[pyo3(signature = (slope = Number::from(0.01)), text_signature = "($self, slope=0.01)")]
    fn leaky_relu(&self, py: Python<'_>, slope: Number) -> PyResult<Self> {
        let slope = finite("slope", slope)?;
        self.map(py, |x| x.leaky_relu(slope))
    }
    #[pyo3(signature = (alpha = Number::from(1.0)), text_signature = "($self, alpha=1.0)")]
    fn elu(&self, py: Python<'_>, alpha: Number) -> PyResult<Self> {
        let alpha = finite("alpha", alpha)?;
        self.map(py, |x| x.elu(alpha))
    }
    fn gelu(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::gelu)
    }
    fn sigmoid(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::sigmoid)
    }
    fn tanh(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::tanh)
    }
    fn softplus(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::softplus)
    }
    #[pyo3(signature = (low = None, high = None))]
    fn clip(&self, py: Python<'_>, low: Option<Number>, high: Option<Number>) -> PyResult<Self> {
        let low = low.map_or(Ok(f64::NEG_INFINITY), |low| low.named("low"))? as f32;
        let high = high.map_or(Ok(f64::INFINITY), |high| high.named("high"))? as f32;
        self.map(py, |x| x.clip(low, high))
    }
    #[pyo3(signature = (axis = Int::new(-1)), text_signature = "($self, axis=-1)")]
    fn softmax(&self, py: Python<'_>, axis: Int) -> PyResult<Self> {
        self.map(py, |x| x.softmax(axis.place()))
    }
    #[pyo3(signature = (axis = Int::new(-1)), text_signature = "($self, axis=-1)")]
    fn log_softmax(&self, py: Python<'_>, axis: Int) -> PyResult<Self> {
        self.map(py, |x| x.log_softmax(axis.place()))
    }
    #[pyo3(signature = (axis = Int::new(-1), keepdims = false), text_signature = "($self, axis=-1, keepdims=False)")]
    fn logsumexp(&self, py: Python<'_>, axis: Int, keepdims: bool) -> PyResult<Self> {
        self.map(py, |x| x.logsumexp(axis.place(), keepdims))
    }
    #[pyo3(signature = (axis = None, keepdims = false))]
    fn sum(&self, py: Python<'_>, axis: Option<Int>, keepdims: bool) -> PyResult<Self> {
        self.map(py, |x| axis.map_or_else(|| x.sum(), |axis| x.sum_axis(axis.place(), keepdims)))
    }
    #[pyo3(signature = (axis = None, keepdims = false))]
    fn mean(&self, py: Python<'_>, axis: Option<Int>, keepdims: bool) -> PyResult<Self> {
        self.map(py, |x| axis.map_or_else(|| x.mean(), |axis| x.mean_axis(axis.place(), keepdims)))
    }
    #[pyo3(signature = (axis = None, keepdims = false))]
    fn max(&self, py: Python<'_>, axis: Option<Int>, keepdims: bool) -> PyResult<Self> {
        self.map(py, |x| axis.map_or_else(|| x.max(), |axis| x.max_axis(axis.place(), keepdims)))
    }
    #[pyo3(signature = (axis = None, keepdims = false))]
    fn min(&self, py: Python<'_>, axis: Option<Int>, keepdims: bool) -> PyResult<Self> {
        self.map(py, |x| axis.map_or_else(|| x.min(), |axis| x.min_axis(axis.place(), keepdims)))
    }
    #[pyo3(signature = (keepdims = false))]
    fn norm(&self, py: Python<'_>, keepdims: bool) -> PyResult<Self> {
        self.map(py, |x| x.norm(keepdims))
    }
    fn normalize(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::normalize)
    }
    fn cosine_similarity(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Self> {
        let other = tensor_of("other", other, false)?;
        self.map(py, |x| x.cosine_similarity(&other))
    }
    #[pyo3(signature = (weight, bias, eps = Number::from(1e-5)), text_signature = "($self, weight, bias, eps=1e-05)")]
    fn layer_norm(
        &self,
        py: Python<'_>,
        weight: &Bound<'_, PyAny>,
        bias: &Bound<'_, PyAny>,
        eps: Number,
    ) -> PyResult<Self> {
        let (weight, bias) = (tensor_of("weight", weight, false)?, tensor_of("bias", bias, false)?);
        let eps = eps.named("eps")?;
        self.map(py, |x| x.layer_norm(&weight, &bias, eps))
    }
    #[pyo3(signature = (*shape))]
    fn reshape(&self, py: Python<'_>, shape: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let dims: Vec<Int> = match shape.len() {
            1 => shape.get_item(0)?.extract().or_else(|_| shape.extract())?,
            _ => shape.extract()?,
        };
        let dims: Vec<isize> = dims.into_iter().map(Int::place).collect();
        self.map(py, |x| x.reshape_to(&dims))
    }
    #[getter]
    #[pyo3(name = "T")]
    fn transposed(&self, py: Python<'_>) -> PyResult<Self> {
        self.map(py, Tensor::transpose)
    }
    #[pyo3(signature = (axis1 = Int::new(-2), axis2 = Int::new(-1)), text_signature = "($self, axis1=-2, axis2=-1)")]
    fn transpose(&self, py: Python<'_>, axis1: Int, axis2: Int) -> PyResult<Self> {
        self.map(py, |x| x.swap_axes(axis1.place(), axis2.place()))
    }
    fn index_select(&self, py: Python<'_>, rows: &Bound<'_, PyAny>) -> PyResult<Self> {
        let rows = array::nodes("rows", rows)?;
        self.map(py, |x| x.index_select(&rows))
    }
    #[pyo3(signature = (start, stop, axis = Int::new(0)), text_signature = "($self, start, stop, axis=0)")]
    fn slice(&self, py: Python<'_>, start: Int, stop: Int, axis: Int) -> PyResult<Self> {
        let range = start.count("start")?..stop.count("stop")?;
        self.map(py, |x| x.slice(axis.place(), range))
    }
    fn masked_fill(&self, py: Python<'_>, mask: &Bound<'_, PyAny>, value: Number) -> PyResult<Self> {
        let value = value.named("value")? as f32;
        let mask = array::boolean("mask", mask)?;
        let (flags, dims) = (array::copy_of(&mask)?, mask.shape().to_vec());
        self.map(py, |x| x.masked_fill(&flags, &dims, value))
    }
    #[pyo3(signature = (rate, seed = None))]
    fn dropout(&self, py: Python<'_>, rate: Number, seed: Option<Int>) -> PyResult<Self> {
        let rate = rate.named("rate")?;
        let seed = seed.map_or_else(|| Ok(crate::nn::init::next_seed()), |seed| seed.seed("seed"))?;
        self.map(py, |x| x.dropout(rate, seed))
    }
}
