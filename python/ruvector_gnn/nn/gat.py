"""Graph attention: weights of neighbours that are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.head_gates import HeadGated, Part
from ruvector_gnn.nn.init import draw_seed, drawn, filled, require_positive, require_rate
from ruvector_gnn.nn.module import Parameter

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

    Attention = tuple[NDArray[np.int64], Tensor]

__all__ = ["GATLayer", "GATv2Layer"]


class _EdgeAttention(HeadGated):
    """What both layers share: their settings, and how weights come back."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_heads: int,
        concat_heads: bool,
        leaky_relu_slope: float,
        dropout: float,
        edge_dim: int | None,
        add_self_loops: bool,
        bias: bool,
        head_gates: bool,
    ) -> None:
        super().__init__()
        require_positive(in_dim=in_dim, out_dim=out_dim, num_heads=num_heads)
        if edge_dim is not None:
            require_positive(edge_dim=edge_dim)
        require_rate(dropout)
        self._begin_heads(num_heads, head_gates)
        self.concat_heads, self.edge_dim = concat_heads, edge_dim
        self.leaky_relu_slope = _core.finite_number("leaky_relu_slope", leaky_relu_slope)
        self.dropout, self.add_self_loops = dropout, add_self_loops
        width = num_heads * out_dim if concat_heads else out_dim
        self.bias: Parameter | None = filled(0.0, width) if bias else None

    def _settings(self) -> Any:
        drop = (self.dropout, _core.next_seed()) if self.training and self.dropout > 0 else None
        gates = None if self.head_gates is None else (self.head_gates, self.kept_heads, self.first_heads)
        return self.concat_heads, self.leaky_relu_slope, self.add_self_loops, drop, gates

    def _attend(self, x: Input, graph: Graph, edge_attr: Input | None, attention: bool) -> Any:
        raise NotImplementedError

    @overload
    def forward(
        self,
        x: Input,
        graph: Graph,
        edge_attr: Input | None = ...,
        return_attention: Literal[False] = ...,
    ) -> Tensor: ...
    @overload
    def forward(
        self, x: Input, graph: Graph, edge_attr: Input | None = ..., *, return_attention: Literal[True]
    ) -> tuple[Tensor, Attention]: ...
    def forward(
        self, x: Input, graph: Graph, edge_attr: Input | None = None, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, Attention]:
        """Attend from each node of `graph` over its neighbours.

        `edge_attr (E, edge_dim)` follows the edges as they were given to the graph. With
        `return_attention` the result is `(out, (edge_index, alpha))`: the edges that were attended over,
        `(2, E')`, self loops among them, and the weights of each, `(E', heads)`, before dropout; those of
        one node and head sum to 1. Gradients flow through both.
        """
        out, weights = self._attend(x, graph, edge_attr, return_attention)
        return (out, weights) if return_attention else out

    def extra_repr(self) -> str:
        """Describe the settings."""
        text = f"num_heads={self.num_heads}, concat_heads={self.concat_heads}, dropout={self.dropout}"
        return text if self.edge_dim is None else f"{text}, edge_dim={self.edge_dim}"


