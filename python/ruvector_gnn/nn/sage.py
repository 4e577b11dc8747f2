"""GraphSAGE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.init import draw_seed
from ruvector_gnn.nn.module import Module
from ruvector_gnn.nn.recurrent import LSTM

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["SAGELayer"]


class _LSTMAggregation(Module):
    """Holds the unit under PyG's name."""

    def __init__(self, dim: int, seed: int) -> None:
        super().__init__()
        self.lstm = LSTM(dim, dim, seed=seed)


class SAGELayer(Module):
    """GraphSAGE (Hamilton et al. 2017), as PyG's `SAGEConv`.

    `out_i = W_l agg_j(x_j) + b + W_r x_i` with the mean, the sum or the maximum over neighbours, or the last
    state of an LSTM over them in row order; with `normalize` each row is divided by its norm. Takes `x (N,
    in_dim)`, gives `(N, out_dim)`. Edge weights are not looked at, as in PyG.

    PyG's LSTM goes on over zeros to the length of the longest row, which makes the result of a node depend on
    the degrees of others, and its cost N times the largest degree. `lstm_padding=False` ends it with the
    node's own neighbours: the cost is one step per edge, and a node without neighbours aggregates 0.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> SAGELayer(4, 2, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 2)
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        aggregator: Literal["mean", "sum", "max", "lstm"] = "mean",
        normalize: bool = False,
        *,
        lstm_padding: bool = True,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        if aggregator not in ("mean", "sum", "max", "lstm"):
            raise ConfigError(f"aggregator must be 'mean', 'sum', 'max' or 'lstm', got {aggregator!r}")
        seed = draw_seed(seed)
        self.aggregator, self.normalize, self.lstm_padding = aggregator, normalize, lstm_padding
        self.lin_l = Linear(in_dim, out_dim, seed=seed)
        self.lin_r = Linear(in_dim, out_dim, bias=False, seed=seed + 2)
        if aggregator == "lstm":
            self.aggr_module = _LSTMAggregation(in_dim, seed + 3)

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Aggregate `x` over `graph`."""
        parameters = list(self.parameters())
        return _core.sage(x, graph, parameters, self.aggregator, self.normalize, self.lstm_padding)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"aggregator={self.aggregator!r}, normalize={self.normalize}"
