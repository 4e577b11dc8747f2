"""Fuzzes the metadata filters of `VectorDB` (`ruvector_gnn.db.where`) with atheris.

    pip install atheris . && python fuzz/where_parser.py -max_total_time=600 fuzz/corpus/where_parser

The bytes choose a filter and a few documents. A valid filter must be accepted, run on SQLite, and find the
documents for which the model below holds. Any other must be refused with `ConfigError`. The model restates
the documentation of filters and shares no code with their translation.
"""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ruvector_gnn.db.where", "ruvector_gnn.db.arguments"]):
    import numpy as np
    from ruvector_gnn.db.arguments import metadata_texts
    from ruvector_gnn.db.errors import catalog_errors
    from ruvector_gnn.db.where import MAX_DEPTH, MAX_PARAMETERS, condition
    from ruvector_gnn.errors import ConfigError

ABSENT = object()
KEYS = ["x", "y", "x.y", "größe", "x[0]", "#", "it's", "$x", "\U0001f600", "\x7f", "a b", "0", "x.$eq"]
BAD_KEYS = ["", ".", "x.", 'a"b', "a\\b", "\n", "\0", "\ud800", 1, None, True, b"x"]
NUMBERS = [0, 1, -1, 2, 3, 0.5, -0.0, 2.0, 1e300, 5e-324, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63)]
TEXTS = ["", "a", "b", "ab", "1", "true", "null", "é", 'a"b\\\n\x01', "\U0001f600", "\uffff", "$.x", "?"]
DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]
BAD_VALUES = [
    2**63,
    -(2**63) - 1,
    10**5000,
    math.nan,
    math.inf,
    "a\0b",
    "\ud800",
    b"a",
    1j,
    object,
    [1],
    {1},
    DEEP,
]
ARRAYS = [
    np.int8(1),
    np.float32(0.5),
    np.float64(2),
    np.True_,
    np.str_("a"),
    np.uint64(2**63),
    np.array([1, 2]),
]
COMPARISONS = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$contains"]
OPERATORS = [*COMPARISONS, "$in", "$nin", "$exists", "$not"]
BAD_OPERATORS = ["$like", "$", "$AND", "$eq ", "$and", "$or"]


