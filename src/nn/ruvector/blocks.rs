//! The layer's forward pass without a tape, by blocks of nodes.
//!
//! Keys and values of neighbours are never made. With `K_h`, `V_h` head `h`'s parts of the maps of keys and values,
//! `<q_v, K_h m_u> = <K_h^T q_v, m_u>`, and `sum_u alpha_h V_h m_u = V_h c_h` with `c_h = sum_u alpha_h m_u`; then
//! `W_agg (O v + g)` is one map of the heads' `V_h c_h` and the mean `g` side by side. So each neighbour's message is fetched
//! once for all heads and the mean, and all that lies between messages and result fits the cache: a block of rows at a
//! time.

#![forbid(unsafe_code)]

use super::RuvectorLayer;
use crate::autograd::Tensor;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::graph::Graph;
use crate::linalg::{MatRef, matmul_here, matmul_into_columns};
use crate::loops;
use crate::memory;
use crate::nn::Linear;
use crate::real::Real;
use crate::simd::Rows;
use crate::threads;

/// Nodes per block: what is between the steps fits the second-level cache.
const BLOCK: usize = 256;

/// Heads up to which this pass is the faster one: its products grow with the heads, the gathers that it saves do not.
pub(super) const HEADS: usize = 4;

/// A map with its weight as products read it, `(ins, outs)`, folded from several or not.
struct Map<T: Real> {
    weight: Vec<T>,
    bias: Vec<T>,
}

impl<T: Real> Map<T> {
    fn of(map: &Linear<T>) -> Self {
        let (outs, ins) = (map.weight.dims()[0], map.weight.dims()[1]);
        let weight = MatRef::new(&map.weight.values(), outs, ins).t().row_major().into_owned();
        let bias = map.bias.as_ref().map_or_else(|| memory::vec![T::ZERO; outs], Tensor::to_vec);
        Self { weight, bias }
    }

    /// Two maps of the same input, their results side by side.
    fn beside(a: &Linear<T>, b: &Linear<T>) -> Self {
        let (a, b) = (Self::of(a), Self::of(b));
        let rows = a.weight.chunks_exact(a.bias.len()).zip(b.weight.chunks_exact(b.bias.len()));
        let weight = memory::collect(rows.flat_map(|(a, b)| a.iter().chain(b)).copied());
        Self { weight, bias: [a.bias, b.bias].concat() }
    }

    /// The weight above a row of all that is constant, for inputs beside a 1: the bias, that of a map whose products are added,
    /// and what a constant of the input comes to.
    fn above_constant(self, added: &Self, input: &[T]) -> Vec<T> {
        let Self { mut weight, mut bias } = self;
        let of_input = product(input, &weight, input.len());
        for (sum, (&a, &b)) in bias.iter_mut().zip(added.bias.iter().zip(&of_input)) {
            *sum += a + b;
        }
        weight.append(&mut bias);
        weight
    }
}

/// `out = x weight`, or with `accumulate` `out += x weight`.
fn multiply<T: Real>(x: MatRef<'_, T>, weight: &[T], out: &mut [T], accumulate: bool) {
    matmul_here(x, MatRef::new(weight, x.columns(), weight.len() / x.columns()), out, accumulate);
}

/// `a b` of small row-major matrices.
fn product<T: Real>(a: &[T], b: &[T], inner: usize) -> Vec<T> {
    let (rows, columns) = (a.len() / inner, b.len() / inner);
    let mut out = memory::vec![T::ZERO; rows * columns];
    matmul_here(MatRef::new(a, rows, inner), MatRef::new(b, inner, columns), &mut out, false);
    out
}

/// The layer's maps, some folded.
struct Folded<T: Real> {
    dim: usize,
    heads: usize,
    /// The width of all heads together: `dim`, unless heads were taken out.
    inner: usize,
    /// Message to the queries of all heads, scaled.
    queries: Map<T>,
    /// Weights of all heads, `(inner, dim)`. A bias of keys shifts all scores alike.
    keys: Vec<T>,
    /// Weights of all heads, `(dim, inner)`. What their bias comes to is a constant of the unit's input.
    values: Vec<T>,
    /// The heads' values and the mean, side by side, to the unit's input but for its constant.
    mix: Vec<T>,
    /// The unit's input beside a 1 to both gates, its state to both gates; input beside a 1 and reset state to the candidate.
    gates: Vec<T>,
    gates_of_state: Vec<T>,
    candidate: Vec<T>,
    candidate_of_state: Vec<T>,
    norm: (Vec<T>, Vec<T>, T),
}

