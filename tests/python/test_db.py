"""`VectorDB`: what was written stays written, and what is wrong is refused before anything changes."""

import os
import pickle
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import zlib
from enum import Enum, IntEnum

import numpy as np
import pytest
from ruvector_gnn import ConfigError, FormatError, NotFoundError, ShapeError, nn
from ruvector_gnn.db import VectorDB, log
from ruvector_gnn.search import GNNEmbedder

DIM = 8


def vectors(count, seed=0, dim=DIM):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.rvdb"


@pytest.fixture
def db(path):
    with VectorDB.open(path, dim=DIM) as database:
        yield database


@pytest.fixture
def filled(db):
    db.add(range(50), vectors(50), [{"n": number, "even": number % 2 == 0} for number in range(50)])
    return db


def snapshot_of(database):
    """All that a caller can see."""
    return (
        [(record.id, record.vector.tobytes(), record.metadata) for record in database.get(database.ids())],
        database.stats()["impressions"],
        database.search(np.ones(DIM), k=100).ids,
    )


# --- documents


def test_what_was_added_is_found_and_read_back(filled):
    given = vectors(50)
    assert len(filled) == 50 and 7 in filled and 50 not in filled and "7" not in filled
    hits = filled.search(given[7], k=3)
    assert hits.ids[0] == 7 and hits.scores[0] == pytest.approx(1, abs=1e-5)
    assert hits.metadata[0] == {"n": 7, "even": False}
    assert list(hits.scores) == sorted(hits.scores, reverse=True)
    assert [hit.id for hit in hits.hits] == hits.ids and len(hits) == 3
    ids, scores, metadata = hits
    assert ids == hits.ids and scores is hits.scores and metadata == hits.metadata
    records = filled.get([9, 3])
    assert records.ids == [9, 3]
    np.testing.assert_array_equal(records.vectors, given[[9, 3]])
    assert filled.get(3).metadata == {"n": 3, "even": False}


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_scores_are_higher_for_better(path, metric):
    given = vectors(60)
    query = vectors(1, seed=9)[0]
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    expected = {
        "cosine": unit @ (query / np.linalg.norm(query)),
        "l2": -((given - query) ** 2).sum(axis=1),
        "ip": given @ query,
    }[metric]
    with VectorDB.open(path, dim=DIM, metric=metric) as database:
        database.add(range(60), given)
        hits = database.search(query, k=5)
    assert hits.ids == np.argsort(-expected)[:5].tolist()
    np.testing.assert_allclose(hits.scores, np.sort(expected)[::-1][:5], atol=1e-4)


def test_integer_and_text_ids_are_different(db):
    db.add([1, "1", np.int64(2)], vectors(3))
    assert db.ids() == [1, "1", 2]
    np.testing.assert_array_equal(db.get("1").vector, vectors(3)[1])


def test_one_document_needs_no_lists(db):
    db.add("solo", vectors(1)[0], {"lang": "en"})
    assert db.get("solo").metadata == {"lang": "en"}
    db.delete("solo")
    assert len(db) == 0


def test_upsert_replaces_and_delete_removes(filled, path):
    moved = vectors(1, seed=5)[0]
    filled.upsert([3, "new"], [moved, vectors(1, seed=6)[0]], [{"n": -1}, None])
    filled.delete([4, 5])
    for database in (filled, VectorDB.open(path, mode="r")):
        assert len(database) == 49
        assert database.search(moved, k=1).ids == [3] and database.get(3).metadata == {"n": -1}
        assert set(database.search(moved, k=100).ids) == set(range(50)) - {4, 5} | {"new"}
        assert database.search(vectors(50)[4], k=1).ids != [4]
        with pytest.raises(NotFoundError):
            database.get(4)
        database.verify()
    database.close()
    filled.add(4, vectors(50)[4])
    assert filled.search(vectors(50)[4], k=1).ids == [4]


def test_graph_and_vectors_line_up_with_ids(filled):
    assert filled.get_hnsw_graph().num_nodes == 50
    filled.delete([0, 49])
    assert filled.get_all_vectors().shape == (48, DIM)
    np.testing.assert_array_equal(filled.get_all_vectors(), filled.get(filled.ids()).vectors)
    graph, x = filled.get_hnsw_graph(), filled.get_all_vectors()
    assert graph.num_nodes == 48
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    near = np.mean([x[node] @ x[graph.neighbors(node)].T.mean(axis=1) for node in range(48)])
    assert near > (x @ x.T).mean() + 0.1


