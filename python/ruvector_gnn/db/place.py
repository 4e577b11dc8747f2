"""The directory of a database, under whatever path it has at the moment.

A handle belongs to the directory that it opened. It keeps that directory open, so that its inode is not used
again, and compares inodes before it uses a path: a change of the working directory or a new name make no
difference, and another directory at the old path is never touched.
"""

import errno
import fcntl
import os
import stat
import sys
import weakref
from contextlib import suppress
from pathlib import Path

from ruvector_gnn.errors import FormatError

# O_PATH needs no permission to list the directory; macOS has none.
_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_LONGEST_PATH = 1024  # MAXPATHLEN of macOS, which F_GETPATH requires


class Place:
    """A directory, found again after it was renamed."""

    def __init__(self, path: Path) -> None:
        """Opens the directory at `path`."""
        self._path = Path(os.path.abspath(path))
        self.folder = os.open(self._path, _FLAGS)
        """A descriptor, for calls that take `dir_fd`."""
        self._release = weakref.finalize(self, os.close, self.folder)
        found = os.fstat(self.folder)
        self._identity = found.st_dev, found.st_ino

    @property
    def path(self) -> Path:
        """The path as far as it is known; unlike `current` it may be out of date."""
        try:
            return self.current() if self._release.alive else self._path
        except FileNotFoundError:
            return self._path

    def close(self) -> None:
        """Lets go of the directory; `path` stays what it was."""
        self._path = self.path
        self._release()

    def current(self) -> Path:
        """The absolute path that leads to the directory now.

        Raises `FileNotFoundError` if the directory was removed, or another one has replaced it.
        """
        if not self._is_at(self._path):
            found = _path_of(self.folder)
            if found is None or not self._is_at(found):
                raise FileNotFoundError(
                    errno.ENOENT,
                    "the directory of the open database was removed or replaced; close this handle and open"
                    " what is there now",
                    str(self._path),
                )
            self._path = found
        return self._path

    def _is_at(self, path: Path) -> bool:
        try:
            found = os.stat(path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def regular(self, name: str) -> os.stat_result:
        """The status of a file in the directory.

        Raises `FileNotFoundError` without it, and `FormatError` if it is a symbolic link or no file at all.
        """
        try:
            found = os.lstat(name, dir_fd=self.folder)
        except FileNotFoundError as missing:
            raise FileNotFoundError(missing.errno, missing.strerror, str(self._path / name)) from None
        if not stat.S_ISREG(found.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a regular file"
            raise FormatError(f"{self._path / name}: {kind}, expected a regular file")
        return found

    def has(self, name: str) -> bool:
        """Whether the directory holds a regular file of this name."""
        try:
            return stat.S_ISREG(os.lstat(name, dir_fd=self.folder).st_mode)
        except FileNotFoundError:
            return False

    def make_like(self, name: str, other: str) -> None:
        """Makes an empty file with mode and owner of another one; what replaces it keeps both."""
        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.folder)
        try:
            keep_access(made, os.lstat(other, dir_fd=self.folder))
        finally:
            os.close(made)

    def remove(self, name: str) -> None:
        """Removes a file of the directory, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.folder)


def keep_access(opened: int, other: os.stat_result) -> None:
    """Gives an open file mode and owner of another one.

    Where the system refuses the owner, no user gains access that they lack to the other file.
    """
    with suppress(PermissionError):
        os.fchown(opened, other.st_uid, other.st_gid)
    mode = stat.S_IMODE(other.st_mode) & 0o777
    if os.fstat(opened).st_gid != other.st_gid:
        common = mode >> 3 & mode & 0o7
        mode = mode & 0o700 | common << 3 | common
    os.fchmod(opened, mode)


def _path_of(folder: int) -> Path | None:
    """The path of an open directory, as the system knows it."""
    try:
        if sys.platform == "darwin":
            found = fcntl.fcntl(folder, fcntl.F_GETPATH, bytes(_LONGEST_PATH))
            return Path(os.fsdecode(found.rstrip(b"\0")))
        return Path(os.readlink(f"/proc/self/fd/{folder}"))
    except OSError:
        return None
