//! Inductive node embeddings (Hamilton et al. 2017): a stack of SAGE layers, over a whole graph or over the blocks of a
//! mini-batch.
//!
//! `h_i <- relu(W_l agg_j h_j + b + W_r h_i)`, the last layer without the relu; the result is optionally scaled to norm 1,
//! as in the authors' code.

#![forbid(unsafe_code)]

use super::{Module, SageLayer, Table, visit_inside};
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::graph::{Block, Graph};
use crate::real::Real;

/// SAGE layers with relu between. Parameters are named `convs.{i}.*`, as PyG's.
///
/// ```
/// use ruvector_gnn::autograd::Tensor;
/// use ruvector_gnn::graph::Graph;
/// use ruvector_gnn::nn::{GraphSage, Table};
/// let graph = Graph::from_edges(&[0, 0, 1, 2], &[1, 2, 0, 1], 3, 3, None)?;
/// let model = GraphSage::<f32>::new(&[2, 8, 4], true, 0)?;
/// let x = [0.5, 1.0, -1.0, 2.0, 0.0, 3.0];
/// assert_eq!(model.forward(&Tensor::new(x.to_vec(), &[3, 2])?, &graph)?.dims(), [3, 4]);
/// let blocks = graph.sample(&[2], &[Some(10), Some(5)], 1)?;
/// assert_eq!(model.forward_table(&Table::new(&x, 3, 2)?, &blocks)?.dims(), [1, 4]);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GraphSage<T: Real> {
    /// The layers, in the order in which they are applied.
    pub convs: Vec<SageLayer<T>>,
    /// Whether rows of the result are scaled to norm 1.
    pub normalize: bool,
}

impl<T: Real> GraphSage<T> {
    /// Layers `dims[0] -> dims[1] -> ..` that take the mean, drawn as [`SageLayer::new`] does.
    pub fn new(dims: &[usize], normalize: bool, seed: u64) -> Result<Self> {
        if dims.len() < 2 {
            return Err(Error::Config(format!(
                "GraphSage: dims must name at least two widths, got {dims:?}"
            )));
        }
        let layer = |(number, pair): (usize, &[usize])| {
            SageLayer::new(pair[0], pair[1], false, seed.wrapping_add(16 * number as u64))
        };
        let convs = dims.windows(2).enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Self { convs, normalize })
    }

    /// `x (N, in) -> (N, out)` from all neighbours.
    pub fn forward(&self, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
        self.run(|first| first.forward(x, graph), |_| graph)
    }

    /// The rows of the last block's targets, from the features `x` of the first one's sources. Blocks come one per layer, in
    /// the order of [`Graph::sample`]; another number of them is [`Error::Config`].
    pub fn forward_blocks(&self, x: &Tensor<T>, blocks: &[Block]) -> Result<Tensor<T>> {
        self.require_blocks(blocks)?;
        self.run(|first| first.forward(x, blocks[0].graph()), |number| blocks[number].graph())
    }

    /// As [`forward_blocks`](Self::forward_blocks), with the features of all nodes of the graph, of which only the rows that
    /// the batch needs are read.
    pub fn forward_table(&self, table: &Table<'_, T>, blocks: &[Block]) -> Result<Tensor<T>> {
        self.require_blocks(blocks)?;
        self.run(|first| first.forward_table(table, &blocks[0]), |number| blocks[number].graph())
    }

    /// What `first` gives, through the other layers, each over its graph.
    fn run<'a>(
        &self,
        first: impl FnOnce(&SageLayer<T>) -> Result<Tensor<T>>,
        graph: impl Fn(usize) -> &'a Graph,
    ) -> Result<Tensor<T>> {
        let empty = || Error::Config("GraphSage: there must be at least one layer".into());
        let (layer, others) = self.convs.split_first().ok_or_else(empty)?;
        let hidden = others.iter().enumerate().try_fold(first(layer)?, |hidden, (number, layer)| {
            layer.forward(&hidden.relu()?, graph(number + 1))
        })?;
        if self.normalize { hidden.normalize() } else { Ok(hidden) }
    }

    fn require_blocks(&self, blocks: &[Block]) -> Result<()> {
        let (layers, given) = (self.convs.len(), blocks.len());
        if layers == given && layers > 0 {
            return Ok(());
        }
        Err(Error::Config(format!("GraphSage: blocks must be one per layer ({layers}), got {given}")))
    }
}

