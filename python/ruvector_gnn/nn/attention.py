"""Attention over neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.init import draw_seed, drawn, filled, require_positive
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Multi-head attention of each node over its neighbours (Vaswani et al. 2017).

    Parameters as `torch.nn.MultiheadAttention`: over a complete graph with loops it is PyTorch's
    self-attention. Takes and gives `(N, dim)`; `heads` must divide `dim`. A node without neighbours gives
    the last map's bias.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[0, 1], [0, 1]])
    >>> MultiheadAttention(4, 2, seed=0)([[1.0] * 4] * 2, graph).shape
    (2, 4)
    """

    def __init__(self, dim: int, heads: int, *, seed: int | None = None) -> None:
        """See the class."""
        super().__init__()
        require_positive(dim=dim, heads=heads)
        if dim % heads:
            raise ConfigError(f"heads must divide dim {dim}, got {heads}")
        seed = draw_seed(seed)
        self.heads = heads
        self.in_proj_weight = drawn("glorot_uniform", (3 * dim, dim), dim, 3 * dim, seed)
        self.in_proj_bias = filled(0.0, 3 * dim)
        self.out_proj = Linear(dim, dim, seed=seed + 1)
        self.out_proj.bias = filled(0.0, dim)

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Attend from each node of `graph` over its neighbours."""
        bias = self.out_proj.bias
        assert bias is not None
        parameters = [self.in_proj_weight, self.in_proj_bias, self.out_proj.weight, bias]
        return _core.multihead_attention(x, graph, parameters, self.heads)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{self.out_proj.weight.shape[0]}, heads={self.heads}"
