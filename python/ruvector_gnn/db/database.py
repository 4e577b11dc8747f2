"""`VectorDB`: documents, their vectors and the query log in one directory, and search that learns from the
log."""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ruvector_gnn._core import Graph
from ruvector_gnn._report import LearningReport
from ruvector_gnn.clicks import ClickLog
from ruvector_gnn.db import arguments, fork, log, verify
from ruvector_gnn.db.arguments import Ids
from ruvector_gnn.db.catalog import Id, document_crc
from ruvector_gnn.db.encoder import Encoder, encoder_of, rank_encoded
from ruvector_gnn.db.exploration import Exploration
from ruvector_gnn.db.learning import train
from ruvector_gnn.db.live import Live
from ruvector_gnn.db.results import Metadata, Record, Records, SearchResult
from ruvector_gnn.db.store import Settings, Store, Wishes, open_store
from ruvector_gnn.db.vector_file import Committed, Rows
from ruvector_gnn.db.vectors import Vectors, checked, checked_query
from ruvector_gnn.db.where import Where, condition
from ruvector_gnn.errors import ConfigError, FormatError, NotFoundError, RuvectorError


class VectorDB:
    """A durable, embedded vector database that learns from its own query log.

    Open one with `VectorDB.open`; use it in a `with` block or call `close`. All methods may be called from
    several threads. What a call that has returned has written survives the death of the process.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, VectorDB.open(f"{folder}/a.rvdb", dim=2) as db:
    ...     db.add(["north", "east"], [[0, 1], [1, 0]], [{"cold": True}, {"cold": False}])
    ...     db.search([0.1, 1], k=1).ids, db.search([0.1, 1], where={"cold": False}).ids
    (['north'], ['east'])
    """

    def __init__(self, store: Store, *, seed: int = 0) -> None:
        """Use `VectorDB.open`."""
        self._store = store
        self._live = Live(store)
        self._exploration = Exploration(seed)
        self._writing = threading.RLock()
        self._forked = False
        fork.watch(self)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        dim: int | None = None,
        metric: str | None = None,
        *,
        mode: str = "rw",
        synchronous: str = "normal",
        index_options: Mapping[str, Any] | None = None,
        rebuild: bool = False,
        seed: int = 0,
    ) -> "VectorDB":
        """Open the database at `path`, or create it if there is none and `dim` is given.

        `mode="r"` opens it for reading, beside any number of other readers and one writer, and follows what
        the writer commits. `synchronous="full"` has every write reach the disk before the call returns, so
        that it survives power loss too. `metric` is "cosine" (default), "l2" or "ip"; `index_options` go to
        `HNSWIndex` and are kept. `rebuild=True` forgets index snapshot and model, and makes the
        index from the vectors.

        The handle belongs to the directory, not to its path: it goes on after `os.chdir` and after the
        directory was renamed. `mode="r"` needs no write permission if the database was closed. In a forked
        child the handle reads, also if it was opened for writing.

        Raises `BlockingIOError` (an `OSError`) naming the process that has it open for writing;
        `FormatError` if `path` is something else, damaged, or of another version; `FileNotFoundError` in
        mode "r" if nothing is there; `PermissionError` if its log can't be read without write permission;
        `ConfigError` for arguments that contradict the database, and in a process that was forked while a
        call on a database was in progress.
        """
        wishes = Wishes(dim, metric, dict(index_options or {}))
        store = open_store(Path(path), wishes, mode, synchronous, rebuild=rebuild)
        try:
            return cls(store, seed=seed)
        except BaseException:
            store.close()
            raise

    @property
    def path(self) -> Path:
        """The directory, by its absolute path; after it was renamed, by the new one."""
        return self._store.path

    @property
    def dimensions(self) -> int:
        """The length of every vector."""
        return self._store.dim

    @property
    def metric(self) -> str:
        """ "cosine", "l2" or "ip"."""
        return self._store.metric

    @property
    def learned(self) -> bool:
        """Whether the last `learn` promoted a model, so that `search` does not rank as the index does."""
        self._check_open()
        self._live.refresh()
        learner = self._live.learner
        return learner is not None and learner.report is not None and learner.report.promoted

    def __len__(self) -> int:
        """The number of documents."""
        self._check_open()
        settings = self._store.catalog.settings()
        return int(settings["rows"]) - int(settings["dead"])

    def __contains__(self, identity: object) -> bool:
        """Whether a document has this id."""
        self._check_open()
        known = self._store.catalog.rows_of([arguments.one_id(identity)])
        return bool(known)

    def __repr__(self) -> str:
        """Path, size and state."""
        if not self._store.release.alive:
            return f"VectorDB({str(self.path)!r}, closed)"
        state = "" if self._store.writable else ", mode='r'"
        try:
            size = str(len(self))
        except (OSError, RuvectorError):
            size = "unreadable"
        return f"VectorDB({str(self.path)!r}, {size} x {self.dimensions}, metric={self.metric!r}{state})"

    def ids(self) -> list[Id]:
        """All ids, in the order of `get_all_vectors` and of the nodes of `get_hnsw_graph`."""
        self._check_open()
        rows = self._store.catalog.execute("SELECT id FROM documents ORDER BY row")
        return [identity for (identity,) in rows]

    # --- documents
    def add(
        self, ids: Ids, vectors: npt.ArrayLike, metadata: object = None, *, progress: bool = False
    ) -> None:
        """Add documents: ids (n), vectors (n, dim), and one mapping (or None) of metadata for each.

        All or nothing. Raises `ConfigError` if an id exists or comes twice, `ShapeError` for vectors that
        don't fit (shape, NaN, infinity, zero under cosine), `OSError` if the disk is full. If Ctrl-C
        interrupts the indexing that follows the commit, or the disk refuses the snapshot that follows when
        the index has doubled, the documents are in, and the next call goes on.
        """
        self._put(ids, vectors, metadata, replace=False, progress=progress)

    def upsert(
        self, ids: Ids, vectors: npt.ArrayLike, metadata: object = None, *, progress: bool = False
    ) -> None:
        """Add documents, or replace vector and metadata of those whose id exists. Raises as `add` does."""
        self._put(ids, vectors, metadata, replace=True, progress=progress)

    def _put(
        self, ids: Ids, vectors: npt.ArrayLike, metadata: object, *, replace: bool, progress: bool
    ) -> None:
        names = arguments.distinct(ids)
        rows = checked(vectors, self.dimensions, self.metric, largest=self._store.largest)
        if len(rows) != len(names):
            raise ConfigError(f"got {len(names)} ids for {len(rows)} vectors")
        texts = arguments.metadata_texts(metadata, len(names))
        catalog = self._store.catalog
        with self._writing:
            self._check_open(writing=True)
            old = catalog.rows_of(names)
            if old and not replace:
                raise ConfigError(f"ids: {next(iter(old))!r} exists already; upsert replaces")
            settings = catalog.settings()
            start = int(settings["rows"])
            self._store.vectors(settings).append(rows, start, sync=self._store.sync)
            with self._live.committing():
                with catalog.transaction():
                    catalog.forget(list(old.values()))
                    catalog.execute_many(
                        "INSERT INTO documents VALUES (?, ?, ?, ?)",
                        (
                            (start + place, name, text, document_crc(name, text, rows[place].tobytes()))
                            for place, (name, text) in enumerate(zip(names, texts, strict=True))
                        ),
                    )
                    catalog.set(rows=start + len(names))
                self._live.follow(written=start, progress=progress)
            if self._live.wants_snapshot():
                self._live.snapshot()

    def delete(self, ids: Ids) -> None:
        """Remove documents. Raises `NotFoundError` for an unknown id, and then none is removed.

        They leave the index at once; their bytes stay in the vectors file until `compact`.
        """
        names = list(dict.fromkeys(arguments.id_list(ids)))
        catalog = self._store.catalog
        with self._writing:
            self._check_open(writing=True)
            rows = self._known(names)
            with self._live.committing():
                with catalog.transaction():
                    catalog.forget(rows)
                self._live.follow()
            if self._live.wants_snapshot():
                self._live.snapshot()

    def get(self, ids: Ids) -> Record | Records:
        """The stored vector and metadata of one id (a `Record`) or of several (`Records`, in the order
        asked).

        Raises `NotFoundError` for an unknown id, and `FormatError` for what is damaged on the disk.
        """
        self._check_open()
        names = arguments.id_list(ids)

        def read(settings: Settings, committed: Committed) -> Records:
            rows = self._known(names)
            metadata = [self._metadata(text) for text in self._store.metadata(names, rows, committed)]
            return Records(names, np.array(committed.take(rows)), metadata)

        records = self._store.reading(read)
        return records[0] if arguments.is_single(ids) else records

    def _known(self, names: Sequence[Id], what: str = "ids") -> list[int]:
        row_of = self._store.catalog.rows_of(list(dict.fromkeys(names)))
        for name in names:
            if name not in row_of:
                raise NotFoundError(f"{what}: there is no document {name!r}")
        return [row_of[name] for name in names]

    # --- search
    def search(
        self,
        query: npt.ArrayLike,
        k: int = 10,
        where: Where | None = None,
        explore: float = 0.0,
        learned: bool = True,
    ) -> SearchResult:
        """The k best documents for a query (dim,), best first, fewer if there are fewer.

        `where` filters on metadata (see `ruvector_gnn.db.where`). `explore` is the share of answers whose
        order is shuffled, which is what lets `learn` tell a good document from one that merely stood on top.
        `learned=False` gives the plain order of the index. Scores: cosine, inner product or negative squared
        distance; with a model, the model's own.
        """
        asked = checked_query(query, self.dimensions, self.metric)
        count, rate = arguments.positive(k, "k"), arguments.share(explore, "explore")
        test = None if where is None else condition(where)
        self._check_open()
        self._live.refresh()
        allowed = None
        if test is not None:
            allowed = np.array(self._store.catalog.matching(test), dtype=np.int64)
            with self._live.in_use():
                # Committed by another thread, but not indexed yet.
                allowed = allowed[allowed < self._live.index.num_rows]
        ranking = self._live.rank(asked, count, allowed, learned=learned)
        result = self._result(ranking.rows, ranking.scores)
        if not rate:
            return result
        return self._exploration.offer(asked, result, rate, log.count(self._store.catalog)[0])

    def _result(self, rows: Rows, scores: npt.NDArray[np.float32]) -> SearchResult:
        found = self._store.catalog.documents(rows.tolist())
        kept = [place for place, row in enumerate(rows.tolist()) if row in found]
        hits = [found[int(rows[place])] for place in kept]
        metadata = [self._metadata(hit[1]) for hit in hits]
        return SearchResult([hit[0] for hit in hits], scores[kept], metadata)

    def _metadata(self, text: str | None) -> Metadata:
        try:
            found = {} if text is None else json.loads(text)
        except (ValueError, RecursionError) as damaged:
            raise FormatError(f"{self._store.catalog.path}: metadata is not JSON: {damaged}") from None
        if not isinstance(found, dict):
            raise FormatError(f"{self._store.catalog.path}: metadata must be a JSON object, got {text!r}")
        return found

    def search_with_gnn(self, query: npt.ArrayLike, gnn: Encoder, k: int = 10) -> SearchResult:
        """Return the k best documents by an encoder of your own.

        The index finds candidates; they and the query, which listens to its nearest documents, are encoded on
        their part of the graph and ranked by the cosine of their codes.

        Parameters
        ----------
        query : array_like of float, shape (dim,)
            What is asked.
        gnn : GNNEmbedder, Module or callable
            `gnn(x, graph)` gives one row of codes per node. A module runs in evaluation, without a tape.
        k : int
            How many documents, at most.

        Raises
        ------
        ShapeError
            If the codes don't have a finite row for each node.
        """
        asked, count = checked_query(query, self.dimensions, self.metric), arguments.positive(k, "k")
        encode = encoder_of(gnn)
        self._check_open()
        self._live.refresh()
        ranking = rank_encoded(self._live, asked, encode, count)
        return self._result(ranking.rows, ranking.scores)

    # --- learning
    def record(
        self,
        query: npt.ArrayLike,
        clicked_ids: Ids,
        shown: SearchResult | Ids | None = None,
        explored: bool | None = None,
        *,
        at: float | None = None,
        session: Id | None = None,
    ) -> None:
        """Log what a query's user clicked, and what was shown, in order; durable when it returns.

        Parameters
        ----------
        query : array_like of float, shape (dim,)
            What was asked.
        clicked_ids : id or iterable of ids
            What was clicked.
        shown : SearchResult or iterable of ids, optional
            What was shown, in order; best given as the `SearchResult` itself.
        explored : bool, optional
            Whether a list of ids had been shuffled. Left out, it is known for the last 1,024 shuffled answers
            of this process.
        at : float, optional
            When, in seconds since the epoch; by default now.
        session : str or int, optional
            Who asked. `learn` lets the impressions of one query within one session weigh as much as one.

        Raises
        ------
        NotFoundError
            For a clicked id that is unknown; a shown document may have been deleted meanwhile.
        ConfigError
            For an `at` or a `session` of another type.
        """
        self.record_all([(query, clicked_ids, shown, explored, at, session)])

    def record_all(self, impressions: Sequence[tuple[Any, ...]]) -> None:
        """Log many impressions in one transaction: all or none.

        Each is a tuple of the arguments of one `record`, in the order `query, clicked_ids, shown, explored,
        at, session`; those at the end may be left out.
        """
        prepared = [
            self._exploration.recalled(
                log.impression(checked_query(query, self.dimensions, self.metric), *rest)
            )
            for query, *rest in impressions
        ]
        with self._writing:
            self._check_open(writing=True)
            self._known([name for impression in prepared for name in impression.clicked], "clicked_ids")
            with self._store.catalog.transaction():
                log.append(self._store.catalog, prepared)

    def log(self, since: float | None = None, until: float | None = None) -> ClickLog:
        """Read the query log back, with row numbers for ids, oldest impression first.

        Deleted documents are dropped: from what was clicked, and from what was shown, where -1 holds their
        places. An impression of which nothing is left is dropped too. A document that was replaced by
        `upsert` counts under its present row. The log itself stays as it is.

        Parameters
        ----------
        since, until : float, optional
            Seconds since the epoch: impressions at `since` or later, and before `until`.

        Returns
        -------
        ClickLog
            Impressions with times and sessions; rows are those of the database's index.

        Raises
        ------
        ConfigError
            For a time that is no number.
        FormatError
            If an impression is damaged or missing.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, VectorDB.open(f"{folder}/a.rvdb", dim=2) as db:
        ...     db.add(["a", "b", "c"], [[1, 0], [0, 1], [1, 1]])
        ...     db.record([1, 0], ["c"], ["b", "c", "a"], at=10.0, session="s1")
        ...     db.delete("b")
        ...     log = db.log(since=5)
        ...     log.shown, log.clicked, log.sessions
        ([array([-1,  2,  0])], [array([2])], ('s1',))
        """
        times = [
            None if time is None else arguments.timestamp(time, name)
            for name, time in (("since", since), ("until", until))
        ]
        self._check_open()
        return log.click_log(self._store.catalog, *times)

    def learn(self, *, seed: int = 0, progress: bool = False) -> LearningReport:
        """Train on the whole log, keep the model with the data, search with it from now on; returns its
        report.

        The learner compares itself with the plain index on held-back queries and stays with the plain order
        unless it is clearly better. Searches go on meanwhile.

        Where impressions say what was shown, grades come from a position-based model of the clicks; where at
        least 40 queries have a click in a shuffled answer, those alone judge. `clicks` in the report
        says which path was taken; see `rg.clicks.judgements`. Raises `ConfigError` if the log has no click
        yet.
        """
        catalog = self._store.catalog
        with self._writing:
            self._check_open(writing=True)
            self._live.follow()
            with self._live.in_use():
                learner = train(self._live.index, catalog, seed=seed, progress=progress)
            self._live.adopt(learner)
        report = learner.report
        assert report is not None, "the learner was fitted"
        return report

    # --- for a GNN of your own
    def get_hnsw_graph(self) -> Graph:
        """The index's neighbour graph at level 0; node i is row i of `get_all_vectors` and `ids()[i]`."""
        self._check_open()
        self._live.refresh()
        return self._live.graph()

    def get_all_vectors(self) -> Vectors:
        """All vectors (n, dim), in the order of `ids()`; mapped from the file where no row in it is dead."""
        self._check_open()
        self._live.refresh()
        with self._live.in_use():
            rows = self._live.index.rows()
        # What another process has deleted and compacted away meanwhile is not there.
        return self._store.reading(lambda settings, committed: committed.take(committed.known(rows)))

    # --- the files
    def stats(self) -> dict[str, Any]:
        """Counts and sizes: documents, dead rows, log, model, bytes."""
        self._check_open()
        return verify.stats(self._store)

    def verify(self) -> None:
        """Read everything and compare checksums; raises `FormatError` naming the first thing that is
        damaged."""
        self._check_open()
        verify.verify(self._store)

    def checkpoint(self) -> None:
        """Save the index, so that the next `open` loads it instead of adding the vectors again.

        All that was written before outlasts power loss when this returns, whatever `synchronous` says.
        """
        with self._writing:
            self._check_open(writing=True)
            self._live.follow()
            self._live.snapshot()

    def compact(self) -> None:
        """Give back the space of deleted and replaced documents, in the files and in memory.

        The catalog is written again without what was deleted. What lives is written to a new vectors file and
        a new snapshot, which one commit names; then the old files are removed. Afterwards no file holds text
        or vectors of what was deleted, unless a reader was at work at that moment. A crash at any instant
        leaves the old files or the new ones. Readers switch over; what they have mapped stays readable. Ids,
        searches, log and model are the same afterwards. While it runs, the living vectors, the index and the
        metadata are on the disk twice.

        Raises `FormatError` if a document is damaged and `OSError` if the disk is full; then nothing has
        changed.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, VectorDB.open(f"{folder}/a.rvdb", dim=2) as db:
        ...     db.add(["a", "b", "c"], [[1, 0], [0, 1], [1, 1]])
        ...     db.delete(["a", "c"])
        ...     before = db.stats()["dead_rows"]
        ...     db.compact()
        ...     before, db.stats()["dead_rows"], db.search([0, 1]).ids
        (2, 0, ['b'])
        """
        with self._writing:
            self._check_open(writing=True)
            self._live.follow()
            self._live.compact()

    def close(self) -> None:
        """Save the index if it has grown, and let go of all files, even if that fails; a second call does
        nothing.

        Nothing is saved if the directory, or a file in it, was removed or replaced.
        """
        with self._writing:
            if self._store.release.alive:
                try:
                    if self._store.writable and self._store.is_in_place():
                        self._live.follow()
                        self._live.snapshot()
                finally:
                    self._store.close()

    def __enter__(self) -> "VectorDB":
        """The database itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A database pickles as its path at the moment, and opens for reading where it is unpickled."""
        place = self._store.place
        path = self.path if not self._store.release.alive else place.current()
        return _reopen, (str(path.resolve()),)

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may hold; the writer's handle only reads from now
        on."""
        self._writing = threading.RLock()
        self._exploration.after_fork_in_child()
        self._forked = True

    def _check_open(self, *, writing: bool = False) -> None:
        if not self._store.release.alive:
            raise ConfigError(f"{self.path}: closed")
        if not writing:
            return
        if not self._store.writable:
            if self._store.lock is not None and self._forked:
                raise ConfigError(
                    f"{self.path}: this handle was opened for writing before a fork, and only reads in the"
                    " child; to write, open the database in the child after the parent has closed it"
                )
            raise ConfigError(f"{self.path}: opened with mode='r'")
        self._store.check_in_place()


def _reopen(path: str) -> VectorDB:
    return VectorDB.open(path, mode="r")
