//! Full multi-head attention within segments of rows (Vaswani et al. 2017), without the matrix of all scores.
//!
//! Per segment, row `i`, key `j` and head: `s_ij = q_i k_j / sqrt(d)`, `p = softmax_j(s)`, `out_i = sum_j p_ij v_j`. Tiles of
//! scores are made, used and forgotten (Dao et al. 2022): a row keeps its largest score, the sum of its exponentials and the
//! sum that they weigh, and scales both sums down when a larger score comes. The adjoint makes the tiles again from one
//! number per row and head, `l_i = ln sum_j e^s_ij`, once by rows and once by keys (Dao 2023), so that each sum is one task's:
//! with `D_i = <g_i, out_i>` and `ds_ij = p_ij (<g_i, v_j> - D_i) / sqrt(d)`, `dq_i = sum_j ds_ij k_j`,
//! `dk_j = sum_i ds_ij q_i` and `dv_j = sum_i p_ij g_i`.

#![forbid(unsafe_code)]

use crate::autograd::tape::record;
use crate::autograd::{Shape, Tensor};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::linalg::{MatRef, matmul_here};
use crate::loops;
use crate::memory;
use crate::real::Real;
use crate::threads;
use std::ops::Range;
use std::sync::Arc;

/// Rows of a task, and of a tile in the adjoint of keys.
const ROWS: usize = 64;

/// Keys of a tile: its scores stay in the second-level cache.
const KEYS: usize = 512;

/// Which rows attend over which keys: rows `queries[s]..queries[s + 1]` over keys `keys[s]..keys[s + 1]`.
#[derive(Debug)]
pub struct Segments {
    queries: Vec<usize>,
    keys: Vec<usize>,
}

impl Segments {
    /// From where segments begin and where the last ends, of rows and of keys.
    pub fn new(queries: Vec<usize>, keys: Vec<usize>) -> Result<Self> {
        let rising = |ends: &[usize]| ends.first() == Some(&0) && ends.is_sorted();
        if queries.len() != keys.len() || !rising(&queries) || !rising(&keys) {
            return Err(Error::Shape(format!(
                "segments: {} and {} ends must begin with 0 and not fall",
                queries.len(),
                keys.len()
            )));
        }
        Ok(Self { queries, keys })
    }

    fn of_segment(ends: &[usize], segment: usize) -> Range<usize> {
        ends[segment]..ends[segment + 1]
    }

    /// Tiles of at most so many rows (or keys) that no segment shares.
    fn tiles(ends: &[usize], size: usize) -> Vec<Tile> {
        let of = |segment: usize| {
            pieces(Self::of_segment(ends, segment), size).map(move |rows| Tile { segment, rows })
        };
        memory::collect((0..ends.len() - 1).flat_map(of))
    }
}

/// Part of a segment.
#[derive(Clone, Debug)]
struct Tile {
    segment: usize,
    rows: Range<usize>,
}

fn pieces(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(size).map(move |start| start..range.end.min(start + size))
}

/// The parts of `values` that belong to the tiles, which follow one another.
fn split<'a, T>(mut values: &'a mut [T], tiles: &[Tile], columns: usize) -> Vec<&'a mut [T]> {
    let mut parts = memory::with_capacity(tiles.len());
    for tile in tiles {
        let (part, rest) = values.split_at_mut(tile.rows.len() * columns);
        parts.push(part);
        values = rest;
    }
    parts
}

/// How rows are divided among heads, and which rows go together.
struct Plan<T> {
    segments: Segments,
    heads: usize,
    columns: usize,
    scale: T,
}

impl<T: Real> Plan<T> {
    fn width(&self) -> usize {
        self.columns / self.heads
    }

