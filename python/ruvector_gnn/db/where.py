"""Metadata filters: a mapping -> an SQL condition with bound parameters.

    {"lang": "en"}                          equal (strings, numbers, booleans; None matches null and absent)
    {"year": {"$gte": 2000, "$lt": 2010}}   $eq $ne $gt $gte $lt $lte, on numbers and on strings
    {"lang": {"$in": ["en", "de"]}}         $in, $nin
    {"tags": {"$contains": "new"}}          a list that holds the value
    {"author": {"name": "Ada"}}             nested keys; {"author.name": "Ada"} says the same
    {"$or": [{...}, {...}]}, {"$and": [...]}

All conditions of one mapping must hold. Values compare within their own JSON type: a number never equals a
string, `true` is not 1, and an ordering on another type, or on a key that is absent, does not hold. `$ne`
and `$nin` are the exact opposites of `$eq` and `$in`. No text of the caller becomes part of the SQL: keys
travel as JSON paths and values as JSON, both bound.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ruvector_gnn.errors import ConfigError

Where = Mapping[str, object]

MAX_DEPTH = 50
_ORDERINGS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS = ("$eq", "$ne", *_ORDERINGS, "$in", "$nin", "$contains")
_NUMBERS = "('integer', 'real')"


@dataclass
class Condition:
    """SQL over a column named `metadata` (JSON text or NULL), and its parameters in order."""

    sql: str
    parameters: list[str] = field(default_factory=list)


def condition(where: Where) -> Condition:
    """Translate a filter; raises `ConfigError` naming the key or operator that can't be understood.

    >>> condition({"lang": "en"}).parameters
    ['$."lang"', '$."lang"', '["en"]']
    """
    return _mapping(where, (), 0)


def _mapping(where: object, path: tuple[str, ...], depth: int) -> Condition:
    if not isinstance(where, Mapping):
        raise ConfigError(f"where: got {where!r}, expected a mapping")
    if depth > MAX_DEPTH:
        raise ConfigError(f"where: nested more than {MAX_DEPTH} deep")
    return _joined("AND", [part for key, value in where.items() for part in _entry(key, value, path, depth)])


def _entry(key: object, value: object, path: tuple[str, ...], depth: int) -> Iterator[Condition]:
    if not isinstance(key, str):
        raise ConfigError(f"where: got the key {key!r}, expected a string")
    if key in ("$and", "$or") and not path:
        yield _joined(key[1:].upper(), [_mapping(one, path, depth + 1) for one in _listed(key, value)])
    elif key.startswith("$"):
        if key not in _OPERATORS or not path:
            raise ConfigError(f"where: {key} can't stand here; known: {', '.join(_OPERATORS)}, $and, $or")
        yield _operator(key, value, _json_path(path))
    else:
        inner = (*path, *key.split("."))
        if isinstance(value, Mapping):
            if not value:
                raise ConfigError(f"where: {key!r} has an empty condition")
            yield _mapping(value, inner, depth + 1)
        else:
            yield _operator("$eq", value, _json_path(inner))


def _joined(word: str, parts: Sequence[Condition]) -> Condition:
    if not parts:
        return Condition("1")
    sql = f" {word} ".join(part.sql for part in parts)
    return Condition(f"({sql})", [parameter for part in parts for parameter in part.parameters])


def _json_path(keys: tuple[str, ...]) -> str:
    for key in keys:
        # SQLite compares a quoted key with the JSON text as it stands, before any unescaping.
        if not key or any(letter in '"\\' or letter < " " for letter in key):
            raise ConfigError(
                f"where: can't filter on the key {key!r}: it is empty or has quotes, backslashes or controls"
            )
    return "$" + "".join(f'."{key}"' for key in keys)


def _listed(name: str, value: object) -> list[object]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise ConfigError(f"where: {name} takes a list, got {value!r}")
    if not value and name in ("$and", "$or"):
        raise ConfigError(f"where: {name} takes at least one condition")
    return list(value)


def _operator(name: str, value: object, path: str) -> Condition:
    if name in ("$ne", "$nin"):
        opposite = _operator({"$ne": "$eq", "$nin": "$in"}[name], value, path)
        return Condition(f"NOT {opposite.sql}", opposite.parameters)
    if name == "$in":
        parts = [_equal(one, path) for one in _listed(name, value)]
        return _joined("OR", parts) if parts else Condition("0")
    if name == "$contains":
        return _contains(value, path)
    if name == "$eq":
        return _equal(value, path)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"where: {name} compares numbers or strings, got {value!r}")
    return _compared(_ORDERINGS[name], value, path)


def _equal(value: object, path: str) -> Condition:
    if value is None:
        return Condition("(coalesce(json_type(metadata, ?), 'null') = 'null')", [path])
    if isinstance(value, bool):
        return Condition(f"(coalesce(json_type(metadata, ?), '') = '{str(value).lower()}')", [path])
    if isinstance(value, int | float | str):
        return _compared("=", value, path)
    raise ConfigError(f"where: can't compare with {value!r}; expected a string, number, boolean or None")


def _compared(sign: str, value: float | str, path: str) -> Condition:
    kind = "('text')" if isinstance(value, str) else _NUMBERS
    # The value is parsed by SQLite's own JSON reader, as the metadata is: equal numbers stay equal.
    return Condition(
        f"(coalesce(json_type(metadata, ?), '') IN {kind}"
        f" AND json_extract(metadata, ?) {sign} json_extract(?, '$[0]'))",
        [path, path, _as_json(value)],
    )


def _contains(value: object, path: str) -> Condition:
    equal: Callable[[str], str] = "EXISTS (SELECT 1 FROM json_each(metadata, ?) AS item WHERE {})".format
    array = "coalesce(json_type(metadata, ?), '') = 'array' AND "
    if value is None or isinstance(value, bool):
        kind = "null" if value is None else str(value).lower()
        return Condition(f"({array}{equal(f'item.type = {kind!r}')})", [path, path])
    if not isinstance(value, int | float | str):
        raise ConfigError(f"where: $contains takes a string, number, boolean or None, got {value!r}")
    kinds = "('text')" if isinstance(value, str) else _NUMBERS
    test = equal(f"item.type IN {kinds} AND item.value = json_extract(?, '$[0]')")
    return Condition(f"({array}{test})", [path, path, _as_json(value)])


def _as_json(value: float | str) -> str:
    try:
        text = json.dumps([value], ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:  # NaN, infinity, or a lone surrogate
        raise ConfigError(f"where: can't compare with {value!r}") from None
    return text
