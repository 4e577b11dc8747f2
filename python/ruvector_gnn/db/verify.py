"""Reading everything once, and counting it."""

from typing import Any

from ruvector_gnn._core import HNSWIndex
from ruvector_gnn.db import log
from ruvector_gnn.db.store import Store
from ruvector_gnn.errors import FormatError
from ruvector_gnn.learn import SearchLearner


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
        "bytes": {entry.name: entry.stat().st_size for entry in sorted(store.path.iterdir())},
    }


def verify(store: Store) -> None:
    """Compare every checksum; raises `FormatError` naming what is damaged."""
    catalog = store.catalog
    trouble = catalog.one("PRAGMA integrity_check")
    if trouble != "ok":
        raise FormatError(f"{catalog.path}: {trouble}")
    with catalog.transaction("DEFERRED"):
        settings = catalog.settings()
        rows, dead = int(settings["rows"]), int(settings["dead"])
        living = store.check_documents(store.vectors.rows(rows))
        gone = catalog.dead()
        if len(gone) != dead or sorted([*living, *gone]) != list(range(rows)):
            raise FormatError(
                f"{catalog.path}: {len(living)} documents and {len(gone)} dead rows are not the {rows} rows"
                f" with {dead} dead ones that were committed"
            )
        log.read(catalog)
    if settings["index_file"] is not None:
        index = HNSWIndex.load(str(store.file(settings["index_file"])), verify="full")
        if index.num_rows > int(settings["rows"]):
            raise FormatError(f"{store.path}: the index snapshot holds more rows than the catalog")
        if settings["model_file"] is not None:
            SearchLearner.load(str(store.file(settings["model_file"])), index)
