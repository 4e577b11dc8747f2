"""`ClickLog`: impressions in flat arrays."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ruvector_gnn import _core
from ruvector_gnn.clicks._ragged import MISSING, Int64s, Ragged, frozen, pair_keys, ragged
from ruvector_gnn.errors import ConfigError, FormatError, RowError, ShapeError

if TYPE_CHECKING:
    from ruvector_gnn.clicks._merge import MergedQueries

Session = int | str | None

_FORMAT = "ruvector_gnn.ClickLog 1"
_FIELDS = frozenset(
    (
        *("format", "queries", "shown_starts", "shown_rows", "recorded", "clicked_starts", "clicked_rows"),
        *("explored", "times", "sessions"),
    )
)


class ClickLog:
    """Impressions: queries, the rows that were shown in order, and the rows that were clicked.

    A log is immutable; its arrays are read-only.

    Parameters
    ----------
    queries : array_like of float, shape (n, dim)
        The query of each impression.
    shown : sequence of n arrays of int, or None
        Rows of each impression in the order shown. None, for one impression or for all, means that the order
        was not recorded. A row of -1 holds a place whose document is unknown or deleted, so that the
        rows below keep their places; at the end of a list it is dropped.
    clicked : sequence of n arrays of int
        Rows that were clicked. A row given twice counts once, and -1 is dropped. A row that is not among
        those shown is kept: it counts as a click at an unknown place, as do all clicks of an impression
        without `shown`.
    times : array_like of float, shape (n,), optional
        Seconds, by any clock.
    sessions : sequence of n str, int or None, optional
        Who asked. Impressions of one query within one session together weigh as much as one impression;
        None is a session of its own.
    explored : array_like of bool, shape (n,), optional
        Impressions whose order was shuffled before it was shown. By default none.

    Raises
    ------
    ShapeError
        If the lengths differ, or values have the wrong type, are NaN or infinite.
    RowError
        For a row below -1, or one that stands twice in one list of `shown`.
    ConfigError
        For a session that is no string, no 64-bit integer and not None.

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> log = rg.ClickLog([[1, 0], [0, 1]], shown=[[4, 7, 2], None], clicked=[[7], [2]], times=[10, 20])
    >>> log
    ClickLog(2 impressions, dim=2, 1 with shown, 0 explored)
    >>> log.shown[0], log.since(15).clicked
    (array([4, 7, 2]), [array([2])])
    """

    def __init__(
        self,
        queries: npt.ArrayLike,
        shown: Any,
        clicked: Any,
        times: npt.ArrayLike | None = None,
        sessions: Iterable[Session] | None = None,
        explored: npt.ArrayLike | None = None,
    ) -> None:
        """See the class."""
        self._queries = _query_array(queries)
        count = len(self._queries)
        order, self._recorded = ragged("shown", [None] * count if shown is None else shown, count)
        self._shown = _without_trailing_gaps(order)
        _check_distinct(self._shown)
        self._clicked = _distinct(*ragged("clicked", clicked, count))
        self._times = None if times is None else _time_array(times, count)
        self._sessions = None if sessions is None else _session_tuple(sessions, count)
        self._explored = _explored_array(explored, count)
        frozen(self._recorded)

    @classmethod
    def _of(
        cls,
        queries: npt.NDArray[np.float32],
        shown: Ragged,
        recorded: npt.NDArray[np.bool_],
        clicked: Ragged,
        times: npt.NDArray[np.float64] | None,
        sessions: tuple[Session, ...] | None,
        explored: npt.NDArray[np.bool_],
    ) -> ClickLog:
        """Return a log of parts that were checked before."""
        log = cls.__new__(cls)
        log._queries, log._recorded, log._explored = frozen(queries), frozen(recorded), frozen(explored)
        log._shown, log._clicked, log._sessions = shown, clicked, sessions
        log._times = None if times is None else frozen(times)
        return log

    @property
    def queries(self) -> npt.NDArray[np.float32]:
        """Queries, (n, dim)."""
        return self._queries

    @property
    def shown(self) -> list[Int64s | None]:
        """Rows shown in each impression, in order; None where that was not recorded."""
        lists = self._shown.lists()
        return [rows if known else None for rows, known in zip(lists, self._recorded.tolist(), strict=True)]

    @property
    def clicked(self) -> list[Int64s]:
        """Distinct rows clicked in each impression, ascending."""
        return self._clicked.lists()

    @property
    def times(self) -> npt.NDArray[np.float64] | None:
        """Seconds, (n,), or None."""
        return self._times

    @property
    def sessions(self) -> tuple[Session, ...] | None:
        """Session of each impression, or None."""
        return self._sessions

    @property
    def explored(self) -> npt.NDArray[np.bool_]:
        """Whether the order of each impression was shuffled, (n,)."""
        return self._explored

    def __len__(self) -> int:
        """Return the number of impressions."""
        return len(self._queries)

    def __getitem__(self, index: int | slice | npt.ArrayLike) -> ClickLog:
        """Return the log of some impressions: a slice, row numbers, a boolean mask, or one number.

        Raises
        ------
        RowError
            For a number that is out of range.
        ShapeError
            For a mask of another length, or an index of another type.
        """
        places = _places(index, len(self))
        return ClickLog._of(
            self._queries[places],
            self._shown.take(places),
            self._recorded[places],
            self._clicked.take(places),
            None if self._times is None else self._times[places],
            None if self._sessions is None else tuple(self._sessions[place] for place in places.tolist()),
            self._explored[places],
        )

    def since(self, time: float) -> ClickLog:
        """Return the impressions at `time` or later.

        Raises
        ------
        ConfigError
            If the log has no times, or `time` is no finite number.

        Examples
        --------
        >>> import ruvector_gnn as rg
        >>> len(rg.ClickLog([[1.0], [2.0]], None, [[0], [1]], times=[10, 20]).since(20))
        1
        """
        if self._times is None:
            raise ConfigError("since: the log has no times")
        if isinstance(time, bool) or not isinstance(time, int | float | np.number) or not np.isfinite(time):
            raise ConfigError(f"time must be a finite number, got {time!r}")
        return self[self._times >= float(time)]

    def merged(self) -> MergedQueries:
        """Return one entry for each distinct query.

        Queries with a cosine of at least .9999 are one, as are those joined by a chain of such pairs (single
        linkage). Memory grows with the number of queries, not with its square.

        Examples
        --------
        >>> import ruvector_gnn as rg
        >>> log = rg.ClickLog([[1, 0], [0, 1], [1, 1e-6]], None, [[0], [1], [2]])
        >>> log.merged().entry
        array([0, 1, 0])
        """
        return self._merged

    @cached_property
    def _merged(self) -> MergedQueries:
        from ruvector_gnn.clicks._merge import merge

        return merge(self._queries)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the log to one file, atomically: a NumPy archive (`.npz`) without pickles.

        The name is taken as given, whatever its suffix. A symbolic link stays, and the file that it leads to
        is replaced. Raises `OSError` where the system refuses.

        Examples
        --------
        >>> import os, tempfile
        >>> import ruvector_gnn as rg
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "clicks.log")
        ...     rg.ClickLog([[1, 0]], [[4, 7]], [[7]]).save(path)
        ...     rg.ClickLog.load(path)
        ClickLog(1 impressions, dim=2, 1 with shown, 0 explored)
        """
        texts = b"null" if self._sessions is None else json.dumps(self._sessions).encode()
        archive = io.BytesIO()
        np.savez(
            archive,
            format=np.array(_FORMAT),
            queries=self._queries,
            shown_starts=self._shown.starts,
            shown_rows=self._shown.values,
            recorded=self._recorded,
            clicked_starts=self._clicked.starts,
            clicked_rows=self._clicked.values,
            explored=self._explored,
            times=np.empty((0, 0)) if self._times is None else self._times,
            sessions=np.frombuffer(texts, dtype=np.uint8),
        )
        _replace(os.path.realpath(path), archive.getbuffer())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClickLog:
        """Read what `save` wrote.

        Raises
        ------
        FormatError
            For a damaged, truncated or foreign file. Checksums cover all values.
        OSError
            If the file can't be read.
        """
        with open(path, "rb") as file:
            data = file.read()
        try:
            return cls._parsed(data)
        except Exception as damaged:  # zipfile and NumPy raise a dozen types for damaged bytes
            raise FormatError(f"{os.fspath(path)}: not a click log, or damaged: {damaged}") from None

    @classmethod
    def _parsed(cls, data: bytes) -> ClickLog:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if set(archive.files) != _FIELDS or str(archive["format"]) != _FORMAT:
                raise FormatError(f"expected {_FORMAT!r}")
            fields = {name: archive[name] for name in _FIELDS}
        count = len(fields["queries"])
        recorded = fields["recorded"]
        if recorded.shape != (count,) or recorded.dtype != np.bool_:
            raise FormatError("one flag is expected for each impression")
        shown = _lists_of(fields["shown_starts"], fields["shown_rows"], count)
        times, sessions = fields["times"], json.loads(fields["sessions"].tobytes())
        return cls(
            fields["queries"],
            [rows if known else None for rows, known in zip(shown, recorded.tolist(), strict=True)],
            _lists_of(fields["clicked_starts"], fields["clicked_rows"], count),
            None if times.ndim == 2 else times,
            sessions,
            fields["explored"],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as its arrays."""
        parts = (self._queries, self._shown, self._recorded, self._clicked)
        return ClickLog._of, (*parts, self._times, self._sessions, self._explored)

    def __repr__(self) -> str:
        """Return the numbers of impressions."""
        return (
            f"ClickLog({len(self)} impressions, dim={self._queries.shape[1]},"
            f" {np.count_nonzero(self._recorded)} with shown, {np.count_nonzero(self._explored)} explored)"
        )


def _query_array(queries: npt.ArrayLike) -> npt.NDArray[np.float32]:
    given = _core.as_array("queries", queries)
    if given.ndim != 2 or given.dtype.kind not in "fiub" or not given.shape[1]:
        raise ShapeError(
            f"queries must be an array of numbers, shape (n, dim), got {given.dtype} {given.shape}"
        )
    with np.errstate(over="ignore"):
        array: npt.NDArray[np.float32] = np.array(given, dtype=np.float32, order="C")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ShapeError(f"queries: query {int(np.argmin(finite))} holds NaN or infinity (as float32)")
    return frozen(array)


def _without_trailing_gaps(lists: Ragged) -> Ragged:
    places, known = lists.places, lists.values != MISSING
    lengths = np.zeros(len(lists), dtype=np.int64)
    np.maximum.at(lengths, lists.owners[known], places[known] + 1)
    return lists.select(places < np.repeat(lengths, lists.lengths))


def _check_distinct(shown: Ragged) -> None:
    known = shown.values != MISSING
    owners, rows = shown.owners[known], shown.values[known]
    keys = pair_keys(owners, rows)
    order = np.argsort(keys, kind="stable")
    repeated = keys[order][1:] == keys[order][:-1]
    if repeated.any():
        second = order[1:][repeated].min()
        raise RowError(f"shown[{owners[second]}]: row {rows[second]} stands there twice")


def _distinct(clicked: Ragged, recorded: npt.NDArray[np.bool_]) -> Ragged:
    if not recorded.all():
        raise ShapeError(f"clicked[{int(np.argmin(recorded))}] must be an array of rows, got None")
    clicked = clicked.select(clicked.values != MISSING)
    _, first = np.unique(pair_keys(clicked.owners, clicked.values), return_index=True)
    owners, values = clicked.owners[first], clicked.values[first]
    return Ragged(np.searchsorted(owners, np.arange(len(clicked) + 1)).astype(np.int64), values)


def _time_array(times: npt.ArrayLike, count: int) -> npt.NDArray[np.float64]:
    given = _core.as_array("times", times)
    if given.shape != (count,) or (count and given.dtype.kind not in "fiu"):
        raise ShapeError(f"times must be numbers, shape ({count},), got {given.dtype} {given.shape}")
    array: npt.NDArray[np.float64] = np.array(given, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ShapeError(f"times[{int(np.argmin(np.isfinite(array)))}] is NaN or infinite")
    return frozen(array)


def _session_tuple(sessions: Iterable[Session], count: int) -> tuple[Session, ...]:
    if isinstance(sessions, str | bytes) or not isinstance(sessions, Iterable):
        raise ShapeError(f"sessions must be a sequence of {count} names, got {type(sessions).__name__}")
    named = tuple(_session(place, session) for place, session in enumerate(sessions))
    if len(named) != count:
        raise ShapeError(f"sessions must have one entry for each of {count} queries, got {len(named)}")
    return named


def _session(place: int, session: object) -> Session:
    if session is None:
        return None
    if isinstance(session, str) and session.isprintable():
        return str.__str__(session)
    if isinstance(session, str):
        try:
            session.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"sessions[{place}]: {session!r} is no valid Unicode string") from None
        return str.__str__(session)
    if isinstance(session, int | np.integer) and not isinstance(session, bool):
        number = int(session)
        if -(2**63) <= number < 2**63:
            return number
    raise ConfigError(f"sessions[{place}] must be a string, a 64-bit integer or None, got {session!r}")


def _explored_array(explored: npt.ArrayLike | None, count: int) -> npt.NDArray[np.bool_]:
    if explored is None:
        return frozen(np.zeros(count, dtype=np.bool_))
    given = _core.as_array("explored", explored)
    if given.shape != (count,) or (count and given.dtype.kind != "b"):
        raise ShapeError(f"explored must be True or False, shape ({count},), got {given.dtype} {given.shape}")
    return frozen(np.array(given, dtype=np.bool_))


def _places(index: Any, count: int) -> Int64s:
    if isinstance(index, slice):
        return np.arange(count)[index]
    given = _core.as_array("index", index)
    if given.dtype.kind == "b":
        if given.shape != (count,):
            raise ShapeError(f"index: a mask must have shape ({count},), got {given.shape}")
        return np.flatnonzero(given)
    places = _core.int64_array("index", given if given.size else given.astype(np.int64)).reshape(-1)
    if given.ndim > 1:
        raise ShapeError(f"index must have one dimension, got shape {given.shape}")
    outside = (places < -count) | (places >= count)
    if outside.any():
        raise RowError(f"index: got {places[np.argmax(outside)]}, the log has {count} impressions")
    return np.where(places < 0, places + count, places)


def _lists_of(starts: npt.NDArray[Any], rows: npt.NDArray[Any], count: int) -> Sequence[Int64s]:
    """Return the lists of a file, which may have been made by hand."""
    fits = starts.shape == (count + 1,) and starts.dtype == np.int64 and rows.dtype == np.int64
    if not fits or starts[0] != 0 or starts[-1] != len(rows) or (np.diff(starts) < 0).any():
        raise FormatError("the lists of rows do not fit the impressions")
    return Ragged(starts, rows).lists()


def _replace(path: str, data: memoryview) -> None:
    """Write a file beside `path` and give it that name; a failure leaves what was there."""
    try:
        mode = os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        mode = 0o666 & ~umask
    handle, temporary = tempfile.mkstemp(prefix=".clicks-", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