class GATLayer(_EdgeAttention):
    """Graph attention (Velickovic et al. 2018), as PyG's `GATConv`.

    With `h = W x`, per head `alpha_ij = softmax_j(leaky_relu(a_dst h_i + a_src h_j + a_edge W_e e_ij))` and
    `out_i = sum_j alpha_ij h_j + b`. Takes `x (N, in_dim)` and, with `edge_dim`, `edge_attr (E, edge_dim)`;
    gives `(N, num_heads * out_dim)`, or with `concat_heads=False` the mean of the heads, `(N, out_dim)`.
    `add_self_loops` drops all self loops and adds one per node, whose features are the mean of its other
    edges'. In training, `dropout` drops attention weights. Weights of the graph's edges are not looked at.
    A layer without `edge_dim` refuses `edge_attr`, and one with it wants it (`ConfigError`).
    `head_gates=True` gives each head a learned factor; see `prune_heads`.

    Keys: `lin.weight (heads * out, in)`, `att_src`, `att_dst (1, heads, out)`, `bias`, and with edge
    features `lin_edge.weight (heads * out, edge_dim)`, `att_edge (1, heads, out)`.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> layer = GATLayer(4, 2, num_heads=3, seed=0)
    >>> out, (edge_index, alpha) = layer([[1.0] * 4] * 3, graph, return_attention=True)
    >>> out.shape, edge_index.shape, alpha.shape
    ((3, 6), (2, 7), (7, 3))
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_heads: int = 8,
        concat_heads: bool = True,
        leaky_relu_slope: float = 0.2,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        add_self_loops: bool = True,
        bias: bool = True,
        *,
        head_gates: bool = False,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__(
            in_dim,
            out_dim,
            num_heads,
            concat_heads,
            leaky_relu_slope,
            dropout,
            edge_dim,
            add_self_loops,
            bias,
            head_gates,
        )
        seed = draw_seed(seed)
        self.lin = Linear(in_dim, num_heads * out_dim, bias=False, init="glorot", seed=seed)
        shape = (1, num_heads, out_dim)
        self.att_src = drawn("glorot_uniform", shape, num_heads, out_dim, seed + 1)
        self.att_dst = drawn("glorot_uniform", shape, num_heads, out_dim, seed + 2)
        if edge_dim is not None:
            self.lin_edge = Linear(edge_dim, num_heads * out_dim, bias=False, init="glorot", seed=seed + 3)
            self.att_edge = drawn("glorot_uniform", shape, num_heads, out_dim, seed + 4)

    def _parts(self) -> list[Part]:
        edge: list[Part] = []
        if self.edge_dim is not None:
            edge = [(self.lin_edge, "weight", 0, 1), (self, "att_edge", 1, 1)]
        return [(self.lin, "weight", 0, 1), (self, "att_src", 1, 1), (self, "att_dst", 1, 1), *edge]

    def _attend(self, x: Input, graph: Graph, edge_attr: Input | None, attention: bool) -> Any:
        parameters = [self.lin.weight, self.att_src, self.att_dst]
        if self.edge_dim is not None:
            parameters += [self.lin_edge.weight, self.att_edge]
        return _core.gat(x, graph, parameters, self.bias, edge_attr, self._settings(), attention)


class GATv2Layer(_EdgeAttention):
    """Graph attention with dynamic scores (Brody et al. 2022), as PyG's `GATv2Conv`.

    With `l = W_l x + b_l` and `r = W_r x + b_r`, per head
    `alpha_ij = softmax_j(a leaky_relu(r_i + l_j + W_e e_ij))` and `out_i = sum_j alpha_ij l_j + b`: unlike
    GAT's, the order of the neighbours may differ from node to node. Arguments, shapes and self loops as
    `GATLayer`.

    Keys: `att (1, heads, out)`, `lin_l.weight (heads * out, in)`, `lin_l.bias`, `lin_r.weight`,
    `lin_r.bias`, `bias`, and with edge features `lin_edge.weight (heads * out, edge_dim)`.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> GATv2Layer(4, 2, num_heads=3, concat_heads=False, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 2)
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_heads: int = 8,
        concat_heads: bool = True,
        leaky_relu_slope: float = 0.2,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        add_self_loops: bool = True,
        bias: bool = True,
        *,
        head_gates: bool = False,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__(
            in_dim,
            out_dim,
            num_heads,
            concat_heads,
            leaky_relu_slope,
            dropout,
            edge_dim,
            add_self_loops,
            bias,
            head_gates,
        )
        seed, columns = draw_seed(seed), num_heads * out_dim
        self.att = drawn("glorot_uniform", (1, num_heads, out_dim), num_heads, out_dim, seed)
        self.lin_l = Linear(in_dim, columns, init="glorot", seed=seed + 1)
        self.lin_r = Linear(in_dim, columns, init="glorot", seed=seed + 3)
        for number, lin in enumerate((self.lin_l, self.lin_r)):
            lin.bias = drawn("fan_in", (columns,), in_dim, columns, seed + 2 + 2 * number)
        if edge_dim is not None:
            self.lin_edge = Linear(edge_dim, columns, bias=False, init="glorot", seed=seed + 5)

    def _parts(self) -> list[Part]:
        maps = [self.lin_l, self.lin_r]
        parts: list[Part] = [(map, name, 0, 1) for map in maps for name in ("weight", "bias")]
        if self.edge_dim is not None:
            parts.append((self.lin_edge, "weight", 0, 1))
        return [(self, "att", 1, 1), *parts]

    def _attend(self, x: Input, graph: Graph, edge_attr: Input | None, attention: bool) -> Any:
        left, right = self.lin_l.bias, self.lin_r.bias
        assert left is not None and right is not None
        parameters = [self.att, self.lin_l.weight, left, self.lin_r.weight, right]
        if self.edge_dim is not None:
            parameters.append(self.lin_edge.weight)
        return _core.gatv2(x, graph, parameters, self.bias, edge_attr, self._settings(), attention)
