"""Reading vectors, ids, metadata and queries from files; every complaint names the file and the line."""

import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ruvector_gnn.errors import ConfigError, FormatError, ShapeError

Array = npt.NDArray[Any]


@dataclass
class Documents:
    """What `build` reads: vectors, and ids and metadata where the file has them."""

    vectors: Array
    ids: list[Any] | None = None
    metadata: list[Any] | None = None


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


def documents(path: str, array: str | None) -> Documents:
    """Vectors of an array file, or JSON lines of vectors or of {"vector", "id", "metadata"}."""
    if _is_array_file(path):
        return Documents(_array_file(path, array))
    vectors, ids, metadata = [], [], []
    for place, value in json_lines(path):
        entry = value if isinstance(value, dict) else {"vector": value}
        vectors.append(vector_of(entry, "vector", place))
        ids.append(entry.get("id"))
        metadata.append(entry.get("metadata"))
    named = [identity is not None for identity in ids]
    if any(named) and not all(named):
        raise FormatError(f"{path}: vector {named.index(False) + 1} has no id, others have")
    return Documents(_stacked(vectors, path), ids if any(named) else None, metadata)


def queries(path: str, array: str | None = None) -> Array:
    """Queries (n, dim) of an array file, or JSON lines of vectors or of objects with "query"."""
    if _is_array_file(path):
        return np.atleast_2d(_array_file(path, array))
    found = [
        vector_of(value if isinstance(value, dict) else {"query": value}, "query", place)
        for place, value in json_lines(path)
    ]
    return _stacked(found, path)


def judged(path: str) -> tuple[Array, list[list[Any]]]:
    """Queries, and the ids that are relevant to each."""
    if not _is_array_file(path):
        lines = list(json_lines(path))
        found = [vector_of(value, "query", place) for place, value in lines]
        return _stacked(found, path), [id_list(value, "relevant", place) for place, value in lines]
    asked, qrels = _array_file(path, "queries"), _array_file(path, "qrels")
    if qrels.ndim != 2 or qrels.shape[1] not in (2, 3):
        raise ShapeError(f"{path}: qrels has shape {qrels.shape}, expected (n, 2) or (n, 3)")
    relevant: list[list[Any]] = [[] for _ in asked]
    for query, identity, *grade in qrels.tolist():
        if not 0 <= query < len(asked):
            raise ShapeError(f"{path}: qrels names query {query}, but there are {len(asked)}")
        if not grade or grade[0] > 0:
            relevant[int(query)].append(identity)
    return asked, relevant


def vector_of(entry: Any, name: str, place: str) -> list[float]:
    """The vector under `name` of a JSON object."""
    if not isinstance(entry, dict) or name not in entry:
        raise FormatError(f"{place}: expected an object with {name!r}")
    value = entry[name]
    if not isinstance(value, list) or not value or not all(_is_number(one) for one in value):
        raise FormatError(f"{place}: {name} is not a list of numbers")
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
        return list(_array_file(path, None).tolist())
    return [value for _, value in json_lines(path)]


def where(text: str | None) -> dict[str, Any] | None:
    """The filter given as JSON."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--where: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--where: expected a JSON object, got {text}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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


def _array_file(path: str, array: str | None) -> Array:
    if Path(path).suffix == ".fvecs":
        return _fvecs(path)
    try:
        if path.endswith(".npy"):  # mapped: it may be larger than what fits
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        # NumPy leaves a file that it opened itself open if it is no archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return _member(path, archive, array)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: not a readable NumPy file ({error})") from None


def _member(path: str, archive: Any, array: str | None) -> Array:
    names = list(archive.files)
    if array is None and len(names) == 1:
        array = names[0]
    if array not in names:
        wanted = "choose one with --array" if array is None else f"there is no array {array!r}"
        raise ConfigError(f"{path}: {wanted}; it holds {', '.join(names)}")
    return np.asarray(archive[array])


def _fvecs(path: str) -> Array:
    """TEXMEX vectors: each row a little-endian int32 dimension, then that many float32."""
    raw = np.fromfile(path, dtype="<i4")
    dim = int(raw[0]) if len(raw) else 0
    if dim < 1 or len(raw) % (dim + 1) or (raw[:: dim + 1] != dim).any():
        raise FormatError(f"{path}: not an .fvecs file, or truncated")
    return raw.reshape(-1, dim + 1)[:, 1:].view("<f4")
