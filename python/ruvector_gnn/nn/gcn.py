"""Graph convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.init import filled
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["GCNLayer"]


class GCNLayer(Module):
    """Graph convolution (Kipf & Welling 2017), as PyG's `GCNConv`.

    `out = act(D^-1/2 (A + I) D^-1/2 x W^T + b)`. Takes `x (N, in_dim)`, gives `(N, out_dim)`. With
    `add_self_loops`, nodes without a loop get one of weight 1. Edge weights are those of the graph. Over a
    sampled block the degrees are those of the whole graph, and drawn edges stand for those not drawn; see
    `Graph.gcn_normalize`.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> GCNLayer(4, 2, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 2)
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        activation: str | None = None,
        add_self_loops: bool = True,
        bias: bool = True,
        *,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        if activation is not None:
            _core.activate([0.0], activation)
        self.activation, self.add_self_loops = activation, add_self_loops
        self.lin = Linear(in_dim, out_dim, bias=False, init="glorot", seed=seed)
        self.bias = filled(0.0, out_dim) if bias else None

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Convolve `x` over `graph`."""
        return _core.gcn(x, graph, self.lin.weight, self.bias, self.add_self_loops, self.activation)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"activation={self.activation!r}, add_self_loops={self.add_self_loops}"
