"""The append-only vectors file.

    bytes  0..8    magic "RVDBVEC1"
           8..12   format version, little-endian u32
          12..16   dimensions, u32
          16..20   bound, u32: of the rows below it the file holds only those in the list
          20..24   length of the list, u32
          24..28   CRC-32 of the list, u32
          28..32   CRC-32 of the bytes before, u32
          32..64   zeros
          64..     the list: row numbers, u32, rising; zeros up to a multiple of 64 bytes
                   then the vectors of the rows in the list and of all from the bound on, little-endian
                   float32

Rows keep their numbers through a compaction, which writes a new file: its list holds the rows that live. The
file does not know how many of its rows count: the catalog does. Bytes behind the committed rows are what an
interrupted writer left; the next append overwrites them.
"""

import errno
import mmap
import os
import stat
import struct
import weakref
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ruvector_gnn.db.disk import flush
from ruvector_gnn.db.place import keep_access
from ruvector_gnn.db.vectors import Vectors
from ruvector_gnn.errors import FormatError

Rows = npt.NDArray[np.int64]

MAGIC = b"RVDBVEC1"
VERSION = 2
HEADER = 64
_VERSIONED = struct.Struct("<8sI")
_FIELDS = struct.Struct("<8sIIIII")
_CRC = struct.Struct("<I")
_LISTED = np.dtype("<u4")
# A symbolic link is refused, and a pipe is not waited for.
_NO_DETOURS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True)
class Committed:
    """The committed rows of a vectors file, mapped, read-only."""

    path: Path
    bound: int
    """All rows from this one on are there, ..."""
    listed: npt.NDArray[np.uint32]
    """... and of those below it these, rising."""
    vectors: Vectors
    """(n, dim): those of the rows in the list, then those from the bound on."""

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.vectors)

    def rows(self) -> Rows:
        """The numbers of all rows there are, rising."""
        later = np.arange(len(self) - len(self.listed)) + self.bound
        return np.concatenate([self.listed.astype(np.int64), later])

    def places(self, rows: Rows | Sequence[int]) -> Rows:
        """Where rows stand in `vectors`; -1 for those that are not there."""
        rows = np.asarray(rows, dtype=np.int64)
        places = rows - (self.bound - len(self.listed))
        if self.bound:
            early = (rows >= 0) & (rows < self.bound)
            wanted = rows[early].astype(_LISTED)
            found = np.searchsorted(self.listed, wanted)
            there = found < len(self.listed)
            there[there] = self.listed[found[there]] == wanted[there]
            places[early] = np.where(there, found, -1)
        places[(rows < 0) | (places >= len(self))] = -1
        return places

    def known(self, rows: Rows) -> Rows:
        """Those of `rows` that are there."""
        kept: Rows = rows[self.places(rows) >= 0]
        return kept

    def take(self, rows: Rows | Sequence[int]) -> Vectors:
        """The vectors of rows, mapped where they lie side by side; `FormatError` if one is not there."""
        places = self.places(rows)
        if (places < 0).any():
            lost = int(np.asarray(rows)[places < 0][0])
            raise FormatError(f"{self.path}: row {lost} is missing")
        if len(places) and (np.diff(places) == 1).all():
            return self.vectors[places[0] : places[-1] + 1]
        return self.vectors[places]


