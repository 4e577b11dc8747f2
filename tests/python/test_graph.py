"""Graphs: constructors, order of edges, derived graphs, aggregation."""

from __future__ import annotations

import pickle
import sys

import networkx
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


def copied(graph: rg.Graph) -> rg.Graph:
    copy = pickle.loads(pickle.dumps(graph))
    assert isinstance(copy, rg.Graph)
    return copy


def test_pickles_keep_everything() -> None:
    graph = rg.Graph.from_edge_index(EDGES, weights=[1, 2, 3, 4, 5]).with_node_ids([5, 6, 7])
    rectangle = rg.Graph.from_csr([0, 2], [3, 1], num_sources=4)
    for one in (graph, rectangle, rg.Graph.from_adjacency([])):
        copy = copied(one)
        assert repr(copy) == repr(one)
        for name in ("indptr", "indices", "weights", "edge_order", "node_ids"):
            np.testing.assert_array_equal(getattr(copy, name), getattr(one, name))
    remake, parts = graph.__reduce__()
    for at, wrong in ((4, [0, 0, 1, 2, 3]), (5, [1]), (1, [9] * 5), (0, [0, 5]), (3, [1.0])):
        damaged = [wrong if place == at else part for place, part in enumerate(parts)]
        with pytest.raises((rg.ShapeError, rg.RowError)):
            remake(*damaged)


def adjacency(graph: rg.Graph) -> np.ndarray:
    """Number of edges j -> i at (i, j)."""
    counts = np.zeros((graph.num_nodes, graph.num_sources), int)
    sources, targets = graph.to_edge_index()
    np.add.at(counts, (targets, sources), 1)
    return counts


@st.composite
def graphs(draw: st.DrawFn, weighted: bool = False, smallest: int = 0) -> rg.Graph:
    """Small graphs with duplicates, loops, isolated nodes, or nothing at all."""
    nodes = draw(st.integers(smallest, 9))
    pair = st.tuples(st.integers(0, max(nodes - 1, 0)), st.integers(0, max(nodes - 1, 0)))
    edges = draw(st.lists(pair, max_size=25 if nodes else 0))
    index = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    weights = draw(st.lists(st.floats(0.125, 4, width=32), min_size=len(edges), max_size=len(edges)))
    return rg.Graph.from_edge_index(index, nodes, weights if weighted else None)


@settings(deadline=None)
@given(graphs(smallest=1), st.data())
def test_hops_and_distances_match_networkx(graph: rg.Graph, data: st.DataObject) -> None:
    source = data.draw(st.integers(0, graph.num_nodes - 1))
    reverse = networkx.DiGraph(graph.to_networkx()).reverse()  # from a node to those it aggregates from
    expected = networkx.single_source_shortest_path_length(reverse, source)
    distances = graph.distances(source)
    assert distances.shape == (graph.num_nodes,)
    for node in range(graph.num_nodes):
        assert distances[node] == expected.get(node, -1)
    for hops in range(4):
        near = np.flatnonzero((distances >= 0) & (distances <= hops))
        np.testing.assert_array_equal(graph.k_hop([source, source], hops), near)
        limited = np.where(np.isin(np.arange(graph.num_nodes), near), distances, -1)
        np.testing.assert_array_equal(graph.distances([source], max_hops=hops), limited[None])


@settings(deadline=None)
@given(graphs(weighted=True), st.data())
def test_subgraphs_match_the_dense_selection(graph: rg.Graph, data: st.DataObject) -> None:
    numbers = st.integers(0, max(graph.num_nodes - 1, 0))
    nodes = data.draw(st.lists(numbers, unique=True, max_size=graph.num_nodes))
    part = graph.subgraph(nodes)
    np.testing.assert_array_equal(adjacency(part), adjacency(graph)[np.ix_(nodes, nodes)])
    np.testing.assert_array_equal(part.node_ids, nodes)
    np.testing.assert_array_equal(part.source_nodes, nodes)
    weights = np.empty(graph.num_edges, np.float32)
    weights[graph.edge_order] = graph.weights
    np.testing.assert_array_equal(part.weights, weights[part.edge_ids])
    for row in range(part.num_nodes):
        assert (np.diff(part.neighbors(row)) >= 0).all()


