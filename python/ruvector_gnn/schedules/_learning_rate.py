"""Learning rates, with the values of PyTorch's `torch.optim.lr_scheduler`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ruvector_gnn import _core
from ruvector_gnn._arguments import integer, typed
from ruvector_gnn.errors import ConfigError, ShapeError
from ruvector_gnn.optim import Optimizer

_Mode = Literal["min", "max"]
_ThresholdMode = Literal["rel", "abs"]


def _groups(optimizer: object) -> list[dict[str, Any]]:
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"optimizer must be an Optimizer, got {type(optimizer).__name__}")
    return optimizer.param_groups


class LRScheduler:
    """What the schedules by step have in common; use one of its subclasses.

    A schedule sets the learning rate of each of the optimizer's groups when it is made, for step 0, and at
    each call of `step`. It starts from the rates that it finds, `base_lrs`.

    Attributes
    ----------
    base_lrs : list of float
        The learning rates of the groups that the schedule started from.
    last_step : int
        How often `step` was called.
    """

    base_lrs: list[float]
    last_step: int

    def __init__(self, optimizer: Optimizer, rule: _core.LearningRate, settings: Mapping[str, Any]) -> None:
        """Take an optimizer, a rule, and the settings of the rule by name."""
        groups = _groups(optimizer)
        self.optimizer = optimizer
        self._settings, self._rule = dict(settings), rule
        self.base_lrs = [float(group["lr"]) for group in groups]
        self.last_step = 0
        self._apply()

    def at(self, step: int) -> list[float]:
        """Return the learning rates of a step, counted from 0, one for each group; nothing changes.

        Raises
        ------
        ConfigError
            For a negative step.
        """
        return [self._rule.at(base, integer("step", step)) for base in self.base_lrs]

    def step(self) -> None:
        """Go on to the next step: after each of the optimizer's, or after each epoch."""
        self.last_step += 1
        self._apply()

    def get_last_lr(self) -> list[float]:
        """Return the learning rates that were set last, one for each group."""
        return self.at(self.last_step)

    def state_dict(self) -> dict[str, Any]:
        """Return what the schedule goes on from."""
        return {"last_step": self.last_step, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, and set the learning rates of that step.

        Raises
        ------
        ShapeError
            For another number of groups; then nothing has changed.
        ConfigError
            For a negative step.
        """
        step, bases = integer("last_step", state_dict["last_step"]), state_dict["base_lrs"]
        if len(bases) != len(self.base_lrs):
            raise ShapeError(
                f"state_dict: {len(bases)} learning rates for {len(self.base_lrs)} groups of parameters"
            )
        if step < 0:
            raise ConfigError(f"last_step must not be negative, got {step}")
        self.last_step, self.base_lrs = step, [float(base) for base in bases]
        self._apply()

    def _apply(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.get_last_lr(), strict=True):
            group["lr"] = lr

    def __getstate__(self) -> dict[str, Any]:
        """Keep the optimizer beside the state."""
        return {"optimizer": self.optimizer, "settings": self._settings, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the rule anew."""
        type(self).__init__(self, state["optimizer"], **state["settings"])
        self.load_state_dict(state["state"])

    def __repr__(self) -> str:
        """Show the settings, and where the schedule is."""
        settings = "".join(f"{name}={value}, " for name, value in self._settings.items())
        return f"{type(self).__name__}({settings}last_step={self.last_step})"


class ConstantLR(LRScheduler):
    """The learning rate times `factor` for the first `total_iters` steps, as PyTorch's class of that name.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    factor : float
        From 0 to 1.
    total_iters : int
        The first step with the whole rate. 0: the rate never changes.

    Raises
    ------
    ConfigError
        For a setting outside its domain.

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> optimizer = rg.optim.SGD([rg.tensor([1.0], requires_grad=True)], lr=0.3)
    >>> ConstantLR(optimizer, factor=0.5, total_iters=2).at(1)
    [0.15]
    """

    @typed
    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5) -> None:
        """See the class."""
        rule = _core.LearningRate.constant(factor, total_iters)
        super().__init__(optimizer, rule, {"factor": factor, "total_iters": total_iters})