impl<T: Real> Module<T> for GraphSage<T> {
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
        for (number, layer) in self.convs.iter().enumerate() {
            visit_inside(&format!("convs.{number}"), layer, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Reduce;
    use crate::autograd::gradcheck::{gradcheck, random};
    use crate::nn::{Lstm, SageLstm};
    use crate::rng::stream;

    fn model(dims: &[usize]) -> GraphSage<f64> {
        GraphSage::new(dims, true, 3).unwrap()
    }

    fn graph(nodes: usize, edges: usize) -> Graph {
        let mut draws = stream(0, "graphsage-test", 0);
        let mut node = || draws.below(nodes as u64) as u32;
        let (targets, sources): (Vec<u32>, Vec<u32>) = (0..edges).map(|_| (node(), node())).unzip();
        Graph::from_edges(&targets, &sources, nodes, nodes, None).unwrap()
    }

    #[test]
    fn full_neighbourhoods_give_the_rows_of_the_whole_graph() {
        let (graph, x) = (graph(60, 200), random(&[60, 4], 0));
        let (mean, values) = (model(&[4, 6, 5, 3]), x.to_vec());
        let (mut max, mut lstm) = (mean.clone(), mean.clone());
        max.convs.iter_mut().for_each(|layer| layer.reduce = Reduce::Max);
        for (layer, width) in lstm.convs.iter_mut().zip([4, 6, 5]) {
            layer.lstm = Some(SageLstm { lstm: Lstm::new(width, width, 7).unwrap(), padded: false });
        }
        let nodes = [7, 0, 59, 7];
        let blocks = graph.sample(&nodes, &[None; 3], 1).unwrap();
        let table = Table::new(&values, 60, 4).unwrap();
        for model in [mean, max, lstm] {
            let whole = model.forward(&x, &graph).unwrap().index_select(&nodes).unwrap().to_vec();
            let sources = x.index_select(blocks[0].source_nodes()).unwrap();
            for part in [model.forward_blocks(&sources, &blocks), model.forward_table(&table, &blocks)] {
                let part = part.unwrap();
                assert_eq!(part.dims(), [4, 3]);
                let off = part.to_vec().iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(off < 1e-12, "{off}");
            }
        }
    }

    #[test]
    fn gradients_over_a_graph_and_over_blocks() {
        let (graph, model) = (graph(6, 12), model(&[3, 4, 2]));
        let blocks = graph.sample(&[4, 1], &[Some(2), Some(1)], 5).unwrap();
        for rows in [graph.num_nodes(), blocks[0].source_nodes().len()] {
            let inputs = [model.parameters(), vec![random(&[rows, 3], 1)]].concat();
            gradcheck(&inputs, |inputs| match &inputs[inputs.len() - 1] {
                x if rows == graph.num_nodes() => model.forward(x, &graph),
                x => model.forward_blocks(x, &blocks),
            })
            .unwrap();
        }
    }

    #[test]
    fn parameters_are_named_as_pygs_and_wrong_counts_are_refused() {
        let names: Vec<_> = model(&[2, 3, 1]).named_parameters().into_iter().map(|(name, _)| name).collect();
        let layer = ["lin_l.weight", "lin_l.bias", "lin_r.weight"];
        let expected =
            ["convs.0", "convs.1"].iter().flat_map(|conv| layer.map(|key| format!("{conv}.{key}")));
        assert_eq!(names, expected.collect::<Vec<_>>());
        let (graph, x) = (graph(6, 12), random(&[6, 2], 0));
        let blocks = graph.sample(&[0], &[None], 0).unwrap();
        let refused = model(&[2, 3, 1]).forward_blocks(&x, &blocks);
        assert!(matches!(refused, Err(Error::Config(text)) if text.contains("one per layer (2), got 1")));
        assert!(matches!(GraphSage::<f64>::new(&[2], true, 0), Err(Error::Config(_))));
        let none = GraphSage::<f64> { convs: Vec::new(), normalize: true };
        assert!(matches!(none.forward(&x, &graph), Err(Error::Config(_))));
        assert!(matches!(none.forward_blocks(&x, &[]), Err(Error::Config(_))));
    }
}
