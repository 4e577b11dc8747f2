"""Checks of ids, metadata and settings before anything is written."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ruvector_gnn.db.catalog import Id
from ruvector_gnn.errors import ConfigError, ShapeError

MAX_DEPTH = 100

IdLike = Id | np.integer[Any]
Ids = IdLike | Iterable[IdLike]


def one_id(value: object) -> Id:
    """An `int` within 64 bits or a `str`; raises `ConfigError` for anything else."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"id {value!r}: not a valid Unicode string") from None
        return str.__str__(value)  # of an enumeration the value, not the name
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        number = int(value)
        if -(2**63) <= number < 2**63:
            return number
        raise ConfigError(f"id {number}: does not fit in 64 bits")
    raise ConfigError(f"id {value!r}: got {type(value).__name__}, expected int or str")


def is_single(ids: object) -> bool:
    """Whether one id was given, rather than several."""
    return isinstance(ids, str | int | np.integer)


def id_list(ids: Ids) -> list[Id]:
    """Several ids, or one, as a list."""
    if isinstance(ids, str | int | np.integer):
        return [one_id(ids)]
    if not isinstance(ids, Iterable):
        raise ConfigError(f"ids: got {type(ids).__name__}, expected ids")
    return [one_id(identity) for identity in ids]


def distinct(ids: Ids, name: str = "ids") -> list[Id]:
    """The same, and `ConfigError` if an id comes twice."""
    found = id_list(ids)
    seen: set[Id] = set()
    for identity in found:
        if identity in seen:
            raise ConfigError(f"{name}: {identity!r} comes twice")
        seen.add(identity)
    return found


def metadata_texts(metadata: object, count: int) -> list[str | None]:
    """One JSON text (or None) per document, from None, one mapping for a single document, or a list of
    them."""
    if metadata is None:
        return [None] * count
    if isinstance(metadata, Mapping):
        metadata = [metadata]
    if not isinstance(metadata, Sequence) or isinstance(metadata, str | bytes):
        raise ConfigError(f"metadata: got {type(metadata).__name__}, expected a list of mappings")
    if len(metadata) != count:
        raise ShapeError(f"metadata: got {len(metadata)} entries for {count} ids")
    return [_metadata_text(entry, place) for place, entry in enumerate(metadata)]


def _metadata_text(entry: object, place: int) -> str | None:
    if entry is None:
        return None
    if not isinstance(entry, Mapping):
        raise ConfigError(f"metadata[{place}]: got {type(entry).__name__}, expected a mapping or None")
    _check_value(entry, f"metadata[{place}]", 0)
    try:
        # Filters compare keys with this text as it stands, so letters outside ASCII stay what they are.
        text = json.dumps(dict(entry), ensure_ascii=False, allow_nan=False, default=_plain)
        text.encode()
    except (TypeError, ValueError) as unusable:
        raise ConfigError(f"metadata[{place}]: not representable as JSON ({unusable})") from None
    return text


def _plain(value: object) -> object:
    """A NumPy scalar as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__}: got {value!r}")


def _check_value(value: object, name: str, depth: int) -> None:
    """Refuse what JSON would change or SQLite misread: one such document would spoil filters over all."""
    if depth > MAX_DEPTH:
        raise ConfigError(f"{name}: nested more than {MAX_DEPTH} deep")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{name}: {value!r} holds a NUL character")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{name}: keys must be strings, got {key!r}")
            _check_value(inner, name, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_value(inner, name, depth + 1)


def positive(value: object, name: str) -> int:
    """An integer of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}: got {value!r}, expected an integer of at least 1")
    return int(value)


def seed(value: object) -> int:
    """Return a seed, an integer from 0 up within 64 bits, or raise `ConfigError`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise ConfigError(f"seed: got {value!r}, expected an integer from 0 to {2**64 - 1}")
    return int(value)


def choice(value: object, name: str, known: tuple[str, ...]) -> str:
    """Return the one of some strings that equals `value`, or raise `ConfigError`."""
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, known))}")
    return known[known.index(value)]


def timestamp(value: object, name: str) -> float:
    """Return seconds since the epoch, finite, or raise `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not abs(value) < 1e12:
        raise ConfigError(f"{name}: got {value!r}, expected seconds since 1970, as time.time() gives them")
    return float(value)


def session(value: object, name: str) -> Id | None:
    """Return who asked, a string, a 64-bit integer or None, or raise `ConfigError` that calls it `name`."""
    if value is None:
        return None
    try:
        return one_id(value)
    except ConfigError as unusable:
        raise ConfigError(f"{name}: {str(unusable).removeprefix('id ')}") from None


def share(value: object, name: str) -> float:
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise ConfigError(f"{name}: got {value!r}, expected a number from 0 to 1")
    return float(value)
