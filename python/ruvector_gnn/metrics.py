"""How well rankings agree with relevance judgements.

`ranked` holds a row per query, best result first; -1 marks missing results. `relevant` is a list of row
arrays; or of mappings from row to grade; or an array of (query, row, grade) triples. Queries without
relevant rows are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ruvector_gnn import _core
from ruvector_gnn.errors import RowError

__all__ = ["mrr", "ndcg", "recall_at_k"]

Relevant = Sequence[ArrayLike] | Sequence[Mapping[int, float]] | NDArray[np.generic]


def _grades(relevant: Relevant, queries: int) -> list[list[tuple[int, float]]]:
    if isinstance(relevant, np.ndarray) and relevant.ndim == 2 and relevant.shape[1] == 3:
        grades: list[list[tuple[int, float]]] = [[] for _ in range(queries)]
        for query, row, grade in relevant.tolist():
            if not 0 <= query < queries:
                raise RowError(f"relevant: query {query} of {queries}")
            grades[int(query)].append((int(row), float(grade)))
        return grades
    pairs = []
    for rows in relevant:
        if isinstance(rows, Mapping):
            pairs.append([(int(row), float(grade)) for row, grade in rows.items()])
        else:
            pairs.append([(int(row), 1.0) for row in np.asarray(rows, dtype=np.int64).ravel()])
    return pairs


def _mean(name: str, ranked: ArrayLike, relevant: Relevant, k: int) -> float:
    rows = np.atleast_2d(np.asarray(ranked))
    values = _core.ranking_metric(name, rows, _grades(relevant, len(rows)), k)
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def ndcg(ranked: ArrayLike, relevant: Relevant, k: int = 10) -> float:
    """Mean normalized discounted cumulative gain at `k` (Järvelin & Kekäläinen 2002).

    Gains are linear, `grade / log2(place + 1)`, as `trec_eval`'s.

    >>> ndcg([[3, 1, 2]], [[3]])
    1.0
    """
    return _mean("ndcg", ranked, relevant, k)


def mrr(ranked: ArrayLike, relevant: Relevant, k: int = 10) -> float:
    """Mean reciprocal rank of the first relevant row within the first `k`.

    >>> mrr([[3, 1, 2]], [[1]])
    0.5
    """
    return _mean("mrr", ranked, relevant, k)


def recall_at_k(ranked: ArrayLike, relevant: Relevant, k: int = 10) -> float:
    """Mean share of the relevant rows that are within the first `k`.

    >>> recall_at_k([[3, 1, 2]], [[1, 9]])
    0.5
    """
    return _mean("recall", ranked, relevant, k)
