"""HNSWIndex against brute force in NumPy, against itself, and against bad input."""

from __future__ import annotations

import doctest
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st

METRICS = ["cosine", "l2", "ip"]


def clustered(n, dim, centres, seed=0, noise=0.7):
    """Vectors and 200 queries around shared centres, in the order of the centres."""
    rng = np.random.default_rng(seed)
    middle = rng.standard_normal((centres, dim), dtype=np.float32)
    labels = np.sort(rng.integers(centres, size=n))
    vectors = middle[labels] + noise * rng.standard_normal((n, dim), dtype=np.float32)
    queries = middle[rng.integers(centres, size=200)]
    return vectors, queries + noise * rng.standard_normal(queries.shape, dtype=np.float32)


def distances(metric, queries, vectors):
    """All distances, in float64."""
    queries, vectors = np.atleast_2d(queries).astype(np.float64), vectors.astype(np.float64)
    dots = queries @ vectors.T
    if metric == "ip":
        return 1 - dots
    if metric == "l2":
        return ((queries[:, None] - vectors[None]) ** 2).sum(-1)
    return 1 - dots / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(vectors, axis=1)


def built(vectors, **options):
    index = rg.HNSWIndex(vectors.shape[1], **options)
    index.add(vectors)
    return index


def recall(index, queries, k=10, **options):
    found, truth = index.search(queries, k, **options).rows, index.exact_search(queries, k).rows
    return np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, truth, strict=True)])


@settings(max_examples=60, deadline=None)
@given(
    metric=st.sampled_from(METRICS), n=st.integers(1, 80), dim=st.integers(1, 20), k=st.integers(1, 100),
    m=st.integers(2, 8), calls=st.integers(1, 4), seed=st.integers(0, 2**64 - 1), share=st.floats(0, 1),
)
def test_small_indexes_equal_brute_force(metric, n, dim, k, m, calls, seed, share):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim), dtype=np.float32) + 0.01
    queries = rng.standard_normal((3, dim), dtype=np.float32) + 0.01
    index = rg.HNSWIndex(dim, metric=metric, m=m, ef_search=100, seed=seed)
    rows = np.concatenate([index.add(part) for part in np.array_split(vectors, calls)])
    assert rows.tolist() == list(range(n)) == index.rows().tolist()
    mask = rng.random(n) < share
    for filter in (None, mask, np.flatnonzero(mask)[::-1]):
        allowed = np.arange(n) if filter is None else np.flatnonzero(mask)
        want = np.full((3, k), np.inf)
        held = np.sort(distances(metric, queries, vectors[allowed]))[:, :k]
        want[:, : held.shape[1]] = held
        for hits in (index.search(queries, k, filter=filter), index.exact_search(queries, k, filter=filter)):
            assert hits.rows.dtype == np.int64 and hits.distances.dtype == np.float32
            np.testing.assert_allclose(hits.distances, want, rtol=1e-4, atol=1e-4)
            assert np.isin(hits.rows[hits.rows >= 0], allowed).all()
            assert ((hits.rows == -1) == np.isinf(hits.distances)).all()
            for row in hits.rows:
                assert len(set(row[row >= 0])) == (row >= 0).sum()
    assert index.stats()["unreachable"] == 0
    np.testing.assert_array_equal(index.vectors(), vectors)
    copy = pickle.loads(pickle.dumps(index))
    assert copy.fingerprint == index.fingerprint
    np.testing.assert_array_equal(copy.search(queries, k).rows, index.search(queries, k).rows)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("order", ["shuffled", "sorted"])
def test_recall_at_default_settings(metric, order):
    vectors, queries = clustered(8_000, 48, 80)
    if order == "shuffled":
        vectors = np.random.default_rng(1).permutation(vectors)
    index = built(vectors, metric=metric)
    assert recall(index, queries) >= 0.95
    assert index.stats()["unreachable"] == 0


@pytest.mark.parametrize("calls", [20, 200])
def test_many_calls_in_sorted_order_keep_recall(calls):
    vectors, queries = clustered(6_000, 32, 60)
    index = rg.HNSWIndex(32, metric="l2")
    for part in np.array_split(vectors, calls):
        index.add(part)
    assert recall(index, queries) >= 0.95


