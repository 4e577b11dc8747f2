"""Forks of a process that has databases open.

SQLite keeps the locks of its files in tables of the process. A forked child inherits these tables but not the
locks, so a child that uses SQLite on a file that its parent had open may lose commits, or read stale pages.
Therefore every connection of the process is closed before a fork, and opened again when it is next used, on
both sides. A connection that is busy at that moment can't be closed. The child then keeps it for ever,
neither used nor closed, and refuses to open that database.

Locks and counters of the parent's other threads mean nothing in the child: it replaces them.
"""

import ctypes
import os
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ruvector_gnn.errors import ConfigError

# A transaction ends within milliseconds. A thread that waits for the forking one never ends its own.
SECONDS_TO_WAIT = 5.0

Identity = tuple[int, int]
"""Device and inode of a file."""


class Watched(Protocol):
    """An object with locks or state of threads."""

    def after_fork_in_child(self) -> None:
        """Replaces what belonged to the parent's threads."""


class Closable(Watched, Protocol):
    """A connection that must not be open across a fork."""

    def before_fork(self, deadline: float) -> bool:
        """Closes the connection and keeps its lock, which it waits for until `deadline`.

        Returns whether the lock is held.
        """

    def after_fork_in_parent(self) -> None:
        """Releases the lock."""


_guard = threading.RLock()
_watched: weakref.WeakSet[Watched] = weakref.WeakSet()
_connections: weakref.WeakSet[Closable] = weakref.WeakSet()
_closed: list[Closable] = []
_forking: int | None = None
_process = os.getpid()
_kept: list[object] = []
_blocked: set[Identity] = set()
_all_blocked = False


def watch(thing: Watched) -> None:
    """Has `after_fork_in_child` of `thing` called in every forked child."""
    with _guard:
        _watched.add(thing)


def watch_connection(connection: Closable) -> None:
    """Has a connection closed before every fork."""
    with _guard:
        _connections.add(connection)


def connections() -> tuple[Closable, ...]:
    """All connections of this process; waits for no lock, so that it may be called with one held."""
    while True:
        with suppress(RuntimeError):  # another thread adds one
            return tuple(_connections)


def keep(*things: object) -> None:
    """Keeps objects of the parent for ever: destroying one could block, or change the parent's files."""
    for thing in things:
        _kept.append(thing)
        # The interpreter drops what modules refer to when it ends, but not what has a reference too many.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def block(identity: Identity | None, *, everything: bool) -> None:
    """Refuses one database in this process from now on, or all if SQLite itself may be locked for ever."""
    global _all_blocked
    if identity is not None:
        _blocked.add(identity)
    _all_blocked = _all_blocked or everything


def check(identity: Identity, folder: Path) -> None:
    """Raises `ConfigError` if the database can't be used in this forked child."""
    notice_fork()
    if _all_blocked or identity in _blocked:
        raise ConfigError(
            f"{folder}: can't be opened in this forked process, because a call on a database was in progress"
            ' during the fork; start processes with the "spawn" method, or fork before a database is opened'
            " or while no call is in progress"
        )


def notice_fork() -> None:
    """Does the child's part after a fork of which Python was not told."""
    if os.getpid() != _process:
        _after_in_child()


def _before() -> None:
    global _forking
    deadline = time.monotonic() + SECONDS_TO_WAIT
    if not _guard.acquire(timeout=SECONDS_TO_WAIT):
        return  # another thread is forking; what it has closed is closed for this fork too
    _forking = threading.get_ident()
    for connection in connections():
        if connection.before_fork(deadline):
            _closed.append(connection)


def _after_in_parent() -> None:
    global _forking
    if _forking == threading.get_ident():
        while _closed:
            _closed.pop().after_fork_in_parent()
        _forking = None
        _guard.release()


def _after_in_child() -> None:
    global _guard, _forking, _process
    _guard, _forking, _process = threading.RLock(), None, os.getpid()
    _closed.clear()
    for thing in (*_connections, *_watched):
        thing.after_fork_in_child()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
