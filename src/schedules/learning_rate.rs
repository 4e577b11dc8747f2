//! Learning rates as functions of the step, with the values of PyTorch's schedulers.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::number;
use std::f64::consts::PI;

/// A rule that gives the learning rate of each step, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LearningRate {
    /// `base * factor` before step `total_iters`, `base` from there on.
    Constant {
        /// What the rate is multiplied with.
        factor: f64,
        /// The first step with the whole rate.
        total_iters: u64,
    },
    /// `base * gamma^floor(step / step_size)`.
    Step {
        /// Steps between two changes.
        step_size: u64,
        /// What the rate is multiplied with.
        gamma: f64,
    },
    /// `base * gamma^step`.
    Exponential {
        /// What the rate is multiplied with in each step.
        gamma: f64,
    },
    /// `eta_min + (base - eta_min) (1 + cos(pi t / T)) / 2` with `t` the steps since the last restart and `T` from one to the next:
    /// `t_0` first, then each `t_mult` times as long as the one before (SGDR, Loshchilov & Hutter 2017).
    CosineWarmRestarts {
        /// Steps to the first restart.
        t_0: u64,
        /// By how much each cycle is longer than the one before.
        t_mult: u64,
        /// The lowest rate.
        eta_min: f64,
    },
    /// From 0 to `base` in `warmup_steps`, then linearly to 0 at `total_steps`.
    WarmupLinear {
        /// Steps of the warm-up.
        warmup_steps: u64,
        /// The step from which on the rate is 0.
        total_steps: u64,
    },
}

impl LearningRate {
    /// This rule, if its settings are in their domains.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the setting that is not.
    pub fn checked(self) -> Result<Self> {
        let at_least_one = |name: &str, value: u64| match value {
            0 => Err(Error::Config(format!("{name} must be at least 1, got 0"))),
            _ => Ok(()),
        };
        match self {
            Self::Constant { factor, .. } if !(0.0..=1.0).contains(&factor) => {
                return Err(Error::Config(format!("factor must be from 0 to 1, got {factor}")));
            }
            Self::Constant { .. } => {}
            Self::Step { step_size, gamma } => {
                at_least_one("step_size", step_size)?;
                number::positive("gamma", gamma)?;
            }
            Self::Exponential { gamma } => {
                number::positive("gamma", gamma)?;
            }
            Self::CosineWarmRestarts { t_0, t_mult, eta_min } => {
                at_least_one("T_0", t_0)?;
                at_least_one("T_mult", t_mult)?;
                number::non_negative("eta_min", eta_min)?;
            }
            Self::WarmupLinear { warmup_steps, total_steps } => {
                at_least_one("total_steps", total_steps)?;
                if warmup_steps > total_steps {
                    let message = format!(
                        "warmup_steps must be at most total_steps, {total_steps}, got {warmup_steps}"
                    );
                    return Err(Error::Config(message));
                }
            }
        }
        Ok(self)
    }

    /// The learning rate of a step, for a base rate.
    ///
    /// ```
    /// use ruvector_gnn::schedules::LearningRate;
    ///
    /// let rule = LearningRate::Step { step_size: 10, gamma: 0.5 }.checked()?;
    /// assert_eq!([0, 9, 10, 25].map(|step| rule.at(0.4, step)), [0.4, 0.4, 0.2, 0.1]);
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn at(&self, base: f64, step: u64) -> f64 {
        match *self {
            Self::Constant { factor, total_iters } => {
                if step < total_iters {
                    base * factor
                } else {
                    base
                }
            }
            Self::Step { step_size, gamma } => base * gamma.powf((step / step_size) as f64),
            Self::Exponential { gamma } => base * gamma.powf(step as f64),
            Self::CosineWarmRestarts { t_0, t_mult, eta_min } => {
                let (mut since, mut cycle) = (step, t_0);
                if t_mult == 1 {
                    since %= cycle;
                } else {
                    while since >= cycle {
                        since -= cycle;
                        cycle = cycle.saturating_mul(t_mult);
                    }
                }
                eta_min + (base - eta_min) * (1.0 + (PI * since as f64 / cycle as f64).cos()) / 2.0
            }
            Self::WarmupLinear { warmup_steps, total_steps } => {
                if step < warmup_steps {
                    base * step as f64 / warmup_steps as f64
                } else {
                    let left = total_steps.saturating_sub(step) as f64;
                    base * left / (total_steps - warmup_steps).max(1) as f64
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_begin_at_the_base_rate_and_grow() {
        let rule = LearningRate::CosineWarmRestarts { t_0: 5, t_mult: 2, eta_min: 0.1 };
        for start in [0, 5, 15, 35] {
            assert_eq!(rule.at(1.0, start), 1.0);
        }
        assert!((rule.at(1.0, 10) - 0.55).abs() < 1e-12, "half of a cycle of ten");
        let same = LearningRate::CosineWarmRestarts { t_0: 5, t_mult: 1, eta_min: 0.0 };
        assert_eq!(same.at(1.0, 10 * 5), 1.0);
        assert!(rule.at(1.0, u64::MAX).is_finite());
    }

    #[test]
    fn a_warm_up_meets_the_descent_at_the_base_rate() {
        let rule = LearningRate::WarmupLinear { warmup_steps: 4, total_steps: 12 };
        assert_eq!([0, 2, 4, 8, 12, 99].map(|step| rule.at(1.0, step)), [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]);
        let all = LearningRate::WarmupLinear { warmup_steps: 3, total_steps: 3 };
        assert_eq!(all.at(1.0, 3), 0.0);
        let none = LearningRate::WarmupLinear { warmup_steps: 0, total_steps: 2 };
        assert_eq!([0, 1, 2].map(|step| none.at(1.0, step)), [1.0, 0.5, 0.0]);
    }

    #[test]
    fn settings_outside_their_domain_are_named() {
        let wrong = [
            ("factor", LearningRate::Constant { factor: 1.5, total_iters: 3 }),
            ("factor", LearningRate::Constant { factor: f64::NAN, total_iters: 3 }),
            ("step_size", LearningRate::Step { step_size: 0, gamma: 0.5 }),
            ("gamma", LearningRate::Step { step_size: 1, gamma: 0.0 }),
            ("gamma", LearningRate::Exponential { gamma: f64::INFINITY }),
            ("T_0", LearningRate::CosineWarmRestarts { t_0: 0, t_mult: 1, eta_min: 0.0 }),
            ("T_mult", LearningRate::CosineWarmRestarts { t_0: 1, t_mult: 0, eta_min: 0.0 }),
            ("eta_min", LearningRate::CosineWarmRestarts { t_0: 1, t_mult: 1, eta_min: -1.0 }),
            ("total_steps", LearningRate::WarmupLinear { warmup_steps: 0, total_steps: 0 }),
            ("warmup_steps", LearningRate::WarmupLinear { warmup_steps: 3, total_steps: 2 }),
        ];
        for (name, rule) in wrong {
            let Err(Error::Config(message)) = rule.checked() else { panic!("{rule:?}") };
            assert!(message.starts_with(name), "{message}");
        }
    }
}
