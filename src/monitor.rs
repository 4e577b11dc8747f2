//! How long work reports progress and learns that it should stop.

#![forbid(unsafe_code)]

use crate::error::Result;

/// Watches long work. The work calls [`step`](Monitor::step) from the thread that called it, a few times a
/// second or more; an error stops the work and is returned to its caller.
pub trait Monitor {
    /// `done` of `total` units are finished; `metrics` are named figures of the last step.
    fn step(&mut self, done: usize, total: usize, metrics: &[(&str, f64)]) -> Result<()>;
}

/// Nobody watches.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Monitor for Silent {
    fn step(&mut self, _done: usize, _total: usize, _metrics: &[(&str, f64)]) -> Result<()> {
        Ok(())
    }
}
