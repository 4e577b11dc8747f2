"""The learner from Python: contract, guard, files; with `-m long` also the real sets beside the checkout."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import learning
import numpy as np
import pytest
import ruvector_gnn as rg
import scipy.sparse

DIM = 16


def world(queries: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Documents, queries turned away from them by a fixed linear map, and what each query looks for."""
    docs = np.random.default_rng(1).standard_normal((200, DIM)).astype(np.float32)
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, len(docs), queries)
    asked = 0.6 * docs[wanted] + np.roll(docs[wanted], DIM // 2, axis=1)
    asked += 0.3 * rng.standard_normal(asked.shape)
    return docs, asked.astype(np.float32), [np.array([row]) for row in wanted]


def build(docs: np.ndarray, metric: str = "cosine") -> rg.HNSWIndex:
    index = rg.HNSWIndex(docs.shape[1], metric=metric)
    index.add(docs)
    return index


@pytest.fixture(scope="module")
def trained() -> rg.SearchLearner:
    docs, queries, relevant = world(600, 2)
    return rg.SearchLearner(build(docs)).fit(queries, relevant)


def test_untrained_ranks_as_the_index() -> None:
    docs, queries, _ = world(20, 2)
    for metric in ("cosine", "l2", "ip"):
        index = build(docs, metric)
        learner = rg.SearchLearner(index)
        hits, ranking = index.search(queries, k=7), learner.search(queries, k=7)
        np.testing.assert_array_equal(ranking.rows, hits.rows)
        expected = -hits.distances if metric == "l2" else 1 - hits.distances
        # Distances are rounded, scores come from before.
        np.testing.assert_allclose(ranking.scores, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        assert learner.report is None


def test_learns_and_reports(trained: rg.SearchLearner) -> None:
    _, queries, relevant = world(200, 3)
    before, after = trained.evaluate(queries, relevant, learned=False), trained.evaluate(queries, relevant)
    assert after["ndcg@10"] > before["ndcg@10"] + 0.05
    assert set(after) >= {"ndcg@10", "mrr@10", "recall@10", "recall@100"}
    report = trained.report
    assert report is not None and report.promoted
    assert report.after > report.before and report.interval[0] > 0
    assert report.tried["plain"]["gain"] == 0
    assert "memory" in report.tried and "adapter" in report.tried


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_learns_under_other_metrics(metric: str) -> None:
    docs, queries, relevant = world(600, 2)
    learner = rg.SearchLearner(build(docs, metric)).fit(queries, relevant)
    _, queries, relevant = world(200, 3)
    before, after = learner.evaluate(queries, relevant, learned=False), learner.evaluate(queries, relevant)
    assert after["ndcg@10"] > before["ndcg@10"] + 0.05


def test_shuffled_clicks_change_nothing() -> None:
    docs, queries, relevant = world(600, 4)
    order = np.random.default_rng(5).permutation(len(relevant))
    learner = rg.SearchLearner(build(docs)).fit(queries, [relevant[i] for i in order])
    report = learner.report
    assert report is not None and not report.promoted and report.gain == 0
    np.testing.assert_array_equal(
        learner.search(queries).rows, learner.search(queries, learned=False).rows
    )


def forms_of(relevant: list[np.ndarray], rows: int) -> dict[str, Any]:
    """The same judgements, with grade 1, in every form."""
    count, wanted = len(relevant), np.concatenate(relevant)
    ones = np.ones(count)
    return {
        "rows": relevant,
        "table": wanted.reshape(-1, 1),
        "grades": [{int(row): 1.0} for row in wanted],
        "dict": dict(enumerate(relevant)),
        "qrels": {query: {int(row): 1, 0 if row else 1: 0} for query, row in enumerate(wanted)},
        "sparse": scipy.sparse.csr_matrix((ones, (range(count), wanted)), shape=(count, rows)),
        "sparse array": scipy.sparse.coo_array((ones, (range(count), wanted)), shape=(count, rows)),
        "triples": rg.Triples(range(count), wanted, ones),
    }


def test_all_forms_of_relevant_say_the_same() -> None:
    docs, queries, relevant = world(100, 6)
    learner = rg.SearchLearner(build(docs))
    expected = learner.evaluate(queries, relevant)
    assert 0 < expected["ndcg@10"] < 1 and expected["queries"] == 100
    order = learner.search(queries, k=100).rows
    for form, given in forms_of(relevant, len(docs)).items():
        assert learner.evaluate(queries, given) == expected, form
        assert rg.metrics.recall_at_k(order, given, k=100) == pytest.approx(expected["recall@100"]), form


@pytest.mark.parametrize("form", ["dict", "triples"])
def test_other_forms_of_relevant_learn_the_same(form: str) -> None:
    docs, queries, relevant = world(60, 6)
    index = build(docs)
    found = [
        rg.SearchLearner(index).fit(queries, given).search(queries)
        for given in (relevant, forms_of(relevant, len(docs))[form])
    ]
    np.testing.assert_array_equal(found[0].scores, found[1].scores)


def test_three_rows_a_query_are_not_triples() -> None:
    docs, _, _ = world(1, 6)
    learner = rg.SearchLearner(build(docs))
    table = np.array([[0, 5, 7], [1, 6, 8], [2, 9, 3]])
    by_row = learner.evaluate(docs[:3], table)
    assert by_row == learner.evaluate(docs[:3], [tuple(rows) for rows in table.tolist()])
    assert by_row == learner.evaluate(docs[:3], [[0, 5, 7], [1, 6, 8], [2, 9, 3]])
    assert by_row["mrr@10"] == 1 and by_row != learner.evaluate(docs[:3], rg.Triples(*table.T))


@pytest.mark.parametrize(
    ("relevant", "error", "words"),
    [
        ({"q1": [0]}, rg.ShapeError, "keyed by query number, got the key 'q1'"),
        ({True: [0]}, rg.ShapeError, "got the key True"),
        ({2: [0]}, rg.RowError, "got query 2, expected 0 to 1"),
        ({-1: [0]}, rg.RowError, "got query -1"),
        ({0: {0: -1.0}}, rg.ShapeError, "row 0 of query 0 must have a finite grade from 0 up, got -1"),
        ({0: {0: float("nan")}}, rg.ShapeError, "got nan"),
        ({0: {0.5: 1.0}}, rg.ShapeError, r"relevant\[0\] must be an array of integers"),
        ({1: [[0]]}, rg.ShapeError, r"relevant\[1\] must have one dimension"),
        ([[0], [200]], rg.RowError, "row 200 of query 1 is not in the index"),
        ([[0], [-1]], rg.RowError, "row -1 of query 1 is not in the index"),
        ([[0], [3]], rg.RowError, "row 3 of query 1 is not in the index"),
        ([[0], ["a"]], rg.ShapeError, r"relevant\[1\] must be an array of integers"),
        ([(0, 1, 1.0)], rg.ShapeError, r"rg\.Triples\(query, row, grade\)"),
        ([(0, 1, 1.0)] * 2, rg.ShapeError, "integers"),
        (np.eye(2, 200, dtype=int), rg.ShapeError, "dense matrix"),
        (scipy.sparse.eye(3, 200), rg.ShapeError, "2 rows, one per query"),
        ("ab", rg.ShapeError, "got str"),
        (5, rg.ShapeError, "got int"),
        (iter([[0], [1]]), rg.ShapeError, "got list_iterator"),
        (rg.Triples([2], [0], [1]), rg.RowError, "got query 2"),
        (rg.Triples([0], [0], [0]), rg.ConfigError, "no query has a relevant row"),
    ],
)
def test_what_relevant_can_not_mean_is_refused(relevant: object, error: type[Exception], words: str) -> None:
    index = build(world(1, 1)[0])
    index.remove([3])
    with pytest.raises(error, match=words):
        rg.SearchLearner(index).evaluate(np.ones((2, DIM)), relevant)


def test_triples_are_three_arrays_of_one_length() -> None:
    triples = rg.Triples([0, 1], np.array([4, 5], dtype=np.int32), [2, 0.5])
    assert len(triples) == 2 and triples.grade.dtype == np.float32 and triples.row.dtype == np.int64
    copy = pickle.loads(pickle.dumps(triples))
    np.testing.assert_array_equal(copy.row, triples.row)
    for wrong in (([0], [1, 2], [1]), ([[0]], [[1]], [[1]]), ([0.0], [1], [1]), ([0], [1], ["a"]), (0, 1, 1)):
        with pytest.raises(rg.ShapeError):
            rg.Triples(*wrong)


def test_an_explanation_adds_up(trained: rg.SearchLearner) -> None:
    _, queries, _ = world(5, 8)
    ranking = trained.search(queries, k=10)
    for query, rows, scores in zip(queries, ranking.rows, ranking.scores, strict=True):
        for row, score in zip(rows, scores, strict=True):
            parts = trained.explain(query, int(row))
            weighed = [weight * parts[name] for name, weight in parts["weights"].items() if weight]
            assert parts["score"] == pytest.approx(sum(weighed) + parts["bonus"], rel=1e-5, abs=1e-6)
            assert parts["score"] == pytest.approx(score, rel=1e-5, abs=1e-6)
            assert parts["votes"] == pytest.approx(sum(vote for _, _, vote in parts["voters"]), rel=1e-5)
    assert sum(weight != 0 for weight in parts["weights"].values()) > 1


def test_never_clicked_and_added_rows_are_served(trained: rg.SearchLearner) -> None:
    docs, queries, relevant = world(600, 2)
    learner = rg.SearchLearner(build(docs)).fit(queries, relevant)
    index = learner.index
    _, queries, _ = world(30, 7)
    rows = index.add(docs[:3])
    ranking = learner.search(queries, k=250)
    assert set(rows) <= set(ranking.rows[0].tolist())
    assert learner.explain(queries[0], int(rows[0]))["clicks"] == 0
    assert (learner.search(queries, k=5, filter=rows).rows >= 200).sum() == 3 * len(queries)


def test_removed_rows_are_not_served_and_updated_rows_are_ranked_by_what_they_are() -> None:
    docs, queries, relevant = world(600, 2)
    learner = rg.SearchLearner(build(docs)).fit(queries, relevant)
    index = learner.index
    gone = np.arange(0, 200, 2)
    index.remove(gone)
    ranking = learner.search(queries[:30], k=150)
    assert all(set(rows[rows >= 0]) == set(range(1, 200, 2)) for rows in ranking.rows)
    before = learner.explain(queries[0], 1)
    index.update([1], [docs[relevant[0][0]]])
    assert learner.explain(queries[0], 1)["plain"] != before["plain"]
    with pytest.raises(rg.RowError, match="removed"):
        learner.explain(queries[0], 0)
    learner.fit(queries, relevant)  # clicks on removed rows are left out
    assert not np.isin(learner.search(queries, k=20).rows, gone).any()


def test_a_saved_learner_follows_what_was_removed_and_updated_since(tmp_path: Path) -> None:
    docs, queries, relevant = world(600, 2)
    learner = rg.SearchLearner(build(docs)).fit(queries, relevant)
    index, path = learner.index, tmp_path / "learner"
    learner.save(path)
    index.remove(np.arange(0, 200, 2))
    index.update([1, 3], docs[[2, 4]])
    index.add(docs[:5])
    for copy in (rg.SearchLearner.load(path, index), pickle.loads(pickle.dumps(learner))):
        np.testing.assert_array_equal(copy.search(queries).rows, learner.search(queries).rows)
    index.update(index.rows(), docs[: len(index)])  # others than those that it learned from
    with pytest.raises(rg.ConfigError, match="was trained on"):
        rg.SearchLearner.load(path, index)
    copy = pickle.loads(pickle.dumps(learner))
    np.testing.assert_array_equal(copy.search(queries).rows, learner.search(queries).rows)
    learner.save(path)
    rg.SearchLearner.load(path, index)


def test_save_load_and_refusals(trained: rg.SearchLearner, tmp_path: Path) -> None:
    _, queries, _ = world(30, 8)
    path = tmp_path / "learner"
    trained.save(path)
    expected = trained.search(queries)
    loaded = rg.SearchLearner.load(path, trained.index)
    np.testing.assert_array_equal(loaded.search(queries).scores, expected.scores)
    assert loaded.report == trained.report
    for other in (build(queries), build(world(30, 9)[0][::-1])):
        with pytest.raises(rg.ConfigError, match="was trained on"):
            rg.SearchLearner.load(path, other)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(rg.FormatError):
        rg.SearchLearner.load(path, trained.index)


def test_rollback(trained: rg.SearchLearner) -> None:
    docs, queries, relevant = world(60, 9)
    learner = rg.SearchLearner(build(docs)).fit(queries, relevant)
    learner.rollback()
    assert learner.report is None
    with pytest.raises(rg.ConfigError):
        learner.rollback()


def test_callback_stops_and_nothing_changes() -> None:
    docs, queries, relevant = world(100, 10)
    learner = rg.SearchLearner(build(docs))

    def stop(step: int, metrics: object) -> None:
        if step > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.fit(queries, relevant, callback=stop)
    assert learner.report is None


@pytest.mark.parametrize(
    ("queries", "relevant", "error"),
    [
        (np.zeros((2, DIM + 1)), [[0], [1]], rg.ShapeError),
        (np.full((2, DIM), np.nan), [[0], [1]], rg.ShapeError),
        (np.ones((2, DIM)), [[0]], rg.ShapeError),
        (np.ones((2, DIM)), [[0], [0.5]], rg.ShapeError),
        (np.ones((2, DIM)), [[0], [200]], rg.RowError),
        (np.ones((2, DIM)), [[0], [-1]], rg.RowError),
        (np.ones((2, DIM)), rg.Triples([0], [0], [-1.0]), rg.ShapeError),
        (np.ones((2, DIM)), rg.Triples([2], [0], [1.0]), rg.RowError),
        (np.ones((2, DIM)), [[], []], rg.ConfigError),
    ],
)
def test_bad_arguments(queries: np.ndarray, relevant: object, error: type[Exception]) -> None:
    learner = rg.SearchLearner(build(world(1, 1)[0]))
    with pytest.raises(error):
        learner.fit(queries, relevant)
    assert learner.report is None
    with pytest.raises(rg.ConfigError):
        learner.search(np.ones((1, DIM)), k=0)
    with pytest.raises(rg.ConfigError):
        rg.SearchLearner(learner.index, encoder="dreams")


def test_it_pickles_with_its_index(trained: rg.SearchLearner) -> None:
    _, queries, _ = world(5, 11)
    copy = pickle.loads(pickle.dumps(trained))
    np.testing.assert_array_equal(copy.search(queries).rows, trained.search(queries).rows)


def test_a_click_log_is_fitted_to_the_grades_that_it_gives(tmp_path: Path) -> None:
    docs, queries, relevant = world(200, 6)
    index = build(docs)
    shown = index.search(queries, k=20).rows
    log = rg.clicks.simulate(queries, shown, relevant, impressions=2, explore=0.5)
    found = rg.clicks.judgements(log)
    learner = rg.SearchLearner(index).fit(log)
    by_hand = rg.SearchLearner(index).fit(found.queries, found.teach, judged=found.judge)
    np.testing.assert_array_equal(learner.search(queries).scores, by_hand.search(queries).scores)
    report, expected = learner.report, by_hand.report
    assert report is not None and expected is not None
    assert report.clicks == "position-based model, judged on shuffled answers"
    assert {**report.as_dict(), "clicks": None} == expected.as_dict()
    learner.fit(queries, relevant)
    assert learner.report is not None and learner.report.clicks is None
    learner.rollback()
    assert learner.report == report
    copy = pickle.loads(pickle.dumps(learner))
    assert copy.report == expected


def test_only_judged_queries_judge() -> None:
    """Clicks that say nothing may teach what clicks that say something judge."""
    docs, queries, relevant = world(600, 2)
    index, order = build(docs), np.random.default_rng(5).permutation(600)
    shuffled = [relevant[i] for i in order]
    half = {query: relevant[query] for query in range(0, 600, 2)}
    taught = rg.SearchLearner(index).fit(queries, relevant, judged=half).report
    assert taught is not None and taught.promoted
    refused = rg.SearchLearner(index).fit(queries, relevant, judged=dict(enumerate(shuffled))).report
    assert refused is not None and not refused.promoted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "relevant is missing"),
        ({"queries": "log", "relevant": [[0]]}, "must be left out"),
        ({"queries": "log", "judged": [[0]]}, "must be left out"),
        ({"queries": "empty log"}, "the log has no click"),
    ],
)
def test_what_a_click_log_stands_beside(arguments: dict[str, Any], words: str) -> None:
    docs, queries, relevant = world(2, 1)
    log = rg.ClickLog(queries, None, relevant)
    given = {"queries": queries, **arguments}
    given["queries"] = {"log": log, "empty log": log[:0]}.get(arguments.get("queries", ""), queries)
    with pytest.raises(rg.ConfigError, match=words):
        rg.SearchLearner(build(docs)).fit(**given)


