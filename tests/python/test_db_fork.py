"""Databases that are open while their process forks: nothing is lost, stale or blocked on either side."""

from __future__ import annotations

import faulthandler
import gc
import json
import mmap
import multiprocessing
import os
import pickle
import random
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn.db import VectorDB, fork

DIM = 8
# Python warns of threads in the parent; the children use none of theirs.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def vector(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(DIM).astype(np.float32)


def vectors(*numbers: int) -> np.ndarray:
    return np.array([vector(number) for number in numbers])


class Child:
    """A forked child that answers with what `work` returns; killed if that takes too long."""

    def __init__(self, work: Callable[[], Any], *, leave: bool = False) -> None:
        self.answers, answer = os.pipe()
        self.process = os.fork()
        if self.process:
            os.close(answer)
            return
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            faulthandler.register(signal.SIGALRM, chain=True)  # says where it is blocked
            signal.alarm(30)
            os.close(self.answers)
            try:
                found = {"returned": work()}
            except BaseException as error:
                found = {"raised": f"{type(error).__name__}: {error}"}
            os.write(answer, json.dumps(found).encode())
        finally:
            if not leave:
                os._exit(0)
        sys.exit(0)

    def found(self, seconds: float = 30) -> dict[str, Any]:
        said = b""
        end = time.monotonic() + seconds
        while select.select([self.answers], [], [], max(0, end - time.monotonic()))[0]:
            some = os.read(self.answers, 65536)
            if not some:
                break
            said += some
        else:
            os.kill(self.process, signal.SIGKILL)
        os.close(self.answers)
        status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        assert said, f"the child was blocked, or ended by {status}"
        assert status == 0
        return dict(json.loads(said))


def in_child(work: Callable[[], Any], **options: Any) -> Any:
    """What `work` returns in a forked child."""
    found = Child(work, **options).found()
    assert "raised" not in found, found["raised"]
    return found["returned"]


