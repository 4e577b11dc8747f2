"""Indexes searched in their files, and the order of rows in memory."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg

STORAGES = [("f32", True), ("f16", True), ("f16", False), ("i8", True), ("i8", False), ("binary", True)]


def clustered(n: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((40, dim), dtype=np.float32)[rng.integers(40, size=n + 50)]
    points += 0.5 * rng.standard_normal(points.shape, dtype=np.float32)
    return points[:n], points[n:]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[rg.HNSWIndex, Path, np.ndarray]:
    vectors, queries = clustered(4_000, 48)
    index = rg.HNSWIndex(48)
    index.add(vectors)
    index.remove(np.arange(0, 4_000, 9))
    index.save(tmp_path / "index.rvx")
    return index, tmp_path / "index.rvx", queries


def same(mine: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize(("storage", "rescore"), STORAGES)
def test_a_mapped_index_answers_as_the_one_in_memory(tmp_path: Path, storage: str, rescore: bool) -> None:
    vectors, queries = clustered(2_000, 32)
    index = rg.HNSWIndex(32, metric="l2", storage=storage, rescore=rescore)
    index.add(vectors)
    index.save(tmp_path / "index.rvx")
    mapped = rg.HNSWIndex.load(tmp_path / "index.rvx", mmap=True)
    for call in (
        lambda index: index.search(queries),
        lambda index: index.search(queries, filter=np.arange(0, 2_000, 3)),
        lambda index: index.exact_search(queries),
        lambda index: index.range_search(queries, radius=15.0),
        lambda index: (index.vectors(), index.rows()),
    ):
        assert same(call(mapped), call(index))
    assert mapped.fingerprint == index.fingerprint and repr(mapped) == repr(index)
    assert mapped.stats()["bytes"] < index.stats()["bytes"] - 2_000 * 30


def test_threads_that_touch_a_file_first_together(saved) -> None:
    index, path, queries = saved
    want = index.search(queries)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            mapped = rg.HNSWIndex.load(path, mmap=True)
            for hits in pool.map(mapped.search, [queries] * 8):
                assert same(hits, want)


def test_changes_leave_the_file_and_saving_over_it_works(saved) -> None:
    index, path, queries = saved
    before = path.read_bytes()
    mapped, other = (rg.HNSWIndex.load(path, mmap=True) for _ in range(2))
    assert (mapped.add(queries) == index.add(queries)).all()
    assert path.read_bytes() == before and mapped.fingerprint == index.fingerprint
    mapped.save(path)
    assert path.read_bytes() != before and len(other) == len(other.vectors()) == len(index) - len(queries)
    other.save(path)
    assert path.read_bytes() == before


def test_a_mapped_index_pickles_as_its_path(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, path, queries = saved
    monkeypatch.chdir(tmp_path)
    mapped = rg.HNSWIndex.load(path.name, mmap=True)
    data = pickle.dumps(mapped)
    assert len(data) < 500
    monkeypatch.chdir("/")
    assert same(pickle.loads(data).search(queries), index.search(queries))
    mapped.remove([1])
    assert 1 not in pickle.loads(pickle.dumps(mapped)) and 1 in pickle.loads(data)
    mapped.save(path)
    with pytest.raises(rg.FormatError, match="another file"):
        pickle.loads(data)


def test_a_forked_child_searches_what_was_mapped(saved) -> None:
    index, path, queries = saved
    mapped = rg.HNSWIndex.load(path, mmap=True)
    want = index.search(queries)
    child = os.fork()
    if child == 0:
        os._exit(0 if same(mapped.search(queries), want) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert same(mapped.search(queries), want)


def test_a_learner_on_a_mapped_index(saved) -> None:
    index, path, queries = saved
    relevant = [np.array([row]) for row in index.search(queries, k=3).rows[:, 2]]
    answers = []
    for ranked in (index, rg.HNSWIndex.load(path, mmap=True)):
        learner = rg.SearchLearner(ranked)
        learner.fit(queries, relevant)
        answers.append(learner.search(queries[:9], k=5))
    assert same(*answers)


def test_damage_is_found_on_first_touch(saved) -> None:
    index, path, queries = saved
    damaged = bytearray(path.read_bytes())
    at = damaged.index(index.vectors([3_500]).tobytes())
    damaged[at + 5] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(rg.FormatError, match="damaged"):
        rg.HNSWIndex.load(path)
    with pytest.raises(rg.FormatError, match="damaged"):
        rg.HNSWIndex.load(path, mmap=True, verify="full")
    mapped = rg.HNSWIndex.load(path, mmap=True)
    assert (mapped.vectors([1]) == index.vectors([1])).all()
    for call in (
        lambda: mapped.search(index.vectors([3_500]), k=1),
        lambda: mapped.vectors([1]),
        lambda: mapped.fingerprint,
        lambda: mapped.add(queries),
        lambda: mapped.save(path),
        lambda: rg.SearchLearner(mapped).fit(queries[:2], [[1], [2]]),
    ):
        with pytest.raises(rg.FormatError, match="block"):
            call()
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(("storage", "rescore"), STORAGES)
def test_ordering_changes_nothing_but_places(tmp_path: Path, storage: str, rescore: bool) -> None:
    vectors, queries = clustered(3_000, 24)
    index = rg.HNSWIndex(24, storage=storage, rescore=rescore)
    index.add(vectors)
    index.remove(np.arange(0, 3_000, 7))
    mask = np.arange(3_000) % 5 < 2
    before = (index.exact_search(queries), index.exact_search(queries, filter=mask), index.vectors())
    graph = index.graph(0)
    assert index.optimize() is None
    assert same(index.exact_search(queries), before[0])
    assert same(index.exact_search(queries, filter=mask), before[1])
    assert (index.vectors() == before[2]).all()
    assert (index.graph(0).to_edge_index() == graph.to_edge_index()).all()
    hits = index.search(queries, ef=400)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(before[0].rows, hits.rows, strict=True)]) > 0.9
    stats = index.stats()
    assert (stats["free"], stats["unreachable"], stats["rows"]) == (0, 0, len(index))
    index.save(tmp_path / "ordered.rvx")
    for mmap in (False, True):
        copy = rg.HNSWIndex.load(tmp_path / "ordered.rvx", mmap=mmap)
        assert same(copy.search(queries), index.search(queries))
        assert same(copy.search(queries, filter=mask), index.search(queries, filter=mask))
    assert (index.add(queries) == np.arange(3_000, 3_000 + len(queries))).all()