def test_search_with_an_encoder_of_ones_own(filled):
    query = vectors(1, seed=8)[0]
    same = filled.search_with_gnn(query, lambda x, graph: x, k=5)
    assert same.ids == filled.search(query, k=5).ids
    np.testing.assert_allclose(same.scores, filled.search(query, k=5).scores, atol=1e-5)

    def listening(x, graph):
        assert graph.num_nodes == len(x) and graph.neighbors(len(x) - 1).tolist() == list(range(16))
        assert all(len(x) - 1 not in graph.neighbors(node) for node in range(len(x) - 1))
        return np.stack([x[node] + x[graph.neighbors(node)].sum(axis=0) for node in range(len(x))])

    filled.delete(same.ids[0])
    found = filled.search_with_gnn(query, listening, k=5)
    assert len(found) == 5 and same.ids[0] not in found.ids
    assert list(found.scores) == sorted(found.scores, reverse=True)
    for wrong in (lambda x, graph: x[:-1], lambda x, graph: x * np.nan):
        with pytest.raises(ShapeError, match="gnn"):
            filled.search_with_gnn(query, wrong)
    for no_encoder in (None, "gnn", np.ones(3)):
        with pytest.raises(ConfigError, match="GNNEmbedder"):
            filled.search_with_gnn(query, no_encoder)


def test_search_with_a_module_and_with_an_embedder(filled):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.dropout = nn.SAGELayer(DIM, DIM, seed=0), nn.Dropout(0.5)

        def forward(self, x, graph):
            return self.dropout(self.layer(x, graph))

    query, gnn = vectors(1, seed=8)[0], Dropping()
    expected = filled.search_with_gnn(query, lambda x, graph: gnn.layer(x, graph), k=5)
    for encoder in (gnn, GNNEmbedder(gnn)):  # both in evaluation, whatever the mode
        found = filled.search_with_gnn(query, encoder, k=5)
        assert found.ids == expected.ids and gnn.training
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


class Kind(str, Enum):
    RED = "red"
    BLUE = "blue"


class Number(IntEnum):
    SEVEN = 7


class Plain(Enum):
    RED = "red"


def test_ids_of_other_types_are_the_strings_and_integers_that_they_are(db):
    db.add([Kind.RED, np.str_("green"), Number.SEVEN, np.int64(9)], vectors(4))
    assert db.ids() == ["red", "green", 7, 9]
    assert {type(identity) for identity in db.ids()} == {str, int}
    for identity in ("red", Kind.RED, np.str_("red"), "green", 7, Number.SEVEN, np.int8(7), 9):
        assert identity in db and db.get(identity).id == identity
    with pytest.raises(ConfigError, match="exists"):
        db.add("red", vectors(1))
    with pytest.raises(ConfigError, match="twice"):
        db.upsert([Kind.BLUE, "blue"], vectors(2))
    db.upsert(Kind.RED, vectors(1, seed=4))
    db.record(vectors(1)[0], Kind.RED, shown=[Number.SEVEN, Kind.RED])
    (impression,) = log.read(db._store.catalog)
    assert impression.clicked == ["red"] and impression.shown == [7, "red"]
    db.delete([Kind.RED, Number.SEVEN])
    assert db.ids() == ["green", 9]
    for wrong in (True, np.True_, Plain.RED, 7.0, b"red", None):
        with pytest.raises(ConfigError, match="id"):
            db.add([wrong], vectors(1))
    db.verify()


def test_metadata_and_filters_take_strings_of_enumerations(db):
    db.add(["a", "b"], vectors(2), [{"kind": Kind.RED, "n": Number.SEVEN}, {Kind.BLUE: [Kind.BLUE]}])
    assert [record.metadata for record in db.get(["a", "b"])] == [{"kind": "red", "n": 7}, {"blue": ["blue"]}]
    for where, found in (
        ({"kind": Kind.RED}, ["a"]),
        ({"kind": {"$in": [Kind.RED, np.str_("x")]}}, ["a"]),
        ({"n": Number.SEVEN}, ["a"]),
        ({Kind.BLUE: {"$contains": Kind.BLUE}}, ["b"]),
    ):
        assert db.search([1] * DIM, where=where).ids == found
    with pytest.raises(ConfigError, match="JSON"):
        db.add("c", vectors(1), {"kind": Plain.RED})


