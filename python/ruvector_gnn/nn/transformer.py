"""Transformer layers over graphs: full attention within a graph, or neighbours and global tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ruvector_gnn import _core
from ruvector_gnn._arguments import as_tensor, typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError, ShapeError
from ruvector_gnn.nn.attention import MultiheadAttention
from ruvector_gnn.nn.dense import LayerNorm, Linear
from ruvector_gnn.nn.head_gates import HeadGated, HeadGatedInside
from ruvector_gnn.nn.init import draw_seed, drawn, require_positive, require_rate

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["GraphTransformerLayer", "SparseAttentionLayer"]


class _TransformerLayer(HeadGatedInside):
    """Attention, then maps of single rows, each with a sum and a normalization after it."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ffn_dim: int | None,
        dropout: float,
        activation: str,
        head_gates: bool,
        seed: int,
    ) -> None:
        super().__init__()
        inner = 2 * dim if ffn_dim is None else ffn_dim
        require_positive(dim=dim, num_heads=num_heads, ffn_dim=inner)
        require_rate(dropout)
        _core.activate([0.0], activation)
        self.dropout, self.activation = dropout, activation
        self.self_attn = MultiheadAttention(dim, num_heads, head_gates=head_gates, seed=seed)
        self.linear1 = Linear(dim, inner, seed=seed + 2)
        self.linear2 = Linear(inner, dim, seed=seed + 4)
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)

    def _attention(self) -> HeadGated:
        return self.self_attn

    def _rest(self) -> tuple[list[Tensor], str, tuple[float, float]]:
        modules = [self.linear1, self.linear2, self.norm1, self.norm2]
        parameters: list[Tensor] = [parameter for module in modules for parameter in module.parameters()]
        return parameters, self.activation, (self.norm1.eps, self.norm2.eps)

    def _drop(self) -> tuple[float, int] | None:
        return (self.dropout, _core.next_seed()) if self.training and self.dropout > 0 else None

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"num_heads={self.num_heads}, dropout={self.dropout}, activation={self.activation!r}"


class GraphTransformerLayer(_TransformerLayer):
    """A transformer layer in which every node attends over all nodes of its graph (Dwivedi & Bresson 2021;
    Kreuzer et al. 2021).

    With positional encodings `p`, by default `graph.laplacian_positional_encoding(pe_dim)`:
    `h = x + W_pe p`, `u = norm1(h + dropout(attention(h)))`,
    `out = norm2(u + dropout(W_2 dropout(act(W_1 u))))`. Takes and gives `(N, dim)`. Where `pe_dim` is 0 the
    layer is `torch.nn.TransformerEncoderLayer(dim, num_heads, ffn_dim, batch_first=True)`, whose weights load
    unchanged. Time grows with the square of a graph's nodes; memory does not, since scores are made in tiles
    (Dao et al. 2022).

    Keys: `self_attn.{in_proj_weight,in_proj_bias,out_proj.weight,out_proj.bias}`, `linear1.*`, `linear2.*`,
    `norm1.*`, `norm2.*`, `lin_pe.*`, and with `head_gates=True` `self_attn.head_gates`; see `prune_heads`.

    Args:
        dim: width of rows.
        num_heads: heads; they divide `dim`.
        ffn_dim: rows between the last two maps, by default `2 * dim`.
        pe_dim: width of positional encodings; 0 for a layer without.
        dropout: rate, in training.
        activation: by name, as in `Activation`.
        head_gates: whether each head has a learned factor.
        flip_signs: whether columns of encodings change their sign at random in training, as eigenvectors may.
        seed: of the first weights.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1], [4], [3]])
    >>> layer = GraphTransformerLayer(8, num_heads=2, pe_dim=2, seed=0)
    >>> layer([[1.0] * 8] * 5, graph, batch=[0, 0, 0, 1, 1]).shape
    (5, 8)
    """

    @typed
    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        ffn_dim: int | None = None,
        pe_dim: int = 8,
        dropout: float = 0.0,
        activation: str = "relu",
        *,
        head_gates: bool = False,
        flip_signs: bool = True,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        seed = draw_seed(seed)
        super().__init__(dim, num_heads, ffn_dim, dropout, activation, head_gates, seed)
        self.pe_dim, self.flip_signs = pe_dim, flip_signs
        if pe_dim != 0:
            self.lin_pe = Linear(pe_dim, dim, seed=seed + 6)

    def forward(
        self, x: Input, graph: Graph, batch: ArrayLike | None = None, pe: Input | None = None
    ) -> Tensor:
        """Attend within each graph.

        Args:
            x: `(N, dim)`.
            graph: gives the positional encodings, unless `pe` does.
            batch: the number of each node's graph, as `Graph.batch` gives; by default all are of one.
            pe: `(N, pe_dim)`. Finding eigenvectors takes far longer than a small layer: make them once and
                hand them over.

        Raises:
            ShapeError: if shapes do not fit.
            ConfigError: for `pe` without `pe_dim`, or a graph with negative weights.
        """
        encoding = None
        if self.pe_dim != 0:
            rows = graph.laplacian_positional_encoding(self.pe_dim) if pe is None else pe
            encoding = (self.lin_pe.weight, self.lin_pe.bias, self._flipped(rows))
        elif pe is not None:
            raise ConfigError("GraphTransformerLayer: pe given, but the layer has pe_dim=0")
        attention, drop = self.self_attn._for_core(), self._drop()
        return _core.graph_transformer(x, graph, attention, self._rest(), batch, encoding, drop)

    def _flipped(self, pe: Input) -> Tensor:
        pe = as_tensor("pe", pe)
        if pe.shape[1:] != (self.pe_dim,):
            raise ShapeError(f"GraphTransformerLayer: pe of shape {pe.shape}, expected (N, {self.pe_dim})")
        if not (self.training and self.flip_signs):
            return pe
        signs = np.random.default_rng(_core.next_seed()).choice([-1.0, 1.0], self.pe_dim)
        return pe * signs

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{super().extra_repr()}, pe_dim={self.pe_dim}"


