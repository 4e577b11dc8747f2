"""The SQLite side of a database: what counts, under which id, with which metadata; and the query log.

A vector counts once the row of `documents` that names it is committed. Rows are numbered in the order of the
vectors file and never reused: an upsert takes a new row, and the old one is dead. `settings` holds what has
one value: the shape of the database, how many rows were ever committed, how many of them are dead, and the
names of the vectors file and of the snapshots of index and model. `dead` lists, in order, the rows that have
died since the last compaction, so that an index takes in what it has not seen yet. Rows of all other tables
carry a checksum.
"""

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruvector_gnn.db.errors import catalog_errors
from ruvector_gnn.db.where import Condition
from ruvector_gnn.errors import FormatError

Id = int | str

APPLICATION_ID = 0x52564442  # "RVDB"
SCHEMA_VERSION = 3
_SCHEMA = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value, crc INTEGER NOT NULL) WITHOUT ROWID",
    # `id` has no type so that 1 and '1' stay two ids.
    "CREATE TABLE documents (row INTEGER PRIMARY KEY, id UNIQUE NOT NULL, metadata TEXT,"
    " crc INTEGER NOT NULL)",
    "CREATE TABLE dead (number INTEGER PRIMARY KEY, row INTEGER NOT NULL)",
    "CREATE TABLE impressions (number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,"
    " query BLOB NOT NULL, clicked TEXT NOT NULL, shown TEXT, explored INTEGER NOT NULL,"
    " crc INTEGER NOT NULL)",
)
SETTINGS = frozenset(
    (
        *("dim", "metric", "index_options", "rows", "dead"),
        *("vectors_file", "index_file", "model_file", "file_number"),
    )
)
_CHUNK = 500  # SQLite before 3.32 takes 999 parameters


def checksum(*parts: bytes | str | None) -> int:
    """CRC-32 over the parts, each preceded by its length, so that no two rows share their bytes."""
    crc = 0
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        crc = zlib.crc32(b"-" if data is None else b"%d:" % len(data) + data, crc)
    return crc


def document_crc(identity: Id, metadata: str | None, vector: bytes) -> int:
    """What the row of a document must carry: it covers id, metadata and vector."""
    name = json.dumps(identity) if isinstance(identity, str) else str(identity)
    return checksum(name, metadata, vector)


