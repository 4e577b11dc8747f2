//! Loops in plain Rust, compiled once for each instruction set and chosen at run time.
//!
//! Where [`simd`](crate::simd) names registers, these leave it to the compiler to find them: they hold the exponentials and
//! gates of attention and recurrent units, over rows that are in the cache. Nothing is reordered or fused, so all sets
//! give the same bits.

#![allow(unsafe_code)]
// Several rows are read at the same place; iterators over four of them hide that.
#![allow(clippy::needless_range_loop)]

use crate::real::{Real, larger};
use crate::simd::{Rows, prefetch, rows_ahead};

/// Values per pass over scores: a register of the widest set.
const LANES: usize = 16;

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

/// As [`by_heads`], by the width of a head.
macro_rules! by_width {
    ($width:expr, $f:ident($($argument:expr),*)) => {
        match $width {
            8 => $f::<T, 8>($($argument),*, 8),
            16 => $f::<T, 16>($($argument),*, 16),
            32 => $f::<T, 32>($($argument),*, 32),
            64 => $f::<T, 64>($($argument),*, 64),
            width => $f::<T, 0>($($argument),*, width),
        }
    };
}

/// Softmax of one node's scores, `heads` columns, in place.
pub fn softmax<T: Real>(scores: &mut [T], heads: usize) {
    by_heads!(heads, softmax_of(scores, &mut []));
}

/// As [`softmax`]; `kept` gets each head's largest score, then each head's `1 / sum exp(score - largest)`.
pub fn softmax_kept<T: Real>(scores: &mut [T], heads: usize, kept: &mut [T]) {
    by_heads!(heads, softmax_of(scores, kept));
}

/// Turns one node's gradients, `heads` columns, into those of its scores: `grad = y (grad - sum y grad)`.
pub fn softmax_adjoint<T: Real>(grad: &mut [T], y: &[T], heads: usize) {
    by_heads!(heads, softmax_adjoint_of(grad, y));
}

/// The terms of the edges of one node: `source[rows_j] + target (+ own_j)`, `width` values each.
#[derive(Clone, Copy)]
pub struct EdgeTerms<'a, T> {
    /// Rows of sources, which begin with their terms.
    pub source: &'a [T],
    /// From one such row to the next.
    pub stride: usize,
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
    /// `f(term, at)` for the `width` terms of edge `j`.
    #[inline(always)]
    fn each(&self, j: usize, width: usize, mut f: impl FnMut(T, usize)) {
        let source = &self.source[self.rows.now[j] as usize * self.stride..][..width];
        let target = &self.target[..width];
        match self.own {
            None => {
                for at in 0..width {
                    f(source[at] + target[at], at);
                }
            }
            Some(own) => {
                let own = &own[j * width..][..width];
                for at in 0..width {
                    f(source[at] + target[at] + own[at], at);
                }
            }
        }
    }

    /// Asks for a row some edges ahead.
    #[inline(always)]
    fn prefetch(&self, j: usize, width: usize) {
        if let Some(row) = self.rows.ahead(j + rows_ahead(width)) {
            for at in (0..width).step_by(LANES) {
                prefetch(self.source, row as usize * self.stride + at);
            }
        }
    }
}

/// The edges that leave one source, whose weights are made again for the backward pass.
#[derive(Clone, Copy)]
pub struct LeavingEdges<'a, T> {
    /// The term of the source, a value per head.
    pub source: &'a [T],
    /// Per node and head its term, its largest score, the scale of its weights and `sum alpha dalpha`, four rows of `heads`.
    pub nodes: &'a [T],
    /// The nodes that the edges enter.
    pub rows: Rows<'a>,
    /// The terms of the edges themselves.
    pub own: Option<&'a [T]>,
    /// Of the leaky rectifier.
    pub slope: T,
}

