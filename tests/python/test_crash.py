"""Writers that are killed, or lose power, at any of their system calls.

What was acknowledged is there, the call under way is done or not, and nothing needs repair.

The thinned-out runs take seconds; `-m long` takes every call.
"""

from __future__ import annotations

import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    return [part.tobytes() for part in learner.search(vectors(5, 7), k=5)], str(learner.report)


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
        lambda db: db.compact(),
        lambda db: db.add("last", vectors(1, 6)[0]),
        lambda db: db.delete(3),
        lambda db: db.close(),
    ]


def recovering() -> list[Step]:
    """What the writer after a crash does."""
    return [
        lambda db: db.upsert([1, "after"], vectors(2, 7), [None, {"n": 9}]),
        lambda db: db.delete("last"),
        lambda db: db.compact(),
        lambda db: db.upsert([1, "later"], vectors(2, 9)),
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
        return documents, logged, database.stats()["model"] is not None


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
        parts = [entry for entry in path.iterdir() if not entry.name.startswith("catalog")]
        assert len(parts) == len({part.suffix for part in parts}), "a file is left over"
        shutil.rmtree(path)
    raise AssertionError("the writer never ended")


def crashed(folder: Path) -> Path:
    """A database whose writer died while it compacted, with rows and deaths behind the last snapshot."""
    path = folder / "crashed.rvdb"
    live = VectorDB.open(folder / "live.rvdb", dim=DIM)
    for step in steps()[:-1]:
        step(live)
    shutil.copytree(live.path, path)
    live.close()
    (path / ".index-000004.hnsw.1-0.tmp").write_bytes(b"RUVECGNN")
    (path / "index-000004.hnsw").write_bytes(b"RUVECGNN")
    (path / "vectors-000004.f32").write_bytes(b"RVDBVEC1")
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
def test_a_compaction_that_is_killed_at_any_call_costs_nothing(tmp_path: Path) -> None:
    assert check_killed(tmp_path, [lambda db: db.compact()], 1, crashed(tmp_path)) > 20


@traced
@pytest.mark.long
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_writer_that_recovers_and_is_killed_at_any_call_loses_nothing(
    tmp_path: Path, rebuild: bool
) -> None:
    assert check_killed(tmp_path, recovering(), 1, crashed(tmp_path), rebuild=rebuild) > 30


def check_power(tmp_path: Path, every: int, synchronous: str) -> tuple[int, int]:
    """Lose power before one in `every` calls of a writer; the numbers of worlds that opened and that did not.

    Written in full, what was acknowledged is there in all of them. Otherwise that holds for what came before
    the last checkpoint, and what came after it may be lost, or found to be.
    """
    expected = states(tmp_path / "model.rvdb", steps())
    lasting = (0, 1, 6, 9, 11, len(steps()) + 1)  # creation, checkpoint, learn, compact, close
    root, spare = tmp_path / "root", tmp_path / "spare"
    root.mkdir()
    spare.mkdir()
    work = writing(root / "deep" / "a.rvdb", steps(), synchronous=synchronous)
    opened = lost = 0
    for returned, left in lose_power(work, root, spare, every):
        path = left / "deep" / "a.rvdb"
        full = synchronous == "full"
        first = returned if full else max(number for number in lasting if number <= returned)
        try:
            found = content(path)
        except rg.FormatError:
            assert not full
            lost += 1
            continue
        assert found in expected[first : returned + 2], f"after {returned} acknowledged calls"
        path.parent.mkdir(exist_ok=True)
        with VectorDB.open(path, dim=DIM) as database:
            database.add("after", vectors(1, 8)[0])
            database.verify()
        opened += 1
    assert returned == len(expected) - 1
    return opened, lost


@traced
@pytest.mark.parametrize("synchronous", ["full", "normal"])
def test_a_power_loss_takes_only_what_it_may(tmp_path: Path, synchronous: str) -> None:
    assert check_power(tmp_path, 37, synchronous)[0] > 10


@traced
@pytest.mark.long
@pytest.mark.parametrize("synchronous", ["full", "normal"])
def test_a_power_loss_at_any_call_takes_only_what_it_may(tmp_path: Path, synchronous: str) -> None:
    opened, lost = check_power(tmp_path, 1, synchronous)
    assert opened > 200 and (lost == 0) == (synchronous == "full")


@traced
def test_a_checkpoint_outlasts_power_loss_however_it_is_written(tmp_path: Path) -> None:
    some = [*steps()[:5], lambda db: db.delete(1), lambda db: db.checkpoint()]
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


# --- a disk that is full


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_full(folder: Path, size: int, expected: list[object]) -> int:
    """Take all steps, each at first on a disk that lets no file grow beyond `size`; how many were refused."""
    path, refused = folder / f"{size}.rvdb", 0
    database = VectorDB.open(path, dim=DIM)
    for number, step in enumerate(steps()[:-1], start=1):
        before, after = expected[number], expected[number + 1]
        try:
            with largest_file(size):
                step(database)
        except OSError:
            refused += 1
            found = content(path)
            assert found in (before, after), f"{size} bytes, step {number}"
            if found == before:
                step(database)
        assert content(path) == after, f"{size} bytes, step {number}"
    with suppress(OSError), largest_file(size):
        database.close()
    assert "closed" in repr(database)
    assert content(path) == content(path, mode="rw") == expected[-1]
    return refused


@pytest.mark.parametrize("every", [1, pytest.param(8, marks=pytest.mark.long)])
def test_calls_that_a_full_disk_refuses_can_be_made_again(tmp_path: Path, every: int) -> None:
    expected = states(tmp_path / "model.rvdb", steps())
    sizes = (0, 200, *range(1_000, 150_000, 12_000 // every), 10**7)
    refused = [check_full(tmp_path, size, expected) for size in sizes]
    assert refused[0] >= 8 and refused[-1] == 0 and len(set(refused)) > 3


# --- the write-ahead log of SQLite, cut as a power loss may cut it


def frames(wal: bytes) -> Iterator[int]:
    """Where a frame of a write-ahead log ends, and its middle."""
    size = 24 + int.from_bytes(wal[8:12], "big")
    yield 32
    for start in range(32, len(wal), size):
        yield start + size // 2
        yield start + size


def logged(folder: Path) -> tuple[Path, list[object]]:
    """A database whose catalog is all in the write-ahead log, and its contents from its creation on."""
    live, copy = folder / "live.rvdb", folder / "copy.rvdb"
    database = VectorDB.open(live, dim=DIM)
    known = [content(live)]
    for step in (*steps()[:4], *steps()[5:7], steps()[8], *steps()[10:12]):
        step(database)
        known.append(content(live))
    shutil.copytree(live, copy)
    database.close()
    return copy, known


def test_a_log_cut_anywhere_gives_an_earlier_state(tmp_path: Path) -> None:
    copy, known = logged(tmp_path)
    wal = (copy / "catalog.sqlite-wal").read_bytes()
    seen = []
    for length in frames(wal):
        (copy / "catalog.sqlite-shm").unlink(missing_ok=True)
        (copy / "catalog.sqlite-wal").write_bytes(wal[:length])
        try:
            seen.append(known.index(content(copy)))
        except rg.FormatError as missing:
            assert not seen and "catalog is empty" in str(missing), "only the creation may be missing"
    assert seen == sorted(seen) and set(seen) == set(range(len(known)))


@pytest.mark.parametrize("suffix", ["wal", "shm"])
def test_a_flipped_bit_in_the_log_gives_an_earlier_state_or_is_found(tmp_path: Path, suffix: str) -> None:
    copy, known = logged(tmp_path)
    path, stream = copy / f"catalog.sqlite-{suffix}", random.Random(0)
    whole = {entry: entry.read_bytes() for entry in copy.glob("catalog.sqlite*")}
    for _ in range(60):
        for entry, before in whole.items():
            entry.write_bytes(before)
        damaged, bit = bytearray(whole[path]), stream.randrange(8 * len(whole[path]))
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with suppress(rg.FormatError):
            assert content(copy) in (known if suffix == "wal" else known[-1:]), f"bit {bit}"
