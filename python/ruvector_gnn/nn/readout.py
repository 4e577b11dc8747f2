"""Readouts: one row per graph of a batch, from the rows of its nodes.

A batch is what `Graph.batch` gives: a graph and, per node, the number of the graph that it belongs to.
`size` is the number of graphs; without it, one more than the largest number. A graph without nodes gives 0.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from ruvector_gnn import _core
from ruvector_gnn._arguments import as_tensor, integer, typed
from ruvector_gnn._core import Tensor
from ruvector_gnn.errors import ShapeError
from ruvector_gnn.nn.dense import Linear
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["AttentionPool", "global_max_pool", "global_mean_pool", "global_sum_pool"]


def global_sum_pool(x: Input, batch: ArrayLike, size: int | None = None) -> Tensor:
    """Sum the rows of each graph: `x (N, d)`, `batch (N,)` to `(size, d)`.

    >>> global_sum_pool([[1.0], [2.0], [5.0]], [0, 0, 1]).numpy()
    array([[3.],
           [5.]], dtype=float32)
    """
    return _core.segment_sum(x, batch, _count(batch, size))


def global_mean_pool(x: Input, batch: ArrayLike, size: int | None = None) -> Tensor:
    """Average the rows of each graph: `x (N, d)`, `batch (N,)` to `(size, d)`.

    >>> global_mean_pool([[1.0], [2.0], [5.0]], [0, 0, 2]).numpy()
    array([[1.5],
           [0. ],
           [5. ]], dtype=float32)
    """
    return _core.segment_mean(x, batch, _count(batch, size))


def global_max_pool(x: Input, batch: ArrayLike, size: int | None = None) -> Tensor:
    """Take the largest value of each column of each graph: `x (N, d)`, `batch (N,)` to `(size, d)`.

    Equal largest values share the gradient evenly, zeros too, as PyTorch's `scatter_reduce("amax",
    include_self=False)`. PyG's pool counts the 0 that it starts from as a value: there, rows whose largest
    value is 0 share the gradient with it and get less.

    >>> global_max_pool([[1.0], [2.0], [-5.0]], [0, 0, 1]).numpy()
    array([[ 2.],
           [-5.]], dtype=float32)
    """
    return _core.segment_max(x, batch, _count(batch, size))


class AttentionPool(Module):
    """Global attention (Li et al. 2016), as PyG's `AttentionalAggregation`.

    `out_g = sum_i a_i nn(x_i)` with `a = softmax of gate_nn(x_i)` over the nodes of each graph. `gate_nn`
    gives one score per row, by default a `Linear(dim, 1)`; without `nn`, the rows are taken as they are.

    >>> pool = AttentionPool(3, seed=0)
    >>> pool([[1.0, 2.0, 3.0]] * 4, [0, 0, 1, 1]).numpy()
    array([[1., 2., 3.],
           [1., 2., 3.]], dtype=float32)
    """

    @typed
    def __init__(
        self,
        dim: int,
        gate_nn: Module | None = None,
        nn: Module | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        self.gate_nn = gate_nn if gate_nn is not None else Linear(dim, 1, seed=seed)
        self.nn = nn

    def forward(self, x: Input, batch: ArrayLike, size: int | None = None) -> Tensor:
        """Pool `x (N, dim)` by `batch (N,)` to `(size, ..)`."""
        x = as_tensor("x", x)
        rows = x if self.nn is None else self.nn(x)
        return _core.attention_pool(self.gate_nn(x), rows, batch, _count(batch, size))


def _count(batch: ArrayLike, size: int | None) -> int:
    if size is not None:
        return integer("size", size)
    numbers = _core.as_array("batch", batch)
    if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
        given = reprlib.repr(batch)
        raise ShapeError(f"batch must hold the number of each row's graph, (N,) integers, got {given}")
    return int(numbers.max(initial=-1)) + 1