@pytest.mark.long
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("order", ["shuffled", "sorted"])
def test_recall_of_100_000_clustered_vectors(metric, order):
    vectors, queries = clustered(100_000, 128, 1_000)
    if order == "shuffled":
        vectors = np.random.default_rng(1).permutation(vectors)
    index = built(vectors, metric=metric)
    assert recall(index, queries) >= 0.95
    assert index.stats()["unreachable"] == 0


@pytest.mark.long
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("order", ["as given", "sorted", "shuffled"])
def test_recall_of_retrieval_sets(metric, order):
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    names = [path for path in sorted(folder.glob("*.npz")) if "docs" in np.load(path).files]
    if not names:
        pytest.skip("the data sets are not beside the checkout")
    for path in names:
        docs, queries = (np.load(path)[name].astype(np.float32) for name in ("docs", "queries"))
        if order == "sorted":
            docs = docs[np.argsort(docs @ np.linalg.svd(docs[:1_000])[2][1])]  # along a principal axis
        elif order == "shuffled":
            docs = np.random.default_rng(0).permutation(docs)
        assert recall(built(docs, metric=metric), queries) >= 0.95, path.stem


GRAPH_OF_THREADS = """
import hashlib, pickle, sys
import numpy as np, ruvector_gnn as rg
index = rg.HNSWIndex(24, m=8)
vectors = np.random.default_rng(0).standard_normal((5000, 24), dtype="f4")
index.add(vectors[:3000]); index.add(vectors[3000:])
hits = index.search(vectors[:200], 10)
digest = hashlib.sha256(pickle.dumps(index)).hexdigest()
print(rg.num_threads(), digest, hits.rows.sum(), hits.distances.sum())
"""


def test_the_graph_is_the_same_on_any_number_of_threads():
    outputs = []
    for threads in (1, 2, 4):
        environment = {**os.environ, "RUVECTOR_NUM_THREADS": str(threads)}
        command = [sys.executable, "-c", GRAPH_OF_THREADS]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        given_threads, *result = run.stdout.split()
        assert int(given_threads) == threads
        outputs.append(result)
    assert outputs[0] == outputs[1] == outputs[2]


def test_bad_input_is_refused_and_changes_nothing():
    vectors, queries = clustered(300, 8, 3)
    index = built(vectors)
    before = index.fingerprint
    for bad in (np.nan, np.inf, -np.inf, 1e30):
        spoiled = vectors[:3].copy()
        spoiled[1, 2] = bad
        for call in (index.add, index.search, index.exact_search):
            with pytest.raises(rg.ShapeError, match="row 1"):
                call(spoiled)
    zero = vectors[:2].copy()
    zero[0] = 0
    for call in (index.add, index.search, index.exact_search):
        with pytest.raises(rg.ShapeError, match="row 0 is zero"):
            call(zero)
        for shape in [(2, 7), (2, 9), (7,), (2, 2, 8), (2, 0), ()]:
            with pytest.raises(rg.ShapeError):
                call(np.ones(shape))
        with pytest.raises(rg.ShapeError):
            call([["a"] * 8])
        with pytest.raises(rg.ShapeError):
            call(np.ones((1, 8), dtype=complex))
    for k in (0, -1):
        with pytest.raises(rg.ConfigError, match=f"k must be at least 1, got {k}"):
            index.search(queries, k)
        with pytest.raises(rg.ConfigError, match="k"):
            index.exact_search(queries, k)
    with pytest.raises(rg.ConfigError, match="ef"):
        index.search(queries, ef=0)
    for mask in (np.ones(299, bool), np.ones(301, bool), np.ones((1, 300), bool)):
        with pytest.raises(rg.ShapeError, match="filter"):
            index.search(queries, filter=mask)
    for row in (-1, 300, 2**40):
        with pytest.raises(rg.RowError, match="filter"):
            index.search(queries, filter=[row])
        with pytest.raises(rg.RowError):
            index.vectors([row])
        assert row not in index
    assert index.fingerprint == before and len(index) == 300
    assert isinstance(rg.RowError("x"), IndexError) and isinstance(rg.ShapeError("x"), ValueError)


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 0}, {"dim": -1}, {"metric": "l3"}, {"m": 1}, {"m": 0}, {"m": 10_000}, {"ef_construction": 0},
        {"ef_search": 0}, {"storage": "f8"}, {"storage": "nothing"},
    ],
)
def test_bad_parameters_are_refused(options):
    with pytest.raises(rg.ConfigError, match=next(iter(options))):
        rg.HNSWIndex(**{"dim": 4, **options})


