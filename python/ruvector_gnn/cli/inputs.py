"""Reading vectors, ids, metadata and queries from files; every complaint names the file and the line."""

import json
import sys
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ruvector_gnn.db.arguments import metadata_texts, one_id
from ruvector_gnn.errors import ConfigError, FormatError, RuvectorError, ShapeError

Array = npt.NDArray[Any]

LARGEST = float(np.finfo(np.float32).max)


@dataclass
class Documents:
    """What `build` reads: vectors, and ids and metadata where the file has them."""

    vectors: Array
    ids: list[Any] | None = None
    metadata: list[Any] | None = None


@contextmanager
def named(place: str) -> Iterator[None]:
    """Have errors of the block begin with the file, and the line where there are lines."""
    try:
        yield
    except RuvectorError as error:
        raise type(error)(f"{place}: {error}") from None


def json_lines(path: str) -> Iterator[tuple[str, Any]]:
    """(place, value) of each line that is not blank; "-" is standard input."""
    name = "standard input" if path == "-" else path
    try:
        # The with statement below closes either.
        file = sys.stdin if path == "-" else open(path, encoding="utf-8")  # noqa: SIM115
        with file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{name}, line {number}", _parsed(line, f"{name}, line {number}")
    except UnicodeDecodeError:
        raise FormatError(f"{name}: not UTF-8 text; expected .npy, .npz, .fvecs or JSON lines") from None


