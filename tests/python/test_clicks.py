"""Click logs: the container, distinct queries, simulated users, the position-based model, grades."""

from __future__ import annotations

import doctest
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st
from ruvector_gnn.clicks import PositionBiasedModel, judgements, simulate

DIM = 8
PLACES = np.array([2, 5, 10, 20])


def queries_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def small_log() -> rg.ClickLog:
    return rg.ClickLog(
        queries_of(4),
        shown=[[5, 3, 9], None, [3, -1, 7], []],
        clicked=[[9, 5, 9], [4], [7, 100], []],
        times=[1.5, 2, 3, 2.5],
        sessions=["a", None, 7, "b"],
        explored=[False, False, True, False],
    )


def fields_of(log: rg.ClickLog) -> tuple[Any, ...]:
    lists = [None if rows is None else rows.tolist() for rows in log.shown]
    times = None if log.times is None else log.times.tolist()
    clicked = [rows.tolist() for rows in log.clicked]
    return log.queries.tolist(), lists, clicked, times, log.sessions, log.explored.tolist()


# --- the log
def test_a_log_gives_back_what_it_was_given() -> None:
    log = small_log()
    assert len(log) == 4 and log.queries.dtype == np.float32
    assert fields_of(log)[1:] == (
        [[5, 3, 9], None, [3, -1, 7], []],
        [[5, 9], [4], [7, 100], []],
        [1.5, 2, 3, 2.5],
        ("a", None, 7, "b"),
        [False, False, True, False],
    )
    assert repr(log) == "ClickLog(4 impressions, dim=8, 3 with shown, 1 explored)"


def test_optional_fields_are_none_and_rankings_are_taken_as_shown() -> None:
    log = rg.ClickLog(queries_of(2), np.array([[4, 2, -1], [1, 5, 6]]), np.array([[2], [-1]]))
    assert fields_of(log)[1:] == ([[4, 2], [1, 5, 6]], [[2], []], None, None, [False, False])
    assert rg.ClickLog(queries_of(1), None, [[0]]).shown == [None]
    empty = rg.ClickLog(np.empty((0, DIM)), [], [])
    assert len(empty) == len(empty.merged()) == 0 and empty.shown == empty.clicked == []


def test_arrays_are_read_only_and_copies() -> None:
    queries, rows = queries_of(1), np.array([3, 4])
    log = rg.ClickLog(queries, [rows], [rows], times=[1.0])
    queries[:], rows[:] = 0, 0
    assert log.queries.any() and log.clicked[0].tolist() == [3, 4]
    for array in (log.queries, log.times, log.explored, log.clicked[0], log.shown[0], log[:1].queries):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize(
    ("index", "places"),
    [
        (slice(1, None), [1, 2, 3]),
        (slice(None, None, -2), [3, 1]),
        ([2, 0, 2], [2, 0, 2]),
        (np.array([-1]), [3]),
        (np.array([True, False, True, False]), [0, 2]),
        ([], []),
        (1, [1]),
    ],
)
def test_parts_of_a_log(index: Any, places: list[int]) -> None:
    log, part = small_log(), small_log()[index]
    expected = fields_of(log)
    assert fields_of(part) == tuple(type(field)([field[place] for place in places]) for field in expected)
    assert fields_of(pickle.loads(pickle.dumps(part))) == fields_of(part)


def test_iteration_gives_logs_of_one_impression() -> None:
    parts = list(small_log())
    assert [len(part) for part in parts] == [1] * 4
    assert [part.sessions for part in parts] == [("a",), (None,), (7,), ("b",)]