impl<T: Real> Folded<T> {
    fn of(layer: &RuvectorLayer<T>) -> Result<Self> {
        let (attention, unit) = (&layer.attention, &layer.w_update);
        let (heads, dim, inner) =
            (attention.heads, layer.w_agg.weight.dims()[0], attention.q.weight.dims()[0]);
        let [mut queries, values, out] = [&attention.q, &attention.v, &attention.gated_out()?].map(Map::of);
        let scale = T::of(((inner / heads) as f64).sqrt().recip());
        queries.weight.iter_mut().chain(&mut queries.bias).for_each(|value| *value *= scale);
        // With W_agg (O (v + b_v) + b_out + g) + b_agg in mind: O^T W_agg^T above W_agg^T, and all that is constant.
        let Map { weight: aggregate, bias: mut constant } = Map::of(&layer.w_agg);
        let outward = product(&out.weight, &aggregate, dim);
        let (from_values, from_out) =
            (product(&values.bias, &outward, inner), product(&out.bias, &aggregate, dim));
        for (sum, (&a, &b)) in constant.iter_mut().zip(from_values.iter().zip(&from_out)) {
            *sum += a + b;
        }
        let gates_of_state = Map::beside(&unit.u_z, &unit.u_r);
        let candidate_of_state = Map::of(&unit.u_h);
        Ok(Self {
            dim,
            heads,
            inner,
            queries,
            keys: attention.k.weight.to_vec(),
            values: values.weight,
            mix: memory::collect(outward.into_iter().chain(aggregate)),
            gates: Map::beside(&unit.w_z, &unit.w_r).above_constant(&gates_of_state, &constant),
            gates_of_state: gates_of_state.weight,
            candidate: Map::of(&unit.w_h).above_constant(&candidate_of_state, &constant),
            candidate_of_state: candidate_of_state.weight,
            norm: (layer.norm.weight.to_vec(), layer.norm.bias.to_vec(), T::of(layer.norm.eps)),
        })
    }

    /// `K_h^T q` of the heads side by side, for rows of queries.
    fn asked(&self, queries: &[T], rows: usize, out: &mut [T]) {
        let (dim, width) = (self.dim, self.inner / self.heads);
        for (head, keys) in self.keys.chunks_exact(width * dim).enumerate() {
            let queries = MatRef::new(queries, rows, self.inner).columns_of(head * width, width);
            let keys = MatRef::new(keys, width, dim);
            matmul_into_columns(queries, keys, out, self.heads * dim, head * dim);
        }
    }

    /// `V_h c_h` of the heads side by side, as the first part of the rows of `out`.
    fn valued(&self, mixed: &[T], rows: usize, out: &mut [T]) {
        let (dim, width) = (self.dim, self.inner / self.heads);
        for head in 0..self.heads {
            let mixed = MatRef::new(mixed, rows, self.heads * dim).columns_of(head * dim, dim);
            let values = MatRef::new(&self.values, dim, self.inner).columns_of(head * width, width);
            matmul_into_columns(mixed, values, out, self.inner + dim, head * width);
        }
    }

