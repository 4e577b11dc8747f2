//! Softmax cross entropy: `loss_i = logsumexp(s_i) - sum_j t_ij s_ij`, with targets that sum to 1 per row;
//! adjoint `g_i (softmax(s_i) - t_i)`.
//!
//! Forward makes the exponentials once and keeps them; the adjoint scales them in place.

#![forbid(unsafe_code)]

use super::Reduction;
use crate::autograd::{Shape, Tensor, custom};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::memory;
use crate::real::{Real, larger};
use crate::threads;
use std::sync::Arc;

/// What the rows of the scores should choose.
#[derive(Clone, Debug)]
pub enum Targets<T> {
    /// One class per row.
    Classes(Vec<u32>),
    /// Several classes per row, each an equal share of the target: row `i` has `classes[indptr[i]..indptr[i + 1]]`,
    /// which must not be empty. A class named twice counts twice.
    Sets {
        /// Where each row's classes begin, and their number.
        indptr: Vec<usize>,
        /// The classes of all rows.
        classes: Vec<u32>,
    },
    /// A weight for each class of each row, row-major.
    Soft(Vec<T>),
}

impl<T: Real> Targets<T> {
    fn check(&self, rows: usize, columns: usize) -> Result<()> {
        let (count, expected, classes) = match self {
            Self::Classes(classes) => (classes.len(), rows, &classes[..]),
            Self::Sets { indptr, classes } => {
                let rising = indptr.windows(2).all(|row| row[0] < row[1]);
                if indptr.first() != Some(&0) || indptr.last() != Some(&classes.len()) || !rising {
                    let message =
                        "cross_entropy: each row needs a class, and indptr must rise from 0 to their number";
                    return Err(Error::Shape(message.into()));
                }
                (indptr.len() - 1, rows, &classes[..])
            }
            Self::Soft(weights) => (weights.len(), rows * columns, &[][..]),
        };
        if count != expected {
            return Err(Error::Shape(format!(
                "cross_entropy: {count} targets for scores of shape ({rows}, {columns})"
            )));
        }
        match classes.iter().find(|&&class| class as usize >= columns) {
            Some(class) => {
                let last = columns as i64 - 1;
                Err(Error::Row(format!("targets must hold classes from 0 to {last}, got {class}")))
            }
            None => Ok(()),
        }
    }

    /// `visit(class, weight)` for the target of a row.
    fn each(&self, row: usize, columns: usize, mut visit: impl FnMut(usize, T)) {
        match self {
            Self::Classes(classes) => visit(classes[row] as usize, T::ONE),
            Self::Sets { indptr, classes } => {
                let classes = &classes[indptr[row]..indptr[row + 1]];
                let share = T::ONE / T::of(classes.len() as f64);
                classes.iter().for_each(|&class| visit(class as usize, share));
            }
            Self::Soft(weights) => {
                let weights = &weights[row * columns..][..columns];
                weights.iter().enumerate().for_each(|(class, &weight)| visit(class, weight));
            }
        }
    }
}

/// One row on its way: its scores become exponentials in place.
struct Row<'a, T> {
    values: &'a mut [T],
    loss: T,
    /// Sum of the exponentials, and of the target's weights.
    totals: (T, T),
}

/// The cross entropy between the softmax of the rows of `scores` and the targets. Soft targets need not sum to 1:
/// the loss is `sum_j t_j (logsumexp(s) - s_j)`, as PyTorch's.
pub fn cross_entropy<T: Real>(
    scores: &Tensor<T>,
    targets: Targets<T>,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    let (rows, columns) = scores.shape().matrix("cross_entropy", "scores")?;
    targets.check(rows, columns)?;
    let values = scores.values();
    let mut exponentials = Buffer::stale(values.len());
    let rows_of_work = exponentials.chunks_exact_mut(columns.max(1));
    let row = |values| Row { values, loss: T::ZERO, totals: (T::ZERO, T::ZERO) };
    let mut work: Vec<Row<'_, T>> = memory::collect(rows_of_work.map(row));
    threads::for_each_chunk(&mut work, 1, |row, work| {
        let values = &values[row * columns..][..columns];
        work.iter_mut().for_each(|work| forward(work, values, row, &targets));
    });
    let losses: Vec<T> = memory::collect(work.iter().map(|row| row.loss));
    let totals: Vec<(T, T)> = memory::collect(work.iter().map(|row| row.totals));
    drop(work);
    let exponentials = Arc::new(exponentials);
    let losses =
        custom("cross_entropy", Arc::new(losses.into()), Shape::new(&[rows])?, [scores], move |grad, _| {
            // A copy, because a retained tape may come back for the exponentials.
            let mut out = exponentials.as_ref().clone();
            threads::for_each_chunk(&mut out, columns, |row, out| {
                let ((total, weight), grad) = (totals[row], grad[row]);
                let scale = grad * weight / total;
                out.iter_mut().for_each(|value| *value *= scale);
                targets.each(row, columns, |class, weight| out[class] -= grad * weight);
            });
            [Some(out)]
        });
    reduction.apply(&losses)
}

