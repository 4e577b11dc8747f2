"""What remains on the disk of deleted documents, and when it goes; reading beside a writer."""

from __future__ import annotations

import os
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn.db import VectorDB

DIM = 8
SECRET = "a very secret text"


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.rvdb"


def holding(path: Path, needle: bytes) -> list[str]:
    return [entry.name for entry in sorted(path.iterdir()) if needle in entry.read_bytes()]


def size(path: Path) -> int:
    return sum(entry.stat().st_size for entry in path.iterdir())


def test_compact_leaves_nothing_of_what_was_deleted_or_replaced(path: Path) -> None:
    with VectorDB.open(path, dim=DIM) as db:
        db.add(range(100), vectors(100), [{"text": "public"}] * 100)
        db.add(["deleted", "replaced"], vectors(2, 1), [{"text": SECRET}] * 2)
        db.checkpoint()
        assert holding(path, SECRET.encode())
        db.delete("deleted")
        db.upsert("replaced", vectors(1, 2), {"text": "new"})
        db.compact()
        for needle in (SECRET.encode(), b'"deleted"', vectors(2, 1)[0].tobytes(), vectors(2, 1)[1].tobytes()):
            assert holding(path, needle) == []
        db.verify()
    for needle in (SECRET.encode(), vectors(2, 1)[0].tobytes()):
        assert holding(path, needle) == []


def test_compact_gives_back_the_room_of_metadata(path: Path) -> None:
    with VectorDB.open(path, dim=DIM) as db:
        db.add(range(2000), vectors(2000), [{"text": "x" * 2000}] * 2000)
        full = size(path)
        db.delete(range(10, 2000))
        db.compact()
        assert size(path) < full / 20
        db.verify()
        assert db.ids() == list(range(10))
        after = size(path)
        db.compact()
        assert size(path) <= after


def test_compact_without_dead_vectors_writes_the_catalog_again(path: Path) -> None:
    with VectorDB.open(path, dim=DIM) as db:
        db.add(range(10), vectors(10))
        db.record_all([(vectors(1)[0], [1])] * 5)
        # Rows of the log that are gone, as a writer without `secure_delete` may have left them.
        catalog = db._store.catalog
        catalog.execute("PRAGMA secure_delete = 0")
        catalog.execute("CREATE TABLE other (a)")
        catalog.execute("INSERT INTO other VALUES (?)", (SECRET * 300,))
        catalog.execute("DROP TABLE other")
        db.compact()
        assert holding(path, SECRET.encode()) == []
        assert catalog.one("PRAGMA freelist_count") == 0
        db.verify()


def test_readers_at_work_keep_the_log_only_until_it_is_closed(path: Path) -> None:
    db = VectorDB.open(path, dim=DIM)
    db.add(range(50), vectors(50), [{"text": SECRET}] * 50)
    with VectorDB.open(path, mode="r") as reader:
        with reader._store.catalog.transaction("DEFERRED"):
            assert len(reader.ids()) == 50
            db.delete(range(49))
            db.upsert(49, vectors(1), {"text": "new"})
            start = time.monotonic()
            db.compact()
            assert time.monotonic() - start < 10
            assert len(reader.ids()) == 50
        assert reader.ids() == [49]
        reader.verify()
    assert set(holding(path, SECRET.encode())) <= {"catalog.sqlite", "catalog.sqlite-wal"}
    db.close()
    assert holding(path, SECRET.encode()) == []


def test_searches_go_on_while_the_catalog_is_written_again(path: Path) -> None:
    with VectorDB.open(path, dim=DIM) as db:
        db.add(range(3000), vectors(3000), [{"text": "x" * 3000}] * 3000)
        db.delete(range(1500))
        done, searches = threading.Event(), 0

        def compact() -> None:
            try:
                db.compact()
            finally:
                done.set()

        thread = threading.Thread(target=compact)
        thread.start()
        while not done.is_set():
            assert len(db.search(vectors(1, 3)[0])) == 10
            searches += 1
        thread.join()
        assert searches > 3
        db.verify()


def test_a_disk_that_is_full_while_the_catalog_is_written_again_changes_nothing(path: Path) -> None:
    with VectorDB.open(path, dim=DIM) as db:
        db.add(range(1000), vectors(1000), [{"text": "x" * 1000}] * 1000)
        db.delete(range(500))
        before = db.stats()["dead_rows"], db.ids(), sorted(path.glob("*.f32"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(OSError, match="catalog"):
                db.compact()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (db.stats()["dead_rows"], db.ids(), sorted(path.glob("*.f32"))) == before
        db.verify()
        db.compact()
        assert db.stats()["dead_rows"] == 0


def test_deleted_text_leaves_the_tables_at_once(path: Path) -> None:
    """SQLite overwrites what is deleted, also where it was built not to do so by itself."""
    with VectorDB.open(path, dim=DIM) as db:
        db.add(["a", "b"], vectors(2), [{"text": SECRET}, None])
        assert db._store.catalog.one("PRAGMA secure_delete") == 1
        db.delete("a")
    connection = sqlite3.connect(path / "catalog.sqlite")
    connection.execute("PRAGMA integrity_check")
    connection.close()
    assert holding(path, SECRET.encode()) == []


# --- reading beside a writer


@pytest.fixture
def busy(path: Path) -> Iterator[VectorDB]:
    """A writer that replaces its snapshots all the time."""
    with VectorDB.open(path, dim=DIM) as db:
        db.add(range(300), vectors(300))
        stop = threading.Event()
        failures: list[BaseException] = []

        def write() -> None:
            number = 0
            try:
                while not stop.is_set():
                    number += 1
                    db.upsert([1, f"{number}"], vectors(2, number))
                    db.delete(f"{number}")
                    db.compact() if number % 3 == 0 else db.checkpoint()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        yield db
        stop.set()
        thread.join()
        assert not failures, failures


def test_verifying_opening_and_counting_beside_a_writer_find_no_damage(busy: VectorDB, path: Path) -> None:
    end = time.monotonic() + 3
    with VectorDB.open(path, mode="r") as reader:
        while time.monotonic() < end:
            for handle in (busy, reader):
                handle.verify()
                assert handle.stats()["documents"] in (300, 301)
            with VectorDB.open(path, mode="r") as late:
                assert len(late.search(vectors(1)[0], k=400)) in (299, 300, 301)


@pytest.mark.parametrize("pattern", ["index-*", "model-*", "vectors*"])
def test_a_file_that_is_really_missing_is_found(path: Path, pattern: str) -> None:
    with VectorDB.open(path, dim=DIM) as db:
        db.add(range(20), vectors(20))
        db.record_all([(vectors(1)[0], [1])] * 3)
        db.learn()
        reader = VectorDB.open(path, mode="r")
        lost = next(path.glob(pattern))
        lost.rename(path.parent / "lost")
        for handle in (db, reader):
            with pytest.raises(rg.FormatError, match="missing"):
                handle.verify()
            if pattern != "vectors*":
                handle.stats()
        os.rename(path.parent / "lost", lost)
        for handle in (db, reader):
            handle.verify()
        reader.close()
