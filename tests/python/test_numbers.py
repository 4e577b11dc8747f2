"""Settings and values at the edge of float32: right, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from assert_layer import within
from ruvector_gnn import losses, nn

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 6, 4))
RING = rg.Graph.from_adjacency([[1], [2], [0]])

POSITIVE: dict[str, Callable[[float], Any]] = {
    "temperature": lambda v: losses.InfoNCE(temperature=v),
    "temperature of a function": lambda v: losses.info_nce(A, B, temperature=v),
    "temperature of a search": lambda v: rg.search.differentiable_search(A, B, 2, temperature=v),
    "temperature of levels": lambda v: rg.search.hierarchical_forward(
        A[0], [B], [nn.SAGELayer(4, 4)], 2, temperature=v
    ),
    "eps of a norm": lambda v: nn.LayerNorm(4, eps=v),
    "eps of a tensor": lambda v: rg.tensor(A).layer_norm(np.ones(4), np.ones(4), eps=v),
    "eps of Adam": lambda v: rg.optim.Adam([rg.tensor([1.0])], eps=v),
    "curvature": lambda v: nn.PoincareLayer(4, 2, curvature=v),
    "curvature of a map": lambda v: nn.poincare_exp(A, curvature=v),
    "positive_weight": lambda v: losses.AdjacencyReconstruction(positive_weight=v),
    "positive_weight of a function": lambda v: losses.adjacency_reconstruction(A[:3], RING, v),
}

FINITE: dict[str, Callable[[float], Any]] = {
    "lr": lambda v: rg.optim.SGD([rg.tensor([1.0])], lr=v),
    "weight_decay": lambda v: rg.optim.AdamW([rg.tensor([1.0])], weight_decay=v),
    "momentum": lambda v: rg.optim.SGD([rg.tensor([1.0])], momentum=v),
    "leaky_relu_slope": lambda v: nn.GATLayer(4, 2, 2, leaky_relu_slope=v),
    "slope": lambda v: rg.tensor(A).leaky_relu(v),
    "alpha": lambda v: rg.tensor(A).elu(v),
    "time": lambda v: nn.NeuralODELayer(4, time=v),
    "eps": lambda v: nn.GINLayer(nn.Linear(4, 2), eps=v),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_settings_that_must_be_positive(name: str) -> None:
    for value in (0.0, -1.0, 1e-45, 1e-39, 1e-300, 1e39, 1e300, np.inf, np.nan):
        with pytest.raises(rg.ConfigError, match=f"^{name.split()[0]} must be from 1e-25 to 1e25, got"):
            POSITIVE[name](value)
    for value in (1e-25, 1e-6, np.float32(0.5), 2):
        POSITIVE[name](value)


@pytest.mark.parametrize("name", FINITE)
def test_settings_that_must_be_finite(name: str) -> None:
    for value in (1e39, 1e300, np.inf, np.nan):
        with pytest.raises(rg.ConfigError, match=f"^{name} must be from .* to 1e25, got"):
            FINITE[name](value)
    FINITE[name](1e-300)


@pytest.mark.parametrize("temperature", [1e-25, 1e-12, 1e25])
def test_extreme_temperatures_choose_the_nearest_or_all_alike(temperature: float) -> None:
    query, candidates = rg.tensor(A[:2], requires_grad=True), rg.tensor(B, requires_grad=True)
    rows, weights = rg.search.differentiable_search(query, candidates, 6, temperature=temperature)
    cosines = (A[:2] @ B.T) / np.linalg.norm(A[:2], axis=1)[:, None] / np.linalg.norm(B, axis=1)
    if temperature < 1:
        assert (rows[:, 0] == cosines.argmax(1)).all()
        within(weights, np.eye(6)[[0, 0]], 0)
    else:
        within(weights, np.full((2, 6), 1 / 6), 1e-6)
    loss = losses.info_nce(query, rg.tensor(B[:2]), candidates, temperature=temperature)
    (loss + weights.sum()).backward()
    for value in (loss, query.grad, candidates.grad):
        assert np.isfinite(value.numpy()).all()


def test_rates_near_one_keep_what_float32_would_lose() -> None:
    x = rg.tensor([1.0], requires_grad=True)
    optimizer = rg.optim.Adam([x], lr=0.1, betas=(1 - 1e-9, 1 - 1e-10))
    for _ in range(3):
        optimizer.zero_grad()
        (2.0 * x).sum().backward()
        optimizer.step()
    within(x, [0.7], 1e-5)


def test_rows_of_any_size_have_directions_and_cosines() -> None:
    base, other = RNG.normal(size=(2, 50, 8))
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    cosine = (unit * other).sum(1) / np.linalg.norm(other, axis=1)
    for size in (1e-36, 1e-30, 1e-19, 1.0, 1e19, 1e30, 5e37):
        x = rg.tensor(base * size, requires_grad=True)
        within(x.normalize(), unit, 1e-6)
        within(x.cosine_similarity(rg.tensor(other)), cosine, 1e-6)
        (x.cosine_similarity(rg.tensor(other)) * size).sum().backward()
        slope = other / np.linalg.norm(other, axis=1, keepdims=True) - cosine[:, None] * unit
        within(x.grad, slope / np.linalg.norm(base, axis=1, keepdims=True), 1e-5)
        within(x.norm() / np.float32(size), np.linalg.norm(base, axis=1), 1e-6)


def test_layer_norm_of_rows_whose_squares_overflow() -> None:
    base = RNG.normal(size=(20, 8))
    expected = (base - base.mean(1, keepdims=True)) / base.std(1, keepdims=True)
    layer = nn.LayerNorm(8)
    for size in (1e18, 1e20, 1e30, 1e38):
        within(layer(base * size), expected, 1e-5)


def test_gradients_whose_squares_overflow_are_clipped() -> None:
    direction = np.array([1.0, -2.0, 2.0, 4.0])
    for size, most in ((1e-25, 1.0), (1e25, 1e-3), (3e37, 1e-3)):
        x = rg.tensor(np.zeros(4), requires_grad=True)
        x.grad = rg.tensor(direction * size)
        assert abs(rg.optim.clip_grad_norm([x], most) / (5 * size) - 1) < 1e-6
        left = min(size, most / 5)
        within(x.grad.numpy() / left, direction, 1e-6)


def test_huge_and_tiny_weights_and_points() -> None:
    index = [[0, 1, 2, 0], [1, 0, 1, 2]]
    for size in (1e-38, 1.0, 3e38):
        graph = rg.Graph.from_edge_index(index, 3, np.array([1.0, 0.5, 1.0, 1.0]) * size)
        rows = nn.RuvectorLayer(4, 4, 2, seed=0)(A[:3], graph)
        plain = rg.Graph.from_edge_index(index, 3, [1.0, 0.5, 1.0, 1.0])
        within(rows, nn.RuvectorLayer(4, 4, 2, seed=0)(A[:3], plain), 1e-5)
        within(graph.gcn_normalize(False).weights, plain.gcn_normalize(False).weights, 1e-6)
    points = nn.poincare_exp(np.array([[3e38, -3e38], [1e-38, 0.0]]))
    within(points, [[0.996 / 2**0.5, -0.996 / 2**0.5], [0.0, 0.0]], 1e-5)
    for curvature in (1e-25, 1e25):
        inside = np.array([[0.3, 0.4]]) / curvature**0.5
        moved = nn.mobius_add(inside, -inside, curvature=curvature)
        within(moved.numpy() * curvature**0.5, [[0.0, 0.0]], 1e-5)


def _rings(heads: int) -> dict[str, tuple[nn.Module, list[str]]]:
    """Attention layers, and the parameters that enter scores only."""
    return {
        "GAT": (nn.GATLayer(8, 4, heads, seed=0), ["att_src", "att_dst"]),
        "GAT dropout": (nn.GATLayer(8, 4, heads, dropout=0.3, seed=0), ["att_src", "att_dst"]),
        "GAT without loops": (
            nn.GATLayer(8, 4, heads, add_self_loops=False, leaky_relu_slope=-0.5, seed=0),
            ["att_src", "att_dst"],
        ),
        "GATv2": (nn.GATv2Layer(8, 4, heads, seed=0), ["att", "lin_r.weight", "lin_r.bias"]),
        "Ruvector": (nn.RuvectorLayer(8, 8, heads, seed=0), ["attention.q.weight", "attention.q.bias"]),
        "MultiheadAttention": (nn.MultiheadAttention(8, heads, seed=0), ["in_proj_weight"]),
        "GraphTransformer": (
            nn.GraphTransformerLayer(8, heads, pe_dim=0, seed=0),
            ["self_attn.in_proj_weight"],
        ),
    }


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("name", _rings(1))
def test_scores_over_a_single_neighbour_have_no_gradient(name: str, heads: int) -> None:
    layer, scores = _rings(heads)[name]
    loops = "without" in name or name in ("Ruvector", "MultiheadAttention")
    lists = [[(node * 7 + 3) % 60] if loops else [] for node in range(60)]
    graph = rg.Graph.from_adjacency(lists)
    x = rg.tensor(5 * RNG.normal(size=(60, 8)), requires_grad=True)
    options = {"batch": np.arange(60)} if name == "GraphTransformer" else {}
    for parameter in layer.parameters():
        if parameter.ndim == 1:
            parameter.copy_(RNG.normal(size=parameter.shape))
    out = layer(x, graph, **options)
    ((out - RNG.normal(size=out.shape)) ** 2).sum().backward()
    for key, parameter in layer.named_parameters():
        if key in scores:
            grad = parameter.grad.numpy()
            # Queries and keys; the values' map is below them.
            grad = grad[: 2 * len(grad) // 3] if "in_proj" in key else grad
            assert (grad == 0).all(), key
    assert np.abs(x.grad.numpy()).max() > 0


def test_softmaxes_of_a_single_value_have_no_gradient() -> None:
    alone = rg.Graph.from_adjacency([[1], [0], [0]])
    scores = rg.tensor(RNG.normal(size=(3, 2)), requires_grad=True)
    (rg.edge_softmax(scores, alone) * RNG.normal(size=(3, 2))).sum().backward()
    (scores.reshape(6, 1).softmax(-1) * RNG.normal(size=(6, 1))).sum().backward()
    assert (scores.grad.numpy() == 0).all()


def test_some_single_neighbours_leave_the_other_gradients_as_they_are() -> None:
    """Rows of one edge among others: gradients agree with those of the weights written out."""
    lists = [[1, 2], [0], [], [4, 0, 1], [3]]
    graph, x = rg.Graph.from_adjacency(lists), RNG.normal(size=(5, 8))
    layer = nn.GATLayer(8, 4, 2, add_self_loops=False, seed=0)
    target = RNG.normal(size=(5, 8))

    def grads(attended: bool) -> list[np.ndarray]:
        out = layer(x, graph, return_attention=True)[0] if attended else layer(x, graph)
        found = rg.grad(((out - target) ** 2).sum(), list(layer.parameters()))
        return [np.zeros(1) if grad is None else grad.numpy() for grad in found]

    for got, expected in zip(grads(False), grads(True), strict=True):
        within(got, expected, 1e-5)
