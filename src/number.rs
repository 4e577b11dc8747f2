//! Ranges of the numbers that settings take.
//!
//! Settings are `f64` while most arrays are `f32`. Within [`LEAST`] and [`MOST`] neither a number nor its inverse becomes 0,
//! infinite or less exact on the way, and products with ordinary values stay finite.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// The smallest positive setting.
pub const LEAST: f64 = 1e-25;

/// The largest setting.
pub const MOST: f64 = 1e25;

/// `value`, if it is from [`LEAST`] to [`MOST`]; `name` is the argument's name.
///
/// ```
/// use ruvector_gnn::number::positive;
/// assert!(positive("temperature", 0.07).is_ok() && positive("temperature", 1e-40).is_err());
/// ```
pub fn positive(name: &str, value: f64) -> Result<f64> {
    within(name, value, LEAST, MOST)
}

/// `value`, if it is from 0 to [`MOST`]. It may be so small that `f32` rounds it to 0.
pub fn non_negative(name: &str, value: f64) -> Result<f64> {
    within(name, value, 0.0, MOST)
}

/// `value`, if its size is at most [`MOST`]. It may be so small that `f32` rounds it to 0.
pub fn finite(name: &str, value: f64) -> Result<f64> {
    within(name, value, -MOST, MOST)
}

/// `value`, if it is at least 0 and below 1.
pub fn fraction(name: &str, value: f64) -> Result<f64> {
    if (0.0..1.0).contains(&value) {
        return Ok(value);
    }
    Err(Error::Config(format!("{name} must be in [0, 1), got {value}")))
}

fn within(name: &str, value: f64, least: f64, most: f64) -> Result<f64> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(Error::Config(format!("{name} must be from {least:e} to {most:e}, got {value:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_f32_cannot_hold_or_invert_is_refused_by_name() {
        for value in [0.0, -1.0, 1e-45, 1e-250, 1e26, 1e250, f64::INFINITY, f64::NAN] {
            let Err(Error::Config(message)) = positive("eps", value) else { panic!("{value}") };
            assert!(message.starts_with("eps must be from 1e-25 to 1e25, got "), "{message}");
        }
        assert_eq!(non_negative("lr", 0.0).unwrap(), 0.0);
        assert!(non_negative("lr", -1e-9).is_err() && non_negative("lr", 1e250).is_err());
        assert!(finite("time", -3.0).is_ok() && finite("time", -1e26).is_err());
        assert!(fraction("beta1", 0.0).is_ok() && fraction("beta1", 1.0).is_err());
        assert!(fraction("beta1", f64::NAN).is_err());
    }
}
