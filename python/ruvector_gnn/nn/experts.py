"""Mixtures of experts on graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.container import ModuleList
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.init import draw_seed, require_parts, require_positive
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["MixtureOfExpertsLayer", "load_balance_loss"]


class MixtureOfExpertsLayer(Module):
    """A mixture of graph convolutions, each node choosing a few (Shazeer et al. 2017; Wang et al. 2023).

    With `z = D^-1/2 (A + I) D^-1/2 x`, `g_i` the softmax over the `top_k` largest entries of `W_gate x_i` and
    0 elsewhere: `out_i = sum_e g_ie (W_e z_i + b_e)`. Takes `(N, in_dim)`, gives `(N, out_dim)`. Neighbours
    are summed once for all experts, and an expert's map is made only for the nodes that chose it.

    Nothing in the layer keeps nodes from choosing the same expert: add
    `load_balance_loss(gates)`, times a small factor, to the loss.

    Keys: `gate.weight (num_experts, in_dim)`, `experts.{e}.weight (out_dim, in_dim)`, `experts.{e}.bias`.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> layer = MixtureOfExpertsLayer(4, 2, num_experts=3, top_k=2, seed=0)
    >>> out, gates = layer([[1.0, 2.0, 3.0, 4.0]] * 3, graph, return_gates=True)
    >>> out.shape, (gates.numpy() > 0).sum(axis=1).tolist()
    ((3, 2), [2, 2, 2])
    """

    @typed
    def __init__(
        self, in_dim: int, out_dim: int, num_experts: int = 4, top_k: int = 2, *, seed: int | None = None
    ) -> None:
        """See the class; `1 <= top_k <= num_experts`."""
        super().__init__()
        require_positive(in_dim=in_dim, out_dim=out_dim, top_k=top_k)
        require_parts(num_experts=num_experts)
        if top_k > num_experts:
            raise ConfigError(f"top_k must be at most num_experts {num_experts}, got {top_k}")
        seed, self.top_k = draw_seed(seed), top_k
        self.gate = Linear(in_dim, num_experts, bias=False, init="glorot", seed=seed)
        seeds = range(seed + 1, seed + 1 + num_experts)
        self.experts = ModuleList([Linear(in_dim, out_dim, init="glorot", seed=own) for own in seeds])

    @overload
    def forward(self, x: Input, graph: Graph, return_gates: Literal[False] = ...) -> Tensor: ...
    @overload
    def forward(self, x: Input, graph: Graph, return_gates: Literal[True]) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Input, graph: Graph, return_gates: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Convolve by the experts that each node chooses.

        With `return_gates` the result is `(out, gates)`; `gates (N, num_experts)` sum to 1 for each node.
        """
        experts = [(expert.weight, expert.bias) for expert in self.experts if isinstance(expert, Linear)]
        out, gates = _core.mixture_of_experts(x, graph, self.gate.weight, experts, self.top_k)
        return (out, gates) if return_gates else out

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"top_k={self.top_k}"


def load_balance_loss(gates: Input) -> Tensor:
    """Compute how unevenly experts are used (Shazeer et al. 2017): 0 where all are used alike.

    The squared coefficient of variation of the columns' sums of `gates (N, num_experts)`; `num_experts - 1`
    where all nodes choose one expert alone.

    >>> load_balance_loss([[1.0, 0.0], [1.0, 0.0]]).item()
    1.0
    """
    return _core.load_balance(gates)