class Choices:
    """What the bytes choose; zeros once they are used up, so that every filter ends."""

    def __init__(self, data: bytes) -> None:
        """Take choices from `data`."""
        self.data = atheris.FuzzedDataProvider(data)
        self.repeated = False

    def below(self, bound: int) -> int:
        """Return a number below `bound`."""
        return self.data.ConsumeIntInRange(0, bound - 1)

    def one_in(self, n: int) -> bool:
        """Return whether a case of one in `n` occurs."""
        return self.below(n) == n - 1

    def pick(self, choices: list) -> object:
        """Return one of some choices."""
        return choices[self.below(len(choices))]

    def repeat(self, values: list, times: list[int]) -> list:
        """Return a list some times over, once per input: within each other they would fill all memory."""
        if self.repeated:
            return values
        self.repeated = True
        return values * self.pick(times)

    def scalar(self) -> object:
        """A value that a document may hold and a filter may compare with."""
        kind = self.below(8)
        if kind == 0:
            return None
        if kind == 1:
            return self.one_in(2)
        if kind == 2:
            return self.data.ConsumeInt(8)
        if kind == 3:
            return self.data.ConsumeRegularFloat()
        if kind == 4:
            return self.data.ConsumeUnicodeNoSurrogates(4).replace("\0", "")
        return self.pick(NUMBERS if kind < 7 else TEXTS)

    def key(self) -> object:
        """Return a key, right or wrong."""
        if self.one_in(24):
            return self.pick(BAD_KEYS)
        if self.one_in(16):
            return self.data.ConsumeUnicode(3)
        return self.pick(KEYS)

    def entry(self, depth: int = 0) -> dict:
        """Metadata of one document."""
        entry = {}
        for _ in range(self.below(4)):
            kind = self.below(4) if depth < 3 else 0
            key = self.pick(KEYS) if kind != 1 or self.one_in(4) else "x"
            if kind == 2:
                entry[key] = [self.scalar() for _ in range(self.below(4))]
            elif kind == 3:
                entry[key] = self.entry(depth + 1)
            else:
                entry[key] = self.scalar()
        return entry

    def value(self) -> object:
        """An operand, right or wrong."""
        kind = self.below(16)
        if kind == 15:
            return self.pick(BAD_VALUES)
        return self.pick(ARRAYS) if kind == 14 else self.scalar()

    def values(self) -> object:
        """Return the operand of `$in` or `$nin`, right or wrong."""
        kind = self.below(16)
        if kind == 15:
            return self.pick(["text", {"a": 1}, 1, None, b"ab", {1, 2}])
        values = [self.value() for _ in range(self.below(5))]
        if kind == 14:
            return np.array([value for value in values if isinstance(value, float)])
        if kind == 13:
            return self.repeat(values, [1, 50, 5000])
        return tuple(values) if kind == 12 else values

    def test(self, depth: int) -> object:
        """What a key is tested against: a value, operators, or a mapping of inner keys."""
        kind = self.below(6)
        if kind < 2:
            return self.value()
        if kind == 2 and depth < 6:
            return self.where(depth + 1)
        test = {}
        for _ in range(1 + self.below(2) if not self.one_in(16) else 0):
            name = self.pick(OPERATORS) if not self.one_in(16) else self.pick(BAD_OPERATORS)
            if name in ("$in", "$nin"):
                test[name] = self.values()
            elif name == "$not":
                test[name] = self.test(depth + 1) if depth < 6 else {"$eq": self.value()}
            elif name == "$exists":
                test[name] = self.one_in(2) if not self.one_in(8) else self.value()
            else:
                test[name] = self.value()
        return test

    def where(self, depth: int = 0) -> object:
        """A filter, or what stands where one should."""
        if self.one_in(32):
            return self.pick([None, [], "x", 1, np.array([1, 2]), {}])
        where: dict = {}
        for _ in range(1 + self.below(3)):
            kind = self.below(6)
            if kind == 5 and depth < 6:
                parts = [self.where(depth + 1) for _ in range(1 + self.below(3))]
                if self.one_in(8):
                    parts = self.repeat(parts, [0, 2, 100, 1500])
                where[self.pick(["$and", "$or"])] = parts if not self.one_in(16) else self.values()
            elif kind == 4 and depth < 6:
                where["$not"] = self.where(depth + 1)
            elif self.one_in(32):
                where[self.pick(BAD_OPERATORS + OPERATORS)] = self.value()
            else:
                where[self.key()] = self.test(depth)
        for _ in range(self.pick([5, 15, 31, 32, 33, 200, 2000]) if depth == 0 and self.one_in(32) else 0):
            where = {self.pick(["$not", "x", "$and"]): where}
            where = {key: [one] if key == "$and" else one for key, one in where.items()}
        return where


class Refused(Exception):
    """The model's word for a filter that means nothing."""


def plain(value: object) -> object:
    """Return a NumPy scalar as Python has it."""
    return value.item() if isinstance(value, np.generic) else value


def kind_of(value: object) -> str:
    """The type that a value compares within."""
    if value is None or value is ABSENT:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__


