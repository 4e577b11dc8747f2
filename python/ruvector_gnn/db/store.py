"""The directory of a database: creating it, opening it, and the parts that live in it.

    writer.lock          held by the one writer
    catalog.sqlite       ids, metadata, query log, settings (with -wal and -shm while in use)
    vectors.f32          the vectors, append-only; after a compaction vectors-<number>.f32
    index-<number>.hnsw  a snapshot of the index over the first rows
    model-<number>.gnn   what was learned on the snapshot of that number

Creation makes the vectors file first and the tables in one transaction last, so a directory is a database
exactly when that transaction is there; what an interrupted creation leaves is made again. Files of other
names are the user's, and neither read nor changed.
"""

import json
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ruvector_gnn._core import HNSWIndex
from ruvector_gnn.db.arguments import choice, positive
from ruvector_gnn.db.catalog import LARGEST_DIM, Catalog, Id, document_crc
from ruvector_gnn.db.connection import Changed
from ruvector_gnn.db.disk import flush_names, make_directory
from ruvector_gnn.db.errors import ReplacedError
from ruvector_gnn.db.lock import WriterLock
from ruvector_gnn.db.names import CATALOG, JOURNAL, LOCK, SHM, VECTORS, WAL, is_data
from ruvector_gnn.db.place import Place
from ruvector_gnn.db.vector_file import HEADER, MAGIC, Committed, VectorFile
from ruvector_gnn.errors import ConfigError, FormatError, RuvectorError

METRICS = ("cosine", "l2", "ip")
_OURS = {LOCK, VECTORS, CATALOG, WAL, SHM, JOURNAL}
MOST_TRIES = 1_000  # beside a writer that replaces files all the time; each try finds newer ones
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

    place: Place
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
        self.release = weakref.finalize(self, _release, self.catalog, self.lock)

    @property
    def path(self) -> Path:
        """The directory, as far as its path is known."""
        return self.place.path

    @property
    def writable(self) -> bool:
        """Whether this is the writer; in a forked child it is not."""
        return self.lock is not None and self.lock.held

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
        self.place.close()

    def check_in_place(self) -> None:
        """Raise unless the files that a writer has open are still those of the database.

        `FileNotFoundError` if the directory is gone, `FormatError` if a file in it was removed or replaced.
        """
        folder = self.place.current()
        if self.lock is not None and self.lock.held and not self.lock.is_in_place():
            raise ReplacedError(
                f"{folder / LOCK}: was removed or replaced, so that another writer may have begun; close this"
                " handle and open the database again"
            )

    def is_in_place(self) -> bool:
        """Whether the open files are still those of the database, so that a snapshot can be named in them."""
        try:
            self.check_in_place()
            self.vectors(self.catalog.settings())
        except (FileNotFoundError, ReplacedError):
            return False
        return True

    def file(self, name: str) -> Path:
        """A file of this database; raises `FileNotFoundError` if the directory is gone."""
        return self.place.current() / name

    def existing(self, name: str) -> str:
        """The path of a file that the settings name, which must be a regular file."""
        self.place.regular(name)
        return str(self.file(name))

    def vectors(self, settings: Settings) -> VectorFile:
        """The vectors file that the settings name; `FileNotFoundError` if a compaction has replaced it."""
        name, held = settings["vectors_file"], self._vectors
        if held is None or held.path.name != name:
            held = VectorFile(self.file(name), writable=self.writable, folder=self.place.folder)
            if held.dim != self.dim:
                raise FormatError(f"{held.path}: rows of {held.dim} dimensions, the catalog says {self.dim}")
            self._vectors = held
            return held
        try:
            found = self.place.regular(name)
        except FileNotFoundError:
            if not self.writable:
                return held  # a writer has compacted since; the view is that of before
            raise ReplacedError(f"{held.path}: the vectors file is missing") from None
        if (found.st_dev, found.st_ino) != held.identity:
            raise ReplacedError(
                f"{held.path}: was replaced while it was open; close this handle and open the database again"
            )
        return held

    def with_files(self, task: Callable[[], Answer], *kinds: str) -> Answer:
        """What `task` returns, which reads files of some kinds that a writer may replace meanwhile.

        Raises `FormatError` if a file is missing that the settings named before and name still.
        """
        before: list[Any] | None = None
        for _ in range(MOST_TRIES):
            try:
                return task()
            except Changed:
                continue
            except FileNotFoundError as lost:
                missing = lost
            self.place.current()
            settings = self.catalog.settings()
            named = [settings[kind] for kind in kinds]
            if named == before:
                what = "the vectors file" if kinds == ("vectors_file",) else "a snapshot"
                hint = "" if kinds == ("vectors_file",) else "; open with rebuild=True"
                raise FormatError(f"{missing.filename}: {what} is missing{hint}") from None
            before = named
        raise OSError(f"{self.path}: its files were replaced whenever they were read, {MOST_TRIES} times")

    def reading(self, task: Callable[[Settings, Committed], Answer]) -> Answer:
        """What `task` makes of the settings and the committed rows, in one view of the catalog."""

        def read() -> Answer:
            with self.catalog.transaction("DEFERRED"):
                settings = self.catalog.settings()
                committed = self.vectors(settings).committed(int(settings["rows"]))
                return task(settings, committed)

        return self.with_files(read, "vectors_file")

    @contextmanager
    def aside(self) -> Iterator["Store"]:
        """The database through a connection of its own, so that no other call waits for long reads."""
        catalog = Catalog(self.place, writable=False, interruptible=True)
        options = self.index_options
        other = Store(self.place, catalog, None, self.dim, self.metric, options, sync=self.sync)
        try:
            yield other
        finally:
            other.release()
            if other._vectors is not None:
                other._vectors.close()

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


