"""Stacks and containers of layers, readouts, and batches of graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg
from assert_layer import assert_same_bits_on_any_threads, assert_state, problem, within
from hypothesis import given, settings
from hypothesis import strategies as st
from ruvector_gnn import nn


def graphs(rng: np.random.Generator, count: int) -> list[rg.Graph]:
    made = []
    for number in range(count):
        nodes = int(rng.integers(0, 5))
        edges = rng.integers(0, nodes, size=(2, 2 * nodes)) if nodes else np.zeros((2, 0), int)
        weights = rng.uniform(1, 2, edges.shape[1]) if number % 2 else None
        made.append(rg.Graph.from_edge_index(edges, nodes, weights))
    return made


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 99))
def test_a_batch_gives_what_its_graphs_give(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    singles = graphs(rng, count)
    graph, batch = rg.Graph.batch(singles)
    nodes = [single.num_nodes for single in singles]
    np.testing.assert_array_equal(batch, np.repeat(np.arange(count), nodes))
    x = rng.normal(size=(graph.num_nodes, 3))
    parts = [x[batch == number] for number in range(count)]
    layer = nn.GraphConv(3, 2, seed=0)
    within(layer(x, graph), np.concatenate([layer(p, g) for p, g in zip(parts, singles, strict=True)]), 1e-6)
    start = np.cumsum([0, *(single.num_edges for single in singles)])
    for number, single in enumerate(singles):
        given_order = graph.edge_order[start[number] : start[number + 1]] - start[number]
        np.testing.assert_array_equal(given_order, single.edge_order)


def test_batches_of_nothing_are_refused() -> None:
    with pytest.raises(rg.ShapeError, match="at least one graph"):
        rg.Graph.batch([])
    with pytest.raises(rg.ShapeError, match="batch"):
        rg.Graph.batch([rg.Graph.from_csr([0, 1], [2], num_sources=3)])


def test_readouts_by_hand() -> None:
    x, batch = np.array([[1.0, -1], [3, -5], [2, 2]]), [2, 0, 2]
    within(nn.global_sum_pool(x, batch), [[3, -5], [0, 0], [3, 1]], 0)
    within(nn.global_mean_pool(x, batch, 4), [[3, -5], [0, 0], [1.5, 0.5], [0, 0]], 0)
    within(nn.global_max_pool(x, batch), [[3, -5], [0, 0], [2, 2]], 0)
    assert nn.global_max_pool(np.zeros((0, 2)), []).shape == (0, 2)
    for pool in (nn.global_sum_pool, nn.global_mean_pool, nn.global_max_pool, nn.AttentionPool(2)):
        with pytest.raises(rg.RowError):
            pool(x, batch, 2)
        with pytest.raises(rg.ShapeError):
            pool(x, batch[:2], 3)


def test_attention_pool_is_the_formula(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, batch = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)

    def make(seed: int) -> nn.Module:
        gate = nn.Sequential(nn.Linear(4, 3, seed=seed), nn.ReLU(), nn.Linear(3, 1, seed=seed))
        return nn.AttentionPool(4, gate, nn.Linear(4, 2, seed=seed))

    pool = make(1)
    keys = [key for key in pool.state_dict() if "weight" in key]
    assert keys == ["gate_nn.0.weight", "gate_nn.2.weight", "nn.weight"]
    scores, values = (np.asarray(part(x), np.float64) for part in (pool.gate_nn, pool.nn))
    expected = np.zeros((4, 2))
    for number in range(3):
        own = batch == number
        shares = np.exp(scores[own] - scores[own].max())
        expected[number] = (shares * values[own]).sum(0) / shares.sum()
    within(pool(x, batch, 4), expected, 1e-5)
    assert_state(make, pool, tmp_path, lambda other: other(x, batch))
    loss = (pool(x, batch) ** 2).sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in pool.parameters())


def test_a_classifier_of_graphs_learns() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(4, 9, 20)
    rings = [[[(i - 1) % n, (i + 1) % n] for i in range(n)] for n in sizes]
    stars = [[list(range(1, n)), *[[0]] * (n - 1)] for n in sizes]
    graph, batch = rg.Graph.batch([rg.Graph.from_adjacency(lists) for lists in rings + stars])
    x, classes = np.ones((graph.num_nodes, 1)), np.repeat([0, 1], 20)
    model, head = nn.GNN("gin", 1, 8, 8, num_layers=2, seed=3), nn.Linear(8, 2, seed=4)
    optimizer = rg.optim.AdamW([*model.parameters(), *head.parameters()], lr=0.02)
    for _ in range(60):
        scores = head(nn.global_mean_pool(model(x, graph), batch))
        loss = rg.losses.cross_entropy(scores, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (scores.numpy().argmax(1) == classes).all()


def test_a_stack_is_its_layers_in_turn() -> None:
    x, index, _ = problem()
    graph = rg.Graph.from_edge_index(index, len(x))
    model = nn.GNN("sage", 5, 6, 6, num_layers=3, activation="tanh", dropout=0.5, seed=0).eval()
    assert next(key for key in model.state_dict() if "norm" in key) == "norms.0.weight"
    convs, norms = model.convs, model.norms
    assert (len(convs), len(norms)) == (3, 2)
    h = norms[0](convs[0](x, graph)).tanh()
    h = norms[1](convs[1](h, graph)).tanh() + h
    within(model(x, graph), convs[2](h, graph) + h, 1e-6)
    plain = nn.GNN("graphconv", 5, 6, 2, num_layers=2, skip=False, norm=False, seed=0)
    assert not [key for key in plain.state_dict() if "norm" in key]
    within(plain(x, graph), plain.convs[1](plain.convs[0](x, graph).relu(), graph), 1e-6)
    rg.manual_seed(0)
    first = model.train()(x, graph).numpy()
    assert (first != model(x, graph).numpy()).any(), "training drops other values each time"
    with pytest.raises(rg.ConfigError, match="layer must be one of gcn"):
        nn.GNN("transformer", 5, 6, 2, 2)


def test_containers_number_their_modules() -> None:
    model = nn.Sequential(nn.Linear(5, 4, seed=0), nn.ReLU(), nn.GCNLayer(4, 2, seed=1), nn.Dropout())
    model.eval()
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.bias", "2.lin.weight"]
    x, index, _ = problem()
    graph = rg.Graph.from_edge_index(index, len(x))
    within(model(x, graph), model[2](model[0](x).relu(), graph), 0)
    with pytest.raises(rg.ConfigError, match="graph is needed by module 2, GCNLayer"):
        model(x)
    with pytest.raises(rg.ConfigError, match="must be Modules"):
        nn.Sequential(nn.ReLU(), np.tanh)  # type: ignore[arg-type] # the wrong value is the test
    assert model[-1] is list(model)[3]
    attention = nn.Sequential(nn.MultiheadAttention(5, 1, seed=0))
    assert attention(x).shape == x.shape, "the graph is optional there"
    assert (attention(x, graph).numpy() != attention(x).numpy()).any()


class Everything(nn.Module):
    """What the layers over graphs alone do not reach."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.lstm, self.attention = nn.LSTM(5, 5, seed=seed), nn.MultiheadAttention(5, 5, seed=seed)
        self.pool, self.messages = nn.AttentionPool(5, seed=seed), nn.MessagePassing("softmax")

    def forward(self, x: rg.Tensor, graph: rg.Graph) -> rg.Tensor:
        y, (_, c) = self.lstm(x.reshape(100, 30, 5))
        rows = self.attention(y).reshape(-1, 5) + self.messages.propagate(graph, x=x)
        batch = np.arange(graph.num_nodes) % 7
        return rg.concat([self.pool(rows, batch), nn.global_max_pool(rows, batch), c[0]])


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    assert_same_bits_on_any_threads(Everything)


def test_wrong_sequences_are_named() -> None:
    lstm, attention = nn.LSTM(3, 2), nn.MultiheadAttention(4, 2)
    with pytest.raises(rg.ShapeError, match="holds no step"):
        lstm(np.ones((2, 0, 3)))
    with pytest.raises(rg.ShapeError, match="state has shapes"):
        lstm(np.ones((2, 1, 3)), (np.ones((2, 2)), np.ones((2, 2))))
    with pytest.raises(rg.ShapeError, match="lstm: x must have 3 dimensions"):
        lstm(np.ones(3))
    with pytest.raises(rg.ShapeError, match="MultiheadAttention: query"):
        attention(np.ones((2, 3, 4)), np.ones((1, 3, 4)))
    with pytest.raises(rg.ConfigError, match="over a graph"):
        attention(np.ones((2, 4)), rg.Graph.from_adjacency([[0], [1]]), need_weights=True)
