"""Parts of a graph of about equal size, with few edges between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ruvector_gnn._core import Block, Graph
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.graphs import require_square

__all__ = ["Partition", "partition"]

LARGEST = 1000
"""METIS takes whole numbers as weights: the largest weight becomes this one."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Which of `num_parts` parts each node of a graph is in, as `Graph.partition` gives.

    `assignment (N,)` holds the number of each node's part.

    >>> import ruvector_gnn as rg
    >>> ring = rg.Graph.from_adjacency([[1, 5], [0, 2], [1, 3], [2, 4], [3, 5], [4, 0]])
    >>> halves = Partition(ring, np.array([0, 0, 0, 1, 1, 1]), 2)
    >>> halves.nodes(1), halves.halo(1), halves.edge_cut
    (array([3, 4, 5]), array([0, 2]), 4)
    """

    graph: Graph
    assignment: NDArray[np.int64]
    num_parts: int

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The number of nodes of each part, `(num_parts,)`."""
        return np.bincount(self.assignment, minlength=self.num_parts)

    @property
    def edge_cut(self) -> int:
        """The number of the graph's edges whose ends are in two parts."""
        sources, targets = self.graph.to_edge_index()
        return int((self.assignment[sources] != self.assignment[targets]).sum())

    def nodes(self, part: int) -> NDArray[np.int64]:
        """The nodes of a part, rising."""
        if not 0 <= part < self.num_parts:
            raise ConfigError(f"part must be from 0 to {self.num_parts - 1}, got {part}")
        return np.flatnonzero(self.assignment == part)

    def halo(self, part: int, hops: int = 1) -> NDArray[np.int64]:
        """The nodes of other parts that `hops` layers on the part's nodes see, rising."""
        own = self.nodes(part)
        return np.setdiff1d(self.graph.k_hop(own, hops), own)

    def block(self, part: int) -> Block:
        """What one layer needs to compute the part's nodes: these as targets, they and their halo as sources.

        A layer on `x[block.source_nodes]` gives the rows that it gives for `nodes(part)` on the whole graph.
        Layers in which a node sees more than its neighbours refuse a block, as `GraphTransformerLayer`.
        """
        return self.graph.sample(self.nodes(part), [None], 0)[0]


def partition(graph: Graph, k: int, method: Literal["metis"] = "metis", seed: int = 0) -> Partition:
    """See `Graph.partition`."""
    if method != "metis":
        raise ConfigError(f"method must be 'metis', got {method!r}")
    require_square(graph, "partition")
    if not 1 <= k <= max(graph.num_nodes, 1):
        raise ConfigError(f"k must be from 1 to the {graph.num_nodes} nodes, got {k}")
    if k == 1:
        return Partition(graph, np.zeros(graph.num_nodes, dtype=np.int64), 1)
    if k == graph.num_nodes:
        return Partition(graph, np.arange(k), k)
    try:
        import pymetis
    except ImportError as error:
        raise ImportError("partition needs pymetis: pip install 'ruvector_gnn[partition]'") from error
    weights = graph.weights
    if weights is not None and (weights < 0).any():
        raise ConfigError(f"partition: weights must not be negative, got {weights.min()}")
    matrix = both_directions(graph)
    whole = np.maximum(np.rint(matrix.data * (LARGEST / matrix.data.max(initial=1e-30))), 1).astype(np.int64)
    found = pymetis.part_graph(
        k,
        pymetis.CSRAdjacency(matrix.indptr, matrix.indices),
        eweights=None if weights is None else whole.tolist(),
        options=pymetis.Options(seed=seed % 2**31),  # METIS takes 31 bits
    )
    return Partition(graph, np.asarray(found.vertex_part, dtype=np.int64), k)


def both_directions(graph: Graph) -> Any:
    """Each edge in both directions, weights summed, without self loops: what METIS takes."""
    directed = graph.to_scipy().astype(np.float64)
    matrix = (directed + directed.T).tocsr()
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix
