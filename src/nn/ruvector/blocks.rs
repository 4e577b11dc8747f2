//! The layer's forward pass without a tape, by blocks of nodes.
//!
//! Keys and values are never made. With `K_h`, `V_h`, `O_h` head `h`'s parts of the maps of keys, values and output,
//! `<q_v, K_h m_u> = <K_h^T q_v, m_u>`, and `W_agg (sum_h O_h V_h c_h + g)` with `c_h = sum_u alpha_h m_u` is one map of
//! the `c_h` and `g` side by side. So each neighbour's message is fetched once for all heads and the mean, and all that
//! lies between messages and result fits the cache: a block of rows at a time.

#![forbid(unsafe_code)]

use super::RuvectorLayer;
use crate::autograd::{Tensor, softmax_rows};
use crate::buffer::Buffer;
use crate::error::Result;
use crate::graph::Graph;
use crate::linalg::{MatRef, matmul_here};
use crate::nn::Linear;
use crate::real::Real;
use crate::simd::vectorized;
use crate::threads;

/// Nodes per block: what is between the steps fits the second-level cache.
const BLOCK: usize = 128;

/// Heads up to which this pass is the faster one: its products grow with the heads, the gathers that it saves do not.
pub(super) const HEADS: usize = 4;

/// A map whose weight `(outs, ins)` and bias were folded from several.
struct Map<T: Real> {
    weight: Buffer<T>,
    bias: Buffer<T>,
}

impl<T: Real> Map<T> {
    /// `out = x weight^T + bias`; with `accumulate`, `out += x weight^T`.
    fn apply(&self, x: &[T], rows: usize, out: &mut [T], accumulate: bool) {
        let outs = self.bias.len();
        let ins = self.weight.len() / outs;
        if !accumulate {
            out.chunks_exact_mut(outs).for_each(|row| row.copy_from_slice(&self.bias));
        }
        let (x, weight) = (MatRef::new(x, rows, ins), MatRef::new(&self.weight, outs, ins));
        matmul_here(x, weight.t(), out, true);
    }

    /// The maps of the same input, one under the other.
    fn stack(maps: &[&Linear<T>]) -> Self {
        let part =
            |tensor: fn(&Linear<T>) -> Vec<T>| maps.iter().flat_map(|map| tensor(map)).collect::<Vec<_>>();
        let bias = |map: &Linear<T>| match &map.bias {
            Some(bias) => bias.to_vec(),
            None => vec![T::ZERO; map.weight.dims()[0]],
        };
        Self { weight: part(|map| map.weight.to_vec()).into(), bias: part(bias).into() }
    }

    /// Adds another map's bias, which its products are accumulated without.
    fn with_bias_of(mut self, other: &Self) -> Self {
        self.bias.iter_mut().zip(&other.bias[..]).for_each(|(sum, &bias)| *sum += bias);
        self
    }
}

/// `a b` of small row-major matrices.
fn product<T: Real>(a: &[T], b: &[T], inner: usize) -> Buffer<T> {
    let (rows, columns) = (a.len() / inner, b.len() / inner);
    let mut out = Buffer::stale(rows * columns);
    matmul_here(MatRef::new(a, rows, inner), MatRef::new(b, inner, columns), &mut out, false);
    out
}

/// The layer's maps, folded.
struct Folded<T: Real> {
    dim: usize,
    heads: usize,
    /// Message to `K_h^T q` of every head, scaled.
    queries: Map<T>,
    /// The heads' sums and the mean, side by side, to the unit's input.
    mix: Map<T>,
    /// The unit's input to both gates, its state to both gates; input and reset state to the candidate.
    gates: Map<T>,
    gates_of_state: Map<T>,
    candidate: Map<T>,
    candidate_of_state: Map<T>,
    norm: (Vec<T>, Vec<T>, T),
}

impl<T: Real> Folded<T> {
    fn of(layer: &RuvectorLayer<T>) -> Self {
        let (attention, unit) = (&layer.attention, &layer.w_update);
        let (heads, dim) = (attention.heads, layer.w_agg.weight.dims()[0]);
        let width = dim / heads;
        let scale = T::of((width as f64).sqrt().recip());
        let [q, k, v, out] = [&attention.q, &attention.k, &attention.v, &attention.out].map(Map::of);
        let aggregate = Map::of(&layer.w_agg);
        let (mut queries, mut query_bias) = (Vec::new(), Vec::new());
        let mut mix = vec![T::ZERO; dim * (heads + 1) * dim];
        let outward = product(&aggregate.weight, &out.weight, dim);
        for head in 0..heads {
            let part = head * width * dim..(head + 1) * width * dim;
            // K_h^T W_q,h and K_h^T b_q,h.
            let (keys, rows) = (transposed(&k.weight[part.clone()], dim), &q.weight[part.clone()]);
            queries.extend(product(&keys, rows, width).iter().map(|&value| value * scale));
            let bias = product(&keys, &q.bias[head * width..(head + 1) * width], width);
            query_bias.extend(bias.iter().map(|&value| value * scale));
            // W_agg O_h V_h.
            let columns: Vec<T> =
                outward.chunks_exact(dim).flat_map(|row| row[head * width..][..width].to_vec()).collect();
            let folded = product(&columns, &v.weight[part], width);
            for (row, values) in mix.chunks_exact_mut((heads + 1) * dim).zip(folded.chunks_exact(dim)) {
                row[head * dim..][..dim].copy_from_slice(values);
            }
        }
        for (row, values) in mix.chunks_exact_mut((heads + 1) * dim).zip(aggregate.weight.chunks_exact(dim)) {
            row[heads * dim..].copy_from_slice(values);
        }
        // W_agg (O b_v + b_out) + b_agg.
        let mut mix_bias = product(&outward, &v.bias, dim);
        let from_out = product(&aggregate.weight, &out.bias, dim);
        for ((sum, &a), &b) in mix_bias.iter_mut().zip(&from_out[..]).zip(&aggregate.bias[..]) {
            *sum += a + b;
        }
        let gates_of_state = Map::stack(&[&unit.u_z, &unit.u_r]);
        let candidate_of_state = Map::of(&unit.u_h);
        Self {
            dim,
            heads,
            queries: Map { weight: queries.into(), bias: query_bias.into() },
            mix: Map { weight: mix.into(), bias: mix_bias },
            gates: Map::stack(&[&unit.w_z, &unit.w_r]).with_bias_of(&gates_of_state),
            gates_of_state,
            candidate: Map::of(&unit.w_h).with_bias_of(&candidate_of_state),
            candidate_of_state,
            norm: (layer.norm.weight.to_vec(), layer.norm.bias.to_vec(), T::of(layer.norm.eps)),
        }
    }