def operand(value: object, *kinds: str) -> object:
    """A value to compare with, of one of some kinds."""
    value = plain(value)
    kind = kind_of(value)
    if kind not in kinds:
        raise Refused("another type")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise Refused("more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused("not finite")
    if isinstance(value, str) and ("\0" in value or not encodes(value)):
        raise Refused("no text for SQLite")
    return value


def encodes(text: str) -> bool:
    """Return whether a text has UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def equal(value: object, wanted: object) -> bool:
    """Return whether a value of a document equals an operand."""
    return kind_of(value) == kind_of(wanted) and (kind_of(value) == "null" or value == wanted)


ALL_KINDS = ("null", "boolean", "number", "text")


def listed(values: object, least: int) -> list:
    """Return the values of a list."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple) or len(values) < least:
        raise Refused("no list, or an empty one")
    return list(values)


def operator(name: str, value: object, wanted: object) -> bool:
    """Whether a test holds for the value of a document."""
    if name in ("$eq", "$ne"):
        return equal(value, operand(wanted, *ALL_KINDS)) == (name == "$eq")
    if name in ("$in", "$nin"):
        hits = [equal(value, operand(one, *ALL_KINDS)) for one in listed(wanted, 0)]
        return any(hits) == (name == "$in")
    if name == "$contains":
        wanted = operand(wanted, *ALL_KINDS)
        return isinstance(value, list) and any(equal(one, wanted) for one in value)
    if name == "$exists":
        return (value is not ABSENT) == operand(wanted, "boolean")
    wanted = operand(wanted, "number", "text")
    if kind_of(value) != kind_of(wanted):
        return False
    return {
        "$gt": lambda: value > wanted,
        "$gte": lambda: value >= wanted,
        "$lt": lambda: value < wanted,
        "$lte": lambda: value <= wanted,
    }[name]()


def inner(value: object, keys: list[str]) -> object:
    """Return what lies under nested keys."""
    for key in keys:
        if not key or not encodes(key) or any(letter in '"\\' or letter < " " for letter in key):
            raise Refused("no key")
        value = value.get(key, ABSENT) if isinstance(value, dict) else ABSENT
    return value


def matches(where: object, value: object, depth: int = 0, nested: bool = False) -> bool:
    """Whether a filter holds for metadata, or within `nested` keys for the value found there.

    All parts are checked, so that what is wrong anywhere is refused.
    """
    if not isinstance(where, dict) or depth > MAX_DEPTH:
        raise Refused("no mapping, or too deep")
    results = []
    for key, test in where.items():
        if not isinstance(key, str):
            raise Refused("no key")
        if key in ("$and", "$or") and not nested:
            parts = [matches(one, value, depth + 1) for one in listed(test, 1)]
            results.append((all if key == "$and" else any)(parts))
        elif key == "$not":
            if isinstance(test, dict) and not test:
                raise Refused("an empty condition")
            results.append(not matches(test, value, depth + 1, nested))
        elif key.startswith("$"):
            if not nested or key not in OPERATORS:
                raise Refused("an unknown operator")
            results.append(operator(key, value, test))
        elif isinstance(test, dict):
            found = inner(value, key.split(".")) if test else None
            if not test:
                raise Refused("an empty condition")
            results.append(matches(test, found, depth + 1, True))
        else:
            results.append(operator("$eq", inner(value, key.split(".")), test))
    return all(results)


CONNECTION = sqlite3.connect(":memory:")
CONNECTION.execute("CREATE TABLE documents (row INTEGER PRIMARY KEY, metadata TEXT)")


def outcome(where: object, texts: list[str | None]) -> list[int] | str:
    """The rows that SQLite finds, or what `ConfigError` says; nothing else may be raised."""
    CONNECTION.execute("DELETE FROM documents")
    CONNECTION.executemany("INSERT INTO documents VALUES (?, ?)", enumerate(texts))
    try:
        test = condition(where)
        with catalog_errors(Path("catalog")):
            sql = f"SELECT row FROM documents WHERE {test.sql} ORDER BY row"
            return [row for (row,) in CONNECTION.execute(sql, test.parameters)]
    except ConfigError as refused:
        return str(refused)


def expected(where: object, entries: list[dict]) -> list[int] | None:
    """The rows that the model finds; `None` for a filter that means nothing."""
    try:
        return [row for row, entry in enumerate(entries) if matches(where, entry)]
    except Refused:
        return None


def shown(where: object) -> str:
    """Return the `repr` of a filter, if it has one."""
    try:
        return repr(where)
    except (RecursionError, ValueError):
        return "a filter with a value too deep or too large to print"


def check(data: bytes) -> None:
    """Compare SQLite with the model on what the bytes choose."""
    choices = Choices(data)
    where = choices.where()
    entries = [choices.entry() for _ in range(choices.below(4))]
    texts = [*metadata_texts(entries, len(entries)), None]
    found = outcome(where, texts)
    wanted = expected(where, [*(json.loads(text) for text in texts[:-1]), {}])
    if isinstance(found, str):
        # What SQLite or the number of parameters bounds, the model need not refuse.
        bounded = "too large a filter for SQLite" in found or f"at most {MAX_PARAMETERS}" in found
        assert wanted is None or bounded, f"refused: {found}\n{shown(where)}"
        return
    assert found == wanted, f"found {found}, expected {wanted}\n{shown(where)}\n{texts!r}"


def main() -> None:
    """Run libFuzzer with the arguments of the command line."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
