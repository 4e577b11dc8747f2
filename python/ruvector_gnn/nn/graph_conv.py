"""The weighted graph convolution of Morris et al."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.init import draw_seed
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["GraphConv"]


class GraphConv(Module):
    """The graph convolution of Morris et al. (2019), as PyG's `GraphConv`.

    `out_i = W_rel agg_j(w_ij x_j) + b + W_root x_i` with the sum, the mean or the maximum over neighbours,
    weighted by the graph's weights. Takes `x (N, in_dim)`, gives `(N, out_dim)`.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> GraphConv(4, 2, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 2)
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        aggregator: Literal["sum", "mean", "max"] = "sum",
        bias: bool = True,
        *,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        if aggregator not in ("sum", "mean", "max"):
            raise ConfigError(f"aggregator must be 'sum', 'mean' or 'max', got {aggregator!r}")
        seed = draw_seed(seed)
        self.aggregator = aggregator
        self.lin_rel = Linear(in_dim, out_dim, bias, seed=seed)
        self.lin_root = Linear(in_dim, out_dim, bias=False, seed=seed + 2)

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Convolve `x` over `graph`."""
        rel, root = self.lin_rel, self.lin_root
        return _core.graph_conv(x, graph, rel.weight, rel.bias, root.weight, self.aggregator)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"aggregator={self.aggregator!r}"