    /// The neighbours' messages mixed by each head's attention, in place of its queries, and their mean, for one node
    /// that has any.
    fn gather(
        &self,
        m: &[T],
        rows: Rows<'_>,
        weights: Option<&[T]>,
        alpha: &mut Vec<T>,
        (heads, mean): (&mut [T], &mut [T]),
    ) {
        memory::resize(alpha, rows.now.len() * self.heads, T::ZERO);
        T::row_dots(heads, m, rows, self.heads, alpha);
        loops::softmax(alpha, self.heads);
        T::row_sums(m, rows.now, alpha, self.heads, heads);
        match weights {
            Some(weights) => T::gather_weighted_sum(m, rows.now.into(), weights, mean),
            None => {
                T::gather_sum(m, rows.now.into(), mean);
                let scale = T::ONE / T::of(rows.now.len() as f64);
                mean.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }

    /// The result for the nodes from `first` on, as many as `out` has rows.
    fn block(&self, m: &[T], graph: &Graph, weights: Option<&[T]>, first: usize, out: &mut [T]) {
        let (dim, heads, inner, rows) = (self.dim, self.heads, self.inner, out.len() / self.dim);
        let state = &m[first * dim..][..out.len()];
        let states = MatRef::new(state, rows, dim);
        // Queries, then the unit's input beside a 1, then the reset state in its place.
        let mut narrow = Buffer::stale(rows * inner.max(dim + 1));
        let queries = &mut narrow[..rows * inner];
        queries.chunks_exact_mut(inner).for_each(|row| row.copy_from_slice(&self.queries.bias));
        multiply(states, &self.queries.weight, queries, true);
        // Per head what is asked of the neighbours' messages, then what they come to; the unit's gates and candidate last,
        // while it is in the cache.
        let mut room = Buffer::stale(rows * dim * heads.max(3));
        let mixed = &mut room[..rows * heads * dim];
        self.asked(queries, rows, mixed);
        let mut joined = Buffer::stale(rows * (inner + dim));
        let mut alpha = Vec::new();
        let each = mixed.chunks_exact_mut(heads * dim).zip(joined.chunks_exact_mut(inner + dim));
        for (row, (mixed, joined)) in each.enumerate() {
            let (edges, mean) = (graph.edges(first + row), &mut joined[inner..]);
            if edges.is_empty() {
                mixed.fill(T::ZERO);
                mean.fill(T::ZERO);
                continue;
            }
            let weights = weights.map(|weights| &weights[edges.clone()]);
            self.gather(m, Rows::of(graph.indices(), edges), weights, &mut alpha, (mixed, mean));
        }
        self.valued(mixed, rows, &mut joined);
        let input = &mut narrow[..rows * (dim + 1)];
        let joined = MatRef::new(&joined, rows, inner + dim);
        matmul_into_columns(joined, MatRef::new(&self.mix, inner + dim, dim), input, dim + 1, 0);
        input.chunks_exact_mut(dim + 1).for_each(|row| row[dim] = T::ONE);
        let (gates, candidate) = room[..rows * 3 * dim].split_at_mut(rows * 2 * dim);
        multiply(MatRef::new(input, rows, dim + 1), &self.gates, gates, false);
        multiply(states, &self.gates_of_state, gates, true);
        multiply(MatRef::new(input, rows, dim + 1), &self.candidate, candidate, false);
        let each = state.chunks_exact(dim).zip(gates.chunks_exact(2 * dim));
        for (reset, (state, gates)) in input.chunks_exact_mut(dim + 1).zip(each) {
            loops::gate(&gates[dim..], state, &mut reset[..dim]);
        }
        let reset = MatRef::new(input, rows, dim + 1).columns_of(0, dim);
        multiply(reset, &self.candidate_of_state, candidate, true);
        for (row, out) in out.chunks_exact_mut(dim).enumerate() {
            let own = row * dim..(row + 1) * dim;
            if graph.edges(first + row).is_empty() {
                out.copy_from_slice(&state[own]);
            } else {
                loops::blend(&gates[2 * row * dim..][..dim], &candidate[own.clone()], &state[own], out);
            }
            let (weight, bias, eps) = &self.norm;
            loops::normalize(out, weight, bias, *eps);
        }
    }
}

/// The layer without a tape and without dropout: `messages (num_sources, dim)`, first those of the nodes, to the result.
pub(super) fn forward<T: Real>(
    layer: &RuvectorLayer<T>,
    messages: &Tensor<T>,
    graph: &Graph,
) -> Result<Tensor<T>> {
    let folded = Folded::of(layer)?;
    let normalized = graph.weights().map(|_| graph.row_normalize()).transpose()?;
    let weights = normalized.as_ref().and_then(Graph::weights).map(T::weights);
    let m = messages.values();
    let mut out = Buffer::stale(graph.num_nodes() * folded.dim);
    threads::for_each_chunk(&mut out, BLOCK * folded.dim, |block, out| {
        folded.block(&m, graph, weights.as_deref(), block * BLOCK, out);
    });
    Tensor::new(out, &[graph.num_nodes(), folded.dim])
}