class StepLR(LRScheduler):
    r"""The learning rate times `gamma` every `step_size` steps, as `torch.optim.lr_scheduler.StepLR`.

    .. math:: \eta_t = \eta_0\, \gamma^{\lfloor t / s \rfloor}

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    step_size : int
        Steps between two changes, at least 1.
    gamma : float
        What the rate is multiplied with, above 0.

    Raises
    ------
    ConfigError
        For a setting outside its domain.

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> optimizer = rg.optim.SGD([rg.tensor([1.0], requires_grad=True)], lr=0.4)
    >>> schedule = StepLR(optimizer, step_size=10, gamma=0.5)
    >>> schedule.at(9), schedule.at(10)
    ([0.4], [0.2])
    """

    @typed
    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        """See the class."""
        rule = _core.LearningRate.step(step_size, gamma)
        super().__init__(optimizer, rule, {"step_size": step_size, "gamma": gamma})


class ExponentialLR(LRScheduler):
    r"""The learning rate times `gamma` at each step, as `torch.optim.lr_scheduler.ExponentialLR`.

    .. math:: \eta_t = \eta_0\, \gamma^t

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    gamma : float
        What the rate is multiplied with, above 0.

    Raises
    ------
    ConfigError
        For a setting outside its domain.

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> optimizer = rg.optim.SGD([rg.tensor([1.0], requires_grad=True)], lr=1.0)
    >>> ExponentialLR(optimizer, gamma=0.5).at(3)
    [0.125]
    """

    @typed
    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        """See the class."""
        super().__init__(optimizer, _core.LearningRate.exponential(gamma), {"gamma": gamma})


class CosineAnnealingWarmRestarts(LRScheduler):
    r"""Half a cosine down to `eta_min`, again and again, as PyTorch's class of that name.

    .. math:: \eta_t = \eta_{min} + \tfrac12 (\eta_0 - \eta_{min}) (1 + \cos(\pi\, T_{cur} / T_i))

    with :math:`T_{cur}` steps since the last restart and :math:`T_i` from that one to the next.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    T_0 : int
        Steps to the first restart, at least 1.
    T_mult : int
        By how much each cycle is longer than the one before, at least 1.
    eta_min : float
        The lowest rate, not negative.

    Raises
    ------
    ConfigError
        For a setting outside its domain.

    References
    ----------
    Loshchilov & Hutter (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts".

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> optimizer = rg.optim.SGD([rg.tensor([1.0], requires_grad=True)], lr=1.0)
    >>> schedule = CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2)
    >>> schedule.at(0), schedule.at(10), schedule.at(30)
    ([1.0], [1.0], [1.0])
    """

    @typed
    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0) -> None:
        """See the class."""
        rule = _core.LearningRate.cosine_warm_restarts(T_0, T_mult, eta_min)
        super().__init__(optimizer, rule, {"T_0": T_0, "T_mult": T_mult, "eta_min": eta_min})


