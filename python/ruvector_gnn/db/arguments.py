"""Checks of ids, metadata and settings before anything is written."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ruvector_gnn.db.catalog import Id
from ruvector_gnn.errors import ConfigError, ShapeError

IdLike = Id | np.integer[Any]
Ids = IdLike | Iterable[IdLike]


def one_id(value: object) -> Id:
    """An `int` within 64 bits or a `str`; raises `ConfigError` for anything else."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"id {value!r}: not a valid Unicode string") from None
        return str(value)
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
    try:
        # Filters compare keys with this text as it stands, so letters outside ASCII stay what they are.
        text = json.dumps(dict(entry), ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as unusable:
        raise ConfigError(f"metadata[{place}]: not representable as JSON ({unusable})") from None
    if not _keys_are_text(entry):
        raise ConfigError(f"metadata[{place}]: keys must be strings")
    return text


def _keys_are_text(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _keys_are_text(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(_keys_are_text(inner) for inner in value)
    return True


def positive(value: object, name: str) -> int:
    """An integer of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}: got {value!r}, expected an integer of at least 1")
    return int(value)


def share(value: object, name: str) -> float:
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise ConfigError(f"{name}: got {value!r}, expected a number from 0 to 1")
    return float(value)
