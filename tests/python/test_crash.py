"""Writers that are killed, or lose power, at any of their system calls.

What was acknowledged is there, the call under way is done or not, and nothing needs repair.

The thinned-out runs take seconds; `-m long` takes every call.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn.db import VectorDB, log
from traced import Work, available, killed, lose_power

DIM = 4

traced = pytest.mark.skipif(not available(), reason="children can't be traced here")
# Python warns of threads in the parent; the child uses none of theirs.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


# --- single files


def index_of(seed: int) -> rg.HNSWIndex:
    index = rg.HNSWIndex(DIM, metric="l2", m=4, seed=seed)
    index.add(vectors(30, seed))
    return index


def learned(path: Path) -> object:
    learner = rg.SearchLearner.load(path, index_of(0))
    return [part.tobytes() for part in learner.search(vectors(5, 7), k=5)], str(learner.report())


def learner_of(seed: int) -> rg.SearchLearner:
    learner = rg.SearchLearner(index_of(0), seed=seed)
    learner.fit(vectors(12, seed + 1), [np.array([row]) for row in range(12)])
    return learner


def weights(path: Path) -> list[tuple[str, bytes]]:
    layer = rg.nn.Linear(3, 2, seed=9)
    layer.load_weights(path)
    return [(name, value.tobytes()) for name, value in layer.state_dict().items()]


Save = Callable[[Path], object]
FILES: dict[str, tuple[Save, Save, Callable[[Path], object]]] = {
    "index": (
        lambda path: index_of(0).save(path),
        lambda path: index_of(1).save(path),
        lambda path: rg.HNSWIndex.load(path, verify="full").fingerprint,
    ),
    "learner": (
        lambda path: learner_of(0).save(path),
        lambda path: learner_of(1).save(path),
        learned,
    ),
    "weights": (
        lambda path: rg.nn.Linear(3, 2, seed=0).save_weights(path),
        lambda path: rg.nn.Linear(3, 2, seed=1).save_weights(path),
        weights,
    ),
}


@traced
@pytest.mark.parametrize("kind", FILES)
def test_a_save_that_is_killed_leaves_the_old_file_or_the_new(kind: str, tmp_path: Path) -> None:
    save, save_again, load = FILES[kind]
    path = tmp_path / "file"
    save_again(path)
    new = load(path)
    outcomes = []
    for at in range(1_000):
        save(path)
        old = load(path)
        assert old != new
        returned = killed(replacing(save_again, path), at)
        outcomes.append(load(path) == new)
        assert load(path) in (old, new)
        assert outcomes[-1] or not returned
        if returned is None:
            break
    assert outcomes[-1] and outcomes == sorted(outcomes) and outcomes.count(False) >= 4


def replacing(save: Save, path: Path) -> Work:
    def work(say: Callable[[], None]) -> None:
        save(path)
        say()

    return work


@traced
@pytest.mark.parametrize("kind", FILES)
def test_a_save_that_loses_power_leaves_the_old_file_or_the_new(kind: str, tmp_path: Path) -> None:
    save, save_again, load = FILES[kind]
    root, spare = tmp_path / "root", tmp_path / "spare"
    root.mkdir()
    spare.mkdir()
    save_again(root / "file")
    new = load(root / "file")
    save(root / "file")
    seen = set()
    for returned, left in lose_power(replacing(save_again, root / "file"), root, spare):
        is_new = load(left / "file") == new
        seen.add(is_new)
        assert is_new or not returned
    assert seen == {False, True}


# --- the database

Step = Callable[[VectorDB], object]


def steps() -> list[Step]:
    """One of each kind of call, most of them twice: on rows within a snapshot and behind it."""
    return [
        lambda db: db.add(range(12), vectors(12), [{"n": number} for number in range(12)]),
        lambda db: db.upsert([3, "new"], vectors(2, 1), [{"n": -3}, None]),
        lambda db: db.delete([0, 5]),
        lambda db: db.record(vectors(1, 2)[0], [1], shown=[1, 2, 3]),
        lambda db: db.checkpoint(),
        lambda db: db.upsert(["new", "late"], vectors(2, 3), [{"n": 5}, {"n": 6}]),
        lambda db: db.record_all([(vectors(1, seed)[0], [1, "late"]) for seed in (4, 5)]),
        lambda db: db.learn(),
        lambda db: db.delete(["late", 2]),
        lambda db: db.add("last", vectors(1, 6)[0]),
        lambda db: db.close(),
    ]


def recovering() -> list[Step]:
    """What the writer after a crash does."""
    return [
        lambda db: db.upsert([1, "after"], vectors(2, 7), [None, {"n": 9}]),
        lambda db: db.delete("last"),
        lambda db: db.checkpoint(),
    ]


def writing(path: Path, some: list[Step], **options: Any) -> Work:
    def work(say: Callable[[], None]) -> None:
        database = VectorDB.open(path, dim=DIM, **options)
        say()
        for step in some:
            step(database)
            say()

    return work


def content(path: Path, mode: str = "r") -> object:
    """All that a caller can see of a database; None if its creation was cut short."""
    try:
        database = VectorDB.open(path, mode=mode)
    except (FileNotFoundError, rg.FormatError) as absent:
        if isinstance(absent, rg.FormatError) and "cut short" not in str(absent):
            raise
        return None
    with database:
        database.verify()
        records = database.get(database.ids())
        documents = [(record.id, record.vector.tobytes(), record.metadata) for record in records]
        for record in records:
            assert database.search(record.vector, k=1, learned=False).ids == [record.id]
        assert set(database.search(np.ones(DIM), k=100).ids) == set(records.ids)
        logged = [
            (impression.query.tobytes(), impression.clicked, impression.shown)
            for impression in log.read(database._store.catalog)
        ]
        return documents, logged, database.learned


def states(path: Path, some: list[Step], **options: Any) -> list[object]:
    """The content before the database is opened, after that, and after each step."""
    found = [content(path) if path.exists() else None]
    database = VectorDB.open(path, dim=DIM, **options)
    found.append(content(path))
    for step in some:
        step(database)
        found.append(content(path))
    database.close()
    return found


def copied(base: Path | None, path: Path) -> Path:
    if base is not None:
        shutil.copytree(base, path)
    return path


def check_killed(folder: Path, some: list[Step], every: int, base: Path | None = None, **options: Any) -> int:
    """Kill a writer, on a copy of `base` or a new database, before one in `every` of its calls.

    Returns the number of trials.
    """
    expected = states(copied(base, folder / "model.rvdb"), some, **options)
    for trial in range(100_000):
        path = copied(base, folder / f"{trial}.rvdb")
        returned = killed(writing(path, some, **options), trial * every)
        if returned is None:
            return trial
        found = content(path)
        assert found in expected[returned : returned + 2], f"trial {trial}: {returned} calls acknowledged"
        with VectorDB.open(path, dim=DIM) as database:
            database.add("then", vectors(1, 8)[0])
            assert database.search(vectors(1, 8)[0], k=1, learned=False).ids == ["then"]
            database.verify()
        assert not [entry.name for entry in path.iterdir() if entry.name.startswith(".")]
        shutil.rmtree(path)
    raise AssertionError("the writer never ended")


def crashed(folder: Path) -> Path:
    """A database whose writer died while it took a snapshot, with rows behind the last one."""
    path = folder / "crashed.rvdb"
    live = VectorDB.open(folder / "live.rvdb", dim=DIM)
    for step in steps()[:-1]:
        step(live)
    shutil.copytree(live.path, path)
    live.close()
    (path / ".index-000003.hnsw.1-0.tmp").write_bytes(b"RUVECGNN")
    (path / "index-000003.hnsw").write_bytes(b"RUVECGNN")
    return path


@traced
def test_a_database_whose_writer_is_killed_holds_what_was_acknowledged(tmp_path: Path) -> None:
    assert check_killed(tmp_path, steps(), every=17) > 8


@traced
@pytest.mark.long
def test_a_database_whose_writer_is_killed_at_any_call_holds_what_was_acknowledged(tmp_path: Path) -> None:
    assert check_killed(tmp_path, steps(), every=1) > 100


@traced
def test_a_writer_that_recovers_and_is_killed_loses_nothing(tmp_path: Path) -> None:
    assert check_killed(tmp_path, recovering(), every=9, base=crashed(tmp_path)) > 3


@traced
@pytest.mark.long
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_writer_that_recovers_and_is_killed_at_any_call_loses_nothing(
    tmp_path: Path, rebuild: bool
) -> None:
    assert check_killed(tmp_path, recovering(), 1, crashed(tmp_path), rebuild=rebuild) > 30


def check_power(tmp_path: Path, every: int) -> int:
    expected = states(tmp_path / "model.rvdb", steps())
    root, spare = tmp_path / "root", tmp_path / "spare"
    root.mkdir()
    spare.mkdir()
    work = writing(root / "deep" / "a.rvdb", steps(), synchronous="full")
    trials = 0
    for returned, left in lose_power(work, root, spare, every):
        path = left / "deep" / "a.rvdb"
        assert content(path) in expected[returned : returned + 2], f"after {returned} acknowledged calls"
        path.parent.mkdir(exist_ok=True)
        with VectorDB.open(path, dim=DIM) as database:
            database.add("after", vectors(1, 8)[0])
            database.verify()
        trials += 1
    assert returned == len(expected) - 1
    return trials


@traced
def test_a_database_written_in_full_outlasts_power_loss(tmp_path: Path) -> None:
    assert check_power(tmp_path, every=31) > 10


@traced
@pytest.mark.long
def test_a_database_written_in_full_outlasts_power_loss_at_any_call(tmp_path: Path) -> None:
    assert check_power(tmp_path, every=1) > 300


@traced
def test_a_checkpoint_outlasts_power_loss_however_it_is_written(tmp_path: Path) -> None:
    some = steps()[:5]
    expected = states(tmp_path / "model.rvdb", some)[-1]
    root, spare = tmp_path / "root", tmp_path / "spare"
    root.mkdir()
    spare.mkdir()
    work = writing(root / "a.rvdb", some, synchronous="normal")
    worlds = 0
    for returned, left in lose_power(work, root, spare):
        if returned == len(some) + 1:
            assert content(left / "a.rvdb") == expected
            worlds += 1
    assert worlds >= 3


# --- the write-ahead log of SQLite, cut as a power loss may cut it


def frames(wal: bytes) -> Iterator[int]:
    """Where a frame of a write-ahead log ends, and its middle."""
    size = 24 + int.from_bytes(wal[8:12], "big")
    yield 32
    for start in range(32, len(wal), size):
        yield start + size // 2
        yield start + size


def test_a_log_cut_anywhere_gives_an_earlier_state(tmp_path: Path) -> None:
    live, copy = tmp_path / "live.rvdb", tmp_path / "copy.rvdb"
    database = VectorDB.open(live, dim=DIM)
    known = [content(live)]
    for step in (*steps()[:4], *steps()[5:7], *steps()[8:10]):
        step(database)
        known.append(content(live))
    shutil.copytree(live, copy, ignore=shutil.ignore_patterns("*-shm"))
    database.close()
    wal = (copy / "catalog.sqlite-wal").read_bytes()
    seen = []
    for length in frames(wal):
        (copy / "catalog.sqlite-shm").unlink(missing_ok=True)
        (copy / "catalog.sqlite-wal").write_bytes(wal[:length])
        state = content(copy)
        if state is None:
            assert not seen, "only the creation may be missing"
        else:
            seen.append(known.index(state))
    assert seen == sorted(seen) and set(seen) == set(range(len(known)))


# --- one writer, many readers

HOLDER = """
import os, sys, time, numpy as np
from ruvector_gnn.db import VectorDB
db = VectorDB.open(sys.argv[1], dim=4)
db.add(range(3), np.eye(3, 4, dtype=np.float32))
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
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


# --- opening


def test_opening_checks_and_indexes_only_what_the_snapshot_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.rvdb"
    with VectorDB.open(path, dim=DIM) as database:
        database.add(range(20), vectors(20))
    with VectorDB.open(path) as database:
        database.add([20, 21], vectors(2, 1))
        shutil.copytree(path, tmp_path / "killed.rvdb")
    statements: list[str] = []
    with VectorDB.open(tmp_path / "killed.rvdb", mode="r") as database:
        assert database._live.snapshot_rows == 20 and database._live.index.num_rows == 22
        database._store.catalog._connection.set_trace_callback(statements.append)
        database._store.check_documents(database._store.vectors.rows(22), 20)
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
