"""Reading everything once, and counting it."""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from ruvector_gnn._core import HNSWIndex
from ruvector_gnn.db import log
from ruvector_gnn.db.connection import Interrupted
from ruvector_gnn.db.live import MOST_INTERRUPTIONS, SECONDS_FOR_A_FORK
from ruvector_gnn.db.store import Settings, Store
from ruvector_gnn.db.vector_file import Committed, Rows
from ruvector_gnn.errors import FormatError
from ruvector_gnn.learn import SearchLearner

_BLOCK = 8_192


def stats(store: Store) -> dict[str, Any]:
    """What the database holds, and how many bytes its files take."""

    def read(settings: Settings, committed: Committed) -> dict[str, Any]:
        documents = int(settings["rows"]) - int(settings["dead"])
        impressions, explored = log.count(store.catalog)
        return {
            "path": str(store.path),
            "documents": documents,
            "dead_rows": len(committed) - documents,
            "dimensions": store.dim,
            "metric": store.metric,
            "index_options": store.index_options,
            "impressions": impressions,
            "explored_impressions": explored,
            "model": settings["model_file"],
        }

    return {**store.reading(read), "bytes": dict(_sizes(store))}


def _sizes(store: Store) -> Iterator[tuple[str, int]]:
    for entry in sorted(store.place.current().iterdir()):
        with suppress(FileNotFoundError):  # a writer has replaced it since
            yield entry.name, entry.stat().st_size


def verify(store: Store) -> None:
    """Compare every checksum; raises `FormatError` naming what is damaged."""
    for number in range(MOST_INTERRUPTIONS + 1):
        with store.aside() as reader:
            reader.catalog.interruptible = number < MOST_INTERRUPTIONS
            try:
                _verify_once(reader)
                return
            except Interrupted:
                time.sleep(SECONDS_FOR_A_FORK)


def _verify_once(store: Store) -> None:
    catalog = store.catalog
    trouble = catalog.one("PRAGMA integrity_check")
    if trouble != "ok":
        raise FormatError(f"{catalog.path}: {trouble}")

    def check() -> None:
        settings, committed, living = store.reading(lambda *found: (*found, _check_rows(store, *found)))
        if settings["index_file"] is not None:
            index = HNSWIndex.load(store.existing(settings["index_file"]), verify="full")
            _compare(store, index, committed, living)
            if settings["model_file"] is not None:
                SearchLearner.load(store.existing(settings["model_file"]), index)

    store.with_files(check, "index_file", "model_file")


def _check_rows(store: Store, settings: Settings, committed: Committed) -> Rows:
    """The rows of all documents; raises `FormatError` unless these, the dead and the log are as committed."""
    catalog, rows, dead = store.catalog, int(settings["rows"]), int(settings["dead"])
    store.vectors(settings).check_list(committed)
    living = []
    for start in range(0, rows, _BLOCK):
        living += store.check_documents(committed, start, min(start + _BLOCK, rows))
    listed = catalog.dead()
    if [number for number, _ in listed] != list(range(dead - len(listed), dead)):
        raise FormatError(f"{catalog.path}: the list of dead rows has gaps")
    gone = [row for _, row in listed]
    if len(living) != rows - dead or sorted([*living, *gone]) != committed.rows().tolist():
        raise FormatError(
            f"{catalog.path}: {len(living)} documents and {len(gone)} dead rows are not the {len(committed)}"
            f" rows, {rows - dead} of them living, that were committed"
        )
    log.read(catalog)
    return np.array(living, dtype=np.int64)


def _compare(store: Store, index: HNSWIndex, committed: Committed, living: Rows) -> None:
    """Raise `FormatError` unless the snapshot holds the vectors that were given to it."""
    held = index.rows()
    expected = living[living < index.num_rows]
    if len(np.setdiff1d(expected, held)) or len(committed.known(held)) < len(held):
        raise FormatError(f"{store.path}: the index snapshot holds other rows than the catalog")
    if not (index.storage == "f32" or index.rescore):
        return  # only codes are there to compare
    for start in range(0, len(expected), _BLOCK):
        rows = expected[start : start + _BLOCK]
        if not np.array_equal(index.vectors(rows), committed.take(rows)):
            raise FormatError(f"{store.path}: the index snapshot holds other vectors than the vectors file")
