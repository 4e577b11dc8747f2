"""Metadata filters mean what a plain Python predicate says, whatever their size."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruvector_gnn import ConfigError
from ruvector_gnn.db import VectorDB
from ruvector_gnn.db.arguments import metadata_texts
from ruvector_gnn.db.where import condition

LARGE = 2**53
JSON_LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, -1.0, 2.0, -0.0, 1e300, float(LARGE)]),
    st.sampled_from([LARGE, LARGE + 1, 2**63 - 1, -(2**63)]),
    st.sampled_from(["", "a", "b", "é", "1", "true", "null", 'a"b\\\n\x01', "\U0001f600", "\uffff"]),
)
KEY = st.sampled_from(["x", "y", "größe", "two words", "odd", "x[0]", "#", "it's"])
METADATA = st.dictionaries(
    KEY, st.one_of(JSON_LEAF, st.lists(JSON_LEAF, max_size=3), st.dictionaries(KEY, JSON_LEAF))
)
ORDERED = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.5, 2.0, LARGE + 1, float(LARGE)]),
    st.sampled_from(["", "a", "b", "\U0001f600", "\uffff"]),
)
OPERATORS = st.one_of(
    st.dictionaries(st.sampled_from(["$eq", "$ne", "$contains"]), JSON_LEAF, min_size=1),
    st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(JSON_LEAF, max_size=5), min_size=1),
    st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ORDERED, min_size=1),
    st.dictionaries(st.just("$exists"), st.booleans(), min_size=1),
)
TEST = st.one_of(JSON_LEAF, OPERATORS, st.builds(lambda test: {"$not": test}, OPERATORS))
FIELD = st.dictionaries(KEY, st.one_of(TEST, st.dictionaries(KEY, TEST, min_size=1)), max_size=2)
WHERE = st.recursive(
    FIELD,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda one: {"$not": one or {"x": 1}}, inner),
    ),
    max_leaves=6,
)
ABSENT = object()
NESTED: list = []
for _ in range(5_000):
    NESTED = [NESTED]


def kind(value: object) -> type:
    return bool if isinstance(value, bool) else float if isinstance(value, int | float) else type(value)


def equal(value: object, wanted: object) -> bool:
    return (value is ABSENT and wanted is None) or (kind(value) is kind(wanted) and value == wanted)


def compared(value, wanted, sign) -> bool:
    if kind(value) is not kind(wanted):
        return False
    return {"$gt": value > wanted, "$gte": value >= wanted, "$lt": value < wanted, "$lte": value <= wanted}[
        sign
    ]


def holds(operator, value, wanted) -> bool:
    if operator in ("$ne", "$nin"):
        return not holds({"$ne": "$eq", "$nin": "$in"}[operator], value, wanted)
    if operator == "$not":
        return not all(holds(name, value, inner) for name, inner in wanted.items())
    if operator == "$eq":
        return equal(value, wanted)
    if operator == "$in":
        return any(equal(value, one) for one in wanted)
    if operator == "$contains":
        return isinstance(value, list) and any(equal(one, wanted) for one in value)
    if operator == "$exists":
        return (value is not ABSENT) == wanted
    return compared(value, wanted, operator)


def matches(where, metadata) -> bool:
    """The filter's meaning, in Python."""
    for key, test in where.items():
        if key in ("$and", "$or"):
            outcome = (all if key == "$and" else any)(matches(one, metadata) for one in test)
        elif key == "$not":
            outcome = not matches(test, metadata)
        else:
            value = metadata.get(key, ABSENT) if isinstance(metadata, dict) else ABSENT
            if not isinstance(test, dict):
                outcome = equal(value, test)
            elif all(name.startswith("$") for name in test):
                outcome = all(holds(name, value, wanted) for name, wanted in test.items())
            else:
                outcome = matches(test, value)
        if not outcome:
            return False
    return True