def _release(catalog: Catalog, lock: WriterLock | None) -> None:
    try:
        catalog.close()
    finally:
        if lock is not None:
            lock.release()


def open_store(path: Path, wishes: Wishes, mode: str, synchronous: str, *, rebuild: bool = False) -> Store:
    """Open or (as the writer) create the database at `path`; `rebuild` forgets the snapshots."""
    mode = choice(mode, "mode", ("rw", "r"))
    synchronous = choice(synchronous, "synchronous", ("normal", "full"))
    if rebuild and mode == "r":
        raise ConfigError("rebuild: needs mode 'rw'")
    wishes = _checked(wishes)
    path = Path(os.path.abspath(path))
    _check_place(path, wishes, mode)
    if mode == "rw":
        make_directory(path)
    place = Place(path)
    lock = None
    try:
        if mode == "rw":
            lock = WriterLock(place)
        store = _open_files(place, wishes, lock, synchronous)
    except BaseException:
        if lock is not None:
            lock.release()
        place.close()
        raise
    if rebuild:
        with store.catalog.transaction():
            store.catalog.set(index_file=None, model_file=None)
    return store


def _checked(wishes: Wishes) -> Wishes:
    """The same in plain types, as they are stored; raises `ConfigError` for what no database can have."""
    dim = None if wishes.dim is None else positive(wishes.dim, "dim")
    if dim is not None and dim > LARGEST_DIM:
        raise ConfigError(f"dim: got {dim}, expected at most {LARGEST_DIM}")
    metric = None if wishes.metric is None else choice(wishes.metric, "metric", METRICS)
    try:
        options = json.loads(json.dumps(wishes.index_options))
        index_metric: Any = metric or "cosine"
        HNSWIndex(dim or 1, metric=index_metric, **options)
    except TypeError as unusable:
        raise ConfigError(f"index_options: {unusable}") from None
    return Wishes(dim, metric, options)


def _check_place(path: Path, wishes: Wishes, mode: str) -> None:
    """Raise if there is neither a catalog to open nor room for a new one."""
    if (path / CATALOG).is_symlink():
        raise FormatError(f"{path / CATALOG}: a symbolic link, expected a regular file")
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


def _open_files(place: Place, wishes: Wishes, lock: WriterLock | None, synchronous: str) -> Store:
    if lock is None and place.has(JOURNAL):
        # SQLite keeps one until the tables are there, and only a writer can undo it.
        raise FormatError(f"{place.path}: {_CUT_SHORT}")
    writable = lock is not None
    catalog = Catalog(place, writable=writable, synchronous=synchronous, create=writable)
    try:
        if catalog.is_new():
            _create(place, catalog, wishes, writable=writable)
        catalog.check()
        settings = catalog.settings()
        options = _index_options(catalog, settings)
        _check_agreement(place.path, wishes, settings)
        dim, metric = int(settings["dim"]), str(settings["metric"])
        store = Store(place, catalog, lock, dim, metric, options, sync=synchronous == "full")
        store.reading(lambda settings, committed: None)
        if writable:
            catalog.migrate()
    except BaseException:
        catalog.close()
        raise
    return store


def _index_options(catalog: Catalog, settings: Settings) -> dict[str, Any]:
    """The options of the index; raises `FormatError` unless an index can be made with them."""
    try:
        options = json.loads(settings["index_options"])
        HNSWIndex(int(settings["dim"]), metric=settings["metric"], **options)
    except (RuvectorError, TypeError, ValueError, OverflowError) as unusable:
        raise FormatError(
            f"{catalog.path}: settings 'metric' and 'index_options' make no index: {unusable}"
        ) from None
    return dict(options)


def _create(place: Place, catalog: Catalog, wishes: Wishes, *, writable: bool) -> None:
    path = place.current()
    data = [entry.name for entry in os.scandir(path) if is_data(entry.name)]
    if any(name != VECTORS or not _is_torn_header(place, name) for name in data):
        raise FormatError(f"{path}: the catalog is empty, but there are vectors; nothing is overwritten")
    if not writable:
        raise FormatError(f"{path}: {_CUT_SHORT}")
    if wishes.dim is None:
        raise ConfigError(f"{path}: no database there; give dim to create one")
    place.remove(VECTORS)
    VectorFile.create(path / VECTORS, wishes.dim, folder=place.folder)
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


def _is_torn_header(place: Place, name: str) -> bool:
    """Whether a creation that was cut short may have left this vectors file."""
    if place.regular(name).st_size > HEADER:
        return False
    with open(place.current() / name, "rb") as file:
        begun = file.read(len(MAGIC))
    return MAGIC.startswith(begun)


def _check_agreement(path: Path, wishes: Wishes, settings: dict[str, Any]) -> None:
    """Raise `ConfigError` for a wish that contradicts what the database was created with."""
    stored = json.loads(settings["index_options"])
    held = HNSWIndex(int(settings["dim"]), metric=settings["metric"], **stored)
    asked = {"dim": wishes.dim, "metric": wishes.metric, **wishes.index_options}
    for name, wish in asked.items():
        if wish is not None and wish != getattr(held, name):
            raise ConfigError(f"{name}: got {wish!r}, but {path} was created with {getattr(held, name)!r}")
