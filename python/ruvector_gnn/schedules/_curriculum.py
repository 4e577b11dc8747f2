"""Curricula: training in stages, easy samples first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ruvector_gnn import _core
from ruvector_gnn._arguments import integer, typed
from ruvector_gnn.errors import ConfigError, RowError, ShapeError

Difficulty = Callable[[npt.NDArray[np.int64]], npt.ArrayLike]


@dataclass(frozen=True)
class Stage:
    """A stage of a curriculum.

    Parameters
    ----------
    name : str
        Its name.
    epochs : int
        How many epochs it lasts, at least 1.
    temperature : float
        The temperature of the loss, positive.
    num_negatives : int
        Negatives for each anchor, at least 1.
    loss_weights : mapping of str to float, optional
        Weights of losses by name.
    max_difficulty : float
        The share of samples that take part, the easiest: above 0, at most 1.

    Raises
    ------
    ConfigError
        For a value outside its domain.
    """

    name: str
    epochs: int
    temperature: float = 0.07
    num_negatives: int = 10
    loss_weights: Mapping[str, float] | None = None
    max_difficulty: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        _core.positive_number("temperature", self.temperature)
        for name, value in (("epochs", self.epochs), ("num_negatives", self.num_negatives)):
            if integer(name, value) < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if not 0 < self.max_difficulty <= 1:
            raise ConfigError(f"max_difficulty must be above 0 and at most 1, got {self.max_difficulty}")


class CurriculumScheduler:
    r"""Training in named stages, each with its settings and the samples that are easy enough for it.

    The samples of a stage are the easiest `max_difficulty` of all, by `difficulty`. Without such a function
    the difficulty of a sample is its loss so far: the average of what `record` was told,

    .. math:: d \leftarrow d + (1 - m) (l - d)

    with momentum :math:`m`; samples without a loss yet count as easiest, so that each is tried.

    Parameters
    ----------
    stages : sequence of Stage
        At least one. The last one goes on for ever.
    difficulty : callable, optional
        `difficulty(rows)` gives a number for each of these samples, greater for harder ones.
    momentum : float
        :math:`m`, from 0 to below 1.

    Attributes
    ----------
    epoch : int
        How often `step` was called.
    stage : Stage
        The stage now.

    Raises
    ------
    ConfigError
        For no stages, for two stages of one name, and for a momentum outside its domain.

    References
    ----------
    Bengio, Louradour, Collobert & Weston (2009), "Curriculum learning".

    Examples
    --------
    >>> schedule = CurriculumScheduler.default()
    >>> [schedule.at(epoch).name for epoch in (0, 10, 30, 1000)]
    ['easy', 'medium', 'hard', 'hard']
    >>> schedule.stage.temperature, schedule.stage.num_negatives
    (0.5, 5)
    """

    @typed
    def __init__(
        self, stages: Sequence[Stage], *, difficulty: Difficulty | None = None, momentum: float = 0.9
    ) -> None:
        """See the class."""
        self.stages = tuple(stages)
        if not self.stages or not all(isinstance(stage, Stage) for stage in self.stages):
            raise ConfigError(f"stages must be at least one Stage, got {stages!r}")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ConfigError(f"stages must have different names, got {names}")
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum must be at least 0 and below 1, got {momentum}")
        if difficulty is not None and not callable(difficulty):
            raise ConfigError(f"difficulty must be a function of rows, got {type(difficulty).__name__}")
        self.difficulty, self.momentum, self.epoch = difficulty, momentum, 0
        self._losses: npt.NDArray[np.float64] = np.empty(0)

    @classmethod
    def default(cls) -> CurriculumScheduler:
        """Return easy, medium and hard of 10, 20 and 30 epochs.

        Their temperatures are .5, .3 and .1, and there are 5, 10 and 20 negatives.
        """
        return cls(
            [
                Stage("easy", 10, temperature=0.5, num_negatives=5),
                Stage("medium", 20, temperature=0.3, num_negatives=10),
                Stage("hard", 30, temperature=0.1, num_negatives=20),
            ]
        )

    @property
    def stage(self) -> Stage:
        """The stage now."""
        return self.at(self.epoch)

    def at(self, epoch: int) -> Stage:
        """Return the stage of an epoch, counted from 0; nothing changes."""
        number = _core.curriculum_stage([stage.epochs for stage in self.stages], integer("epoch", epoch))
        return self.stages[number]

    def step(self) -> Stage:
        """Go on to the next epoch, and return its stage."""
        self.epoch += 1
        return self.stage

    def record(self, rows: npt.ArrayLike, losses: npt.ArrayLike) -> None:
        """Take losses of samples, which make their difficulty.

        Parameters
        ----------
        rows : array_like of int, shape (n,)
            Numbers of samples, from 0 up.
        losses : array_like of float, shape (n,)
            Their losses, finite. Of a sample that is named twice the last one counts.

        Raises
        ------
        ShapeError
            For shapes that differ, and for losses that are not finite.
        RowError
            For a negative row.
        """
        numbers, values = _core.int64_array("rows", rows), np.asarray(_core.as_array("losses", losses), float)
        if numbers.ndim != 1 or numbers.shape != values.shape:
            raise ShapeError(f"rows and losses must have shape (n,), got {numbers.shape} and {values.shape}")
        if not np.isfinite(values).all():
            raise ShapeError("losses must be finite")
        if not len(numbers):
            return
        if numbers.min() < 0:
            raise RowError(f"rows must not be negative, got {numbers.min()}")
        missing = int(numbers.max()) + 1 - len(self._losses)
        if missing > 0:
            self._losses = np.concatenate([self._losses, np.full(missing, math.nan)])
        before = self._losses[numbers]
        mixed = before + (1 - self.momentum) * (values - before)
        self._losses[numbers] = np.where(np.isnan(before), values, mixed)

    def rows(self, num_samples: int) -> npt.NDArray[np.int64]:
        """Return the samples that take part in the stage now, ascending.

        Parameters
        ----------
        num_samples : int
            How many samples there are.

        Raises
        ------
        ShapeError
            If `difficulty` does not give one number for each sample.
        """
        count = integer("num_samples", num_samples)
        if count < 0:
            raise ConfigError(f"num_samples must not be negative, got {count}")
        if self.difficulty is None:
            known = self._losses[:count]
            difficulty = np.concatenate([known, np.full(count - len(known), math.nan)])
        else:
            difficulty = np.asarray(self.difficulty(np.arange(count)), dtype=float)
            if difficulty.shape != (count,):
                raise ShapeError(f"difficulty must give {count} numbers, got shape {difficulty.shape}")
        return _core.easiest(difficulty, self.stage.max_difficulty)

    def state_dict(self) -> dict[str, Any]:
        """Return what the schedule goes on from."""
        return {"epoch": self.epoch, "losses": self._losses.copy()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; `ConfigError` for a negative epoch."""
        epoch = integer("epoch", state_dict["epoch"])
        if epoch < 0:
            raise ConfigError(f"epoch must not be negative, got {epoch}")
        self.epoch, self._losses = epoch, np.array(state_dict["losses"], dtype=float)

    def __repr__(self) -> str:
        """Show the stages, and where the schedule is."""
        names = ", ".join(f"{stage.name} ({stage.epochs} epochs)" for stage in self.stages)
        return f"CurriculumScheduler({names}; epoch {self.epoch}: {self.stage.name})"