def test_zero_vectors_are_fine_under_other_metrics():
    for metric in ("l2", "ip"):
        assert built(np.zeros((3, 4), np.float32), metric=metric).search(np.zeros(4), 3).rows.shape == (1, 3)


def test_k_beyond_n_and_empty_indexes_give_padded_results():
    index = rg.HNSWIndex(4)
    rows, found = index.search(np.ones((2, 4)), k=3)
    assert rows.tolist() == [[-1] * 3] * 2 and np.isinf(found).all()
    assert len(index) == index.num_rows == index.levels == 0 and index.vectors().shape == (0, 4)
    assert index.add(np.ones((0, 4))).shape == (0,)
    index.add(np.ones((2, 4)))
    assert sorted(index.search(np.ones(4), k=5).rows[0].tolist()) == [-1, -1, -1, 0, 1]
    assert index.search(np.ones((0, 4))).rows.shape == (0, 10)


def test_any_array_like_converts():
    vectors, _ = clustered(50, 6, 2)
    want = built(vectors).fingerprint
    for same in (
        vectors.astype(np.float64), np.asfortranarray(vectors), vectors.tolist(), vectors.astype(">f4"),
        np.repeat(vectors, 2, axis=1)[:, ::2],
    ):
        assert built(np.asarray(same)).fingerprint == want
    index = rg.HNSWIndex(6)
    index.add(vectors.tolist())
    assert index.fingerprint == want
    assert index.search(vectors[0]).rows.shape == (1, 10)


def test_ef_below_k_counts_as_k_and_more_candidates_find_more():
    vectors, queries = clustered(4_000, 32, 20)
    index = built(vectors, metric="l2", m=4, ef_construction=20)
    assert index.search(queries, k=50, ef=1).rows.min() >= 0
    assert recall(index, queries, ef=10) < recall(index, queries, ef=300)


@pytest.mark.parametrize("metric", METRICS)
def test_filtered_search_keeps_recall(metric):
    vectors, queries = clustered(5_000, 24, 50)
    index = built(np.random.default_rng(0).permutation(vectors), metric=metric)
    for every in (2, 5, 20, 100, 1_000):
        mask = np.arange(5_000) % every == 0
        found, truth = index.search(queries, filter=mask).rows, index.exact_search(queries, filter=mask).rows
        wanted = [row[row >= 0] for row in truth]
        share = np.mean([np.isin(want, got).mean() for want, got in zip(wanted, found, strict=True)])
        assert share >= 0.95, every