/// How much classes and rows count.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassOptions<'a, T> {
    /// A weight for each class, finite and not negative; `None`: 1.
    pub weight: Option<&'a [T]>,
    /// Rows that have no loss; `None`: all have one.
    pub ignored: Option<&'a [bool]>,
    /// The share of each target that is spread evenly over all classes (Szegedy et al. 2016), from 0 to 1.
    pub label_smoothing: f64,
}

/// [`cross_entropy`] with PyTorch's options: `-sum_j w_j t_ij ln softmax(s_i)_j`, where `t = (1 - e) target + e / C`. The mean is over the
/// sum of the weights of the rows' classes, or over the number of rows that are not ignored where targets are shares.
///
/// # Errors
///
/// [`Error::Shape`] for weights or marks of another number, [`Error::Config`] for values outside their domain, and for a mean over
/// rows that do not count.
pub fn weighted_cross_entropy<T: Real>(
    scores: &Tensor<T>,
    targets: &Targets<T>,
    options: ClassOptions<'_, T>,
    reduction: Reduction,
) -> Result<Tensor<T>> {
    let (rows, columns) = scores.shape().matrix("cross_entropy", "scores")?;
    targets.check(rows, columns)?;
    let ClassOptions { weight, ignored, label_smoothing } = options;
    if !(0.0..=1.0).contains(&label_smoothing) {
        return Err(Error::Config(format!("label_smoothing must be from 0 to 1, got {label_smoothing}")));
    }
    if let Some(weight) = weight {
        if weight.len() != columns {
            let message =
                format!("weight must have a value for each of {columns} classes, got {}", weight.len());
            return Err(Error::Shape(message));
        }
        if let Some(value) = weight.iter().find(|value| !(**value >= T::ZERO && value.wide().is_finite())) {
            return Err(Error::Config(format!(
                "weight must be finite and not negative, got {}",
                value.wide()
            )));
        }
    }
    if let Some(ignored) = ignored
        && ignored.len() != rows
    {
        return Err(Error::Shape(format!("cross_entropy: {} marks for {rows} rows", ignored.len())));
    }
    let weight_of = |class: usize| weight.map_or(T::ONE, |weight| weight[class]);
    let (kept, spread) = (T::of(1.0 - label_smoothing), T::of(label_smoothing / columns.max(1) as f64));
    let (mut soft, mut total) = (memory::vec![T::ZERO; rows * columns], T::ZERO);
    for (row, soft) in soft.chunks_exact_mut(columns.max(1)).enumerate() {
        if ignored.is_some_and(|ignored| ignored[row]) {
            continue;
        }
        total += match targets {
            Targets::Classes(classes) => weight_of(classes[row] as usize),
            Targets::Sets { .. } | Targets::Soft(_) => T::ONE,
        };
        soft.fill(spread);
        targets.each(row, columns, |class, share| soft[class] += kept * share);
        soft.iter_mut().enumerate().for_each(|(class, share)| *share *= weight_of(class));
    }
    let losses = cross_entropy(scores, Targets::Soft(soft), Reduction::None)?;
    if reduction != Reduction::Mean {
        return reduction.apply(&losses);
    }
    if total <= T::ZERO {
        return Err(Error::Config("cross_entropy: no row counts: all are ignored, or weigh nothing".into()));
    }
    losses.sum()?.affine(T::ONE / total, T::ZERO)
}

