use super::*;
use crate::rng;
use proptest::prelude::*;

/// Random edges, unsorted, with duplicates and loops.
fn edges(nodes: u32, count: usize, seed: u64) -> (Vec<u32>, Vec<u32>, Vec<f32>) {
    let mut draws = rng::stream(seed, "graph-test", 0);
    let mut node = || draws.below(u64::from(nodes)) as u32;
    let (targets, sources) = ((0..count).map(|_| node()).collect(), (0..count).map(|_| node()).collect());
    (targets, sources, (0..count).map(|edge| edge as f32 + 0.5).collect())
}

proptest! {
    #[test]
    fn rows_are_sorted_stably_and_remember_the_given_order(nodes in 1u32..20, count in 0usize..60, seed in 0u64..99) {
        let (targets, sources, weights) = edges(nodes, count, seed);
        let n = nodes as usize;
        let graph = Graph::from_edges(&targets, &sources, n, n, Some(&weights)).unwrap();
        let mut expected: Vec<usize> = (0..count).collect();
        expected.sort_by_key(|&edge| (targets[edge], sources[edge]));
        let order: Vec<usize> = match graph.edge_order() {
            Some(order) => order.iter().map(|&edge| edge as usize).collect(),
            None => (0..count).collect(),
        };
        prop_assert_eq!(&order, &expected);
        for (at, &edge) in expected.iter().enumerate() {
            prop_assert_eq!(graph.targets()[at], targets[edge]);
            prop_assert_eq!(graph.indices()[at], sources[edge]);
            prop_assert_eq!(graph.weights().unwrap()[at], weights[edge]);
        }
    }

    #[test]
    fn the_transpose_reverses_every_edge_and_twice_is_the_graph(nodes in 1u32..20, count in 0usize..60, seed in 0u64..99) {
        let (targets, sources, weights) = edges(nodes, count, seed);
        let n = nodes as usize;
        let graph = Graph::from_edges(&targets, &sources, n, n + 3, Some(&weights)).unwrap();
        let transposed = graph.transposed();
        prop_assert_eq!(transposed.graph.num_nodes(), n + 3);
        for (at, &edge) in transposed.order.iter().enumerate() {
            prop_assert_eq!(transposed.graph.targets()[at], graph.indices()[edge as usize]);
            prop_assert_eq!(transposed.graph.indices()[at], graph.targets()[edge as usize]);
            prop_assert_eq!(transposed.graph.weights().unwrap()[at], graph.weights().unwrap()[edge as usize]);
        }
        let back = transposed.graph.transpose();
        prop_assert_eq!((back.indptr(), back.indices()), (graph.indptr(), graph.indices()));
    }
}

#[test]
fn unsorted_rows_are_accepted() {
    let graph = Graph::from_csr(vec![0, 2, 2, 3], vec![2, 1, 0], 3, Some(vec![5.0, 6.0, 7.0])).unwrap();
    assert_eq!((graph.neighbors(0), graph.weights().unwrap()), (&[1u32, 2][..], &[6.0f32, 5.0, 7.0][..]));
    assert_eq!(graph.edge_order(), Some(&[1u32, 0, 2][..]));
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(matches!(Graph::from_edges(&[0], &[3], 3, 3, None), Err(Error::Row(_))));
    assert!(matches!(Graph::from_edges(&[0], &[], 3, 3, None), Err(Error::Shape(_))));
    assert!(matches!(Graph::from_edges(&[0], &[1], 3, 3, Some(&[f32::NAN])), Err(Error::Shape(_))));
    assert!(matches!(Graph::from_csr(vec![0, 2, 1], vec![0], 3, None), Err(Error::Shape(_))));
    assert!(Graph::from_csr(vec![], vec![], 3, None).is_err());
    assert!(Graph::from_edges(&[0], &[2], 4, 3, None).unwrap().add_self_loops().is_err());
    assert!(Graph::from_edges(&[0], &[3], 3, 4, None).unwrap().gcn_normalize(true).is_err());
}

#[test]
fn self_loops_are_added_where_missing() {
    let graph = Graph::from_edges(&[0, 1, 1], &[1, 1, 0], 3, 3, Some(&[2.0, 3.0, 4.0])).unwrap();
    let looped = graph.add_self_loops().unwrap();
    assert_eq!(looped.indices(), [0, 1, 0, 1, 2]);
    assert_eq!(looped.weights().unwrap(), [1.0, 2.0, 4.0, 3.0, 1.0]);
}

#[test]
fn rows_normalize_to_one_or_uniformly() {
    let graph = Graph::from_edges(&[0, 0, 1, 1], &[0, 1, 0, 1], 3, 3, Some(&[1.0, 3.0, -1.0, 1.0])).unwrap();
    assert_eq!(graph.row_normalize().unwrap().weights().unwrap(), [0.25, 0.75, 0.5, 0.5]);
}

#[test]
fn gcn_weights_match_the_formula() {
    // A + I of the path 0 - 1 - 2 has degrees 2, 3, 2.
    let graph = Graph::from_edges(&[0, 1, 1, 2], &[1, 0, 2, 1], 3, 3, None).unwrap();
    let normalized = graph.gcn_normalize(true).unwrap();
    let six = 6.0f32.sqrt().recip();
    let expected = [0.5, six, six, 1.0 / 3.0, six, six, 0.5];
    assert!(normalized.weights().unwrap().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7));
    let without = graph.gcn_normalize(false).unwrap();
    assert!(without.weights().unwrap().iter().all(|w| (w - 0.5f32.sqrt()).abs() < 1e-7));
}
