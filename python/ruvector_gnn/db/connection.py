"""A connection to an SQLite file that survives forks, renamed directories and read-only places.

It is closed before a fork and opened again when it is next used (see `fork`), as it is when the directory was
renamed. What is at another path, or another file at the same path, is never used.

No code may open the file, or its `-wal` and `-shm`, by other means: closing any descriptor of a file drops
the locks that SQLite has on it in this process.
"""

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ruvector_gnn.db import fork
from ruvector_gnn.db.errors import ReplacedError, catalog_errors
from ruvector_gnn.db.place import Place
from ruvector_gnn.errors import ConfigError, FormatError

BUSY_SECONDS = 30
_FOLD_MILLISECONDS = 500
_SECONDS_FOR_MOVED = 2.0
_TRIES = 10
_INTERRUPT_EVERY = 0.02
_PAUSE = 0.001
_CLOCK_TICK = 0.05  # file systems round times, to some milliseconds
_REPLACED = "was removed or replaced while it was open; close this handle and open the database again"

_Signature = tuple[int, ...]


class Changed(OSError):
    """A file that was read without locks changed meanwhile, again and again."""


class Interrupted(Exception):
    """A fork is waiting; the reading must end, and may begin again."""


class Connection:
    """A connection, shared by the threads of a process under a lock.

    With `interruptible=True` a fork does not wait for its statements: they raise `Interrupted`.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        *,
        writable: bool,
        synchronous: str = "normal",
        create: bool = False,
        interruptible: bool = False,
    ) -> None:
        """Connects to the file `name` in a directory."""
        self._place = place
        self._name = name
        self._writable = writable
        self._synchronous = synchronous
        self.interruptible = interruptible
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._depth = 0  # of the sessions of the thread that holds the lock, the owner
        self._owner = 0
        self._in_sqlite = False
        self._fork_waits = False
        self._written = False
        self._generation = 0
        self._file = ""
        self._identity: fork.Identity | None = None
        self._unlocked: _Signature | None = None
        fork.watch_connection(self)
        with self._lock, catalog_errors(lambda: self.path):
            self._connect(create=create)

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self._place.path / self._name

    # --- use
    @contextmanager
    def session(self) -> Iterator[sqlite3.Connection]:
        """The connection, which stays the same and this thread's until the outermost session ends."""
        if self._fork_waits:
            self._let_fork_pass()
        with self._lock, catalog_errors(lambda: self.path):
            depth = self._depth
            connection = self._ready() if depth == 0 else self._expect(self._connection)
            self._depth, self._owner = depth + 1, threading.get_ident()
            try:
                yield connection
            finally:
                self._depth = depth

    def _let_fork_pass(self) -> None:
        """Waits for a fork that waits for the lock, which a busy thread would take again before it."""
        while self._fork_waits and not (self._depth and self._owner == threading.get_ident()):
            time.sleep(_PAUSE)

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """All or nothing; `kind="DEFERRED"` gives several reads one view.

        Raises `Changed` if the file was read without locks and has changed.
        """
        if kind != "DEFERRED" and not self._writable:
            raise ConfigError(f"{self._place.path}: open for reading only")
        with self.session() as connection:
            self._run(connection.execute, f"BEGIN {kind}")
            try:
                yield
                self._run(self._expect(connection).execute, "COMMIT")
            except BaseException as failed:
                # In a forked child the transaction is the parent's.
                if self._connection is connection and connection.in_transaction:
                    connection.execute("ROLLBACK").close()
                if isinstance(failed, Exception):  # which mixed pages may have caused
                    self._check_unchanged()
                raise
            self._check_unchanged()

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """A transaction that outlasts power loss too, whatever `synchronous` says."""
        with self.session() as connection:
            self._run(connection.execute, "PRAGMA synchronous = full")
            try:
                with self.transaction():
                    yield
            finally:
                if self._connection is connection:
                    self._run(connection.execute, f"PRAGMA synchronous = {self._synchronous}")

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Runs one statement and returns its rows."""
        for _ in range(_TRIES):
            with self.session() as connection:
                try:
                    rows = self._run(connection.execute, sql, parameters)
                except sqlite3.Error:
                    if self._depth > 1 or self._is_unchanged():
                        raise
                else:
                    if self._depth > 1 or self._is_unchanged():
                        return rows
        raise Changed(f"{self._file}: changed while it was read, {_TRIES} times")

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs one statement for each row of parameters."""
        with self.session() as connection:
            self._run(connection.executemany, sql, rows)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The single value that a query returns, or None without a row."""
        rows = self.execute(sql, parameters)
        return rows[0][0] if rows else None

    @property
    def has_written(self) -> bool:
        """Whether anything was changed here since the file was opened first."""
        with self.session() as connection:
            return self._written or connection.total_changes > 0

    def data_version(self) -> tuple[int, int]:
        """A value that changes when another connection has committed."""
        with self.session():
            return self._generation, int(self.one("PRAGMA data_version"))

    def fold_log(self) -> None:
        """Moves the write-ahead log into the file and empties it, unless a reader needs it now."""
        with self.session() as connection:
            self._run(connection.execute, f"PRAGMA busy_timeout = {_FOLD_MILLISECONDS}")
            try:
                self._run(connection.execute, "PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self._run(connection.execute, f"PRAGMA busy_timeout = {1000 * BUSY_SECONDS}")

    def close(self) -> None:
        """Closes the file; the last connection folds the write-ahead log in. Twice does nothing."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def _run(self, call: Callable[..., sqlite3.Cursor], *arguments: Any) -> list[Any]:
        if self._fork_waits and self.interruptible:
            raise Interrupted
        self._in_sqlite = True
        try:
            return call(*arguments).fetchall()
        except sqlite3.OperationalError as stopped:
            if self._fork_waits and "interrupted" in str(stopped):
                raise Interrupted from None
            raise
        finally:
            self._in_sqlite = False

    def _expect(self, connection: sqlite3.Connection | None) -> sqlite3.Connection:
        """Raises `ConfigError` unless the connection is still the one of this session."""
        if connection is None or self._connection is not connection:
            raise ConfigError(f"{self._place.path}: the call began before a fork, and ends in the child")
        return connection

    # --- opening
    def _ready(self) -> sqlite3.Connection:
        """The connection to the file that was opened first, opened again if need be."""
        if self._closed:
            raise ConfigError(f"{self._place.path}: closed")
        fork.notice_fork()
        if self._connection is not None:
            if _identity_of(self._file) != self._identity:
                if self._current_file() == self._file:
                    raise ReplacedError(f"{self._file}: {_REPLACED}")
                self._disconnect()  # the directory has another name now
            elif not self._is_unchanged():
                self._disconnect()  # a writer has opened the database since
        if self._connection is None:
            self._connect()
        return self._expect(self._connection)

    def _current_file(self) -> str:
        return str(self._place.current() / self._name)

    def _connect(self, *, create: bool = False) -> None:
        file = self._file = self._current_file()
        found = _identity_of(file)
        if self._identity not in (None, found):
            raise ReplacedError(f"{file}: {_REPLACED}")
        if found is not None:
            fork.check(found, self._place.path)
            self._close_moved(found, file)
        unlocked = None if self._writable else _readable_without_locks(file)
        writing = "rwc" if create else "rw"
        options = "mode=ro&immutable=1" if unlocked else f"mode={writing if self._writable else 'ro'}"
        try:
            self._connection = self._connected(f"{Path(file).as_uri()}?{options}")
            if _identity_of(file) != (found or _identity_of(file)) or self._current_file() != file:
                raise FormatError(f"{file}: was replaced while it was being opened")
        except BaseException as failed:
            self._disconnect()
            if isinstance(failed, sqlite3.OperationalError):
                raise self._explained(failed, file) from None
            raise
        self._identity, self._unlocked = _identity_of(file), unlocked
        self._generation += 1

    def _connected(self, uri: str) -> sqlite3.Connection:
        self._in_sqlite = True
        try:
            # Transactions are begun and ended by hand.
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
            )
            # From here on a fork, or a failure below, finds it.
            self._connection = connection
            for statement in (
                f"PRAGMA synchronous = {self._synchronous}",
                "PRAGMA fullfsync = 1",  # only macOS knows a difference
                "PRAGMA secure_delete = 1",
                "SELECT 1 FROM sqlite_master",
            ):
                connection.execute(statement).fetchall()
            return connection
        finally:
            self._in_sqlite = False

    def _explained(self, refused: sqlite3.OperationalError, file: str) -> Exception:
        """What to do about a log that can't be read without writing beside it."""
        unusable = any(words in str(refused) for words in ("unable to open", "readonly", "locking protocol"))
        if self._writable or not unusable or not _size(f"{file}-wal"):
            return refused
        return PermissionError(
            errno.EACCES,
            f"its writer has not closed the database, and its log can't be read here without write permission"
            f" ({refused}); close it, or open it once for writing, or open a copy of the whole directory",
            str(self._place.path),
        )

    def _disconnect(self) -> None:
        """Closes the connection, which is opened again when it is next used."""
        connection = self._connection
        if connection is None:
            return
        self._in_sqlite = True
        # What was committed is in the log, where the next connection finds it, even if closing fails.
        with suppress(sqlite3.Error):
            self._written = self._written or connection.total_changes > 0
            connection.close()
        self._connection, self._in_sqlite = None, False

    def _close_moved(self, identity: fork.Identity, file: str) -> None:
        """Closes idle connections of this process to the same file by a path that it had before.

        The connections of a process share the path of the `-shm` file that the last one removes.
        """
        for other in fork.connections():
            if not isinstance(other, Connection) or other is self:
                continue
            moved = other._identity == identity and other._file != file
            if moved and other._lock.acquire(timeout=_SECONDS_FOR_MOVED):
                if other._depth == 0:
                    other._disconnect()
                other._lock.release()

    # --- files without locks
    @property
    def without_locks(self) -> bool:
        """Whether the file is read without locks and without a log."""
        return self._unlocked is not None

    def _is_unchanged(self) -> bool:
        return self._unlocked is None or _signature(self._file) == self._unlocked

    def _check_unchanged(self) -> None:
        if not self._is_unchanged():
            raise Changed(f"{self._file}: changed while it was read")

    # --- forks
    def before_fork(self, deadline: float) -> bool:
        """Closes the connection and keeps the lock over the fork, if that is possible until `deadline`."""
        self._fork_waits = True
        held = False
        try:
            held = self._acquire_for_fork(deadline)
            if held and self._depth == 0:  # else the forking thread itself is within a transaction
                self._disconnect()
        except BaseException:
            if held:
                self._lock.release()
            self._fork_waits = held = False
            raise
        self._fork_waits = held
        return held

    def _acquire_for_fork(self, deadline: float) -> bool:
        while not self._lock.acquire(blocking=False):
            wait = deadline - time.monotonic()
            if wait <= 0:
                return False
            if self.interruptible:
                wait = min(wait, _INTERRUPT_EVERY)
                if self._in_sqlite and (connection := self._connection) is not None:
                    with suppress(sqlite3.ProgrammingError):  # its thread has closed it meanwhile
                        connection.interrupt()
            if self._lock.acquire(timeout=wait):
                break
        return True

    def after_fork_in_parent(self) -> None:
        """Lets other threads use the connection again."""
        self._fork_waits = False
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Keeps a connection that could not be closed, unused, and refuses its file in this process."""
        if self._connection is not None or self._in_sqlite:
            fork.keep(self._connection)
            fork.block(self._identity or _identity_of(self._file), everything=self._in_sqlite)
            self._connection = None
        self._lock = threading.RLock()
        self._depth, self._in_sqlite, self._fork_waits = 0, False, False
        self._writable = False  # the lock of the writer is the parent's


def _identity_of(file: str) -> fork.Identity | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except FileNotFoundError:
        return 0


def _signature(file: str) -> _Signature | None:
    """What changes when a file without a log is written to; None while there is a log."""
    found = os.stat(file)
    if _size(f"{file}-wal"):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _readable_without_locks(file: str) -> _Signature | None:
    """The signature of a file that is complete without its log, where this process can't write; else None.

    SQLite makes two files beside the one that it reads. It can't in a read-only place, and would leave files
    that the database's owner can't write in a shared one.
    """
    effective = os.access in os.supports_effective_ids
    if all(os.access(path, os.W_OK, effective_ids=effective) for path in (os.path.dirname(file), file)):
        return None
    if abs(time.time() - os.stat(file).st_ctime) < _CLOCK_TICK:
        time.sleep(_CLOCK_TICK)  # so that a later change has a later time
    return _signature(file)
