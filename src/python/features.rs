//! Features of all nodes, of which a mini-batch reads some rows.

use crate::autograd::{Tensor, is_recording};
use crate::error::Error;
use crate::nn::Table;
use crate::python::array;
use crate::python::call::interruptible;
use crate::python::error::Raise;
use crate::python::tensor::{PyTensor, tensor_of};
use numpy::{PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;

/// A row of features per node, as the caller has it.
pub enum Features<'py> {
    /// Contiguous float32, read in place: an array or a mapped file.
    Table(PyReadonlyArrayDyn<'py, f32>),
    /// Any other array; rows are converted as they are taken.
    Array(Bound<'py, PyUntypedArray>),
    /// On the tape, so that gradients flow to the rows taken.
    Tensor(Tensor<f32>),
}

/// The features `x (num_nodes, d)`.
pub fn features_of<'py>(x: &Bound<'py, PyAny>, num_nodes: usize) -> PyResult<Features<'py>> {
    let (features, shape) = if let Ok(tensor) = x.cast::<PyTensor>() {
        let tensor = tensor.get().0.clone();
        let shape = tensor.dims().to_vec();
        (Features::Tensor(tensor), shape)
    } else {
        let array = array::as_array("x", x)?;
        let shape = array.shape().to_vec();
        let aligned: bool = array.getattr("flags")?.getattr("aligned")?.extract()?;
        match array.extract::<PyReadonlyArrayDyn<'py, f32>>() {
            Ok(table) if aligned && table.is_c_contiguous() => (Features::Table(table), shape),
            _ => (Features::Array(array), shape),
        }
    };
    if shape.len() != 2 || shape[0] != num_nodes {
        let message =
            format!("x must have shape ({num_nodes}, d), a row per node of the graph, got {shape:?}");
        return Err(Raise(Error::Shape(message)).into());
    }
    Ok(features)
}

impl Features<'_> {
    /// The rows of `nodes`.
    pub fn gather(self, py: Python<'_>, nodes: &[u32]) -> PyResult<Tensor<f32>> {
        match self {
            Self::Table(table) => {
                let (values, shape) = (table.as_slice()?, table.shape());
                interruptible(py, || Table::new(values, shape[0], shape[1])?.gather(nodes))
            }
            Self::Array(array) => {
                let rows = array::int64_array(py, nodes.iter().copied())?;
                tensor_of("x", &array.call_method1("take", (rows, 0))?, true)
            }
            Self::Tensor(tensor) if tensor.requires_grad() && is_recording() => {
                interruptible(py, || tensor.index_select(nodes))
            }
            Self::Tensor(tensor) => {
                let dims = tensor.dims();
                interruptible(py, || Table::new(&tensor.values(), dims[0], dims[1])?.gather(nodes))
            }
        }
    }
}