class SparseAttentionLayer(_TransformerLayer):
    """A transformer layer over neighbours and a few global tokens (Beltagy et al. 2020; Zaheer et al. 2020;
    Shirzad et al. 2023): all of a graph is two steps away, at the price of edges, not of pairs.

    Each graph has the learned tokens `t (num_global, dim)`. They look at all of its nodes,
    `t' = t + gather(t, x, x)`; then every node attends over its neighbours, itself and `t'` in one softmax,
    `a = attention(x, [x; t'])`; and `u = norm1(x + dropout(a))`,
    `out = norm2(u + dropout(W_2 dropout(act(W_1 u))))`. Takes and gives `(N, dim)`. Edge weights are not
    looked at.

    Over a sampled block, `(num_sources, dim)` to `(N, dim)`, the tokens see the nodes of the block, a sample
    of all. With `token_states`, from all nodes, a block with all neighbours gives what the whole graph gives.

    Keys: `tokens`, `gather.*` and `self_attn.*` as `MultiheadAttention`, `linear1.*`, `linear2.*`, `norm1.*`,
    `norm2.*`, and with `head_gates=True` `self_attn.head_gates`; see `prune_heads`.

    Args:
        dim: width of rows.
        num_heads: heads; they divide `dim`.
        num_global: tokens of a graph.
        ffn_dim: rows between the last two maps, by default `2 * dim`.
        dropout: rate, in training.
        activation: by name, as in `Activation`.
        head_gates: whether each head of the nodes' attention has a learned factor.
        seed: of the first weights.

    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> SparseAttentionLayer(8, num_heads=2, num_global=3, seed=0)([[1.0] * 8] * 3, graph).shape
    (3, 8)
    """

    @typed
    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        num_global: int = 4,
        ffn_dim: int | None = None,
        dropout: float = 0.0,
        activation: str = "relu",
        *,
        head_gates: bool = False,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        seed = draw_seed(seed)
        super().__init__(dim, num_heads, ffn_dim, dropout, activation, head_gates, seed)
        require_positive(num_global=num_global)
        self.gather = MultiheadAttention(dim, num_heads, seed=seed + 6)
        self.tokens = drawn("glorot_normal", (num_global, dim), num_global, dim, seed + 8)

    def forward(
        self,
        x: Input,
        graph: Graph,
        batch: ArrayLike | None = None,
        token_states: Input | None = None,
    ) -> Tensor:
        """Attend over neighbours and tokens.

        Args:
            x: `(N, dim)`; `(num_sources, dim)` over a block.
            graph: the edges.
            batch: the number of the graph of each row of `x`, by default 0.
            token_states: `t'` of each graph, from `token_states(..)`; by default the tokens see `x`.

        Raises:
            ShapeError: if shapes do not fit.
        """
        return self._run(x, graph, batch, token_states, self._drop())

    def token_states(self, x: Input, batch: ArrayLike | None = None) -> Tensor:
        """Return what the tokens are once they saw all nodes, `t' (graphs, num_global, dim)`: for blocks.

        Args:
            x: `(N, dim)`, all nodes.
            batch: the number of each node's graph, from 0 and without gaps; by default one graph.

        Raises:
            ShapeError: if shapes do not fit.
            ConfigError: if graphs are not numbered from 0 without gaps.

        >>> import ruvector_gnn as rg
        >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1, 3], [2]])
        >>> x = rg.Tensor([[0.0] * 8, [1.0] * 8, [2.0] * 8, [3.0] * 8])
        >>> layer = SparseAttentionLayer(8, seed=0)
        >>> (block,) = graph.sample([2], fanouts=[-1])
        >>> states = layer.token_states(x)
        >>> part = layer(x[block.source_nodes], block, token_states=states)
        >>> bool(abs(part.numpy() - layer(x, graph).numpy()[[2]]).max() < 1e-6)
        True
        """
        return self._run(x, None, batch, None, None)

    def _run(
        self,
        x: Input,
        graph: Graph | None,
        batch: ArrayLike | None,
        token_states: Input | None,
        drop: tuple[float, int] | None,
    ) -> Tensor:
        attentions = [self.gather._for_core(), self.self_attn._for_core()]
        return _core.sparse_attention(
            x, graph, (self.tokens, attentions, self._rest()), batch, token_states, drop
        )

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{super().extra_repr()}, num_global={self.tokens.shape[0]}"
