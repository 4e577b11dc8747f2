//! What training makes: a query adapter, and with click edges also the map of their messages.

#![forbid(unsafe_code)]

use super::clicks::Clicks;
use super::space::Space;
use crate::linalg::{MatRef, matmul_into};
use crate::memory;

/// The weights of the click edges.
#[derive(Clone, Debug, PartialEq)]
pub struct Edges {
    /// `W`, `(dim, dim)`.
    pub map: Vec<f32>,
    /// `g`, of either sign.
    pub gate: f32,
    /// `abs(c)`: how many clicks a document's own vector counts for.
    pub shrink: f32,
}

/// One trained model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// `A`, `(dim, dim)`.
    pub adapter: Vec<f32>,
    /// The click edges, if the model has them.
    pub edges: Option<Edges>,
}

impl Model {
    /// The adapted queries `settle(q + q A)`.
    pub fn queries(&self, space: &Space, queries: &[f32]) -> Vec<f32> {
        space.adapt(queries, &self.adapter)
    }

    /// What clicked documents hear from their clicks, `g c_d W`, in the order of `clicks`.
    pub fn messages(&self, clicks: &Clicks) -> Vec<f32> {
        let Some(edges) = &self.edges else { return memory::vec![0.0; clicks.sums().len()] };
        let dim = (edges.map.len() as f64).sqrt() as usize;
        let mut means = memory::copy_of(clicks.sums());
        for (mean, count) in means.chunks_exact_mut(dim).zip(clicks.counts()) {
            let factor = edges.gate / (count + edges.shrink).max(f32::MIN_POSITIVE);
            mean.iter_mut().for_each(|value| *value *= factor);
        }
        let mut messages = memory::vec![0.0; means.len()];
        let map = MatRef::new(&edges.map, dim, dim);
        matmul_into(MatRef::new(&means, clicks.len(), dim), map, &mut messages, false);
        messages
    }

    /// The clicked documents `settle(x_d + g c_d W)`, in the order of `clicks`; `docs` is the whole table.
    pub fn clicked(&self, space: &Space, docs: &[f32], clicks: &Clicks) -> Vec<f32> {
        let dim = space.dim();
        let mut rows = self.messages(clicks);
        for (row, &doc) in rows.chunks_exact_mut(dim).zip(clicks.docs()) {
            row.iter_mut().zip(&docs[doc as usize * dim..]).for_each(|(value, own)| *value += own);
        }
        space.settle(&mut rows);
        rows
    }

    /// The whole table of documents, the clicked ones with their messages.
    pub fn docs(&self, space: &Space, docs: &[f32], clicks: &Clicks) -> Vec<f32> {
        let (dim, mut table) = (space.dim(), memory::copy_of(docs));
        if self.edges.is_some() {
            let rows = self.clicked(space, docs, clicks);
            for (row, &doc) in rows.chunks_exact(dim).zip(clicks.docs()) {
                table[doc as usize * dim..][..dim].copy_from_slice(row);
            }
        }
        table
    }
}
