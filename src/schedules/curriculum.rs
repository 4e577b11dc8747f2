//! Curricula: easy samples first (Bengio et al. 2009).

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::memory;

/// The stage that an epoch, counted from 0, belongs to, for stages of so many epochs; the last one goes on for ever.
///
/// ```
/// use ruvector_gnn::schedules::stage;
/// assert_eq!([0, 9, 10, 29, 30, 1000].map(|epoch| stage(&[10, 20, 30], epoch)), [0, 0, 1, 1, 2, 2]);
/// ```
pub fn stage(epochs: &[u64], epoch: u64) -> usize {
    let mut left = epoch;
    for (number, &count) in epochs.iter().enumerate() {
        if left < count {
            return number;
        }
        left -= count;
    }
    epochs.len().saturating_sub(1)
}

/// The numbers of the `share` of samples that are easiest, ascending: `ceil(share * n)` of them, and all that are as easy as the
/// last of these. Samples of unknown difficulty (NaN) are easiest of all, so that each is tried.
///
/// # Errors
///
/// [`Error::Config`] unless `share` is above 0 and at most 1.
pub fn easiest(difficulty: &[f64], share: f64) -> Result<Vec<u32>> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(Error::Config(format!("share must be above 0 and at most 1, got {share}")));
    }
    let known = |value: f64| if value.is_nan() { f64::NEG_INFINITY } else { value };
    let mut sorted: Vec<f64> = memory::collect(difficulty.iter().map(|&value| known(value)));
    sorted.sort_unstable_by(f64::total_cmp);
    let count = (share * sorted.len() as f64).ceil() as usize;
    let Some(&most) = sorted.get(count.max(1) - 1) else { return Ok(Vec::new()) };
    let easy = (0u32..).zip(difficulty).filter(|&(_, &value)| known(value) <= most);
    Ok(memory::collect(easy.map(|(number, _)| number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_easiest_share_with_its_ties_and_what_is_unknown() {
        let difficulty = [0.3, 0.1, f64::NAN, 0.2, 0.2, 0.9];
        assert_eq!(easiest(&difficulty, 0.5).unwrap(), [1, 2, 3, 4], "a tie is not cut");
        assert_eq!(easiest(&difficulty, 1e-9).unwrap(), [2]);
        assert_eq!(easiest(&difficulty, 1.0).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert!(easiest(&[], 0.5).unwrap().is_empty());
        assert!([0.0, 1.1, f64::NAN].iter().all(|&share| easiest(&difficulty, share).is_err()));
    }

    #[test]
    fn stages_without_epochs_are_passed_over() {
        assert_eq!([0, 1, 2].map(|epoch| stage(&[0, 1, 0, 5], epoch)), [1, 3, 3]);
        assert_eq!(stage(&[], 3), 0);
    }
}
