"""Layers written on `MessagePassing` against the built-in ones, and what its rules refuse."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from assert_layer import problem, within
from ruvector_gnn import nn


class Convolution(nn.MessagePassing):
    """GCN over a graph that is normalized beforehand."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.lin = nn.Linear(ins, outs, bias=False, seed=1)
        self.bias = nn.Parameter(np.ones(outs))

    def forward(self, x: Any, graph: rg.Graph) -> rg.Tensor:
        return self.propagate(graph.gcn_normalize(), x=self.lin(x))

    def message(self, x_j: rg.Tensor, edge_weight: rg.Tensor) -> rg.Tensor:
        return edge_weight.reshape(-1, 1) * x_j

    def update(self, aggregated: rg.Tensor) -> rg.Tensor:
        return aggregated + self.bias


class Weighted(nn.MessagePassing):
    """GraphConv."""

    def __init__(self, ins: int, outs: int, aggr: Any) -> None:
        super().__init__(aggr)
        self.lin_rel = nn.Linear(ins, outs, seed=1)
        self.lin_root = nn.Linear(ins, outs, bias=False, seed=2)

    def forward(self, x: Any, graph: rg.Graph) -> rg.Tensor:
        return self.propagate(graph, x=rg.tensor(x) if not isinstance(x, rg.Tensor) else x)

    def message(self, x_j: rg.Tensor, edge_weight: rg.Tensor) -> rg.Tensor:
        return x_j * edge_weight.reshape(-1, 1)

    def update(self, aggregated: rg.Tensor, x: rg.Tensor) -> rg.Tensor:
        return self.lin_rel(aggregated) + self.lin_root(x)