class CurriculumSchedule:
    """Named functions of the epoch.

    Parameters
    ----------
    **functions : callable
        Each is called with the epoch, counted from 0.

    Attributes
    ----------
    epoch : int
        How often `step` was called.

    Raises
    ------
    ConfigError
        For what can't be called.

    Examples
    --------
    >>> schedule = CurriculumSchedule(temperature=lambda epoch: 0.5 - 0.05 * epoch, hops=lambda epoch: 2)
    >>> schedule.at(4)
    {'temperature': 0.3, 'hops': 2}
    """

    def __init__(self, **functions: Callable[[int], Any]) -> None:
        """See the class."""
        for name, function in functions.items():
            if not callable(function):
                raise ConfigError(f"{name} must be a function of the epoch, got {type(function).__name__}")
        self.functions, self.epoch = functions, 0

    @property
    def values(self) -> dict[str, Any]:
        """The values now, by name."""
        return self.at(self.epoch)

    def at(self, epoch: int) -> dict[str, Any]:
        """Return the values of an epoch by name; nothing changes. `ConfigError` for a negative epoch."""
        at = integer("epoch", epoch)
        if at < 0:
            raise ConfigError(f"epoch must not be negative, got {at}")
        return {name: function(at) for name, function in self.functions.items()}

    def step(self) -> dict[str, Any]:
        """Go on to the next epoch, and return its values."""
        self.epoch += 1
        return self.values

    def state_dict(self) -> dict[str, int]:
        """Return what the schedule goes on from."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go on from what `state_dict` gave; `ConfigError` for a negative epoch."""
        epoch = integer("epoch", state_dict["epoch"])
        self.at(epoch)
        self.epoch = epoch

    def __repr__(self) -> str:
        """Show the names."""
        return f"CurriculumSchedule({', '.join(self.functions)}; epoch {self.epoch})"
