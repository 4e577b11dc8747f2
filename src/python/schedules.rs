//! Schedules.

use crate::error::Error;
use crate::python::argument::{Number, Text};
use crate::python::array::{self, Int};
use crate::python::call::detached;
use crate::python::error::Raise;
use crate::schedules::{self, Interpolation, LearningRate, Plateau, PlateauOptions, PlateauState};
use numpy::PyArray1;
use pyo3::prelude::*;

/// A learning rate as a function of the step.
#[pyclass(name = "LearningRate", module = "ruvector_gnn._core", frozen)]
struct PyLearningRate(LearningRate);

impl PyLearningRate {
    fn of(rule: LearningRate) -> PyResult<Self> {
        Ok(Self(rule.checked().map_err(Raise)?))
    }
}

#[pymethods]
impl PyLearningRate {
    #[staticmethod]
    fn constant(factor: Number, total_iters: Int) -> PyResult<Self> {
        let total_iters = total_iters.count("total_iters")? as u64;
        Self::of(LearningRate::Constant { factor: factor.named("factor")?, total_iters })
    }

    #[staticmethod]
    fn step(step_size: Int, gamma: Number) -> PyResult<Self> {
        let step_size = step_size.count("step_size")? as u64;
        Self::of(LearningRate::Step { step_size, gamma: gamma.named("gamma")? })
    }

    #[staticmethod]
    fn exponential(gamma: Number) -> PyResult<Self> {
        Self::of(LearningRate::Exponential { gamma: gamma.named("gamma")? })
    }

    #[staticmethod]
    fn cosine_warm_restarts(t_0: Int, t_mult: Int, eta_min: Number) -> PyResult<Self> {
        let (t_0, t_mult) = (t_0.count("T_0")? as u64, t_mult.count("T_mult")? as u64);
        Self::of(LearningRate::CosineWarmRestarts { t_0, t_mult, eta_min: eta_min.named("eta_min")? })
    }

    #[staticmethod]
    fn warmup_linear(warmup_steps: Int, total_steps: Int) -> PyResult<Self> {
        let warmup_steps = warmup_steps.count("warmup_steps")? as u64;
        let total_steps = total_steps.count("total_steps")? as u64;
        Self::of(LearningRate::WarmupLinear { warmup_steps, total_steps })
    }

    fn at(&self, base: Number, step: Int) -> PyResult<f64> {
        Ok(self.0.at(base.named("lr")?, step.count("step")? as u64))
    }
}

/// `(falls, state)` after a metric, for settings `(maximize, factor, patience, threshold, relative, cooldown)` and a state
/// `(best, bad, cooldown)`, `None` before the first metric.
#[pyfunction]
fn plateau(
    settings: (bool, Number, Int, Number, bool, Int),
    state: Option<(f64, u64, u64)>,
    metric: Option<Number>,
) -> PyResult<(bool, (f64, u64, u64))> {
    let (maximize, factor, patience, threshold, relative, cooldown) = settings;
    let options = PlateauOptions {
        maximize,
        factor: factor.named("factor")?,
        patience: patience.count("patience")? as u64,
        threshold: threshold.named("threshold")?,
        relative,
        cooldown: cooldown.count("cooldown")? as u64,
    };
    let mut plateau = Plateau::new(options).map_err(Raise)?;
    if let Some((best, bad, cooldown)) = state {
        plateau.state = PlateauState { best, bad, cooldown };
    }
    let falls = match metric {
        Some(metric) => plateau.step(metric.named("metric")?),
        None => false,
    };
    let PlateauState { best, bad, cooldown } = plateau.state;
    Ok((falls, (best, bad, cooldown)))
}

/// The value at `step` of `steps` between two ends.
#[pyfunction]
fn interpolate(schedule: Text, ends: (Number, Number), step: Int, steps: Int, stages: Int) -> PyResult<f64> {
    let stages = u32::try_from(stages.count("stages")?).unwrap_or(u32::MAX);
    let name = schedule.named("schedule")?;
    let rule = match name.as_str() {
        "linear" => Interpolation::Linear,
        "exponential" => Interpolation::Exponential,
        "cosine" => Interpolation::Cosine,
        "step" => Interpolation::Step(stages),
        _ => {
            let known = "'linear', 'exponential', 'cosine' or 'step'";
            return Err(Raise(Error::Config(format!("schedule must be {known}, got {name:?}"))).into());
        }
    };
    let ends = (ends.0.named("start")?, ends.1.named("end")?);
    let (step, steps) = (step.count("step")? as u64, steps.count("steps")? as u64);
    Ok(rule.at(ends, step, steps).map_err(Raise)?)
}

/// The number of the stage that an epoch belongs to.
#[pyfunction]
fn curriculum_stage(epochs: Vec<u64>, epoch: Int) -> PyResult<usize> {
    Ok(schedules::stage(&epochs, epoch.count("epoch")? as u64))
}

/// The rows of the easiest share of samples.
#[pyfunction]
fn easiest<'py>(py: Python<'py>, difficulty: Vec<f64>, share: Number) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let share = share.named("share")?;
    let rows = detached(py, || schedules::easiest(&difficulty, share))?;
    array::int64_array(py, rows)
}

/// Registers the class and the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyLearningRate>()?;
    module.add_function(wrap_pyfunction!(plateau, module)?)?;
    module.add_function(wrap_pyfunction!(interpolate, module)?)?;
    module.add_function(wrap_pyfunction!(curriculum_stage, module)?)?;
    module.add_function(wrap_pyfunction!(easiest, module)?)
}
