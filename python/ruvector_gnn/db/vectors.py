"""The append-only vectors file, and the checks that every vector passes before it is written anywhere.

    bytes  0..8    magic "RVDBVEC1"
           8..12   format version, little-endian u32
          12..16   dimensions, u32
          16..20   CRC-32 of the bytes before, u32
          20..64   zeros
          64..     rows of little-endian float32

The file does not know how many of its rows count: the catalog does. Bytes behind the committed rows are what
an interrupted writer left; the next append overwrites them.
"""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ruvector_gnn.db.disk import flush
from ruvector_gnn.errors import FormatError, ShapeError

Vectors = npt.NDArray[np.float32]

MAGIC = b"RVDBVEC1"
VERSION = 1
HEADER = 64
_FIELDS = struct.Struct("<8sII")
_CRC = struct.Struct("<I")

# Within what the index takes, whose own check must never refuse a row that was committed.
LONGEST = 1e18
SHORTEST = 1e-14


def usable(rows: Vectors, metric: str) -> npt.NDArray[np.bool_]:
    """Which of `rows` the index takes."""
    norms = _norms(rows)
    fit = np.isfinite(rows).all(axis=1) & (norms <= LONGEST)
    return fit & (norms >= SHORTEST) if metric == "cosine" else fit


def _norms(rows: Vectors) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):
        norms: npt.NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return norms


def checked(vectors: npt.ArrayLike, dim: int, metric: str, name: str = "vectors") -> Vectors:
    """`vectors` as (n, dim) little-endian float32 rows; one row may be given as (dim,).

    Raises `ShapeError` for other shapes and types, for NaN and infinity, for norms whose square overflows
    float32, and for a zero vector under cosine.
    """
    try:
        given = np.asarray(vectors)
    except ValueError as ragged:
        raise ShapeError(f"{name}: not a rectangular array ({ragged})") from None
    if given.ndim == 1:
        given = given[np.newaxis] if given.size else np.empty((0, dim), dtype=np.float32)
    if given.dtype.kind not in "fiub":
        raise ShapeError(f"{name}: got type {given.dtype}, expected numbers")
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


class VectorFile:
    """Rows of `dim` float32 in a file; a writer appends, readers map what is committed."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open an existing file and check its header; raises `FormatError` if it is not ours or torn."""
        self.path = path
        try:
            # Open for as long as the object lives; close() closes it.
            self._file = open(path, "r+b" if writable else "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            raise FormatError(f"{path}: the vectors file is missing") from None
        try:
            self.dim = self._read_header()
        except BaseException:
            self._file.close()
            raise

    @staticmethod
    def create(path: Path, dim: int) -> None:
        """Write an empty file in place of whatever stands at `path`, and have it reach the disk."""
        fields = _FIELDS.pack(MAGIC, VERSION, dim)
        header = (fields + _CRC.pack(zlib.crc32(fields))).ljust(HEADER, b"\0")
        with open(path, "wb") as file:
            file.write(header)
            file.flush()
            flush(file.fileno())

    @staticmethod
    def holds_rows(path: Path) -> bool:
        """Whether there is a file at `path` with more in it than a header."""
        return path.is_file() and path.stat().st_size > HEADER

    def _read_header(self) -> int:
        header = os.pread(self._file.fileno(), HEADER, 0)
        if len(header) < HEADER or header[:7] != MAGIC[:7]:
            raise FormatError(f"{self.path}: not a vectors file of this package, or torn")
        _, version, dim = _FIELDS.unpack_from(header)
        if version != VERSION:
            raise FormatError(f"{self.path}: format version {version}, this package reads {VERSION}")
        if _CRC.unpack_from(header, _FIELDS.size)[0] != zlib.crc32(header[: _FIELDS.size]):
            raise FormatError(f"{self.path}: the header is damaged")
        return int(dim)

    def append(self, rows: Vectors, at: int, *, sync: bool) -> None:
        """Write `rows` as the rows from `at` on; with `sync` they have reached the disk when this returns."""
        data = rows.data.cast("B") if rows.size else memoryview(b"")
        offset = HEADER + at * self.dim * 4
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[written:], offset + written
        if sync:
            self.flush()

    def flush(self) -> None:
        """Return once all that was written has reached the disk."""
        flush(self._file.fileno())

    def rows(self, count: int) -> Vectors:
        """The first `count` rows, mapped, read-only; raises `FormatError` if the file is shorter."""
        have = os.fstat(self._file.fileno()).st_size
        need = HEADER + count * self.dim * 4
        if have < need:
            raise FormatError(f"{self.path}: torn: {have} bytes, but {count} committed rows need {need}")
        if count == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        return np.memmap(self._file, dtype="<f4", mode="r", offset=HEADER, shape=(count, self.dim))

    def close(self) -> None:
        """Close the file; mapped rows stay readable."""
        self._file.close()
