"""Temperatures and loss weights that go from one value to another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ruvector_gnn import _core
from ruvector_gnn._arguments import integer, typed
from ruvector_gnn.errors import ConfigError

_Schedule = Literal["linear", "exponential", "cosine", "step"]


class _Counter:
    """Counts steps, as all schedules between two values do."""

    last_step = 0

    def state_dict(self) -> dict[str, int]:
        """Return what the schedule goes on from."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go on from what `state_dict` gave; `ConfigError` for a negative step."""
        step = integer("last_step", state_dict["last_step"])
        if step < 0:
            raise ConfigError(f"last_step must not be negative, got {step}")
        self.last_step = step


class TemperatureScheduler(_Counter):
    r"""A temperature that goes from `start` to `end` in `steps`, and stays there.

    With :math:`t = step / steps`, and :math:`S` stages:

    ============= ===================================================================================
    linear        :math:`a + (b - a)\, t`
    exponential   :math:`a\, (b / a)^t`
    cosine        :math:`b + \tfrac12 (a - b) (1 + \cos \pi t)`
    step          :math:`a + (b - a)\, \lfloor S t \rfloor / (S - 1)`
    ============= ===================================================================================

    Parameters
    ----------
    start, end : float
        The temperatures of the first step and of step `steps`, positive.
    steps : int
        At least 1.
    schedule : {"linear", "exponential", "cosine", "step"}
        The rule.
    stages : int
        Values of the rule "step", at least 2.

    Attributes
    ----------
    temperature : float
        The temperature now.
    last_step : int
        How often `step` was called.

    Raises
    ------
    ConfigError
        For a setting outside its domain.

    Examples
    --------
    >>> schedule = TemperatureScheduler(0.5, 0.1, 4)
    >>> [round(schedule.at(step), 2) for step in range(6)]
    [0.5, 0.4, 0.3, 0.2, 0.1, 0.1]
    >>> round(schedule.step(), 2), round(schedule.temperature, 2)
    (0.4, 0.4)
    """

    @typed
    def __init__(
        self, start: float, end: float, steps: int, *, schedule: _Schedule = "linear", stages: int = 4
    ) -> None:
        """See the class."""
        self.start = _core.positive_number("start", start)
        self.end = _core.positive_number("end", end)
        if steps < 1:
            raise ConfigError(f"steps must be at least 1, got {steps}")
        self.steps, self.schedule, self.stages = int(steps), schedule, int(stages)
        self.at(0)

    @property
    def temperature(self) -> float:
        """The temperature now."""
        return self.at(self.last_step)

    def at(self, step: int) -> float:
        """Return the temperature of a step, counted from 0; nothing changes."""
        ends = (self.start, self.end)
        return _core.interpolate(self.schedule, ends, integer("step", step), self.steps, self.stages)

    def step(self) -> float:
        """Go on to the next step, and return its temperature."""
        self.last_step += 1
        return self.temperature

    def __repr__(self) -> str:
        """Show the settings, and where the schedule is."""
        return (
            f"TemperatureScheduler({self.start}, {self.end}, {self.steps}, schedule={self.schedule!r}, "
            f"stages={self.stages}, last_step={self.last_step})"
        )


@dataclass(frozen=True)
class LossWeights(Mapping[str, float]):
    """Weights of the losses of contrastive training on a graph; a mapping from their names.

    Parameters
    ----------
    infonce, local, spectral, reconstruction : float
        Weights of `info_nce`, `local_contrastive`, `laplacian` and `feature_reconstruction`, finite and not
        negative (`ConfigError`).

    Examples
    --------
    >>> LossWeights(local=0.2)["local"], dict(LossWeights())["spectral"]
    (0.2, 0.01)
    """

    infonce: float = 1.0
    local: float = 0.1
    spectral: float = 0.01
    reconstruction: float = 0.1

    def __post_init__(self) -> None:
        """Check the weights."""
        _check(asdict(self))

    def __getitem__(self, name: str) -> float:
        """Return a weight by its name."""
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return float(getattr(self, name))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.__dataclass_fields__)

    def __len__(self) -> int:
        """Return the number of losses."""
        return len(self.__dataclass_fields__)


def _check(weights: Mapping[str, Any]) -> dict[str, float]:
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ConfigError(f"the weight {name!r} must be finite and not negative, got {weight!r}")
    return {name: float(weight) for name, weight in weights.items()}


class LossWeightScheduler(_Counter):
    """Weights of losses that go linearly from one weighting to another in `steps`, and stay there.

    Parameters
    ----------
    start, end : mapping of str to float
        Weights by the names of the losses, the same names in both: a dict, or `LossWeights`.
    steps : int
        At least 1.

    Attributes
    ----------
    weights : dict of str to float
        The weights now.
    last_step : int
        How often `step` was called.

    Raises
    ------
    ConfigError
        For other names, for weights that are negative or not finite, and for `steps` below 1.

    Examples
    --------
    >>> schedule = LossWeightScheduler({"link": 1.0, "feature": 0.0}, {"link": 1.0, "feature": 0.4}, 4)
    >>> schedule.at(2)
    {'link': 1.0, 'feature': 0.2}
    """

    @typed
    def __init__(self, start: Mapping[str, float], end: Mapping[str, float], steps: int) -> None:
        """See the class."""
        for name, weights in (("start", start), ("end", end)):
            if not isinstance(weights, Mapping):
                raise ConfigError(f"{name} must map names to weights, got {type(weights).__name__}")
        if set(start) != set(end):
            raise ConfigError(f"start and end must name the same losses, got {[*start]} and {[*end]}")
        if steps < 1:
            raise ConfigError(f"steps must be at least 1, got {steps}")
        self.start, self.end, self.steps = _check(start), _check(end), int(steps)

    @property
    def weights(self) -> dict[str, float]:
        """The weights now."""
        return self.at(self.last_step)

    def at(self, step: int) -> dict[str, float]:
        """Return the weights of a step, counted from 0; nothing changes."""
        at = integer("step", step)
        ends = {name: (weight, self.end[name]) for name, weight in self.start.items()}
        return {name: _core.interpolate("linear", pair, at, self.steps, 2) for name, pair in ends.items()}

    def step(self) -> dict[str, float]:
        """Go on to the next step, and return its weights."""
        self.last_step += 1
        return self.weights

    def __repr__(self) -> str:
        """Show the settings, and where the schedule is."""
        return f"LossWeightScheduler({self.start}, {self.end}, {self.steps}, last_step={self.last_step})"