impl<'a, T: Real> LeavingEdges<'a, T> {
    /// What is known of the node that edge `j` enters, and `f(term, at)` for the terms of the edge.
    #[inline(always)]
    fn each(&self, j: usize, heads: usize, mut f: impl FnMut(&'a [T], T, usize)) {
        let node = &self.nodes[self.rows.now[j] as usize * 4 * heads..][..4 * heads];
        let source = &self.source[..heads];
        match self.own {
            None => {
                for at in 0..heads {
                    f(node, source[at] + node[at], at);
                }
            }
            Some(own) => {
                let own = &own[j * heads..][..heads];
                for at in 0..heads {
                    f(node, source[at] + node[at] + own[at], at);
                }
            }
        }
    }
}

/// `alpha_jh = exp(l(term_jh) - largest_h) scale_h`: the weights of the edges.
pub fn weights_again<T: Real>(edges: LeavingEdges<'_, T>, alpha: &mut [T]) {
    by_heads!(edges.source.len(), weights_again_of(edges, alpha));
}

/// Turns the gradients of the weights into those of the terms, `d_jh = alpha_jh (d_jh - sum_h) l'(term_jh)`, and `out_h =
/// sum_j d_jh`.
pub fn weights_again_adjoint<T: Real>(edges: LeavingEdges<'_, T>, alpha: &[T], d: &mut [T], out: &mut [T]) {
    by_heads!(edges.source.len(), weights_again_adjoint_of(edges, alpha, d, out));
}

/// `scores_j = l(terms_j)`, a score per column.
pub fn leaky<T: Real>(terms: EdgeTerms<'_, T>, scores: &mut [T]) {
    by_heads!(terms.target.len(), leaky_of(terms, scores));
}

/// `grad_j *= l'(terms_j)`.
pub fn leaky_adjoint<T: Real>(terms: EdgeTerms<'_, T>, grad: &mut [T]) {
    by_heads!(terms.target.len(), leaky_adjoint_of(terms, grad));
}

/// `scores_jh = sum_c weight_hc l(terms_j)_hc`, the columns divided among the heads; `room` holds a row.
pub fn weighed_leaky<T: Real>(
    terms: EdgeTerms<'_, T>,
    weight: &[T],
    width: usize,
    room: &mut [T],
    scores: &mut [T],
) {
    by_width!(width, weighed_leaky_of(terms, weight, room, scores));
}

/// `out_hc += sum_j ds_jh l(terms_j)_hc`: the gradient of the weight.
pub fn weighed_leaky_to_weight<T: Real>(
    terms: EdgeTerms<'_, T>,
    ds: &[T],
    width: usize,
    room: &mut [T],
    out: &mut [T],
) {
    by_width!(width, weighed_leaky_to_weight_of(terms, ds, room, out));
}

/// `out_hc += sum_j ds_jh weight_hc l'(terms_j)_hc`: the gradient of the term that the edges share.
pub fn weighed_leaky_to_terms<T: Real>(
    terms: EdgeTerms<'_, T>,
    weight: &[T],
    ds: &[T],
    width: usize,
    room: &mut [T],
    out: &mut [T],
) {
    by_width!(width, weighed_leaky_to_terms_of(terms, weight, ds, room, out));
}

/// `out_hc += ds_h x_hc`.
#[inline(always)]
fn add_by_head<T: Real>(ds: &[T], x: &[T], out: &mut [T], width: usize) {
    for ((out, x), &ds) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(ds) {
        for at in 0..width {
            out[at] += ds * x[at];
        }
    }
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
        for register in registers.iter() {
            for lane in 0..LANES {
                max[lane] = larger(max[lane], register[lane]);
            }
        }
        let max = fold_lanes::<T, HEADS>(max, larger);
        let mut total = [T::ZERO; LANES];
        for register in registers.iter_mut().chain([&mut last]) {
            for lane in 0..LANES {
                register[lane] = (register[lane] - max[lane]).exp();
                total[lane] += register[lane];
            }
        }
        let mut scale = fold_lanes::<T, HEADS>(total, |a, b| a + b);
        for lane in 0..LANES {
            scale[lane] = T::ONE / scale[lane];
        }
        for register in registers.iter_mut().chain([&mut last]) {
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
            terms.each(j, heads, |term, at| row[at] = rectified(term, terms.slope));
        }
    }