    /// One head's part of some rows.
    fn part<'a>(&self, values: &'a [T], rows: &Range<usize>, head: usize) -> MatRef<'a, T> {
        let values = &values[rows.start * self.columns..rows.end * self.columns];
        MatRef::new(values, rows.len(), self.columns).columns_of(head * self.width(), self.width())
    }

    /// Writes one head's rows `sums` to its columns of `out`.
    fn place(&self, sums: &[T], head: usize, out: &mut [T]) {
        let width = self.width();
        for (out, sums) in out.chunks_exact_mut(self.columns).zip(sums.chunks_exact(width)) {
            out[head * width..][..width].copy_from_slice(sums);
        }
    }

    /// The results of a tile of rows, and `l` per row and head.
    fn attend(&self, tile: &Tile, [q, k, v]: [&[T]; 3], out: &mut [T], logs: &mut [T]) {
        let (rows, width) = (tile.rows.len(), self.width());
        let keys = Segments::of_segment(&self.segments.keys, tile.segment);
        let mut scores = Buffer::stale(rows * KEYS.min(keys.len()));
        let mut sums = Buffer::stale(rows * width);
        for head in 0..self.heads {
            sums.fill(T::ZERO);
            let mut running = memory::vec![(T::of(f64::NEG_INFINITY), T::ZERO); rows];
            for keys in pieces(keys.clone(), KEYS) {
                threads::checkpoint();
                let scores = &mut scores[..rows * keys.len()];
                matmul_here(self.part(q, &tile.rows, head), self.part(k, &keys, head).t(), scores, false);
                loops::run(Running {
                    scores,
                    sums: &mut sums,
                    running: &mut running,
                    width,
                    scale: self.scale,
                });
                matmul_here(
                    MatRef::new(scores, rows, keys.len()),
                    self.part(v, &keys, head),
                    &mut sums,
                    true,
                );
            }
            for (row, (sums, &(max, total))) in sums.chunks_exact_mut(width).zip(&running).enumerate() {
                let scale = if total > T::ZERO { T::ONE / total } else { T::ZERO };
                sums.iter_mut().for_each(|sum| *sum *= scale);
                logs[row * self.heads + head] = max * self.scale + total.ln();
            }
            self.place(&sums, head, out);
        }
    }

    /// Of one head, for rows and keys of the same segment: `p`, and `ds` in place of what is there.
    fn tile(
        &self,
        saved: &Saved<'_, T>,
        segment: usize,
        [rows, keys]: [&Range<usize>; 2],
        head: usize,
        [p, ds]: [&mut [T]; 2],
    ) {
        threads::checkpoint();
        let [q, k, v] = saved.inputs;
        matmul_here(self.part(q, rows, head), self.part(k, keys, head).t(), p, false);
        matmul_here(self.part(saved.grad, rows, head), self.part(v, keys, head).t(), ds, false);
        let own =
            |values: &'_ [T]| -> Vec<T> { rows.clone().map(|row| values[row * self.heads + head]).collect() };
        let (logs, inner) = (own(saved.logs), own(saved.inner));
        loops::run(Weights { p, ds: &mut *ds, logs: &logs, inner: &inner, scale: self.scale });
        if Segments::of_segment(&self.segments.keys, segment).len() == 1 {
            // The weight of a single key is 1 whatever its score: no rounding is to be left here.
            ds.fill(T::ZERO);
        }
    }

    /// `dq` of a tile of rows.
    fn to_queries(&self, saved: &Saved<'_, T>, tile: &Tile, out: &mut [T]) {
        let (rows, k) = (tile.rows.len(), saved.inputs[1]);
        let keys = Segments::of_segment(&self.segments.keys, tile.segment);
        let room = rows * KEYS.min(keys.len());
        let (mut p, mut ds) = (Buffer::stale(room), Buffer::stale(room));
        let mut sums = Buffer::stale(rows * self.width());
        for head in 0..self.heads {
            sums.fill(T::ZERO);
            for keys in pieces(keys.clone(), KEYS) {
                let count = rows * keys.len();
                self.tile(
                    saved,
                    tile.segment,
                    [&tile.rows, &keys],
                    head,
                    [&mut p[..count], &mut ds[..count]],
                );
                let ds = MatRef::new(&ds[..count], rows, keys.len());
                matmul_here(ds, self.part(k, &keys, head), &mut sums, true);
            }
            self.place(&sums, head, out);
        }
    }

    /// `dk` and `dv` of a tile of keys.
    fn to_keys(&self, saved: &Saved<'_, T>, tile: &Tile, to_keys: &mut [T], to_values: &mut [T]) {
        let (keys, q) = (tile.rows.len(), saved.inputs[0]);
        let rows = Segments::of_segment(&self.segments.queries, tile.segment);
        let room = keys * ROWS.min(rows.len());
        let (mut p, mut ds) = (Buffer::stale(room), Buffer::stale(room));
        let (mut k_sums, mut v_sums) =
            (Buffer::stale(keys * self.width()), Buffer::stale(keys * self.width()));
        for head in 0..self.heads {
            k_sums.fill(T::ZERO);
            v_sums.fill(T::ZERO);
            for rows in pieces(rows.clone(), ROWS) {
                let count = rows.len() * keys;
                self.tile(
                    saved,
                    tile.segment,
                    [&rows, &tile.rows],
                    head,
                    [&mut p[..count], &mut ds[..count]],
                );
                let across = |values| MatRef::new(values, rows.len(), keys).t();
                matmul_here(across(&ds[..count]), self.part(q, &rows, head), &mut k_sums, true);
                matmul_here(across(&p[..count]), self.part(saved.grad, &rows, head), &mut v_sums, true);
            }
            self.place(&k_sums, head, to_keys);
            self.place(&v_sums, head, to_values);
        }
    }

    /// `D` per row and head.
    fn inner(&self, grad: &[T], out: &[T]) -> Vec<T> {
        let width = self.width();
        memory::collect(
            grad.chunks_exact(width).zip(out.chunks_exact(width)).map(|(grad, out)| T::dot(grad, out)),
        )
    }
}

