"""A handle belongs to the directory that it opened, and touches no files but its own."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn.db import VectorDB, log, names
from ruvector_gnn.db.catalog import document_crc
from ruvector_gnn.db.lock import WriterLock
from ruvector_gnn.db.place import Place

DIM = 4


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.rvdb"


@pytest.fixture
def db(path: Path) -> Iterator[VectorDB]:
    with VectorDB.open(path, dim=DIM) as database:
        database.add(range(10), vectors(10))
        database.record(vectors(1)[0], [1])
        yield database


def contents(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(path.iterdir()) if entry.is_file()}


READS: dict[str, Callable[[VectorDB], Any]] = {
    "len": len,
    "ids": lambda db: db.ids(),
    "get": lambda db: db.get(1),
    "search": lambda db: db.search(vectors(1)[0]),
    "stats": lambda db: db.stats(),
    "verify": lambda db: db.verify(),
    "get_all_vectors": lambda db: db.get_all_vectors(),
}
WRITES: dict[str, Callable[[VectorDB], Any]] = {
    "add": lambda db: db.add("x", vectors(1)),
    "upsert": lambda db: db.upsert(1, vectors(1)),
    "delete": lambda db: db.delete(2),
    "record": lambda db: db.record(vectors(1)[0], [1]),
    "learn": lambda db: db.learn(),
    "checkpoint": lambda db: db.checkpoint(),
    "compact": lambda db: db.compact(),
}


# --- directories that move


def test_a_renamed_database_goes_on(db: VectorDB, path: Path, tmp_path: Path) -> None:
    with VectorDB.open(path, mode="r") as reader:
        for number in range(3):
            moved = tmp_path / "deep" / f"{number}.rvdb"
            moved.parent.mkdir(exist_ok=True)
            os.rename(db.path, moved)
            db.add(f"new{number}", vectors(1, number + 1))
            db.delete(5 + number)
            for name, call in {**READS, **WRITES}.items():
                if name != "delete":
                    call(db)
            for call in READS.values():
                call(reader)
            assert db.path == reader.path == moved and str(moved) in repr(db)
            assert reader.search(vectors(1, number + 1)[0], k=1).ids == [f"new{number}"]
            with pickle.loads(pickle.dumps(db)) as copy, VectorDB.open(moved, mode="r") as other:
                assert copy.path == moved and copy.ids() == other.ids() == db.ids()
            with pytest.raises(BlockingIOError):
                VectorDB.open(moved)
            db.delete("x")
        ids = db.ids()
    db.close()
    assert not path.exists() and not (moved / "catalog.sqlite-wal").exists()
    assert db.path == moved
    with VectorDB.open(moved) as again:
        again.verify()
        assert again.ids() == ids


def test_a_relative_path_means_what_it_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with VectorDB.open("here.rvdb", dim=DIM) as db:
        db.add(range(5), vectors(5))
        with VectorDB.open("here.rvdb", mode="r") as reader:
            monkeypatch.chdir(tmp_path / "elsewhere")
            with VectorDB.open("here.rvdb", dim=DIM) as namesake:
                namesake.add("other", vectors(1, 9))
                db.record(vectors(1)[0], [1])
                for call in (*READS.values(), *WRITES.values()):
                    call(db)
                for call in READS.values():
                    call(reader)
                assert db.path == tmp_path / "here.rvdb" and namesake.ids() == ["other"]
                assert pickle.loads(pickle.dumps(db)).ids() == db.ids() != ["other"]
    gc.collect()
    with VectorDB.open(tmp_path / "elsewhere" / "here.rvdb") as namesake:
        namesake.verify()
        assert namesake.ids() == ["other"]


def test_a_link_that_is_turned_elsewhere_leaves_the_handle_where_it_is(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with VectorDB.open(tmp_path / name, dim=DIM) as database:
            database.add(name, vectors(1))
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "one")
    with VectorDB.open(link) as database:
        link.unlink()
        link.symlink_to(tmp_path / "two")
        database.add("more", vectors(1, 1))
        database.checkpoint()
        assert database.path == tmp_path / "one"
        with VectorDB.open(link) as second:
            assert second.ids() == ["two"]
    with VectorDB.open(tmp_path / "one") as database:
        assert database.ids() == ["one", "more"]


def removed(path: Path) -> None:
    shutil.rmtree(path)


def replaced(path: Path) -> None:
    shutil.rmtree(path)
    with VectorDB.open(path, dim=DIM) as database:
        database.add(range(50, 60), vectors(10, 5))


def swapped(path: Path) -> None:
    with VectorDB.open(path.with_name("b.rvdb"), dim=DIM) as database:
        database.add(range(50, 60), vectors(10, 5))
    shutil.rmtree(path)
    os.rename(path.with_name("b.rvdb"), path)


def an_empty_directory(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("mine")


@pytest.mark.parametrize("harm", [removed, replaced, swapped, an_empty_directory, a_file])
def test_a_directory_that_is_gone_is_said_and_what_is_there_is_not_touched(
    db: VectorDB, path: Path, harm: Callable[[Path], None]
) -> None:
    db.checkpoint()
    db.add("behind the snapshot", vectors(1, 3))
    reader = VectorDB.open(path, mode="r")
    harm(path)
    before = contents(path) if path.is_dir() else path.exists()
    for handle, calls in ((db, {**READS, **WRITES}), (reader, READS)):
        for name, call in calls.items():
            with pytest.raises(FileNotFoundError, match="removed or replaced"):
                call(handle)
                pytest.fail(name)
        with pytest.raises(FileNotFoundError):
            pickle.dumps(handle)
        assert str(path) in repr(handle)
        handle.close()
        assert repr(handle).endswith("closed)")
    assert (contents(path) if path.is_dir() else path.exists()) == before
    if harm in (replaced, swapped):
        with VectorDB.open(path) as there:
            there.verify()
            assert there.ids() == list(range(50, 60))


def test_a_handle_that_is_dropped_after_its_directory_touches_nothing(path: Path) -> None:
    script = (
        "import shutil, sys, numpy as np\nfrom ruvector_gnn.db import VectorDB\n"
        "old = VectorDB.open(sys.argv[1], dim=4)\nold.add([1], np.ones((1, 4)))\nshutil.rmtree(sys.argv[1])\n"
        "new = VectorDB.open(sys.argv[1], dim=4)\nnew.add([2, 3], np.eye(2, 4))\n"
        "del old\nnew.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with VectorDB.open(path) as database:
        database.verify()
        assert database.ids() == [2, 3]


# --- files that are replaced below an open handle


def restored(name: str) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        shutil.copy(path / name, path / "copy")
        os.replace(path / "copy", path / name)

    return harm


@pytest.mark.parametrize(
    ("harm", "writes", "reads"),
    [
        (restored("catalog.sqlite"), True, True),
        (lambda path: (path / "catalog.sqlite").unlink(), True, True),
        (restored("vectors.f32"), True, True),
        (lambda path: (path / "vectors.f32").unlink(), True, False),
        (restored("writer.lock"), True, False),
        (lambda path: (path / "writer.lock").unlink(), True, False),
    ],
)
def test_a_file_that_was_replaced_is_noticed(
    db: VectorDB, path: Path, harm: Callable[[Path], None], writes: bool, reads: bool
) -> None:
    with VectorDB.open(path, mode="r") as reader:
        # What SQLite's log holds is no part of a copy.
        db._store.catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        harm(path)
        before = contents(path)
        with pytest.raises(rg.FormatError, match=r"replaced|missing"):
            db.add("x", vectors(1))
        if reads:
            with pytest.raises(rg.FormatError, match="replaced"):
                reader.get(1)
        db.close()
    after = contents(path)
    for name in ("catalog.sqlite", "vectors.f32"):
        assert before.get(name) == after.get(name)


def test_two_writers_never_meet_over_a_lock_file_that_was_removed(db: VectorDB, path: Path) -> None:
    (path / "writer.lock").unlink()
    with VectorDB.open(path) as second:
        second.add("second", vectors(1))
        for write in WRITES.values():
            with pytest.raises(rg.FormatError, match=r"writer\.lock: was removed or replaced"):
                write(db)
        db.close()
        second.add("again", vectors(1))
        second.verify()
        assert second.ids()[-2:] == ["second", "again"]


# --- only our own files

MINE = (
    *("vectors-backup.npy", "vectors.f32.bak", "vectors-1.f32", "vectors-0000001.f32", "vectors-000001.f32x"),
    *("index-notes.txt", "index-000001.hnsw.old", "index-.hnsw", "index-0x0001.hnsw", "model-card.md"),
    *("model-000001.gnn~", ".index-000001.hnsw.tmp", ".index-notes", ".model-000001.gnn.1-2.tmp.bak"),
    *(".vectors.swp", "vectors", "Vectors.f32", "index-000001.hnsw\n", "index-00000\u0661.hnsw"),
)
OURS = (
    *("vectors-000007.f32", "index-000008.hnsw", "model-000009.gnn", "index-1234567.hnsw"),
    *(".index-000008.hnsw.123-4.tmp", ".model-000009.gnn.1-0.tmp"),
)


def test_only_files_that_a_writer_left_are_removed(db: VectorDB, path: Path) -> None:
    db.close()
    for name in (*MINE, *OURS):
        (path / name).write_text("text")
    (path / "vectors-old").mkdir()
    (path / "vectors-000010.f32").mkdir()
    outside = path.parent / "outside.txt"
    outside.write_text("mine")
    (path / "index-000011.hnsw").symlink_to(outside)
    (path / "model-000012.gnn").symlink_to(path.parent / "nowhere")
    with VectorDB.open(path) as database:
        database.verify()
        for _ in range(12):  # numbers whose names are taken are left out
            database.upsert(1, vectors(1))
            database.checkpoint()
        database.compact()
        database.record(vectors(1)[0], [1])
        database.learn()
    left = {entry.name for entry in path.iterdir()}
    assert not left & set(OURS) and set(MINE) <= left
    assert all((path / name).read_text() == "text" for name in MINE)
    assert {"vectors-old", "vectors-000010.f32", "index-000011.hnsw", "model-000012.gnn"} <= left
    assert outside.read_text() == "mine" and (path / "index-000011.hnsw").is_symlink()


def test_files_of_the_user_do_not_keep_a_creation_from_being_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.rvdb"
    path.mkdir()
    (path / "catalog.sqlite").touch()
    for name in ("vectors-backup.npy", "index-notes.txt"):
        (path / name).write_text("mine")
    with VectorDB.open(path, dim=DIM) as database:
        database.add(1, vectors(1))
    assert (path / "vectors-backup.npy").read_text() == (path / "index-notes.txt").read_text() == "mine"


def test_a_small_file_of_the_user_is_no_torn_vectors_file(tmp_path: Path) -> None:
    path = tmp_path / "a.rvdb"
    path.mkdir()
    (path / "vectors.f32").write_text("1 2 3\n")
    with pytest.raises(rg.FormatError, match="nothing is overwritten"):
        VectorDB.open(path, dim=DIM)
    assert (path / "vectors.f32").read_text() == "1 2 3\n"
    (path / "vectors.f32").write_bytes(b"RVDBV")
    VectorDB.open(path, dim=DIM).close()


@contextmanager
def hand_made(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path / "catalog.sqlite")
    yield connection
    connection.commit()
    connection.close()


def write_setting(path: Path, name: str, value: object) -> None:
    crc = zlib.crc32(f"{name}={value!r}".encode())
    with hand_made(path) as connection:
        connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?, ?)", (name, value, crc))


VALUES: list[tuple[str, object]] = [
    *((kind, name) for kind in names.PATTERNS for name in ("../b/vectors.f32", "/etc/passwd", "", ".", "..")),
    *((kind, name) for kind in names.PATTERNS for name in ("writer.lock", "catalog.sqlite", "x\0y", 7)),
    *(
        ("index_file", name)
        for name in (
            "index-000001.hnsw\n",
            "index-1.hnsw",
            "vectors.f32",
            "a/index-000001.hnsw",
            "./index-000001.hnsw",
        )
    ),
    *(("model_file", name) for name in ("index-000001.hnsw", "model-00000.gnn")),
    *(("vectors_file", name) for name in (None, "vectors-000000000000000000001.f32", "index-000001.hnsw")),
    *(("rows", value) for value in (-1, 2**32, 2**63 - 1, "10", None, -(2**63))),
    *(("dead", value) for value in (-1, 11, 2**62, "0", None)),
    *(("file_number", value) for value in (-1, 2**63 - 1, "1", None)),
    *(("dim", value) for value in (0, -4, 2**31, 2**62, "4", None)),
    *(("metric", value) for value in ("manhattan", "", 1, None)),
    *(
        ("index_options", value)
        for value in (
            "[]",
            "{",
            "7",
            '{"m": -1}',
            '{"metric": "l2"}',
            '{"m": 1e99}',
            '{"m": 99999999999999999999}',
            '"text"',
            None,
        )
    ),
]


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_settings_made_by_hand_are_refused_before_anything_changes(
    db: VectorDB, path: Path, name: str, value: object
) -> None:
    db.close()
    write_setting(path, name, value)
    victim = path.parent / "b"
    with VectorDB.open(victim, dim=DIM) as other:
        other.add(range(3), vectors(3))
    before = {folder: contents(folder) for folder in (path, victim)}
    for mode in ("r", "rw"):
        with pytest.raises(rg.FormatError):
            VectorDB.open(path, mode=mode)
    with pytest.raises(rg.FormatError):
        VectorDB.open(path, rebuild=True)
    for folder, files in before.items():
        after = contents(folder)
        data = {file for file in files if file.startswith(("vectors", "index", "model"))}
        assert all(after[file] == files[file] for file in data) and data


def test_settings_changed_by_hand_beneath_a_handle_are_refused(db: VectorDB, path: Path) -> None:
    db.checkpoint()
    write_setting(path, "vectors_file", "../b/vectors.f32")
    for name, call in {**READS, **WRITES}.items():
        if name not in ("ids", "search", "record"):  # these need no settings
            with pytest.raises(rg.FormatError, match="vectors_file"):
                call(db)
    write_setting(path, "vectors_file", "vectors.f32")
    db.verify()


@pytest.mark.parametrize("kind", ["catalog.sqlite", "vectors.f32", "index-*", "model-*", "writer.lock"])
@pytest.mark.parametrize("how", ["link", "directory", "pipe"])
def test_names_of_ours_that_are_no_files_are_refused(db: VectorDB, path: Path, kind: str, how: str) -> None:
    db.learn()
    db.close()
    file = next(path.glob(kind))
    elsewhere = path.parent / "elsewhere"
    file.rename(elsewhere)
    data = elsewhere.read_bytes()
    if how == "link":
        file.symlink_to(elsewhere)
    elif how == "directory":
        file.mkdir()
    else:
        os.mkfifo(file)
    for mode in ("rw",) if kind == "writer.lock" else ("r", "rw"):
        with pytest.raises((rg.FormatError, rg.ConfigError, FileNotFoundError)):
            VectorDB.open(path, mode=mode)
    assert elsewhere.read_bytes() == data


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_again(tmp_path: Path) -> None:
    place = Place(tmp_path)
    first = WriterLock(place)
    assert first.held and first.is_in_place()
    (tmp_path / "writer.lock").unlink()
    assert not first.is_in_place()
    second = WriterLock(place)
    assert second.is_in_place()
    for lock in (first, second):
        lock.release()
        lock.release()
    place.close()


def test_temporary_directories_may_go_before_their_database() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = VectorDB.open(Path(folder) / "a.rvdb", dim=DIM)
        database.add(1, vectors(1))
    with pytest.raises(FileNotFoundError):
        len(database)
    database.close()


def document(row: int, name: int | str, metadata: str | None, data: bytes) -> tuple[str, tuple[Any, ...]]:
    values = (row, name, metadata, document_crc(name, metadata, data))
    return "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", values


def impression(query: bytes, clicked: str, shown: str | None = None) -> tuple[str, tuple[Any, ...]]:
    values = (1.0, query, clicked, shown, 0)
    sql = "INSERT INTO impressions (at, query, clicked, shown, explored, crc) VALUES (?, ?, ?, ?, ?, ?)"
    return sql, (*values, log._crc(*values))


QUERY = vectors(10)[3].tobytes()
ROWS = [
    *(document(row, "a", None, QUERY) for row in (2**62, -5, 2**63 - 1, -(2**63), 10)),
    *(document(3, 3, text, QUERY) for text in ("[1]", "5", "null", "x", '{"a": NaN}', "[" * 5000)),
    *(impression(QUERY, text) for text in ("5", "null", '{"a": 1}', "[[1]]", "x", "[true]", "[" * 5000)),
    *(impression(QUERY, "[1]", text) for text in ("7", "[{}]", "[1.5]")),
    *(impression(data, "[1]") for data in (b"", QUERY[:7], QUERY[:8], b"\xff" * 16)),
    *(("UPDATE dead SET row = ?", (row,)) for row in (2**62, -1, 2**63 - 1)),
    *(("INSERT INTO dead VALUES (?, 1)", (number,)) for number in (2**62, -7)),
    *(("UPDATE sqlite_sequence SET seq = ?", (last,)) for last in (2**62, -3, "x")),
]


@pytest.mark.parametrize(("sql", "values"), ROWS)
def test_rows_made_by_hand_give_typed_errors(
    db: VectorDB, path: Path, sql: str, values: tuple[Any, ...]
) -> None:
    """Any answer or refusal will do, but for an error that says nothing of the file."""
    db.delete(9)
    db.close()
    with hand_made(path) as connection:
        connection.execute(sql, values)
    for mode, calls in (("r", READS), ("rw", {**READS, **WRITES})):
        with suppress(rg.RuvectorError), VectorDB.open(path, mode=mode) as handle:
            for call in (*calls.values(), lambda db: db.get(db.ids()), lambda db: db.delete(db.ids()[-1])):
                with suppress(rg.RuvectorError):
                    call(handle)
            handle.search(vectors(1)[0], k=20, where={"$not": {"n": 1}})


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_new_files_have_the_mode_of_the_catalog(path, mode):
    """Snapshots, models and compacted vectors are not readable by more people than the metadata."""
    before = os.umask(0o022)
    try:
        with VectorDB.open(path, dim=DIM) as db:
            db.add(range(20), vectors(20))
            for entry in path.iterdir():
                os.chmod(entry, mode)
            db.checkpoint()
            db.record(vectors(1)[0], [1])
            db.learn()
            db.delete([3, 4])
            db.compact()
        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in path.iterdir()}
    finally:
        os.umask(before)
    assert len(modes) >= 4
    assert set(modes.values()) == {mode}, modes