def test_subgraphs_keep_names_and_refuse_repeats() -> None:
    graph = rg.Graph.from_adjacency([[1, 2], [0], [0]]).with_node_ids([7, 8, 9])
    np.testing.assert_array_equal(graph.subgraph([2, 0]).node_ids, [9, 7])
    with pytest.raises(rg.ConfigError, match="node 1 is given twice"):
        graph.subgraph([1, 1])
    with pytest.raises(rg.RowError):
        graph.subgraph([3])
    with pytest.raises(rg.RowError):
        graph.k_hop([3], 1)
    with pytest.raises(rg.ConfigError, match="k must"):
        graph.k_hop([0], -1)
    with pytest.raises(rg.RowError, match="source"):
        graph.distances(3)
    assert graph.distances([[0, 1]]).shape == (1, 2, 3)


@settings(deadline=None)
@given(graphs(weighted=True), st.booleans())
def test_laplacians_and_their_eigenvalues(graph: rg.Graph, normalized: bool) -> None:
    dense = graph.to_scipy().toarray().astype(float)
    symmetric = (dense + dense.T) / 2
    degrees = symmetric.sum(1)
    expected = np.diag(degrees) - symmetric
    if normalized:
        factors = np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
        expected = factors[:, None] * expected * factors
    np.testing.assert_allclose(graph.laplacian(normalized).toarray(), expected, atol=1e-9)
    values = np.linalg.eigvalsh(expected)
    for k in (1, 3, 100):
        found = graph.laplacian_eigenvalues(k, normalized)
        np.testing.assert_allclose(found, values[:k], atol=1e-7)


def test_the_laplacian_is_networkxs_and_large_parts_take_lanczos() -> None:
    known = networkx.grid_2d_graph(30, 30)
    graph = rg.Graph.from_networkx(networkx.disjoint_union(known, networkx.path_graph(40)))
    undirected = graph.to_networkx().to_undirected()
    expected = networkx.normalized_laplacian_matrix(undirected, nodelist=range(940)).toarray()
    np.testing.assert_allclose(graph.laplacian().toarray(), expected, atol=1e-9)
    values = np.linalg.eigvalsh(expected)[:6]
    np.testing.assert_allclose(graph.laplacian_eigenvalues(6), values, atol=1e-6)
    np.testing.assert_array_equal(graph.laplacian_eigenvalues(6), graph.laplacian_eigenvalues(6))
    np.testing.assert_array_equal(graph.laplacian_eigenvalues(2), [0, 0])


def test_what_has_no_laplacian_is_refused() -> None:
    rectangle = rg.Graph.from_csr([0, 1], [3], num_sources=4)
    negative = rg.Graph.from_edge_index([[0, 1], [1, 0]], weights=[-1, -1])
    for call in (rectangle.laplacian, rectangle.to_networkx, lambda: rectangle.k_hop([0], 1)):
        with pytest.raises(rg.ShapeError):
            call()
    with pytest.raises(rg.ConfigError, match="negative"):
        negative.laplacian()
    assert negative.laplacian(normalized=False).toarray().tolist() == [[-1, 1], [1, -1]]
    with pytest.raises(rg.ConfigError, match="negative"):
        negative.laplacian_eigenvalues(1)
    with pytest.raises(rg.ConfigError, match="k must"):
        rg.Graph.from_adjacency([[0]]).laplacian_eigenvalues(0)


@settings(deadline=None)
@given(graphs(weighted=True))
def test_networkx_and_back(graph: rg.Graph) -> None:
    there = graph.to_networkx()
    assert there.is_multigraph() == (adjacency(graph).max(initial=0) > 1)
    back = rg.Graph.from_networkx(there)
    np.testing.assert_array_equal(back.indptr, graph.indptr)
    np.testing.assert_array_equal(back.indices, graph.indices)
    if graph.num_edges:
        np.testing.assert_array_equal(np.sort(back.weights), np.sort(graph.weights))
    assert back.node_ids is None