def _parsed(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{place}: not JSON ({error})") from None


def entries(
    path: str, known: tuple[str, ...], ignored: Collection[str], *, bare: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line; a field that is neither known nor ignored is refused by name.

    With `bare`, a line that is no object is the value of the first field alone.
    """
    for place, value in json_lines(path):
        entry = {known[0]: value} if bare and not isinstance(value, dict) else value
        if not isinstance(entry, dict):
            raise FormatError(f"{place}: expected an object with {known[0]!r}")
        for name in entry:
            if name not in known and name not in ignored:
                raise FormatError(
                    f"{place}: unknown field {name!r}, expected {', '.join(known)};"
                    " --ignore-fields leaves fields out"
                )
        yield place, entry


def documents(path: str, array: str | None, ignored: Collection[str] = ()) -> Documents:
    """Vectors of an array file, or JSON lines of vectors or of {"vector", "id", "metadata"}."""
    if _is_array_file(path):
        return Documents(_table(path, array))
    vectors, ids, metadata = [], [], []
    for place, entry in entries(path, ("vector", "id", "metadata"), ignored, bare=True):
        vectors.append(vector_of(entry, "vector", place))
        identity = entry.get("id")
        with named(place):
            ids.append(identity if identity is None else one_id(identity))
            metadata_texts([entry.get("metadata")], 1)
        metadata.append(entry.get("metadata"))
        if (ids[0] is None) != (identity is None):
            raise FormatError(f"{place}: either all vectors have an id, or none has")
    return Documents(_stacked(vectors, path), ids if ids and ids[0] is not None else None, metadata)


def queries(path: str, array: str | None = None, ignored: Collection[str] = ()) -> Array:
    """Queries (n, dim) of an array file, or JSON lines of vectors or of objects with "query"."""
    if _is_array_file(path):
        return _table(path, array, single=True)
    found = [
        vector_of(entry, "query", place) for place, entry in entries(path, ("query",), ignored, bare=True)
    ]
    return _stacked(found, path)


@dataclass
class Judged:
    """Queries, the ids that are relevant to each, and where each stands."""

    queries: Array
    relevant: list[list[Any]]
    places: list[str]


def judged(path: str, ignored: Collection[str] = ()) -> Judged:
    """JSON lines of {"query", "relevant"}, or an .npz file with the arrays queries and qrels."""
    if not _is_array_file(path):
        lines = list(entries(path, ("query", "relevant"), ignored))
        found = [vector_of(value, "query", place) for place, value in lines]
        relevant = [id_list(value, "relevant", place) for place, value in lines]
        return Judged(_stacked(found, path), relevant, [place for place, _ in lines])
    if Path(path).suffix != ".npz":
        raise FormatError(f"{path}: expected JSON lines, or .npz with the arrays queries and qrels")
    asked, qrels = _table(path, "queries"), _array_file(path, "qrels")
    if qrels.ndim != 2 or qrels.shape[1] not in (2, 3):
        raise ShapeError(f"{path}: qrels has shape {qrels.shape}, expected (n, 2) or (n, 3)")
    if qrels.dtype.kind not in "iufU":
        raise ShapeError(f"{path}: qrels has type {qrels.dtype}, expected numbers or strings")
    relevant = [[] for _ in asked]
    for number, (query, identity, *grade) in enumerate(qrels.tolist()):
        place = f"{path}, row {number} of qrels"
        asked_by = _number(query, f"{place}: the query")
        if not (0 <= asked_by < len(asked) and asked_by == int(asked_by)):
            raise ShapeError(f"{place}: the query must be from 0 to {len(asked) - 1}, got {query}")
        if not grade or _number(grade[0], f"{place}: the grade") > 0:
            relevant[int(asked_by)].append(int(identity) if _is_whole(identity) else identity)
    return Judged(asked, relevant, [f"{path}, query {number}" for number in range(len(asked))])


def _number(value: float | str, what: str) -> float:
    """A number, which an array of strings has as text."""
    try:
        return float(value)
    except ValueError:
        raise ShapeError(f"{what} must be a number, got {value!r}") from None


def _is_whole(value: object) -> bool:
    """Whether an id is an integer that an array of floats has as a float."""
    return isinstance(value, float) and value.is_integer()


def vector_of(entry: Any, name: str, place: str) -> list[float]:
    """The vector under `name` of a JSON object."""
    if not isinstance(entry, dict) or name not in entry:
        raise FormatError(f"{place}: expected an object with {name!r}")
    value = entry[name]
    if not isinstance(value, list) or not value or not all(_is_number(one) for one in value):
        raise FormatError(f"{place}: {name} is not a list of finite numbers")
    return value


def id_list(entry: dict[str, Any], name: str, place: str) -> list[Any]:
    """The ids under `name`."""
    value = entry.get(name)
    if not isinstance(value, list):
        raise FormatError(f"{place}: {name} is not a list of ids")
    return value


def ids(path: str) -> list[Any]:
    """Ids from an .npy array, or one JSON value per line."""
    if _is_array_file(path):
        with named(path):
            return [one_id(identity) for identity in _array_file(path, None).tolist()]
    found = []
    for place, value in json_lines(path):
        with named(place):
            found.append(one_id(value))
    return found


def metadata(path: str) -> list[Any]:
    """One JSON object per line."""
    found = []
    for place, value in json_lines(path):
        with named(place):
            metadata_texts([value], 1)
        found.append(value)
    return found


def where(text: str | None) -> dict[str, Any] | None:
    """The filter given as JSON."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--where: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--where: expected a JSON object, got {text}")
    return value


def _is_number(value: object) -> bool:
    """Whether a JSON value is a number that float32 holds; JSON as Python reads it has NaN and infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _stacked(vectors: list[list[float]], path: str) -> Array:
    if not vectors:
        raise FormatError(f"{path}: empty")
    for number, vector in enumerate(vectors, 1):
        if len(vector) != len(vectors[0]):
            raise ShapeError(
                f"{path}: vector {number} has {len(vector)} dimensions, the first has {len(vectors[0])}"
            )
    return np.array(vectors, dtype=np.float64)


def _is_array_file(path: str) -> bool:
    return Path(path).suffix in (".npy", ".npz", ".fvecs")


def _table(path: str, array: str | None, *, single: bool = False) -> Array:
    """Vectors (n, dim) of an array file, at least one; with `single`, one of shape (dim,) too."""
    found = _array_file(path, array)
    rows = found[np.newaxis] if single and found.ndim == 1 else found
    if rows.ndim != 2 or 0 in rows.shape:
        raise ShapeError(f"{path}: expected vectors of shape (n, dim), at least one, got shape {found.shape}")
    return rows


def _array_file(path: str, array: str | None) -> Array:
    if Path(path).suffix == ".fvecs":
        return _fvecs(path)
    # NumPy leaves a file that it opened itself open if it is no archive.
    with open(path, "rb") as file:
        try:
            # An array is mapped: it may be larger than what fits.
            if path.endswith(".npy") and file.read(6) == b"\x93NUMPY":
                return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            file.seek(0)
            if path.endswith(".npz") and zipfile.is_zipfile(file):
                file.seek(0)
                with np.load(file, allow_pickle=False) as archive:
                    name = _member(path, list(archive.files), array)
                    return np.asarray(archive[name])
        except (RuvectorError, MemoryError):
            raise
        except Exception as error:  # NumPy, zipfile and zlib raise some ten types for damaged files
            raise FormatError(f"{path}: not a readable NumPy file ({error})") from None
    raise FormatError(f"{path}: not a {Path(path).suffix} file")


def _member(path: str, names: list[str], array: str | None) -> str:
    if array is None and len(names) == 1:
        return names[0]
    if array is None or array not in names:
        wanted = "choose an array with --array" if array is None else f"there is no array {array!r}"
        raise ConfigError(f"{path}: {wanted}; it holds {', '.join(names)}")
    return array


def _fvecs(path: str) -> Array:
    """TEXMEX vectors: each row a little-endian int32 dimension, then that many float32."""
    raw = np.fromfile(path, dtype="<i4")
    dim = int(raw[0]) if len(raw) else 0
    if dim < 1 or len(raw) % (dim + 1) or (raw[:: dim + 1] != dim).any():
        raise FormatError(f"{path}: not an .fvecs file, or truncated")
    return raw.reshape(-1, dim + 1)[:, 1:].view("<f4")
