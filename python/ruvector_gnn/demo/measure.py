"""Ranking quality query by query, and what a sample of queries says about the mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruvector_gnn._core import ranking_metric

Rows = npt.NDArray[np.int64]
PerQuery = dict[str, npt.NDArray[np.float64]]

METRICS = ("ndcg@10", "mrr@10", "recall@10", "recall@100")
DEPTH = 100


def per_query(ranking: Rows, relevant: Sequence[Sequence[int]]) -> PerQuery:
    """The four metrics of each query; `ranking` is (queries, 100) rows, best first, -1 where there are none.

    They are those of `ruvector_gnn.metrics`, before the mean.

    >>> scores = per_query(np.array([[4, 7, -1]]), [[7]])
    >>> float(scores["mrr@10"][0]), float(scores["recall@10"][0])
    (0.5, 1.0)
    """
    grades = [[(int(row), 1.0) for row in rows] for rows in relevant]
    found = {}
    for metric in METRICS:
        name, depth = metric.split("@")
        found[metric] = np.array(ranking_metric(name, ranking, grades, int(depth)), dtype=np.float64)
    return found


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