def test_networkx_directions_names_and_weights() -> None:
    directed = rg.Graph.from_networkx(networkx.DiGraph([("a", "b"), ("a", "c")]))
    np.testing.assert_array_equal(adjacency(directed), [[0, 0, 0], [1, 0, 0], [1, 0, 0]])
    assert directed.node_ids is None
    named = networkx.Graph()
    named.add_edge(30, 10, weight=2.5)
    named.add_edge(10, 10)
    graph = rg.Graph.from_networkx(named)
    np.testing.assert_array_equal(graph.node_ids, [30, 10])
    np.testing.assert_array_equal(graph.to_scipy().toarray(), [[0, 2.5], [2.5, 1]])
    assert sorted(graph.to_networkx().nodes) == [10, 30]
    assert rg.Graph.from_networkx(named, weight=None).weights is None
    parallel = rg.Graph.from_networkx(networkx.MultiGraph([(0, 1), (0, 1)]))
    np.testing.assert_array_equal(adjacency(parallel), [[0, 2], [2, 0]])
    assert rg.Graph.from_networkx(networkx.Graph()).num_nodes == 0


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_knn_graphs_are_nearly_exact(metric: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    graph = rg.Graph.knn(vectors, 5, metric)  # type: ignore[arg-type] # names come from the list above
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    square = (vectors**2).sum(1)
    products = vectors @ vectors.T
    near = {"cosine": unit @ unit.T, "l2": 2 * products - square, "ip": products}[metric]
    np.fill_diagonal(near, -np.inf)
    exact = np.argsort(-near, axis=1)[:, :5]
    rows = graph.indices.reshape(400, 5)
    assert (rows != np.arange(400)[:, None]).all()
    found = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(rows.tolist(), exact.tolist(), strict=True)])
    assert found > 0.98


def test_knn_of_few_or_equal_vectors() -> None:
    np.testing.assert_array_equal(rg.Graph.knn([[1.0], [2.0]], 5).degrees, [1, 1])
    np.testing.assert_array_equal(rg.Graph.knn([[1.0]], 5).degrees, [0])
    same = rg.Graph.knn(np.ones((30, 3)), 2)
    assert (same.degrees == 2).all()
    assert not adjacency(same).diagonal().any()
    with pytest.raises(rg.ConfigError, match="k must"):
        rg.Graph.knn([[1.0]], 0)
    with pytest.raises(rg.ShapeError, match="vectors"):
        rg.Graph.knn([1.0, 2.0], 1)


def test_empty_graphs_and_one_node() -> None:
    for nodes in (0, 1, 3):
        graph = rg.Graph.from_adjacency([[]] * nodes)
        for derived in (graph, graph.transpose(), copied(graph), graph.subgraph(np.arange(nodes))):
            assert (derived.num_nodes, derived.num_edges) == (nodes, 0)
        assert graph.add_self_loops().num_edges == graph.gcn_normalize().num_edges == nodes
        assert rg.aggregate(np.ones((nodes, 2)), graph).shape == (nodes, 2)
        assert graph.laplacian().shape == (nodes, nodes)
        np.testing.assert_array_equal(graph.laplacian_eigenvalues(2), np.zeros(min(nodes, 2)))
        assert graph.to_networkx().number_of_nodes() == nodes
        assert graph.to_scipy().shape == (nodes, nodes)
        assert graph.to_edge_index().shape == (2, 0)
        assert graph.distances([]).shape == (0, nodes)
        np.testing.assert_array_equal(graph.k_hop(np.arange(nodes), 3), np.arange(nodes))
    assert rg.Graph.from_edge_index(np.empty((2, 0), int)).num_nodes == 0
    assert rg.Graph.from_csr([0], []).num_nodes == 0


