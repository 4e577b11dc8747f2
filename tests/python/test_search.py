"""Differentiable and hierarchical search, and embedding in blocks."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st
from ruvector_gnn import nn
from ruvector_gnn.search import GNNEmbedder, HierarchicalSearch, differentiable_search, hierarchical_forward
from test_nn import GOLDEN, under, within


def reference(query: np.ndarray, candidates: np.ndarray, temperature: float) -> np.ndarray:
    """The weights of all candidates."""
    unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (query, candidates)]
    e = np.exp((unit[0] @ unit[1].T) / temperature)
    return np.asarray(e / e.sum(-1, keepdims=True))


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 6)),
    k=st.integers(1, 40),
    temperature=st.floats(0.05, 5),
    seed=st.integers(0, 99),
)
def test_soft_choice_matches_numpy(
    shape: tuple[int, int, int], k: int, temperature: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    (batch, count, dim), kept = shape, min(k, shape[1])
    queries, candidates = rng.normal(size=(batch, dim)), rng.normal(size=(count, dim))
    expected = reference(queries, candidates, temperature)
    indices, weights = differentiable_search(queries, candidates, k, temperature)
    assert indices.shape == weights.shape == (batch, kept)
    np.testing.assert_allclose(weights, np.take_along_axis(expected, indices, 1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights, -np.sort(-expected, 1)[:, :kept], rtol=1e-4, atol=1e-6)
    alone, weight = differentiable_search(queries[0], candidates, k, temperature)
    np.testing.assert_array_equal(alone, indices[0])
    np.testing.assert_allclose(weight, weights.numpy()[0], rtol=1e-5)


def test_ties_go_to_the_lower_row_and_nonsense_is_refused() -> None:
    indices, weights = differentiable_search([1.0, 0.0], [[0, 1], [2, 0], [5, 0], [0, 0]], k=9)
    assert indices.tolist() == [1, 2, 0, 3], "a zero vector has the cosine 0"
    assert weights.numpy().sum() == pytest.approx(1)
    assert weights.numpy().max() < 0.4, "cosines at temperature 1 are nearly uniform"
    for wrong, error in (
        (lambda: differentiable_search([1.0], [[1.0]], k=0), rg.ConfigError),
        (lambda: differentiable_search([1.0], [[1.0]], k=1, temperature=0), rg.ConfigError),
        (lambda: differentiable_search([1.0], [[1.0, 2.0]], k=1), rg.ShapeError),
        (lambda: differentiable_search([1.0], np.empty((0, 1)), k=1), rg.ShapeError),
        (lambda: differentiable_search(1.0, [[1.0]], k=1), rg.ShapeError),
        (lambda: differentiable_search([np.inf], [[1.0]], k=1), rg.ShapeError),
    ):
        with pytest.raises(error):
            wrong()


def test_gradients_train_a_query_towards_its_target() -> None:
    rng = np.random.default_rng(0)
    candidates, query = rng.normal(size=(50, 8)), rg.tensor(rng.normal(size=8), requires_grad=True)
    optimizer = rg.optim.Adam([query], lr=0.05)
    for _ in range(100):
        scores = (query.reshape(1, -1).normalize() @ rg.tensor(candidates).normalize().T) / 0.1
        optimizer.zero_grad()
        rg.losses.cross_entropy(scores, [7]).backward()
        optimizer.step()
    indices, weights = differentiable_search(query, candidates, k=3, temperature=0.1)
    assert indices[0] == 7
    weights.slice(0, 1).sum().backward()


CALLS = sorted(
    key.split("/")[0]
    for key, value in under("ruvector", GOLDEN).items()
    if key.endswith("/neighbors") and len(value) > 0
)


@pytest.mark.parametrize("number", CALLS)
def test_one_level_is_ruvectors_call_for_a_node(number: str) -> None:
    data = under(f"ruvector/{number}", GOLDEN)
    layer = nn.RuvectorLayer.from_ruvector_json(data["json"].tobytes().decode()).eval()
    node, rows = data["node"].astype(float), data["neighbors"].astype(float)
    weights = reference(node, rows, 0.5)
    chosen = np.argsort(-weights)[:3]
    state = (node + weights[chosen] @ rows[chosen]) / 2
    edges = np.stack([np.arange(1, len(chosen) + 1), np.zeros(len(chosen), int)])
    graph = rg.Graph.from_edge_index(edges, len(chosen) + 1, weights[chosen])
    expected = layer(np.concatenate([state[None], rows[chosen]]), graph).numpy()[0]
    within(hierarchical_forward(node, [rows], [layer], k=3, temperature=0.5), expected, 1e-5)


def test_levels_are_walked_top_down_and_every_layer_learns() -> None:
    rng = np.random.default_rng(0)
    levels = [rng.normal(size=(count, 4)) for count in (3, 20)]
    layers = [nn.GCNLayer(4, 4, seed=0), nn.SAGELayer(4, 2, seed=1)]
    query = rg.tensor(rng.normal(size=(5, 4)), requires_grad=True)
    out = hierarchical_forward(query, levels, layers, k=4, temperature=0.3)
    assert out.shape == (5, 2)
    (out * out).sum().backward()
    for tensor in (query, *layers[0].parameters(), *layers[1].parameters()):
        assert tensor.grad is not None
        assert np.abs(tensor.grad.numpy()).max() > 0
    alone = hierarchical_forward(query.numpy()[2], levels, layers, k=4, temperature=0.3)
    np.testing.assert_allclose(alone, out.numpy()[2], atol=1e-5)
    with pytest.raises(rg.ConfigError, match="2 levels and 1 layers"):
        hierarchical_forward(query, levels, layers[:1], k=4)
    with pytest.raises(rg.ShapeError):
        hierarchical_forward(query, levels, [layers[1], layers[1]], k=4)


def an_index(rows: int, dim: int = 8) -> tuple[rg.HNSWIndex, np.ndarray]:
    vectors = np.random.default_rng(1).normal(size=(rows, dim)).astype(np.float32)
    index = rg.HNSWIndex(dim, m=4)
    index.add(vectors)
    return index, vectors


class Pass(nn.Module):
    """A layer that gives states back, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter([1.0])

    def forward(self, x: rg.Tensor, graph: rg.Graph) -> rg.Tensor:
        return x * self.scale


