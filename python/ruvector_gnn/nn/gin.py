"""The graph isomorphism network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.nn.module import Module, Parameter

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["GINLayer"]


class GINLayer(Module):
    """The graph isomorphism network (Xu et al. 2019), as PyG's `GINConv`.

    `out_i = mlp((1 + eps) x_i + sum_j x_j)`. Takes `x (N, in_dim)`, gives what `mlp` makes of that. `eps` is
    part of the state, and trained only with `train_eps`. Edge weights are not looked at, as in PyG.

    >>> import ruvector_gnn as rg
    >>> from ruvector_gnn import nn
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> mlp = nn.Sequential(nn.Linear(4, 8, seed=0), nn.ReLU(), nn.Linear(8, 2, seed=1))
    >>> layer = GINLayer(mlp)
    >>> layer([[1.0] * 4] * 3, graph).shape
    (3, 2)
    >>> list(layer.state_dict())
    ['eps', 'nn.0.weight', 'nn.0.bias', 'nn.2.weight', 'nn.2.bias']
    """

    @typed
    def __init__(self, mlp: Module, eps: float = 0.0, train_eps: bool = False) -> None:
        """See the class."""
        super().__init__()
        self.nn = mlp
        self.eps = Parameter([_core.finite_number("eps", eps)], requires_grad=train_eps)

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Sum `x` over `graph` and apply the map."""
        out: Tensor = self.nn(_core.gin_sum(x, graph, self.eps))
        return out

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"eps={self.eps.numpy()[0]:g}, train_eps={self.eps.requires_grad}"
