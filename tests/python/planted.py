"""A planted-partition graph: nodes of one group are joined more often than others."""

from __future__ import annotations

import numpy as np
import ruvector_gnn as rg


def planted(
    groups: int = 4,
    size: int = 40,
    inside: float = 0.25,
    outside: float = 0.02,
    dim: int = 16,
    signal: float = 0.5,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features `(N, dim)` that know `signal` of the group, edges `(2, E)` in both directions, the groups."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(groups), size)
    chance = np.where(labels[:, None] == labels, inside, outside)
    upper = np.triu(rng.random(chance.shape) < chance, 1)
    x = rng.normal(size=(len(labels), dim)) + signal * rng.normal(size=(groups, dim))[labels]
    return x.astype(np.float32), np.stack(np.nonzero(upper | upper.T)), labels


def graph_of(edges: np.ndarray, nodes: int) -> rg.Graph:
    return rg.Graph.from_edge_index(edges, nodes)
