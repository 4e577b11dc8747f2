"""Maps of single rows: linear, normalization, dropout, activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ruvector_gnn import _core
from ruvector_gnn._arguments import as_tensor, typed
from ruvector_gnn._core import Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.init import draw_seed, drawn, filled, require_positive, require_rate
from ruvector_gnn.nn.module import Module, Parameter

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["Activation", "Dropout", "LayerNorm", "Linear", "ReLU"]


class Linear(Module):
    r"""A linear map, `y = x W^T + b`, as `torch.nn.Linear`.

    Takes `x (.., in_dim)`, gives `(.., out_dim)`. Parameters `weight (out_dim, in_dim)` and `bias
    (out_dim)`, drawn uniformly in `±1/sqrt(in_dim)`. `init="normal"` draws weights from a normal
    distribution with standard deviation `sqrt(2 / (in_dim + out_dim))`, and sets the bias to zero.

    >>> Linear(3, 2, seed=0)([[1.0, 2.0, 3.0]]).shape
    (1, 2)
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        bias: bool = True,
        *,
        init: Literal["uniform", "normal", "glorot"] = "uniform",
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        require_positive(in_dim=in_dim, out_dim=out_dim)
        kinds = {"uniform": "fan_in", "normal": "glorot_normal", "glorot": "glorot_uniform"}
        if init not in kinds:
            raise ConfigError(f"init must be one of {sorted(kinds)}, got {init!r}")
        seed = draw_seed(seed)
        self.weight = drawn(kinds[init], (out_dim, in_dim), in_dim, out_dim, seed)
        self.bias: Parameter | None = None
        if bias:
            self.bias = (
                drawn("fan_in", (out_dim,), in_dim, out_dim, seed + 1)
                if init == "uniform"
                else filled(0.0, out_dim)
            )

    def forward(self, x: Input) -> Tensor:
        """Map the last axis of `x`."""
        return _core.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Describe the settings."""
        out_dim, in_dim = self.weight.shape
        return f"{in_dim}, {out_dim}" + ("" if self.bias is not None else ", bias=False")


class LayerNorm(Module):
    """Layer normalization (Ba et al. 2016), `(x - mean) / sqrt(var + eps) * weight + bias` over the last
    axis.

    As `torch.nn.LayerNorm`. Takes and gives `(.., dim)`; right for rows of any size, as long as they are
    finite. `eps` is from 1e-25 to 1e25 (`ConfigError`).

    >>> LayerNorm(2)([[1.0, 3.0]]).numpy().round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    @typed
    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        """See the class."""
        super().__init__()
        require_positive(dim=dim)
        self.eps = _core.positive_number("eps", eps)
        self.weight = filled(1.0, dim)
        self.bias = filled(0.0, dim)

    def forward(self, x: Input) -> Tensor:
        """Normalize the last axis of `x`."""
        return _core.layer_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{self.weight.size}, eps={self.eps}"


class Dropout(Module):
    """Dropout (Srivastava et al. 2014): in training, drops each value with probability `rate`, scales the
    others.

    Each call in training takes the next seed of the sequence that `rg.manual_seed` restarts.

    >>> Dropout(0.5).eval()([[1.0, 2.0]]).numpy()
    array([[1., 2.]], dtype=float32)
    """

    @typed
    def __init__(self, rate: float = 0.5) -> None:
        """See the class; `0 <= rate < 1`."""
        super().__init__()
        require_rate(rate)
        self.rate = rate

    def forward(self, x: Input) -> Tensor:
        """Drop values in training; give `x` itself in evaluation."""
        x = as_tensor("x", x)
        return x.dropout(self.rate) if self.training else x

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{self.rate}"


class Activation(Module):
    """A function of one value by name: relu, leaky_relu, elu, gelu, sigmoid, silu or tanh.

    >>> Activation("relu")([-1.0, 2.0]).numpy()
    array([0., 2.], dtype=float32)
    """

    @typed
    def __init__(self, name: str) -> None:
        """See the class."""
        super().__init__()
        self.name = name
        _core.activate([0.0], name)

    def forward(self, x: Input) -> Tensor:
        """Apply the function."""
        return _core.activate(x, self.name)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return repr(self.name)


class ReLU(Activation):
    """`max(x, 0)`, as `torch.nn.ReLU`.

    >>> ReLU()([-1.0, 2.0]).numpy()
    array([0., 2.], dtype=float32)
    """

    def __init__(self) -> None:
        """See the class."""
        super().__init__("relu")

    def extra_repr(self) -> str:
        """Describe the settings: there are none."""
        return ""
