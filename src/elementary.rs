//! `exp` and `tanh` of `f32` without branches, so that loops over them use vector registers.
//!
//! Cephes' polynomials (Moshier 1989), within 2 units in the last place of the exact value over the whole range.

#![forbid(unsafe_code)]

/// Adding 1.5 * 2^23 leaves the nearest integer in the lowest bits, for numbers below 2^22; subtracting it again rounds.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// Where `e^x` rounds to 0.
const LEAST: f32 = -103.972_08;

/// `e^x`; overflows to infinity, underflows to 0, keeps NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Limits keep the exponent arithmetic in range; the last lines put them right. NaN passes them all. Below the lower one
    // anything will do but a number near it, whose power is subnormal: that takes some processors 150 cycles.
    let held = if x > 89.0 { 89.0 } else { x };
    let held = if x < LEAST { 0.0 } else { held };
    let rounded = held * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (held - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_6e-1;
    let p = p * r + 5e-1;
    let value = p * r * r + r + 1.0;
    // 2^n in two factors: n reaches below the smallest normal exponent. Its bits stand at the end of the rounded number;
    // a conversion, which minds NaN, would leave the vector registers.
    let n = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let value = value * power_of_two(half) * power_of_two(n - half);
    let value = if x > 88.722_84 { f32::INFINITY } else { value };
    if x < LEAST { 0.0 } else { value }
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// The hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let square = x * x;
    let p = -5.704_988e-3;
    let p = p * square + 2.063_909e-2;
    let p = p * square - 5.373_971_6e-2;
    let p = p * square + 1.333_144_2e-1;
    let p = p * square - 3.333_328e-1;
    let near = p * square * x + x;
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    let far = if x < 0.0 { -far } else { far };
    if x.abs() < 0.625 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 9,973rd float.
    fn floats() -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(9973).map(f32::from_bits).filter(|x| !x.is_nan())
    }

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        for x in floats() {
            let (got, exact) = (f64::from(exp(x)), f64::from(x).exp());
            if exact > f64::from(f32::MAX) {
                assert!(got.is_infinite() || got > 3.4e38, "{x}: {got}");
            } else {
                assert!((got - exact).abs() <= 2.4e-7 * exact + 2e-45, "{x}: {got} {exact}");
            }
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!((exp(0.0), exp(f32::INFINITY), exp(f32::NEG_INFINITY)), (1.0, f32::INFINITY, 0.0));
    }

    #[test]
    fn tanh_is_close_and_reaches_its_limits() {
        for x in floats() {
            let (got, exact) = (f64::from(tanh(x)), f64::from(x).tanh());
            assert!((got - exact).abs() <= 3e-7 * exact.abs(), "{x}: {got} {exact}");
        }
        assert!(tanh(f32::NAN).is_nan());
        assert_eq!((tanh(f32::INFINITY), tanh(-50.0)), (1.0, -1.0));
    }
}
