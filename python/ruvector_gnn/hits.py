"""What a search returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Hits(NamedTuple):
    """The rows that a search found for each query, nearest first; unpacks as `rows, distances = hits`.

    Missing places, where there are fewer rows than asked for, hold row -1 and distance +inf.
    """

    rows: NDArray[np.int64]
    """Row numbers, shape `(queries, k)`."""
    distances: NDArray[np.float32]
    """Distances in the unit of the index's metric, shape `(queries, k)`."""


class RangeHits(NamedTuple):
    """All rows within a radius: query `i` has the places `indptr[i]` to `indptr[i + 1]`, nearest first."""

    indptr: NDArray[np.int64]
    """Where each query's hits begin, and the number of all, shape `(queries + 1,)`."""
    rows: NDArray[np.int64]
    """Row numbers."""
    distances: NDArray[np.float32]
    """Distances in the unit of the index's metric."""
