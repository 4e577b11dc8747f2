//! Optimizers.

use crate::autograd::Tensor;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::optim::{self, Adam, AdamOptions, AdamW, AdamWOptions, Group, Optimizer, Sgd, SgdOptions, State};
use crate::python::argument::Number;
use crate::python::array;
use crate::python::call::{detached, guarded};
use crate::python::error::Raise;
use crate::python::tensor::{PyTensor, to_numpy};
use pyo3::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An update rule over groups of parameters.
#[pyclass(name = "Optimizer", module = "ruvector_gnn._core", frozen)]
struct PyOptimizer(Mutex<Box<dyn Optimizer<f32>>>);

/// (parameters, lr, weight_decay).
type Groups<'py> = Vec<(Vec<PyRef<'py, PyTensor>>, Number, Number)>;

/// How often a parameter was updated, and what is remembered of it, by name.
type Remembered<'py> = (u64, Vec<(String, Bound<'py, PyAny>)>);

fn groups_of(groups: Groups<'_>) -> PyResult<Vec<Group<f32>>> {
    let group = |(parameters, lr, weight_decay): (Vec<PyRef<'_, PyTensor>>, Number, Number)| {
        Ok(Group {
            parameters: parameters.iter().map(|parameter| parameter.0.clone()).collect(),
            lr: lr.named("lr")?,
            weight_decay: weight_decay.named("weight_decay")?,
        })
    };
    groups.into_iter().map(group).collect()
}

impl PyOptimizer {
    fn of(optimizer: Result<impl Optimizer<f32> + 'static>) -> PyResult<Self> {
        Ok(Self(Mutex::new(Box::new(optimizer.map_err(Raise)?))))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Optimizer<f32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyOptimizer {
    #[staticmethod]
    fn adam(groups: Groups<'_>, betas: (f64, f64), eps: f64, amsgrad: bool) -> PyResult<Self> {
        let options = AdamOptions { betas, eps, amsgrad, ..Default::default() };
        Self::of(Adam::with_groups(groups_of(groups)?, options))
    }

    #[staticmethod]
    fn adamw(groups: Groups<'_>, betas: (f64, f64), eps: f64, amsgrad: bool) -> PyResult<Self> {
        let options = AdamWOptions { betas, eps, amsgrad, ..Default::default() };
        Self::of(AdamW::with_groups(groups_of(groups)?, options))
    }

    #[staticmethod]
    fn sgd(groups: Groups<'_>, momentum: f64, dampening: f64, nesterov: bool) -> PyResult<Self> {
        let options = SgdOptions { momentum, dampening, nesterov, ..Default::default() };
        Self::of(Sgd::with_groups(groups_of(groups)?, options))
    }

    /// Updates with these (lr, weight_decay) per group.
    fn step(&self, py: Python<'_>, settings: Vec<(Number, Number)>) -> PyResult<()> {
        let named = |(lr, decay): (Number, Number)| Ok((lr.named("lr")?, decay.named("weight_decay")?));
        let settings = settings.into_iter().map(named).collect::<PyResult<Vec<_>>>()?;
        detached(py, || {
            let mut optimizer = self.lock();
            for (group, (lr, weight_decay)) in optimizer.groups_mut().iter_mut().zip(settings) {
                (group.lr, group.weight_decay) = (lr, weight_decay);
            }
            optimizer.step()
        })
    }

    /// What is remembered of each parameter, in the order of the groups.
    fn states<'py>(&self, py: Python<'py>) -> PyResult<Vec<Remembered<'py>>> {
        let (names, states, parameters) = detached(py, || {
            let optimizer = self.lock();
            Ok((optimizer.memory(), optimizer.states().to_vec(), optimizer.parameters()))
        })?;
        let remembered = states.iter().zip(&parameters).map(|(state, parameter)| {
            let array = |(name, values): (&&str, &Buffer<f32>)| {
                Ok(((*name).to_owned(), to_numpy(py, values, parameter.dims())?.into_any()))
            };
            Ok((state.steps, names.iter().zip(&state.arrays).map(array).collect::<PyResult<_>>()?))
        });
        remembered.collect()
    }

    /// Overwrites what is remembered.
    fn load_states(&self, py: Python<'_>, states: Vec<Remembered<'_>>) -> PyResult<()> {
        let names = detached(py, || Ok(self.lock().memory()))?;
        let state = |(steps, mut named): Remembered<'_>| {
            named.sort_by_key(|(name, _)| names.iter().position(|known| known == name));
            let given: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
            if !given.is_empty() && given != names {
                let message = format!("state_dict: this optimizer remembers {names:?}, got {given:?}");
                return Err(Raise(Error::NotFound(message)).into());
            }
            let array = |(name, value): &(String, Bound<'_, PyAny>)| {
                let array = array::float32(name, value)?;
                let values = array.as_slice()?;
                guarded(|| Ok(Buffer::copy_of(values)))
            };
            Ok(State { steps, arrays: named.iter().map(array).collect::<PyResult<_>>()? })
        };
        let states = states.into_iter().map(state).collect::<PyResult<Vec<_>>>()?;
        detached(py, || self.lock().load_states(states))
    }
}

#[pyfunction]
fn clip_grad_norm(py: Python<'_>, parameters: Vec<PyRef<'_, PyTensor>>, max_norm: Number) -> PyResult<f64> {
    let max_norm = max_norm.named("max_norm")?;
    let parameters: Vec<Tensor<f32>> = parameters.iter().map(|parameter| parameter.0.clone()).collect();
    detached(py, || optim::clip_grad_norm(&parameters, max_norm))
}

/// Registers the class and the function.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyOptimizer>()?;
    module.add_function(wrap_pyfunction!(clip_grad_norm, module)?)
}
