"""The checks that every vector passes before it is written anywhere."""

import numpy as np
import numpy.typing as npt

from ruvector_gnn import _core
from ruvector_gnn.errors import ShapeError

Vectors = npt.NDArray[np.float32]

# Within what the index takes, whose own check must never refuse a row that was committed.
LONGEST = 1e18
SHORTEST = 1e-14


def _norms(rows: Vectors) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):
        norms: npt.NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return norms


def checked(
    vectors: npt.ArrayLike, dim: int, metric: str, name: str = "vectors", largest: float = np.inf
) -> Vectors:
    """`vectors` as (n, dim) little-endian float32 rows; one row may be given as (dim,).

    Raises `ShapeError` for other shapes and types, for masked entries, NaN and infinity, for norms whose
    square overflows float32, for values beyond `largest`, and for a zero vector under cosine.
    """
    given = _core.as_array(name, vectors)
    if given.ndim == 1:
        given = given[np.newaxis] if given.size else np.empty((0, dim), dtype=np.float32)
    if given.dtype.kind not in "fiub":
        what = type(vectors).__name__ if given.dtype.kind == "O" else f"dtype {given.dtype}"
        raise ShapeError(f"{name} must hold numbers, shape (n, {dim}), got {what}")
    if given.ndim != 2 or given.shape[1] != dim:
        raise ShapeError(f"{name}: got shape {given.shape}, expected (n, {dim})")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(given, dtype="<f4")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ShapeError(f"{name}: row {int(np.argmin(finite))} holds NaN or infinity (as float32)")
    norms = _norms(rows)
    if (norms > LONGEST).any():
        raise ShapeError(f"{name}: row {int(np.argmax(norms))} is too long: its norm is above {LONGEST:g}")
    if np.abs(rows).max(initial=0) > largest:
        worst = int(np.argmax(np.abs(rows).max(axis=1)))
        raise ShapeError(f"{name}: row {worst} holds a value beyond {largest:g}, more than the index stores")
    if metric == "cosine" and (norms < SHORTEST).any():
        what = "zero" if norms.min() == 0 else f"too short: its norm is below {SHORTEST:g}"
        raise ShapeError(f"{name}: row {int(np.argmin(norms))} is {what}; cosine needs a direction")
    return rows


def checked_query(query: npt.ArrayLike, dim: int, metric: str) -> Vectors:
    """One query as (dim,), under the same conditions."""
    rows = checked(query, dim, metric, "query")
    if len(rows) != 1:
        raise ShapeError(f"query: got {len(rows)} rows, expected one vector of {dim} numbers")
    query_row: Vectors = rows[0]
    return query_row
