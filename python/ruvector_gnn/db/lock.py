"""One writer at a time: an exclusive `flock`, which the kernel drops when the process ends, however it
ends."""

import errno
import fcntl
import os
import weakref
from pathlib import Path


class WriterLock:
    """Held from construction to `release`; the file names the holder for the message of a second writer."""

    def __init__(self, path: Path) -> None:
        """Take the lock or raise `BlockingIOError` naming the process that holds it."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            holder = os.pread(self._fd, 20, 0).decode(errors="replace") or "unknown"
            os.close(self._fd)
            raise BlockingIOError(
                errno.EAGAIN,
                f"already open for writing, by process {holder}; readers open it with mode='r'",
                str(path.parent),
            ) from None
        except BaseException:
            os.close(self._fd)
            raise
        _held.add(self)

    def release(self) -> None:
        """Let the next writer in; more than once does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _let_go() -> None:
    """In a forked child, whose copies would keep the locks of a parent that has died."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_let_go)
