"""Layers of one's own, from what an edge sends and what a node makes of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ruvector_gnn import _core
from ruvector_gnn._arguments import as_tensor, typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError, ShapeError
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    pass

__all__ = ["MessagePassing"]


def _send(self: MessagePassing, x_j: Tensor) -> Tensor:
    """Per edge, what the neighbour sends, `(E, ..)`: its own row."""
    return x_j


def _keep(self: MessagePassing, aggregated: Tensor) -> Tensor:
    """Per node, the result: what was aggregated. Further arguments are features by name."""
    return aggregated


class MessagePassing(Module):
    """Base class of layers that pass messages along edges (Gilmer et al. 2017), used as PyG's.

    `out_i = update(aggregate_j message(x_i, x_j, e_ij))`. A subclass calls `self.propagate(graph, x=x, ...)`
    and defines `message` (by default the neighbour's row `x_j`), and where needed `aggregate` and `update`.
    What these are given follows from the names of their arguments:

    - `x_j`, `x_i`: per edge, the rows of the neighbour and of the node that aggregates, of the feature `x`
      handed to `propagate`; the same for any other name. `x` holds a row per source: over a block, the
      first are those of the nodes that aggregate. A pair `x=(sources, targets)` gives both ends rows of
      their own.
    - `edge_attr`, and any name that begins with `edge_`: per edge, handed over in the order in which the
      edges were given to the graph. `edge_weight` is the graph's own weights `(E,)` (1 in a graph without)
      unless handed over.
    - `graph`; and any other feature, as it was handed over.

    Everything per edge stands in the graph's row order, which is what `rg.edge_softmax` wants. Messages are
    `(E, ..)`; `aggr` is "sum", "mean", "max" or "softmax".

    >>> import ruvector_gnn as rg
    >>> from ruvector_gnn import nn
    >>> class Convolution(nn.MessagePassing):
    ...     def __init__(self):
    ...         super().__init__(aggr="mean")
    ...         self.map = nn.Linear(4, 2, seed=0)
    ...     def forward(self, x, graph):
    ...         return self.propagate(graph, x=self.map(x))
    ...     def message(self, x_i, x_j, edge_weight):
    ...         return edge_weight.reshape(-1, 1) * (x_j - x_i)
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> Convolution()([[1.0] * 4] * 3, graph).shape
    (3, 2)
    """

    @typed
    def __init__(self, aggr: Literal["sum", "mean", "max", "softmax"] = "sum") -> None:
        """See the class."""
        super().__init__()
        if aggr not in ("sum", "mean", "max", "softmax"):
            raise ConfigError(f"aggr must be 'sum', 'mean', 'max' or 'softmax', got {aggr!r}")
        self.aggr = aggr

    # Subclasses name the arguments that they want: the signatures are open.
    message: Callable[..., Tensor] = _send
    update: Callable[..., Tensor] = _keep

    def aggregate(self, messages: Tensor, graph: Graph) -> Tensor:
        """Per node, one row from its messages: `(E, ..)` to `(N, ..)`; 0 without neighbours."""
        shape = messages.shape
        rows = messages if messages.ndim == 2 else messages.reshape(shape[0], int(np.prod(shape[1:])))
        return _core.aggregate_edges(rows, graph, self.aggr).reshape(graph.num_nodes, *shape[1:])

    def propagate(self, graph: Graph, **features: Any) -> Tensor:
        """Send, aggregate and update over `graph`."""
        wanted = [_names(self.message), _names(self.update)[1:]]
        used = {name for names in wanted for name in names}
        unused = [name for name in features if not used & {name, f"{name}_i", f"{name}_j"}]
        if unused:
            raise ConfigError(f"propagate: neither message nor update has an argument for {unused}")
        sent, updated = ({name: _argument(name, graph, features) for name in names} for names in wanted)
        messages = self.message(**sent)
        if not isinstance(messages, Tensor) or messages.shape[:1] != (graph.num_edges,):
            given = f"shape {messages.shape}" if isinstance(messages, Tensor) else type(messages).__name__
            raise ShapeError(f"message must give a Tensor of {graph.num_edges} rows, got {given}")
        return self.update(self.aggregate(messages, graph), **updated)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"aggr={self.aggr!r}"


def _names(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def _argument(name: str, graph: Graph, features: dict[str, Any]) -> Any:
    """What an argument of that name is given."""
    if name == "graph":
        return graph
    base, side = name[:-2], name[-2:]
    if side in ("_i", "_j") and base in features:
        return _ends(base, side, graph, features[base])
    if name not in features:
        if name == "edge_weight":
            weights = graph.weights
            return Tensor(np.ones(graph.num_edges) if weights is None else weights)
        raise ConfigError(f"propagate: {name} is wanted, but only {sorted(features)} were given")
    if not name.startswith("edge_") or features[name] is None:
        return features[name]
    values = as_tensor(name, features[name])
    if values.shape[:1] != (graph.num_edges,):
        raise ShapeError(f"propagate: {name} of shape {values.shape} for {graph.num_edges} edges")
    return values.index_select(graph.edge_order)


def _ends(name: str, side: str, graph: Graph, value: Any) -> Tensor:
    """Per edge, the rows of one of its ends."""
    sources = side == "_j"
    pair = isinstance(value, tuple)
    rows = as_tensor(name, value[0 if sources else 1] if pair else value)
    count = graph.num_nodes if pair and not sources else graph.num_sources
    if rows.shape[:1] != (count,):
        raise ShapeError(f"propagate: {name} of shape {rows.shape} for {count} nodes")
    if sources:
        return rows.index_select(graph.indices)
    return rows.index_select(np.repeat(np.arange(graph.num_nodes), graph.degrees))
