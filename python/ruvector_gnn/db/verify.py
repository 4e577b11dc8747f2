"""Reading everything once, and counting it."""

from typing import Any

from ruvector_gnn._core import HNSWIndex
from ruvector_gnn.db import log
from ruvector_gnn.db.catalog import document_crc
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
        _verify_documents(store, int(settings["rows"]), int(settings["dead"]))
        damaged = log.damaged(catalog)
    if damaged:
        raise FormatError(f"{catalog.path}: impression {damaged[0]} is damaged")
    if settings["index_file"] is not None:
        index = HNSWIndex.load(str(store.file(settings["index_file"])), verify="full")
        if index.num_rows > int(settings["rows"]):
            raise FormatError(f"{store.path}: the index snapshot holds more rows than the catalog")
        if settings["model_file"] is not None:
            SearchLearner.load(str(store.file(settings["model_file"])), index)


def _verify_documents(store: Store, rows: int, dead: int) -> None:
    vectors = store.vectors.rows(rows)
    documents = store.catalog.execute("SELECT row, id, metadata, crc FROM documents ORDER BY row")
    if len(documents) != rows - dead:
        raise FormatError(f"{store.path}: {len(documents)} documents, but {rows} rows less {dead} dead ones")
    for row, identity, metadata, crc in documents:
        if not 0 <= row < rows or document_crc(identity, metadata, vectors[row].tobytes()) != crc:
            raise FormatError(f"{store.path}: document {identity!r} (row {row}) is damaged")