/// What the adjoint knows: inputs, the gradient of the result, `l` and `D`.
struct Saved<'a, T> {
    inputs: [&'a [T]; 3],
    grad: &'a [T],
    logs: &'a [T],
    inner: &'a [T],
}

/// Turns a tile of products into exponentials, beside the running maxima and sums of the rows.
struct Running<'a, T> {
    scores: &'a mut [T],
    sums: &'a mut [T],
    running: &'a mut [(T, T)],
    width: usize,
    scale: T,
}

impl<T: Real> loops::Task for Running<'_, T> {
    #[inline(always)]
    fn run(self) {
        let keys = self.scores.len() / self.running.len();
        let rows = self.scores.chunks_exact_mut(keys).zip(self.sums.chunks_exact_mut(self.width));
        for ((scores, sums), (max, total)) in rows.zip(self.running) {
            let top = loops::largest_of(scores, *max);
            let shrink = ((*max - top) * self.scale).exp();
            for score in scores.iter_mut() {
                *score = ((*score - top) * self.scale).exp();
            }
            (*max, *total) = (top, *total * shrink + loops::sum(scores));
            for sum in sums {
                *sum *= shrink;
            }
        }
    }
}

/// Turns products `<q, k>` into `p` and products `<g, v>` into `ds`.
struct Weights<'a, T> {
    p: &'a mut [T],
    ds: &'a mut [T],
    logs: &'a [T],
    inner: &'a [T],
    scale: T,
}

impl<T: Real> loops::Task for Weights<'_, T> {
    #[inline(always)]
    fn run(self) {
        let keys = self.p.len() / self.logs.len();
        let rows = self.p.chunks_exact_mut(keys).zip(self.ds.chunks_exact_mut(keys));
        for ((p, ds), (&log, &inner)) in rows.zip(self.logs.iter().zip(self.inner)) {
            for (p, ds) in p.iter_mut().zip(ds) {
                *p = (*p * self.scale - log).exp();
                *ds = *p * (*ds - inner) * self.scale;
            }
        }
    }
}

