"""The demo's data is honest: documents can't know their docstrings, and the measures are what they say."""

import ast
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruvector_gnn import ConfigError
from ruvector_gnn.cli import main
from ruvector_gnn.demo import plot
from ruvector_gnn.demo.corpus import sentences, standard_library
from ruvector_gnn.demo.embed import BUCKETS, Embedder, words
from ruvector_gnn.demo.experiment import PAST_SHARE, Split, run
from ruvector_gnn.demo.measure import METRICS, interval, per_query
from ruvector_gnn.demo.report import as_json, as_text

JSON_SOURCES = Path(json.__file__).parent
EMAIL_SOURCES = JSON_SOURCES.parent / "email"


@pytest.fixture
def source(tmp_path):
    (tmp_path / "shop.py").write_text(
        "class Cart:\n"
        "    def add_item(self, item, *, count=1):\n"
        '        """Zyxword puts an item in. It may be full."""\n'
        '        label = "zyxword"\n'
        "        def inner():\n"
        '            """Inner quuxword sentence here."""\n'
        "        self.total += price(item) * count\n"
        "    def bare(self): pass\n"
        "async def pay(cart):\n"
        '    "Zyxword puts an item in."\n'
    )
    (tmp_path / "broken.py").write_text("def broken(:\n")
    latin = b"# -*- coding: latin-1 -*-\ndef caf\xe9():\n    'Return the drink we want.'\n"
    (tmp_path / "latin.py").write_bytes(latin)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "case.py").write_text("def test():\n    'Return what is left out.'\n")
    return tmp_path


def test_documents_are_names_arguments_and_identifiers(source):
    corpus = standard_library(source)
    assert [document.name for document in corpus.documents] == [
        "latin.café",
        "shop.Cart.add_item",
        "shop.Cart.add_item.inner",
        "shop.pay",
    ]
    assert sorted(corpus.documents[1].text.split()) == sorted(
        ["shop.Cart.add_item", "self", "item", "count", "label", "total", "self", "price", "item", "count"]
    )


def test_shared_sentences_are_one_query_with_all_answers(source):
    corpus = standard_library(source)
    assert dict(zip(corpus.queries, corpus.relevant, strict=True)) == {
        "Return the drink we want.": [0],
        "Zyxword puts an item in.": [1, 3],
        "It may be full.": [1],
        "Inner quuxword sentence here.": [2],
    }


def test_documents_do_not_change_when_docstrings_do(tmp_path):
    class Rewrite(ast.NodeTransformer):
        def visit_Constant(self, node):
            return ast.Constant("Leaked sentinel words stand here.") if isinstance(node.value, str) else node

        def visit_JoinedStr(self, node):
            return node

    for path in JSON_SOURCES.glob("*.py"):
        tree = Rewrite().visit(ast.parse(path.read_text(encoding="utf-8")))
        (tmp_path / path.name).write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    rewritten, original = standard_library(tmp_path), standard_library(JSON_SOURCES)
    assert rewritten.documents == original.documents
    assert rewritten.queries == ["Leaked sentinel words stand here."] != original.queries
    assert not any("sentinel" in document.text for document in rewritten.documents)


def test_the_library_is_parsed_the_same_way_twice():
    assert standard_library(JSON_SOURCES) == standard_library(JSON_SOURCES)


def test_no_sources_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="no Python sources"):
        standard_library(tmp_path)


def test_sentences_leave_out_examples_and_fragments():
    text = "Return the sum, e.g. of two. Then stop\nit all!  See it.\n\n>>> f(1)\n'A result'\n\nAll is done"
    assert sentences(text) == ["Return the sum, e.g. of two.", "Then stop it all!", "All is done"]
    malformed = "Return a bad example.\n\n  >>> print(one)\n of two"
    assert sentences(malformed) == ["Return a bad example.", ">>> print(one) of two"]


@given(st.text())
def test_words_are_lower_case_and_never_empty(text):
    assert all(word and word == word.lower() for word in words(text))


