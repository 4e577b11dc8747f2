"""Search through a graph encoder of the caller's."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ruvector_gnn._core import Graph
from ruvector_gnn.db.live import Live, Ranking, Rows
from ruvector_gnn.db.vectors import Vectors
from ruvector_gnn.errors import ShapeError

Encoder = Callable[[Vectors, Graph], npt.ArrayLike]

CANDIDATES = 64  # at least this many, and four for each hit asked for
NEIGHBOURS = 16  # how many documents the query listens to: the links that the index would give it


def rank_encoded(live: Live, query: Vectors, encode: Encoder, k: int) -> Ranking:
    """Retrieve candidates, encode them and the query on their own part of the graph, rank by cosine.

    The query joins the graph as if it had been inserted: it listens to its nearest documents, while documents
    listen only to documents, so their codes do not depend on who asks. Each document is encoded within the
    subgraph of the candidates, which costs the same in a collection of any size.
    """
    nearest = live.rank(query, max(CANDIDATES, 4 * k), live.living, learned=False).rows
    if not len(nearest):
        return Ranking(nearest, np.empty(0, dtype=np.float32))
    features = np.vstack([np.asarray(live.index.vectors(nearest), dtype=np.float32), query])
    codes = np.asarray(encode(features, _joined(live, nearest)), dtype=np.float32)
    if codes.ndim != 2 or len(codes) != len(features) or not np.isfinite(codes).all():
        raise ShapeError(f"gnn: gave shape {codes.shape}, expected {len(features)} finite rows, one per node")
    codes /= np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-12)
    scores = codes[:-1] @ codes[-1]
    order = np.argsort(-scores, kind="stable")[:k]
    return Ranking(nearest[order], scores[order])


def _joined(live: Live, nearest: Rows) -> Graph:
    """The candidates' subgraph, with the query as its last node."""
    query = len(nearest)
    heard = np.arange(min(NEIGHBOURS, query))
    to_query = np.vstack([heard, np.full_like(heard, query)])
    edges = np.hstack([_edges_among(live.graph(), nearest), to_query])
    return Graph.from_edge_index(edges, num_nodes=query + 1)


def _edges_among(graph: Graph, nodes: Rows) -> Rows:
    """Edges (2, e), source above target, whose ends both are in `nodes`, numbered by their places there."""
    place = {int(node): number for number, node in enumerate(nodes)}
    edges = [
        (place[source], target)
        for node, target in place.items()
        for source in graph.neighbors(node).tolist()
        if source in place
    ]
    found: Rows = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    return found


def living_graph(live: Live) -> Graph:
    """The index's graph without dead rows, its nodes numbered anew."""
    graph, living = live.graph(), live.living
    if living is None:
        return graph
    place = np.full(graph.num_nodes, -1)
    place[living] = np.arange(len(living))
    edges = place[graph.to_edge_index()]
    kept = (edges >= 0).all(axis=0)
    return Graph.from_edge_index(edges[:, kept], num_nodes=len(living)).with_node_ids(living)