def test_a_click_keeps_the_time_that_is_given(filled):
    begin = time.time()
    filled.record([1] * DIM, 1, at=1_700_000_000.5)
    filled.record_all([([1] * DIM, 2, None, None, 5), ([1] * DIM, 3)])
    times = [at for (at,) in filled._store.catalog.execute("SELECT at FROM impressions ORDER BY number")]
    assert times[:2] == [1_700_000_000.5, 5.0] and begin <= times[2] <= time.time()
    filled.verify()
    for wrong in ("2024-01-01", float("nan"), float("inf"), True, 1_700_000_000_000_000):
        with pytest.raises(ConfigError, match="at: got"):
            filled.record([1] * DIM, 1, at=wrong)
    assert filled.stats()["impressions"] == 3


def test_options_given_on_opening_must_agree_with_what_is_there(path):
    VectorDB.open(path, dim=DIM, metric="l2", index_options={"m": 8}).close()
    for options in ({"dim": DIM}, {"metric": "l2"}, {"index_options": {"m": 8, "storage": "f32", "seed": 0}}):
        VectorDB.open(path, **options).close()
    for options, words in (
        ({"dim": DIM + 1}, "dim: got 9, but .* was created with 8"),
        ({"metric": "cosine"}, "metric: got 'cosine', but .* was created with 'l2'"),
        ({"index_options": {"m": 16}}, "m: got 16, but .* was created with 8"),
        ({"index_options": {"storage": "i8"}}, "storage: got 'i8', but .* was created with 'f32'"),
    ):
        with pytest.raises(ConfigError, match=words):
            VectorDB.open(path, **options)


# --- refusals: each is typed, and changes nothing

NAN = [float("nan")] * DIM


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda db: db.add(["x"], [NAN]), ShapeError, "NaN"),
        (lambda db: db.add(["x", "y"], [[1] * DIM, [0] * DIM]), ShapeError, "row 1 is zero"),
        (lambda db: db.add(["x"], [[1e39] * DIM]), ShapeError, "infinity"),
        (lambda db: db.add(["x"], [[1e19] * DIM]), ShapeError, "too long"),
        (lambda db: db.add(["x"], [[1e-30] * DIM]), ShapeError, "too short"),
        (lambda db: db.add(["x"], [[1] * (DIM + 1)]), ShapeError, "expected"),
        (lambda db: db.add(["x"], [["a"] * DIM]), ShapeError, "must hold numbers"),
        (lambda db: db.add(["x"], [[1], [1, 2]]), ShapeError, "vectors"),
        (lambda db: db.add(["x", "y"], vectors(1)), ConfigError, "2 ids for 1 vectors"),
        (lambda db: db.add(["x", "x"], vectors(2)), ConfigError, "twice"),
        (lambda db: db.add(["x", 7], vectors(2)), ConfigError, "exists"),
        (lambda db: db.add([1.5], vectors(1)), ConfigError, "int or str"),
        (lambda db: db.add([True], vectors(1)), ConfigError, "int or str"),
        (lambda db: db.add([2**63], vectors(1)), ConfigError, "64 bits"),
        (lambda db: db.add(["\ud800"], vectors(1)), ConfigError, "Unicode"),
        (lambda db: db.add(["x"], vectors(1), [{}, {}]), ShapeError, "2 entries for 1"),
        (lambda db: db.add(["x"], vectors(1), [{"a": object()}]), ConfigError, "JSON"),
        (lambda db: db.add(["x"], vectors(1), [{"a": float("nan")}]), ConfigError, "JSON"),
        (lambda db: db.add(["x"], vectors(1), [{1: 2}]), ConfigError, "keys"),
        (lambda db: db.upsert(["x"], [NAN]), ShapeError, "NaN"),
        (lambda db: db.delete([1, "nobody"]), NotFoundError, "nobody"),
        (lambda db: db.get("nobody"), NotFoundError, "nobody"),
        (lambda db: db.search(NAN), ShapeError, "NaN"),
        (lambda db: db.search([0] * DIM), ShapeError, "zero"),
        (lambda db: db.search([1] * 3), ShapeError, "expected"),
        (lambda db: db.search(vectors(2)), ShapeError, "one vector"),
        (lambda db: db.search([1] * DIM, k=0), ConfigError, "k: got 0"),
        (lambda db: db.search([1] * DIM, k=1.5), ConfigError, "k: got 1.5"),
        (lambda db: db.search([1] * DIM, explore=2), ConfigError, "explore"),
        (lambda db: db.search([1] * DIM, where={"$no": 1}), ConfigError, r"\$no"),
        (lambda db: db.record([1] * DIM, ["nobody"]), NotFoundError, "nobody"),
        (lambda db: db.record(NAN, [1]), ShapeError, "NaN"),
        (lambda db: db.record([1] * DIM, []), ConfigError, "neither"),
        (lambda db: db.record([1] * DIM, [1], shown=[1, 1]), ConfigError, "twice"),
        (lambda db: db.record_all([([1] * DIM, [1]), ([1] * DIM, [-1])]), NotFoundError, "-1"),
        (lambda db: db.learn(), ConfigError, "no click"),
        (lambda db: VectorDB.open(db.path), BlockingIOError, f"process {os.getpid()}"),
        (lambda db: VectorDB.open(db.path, dim=3, mode="r"), ConfigError, "dim: got 3"),
        (lambda db: VectorDB.open(db.path, metric="l2", mode="r"), ConfigError, "metric"),
        (lambda db: VectorDB.open(db.path, mode="w"), ConfigError, "mode"),
        (lambda db: VectorDB.open(db.path, synchronous="off"), ConfigError, "synchronous"),
    ],
)
def test_refused_calls_change_nothing(filled, call, error, words):
    before = snapshot_of(filled)
    with pytest.raises(error, match=words):
        call(filled)
    assert snapshot_of(filled) == before
    filled.verify()