class Attention(nn.MessagePassing):
    """Scaled dot-product attention in heads, as `MultiheadAttention` with its maps."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.maps = heads, nn.MultiheadAttention(dim, heads, seed=1)

    def forward(self, x: Any, graph: rg.Graph) -> rg.Tensor:
        weight, bias = self.maps.in_proj_weight, self.maps.in_proj_bias
        q, k, v = (
            (x @ weight[rows].T + bias[rows]).reshape(-1, self.heads, 4 // self.heads)
            for rows in (slice(0, 4), slice(4, 8), slice(8, 12))
        )
        return self.maps.out_proj(self.propagate(graph, q=q, k=k, v=v).reshape(-1, 4))

    def message(self, q_i: rg.Tensor, k_j: rg.Tensor, v_j: rg.Tensor, graph: rg.Graph) -> rg.Tensor:
        scores = (q_i * k_j).sum(-1) / np.sqrt(q_i.shape[-1])
        return rg.edge_softmax(scores, graph).reshape(-1, self.heads, 1) * v_j


def gradients(layer: nn.Module, x: np.ndarray, graph: rg.Graph) -> list[np.ndarray]:
    layer.zero_grad()
    features = rg.tensor(x, requires_grad=True)
    y = layer(features, graph)
    (y * y).sum().backward()
    grads = [parameter.grad for _, parameter in sorted(layer.named_parameters())]
    return [y.numpy(), features.grad.numpy(), *(grad.numpy() for grad in grads if grad is not None)]


def pairs() -> dict[str, tuple[nn.Module, nn.Module]]:
    conv, gcn = Convolution(5, 3), nn.GCNLayer(5, 3)
    gcn.load_state_dict(conv.state_dict())
    found: dict[str, tuple[nn.Module, nn.Module]] = {"gcn": (conv, gcn)}
    for aggr in ("sum", "mean", "max"):
        weighted, graph_conv = Weighted(5, 3, aggr), nn.GraphConv(5, 3, aggr)
        graph_conv.load_state_dict(weighted.state_dict())
        found[aggr] = (weighted, graph_conv)
    return found


@pytest.mark.parametrize("name", pairs())
@pytest.mark.parametrize("weighted", [True, False])
def test_layers_written_anew_are_the_built_in_ones(name: str, weighted: bool) -> None:
    x, index, weights = problem()
    graph = rg.Graph.from_edge_index(index, len(x), weights if weighted else None)
    anew, built_in = pairs()[name]
    for got, expected in zip(gradients(anew, x, graph), gradients(built_in, x, graph), strict=True):
        within(got, expected, 2e-5)


def test_attention_written_anew_is_the_built_in_one() -> None:
    x, index, _ = problem(dim=4)
    anew, graph = Attention(4, 2), rg.Graph.from_edge_index(index, len(x))
    for got, expected in zip(gradients(anew, x, graph), gradients(anew.maps, x, graph), strict=True):
        within(got, expected, 2e-5)


def test_edge_features_follow_the_order_as_given() -> None:
    class Carry(nn.MessagePassing):
        def message(self, x_j: rg.Tensor, edge_attr: rg.Tensor, edge_weight: rg.Tensor) -> rg.Tensor:
            return rg.concat([x_j, edge_attr, edge_weight.reshape(-1, 1)], axis=1)

    x, index, weights = problem()
    graph = rg.Graph.from_edge_index(index, len(x), weights)
    attributes = np.random.default_rng(3).normal(size=(index.shape[1], 2))
    expected = np.zeros((len(x), 8))
    np.add.at(expected, index[1], np.c_[x[index[0]], attributes, weights])
    within(Carry().propagate(graph, x=x, edge_attr=attributes), expected, 1e-5)
    own = np.arange(index.shape[1])
    np.add.at(expected[:, -1], index[1], own - weights)
    within(Carry().propagate(graph, x=x, edge_attr=attributes, edge_weight=own), expected, 1e-5)


def test_ends_of_their_own_features_by_name_and_rows_of_more_dimensions() -> None:
    class Between(nn.MessagePassing):
        def message(self, x_i: rg.Tensor, x_j: rg.Tensor, scale: float) -> rg.Tensor:
            return ((x_j - x_i) * scale).reshape(-1, 1, 2)

    graph = rg.Graph.from_csr([0, 2, 2], [0, 2], num_sources=3)
    sources, targets = np.arange(6.0).reshape(3, 2), np.ones((2, 2))
    out = Between("max").propagate(graph, x=(sources, targets), scale=2.0)
    within(out, [[[6.0, 8.0]], [[0.0, 0.0]]], 0)


def test_the_default_message_is_the_neighbours_row() -> None:
    x, index, _ = problem()
    graph = rg.Graph.from_edge_index(index, len(x))
    for aggr in ("sum", "mean", "max", "softmax"):
        layer = pickle.loads(pickle.dumps(nn.MessagePassing(aggr)))
        within(layer.propagate(graph, x=x), rg.aggregate(x, graph, aggr), 1e-6)


def test_what_does_not_fit_is_named() -> None:
    graph, layer = rg.Graph.from_adjacency([[1], [0]]), nn.MessagePassing()
    with pytest.raises(rg.ConfigError, match="aggr"):
        nn.MessagePassing("median")  # type: ignore[arg-type] # the wrong value is the test
    with pytest.raises(rg.ConfigError, match="x_j is wanted"):
        layer.propagate(graph)
    with pytest.raises(rg.ConfigError, match=r"neither message nor update.*\['y'\]"):
        layer.propagate(graph, x=np.ones((2, 1)), y=3)
    with pytest.raises(rg.ShapeError, match=r"x of shape \(3, 1\) for 2 nodes"):
        layer.propagate(graph, x=np.ones((3, 1)))

    class Wrong(nn.MessagePassing):
        def message(self, x_j: rg.Tensor, edge_attr: rg.Tensor) -> rg.Tensor:
            return x_j.sum(0)

    with pytest.raises(rg.ShapeError, match=r"edge_attr of shape \(3,\) for 2 edges"):
        Wrong().propagate(graph, x=np.ones((2, 1)), edge_attr=np.ones(3))
    with pytest.raises(rg.ShapeError, match="message must give"):
        Wrong().propagate(graph, x=np.ones((2, 1)), edge_attr=np.ones(2))
