"""Metadata filters: a mapping -> an SQL condition with bound parameters.

    {"lang": "en"}                          equal (strings, numbers, booleans; None matches null and absent)
    {"year": {"$gte": 2000, "$lt": 2010}}   $eq $ne $gt $gte $lt $lte, on numbers and on strings
    {"lang": {"$in": ["en", "de"]}}         $in, $nin
    {"tags": {"$contains": "new"}}          a list that holds the value
    {"year": {"$exists": True}}             the key is there, be it with null
    {"author": {"name": "Ada"}}             nested keys; {"author.name": "Ada"} says the same
    {"$or": [{...}, {...}]}, {"$and": [...]}, {"$not": {...}}, {"year": {"$not": {"$gt": 2000}}}

All conditions of one mapping must hold. Values compare within their own JSON type: a number never equals a
string, `true` is not 1, and an ordering on another type, or on a key that is absent, does not hold. `$ne`,
`$nin` and `$not` are the exact opposites of what they negate, so they hold for absent keys. No text of the
caller becomes part of the SQL: keys travel as JSON paths and values as JSON, both bound.
"""

import json
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ruvector_gnn.errors import ConfigError

Where = Mapping[str, object]

MAX_DEPTH = 32
MAX_PARAMETERS = 30_000  # SQLite as it comes takes 32,766
_ORDERINGS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS = ("$eq", "$ne", *_ORDERINGS, "$in", "$nin", "$contains", "$exists")
_NUMBERS = "('integer', 'real')"
_TEXTS = "('text')"
_CHAIN = 100


@dataclass
class Condition:
    """SQL over a column `metadata` (JSON text or NULL), its parameters in order, and how deep it nests."""

    sql: str
    parameters: list[str] = field(default_factory=list)
    depth: int = 0


def condition(where: Where) -> Condition:
    """Translate a filter; raises `ConfigError` naming the key or operator that can't be understood.

    >>> condition({"lang": "en"}).parameters
    ['$."lang"', '$."lang"', '["en"]']
    """
    test = _mapping(where, (), 0)
    if len(test.parameters) > MAX_PARAMETERS:
        raise ConfigError(f"where: {len(test.parameters)} keys and values, expected at most {MAX_PARAMETERS}")
    return test


def _mapping(where: object, path: tuple[str, ...], depth: int) -> Condition:
    if not isinstance(where, Mapping):
        raise ConfigError(f"where: got {_shown(where)}, expected a mapping")
    if depth > MAX_DEPTH:
        raise ConfigError(f"where: nested more than {MAX_DEPTH} deep")
    return _joined("AND", [part for key, value in where.items() for part in _entry(key, value, path, depth)])


def _entry(key: object, value: object, path: tuple[str, ...], depth: int) -> Iterator[Condition]:
    if not isinstance(key, str):
        raise ConfigError(f"where: got the key {_shown(key)}, expected a string")
    if key in ("$and", "$or") and not path:
        yield _joined(key[1:].upper(), [_mapping(one, path, depth + 1) for one in _listed(key, value)])
    elif key == "$not":
        if isinstance(value, Mapping) and not value:
            raise ConfigError("where: $not has an empty condition")
        yield _negated(_mapping(value, path, depth + 1))
    elif key.startswith("$"):
        if key not in _OPERATORS or not path:
            known = ", ".join((*_OPERATORS, "$and", "$or", "$not"))
            raise ConfigError(f"where: {key} can't stand here; known: {known}")
        yield _operator(key, value, _json_path(path))
    else:
        inner = (*path, *key.split("."))
        if isinstance(value, Mapping):
            if not value:
                raise ConfigError(f"where: {key!r} has an empty condition")
            yield _mapping(value, inner, depth + 1)
        else:
            yield _operator("$eq", value, _json_path(inner))


def _joined(word: str, parts: list[Condition]) -> Condition:
    # SQLite bounds the depth of an expression, and a chain is as deep as it is long.
    while len(parts) > 1:
        parts = [_chained(word, parts[start : start + _CHAIN]) for start in range(0, len(parts), _CHAIN)]
    return parts[0] if parts else Condition("1")


def _chained(word: str, parts: list[Condition]) -> Condition:
    # SQLite's parser has room for some hundred open terms: what stands before the deepest part stays open.
    parts = sorted(parts, key=lambda part: -part.depth)
    sql = f" {word} ".join(part.sql for part in parts)
    parameters = [parameter for part in parts for parameter in part.parameters]
    return Condition(f"({sql})", parameters, parts[0].depth + 1)


def _negated(condition: Condition) -> Condition:
    return Condition(f"NOT {condition.sql}", condition.parameters, condition.depth + 1)


