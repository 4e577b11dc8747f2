"""Stacks of layers of one kind."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ruvector_gnn import _core, nn
from ruvector_gnn._arguments import as_tensor, typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.container import ModuleList
from ruvector_gnn.nn.init import draw_seed, require_parts, require_positive, require_rate
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["GNN"]

KINDS = ("gcn", "gat", "gatv2", "sage", "gin", "graphconv", "ruvector")


class GNN(Module):
    """A stack of graph layers with residual connections (He et al. 2016) and layer norm (Ba et al. 2016).

    Between layers `h' = dropout(act(norm(conv(h))))`; the last layer gives `conv(h)`. With `skip`, `h` is
    added to what any layer whose two widths agree makes of it; there are no projections. Takes `x (N,
    in_dim)`, gives `(N, out_dim)`; `in_dim -> hidden_dim -> .. -> out_dim` over `num_layers` layers.
    Parameters are `convs.{i}.*` and `norms.{i}.*`. `norm` is over each node's row, as PyG's
    `norm="layer_norm", norm_kwargs=dict(mode="node")`; PyG's `norm="layer_norm"` alone is over the whole
    graph, and gives other outputs with the same weights.

    `layer` is "gcn", "gat", "gatv2", "sage", "gin" (a map of two linear layers each), "graphconv" or
    "ruvector". `num_heads` speaks of "gat", "gatv2" and "ruvector" and must divide `hidden_dim`; heads of the
    first two are joined between layers and averaged at the end, as Velickovic et al. (2018) do.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> GNN("sage", 4, 8, 2, num_layers=3, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 2)
    """

    @typed
    def __init__(
        self,
        layer: str,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        num_layers: int,
        skip: bool = True,
        norm: bool = True,
        dropout: float = 0.0,
        activation: str = "relu",
        *,
        num_heads: int = 4,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        require_positive(in_dim=in_dim, hidden_dim=hidden_dim, out_dim=out_dim)
        require_parts(num_layers=num_layers)
        require_rate(dropout)
        _core.activate([0.0], activation)
        self.layer, self.skip, self.dropout, self.activation = layer, skip, dropout, activation
        seed = draw_seed(seed)
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.convs = ModuleList(
            _conv(layer, ins, outs, number == num_layers - 1, num_heads, activation, seed + 100 * number)
            for number, (ins, outs) in enumerate(itertools.pairwise(widths))
        )
        self.norms = ModuleList(nn.LayerNorm(hidden_dim) for _ in range(num_layers - 1) if norm)

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Run all layers over `graph`."""
        h = as_tensor("x", x)
        for number, conv in enumerate(self.convs):
            out: Tensor = conv(h, graph)
            if number < len(self.convs) - 1:
                out = self.norms[number](out) if len(self.norms) else out
                out = _core.activate(out, self.activation)
                out = out.dropout(self.dropout) if self.training else out
            h = out + h if self.skip and out.shape == h.shape else out
        return h

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{self.layer!r}, skip={self.skip}, dropout={self.dropout}, activation={self.activation!r}"


def _conv(layer: str, ins: int, outs: int, last: bool, num_heads: int, activation: str, seed: int) -> Module:
    """A layer from `ins` to `outs` values."""
    if layer == "gcn":
        return nn.GCNLayer(ins, outs, seed=seed)
    if layer == "sage":
        return nn.SAGELayer(ins, outs, seed=seed)
    if layer == "graphconv":
        return nn.GraphConv(ins, outs, seed=seed)
    if layer == "ruvector":
        return nn.RuvectorLayer(ins, outs, num_heads, seed=seed)
    if layer == "gin":
        maps = (nn.Linear(ins, outs, seed=seed), nn.Linear(outs, outs, seed=seed + 2))
        return nn.GINLayer(nn.Sequential(maps[0], nn.Activation(activation), maps[1]))
    if layer not in KINDS:
        raise ConfigError(f"layer must be one of {', '.join(KINDS)}, got {layer!r}")
    kind = nn.GATLayer if layer == "gat" else nn.GATv2Layer
    if last:
        return kind(ins, outs, num_heads=num_heads, concat_heads=False, seed=seed)
    if outs % num_heads:
        raise ConfigError(f"num_heads must divide hidden_dim {outs}, got {num_heads}")
    return kind(ins, outs // num_heads, num_heads=num_heads, seed=seed)
