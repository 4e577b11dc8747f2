"""The demo's data is honest: documents can't know their docstrings, and the measures are what they say."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruvector_gnn import ConfigError
from ruvector_gnn.demo.corpus import sentences, standard_library
from ruvector_gnn.demo.embed import BUCKETS, Embedder, words
from ruvector_gnn.demo.measure import interval, per_query

JSON_SOURCES = Path(json.__file__).parent


@pytest.fixture
def source(tmp_path):
    (tmp_path / "shop.py").write_text(
        'class Cart:\n'
        '    def add_item(self, item, *, count=1):\n'
        '        """Zyxword puts an item in. It may be full."""\n'
        '        label = "zyxword"\n'
        '        def inner():\n'
        '            """Inner quuxword sentence here."""\n'
        '        self.total += price(item) * count\n'
        '    def bare(self): pass\n'
        'async def pay(cart):\n'
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
        "latin.café", "shop.Cart.add_item", "shop.Cart.add_item.inner", "shop.pay",
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
    texts = [document.text for document in standard_library(JSON_SOURCES.parent / "email").documents]
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
