"""Optimizers: PyTorch's rules, states that go on to the bit, settings."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn import nn, optim

RULES: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd_momentum_nesterov": lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd_dampening": lambda p: optim.SGD(p, 0.05, momentum=0.9, dampening=0.3),
    "adam": lambda p: optim.Adam(p, 0.01, weight_decay=0.02),
    "adam_amsgrad": lambda p: optim.Adam(p, 0.01, betas=(0.8, 0.95), amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, 0.01, weight_decay=0.1),
}
RECORDED = dict(np.load(Path(__file__).resolve().parents[1] / "golden" / "optim.npz"))


@pytest.mark.parametrize("name", RULES)
def test_a_hundred_steps_follow_pytorch(name: str) -> None:
    parameter = rg.tensor(RECORDED[f"{name}/p0"], requires_grad=True)
    optimizer = RULES[name]([parameter])
    for grad in RECORDED[f"{name}/grads"]:
        parameter.grad = grad
        optimizer.step()
    expected = RECORDED[f"{name}/p100"]
    assert np.abs(parameter.numpy() - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


def steps(optimizer: optim.Optimizer, parameter: rg.Tensor, first: int, last: int) -> None:
    for step in range(first, last):
        parameter.grad = np.cos(np.arange(6.0).reshape(2, 3) + step)
        optimizer.step()


@pytest.mark.parametrize("name", RULES)
def test_a_loaded_or_unpickled_state_goes_on_to_the_bit(name: str) -> None:
    whole, half = (rg.tensor(np.ones((2, 3)), requires_grad=True) for _ in range(2))
    steps(RULES[name]([whole]), whole, 0, 20)
    optimizer = RULES[name]([half])
    steps(optimizer, half, 0, 10)
    optimizer.param_groups[0]["lr"] *= 1.0
    state = optimizer.state_dict()
    assert state["state"][0]["step"] == 10
    assert state["param_groups"][0]["params"] == [0]
    copy, other = pickle.loads(pickle.dumps((half, optimizer)))
    steps(other, copy, 10, 20)
    np.testing.assert_array_equal(copy, whole)
    fresh = RULES[name]([half])
    fresh.load_state_dict(state)
    steps(fresh, half, 10, 20)
    np.testing.assert_array_equal(half, whole)
    assert type(fresh).__name__ in repr(fresh)


def test_groups_train_at_their_own_rates() -> None:
    layers = [nn.Linear(2, 2, seed=0), nn.Linear(2, 2, seed=0)]
    groups = [{"params": layers[0].parameters(), "lr": 0.0}, {"params": layers[1].parameters(), "lr": 0.1}]
    optimizer, before = optim.SGD(groups), layers[0].weight.numpy()
    (layers[1](layers[0](np.eye(2))) ** 2).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(layers[0].weight, before)
    assert (layers[1].weight.numpy() != before).any()


def test_states_and_settings_that_do_not_fit_change_nothing() -> None:
    parameter = rg.tensor(np.ones((2, 3)), requires_grad=True)
    optimizer = optim.Adam([parameter])
    steps(optimizer, parameter, 0, 3)
    state = optimizer.state_dict()
    wrong = {
        "groups": {**state, "param_groups": []},
        "parameters": {**state, "state": {7: state["state"][0]}},
        "remembers": {**state, "state": {0: {"step": 3, "momentum_buffer": np.ones((2, 3))}}},
        "shape": {**state, "state": {0: {**state["state"][0], "exp_avg": np.ones(5)}}},
    }
    for text, bad in wrong.items():
        with pytest.raises((rg.ShapeError, rg.NotFoundError), match=text):
            optimizer.load_state_dict(bad)
    np.testing.assert_array_equal(optimizer.state_dict()["state"][0]["exp_avg"], state["state"][0]["exp_avg"])
    for setting in (
        lambda: optim.SGD([parameter], nesterov=True),
        lambda: optim.SGD([parameter], momentum=-1),
        lambda: optim.Adam([parameter], betas=(1.0, 0.9)),
        lambda: optim.Adam([parameter], eps=float("nan")),
        lambda: optim.AdamW([parameter, parameter]),
        lambda: optim.AdamW([{"params": [parameter], "momentum": 0.9}]),
        lambda: optim.Adam([]),
    ):
        with pytest.raises(rg.ConfigError):
            setting()
    optimizer.param_groups[0]["lr"] = float("nan")
    before = parameter.numpy()
    with pytest.raises(rg.ConfigError, match="lr"):
        optimizer.step()
    np.testing.assert_array_equal(parameter, before)
