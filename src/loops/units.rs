//! Gates of recurrent units, normalization of rows, messages of a softmax aggregation.

use super::sum;
use crate::real::Real;

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

vectorized! {
    /// Adds one message `m = weight x` of a softmax aggregation to the sums of `e^(m - max) m` and `e^(m - max)`.
    pub fn add_message[T: Real][T](weight: T, x: &[T], max: &[T], sums: &mut [T], total: &mut [T]) {
        for (((sum, total), &x), &max) in sums.iter_mut().zip(total).zip(x).zip(max) {
            let message = weight * x;
            let e = (message - max).exp();
            *sum += e * message;
            *total += e;
        }
    }

    /// `out += weight grad slope(weight x, first, second)`; `rows` are `[x, grad, first, second]`.
    pub fn add_slopes[T: Real, S: Fn(T, T, T) -> T][T, S](weight: T, rows: [&[T]; 4], slope: &S, out: &mut [T]) {
        let [x, grad, first, second] = rows;
        for ((((out, &x), &grad), &first), &second) in out.iter_mut().zip(x).zip(grad).zip(first).zip(second) {
            *out += weight * grad * slope(weight * x, first, second);
        }
    }

    /// `out = sigmoid(a) h`.
    pub fn gate[T: Real][T](a: &[T], h: &[T], out: &mut [T]) {
        for ((out, &a), &h) in out.iter_mut().zip(a).zip(h) {
            *out = h * sigmoid(a);
        }
    }

    /// From the gradient of [`gate`]'s result that of `a`; adds that of `h`. Makes the result again.
    pub fn gate_adjoint[T: Real][T](
        a: &[T], h: &[T], grad: &[T], to_a: &mut [T], out: &mut [T], to_h: &mut [T]
    ) {
        for at in 0..grad.len().min(a.len()).min(h.len()).min(to_a.len()).min(out.len()).min(to_h.len()) {
            let (g, r) = (grad[at], sigmoid(a[at]));
            to_a[at] = g * h[at] * r * (T::ONE - r);
            out[at] = h[at] * r;
            to_h[at] += g * r;
        }
    }

    /// `out = h + sigmoid(a) (tanh(b) - h)`.
    pub fn blend[T: Real][T](a: &[T], b: &[T], h: &[T], out: &mut [T]) {
        for (((out, &a), &b), &h) in out.iter_mut().zip(a).zip(b).zip(h) {
            *out = h + sigmoid(a) * (b.tanh() - h);
        }
    }

    /// From the gradient of [`blend`]'s result those of `a`, `b` and, in place, `h`.
    pub fn blend_adjoint[T: Real][T](
        a: &[T], b: &[T], h: &[T], to_a: &mut [T], to_b: &mut [T], grad: &mut [T]
    ) {
        for at in 0..grad.len().min(a.len()).min(b.len()).min(h.len()).min(to_a.len()).min(to_b.len()) {
            let (g, z, c) = (grad[at], sigmoid(a[at]), b[at].tanh());
            to_a[at] = g * (c - h[at]) * z * (T::ONE - z);
            to_b[at] = g * z * (T::ONE - c * c);
            grad[at] = g * (T::ONE - z);
        }
    }

    /// Layer normalization of one row in place.
    pub fn normalize[T: Real][T](row: &mut [T], weight: &[T], bias: &[T], eps: T) {
        let (mean, scale) = moments(row, eps);
        if !is_ordinary(scale) {
            return normalize_far(row, weight, bias, eps);
        }
        for ((x, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
            *x = (*x - mean) * scale * w + b;
        }
    }

    /// From the gradient of [`normalize`]'s result that of the row, in place; adds those of weight and bias.
    pub fn normalize_adjoint[T: Real][T](
        x: &[T], weight: &[T], eps: T, grad: &mut [T], to_weight: &mut [T], to_bias: &mut [T]
    ) {
        let (mean, scale) = moments(x, eps);
        if !is_ordinary(scale) {
            return normalize_adjoint_far(x, weight, eps, grad, to_weight, to_bias);
        }
        let share = T::ONE / T::of(x.len() as f64);
        for ((((grad, &x), &w), to_weight), to_bias) in grad.iter_mut().zip(x).zip(weight).zip(to_weight).zip(to_bias) {
            *to_weight += *grad * (x - mean) * scale;
            *to_bias += *grad;
            *grad *= w;
        }
        let center = sum(grad) * share;
        let mut products = [T::ZERO; 8];
        for (grad, x) in grad.chunks(8).zip(x.chunks(8)) {
            for ((product, &g), &x) in products.iter_mut().zip(grad).zip(x) {
                *product += g * (x - mean);
            }
        }
        let slope = sum(&products) * scale * share;
        for (grad, &x) in grad.iter_mut().zip(x) {
            *grad = scale * (*grad - center - (x - mean) * scale * slope);
        }
    }
}

/// Whether the squares that a scale is made of have a sum in `T`.
#[inline(always)]
fn is_ordinary<T: Real>(scale: T) -> bool {
    scale > T::ZERO
}

/// [`moments`] in `f64`, for rows whose squares are beyond the range of `T`.
fn far_moments<T: Real>(row: &[T], eps: T) -> (f64, f64) {
    let count = row.len() as f64;
    let mean = row.iter().map(|x| x.wide()).sum::<f64>() / count;
    let variance = row.iter().map(|x| (x.wide() - mean).powi(2)).sum::<f64>() / count;
    (mean, (variance + eps.wide()).sqrt().recip())
}

#[cold]
fn normalize_far<T: Real>(row: &mut [T], weight: &[T], bias: &[T], eps: T) {
    let (mean, scale) = far_moments(row, eps);
    for ((x, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
        *x = T::of((x.wide() - mean) * scale) * w + b;
    }
}

#[cold]
fn normalize_adjoint_far<T: Real>(
    x: &[T],
    weight: &[T],
    eps: T,
    grad: &mut [T],
    to_weight: &mut [T],
    to_bias: &mut [T],
) {
    let (mean, scale) = far_moments(x, eps);
    let normalized = |x: T| (x.wide() - mean) * scale;
    let (mut center, mut slope) = (0.0, 0.0);
    for (at, g) in grad.iter_mut().enumerate() {
        to_weight[at] += *g * T::of(normalized(x[at]));
        to_bias[at] += *g;
        *g *= weight[at];
        center += g.wide();
        slope += g.wide() * normalized(x[at]);
    }
    let count = x.len() as f64;
    for (g, &x) in grad.iter_mut().zip(x) {
        *g = T::of(scale * (g.wide() - center / count - normalized(x) * slope / count));
    }
}

/// Mean and `1 / sqrt(var + eps)` of a row.
#[inline(always)]
pub fn moments<T: Real>(row: &[T], eps: T) -> (T, T) {
    let count = T::of(row.len() as f64);
    let mean = sum(row) / count;
    let mut squares = [T::ZERO; 8];
    let (eights, rest) = row.as_chunks::<8>();
    for eight in eights {
        for lane in 0..8 {
            squares[lane] += (eight[lane] - mean) * (eight[lane] - mean);
        }
    }
    for (square, &x) in squares.iter_mut().zip(rest) {
        *square += (x - mean) * (x - mean);
    }
    (mean, T::ONE / (sum(&squares) / count + eps).sqrt())
}
