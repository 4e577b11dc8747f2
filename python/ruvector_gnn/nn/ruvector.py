"""The layer of the `ruvector` package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.dense import LayerNorm, Linear
from ruvector_gnn.nn.head_gates import HeadGated, HeadGatedInside, Part
from ruvector_gnn.nn.init import draw_seed, require_positive, require_rate
from ruvector_gnn.nn.recurrent import GRUCell

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["RuvectorLayer"]


class _NeighborAttention(HeadGated):
    """The maps of `RuvectorLayer`'s attention."""

    def __init__(self, dim: int, num_heads: int, head_gates: bool, seed: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (
            Linear(dim, dim, init="normal", seed=seed + number) for number in range(4)
        )
        self._begin_heads(num_heads, head_gates)

    def _parts(self) -> list[Part]:
        maps = (self.q, self.k, self.v)
        inward: list[Part] = [(map, name, 0, 1) for map in maps for name in ("weight", "bias")]
        return [*inward, (self.out, "weight", 1, 1)]


class RuvectorLayer(HeadGatedInside):
    """The layer of the `ruvector` package, over a whole graph at once.

    For node v with neighbours u and edge weights e: `m = W_msg h`; `a = MultiHead(q=m_v, k=m_u, v=m_u)`;
    `g = sum_u (e_uv / sum e) m_u` (uniform without weights); `t = W_agg (a + g)`; `h' = GRU(x=t, h=m_v)`;
    `out = LayerNorm(Dropout(h'))`. A node without neighbours gives `LayerNorm(m_v)`. Takes `x (N, in_dim)`,
    gives `(N, hidden_dim)`; `num_heads` must divide `hidden_dim`. `head_gates=True` gives each head a learned
    factor; see `prune_heads`.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], []])
    >>> RuvectorLayer(4, 8, num_heads=2, seed=0)([[1.0] * 4] * 3, graph).shape
    (3, 8)
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        num_heads: int = 4,
        dropout: float = 0.0,
        *,
        head_gates: bool = False,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        require_positive(in_dim=in_dim, hidden_dim=hidden_dim, num_heads=num_heads)
        if hidden_dim % num_heads:
            raise ConfigError(f"num_heads must divide hidden_dim {hidden_dim}, got {num_heads}")
        require_rate(dropout)
        seed = draw_seed(seed)
        self.dropout = dropout
        self.w_msg = Linear(in_dim, hidden_dim, init="normal", seed=seed)
        self.w_agg = Linear(hidden_dim, hidden_dim, init="normal", seed=seed + 1)
        self.attention = _NeighborAttention(hidden_dim, num_heads, head_gates, seed + 2)
        self.w_update = GRUCell(hidden_dim, hidden_dim, seed=seed + 6)
        self.norm = LayerNorm(hidden_dim)

    def _attention(self) -> HeadGated:
        return self.attention

    @classmethod
    def from_ruvector_json(cls, text: str) -> RuvectorLayer:
        """Load the JSON that `ruvector`'s `GnnLayer.to_json()` writes; damaged text raises `FormatError`."""
        named, heads, dropout, eps = _core.ruvector_from_json(text)
        state = dict(named)
        hidden_dim, in_dim = state["w_msg.weight"].shape
        layer = cls(in_dim, hidden_dim, heads, dropout, seed=0)
        layer.norm.eps = eps
        layer.load_state_dict({name: tensor.numpy() for name, tensor in state.items()})
        return layer

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Update every node of `graph` from its neighbours."""
        drop = (self.dropout, _core.next_seed()) if self.training and self.dropout > 0 else None
        gates = self.head_gates
        parameters = [parameter for parameter in self.parameters() if parameter is not gates]
        return _core.ruvector(x, graph, parameters, self.num_heads, self.norm.eps, drop, gates)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"num_heads={self.num_heads}, dropout={self.dropout}"
