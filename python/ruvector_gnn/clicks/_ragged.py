"""Lists of row numbers of different lengths, in two flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ruvector_gnn import _core
from ruvector_gnn.errors import RowError, ShapeError

Int64s = npt.NDArray[np.int64]
MISSING = -1
"""Stands for a place without a known row, as in the results of searches."""


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `array`, made read-only."""
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Ragged:
    """List `i` is `values[starts[i]:starts[i + 1]]`."""

    starts: Int64s
    values: Int64s

    def __post_init__(self) -> None:
        """Freeze both arrays."""
        frozen(self.starts)
        frozen(self.values)

    def __len__(self) -> int:
        """Return the number of lists."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> Int64s:
        """Lengths of the lists, (n,)."""
        return np.diff(self.starts)

    @property
    def owners(self) -> Int64s:
        """For each value, the number of its list."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def places(self) -> Int64s:
        """For each value, its place within its list, from 0."""
        return np.arange(len(self.values)) - np.repeat(self.starts[:-1], self.lengths)

    def take(self, lists: Int64s) -> Ragged:
        """Return some of the lists, in the order given."""
        lengths = self.lengths[lists]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        shift = np.repeat(self.starts[:-1][lists] - starts[:-1], lengths)
        return Ragged(starts, self.values[np.arange(starts[-1]) + shift])

    def select(self, kept: npt.NDArray[np.bool_]) -> Ragged:
        """Return the same number of lists, with the values where `kept` alone."""
        counts = np.concatenate([[0], np.cumsum(kept)])
        return Ragged(counts[self.starts], self.values[kept])

    def lists(self) -> list[Int64s]:
        """Return the lists as read-only arrays."""
        return np.split(self.values, self.starts[1:-1]) if len(self) else []


def ragged(name: str, lists: Any, count: int) -> tuple[Ragged, npt.NDArray[np.bool_]]:
    """Return `count` lists of row numbers, and which of them are not None.

    Raises
    ------
    ShapeError
        If there are not `count` lists, or one of them is no one-dimensional array of integers.
    RowError
        For a number below -1, which stands for a missing row.
    """
    if not isinstance(lists, Sequence | np.ndarray) or isinstance(lists, str | bytes):
        raise ShapeError(f"{name} must be a list of row arrays, got {type(lists).__name__}")
    if len(lists) != count:
        raise ShapeError(f"{name} must have one row array for each of {count} queries, got {len(lists)}")
    parts = [_rows(name, place, rows) for place, rows in enumerate(lists)]
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=count)
    values = np.concatenate(parts, dtype=np.int64) if parts else np.empty(0, dtype=np.int64)
    found = Ragged(np.concatenate([[0], np.cumsum(lengths)]), values)
    if len(values) and values.min() < MISSING:
        place = int(np.argmax(values < MISSING))
        raise RowError(f"{name}[{found.owners[place]}]: got row {values[place]}, expected -1 or more")
    return found, np.fromiter((rows is not None for rows in lists), dtype=np.bool_, count=count)


_NONE: Int64s = np.empty(0, dtype=np.int64)


def _rows(name: str, place: int, rows: Any) -> npt.NDArray[Any]:
    if rows is None:
        return _NONE
    if isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype == np.int64:
        return rows
    found = _core.int64_array(f"{name}[{place}]", rows)
    if found.ndim != 1:
        raise ShapeError(f"{name}[{place}] must have one dimension, got shape {found.shape}")
    return found


def pair_keys(first: Int64s, second: Int64s) -> Int64s:
    """Return one number for each pair of numbers, equal where both are; `second` may be any integers."""
    values, codes = np.unique(second, return_inverse=True)
    return first * max(len(values), 1) + codes.reshape(-1)