    /// The neighbours' messages mixed by each head's attention, and their mean, for one node that has any.
    fn gather(
        &self,
        m: &[T],
        query: &[T],
        rows: &[u32],
        weights: Option<&[T]>,
        alpha: &mut Vec<T>,
        out: &mut [T],
    ) {
        alpha.resize(rows.len() * self.heads, T::ZERO);
        T::row_dots(query, m, rows, self.heads, alpha);
        softmax_rows(alpha, self.heads);
        let (mixed, mean) = out.split_at_mut(self.heads * self.dim);
        T::row_sums(m, rows, alpha, self.heads, mixed);
        match weights {
            Some(weights) => T::gather_weighted_sum(m, rows, weights, mean),
            None => {
                T::gather_sum(m, rows, mean);
                let scale = T::ONE / T::of(rows.len() as f64);
                mean.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }

    /// The result for the nodes from `first` on, as many as `out` has rows.
    fn block(&self, m: &[T], graph: &Graph, weights: Option<&[T]>, first: usize, out: &mut [T]) {
        let (dim, heads, rows) = (self.dim, self.heads, out.len() / self.dim);
        let state = &m[first * dim..][..out.len()];
        let mut queries = Buffer::stale(rows * heads * dim);
        self.queries.apply(state, rows, &mut queries, false);
        let mut mixed = Buffer::stale(rows * (heads + 1) * dim);
        let mut alpha = Vec::new();
        let each = queries.chunks_exact(heads * dim).zip(mixed.chunks_exact_mut((heads + 1) * dim));
        for (row, (query, mixed)) in each.enumerate() {
            let edges = graph.edges(first + row);
            if edges.is_empty() {
                mixed.fill(T::ZERO);
                continue;
            }
            let weights = weights.map(|weights| &weights[edges.clone()]);
            self.gather(m, query, &graph.indices()[edges], weights, &mut alpha, mixed);
        }
        let mut input = Buffer::stale(rows * dim);
        self.mix.apply(&mixed, rows, &mut input, false);
        let mut gates = Buffer::stale(rows * 2 * dim);
        self.gates.apply(&input, rows, &mut gates, false);
        self.gates_of_state.apply(state, rows, &mut gates, true);
        self.candidate.apply(&input, rows, out, false);
        // The input is spent: its room takes the reset state.
        vectorized(|| {
            let states = state.chunks_exact(dim).zip(gates.chunks_exact(2 * dim));
            for (reset, (state, gates)) in input.chunks_exact_mut(dim).zip(states) {
                for ((reset, &h), &gate) in reset.iter_mut().zip(state).zip(&gates[dim..]) {
                    *reset = h / (T::ONE + (-gate).exp());
                }
            }
        });
        self.candidate_of_state.apply(&input, rows, out, true);
        vectorized(|| {
            let states = state.chunks_exact(dim).zip(gates.chunks_exact(2 * dim));
            for (out, (state, gates)) in out.chunks_exact_mut(dim).zip(states) {
                for ((out, &h), &gate) in out.iter_mut().zip(state).zip(&gates[..dim]) {
                    *out = h + (out.tanh() - h) / (T::ONE + (-gate).exp());
                }
            }
        });
        for (row, out) in out.chunks_exact_mut(dim).enumerate() {
            if graph.edges(first + row).is_empty() {
                out.copy_from_slice(&state[row * dim..][..dim]);
            }
            let (weight, bias, eps) = &self.norm;
            vectorized(|| crate::autograd::normalize_row(out, weight, bias, *eps));
        }
    }
}

impl<T: Real> Map<T> {
    fn of(map: &Linear<T>) -> Self {
        Self::stack(&[map])
    }
}

fn transposed<T: Real>(values: &[T], columns: usize) -> Vec<T> {
    let rows = values.len() / columns;
    (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
}

/// The layer without a tape and without dropout: `messages (N, dim)` to the result.
pub(super) fn forward<T: Real>(
    layer: &RuvectorLayer<T>,
    messages: &Tensor<T>,
    graph: &Graph,
) -> Result<Tensor<T>> {
    let folded = Folded::of(layer);
    let normalized = graph.weights().map(|_| graph.row_normalize()).transpose()?;
    let weights = normalized.as_ref().and_then(Graph::weights).map(T::weights);
    let m = messages.values();
    let mut out = Buffer::stale(m.len());
    threads::for_each_chunk(&mut out, BLOCK * folded.dim, |block, out| {
        folded.block(&m, graph, weights.as_deref(), block * BLOCK, out);
    });
    Tensor::new(out, messages.dims())
}
