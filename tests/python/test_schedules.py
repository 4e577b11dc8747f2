"""Schedules: PyTorch's learning rates, annealing, curricula; all resume anywhere."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given
from hypothesis import strategies as st
from ruvector_gnn import optim, schedules

RECORDED = dict(np.load(Path(__file__).resolve().parents[1] / "golden" / "schedules.npz"))
RULES: dict[str, Callable[[optim.Optimizer], schedules.LRScheduler]] = {
    "constant": lambda o: schedules.ConstantLR(o, factor=0.25, total_iters=40),
    "step": lambda o: schedules.StepLR(o, 30, gamma=0.3),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.97),
    "cosine": lambda o: schedules.CosineAnnealingWarmRestarts(o, 20, 1, eta_min=0.01),
    "cosine_longer": lambda o: schedules.CosineAnnealingWarmRestarts(o, 7, 3),
    "warmup_linear": lambda o: schedules.WarmupLinearLR(o, 30, 150),
}
PLATEAUS: dict[str, Callable[[optim.Optimizer], schedules.ReduceLROnPlateau]] = {
    "plateau": lambda o: schedules.ReduceLROnPlateau(o, factor=0.5, patience=5, cooldown=3, min_lr=0.001),
    "plateau_max": lambda o: schedules.ReduceLROnPlateau(
        o, mode="max", factor=0.3, patience=2, threshold=0.01, threshold_mode="abs"
    ),
}


def optimizer() -> optim.Optimizer:
    groups = [{"params": [rg.tensor([0.0], requires_grad=True)], "lr": lr} for lr in (0.4, 0.03)]
    return optim.SGD(groups)


def rates(of: optim.Optimizer) -> list[float]:
    return [group["lr"] for group in of.param_groups]


@pytest.mark.parametrize("name", RULES)
def test_two_hundred_steps_follow_pytorch(name: str) -> None:
    own = optimizer()
    schedule = RULES[name](own)
    for step, expected in enumerate(RECORDED[name]):
        assert rates(own) == schedule.get_last_lr() == schedule.at(step)
        np.testing.assert_allclose(rates(own), expected, rtol=0, atol=1e-7 * max(1, *expected))
        schedule.step()


@pytest.mark.parametrize("name", PLATEAUS)
def test_a_plateau_follows_pytorch(name: str) -> None:
    own = optimizer()
    schedule = PLATEAUS[name](own)
    for metric, expected in zip(RECORDED["metric"], RECORDED[name], strict=True):
        np.testing.assert_allclose(rates(own), expected, rtol=0, atol=1e-7)
        schedule.step(metric)


@pytest.mark.parametrize("name", [*RULES, *PLATEAUS])
def test_a_loaded_or_unpickled_schedule_goes_on(name: str) -> None:
    make: Callable[[Any], Any] = {**RULES, **PLATEAUS}[name]
    metrics = [[metric] if name in PLATEAUS else [] for metric in RECORDED["metric"]]
    whole, half = optimizer(), optimizer()
    first, second = make(whole), make(half)
    for metric in metrics[:60]:
        first.step(*metric)
    for metric in metrics[:20]:
        second.step(*metric)
    copy = pickle.loads(pickle.dumps(second))
    fresh = optimizer()
    loaded = make(fresh)
    fresh.load_state_dict(half.state_dict())
    loaded.load_state_dict(second.state_dict())
    for metric in metrics[20:60]:
        copy.step(*metric)
        loaded.step(*metric)
    assert rates(copy.optimizer) == rates(fresh) == rates(whole)
    assert copy.state_dict() == loaded.state_dict() == first.state_dict()
    assert type(first).__name__ in repr(first)


def test_a_plateau_counts_nan_as_no_improvement() -> None:
    own = optimizer()
    schedule = schedules.ReduceLROnPlateau(own, patience=0, factor=0.5, min_lr=[0.1, 0.0])
    schedule.step(1.0)
    for _ in range(3):
        schedule.step(float("nan"))
    assert rates(own) == [0.1, 0.03 / 8]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("optimizer", lambda o: schedules.StepLR([0.1], 3)),
        ("factor", lambda o: schedules.ConstantLR(o, factor=2.0)),
        ("total_iters", lambda o: schedules.ConstantLR(o, total_iters=-1)),
        ("step_size", lambda o: schedules.StepLR(o, 0)),
        ("step_size", lambda o: schedules.StepLR(o, 2.5)),
        ("gamma", lambda o: schedules.ExponentialLR(o, float("nan"))),
        ("T_0", lambda o: schedules.CosineAnnealingWarmRestarts(o, 0)),
        ("T_mult", lambda o: schedules.CosineAnnealingWarmRestarts(o, 1, 0)),
        ("warmup_steps", lambda o: schedules.WarmupLinearLR(o, 3, 2)),
        ("factor", lambda o: schedules.ReduceLROnPlateau(o, factor=1.0)),
        ("mode", lambda o: schedules.ReduceLROnPlateau(o, mode="least")),
        ("threshold_mode", lambda o: schedules.ReduceLROnPlateau(o, threshold_mode="share")),
        ("min_lr", lambda o: schedules.ReduceLROnPlateau(o, min_lr=[0.1])),
        ("start", lambda o: schedules.TemperatureScheduler(0.0, 0.1, 5)),
        ("end", lambda o: schedules.TemperatureScheduler(0.5, float("inf"), 5)),
        ("steps", lambda o: schedules.TemperatureScheduler(0.5, 0.1, 0)),
        ("schedule", lambda o: schedules.TemperatureScheduler(0.5, 0.1, 5, schedule="sine")),
        ("steps|stages", lambda o: schedules.TemperatureScheduler(0.5, 0.1, 5, schedule="step", stages=1)),
        ("same losses", lambda o: schedules.LossWeightScheduler({"a": 1.0}, {"b": 1.0}, 5)),
        ("'a'", lambda o: schedules.LossWeightScheduler({"a": -1.0}, {"a": 1.0}, 5)),
        ("'infonce'", lambda o: schedules.LossWeights(infonce=float("nan"))),
        ("stages", lambda o: schedules.CurriculumScheduler([])),
        ("different names", lambda o: schedules.CurriculumScheduler([schedules.Stage("a", 1)] * 2)),
        ("momentum", lambda o: schedules.CurriculumScheduler([schedules.Stage("a", 1)], momentum=1.0)),
        ("epochs", lambda o: schedules.Stage("a", 0)),
        ("max_difficulty", lambda o: schedules.Stage("a", 1, max_difficulty=0.0)),
        ("rate", lambda o: schedules.CurriculumSchedule(rate=0.1)),
    ],
)
def test_settings_outside_their_domain_are_refused_by_name(name: str, make: Callable[[Any], Any]) -> None:
    own = optimizer()
    with pytest.raises((rg.ConfigError, rg.ShapeError), match=name):
        make(own)
    assert rates(own) == [0.4, 0.03]


@given(
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
    st.integers(1, 40),
    st.sampled_from(["linear", "exponential", "cosine", "step"]),
)
def test_a_temperature_goes_from_start_to_end_without_turning(
    start: float, end: float, steps: int, schedule: str
) -> None:
    own = schedules.TemperatureScheduler(start, end, steps, schedule=schedule, stages=3)  # type: ignore[arg-type]
    values = [own.temperature] + [own.step() for _ in range(steps + 2)]
    assert values[0] == pytest.approx(start) and values[steps:] == [end] * 3
    steps_of = np.diff(values) * np.sign(end - start)
    assert (steps_of >= -1e-9 * max(start, end)).all()
    again = pickle.loads(pickle.dumps(own))
    again.load_state_dict({"last_step": 0})
    assert again.temperature == values[0] and own.temperature == end


def test_loss_weights_warm_up_between_two_weightings() -> None:
    target = schedules.LossWeights()
    assert dict(target) == {"infonce": 1.0, "local": 0.1, "spectral": 0.01, "reconstruction": 0.1}
    own = schedules.LossWeightScheduler({name: 1.0 for name in target}, target, 10)
    for _ in range(5):
        weights = own.step()
    half = {"infonce": 1.0, "local": 0.55, "spectral": 0.505, "reconstruction": 0.55}
    assert weights == pytest.approx(half)
    assert own.at(10) == dict(target) == own.at(1000)
    with pytest.raises(KeyError):
        target["other"]
    with pytest.raises(rg.ConfigError, match="step"):
        own.at(-1)


def test_easy_samples_come_first_and_all_in_the_end() -> None:
    stages = [
        schedules.Stage("few", 2, max_difficulty=0.25),
        schedules.Stage("most", 1, max_difficulty=0.75),
        schedules.Stage("all", 1),
    ]
    hardness = np.random.default_rng(0).permutation(100)
    own = schedules.CurriculumScheduler(stages, difficulty=lambda rows: hardness[rows])
    sizes = []
    for _ in range(5):
        rows = own.rows(100)
        assert set(rows) == set(np.flatnonzero(hardness < len(rows)))
        sizes.append(len(rows))
        own.step()
    assert sizes == [25, 25, 75, 100, 100] and own.stage.name == "all"


def test_the_loss_so_far_is_a_difficulty() -> None:
    own = schedules.CurriculumScheduler([schedules.Stage("half", 1, max_difficulty=0.5)], momentum=0.5)
    np.testing.assert_array_equal(own.rows(4), [0, 1, 2, 3])  # nothing is known: all tie
    own.record([0, 1, 2, 3], [4.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(own.rows(4), [1, 2])
    own.record([1], [9.0])  # now 5
    np.testing.assert_array_equal(own.rows(4), [2, 3])
    np.testing.assert_array_equal(own.rows(6), [2, 4, 5])  # samples that nobody tried yet
    copy = schedules.CurriculumScheduler(own.stages, momentum=0.5)
    copy.load_state_dict(own.state_dict())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(copy)).rows(6), own.rows(6))
    state = own.state_dict()
    for rows, losses, error in (
        ([0], [1.0, 2.0], rg.ShapeError),
        ([0], [float("nan")], rg.ShapeError),
        ([-1], [1.0], rg.RowError),
    ):
        with pytest.raises(error):
            own.record(rows, losses)
    np.testing.assert_array_equal(own.state_dict()["losses"], state["losses"])
    with pytest.raises(rg.ShapeError, match="difficulty"):
        schedules.CurriculumScheduler(own.stages, difficulty=lambda rows: [1.0]).rows(5)


def test_the_default_curriculum() -> None:
    own = schedules.CurriculumScheduler.default()
    rows = [(s.name, s.epochs, s.temperature, s.num_negatives) for s in own.stages]
    assert rows == [("easy", 10, 0.5, 5), ("medium", 20, 0.3, 10), ("hard", 30, 0.1, 20)]
    for _ in range(29):
        own.step()
    assert own.stage.name == "medium" and own.step().name == "hard" and "hard" in repr(own)


def test_named_functions_of_the_epoch() -> None:
    own = schedules.CurriculumSchedule(double=lambda epoch: 2 * epoch, constant=lambda epoch: "x")
    assert own.values == {"double": 0, "constant": "x"}
    assert own.step() == {"double": 2, "constant": "x"} and own.at(7)["double"] == 14
    own.load_state_dict({"epoch": 5})
    assert own.values["double"] == 10
    with pytest.raises(rg.ConfigError, match="epoch"):
        own.load_state_dict({"epoch": -1})