def test_saving_and_loading(tmp_path):
    vectors, queries = clustered(500, 10, 5)
    path = tmp_path / "index.rvx"
    index = built(vectors)
    index.save(path)
    copy = rg.HNSWIndex.load(str(path), verify="full")
    np.testing.assert_array_equal(copy.vectors(), vectors)
    for mine, theirs in zip(index.search(queries), copy.search(queries), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert repr(copy) == repr(index) and copy.fingerprint == index.fingerprint
    index.add(vectors)
    copy.add(vectors)
    assert copy.fingerprint == index.fingerprint
    assert sorted(os.listdir(tmp_path)) == ["index.rvx"]
    with pytest.raises(FileNotFoundError):
        rg.HNSWIndex.load(tmp_path / "nothing")
    with pytest.raises(rg.ConfigError):
        rg.HNSWIndex.load(path, verify="half")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "index.rvx"
    built(clustered(200, 8, 3)[0]).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(300):
        damaged = bytearray(whole)
        bit = int(rng.integers(len(whole) * 8))
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged if trial % 2 else whole[: bit // 8])
        with pytest.raises(rg.FormatError):
            rg.HNSWIndex.load(path)
    # A later version of the format: the container's, then the index's (whose header checksum holds it too).
    for at in (8, 28):
        damaged = bytearray(whole)
        damaged[at] += 1
        path.write_bytes(damaged)
        with pytest.raises(rg.FormatError):
            rg.HNSWIndex.load(path)
    path.write_bytes(b"")
    with pytest.raises(rg.FormatError, match="truncated"):
        rg.HNSWIndex.load(path)


def test_a_stopped_add_is_taken_back_and_the_callback_sees_progress():
    vectors, queries = clustered(3_000, 8, 5)
    index = built(vectors[:100])
    before = pickle.dumps(index)
    seen = []

    def stop(step, metrics):
        seen.append((step, metrics["total"]))
        if step > 1_000:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        index.add(vectors[100:], callback=stop)
    assert len(index) == 100 and pickle.dumps(index) == before
    assert seen == sorted(seen) and {total for _, total in seen} == {2_900}
    note = seen.append
    index.add(vectors[100:], progress=True, callback=lambda step, metrics: note((step, metrics["total"])))
    assert seen[-1] == (2_900, 2_900) and recall(index, queries) > 0.9


def test_the_callback_of_a_call_may_search_the_index_but_not_change_it():
    vectors, _ = clustered(300, 8, 3)
    index = built(vectors[:100], metric="l2")
    held = []

    def look(step, metrics):
        hits = index.search(index.vectors(), k=1, ef=300)
        assert hits.rows[:, 0].tolist() == index.rows().tolist() and len(index) == 100 + step
        held.append(len(index))

    index.add(vectors[100:], callback=look)
    assert len(held) > 10 and held[-1] == 300
    for call in (
        lambda: index.add(vectors), lambda: index.remove([0]), lambda: index.update([0], vectors[1]),
        index.compact, index.stats, index.graph, lambda: pickle.dumps(index),
    ):
        with pytest.raises(rg.ConfigError, match="callback"):
            index.add(vectors, callback=lambda step, metrics, call=call: call())
        assert len(index) == 300


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_goes_on_with_the_index():
    vectors, queries = clustered(2_000, 8, 5)
    index = built(vectors[:1_000])
    before = index.search(queries).rows
    child = os.fork()
    if child == 0:
        same = (index.search(queries).rows == before).all()
        index.add(vectors[1_000:])
        index.remove([0])
        os._exit(0 if same and len(index) == 1_999 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(index) == 1_000 and 0 in index


@pytest.mark.parametrize("storage", ["f32", "i8"])
def test_searches_beside_a_writer_are_right_at_every_instant(storage):
    vectors, _ = clustered(6_000, 16, 20)
    index = built(vectors[:1_000], metric="l2", storage=storage)
    lasting = np.arange(500)  # rows that are never removed
    gone = np.zeros(6_000, bool)
    failures, searches = [], []

    def look(seed):
        rng = np.random.default_rng(seed)
        try:
            while not done.is_set():
                asked, before = rng.choice(lasting, 20), gone.copy()
                hits = index.search(vectors[asked], k=10, ef=200)
                assert hits.rows.min() >= 0 and not before[hits.rows].any()
                assert (hits.rows[:, 0] == asked).all()
                truth = ((vectors[asked][:, None] - vectors[hits.rows]) ** 2).sum(-1)
                np.testing.assert_allclose(hits.distances, truth, rtol=1e-4, atol=1e-4)
                searches.append(seed)
        except BaseException as failure:
            failures.append(failure)

    done = threading.Event()
    threads = [threading.Thread(target=look, args=(seed,), daemon=True) for seed in range(2)]
    for thread in threads:
        thread.start()
    for start in range(1_000, 6_000, 500):  # row i holds vectors[i]
        index.add(vectors[start : start + 500])
        rows = np.arange(start - 400, start)
        index.remove(rows[:399])
        index.remove(rows[399:])
        gone[rows] = True
    copy = pickle.loads(pickle.dumps(index))
    done.set()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not failures and set(searches) == {0, 1}
    assert copy.rows().tolist() == np.flatnonzero(~gone).tolist()


def test_threads_may_search_while_another_adds():
    vectors, queries = clustered(4_000, 16, 10)
    index = built(vectors[:500])
    failures = []

    def look():
        try:
            for _ in range(50):
                rows = index.search(queries[:20]).rows
                assert rows.min() >= 0 and rows.max() < index.num_rows
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for part in np.array_split(vectors[500:], 10):
        index.add(part)
    for thread in threads:
        thread.join()
    assert not failures and len(index) == 4_000


def test_the_examples_of_the_docstrings_run():
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for test in finder.find(rg.HNSWIndex, "HNSWIndex", module=False):
        runner.run(test)
    assert runner.summarize() == (0, runner.tries) and runner.tries > 10


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_range_search_equals_the_distances_of_numpy(metric):
    rng = np.random.default_rng(5)
    vectors, queries = (rng.standard_normal((n, 12)).astype(np.float32) for n in (3000, 20))
    index = rg.HNSWIndex(12, metric=metric)
    index.add(vectors)
    distances = np.sort(index.exact_search(queries, 3000).distances, axis=1)
    for rank in (0, 5, 900):
        radius = float(distances[3, rank])
        indptr, rows, found = index.range_search(queries, radius, exact=True)
        np.testing.assert_array_equal(np.diff(indptr), (distances <= radius).sum(axis=1))
        assert found[indptr[3] : indptr[4]].tolist() == distances[3, : rank + 1].tolist(), "inclusive"
        walked = index.range_search(queries, radius)
        assert len(walked.rows) >= 0.97 * len(rows)
    assert index.range_search(queries[0], -np.inf).indptr.tolist() == [0, 0]
    with pytest.raises(rg.ConfigError, match="radius"):
        index.range_search(queries, np.nan)
    with pytest.raises(rg.ShapeError, match="queries"):
        index.range_search(queries[:, :3], 1.0)


def test_removed_rows_are_never_found_again_and_numbers_rise():
    vectors, queries = clustered(1_000, 12, 10)
    index = built(vectors, metric="l2")
    gone = np.random.default_rng(1).permutation(1_000)[:300]
    assert index.remove(gone) is None
    kept = np.setdiff1d(np.arange(1_000), gone)
    assert index.add(vectors[gone[:50]]).tolist() == list(range(1_000, 1_050))
    rows = np.concatenate([kept, np.arange(1_000, 1_050)])
    held = np.concatenate([vectors[kept], vectors[gone[:50]]])
    assert index.rows().tolist() == rows.tolist() == index.graph().node_ids.tolist()
    np.testing.assert_array_equal(index.vectors(), held)
    assert (len(index), index.num_rows) == (750, 1_050)
    assert int(gone[0]) not in index and int(kept[0]) in index and 1_049 in index
    stats = index.stats()
    assert (stats["rows"], stats["free"], stats["unreachable"]) == (750, 250, 0)
    mask = np.arange(1_050) % 2 == 0
    for filter, allowed in ((None, rows), (mask, rows[mask[rows]]), (rows[::-3], rows[::-3])):
        hits = index.search(queries, 1_050, filter=filter)
        assert all(set(found[found >= 0]) == set(allowed) for found in hits.rows)
        truth = distances("l2", queries, held[np.isin(rows, allowed)]).min(axis=1)
        np.testing.assert_allclose(hits.distances[:, 0], truth, rtol=1e-4)
    ranged = index.range_search(queries[0], np.inf)
    assert sorted(ranged.rows) == rows.tolist()
    copy = pickle.loads(pickle.dumps(index))
    assert copy.fingerprint == index.fingerprint and copy.rows().tolist() == rows.tolist()
    before = index.search(queries)
    index.compact()
    assert index.stats()["free"] == 0 and index.stats()["bytes"] < stats["bytes"]
    for mine, theirs in zip(index.search(queries), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    index.remove(index.rows())
    assert (len(index), index.num_rows, index.levels) == (0, 1_050, 0)
    assert (index.search(queries).rows == -1).all() and index.vectors().shape == (0, 12)
    assert index.add(vectors[:2]).tolist() == [1_050, 1_051]


def test_evaluations_are_counted():
    vectors, queries = clustered(2_000, 12, 10)
    index = built(vectors, metric="l2")
    counts = [index.stats()["evaluations"]]
    for ef in (20, 80):
        index.search(queries[0], 10, ef=ef)
        counts.append(index.stats()["evaluations"])
    assert counts[0] > 16 * len(vectors)
    assert 20 < counts[1] - counts[0] < counts[2] - counts[1] < len(vectors)


def test_updated_rows_keep_their_numbers(tmp_path):
    vectors, _ = clustered(1_000, 12, 10)
    index = built(vectors)
    rows = np.arange(0, 1_000, 3)
    index.update(rows, -vectors[rows])
    index.update([1], -vectors[1])
    assert index.rows().tolist() == list(range(1_000))
    np.testing.assert_array_equal(index.vectors(rows), -vectors[rows])
    assert (index.search(-vectors[rows], k=1).rows[:, 0] == rows).all()
    index.save(tmp_path / "index.rvx")
    copy = rg.HNSWIndex.load(tmp_path / "index.rvx")
    for same in (index, copy):
        same.remove([5])
        same.add(vectors[:30])
        same.update([9], vectors[9])
    assert copy.fingerprint == index.fingerprint


def test_rows_that_cannot_be_removed_or_updated_are_refused():
    vectors, _ = clustered(100, 8, 3)
    index = built(vectors)
    index.remove([40])
    before = pickle.dumps(index)
    gone, strange = ([1, 40], "row 40 was removed"), ([100], "handed out 100")
    for rows, says in (gone, strange, ([-1], "row -1"), ([3, 3], "twice")):
        for call in (index.remove, lambda rows: index.update(rows, np.ones((len(rows), 8)))):
            with pytest.raises(rg.RowError, match=says):
                call(rows)
    for rows in ([1.5], [[1]], 3, np.ones(100, bool), ["a"]):
        with pytest.raises(rg.ShapeError, match="rows"):
            index.remove(rows)
    for bad in (np.ones((2, 8)), np.ones((1, 7)), np.zeros((1, 8)), np.full((1, 8), np.nan)):
        with pytest.raises(rg.ShapeError, match="vectors"):
            index.update([3], bad)
    with pytest.raises(rg.RowError, match="filter: row 40 was removed"):
        index.search(vectors[0], filter=[40])
    with pytest.raises(rg.ShapeError, match="num_rows = 100"):
        index.search(vectors[0], filter=np.ones(99, bool))
    index.remove([])
    index.update([], np.ones((0, 8)))
    assert pickle.dumps(index) == before


def test_a_search_that_starts_after_remove_never_returns_the_row():
    vectors, queries = clustered(3_000, 16, 10)
    index = built(vectors)
    gone = np.zeros(10_000, bool)
    failures = []

    def look():
        try:
            for _ in range(60):
                before = gone.copy()
                rows = index.search(queries[:20]).rows
                assert rows.min() >= 0 and not before[rows].any()
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(0)
    for _ in range(40):
        rows = rng.permutation(index.rows())[:50]
        index.remove(rows)
        gone[rows] = True
        index.add(vectors[rng.integers(3_000, size=50)])
    for thread in threads:
        thread.join()
    assert not failures and len(index) == 3_000


@pytest.mark.long
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("centres", [100, 0])
def test_churn_leaves_an_index_as_good_as_a_fresh_one(centres, metric):
    # Of fewer queries, chance alone would differ by .002.
    lost = 0
    for seed in range(3, 6):
        rng = np.random.default_rng(seed)
        if centres:
            points = rng.permutation(clustered(90_000, 64, centres)[0])
        else:
            points = rng.standard_normal((90_000, 64), dtype=np.float32)
        vectors, queries = points[:70_000], points[70_000:]
        index = built(vectors[:10_000], metric=metric)
        for start in range(10_000, 70_000, 2_000):
            index.remove(rng.permutation(index.rows())[:2_000])
            index.add(vectors[start : start + 2_000])
            assert index.stats()["unreachable"] == 0
        held = index.vectors()
        fresh = built(held, metric=metric)
        assert recall(index, queries) >= recall(fresh, queries) - 0.002
        lost += (index.search(held, 1, ef=64).rows[:, 0] != index.rows()).sum()
        assert index.stats()["bytes"] <= 1.2 * fresh.stats()["bytes"]
    # Where vectors have no structure, a fresh build loses up to ten of 10,000 rows.
    assert lost <= (0 if centres else 3), lost
