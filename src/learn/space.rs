//! Vectors as the metric sees them: the space in which queries are adapted and documents take in their clicks.
//!
//! | metric | a vector becomes | score of document `h` for query `q` |
//! |---|---|---|
//! | cosine | `v / abs(v)`, again after every change | `<q, h>` |
//! | ip | `v / s` | `<q, h>` |
//! | l2 | `(v - m) / s` | `<q, h> - abs(h)^2 / 2`, the order of `-abs(q - h)^2` |
//!
//! with `m` the mean document and `s` the root mean square length of the documents (under l2 of the centred ones),
//! so that one set of learning rates and temperatures fits every metric. Ranks by score are ranks by distance.

#![forbid(unsafe_code)]

use crate::linalg::{MatRef, matmul_into};
use crate::memory;
use crate::simd;
use crate::threads;

/// How vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// By angle.
    Cosine,
    /// By squared Euclidean distance.
    L2,
    /// By inner product.
    Ip,
}

/// Rows per piece of elementwise work.
const ROWS: usize = 256;

/// Up to this many queries are adapted one by one.
const FEW: usize = 4;

/// The map from an index's vectors to the learner's; see the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    /// How vectors are compared.
    pub geometry: Geometry,
    /// The mean document under l2, else zeros.
    pub center: Vec<f32>,
    /// What lengths are divided by; 1 under cosine.
    pub scale: f32,
}

impl Space {
    /// The space of documents `(n, dim)`; not empty.
    pub fn of(geometry: Geometry, docs: &[f32], dim: usize) -> Self {
        let mut center = memory::vec![0.0; dim];
        let count = (docs.len() / dim).max(1) as f64;
        if geometry == Geometry::L2 {
            let mut sums = memory::vec![0.0f64; dim];
            for doc in docs.chunks_exact(dim) {
                sums.iter_mut().zip(doc).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            center = sums.into_iter().map(|sum| (sum / count) as f32).collect();
        }
        let mut scale = 1.0;
        if geometry != Geometry::Cosine {
            let squared = |doc: &[f32]| f64::from((simd::kernels().squared_l2)(doc, &center));
            let total: f64 = docs.chunks_exact(dim).map(squared).sum();
            scale = (total / count).sqrt() as f32;
            if !(scale.is_finite() && scale > 0.0) {
                scale = 1.0;
            }
        }
        Self { geometry, center, scale }
    }

    /// Values per vector.
    pub fn dim(&self) -> usize {
        self.center.len()
    }

    /// Vectors of the index, in this space.
    pub fn enter(&self, vectors: &[f32]) -> Vec<f32> {
        let mut rows = memory::copy_of(vectors);
        if self.geometry == Geometry::Cosine {
            self.settle(&mut rows);
            return rows;
        }
        let (dim, factor) = (self.dim(), 1.0 / self.scale);
        threads::for_each_chunk(&mut rows, ROWS * dim, |_, rows| {
            for row in rows.chunks_exact_mut(dim) {
                row.iter_mut()
                    .zip(&self.center)
                    .for_each(|(value, center)| *value = (*value - center) * factor);
            }
        });
        rows
    }

    /// One vector of the index, in this space, in the place of what `room` held.
    pub fn enter_into(&self, vector: &[f32], room: &mut Vec<f32>) {
        room.clear();
        room.extend_from_slice(vector);
        if self.geometry == Geometry::Cosine {
            normalize(room);
        } else {
            let (center, factor) = (&self.center, 1.0 / self.scale);
            room.iter_mut().zip(center).for_each(|(value, center)| *value = (*value - center) * factor);
        }
    }

    /// Vectors of this space, as the index takes them; under cosine their length says nothing.
    pub fn leave(&self, rows: &[f32]) -> Vec<f32> {
        let mut vectors = memory::copy_of(rows);
        if self.geometry != Geometry::Cosine {
            for vector in vectors.chunks_exact_mut(self.dim()) {
                vector
                    .iter_mut()
                    .zip(&self.center)
                    .for_each(|(value, center)| *value = *value * self.scale + center);
            }
        }
        vectors
    }

    /// What follows every change of vectors in this space: length 1 under cosine. A zero row stays as it is.
    pub fn settle(&self, rows: &mut [f32]) {
        if self.geometry != Geometry::Cosine {
            return;
        }
        let dim = self.dim();
        threads::for_each_chunk(rows, ROWS * dim, |_, rows| {
            rows.chunks_exact_mut(dim).for_each(normalize);
        });
    }

    /// What a document's own length takes from its score.
    pub fn penalty(&self, doc: &[f32]) -> f32 {
        if self.geometry == Geometry::L2 { 0.5 * (simd::kernels().dot)(doc, doc) } else { 0.0 }
    }

    /// The score of one document.
    pub fn score(&self, query: &[f32], doc: &[f32]) -> f32 {
        (simd::kernels().dot)(query, doc) - self.penalty(doc)
    }

    /// Scores of all documents for all queries, `(queries, docs)`.
    pub fn scores(&self, queries: &[f32], docs: &[f32]) -> Vec<f32> {
        let dim = self.dim();
        let (rows, columns) = (queries.len() / dim, docs.len() / dim);
        let mut out = memory::vec![0.0; rows * columns];
        matmul_into(MatRef::new(queries, rows, dim), MatRef::new(docs, columns, dim).t(), &mut out, false);
        if self.geometry == Geometry::L2 && columns > 0 {
            let penalties: Vec<f32> = memory::collect(docs.chunks_exact(dim).map(|doc| self.penalty(doc)));
            threads::for_each_chunk(&mut out, ROWS * columns, |_, rows| {
                for row in rows.chunks_exact_mut(columns) {
                    row.iter_mut().zip(&penalties).for_each(|(score, penalty)| *score -= penalty);
                }
            });
        }
        out
    }

    /// The adapted queries `settle(q + q A)`.
    pub fn adapt(&self, queries: &[f32], adapter: &[f32]) -> Vec<f32> {
        let dim = self.dim();
        let rows = queries.len() / dim;
        let mut out = memory::copy_of(queries);
        if rows <= FEW {
            // A product would first copy the whole matrix into its own layout.
            let numbers: Vec<u32> = memory::collect(0..dim as u32);
            let mut turned = memory::vec![0.0; dim];
            for (query, out) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
                (simd::kernels().gather_weighted_sum)(adapter, numbers[..].into(), query, &mut turned);
                (simd::kernels().axpy)(1.0, &turned, out);
            }
        } else {
            matmul_into(MatRef::new(queries, rows, dim), MatRef::new(adapter, dim, dim), &mut out, true);
        }
        self.settle(&mut out);
        out
    }
}

