"""Graph autoencoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ruvector_gnn import _core
from ruvector_gnn._arguments import as_tensor, typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ShapeError
from ruvector_gnn.losses import bce_with_logits
from ruvector_gnn.nn.init import draw_seed
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ruvector_gnn.nn.init import Input

__all__ = ["GraphAutoencoder", "InnerProductDecoder"]


class InnerProductDecoder(Module):
    """Score pairs of nodes by the inner product of their embeddings, `s_uv = <z_u, z_v>`.

    Takes `z (N, d)` and `edge_index (2, E)`, gives logits `(E,)`.

    >>> InnerProductDecoder()([[1.0, 2.0], [3.0, 4.0]], [[0], [1]]).numpy()
    array([11.], dtype=float32)
    """

    def forward(self, z: Input, edge_index: ArrayLike) -> Tensor:
        """Score the pairs of `edge_index`."""
        z, edges = as_tensor("z", z), _core.int64_array("edge_index", edge_index)
        if edges.ndim != 2 or len(edges) != 2:
            raise ShapeError(f"edge_index must have shape (2, E), got {edges.shape}")
        return (z.index_select(edges[0]) * z.index_select(edges[1])).sum(-1)


class GraphAutoencoder(Module):
    """A graph autoencoder (Kipf & Welling 2016): embeddings from which the edges can be told.

    `z = encoder(x, graph)`, `s_uv = decoder(z, (u, v))`, and the loss is binary cross entropy with target 1
    for the graph's edges and 0 for drawn pairs that no edge joins.

    Args:
        encoder: a module, `encoder(x, graph) -> (N, d)`.
        decoder: a module, `decoder(z, edge_index (2, E)) -> (E,)` logits; by default `InnerProductDecoder()`.

    >>> import numpy as np
    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0], [3], [2]])
    >>> model = GraphAutoencoder(rg.nn.GCNLayer(4, 2, seed=0))
    >>> model(np.eye(4), graph).shape
    (4, 2)
    >>> model.loss(np.eye(4), graph, seed=0).backward()
    """

    @typed
    def __init__(self, encoder: Module, decoder: Module | None = None) -> None:
        """See the class."""
        super().__init__()
        self.encoder = encoder
        self.decoder = InnerProductDecoder() if decoder is None else decoder

    def encode(self, x: Input, graph: Graph) -> Tensor:
        """Embed the nodes: `(N, d)`."""
        z: Tensor = self.encoder(x, graph)
        return z

    def decode(self, z: Input, edge_index: ArrayLike) -> Tensor:
        """Score pairs of nodes: logits `(E,)`, whose sigmoid is the probability of an edge."""
        scores: Tensor = self.decoder(z, edge_index)
        return scores

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Embed the nodes, as `encode`."""
        return self.encode(x, graph)

    def loss(self, x: Input, graph: Graph, num_negatives: int = 1, seed: int | None = None) -> Tensor:
        """Compute how badly edges are told from `num_negatives` drawn pairs per edge.

        Pairs are drawn from `seed`, by default the next one of the sequence that `rg.manual_seed` restarts.
        Raises `ShapeError` for a graph without edges; a complete graph has no other pairs to draw.
        """
        edges = graph.to_edge_index()
        others = _core.negative_edges(edges, graph.num_nodes, num_negatives, draw_seed(seed))
        z = self.encode(x, graph)
        scores = _core.concat([self.decode(z, edges), self.decode(z, others)])
        return bce_with_logits(scores, np.arange(len(scores)) < edges.shape[1])
