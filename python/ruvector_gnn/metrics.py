"""How well rankings agree with relevance judgements.

`ranked` holds a row per query, best result first; -1 marks missing results. `relevant` is a list of row
arrays or of mappings from row to grade; a mapping from query number to either; a SciPy sparse matrix of
grades, queries by rows; or `rg.Triples(query, row, grade)`. Queries without relevant rows are left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ruvector_gnn import _core
from ruvector_gnn._relevance import Relevant, as_triples

__all__ = ["mrr", "ndcg", "recall_at_k"]

def _mean(name: str, ranked: ArrayLike, relevant: Relevant, k: int) -> float:
    rows = np.atleast_2d(_core.as_array("ranked", ranked))
    grades: list[list[tuple[int, float]]] = [[] for _ in rows]
    found = as_triples(relevant, len(rows))
    for query, *judged in zip(found.query.tolist(), found.row.tolist(), found.grade.tolist(), strict=True):
        grades[query].append((judged[0], judged[1]))
    values = _core.ranking_metric(name, rows, grades, k)
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
