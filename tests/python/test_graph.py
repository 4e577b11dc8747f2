"""Graphs: constructors, order of edges, derived graphs, aggregation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import ruvector_gnn as rg
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

EDGES = np.array([[1, 2, 2, 0, 1], [0, 0, 0, 2, 0]])  # sources, targets: a duplicate, unsorted


def test_rows_are_sorted_stably_and_remember_the_given_order() -> None:
    graph = rg.Graph.from_edge_index(EDGES, weights=[1, 2, 3, 4, 5])
    np.testing.assert_array_equal(graph.indices, [1, 1, 2, 2, 0])
    np.testing.assert_array_equal(graph.weights, [1, 5, 2, 3, 4])
    np.testing.assert_array_equal(graph.edge_order, [0, 4, 1, 2, 3])
    np.testing.assert_array_equal(graph.degrees, [4, 0, 1])
    np.testing.assert_array_equal(graph.to_edge_index(), EDGES[:, graph.edge_order])
    assert repr(graph) == "Graph(num_nodes=3, num_edges=5, weighted)"


def test_constructors_agree() -> None:
    lists = [[1, 2], [0], []]
    graphs = [
        rg.Graph.from_adjacency(lists),
        rg.Graph.from_csr([0, 2, 3, 3], [2, 1, 0]),
        rg.Graph.from_edge_index([[1, 2, 0], [0, 0, 1]], num_nodes=3),
        rg.Graph.from_scipy(scipy.sparse.csr_matrix(np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]], bool))),
    ]
    for graph in [*graphs, pickle.loads(pickle.dumps(graphs[0]))]:
        np.testing.assert_array_equal(graph.indptr, [0, 2, 3, 3])
        np.testing.assert_array_equal(graph.indices, [1, 2, 0])
        assert graph.weights is None
    np.testing.assert_array_equal(graphs[0].neighbors(0), [1, 2])


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_aggregation_is_the_sparse_product(nodes: int, sources: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = scipy.sparse.random(nodes, sources, 0.4, random_state=seed, dtype=np.float32, format="csr")
    x = rng.normal(size=(sources, 3)).astype(np.float32)
    graph = rg.Graph.from_scipy(matrix)
    np.testing.assert_allclose(rg.aggregate(x, graph).numpy(), matrix @ x, atol=1e-5)
    assert (graph.to_scipy() != matrix).nnz == 0
    assert (graph.transpose().to_scipy() != matrix.T.tocsr()).nnz == 0
    degrees = np.maximum(graph.degrees, 1)[:, None]
    mean = rg.aggregate(x, graph, reduce="mean").numpy()
    np.testing.assert_allclose(mean, (matrix @ x) / degrees, atol=1e-5)


def test_gcn_normalization_matches_the_dense_formula() -> None:
    graph = rg.Graph.from_adjacency([[1], [0, 2], [1], []])
    a = graph.to_scipy().toarray() + np.eye(4)
    root = 1 / np.sqrt(a.sum(1))
    expected = root[:, None] * a * root
    np.testing.assert_allclose(graph.gcn_normalize().to_scipy().toarray(), expected, atol=1e-6)
    np.testing.assert_array_equal(graph.add_self_loops().degrees, [2, 3, 2, 1])


def test_edge_softmax_and_segments() -> None:
    graph = rg.Graph.from_adjacency([[1, 2], [0], []])
    y = rg.edge_softmax([[1.0, 0], [2.0, 0], [5.0, 5]], graph).numpy()
    np.testing.assert_allclose(np.add.reduceat(y, [0, 2]), np.ones((2, 2)), atol=1e-6)
    x = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(rg.segment_sum(x, [1, 0, 1, 1], 3), [[2, 3], [10, 13], [0, 0]])


def test_weights_given_beside_the_graph_get_gradients() -> None:
    graph = rg.Graph.from_adjacency([[1, 2], [0], []])
    weights = rg.tensor([1.0, 2, 3], requires_grad=True)
    x = np.array([[1.0, 0], [0, 1], [1, 1]])
    rg.aggregate(x, graph, weights=weights).sum().backward()
    np.testing.assert_array_equal(weights.grad, [1, 2, 1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(rg.RowError):
        rg.Graph.from_adjacency([[1], [2]])
    with pytest.raises(rg.RowError):
        rg.Graph.from_edge_index([[-1], [0]])
    with pytest.raises(rg.ShapeError, match=r"\(2, E\)"):
        rg.Graph.from_edge_index([0, 1])
    with pytest.raises(rg.ShapeError, match="weights"):
        rg.Graph.from_edge_index([[0], [1]], weights=[1, 2])
    with pytest.raises(rg.ShapeError, match="indptr"):
        rg.Graph.from_csr([0, 3], [0])
    with pytest.raises(rg.ShapeError, match="aggregate"):
        rg.aggregate(np.ones((3, 2)), rg.Graph.from_adjacency([[0]]))
    with pytest.raises(rg.ConfigError, match="reduce"):
        rg.aggregate(np.ones((1, 2)), rg.Graph.from_adjacency([[0]]), reduce="median")


def test_node_ids() -> None:
    graph = rg.Graph.from_adjacency([[1], [0]]).with_node_ids([7, 9])
    np.testing.assert_array_equal(graph.node_ids, [7, 9])
    np.testing.assert_array_equal(graph.transpose().node_ids, [7, 9])


def test_an_index_gives_its_links_as_a_graph() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    index = rg.HNSWIndex(8, m=4)
    index.add(vectors)
    graph = index.graph()
    np.testing.assert_array_equal(graph.node_ids, index.rows())
    assert graph.degrees.max() <= 8
    assert rg.nn.SAGELayer(8, 4, seed=0)(index.vectors(), graph).shape == (300, 4)
    with pytest.raises(rg.ConfigError):
        index.graph(99)
