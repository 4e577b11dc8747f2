"""Relevance judgements: the forms that an argument `relevant` takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ruvector_gnn import _core
from ruvector_gnn.errors import RowError, ShapeError

Relevant = Any
"""A sequence of row arrays, a mapping, a SciPy sparse matrix, or `Triples`; see `as_triples`."""


@dataclass(frozen=True, eq=False, init=False)
class Triples:
    """Judgements as three arrays of the same length: row `row[i]` answers query `query[i]` with `grade[i]`.

    Parameters
    ----------
    query : array_like of int, shape (n,)
        Numbers of queries, from 0 up.
    row : array_like of int, shape (n,)
        Row numbers.
    grade : array_like of float, shape (n,)
        How relevant the row is; 0 means not relevant.

    Raises
    ------
    ShapeError
        If the arrays differ in length or are not one-dimensional, or queries or rows are no integers.

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> rg.metrics.ndcg([[3, 1, 2]], rg.Triples([0, 0], [3, 2], [2.0, 0.0]))
    1.0
    """

    query: NDArray[np.int64]
    row: NDArray[np.int64]
    grade: NDArray[np.float32]

    def __init__(self, query: ArrayLike, row: ArrayLike, grade: ArrayLike) -> None:
        """See the class."""
        grades = _core.as_array("grade", grade)
        if grades.dtype.kind not in "biuf":
            raise ShapeError(f"grade must be an array of real numbers, got dtype {grades.dtype}")
        parts = (_core.int64_array("query", query), _core.int64_array("row", row), grades)
        shapes = [part.shape for part in parts]
        if len(set(shapes)) != 1 or len(shapes[0]) != 1:
            raise ShapeError(f"query, row and grade must have one length, got shapes {shapes}")
        object.__setattr__(self, "query", parts[0])
        object.__setattr__(self, "row", parts[1])
        object.__setattr__(self, "grade", grades.astype(np.float32))

    def __len__(self) -> int:
        """Return the number of judgements."""
        return len(self.query)


Triples.__module__ = "ruvector_gnn"


def as_triples(
    relevant: Relevant, queries: int, name: str = "relevant", *, signed: bool = False
) -> Triples:
    """Return what any form of `relevant` says, without what is not relevant (grade 0).

    Parameters
    ----------
    relevant : sequence, mapping, sparse matrix or Triples
        For each of the queries, in order, an array of rows or a mapping from row to grade; a mapping from
        query number to either; a SciPy sparse matrix of grades, queries by rows; or `Triples`.
    queries : int
        The number of queries.
    name : str
        What errors call the argument.
    signed : bool
        Whether grades may be negative.

    Raises
    ------
    ShapeError
        For another form, another number of queries, rows that are no integers, or a grade that is negative
        or not finite.
    RowError
        For the number of a query that there is not.
    """
    found = _parsed(relevant, queries, name)
    strange = ~(((found.grade >= 0) | signed) & np.isfinite(found.grade))
    if strange.any():
        place = int(np.argmax(strange))
        bounds = "" if signed else " from 0 up"
        where = f"row {found.row[place]} of query {found.query[place]}"
        raise ShapeError(f"{name}: {where} must have a finite grade{bounds}, got {found.grade[place]}")
    outside = (found.query < 0) | (found.query >= queries)
    if outside.any():
        raise RowError(f"{name}: got query {found.query[np.argmax(outside)]}, expected 0 to {queries - 1}")
    counts = found.grade != 0
    return Triples(found.query[counts], found.row[counts], found.grade[counts])


def _parsed(relevant: Relevant, queries: int, name: str) -> Triples:
    if isinstance(relevant, Triples):
        return relevant
    if hasattr(relevant, "tocoo"):
        return _of_matrix(relevant, queries, name)
    if isinstance(relevant, Mapping):
        return _of_queries(relevant.items(), name)
    if not isinstance(relevant, np.ndarray | Sequence) or isinstance(relevant, str | bytes):
        kind = type(relevant).__name__
        raise ShapeError(
            f"{name} must be a list of row arrays, a mapping, a sparse matrix or Triples, got {kind}"
        )
    if len(relevant) != queries:
        raise ShapeError(
            f"{name} must have one row array for each of {queries} queries, got {len(relevant)};"
            " triples are given as rg.Triples(query, row, grade)"
        )
    # Rows of such a table would repeat.
    wide = isinstance(relevant, np.ndarray) and relevant.ndim == 2 and relevant.shape[1] > 2
    if wide and queries and np.isin(relevant, (0, 1)).all():
        raise ShapeError(
            f"{name} must hold row numbers, got a dense matrix of 0 and 1;"
            " a matrix of grades is given as scipy.sparse.csr_array(matrix)"
        )
    return _of_queries(enumerate(relevant), name)


def _of_matrix(matrix: Any, queries: int, name: str) -> Triples:
    if matrix.ndim != 2 or matrix.shape[0] != queries:
        raise ShapeError(f"{name} must have {queries} rows, one per query, got shape {matrix.shape}")
    entries = matrix.tocoo(copy=True)
    entries.sum_duplicates()
    return Triples(entries.row, entries.col, entries.data)


def _of_queries(judged: Iterable[tuple[Any, Any]], name: str) -> Triples:
    queries, rows, grades = [], [], []
    for query, given in judged:
        if not isinstance(query, int | np.integer) or isinstance(query, bool):
            raise ShapeError(f"{name} must be keyed by query number, got the key {query!r}")
        graded = isinstance(given, Mapping)
        found = _core.int64_array(f"{name}[{query}]", list(given) if graded else given)
        if found.ndim > 1:
            raise ShapeError(f"{name}[{query}] must have one dimension, got shape {found.shape}")
        rows.append(found.reshape(-1))
        queries.append(np.full(found.size, query))
        grades.append(
            _core.as_array(f"{name}[{query}]", list(given.values())) if graded else np.ones(found.size)
        )
    if not rows:
        return Triples([], [], [])
    return Triples(np.concatenate(queries), np.concatenate(rows), np.concatenate(grades))
