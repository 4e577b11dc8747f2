"""The index and the model in memory, kept level with what the catalog says is committed.

Rows of the index are those of the vectors file: an index that has handed out `n` numbers and removed `d` rows
has taken in the first `n` rows and the first `d` deaths, and lacks what the catalog counts beyond. Rows that
died before they were indexed are skipped.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ruvector_gnn._core import Graph, HNSWIndex
from ruvector_gnn.db import fork
from ruvector_gnn.db.catalog import Catalog
from ruvector_gnn.db.connection import Interrupted
from ruvector_gnn.db.disk import flush_names
from ruvector_gnn.db.names import CATALOG, PATTERNS, is_data, is_temporary, numbered
from ruvector_gnn.db.store import Settings, Store
from ruvector_gnn.db.vector_file import Committed, Rows, VectorFile
from ruvector_gnn.db.vectors import Vectors
from ruvector_gnn.errors import FormatError, RowError
from ruvector_gnn.learn import SearchLearner

# A snapshot costs as much as the index is large: taking one whenever the index has changed as much as it had
# been large keeps the sum linear.
SNAPSHOT_FLOOR = 50_000
_BLOCK = 8_192
# Forks that come more often than the work takes must not keep it from ever ending.
MOST_INTERRUPTIONS = 5
SECONDS_FOR_A_FORK = 0.05


@dataclass
class Ranking:
    """Rows and scores of one query, best first."""

    rows: Rows
    scores: npt.NDArray[np.float32]


@dataclass
class _News:
    """What is committed and not yet in the index."""

    committed: Committed
    rows: int
    dead: int
    gone: list[int]
    """Rows to remove."""
    come: Rows
    """Rows to add, rising."""


class Live:
    """Loads snapshots, takes in what was committed since, and follows what a writer elsewhere commits."""

    def __init__(self, store: Store) -> None:
        """Load what there is and take in what was committed since."""
        self.store = store
        self._lock = threading.RLock()
        self._seen: tuple[int, int] | None = None
        self._behind = False
        self._graph: tuple[tuple[int, int], Graph] | None = None
        self._calls: set[object] = set()
        self._lost = False
        self._load()
        self.follow()
        if store.writable:
            self._sweep()
        fork.watch(self)

    @property
    def index(self) -> HNSWIndex:
        """The index; a forked child that could not inherit it loads it here."""
        if self._lost:
            with self._lock:
                if self._lost:
                    self._load()
        return self._index

    @property
    def learner(self) -> SearchLearner | None:
        """The model, if there is one."""
        return self._learner if self.index is not None else None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Around calls on index and model: a fork meanwhile leaves them locked for ever in the child."""
        token = object()
        self._calls.add(token)
        try:
            yield
        finally:
            self._calls.discard(token)

    def after_fork_in_child(self) -> None:
        """Go on with index and model of the parent if no call was using them; else load them when needed."""
        if self._calls:
            fork.keep(self._index, self._learner, self._graph)
            self._lost, self._graph = True, None
        self._lock = threading.RLock()
        self._calls = set()
        self._behind = True

    def _sweep(self) -> None:
        """Remove files that a killed process wrote but did not commit, or replaced but did not remove."""
        settings = self.store.catalog.settings()
        named = {settings[setting] for setting in PATTERNS}
        for entry in list(os.scandir(self.store.place.current())):
            ours = is_temporary(entry.name) or (is_data(entry.name) and entry.name not in named)
            if ours and self.store.place.has(entry.name):
                self.store.place.remove(entry.name)

    def _load(self) -> None:
        """Index snapshot and model: a model serves beside an index that has handed out the rows it knew."""

        def load() -> tuple[HNSWIndex, SearchLearner | None, str | None]:
            settings = self.store.catalog.settings()
            index = self._load_index(settings["index_file"])
            return index, self._load_model(settings["model_file"], index), settings["model_file"]

        loaded = self.store.with_files(load, "index_file", "model_file")
        self._index, self._learner, self._model_file = loaded
        self._graph, self._lost = None, False
        self._saved = self._taken_in()

    def _load_index(self, name: str | None) -> HNSWIndex:
        if name is None:
            metric: Any = self.store.metric  # one of the three: `open_store` has checked
            return HNSWIndex(self.store.dim, metric=metric, **self.store.index_options)
        index = HNSWIndex.load(self.store.existing(name))
        if (index.dim, index.metric) != (self.store.dim, self.store.metric):
            raise FormatError(f"{self.store.file(name)}: not an index of this database")
        return index

    def _load_model(self, name: str | None, index: HNSWIndex) -> SearchLearner | None:
        return None if name is None else SearchLearner.load(self.store.existing(name), index)

    def _taken_in(self) -> tuple[int, int]:
        """How many rows the index has taken in, and how many deaths."""
        rows = self.index.num_rows
        return rows, rows - len(self.index)

    def follow(self, *, written: int | None = None, progress: bool = False) -> None:
        """Take in all that is committed; after an interruption the next call goes on where this one stopped.

        Rows from `written` on are the caller's own, and need no check.
        """
        with self._lock, self.in_use():
            self._behind = True
            version = self.store.catalog.data_version()
            while (news := self.store.reading(partial(self._news, written=written))) is None:
                self._load()
            # Deaths first: only then does the number of removed rows tell which deaths were taken in.
            if news.gone:
                self.index.remove(news.gone)
            for run in _runs(news.come):
                self.index.skip_rows(int(run[0]) - self.index.num_rows)
                self.index.add(news.committed.take(run), progress=progress)
            self.index.skip_rows(news.rows - self.index.num_rows)
            if self._taken_in() != (news.rows, news.dead):
                raise FormatError(f"{self.store.path}: the index and the catalog count different rows")
            self._seen, self._behind = version, False

    def _news(self, settings: Settings, committed: Committed, *, written: int | None) -> _News | None:
        """None if there is a new model, which must be loaded first, with its index."""
        if settings["model_file"] != self._model_file:
            return None
        rows, dead = int(settings["rows"]), int(settings["dead"])
        start, taken = self._taken_in()
        if start > rows or taken > dead:
            raise FormatError(f"{self.store.path}: the index holds more rows than the catalog")
        stop = rows if written is None else written
        come = self.store.check_documents(committed, start, stop) if start < stop else []
        come.extend(range(max(start, stop), rows))
        gone = self._gone(taken, dead) if start and taken < dead else []
        return _News(committed, rows, dead, gone, np.array(come, dtype=np.int64))

    def _gone(self, taken: int, dead: int) -> list[int]:
        """Rows that the index holds and that are dead."""
        died = [row for _, row in self.store.catalog.dead(taken)]
        if len(died) < dead - taken:
            # A compaction has emptied the list meanwhile.
            gone: list[int] = np.setdiff1d(self.index.rows(), self.store.catalog.rows()).tolist()
            return gone
        alive = self.store.catalog.documents(died)
        if alive:
            raise FormatError(f"{self.store.catalog.path}: row {min(alive)} is dead, but has a document")
        return [row for row in dict.fromkeys(died) if row in self.index]

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

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """While no other thread of this process changes the index."""
        with self._lock, self.in_use():
            yield

    def graph(self) -> Graph:
        """The index's links at level 0, taken anew when rows have come or gone; its `node_ids` are rows."""
        with self._lock, self.in_use():
            state = self._taken_in()
            if self._graph is None or self._graph[0] != state:
                self._graph = state, self.index.graph(0)
            return self._graph[1]

    def rank(self, query: npt.NDArray[np.float32], k: int, allowed: Rows | None, *, learned: bool) -> Ranking:
        """The k best of the allowed rows (None: all), by the model if there is one and it is wanted."""
        with self.in_use():
            try:
                return self._rank(query, k, allowed, learned=learned)
            except RowError:
                # Another thread has removed some of the allowed rows.
                with self._lock:
                    held = self.index.rows()
                    allowed = held if allowed is None else np.intersect1d(allowed, held)
                    return self._rank(query, k, allowed, learned=learned)

    def _rank(
        self, query: npt.NDArray[np.float32], k: int, allowed: Rows | None, *, learned: bool
    ) -> Ranking:
        k = min(k, len(self.index))
        if k == 0 or (allowed is not None and not len(allowed)):
            return Ranking(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
        # The plain order comes from a learner too: its scores keep digits that distances have lost.
        learner = self.learner or SearchLearner(self.index)
        hits = learner.search(query, k=k, filter=allowed, learned=learned)
        rows, scores = hits.rows[0], hits.scores[0]
        found = rows >= 0
        return Ranking(rows[found], np.asarray(scores[found], dtype=np.float32))

    # --- snapshots and compaction: files are written beside those they replace, and then named by a commit
    def wants_snapshot(self) -> bool:
        """Whether reopening now would take in more than it would load."""
        with self.in_use():
            (rows, dead), (saved, saved_dead) = self._taken_in(), self._saved
        return rows - saved + dead - saved_dead > max(SNAPSHOT_FLOOR, saved - saved_dead)

    def snapshot(self) -> None:
        """Have all that was written outlast power loss, the index too if it has changed."""
        with self._lock, self.in_use():
            if self._taken_in() != self._saved:
                self._publish(index_file=self._save_index(self._file_number()))
            elif self.store.catalog.has_written:
                self._publish(index_file=self.store.catalog.settings()["index_file"])

    def adopt(self, learner: SearchLearner) -> None:
        """Keep a model that was just trained on the index as it is, together with that index, and use it."""
        with self._lock, self.in_use():
            number = self._file_number()
            index_name, model_name = self._save_index(number), numbered("model_file", number)
            self._save(learner, model_name)
            self._publish(index_file=index_name, model_file=model_name)
            self._learner, self._model_file = learner, model_name

    def compact(self) -> None:
        """Write what lives to new files, without what was deleted; rows keep their numbers.

        The catalog comes first: until the vectors are compacted the dead rows say that there is work to do.
        """
        self._shrink_catalog()
        with self._lock, self.in_use():
            rows = self.index.rows()
            settings, committed = self.store.reading(lambda settings, committed: (settings, committed))
            if len(committed) == len(rows):
                self.snapshot()
            else:
                self._compact_vectors(rows, settings, committed)
        self.store.catalog.fold_log()

    def _shrink_catalog(self) -> None:
        """Write the catalog again without what was deleted, while searches go on."""
        catalog = Catalog(self.store.place, writable=True, interruptible=True)
        try:
            for number in range(MOST_INTERRUPTIONS + 1):
                catalog.interruptible = number < MOST_INTERRUPTIONS
                try:
                    catalog.execute("VACUUM")
                    return
                except Interrupted:
                    time.sleep(SECONDS_FOR_A_FORK)
        finally:
            catalog.close()

    def _compact_vectors(self, rows: Rows, settings: Settings, committed: Committed) -> None:
        place, number = self.store.place, self._file_number()
        self.index.compact()
        index_name, name = self._save_index(number), numbered("vectors_file", number)
        blocks, bound = self._checked_blocks(committed, rows), int(settings["rows"])
        try:
            VectorFile.create(
                *(self.store.file(name), self.store.dim),
                bound=bound,
                listed=rows,
                blocks=blocks,
                folder=place.folder,
                like=os.lstat(CATALOG, dir_fd=place.folder),
            )
        except BaseException:
            place.remove(index_name)
            raise
        flush_names(place.current())
        self._publish(index_file=index_name, vectors_file=name)
        self.store.vectors(self.store.catalog.settings())  # lets go of the old one

    def _checked_blocks(self, committed: Committed, rows: Rows) -> Iterator[Vectors]:
        for block in (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)):
            if self.store.check_documents(committed, int(block[0]), int(block[-1]) + 1) != block.tolist():
                raise FormatError(f"{self.store.path}: the index holds other rows than the catalog")
            yield committed.take(block)

    def _publish(self, **names: str | None) -> None:
        """Commit the names of files, after all the rows that they know of have reached the disk; then remove
        the files that they replace."""
        catalog, old = self.store.catalog, self.store.catalog.settings()
        self.store.vectors(old).flush()
        self.store.check_in_place()
        # What the files replace must not be gone before their names are there.
        with catalog.lasting():
            catalog.set(**names)
            if "vectors_file" in names:
                catalog.forget_dead()
        self._saved = self._taken_in()
        for setting, name in names.items():
            if old[setting] not in (None, name):
                self.store.place.remove(old[setting])

    def _file_number(self) -> int:
        """A number that no file of this database has had."""
        catalog, place = self.store.catalog, self.store.place
        taken = {entry.name for entry in os.scandir(place.current())}
        with catalog.transaction():
            number = int(catalog.settings()["file_number"]) + 1
            while taken & {numbered(setting, number) for setting in PATTERNS}:
                number += 1  # the user's, perhaps a link
            catalog.set(file_number=number)
        return number

    def _save_index(self, number: int) -> str:
        name = numbered("index_file", number)
        self._save(self.index, name)
        return name

    def _save(self, saved: HNSWIndex | SearchLearner, name: str) -> None:
        """Save to a new file, which who may read the catalog may read."""
        self.store.place.make_like(name, CATALOG)
        try:
            saved.save(str(self.store.file(name)))
        except BaseException:
            self.store.place.remove(name)
            raise


def _runs(rows: Rows) -> Iterator[Rows]:
    """Rising rows, cut where numbers are left out."""
    if len(rows):
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, stop in pairwise([0, *cuts.tolist(), len(rows)]):
            yield rows[start:stop]
