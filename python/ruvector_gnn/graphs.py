"""Methods of `Graph` that call SciPy, NetworkX or the index.

NetworkX is imported by the functions that need it, and SciPy by `import_sparse`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ruvector_gnn import _core
from ruvector_gnn._core import Graph, HNSWIndex
from ruvector_gnn._scipy import import_sparse
from ruvector_gnn.errors import ConfigError, ShapeError

__all__ = [
    "from_networkx",
    "knn",
    "laplacian",
    "laplacian_eigenvalues",
    "laplacian_positional_encoding",
    "to_networkx",
]

DENSE = 512
"""Connected parts of at most so many nodes are solved densely."""

RESTARTS = 200
"""Restarts of the Lanczos method, after which it goes on with the inverse of the matrix."""

ADDRESSABLE = 2**47
"""Bytes beyond which no machine has memory."""

SHIFT = -1e-2
"""What is subtracted from the diagonal for that: a Laplacian itself has no inverse."""


def knn(vectors: ArrayLike, k: int, metric: Literal["cosine", "l2", "ip"] = "cosine") -> Graph:
    """See `Graph.knn`."""
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    points = _core.as_array("vectors", vectors)
    if points.ndim != 2:
        raise ShapeError(f"vectors must have shape (n, dim), got {points.shape}")
    index = HNSWIndex(points.shape[1], metric=metric)
    index.add(points)
    count = min(k, max(len(points) - 1, 0))
    # One more than wanted: the nearest is mostly the vector itself, but need not be where vectors are equal.
    rows = index.search(points, k=count + 1, ef=max(128, 2 * count)).rows
    own = rows == np.arange(len(points))[:, None]
    own[~own.any(axis=1), -1:] = True
    neighbors = rows[~own].reshape(len(points), count)
    return Graph.from_csr(np.arange(len(points) + 1) * count, neighbors.ravel())


def from_networkx(graph: Any, weight: str | None = "weight") -> Graph:
    """See `Graph.from_networkx`."""
    names = list(graph.nodes)
    integers = all(isinstance(name, int | np.integer) and not isinstance(name, bool) for name in names)
    for name in names if integers else ():
        if not -(2**63) <= name < 2**63:
            raise ConfigError(f"graph: the node name {name} must fit in 64 bits, with a sign")
    number = {name: place for place, name in enumerate(names)}
    edges = [(number[u], number[v], data.get(weight)) for u, v, data in graph.edges(data=True)]
    if not graph.is_directed():
        edges += [(v, u, value) for u, v, value in edges if u != v]
    index = np.array([edge[:2] for edge in edges], dtype=np.int64).reshape(-1, 2).T
    weights = None
    if any(value is not None for _, _, value in edges):
        weights = [1.0 if value is None else value for _, _, value in edges]
    made = Graph.from_edge_index(index, num_nodes=len(names), weights=weights)
    return made.with_node_ids(names) if integers and names != list(range(len(names))) else made


def to_networkx(graph: Graph) -> Any:
    """See `Graph.to_networkx`."""
    import networkx

    require_square(graph, "to_networkx")
    ids = graph.node_ids
    named = ids is not None and len(np.unique(ids)) == len(ids)
    names = ids.tolist() if ids is not None and named else list(range(graph.num_nodes))
    sources, targets = graph.to_edge_index().tolist()
    pairs = [(names[source], names[target]) for source, target in zip(sources, targets, strict=True)]
    made = networkx.DiGraph() if len(set(pairs)) == len(pairs) else networkx.MultiDiGraph()
    made.add_nodes_from(names)
    weights = graph.weights
    if weights is None:
        made.add_edges_from(pairs)
    else:
        made.add_weighted_edges_from(
            (source, target, value) for (source, target), value in zip(pairs, weights.tolist(), strict=True)
        )
    return made


def require_square(graph: Graph, what: str) -> None:
    """Raise `ShapeError` unless the graph has as many sources as nodes."""
    if graph.num_nodes != graph.num_sources:
        raise ShapeError(
            f"{what}: a graph with as many sources as nodes is needed, "
            f"got {graph.num_nodes} nodes and {graph.num_sources} sources"
        )


def laplacian(graph: Graph, normalized: bool = True) -> Any:
    """See `Graph.laplacian`."""
    sparse = import_sparse()
    require_square(graph, "laplacian")
    directed = graph.to_scipy().astype(np.float64)
    adjacency = ((directed + directed.T) / 2).tocsr()
    degrees = np.asarray(adjacency.sum(axis=1)).ravel()
    matrix = sparse.diags(degrees, format="csr") - adjacency
    if normalized:
        if (degrees < 0).any():
            node = int(np.argmax(degrees < 0))
            raise ConfigError(f"laplacian: node {node} has a negative weight sum, {degrees[node]}")
        factors = np.zeros_like(degrees)
        np.divide(1.0, np.sqrt(degrees), out=factors, where=degrees > 0)
        scale = sparse.diags(factors, format="csr")
        matrix = scale @ matrix @ scale
    return matrix.tocsr()


def laplacian_eigenvalues(graph: Graph, k: int, normalized: bool = True) -> NDArray[np.float64]:
    """See `Graph.laplacian_eigenvalues`."""
    matrix, parts = connected_parts(graph, k, normalized, "laplacian_eigenvalues")
    if len(parts) >= k:
        return np.zeros(k)  # one for each part
    # A part of one node has the eigenvalue 0, whatever its loops weigh.
    found = [np.zeros(0)]
    found += [np.zeros(1) if len(nodes) == 1 else lowest(matrix[nodes][:, nodes], k)[0] for nodes in parts]
    return np.sort(np.concatenate(found))[:k]


def laplacian_positional_encoding(graph: Graph, k: int) -> NDArray[np.float32]:
    """See `Graph.laplacian_positional_encoding`."""
    matrix, parts = connected_parts(graph, k, True, "laplacian_positional_encoding")
    if graph.num_nodes * k >= ADDRESSABLE // 4:
        raise ConfigError(f"k must fit in memory, got {k} values for each of {graph.num_nodes} nodes")
    encoding = np.zeros((graph.num_nodes, k), dtype=np.float32)
    for nodes in parts:
        if len(nodes) > 1:
            vectors = lowest(matrix[nodes][:, nodes], k + 1)[1][:, 1:]
            largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
            encoding[nodes, : vectors.shape[1]] = vectors * np.where(largest < 0, -1, 1)
    return encoding


def connected_parts(graph: Graph, k: int, normalized: bool, what: str) -> tuple[Any, list[NDArray[np.int64]]]:
    """The Laplacian, and the nodes of each connected part."""
    import_sparse()
    from scipy.sparse.csgraph import connected_components

    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    weights = graph.weights
    if weights is not None and (weights < 0).any():
        raise ConfigError(f"{what}: weights must not be negative, got {weights.min()}")
    matrix = laplacian(graph, normalized)
    count, numbers = connected_components(matrix, directed=False)
    ends = np.cumsum(np.bincount(numbers, minlength=count))
    return matrix, np.split(np.argsort(numbers, kind="stable"), ends[:-1]) if count else []


def lowest(matrix: Any, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest `k` eigenvalues of a connected graph's Laplacian, rising, and their vectors as columns.

    Rounding does not make values negative.
    """
    nodes = matrix.shape[0]
    if nodes <= DENSE or k >= nodes - 1:
        import scipy.linalg

        values, vectors = scipy.linalg.eigh(matrix.toarray(), subset_by_index=(0, min(k, nodes) - 1))
    else:
        import scipy.sparse.linalg

        start = np.random.default_rng(0).standard_normal(nodes)
        try:
            values, vectors = scipy.sparse.linalg.eigsh(matrix, k, which="SA", v0=start, maxiter=RESTARTS)
        except scipy.sparse.linalg.ArpackNoConvergence:
            # Values close to each other, as in chains and grids, whose matrices have sparse factors.
            values, vectors = scipy.sparse.linalg.eigsh(matrix.tocsc(), k, sigma=SHIFT, which="LM", v0=start)
        order = np.argsort(values)
        values, vectors = values[order], vectors[:, order]
    return np.maximum(np.asarray(values, dtype=np.float64), 0.0), np.asarray(vectors, dtype=np.float64)