    fn leaky_adjoint_of[T: Real, const HEADS: usize][T, HEADS](
        terms: EdgeTerms<'_, T>, grad: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        for (j, row) in grad.chunks_exact_mut(heads).enumerate() {
            terms.prefetch(j, heads);
            terms.each(j, heads, |term, at| row[at] *= slope_at(term, terms.slope));
        }
    }

    fn weights_again_of[T: Real, const HEADS: usize][T, HEADS](
        edges: LeavingEdges<'_, T>, alpha: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        for (j, row) in alpha.chunks_exact_mut(heads).enumerate() {
            if let Some(node) = edges.rows.ahead(j + rows_ahead(4 * heads)) {
                let start = node as usize * 4 * heads;
                for at in (0..4 * heads).step_by(LANES) {
                    prefetch(edges.nodes, start + at);
                }
            }
            edges.each(j, heads, |node, term, at| row[at] = rectified(term, edges.slope) - node[heads + at]);
        }
        for value in alpha.iter_mut() {
            *value = value.exp();
        }
        for (row, &node) in alpha.chunks_exact_mut(heads).zip(edges.rows.now) {
            let scale = &edges.nodes[(node as usize * 4 + 2) * heads..][..heads];
            for at in 0..heads {
                row[at] *= scale[at];
            }
        }
    }

    fn weights_again_adjoint_of[T: Real, const HEADS: usize][T, HEADS](
        edges: LeavingEdges<'_, T>, alpha: &[T], d: &mut [T], out: &mut [T], heads: usize
    ) {
        let heads = if HEADS == 0 { heads } else { HEADS };
        let out = &mut out[..heads];
        out.fill(T::ZERO);
        for (j, (d, alpha)) in d.chunks_exact_mut(heads).zip(alpha.chunks_exact(heads)).enumerate() {
            edges.each(j, heads, |node, term, at| {
                d[at] = alpha[at] * (d[at] - node[3 * heads + at]) * slope_at(term, edges.slope);
                out[at] += d[at];
            });
        }
    }

    fn weighed_leaky_of[T: Real, const WIDTH: usize][T, WIDTH](
        terms: EdgeTerms<'_, T>, weight: &[T], room: &mut [T], scores: &mut [T], width: usize
    ) {
        let width = if WIDTH == 0 { width } else { WIDTH };
        let room = &mut room[..weight.len()];
        for (j, scores) in scores.chunks_exact_mut(weight.len() / width).enumerate() {
            terms.prefetch(j, weight.len());
            terms.each(j, weight.len(), |term, at| room[at] = rectified(term, terms.slope) * weight[at]);
            for (score, part) in scores.iter_mut().zip(room.chunks_exact(width)) {
                *score = sum(part);
            }
        }
    }

    fn weighed_leaky_to_weight_of[T: Real, const WIDTH: usize][T, WIDTH](
        terms: EdgeTerms<'_, T>, ds: &[T], room: &mut [T], out: &mut [T], width: usize
    ) {
        let width = if WIDTH == 0 { width } else { WIDTH };
        let room = &mut room[..out.len()];
        for (j, ds) in ds.chunks_exact(out.len() / width).enumerate() {
            terms.prefetch(j, out.len());
            terms.each(j, out.len(), |term, at| room[at] = rectified(term, terms.slope));
            add_by_head(ds, room, out, width);
        }
    }

    fn weighed_leaky_to_terms_of[T: Real, const WIDTH: usize][T, WIDTH](
        terms: EdgeTerms<'_, T>, weight: &[T], ds: &[T], room: &mut [T], out: &mut [T], width: usize
    ) {
        let width = if WIDTH == 0 { width } else { WIDTH };
        let room = &mut room[..weight.len()];
        for (j, ds) in ds.chunks_exact(weight.len() / width).enumerate() {
            terms.prefetch(j, weight.len());
            terms.each(j, weight.len(), |term, at| room[at] = weight[at] * slope_at(term, terms.slope));
            add_by_head(ds, room, out, width);
        }
    }

    /// `out_jhc = ds_jh weight_hc l'(terms_j)_hc`: the gradients of the edges' own terms.
    pub fn weighed_leaky_to_edges[T: Real][T](
        terms: EdgeTerms<'_, T>, weight: &[T], ds: &[T], width: usize, out: &mut [T]
    ) {
        let columns = weight.len();
        let rows = out.chunks_exact_mut(columns).zip(ds.chunks_exact(columns / width));
        for (j, (out, ds)) in rows.enumerate() {
            terms.each(j, columns, |term, at| out[at] = weight[at] * slope_at(term, terms.slope));
            for (out, &ds) in out.chunks_exact_mut(width).zip(ds) {
                out.iter_mut().for_each(|out| *out *= ds);
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
