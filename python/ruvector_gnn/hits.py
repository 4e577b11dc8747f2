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