@pytest.mark.parametrize(
    ("judged", "error", "words"),
    [
        ([[0]], rg.ShapeError, "judged must have one row array for each of 2 queries, got 1"),
        ({0: {1: np.inf}}, rg.ShapeError, "judged: row 1 of query 0"),
        ({2: [0]}, rg.RowError, "judged: got query 2"),
        ([[0], [0.5]], rg.ShapeError, r"judged\[1\] must be an array of integers"),
        ([[0], [200]], rg.RowError, "200"),
    ],
)
def test_bad_grades_to_judge_by(judged: object, error: type[Exception], words: str) -> None:
    docs, queries, relevant = world(2, 1)
    learner = rg.SearchLearner(build(docs))
    with pytest.raises(error, match=words):
        learner.fit(queries, relevant, judged=judged)
    assert learner.report is None


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "target"), [("feedbackqa", 0.688), ("worldtree", 0.588), ("cranfield", 0.553)]
)
def test_real_sets(name: str, target: float) -> None:
    data = learning.load(name)
    if data is None:
        pytest.skip("the data sets are not beside the checkout")
    runs = [learning.run(data, seed) for seed in range(3)]
    assert np.mean([run["after"] for run in runs]) >= target
    if name == "feedbackqa":
        before, after = (np.mean([run[key] for run in runs]) for key in ("cold_before", "cold_after"))
        assert after >= 1.05 * before
    shuffled = learning.run(data, 0, shuffled=True)
    assert abs(shuffled["after"] - shuffled["before"]) < 0.005
