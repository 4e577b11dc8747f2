"""Search through a graph encoder of the caller's."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ruvector_gnn import _core
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.db.live import Live, Ranking
from ruvector_gnn.db.vector_file import Rows
from ruvector_gnn.db.vectors import Vectors
from ruvector_gnn.errors import ConfigError, ShapeError
from ruvector_gnn.nn.module import Module, evaluation
from ruvector_gnn.search import GNNEmbedder

Encode = Callable[[Vectors, Graph], npt.ArrayLike | Tensor]
Encoder = GNNEmbedder | Module | Encode

CANDIDATES = 64  # at least this many, and four for each hit asked for
NEIGHBOURS = 16  # how many documents the query listens to: the links that the index would give it


def encoder_of(gnn: Encoder) -> Encode:
    """Return how the caller's encoder is called; raises `ConfigError` for what is none."""
    if isinstance(gnn, GNNEmbedder):
        return gnn.encode
    if isinstance(gnn, Module):
        module = gnn

        def encode(x: Vectors, graph: Graph) -> Tensor:
            with evaluation(module):
                codes: Tensor = module(x, graph)
                return codes

        return encode
    if not callable(gnn):
        raise ConfigError(f"gnn must be a GNNEmbedder, a module or a callable, got {type(gnn).__name__}")
    return gnn


def rank_encoded(live: Live, query: Vectors, encode: Encode, k: int) -> Ranking:
    """Retrieve candidates, encode them and the query on their own part of the graph, rank by cosine.

    The query joins the graph as if it had been inserted: it listens to its nearest documents, while documents
    listen only to documents, so their codes do not depend on who asks. Each document is encoded within the
    subgraph of the candidates, which costs the same in a collection of any size.
    """
    with live.unchanged():
        nearest = live.rank(query, max(CANDIDATES, 4 * k), None, learned=False).rows
        if not len(nearest):
            return Ranking(nearest, np.empty(0, dtype=np.float32))
        features = np.vstack([live.index.vectors(nearest), query])
        graph = _joined(live.graph(), nearest)
    given = encode(features, graph)
    codes = _core.as_array("gnn", given.detach() if isinstance(given, Tensor) else given).astype(np.float32)
    if codes.ndim != 2 or len(codes) != len(features) or not np.isfinite(codes).all():
        raise ShapeError(f"gnn: gave shape {codes.shape}, expected {len(features)} finite rows, one per node")
    codes /= np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-12)
    scores = codes[:-1] @ codes[-1]
    order = np.argsort(-scores, kind="stable")[:k]
    return Ranking(nearest[order], scores[order])


def _joined(graph: Graph, nearest: Rows) -> Graph:
    """The candidates' subgraph, with the query as its last node."""
    query = len(nearest)
    heard = np.arange(min(NEIGHBOURS, query))
    to_query = np.vstack([heard, np.full_like(heard, query)])
    edges = np.hstack([_edges_among(graph, nearest), to_query])
    return Graph.from_edge_index(edges, num_nodes=query + 1)


def _edges_among(graph: Graph, rows: Rows) -> Rows:
    """Edges (2, e), source above target, whose ends both are in `rows`, numbered by their places there."""
    nodes = np.searchsorted(np.asarray(graph.node_ids), rows)
    place = {int(node): number for number, node in enumerate(nodes)}
    edges = [
        (place[source], target)
        for node, target in place.items()
        for source in graph.neighbors(node).tolist()
        if source in place
    ]
    found: Rows = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    return found
