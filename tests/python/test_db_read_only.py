"""Reading where nothing can be written: read-only mounts, and directories of another user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ruvector_gnn.db import VectorDB, connection

DIM = 4
OTHER_USER = 65534


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@pytest.fixture
def path() -> Iterator[Path]:
    """A database that was closed, where every user can read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with VectorDB.open(folder / "a.rvdb", dim=DIM) as database:
        database.add(range(10), vectors(10), [{"n": number} for number in range(10)])
        database.record(vectors(1)[0], [1])
        database.learn()
    yield folder / "a.rvdb"
    make(folder / "a.rvdb", writable=True)
    shutil.rmtree(folder)


def make(path: Path, *, writable: bool) -> None:
    """Set the mode bits; root ignores them, and reads as another user in these tests."""
    path.chmod(0o755 if writable else 0o555)
    for entry in path.iterdir():
        entry.chmod(0o644 if writable else 0o444)


# NumPy imports its masked arrays late, from a folder that the other user may not be able to read.
READER = f"""
import os, sys, numpy as np, numpy.ma
from ruvector_gnn.db import VectorDB
import ruvector_gnn as rg
x = np.random.default_rng(0).standard_normal((10, {DIM})).astype(np.float32)
if os.getuid() == 0:
    os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER})
try:
    with VectorDB.open(sys.argv[1], mode="r") as db:
        print("open", flush=True)
        for line in sys.stdin:
            if line == "all\\n":
                db.verify()
                found = db.search(x[3], k=1, where={{"n": 3}}).ids, db.get(4).metadata
                assert found == ([3], {{"n": 4}}) and db.stats()["model"] is not None, found
                assert db.get_all_vectors().shape[1] == {DIM} and db.stats()["impressions"] == 1
            newest = db.ids()[-1]
            assert db.search(db.get(newest).vector, k=1, learned=False).ids == [newest]
            print(len(db), flush=True)
except (OSError, rg.RuvectorError) as error:
    print(type(error).__name__, error, flush=True)
"""


class Reader:
    """A reader in another process, of another user if this one is root."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, what: str = "count") -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        return self.hear()


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    reader = Reader(path)
    try:
        yield reader
    finally:
        reader.process.communicate(timeout=30)


def test_a_closed_database_opens_where_nothing_can_be_written(path: Path) -> None:
    make(path, writable=False)
    files = sorted(entry.name for entry in path.iterdir())
    with reading(path) as reader, reading(path) as second:
        assert reader.hear() == second.hear() == "open"
        assert reader.ask("all") == second.ask("all") == "10"
        assert sorted(entry.name for entry in path.iterdir()) == files


@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
def test_readers_of_another_user_leave_no_files(path: Path) -> None:
    path.chmod(0o777)
    files = sorted(entry.name for entry in path.iterdir())
    with reading(path) as reader:
        assert reader.hear() == "open" and reader.ask("all") == "10"
    assert sorted(entry.name for entry in path.iterdir()) == files
    (path / "catalog.sqlite-wal").touch()
    with reading(path) as reader:
        assert reader.hear() == "open" and reader.ask("all") == "10"


@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
def test_a_reader_without_write_permission_follows_the_owner(path: Path) -> None:
    count = 10
    with reading(path) as reader:
        assert reader.hear() == "open" and reader.ask("all") == "10"
        for number in range(4):
            with VectorDB.open(path) as writer:
                assert reader.ask() == str(count)
                writer.add(f"a{number}", vectors(1, number + 1))
                count += 1
                assert reader.ask() == str(count)
                writer.compact() if number % 2 else writer.checkpoint()
                assert reader.ask() == str(count)
                writer.add(f"b{number}", vectors(1, number + 50))
                count += 1
                with reading(path) as late:
                    assert late.hear() == "open" and late.ask() == str(count)
            assert reader.ask() == str(count)
    with reading(path) as reader:
        assert reader.hear() == "open" and reader.ask() == str(count)


@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
def test_a_reader_never_mixes_what_the_owner_writes(path: Path) -> None:
    """The owner opens, writes and closes again and again, which changes the file below the reader."""
    with reading(path) as reader:
        assert reader.hear() == "open"
        for number in range(30):
            with VectorDB.open(path) as writer:
                writer.upsert(["x", f"n{number}"], vectors(2, 100 + number), [{"t": "y" * 3000}, None])
                if number % 7 == 3:
                    writer.compact()
            assert reader.ask("all" if number % 5 == 4 else "count") == str(12 + number)


def killed(path: Path) -> None:
    """Leave the log of a writer that was killed."""
    script = (
        "import os, sys, numpy as np\nfrom ruvector_gnn.db import VectorDB\n"
        "db = VectorDB.open(sys.argv[1])\ndb.add('last', np.ones((1, 4)))\nos._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert (path / "catalog.sqlite-wal").stat().st_size


def test_a_log_that_was_left_behind_is_read_or_the_error_says_what_to_do(path: Path) -> None:
    killed(path)
    make(path, writable=False)
    with reading(path) as reader:
        assert reader.hear() == "open" and reader.ask("all") == "11"
    shm = path / "catalog.sqlite-shm"
    for harm in (lambda: shm.chmod(0o000), shm.unlink):
        make(path, writable=True)
        harm()
        path.chmod(0o555)
        with reading(path) as reader:
            said = reader.hear()
        assert said.startswith("PermissionError") and "open it once for writing" in said
        assert str(path) in said
    path.chmod(0o755)
    VectorDB.open(path).close()
    make(path, writable=False)
    with reading(path) as reader:
        assert reader.hear() == "open" and reader.ask() == "11"


def test_writing_to_a_read_only_place_is_an_error_of_the_system(path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    make(path, writable=False)
    with pytest.raises(PermissionError):
        VectorDB.open(path)


def test_a_view_that_changes_while_it_is_read_is_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.os, "access", lambda *arguments, **options: False)
    with VectorDB.open(path, mode="r") as reader:
        catalog, store = reader._store.catalog, reader._store
        assert catalog.without_locks
        seen = []

        def read(settings: dict[str, object], committed: object) -> int:
            seen.append(settings["rows"])
            if len(seen) < 3:
                with VectorDB.open(path) as writer:
                    writer.add(f"x{len(seen)}", vectors(1, len(seen)))
            return len(store.catalog.rows())

        assert store.reading(read) == 12 and seen == [10, 11, 12]
        assert len(reader) == 12 and catalog.without_locks
        with (
            pytest.raises(connection.Changed),
            catalog.transaction("DEFERRED"),
            VectorDB.open(path) as writer,
        ):
            writer.delete("x1")
        assert len(reader) == 11
        with VectorDB.open(path) as writer:
            writer.add("y", vectors(1, 9))
            assert len(reader) == 12 and not catalog.without_locks
        reader.verify()
