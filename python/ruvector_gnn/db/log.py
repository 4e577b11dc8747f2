"""The query log: who asked what, what was shown in which order, and what was clicked."""

import json
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ruvector_gnn.clicks import ClickLog
from ruvector_gnn.db import arguments
from ruvector_gnn.db.arguments import Ids
from ruvector_gnn.db.catalog import Catalog, Id, checksum
from ruvector_gnn.db.results import SearchResult
from ruvector_gnn.db.vectors import Vectors
from ruvector_gnn.errors import ConfigError, FormatError


@dataclass(frozen=True)
class Impression:
    """One answered query; `explored` says that the shown order had been shuffled, None that it isn't known.

    `at` is its time in seconds since the epoch, or None for the time when it is written; `session` says who
    asked.
    """

    query: Vectors
    clicked: list[Id]
    shown: list[Id] | None = None
    explored: bool | None = False
    at: float | None = None
    session: Id | None = None


def impression(
    query: Vectors,
    clicked_ids: Ids,
    shown: SearchResult | Ids | None = None,
    explored: bool | None = None,
    at: float | None = None,
    session: Id | None = None,
) -> Impression:
    """Return what `VectorDB.record` was given, checked; `query` has been."""
    clicked = list(dict.fromkeys(arguments.id_list(clicked_ids)))
    listed = shown.ids if isinstance(shown, SearchResult) else shown
    order = None if listed is None else arguments.distinct(listed, "shown")
    if not clicked and not order:
        raise ConfigError("record: neither a clicked nor a shown document")
    if explored is None and isinstance(shown, SearchResult):
        explored = shown.explored
    time_given = None if at is None else arguments.timestamp(at, "at")
    return Impression(query, clicked, order, explored, time_given, arguments.session(session, "session"))


def append(catalog: Catalog, impressions: Iterable[Impression]) -> None:
    """Add impressions to the log, within the caller's transaction."""
    now = time.time()
    catalog.execute_many(
        "INSERT INTO impressions (at, query, clicked, shown, explored, session, crc)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (_encoded(impression, now) for impression in impressions),
    )


_Fields = tuple[float, bytes, str, str | None, int, Id | None]
_TYPES = (float, bytes, str, str | None, int, Id | None)


def _encoded(impression: Impression, now: float) -> tuple[float | bytes | str | int | None, ...]:
    fields = (
        now if impression.at is None else impression.at,
        impression.query.tobytes(),
        json.dumps(impression.clicked),
        None if impression.shown is None else json.dumps(impression.shown),
        int(bool(impression.explored)),
        impression.session,
    )
    return *fields, _crc(*fields)


def _crc(
    at: float, query: bytes, clicked: str, shown: str | None, explored: int, session: Id | None = None
) -> int:
    """Return the checksum of one row; without a session it is that of a catalog of version 3."""
    named = () if session is None else (json.dumps(session),)
    return checksum(struct.pack("<d", at), query, clicked, shown, str(explored), *named)


def read(catalog: Catalog) -> list[Impression]:
    """The whole log, oldest first; raises `FormatError` if an impression is damaged or missing."""
    # A catalog that a reader opens may be of version 3, and a writer may change that at any moment.
    rows = [_in_order(row) for row in catalog.execute("SELECT * FROM impressions ORDER BY number")]
    for number, fields, crc in rows:
        typed = all(isinstance(field, kind) for field, kind in zip(fields, _TYPES, strict=True))
        if not typed or _crc(*fields) != crc:
            raise FormatError(f"{catalog.path}: impression {number} is damaged")
    # They are numbered from 1, and SQLite keeps the last number that it gave.
    last = catalog.one("SELECT seq FROM sqlite_sequence WHERE name = 'impressions'") or 0
    if len(rows) != last or any(row[0] != number for number, row in enumerate(rows, start=1)):
        raise FormatError(f"{catalog.path}: {len(rows)} impressions, but {last} were recorded")
    dim = int(catalog.settings()["dim"])
    return [_decoded(catalog, dim, number, *fields) for number, fields, _ in rows]


def _in_order(row: tuple[Any, ...]) -> tuple[int, _Fields, int]:
    """Return number, fields and checksum of a row, whose last column version 3 lacks."""
    number, at, query, clicked, shown, explored, crc, *session = row
    return number, (at, query, clicked, shown, explored, session[0] if session else None), crc


def _decoded(
    catalog: Catalog,
    dim: int,
    number: int,
    at: float,
    query: bytes,
    clicked: str,
    shown: str | None,
    explored: int,
    session: Id | None,
) -> Impression:
    """One row of the log; raises `FormatError` for what `append` never writes: checksums can be made by
    hand."""
    try:
        vector: Vectors = np.frombuffer(query, dtype="<f4")
        ids = [_ids(text) for text in (clicked, "[]" if shown is None else shown)]
    except (ValueError, RecursionError) as unusable:
        raise FormatError(f"{catalog.path}: impression {number} is damaged: {unusable}") from None
    if vector.shape != (dim,) or not np.isfinite(vector).all():
        raise FormatError(f"{catalog.path}: impression {number} is damaged: its query is no vector")
    if not np.isfinite(at):
        raise FormatError(f"{catalog.path}: impression {number} is damaged: its time is {at}")
    return Impression(vector, ids[0], None if shown is None else ids[1], bool(explored), at, session)


def _ids(text: str) -> list[Id]:
    found = json.loads(text)
    if not isinstance(found, list) or any(type(identity) not in (int, str) for identity in found):
        raise ValueError("it holds no list of ids")
    return found


def count(catalog: Catalog) -> tuple[int, int]:
    """How many impressions there are, and how many of them were explored."""
    total, explored = catalog.execute("SELECT count(*), coalesce(sum(explored), 0) FROM impressions")[0]
    return int(total), int(explored)


def click_log(catalog: Catalog, since: float | None = None, until: float | None = None) -> ClickLog:
    """Return what the log says of documents that still exist; see `VectorDB.log`."""
    row_of = dict(catalog.execute("SELECT id, row FROM documents"))
    dim = int(catalog.settings()["dim"])
    kept = [
        (impression, *_rows(impression, row_of))
        for impression in read(catalog)
        if impression.at is not None
        and (since is None or impression.at >= since)
        and (until is None or impression.at < until)
    ]
    # An impression of which nothing is left says nothing.
    kept = [entry for entry in kept if entry[2] or any(row >= 0 for row in entry[1] or ())]
    return ClickLog(
        np.stack([impression.query for impression, *_ in kept]) if kept else np.empty((0, dim)),
        [None if shown is None else np.array(shown, dtype=np.int64) for _, shown, _ in kept],
        [np.array(clicked, dtype=np.int64) for *_, clicked in kept],
        times=np.array([impression.at for impression, *_ in kept], dtype=np.float64),
        sessions=[impression.session for impression, *_ in kept],
        explored=np.array([bool(impression.explored) for impression, *_ in kept], dtype=np.bool_),
    )


def _rows(impression: Impression, row_of: dict[Id, int]) -> tuple[list[int] | None, list[int]]:
    """Rows shown, with -1 for documents that are gone, and rows clicked, without them."""
    shown = None if impression.shown is None else [row_of.get(name, -1) for name in impression.shown]
    return shown, [row_of[name] for name in impression.clicked if name in row_of]