def _json_path(keys: tuple[str, ...]) -> str:
    for key in keys:
        # SQLite compares a quoted key with the JSON text as it stands, before any unescaping.
        # Half a surrogate pair has no UTF-8, in which SQLite takes texts.
        if not key or any(
            letter in '"\\' or letter < " " or "\ud800" <= letter <= "\udfff" for letter in key
        ):
            raise ConfigError(
                f"where: can't filter on the key {key!r}:"
                " it is empty or has quotes, backslashes, controls or half a surrogate pair"
            )
    return "$" + "".join(f'."{key}"' for key in keys)


def _listed(name: str, value: object) -> list[object]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise ConfigError(f"where: {name} takes a list, got {_shown(value)}")
    if not value and name in ("$and", "$or"):
        raise ConfigError(f"where: {name} takes at least one condition")
    return list(value)


def _operator(name: str, value: object, path: str) -> Condition:
    if isinstance(value, np.generic):
        value = value.item()
    if name in ("$ne", "$nin"):
        return _negated(_operator({"$ne": "$eq", "$nin": "$in"}[name], value, path))
    if name == "$in":
        return _one_of(_listed(name, value), path)
    if name == "$contains":
        return _contains(value, path)
    if name == "$exists":
        return _exists(value, path)
    if name == "$eq":
        return _equal(value, path)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"where: {name} compares numbers or strings, got {_shown(value)}")
    return _compared(_ORDERINGS[name], value, path)


def _equal(value: object, path: str) -> Condition:
    if value is None:
        return Condition("(coalesce(json_type(metadata, ?), 'null') = 'null')", [path])
    if isinstance(value, bool):
        return Condition(f"(coalesce(json_type(metadata, ?), '') = '{str(value).lower()}')", [path])
    if isinstance(value, int | float | str):
        return _compared("=", value, path)
    raise ConfigError(
        f"where: can't compare with {_shown(value)}; expected a string, number, boolean or None"
    )


def _one_of(values: list[object], path: str) -> Condition:
    """One test for all numbers and one for all strings, so that the list may be of any length."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    numbers = [value for value in plain if isinstance(value, int | float) and not isinstance(value, bool)]
    texts = [value for value in plain if isinstance(value, str)]
    rest = [value for value in plain if isinstance(value, bool) or not isinstance(value, int | float | str)]
    parts = [_equal(value, path) for value in rest]
    for kind, group in ((_NUMBERS, numbers), (_TEXTS, texts)):
        if group:
            sql = _typed(kind, "IN (SELECT value FROM json_each(?))")
            parts.append(Condition(sql, [path, path, _as_json(group)]))
    return _joined("OR", parts) if parts else Condition("0")


def _exists(value: object, path: str) -> Condition:
    if not isinstance(value, bool):
        raise ConfigError(f"where: $exists takes True or False, got {_shown(value)}")
    return Condition(f"(json_type(metadata, ?) IS {'NOT ' if value else ''}NULL)", [path])


def _typed(kind: str, test: str) -> str:
    return f"(coalesce(json_type(metadata, ?), '') IN {kind} AND json_extract(metadata, ?) {test})"


def _compared(sign: str, value: float | str, path: str) -> Condition:
    kind = _TEXTS if isinstance(value, str) else _NUMBERS
    # The value is parsed by SQLite's own JSON reader, as the metadata is: equal numbers stay equal.
    return Condition(_typed(kind, f"{sign} json_extract(?, '$[0]')"), [path, path, _as_json([value])])


def _contains(value: object, path: str) -> Condition:
    equal: Callable[[str], str] = "EXISTS (SELECT 1 FROM json_each(metadata, ?) AS item WHERE {})".format
    array = "coalesce(json_type(metadata, ?), '') = 'array' AND "
    if value is None or isinstance(value, bool):
        kind = "null" if value is None else str(value).lower()
        return Condition(f"({array}{equal(f'item.type = {kind!r}')})", [path, path])
    if not isinstance(value, int | float | str):
        raise ConfigError(f"where: $contains takes a string, number, boolean or None, got {_shown(value)}")
    kinds = _TEXTS if isinstance(value, str) else _NUMBERS
    test = equal(f"item.type IN {kinds} AND item.value = json_extract(?, '$[0]')")
    return Condition(f"({array}{test})", [path, path, _as_json([value])])


def _as_json(values: Sequence[float | str]) -> str:
    for value in values:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConfigError(f"where: can't compare with {_shown(value)}: it does not fit in 64 bits")
        if isinstance(value, str) and "\0" in value:
            raise ConfigError(f"where: can't compare with {value!r}: it holds a NUL character")
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:
        raise ConfigError("where: can't compare with NaN, infinity or half a surrogate pair") from None
    return text


def _shown(value: object) -> str:
    """Return a short `repr`: a full one fails for lists nested deep and for integers of many digits."""
    try:
        return reprlib.repr(value)
    except ValueError:
        return f"a huge {type(value).__name__}"
