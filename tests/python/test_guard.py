"""What the guard of `SearchLearner` lets in: logs without signal, repetitions, strangers' queries, claims."""

from __future__ import annotations

import numpy as np
import pytest
import ruvector_gnn as rg

DIM = 24
DOCS = 300


def _world(seed: int = 0) -> tuple[rg.HNSWIndex, np.ndarray]:
    """Documents, and what the queries for each are drawn around: off by the same turn for all."""
    rng = np.random.default_rng(seed)
    docs = rng.normal(size=(DOCS, DIM))
    turned = docs + 0.9 * np.roll(docs, DIM // 2, axis=1)
    index = rg.HNSWIndex(DIM)
    index.add(docs)
    return index, turned


def _log(turned: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    clicked = rng.integers(DOCS, size=count)
    return turned[clicked] + 0.5 * rng.normal(size=(count, DIM)), clicked


def _fit(
    index: rg.HNSWIndex, queries: np.ndarray, clicked: np.ndarray
) -> tuple[rg.SearchLearner, rg.LearningReport]:
    learner = rg.SearchLearner(index).fit(queries, [[row] for row in clicked])
    report = learner.report
    assert report is not None
    return learner, report


def _moved(queries: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Directions, moved by noise of this length."""
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    noise = rng.normal(size=units.shape)
    return units + length * noise / np.linalg.norm(noise, axis=1, keepdims=True)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_a_log_without_signal_whose_queries_repeat_is_refused(noise: float) -> None:
    index, turned = _world()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        queries, clicked = _log(turned, 60, rng)
        asked = np.concatenate([_moved(queries, noise, rng) for _ in range(3)])
        _, report = _fit(index, asked, np.tile(rng.permutation(clicked), 3))
        assert not report.promoted and report.gain == 0 and report.refused
        assert report.queries == (60 if noise == 0 else 180)
        assert report.held_back <= 180


@pytest.mark.parametrize("seed", [2, 6])
def test_repetitions_do_not_make_chance_clicks_agree_with_the_plain_ranking(seed: int) -> None:
    """Eight moved copies of a question hit its permuted click together, or none does."""
    index, turned = _world()
    rng = np.random.default_rng(seed)
    queries, clicked = _log(turned, 60, rng)
    asked = np.concatenate([_moved(queries, 0.3, rng) for _ in range(8)])
    _, report = _fit(index, asked, np.tile(rng.permutation(clicked), 8))
    assert not report.promoted and abs(report.agreement) < 4


def test_queries_that_are_all_alike_are_still_learned_from() -> None:
    """As those of encoders whose vectors share a direction."""
    rng = np.random.default_rng(5)
    docs, offset = rng.normal(size=(DOCS, DIM)), 3.6 * rng.normal(size=DIM)
    index = rg.HNSWIndex(DIM)
    index.add(docs + offset)
    turned = docs + 2 * np.roll(docs, DIM // 2, axis=1) + 1.5 * offset
    asked, clicked = _log(turned, 500, rng)
    units = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    assert 0.8 < np.median(units @ units.T) < 0.9
    learner, report = _fit(index, asked, clicked)
    future, wanted = _log(turned, 200, rng)
    relevant = [[row] for row in wanted]
    before, after = (learner.evaluate(future, relevant, learned)["ndcg@10"] for learned in (False, True))
    assert report.promoted and after > before + 0.1, (report, before, after)


def test_of_a_long_log_of_repeated_questions_most_teach() -> None:
    """Past 1,600 queries a part judges: its questions are kept back whole, and no more than half of all."""
    index, turned = _world()
    rng = np.random.default_rng(4)
    for questions, times in ((600, 3), (50, 36)):
        queries, clicked = _log(turned, questions, rng)
        asked = np.concatenate([_moved(queries, 0.1, rng) for _ in range(times)])
        _, report = _fit(index, asked, np.tile(clicked, times))
        assert report.queries == questions * times and 20 < report.held_back <= questions / 2
        # 25 questions say too little of 25 others.
        assert report.promoted == (questions == 600), report


def test_one_question_asked_ten_thousand_times_is_one_past_query() -> None:
    index, turned = _world()
    rng = np.random.default_rng(1)
    queries, clicked = _log(turned, 100, rng)
    bot = np.repeat(queries[:1], 10_000, axis=0)
    log = np.concatenate([queries, bot]), np.concatenate([clicked, np.repeat(clicked[:1], 10_000)])
    learner, report = _fit(index, *log)
    alone, without = _fit(index, queries, clicked)
    assert report == without
    future = _log(turned, 20, rng)[0]
    assert (learner.search(future).rows == alone.search(future).rows).all()


def test_too_few_different_questions_judge_nothing() -> None:
    index, turned = _world()
    rng = np.random.default_rng(2)
    queries, clicked = _log(turned, 6, rng)
    _, report = _fit(index, np.tile(queries, (50, 1)), np.tile(clicked, 50))
    assert (report.queries, report.promoted) == (6, False)
    assert "too few" in report.refused


def test_queries_of_another_encoder_are_still_learned_from() -> None:
    index, turned = _world()
    rng = np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
    queries, clicked = _log(turned @ turn, 400, rng)
    learner, report = _fit(index, queries, clicked)
    assert report.promoted and report.agreement < 4
    future, wanted = _log(turned @ turn, 200, rng)
    relevant = [[row] for row in wanted]
    before, after = (learner.evaluate(future, relevant, learned)["ndcg@10"] for learned in (False, True))
    assert after > before + 0.2


def test_what_is_claimed_holds_for_new_questions() -> None:
    index, turned = _world()
    off = []
    for seed in range(2):
        rng = np.random.default_rng(10 + seed)
        queries, clicked = _log(turned, 400, rng)
        again = rng.integers(400, size=150)
        asked = np.concatenate([queries, _moved(queries[again], 0.1, rng)])
        learner, report = _fit(index, asked, np.concatenate([clicked, clicked[again]]))
        assert report.promoted and report.refused == ""
        assert report.familiar_queries > 150
        future, wanted = _log(turned, 400, rng)
        relevant = [[row] for row in wanted]
        plain, learned = (learner.evaluate(future, relevant, order)["ndcg@10"] for order in (False, True))
        off.append(report.gain - (learned - plain))
        assert abs(off[-1]) < 4 * report.standard_error
    assert abs(np.mean(off)) < 0.03


def test_a_report_says_in_sentences_what_happened() -> None:
    index, turned = _world()
    rng = np.random.default_rng(4)
    queries, clicked = _log(turned, 300, rng)
    _, report = _fit(index, np.tile(queries, (2, 1)), np.tile(clicked, 2))
    words = str(report)
    assert report.chosen in words and f"gain {report.gain:+.4f}" in words and "out of 300 past ones" in words
    assert report.interval[0] < report.gain < report.interval[1]
    assert report.after == report.before + report.gain
    assert (report.familiar_gain is None) == (report.familiar_queries == 0)
    assert set(report.tried) >= {"plain", "memory", "centroid", "adapter", "sum+memory"}
    _, refused = _fit(index, queries, rng.permutation(clicked))
    assert refused["gain"] == refused.gain
    with pytest.raises(KeyError):
        refused["families"]
    assert refused.refused in str(refused) and "nothing was promoted" in str(refused)
    assert (refused.gain, refused.interval, refused.after) == (0, (0, 0), refused.before)
