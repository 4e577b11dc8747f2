"""Recurrent cells and layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._arguments import as_tensor, typed
from ruvector_gnn._core import Tensor
from ruvector_gnn.errors import ShapeError
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.init import draw_seed, drawn, require_positive
from ruvector_gnn.nn.module import Module, Parameter

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["LSTM", "GRUCell"]


class GRUCell(Module):
    """A gated recurrent unit (Chung et al. 2014).

    `z = s(Wz x + Uz h)`, `r = s(Wr x + Ur h)`, `c = tanh(Wh x + Uh (r*h))`, `h' = (1-z)*h + z*c`; every map
    has a bias. Takes `x (N, in_dim)` and `h (N, hidden_dim)`, gives `(N, hidden_dim)`.

    >>> GRUCell(3, 2, seed=0)([[1.0, 2.0, 3.0]], [[0.0, 0.0]]).shape
    (1, 2)
    """

    @typed
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


class LSTM(Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), as `torch.nn.LSTM` with one layer, batch first.

    `[i f g o] = x_t W_ih^T + b_ih + h W_hh^T + b_hh`, `c' = s(f) c + s(i) tanh(g)`, `h' = s(o) tanh(c')`.
    Takes `x (B, L, in_dim)` or `(L, in_dim)` and, to start from other states than zero, `(h, c)`, each
    `(1, B, hidden_dim)` or `(1, hidden_dim)`. Gives `y, (h, c)` as PyTorch does: all states
    `(B, L, hidden_dim)` or `(L, hidden_dim)`, and the last ones in the shape of the first.

    >>> y, (h, c) = LSTM(3, 2, seed=0)([[[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]])
    >>> y.shape, h.shape, c.shape
    ((1, 2, 2), (1, 1, 2), (1, 1, 2))
    """

    @typed
    def __init__(self, in_dim: int, hidden_dim: int, *, seed: int | None = None) -> None:
        """See the class."""
        super().__init__()
        require_positive(in_dim=in_dim, hidden_dim=hidden_dim)
        seed, gates = draw_seed(seed), 4 * hidden_dim

        def draw(*shape: int, number: int) -> Parameter:
            return drawn("fan_in", shape, hidden_dim, hidden_dim, seed + number)

        self.weight_ih_l0 = draw(gates, in_dim, number=0)
        self.weight_hh_l0 = draw(gates, hidden_dim, number=1)
        self.bias_ih_l0 = draw(gates, number=2)
        self.bias_hh_l0 = draw(gates, number=3)

    def forward(
        self, x: Input, state: tuple[Input, Input] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over the sequences in `x`."""
        x = as_tensor("x", x)
        single, hidden = x.ndim == 2, self.weight_hh_l0.shape[1]
        batch = x.reshape(1, *x.shape) if single else x
        first = None
        if state is not None:
            shape = (1, hidden) if single else (1, batch.shape[0], hidden)
            h, c = (as_tensor("state", part) for part in state)
            if h.shape != shape or c.shape != shape:
                raise ShapeError(f"state has shapes {h.shape} and {c.shape}, expected {shape}")
            first = (h.reshape(-1, hidden), c.reshape(-1, hidden))
        y, h, c = _core.lstm(batch, list(self.parameters()), first)
        if single:
            return y.reshape(x.shape[0], hidden), (h, c)
        return y, (h.reshape(1, *h.shape), c.reshape(1, *c.shape))

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{self.weight_ih_l0.shape[1]}, {self.weight_hh_l0.shape[1]}"
