"""Layers that respect rotations and translations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.container import Sequential
from ruvector_gnn.nn.dense import Activation, Linear
from ruvector_gnn.nn.init import draw_seed, require_positive
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["EGNNLayer"]


class EGNNLayer(Module):
    """E(n)-equivariant message passing (Satorras et al. 2021).

    `m_ij = edge_mlp(h_i, h_j, |x_i - x_j|^2, e_ij)`, `x'_i = x_i + mean_j (x_i - x_j) coord_mlp(m_ij)`,
    `h'_i = node_mlp(h_i, sum_j m_ij)`. Rotating, mirroring or moving all coordinates leaves `h'` as it is and
    rotates, mirrors or moves `x'` alike. Takes features `(N, in_dim)` and coordinates `(N, n)` for any `n`;
    gives `(N, out_dim)` and `(N, n)`. A node without neighbours stays where it is.

    Keys, as the authors' code has them: `edge_mlp.{0,2}.*`, `coord_mlp.0.*`, `coord_mlp.2.weight`,
    `node_mlp.{0,2}.*`.

    Args:
        in_dim: width of features.
        out_dim: width of the resulting features.
        hidden_dim: width of messages, by default `out_dim`.
        edge_dim: width of edge features, if there are any.
        seed: of the first weights.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> layer = EGNNLayer(4, 8, seed=0)
    >>> h, pos = layer([[1.0] * 4] * 3, graph, [[0.0, 0.0, 1.0], [0.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    >>> h.shape, pos.shape
    ((3, 8), (3, 3))
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int | None = None,
        edge_dim: int | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        hidden = out_dim if hidden_dim is None else hidden_dim
        require_positive(in_dim=in_dim, out_dim=out_dim, hidden_dim=hidden)
        if edge_dim is not None:
            require_positive(edge_dim=edge_dim)
        seed, self.edge_dim = draw_seed(seed), edge_dim
        ins = 2 * in_dim + 1 + (edge_dim or 0)
        silu = Activation("silu")
        # The last map of coordinates begins small, as in the authors' code: the first steps move little.
        last = Linear(hidden, 1, bias=False, init="glorot", seed=seed + 6)
        last.weight.copy_(1e-3 * last.weight.numpy())
        self.edge_mlp = Sequential(
            Linear(ins, hidden, seed=seed), silu, Linear(hidden, hidden, seed=seed + 2), silu
        )
        self.coord_mlp = Sequential(Linear(hidden, hidden, seed=seed + 4), silu, last)
        self.node_mlp = Sequential(
            Linear(in_dim + hidden, hidden, seed=seed + 8), silu, Linear(hidden, out_dim, seed=seed + 10)
        )

    def forward(
        self, x: Input, graph: Graph, pos: Input, edge_attr: Input | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update features `x (N, in_dim)` and coordinates `pos (N, n)`.

        `edge_attr (E, edge_dim)` follows the edges as they were given to the graph; a layer without
        `edge_dim` refuses it, and one with it wants it (`ConfigError`).
        """
        if (edge_attr is None) != (self.edge_dim is None):
            given, has = ("missing", "has") if edge_attr is None else ("given", "has no")
            raise ConfigError(f"EGNNLayer: the layer {has} edge_dim, but edge_attr is {given}")
        return _core.egnn(x, graph, pos, edge_attr, list(self.parameters()))

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"edge_dim={self.edge_dim}"
