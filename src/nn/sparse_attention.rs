//! Attention over neighbours and a few global tokens (Beltagy et al. 2020; Zaheer et al. 2020; Shirzad et al. 2023): what
//! is far away is reached in two steps, at the price of `N` times the tokens rather than `N^2`.
//!
//! Each graph has the learned tokens `t`. They look at all of its nodes, `t' = t + gather(t, x, x)`; then every node attends
//! over its neighbours, itself and `t'` in one softmax, `a = attention(x, [x; t'])`; and
//! `u = norm1(x + dropout(a))`, `out = norm2(u + dropout(W_2 dropout(act(W_1 u))))`.

#![forbid(unsafe_code)]

use super::init::{self, Init};
use super::membership::Membership;
use super::{FeedForward, Module, MultiheadAttention, target_rows, visit_inside};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::memory;
use crate::real::Real;

const LAYER: &str = "SparseAttentionLayer";

/// Attention over neighbours and global tokens.
#[derive(Clone, Debug)]
pub struct SparseAttentionLayer<T: Real> {
    /// `(tokens, dim)`, the same for all graphs.
    pub tokens: Tensor<T>,
    /// The tokens' attention over all nodes.
    pub gather: MultiheadAttention<T>,
    /// The nodes' attention over neighbours and tokens.
    pub self_attn: MultiheadAttention<T>,
    /// The rest.
    pub feed_forward: FeedForward<T>,
}

impl<T: Real> SparseAttentionLayer<T> {
    /// Tokens with normal values of standard deviation `sqrt(2 / (tokens + dim))`.
    pub fn new(dim: usize, heads: usize, tokens: usize, inner: usize, seed: u64) -> Result<Self> {
        if tokens == 0 {
            return Err(Error::Config("num_global must be at least 1, got 0".into()));
        }
        Ok(Self {
            tokens: init::draw(Init::GlorotNormal, &[tokens, dim], (tokens, dim), seed.wrapping_add(8))?,
            gather: MultiheadAttention::new(dim, heads, seed.wrapping_add(6))?,
            self_attn: MultiheadAttention::new(dim, heads, seed)?,
            feed_forward: FeedForward::new(dim, inner, seed.wrapping_add(2))?,
        })
    }

    /// `x (num_sources, dim) -> (N, dim)`; `batch` holds the number of each source's graph; `dropout` is a rate and a seed.
    ///
    /// `states (graphs, tokens, dim)`, as [`token_states`](Self::token_states) gives them, are looked at in the place of what
    /// the tokens see here, which over a block are its sources alone.
    pub fn forward(
        &self,
        x: &Tensor<T>,
        graph: &Graph,
        batch: Option<&[u32]>,
        states: Option<&Tensor<T>>,
        dropout: Option<(f64, u64)>,
    ) -> Result<Tensor<T>> {
        let targets = target_rows(LAYER, x, graph)?;
        let nodes = Membership::new(LAYER, batch, graph.num_sources())?;
        let (states, numbers) = match states {
            None => (self.look(x, &nodes)?, nodes.numbers()),
            Some(states) => {
                let numbers = batch.map_or_else(|| memory::vec![0; graph.num_sources()], memory::copy_of);
                (self.require_states(states, numbers.iter().copied().max())?, numbers)
            }
        };
        let sources = Tensor::concat(&[x.clone(), states], 0)?;
        let seen = with_tokens(graph, &numbers, self.tokens.dims()[0], sources.dims()[0])?;
        let attended = self.self_attn.forward_between(&targets, &sources, &seen)?;
        self.feed_forward.forward(&targets, &attended, dropout)
    }

    /// What the tokens of each graph are once they have seen all of its nodes, `t'`: `x (N, dim) -> (graphs, tokens, dim)`.
    /// `batch` holds the number of each node's graph, and every graph has nodes.
    pub fn token_states(&self, x: &Tensor<T>, batch: Option<&[u32]>) -> Result<Tensor<T>> {
        let nodes = Membership::new(LAYER, batch, x.dims().first().copied().unwrap_or(0))?;
        let last = batch.and_then(|batch| batch.iter().max()).map_or(0, |&last| last as usize);
        if last + 1 != nodes.graphs() {
            let graphs = nodes.graphs();
            return Err(Error::Config(format!(
                "{LAYER}: batch must number the graphs from 0 without gaps, got {graphs} graphs, the last of them {last}"
            )));
        }
        let [tokens, dim] = [self.tokens.dims()[0], self.tokens.dims()[1]];
        self.look(x, &nodes)?.reshape(&[nodes.graphs(), tokens, dim])
    }

