"""Reading everything once, and counting it."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from ruvector_gnn._core import HNSWIndex
from ruvector_gnn.db import log
from ruvector_gnn.db.store import Store
from ruvector_gnn.errors import FormatError
from ruvector_gnn.learn import SearchLearner

_BLOCK = 8_192


def stats(store: Store) -> dict[str, Any]:
    """What the database holds, and how many bytes its files take."""
    catalog = store.catalog
    with catalog.transaction("DEFERRED"):
        settings = catalog.settings()
        documents = int(catalog.one("SELECT count(*) FROM documents"))
        impressions, explored = log.count(catalog)
    return {
        "path": str(store.path),
        "documents": documents,
        "dead_rows": int(settings["dead"]),
        "dimensions": store.dim,
        "metric": store.metric,
        "index_options": store.index_options,
        "impressions": impressions,
        "explored_impressions": explored,
        "model": settings["model_file"],
        "bytes": dict(_sizes(store)),
    }


def _sizes(store: Store) -> Iterator[tuple[str, int]]:
    for entry in sorted(store.path.iterdir()):
        with suppress(FileNotFoundError):  # a writer has replaced it since
            yield entry.name, entry.stat().st_size


def verify(store: Store) -> None:
    """Compare every checksum; raises `FormatError` naming what is damaged."""
    catalog = store.catalog
    trouble = catalog.one("PRAGMA integrity_check")
    if trouble != "ok":
        raise FormatError(f"{catalog.path}: {trouble}")
    with catalog.transaction("DEFERRED"):
        settings = catalog.settings()
        rows, dead = int(settings["rows"]), int(settings["dead"])
        living = store.check_documents(store.vectors.rows(rows), 0, rows)
        gone = catalog.dead()
        if len(gone) != dead or sorted([*living, *gone]) != list(range(rows)):
            raise FormatError(
                f"{catalog.path}: {len(living)} documents and {len(gone)} dead rows are not the {rows} rows"
                f" with {dead} dead ones that were committed"
            )
        log.read(catalog)
    if settings["index_file"] is not None:
        index = HNSWIndex.load(str(store.file(settings["index_file"])), verify="full")
        if index.num_rows > rows:
            raise FormatError(f"{store.path}: the index snapshot holds more rows than the catalog")
        _compare(store, index, [row for row in living if row < index.num_rows])
        if settings["model_file"] is not None:
            SearchLearner.load(str(store.file(settings["model_file"])), index)


def _compare(store: Store, index: HNSWIndex, living: list[int]) -> None:
    """Raise `FormatError` unless the index holds the vectors that were given to it."""
    committed = store.vectors.rows(index.num_rows)
    for start in range(0, len(living), _BLOCK):
        rows = np.array(living[start : start + _BLOCK])
        if not np.array_equal(index.vectors(rows), committed[rows]):
            raise FormatError(f"{store.path}: the index snapshot holds other vectors than the vectors file")
