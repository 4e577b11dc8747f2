//! Softmax over the edges of a node.

use super::LANES;
use crate::real::{Real, larger};

/// Softmax of one node's scores, `heads` columns, in place.
pub fn softmax<T: Real>(scores: &mut [T], heads: usize) {
    by_heads!(heads, softmax_of(scores, &mut []));
}

/// As [`softmax`]; `kept`, unless empty, gets each head's largest score, then each head's `1 / sum exp(score - largest)`.
pub fn softmax_kept<T: Real>(scores: &mut [T], heads: usize, kept: &mut [T]) {
    by_heads!(heads, softmax_of(scores, kept));
}

/// `out_h = sum_j rows_jh`.
pub fn sums_by_head<T: Real>(rows: &[T], out: &mut [T]) {
    by_heads!(out.len(), sums_by_head_of(rows, out));
}

/// Turns one node's gradients, `heads` columns, into those of its scores: `grad = y (grad - sum y grad)`.
pub fn softmax_adjoint<T: Real>(grad: &mut [T], y: &[T], heads: usize) {
    by_heads!(heads, softmax_adjoint_of(grad, y));
}

vectorized! {
    fn softmax_of[T: Real, const HEADS: usize][T, HEADS](
        scores: &mut [T], kept: &mut [T], heads: usize
    ) {
        if HEADS == 0 {
            for head in 0..heads {
                let [max, scale] = softmax_column(scores, head, heads);
                if !kept.is_empty() {
                    (kept[head], kept[heads + head]) = (max, scale);
                }
            }
            return;
        }
        // Lane by lane over whole registers; the heads recur every HEADS lanes, which divide a register.
        let (registers, rest) = scores.as_chunks_mut::<LANES>();
        let mut last = [T::of(f64::NEG_INFINITY); LANES];
        last[..rest.len()].copy_from_slice(rest);
        let mut max = last;
        let partial = &mut std::slice::from_mut(&mut last)[..usize::from(!rest.is_empty())];
        for register in registers.iter() {
            for lane in 0..LANES {
                max[lane] = larger(max[lane], register[lane]);
            }
        }
        let max = fold_lanes::<T, HEADS>(max, larger);
        let mut total = [T::ZERO; LANES];
        for register in registers.iter_mut().chain(partial.iter_mut()) {
            for lane in 0..LANES {
                register[lane] = (register[lane] - max[lane]).exp();
                total[lane] += register[lane];
            }
        }
        let mut scale = fold_lanes::<T, HEADS>(total, |a, b| a + b);
        for lane in 0..LANES {
            scale[lane] = T::ONE / scale[lane];
        }
        for register in registers.iter_mut().chain(partial.iter_mut()) {
            for lane in 0..LANES {
                register[lane] *= scale[lane];
            }
        }
        rest.copy_from_slice(&last[..rest.len()]);
        if !kept.is_empty() {
            kept[..HEADS].copy_from_slice(&max[..HEADS]);
            kept[HEADS..2 * HEADS].copy_from_slice(&scale[..HEADS]);
        }
    }

    fn sums_by_head_of[T: Real, const HEADS: usize][T, HEADS](rows: &[T], out: &mut [T], heads: usize) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let out = &mut out[..heads];
        out.fill(T::ZERO);
        for row in rows.chunks_exact(heads) {
            for at in 0..heads {
                out[at] += row[at];
            }
        }
    }

    fn softmax_adjoint_of[T: Real, const HEADS: usize][T, HEADS](grad: &mut [T], y: &[T], heads: usize) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        for head in (0..heads).step_by(16) {
            let count = if HEADS == 0 { (heads - head).min(16) } else { HEADS };
            let mut inner = [T::ZERO; 16];
            for (grad, y) in grad.chunks_exact(heads).zip(y.chunks_exact(heads)) {
                for at in 0..count {
                    inner[at] += grad[head + at] * y[head + at];
                }
            }
            for (grad, y) in grad.chunks_exact_mut(heads).zip(y.chunks_exact(heads)) {
                for at in 0..count {
                    grad[head + at] = y[head + at] * (grad[head + at] - inner[at]);
                }
            }
        }
    }
}

/// Combines the lanes that belong to the same of `HEADS` heads, and gives each lane its head's result.
#[inline(always)]
fn fold_lanes<T: Real, const HEADS: usize>(mut lanes: [T; LANES], combine: impl Fn(T, T) -> T) -> [T; LANES] {
    let mut half = LANES / 2;
    while half >= HEADS {
        for lane in 0..half {
            lanes[lane] = combine(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    std::array::from_fn(|lane| lanes[lane % HEADS])
}

#[inline(always)]
fn softmax_column<T: Real>(scores: &mut [T], head: usize, heads: usize) -> [T; 2] {
    let mut max = T::of(f64::NEG_INFINITY);
    for row in scores.chunks_exact(heads) {
        max = larger(max, row[head]);
    }
    let mut total = T::ZERO;
    for row in scores.chunks_exact_mut(heads) {
        row[head] = (row[head] - max).exp();
        total += row[head];
    }
    let scale = T::ONE / total;
    for row in scores.chunks_exact_mut(heads) {
        row[head] *= scale;
    }
    [max, scale]
}
