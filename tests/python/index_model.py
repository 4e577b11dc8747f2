"""A dictionary of vectors that does what `HNSWIndex` should, and compares the two after each operation."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg

KINDS = ("normal", "clustered", "copies", "grid", "line")


def distances(metric: str, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """All distances, in float64."""
    queries, vectors = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        return ((queries[:, None] - vectors[None]) ** 2).sum(-1)
    dots = queries @ vectors.T
    if metric == "ip":
        return 1 - dots
    return 1 - dots / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(vectors, axis=1)


class Modelled:
    """An index beside a dictionary; each method makes one operation on both, or asks both one question."""

    def __init__(self, dim: int, folder: Path, **options: Any) -> None:
        self.index = rg.HNSWIndex(dim, m=6, ef_construction=60, **options)
        self.dim, self.path = dim, folder / "index"
        self.metric, self.storage = self.index.metric, self.index.storage
        self.exact = self.storage == "f32" or self.index.rescore
        self.held: dict[int, np.ndarray] = {}
        self.next = 0
        self.found = self.wanted = 0

    # --- what the index should hold

    def rows(self) -> np.ndarray:
        return np.array(sorted(self.held), dtype=np.int64)

    def table(self, rows: np.ndarray) -> np.ndarray:
        """The vectors that distances are taken to: as given or, without exact ones, as the codes decode."""
        if not self.exact:
            return self.index.vectors(rows)
        return np.array([self.held[row] for row in rows.tolist()], dtype=np.float32).reshape(-1, self.dim)

    def vectors(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Vectors of one of several kinds: spread, in clusters, copies, with many ties, or in order."""
        kind = rng.choice(KINDS)
        made = rng.standard_normal((count, self.dim))
        if kind == "clustered":
            centres = np.random.default_rng(int(rng.integers(4))).standard_normal((3, self.dim))
            made = centres[rng.integers(3, size=count)] + 0.05 * made
        elif kind == "copies" and self.held:
            made = self.table(rng.choice(self.rows(), size=count))
        elif kind == "grid":
            made = rng.integers(-1, 2, size=(count, self.dim))
        elif kind == "line":
            made = np.linspace(-1, 1, count)[:, None] * np.arange(1, self.dim + 1) / self.dim
        made = np.ascontiguousarray(made, dtype=np.float32)
        made[np.linalg.norm(made, axis=1) < 1e-3] = 1
        return made

    def some(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.permutation(self.rows())[:count]

    # --- operations

    def add(self, rng: np.random.Generator, count: int) -> None:
        vectors = self.vectors(rng, count)
        rows = self.index.add(vectors)
        assert rows.tolist() == list(range(self.next, self.next + count))
        self.held.update(zip(rows.tolist(), vectors, strict=True))
        self.next += count

    def update(self, rng: np.random.Generator, count: int) -> None:
        rows = self.some(rng, count)
        vectors = self.vectors(rng, len(rows))
        self.index.update(rows, vectors)
        self.held.update(zip(rows.tolist(), vectors, strict=True))

    def remove(self, rng: np.random.Generator, count: int) -> None:
        rows = self.some(rng, count)
        self.index.remove(rows)
        for row in rows.tolist():
            del self.held[row]

    def skip(self, rng: np.random.Generator, count: int) -> None:
        self.index.skip_rows(count)
        self.next += count

    def refuse(self, rng: np.random.Generator, count: int) -> None:
        """Calls that name a row that is not held, or name one twice, change nothing."""
        gone = int(rng.choice(np.setdiff1d(np.arange(-1, self.next + 2), self.rows())))
        rows = [*self.some(rng, count).tolist(), gone]
        before = self.index.fingerprint
        calls: list[Callable[[], object]] = [
            lambda: self.index.remove(rows),
            lambda: self.index.update(rows, np.ones((len(rows), self.dim))),
            lambda: self.index.vectors(rows),
            lambda: self.index.search(np.ones(self.dim), filter=rows),
        ]
        if len(rows) > 1:
            calls.append(lambda: self.index.remove([rows[0], rows[0]]))
        for call in calls:
            with pytest.raises(rg.RowError):
                call()
        for beyond in (-1 - count, 2**32):
            with pytest.raises(rg.ConfigError):
                self.index.skip_rows(beyond)
        assert self.index.fingerprint == before

    def compact(self, rng: np.random.Generator, count: int) -> None:
        asked = self.vectors(rng, 2)
        before = self.index.search(asked, 1 + count)
        self.index.compact()
        after = self.index.search(asked, 1 + count)
        assert self.index.stats()["free"] == 0
        np.testing.assert_array_equal(after.rows, before.rows)
        np.testing.assert_array_equal(after.distances, before.distances)

    def optimize(self, rng: np.random.Generator, count: int) -> None:
        self.index.optimize()
        assert self.index.stats()["free"] == 0

    def reopen(self, rng: np.random.Generator, count: int) -> None:
        """Goes on with a copy that went through a file, which may be mapped, or a pickle."""
        before = self.index
        if rng.random() < 0.5:
            before.save(self.path)
            self.index = rg.HNSWIndex.load(self.path, mmap=bool(rng.integers(2)))
        else:
            self.index = pickle.loads(pickle.dumps(before))
        assert self.index.fingerprint == before.fingerprint
        asked = self.vectors(rng, 2)
        for one, other in zip(self.index.search(asked, 5), before.search(asked, 5), strict=True):
            np.testing.assert_array_equal(one, other)

    # --- questions

    def look(self, rng: np.random.Generator, count: int) -> None:
        """Everything but searching."""
        rows, index = self.rows(), self.index
        np.testing.assert_array_equal(index.rows(), rows)
        assert (len(index), index.num_rows) == (len(rows), self.next)
        for row in rng.integers(-2, self.next + 2, size=5).tolist():
            assert (row in index) == (row in self.held)
        stats = index.stats()
        assert (stats["unreachable"], stats["rows"]) == (0, len(rows))
        some = self.some(rng, count)
        np.testing.assert_array_equal(index.vectors(some), index.vectors()[np.searchsorted(rows, some)])
        given = np.array([self.held[row] for row in rows.tolist()], np.float32).reshape(-1, self.dim)
        if self.exact:
            np.testing.assert_array_equal(index.vectors(), given)
        elif self.storage == "f16":
            np.testing.assert_allclose(index.vectors(), given, rtol=2e-3, atol=2e-3)

    def search(self, rng: np.random.Generator, count: int) -> None:
        """Searches with and without a filter: right distances of allowed rows, and nearly all."""
        asked, k = self.vectors(rng, 2), int(rng.integers(1, 13))
        rows, filter = self.chosen(rng)
        # Bits alone tell so few rows apart that only their number bounds what a walk may miss.
        ef = len(self.held) + 1 if self.storage == "binary" else 120
        hits = self.index.search(asked, k, ef=ef, filter=filter)
        self.check_hits(asked, k, rows, hits, exact=False)

    def exact_search(self, rng: np.random.Generator, count: int) -> None:
        asked, k = self.vectors(rng, 2), int(rng.integers(1, len(self.held) + 4))
        rows, filter = self.chosen(rng)
        self.check_hits(asked, k, rows, self.index.exact_search(asked, k, filter=filter), exact=True)

    def chosen(self, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
        """The rows that a search may return, and the filter that says so."""
        rows, how = self.rows(), rng.integers(3)
        if how == 0:
            return rows, None
        mask = rng.random(self.next) < rng.choice([0, 0.05, 0.5, 1])
        kept = rows[mask[rows]]
        return kept, mask if how == 1 else rng.permutation(kept)

    def check_hits(self, asked: np.ndarray, k: int, rows: np.ndarray, hits: Any, *, exact: bool) -> None:
        truth, slack = self.truth(asked, rows)
        count = min(k, len(rows))
        assert hits.rows.shape == hits.distances.shape == (len(asked), k)
        assert (hits.rows[:, count:] == -1).all() and np.isposinf(hits.distances[:, count:]).all()
        assert (np.diff(hits.distances[:, :count]) >= 0).all()
        for place in range(len(asked)):
            found = hits.rows[place, :count]
            assert np.isin(found, rows).all() and len(set(found.tolist())) == count
            true = truth[place, np.searchsorted(rows, found)]
            assert (np.abs(hits.distances[place, :count] - true) <= slack).all()
            best = np.sort(truth[place])[:count]
            if exact:
                assert (np.abs(hits.distances[place, :count] - best) <= slack).all()
            elif count:
                self.found += int((true <= best[-1] + 2 * slack).sum())
                self.wanted += count

    def range_search(self, rng: np.random.Generator, count: int) -> None:
        asked, rows, exact = self.vectors(rng, 2), self.rows(), bool(rng.integers(2))
        truth, slack = self.truth(asked, rows)
        radius = float(rng.choice(truth.ravel())) if truth.size else 1.0
        hits = self.index.range_search(asked, radius, exact=exact)
        assert len(hits.indptr) == len(asked) + 1 and hits.indptr[0] == 0
        for place in range(len(asked)):
            part = slice(hits.indptr[place], hits.indptr[place + 1])
            found, near = hits.rows[part], hits.distances[part]
            assert np.isin(found, rows).all() and len(set(found.tolist())) == len(found)
            true = truth[place, np.searchsorted(rows, found)]
            assert (np.abs(near - true) <= slack).all()
            assert (near <= radius).all() and (np.diff(near) >= 0).all()
            inside = rows[truth[place] <= radius - 2 * slack]
            if exact:
                assert np.isin(inside, found).all()
            else:
                self.found += int(np.isin(inside, found).sum())
                self.wanted += len(inside)

    def truth(self, asked: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """All distances, and by how much sums in float32 may differ from them."""
        table = self.table(rows)
        longest = max(np.square(part.astype(np.float64)).sum(1).max(initial=0) for part in (asked, table))
        return distances(self.metric, asked, table), 1e-5 * (1 + longest)

    def recall(self) -> float:
        return self.found / self.wanted if self.wanted else 1.0


CHANGES: tuple[Callable[[Modelled, np.random.Generator, int], None], ...] = (
    Modelled.add,
    Modelled.update,
    Modelled.remove,
    Modelled.refuse,
    Modelled.compact,
    Modelled.optimize,
    Modelled.reopen,
    Modelled.skip,
)
QUESTIONS: tuple[Callable[[Modelled, np.random.Generator, int], None], ...] = (
    Modelled.look,
    Modelled.search,
    Modelled.exact_search,
    Modelled.range_search,
)
