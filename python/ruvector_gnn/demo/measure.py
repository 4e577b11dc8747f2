"""Ranking quality query by query, and what a sample of queries says about the mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
PerQuery = dict[str, npt.NDArray[np.float64]]

METRICS = ("ndcg@10", "mrr@10", "recall@10", "recall@100")
DEPTH = 100


def per_query(ranking: Rows, relevant: Sequence[Sequence[int]]) -> PerQuery:
    """The four metrics of each query; `ranking` is (queries, 100) rows, best first, -1 where there are none.

    nDCG@10 = sum of 1 / log2(1 + rank) over relevant hits, over the best possible sum; MRR@10 = 1 / rank of
    the first relevant hit within ten, else 0; recall@k = share of the relevant rows within the first k.

    >>> scores = per_query(np.array([[4, 7, -1]]), [[7]])
    >>> float(scores["mrr@10"][0]), float(scores["recall@10"][0])
    (0.5, 1.0)
    """
    hit = np.zeros(ranking.shape, dtype=bool)
    for query, rows in enumerate(relevant):
        hit[query] = np.isin(ranking[query], rows)
    wanted = np.array([len(rows) for rows in relevant])
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.cumsum(discount)[np.minimum(wanted, 10) - 1]
    top = hit[:, :10]
    first = np.where(top.any(axis=1), top.argmax(axis=1), -1)
    return {
        "ndcg@10": (top * discount[: top.shape[1]]).sum(axis=1) / ideal,
        "mrr@10": np.where(first < 0, 0.0, 1 / (1 + np.maximum(first, 0))),
        "recall@10": top.sum(axis=1) / wanted,
        "recall@100": hit[:, :100].sum(axis=1) / wanted,
    }


@dataclass(frozen=True)
class Interval:
    """A mean and the half width of its 95 % confidence interval."""

    mean: float
    half: float

    def __str__(self) -> str:
        """`mean ± half`, to three places."""
        return f"{self.mean:.3f} ± {self.half:.3f}"

    def signed(self) -> str:
        """The same with an explicit sign, for differences."""
        return f"{self.mean:+.3f} ± {self.half:.3f}"


def interval(values: npt.NDArray[np.float64], cluster: Rows) -> Interval:
    """Mean of `values` with a 95 % interval that lets queries of one `cluster` depend on each other.

    Sentences of one docstring are not independent draws, so the variance is that of sums over clusters:
    `var = sum_c (sum_{i in c} (v_i - mean))^2 / n^2` (Liang and Zeger, 1986).

    >>> print(interval(np.array([0.0, 1.0, 0.0, 1.0]), np.arange(4)))
    0.500 ± 0.490
    """
    if not len(values):
        return Interval(float("nan"), float("nan"))
    mean = float(values.mean())
    _, place = np.unique(cluster, return_inverse=True)
    sums = np.bincount(place, weights=values - mean)
    return Interval(mean, float(1.96 * np.sqrt((sums**2).sum()) / len(values)))
