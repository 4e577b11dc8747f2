//! A learning rate that falls when a metric no longer improves, as PyTorch's `ReduceLROnPlateau`.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::number;

/// Settings of a [`Plateau`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlateauOptions {
    /// Whether a greater metric is better.
    pub maximize: bool,
    /// What the rate is multiplied with.
    pub factor: f64,
    /// Steps without an improvement that are let pass.
    pub patience: u64,
    /// By how much the best must be beaten.
    pub threshold: f64,
    /// Whether that is a share of the best, or an amount.
    pub relative: bool,
    /// Steps after a reduction in which none is counted as bad.
    pub cooldown: u64,
}

impl Default for PlateauOptions {
    fn default() -> Self {
        Self { maximize: false, factor: 0.1, patience: 10, threshold: 1e-4, relative: true, cooldown: 0 }
    }
}

/// What a [`Plateau`] remembers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlateauState {
    /// The best metric so far; infinite before the first.
    pub best: f64,
    /// Steps since the last improvement.
    pub bad: u64,
    /// Steps of the cooldown that are left.
    pub cooldown: u64,
}

/// Says when the learning rate falls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plateau {
    options: PlateauOptions,
    /// What is remembered; may be kept and set again.
    pub state: PlateauState,
}

impl Plateau {
    /// Before the first metric.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] unless `factor` is above 0 and below 1 and `threshold` is finite and not negative.
    pub fn new(options: PlateauOptions) -> Result<Self> {
        if !(options.factor > 0.0 && options.factor < 1.0) {
            return Err(Error::Config(format!("factor must be above 0 and below 1, got {}", options.factor)));
        }
        number::non_negative("threshold", options.threshold)?;
        let best = if options.maximize { f64::NEG_INFINITY } else { f64::INFINITY };
        Ok(Self { options, state: PlateauState { best, bad: 0, cooldown: 0 } })
    }

    /// Takes a metric; returns whether the rate is to be multiplied with the factor now. NaN is no improvement.
    ///
    /// ```
    /// use ruvector_gnn::schedules::{Plateau, PlateauOptions};
    ///
    /// let mut plateau = Plateau::new(PlateauOptions { patience: 1, ..Default::default() })?;
    /// assert_eq!([1.0, 0.5, 0.5, 0.5].map(|loss| plateau.step(loss)), [false, false, false, true]);
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn step(&mut self, metric: f64) -> bool {
        let state = &mut self.state;
        if self.options.is_better(metric, state.best) {
            (state.best, state.bad) = (metric, 0);
        } else {
            state.bad += 1;
        }
        if state.cooldown > 0 {
            state.cooldown -= 1;
            state.bad = 0;
        }
        let falls = state.bad > self.options.patience;
        if falls {
            (state.cooldown, state.bad) = (self.options.cooldown, 0);
        }
        falls
    }

    /// What the rate is multiplied with.
    pub fn factor(&self) -> f64 {
        self.options.factor
    }
}

impl PlateauOptions {
    fn is_better(&self, metric: f64, best: f64) -> bool {
        match (self.relative, self.maximize) {
            (true, true) => metric > best * (1.0 + self.threshold),
            (true, false) => metric < best * (1.0 - self.threshold),
            (false, true) => metric > best + self.threshold,
            (false, false) => metric < best - self.threshold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cooldown_counts_no_bad_step() {
        let options = PlateauOptions { patience: 0, cooldown: 2, ..Default::default() };
        let mut plateau = Plateau::new(options).unwrap();
        assert_eq!([1.0; 6].map(|loss| plateau.step(loss)), [false, true, false, false, true, false]);
    }

    #[test]
    fn an_improvement_is_more_than_the_threshold() {
        let of = |maximize, relative| {
            let options =
                PlateauOptions { maximize, relative, threshold: 0.1, patience: 0, ..Default::default() };
            Plateau::new(options).unwrap()
        };
        let mut share = of(true, true);
        assert_eq!([10.0, 10.9, 11.1].map(|metric| share.step(metric)), [false, true, false]);
        let mut amount = of(false, false);
        assert_eq!([10.0, 9.95, 9.8].map(|metric| amount.step(metric)), [false, true, false]);
        assert!(of(true, true).step(f64::NAN), "no improvement");
    }

    #[test]
    fn settings_outside_their_domain_are_named() {
        let refused = |options| Plateau::new(options).unwrap_err().to_string();
        for factor in [0.0, 1.0, f64::NAN] {
            assert!(refused(PlateauOptions { factor, ..Default::default() }).contains("factor"));
        }
        assert!(refused(PlateauOptions { threshold: -1.0, ..Default::default() }).contains("threshold"));
    }
}