fn forward<T: Real>(work: &mut Row<'_, T>, scores: &[T], row: usize, targets: &Targets<T>) {
    let max = scores.iter().copied().fold(T::of(f64::NEG_INFINITY), larger);
    let (_, total) = crate::autograd::exponentials(scores, work.values);
    let log_total = max + total.ln();
    let (mut loss, mut weights) = (T::ZERO, T::ZERO);
    targets.each(row, scores.len(), |class, weight| {
        // A class without weight may have the score -inf.
        if weight != T::ZERO {
            loss += weight * (log_total - scores[class]);
            weights += weight;
        }
    });
    (work.loss, work.totals) = (loss, (total, weights));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    fn all() -> [Targets<f64>; 3] {
        [
            Targets::Classes(vec![1, 0, 3]),
            Targets::Sets { indptr: vec![0, 2, 3, 6], classes: vec![0, 2, 1, 3, 1, 0] },
            Targets::Soft(vec![0.1, 0.2, 0.3, 0.4, 1.0, 0.0, 0.0, 0.0, 0.5, 0.25, 0.5, 0.0]),
        ]
    }

    #[test]
    fn gradients_for_every_kind_of_target_and_reduction() {
        for targets in all() {
            for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
                gradcheck(&[random(&[3, 4], 0)], |x| cross_entropy(&x[0], targets.clone(), reduction))
                    .unwrap();
            }
        }
    }

    #[test]
    fn matches_the_definition() {
        let scores = random(&[3, 4], 0);
        let logs = scores.log_softmax(1).unwrap().to_vec();
        for targets in all() {
            let got = cross_entropy(&scores, targets.clone(), Reduction::None).unwrap().to_vec();
            for (row, got) in got.into_iter().enumerate() {
                let mut expected = 0.0;
                targets.each(row, 4, |class, weight| expected -= weight * logs[row * 4 + class]);
                assert!((got - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn weights_smoothing_and_ignored_rows_follow_pytorch() {
        let scores = random(&[3, 4], 0);
        let logs = scores.log_softmax(1).unwrap().to_vec();
        let (weight, ignored) = ([1.0, 2.0, 0.5, 3.0], [false, true, false]);
        let options = ClassOptions { weight: Some(&weight), ignored: Some(&ignored), label_smoothing: 0.2 };
        let classes = Targets::Classes(vec![1, 0, 3]);
        for reduction in Reduction::ALL {
            let loss = |x: &[Tensor<f64>]| weighted_cross_entropy(&x[0], &classes, options, reduction);
            gradcheck(std::slice::from_ref(&scores), loss).unwrap();
        }
        let of = |row: usize, class: usize| {
            let smooth: f64 = (0..4).map(|class| weight[class] * logs[row * 4 + class]).sum();
            -0.8 * weight[class] * logs[row * 4 + class] - 0.05 * smooth
        };
        let expected = (of(0, 1) + of(2, 3)) / 5.0;
        let got = weighted_cross_entropy(&scores, &classes, options, Reduction::Mean).unwrap();
        assert!((got.item().unwrap() - expected).abs() < 1e-12);
        for targets in all() {
            let plain = cross_entropy(&scores, targets.clone(), Reduction::Mean).unwrap().item().unwrap();
            let got = weighted_cross_entropy(&scores, &targets, ClassOptions::default(), Reduction::Mean);
            assert!((got.unwrap().item().unwrap() - plain).abs() < 1e-12);
        }
        let refused = |options| weighted_cross_entropy(&scores, &classes, options, Reduction::Mean).is_err();
        assert!(refused(ClassOptions { weight: Some(&weight[..3]), ..options }));
        assert!(refused(ClassOptions { weight: Some(&[1.0, -1.0, 1.0, 1.0]), ..options }));
        assert!(refused(ClassOptions { ignored: Some(&[true; 3]), ..options }));
        assert!(refused(ClassOptions { ignored: Some(&[true; 2]), ..options }));
        assert!(refused(ClassOptions { label_smoothing: 1.5, ..options }));
    }

    #[test]
    fn a_retained_tape_gives_the_same_gradient_again() {
        let scores = random(&[3, 4], 0);
        let loss = cross_entropy(&scores, all()[0].clone(), Reduction::Mean).unwrap();
        loss.backward_from(None, true).unwrap();
        let once = scores.grad().unwrap().to_vec();
        loss.backward().unwrap();
        let twice = scores.grad().unwrap().to_vec();
        assert!(once.iter().zip(twice).all(|(a, b)| (2.0 * a - b).abs() < 1e-15));
    }

    #[test]
    fn huge_scores_stay_finite_and_bad_targets_are_refused() {
        let scores = Tensor::parameter(vec![1e4f32, -1e4, f32::NEG_INFINITY], &[1, 3]).unwrap();
        let loss = cross_entropy(&scores, Targets::Classes(vec![1]), Reduction::Mean).unwrap();
        assert_eq!(loss.item().unwrap(), 2e4);
        loss.backward().unwrap();
        assert_eq!(scores.grad().unwrap().to_vec(), [1.0, -1.0, 0.0]);
        let refused = |targets| cross_entropy(&scores, targets, Reduction::Mean).is_err();
        assert!(refused(Targets::Classes(vec![3])) && refused(Targets::Classes(vec![0, 1])));
        assert!(refused(Targets::Sets { indptr: vec![0, 0], classes: vec![] }));
        assert!(refused(Targets::Soft(vec![1.0; 2])));
    }
}
