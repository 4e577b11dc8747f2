"""Initial values of parameters, and what layers check of their settings.

`seed` fixes a layer's initial values; without it the next seed of the sequence that `rg.manual_seed`
restarts is taken, so that the same calls give the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from ruvector_gnn import _core
from ruvector_gnn._core import Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.module import Parameter

if TYPE_CHECKING:
    Input = ArrayLike | Tensor

__all__ = ["Input", "draw_seed", "drawn", "filled", "require_parts", "require_positive", "require_rate"]

_MASK = 2**64 - 1

MOST_PARTS = 10_000
"""Layers, experts or heads that a module is made of, at most: each is some small objects."""


def draw_seed(seed: int | None) -> int:
    """`seed`, or the next one of the sequence; raises `ConfigError` for what is no number of 64 bits."""
    if seed is None:
        return _core.next_seed()
    if not 0 <= seed <= _MASK:
        raise ConfigError(f"seed must be from 0 to {_MASK}, got {seed}")
    return seed


def require_positive(**dims: int) -> None:
    """Raise `ConfigError` unless every setting is at least 1."""
    for name, value in dims.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def require_parts(**counts: int) -> None:
    """Raise `ConfigError` unless every number of parts is from 1 to `MOST_PARTS`."""
    require_positive(**counts)
    for name, value in counts.items():
        if value > MOST_PARTS:
            raise ConfigError(f"{name} must be at most {MOST_PARTS}, got {value}")


def require_rate(dropout: float) -> None:
    """Raise `ConfigError` unless a dropout rate is in [0, 1)."""
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), got {dropout}")


def drawn(kind: str, shape: tuple[int, ...], ins: int, outs: int, seed: int) -> Parameter:
    """A parameter drawn for a map from `ins` to `outs` values: fan_in, glorot_uniform or glorot_normal."""
    return Parameter(_core.init_parameter(kind, list(shape), ins, outs, seed & _MASK))


def filled(value: float, size: int) -> Parameter:
    """A parameter of one value throughout."""
    return Parameter(_core.filled(value, size))
