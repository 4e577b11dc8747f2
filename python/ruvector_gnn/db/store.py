"""The directory of a database: creating it, opening it, and the parts that live in it.

    writer.lock          held by the one writer
    catalog.sqlite       ids, metadata, query log, settings (with -wal and -shm while in use)
    vectors.f32          the vectors, append-only; after a compaction vectors-<number>.f32
    index-<number>.hnsw  a snapshot of the index over the first rows
    model-<number>.gnn   what was learned on the snapshot of that number

Creation makes the vectors file first and the tables in one transaction last, so a directory is a database
exactly when that transaction is there; what an interrupted creation leaves is made again.
"""

import json
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ruvector_gnn._core import HNSWIndex
from ruvector_gnn.db.arguments import positive
from ruvector_gnn.db.catalog import Catalog, Id, document_crc
from ruvector_gnn.db.disk import flush_names, make_directory
from ruvector_gnn.db.lock import WriterLock
from ruvector_gnn.db.vector_file import Committed, VectorFile
from ruvector_gnn.errors import ConfigError, FormatError

CATALOG, VECTORS, LOCK = "catalog.sqlite", "vectors.f32", "writer.lock"
JOURNAL = f"{CATALOG}-journal"
METRICS = ("cosine", "l2", "ip")
_OURS = {LOCK, VECTORS, CATALOG, f"{CATALOG}-wal", f"{CATALOG}-shm", JOURNAL}
RETRIES = 10
_CUT_SHORT = "its creation was cut short; open it once for writing"


Settings = dict[str, Any]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Wishes:
    """What the caller of `open` asked for; None takes what the database has, or the default for a new one."""

    dim: int | None = None
    metric: str | None = None
    index_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Store:
    """The open files of a database and its fixed settings."""

    path: Path
    catalog: Catalog
    lock: WriterLock | None
    dim: int
    metric: str
    index_options: dict[str, Any]
    sync: bool
    _vectors: VectorFile | None = None

    def __post_init__(self) -> None:
        """Arrange that the files are closed with the last reference, at the latest when the interpreter
        ends."""
        self.release = weakref.finalize(self, _release, os.getpid(), self.catalog, self.lock)

    @property
    def writable(self) -> bool:
        """Whether this is the writer."""
        return self.lock is not None

    @property
    def largest(self) -> float:
        """The largest value that the index takes; under cosine it stores vectors of length 1."""
        half = self.index_options.get("storage") == "f16" and self.metric != "cosine"
        return 65504.0 if half else float("inf")

    def close(self) -> None:
        """Let go of all files; more than once does nothing."""
        self.release()
        if self._vectors is not None:
            self._vectors.close()

    def file(self, name: str) -> Path:
        """A file of this database."""
        return self.path / name

    def vectors(self, settings: Settings) -> VectorFile:
        """The vectors file that the settings name; `FileNotFoundError` if a compaction has replaced it."""
        path, held = self.file(settings["vectors_file"]), self._vectors
        if held is None or held.path != path:
            held = VectorFile(path, writable=self.writable)
            if held.dim != self.dim:
                raise FormatError(f"{path}: rows of {held.dim} dimensions, the catalog says {self.dim}")
            self._vectors = held
        return held

    def reading(self, task: Callable[[Settings, Committed], Answer]) -> Answer:
        """What `task` makes of the settings and the committed rows, in one view of the catalog."""
        for _ in range(RETRIES):
            with self.catalog.transaction("DEFERRED"):
                settings = self.catalog.settings()
                try:
                    committed = self.vectors(settings).committed(int(settings["rows"]))
                except FileNotFoundError as lost:
                    missing = lost
                    continue  # a writer has compacted since
                return task(settings, committed)
        raise FormatError(f"{missing.filename}: the vectors file is missing") from None

    def check_documents(self, committed: Committed, start: int, stop: int) -> list[int]:
        """The live rows from `start` up to `stop`, rising.

        Raises `FormatError` if id, metadata or vector of one of them is damaged.
        """
        documents = self.catalog.execute(
            "SELECT row, id, metadata, crc FROM documents WHERE row >= ? AND row < ? ORDER BY row",
            (start, stop),
        )
        rows = [row for row, *_ in documents]
        if rows != sorted(set(rows)):
            raise FormatError(f"{self.catalog.path}: documents are out of order, or come twice")
        places = committed.places(rows).tolist()
        for place, (row, identity, metadata, crc) in zip(places, documents, strict=True):
            self._check_document(row, identity, metadata, crc, committed, place)
        return rows

    def metadata(self, names: Sequence[Id], rows: Sequence[int], committed: Committed) -> list[str | None]:
        """The metadata of documents whose rows are known; raises `FormatError` as `check_documents` does."""
        found = self.catalog.documents(rows)
        texts = []
        for name, row, place in zip(names, rows, committed.places(rows).tolist(), strict=True):
            _, metadata, crc = found.get(row, (None, None, None))
            self._check_document(row, name, metadata, crc, committed, place)
            texts.append(metadata)
        return texts

    def _check_document(
        self, row: int, identity: Id, metadata: str | None, crc: int | None, committed: Committed, place: int
    ) -> None:
        # SQLite keeps a type with every value, and a flipped bit may change it.
        typed = isinstance(identity, int | str) and isinstance(metadata, str | None) and place >= 0
        if not typed or document_crc(identity, metadata, committed.vectors[place].tobytes()) != crc:
            raise FormatError(f"{self.path}: document {identity!r} (row {row}) is damaged")


