"""The command line as a user meets it: files in, text or JSON out, exit code 2 and one line for bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest
from ruvector_gnn.cli import main
from ruvector_gnn.db import VectorDB

DIM = 4


def run(*arguments, stdin=None, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "ruvector_gnn", *map(str, arguments)],
        input=stdin, capture_output=True, text=True, cwd=cwd,
    )  # fmt: skip


def vectors(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def write_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "vectors.npy", vectors(20))
    write_lines(tmp_path / "meta.jsonl", [{"n": number, "even": number % 2 == 0} for number in range(20)])
    write_lines(tmp_path / "ids.jsonl", [f"doc{number}" for number in range(20)])
    return tmp_path


@pytest.fixture
def database(folder):
    target = folder / "a.rvdb"
    assert main(["build", str(target), str(folder / "vectors.npy"), "--ids", str(folder / "ids.jsonl"),
                 "--metadata", str(folder / "meta.jsonl")]) == 0  # fmt: skip
    return target


def test_the_whole_path_from_vectors_to_learned_search(folder, database):
    np.save(folder / "queries.npy", vectors(3))
    found = run("search", database, folder / "queries.npy", "-k", 2, "--json")
    assert found.returncode == 0 and found.stderr == ""
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert [answer["query"] for answer in answers] == [0, 1, 2]
    assert [answer["ids"][0] for answer in answers] == ["doc0", "doc1", "doc2"]
    assert answers[1]["metadata"][0] == {"n": 1, "even": False} and answers[0]["scores"][0] > 0.99

    filtered = run("search", database, folder / "queries.npy", "--where", '{"even": true}', "--json")
    assert all(
        entry["even"] for line in filtered.stdout.splitlines() for entry in json.loads(line)["metadata"]
    )

    shown = answers[0]["ids"]
    log = [
        {"query": vector.tolist(), "clicked": ["doc3"], "shown": [*shown, "doc3"]} for vector in vectors(60)
    ]
    recorded = run("record", database, "-", "--json", stdin="".join(json.dumps(line) + "\n" for line in log))
    assert (recorded.returncode, json.loads(recorded.stdout)) == (0, {"recorded": 60})

    learned = run("learn", database, "--json")
    assert learned.returncode == 0 and isinstance(json.loads(learned.stdout), dict)

    held_out = [{"query": vector.tolist(), "relevant": ["doc3"]} for vector in vectors(20, seed=8)]
    judged = run("eval", database, write_lines(folder / "held.jsonl", held_out), "--json")
    quality = json.loads(judged.stdout)
    assert set(quality["before"]) == set(quality["after"]) == {"ndcg@10", "mrr@10", "recall@10", "recall@100"}
    assert quality["queries"] == 20 and quality["learned"] is True

    about = json.loads(run("info", database, "--verify", "--json").stdout)
    assert about["documents"] == 20 and about["impressions"] == 60 and about["verified"]
    for command in (["search", database, folder / "queries.npy"], ["eval", database, folder / "held.jsonl"],
                    ["info", database]):  # fmt: skip
        text = run(*command)
        assert text.returncode == 0 and text.stdout.strip() and "Traceback" not in text.stderr


def test_build_from_json_lines_and_append(folder):
    lines = [
        {"id": f"x{number}", "vector": vectors(5)[number].tolist(), "metadata": {"n": number}}
        for number in range(5)
    ]
    target = folder / "b.rvdb"
    assert run("build", target, write_lines(folder / "docs.jsonl", lines)).returncode == 0
    with VectorDB.open(target, mode="r") as db:
        assert db.ids() == ["x0", "x1", "x2", "x3", "x4"] and db.get("x2").metadata == {"n": 2}
    assert run("build", target, folder / "vectors.npy", "--append").returncode == 0
    with VectorDB.open(target, mode="r") as db:
        assert len(db) == 25 and 24 in db


def test_build_reads_npz_and_fvecs(folder):
    np.savez(folder / "two.npz", a=vectors(3), b=vectors(4))
    assert run("build", folder / "n.rvdb", folder / "two.npz", "--array", "b").returncode == 0
    rows = vectors(6)
    raw = np.hstack([np.full((6, 1), DIM, dtype="<i4"), rows.view("<i4")])
    raw.tofile(folder / "six.fvecs")
    assert run("build", folder / "f.rvdb", folder / "six.fvecs", "--metric", "l2").returncode == 0
    with VectorDB.open(folder / "f.rvdb", mode="r") as db:
        np.testing.assert_array_equal(db.get(5).vector, rows[5])
        assert db.metric == "l2"


def test_an_index_file(folder):
    target = folder / "a.hnsw"
    assert run("build", target, folder / "vectors.npy", "--m", 8, "--json").returncode == 0
    found = run("search", target, folder / "vectors.npy", "-k", 3, "--json")
    assert [json.loads(line)["ids"][0] for line in found.stdout.splitlines()] == list(range(20))
    about = run("info", target, "--json")
    assert json.loads(about.stdout)["rows"] == 20


def test_shuffled_answers_say_so(folder, database):
    np.save(folder / "queries.npy", vectors(30))
    found = run("search", database, folder / "queries.npy", "--explore", 1, "--json")
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert all(answer["explored"] for answer in answers)
    assert any(answer["scores"] != sorted(answer["scores"], reverse=True) for answer in answers)


BAD = {
    "no command": [],
    "unknown command": ["frobnicate"],
    "unknown option": ["info", "{db}", "--frob"],
    "no database": ["info", "{folder}/none.rvdb"],
    "not a database": ["info", "{folder}"],
    "record creates nothing": ["record", "{folder}/none.rvdb", "{folder}/meta.jsonl"],
    "learn without a log": ["learn", "{db}"],
    "target exists": ["build", "{db}", "{folder}/vectors.npy"],
    "no vectors file": ["build", "{folder}/new.rvdb", "{folder}/none.npy"],
    "not numpy": ["build", "{folder}/new.rvdb", "{folder}/bad.npy"],
    "truncated numpy": ["build", "{folder}/new.rvdb", "{folder}/cut.npy"],
    "pickled": ["build", "{folder}/new.rvdb", "{folder}/pickled.npy"],
    "not a zip": ["build", "{folder}/new.rvdb", "{folder}/bad.npz"],
    "which array": ["build", "{folder}/new.rvdb", "{folder}/two.npz"],
    "no such array": ["build", "{folder}/new.rvdb", "{folder}/two.npz", "--array", "c"],
    "truncated fvecs": ["build", "{folder}/new.rvdb", "{folder}/bad.fvecs"],
    "NaN": ["build", "{folder}/new.rvdb", "{folder}/nan.npy"],
    "not JSON": ["build", "{folder}/new.rvdb", "{folder}/bad.jsonl"],
    "ragged": ["build", "{folder}/new.rvdb", "{folder}/ragged.jsonl"],
    "binary as JSON": ["build", "{folder}/new.rvdb", "{folder}/binary.jsonl"],
    "empty": ["build", "{folder}/new.rvdb", "{folder}/empty.jsonl"],
    "too few ids": ["build", "{folder}/new.rvdb", "{folder}/vectors.npy", "--ids", "{folder}/two.jsonl"],
    "too little metadata": [
        "build",
        "{folder}/new.rvdb",
        "{folder}/vectors.npy",
        "--metadata",
        "{folder}/two.jsonl",
    ],
    "ids of an index": ["build", "{folder}/new.hnsw", "{folder}/vectors.npy", "--ids", "{folder}/ids.jsonl"],
    "wrong dimension": ["search", "{db}", "{folder}/wide.npy"],
    "k is 0": ["search", "{db}", "{folder}/vectors.npy", "-k", "0"],
    "k is text": ["search", "{db}", "{folder}/vectors.npy", "-k", "many"],
    "where is no JSON": ["search", "{db}", "{folder}/vectors.npy", "--where", "lang=en"],
    "where is nonsense": ["search", "{db}", "{folder}/vectors.npy", "--where", '{"$lik": 1}'],
    "unknown clicked id": ["record", "{db}", "{folder}/unknown.jsonl"],
    "click without query": ["record", "{db}", "{folder}/meta.jsonl"],
    "unknown relevant id": ["eval", "{db}", "{folder}/unknown_relevant.jsonl"],
    "no relevant ids": ["eval", "{db}", "{folder}/unknown.jsonl"],
    "no sources": ["demo", "--source", "{folder}", "--no-plot"],
}


@pytest.fixture
def bad_folder(folder):
    (folder / "bad.npy").write_text("no numbers")
    (folder / "cut.npy").write_bytes((folder / "vectors.npy").read_bytes()[:200])
    np.save(folder / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "bad.npz").write_bytes(b"PK\x03\x04 torn")
    np.savez(folder / "two.npz", a=vectors(3), b=vectors(4))
    (folder / "bad.fvecs").write_bytes(b"\x04\0\0\0\0\0")
    np.save(folder / "nan.npy", np.full((2, DIM), np.nan))
    (folder / "bad.jsonl").write_text("[1, 2, 3, 4]\n{nope\n")
    write_lines(folder / "ragged.jsonl", [[1, 2], [1, 2, 3]])
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "empty.jsonl").write_text("\n")
    write_lines(folder / "two.jsonl", [{"a": 1}, {"a": 2}])
    np.save(folder / "wide.npy", np.ones((2, DIM + 1)))
    one = vectors(1)[0].tolist()
    write_lines(
        folder / "unknown.jsonl", [{"query": one, "clicked": ["doc1"]}, {"query": one, "clicked": ["nobody"]}]
    )
    write_lines(folder / "unknown_relevant.jsonl", [{"query": one, "relevant": ["nobody"]}])
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(bad_folder, database, case, capfd):
    arguments = [
        part.replace("{folder}", str(bad_folder)).replace("{db}", str(database)) for part in BAD[case]
    ]
    try:
        code = main(arguments)
    except SystemExit as ended:  # argparse
        code = ended.code
    captured = capfd.readouterr()
    complaint = captured.err.splitlines()
    # Progress notes may come before; the complaint is the last line, and alone of its kind.
    assert code == 2 and captured.out == ""
    assert complaint[-1].startswith("ruvector-gnn: error: ") and len(complaint[-1]) > 30
    assert sum(line.startswith("ruvector-gnn: error") for line in complaint) == 1
    assert not (bad_folder / "new.rvdb").exists() and not (bad_folder / "new.hnsw").exists()
    with VectorDB.open(database) as db:
        assert len(db) == 20 and db.stats()["impressions"] == 0


def test_a_locked_database_is_named(folder, database):
    with VectorDB.open(database):
        refused = run("learn", database)
    assert refused.returncode == 2 and "already open for writing, by process" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_help_and_version():
    assert run("--version").stdout.startswith("ruvector-gnn ")
    shown = run("--help")
    assert shown.returncode == 0
    for command in ("demo", "build", "search", "record", "learn", "eval", "info"):
        assert command in shown.stdout and run(command, "--help").returncode == 0


def test_a_reader_that_stops_early_is_no_error(folder, database):
    np.save(folder / "many.npy", vectors(2000))
    code = f"{sys.executable} -m ruvector_gnn search {database} {folder}/many.npy --json | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", code], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode == 0
