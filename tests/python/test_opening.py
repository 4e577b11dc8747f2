"""Opening a database: after a crash, beside a writer, from other processes, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn.db import VectorDB

DIM = 4


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


# --- one writer, many readers

HOLDER = """
import os, sys, time, numpy as np
from ruvector_gnn.db import VectorDB
db = VectorDB.open(sys.argv[1], dim=4)
db.add(range(3), np.eye(3, 4, dtype=np.float32))
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_a_forked_child_of_a_killed_writer_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.rvdb"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(BlockingIOError, match=f"process {holder.pid}"):
            VectorDB.open(path)
        holder.kill()
        holder.wait()
        with VectorDB.open(path) as database:
            assert len(database) == 3
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


READER = """
import sys, numpy as np
from ruvector_gnn.db import VectorDB
with VectorDB.open(sys.argv[1], mode="r") as db:
    print("open", flush=True)
    for line in sys.stdin:
        number = int(line)
        hits = db.search(np.eye(4, dtype=np.float32)[number % 4] * (number + 1), k=1000)
        assert max(hits.ids) == number and number in db, (number, hits.ids)
        assert db.get(number).metadata == {"number": number}
        print(len(hits), flush=True)
"""


def test_readers_in_other_processes_see_each_call_that_has_returned(tmp_path: Path) -> None:
    path = tmp_path / "a.rvdb"
    with VectorDB.open(path, dim=DIM) as database:
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READER, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for _ in range(2)
        ]
        lines = [(reader.stdin, reader.stdout) for reader in readers]
        assert [out.readline() for _, out in lines if out] == ["open\n"] * 2
        for number in range(40):
            database.add(number, np.eye(DIM)[number % DIM] * (number + 1), {"number": number})
            if number % 10 == 9:
                database.checkpoint()
            for into, out in lines:
                assert into is not None and out is not None
                into.write(f"{number}\n")
                assert out.readline() == f"{number + 1}\n"
        for reader in readers:
            assert reader.stdin is not None and reader.stdout is not None
            reader.stdin.close()
            assert reader.wait() == 0
            reader.stdout.close()


WRITER = """
import itertools, sys, numpy as np
from ruvector_gnn.db import VectorDB
db = VectorDB.open(sys.argv[1])
for number in itertools.count(int(sys.argv[2])):
    db.upsert([number, "same"], [np.eye(4)[number % 4] * (number + 1)] * 2, [{"number": number}, None])
    print(number, flush=True)
    if number % 50 == 7:
        db.checkpoint()
"""


def test_a_reader_outlives_killed_writers(tmp_path: Path) -> None:
    path = tmp_path / "a.rvdb"
    VectorDB.open(path, dim=DIM, metric="l2").close()
    first = 0
    with VectorDB.open(path, mode="r") as reader:
        for at_least in (1, 8, 30, 60):
            command = [sys.executable, "-c", WRITER, str(path), str(first)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
                assert writer.stdout is not None
                while first < at_least:
                    first = int(writer.stdout.readline()) + 1
                    hits = reader.search(np.eye(DIM)[(first - 1) % DIM] * first, k=3)
                    assert first - 1 in hits.ids and first - 1 in reader
                writer.kill()
            reader.verify()
            assert set(range(first)) < set(reader.ids())
            first = len(reader) - 1  # without "same"


# --- opening


def test_opening_checks_and_indexes_only_what_the_snapshot_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.rvdb"
    with VectorDB.open(path, dim=DIM) as database:
        database.add(range(20), vectors(20))
    with VectorDB.open(path) as database:
        database.add([20, 21], vectors(2, 1))
        database.delete([3, 21])
        shutil.copytree(path, tmp_path / "killed.rvdb")
    statements: list[str] = []
    with VectorDB.open(tmp_path / "killed.rvdb", mode="r") as database:
        live = database._live
        assert live._saved == (20, 0) and (live.index.num_rows, len(live.index)) == (22, 20)
        assert sorted(set(range(22)) - set(live.index.rows().tolist())) == [3, 21]
        committed = database._store.reading(lambda settings, committed: committed)
        database._store.catalog._connection.set_trace_callback(statements.append)
        database._store.check_documents(committed, 20, 22)
    assert len(statements) == 1
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE documents (row INTEGER PRIMARY KEY, id, metadata, crc)")
    plan = connection.execute(f"EXPLAIN QUERY PLAN {statements[0]}").fetchall()
    connection.close()
    assert "SEARCH documents USING INTEGER PRIMARY KEY" in str(plan)


def test_rows_behind_the_snapshot_are_checked_before_they_are_indexed(tmp_path: Path) -> None:
    path = tmp_path / "a.rvdb"
    database = VectorDB.open(path, dim=DIM)
    database.add(range(5), vectors(5))
    database.delete(3)
    shutil.copytree(path, tmp_path / "killed.rvdb")
    database.close()
    damaged = tmp_path / "killed.rvdb" / "vectors.f32"
    whole = damaged.read_bytes()

    def without(row: int) -> None:
        start = 64 + row * DIM * 4
        damaged.write_bytes(whole[:start] + b"\xff" * (DIM * 4) + whole[start + DIM * 4 :])

    for mode in ("r", "rw"):
        without(2)
        with pytest.raises(rg.FormatError, match="document 2"):
            VectorDB.open(tmp_path / "killed.rvdb", mode=mode)
        without(3)  # a dead row: nobody misses it
        with VectorDB.open(tmp_path / "killed.rvdb", mode="r") as database:
            assert sorted(database.search(np.ones(DIM)).ids) == [0, 1, 2, 4]


def test_an_empty_catalog_beside_vectors_is_damage_not_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "a.rvdb"
    with VectorDB.open(path, dim=DIM) as database:
        database.add(range(5), vectors(5))
    before = (path / "vectors.f32").read_bytes()
    for harm in (lambda: os.truncate(path / "catalog.sqlite", 0), (path / "catalog.sqlite").unlink):
        harm()
        for entry in path.glob("index-*"):
            entry.unlink()
        for dim in (None, DIM):
            with pytest.raises((rg.FormatError, rg.ConfigError)):
                VectorDB.open(path, dim=dim)
        assert (path / "vectors.f32").read_bytes() == before


def test_options_that_no_index_takes_make_no_database(tmp_path: Path) -> None:
    for options in ({"m": -1}, {"unknown": 1}, {"m": {1}}):
        with pytest.raises(rg.ConfigError):
            VectorDB.open(tmp_path / "a.rvdb", dim=DIM, index_options=options)
    assert not (tmp_path / "a.rvdb").exists()


def test_a_search_catches_up_with_an_interrupted_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**options: object) -> None:
        raise KeyboardInterrupt

    with VectorDB.open(tmp_path / "a.rvdb", dim=DIM) as database:
        database.add(["old", "kept"], vectors(2))
        for call in (
            lambda: database.upsert(["old", "new"], vectors(2, 1)),
            lambda: database.delete("kept"),
        ):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(database._live, "follow", interrupted)
                call()
        hits = database.search(vectors(2, 1)[1], k=5)
        assert hits.ids[0] == "new" and set(hits.ids) == {"old", "new"}
        assert database._live.index.rows().tolist() == [2, 3]