    /// `(graphs tokens, dim)`.
    fn look(&self, x: &Tensor<T>, nodes: &Membership) -> Result<Tensor<T>> {
        let count = self.tokens.dims()[0];
        let each: Vec<u32> = memory::collect((0..nodes.graphs()).flat_map(|_| 0..count as u32));
        let tokens = self.tokens.index_select(&each)?;
        let seen = self.gather.forward_within(&tokens, &nodes.arrange(x)?, &nodes.gathering(count)?)?;
        tokens.add(&seen)
    }

    /// States as rows, which must be there for every graph up to the last.
    fn require_states(&self, states: &Tensor<T>, last: Option<u32>) -> Result<Tensor<T>> {
        let (tokens, graphs) = (self.tokens.dims(), last.map_or(0, |last| last as usize + 1));
        match *states.dims() {
            [given, count, dim] if [count, dim] == *tokens && given >= graphs => {
                states.reshape(&[given * count, dim])
            }
            _ => Err(Error::Shape(format!(
                "{LAYER}: token_states must be ({graphs} or more graphs, {}, {}), got {}",
                tokens[0],
                tokens[1],
                states.shape()
            ))),
        }
    }
}

impl<T: Real> Module<T> for SparseAttentionLayer<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        visit("tokens", &self.tokens);
        visit_inside("gather", &self.gather, visit);
        visit_inside("self_attn", &self.self_attn, visit);
        self.feed_forward.visit(visit);
    }
}

/// Each node's neighbours, itself once, and the tokens of its graph, which follow the graph's sources and make `sources` in
/// all; `numbers` holds the number of each source's graph.
fn with_tokens(graph: &Graph, numbers: &[u32], tokens: usize, sources: usize) -> Result<Graph> {
    let (looped, nodes, given) = (graph.replace_self_loops()?, graph.num_nodes(), graph.num_sources());
    let mut indices = memory::with_capacity(looped.num_edges().saturating_add(nodes.saturating_mul(tokens)));
    let mut indptr = memory::with_capacity(nodes + 1);
    indptr.push(0);
    for (node, &number) in numbers[..nodes].iter().enumerate() {
        let first = (given + number as usize * tokens) as u32;
        indices.extend_from_slice(looped.neighbors(node));
        indices.extend(first..first + tokens as u32);
        indptr.push(indices.len());
    }
    Graph::from_csr(indptr, indices, sources, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::gradcheck::{gradcheck, random};

    fn graph() -> Graph {
        Graph::from_edges(&[0, 1, 2, 2], &[2, 3, 0, 2], 5, 5, None).unwrap()
    }

    #[test]
    fn gradients_of_input_and_weights() {
        let layer = SparseAttentionLayer::<f64>::new(4, 2, 2, 6, 1).unwrap();
        let mut inputs = vec![random(&[5, 4], 0)];
        inputs.extend(layer.parameters());
        let batch = [1, 0, 1, 0, 1];
        gradcheck(&inputs, |x| layer.forward(&x[0], &graph(), Some(&batch), None, Some((0.2, 3)))).unwrap();
    }

    #[test]
    fn far_nodes_are_seen_through_the_tokens_of_the_same_graph_only() {
        let layer = SparseAttentionLayer::<f64>::new(4, 2, 2, 6, 1).unwrap();
        let (x, batch) = (random(&[5, 4], 0), [1, 0, 1, 0, 1]);
        let run = |x: &Tensor<f64>| layer.forward(x, &graph(), Some(&batch), None, None).unwrap().to_vec();
        let before = run(&x);
        // Node 4 is nobody's neighbour.
        x.update(|values| values[16] += 1.0).unwrap();
        let after = run(&x);
        let moved = |node: usize| before[node * 4..][..4] != after[node * 4..][..4];
        assert_eq!([0, 1, 2, 3, 4].map(moved), [true, false, true, false, true]);
        assert!(SparseAttentionLayer::<f64>::new(4, 2, 0, 6, 1).is_err());
    }

    #[test]
    fn gradients_over_a_block_with_and_without_states() {
        let layer = SparseAttentionLayer::<f64>::new(4, 2, 2, 6, 1).unwrap();
        let block = Graph::from_edges(&[1, 0, 1, 0], &[0, 3, 4, 2], 2, 5, None).unwrap();
        let (x, states, batch) = (random(&[5, 4], 0), random(&[3, 2, 4], 1), [2, 0, 2, 0, 1]);
        let inputs: Vec<Tensor<f64>> = std::iter::once(x.clone()).chain(layer.parameters()).collect();
        gradcheck(&inputs, |x| layer.forward(&x[0], &block, Some(&batch), None, None)).unwrap();
        gradcheck(&[x.clone(), states], |x| layer.forward(&x[0], &block, Some(&batch), Some(&x[1]), None))
            .unwrap();
        gradcheck(&[x], |x| layer.token_states(&x[0], Some(&batch))).unwrap();
    }
}