def test_since() -> None:
    assert small_log().since(2.5).times.tolist() == [3, 2.5]
    assert len(small_log().since(10)) == 0
    with pytest.raises(rg.ConfigError, match="no times"):
        rg.ClickLog(queries_of(1), None, [[0]]).since(0)
    with pytest.raises(rg.ConfigError, match="finite number"):
        small_log().since(float("nan"))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"queries": np.ones(8)}, rg.ShapeError, r"queries must be an array of numbers, shape \(n, dim\)"),
        ({"queries": [["a"], ["b"]]}, rg.ShapeError, "queries must be"),
        ({"queries": [[1.0, np.nan], [0, 0]]}, rg.ShapeError, "query 0 holds NaN"),
        ({"shown": [[1]]}, rg.ShapeError, "shown must have one row array for each of 2 queries, got 1"),
        ({"shown": "ab"}, rg.ShapeError, "shown must be a list of row arrays, got str"),
        ({"shown": [[1], [2, 2]]}, rg.RowError, r"shown\[1\]: row 2 stands there twice"),
        ({"shown": [[1], [-2]]}, rg.RowError, r"shown\[1\]: got row -2"),
        ({"shown": [[1.5], []]}, rg.ShapeError, r"shown\[0\] must be an array of integers"),
        ({"clicked": [[1], None]}, rg.ShapeError, r"clicked\[1\] must be an array of rows, got None"),
        ({"clicked": [[[1]], []]}, rg.ShapeError, r"clicked\[0\] must have one dimension"),
        ({"clicked": 5}, rg.ShapeError, "clicked must be a list of row arrays, got int"),
        ({"times": [1]}, rg.ShapeError, r"times must be numbers, shape \(2,\)"),
        ({"times": [1, np.inf]}, rg.ShapeError, r"times\[1\] is NaN or infinite"),
        ({"sessions": ["a"]}, rg.ShapeError, "sessions must have one entry for each of 2"),
        ({"sessions": "ab"}, rg.ShapeError, "sessions must be a sequence"),
        ({"sessions": [1.5, None]}, rg.ConfigError, r"sessions\[0\] must be a string"),
        ({"sessions": [None, True]}, rg.ConfigError, r"sessions\[1\]"),
        ({"sessions": ["\ud800", 1]}, rg.ConfigError, "Unicode"),
        ({"explored": [1, 0]}, rg.ShapeError, "explored must be True or False"),
    ],
)
def test_what_a_log_refuses(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"queries": np.eye(2), "shown": [[1], [2]], "clicked": [[1], []]}
    with pytest.raises(error, match=words):
        rg.ClickLog(**{**arguments, **changes})


def test_what_an_index_refuses() -> None:
    log = small_log()
    for index, error in (
        ([4], rg.RowError),
        ([-5], rg.RowError),
        ([True], rg.ShapeError),
        ([0.5], rg.ShapeError),
    ):
        with pytest.raises(error, match="index"):
            log[index]


