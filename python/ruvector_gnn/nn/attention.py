"""Attention over neighbours, over whole sequences, or within segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ruvector_gnn import _core
from ruvector_gnn._arguments import as_tensor, typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.head_gates import HeadGated, Part
from ruvector_gnn.nn.init import draw_seed, drawn, filled, require_positive

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["MultiheadAttention"]


class MultiheadAttention(HeadGated):
    """Multi-head attention (Vaswani et al. 2017), with the parameters of `torch.nn.MultiheadAttention`.

    Per head `softmax(Q K^T / sqrt(dim / heads)) V` of the mapped inputs, then a last map. `heads` must divide
    `dim`. Three uses:

    - `layer(x, graph)`: each node attends over its neighbours; takes and gives `(N, dim)`. A node without
      neighbours gives the last map's bias.
    - `layer(x)`: each row of `(L, dim)` or `(B, L, dim)` attends over all rows of its sequence.
    - `layer(query, key, value)`: as PyTorch with the batch first; `key` and `value` `(B, S, dim)`.

    With `need_weights=True` the last two also give the weights per head, `(B, heads, L, S)`, or
    `(heads, L, S)` without a batch, as a NumPy array: tensors have at most 3 dimensions, so no gradient flows
    through them. `head_gates=True` gives each head a learned factor; see `prune_heads`.

    >>> import ruvector_gnn as rg
    >>> layer = MultiheadAttention(4, 2, seed=0)
    >>> graph = rg.Graph.from_adjacency([[0, 1], [0, 1]])
    >>> layer([[1.0] * 4] * 2, graph).shape
    (2, 4)
    >>> y, weights = layer([[1.0] * 4] * 3, need_weights=True)
    >>> y.shape, weights.shape
    ((3, 4), (2, 3, 3))
    """

    @typed
    def __init__(self, dim: int, heads: int, *, head_gates: bool = False, seed: int | None = None) -> None:
        """See the class."""
        super().__init__()
        require_positive(dim=dim, heads=heads)
        if dim % heads:
            raise ConfigError(f"heads must divide dim {dim}, got {heads}")
        seed = draw_seed(seed)
        self.in_proj_weight = drawn("glorot_uniform", (3 * dim, dim), dim, 3 * dim, seed)
        self.in_proj_bias = filled(0.0, 3 * dim)
        self.out_proj = Linear(dim, dim, seed=seed + 1)
        self.out_proj.bias = filled(0.0, dim)
        self._begin_heads(heads, head_gates)

    def _parts(self) -> list[Part]:
        return [(self, "in_proj_weight", 0, 3), (self, "in_proj_bias", 0, 3), (self.out_proj, "weight", 1, 1)]

    def _for_core(self) -> tuple[list[Tensor], int]:
        """Parameters and heads, as the core takes them."""
        bias = self.out_proj.bias
        assert bias is not None
        gates = [] if self.head_gates is None else [self.head_gates]
        return [self.in_proj_weight, self.in_proj_bias, self.out_proj.weight, bias, *gates], self.num_heads

    def forward(
        self,
        query: Input,
        key: Input | Graph | None = None,
        value: Input | None = None,
        *,
        graph: Graph | None = None,
        need_weights: bool = False,
    ) -> Tensor | tuple[Tensor, NDArray[np.float32]]:
        """Attend; see the class."""
        parameters, heads = self._for_core()
        if isinstance(key, Graph):
            key, graph = None, key
        if graph is not None:
            if key is not None or value is not None or need_weights:
                raise ConfigError("over a graph, neither key, value nor need_weights can be given")
            return _core.multihead_attention(query, graph, parameters, heads)
        q = as_tensor("query", query)
        k = q if key is None else as_tensor("key", key)
        v = k if value is None else as_tensor("value", value)
        single = q.ndim == 2
        if single:
            q, k, v = (x.reshape(1, *x.shape) for x in (q, k, v))
        y, weights = _core.dense_attention(q, k, v, parameters, heads)
        y = y.reshape(*y.shape[1:]) if single else y
        if not need_weights:
            return y
        per_head = weights.numpy()
        return y, per_head if single else per_head.reshape(-1, heads, *per_head.shape[1:])

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{self.out_proj.weight.shape[0]}, heads={self.num_heads}"