class Catalog:
    """One connection, shared by the threads of a process under a lock."""

    def __init__(self, path: Path, *, writable: bool, synchronous: str = "normal") -> None:
        """Connect; nothing is checked until `is_new` or `check`."""
        self.path = path
        self._synchronous = synchronous
        self._lock = threading.RLock()
        mode = "rwc" if writable else "ro"
        uri = f"{path.resolve().as_uri()}?mode={mode}"
        with catalog_errors(path):
            # Transactions are begun and ended by hand.
            self._connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30
            )
            try:
                self._connection.execute(f"PRAGMA synchronous = {synchronous}")
                self._connection.execute("PRAGMA fullfsync = 1")  # only macOS knows a difference
                self._connection.execute("SELECT 1 FROM sqlite_master").fetchall()
            except BaseException:
                self._connection.close()
                raise

    def is_new(self) -> bool:
        """Whether nothing was ever committed here: a creation that was cut short leaves that."""
        tables, version = self.one("SELECT count(*) FROM sqlite_master"), self.one("PRAGMA user_version")
        return (tables, version) == (0, 0)

    def create(self, settings: dict[str, object]) -> None:
        """Lay the tables and the settings down in one transaction."""
        self.execute("PRAGMA journal_mode = WAL")
        with self.lasting():
            for statement in _SCHEMA:
                self.execute(statement)
            self.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self.set(**settings)

    def check(self) -> None:
        """Raise `FormatError` unless this is a catalog of this version, with its tables."""
        if self.one("PRAGMA application_id") != APPLICATION_ID:
            raise FormatError(f"{self.path}: an SQLite file, but not a catalog of this package")
        version = self.one("PRAGMA user_version")
        if version != SCHEMA_VERSION:
            raise FormatError(f"{self.path}: schema version {version}, this package reads {SCHEMA_VERSION}")
        tables = self.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'sqlite_%'")
        if len(tables) != len(_SCHEMA) or {sql for (sql,) in tables} != set(_SCHEMA):
            raise FormatError(f"{self.path}: the tables are not those of schema version {SCHEMA_VERSION}")
        # In another mode SQLite would not look at what the write-ahead log holds.
        if self.one("PRAGMA journal_mode") != "wal":
            raise FormatError(f"{self.path}: not in write-ahead mode, in which it was made")

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """All or nothing; `kind="DEFERRED"` gives several reads one view."""
        with self._lock, catalog_errors(self.path):
            self._connection.execute(f"BEGIN {kind}")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement and return its rows."""
        with self._lock, catalog_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of parameters."""
        with self._lock, catalog_errors(self.path):
            self._connection.executemany(sql, rows)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The single value that a query returns, or None without a row."""
        rows = self.execute(sql, parameters)
        return rows[0][0] if rows else None

    def settings(self) -> dict[str, Any]:
        """All settings; raises `FormatError` if one is damaged or missing."""
        rows = self.execute("SELECT name, value, crc FROM settings")
        for name, value, crc in rows:
            typed = isinstance(name, str) and isinstance(value, int | str | None)
            if not typed or _setting_crc(name, value) != crc:
                raise FormatError(f"{self.path}: setting {name!r} is damaged: its checksum does not match")
        found = {name: value for name, value, _ in rows}
        if found.keys() != SETTINGS:
            strange = sorted(found.keys() ^ SETTINGS)
            raise FormatError(f"{self.path}: settings {strange} are missing or unknown")
        return found

    def set(self, **settings: object) -> None:
        """Write some settings, within the caller's transaction if there is one."""
        self.execute_many(
            "INSERT OR REPLACE INTO settings VALUES (?, ?, ?)",
            ((name, value, _setting_crc(name, value)) for name, value in settings.items()),
        )

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """A transaction that outlasts power loss too, whatever `synchronous` says."""
        with self._lock:
            self.execute("PRAGMA synchronous = full")
            try:
                with self.transaction():
                    yield
            finally:
                self.execute(f"PRAGMA synchronous = {self._synchronous}")

    @property
    def has_written(self) -> bool:
        """Whether this connection has changed anything."""
        with self._lock, catalog_errors(self.path):
            return self._connection.total_changes > 0

    def data_version(self) -> int:
        """A number that changes when another connection has committed."""
        return int(self.one("PRAGMA data_version"))

    def rows_of(self, ids: Sequence[Id]) -> dict[Id, int]:
        """The live row of each id that is known."""
        return {
            identity: row
            for chunk in _chunks(ids)
            for identity, row in self.execute(
                f"SELECT id, row FROM documents WHERE id IN ({_marks(chunk)})", chunk
            )
        }

    def documents(self, rows: Sequence[int]) -> dict[int, tuple[Id, str | None, int]]:
        """Id, metadata and checksum of each of `rows` that lives."""
        return {
            row: (identity, metadata, crc)
            for chunk in _chunks(rows)
            for row, identity, metadata, crc in self.execute(
                f"SELECT row, id, metadata, crc FROM documents WHERE row IN ({_marks(chunk)})", chunk
            )
        }

    def forget(self, rows: Sequence[int]) -> None:
        """Drop the documents of some rows, which are dead from now on, within the caller's transaction."""
        if not rows:
            return
        dead = int(self.settings()["dead"])
        self.execute_many("DELETE FROM documents WHERE row = ?", ((row,) for row in rows))
        self.execute_many("INSERT INTO dead VALUES (?, ?)", enumerate(rows, start=dead))
        self.set(dead=dead + len(rows))

    def dead(self, first: int = 0) -> list[tuple[int, int]]:
        """Number and row of each that died since the last compaction, from a number on, in order."""
        listed = self.execute("SELECT number, row FROM dead WHERE number >= ? ORDER BY number", (first,))
        for number, row in listed:
            if not isinstance(row, int):
                raise FormatError(f"{self.path}: dead row {number} is damaged: it is {row!r}")
        return listed

    def forget_dead(self) -> None:
        """Empty the list of the dead, whom index and vectors file don't hold any more."""
        self.execute("DELETE FROM dead")

    def rows(self) -> list[int]:
        """All live rows, rising."""
        return [row for (row,) in self.execute("SELECT row FROM documents ORDER BY row")]

    def matching(self, condition: Condition) -> list[int]:
        """The live rows, rising, for which a condition holds."""
        sql = f"SELECT row FROM documents WHERE {condition.sql} ORDER BY row"
        return [row for (row,) in self.execute(sql, condition.parameters)]

    def close(self) -> None:
        """Close the connection; the last one folds the write-ahead log in."""
        with self._lock:
            self._connection.close()


def _setting_crc(name: str, value: object) -> int:
    # Read before each write: one text is a third of the time of `checksum`.
    return zlib.crc32(f"{name}={value!r}".encode())


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