rows = st.integers(0, 9) | st.integers(2**40, 2**40 + 3)
impressions = st.lists(
    st.tuples(st.none() | st.lists(rows, unique=True, max_size=5), st.lists(rows, max_size=4), st.booleans()),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(impressions, st.integers(0, 2**32 - 1))
def test_lists_survive_indexing_saving_and_grading(
    drawn: list[tuple[list[int] | None, list[int], bool]], seed: int
) -> None:
    shown, clicked, explored = zip(*drawn, strict=True) if drawn else ((), (), ())
    random = np.random.default_rng(seed)
    queries = queries_of(3)[random.integers(0, 3, len(drawn))]
    log = rg.ClickLog(queries.reshape(-1, DIM), shown, clicked, explored=np.array(explored, dtype=bool))
    assert [None if given is None else list(given) for given in shown] == fields_of(log)[1]
    assert [sorted(set(given)) for given in clicked] == fields_of(log)[2]
    order = random.permutation(len(log))
    assert fields_of(log[order][np.argsort(order)]) == fields_of(log)
    merged = log.merged()
    np.testing.assert_array_equal(merged.queries[merged.entry], log.queries)
    found = judgements(log)
    assert (found.teach.grade > 0).all() and (found.teach.grade <= 1).all() and found.judge is None
    pairs = {(int(merged.entry[i]), row) for i, (_, given, _) in enumerate(drawn) for row in given}
    assert set(zip(found.teach.query.tolist(), found.teach.row.tolist(), strict=True)) <= pairs
    if not any(shown):
        assert found.path == "plain clicks" and len(found.teach) == len(pairs)


def test_saving(tmp_path: Path) -> None:
    for number, log in enumerate((small_log(), small_log()[:0], rg.ClickLog(queries_of(2), None, [[1], []]))):
        path = tmp_path / f"log{number}.clicks"
        log.save(path)
        assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(f"log{number}")] == [
            path.name
        ]
        assert fields_of(rg.ClickLog.load(path)) == fields_of(log)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "log0.clicks")
    path.chmod(0o600)
    small_log()[:1].save(link)
    small_log().save(path)
    assert link.is_symlink() and len(rg.ClickLog.load(tmp_path / "log0.clicks")) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError):
        rg.ClickLog.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        log.save(tmp_path / "nowhere" / "log")
    with pytest.raises(IsADirectoryError):
        log.save(tmp_path)
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_damaged_files_are_refused_or_hold_the_same(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    small_log().save(path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    expected, refused = fields_of(small_log()), 0
    for place in random.choice(len(whole), 300, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            assert fields_of(rg.ClickLog.load(path)) == expected, place  # dates and the like
        except rg.FormatError:
            refused += 1
    assert refused > 150
    for cut in random.choice(len(whole), 50, replace=False):
        path.write_bytes(whole[:cut])
        with pytest.raises(rg.FormatError, match=r"log\.npz: not a click log"):
            rg.ClickLog.load(path)
    np.savez(path, queries=queries_of(2))
    with pytest.raises(rg.FormatError):
        rg.ClickLog.load(path)


def test_hand_made_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    small_log().save(path)
    with np.load(path) as archive:
        fields = dict(archive)
    for change in (
        {"shown_starts": fields["shown_starts"][:-1]},
        {"clicked_starts": np.array([0, 3, 1, 4, 5])},
        {"clicked_rows": fields["clicked_rows"] - 50},
        {"recorded": fields["recorded"][:2]},
        {"sessions": np.frombuffer(b"[1,2", dtype=np.uint8)},
        {"sessions": np.frombuffer(b"[1,2]", dtype=np.uint8)},
        {"queries": np.array([{}], dtype=object)},
        {"format": np.array("another 1")},
    ):
        np.savez(path, **{**fields, **change})
        with pytest.raises(rg.FormatError):
            rg.ClickLog.load(path)


# --- distinct queries
def test_near_queries_are_one() -> None:
    random = np.random.default_rng(3)
    base = random.standard_normal((40, 32)).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    near = base + 0.004 * random.standard_normal((40, 32)) / np.sqrt(32)  # cosine about .99999
    apart = base + 0.05 * random.standard_normal((40, 32)) / np.sqrt(32)  # cosine about .9988
    log = rg.ClickLog(np.concatenate([base, near, 3 * base, apart]), None, [[0]] * 160)
    merged = log.merged()
    np.testing.assert_array_equal(merged.entry, [*range(40), *range(40), *range(40), *range(40, 80)])
    np.testing.assert_array_equal(merged.queries[:40], base)
    assert merged.impressions.tolist() == [3] * 40 + [1] * 40 and len(merged) == 80


def test_chains_of_near_queries_are_one_and_zero_is_only_itself() -> None:
    angles = np.append(0.012 * np.arange(50), 1.0)  # cosine of neighbours .99993, of every second one .9997
    turned = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    order = np.random.default_rng(0).permutation(51)
    merged = rg.ClickLog(turned[order], None, [[0]] * 51).merged()
    assert len(merged) == 2
    zeros = rg.ClickLog([[0.0, 0], [1, 0], [-0.0, 0]], None, [[0]] * 3).merged()
    assert zeros.entry.tolist() == [0, 1, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 120), st.integers(1, 40), st.floats(1e-4, 0.05), st.integers(0, 2**32 - 1))
def test_merging_agrees_with_all_pairs(count: int, dim: int, noise: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, count // 4), dim))
    queries = centres[random.integers(0, len(centres), count)] + noise * random.standard_normal((count, dim))
    queries = queries.astype(np.float32)
    merged = rg.ClickLog(queries, None, [[0]] * count).merged()
    units = queries / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    cosines = units @ units.T
    linked = merged.entry[:, np.newaxis] == merged.entry
    assert linked[cosines >= 0.9999 + 1e-6].all()
    for entry in range(len(merged)):  # each group hangs together
        members = np.flatnonzero(merged.entry == entry)
        near = cosines[np.ix_(members, members)] >= 0.9999 - 1e-6
        reached = np.arange(len(members)) == 0
        for _ in members:
            reached |= near[reached].any(axis=0)
        assert reached.all()
    firsts = np.unique(merged.entry, return_index=True)[1]
    assert (np.diff(firsts) > 0).all()


def test_many_impressions_are_fast() -> None:
    random = np.random.default_rng(0)
    queries = random.standard_normal((20_000, 64)).astype(np.float32).repeat(5, axis=0)
    shown = random.permuted(np.tile(np.arange(40), (100_000, 1)), axis=1)[:, :10]
    begin = time.perf_counter()
    log = rg.ClickLog(queries, list(shown), list(shown[:, :1]), explored=random.random(100_000) < 0.1)
    assert len(log.merged()) == 20_000
    PositionBiasedModel(max_rounds=3).fit(log)
    assert time.perf_counter() - begin < 30  # two or three seconds on a free core


# --- simulated users
def world(count: int, seed: int = 0, depth: int = 20) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Queries, a ranking that is right more often near the top, and the relevant rows."""
    random = np.random.default_rng(seed)
    ranked = np.stack([random.permutation(200)[:depth] for _ in range(count)])
    chance = 0.5 / np.arange(1, depth + 1) ** 0.7
    relevant = [rows[random.random(depth) < chance] for rows in ranked]
    return random.standard_normal((count, DIM)), ranked, relevant


def test_position_users_click_as_often_as_the_model_says() -> None:
    queries, ranked, relevant = world(400)
    log = simulate(queries, ranked, relevant, impressions=10, explore=0.5, seed=1)
    assert len(log) == 4000 and abs(log.explored.mean() - 0.5) < 0.03
    answered = np.stack(log.shown)  # type: ignore[arg-type]
    clicked = np.stack([np.isin(*lists) for lists in zip(answered, log.clicked, strict=True)])
    np.testing.assert_array_equal(answered[~log.explored], ranked.repeat(10, axis=0)[~log.explored])
    shuffled = answered[log.explored]
    np.testing.assert_array_equal(np.sort(shuffled), np.sort(ranked.repeat(10, axis=0)[log.explored]))
    wanted = np.stack([np.isin(rows, found) for rows, found in zip(ranked, relevant, strict=True)])
    rates = {False: wanted.mean(axis=0) * 0.8 + 0.1, True: np.full(20, wanted.mean() * 0.8 + 0.1)}
    for explored, rate in rates.items():
        chosen = np.array(log.explored == explored)
        expected = rate / np.arange(1, 21)
        error = np.sqrt(expected / chosen.sum())
        assert (np.abs(clicked[chosen].mean(axis=0) - expected) < 4.5 * error).all()
    first, second = (simulate(queries, ranked, relevant, seed=5) for _ in range(2))
    assert fields_of(first) == fields_of(second)


def test_examination_as_array_and_function() -> None:
    queries, ranked, relevant = world(300)
    by_array = simulate(queries, ranked, relevant, examination=0.7 ** np.arange(25), seed=1)
    by_function = simulate(queries, ranked, relevant, examination=lambda place: 0.7 ** (place - 1.0), seed=1)
    assert fields_of(by_array) == fields_of(by_function)
    never = simulate(queries, ranked, relevant, examination=np.eye(20)[0])
    assert all(set(rows) <= {order[0]} for rows, order in zip(never.clicked, never.shown, strict=True))


def test_cascade_users_stop_where_they_are_satisfied() -> None:
    queries, ranked, relevant = world(300)
    log = simulate(queries, ranked, relevant, users="cascade", click_rates=(0.8, 0.2), explore=0.2)
    passed = stopped = 0
    for place, (order, clicked) in enumerate(zip(log.shown, log.clicked, strict=True)):
        wanted = np.isin(order, relevant[place // 5])
        hits = np.flatnonzero(np.isin(order, clicked))
        satisfied = hits[wanted[hits]]
        assert len(satisfied) <= 1 and (not len(satisfied) or satisfied[0] == hits[-1])
        end = satisfied[0] if len(satisfied) else len(order) - 1
        passed += int(wanted[: end + 1].sum())
        stopped += len(satisfied)
    assert abs(stopped / passed - 0.8) < 0.03


def test_short_lists_and_depth() -> None:
    ranked = np.array([[4, 5, -1, -1], [6, -1, -1, -1], [1, 2, 3, 9]])
    log = simulate(
        np.eye(3),
        ranked,
        [[4], [6], [9]],
        impressions=50,
        explore=1.0,
        click_rates=(1, 1),
        depth=3,
        examination=np.ones(3),
    )
    assert {tuple(sorted(rows.tolist())) for rows in log.shown} == {(4, 5), (6,), (1, 2, 3)}
    assert all(set(rows) == set(order) for rows, order in zip(log.clicked, log.shown, strict=True))
    assert len(simulate(np.eye(3), ranked, [[4], [6], [9]], impressions=0)) == 0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"ranked": [[1, 2]]}, rg.ShapeError, "ranked must be"),
        ({"relevant": [[1]]}, rg.ShapeError, "2 queries, got 1"),
        ({"impressions": -1}, rg.ConfigError, "impressions must be at least 0"),
        ({"impressions": 1.5}, rg.ConfigError, "impressions must be an integer"),
        ({"depth": 0}, rg.ConfigError, "depth must be at least 1"),
        ({"seed": -1}, rg.ConfigError, "seed"),
        ({"users": "random"}, rg.ConfigError, "users must be"),
        ({"users": "cascade", "examination": [1, 1]}, rg.ConfigError, "examination is a parameter"),
        ({"examination": [1]}, rg.ShapeError, "examination must be at least 2"),
        ({"examination": [1, 2]}, rg.ConfigError, "probabilities"),
        ({"click_rates": (1.5, 0)}, rg.ConfigError, "click_rates"),
        ({"click_rates": 0.5}, rg.ConfigError, "click_rates"),
        ({"explore": 1.5}, rg.ConfigError, "explore"),
    ],
)
def test_what_simulate_refuses(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"queries": np.eye(2), "ranked": [[1, 2], [3, 4]], "relevant": [[1], [3]]}
    with pytest.raises(error, match=words):
        simulate(**{**arguments, **changes})


# --- the model
def test_examination_is_found_from_shuffled_answers() -> None:
    errors, rates = [], []
    for seed in range(5):
        log = simulate(*world(1500, seed), explore=0.1, seed=seed)
        model = PositionBiasedModel().fit(log)
        errors.append(np.abs(model.examination[PLACES - 1] * PLACES - 1))
        rates.append(model.click_rate)
    assert (np.mean(errors, axis=0) < [0.05, 0.06, 0.10, 0.12]).all()
    np.testing.assert_allclose(np.mean(rates, axis=0), (0.9, 0.1), atol=0.02)


def test_posteriors_are_probabilities() -> None:
    """Of the pairs with posterior about p, a share of about p is relevant."""
    queries, ranked, relevant = world(1500)
    log = simulate(queries, ranked, relevant, explore=0.1)
    model = PositionBiasedModel().fit(log)
    found = model.posterior
    assert len(found) == 1500 * 20 and repr(model).startswith("PositionBiasedModel(20 places, click_rate=(0.")
    wanted = {(query, row) for query, rows in enumerate(relevant) for row in rows.tolist()}
    true = np.array([pair in wanted for pair in zip(found.query.tolist(), found.row.tolist(), strict=True)])
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1)):
        inside = (found.grade >= low) & (found.grade <= high)
        assert abs(true[inside].mean() - found.grade[inside].mean()) < 0.06


@pytest.mark.parametrize("explore", [0.0, 0.01])
def test_examination_without_enough_shuffled_answers(explore: float) -> None:
    model = PositionBiasedModel().fit(simulate(*world(1500), explore=explore))
    assert model.examination[0] == 1 and (np.diff(model.examination[PLACES - 1]) < 0).all()
    ratio = model.examination[PLACES - 1] * PLACES
    assert (ratio > 0.4).all() and (ratio < 1.6).all() and abs(ratio[0] - 1) < 0.15
    np.testing.assert_allclose(model.click_rate, (0.9, 0.1), atol=0.04)


@pytest.mark.parametrize("shape", ["exponential", "fold"])
def test_examination_of_other_shapes(shape: str) -> None:
    """No power of the place: an exponential, and a page of ten below which few look."""
    places = np.arange(1, 21)
    true = (
        0.8 ** (places - 1.0) if shape == "exponential" else np.where(places <= 10, 0.9, 0.15) / places**0.3
    )
    log = simulate(*world(1500), explore=0.5, examination=true)
    model = PositionBiasedModel().fit(log)
    assert np.abs(np.log(model.examination[:15] / (true / true[0])[:15])).max() < 0.35
    np.testing.assert_allclose(model.click_rate[0], 0.9 * true[0], atol=0.05)


def test_lists_of_different_lengths() -> None:
    queries, ranked, relevant = world(1500)
    short = np.where(np.arange(1500)[:, np.newaxis] % 2, ranked, np.where(np.arange(20) < 5, ranked, -1))
    model = PositionBiasedModel().fit(simulate(queries, short, relevant, explore=0.2))
    assert (np.abs(model.examination[PLACES - 1] * PLACES - 1) < [0.06, 0.12, 0.2, 0.25]).all()


def robot(log: rg.ClickLog, clicks: list[int], sessions: bool = False) -> rg.ClickLog:
    """The log, and one query asked 10,000 times by somebody who clicks certain places."""
    order = np.arange(20) + 500
    count = 10_000
    names = [*range(len(log)), *["robot"] * count] if sessions else None
    return rg.ClickLog(
        np.concatenate([log.queries, np.ones((count, DIM), dtype=np.float32)]),
        [*log.shown, *[order] * count],
        [*log.clicked, *[order[clicks]] * count],
        sessions=names,
        explored=np.concatenate([log.explored, np.ones(count, dtype=bool)]),
    )


@pytest.mark.parametrize("clicks", [[19], list(range(20)), []])
@pytest.mark.parametrize("sessions", [False, True])
def test_a_robot_moves_little(clicks: list[int], sessions: bool) -> None:
    log = simulate(*world(500), explore=0.3, seed=2)
    clean, spoilt = PositionBiasedModel().fit(log), PositionBiasedModel().fit(robot(log, clicks, sessions))
    np.testing.assert_allclose(spoilt.click_rate, clean.click_rate, atol=0.03)
    assert np.abs(np.log(spoilt.examination[PLACES - 1] / clean.examination[PLACES - 1])).max() < 0.3
    found = judgements(robot(log, clicks, sessions))
    assert np.count_nonzero(found.teach.query == 500) <= len(clicks)


def test_impressions_of_one_session_are_one() -> None:
    """A user who asks the same thing five times and clicks the same row says it once."""
    queries, ranked, relevant = world(300)
    log = simulate(queries, ranked, relevant, impressions=1, explore=0.3)
    again = log[np.repeat(np.arange(300), 5)]
    named = rg.ClickLog(
        again.queries,
        again.shown,
        again.clicked,
        sessions=np.repeat(np.arange(300), 5).tolist(),
        explored=again.explored,
    )
    once, five = judgements(log), judgements(named)
    np.testing.assert_array_equal(once.teach.row, five.teach.row)
    np.testing.assert_allclose(once.teach.grade, five.teach.grade, atol=1e-5)


def test_contradictory_clicks_are_weighed() -> None:
    """Half of the users click a row and half do not: its grade is between those of the others."""
    queries, ranked, relevant = world(400)
    log = simulate(queries, ranked, relevant, explore=0.2, seed=4)
    asked = np.tile(np.float32([[1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]), (10, 1))
    order = np.arange(20) + 300
    clicked = [[300, 301] if i % 4 < 2 else [300] for i in range(20)]
    model = PositionBiasedModel().fit(
        rg.ClickLog(
            np.concatenate([log.queries, asked]),
            [*log.shown, *[order] * 20],
            [*log.clicked, *clicked],
            explored=np.concatenate([log.explored, np.zeros(20, dtype=bool)]),
        )
    )
    found = model.posterior
    z = {row: found.grade[(found.query == 400) & (found.row == row)].item() for row in (300, 301, 302)}
    assert z[300] > 0.99 and z[301] > z[302] and z[302] < 0.2


def test_noise_alone_is_no_relevance() -> None:
    queries, ranked, _ = world(500)
    log = simulate(queries, ranked, [[]] * 500, explore=0.2, click_rates=(0.5, 0.5))
    model = PositionBiasedModel().fit(log)
    assert np.isfinite(model.posterior.grade).all()
    assert 0 < model.click_rate[1] <= model.click_rate[0] < 1


@pytest.mark.parametrize("count", [1, 3, 40])
def test_small_logs(count: int) -> None:
    queries, ranked, relevant = world(count)
    log = simulate(queries, ranked, relevant, impressions=1)
    model = PositionBiasedModel().fit(log)
    assert np.isfinite(model.posterior.grade).all() and np.isfinite(model.examination).all()
    assert 0.5 < model.click_rate[0] < 1 and model.click_rate[1] < 0.4
    assert 1 <= model.rounds <= 60
    one = PositionBiasedModel(max_rounds=1).fit(rg.ClickLog(np.eye(2)[:1], [[7]], [[7]]))
    assert one.posterior.row.tolist() == [7] and one.posterior.grade[0] > 0.2 and one.rounds == 1


def test_what_the_model_refuses() -> None:
    for log in (
        small_log()[:0],
        rg.ClickLog(queries_of(1), None, [[0]]),
        rg.ClickLog(queries_of(1), [[]], [[0]]),
    ):
        with pytest.raises(rg.ConfigError, match="what was shown"):
            PositionBiasedModel().fit(log)
    with pytest.raises(rg.ConfigError, match="must be a ClickLog, got list"):
        PositionBiasedModel().fit([])  # type: ignore[arg-type]
    with pytest.raises(rg.ConfigError, match="max_rounds"):
        PositionBiasedModel(0)
    assert repr(PositionBiasedModel()) == "PositionBiasedModel(not fitted)"


# --- two sets of grades
def test_plain_clicks_where_nothing_was_shown() -> None:
    queries = np.eye(3)[[0, 1, 0, 0]]
    found = judgements(rg.ClickLog(queries, None, [[5, 2], [5], [2], []]))
    assert found.path == "plain clicks" and found.judge is None
    assert found.teach.query.tolist() == [0, 0, 1] and found.teach.row.tolist() == [2, 5, 5]
    np.testing.assert_allclose(found.teach.grade, [2 / 3, 1 / 3, 1])
    np.testing.assert_array_equal(found.queries, np.eye(3)[:2])


def test_an_empty_log_teaches_nothing() -> None:
    found = judgements(small_log()[:0])
    assert (len(found.teach), found.judge, found.path) == (0, None, "plain clicks")


def test_shuffled_answers_judge_and_everything_teaches() -> None:
    queries, ranked, relevant = world(400)
    log = simulate(queries, ranked, relevant, explore=0.2, seed=3)
    found = judgements(log)
    assert found.path == "position-based model, judged on shuffled answers"
    model, pairs = PositionBiasedModel().fit(log), {}
    for query, row, grade in zip(
        model.posterior.query.tolist(), model.posterior.row.tolist(), model.posterior.grade, strict=True
    ):
        pairs[query, row] = grade
    entry = log.merged().entry
    clicked = {(int(entry[i]), row) for i, rows in enumerate(log.clicked) for row in rows.tolist()}
    taught = {
        (query, row): grade
        for query, row, grade in zip(
            found.teach.query.tolist(), found.teach.row.tolist(), found.teach.grade, strict=True
        )
    }
    assert taught == {pair: pairs[pair] for pair in clicked if pairs[pair] > 0.02}
    assert found.judge is not None
    clicks: dict[tuple[int, int], float] = {}
    shown: dict[tuple[int, int], float] = {}
    for place in np.flatnonzero(log.explored):
        share = 1 / np.count_nonzero(log.explored & (entry == entry[place]))
        for shares, rows in ((clicks, log.clicked[place]), (shown, log.shown[place])):
            for row in rows.tolist():
                shares[int(entry[place]), row] = shares.get((int(entry[place]), row), 0) + share
    judging = {query for query, _ in clicks}
    shown = {pair: share for pair, share in shown.items() if pair[0] in judging}
    chance = sum((1 - pairs[pair]) * clicks[pair] for pair in clicks)
    chance /= sum((1 - pairs[pair]) * share for pair, share in shown.items())
    judged = list(zip(found.judge.query.tolist(), found.judge.row.tolist(), strict=True))
    assert set(judged) == set(shown)
    expected = [clicks.get(pair, 0) - chance * shown[pair] for pair in judged]
    np.testing.assert_allclose(expected, found.judge.grade, rtol=1e-5)
    # Rows that are not relevant count nothing on average.
    first = np.unique(entry, return_index=True)[1] // 5
    wrong = [
        row not in np.atleast_1d(relevant[first[query]]) for query, row in judged
    ]
    noise = found.judge.grade[np.array(wrong)]
    assert abs(noise.mean()) < 3 * noise.std() / len(noise) ** 0.5
    assert found.judge.grade[~np.array(wrong)].mean() > 0.1


def test_few_shuffled_answers_do_not_judge() -> None:
    queries, ranked, relevant = world(60)
    log = simulate(queries, ranked, relevant, impressions=1, explore=1.0, click_rates=(1, 1))
    clicked = log[[i for i, rows in enumerate(log.clicked) if len(rows)]]
    assert judgements(clicked[:40]).judge is not None
    assert judgements(clicked[:39]).judge is None
    assert judgements(clicked[:39]).path == "position-based model"


def test_clicks_at_unknown_places_are_taken_as_given() -> None:
    queries, ranked, relevant = world(100)
    log = simulate(queries, ranked, relevant, impressions=3)
    mixed = rg.ClickLog(
        np.concatenate([log.queries, log.queries[:1], log.queries[:1]]),
        [*log.shown, None, [1000]],
        [*log.clicked, [777], [888]],
    )
    found = judgements(mixed).teach
    for row in (777, 888):  # once in five impressions of the first query
        chosen = (found.query == 0) & (found.row == row)
        np.testing.assert_allclose(found.grade[chosen], [0.2])


def test_what_judgements_refuses() -> None:
    with pytest.raises(rg.ConfigError, match="must be a ClickLog"):
        judgements([1])  # type: ignore[arg-type]
    with pytest.raises(rg.ConfigError, match="must be a PositionBiasedModel"):
        judgements(small_log(), model=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "documented", [rg.ClickLog, PositionBiasedModel, judgements, simulate], ids=lambda found: found.__name__
)
def test_examples_run(documented: Any) -> None:
    """Doctests of objects whose `__module__` is where users import them from are not found by pytest."""
    examples = [test for test in doctest.DocTestFinder().find(documented, module=False) if test.examples]
    assert examples
    for example in examples:
        assert doctest.DocTestRunner().run(example).failed == 0