def _release(owner: int, catalog: Catalog, lock: WriterLock | None) -> None:
    # SQLite forbids closing in a forked child what the parent opened.
    if os.getpid() == owner:
        catalog.close()
        if lock is not None:
            lock.release()


def open_store(path: Path, wishes: Wishes, mode: str, synchronous: str, *, rebuild: bool = False) -> Store:
    """Open or (as the writer) create the database at `path`; `rebuild` forgets the snapshots."""
    if mode not in ("rw", "r"):
        raise ConfigError(f"mode: got {mode!r}, expected 'rw' or 'r'")
    if synchronous not in ("normal", "full"):
        raise ConfigError(f"synchronous: got {synchronous!r}, expected 'normal' or 'full'")
    if rebuild and mode == "r":
        raise ConfigError("rebuild: needs mode 'rw'")
    _check_wishes(wishes)
    _check_place(path, wishes, mode)
    lock = None
    if mode == "rw":
        make_directory(path)
        lock = WriterLock(path / LOCK)
    try:
        store = _open_files(path, wishes, lock, synchronous)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    if rebuild:
        with store.catalog.transaction():
            store.catalog.set(index_file=None, model_file=None)
    return store


def _check_wishes(wishes: Wishes) -> None:
    if wishes.dim is not None:
        positive(wishes.dim, "dim")
    if wishes.metric is not None and wishes.metric not in METRICS:
        raise ConfigError(f"metric: got {wishes.metric!r}, expected one of {', '.join(METRICS)}")
    try:
        json.dumps(wishes.index_options)
        HNSWIndex(wishes.dim or 1, **wishes.index_options)
    except TypeError as unusable:
        raise ConfigError(f"index_options: {unusable}") from None


def _check_place(path: Path, wishes: Wishes, mode: str) -> None:
    """Raise if there is neither a catalog to open nor room for a new one."""
    if (path / CATALOG).is_file():
        return
    if path.exists():
        if not path.is_dir():
            raise FormatError(f"{path}: a file, not a database directory")
        strangers = sorted({entry.name for entry in path.iterdir()} - _OURS)
        if strangers:
            raise FormatError(f"{path}: not a database: it holds {strangers[0]!r} but no {CATALOG}")
    if mode == "r":
        raise FileNotFoundError(f"{path}: no database there")
    if wishes.dim is None:
        raise ConfigError(f"{path}: no database there; give dim to create one")


def _open_files(path: Path, wishes: Wishes, lock: WriterLock | None, synchronous: str) -> Store:
    if lock is None and (path / JOURNAL).exists():
        # SQLite keeps one until the tables are there, and only a writer can undo it.
        raise FormatError(f"{path}: {_CUT_SHORT}")
    catalog = Catalog(path / CATALOG, writable=lock is not None, synchronous=synchronous)
    try:
        if catalog.is_new():
            _create(path, catalog, wishes, writable=lock is not None)
        catalog.check()
        settings = catalog.settings()
        _check_agreement(path, wishes, settings)
        dim, metric = int(settings["dim"]), str(settings["metric"])
        options = json.loads(settings["index_options"])
        store = Store(path, catalog, lock, dim, metric, options, sync=synchronous == "full")
        store.reading(lambda settings, committed: None)
    except BaseException:
        catalog.close()
        raise
    return store


def _create(path: Path, catalog: Catalog, wishes: Wishes, *, writable: bool) -> None:
    if VectorFile.holds_rows(path / VECTORS) or any(path.glob("index-*")) or any(path.glob("vectors-*")):
        raise FormatError(f"{path}: the catalog is empty, but there are vectors; nothing is overwritten")
    if not writable:
        raise FormatError(f"{path}: {_CUT_SHORT}")
    if wishes.dim is None:
        raise ConfigError(f"{path}: no database there; give dim to create one")
    VectorFile.create(path / VECTORS, wishes.dim)
    catalog.create(
        {
            "dim": wishes.dim,
            "metric": wishes.metric or "cosine",
            "index_options": json.dumps(wishes.index_options),
            "rows": 0,
            "dead": 0,
            "vectors_file": VECTORS,
            "index_file": None,
            "model_file": None,
            "file_number": 0,
        }
    )
    flush_names(path)


def _check_agreement(path: Path, wishes: Wishes, settings: dict[str, Any]) -> None:
    asked = {"dim": wishes.dim, "metric": wishes.metric}
    for name, wish in asked.items():
        if wish is not None and wish != settings[name]:
            raise ConfigError(f"{name}: got {wish!r}, but {path} was created with {settings[name]!r}")
    stored = json.loads(settings["index_options"])
    if wishes.index_options and wishes.index_options != stored:
        raise ConfigError(f"index_options: got {wishes.index_options}, but {path} was created with {stored}")