class VectorFile:
    """Rows of `dim` float32 in a file; a writer appends, readers map what is committed."""

    def __init__(self, path: Path, *, writable: bool, folder: int | None = None) -> None:
        """Open an existing file and check its header; raises `FormatError` if it is not ours or torn.

        With `folder`, a descriptor of its directory, only the last part of `path` is used. It is closed by
        `close` or with the last reference; mapped rows stay readable.
        """
        self.path = path
        flags = (os.O_RDWR if writable else os.O_RDONLY) | _NO_DETOURS
        try:
            self._file = os.open(path if folder is None else path.name, flags, dir_fd=folder)
        except OSError as refused:
            if refused.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise FormatError(f"{path}: not a regular file, which it must be") from None
            raise type(refused)(refused.errno, refused.strerror, str(path)) from None
        self.close = weakref.finalize(self, os.close, self._file)
        try:
            found = os.fstat(self._file)
            if not stat.S_ISREG(found.st_mode):
                raise FormatError(f"{path}: not a regular file, which it must be")
            self.identity = found.st_dev, found.st_ino
            self.dim, self._bound, self._listed, self._list_crc = self._read_header()
        except BaseException:
            self.close()
            raise
        self._start = _start(self._listed)

    @staticmethod
    def create(
        path: Path,
        dim: int,
        *,
        bound: int = 0,
        listed: Rows | None = None,
        blocks: Iterable[Vectors] = (),
        folder: int | None = None,
        like: os.stat_result | None = None,
    ) -> None:
        """Write a new file and have it reach the disk; raises `FileExistsError` if there is one.

        The file holds the rows in the list, whose vectors are the `blocks`; the next append is of row
        `bound`. With `folder`, a descriptor of its directory, only the last part of `path` is used. With
        `like`, it has mode and owner of another file.
        """
        rows = np.empty(0, _LISTED) if listed is None else listed.astype(_LISTED)
        fields = _FIELDS.pack(MAGIC, VERSION, dim, bound, len(rows), zlib.crc32(rows.tobytes()))
        header = (fields + _CRC.pack(zlib.crc32(fields))).ljust(HEADER, b"\0")
        name = path if folder is None else path.name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600 if like else 0o666, dir_fd=folder), "wb") as file:
            try:
                if like is not None:
                    keep_access(file.fileno(), like)
                file.write((header + rows.tobytes()).ljust(_start(len(rows)), b"\0"))
                for block in blocks:
                    file.write(block.tobytes())
                file.flush()
                flush(file.fileno())
            except BaseException:
                os.unlink(name, dir_fd=folder)
                raise

    def _read_header(self) -> tuple[int, int, int, int]:
        header = os.pread(self._file, HEADER, 0)
        if len(header) < HEADER or header[:7] != MAGIC[:7]:
            raise FormatError(f"{self.path}: not a vectors file of this package, or torn")
        version = _VERSIONED.unpack_from(header)[1]
        if version != VERSION:
            raise FormatError(f"{self.path}: format version {version}, this package reads {VERSION}")
        if _CRC.unpack_from(header, _FIELDS.size)[0] != zlib.crc32(header[: _FIELDS.size]):
            raise FormatError(f"{self.path}: the header is damaged")
        _, _, dim, bound, listed, crc = _FIELDS.unpack_from(header)
        return dim, bound, listed, crc

    def append(self, rows: Vectors, at: int, *, sync: bool) -> None:
        """Write `rows` as the rows from `at` on; with `sync` they have reached the disk when this returns."""
        data = rows.data.cast("B") if rows.size else memoryview(b"")
        offset = self._start + (at - self._bound + self._listed) * self.dim * 4
        while data:
            written = os.pwrite(self._file, data, offset)
            data, offset = data[written:], offset + written
        if sync:
            self.flush()

    def flush(self) -> None:
        """Return once all that was written has reached the disk."""
        flush(self._file)

    def committed(self, rows: int) -> Committed:
        """All rows below `rows` that the file holds; raises `FormatError` if it is shorter."""
        have, count = os.fstat(self._file).st_size, rows - self._bound + self._listed
        need = self._start + count * self.dim * 4
        if have < need or count < self._listed:
            raise FormatError(f"{self.path}: torn: {have} bytes, but {rows} committed rows need {need}")
        mapped = mmap.mmap(self._file, need, access=mmap.ACCESS_READ)
        listed = np.frombuffer(mapped, _LISTED, self._listed, HEADER)
        values = np.frombuffer(mapped, "<f4", count * self.dim, self._start)
        return Committed(self.path, self._bound, listed, values.reshape(count, self.dim))

    def check_list(self, committed: Committed) -> None:
        """Raise `FormatError` unless the list is as it was written."""
        if zlib.crc32(committed.listed.tobytes()) != self._list_crc:
            raise FormatError(f"{self.path}: the list of rows is damaged")


def _start(listed: int) -> int:
    """Where vectors begin behind a list of that many rows."""
    return HEADER + -(-listed * _LISTED.itemsize // HEADER) * HEADER