def test_search_over_the_levels_of_an_index() -> None:
    index, vectors = an_index(500)
    assert index.levels > 2
    layers = [Pass() for _ in range(index.levels)]
    search, query = HierarchicalSearch(index, layers), vectors[3]
    levels = [index.vectors(index.graph(level).node_ids) for level in reversed(range(index.levels))]
    state = hierarchical_forward(query, levels, layers, k=5, temperature=0.05)
    np.testing.assert_allclose(search.forward(query, 5, 0.05), state, atol=1e-6)
    rows, weights = search.search(query, k=5, temperature=0.05)
    expected = reference(state.numpy(), vectors, 0.05)
    np.testing.assert_array_equal(rows, np.argsort(-expected)[:5])
    weights.slice(0, 1).log().sum().backward()
    assert all(layer.scale.grad is not None for layer in layers)
    assert repr(search).startswith("HierarchicalSearch(HNSWIndex(500")


def test_index_levels_and_layers_that_do_not_match() -> None:
    index, vectors = an_index(500)
    with pytest.raises(rg.ConfigError, match="levels"):
        HierarchicalSearch(index, [Pass()]).search(vectors[0])
    one, few = an_index(3)
    assert one.levels == 1
    search = HierarchicalSearch(one, [Pass(), Pass()])
    rows, weights = search.search(few[:2], k=10, temperature=0.01)
    assert rows.shape == weights.shape == (2, 3)
    assert rows[:, 0].tolist() == [0, 1]
    one.add(few[:1] + 1)
    assert search.search(few[0] + 1, k=4, temperature=0.01)[0][0] == 3, "the index has grown"
    with pytest.raises(rg.ConfigError, match="empty"):
        HierarchicalSearch(rg.HNSWIndex(4), [Pass()]).forward([1.0, 0, 0, 0])


