"""Layers over blocks: what they give for the targets is what they give on the whole graph."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from assert_layer import problem, within
from ruvector_gnn import nn

TARGETS = [5, 39, 17, 5, 9]
"""Node 39 is isolated, and node 5 is given twice."""


class _Differences(nn.MessagePassing):
    """A layer written in Python, with both ends, edge features and weights."""

    def __init__(self) -> None:
        super().__init__(aggr="mean")
        self.map = nn.Linear(5, 4, seed=0)

    def forward(self, x: Any, graph: rg.Graph, edge_attr: Any) -> rg.Tensor:
        return self.propagate(graph, x=self.map(x), edge_attr=edge_attr)

    def message(self, x_i: Any, x_j: Any, edge_attr: Any, edge_weight: Any) -> rg.Tensor:
        return (x_j - x_i) * edge_weight.reshape(-1, 1) + edge_attr.sum(1, True)


def _gat(kind: Callable[..., nn.Module], **options: Any) -> nn.Module:
    return kind(5, 3, num_heads=2, edge_dim=2, seed=1, **options)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GCN": lambda: nn.GCNLayer(5, 4, activation="tanh", seed=1),
    "GCN wide": lambda: nn.GCNLayer(5, 8, seed=1),
    "GCN without loops": lambda: nn.GCNLayer(5, 4, add_self_loops=False, seed=1),
    "SAGE": lambda: nn.SAGELayer(5, 4, normalize=True, seed=1),
    "SAGE max": lambda: nn.SAGELayer(5, 4, "max", seed=1),
    "SAGE lstm": lambda: nn.SAGELayer(5, 4, "lstm", lstm_padding=False, seed=1),
    "GraphConv": lambda: nn.GraphConv(5, 4, seed=1),
    "GraphConv wide": lambda: nn.GraphConv(5, 8, "mean", seed=1),
    "GraphConv max": lambda: nn.GraphConv(5, 4, "max", seed=1),
    "GIN": lambda: nn.GINLayer(nn.Linear(5, 4, seed=1), eps=0.3, train_eps=True),
    "GAT": lambda: _gat(nn.GATLayer),
    "GAT gates": lambda: _gat(nn.GATLayer, concat_heads=False, head_gates=True),
    "GATv2": lambda: _gat(nn.GATv2Layer, add_self_loops=False),
    "MultiheadAttention": lambda: nn.MultiheadAttention(5, 1, head_gates=True, seed=1),
    "Ruvector": lambda: nn.RuvectorLayer(5, 6, 2, seed=1),
    "MixtureOfExperts": lambda: nn.MixtureOfExpertsLayer(5, 4, 4, 2, seed=1),
    "Poincare": lambda: nn.PoincareLayer(5, 4, activation="tanh", seed=1),
    "EGNN": lambda: nn.EGNNLayer(5, 4, edge_dim=2, seed=1),
    "MessagePassing": _Differences,
}


def _graph(weighted: bool) -> tuple[rg.Graph, np.ndarray, np.ndarray]:
    """A graph with duplicates, loops and an isolated node; features of nodes and edges."""
    x, index, weights = problem()
    rng = np.random.default_rng(2)
    graph = rg.Graph.from_edge_index(index, len(x), weights if weighted else None)
    return graph, x.astype(np.float32), rng.normal(size=(index.shape[1], 2)).astype(np.float32)


def _call(layer: nn.Module, x: Any, graph: rg.Graph, edge_attr: np.ndarray, **options: Any) -> Any:
    if isinstance(layer, nn.EGNNLayer):
        return rg.concat([*layer(x, graph, x, edge_attr)], 1)
    if isinstance(layer, nn.GATLayer | nn.GATv2Layer | _Differences):
        return layer(x, graph, edge_attr, **options)
    return layer(x, graph, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_targets_get_what_the_whole_graph_gives_them(name: str, weighted: bool) -> None:
    graph, x, edge_attr = _graph(weighted)
    layer = LAYERS[name]()
    (block,) = graph.sample(TARGETS, [-1], seed=0)
    assert block.num_sources > block.num_nodes
    seed = np.random.default_rng(3).normal(size=(len(TARGETS), 1))

    def run(over: rg.Graph, rows: Any, attributes: np.ndarray, take: Callable[..., Any]) -> list[np.ndarray]:
        features = rg.tensor(rows, requires_grad=True)
        layer_grads = list(layer.parameters())
        for parameter in layer_grads:
            parameter.zero_grad()
        out = take(_call(layer, features, over, attributes))
        (out * seed).sum().backward()
        own = [np.zeros(p.shape) if p.grad is None else p.grad.numpy() for p in layer_grads]
        with rg.no_grad():
            within(take(_call(layer, features, over, attributes)), out, 1e-5)
        return [out.numpy(), features.grad.numpy(), *own]

    whole = run(graph, x, edge_attr, lambda out: out.index_select(TARGETS))
    part = run(block, x[block.source_nodes], edge_attr[block.edge_ids], lambda out: out)
    spread = np.zeros_like(x)
    np.add.at(spread, block.source_nodes, part[1])
    part[1] = spread
    for got, expected in zip(part, whole, strict=True):
        within(got, expected, 1e-5)


@pytest.mark.parametrize("kind", nn.stack.KINDS)
def test_two_layers_train_over_two_blocks(kind: str) -> None:
    graph, x, _ = _graph(weighted=True)
    model = nn.GNN(kind, 5, 8, 4, num_layers=2, num_heads=2, seed=0)
    first, second = model.convs
    nodes = np.array([5, 39, 17])

    def loss(over: list[rg.Graph], rows: np.ndarray) -> rg.Tensor:
        out: rg.Tensor = second(first(rows, over[0]).relu(), over[1])
        out = out if len(out) == len(nodes) else out.index_select(nodes)
        return (out * out).sum()

    blocks = graph.sample(nodes, [-1, -1], seed=0)
    results = []
    for over, rows in (([graph, graph], x), (blocks, x[blocks[0].source_nodes])):
        value = loss(over, rows)
        convs = list(model.convs.parameters())
        grads = rg.grad(value, convs)
        named = zip(convs, grads, strict=True)
        results.append([value, *[np.zeros(p.shape) if g is None else g for p, g in named]])
    for got, expected in zip(*results[::-1], strict=True):
        within(got, expected, 1e-5)


def test_attention_and_gates_over_a_block() -> None:
    graph, x, edge_attr = _graph(weighted=False)
    (block,) = graph.sample([5, 9], [-1], seed=0)
    for layer in (_gat(nn.GATLayer), _gat(nn.GATv2Layer)):
        out, (edges, alpha) = _call(
            layer, x[block.source_nodes], block, edge_attr[block.edge_ids], return_attention=True
        )
        within(out, _call(layer, x, graph, edge_attr)[[5, 9]], 1e-5)
        whole_edges, whole = _call(layer, x, graph, edge_attr, return_attention=True)[1]
        sources = block.source_nodes[edges[0]]
        for target, node in enumerate(block.target_nodes):
            own, all_own = edges[1] == target, whole_edges[1] == node
            order, all_order = np.argsort(sources[own], kind="stable"), np.argsort(whole_edges[0][all_own])
            assert (sources[own][order] == whole_edges[0][all_own][all_order]).all()
            within(np.sort(alpha.numpy()[own], 0), np.sort(whole.numpy()[all_own], 0), 1e-5)
    experts = nn.MixtureOfExpertsLayer(5, 4, 4, 2, seed=1)
    _, gates = experts(x[block.source_nodes], block, return_gates=True)
    within(gates, experts(x, graph, return_gates=True)[1][[5, 9]], 1e-6)


def test_a_convolution_over_a_sample_has_the_whole_sum_as_its_mean() -> None:
    graph, x, _ = _graph(weighted=True)
    layer, nodes = nn.GCNLayer(5, 2, seed=0), [5, 9]
    outs = []
    for seed in range(1000):
        (block,) = graph.sample(nodes, [2], seed=seed)
        outs.append(layer(x[block.source_nodes], block).numpy())
    deviation = np.std(outs, axis=0) / np.sqrt(len(outs))
    assert (np.abs(np.mean(outs, axis=0) - layer(x, graph).numpy()[nodes]) < 4 * deviation).all()
    assert (deviation < 0.05).all()


def test_a_block_keeps_its_degrees_in_a_pickle() -> None:
    graph, x, _ = _graph(weighted=True)
    (block,) = graph.sample(TARGETS, [3], seed=0)
    again = pickle.loads(pickle.dumps(block))
    for loops in (False, True):
        layer = nn.GCNLayer(5, 4, add_self_loops=loops, seed=0)
        rows = x[block.source_nodes]
        within(layer(rows, again), layer(rows, block), 0)
    part = pickle.loads(pickle.dumps(graph.subgraph([5, 9, 17])))
    within(part.gcn_normalize().weights, graph.subgraph([5, 9, 17]).gcn_normalize().weights, 0)


def test_tokens_of_a_block_see_its_nodes_or_come_from_all() -> None:
    graph, x, _ = _graph(weighted=False)
    layer = nn.SparseAttentionLayer(5, 1, 3, seed=1)
    numbers = np.arange(len(x)) % 3
    for batch in (None, numbers):
        whole = layer(x, graph, batch).numpy()
        states = layer.token_states(x, batch)
        assert states.shape == (1 if batch is None else 3, 3, 5)
        within(layer(x, graph, batch, states), whole, 1e-6)
        for targets in (TARGETS, [6, 9]):
            (block,) = graph.sample(targets, [-1], seed=0)
            rows = x[block.source_nodes]
            own = None if batch is None else batch[block.source_nodes]
            within(layer(rows, block, own, token_states=states), whole[targets], 1e-5)
            # By themselves the tokens see a graph without edges of the same nodes: the block's.
            seen = layer.token_states(rows) if own is None else None
            if seen is not None:
                within(layer(rows, block), layer(rows, block, token_states=seen), 1e-6)
                assert np.abs(layer(rows, block).numpy() - whole[targets]).max() > 1e-3
    (block,) = graph.sample([5], [-1], seed=0)
    rows = x[block.source_nodes]
    second = np.ones(len(rows), int)
    for states, own in ((np.ones((1, 2, 5)), None), (np.ones((1, 3, 5)), second)):
        with pytest.raises(rg.ShapeError, match=r"token_states must be \([12] or more graphs, 3, 5\)"):
            layer(rows, block, own, token_states=states)
    with pytest.raises(rg.ConfigError, match="from 0 without gaps, got 2 graphs, the last of them 2"):
        layer.token_states(x[:2], [0, 2])


def test_layers_that_need_all_nodes_say_so() -> None:
    graph, x, _ = _graph(weighted=False)
    (block,) = graph.sample([5, 9], [-1], seed=0)
    rows = x[block.source_nodes]
    for layer, match in (
        (nn.GraphTransformerLayer(5, 1, pe_dim=0), "GraphTransformerLayer: .*2 nodes and"),
        (nn.NeuralODELayer(5), "NeuralODELayer: graph must have as many sources as nodes"),
    ):
        with pytest.raises(rg.ShapeError, match=match):
            layer(rows, block)
        part = graph.subgraph([5, 9, 17])
        assert layer(x[part.source_nodes], part).shape == (3, 5)
    rectangle = rg.Graph.from_csr([0, 2], [0, 3], num_sources=4)
    with pytest.raises(rg.ShapeError, match="gcn_normalize"):
        nn.GCNLayer(5, 4)(x[:4], rectangle)
    with pytest.raises(rg.ShapeError, match="GCNLayer: every node must be among the sources"):
        nn.GCNLayer(5, 4)(x[:1], rg.Graph.from_csr([0, 1, 1], [0], num_sources=1))
