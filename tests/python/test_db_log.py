"""The query log of a database: sessions, reading it back, and catalogs of the version before."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st

DIM = 4
GOLDEN = Path(__file__).parents[1] / "golden" / "database_v3.zip"
"""A database of schema version 3, made before there were sessions, with three impressions."""


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with rg.VectorDB.open(tmp_path / "db", dim=DIM) as database:
        database.add([*"abcdef"], vectors(6))
    return tmp_path / "db"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(tmp_path / "old")
    return tmp_path / "old"


def sql(path: Path, *statements: str) -> list[Any]:
    """Run statements on the catalog of a closed database; the rows of the last one."""
    connection = sqlite3.connect(path / "catalog.sqlite", isolation_level=None)
    try:
        return [connection.execute(statement).fetchall() for statement in statements][-1]
    finally:
        connection.close()


def contents(log: rg.ClickLog) -> tuple[Any, ...]:
    assert log.times is not None
    shown = [None if rows is None else rows.tolist() for rows in log.shown]
    clicked = [rows.tolist() for rows in log.clicked]
    return shown, clicked, log.times.tolist(), log.sessions, log.explored.tolist()


# --- sessions and reading back
def test_the_log_is_read_back_with_rows_times_and_sessions(path: Path) -> None:
    asked = vectors(3, seed=1)
    for mode in ("rw", "r"):
        with rg.VectorDB.open(path, mode=mode) as database:
            if mode == "rw":
                database.record(asked[0], ["c", "a"], ["b", "c", "a"], at=10, session="s")
                database.record_all([(asked[1], [], ["f"], True, 20.5, 7), (asked[2], "b", None, None, 30.0)])
                database.record(asked[0], [], ["a"], at=40, session=np.int64(-(2**63)))
            log = database.log()
            np.testing.assert_array_equal(log.queries, asked[[0, 1, 2, 0]])
            assert contents(log) == (
                [[1, 2, 0], [5], None, [0]],
                [[0, 2], [], [1], []],
                [10, 20.5, 30, 40],
                ("s", 7, None, -(2**63)),
                [False, True, False, False],
            )
            database.verify()


def test_since_and_until(path: Path) -> None:
    with rg.VectorDB.open(path) as database:
        database.record_all([(row, "a", None, None, float(at)) for at, row in enumerate(vectors(10))])
        for since, until, expected in (
            (None, None, range(10)),
            (3, None, range(3, 10)),
            (None, 4, range(4)),
            (2.5, 5, (3, 4)),
            (5, 5, ()),
        ):
            assert database.log(since, until=until).times.tolist() == list(expected)
        for wrong in ({"since": "now"}, {"until": float("nan")}):
            with pytest.raises(rg.ConfigError, match=f"{next(iter(wrong))}: got"):
                database.log(**wrong)
        empty = database.log(since=100)
        assert len(empty) == 0 and empty.queries.shape == (0, DIM)
    with pytest.raises(rg.ConfigError, match="closed"):
        database.log()


def test_deleted_documents_leave_their_places_and_replaced_ones_get_their_new_row(path: Path) -> None:
    with rg.VectorDB.open(path) as database:
        database.record(vectors(1), ["a", "c"], ["b", "c", "a"], at=1)
        database.record(vectors(1), ["b"], at=2)  # nothing of it will be left
        database.record(vectors(1), ["b"], ["d", "b"], at=3)
        database.record(vectors(1), ["b"], ["b"], at=4)  # nor of this
        database.delete(["b", "c"])
        database.upsert("a", vectors(1, seed=5))
        log = database.log()
        assert contents(log)[:3] == ([[-1, -1, 6], [3]], [[6], []], [1, 3])
        database.compact()
        assert contents(database.log()) == contents(log)
        database.add("b", vectors(1))
        assert database.log().shown[0].tolist() == [7, -1, 6]


@pytest.mark.parametrize("session", [1.5, True, b"s", ["s"], 2**63, "\ud800"])
def test_what_a_session_can_not_be(path: Path, session: Any) -> None:
    with rg.VectorDB.open(path) as database:
        with pytest.raises(rg.ConfigError, match=r"^session: "):
            database.record(vectors(1), "a", session=session)
        assert database.stats()["impressions"] == 0


texts = st.text(st.characters(codec="utf-8"), max_size=4)
sessions = st.none() | texts | st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(sessions, st.none() | st.lists(st.sampled_from("abc"), unique=True)), max_size=5))
def test_any_session_is_read_back(drawn: list[tuple[Any, list[str] | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with rg.VectorDB.open(f"{folder}/db", dim=DIM) as database:
            database.add([*"abc"], vectors(3))
            rows = vectors(len(drawn), seed=1)
            database.record_all(
                [
                    (row, "a", shown, False, 1.0, session)
                    for row, (session, shown) in zip(rows, drawn, strict=True)
                ]
            )
        with rg.VectorDB.open(f"{folder}/db", mode="r") as database:
            log = database.log()
            assert log.sessions == tuple(session for session, _ in drawn)
            places = [None if shown is None else ["abc".index(name) for name in shown] for _, shown in drawn]
            assert contents(log)[0] == places


@pytest.mark.parametrize(
    "change",
    [
        "session = 'other'",
        "session = NULL",
        "session = 8",
        "session = '7'",
        "session = 7.0",
        "session = x'37'",
    ],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_damaged_session_is_found(path: Path, change: str, number: int) -> None:
    given: list[Any] = ["s", 7, None]
    with rg.VectorDB.open(path) as database:
        database.record_all([(vectors(1), "a", None, None, 1.0, session) for session in given])
    before = sql(path, "SELECT session, typeof(session) FROM impressions ORDER BY number")
    sql(path, f"UPDATE impressions SET {change} WHERE number = {number}", "SELECT 1")
    if sql(path, "SELECT session, typeof(session) FROM impressions ORDER BY number") == before:
        return  # it said so already
    with rg.VectorDB.open(path) as database:
        for call in (database.log, database.verify, database.learn):
            with pytest.raises(rg.FormatError, match=f"impression {number} is damaged"):
                call()


# --- catalogs of version 3
EXPECTED = ([[1, 0, 5], [1, 2], None], [[0, 5], [], [2]], [10.5, 20, 30], (None,) * 3, [True, False, False])


def version(path: Path) -> int:
    return int(sql(path, "PRAGMA user_version")[0][0])


def test_a_reader_reads_version_3_and_changes_nothing(old: Path) -> None:
    before = (old / "catalog.sqlite").read_bytes()
    with rg.VectorDB.open(old, mode="r") as database:
        assert contents(database.log()) == EXPECTED and len(database) == 5
        assert database.stats()["impressions"] == 3
        database.verify()
    assert (old / "catalog.sqlite").read_bytes() == before and version(old) == 3


def test_a_writer_brings_version_3_to_4(old: Path) -> None:
    with rg.VectorDB.open(old) as database:
        assert contents(database.log()) == EXPECTED
        database.record(vectors(1), "b", at=50, session="new")
        assert database.log().sessions == (None, None, None, "new")
        database.verify()
        database.compact()
    assert version(old) == 4
    fresh = old.parent / "fresh"
    rg.VectorDB.open(fresh, dim=DIM).close()
    tables = "SELECT name, sql FROM sqlite_master ORDER BY name"
    assert sql(old, tables) == sql(fresh, tables)
    with rg.VectorDB.open(old, mode="r") as database:
        assert contents(database.log())[3] == (None, None, None, "new")


def test_a_reader_follows_a_writer_that_migrates(old: Path) -> None:
    with rg.VectorDB.open(old, mode="r") as reader:
        assert len(reader.log()) == 3
        with rg.VectorDB.open(old) as writer:
            assert contents(reader.log()) == EXPECTED
            writer.record(vectors(1), "b", session=1)
            assert reader.log().sessions == (None, None, None, 1)
            reader.verify()


def test_a_read_only_place_with_version_3(old: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    for file in old.iterdir():
        file.chmod(0o444)
    old.chmod(0o555)
    try:
        with rg.VectorDB.open(old, mode="r") as database:
            assert contents(database.log()) == EXPECTED
    finally:
        old.chmod(0o755)


def test_damage_is_found_in_version_3_and_after_its_migration(old: Path) -> None:
    sql(old, "UPDATE impressions SET clicked = '[\"b\"]' WHERE number = 1")
    for mode in ("r", "rw", "r"):
        with (
            rg.VectorDB.open(old, mode=mode) as database,
            pytest.raises(rg.FormatError, match="impression 1"),
        ):
            database.log()
    assert version(old) == 4


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_tables_of_neither_version_are_refused(old: Path, mode: str) -> None:
    shutil.copytree(old, old.parent / "copy")
    sql(old, "ALTER TABLE impressions ADD COLUMN session TEXT")
    with pytest.raises(rg.FormatError, match="tables are not those of schema version 3"):
        rg.VectorDB.open(old, mode=mode)
    sql(old.parent / "copy", "PRAGMA user_version = 4")
    with pytest.raises(rg.FormatError, match="tables are not those of schema version 4"):
        rg.VectorDB.open(old.parent / "copy", mode=mode)


@pytest.mark.parametrize("statement", ["ALTER TABLE", "PRAGMA user_version = 4", "COMMIT"])
def test_a_migration_that_is_killed_leaves_version_3(old: Path, statement: str) -> None:
    script = f"""