class Two(nn.Module):
    """Two layers of one kind, with what encoding must switch off."""

    def __init__(self, make: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.first, self.second, self.dropout = make(6, 1), make(6, 2), nn.Dropout(0.5)

    def forward(self, x: Any, graph: rg.Graph) -> rg.Tensor:
        return self.second(self.dropout(self.first(x, graph).tanh()), graph)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gcn": lambda: Two(lambda dim, seed: nn.GCNLayer(dim, dim, seed=seed)),
    "sage": lambda: Two(lambda dim, seed: nn.SAGELayer(dim, dim, normalize=True, seed=seed)),
    "ruvector": lambda: Two(lambda dim, seed: nn.RuvectorLayer(dim, dim, 2, dropout=0.3, seed=seed)),
    "one layer": lambda: nn.GCNLayer(6, 3, seed=0),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000, None])
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_give_what_the_whole_graph_gives(name: str, batch_size: int | None, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, 55, size=(2, 160))  # five isolated nodes, loops and duplicates
    graph = rg.Graph.from_edge_index(index, 60, rng.uniform(0.1, 2, 160) if weighted else None)
    x, model = rng.normal(size=(60, 6)).astype(np.float32), MODELS[name]()
    seen: list[int] = []
    embedder = GNNEmbedder(model)
    assert embedder.num_hops == (1 if name == "one layer" else 2)
    got = embedder.encode(x, graph, batch_size, callback=lambda done, _: seen.append(done))
    assert model.training, "encoding must leave the mode as it was"
    assert seen[-1] == 60
    assert len(seen) == -(-60 // min(batch_size or 60, 60))
    with nn.evaluation(model):
        within(got, model(x, graph).numpy(), 1e-5)


ENCODE = """
import pathlib, pickle, resource, sys, threading
import numpy as np, ruvector_gnn as rg
folder, nodes, dim = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
graph, layer = pickle.loads((folder / "graph.pickle").read_bytes()), rg.nn.GCNLayer(dim, 16, seed=0)
vectors = np.memmap(folder / "vectors.f32", np.float32, "r", shape=(nodes, dim))
out = np.memmap(folder / "again.f32", np.float32, "w+", shape=(nodes, 16))

def anonymous():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon:")))

encoder = rg.search.GNNEmbedder(layer)
before, peaks, done = anonymous(), [], threading.Event()

def watch():
    while not done.wait(0.001):
        peaks.append(anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
encoder.encode(vectors, graph, batch_size=4000, out=out)
done.set()
watcher.join()
print(max(peaks) - before)
"""
"""Prints by how much memory of the process's own, the core's too, rises while a file is encoded."""


def test_a_file_larger_than_the_memory_it_may_take(tmp_path: Path) -> None:
    nodes, dim, degree = 120_000, 64, 3
    path = tmp_path / "vectors.f32"
    vectors = np.memmap(path, np.float32, "w+", shape=(nodes, dim))
    for start in range(0, nodes, 10_000):
        vectors[start : start + 10_000] = np.random.default_rng(start).normal(size=(10_000, dim))
    vectors.flush()
    near = (np.arange(nodes)[:, None] + np.random.default_rng(0).integers(1, 500, (nodes, degree))) % nodes
    graph = rg.Graph.from_csr(np.arange(0, nodes * degree + 1, degree), near.ravel())
    layer = nn.GCNLayer(dim, 16, seed=0)
    out = np.memmap(tmp_path / "out.f32", np.float32, "w+", shape=(nodes, 16))
    result = GNNEmbedder(layer).encode(
        np.memmap(path, np.float32, "r", shape=(nodes, dim)), graph, batch_size=4000, out=out
    )
    assert result is out
    (tmp_path / "graph.pickle").write_bytes(pickle.dumps(graph))
    done = subprocess.run(
        [sys.executable, "-c", ENCODE, str(tmp_path), str(nodes), str(dim)],
        capture_output=True,
        text=True,
        check=True,
    )
    grown = int(done.stdout)
    assert grown < os.path.getsize(path) / 2, f"{grown} bytes for a file of {os.path.getsize(path)}"
    some = np.random.default_rng(1).integers(nodes, size=50)
    with rg.no_grad():
        whole = layer(np.asarray(vectors), graph).numpy()
    within(out[some], whole[some], 1e-5)


def test_vectors_of_other_types_and_what_is_refused() -> None:
    graph, layer = rg.Graph.from_adjacency([[1], [0], []]), nn.SAGELayer(2, 2, seed=0)
    x = np.arange(6.0).reshape(3, 2)
    expected = GNNEmbedder(layer).encode(x, graph)
    np.testing.assert_array_equal(GNNEmbedder(layer).encode(x.astype(np.float16), graph), expected)
    np.testing.assert_array_equal(GNNEmbedder(layer).encode(x.tolist(), graph), expected)
    np.testing.assert_array_equal(GNNEmbedder(layer, num_hops=3).encode(x, graph), expected)
    for wrong, error in (
        (lambda: GNNEmbedder(nn.Linear(2, 2)), rg.ConfigError),
        (lambda: GNNEmbedder(layer, num_hops=-1), rg.ConfigError),
        (lambda: GNNEmbedder(layer).encode(x[:2], graph), rg.ShapeError),
        (lambda: GNNEmbedder(layer).encode(x, graph, batch_size=0), rg.ConfigError),
        (lambda: GNNEmbedder(layer).encode(x * np.nan, graph), rg.ShapeError),
        (lambda: GNNEmbedder(layer).encode(x, graph, out=np.empty((3, 3), np.float32)), rg.ShapeError),
        (lambda: GNNEmbedder(layer).encode(np.empty((0, 2)), rg.Graph.from_adjacency([])), rg.ShapeError),
    ):
        with pytest.raises(error):
            wrong()


def test_search_and_encoding_give_the_same_bits_on_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    candidates, layer = rng.normal(size=(5000, 16)), nn.RuvectorLayer(16, 16, 2, seed=0)
    graph = rg.Graph.from_edge_index(rng.integers(5000, size=(2, 30_000)), 5000)
    before, results = rg.num_threads(), []
    try:
        for threads in (1, 2, 4):
            rg.set_num_threads(threads)
            query = rg.tensor(candidates[:64] + 1, requires_grad=True)
            out = hierarchical_forward(query, [candidates], [layer], k=10, temperature=0.1)
            out.sum().backward()
            assert query.grad is not None
            encoded = GNNEmbedder(layer).encode(candidates, graph, batch_size=999)
            results.append([out.numpy(), query.grad.numpy(), encoded])
    finally:
        rg.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, second)
