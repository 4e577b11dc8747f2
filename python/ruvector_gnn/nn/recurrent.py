"""Recurrent cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._core import Tensor
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.init import draw_seed
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["GRUCell"]


class GRUCell(Module):
    """A gated recurrent unit (Chung et al. 2014).

    `z = s(Wz x + Uz h)`, `r = s(Wr x + Ur h)`, `c = tanh(Wh x + Uh (r*h))`, `h' = (1-z)*h + z*c`; every map
    has a bias. Takes `x (N, in_dim)` and `h (N, hidden_dim)`, gives `(N, hidden_dim)`.

    >>> GRUCell(3, 2, seed=0)([[1.0, 2.0, 3.0]], [[0.0, 0.0]]).shape
    (1, 2)
    """

    def __init__(self, in_dim: int, hidden_dim: int, *, seed: int | None = None) -> None:
        """See the class."""
        super().__init__()
        seed = draw_seed(seed)
        for number, name in enumerate(("w_z", "u_z", "w_r", "u_r", "w_h", "u_h")):
            ins = in_dim if name.startswith("w") else hidden_dim
            setattr(self, name, Linear(ins, hidden_dim, init="normal", seed=seed + number))

    def forward(self, x: Input, h: Input) -> Tensor:
        """Give the next state."""
        return _core.gru(x, h, list(self.parameters()))
