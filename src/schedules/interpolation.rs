//! Values between a first and a last: temperatures that anneal, weights that warm up.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use std::f64::consts::PI;

/// How a value goes from `start` to `end` while `t` goes from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// `start + (end - start) t`.
    Linear,
    /// `start (end / start)^t`, for positive values.
    Exponential,
    /// `end + (start - end) (1 + cos(pi t)) / 2`.
    Cosine,
    /// So many values of the linear rule, each for an equal part of the way.
    Step(u32),
}

impl Interpolation {
    /// The value at `step` of `steps`; that of the end from there on.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for ends that are not finite, for ends that are not positive under the exponential rule, and for fewer
    /// than two stages.
    ///
    /// ```
    /// use ruvector_gnn::schedules::Interpolation;
    ///
    /// let at = |step| Interpolation::Linear.at((1.0, 0.5), step, 10);
    /// assert_eq!((at(0)?, at(5)?, at(99)?), (1.0, 0.75, 0.5));
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn at(self, (start, end): (f64, f64), step: u64, steps: u64) -> Result<f64> {
        for (name, value) in [("start", start), ("end", end)] {
            if !value.is_finite() {
                return Err(Error::Config(format!("{name} must be finite, got {value}")));
            }
            if self == Self::Exponential && value <= 0.0 {
                let message = format!("{name} must be positive for an exponential schedule, got {value}");
                return Err(Error::Config(message));
            }
        }
        if matches!(self, Self::Step(stages) if stages < 2) {
            return Err(Error::Config("a schedule in steps has at least 2 of them".into()));
        }
        if step >= steps {
            return Ok(end);
        }
        let t = step as f64 / steps as f64;
        Ok(match self {
            Self::Linear => start + (end - start) * t,
            Self::Exponential => start * (end / start).powf(t),
            Self::Cosine => end + (start - end) * (1.0 + (PI * t).cos()) / 2.0,
            Self::Step(stages) => {
                let share = (t * f64::from(stages)).floor() / f64::from(stages - 1);
                if share < 1.0 { start + (end - start) * share } else { end }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Interpolation; 4] =
        [Interpolation::Linear, Interpolation::Exponential, Interpolation::Cosine, Interpolation::Step(4)];

    #[test]
    fn all_go_from_start_to_end_without_turning() {
        for rule in ALL {
            let values: Vec<f64> = (0..=50).map(|step| rule.at((0.5, 0.05), step, 50).unwrap()).collect();
            assert_eq!((values[0], values[50]), (0.5, 0.05), "{rule:?}");
            assert!(values.is_sorted_by(|a, b| a >= b), "{rule:?}: {values:?}");
            assert_eq!(rule.at((0.5, 0.05), 0, 0).unwrap(), 0.05, "no step at all");
        }
    }

    #[test]
    fn each_has_its_middle() {
        let middle = |rule: Interpolation| rule.at((4.0, 1.0), 5, 10).unwrap();
        assert_eq!(middle(Interpolation::Linear), 2.5);
        assert!((middle(Interpolation::Exponential) - 2.0).abs() < 1e-12);
        assert!((middle(Interpolation::Cosine) - 2.5).abs() < 1e-12);
        let steps: Vec<f64> =
            (0..9).map(|step| Interpolation::Step(3).at((4.0, 1.0), step, 9).unwrap()).collect();
        assert_eq!(steps, [4.0, 4.0, 4.0, 2.5, 2.5, 2.5, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn ends_without_a_way_between_them_are_refused() {
        assert!(Interpolation::Exponential.at((0.0, 1.0), 0, 1).is_err());
        assert!(Interpolation::Linear.at((f64::NAN, 1.0), 0, 1).is_err());
        assert!(Interpolation::Step(1).at((0.0, 1.0), 0, 1).is_err());
    }
}