def test_embedding_is_deterministic_and_unit_length():
    texts = [document.text for document in standard_library(JSON_SOURCES).documents]
    first, second = (Embedder.fit(texts, dim=8, seed=3) for _ in range(2))
    assert first.axes.shape == (BUCKETS, 8)
    np.testing.assert_array_equal(first(texts), second(texts))
    vectors = first([*texts, "", "qqqqzzzz"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors.dtype == np.float32


def test_embedding_spans_what_an_exact_svd_spans():
    texts = [document.text for document in standard_library(EMAIL_SOURCES).documents]
    embedder = Embedder.fit(texts, dim=16)
    from ruvector_gnn.demo import embed

    matrix = embed._weighted(embed._counts(texts), embedder.idf).toarray()
    exact = np.linalg.svd(matrix, full_matrices=False)[1][:16]
    kept = np.linalg.norm(matrix @ embedder.axes)
    assert kept == pytest.approx(np.linalg.norm(exact), rel=5e-3)
    np.testing.assert_allclose(embedder.axes.T @ embedder.axes, np.eye(16), atol=1e-4)


@pytest.mark.parametrize("dim", [0, 3])
def test_embedding_refuses_impossible_dimensions(dim):
    with pytest.raises(ConfigError, match="dim: got"):
        Embedder.fit(["a b", "c d", "e f"], dim=dim)


def test_measures_by_hand():
    ranking = np.full((3, 100), -1)
    ranking[0, :3] = [5, 6, 7]  # the answers are 6 and 9
    ranking[1, 49] = 2  # the answer is found, but beyond ten
    quality = per_query(ranking, [[6, 9], [2], [1]])
    ideal = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(quality["ndcg@10"], [1 / np.log2(3) / ideal, 0, 0])
    np.testing.assert_allclose(quality["mrr@10"], [0.5, 0, 0])
    np.testing.assert_allclose(quality["recall@10"], [0.5, 0, 0])
    np.testing.assert_allclose(quality["recall@100"], [0.5, 1, 0])


def test_interval_widens_when_queries_depend_on_each_other():
    values = np.repeat(np.random.default_rng(0).random(50), 4)
    apart = interval(values, np.arange(200))
    together = interval(values, np.repeat(np.arange(50), 4))
    assert together.mean == apart.mean
    assert together.half == pytest.approx(2 * apart.half)


def test_the_split_knows_which_documents_were_never_clicked():
    relevant = [[0], [0], [1], [2], [3], [1, 4], [5], [6], [7], [8]]
    split = Split.draw(relevant, seed=1)
    assert len(split.past) == round(PAST_SHARE * 10)
    assert sorted([*split.past, *split.future]) == list(range(10))
    clicked = {row for query in split.past for row in relevant[query]}
    assert split.cold.tolist() == [not clicked & set(relevant[query]) for query in split.future]


@pytest.fixture(scope="module")
def outcome():
    return run(standard_library(EMAIL_SOURCES))


def test_the_report_has_what_it_promises(outcome):
    found = json.loads(json.dumps(as_json(outcome), allow_nan=False))
    for table in (found, found["cold"], found["warm"]):
        for when in ("before", "after"):
            assert set(table[when]) == set(METRICS)
            assert all(0 <= value <= 1 for value in table[when].values())
    assert found["past_queries"] + found["future_queries"] == len(outcome.corpus.queries)
    cold, total = found["cold_queries"], found["future_queries"]
    for when in ("before", "after"):
        mixed = cold * found["cold"][when]["mrr@10"] + (total - cold) * found["warm"][when]["mrr@10"]
        assert mixed / total == pytest.approx(found[when]["mrr@10"])
    sizes = sorted(outcome.curve)
    assert sizes[0] == 0 and sizes[-1] == found["past_queries"]
    text = as_text(outcome)
    assert (
        "documents that never were" in text and "before" in text and max(map(len, text.splitlines())) <= 120
    )


def test_the_plot_is_a_png(outcome, tmp_path):
    pytest.importorskip("matplotlib")
    plot.draw(outcome, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_plot_is_skipped_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(plot, "available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--source", str(EMAIL_SOURCES), "--json"]) == 0
    captured = capsys.readouterr()
    assert set(json.loads(captured.out)) >= {"before", "after", "cold", "warm", "seconds"}
    assert "ruvector_gnn[plot]" in captured.err.splitlines()[-1] and not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"ruvector_gnn\[plot\]"):
        plot.draw(None, tmp_path / "none.png")


@pytest.mark.long
def test_the_whole_demo_learns_in_time_and_memory(tmp_path):
    command = [sys.executable, "-m", "ruvector_gnn", "demo", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1 and found["seconds"] < 60
    kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert (kib if sys.platform == "linux" else kib / 1024) < 1_000_000
    for table in (found, found["cold"], found["warm"]):
        for name in METRICS:
            assert table["after"][name] > table["before"][name], name
    assert found["after"]["ndcg@10"] > 1.2 * found["before"]["ndcg@10"]
    if plot.available():
        assert (tmp_path / found["plot"]).read_bytes().startswith(b"\x89PNG")
