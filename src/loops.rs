//! Loops in plain Rust, compiled once for each instruction set and chosen at run time.
//!
//! Where [`simd`](crate::simd) names registers, these leave it to the compiler to find them: they hold the exponentials and
//! gates of attention and recurrent units, over rows that are in the cache. Nothing is reordered or fused, so all sets
//! give the same bits.

#![allow(unsafe_code)]
// Several rows are read at the same place; iterators over four of them hide that.
#![allow(clippy::needless_range_loop)]

use crate::real::{Real, larger};
use crate::simd::{Rows, prefetch};

/// How many edges ahead the terms of scores are fetched.
const AHEAD: usize = 16;

/// Defines functions whose body is compiled for each set; generics stand in brackets, first declared, then passed on.
macro_rules! vectorized {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident[$($declared:tt)*][$($passed:tt)*]
        ($($argument:ident: $kind:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name<$($declared)*>($($argument: $kind),*) {
            #[inline(always)]
            fn body<$($declared)*>($($argument: $kind),*) $body
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$($declared)*>($($argument: $kind),*) {
                    body::<$($passed)*>($($argument),*);
                }
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512<$($declared)*>($($argument: $kind),*) {
                    body::<$($passed)*>($($argument),*);
                }
                match crate::simd::kernels().isa {
                    // SAFETY: kernels() has seen that the processor has the set.
                    crate::simd::Isa::Avx2 => return unsafe { avx2::<$($passed)*>($($argument),*) },
                    // SAFETY: as above.
                    crate::simd::Isa::Avx512 => return unsafe { avx512::<$($passed)*>($($argument),*) },
                    _ => {}
                }
            }
            body::<$($passed)*>($($argument),*);
        }
    )*};
}

/// Calls `$f::<T, HEADS>($arguments)` with the number of heads known to the compiler where it is a usual one, else
/// `$f::<T, 0>`, which reads it from the last argument.
macro_rules! by_heads {
    ($heads:expr, $f:ident($($argument:expr),*)) => {
        match $heads {
            1 => $f::<T, 1>($($argument),*, 1),
            2 => $f::<T, 2>($($argument),*, 2),
            4 => $f::<T, 4>($($argument),*, 4),
            8 => $f::<T, 8>($($argument),*, 8),
            16 => $f::<T, 16>($($argument),*, 16),
            heads => $f::<T, 0>($($argument),*, heads),
        }
    };
}

/// Softmax of one node's scores, `heads` columns, in place.
pub fn softmax<T: Real>(scores: &mut [T], heads: usize) {
    by_heads!(heads, softmax_of(scores));
}

/// Turns one node's gradients, `heads` columns, into those of its scores: `grad = y (grad - sum y grad)`.
pub fn softmax_adjoint<T: Real>(grad: &mut [T], y: &[T], heads: usize) {
    by_heads!(heads, softmax_adjoint_of(grad, y));
}

/// The terms of the edges of one node: `source[rows_j] + target (+ own_j)`, `width` values each.
#[derive(Clone, Copy)]
pub struct EdgeTerms<'a, T> {
    /// A row per source.
    pub source: &'a [T],
    /// The sources of the edges.
    pub rows: Rows<'a>,
    /// The row of the node.
    pub target: &'a [T],
    /// A row per edge.
    pub own: Option<&'a [T]>,
    /// Of the leaky rectifier `l`.
    pub slope: T,
}

impl<T: Real> EdgeTerms<'_, T> {
    #[inline(always)]
    fn sum(&self, j: usize, at: usize, width: usize) -> T {
        let both = self.source[self.rows.now[j] as usize * width + at] + self.target[at];
        match self.own {
            None => both,
            Some(own) => both + own[j * width + at],
        }
    }
}

impl<T> EdgeTerms<'_, T> {
    /// Asks for a row some edges ahead.
    #[inline(always)]
    fn prefetch(&self, j: usize, width: usize) {
        if let Some(row) = self.rows.ahead(j + AHEAD) {
            prefetch(self.source, row as usize * width);
        }
    }
}

/// `scores_j = l(terms_j)`, a score per column.
pub fn leaky<T: Real>(terms: EdgeTerms<'_, T>, scores: &mut [T]) {
    by_heads!(terms.target.len(), leaky_of(terms, scores));
}

/// `grad_j *= l'(terms_j)`.
pub fn leaky_adjoint<T: Real>(terms: EdgeTerms<'_, T>, grad: &mut [T]) {
    by_heads!(terms.target.len(), leaky_adjoint_of(terms, grad));
}

#[inline(always)]
fn rectified<T: Real>(x: T, slope: T) -> T {
    if x > T::ZERO { x } else { x * slope }
}