import os, sys
from ruvector_gnn.db import catalog
plain = catalog.Catalog._run
def run(self, call, *arguments):
    if arguments and str(arguments[0]).startswith({statement!r}):
        if {statement!r} != "COMMIT":
            plain(self, call, *arguments)
        elif not migrating:
            return plain(self, call, *arguments)
        os._exit(9)
    return plain(self, call, *arguments)
migrating = []
migrate = catalog.Catalog.migrate
def noted(self):
    migrating.append(1)
    migrate(self)
catalog.Catalog._run, catalog.Catalog.migrate = run, noted
from ruvector_gnn import VectorDB
VectorDB.open({str(old)!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    with rg.VectorDB.open(old, mode="r") as database:
        assert contents(database.log()) == EXPECTED
        assert database._store.catalog.one("PRAGMA user_version") == 3
    with rg.VectorDB.open(old) as database:
        assert contents(database.log()) == EXPECTED
        database.record(vectors(1), "b", session="s")
    assert version(old) == 4


# --- learning from it
def filled(folder: Path, *, shown: bool, explore: float) -> rg.VectorDB:
    """A database whose log holds what simulated users did with queries that a fixed map turned away."""
    random = np.random.default_rng(1)
    docs = random.standard_normal((150, 16)).astype(np.float32)
    wanted = random.integers(0, 150, 300)
    asked = (0.6 * docs[wanted] + np.roll(docs[wanted], 8, axis=1)).astype(np.float32)
    database = rg.VectorDB.open(folder, dim=16)
    database.add(list(range(150)), docs)
    ranked = np.stack([database.search(query, k=20).ids for query in asked])
    log = rg.clicks.simulate(asked, ranked, wanted[:, np.newaxis], impressions=2, explore=explore)
    orders = log.shown if shown else [None] * len(log)
    database.record_all(
        [
            (query, clicked, order, bool(explored))
            for query, clicked, order, explored in zip(
                log.queries, log.clicked, orders, log.explored, strict=True
            )
            if order is not None or len(clicked)
        ]
    )
    return database


@pytest.mark.parametrize(
    ("shown", "explore", "path"),
    [
        (False, 0.0, "plain clicks"),
        (False, 0.5, "plain clicks, judged on shuffled answers"),
        (True, 0.0, "position-based model"),
        (True, 0.5, "position-based model, judged on shuffled answers"),
    ],
)
def test_learn_says_which_path_it_took(tmp_path: Path, shown: bool, explore: float, path: str) -> None:
    with filled(tmp_path / "db", shown=shown, explore=explore) as database:
        assert rg.clicks.judgements(database.log()).path == path
        assert database.learn().clicks == path


def test_a_log_without_clicks_teaches_nothing(path: Path) -> None:
    with rg.VectorDB.open(path) as database:
        database.record(vectors(1), [], ["a", "b"])
        with pytest.raises(rg.ConfigError, match="no click on a document that still exists"):
            database.learn()