impl<T: Real> Tensor<T> {
    /// Attention of the queries `self (rows, d)` over all `keys` and `values (key rows, d)` of the same segment, in `heads`
    /// equal parts of `d`: `(rows, d)`, zero for rows of a segment without keys. Needs memory for rows, not for pairs.
    pub fn segment_attention(
        &self,
        keys: &Self,
        values: &Self,
        segments: &Segments,
        heads: usize,
    ) -> Result<Self> {
        let columns = self.shape().columns();
        let ends = [&segments.queries, &segments.keys].map(|ends| ends.last().copied().unwrap_or(0));
        let fits = *self.dims() == [ends[0], columns]
            && *keys.dims() == [ends[1], columns]
            && keys.shape() == values.shape();
        if !fits {
            return Err(Error::Shape(format!(
                "attention: queries {}, keys {} and values {} for {} and {} rows",
                self.shape(),
                keys.shape(),
                values.shape(),
                ends[0],
                ends[1]
            )));
        }
        if heads == 0 || columns == 0 || !columns.is_multiple_of(heads) {
            return Err(Error::Config(format!("attention: {heads} heads of {columns} columns")));
        }
        let scale = T::of(((columns / heads) as f64).sqrt().recip());
        let segments =
            Segments { queries: memory::copy_of(&segments.queries), keys: memory::copy_of(&segments.keys) };
        let plan = Plan { segments, heads, columns, scale };
        let (q, k, v) = (self.values(), keys.values(), values.values());
        let (mut out, mut logs) = (Buffer::stale(q.len()), Buffer::stale(ends[0] * heads));
        let tiles = Segments::tiles(&plan.segments.queries, ROWS);
        let both = split(&mut out, &tiles, columns).into_iter().zip(split(&mut logs, &tiles, heads));
        let mut parts: Vec<_> = memory::collect(both);
        threads::for_each_chunk(&mut parts, 1, |at, part| {
            part.iter_mut().for_each(|(out, logs)| plan.attend(&tiles[at], [&q, &k, &v], out, logs));
        });
        let out = Arc::new(out);
        let y = Arc::clone(&out);
        let parents = [self, keys, values];
        Ok(record("attention", out, Shape::new(&[ends[0], columns])?, parents, move |grad, wanted| {
            let inner = plan.inner(&grad, &y);
            let saved = Saved { inputs: [&q, &k, &v], grad: &grad, logs: &logs, inner: &inner };
            let to_queries = wanted[0].then(|| {
                let mut out = Buffer::stale(q.len());
                let mut parts = split(&mut out, &tiles, columns);
                threads::for_each_chunk(&mut parts, 1, |at, part| {
                    part.iter_mut().for_each(|out| plan.to_queries(&saved, &tiles[at], out));
                });
                out
            });
            if !wanted[1] && !wanted[2] {
                return [to_queries, None, None];
            }
            let (mut to_keys, mut to_values) = (Buffer::stale(k.len()), Buffer::stale(v.len()));
            let tiles = Segments::tiles(&plan.segments.keys, KEYS);
            let both =
                split(&mut to_keys, &tiles, columns).into_iter().zip(split(&mut to_values, &tiles, columns));
            let mut parts: Vec<_> = memory::collect(both);
            threads::for_each_chunk(&mut parts, 1, |at, part| {
                part.iter_mut().for_each(|(keys, values)| plan.to_keys(&saved, &tiles[at], keys, values));
            });
            [to_queries, wanted[1].then_some(to_keys), wanted[2].then_some(to_values)]
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};
    use proptest::prelude::*;

    #[test]
    fn gradients_to_queries_keys_and_values() {
        let segments = Segments::new(vec![0, 2, 2, 3, 5], vec![0, 3, 4, 4, 5]).unwrap();
        let inputs = [random(&[5, 6], 0), random(&[5, 6], 1), random(&[5, 6], 2)];
        for heads in [1, 2, 3, 6] {
            gradcheck(&inputs, |x| x[0].segment_attention(&x[1], &x[2], &segments, heads)).unwrap();
        }
        let out = inputs[0].segment_attention(&inputs[1], &inputs[2], &segments, 2).unwrap().to_vec();
        assert_eq!(out[12..18], [0.0; 6], "a segment without keys");
    }

    /// Every pair written as an edge, for the attention over neighbours.
    fn pairs(queries: &[usize], keys: &[usize]) -> crate::graph::Graph {
        let mut edges = (Vec::new(), Vec::new());
        for (rows, keys) in queries.windows(2).zip(keys.windows(2)) {
            for row in rows[0]..rows[1] {
                for key in keys[0]..keys[1] {
                    edges.0.push(row as u32);
                    edges.1.push(key as u32);
                }
            }
        }
        let (rows, sources) = (*queries.last().unwrap(), *keys.last().unwrap());
        crate::graph::Graph::from_edges(&edges.0, &edges.1, rows, sources, None).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_attention_over_all_pairs(sizes in prop::collection::vec((0usize..90, 0usize..700), 1..4), heads in 1usize..4, large in any::<bool>()) {
            let ends = |of: fn(&(usize, usize)) -> usize| {
                let mut ends = vec![0];
                sizes.iter().for_each(|size| ends.push(ends[ends.len() - 1] + of(size)));
                ends
            };
            let (queries, keys) = (ends(|size| size.0), ends(|size| size.1));
            let (rows, sources) = (queries[queries.len() - 1], keys[keys.len() - 1]);
            // Large scores: the running maximum matters.
            let factor = if large { 30.0 } else { 1.0 };
            let draw = |rows, number| {
                let values: Vec<f64> = random(&[rows, 4 * heads], number).to_vec().iter().map(|x| x * factor).collect();
                Tensor::parameter(values, &[rows, 4 * heads]).unwrap()
            };
            let (one, other) = ([draw(rows, 0), draw(sources, 1), draw(sources, 2)], [draw(rows, 0), draw(sources, 1), draw(sources, 2)]);
            let tiled = one[0].segment_attention(&one[1], &one[2], &Segments::new(queries.clone(), keys.clone()).unwrap(), heads).unwrap();
            let plain = other[0].neighbor_attention(&other[1], &other[2], &pairs(&queries, &keys), heads).unwrap();
            let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9 * factor * factor);
            prop_assert!(close(&tiled.to_vec(), &plain.to_vec()));
            tiled.mul(&tiled).unwrap().sum().unwrap().backward().unwrap();
            plain.mul(&plain).unwrap().sum().unwrap().backward().unwrap();
            for (one, other) in one.iter().zip(&other) {
                prop_assert!(close(&one.grad().unwrap(), &other.grad().unwrap()));
            }
        }
    }

    #[test]
    fn segments_and_shapes_must_fit() {
        assert!(Segments::new(vec![0, 2], vec![0, 1, 2]).is_err());
        assert!(Segments::new(vec![0, 2, 1], vec![0, 1, 2]).is_err());
        assert!(Segments::new(vec![1, 2], vec![0, 2]).is_err());
        let (x, segments) = (random(&[3, 6], 0), Segments::new(vec![0, 3], vec![0, 3]).unwrap());
        assert!(x.segment_attention(&x, &x, &segments, 4).is_err());
        assert!(x.segment_attention(&x, &random(&[2, 6], 0), &segments, 2).is_err());
        assert!(random(&[2, 6], 0).segment_attention(&x, &x, &segments, 2).is_err());
    }
}
