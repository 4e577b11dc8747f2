"""Distinct queries of a log, by single linkage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruvector_gnn.clicks._ragged import Int64s, frozen

LEAST_COSINE = 0.9999
"""Queries at least as similar as this are one."""

_BLOCK_ROWS, _BLOCK_COLUMNS = 512, 2048  # a tile of scores is 4 MB
_DIRECTIONS = 16  # of the projection that rules out most pairs; a full product costs dim / 16 times as much
# Squared distance of unit vectors at the least cosine, and room for rounding in float32.
_SQUARED_RADIUS = 2 * (1 - LEAST_COSINE) + 1e-5

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MergedQueries:
    """Distinct queries of a log, in the order of their first impressions.

    Attributes
    ----------
    queries : ndarray of float32, shape (m, dim)
        The query of each entry, as its first impression had it.
    entry : ndarray of int64, shape (n,)
        The entry of each impression.
    impressions : ndarray of int64, shape (m,)
        Impressions of each entry.
    """

    queries: _Floats
    entry: Int64s
    impressions: Int64s

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.queries)


def merge(queries: _Floats) -> MergedQueries:
    """Return the distinct ones of some queries, (n, dim) float32; see `ClickLog.merged`."""
    unique, copy_of = _exact_groups(queries)
    parents = _near_groups(queries[unique])
    # Parents are the least of their group, so entries come in the order of their first impressions.
    groups, group_of = np.unique(parents, return_inverse=True)
    entry = group_of.reshape(-1)[copy_of]
    impressions = np.bincount(entry, minlength=len(groups))
    return MergedQueries(frozen(queries[unique[groups]]), frozen(entry), frozen(impressions))


def _exact_groups(queries: _Floats) -> tuple[Int64s, Int64s]:
    """Return the first of each group of equal queries, and the group of each query."""
    seen: dict[bytes, int] = {}
    values = queries + np.float32(0)  # -0 is 0
    copy_of = np.fromiter(
        (seen.setdefault(row.tobytes(), len(seen)) for row in values), dtype=np.int64, count=len(queries)
    )
    _, first = np.unique(copy_of, return_index=True)
    return first.astype(np.int64), copy_of


def _near_groups(queries: _Floats) -> Int64s:
    """Return, for each query, the least number of its single-linkage group at `LEAST_COSINE`."""
    norms = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
    parents = np.arange(len(queries))
    usable = np.flatnonzero(norms > 0)
    units = np.asarray(queries[usable] / norms[usable, np.newaxis], dtype=np.float32)
    for left, right in _near_pairs(units, parents, usable):
        _join(parents, usable[left], usable[right])
    return parents


def _near_pairs(units: _Floats, parents: Int64s, numbers: Int64s) -> Iterator[tuple[Int64s, Int64s]]:
    """Yield pairs of near unit vectors that are not in one group yet, tile by tile.

    Vectors are sorted along the first of a few orthonormal directions. Only those within the radius along it
    are compared, first by their projections, whose distance is never greater.
    """
    if len(units) < 2:
        return
    codes = units @ _directions(units)
    order = np.argsort(codes[:, 0], kind="stable")
    codes, along = codes[order], codes[order, 0]
    squares = np.einsum("ij,ij->i", codes, codes)
    ends = np.searchsorted(along, along + np.float32(np.sqrt(_SQUARED_RADIUS)), side="right")
    for start in range(0, len(units), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(units))
        for column in range(start, int(ends[stop - 1]), _BLOCK_COLUMNS):
            rows, columns = slice(start, stop), slice(column, column + _BLOCK_COLUMNS)
            distances = squares[rows, np.newaxis] + squares[columns] - 2 * codes[rows] @ codes[columns].T
            groups, others = parents[numbers[order[rows]]], parents[numbers[order[columns]]]
            possible = (distances <= _SQUARED_RADIUS) & (groups[:, np.newaxis] != others)
            if not possible.any():
                continue
            left = order[rows][possible.any(axis=1)]
            right = order[columns][possible.any(axis=0)]
            near = units[left] @ units[right].T >= LEAST_COSINE
            first, second = np.nonzero(near)
            yield left[first], right[second]


def _directions(units: _Floats) -> _Floats:
    """Return orthonormal directions, (dim, at most 16), along which the vectors vary much, the first most."""
    dim = units.shape[1]
    sample = units[:: max(1, len(units) // 4096)]
    sample = sample - sample.mean(axis=0)
    start = np.random.default_rng(0).standard_normal((dim, min(_DIRECTIONS, dim)))
    # Two steps of subspace iteration: any orthonormal basis is right, a good one is fast.
    for _ in range(2):
        start, _ = np.linalg.qr(sample.T @ (sample @ start))
    _, _, turn = np.linalg.svd(sample @ start, full_matrices=False)
    return np.asarray(np.linalg.qr(start @ turn.T)[0], dtype=np.float32)


def _join(parents: Int64s, left: Int64s, right: Int64s) -> None:
    """Unite the groups of pairs in a forest of depth 1 whose roots are the least of their groups."""
    while True:
        first, second = parents[left], parents[right]
        if np.array_equal(first, second):
            return
        np.minimum.at(parents, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(above := parents[parents], parents):
            parents[:] = above
