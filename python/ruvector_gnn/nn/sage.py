"""GraphSAGE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ruvector_gnn import _core
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.init import draw_seed
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["SAGELayer"]


class SAGELayer(Module):
    """GraphSAGE (Hamilton et al. 2017), as PyG's `SAGEConv`.

    `out_i = W_l agg_j(x_j) + b + W_r x_i` with the mean or the sum over neighbours; with `normalize` each
    row is divided by its norm. Takes `x (N, in_dim)`, gives `(N, out_dim)`. Edge weights are not looked at,
    as in PyG.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> SAGELayer(4, 2, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 2)
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        aggregator: Literal["mean", "sum"] = "mean",
        normalize: bool = False,
        *,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        if aggregator not in ("mean", "sum"):
            raise ConfigError(f"aggregator must be 'mean' or 'sum', got {aggregator!r}")
        seed = draw_seed(seed)
        self.aggregator, self.normalize = aggregator, normalize
        self.lin_l = Linear(in_dim, out_dim, seed=seed)
        self.lin_r = Linear(in_dim, out_dim, bias=False, seed=seed + 2)

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Aggregate `x` over `graph`."""
        assert self.lin_l.bias is not None
        parameters = [self.lin_l.weight, self.lin_l.bias, self.lin_r.weight]
        return _core.sage(x, graph, parameters, self.aggregator, self.normalize)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"aggregator={self.aggregator!r}, normalize={self.normalize}"
