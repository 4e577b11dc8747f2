"""`VectorDB` under random calls, beside a dictionary; a reader follows each of them.

Short sequences, which shrink when they fail, always; some thousand calls with `-m long`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from index_model import distances
from ruvector_gnn.db import VectorDB

Document = tuple[np.ndarray, dict[str, Any]]
METRICS = ("cosine", "l2", "ip")


class Modelled:
    """A database beside a dictionary; each method makes one call on both, or asks both one question."""

    def __init__(self, folder: Path, dim: int, metric: str, **index_options: Any) -> None:
        self.folder, self.path, self.dim, self.metric = folder, folder / "a.rvdb", dim, metric
        options = {"m": 6, "ef_construction": 60, "ef_search": 120, **index_options}
        self.db = VectorDB.open(self.path, dim=dim, metric=metric, index_options=options)
        self.reader = VectorDB.open(self.path, mode="r")
        self.documents: dict[int | str, Document] = {}
        self.impressions = self.found = self.wanted = 0

    def close(self) -> None:
        self.db.close()
        self.reader.close()

    def ids(self, rng: np.random.Generator, count: int) -> list[int | str]:
        """Ids that are known, as far as there are so many."""
        known = list(self.documents)
        return [known[place] for place in rng.permutation(len(known))[:count]]

    def vectors(self, rng: np.random.Generator, count: int) -> np.ndarray:
        made = rng.standard_normal((count, self.dim))
        if rng.random() < 0.3:
            made = np.random.default_rng(1).standard_normal((3, self.dim))[rng.integers(3, size=count)]
        return np.asarray(made, dtype=np.float32)

    # --- calls

    def put(self, rng: np.random.Generator, names: list[int | str], call: Callable[..., None]) -> None:
        vectors = self.vectors(rng, len(names))
        metadata = [{"n": int(rng.integers(20)), "text": "é" * int(rng.integers(3))} for _ in names]
        call(names, vectors, metadata)
        for name, vector, entry in zip(names, vectors, metadata, strict=True):
            self.documents.pop(name, None)
            self.documents[name] = vector, entry

    def new_ids(self, rng: np.random.Generator, count: int) -> list[int | str]:
        names = [int(number) if number % 2 else str(number) for number in rng.integers(10**6, size=count)]
        return [name for name in dict.fromkeys(names) if name not in self.documents]

    def add(self, rng: np.random.Generator, count: int) -> None:
        self.put(rng, self.new_ids(rng, count), self.db.add)

    def upsert(self, rng: np.random.Generator, count: int) -> None:
        self.put(rng, [*self.ids(rng, count // 2 + 1), *self.new_ids(rng, count // 3)], self.db.upsert)

    def delete(self, rng: np.random.Generator, count: int) -> None:
        names = self.ids(rng, count)
        self.db.delete(names)
        for name in names:
            del self.documents[name]

    def record(self, rng: np.random.Generator, count: int) -> None:
        clicked = self.ids(rng, 2)
        if clicked:
            self.db.record(self.vectors(rng, 1)[0], clicked, shown=self.ids(rng, 5))
            self.impressions += 1

    def learn(self, rng: np.random.Generator, count: int) -> None:
        for _ in range(3):
            self.record(rng, count)
        if self.documents:
            self.db.learn()

    def checkpoint(self, rng: np.random.Generator, count: int) -> None:
        self.db.checkpoint()

    def compact(self, rng: np.random.Generator, count: int) -> None:
        asked = self.vectors(rng, 1)[0]
        before = [database.search(asked, k=5) for database in (self.db, self.reader)]
        mapped = self.reader.get_all_vectors()
        held = mapped.copy()
        self.db.compact()
        assert self.db.stats()["dead_rows"] == 0
        for database, was in zip((self.db, self.reader), before, strict=True):
            now = database.search(asked, k=5)
            assert now.ids == was.ids and now.scores.tolist() == was.scores.tolist()
        np.testing.assert_array_equal(mapped, held)

    def reopen(self, rng: np.random.Generator, count: int) -> None:
        """Goes on in a database that was closed, made anew from its vectors, or left by a killed writer."""
        how = rng.integers(3)
        if how == 0:
            killed = self.folder / "killed.rvdb"
            shutil.copytree(self.path, killed, ignore=shutil.ignore_patterns("*-shm"))
            self.close()
            shutil.rmtree(self.path)
            killed.rename(self.path)
        else:
            self.close()
        self.db = VectorDB.open(self.path, rebuild=bool(how == 1))
        self.reader = VectorDB.open(self.path, mode="r")
        kinds = [entry.suffix for entry in self.path.iterdir() if not entry.name.startswith("catalog")]
        assert len(kinds) == len(set(kinds)), "a file is left over"

    # --- questions

    def look(self, rng: np.random.Generator, count: int) -> None:
        """Everything but searching."""
        for database in (self.db, self.reader):
            names = database.ids()
            assert names == list(self.documents) and len(database) == len(names)
            records = database.get(names)
            for record in records:
                vector, metadata = self.documents[record.id]
                assert record.vector.tobytes() == vector.tobytes() and record.metadata == metadata
            np.testing.assert_array_equal(database.get_all_vectors(), records.vectors)
            assert database.get_hnsw_graph().num_nodes == len(names)
            assert "nobody" not in database
            with pytest.raises(rg.NotFoundError):
                database.get([*self.ids(rng, 2), "nobody"])
            stats = database.stats()
            assert (stats["documents"], stats["impressions"]) == (len(names), self.impressions)
            assert database._live.index.stats()["unreachable"] == 0

    def verify(self, rng: np.random.Generator, count: int) -> None:
        self.db.verify()
        self.reader.verify()

    def search(self, rng: np.random.Generator, count: int) -> None:
        asked, k, least = self.vectors(rng, 1)[0], int(rng.integers(1, 12)), int(rng.integers(20))
        where = {"n": {"$gte": least}} if rng.random() < 0.5 else None
        documents = self.documents.items()
        allowed = {name: vector for name, (vector, entry) in documents if not where or entry["n"] >= least}
        for database in (self.db, self.reader):
            hits = database.search(asked, k=k, where=where, learned=False)
            assert len(set(hits.ids)) == len(hits) == min(k, len(allowed))
            if not allowed:
                continue
            table = np.array(list(allowed.values()))
            apart = distances(self.metric, asked[None], table)[0]
            scores = dict(zip(allowed, -apart if self.metric == "l2" else 1 - apart, strict=True))
            slack = 1e-5 * (1 + np.square(table).sum(1).max() + np.square(asked).sum())
            assert all(abs(hit.score - scores[hit.id]) <= slack for hit in hits.hits)
            assert hits.metadata == [self.documents[name][1] for name in hits.ids]
            last = sorted(scores.values())[-len(hits)]
            self.found += sum(scores[name] >= last - 2 * slack for name in hits.ids)
            self.wanted += len(hits)
        learned = self.db.search(asked, k=k, where=where)
        assert set(learned.ids) <= set(allowed) and len(learned) == min(k, len(allowed))

    def recall(self) -> float:
        return self.found / self.wanted if self.wanted else 1.0


Call = Callable[[Modelled, np.random.Generator, int], None]
CALLS: tuple[tuple[Call, float], ...] = (
    *((Modelled.add, 0.2), (Modelled.upsert, 0.15), (Modelled.delete, 0.15), (Modelled.record, 0.05)),
    *((Modelled.learn, 0.005), (Modelled.checkpoint, 0.03), (Modelled.compact, 0.04)),
    *((Modelled.reopen, 0.03), (Modelled.look, 0.095), (Modelled.verify, 0.02), (Modelled.search, 0.23)),
)
SEEDS = st.integers(0, 2**32 - 1)


class Machine(RuleBasedStateMachine):
    """The calls of `Modelled`; what a rule draws comes from a seed, so that sequences shrink."""

    modelled: Modelled | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()

    @initialize(dim=st.integers(1, 8), metric=st.sampled_from(METRICS))
    def create(self, dim: int, metric: str) -> None:
        self.modelled = Modelled(Path(self.folder.name), dim, metric)

    @rule(call=st.sampled_from([call for call, _ in CALLS]), seed=SEEDS, count=st.integers(0, 12))
    def call(self, call: Call, seed: int, count: int) -> None:
        assert self.modelled is not None
        call(self.modelled, np.random.default_rng(seed), count)
        self.modelled.look(np.random.default_rng(seed), 2)

    def teardown(self) -> None:
        if self.modelled is not None:
            self.modelled.close()
        self.folder.cleanup()


TestShortSequences = Machine.TestCase
TestShortSequences.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, derandomize=True
)


@pytest.mark.long
@pytest.mark.parametrize("storage", ["f32", "i8"])
@pytest.mark.parametrize("metric", METRICS)
def test_some_thousand_calls(metric: str, storage: str, tmp_path: Path) -> None:
    for seed, dim in enumerate((2, 12, 40)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        modelled = Modelled(folder, dim, metric, storage=storage)
        chances = np.array([chance for _, chance in CALLS])
        for number in range(600):
            rng = np.random.default_rng((seed, number))
            call = CALLS[rng.choice(len(CALLS), p=chances / chances.sum())][0]
            if number % 150 == 149:
                call = Modelled.delete
            count = int(rng.integers(20)) if number % 150 < 149 else len(modelled.documents)
            try:
                call(modelled, rng, count)
            except Exception as failure:
                what = f"seed {seed}, call {number} ({call.__name__}, {count})"
                raise AssertionError(f"{what}: {type(failure).__name__}: {failure}") from failure
        assert modelled.recall() >= 0.95, f"dim {dim}: recall {modelled.recall()}"
        modelled.close()
