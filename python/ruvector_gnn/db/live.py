"""The index and the model in memory, kept level with what the catalog says is committed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ruvector_gnn._core import Graph, HNSWIndex
from ruvector_gnn.db.store import Store
from ruvector_gnn.db.vectors import Vectors, usable
from ruvector_gnn.errors import FormatError
from ruvector_gnn.learn import SearchLearner

Rows = npt.NDArray[np.int64]

# A snapshot costs as much as the index is large: taking one whenever the index has doubled keeps the sum
# linear.
SNAPSHOT_FLOOR = 50_000
RETRIES = 10


@dataclass
class Ranking:
    """Rows and scores of one query, best first."""

    rows: Rows
    scores: npt.NDArray[np.float32]


class Live:
    """Loads snapshots, adds the rows committed after them, and follows what a writer elsewhere commits."""

    def __init__(self, store: Store) -> None:
        """Load what there is and take in what was committed since."""
        self.store = store
        self._lock = threading.RLock()
        self._seen = -1
        self._behind = False
        self._dead: Rows = np.empty(0, dtype=np.int64)
        self._graph: Graph | None = None
        self._load()
        self.follow()
        if store.writable:
            self._sweep()

    def _sweep(self) -> None:
        """Remove snapshots that a killed process wrote but did not commit."""
        settings = self.store.catalog.settings()
        named = {settings["index_file"], settings["model_file"]}
        for pattern in ("index-*", "model-*", ".index-*", ".model-*"):
            for path in self.store.path.glob(pattern):
                if path.name not in named:
                    path.unlink(missing_ok=True)

    def _load(self) -> None:
        """Index snapshot and model: a model serves beside an index that begins with the rows it knew."""
        for _ in range(RETRIES):
            settings = self.store.catalog.settings()
            index_file, model_file = settings["index_file"], settings["model_file"]
            try:
                index = self._load_index(index_file)
                learner = self._load_model(model_file, index)
            except FileNotFoundError as lost:
                missing = lost
                continue  # a writer has replaced it since
            self.index, self.learner, self._graph = index, learner, None
            self.snapshot_rows, self._model_file = index.num_rows, model_file
            return
        raise FormatError(f"a snapshot is missing: {missing}; open with rebuild=True") from None

    def _load_index(self, name: str | None) -> HNSWIndex:
        if name is None:
            metric: Any = self.store.metric  # one of the three: `open_store` has checked
            return HNSWIndex(self.store.dim, metric=metric, **self.store.index_options)
        index = HNSWIndex.load(str(self.store.file(name)))
        if (index.dim, index.metric) != (self.store.dim, self.store.metric):
            raise FormatError(f"{self.store.file(name)}: not an index of this database")
        return index

    def _load_model(self, name: str | None, index: HNSWIndex) -> SearchLearner | None:
        return None if name is None else SearchLearner.load(str(self.store.file(name)), index)

    def follow(self, *, written: int | None = None, progress: bool = False) -> None:
        """Take in all that is committed; after an interruption the next call goes on where this one stopped.

        Rows from `written` on are the caller's own, and need no check.
        """
        with self._lock:
            self._behind = True
            version = self.store.catalog.data_version()
            settings = self.store.catalog.settings()
            if settings["model_file"] != self._model_file:
                self._load()
                settings = self.store.catalog.settings()
            rows = int(settings["rows"])
            if self.index.num_rows > rows:
                raise FormatError(f"{self.store.path}: the index holds more rows than the catalog")
            committed = self.store.vectors.rows(rows)
            if self.index.num_rows < rows:
                stop = rows if written is None else written
                self.index.add(self._unindexed(committed, stop), progress=progress)
            if len(self._dead) != int(settings["dead"]):
                self._dead = np.array(self.store.catalog.dead(), dtype=np.int64)
            self._seen, self._behind = version, False

    def _unindexed(self, committed: Vectors, stop: int) -> Vectors:
        """The committed rows that the index lacks; raises `FormatError` if a live one before `stop` is
        damaged."""
        start = self.index.num_rows
        if start >= stop:
            return committed[start:]
        living = self.store.check_documents(committed, start, stop)
        dead = np.setdiff1d(np.arange(start, stop), living, assume_unique=True)
        unusable = dead[~usable(committed[dead], self.store.metric)]
        if not len(unusable):
            return committed[start:]
        # No checksum covers a dead row and no search returns it, but the index must take it to keep count.
        rows = np.array(committed[start:])
        rows[unusable - start] = 1
        return rows

    def refresh(self) -> None:
        """`follow`, if another process may have written since, or an earlier call was interrupted.

        While another thread is at it, the caller goes on with what there is.
        """
        elsewhere = not self.store.writable and self.store.catalog.data_version() != self._seen
        if (self._behind or elsewhere) and self._lock.acquire(blocking=False):
            try:
                self.follow()
            finally:
                self._lock.release()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around a commit of the writer and what follows: after an interruption the next call catches up."""
        try:
            yield
        except BaseException:
            self._behind = True
            raise

    def bury(self, rows: list[int]) -> None:
        """Leave rows out of every search from now on, as the writer has just committed."""
        with self._lock:
            self._dead = np.union1d(self._dead, np.array(rows, dtype=np.int64))

    @property
    def living(self) -> Rows | None:
        """The rows that are not dead, or None if none is."""
        dead, count = self._dead, self.index.num_rows
        if not len(dead):
            return None
        alive = np.ones(count, dtype=np.bool_)
        alive[dead[dead < count]] = False
        return np.flatnonzero(alive)

    def adopt(self, learner: SearchLearner) -> None:
        """Keep a model that was just trained on the index as it is, together with that index, and use it."""
        catalog = self.store.catalog
        with self._lock:
            settings = catalog.settings()
            index_name = self.save_index()
            model_name = index_name.replace("index-", "model-").replace(".hnsw", ".gnn")
            learner.save(str(self.store.file(model_name)))
            self.publish(index_file=index_name, model_file=model_name)
            self.learner, self._model_file = learner, model_name
            self.snapshot_rows = self.index.num_rows
            self.drop(settings["index_file"], index_name)
            self.drop(settings["model_file"], model_name)

    def graph(self) -> Graph:
        """The index's links at level 0, taken anew when rows have come."""
        if self._graph is None or self._graph.num_nodes != self.index.num_rows:
            self._graph = self.index.graph(0)
        return self._graph

    def wants_snapshot(self) -> bool:
        """Whether reopening now would add more rows than it would load."""
        new: int = self.index.num_rows - self.snapshot_rows
        return new > max(SNAPSHOT_FLOOR, self.snapshot_rows)

    def snapshot(self) -> None:
        """Have all that was written outlast power loss, the index too if it has grown.

        It is saved beside the old snapshot and its name committed before the old one is dropped.
        """
        with self._lock:
            grown = self.index.num_rows != self.snapshot_rows
            if grown or self.store.catalog.has_written:
                old = self.store.catalog.settings()["index_file"]
                name = self.save_index() if grown else old
                self.publish(index_file=name)
                self.snapshot_rows = self.index.num_rows
                self.drop(old, name)

    def publish(self, **names: str | None) -> None:
        """Commit the names of files, after all the rows that the files know of have reached the disk."""
        self.store.vectors.flush()
        # What the files replace is removed next, and must not be gone before their names are there.
        with self.store.catalog.lasting():
            self.store.catalog.set(**names)

    def save_index(self) -> str:
        """Write the index to a file of its own and return its name, which the caller commits."""
        number = int(self.store.catalog.settings()["snapshot_number"]) + 1
        with self.store.catalog.transaction():
            self.store.catalog.set(snapshot_number=number)
        name = f"index-{number:06d}.hnsw"
        self.index.save(str(self.store.file(name)))
        return name

    def drop(self, old: str | None, new: str | None) -> None:
        """Remove a file that nothing names any more."""
        if old is not None and old != new:
            self.store.file(old).unlink(missing_ok=True)

    def rank(self, query: npt.NDArray[np.float32], k: int, allowed: Rows | None, *, learned: bool) -> Ranking:
        """The k best of the allowed rows (None: all), by the model if there is one and it is wanted."""
        k = min(k, self.index.num_rows)
        if k == 0 or (allowed is not None and not len(allowed)):
            return Ranking(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
        learner = self.learner
        if learned and learner is not None:
            hits = learner.search(query, k=k, filter=allowed)
            rows, scores = hits.rows[0], hits.scores[0]
        else:
            plain = self.index.search(query, k=k, filter=allowed)
            rows, scores = plain.rows[0], scores_of(plain.distances[0], self.store.metric)
        found = rows >= 0
        return Ranking(rows[found], np.asarray(scores[found], dtype=np.float32))


def scores_of(distances: npt.NDArray[np.float32], metric: str) -> npt.NDArray[np.float32]:
    """Cosine, inner product, or the negative squared distance: higher is better."""
    return -distances if metric == "l2" else 1 - distances
