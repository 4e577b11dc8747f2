"""Files with a flipped bit, or cut short, at any place: refused with `FormatError`, or as good as before.

The thinned-out runs take seconds; `-m long` takes every bit of every byte.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn.db import VectorDB, log

DIM = 4


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def flips(whole: bytes, bits: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit % 8} of byte {bit // 8}", bytes(damaged)


def cuts(whole: bytes, lengths: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    return ((f"cut to {length}", whole[:length]) for length in lengths)


def one_bit_a_byte(whole: bytes, every: int = 1) -> Iterator[int]:
    """A bit of each byte, another one from byte to byte."""
    return (8 * at + (at + at // 8) % 8 for at in range(0, len(whole), every))


def harmless(path: Path, damages: Iterable[tuple[str, bytes]], read: Callable[[], object]) -> int:
    """How many of the damages were not refused; then they must read as the file did before."""
    whole, expected = path.read_bytes(), read()
    borne = 0
    for what, content in damages:
        path.write_bytes(content)
        try:
            found = read()
        except rg.FormatError:
            continue
        assert found == expected, f"{path.name}, {what}: a wrong answer"
        borne += 1
    path.write_bytes(whole)
    assert read() == expected
    return borne


# --- files on their own: nothing in them is without a checksum


def index_file(path: Path) -> Callable[[], object]:
    index = rg.HNSWIndex(DIM, metric="l2", m=4)
    index.add(vectors(20))
    index.save(path)
    return lambda: rg.HNSWIndex.load(path).fingerprint


def mapped_file(path: Path) -> Callable[[], object]:
    index_file(path)
    return lambda: rg.HNSWIndex.load(path, mmap=True).fingerprint


def learner_file(path: Path) -> Callable[[], object]:
    index = rg.HNSWIndex(DIM, metric="l2", m=4)
    index.add(vectors(20))
    learner = rg.SearchLearner(index)
    learner.fit(vectors(12, 1), [np.array([row]) for row in range(12)])
    learner.save(path)

    def read() -> object:
        loaded = rg.SearchLearner.load(path, index)
        return [part.tobytes() for part in loaded.search(vectors(5, 7), k=5)], str(loaded.report)

    return read


FILES = {"index": index_file, "mapped": mapped_file, "learner": learner_file}


@pytest.mark.parametrize("kind", FILES)
def test_flipped_bits_and_cuts_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    read = FILES[kind](path)
    whole = path.read_bytes()
    assert harmless(path, flips(whole, one_bit_a_byte(whole, every=11)), read) == 0
    assert harmless(path, cuts(whole, range(0, len(whole), 11)), read) == 0


@pytest.mark.long
@pytest.mark.parametrize("kind", FILES)
def test_every_flipped_bit_and_every_cut_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    read = FILES[kind](path)
    whole = path.read_bytes()
    assert harmless(path, flips(whole, range(8 * len(whole))), read) == 0
    assert harmless(path, cuts(whole, range(len(whole))), read) == 0


# --- the database


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Documents within a snapshot and behind it, compacted and dead rows, metadata, a log, a model; never
    closed."""
    path = tmp_path / "a.rvdb"
    with VectorDB.open(path, dim=DIM) as database:
        database.add(range(10), vectors(10), [{"n": number, "text": "é" * number} for number in range(10)])
        database.add(["x", "y"], vectors(2, 1))
        database.delete([4, "y"])
        database.record_all([(query, [1, "x"], [1, 2, "x"]) for query in vectors(3, 2)])
        database.learn()
        database.compact()
    with VectorDB.open(path) as database:
        database.upsert(["x", "z"], vectors(2, 3), [None, {"n": -1}])
        database.delete(9)
        shutil.copytree(path, tmp_path / "killed.rvdb", ignore=shutil.ignore_patterns("*-shm"))
    folded = tmp_path / "killed.rvdb"
    with VectorDB.open(tmp_path / "killed.rvdb", mode="rw") as database:
        database._store.catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copytree(folded, tmp_path / "folded.rvdb", ignore=shutil.ignore_patterns("*-shm", "*-wal"))
    return tmp_path / "folded.rvdb"


def content(path: Path, verify: bool) -> object:
    """All that a caller can see."""
    for entry in path.glob("catalog.sqlite-*"):
        entry.unlink()
    with VectorDB.open(path, mode="r") as database:
        if verify:
            database.verify()
        ids = database.ids()
        records = [(record.id, record.vector.tobytes(), record.metadata) for record in database.get(ids)]
        found = [database.search(query, k=20).ids for query in vectors(4, 5)]
        plain = [database.search(query, k=20, learned=False).ids for query in vectors(4, 5)]
        some = database.search(np.ones(DIM), k=20, where={"n": {"$lt": 5}}).ids
        logged = log.read(database._store.catalog)
        asked = [(impression.query.tobytes(), impression.clicked, impression.shown) for impression in logged]
        settings = (database.dimensions, database.metric, database.stats()["documents"])
        return records, found, plain, some, asked, settings, len(database)


def catalog_damages(whole: bytes, share: int) -> Iterator[tuple[str, bytes]]:
    stream = random.Random(0)
    yield from flips(whole, range(0, 800, 7 if share > 1 else 1))
    yield from flips(whole, (stream.randrange(8 * len(whole)) for _ in range(8 * len(whole) // share)))
    yield from cuts(whole, range(0, len(whole), 4096 if share > 1 else 256))


def test_damage_to_the_catalog_is_found(database: Path) -> None:
    path = database / "catalog.sqlite"
    harmless(path, catalog_damages(path.read_bytes(), share=2_000), lambda: content(database, verify=True))


@pytest.mark.long
def test_damage_to_any_byte_of_the_catalog_is_found(database: Path) -> None:
    path = database / "catalog.sqlite"
    harmless(path, catalog_damages(path.read_bytes(), share=8), lambda: content(database, verify=True))


def check_parts(database: Path, every: int, verify: bool) -> None:
    parts = sorted(entry for entry in database.iterdir() if not entry.name.startswith(("catalog", "writer")))
    assert [part.name.split("-")[0] for part in parts] == ["index", "model", "vectors"]
    for part in parts:
        whole = part.read_bytes()
        step = every * max(1, len(whole) // 2_000)
        damages = [*flips(whole, one_bit_a_byte(whole, step)), *cuts(whole, range(0, len(whole), 2 * step))]
        borne = harmless(part, damages, lambda: content(database, verify=verify))
        assert borne == 0 or part.name.startswith("vectors")


def test_damage_to_the_files_beside_the_catalog_is_found(database: Path) -> None:
    check_parts(database, every=17, verify=False)
    check_parts(database, every=31, verify=True)


@pytest.mark.long
@pytest.mark.parametrize("verify", [False, True])
def test_damage_to_any_byte_beside_the_catalog_is_found(database: Path, verify: bool) -> None:
    check_parts(database, every=1, verify=verify)


def test_what_readers_say_of_the_lock_file_does_not_matter(database: Path) -> None:
    for text in (b"", b"\xff" * 30, b"not a number"):
        (database / "writer.lock").write_bytes(text)
        with VectorDB.open(database) as first:
            (database / "writer.lock").write_bytes(text)
            with pytest.raises(BlockingIOError, match="already open"):
                VectorDB.open(first.path)
