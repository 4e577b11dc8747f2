//! One piece of long work as a share of the whole.

#![forbid(unsafe_code)]

use crate::error::Result;
use crate::monitor::Monitor;

/// What the whole counts to.
pub(super) const WHOLE: usize = 1000;

/// Reports the steps of one piece as those from `start` to `end` of [`WHOLE`].
pub(super) struct Stage<'a> {
    /// Who watches the whole.
    pub monitor: &'a mut dyn Monitor,
    /// Where the piece begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

impl Monitor for Stage<'_> {
    fn step(&mut self, done: usize, total: usize, metrics: &[(&str, f64)]) -> Result<()> {
        let share = (self.end - self.start) * done.min(total) / total.max(1);
        self.monitor.step(self.start + share, WHOLE, metrics)
    }
}