def refusal(work: Callable[[], Any]) -> str:
    """What `work` raises in a forked child."""
    return str(Child(work).found().get("raised"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.rvdb"


@pytest.fixture
def db(path: Path) -> Iterator[VectorDB]:
    with VectorDB.open(path, dim=DIM) as database:
        database.add(range(20), vectors(*range(20)), [{"n": number} for number in range(20)])
        yield database


@contextmanager
def threads(*works: Callable[[], None]) -> Iterator[None]:
    """Runs each of `works` again and again in a thread of its own; they must not fail."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def repeat(work: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failures.append(error)
            stop.set()

    started = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in started:
            thread.join()
    for failure in failures:
        raise failure


# --- what the child sees through handles of its parent


def test_handles_of_the_parent_read_and_follow_in_the_child(db: VectorDB, path: Path) -> None:
    with VectorDB.open(path, mode="r") as reader:
        for handle in (db, reader):
            there, then = os.pipe(), os.pipe()

            def work(
                handle: VectorDB = handle, there: tuple[int, int] = there, then: tuple[int, int] = then
            ) -> list[Any]:
                before = len(handle), handle.search(vector(3), k=1).ids, handle.get(4).metadata
                os.write(there[1], b".")
                os.read(then[0], 1)
                after = len(handle), handle.search(vector(100), k=1).ids, handle.ids()[-1]
                handle.verify()
                return [before, after, handle.stats()["documents"], handle.get_all_vectors().shape]

            child = Child(work)
            os.read(there[0], 1)
            db.upsert(100, vector(100))
            db.checkpoint()
            os.write(then[1], b".")
            assert child.found()["returned"] == [[20, [3], {"n": 4}], [21, [100], 100], 21, [21, DIM]]
            db.delete(100)
            for end in (*there, *then):
                os.close(end)
        assert len(db) == len(reader) == 20
        db.add(200, vector(200))
        assert reader.search(vector(200), k=1).ids == [200]


def test_the_writers_handle_refuses_to_write_in_the_child(db: VectorDB, path: Path) -> None:
    writes: list[Callable[[], Any]] = [
        lambda: db.add("x", vector(1)),
        lambda: db.delete(1),
        lambda: db.record(vector(1), [1]),
        lambda: db.learn(),
        lambda: db.checkpoint(),
        lambda: db.compact(),
    ]
    for write in writes:
        assert "opened for writing before a fork" in refusal(write)
    assert "BlockingIOError" in refusal(lambda: VectorDB.open(path))
    assert "mode='r'" in in_child(lambda: repr(db))
    files = sorted(path.iterdir())
    assert in_child(lambda: [db.close(), repr(db)])[1].endswith("closed)")
    assert sorted(path.iterdir()) == files
    db.add("x", vector(1))
    db.verify()


def test_the_child_becomes_the_writer_after_its_parent(path: Path) -> None:
    parent = VectorDB.open(path, dim=DIM)
    parent.add(range(10), vectors(*range(10)))
    go, gone = os.pipe()

    def work() -> int:
        os.read(go, 1)
        with VectorDB.open(path) as child:
            child.add(range(10, 20), vectors(*range(10, 20)))
            return len(child) + len(parent)  # the inherited handle follows

    child = Child(work)
    parent.close()
    os.write(gone, b".")
    assert child.found()["returned"] == 40
    with VectorDB.open(path) as database:
        assert database.ids() == list(range(20))
        database.verify()


ELSEWHERE = """
import sys
from ruvector_gnn.db import VectorDB
with VectorDB.open(sys.argv[1], mode="r") as db:
    print(len(db), flush=True)
    sys.stdin.readline()
    print(len(db), flush=True)
"""


def test_locks_of_the_child_are_seen_by_processes_elsewhere(path: Path) -> None:
    """A child without the locks of its connection would let another process delete the log beneath it."""
    parent = VectorDB.open(path, dim=DIM)
    parent.add(range(10), vectors(*range(10)))
    (go, gone), (hear, said) = os.pipe(), os.pipe()

    def work() -> int:
        os.read(go, 1)
        child = VectorDB.open(path)
        child.add(range(10, 20), vectors(*range(10, 20)))
        os.write(said, b".")
        os.read(go, 1)
        child.add(range(20, 30), vectors(*range(20, 30)))
        return len(child)

    child = Child(work)
    parent.close()
    os.write(gone, b".")
    os.read(hear, 1)
    reader = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None and reader.stdout.readline() == "20\n"
    os.write(gone, b".")
    assert child.found()["returned"] == 30
    with VectorDB.open(path) as database:
        database.add("last", vector(99))
        database.verify()
    assert reader.communicate("\n")[0] == "31\n"


def test_many_handles_and_databases(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.rvdb" for number in range(5)]
    writers = [VectorDB.open(path, dim=DIM) for path in paths]
    for number, writer in enumerate(writers):
        writer.add(range(number + 1), vectors(*range(number + 1)))
    readers = [VectorDB.open(path, mode="r") for path in paths for _ in range(2)]

    def work() -> list[int]:
        inner = in_child(lambda: [len(handle) for handle in (*writers, *readers)])
        assert inner == [len(handle) for handle in (*writers, *readers)]
        return [len(handle.search(vector(0))) for handle in (*writers, *readers)]

    for _ in range(3):
        assert in_child(work) == [1, 2, 3, 4, 5, *(number for number in range(1, 6) for _ in range(2))]
        assert [len(handle) for handle in writers] == [1, 2, 3, 4, 5]
    for handle in (*writers, *readers):
        handle.verify()
        handle.close()


# --- how a child ends


def test_a_child_that_collects_garbage_or_ends_in_peace_changes_nothing(db: VectorDB, path: Path) -> None:
    reader = [VectorDB.open(path, mode="r")]

    def work() -> int:
        reader.clear()
        gc.collect()
        return len(db)

    assert in_child(work) == 20
    script = (
        "import os, sys, numpy as np\nfrom ruvector_gnn.db import VectorDB\n"
        "db = VectorDB.open(sys.argv[1], dim=8)\ndb.add(range(5), np.eye(5, 8) + 1)\n"
        "def child():\n    db.search(np.ones(8))\n    sys.exit(3)\n"
        "other = VectorDB.open(sys.argv[1], mode='r')\n"
        "with other._store.catalog.transaction('DEFERRED'):\n"
        "    pid = os.fork()\n    if pid == 0:\n        sys.exit(4)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4\n"
        "pid = os.fork()\nif pid == 0:\n    child()\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3\n"
        "db.add([7], np.eye(1, 8))\ndb.verify()\nassert len(db) == len(other) == 6\ndb.close()\n"
    )
    other = str(path) + "2"
    done = subprocess.run([sys.executable, "-c", script, other], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    with VectorDB.open(other) as database:
        assert len(database) == 6
        database.verify()


def test_a_child_that_runs_another_program_leaves_no_files_open(db: VectorDB) -> None:
    pid = os.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", "ls -l /proc/self/fd | grep -c rvdb; exit 0"])
    os.waitpid(pid, 0)
    db.add("x", vector(1))
    listed = subprocess.run(["true"], preexec_fn=lambda: None, check=True)
    assert listed.returncode == 0 and len(db) == 21


def test_no_file_of_sqlite_is_open_across_a_fork(db: VectorDB, path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    with VectorDB.open(path, mode="r") as reader:
        db.upsert(1, vector(1))
        reader.search(vector(1), where={"n": 3})

        def held() -> list[str]:
            links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
            found = [os.readlink(link) for link in links if os.path.lexists(link)]
            return sorted({Path(file).name for file in found if "catalog.sqlite" in file})

        assert len(held()) == 3
        assert in_child(held) == []


# --- pools and pickles

_shared: VectorDB | None = None


def _asked(number: int) -> tuple[int, int]:
    assert _shared is not None
    return _shared.search(vector(number), k=1).ids[0], len(_shared)


def _asked_of(database: VectorDB, number: int) -> tuple[int, str]:
    with database:
        return database.search(vector(number), k=1).ids[0], repr(database)[-9:]


def test_workers_of_a_pool_use_the_handle_of_their_parent(db: VectorDB) -> None:
    global _shared
    _shared = db
    try:
        with multiprocessing.get_context("fork").Pool(4) as pool:
            for start in range(0, 20, 5):
                found = pool.map_async(_asked, range(20), chunksize=1).get(60)
                assert found == [(number, 20 + start // 5) for number in range(20)]
                db.add(1000 + start, vector(1000 + start))
    finally:
        _shared = None


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_database_sent_to_a_worker_opens_for_reading(db: VectorDB, method: str) -> None:
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply_async(_asked_of, (db, 7)).get(60)
    assert found == (7, "mode='r')")
    with pickle.loads(pickle.dumps(db)) as copy:
        assert in_child(lambda: len(copy)) == 20


# --- forks while calls are in progress


def test_a_fork_in_ones_own_transaction_is_refused_in_the_child(db: VectorDB, path: Path) -> None:
    catalog = db._store.catalog
    with catalog.transaction():
        catalog.set(file_number=7)
        for work in (lambda: len(db), lambda: len(VectorDB.open(path, mode="r"))):
            assert "start processes with" in refusal(work)
        assert "start processes with" in refusal(lambda: in_child(lambda: len(db)))
    assert catalog.settings()["file_number"] == 7
    assert in_child(lambda: len(db)) == 20

    def leave() -> str:
        with catalog.transaction():
            catalog.set(file_number=8)
            pid = os.fork()
            if pid == 0:
                return "child"
            return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    try:
        said = leave()
    except rg.ConfigError as refused:
        os._exit(5 if "before a fork" in str(refused) else 6)
    assert said == "5" and catalog.settings()["file_number"] == 8
    db.verify()


def test_a_fork_waits_for_a_short_transaction_and_not_for_a_thread_that_waits_for_it(
    db: VectorDB, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, forked = threading.Event(), threading.Event()
    catalog = db._store.catalog

    def hold(seconds: float) -> None:
        with catalog.transaction():
            begun.set()
            forked.wait(seconds)

    with VectorDB.open(tmp_path / "other.rvdb", dim=DIM) as other:
        other.add(1, vector(1))
        for seconds, wait in ((0.2, 5.0), (60, 0.2)):
            monkeypatch.setattr(fork, "SECONDS_TO_WAIT", wait)
            begun.clear()
            thread = threading.Thread(target=hold, args=(seconds,))
            thread.start()
            begun.wait()
            start = time.monotonic()
            held = Child(lambda: len(db)).found()
            again = Child(lambda: len(VectorDB.open(path, mode="r"))).found()
            others = Child(lambda: [len(other), len(VectorDB.open(other.path, mode="r"))]).found()
            assert time.monotonic() - start < 4
            forked.set()
            thread.join()
            forked.clear()
            assert others == {"returned": [1, 1]}
            if wait > seconds:
                assert held == again == {"returned": 20}
            else:
                assert "start processes with" in held["raised"] and "start processes with" in again["raised"]
    assert in_child(lambda: len(db)) == 20


def test_a_fork_in_a_callback_leaves_the_child_a_working_handle(db: VectorDB, path: Path) -> None:
    found: list[Any] = []
    remove = db._live._index.remove

    class Index:
        """An index that forks within its own calls."""

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def __len__(self) -> int:
            return len(real)

        def __contains__(self, row: int) -> bool:
            return row in real

        def remove(self, rows: Any) -> Any:
            found.append(in_child(lambda: [db.search(vector(3), k=1).ids, db._live._index is not self]))
            return remove(rows)

    real = db._live._index
    db._live._index = Index()  # type: ignore[assignment]
    db.delete(19)
    assert found == [[[3], True]]
    db._live._index = real
    assert in_child(lambda: db._live._index is real)


def test_verify_and_compact_are_not_in_the_way_of_forks(db: VectorDB) -> None:
    db.add(range(100, 3100), np.random.default_rng(0).standard_normal((3000, DIM)), [{"t": "x" * 500}] * 3000)
    with threads(db.verify, db.compact):
        slowest = 0.0
        for _ in range(20):
            time.sleep(0.02)
            start = time.monotonic()
            found = Child(lambda: len(db)).found()
            slowest = max(slowest, time.monotonic() - start)
            assert found == {"returned": 3020}
    assert slowest < 5


def stress(path: Path, forks: int, seed: int) -> Counter[str]:
    """Forks at random moments beside threads that write, read and learn; what became of the children."""
    # Ids below the shared number are acknowledged, and never deleted.
    shared = mmap.mmap(-1, 8)
    outcomes: Counter[str] = Counter()
    chance = random.Random(seed)
    db = VectorDB.open(path, dim=DIM)
    db.add(range(50), vectors(*range(50)))
    shared[:] = struct.pack("q", 50)
    reader = VectorDB.open(path, mode="r")
    counter = [50]

    def acknowledged() -> int:
        return int(struct.unpack("q", shared[:])[0])

    def write() -> None:
        number = counter[0]
        db.add([number, f"gone-{number}"], vectors(number, -number % 2**32), [{"n": number}, None])
        counter[0] += 1
        shared[:] = struct.pack("q", counter[0])
        db.delete(f"gone-{number}")
        if number % 40 == 7:
            db.checkpoint()
        if number % 90 == 11:
            db.compact()
        time.sleep(0.002)

    def read() -> None:
        last = acknowledged() - 1
        assert reader.search(vector(last), k=1, learned=False).ids == [last]
        # One of the nearest may be deleted before its metadata is read.
        assert last in db and last in db.search(vector(last), k=3, learned=False).ids
        assert len(db.search(vector(last), k=20)) > 10

    def learn() -> None:
        asked = [(vector(number), [number % 50]) for number in range(40)]
        db.record_all(asked)
        db.learn()
        time.sleep(0.05)

    def check(handle: VectorDB) -> str:
        for _ in range(4):
            last = acknowledged() - 1
            if last not in handle or handle.get(last).vector.tobytes() != vector(last).tobytes():
                return f"stale: {last}"
            if handle.search(vector(last), k=1, learned=False).ids != [last]:
                return f"stale search: {last}"
            missing = set(range(last + 1)) - set(handle.ids())
            if missing:
                return f"lost: {sorted(missing)}"
            time.sleep(0.01)
        return "right"

    def own() -> str:
        with VectorDB.open(path, mode="r") as handle:
            return check(handle)

    def become_writer() -> str:
        try:
            VectorDB.open(path)
        except BlockingIOError:
            return "right"
        return "a second writer"

    works: list[Callable[[], str]] = [lambda: check(db), lambda: check(reader), own, become_writer]
    children: list[Child] = []
    with threads(write, read, learn):
        for _ in range(forks):
            time.sleep(chance.uniform(0, 0.02))
            start = time.monotonic()
            children.append(Child(chance.choice(works)))
            outcomes["slow forks"] += time.monotonic() - start > 2
            if len(children) > 3:
                outcomes[outcome(children.pop(0))] += 1
        while children:
            outcomes[outcome(children.pop(0))] += 1
    total = acknowledged()
    assert set(range(total)) <= set(db.ids())
    db.verify()
    db.close()
    reader.close()
    with VectorDB.open(path) as again:
        again.verify()
        assert set(range(total)) == {number for number in again.ids() if isinstance(number, int)}
    return outcomes


def outcome(child: Child) -> str:
    try:
        found = child.found(60)
    except AssertionError as blocked:
        return f"blocked: {blocked}"
    raised = found.get("raised")
    if raised is None:
        return str(found["returned"])
    return "refused" if "start processes with" in raised else str(raised)


def test_forks_at_random_moments_lose_nothing(path: Path) -> None:
    outcomes = stress(path, 15, seed=1)
    assert set(+outcomes) <= {"right", "refused"}, outcomes
    assert outcomes["right"] >= 12, outcomes


@pytest.mark.long
def test_two_hundred_forks_at_random_moments_lose_nothing(path: Path) -> None:
    outcomes = stress(path, 200, seed=2)
    print(dict(outcomes))
    assert set(+outcomes) <= {"right", "refused"}, outcomes
    assert outcomes["right"] >= 180, outcomes


# --- SQLite's files and other descriptors

AUDITED = """
import os, sys, numpy as np
opened = []
def hook(event, arguments):
    if event == "open" and "catalog.sqlite" in str(arguments[0]):
        opened.append(arguments[0])
sys.addaudithook(hook)
import pickle
from ruvector_gnn.db import VectorDB
path = sys.argv[1]
x = np.random.default_rng(0).standard_normal((30, 4))
db = VectorDB.open(path, dim=4)
calls = {
    "add": lambda d: d.add(range(30), x, [{"n": n} for n in range(30)]),
    "upsert": lambda d: d.upsert([1], x[:1]), "delete": lambda d: d.delete([2, 3]),
    "record": lambda d: d.record(x[0], [1]), "record_all": lambda d: d.record_all([(x[0], [1])]),
    "log": lambda d: d.log(), "get": lambda d: d.get(1), "ids": lambda d: d.ids(), "len": len,
    "search": lambda d: d.search(x[0], where={"n": 1}),
    "search_with_gnn": lambda d: d.search_with_gnn(x[0], lambda v, g: v),
    "learn": lambda d: d.learn(), "get_hnsw_graph": lambda d: d.get_hnsw_graph(),
    "get_all_vectors": lambda d: d.get_all_vectors(), "stats": lambda d: d.stats(),
    "verify": lambda d: d.verify(), "checkpoint": lambda d: d.checkpoint(), "compact": lambda d: d.compact(),
    "path": lambda d: d.path, "dimensions": lambda d: d.dimensions, "metric": lambda d: d.metric,
    "learned": lambda d: d.learned, "repr": repr, "pickle": lambda d: pickle.loads(pickle.dumps(d)).close(),
}
for call in calls.values():
    call(db)
for name in ("get", "search", "stats", "verify", "learned", "log", "get_all_vectors"):
    with VectorDB.open(path, mode="r") as reader:
        calls[name](reader)
pid = os.fork()
if pid == 0:
    calls["search"](db); calls["stats"](db)
    os._exit(len(opened))
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
moved = path + "-moved"
os.rename(path, moved)
calls["stats"](db)
db.close()
with VectorDB.open(moved, rebuild=True) as db:
    db.verify()
public = {name for name in dir(VectorDB) if not name.startswith("_")}
public -= {"open", "close", "after_fork_in_child"}
assert public <= set(calls), public - set(calls)
print(opened)
"""


def test_no_call_opens_the_files_of_sqlite_by_other_means(path: Path) -> None:
    """Closing any descriptor of a file drops all locks that the process has on it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AUDITED, str(path)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_children_of_children_and_forks_by_several_threads(db: VectorDB) -> None:
    found: list[Any] = []

    def once() -> None:
        with suppress(IndexError):
            found.append(in_child(lambda: in_child(lambda: [len(db), db.search(vector(2), k=1).ids])))

    workers = [threading.Thread(target=once) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [[20, [2]]] * 4
