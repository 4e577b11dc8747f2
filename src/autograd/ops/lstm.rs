//! Long short-term memory (Hochreiter & Schmidhuber 1997) over many sequences side by side.
//!
//! `[i f g o] = p_t + b + h W^T` with `p` the mapped input, then `c' = s(f) c + s(i) tanh(g)` and `h' = s(o) tanh(c')`.
//! Sequences run longest first, so that those at work at a step are the first ones and each step is one product. With
//! `d = dc' + dh' s(o) (1 - tanh(c')^2)`: `di = d tanh(g) s'(i)`, `df = d c s'(f)`, `dg = d s(i) tanh'(g)`,
//! `do = dh' tanh(c') s'(o)`, `dc = d s(f)`, `dh = [di df dg do] W`.

#![forbid(unsafe_code)]

use super::linear::column_sums;
use super::matmul::product;
use super::softmax::each_row;
use super::unary::sigmoid;
use crate::aggregate;
use crate::autograd::tape::{add_into, record, tracked};
use crate::autograd::{CHUNK, Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::linalg::{MatRef, matmul_into};
use crate::memory;
use crate::real::Real;
use crate::threads;
use std::cmp::Reverse;
use std::sync::Arc;

/// The input of a sequence that goes on after its end: zero.
const NOTHING: u32 = u32::MAX;

/// Which row of the input each sequence reads at each step.
#[derive(Debug)]
pub struct Sequences {
    /// Step by step, the row that each sequence at work reads, longest sequence first.
    rows: Vec<u32>,
    /// Where each step begins in `rows`, and their number.
    starts: Vec<usize>,
    /// Per sequence as given, its place in that order.
    places: Vec<u32>,
}

impl Sequences {
    /// `count` sequences of `length` rows each, one after the other.
    pub fn dense(count: usize, length: usize) -> Self {
        Self {
            rows: memory::collect(
                (0..length).flat_map(|step| (0..count).map(move |s| (s * length + step) as u32)),
            ),
            starts: memory::collect((0..=length).map(|step| step * count)),
            places: memory::collect(0..count as u32),
        }
    }

    /// The neighbours of each node, in row order; `padded` with zeros to the length of the longest row.
    pub fn neighbors(graph: &Graph, padded: bool) -> Self {
        let degrees = graph.degrees();
        let mut order: Vec<u32> = memory::collect(0..graph.num_nodes() as u32);
        order.sort_unstable_by_key(|&node| (Reverse(degrees[node as usize]), node));
        let mut places = memory::vec![0; order.len()];
        order.iter().zip(0..).for_each(|(&node, place)| places[node as usize] = place);
        let longest = order.first().map_or(0, |&node| degrees[node as usize]);
        let total = if padded { longest.saturating_mul(order.len()) } else { graph.num_edges() };
        let (mut rows, mut starts) = (memory::with_capacity(total), memory::with_capacity(longest + 1));
        starts.push(0);
        for step in 0..longest {
            let long = order.partition_point(|&node| degrees[node as usize] > step);
            rows.extend(order[..long].iter().map(|&node| graph.neighbors(node as usize)[step]));
            if padded {
                rows.resize(rows.len() + order.len() - long, NOTHING);
            }
            starts.push(rows.len());
        }
        Self { rows, starts, places }
    }

    fn steps(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of sequences at work at a step.
    fn active(&self, step: usize) -> usize {
        self.starts[step + 1] - self.starts[step]
    }

    /// Per sequence as given, the row of its last state when the first states precede those of all steps.
    fn last_rows(&self) -> Vec<u32> {
        let last = |&place: &u32| {
            let steps = (0..self.steps()).take_while(|&step| self.active(step) > place as usize).count();
            let before = if steps == 0 { 0 } else { self.places.len() + self.starts[steps - 1] };
            before as u32 + place
        };
        memory::collect(self.places.iter().map(last))
    }
}

/// What a pass reads: mapped inputs `(rows, 4 width)`, recurrent weights `(4 width, width)`, bias, sequences.
struct Pass<'a, T> {
    inputs: &'a [T],
    recurrent: MatRef<'a, T>,
    bias: &'a [T],
    sequences: &'a Sequences,
    width: usize,
}

impl<'a, T: Real> Pass<'a, T> {
    fn new([inputs, recurrent, bias]: [&'a [T]; 3], sequences: &'a Sequences, width: usize) -> Self {
        Self { inputs, recurrent: MatRef::new(recurrent, 4 * width, width), bias, sequences, width }
    }

    /// The states before a step, from the first ones and those after every step.
    fn before<'b>(&self, step: usize, first: &'b [T], all: &'b [T]) -> &'b [T] {
        step.checked_sub(1).map_or(first, |last| &all[self.sequences.starts[last] * self.width..])
    }

    /// All `h` and then all `c`; and the gates, of every step if `keep`.
    fn run(&self, [h0, c0]: [&[T]; 2], keep: bool) -> (Buffer<T>, Buffer<T>) {
        let (sequences, width) = (self.sequences, self.width);
        let (count, total) = (sequences.places.len(), sequences.rows.len());
        let mut gates = Buffer::stale(if keep { total } else { count } * 4 * width);
        let mut out = Buffer::stale(2 * total * width);
        let (hs, cs) = out.split_at_mut(total * width);
        for step in 0..sequences.steps() {
            let (start, len) = (sequences.starts[step] * width, sequences.active(step) * width);
            let gates = &mut gates[if keep { 4 * start } else { 0 }..][..4 * len];
            let [h, c] = [(&mut *hs, h0), (&mut *cs, c0)].map(|(all, first)| {
                let (done, now) = all.split_at_mut(start);
                now[..len].copy_from_slice(&self.before(step, first, done)[..len]);
                &mut now[..len]
            });
            self.advance(step, gates, h, c);
        }
        (out, gates)
    }

    /// One step of the sequences at work: `h` and `c` are their states, `gates` becomes `s(i) s(f) tanh(g) s(o)`.
    fn advance(&self, step: usize, gates: &mut [T], h: &mut [T], c: &mut [T]) {
        let (width, start) = (self.width, self.sequences.starts[step]);
        each_row(gates, 4 * width, |place, gates| {
            gates.copy_from_slice(self.bias);
            let row = self.sequences.rows[start + place];
            if row != NOTHING {
                let input = &self.inputs[row as usize * 4 * width..][..4 * width];
                gates.iter_mut().zip(input).for_each(|(gate, &input)| *gate += input);
            }
        });
        matmul_into(MatRef::new(h, h.len() / width, width), self.recurrent.t(), gates, true);
        let band = (CHUNK / (4 * width)).max(1) * width;
        let mut bands: Vec<_> =
            memory::collect(gates.chunks_mut(4 * band).zip(h.chunks_mut(band)).zip(c.chunks_mut(band)));
        threads::for_each_chunk(&mut bands, 1, |_, bands| {
            for ((gates, h), c) in bands {
                let states = h.chunks_exact_mut(width).zip(c.chunks_exact_mut(width));
                gates.chunks_exact_mut(4 * width).zip(states).for_each(|(gates, (h, c))| cell(gates, h, c));
            }
        });
    }
}

impl<T: Real> Pass<'_, T> {
    /// Turns the gates of all steps into their gradients, from the last step back; and those of the first states.
    fn gate_gradients(
        &self,
        mut gates: Buffer<T>,
        states: &[T],
        c0: &[T],
        grad: &[T],
    ) -> (Buffer<T>, [Buffer<T>; 2]) {
        let (sequences, width) = (self.sequences, self.width);
        let total = sequences.rows.len() * width;
        let [mut dh, mut dc] = [0, 1].map(|_| Buffer::zeros(sequences.places.len() * width));
        let cs = &states[total..];
        for step in (0..sequences.steps()).rev() {
            let (start, len) = (sequences.starts[step] * width, sequences.active(step) * width);
            add_into(&mut dh[..len], &grad[start..][..len]);
            add_into(&mut dc[..len], &grad[total + start..][..len]);
            let (c, before) = (&cs[start..], self.before(step, c0, cs));
            let band = (CHUNK / (4 * width)).max(1) * width;
            let gates = &mut gates[4 * start..][..4 * len];
            let mut bands: Vec<_> =
                memory::collect(gates.chunks_mut(4 * band).zip(dc[..len].chunks_mut(band)));
            threads::for_each_chunk(&mut bands, 1, |number, bands| {
                for (gates, dc) in bands {
                    let rows = gates.chunks_exact_mut(4 * width).zip(dc.chunks_exact_mut(width));
                    for (row, (gates, dc)) in rows.enumerate() {
                        let at = number * band + row * width;
                        let [dh, c, before] = [&dh[..], c, before].map(|all| &all[at..][..width]);
                        cell_adjoint(gates, dh, dc, c, before);
                    }
                }
            });
            matmul_into(MatRef::new(gates, len / width, 4 * width), self.recurrent, &mut dh[..len], false);
        }
        (gates, [dh, dc])
    }
}

/// The four gates of one sequence.
fn parts<T>(gates: &mut [T], width: usize) -> [&mut [T]; 4] {
    let (i, rest) = gates.split_at_mut(width);
    let (f, rest) = rest.split_at_mut(width);
    let (g, o) = rest.split_at_mut(width);
    [i, f, g, &mut o[..width]]
}

/// The unit itself, for one sequence.
fn cell<T: Real>(gates: &mut [T], h: &mut [T], c: &mut [T]) {
    let width = h.len();
    // Lengths that the compiler can see are equal let it use vector registers.
    let ([i, f, g, o], c) = (parts(gates, width), &mut c[..width]);
    for k in 0..width {
        (i[k], f[k], g[k], o[k]) = (sigmoid(i[k]), sigmoid(f[k]), g[k].tanh(), sigmoid(o[k]));
        c[k] = f[k] * c[k] + i[k] * g[k];
        h[k] = o[k] * c[k].tanh();
    }
}

/// Turns the gates into their gradients, and `dc` into that of the state before.
fn cell_adjoint<T: Real>(gates: &mut [T], dh: &[T], dc: &mut [T], c: &[T], before: &[T]) {
    let width = c.len();
    let ([i, f, g, o], dc) = (parts(gates, width), &mut dc[..width]);
    let (dh, before) = (&dh[..width], &before[..width]);
    for k in 0..width {
        let (input, forget, output, tanh) = (i[k], f[k], o[k], c[k].tanh());
        let d = dc[k] + dh[k] * output * (T::ONE - tanh * tanh);
        i[k] = d * g[k] * input * (T::ONE - input);
        f[k] = d * before[k] * forget * (T::ONE - forget);
        g[k] = d * input * (T::ONE - g[k] * g[k]);
        o[k] = dh[k] * tanh * output * (T::ONE - output);
        dc[k] = d * forget;
    }
}

impl<T: Real> Tensor<T> {
    /// Runs the unit over `sequences` of rows of the mapped input `self (rows, 4 width)`, from the states
    /// `[h, c]`, each `(sequences, width)` in their order longest first: `(2, steps, width)`, all `h`, then all `c`.
    pub fn lstm(
        &self,
        recurrent: &Self,
        bias: &Self,
        [h, c]: [&Self; 2],
        sequences: &Arc<Sequences>,
    ) -> Result<Self> {
        let width = self.lstm_width(recurrent, bias)?;
        let (count, total) = (sequences.places.len(), sequences.rows.len());
        if *h.dims() != [count, width] || *c.dims() != [count, width] {
            let shapes = format!("states of shapes {} and {} for {count} sequences", h.shape(), c.shape());
            return Err(Error::Shape(format!("lstm: {shapes} of width {width}")));
        }
        let [x, w, b, h0, c0] = [self, recurrent, bias, h, c].map(Tensor::values);
        let parents = [self, recurrent, bias, h, c];
        let (out, gates) = Pass::new([&x, &w, &b], sequences, width).run([&h0, &c0], tracked(&parents));
        let (out, shape) = (Arc::new(out), Shape::new(&[2, total, width])?);
        let (states, sequences) = (Arc::clone(&out), Arc::clone(sequences));
        Ok(record("lstm", out, shape, parents, move |grad, wanted| {
            let pass = Pass::new([&x, &w, &b], &sequences, width);
            let (d, [dh, dc]) = pass.gate_gradients(gates.clone(), &states, &c0, &grad);
            [
                wanted[0].then(|| to_inputs(&sequences, &d, x.len() / (4 * width), 4 * width)),
                wanted[1].then(|| {
                    let mut before = Buffer::stale(total * width);
                    for step in 0..sequences.steps() {
                        let (start, len) = (sequences.starts[step] * width, sequences.active(step) * width);
                        before[start..][..len].copy_from_slice(&pass.before(step, &h0, &states)[..len]);
                    }
                    let (before, d) = (MatRef::new(&before, total, width), MatRef::new(&d, total, 4 * width));
                    product(d.t(), before, false)
                }),
                wanted[2].then(|| column_sums(&d, 4 * width)),
                wanted[3].then_some(dh),
                wanted[4].then_some(dc),
            ]
        }))
    }

    /// The last `h` of each sequence in the order given, from zero states: `(sequences, width)`. Without a tape only
    /// the states of one step are held.
    pub fn lstm_last(&self, recurrent: &Self, bias: &Self, sequences: &Arc<Sequences>) -> Result<Self> {
        let width = self.lstm_width(recurrent, bias)?;
        let count = sequences.places.len();
        let zeros = Self::zeros(&[count, width])?;
        if tracked(&[self, recurrent, bias]) {
            let states = self.lstm(recurrent, bias, [&zeros, &zeros], sequences)?;
            let h = states.slice(0, 0..1)?.reshape(&[sequences.rows.len(), width])?;
            return Self::concat(&[zeros, h], 0)?.index_select(&sequences.last_rows());
        }
        let [x, w, b] = [self, recurrent, bias].map(Tensor::values);
        let pass = Pass::new([&x, &w, &b], sequences, width);
        let mut gates = Buffer::stale(count * 4 * width);
        let [mut h, mut c] = [0, 1].map(|_| Buffer::zeros(count * width));
        for step in 0..sequences.steps() {
            let len = sequences.active(step) * width;
            pass.advance(step, &mut gates[..4 * len], &mut h[..len], &mut c[..len]);
        }
        Self::new(h, &[count, width])?.index_select(&sequences.places)
    }

    fn lstm_width(&self, recurrent: &Self, bias: &Self) -> Result<usize> {
        let width = recurrent.shape().columns();
        if width > 0
            && *recurrent.dims() == [4 * width, width]
            && *bias.dims() == [4 * width]
            && self.dims().len() == 2
            && self.shape().columns() == 4 * width
        {
            return Ok(width);
        }
        Err(Error::Shape(format!(
            "lstm: mapped input of shape {} with recurrent weights of shape {} and bias of shape {}",
            self.shape(),
            recurrent.shape(),
            bias.shape()
        )))
    }
}

/// Sums the gradients of each row of the input over the steps that read it.
fn to_inputs<T: Real>(sequences: &Sequences, d: &[T], rows: usize, columns: usize) -> Buffer<T> {
    // Steps that read nothing go to a row of their own, which is cut off.
    let readers: Vec<u32> = memory::collect(sequences.rows.iter().map(|&row| row.min(rows as u32)));
    let mut out = memory::vec![T::ZERO; (rows + 1) * columns];
    aggregate::sum(&Graph::grouping(&readers, rows + 1), None, d, columns, &mut out);
    out.truncate(rows * columns);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::autograd::no_grad;

    /// A hub of five, rows of two and one, and a node without neighbours.
    fn graph() -> Graph {
        Graph::from_edges(&[1, 1, 1, 1, 1, 0, 0, 3], &[0, 1, 2, 3, 3, 2, 4, 1], 4, 5, None).unwrap()
    }

    #[test]
    fn gradients_of_dense_sequences_and_first_states() {
        let sequences = Arc::new(Sequences::dense(2, 3));
        let inputs =
            [random(&[6, 8], 0), random(&[8, 2], 1), random(&[8], 2), random(&[2, 2], 3), random(&[2, 2], 4)];
        gradcheck(&inputs, |x| x[0].lstm(&x[1], &x[2], [&x[3], &x[4]], &sequences)).unwrap();
    }

    #[test]
    fn gradients_over_neighbours_of_uneven_number() {
        for padded in [false, true] {
            let sequences = Arc::new(Sequences::neighbors(&graph(), padded));
            let inputs = [random(&[5, 8], 0), random(&[8, 2], 1), random(&[8], 2)];
            gradcheck(&inputs, |x| x[0].lstm_last(&x[1], &x[2], &sequences)).unwrap();
        }
    }

    /// The unit run over one sequence by the formula; `None` is an input of zero.
    fn by_hand(x: &[f64], w: &[f64], b: &[f64], width: usize, rows: &[Option<usize>]) -> Vec<f64> {
        let (mut h, mut c) = (vec![0.0; width], vec![0.0; width]);
        for row in rows {
            let gate = |k: usize| {
                let input = row.map_or(0.0, |row| x[row * 4 * width + k]);
                let state: f64 = (0..width).map(|j| w[k * width + j] * h[j]).sum();
                input + state + b[k]
            };
            let gates: Vec<f64> = (0..4 * width).map(gate).collect();
            for k in 0..width {
                let [i, f, g, o] = [0, 1, 2, 3].map(|part| gates[part * width + k]);
                c[k] = sigmoid(f) * c[k] + sigmoid(i) * g.tanh();
                h[k] = sigmoid(o) * c[k].tanh();
            }
        }
        h
    }

    #[test]
    fn each_node_runs_over_its_own_neighbours_in_row_order() {
        let (graph, width) = (graph(), 3);
        let (x, w, b) = (random(&[5, 12], 0), random(&[12, 3], 1), random(&[12], 2));
        for padded in [false, true] {
            let sequences = Arc::new(Sequences::neighbors(&graph, padded));
            let recorded = x.lstm_last(&w, &b, &sequences).unwrap();
            let got = {
                let _guard = no_grad();
                x.lstm_last(&w, &b, &sequences).unwrap().to_vec()
            };
            assert_eq!(got, recorded.to_vec());
            for node in 0..graph.num_nodes() {
                let mut rows: Vec<_> = graph.neighbors(node).iter().map(|&j| Some(j as usize)).collect();
                if padded {
                    rows.resize(5, None);
                }
                let expected = by_hand(&x.values(), &w.values(), &b.values(), width, &rows);
                let got = &got[node * width..][..width];
                assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12), "{node} {padded}");
            }
        }
    }

    #[test]
    fn a_graph_without_edges_gives_zeros_and_wrong_shapes_are_named() {
        let empty = Graph::from_edges(&[], &[], 2, 2, None).unwrap();
        let sequences = Arc::new(Sequences::neighbors(&empty, true));
        let (x, w, b) = (random(&[2, 8], 0), random(&[8, 2], 1), random(&[8], 2));
        assert_eq!(x.lstm_last(&w, &b, &sequences).unwrap().to_vec(), [0.0; 4]);
        let Err(Error::Shape(message)) = random(&[2, 7], 0).lstm_last(&w, &b, &sequences) else { panic!() };
        assert!(message.starts_with("lstm: mapped input of shape (2, 7)"), "{message}");
    }
}
