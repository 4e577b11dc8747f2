"""The command line as a user meets it: files in, text or JSON out, exit code 2 and one line for bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    documents = [
        {"vector": vector.tolist(), "id": f"doc{number}", "metadata": {"n": number, "even": number % 2 == 0}}
        for number, vector in enumerate(vectors(20))
    ]
    lines = write_lines(folder / "documents.jsonl", documents)
    assert main(["build", str(folder / "a.rvdb"), str(lines)]) == 0
    return folder / "a.rvdb"


@pytest.fixture
def database(folder, built):
    return Path(shutil.copytree(built, folder / "a.rvdb"))


def test_build_with_ids_and_metadata_in_files_of_their_own(folder, built):
    target = folder / "b.rvdb"
    assert main(["build", str(target), str(folder / "vectors.npy"), "--ids", str(folder / "ids.jsonl"),
                 "--metadata", str(folder / "meta.jsonl")]) == 0  # fmt: skip
    with VectorDB.open(target, mode="r") as made, VectorDB.open(built, mode="r") as same:
        assert made.ids() == same.ids() == [f"doc{number}" for number in range(20)]
        assert made.get(made.ids()).metadata == same.get(same.ids()).metadata
        np.testing.assert_array_equal(made.get_all_vectors(), same.get_all_vectors())


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
    assert (recorded.returncode, json.loads(recorded.stdout)) == (0, {"recorded": 60, "skipped": 0})

    learned = run("learn", database, "--json")
    assert learned.returncode == 0
    promoted = json.loads(learned.stdout)["promoted"]

    held_out = [{"query": vector.tolist(), "relevant": ["doc3"]} for vector in vectors(20, seed=8)]
    judged = run("eval", database, write_lines(folder / "held.jsonl", held_out), "--json")
    quality = json.loads(judged.stdout)
    assert set(quality["before"]) == set(quality["after"]) == {"ndcg@10", "mrr@10", "recall@10", "recall@100"}
    assert quality["queries"] == 20 and quality["learned"] is promoted

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
    "no vectors file": ["build", "{folder}/new.rvdb", "{folder}/nowhere.npy"],
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
    "eval of one array": ["eval", "{db}", "{folder}/vectors.npy"],
    "eval without qrels": ["eval", "{db}", "{folder}/two.npz"],
    "one vector": ["build", "{folder}/new.rvdb", "{folder}/flat.npy"],
    "no vectors": ["build", "{folder}/new.rvdb", "{folder}/none.npy"],
    "no dimensions": ["build", "{folder}/new.hnsw", "{folder}/thin.npy"],
    "no queries": ["search", "{db}", "{folder}/none.npy"],
    "an array called .npz": ["build", "{folder}/new.rvdb", "{folder}/array.npz"],
    "an archive called .npy": ["build", "{folder}/new.rvdb", "{folder}/archive.npy"],
    "damaged archive": ["build", "{folder}/new.rvdb", "{folder}/damaged.npz", "--array", "a"],
    "damaged header": ["build", "{folder}/new.rvdb", "{folder}/header.npy"],
    "complex": ["build", "{folder}/new.rvdb", "{folder}/complex.npy"],
    "a directory": ["build", "{folder}/new.rvdb", "{folder}"],
    "CSV": ["build", "{folder}/new.rvdb", "{folder}/table.csv"],
    "seed below 0": ["search", "{db}", "{folder}/vectors.npy", "--seed", "-1"],
    "another metric": ["build", "{db}", "{folder}/vectors.npy", "--append", "--metric", "l2"],
    "other dimensions": ["build", "{db}", "{folder}/wide.npy", "--append"],
    "another m": ["build", "{db}", "{folder}/vectors.npy", "--append", "--m", "5"],
    "huge m": ["build", "{folder}/new.rvdb", "{folder}/vectors.npy", "--m", str(2**70)],
    "no sources": ["demo", "--source", "{folder}", "--no-plot"],
}


@pytest.fixture
def bad_folder(folder):
    (folder / "bad.npy").write_text("no numbers")
    (folder / "cut.npy").write_bytes((folder / "vectors.npy").read_bytes()[:200])
    np.save(folder / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "flat.npy", vectors(1)[0])
    np.save(folder / "none.npy", vectors(0))
    np.save(folder / "thin.npy", np.empty((3, 0)))
    np.save(folder / "complex.npy", vectors(2) * 1j)
    (folder / "array.npz").write_bytes((folder / "vectors.npy").read_bytes())
    np.savez(folder / "damaged.npz", a=vectors(300))
    packed = bytearray((folder / "damaged.npz").read_bytes())
    (folder / "archive.npy").write_bytes(packed)
    packed[1000:1100] = bytes(100)
    (folder / "damaged.npz").write_bytes(packed)
    header = (folder / "vectors.npy").read_bytes().replace(b"}", b" ", 1)
    (folder / "header.npy").write_bytes(header)
    (folder / "table.csv").write_text("x,y\n1,2\n")
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


ONE = [1.0, 0.0, 0.0, 0.0]

BAD_LINES = {
    "no id": ("record", {"query": ONE, "clicked": [None]}, "id None"),
    "an object as id": ("record", {"query": ONE, "clicked": [{}]}, "id {}"),
    "a list as id": ("eval", {"query": ONE, "relevant": [["doc1"]]}, "id ['doc1']"),
    "unknown id": ("record", {"query": ONE, "clicked": ["gone"]}, "no document 'gone'; --on-unknown skip"),
    "unknown relevant id": ("eval", {"query": ONE, "relevant": ["gone"]}, "no document 'gone'"),
    "nothing shown or clicked": ("record", {"query": ONE, "clicked": []}, "neither"),
    "shown twice": ("record", {"query": ONE, "clicked": [], "shown": ["doc1", "doc1"]}, "twice"),
    "clicked is a string": ("record", {"query": ONE, "clicked": "doc1"}, "clicked is not a list"),
    "explored is a number": ("record", {"query": ONE, "clicked": ["doc1"], "explored": 1}, "explored"),
    "a field of another name": ("record", {"query": ONE, "clicked": ["doc1"], "ts": 5}, "unknown field 'ts'"),
    "half a session": ("record", {"query": ONE, "clicked": ["doc1"], "session": 1.5}, "session: 1.5"),
    "at is a date": ("record", {"query": ONE, "clicked": ["doc1"], "at": "2024-01-01"}, "at: got"),
    "no query": ("record", {"clicked": ["doc1"]}, "'query'"),
    "NaN": ("record", {"query": [float("nan"), 0, 0, 0], "clicked": ["doc1"]}, "finite"),
    "beyond float32": ("search", {"query": [1e39, 0, 0, 0]}, "finite"),
    "beyond float64": ("search", {"query": [10**400, 0, 0, 0]}, "finite"),
    "true": ("search", {"query": [True, 0, 0, 0]}, "finite"),
    "wrong length": ("record", {"query": [1.0], "clicked": ["doc1"]}, "expected"),
    "zero": ("record", {"query": [0, 0, 0, 0], "clicked": ["doc1"]}, "direction"),
    "a filter in a query": ("search", {"query": ONE, "where": {}}, "unknown field 'where'"),
    "a number": ("search", 5, "finite numbers"),
    "text beside a vector": ("build", {"vector": ONE, "id": "b", "text": "words"}, "unknown field 'text'"),
    "one without an id": ("build", {"vector": ONE}, "or none has"),
    "metadata is a list": ("build", {"vector": ONE, "id": "b", "metadata": [1]}, "mapping"),
    "boolean id": ("build", {"vector": ONE, "id": True}, "bool"),
}  # fmt: skip
GOOD = {"record": {"query": ONE, "clicked": ["doc1"]}, "eval": {"query": ONE, "relevant": ["doc1"]},
        "search": {"query": ONE}, "build": {"vector": ONE, "id": "a"}}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_with_its_file(folder, database, case, capfd):
    command, line, words = BAD_LINES[case]
    path = folder / "lines.jsonl"
    path.write_text(f"{json.dumps(GOOD[command])}\n\n{json.dumps(line)}\n")
    target = folder / "new.rvdb" if command == "build" else database
    code = main([command, str(target), str(path)])
    captured = capfd.readouterr()
    assert code == 2 and captured.out == "" and len(captured.err.splitlines()) == 1
    assert f"{path}, line 3: " in captured.err and words in captured.err
    assert not (folder / "new.rvdb").exists()
    with VectorDB.open(database, mode="r") as db:
        assert db.stats()["impressions"] == 0


@pytest.mark.parametrize("option", ["--ids", "--metadata"])
def test_a_bad_line_beside_the_vectors_is_named(folder, option, capfd):
    path = folder / "beside.jsonl"
    path.write_text('"a"\n[1]\n' if option == "--ids" else "{}\n[1]\n")
    assert main(["build", str(folder / "new.rvdb"), str(folder / "vectors.npy"), option, str(path)]) == 2
    assert f"{path}, line 2: " in capfd.readouterr().err
    path.write_text('"a"\n' if option == "--ids" else "{}\n")
    assert main(["build", str(folder / "new.rvdb"), str(folder / "vectors.npy"), option, str(path)]) == 2
    assert f"{path}: 1 {option[2:]} for 20 vectors" in capfd.readouterr().err


def test_lines_with_unknown_ids_can_be_skipped_and_fields_ignored(folder, database, capfd):
    lines = [{"query": ONE, "clicked": [name], "ts": 5, "at": 7.5} for name in ("doc1", "gone", "doc2")]
    path = write_lines(folder / "log.jsonl", lines)
    arguments = ["record", str(database), str(path), "--on-unknown", "skip", "--ignore-fields", "ts,session"]
    capfd.readouterr()
    assert main(arguments) == main([*arguments, "--json"]) == 0
    text, figures = capfd.readouterr().out.splitlines()
    assert text == "recorded 2 queries, skipped 1 with unknown ids"
    assert json.loads(figures) == {"recorded": 2, "skipped": 1}
    with VectorDB.open(database, mode="r") as db:
        (times,) = zip(*db._store.catalog.execute("SELECT at FROM impressions"), strict=True)
        assert times == (7.5,) * 4


def test_the_complaint_says_which_arrays_there_are(folder, capfd):
    np.savez(folder / "two.npz", docs=vectors(3), queries=vectors(4))
    assert main(["build", str(folder / "new.rvdb"), str(folder / "two.npz")]) == 2
    assert "choose an array with --array; it holds docs, queries" in capfd.readouterr().err


def test_append_takes_options_that_agree(database, folder):
    more = str(folder / "more.npy")
    np.save(more, vectors(3, seed=5))
    arguments = ["--append", "--metric", "cosine", "--m", "16", "--ef-construction", "200"]
    assert main(["build", str(database), more, *arguments]) == 0


@pytest.mark.parametrize("dtype", ["strings", "floats"])
def test_eval_takes_qrels_of_strings_and_of_numbers(folder, dtype, capfd):
    rows = vectors(20)
    if dtype == "strings":
        write_lines(folder / "names.jsonl", [f"d{number}" for number in range(20)])
        names = ["--ids", str(folder / "names.jsonl")]
        qrels = np.array([[number, f"d{number}", grade] for number in range(5) for grade in (1, 0)])
    else:
        names, qrels = [], np.array([[number, number, 0.5] for number in range(5)])
    assert main(["build", str(folder / "e.rvdb"), str(folder / "vectors.npy"), *names]) == 0
    np.savez(folder / "judged.npz", queries=rows[:5], qrels=qrels)
    arguments = ["eval", str(folder / "e.rvdb"), str(folder / "judged.npz"), "--json"]
    capfd.readouterr()
    assert main(arguments) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["queries"] == 5 and found["before"]["mrr@10"] == 1 and found["learned"] is False
    for wrong, words in ((["x", "d1", "1"], "row 0 of qrels: the query"), (["0", "d1", "much"], "the grade"),
                         (["5", "d1", "1"], "from 0 to 4")):  # fmt: skip
        np.savez(folder / "judged.npz", queries=rows[:5], qrels=np.array([wrong]))
        assert main(arguments) == 2
        complaint = capfd.readouterr().err
        assert words in complaint and len(complaint.splitlines()) == 1


def test_a_fit_that_promoted_nothing_is_not_called_learned(folder, database, capfd):
    def answer(*arguments):
        capfd.readouterr()
        assert main([*map(str, arguments), "--json"]) == 0
        return json.loads(capfd.readouterr().out)

    rng = np.random.default_rng(0)
    log = [{"query": row.tolist(), "clicked": [f"doc{rng.integers(20)}"]} for row in vectors(60, seed=3)]
    assert answer("record", database, write_lines(folder / "log.jsonl", log))["recorded"] == 60
    assert answer("learn", database)["promoted"] is False
    held = [{"query": row.tolist(), "relevant": ["doc3"]} for row in vectors(5, seed=8)]
    judged = answer("eval", database, write_lines(folder / "held.jsonl", held))
    assert judged["learned"] is False and judged["before"] == judged["after"]


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
