"""Losses against NumPy in float64, and their gradients against central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ruvector_gnn import losses

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(6, 4))
UNIT = Z / np.linalg.norm(Z, axis=1, keepdims=True)
SHARES = RNG.dirichlet(np.ones(4), size=6)
POSITIVE, NEGATIVE = np.array([[0, 1, 2], [1, 2, 5]]), np.array([[0, 3], [4, 3]])
GRAPH = rg.Graph.from_edge_index(POSITIVE, 6)


def entropy(x: np.ndarray, t: Any) -> np.ndarray:
    return np.logaddexp(0, x) - x * t


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def links(z: np.ndarray) -> np.ndarray:
    score = [(z[u] * z[v]).sum(1) for u, v in (POSITIVE, NEGATIVE)]
    return np.concatenate([entropy(score[0], 1), entropy(score[1], 0)])


def adjacency(z: np.ndarray, weight: float) -> np.ndarray:
    edges = np.zeros((6, 6))
    edges[POSITIVE[1], POSITIVE[0]] = edges[POSITIVE[0], POSITIVE[1]] = 1
    pairs = np.triu_indices(6, 1)
    return np.where(edges == 1, weight, 1)[pairs] * entropy(z @ z.T, edges)[pairs]


# Name: function of x and a reduction, class form, the losses of the single examples in NumPy.
CASES: dict[str, tuple[Callable[..., rg.Tensor], Callable[[Any], rg.Tensor], np.ndarray]] = {
    "mse": (
        lambda x, r: losses.mse(x, SHARES, r),
        lambda r: losses.MSE(r)(Z, SHARES),
        (Z - SHARES) ** 2,
    ),
    "bce": (
        lambda x, r: losses.bce_with_logits(x, SHARES, reduction=r),
        lambda r: losses.BCEWithLogits(r)(Z, SHARES),
        entropy(Z, SHARES),
    ),
    "bce weighted": (
        lambda x, r: losses.bce_with_logits(x, SHARES, np.arange(4.0), reduction=r),
        lambda r: losses.BCEWithLogits(r)(Z, SHARES, np.arange(4.0)),
        entropy(Z, SHARES) * np.arange(4),
    ),
    "link_prediction cosine": (
        lambda x, r: losses.link_prediction(x, POSITIVE, NEGATIVE, reduction=r),
        lambda r: losses.LinkPrediction(reduction=r)(Z, POSITIVE, NEGATIVE),
        links(UNIT),
    ),
    "link_prediction dot": (
        lambda x, r: losses.link_prediction(x, POSITIVE, NEGATIVE, "dot", r),
        lambda r: losses.LinkPrediction("dot", r)(Z, POSITIVE, NEGATIVE),
        links(Z),
    ),
    "feature_reconstruction mse": (
        lambda x, r: losses.feature_reconstruction(SHARES, x, "mse", r),
        lambda r: losses.FeatureReconstruction("mse", r)(SHARES, Z),
        (Z - SHARES) ** 2,
    ),
    "feature_reconstruction bce": (
        lambda x, r: losses.feature_reconstruction(SHARES, x, "bce", r),
        lambda r: losses.FeatureReconstruction("bce", r)(SHARES, Z),
        entropy(Z, SHARES),
    ),
    "feature_reconstruction ce": (
        lambda x, r: losses.feature_reconstruction(SHARES, x, "ce", r),
        lambda r: losses.FeatureReconstruction("ce", r)(SHARES, Z),
        -(SHARES * log_softmax(Z)).sum(1),
    ),
    "adjacency_reconstruction": (
        lambda x, r: losses.adjacency_reconstruction(x, GRAPH, 3.0, r),
        lambda r: losses.AdjacencyReconstruction(3.0, r)(Z, GRAPH),
        adjacency(Z, 3.0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_reductions_and_gradients(name: str) -> None:
    function, kept, expected = CASES[name]
    np.testing.assert_allclose(function(Z, "none"), expected, rtol=1e-4, atol=2e-6)
    for reduction, reduced in (("mean", expected.mean()), ("sum", expected.sum())):
        assert function(Z, reduction).item() == pytest.approx(reduced, rel=1e-5)
        assert kept(reduction).item() == pytest.approx(reduced, rel=1e-5)
    x = rg.tensor(Z, requires_grad=True)
    function(x, "mean").backward()
    assert x.grad is not None
    step, numeric = 1e-2, np.empty_like(Z)
    for at in np.ndindex(Z.shape):
        shift = np.zeros_like(Z)
        shift[at] = step
        numeric[at] = (function(Z + shift, "mean").item() - function(Z - shift, "mean").item()) / (2 * step)
    np.testing.assert_allclose(x.grad, numeric, atol=2e-4)
    with pytest.raises(rg.ConfigError, match="reduction"):
        function(Z, "max")


@settings(deadline=None)
@given(
    positive=hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-50, 50, width=32)),
    negative=hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-50, 50, width=32)),
)
def test_infomax_is_the_mean_over_both_sides(positive: np.ndarray, negative: np.ndarray) -> None:
    expected = np.concatenate([entropy(positive.astype(float), 1), entropy(negative.astype(float), 0)])
    got = losses.deep_graph_infomax(positive, negative).item()
    assert got == pytest.approx(expected.mean(), rel=1e-4, abs=1e-6)
    assert losses.DeepGraphInfomax("sum")(positive, negative).item() == pytest.approx(
        expected.sum(), rel=1e-4, abs=1e-5
    )


def test_sparse_adjacency_draws_by_its_seed_and_avoids_edges() -> None:
    first = losses.sparse_adjacency(Z, POSITIVE, num_negatives=5, seed=3, reduction="none").numpy()
    assert first.shape == (3 + 3 * 5,)
    np.testing.assert_allclose(first[:3], entropy((Z[POSITIVE[0]] * Z[POSITIVE[1]]).sum(1), 1), rtol=1e-4)
    np.testing.assert_array_equal(first, losses.sparse_adjacency(Z, POSITIVE, 5, 3, "none"))
    assert (first != losses.sparse_adjacency(Z, POSITIVE, 5, 4, "none").numpy()).any()
    kept = losses.SparseAdjacency(5, 4)
    assert kept(Z, POSITIVE, seed=3).item() == pytest.approx(first.mean(), rel=1e-5)
    with pytest.raises(rg.ConfigError, match="num_negatives"):
        losses.sparse_adjacency(Z, POSITIVE, num_negatives=0)
    with pytest.raises(rg.ConfigError, match="none is left"):
        losses.sparse_adjacency(Z[:2], [[0], [1]])


def test_what_does_not_fit_is_refused() -> None:
    for wrong, error, text in (
        (lambda: losses.mse(Z, Z[0]), rg.ShapeError, "mse"),
        (lambda: losses.mse([np.nan], [1.0]), rg.ShapeError, "finite"),
        (lambda: losses.bce_with_logits([1.0], [2.0]), rg.ConfigError, r"\[0, 1\]"),
        (lambda: losses.bce_with_logits([1.0], [1.0], [[1.0], [2.0]]), rg.ShapeError, "weighted"),
        (lambda: losses.deep_graph_infomax([], [1.0]), rg.ShapeError, "positive"),
        (lambda: losses.link_prediction(Z, POSITIVE.T, NEGATIVE), rg.ShapeError, "pos_edges"),
        (lambda: losses.link_prediction(Z, POSITIVE, [[0], [6]]), rg.RowError, "neg_edges"),
        (lambda: losses.link_prediction(Z, POSITIVE, np.empty((2, 0), int)), rg.ShapeError, "neg_edges"),
        (lambda: losses.LinkPrediction("angle")(Z, POSITIVE, NEGATIVE), rg.ConfigError, "score"),  # type: ignore[arg-type] # the wrong value is the test
        (lambda: losses.feature_reconstruction(Z, Z, "l1"), rg.ConfigError, "kind"),  # type: ignore[arg-type] # the wrong value is the test
        (lambda: losses.adjacency_reconstruction(Z[:5], GRAPH), rg.ShapeError, "6 nodes"),
    ):
        with pytest.raises(error, match=text):
            wrong()
