//! The part of a graph that a few nodes' embeddings depend on.

#![forbid(unsafe_code)]

use super::{Graph, build};
use crate::error::Result;
use crate::memory;

/// Marks a node outside of the field.
const OUTSIDE: u32 = u32::MAX;

/// What `hops` layers need to know to embed some nodes; see [`Graph::receptive_field`].
#[derive(Clone, Debug)]
pub struct ReceptiveField {
    /// The nodes of the field, rising.
    pub nodes: Vec<u32>,
    /// The graph over them, in that order.
    pub graph: Graph,
    /// Where the nodes asked for stand among them, in the order asked.
    pub places: Vec<u32>,
}

impl Graph {
    /// The nodes within `hops` edges of `nodes`, with a graph on which `hops` layers give `nodes` what they give on the
    /// whole graph.
    ///
    /// Nodes nearer than `hops` keep their rows. Those at the rim keep the number and the weights of their edges, which
    /// normalizations read, but edges that leave the field are bent to one of `nodes`: what layers compute for the rim is
    /// not used. Rows and nodes keep their order, so sums run as on the whole graph.
    pub fn receptive_field(&self, nodes: &[u32], hops: usize) -> Result<ReceptiveField> {
        self.require_square("receptive_field")?;
        build::check_nodes("nodes", nodes, self.num_nodes())?;
        let mut place_of = memory::vec![OUTSIDE; self.num_nodes()];
        let (mut field, mut ring) = (Vec::new(), memory::copy_of(nodes));
        for hop in 0..=hops {
            ring.retain(|&node| std::mem::replace(&mut place_of[node as usize], 0) == OUTSIDE);
            ring.iter().for_each(|&node| memory::push(&mut field, (node, hop == hops)));
            if ring.is_empty() {
                break;
            }
            ring = memory::collect(ring.iter().flat_map(|&node| self.neighbors(node as usize)).copied());
        }
        field.sort_unstable();
        for (place, &(node, _)) in field.iter().enumerate() {
            place_of[node as usize] = place as u32;
        }
        let places: Vec<u32> = memory::collect(nodes.iter().map(|&node| place_of[node as usize]));
        let graph = self.rows_within(&field, &place_of, places.first().copied().unwrap_or(0))?;
        Ok(ReceptiveField { nodes: memory::collect(field.into_iter().map(|(node, _)| node)), graph, places })
    }

    /// The rows of the field's nodes, renumbered; edges of the rim that leave it go to `stand_in`.
    fn rows_within(&self, field: &[(u32, bool)], place_of: &[u32], stand_in: u32) -> Result<Self> {
        let edges = field.iter().map(|&(node, _)| self.edges(node as usize).len()).sum();
        let (mut indptr, mut indices) =
            (memory::with_capacity(field.len() + 1), memory::with_capacity(edges));
        indptr.push(0);
        let mut weights = self.weights().map(|_| memory::with_capacity(edges));
        for &(node, rim) in field {
            let place = |&neighbor: &u32| match place_of[neighbor as usize] {
                OUTSIDE => stand_in,
                place => place,
            };
            debug_assert!(
                rim || self.neighbors(node as usize).iter().all(|&j| place_of[j as usize] != OUTSIDE)
            );
            indices.extend(self.neighbors(node as usize).iter().map(place));
            if let (Some(weights), Some(own)) = (&mut weights, self.weights()) {
                weights.extend_from_slice(&own[self.edges(node as usize)]);
            }
            indptr.push(indices.len());
        }
        Self::from_csr(indptr, indices, field.len(), weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Tensor;
    use crate::error::Error;
    use crate::nn::{GcnLayer, RuvectorLayer, SageLayer};
    use crate::rng;
    use proptest::prelude::*;

    fn random_graph(nodes: usize, edges: usize, weighted: bool, seed: u64) -> Graph {
        let mut draws = rng::stream(seed, "receptive-test", 0);
        let mut node = || draws.below(nodes as u64) as u32;
        let (targets, sources): (Vec<u32>, Vec<u32>) = (0..edges).map(|_| (node(), node())).unzip();
        let weights: Vec<f32> = (0..edges).map(|edge| 0.1 + edge as f32 / edges as f32).collect();
        Graph::from_edges(&targets, &sources, nodes, nodes, weighted.then_some(&weights)).unwrap()
    }

    type Layer = Box<dyn Fn(&Tensor<f64>, &Graph) -> Result<Tensor<f64>>>;

    fn layers() -> [Layer; 3] {
        let gcn = GcnLayer::<f64>::new(4, 4, true, 1).unwrap();
        let sage = SageLayer::<f64>::new(4, 4, false, 2).unwrap();
        let ruvector = RuvectorLayer::<f64>::new(4, 4, 2, 3).unwrap();
        [
            Box::new(move |x, graph| gcn.forward(x, graph)),
            Box::new(move |x, graph| sage.forward(x, graph)),
            Box::new(move |x, graph| ruvector.forward(x, graph, None)),
        ]
    }

    proptest! {
        #[test]
        fn layers_give_what_they_give_on_the_whole_graph(
            size in 1usize..30, edges in 0usize..80, weighted in any::<bool>(), hops in 0usize..4, seed in 0u64..99,
        ) {
            let graph = random_graph(size, edges, weighted, seed);
            let mut draws = rng::stream(seed, "receptive-test", 1);
            let values: Vec<f64> = (0..size * 4).map(|_| draws.normal()).collect();
            let nodes: Vec<u32> = (0..size as u32).filter(|_| draws.below(4) == 0).collect();
            let field = graph.receptive_field(&nodes, hops).unwrap();
            prop_assert!(field.nodes.is_sorted_by(|a, b| a < b));
            for layer in layers() {
                let run = |graph: &Graph, x: Tensor<f64>| (0..hops).fold(x, |x, _| layer(&x, graph).unwrap());
                let x = Tensor::new(values.clone(), &[size, 4]).unwrap();
                let whole = run(&graph, x.clone()).index_select(&nodes).unwrap().to_vec();
                let part = run(&field.graph, x.index_select(&field.nodes).unwrap());
                let part = part.index_select(&field.places).unwrap().to_vec();
                prop_assert!(whole.iter().zip(part).all(|(a, b)| (a - b).abs() < 1e-12));
            }
        }
    }

    #[test]
    fn a_path_is_cut_where_the_hops_end() {
        let graph = Graph::from_edges(&[0, 1, 2, 3], &[1, 2, 3, 4], 5, 5, None).unwrap();
        let field = graph.receptive_field(&[1], 2).unwrap();
        assert_eq!((field.nodes, field.places), (vec![1, 2, 3], vec![0]));
        assert_eq!(field.graph.indices(), [1, 2, 0], "node 3's edge to node 4 is bent to node 1");
        assert!(matches!(graph.receptive_field(&[5], 1), Err(Error::Row(_))));
    }
}
