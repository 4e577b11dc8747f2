"""Quantized storage against NumPy: what is found, what distances mean, what is kept, what it takes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import ruvector_gnn as rg

METRICS = ["cosine", "l2", "ip"]
STORAGES = ["f16", "i8", "binary"]


def clustered(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    middle = rng.standard_normal((50, dim), dtype=np.float32)
    points = middle[rng.integers(50, size=n + 100)]
    points += 0.5 * rng.standard_normal(points.shape, dtype=np.float32)
    return points[:n], points[n:]


def distances(metric, queries, vectors):
    """All distances, in float64."""
    queries, vectors = queries.astype(np.float64), vectors.astype(np.float64)
    dots = queries @ vectors.T
    if metric == "ip":
        return 1 - dots
    if metric == "l2":
        return (queries**2).sum(1)[:, None] - 2 * dots + (vectors**2).sum(1)
    return 1 - dots / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(vectors, axis=1)


def built(vectors, **options):
    index = rg.HNSWIndex(vectors.shape[1], **options)
    for part in np.array_split(vectors, 3):
        index.add(part)
    return index


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rescore", [True, False])
def test_distances_are_those_of_the_vectors_the_index_gives_back(metric, storage, rescore):
    vectors, queries = clustered(3_000, 40)
    vectors[:1_000] *= 0.3  # ranges widen in the second call
    index = built(vectors, metric=metric, storage=storage, rescore=rescore, ef_search=300)
    assert (index.storage, index.rescore) == (storage, rescore)
    held = index.vectors()
    if rescore:
        np.testing.assert_array_equal(held, vectors)
    elif storage != "binary":
        error = np.abs(held - vectors).max()
        assert 0 < error < (0.01 if storage == "f16" else 0.12)
    want = distances(metric, queries, held)
    scale = 1 + (queries**2).sum(1).max() + (held**2).sum(1).max()
    for hits in (index.search(queries, 10), index.exact_search(queries, 10)):
        assert (hits.rows >= 0).all()
        named = np.take_along_axis(want, hits.rows, axis=1)
        np.testing.assert_allclose(hits.distances, named, atol=1e-6 * scale)
        assert (np.diff(hits.distances, axis=1) >= 0).all()
    if storage != "binary":
        truth = np.argsort(want, axis=1)[:, :10]
        found = index.search(queries, 10).rows
        common = [len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)]
        assert np.mean(common) >= 9.7
    allowed = np.arange(0, 3_000, 3)
    hits = index.search(queries, 10, filter=allowed)
    assert np.isin(hits.rows, allowed).all()
    ranges = index.range_search(queries[:5], float(want[0, 7]), exact=True)
    inside = (want[:5] <= want[0, 7] + 1e-6 * scale).sum()
    assert abs(len(ranges.rows) - inside) <= 5
    assert index.stats()["unreachable"] == 0


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rescore", [True, False])
def test_pickles_and_files_hold_the_same_index(storage, rescore, tmp_path):
    vectors, queries = clustered(800, 24)
    index = built(vectors, storage=storage, rescore=rescore)
    index.save(tmp_path / "index.rvx")
    for copy in (pickle.loads(pickle.dumps(index)), rg.HNSWIndex.load(tmp_path / "index.rvx")):
        assert copy.fingerprint == index.fingerprint
        assert (copy.storage, copy.rescore) == (storage, rescore)
        np.testing.assert_array_equal(copy.vectors(), index.vectors())
        for a, b in zip(copy.search(queries), index.search(queries), strict=True):
            np.testing.assert_array_equal(a, b)


def test_codes_alone_take_a_fraction_of_the_memory():
    vectors, _ = clustered(4_000, 512)
    full = built(vectors).stats()["bytes_per_vector"]
    for storage, saved in (("f16", 1_024), ("i8", 1_536), ("binary", 1_984)):
        alone = built(vectors, storage=storage, rescore=False, ef_construction=20)
        assert alone.stats()["bytes_per_vector"] <= full - 0.9 * saved


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_values_beyond_half_precision_are_refused(metric):
    index = rg.HNSWIndex(2, metric=metric, storage="f16")
    with pytest.raises(rg.ShapeError, match=r"row 1, column 0 is 70000.*65504"):
        index.add([[1, 2], [70_000, 1]])
    assert len(index) == 0


def test_one_vector_at_a_time_widens_the_ranges():
    vectors, queries = clustered(600, 32)
    index = rg.HNSWIndex(32, metric="l2", storage="i8", rescore=False)
    for vector in vectors:
        index.add(vector)
    assert np.abs(index.vectors() - vectors).max() < 0.15
    truth = np.argsort(distances("l2", queries, vectors), axis=1)[:, :10]
    common = [len(np.intersect1d(a, b)) for a, b in zip(index.search(queries).rows, truth, strict=True)]
    assert np.mean(common) >= 9