@settings(deadline=None)
@given(graphs(weighted=True))
def test_derived_graphs_match_the_dense_formulas(graph: rg.Graph) -> None:
    nodes, dense = graph.num_nodes, graph.to_scipy().toarray()
    reverse = graph.transpose()
    np.testing.assert_array_equal(reverse.to_scipy().toarray(), dense.T)
    np.testing.assert_array_equal(reverse.weights, graph.weights[reverse.edge_order])
    looped = graph.add_self_loops()
    missing = np.flatnonzero(adjacency(graph).diagonal() == 0)
    expected = dense + np.diag(np.isin(np.arange(nodes), missing)).astype(np.float32)
    np.testing.assert_allclose(looped.to_scipy().toarray(), expected, rtol=1e-6)
    before = np.concatenate([graph.to_edge_index(), [missing, missing]], axis=1)
    np.testing.assert_array_equal(before[:, looped.edge_order], looped.to_edge_index())
    roots = 1 / np.sqrt(np.maximum(dense.sum(1), 1e-30))
    plain = graph.gcn_normalize(add_self_loops=False).to_scipy().toarray()
    np.testing.assert_allclose(plain, roots[:, None] * dense * roots * (dense.sum(1) > 0), rtol=1e-5)


def test_parts_are_even_few_edges_are_cut_and_blocks_suffice() -> None:
    rng = np.random.default_rng(0)
    # Four clusters, and one edge in ten between any two nodes.
    near = rng.integers(0, 100, (2, 4000)) + 100 * rng.integers(0, 4, 4000)
    index = np.concatenate([near, rng.integers(0, 400, (2, 400))], axis=1)
    x, layer = rng.normal(size=(400, 5)), rg.nn.SAGELayer(5, 3, seed=0)
    for weights in (None, rng.uniform(0.5, 2, index.shape[1])):
        graph = rg.Graph.from_edge_index(index, 400, weights)
        parts = graph.partition(4)
        assert parts.sizes.sum() == 400
        assert parts.sizes.max() <= 110
        assert parts.edge_cut == (parts.assignment[index[0]] != parts.assignment[index[1]]).sum() < 500
        np.testing.assert_array_equal(graph.partition(4).assignment, parts.assignment)
        whole = layer(x, graph).numpy()
        for part in range(4):
            block, own = parts.block(part), parts.nodes(part)
            np.testing.assert_array_equal(block.target_nodes, own)
            np.testing.assert_array_equal(np.sort(block.source_nodes), np.union1d(own, parts.halo(part)))
            np.testing.assert_allclose(layer(x[block.source_nodes], block), whole[own], atol=1e-5)
            assert not np.isin(parts.halo(part, 2), own).any()
    # A heavy edge is not cut.
    path = rg.Graph.from_edge_index([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]], 6, [1, 1, 100, 1, 1])
    halves = path.partition(2).assignment
    assert halves[2] == halves[3]


def test_parts_of_small_graphs_and_wrong_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = rg.Graph.from_adjacency([[1], [0], []])
    assert graph.partition(1).sizes.tolist() == [3]
    assert sorted(graph.partition(3).assignment.tolist()) == [0, 1, 2]
    assert rg.Graph.from_adjacency([[]] * 6).partition(2).sizes.sum() == 6
    assert rg.Graph.from_adjacency([]).partition(1).sizes.tolist() == [0]
    for k in (0, 4):
        with pytest.raises(rg.ConfigError, match="k must"):
            graph.partition(k)
    with pytest.raises(rg.ConfigError, match="method"):
        graph.partition(2, "spectral")  # type: ignore[arg-type] # the wrong value is the test
    with pytest.raises(rg.ConfigError, match="part must"):
        graph.partition(2).nodes(2)
    with pytest.raises(rg.ConfigError, match="negative"):
        rg.Graph.from_edge_index([[0, 1], [1, 2]], 3, [1.0, -1.0]).partition(2)
    with pytest.raises(rg.ShapeError, match="partition"):
        rg.Graph.from_csr([0, 1], [1], num_sources=2).partition(2)
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(ImportError, match="pip install"):
        graph.partition(2)
