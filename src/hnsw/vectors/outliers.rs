//! Rows far outside the rest, which ranges and means of codes must not follow.

use super::Source;
use crate::memory;

/// Rows that spreads are taken from, at most, and values in these.
const SAMPLE: usize = 1024;
const SAMPLE_VALUES: usize = 1 << 24;

/// Fewer rows have no outliers.
const LEAST_ROWS: usize = 8;

/// The share of values on either side that does not count for the spread of a dimension.
const TAIL: f64 = 0.05;

/// An outlier reaches more than so many times as far as the median row, and beyond so many spreads.
const FAR: f32 = 4.0;

/// A dimension spreads by this share of what nine tenths of the rows stay within, at least: where nearly all values are the
/// same, another one is no outlier.
const LEAST_SPREAD: f32 = 0.5;

/// More rows than one in so many are no outliers.
const ROWS_PER_OUTLIER: usize = 10;

/// Marks the rows that reach far outside the rest in some dimension; `None` if there are none.
///
/// A dimension is about the middle of its values, and spreads as far as nine tenths of them do. How far a row reaches is
/// the largest of its values in these spreads. `source` writes the row at a place below `rows`.
pub(super) fn outliers(rows: usize, dim: usize, source: Source<'_>) -> Option<Vec<bool>> {
    if rows < LEAST_ROWS {
        return None;
    }
    let mut row = memory::vec![0.0; dim];
    let sample = (SAMPLE_VALUES / dim).clamp(2 * LEAST_ROWS, SAMPLE);
    let sampled = || (0..rows).step_by(rows.div_ceil(sample));
    let count = sampled().count();
    let mut columns = memory::vec![0.0f32; count * dim];
    for (i, place) in sampled().enumerate() {
        source(place, &mut row);
        row.iter().enumerate().for_each(|(d, &value)| columns[d * count + i] = value);
    }
    let tail = (TAIL * count as f64).ceil() as usize;
    let (mut middle, mut spread) = (memory::vec![0.0; dim], memory::vec![0.0; dim]);
    for (d, column) in columns.chunks_exact(count).enumerate() {
        let mut sorted = memory::copy_of(column);
        sorted.sort_unstable_by(f32::total_cmp);
        let (low, high) = (sorted[tail], sorted[count - 1 - tail]);
        (middle[d], spread[d]) = (0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low);
    }
    let reach = |row: &[f32], spread: &[f32]| {
        let offsets = row.iter().zip(&middle).zip(spread);
        offsets.map(|((&value, &middle), &spread)| (value - middle).abs() / spread).fold(0.0, f32::max)
    };
    // What all but so many of the sampled rows stay within.
    let within = |spread: &[f32], beyond: usize, row: &mut [f32]| {
        let mut reaches: Vec<f32> = sampled()
            .map(|place| {
                source(place, row);
                reach(row, spread)
            })
            .collect();
        *reaches.select_nth_unstable_by(count - 1 - beyond, f32::total_cmp).1
    };
    let least = LEAST_SPREAD * within(&memory::vec![1.0; dim], count.div_ceil(ROWS_PER_OUTLIER), &mut row);
    spread.iter_mut().for_each(|spread| *spread = spread.max(least));
    // Most rows are the same.
    if least == 0.0 {
        return None;
    }
    let most = FAR * within(&spread, count / 2, &mut row).max(1.0);
    let mut marks = memory::vec![false; rows];
    for (place, mark) in marks.iter_mut().enumerate() {
        source(place, &mut row);
        *mark = reach(&row, &spread) > most;
    }
    let found = marks.iter().filter(|&&mark| mark).count();
    (found > 0 && found * ROWS_PER_OUTLIER <= rows).then_some(marks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use ndarray::Array2;

    /// The outliers among normal rows, of which those given were multiplied.
    fn found(
        rows: usize,
        dim: usize,
        scaled: &[(usize, f32)],
        shape: impl Fn(f32, usize) -> f32,
    ) -> Vec<usize> {
        let mut rng = stream(7, "outliers-test", 0);
        let mut values = Array2::from_shape_fn((rows, dim), |(_, d)| shape(rng.normal() as f32, d));
        scaled.iter().for_each(|&(row, by)| values.row_mut(row).mapv_inplace(|value| value * by));
        let source =
            |place: usize, row: &mut [f32]| row.copy_from_slice(values.row(place).as_slice().unwrap());
        let marks = outliers(rows, dim, &source);
        (0..rows).filter(|&row| marks.as_ref().is_some_and(|marks| marks[row])).collect()
    }

    #[test]
    fn rows_far_outside_are_outliers_and_others_are_not() {
        let none: [usize; 0] = [];
        assert_eq!(found(3000, 16, &[], |value, _| value), none);
        assert_eq!(found(3000, 16, &[(5, 1e4), (2999, 20.0)], |value, _| value), [5, 2999]);
        assert_eq!(found(20, 16, &[(5, 1e4)], |value, _| value), [5]);
        // A third of the rows are no outliers; too few rows to tell.
        let third: Vec<(usize, f32)> = (0..1000).map(|row| (3 * row, 1e4)).collect();
        assert_eq!(found(3000, 16, &third, |value, _| value), none);
        assert_eq!(found(4, 16, &[(1, 1e4)], |value, _| value), none);
        // Dimensions of other spreads, about other values, or of few values that differ.
        assert_eq!(found(3000, 16, &[(7, 1e4)], |value, d| 100.0 + value * 0.1f32.powi(d as i32)), [7]);
        let rare = |value: f32, d: usize| if value.abs() > 2.2 || d == 0 { value } else { 0.0 };
        assert_eq!(found(3000, 16, &[(9, 1e4)], rare), [9]);
        assert_eq!(found(3000, 16, &[], rare), none);
        assert_eq!(found(100, 4, &[], |_, d| d as f32), none);
    }
}