/// Scales a row to length 1, unless it is zero.
pub(super) fn normalize(row: &mut [f32]) {
    let norm = (simd::kernels().dot)(row, row).sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|value| *value /= norm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    fn draws(count: usize, index: u64) -> Vec<f32> {
        let mut rng = stream(5, "space-test", index);
        (0..count).map(|_| rng.normal() as f32 * 3.0 + 1.0).collect()
    }

    #[test]
    fn scores_rank_as_the_metric_does_and_vectors_return() {
        let (dim, docs, queries) = (6, draws(40 * 6, 0), draws(5 * 6, 1));
        for geometry in [Geometry::Cosine, Geometry::L2, Geometry::Ip] {
            let space = Space::of(geometry, &docs, dim);
            let (inside, asked) = (space.enter(&docs), space.enter(&queries));
            let scores = space.scores(&asked, &inside);
            for (query, scores) in queries.chunks_exact(dim).zip(scores.chunks_exact(40)) {
                let plain = |doc: &[f32]| -> f32 {
                    let dot: f32 = query.iter().zip(doc).map(|(a, b)| a * b).sum();
                    let l2: f32 = query.iter().zip(doc).map(|(a, b)| (a - b).powi(2)).sum();
                    let norm = doc.iter().map(|v| v * v).sum::<f32>().sqrt();
                    match geometry {
                        Geometry::Cosine => dot / norm,
                        Geometry::L2 => -l2,
                        Geometry::Ip => dot,
                    }
                };
                let order = |key: &dyn Fn(usize) -> f32| {
                    let mut order: Vec<usize> = (0..40).collect();
                    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
                    order
                };
                assert_eq!(order(&|d| scores[d]), order(&|d| plain(&docs[d * dim..][..dim])), "{geometry:?}");
            }
            if geometry != Geometry::Cosine {
                assert!(space.leave(&inside).iter().zip(&docs).all(|(a, b)| (a - b).abs() < 1e-4));
            }
            assert_eq!(space.adapt(&asked, &vec![0.0; dim * dim]).len(), asked.len());
        }
    }
}