def test_more_than_there_is_and_nothing_at_all(db):
    assert db.search([1] * DIM, k=5).ids == []
    assert len(db.search([1] * DIM, where={"a": 1})) == 0
    db.add(range(3), vectors(3))
    assert len(db.search([1] * DIM, k=10**9)) == 3
    db.add([], np.empty((0, DIM)))
    db.delete(range(3))
    assert db.search([1] * DIM).ids == [] and len(db) == 0 and db.get([]).ids == []


def test_a_reader_cannot_write_and_a_closed_database_cannot_do_anything(filled, path):
    reader = VectorDB.open(path, mode="r")
    for write in (
        lambda: reader.add("x", vectors(1)),
        lambda: reader.delete(1),
        lambda: reader.record([1] * DIM, [1]),
        lambda: reader.learn(),
    ):
        with pytest.raises(ConfigError, match="mode='r'"):
            write()
    reader.close()
    reader.close()
    with pytest.raises(ConfigError, match="closed"):
        reader.search([1] * DIM)
    assert "closed" in repr(reader)


def test_places_without_a_database(tmp_path):
    with pytest.raises(FileNotFoundError):
        VectorDB.open(tmp_path / "none", mode="r")
    with pytest.raises(ConfigError, match="give dim"):
        VectorDB.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(FormatError, match="not a database"):
        VectorDB.open(tmp_path / "notes", dim=2)
    assert [entry.name for entry in (tmp_path / "notes").iterdir()] == ["a.txt"]
    with pytest.raises(FormatError, match="a file"):
        VectorDB.open(tmp_path / "notes" / "a.txt", dim=2)
    for dim in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="dim"):
            VectorDB.open(tmp_path / "none", dim=dim)
    with pytest.raises(ConfigError, match="metric"):
        VectorDB.open(tmp_path / "none", dim=2, metric="manhattan")


# --- hostile files


