"""The SQLite side of a database: what counts, under which id, with which metadata; and the query log.

A vector counts once the row of `documents` that names it is committed. Rows are numbered in the order of the
vectors file and never reused: an upsert takes a new row, and the old one is dead. `settings` holds what has
one value: the shape of the database, how many rows were ever committed, how many of them are dead, and the
names of the vectors file and of the snapshots of index and model. `dead` lists, in order, the rows that have
died since the last compaction, so that an index takes in what it has not seen yet. Rows of all other tables
carry a checksum.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from ruvector_gnn.db.connection import Connection
from ruvector_gnn.db.names import CATALOG, LARGEST_FILE_NUMBER, PATTERNS
from ruvector_gnn.db.place import Place
from ruvector_gnn.db.where import Condition
from ruvector_gnn.errors import FormatError

Id = int | str

APPLICATION_ID = 0x52564442  # "RVDB"
SCHEMA_VERSION = 4
_SCHEMA = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value, crc INTEGER NOT NULL) WITHOUT ROWID",
    # `id` has no type so that 1 and '1' stay two ids.
    "CREATE TABLE documents (row INTEGER PRIMARY KEY, id UNIQUE NOT NULL, metadata TEXT,"
    " crc INTEGER NOT NULL)",
    "CREATE TABLE dead (number INTEGER PRIMARY KEY, row INTEGER NOT NULL)",
    "CREATE TABLE impressions (number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,"
    " query BLOB NOT NULL, clicked TEXT NOT NULL, shown TEXT, explored INTEGER NOT NULL,"
    " crc INTEGER NOT NULL, session)",
)
# Version 3 had no sessions. `ALTER TABLE` gives the table the text above, and an impression without a session
# keeps the checksum of version 3, so no row has to be written again.
_READABLE_VERSION = 3
_MIGRATION = "ALTER TABLE impressions ADD COLUMN session"
_SCHEMAS = {
    _READABLE_VERSION: {sql.replace(", session)", ")") for sql in _SCHEMA},
    SCHEMA_VERSION: set(_SCHEMA),
}
SETTINGS = frozenset(
    (
        *("dim", "metric", "index_options", "rows", "dead"),
        *("vectors_file", "index_file", "model_file", "file_number"),
    )
)
LARGEST_DIM = 1 << 20  # as `HNSWIndex`
MOST_ROWS = (1 << 32) - 1
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


class Catalog(Connection):
    """The tables of a database."""

    def __init__(
        self,
        place: Place,
        *,
        writable: bool,
        synchronous: str = "normal",
        create: bool = False,
        interruptible: bool = False,
    ) -> None:
        """Connect; nothing is checked until `is_new` or `check`."""
        super().__init__(
            *(place, CATALOG),
            writable=writable,
            synchronous=synchronous,
            create=create,
            interruptible=interruptible,
        )

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
        """Raise `FormatError` unless this is a catalog of a version that can be read, with its tables."""
        if self.one("PRAGMA application_id") != APPLICATION_ID:
            raise FormatError(f"{self.path}: an SQLite file, but not a catalog of this package")
        version = self.one("PRAGMA user_version")
        if version not in _SCHEMAS:
            raise FormatError(
                f"{self.path}: schema version {version}, this package reads {_READABLE_VERSION} and"
                f" {SCHEMA_VERSION}"
            )
        tables = self.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'sqlite_%'")
        if len(tables) != len(_SCHEMA) or {sql for (sql,) in tables} != _SCHEMAS[version]:
            raise FormatError(f"{self.path}: the tables are not those of schema version {version}")
        # In another mode SQLite would not look at what the write-ahead log holds.
        if not self.without_locks and self.one("PRAGMA journal_mode") != "wal":
            raise FormatError(f"{self.path}: not in write-ahead mode, in which it was made")

    def migrate(self) -> None:
        """Bring a catalog that was checked to this version, in one transaction that outlasts power loss."""
        if self.one("PRAGMA user_version") == SCHEMA_VERSION:
            return
        with self.lasting():
            self.execute(_MIGRATION)
            self.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

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
        self._check_values(found)
        return found

    def _check_values(self, settings: dict[str, Any]) -> None:
        """Raise `FormatError` for a value that this package never writes; checksums can be made by hand."""
        limits = {
            "dim": (1, LARGEST_DIM),
            "rows": (0, MOST_ROWS),
            "dead": (0, settings["rows"]),
            "file_number": (0, LARGEST_FILE_NUMBER),
        }
        for name, (least, most) in limits.items():
            value = settings[name]
            if not isinstance(value, int) or not least <= value <= most:
                raise FormatError(
                    f"{self.path}: setting {name!r} must be from {least} to {most}, got {value!r}"
                )
        for name, pattern in PATTERNS.items():
            value = settings[name]
            if value is None and name != "vectors_file":
                continue
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise FormatError(f"{self.path}: setting {name!r} is no file name of its kind, got {value!r}")
        for name in ("metric", "index_options"):
            if not isinstance(settings[name], str):
                raise FormatError(f"{self.path}: setting {name!r} must be text, got {settings[name]!r}")

    def set(self, **settings: object) -> None:
        """Write some settings, within the caller's transaction if there is one."""
        self.execute_many(
            "INSERT OR REPLACE INTO settings VALUES (?, ?, ?)",
            ((name, value, _setting_crc(name, value)) for name, value in settings.items()),
        )

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


def _setting_crc(name: str, value: object) -> int:
    # Read before each write: one text is a third of the time of `checksum`.
    return zlib.crc32(f"{name}={value!r}".encode())


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
