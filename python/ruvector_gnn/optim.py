"""Optimizers, with the update rules of PyTorch's classes.

Parameters are tensors, or groups of them as dicts with `params` and their own `lr` and `weight_decay`, which
may be changed between steps in `param_groups`; the other settings hold for all groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Tensor
from ruvector_gnn.errors import ConfigError, NotFoundError, ShapeError

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm"]

_GROUP = ("params", "lr", "weight_decay")


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients so that their common norm is at most `max_norm`; give the norm before.

    Pascanu et al. (2013); the scale is `max_norm / (norm + 1e-6)`, as PyTorch's.
    """
    return _core.clip_grad_norm(_tensors("parameters", parameters), max_norm)


def _tensors(name: str, values: object) -> list[Tensor]:
    """Return the values as a list; raise `ConfigError` unless all are Tensors."""
    tensors: list[Tensor] = []
    for value in values if isinstance(values, Iterable) else [values]:
        if not isinstance(value, Tensor):
            raise ConfigError(f"{name} must be Tensors, got {type(value).__name__}")
        tensors.append(value)
    return tensors


class Optimizer:
    """What all optimizers share; use `SGD`, `Adam` or `AdamW`.

    An optimizer pickles with its parameters: pickled together with its module it goes on training that one.
    """

    param_groups: list[dict[str, Any]]

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float,
        settings: Mapping[str, Any],
    ) -> None:
        """Take parameters, and the settings of the update rule by name."""
        if not isinstance(params, Iterable):
            raise ConfigError(f"params must be Tensors or groups of them, got {type(params).__name__}")
        given: list[Any] = list(params)
        if not given:
            raise ConfigError("params must not be empty")
        groups: list[dict[str, Any]] = (
            [dict(group) for group in given]
            if all(isinstance(group, dict) for group in given)
            else [{"params": given}]
        )
        for group in groups:
            unknown = sorted(group.keys() - _GROUP)
            if unknown or "params" not in group:
                raise ConfigError(f"a group holds params, lr and weight_decay, got {sorted(group)}")
            group["params"] = _tensors("params", group["params"])
            group.setdefault("lr", lr)
            group.setdefault("weight_decay", weight_decay)
        tensors = [id(tensor) for group in groups for tensor in group["params"]]
        if len(set(tensors)) < len(tensors):
            raise ConfigError("params names a tensor twice")
        self.param_groups = groups
        self._settings = dict(settings)
        self._core = self._rule([tuple(group[name] for name in _GROUP) for group in groups])

    def _rule(self, groups: list[Any]) -> _core.Optimizer:
        """Make the update rule of `groups`."""
        raise NotImplementedError(f"{type(self).__name__} does not define its update rule")

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.zero_grad()

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self._core.step([(group["lr"], group["weight_decay"]) for group in self.param_groups])

    def state_dict(self) -> dict[str, Any]:
        """Copy all that training goes on from, in the shape of PyTorch's.

        `state` maps a parameter's number, counted over the groups, to its `step` and its arrays by PyTorch's
        names; `param_groups` holds the groups' settings and the numbers of their parameters.
        """
        states = {
            number: {"step": steps, **dict(arrays)}
            for number, (steps, arrays) in enumerate(self._core.states())
            if steps > 0
        }
        groups, first = [], 0
        for group in self.param_groups:
            last = first + len(group["params"])
            groups.append({**group, "params": list(range(first, last))})
            first = last
        return {"state": states, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, for parameters of the same number and shapes.

        Raises `ShapeError` or `NotFoundError` for what does not fit; then nothing has changed.
        """
        states, groups = state_dict["state"], state_dict["param_groups"]
        counts = [len(group["params"]) for group in groups]
        if counts != [len(group["params"]) for group in self.param_groups]:
            raise ShapeError(f"state_dict: groups of {counts} parameters do not fit those here")
        unknown = [number for number in states if number not in range(sum(counts))]
        if unknown:
            raise NotFoundError(f"state_dict: parameters {unknown} of {sum(counts)}")
        loaded: list[tuple[int, list[tuple[str, Any]]]] = []
        for number in range(sum(counts)):
            arrays = dict(states.get(number, {"step": 0}))
            step = int(arrays.pop("step"))
            if not 0 <= step < 2**64:
                raise ConfigError(f"state_dict: step must not be negative, got {step}")
            loaded.append((step, list(arrays.items())))
        self._core.load_states(loaded)
        for own, group in zip(self.param_groups, groups, strict=True):
            own["lr"], own["weight_decay"] = group["lr"], group["weight_decay"]

    def __getstate__(self) -> dict[str, Any]:
        """Keep the parameters themselves beside the state."""
        return {"groups": self.param_groups, "settings": self._settings, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the rule over the parameters."""
        Optimizer.__init__(self, state["groups"], 0.0, 0.0, state["settings"])
        self.load_state_dict(state["state"])

    def __repr__(self) -> str:
        """Show the settings and the groups."""
        settings = ", ".join(f"{name}={value}" for name, value in self._settings.items())
        groups = [{**group, "params": len(group["params"])} for group in self.param_groups]
        return f"{type(self).__name__}({settings}, param_groups={groups})"


class SGD(Optimizer):
    """Gradient descent with momentum, as `torch.optim.SGD`.

    `g += wd p`; `b = momentum b + (1 - dampening) g`, but `b = g` at first; `p -= lr b`, or with `nesterov`
    (Sutskever et al. 2013) `p -= lr (g + momentum b)`, which needs momentum and no dampening.

    >>> import ruvector_gnn as rg
    >>> x = rg.tensor([1.0], requires_grad=True)
    >>> optimizer = SGD([x], lr=0.25)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x.item()
    0.5
    """

    @typed
    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        """See the class."""
        settings = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        super().__init__(params, lr, weight_decay, settings)

    def _rule(self, groups: list[Any]) -> _core.Optimizer:
        return _core.Optimizer.sgd(groups, **self._settings)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), as `torch.optim.Adam`.

    `g += wd p`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
    `p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)`; with `amsgrad` (Reddi et al. 2018) the largest
    `v` so far takes its place there.

    >>> import ruvector_gnn as rg
    >>> x = rg.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = Adam([x], lr=0.1)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     (x * x).sum().backward()
    ...     optimizer.step()
    >>> bool((abs(x.numpy()) < 0.05).all())
    True
    """

    @typed
    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        """See the class."""
        super().__init__(params, lr, weight_decay, {"betas": betas, "eps": eps, "amsgrad": amsgrad})

    def _rule(self, groups: list[Any]) -> _core.Optimizer:
        return _core.Optimizer.adam(groups, **self._settings)


class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019), as `torch.optim.AdamW`.

    `p -= lr wd p`, then Adam's step on the gradient alone.

    >>> import ruvector_gnn as rg
    >>> x = rg.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = AdamW([x], lr=0.1)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     (x * x).sum().backward()
    ...     optimizer.step()
    >>> bool((abs(x.numpy()) < 0.05).all())
    True
    """

    @typed
    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        """See the class."""
        super().__init__(params, lr, weight_decay, {"betas": betas, "eps": eps, "amsgrad": amsgrad})

    def _rule(self, groups: list[Any]) -> _core.Optimizer:
        return _core.Optimizer.adamw(groups, **self._settings)