def damage_catalog(path, statement):
    connection = sqlite3.connect(path / "catalog.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()


def cut(path, name, size):
    os.truncate(path / name, size)


def overwrite(path, name, offset, data):
    with open(path / name, "r+b") as file:
        file.seek(offset)
        file.write(data)


def other_version(path):
    fields = struct.pack("<8sIIIII", b"RVDBVEC1", 9, DIM, 0, 0, 0)
    overwrite(path, "vectors.f32", 0, fields + struct.pack("<I", zlib.crc32(fields)))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: cut(path, "vectors.f32", 64 + 49 * DIM * 4 + 5), "torn"),
        (lambda path: cut(path, "vectors.f32", 20), "torn"),
        (lambda path: (path / "vectors.f32").unlink(), "missing"),
        (lambda path: overwrite(path, "vectors.f32", 0, b"PK"), "not a vectors file"),
        (lambda path: overwrite(path, "vectors.f32", 12, b"\x09"), "header is damaged"),
        (other_version, "version 9"),
        (lambda path: damage_catalog(path, "PRAGMA user_version = 9"), "schema version 9"),
        (lambda path: damage_catalog(path, "PRAGMA application_id = 1"), "not a catalog"),
        (lambda path: damage_catalog(path, "DROP TABLE settings"), "tables"),
        (
            lambda path: (path / "catalog.sqlite").write_bytes(b"no database, but long enough" * 40),
            "not a database",
        ),
        (lambda path: damage_catalog(path, "UPDATE settings SET value = 5 WHERE name = 'rows'"), "'rows'"),
        (lambda path: damage_catalog(path, "DELETE FROM settings WHERE name = 'dim'"), "dim"),
        (lambda path: damage_catalog(path, "CREATE TABLE other (a)"), "tables"),
        (lambda path: damage_catalog(path, "PRAGMA journal_mode = DELETE"), "write-ahead"),
        (lambda path: next(path.glob("index-*")).unlink(), "snapshot is missing"),
        (lambda path: next(path.glob("index-*")).write_bytes(b"rubbish"), "index-"),
        (lambda path: cut(path, next(path.glob("index-*")).name, 1000), "index-"),
    ],
)
@pytest.mark.parametrize("mode", ["r", "rw"])
def test_damaged_files_are_refused(filled, path, harm, words, mode):
    filled.close()
    harm(path)
    before = {
        entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name.startswith(("vec", "ind"))
    }
    with pytest.raises(FormatError, match=words):
        VectorDB.open(path, mode=mode)
    after = {
        entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name.startswith(("vec", "ind"))
    }
    assert after == before


def test_a_lost_snapshot_is_rebuilt_on_request(filled, path):
    expected = snapshot_of(filled)
    filled.close()
    next(path.glob("index-*")).unlink()
    with VectorDB.open(path, rebuild=True) as database:
        assert snapshot_of(database) == expected
    with VectorDB.open(path) as database:
        assert snapshot_of(database) == expected


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: overwrite(path, "vectors.f32", 64 + 10 * DIM * 4 + 2, b"\x55"),
        lambda path: damage_catalog(path, "UPDATE documents SET metadata = '{}' WHERE id = 3"),
        lambda path: damage_catalog(path, "UPDATE documents SET id = 99 WHERE id = 3"),
        lambda path: damage_catalog(path, "DELETE FROM documents WHERE id = 3"),
        lambda path: damage_catalog(path, "UPDATE impressions SET clicked = '[4]'"),
        lambda path: damage_catalog(path, "UPDATE impressions SET at = at + 1"),
        lambda path: damage_catalog(path, "DELETE FROM impressions"),
    ],
)
def test_verify_finds_silent_damage(filled, path, harm):
    filled.record(vectors(1)[0], [3])
    filled.verify()
    filled.close()
    harm(path)
    with VectorDB.open(path, mode="r") as database, pytest.raises(FormatError):
        database.verify()


def test_an_interrupted_creation_is_made_again(tmp_path):
    path = tmp_path / "cut.rvdb"
    path.mkdir()
    (path / "writer.lock").touch()
    (path / "vectors.f32").write_bytes(b"RVD")
    (path / "catalog.sqlite").touch()
    with pytest.raises(FormatError, match="cut short"):
        VectorDB.open(path, mode="r")
    with VectorDB.open(path, dim=DIM) as database:
        database.add("a", vectors(1))


def test_bytes_behind_the_committed_rows_are_overwritten(filled, path):
    filled.close()
    with open(path / "vectors.f32", "ab") as file:
        file.write(b"\xff" * 1000)
    with VectorDB.open(path) as database:
        database.add("next", vectors(1, seed=3))
        np.testing.assert_array_equal(database.get("next").vector, vectors(1, seed=3)[0])
        database.verify()


# --- processes and threads

