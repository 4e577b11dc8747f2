//! Ranking quality: how well ranked rows agree with relevance judgements.
//!
//! One query has a `ranking` of rows, best first, and `relevant` rows with grades above 0. A row that appears twice in a
//! ranking counts once, at its first place; rows below 0 (missing results) are passed over. A query without
//! relevant rows has no defined quality: the functions return `None`, and [`mean`] leaves it out.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

/// The relevant rows of one query with their grades.
#[derive(Clone, Debug, Default)]
pub struct Relevance(HashMap<i64, f64>);

impl Relevance {
    /// From `(row, grade)`; grades of 0 or less do not count, and of several for a row the highest does.
    pub fn new(grades: impl IntoIterator<Item = (i64, f64)>) -> Self {
        let mut best = HashMap::new();
        for (row, grade) in grades.into_iter().filter(|(_, grade)| *grade > 0.0) {
            let place: &mut f64 = best.entry(row).or_insert(grade);
            *place = place.max(grade);
        }
        Self(best)
    }

    /// Rows that are all equally relevant.
    pub fn binary(rows: impl IntoIterator<Item = i64>) -> Self {
        Self::new(rows.into_iter().map(|row| (row, 1.0)))
    }

    /// The grades of the first `k` places of a ranking.
    fn gains<'a>(&'a self, ranking: &'a [i64], k: usize) -> impl Iterator<Item = f64> + 'a {
        let mut seen = HashSet::new();
        let rows = ranking.iter().take(k).filter(|row| **row >= 0);
        rows.map(move |row| if seen.insert(*row) { self.0.get(row).copied().unwrap_or(0.0) } else { 0.0 })
    }
}

/// `1 / log2(place + 1)` for places counted from 1.
fn discount(place: usize) -> f64 {
    1.0 / ((place + 2) as f64).log2()
}

/// Normalized discounted cumulative gain at `k` (Järvelin & Kekäläinen 2002) with linear gains, as `trec_eval`:
/// `sum_i grade_i / log2(i + 1)`, divided by that of the best possible ranking.
pub fn ndcg(ranking: &[i64], relevant: &Relevance, k: usize) -> Option<f64> {
    let sum = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
        gains.enumerate().map(|(place, gain)| gain * discount(place)).sum()
    };
    let mut ideal: Vec<f64> = relevant.0.values().copied().collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    let best = sum(&mut ideal.into_iter().take(k));
    (best > 0.0).then(|| sum(&mut relevant.gains(ranking, k)) / best)
}

/// Reciprocal rank of the first relevant row within the first `k`, 0 if there is none.
pub fn mrr(ranking: &[i64], relevant: &Relevance, k: usize) -> Option<f64> {
    let first = relevant.gains(ranking, k).position(|gain| gain > 0.0);
    (!relevant.0.is_empty()).then(|| first.map_or(0.0, |place| 1.0 / (place + 1) as f64))
}

/// Share of the relevant rows that are within the first `k`.
pub fn recall(ranking: &[i64], relevant: &Relevance, k: usize) -> Option<f64> {
    let found = relevant.gains(ranking, k).filter(|gain| *gain > 0.0).count();
    (!relevant.0.is_empty()).then(|| found as f64 / relevant.0.len() as f64)
}

/// The mean over the queries that have a value; NaN if none has.
pub fn mean(values: impl IntoIterator<Item = Option<f64>>) -> f64 {
    let (sum, count) =
        values.into_iter().flatten().fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let relevant = Relevance::new([(7, 3.0), (8, 1.0), (9, 0.0)]);
        let ranking = [9, 8, 7, 1];
        let gain = 1.0 / 3.0f64.log2() + 3.0 / 2.0;
        let ideal = 3.0 + 1.0 / 3.0f64.log2();
        assert!((ndcg(&ranking, &relevant, 10).unwrap() - gain / ideal).abs() < 1e-12);
        assert_eq!(ndcg(&ranking, &relevant, 1), Some(0.0));
        assert_eq!(mrr(&ranking, &relevant, 10), Some(0.5));
        assert_eq!(mrr(&ranking, &relevant, 1), Some(0.0));
        assert_eq!((recall(&ranking, &relevant, 2), recall(&ranking, &relevant, 3)), (Some(0.5), Some(1.0)));
    }

    #[test]
    fn repeats_and_missing_places_gain_nothing_and_empty_queries_are_left_out() {
        let relevant = Relevance::binary([3, 3]);
        assert_eq!(ndcg(&[3, 3, 3], &relevant, 10), Some(1.0));
        assert_eq!(recall(&[-1, -1], &Relevance::binary([-1, 3]), 10), Some(0.0));
        let none = Relevance::default();
        assert_eq!((ndcg(&[1], &none, 5), mrr(&[1], &none, 5), recall(&[1], &none, 5)), (None, None, None));
        assert_eq!(mean([Some(1.0), None, Some(0.0)]), 0.5);
        assert!(mean([None]).is_nan());
    }
}