class WarmupLinearLR(LRScheduler):
    """From 0 up to the learning rate in `warmup_steps`, then linearly down to 0 at `total_steps`.

    The values of `get_linear_schedule_with_warmup` in Hugging Face's transformers.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    warmup_steps : int
        Steps of the warm-up, at most `total_steps`.
    total_steps : int
        The step from which on the rate is 0, at least 1.

    Raises
    ------
    ConfigError
        For a setting outside its domain.

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> optimizer = rg.optim.SGD([rg.tensor([1.0], requires_grad=True)], lr=1.0)
    >>> schedule = WarmupLinearLR(optimizer, warmup_steps=4, total_steps=12)
    >>> [schedule.at(step)[0] for step in (0, 2, 4, 8, 12)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    @typed
    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int) -> None:
        """See the class."""
        rule = _core.LearningRate.warmup_linear(warmup_steps, total_steps)
        super().__init__(optimizer, rule, {"warmup_steps": warmup_steps, "total_steps": total_steps})


class ReduceLROnPlateau:
    """The learning rate times `factor` when a metric no longer improves, as PyTorch's class of that name.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    mode : {"min", "max"}
        Whether a smaller metric is better, or a greater.
    factor : float
        Above 0 and below 1.
    patience : int
        Steps without an improvement that are let pass.
    threshold : float
        By how much the best must be beaten.
    threshold_mode : {"rel", "abs"}
        Whether that is a share of the best metric, or an amount.
    cooldown : int
        Steps after a reduction in which none is counted as bad.
    min_lr : float or sequence of float
        The lowest rate, of all groups or of each.
    eps : float
        A smaller change of the rate is not made.

    Raises
    ------
    ConfigError
        For a setting outside its domain.
    ShapeError
        If `min_lr` names another number of groups.

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> optimizer = rg.optim.SGD([rg.tensor([1.0], requires_grad=True)], lr=1.0)
    >>> schedule = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    >>> for loss in (1.0, 0.9, 0.9, 0.9):
    ...     schedule.step(loss)
    >>> schedule.get_last_lr()
    [0.5]
    """

    @typed
    def __init__(
        self,
        optimizer: Optimizer,
        mode: _Mode = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: _ThresholdMode = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        """See the class."""
        groups = _groups(optimizer)
        if mode not in ("min", "max"):
            raise ConfigError(f"mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ConfigError(f"threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        lowest = list(min_lr) if isinstance(min_lr, Sequence) else [min_lr] * len(groups)
        if len(lowest) != len(groups):
            raise ShapeError(f"min_lr has {len(lowest)} values for {len(groups)} groups of parameters")
        for name, value in [("eps", eps), *(("min_lr", value) for value in lowest)]:
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} must be finite and not negative, got {value}")
        self.optimizer = optimizer
        self._settings: dict[str, Any] = {
            "mode": mode,
            "factor": factor,
            "patience": patience,
            "threshold": threshold,
            "threshold_mode": threshold_mode,
            "cooldown": cooldown,
            "min_lr": min_lr,
            "eps": eps,
        }
        self._lowest, self._eps = [float(value) for value in lowest], eps
        self._rule = (mode == "max", factor, patience, threshold, threshold_mode == "rel", cooldown)
        _, self._state = _core.plateau(self._rule, None, None)

    def step(self, metric: float) -> None:
        """Take the metric of an epoch, and lower the learning rates if it is time. NaN is no improvement."""
        falls, self._state = _core.plateau(self._rule, self._state, metric)
        if falls:
            for group, lowest in zip(self.optimizer.param_groups, self._lowest, strict=True):
                lowered = max(group["lr"] * self._settings["factor"], lowest)
                if group["lr"] - lowered > self._eps:
                    group["lr"] = lowered

    def get_last_lr(self) -> list[float]:
        """Return the learning rates of the groups."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return what the schedule goes on from; the learning rates are in the optimizer's state."""
        best, bad, cooldown = self._state
        return {"best": best, "num_bad_steps": bad, "cooldown_counter": cooldown}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        counts = [integer(name, state_dict[name]) for name in ("num_bad_steps", "cooldown_counter")]
        if min(counts) < 0:
            raise ConfigError(f"state_dict: counts must not be negative, got {counts}")
        self._state = (float(state_dict["best"]), counts[0], counts[1])

    def __getstate__(self) -> dict[str, Any]:
        """Keep the optimizer beside the state."""
        return {"optimizer": self.optimizer, "settings": self._settings, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the rule anew."""
        ReduceLROnPlateau.__init__(self, state["optimizer"], **state["settings"])
        self.load_state_dict(state["state"])

    def __repr__(self) -> str:
        """Show the settings."""
        settings = ", ".join(f"{name}={value!r}" for name, value in self._settings.items())
        return f"ReduceLROnPlateau({settings})"