#[inline(always)]
fn slope_at<T: Real>(x: T, slope: T) -> T {
    if x > T::ZERO { T::ONE } else { slope }
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// A sum in eight lanes.
#[inline(always)]
fn sum<T: Real>(values: &[T]) -> T {
    let (eights, rest) = values.as_chunks::<8>();
    let mut lanes = [T::ZERO; 8];
    for eight in eights {
        for lane in 0..8 {
            lanes[lane] += eight[lane];
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += value;
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Work that [`run`] compiles for each set; its `run` is `#[inline(always)]`.
pub trait Task {
    /// Does it.
    fn run(self);
}

vectorized! {
    /// Runs a task.
    pub fn run[K: Task][K](task: K) {
        task.run();
    }

    fn softmax_of[T: Real, const HEADS: usize][T, HEADS](scores: &mut [T], heads: usize) {
        if HEADS == 0 {
            for head in 0..heads {
                softmax_column(scores, head, heads);
            }
            return;
        }
        let mut max = [T::of(f64::NEG_INFINITY); 16];
        for row in scores.chunks_exact(HEADS.max(1)) {
            for head in 0..HEADS {
                max[head] = larger(max[head], row[head]);
            }
        }
        for row in scores.chunks_exact_mut(HEADS.max(1)) {
            for head in 0..HEADS {
                row[head] -= max[head];
            }
        }
        for score in scores.iter_mut() {
            *score = score.exp();
        }
        let mut scale = [T::ZERO; 16];
        for row in scores.chunks_exact(HEADS.max(1)) {
            for head in 0..HEADS {
                scale[head] += row[head];
            }
        }
        for head in 0..HEADS {
            scale[head] = T::ONE / scale[head];
        }
        for row in scores.chunks_exact_mut(HEADS.max(1)) {
            for head in 0..HEADS {
                row[head] *= scale[head];
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

    fn leaky_of[T: Real, const HEADS: usize][T, HEADS](terms: EdgeTerms<'_, T>, scores: &mut [T], heads: usize) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        for (j, row) in scores.chunks_exact_mut(heads).enumerate() {
            terms.prefetch(j, heads);
            for at in 0..heads {
                row[at] = rectified(terms.sum(j, at, heads), terms.slope);
            }
        }
    }

    fn leaky_adjoint_of[T: Real, const HEADS: usize][T, HEADS](
        terms: EdgeTerms<'_, T>, grad: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        for (j, row) in grad.chunks_exact_mut(heads).enumerate() {
            terms.prefetch(j, heads);
            for at in 0..heads {
                row[at] *= slope_at(terms.sum(j, at, heads), terms.slope);
            }
        }
    }

    /// `scores_jh = sum_c weight_hc l(terms_j)_hc`, the columns divided among `heads`; `room` holds a row.
    pub fn weighed_leaky[T: Real][T](
        terms: EdgeTerms<'_, T>, weight: &[T], heads: usize, room: &mut [T], scores: &mut [T]
    ) {
        let columns = weight.len();
        for (j, scores) in scores.chunks_exact_mut(heads).enumerate() {
            if let Some(row) = terms.rows.ahead(j + AHEAD / 2) {
                (0..columns).step_by(16).for_each(|at| prefetch(terms.source, row as usize * columns + at));
            }
            term_row(&terms, j, room);
            for at in 0..columns {
                room[at] = rectified(room[at], terms.slope) * weight[at];
            }
            for (score, part) in scores.iter_mut().zip(room.chunks_exact(columns / heads)) {
                *score = sum(part);
            }
        }
    }

    /// `out_hc += sum_j ds_jh l(terms_j)_hc`: the gradient of the weight.
    pub fn weighed_leaky_to_weight[T: Real][T](
        terms: EdgeTerms<'_, T>, ds: &[T], heads: usize, room: &mut [T], out: &mut [T]
    ) {
        let width = out.len() / heads;
        for (j, ds) in ds.chunks_exact(heads).enumerate() {
            term_row(&terms, j, room);
            for ((out, room), &ds) in out.chunks_exact_mut(width).zip(room.chunks_exact(width)).zip(ds) {
                for at in 0..width {
                    out[at] += ds * rectified(room[at], terms.slope);
                }
            }
        }
    }

    /// `out_hc += ds_h weight_hc l'(terms_j)_hc`: the gradient of the terms of edge `j`.
    pub fn weighed_leaky_to_terms[T: Real][T](
        terms: EdgeTerms<'_, T>, j: usize, weight: &[T], ds: &[T], room: &mut [T], out: &mut [T]
    ) {
        let width = out.len() / ds.len();
        term_row(&terms, j, room);
        let parts = out.chunks_exact_mut(width).zip(room.chunks_exact(width)).zip(weight.chunks_exact(width));
        for (((out, room), weight), &ds) in parts.zip(ds) {
            for at in 0..width {
                out[at] += ds * weight[at] * slope_at(room[at], terms.slope);
            }
        }
    }

    /// `out = sigmoid(a) h`.
    pub fn gate[T: Real][T](a: &[T], h: &[T], out: &mut [T]) {
        for ((out, &a), &h) in out.iter_mut().zip(a).zip(h) {
            *out = h * sigmoid(a);
        }
    }

    /// `grad = grad h r (1 - r)` with `r = sigmoid(a)`: to the gate.
    pub fn gate_to_gate[T: Real][T](a: &[T], h: &[T], grad: &mut [T]) {
        for ((grad, &a), &h) in grad.iter_mut().zip(a).zip(h) {
            let r = sigmoid(a);
            *grad = *grad * h * r * (T::ONE - r);
        }
    }

    /// `grad = grad sigmoid(a)`: to what was gated.
    pub fn gate_to_state[T: Real][T](a: &[T], grad: &mut [T]) {
        for (grad, &a) in grad.iter_mut().zip(a) {
            *grad *= sigmoid(a);
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
        for ((x, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
            *x = (*x - mean) * scale * w + b;
        }
    }
}

#[inline(always)]
fn softmax_column<T: Real>(scores: &mut [T], head: usize, heads: usize) {
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
}

/// The sum of the terms of edge `j`.
#[inline(always)]
fn term_row<T: Real>(terms: &EdgeTerms<'_, T>, j: usize, room: &mut [T]) {
    let columns = room.len();
    let source = &terms.source[terms.rows.now[j] as usize * columns..][..columns];
    for ((room, &a), &b) in room.iter_mut().zip(source).zip(terms.target) {
        *room = a + b;
    }
    if let Some(own) = terms.own {
        for (room, &c) in room.iter_mut().zip(&own[j * columns..][..columns]) {
            *room += c;
        }
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
