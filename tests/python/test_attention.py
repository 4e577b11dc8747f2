"""Attention over edges against recorded outputs of PyTorch Geometric, and what its layers must keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn import nn
from test_nn import case, cases, under, within


def edges_as_set(edge_index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values in an order that depends on the edges alone."""
    keys = np.concatenate([edge_index, np.round(values.T, 4)])
    return values[np.lexsort(keys[::-1])]


KINDS = ("gat", "gat_mean", "gat_edge", "gat_edge_loops", "gatv2")


@pytest.mark.parametrize("name", cases(*KINDS))
def test_pyg_outputs_weights_and_gradients(name: str) -> None:
    data, kind = case(name), name.rstrip("0123456789")
    state = under("param", data)
    (_, heads, outs), ins = (state["att"] if "att" in state else state["att_src"]).shape, data["x"].shape[1]
    features = data.get("edge_attr")
    make: Any = nn.GATv2Layer if kind == "gatv2" else nn.GATLayer
    layer = make(
        ins,
        outs,
        num_heads=heads,
        concat_heads=kind != "gat_mean",
        edge_dim=None if features is None else features.shape[1],
        add_self_loops=kind != "gat_edge",
    )
    layer.load_state_dict(state)
    graph = rg.Graph.from_edge_index(data["edge_index"], len(data["x"]))
    x = rg.tensor(data["x"], requires_grad=True)
    y = layer(x, graph, features)
    within(y, data["y"], 1e-5)
    with rg.no_grad():
        within(layer(data["x"], graph, edge_attr=features), data["y"], 1e-5)
    attended, (edge_index, alpha) = layer(x, graph, features, return_attention=True)
    within(attended, data["y"], 1e-5)
    within(
        edges_as_set(edge_index, alpha.numpy()), edges_as_set(data["att_edge_index"], data["att"]), 1e-5
    )
    y.backward(data["grad_y"])
    within(x.grad, data["grad_x"], 1e-4)
    gradients = under("grad", data)
    assert gradients.keys() == state.keys()
    for key, parameter in layer.named_parameters():
        within(parameter.grad, gradients[key], 1e-4)


@pytest.mark.parametrize("make", [nn.GATLayer, nn.GATv2Layer])
@pytest.mark.parametrize("edge_dim", [None, 3])
def test_what_attention_layers_keep(make: Any, edge_dim: int | None) -> None:
    rng = np.random.default_rng(0)
    nodes, edges = 30, 120
    edge_index = rng.integers(0, nodes - 3, (2, edges))  # the last three nodes are isolated
    x = rng.standard_normal((nodes, 6)).astype(np.float32)
    features = None if edge_dim is None else rng.standard_normal((edges, edge_dim)).astype(np.float32)
    layer = make(6, 4, num_heads=3, edge_dim=edge_dim, seed=1)
    graph = rg.Graph.from_edge_index(edge_index, nodes)
    expected = layer(x, graph, features).numpy()
    order = rng.permutation(edges)
    shuffled = rg.Graph.from_edge_index(edge_index[:, order], nodes)
    within(layer(x, shuffled, None if features is None else features[order]), expected, 1e-6)
    padded = np.repeat(x, 2, axis=1)[:, ::2]
    for same in (x.astype(np.float64), padded, x.tolist(), np.asfortranarray(x)):
        within(layer(same, graph, features), expected, 1e-6)
    within(layer(x.astype(np.float16), graph, features), expected, 1e-2)
    _, (attended, alpha) = layer(x, graph, features, return_attention=True)
    sums = np.zeros((nodes, 3))
    np.add.at(sums, attended[1], alpha.numpy())
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    empty = rg.Graph.from_edge_index(np.zeros((2, 0), np.int64), nodes)
    loops = layer(x, empty, None if features is None else features[:0])
    within(loops.numpy()[-3:], expected[-3:], 1e-6)


def test_threads_do_not_change_a_bit_of_output_or_gradient() -> None:
    rng = np.random.default_rng(1)
    graph = rg.Graph.from_edge_index(rng.integers(0, 700, (2, 9000)), 700)
    x = rng.standard_normal((700, 24)).astype(np.float32)
    before = rg.num_threads()
    for make in (
        lambda: nn.GATLayer(24, 8, num_heads=4, dropout=0.3, seed=1),
        lambda: nn.GATv2Layer(24, 8, num_heads=4, seed=1),
        lambda: nn.RuvectorLayer(24, 32, num_heads=4, seed=1),
        lambda: nn.MultiheadAttention(24, 4, seed=1),
    ):
        results = []
        for threads in (1, 2, 4):
            rg.set_num_threads(threads)
            rg.manual_seed(7)
            layer, given = make(), rg.tensor(x, requires_grad=True)
            y = layer(given, graph)
            y.backward(np.ones(y.shape, np.float32))
            with rg.no_grad():
                plain = layer.eval()(x, graph).numpy()
            grads = [given.grad, *(parameter.grad for parameter in layer.parameters())]
            values = [y.numpy(), plain, *(grad.numpy() for grad in grads if grad is not None)]
            results.append([value.tobytes() for value in values])
        assert results[0] == results[1] == results[2]
    rg.set_num_threads(before)


def test_dropout_drops_weights_in_training_only() -> None:
    graph = rg.Graph.from_adjacency([[1, 2, 3], [0], [0], [0]])
    x = np.random.default_rng(0).standard_normal((4, 5))
    layer = nn.GATLayer(5, 4, num_heads=2, dropout=0.5, seed=0)
    assert not np.array_equal(layer(x, graph), layer(x, graph))
    layer.eval()
    np.testing.assert_array_equal(layer(x, graph), layer(x, graph))


def test_wrong_features_and_settings_are_refused() -> None:
    graph, x = rg.Graph.from_adjacency([[1], [0]]), np.ones((2, 5))
    with pytest.raises(rg.ConfigError, match="no edge_dim"):
        nn.GATLayer(5, 4)(x, graph, np.ones((2, 3)))
    with pytest.raises(rg.ConfigError, match="edge_attr is missing"):
        nn.GATv2Layer(5, 4, edge_dim=3)(x, graph)
    with pytest.raises(rg.ShapeError, match="for 2 edges"):
        nn.GATLayer(5, 4, edge_dim=3)(x, graph, np.ones((3, 3)))
    with pytest.raises(rg.ShapeError):
        nn.GATLayer(4, 4)(x, graph)
    with pytest.raises(rg.ShapeError):
        nn.GATLayer(5, 4)(np.ones((3, 5)), graph)
    for wrong in ({"num_heads": 0}, {"dropout": 1.0}, {"edge_dim": 0}):
        with pytest.raises(rg.ConfigError):
            nn.GATLayer(5, 4, **wrong)  # type: ignore[arg-type] # chosen by name
