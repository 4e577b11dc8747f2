"""Results in the order of float64: every metric, at any scale, far from the origin, with duplicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

METRICS = ("cosine", "l2", "ip")


def reference(
    metric: str, queries: NDArray[np.float32], vectors: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in float64, and what rows are ranked by: for "ip" the negative product."""
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "ip":
        products = np.einsum("qd,nd->qn", q, x)
        return 1 - products, -products
    if metric == "cosine":
        q, x = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (q, x))
    distances = ((q[:, None] - x[None]) ** 2).sum(axis=2) * (0.5 if metric == "cosine" else 1)
    return distances, distances


def assert_ordered(index: rg.HNSWIndex, queries: NDArray[np.float32], hits: rg.Hits) -> None:
    """The hits are the nearest rows in the order of float64, with distances rounded to float32."""
    metric, k = index.metric, hits.rows.shape[1]
    distances, scores = reference(metric, queries, index.vectors())
    found = np.take_along_axis(scores, hits.rows, axis=1)
    nearest = np.sort(scores, axis=1)[:, :k]
    # Sums in another order, over terms that may cancel.
    mass = np.abs(queries.astype(np.float64)) @ np.abs(index.vectors().astype(np.float64)).T
    off = 1e-14 * (mass.max(axis=1, keepdims=True) if metric == "ip" else np.abs(nearest))
    assert (np.abs(found - nearest) <= off + (1e-15 if metric == "cosine" else 0)).all()
    exact = np.take_along_axis(distances, hits.rows, axis=1)
    rounding = 1e-7 * np.abs(exact) + (off if metric == "ip" else 0) + (1e-15 if metric == "cosine" else 0)
    assert (np.abs(hits.distances - exact) <= rounding).all()
    assert (np.diff(hits.distances, axis=1) >= 0).all()
    same = np.diff(found, axis=1) == 0
    if metric == "l2":
        assert (np.diff(hits.rows, axis=1)[same] > 0).all(), "duplicates come in the order of rows"


@settings(max_examples=60, deadline=None)
@given(
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 300),
    dim=st.integers(2, 40),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 1e6]),
    offset=st.sampled_from([0.0, 1.0, 30.0, 1e3, 1e4]),
    copies=st.integers(1, 4),
    k=st.integers(1, 60),
)
def test_scans_and_full_walks_order_as_float64(
    metric: str, seed: int, rows: int, dim: int, scale: float, offset: float, copies: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    distinct = rng.normal(size=(-(-rows // copies), dim)) + offset
    vectors = (np.tile(distinct, (copies, 1))[:rows] * scale).astype(np.float32)
    queries = np.concatenate([(rng.normal(size=(4, dim)) + offset) * scale, vectors[:1]]).astype(np.float32)
    index = rg.HNSWIndex(dim, metric=metric)
    index.add(vectors)
    k = min(k, rows)
    exact = index.exact_search(queries, k=k)
    assert_ordered(index, queries, exact)
    everything = index.exact_search(queries, k=rows)
    assert_ordered(index, queries, everything)
    walked = index.search(queries, k=rows, ef=rows)
    assert np.array_equal(walked.rows, everything.rows)
    assert np.array_equal(walked.distances, everything.distances)
    # What lies within the distance of the last hit is what is as near, by scans and by walks.
    radius = float(exact.distances[0, -1])
    inside = index.range_search(queries, radius, exact=True)
    assert np.array_equal(np.diff(inside.indptr), (everything.distances <= radius).sum(axis=1))
    first = inside.rows[: inside.indptr[1]]
    assert np.array_equal(first, everything.rows[0, : len(first)])


@pytest.mark.parametrize("storage", ["f32", "f16", "i8"])
@pytest.mark.parametrize("metric", METRICS)
def test_walks_find_what_lies_close_together(metric: str, storage: str) -> None:
    """Small products, and directions that differ by a thousandth, which 1 - x in float32 has lost."""
    rng = np.random.default_rng(0)
    spread, offset = (1e-4, 0.0) if metric == "ip" else (1.0, 1e3)
    vectors = ((rng.normal(size=(3000, 24)) + offset) * spread).astype(np.float32)
    queries = ((rng.normal(size=(50, 24)) + offset) * spread).astype(np.float32)
    index = rg.HNSWIndex(24, metric=metric, storage=storage)
    index.add(vectors)
    truth = index.exact_search(queries, k=10)
    assert_ordered(index, queries, truth)
    if storage == "f16" and metric != "ip":
        return  # Half precision has no digits left for these differences: only the scan is exact.
    found = index.search(queries, k=10).rows
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(found, truth.rows, strict=True)])
    assert recall >= 0.95


def test_orthogonal_queries_are_ranked_by_their_small_cosines() -> None:
    rng = np.random.default_rng(1)
    vectors = np.c_[rng.normal(size=(500, 8)), np.zeros((500, 8))].astype(np.float32)
    queries = np.c_[1e-7 * rng.normal(size=(20, 8)), rng.normal(size=(20, 8))].astype(np.float32)
    index = rg.HNSWIndex(16, metric="cosine")
    index.add(vectors)
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    cosines = (q @ x.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    truth = np.argsort(-cosines, axis=1)[:, :10]
    assert np.array_equal(index.exact_search(queries, k=10).rows, truth)
    assert np.array_equal(index.search(queries, k=10, ef=500).rows, truth)
    scores = rg.SearchLearner(index).search(queries, k=10).scores
    assert np.allclose(scores, np.take_along_axis(cosines, truth, axis=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_scores_of_learner_and_database_keep_their_digits(metric: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    vectors = (1e-5 * rng.normal(size=(400, 12))).astype(np.float32)
    queries = (1e-5 * rng.normal(size=(8, 12))).astype(np.float32)
    distances, ranks = reference(metric, queries, vectors)
    scores = 1 - distances if metric == "cosine" else -ranks
    truth = np.sort(scores, axis=1)[:, ::-1][:, :10]
    index = rg.HNSWIndex(12, metric=metric)
    index.add(vectors)
    ranked = rg.SearchLearner(index).search(queries, k=10)
    assert np.allclose(ranked.scores, truth, rtol=1e-6, atol=0)
    with rg.VectorDB.open(tmp_path / "db", dim=12, metric=metric) as db:
        db.add(np.arange(400), vectors)
        for query, expected in zip(queries, truth, strict=True):
            assert np.allclose(db.search(query, k=10).scores, expected, rtol=1e-6, atol=0)
