//! Schedules: values that change as training goes on.
//!
//! | file | what changes |
//! |---|---|
//! | `learning_rate` | the learning rate, by the number of the step; PyTorch's values |
//! | `plateau` | the learning rate, when a metric no longer improves |
//! | `interpolation` | temperatures and weights, between two values |
//! | `curriculum` | the stage of training, and which samples are easy enough for it |
//!
//! All but [`Plateau`] are functions of the step, so that a schedule resumes anywhere.

#![forbid(unsafe_code)]

mod curriculum;
mod interpolation;
mod learning_rate;
mod plateau;

pub use curriculum::{easiest, stage};
pub use interpolation::Interpolation;
pub use learning_rate::LearningRate;
pub use plateau::{Plateau, PlateauOptions, PlateauState};
