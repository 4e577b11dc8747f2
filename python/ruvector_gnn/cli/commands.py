"""The commands on databases and index files."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ruvector_gnn._core import HNSWIndex
from ruvector_gnn.cli import inputs
from ruvector_gnn.cli.output import emit, lines, shows_progress
from ruvector_gnn.db import SearchResult, VectorDB
from ruvector_gnn.db.arguments import id_list, positive
from ruvector_gnn.db.catalog import Id
from ruvector_gnn.db.log import Impression, impression
from ruvector_gnn.db.vectors import Vectors, checked, checked_query
from ruvector_gnn.demo.measure import DEPTH, METRICS, interval, per_query
from ruvector_gnn.errors import ConfigError, FormatError, NotFoundError, ShapeError
from ruvector_gnn.learn import SearchLearner

INDEX_SUFFIX = ".hnsw"

Options = argparse.Namespace


def build(options: Options) -> None:
    """Make, or with --append enlarge, what TARGET names."""
    target = Path(options.target)
    given = inputs.documents(options.vectors, options.array, options.ignore_fields)
    vectors = given.vectors
    settings = {"m": options.m, "ef_construction": options.ef_construction}
    wanted = {name: value for name, value in settings.items() if value is not None}
    if target.exists() and not options.append:
        raise ConfigError(f"{target}: exists already; --append adds to a database")
    if target.suffix == INDEX_SUFFIX:
        _build_index(target, vectors, wanted, options)
        made = {"index": str(target), "rows": len(vectors), "dimensions": vectors.shape[1]}
    else:
        _build_database(target, vectors, given, wanted, options)
        made = {"database": str(target), "added": len(vectors), "dimensions": vectors.shape[1]}
    if options.json:
        emit(made)
    else:
        print(f"{target}: {len(vectors):,} vectors of {vectors.shape[1]} dimensions")


def _build_index(target: Path, vectors: Any, wanted: dict[str, Any], options: Options) -> None:
    if options.ids or options.metadata or options.append:
        raise ConfigError(f"{target}: an index file holds no ids or metadata, and is not appended to")
    metric: Any = options.metric or "cosine"
    with inputs.named(options.vectors):
        rows = checked(vectors, vectors.shape[1], metric)
    index = HNSWIndex(rows.shape[1], metric=metric, **wanted)
    index.add(rows, progress=shows_progress(options.json))
    index.save(str(target))


def _build_database(
    target: Path, vectors: Any, given: inputs.Documents, wanted: dict[str, Any], options: Options
) -> None:
    metadata = inputs.metadata(options.metadata) if options.metadata else given.metadata
    ids = inputs.ids(options.ids) if options.ids else given.ids
    for what, path, values in (("ids", options.ids, ids), ("metadata", options.metadata, metadata)):
        if path and values is not None and len(values) != len(vectors):
            raise ShapeError(f"{path}: {len(values)} {what} for {len(vectors)} vectors of {options.vectors}")
    fresh = not target.exists()
    with VectorDB.open(target, dim=vectors.shape[1], metric=options.metric, index_options=wanted) as db:
        if ids is None:
            ids = list(range(len(db), len(db) + len(vectors)))
        try:
            with inputs.named(options.vectors):
                db.add(ids, vectors, metadata, progress=shows_progress(options.json))
        except BaseException:
            if fresh:  # a refused build leaves nothing behind
                shutil.rmtree(target)
            raise


def search(options: Options) -> None:
    """Answer each query."""
    k = positive(options.k, "k")
    where = inputs.where(options.where)
    queries = inputs.queries(options.queries, options.array, options.ignore_fields)
    if _is_index(options.target):
        if where or options.explore or options.plain:
            raise ConfigError("--where, --explore and --plain need a database")
        index = HNSWIndex.load(options.target)
        plain = SearchLearner(index)
        for number, query in enumerate(_asked(options.queries, queries, index.dim, index.metric)):
            hits = plain.search(query, k=min(k, max(1, index.num_rows)))
            found = hits.rows[0] >= 0
            scores, rows = hits.scores[0][found], hits.rows[0][found].tolist()
            _answer(number, SearchResult(rows, scores, [{} for _ in rows]), options)
        return
    with VectorDB.open(options.target, mode="r", seed=options.seed) as db:
        for number, query in enumerate(_asked(options.queries, queries, db.dimensions, db.metric)):
            _answer(number, db.search(query, k, where, options.explore, not options.plain), options)


def _asked(path: str, queries: Any, dim: int, metric: str) -> Vectors:
    with inputs.named(path):
        return checked(queries, dim, metric, "queries")


def _answer(number: int, result: SearchResult, options: Options) -> None:
    if options.json:
        scores = [float(score) for score in result.scores]
        emit(
            {
                "query": number,
                "ids": result.ids,
                "scores": scores,
                "metadata": result.metadata,
                "explored": result.explored,
            }
        )
        return
    print(f"query {number}" + (" (shuffled)" if result.explored else ""))
    for place, hit in enumerate(result.hits, 1):
        metadata = json.dumps(hit.metadata, ensure_ascii=False) if hit.metadata else ""
        print(f"  {place:>3}  {hit.score:>9.4f}  {hit.id}  {metadata}".rstrip())


def record(options: Options) -> None:
    """Append the lines of LOG to the query log."""
    fields = ("query", "clicked", "shown", "explored", "at", "session")
    impressions, skipped = [], 0
    with _existing(options.target) as db:
        known = set(db.ids())
        for place, value in inputs.entries(options.log, fields, options.ignore_fields):
            each = _impression(value, place, db)
            unknown = [name for name in each.clicked if name not in known]
            if unknown and options.on_unknown == "error":
                raise NotFoundError(
                    f"{place}: clicked: there is no document {unknown[0]!r}; --on-unknown skip leaves such"
                    " lines out"
                )
            if unknown:
                skipped += 1
            else:
                impressions.append(
                    (each.query, each.clicked, each.shown, each.explored, each.at, each.session)
                )
        db.record_all(impressions)
    if options.json:
        emit({"recorded": len(impressions), "skipped": skipped})
    else:
        left_out = f", skipped {skipped:,} with unknown ids" if skipped else ""
        print(f"recorded {len(impressions):,} queries{left_out}")


def _impression(value: dict[str, Any], place: str, db: VectorDB) -> Impression:
    vector = inputs.vector_of(value, "query", place)
    clicked = inputs.id_list(value, "clicked", place)
    shown = inputs.id_list(value, "shown", place) if value.get("shown") is not None else None
    explored = value.get("explored")
    if not isinstance(explored, bool | None):
        raise FormatError(f"{place}: explored is not true or false, got {explored!r}")
    with inputs.named(place):
        query = checked_query(vector, db.dimensions, db.metric)
        return impression(query, clicked, shown, explored, value.get("at"), value.get("session"))


def learn(options: Options) -> None:
    """Train on the log."""
    with _existing(options.target) as db:
        report = db.learn(seed=options.seed, progress=shows_progress(options.json))
    if options.json:
        emit(report.as_dict())
    else:
        print(report)


def evaluate(options: Options) -> None:
    """Rank held-out queries plainly and as learned."""
    given = inputs.judged(options.queries, options.ignore_fields)
    with VectorDB.open(options.target, mode="r") as db:
        asked = _asked(options.queries, given.queries, db.dimensions, db.metric)
        number_of = {identity: number for number, identity in enumerate(db.ids())}
        judged = [query for query, ids in enumerate(given.relevant) if ids]
        if not judged:
            raise ConfigError(f"{options.queries}: no query has a relevant document")
        wanted = [_numbers(given.relevant[query], number_of, given.places[query]) for query in judged]
        quality = {}
        for name, learned in (("before", False), ("after", True)):
            ranking = np.full((len(judged), DEPTH), -1, dtype=np.int64)
            for place, query in enumerate(judged):
                ids = db.search(asked[query], DEPTH, learned=learned).ids
                ranking[place, : len(ids)] = [number_of[identity] for identity in ids]
            quality[name] = per_query(ranking, wanted)
        model = db.learned
    if options.json:
        means = {when: {key: each.mean() for key, each in table.items()} for when, table in quality.items()}
        emit({**means, "queries": len(judged), "learned": model})
        return
    print(f"{len(judged):,} queries" + ("" if model else "; no model serves, so both are the plain order"))
    each = np.arange(len(judged))
    for key in METRICS:
        before, after = quality["before"][key], quality["after"][key]
        change = interval(after - before, each).signed()
        print(f"  {key:<11}{interval(before, each)!s:>15}{interval(after, each)!s:>17}{change:>17}")


def _numbers(ids: list[Any], number_of: dict[Id, int], place: str) -> list[int]:
    with inputs.named(place):
        names = id_list(ids)
    for name in names:
        if name not in number_of:
            raise NotFoundError(f"{place}: there is no document {name!r}")
    return sorted({number_of[name] for name in names})


def info(options: Options) -> None:
    """Counts and sizes."""
    if _is_index(options.target):
        index = HNSWIndex.load(options.target, verify="full" if options.verify else None)
        found = {
            "path": options.target,
            "rows": len(index),
            "dimensions": index.dim,
            "metric": index.metric,
            **index.stats(),
        }
    else:
        with VectorDB.open(options.target, mode="r") as db:
            if options.verify:
                db.verify()
            found = db.stats()
    if options.verify:
        found["verified"] = True
    if options.json:
        emit(found)
    else:
        print(lines(found))


def _is_index(target: str) -> bool:
    return Path(target).is_file() or target.endswith(INDEX_SUFFIX)


def _existing(target: str) -> VectorDB:
    """Open for writing, but never create: a mistyped name is an error."""
    if not Path(target).exists():
        raise FileNotFoundError(f"{target}: no database there")
    return VectorDB.open(target)
