"""Optimizers, with the update rules of PyTorch's classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ruvector_gnn import _core
from ruvector_gnn._core import Tensor
from ruvector_gnn.errors import ConfigError

__all__ = ["AdamW", "clip_grad_norm"]


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients so that their common norm is at most `max_norm`; give the norm before.

    Pascanu et al. (2013); the scale is `max_norm / (norm + 1e-6)`, as PyTorch's.
    """
    return _core.clip_grad_norm(list(parameters), max_norm)


class AdamW:
    """AdamW (Loshchilov & Hutter 2019), as `torch.optim.AdamW`.

    `p -= lr wd p`, then Adam's step with bias-corrected moments. `params` are tensors, or dicts with
    `params` and their own `lr` and `weight_decay`; `param_groups` may be changed between steps.

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

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        """See the class."""
        given = list(params)
        if not given:
            raise ConfigError("params must not be empty")
        groups: list[dict[str, Any]] = (
            [dict(group) for group in given if isinstance(group, dict)]
            if isinstance(given[0], dict)
            else [{"params": given}]
        )
        for group in groups:
            group["params"] = list(group["params"])
            group.setdefault("lr", lr)
            group.setdefault("weight_decay", weight_decay)
        self.param_groups = groups
        settings = [(group["params"], group["lr"], group["weight_decay"]) for group in groups]
        self._core = _core.AdamW(settings, betas, eps)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.zero_grad()

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self._core.step([(group["lr"], group["weight_decay"]) for group in self.param_groups])
