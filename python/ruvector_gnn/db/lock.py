"""One writer at a time: an exclusive `flock`, which the kernel drops when the process ends, however it
ends."""

import errno
import fcntl
import os
import stat

from ruvector_gnn.db import fork
from ruvector_gnn.db.names import LOCK
from ruvector_gnn.db.place import Place
from ruvector_gnn.errors import FormatError

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class WriterLock:
    """Held from construction to `release`; the file names the holder for the message of a second writer."""

    def __init__(self, place: Place) -> None:
        """Take the lock or raise `BlockingIOError` naming the process that holds it."""
        self._place = place
        self._fd = -1
        while self._fd < 0:
            opened = _open(place)
            try:
                _lock(opened, place)
                self._fd = opened
                if self.is_in_place():
                    os.ftruncate(opened, 0)
                    os.pwrite(opened, str(os.getpid()).encode(), 0)
                else:
                    self.release()  # the file was removed before it was locked
            except BaseException:
                os.close(opened)
                raise
        fork.watch(self)

    @property
    def held(self) -> bool:
        """Whether this process is the writer."""
        return self._fd >= 0

    def is_in_place(self) -> bool:
        """Whether a second writer would meet this lock: False once the file was removed or replaced."""
        held = os.fstat(self._fd)
        try:
            there = os.lstat(LOCK, dir_fd=self._place.folder)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)

    def release(self) -> None:
        """Let the next writer in; more than once does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def after_fork_in_child(self) -> None:
        """Let go: the copy of a child would keep the lock of a parent that has died."""
        self.release()


def _open(place: Place) -> int:
    path = place.current() / LOCK
    try:
        opened = os.open(LOCK, _FLAGS, 0o666, dir_fd=place.folder)
    except OSError as refused:
        if refused.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise FormatError(f"{path}: not a regular file, which it must be") from None
        raise type(refused)(refused.errno, refused.strerror, str(path)) from None
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise FormatError(f"{path}: not a regular file, which it must be")
    return opened


def _lock(opened: int, place: Place) -> None:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(opened, 20, 0).decode(errors="replace") or "unknown"
        raise BlockingIOError(
            errno.EAGAIN,
            f"already open for writing, by process {holder}; readers open it with mode='r'",
            str(place.path),
        ) from None
