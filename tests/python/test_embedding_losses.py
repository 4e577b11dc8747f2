"""Losses on embeddings against NumPy in float64, recorded PyTorch values and central differences."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ruvector_gnn import losses

RECORDED = dict(np.load(Path(__file__).resolve().parents[1] / "golden" / "losses.npz"))
NODES, WIDTH = 6, 3
EDGES = np.array([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])  # a path of four nodes; 4 and 5 are isolated
WEIGHTS = np.array([2.0, 2.0, 0.5, 0.5, 1.0, 1.0], dtype=np.float32)
GRAPH = rg.Graph.from_edge_index(EDGES, NODES, WEIGHTS)
OTHERS = np.array([[3, 4], [5, -1], [-1, -1], [0, 5], [1, 2], [0, 0]])
PAIRS = np.array([[0, 1, 4, 2], [2, 3, 0, 2]])
LABELS = np.array([1, 0, 0, 0])
WALKS = np.array([[0, 1, 2, 3], [3, 2, 3, -1], [4, 5, -1, -1]])
FEATURES = np.random.default_rng(1).normal(size=(NODES, 5))
Y = np.array([1.0, 0.0, 0.25, 0.0, 1.0, 0.5])
NEIGHBORS = {1: [[1], [0, 2], [1, 3], [2], [], []], 2: [[2], [3], [0], [1], [], []]}

rows = hnp.arrays(
    np.float64,
    (NODES, WIDTH),
    # No subnormal values: the gradient of a direction grows with the inverse of its length.
    elements=st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.integers(-300, 300).map(lambda n: n / 100)),
)


def units(x: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)


def distances(x: np.ndarray, pairs: np.ndarray = PAIRS) -> np.ndarray:
    return np.linalg.norm(x[pairs[0]] - x[pairs[1]], axis=1)


def cosines(x: np.ndarray, pairs: np.ndarray = PAIRS) -> np.ndarray:
    return (units(x)[pairs[0]] * units(x)[pairs[1]]).sum(1)


def hop(x: np.ndarray, distance: int, temperature: float) -> np.ndarray:
    scores, found = units(x) @ units(x).T / temperature, np.zeros(NODES)
    for node, near in enumerate(NEIGHBORS[distance]):
        if near:
            others = OTHERS[node][OTHERS[node] >= 0]
            found[node] = np.logaddexp.reduce(scores[node, [*near, *others]]) - scores[node, near].mean()
    return found


def smooth(x: np.ndarray, normalized: bool) -> np.ndarray:
    sources, targets = GRAPH.to_edge_index()
    weights = np.array(
        [WEIGHTS[([[s], [t]] == EDGES).all(0)][0] for s, t in zip(sources, targets, strict=True)]
    )
    if normalized:
        degrees = np.bincount(targets, weights, minlength=NODES)
        x = x / np.sqrt(np.where(degrees > 0, degrees, np.inf))[:, None]
    return weights * ((x[targets] - x[sources]) ** 2).sum(1)


def turns(x: np.ndarray) -> np.ndarray:
    steps = np.array([[0, 1, 2], [1, 2, 3], [3, 2, 3]]).T
    into, out = units(x[steps[1]] - x[steps[0]]), units(x[steps[2]] - x[steps[1]])
    return 1 - (into * out).sum(1)


# Name: function of x and a reduction, class form with the same settings, the single losses in NumPy.
Case = tuple[Callable[..., rg.Tensor], Callable[..., Any], Callable[[np.ndarray], np.ndarray]]
CASES: dict[str, Case] = {
    "contrastive": (
        lambda x, **r: losses.contrastive(x, FEATURES[:, :3], Y, 4.0, **r),
        lambda x, **r: losses.ContrastiveLoss(margin=4.0, **r)(x, FEATURES[:, :3], Y),
        lambda x: (
            Y * ((x - FEATURES[:, :3]) ** 2).sum(1)
            + (1 - Y) * np.maximum(0, 4 - ((x - FEATURES[:, :3]) ** 2).sum(1))
        ),
    ),
    "triplet": (
        lambda x, **r: losses.triplet(x, FEATURES[:, :3], FEATURES[:, 2:], 0.5, **r),
        lambda x, **r: losses.TripletLoss(margin=0.5, **r)(x, FEATURES[:, :3], FEATURES[:, 2:]),
        lambda x: np.maximum(
            0, ((x - FEATURES[:, :3]) ** 2).sum(1) - ((x - FEATURES[:, 2:]) ** 2).sum(1) + 0.5
        ),
    ),
    "local_contrastive": (
        lambda x, **r: losses.local_contrastive(x, PAIRS, LABELS, 2.0, **r),
        lambda x, **r: losses.LocalContrastiveLoss(margin=2.0, **r)(x, PAIRS, LABELS),
        lambda x: np.where(LABELS == 1, distances(x) ** 2, np.maximum(0, 2 - distances(x)) ** 2),
    ),
    "local_contrastive, all similar": (
        lambda x, **r: losses.local_contrastive(x, PAIRS, **r),
        lambda x, **r: losses.LocalContrastiveLoss(**r)(x, PAIRS),
        lambda x: distances(x) ** 2,
    ),
    "neighborhood_contrastive": (
        lambda x, **r: losses.neighborhood_contrastive(x, GRAPH, OTHERS, 0.5, **r),
        lambda x, **r: losses.NeighborhoodContrastiveLoss(temperature=0.5, **r)(x, GRAPH, OTHERS),
        lambda x: hop(x, 1, 0.5),
    ),
    "multi_hop_contrastive": (
        lambda x, **r: losses.multi_hop_contrastive(x, GRAPH, 2, [1.0, 0.5], OTHERS, 0.5, **r),
        lambda x, **r: losses.MultiHopContrastiveLoss([1.0, 0.5], temperature=0.5, **r)(x, GRAPH, OTHERS),
        lambda x: hop(x, 1, 0.5) + 0.5 * hop(x, 2, 0.5),
    ),
    "laplacian": (
        lambda x, **r: losses.laplacian(x, GRAPH, **r),
        lambda x, **r: losses.LaplacianLoss(**r)(x, GRAPH),
        lambda x: smooth(x, False),
    ),
    "laplacian, normalized": (
        lambda x, **r: losses.laplacian(x, GRAPH, True, **r),
        lambda x, **r: losses.SpectralRegularization(**r)(x, GRAPH),
        lambda x: smooth(x, True),
    ),
    "sparsity": (
        lambda x, **r: losses.sparsity(x, **r),
        lambda x, **r: losses.SparsityLoss(**r)(x),
        lambda x: np.abs(x),
    ),
    "embedding_norm": (
        lambda x, **r: losses.embedding_norm(x, 1.5, **r),
        lambda x, **r: losses.EmbeddingNormLoss(target=1.5, **r)(x),
        lambda x: (np.linalg.norm(x, axis=1) - 1.5) ** 2,
    ),
    "orthogonality": (
        lambda x, **r: losses.orthogonality(x, **r),
        lambda x, **r: losses.OrthogonalityLoss(**r)(x),
        lambda x: (x.T @ x - np.eye(WIDTH)) ** 2,
    ),
    "distance_preservation": (
        lambda x, **r: losses.distance_preservation(x, FEATURES, PAIRS, **r),
        lambda x, **r: losses.DistancePreservationLoss(**r)(x, FEATURES, PAIRS),
        lambda x: (distances(x) - distances(FEATURES)) ** 2,
    ),
    "angle_preservation": (
        lambda x, **r: losses.angle_preservation(x, FEATURES, PAIRS, **r),
        lambda x, **r: losses.AnglePreservationLoss(**r)(x, FEATURES, PAIRS),
        lambda x: (cosines(x) - cosines(FEATURES)) ** 2,
    ),
    "curvature": (
        lambda x, **r: losses.curvature(x, WALKS, **r),
        lambda x, **r: losses.CurvatureLoss(**r)(x, WALKS),
        turns,
    ),
}


def mean(name: str, single: np.ndarray) -> float:
    # Four of the six nodes have neighbours.
    return float(single.sum() / 4 if "hop" in name or "neighborhood" in name else single.mean())


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=30)
@given(x=rows)
def test_losses_follow_their_formulas(name: str, x: np.ndarray) -> None:
    function, form, reference = CASES[name]
    x = x.astype(np.float32).astype(np.float64)
    expected = reference(x)
    reductions: dict[str, Any] = {"none": expected, "sum": expected.sum(), "mean": mean(name, expected)}
    for reduction, wanted in reductions.items():
        for loss in (function, form):
            got = loss(x, reduction=reduction).numpy()
            np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5 * max(1, np.abs(wanted).max()))
    tensor = rg.tensor(x, requires_grad=True)
    function(tensor).backward()
    assert np.isfinite(tensor.grad.numpy()).all(), "zero rows and equal rows, too"


@pytest.mark.parametrize("name", CASES)
def test_gradients_follow_central_differences(name: str) -> None:
    function, _, reference = CASES[name]
    x = np.random.default_rng(3).normal(size=(NODES, WIDTH)).astype(np.float32)
    tensor = rg.tensor(x, requires_grad=True)
    function(tensor).backward()
    wide, step = x.astype(np.float64), 1e-6
    for at in np.ndindex(x.shape):
        shift = np.zeros(x.shape)
        shift[at] = step
        slope = (mean(name, reference(wide + shift)) - mean(name, reference(wide - shift))) / (2 * step)
        assert tensor.grad.numpy()[at] == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_a_cold_temperature_stays_finite() -> None:
    x = rg.tensor([[1.0, 0], [-1, 0], [0, 1], [0, 0], [1, 1], [2, 0]], requires_grad=True)
    loss = losses.neighborhood_contrastive(x, GRAPH, OTHERS, 0.01)
    loss.backward()
    assert loss.item() == pytest.approx(hop(x.numpy().astype(float), 1, 0.01).sum() / 4, rel=1e-5)
    assert np.isfinite(x.grad.numpy()).all()


def test_a_graph_without_edges_teaches_nothing() -> None:
    none = rg.Graph.from_edge_index(np.empty((2, 0), dtype=np.int64), NODES)
    for function in (
        lambda x: losses.neighborhood_contrastive(x, none, OTHERS),
        lambda x: losses.laplacian(x, none),
    ):
        x = rg.tensor(FEATURES, requires_grad=True)
        loss = function(x)
        loss.backward()
        assert loss.item() == 0 and not x.grad.numpy().any()


def test_triplets_follow_pytorch() -> None:
    parts = [rg.tensor(RECORDED[name], requires_grad=True) for name in "apn"]
    got = losses.triplet(*parts, 2.0, reduction="none")
    np.testing.assert_allclose(got.numpy(), RECORDED["triplet"], rtol=1e-5, atol=1e-5)
    got.sum().backward()
    for name, part in zip("apn", parts, strict=True):
        np.testing.assert_allclose(part.grad, RECORDED[f"triplet_grad_{name}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_options_of_cross_entropy_follow_pytorch(reduction: Any, soft: bool) -> None:
    scores = rg.tensor(RECORDED["ce_scores"], requires_grad=True)
    targets = RECORDED["ce_soft" if soft else "ce_targets"]
    options: dict[str, Any] = {"weight": RECORDED["ce_weight"], "label_smoothing": 0.15}
    if not soft:
        options["ignore_index"] = -100
    got = losses.cross_entropy(scores, targets, reduction, **options)
    key = f"ce_soft_{reduction}" if soft else f"ce_{reduction}"
    np.testing.assert_allclose(got.numpy(), RECORDED[key], rtol=1e-5, atol=1e-6)
    got.sum().backward()
    np.testing.assert_allclose(scores.grad, RECORDED[f"{key}_grad"], rtol=1e-5, atol=1e-6)
    form = losses.CrossEntropy(reduction, **options)
    np.testing.assert_array_equal(form(scores, targets).numpy(), got.numpy())
    assert "label_smoothing=0.15" in repr(form)


X = np.ones((NODES, WIDTH))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: losses.triplet(X, X, X[:2]), rg.ShapeError, "negatives"),
        (lambda: losses.triplet(X, X, X, -1.0), rg.ConfigError, "margin"),
        (lambda: losses.triplet(X, X, X, float("nan")), rg.ConfigError, "margin"),
        (lambda: losses.triplet(X * np.nan, X, X), rg.ShapeError, "anchors"),
        (lambda: losses.triplet(X[:0], X[:0], X[:0]), rg.ShapeError, "at least one"),
        (lambda: losses.contrastive(X, X, [1, 0]), rg.ShapeError, "y"),
        (lambda: losses.contrastive(X, X, 2 * Y), rg.ConfigError, "y must be"),
        (lambda: losses.contrastive(X, X, rg.tensor(Y, requires_grad=True)), rg.ConfigError, "y"),
        (lambda: losses.local_contrastive(X, [[0], [9]]), rg.RowError, "9"),
        (lambda: losses.local_contrastive(X, PAIRS, [1, 0]), rg.ShapeError, "labels"),
        (lambda: losses.local_contrastive(X, PAIRS, [1, 0, 2, 0]), rg.ConfigError, "labels"),
        (lambda: losses.neighborhood_contrastive(X[:3], GRAPH, OTHERS), rg.ShapeError, "embeddings"),
        (lambda: losses.neighborhood_contrastive(X, GRAPH, OTHERS[:2]), rg.ShapeError, "non_neighbors"),
        (lambda: losses.neighborhood_contrastive(X, GRAPH, OTHERS + 5), rg.RowError, "non_neighbors"),
        (lambda: losses.neighborhood_contrastive(X, GRAPH, OTHERS - 5), rg.RowError, "non_neighbors"),
        (lambda: losses.neighborhood_contrastive(X, GRAPH, OTHERS, 0.0), rg.ConfigError, "temperature"),
        (lambda: losses.multi_hop_contrastive(X, GRAPH, 2, [1.0], OTHERS), rg.ShapeError, "hop_weights"),
        (lambda: losses.multi_hop_contrastive(X, GRAPH, 0, [], OTHERS), rg.ConfigError, "hops"),
        (lambda: losses.multi_hop_contrastive(X, GRAPH, 1, [-1.0], OTHERS), rg.ConfigError, "hop_weights"),
        (lambda: losses.laplacian(X[:3], GRAPH), rg.ShapeError, "embeddings"),
        (lambda: losses.laplacian(X, EDGES), rg.ConfigError, "graph"),
        (lambda: losses.sparsity(X[:0]), rg.ShapeError, "embeddings"),
        (lambda: losses.embedding_norm(X, -1.0), rg.ConfigError, "target"),
        (lambda: losses.project_to_sphere(X, 0.0), rg.ConfigError, "radius"),
        (lambda: losses.orthogonality(X[0]), rg.ShapeError, "embeddings"),
        (lambda: losses.distance_preservation(X, X[:2], PAIRS), rg.ShapeError, "rows"),
        (lambda: losses.angle_preservation(X, X, [[0], [9]]), rg.RowError, "9"),
        (lambda: losses.curvature(X, WALKS[:, :2]), rg.ShapeError, "three"),
        (lambda: losses.curvature(X, WALKS + 4), rg.RowError, "walks"),
        (lambda: losses.curvature(X, WALKS[0]), rg.ShapeError, "walks"),
        (lambda: losses.cross_entropy(X, [0] * 6, weight=[1.0]), rg.ShapeError, "weight"),
        (lambda: losses.cross_entropy(X, [0] * 6, weight=[-1.0, 1, 1]), rg.ConfigError, "weight"),
        (lambda: losses.cross_entropy(X, [0] * 6, label_smoothing=2), rg.ConfigError, "label_smoothing"),
        (lambda: losses.cross_entropy(X, [7] * 6, ignore_index=7), rg.ConfigError, "no row counts"),
        (lambda: losses.cross_entropy(X, X, ignore_index=7), rg.ConfigError, "ignore_index"),
        (lambda: losses.cross_entropy(X, [-1] * 6), rg.RowError, "-1"),
        (lambda: losses.sparsity(X, reduction="most"), rg.ConfigError, "reduction"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_loss_objects_pickle_and_show_their_settings() -> None:
    for form in (losses.TripletLoss(margin=0.5), losses.SpectralRegularization(), losses.CrossEntropy()):
        copy = pickle.loads(pickle.dumps(form))
        assert repr(copy) == repr(form) and vars(copy) == vars(form)