WRITER = """
import itertools, sys, numpy as np
from ruvector_gnn.db import VectorDB
path, seed = sys.argv[1], int(sys.argv[2])
db = VectorDB.open(path, dim=8)
stream = np.random.default_rng(seed)
start = len(db)
print("open", flush=True)
for number in itertools.count():
    vector = stream.standard_normal((3, 8)).astype(np.float32)
    name = f"{seed}-{number}"
    crcs = [{"crc": int(row.view(np.int32).sum())} for row in vector]
    db.add([f"{name}-{i}" for i in range(3)], vector, crcs)
    print("added", name, flush=True)
    db.record(vector[0], [f"{name}-0"], shown=[f"{name}-{i}" for i in range(3)])
    print("recorded", name, flush=True)
    if number % 7 == 3:
        db.delete(f"{name}-2")
        print("deleted", name, flush=True)
    if number % 11 == 5:
        db.checkpoint()
"""


def test_what_returned_survives_kill_at_any_instant(path):
    """The writer says what each call returned; after SIGKILL all of it is there, and nothing by halves."""
    chance = random.Random(0)
    added, recorded, deleted = set(), set(), set()
    for seed in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(seed)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        time.sleep(chance.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read()
        process.stdout.close()
        process.wait()
        for line in said.splitlines(keepends=True):
            if line.endswith("\n"):
                verb, name = line.split()
                {"added": added, "recorded": recorded, "deleted": deleted}[verb].add(name)
        with VectorDB.open(path, mode="r") as database:
            database.verify()
            ids = set(database.ids())
            for name in added:
                gone = {f"{name}-2"} if name in deleted else set()
                missing = {f"{name}-{i}" for i in range(3)} - ids
                # The call that was under way may have deleted, but only what it was asked to.
                assert gone <= missing <= {f"{name}-2"}
            records = database.get(database.ids())
            assert all(
                record.metadata["crc"] == int(record.vector.view(np.int32).sum()) for record in records
            )
            assert database.stats()["impressions"] >= len(recorded)
            some = records[len(records) // 2]
            assert database.search(some.vector, k=1).ids == [some.id]
    assert len(added) > 20


def test_another_process_is_refused_by_name(filled, path):
    code = (
        "import sys\nfrom ruvector_gnn.db import VectorDB\n"
        "try:\n    VectorDB.open(sys.argv[1])\nexcept OSError as error:\n    print(error)\n"
        "with VectorDB.open(sys.argv[1], mode='r') as db:\n    print(len(db))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    ).stdout
    assert f"by process {os.getpid()}" in output and output.endswith("50\n")


def test_readers_follow_the_writer(filled, path):
    with VectorDB.open(path, mode="r") as reader:
        extra = vectors(1, seed=77)[0]
        filled.add("late", extra)
        assert reader.search(extra, k=1).ids == ["late"] and len(reader) == 51
        filled.delete("late")
        assert reader.search(extra, k=1).ids != ["late"]
        filled.checkpoint()
        filled.record(extra, [1])
        report = filled.learn()
        assert reader.learned is report.promoted is False  # one click teaches nothing
        assert reader.stats()["model"] == filled.stats()["model"] is not None
        assert reader.search(extra, k=3).ids == filled.search(extra, k=3).ids
    copy = pickle.loads(pickle.dumps(filled))
    assert copy.search(extra, k=3).ids == filled.search(extra, k=3).ids
    copy.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_reads_with_the_handle_of_its_parent(filled):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert len(filled.search([1] * DIM)) == 10
            filled.add("x", vectors(1))
        except ConfigError as refused:
            status = 7 if "before a fork" in str(refused) else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(filled.search([1] * DIM)) == 10


def test_searching_while_adding_from_several_threads(db):
    failures = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            failures.append(error)

    def write(start):
        for number in range(15):
            ids = [start + 10 * number + place for place in range(10)]
            db.add(ids, vectors(10, seed=ids[0]), [{"start": start}] * 10)
            db.delete(ids[0])

    def read():
        for _ in range(60):
            for hit in db.search(vectors(1, seed=1)[0], k=5, where={"start": {"$in": [0, 1000]}}).hits:
                assert hit.metadata["start"] in (0, 1000)

    threads = [
        threading.Thread(target=guarded, args=(lambda start=start: write(start),)) for start in (0, 1000)
    ]
    threads += [threading.Thread(target=guarded, args=(read,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(db) == 2 * 15 * 9
    assert len(db.search(vectors(1)[0], k=1000)) == len(db)
    db.verify()


# --- the log, and learning from it


def test_exploration_is_a_share_and_the_log_knows_it(filled):
    asked = vectors(200, seed=4)
    plain = [filled.search(query) for query in asked]
    some = [filled.search(query, explore=0.3) for query in asked]
    shuffled = [result.explored for result in some]
    assert 30 < sum(shuffled) < 90
    assert not any(result.explored for result in plain)
    for before, after in zip(plain, some, strict=True):
        assert set(before.ids) == set(after.ids) and (after.explored or before.ids == after.ids)
    for query, result in zip(asked, some, strict=True):
        filled.record(query, [result.ids[0]], shown=result.ids)  # as a list of ids
        filled.record(query, [result.ids[0]], shown=result)
    assert filled.stats()["impressions"] == 400
    assert filled.stats()["explored_impressions"] == 2 * sum(shuffled)


def clustered_log(seed=0, topics=60, per_topic=8, dim=32):
    """Documents in topics, and queries that stand far from what they want, always in the same way."""
    stream = np.random.default_rng(seed)
    centres = stream.standard_normal((topics, dim))
    documents = np.repeat(centres, per_topic, axis=0) + 0.4 * stream.standard_normal(
        (topics * per_topic, dim)
    )
    turn = np.linalg.qr(stream.standard_normal((dim, dim)))[0]

    def ask(count):
        topic = stream.integers(topics, size=count)
        queries = centres[topic] @ turn + 0.4 * stream.standard_normal((count, dim))
        return queries.astype(np.float32), topic

    return documents.astype(np.float32), ask, per_topic


def test_learning_is_kept_with_the_data(path):
    documents, ask, per_topic = clustered_log()
    queries, topics = ask(400)
    held_out, wanted = ask(100)

    def precision(database, learned=True):
        hits = [database.search(query, k=5, learned=learned).ids for query in held_out]
        return np.mean(
            [[name // per_topic == topic for name in ids] for ids, topic in zip(hits, wanted, strict=True)]
        )

    with VectorDB.open(path, dim=32) as database:
        database.add(range(len(documents)), documents)
        plain = precision(database)
        clicks = [[topic * per_topic + place for place in range(per_topic)] for topic in topics]
        database.record_all(list(zip(queries, clicks, strict=True)))
        report = database.learn()
        assert report.promoted and database.learned
        learned = precision(database)
        assert learned > plain + 0.2
        assert precision(database, learned=False) == plain
        asked = [database.search(query, k=5) for query in held_out]
    with VectorDB.open(path) as database:
        again = [database.search(query, k=5) for query in held_out]
        assert [result.ids for result in again] == [result.ids for result in asked]
        database.add(10_000, documents[0] + 0.01)
        database.delete(1)
        found = database.search(held_out[0], k=1000).ids
        assert 10_000 in found and 1 not in found
        assert set(database.search(held_out[0], k=50, where={"a": 1}).ids) == set()
        database.verify()
    with VectorDB.open(path, mode="r") as database:
        assert precision(database) > plain + 0.2
        assert 10_000 in database.search(documents[0], k=200).ids


def test_clicks_on_deleted_documents_are_left_out(filled):
    filled.record(vectors(1)[0], [3])
    filled.delete(3)
    with pytest.raises(ConfigError, match="no click"):
        filled.learn()


def test_shuffled_answers_judge_where_the_log_has_them(path):
    """Most clicks go to whatever stood on top; a few, on shuffled answers, go to what was wanted."""
    stream = np.random.default_rng(3)
    documents = stream.standard_normal((200, 16))

    def ask(count):
        wanted = stream.integers(200, size=count)
        queries = 0.6 * documents[wanted] + np.roll(documents[wanted], 8, axis=1)
        return queries + 0.3 * stream.standard_normal(queries.shape), wanted

    queries, wanted = ask(900)
    future, relevant = ask(200)
    with VectorDB.open(path, dim=16) as database:
        database.add(range(200), documents)

        def found(learned):
            hits = [database.search(query, k=5, learned=learned).ids for query in future]
            return np.mean([name in ids for name, ids in zip(relevant, hits, strict=True)])

        for number, (query, name) in enumerate(zip(queries, wanted, strict=True)):
            shown = database.search(query, k=60, explore=float(number % 3 == 0))
            good = [name] if name in shown.ids else []
            database.record(query, good if shown.explored else shown.ids[:1], shown=shown)
        assert database.stats()["explored_impressions"] == 300
        report = database.learn()
        assert report.promoted and report.held_back <= 300
        assert report.clicks == "position-based model, judged on shuffled answers"
        assert found(learned=True) > found(learned=False) + 0.2
