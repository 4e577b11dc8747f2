"""Search with gradients, and embedding a whole collection in blocks."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ruvector_gnn import _core
from ruvector_gnn._arguments import as_tensor, integer
from ruvector_gnn._core import Graph, HNSWIndex, Tensor
from ruvector_gnn._progress import watch
from ruvector_gnn.errors import ConfigError, ShapeError
from ruvector_gnn.nn.module import Module, evaluation

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from ruvector_gnn._progress import Callback
    from ruvector_gnn.nn.init import Input

    Layer = Callable[[Tensor, Graph], Tensor]
    _Level = tuple[NDArray[np.int64], Tensor]

__all__ = ["GNNEmbedder", "HierarchicalSearch", "differentiable_search", "hierarchical_forward"]

_BLOCK = 8192


def _rows(query: Input) -> tuple[Tensor, bool]:
    """Queries as a matrix, and whether it was one."""
    rows = as_tensor("query", query)
    if rows.ndim == 1:
        return rows.reshape(1, -1), False
    if rows.ndim != 2:
        raise ShapeError(f"query must have 1 or 2 dimensions, got shape {rows.shape}")
    return rows, True


def differentiable_search(
    query: Input, candidates: Input, k: int, temperature: float = 1.0
) -> tuple[NDArray[np.int64], Tensor]:
    """Choose candidates softly: a softmax over their cosine similarities, of which the `k` largest are kept.

    `w_j = e^(cos(q, c_j) / t) / sum_i e^(cos(q, c_i) / t)` with the sum over **all** candidates: the weights
    kept need not sum to 1. Cosines span only [-1, 1], so at temperature 1 the weights are nearly uniform; 0.1
    or less makes a choice. Gradients flow to query and candidates; the cosine with a zero vector is 0.

    Args:
        query: `(d,)` or `(B, d)`.
        candidates: `(n, d)`, at least one.
        k: how many to keep; beyond `n` all are kept.
        temperature: from 1e-25 to 1e25.

    Returns:
        indices, best first, ties by lower row, and their weights: `(min(k, n),)` or `(B, min(k, n))`.

    Raises `ShapeError` for shapes that do not fit, `ConfigError` for `k < 1` or a bad temperature.

    >>> indices, weights = differentiable_search([1.0, 0.0], [[0.0, 1.0], [2.0, 0.0]], k=1, temperature=0.1)
    >>> indices, bool(weights.numpy()[0] > 0.999)
    (array([1]), True)
    """
    queries, many = _rows(query)
    indices, weights = _core.differentiable_search(queries, candidates, integer("k", k), temperature)
    return (indices, weights) if many else (indices[0], weights.reshape(-1))


def hierarchical_forward(
    query: Input,
    level_embeddings: Sequence[Input],
    layers: Sequence[Layer],
    k: int,
    temperature: float = 1.0,
) -> Tensor:
    """Take a query down the levels of a hierarchy, top first.

    At each level `differentiable_search` chooses `k` rows; the state moves halfway to their weighted sum,
    `s = (s + sum_j w_j c_j) / 2`; and the level's layer updates it from the rows chosen: `layer(x, graph)`
    with the states in the first rows of `x`, the rows chosen behind them, and a graph in which each state's
    node aggregates from its rows, with the weights `w_j` as edge weights. A `RuvectorLayer` thus computes
    what the `ruvector` package does for a node, its neighbours and their weights. Gradients flow to the
    query, the embeddings and the layers' parameters; edge weights enter a layer as constants.

    Args:
        query: `(d,)` or `(B, d)`.
        level_embeddings: one `(n_l, d_l)` per level; `d_l` is what the layer above gives.
        layers: as many, each called as `layer(x, graph)`.
        k: rows to choose at each level; fewer where a level has fewer.
        temperature: of the softmax, from 1e-25 to 1e25.

    Returns the last state, `(out,)` or `(B, out)`. Raises `ConfigError` unless there is one layer per level.

    >>> import ruvector_gnn as rg
    >>> levels = [[[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]]
    >>> layers = [rg.nn.RuvectorLayer(2, 2, 1, seed=0), rg.nn.RuvectorLayer(2, 3, 1, seed=1)]
    >>> hierarchical_forward([0.8, 0.6], levels, layers, k=2).shape
    (3,)
    """
    if len(level_embeddings) != len(layers) or not layers:
        counts = f"{len(level_embeddings)} levels and {len(layers)} layers"
        raise ConfigError(f"hierarchical_forward needs one layer per level, got {counts}")
    states, many = _rows(query)
    k = integer("k", k)
    for candidates, layer in zip(level_embeddings, layers, strict=True):
        x, graph = _core.gather_level(states, candidates, k, temperature)
        states = layer(x, graph).slice(0, len(states))
    return states if many else states.reshape(-1)


class HierarchicalSearch:
    """`hierarchical_forward` over the levels of an index, and search with the query that comes out of it.

    The vectors of each level's rows are its embeddings, from the top level down to level 0, which holds all
    rows. Similarities are cosines, whatever the metric of the index. The index may grow: vectors are read
    again when it has changed, and must fit in memory twice.

    Args:
        index: the `HNSWIndex`.
        layers: modules `layer(x, graph)`, top level first, at least one per level of the index; with fewer
            levels the last ones are used. All but the last keep the width of the vectors, and for `search`
            the last one too.

    >>> import numpy as np
    >>> import ruvector_gnn as rg
    >>> index = rg.HNSWIndex(4)
    >>> rows = index.add(np.random.default_rng(0).normal(size=(50, 4)))
    >>> layers = [rg.nn.RuvectorLayer(4, 4, 2, seed=level) for level in range(index.levels)]
    >>> rows, weights = HierarchicalSearch(index, layers).search([1.0, 0.0, 0.0, 0.0], k=5, temperature=0.1)
    >>> rows.shape, weights.shape
    ((5,), (5,))
    """

    def __init__(self, index: HNSWIndex, layers: Sequence[Layer]) -> None:
        """See the class."""
        self.index, self.layers = index, list(layers)
        self._lock = threading.Lock()
        self._read: tuple[int, list[_Level]] | None = None

    def _levels(self) -> list[_Level]:
        """Rows and vectors of each level, top first."""
        if len(self.index) == 0:
            raise ConfigError("the index is empty: there is nothing to search")
        levels = self.index.levels
        if levels > len(self.layers):
            raise ConfigError(f"the index has {levels} levels, but there are {len(self.layers)} layers")
        fingerprint = self.index.fingerprint
        with self._lock:
            if self._read is None or self._read[0] != fingerprint:
                read = []
                for level in reversed(range(levels)):
                    rows = self.index.graph(level).node_ids
                    assert rows is not None
                    read.append((rows, Tensor(self.index.vectors(rows))))
                self._read = (fingerprint, read)
            return self._read[1]

    def forward(self, query: Input, k: int = 10, temperature: float = 1.0) -> Tensor:
        """Take queries `(d,)` or `(B, d)` down the index: the last layer's state, `(out,)` or `(B, out)`.

        Gradients flow to the query and to the layers' parameters.
        """
        return self._walk(self._levels(), query, k, temperature)

    def _walk(self, levels: list[_Level], query: Input, k: int, temperature: float) -> Tensor:
        layers = self.layers[len(self.layers) - len(levels) :]
        return hierarchical_forward(query, [vectors for _, vectors in levels], layers, k, temperature)

    def search(self, query: Input, k: int = 10, temperature: float = 1.0) -> tuple[NDArray[np.int64], Tensor]:
        """Choose the rows whose vectors suit what `forward` makes of the query, best first.

        Returns row numbers and weights, `(k,)` or `(B, k)`, fewer where the index holds fewer; gradients flow
        through the weights to the query and to all layers.
        """
        levels = self._levels()
        rows, vectors = levels[-1]
        state = self._walk(levels, query, k, temperature)
        places, weights = differentiable_search(state, vectors, k, temperature)
        return rows[places], weights

    def __repr__(self) -> str:
        """Show the index and the number of layers."""
        return f"HierarchicalSearch({self.index!r}, {len(self.layers)} layers)"


def _takes_graph(module: Module) -> bool:
    """Whether `forward` has a parameter that is a graph, by name or annotation."""
    parameters = inspect.signature(module.forward).parameters.values()
    return any(p.name in ("graph", "g") or "Graph" in str(p.annotation) for p in parameters)


def _count_hops(module: Module) -> int:
    """Modules that look at neighbours themselves: their `forward` takes a graph, and no part's does."""
    inside = sum(_count_hops(part) for part in module._modules.values())
    return inside or int(_takes_graph(module))


class GNNEmbedder:
    """Embed every node of a graph in blocks, with vectors that need not fit in memory.

    A block's embeddings depend on the nodes within `num_hops` edges of it; only their vectors are read, and
    the module runs on their part of the graph, whose rows and degrees are those of the whole: the result is
    that of `gnn(vectors, graph)`, for modules in which a node sees the graph through its neighbours only.
    It runs in evaluation, without a tape.

    Args:
        gnn: a module, `gnn(x, graph) -> (N, out_dim)`.
        num_hops: how many layers look at neighbours. By default the parts of `gnn` are counted whose
            `forward` takes a graph; give it where a part runs more than once.

    >>> import numpy as np
    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1], []])
    >>> layer = rg.nn.GCNLayer(3, 2, seed=0)
    >>> x = np.arange(12.0).reshape(4, 3)
    >>> embedded = GNNEmbedder(layer).encode(x, graph, batch_size=1)
    >>> bool(np.allclose(embedded, layer(x, graph).numpy()))
    True
    """

    def __init__(self, gnn: Module, num_hops: int | None = None) -> None:
        """See the class."""
        if num_hops is None:
            if not _takes_graph(gnn):
                name = type(gnn).__name__
                raise ConfigError(f"the forward of {name} takes no graph: give num_hops")
            num_hops = _count_hops(gnn)
        if num_hops < 0:
            raise ConfigError(f"num_hops must be at least 0, got {num_hops}")
        self.gnn, self.num_hops = gnn, num_hops

    def encode(
        self,
        vectors: ArrayLike,
        graph: Graph,
        batch_size: int | None = None,
        out: NDArray[np.float32] | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> NDArray[np.float32]:
        """Embed all nodes.

        Args:
            vectors: `(N, dim)`, one row per node of `graph`; an `np.memmap` is read row by row.
            graph: the graph.
            batch_size: nodes per block, 8,192 by default.
            out: where to write, `(N, out_dim)`, for instance an `np.memmap`; by default a new array.
            progress: show a bar.
            callback: called as `callback(nodes done, metrics)`.

        Returns `out`. Raises `ShapeError` for shapes that do not fit, and for vectors that are not finite
        when their block is reached: `out` holds the blocks before.
        """
        table = _core.as_array("vectors", vectors)
        if table.ndim != 2 or len(table) != graph.num_nodes:
            raise ShapeError(f"vectors of shape {table.shape} for a graph of {graph.num_nodes} nodes")
        size = _BLOCK if batch_size is None else batch_size
        if size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if len(table) == 0:
            raise ShapeError("vectors must have at least one row")
        step = watch(progress, callback, "encode")
        for start in range(0, len(table), size):
            nodes = np.arange(start, min(start + size, len(table)))
            block = self._encode_block(table, graph, nodes)
            out = self._room(out, (len(table), block.shape[1]))
            out[nodes[0] : nodes[-1] + 1] = block
            if step is not None:
                step(len(nodes) + start, len(table), {})
        assert out is not None
        return out

    def _encode_block(
        self, table: NDArray[np.generic], graph: Graph, nodes: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        field, part, places = _core.receptive_field(graph, nodes, self.num_hops)
        with evaluation(self.gnn):
            embedded: Tensor = self.gnn(Tensor(table[field]), part)
            if embedded.ndim != 2 or len(embedded) != len(field):
                raise ShapeError(f"the module gave shape {embedded.shape} for {len(field)} nodes")
            return embedded.index_select(places).numpy()

    @staticmethod
    def _room(out: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.float32]:
        if out is None:
            return np.empty(shape, np.float32)
        if out.shape != shape:
            raise ShapeError(f"out has shape {out.shape}, expected {shape}")
        return out

    def __repr__(self) -> str:
        """Show the module and its reach."""
        return f"GNNEmbedder({type(self.gnn).__name__}, num_hops={self.num_hops})"