def found(entries, where) -> list[int]:
    """The rows that SQLite finds; the last one is a document without metadata."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE documents (row INTEGER PRIMARY KEY, metadata TEXT)")
    texts = [*metadata_texts(entries, len(entries)), None]
    connection.executemany("INSERT INTO documents VALUES (?, ?)", enumerate(texts))
    test = condition(where)
    rows = connection.execute(
        f"SELECT row FROM documents WHERE {test.sql} ORDER BY row", test.parameters
    ).fetchall()
    connection.close()
    return [row for (row,) in rows]


@settings(deadline=None, max_examples=200)
@given(st.lists(METADATA, max_size=6), WHERE)
@example([{"x": None}, {"x": 1}, {}], {"x": {"$exists": True}})
@example([{"x": 1}, {"x": True}, {"x": "1"}, {"x": 1.0}], {"x": {"$in": [1, "a", None]}})
@example([{"x": LARGE}, {"x": LARGE + 1}], {"x": {"$in": [LARGE + 1]}})
def test_filters_mean_what_the_python_predicate_says(entries, where) -> None:
    assert found(entries, where) == [row for row, entry in enumerate([*entries, {}]) if matches(where, entry)]


@given(st.text(min_size=1), st.text())
def test_nothing_of_the_caller_enters_the_sql(key, value) -> None:
    try:
        test = condition({"field." + key: {"$eq": value}})
    except ConfigError:
        return
    assert test.sql == condition({"a": {"$eq": "b"}}).sql


@pytest.mark.parametrize(
    "where",
    [
        [],
        {"a": {}},
        {"$or": []},
        {"$and": {"a": 1}},
        {"$not": {}},
        {"$not": [{"a": 1}]},
        {"a": {"$not": {}}},
        {"a": {"$not": 1}},
        {"a": {"$exists": 1}},
        {"$eq": 1},
        {"a": {"$like": "x"}},
        {"a": [1, 2]},
        {"a": {"$in": "text"}},
        {"a": {"$in": [[1]]}},
        {"a": {"$gt": None}},
        {"a": {"$gt": True}},
        {"a": float("nan")},
        {"a": {"$in": [1, float("inf")]}},
        {"a": 2**63},
        {"a": {"$in": [0, -(2**63) - 1]}},
        {"a": "half\0"},
        {'a"b': 1},
        {"": 1},
        {3: 1},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"$not": np.array([1, 2])},
        {"a": 10**5000},
        {"a": {"$exists": [10**5000]}},
        {"a": NESTED},
        {"$or": {"a": NESTED}},
    ],
)
def test_filters_that_make_no_sense_are_refused(where) -> None:
    with pytest.raises(ConfigError, match="where"):
        condition(where)


def test_filters_of_any_size_run_or_are_refused() -> None:
    entries = [{"x": number, "y": str(number)} for number in range(0, 300, 3)]
    many = list(range(0, 4_000, 2))
    even = [row for row, entry in enumerate(entries) if entry["x"] in set(many)]
    assert found(entries, {"x": {"$in": many}}) == even
    assert found(entries, {"y": {"$in": [str(number) for number in many]}}) == even
    assert found(entries, {"x": {"$in": np.array(many)}}) == even
    assert found(entries, {"$or": [{"x": number} for number in many]}) == even
    assert found(entries, {"$and": [{"x": {"$ne": number}} for number in many]}) == [
        row for row in range(len(entries) + 1) if row not in set(even)
    ]
    where: dict = {"x": 0}
    for depth in range(1, 5_000):
        where = {"$or": [{"x": 3 * depth}, {"$not": {"$or": [{"y": "none"}, {"$not": where}]}}]}
        if depth == 7:
            assert found(entries, where) == list(range(8))
    with pytest.raises(ConfigError, match="deep"):
        condition(where)


def test_a_filter_beyond_the_bounds_of_sqlite_is_refused(tmp_path: Path) -> None:
    with VectorDB.open(tmp_path / "a.rvdb", dim=2) as db:
        db.add(range(2), np.eye(2))
        with pytest.raises(ConfigError, match="36000 keys and values"):
            db.search([1, 0], where={"$or": [{"x": number} for number in range(12_000)]})
        assert not db.search([1, 0], where={"$or": [{"x": number} for number in range(9_000)]}).ids
        assert len(db.search([1, 0], where={"x": {"$nin": list(range(12_000))}})) == 2


def test_numpy_scalars_are_the_numbers_they_hold(tmp_path: Path) -> None:
    with VectorDB.open(tmp_path / "a.rvdb", dim=2) as db:
        db.add(
            [1, 2], np.eye(2), [{"n": np.int64(1), "f": [np.float32(0.5)]}, {"n": np.int8(2), "b": np.True_}]
        )
        assert db.get(1).metadata == {"n": 1, "f": [0.5]} and db.get(2).metadata == {"n": 2, "b": True}
        for test in (np.int8(2), {"$gt": np.float64(1.5)}, {"$in": [np.int64(2)]}, {"$nin": np.array([1])}):
            assert db.search([1, 1], where={"n": test}).ids == [2]
        assert db.search([1, 1], where={"b": np.True_}).ids == [2]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"a": "x\0y"}, "NUL"),
        ({"a": [{"b": "\0"}]}, "NUL"),
        ({"a": {1: 2}}, "keys must be strings"),
        ({"a": np.float32("nan")}, "JSON"),
    ],
)
def test_metadata_that_filters_would_misread_is_refused(tmp_path: Path, metadata, words) -> None:
    with VectorDB.open(tmp_path / "a.rvdb", dim=2) as db:
        with pytest.raises(ConfigError, match=words):
            db.add("x", [1, 0], metadata)
        assert len(db) == 0


def test_metadata_nests_as_deep_as_filters_can_read(tmp_path: Path) -> None:
    def nested(depth: int) -> dict:
        entry: dict = {"x": 1}
        for _ in range(depth):
            entry = {"x": entry}
        return entry

    circular: dict = {}
    circular["x"] = circular
    with VectorDB.open(tmp_path / "a.rvdb", dim=2) as db:
        db.add([1, 2], np.eye(2), [nested(99), nested(0)])
        assert db.search([1, 1], where={"x": 1}).ids == [2]
        assert db.search([1, 1], where={".".join(["x"] * 100): 1}).ids == [1]
        for entry in (nested(101), nested(5_000), circular):
            with pytest.raises(ConfigError, match="deep"):
                db.add(3, [1, 0], entry)


def test_search_filters_by_nested_keys(tmp_path: Path) -> None:
    with VectorDB.open(tmp_path / "a.rvdb", dim=2) as db:
        names = ("Ada", "Bob", "Ada", "Eve")
        db.add(range(4), np.tile([1.0, 2.0], (4, 1)), [{"author": {"name": name}} for name in names])
        assert sorted(db.search([1, 1], where={"author": {"name": "Ada"}}).ids) == [0, 2]
        assert sorted(db.search([1, 1], where={"author.name": {"$in": ["Bob", "Eve"]}}).ids) == [1, 3]
        assert sorted(db.search([1, 1], where={"author": {"name": {"$not": {"$gt": "B"}}}}).ids) == [0, 2]
