"""The query log: who asked what, what was shown in which order, and what was clicked."""

import json
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ruvector_gnn.db import arguments
from ruvector_gnn.db.arguments import Ids
from ruvector_gnn.db.catalog import Catalog, Id, checksum
from ruvector_gnn.db.results import SearchResult
from ruvector_gnn.db.vectors import Vectors
from ruvector_gnn.errors import ConfigError, FormatError


@dataclass(frozen=True)
class Impression:
    """One answered query; `explored` says that the shown order had been shuffled, None that it isn't known.

    `at` is its time in seconds since the epoch, or None for the time when it is written.
    """

    query: Vectors
    clicked: list[Id]
    shown: list[Id] | None = None
    explored: bool | None = False
    at: float | None = None


def impression(
    query: Vectors,
    clicked_ids: Ids,
    shown: SearchResult | Ids | None = None,
    explored: bool | None = None,
    at: float | None = None,
) -> Impression:
    """Return what `VectorDB.record` was given, checked; `query` has been."""
    clicked = list(dict.fromkeys(arguments.id_list(clicked_ids)))
    listed = shown.ids if isinstance(shown, SearchResult) else shown
    order = None if listed is None else arguments.distinct(listed, "shown")
    if not clicked and not order:
        raise ConfigError("record: neither a clicked nor a shown document")
    if explored is None and isinstance(shown, SearchResult):
        explored = shown.explored
    return Impression(query, clicked, order, explored, None if at is None else arguments.timestamp(at, "at"))


def append(catalog: Catalog, impressions: Iterable[Impression]) -> None:
    """Add impressions to the log, within the caller's transaction."""
    now = time.time()
    catalog.execute_many(
        "INSERT INTO impressions (at, query, clicked, shown, explored, crc) VALUES (?, ?, ?, ?, ?, ?)",
        (_encoded(impression, now) for impression in impressions),
    )


def _encoded(impression: Impression, now: float) -> tuple[float, bytes, str, str | None, int, int]:
    at = now if impression.at is None else impression.at
    query = impression.query.tobytes()
    clicked = json.dumps(impression.clicked)
    shown = None if impression.shown is None else json.dumps(impression.shown)
    explored = int(bool(impression.explored))
    return at, query, clicked, shown, explored, _crc(at, query, clicked, shown, explored)


_TYPES = (float, bytes, str, str | None, int)


def _crc(at: float, query: bytes, clicked: str, shown: str | None, explored: int) -> int:
    return checksum(struct.pack("<d", at), query, clicked, shown, str(explored))


def read(catalog: Catalog) -> list[Impression]:
    """The whole log, oldest first; raises `FormatError` if an impression is damaged or missing."""
    rows = catalog.execute(
        "SELECT number, at, query, clicked, shown, explored, crc FROM impressions ORDER BY number"
    )
    for number, *fields, crc in rows:
        typed = all(isinstance(field, kind) for field, kind in zip(fields, _TYPES, strict=True))
        if not typed or _crc(*fields) != crc:
            raise FormatError(f"{catalog.path}: impression {number} is damaged")
    # They are numbered from 1, and SQLite keeps the last number that it gave.
    last = catalog.one("SELECT seq FROM sqlite_sequence WHERE name = 'impressions'") or 0
    if len(rows) != last or any(row[0] != number for number, row in enumerate(rows, start=1)):
        raise FormatError(f"{catalog.path}: {len(rows)} impressions, but {last} were recorded")
    dim = int(catalog.settings()["dim"])
    return [_decoded(catalog, dim, *row[:1], *row[2:6]) for row in rows]


def _decoded(
    catalog: Catalog, dim: int, number: int, query: bytes, clicked: str, shown: str | None, explored: int
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
    return Impression(vector, ids[0], None if shown is None else ids[1], bool(explored))


def _ids(text: str) -> list[Id]:
    found = json.loads(text)
    if not isinstance(found, list) or any(type(identity) not in (int, str) for identity in found):
        raise ValueError("it holds no list of ids")
    return found


def count(catalog: Catalog) -> tuple[int, int]:
    """How many impressions there are, and how many of them were explored."""
    total, explored = catalog.execute("SELECT count(*), coalesce(sum(explored), 0) FROM impressions")[0]
    return int(total), int(explored)


def training_pairs(
    impressions: Sequence[Impression], row_of: dict[Id, int]
) -> tuple[list[Vectors], list[list[int]], list[bool]]:
    """Queries, the rows they clicked that still live, and whether the shown order was shuffled.

    Impressions without a click that still lives say nothing that the learner could use, and are left out.
    """
    queries, relevant, explored = [], [], []
    for impression in impressions:
        rows = sorted({row_of[identity] for identity in impression.clicked if identity in row_of})
        if rows:
            queries.append(impression.query)
            relevant.append(rows)
            explored.append(bool(impression.explored))
    return queries, relevant, explored
