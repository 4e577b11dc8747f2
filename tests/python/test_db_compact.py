"""Documents that are deleted leave the index at once, and the files with `VectorDB.compact`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn.db import VectorDB

DIM = 8


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[VectorDB]:
    """60 documents of which every third was deleted, and one replaced."""
    with VectorDB.open(tmp_path / "a.rvdb", dim=DIM, metric="l2") as database:
        database.add(range(60), vectors(60), [{"n": number} for number in range(60)])
        database.delete(range(0, 60, 3))
        database.upsert(7, vectors(1, 7)[0], {"n": 7})
        yield database


def answers(database: VectorDB) -> object:
    """All that a caller can see, but for the room it takes."""
    records = database.get(database.ids())
    found = [database.search(query, k=9) for query in vectors(5, 1)]
    some = [database.search(query, k=9, where={"n": {"$lt": 30}}) for query in vectors(5, 1)]
    return (
        [(record.id, record.vector.tobytes(), record.metadata) for record in records],
        [(hits.ids, hits.scores.tolist()) for hits in (*found, *some)],
        (len(database), database.stats()["model"], database.stats()["impressions"]),
        database.get_all_vectors().tobytes(),
        [part.tobytes() for part in (database.get_hnsw_graph().indptr, database.get_hnsw_graph().indices)],
    )


def parts(database: VectorDB) -> list[str]:
    kinds = (".f32", ".hnsw", ".gnn")
    return sorted(entry.name for entry in database.path.iterdir() if entry.suffix in kinds)


def test_deleted_documents_leave_the_index_at_once(db: VectorDB) -> None:
    with VectorDB.open(db.path, mode="r") as reader:
        for database in (db, reader):
            index = database._live.index
            assert (len(index), index.num_rows) == (40, 61)
            assert database.stats()["dead_rows"] == 21
            assert database.get_hnsw_graph().node_ids.tolist() == index.rows().tolist()
        db.delete(1)
        reader.search(np.ones(DIM))
        assert len(reader._live.index) == len(reader) == 39


def test_compaction_changes_nothing_but_the_room_taken(db: VectorDB) -> None:
    db.record_all([(query, [1, 2]) for query in vectors(3, 2)])
    db.learn()
    before, size = answers(db), (db.path / "vectors.f32").stat().st_size
    assert parts(db) == ["index-000001.hnsw", "model-000001.gnn", "vectors.f32"]
    db.compact()
    assert answers(db) == before
    assert parts(db) == ["index-000002.hnsw", "model-000001.gnn", "vectors-000002.f32"]
    listed = 64 * -(-40 * 4 // 64)
    assert size - (db.path / "vectors-000002.f32").stat().st_size == 21 * DIM * 4 - listed
    assert db.stats()["dead_rows"] == db._live.index.stats()["free"] == 0
    db.verify()
    db.compact()
    assert parts(db)[-1] == "vectors-000002.f32", "there was nothing to give back"
    db.upsert([1, "new"], vectors(2, 3))
    db.delete(2)
    known = answers(db)
    db.close()
    for options in ({}, {"mode": "r"}, {"rebuild": True}):
        with VectorDB.open(db.path, **options) as database:
            if "rebuild" not in options:
                assert answers(database) == known
            assert database.get("new").vector.tobytes() == vectors(2, 3)[1].tobytes()
            assert database.search(vectors(2, 3)[1], k=1, learned=False).ids == ["new"]
            assert len(database._live.index) == len(database) == 40
            database.verify()
    with VectorDB.open(db.path) as database:
        database.compact()
        database.delete(database.ids())
        database.compact()
        assert database.search(np.ones(DIM)).ids == [] and database.get_all_vectors().shape == (0, DIM)
        database.add("again", vectors(1)[0])
        assert database.search(vectors(1)[0]).ids == ["again"]
        database.verify()


def test_readers_switch_over_and_keep_what_they_have_mapped(db: VectorDB) -> None:
    db.compact()
    with VectorDB.open(db.path, mode="r") as reader, VectorDB.open(db.path, mode="r") as idle:
        mapped = reader.get_all_vectors()
        assert not mapped.flags.owndata and not mapped.flags.writeable
        held = mapped.copy()
        db.delete([1, 2])
        reader.search(np.ones(DIM))
        db.delete(4)
        db.compact()  # one reader has seen two of the three deaths, the other none
        db.add("late", vectors(1, 5)[0])
        for database in (reader, idle):
            assert database.get("late").vector.tobytes() == vectors(1, 5)[0].tobytes()
            assert answers(database)[0] == answers(db)[0]
            assert database.search(vectors(1, 5)[0], k=50).ids == db.search(vectors(1, 5)[0], k=50).ids
            assert len(database._live.index) == len(db)
            database.verify()
        np.testing.assert_array_equal(mapped, held)


def test_a_reader_that_looks_while_the_files_change_looks_again(db: VectorDB) -> None:
    with VectorDB.open(db.path, mode="r") as reader:
        settings = reader._store.catalog.settings()
        db.compact()
        with pytest.raises(FileNotFoundError):
            rg.db.vector_file.VectorFile(reader._store.file(settings["vectors_file"]), writable=False)
        assert reader.get(1).metadata == {"n": 1}
        (db.path / parts(db)[-1]).unlink()
    with pytest.raises(rg.FormatError, match="vectors file is missing"):
        VectorDB.open(db.path, mode="r")


def test_a_damaged_document_is_not_carried_over(db: VectorDB) -> None:
    before = parts(db)
    with open(db.path / "vectors.f32", "r+b") as file:
        file.seek(64 + 5 * DIM * 4)
        file.write(b"\x55")
    with pytest.raises(rg.FormatError, match="document 5 "):
        db.compact()
    assert parts(db) == before
    db.delete(5)
    db.compact()
    db.verify()


def test_readers_do_not_compact(db: VectorDB) -> None:
    with VectorDB.open(db.path, mode="r") as reader, pytest.raises(rg.ConfigError, match="mode='r'"):
        reader.compact()


def test_lists_of_the_dead_that_name_the_living_are_refused(db: VectorDB) -> None:
    with VectorDB.open(db.path, mode="r") as reader:
        db.delete(1)
        db._store.catalog.execute("UPDATE dead SET row = 2 WHERE number = 21")
        with pytest.raises(rg.FormatError, match="row 2 is dead, but has a document"):
            reader.search(np.ones(DIM))
        db._store.catalog.execute("UPDATE dead SET row = 0 WHERE number = 21")
        with pytest.raises(rg.FormatError, match="count different rows"):
            reader.search(np.ones(DIM))
        db._store.catalog.execute("UPDATE dead SET row = 'one' WHERE number = 21")
        with pytest.raises(rg.FormatError, match="dead row 21 is damaged"):
            reader.search(np.ones(DIM))


def test_what_the_index_could_not_take_is_refused_before_it_is_committed(tmp_path: Path) -> None:
    large = vectors(2)
    large[1, 3] = -1e5
    for metric in ("l2", "ip", "cosine"):
        options = {"storage": "f16"}
        with VectorDB.open(tmp_path / metric, dim=DIM, metric=metric, index_options=options) as database:
            if metric == "cosine":
                database.add(["a", "b"], large)
            else:
                with pytest.raises(rg.ShapeError, match="row 1 holds a value beyond 65504"):
                    database.add(["a", "b"], large)
                database.add("a", large[0])
        with VectorDB.open(tmp_path / metric) as database:
            assert "a" in database
            database.verify()


def test_searching_and_reading_while_others_delete_and_compact(db: VectorDB) -> None:
    failures: list[BaseException] = []
    done = threading.Event()

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    def write() -> None:
        for number in range(40):
            names = [f"{number}-{place}" for place in range(12)]
            db.add(names, vectors(12, number), [{"n": 100}] * 12)
            db.delete(names[:11])
            if number % 5 == 4:
                db.compact()

    def search() -> None:
        while not done.is_set():
            for hits in (db.search(np.ones(DIM), where={"n": 100}), db.search(np.ones(DIM))):
                assert len(set(hits.ids)) == len(hits)
            assert len(db.search_with_gnn(np.ones(DIM), lambda x, graph: x, k=3)) <= 3

    def read() -> None:
        while not done.is_set():
            assert db.get(1).vector.tobytes() == vectors(60)[1].tobytes()
            assert db.get_all_vectors().shape[1] == DIM

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (write, search, search, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert len(db) == 80 and len(db.search(np.ones(DIM), k=100)) == 80
    db.verify()
